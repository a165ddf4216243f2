"""The ASGI filter and what an application changes while its body goes out, or after (rules 26 and 28)."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, cast

import pytest

from tests.filters.asgi_site import Site, hello, streams
from tests.filters.servers import ASGIRequest, in_loop, scope
from tests.watched import Watched
from typed_sessions import AsyncSessionManager, StoreUnavailable
from typed_sessions.filters.asgi import Receive, Scope, Send


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
