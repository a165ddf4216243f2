"""Checks of `commit`: all of it or nothing, and what each part does (rules 7, 11)."""

from __future__ import annotations

from ..changes import Changes, ListChange, Renewal, Write
from ..record import FIELD_HOOKED, OWN_TIMEOUT, PERSISTENT, TRANSIENT, field_revision
from .report import expect, expect_that
from .stand import Checks, Stand, same, values_of, writing

checks: Checks = Checks()


def conditional(base: int, **payloads: bytes | None) -> Changes:
    return Changes({name: Write(payload, base=base) for name, payload in payloads.items()})


@checks(7)
async def a_commit_writes_what_it_says(stand: Stand) -> None:
    """A commit assigns and removes the values it names, and no others; its answer is what is stored then."""
    record = await stand.begin({"keep": b"1", "change": b"1", "remove": b"1"})
    after = await stand.committed(record, writing(change=b"2", add=b"3", remove=None, absent=None))
    expect("the values", values_of(after), {"keep": b"1", "change": b"2", "add": b"3"})
    await stand.expect_stored(after)
    emptied = await stand.committed(record, writing(keep=None, change=None, add=None))
    expect("the values after all were removed", values_of(emptied), {})
    await stand.expect_stored(emptied)


@checks(7)
async def every_commit_is_a_revision(stand: Stand) -> None:
    """A commit raises the record's revision by one, and every field it writes gets that one; the others keep theirs."""
    record = await stand.begin({"a": b"1", "b": b"1", "l": [b"1"]})
    for number in range(2, 5):
        after = await stand.committed(record, writing(a=b"1"))
        expect("the record's revision", after.revision, number)
        expect("the revision of the field that was written", field_revision(after.fields["a"]), number)
        expect("the revision of the field that was not", field_revision(after.fields["b"]), 1)


@checks(7)
async def different_keys_both_succeed(stand: Stand) -> None:
    """Two requests that opened the same session and write different keys both succeed, and both values are there."""
    record = await stand.begin({"before": b"1"})
    await stand.use(record)
    await stand.use(record)
    await stand.committed(record, writing(one=b"1"))
    await stand.committed(record, writing(two=b"2"))
    expect("the values", values_of(await stand.stored(record)), {"before": b"1", "one": b"1", "two": b"2"})


@checks(7)
async def the_last_plain_write_wins(stand: Stand) -> None:
    """Plain assignments never conflict, however old the view is that they come from."""
    record = await stand.begin({"a": b"0"})
    await stand.committed(record, writing(a=b"1"))
    after = await stand.committed(record, writing(a=b"2"))
    expect("the value", values_of(after), {"a": b"2"})


@checks(7)
async def a_conditional_write_needs_its_revision(stand: Stand) -> None:
    """A write with a base applies only while the stored field is of that revision; the conflict's answer is what is stored now."""
    record = await stand.begin({"a": b"0", "other": b"0"})
    first = await stand.committed(record, conditional(1, a=b"1"))
    await stand.committed(record, writing(other=b"1"))
    current = await stand.stored(record)
    for base in (1, 0, 3, 4):
        outcome = await stand.commit(record, conditional(base, a=b"2"))
        expect(f"commit with the base {base}, the field being of revision {field_revision(first.fields['a'])}", outcome.status, "conflict")
        same("the record in a conflict's answer", outcome.record, current)
        await stand.expect_stored(current, "after a conflict")
    after = await stand.committed(record, conditional(2, a=b"2"))
    expect("the value after a commit with the right base", values_of(after)["a"], b"2")


@checks(7)
async def a_write_may_need_that_nothing_is_there(stand: Stand) -> None:
    """The base 0 stands for a field that is not there; one that was removed is not there, whatever it was."""
    record = await stand.begin({"there": b"1"})
    expect("base 0 on a field that is there", (await stand.commit(record, conditional(0, there=b"2"))).status, "conflict")
    expect("another base on one that is not", (await stand.commit(record, conditional(1, new=b"2"))).status, "conflict")
    after = await stand.committed(record, conditional(0, new=b"2"))
    removed = await stand.committed(record, conditional(field_revision(after.fields["new"]), new=None))
    expect("the values after a conditional removal", values_of(removed), {"there": b"1"})
    await stand.committed(record, conditional(0, new=b"3"))


@checks(7)
async def a_commit_is_all_or_nothing(stand: Stand) -> None:
    """If one of a commit's writes conflicts, nothing of it is applied: no other write, list, timeout, renewal or use."""
    record = await stand.begin({"a": b"0", "z": b"0", "l": [b"0"]})
    current = await stand.committed(record, writing(m=b"0"))
    stand.now += 61
    secret = stand.another_secret()
    for conflicting in ("a", "m", "z"):
        writes = {name: Write(b"half") for name in ("a", "m", "n", "z")}
        writes[conflicting] = Write(b"half", base=77)
        # One that has its base right stands before the one that has not, and one behind.
        writes["m" if conflicting != "m" else "a"] = Write(b"half", base=2 if conflicting != "m" else 1)
        changes = Changes(
            writes,
            lists={"l": ListChange([(1, 0, b"half")])},
            timeout=5.0,
            set_timeout=True,
            persistent=True,
            set_persistent=True,
            renewal=Renewal(record.digest, *secret, "10.9.9.9", 0.0),
        )
        outcome = await stand.commit(record, changes)
        expect(f"commit with a conflict in {conflicting!r}", outcome.status, "conflict")
        same("the record in the answer", outcome.record, current)
        await stand.expect_stored(current, f"after a commit with a conflict in {conflicting!r}: half of it was applied")


@checks(7)
async def a_commit_of_many_parts_is_one(stand: Stand) -> None:
    """Everything that one commit can do happens in it together, under one revision."""
    record = await stand.begin({"a": b"0", "b": b"0", "l": [b"0"]})
    secret = stand.another_secret()
    after = await stand.committed(
        record,
        Changes(
            {"a": Write(b"1", base=1), "b": Write(None), "c": Write(b"1", 3, FIELD_HOOKED)},
            lists={"l": ListChange([(1, 0, b"1")]), "m": ListChange([(1, 0, b"1")])},
            timeout=90.0,
            granularity=9.0,
            set_timeout=True,
            persistent=False,
            set_persistent=True,
            renewal=Renewal(record.digest, *secret, "10.9.9.9", 30.0),
        ),
    )
    expect("the values", values_of(after), {"a": b"1", "l": [b"0", b"1"], "c": b"1", "m": [b"1"]})
    expect("the timeout", (after.timeout, after.granularity, after.flags & OWN_TIMEOUT), (90.0, 9.0, OWN_TIMEOUT))
    expect("the secret and the address", (after.digest, after.tag_digest, after.address), (*secret, "10.9.9.9"))
    expect("the revisions", (after.revision, field_revision(after.fields["a"]), field_revision(after.fields["c"])), (2, 2, 2))
    expect_that(after.flags & TRANSIENT and after.hooked, "the flags of the session were not set")
    await stand.expect_stored(after)


@checks(7, 9)
async def clear_drops_every_value_first(stand: Stand) -> None:
    """With `clear` only what the same commit writes is left; the revision goes on, so that older views conflict."""
    record = await stand.begin({"a": b"0", "h": b"0", "l": [b"0"]}, hooked=["h"])
    changes = writing(b=b"1")
    changes.clear = True
    after = await stand.committed(record, changes)
    expect("the values", values_of(after), {"b": b"1"})
    expect("the revision", after.revision, 2)
    expect_that(not after.hooked, "the session is still marked as one with hooked values")
    await stand.expect_stored(after)
    changes = Changes({"b": Write(b"2", base=9)}, clear=True)
    expect("a clear in conflict", (await stand.commit(record, changes)).status, "conflict")
    await stand.expect_stored(after, "after a clear in conflict")


@checks(13)
async def the_hooked_mark_follows_the_values(stand: Stand) -> None:
    """A record is marked as hooked while one of its fields is: that is what keeps it when it ends."""
    record = await stand.begin({"a": b"0"})
    for changes, expected in (
        (Changes({"h": Write(b"1", 1, FIELD_HOOKED)}), True),
        (writing(a=b"1"), True),
        (Changes({"g": Write(b"1", 1, FIELD_HOOKED), "h": Write(None)}), True),
        (Changes({"g": Write(b"plain now")}), False),
    ):
        after = await stand.committed(record, changes)
        expect("hooked", after.hooked, expected)
        await stand.expect_stored(after)


@checks(11)
async def a_session_may_have_its_own_timeout(stand: Stand) -> None:
    """A commit may set the session's timeout, or none: that is a use, and what the manager's timeout is does not matter from then on."""
    record, neighbour = await stand.begin(), await stand.begin()
    stand.now += 10
    after = await stand.committed(record, Changes(timeout=3600.0, set_timeout=True, granularity=30.0))
    expect("timeout, granularity, last use", (after.timeout, after.granularity, after.used), (3600.0, 30.0, stand.now))
    stand.now += 3000
    expect("touch within its own timeout", await stand.touch(record), True)
    expect("the timeout after a use", (await stand.stored(record)).timeout, 3600.0)
    expect("touch of another session", await stand.touch(neighbour), False)
    forever = await stand.committed(record, Changes(timeout=None, set_timeout=True))
    expect("timeout and granularity", (forever.timeout, forever.granularity), (None, 60.0))
    stand.now += 10 * 365 * 86_400
    expect("touch without a timeout, ten years later", await stand.touch(record), True)


@checks(19)
async def a_session_may_choose_its_cookie(stand: Stand) -> None:
    """A commit may set whether the cookie is persistent: yes, no, or as the policy says."""
    record = await stand.begin()
    for choice, flags in ((True, PERSISTENT), (False, TRANSIENT), (None, 0), (True, PERSISTENT)):
        after = await stand.committed(record, Changes(persistent=choice, set_persistent=True))
        expect(f"the flags for persistent={choice}", after.flags & (PERSISTENT | TRANSIENT), flags)
        await stand.expect_stored(after)


@checks(11)
async def an_idle_timeout_is_ignored_at_the_commit(stand: Stand) -> None:
    """A request that opened in time commits, also when the idle timeout has run out meanwhile; and that is a use."""
    record = await stand.begin({"a": b"0"})
    await stand.use(record)
    stand.now += 5000
    after = await stand.committed(record, writing(a=b"1"))
    expect("the time of last use", after.used, stand.now)
    expect("sweep after it", await stand.sweep(), [])
    await stand.expect_stored(after)


@checks(11)
async def a_lifetime_is_not_ignored_at_the_commit(stand: Stand) -> None:
    """When the absolute lifetime is over, a commit is "gone" and applies nothing."""
    record = await stand.begin({"a": b"0"}, lifetime=300.0)
    stand.now = record.created + 299.75
    after = await stand.committed(record, writing(a=b"1"))
    for later in (300.0, 301.0):
        stand.now = record.created + later
        expect(f"commit {later} s into a lifetime of 300 s", (await stand.commit(record, writing(a=b"2"))).status, "gone")
        await stand.expect_stored(after)


@checks(12)
async def a_commit_is_a_use(stand: Stand) -> None:
    """A commit writes the use when the written one is the granularity away, and not when it is no doing of the user's."""
    record = await stand.begin({"a": b"0"})
    stand.now += 59
    after = await stand.committed(record, writing(a=b"1"))
    expect("the time of last use within the granularity", (after.used, after.use_written), (record.used, False))
    stand.now += 2
    not_by_the_user = writing(a=b"2")
    not_by_the_user.counts_as_use = False
    after = await stand.committed(record, not_by_the_user)
    expect("the time of last use after a commit that does not count", (after.used, after.use_written), (record.used, False))
    after = await stand.committed(record, writing(a=b"3"))
    expect("the time of last use after one that does", (after.used, after.use_written), (stand.now, True))
    await stand.expect_stored(after)


@checks(7)
async def an_empty_commit_finds_the_session(stand: Stand) -> None:
    """A commit without changes is committed if the session is there: values of this process go with it."""
    record = await stand.begin({"a": b"0"})
    after = await stand.committed(record, Changes(residents=True))
    expect("the values", values_of(after), {"a": b"0"})
    await stand.end(record)
    expect("the same after the end", (await stand.commit(record, Changes(residents=True))).status, "gone")
