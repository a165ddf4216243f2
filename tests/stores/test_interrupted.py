"""A signal's handler that raises (Ctrl-C, a soft time limit) in the middle of a verb of a synchronous store: nothing is lost for good."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from threading import Thread
from types import FrameType
from typing import Any

import pytest

from tests.faces import sqlite_store
from tests.postgres_server import PostgresServer
from tests.stores.records import IDLE, LEASE, NOW, found, new, started, value_of, write
from typed_sessions import MemoryStore, Store, journal, locks
from typed_sessions.changes import Changes, ListChange, Write
from typed_sessions.journal import Entry, Journal, replay
from typed_sessions.record import Record
from typed_sessions.stores import memory, postgres, sqlite, sqlite_file, turns
from typed_sessions.stores.postgres import PostgresStore
from typed_sessions.stores.redis_verbs import Verbs

CONNECTIONS = 2
OURS = {module.__file__ for module in (journal, locks, memory, postgres, sqlite, sqlite_file, turns)}


class Interrupted(BaseException):
    """What the handler raises."""


def interrupted(work: Callable[[], object], moment: int) -> bool:
    """Whether `work` lasted until its `moment`-th one at which Python lets a handler run: when a function of ours begins, and when one
    written in C, called there, has come back."""
    seen = 0

    def look(frame: FrameType, event: str, _: Any) -> None:
        nonlocal seen
        if event in ("call", "c_return") and frame.f_code.co_filename in OURS:
            if seen == moment:
                sys.setprofile(None)
                raise Interrupted
            seen += 1

    sys.setprofile(look)
    try:
        work()
    except Interrupted:
        return True
    finally:
        sys.setprofile(None)
    return False


@pytest.mark.parametrize("fresh", [False, True], ids=["on an idle connection", "on a new one"])
def test_no_turn_is_lost(postgres_server: PostgresServer, fresh: bool) -> None:
    """At whatever moment: afterwards the store has as many connections as before, and answers what it is asked."""
    store = PostgresStore(postgres_server.url, max_connections=CONNECTIONS, deadline=20)
    record = started(store)
    inside: Any = store
    moment = 0

    def look() -> Record | None:
        return found(store, record)

    while True:
        if fresh:
            store.close()
        was_interrupted = interrupted(look, moment)
        assert inside._turns.qsize() == CONNECTIONS
        assert value_of(look()) == b"0"
        if not was_interrupted:
            break
        moment += 1
    assert moment > 10
    store.close()


def look(store: Store, record: Record) -> None:
    assert value_of(found(store, record)) == b"0"


def end(store: Store, record: Record) -> None:
    assert store.end(record.locator, "ended", NOW, LEASE) is not None


def change(store: Store, record: Record) -> None:
    assert write(store, record, b"1").status == "committed"


def create(store: Store, _: Record) -> None:
    assert store.create(new(), NOW) == "created"


@pytest.mark.parametrize("verb", [look, change, create, end])
@pytest.mark.parametrize("fresh", [False, True], ids=["on an open file", "on a closed one"])
@pytest.mark.filterwarnings("ignore:unclosed database:ResourceWarning")  # of the one that SQLite gives when it is interrupted
def test_no_lock_and_no_connection_to_sqlite_is_lost(verb: Callable[[Store, Record], object], fresh: bool) -> None:
    """At whatever moment: afterwards others read and write, and no connection is open that nobody has."""
    store: Any = sqlite_store(deadline=1)
    file = store._file
    moment = 0
    record = started(store)
    while True:
        if fresh:
            store.close()
        was_interrupted = interrupted(partial(verb, store, record), moment)
        assert (file._writing.locked(), file._opening.locked(), len(file._all)) == (False, False, len(file._idle))
        record = started(store)
        look(store, record)
        if not was_interrupted:
            break
        moment += 1
    assert moment > 10
    store.close()
    gc.collect()


def test_no_lock_of_the_memory_store_is_lost_with_a_snapshot() -> None:
    """A cut locks all of it: afterwards others write, and nothing is kept that was there at its moment."""
    store = MemoryStore(shards=3)
    inside: Any = store
    record = started(store)
    moment = 0
    while interrupted(store.cut, moment):
        assert [(shard.lock.locked(), shard.before) for shard in inside._shards] == [(False, None)] * 3
        assert write(store, record, b"1").status == "committed"
        moment += 1
    assert moment > 10
    assert len(store.cut()) == 1


@pytest.mark.parametrize("verb", ["append", "compact", "prepare", "close"])
@pytest.mark.parametrize("fresh", [False, True], ids=["on an open file", "on a new one"])
def test_no_lock_of_a_journal_is_lost(verb: str, fresh: bool, tmp_path: Path) -> None:
    """At whatever moment: afterwards other threads append, compact and close, and find what they have written."""

    def entry(seconds: float) -> Entry:
        return Entry("ended", new().locator, NOW + seconds)

    moment = 0
    while True:
        path = tmp_path / str(moment) / "sessions"
        path.parent.mkdir()
        one = Journal(path, compact_from=1)
        if not fresh:
            one.append([entry(-1), entry(60)])
        work: dict[str, Callable[[], object]] = {
            "append": lambda: one.append([entry(60)]),  # noqa: B023  # it is called before the next turn
            "compact": lambda: one.compact(NOW),  # noqa: B023
            "prepare": one.prepare,
            "close": one.close,
        }
        was_interrupted = interrupted(work[verb], moment)
        mine = entry(60)
        other = one if verb != "close" else Journal(path)

        def go_on() -> None:
            other.append([mine])  # noqa: B023
            other.compact(NOW)  # noqa: B023
            other.close()  # noqa: B023

        thread = Thread(target=go_on, daemon=True)
        thread.start()
        thread.join(20)
        assert not thread.is_alive(), moment
        assert mine in replay(path, now=NOW)[0]
        if not was_interrupted:
            break
        moment += 1
    assert moment > 2


def test_no_word_to_redis_is_a_number() -> None:
    """hiredis makes text of an `int` itself, and ends the process if a handler raises meanwhile."""
    verbs, record = Verbs("RedisStore", "test", 65_536, 256), new()
    changes = Changes({"value": Write(b"1", base=3)}, {"list": ListChange([(1, 0, b"a")], [(1, 0, b"b")], [5, -6])})
    scan = verbs.scan(None, 10)
    due = record.locator[0]
    said = [
        next(verbs.create(record, NOW)),
        next(verbs.open(record.locator, None, IDLE, NOW)),
        next(verbs.touch(record.locator, record.digest, IDLE, NOW)),
        next(verbs.commit(record.locator, changes, IDLE, NOW)),
        next(verbs.end(record.locator, "ended", NOW, 60)),
        next(verbs.clear(record.locator, ["value"])),
        next(verbs.sweep(NOW, 10, 60, 60)),
        next(scan),
        scan.send([int(bucket == due) for bucket in range(256)]),
        scan.send([[record.locator.hex().encode()]]),
    ]
    assert {type(word) for commands in said for command in commands for word in command.words} == {bytes, str}
