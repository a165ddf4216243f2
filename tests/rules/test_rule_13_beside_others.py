"""Rule 13 among several processes: what one cannot read waits for one that can, and what one is at, no other does again."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from tests.faces import Browser, Face
from tests.planting import heard
from tests.rules.scene import handle_of
from tests.watched import Watched
from typed_sessions import End, Key, ListKey, SealingKeys
from typed_sessions.testing import FakeClock, isolated_keys

Declare = Callable[[Callable[[Any], None]], Any]

LEASE = 60.0
OLDER, NEWER = b"o" * 32, b"n" * 32


def sweep(face: Face, manager: Any, times: int = 1) -> None:
    """As often, each time when whatever lease there was is over."""
    for _ in range(times):
        face.clock.advance(LEASE)
        face.call(manager.sweep())


def as_list(old: Any, version: int) -> list[str]:
    return [old]


def same(clean: Callable[[Any], None]) -> Any:
    return Key("stock", str, cleanup_delete=clean)


def newer(clean: Callable[[Any], None]) -> Any:
    return Key("stock", list[str], version=2, upgrade=as_list, cleanup_delete=clean)


def renamed(clean: Callable[[Any], None]) -> Any:
    return Key("shelf", list[str], version=2, was="stock", upgrade=as_list, cleanup_delete=clean)


def a_list(clean: Callable[[Any], None]) -> Any:
    return ListKey("stock", str)


def resident(clean: Callable[[Any], None]) -> Any:
    return Key("stock", str, resident=True, cleanup_delete=clean)


UNREADABLE: dict[str, tuple[Declare, Any, Declare, dict[str, Any], dict[str, Any]]] = {
    # the new code's key and value, the old code's key, and what the managers of both are told
    "a newer version": (newer, ["book"], same, {}, {}),
    "a newer version of another name": (renamed, ["book"], same, {}, {}),
    "sealed since": (same, "book", same, {"seal": SealingKeys([NEWER], read_plain=True)}, {}),
    "sealed with a newer key": (same, "book", same, {"seal": SealingKeys([NEWER, OLDER])}, {"seal": SealingKeys([OLDER])}),
    "a list before": (same, "book", a_list, {}, {}),
    "resident before": (same, "book", resident, {}, {}),
}


def ended_by_its_request(face: Face, browser: Browser, handle: str) -> None:
    with browser.visit() as session:
        session.end()


def ended_by_handle(face: Face, browser: Browser, handle: str) -> None:
    assert face.call(face.manager.end(handle))


def swept(face: Face, browser: Browser, handle: str) -> None:
    face.clock.advance(660)
    assert face.call(face.manager.sweep()) == 1


@pytest.mark.parametrize("how", [ended_by_its_request, ended_by_handle, swept], ids=lambda how: how.__name__)
@pytest.mark.parametrize("case", UNREADABLE.values(), ids=UNREADABLE.keys())
def test_rule_13_what_older_code_cannot_read_waits_for_newer_code(
    face: Face, case: tuple[Any, ...], how: Callable[[Face, Browser, str], None], caplog: pytest.LogCaptureFixture
) -> None:
    """In a rolling deployment old code ends a session of new code: the hook of a value that it cannot read runs there, once.

    What it can read it cleans up at once. It says what it refuses once, and not after each lease.
    """
    now_declare, value, old_declare, now_options, old_options = case
    cleaned: list[Any] = []
    new, old = face.another(**now_options), face.another(**old_options)
    browser = face.browser()
    ends = [event for manager in (new, old) for event in [heard(face, End, manager)]]
    face.manager = new
    with isolated_keys():
        key = now_declare(cleaned.append)
        with browser.visit() as session:
            session[key] = value
        handle = handle_of(browser)
    with isolated_keys():
        face.manager = old
        if "seal" not in old_options and "seal" not in now_options:
            with browser.visit() as session:
                session[Key("readable", str, cleanup_delete=cleaned.append)] = "pen"
        old_declare(cleaned.append)
        caplog.clear()
        how(face, browser, handle)
        readable = cleaned[:]
        assert readable in ([], ["pen"])
        with caplog.at_level(logging.WARNING):
            sweep(face, old, 5)
        assert cleaned == readable
    assert len([record for record in caplog.records if "was refused" in record.getMessage()]) <= 1
    with isolated_keys():
        Key("readable", str, cleanup_delete=cleaned.append)
        now_declare(cleaned.append)
        sweep(face, new, 3)
        assert cleaned == [*readable, value]
        assert [len(events) for events in ends] == [0, 1]


def test_rule_13_what_nobody_can_read_waits_for_reap_grace(make_face: Callable[..., Face]) -> None:
    """And not longer: it is gone then, without a hook."""
    face = make_face(reap_grace=1000)
    cleaned: list[Any] = []
    browser = face.browser()
    with isolated_keys(), browser.visit() as session:
        session[newer(cleaned.append)] = ["book"]
    with isolated_keys():
        same(cleaned.append)
        with browser.visit() as session:
            session.end()
        face.clock.advance(1000)
        sweep(face, face.manager, 2)
        face.clock.advance(-1000)
    with isolated_keys():
        newer(cleaned.append)
        sweep(face, face.manager, 20)
    assert cleaned == []


def left_behind(face: Face, count: int) -> None:
    """Sessions that are over, with a value each whose key this process has not got."""
    with isolated_keys():
        stock = Key("stock", int, cleanup_delete=lambda _: None)
        for number in range(count):
            with face.browser().visit() as session:
                session[stock] = number
    face.clock.advance(660)


def test_rule_13_what_is_claimed_again_has_not_ended_again(face: Face) -> None:
    """A release without a key that had hooks: `sweep()` counts an end once, and is asked again less and less often what it cannot do."""
    watched = face.manager.core.store = Watched(face.store)
    left_behind(face, 5)
    ends = heard(face, End)
    with isolated_keys():
        assert face.call(face.manager.sweep()) == 5
        for _ in range(30):
            face.clock.advance(LEASE)
            assert face.call(face.manager.sweep()) == 0
    assert len(ends) == 5
    assert watched.calls["clear"] == 0


def test_rule_13_a_sweep_of_what_nobody_can_clean_up_has_an_end(make_face: Callable[..., Face]) -> None:
    """Also where to look at all of it takes longer than the lease, and the first comes due again before the last has been looked at."""
    clock, passed = FakeClock(), 0.0
    begin = clock()

    def slow() -> float:
        clock.advance(passed)
        assert clock() < begin + 7_200, "still sweeping"
        return clock()

    face = make_face(clock=slow)
    face.clock = clock
    left_behind(face, 100)
    with isolated_keys():
        assert face.call(face.manager.sweep()) == 100
        clock.advance(LEASE)
        passed = 1.0
        assert face.call(face.manager.sweep()) == 0


COUNT = 32
"""As many as a sweep claims at once."""


def due(face: Face, key: Key[int]) -> None:
    """Sessions that are over, with a value each."""
    for number in range(COUNT):
        with face.browser().visit() as session:
            session[key] = number
    face.clock.advance(660)


@pytest.mark.parametrize("seconds", [2.5, 9.0])
def test_rule_13_slow_hooks_run_once_beside_another_sweeper(face: Face, seconds: float) -> None:
    """Hooks that together take longer than a lease: what has not begun when it is nearly over is left, and nothing runs twice."""
    ran: Counter[int] = Counter()
    other = face.another()
    sweeping = False

    def clean(value: int) -> None:
        nonlocal sweeping
        ran[value] += 1
        face.clock.advance(seconds)
        if not sweeping:
            sweeping = True
            face.call(other.sweep())
            sweeping = False

    ends = [heard(face, End, manager) for manager in (face.manager, other)]
    due(face, Key("stock", int, cleanup_delete=clean))
    for _ in range(COUNT):
        face.call(face.manager.sweep())
        face.clock.advance(LEASE)
    assert ran == dict.fromkeys(range(COUNT), 1)
    assert sum(map(len, ends)) == COUNT


def test_rule_13_only_the_hook_that_was_stopped_runs_twice(face: Face) -> None:
    """A process that stands still for longer than its lease, in the middle of a hook, finds the others' done by somebody else."""
    ran: Counter[int] = Counter()
    other = face.another()

    def clean(value: int) -> None:
        ran[value] += 1
        if ran.total() == 7:
            face.clock.advance(LEASE)
            face.call(other.sweep())

    due(face, Key("stock", int, cleanup_delete=clean))
    face.call(face.manager.sweep())
    for _ in range(3):
        sweep(face, other)
    assert sorted(ran.values()) == [1] * (COUNT - 1) + [2]
    assert set(ran) == set(range(COUNT))


def test_rule_13_without_hooks_a_slow_sweep_is_no_different(face: Face) -> None:
    """Sessions without hooked values are told in one sweep, however long the listeners take."""
    ends: list[str] = []

    def hear(event: End) -> None:
        ends.append(event.session.handle)
        face.clock.advance(LEASE)

    face.manager.on(End, hear)
    due(face, Key("stock", int))
    assert face.call(face.manager.sweep()) == COUNT
    assert len(set(ends)) == len(ends) == COUNT


def test_rule_13_what_nobody_can_read_costs_no_clearing(face: Face) -> None:
    """It comes back after each lease, for as long as it is kept, and there is nothing to clear any more."""
    with isolated_keys():
        key = newer(print)
        browser = face.browser()
        with browser.visit() as session:
            session[key] = ["book"]
        face.call(face.manager.end(handle_of(browser)))  # its hook runs: the next one's does not
        with browser.visit() as session:
            session[key] = ["book"]
        handle = handle_of(browser)
    same(print)
    face.store = Watched(face.store)
    face.renew()
    face.call(face.manager.end(handle))
    sweep(face, face.manager, 3)
    assert face.store.calls["clear"] == 0
