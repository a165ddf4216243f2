"""What a run of the kit says, and how a check says what it expected. It knows no stores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

LONGEST = 480
"""How long a line of the text of a report may be, in characters."""


@final
@dataclass(frozen=True)
class Failure:
    """A promise that the store does not keep."""

    name: str
    """The check's."""
    promise: str
    """What was expected, in words."""
    found: str
    """What was seen instead: all of it, where the text of the report shortens lines that are very long."""
    error: BaseException

    def __str__(self) -> str:
        found = "\n              ".join(shortened(line, LONGEST) for line in self.found.split("\n"))
        return f"{self.name}\n    promised: {self.promise}\n    found:    {found}"


@final
@dataclass(frozen=True)
class Report:
    """What came of a run: the names of the checks that passed, what failed, and (name, reason) of those that were left out."""

    passed: Sequence[str]
    failures: Sequence[Failure]
    skipped: Sequence[tuple[str, str]]

    @property
    def failed(self) -> tuple[str, ...]:
        """The names of the checks that failed."""
        return tuple(failure.name for failure in self.failures)

    def __str__(self) -> str:
        count = len(self.passed) + len(self.failures)
        lines = [f"{len(self.failures)} of {count} checks failed" if self.failures else f"all {count} checks passed"]
        alike: dict[str, list[Failure]] = {}
        for failure in self.failures:
            alike.setdefault(failure.found, []).append(failure)
        for first, *others in alike.values():
            lines.append(str(first))
            if others:
                lines.append(f"    the same: {_names([failure.name for failure in others])}")
        reasons: dict[str, list[str]] = {}
        for name, reason in self.skipped:
            reasons.setdefault(reason, []).append(name)
        for reason, names in reasons.items():
            lines.append(f"left out: {_names(names)}: {reason}")
        return "\n".join(lines)


def _names(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) < 5 else f"{len(names)} checks"


@final
class ConformanceFailed(AssertionError):
    """Some checks failed; `report` says which, and the text what was expected and what was found."""

    def __init__(self, report: Report) -> None:
        super().__init__(str(report))
        self.report = report


@final
class Unexpected(AssertionError):
    """Inside a check: something is not what was promised."""


@final
class LeftOut(Exception):
    """Inside a check: it does not apply to this store; the text says why."""


def shortened(text: str, longest: int) -> str:
    """The text, without the middle if it is longer: most of what differs is said at one of its ends."""
    if len(text) <= longest:
        return text
    cut = f" ... ({len(text)} characters) ... "
    left = longest - len(cut)
    return f"{text[: left * 2 // 3]}{cut}{text[len(text) - left + left * 2 // 3 :]}"


def expect(what: str, found: object, expected: object) -> None:
    """Raise `Unexpected` unless both are equal."""
    if found != expected:
        raise Unexpected(f"{what}: expected {expected!r}, got {found!r}")


def expect_that(true: object, what: str) -> None:
    """Raise `Unexpected` with these words unless `true`."""
    if not true:
        raise Unexpected(what)
