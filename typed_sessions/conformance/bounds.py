"""Checks of a store that holds so many sessions at most (rule 30). For one without such a bound they are left out."""

from __future__ import annotations

from ..changes import Idle
from ..errors import StoreFull
from .report import LeftOut, expect, expect_that
from .stand import LEASE, Checks, Kit, Stand, writing

checks: Checks = Checks()

_WHY = "needs make_bounded, a factory of stores that hold so many sessions at most"


@checks.of_kit(30)
def a_full_store_keeps_those_who_came_back(kit: Kit) -> None:
    """When full, only sessions never used by a second request make room, oldest first; without one, `create` raises `StoreFull`."""
    if kit.make_bounded is None:
        raise LeftOut(_WHY)

    async def work(stand: Stand) -> None:
        first, second, third = [await stand.begin({"n": b"%d" % number}) for number in range(3)]
        stand.now += 1
        await stand.use(second)
        fourth = stand.record()
        expect("create in a full store", await stand.store.create(fourth, stand.now), "crowded")
        expect("the oldest that was never used again", await stand.look(first), None)
        await stand.expect_gone(first)
        for record in (second, third):
            expect_that(await stand.look(record) is not None, "a session had to go that should not have")
        evicted = await stand.sweep()
        expect(
            "what a sweep says of it", [(one.locator, one.ending and one.ending.reason) for one in evicted], [(first.locator, "evicted")]
        )
        for record in (third, fourth):
            await stand.use(record)
        with_nobody_to_go = stand.record()
        for _ in range(2):
            try:
                await stand.store.create(with_nobody_to_go, stand.now)
            except StoreFull:
                continue
            raise AssertionError("create in a store full of sessions that were used again did not raise StoreFull")
        expect("open of the one that was refused", await stand.look(with_nobody_to_go), None)
        for record in (second, third, fourth):
            await stand.committed(record, writing(n=b"still here"))
        await stand.end(third)
        expect("create after an end", await stand.store.create(with_nobody_to_go, stand.now), "created")

    kit.on_bounded(3, work)


@checks.of_kit(30)
def what_is_over_goes_before_a_guest(kit: Kit) -> None:
    """Where something has expired that no sweep has come to, nobody has to go who has only just come, and lives."""
    if kit.make_bounded is None:
        raise LeftOut(_WHY)

    async def work(stand: Stand) -> None:
        over = [await stand.begin(timeout=300.0) for _ in range(2)]
        for record in over:
            await stand.use(record, idle=Idle(300.0, 60.0))
        stand.now += 300
        guest = await stand.begin()
        stand.now += 60
        for there in (1, 2):
            await stand.begin()
            expect_that(await stand.look(guest) is not None, f"a guest had to go while {3 - there} of those who were counted was over")
        swept = await stand.sweep()
        expect("what a sweep gives out", sorted(one.locator for one in swept), sorted(one.locator for one in over))

    kit.on_bounded(3, work)


@checks.of_kit(30)
def what_is_over_keeps_nobody_out(kit: Kit) -> None:
    """A full store makes room by what has expired, before anybody else has to go, and before it says `StoreFull`."""
    if kit.make_bounded is None:
        raise LeftOut(_WHY)

    async def work(stand: Stand) -> None:
        over = [await stand.begin({"n": b"%d" % number}) for number in range(3)]
        for record in over:
            await stand.use(record)
        stand.now += 660
        fresh = [await stand.begin() for _ in range(3)]
        for record in fresh:
            expect_that(await stand.look(record) is not None, "a session that is not over had to go, and one that is was there")
        swept = await stand.sweep()
        expect("what a sweep gives out", sorted(one.locator for one in swept), sorted(one.locator for one in over))
        expect("why they have ended, as it says", {one.ending and one.ending.reason for one in swept}, {"timeout"})

    kit.on_bounded(3, work)


@checks.of_kit(13, 30)
def what_has_ended_takes_no_room(kit: Kit) -> None:
    """A session that is kept only until its hooks have run is none of those that are counted, and does not have to go a second time."""
    if kit.make_bounded is None:
        raise LeftOut(_WHY)

    async def work(stand: Stand) -> None:
        for comes_back in (True, False):
            ended = await stand.begin({"h": b"1"}, hooked=["h"])
            if comes_back:
                await stand.use(ended)
            await stand.end(ended)
        for _ in range(2):
            next_one = stand.record()
            expect("create after an end", await stand.store.create(next_one, stand.now), "created")
            await stand.use(next_one)
        expect("sweep within the lease", await stand.sweep(), [])
        stand.now += LEASE
        swept = await stand.sweep()
        expect("why they have ended, as a sweep says", [one.ending and one.ending.reason for one in swept], ["ended", "ended"])

    kit.on_bounded(2, work)


@checks.of_kit(13, 30)
def whoever_had_to_go_is_told_of_once(kit: Kit) -> None:
    """A session that had to make room is given out by one sweep, claimed from then on; one with hooks again when the lease is over."""
    if kit.make_bounded is None:
        raise LeftOut(_WHY)

    async def work(stand: Stand) -> None:
        plain = await stand.begin({"a": b"1"}, timeout=86_400.0)
        hooked = await stand.begin({"h": b"1"}, hooked=["h"], timeout=86_400.0)
        stand.now += 1
        for _ in range(2):
            await stand.begin(timeout=86_400.0)
        stand.now += 10 * LEASE
        swept = {record.locator: record.ending for record in await stand.sweep()}
        expect("what a sweep gives out", sorted(swept), sorted([plain.locator, hooked.locator]))
        for record, ending in ((plain, swept[plain.locator]), (hooked, swept[hooked.locator])):
            first = ending is not None and ending.reason == "evicted" and ending.claimed_until <= ending.at + LEASE
            expect_that(first, f"the ending is not that of an evicted session which nobody has claimed before: {ending!r}")
            await stand.expect_gone(record)
        expect("sweep within the lease", await stand.sweep(), [])
        stand.now += LEASE
        (again,) = await stand.sweep()
        expect("what the next sweep gives out", again.locator, hooked.locator)
        first = again.ending is None or again.ending.claimed_until <= again.ending.at + LEASE
        expect_that(not first, f"the ending says that nobody has claimed the session before: {again.ending!r}")

    kit.on_bounded(2, work)
