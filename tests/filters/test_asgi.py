"""The ASGI filter, http and lifespan: rules 24 to 27. WebSockets and what goes wrong have files of their own."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from typing import Any, cast

import pytest

from tests.filters.asgi_site import App, Site, hello, look, says, streams
from tests.filters.servers import PEER, ASGIRequest, Jar, asgi, in_loop, scope
from tests.watched import Watched
from typed_sessions import (
    AsyncSessionManager,
    HeadersSent,
    Key,
    NoSession,
    NotOpened,
    Rejected,
    Request,
    Session,
    SessionClosed,
    current_session,
    redirect,
)
from typed_sessions.filters.asgi import Receive, Scope, Send, open_session


@pytest.fixture
def site() -> Site:
    return Site()


@in_loop
async def test_a_session_nobody_asks_about_costs_nothing(site: Site) -> None:
    """Rule 25: lazy. A valid cookie and an untouched session: no trip, and a response that no cache has to tell apart (rule 24)."""
    jar = await site.jar()
    answer = await asgi(site.app(says(hello)), jar)
    assert (answer.text, answer.headers) == ("hello", [("content-type", "text/plain")])
    assert site.store.trips == 0


@in_loop
async def test_the_first_value_makes_the_session(site: Site) -> None:
    """Rules 24 and 25: with the first committed value, in one trip; who only looks makes none. C12."""
    jar = Jar()
    answer = await asgi(site.app(says(look)), jar)
    assert (answer.text, answer.all("vary"), answer.all("set-cookie"), site.store.trips) == ("False", ["Cookie"], [], 0)
    answer = await asgi(site.app(says(lambda scope: site.set(scope, 1))), jar)
    assert [cookie.partition("=")[0] for cookie in answer.all("set-cookie")] == ["SESSION_KEY", "SESSION_ADDR"]
    assert (answer.all("cache-control"), site.store.calls) == (["no-store"], {"create": 1})
    assert await site.stored(jar) == 1


@in_loop
async def test_an_applications_own_headers_stay_its_own(site: Site) -> None:
    """A message that is the same for everybody: one visitor's cookies go to no other."""
    start = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]}

    async def app(scope: Scope, _: Receive, send: Send) -> None:
        if scope["path"] == "/visit":
            await site.set(scope, 1)
        await send(start)
        await send({"type": "http.response.body", "body": b"hello"})

    assert len((await asgi(site.app(app), path="/visit")).all("set-cookie")) == 2
    assert (await asgi(site.app(app))).headers == [("content-type", "text/plain")]
    assert start["headers"] == [(b"content-type", b"text/plain")]


@in_loop
async def test_what_the_application_says_to_caches_is_one_header_with_ours(site: Site) -> None:
    """Rule 24, C12: what is around the filter may read the first `Vary` only and replace both, as Starlette's GZip and CORS did."""
    own = [(b"vary", b"accept-language"), (b"cache-control", b"public, max-age=60"), (b"vary", b"accept-encoding"), (b"x-mine", b"1")]

    async def app(scope: Scope, _: Receive, send: Send) -> None:
        if scope["path"] != "/":
            session = await open_session(scope)
            session.require(lambda _: scope["path"] != "/refuse", error=(403, [("Vary", "accept-language")]))
            if scope["path"] == "/write":
                session[site.visits] = 1
        await send({"type": "http.response.start", "status": 200, "headers": iter(own)})
        await send({"type": "http.response.body", "body": b"hello"})

    write, read, refused, without = [await asgi(site.app(app), path=path) for path in ("/write", "/read", "/refuse", "/")]
    assert write.all("vary") == read.all("vary") == ["accept-language, accept-encoding, Cookie"]
    assert (write.all("cache-control"), len(write.all("set-cookie"))) == (["public, max-age=60, no-store"], 2)
    assert (read.all("cache-control"), read.all("x-mine")) == (["public, max-age=60"], ["1"])
    assert (refused.status, refused.all("vary")) == (403, ["accept-language, Cookie"])
    assert without.headers == [(name.decode(), value.decode()) for name, value in own]


@pytest.mark.parametrize("create", ["on_write", True])
@in_loop
async def test_two_tasks_open_one_session(site: Site, create: Any) -> None:
    """They ask for it at the same time, of a store that is waited for: both have it, and what each writes is there."""
    site.store = Watched(site.store.store, blocking=True)
    site.sessions = AsyncSessionManager(cast("Any", site.store), clock=site.clock)

    async def both(scope: Scope) -> str:
        async def one(key: Key[Any], value: Any) -> Session:
            session = await open_session(scope)
            session[key] = value
            return session

        first, second = await asyncio.gather(one(site.visits, 3), one(site.name, "ann"))
        assert first is second
        return f"{first[site.visits]} {first[site.name]}"

    jar = Jar()
    app = site.app(says(both), create=create)
    for _ in range(2):
        assert (await asgi(app, jar)).text == "3 ann"
    assert await site.stored(jar) == 3
    assert site.store.calls["create"] == 1


@in_loop
async def test_whoever_looks_when_the_request_is_over_is_told(site: Site) -> None:
    """A task that outlives it, and looks for the first time."""
    tasks: list[asyncio.Task[Session]] = []
    over = asyncio.Event()

    async def later(scope: Scope) -> Session:
        await over.wait()
        return await open_session(scope)

    async def begins(scope: Scope) -> str:
        tasks.append(asyncio.create_task(later(scope)))
        return "begun"

    await asgi(site.app(says(begins)), await site.jar())
    over.set()
    with pytest.raises(SessionClosed, match="the request is over"):
        await tasks[0]


@in_loop
async def test_several_cookie_headers_are_read(site: Site) -> None:
    """C6: HTTP/2 lets a browser send a header per cookie (RFC 9113 8.2.3)."""
    jar = await site.jar(7)
    request = ASGIRequest()
    split = scope(None, headers=[("cookie", f"{name}={value}") for name, value in [("theme", "dark"), *jar.cookies.items()]])
    await site.app(says(lambda scope: _value(site, scope)))(split, request.receive, request.send)
    assert request.answer().text == "7"


async def _value(site: Site, scope: Scope) -> int:
    return (await open_session(scope))[site.visits]


@in_loop
async def test_what_changed_is_committed_before_the_headers_leave(site: Site) -> None:
    """When the server gets the response's beginning, the store has the value."""
    jar = await site.jar()
    seen: list[int] = []

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            seen.append(await site.stored(jar))

    await site.app(says(lambda scope: site.set(scope, 7)))(scope(jar), ASGIRequest().receive, send)
    assert seen == [7]


@in_loop
async def test_what_changes_while_the_body_streams_is_committed_at_its_end(site: Site) -> None:
    """Rule 26: writing to an existing session, and ending it, work after the headers have left."""
    jar = await site.jar()
    during: list[int] = []

    async def more(scope: Scope) -> str:
        (await open_session(scope)).update(site.visits, lambda n: n + 10)
        during.append(await site.stored(jar))
        return "more"

    assert (await asgi(site.app(streams(hello, more)), jar)).text == "hellomore"
    assert (during, await site.stored(jar)) == ([1], 11)

    async def leave(scope: Scope) -> str:
        (await open_session(scope)).end()
        return "bye"

    await asgi(site.app(streams(hello, leave)), jar)
    assert len(site.store.store) == 0


@pytest.mark.parametrize("late", ["create", "create=True", "renew", "persistent"])
@pytest.mark.parametrize("opened", ["before", "after"])
@in_loop
async def test_what_needs_a_cookie_is_refused_once_the_headers_have_left(site: Site, late: str, opened: str) -> None:
    """Rule 26: HeadersSent at the call, whether the session was opened before the headers left or after."""
    jar = await site.jar() if late in ("renew", "persistent") else Jar()
    caught: list[str] = []

    async def too_late(scope: Scope) -> str:
        try:
            session = await open_session(scope)
            if late == "renew":
                session.renew()
            elif late == "persistent":
                session.persistent = False
            else:
                session[site.visits] = 1
        except HeadersSent as problem:
            caught.append(str(problem))
        return "end"

    with_request = late == "create=True"
    answer = await asgi(site.app(streams(look if opened == "before" else hello, too_late), create=with_request or None), jar)
    assert answer.text.endswith("end")
    if with_request and opened == "before":
        assert (caught, len(site.store.store)) == ([], 1)  # it was created in time
    else:
        assert "headers have left" in caught[0]
        assert len(site.store.store) == (1 if late in ("renew", "persistent") else 0)


@in_loop
async def test_reading_before_opening(site: Site) -> None:
    """Rule 25: an accessor before `await open_session(...)` raises NotOpened on every store; then it works, in tasks too."""
    jar = await site.jar(3)

    async def work(scope: Scope) -> int:
        with pytest.raises(NotOpened, match=r"await open_session\(scope\)"):
            current_session()
        session = await open_session(scope)
        assert session is current_session()
        assert session is await open_session(scope)
        return await asyncio.create_task(_visits(site))

    assert (await asgi(site.app(says(work)), jar)).text == "3"
    assert site.store.calls == {"open": 1}
    with pytest.raises(NoSession, match="SessionMiddleware"):
        await open_session(scope())


async def _visits(site: Site) -> int:
    return current_session()[site.visits]


@in_loop
async def test_eager_and_check_open_before_the_application(site: Site) -> None:
    """Rule 25: `current_session()` works at once, for one trip; `check` decides whether the application is called at all."""
    jar = await site.jar(4)

    def has_visits(session: Session) -> bool:
        return site.visits in session

    both: list[dict[str, Any]] = [{"eager": True}, {"check": has_visits}]
    for settings in both:
        site.store.calls.clear()
        assert (await asgi(site.app(says(lambda _: _visits(site)), **settings), jar)).text == "4"
        assert site.store.calls == {"open": 1}

    async def never(_: Scope) -> str:
        raise AssertionError("the application was called")

    def has_name(session: Session) -> bool:
        return site.name in session

    answer = await asgi(site.app(says(never), check=has_name, error=redirect("/login")), jar)
    assert (answer.status, answer.all("location"), jar.cookies) == (303, ["/login"], {})
    assert len(site.store.store) == 0


@in_loop
async def test_a_check_may_be_awaited(site: Site) -> None:
    """By the middleware and by the manager itself: what a coroutine function says counts, not that it gave a coroutine."""
    good, bad = await site.jar(4), await site.jar(1)

    async def comes_often(session: Session) -> bool:
        await asyncio.sleep(0)
        assert current_session() is session
        return session.get(site.visits, 0) > 3

    app = site.app(says(lambda _: _visits(site)), check=comes_often, error=(418, []))
    assert (await asgi(app, good)).text == "4"
    assert ((await asgi(app, bad)).status, bad.cookies) == (418, {})

    guard = site.sessions.filter(create=True, check=comes_often)
    cookie = "; ".join(f"{name}={value}" for name, value in good.cookies.items())
    session, finish = await guard(Request(headers=[("Cookie", cookie)], peer=PEER))
    assert session[site.visits] == 4
    await finish()
    with pytest.raises(Rejected, match="check"):
        await guard(Request(headers=[], peer=PEER))
    assert len(site.store.store) == 1


@in_loop
async def test_requests_at_once_have_each_their_own_session(site: Site) -> None:
    """Tasks that wait for one another in the middle, each with its own `current_session()`."""
    jars = [await site.jar(n) for n in range(10)]
    all_there = asyncio.Event()
    there: list[Session] = []

    async def meet(scope: Scope) -> int:
        there.append(await open_session(scope))
        if len(there) == len(jars):
            all_there.set()
        await all_there.wait()
        return await _visits(site)

    answers = await asyncio.gather(*(asgi(site.app(says(meet)), jar) for jar in jars))
    assert [answer.text for answer in answers] == [str(n) for n in range(10)]
    assert current_session(None) is None


@in_loop
async def test_create_true_and_false(site: Site) -> None:
    """Rule 25: with True looking makes a session, and who does not look is left alone; with False there has to be one."""
    jar = Jar()
    assert (await asgi(site.app(says(hello), create=True), jar)).all("set-cookie") == []
    assert (await asgi(site.app(says(look), create=True), jar)).text == "True"
    assert len(jar.cookies) == 2
    strict = site.app(says(look), create=False, error=(401, [("WWW-Authenticate", "Cookie")]))
    assert (await asgi(strict, jar)).text == "True"
    answer = await asgi(strict, Jar())
    assert (answer.status, answer.all("www-authenticate"), answer.text) == (401, ["Cookie"], "401 Unauthorized\n")
    await site.sessions.end_all()
    assert ((await asgi(strict, jar)).status, jar.cookies) == (401, {})


@in_loop
async def test_the_session_is_closed_after_its_request(site: Site) -> None:
    """Rule 27: in whatever task."""
    kept: list[Session] = []

    async def keep(scope: Scope) -> str:
        kept.append(await open_session(scope))
        return ""

    for app in (says(keep), streams(keep, hello)):
        await asgi(site.app(app), await site.jar())
    for session in kept:
        with pytest.raises(SessionClosed):
            await asyncio.create_task(_read(session, site))


async def _read(session: Session, site: Site) -> int:
    return session[site.visits]


@in_loop
async def test_cookies_in_many_headers_are_joined_at_once(site: Site) -> None:
    """HTTP/2 sends a header for each cookie; how many more a client sends is its own affair, and costs no more than their length."""
    jar = await site.jar(3)
    seen: list[str] = []

    class Counted(bytes):
        """A header's value that is decoded by nobody but together with the others."""

        def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
            raise AssertionError("one by one")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        cookies = [header for header in scope["headers"] if header[0] == b"cookie"]
        pairs = [(b"cookie", Counted(pair)) for pair in cookies[0][1].split(b"; ")]
        scope["headers"] = [*(header for header in scope["headers"] if header not in cookies), *pairs, (b"cookie", Counted(b"other=1"))]
        await site.app(says(opened))(scope, receive, send)

    async def opened(scope: Scope) -> int:
        session = await open_session(scope)
        seen.append(session.handle)
        return session[site.visits]

    assert (await asgi(app, jar)).text == "3"
    assert seen != [""]


# ------------------------------------------------------------------ lifespan and the rest


async def lifespan(app: App) -> list[str]:
    """A server's life: what the application answered to startup and shutdown."""
    asked = iter(["lifespan.startup", "lifespan.shutdown"])
    said: list[str] = []

    async def receive() -> dict[str, Any]:
        return {"type": next(asked)}

    async def send(message: Any) -> None:
        said.append(message["type"])

    await app({"type": "lifespan", "asgi": {"version": "3.0"}}, receive, send)
    return said


async def polite(_: Scope, receive: Receive, send: Send) -> None:
    for step in ("startup", "shutdown"):
        await receive()
        await send({"type": f"lifespan.{step}.complete"})


async def only_http(scope: Scope, _: Receive, __: Send) -> None:
    assert scope["type"] == "http"


async def indifferent(_: Scope, __: Receive, ___: Send) -> None:
    return


@pytest.mark.parametrize("app", [polite, only_http, indifferent])
@in_loop
async def test_lifespan_closes_the_manager(app: App, tmp_path: Any) -> None:
    """At shutdown, also around an application that knows no lifespan; closing is what saves the sessions."""
    site = Site()
    site.sessions.autosave(tmp_path / "sessions")
    await site.jar()
    assert await lifespan(site.app(app)) == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert await Site().sessions.load_sessions(tmp_path / "sessions") == 1


async def goes_silently(_: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()


async def is_gone_before(_: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "lifespan.startup.complete"})


async def fails_at_the_end(_: Scope, receive: Receive, send: Send) -> None:
    await goes_silently(_, receive, send)
    raise OSError("the disk is gone")


@pytest.mark.parametrize("app", [goes_silently, is_gone_before, fails_at_the_end])
@in_loop
async def test_lifespan_closes_the_manager_of_one_that_does_not_say_goodbye(app: App, tmp_path: Any) -> None:
    """It has heard of the shutdown and returns or raises, or has returned before: the sessions are saved all the same."""
    site = Site()
    site.sessions.autosave(tmp_path / "sessions")
    await site.jar()
    with pytest.raises(OSError, match="the disk") if app is fails_at_the_end else nullcontext():
        assert await lifespan(site.app(app)) == ["lifespan.startup.complete"]
    assert await Site().sessions.load_sessions(tmp_path / "sessions") == 1


@in_loop
async def test_who_has_not_started_is_not_asked_to_stop(site: Site) -> None:
    """An application that says that its startup has failed, and returns: no server sends a shutdown then, and nobody waits for one."""

    async def failing(_: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed"})

    asked: list[str] = []

    async def receive() -> dict[str, Any]:
        asked.append("lifespan.startup")
        assert len(asked) == 1
        return {"type": "lifespan.startup"}

    async def send(message: Any) -> None:
        assert message["type"] == "lifespan.startup.failed"

    await site.app(failing)({"type": "lifespan"}, receive, send)


@in_loop
async def test_a_startup_that_fails_is_not_hidden(site: Site) -> None:
    """An application that has begun its lifespan and raises has failed, which the server has to know."""

    async def broken(_: Scope, receive: Receive, __: Send) -> None:
        await receive()
        raise OSError("no database")

    with pytest.raises(OSError, match="no database"):
        await lifespan(site.app(broken))


@in_loop
async def test_other_kinds_of_scope_pass(site: Site) -> None:
    """An extension's own scope type is the application's business."""
    seen: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append((scope, receive, send))

    request = ASGIRequest()
    custom = {"type": "mqtt"}
    await site.app(app)(custom, request.receive, request.send)
    assert seen == [(custom, request.receive, request.send)]
