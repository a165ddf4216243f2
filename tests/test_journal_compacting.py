"""Compacting a journal holds nobody up, loses nothing that is appended meanwhile, and is not done where nothing would go."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from tests.disks import Disk, temporaries
from typed_sessions import Key, MemoryStore, SessionManager
from typed_sessions.files import OS
from typed_sessions.journal import Entry, Journal, replay
from typed_sessions.testing import isolated_keys, login


def ended(number: int, until: float | None = None, payload: bytes = b"") -> Entry:
    return Entry("ended", number.to_bytes(16, "big"), until, payload)


def renewed(number: int, payload: bytes = b"") -> Entry:
    return Entry("renewed", number.to_bytes(16, "big"), None, payload)


def file_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.journal")


class Meanwhile(Disk):
    """A disk on which something else happens, in a thread of its own, before the next call of one name; `late` if that had to wait."""

    def __init__(self) -> None:
        super().__init__()
        self.late = False
        self._before = ""
        self._work: Callable[[], object] | None = None

    def before(self, call: str, work: Callable[[], object]) -> None:
        self._before, self._work = call, work

    def _step(self, call: str) -> None:
        work = self._work
        if work is not None and call == self._before:
            self._work = None
            thread = threading.Thread(target=work)
            thread.start()
            thread.join(5)
            self.late = self.late or thread.is_alive()
        super()._step(call)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sessions"


@pytest.mark.parametrize("call", ["read", "listdir", "write", "fsync"])
def test_a_sign_out_does_not_wait_for_a_compaction(path: Path, call: str) -> None:
    """What is appended while the file is read, and while it is written anew, is on the disk at once, and stays in the new file."""
    disk = Meanwhile()
    journal = Journal(path, fs=disk)
    journal.append([ended(1, 5.0), renewed(2, b"a"), renewed(2, b"b")])
    disk.before(call, lambda: journal.append([ended(3), renewed(2, b"c")]))
    journal.compact(6.0)
    assert not disk.late
    assert replay(path, now=0.0) == ([renewed(2, b"b"), ended(3), renewed(2, b"c")], 0)
    journal.append([ended(4)])
    journal.close()
    assert replay(path, now=0.0)[0][-1] == ended(4)


@pytest.mark.parametrize("call", ["read", "listdir", "write", "fsync"])
@pytest.mark.parametrize("what", ["append", "compact"])
def test_another_process_that_writes_meanwhile(path: Path, call: str, what: str) -> None:
    """What it appends is kept; where it compacts too, its file stays, with what was appended to that."""
    disk = Meanwhile()
    journal, other = Journal(path, fs=disk), Journal(path)
    journal.append([ended(1, 5.0), ended(2)])

    def write() -> None:
        if what == "compact":
            other.compact(6.0)
        other.append([ended(3)])

    disk.before(call, write)
    journal.compact(6.0)
    assert not disk.late
    journal.append([ended(4)])
    assert replay(path, now=0.0) == ([ended(2), ended(3), ended(4)], 0)
    assert temporaries(path.parent) == []
    journal.close()
    other.close()


def test_a_journal_that_is_closed_while_it_is_compacted(path: Path) -> None:
    """Closing waits for nothing, and the file stays as it was."""
    disk = Meanwhile()
    journal = Journal(path, fs=disk)
    journal.append([ended(1, 5.0), ended(2)])
    before = file_of(path).read_bytes()
    disk.before("read", journal.close)
    journal.compact(6.0)
    assert not disk.late
    assert file_of(path).read_bytes() == before
    assert temporaries(path.parent) == []
    disk.bury()


def test_a_child_forked_during_a_compaction_does_not_lock_the_journal(path: Path) -> None:
    """It has a copy of every descriptor; the lock on what is written to take the file's place is given back all the same."""
    copies: list[int] = []

    class Forked(Disk):
        def close(self, fd: int, /) -> None:
            copies.append(os.dup(fd))
            super().close(fd)

    journal = Journal(path, fs=Forked())
    journal.append([ended(1, 5.0), ended(2)])
    journal.compact(6.0)
    fd = os.open(file_of(path), os.O_RDWR)
    try:
        assert OS.lock(fd, wait=False)
    finally:
        journal.close()
        for opened in (fd, *copies):
            os.close(opened)


def test_a_journal_is_tidied_only_where_that_is_worth_it(path: Path) -> None:
    """Not before it has doubled, or half of it may be forgotten: a save does not read all that ever ended, and none grows for good."""
    disk = Disk()
    journal = Journal(path, fs=disk)
    journal.append([ended(number, 100.0 if number < 60 else None) for number in range(100)])
    size = file_of(path).stat().st_size

    def reads(now: float) -> int:
        """How often the file is read for it."""
        disk.calls.clear()
        journal.prepare()
        journal.tidy(now)
        return disk.calls.count("read")

    assert reads(1.0) > 0  # nobody knows yet what is in it
    journal.append([ended(number) for number in range(100, 150)])
    assert [reads(now) for now in (2.0, 50.0, 100.0)] == [0, 0, 0]
    assert reads(101.0) > 0
    left = file_of(path).stat().st_size
    assert left < size
    assert reads(1e12) == 0  # the others are for ever
    journal.append([ended(number, 200.0) for number in range(200, 295)])
    assert reads(201.0) > 0
    assert file_of(path).stat().st_size == left
    assert [entry.until for entry in replay(path, now=0.0)[0]] == [None] * 90
    journal.close()


def test_what_is_still_to_be_done_does_not_count_as_forgotten(path: Path) -> None:
    """Ends whose hooks have not run stay past their time; they are no reason to read the file at every save."""
    disk = Disk()
    journal = Journal(path, fs=disk)
    journal.append([ended(number, 5.0, b"hooks") for number in range(10)])
    journal.prepare()
    journal.tidy(50.0)
    disk.calls.clear()
    journal.prepare()
    journal.tidy(51.0)
    journal.close()
    assert disk.calls.count("read") == 0
    assert len(replay(path, now=51.0)[0]) == 10


def test_the_append_that_makes_it_long_does_not_wait_either(path: Path) -> None:
    """It may be a visitor's request, and reading megabytes takes a second: the work is given away, and to nobody twice."""
    given: list[Callable[[], None]] = []
    journal = Journal(path, clock=lambda: 100.0, compact_from=2_000, aside=given.append)
    for number in range(200):
        journal.append([ended(number, until=50.0)])
    before = file_of(path).stat().st_size
    assert (len(given), before > 8_000) == (1, True)
    given.pop()()
    assert file_of(path).stat().st_size < 100
    for number in range(200):
        journal.append([ended(number, until=50.0)])
    assert len(given) == 1, "the next one too, when it has grown again"
    journal.close()
    given.pop()()
    assert len(replay(path, now=0.0)[0]) == 200, "a journal that is closed is left as it is"


def test_the_sessions_journal_is_compacted_in_a_thread(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the request that makes it long enough waits, nor the event loop."""
    compacted = threading.Event()
    where: list[threading.Thread] = []

    def compact(*_: object) -> None:
        where.append(threading.current_thread())
        compacted.set()

    monkeypatch.setattr(Journal, "_compact", compact)
    sessions = SessionManager()
    store = cast("MemoryStore", sessions.core.store)
    with isolated_keys():
        user = Key("user", str)
        for _ in range(100):
            login(sessions, {user: "ann"})
        sessions.save_sessions(path)
        where.clear()
        keeper = sessions.core.keeper
        assert keeper is not None
        records, _ = store.scan(None, 1_000)
        while not where:
            keeper.note_ended(records, 0.0)
            where += [] if file_of(path).stat().st_size < 1 << 18 else [threading.main_thread()] * (not compacted.wait(20))
    assert where
    assert threading.current_thread() not in where
    sessions.close()
