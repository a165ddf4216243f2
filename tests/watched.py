"""A store behind glass: it passes every verb on, counts the calls, and fails where it is told to."""

from __future__ import annotations

import inspect
from collections import Counter
from typing import Any

VERBS = frozenset({"create", "open", "touch", "commit", "end", "sweep", "clear", "scan"})


class Watched:
    """Any store, sync or async, with `calls` (how often each verb was called) and `faults` (what a verb raises instead of answering).

    A fault in `lost` is raised after the verb has done its work: the answer, not the question, is what gets lost.
    """

    def __init__(self, store: Any, *, blocking: bool | None = None) -> None:
        self.store = store
        self.calls: Counter[str] = Counter()
        self.faults: dict[str, BaseException] = {}
        self.lost: dict[str, BaseException] = {}
        self._blocking = blocking

    @property
    def blocking(self) -> bool:
        blocking: bool = self.store.blocking if self._blocking is None else self._blocking
        return blocking

    def __getattr__(self, name: str) -> Any:
        inner = getattr(self.store, name)
        if name not in VERBS:
            return inner
        if not inspect.iscoroutinefunction(inner):

            def verb(*args: Any) -> Any:
                self._before(name)
                result = inner(*args)
                self._after(name)
                return result

            return verb

        async def awaited(*args: Any) -> Any:
            self._before(name)
            result = await inner(*args)
            self._after(name)
            return result

        return awaited

    def _before(self, name: str) -> None:
        self.calls[name] += 1
        if name in self.faults:
            raise self.faults[name]

    def _after(self, name: str) -> None:
        if name in self.lost:
            raise self.lost[name]

    @property
    def trips(self) -> int:
        """How often the store was asked anything."""
        return sum(self.calls.values())
