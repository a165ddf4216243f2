"""The ASGI filter where its own failed commit comes back to it in an exception of the framework's (rule 28)."""

from __future__ import annotations

import asyncio
import builtins
import gc
import weakref
from typing import Any, cast

import pytest

from tests.filters.asgi_site import App, Site, hello, says, streams
from tests.filters.servers import Socket, asgi, in_loop
from tests.watched import Watched
from typed_sessions import AsyncSessionManager, StoreUnavailable
from typed_sessions.filters.asgi import Receive, Scope, Send


@pytest.fixture
def site() -> Site:
    return Site()


class Wrapped(Exception):
    """What a framework makes of an exception that comes when it takes its response for begun, such as Litestar's."""


def wraps(app: App, how: str) -> App:
    async def framework(scope: Scope, receive: Receive, send: Send) -> None:
        problem: BaseException | None = None
        try:
            await app(scope, receive, send)
        except StoreUnavailable as failure:
            problem = failure
            if how == "from it":
                raise Wrapped("after the response has started") from failure
            if how == "while it is handled":
                raise Wrapped("after the response has started")  # noqa: B904
            if how == "twice":
                try:
                    raise Wrapped("after the response has started") from failure
                except Wrapped as wrapped:
                    raise OSError("the page cannot be made") from wrapped
            if how == "from None":
                raise Wrapped("the application has dealt with it") from None
            if how == "a cancellation":
                raise asyncio.CancelledError  # noqa: B904
        if how == "later":
            raise Wrapped("the application has dealt with it")
        if how == "from another":
            raise Wrapped("the application's own store is down") from StoreUnavailable("of the application's own making")
        assert problem is None

    return framework


@pytest.mark.parametrize("how", ["from it", "while it is handled", "twice"])
@pytest.mark.parametrize("waits", [False, True])
@in_loop
async def test_a_commit_that_fails_is_answered_also_if_it_comes_wrapped(
    site: Site, waits: bool, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Rule 28: nothing has left, whatever the framework takes for begun; the failure is answered, and logged once."""
    jar = await site.jar()
    site.store = Watched(site.store.store, blocking=waits)
    site.sessions = AsyncSessionManager(cast("Any", site.store), clock=site.clock)
    site.store.faults["commit"] = StoreUnavailable("it is down")
    answer = await asgi(site.app(wraps(says(lambda scope: site.set(scope, 9)), how)), jar)
    assert (answer.status, answer.all("retry-after"), answer.all("set-cookie")) == (503, ["1"], [])
    assert [record.getMessage() for record in caplog.records] == ["answered with 503: it is down"]
    del site.store.faults["commit"]
    assert await site.stored(jar) == 1


@pytest.mark.parametrize("how", ["from None", "a cancellation", "later", "from another"])
@in_loop
async def test_what_the_application_raises_for_itself_after_a_failed_commit_stays_its_own(site: Site, how: str) -> None:
    """The server gets to know of it: it is no refusal. A cancellation is never taken for one."""
    jar = await site.jar()
    site.store.faults["commit"] = StoreUnavailable("it is down")
    with pytest.raises(asyncio.CancelledError if how == "a cancellation" else Wrapped):
        await asgi(site.app(wraps(says(lambda scope: site.set(scope, 9)), how)), jar)
    del site.store.faults["commit"]
    assert await site.stored(jar) == 1


@in_loop
async def test_a_wrapped_failure_after_the_headers_goes_on_as_it_is(site: Site) -> None:
    """There is nothing to answer any more."""
    jar = await site.jar()
    site.store.faults["commit"] = StoreUnavailable("it is down")
    with pytest.raises(Wrapped):
        await asgi(site.app(wraps(streams(hello, lambda scope: site.set(scope, 9)), "from it")), jar)


@pytest.mark.parametrize("with_other", [False, True])
@in_loop
async def test_a_wrapped_failure_in_a_group(site: Site, with_other: bool) -> None:
    """As with a refusal: one that holds a mistake of the application's too is not hidden behind an answer."""
    group = getattr(builtins, "ExceptionGroup", None)
    if group is None:
        pytest.skip("this Python has no exception groups")
    jar = await site.jar()
    site.store.faults["commit"] = StoreUnavailable("it is down")

    async def grouped(scope: Scope, receive: Receive, send: Send) -> None:
        wrapped: Any = None
        try:
            await wraps(says(lambda scope: site.set(scope, 9)), "from it")(scope, receive, send)
        except Wrapped as problem:
            wrapped = problem
        raise group("tasks", [wrapped, ValueError("a bug")] if with_other else [wrapped])

    if with_other:
        with pytest.raises(group):
            await asgi(site.app(grouped), jar)
    else:
        assert (await asgi(site.app(grouped), jar)).status == 503


@in_loop
async def test_a_commit_that_fails_at_accept_is_answered_also_if_it_comes_wrapped(site: Site) -> None:
    """As over http: the handshake is refused with the failure's status."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await site.set(scope, 9)
        await receive()
        await send({"type": "websocket.accept"})

    jar = await site.jar()
    site.store.faults["commit"] = StoreUnavailable("it is down")
    async with Socket(site.app(wraps(app, "from it")), jar, denial=True) as socket:
        start = await socket.next()
        assert (start["type"], start["status"]) == ("websocket.http.response.start", 503)
    del site.store.faults["commit"]
    assert await site.stored(jar) == 1


@in_loop
async def test_a_failed_commit_leaves_no_cycle(site: Site) -> None:
    """The exception that is remembered holds the request in its traceback: with the request it is let go."""
    jar = await site.jar()
    failures: list[weakref.ref[BaseException]] = []

    class Failure(StoreUnavailable):
        pass

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await says(lambda scope: site.set(scope, 9))(scope, receive, send)
        except Failure as failure:
            failures.append(weakref.ref(failure))
            await send({"type": "http.response.start", "status": 409, "headers": []})
            await send({"type": "http.response.body", "body": b"sorry"})

    gc.collect()
    gc.disable()
    try:
        site.store.faults["commit"] = Failure("it is down")
        assert (await asgi(site.app(app), jar)).status == 409
        site.store.faults.clear()
        assert [failure() for failure in failures] == [None]
    finally:
        gc.enable()
