"""The journal beside a snapshot: what must not be forgotten between two of them (rules 8 and 29). Knows nothing of sessions.

`<path>.journal` is a text file that only grows, one entry a line, each between two line ends of its own, so that whatever is torn or
damaged costs itself and never a neighbour. A line without its second end was cut short when it was written, by a kill or a full disk:
nobody has been promised what it was to say, and it is no damage.

    "1"     the format; an entry of another is counted as damaged and kept
    base64  of what follows, little-endian, without a space or a line end:
                1     kind: 1 ended, 2 renewed
                1     1 if there is a time to forget it, else 0
                8     that time     float, seconds since 1970
                16    the locator
                rest  the payload, without its last four bytes:
                4     CRC-32 of all of the above

An entry's order in the file is the order in which it was promised. Several threads and processes may append: every batch is one write
under the file's lock, and one fsync, outside of it, serves all the threads whose entries were written before (group commit).

An `ended` with a payload is about something that is still to be done: it is kept, whatever its time, until an `ended` of the same
locator without one says that it is done. Of two `ended` the later one counts, until the later time of both.
"""

from __future__ import annotations

import base64
import errno
import logging
import math
import os
import re
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from struct import Struct
from threading import Lock, Thread
from typing import Literal, NamedTuple, TypeAlias, final
from zlib import crc32

from .errors import SnapshotDamaged, StoreUnavailable
from .files import OS, FileSystem, faults_reported, let_go, open_safely, replacement, sync_folder, write_all
from .forks import tell_of_forks
from .locks import Held

Kind: TypeAlias = Literal["ended", "renewed"]

LOCATOR_BYTES = 16

_KINDS: dict[int, Kind] = {1: "ended", 2: "renewed"}
_CODES = {kind: code for code, kind in _KINDS.items()}
_HEAD = Struct("<BBd16s")
_CRC = Struct("<I")
_FORMAT = b"1"
_BEGUN = re.compile(rb"1[0-9A-Za-z+/]*=?=?")
"""The beginning of a line."""
_CHUNK = 1 << 20
_GROWTH = 4
_ATTEMPTS = 100

logger: logging.Logger = logging.getLogger("typed_sessions")


@dataclass(frozen=True, slots=True)
class Entry:
    """What happened to the record of `locator` (16 bytes). After `until` (seconds since 1970; None is never) it may be forgotten, but not
    an `ended` with a payload."""

    kind: Kind
    locator: bytes
    until: float | None
    payload: bytes = b""

    def __post_init__(self) -> None:
        if len(self.locator) != LOCATOR_BYTES:
            raise ValueError(f"a locator has {LOCATOR_BYTES} bytes, not {len(self.locator)}")


def replay(path: str | os.PathLike[str], *, now: float, fs: FileSystem = OS) -> tuple[list[Entry], int]:
    """The entries of the journal beside the snapshot `path`, in order, without those that may be forgotten; and how many are damaged.

    `now`: seconds since 1970. No file is no entries. SnapshotDamaged: the file is not safe to read (as in `read_snapshot`).
    StoreUnavailable: it could not be read.
    """
    file = _beside(path)
    with faults_reported("the journal could not be read", file):
        try:
            fd, size = _open_held(fs, file, os.O_RDONLY)
        except FileNotFoundError:
            return [], 0
        try:
            text = _read(fs, fd, size)
        finally:
            let_go(fs, fd)
    found = [entry for _, entry in _lines(text)]
    entries = [entry for entry in found if entry is not None and not _past(entry, now)]
    return entries, found.count(None)


@final
class _Batch:
    """The lines that one fsync will cover, and what became of them."""

    __slots__ = ("done", "fault", "lines")

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.done = False
        self.fault: StoreUnavailable | None = None


@final
class Journal:
    """The journal beside the snapshot `path`, open for appending, mode 0600; the file is made by the first `append`. For all threads.

    `clock` tells the time (seconds since 1970) when `append` compacts the file, which it does once it has grown to `compact_from` bytes
    and to four times what the last compaction left: a constant part of each append on the whole. Others append while the file is read and
    written anew; they wait for the last step only. Nor does that `append` wait, if `aside` does what it is given elsewhere (`in_thread`).
    A journal may be used after a fork.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        fs: FileSystem = OS,
        clock: Callable[[], float] = time.time,
        compact_from: int = 1 << 18,
        aside: Callable[[Callable[[], None]], None] = lambda work: work(),
    ) -> None:
        self._path = _beside(path)
        self._fs = fs
        self._clock = clock
        self._aside = aside
        self._compact_from = self._compact_at = compact_from
        self._closed = False
        # Held by the thread that compacts, and whether one has been asked to. What the last compaction left, and when half of that may be
        # forgotten, are for `tidy`.
        self._compacting = Lock()
        self._asked = False
        self._left = 0
        self._half_past = math.inf
        # The lines that the next thread to have the file will write, and what guards them.
        self._next = _Batch()
        self._adding = Lock()
        # Held by the thread that has the file. Locks alone, in `with`: wherever a signal's handler raises, they are given back.
        self._having = Lock()
        self._fd = -1
        self._size = 0
        tell_of_forks(self)

    @property
    def waiting(self) -> int:
        """How many calls of `append` wait for the next fsync."""
        return len(self._next.lines)

    def append(self, entries: Sequence[Entry]) -> None:
        """Write the entries, and return when they are on the disk.

        StoreUnavailable: that is not so, and a later `replay` may find some of them or none. The next `append` starts afresh.
        """
        data = b"".join([_line(entry) for entry in entries])
        if not data:
            return
        with self._adding:
            self._refuse_if_closed()
            batch = self._next
            batch.lines.append(data)
        grown = 0
        with self._having:
            if not batch.done:  # by another thread, which had the file while this one waited
                self._settle(batch)
                grown = self._size if self._fd >= 0 else 0
        if grown >= self._compact_at and not self._asked:
            self._asked = True
            self._aside(partial(self._compact_by_itself, grown))
        if batch.fault is not None:
            # An exception of its own for every caller: one object raised in several threads would mix their tracebacks.
            raise StoreUnavailable(*batch.fault.args) from batch.fault

    def prepare(self) -> None:
        """Make the file if there is none. StoreUnavailable: nothing could be appended to it now, and why."""
        with self._having:
            self._refuse_if_closed()
            with _writing("the journal could not be opened", self._path):
                try:
                    self._hold(os.O_CREAT)
                    self._fs.unlock(self._fd)
                except BaseException:
                    self._drop()
                    raise

    def compact(self, now: float) -> None:
        """Write the file anew without what may be forgotten at `now` (seconds since 1970), or is superseded: an `ended` supersedes every
        `renewed` of its locator, and a `renewed` those before it. What is damaged goes too, and is logged. Nothing is done if nothing goes.

        StoreUnavailable: it could not be done, and no entry is lost.
        """
        with self._compacting:
            self._refuse_if_closed()
            with _writing("the journal could not be compacted", self._path):
                self._compact(now)

    def tidy(self, now: float) -> None:
        """`compact`, after `prepare`, if that is worth reading the file: it is more than twice as long as the last compaction left it, or
        half of what that left may be forgotten. On the whole, this is a constant part of each append too."""
        if self._size > 2 * self._left or now > self._half_past:
            self.compact(now)

    def close(self) -> None:
        """Write what is under way, and close the file. Nothing can be appended after it; closing again does nothing."""
        self._closed = True
        with self._having:
            with self._adding:
                batch = self._next
            if batch.lines:
                self._settle(batch)
            self._drop()

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise StoreUnavailable(f"the journal {self._path} has been closed")

    def _settle(self, batch: _Batch) -> None:
        """Write a batch, for all who wait for it."""
        with self._adding:
            if self._next is batch:  # if not, whoever began it was interrupted
                self._next = _Batch()
        batch.fault = StoreUnavailable(f"the journal could not be written: {self._path}: the thread that wrote it was interrupted")
        try:
            with _writing("the journal could not be written", self._path):
                self._write(b"".join(batch.lines))
            batch.fault = None
        except StoreUnavailable as fault:
            batch.fault = fault
        finally:
            batch.done = True

    def _write(self, data: bytes) -> None:
        try:
            self._hold(os.O_CREAT)
            write_all(self._fs, self._fd, data)
            self._size += len(data)
            # Others may write while this is on its way to the disk. A compaction by another process meanwhile has read it already.
            self._fs.unlock(self._fd)
            self._fs.fsync(self._fd)
        except BaseException:
            # Never this descriptor again: after a failed fsync the next one may succeed without the data (S5).
            self._drop()
            raise

    def _hold(self, create: int) -> None:
        """Open the file, if need be, and lock it against other processes."""
        if self._fd >= 0:
            self._fs.lock(self._fd, wait=True)
            size = _size_if_current(self._fs, self._fd, self._path)
            if size is not None:
                self._size = size
                return
            # Another process has compacted it: this descriptor is of the file before.
            self._drop()
        self._fd, self._size = _open_held(self._fs, self._path, os.O_RDWR | os.O_APPEND | create)
        # Whoever made the file may have died before its name was on the disk.
        sync_folder(self._fs, self._path)

    def _drop(self) -> None:
        fd, self._fd = self._fd, -1
        let_go(self._fs, fd)

    def _compact_by_itself(self, size: int) -> None:
        """Compact a file of this size, unless another thread does."""
        held = Held()
        try:
            if not held.take([self._compacting], time.monotonic()):
                return
            with _writing("the journal could not be compacted", self._path):
                self._compact(self._clock())
        except StoreUnavailable as fault:
            # The entries are on the disk, so nobody needs to hear of it but the operator; and not again at every append.
            self._compact_at = _GROWTH * size
            logger.warning("%s", fault)
        finally:
            held.back()
            self._asked = False

    def _compact(self, now: float) -> None:
        fd, size = -1, 0
        try:
            with self._having, suppress(FileNotFoundError):
                fd, size = _open_held(self._fs, self._path, os.O_RDWR)
                # Others may write from here on: what has been written stays as it is, and what comes is taken over at the end.
                self._fs.unlock(fd)
            if fd < 0:
                return
            text = _read(self._fs, fd, size)
            kept = _worth_keeping(text, now)
            if len(kept.text) < len(text):
                self._replace(fd, len(text), kept.text)
            self._compact_at = max(self._compact_from, _GROWTH * len(kept.text))
            self._left, self._half_past = len(kept.text), kept.half_past
            if kept.damaged:
                logger.warning("journal %s: %d damaged entries were dropped", self._path, kept.damaged)
        finally:
            # Only now is the lock given back: what another process appended to the old file before this would be lost.
            let_go(self._fs, fd)

    def _replace(self, fd: int, end: int, kept: bytes) -> None:
        """Put `kept` in the place of what the open file has up to `end`."""
        with replacement(self._fs, self._path) as new:
            new.write(kept)
            new.settle()
            with self._having:
                self._fs.lock(fd, wait=True)
                size = _size_if_current(self._fs, fd, self._path)
                if size is None or self._closed:
                    return  # another process has compacted it meanwhile
                if size > end:
                    new.write(_read(self._fs, fd, size, end))
                    new.settle()
                new.publish()
                self._drop()

    def after_fork(self) -> None:
        """In the child of a fork: begin afresh."""
        # The parent's locks may be held by threads that the child does not have; its entries are its own to write.
        self._adding, self._having, self._compacting = Lock(), Lock(), Lock()
        self._next, self._asked = _Batch(), False
        fd, self._fd = self._fd, -1
        if fd >= 0:
            # Not unlocked: the lock is the parent's too.
            with suppress(OSError):
                self._fs.close(fd)


def in_thread(work: Callable[[], None]) -> None:
    """Do it in a thread of its own, if there can be one."""
    try:
        Thread(target=work, name="typed_sessions journal", daemon=True).start()
    except RuntimeError:  # the program ends, or has no room for another
        work()


def _beside(path: str | os.PathLike[str]) -> str:
    return f"{os.fspath(path)}.journal"


@contextmanager
def _writing(what: str, path: str) -> Generator[None]:
    try:
        with faults_reported(what, path):
            yield
    except SnapshotDamaged as problem:
        raise StoreUnavailable(f"{what}: {path}: {problem.why}; move it out of the way") from problem


def _open_held(fs: FileSystem, path: str, flags: int) -> tuple[int, int]:
    """Open the journal and lock it: (descriptor, size)."""
    for _ in range(_ATTEMPTS):
        fd, _ = open_safely(fs, path, flags)
        try:
            fs.lock(fd, wait=True)
            size = _size_if_current(fs, fd, path)
        except BaseException:
            let_go(fs, fd)
            raise
        if size is not None:
            return fd, size
        let_go(fs, fd)
    raise OSError(errno.EAGAIN, "the file is replaced as often as it is opened: is something else than typed_sessions writing it?")


def _size_if_current(fs: FileSystem, fd: int, path: str) -> int | None:
    """The size of the open file; None if the path names another by now, or none."""
    status = fs.fstat(fd)
    try:
        named = fs.lstat(path)
    except FileNotFoundError:
        return None
    return status.st_size if (status.st_dev, status.st_ino) == (named.st_dev, named.st_ino) else None


def _read(fs: FileSystem, fd: int, size: int, at: int = 0) -> bytes:
    parts: list[bytes] = []
    while at < size and (chunk := fs.read(fd, min(_CHUNK, size - at), at)):
        parts.append(chunk)
        at += len(chunk)
    return b"".join(parts)


def _line(entry: Entry) -> bytes:
    body = _HEAD.pack(_CODES[entry.kind], entry.until is not None, entry.until or 0.0, entry.locator) + entry.payload
    return b"\n" + _FORMAT + base64.b64encode(body + _CRC.pack(crc32(body))) + b"\n"


def _parse(line: bytes) -> Entry | None:
    """The entry of a line without its ends; None if it is damaged, or of another format."""
    text = line[1:]
    try:
        packed = base64.b64decode(text, validate=True)
    except ValueError:
        return None
    body = packed[: -_CRC.size]
    # Encoded again, because base64 has bits that decoding ignores.
    if line[:1] != _FORMAT or base64.b64encode(packed) != text or len(body) < _HEAD.size or packed[-_CRC.size :] != _CRC.pack(crc32(body)):
        return None
    code, timed, until, locator = _HEAD.unpack_from(body)
    kind = _KINDS.get(code)
    return None if kind is None else Entry(kind, locator, until if timed else None, body[_HEAD.size :])


def _lines(text: bytes) -> list[tuple[bytes, Entry | None]]:
    """The lines of a journal with what each says: None if it is damaged, or of another format. Those that were cut short are left out."""
    parts = text.split(b"\n")
    found: list[tuple[bytes, Entry | None]] = []
    own_first_end = False  # the line end before it is not the second one of an entry
    for line, after in zip(parts, [*parts[1:], None], strict=True):
        entry = _parse(line) if line else None
        if entry is None and line and after != b"":
            entry = _parse(line[:-1])  # all of it is there if what is damaged is its second end
            if entry is not None:
                line = line[:-1]
        cut_short = entry is None and after != b"" and own_first_end and _BEGUN.fullmatch(line)
        own_first_end = entry is None
        if line and not cut_short:
            found.append((line, entry))
    return found


def _until(entry: Entry) -> float:
    return math.inf if entry.until is None else entry.until


def _past(entry: Entry, now: float) -> bool:
    return entry.until is not None and entry.until < now and not (entry.kind == "ended" and entry.payload)


class _Kept(NamedTuple):
    """The lines of a journal that cannot be done without, when half of them can be, and how many of the others are damaged."""

    text: bytes
    half_past: float
    damaged: int


def _worth_keeping(text: bytes, now: float) -> _Kept:
    lines: list[bytes] = []
    ended: dict[bytes, tuple[Entry, int]] = {}
    renewed: dict[bytes, tuple[Entry, int]] = {}
    keep: list[int] = []
    damaged = 0
    for number, (line, entry) in enumerate(_lines(text)):
        lines.append(line)
        if entry is None:
            # Of another format: this version cannot tell when it may be forgotten.
            if line[:1].isdigit() and line[:1] != _FORMAT:
                keep.append(number)
            else:
                damaged += 1
            continue
        if entry.kind == "renewed":
            renewed[entry.locator] = (entry, number)
            continue
        if entry.locator in ended:
            before, _ = ended[entry.locator]
            if _until(before) > _until(entry):
                entry = replace(entry, until=before.until)
                lines[number] = _line(entry).strip(b"\n")
        ended[entry.locator] = (entry, number)
    # Neither what is of another format nor what is still to be done has a time.
    times = [math.inf] * len(keep)
    for entry, number in (*ended.values(), *(found for locator, found in renewed.items() if locator not in ended)):
        if not _past(entry, now):
            keep.append(number)
            times.append(math.inf if entry.kind == "ended" and entry.payload else _until(entry))
    half_past = sorted(times)[len(times) // 2] if times else math.inf
    return _Kept(b"".join([b"\n" + lines[number] + b"\n" for number in sorted(keep)]), half_past, damaged)
