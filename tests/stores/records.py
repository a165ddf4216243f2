"""Records as a manager would make them, for tests that talk to a store directly."""

from __future__ import annotations

import os

from typed_sessions import Store
from typed_sessions.changes import Changes, Idle, ListChange, Outcome, Use, Write
from typed_sessions.lifecycle import issue, new_record
from typed_sessions.options import SessionOptions
from typed_sessions.record import FIELD_HOOKED, Record, unpack_elements, unpack_field

NOW = 1_800_000_000.0
IDLE = Idle(600.0, 60.0)
LEASE, GRACE = 60.0, 604_800.0
PEER = "10.1.2.3"


def new(value: bytes = b"0", *, hooked: bool = False, now: float = NOW, lifetime: float | None = None) -> Record:
    """A session that begins at `now`, with one value."""
    changes = Changes({"value": Write(value, flags=FIELD_HOOKED if hooked else 0)})
    return new_record(issue(os.urandom), PEER, changes, SessionOptions(lifetime=lifetime), IDLE, now)


def started(store: Store, value: bytes = b"0", *, hooked: bool = False, now: float = NOW) -> Record:
    """A session in the store."""
    record = new(value, hooked=hooked, now=now)
    assert store.create(record, now) == "created"
    return record


def use(record: Record) -> Use:
    """What a request with this session's cookies presents."""
    return Use(record.locator, record.tag_digest, PEER, False)


def write(store: Store, record: Record, value: bytes, *, now: float = NOW, hooked: bool = False) -> Outcome:
    return store.commit(record.locator, Changes({"value": Write(value, flags=FIELD_HOOKED if hooked else 0)}), IDLE, now)


def append(store: Store, record: Record, *values: bytes, now: float = NOW) -> Outcome:
    changes = Changes(lists={"list": ListChange(appended=[(1, 0, value) for value in values])})
    return store.commit(record.locator, changes, IDLE, now)


def found(store: Store, record: Record, *, now: float = NOW) -> Record | None:
    return store.open(record.locator, None, IDLE, now)


def value_of(record: Record | None) -> bytes | None:
    return None if record is None else unpack_field(record.fields["value"]).payload


def elements_of(record: Record) -> list[bytes]:
    return [element.payload for element in unpack_elements(record.fields.get("list"))]
