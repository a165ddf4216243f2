"""The time, in seconds since 1970, that moves as time does: a wall clock that steps is followed, but slowly."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial
from typing import Final

SLEW: Final = 1 / 20
"""By what part faster or slower than time this clock goes while it follows the wall clock: half of what `granularity` is of a timeout."""
_LOOK: Final = 1.0
"""Seconds after which the wall clock is looked at again."""
_NEAR: Final = 0.1
"""Seconds that the two may be apart."""


def steady_clock(
    wall: Callable[[], float] = time.time,
    steady: Callable[[], float] | None = None,
) -> Callable[[], float]:
    """A clock that starts with the wall clock's time and goes on with a steady one; it never goes back, and never jumps.

    A wall clock that is set forward by a day would end every session at once, and one set back would make them live longer (L10). But if
    the steady one alone counted, a process that began before its machine had learned the time, or in a virtual machine that was halted,
    would be wrong for as long as it runs, and write times that other nodes take for old ones. So what is between the two is made up for,
    at a twentieth of the time that passes: an hour in 20 hours.

    The steady one is CLOCK_BOOTTIME where there is one, since a machine that sleeps should not keep its sessions from ageing.
    """
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    if steady is not None:
        read = steady
    elif boottime is not None:
        read = partial(time.clock_gettime, boottime)
    else:
        read = time.monotonic
    begin = read()
    # Each a tuple, which a thread reads whole: what is added to the steady clock, and until when that is all; and what is added, how far
    # the wall clock was ahead of that, when that was, and when to look again.
    plain = (wall() - begin, begin + _LOOK)
    seen = (plain[0], 0.0, begin, plain[1])

    def now() -> float:
        added, due = plain
        at = read()
        return added + at if at < due else look(at)

    def look(at: float) -> float:
        nonlocal plain, seen
        added, ahead, since, due = seen
        added += _made_up(ahead, at - since)
        if at >= due:
            ahead = wall() - added - at
            due = at + _LOOK
            seen = (added, ahead if abs(ahead) > _NEAR else 0.0, at, due)
            plain = (added, due if abs(ahead) <= _NEAR else -math.inf)
        return added + at

    return now


def _made_up(ahead: float, passed: float) -> float:
    """How much of a difference is made up for after so many seconds."""
    most = max(passed, 0.0) * SLEW
    return max(-most, min(ahead, most))
