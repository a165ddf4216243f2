"""The cases that were seen when the two model systems were run, by name, and which test says what happens in each of them here.

`names.txt` lists them with their note: `keep` (do the same) or `improve` (do better). A test is marked with `@case(name, "keep")` or
`@case(name, "improve", what we do instead)`; `cannot_arise(name, reason)` stands for a test. `test_count` checks that none is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar

Test = TypeVar("Test", bound=Callable[..., None])
Note: TypeAlias = Literal["keep", "improve"]

OVERRIDES = {
    "two-cookies-first-unknown": "rule 20: both cookies must be there once, or a neighbouring site could plant one (cookie tossing, C5)",
    "two-valid-cookies-first-wins": "rule 20, as above: no order of the header is one to rely on (RFC 6265bis 4.2.2)",
    "oc-valid-cookie-other-ip": "rule 21: the address is checked unless the policy says otherwise, which it may",
    "oc-check-false": "rule 14: the connection closes after the answer; rule 23: the filter expires by None, and by default nothing",
}
"""Cases that were to be kept, where the rules say otherwise: they count as improved."""


class Case(NamedTuple):
    """`test` is None for what cannot arise here; `remark` is what we do instead, or why it cannot arise."""

    note: Note | None
    remark: str
    test: Callable[..., None] | None
    where: str


registry: dict[str, Case] = {}


def case(name: str, note: Note, instead: str = "") -> Callable[[Test], Test]:
    """Mark the test of a case. What is done better says in a few words what is done."""
    if (note == "improve") != bool(instead):
        raise ValueError(f"{name}: say what is done instead, of what is improved and of nothing else")

    def mark(test: Test) -> Test:
        _register(name, Case(note, instead, test, f"{test.__module__}.{test.__qualname__}"))
        return test

    return mark


def cannot_arise(name: str, reason: str) -> None:
    """A case for which there is nothing to test."""
    _register(name, Case(None, reason, None, reason))


def listed() -> dict[str, str]:
    """The names with their notes."""
    lines = Path(__file__).with_name("names.txt").read_text(encoding="ascii").splitlines()
    pairs = [line.split(" ") for line in lines]
    names: dict[str, str] = {name: note for note, name in pairs}
    if len(names) != len(lines):
        raise ValueError("names.txt has a name twice")
    return names


def _register(name: str, entry: Any) -> None:
    earlier = registry.get(name)
    if earlier is not None and earlier.where != entry.where:
        raise ValueError(f"the case {name!r} is there twice: {earlier.where} and {entry.where}")
    registry[name] = entry
