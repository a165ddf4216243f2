"""What of a memory store outlives the process: snapshots, and the journal that keeps ended sessions ended (rules 8, 29).

A snapshot's records are 16 bytes of locator and a packed record (see `record`). The journal's entries are ended locators, with the packed
record for as long as its hooks have not run (rule 13), and for a renewed session the packed record without its fields: digests, never
secrets. A field without a name says that the renewal (or one before it) dropped every field of an earlier revision than its own.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Sequence
from typing import Protocol, final

from typing_extensions import TypeIs

from .errors import PolicyError, SnapshotDamaged
from .journal import Entry, Journal, replay
from .record import LOCATOR_BYTES, OWN_TIMEOUT, Record, field_revision, pack_field
from .snapshot import load_latest, write_snapshot

logger: logging.Logger = logging.getLogger("typed_sessions")


_CLEARED = ""
LONGEST = 400 * 86_400.0
"""Seconds: browsers keep no cookie for longer (RFC 6265bis 5.5), so a session with a timeout of its own may have had this much."""
_AND_GRANULARITY = 1.1
"""A session's granularity is a tenth of its timeout at most."""


class Cuttable(Protocol):
    """A store whose sessions are lost with the process unless somebody saves them."""

    def cut(self) -> list[tuple[bytes, bytes]]: ...
    def restore(self, records: Sequence[Record], now: float) -> int: ...


@final
class Keeper:
    """The files of one memory store. Ends and renewals go to the journal beside every snapshot that was saved or loaded."""

    def __init__(self, store: Cuttable, timeout: float | None) -> None:
        self._store = store
        self._timeout = timeout
        self._journals: dict[str, Journal] = {}
        self._ended: set[bytes] | None = None
        """While something is loaded: what has ended since it was begun to be read."""
        self._cleared: dict[bytes, int] = {}
        """By locator: the revision in which a renewal dropped everything, until the session ends."""
        self._lock = threading.Lock()
        self._saving = threading.Lock()
        """One at a time, or an older cut could be the last to be written."""

    def lives(self, timeout: float | None) -> None:
        """Sessions may have this idle timeout from now on: what has ended is remembered for as long as it."""
        self._timeout = None if timeout is None or self._timeout is None else max(self._timeout, timeout)

    def save(self, path: str | os.PathLike[str], now: float) -> int:
        """Write a snapshot of this moment; how many sessions. Nothing in memory changes. Raises `StoreUnavailable`."""
        with self._saving:
            # The journal first: what ends from here on is either missing from the cut or in the journal.
            journal = self._journal(path)
            records = self._store.cut()
            count = write_snapshot(path, (locator + packed for locator, packed in records), now=now)
            journal.compact(now)
            return count

    def load(self, path: str | os.PathLike[str], now: float) -> tuple[int, list[SnapshotDamaged]]:
        """Restore what is saved and has not ended since; how many sessions, and what was damaged."""
        with self._saving:
            self._ended = set()
            try:
                return self._load(path, now)
            finally:
                self._ended = None

    def _load(self, path: str | os.PathLike[str], now: float) -> tuple[int, list[SnapshotDamaged]]:
        name = os.fspath(path)
        snapshot, problems = load_latest(path)
        entries: Sequence[Entry] = ()
        try:
            entries, damaged = replay(path, now=now)
            if damaged:
                problems.append(SnapshotDamaged(f"{name}.journal", f"{damaged} entries of the journal could not be read"))
        except SnapshotDamaged as problem:
            # Without it a session that has ended could come back: rather none.
            problems.append(problem)
            snapshot = None
        for found in problems:
            logger.error("%s", found)
        self._journal(path)
        records: dict[bytes, Record] = {}
        # Without a snapshot too: what had ended before there was one may still wait for its hooks.
        for packed in () if snapshot is None else snapshot.records:
            try:
                record = Record.unpack(packed[:LOCATOR_BYTES], packed[LOCATOR_BYTES:]).copy()
            except ValueError as problem:
                problems.append(SnapshotDamaged(name, str(problem)))
                logger.error("%s", problems[-1])
                continue
            # Written under a clock that was ahead: it must not live for longer than its timeout from now (L10).
            record.used, record.created = min(record.used, now), min(record.created, now)
            records[record.locator] = record
            if self._timeout is not None and not record.flags & OWN_TIMEOUT:
                self._timeout = None if record.timeout is None else max(self._timeout, record.timeout)
        for entry in entries:
            if entry.kind == "ended":
                records.pop(entry.locator, None)
                if entry.payload:
                    _wait(records, entry)
            elif entry.locator in records:
                self._renew(records, entry)
        # Those whose time ran out meanwhile too: they are not open to anybody, but their ends are still to be told and cleaned up after.
        ended = self._ended or ()
        return self._store.restore([record for record in records.values() if record.locator not in ended], now), problems

    @property
    def keeping(self) -> bool:
        """Whether there is a file in which an end has to be noted."""
        return bool(self._journals)

    def note_ended(self, records: Sequence[Record], now: float) -> None:
        """Remember for good that sessions have ended, and what their hooks are to run on. Returns when that is on the disk."""
        self._note([Entry("ended", r.locator, self._until(r, now), r.pack() if r.hooked else b"") for r in records])
        for record in records:
            self._cleared.pop(record.locator, None)
            if self._ended is not None:
                self._ended.add(record.locator)

    def note_cleaned(self, records: Sequence[Record], now: float) -> None:
        """Remember that the hooks of ended sessions have run. Returns when that is on the disk."""
        self._note([Entry("ended", record.locator, self._until(record, now)) for record in records])

    def note_renewed(self, record: Record, cleared: bool, now: float) -> None:
        """Remember a session's new digests, and whether its values were dropped. Returns when that is on the disk."""
        if cleared:
            self._cleared[record.locator] = record.revision
        revision = self._cleared.get(record.locator)
        fields = {} if revision is None else {_CLEARED: pack_field(revision, 0, 0, b"")}
        self._note([Entry("renewed", record.locator, self._until(record, now), record.copy(fields).pack())])

    def close(self) -> None:
        with self._lock:
            journals, self._journals = self._journals, {}
        for journal in journals.values():
            journal.close()

    def _renew(self, records: dict[bytes, Record], entry: Entry) -> None:
        record = records[entry.locator]
        try:
            renewed = Record.unpack(entry.locator, entry.payload)
            cleared = renewed.fields.get(_CLEARED)
        except ValueError:
            logger.error("a renewal in the journal could not be read; the session %s keeps its old secret", entry.locator.hex())
            return
        if cleared is not None:
            revision = self._cleared[entry.locator] = field_revision(cleared)
            record = record.copy({name: packed for name, packed in record.fields.items() if field_revision(packed) >= revision})
            records[entry.locator] = record
        if renewed.revision >= record.revision:
            record.digest, record.tag_digest, record.address = renewed.digest, renewed.tag_digest, renewed.address
            record.previous = renewed.previous
            # Revisions go on from here: where an older snapshot was put back they would begin again below those in the journal, and then
            # an entry from before would look newer than what is renewed from now on.
            record.revision = renewed.revision

    def _note(self, entries: Sequence[Entry]) -> None:
        for journal in list(self._journals.values()):
            journal.append(entries)

    def _until(self, record: Record, now: float) -> float | None:
        # As long as any older snapshot could still hold this session alive, whatever its timeout was then.
        timeouts = [record.timeout, self._timeout, LONGEST if record.flags & OWN_TIMEOUT else 0]
        idle = None if None in timeouts else now + max(seconds for seconds in timeouts if seconds is not None) * _AND_GRANULARITY
        if record.deadline is None:
            return idle
        return record.deadline if idle is None else min(idle, record.deadline)

    def _journal(self, path: str | os.PathLike[str]) -> Journal:
        name: str = os.path.abspath(os.fspath(path))
        with self._lock:
            journal = self._journals.get(name)
            if journal is None:
                journal = self._journals[name] = Journal(path)
            return journal


def _wait(records: dict[bytes, Record], entry: Entry) -> None:
    try:
        records[entry.locator] = Record.unpack(entry.locator, entry.payload)
    except ValueError:
        logger.error("an end in the journal could not be read; the hooks of the session %s do not run", entry.locator.hex())


def _is_cuttable(store: object) -> TypeIs[Cuttable]:
    # Not a runtime_checkable protocol: since Python 3.12 that overlooks what a wrapper around a store passes on in __getattr__.
    return callable(getattr(store, "cut", None)) and callable(getattr(store, "restore", None))


def keeper_of(store: object, timeout: float | None) -> Keeper:
    """The keeper of a store, if it is one whose sessions have to be kept. Raises `PolicyError` for another."""
    if _is_cuttable(store):
        return Keeper(store, timeout)
    raise PolicyError(f"{store!r} keeps its sessions itself: save_sessions and load_sessions are for MemoryStore")
