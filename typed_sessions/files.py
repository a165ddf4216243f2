"""Files that are whole or not there: opened with care, and replaced in one step. Knows nothing of what is in them.

POSIX only. Every system call goes through `FileSystem`, so that any can fail.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from hashlib import sha256
from threading import Lock
from typing import Final, Protocol, final

from .errors import SnapshotDamaged, StoreUnavailable

CHUNK: Final = 1 << 18
MODE: Final = 0o600
# What a name under which nothing of ours was opened may turn out to be: a link must not be followed, a pipe must not be waited for.
CAREFULLY: Final[int] = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


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
        if sys.platform == "darwin":  # where fsync(2) leaves the data in the drive's own cache, and says so
            import fcntl

            try:
                fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
            except OSError as fault:  # any other fault is one of the disk's, and not to be forgotten by asking for less (S5)
                if fault.errno not in (errno.ENOTSUP, errno.EINVAL, errno.ENOTTY):
                    raise
            else:
                return
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
        fd = fs.open(path, flags | CAREFULLY, MODE)
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
        close(fs, fd)
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
    fd = fs.open(os.path.dirname(path) or ".", os.O_RDONLY, MODE)
    try:
        fs.fsync(fd)
    except OSError as fault:
        # Some network and FUSE file systems have no such thing as syncing a folder, and say so.
        if fault.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        close(fs, fd)


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
        if len(self._buffer) >= CHUNK:
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
        size, digest = sha256_of(self._fs, self._fd, self._size + 1)
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


@final
class Hold:
    """That somebody saves to `path`, for other processes to see: the lock of the file that is there, so that nothing is left beside it.

    The child of a fork has to `leave` it to its parent: it has a copy of the descriptor, which would keep the lock.
    """

    def __init__(self, path: str, fs: FileSystem = OS) -> None:
        self._path, self._fs = path, fs
        self._fd = -1
        self._lock = Lock()

    def is_anothers(self, *, take: bool) -> bool:
        """Whether another has the file. If nobody has, and with `take`, it is held, in the place of the one that was there before.

        Where that cannot be told (no file, no locks on this file system) it is nobody's.
        """
        fd = -1
        with self._lock, suppress(OSError, SnapshotDamaged):
            # Not opened again if it is held: over NFS, closing another descriptor of the file would give the lock back.
            if self._fd >= 0 and os.path.samestat(self._fs.fstat(self._fd), self._fs.lstat(self._path)):
                return False
            try:
                fd, _ = open_safely(self._fs, self._path, os.O_RDWR)  # for reading only, NFS gives no exclusive lock
                if not self._fs.lock(fd, wait=False):
                    return True
                if take:
                    fd, self._fd = self._fd, fd
            finally:
                let_go(self._fs, fd)
        return False

    def close(self) -> None:
        with self._lock:
            fd, self._fd = self._fd, -1
        let_go(self._fs, fd)

    def leave(self) -> None:
        """In the child of a fork: not unlocked, for the lock is the parent's too."""
        fd, self._fd = self._fd, -1
        close(self._fs, fd)

    def __del__(self) -> None:
        close(self._fs, self._fd)


@contextmanager
def replacement(fs: FileSystem, path: str) -> Generator[Replacement]:
    """A new file to write in the place of `path`. Left without `publish`, it is removed. What killed writers left is removed first."""
    _sweep(fs, path)
    new: Replacement | None = None
    while new is None:
        fd, name = -1, f"{path}.tmp-{secrets.token_hex(16)}"
        try:
            fd = fs.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | CAREFULLY, MODE)
            # The lock says that the file is in use, to every process, until it is closed or this one dies: a process number is used again.
            # If another's sweep came between the two, the file is locked or has lost its name, and another one will have to do.
            if fs.lock(fd, wait=False) and fs.fstat(fd).st_nlink:
                new = Replacement(fs, fd, name, path)
                yield new
        finally:
            if new is None or not new.published:
                remove(fs, name)
            let_go(fs, fd)


def close(fs: FileSystem, fd: int) -> None:
    # Whatever closing could report, the fsync before it has reported; and the descriptor is gone either way.
    if fd >= 0:
        with suppress(OSError):
            fs.close(fd)


def let_go(fs: FileSystem, fd: int) -> None:
    """Close a file that was locked. Unlocked too, for a child forked meanwhile has a copy of the descriptor, which would keep the lock."""
    if fd >= 0:
        with suppress(OSError):
            fs.unlock(fd)
    close(fs, fd)


def remove(fs: FileSystem, name: str) -> None:
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
            fd = fs.open(left := os.path.join(folder, entry), os.O_RDONLY | CAREFULLY, MODE)
            # Removed while locked, so that a writer which is only just going to lock it finds out.
            if fs.fstat(fd).st_uid == os.geteuid() and fs.lock(fd, wait=False):
                fs.unlink(left)
        close(fs, fd)


def sha256_of(fs: FileSystem, fd: int, limit: int) -> tuple[int, bytes]:
    """(how many bytes there are, up to `limit`; their SHA-256)."""
    digest, size = sha256(), 0
    while size < limit and (chunk := fs.read(fd, min(CHUNK, limit - size), size)):
        digest.update(chunk)
        size += len(chunk)
    return size, digest.digest()
