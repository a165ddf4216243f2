"""Who makes room in a full memory store: always the oldest of those that only their first request has used."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from typed_sessions.stores import guests as module
from typed_sessions.stores.guests import Guests

STEPS = st.lists(st.sampled_from(["come", "come", "come", "use", "tidy", "tidy", "take"]), max_size=120)


def in_order(make: Callable[[], Any], steps: list[str]) -> bool:
    """Whether each that was taken was the oldest guest at that moment, and none was taken where there was none."""
    guests, unused = make(), list[int]()
    for number, step in enumerate(steps):
        if step == "come":
            guests.newer.append(number)
            unused.append(number)
        elif step == "use" and unused:
            unused.pop(len(unused) // 2)
        elif step == "tidy":
            guests.tidy(unused.__contains__)
        elif step == "take":
            if guests.oldest(unused.__contains__) != (unused[0] if unused else None):
                return False
            del unused[:1]
    return True


@given(STEPS)
@settings(deadline=None, max_examples=300)
def test_the_oldest_guest_makes_room(steps: list[str]) -> None:
    """Whenever the queues are tidied, and whoever is used a second time meanwhile."""
    assert in_order(Guests, steps)


class SwappedTooSoon(Guests):  # type: ignore[misc]  # pyright: ignore[reportGeneralTypeIssues]  # a final class: nobody else is to do this
    """Broken: it exchanges the queues although one of them is not through."""

    def tidy(self, unused: Callable[[int], bool]) -> None:
        super().tidy(unused)
        self._older, self.newer = self.newer, self._older


class NewestFirst(Guests):  # type: ignore[misc]  # pyright: ignore[reportGeneralTypeIssues]  # as above
    """Broken: it looks among the newer ones first."""

    def oldest(self, unused: Callable[[int], bool]) -> int | None:
        self._older, self.newer = self.newer, self._older
        return super().oldest(unused)


@pytest.mark.parametrize("broken", [SwappedTooSoon, NewestFirst])
def test_an_order_that_is_broken_is_noticed(broken: type[Guests]) -> None:
    """By so few steps: nine come, the queues are tidied, and one has to go."""
    assert not in_order(broken, ["come"] * 9 + ["tidy", "take"])


def test_the_queues_are_as_short_as_the_sessions_are_few() -> None:
    """They are tidied a little whenever one comes, where they are long: so what has gone is dropped, sooner or later (D1)."""
    guests, here = Guests(), range(0)
    for number in range(20_000):
        here = range(max(0, number - 100), number)
        if guests.are_many(len(here)):
            guests.tidy(here.__contains__)
        guests.newer.append(number)
    most: int = 2 * len(here) + getattr(module, "_SLACK")  # noqa: B009
    assert len(guests.newer) + len(getattr(guests, "_older")) <= most + 1  # noqa: B009
    found = None
    while found is None:  # it may take more than one look
        assert guests.newer or getattr(guests, "_older")  # noqa: B009
        found = guests.oldest(here.__contains__)
    assert found == here[0]
