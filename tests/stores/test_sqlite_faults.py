"""SQLiteStore when things go wrong (S10, S12 to S14): each answers in time with `StoreUnavailable`, loses nothing, and gets well again."""

from __future__ import annotations

import os
import random
import re
import resource
import sqlite3
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.stores.records import IDLE, NOW, append, elements_of, found, new, started, use, value_of, write
from typed_sessions import SQLiteStore, StoreUnavailable, TooLarge
from typed_sessions.changes import Changes, Write
from typed_sessions.record import Record
from typed_sessions.stores.sqlite_file import SQLiteFile

LEASE, GRACE = 60.0, 604_800.0
DEADLINE = 0.2

Verb = Callable[[SQLiteStore, Record], object]
WRITING: dict[str, Verb] = {
    "create": lambda store, _: store.create(new(), NOW),
    "open": lambda store, record: store.open(record.locator, use(record), IDLE, NOW + 100),
    "touch": lambda store, record: store.touch(record.locator, record.digest, IDLE, NOW + 100),
    "commit": lambda store, record: write(store, record, b"1"),
    "renewal": lambda store, record: store.commit(record.locator, Changes(clear=True), IDLE, NOW),
    "end": lambda store, record: store.end(record.locator, "ended", NOW, LEASE),
    "sweep": lambda store, _: store.sweep(NOW + 1_000, 10, LEASE, GRACE),
    "clear": lambda store, record: store.clear(record.locator, None),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sessions.db"


@pytest.fixture
def store(path: Path) -> Iterator[SQLiteStore]:
    store = SQLiteStore(path, deadline=DEADLINE)
    yield store
    store.close()


@contextmanager
def held(path: Path, how: str = "IMMEDIATE", *, exclusive: bool = False) -> Generator[None]:
    """Somebody else holds the file's lock for the time of the block; `exclusive`, also that of reading, which nobody else may hold."""
    other = sqlite3.connect(path, isolation_level=None, timeout=5)
    if exclusive:
        other.execute("PRAGMA locking_mode=EXCLUSIVE")
    other.execute(f"BEGIN {how}")
    try:
        yield
    finally:
        other.execute("ROLLBACK")
        other.close()


# -- busy -----------------------------------------------------------------------


@pytest.mark.parametrize("verb", WRITING)
def test_a_busy_file_is_waited_for_no_longer_than_the_deadline(path: Path, store: SQLiteStore, verb: str) -> None:
    """Then `StoreUnavailable` says that it is busy; nothing was done; and afterwards it works again."""
    record = started(store)
    with held(path):
        begin = time.monotonic()
        with pytest.raises(StoreUnavailable, match=r"busy: another process was writing for 0\.2 s"):
            WRITING[verb](store, record)
        assert DEADLINE <= time.monotonic() - begin < DEADLINE + 2
        assert value_of(found(store, record)) == b"0", "reading waits for no writer"
    WRITING[verb](store, record)


def test_a_lock_that_is_let_go_in_time_is_waited_for(path: Path) -> None:
    """A commit under way elsewhere only delays one's own."""
    store = SQLiteStore(path, deadline=30)
    record = started(store)
    waiting = threading.Thread(target=lambda: write(store, record, b"1"))
    with held(path):
        waiting.start()
        assert value_of(found(store, record)) == b"0"
    waiting.join()
    assert value_of(found(store, record)) == b"1"
    store.close()


def test_the_deadline_holds_for_threads_that_queue_up(path: Path, store: SQLiteStore) -> None:
    """Four threads wait for one lock: each gives up in its own time, not one after the other."""
    record = started(store)
    took: list[float] = []

    def work() -> None:
        begin = time.monotonic()
        with pytest.raises(StoreUnavailable, match="busy"):
            write(store, record, b"1")
        took.append(time.monotonic() - begin)

    threads = [threading.Thread(target=work) for _ in range(4)]
    with held(path):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(took) == 4
    assert max(took) < 2 * DEADLINE + 1
    assert write(store, record, b"2").status == "committed"


@pytest.mark.parametrize("where", ["written", "opened"])
def test_one_deadline_for_the_queue_and_the_file(path: Path, where: str) -> None:
    """Who waits for another thread first, and then for another process, has one deadline for both."""
    store = SQLiteStore(path, deadline=1)
    record = started(store)
    store.close()
    took: list[float] = []

    def work() -> None:
        begin = time.monotonic()
        with pytest.raises(StoreUnavailable, match="busy"):
            write(store, record, b"1") if where == "written" else found(store, record)
        took.append(time.monotonic() - begin)

    # The second comes to the head of the queue when the first gives up: just before its own time is over.
    threads = [threading.Thread(target=work), threading.Timer(0.1, work)]
    with held(path, "IMMEDIATE" if where == "written" else "EXCLUSIVE", exclusive=where == "opened"):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(took) == 2
    assert max(took) < 1.6
    store.close()


def test_a_sweep_keeps_the_deadline(path: Path, store: SQLiteStore) -> None:
    """One of several transactions stops between two of them with what it has, and says that there is more."""
    for _ in range(3 * 64):
        started(store)
    hasty = SQLiteStore(path, deadline=0.000_001)
    swept, more = hasty.sweep(NOW + 1_000, 1_000, LEASE, GRACE)
    assert len(swept) == 64
    assert more
    rest, more = store.sweep(NOW + 1_000, 1_000, LEASE, GRACE)
    assert len(rest) == 2 * 64
    assert not more
    hasty.close()


def test_a_sweep_that_cannot_go_on_gives_what_it_has(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process writes for longer than the deadline between two of its transactions: what the first has claimed is given out, since
    nobody else would hear of it; and if there is nothing yet, it raises."""
    store = SQLiteStore(path, deadline=DEADLINE)
    for _ in range(2 * 64):
        started(store, hooked=True)
    other = sqlite3.connect(path, isolation_level=None)
    do = SQLiteFile.write

    def write_once(*arguments: Any, **options: Any) -> Any:
        done = do(*arguments, **options)
        other.execute("BEGIN IMMEDIATE")
        return done

    monkeypatch.setattr(SQLiteFile, "write", write_once)
    swept, more = store.sweep(NOW + 1_000, 1_000, LEASE, GRACE)
    assert (len(swept), more) == (64, True)
    with pytest.raises(StoreUnavailable, match="busy"):
        store.sweep(NOW + 1_000, 1_000, LEASE, GRACE)
    other.close()
    monkeypatch.undo()
    rest, more = store.sweep(NOW + 1_000, 1_000, LEASE, GRACE)
    assert {record.locator for record in rest}.isdisjoint(record.locator for record in swept)
    assert (len(rest), more) == (64, False)
    store.close()


def test_a_file_that_is_locked_as_it_is_opened(path: Path) -> None:
    """Opening keeps the deadline too."""
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("CREATE TABLE filler (x)")
    other.execute("BEGIN EXCLUSIVE")
    begin = time.monotonic()
    with pytest.raises(StoreUnavailable, match="busy"):
        SQLiteStore(path, deadline=DEADLINE)
    assert time.monotonic() - begin < DEADLINE + 2
    other.execute("ROLLBACK")
    other.close()


# -- full -----------------------------------------------------------------------


def test_a_full_disk(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not fit is refused whole; what is there can be read, changed and ended; room again, and it goes on."""
    made: list[sqlite3.Connection] = []
    limit = [1 << 30]
    connect = sqlite3.connect

    def connecting(*args: Any, **options: Any) -> sqlite3.Connection:
        made.append(connect(*args, **options))
        made[-1].execute(f"PRAGMA max_page_count={limit[0]}")
        return made[-1]

    monkeypatch.setattr(sqlite3, "connect", connecting)
    store = SQLiteStore(path)
    records = [started(store) for _ in range(20)]
    limit[0] = 80
    for connection in made:
        connection.execute("PRAGMA max_page_count=80")
    added: list[Record] = []

    def fill() -> None:
        while len(added) < 1_000:
            added.append(started(store, b"x" * 1_000))

    with pytest.raises(StoreUnavailable, match=r"sessions\.db: database or disk is full"):
        fill()
    assert 10 < len(added) < 200
    big = Changes({"value": Write(b"x" * 60_000)})
    for durable in (False, True):
        changes = big if not durable else Changes(big.writes, clear=True)
        with pytest.raises(StoreUnavailable, match="full"):
            store.commit(records[0].locator, changes, IDLE, NOW)
    assert all(value_of(found(store, record)) == b"0" for record in records)
    assert all(found(store, record) is not None for record in added), "what was acknowledged is there"
    assert store.end(records[1].locator, "ended", NOW, LEASE) is not None
    assert write(store, records[2], b"1").status == "committed"
    for record in added:
        store.end(record.locator, "ended", NOW, LEASE)
    assert store.commit(records[0].locator, big, IDLE, NOW).status == "committed"
    store.close()


@pytest.mark.parametrize("exists", [True, False])
def test_too_many_files_open(path: Path, exists: bool) -> None:
    """SQLite says only that it could not open the file: why, and what to do, is added; and it works again when others closed theirs."""
    if exists:
        SQLiteStore(path).close()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with open(path.parent / "another", "wb") as file:
        resource.setrlimit(resource.RLIMIT_NOFILE, (file.fileno() + 1, hard))
        try:
            taken = [os.dup(file.fileno()) for _ in gaps(file.fileno())]
            with pytest.raises(StoreUnavailable, match=r"; this process has too many files open: raise its limit \(ulimit -n\)"):
                SQLiteStore(path)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    for descriptor in taken:
        os.close(descriptor)
    SQLiteStore(path).close()


def gaps(limit: int) -> list[int]:
    """The descriptors below this one that are free."""
    free: list[int] = []
    for descriptor in range(limit):
        try:
            os.fstat(descriptor)
        except OSError:
            free.append(descriptor)
    return free


def test_a_session_that_grows_too_large(store: SQLiteStore) -> None:
    """`TooLarge` applies nothing, and costs no connection."""
    record = started(store)
    for _ in range(3):
        with pytest.raises(TooLarge, match=r"SQLiteStore\(max_bytes=65536\)"):
            append(store, record, b"x" * 70_000)
    after = found(store, record)
    assert after is not None
    assert elements_of(after) == []


# -- what is no database, or damaged --------------------------------------------


@pytest.mark.parametrize(
    "content", [b"no database at all" * 100, b"SQLite format 3\0" + b"\xff" * 4080, b"x"], ids=["text", "head", "short"]
)
def test_what_is_no_database_is_refused_and_kept(path: Path, content: bytes) -> None:
    """The error names the file; not a byte of it changes."""
    path.write_bytes(content)
    with pytest.raises(StoreUnavailable, match=r"sessions\.db: damaged, or no SQLite database .* left as it is"):
        SQLiteStore(path)
    assert path.read_bytes() == content


def test_the_database_of_another_program_is_refused_and_kept(path: Path) -> None:
    """Sessions go into no file that holds something else."""
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE session (id)")
    other.close()
    before = path.read_bytes()
    with pytest.raises(StoreUnavailable, match="a database of another program"):
        SQLiteStore(path)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("bound", [None, 10])
def test_what_was_restored_from_a_dump_is_refused_and_says_what_to_do(path: Path, tmp_path: Path, bound: int | None) -> None:
    """A dump has the tables, and not what tells them from those of another program; with that put back, nothing is missing."""
    original = SQLiteStore(path, max_sessions=bound)
    record = started(original, b"dumped")
    original.close()
    dumped = sqlite3.connect(path)
    copy = sqlite3.connect(tmp_path / "copy.db")
    copy.executescript("\n".join(dumped.iterdump()))
    dumped.close()
    with pytest.raises(StoreUnavailable, match=r"restored from an SQL dump.*\.backup.*It was left as it is") as caught:
        SQLiteStore(tmp_path / "copy.db")
    pragmas = re.findall("PRAGMA [a-z_]+=[0-9]+;", str(caught.value))
    assert len(pragmas) == 2
    copy.executescript("".join(pragmas))
    copy.close()
    (tmp_path / "copy.db").chmod(0o600)
    restored = SQLiteStore(tmp_path / "copy.db", max_sessions=bound)
    assert value_of(found(restored, record)) == b"dumped"
    assert write(restored, record, b"1").status == "committed"
    started(restored)
    restored.close()


def test_a_folder_in_the_place_of_the_file(tmp_path: Path) -> None:
    """And a folder that is not there."""
    with pytest.raises(StoreUnavailable, match="no file, but a folder"):
        SQLiteStore(tmp_path)
    with pytest.raises(StoreUnavailable, match=r"No such file or directory; there is no folder .*missing: create it"):
        SQLiteStore(tmp_path / "missing" / "sessions.db")


def test_flipped_bytes(path: Path, tmp_path: Path) -> None:
    """One bit wrong, anywhere: each session is as it was, or counts as none, or the store says that it is damaged; none comes back."""
    seed = 11
    print(f"seed {seed}")
    chance = random.Random(seed)
    store = SQLiteStore(path)
    records = [started(store, b"value %d" % number) for number in range(30)]
    ended = [started(store, hooked=True) for _ in range(5)]
    for record in ended:
        store.end(record.locator, "ended", NOW, LEASE)
    store.close()
    whole = path.read_bytes()
    seen = {"whole": 0, "none": 0, "refused": 0}
    for offset in [*range(0, 100, 4), *(chance.randrange(len(whole)) for _ in range(100))]:
        damaged = bytearray(whole)
        damaged[offset] ^= 1 << chance.randrange(8)
        copy = tmp_path / "copy.db"
        for leftover in tmp_path.glob("copy.db*"):
            leftover.unlink()
        copy.write_bytes(damaged)
        copy.chmod(0o600)
        _examine(copy, records, ended, seen)
    print(seen)
    assert min(seen.values()) > 0, "the test would notice nothing"
    assert seen["whole"] > 20 * seen["none"]


def _examine(path: Path, records: list[Record], ended: list[Record], seen: dict[str, int]) -> None:
    """Every verb upon a file that may be damaged."""
    try:
        store = SQLiteStore(path, deadline=1)
    except StoreUnavailable:
        seen["refused"] += 1
        return
    for record in records:
        try:
            current = store.open(record.locator, None, IDLE, NOW)
        except StoreUnavailable:
            seen["refused"] += 1
            continue
        seen["none" if current is None else "whole"] += 1
        assert current is None or current.pack() == record.copy().pack()
    verbs: list[Callable[[], object]] = [
        lambda: write(store, records[0], b"1"),
        lambda: store.create(new(), NOW),
        lambda: store.scan(None, 100),
        lambda: store.end(records[1].locator, "ended", NOW, LEASE),
        lambda: store.sweep(NOW + 10_000, 100, LEASE, GRACE),
    ]
    verbs[:0] = [partial(_not_back, store, record) for record in ended]
    for verb in verbs:
        try:
            verb()
        except StoreUnavailable:
            seen["refused"] += 1
    store.close()


def _not_back(store: SQLiteStore, record: Record) -> None:
    assert found(store, record) is None, "an ended session came back"


def test_a_damaged_row_counts_as_none_and_is_reported(path: Path, store: SQLiteStore, caplog: pytest.LogCaptureFixture) -> None:
    """Its neighbours are not concerned; ending it, or the sweep when it comes due, drops it."""
    good, *bad = [started(store) for _ in range(4)]
    store.close()
    other = sqlite3.connect(path, isolation_level=None)
    spoilt: list[object] = [b"nonsense", "text", 7.5]
    for record, value in zip(bad, spoilt, strict=True):
        other.execute("UPDATE session SET record = ? WHERE locator = ?", (value, record.locator))
    for record in bad:
        assert found(store, record) is None
        assert write(store, record, b"1").status == "gone"
        assert store.touch(record.locator, record.digest, IDLE, NOW) is False
        store.clear(record.locator, None)
    assert f"the session {bad[0].locator.hex()} is damaged" in caplog.text
    assert [record.locator for record in store.scan(None, 10)[0]] == [good.locator]
    assert store.end(bad[0].locator, "ended", NOW, LEASE) is None
    assert other.execute("SELECT count(*) FROM session").fetchone() == (3,)
    assert [record.locator for record in store.sweep(NOW + 1_000, 10, LEASE, GRACE)[0]] == [good.locator]
    assert other.execute("SELECT count(*) FROM session").fetchone() == (0,)
    other.close()
