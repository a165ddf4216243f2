"""The tasks of an `AsyncSessionManager` whose program has several event loops, one after the other, as tests and scripts have."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable, Coroutine
from contextvars import ContextVar, copy_context
from pathlib import Path
from typing import Any

import pytest

from typed_sessions import AsyncSessionManager, End, Key, MemoryStore, SessionManager
from typed_sessions import Request as Asked
from typed_sessions.testing import alogin, isolated_keys


def in_a_loop_that_is_only_closed(work: Coroutine[Any, Any, None]) -> None:
    """Unlike `asyncio.run`, this leaves its tasks as they are."""
    loop = asyncio.new_event_loop()
    loop.run_until_complete(work)
    for task in asyncio.all_tasks(loop):
        task._log_destroy_pending = False  # type: ignore[attr-defined]  # its own complaint, which would be an error here
    loop.close()


@pytest.mark.parametrize("run", [asyncio.run, in_a_loop_that_is_only_closed])
def test_each_loop_begins_them_again_and_any_closes(tmp_path: Path, run: Callable[[Coroutine[Any, Any, None]], None]) -> None:
    """The first request in a loop begins autosave and the sweep there; `aclose` saves, whichever loop it is awaited in."""
    with isolated_keys():
        user = Key("user", str)
        sessions = AsyncSessionManager(gc="active")
        sessions.autosave(tmp_path / "sessions", every=3600)

        async def serve() -> None:
            await alogin(sessions, {user: "ann"})
            assert len(asyncio.all_tasks()) == 3  # with this one

        run(serve())
        run(serve())
        asyncio.run(sessions.aclose())

        async def count() -> int:
            return await AsyncSessionManager(MemoryStore()).load_sessions(tmp_path / "sessions")

        assert asyncio.run(count()) == 2


class Request:
    """What one request has, and is gone with it."""


REQUEST: ContextVar[Request] = ContextVar("REQUEST")
ASKED = Asked(headers=(), peer="192.0.2.1")


def test_what_is_begun_in_a_request_does_not_keep_it(tmp_path: Path) -> None:
    """Autosave and the sweep go on for as long as the process; the context of the first request, with all that is in it, does not."""
    kept: list[weakref.ref[Request]] = []

    def first() -> None:
        request = Request()
        REQUEST.set(request)
        kept.append(weakref.ref(request))

    async def serve() -> None:
        async def handle() -> None:
            first()
            session, finish = await asyncs.start_check(ASKED)
            assert not session.exists
            await finish()

        await asyncio.create_task(handle())
        await asyncio.sleep(0)  # the loop itself lets go of it
        gc.collect()
        assert [request() for request in kept] == [None]
        await asyncs.aclose()

    asyncs = AsyncSessionManager(gc="active")
    asyncio.run(serve())

    def handle() -> None:
        first()
        syncs.autosave(tmp_path / "sessions", every=3600)

    syncs = SessionManager()
    copy_context().run(handle)
    gc.collect()
    assert [request() for request in kept] == [None, None]
    syncs.close()


def test_closing_twice_at_the_same_time(tmp_path: Path) -> None:
    """A lifespan and the handler of a signal, say: the second waits for the first, and both have saved."""
    sessions = AsyncSessionManager()

    async def close() -> None:
        await asyncio.gather(*(sessions.aclose() for _ in range(5)))

    for number in range(20):
        sessions.autosave(tmp_path / f"sessions {number}", every=3600)
        asyncio.run(close())
        assert (tmp_path / f"sessions {number}").exists()


@pytest.mark.parametrize("turns", range(8))
def test_closing_that_is_given_up_interrupts_nobody(turns: int) -> None:
    """A time limit for the shutdown ends while `aclose` waits for a sign-out: that has its answer, and every hook has run, once."""
    with isolated_keys():
        log: list[str] = []
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def slow(value: str) -> None:
            begun.set()
            await go_on.wait()
            log.append(value)

        first, second = Key("first", str, cleanup_delete=slow), Key("second", str, cleanup_delete=log.append)
        sessions = AsyncSessionManager()

        async def close() -> None:
            await alogin(sessions, {first: "first", second: "second"})
            ending = asyncio.create_task(sessions.end_all())
            await begun.wait()
            closing = asyncio.create_task(sessions.aclose())
            for _ in range(turns):
                await asyncio.sleep(0)
            closing.cancel()
            await asyncio.wait([closing])
            assert closing.cancelled()
            go_on.set()
            assert await asyncio.wait_for(ending, 20) == 1
            await sessions.aclose()

        asyncio.run(close())
        assert log == ["first", "second"]


def test_a_listener_of_the_end_may_close() -> None:
    """It runs in a task that closing would wait for."""
    with isolated_keys():
        user = Key("user", str)
        sessions = AsyncSessionManager()

        async def stop(_: End) -> None:
            await sessions.aclose()

        async def end() -> int:
            await alogin(sessions, {user: "ann"})
            sessions.on(End, stop)
            return await asyncio.wait_for(sessions.end_all(), 20)

        assert asyncio.run(end()) == 1


def test_a_listener_closes_what_is_being_closed() -> None:
    """Neither waits for the other."""
    with isolated_keys():
        user = Key("user", str)
        sessions = AsyncSessionManager()
        told, go_on = asyncio.Event(), asyncio.Event()

        async def stop(_: End) -> None:
            told.set()
            await go_on.wait()
            await sessions.aclose()

        async def close() -> None:
            await alogin(sessions, {user: "ann"})
            sessions.on(End, stop)
            ending = asyncio.create_task(sessions.end_all())
            await told.wait()
            closing = asyncio.create_task(sessions.aclose())
            while sessions.turn is None:
                await asyncio.sleep(0)  # until closing has begun
            go_on.set()
            await asyncio.wait_for(asyncio.gather(ending, closing), 20)

        asyncio.run(close())
