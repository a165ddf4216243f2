"""What Windows and macOS have not, or do otherwise, acted out here: the package says what it cannot do there, and does the rest."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from typed_sessions import MemoryStore, SessionManager
from typed_sessions.files import OS

ON_WINDOWS = """
import asyncio, os, sqlite3, sys
import concurrent.futures, cryptography.hazmat.primitives.ciphers.aead, http.server, logging, msgspec, pathlib, tempfile

# As CPython for Windows has it; what is imported above is no part of this.
for name in (
    "chown", "fchmod", "fork", "getegid", "geteuid", "getgid", "getuid", "major", "minor", "posix_fallocate", "pread", "pwrite",
    "O_CLOEXEC", "O_DIRECTORY", "O_NOFOLLOW", "O_NONBLOCK", "register_at_fork",
):
    if hasattr(os, name):
        delattr(os, name)
sys.modules["fcntl"] = sys.modules["pwd"] = None
sys.platform, os.name = "win32", "nt"

from typed_sessions import AsyncSessionManager, Key, PolicyError, Request, SessionManager
from typed_sessions.stores.sqlite import SQLiteStore
from typed_sessions.testing import login

count = Key("count", int)

def request(cookies):
    header = "; ".join(f"{name}={value}" for name, value in cookies.items())
    return Request(headers=[("Cookie", header)], peer="127.0.0.1")
"""


def on_windows(program: str, *arguments: object) -> str:
    """What a program prints in an interpreter that lacks what Windows lacks."""
    answer = subprocess.run(
        [sys.executable, "-W", "error", "-c", ON_WINDOWS + program, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert not answer.returncode, answer.stderr
    return answer.stdout


def test_sessions_in_a_file_on_windows(tmp_path: Path) -> None:
    """The SQLite store needs nothing that Windows has not: two processes, one after the other, go on with one session and end it."""
    program = """
store = SQLiteStore(sys.argv[1])
with SessionManager(store) as manager:
    for cookies in ({}, login(manager, {count: 1})):
        session, finish = manager.start_check(request(cookies))
        session.update(count, lambda n: n + 1, default=5)
        finish()
    print(sorted(view[count] for view in manager.all()), manager.end_all(), manager.sweep())

async def main():
    async with AsyncSessionManager(SQLiteStore(sys.argv[1])) as manager:
        session, finish = await manager.start_check(request({}))
        session[count] = 7
        await finish()
asyncio.run(main())
"""
    path = tmp_path / "sessions.db"
    assert on_windows(program, path) == "[2, 6] 2 0\n"
    assert on_windows(program, path) == "[2, 6, 7] 3 0\n"


def test_what_snapshots_take_is_said_on_windows(tmp_path: Path) -> None:
    """Each of the ways to a snapshot says at once that there are none, and which store to take; nothing is written."""
    program = """
manager, other = SessionManager(), AsyncSessionManager()
ways = [lambda: manager.save_sessions(sys.argv[1]), lambda: manager.load_sessions(sys.argv[1]), lambda: manager.autosave(sys.argv[1]),
        lambda: asyncio.run(other.save_sessions(sys.argv[1])), lambda: asyncio.run(other.load_sessions(sys.argv[1])),
        lambda: other.autosave(sys.argv[1])]
for way in ways:
    try:
        way()
    except PolicyError as problem:
        print(problem)
cookies = login(manager, {count: 1})
manager.start_check(request(cookies))[1]()
print(len(list(manager.all())), manager.end_all())
manager.close()
"""
    path = tmp_path / "sessions"
    said = f"{path}: snapshots of a memory store take a POSIX system, which win32 is not; SQLiteStore(path) keeps its sessions here too"
    assert on_windows(program, path).splitlines() == [said] * 6 + ["1 1"]
    assert not list(tmp_path.iterdir())


def test_the_demo_on_windows(tmp_path: Path) -> None:
    """In memory it would forget everything when it stops, and says which place to give instead."""
    program = """
from typed_sessions.__main__ import main
os.name, sys.stderr = "posix", sys.stdout  # pathlib would make paths of Windows
print(main(["demo", "--port", "0", "--store", "memory:", "--snapshot", sys.argv[1]]))
"""
    said = on_windows(program, tmp_path / "sessions").splitlines()
    assert "take a POSIX system" in said[0]
    assert said[1:] == ["Give another place with --store.", "1"]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What fcntl is asked for, on macOS."""
    commands: list[int] = []

    def control(_fd: int, command: int) -> int:
        commands.append(command)
        return 0

    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(fcntl, "F_FULLFSYNC", 51, raising=False)
    monkeypatch.setattr(fcntl, "fcntl", control)
    return commands


def test_what_is_synced_on_macos_has_left_the_drives_cache(asked: list[int], tmp_path: Path) -> None:
    """There fsync(2) hands data to the drive, which may lose them with the power; F_FULLFSYNC does not (fcntl(2) of macOS)."""
    manager = SessionManager(MemoryStore())
    manager.save_sessions(tmp_path / "sessions")
    assert len(asked) >= 2, "the snapshot and the folder that its name is in"
    assert set(asked) == {51}
    manager.close()


@pytest.mark.parametrize("error", [errno.ENOTSUP, errno.ENOTTY, errno.EINVAL])
def test_a_file_system_of_macos_without_it(error: int, monkeypatch: pytest.MonkeyPatch, asked: list[int], tmp_path: Path) -> None:
    """Of a network's file systems some have no such thing: as much is synced there as can be."""
    synced = refuse(monkeypatch, error)
    with open(tmp_path / "file", "wb") as file:
        OS.fsync(file.fileno())
        assert synced == [file.fileno()]
    assert not asked


def test_a_failed_sync_on_macos_is_not_tried_as_a_lesser_one(monkeypatch: pytest.MonkeyPatch, asked: list[int], tmp_path: Path) -> None:
    """It could succeed without the data (S5)."""
    synced = refuse(monkeypatch, errno.EIO)
    with open(tmp_path / "file", "wb") as file, pytest.raises(OSError, match="EIO"):
        OS.fsync(file.fileno())
    assert not synced
    assert not asked


def refuse(monkeypatch: pytest.MonkeyPatch, error: int) -> list[int]:
    """Let fcntl fail like this; what fsync is called for."""
    synced: list[int] = []

    def control(_fd: int, _command: int) -> int:
        raise OSError(error, errno.errorcode[error])

    monkeypatch.setattr(fcntl, "fcntl", control)
    monkeypatch.setattr(os, "fsync", synced.append)
    return synced
