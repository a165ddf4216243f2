"""Never run: every verb of a session, with every overload, and what managers, filters, events and stores give."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typing_extensions import assert_type

from tests.typing.shapes import Cart, cart, counts, database, messages, names, note, numbers, visits
from typed_sessions import (
    AnyKey,
    AsyncFinish,
    AsyncSessionManager,
    AsyncStore,
    Begin,
    Client,
    End,
    Finish,
    LostUpdate,
    MemoryStore,
    Request,
    Session,
    SessionList,
    SessionManager,
    SessionView,
    SetCookie,
    SQLiteStore,
    Store,
    current_session,
    open_async_store,
    open_store,
    redirect,
)
from typed_sessions.filters import asgi, http_server, starlette, wsgi
from typed_sessions.filters.bottle import SessionPlugin
from typed_sessions.filters.decorators import from_session, with_session
from typed_sessions.filters.fastapi import CurrentSession, FromSession, request_session
from typed_sessions.stores.postgres import AsyncPostgresStore, PostgresStore
from typed_sessions.stores.redis import AsyncRedisStore, RedisStore
from typed_sessions.testing import FakeClock, alogin, check_async_store, check_store, login

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment


def increased(n: int) -> int:
    return n + 1


def access(session: Session, text: str) -> None:
    assert_type(session.get(visits), int | None)
    assert_type(session.get(visits, 0), int)
    assert_type(session.get(visits, text), int | str)
    assert_type(session.get(names, []), list[str])
    assert_type(session.get(note), str | None)
    assert_type(session.get(note, ""), str | None)
    assert_type(session.pop(visits), int)
    assert_type(session.pop(visits, 0), int)
    assert_type(session.pop(visits, None), int | None)
    assert_type(session.pop(names, []), list[str])
    assert_type(session.setdefault(cart, Cart), Cart)
    assert_type(session.setdefault(names, lambda: ["a"]), list[str])
    assert_type(session.update(visits, increased), int)
    assert_type(session.update(visits, lambda n: n + 1, default=0), int)
    assert_type(session.update(cart, lambda c: Cart([*c.items, "x"]), default=Cart()), Cart)
    assert_type(sorted(session[names]), list[str])
    assert_type(", ".join(session[names]), str)
    assert_type(list(enumerate(session.get(names, []))), list[tuple[int, str]])
    assert_type(sum(session.pop(numbers)), int)
    wider: Sequence[str] = session[names]
    mapping: Mapping[str, int] = session[counts]
    assert_type(wider[0] + str(mapping["a"]), str)
    assert_type(visits in session, bool)
    assert_type(iter(session), Iterator[AnyKey])
    session[visits] = 1
    session[visits] += 1
    session[note] = None
    session[names].append("a")
    session[cart].items.append("a")
    session[messages].append("a")
    session[messages].prepend("a")
    assert_type(session[messages].remove_where(lambda text: text == "a", first=True), int)
    session[messages].clear()
    assert_type(len(session[messages]), int)
    assert_type([text.upper() for text in session[messages]], list[str])
    del session[visits]
    del session[messages]


def state(session: Session) -> None:
    session.require(lambda s: visits in s, error=redirect("/login"))
    session.require(lambda s: s[visits] > 1, error=(403, []))
    session.renew()
    session.renew(overlap=30, clear=True)
    session.end()
    assert_type(session.timeout, float | None)
    session.timeout = None
    assert_type(session.persistent, bool)
    session.persistent = True
    assert_type(session.exists, bool)
    assert_type(session.created, float)
    assert_type(session.idle, float)
    assert_type(session.address, str | None)
    assert_type(session.clients, Sequence[Client])
    assert_type(session.handle, str)
    assert_type(current_session(), Session)
    assert_type(current_session(None), Session | None)


def on_end(end: End) -> None:
    assert_type(end.session, SessionView)
    assert_type(end.session.get(visits), int | None)


def manager(request: Request) -> None:
    sessions = SessionManager(SQLiteStore("a.db"), timeout=600, clock=FakeClock())
    session, finish = sessions.start_check(request, create=True)
    assert_type(session, Session)
    assert_type(finish, Finish)
    assert_type(finish(), list[tuple[str, str]])
    assert_type(finish.cookies, Sequence[SetCookie])
    guard = sessions.filter(create=False, check=lambda s: visits in s)
    assert_type(guard(request), tuple[Session, Finish])
    assert_type(sessions.get_session(request), SessionView | None)
    assert_type(sessions.check_session_cookie(request), bool)
    assert_type(sessions.delete_session(request), list[tuple[str, str]])
    sessions.commit(session)
    sessions.refresh(session)
    assert_type(sessions.on(End, on_end), Callable[[], None])
    sessions.on(LostUpdate, lambda lost: print(lost.name.upper()))
    with sessions.edit(session.handle) as edited:
        assert_type(edited, Session)
    with sessions.connect("127.0.0.1", lambda: None) as client:
        assert_type(client, Client)
    for view in sessions.all():
        assert_type(view, SessionView)
    assert_type(sessions.end(session.handle), bool)
    assert_type(sessions.end_all(lambda view: view.get(visits) == 1, keep=session), int)
    assert_type(sessions.sweep(), int)
    assert_type(sessions.save_sessions(Path("a")), int)
    assert_type(sessions.load_sessions("a"), int)
    assert_type(login(sessions, {visits: 1}), dict[str, str])
    sessions.close()


async def on_begin(begin: Begin) -> None:
    assert_type(begin.session, SessionView)


async def has_visits(session: Session) -> bool:
    return visits in session


async def asgi_app(scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None: ...


async def async_manager(request: Request) -> None:
    sessions = AsyncSessionManager(AsyncRedisStore("redis://localhost"))
    session, finish = await sessions.start_check(request)
    assert_type(session, Session)
    assert_type(finish, AsyncFinish)
    assert_type(await finish(), list[tuple[str, str]])
    guard = sessions.filter(check=has_visits)
    assert_type(await guard(request), tuple[Session, AsyncFinish])
    await sessions.start_check(request, check=lambda s: visits in s)
    asgi.SessionMiddleware(asgi_app, sessions, check=has_visits)
    assert_type(await sessions.get_session(request), SessionView | None)
    assert_type(await asyncio.create_task(sessions.check_session_cookie(request)), bool)
    assert_type(await asyncio.wait_for(sessions.get_session(request), 1), SessionView | None)
    pair = await asyncio.gather(sessions.start_check(request), sessions.check_session_cookie(request))
    assert_type(pair, tuple[tuple[Session, AsyncFinish], bool])
    await sessions.commit(session)
    await sessions.refresh(session)
    sessions.on(Begin, on_begin)
    sessions.on(End, on_end)
    async with sessions.edit(session.handle) as edited:
        assert_type(edited, Session)
    async for view in sessions.all():
        assert_type(view, SessionView)
    assert_type(await sessions.end_all(), int)
    assert_type(await alogin(sessions, {visits: 1}), dict[str, str])
    await sessions.aclose()


def stores() -> None:
    for store in (MemoryStore(), SQLiteStore("a.db"), RedisStore("redis://localhost"), PostgresStore("postgresql://localhost")):
        SessionManager(store)
        AsyncSessionManager(store)
        check_store(lambda: store)  # noqa: B023
    AsyncSessionManager(AsyncPostgresStore("postgresql://localhost"))
    check_async_store(lambda: AsyncRedisStore("redis://localhost"))
    assert_type(open_store("memory:"), Store)
    assert_type(open_async_store("memory:"), Store | AsyncStore)
    SessionManager(open_store("memory:"))
    AsyncSessionManager(open_async_store("memory:"))


class Handler(http_server.SessionHandler):
    sessions = SessionManager()

    def do_GET(self) -> None:
        assert_type(self.session, Session)
        assert_type(self.session[visits], int)


async def app(scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
    session = await asgi.open_session(scope)
    assert_type(session, Session)
    assert_type(session[database].ping(), bool)


wrapped: asgi.App = asgi.SessionMiddleware(app, AsyncSessionManager())


def wsgi_session(environ: dict[str, object]) -> None:
    assert_type(wsgi.open_session(environ), Session)


@with_session
def wsgi_page(environ: WSGIEnvironment, session: Session, start_response: StartResponse) -> Iterable[bytes]:
    assert_type(session[visits], int)
    return []


@from_session(visits, default="none")
def wsgi_counter(environ: WSGIEnvironment, count: int | str, start_response: StartResponse) -> Iterable[bytes]:
    return [str(count).encode()]


@from_session(cart, make=Cart)
@from_session(messages)
async def endpoint(request: wsgi.EnvironReader, said: SessionList[str], found: Cart, page: int, *, quiet: bool = False) -> str:
    return said[0] + found.items[page]


class Decorated(http_server.SessionHandler):
    @with_session
    def do_GET(self, session: Session) -> None: ...

    @from_session(note)
    def do_POST(self, text: str | None) -> None: ...


def decorated(environ: WSGIEnvironment, start_response: StartResponse, request: wsgi.EnvironReader, handler: Decorated) -> None:
    assert_type(wsgi_page(environ, start_response), Iterable[bytes])
    assert_type(wsgi_counter(environ, start_response=start_response), Iterable[bytes])
    answer: Awaitable[str] = endpoint(request, 1, quiet=True)
    print(answer)
    assert_type(handler.do_GET(), None)
    assert_type(handler.do_POST(), None)


async def fastapi_handler(session: CurrentSession, found: Annotated[Cart, FromSession(cart, make=Cart)]) -> Cart:
    assert_type(session, Session)
    assert_type(await request_session(connection()), Session)
    assert_type(found, Cart)
    return found


@starlette.inject
async def starlette_endpoint(
    request: wsgi.EnvironReader, session: starlette.CurrentSession, found: Annotated[Cart, starlette.FromSession(cart, make=Cart)]
) -> str:
    assert_type(session, Session)
    return found.items[0]


@starlette.inject
def plain_endpoint(request: wsgi.EnvironReader, session: starlette.CurrentSession) -> int:
    return session[visits]


def injected(request: wsgi.EnvironReader) -> None:
    text: Awaitable[str] = starlette_endpoint(request)
    number: Awaitable[int] = plain_endpoint(request)
    print(text, number)


def connection() -> Any: ...  # Any: one of Starlette's


plugin = SessionPlugin(SessionManager(), keyword="visitor", create=False)
