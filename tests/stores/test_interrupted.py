"""A signal's handler that raises (Ctrl-C, a soft time limit) in the middle of a verb of a synchronous store: nothing is lost for good."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from tests.postgres_server import PostgresServer
from tests.stores.records import IDLE, NOW, found, new, started, value_of
from typed_sessions.changes import Changes, ListChange, Write
from typed_sessions.record import Record
from typed_sessions.stores import postgres, turns
from typed_sessions.stores.postgres import PostgresStore
from typed_sessions.stores.redis_verbs import Verbs

CONNECTIONS = 2
OURS = {postgres.__file__, turns.__file__}


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
