"""The memory store: packed records in this process. It knows no keys, hooks, cookies or files.

One dictionary per shard, one lock per shard, and values that are immutable bytes: reading takes no lock on any build, since
a dictionary hands out a whole old or a whole new value. A write holds one shard's lock for a few microseconds.
One more lock, for the books (who is counted, and when who comes due), is only ever taken alone or inside a shard's, never the other
way round.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from typing import Literal, TypeAlias, final

from ..changes import GONE, Changes, Idle, Outcome, Use, apply, apply_touch, apply_use
from ..declared import unfinished_too
from ..errors import PolicyError, StoreFull
from ..forks import tell_of_forks
from ..locks import Held
from ..record import ENDED, FIELD_FLAGS_AT, FIELD_HOOKED, RECORD_FLAGS_AT, REUSED, Ending, EndReason, Record
from ..wheel import Wheel
from .base import Created
from .guests import Guests
from .limits import Limits
from .shard import Shard, record_of

_STEP = 128
"""How many entries a sweep looks at before it lets go of a lock (rule 16)."""
_GUESTS = 16
"""How many have to go for one that comes, at most, where there are more than fit."""

_Room: TypeAlias = Literal["made", "none", "unknown"]


@final
class MemoryStore:
    """Sessions of this process, gone with it unless they are saved (`SessionManager.save_sessions`).

    max_sessions  how many it may hold; when it is full, the oldest session that no second request has used makes room,
                  and if there is none, creating raises `StoreFull`. A thousandth more for a moment, where it takes long to find
    max_bytes     of one session: its values and their names, packed; a commit that would make it larger raises `TooLarge`
    max_keys      of one session, the same
    shards        among how many locks the sessions are spread, for threads not to wait for each other

    Raises `PolicyError` for anything but whole numbers of at least 1.
    """

    blocking = False

    def __init__(self, *, max_sessions: int = 250_000, max_bytes: int = 65_536, max_keys: int = 256, shards: int = 256) -> None:
        for name, value in (("max_sessions", max_sessions), ("max_bytes", max_bytes), ("max_keys", max_keys), ("shards", shards)):
            if type(value) is not int or value < 1:
                raise PolicyError(f"MemoryStore({name}={value!r}): expected a whole number of at least 1")
        self._max_sessions = max_sessions
        self._limits = Limits("MemoryStore", max_bytes, max_keys)
        self._max_bytes = max_bytes
        self._max_keys = max_keys
        self._shards = tuple(Shard() for _ in range(shards))
        self._shard_count = shards
        self._books = threading.Lock()
        self._wheel = Wheel()
        self._count = 0
        self._guests = Guests()
        self._unclaimed: deque[int] = deque()
        self._cutting = threading.Lock()
        tell_of_forks(self)

    def __len__(self) -> int:
        return self._count

    @unfinished_too
    def __repr__(self) -> str:
        return f"<MemoryStore with {self._count} of at most {self._max_sessions} sessions>"

    # -------------------------------------------------------------- the verbs

    def create(self, record: Record, now: float) -> Created:
        if self.begin(record, now):
            return "created"
        key = int.from_bytes(record.locator, "big")
        shard = self._shards[key % self._shard_count]
        packed = record.pack()
        if key in shard.records:
            return "taken"
        crowded = self._admit(now)
        with shard.lock:
            taken = key in shard.records
            if not taken:
                shard.put(key, packed)
        if taken:
            self._leave(None, record)
            return "taken"
        with self._books:
            self._wheel.add(key, record.due, now)
        self._guests.newer.append(key)
        return "crowded" if crowded else "created"

    def open(self, locator: bytes, use: Use | None, idle: Idle, now: float) -> Record | None:
        key = int.from_bytes(locator, "big")
        shard = self._shards[key % self._shard_count]
        stored = shard.records.get(key)
        if type(stored) is Record:
            record = stored
        elif stored is None or stored[RECORD_FLAGS_AT] & ENDED:
            return None
        else:
            record = Record.unpack(locator, stored)
            if use is not None:
                with shard.lock:
                    if shard.records.get(key) is stored:
                        shard.records[key] = record
                        shard.warm_up(key)
                        stored = record
        if use is None or (record.flags & REUSED and 0 <= now - record.used < record.granularity):
            return record
        after = apply_use(record, use, idle, now)
        if after is None:
            return record
        with shard.lock:
            unchanged = shard.records.get(key) is stored
            if unchanged:
                shard.keep(key, after, stored)
        if not unchanged:
            return self.open(locator, use, idle, now)
        self._note_use(key, record, after, now)
        return after

    def touch(self, locator: bytes, digest: bytes, idle: Idle, now: float) -> bool:
        key = int.from_bytes(locator, "big")
        shard = self._shards[key % self._shard_count]
        with shard.lock:
            stored = shard.records.get(key)
            record = None if stored is None else record_of(key, stored)
            if stored is None or record is None or record.ending is not None:
                return False
            if now >= record.due or not record.opened_by(digest, now):
                return False
            after = apply_touch(record, idle, now)
            if after is not None:
                shard.keep(key, after, stored)
        if after is not None:
            self._note_use(key, record, after, now)
        return True

    def commit(self, locator: bytes, changes: Changes, idle: Idle, now: float) -> Outcome:
        key = int.from_bytes(locator, "big")
        shard = self._shards[key % self._shard_count]
        with shard.lock:
            stored = shard.records.get(key)
            if stored is None:
                return GONE
            before = stored if type(stored) is Record else record_of(key, stored)
            outcome = apply(before, changes, idle, now)
            record = outcome.record
            if outcome.status != "committed" or record is None:
                return outcome
            fields = record.unpacked
            if record.size > self._max_bytes or fields is None or len(fields) > self._max_keys:
                self._limits.check(before, record)
            if before is stored and shard.before is None and not record.use_written:
                shard.records[key] = record
            else:
                shard.keep(key, record, stored)
        if changes.set_timeout or record.used != before.used:
            self._note_use(key, before, record, now)
        return outcome

    def end(self, locator: bytes, reason: EndReason, now: float, lease: float) -> Record | None:
        key = int.from_bytes(locator, "big")
        shard = self._shards[key % self._shard_count]
        with shard.lock:
            stored = shard.records.get(key)
            record = None if stored is None else record_of(key, stored)
            if record is None or record.ending is not None:
                return None
            return self._end(shard, key, record, Ending(reason, now, now + lease))

    def sweep(self, now: float, limit: int, lease: float, grace: float) -> tuple[Sequence[Record], bool]:
        swept: list[Record] = []
        looked = 0
        while looked < limit:
            try:
                key = self._unclaimed.popleft()
            except IndexError:
                break
            looked += 1
            record = self._look(key, now, lease, grace)
            if record is not None:
                swept.append(record)
        with self._books:
            self._wheel.begin(now)
        while looked < limit:
            step = min(_STEP, limit - looked)
            with self._books:
                keys = self._wheel.take(now, step)
            for key in dict.fromkeys(keys):  # a session whose timeout got shorter is in the wheel twice, until both entries meet
                record = self._look(key, now, lease, grace)
                if record is not None:
                    swept.append(record)
            looked += len(keys)
            if len(keys) < step:
                return swept, False
        return swept, True

    def clear(self, locator: bytes, names: Sequence[str] | None) -> None:
        key = int.from_bytes(locator, "big")
        shard = self._shards[key % self._shard_count]
        with shard.lock:
            stored = shard.records.get(key)
            record = None if stored is None else record_of(key, stored)
            if record is None or record.ending is None:
                return
            left = {} if names is None else {name: value for name, value in record.fields.items() if name not in names}
            hooked = any(packed[FIELD_FLAGS_AT] & FIELD_HOOKED for packed in left.values())
            shard.put(key, record.copy(left).pack() if hooked else None)

    def scan(self, after: bytes | None, limit: int) -> tuple[Sequence[Record], bytes | None]:
        # A whole shard at a time: a dictionary's order does not hold a place in it while others write.
        number = 0 if after is None else int.from_bytes(after, "big")
        found: list[Record] = []
        while number < self._shard_count and len(found) < limit:
            shard = self._shards[number]
            with shard.lock:
                items = list(shard.records.items())
            found += [record for key, stored in items if (record := record_of(key, stored)).ending is None]
            number += 1
        return found, None if number == self._shard_count else number.to_bytes(4, "big")

    def close(self) -> None:
        """Nothing to let go of: the sessions stay for as long as the store does."""

    # -------------------------------------------------------------- for `express`

    def in_use(self, locator: bytes) -> Record | None:
        """The record of a session that is in use, so that it is here unpacked. To look at it is no use."""
        key = int.from_bytes(locator, "big")
        stored = self._shards[key % self._shard_count].records.get(key)
        return stored if type(stored) is Record else None

    def begin(self, record: Record, now: float) -> bool:
        """`create`, if that is nothing but to put it here; else False, and nothing is done. Raises what `create` raises."""
        key = int.from_bytes(record.locator, "big")
        fields, packed = record.unpacked, record.pack()
        if len(packed) > self._max_bytes or fields is None or len(fields) > self._max_keys:
            self._limits.check_new(record, len(packed))
        due, guests = record.due, self._guests
        shard = self._shards[key % self._shard_count]
        with shard.lock:
            if key in shard.records:
                return False
            with self._books:
                if self._count >= self._max_sessions or guests.are_many(self._count):
                    return False
                self._count += 1
                guests.count += 1
                if shard.before is None:
                    shard.records[key] = packed
                else:
                    shard.put(key, packed)
                self._wheel.add(key, due, now)
        # Here and in the wheel not before it is there: whoever makes room, or tidies, would take it for one that has gone.
        guests.newer.append(key)
        return True

    def swap(self, record: Record, after: Record) -> bool:
        """Put a record in the place of another, if that is what is here, and nothing else is concerned; else False, and nothing is done."""
        fields = after.unpacked
        if after.size > self._max_bytes or fields is None or len(fields) > self._max_keys:
            return False
        key = int.from_bytes(record.locator, "big")
        shard = self._shards[key % self._shard_count]
        with shard.lock:
            if shard.records.get(key) is not record or shard.before is not None:
                return False
            shard.records[key] = after
        return True

    # -------------------------------------------------------------- snapshots

    def cut(self) -> list[tuple[bytes, bytes]]:
        """Every record as (locator, packed form), all as they were at one moment; requests wait for microseconds only."""
        with self._cutting:
            held = Held()
            taken: list[tuple[bytes, bytes]] = []
            try:
                try:
                    held.take([shard.lock for shard in self._shards])
                    for shard in self._shards:
                        shard.before = {}
                finally:
                    held.back()
                for shard in self._shards:
                    with shard.lock:
                        items = list(shard.records.items())
                        before, shard.before = shard.before or {}, None
                    items = [(key, stored) for key, stored in items if key not in before]
                    items += [(key, stored) for key, stored in before.items() if stored is not None]
                    taken += [(key.to_bytes(16, "big"), stored.pack() if isinstance(stored, Record) else stored) for key, stored in items]
            except BaseException:  # interrupted: nobody needs any more what was there
                for shard in self._shards:
                    with shard.lock:
                        shard.before = None
                raise
        return taken

    def restore(self, records: Sequence[Record], now: float) -> int:
        """Put back saved records whose locator is free; how many. `max_sessions` does not hold here: nobody saved is thrown out."""
        restored = 0
        for record in sorted(records, key=lambda record: record.created):  # whoever makes room later is the oldest
            key = int.from_bytes(record.locator, "big")
            shard = self._shards[key % self._shard_count]
            with shard.lock:
                if key in shard.records:
                    continue
                shard.put(key, record.pack())
            if record.ending is not None:
                self._unclaimed.append(key)
            with self._books:
                if record.ending is None:
                    self._count += 1
                    if not record.flags & REUSED:
                        self._guests.count += 1
                        self._guests.newer.append(key)
                self._wheel.add(key, record.due, now)
            restored += 1
        return restored

    # -------------------------------------------------------------- inside

    def after_fork(self) -> None:
        """In the child of a fork."""
        for shard in self._shards:
            shard.lock = threading.Lock()
        self._books = threading.Lock()
        self._cutting = threading.Lock()

    def _note_use(self, key: int, before: Record, after: Record, now: float) -> None:
        """A use was written, or a timeout: if the session comes due sooner now (a shorter timeout, a clock that went back), its entry
        in the wheel lies behind that; and with its first use it makes room for nobody any more."""
        if after.flags & ~before.flags & REUSED:
            with self._books:
                self._guests.count -= 1
        if after.due < before.due:
            with self._books:
                self._wheel.sooner(key, after.due, now)

    def _admit(self, now: float) -> bool:
        """Count one more session, making room if there is none; whether somebody had to go.

        To look at all of them would make the request wait (rule 16). While it is unknown whether there is one to make room, who comes is
        let in over the limit, and the next one looks on from there.
        """
        gone, known = 0, True
        reaped: _Room = "made"
        while True:
            with self._books:
                if self._guests.are_many(self._count):
                    self._guests.tidy(self._unused)
                if self._count < self._max_sessions or gone == _GUESTS or not known:
                    self._count += 1
                    self._guests.count += 1
                    return gone > 0
            # What is over goes before a guest who is not, as far as one step finds it.
            reaped = self._reap(now) if reaped == "made" else reaped
            room = reaped if reaped == "made" else self._evict(now)
            if reaped == room == "none":
                raise StoreFull(
                    f"MemoryStore(max_sessions={self._max_sessions}) is full, and each session was used more than once: none makes room"
                )
            known = room == "made"
            gone += known

    def _unused(self, key: int) -> bool:
        stored = self._shards[key % self._shard_count].records.get(key)
        if stored is None:
            return False
        if type(stored) is Record:
            return not stored.flags & REUSED
        return not stored[RECORD_FLAGS_AT] & (ENDED | REUSED)

    def _evict(self, now: float) -> _Room:
        while True:
            with self._books:
                key = self._guests.oldest(self._unused)
                if key is None:
                    return "unknown" if self._guests.may_be_found() else "none"
            shard = self._shards[key % self._shard_count]
            with shard.lock:
                stored = shard.records.get(key)
                if stored is None or not self._unused(key):
                    continue
                # Kept, but as ended and no longer counted, until a sweep has told everybody.
                record = record_of(key, stored).copy()
                record.ending = Ending("evicted", now, 0.0)
                shard.put(key, record.pack())
            self._leave(key, record)
            self._unclaimed.append(key)
            return "made"

    def _reap(self, now: float) -> _Room:
        """End some of what has expired and no sweep has come to: it keeps nobody out."""
        with self._books:
            self._wheel.begin(now)
            keys = self._wheel.take(now, _STEP)
        found = [key for key in keys if self._expire(key, now)]
        return "made" if found else "none" if len(keys) < _STEP else "unknown"

    def _expire(self, key: int, now: float) -> bool:
        shard = self._shards[key % self._shard_count]
        with shard.lock:
            stored = shard.records.get(key)
            if stored is None:
                self._forget(key)
                return False
            record = record_of(key, stored)
            expired = record.ending is None and record.due <= now
            if expired:
                # Kept until a sweep has told everybody, like an evicted one.
                record = record.copy()
                record.ending = Ending(record.over_by, now, 0.0)
                shard.put(key, record.pack())
            elif record.ending is not None and record.ending.claimed_until <= now:
                self._unclaimed.append(key)  # for a sweep; back in the wheel it would be found again at once, and for ever
            else:
                with self._books:
                    self._wheel.again(key, record.due if record.ending is None else record.ending.claimed_until, now)
        if expired:
            self._leave(key, record)
            self._unclaimed.append(key)
        return expired

    def _leave(self, key: int | None, record: Record) -> None:
        """One session less is counted: the one of this key, unless it is somebody else's."""
        with self._books:
            self._count -= 1
            if not record.flags & REUSED:
                self._guests.count -= 1
            if key is not None:
                self._wheel.forget(key)
                self._wheel.tidy(self._count, self._is_here)

    def _is_here(self, key: int) -> bool:
        return key in self._shards[key % self._shard_count].records

    def _forget(self, key: int) -> None:
        with self._books:
            self._wheel.forget(key)

    def _end(self, shard: Shard, key: int, record: Record, ending: Ending) -> Record:
        """Mark a live record as ended (with hooks) or remove it (without); with the shard's lock held."""
        record = record.copy()
        record.ending = ending
        shard.put(key, record.pack() if record.hooked else None)
        self._leave(key, record)
        if record.hooked:
            with self._books:
                self._wheel.add(key, ending.claimed_until, ending.at)
        return record

    def _look(self, key: int, now: float, lease: float, grace: float) -> Record | None:
        """What a sweep does with one entry that came due: end it, claim it, or put it back into the wheel."""
        shard = self._shards[key % self._shard_count]
        with shard.lock:
            stored = shard.records.get(key)
            if stored is None:
                self._forget(key)
                return None
            record = record_of(key, stored)
            ending = record.ending
            claimed = False
            due = record.due
            if ending is None:
                if due <= now:
                    return self._end(shard, key, record, Ending(record.over_by, now, now + lease))
            elif not record.hooked or now >= ending.at + grace:
                shard.put(key, None)
                return record
            elif ending.claimed_until <= now:
                record = record.copy()
                record.ending = again = ending.claimed_again(now, lease, grace)
                shard.put(key, record.pack())
                claimed, due = True, again.claimed_until
            else:
                due = ending.claimed_until
            with self._books:
                self._wheel.again(key, due, now)
        return record if claimed else None
