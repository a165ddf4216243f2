"""The files of a SQLiteStore taken away, replaced, or out of a user's reach: it is noticed, and nobody else's sessions suffer."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.stores.records import NOW, found, new, started, value_of, write
from typed_sessions import SQLiteStore, StoreUnavailable
from typed_sessions.record import Record

ROOT = Path(__file__).resolve().parent.parent.parent
DEADLINE = 0.2


@pytest.fixture
def store(path: Path) -> Iterator[SQLiteStore]:
    store = SQLiteStore(path, deadline=DEADLINE)
    yield store
    store.close()


def until_noticed(store: SQLiteStore, record: Record) -> None:
    """Write until the store has looked where its file is, which it does every quarter of a second."""

    def write_on() -> None:
        begin = time.monotonic()
        while time.monotonic() < begin + 5:
            write(store, record, b"1")

    with pytest.raises(StoreUnavailable, match="deleted or replaced while it was in use"):
        write_on()


@pytest.mark.parametrize("names", ["sessions.db", "sessions.db*"])
def test_a_deleted_file_is_noticed(path: Path, store: SQLiteStore, caplog: pytest.LogCaptureFixture, names: str) -> None:
    """Nobody writes for long into a file that is gone. It is reported, and afterwards there is a new one, without sessions."""
    record = started(store)
    for file in path.parent.glob(names):
        file.unlink()
    until_noticed(store, record)
    assert "was deleted or replaced" in caplog.text
    assert found(store, record) is None
    assert value_of(found(store, started(store))) == b"0"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_file_that_was_replaced_is_taken_over(path: Path, tmp_path: Path, store: SQLiteStore) -> None:
    """What lies in the place of the file then is what counts."""
    backup = SQLiteStore(tmp_path / "backup.db")
    kept = started(backup)
    backup.close()
    record = started(store)
    for file in path.parent.glob("sessions.db-*"):
        file.unlink()
    os.replace(tmp_path / "backup.db", path)
    until_noticed(store, record)
    assert value_of(found(store, kept)) == b"0"
    assert found(store, record) is None


def test_a_backup_of_a_file_in_use_is_a_store(path: Path, tmp_path: Path, store: SQLiteStore) -> None:
    """SQLite's own, as `.backup` makes it; what ended later is open in it."""
    record = started(store)
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(tmp_path / "backup.db")) as target:
        source.backup(target)
    (tmp_path / "backup.db").chmod(0o600)
    store.end(record.locator, "ended", NOW, 60)
    assert found(store, record) is None
    with closing(SQLiteStore(tmp_path / "backup.db")) as backup:
        assert value_of(found(backup, record)) == b"0"


@pytest.mark.parametrize("names", [["-wal"], ["-shm"], ["-wal", "-shm"]], ids=" ".join)
def test_a_deleted_log_is_noticed(path: Path, store: SQLiteStore, caplog: pytest.LogCaptureFixture, names: list[str]) -> None:
    """Nobody writes for long into a log that is gone; what was committed meanwhile is not lost, and the store goes on."""
    record = started(store)
    written = 0

    def write_on() -> None:
        nonlocal written
        begin = time.monotonic()
        while time.monotonic() < begin + 5:
            assert write(store, record, b"%d" % (written + 1)).status == "committed"
            written += 1

    for name in names:
        Path(f"{path}{name}").unlink()
    with pytest.raises(StoreUnavailable, match="deleted or replaced while it was in use") as refused:
        write_on()
    assert all(f"{path}{name}" in str(refused.value) for name in names)
    assert "was deleted or replaced" in caplog.text
    store.close()
    again = SQLiteStore(path)
    assert value_of(found(again, record)) == b"%d" % written
    again.close()
    write(store, record, b"on")
    assert value_of(found(store, record)) == b"on"


def test_a_log_that_is_there_is_not_missed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections that come and go in threads, the last of which removes log and index each time, are no reason to refuse anything."""
    monkeypatch.setattr("typed_sessions.stores.sqlite_file._LOOK_EVERY", 0.0)
    store = SQLiteStore(path, deadline=60)
    record = started(store)
    failed: list[BaseException] = []

    def use() -> None:
        try:
            for number in range(60):
                found(store, record)
                write(store, record, b"%d" % number)
                store.close()
        except BaseException as problem:
            failed.append(problem)

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store.close()
    assert not failed


OTHER = """
import sys
from tests.stores.records import found, value_of, write
from typed_sessions import SQLiteStore, StoreUnavailable

store = SQLiteStore(sys.argv[1])
record = store.scan(None, 1)[0][0]
for line in sys.stdin:
    try:
        print(write(store, record, line.strip().encode()).status, flush=True)
    except StoreUnavailable as problem:
        print(problem, flush=True)
"""


@pytest.mark.skipif(not os.path.exists("/proc/locks"), reason="which locks a process has, only Linux tells")
def test_threads_that_open_the_file_at_once_keep_its_lock(path: Path, store: SQLiteStore) -> None:
    """POSIX drops all locks that a process has on a file when it closes any descriptor of it, and SQLite's among them."""
    started(store)
    place = f":{path.stat().st_ino}"
    for _ in range(50):
        store.close()
        barrier, opened = threading.Barrier(4), list[SQLiteStore]()

        def open_it(barrier: threading.Barrier = barrier, opened: list[SQLiteStore] = opened) -> None:
            barrier.wait()
            opened.append(SQLiteStore(path))

        threads = [threading.Thread(target=open_it) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        held = [line.split() for line in Path("/proc/locks").read_text(encoding="utf-8").splitlines()]
        mine = [words for words in held if words[4] == str(os.getpid()) and words[5].endswith(place)]
        assert any(words[6] == str(0x4000_0002) for words in mine)
        for one in opened:
            one.close()


@pytest.mark.skipif(not os.path.exists("/proc/locks"), reason="what other processes have open, only Linux tells")
@pytest.mark.parametrize("name", ["-wal", "-shm"])
def test_a_log_that_another_process_has_lost_is_not_made_anew(path: Path, store: SQLiteStore, name: str) -> None:
    """Two logs for one file would spoil it: who has noticed first waits for the others, and what all have committed is there."""
    record = started(store)
    other = subprocess.Popen([sys.executable, "-c", OTHER, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert other.stdin is not None
    assert other.stdout is not None

    def ask(text: str) -> str:
        assert other.stdin is not None
        assert other.stdout is not None
        other.stdin.write(f"{text}\n")
        other.stdin.flush()
        return other.stdout.readline().strip()

    with other:
        try:
            assert ask("theirs") == "committed"
            Path(f"{path}{name}").unlink()
            until_noticed(store, record)
            with pytest.raises(StoreUnavailable, match="while another process had it open"):
                found(store, record)
            said = ["committed"]
            begin = time.monotonic()
            while said[-1] == "committed" and time.monotonic() < begin + 5:
                said.append(ask(f"theirs {len(said)}"))
            assert "deleted or replaced while it was in use" in said[-1]
            last = value_of(found(store, record))
            assert last == b"theirs %d" % (len(said) - 2) if len(said) > 2 else last in (b"theirs", b"1")
            assert ask("both") == "committed"
            assert value_of(found(store, record)) == b"both"
        finally:
            other.kill()


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")  # the child runs nothing of other threads
def test_a_folder_that_cannot_be_written(path: Path, store: SQLiteStore) -> None:
    """A store in a read-only folder says what is wrong, whether the file is there or not, and may be written or not."""
    started(store)
    store.close()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = [folder / "there.db", folder / "writable.db", folder / "missing.db"]
        for file, mode in zip(files, (0o644, 0o666), strict=False):
            shutil.copy(path, file)
            file.chmod(mode)
        folder.chmod(0o555)
        said = [_as_nobody(file) for file in files]
        folder.chmod(0o755)
    assert [text.partition(": ")[0] for text in said] == [str(file) for file in files]
    assert "this user may not write it" in said[0] or os.getuid() != 0
    assert "readonly database" in said[1] or "unable to open database file" in said[1]
    assert "Permission denied" in said[2]
    for text in said[1:]:
        assert f"; this user may not write to the folder {folder}, and SQLite keeps more files there" in text


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")  # the child runs nothing of other threads
def test_a_file_that_may_only_be_read_is_left_alone(path: Path, store: SQLiteStore) -> None:
    """SQLite would read it, and leave a log beside it that the application could not write. It is said whose file it is."""
    started(store)
    store.close()
    if os.getuid() != 0:
        pytest.skip("takes another user")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o777)
        shutil.copy(path, folder / "sessions.db")
        (folder / "sessions.db").chmod(0o644)
        said = _as_nobody(folder / "sessions.db")
        assert os.listdir(folder) == ["sessions.db"]
    assert "run this as the application's user (the file belongs to user 0)" in said


def _as_nobody(path: Path) -> str:
    """What `StoreUnavailable` says to a user without rights: the superuser may write everywhere."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover  # in another process
        try:
            if os.getuid() == 0:
                os.setgid(65534)
                os.setuid(65534)
            try:
                store = SQLiteStore(path)
                store.create(new(), NOW)
                os.write(writing, b"it worked")
            except StoreUnavailable as problem:
                os.write(writing, str(problem).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return said


_LOCKED = """
import fcntl, sys
with open(sys.argv[1], "r+b") as file:
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 510, 0x40000002)  # what every connection of SQLite has locked for reading
    except OSError:
        sys.exit(0)
sys.exit("nobody has it open, as far as the locks say")
"""


def test_a_file_that_two_stores_make_at_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one process: when the one that has made it closes it, the other may have it open already, and other processes still see that."""
    others: list[SQLiteStore] = []
    close = os.close

    def close_late(descriptor: int) -> None:
        if not others:
            others.append(SQLiteStore.__new__(SQLiteStore))  # once only: this one closes files too
            others[0] = SQLiteStore(path)
        close(descriptor)

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(os, "close", close_late)
        store = SQLiteStore(path)
    (other,) = others
    store.close()
    subprocess.run([sys.executable, "-c", _LOCKED, str(path)], check=True, timeout=60)
    record = started(other)
    assert found(store, record) is not None
    other.close()
    store.close()
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_file_where_there_are_no_links(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some file systems have none: the file is made all the same, and nothing is left beside it."""

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    store = SQLiteStore(path)
    record = started(store)
    assert found(store, record) is not None
    store.close()
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
