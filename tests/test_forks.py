"""Forks out of a process whose other threads are at work: a child serves, and no lock of its parent's threads stays locked in it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.faces import PEER
from typed_sessions import AsyncSessionManager, End, Key, MemoryStore, Request, SessionManager, SQLiteStore
from typed_sessions.testing import alogin, isolated_keys, login

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks here"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"),  # that is what is tested
]

FORKS = int(os.environ.get("FORKS", "25"))
"""How many children each test with busy threads has, at most; and so many seconds:"""
LONGEST = 10.0
PATIENCE = 20
"""Seconds after which a child hangs."""


def in_a_child(work: Callable[[], object]) -> int:
    """The exit status of a forked child that does this: 0, or -SIGALRM if it hangs."""
    child = os.fork()
    if child == 0:  # pragma: no cover  # in another process
        status = 1
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(PATIENCE)
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def locks_of(*roots: object) -> Iterator[Any]:
    """Every lock that can be reached from these through our own objects and the containers in them."""
    seen: set[int] = set()
    left = list(roots)
    while left:
        thing = left.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if hasattr(thing, "acquire") and hasattr(thing, "release"):
            yield thing
        elif isinstance(thing, dict):
            left += [*thing.keys(), *thing.values()]
        elif isinstance(thing, (list, tuple, set, frozenset)):
            left += thing
        elif type(thing).__module__.startswith("typed_sessions"):
            left += vars(thing).values() if hasattr(thing, "__dict__") else ()
            names = [name for base in type(thing).__mro__ for name in getattr(base, "__slots__", ())]
            left += [getattr(thing, name) for name in names if hasattr(thing, name)]


@contextmanager
def held_by_another_thread(locks: list[Any]) -> Generator[None]:
    """All of these locks, within the block."""
    holding, done = threading.Event(), threading.Event()

    def hold() -> None:
        for lock in locks:
            lock.acquire()
        holding.set()
        done.wait()
        for lock in locks:
            lock.release()

    thread = threading.Thread(target=hold)
    thread.start()
    assert holding.wait(PATIENCE)
    try:
        yield
    finally:
        done.set()
        thread.join()


@contextmanager
def busy(*works: Callable[[], object]) -> Generator[None]:
    """Each of these is done again and again in a thread of its own; within the block all of them have begun."""
    stop = threading.Event()
    begun = [threading.Event() for _ in works]
    failed: list[BaseException] = []

    def loop(work: Callable[[], object], once: threading.Event) -> None:
        try:
            while not stop.is_set():
                work()
                once.set()
        except BaseException as problem:
            failed.append(problem)
            once.set()

    threads = [threading.Thread(target=loop, args=pair) for pair in zip(works, begun, strict=True)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)  # so that threads are stopped in the middle of something more often
    for thread in threads:
        thread.start()
    try:
        assert all(each.wait(PATIENCE) for each in begun)
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        sys.setswitchinterval(interval)
    assert not failed


def forks(work: Callable[[], object]) -> list[int]:
    """The statuses of children that do this, one after the other, up to the first that does not do it."""
    statuses: list[int] = []
    begin = time.monotonic()
    while len(statuses) < FORKS and time.monotonic() < begin + LONGEST and not any(statuses):
        statuses.append(in_a_child(work))
    return statuses


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MemoryStore | SQLiteStore]:
    store = MemoryStore() if request.param == "memory" else SQLiteStore(tmp_path / "sessions.db")
    yield store
    store.close()


@pytest.fixture(scope="module")
def keys() -> Iterator[tuple[Key[int], Key[object]]]:
    with isolated_keys():
        yield Key("forked hits", int), Key("forked socket", object, resident=True)


def request_of(cookies: dict[str, str], client: Any = None) -> Request:
    headers = [("Cookie", "; ".join(f"{name}={value}" for name, value in cookies.items()))]
    return Request(headers=headers, peer=PEER, client=client)


def visitor(manager: SessionManager, keys: tuple[Key[int], Key[object]]) -> Callable[[], None]:
    """A visitor with a session, and what one visit of theirs does: it takes every lock that a request may take."""
    hits, socket = keys
    cookies = login(manager, {hits: 0}, address=PEER)

    def visit() -> None:
        with manager.connect(PEER, lambda: None) as client:
            for sent_by in (client, None):
                session, finish = manager.start_check(request_of(cookies, sent_by))
                session[socket] = object()
                session.update(hits, lambda count: count + 1)
                finish()
        manager.on(End, lambda _: None)()

    return visit


def ended(manager: SessionManager, keys: tuple[Key[int], Key[object]]) -> None:
    """A session that begins and ends."""
    session, finish = manager.start_check(request_of(login(manager, {keys[0]: 0}, address=PEER)))
    session.end()
    finish()


def test_every_lock_is_free_in_a_child(store: MemoryStore | SQLiteStore, keys: tuple[Key[int], Key[object]], tmp_path: Path) -> None:
    """R7: whatever lock another thread held at the fork, the child's is another. All of them are held here."""
    manager = SessionManager(store)
    visit = visitor(manager, keys)
    if isinstance(store, MemoryStore):
        manager.save_sessions(tmp_path / "snapshot")
    visit()
    locks = list({id(lock): lock for lock in locks_of(manager, store)}.values())
    assert len(locks) >= 5, "there are some to be found"

    def child() -> None:
        assert not [lock for lock in locks_of(manager, store) if not lock.acquire(blocking=False)]

    def visited() -> None:
        visit()
        ended(manager, keys)

    with held_by_another_thread(locks):
        statuses = [in_a_child(child), in_a_child(visited)]
    assert statuses == [0, 0]
    visit()  # the parent goes on with its own
    manager.close()


def test_a_child_serves_while_threads_of_its_parent_do(store: MemoryStore | SQLiteStore, keys: tuple[Key[int], Key[object]]) -> None:
    """Visits with and without a connection, resident values, listeners, sessions that begin and end: in four threads, and in children."""
    manager = SessionManager(store)
    visits = [visitor(manager, keys) for _ in range(3)]

    def child() -> None:
        visits[0]()
        visitor(manager, keys)()
        ended(manager, keys)

    with busy(*visits, lambda: ended(manager, keys)):
        statuses = forks(child)
    assert not any(statuses)
    assert statuses
    manager.close()


def test_a_child_is_closed_while_its_parent_saves(keys: tuple[Key[int], Key[object]], tmp_path: Path) -> None:
    """Snapshots and a journal that is written to belong to the parent; a child can let go of them, and save to a file of its own."""
    manager = SessionManager(MemoryStore())
    for _ in range(300):
        login(manager, {keys[0]: 0}, address=PEER)
    snapshot = tmp_path / "snapshot"

    def child() -> None:
        manager.save_sessions(tmp_path / f"of {os.getpid()}")
        manager.close()

    with busy(lambda: manager.save_sessions(snapshot), lambda: ended(manager, keys)):
        statuses = forks(child)
    assert not any(statuses)
    assert statuses
    manager.close()


def test_a_child_has_an_event_loop_of_its_own(keys: tuple[Key[int], Key[object]], tmp_path: Path) -> None:
    """The threads in which a store that blocks is called are not in the child: it makes its own, while the parent's are at work."""
    manager = AsyncSessionManager(SQLiteStore(tmp_path / "sessions.db"))
    hits = keys[0]

    async def visits(count: int) -> int:
        cookies = await alogin(manager, {hits: 0}, address=PEER)
        for _ in range(count):
            session, finish = await manager.start_check(request_of(cookies))
            session.update(hits, lambda number: number + 1)
            await finish()
        session, finish = await manager.start_check(request_of(cookies))
        visited = session.get(hits) or 0
        session.end()
        await finish()
        return visited

    def serve() -> None:
        assert asyncio.run(visits(5)) == 5

    with busy(serve, serve):
        statuses = forks(serve)
    assert not any(statuses)
    assert statuses
    asyncio.run(manager.aclose())
