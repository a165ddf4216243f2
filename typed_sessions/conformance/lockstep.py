"""The store and the model told the same things, and their answers compared.

What the contract leaves open is left open here: how list elements are numbered (the numbers are translated), which of the due records a
sweep takes first, and in what pages a scan comes.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import final

from ..changes import Changes, Idle, ListChange, Outcome, Use
from ..record import FIELD_FLAGS_AT, FIELD_LIST, EndReason, Record, unpack_elements
from ..stores.base import Created
from .model import Model, difference
from .report import Unexpected, expect, expect_that
from .subject import Subject

_PAGES = 10_000
"""A scan or sweep that takes more steps than that counts as endless."""


@final
class Lockstep:
    """Calls a verb of both, raises `Unexpected` unless they say the same, and gives the store's answer."""

    def __init__(self, store: Subject, model: Model | None = None) -> None:
        self.store = store
        self.model: Model = Model() if model is None else model
        self._numbers: dict[tuple[bytes, str], dict[int, int]] = {}
        """Of each list, the model's number of each element by the store's."""

    async def create(self, record: Record, now: float) -> Created:
        expected = self.model.create(record, now)
        created = await self.store.create(record, now)
        expect("create", "created" if created == "crowded" else created, expected)
        self._number(record, record)
        return created

    async def open(self, locator: bytes, use: Use | None, idle: Idle, now: float) -> Record | None:
        expected = self.model.open(locator, use, idle, now)
        record = await self.store.open(locator, use, idle, now)
        self._same("open", record, expected)
        if record is not None and expected is not None and use is not None:
            expect("open: use_written", record.use_written, expected.use_written)
        return record

    async def touch(self, locator: bytes, digest: bytes, idle: Idle, now: float) -> bool:
        expected = self.model.touch(locator, digest, idle, now)
        touched = await self.store.touch(locator, digest, idle, now)
        expect("touch", touched, expected)
        return touched

    async def commit(self, locator: bytes, changes: Changes, idle: Idle, now: float) -> Outcome:
        expected = self.model.commit(locator, self._translate(locator, changes), idle, now)
        outcome = await self.store.commit(locator, changes, idle, now)
        expect("commit", outcome.status, expected.status)
        self._same(f"commit ({outcome.status})", outcome.record, expected.record)
        if outcome.record is not None and expected.record is not None and outcome.status == "committed":
            expect("commit: use_written", outcome.record.use_written, expected.record.use_written)
        return outcome

    async def end(self, locator: bytes, reason: EndReason, now: float, lease: float) -> Record | None:
        expected = self.model.end(locator, reason, now, lease)
        record = await self.store.end(locator, reason, now, lease)
        self._same("end", record, expected)
        return record

    async def sweep(self, now: float, limit: int, lease: float, grace: float) -> tuple[Sequence[Record], bool]:
        swept, more = await self.store.sweep(now, limit, lease, grace)
        expect_that(len(swept) <= limit, f"a sweep of {limit} gave out {len(swept)}")
        for record in swept:
            before = self.model.stored(record.locator)
            expect_that(self.model.is_due(record.locator, now, grace), f"a sweep gave out a record that was not due: {before!r}")
            dropped = before is not None and before.ending is not None and now >= before.ending.at + grace
            expected = self.model.look(record.locator, now, lease, grace)
            if not dropped:
                self._same("sweep", record, expected)
        if not more:
            for locator in list(self.model.records):
                left = self.model.stored(locator)
                if left is not None and self.model.is_due(locator, now, grace):
                    # One whose grace is over may be given out a last time, or just go.
                    dropped = left.ending is not None and now >= left.ending.at + grace
                    expect_that(dropped, f"a sweep says that nothing more is due, and has left out {left!r}, due at {left.due}")
                    del self.model.records[locator]
        return swept, more

    async def sweep_all(self, now: float, limit: int, lease: float, grace: float) -> list[Record]:
        """Sweep until nothing more is due."""
        found: list[Record] = []
        for _ in range(_PAGES):
            swept, more = await self.sweep(now, limit, lease, grace)
            found += swept
            if not more:
                return found
        raise Unexpected(f"{_PAGES} sweeps of {limit} in a row say that more is due, and nothing is")

    async def clear(self, locator: bytes, names: Sequence[str] | None) -> None:
        self.model.clear(locator, names)
        await self.store.clear(locator, names)

    async def scan_all(self, limit: int) -> list[Record]:
        """A whole scan."""
        found = await scan_all(self.store, limit)
        records = {record.locator: record for record in found}
        expect_that(len(records) == len(found), "a scan gave out a record twice")
        live = {locator for locator in self.model.records if self.model.get(locator) is not None}
        expect_that(records.keys() == live, f"a scan gave out {len(records)} records, and {len(live)} have not ended")
        for locator, record in records.items():
            self._same("scan", record, self.model.get(locator))
        return found

    async def wipe(self) -> None:
        """End and drop every session, so that the store can be used for the next history."""
        for locator in list(self.model.records):
            await self.store.end(locator, "ended", 0.0, 0.0)
            await self.store.clear(locator, None)
        self.model.records.clear()
        self._numbers.clear()

    # -------------------------------------------------------------- inside

    def _same(self, what: str, found: Record | None, expected: Record | None) -> None:
        different = difference(found, expected)
        if different:
            raise Unexpected(f"{what}: {different}")
        if found is not None and expected is not None:
            self._number(found, expected)

    def _number(self, found: Record, expected: Record) -> None:
        """Note which element of the store's list is which of the model's, and that no number is used twice."""
        for name, packed in found.fields.items():
            if not packed[FIELD_FLAGS_AT] & FIELD_LIST:
                continue
            numbers = self._numbers.setdefault((found.locator, name), {})
            mine = [element.sequence for element in unpack_elements(packed)]
            theirs = [element.sequence for element in unpack_elements(expected.fields.get(name))]
            expect_that(mine == sorted(set(mine)), f"the elements of the list {name!r} are not in the order of their sequences")
            for one, other in zip(mine, theirs, strict=True):
                expect_that(numbers.setdefault(one, other) == other, f"the sequence {one} of the list {name!r} was used for two elements")

    def _translate(self, locator: bytes, changes: Changes) -> Changes:
        """The same changes for the model: a copy, in which removed elements have the model's numbers."""
        changes = deepcopy(changes)
        lists: dict[str, ListChange] = {}
        for name, change in changes.lists.items():
            numbers = self._numbers.get((locator, name), {})
            lists[name] = ListChange(change.appended, change.prepended, [numbers[one] for one in change.removed if one in numbers])
        changes.lists = lists
        return changes


async def scan_all(store: Subject, limit: int) -> list[Record]:
    """Every page of a scan."""
    found: list[Record] = []
    after: bytes | None = None
    for _ in range(_PAGES):
        page, after = await store.scan(after, limit)
        found += page
        if after is None:
            return found
    raise Unexpected(f"a scan of {limit} at a time has not ended after {_PAGES} pages")
