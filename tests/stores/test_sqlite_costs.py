"""What the verbs of SQLiteStore cost (§5): statements, syncs, and moves in the index. A contract, not a measurement."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.stores.records import GRACE, IDLE, LEASE, NOW, PEER, new, started, use, write
from typed_sessions import Key, Request, SessionManager, SQLiteStore
from typed_sessions.changes import Changes, Renewal, Use


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> list[sqlite3.Connection]:
    """Every connection that is made during the test."""
    made: list[sqlite3.Connection] = []
    connect = sqlite3.connect

    def connecting(*args: Any, **options: Any) -> sqlite3.Connection:
        made.append(connect(*args, **options))
        return made[-1]

    monkeypatch.setattr(sqlite3, "connect", connecting)
    return made


class Statements:
    """What SQLite is asked, statement by statement, without its arguments."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.seen: list[str] = []
        connection.set_trace_callback(self.seen.append)

    def of(self, work: Callable[[], object]) -> str:
        """The first words of the statements that this takes."""
        del self.seen[:]
        work()
        return " ".join(statement.split()[0].removesuffix(";") for statement in self.seen)


def test_statements_of_each_verb(path: Path, connections: list[sqlite3.Connection]) -> None:
    """One SELECT to open, one UPDATE to commit what was opened; everything else is one transaction."""
    store = SQLiteStore(path)
    statements = Statements(connections[0])
    record, idle, late = new(), IDLE, NOW + 61
    locator, presented = record.locator, use(record)
    assert statements.of(lambda: store.create(record, NOW)) == "INSERT"
    assert statements.of(lambda: store.open(locator, None, idle, NOW)) == "SELECT"
    assert statements.of(lambda: store.open(locator, presented, idle, NOW)) == "SELECT BEGIN SELECT UPDATE COMMIT", "the second request"
    assert statements.of(lambda: store.open(locator, presented, idle, NOW + 1)) == "SELECT", "nothing is to be written"
    assert statements.of(lambda: write(store, record, b"1")) == "UPDATE"
    assert statements.of(lambda: write(store, record, b"2")) == "BEGIN SELECT UPDATE COMMIT", "nothing was opened before"
    assert statements.of(lambda: store.open(locator, Use(locator, b"wrong", PEER, False), idle, late)) == "SELECT", "it does not fit"
    assert statements.of(lambda: store.open(locator, presented, idle, late)) == "SELECT BEGIN SELECT UPDATE COMMIT"
    assert statements.of(lambda: store.open(b"nobody knows him", presented, idle, NOW)) == "SELECT"
    assert statements.of(lambda: store.touch(locator, record.digest, idle, late + 61)) == "BEGIN SELECT UPDATE COMMIT"
    assert statements.of(lambda: store.scan(None, 100)) == "SELECT"
    assert statements.of(lambda: store.sweep(NOW, 100, LEASE, GRACE)) == "SELECT", "nothing came due"
    assert statements.of(lambda: store.end(locator, "ended", NOW, LEASE)) == "PRAGMA BEGIN SELECT DELETE COMMIT PRAGMA"
    assert statements.of(lambda: store.end(locator, "ended", NOW, LEASE)) == "PRAGMA BEGIN SELECT COMMIT PRAGMA"
    assert len(connections) == 1
    store.close()


def test_statements_of_whole_requests(path: Path, connections: list[sqlite3.Connection]) -> None:
    """A reading request takes one statement, a writing one two, a request that leaves its session alone none."""
    name = Key("name", str)
    manager = SessionManager(SQLiteStore(path), clock=lambda: NOW)
    statements = Statements(connections[0])
    cookies: list[str] = []

    def request(work: Callable[[Any], object]) -> None:
        headers = [("Cookie", "; ".join(cookies))] if cookies else []
        session, finish = manager.start_check(Request(headers=headers, peer=PEER))
        work(session)
        if sent := [value.partition(";")[0] for header, value in finish() if header == "Set-Cookie"]:
            cookies[:] = sent

    assert statements.of(lambda: request(lambda session: session.get(name))) == ""
    assert statements.of(lambda: request(lambda session: session.__setitem__(name, "ann"))) == "INSERT"
    request(lambda session: session[name])  # the second request of a session is written down
    assert statements.of(lambda: request(lambda session: session[name])) == "SELECT"
    assert statements.of(lambda: request(lambda session: session.__setitem__(name, "bob"))) == "SELECT UPDATE"
    assert statements.of(lambda: request(lambda session: session.renew())) == "SELECT PRAGMA BEGIN SELECT UPDATE COMMIT PRAGMA"
    request(lambda session: session[name])
    assert statements.of(lambda: request(lambda session: session.end())) == "SELECT PRAGMA BEGIN SELECT DELETE COMMIT PRAGMA"
    manager.close()


def test_ends_and_renewals_are_synced(path: Path, connections: list[sqlite3.Connection]) -> None:
    """`synchronous=FULL` for what a loss of power must not undo, NORMAL before and after; and `fullfsync`, which macOS looks at."""
    store = SQLiteStore(path)
    record, other = started(store), new()
    seen: list[str] = []
    connections[0].set_trace_callback(seen.append)
    renewal = Renewal(record.digest, other.digest, other.tag_digest, PEER, 0)
    assert store.commit(record.locator, Changes(renewal=renewal), IDLE, NOW).status == "committed"
    assert (seen[0], seen[1], seen[-2], seen[-1]) == (
        "PRAGMA synchronous=FULL",
        "BEGIN IMMEDIATE",
        "COMMIT",
        "PRAGMA synchronous=NORMAL",
    )
    connections[0].set_trace_callback(None)
    assert connections[0].execute("PRAGMA synchronous").fetchone() == (1,)
    assert connections[0].execute("PRAGMA fullfsync").fetchone() == (1,)
    store.close()


def test_a_use_moves_nothing_in_the_index_and_a_sweep_puts_it_right(path: Path, connections: list[sqlite3.Connection]) -> None:
    """`due` lags behind uses; the sweep that finds the session alive moves it on, and finds it when it is over."""
    store = SQLiteStore(path)
    record = started(store)
    store.open(record.locator, use(record), IDLE, NOW + 1)
    store.open(record.locator, use(record), IDLE, NOW + 500)

    def due() -> float:
        return float(connections[0].execute("SELECT due FROM session").fetchone()[0])

    assert due() == NOW + 660
    assert store.sweep(NOW + 700, 32, LEASE, GRACE) == ([], False)
    assert due() == NOW + 1160
    assert store.sweep(NOW + 1159, 32, LEASE, GRACE) == ((), False)
    (ended,), more = store.sweep(NOW + 1160, 32, LEASE, GRACE)
    assert (ended.locator, ended.ending and ended.ending.reason, more) == (record.locator, "timeout", False)
    store.close()
