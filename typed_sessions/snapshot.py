"""The snapshot: records in a file that is whole or not there (rule 29). Knows nothing of sessions; a record is opaque `bytes`.

The format, version 1. All numbers are little-endian and unsigned:

    offset  size  what
    0       8     89 54 53 4E 41 50 0D 0A ("\\x89TSNAP\\r\\n": a transfer that treats it as text damages it at once)
    8       2     version: 1. These ten bytes are the same in every version
    10      8     when it was saved       float, seconds since 1970
    18      4     CRC-32 of the 18 bytes before
    then, per record:
            1     52 ("R")
            4     length n
            4     CRC-32 of the five bytes before and the n bytes after
            n     the record
    at last:
            1     54 ("T")
            8     how many records there are
            32    SHA-256 of every byte before; nothing follows it

Beside `<path>` there may be: `<path>.previous`, the snapshot before this one; `<path>.damaged-<n>`, what could not be read, kept
for a person to look at and never deleted; and `<path>.tmp-<random>`, while one is written or after its writer was killed.

At every instant `<path>` or `<path>.previous` is a whole snapshot: the new one is complete, on the disk and read back before the one
before becomes the previous, and then takes its name.
"""

from __future__ import annotations

import errno
import io
import logging
import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from struct import Struct
from typing import Any, NoReturn, final
from zlib import crc32

from typing_extensions import override

from .errors import SnapshotDamaged
from .files import CAREFULLY, CHUNK, MODE, OS, FileSystem, close, faults_reported, open_safely, remove, replacement, sha256_of

MAGIC, VERSION = b"\x89TSNAP\r\n", 1

_START = Struct("<8sH")
_TIME = Struct("<d")
_CRC = Struct("<I")
_RECORD = Struct("<cI")
_TRAILER = Struct("<cQ")
_SHA256_BYTES = 32

logger: logging.Logger = logging.getLogger("typed_sessions")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a snapshot holds: the records in the order in which they were written, and when that was (seconds since 1970)."""

    records: list[bytes]
    saved_at: float


def write_snapshot(path: str | os.PathLike[str], records: Iterable[bytes], *, now: float, fs: FileSystem = OS) -> int:
    """Save the records (each below 4 GiB) under `path`, mode 0600, and return how many there were. `now`: seconds since 1970.

    When it returns, the snapshot is on the disk and was read back; the one before is `<path>.previous`. Several processes may write at
    once: the last one to finish wins. StoreUnavailable: it could not be done; what was saved before is still what `load_latest` finds
    (or, if only the folder could not be synced, the new one). An exception of `records` is passed on, and nothing is changed.
    """
    path = os.fspath(path)
    count = 0
    with faults_reported("the snapshot could not be saved", path), replacement(fs, path) as new:
        head = _START.pack(MAGIC, VERSION) + _TIME.pack(now)
        new.write(head + _CRC.pack(crc32(head)))
        for record in records:
            frame = _RECORD.pack(b"R", len(record))
            new.write(frame + _CRC.pack(crc32(record, crc32(frame))))
            new.write(record)
            count += 1
        new.write(_TRAILER.pack(b"T", count))
        new.write(new.digest())
        new.settle()
        _keep_previous(fs, path)
        new.publish()
    return count


def read_snapshot(path: str | os.PathLike[str], *, fs: FileSystem = OS) -> Snapshot | None:
    """The snapshot at `path`; None if there is no such file.

    SnapshotDamaged: it is not whole, not of a version that is known here, or not safe to read: a link, not a plain file, owned by
    someone else than this user or root, or writable by others. StoreUnavailable: it could not be read, which says nothing of what is in it.
    """
    path = os.fspath(path)
    with faults_reported("the snapshot could not be read", path):
        try:
            fd, status = open_safely(fs, path, os.O_RDONLY)
        except FileNotFoundError:
            return None
        try:
            return _parse(_Reader(fs, fd, path, status.st_size))
        finally:
            close(fs, fd)


def load_latest(path: str | os.PathLike[str], *, fs: FileSystem = OS) -> tuple[Snapshot | None, list[SnapshotDamaged]]:
    """The newest whole snapshot, `<path>` or else `<path>.previous` (None if there is neither), and what was wrong with those passed over.

    What is damaged is kept under a new name, which its error tells. StoreUnavailable as in `read_snapshot`: then nothing is renamed, and
    nothing older is taken for the latest.
    """
    path = os.fspath(path)
    problems: list[SnapshotDamaged] = []
    for candidate in (path, f"{path}.previous"):
        with faults_reported("the snapshot could not be read", candidate), suppress(FileNotFoundError):
            seen = fs.lstat(candidate)
            try:
                found = read_snapshot(candidate, fs=fs)
            except SnapshotDamaged as problem:
                try:
                    kept = _set_aside(fs, path, candidate, seen)
                except OSError as fault:
                    kept = f"it stays where it is ({fault.strerror})"
                problems.append(SnapshotDamaged(candidate, f"{problem.why}; {kept}"))
            else:
                if found is not None:
                    return found, problems
    return None, problems


def _keep_previous(fs: FileSystem, path: str) -> None:
    """Make the snapshot at `path` the previous one. A damaged one must not take the place of a good one, so it is looked at first."""
    with suppress(FileNotFoundError):
        seen = fs.lstat(path)
        try:
            _check_whole(fs, path)
        except SnapshotDamaged as problem:
            logger.warning("snapshot %s: %s; %s", path, problem.why, _set_aside(fs, path, path, seen))
        else:
            # For a moment there is no `path`: a second name for it (a hard link) is not to be had everywhere.
            fs.replace(path, f"{path}.previous")


def _set_aside(fs: FileSystem, path: str, damaged: str, seen: os.stat_result) -> str:
    """Rename what is damaged, never onto anything. Returns what was done, in words. OSError: it is where it was."""
    now = fs.lstat(damaged)
    if (now.st_dev, now.st_ino) != (seen.st_dev, seen.st_ino):
        return "another process has replaced it meanwhile"
    if not (stat.S_ISREG(now.st_mode) or stat.S_ISLNK(now.st_mode)):
        raise OSError(errno.EEXIST, "something of that name is there that is not a file: choose another path")
    name = _claim(fs, path)
    try:
        fs.replace(damaged, name)
    except OSError:
        remove(fs, name)
        raise
    return f"it is kept as {name}"


def _claim(fs: FileSystem, path: str) -> str:
    """A free name for what is damaged, held by an empty file, so that two processes cannot choose the same."""
    number = 1
    while True:
        with suppress(FileExistsError):
            close(fs, fs.open(name := f"{path}.damaged-{number}", os.O_WRONLY | os.O_CREAT | os.O_EXCL | CAREFULLY, MODE))
            return name
        number += 1


def _check_whole(fs: FileSystem, path: str) -> None:
    """SnapshotDamaged if the file at `path` is not as it was written. Cheaper than reading it: only the SHA-256 is checked."""
    fd, status = open_safely(fs, path, os.O_RDONLY)
    try:
        reader = _Reader(fs, fd, path, status.st_size)
        reader.start()
        body = status.st_size - _SHA256_BYTES
        if body < _START.size or sha256_of(fs, fd, body) != (body, fs.read(fd, _SHA256_BYTES, body)):
            reader.damaged("its checksum is wrong")
    finally:
        close(fs, fd)


@final
class _Bytes(io.RawIOBase):
    """The bytes of an open file, for a buffer."""

    def __init__(self, fs: FileSystem, fd: int) -> None:
        self._fs = fs
        self._fd = fd
        self._offset = 0

    @override
    def readable(self) -> bool:
        return True

    # Any: what a buffer is has no name in `typing` before Python 3.12.
    @override
    def readinto(self, buffer: Any, /) -> int:
        target = memoryview(buffer)
        chunk = self._fs.read(self._fd, len(target), self._offset)
        target[: len(chunk)] = chunk
        self._offset += len(chunk)
        return len(chunk)


@final
class _Reader:
    """The parts of an open snapshot, in order, hashed on their way."""

    def __init__(self, fs: FileSystem, fd: int, path: str, size: int) -> None:
        self.sha256 = sha256()
        self.size = size
        self.left = size
        self._path = path
        self._file = io.BufferedReader(_Bytes(fs, fd), CHUNK)

    def damaged(self, why: str) -> NoReturn:
        raise SnapshotDamaged(self._path, why)

    def take(self, count: int) -> bytes:
        # Against the file's size first: a damaged length must not make room for 4 GiB.
        data = self._file.read(count) if count <= self.left else b""
        if len(data) != count:
            self.damaged(f"it is cut off: there are {self.size} bytes, and more should follow")
        self.left -= count
        self.sha256.update(data)
        return data

    def start(self) -> bytes:
        """The first ten bytes, if this version reads what follows them."""
        start = self.take(_START.size)
        magic, version = _START.unpack(start)
        if magic != MAGIC:
            self.damaged("it is not a snapshot of typed_sessions")
        if version != VERSION:
            self.damaged(f"it is of format {version}, and this version of typed_sessions reads format {VERSION}")
        return start


def _parse(reader: _Reader) -> Snapshot:
    start = reader.start()
    time = reader.take(_TIME.size)
    if _CRC.unpack(reader.take(_CRC.size)) != (crc32(start + time),):
        reader.damaged("the checksum of its header is wrong")
    records: list[bytes] = []
    while True:
        at = reader.size - reader.left
        frame = reader.take(_RECORD.size)
        tag, length = _RECORD.unpack(frame)
        if tag != b"R":
            break
        (expected,) = _CRC.unpack(reader.take(_CRC.size))
        record = reader.take(length)
        if crc32(record, crc32(frame)) != expected:
            reader.damaged(f"the checksum of record {len(records)}, at byte {at}, is wrong")
        records.append(record)
    if tag != b"T":
        reader.damaged(f"there is neither a record nor the end at byte {at}")
    _, count = _TRAILER.unpack(frame + reader.take(_TRAILER.size - _RECORD.size))
    digest = reader.sha256.digest()
    if reader.take(_SHA256_BYTES) != digest:
        reader.damaged("its checksum is wrong")
    if count != len(records):
        reader.damaged(f"it should have {count} records and has {len(records)}")
    if reader.left:
        reader.damaged(f"{reader.left} bytes follow its end")
    return Snapshot(records, _TIME.unpack(time)[0])
