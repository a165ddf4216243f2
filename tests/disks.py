"""A disk that fails, takes little at a time, or loses its power: for tests of what is written to files."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import ParamSpec, TypeVar

from typed_sessions.files import OS, FileSystem

FAULTS = (errno.ENOSPC, errno.EIO, errno.EROFS, errno.EMFILE)

P = ParamSpec("P")
T = TypeVar("T")


class Killed(BaseException):
    """The process is no more: nothing that it would have done after this is done."""


class Disk:
    """The real file system, of which the `at`-th call fails with `error`, or kills the caller if that is None.

    `short` is how many bytes one write takes at most. Syncing is only noted: `cut_power` leaves of every file what was synced.
    """

    def __init__(self, at: int = 0, error: int | None = None, short: int | None = None) -> None:
        self.at = at
        self.error = error
        self.short = short
        self.calls: list[str] = []
        self.struck = False
        self._descriptors: set[int] = set()
        self._synced: dict[int, int] = {}
        self.read = self._as_is("read", OS.read)
        self.fstat = self._as_is("fstat", OS.fstat)
        self.lstat = self._as_is("lstat", OS.lstat)
        self.listdir = self._as_is("listdir", OS.listdir)
        self.replace = self._as_is("replace", OS.replace)
        self.unlink = self._as_is("unlink", OS.unlink)
        self.lock = self._as_is("lock", OS.lock)
        self.unlock = self._as_is("unlock", OS.unlock)

    def _as_is(self, name: str, call: Callable[P, T]) -> Callable[P, T]:
        def step(*args: P.args, **kwargs: P.kwargs) -> T:
            self._step(name)
            return call(*args, **kwargs)

        return step

    def _step(self, call: str) -> None:
        if self.struck and self.error is None:
            raise Killed
        self.calls.append(call)
        if len(self.calls) == self.at:
            self.struck = True
            if self.error is None:
                raise Killed
            raise OSError(self.error, os.strerror(self.error))

    def open(self, path: str, flags: int, mode: int, /) -> int:
        self._step("open")
        fd = OS.open(path, flags, mode)
        self._descriptors.add(fd)
        status = OS.fstat(fd)
        if stat.S_ISREG(status.st_mode):
            self._synced.setdefault(status.st_ino, status.st_size)
        return fd

    def write(self, fd: int, data: bytes | memoryview, /) -> int:
        self._step("write")
        return OS.write(fd, data if self.short is None else data[: self.short])

    def fsync(self, fd: int, /) -> None:
        status = OS.fstat(fd)
        self._step("fsync" if stat.S_ISREG(status.st_mode) else "fsync folder")
        self._synced[status.st_ino] = status.st_size

    def close(self, fd: int, /) -> None:
        try:
            self._step("close")
        finally:
            # Linux closes the descriptor even where it reports an error; and a dead process has its own closed.
            self._descriptors.discard(fd)
            OS.close(fd)

    def bury(self) -> None:
        """Close what a killed process had open, as its system does. Nothing else may be open by now."""
        assert not self._descriptors or (self.struck and self.error is None), "descriptors were left open"
        for fd in self._descriptors:
            OS.close(fd)
        self._descriptors.clear()

    def cut_power(self, folder: Path) -> None:
        """Lose what was written and not synced."""
        self.bury()
        for file in folder.iterdir():
            size = self._synced.get(file.stat().st_ino)
            if size is not None and file.is_file():
                os.truncate(file, size)


def disks(error: int | None, short: int | None = None, *, least: int = 10) -> Iterator[Disk]:
    """A disk that fails at its first call, one at its second, and so on to the first that is used without a fault."""
    for at in count(1):
        disk = Disk(at, error, short)
        yield disk
        if not disk.struck:
            assert at > least, "the faults were not reached"
            return


def temporaries(folder: Path) -> list[str]:
    return [name for name in os.listdir(folder) if ".tmp-" in name]


def write_once(fs: FileSystem, fd: int, data: bytes | bytearray) -> None:
    fs.write(fd, memoryview(data))
