"""Checks of renewals: a new secret for the same session (rule 9)."""

from __future__ import annotations

from ..changes import Changes, Renewal
from ..record import NO_TAG
from .report import expect
from .stand import Checks, Stand, renewed, renewing, same, use_of, values_of, writing

checks: Checks = Checks()


@checks(9)
async def a_renewal_replaces_the_secret_and_nothing_else(stand: Stand) -> None:
    """A renewal replaces the digests and the address, and keeps the locator, the values, the creation and the absolute lifetime."""
    record = await stand.begin({"a": b"1", "l": [b"1"]}, lifetime=3600.0)
    secret = stand.another_secret()
    stand.now += 10
    after = await stand.committed(record, renewing(record, secret, address="10.9.9.9"))
    expect("the digests and the address", (after.digest, after.tag_digest, after.address), (*secret, "10.9.9.9"))
    expect("creation and deadline", (after.created, after.deadline), (record.created, record.deadline))
    expect("the values", values_of(after), {"a": b"1", "l": [b"1"]})
    previous = after.previous
    expect(
        "the previous secret",
        previous and (previous.digest, previous.tag_digest, previous.until),
        (record.digest, NO_TAG, stand.now),
    )
    await stand.expect_stored(after)


@checks(9, 17)
async def a_renewal_binds_to_the_address_it_says(stand: Stand) -> None:
    """Another one, or none at all: the session is not left bound to the address that it had before."""
    for address in ("10.9.9.9", None):
        record = await stand.begin()
        after = await stand.committed(record, Changes(renewal=Renewal(record.digest, *stand.another_secret(), address, 0.0)))
        expect("the address", after.address, address)
        await stand.expect_stored(after)


@checks(9)
async def without_an_overlap_the_old_secret_opens_nothing(stand: Stand) -> None:
    """After a renewal with overlap 0 a use or touch under the previous secret changes nothing: that is what sign-in needs."""
    record = await stand.begin({"a": b"1"})
    secret = stand.another_secret()
    after = await stand.committed(record, renewing(record, secret))
    for seconds in (-30.0, 30.0, 1.0, 60.0):  # also where a clock is behind
        stand.now += seconds
        await stand.use(record)
        expect("touch under the old secret", await stand.touch(record), False)
        await stand.expect_stored(after, "after the old secret was presented")
    new = renewed(record, secret)
    await stand.use(new)
    expect("the time of last use under the new secret", (await stand.stored(record)).used, stand.now)
    stand.now += 61
    expect("touch under the new secret", await stand.touch(new), True)


@checks(9)
async def in_its_overlap_the_old_secret_opens_the_session(stand: Stand) -> None:
    """For `overlap` seconds both secrets open the session, each with its own digest of both cookies; then only the new one."""
    record = await stand.begin({"a": b"1"}, granularity=10.0, own_timeout=True)
    secret = stand.another_secret()
    new = renewed(record, secret)
    await stand.committed(record, renewing(record, secret, overlap=100.0))
    begun = stand.now
    for seconds, opens in ((50.0, True), (99.75, True), (100.0, False), (200.0, False)):
        stand.now = begun + seconds
        before = await stand.stored(record)
        await stand.use(record)
        expect(f"touch under the old secret, {seconds} s into an overlap of 100 s", await stand.touch(record), opens)
        written = stand.now if opens else before.used
        expect(f"the time of last use, {seconds} s into the overlap", (await stand.stored(record)).used, written)
    await stand.use(new)
    expect("the time of last use under the new secret", (await stand.stored(record)).used, stand.now)


@checks(9)
async def the_two_cookies_belong_together(stand: Stand) -> None:
    """In the overlap a digest of neither pair is no use: the digests that are compared are of both cookies together."""
    record = await stand.begin({"a": b"1"})
    secret = stand.another_secret()
    after = await stand.committed(record, renewing(record, secret, overlap=1000.0))
    stand.now += 61
    for wrong in (record.digest[:16], secret.digest[:16], stand.draw(16), b""):
        await stand.use(record, use_of(record, tag_digest=wrong))
        await stand.expect_stored(after, "after a digest of neither pair")


@checks(9)
async def of_two_renewals_one_wins(stand: Stand) -> None:
    """A renewal of a secret that is not the current one any more is "superseded", and nothing of its commit is applied."""
    record = await stand.begin({"a": b"1"})
    first, second = stand.another_secret(), stand.another_secret()
    after = await stand.committed(record, renewing(record, first))
    changes = renewing(record, second)
    changes.writes = writing(a=b"2").writes
    outcome = await stand.commit(record, changes)
    expect("the second renewal", outcome.status, "superseded")
    same("the record in its answer", outcome.record, after)
    await stand.expect_stored(after)


@checks(9)
async def a_lost_rotation_commits_the_rest(stand: Stand) -> None:
    """With an overlap a renewal that lost is left out, and the rest of its commit is applied."""
    record = await stand.begin({"a": b"1"})
    first, second = stand.another_secret(), stand.another_secret()
    winner = await stand.committed(record, renewing(record, first, overlap=30.0))
    changes = renewing(record, second, overlap=30.0)
    changes.writes = writing(a=b"2").writes
    after = await stand.committed(record, changes)
    expect("the secret", (after.digest, after.tag_digest, after.previous), (winner.digest, winner.tag_digest, winner.previous))
    expect("the values", values_of(after), {"a": b"2"})
    await stand.expect_stored(after)


@checks(9)
async def a_lost_rotation_clears_nothing(stand: Stand) -> None:
    """With an overlap, what a renewal that lost would have dropped stays: it is what the one that won has put there."""
    record = await stand.begin({"a": b"1", "l": [b"1"]})
    changes = renewing(record, stand.another_secret(), overlap=30.0)
    changes.clear, changes.writes = True, writing(user=b"ann").writes
    await stand.committed(record, changes)
    changes = renewing(record, stand.another_secret(), overlap=30.0)
    changes.clear, changes.writes = True, writing(b=b"2").writes
    after = await stand.committed(record, changes)
    expect("the values", values_of(after), {"user": b"ann", "b": b"2"})
    await stand.expect_stored(after)


@checks(9)
async def only_the_last_secret_is_remembered(stand: Stand) -> None:
    """After a second renewal the secret before the previous one opens nothing, also in what would have been its overlap."""
    record = await stand.begin({"a": b"1"})
    first, second = stand.another_secret(), stand.another_secret()
    once = renewed(record, first)
    await stand.committed(record, renewing(record, first, overlap=1000.0))
    after = await stand.committed(record, renewing(once, second, overlap=1000.0))
    stand.now += 61
    await stand.use(record)
    expect("touch under the secret before the previous one", await stand.touch(record), False)
    await stand.expect_stored(after)
    expect("touch under the previous one", await stand.touch(once), True)


@checks(8, 9)
async def an_ended_session_is_not_renewed(stand: Stand) -> None:
    """A renewal that comes after the end is "gone"."""
    record = await stand.begin({"a": b"1"})
    await stand.use(record)
    await stand.end(record)
    expect("the renewal", (await stand.commit(record, renewing(record, stand.another_secret()))).status, "gone")
    await stand.expect_gone(record)
