"""The memory store: packed records in this process. It knows no keys, hooks, cookies or files.

One dictionary per shard, one lock per shard, and values that are immutable bytes: reading takes no lock on any build, since
a dictionary hands out a whole old or a whole new value. A write holds one shard's lock for a few microseconds.
Two more locks, for the wheel and for admission, are only ever taken alone or inside a shard's, never the other way round.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from collections.abc import Sequence
from typing import final

from ..changes import GONE, Changes, Idle, Outcome, Use, apply, apply_touch, apply_use
from ..errors import PolicyError, StoreFull, TooLarge
from ..record import ENDED, REUSED, Ending, EndReason, Record
from .base import Created
from .wheel import Wheel

_FLAGS_AT = 1
_STEP = 128
"""How many entries a sweep looks at before it lets go of a lock (rule 16)."""


class _Shard:
    __slots__ = ("before", "lock", "records")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.records: dict[int, bytes] = {}
        self.before: dict[int, bytes | None] | None = None
        """While a cut is taken: what was there at its moment, of the records changed since."""

    def put(self, key: int, packed: bytes | None) -> None:
        """Set or remove a record; with the lock held."""
        if self.before is not None and key not in self.before:
            self.before[key] = self.records.get(key)
        if packed is None:
            self.records.pop(key, None)
        else:
            self.records[key] = packed


@final
class MemoryStore:
    """Sessions of this process, gone with it unless they are saved (`SessionManager.save_sessions`).

    max_sessions  how many it may hold; then only sessions never used by a second request make room, oldest first, and
                  without one of those creating fails with `StoreFull` (rule 30)
    max_bytes     of one session, packed
    max_keys      of one session
    """

    blocking = False

    def __init__(self, *, max_sessions: int = 250_000, max_bytes: int = 65_536, max_keys: int = 256, shards: int = 256) -> None:
        for name, value in (("max_sessions", max_sessions), ("max_bytes", max_bytes), ("max_keys", max_keys), ("shards", shards)):
            if type(value) is not int or value < 1:
                raise PolicyError(f"MemoryStore({name}={value!r}): expected a whole number of at least 1")
        self._max_sessions = max_sessions
        self._max_bytes = max_bytes
        self._max_keys = max_keys
        self._shards = tuple(_Shard() for _ in range(shards))
        self._wheel = Wheel()
        self._wheel_lock = threading.Lock()
        self._admission = threading.Lock()
        self._count = 0
        # Sessions that only their first request has used, oldest first: `_newer` is gone through from the left, two a creation,
        # and those still unused go over to `_older`; so the oldest is at the left of `_older`, and nothing dead stays for long.
        self._older: deque[int] = deque()
        self._newer: deque[int] = deque()
        self._unclaimed: deque[int] = deque()
        self._cutting = threading.Lock()
        if hasattr(os, "register_at_fork"):
            this = weakref.ref(self)
            os.register_at_fork(after_in_child=lambda: _renew_locks(this()))

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        return f"<MemoryStore with {self._count} of at most {self._max_sessions} sessions>"

    # -------------------------------------------------------------- the verbs

    def create(self, record: Record, now: float) -> Created:
        key = int.from_bytes(record.locator, "big")
        packed = self._packed(record)
        shard = self._shards[key % len(self._shards)]
        if key in shard.records:
            return "taken"
        crowded = self._admit(key)
        with shard.lock:
            taken = key in shard.records
            if not taken:
                shard.put(key, packed)
        if taken:
            self._leave()
            return "taken"
        with self._wheel_lock:
            self._wheel.add(key, record.due, now)
        return "crowded" if crowded else "created"

    def open(self, locator: bytes, use: Use | None, idle: Idle, now: float) -> Record | None:
        key = int.from_bytes(locator, "big")
        shard = self._shards[key % len(self._shards)]
        packed = shard.records.get(key)
        if packed is None or packed[_FLAGS_AT] & ENDED:
            return None
        record = Record.unpack(locator, packed)
        if use is None or (record.flags & REUSED and 0 <= now - record.used < record.granularity):
            return record
        after = apply_use(record, use, idle, now)
        if after is None:
            return record
        with shard.lock:
            if shard.records.get(key) is packed:
                shard.put(key, after.pack())
                return after
        return self.open(locator, use, idle, now)

    def touch(self, locator: bytes, digest: bytes, idle: Idle, now: float) -> bool:
        key = int.from_bytes(locator, "big")
        shard = self._shards[key % len(self._shards)]
        with shard.lock:
            packed = shard.records.get(key)
            if packed is None or packed[_FLAGS_AT] & ENDED:
                return False
            record = Record.unpack(locator, packed)
            previous = record.previous
            current = digest == record.digest or (previous is not None and digest == previous.digest and now < previous.until)
            if not current or now >= record.due:
                return False
            after = apply_touch(record, idle, now)
            if after is not None:
                shard.put(key, after.pack())
        return True

    def commit(self, locator: bytes, changes: Changes, idle: Idle, now: float) -> Outcome:
        key = int.from_bytes(locator, "big")
        shard = self._shards[key % len(self._shards)]
        with shard.lock:
            packed = shard.records.get(key)
            if packed is None or packed[_FLAGS_AT] & ENDED:
                return GONE
            outcome = apply(Record.unpack(locator, packed), changes, idle, now)
            if outcome.status != "committed" or outcome.record is None:
                return outcome
            shard.put(key, self._packed(outcome.record))
        if changes.set_timeout:
            # The wheel's entry may lie behind the new timeout; one too many is merely looked at once.
            with self._wheel_lock:
                self._wheel.add(key, outcome.record.due, now)
        return outcome

    def end(self, locator: bytes, reason: EndReason, now: float, lease: float) -> Record | None:
        key = int.from_bytes(locator, "big")
        shard = self._shards[key % len(self._shards)]
        with shard.lock:
            packed = shard.records.get(key)
            if packed is None or packed[_FLAGS_AT] & ENDED:
                return None
            return self._end(shard, key, packed, Ending(reason, now, now + lease))

    def sweep(self, now: float, limit: int, lease: float, grace: float) -> tuple[Sequence[Record], bool]:
        swept: list[Record] = []
        while self._unclaimed and len(swept) < limit:
            record = self._look(self._unclaimed.popleft(), now, lease, grace)
            if record is not None:
                swept.append(record)
        with self._wheel_lock:
            self._wheel.begin(now)
        looked = len(swept)
        while looked < limit:
            step = min(_STEP, limit - looked)
            with self._wheel_lock:
                keys = self._wheel.take(now, step)
            for key in keys:
                record = self._look(key, now, lease, grace)
                if record is not None:
                    swept.append(record)
            looked += len(keys)
            if len(keys) < step:
                return swept, False
        return swept, True

    def clear(self, locator: bytes, names: Sequence[str] | None) -> None:
        key = int.from_bytes(locator, "big")
        shard = self._shards[key % len(self._shards)]
        with shard.lock:
            packed = shard.records.get(key)
            if packed is None or not packed[_FLAGS_AT] & ENDED:
                return
            if names is not None:
                record = Record.unpack(locator, packed)
                left = {name: value for name, value in record.fields.items() if name not in names}
                if left:
                    shard.put(key, record.copy(left).pack())
                    return
            shard.put(key, None)

    def scan(self, after: bytes | None, limit: int) -> tuple[Sequence[Record], bytes | None]:
        # A whole shard at a time: a dictionary's order does not hold a place in it while others write.
        number = 0 if after is None else int.from_bytes(after, "big")
        found: list[Record] = []
        while number < len(self._shards) and len(found) < limit:
            shard = self._shards[number]
            with shard.lock:
                items = list(shard.records.items())
            found += [_unpack(key, packed) for key, packed in items if not packed[_FLAGS_AT] & ENDED]
            number += 1
        return found, None if number == len(self._shards) else number.to_bytes(4, "big")

    def close(self) -> None:
        """Nothing to let go of: the sessions stay for as long as the store does."""

    # -------------------------------------------------------------- snapshots

    def cut(self) -> list[tuple[bytes, bytes]]:
        """Every record as (locator, packed form), all as they were at one moment; requests wait for microseconds only."""
        with self._cutting:
            for shard in self._shards:
                shard.lock.acquire()
            for shard in self._shards:
                shard.before = {}
            for shard in self._shards:
                shard.lock.release()
            taken: list[tuple[bytes, bytes]] = []
            for shard in self._shards:
                with shard.lock:
                    items = list(shard.records.items())
                    before, shard.before = shard.before or {}, None
                taken += [(key.to_bytes(16, "big"), packed) for key, packed in items if key not in before]
                taken += [(key.to_bytes(16, "big"), packed) for key, packed in before.items() if packed is not None]
        return taken

    def restore(self, records: Sequence[Record], now: float) -> int:
        """Put back saved records whose locator is free; how many. `max_sessions` does not hold here: nobody saved is thrown out."""
        restored = 0
        for record in records:
            key = int.from_bytes(record.locator, "big")
            shard = self._shards[key % len(self._shards)]
            with shard.lock:
                if key in shard.records:
                    continue
                shard.put(key, record.pack())
            if record.ending is not None:
                self._unclaimed.append(key)
            else:
                with self._admission:
                    self._count += 1
                    if not record.flags & REUSED:
                        self._newer.append(key)
            with self._wheel_lock:
                self._wheel.add(key, record.due, now)
            restored += 1
        return restored

    # -------------------------------------------------------------- inside

    def after_fork(self) -> None:
        """New locks for a child process."""
        for shard in self._shards:
            shard.lock = threading.Lock()
        self._wheel_lock = threading.Lock()
        self._admission = threading.Lock()
        self._cutting = threading.Lock()

    def _packed(self, record: Record) -> bytes:
        packed = record.pack()
        if len(packed) > self._max_bytes:
            raise TooLarge(f"the session would take {len(packed)} bytes; MemoryStore(max_bytes={self._max_bytes}) allows no more")
        if len(record.fields) > self._max_keys:
            raise TooLarge(f"the session would hold {len(record.fields)} keys; MemoryStore(max_keys={self._max_keys}) allows no more")
        return packed

    def _admit(self, key: int) -> bool:
        """Count one more session, making room if there is none; whether somebody had to go."""
        crowded = False
        while True:
            with self._admission:
                for _ in range(min(2, len(self._newer))):
                    candidate = self._newer.popleft()
                    if self._unused(candidate):
                        self._older.append(candidate)
                if not self._newer:
                    self._older, self._newer = self._newer, self._older
                if self._count < self._max_sessions:
                    self._count += 1
                    self._newer.append(key)
                    return crowded
            if not self._evict():
                raise StoreFull(
                    f"MemoryStore(max_sessions={self._max_sessions}) is full, and each session has been used more than once: none makes room"
                )
            crowded = True

    def _unused(self, key: int) -> bool:
        packed = self._shards[key % len(self._shards)].records.get(key)
        return packed is not None and not packed[_FLAGS_AT] & (ENDED | REUSED)

    def _evict(self) -> bool:
        while True:
            with self._admission:
                queue = self._older or self._newer
                if not queue:
                    return False
                key = queue.popleft()
            shard = self._shards[key % len(self._shards)]
            with shard.lock:
                packed = shard.records.get(key)
                if packed is None or packed[_FLAGS_AT] & (ENDED | REUSED):
                    continue
                # Kept, but as ended and no longer counted, until a sweep has told everybody.
                record = _unpack(key, packed)
                record.ending = Ending("evicted", record.used, 0.0)
                shard.put(key, record.pack())
            self._leave()
            self._unclaimed.append(key)
            return True

    def _leave(self) -> None:
        with self._admission:
            self._count -= 1

    def _end(self, shard: _Shard, key: int, packed: bytes, ending: Ending) -> Record:
        """Mark a live record as ended (with hooks) or remove it (without); with the shard's lock held."""
        record = _unpack(key, packed)
        record.ending = ending
        shard.put(key, record.pack() if record.hooked else None)
        self._leave()
        if record.hooked:
            with self._wheel_lock:
                self._wheel.add(key, ending.claimed_until, ending.at)
        return record

    def _look(self, key: int, now: float, lease: float, grace: float) -> Record | None:
        """What a sweep does with one entry that came due: end it, claim it, or put it back into the wheel."""
        shard = self._shards[key % len(self._shards)]
        with shard.lock:
            packed = shard.records.get(key)
            if packed is None:
                return None
            record = _unpack(key, packed)
            ending = record.ending
            claimed = False
            due = record.due
            if ending is None:
                if due <= now:
                    reason: EndReason = "lifetime" if due == record.deadline else "timeout"
                    return self._end(shard, key, packed, Ending(reason, now, now + lease))
            elif not record.hooked or now >= ending.at + grace:
                shard.put(key, None)
                return record
            elif ending.claimed_until <= now:
                record.ending = Ending(ending.reason, ending.at, now + lease)
                shard.put(key, record.pack())
                claimed, due = True, now + lease
            else:
                due = ending.claimed_until
            with self._wheel_lock:
                self._wheel.add(key, due, now)
        return record if claimed else None


def _unpack(key: int, packed: bytes) -> Record:
    return Record.unpack(key.to_bytes(16, "big"), packed)


def _renew_locks(store: MemoryStore | None) -> None:
    """After a fork: a lock that another thread held then would stay locked in the child for ever."""
    if store is not None:
        store.after_fork()
