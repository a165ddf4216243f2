"""Never run: the mistakes that every checker refuses. A line with an ignore is refused by each of them, or that one reports the ignore."""

# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

import json

from tests.typing.frameworks import FalconASGI, FalconWSGI
from tests.typing.shapes import Cart, Connection, Photo, cart, messages, names, note, photo, to_names, user, visits
from typed_sessions import (
    AsyncSessionManager,
    Downgrade,
    End,
    Key,
    ListKey,
    Request,
    Session,
    SessionManager,
    SessionView,
    Upgrades,
    open_store,
)
from typed_sessions.filters import asgi, starlette, wsgi
from typed_sessions.filters.bottle import SessionPlugin
from typed_sessions.filters.decorators import from_session, with_session
from typed_sessions.filters.fastapi import FromSession
from typed_sessions.stores.redis import AsyncRedisStore


def increased(n: int) -> int:
    return n + 1


def on_visit(visit: int) -> None: ...


async def count(visit: int) -> int:
    return visit


async def listener(end: End) -> None: ...


def declarations() -> None:
    Key("bare")  # type: ignore
    Key[int]("bare_too")  # type: ignore
    ListKey("bare_list")  # type: ignore
    Key("half", save=Photo.to_png)  # type: ignore
    Key("other_half", load=Photo.from_png)  # type: ignore
    Key("text_hook", save=json.dumps, load=json.loads)  # type: ignore
    Key("stream_hook", save=json.dump, load=json.load)  # type: ignore
    Key("typed_and_hooked", Photo, save=Photo.to_png, load=Photo.from_png)  # type: ignore
    Key("resident_without_type", resident=True)  # type: ignore
    Key("not_resident", Connection, resident=False)  # type: ignore
    Key("hook_of_another", Cart, cleanup_delete=on_visit)  # type: ignore
    Key("keeps_nothing", int, cleanup_no_client=on_visit)  # type: ignore
    Key("merge_of_one", int, merge=lambda one: one)  # type: ignore
    Key("misspelt", int, clean_up=on_visit)  # type: ignore
    Key("was_a_number", int, was=1)  # type: ignore
    Key[Cart]("of_other_chains", Cart, version=2, upgrade=Upgrades(list[str], len))  # type: ignore
    Key("downgrade_of_another", Cart, was="earlier", downgrade=Downgrade(int, increased))  # type: ignore
    Upgrades(int, to_names)  # type: ignore
    Upgrades(list[str], Cart).then(list[str], Cart)  # type: ignore
    Upgrades(list[str], Cart).then(Cart, increased)  # type: ignore
    Upgrades(list[str], Cart).then(Cart)  # type: ignore
    Downgrade(str, 5)  # type: ignore


def variance() -> None:
    wide: Key[float] = visits  # type: ignore
    maybe: Key[int | None] = visits  # type: ignore
    anything: Key[object] = names  # type: ignore
    print(wide, maybe, anything)


def writes(session: Session) -> None:
    session[visits] = "one"  # type: ignore
    session[visits] = None  # type: ignore
    session[names] = [1]  # type: ignore
    session[cart] = ["book"]  # type: ignore
    session[user].name = 1  # type: ignore
    session[photo] = b"pixels"  # type: ignore
    session["visits"] = 1  # type: ignore
    session[messages] = ["a"]  # type: ignore
    session[messages].append(1)  # type: ignore
    session.update(visits, lambda n: str(n))  # type: ignore
    session.update(visits, count)  # type: ignore
    session.update(cart, lambda c: c.items.append("book"))  # type: ignore
    session.update(visits, lambda n: n + 1, default="0")  # type: ignore
    session.setdefault(cart, dict)  # type: ignore
    session.timeout = "soon"  # type: ignore
    session.require(visits)  # type: ignore


def reads(session: Session) -> None:
    text: str = session[visits]  # type: ignore
    number: int = session.get(visits)  # type: ignore
    length: int = len(session[note])  # type: ignore
    session["visits"]  # type: ignore
    session.get("visits")  # type: ignore
    len(session)  # type: ignore
    print(text, number, length)


def views(view: SessionView, request: Request) -> None:
    view[visits] = 1  # type: ignore
    view.update(visits, lambda n: n + 1)  # type: ignore
    del view[visits]  # type: ignore
    view[messages].append("a")  # type: ignore
    view.renew()  # type: ignore
    found = SessionManager().get_session(request)
    found[visits]  # type: ignore


async def awaited(session: Session) -> bool:
    return visits in session


def managers(request: Request) -> None:
    SessionManager(AsyncRedisStore("redis://localhost"))  # type: ignore
    SessionManager(timout=600)  # type: ignore
    SessionManager(timeout="600")  # type: ignore
    SessionManager(create="sometimes")  # type: ignore
    SessionManager().on(End, listener)  # type: ignore
    SessionManager().on(End, on_visit)  # type: ignore
    SessionManager().set_options(linger=None)  # type: ignore
    SessionManager().filter(create="no")  # type: ignore
    SessionManager().filter(check=awaited)  # type: ignore
    _session, _finish = AsyncSessionManager().start_check(request)  # type: ignore
    asgi.SessionMiddleware(print, AsyncSessionManager())  # type: ignore
    asgi.SessionMiddleware(FalconWSGI(), AsyncSessionManager())  # type: ignore
    asgi.SessionMiddleware(FalconASGI, AsyncSessionManager())  # type: ignore
    wsgi.SessionMiddleware(FalconASGI(), SessionManager())  # type: ignore
    wsgi.SessionMiddleware(FalconWSGI(), AsyncSessionManager())  # type: ignore
    wsgi.open_session(request)  # type: ignore
    open_store(b"memory:")  # type: ignore


async def unawaited(app: asgi.App, scope: asgi.Scope, request: Request) -> None:
    asgi.SessionMiddleware(app, SessionManager())  # type: ignore
    session = asgi.open_session(scope)
    session[visits]  # type: ignore
    await asgi.open_session(request)  # type: ignore
    asgi.SessionMiddleware(app, AsyncSessionManager())(scope)  # type: ignore
    _, finish = await AsyncSessionManager().start_check(request)
    finish()[0]  # type: ignore


@with_session  # type: ignore
def takes_no_session(environ: dict[str, object]) -> None: ...


@from_session(visits)  # type: ignore
def takes_another_type(environ: dict[str, object], count: str) -> None: ...


@from_session(cart, make=list)  # type: ignore
def made_of_another_type(environ: dict[str, object], found: Cart) -> None: ...


@from_session(visits)
def counts_visits(environ: dict[str, object], count: int, page: int) -> None: ...


def decorated(environ: dict[str, object]) -> None:
    counts_visits(environ, 1, 2)  # type: ignore
    counts_visits(environ, "one")  # type: ignore
    FromSession("cart")  # type: ignore
    starlette.FromSession(cart, make=int)  # type: ignore
    starlette.inject(1)  # type: ignore
    FromSession(cart, make=int)  # type: ignore
    SessionPlugin(AsyncSessionManager())  # type: ignore
