"""The timer wheel against a model that could not be simpler: a dictionary from key to time.

A pass over the wheel is what a sweep does: `begin`, then `take` until it gives fewer than asked for; what is not due yet is added again.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from typed_sessions.wheel import Wheel

START = 1_700_000_000.0


class Driver:
    """A wheel, the model, and a clock."""

    def __init__(self) -> None:
        self.wheel = Wheel()
        self.due: dict[int, float] = {}
        self.added: dict[int, tuple[float, float]] = {}
        self.now = START
        self.looks = 0

    def add(self, distance: float) -> None:
        key = len(self.added)
        self.due[key] = self.now + distance
        self.put(key)

    def put(self, key: int) -> None:
        self.added[key] = (self.now, self.due[key])
        self.wheel.add(key, self.due[key], self.now)

    def use(self, number: int, seconds: float) -> None:
        """A session is used: it comes due later, and the wheel is not told."""
        if self.due:
            key = sorted(self.due)[number % len(self.due)]
            self.due[key] += seconds

    def sweep(self, limit: int) -> list[int]:
        """One pass; what came due in it, which is exactly what the model says."""
        expected = sorted(key for key, due in self.due.items() if due <= self.now)
        over: list[int] = []
        seen: set[int] = set()
        self.wheel.begin(self.now)
        while True:
            keys = self.wheel.take(self.now, limit)
            assert len(keys) <= limit
            for key in keys:
                self.looks += 1
                assert key not in seen, "a pass looks at nothing twice, so it comes to an end"
                seen.add(key)
                if self.due[key] <= self.now:
                    over.append(key)
                    del self.due[key]
                else:
                    self.put(key)
            if len(keys) < limit:
                break
        assert sorted(over) == expected
        assert len(self.wheel) == sum(due < math.inf for due in self.due.values()), "nothing is lost and nothing is there twice"
        return over


distances = st.one_of(
    st.floats(-10, 200),
    st.floats(0, 1e7),
    st.sampled_from([0.0, 0.5, 1.0, 63.999, 64.0, 64.001, 600.0, 660.0, math.inf]),
    st.integers(0, 5000),
)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), distances),
        st.tuples(st.just("use"), st.integers(0, 99)),
        st.tuples(st.just("wait"), st.one_of(st.floats(0, 3), st.floats(0, 2000), st.floats(0, 1e7))),
        st.tuples(st.just("back"), st.floats(0, 100_000)),
        st.tuples(st.just("sweep"), st.integers(1, 5)),
    ),
    max_size=40,
)


def drive(driver: Driver, story: list[tuple[str, float]]) -> None:
    for step, amount in story:
        if step == "add":
            driver.add(amount)
        elif step == "use":
            driver.use(int(amount), 10.0 * amount)
        elif step == "wait":
            driver.now += amount
        elif step == "back":
            driver.now -= amount
        else:
            driver.sweep(int(amount))
    driver.sweep(3)
    driver.now = max([driver.now, *(due for due in driver.due.values() if due < math.inf)])
    driver.sweep(3)
    assert set(driver.due.values()) <= {math.inf}


@given(steps)
def test_a_pass_finds_what_is_due_and_nothing_else(story: list[tuple[str, float]]) -> None:
    """In every order of adding, using, waiting and sweeping, also when the clock goes back (L10); nothing is lost, no pass is endless."""
    drive(Driver(), story)


@given(st.lists(st.tuples(st.floats(0, 1e7), st.floats(0, 1e6)), min_size=1, max_size=20))
def test_an_entry_moves_only_when_its_bucket_begins(story: list[tuple[float, float]]) -> None:
    """What is looked at before its time is close to it: within a second, or a 32nd of the distance at which it was added."""
    driver = Driver()
    for distance, wait in story:
        driver.add(distance)
        driver.now += wait
        driver.wheel.begin(driver.now)
        while keys := driver.wheel.take(driver.now, 2):
            for key in keys:
                then, due = driver.added[key]
                assert due - driver.now <= max(1.0, (due - then) / 32)
                if due > driver.now:
                    driver.put(key)


@pytest.mark.parametrize("distance", [1, 60, 660, 86_460, 30 * 86_400, 1e9])
def test_the_way_to_the_end_is_short(distance: float) -> None:
    """Swept every second of its last hours, an entry of any distance is looked at a few times, not once a second."""
    driver = Driver()
    driver.add(distance)
    moments = {START + distance * part / 400 for part in range(401)} | {START + distance - seconds for seconds in range(200)}
    for driver.now in sorted(moment for moment in moments if moment >= START):
        driver.sweep(10)
    assert driver.due == {}
    assert driver.looks <= 8


def test_what_waits_for_its_moment_is_found_after_a_clock_was_ahead() -> None:
    """A pass that was too short to come to it belongs to the clock that was ahead; by the one that is right it is due as well."""
    wheel = Wheel()
    for key in range(20):
        wheel.add(key, START + 3_000, START)
    wheel.add(20, START + 0.9, START + 0.1)
    wheel.begin(START + 3_600)
    wheel.begin(START + 10)
    assert wheel.take(START + 10, 100) == [20]


def test_what_is_used_all_the_time_costs_a_look_per_timeout() -> None:
    """Rule 16: a session used every 30 seconds, with a timeout of 600, and a sweep every minute, for ten hours."""
    driver = Driver()
    driver.add(660)
    for _ in range(1200):
        driver.now += 30
        driver.due[0] = driver.now + 660
        driver.sweep(10)
    assert driver.looks <= 36_000 / 600


@pytest.mark.parametrize("method", ["begin", "add"])
def test_the_checks_can_fail(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wheel that forgets what waits for its second to be over, and one that rounds up, are caught."""
    add = Wheel.add

    def begin_nothing(wheel: Wheel, now: float) -> None:
        pass

    def add_late(wheel: Wheel, key: int, due: float, now: float) -> None:
        add(wheel, key, due + 1, now)

    broken: dict[str, Callable[..., None]] = {"begin": begin_nothing, "add": add_late}
    monkeypatch.setattr(Wheel, method, broken[method])
    with pytest.raises(AssertionError):
        drive(Driver(), [("add", 0.9), ("sweep", 3), ("wait", 0.95)])


class Shortened:
    """A wheel of sessions that may come due sooner than they were to, and the model."""

    def __init__(self) -> None:
        self.wheel = Wheel()
        self.due: dict[int, float] = {}
        self.now = START

    def add(self, distance: float) -> None:
        key = len(self.due)
        self.due[key] = self.now + distance
        self.wheel.add(key, self.due[key], self.now)

    def move(self, number: int, distance: float) -> None:
        """Only what comes sooner is told."""
        if self.due:
            key = number % len(self.due)
            before, self.due[key] = self.due[key], self.now + distance
            if self.due[key] < before:
                self.wheel.sooner(key, self.due[key], self.now)

    def sweep(self, limit: int) -> set[int]:
        """What came due in a pass."""
        over: set[int] = set()
        self.wheel.begin(self.now)
        while True:
            keys = self.wheel.take(self.now, limit)
            for key in dict.fromkeys(keys):
                if self.due[key] > self.now:
                    self.wheel.again(key, self.due[key], self.now)
                else:
                    self.wheel.forget(key)
                    over.add(key)
                    self.due[key] = math.inf
            if len(keys) < limit:
                return over


moves = st.lists(
    st.one_of(
        st.tuples(st.just("add"), distances, st.just(0)),
        st.tuples(st.just("move"), distances, st.integers(0, 9)),
        st.tuples(st.just("move"), st.sampled_from([60.0, 3_600.0, 86_400.0]), st.integers(0, 2)),
        st.tuples(st.just("wait"), st.one_of(st.floats(0, 3), st.floats(0, 2000), st.floats(0, 1e7)), st.just(0)),
        st.tuples(st.just("back"), st.floats(0, 100_000), st.just(0)),
        st.tuples(st.just("sweep"), st.just(0), st.integers(1, 5)),
    ),
    max_size=60,
)


@given(moves)
def test_what_comes_due_sooner_is_found_in_its_time(story: list[tuple[str, float, int]]) -> None:
    """However often it goes up and down, also when the clock goes back: a pass finds all that is due, and in the end nothing is left."""
    driver = Shortened()
    for step, amount, number in story:
        if step == "add":
            driver.add(amount)
        elif step == "move":
            driver.move(number, amount)
        elif step in ("wait", "back"):
            driver.now += amount if step == "wait" else -amount
        else:
            expected = {key for key, due in driver.due.items() if due <= driver.now}
            assert driver.sweep(number) >= expected
    driver.now = max([driver.now, START, *(due for due in driver.due.values() if due < math.inf)]) + 1e9
    driver.sweep(3)
    assert set(driver.due.values()) <= {math.inf}
    assert (len(driver.wheel), getattr(driver.wheel, "_more")) == (0, {})  # noqa: B009  # what grows there is seen nowhere else


def test_what_goes_up_and_down_is_found_in_its_time_in_every_order() -> None:
    """Shorter, longer, never, and passes soon and later, every five of them: nothing is found late, or kept in the end."""
    for story in itertools.product(
        [("move", 60.0), ("move", 600.0), ("move", 3_600.0), ("move", math.inf), ("wait", 50.0), ("wait", 500.0)], repeat=5
    ):
        driver = Shortened()
        driver.add(3_600.0)
        for step, amount in (*story, ("wait", 700.0), ("wait", 1e9)):
            if step == "move":
                driver.move(0, amount)
                continue
            driver.now += amount
            expected = {key for key, due in driver.due.items() if due <= driver.now}
            assert driver.sweep(10) == expected, story
        assert (len(driver.wheel), getattr(driver.wheel, "_more")) == (0, {}), story  # noqa: B009


@pytest.mark.parametrize("short", [1.0, 60.0, 86_400.0])
@pytest.mark.parametrize("swept", [True, False])
def test_a_timeout_that_goes_up_and_down_leaves_no_entries_behind(short: float, swept: bool) -> None:
    """D1: two or three entries of one session, not one for each time, or for each time that the shorter one is over."""
    driver = Shortened()
    driver.add(30 * 86_400)
    for number in range(3_000):
        driver.now += short / 10
        driver.move(0, 30 * 86_400 if number % 2 else short)
        if swept:
            driver.sweep(10)
        assert len(driver.wheel) <= 3


@pytest.mark.parametrize("seed", range(5))
def test_what_is_gone_leaves_before_its_time_and_what_lives_stays(seed: int) -> None:
    """Of keys that come and are forgotten for months of their time, at most as many entries stay as there are keys, and a thousand."""
    draw = random.Random(seed)
    wheel, due = Wheel(), dict[int, float]()
    now, most = START, 0
    for key in range(20_000):
        now += draw.random()
        due[key] = now + draw.choice([5.0, 3_600.0, 30 * 86_400.0, 90 * 86_400.0])
        wheel.add(key, due[key], now)
        if len(due) > draw.choice([100, 2_000, 4_000]):
            gone = key - draw.randrange(100)
            if due.pop(gone, None) is not None:
                wheel.forget(gone)
                wheel.tidy(len(due), due.__contains__)
        if draw.random() < 0.01:
            wheel.begin(now)
            for taken in wheel.take(now, 50):
                if taken in due and due[taken] > now:
                    wheel.add(taken, due[taken], now)
                else:
                    due.pop(taken, None)
        most = max(most, len(wheel) - 2 * len(due))
    assert most < 2_500
    later = now + 1e9
    wheel.begin(later)
    assert set(due) <= set(wheel.take(later, 100_000))
    assert len(wheel) == 0
