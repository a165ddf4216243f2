"""Who makes room in a full memory store: sessions that only their first request has used. It knows no records and no locks."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import final

_GLANCES = 512
"""How many sessions one request looks at, at most, for one that makes room."""
_STEPS = 4
"""How many are looked at whenever one comes, where the queues are long."""
_SLACK = 1_000


@final
class Guests:
    """The keys of sessions, in the order in which they came. Whoever calls it holds a lock of his own, but not to add to `newer`.

    Nothing is taken out when one is used a second time, or goes: whether it is still a guest, `unused` tells. Where the queues are twice as
    long as there are sessions, `newer` is gone through from the left, a few whenever one comes, and what is still unused goes over to the
    other queue: so the oldest is at the left of that, if it has any, and the queues never grow for good.
    """

    __slots__ = ("_older", "count", "newer")

    def __init__(self) -> None:
        self._older: deque[int] = deque()
        self.newer: deque[int] = deque()
        self.count: int = 0
        """How many there are; some may be only just being created, and in no queue yet."""

    def are_many(self, sessions: int) -> bool:
        """Whether the queues are too long for so many sessions, and want `tidy`."""
        return len(self.newer) + len(self._older) > 2 * sessions + _SLACK

    def tidy(self, unused: Callable[[int], bool]) -> None:
        """Go on a little in clearing the queues of what no longer belongs there."""
        for _ in range(min(_STEPS, len(self.newer))):
            candidate = self.newer.popleft()
            if unused(candidate):
                self._older.append(candidate)
        if not self.newer:
            self._older, self.newer = self.newer, self._older

    def oldest(self, unused: Callable[[int], bool]) -> int | None:
        """Take out the oldest session that no second request has used, if a few looks find it."""
        for _ in range(_GLANCES):
            queue = self._older or self.newer
            if not queue:
                break
            key = queue.popleft()
            if unused(key):
                return key
        return None

    def may_be_found(self) -> bool:
        """Whether looking on may find one. With none in the queues, those that are counted are only just being created."""
        return self.count > 0 and bool(self._older or self.newer)
