"""Rule 30 where most sessions come and go: whose turn it is to make room is remembered for those who are there, and for nobody else."""

from __future__ import annotations

import random
from collections.abc import Sized
from typing import Any

import pytest

from tests.faces import Face
from tests.rules.scene import Connection
from tests.stores.records import IDLE, NOW, found, new, started, use
from typed_sessions import Key, MemoryStore, StoreFull
from typed_sessions.record import Record


def remembered(store: MemoryStore) -> int:
    """How many entries there are of sessions that were used once, or were so when they came."""
    guests: Any = getattr(store, "_guests")  # noqa: B009  # what grows there is seen nowhere else
    return len(guests.newer) + len(getattr(guests, "_older"))  # noqa: B009


@pytest.mark.parametrize("seed", range(3))
def test_rule_30_the_order_is_exact_though_most_have_gone(seed: int) -> None:
    """Thousands sign out before somebody has to make room: it is still the oldest that was used once."""
    chance = random.Random(seed)
    store = MemoryStore(max_sessions=60)
    here: dict[bytes, tuple[Record, bool]] = {}  # in the order of creation: whether it was used again
    evicted = rush = 0
    for _ in range(8_000):
        rush = 40 if chance.random() < 0.0008 else rush - 1
        record = new()
        store.create(record, NOW)
        here[record.locator] = record, False
        if len(here) > 60:
            unused = [record for record, again in here.values() if not again]
            gone = [record for record in unused if found(store, record) is None]
            assert gone == unused[: len(gone)], "the oldest"
            for record in gone:
                del here[record.locator]
            evicted += len(gone)
        assert len(store) == len(here) <= 62, "with many gone it may take more than one request to find who makes room"
        some = chance.choice(list(here)[0 if rush > 0 else -20 :])  # who came first stays, until there is a rush
        record, again = here[some]
        if rush <= 0 and len(here) > 40:
            assert store.end(some, "ended", NOW, 60) is not None
            del here[some]
        elif not again and chance.random() < 0.3:
            assert store.open(some, use(record), IDLE, NOW) is not None
            here[some] = record, True
    assert all(found(store, record) is not None for record, _ in here.values())
    assert evicted > 20


def test_rule_30_sessions_that_are_gone_are_not_remembered() -> None:
    """D1: about as many entries as twice the sessions that are there, and a thousand, however many have come and gone, early or late."""
    store = MemoryStore()

    def come_and_go(times: int) -> None:
        for _ in range(times):
            assert store.end(started(store).locator, "ended", NOW, 60) is not None

    come_and_go(1_500)
    assert remembered(store) <= 1_010
    stay = [started(store) for _ in range(2_000)]
    come_and_go(4_000)
    assert remembered(store) <= 5_010
    for record in stay:
        assert store.end(record.locator, "ended", NOW, 60) is not None
    come_and_go(2_000)
    assert remembered(store) <= 1_010


def test_rule_30_the_last_that_was_used_once_makes_room() -> None:
    """Also where the search for it takes longer than a request does: who comes first does not hear that the store is full."""
    store = MemoryStore(max_sessions=1_001)
    records = [started(store) for _ in range(1_001)]
    for record in records[:-1]:
        assert store.open(record.locator, use(record), IDLE, NOW) is not None
    newest = new()
    store.create(newest, NOW)
    assert store.open(newest.locator, use(newest), IDLE, NOW) is not None
    with pytest.raises(StoreFull):
        store.create(new(), NOW)
    assert len(store) == 1_001
    assert found(store, records[-1]) is None
    assert all(found(store, record) is not None for record in (*records[:-1], newest))


@pytest.mark.parametrize("how", ["signed out", "expired"])
def test_rule_30_a_session_that_has_ended_leaves_nothing_in_the_manager(face: Face, how: str) -> None:
    """D1: its connections, addresses and resident values, and what is noted while they are stored, go with it."""
    user, socket = Key("user", str), Key("socket", list[int], resident=True)
    for number in range(5):
        browser = face.browser(f"10.1.2.{number}")
        with Connection(face) as connection:
            for client in (None, connection.client, connection.client):
                with browser.visit(client=client) as session:
                    session[user] = "ann"
                    session.update(socket, lambda before: [*before, 1], default=[])
            if how == "signed out":
                with browser.visit(client=connection.client) as session:
                    assert session[socket] == [1, 1, 1]
                    session.end()
    face.clock.advance(1_000)
    face.call(face.manager.sweep())
    parts: list[object] = [face.manager.core.clients, face.manager.core.residents]
    for part in parts:
        tables = {name: len(table) for name, table in vars(part).items() if isinstance(table, Sized)}
        assert len(tables) >= 2
        assert set(tables.values()) == {0}, tables
