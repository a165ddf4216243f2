"""Where the files of a SQLite database lie, and who has them open. It knows no connections and no SQL."""

from __future__ import annotations

import errno
import os
import secrets
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import TypeAlias

BESIDE = ("", "-wal", "-shm")
"""The files of a database, by what follows its name. Whoever has it open keeps the log and its index where they are."""
Files: TypeAlias = Sequence[tuple[int, int] | None]
"""By `BESIDE`: device and inode."""

# The bytes that every connection has locked for reading (sqlite.org/fileformat2.html, "The Lock-Byte Page").
_SHARED_FIRST, _SHARED_SIZE = 0x4000_0002, 510
_LOCKS = "/proc/locks"


def create(path: str) -> None:
    """Make an empty file of mode 0600, if none is there. Raises OSError."""
    if os.path.lexists(path):
        return
    # Closing any descriptor of the file would drop the locks that SQLite holds in this process. So it is made under a name of its own, and
    # gets its name when it is closed: another store of this process may open it at that moment.
    aside = os.path.join(os.path.dirname(path), f".sessions-{secrets.token_hex(8)}")
    _make(aside)
    try:
        os.link(aside, path)
    except FileExistsError:
        return
    except OSError:  # a file system without links
        with suppress(FileExistsError):
            _make(path)
    finally:
        os.unlink(aside)


def _make(path: str) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o600)
    try:
        if hasattr(os, "fchmod"):
            os.fchmod(descriptor, 0o600)  # SQLite gives -wal and -shm the mode of the file
    finally:
        os.close(descriptor)


def files_at(path: str) -> Files:
    """Which files are there; None for one that is not. Raises OSError."""
    path = os.path.realpath(path)  # SQLite follows links to the database, and keeps the others beside that
    found: list[tuple[int, int] | None] = [None] * len(BESIDE)
    for number, name in enumerate(BESIDE):
        with suppress(FileNotFoundError):
            status = os.stat(path + name)
            found[number] = status.st_dev, status.st_ino
    return found


def is_bereft(path: str) -> bool:
    """Whether another process has the database open and its log or index is not there: for a moment, or because somebody removed it.

    As far as Linux tells; elsewhere, and of processes that cannot be seen from here, nobody knows. Raises OSError.
    """
    if sys.platform != "linux" or None not in files_at(path):
        return False
    # Not by trying to lock it: closing the descriptor that takes would drop the locks of every connection in this process (see `create`).
    try:
        with open(_LOCKS, encoding="ascii") as file:
            locks = file.read().splitlines()
    except OSError:
        return False
    status = os.stat(path)
    place = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    return any(_is_of_another(line.split(), place) for line in locks)


def _is_of_another(words: Sequence[str], place: str) -> bool:
    """Whether a line of `/proc/locks` (proc_locks(5)) is of another process that has the database at this place open."""
    if len(words) != 8 or words[1] != "POSIX" or words[5] != place or words[4] == str(os.getpid()) or words[7] == "EOF":
        return False
    first, last = int(words[6]), int(words[7])
    return first < _SHARED_FIRST + _SHARED_SIZE and last >= _SHARED_FIRST


def may_write(path: str) -> bool:
    """Whether this user may write the file."""
    return os.access(path, os.W_OK, effective_ids=os.access in os.supports_effective_ids)


def why_not(path: str) -> str:
    """What to add to an error if no file can be opened at all, or if the folder is what this user may not write to, or is not there."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))  # SQLite does not say why it could not open a file
    except OSError as problem:
        if problem.errno == errno.EMFILE:
            return "; this process has too many files open: raise its limit (ulimit -n), or find who does not close them"
        if problem.errno == errno.ENFILE:
            return "; the system has too many files open"
    folder = os.path.dirname(os.path.realpath(path))
    if not os.path.isdir(folder):
        return f"; there is no folder {folder}: create it"
    if may_write(folder):
        return ""
    return f"; this user may not write to the folder {folder}, and SQLite keeps more files there beside its own: make it writable"
