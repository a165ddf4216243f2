"""A store that holds so many sessions at most, and what becomes of it when a line is wrong: see `tests.broken.stores`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.broken.stores import Sound
from typed_sessions.changes import GONE, Changes, Idle
from typed_sessions.record import REUSED, Ending, Record
from typed_sessions.stores.base import Limits, StoreFull


class Crowded(Sound):
    """Keeps the contract."""

    def __init__(self, bound: int = 1000) -> None:
        super().__init__()
        self.bound = bound
        self.limits = Limits("Crowded", 65_536, 256)

    def counted(self) -> list[Record]:
        return [record for locator in self.records if (record := self.get(locator)) is not None]

    def leaving(self, counted: list[Record], now: float) -> list[Record]:
        """Who makes room, and in which order."""
        guests = sorted((one for one in counted if one.due > now and not one.flags & REUSED), key=lambda one: one.created)
        return [*(one for one in counted if one.due <= now), *guests]

    def why(self, record: Record, now: float) -> Ending:
        return Ending("evicted" if record.due > now else "lifetime" if record.due == record.deadline else "timeout", now, 0.0)

    def let_go(self, record: Record, ending: Ending) -> None:
        record = record.copy()
        record.ending = ending
        self.put(record)

    def create(self, record: Record, now: float) -> Any:
        self.limits.check_new(record)
        if record.locator in self.records:
            return "taken"
        counted = self.counted()
        short = max(0, len(counted) + 1 - self.bound)
        leaving = self.leaving(counted, now)[:short]
        if len(leaving) < short:
            raise StoreFull("full")
        for one in leaving:
            self.let_go(one, self.why(one, now))
        self.put(record)
        return "crowded" if leaving else "created"

    def look(self, locator: bytes, now: float, lease: float, grace: float) -> Record | None:
        record = super().look(locator, now, lease, grace)
        if record is not None and not record.hooked:
            self.records.pop(locator, None)  # one that had to go is given out once
        return record

    def commit(self, locator: bytes, changes: Changes, idle: Idle, now: float) -> Any:
        before = self.records.get(locator)
        outcome = super().commit(locator, changes, idle, now)
        if outcome.record is not None and before is not None:
            try:
                self.limits.check(Record.unpack(locator, before), outcome.record)
            except Exception:
                self.records[locator] = before
                raise
        return outcome


class CountingTheEnded(Crowded):
    """Whoever has signed out keeps others out, until the hooks have run."""

    def counted(self) -> list[Record]:
        return [record for locator in self.records if (record := self.stored(locator)) is not None]


class CallingAllEvicted(Crowded):
    """What has timed out is told of as if it had been thrown out."""

    def why(self, record: Record, now: float) -> Ending:
        return Ending("evicted", now, 0.0)


class ClaimingForNobody(Crowded):
    """Who had to go has a lease that no process holds."""

    def why(self, record: Record, now: float) -> Ending:
        return Ending(super().why(record, now).reason, now, now + 60)


class TellingNobody(Crowded):
    """Who had to go is gone: no event, no hooks."""

    def let_go(self, record: Record, ending: Ending) -> None:
        del self.records[record.locator]


class EvictingMembers(Crowded):
    """Throws out those who have come back: a flood signs everybody out."""

    def leaving(self, counted: list[Record], now: float) -> list[Record]:
        return [*super().leaving(counted, now), *sorted(counted, key=lambda one: one.created)]


class EvictingTheNewest(Crowded):
    """Throws out who has only just come."""

    def leaving(self, counted: list[Record], now: float) -> list[Record]:
        over = [one for one in counted if one.due <= now]
        return [*over, *reversed([one for one in super().leaving(counted, now) if one.due > now])]


class EvictingGuestsFirst(Crowded):
    """Throws out who is new before what is over."""

    def leaving(self, counted: list[Record], now: float) -> list[Record]:
        return sorted(super().leaving(counted, now), key=lambda one: one.due <= now)


class SayingCreated(Crowded):
    """Does not say that a sweep is worth its trip."""

    def create(self, record: Record, now: float) -> Any:
        return "taken" if super().create(record, now) == "taken" else "created"


class WritingWithoutABound(Crowded):
    """A commit that is never too large."""

    def commit(self, locator: bytes, changes: Changes, idle: Idle, now: float) -> Any:
        return GONE if self.get(locator) is None else Sound.commit(self, locator, changes, idle, now)


class CreatingWithoutABound(Crowded):
    """A creation that is never too large."""

    def create(self, record: Record, now: float) -> Any:
        self.limits = Limits("Crowded", 1 << 30, 1 << 30)
        try:
            return super().create(record, now)
        finally:
            self.limits = Limits("Crowded", 65_536, 256)


BROKEN: Sequence[tuple[type[Crowded], set[str]]] = (
    (CountingTheEnded, {"what_has_ended_takes_no_room"}),
    (CallingAllEvicted, {"what_is_over_keeps_nobody_out"}),
    (
        ClaimingForNobody,
        {
            "a_full_store_keeps_those_who_came_back",
            "what_is_over_goes_before_a_guest",
            "what_is_over_keeps_nobody_out",
            "whoever_had_to_go_is_told_of_once",
        },
    ),
    (
        TellingNobody,
        {
            "a_full_store_keeps_those_who_came_back",
            "what_is_over_goes_before_a_guest",
            "what_is_over_keeps_nobody_out",
            "whoever_had_to_go_is_told_of_once",
        },
    ),
    (EvictingMembers, {"a_full_store_keeps_those_who_came_back"}),
    (EvictingTheNewest, {"a_full_store_keeps_those_who_came_back", "whoever_had_to_go_is_told_of_once"}),
    (EvictingGuestsFirst, {"what_is_over_goes_before_a_guest", "what_is_over_keeps_nobody_out"}),
    (SayingCreated, {"a_full_store_keeps_those_who_came_back"}),
    (WritingWithoutABound, {"creating_and_writing_have_the_same_bound"}),
    (CreatingWithoutABound, {"creating_and_writing_have_the_same_bound"}),
)
"""Each with the checks that it has to fail; it fails no other."""
