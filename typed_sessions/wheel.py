"""When something comes due: a timer wheel whose entries move only when their bucket does. It knows no records and no locks.

A bucket is as wide as its distance is far (a 64th of it, at least a second), so that there are a few hundred buckets
however long the timeouts are. An entry in a far bucket is looked at when that bucket begins, and put into a nearer one if
it is not due yet; so a session that is used all the time costs one look per timeout, not one per use.
"""

from __future__ import annotations

import heapq
import math
from typing import final


@final
class Wheel:
    __slots__ = ("_buckets", "_far", "_last", "_near", "_starts", "_waiting")

    def __init__(self) -> None:
        self._buckets: dict[float, list[int]] = {}
        self._starts: list[float] = []
        # The bucket that was last added to, with its bounds: of sessions that begin one after the other most come due together.
        self._near = self._far = math.inf
        self._last: list[int] = []
        # A heap of what comes due within the running second: it waits here, or `take` would find it again and again.
        self._waiting: list[tuple[float, int]] = []

    def add(self, key: int, due: float, now: float) -> None:
        """Look at `key` again when `due` comes (seconds since 1970; infinity is never)."""
        if now < self._near <= due < self._far:
            self._last.append(key)
            return
        if due == math.inf:
            return
        distance = due - now
        width = 2.0 ** max(0, math.frexp(distance / 64)[1]) if distance > 64 else 1.0
        start = math.floor(due / width) * width
        if start <= now < due:
            heapq.heappush(self._waiting, (due, key))
            return
        bucket = self._buckets.get(start)
        if bucket is None:
            bucket = self._buckets[start] = [key]
            heapq.heappush(self._starts, start)
        else:
            bucket.append(key)
        self._near, self._far, self._last = start, start + width, bucket

    def begin(self, now: float) -> None:
        """A pass over what is due at `now` begins: entries that have waited for their moment are looked at once more."""
        waiting = self._waiting
        if not waiting or waiting[0][0] > now:
            return
        keys: list[int] = []
        while waiting and waiting[0][0] <= now:
            keys.append(heapq.heappop(waiting)[1])
        start = math.floor(now)
        if start in self._buckets:
            self._buckets[start].extend(keys)
        else:
            self._buckets[start] = keys
            heapq.heappush(self._starts, start)

    def take(self, now: float, limit: int) -> list[int]:
        """At most `limit` keys whose bucket has begun; they are out of the wheel then. Nothing is due where it returns fewer."""
        taken: list[int] = []
        while self._starts and self._starts[0] <= now and len(taken) < limit:
            bucket = self._buckets[self._starts[0]]
            room = limit - len(taken)
            taken += bucket[-room:]
            del bucket[-room:]
            if not bucket:
                if bucket is self._last:
                    self._near = math.inf
                del self._buckets[heapq.heappop(self._starts)]
        return taken

    def __len__(self) -> int:
        return sum(map(len, self._buckets.values())) + len(self._waiting)
