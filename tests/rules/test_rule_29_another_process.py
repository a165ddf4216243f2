"""Rule 29: two processes that save to one snapshot are told, both of them; who comes after one that is gone is not."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faces import Face
from tests.rules.restarts import Server, signed_in
from typed_sessions import Key

pytestmark = pytest.mark.stores("memory")

ROOT = Path(__file__).resolve().parent.parent.parent
DAY = 86_400.0
TOLD = "another process (or another MemoryStore of this one) saves its sessions there too"

# Obeys one word a line, and answers each with a line; ends with its standard input.
PROGRAM = """
import logging, os, signal, sys
from typed_sessions import Key, SessionManager
from typed_sessions.testing import login

logging.basicConfig(level="WARNING", format="%(message)s")
name = Key("name", str)
path = sys.argv[1]
sessions = SessionManager()
login(sessions, {name: "bob"})
children = []

def fork():
    begun, begin = os.pipe()
    children.append(os.fork())
    if not children[-1]:
        os.write(begin, b"1")
        signal.pause()
    os.read(begun, 1)

def close():
    for child in children:
        os.kill(child, signal.SIGKILL)
    sessions.close()

words = {
    "load": lambda: sessions.load_sessions(path),
    "autosave": lambda: sessions.autosave(path, every=86_400),
    "save": lambda: sessions.save_sessions(path),
    "fork": fork,
    "close": close,
}
for word in sys.stdin:
    words[word.strip()]()
    print("done", *children, flush=True)
"""


class Other:
    """Another process with a manager of the same files."""

    def __init__(self, path: Path) -> None:
        command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", PROGRAM, str(path)]
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
        )
        self.children: list[int] = []

    def does(self, *words: str) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        for word in words:
            self.process.stdin.write(f"{word}\n")
            done, *children = self.process.stdout.readline().split()
            assert done == "done"
            self.children = [int(child) for child in children]

    def ends(self) -> str:
        """What it has logged."""
        return self.process.communicate(timeout=20)[1]

    def dies(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def other(server: Server) -> Iterator[Other]:
    other = Other(server.path)
    yield other
    for child in other.children:
        os.kill(child, 9)
    other.process.kill()
    other.process.communicate()


@pytest.mark.parametrize("words", [("autosave", "save"), ("load", "save")], ids=["autosave", "saves by itself"])
def test_rule_29_who_loads_what_another_process_saves_to_is_told(
    face: Face, server: Server, other: Other, name: Key[str], words: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    """Several workers, or a new process that begins before the old one has stopped. Once, each of them; nothing else is left there."""
    other.does(*words)
    assert server.load() == 1
    assert f"{server.path}: {TOLD}" in caplog.text
    assert "With MemoryStore one process serves" in caplog.text
    assert "such as SQLiteStore" in caplog.text
    face.manager.autosave(server.path, every=DAY)
    signed_in(face, name)
    for _ in range(2):
        server.save()
        other.does("save")
    assert caplog.text.count(TOLD) == 1
    server.stop()
    assert caplog.text.count(TOLD) == 1
    assert other.ends().count(TOLD) == 1
    assert sorted(os.listdir(server.path.parent)) == ["sessions", "sessions.journal", "sessions.previous"]


def test_rule_29_two_processes_that_begin_with_nothing_are_told_when_they_save(
    face: Face, server: Server, other: Other, name: Key[str], caplog: pytest.LogCaptureFixture
) -> None:
    """No file shows it before; the first one that saves over the other's is told, and then the other."""
    other.does("load", "autosave")
    server.load()
    face.manager.autosave(server.path, every=DAY)
    server.save()
    assert TOLD not in caplog.text
    other.does("save")
    server.save()
    assert caplog.text.count(TOLD) == 1
    assert other.ends().count(TOLD) == 1
    server.stop()


@pytest.mark.parametrize("how", ["closed", "killed", "killed, and its child lives"])
def test_rule_29_who_begins_after_another_process_is_told_nothing(
    face: Face, server: Server, other: Other, name: Key[str], how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither an end nor a kill leaves anything behind, and the child of a fork saves nothing."""
    other.does("load", "autosave", "save", *(["fork"] if "child" in how else ["close"] if how == "closed" else []))
    if how != "closed":
        other.dies()
    assert server.load() == 1
    face.manager.autosave(server.path, every=DAY)
    server.save()
    server.stop()
    assert TOLD not in caplog.text


def test_rule_29_who_has_only_loaded_or_copied_keeps_nobody_out(
    face: Face, server: Server, other: Other, name: Key[str], caplog: pytest.LogCaptureFixture
) -> None:
    """A program that looks into the file, and one that saved there for others to load."""
    signed_in(face, name)
    server.save()
    other.does("load", "load")
    server.restart()
    face.manager.autosave(server.path, every=DAY)
    server.save()
    server.stop()
    assert TOLD not in caplog.text


def test_rule_29_a_restart_within_one_process_is_told_nothing(
    face: Face, server: Server, name: Key[str], caplog: pytest.LogCaptureFixture
) -> None:
    """A manager that was closed saves no more; two at once, each with a store of its own, are as two processes."""
    for _ in range(2):
        server.load()
        face.manager.autosave(server.path, every=DAY)
        server.save()
        server.stop()
        server.die()
    assert TOLD not in caplog.text
    face.manager.autosave(server.path, every=DAY)
    before = face.manager
    server.restart()
    assert caplog.text.count(TOLD) == 1
    face.call(before.close() if face.kind == "sync" else before.aclose())


def test_rule_29_a_link_at_the_path_of_autosave_is_not_followed(face: Face, server: Server, tmp_path: Path) -> None:
    """Nothing is opened or held for it; loading and saving say what is wrong with it."""
    (elsewhere := tmp_path / "elsewhere").write_bytes(b"")
    server.path.symlink_to(elsewhere)
    face.manager.autosave(server.path, every=DAY)
    if os.path.isdir("/proc/self/fd"):
        opened = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{fd}")]
        assert str(elsewhere) not in opened
