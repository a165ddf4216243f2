"""Checks of `open` and `touch`: what counts as a use, and when it is written (rules 9, 11, 12)."""

from __future__ import annotations

from ..changes import Idle
from ..record import OWN_TIMEOUT, REUSED, Record
from .report import expect, expect_that
from .stand import ADDRESS, Checks, Stand, use_of, values_of, writing

checks: Checks = Checks()


async def used(stand: Stand, record: Record) -> float:
    return (await stand.stored(record)).used


@checks(12)
async def looking_is_no_use(stand: Stand) -> None:
    """`open` without a use changes nothing, however much time has passed."""
    record = await stand.begin({"a": b"1"})
    for _ in range(3):
        stand.now += 200
        await stand.expect_stored(record)


@checks(12, 30)
async def a_second_request_is_remembered(stand: Stand) -> None:
    """The first use that fits marks the session as used by a second request; its time is not written within the granularity."""
    record = await stand.begin({"a": b"1"})
    stand.now += 1
    found = await stand.use(record)
    expect_that(found is not None and found.flags & REUSED, "open with a use did not mark the record as used again")
    after = await stand.stored(record)
    expect_that(after.flags & REUSED, "the mark was not stored")
    expect("the time of last use, a second after the creation", after.used, record.used)
    expect_that(found is not None and not found.use_written, "use_written was set, and no use was written")


@checks(12)
async def a_use_is_written_once_per_granularity(stand: Stand) -> None:
    """The time of last use is written when the written one is `granularity` or more away, and not before."""
    record = await stand.begin(granularity=60.0)
    begun = stand.now
    for seconds, expected in ((59.5, 0.0), (60.0, 60.0), (61.0, 60.0), (119.5, 60.0), (120.0, 120.0)):
        stand.now = begun + seconds
        found = await stand.use(record)
        expect(
            f"the time of last use in the answer, {seconds} s after the creation", None if found is None else found.used - begun, expected
        )
        expect(f"the time of last use stored, {seconds} s after the creation", await used(stand, record) - begun, expected)
        written = expected == seconds
        expect(f"use_written, {seconds} s after the creation", found is not None and found.use_written, written)


@checks(12)
async def a_clock_that_went_back_writes_the_use(stand: Stand) -> None:
    """A written use that lies in the future is replaced: it would keep the session for longer than its timeout."""
    record = await stand.begin()
    stand.now -= 3600
    await stand.use(record)
    expect("the time of last use", await used(stand, record), stand.now)
    stand.now += 660
    expect("sweep when the session is over by the new time", [one.locator for one in await stand.sweep()], [record.locator])


@checks(9, 12, 17)
async def a_wrong_secret_is_no_use(stand: Stand) -> None:
    """An `open` with another digest than the record's, or with none, changes nothing, not even the time of last use."""
    record = await stand.begin({"a": b"1"})
    stand.now += 61
    for wrong in (
        stand.draw(16),
        b"",
        record.tag_digest[:-1] + bytes([record.tag_digest[-1] ^ 1]),
        record.tag_digest[:8],
        record.digest[:16],
    ):
        await stand.use(record, use_of(record, tag_digest=wrong))
        await stand.expect_stored(record, f"after an open with a wrong digest of {len(wrong)} bytes")


@checks(9, 12)
async def another_address_is_no_use(stand: Stand) -> None:
    """An `open` from another address, or from none, changes nothing, unless any address will do."""
    record = await stand.begin({"a": b"1"})
    nowhere = await stand.begin({"a": b"1"}, address=None)
    stand.now += 61
    for bound, address in ((record, "10.1.2.30"), (record, "10.1.2."), (record, None), (nowhere, ADDRESS), (nowhere, None), (nowhere, "")):
        await stand.use(bound, use_of(bound, address))
        await stand.expect_stored(bound, f"after an open from {address!r} of a session bound to {bound.address!r}")
    for bound, address in ((record, None), (nowhere, ADDRESS)):
        await stand.use(bound, use_of(bound, address, any_address=True))
        expect("the time of last use, any address being right", await used(stand, bound), stand.now)


@checks(11)
async def what_is_over_is_handed_out_as_it_is(stand: Stand) -> None:
    """An expired record is given out unchanged for as long as no sweep has ended it, and its use is not written: the caller decides."""
    idle = await stand.begin({"a": b"1"}, timeout=600.0, granularity=60.0)
    absolute = await stand.begin({"a": b"1"}, timeout=None, lifetime=660.0)
    for seconds in (660.0, 1000.0, 30 * 86_400.0):
        stand.now = idle.created + seconds
        for record in (idle, absolute):
            await stand.use(record)
            expect("touch of a session that is over", await stand.touch(record), False)
            await stand.expect_stored(record, f"{seconds} s after the creation")


@checks(11, 12)
async def a_use_in_the_last_moment_counts(stand: Stand) -> None:
    """A session is over when `now` is its due time (last written use + timeout + granularity), and not before."""
    record = await stand.begin(timeout=600.0, granularity=60.0)
    stand.now = record.created + 659.75
    expect("touch in the last moment", await stand.touch(record), True)
    expect("the time of last use", await used(stand, record), stand.now)
    stand.now += 660
    expect("touch when it is over", await stand.touch(record), False)


@checks(11, 12)
async def a_written_use_takes_over_the_idle_timeout(stand: Stand) -> None:
    """A verb that writes a use gives a session without a timeout of its own the manager's; one that has its own keeps it."""
    idle = Idle(1800.0, 120.0)
    begun = stand.now
    for verb in ("open", "touch", "commit"):
        stand.now = begun
        record, own, lasting = await stand.begin(), await stand.begin(own_timeout=True), await stand.begin()
        for after, expected in ((1.0, (600.0, 60.0)), (61.0, (1800.0, 120.0))):
            stand.now = begun + after
            for one, timeout in ((record, idle), (own, idle), (lasting, Idle(None, 120.0))):
                if verb == "open":
                    await stand.use(one, idle=timeout)
                elif verb == "touch":
                    await stand.touch(one, idle=timeout)
                else:
                    await stand.committed(one, writing(a=b"1"), idle=timeout)
            found = await stand.stored(record)
            expect(f"timeout and granularity after {verb} at {after} s", (found.timeout, found.granularity), expected)
        kept = await stand.stored(own)
        expect(
            f"timeout and granularity of its own after {verb}",
            (kept.timeout, kept.granularity, kept.flags & OWN_TIMEOUT),
            (600.0, 60.0, OWN_TIMEOUT),
        )
        expect(f"timeout after {verb} with none", (await stand.stored(lasting)).timeout, None)


@checks(12)
async def touch_writes_the_use(stand: Stand) -> None:
    """`touch` writes the time of a use that the caller has judged, once per granularity, and says that the session is there."""
    record = await stand.begin({"a": b"1"})
    begun = stand.now
    for seconds, expected in ((1.0, 0.0), (60.0, 60.0), (61.0, 60.0)):
        stand.now = begun + seconds
        expect("touch", await stand.touch(record), True)
        found = await stand.stored(record)
        expect(f"the time of last use, {seconds} s after the creation", found.used - begun, expected)
        expect_that(found.flags & REUSED, "touch did not mark the record as used again")
    expect("the values", values_of(await stand.stored(record)), {"a": b"1"})


@checks(9)
async def touch_needs_the_secret(stand: Stand) -> None:
    """`touch` under another digest says False and changes nothing."""
    record = await stand.begin({"a": b"1"})
    stand.now += 61
    for wrong in (stand.draw(32), b"", record.tag_digest):
        expect("touch with a wrong digest", await stand.touch(record, wrong), False)
        await stand.expect_stored(record, "after a touch with a wrong digest")
