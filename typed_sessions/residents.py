"""Values of resident keys: objects of this process, by session. They are never encoded, stored or saved."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final, NamedTuple, final

from typing_extensions import override

from .forks import tell_of_forks
from .record import Record

logger: logging.Logger = logging.getLogger("typed_sessions")


@final
class _Absent:
    @override
    def __repr__(self) -> str:
        return "<nothing>"


ABSENT: Final[object] = _Absent()
"""Stands for a value that is not there, where None is a value."""


class ResidentChange(NamedTuple):
    """A new value (`ABSENT` removes it), or functions to apply to whatever is there."""

    name: str
    value: object
    functions: Sequence[Callable[[object], object]] = ()
    default: object = ABSENT


class Made(NamedTuple):
    """What the functions of a change have made `of` a value."""

    of: object
    value: object


@final
class Residents:
    """A small table with versions, so that a function is applied outside the lock and again if someone else was faster."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sessions: dict[bytes, dict[str, object]] = {}
        # Commits under way that bring values, by session: how many, and whether the session has ended meanwhile.
        self._expected: dict[bytes, tuple[int, bool]] = {}
        # Sessions that have values and are still to be looked for in this round, and those that were missed in the last one.
        self._round: list[bytes] = []
        self._missed: set[bytes] = set()
        # Sessions that have values, and whose end this process is telling: `drop` comes when that is done.
        self._telling: set[bytes] = set()
        tell_of_forks(self)

    def after_fork(self) -> None:
        """In the child of a fork."""
        self._lock = threading.Lock()

    @property
    def busy(self) -> bool:
        """Whether any session has any value."""
        return bool(self._sessions)

    def of(self, locator: bytes) -> Mapping[str, object]:
        """The session's values by key name."""
        return self._sessions.get(locator) or {}

    def try_out(
        self, locator: bytes, changes: Sequence[ResidentChange], known: Mapping[str, Made] = MappingProxyType({})
    ) -> dict[str, Made]:
        """What functions make of the values that are there now, by name; `known` is what this has given before.

        Before anything is stored, so that what a function raises goes to its request, and nothing has been applied (rule 7).
        """
        made: dict[str, Made] = {}
        removed: set[str] = set()
        for change in changes:
            if change.functions:
                before = ABSENT if change.name in removed else self.of(locator).get(change.name, ABSENT)
                one = known.get(change.name)
                made[change.name] = one if one is not None and one.of is before else Made(before, _made(change, before))
            elif change.value is ABSENT:
                removed.add(change.name)
        return made

    def apply(self, locator: bytes, changes: Sequence[ResidentChange], made: Mapping[str, Made], lost: list[str]) -> dict[str, object]:
        """Apply changes one by one; the values that came of them (`ABSENT` for one that is gone). `made` is what `try_out` gave.

        The store has committed. If somebody was faster since, functions are applied again: what one raises then can only be reported, and
        its name is added to `lost`.
        """
        values: dict[str, object] = {}
        for change in changes:
            try:
                if change.functions:
                    value = self._update(locator, change, made.get(change.name))
                else:
                    value = self._set(locator, change.name, change.value)
            except Exception:
                logger.exception("a function given to update() of %r raised when all else was stored; the value stays", change.name)
                lost.append(change.name)
                value = self.of(locator).get(change.name, ABSENT)
            values[change.name] = value
        return values

    def some(self, limit: int) -> list[bytes]:
        """Some of the sessions that have values, others each time, until it was everybody's turn."""
        with self._lock:
            if not self._round:
                self._round = list(self._sessions)
            taken = self._round[-limit:]
            del self._round[-limit:]
            return [locator for locator in taken if locator in self._sessions and locator not in self._telling]

    def tells(self, records: Sequence[Record]) -> None:
        """This process has ended these sessions, and cleans up after its listeners have heard of it."""
        if self._sessions:
            with self._lock:
                self._telling.update(record.locator for record in records if record.locator in self._sessions)

    def missed(self, locator: bytes, missing: bool) -> bool:
        """Whether a session is missing now and was at its last turn too: then it is not one that this process has ended just now."""
        with self._lock:
            if locator in self._telling or locator not in self._sessions:
                self._missed.discard(locator)
                return False
            before = locator in self._missed
            if missing and not before:
                self._missed.add(locator)
            else:
                self._missed.discard(locator)
            return missing and before

    def expect(self, locator: bytes) -> None:
        """A commit that brings values is under way; `settle` tells it what it has put into a session that has ended meanwhile."""
        with self._lock:
            count, ended = self._expected.get(locator, (0, False))
            self._expected[locator] = (count + 1, ended)

    def settle(self, locator: bytes) -> Mapping[str, object]:
        """The commit is over: the values whose clean-up falls to it, since the one at the end of the session came before them."""
        with self._lock:
            count, ended = self._expected.pop(locator)
            if count > 1:
                self._expected[locator] = (count - 1, ended)
            return self._sessions.pop(locator, {}) if ended else {}

    def _set(self, locator: bytes, name: str, value: object) -> object:
        with self._lock:
            dropped = self._put(locator, name, value)
        del dropped  # with the lock free again: a destructor may come back here (rule 10)
        return value

    def _update(self, locator: bytes, change: ResidentChange, made: Made | None) -> object:
        while True:
            before = self.of(locator).get(change.name, ABSENT)
            value = made.value if made is not None and made.of is before else _made(change, before)
            with self._lock:
                applied = self.of(locator).get(change.name, ABSENT) is before
                dropped = self._put(locator, change.name, value) if applied else None
            del dropped
            if applied:
                return value

    def remove(self, locator: bytes, name: str, value: object) -> None:
        """Forget one value, if it is still this one."""
        with self._lock:
            applied = self.of(locator).get(name, ABSENT) is value
            dropped = self._put(locator, name, ABSENT) if applied else None
        del dropped

    def drop(self, locator: bytes) -> Mapping[str, object]:
        """Forget a session; what it had."""
        with self._lock:
            if locator in self._expected:
                self._expected[locator] = (self._expected[locator][0], True)
            self._telling.discard(locator)
            self._missed.discard(locator)
            return self._sessions.pop(locator, {})

    def _put(self, locator: bytes, name: str, value: object) -> object:
        """Make the change, with the lock held; what must not be let go of before it is free."""
        before = self.of(locator)
        values = dict(before)
        if value is ABSENT:
            values.pop(name, None)
        else:
            values[name] = value
        if values:
            self._sessions[locator] = values
        else:
            self._sessions.pop(locator, None)
        return before


def _made(change: ResidentChange, before: object) -> object:
    """What the functions of a change make of a value; `ABSENT` if there is none, and no default."""
    value = change.default if before is ABSENT else before
    if value is not ABSENT:
        for function in change.functions:
            value = function(value)
    return value
