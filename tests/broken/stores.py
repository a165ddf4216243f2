"""A store in a few lines, and what becomes of it when a line is wrong: each class breaks one promise of the contract, and no other.

A verb that is a generator is one that takes several trips: at each `yield` another request may come in between (see `tests.stage`).
"""

from __future__ import annotations

from typing import Any

from typed_sessions.changes import GONE, Changes, Idle, ListChange, Outcome, Use, apply, apply_touch
from typed_sessions.conformance.model import Model
from typed_sessions.record import Ending, EndReason, Previous, Record, unpack_elements


class Sound(Model):
    """A dictionary of packed records that keeps the contract. Not for several threads at once."""

    def cut(self) -> Any:
        return dict(self.records)


class Upserting(Sound):
    """A commit that writes the whole session, whether it is there or not: the way of stores with `set(key, value)` (R1)."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[bytes, Record] = {}

    def open(self, locator: bytes, use: Use | None, idle: Idle, now: float) -> Any:
        record = super().open(locator, use, idle, now)
        if record is not None:
            self.seen[locator] = record
        return record

    def commit(self, locator: bytes, changes: Changes, idle: Idle, now: float) -> Any:
        if locator not in self.records and locator in self.seen:
            self.put(self.seen[locator])
        return super().commit(locator, changes, idle, now)


class CheckingThenCommitting(Sound):
    """A commit that looks, and then writes: "exists, then set" has a gap (R1, nextjs-auth0 #2616)."""

    def commit(self, locator: bytes, changes: Changes, idle: Idle, now: float) -> Any:
        record = self.get(locator)
        if record is None:
            return GONE
        outcome = apply(record, changes, idle, now)
        yield
        if outcome.status == "committed" and outcome.record is not None:
            self.put(outcome.record)
        return outcome


class CheckingThenEnding(Sound):
    """An end that looks, and then deletes: two of them both believe that they were the one."""

    def end(self, locator: bytes, reason: EndReason, now: float, lease: float) -> Any:
        record = self.get(locator)
        yield
        return None if record is None else self.end_with(record, Ending(reason, now, now + lease))


class CommittingByHalves(Sound):
    """A commit that writes key by key, and finds the conflict when half of it is stored (a statement with several CTEs can)."""

    def commit(self, locator: bytes, changes: Changes, idle: Idle, now: float) -> Any:
        outcome: Outcome = GONE
        if len(changes.writes) < 2:
            return super().commit(locator, changes, idle, now)
        for name, write in changes.writes.items():
            one = Changes({name: write})
            one.lists, one.renewal = changes.lists, changes.renewal
            changes.lists, changes.renewal = {}, None
            outcome = super().commit(locator, one, idle, now)
            if outcome.status != "committed":
                break
        return outcome


class CommittingUnchecked(Sound):
    """A commit that does not look at the versions it was given: the last one wins, also over an `update`."""

    def commit(self, locator: bytes, changes: Changes, idle: Idle, now: float) -> Any:
        for write in changes.writes.values():
            write.base = None
        return super().commit(locator, changes, idle, now)


class LosingAppends(Sound):
    """A list that is one value: read, longer by one, and written back over whatever was appended meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.lists: dict[bytes, dict[str, bytes]] = {}

    def open(self, locator: bytes, use: Use | None, idle: Idle, now: float) -> Any:
        record = super().open(locator, use, idle, now)
        if record is not None:
            self.lists[locator] = dict(record.fields)
        return record

    def commit(self, locator: bytes, changes: Changes, idle: Idle, now: float) -> Any:
        record = self.get(locator)
        for name, change in list(changes.lists.items()):
            then = {element.sequence for element in unpack_elements(self.lists.get(locator, {}).get(name))}
            there = unpack_elements(None if record is None else record.fields.get(name))
            unseen = [element.sequence for element in there if element.sequence not in then]
            changes.lists = {**changes.lists, name: ListChange(change.appended, change.prepended, [*change.removed, *unseen])}
        return super().commit(locator, changes, idle, now)


class RevivingAtTouch(Sound):
    """A touch that writes back the session it has seen: the way of stores that keep a session alive by storing it again (R1)."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[bytes, Record] = {}

    def open(self, locator: bytes, use: Use | None, idle: Idle, now: float) -> Any:
        record = super().open(locator, use, idle, now)
        if record is not None:
            self.seen[locator] = record
        return record

    def touch(self, locator: bytes, digest: bytes, idle: Idle, now: float) -> Any:
        if locator not in self.records and locator in self.seen:
            self.put(self.seen[locator])
        return super().touch(locator, digest, idle, now)


class CountingAnyUse(Sound):
    """An open that writes the use before anybody has looked at the secret."""

    def open(self, locator: bytes, use: Use | None, idle: Idle, now: float) -> Any:
        record = self.get(locator)
        if record is None or use is None:
            return record
        after = apply_touch(record, idle, now)
        if after is None:
            return record
        self.put(after)
        return after


class RenewingUnchecked(Sound):
    """A renewal that does not look which secret it replaces: of two, both succeed (R3)."""

    def commit(self, locator: bytes, changes: Changes, idle: Idle, now: float) -> Any:
        record = self.get(locator)
        if record is not None and changes.renewal is not None:
            changes.renewal.expected = record.digest
        return super().commit(locator, changes, idle, now)


class KeepingOldSecrets(Sound):
    """A renewal after which the secret before it goes on opening the session (session fixation)."""

    def commit(self, locator: bytes, changes: Changes, idle: Idle, now: float) -> Any:
        before = self.get(locator)
        outcome: Outcome = super().commit(locator, changes, idle, now)
        record = outcome.record
        if changes.renewal is not None and outcome.status == "committed" and record is not None and before is not None:
            if record.digest != before.digest:
                record.previous = Previous(before.digest, before.tag_digest, now + 60)
            self.put(record)
        return outcome
