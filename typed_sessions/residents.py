"""Values of resident keys: objects of this process, by session. They are never encoded, stored or saved."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple, final

ABSENT: Final = object()
"""Stands for a value that is not there, where None is a value."""


class ResidentChange(NamedTuple):
    """A new value (`ABSENT` removes it), or functions to apply to whatever is there."""

    name: str
    value: object
    functions: Sequence[Callable[[object], object]] = ()
    default: object = ABSENT


@final
class Residents:
    """A small table with versions, so that a function is applied outside the lock and again if someone else was faster."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sessions: dict[bytes, dict[str, object]] = {}

    def of(self, locator: bytes) -> Mapping[str, object]:
        """The session's values by key name."""
        return self._sessions.get(locator) or {}

    def apply(self, locator: bytes, changes: Sequence[ResidentChange]) -> dict[str, object]:
        """Apply changes one by one; the values that came of them (`ABSENT` for one that is gone)."""
        results: dict[str, object] = {}
        for change in changes:
            if not change.functions:
                with self._lock:
                    self._put(locator, change.name, change.value)
                results[change.name] = change.value
                continue
            while True:
                with self._lock:
                    before = self._sessions.get(locator, {}).get(change.name, ABSENT)
                value = change.default if before is ABSENT else before
                if value is ABSENT:
                    results[change.name] = ABSENT
                    break
                for function in change.functions:
                    value = function(value)
                with self._lock:
                    if self._sessions.get(locator, {}).get(change.name, ABSENT) is before:
                        self._put(locator, change.name, value)
                        results[change.name] = value
                        break
        return results

    def remove(self, locator: bytes, name: str, value: object) -> None:
        """Forget one value, if it is still this one."""
        with self._lock:
            if self._sessions.get(locator, {}).get(name, ABSENT) is value:
                self._put(locator, name, ABSENT)

    def drop(self, locator: bytes) -> Mapping[str, object]:
        """Forget a session; what it had."""
        with self._lock:
            return self._sessions.pop(locator, {})

    def _put(self, locator: bytes, name: str, value: object) -> None:
        values = dict(self._sessions.get(locator, {}))
        if value is ABSENT:
            values.pop(name, None)
        else:
            values[name] = value
        if values:
            self._sessions[locator] = values
        else:
            self._sessions.pop(locator, None)
