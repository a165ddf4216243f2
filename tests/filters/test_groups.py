"""What the tasks of a handler are refused with arrives in a group: it is answered as what it is, unless there is a mistake beside it."""

from __future__ import annotations

import asyncio
import builtins
import io
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import bottle
import pytest

from tests.filters import asgi_site, http_site, wsgi_site
from tests.filters.servers import Answer, Connection, Jar, Socket, asgi, in_loop, serving, wsgi
from tests.filters.wsgi_site import Start
from typed_sessions import Rejected, StoreUnavailable, TooLarge, current_session
from typed_sessions.filters.asgi import Receive, Scope, Send, SessionMiddleware, open_session
from typed_sessions.filters.asgi_websocket import Cut
from typed_sessions.filters.bottle import SessionPlugin

Group: Any = getattr(builtins, "BaseExceptionGroup", None) or pytest.importorskip("exceptiongroup").BaseExceptionGroup
"""Any: Python 3.10 does not know it."""


def group(*problems: BaseException) -> BaseException:
    made: BaseException = Group("tasks", problems)
    return made


def refused() -> BaseException:
    return Rejected("require", 401, [("WWW-Authenticate", "Basic")])


GROUPS: dict[str, tuple[Callable[[], BaseException], int]] = {
    "one": (lambda: group(refused()), 401),
    "a group in a group": (lambda: group(group(refused())), 401),
    "the store is down": (lambda: group(StoreUnavailable("down")), 503),
    "the first of many": (lambda: group(group(TooLarge("big")), StoreUnavailable("down"), refused()), 500),
    "with a mistake": (lambda: group(refused(), ValueError("mine")), 0),
    "with a mistake further in": (lambda: group(refused(), group(StoreUnavailable("down"), ValueError("mine"))), 0),
    "with the end of the program": (lambda: group(refused(), SystemExit(1)), 0),
    "with a task that was cancelled from outside": (lambda: group(refused(), asyncio.CancelledError()), 0),
}

cases = pytest.mark.parametrize(("made", "status"), GROUPS.values(), ids=list(GROUPS))


def asked(call: Callable[[], Answer], problem: BaseException) -> Answer:
    """The answer; of a status that is 0 if the group itself has come out."""
    try:
        return call()
    except BaseException as caught:
        if caught is not problem:
            raise
        return Answer(0, [])


@cases
def test_a_group_in_asgi(made: Callable[[], BaseException], status: int) -> None:
    """Nothing that the request changed is committed, whichever it is."""
    site = asgi_site.Site()
    jar, problem = asyncio.run(site.jar(1)), made()

    async def handler(scope: Scope) -> None:
        await site.set(scope, 9)
        raise problem

    answer = asked(lambda: asyncio.run(asgi(site.app(asgi_site.says(handler)), jar)), problem)
    assert (answer.status, answer.all("WWW-Authenticate")) == (status, ["Basic"] if status == 401 else [])
    assert asyncio.run(site.stored(jar)) == 1


@cases
@pytest.mark.parametrize("late", [False, True], ids=["when called", "in the body"])
def test_a_group_in_wsgi(made: Callable[[], BaseException], status: int, late: bool) -> None:
    """As a handler raises it that has run an event loop of its own."""
    site = wsgi_site.Site()
    jar, problem = site.jar(1), made()

    def fail() -> str:
        site.set(9)
        raise problem

    app = wsgi_site.streams(fail) if late else wsgi_site.says(fail)
    answer = asked(lambda: wsgi(site.app(app), jar), problem)
    assert (answer.status, answer.all("WWW-Authenticate")) == (status, ["Basic"] if status == 401 else [])
    assert site.stored(jar) == 1


@cases
def test_a_group_in_http_server(made: Callable[[], BaseException], status: int) -> None:
    """An exception that is no refusal reaches the server, which closes the connection."""
    site = http_site.Site()
    problem = made()

    def fail(handler: http_site.Handler) -> None:
        handler.session[site.visits] = 9
        raise problem

    if isinstance(problem, Exception):
        with serving(site.handler({"/fail": fail})) as server:
            with Connection(server) as browser:
                browser.ask("/visit")
                if status:
                    assert browser.ask("/fail").status == status
                else:
                    with pytest.raises(ConnectionError):
                        browser.ask("/fail")
            with Connection(server, browser.jar) as browser:
                assert browser.ask("/visits").text == "1"
        assert server.errors == ([] if status else [problem])


@cases
def test_a_group_behind_a_framework_that_answers_it(made: Callable[[], BaseException], status: int) -> None:
    """Where it has made a page of its own of the group, the refusal goes out in its place; the group may be the cause of what it has."""
    site = wsgi_site.Site()
    problem = made()

    def app(_: dict[str, Any], start_response: Start) -> Iterable[bytes]:
        current_session()[site.visits] = 9
        try:
            try:
                try:
                    raise refused()
                except Rejected:
                    raise problem from None  # as the group's own task does: the refusal in it is the context of it, too
            except BaseException as handled:
                raise RuntimeError("of the framework") from handled
        except RuntimeError:
            start_response("500 Internal Server Error", [("Content-Type", "text/plain")], sys.exc_info())
        return [b"its page"]

    answer = wsgi(site.app(app), jar := Jar())
    assert (answer.status, answer.text == "its page", jar.cookies) == (status or 500, not status, {})


@cases
def test_a_group_in_bottle(made: Callable[[], BaseException], status: int) -> None:
    """Bottle makes a 500 of every exception, or lets it through: of a refusal it gets to know nothing."""
    site = wsgi_site.Site()
    app = bottle.Bottle()
    app.install(SessionPlugin(site.sessions))
    problem = made()

    def fail() -> str:
        raise problem

    def stream() -> Iterator[str]:
        raise problem
        yield "never"

    app.get("/")(fail)
    app.get("/stream")(stream)
    for path in ("/", "/stream"):
        logged: dict[str, Any] = {"wsgi.errors": io.StringIO()}
        answer = asked(partial(wsgi, app, path=path, **logged), problem)
        assert answer.status == (status or (500 if isinstance(problem, Exception) else 0))


@in_loop
async def test_a_group_in_a_websocket_that_is_open() -> None:
    """It is closed with 1008, or with 1011 where the session could not be saved."""
    for problem, code in ((group(refused()), 1008), (group(Cut("gone"), group(refused())), 1008), (group(TooLarge("big")), 1011)):
        site = asgi_site.Site()

        async def app(_: Scope, receive: Receive, send: Send, problem: BaseException = problem) -> None:
            await receive()
            await send({"type": "websocket.accept"})
            raise problem

        socket = Socket(site.app(app))
        try:
            async with socket:
                await socket.accepted()
                message = await socket.next()
                assert (message["type"], message["code"]) == ("websocket.close", code)
        except TooLarge:
            assert code == 1011


@in_loop
async def test_a_group_in_a_handshake() -> None:
    """It is refused as any other, before or after the session is looked at."""
    site = asgi_site.Site()

    async def app(scope: Scope, receive: Receive, _: Send) -> None:
        await receive()
        await open_session(scope)
        raise group(refused())

    async with Socket(site.app(app), denial=True) as socket:
        message = await socket.next()
        assert (message["type"], message["status"]) == ("websocket.http.response.start", 401)


@in_loop
async def test_tasks_that_send_to_a_closed_websocket_are_at_their_end() -> None:
    """What they get when the session has ended may come out in a group too, and is nobody's mistake."""
    site = asgi_site.Site()
    jar = await site.jar()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        session = await open_session(scope)
        await send({"type": "websocket.accept"})
        await site.sessions.end(session.handle)
        found: list[BaseException] = []
        for text in ("one", "two"):
            with pytest.raises(Cut) as caught:
                await send({"type": "websocket.send", "text": text})
            found.append(caught.value)
        raise group(*found)

    async with Socket(site.app(app), jar) as socket:
        await socket.accepted()
        message = await socket.next()
        assert (message["type"], message["code"]) == ("websocket.close", 1008)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio has no task groups")
@in_loop
async def test_a_task_group_of_asyncio() -> None:
    """`require` in one of its tasks: the others are cancelled, and the request is refused."""
    site = asgi_site.Site()
    cancelled: list[bool] = []

    async def app(scope: Scope, _: Receive, __: Send) -> None:
        session = await open_session(scope)

        async def waits() -> None:
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                cancelled.append(True)
                raise

        async def asks() -> None:
            session.require(lambda s: site.name in s, error=(401, []))

        groups: Any = asyncio  # Any: as above
        async with groups.TaskGroup() as tasks:
            tasks.create_task(waits())
            tasks.create_task(asks())

    assert ((await asgi(SessionMiddleware(app, site.sessions))).status, cancelled) == (401, [True])
