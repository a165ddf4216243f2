"""Behind the manager's back: what a store holds under a name, and what some other program might have put there."""

from __future__ import annotations

from typing import Any

import msgspec

from tests.faces import Face
from typed_sessions.changes import Changes, Idle, ListChange, Write
from typed_sessions.events import Event
from typed_sessions.record import Field, Record, unpack_field

IDLE = Idle(600, 60)

pack = msgspec.msgpack.Encoder().encode


def record_of(face: Face, handle: str) -> Record | None:
    """The stored record of a session, expired or not; None if there is none or it has ended. Not a use."""
    record: Record | None = face.call(face.store.open(bytes.fromhex(handle), None, IDLE, face.clock()))
    return record


def stored(face: Face, handle: str, name: str) -> Field | None:
    """What the store holds under a key's name."""
    record = record_of(face, handle)
    assert record is not None, "the session is gone"
    packed = record.fields.get(name)
    return None if packed is None else unpack_field(packed)


def commit(face: Face, handle: str, changes: Changes) -> None:
    """Commit as another program would, without counting as a use."""
    changes.counts_as_use = False
    outcome = face.call(face.store.commit(bytes.fromhex(handle), changes, IDLE, face.clock()))
    assert outcome.status == "committed"


def plant(face: Face, handle: str, name: str, payload: bytes, *, version: int = 1, flags: int = 0) -> Field:
    """Put bytes under a key's name, whatever the key thinks of them; what is stored then."""
    commit(face, handle, Changes({name: Write(payload, version, flags)}))
    field = stored(face, handle, name)
    assert field is not None
    assert field.payload == payload
    return field


def plant_element(face: Face, handle: str, name: str, payload: bytes, *, version: int = 1) -> None:
    """Append bytes to the list under a key's name."""
    changes = Changes()
    changes.lists = {name: ListChange(appended=[(version, 0, payload)])}
    commit(face, handle, changes)


def heard(face: Face, event: type[Event], manager: Any = None) -> list[Any]:
    """A list that every such event of the manager (the face's own, unless given) is added to."""
    events: list[Any] = []
    (face.manager if manager is None else manager).on(event, events.append)
    return events
