"""SQLiteStore: its options, its file, commits that meet, sweeps, its bound, threads and migration. The rules run by `face`."""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from tests.stores.records import GRACE, IDLE, LEASE, NOW, PEER, append, elements_of, found, new, started, use, value_of, write
from typed_sessions import Key, MemoryStore, PolicyError, Request, SealingKeys, SessionManager, SQLiteStore, StoreFull, StoreUnavailable
from typed_sessions.changes import Changes, Idle, Renewal, Use, Write
from typed_sessions.record import REUSED, Record
from typed_sessions.stores import sqlite_file

# -- options and the file -------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"max_bytes": 0},
        {"max_keys": 1.5},
        {"max_keys": None},
        {"max_sessions": 0},
        {"max_sessions": True},
        {"deadline": 0},
        {"deadline": "5"},
        {"deadline": float("nan")},
    ],
    ids=str,
)
def test_a_wrong_option_is_refused(path: Path, options: dict[str, Any]) -> None:
    """`PolicyError` names the option; no file is made."""
    with pytest.raises(PolicyError, match=rf"SQLiteStore\({next(iter(options))}="):
        SQLiteStore(path, **options)
    assert not path.exists()


class Named:
    """A path by another name."""

    def __init__(self, name: bytes | str) -> None:
        self._name = name

    def __fspath__(self) -> bytes | str:
        return self._name

    def __repr__(self) -> str:
        return f"Named({self._name!r})"


@pytest.mark.parametrize(
    "where", ["", ":memory:", None, 7, b"a.db", "a\0b.db", "\ud800.db", Named(b"a.db"), Named(""), Named(":memory:")], ids=ascii
)
def test_a_path_that_is_none_is_refused(where: Any) -> None:
    """Sessions in memory are another store's business."""
    with pytest.raises(PolicyError, match="path of a file"):
        SQLiteStore(where)


def test_the_files_are_for_their_owner_only(path: Path) -> None:
    """Mode 0600: the database, its log and its index; also under a umask that allows everything."""
    store = SQLiteStore(path)
    started(store)
    files = sorted(path.parent.iterdir())
    assert [file.name for file in files] == ["sessions.db", "sessions.db-shm", "sessions.db-wal"]
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
    store.close()
    assert [file.name for file in path.parent.iterdir()] == ["sessions.db"]


def test_a_file_that_others_may_read_is_reported(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is used all the same: somebody may have wanted it so."""
    SQLiteStore(path).close()
    path.chmod(0o644)
    with caplog.at_level(logging.WARNING, "typed_sessions"):
        store = SQLiteStore(path)
    assert "mode 0644" in caplog.text
    store.close()


def test_a_file_of_another_user_is_reported(path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever could write to the folder first may have put it there, with sessions of their own."""
    SQLiteStore(path).close()
    stranger = 54_321
    if os.geteuid() == 0:
        os.chown(path, stranger, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: stranger)
    with caplog.at_level(logging.WARNING, "typed_sessions"):
        store = SQLiteStore(path)
    assert f"belongs to user {path.stat().st_uid}, who can read and change sessions" in caplog.text
    store.close()


def test_what_was_committed_is_there_after_closing(path: Path) -> None:
    """Another store on the file finds it; and a closed store opens its file again."""
    store = SQLiteStore(path)
    record = started(store)
    assert write(store, record, b"1").status == "committed"
    store.close()
    store.close()
    again = SQLiteStore(path)
    assert value_of(found(again, record)) == b"1"
    assert value_of(found(store, record)) == b"1"
    store.close()
    again.close()


def test_the_path_is_that_of_the_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path keeps its meaning when the program changes its directory."""
    monkeypatch.chdir(tmp_path)
    store = SQLiteStore("sessions.db")
    record = started(store)
    store.close()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert found(store, record) is not None
    store.close()


def test_the_verbs_give_what_the_memory_store_gives(path: Path) -> None:
    """One life, told to both: every answer and every record is the same."""
    record, after, later = new(hooked=True), new(), NOW + 61
    renewal = Renewal(record.digest, after.digest, after.tag_digest, PEER, 10.0)
    lives: list[list[object]] = []
    for store in (MemoryStore(), SQLiteStore(path)):
        answers: list[object] = [
            store.create(record, NOW),
            store.create(record, NOW),
            store.open(record.locator, use(record), IDLE, NOW),
            store.open(record.locator, use(record), IDLE, later),
            store.open(record.locator, Use(record.locator, b"wrong", PEER, False), IDLE, later + 61),
            store.touch(record.locator, record.digest, IDLE, later + 61),
            store.touch(record.locator, b"wrong", IDLE, later + 61),
            write(store, record, b"1", now=later + 62, hooked=True),
            append(store, record, b"a", b"b", now=later + 63),
            store.commit(record.locator, Changes({"value": Write(b"2", base=7)}), IDLE, later + 63),
            store.commit(record.locator, Changes(renewal=renewal), IDLE, later + 64),
            store.commit(record.locator, Changes(renewal=Renewal(b"old", b"new", b"tag", PEER, 0)), IDLE, later + 64),
            store.commit(record.locator, Changes(timeout=5.0, set_timeout=True, granularity=1.0), IDLE, later + 65),
            store.scan(None, 10)[0],
            store.sweep(later + 70, 10, LEASE, GRACE),
            store.sweep(later + 71, 10, LEASE, GRACE),
            store.open(record.locator, None, IDLE, later + 71),
            store.sweep(later + 132, 10, LEASE, GRACE),
            store.end(record.locator, "ended", later + 133, LEASE),
            store.clear(record.locator, ["list"]),
            store.sweep(later + 71 + GRACE, 10, LEASE, GRACE),
            store.sweep(later + 500 + GRACE, 10, LEASE, GRACE),
            store.scan(None, 10),
        ]
        lives.append([_plain(answer) for answer in answers])
        store.close()
    assert lives[0] == lives[1]


def _plain(answer: Any) -> object:
    if isinstance(answer, Record):
        return answer.copy().pack(), answer.locator
    if isinstance(answer, (list, tuple)):
        return [_plain(item) for item in cast("Sequence[object]", answer)]
    return (answer.status, _plain(answer.record)) if hasattr(answer, "status") else answer


# -- commits that meet ----------------------------------------------------------


def test_a_record_that_was_opened_is_not_believed(path: Path) -> None:
    """What a commit remembers of the last open is used only if it is still what is stored: another store may have been faster."""
    store, other = SQLiteStore(path), SQLiteStore(path)
    record = started(store)
    store.open(record.locator, use(record), IDLE, NOW)
    assert store.open(record.locator, use(record), IDLE, NOW) is not None
    append(other, record, b"theirs")
    outcome = append(store, record, b"ours")
    assert outcome.record is not None
    assert elements_of(outcome.record) == [b"theirs", b"ours"]
    assert store.open(record.locator, use(record), IDLE, NOW) is not None
    assert other.end(record.locator, "ended", NOW, LEASE) is not None
    assert write(store, record, b"1").status == "gone"
    assert found(store, record) is None
    store.close()
    other.close()


def test_a_conflict_is_judged_by_what_is_stored(path: Path) -> None:
    """A base that no longer fits what was opened, but fits what is stored, is no conflict; and the other way round."""
    store, other = SQLiteStore(path), SQLiteStore(path)
    record = started(store)
    store.open(record.locator, use(record), IDLE, NOW)
    assert store.open(record.locator, use(record), IDLE, NOW) is not None
    outcome = write(other, record, b"1")
    assert outcome.record is not None
    newer = Changes({"value": Write(b"2", base=outcome.record.revision)})
    assert store.commit(record.locator, newer, IDLE, NOW).status == "committed"
    assert store.open(record.locator, use(record), IDLE, NOW) is not None
    write(other, record, b"3")
    assert store.commit(record.locator, newer, IDLE, NOW).status == "conflict"
    assert value_of(found(store, record)) == b"3"
    store.close()
    other.close()


def test_threads_add_up(path: Path) -> None:
    """Eight threads append to one session and to one of their own; each element is there once. Ended threads leave no connection."""
    store = SQLiteStore(path)
    shared = started(store)
    own = [started(store) for _ in range(8)]

    def work(number: int) -> None:
        for turn in range(40):
            assert append(store, shared, b"%d %d" % (number, turn)).status == "committed"
            assert store.open(own[number].locator, use(own[number]), IDLE, NOW) is not None
            assert write(store, own[number], b"%d" % turn).status == "committed"

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    record = found(store, shared)
    assert record is not None
    assert sorted(elements_of(record)) == sorted(b"%d %d" % (number, turn) for number in range(8) for turn in range(40))
    assert [value_of(found(store, one)) for one in own] == [b"39"] * 8
    store.close()
    assert [file.name for file in path.parent.iterdir()] == ["sessions.db"], "every connection is closed: the last one tidies up"


# -- sweeps ---------------------------------------------------------------------


def test_a_shorter_timeout_is_seen_by_the_sweep(path: Path) -> None:
    """A session that comes due sooner than before moves at once; also one that had no timeout at all."""
    store = SQLiteStore(path)
    record = new()
    record.timeout = None
    store.create(record, NOW)
    assert store.commit(record.locator, Changes(timeout=10.0, set_timeout=True, granularity=1.0), IDLE, NOW).status == "committed"
    assert [one.locator for one in store.sweep(NOW + 11, 32, LEASE, GRACE)[0]] == [record.locator]
    store.close()


def test_a_sweep_looks_at_no_more_than_it_may(path: Path) -> None:
    """However many came due at once: by steps, each a transaction of its own, and never the same session twice."""
    store = SQLiteStore(path)
    for number in range(300):
        started(store, hooked=number % 3 == 0)
    swept: list[bytes] = []
    for limit, more in ((7, True), (200, True), (100, False), (100, False)):
        records, left = store.sweep(NOW + 1000, limit, LEASE, GRACE)
        assert (len(records) <= limit, left) == (True, more)
        swept += [record.locator for record in records]
    assert len(swept) == len(set(swept)) == 300
    assert len(store.sweep(NOW + 1000 + LEASE, 500, LEASE, GRACE)[0]) == 100, "the hooks of these have not been run"
    store.close()


def test_of_two_sweepers_one_gets_a_session(path: Path) -> None:
    """Claims of two stores, in two threads, on one file: each session goes to one of them."""
    stores = [SQLiteStore(path), SQLiteStore(path)]
    records = [started(stores[0], hooked=True) for _ in range(300)]
    claimed: list[bytes] = []

    def work(store: SQLiteStore) -> None:
        more = True
        while more:
            swept, more = store.sweep(NOW + 1000, 10, LEASE, GRACE)
            claimed.extend(record.locator for record in swept)

    threads = [threading.Thread(target=work, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(claimed) == sorted(record.locator for record in records)
    for store in stores:
        store.close()


def test_scan_gives_each_session_once_in_pages(path: Path) -> None:
    """By locator, whatever begins and ends meanwhile; ended ones with hooks are not in it."""
    store = SQLiteStore(path)
    there = {started(store).locator for _ in range(50)}
    ended = started(store, hooked=True)
    store.end(ended.locator, "ended", NOW, LEASE)
    seen: list[bytes] = []
    after: bytes | None = None
    while True:
        records, after = store.scan(after, 7)
        seen += [record.locator for record in records]
        if after is None:
            break
        store.end(started(store).locator, "ended", NOW, LEASE)
        started(store)
    assert there <= set(seen)
    assert len(seen) == len(set(seen))
    assert ended.locator not in seen
    store.close()


# -- the bound ------------------------------------------------------------------


def test_a_bound_can_be_set_on_a_file_that_is_there(path: Path) -> None:
    """The sessions in it are counted once; from then on everybody keeps count, also a store without a bound."""
    free = SQLiteStore(path)
    early = [started(free, now=NOW + number) for number in range(5)]
    bounded = SQLiteStore(path, max_sessions=6)
    assert bounded.create(new(now=NOW + 10), NOW + 10) == "created"
    assert bounded.create(new(now=NOW + 11), NOW + 11) == "crowded"
    assert found(free, early[0]) is None
    assert free.create(new(now=NOW + 12), NOW + 12) == "created"
    assert free.end(early[1].locator, "ended", NOW + 12, LEASE) is not None
    assert bounded.create(new(now=NOW + 13), NOW + 13) == "crowded"
    assert found(free, early[2]) is None
    assert len(free.scan(None, 100)[0]) == 6
    assert {record.ending and record.ending.reason for record in free.sweep(NOW + 13, 10, LEASE, GRACE)[0]} == {"evicted"}
    free.close()
    bounded.close()


def test_what_makes_no_room_says_so(path: Path) -> None:
    """`StoreFull` when every session was used twice; one that has expired makes room, swept or not."""
    store = SQLiteStore(path, max_sessions=3)
    records = [started(store) for _ in range(3)]
    for record in records:
        after = store.open(record.locator, use(record), IDLE, NOW + 1)
        assert after is not None
        assert after.flags & REUSED
    with pytest.raises(StoreFull, match=r"SQLiteStore\(max_sessions=3\) is full"):
        store.create(new(), NOW + 2)
    store.open(records[0].locator, use(records[0]), IDLE, NOW + 300)
    assert store.create(new(now=NOW + 700), NOW + 700) == "crowded"
    assert found(store, records[0]) is not None
    assert found(store, records[1]) is None
    assert len(store.sweep(NOW + 700, 10, LEASE, GRACE)[0]) == 2
    store.close()


# -- sealing and migration ------------------------------------------------------


def test_sealed_values_are_nowhere_in_the_open(path: Path) -> None:
    """Neither in the file nor in its log; and they come back."""
    name = Key("name", str)
    secret = "the treasure is under the third tree"
    seal = SealingKeys.generate()
    manager = SessionManager(SQLiteStore(path), seal=seal)
    session, finish = manager.start_check(Request(headers=(), peer=PEER))
    session[name] = secret
    finish()
    assert secret.encode() not in b"".join(file.read_bytes() for file in path.parent.iterdir())
    assert [view[name] for view in manager.all()] == [secret]
    manager.close()
    assert secret.encode() not in path.read_bytes()


NEXT = (*sqlite_file.SCHEMA, ("ALTER TABLE session ADD COLUMN note TEXT NOT NULL DEFAULT 'none'", "CREATE TABLE more (x)"))


def test_an_earlier_schema_is_brought_forward_in_place(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file made by hand as the first version made them gets what was added since; its sessions stay."""
    record = new()
    store = SQLiteStore(path)
    store.create(record, NOW)
    store.close()
    monkeypatch.setattr(sqlite_file, "SCHEMA", NEXT)
    store = SQLiteStore(path)
    assert value_of(found(store, record)) == b"0"
    assert write(store, record, b"1").status == "committed"
    store.close()
    with sqlite3.connect(path) as plain:
        assert plain.execute("SELECT note FROM session").fetchall() == [("none",)]
        assert plain.execute("PRAGMA user_version").fetchone() == (2,)
    plain.close()


def test_a_migration_that_fails_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All steps or none: the file is as it was, and the earlier program goes on with it."""
    store = SQLiteStore(path)
    record = started(store)
    monkeypatch.setattr(sqlite_file, "SCHEMA", (*NEXT, ("CREATE TABLE session (again)",)))
    with pytest.raises(StoreUnavailable, match="already exists"):
        SQLiteStore(path)
    monkeypatch.undo()
    store.close()
    assert found(store, record) is not None
    assert SQLiteStore(path).sweep(NOW, 1, LEASE, GRACE) == ((), False)
    store.close()


def test_a_later_schema_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The text says what to do, and the file is not touched."""
    monkeypatch.setattr(sqlite_file, "SCHEMA", NEXT)
    SQLiteStore(path).close()
    monkeypatch.undo()
    before = path.read_bytes()
    with pytest.raises(StoreUnavailable, match=r"later version of typed_sessions \(schema 2, this one knows 1\): upgrade"):
        SQLiteStore(path)
    assert path.read_bytes() == before


def test_many_open_a_new_file_at_once(path: Path) -> None:
    """One of them makes the tables, the others wait for it."""
    stores: list[SQLiteStore] = []
    barrier = threading.Barrier(8)

    def work() -> None:
        barrier.wait()
        stores.append(SQLiteStore(path, max_sessions=100))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    records = [started(store) for store in stores]
    assert len(stores) == 8
    assert all(found(stores[0], record) is not None for record in records)
    for store in stores:
        store.close()


def test_timeouts_that_are_never(path: Path) -> None:
    """A session without any timeout is in no sweep, and one that gets a timeout later is."""
    store = SQLiteStore(path)
    record = new()
    record.timeout = None
    store.create(record, NOW)
    assert store.sweep(NOW * 2, 10, LEASE, GRACE) == ((), False)
    assert store.open(record.locator, use(record), Idle(None, 60.0), NOW + 1) is not None
    assert store.sweep(NOW * 2, 10, LEASE, GRACE) == ((), False)
    store.close()
