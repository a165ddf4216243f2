"""When something comes due: a timer wheel whose entries move only when their bucket does. It knows no records and no locks.

A bucket is as wide as its distance is far (a 64th of it, at least a second), so that there are a few hundred buckets
however long the timeouts are. An entry in a far bucket is looked at when that bucket begins, and put into a nearer one if
it is not due yet; so a session that is used all the time costs one look per timeout, not one per use.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from typing import final

_LOOKS = 4
"""At how many entries each call of `tidy` looks."""
_SLACK = 1_000


@final
class Wheel:
    """Keys by when somebody has to look at them. Whoever calls it holds a lock of his own."""

    __slots__ = ("_buckets", "_far", "_last", "_more", "_near", "_place", "_round", "_size", "_starts", "_waiting")

    def __init__(self) -> None:
        self._buckets: dict[float, list[int]] = {}
        self._starts: list[float] = []
        # The bucket that was last added to, with its bounds: of sessions that begin one after the other most come due together.
        self._near = self._far = math.inf
        self._last: list[int] = []
        # A heap of what comes due within the running second: it waits here, or `take` would find it again and again.
        self._waiting: list[tuple[float, int]] = []
        # By key, where there is more than one entry of it: when those that `add` does not know of are given out.
        self._more: dict[int, list[float]] = {}
        self._size = 0
        # The buckets that `tidy` has not come to in this round, and how far it is in the last of them.
        self._round: list[list[int]] = []
        self._place = 0

    def add(self, key: int, due: float, now: float) -> float:
        """Look at `key` when `due` comes (seconds since 1970; infinity is never). When `take` gives it out, at the soonest."""
        if now < self._near <= due < self._far:
            self._last.append(key)
            self._size += 1
            return self._near
        if due == math.inf:
            return due
        self._size += 1
        distance = due - now
        width = 2.0 ** max(0, math.frexp(distance / 64)[1]) if distance > 64 else 1.0
        start = math.floor(due / width) * width
        if start <= now < due:
            heapq.heappush(self._waiting, (due, key))
            return due
        bucket = self._buckets.get(start)
        if bucket is None:
            bucket = self._buckets[start] = [key]
            heapq.heappush(self._starts, start)
        else:
            bucket.append(key)
        self._near, self._far, self._last = start, start + width, bucket
        return start

    def sooner(self, key: int, due: float, now: float) -> None:
        """`key`, which is in here, comes due sooner than before: one more entry, unless one of these calls has made one in time."""
        whens = self._more.setdefault(key, [])
        if not whens or min(whens) > due:
            whens.append(self.add(key, due, now))

    def again(self, key: int, due: float, now: float) -> None:
        """`take` has given out a key that is not due yet: it is added again, if it has no other entry that comes in time."""
        whens = self._more.get(key)
        if whens is None:
            self.add(key, due, now)
            return
        left = [when for when in whens if when > now]
        if left and min(left) <= due:
            if len(left) == len(whens) == 1:
                left = []  # what was given out is the one of `add`, and so this is the only one
        elif due < math.inf:
            left.append(self.add(key, due, now))
        if left:
            self._more[key] = left
        else:
            del self._more[key]

    def forget(self, key: int) -> None:
        """Nothing comes of the entries of this key any more, however many there are."""
        self._more.pop(key, None)

    def tidy(self, alive: int, lives: Callable[[int], bool]) -> None:
        """A key was forgotten, and so many others live: where entries of the dead could be most of all, a few of them are dropped.

        Otherwise what comes and goes would stay in here until its time comes, which may be in months.
        """
        if self._size <= 2 * alive + _SLACK:
            return
        if not self._round:
            self._round, self._place = list(self._buckets.values()), 0
        for _ in range(_LOOKS):
            bucket = self._round[-1]
            if self._place < len(bucket):
                key = bucket[self._place]
                if lives(key):
                    self._place += 1
                    continue
                # The order within a bucket is of no account.
                bucket[self._place] = bucket[-1]
                bucket.pop()
                self._size -= 1
                self._more.pop(key, None)
            else:
                self._round.pop()
                self._place = 0
                if not self._round:
                    return

    def begin(self, now: float) -> None:
        """A pass over what is due at `now` begins: entries that have waited for their moment are looked at once more."""
        waiting = self._waiting
        if not waiting or waiting[0][0] > now:
            return
        while waiting and waiting[0][0] <= now:
            due, key = heapq.heappop(waiting)
            start = math.floor(due)  # and not of now: a clock that is ahead may be put back before it is looked at
            if start in self._buckets:
                self._buckets[start].append(key)
            else:
                self._buckets[start] = [key]
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
        self._size -= len(taken)
        return taken

    def __len__(self) -> int:
        return self._size
