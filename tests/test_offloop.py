"""A store that blocks, called from event loops: what begins, what never does, in which threads, and that nothing hangs."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest

from typed_sessions import StoreUnavailable
from typed_sessions.offloop import WRITERS, OffLoop

PATIENCE = 30.0
ROOT = Path(__file__).resolve().parent.parent


class Gated:
    """A store of somebody's own, as far as it matters here: every verb says its argument, and waits until the gate is open."""

    blocking = True

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.reading = threading.Event()
        self.began: list[str] = []
        self.ended: list[str] = []
        self.threads: set[threading.Thread] = set()
        self.closed = 0

    def commit(self, name: str) -> str:
        self.began.append(name)
        self.threads.add(threading.current_thread())
        assert self.gate.wait(PATIENCE)
        self.ended.append(name)
        return name

    def open(self, name: str) -> str:
        self.threads.add(threading.current_thread())
        return f"{name} as it is"

    def scan(self, name: str) -> str:
        return self.open(name)

    def close(self) -> None:
        self.closed += 1


class Trying(Gated):
    """One that can tell whether `open` has to write."""

    def open(self, name: str) -> str:
        return self.commit(name)

    def try_open(self, name: str) -> tuple[str | None, bool]:
        return (None, False) if name == "unwritten" else (super().open(name), True)


class Wrapped:
    """One that changes what another opens, and hands on everything else."""

    def __init__(self, inner: Trying) -> None:
        self.inner = inner

    def open(self, name: str) -> str:
        return f"not {name}"

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


@pytest.fixture
def store() -> Iterator[Gated]:
    store = Gated()
    yield store
    store.gate.set()


def off(store: Any) -> OffLoop:
    """Any: of a store, only what is called has to be there."""
    return OffLoop(store)


async def until(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < give_up
        await asyncio.sleep(0.001)


async def filled(offloop: OffLoop, store: Gated) -> list[asyncio.Task[Any]]:
    """Every thread of those that write is waiting at the gate."""
    tasks = [asyncio.create_task(offloop.ask(PATIENCE, store.commit, (f"first {number}",))) for number in range(WRITERS)]
    await until(lambda: len(store.began) == WRITERS)
    return tasks


def run(program: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(program, PATIENCE))


def test_what_has_not_begun_in_time_never_begins(store: Gated) -> None:
    """It is refused at the deadline, with nothing done; those before it go on, and afterwards there is room again."""

    async def program() -> None:
        offloop = off(store)
        first = await filled(offloop, store)
        begin = time.monotonic()
        late = await asyncio.gather(*(offloop.ask(0.2, store.commit, ("late",)) for _ in range(3)), return_exceptions=True)
        assert 0.2 <= time.monotonic() - begin < 5
        for problem in late:
            assert isinstance(problem, StoreUnavailable)
            assert not problem.unknown
        store.gate.set()
        assert await asyncio.gather(*first) == [f"first {number}" for number in range(WRITERS)]
        assert await offloop.ask(0.2, store.commit, ("after",)) == "after"
        assert "late" not in store.began
        await offloop.close()

    run(program())


def test_the_store_s_own_deadline_counts_if_it_is_shorter(store: Gated) -> None:
    """Whoever has given the store a deadline of a moment does not wait for a thread for longer."""

    async def program() -> None:
        offloop = off(store)
        await filled(offloop, store)
        vars(store)["deadline"] = 0.1
        with pytest.raises(StoreUnavailable, match="nothing was done"):
            await offloop.ask(PATIENCE, store.commit, ("late",))
        store.gate.set()

    run(program())


def test_a_thread_that_comes_free_too_late_begins_nothing(store: Gated) -> None:
    """The loop hangs past the deadline, so that nobody takes the call out of the queue: the thread that finds it lets it be."""

    async def program() -> None:
        offloop = off(store)
        await filled(offloop, store)
        late = asyncio.create_task(offloop.ask(0.05, store.commit, ("late",)))
        await asyncio.sleep(0)
        give_up = time.monotonic() + PATIENCE
        over = time.monotonic() + 0.06
        while time.monotonic() < over or len(store.ended) < WRITERS:
            if time.monotonic() >= over:
                store.gate.set()
            assert time.monotonic() < give_up
        with pytest.raises(StoreUnavailable, match="nothing was done"):
            await late
        assert await offloop.ask(PATIENCE, store.commit, ("after",)) == "after"
        assert "late" not in store.began

    run(program())


def test_reading_waits_for_no_writer(store: Gated) -> None:
    """`open` and `scan` are answered while every writer waits."""

    async def program() -> None:
        offloop = off(store)
        await filled(offloop, store)
        assert await offloop.ask(PATIENCE, store.open, ("ann",)) == "ann as it is"
        assert await offloop.ask(PATIENCE, store.scan, ("all",)) == "all as it is"
        assert not store.ended
        store.gate.set()

    run(program())


def test_an_open_that_has_to_write_waits_with_the_writers() -> None:
    """However many of them wait, those that only read do not wait behind them."""
    store = Trying()

    async def program() -> None:
        offloop = off(store)
        writing = [asyncio.create_task(offloop.ask(PATIENCE, store.open, ("unwritten",))) for _ in range(2 * WRITERS)]
        await until(lambda: len(store.began) == WRITERS)
        assert await offloop.ask(PATIENCE, store.open, ("ann",)) == "ann as it is"
        assert not store.ended
        store.gate.set()
        assert await asyncio.gather(*writing) == ["unwritten"] * (2 * WRITERS)

    run(program())


def test_a_store_that_wraps_another_is_not_passed_by() -> None:
    """Its `open` is asked, though it hands on the `try_open` of the one inside."""
    wrapped = Wrapped(Trying())

    async def program() -> None:
        assert await off(wrapped).ask(PATIENCE, wrapped.open, ("ann",)) == "not ann"

    run(program())


def test_who_is_cancelled(store: Gated) -> None:
    """What has not begun never does; what has begun goes on to its end."""

    async def program() -> None:
        offloop = off(store)
        first = await filled(offloop, store)
        queued = asyncio.create_task(offloop.ask(PATIENCE, store.commit, ("queued",)))
        await asyncio.sleep(0)
        for task in (queued, first[0]):
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        store.gate.set()
        await asyncio.gather(*first[1:])
        assert await offloop.ask(PATIENCE, store.commit, ("after",)) == "after"
        await until(lambda: len(store.ended) == WRITERS + 1)
        assert "first 0" in store.ended
        assert "queued" not in store.began

    run(program())


def test_what_a_verb_raises_and_sees() -> None:
    """Its exception is the caller's, its context is a copy of the caller's, and its thread says whose it is."""
    who = ContextVar("who", default="nobody")

    class Store(Gated):
        def commit(self, name: str) -> str:
            seen = f"{who.get()} in {threading.current_thread().name}"
            who.set(name)
            raise KeyError(seen)

    store = Store()

    async def program() -> None:
        who.set("ann")
        with pytest.raises(KeyError, match="ann in typed_sessions_0"):
            await off(store).ask(PATIENCE, store.commit, ("bob",))
        assert who.get() == "ann"

    run(program())


def test_one_loop_after_the_other(store: Gated) -> None:
    """Each of them closes, and the next one goes on; the threads of all have ended then."""
    offloop = off(store)
    store.gate.set()

    async def program() -> None:
        assert await offloop.ask(PATIENCE, store.commit, ("ann",)) == "ann"
        assert await offloop.ask(PATIENCE, store.open, ("ann",)) == "ann as it is"
        await offloop.close()
        await until(lambda: not any(thread.is_alive() for thread in store.threads))

    for _ in range(3):
        run(program())
    assert store.closed == 3
    assert len(store.threads) >= 3


def test_several_loops_at_once(store: Gated) -> None:
    """Every call of every loop is answered, those between which somebody is cancelled too: no thread's place is lost."""
    offloop = off(store)
    store.gate.set()
    answers: list[object] = []

    async def program() -> None:
        for _ in range(20):
            tasks = [asyncio.create_task(offloop.ask(PATIENCE, store.commit, (str(number),))) for number in range(3 * WRITERS)]
            await asyncio.sleep(0)
            tasks[0].cancel()
            tasks[-1].cancel()
            answers.extend(await asyncio.gather(*tasks[1:-1]))

    threads = [threading.Thread(target=lambda: run(program())) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 3 * 20 * (3 * WRITERS - 2)
    store.gate.clear()

    async def afterwards() -> None:
        del store.began[:]
        await filled(offloop, store)
        store.gate.set()

    run(afterwards())


def test_closing_waits_for_nobody(store: Gated) -> None:
    """While every thread hangs in the store, it is closed all the same; and they end when they can."""

    async def program() -> None:
        offloop = off(store)
        first = await filled(offloop, store)
        await asyncio.wait_for(offloop.close(), 10)
        assert store.closed == 1
        assert not store.ended
        store.gate.set()
        await asyncio.gather(*first)
        await until(lambda: not any(thread.is_alive() for thread in store.threads))

    run(program())


def test_a_loop_that_is_gone(store: Gated, caplog: pytest.LogCaptureFixture) -> None:
    """It was stopped in the middle of a call, and closed: the call comes to its end, and nobody complains."""
    offloop = off(store)
    loop = asyncio.new_event_loop()
    task = loop.create_task(offloop.ask(PATIENCE, store.commit, ("ann",)))
    loop.run_until_complete(until(lambda: store.began == ["ann"]))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(task)
    loop.close()
    store.gate.set()

    async def after() -> None:
        assert await offloop.ask(PATIENCE, store.commit, ("bob",)) == "bob"
        await until(lambda: len(store.ended) == 2)

    run(after())
    assert not caplog.records


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")  # that is what is tested
def test_a_child_has_threads_of_its_own(store: Gated) -> None:
    """The threads that were made before a fork are not in the child, whose calls are answered all the same; nor is what was queued."""
    offloop = off(store)

    async def program() -> None:
        await filled(offloop, store)
        queued = asyncio.create_task(offloop.ask(PATIENCE, store.commit, ("queued",)))
        await asyncio.sleep(0)
        child = os.fork()
        if child == 0:
            os._exit(in_the_child(offloop, store))
        status = await asyncio.to_thread(os.waitpid, child, 0)
        assert os.waitstatus_to_exitcode(status[1]) == 0
        store.gate.set()
        assert await queued == "queued"
        await offloop.close()

    run(program())


def in_the_child(offloop: OffLoop, store: Gated) -> int:
    said: list[object] = []

    async def program() -> None:
        store.gate.set()
        said.append(await offloop.ask(PATIENCE, store.commit, ("child",)))
        await offloop.close()

    # In a thread, since the loop of the parent counts as running in this one.
    thread = threading.Thread(target=lambda: run(program()))
    thread.start()
    thread.join(PATIENCE)
    return 0 if said == ["child"] and "queued" not in store.began else 1


def test_a_program_that_closes_nothing_ends() -> None:
    """Threads that wait for work keep no interpreter from ending."""
    program = """
import asyncio, tempfile
from typed_sessions import AsyncSessionManager, Request, SQLiteStore

async def main():
    session, finish = await sessions.start_check(Request(headers=[], peer="10.1.2.3"), create=True)
    await finish()

with tempfile.TemporaryDirectory() as folder:
    sessions = AsyncSessionManager(SQLiteStore(folder + "/sessions.db"))
    asyncio.run(main())
    asyncio.run(main())
"""
    subprocess.run([sys.executable, "-W", "error", "-c", program], cwd=ROOT, check=True, timeout=60)
