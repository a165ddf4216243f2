"""Rule 30 where the memory store is large and full: who comes does not wait while it is found out who makes room (rule 16)."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from tests.stores.records import IDLE, NOW, found, new, started, use
from typed_sessions import MemoryStore, StoreFull


def calls_of(work: Callable[[], object]) -> int:
    """How many functions it calls; a measure of how long it takes that is the same on every machine."""
    count = 0

    def see(frame: object, what: str, argument: object) -> None:
        nonlocal count
        count += what in ("call", "c_call")

    sys.setprofile(see)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


def test_rule_30_nobody_waits_while_a_full_store_looks_for_room() -> None:
    """However many were used since the last one was created: in a large store a few are let in over the limit, until the search is over;
    then it is the oldest unused that go, and the store is as large as it may be again."""
    store = MemoryStore(max_sessions=20_000)
    records = [started(store) for _ in range(20_000)]
    unused = records[12_000:12_040]
    for record in records:
        if record not in unused:
            assert store.open(record.locator, use(record), IDLE, NOW) is not None
    most, largest = 0, 0
    while found(store, unused[-1]) is not None:
        gone = [found(store, record) is None for record in unused]
        assert gone == sorted(gone, reverse=True)  # the oldest first
        most = max(most, calls_of(lambda: store.create(new(), NOW)))
        largest = max(largest, len(store))
    assert most < 4_000
    assert 20_000 < largest <= 20_000 + 12_000 // 512 + 1
    assert all(found(store, record) is not None for record in records if record not in unused)
    for _ in range(100):
        store.create(new(), NOW)
    assert len(store) == 20_000


def test_rule_30_a_full_store_in_which_all_are_in_use_says_so_at_once() -> None:
    """Also the first time, with everything still to be looked at; and when one of them has gone, the next one is let in."""
    store = MemoryStore(max_sessions=20_000)
    records = [started(store) for _ in range(20_000)]
    for record in records:
        assert store.open(record.locator, use(record), IDLE, NOW) is not None

    def refused() -> None:
        with pytest.raises(StoreFull):
            store.create(new(), NOW)

    for _ in range(3):
        assert calls_of(refused) < 4_000
        assert len(store) == 20_000
    assert store.end(records[0].locator, "ended", NOW, 60) is not None
    started(store)
    assert len(store) == 20_000
