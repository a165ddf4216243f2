"""One of the memory store's dictionaries: sessions by their locator as a number, packed but for those in use lately. No decisions here."""

from __future__ import annotations

import threading
from collections import deque
from typing import TypeAlias, final

from msgspec.structs import replace

from ..record import Record

_WARM = 8
"""How many records of a shard may be unpacked at a time."""

Stored: TypeAlias = bytes | Record
"""A session at rest is packed, and so is one that has ended; one in use is kept as it is for a while, so that a page's requests do not
unpack it again."""


@final
class Shard:
    """Some of the sessions. Reading needs no lock; every write holds it."""

    __slots__ = ("before", "lock", "records", "warm")

    def __init__(self) -> None:
        self.lock: threading.Lock = threading.Lock()
        self.records: dict[int, Stored] = {}
        self.warm: deque[int] = deque()
        """The keys of records that are not packed, the one longest so first; one may be packed or gone by now."""
        self.before: dict[int, Stored | None] | None = None
        """While a cut is taken: what was there at its moment, of the records changed since."""

    def put(self, key: int, stored: Stored | None) -> None:
        """Set or remove a record; with the lock held."""
        records = self.records
        if self.before is not None and key not in self.before:
            self.before[key] = records.get(key)
        if stored is None:
            records.pop(key, None)
        else:
            records[key] = stored

    def warm_up(self, key: int) -> None:
        """A record was put here unpacked; with the lock held. Packs the one that has been so for longest, if there are many."""
        warm = self.warm
        warm.append(key)
        if len(warm) > _WARM:
            coldest = warm.popleft()
            record = self.records.get(coldest)
            if type(record) is Record and coldest not in warm:
                # The same record in another form: no change that a cut would have to know of.
                self.records[coldest] = record.pack()

    def keep(self, key: int, record: Record, before: Stored) -> None:
        """Put a record in the place of another; with the lock held."""
        if self.before is not None:
            self.put(key, before)
        # Whether a use was written is the caller's to know; the next one gets this record too.
        self.records[key] = replace(record, use_written=False) if record.use_written else record
        if type(before) is not Record:
            self.warm_up(key)


def record_of(key: int, stored: Stored) -> Record:
    """What is stored under a key, unpacked."""
    return stored if type(stored) is Record else Record.unpack(key.to_bytes(16, "big"), stored)
