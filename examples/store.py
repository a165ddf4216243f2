"""A store of your own: a dictionary of packed records under one lock, which the conformance kit then checks.

    python examples/store.py

It needs `pip install 'typed-sessions[testing]'`. Everything that a store imports comes from `typed_sessions.stores.base`, which is also
where its promises are written down. A store that reaches a server or a file has `blocking = True` and raises `StoreUnavailable`.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from typed_sessions.stores.base import (
    REUSED,
    Changes,
    Created,
    Ending,
    EndReason,
    Idle,
    Limits,
    Outcome,
    Record,
    StoreFull,
    Use,
    apply,
    apply_touch,
    apply_use,
)
from typed_sessions.testing import check_store


class DictStore:
    """Sessions in a dictionary; whatever looks at all of them would be an index in a larger store."""

    blocking = False

    def __init__(self, max_sessions: int = 10_000) -> None:
        self._packed: dict[bytes, bytes] = {}
        self._lock = threading.Lock()
        self._max_sessions = max_sessions
        self._limits = Limits("DictStore", max_bytes=65_536, max_keys=256)

    def create(self, record: Record, now: float) -> Created:
        self._limits.check_new(record)
        with self._lock:
            if record.locator in self._packed:
                return "taken"
            living = [one for one in map(self._stored, self._packed) if one is not None and one.ending is None]
            over = [one for one in living if one.due <= now]
            guests = sorted((one for one in living if one.due > now and not one.flags & REUSED), key=lambda one: one.created)
            leaving = [*over, *guests][: max(0, len(living) + 1 - self._max_sessions)]
            if len(living) - len(leaving) >= self._max_sessions:
                raise StoreFull(f"DictStore(max_sessions={self._max_sessions}) is full, and each session was used more than once")
            for one in leaving:
                # Kept until a sweep gives it out, whether it has hooks or not.
                self._keep_ended(one, Ending(one.over_by if one.due <= now else "evicted", now, 0.0))
            self._put(record)
            return "crowded" if leaving else "created"

    def open(self, locator: bytes, use: Use | None, idle: Idle, now: float) -> Record | None:
        with self._lock:
            record = self._living(locator)
            used = None if record is None or use is None else apply_use(record, use, idle, now)
            if used is None:
                return record
            self._put(used)
            return used

    def touch(self, locator: bytes, digest: bytes, idle: Idle, now: float) -> bool:
        with self._lock:
            record = self._living(locator)
            if record is None or record.due <= now or not record.opened_by(digest, now):
                return False
            used = apply_touch(record, idle, now)
            if used is not None:
                self._put(used)
            return True

    def commit(self, locator: bytes, changes: Changes, idle: Idle, now: float) -> Outcome:
        with self._lock:
            record = self._living(locator)
            if record is None:
                return Outcome("gone")
            outcome = apply(record, changes, idle, now)
            if outcome.status == "committed" and outcome.record is not None:
                self._limits.check(record, outcome.record)
                self._put(outcome.record)
            return outcome

    def end(self, locator: bytes, reason: EndReason, now: float, lease: float) -> Record | None:
        with self._lock:
            record = self._living(locator)
            return None if record is None else self._end(record, Ending(reason, now, now + lease))

    def sweep(self, now: float, limit: int, lease: float, grace: float) -> tuple[Sequence[Record], bool]:
        with self._lock:
            due = [one for one in map(self._stored, self._packed) if one is not None and _is_due(one, now, grace)]
            swept: list[Record] = []
            for record in due[:limit]:
                ending = record.ending
                if ending is None:
                    swept.append(self._end(record, Ending(record.over_by, now, now + lease)))
                elif ending.at + grace <= now:
                    del self._packed[record.locator]
                    swept.append(record)
                else:
                    swept.append(self._end(record, ending.claimed_again(now, lease, grace)))
            return swept, len(due) > limit

    def clear(self, locator: bytes, names: Sequence[str] | None) -> None:
        with self._lock:
            record = self._stored(locator)
            if record is None or record.ending is None:
                return
            left = record.copy({} if names is None else {name: field for name, field in record.fields.items() if name not in names})
            if left.hooked:
                self._put(left)
            else:
                del self._packed[locator]

    def scan(self, after: bytes | None, limit: int) -> tuple[Sequence[Record], bytes | None]:
        with self._lock:
            ahead = sorted(locator for locator in self._packed if after is None or locator > after)
            page = [record for record in map(self._living, ahead[:limit]) if record is not None]
            return page, ahead[limit - 1] if len(ahead) > limit else None

    def close(self) -> None:
        """There is nothing to let go of."""

    # With the lock held:

    def _stored(self, locator: bytes) -> Record | None:
        packed = self._packed.get(locator)
        return None if packed is None else Record.unpack(locator, packed)

    def _living(self, locator: bytes) -> Record | None:
        record = self._stored(locator)
        return None if record is None or record.ending is not None else record

    def _put(self, record: Record) -> None:
        self._packed[record.locator] = record.pack()

    def _keep_ended(self, record: Record, ending: Ending) -> Record:
        ended = record.copy()
        ended.ending = ending
        self._put(ended)
        return ended

    def _end(self, record: Record, ending: Ending) -> Record:
        ended = self._keep_ended(record, ending)
        if not record.hooked:
            del self._packed[record.locator]
        return ended


def _is_due(record: Record, now: float, grace: float) -> bool:
    ending = record.ending
    return record.due <= now if ending is None else ending.claimed_until <= now or ending.at + grace <= now


if __name__ == "__main__":
    print(check_store(DictStore, make_bounded=DictStore))
