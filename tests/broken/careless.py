"""More stores with one mistake each: those that show in one verb after the other, without any overlap."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from msgspec.structs import replace

from tests.broken.stores import Sound
from typed_sessions.changes import GONE, Changes, Idle, Outcome, Use, apply_touch
from typed_sessions.errors import TooLarge
from typed_sessions.record import (
    FIELD_COPY,
    FIELD_LIST,
    FIELD_TWIN,
    Element,
    Ending,
    EndReason,
    Record,
    pack_elements,
    pack_field,
    unpack_elements,
    unpack_field,
)


class CreatingOver(Sound):
    """A create that does not look whether the locator is free: the way of stores with `set(key, value)` (I2)."""

    def create(self, record: Record, now: float) -> Any:
        self.put(record)
        return "created"


class HidingTheExpired(Sound):
    """An open that keeps back what is over: nobody can end it, tell its reason, or run its hooks."""

    def open(self, locator: bytes, use: Use | None, idle: Idle, now: float) -> Any:
        record = super().open(locator, use, idle, now)
        return None if record is None or record.due <= now else record


class SweepingByTheFirstDue(Sound):
    """A sweep that goes by when a session came due as it was created: it ends what was just used (R8)."""

    def __init__(self) -> None:
        super().__init__()
        self.due: dict[bytes, float] = {}

    def create(self, record: Record, now: float) -> Any:
        self.due[record.locator] = record.due
        return super().create(record, now)

    def is_due(self, locator: bytes, now: float, grace: float) -> bool:
        record = self.get(locator)
        return super().is_due(locator, now, grace) if record is None else self.due[locator] <= now


class SweepingWithoutALease(Sound):
    """A sweep that gives an ended session to everybody who asks, until it is cleared: its hooks run twice."""

    def is_due(self, locator: bytes, now: float, grace: float) -> bool:
        record = self.stored(locator)
        return record is not None and (record.ending is not None or record.due <= now)


class SweepingInSilence(Sound):
    """A sweep that stops at its limit and says that it was all."""

    def sweep(self, now: float, limit: int, lease: float, grace: float) -> Any:
        return super().sweep(now, limit, lease, grace)[0], False


class SweepingWithoutALimit(Sound):
    """A sweep that ends everything at once: a request waits for it."""

    def sweep(self, now: float, limit: int, lease: float, grace: float) -> Any:
        return super().sweep(now, 1_000_000, lease, grace)


class ForgettingHooks(Sound):
    """An end that drops the record, also where hooks have still to run: if this process dies, nobody runs them."""

    def end_with(self, record: Record, ending: Ending) -> Record:
        ended = super().end_with(record, ending)
        self.records.pop(record.locator, None)
        return ended


class KeepingHooksForEver(Sound):
    """A sweep that never gives up: the records of keys that are gone pile up."""

    def sweep(self, now: float, limit: int, lease: float, grace: float) -> Any:
        return super().sweep(now, limit, lease, 1e18)


class ClaimingOnceALease(Sound):
    """A sweep that claims all that nobody here can clean up after once a lease, for a week: requests have no time for anything else."""

    def look(self, locator: bytes, now: float, lease: float, grace: float) -> Record | None:
        record = super().look(locator, now, lease, grace)
        if record is not None and record.ending is not None and record.ending.claimed_until > now + lease:
            record = replace(record, ending=Ending(record.ending.reason, record.ending.at, now + lease), packed=b"")
            self.put(record)
        return record


class ClearingTheLiving(Sound):
    """A clear that does not look whether the session has ended."""

    def clear(self, locator: bytes, names: Sequence[str] | None) -> None:
        record = self.get(locator)
        if record is not None:
            self.end_with(record, Ending("ended", 0.0, 0.0))
        super().clear(locator, names)


class RoundingTimes(Sound):
    """Times that pass through text with 14 digits, as numbers do in Lua."""

    def put(self, record: Record) -> None:
        super().put(replace(record, created=float(f"{record.created:.14g}"), used=float(f"{record.used:.14g}"), packed=b""))


class UsingItsOwnClock(Sound):
    """A store that asks the machine for the time."""

    def open(self, locator: bytes, use: Use | None, idle: Idle, now: float) -> Any:
        return super().open(locator, use, idle, time.time())


class WritingEveryUse(Sound):
    """An open that writes the time of every use: a write per request."""

    def open(self, locator: bytes, use: Use | None, idle: Idle, now: float) -> Any:
        record = super().open(locator, use, idle, now)
        if record is None or use is None or use.tag_digest != record.tag_digest or now >= record.due or now == record.used:
            return record
        after = record.copy()
        after.used, after.use_written = now, True
        self.put(after)
        return after


class TouchingWithAnySecret(Sound):
    """A touch that does not look at the digest."""

    def touch(self, locator: bytes, digest: bytes, idle: Idle, now: float) -> Any:
        record = self.get(locator)
        return False if record is None else super().touch(locator, record.digest, idle, now)


class RefusingTheIdle(Sound):
    """A commit that refuses what has become idle while its request ran."""

    def commit(self, locator: bytes, changes: Changes, idle: Idle, now: float) -> Any:
        record = self.get(locator)
        return GONE if record is not None and record.due <= now else super().commit(locator, changes, idle, now)


class LivingForEver(Sound):
    """A commit that does not look at the absolute lifetime."""

    def commit(self, locator: bytes, changes: Changes, idle: Idle, now: float) -> Any:
        record = self.get(locator)
        if record is None or record.deadline is None:
            return super().commit(locator, changes, idle, now)
        self.put(replace(record, deadline=None, packed=b"", unpacked=record.fields))
        outcome: Outcome = super().commit(locator, changes, idle, now)
        after = outcome.record
        if after is not None:
            after.deadline = record.deadline
            self.put(after)
        return outcome


class BeginningAnewAtRenewals(Sound):
    """A renewal that makes a new session of the old one: its absolute lifetime begins again (L2)."""

    def commit(self, locator: bytes, changes: Changes, idle: Idle, now: float) -> Any:
        outcome: Outcome = super().commit(locator, changes, idle, now)
        after = outcome.record
        if changes.renewal is not None and outcome.status == "committed" and after is not None and after.deadline is not None:
            after.deadline += now - after.created
            self.put(after)
        return outcome


class AnsweringWithoutTheRecord(Sound):
    """A conflict's answer that does not say what is stored: a retry takes two trips."""

    def commit(self, locator: bytes, changes: Changes, idle: Idle, now: float) -> Any:
        outcome: Outcome = super().commit(locator, changes, idle, now)
        return Outcome("conflict") if outcome.status == "conflict" else outcome


def _changed_lists(record: Record, change: Callable[[list[Element]], list[Element]]) -> Record:
    fields = dict(record.fields)
    for name, packed in fields.items():
        if packed[6] & FIELD_LIST:
            fields[name] = pack_elements(unpack_field(packed).revision, change(unpack_elements(packed)))
    return record.copy(fields)


class NumberingByPlace(Sound):
    """Elements that are named by their place in the list: a removal hits another one when the list has changed."""

    def put(self, record: Record) -> None:
        super().put(_changed_lists(record, lambda elements: [Element(place, *one[1:]) for place, one in enumerate(elements, 1)]))


class SortingLists(Sound):
    """A list that is a set: equal elements are one, in an order of its own."""

    def put(self, record: Record) -> None:
        def sort(elements: list[Element]) -> list[Element]:
            payloads = sorted({one.payload: one for one in elements}.items())
            return [Element(one.sequence, *kept[1:]) for one, (_, kept) in zip(elements, payloads, strict=False)]

        super().put(_changed_lists(record, sort))


class CuttingAtNul(Sound):
    """Values that pass through C strings."""

    def put(self, record: Record) -> None:
        fields: dict[str, bytes] = {}
        for name, packed in record.fields.items():
            field = unpack_field(packed)
            is_list = field.flags & FIELD_LIST
            fields[name] = packed if is_list else pack_field(*field[:3], field.payload.partition(b"\x00")[0])
        super().put(record.copy(fields))


class FoldingNames(Sound):
    """Names that are compared without their case, and without blanks at the end: the way of some databases."""

    def put(self, record: Record) -> None:
        folded = {name.rstrip().lower(): name for name in record.fields}
        super().put(record.copy({name: record.fields[name] for name in folded.values()}))


class LargeByHalves(Sound):
    """A limit that is noticed when the commit is stored."""

    def commit(self, locator: bytes, changes: Changes, idle: Idle, now: float) -> Any:
        outcome: Outcome = super().commit(locator, changes, idle, now)
        if outcome.record is not None and outcome.status == "committed" and outcome.record.size > 500_000:
            raise TooLarge("half a megabyte is enough")
        return outcome


class ScanningAgain(Sound):
    """A scan whose place is a number of records: what comes or goes meanwhile moves it."""

    def scan(self, after: bytes | None, limit: int) -> Any:
        place = 0 if after is None else int.from_bytes(after, "big")
        live = [record for locator in sorted(self.records) if (record := self.get(locator)) is not None]
        more = place + limit < len(live)
        return live[place : place + limit], (place + limit).to_bytes(4, "big") if more else None


class ClosingOnce(Sound):
    """A close that can be called once."""

    closed = False

    def close(self) -> None:
        if self.closed:
            raise RuntimeError("closed already")
        self.closed = True


class EndingTwice(Sound):
    """An end of a session that waits for its hooks is one more: `End` is sent twice."""

    def end(self, locator: bytes, reason: EndReason, now: float, lease: float) -> Any:
        record = self.stored(locator)
        if record is not None and record.ending is not None:
            return record
        return super().end(locator, reason, now, lease)


class RememberingNobody(Sound):
    """An open that does not note that a session was used by a second request, within the granularity: a flood throws it out."""

    def open(self, locator: bytes, use: Use | None, idle: Idle, now: float) -> Any:
        record = self.get(locator)
        if record is None or 0 <= now - record.used < record.granularity:
            return record
        return super().open(locator, use, idle, now)


class OpeningFromAnywhere(Sound):
    """An open that writes the use whatever address it came from."""

    def open(self, locator: bytes, use: Use | None, idle: Idle, now: float) -> Any:
        record = self.get(locator)
        if record is None or use is None or use.tag_digest != record.tag_digest:
            return super().open(locator, use, idle, now)
        after = apply_touch(record, idle, now)
        if after is None:
            return record
        self.put(after)
        return after


class LosingTwins(Sound):
    """A commit that keeps only the flags that its author knew: what old code deletes under the old name of a key comes back."""

    def put(self, record: Record) -> None:
        unknown = FIELD_TWIN | FIELD_COPY
        known = {name: bytes((*packed[:6], packed[6] & ~unknown, *packed[7:])) for name, packed in record.fields.items()}
        super().put(record.copy(known))


class RoundingGranularity(Sound):
    """Whole seconds in a column of integers: a session with a short timeout ends too early."""

    def put(self, record: Record) -> None:
        record = record.copy()
        record.granularity = float(int(record.granularity))
        super().put(record)


class ScanningAThousand(Sound):
    """A scan that takes the first page of what the server gives for all of it."""

    def scan(self, after: bytes | None, limit: int) -> Any:
        ahead = sorted(self.records)[:1_000]
        page = [locator for locator in ahead if after is None or locator > after][:limit]
        more = bool(page) and page[-1] != ahead[-1]
        return [record for locator in page if (record := self.get(locator)) is not None], page[-1] if more else None


class KeepingTheAddress(Sound):
    """A renewal that takes "no address" for "leave it as it is"."""

    def commit(self, locator: bytes, changes: Changes, idle: Idle, now: float) -> Any:
        record = self.get(locator)
        if record is not None and changes.renewal is not None and changes.renewal.address is None:
            changes.renewal.address = record.address
        return super().commit(locator, changes, idle, now)


class CuttingNames(Sound):
    """Names in a column of 255 bytes that cuts what is longer."""

    def put(self, record: Record) -> None:
        super().put(record.copy({name.encode()[:255].decode(errors="ignore"): packed for name, packed in record.fields.items()}))


class CuttingAddresses(Sound):
    """Addresses in a column of 15 characters, as IPv4 needs."""

    def put(self, record: Record) -> None:
        if record.address is not None:
            record = record.copy()
            record.address = (record.address or "")[:15]
        super().put(record)


class KeepingAThousandElements(Sound):
    """A list that is trimmed to its last thousand elements."""

    def put(self, record: Record) -> None:
        super().put(_changed_lists(record, lambda elements: elements[-1_000:]))


class CappingTimeouts(Sound):
    """A time to live that the server takes up to 30 days only."""

    def put(self, record: Record) -> None:
        record = record.copy()
        if record.timeout is not None:
            record.timeout = min(record.timeout, 30 * 86_400.0)
        super().put(record)


class ForgettingAtClose(Sound):
    """A close that drops what it has made: the sessions of everybody, at each deployment."""

    def close(self) -> None:
        self.records.clear()


class WeighingTheHead(Sound):
    """A bound on the whole record: whose session has reached it cannot sign in, because the previous secret takes some bytes too."""

    def commit(self, locator: bytes, changes: Changes, idle: Idle, now: float) -> Any:
        before = self.get(locator)
        outcome: Outcome = super().commit(locator, changes, idle, now)
        if before is not None and outcome.record is not None and len(outcome.record.pack()) > 50_000:
            self.put(before)
            raise TooLarge("fifty thousand bytes are enough")
        return outcome


class GuessingSizes(Sound):
    """A bound that takes a letter for a byte while a session grows, and counts again when it is read: what was taken is then too large."""

    def commit(self, locator: bytes, changes: Changes, idle: Idle, now: float) -> Any:
        before = self.get(locator)
        outcome: Outcome = super().commit(locator, changes, idle, now)
        if before is not None and outcome.record is not None:
            new = outcome.record.fields.keys() - before.fields.keys()
            if before.size + sum(len(name) + len(outcome.record.fields[name]) for name in new) > 50_000:
                self.put(before)
                raise TooLarge("fifty thousand bytes are enough")
        return outcome


class ClearingForTheLoser(Sound):
    """Of two renewals one wins, and both clear: the values of whom the browser's new cookies belong to are gone."""

    def commit(self, locator: bytes, changes: Changes, idle: Idle, now: float) -> Any:
        record, renewal = self.get(locator), changes.renewal
        if record is not None and renewal is not None and changes.clear and renewal.overlap and renewal.expected != record.digest:
            changes.renewal = None
        return super().commit(locator, changes, idle, now)


class CollectingTheUnhooked(Sound):
    """A time to live that counts from when a session came due: with its last hook goes what a sweep should have told of."""

    def commit(self, locator: bytes, changes: Changes, idle: Idle, now: float) -> Any:
        before = self.get(locator)
        outcome: Outcome = super().commit(locator, changes, idle, now)
        after = outcome.record
        if before is not None and after is not None and before.hooked and not after.hooked and now - after.due > 86_400:
            del self.records[locator]
        return outcome
