"""Many processes on one store at once, and servers that are killed under them. `TOGETHER_SECONDS=60`, `SERVER_KILLS=50` make it longer."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from base64 import urlsafe_b64decode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import require
from tests.faces import PEER
from tests.postgres_server import PostgresServer
from tests.redis_server import RedisServer
from tests.stores.history import Added, Ended, Event, Looked, heard, violations
from tests.stores.records import IDLE, NOW, found, new, use, value_of, write
from typed_sessions import Key, ListKey, Request, SessionManager, StoreUnavailable, open_store

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent.parent
SECONDS = float(os.environ.get("TOGETHER_SECONDS", "2"))
KILLS = int(os.environ.get("SERVER_KILLS", "3"))
PROCESSES = 8
MORTALS = 40


def sessions_of(manager: SessionManager, count: int) -> list[str]:
    """New sessions; their handles."""
    handles: list[str] = []
    for _ in range(count):
        _, finish = manager.start_check(Request(headers=(), peer=PEER), create=True)
        finish()
        handles.append(urlsafe_b64decode(finish.cookies[0].value)[:16].hex())
    return handles


@pytest.mark.parametrize("count", [1, 100])
def test_eight_processes(store_url: str, count: int) -> None:
    """What was acknowledged is there, once, in each process's order; the counter is as long as the list; what has ended is never alive."""
    manager = SessionManager(open_store(store_url), timeout=None)
    handles, mortals = sessions_of(manager, count), sessions_of(manager, MORTALS)
    program = str(Path(__file__).with_name("together_process.py"))
    running = [
        subprocess.Popen(
            [sys.executable, "-W", "error", program, store_url, str(me), str(SECONDS), ",".join(handles), ",".join(mortals)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for me in range(PROCESSES)
    ]
    for process in running:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in running:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    histories: list[list[Event]] = []
    for process in running:
        output, _ = process.communicate(timeout=SECONDS + 120)
        assert process.returncode == 0
        histories.append(heard(output.splitlines()))
    views = {view.handle: view for view in manager.all()}
    counter, facts = Key("counter", int), ListKey("facts", str)
    counters = {handle: views[handle].get(counter, 0) for handle in handles}
    stored = {handle: list(views[handle][facts]) for handle in handles}
    events = [event for history in histories for event in history]
    ended = {event.session for event in events if isinstance(event, Ended)}
    acknowledged = sum(isinstance(event, Added) and event.known for event in events)
    looks = sum(isinstance(event, Looked) for event in events)
    print(f"{acknowledged} commits acknowledged, {looks} looks, {len(ended)} sessions ended, {sum(counters.values())} counted")
    assert violations(histories, counters, stored) == []
    assert acknowledged > 50
    assert ended
    assert not ended & set(views)
    manager.close()


A, B = "session a", "session b"


@pytest.mark.parametrize(
    ("histories", "counters", "facts", "complaint"),
    [
        ([[Added(A, "0 0"), Added(A, "0 1")]], {A: 1}, {A: ["0 0"]}, "lost: 0 1"),
        ([[Added(A, "0 0")]], {A: 2}, {A: ["0 0", "0 0"]}, "there more than once: 0 0"),
        ([[Added(A, "0 0")]], {A: 2}, {A: ["0 0", "1 0"]}, "from nowhere: 1 0"),
        ([[Added(A, "0 0")]], {A: 0}, {A: ["0 0"]}, "the counter says 0"),
        ([[Added(A, "0 0"), Added(A, "0 1")]], {A: 2}, {A: ["0 1", "0 0"]}, "not in their order"),
        ([[Ended(B, 1.0)], [Looked(B, 1.5, alive=True)]], {}, {}, "seen alive after its end"),
    ],
)
def test_a_wrong_history_is_noticed(
    histories: list[list[Event]], counters: dict[str, int], facts: dict[str, list[str]], complaint: str
) -> None:
    """One thing of each kind that must not happen is one complaint."""
    [only] = violations(histories, counters, facts)
    assert complaint in only


def test_a_right_history_is_not() -> None:
    """What is not known may be there or not; who looked before the end was acknowledged may have seen it."""
    histories: list[list[Event]] = [
        [Added(A, "0 0"), Added(A, "0 1", known=False), Added(A, "0 2", known=False), Added(A, "0 3")],
        [Added(A, "1 0"), Looked(B, 0.5, alive=True), Looked(B, 1.5, alive=False), Ended(B, 1.0)],
    ]
    assert violations(histories, {A: 4}, {A: ["0 0", "1 0", "0 2", "0 3"]}) == []


def _redis() -> tuple[Any, Callable[[Any], str]]:
    return RedisServer(require("redis-server"), "--appendonly", "yes", "--appendfsync", "always"), lambda server: f"{server.url}?deadline=1"


def _postgres() -> tuple[Any, Callable[[Any], str]]:
    return PostgresServer(require("postgres"), "fsync=on"), lambda server: f"{server.url}?deadline=1"


@pytest.mark.parametrize("start", [_redis, _postgres], ids=["redis", "postgres"])
def test_a_server_that_is_killed(start: Callable[[], tuple[Any, Callable[[Any], str]]]) -> None:
    """kill -9 of the server while somebody writes, again and again: every acknowledged commit is there, and nothing that ended is back."""
    server, url_of = start()
    chance = random.Random(5)
    expected: dict[bytes, int] = {}
    ended: set[bytes] = set()
    unsure: set[bytes] = set()
    store = open_store(url_of(server))
    acknowledged = 0
    try:
        for _ in range(KILLS):
            live = [(record, 0) for record in (new() for _ in range(4))]
            for record, _ in live:
                assert store.create(record, NOW) == "created"
                expected[record.locator] = 0
            stop_at = chance.randrange(5, 60)
            for step in range(10_000):
                if step == stop_at:
                    server.kill()
                place = chance.randrange(len(live))
                record, number = live[place]
                try:
                    if step % 17 == 16 and len(live) > 1:
                        unsure.add(record.locator)
                        live.pop(place)
                        store.end(record.locator, "ended", NOW, 60)
                        ended.add(record.locator)
                    else:
                        store.open(record.locator, use(record), IDLE, NOW)
                        write(store, record, b"%d" % (number + 1))
                        live[place] = (record, number + 1)
                        expected[record.locator] = number + 1
                    acknowledged += 1
                except StoreUnavailable:
                    assert step >= stop_at
                    break
            server.start()
            for record, _ in live:
                stored = value_of(found(store, record))
                assert stored is not None, "a session is lost"
                assert expected[record.locator] <= int(stored) <= expected[record.locator] + 1, "an acknowledged commit is lost"
            there = {record.locator for record in store.scan(None, 100_000)[0]}
            assert not ended & there, "an ended session is back"
            assert set(expected) - unsure <= there, "a session is lost"
        print(f"{acknowledged} acknowledged over {KILLS} kills, {len(ended)} ended")
        assert acknowledged > 5 * KILLS
    finally:
        store.close()
        server.stop()
