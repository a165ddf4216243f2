"""The ASGI filter and what an application changes while its body goes out, or after (rules 26 and 28)."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, cast

import pytest

from tests.filters.asgi_site import App, Site, hello, says, streams
from tests.filters.servers import ASGIRequest, Jar, asgi, in_loop, scope
from tests.watched import Watched
from typed_sessions import AsyncSessionManager, SessionEnded, StoreUnavailable
from typed_sessions.filters.asgi import Receive, Scope, Send, open_session


@pytest.fixture
def site() -> Site:
    return Site()


@pytest.mark.parametrize("waits", [False, True])
@in_loop
async def test_what_the_body_changes_is_committed_before_its_end_leaves(site: Site, waits: bool) -> None:
    """Who has read the end asks at once, and finds it; what comes after the end, of a background task, is committed when that is done."""
    jar = await site.jar()
    site.store = Watched(site.store.store, blocking=waits)
    site.sessions = AsyncSessionManager(cast("Any", site.store), clock=site.clock)
    seen: list[tuple[int, bool]] = []

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            seen.append((await site.stored(jar), message.get("more_body", False)))

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await streams(hello, lambda scope: site.set(scope, 2))(scope, receive, send)
        await site.set(scope, 3)

    await site.app(app)(scope(jar), ASGIRequest().receive, send)
    assert seen == [(1, True), (1, True), (2, False)]
    assert (await site.stored(jar), site.store.calls["commit"]) == (3, 2)


@in_loop
async def test_a_body_that_lasts_learns_by_refresh_what_others_did(site: Site) -> None:
    """Server-sent events: no end of the session breaks them off, so they ask; whoever is told of the end may give the body its own."""
    jar = await site.jar()

    async def news(scope: Scope) -> str:
        session = await open_session(scope)
        await asgi(site.app(says(lambda scope: site.set(scope, 2))), jar.copy())
        before = session[site.visits]
        await site.sessions.refresh(session)
        return f"{before}, then {session[site.visits]}; "

    async def end(scope: Scope) -> str:
        session = await open_session(scope)
        await site.sessions.end(session.handle)
        assert session[site.visits] == 2, "what it has read stays with it"
        with pytest.raises(SessionEnded):
            await site.sessions.refresh(session)
        return "over"

    answer = await asgi(site.app(streams(hello, news, end)), jar.copy())
    assert answer.text == "hello1, then 2; over"


@pytest.mark.parametrize("waits", [False, True])
@in_loop
async def test_a_body_that_could_not_be_committed_does_not_end(site: Site, waits: bool) -> None:
    """Rule 28: a whole response would say that it was stored. What the application makes of the error does not repeat the commit."""
    jar = await site.jar()
    site.store = Watched(site.store.store, blocking=waits)
    site.sessions = AsyncSessionManager(cast("Any", site.store), clock=site.clock)
    site.store.faults["commit"] = StoreUnavailable("it is down")

    async def indifferent(scope: Scope, receive: Receive, send: Send) -> None:
        with suppress(StoreUnavailable):
            await changing(scope, receive, send)

    changing = streams(hello, lambda scope: site.set(scope, 9))
    for app in (changing, indifferent):
        site.store.calls.clear()
        request = ASGIRequest()
        with suppress(StoreUnavailable):
            await site.app(app)(scope(jar), request.receive, request.send)
            assert app is indifferent, "the server was not told"
        assert all(message["more_body"] for message in request.sent[1:])
        assert site.store.calls["commit"] == 1
    del site.store.faults["commit"]
    assert await site.stored(jar) == 1


Step = Callable[[Scope], Awaitable[object]]
LAST: list[dict[str, Any]] = [
    {"type": "http.response.body", "body": b"end"},
    {"type": "http.response.body", "body": b"end", "more_body": False},
    {"type": "http.response.pathsend", "path": "/tmp/file"},
    {"type": "http.response.zerocopysend", "file": 3},
]


def answers(*steps: Step | dict[str, Any], first: Step | None = None) -> App:
    """An application that sends the headers, and then does what it is given: work, or a message to send."""

    async def app(scope: Scope, _: Receive, send: Send) -> None:
        if first is not None:
            await first(scope)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for step in steps:
            await (step(scope) if callable(step) else send(step))

    return app


async def run(site: Site, jar: Jar, app: App) -> None:
    request = ASGIRequest()
    await site.app(app)(scope(jar), request.receive, request.send)


MORE: dict[str, Any] = {"type": "http.response.body", "body": b"more", "more_body": True}


@pytest.mark.parametrize("opened", ["before the headers", "in the body"])
@pytest.mark.parametrize("waits", [False, True])
@in_loop
async def test_what_a_body_without_an_end_has_changed_is_dropped(
    site: Site, waits: bool, opened: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Its client has gone, or it has failed, and the framework has swallowed that: half of a change is none. The log says so."""
    jar = await site.jar()
    site.store = Watched(site.store.store, blocking=waits)
    site.sessions = AsyncSessionManager(cast("Any", site.store), clock=site.clock)
    first = open_session if opened == "before the headers" else None
    await run(site, jar, answers(open_session, MORE, lambda scope: site.set(scope, 9), first=first))
    [record] = caplog.records
    assert (record.levelno, record.name) == (logging.WARNING, "typed_sessions")
    for text in ("'/'", "did not come to its end", "keys ['visits']"):
        assert text in record.getMessage()
    assert (await site.stored(jar), site.store.calls["commit"]) == (1, 0)


@in_loop
async def test_what_came_before_the_headers_is_committed_whatever_the_body_does(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """And what the application has committed itself. Where nothing is lost, nothing is logged."""
    jar = await site.jar()

    async def commit(scope: Scope) -> None:
        await site.set(scope, 3)
        await site.sessions.commit(await open_session(scope))

    await run(site, jar, answers(MORE, first=lambda scope: site.set(scope, 2)))
    assert await site.stored(jar) == 2
    await run(site, jar, answers(MORE, commit, MORE))
    assert (await site.stored(jar), caplog.records) == (3, [])


@pytest.mark.parametrize("opened", ["before the headers", "in the body", "in the task"])
@pytest.mark.parametrize("last", LAST, ids=str)
@in_loop
async def test_what_a_background_task_changes_after_the_end_is_committed(
    site: Site, last: dict[str, Any], opened: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever kind of message ends the body, and also if nobody has looked at the session until then."""
    jar = await site.jar()
    body: list[Any] = [MORE, open_session, MORE] if opened == "in the body" else [MORE]
    first = open_session if opened == "before the headers" else None
    await run(site, jar, answers(*body, last, lambda scope: site.set(scope, 9), first=first))
    assert (await site.stored(jar), caplog.records) == (9, [])
