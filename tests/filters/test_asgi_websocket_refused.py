"""A handshake that is refused within an application whose framework makes an error of its own of that (rules 26 and 28)."""

from __future__ import annotations

import gc
import logging
import weakref
from contextlib import suppress
from types import FunctionType
from typing import Any

import pytest

from tests.filters.asgi_site import App, Site
from tests.filters.servers import Jar, Socket, in_loop
from typed_sessions import Rejected, Session, StoreUnavailable
from typed_sessions.filters.asgi import Message, Receive, Scope, Send, SessionMiddleware, open_session

EVIL = ("Origin", "http://evil.example")


@pytest.fixture
def site() -> Site:
    return Site()


class Framework:
    """A framework that answers an exception of the handler by itself, and keeps what it gets for that."""

    def __init__(self, handler: App, *messages: Message, when: str = "after", again: bool = False) -> None:
        self.handler, self.messages, self.when, self.again = handler, messages, when, again
        self.caught: list[str] = []

    async def answer(self, send: Send) -> None:
        for message in self.messages:
            try:
                await send(message)
            except Exception as problem:
                self.caught.append(f"send: {problem!r}")
                raise

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        catching = FunctionType(Framework.catching.__code__, {**globals(), "__name__": "framework.core"})  # in a package of its own
        await catching(self, scope, receive, send)

    async def catching(self, scope: Scope, receive: Receive, send: Send) -> None:
        failed: Exception | None = None
        try:
            await self.handler(scope, receive, send)
        except Exception as problem:
            failed = problem
            self.caught.append(type(problem).__name__)
            if self.when == "while it is handled":
                await self.answer(send)
        if failed is not None and self.when == "after":
            await self.answer(send)
        if failed is not None and self.again:
            raise failed


async def opens(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await open_session(scope)
    await send({"type": "websocket.accept"})


def requires(site: Site) -> App:
    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        session = await open_session(scope)
        session[site.visits] = 9
        await receive()
        session.require(lambda s: site.name in s, error=(401, [("X-Why", "no name")]))

    return handler


DENIES: list[Message] = [
    {"type": "websocket.http.response.start", "status": 500, "headers": [(b"x-theirs", b"1")]},
    {"type": "websocket.http.response.body", "body": b"Internal Server Error"},
]
CLOSES: list[Message] = [{"type": "websocket.close", "code": 1011}]
ANSWERS = pytest.mark.parametrize("answer", [DENIES, CLOSES], ids=["denies", "closes"])
WHEN = pytest.mark.parametrize("when", ["after", "while it is handled"])


async def handshake(app: SessionMiddleware, jar: Jar, *headers: tuple[str, str], denial: bool = True) -> list[Any]:
    """Everything that comes: the statuses and bodies of a denial, or the code of a close."""
    socket = Socket(app, jar, denial=denial, headers=headers)
    async with socket:
        pass
    found: list[Any] = []
    while not socket.to_browser.empty():
        message = socket.to_browser.get_nowait()
        found.append(message.get("status") or message.get("code") or message["body"].decode())
    return found


@ANSWERS
@WHEN
@pytest.mark.parametrize("again", [False, True])
@in_loop
async def test_a_refusal_is_put_in_the_frameworks_place(
    site: Site, answer: list[Message], when: str, again: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """As over http: 403 for another origin, and the status of a `Rejected`; it goes on with its answer, and gets no exception for that."""
    jar = await site.jar()
    caplog.set_level(logging.ERROR)
    for handler, headers, expected in (
        (opens, [EVIL], [403, "403 Forbidden\n"]),
        (requires(site), [], [401, "401 Unauthorized\n"]),
    ):
        framework = Framework(handler, *answer, when=when, again=again)
        assert await handshake(site.app(framework), jar, *headers) == expected
        assert framework.caught == ["Rejected"]
    assert (await site.stored(jar), caplog.records) == (1, [])


@ANSWERS
@in_loop
async def test_without_the_extension_the_handshake_is_closed(site: Site, answer: list[Message]) -> None:
    """The server makes 403 of it; a session that was made for this handshake alone is not left behind."""
    framework = Framework(requires(site), *answer)
    assert await handshake(site.app(framework, create=True), Jar(), denial=False) == [1008]
    assert (framework.caught, len(site.store.store)) == (["Rejected"], 0)


@ANSWERS
@in_loop
async def test_a_store_that_is_down_is_answered_in_the_frameworks_place(
    site: Site, answer: list[Message], caplog: pytest.LogCaptureFixture
) -> None:
    """Rule 28: 503, and it is logged, whether it is down at the opening or at the commit that the accept waits for."""
    jar = await site.jar()

    async def writes(scope: Scope, receive: Receive, send: Send) -> None:
        await site.set(scope, 9)
        await receive()
        await send({"type": "websocket.accept"})

    for verb, handler in (("open", opens), ("commit", writes)):
        site.store.faults = {verb: StoreUnavailable("it is down")}
        framework = Framework(handler, *answer, when="while it is handled")
        assert await handshake(site.app(framework), jar) == [503, "503 Service Unavailable\n"]
    assert [record.getMessage() for record in caplog.records] == ["answered with 503: it is down"] * 2


@in_loop
async def test_an_answer_of_its_own_goes_out(site: Site) -> None:
    """To a bug, also after a refusal that was for a moment, or that the handler has dealt with, and with another status than 500."""

    async def breaks(scope: Scope, receive: Receive, send: Send) -> None:
        await open_session(scope)
        raise ZeroDivisionError

    theirs = [500, "Internal Server Error"]
    for when in ("after", "while it is handled"):
        assert await handshake(site.app(Framework(breaks, *DENIES, when=when)), await site.jar()) == theirs
        assert await handshake(site.app(Framework(breaks, *CLOSES, when=when)), await site.jar()) == [1011]

    async def tries_again(scope: Scope, receive: Receive, send: Send) -> None:
        site.store.faults["open"] = StoreUnavailable("it is down")
        with pytest.raises(StoreUnavailable):
            await open_session(scope)
        site.store.faults.clear()
        await breaks(scope, receive, send)

    assert await handshake(site.app(Framework(tries_again, *DENIES)), await site.jar()) == theirs

    async def deals_with_it(scope: Scope, receive: Receive, send: Send) -> None:
        with suppress(Rejected):
            await requires(site)(scope, receive, send)
        raise ZeroDivisionError

    for when in ("after", "while it is handled"):
        assert await handshake(site.app(Framework(deals_with_it, *DENIES, when=when)), await site.jar()) == theirs

    page: list[Message] = [{**DENIES[0], "status": 404}, DENIES[1]]
    assert await handshake(site.app(Framework(requires(site), *page)), await site.jar()) == [404, "Internal Server Error"]


@in_loop
async def test_a_filter_in_another_one_refuses_in_the_frameworks_place_too(site: Site) -> None:
    """With its own check, around a part of the application."""

    def named(session: Session) -> bool:
        return site.name in session

    framework = Framework(site.app(opens, check=named, error=(401, ())), *DENIES, when="while it is handled")
    assert await handshake(site.app(framework, eager=True), await site.jar()) == [401, "401 Unauthorized\n"]


@in_loop
async def test_a_refusal_leaves_no_cycle(site: Site) -> None:
    """The exception that is remembered holds the connection in its traceback: with the connection it is let go."""
    refused: list[weakref.ref[BaseException]] = []

    async def lets_it_be(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await open_session(scope)
        except Rejected as problem:
            refused.append(weakref.ref(problem))
        await receive()
        await send({"type": "websocket.accept"})

    gc.collect()
    gc.disable()
    try:
        async with Socket(site.app(lets_it_be), Jar(), headers=[EVIL]) as socket:
            await socket.accepted()
        assert [problem() for problem in refused] == [None]
    finally:
        gc.enable()
