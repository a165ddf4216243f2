"""SQLiteStore under `AsyncSessionManager`: what its requests wait for while somebody else holds the file's lock."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.stores.records import IDLE, NOW, found, started, use
from typed_sessions import AsyncSessionManager, Key, Request, SQLiteStore, StoreUnavailable
from typed_sessions.changes import Use
from typed_sessions.finish import AsyncFinish
from typed_sessions.offloop import WRITERS
from typed_sessions.testing import FakeClock

DEADLINE = 0.5
SLACK = 0.6
"""For a busy machine; what is not kept takes a multiple of the deadline."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sessions.db"


@pytest.fixture
def lock(path: Path) -> Iterator[sqlite3.Connection]:
    """Somebody else, who can write to the file."""
    SQLiteStore(path).close()
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    yield other
    other.close()


def request(cookies: str = "") -> Request:
    return Request(headers=[("Cookie", cookies)] if cookies else [], peer="10.1.2.3")


async def signed_in(sessions: AsyncSessionManager, visits: Key[int], *, used: bool = True) -> str:
    """The cookies of a session of its own; `used`, by a second request too, so that its next use need not be written."""
    session, finish = await sessions.start_check(request(), create=True)
    session[visits] = 0
    headers = await finish()
    cookies = "; ".join(value.partition(";")[0] for name, value in headers if name == "Set-Cookie")
    if used:
        _, finish = await sessions.start_check(request(cookies))
        await finish()
    return cookies


async def timed(work: Coroutine[Any, Any, object]) -> tuple[float, object]:
    """How long it took, and what it gave or raised as `StoreUnavailable`."""
    begin = time.monotonic()
    try:
        result = await work
    except StoreUnavailable as problem:
        result = problem
    return time.monotonic() - begin, result


@pytest.mark.parametrize("what", ["commits", "first uses"])
def test_nobody_waits_for_all_the_others(path: Path, lock: sqlite3.Connection, what: str) -> None:
    """Ten times as many writers as threads: each is told within its deadline for a thread and one for the file that nothing was done,
    and a request that only reads waits for none of them. When the lock is free they are as good as new."""
    visits = Key("visits", int)

    async def program() -> None:
        store = SQLiteStore(path, deadline=DEADLINE)
        sessions = AsyncSessionManager(store, clock=FakeClock(NOW))
        reader = await signed_in(sessions, visits)
        cookies = [await signed_in(sessions, visits, used=what == "commits") for _ in range(10 * WRITERS)]

        async def use_it(cookie: str) -> int:
            session, _ = await sessions.start_check(request(cookie))
            return session[visits]

        async def written(cookie: str) -> AsyncFinish:
            session, finish = await sessions.start_check(request(cookie))
            session.update(visits, lambda visits: visits + 1)
            return finish

        waiting = [(await written(cookie))() if what == "commits" else use_it(cookie) for cookie in cookies]
        lock.execute("BEGIN IMMEDIATE")
        writers = [asyncio.create_task(timed(work)) for work in waiting]
        await asyncio.sleep(0)  # all of them have asked
        took, read = await timed(use_it(reader))
        assert read == 0
        assert took < SLACK
        told = await asyncio.gather(*writers)
        lock.execute("ROLLBACK")
        assert all(isinstance(answer, StoreUnavailable) and not answer.unknown for _, answer in told)
        assert max(took for took, _ in told) < 2 * DEADLINE + SLACK
        assert [await use_it(cookie) for cookie in cookies] == [0] * len(cookies)
        await (await written(cookies[0]))()
        assert await use_it(cookies[0]) == 1
        await sessions.aclose()

    asyncio.run(asyncio.wait_for(program(), 60))


def test_the_option_bounds_the_queue(path: Path, lock: sqlite3.Connection) -> None:
    """A manager's `deadline` that is shorter than the store's is how long a call waits for a thread; one changed later counts too."""
    visits = Key("visits", int)

    async def program() -> None:
        store = SQLiteStore(path, deadline=2)
        assert store.deadline == 2
        sessions = AsyncSessionManager(store, deadline=30)
        sessions.set_options(deadline=0.2)
        lock.execute("BEGIN IMMEDIATE")
        told = await asyncio.gather(*(timed(signed_in(sessions, visits)) for _ in range(2 * WRITERS)))
        lock.execute("ROLLBACK")
        quick = [answer for took, answer in told if took < 1]
        assert len(quick) == WRITERS
        assert all(isinstance(answer, StoreUnavailable) for _, answer in told)
        assert "kept every thread busy" in str(quick[0])
        assert [view async for view in sessions.all()] == []
        await sessions.aclose()

    asyncio.run(asyncio.wait_for(program(), 60))


def test_trying_to_open(path: Path, lock: sqlite3.Connection) -> None:
    """`try_open` gives what `open` gives where nothing is to be written, and otherwise says that it is not all, and writes nothing."""
    store = SQLiteStore(path, deadline=DEADLINE)
    record = started(store)
    fresh = found(store, record)
    assert fresh is not None

    def attempt(use: Use | None, now: float = NOW, locator: bytes = record.locator) -> tuple[bytes | None, bool]:
        there, complete = store.try_open(locator, use, IDLE, now)
        return None if there is None else there.packed, complete

    mine = use(record)
    lock.execute("BEGIN IMMEDIATE")
    assert attempt(mine) == (None, False)
    assert attempt(None) == (fresh.packed, True)
    assert attempt(mine, locator=bytes(16)) == (None, True)
    lock.execute("ROLLBACK")
    unchanged = found(store, record)
    assert unchanged is not None
    assert unchanged.packed == fresh.packed
    store.open(record.locator, mine, IDLE, NOW)
    used = found(store, record)
    assert used is not None
    assert attempt(mine, NOW + 1) == (used.packed, True)
    assert attempt(mine, NOW + 60) == (None, False)
    store.end(record.locator, "ended", NOW, 60)
    assert attempt(mine) == (None, True)
    store.close()
