"""The time, in seconds since 1970, that only ever moves as time does."""

from __future__ import annotations

import time
from collections.abc import Callable


def steady_clock(
    wall: Callable[[], float] = time.time,
    steady: Callable[[], float] | None = None,
) -> Callable[[], float]:
    """A clock that starts with the wall clock's time and goes on with a steady one.

    A wall clock that is set forward by a day would end every session at once, and one set back would make them live longer (L10).
    The steady one is CLOCK_BOOTTIME where there is one, since a machine that sleeps should not keep its sessions from ageing.
    """
    if steady is None:
        boottime = getattr(time, "CLOCK_BOOTTIME", None)
        if boottime is not None:
            read = time.clock_gettime
            ahead = wall() - read(boottime)
            return lambda: ahead + read(boottime)
        steady = time.monotonic
    source, offset = steady, wall() - steady()
    return lambda: offset + source()
