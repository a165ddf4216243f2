"""Locks that nobody leaves locked, wherever a signal's handler raises: Ctrl-C, or a soft time limit.

Between `lock.acquire(timeout=...)` and the `try` after it Python lets handlers run. `with lock` is safe, and has no timeout.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from operator import methodcaller
from time import monotonic
from typing import final


@final
class Held:
    """The locks that one call has taken. `back()` belongs into a `finally`, whose `try` begins before `take`."""

    __slots__ = ("_locks", "back")

    def __init__(self) -> None:
        self._locks: list[threading.Lock] = []
        # One call in which no Python runs, as the one in `take`.
        self.back: Callable[[], object] = partial(deque, map(methodcaller("release"), self._locks), 0)

    def take(self, locks: Sequence[threading.Lock], until: float | None = None) -> bool:
        """Take them one after the other, each until a moment of `time.monotonic()` at the latest; whether that is all of them."""
        seconds = -1 if until is None else max(0.0, until - monotonic())
        self._locks.extend(filter(methodcaller("acquire", True, seconds), locks))
        return len(self._locks) == len(locks)
