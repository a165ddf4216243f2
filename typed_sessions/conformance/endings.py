"""Checks of `end` and `clear`, and of what becomes of an ended session with hooks (rules 8, 13, 15)."""

from __future__ import annotations

from ..changes import Changes, Write
from ..record import END_REASONS, FIELD_HOOKED, Ending, Record
from .report import expect, expect_that
from .stand import GRACE, LEASE, Checks, Stand, same, values_of, writing

checks: Checks = Checks()


def as_ended(record: Record, ending: Ending) -> Record:
    ended = record.copy()
    ended.ending = ending
    return ended


async def the_one_swept(stand: Stand, lease: float) -> Record:
    swept = await stand.sweep(lease=lease)
    expect("how many sessions a sweep gave out", len(swept), 1)
    return swept[0]


@checks(13, 15)
async def end_gives_the_session_as_it_was(stand: Stand) -> None:
    """`end` gives out the record as it was, values and all, with its `ending`: the reason, the time, and the lease; for each reason."""
    for reason in END_REASONS:
        for hooked in ([], ["h"]):
            record = await stand.begin({"a": b"1", "h": b"2", "l": [b"3"]}, hooked=hooked, lifetime=3600.0)
            stand.now += 5
            found = await stand.end(record, reason, 45.0)
            same(f"end as {reason!r}", found, as_ended(record, Ending(reason, stand.now, stand.now + 45.0)))


@checks(8)
async def an_ended_session_is_gone_for_every_verb(stand: Stand) -> None:
    """After the end no verb finds the session, also not for a request that has it open: nothing brings it back."""
    for hooked in ([], ["a"]):
        record = await stand.begin({"a": b"1"}, hooked=hooked)
        stand.now += 61
        await stand.use(record)
        expect_that(await stand.end(record) is not None, "end of a live session gave None")
        stand.now += 61
        await stand.expect_gone(record)


@checks(8)
async def a_commit_does_not_bring_it_back(stand: Stand) -> None:
    """A request that opened in time and commits after the end is told "gone", and nothing is stored: no upsert."""
    record = await stand.begin({"a": b"1"})
    await stand.use(record)
    await stand.end(record)
    for changes in (writing(a=b"2"), Changes(timeout=60.0, set_timeout=True), Changes()):
        expect("commit after the end", (await stand.commit(record, changes)).status, "gone")
        expect("open after it", await stand.look(record), None)


@checks(8)
async def a_touch_does_not_bring_it_back(stand: Stand) -> None:
    """A touch after the end says False, and nothing is stored."""
    record = await stand.begin({"a": b"1"})
    await stand.use(record)
    await stand.end(record)
    stand.now += 61
    expect("touch after the end", await stand.touch(record), False)
    expect("open after it", await stand.look(record), None)


@checks(15)
async def a_session_ends_once(stand: Stand) -> None:
    """The second `end` gives None, and so does one after a sweep: one caller delivers `End` and runs the hooks."""
    for hooked in ([], ["a"]):
        record = await stand.begin({"a": b"1"}, hooked=hooked)
        expect_that(await stand.end(record) is not None, "end of a live session gave None")
        expect("the second end", await stand.end(record, "timeout"), None)
        swept = await stand.begin({"a": b"1"}, hooked=hooked)
        stand.now += 5000
        expect("sweep", [one.locator for one in await stand.sweep()].count(swept.locator), 1)
        expect("end after a sweep", await stand.end(swept), None)


@checks(13)
async def without_hooks_nothing_is_kept(stand: Stand) -> None:
    """A session without hooked values is gone when it has ended: nobody is given it to clean up."""
    record = await stand.begin({"a": b"1"})
    await stand.end(record)
    stand.now += LEASE + 1
    expect("sweep after the lease", await stand.sweep(), [])
    again = stand.record({"a": b"2"})
    again.locator = record.locator
    expect("create under its locator", await stand.store.create(again, stand.now), "created")


@checks(13)
async def a_lease_keeps_others_away(stand: Stand) -> None:
    """Ending a session with hooked values claims it for `lease` seconds: nobody else is given it before, then one is, with the values."""
    record = await stand.begin({"h": b"1", "a": b"2"}, hooked=["h"])
    ended = stand.now
    await stand.end(record, "check", 60.0)
    for seconds in (0.0, 59.75):
        stand.now = ended + seconds
        expect(f"sweep {seconds} s into a lease of 60 s", await stand.sweep(), [])
    stand.now = ended + 60.0
    claimed = await the_one_swept(stand, 30.0)
    same("the claimed record", claimed, as_ended(record, Ending("check", ended, stand.now + 30.0)))
    expect("sweep again", await stand.sweep(), [])
    stand.now += 29.75
    expect("sweep before the second lease is over", await stand.sweep(), [])
    stand.now += 0.25
    claimed = await the_one_swept(stand, 30.0)
    same("the record, claimed again", claimed, as_ended(record, Ending("check", ended, stand.now + 30.0)))


@checks(13)
async def an_expired_session_with_hooks_is_claimed_by_its_sweep(stand: Stand) -> None:
    """Whoever sweeps an expired session with hooked values has the lease; if it dies, another is given the session after that."""
    record = await stand.begin({"h": b"1"}, hooked=["h"])
    stand.now += 700
    over = stand.now
    swept = await the_one_swept(stand, 60.0)
    same("the swept record", swept, as_ended(record, Ending("timeout", over, over + 60.0)))
    await stand.expect_gone(record)
    expect("sweep within the lease", await stand.sweep(), [])
    stand.now += 60
    claimed = await the_one_swept(stand, 60.0)
    same("the record, claimed again", claimed, as_ended(record, Ending("timeout", over, stand.now + 60.0)))


@checks(13)
async def clear_drops_the_session(stand: Stand) -> None:
    """When the hooks have run, `clear` drops the record: nobody is given it again."""
    for names in (None, ["h"], ["h", "a", "unknown"]):
        record = await stand.begin({"h": b"1", "a": b"2"}, hooked=["h"])
        await stand.end(record)
        await stand.store.clear(record.locator, names)
        stand.now += LEASE + 1
        expect(f"sweep after clear({names})", await stand.sweep(), [])
        again = stand.record({"a": b"2"})
        again.locator = record.locator
        expect(f"create under its locator after clear({names})", await stand.store.create(again, stand.now), "created")
        await stand.end(again)


@checks(13)
async def clear_leaves_what_others_have_to_run(stand: Stand) -> None:
    """A process clears the fields whose hooks it has run; the record stays for the others', with its lease."""
    record = await stand.begin({"h": b"1", "g": b"2", "a": b"3"}, hooked=["h", "g"])
    ended = stand.now
    await stand.end(record, lease=60.0)
    await stand.store.clear(record.locator, ["h", "a"])
    expect("sweep within the lease", await stand.sweep(), [])
    stand.now += 60
    claimed = await the_one_swept(stand, 60.0)
    expect("what is left", values_of(claimed), {"g": b"2"})
    expect("its ending", claimed.ending, Ending("ended", ended, stand.now + 60.0))
    await stand.store.clear(record.locator, ["g"])
    stand.now += 61
    expect("sweep after the last hook", await stand.sweep(), [])


@checks(8, 13)
async def clear_leaves_the_living_alone(stand: Stand) -> None:
    """`clear` is for ended sessions: a live one keeps its values."""
    record = await stand.begin({"h": b"1", "a": b"2"}, hooked=["h"])
    await stand.store.clear(record.locator, ["h"])
    await stand.store.clear(record.locator, None)
    await stand.expect_stored(record)


@checks(13)
async def nobody_cleans_up_for_ever(stand: Stand) -> None:
    """An ended session that nobody has cleared for the grace is dropped by a sweep, whoever had it last."""
    record = await stand.begin({"h": b"1"}, hooked=["h"])
    await stand.end(record)
    for _ in range(3):
        stand.now += LEASE + 1
        expect("sweeps before the grace is over", [one.locator for one in await stand.sweep()], [record.locator])
    stand.now += GRACE
    await stand.sweep()
    stand.now += LEASE + 1
    expect("sweep after the grace", await stand.sweep(), [])
    again = stand.record({"a": b"2"})
    again.locator = record.locator
    expect("create under its locator", await stand.store.create(again, stand.now), "created")


@checks(13)
async def what_nobody_cleans_up_after_is_claimed_more_and_more_rarely(stand: Stand) -> None:
    """A claim long after the end holds for an eighth of the time since, until the grace is over at most: not all is claimed each minute."""
    record = await stand.begin({"h": b"1"}, hooked=["h"])
    ended = stand.now
    await stand.end(record)
    for after, until in ((8_000.0, 9_000.0), (GRACE - 500.0, GRACE)):
        stand.now = ended + after
        claimed = await the_one_swept(stand, LEASE)
        same(f"the record, claimed {after:g} s after its end", claimed, as_ended(record, Ending("ended", ended, ended + until)))
        stand.now = ended + until - 0.25
        expect("sweep before that is over", await stand.sweep(), [])
    stand.now = ended + GRACE
    expect("sweeps when the grace is over", [one.locator for one in await stand.sweep()], [record.locator])
    stand.now += LEASE + 1
    expect("sweep after that", await stand.sweep(), [])


@checks(13)
async def a_value_committed_last_is_there_at_the_end(stand: Stand) -> None:
    """Hooks see what was committed last, also where the session became a hooked one by that commit."""
    record = await stand.begin({"a": b"1"})
    await stand.committed(record, Changes({"h": Write(b"late", 1, FIELD_HOOKED)}))
    found = await stand.end(record)
    expect("the values in end's answer", None if found is None else values_of(found), {"a": b"1", "h": b"late"})
    stand.now += LEASE
    expect("the values when it is claimed again", [values_of(one) for one in await stand.sweep()], [{"a": b"1", "h": b"late"}])
