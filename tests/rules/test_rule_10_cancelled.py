"""Rule 10 and tasks: a hook that awaits a task which it has cancelled raises CancelledError, and nobody has cancelled the request."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections import Counter
from typing import Any, cast

import pytest

from tests.faces import PEER
from tests.filters.asgi_site import Site, says
from tests.filters.servers import asgi, in_loop
from typed_sessions import AsyncSessionManager, Begin, End, Key, MemoryStore, Request
from typed_sessions.testing import FakeClock

log: list[str] = []


async def forever() -> None:
    await asyncio.get_running_loop().create_future()


async def stop(task: asyncio.Task[None]) -> None:
    """The commonest slip of a clean-up: a cancelled task raises for whoever awaits it."""
    log.append("stopped")
    task.cancel()
    await task


async def a_session(sessions: AsyncSessionManager, worker: Key[asyncio.Task[None]], word: Key[str]) -> str:
    session, finish = await sessions.start_check(Request(headers=[], peer=PEER))
    session[worker], session[word] = asyncio.create_task(forever()), "word"
    return "; ".join(value.partition(";")[0] for name, value in await finish() if name == "Set-Cookie")


@pytest.mark.parametrize("how", ["signed out", "swept", "swept in passing"])
@in_loop
async def test_rule_10_a_hook_that_raises_cancelled_error_stops_nothing_else(how: str) -> None:
    """Each session has its `End` and all of its hooks, once; whoever sweeps in passing notices nothing."""
    log.clear()
    clock = FakeClock()
    worker = Key("worker", asyncio.Task[None], resident=True, cleanup_delete=stop)
    word = Key("word", str, cleanup_delete=log.append)
    sessions = AsyncSessionManager(clock=clock)
    sessions.on(End, lambda _: log.append("End"))
    cookies = [await a_session(sessions, worker, word) for _ in range(3)]
    await asyncio.sleep(0)
    if how == "signed out":
        for cookie in cookies:
            session, finish = await sessions.start_check(Request(headers=[("Cookie", cookie)], peer=PEER))
            session.end()
            assert sum("Max-Age=0" in value for _, value in await finish()) == 2
    else:
        clock.advance(10_000)
        if how == "swept":
            assert await sessions.sweep() == 3
        else:
            session, finish = await sessions.start_check(Request(headers=[], peer=PEER))
            assert not session.exists
            await finish()
    assert sorted(log) == ["End"] * 3 + ["stopped"] * 3 + ["word"] * 3
    for _ in range(3):
        clock.advance(100)
        await sessions.sweep()
    assert len(log) == 9
    await sessions.aclose()


@in_loop
async def test_rule_10_it_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    """With the hook's name, and with the traceback that leads to it."""
    sessions = AsyncSessionManager()
    worker = Key("worker", asyncio.Task[None], resident=True, cleanup_delete=stop)
    await a_session(sessions, worker, Key("word", str))
    await asyncio.sleep(0)
    await sessions.end_all()
    [line] = [line for line in caplog.records if line.levelno == logging.ERROR]
    assert "raised CancelledError, and nobody has cancelled" in caplog.text
    assert line.exc_info is not None
    assert line.exc_info[1] is not None
    assert isinstance(line.exc_info[1].__cause__, asyncio.CancelledError)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="before Python 3.11 a task does not tell that it was cancelled")
@in_loop
async def test_rule_10_who_is_cancelled_is_cancelled() -> None:
    """A request that waits for a listener, and is given up: that is no mistake of the listener's."""
    heard = asyncio.Event()
    sessions = AsyncSessionManager()

    async def listener(_: object) -> None:
        heard.set()
        await forever()

    word = Key("word", str)
    session, finish = await sessions.start_check(Request(headers=[], peer=PEER))
    session[word] = "word"
    sessions.on(End, listener)
    await finish()
    request = asyncio.create_task(sessions.end_all())
    await heard.wait()
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()


class Hanging:
    """An asynchronous store of which a verb, as long as it hangs, does its work and never answers."""

    blocking = False

    def __init__(self, hangs_at: str = "commit") -> None:
        self.store, self.commits, self.hangs_at, self.hangs = MemoryStore(), 0, hangs_at, False

    async def _do(self, verb: str, *args: Any) -> Any:
        result = getattr(self.store, verb)(*args)
        self.commits += verb == "commit"
        if verb == self.hangs_at and self.hangs:
            await asyncio.get_running_loop().create_future()
        return result

    async def create(self, *args: Any) -> Any:
        return await self._do("create", *args)

    async def open(self, *args: Any) -> Any:
        return await self._do("open", *args)

    async def touch(self, *args: Any) -> Any:
        return await self._do("touch", *args)

    async def commit(self, *args: Any) -> Any:
        return await self._do("commit", *args)

    async def end(self, *args: Any) -> Any:
        return await self._do("end", *args)

    async def sweep(self, *args: Any) -> Any:
        return await self._do("sweep", *args)

    async def clear(self, *args: Any) -> Any:
        return await self._do("clear", *args)

    async def scan(self, *args: Any) -> Any:
        return await self._do("scan", *args)

    async def close(self) -> None:
        pass


def test_rule_28_what_a_cancelled_commit_may_have_stored_is_not_stored_again() -> None:
    """The headers' commit was given up in the middle of the call; the request is finished later, and adds nothing a second time."""

    async def test() -> None:
        store, visits = Hanging(), Key("visits", int)
        sessions = AsyncSessionManager(cast("Any", store))
        session, finish = await sessions.start_check(Request(headers=[], peer="10.1.2.3"), create=True)
        session[visits] = 1
        cookie = "; ".join(value.partition(";")[0] for name, value in await finish() if name == "Set-Cookie")
        session, finish = await sessions.start_check(Request(headers=[("Cookie", cookie)], peer="10.1.2.3"))
        session.update(visits, lambda n: n + 1)
        store.commits, store.hangs = 0, True
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(finish.start(), 0.05)
        store.hangs = False
        await finish()
        [view] = [view async for view in sessions.all()]
        assert (view[visits], store.commits) == (2, 1)
        await sessions.aclose()

    asyncio.run(test())


@pytest.mark.parametrize("how", ["with its first value", "with the request", "with a value of this process", "with a listener"])
@in_loop
async def test_rule_15_a_session_whose_creation_was_cancelled_leaves_nothing(how: str) -> None:
    """Nobody will ever learn of its id: it does not stay, to end later without having begun; and no hook of its values runs."""
    store, clock = Hanging("create"), FakeClock()
    sessions = AsyncSessionManager(cast("Any", store), clock=clock)
    name = Key("name", str, cleanup_delete=log.append)
    here = Key("here", object, resident=True)
    log.clear()
    sessions.on(End, lambda _: log.append("End"))
    if how == "with a listener":
        sessions.on(Begin, lambda _: log.append("Begin"))
    store.hangs = True
    if how == "with the request":
        call: Any = sessions.start_check(Request(headers=[], peer=PEER), create=True)
    else:
        session, finish = await sessions.start_check(Request(headers=[], peer=PEER))
        session[name] = "ann"
        if how == "with a value of this process":
            session[here] = object()
        call = finish()
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(call, 0.05)
    assert len(store.store) == 0
    clock.advance(10_000)
    assert await sessions.sweep() == 0
    assert log == []
    await sessions.aclose()


@pytest.mark.parametrize("sessions", [10, 1], ids=["room for it", "another has to make room"])
@pytest.mark.parametrize("turns", range(8))
@in_loop
async def test_rule_15_who_hears_of_an_end_has_heard_of_the_beginning(turns: int, sessions: int) -> None:
    """The client hangs up while a listener waits: what another one counts is what is there."""
    site, heard = Site(), Counter[str]()
    site.sessions = AsyncSessionManager(MemoryStore(max_sessions=sessions), clock=site.clock)

    async def waits(_: object) -> None:
        await asyncio.sleep(0)

    def begins(event: Begin) -> None:
        heard[event.session.handle] += 1

    def ends(event: End) -> None:
        heard[event.session.handle] -= 1

    for event in (Begin, End):
        site.sessions.on(event, waits)
    site.sessions.on(Begin, begins)
    site.sessions.on(End, ends)
    await site.jar()
    request = asyncio.create_task(asgi(site.app(says(lambda scope: site.set(scope, 1)))))
    for _ in range(turns):
        await asyncio.sleep(0)
    request.cancel()
    await asyncio.wait([request])
    await site.sessions.sweep()
    assert +heard == {view.handle: 1 async for view in site.sessions.all()}
    assert -heard == {}
