"""Rules 7 to 9 with real threads, all at once: counts are exact, an end is one, and of several renewals one wins."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import pytest

from tests.faces import PEER
from typed_sessions import AsyncSessionManager, Conflict, Key, ListKey, MemoryStore, Request, Session, SessionManager
from typed_sessions.testing import FakeClock, login

THREADS = 8
TIMES = 50
ROUNDS = 25

Headers = list[tuple[str, str]]


@pytest.fixture(autouse=True)
def impatient() -> Iterator[None]:
    """Threads take turns as often as can be."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


class Server:
    """Managers over one store: the synchronous kind is shared by the threads, of the other each thread has one with its event loop."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.store = MemoryStore()
        self.clock = FakeClock()
        self.plain = SessionManager(self.store, clock=self.clock)

    def visitor(self) -> Callable[[dict[str, str], Callable[[Session], object]], Headers]:
        """A function for one thread: a whole request with these cookies; what it answers."""
        if self.kind == "sync":
            return self._visit
        manager = AsyncSessionManager(self.store, clock=self.clock)

        async def visit(cookies: dict[str, str], work: Callable[[Session], object]) -> Headers:
            session, finish = await manager.start_check(request(cookies))
            work(session)
            return await finish()

        return lambda cookies, work: asyncio.run(visit(cookies, work))

    def _visit(self, cookies: dict[str, str], work: Callable[[Session], object]) -> Headers:
        session, finish = self.plain.start_check(request(cookies))
        work(session)
        return finish()


def request(cookies: dict[str, str]) -> Request:
    return Request(headers=[("Cookie", "; ".join(f"{name}={value}" for name, value in cookies.items()))], peer=PEER)


def set_by(headers: Headers) -> dict[str, str]:
    """The cookies that an answer sets."""
    pairs = [value.partition(";")[0].split("=", 1) for name, value in headers if name == "Set-Cookie"]
    return {name: value for name, value in pairs if value}


def at_once(works: Sequence[Callable[[], object]]) -> list[Any]:
    """Run these in threads that begin together, and wait; what they gave. Raises what the first of them raised."""
    barrier = threading.Barrier(len(works))
    results: list[Any] = [None] * len(works)
    problems: list[BaseException] = []

    def body(number: int) -> None:
        barrier.wait()
        try:
            results[number] = works[number]()
        except BaseException as problem:
            problems.append(problem)

    threads = [threading.Thread(target=body, args=(number,), daemon=True) for number in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "a thread is stuck"
    if problems:
        raise problems[0]
    return results


def assign(key: Key[int], value: int, session: Session) -> None:
    session[key] = value


@pytest.fixture(params=["sync", "async"])
def server(request: pytest.FixtureRequest) -> Server:
    return Server(request.param)


def test_rule_07_updates_and_appends_of_many_threads_add_up(server: Server) -> None:
    """8 threads with 50 requests each: the counter is 400, and every element is in the list once, each thread's in its order."""
    visits, facts = Key("visits", int), ListKey("facts", str)
    cookies = login(server.plain, {visits: 0}, address=PEER)

    def work(number: int) -> None:
        visit = server.visitor()
        for turn in range(TIMES):

            def both(session: Session, turn: int = turn) -> None:
                session.update(visits, lambda n: n + 1)
                session[facts].append(f"{number} {turn}")

            while True:
                try:
                    visit(cookies, both)
                    break
                except Conflict:  # nothing of it was applied, so it can be done again
                    continue

    at_once([partial(work, number) for number in range(THREADS)])
    view = server.plain.get_session(request(cookies))
    assert view is not None
    assert view[visits] == THREADS * TIMES
    there = list(view[facts])
    assert len(there) == THREADS * TIMES
    for number in range(THREADS):
        assert [fact for fact in there if fact.startswith(f"{number} ")] == [f"{number} {turn}" for turn in range(TIMES)]


def test_rule_07_many_threads_write_keys_of_their_own(server: Server) -> None:
    """No thread waits for another, and none is refused: each finds its last value."""
    keys = [Key(f"key {number}", int) for number in range(THREADS)]
    cookies = login(server.plain, dict.fromkeys(keys, 0), address=PEER)

    def work(key: Key[int]) -> None:
        visit = server.visitor()
        for turn in range(TIMES):
            visit(cookies, partial(assign, key, turn))

    at_once([partial(work, key) for key in keys])
    view = server.plain.get_session(request(cookies))
    assert view is not None
    assert [view[key] for key in keys] == [TIMES - 1] * THREADS


def test_rule_08_an_end_among_many_writers_is_final(server: Server) -> None:
    """Whoever commits before or after it, no request fails, and nothing of the session is left (R1)."""
    visits, name = Key("visits", int), Key("name", str)
    for _ in range(ROUNDS):
        cookies = login(server.plain, {visits: 0}, address=PEER)
        (view,) = server.plain.all()
        handle = view.handle
        works: list[Callable[[Session], object]] = [
            lambda session: session.update(visits, lambda n: n + 1, default=0) if session.exists else None,
            lambda session: session.__setitem__(name, "back") if session.exists else None,
            lambda session: session.renew() if session.exists else None,
        ]
        visitors = [server.visitor() for _ in works]
        requests = [partial(visit, cookies, work) for visit, work in zip(visitors, works, strict=True)]
        ended, *answers = at_once([partial(server.plain.end, handle), *requests])
        assert ended is True
        for pair in (cookies, *map(set_by, answers)):
            assert server.plain.get_session(request(pair)) is None
        assert server.plain.end(handle) is False
        assert list(server.plain.all()) == []


def test_rule_09_of_many_renewals_one_wins(server: Server) -> None:
    """Four requests under one secret want another: one answer sets cookies, and only those open the session (R3)."""
    visits = Key("visits", int)
    for _ in range(ROUNDS):
        cookies = login(server.plain, {visits: 0}, address=PEER)
        visitors = [server.visitor() for _ in range(4)]

        def sign_in(session: Session) -> None:
            if session.exists:
                session.update(visits, lambda n: n + 1)
                session.renew()

        answers = at_once([partial(visit, cookies, sign_in) for visit in visitors])
        winners = [set_by(answer) for answer in answers if set_by(answer)]
        assert len(winners) == 1
        assert server.plain.get_session(request(cookies)) is None
        view = server.plain.get_session(request(winners[0]))
        assert view is not None
        assert view[visits] == 1
        assert server.plain.end(view.handle)
