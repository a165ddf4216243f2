"""The SQLite store: sessions in one file, for the threads and processes of one machine. It knows no keys, hooks or cookies.

A session is one row: its packed record, a checksum of that, and what a sweep has to find without unpacking anything:

    due     when to look at the session again (seconds since 1970): never later than it comes due, and often earlier, since a use
            does not move it. A sweep that finds the session alive puts it right: one look per timeout, not one write per use. Of an
            ended session, until when somebody has claimed it
    fresh   when it was created, until a second request has used it: those may make room
    ended   whether it has ended and is kept for its hooks, or until a sweep has told everybody

Every verb is one transaction, or one SELECT where nothing is to be written; readers wait for no writer. A commit first tries the
record that was opened last under its locator: one UPDATE that changes nothing if the row is another by now. A row whose checksum is
wrong counts as no session: it is reported, and dropped when it is ended or comes due.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Sequence
from sqlite3 import Cursor
from typing import Any, TypeAlias, final
from zlib import crc32

from ..changes import GONE, Changes, Idle, Outcome, Use, apply, apply_touch, apply_use
from ..declared import unfinished_too
from ..errors import PolicyError, StoreFull, StoreUnavailable
from ..record import FIELD_FLAGS_AT, FIELD_HOOKED, REUSED, Ending, EndReason, Record
from .base import Created
from .limits import Limits
from .sqlite_file import SQLiteFile

logger: logging.Logger = logging.getLogger("typed_sessions")

_STEP = 64
"""How many rows a sweep looks at before it lets others write (rule 16)."""
_REAP = 256
"""How many rows a creation looks at, at most, for an expired session that would make room."""

_MASK = 63
"""One less than how many opened records are remembered."""

_READ = "SELECT record, checksum FROM session WHERE locator = ?"
_CREATE = "INSERT OR IGNORE INTO session (locator, record, checksum, due, fresh) VALUES (?, ?, ?, ?, ?)"
_KEEP = "UPDATE session SET record = ?, checksum = ? WHERE locator = ?"
_KEEP_IF = "UPDATE session SET record = ?, checksum = ? WHERE locator = ? AND record = ?"
_MOVE = "UPDATE session SET record = ?, checksum = ?, due = ?, fresh = ?, ended = ? WHERE locator = ?"
_POSTPONE = "UPDATE session SET due = ? WHERE locator = ?"
_DELETE = "DELETE FROM session WHERE locator = ?"
_DELETE_DAMAGED = "DELETE FROM session WHERE +locator = ?"  # not by the index, which may be what is damaged, and lead to another row
_SCAN = "SELECT locator, record, checksum FROM session WHERE locator > ? ORDER BY locator LIMIT ?"
_ANY_DUE = "SELECT 1 FROM session WHERE due <= ? LIMIT 1"
_DUE = "SELECT locator, record, checksum FROM session WHERE due <= ? ORDER BY due LIMIT ?"
_OVER = "SELECT locator, record, checksum FROM session WHERE due <= ? AND ended = 0 ORDER BY due LIMIT ?"
_COUNT = "SELECT live FROM bound"
_OLDEST_FRESH = "SELECT locator, record, checksum FROM session WHERE fresh IS NOT NULL ORDER BY fresh, rowid LIMIT 1"

_Row: TypeAlias = tuple[Any, ...]
"""Any: a damaged file may hold anything."""


@final
class SQLiteStore:
    """Sessions in one SQLite file, shared by any number of threads and processes of one machine, and there after a restart.

    path          of the file, which is made with mode 0600 if it is not there; its folder has to be writable, and on a local disk
    max_bytes     of one session: its values and their names, packed; a commit that would make it larger raises `TooLarge`
    max_keys      of one session
    max_sessions  how many there may be, None for any number; when it is full, the oldest session that no second request has used
                  makes room, and if there is none, creating raises `StoreFull`
    deadline      how long a call waits for others, whatever for, in seconds; then `StoreUnavailable`

    What was committed survives a killed process. An end and a renewal also survive a loss of power, which may undo the last other
    commits. Neither the file nor the `-wal` and `-shm` files beside it may be deleted or replaced while it is in use; a call that comes
    a quarter of a second later notices. Copy it with `sqlite3 sessions.db ".backup copy.db"`, as much of it is in `-wal`; to restore the
    copy, stop the program, and remove `-wal` and `-shm`. What ended after the copy was made is open again then. Raises
    `StoreUnavailable` if the file cannot be used, and `PolicyError` for a wrong option.
    """

    blocking = True

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        max_bytes: int = 65_536,
        max_keys: int = 256,
        max_sessions: int | None = None,
        deadline: float = 5,
    ) -> None:
        for name, value in (("max_bytes", max_bytes), ("max_keys", max_keys), ("max_sessions", max_sessions)):
            if (type(value) is not int or value < 1) and (name != "max_sessions" or value is not None):
                raise PolicyError(f"SQLiteStore({name}={value!r}): expected a whole number of at least 1")
        if type(deadline) not in (int, float) or not 0 < deadline <= 86_400:
            raise PolicyError(f"SQLiteStore(deadline={deadline!r}): expected a number of seconds above 0, a day at most")
        if not _is_path(path):
            raise PolicyError(f"SQLiteStore({path!r}): expected the path of a file; for sessions in memory there is MemoryStore()")
        self._limits = Limits("SQLiteStore", max_bytes, max_keys)
        self._max_sessions = max_sessions
        self._opened: list[Record | None] = [None] * (_MASK + 1)
        self._file = SQLiteFile(path, deadline, bounded=max_sessions is not None)

    @unfinished_too
    def __repr__(self) -> str:
        return f"<SQLiteStore {self._file.path}>"

    @property
    def deadline(self) -> float:
        """How long a call waits for others, in seconds."""
        return self._file.deadline

    # -------------------------------------------------------------- the verbs

    def create(self, record: Record, now: float) -> Created:
        bound = self._max_sessions
        if bound is None:
            return "created" if self._insert(record) else "taken"
        until, row = self._file.until(), self._new_row(record)

        def work(cursor: Cursor) -> Created | None:
            crowded = False
            while cursor.execute(_COUNT).fetchone()[0] >= bound:
                if not _reap(cursor, now) and not _evict(cursor, now):
                    return None  # committed all the same: what was put right stays so
                crowded = True
            if cursor.execute(_CREATE, row).rowcount == 0:
                return "taken"
            return "crowded" if crowded else "created"

        created = self._file.write(until, work)
        if created is None:
            raise StoreFull(f"SQLiteStore(max_sessions={bound}) is full, and each session was used more than once: none makes room")
        return created

    def open(self, locator: bytes, use: Use | None, idle: Idle, now: float) -> Record | None:
        until = self._file.until()
        record, complete = self._look_up(until, locator, use, idle, now)
        if complete or use is None:
            return record

        def work(cursor: Cursor) -> Record | None:
            before = _live(cursor, locator)
            if before is None:
                return None
            after = apply_use(before, use, idle, now)
            if after is None:
                return before
            _write(cursor, before, after)
            return after

        return self._file.write(until, work)

    def try_open(self, locator: bytes, use: Use | None, idle: Idle, now: float) -> tuple[Record | None, bool]:
        """What `open` gives if nothing has to be written for it, and so without waiting for a writer; and whether that is so."""
        return self._look_up(self._file.until(), locator, use, idle, now)

    def touch(self, locator: bytes, digest: bytes, idle: Idle, now: float) -> bool:
        def work(cursor: Cursor) -> bool:
            record = _live(cursor, locator)
            if record is None or now >= record.due or not record.opened_by(digest, now):
                return False
            after = apply_touch(record, idle, now)
            if after is not None:
                _write(cursor, record, after)
            return True

        return self._file.write(self._file.until(), work)

    def commit(self, locator: bytes, changes: Changes, idle: Idle, now: float) -> Outcome:
        until = self._file.until()
        slot = locator[0] & _MASK
        opened = self._opened[slot]
        if opened is not None and opened.locator == locator and changes.renewal is None:
            self._opened[slot] = None
            outcome = apply(opened, changes, idle, now)
            record = outcome.record
            # What it says is true only if this record is still the one that is stored.
            if outcome.status == "committed" and record is not None and self._limits.allows(opened, record) and not _moves(opened, record):
                packed = record.pack_once()
                if self._file.change(until, _KEEP_IF, (packed, _checksum(locator, packed), locator, opened.packed)):
                    return outcome

        def work(cursor: Cursor) -> Outcome:
            before = _live(cursor, locator)
            if before is None:
                return GONE
            outcome = apply(before, changes, idle, now)
            record = outcome.record
            if outcome.status != "committed" or record is None:
                return outcome
            self._limits.check(before, record)
            _write(cursor, before, record)
            return outcome

        return self._file.write(until, work, durable=changes.renewal is not None)

    def end(self, locator: bytes, reason: EndReason, now: float, lease: float) -> Record | None:
        def work(cursor: Cursor) -> Record | None:
            rows = cursor.execute(_READ, (locator,)).fetchall()
            record = _only(locator, rows)
            if record is None and rows:
                cursor.execute(_DELETE_DAMAGED, (locator,))
            if record is None or record.ending is not None:
                return None
            return _end(cursor, record, Ending(reason, now, now + lease))

        return self._file.write(self._file.until(), work, durable=True)

    def sweep(self, now: float, limit: int, lease: float, grace: float) -> tuple[Sequence[Record], bool]:
        until = self._file.until()
        if not self._file.read(until, _ANY_DUE, (now,)):
            return (), False

        def work(cursor: Cursor) -> tuple[list[Record], int]:
            rows = cursor.execute(_DUE, (now, min(_STEP, limit - looked))).fetchall()
            return [record for row in rows if (record := _look(cursor, row, now, lease, grace)) is not None], len(rows)

        swept: list[Record] = []
        looked = 0
        while looked < limit:
            try:
                records, found = self._file.write(until, work)
            except StoreUnavailable:
                if not swept:
                    raise
                break  # those before are the caller's: nobody else will hear of them
            swept += records
            looked += found
            if found < _STEP:
                return swept, looked == limit
            if time.monotonic() >= until:
                break
        return swept, True

    def clear(self, locator: bytes, names: Sequence[str] | None) -> None:
        def work(cursor: Cursor) -> None:
            record = _only(locator, cursor.execute(_READ, (locator,)).fetchall())
            if record is None or record.ending is None:
                return
            left = {} if names is None else {name: value for name, value in record.fields.items() if name not in names}
            if any(packed[FIELD_FLAGS_AT] & FIELD_HOOKED for packed in left.values()):
                _keep(cursor, record.copy(left))
            else:
                cursor.execute(_DELETE, (locator,))

        self._file.write(self._file.until(), work)

    def scan(self, after: bytes | None, limit: int) -> tuple[Sequence[Record], bytes | None]:
        rows = self._file.read(self._file.until(), _SCAN, (after or b"", limit))
        records = [record for row in rows if (record := _unpack(*row)) is not None and record.ending is None]
        return records, rows[-1][0] if len(rows) == limit else None

    def close(self) -> None:
        """Close the connections of this process. The sessions stay; a later call opens the file again."""
        self._file.close()

    # -------------------------------------------------------------- for `express`

    def begin(self, record: Record, now: float) -> bool:
        """`create`, where there is no bound; else False, and nothing is done."""
        return self._max_sessions is None and self._insert(record)

    def swap(self, record: Record, after: Record) -> bool:
        """Put a record in the place of another of the same `due`, if that is what is here; else False, and nothing is done."""
        if not record.packed or after.size > self._limits.max_bytes or len(after.fields) > self._limits.max_keys:
            return False
        locator = record.locator
        self._opened[locator[0] & _MASK] = None
        packed = after.pack_once()
        return self._file.change(self._file.until(), _KEEP_IF, (packed, _checksum(locator, packed), locator, record.packed))

    # -------------------------------------------------------------- inside

    def _new_row(self, record: Record) -> _Row:
        packed = record.pack_once()
        self._limits.check_new(record, len(packed))
        fresh = None if record.flags & REUSED else record.created
        return record.locator, packed, _checksum(record.locator, packed), _real(record.due), fresh

    def _insert(self, record: Record) -> bool:
        return self._file.change(self._file.until(), _CREATE, self._new_row(record))

    def _look_up(self, until: float, locator: bytes, use: Use | None, idle: Idle, now: float) -> tuple[Record | None, bool]:
        """The record, and whether that is all: False if its use has to be written."""
        rows = self._file.read(until, _READ, (locator,))
        record = _unpack(locator, *rows[0]) if rows else None
        if record is None or record.ending is not None:
            return None, True
        if use is None:
            return record, True
        if (record.flags & REUSED and 0 <= now - record.used < record.granularity) or apply_use(record, use, idle, now) is None:
            self._opened[locator[0] & _MASK] = record
            return record, True
        return None, False


def _is_path(path: str | os.PathLike[str]) -> bool:
    """Whether a file can have this name. Some objects give bytes for theirs; and what the system cannot be told is no name."""
    name: object = os.fspath(path) if isinstance(path, (str, os.PathLike)) else None
    if not isinstance(name, str) or name in ("", ":memory:") or "\0" in name:
        return False
    try:
        os.fsencode(name)
    except UnicodeEncodeError:  # half of a character
        return False
    return True


def _checksum(locator: bytes, packed: bytes) -> int:
    """Of a record under its locator: where the index leads to another session's row, that is noticed."""
    return crc32(packed, crc32(locator))


def _real(seconds: float) -> float | None:
    """A time as a column holds it: infinity is NULL, which no index entry is kept for."""
    return None if seconds == math.inf else seconds


def _unpack(locator: Any, packed: Any, checksum: Any) -> Record | None:
    """The record of a row, or None if the row is damaged, which is reported. Any: see `_Row`."""
    try:
        if crc32(packed, crc32(locator)) != checksum:
            raise ValueError("the checksum is wrong")
        return Record.unpack(locator, packed)
    except (ValueError, TypeError) as problem:
        logger.error("the session %s is damaged and counts as none: %s", locator.hex() if isinstance(locator, bytes) else locator, problem)
        return None


def _only(locator: bytes, rows: Sequence[_Row]) -> Record | None:
    """The record of the row under this locator, if there is one; ended or not."""
    return _unpack(locator, *rows[0]) if rows else None


def _live(cursor: Cursor, locator: bytes) -> Record | None:
    """The record under this locator, if there is one that has not ended."""
    record = _only(locator, cursor.execute(_READ, (locator,)).fetchall())
    return None if record is None or record.ending is not None else record


def _keep(cursor: Cursor, record: Record) -> None:
    packed = record.pack_once()
    cursor.execute(_KEEP, (packed, _checksum(record.locator, packed), record.locator))


def _moves(before: Record, after: Record) -> bool:
    """Whether `due` and `fresh` change with a live record: only where they have to, for they are indexed."""
    return after.due < before.due or bool((after.flags ^ before.flags) & REUSED)


def _write(cursor: Cursor, before: Record, after: Record) -> None:
    """Put a live record in the place of another."""
    if _moves(before, after):
        packed = after.pack_once()
        fresh = None if after.flags & REUSED else after.created
        cursor.execute(_MOVE, (packed, _checksum(after.locator, packed), _real(after.due), fresh, 0, after.locator))
    else:
        _keep(cursor, after)


def _mark(cursor: Cursor, record: Record, ending: Ending) -> Record:
    """Keep a record as ended, until it is claimed again; as it is now."""
    record = record.copy()
    record.ending = ending
    packed = record.pack()
    cursor.execute(_MOVE, (packed, _checksum(record.locator, packed), ending.claimed_until, None, 1, record.locator))
    return record


def _end(cursor: Cursor, record: Record, ending: Ending) -> Record:
    """End a live record: with hooked values it is kept, claimed, and otherwise removed."""
    if record.hooked:
        return _mark(cursor, record, ending)
    cursor.execute(_DELETE, (record.locator,))
    record = record.copy()
    record.ending = ending
    return record


def _look(cursor: Cursor, row: _Row, now: float, lease: float, grace: float) -> Record | None:
    """What a sweep does with a row that came due: end it, claim it, drop it, or put right when to look again."""
    record = _unpack(*row)
    if record is None:
        cursor.execute(_DELETE_DAMAGED, row[:1])
        return None
    ending = record.ending
    if ending is None:
        if record.due <= now:
            return _end(cursor, record, Ending(record.over_by, now, now + lease))
        cursor.execute(_POSTPONE, (_real(record.due), record.locator))
        return None
    if not record.hooked or now >= ending.at + grace:
        cursor.execute(_DELETE, (record.locator,))
        return record
    if ending.claimed_until > now:
        cursor.execute(_POSTPONE, (ending.claimed_until, record.locator))
        return None
    return _mark(cursor, record, ending.claimed_again(now, lease, grace))


def _evict(cursor: Cursor, now: float) -> bool:
    """End the oldest session that no second request has used; whether there was one. A sweep tells everybody."""
    row = cursor.execute(_OLDEST_FRESH).fetchone()
    if row is None:
        return False
    record = _unpack(*row)
    if record is None:
        cursor.execute(_DELETE_DAMAGED, row[:1])
    else:
        _mark(cursor, record, Ending("evicted", now, 0.0))
    return True


def _reap(cursor: Cursor, now: float) -> bool:
    """End some of what has expired and no sweep has come to: it keeps nobody out. Whether there was any."""
    found = False
    for row in cursor.execute(_OVER, (now, _REAP)).fetchall():
        record = _unpack(*row)
        if record is None:
            cursor.execute(_DELETE_DAMAGED, row[:1])
        elif record.due <= now:
            _mark(cursor, record, Ending(record.over_by, now, 0.0))
        else:
            cursor.execute(_POSTPONE, (_real(record.due), record.locator))
            continue
        found = True
    return found
