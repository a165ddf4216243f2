"""What of a memory store outlives the process: snapshots, and the journal that keeps ended sessions ended (rules 8, 29).

A snapshot's records are 16 bytes of locator and a packed record (see `record`). The journal's entries are ended locators, with the packed
record for as long as its hooks have not run (rule 13), and for a renewed session the packed record without its fields: digests, never
secrets. A field without a name says that the renewal (or one before it) dropped every field of an earlier revision than its own.
The end of a session that never was, of 16 zero bytes, says until when an older snapshot may keep any alive, by a timeout that is none now.
"""

from __future__ import annotations

import logging
import math
import os
import sys
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, final
from weakref import WeakKeyDictionary, WeakSet, WeakValueDictionary

from typing_extensions import TypeIs

from .errors import PolicyError, SnapshotDamaged, StoreUnavailable
from .files import Hold
from .forks import tell_of_forks
from .journal import Entry, Journal, in_thread, replay
from .record import LOCATOR_BYTES, OWN_TIMEOUT, Record, field_revision, pack_field, times_of
from .snapshot import load_latest, write_snapshot

logger: logging.Logger = logging.getLogger("typed_sessions")


_CLEARED = ""
_ANY = bytes(LOCATOR_BYTES)
LONGEST = 400 * 86_400.0
"""Seconds: browsers keep no cookie for longer (RFC 6265bis 5.5), so a session may have had this timeout of its own in another process."""
_AND_GRANULARITY = 1.1
"""A session's granularity is a tenth of its timeout at most."""
JOURNALS = 8
"""How many snapshots are told of each end; every one of them costs the request an fsync, and the process a descriptor."""


class Cuttable(Protocol):
    """A store whose sessions are lost with the process unless somebody saves them."""

    def cut(self) -> list[tuple[bytes, bytes]]: ...
    def restore(self, records: Sequence[Record], now: float) -> int: ...


@final
class _Latest:
    """The clock by which journals forget: the managers' latest time, which need not be that of the machine.

    But no later than when something was saved before, or had been saved that was loaded: a clock that has jumped ahead since must not make
    them forget what that snapshot may still bring back.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.saved = math.inf

    def __call__(self) -> float:
        return min(self.now, self.saved)


@final
@dataclass(frozen=True, slots=True)
class _Held:
    """Which sessions any snapshot may hold, and for how long it could keep them alive; rather too much than too little of both.

    Sessions are told by when they were created: the clock may have been wrong then, but that time never gets later.
    """

    newest: float = -math.inf
    """No session that was created later is in a snapshot."""
    loaded: float = -math.inf
    """None that was created later is in one by anybody but this keeper."""
    own_timeout: float = 0.0
    """The longest timeout of its own that a session has in one by this keeper."""
    used: float = -math.inf
    """The latest use of any session in one by this keeper: under a clock that was ahead it is later than when that was saved."""
    until: float = -math.inf
    """When the last of the sessions in them, without a timeout of its own, is over."""
    timeout: float = 0.0
    """The longest timeout of those in the last snapshot of all, which a process that loads it takes for that of every one before."""

    def with_cut(self, records: Iterable[tuple[bytes, bytes]]) -> _Held:
        newest, own_timeout, latest, until, longest = self.newest, self.own_timeout, self.used, self.until, 0.0
        for _, packed in records:
            flags, created, used, timeout = times_of(packed)
            newest = max(newest, created)
            latest = max(latest, used)
            timeout = min(timeout, LONGEST)
            if flags & OWN_TIMEOUT:
                own_timeout = max(own_timeout, timeout)
            else:
                longest = max(longest, timeout)
                until = max(until, used + timeout * _AND_GRANULARITY)
        return _Held(newest, self.loaded, own_timeout, latest, until, longest)

    def with_loaded(self, records: Sequence[Record], until: float) -> _Held:
        loaded = max((record.created for record in records), default=-math.inf)
        for record in records:
            if not record.flags & OWN_TIMEOUT:
                timeout = LONGEST if record.timeout is None else min(record.timeout, LONGEST)
                until = max(until, record.used + timeout * _AND_GRANULARITY)
        return replace(self, newest=max(self.newest, loaded), loaded=max(self.loaded, loaded), until=max(self.until, until))

    def all_loaded(self) -> _Held:
        """The same, if others may hold it too."""
        return replace(self, loaded=self.newest)

    def or_any(self) -> _Held:
        """The same, and whatever else there is."""
        return replace(self, newest=math.inf, loaded=math.inf)

    def may_hold(self, record: Record) -> bool:
        return record.created <= self.newest

    def longest(self, record: Record) -> float:
        """The longest timeout of its own that this session may have in a snapshot."""
        if not record.flags & OWN_TIMEOUT:
            return 0.0
        return LONGEST if record.created <= self.loaded else self.own_timeout


@final
class Keeper:
    """The files of one memory store, for all its managers. Ends and renewals go to the journals beside what was saved or loaded.

    Of those, `JOURNALS` at most: the one that was saved least recently is let go, but none that was loaded or that autosave writes.
    """

    def __init__(self, store: Cuttable) -> None:
        self.store = store  # for as long as there is a keeper: it is known by the id of its store
        self._timeout: float | None = 0.0
        """The longest idle timeout that sessions may have, or have had in what was loaded; None is no timeout."""
        self._lead = 0.0
        """By how many seconds, at most, what was loaded had been written under a clock that was ahead."""
        self._saved_at = -math.inf
        """The latest time under which this process has saved anything: its clock may have been ahead too."""
        self._latest = _Latest()
        self._held: _Held = _Held().or_any()
        """What no snapshot holds cannot come back, and is not noted: what came and went between two of them leaves no trace. Replaced as a
        whole."""
        self._looked = False
        """Whether it counts what was in the store before: a keeper before this one may have saved that."""
        self._users: WeakKeyDictionary[object, set[str]] = WeakKeyDictionary()
        """The managers, and the paths that each of them has loaded or saves to by itself."""
        self._holds: dict[str, Hold] = {}
        """By those paths."""
        self._told: set[str] = set()
        """The paths that another was found to save to, which is said once."""
        self._journals: dict[str, Journal] = {}
        """By absolute path, the most recently saved or loaded last. Replaced as a whole, for threads go through it without a lock."""
        self._let_go: WeakSet[Journal] = WeakSet()
        self._ended: set[bytes] | None = None
        """While something is loaded: what has ended since it was begun to be read."""
        self._until_noted: dict[str, float] = {}
        """By path, what its journal says of `_ANY`."""
        self._cleared: dict[bytes, int] = {}
        """By locator: the revision in which a renewal dropped everything, until the session ends."""
        self._lock = threading.Lock()
        self._saving = threading.Lock()
        """One at a time, or an older cut could be the last to be written."""
        tell_of_forks(self)

    def join(self, user: object) -> None:
        """A manager uses this; it says `leave` when it is closed."""
        with self._lock:
            self._users.setdefault(user, set())

    def needs(self, user: object, path: str) -> None:
        """A manager has loaded this absolute path, or saves to it by itself: its journal is not let go before the manager is closed."""
        with self._lock:
            self._users.setdefault(user, set()).add(path)

    def saves_to(self, user: object, path: str) -> None:
        """A manager saves to this absolute path by itself, from now on."""
        self.needs(user, path)
        self._look_for_another(path, take=True)

    def leave(self, user: object) -> None:
        """A manager is closed. With the last one the files are."""
        with self._lock:
            self._users.pop(user, None)
            for path in self._holds.keys() - self._needed():
                self._holds.pop(path).close()
            if not self._users:
                for journal in self._journals.values():
                    journal.close()
                self._journals = {}

    def lives(self, timeout: float | None) -> None:
        """Sessions may have this idle timeout from now on: what has ended is remembered for as long as it."""
        self._timeout = None if timeout is None or self._timeout is None else max(self._timeout, timeout)

    def save(self, path: str | os.PathLike[str], now: float) -> int:
        """Write a snapshot of this moment; how many sessions. Nothing in memory changes. Raises `StoreUnavailable`."""
        path = absolute(path)
        with self._saving:
            self._latest.now = now
            self._saved_at = max(self._saved_at, now)
            journal = self._journals.get(path) or self._journal(path)
            self._look_for_another(path, take=False)
            held = self._held if self._looked else _Held()
            self._held = held.or_any()  # until it is cut, nobody knows what is in it
            try:
                # The journal first: without one that can be used, a good snapshot must not be replaced (what could not be loaded for the
                # same reason would be lost). And what ends from here on is either missing from the cut or in the journal.
                journal.prepare()
                self._note_in(path, journal)
                records = self.store.cut()
                held = held.with_cut(records)
                if not self._looked:
                    held = held.all_loaded()
                    self._looked = True
                self._note_longer(path, journal, held, now)
            finally:
                self._held = held if self._looked else held.or_any()
            count = write_snapshot(path, (locator + packed for locator, packed in records), now=now)
            self._look_for_another(path, take=True)
            journal.tidy(self._latest())
            self._latest.saved = now
            return count

    def load(self, path: str | os.PathLike[str], now: float, user: object) -> tuple[int, list[SnapshotDamaged]]:
        """Restore what is saved and has not ended since; how many sessions, and what was damaged."""
        with self._saving:
            self._ended = set()
            try:
                return self._load(absolute(path), now, user)
            finally:
                self._ended = None

    def _load(self, name: str, now: float, user: object) -> tuple[int, list[SnapshotDamaged]]:
        # Not taken: a process that only loads does no harm to who saves there, such as its own child.
        self._look_for_another(name, take=False)
        snapshot, problems = load_latest(name)
        entries: Sequence[Entry] = ()
        try:
            # None is too old: it may have been noted under a clock that was behind.
            entries, damaged = replay(name, now=-math.inf)
            if damaged:
                problems.append(SnapshotDamaged(f"{name}.journal", f"{damaged} entries of the journal could not be read"))
        except SnapshotDamaged as problem:
            # Without it a session that has ended could come back: rather none.
            problems.append(problem)
            snapshot = None
        for found in problems:
            logger.error("%s", found)
        if not self._looked:
            self._held = _Held().with_cut(self.store.cut()).all_loaded()
            self._looked = True
        self.needs(user, name)
        self._note_in(name, self._journals.get(name) or self._journal(name))
        records: dict[bytes, Record] = {}
        if snapshot is not None:
            self._lead = max(self._lead, snapshot.saved_at - now)
            self._latest.saved = min(self._latest.saved, snapshot.saved_at)
        # Without a snapshot too: what had ended before there was one may still wait for its hooks.
        for packed in () if snapshot is None else snapshot.records:
            try:
                record = Record.unpack(packed[:LOCATOR_BYTES], packed[LOCATOR_BYTES:]).copy()
            except ValueError as problem:
                problems.append(SnapshotDamaged(name, str(problem)))
                logger.error("%s", problems[-1])
                continue
            # Written under a clock that was ahead: it must not live for longer than its timeout or its lifetime from now (L10).
            self._lead = max(self._lead, record.used - now, record.created - now)
            if record.deadline is not None and record.created > now:
                record.deadline -= record.created - now
            record.used, record.created = min(record.used, now), min(record.created, now)
            records[record.locator] = record
            if self._timeout is not None and not record.flags & OWN_TIMEOUT:
                self._timeout = None if record.timeout is None else max(self._timeout, record.timeout)
        until = -math.inf
        for entry in entries:
            if entry.locator == _ANY:
                until = self._until_noted[name] = max(until, entry.until or until)
            elif entry.kind == "ended":
                records.pop(entry.locator, None)
                if entry.payload:
                    _wait(records, entry)
            elif entry.locator in records:
                self._renew(records, entry)
        # Those whose time ran out meanwhile too: they are not open to anybody, but their ends are still to be told and cleaned up after.
        ended = self._ended or ()
        self._held = self._held.with_loaded(list(records.values()), until)
        return self.store.restore([record for record in records.values() if record.locator not in ended], now), problems

    def _journal(self, path: str) -> Journal:
        return Journal(path, clock=self._latest, aside=in_thread)

    @property
    def keeping(self) -> bool:
        """Whether there is a file in which an end has to be noted."""
        return bool(self._journals)

    def note_ended(self, records: Sequence[Record], now: float) -> None:
        """Remember for good that sessions have ended, and what their hooks are to run on. Returns when that is on the disk."""
        # With a payload it is not forgotten before `note_cleaned`, however long the program is down.
        self._note_ends([record for record in records if record.hooked or self._held.may_hold(record)], now)
        for record in records:
            self._cleared.pop(record.locator, None)
            if self._ended is not None:
                self._ended.add(record.locator)

    def note_cleaned(self, records: Sequence[Record], now: float) -> None:
        """Remember that the hooks of ended sessions have run, but for what these records still hold. Returns when that is on the disk."""
        self._note_ends(records, now)

    def _note_ends(self, records: Sequence[Record], now: float) -> None:
        self._note([Entry("ended", r.locator, self._until(r, now), r.pack() if r.hooked else b"") for r in records], now)

    def note_renewed(self, record: Record, cleared: bool, now: float) -> None:
        """Remember a session's new digests, and whether its values were dropped. Returns when that is on the disk."""
        if cleared:
            self._cleared[record.locator] = record.revision
        if not self._held.may_hold(record):
            return
        revision = self._cleared.get(record.locator)
        fields = {} if revision is None else {_CLEARED: pack_field(revision, 0, 0, b"")}
        self._note([Entry("renewed", record.locator, self._until(record, now), record.copy(fields).pack())], now)

    def after_fork(self) -> None:
        """In the child of a fork."""
        self._lock, self._saving = threading.Lock(), threading.Lock()
        for hold in self._holds.values():
            hold.leave()
        self._holds, self._told = {}, set()
        self._ended = None  # what is loaded there is the parent's
        # The parent may save whatever there was before the fork, and what has been noted of it until then is to go on.
        self._held, self._looked = self._held.or_any(), bool(self._journals)

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

    def _note_longer(self, path: str, journal: Journal, held: _Held, now: float) -> None:
        """Before a snapshot in which no session has as long a timeout as in one before: whoever loads it would not know of that."""
        noted = self._until_noted.get(path, -math.inf)
        if held.until > max(noted, now + held.timeout * _AND_GRANULARITY):
            journal.append([Entry("ended", _ANY, held.until + self._lead)])
            self._until_noted[path] = held.until

    def _note(self, entries: Sequence[Entry], now: float) -> None:
        self._latest.now = now
        failure: StoreUnavailable | None = None
        for path, journal in self._journals.items():
            try:
                journal.append(entries)
            except StoreUnavailable as problem:
                if journal not in self._let_go and not self._let_go_without_folder(path, journal):
                    failure = problem  # the others are told all the same
        if failure is not None:
            raise failure

    def _until(self, record: Record, now: float) -> float | None:
        # As long as any older snapshot could still hold this session alive, whatever its timeout and the clock were then.
        held = self._held
        if not held.may_hold(record):
            return now
        timeouts = [record.timeout, self._timeout, held.longest(record)]
        begun = max(now, record.used, self._saved_at, held.used) + self._lead
        idle = None if None in timeouts else begun + max(seconds for seconds in timeouts if seconds is not None) * _AND_GRANULARITY
        idle = None if idle is None else max(idle, held.until + self._lead)
        if record.deadline is None:
            return idle
        deadline = record.deadline + self._lead
        return deadline if idle is None else min(idle, deadline)

    def _note_in(self, path: str, journal: Journal) -> None:
        """Note what ends in this journal too from now on, and in the least recent of too many no more."""
        with self._lock:
            journals = {other: kept for other, kept in self._journals.items() if other != path}
            needed = self._needed()
            spare = [other for other in journals if other not in needed][: max(0, len(journals) + 1 - JOURNALS)]
            gone = [journals.pop(other) for other in spare]
            journals[path] = journal
            self._let_go.update(gone)
            self._journals = journals
        for let_go in gone:
            let_go.close()

    def _needed(self) -> set[str]:
        """What the managers have loaded or save to by themselves; with the lock held."""
        return {path for paths in self._users.values() for path in paths}

    def _look_for_another(self, path: str, *, take: bool) -> None:
        """Say so, once, if another process saves to this path; with `take`, let others see that this one does, if its managers need it."""
        with self._lock:
            needed = path in self._needed()
            hold = self._holds.get(path) or Hold(path)
            if needed:
                self._holds[path] = hold
        if hold.is_anothers(take=take and needed) and path not in self._told:
            self._told.add(path)
            logger.warning(
                "%s: another process (or another MemoryStore of this one) saves its sessions there too. Each overwrites what the other has "
                "saved: sessions get lost, and what ends in one goes on in the other. With MemoryStore one process serves: begin with one "
                "worker, and stop it before the next one loads; or choose a store that several share, such as SQLiteStore",
                path,
            )

    def _let_go_without_folder(self, path: str, journal: Journal) -> bool:
        """Let go of a journal if its folder is gone: no snapshot is there that could bring anything back. Whether that is so."""
        folder = os.path.dirname(path)
        try:
            os.stat(folder)
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError:
            return False
        else:
            return False
        with self._lock:
            self._let_go.add(journal)
            self._journals = {other: kept for other, kept in self._journals.items() if kept is not journal}
        journal.close()
        logger.warning(
            "the folder %s is gone, so what ends is no longer noted in %s.journal: a snapshot of there that is put back brings ended "
            "sessions back. Saving there again, when the folder is back, begins anew",
            folder,
            path,
        )
        return True


def _wait(records: dict[bytes, Record], entry: Entry) -> None:
    try:
        records[entry.locator] = Record.unpack(entry.locator, entry.payload)
    except ValueError:
        logger.error("an end in the journal could not be read; the hooks of the session %s do not run", entry.locator.hex())


def absolute(path: str | os.PathLike[str]) -> str:
    """Of a path as it is given: the program may change its folder later. Raises `PolicyError` on Windows."""
    if not hasattr(os, "geteuid"):  # nor is there flock, and what is open cannot be replaced
        raise PolicyError(
            f"{os.fspath(path)}: snapshots of a memory store take a POSIX system, which {sys.platform} is not; "
            "SQLiteStore(path) keeps its sessions here too"
        )
    return os.path.abspath(os.fspath(path))


def is_cuttable(store: object) -> TypeIs[Cuttable]:
    """Whether the sessions of a store have to be kept by somebody."""
    # Not a runtime_checkable protocol: since Python 3.12 that overlooks what a wrapper around a store passes on in __getattr__.
    return callable(getattr(store, "cut", None)) and callable(getattr(store, "restore", None))


@final
class _Keepers:
    """The keeper of each store."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_id: WeakValueDictionary[int, Keeper] = WeakValueDictionary()
        """By the id of the store, which lives for as long as its keeper does."""
        tell_of_forks(self)

    def after_fork(self) -> None:
        self._lock = threading.Lock()

    def of(self, store: Cuttable) -> Keeper:
        with self._lock:
            keeper = self._by_id.get(id(store))
            if keeper is None:
                keeper = self._by_id[id(store)] = Keeper(store)
            return keeper


_keepers = _Keepers()


def keeper_of(store: object, timeout: float | None, user: object) -> Keeper:
    """The one keeper of a store whose sessions have to be kept, for a manager with this idle timeout. Raises `PolicyError` for another."""
    if not is_cuttable(store):
        raise PolicyError(f"{store!r} keeps its sessions itself: save_sessions and load_sessions are for MemoryStore")
    keeper = _keepers.of(store)
    keeper.join(user)
    keeper.lives(timeout)
    return keeper
