"""The books of the memory store: who is counted, who makes room, and who comes due, whatever happened before."""

from __future__ import annotations

import random
from typing import Any

import pytest

from tests.stores.records import GRACE, IDLE, LEASE, NOW, found, new, started, use, write
from typed_sessions import MemoryStore, StoreFull
from typed_sessions.record import REUSED, Record


def stay(store: MemoryStore, now: float = NOW) -> Record:
    """A session that makes room for nobody."""
    record = started(store, now=now)
    assert store.open(record.locator, use(record), IDLE, now) is not None
    return record


def refused(store: MemoryStore, now: float) -> None:
    """Somebody comes while the store is full: what is due is looked through for room."""
    with pytest.raises(StoreFull):
        store.create(new(now=now), now)


@pytest.mark.parametrize("seed", range(3))
def test_who_is_counted_is_who_is_there(seed: int) -> None:
    """All who live, and of them those that no second request has used: after whatever order of verbs, and of a clock that goes on."""
    chance, store, now = random.Random(seed), MemoryStore(max_sessions=40, shards=4), NOW
    guests: Any = getattr(store, "_guests")  # noqa: B009  # a wrong count shows itself only when the store is full
    known: list[Record] = []
    for _ in range(1_500):
        now += chance.choice((0, 0, 1, 20))
        step = chance.choice(("create", "create", "open", "touch", "write", "end", "sweep", "restore"))
        record = chance.choice(known) if known else new(now=now)
        if step == "create":
            record = new(hooked=chance.random() < 0.3, now=now)
            try:
                store.create(record, now)
            except StoreFull:
                continue
            known.append(record)
        elif step == "open":
            store.open(record.locator, use(record), IDLE, now)
        elif step == "touch":
            store.touch(record.locator, record.digest, IDLE, now)
        elif step == "write":
            write(store, record, b"1", now=now)
        elif step == "end":
            store.end(record.locator, "ended", now, LEASE)
        elif step == "sweep":
            store.sweep(now, chance.choice((1, 100)), LEASE, GRACE)
        elif len(store) < 40:
            saved = new(now=now)
            saved.flags |= chance.choice((0, REUSED))
            store.restore([record, saved], now)
        there = store.scan(None, 1_000)[0]
        assert len(store) == len(there)
        assert guests.count == sum(not record.flags & REUSED for record in there)
    assert len(known) > 200


def test_a_search_for_room_loses_nobody_who_is_still_alive() -> None:
    """Who was used since he was last looked for is looked for again, when his time is over."""
    store = MemoryStore(max_sessions=1)
    record = stay(store)
    assert store.open(record.locator, use(record), IDLE, NOW + 300) is not None
    refused(store, NOW + 700)
    assert found(store, record) is not None
    assert [one.locator for one in store.sweep(NOW + 1_000, 10, LEASE, GRACE)[0]] == [record.locator]
    assert len(store) == 0


def test_a_search_for_room_leaves_a_sweep_those_whose_hooks_have_not_run() -> None:
    """The process that had claimed them is gone: they keep nobody out, and the next sweep has them."""
    store = MemoryStore(max_sessions=1)
    ended = started(store, hooked=True)
    assert store.end(ended.locator, "ended", NOW, LEASE) is not None
    stay(store)
    refused(store, NOW + LEASE + 1)
    assert [one.locator for one in store.sweep(NOW + LEASE + 1, 10, LEASE, GRACE)[0]] == [ended.locator]


def test_a_search_for_room_ends_nobody_twice() -> None:
    """The time of a session that has ended, and is being told, would be over by now: it is counted no more, and the reason stays."""
    store = MemoryStore(max_sessions=2)
    ended, gone = started(store, hooked=True), started(store)
    for record in (ended, gone):
        assert store.end(record.locator, "ended", NOW, 2_000) is not None
    for _ in range(2):
        stay(store, NOW + 600)
    refused(store, NOW + 700)
    assert len(store) == 2
    [record] = [one for one in store.sweep(NOW + 2_001, 10, LEASE, GRACE)[0] if one.locator == ended.locator]
    assert record.ending is not None
    assert record.ending.reason == "ended"


def test_what_is_there_already_keeps_nothing_else_from_being_restored() -> None:
    """A session that has come back before stays as it is; the ones after it come back too."""
    store = MemoryStore()
    here = started(store)
    others = [new(now=NOW + 1), new(now=NOW + 2)]
    assert store.restore([here, *others], NOW) == 2
    assert store.restore([here, *others], NOW) == 0
    assert all(found(store, record) is not None for record in (here, *others))
    assert len(store) == 3


def test_an_id_that_is_taken_while_room_is_made_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else was faster with it: nothing is put in his place, and one session is counted."""
    store, record = MemoryStore(max_sessions=2), new(b"mine")
    started(store)
    stay(store)
    admit: Any = getattr(store, "_admit")  # noqa: B009  # between it and what follows another thread comes

    def overtaken(_: object, now: float) -> bool:
        crowded: bool = admit(now)
        monkeypatch.undo()
        theirs = record.copy()
        assert store.restore([theirs], now) == 1
        return crowded

    monkeypatch.setattr(MemoryStore, "_admit", overtaken)
    assert store.create(record, NOW) == "taken"
    assert len(store) == len(store.scan(None, 10)[0]) == 2


def test_sessions_at_rest_are_packed() -> None:
    """Of many that were used one after the other a few are kept as they are, the latest; by whichever verb they were used."""
    store = MemoryStore(shards=1)
    records = [started(store) for _ in range(200)]
    for number, record in enumerate(records):
        later = NOW + 100 * (number % 3 == 0)
        if number % 2:
            assert store.open(record.locator, use(record), IDLE, later) is not None
        else:
            write(store, record, b"1", now=later)
        store.open(record.locator, use(record), IDLE, later)
    unpacked = [record for record in records if store.in_use(record.locator) is not None]
    assert unpacked == records[-len(unpacked) :]
    assert 0 < len(unpacked) < 20
    for record in records:
        assert store.touch(record.locator, record.digest, IDLE, NOW + 200)
        assert write(store, record, b"2", now=NOW + 200).status == "committed"
    assert 0 < sum(store.in_use(record.locator) is not None for record in records) < 20
