"""The manager's own clock: it moves as time does, and goes after a wall clock that steps."""

from __future__ import annotations

import time

from hypothesis import given, settings
from hypothesis import strategies as st

from typed_sessions import SessionManager
from typed_sessions.clock import SLEW, steady_clock
from typed_sessions.testing import FakeClock

HOUR = 3_600.0


def test_it_is_the_wall_clock_to_begin_with() -> None:
    """A manager that is given no clock counts from 1970."""
    assert abs(steady_clock()() - time.time()) < 5
    assert abs(SessionManager().core.clock() - time.time()) < 5


def test_one_that_began_before_its_machine_knew_the_time_is_right_in_the_end() -> None:
    """Five minutes behind the other nodes, or ahead of them, it is with them two hours later, and did not jump."""
    for step in (300.0, -300.0):
        wall, steady = FakeClock(1_700_000_000), FakeClock(500)
        now = steady_clock(wall, steady)
        wall.advance(step)
        before = now()
        for _ in range(7_200):
            wall.advance(1)
            steady.advance(1)
            assert 1 - SLEW - 1e-6 <= now() - before <= 1 + SLEW + 1e-6
            before = now()
        assert abs(now() - wall()) <= 0.1


def test_one_that_nobody_asked_for_hours_is_no_worse_for_it() -> None:
    """What it has made up for since it looked last ends where the wall clock was; it does not overshoot."""
    wall, steady = FakeClock(1_700_000_000), FakeClock(500)
    now = steady_clock(wall, steady)
    wall.advance(60)
    steady.advance(2)
    wall.advance(2)
    now()
    steady.advance(10 * HOUR)
    wall.advance(10 * HOUR)
    assert abs(now() - wall()) <= 0.1


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 5_000), st.floats(-2_000, 2_000)), max_size=40))
def test_it_never_goes_back_and_never_jumps(steps: list[tuple[float, float]]) -> None:
    """Whatever the wall clock does, between two looks it has gone as far as time has, by a twentieth more or less."""
    wall, steady = FakeClock(1_700_000_000), FakeClock(500)
    now = steady_clock(wall, steady)
    before = now()
    for passed, stepped in steps:
        steady.advance(passed)
        wall.advance(passed + stepped)
        after = now()
        assert passed * (1 - SLEW) - 1e-3 <= after - before <= passed * (1 + SLEW) + 1e-3
        before = after
