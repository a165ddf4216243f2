"""One SQLite file and the connections to it: opening, schema, transactions, waiting, forks. It knows no records and no rules.

Connections are lent out for one call and put back, so that there are as many as calls run at once, whatever threads come and go.
The writers of one process queue up at a lock; only between processes does somebody have to ask SQLite again and again.
The schema is a list of steps. `user_version` says how many of them a file has been through, and opening it does the others.
"""

from __future__ import annotations

import logging
import os
import random
import sqlite3
import stat
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NoReturn, TypeAlias, TypeVar, final

from ..errors import StoreUnavailable, TooLarge
from ..locks import Held
from .sqlite_places import BESIDE, Files, create, files_at, is_bereft, may_write, why_not

R = TypeVar("R")

Problem: TypeAlias = sqlite3.Error | UnicodeDecodeError
PROBLEMS = (sqlite3.Error, UnicodeDecodeError)
"""What a call of SQLite may raise. The second is Python's own: a damaged file may put anything into the text of the first."""

logger: logging.Logger = logging.getLogger("typed_sessions")

APPLICATION_ID = 0x54795365  # "TySe": tells our files from other programs'
SCHEMA: tuple[tuple[str, ...], ...] = (
    (
        # An ordinary table: with the record inside the key's own tree (WITHOUT ROWID) every read took a fifth longer.
        """CREATE TABLE session (
            locator BLOB PRIMARY KEY,
            record BLOB NOT NULL,
            checksum INTEGER NOT NULL,
            due REAL,
            fresh REAL,
            ended INTEGER NOT NULL DEFAULT 0
        )""",
        "CREATE INDEX session_due ON session (due) WHERE due IS NOT NULL",
    ),
)
BOUND: tuple[str, ...] = (
    # Only for those who set a bound, and kept up by whoever writes from then on: it costs a creation two more pages.
    "CREATE TABLE bound (live INTEGER NOT NULL)",
    "INSERT INTO bound SELECT count(*) FROM session WHERE ended = 0",
    "CREATE INDEX session_fresh ON session (fresh) WHERE fresh IS NOT NULL",
    "CREATE TRIGGER session_born AFTER INSERT ON session WHEN NEW.ended = 0 BEGIN UPDATE bound SET live = live + 1; END",
    "CREATE TRIGGER session_gone AFTER DELETE ON session WHEN OLD.ended = 0 BEGIN UPDATE bound SET live = live - 1; END",
    """CREATE TRIGGER session_ended AFTER UPDATE OF ended ON session WHEN OLD.ended = 0 AND NEW.ended = 1
        BEGIN UPDATE bound SET live = live - 1; END""",
)
_COLUMNS = ["locator", "record", "checksum", "due", "fresh", "ended"]
_ANOTHERS = "a database of another program; sessions need a file of their own"
_DUMPED = (
    "sessions restored from an SQL dump, which leaves out what tells them from the data of other programs. Copy the file with .backup of "
    f"sqlite3; or run in this one: PRAGMA application_id={APPLICATION_ID}; PRAGMA user_version={len(SCHEMA)};"
)
_FORK_PATIENCE = 1.0
"""Seconds for which a fork waits for calls that are under way in other threads."""
_LOOK_EVERY = 0.25
"""Seconds between two looks at whether the files are still where they were."""
_MOMENT = 0.5
"""Seconds that each call waits for other processes to notice what this one has noticed."""
_SMALLEST = 512
"""Bytes of the smallest database: one page."""
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


@final
class _Lent:
    """A connection, and in which era it was opened: one of an earlier era is closed when it comes back.

    `files` says which ones it has open, by device and inode: nothing before it is ready, and once it is being closed.
    """

    __slots__ = ("__weakref__", "connection", "cursor", "era", "files")

    def __init__(self, connection: sqlite3.Connection, era: int) -> None:
        self.connection = connection
        self.era = era
        self.files: Files = ()
        self.cursor = connection.cursor()  # one of its own for every statement takes a tenth of what the statement does

    def __del__(self) -> None:
        # Of one that is lost: left alone, the connection is part of a cycle, and stays open until somebody looks for these.
        with suppress(AttributeError, *PROBLEMS):
            self.connection.close()


@final
class SQLiteFile:
    """The file at `path`, made with mode 0600 if it is not there.

    A call waits for others, whatever for, until a moment that it is given. `until()` is `deadline` seconds away: a verb of several calls
    gives all of them the same. Every call raises `StoreUnavailable`, with what happened, when the file cannot be read or written. What is
    no database, another program's, or of a later version is refused, and left as it is.
    """

    def __init__(self, path: str | os.PathLike[str], deadline: float, *, bounded: bool) -> None:
        self.path: str = os.path.abspath(os.fspath(path))  # a program may change its directory
        self.deadline: float = deadline
        self._bounded = bounded
        self._idle: list[_Lent] = []
        # Weakly: a signal's handler may raise anywhere, and what is lost so is closed.
        self._all: set[weakref.ref[_Lent]] = set()
        self._era = 0
        self._writing = threading.Lock()
        self._opening = threading.Lock()
        self._forking: int | None = None
        """The thread that forks, while it has `_opening`."""
        self._next_look = 0.0
        self._bereft = False
        """Files were lost, and nothing was opened since."""
        self._warned = False
        _files.add(weakref.ref(self, _files.discard))
        self._give(self._take(self.until()))

    # -------------------------------------------------------------- calls

    def until(self) -> float:
        """Until when a verb that begins now may wait, by `time.monotonic()`."""
        return time.monotonic() + self.deadline

    def read(self, until: float, sql: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """All rows of one SELECT, as of one moment. Waits for no writer."""
        lent = self._take(until)
        while True:
            try:
                rows = lent.cursor.execute(sql, parameters).fetchall()
                break
            except PROBLEMS as problem:
                self._wait(lent, problem, until)
            except BaseException:
                self._discard(lent)
                raise
        self._give(lent)
        return rows

    def change(self, until: float, sql: str, parameters: Sequence[object]) -> bool:
        """Whether one statement, in a transaction of its own, has changed anything."""
        lent = self._take_to_write(until)
        try:
            while True:
                try:
                    changed = lent.cursor.execute(sql, parameters).rowcount > 0
                    break
                except PROBLEMS as problem:
                    self._wait(lent, problem, until)
                except BaseException:
                    self._discard(lent)
                    raise
            self._give(lent)
            return changed
        finally:
            self._writing.release()

    def write(self, until: float, work: Callable[[sqlite3.Cursor], R], *, durable: bool = False) -> R:
        """`work(cursor)` in one transaction that other writers wait for: all of it is committed, or (if it raises) nothing.

        What was committed survives the end of the process; `durable`, also that of the machine.
        """
        lent = self._take_to_write(until)
        try:
            execute = lent.cursor.execute
            sound = False
            try:
                if durable:
                    execute("PRAGMA synchronous=FULL")
                while True:
                    try:
                        execute("BEGIN IMMEDIATE")
                        break
                    except PROBLEMS as problem:
                        self._wait(lent, problem, until)
                try:
                    result = work(lent.cursor)
                except TooLarge:
                    execute("ROLLBACK")
                    sound = not durable
                    raise
                execute("COMMIT")
                if durable:
                    execute("PRAGMA synchronous=NORMAL")
                sound = True
                return result
            except PROBLEMS as problem:
                self._refuse(problem)
            finally:
                if sound:
                    self._give(lent)
                else:
                    self._discard(lent)  # closing rolls back
        finally:
            self._writing.release()

    def close(self) -> None:
        """Close every connection, those in use when they come back. The next call opens the file again."""
        self._era += 1
        while self._idle:
            try:
                lent = self._idle.pop()
            except IndexError:  # another thread was faster
                break
            self._discard(lent)

    def __del__(self) -> None:
        if getattr(self, "_idle", None):  # it may have been refused halfway through the constructor
            self.close()

    # -------------------------------------------------------------- connections

    def _take(self, until: float) -> _Lent:
        if until - self.deadline >= self._next_look:
            self._check_place(until)
        while True:
            try:
                lent = self._idle.pop()
            except IndexError:
                # One that is opened beside others would share with them what they know of a log that is gone.
                self._check_place(until)
                return self._open(until)
            if lent.era == self._era:
                return lent
            self._discard(lent)

    def _take_to_write(self, until: float) -> _Lent:
        """A connection, and the lock that the writers of this process queue up at."""
        held = Held()
        try:
            if not held.take([self._writing], until):
                raise StoreUnavailable(f"{self.path}: busy: other threads were writing for {self.deadline:g} s")
            return self._take(until)
        except BaseException:
            held.back()
            raise

    def _give(self, lent: _Lent) -> None:
        if lent.era == self._era:
            self._idle.append(lent)
            if lent.era == self._era:
                return
            self.close()  # it was called in between, and may have missed this one
        else:
            self._discard(lent)

    def _discard(self, lent: _Lent) -> None:
        lent.files = ()  # whoever closes the last connection removes two of them
        try:
            lent.connection.close()
        except sqlite3.Error:
            logger.exception("a connection to %s could not be closed", self.path)
        self._all.discard(weakref.ref(lent))

    def _open(self, until: float) -> _Lent:
        held = Held()
        try:
            if not held.take([self._opening], until):
                raise StoreUnavailable(f"{self.path}: busy: another thread was opening it for {self.deadline:g} s")
            try:
                create(self.path)
                status = os.stat(self.path)
                self._check_status(status)
                self._wait_for_log(until)
                lent = _Lent(sqlite3.connect(self.path, timeout=0, isolation_level=None, check_same_thread=False), self._era)
            except (OSError, *PROBLEMS) as problem:
                self._refuse(problem)
            self._all.add(weakref.ref(lent, self._all.discard))
            while True:
                try:
                    self._prepare(lent.connection)
                    break
                except PROBLEMS as problem:
                    self._wait(lent, problem, until)
                except BaseException:
                    self._discard(lent)
                    raise
            self._bereft = False
            lent.files = ((status.st_dev, status.st_ino), *files_at(self.path)[1:])
            return lent
        finally:
            held.back()

    def _check_status(self, status: os.stat_result) -> None:
        mode = status.st_mode
        if not stat.S_ISREG(mode):
            raise StoreUnavailable(f"{self.path}: no file, but a {'folder' if stat.S_ISDIR(mode) else 'special file'}")
        if 0 < status.st_size < _SMALLEST:  # SQLite would take it for an empty one, and write over it
            raise StoreUnavailable(f"{self.path}: damaged, or no SQLite database ({status.st_size} bytes); it was left as it is")
        if not may_write(self.path):  # SQLite would read it all the same, and leave a -wal that those who may write could not
            raise StoreUnavailable(
                f"{self.path}: this user may not write it, which reading takes too: run this as the application's user "
                f"(the file belongs to user {status.st_uid})"
            )
        if os.name == "posix" and not self._warned:
            if mode & _OTHERS:
                self._warned = True
                logger.warning("%s has the mode %04o: other users can read sessions; chmod 600 is what it needs", self.path, mode & 0o7777)
            if status.st_uid not in (os.geteuid(), 0):
                self._warned = True
                logger.warning(
                    "%s belongs to user %d, who can read and change sessions: did this program make it?", self.path, status.st_uid
                )

    def _wait_for_log(self, until: float) -> None:
        """Before the first connection: raise if others have lost what ours would be given anew. Two logs for one file would spoil it.

        It may also be that another process has only just begun to open the file, or is about to close it.
        """
        if self._bereft:
            until = min(until, time.monotonic() + _MOMENT)
        real_path = os.path.realpath(self.path)
        while not any(file._all for file in _alive(_files) if os.path.realpath(file.path) == real_path) and is_bereft(self.path):
            if time.monotonic() >= until:
                raise StoreUnavailable(
                    f"{self.path}: its -wal or -shm was removed while another process had it open; it can be used again when that "
                    "process has noticed, or has been stopped"
                )
            time.sleep(0.001)

    def _check_place(self, until: float) -> None:
        """Raise if a file is no longer there: SQLite would go on writing to one that nobody can find any more."""
        self._next_look = time.monotonic() + _LOOK_EVERY
        before = [(lent, lent.files) for lent in _alive(self._all)]
        if not before:
            return
        try:
            now = files_at(self.path)
        except OSError as problem:
            self._refuse(problem)
        # Only what was open before and after the look counts: the last one to leave removes -wal and -shm, and the next one makes others.
        lost = {
            name
            for lent, files in before
            for name, then, there in zip(BESIDE, files, now, strict=False)
            if then is not None and then != there and lent.files
        }
        if not lost:
            return
        self._bereft = True
        # Nobody opens one until all are closed. With the last, SQLite puts into the file what was committed, if that is still in place.
        held = Held()
        try:
            held.take([self._opening], until)
            self.close()
            while self._all and time.monotonic() < until:
                time.sleep(0.0005)
        finally:
            held.back()
        what = " and ".join(self.path + name for name in BESIDE if name in lost)
        logger.error("%s was deleted or replaced while it was in use: commits may be lost", what)
        raise StoreUnavailable(f"{what}: deleted or replaced while it was in use; the next call opens what is there then")

    # -------------------------------------------------------------- the schema

    def _prepare(self, connection: sqlite3.Connection) -> None:
        """Make the connection ready, and the file if it is new or of an earlier version."""
        connection.execute("PRAGMA cell_size_check=ON")  # a damaged page is noticed before it is believed
        if self._version(connection) < len(SCHEMA) or not self._is_bounded(connection):
            connection.execute("PRAGMA page_size=2048")  # of a new file: a commit writes whole pages, and sessions are small
            self._set_wal(connection)
            connection.execute("BEGIN IMMEDIATE")
            # Asked again: another process may have been faster.
            for step in SCHEMA[self._version(connection) :]:
                for statement in step:
                    connection.execute(statement)
            if not self._is_bounded(connection):
                for statement in BOUND:
                    connection.execute(statement)
            connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version={len(SCHEMA)}")
            connection.execute("COMMIT")
        else:
            self._set_wal(connection)
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute("PRAGMA fullfsync=ON")  # on macOS, where a drive would otherwise keep what is synchronized in its own cache
        connection.execute("PRAGMA cache_size=-8000")  # kilobytes, as they are needed: some 15,000 sessions with their index

    def _version(self, connection: sqlite3.Connection) -> int:
        """How many steps of the schema the file has been through. Raises `StoreUnavailable` if it is none of ours."""
        # In one transaction: while another process makes the tables, what is read before and after would belong to different files.
        alone = not connection.in_transaction
        if alone:
            connection.execute("BEGIN")
        try:
            version: int = connection.execute("PRAGMA user_version").fetchone()[0]
            application: int = connection.execute("PRAGMA application_id").fetchone()[0]
            empty = connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is None
        finally:
            if alone and connection.in_transaction:
                connection.execute("ROLLBACK")
        if application != APPLICATION_ID and (application or version or not empty):
            columns = [] if application or version else [row[1] for row in connection.execute("PRAGMA table_info(session)")]
            raise StoreUnavailable(f"{self.path}: {_DUMPED if columns == _COLUMNS else _ANOTHERS}. It was left as it is")
        if version > len(SCHEMA):
            raise StoreUnavailable(
                f"{self.path}: written by a later version of typed_sessions (schema {version}, this one knows {len(SCHEMA)}): "
                "upgrade this program, or give it another file. It was left as it is"
            )
        return version

    def _is_bounded(self, connection: sqlite3.Connection) -> bool:
        """Whether sessions are counted as this store needs it."""
        return not self._bounded or connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'bound'").fetchone() is not None

    def _set_wal(self, connection: sqlite3.Connection) -> None:
        mode = connection.execute("PRAGMA journal_mode").fetchone()[0]
        if mode != "wal":
            mode = connection.execute("PRAGMA journal_mode=WAL").fetchone()[0]
        if mode != "wal":
            raise StoreUnavailable(
                f"{self.path}: SQLite cannot keep a write-ahead log here (a network file system?); journal_mode is {mode}"
            )

    # -------------------------------------------------------------- what goes wrong

    def _wait(self, lent: _Lent, problem: Problem, until: float) -> None:
        """Wait a moment if another process is writing, and there is time; otherwise close the connection, and raise `StoreUnavailable`."""
        now = time.monotonic()
        if now >= until or not _is_busy(problem):
            self._discard(lent)
            self._refuse(problem)
        if lent.connection.in_transaction:
            with suppress(*PROBLEMS):
                lent.connection.execute("ROLLBACK")
        # A transaction takes some 50 µs. SQLite's own waiting grows to 0.1 s a time, by which the unlucky starve.
        time.sleep(min(until - now, random.uniform(0.0002, 0.004)))

    def _refuse(self, problem: Problem | OSError) -> NoReturn:
        if isinstance(problem, OSError):
            raise StoreUnavailable(f"{self.path}: {problem.strerror or problem}{why_not(self.path)}") from problem
        if _is_busy(problem):
            raise StoreUnavailable(f"{self.path}: busy: another process was writing for {self.deadline:g} s") from problem
        if isinstance(problem, UnicodeDecodeError) or "malformed" in str(problem) or "not a database" in str(problem):
            logger.error("%s: %s; it was left as it is", self.path, problem)
            raise StoreUnavailable(f"{self.path}: damaged, or no SQLite database ({problem}); it was left as it is") from problem
        raise StoreUnavailable(f"{self.path}: {problem}{why_not(self.path)}") from problem

    # -------------------------------------------------------------- forks

    def before_fork(self) -> None:
        """Let go of every connection: one that a child inherits spoils the locks of all others that the child has on the file."""
        until = time.monotonic() + _FORK_PATIENCE
        if self._opening.acquire(timeout=_FORK_PATIENCE):
            self._forking = threading.get_ident()
        self.close()
        while self._all and time.monotonic() < until:
            time.sleep(0.0005)

    def after_fork_in_parent(self) -> None:
        if self._forking == threading.get_ident():
            self._forking = None
            self._opening.release()

    def after_fork_in_child(self) -> None:
        # Only those in use during all of the patience are left. SQLite asks that not even `close` is called on them.
        _abandoned.extend(_alive(self._all))
        self._all, self._idle = set(), []
        self._era += 1
        self._writing, self._opening, self._forking = threading.Lock(), threading.Lock(), None


def _is_busy(problem: Problem) -> bool:
    # By its text: Python 3.10 gives no error code. "database is locked", "database table is locked", "locking protocol".
    return isinstance(problem, sqlite3.OperationalError) and "lock" in str(problem)


_files: set[weakref.ref[SQLiteFile]] = set()
_abandoned: list[_Lent] = []


def _alive(known: set[weakref.ref[R]]) -> list[R]:
    # Not a WeakSet, which cannot be gone through while other threads open files.
    return [one for weak in list(known) if (one := weak()) is not None]


def _before_fork() -> None:
    for file in _alive(_files):
        file.before_fork()


def _after_fork_in_parent() -> None:
    for file in _alive(_files):
        file.after_fork_in_parent()


def _after_fork_in_child() -> None:
    for file in _alive(_files):
        file.after_fork_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
