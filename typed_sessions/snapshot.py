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
before becomes the previous, and then takes its name. POSIX only. Every system call goes through `FileSystem`, so that any can fail.
"""

from __future__ import annotations

import errno
import io
import logging
import os
import re
import secrets
import stat
from collections.abc import Generator, Iterable
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from struct import Struct
from typing import Any, Final, NoReturn, Protocol, final
from zlib import crc32

from typing_extensions import override

from .errors import SnapshotDamaged, StoreUnavailable

MAGIC, VERSION = b"\x89TSNAP\r\n", 1

_START = Struct("<8sH")
_TIME = Struct("<d")
_CRC = Struct("<I")
_RECORD = Struct("<cI")
_TRAILER = Struct("<cQ")
_SHA256_BYTES = 32
_CHUNK = 1 << 18
_MODE = 0o600

# What a name under which nothing of ours was opened may turn out to be: a link must not be followed, a pipe must not be waited for.
_CAREFULLY = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)

_log = logging.getLogger(__name__)


class FileSystem(Protocol):
    """The system calls that a snapshot and a journal are made of. Each raises OSError, and may do less than asked if the system's may.

    `lock` takes the exclusive `flock` of the open file, and says False if another has it and `wait` is False; `close` gives it back.
    """

    def open(self, path: str, flags: int, mode: int, /) -> int: ...
    def read(self, fd: int, size: int, offset: int, /) -> bytes: ...
    def write(self, fd: int, data: bytes | memoryview, /) -> int: ...
    def fsync(self, fd: int, /) -> None: ...
    def close(self, fd: int, /) -> None: ...
    def fstat(self, fd: int, /) -> os.stat_result: ...
    def lstat(self, path: str, /) -> os.stat_result: ...
    def listdir(self, path: str, /) -> list[str]: ...
    def replace(self, source: str, target: str, /) -> None: ...
    def unlink(self, path: str, /) -> None: ...
    def lock(self, fd: int, /, *, wait: bool) -> bool: ...
    def unlock(self, fd: int, /) -> None: ...


@final
class OperatingSystem:
    """The `FileSystem` of this machine. What not every system has is looked up late, so that the package can be imported everywhere."""

    def open(self, path: str, flags: int, mode: int, /) -> int:
        return os.open(path, flags, mode)

    def write(self, fd: int, data: bytes | memoryview, /) -> int:
        return os.write(fd, data)

    def fsync(self, fd: int, /) -> None:
        os.fsync(fd)

    def close(self, fd: int, /) -> None:
        os.close(fd)

    def fstat(self, fd: int, /) -> os.stat_result:
        return os.fstat(fd)

    def lstat(self, path: str, /) -> os.stat_result:
        return os.lstat(path)

    def listdir(self, path: str, /) -> list[str]:
        return os.listdir(path)

    def replace(self, source: str, target: str, /) -> None:
        os.replace(source, target)

    def unlink(self, path: str, /) -> None:
        os.unlink(path)

    def read(self, fd: int, size: int, offset: int, /) -> bytes:
        return os.pread(fd, size, offset)

    def lock(self, fd: int, /, *, wait: bool) -> bool:
        import fcntl

        try:
            fcntl.flock(fd, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def unlock(self, fd: int, /) -> None:
        import fcntl

        fcntl.flock(fd, fcntl.LOCK_UN)


OS: Final[FileSystem] = OperatingSystem()


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
            _close(fs, fd)


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


_REMEDIES = {
    errno.ENOSPC: "the file system is full: free space (or inodes) on it",
    errno.EROFS: "the file system is mounted read-only: mount it for writing, or choose another folder",
    errno.EIO: "the disk may be failing: look at the system's log, and save to another",
    errno.EMFILE: "this process has too many files open: raise its limit (ulimit -n)",
    errno.EACCES: "give this user read and write permission on the file and its folder",
    errno.ENOENT: "the folder does not exist, or the file was removed meanwhile: create the folder",
}


@contextmanager
def faults_reported(what: str, path: str) -> Generator[None]:
    """Turn an OSError into StoreUnavailable that says what failed, for which path, why, and what to do."""
    try:
        yield
    except OSError as fault:
        code = fault.errno or 0
        remedy = f"; {_REMEDIES[code]}" if code in _REMEDIES else ""
        raise StoreUnavailable(f"{what}: {path}: {fault.strerror or fault} ({errno.errorcode.get(code, 'no errno')}){remedy}") from fault


def open_safely(fs: FileSystem, path: str, flags: int) -> tuple[int, os.stat_result]:
    """Open a file that only its owner can have written (X7): (descriptor, its status). SnapshotDamaged if it is anything else."""
    try:
        fd = fs.open(path, flags | _CAREFULLY, _MODE)
    except OSError as fault:
        if fault.errno in (errno.ELOOP, errno.EMLINK):
            raise SnapshotDamaged(path, "it is a symbolic link, which is not followed") from None
        if fault.errno in (errno.ENXIO, errno.EISDIR):
            raise SnapshotDamaged(path, "it is not a plain file") from None
        raise
    try:
        # Of the descriptor, not of the name: what is checked is what is read.
        status = fs.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise SnapshotDamaged(path, "it is not a plain file")
        if status.st_uid not in (os.geteuid(), 0):
            raise SnapshotDamaged(path, f"it belongs to user {status.st_uid}, not to this one ({os.geteuid()}) or root")
        if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise SnapshotDamaged(path, f"others may write to it (mode {stat.S_IMODE(status.st_mode):04o}; 0600 is expected)")
    except BaseException:
        _close(fs, fd)
        raise
    return fd, status


def write_all(fs: FileSystem, fd: int, data: bytes | bytearray) -> None:
    """Write every byte. One call may write fewer than asked, and on a full disk does so without an error (S3)."""
    view = memoryview(data)
    while view:
        if not (written := fs.write(fd, view)):
            raise OSError(errno.EIO, "nothing was written, and no error given")
        view = view[written:]


def sync_folder(fs: FileSystem, path: str) -> None:
    """Put the names in the folder of `path` on the disk."""
    fd = fs.open(os.path.dirname(path) or ".", os.O_RDONLY, _MODE)
    try:
        fs.fsync(fd)
    except OSError as fault:
        # Some network and FUSE file systems have no such thing as syncing a folder, and say so.
        if fault.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        _close(fs, fd)


@final
class Replacement:
    """A file that is being written to take the place of another, under a name of its own until `publish`."""

    def __init__(self, fs: FileSystem, fd: int, name: str, path: str) -> None:
        self.published: bool = False
        self._fs, self._fd, self._name, self._path = fs, fd, name, path
        self._size = 0
        self._sha256 = sha256()
        self._buffer = bytearray()

    def write(self, data: bytes) -> None:
        self._buffer += data
        if len(self._buffer) >= _CHUNK:
            self._flush()

    def digest(self) -> bytes:
        """The SHA-256 of what was written so far."""
        self._flush()
        return self._sha256.digest()

    def settle(self) -> None:
        """Put it on the disk, and read it back: only what is there may take another's place."""
        self._flush()
        # Never tried again: after a failed fsync the system may have dropped the pages, and the next one succeeds without them (S5).
        self._fs.fsync(self._fd)
        size, digest = _sha256_of(self._fs, self._fd, self._size + 1)
        if (size, digest) != (self._size, self._sha256.digest()):
            raise OSError(errno.EIO, f"{self._size} bytes were written, and what was read back ({size} bytes) is not the same")

    def publish(self) -> None:
        self._fs.replace(self._name, self._path)
        self.published = True
        sync_folder(self._fs, self._path)

    def _flush(self) -> None:
        write_all(self._fs, self._fd, self._buffer)
        self._sha256.update(self._buffer)
        self._size += len(self._buffer)
        self._buffer = bytearray()


@contextmanager
def replacement(fs: FileSystem, path: str) -> Generator[Replacement]:
    """A new file to write in the place of `path`. Left without `publish`, it is removed. What killed writers left is removed first."""
    _sweep(fs, path)
    new: Replacement | None = None
    while new is None:
        fd, name = -1, f"{path}.tmp-{secrets.token_hex(16)}"
        try:
            fd = fs.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | _CAREFULLY, _MODE)
            # The lock says that the file is in use, to every process, until it is closed or this one dies: a process number is used again.
            # If another's sweep came between the two, the file is locked or has lost its name, and another one will have to do.
            if fs.lock(fd, wait=False) and fs.fstat(fd).st_nlink:
                new = Replacement(fs, fd, name, path)
                yield new
        finally:
            if new is None or not new.published:
                _remove(fs, name)
            _close(fs, fd)


def _close(fs: FileSystem, fd: int) -> None:
    # Whatever closing could report, the fsync before it has reported; and the descriptor is gone either way.
    if fd >= 0:
        with suppress(OSError):
            fs.close(fd)


def _remove(fs: FileSystem, name: str) -> None:
    # A second try, because a file system may refuse once (EIO, ESTALE); what is left then is removed by the next writer.
    for _ in range(2):
        with suppress(OSError):
            fs.unlink(name)
            return


def _sweep(fs: FileSystem, path: str) -> None:
    """Remove what killed writers of `path` left. That it cannot be done is no reason not to write."""
    folder, name = os.path.split(path)
    ours = re.compile(re.escape(name) + r"\.tmp-[0-9a-f]{32}")
    entries: list[str] = []
    with suppress(OSError):
        entries = [entry for entry in fs.listdir(folder or ".") if ours.fullmatch(entry)]
    for entry in entries:
        fd = -1
        with suppress(OSError):
            fd = fs.open(left := os.path.join(folder, entry), os.O_RDONLY | _CAREFULLY, _MODE)
            # Removed while locked, so that a writer which is only just going to lock it finds out.
            if fs.fstat(fd).st_uid == os.geteuid() and fs.lock(fd, wait=False):
                fs.unlink(left)
        _close(fs, fd)


def _keep_previous(fs: FileSystem, path: str) -> None:
    """Make the snapshot at `path` the previous one. A damaged one must not take the place of a good one, so it is looked at first."""
    with suppress(FileNotFoundError):
        seen = fs.lstat(path)
        try:
            _check_whole(fs, path)
        except SnapshotDamaged as problem:
            _log.warning("snapshot %s: %s; %s", path, problem.why, _set_aside(fs, path, path, seen))
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
        _remove(fs, name)
        raise
    return f"it is kept as {name}"


def _claim(fs: FileSystem, path: str) -> str:
    """A free name for what is damaged, held by an empty file, so that two processes cannot choose the same."""
    number = 1
    while True:
        with suppress(FileExistsError):
            _close(fs, fs.open(name := f"{path}.damaged-{number}", os.O_WRONLY | os.O_CREAT | os.O_EXCL | _CAREFULLY, _MODE))
            return name
        number += 1


def _sha256_of(fs: FileSystem, fd: int, limit: int) -> tuple[int, bytes]:
    """(how many bytes there are, up to `limit`; their SHA-256)."""
    digest, size = sha256(), 0
    while size < limit and (chunk := fs.read(fd, min(_CHUNK, limit - size), size)):
        digest.update(chunk)
        size += len(chunk)
    return size, digest.digest()


def _check_whole(fs: FileSystem, path: str) -> None:
    """SnapshotDamaged if the file at `path` is not as it was written. Cheaper than reading it: only the SHA-256 is checked."""
    fd, status = open_safely(fs, path, os.O_RDONLY)
    try:
        reader = _Reader(fs, fd, path, status.st_size)
        reader.start()
        body = status.st_size - _SHA256_BYTES
        if body < _START.size or _sha256_of(fs, fd, body) != (body, fs.read(fd, _SHA256_BYTES, body)):
            reader.damaged("its checksum is wrong")
    finally:
        _close(fs, fd)


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
        self._file = io.BufferedReader(_Bytes(fs, fd), _CHUNK)

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
