"""Checks of `sweep` and `scan` (rules 11, 12, 13, 16)."""

from __future__ import annotations

from ..changes import Changes, Idle
from ..record import Ending, Record
from .report import expect, expect_that
from .stand import IDLE, LEASE, Checks, Stand, renewing, same, writing

checks: Checks = Checks()

_YEAR = 365 * 86_400.0


def locators(records: list[Record]) -> list[bytes]:
    return sorted(record.locator for record in records)


@checks(11, 13)
async def a_sweep_ends_what_is_over(stand: Stand) -> None:
    """What is over by the idle timeout or the absolute lifetime is ended, with that reason, and given out once as it was."""
    idle = await stand.begin({"a": b"1"}, timeout=600.0, granularity=60.0)
    absolute = await stand.begin({"a": b"1"}, timeout=600.0, lifetime=660.0)
    lasting = await stand.begin({"a": b"1"}, timeout=None, lifetime=300.0)
    begun = stand.now
    stand.now = begun + 299.75
    expect("sweep before anything is over", await stand.sweep(), [])
    for seconds, records in ((300.0, [lasting]), (660.0, [idle, absolute])):
        stand.now = begun + seconds
        swept = {record.locator: record for record in await stand.sweep()}
        expect(f"the sessions swept after {seconds} s", sorted(swept), locators(records))
        for record in records:
            expected = record.copy()
            expected.ending = Ending("timeout" if record is idle else "lifetime", stand.now, stand.now + LEASE)
            same("a swept record", swept[record.locator], expected)
            await stand.expect_gone(record)
    expect("sweep again", await stand.sweep(), [])


@checks(13, 15)
async def a_session_that_loses_its_last_hook_late_is_still_told(stand: Stand) -> None:
    """Where nobody sweeps for days, and a clean-up then takes the last hooked value out of a session that is over: a sweep ends it."""
    record = await stand.begin({"h": b"1", "a": b"1"}, hooked=["h"])
    stand.now += 3 * 86_400
    changes = writing(h=None)
    changes.counts_as_use = False
    after = await stand.committed(record, changes)
    await stand.expect_stored(after)
    swept = await stand.sweep()
    expect("what a sweep gives out", [(one.locator, one.ending and one.ending.reason) for one in swept], [(record.locator, "timeout")])


@checks(11, 12, 16)
async def a_sweep_leaves_the_living(stand: Stand) -> None:
    """A session that is not over is left alone, however often and when one sweeps: its due time counts, not when it was created."""
    forever = await stand.begin({"a": b"1"}, timeout=None)
    record = await stand.begin({"a": b"1"}, timeout=600.0, granularity=60.0)
    over = stand.now + 660
    for before in (659.5, 300.0, 60.5, 1.5, 0.5, 0.25):
        stand.now = over - before
        expect(f"sweep {before} s before it is over", await stand.sweep(), [])
        await stand.expect_stored(record)
    stand.now = over
    expect("sweep when it is over", locators(await stand.sweep()), [record.locator])
    stand.now += 10 * 365 * 86_400
    expect("sweep ten years later", await stand.sweep(), [])
    await stand.expect_stored(forever, "a session without timeouts")


@checks(12, 16)
async def a_sweep_leaves_what_was_just_used(stand: Stand) -> None:
    """A session whose use was written by an open, a touch or a commit lives on, also if a sweep comes when it would have been over."""
    for verb in ("open", "touch", "commit", "late commit", "timeout"):
        record = await stand.begin({"a": b"1"}, timeout=600.0, granularity=60.0)
        begun = stand.now
        stand.now = begun + 659.5
        if verb == "open":
            await stand.use(record)
        elif verb == "touch":
            await stand.touch(record)
        elif verb == "commit":
            await stand.committed(record, writing(a=b"2"))
        elif verb == "timeout":
            await stand.committed(record, Changes(timeout=600.0, set_timeout=True))
        else:
            stand.now = begun + 5000.0
            await stand.committed(record, writing(a=b"2"))
        used = stand.now
        for now in (max(used, begun + 660), max(used, begun + 661), used + 659.5):
            stand.now = now
            expect(f"sweep {now - used} s after the {verb}", await stand.sweep(), [])
            expect_that(await stand.look(record) is not None, f"a sweep has ended a session that was used by {verb} {now - used} s before")
        stand.now = used + 660
        expect(f"sweep 660 s after the {verb}", locators(await stand.sweep()), [record.locator])


@checks(11)
async def a_shorter_timeout_comes_due_sooner(stand: Stand) -> None:
    """A session whose timeout was made shorter, by itself or with the manager's, is swept when the shorter one is over."""
    own = await stand.begin({"a": b"1"}, timeout=86_400.0)
    managers = await stand.begin({"a": b"1"}, timeout=86_400.0)
    never = await stand.begin({"a": b"1"}, timeout=None)
    stand.now += 100
    await stand.committed(own, Changes(timeout=60.0, set_timeout=True, granularity=6.0))
    await stand.use(managers, idle=Idle(60.0, 6.0))
    await stand.committed(never, writing(a=b"2"), idle=Idle(60.0, 6.0))
    changed = stand.now
    stand.now = changed + 65.75
    expect("sweep before it is over", await stand.sweep(), [])
    stand.now = changed + 66
    expect("sweep when the shorter timeout is over", locators(await stand.sweep()), locators([own, managers, never]))


@checks(11)
async def a_timeout_may_be_a_year(stand: Stand) -> None:
    """An idle timeout of a year and a lifetime of three are kept: the session is there months later, and swept when it is over."""
    record = await stand.begin({"a": b"1"}, timeout=_YEAR, granularity=86_400.0)
    absolute = await stand.begin({"a": b"1"}, timeout=None, lifetime=3 * _YEAR)
    begun = stand.now
    for one in (record, absolute):
        await stand.committed(one, writing(a=b"2"))
    for seconds, over in ((_YEAR, []), (_YEAR + 86_400, [record]), (3 * _YEAR - 1, []), (3 * _YEAR, [absolute])):
        stand.now = begun + seconds
        expect(f"sweep {seconds / 86_400} days after the creation", locators(await stand.sweep()), locators(over))


@checks(16)
async def a_sweep_goes_in_steps(stand: Stand) -> None:
    """A sweep gives out no more than its limit, and says whether more is due; in the end all that were over came out, once."""
    over = [await stand.begin({"n": b"%d" % number}, hooked=["n"] if number % 3 else []) for number in range(25)]
    stand.now += 400
    living = [await stand.begin({"n": b"%d" % number}) for number in range(25)]
    stand.now += 260
    first, more = await stand.store.sweep(stand.now, 10, LEASE, 1e6)
    expect_that(len(first) <= 10, f"a sweep of 10 gave out {len(first)}")
    expect_that(more, "a sweep of 10 has ended ten of 25 sessions at most, and says that nothing more is due")
    rest = await stand.sweep(limit=10)
    expect("all that came out", locators([*first, *rest]), locators(over))
    last, more = await stand.store.sweep(stand.now, 10, LEASE, 1e6)
    expect("sweep when all is done: how many, and whether there is more", (len(last), more), (0, False))
    expect("what is left", locators(await stand.scan()), locators(living))


@checks(16)
async def a_sweep_comes_to_an_end(stand: Stand) -> None:
    """Sweeping until nothing more is due ends, with any limit, also where many sessions are about to be over."""
    stand.now = 1_700_000_000.25
    records = [await stand.begin(timeout=600.5, granularity=60.0) for _ in range(40)]
    for seconds in (300.0, 660.0, 660.25):  # in the very second in which they come due, and before
        stand.now = 1_700_000_000.25 + seconds
        for limit in (1, 32):
            expect(f"sweep of {limit} at a time, {seconds} s after the creation", await stand.sweep(limit), [])
    stand.now = 1_700_000_000.25 + 660.5
    expect("sweep of one at a time, when they are over", locators(await stand.sweep(1)), locators(records))


@checks(8, 13, 16)
async def what_a_sweep_claims_and_ends_fits_its_limit(stand: Stand) -> None:
    """Sessions to end and ended ones to claim again are both given out, within the limit, each once."""
    ended = [await stand.begin({"h": b"1"}, hooked=["h"]) for _ in range(10)]
    for record in ended:
        await stand.end(record)
    over = [await stand.begin({"a": b"1"}) for _ in range(10)]
    stand.now += 700
    expect("all that came out", locators(await stand.sweep(limit=3)), locators([*ended, *over]))
    expect("sweep again", await stand.sweep(limit=3), [])


@checks(8)
async def a_scan_sees_each_session_once(stand: Stand) -> None:
    """A scan gives out every session that has not ended, as it is, once; expired ones too, for as long as no sweep has ended them."""
    expect("scan of an empty store", await stand.scan(), [])
    records = [await stand.begin({"n": b"%d" % number, "l": [b"1"]}, hooked=["n"] if number % 2 else []) for number in range(30)]
    for record in records[20:]:
        await stand.end(record)
    stand.now += 5000
    for limit in (1, 7, 20, 1000):
        found = await stand.scan(limit)
        expect(f"scan by {limit}", locators(found), locators(records[:20]))
    by_locator = {record.locator: record for record in records}
    for record in found:
        same("a record in a scan", record, by_locator[record.locator])


@checks(8)
async def a_scan_of_many_sessions_has_an_end_only_after_the_last(stand: Stand) -> None:
    """A scan gives every session, however many there are: "sign out everywhere" misses nobody."""
    records = [await stand.begin() for _ in range(1_050)]
    expect("the sessions that a scan by 100 gave", len(locators(await stand.scan(100))), len(records))


@checks(8)
async def a_scan_holds_while_others_write(stand: Stand) -> None:
    """Sessions that are there for the whole scan come once, whatever begins, ends or changes meanwhile; none comes twice."""
    staying = [await stand.begin({"n": b"1"}) for _ in range(20)]
    ending = [await stand.begin({"n": b"2"}) for _ in range(20)]
    found: list[Record] = []
    after: bytes | None = None
    for number in range(10_000):
        page, after = await stand.store.scan(after, 3)
        found += page
        if after is None:
            break
        if number < 20:
            await stand.end(ending[number])
            await stand.begin({"n": b"3"})
            await stand.committed(staying[number], writing(n=b"4"))
            await stand.committed(staying[-number], renewing(await stand.stored(staying[-number]), stand.another_secret()), IDLE)
    expect_that(after is None, "a scan has not ended after 10000 pages")
    seen = [record.locator for record in found]
    expect_that(len(set(seen)) == len(seen), "a scan gave out a session twice")
    expect("sessions that were there all the time, and the scan has not seen", [one for one in staying if one.locator not in seen], [])
