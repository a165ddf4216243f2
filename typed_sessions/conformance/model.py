"""The contract of a store as a dictionary and three pure functions: what the answers of any other store are compared with.

It is a whole `Store`, for one thread, without I/O or bounds, that looks at every record in a sweep. Short enough to be read as the
definition of the verbs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..changes import GONE, Changes, Idle, Outcome, Use, apply, apply_touch, apply_use
from ..record import (
    FIELD_FLAGS_AT,
    FIELD_LIST,
    HOOKED,
    OWN_TIMEOUT,
    PERSISTENT,
    REUSED,
    TRANSIENT,
    Ending,
    EndReason,
    Record,
    unpack_elements,
    unpack_field,
)
from ..stores.base import Created

_MEANING = REUSED | HOOKED | OWN_TIMEOUT | PERSISTENT | TRANSIENT
"""The flags that say something which no other field of a record does."""


class Model:
    """The contract. `records` has the packed form of each; one that has ended is kept while it has hooked values."""

    blocking = False

    def __init__(self, records: dict[bytes, bytes] | None = None) -> None:
        self.records: dict[bytes, bytes] = {} if records is None else records

    def stored(self, locator: bytes) -> Record | None:
        """The record, ended or not."""
        packed = self.records.get(locator)
        return None if packed is None else Record.unpack(locator, packed)

    def get(self, locator: bytes) -> Record | None:
        """The record, if it has not ended."""
        record = self.stored(locator)
        return None if record is None or record.ending is not None else record

    def put(self, record: Record) -> None:
        self.records[record.locator] = record.pack()

    def create(self, record: Record, now: float) -> Created:
        if record.locator in self.records:
            return "taken"
        self.put(record)
        return "created"

    def open(self, locator: bytes, use: Use | None, idle: Idle, now: float) -> Record | None:
        record = self.get(locator)
        after = None if record is None or use is None else apply_use(record, use, idle, now)
        if after is None:
            return record
        self.put(after)
        return after

    def touch(self, locator: bytes, digest: bytes, idle: Idle, now: float) -> bool:
        record = self.get(locator)
        if record is None or now >= record.due:
            return False
        previous = record.previous
        if digest != record.digest and (previous is None or digest != previous.digest or not previous.opens(now)):
            return False
        after = apply_touch(record, idle, now)
        if after is not None:
            self.put(after)
        return True

    def commit(self, locator: bytes, changes: Changes, idle: Idle, now: float) -> Outcome:
        record = self.get(locator)
        if record is None:
            return GONE
        outcome = apply(record, changes, idle, now)
        if outcome.status == "committed" and outcome.record is not None:
            self.put(outcome.record)
        return outcome

    def end(self, locator: bytes, reason: EndReason, now: float, lease: float) -> Record | None:
        record = self.get(locator)
        return None if record is None else self.end_with(record, Ending(reason, now, now + lease))

    def end_with(self, record: Record, ending: Ending) -> Record:
        """Store a record as ended, or drop it if it has no hooked values."""
        record = record.copy()
        record.ending = ending
        if record.hooked:
            self.put(record)
        else:
            self.records.pop(record.locator, None)
        return record

    def sweep(self, now: float, limit: int, lease: float, grace: float) -> tuple[Sequence[Record], bool]:
        due = [locator for locator in self.records if self.is_due(locator, now, grace)]
        swept = [self.look(locator, now, lease, grace) for locator in due[:limit]]
        return [record for record in swept if record is not None], len(due) > limit

    def is_due(self, locator: bytes, now: float, grace: float) -> bool:
        """Whether a sweep has something to do with this record: to end it, to claim it, or to drop it."""
        record = self.stored(locator)
        if record is None:
            return False
        ending = record.ending
        return record.due <= now if ending is None else ending.claimed_until <= now or now >= ending.at + grace

    def look(self, locator: bytes, now: float, lease: float, grace: float) -> Record | None:
        """What a sweep does with one record; what it gives out of it."""
        record = self.stored(locator)
        if record is None or not self.is_due(locator, now, grace):
            return None
        ending = record.ending
        if ending is None:
            return self.end_with(record, Ending("lifetime" if record.due == record.deadline else "timeout", now, now + lease))
        if now >= ending.at + grace:
            del self.records[locator]
            return record
        record = record.copy()
        record.ending = ending.claimed_again(now, lease, grace)
        self.put(record)
        return record

    def clear(self, locator: bytes, names: Sequence[str] | None) -> None:
        record = self.stored(locator)
        if record is None or record.ending is None:
            return
        left = record.copy({} if names is None else {name: packed for name, packed in record.fields.items() if name not in names})
        if left.hooked:
            self.put(left)
        else:
            del self.records[locator]

    def scan(self, after: bytes | None, limit: int) -> tuple[Sequence[Record], bytes | None]:
        ahead = sorted(locator for locator in self.records if after is None or locator > after)
        page = ahead[:limit]
        return [record for locator in page if (record := self.get(locator)) is not None], page[-1] if len(ahead) > limit else None

    def close(self) -> None:
        """Nothing to let go of."""


def facts(record: Record | None) -> dict[str, Any] | None:
    """What a record says, so that two can be compared. Not how a store numbers the elements of a list, or keeps its sizes."""
    if record is None:
        return None
    said: dict[str, Any] = {
        "locator": record.locator.hex(),
        "digest": record.digest.hex(),
        "tag_digest": record.tag_digest.hex(),
        "created": record.created,
        "used": record.used,
        "timeout": record.timeout,
        "granularity": record.granularity,
        "revision": record.revision,
        "address": record.address,
        "flags": record.flags & _MEANING,
        "deadline": record.deadline,
        "previous": None if record.previous is None else (record.previous.digest, record.previous.tag_digest, record.previous.until),
        "ending": None if record.ending is None else (record.ending.reason, record.ending.at, record.ending.claimed_until),
    }
    for name, packed in record.fields.items():
        if packed[FIELD_FLAGS_AT] & FIELD_LIST:
            said[f"list {name!r}"] = [tuple(element)[1:] for element in unpack_elements(packed)]
        else:
            said[f"field {name!r}"] = tuple(unpack_field(packed))
    return said


def difference(found: Record | None, expected: Record | None) -> str:
    """In words, what one record says and the other does not; nothing if they say the same."""
    one, other = facts(found), facts(expected)
    if one is None or other is None:
        return (
            "" if one is other else f"expected {'no record' if other is None else 'a record'}, got {'none' if one is None else repr(found)}"
        )
    names = [name for name in {**other, **one} if one.get(name, "nothing") != other.get(name, "nothing")]
    return "; ".join(f"{name}: expected {other.get(name, 'nothing')!r}, got {one.get(name, 'nothing')!r}" for name in names)
