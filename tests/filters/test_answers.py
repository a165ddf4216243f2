"""Which answer goes out when something fails, and what is stored beside it: in the ASGI, WSGI and `http.server` filters."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, cast

import pytest
from flask import Flask
from flask.views import MethodView

from tests.filters.asgi_site import Site as AsgiSite
from tests.filters.asgi_site import says as asgi_says
from tests.filters.servers import PEER, ASGIRequest, Jar, Socket, asgi, in_loop, scope, wsgi
from tests.filters.wsgi_site import Site as WsgiSite
from tests.filters.wsgi_site import says as wsgi_says
from tests.watched import Watched
from typed_sessions import (
    AsyncSessionManager,
    Key,
    Rejected,
    Session,
    SessionClosed,
    SessionManager,
    StoreUnavailable,
    current_session,
)
from typed_sessions.filters import wsgi as wsgi_filter
from typed_sessions.filters.asgi import Receive, Scope, Send, SessionMiddleware, open_session
from typed_sessions.filters.decorators import from_session
from typed_sessions.filters.wsgi import SessionMiddleware as WSGIMiddleware

# ------------------------------------------------------------------ a refusal that was dealt with


@pytest.mark.parametrize("options", [{"create": False}, {"enabled": False}, {}])
def test_asking_with_a_default_refuses_nothing(options: dict[str, Any]) -> None:
    """The application's own error page goes out for its own bug, whatever `current_session(None)` has said."""
    app = Flask("shop")

    @app.get("/")
    def home() -> str:
        current_session(None)
        raise ValueError("a bug")

    @app.errorhandler(500)
    def oops(_: Exception) -> tuple[str, int]:
        return "our page", 500

    answer = wsgi(WSGIMiddleware(app.wsgi_app, SessionManager(**options)))
    assert (answer.status, answer.text) == (500, "our page")


@pytest.mark.parametrize("chained", [False, True])
@in_loop
async def test_another_exception_than_the_refusal_is_the_applications(chained: bool) -> None:
    """Where a framework answers it in the middle of handling it: the refusal was caught. One that was raised for the refusal is not."""
    site = AsgiSite()

    async def app(scope: Scope, _: Receive, send: Send) -> None:
        session = await open_session(scope)
        try:
            try:
                session.require(lambda _: False)
            except Rejected:
                if chained:
                    raise ValueError("a framework's") from None
            raise ValueError("a bug")
        except ValueError:
            await send({"type": "http.response.start", "status": 500, "headers": []})
            await send({"type": "http.response.body", "body": b"our page"})

    assert (await asgi(site.app(app))).status == (403 if chained else 500)


def asks(session: Session) -> bool:
    """Somewhere below a handler: the refusal comes through here."""
    session.require(lambda _: False)
    return True


def test_a_refusal_that_the_handler_has_caught_answers_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    """What is wrong after it is the application's, and so is an answer of 500; Flask handles errors itself."""
    app = Flask("shop")

    @app.get("/<what>")
    def page(what: str) -> tuple[str, int]:
        with suppress(Rejected):
            asks(current_session())
        if what == "bug":
            raise ValueError("a bug")
        return "the upstream is broken", 500

    @app.errorhandler(500)
    def oops(_: Exception) -> tuple[str, int]:
        return "our page", 500

    filtered = WSGIMiddleware(app.wsgi_app, SessionManager())
    assert wsgi(filtered, path="/bug").text == "our page"
    assert wsgi(filtered, path="/own").text == "the upstream is broken"
    assert "a bug" in caplog.text


@pytest.mark.parametrize("decorated", [False, True])
def test_a_refusal_that_a_framework_has_caught_is_the_answer(decorated: bool) -> None:
    """Also where it comes out of the handler, or of a decorator that the framework has called itself."""
    app = Flask("shop")

    user = Key("user", str)

    class Given(MethodView):
        @from_session(user, error=(403, []))
        def get(self, name: str) -> str:
            return name

    class Asking(MethodView):
        def get(self) -> str:
            current_session().require(lambda session: user in session, error=(403, []))
            return "never"

    app.add_url_rule("/", view_func=(Given if decorated else Asking).as_view("page"))

    assert wsgi(WSGIMiddleware(app.wsgi_app, SessionManager())).status == 403


@in_loop
async def test_an_opening_that_succeeds_in_the_end_was_not_refused() -> None:
    """The store was down for a moment; what fails after it is something else."""
    site = AsgiSite()
    site.store.faults["open"] = StoreUnavailable("it is down")

    async def app(scope: Scope, _: Receive, send: Send) -> None:
        with suppress(StoreUnavailable):
            await open_session(scope)
        site.store.faults.clear()
        await open_session(scope)
        await send({"type": "http.response.start", "status": 500, "headers": []})
        await send({"type": "http.response.body", "body": b"our page"})

    jar = Jar({"SESSION_KEY": "A" * 64, "SESSION_ADDR": "A" * 43})
    assert (await asgi(site.app(app), jar)).text == "our page"


# ------------------------------------------------------------------ nothing is committed with a 500


@pytest.mark.parametrize("looked", [False, True])
def test_what_the_body_of_a_500_changes_is_not_stored(looked: bool) -> None:
    """WSGI; whether the session was looked at before or not."""
    site = WsgiSite()
    jar = site.jar(1)

    def app(_: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if looked:
            current_session()
        start_response("500 Oops", [("Content-Type", "text/plain")])

        def body() -> Iterable[bytes]:
            yield b"one"
            site.set(99)
            yield b"two"

        return body()

    assert wsgi(WSGIMiddleware(app, site.sessions), jar).status == 500
    assert site.stored(jar) == 1


@in_loop
async def test_what_is_opened_after_a_500_is_not_stored() -> None:
    """ASGI, over http and in a WebSocket's denial."""
    site = AsgiSite()
    jar = await site.jar(1)

    async def app(scope: Scope, _: Receive, send: Send) -> None:
        kind = "http.response" if scope["type"] == "http" else "websocket.http.response"
        await send({"type": f"{kind}.start", "status": 500, "headers": []})
        await site.set(scope, 99)
        await send({"type": f"{kind}.body", "body": b""})

    await asgi(site.app(app), jar)
    async with Socket(site.app(app), jar, denial=True):
        pass
    assert await site.stored(jar) == 1


@in_loop
async def test_a_websocket_that_is_accepted_again_commits_nothing_twice() -> None:
    """Rule 28: the answer to the first commit was lost, so it may have been done."""
    site = AsgiSite()
    jar = await site.jar(1)
    site.store = Watched(site.store.store, blocking=True)
    site.sessions = AsyncSessionManager(cast("Any", site.store), clock=site.clock)

    async def app(scope: Scope, _: Receive, send: Send) -> None:
        (await open_session(scope)).update(site.visits, lambda n: n + 1)
        site.store.lost["commit"] = StoreUnavailable("it is down", unknown=True)
        with pytest.raises(StoreUnavailable):
            await send({"type": "websocket.accept"})
        site.store.lost.clear()
        await send({"type": "websocket.accept"})

    async with Socket(site.app(app), jar):
        pass
    assert await site.stored(jar) == 2


# ------------------------------------------------------------------ after the request


@in_loop
async def test_a_task_that_opens_the_session_too_late_gets_none() -> None:
    """Rule 27: the request was over while the store was being asked."""
    site = AsgiSite()
    jar = await site.jar(1)
    asked, go_on = asyncio.Event(), asyncio.Event()
    inner, tasks = site.store.store, list[asyncio.Task[str]]()

    class Slow:
        blocking = False

        def __getattr__(self, name: str) -> Any:
            verb = getattr(inner, name)

            async def slow(*args: Any) -> Any:
                if name == "open":
                    asked.set()
                    await go_on.wait()
                return verb(*args)

            return slow

        async def open(self, *args: Any) -> Any:
            return await self.__getattr__("open")(*args)

    sessions = AsyncSessionManager(cast("Any", Slow()), clock=site.clock)

    async def app(scope: Scope, _: Receive, send: Send) -> None:
        tasks.append(asyncio.create_task(site.set(scope, 99)))
        await asked.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    await asgi(SessionMiddleware(app, sessions), jar)
    go_on.set()
    with pytest.raises(SessionClosed):
        await tasks[0]
    assert await site.stored(jar) == 1


@in_loop
async def test_a_session_that_was_made_for_no_answer_ends() -> None:
    """Nobody has its cookie, also where nothing else was changed."""
    site = AsgiSite(create=True)

    async def silent(scope: Scope, _: Receive, __: Send) -> None:
        await open_session(scope)

    request = ASGIRequest()
    await site.app(silent)(scope(), request.receive, request.send)
    assert [view async for view in site.sessions.all()] == []


def test_a_wsgi_application_has_to_call_start_response() -> None:
    """Its mistake is told, and what it has changed is not stored."""
    site = WsgiSite()
    jar = site.jar(1)

    def app(_: dict[str, Any], __: Any) -> Iterable[bytes]:
        site.set(99)
        yield b"one"

    started: list[str] = []
    environ = {"REMOTE_ADDR": PEER, "wsgi.url_scheme": "http", "HTTP_COOKIE": jar.header()}

    def start(status: str, *_: object) -> Any:
        started.append(status)

    body = WSGIMiddleware(app, site.sessions)(environ, start)
    with pytest.raises(AssertionError, match="before it called start_response"):
        list(body)
    assert (started, site.stored(jar)) == ([], 1)


@pytest.mark.parametrize("kind", ["pathsend", "zerocopysend"])
@in_loop
async def test_a_body_that_the_server_sends_is_a_body(kind: str) -> None:
    """What was changed before it is stored before it leaves."""
    site = AsgiSite()
    jar = await site.jar(1)
    stored: list[int] = []

    async def app(scope: Scope, _: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await site.set(scope, 2)
        await send({"type": f"http.response.{kind}"})

    async def send(message: Any) -> None:
        if message["type"] == f"http.response.{kind}":
            stored.append(await site.stored(jar))

    async def receive() -> Any:
        raise AssertionError("nobody asks")

    await site.app(app)(scope(jar), receive, send)
    assert stored == [2]


def test_a_refusal_without_a_body_does_not_describe_one() -> None:
    """RFC 9110 8.6: a 304 has no length of its own; and `wsgiref.validate`, between which this is, allows no type."""

    def refuse() -> str:
        raise Rejected("require", 304, [("X-Why", "nothing new")])

    answer = wsgi(WsgiSite().app(wsgi_says(refuse)))
    assert (answer.status, answer.headers, answer.body) == (304, [("X-Why", "nothing new")], b"")


# ------------------------------------------------------------------ the log


@in_loop
async def test_an_answer_in_the_applications_place_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """With why; that of a refusal is the client's affair."""
    site = AsgiSite()
    big = Key("big", str)

    async def grow(scope: Scope) -> str:
        (await open_session(scope))[big] = "x" * 70_000
        return ""

    assert (await asgi(site.app(asgi_says(grow)))).status == 500
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "answered with 500: the session would take" in caplog.text

    async def refuse(scope: Scope) -> str:
        (await open_session(scope)).require(lambda _: False)
        return ""

    assert (await asgi(site.app(asgi_says(refuse)))).status == 403
    assert len(caplog.records) == 1


def test_a_thread_that_opens_the_session_too_late_gets_none() -> None:
    """Rule 27, in WSGI."""
    site = WsgiSite()
    jar = site.jar(1)
    asked, go_on, caught = threading.Event(), threading.Event(), list[BaseException]()
    verb = site.store.store.open

    def slow(*args: Any) -> Any:
        asked.set()
        go_on.wait(10)
        return verb(*args)

    def late(environ: dict[str, Any]) -> None:
        try:
            wsgi_filter.open_session(environ)[site.visits] = 99
        except SessionClosed as problem:
            caught.append(problem)

    threads: list[threading.Thread] = []

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        site.store.store.open = slow
        threads.append(threading.Thread(target=late, args=(environ,)))
        threads[0].start()
        assert asked.wait(10)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b""]

    wsgi(WSGIMiddleware(app, site.sessions), jar)
    go_on.set()
    threads[0].join(10)
    site.store.store.open = verb
    assert len(caught) == 1
    assert site.stored(jar) == 1
