"""Checks of the bound on one session, whatever it is (rule 30): a session that the store has taken is not stuck. Without a bound that is
below a megabyte there is nothing that could be."""

from __future__ import annotations

from ..changes import Changes, Renewal
from ..errors import TooLarge
from ..record import Record
from .report import expect_that
from .stand import Checks, Stand, renewed, renewing, writing

checks: Checks = Checks()

_MOST = 1 << 20
_LONG_ADDRESS = "2001:db8:1234:5678:9abc:def0:1234:5678"


async def _taken(stand: Stand, record: Record, changes: Changes) -> bool:
    """Commit; False if it was refused as too large, and then nothing of it was applied."""
    before = await stand.stored(record)
    try:
        await stand.committed(record, changes)
    except TooLarge:
        await stand.expect_stored(before, "after a commit that was too large")
        return False
    return True


async def _must_be_taken(stand: Stand, record: Record, changes: Changes, what: str) -> None:
    expect_that(await _taken(stand, record, changes), f"TooLarge in a session that was not too large before: {what}")


async def _fill(stand: Stand, record: Record) -> int | None:
    """Make a value so long that with a byte more the store refuses the session; how long it is. None if there is no such bound."""
    fits, too_long = 0, _MOST
    if await _taken(stand, record, writing(a=bytes(_MOST))):
        return None
    while too_long - fits > 1:
        middle = (fits + too_long) // 2
        if await _taken(stand, record, writing(a=bytes(middle))):
            fits = middle
        else:
            too_long = middle
    await _must_be_taken(stand, record, writing(a=bytes(fits)), "the longest value that was taken, once more")
    return fits


@checks(9, 30)
async def a_full_session_is_not_stuck(stand: Stand) -> None:
    """At its bound a session can still be renewed (the previous secret costs it nothing), written with as much, get a timeout, and less."""
    record = await stand.begin({"b": b"1", "l": [b"1", b"2"]})
    length = await _fill(stand, record)
    if length is None:
        return
    secret = stand.another_secret()
    await _must_be_taken(stand, record, renewing(record, secret, overlap=60.0), "a renewal")
    new = renewed(record, secret)
    again = stand.another_secret()
    await _must_be_taken(stand, new, Changes(renewal=Renewal(new.digest, *again, _LONG_ADDRESS, 60.0)), "a renewal from a longer address")
    await _must_be_taken(stand, new, Changes(timeout=3600.0, set_timeout=True), "a timeout of its own")
    await _must_be_taken(stand, new, Changes(persistent=True, set_persistent=True), "a cookie that lasts")
    await _must_be_taken(stand, new, writing(a=b"x" * length), "another value that is as long")
    await _must_be_taken(stand, new, writing(b=None), "one value less")
    await _must_be_taken(stand, new, writing(a=b"short"), "a shorter value")
    await _must_be_taken(stand, new, writing(a=bytes(length), b=b"1"), "what was there before")
    expect_that(not await _taken(stand, new, writing(a=bytes(length + 1))), "a session above the bound that it had before was taken")
    expect_that(await stand.end(record) is not None, "a full session could not be ended")


@checks(30)
async def creating_and_writing_have_the_same_bound(stand: Stand) -> None:
    """What a commit may not store, a creation may not either, and the other way round; too many values as well as too many bytes."""
    for large, what in ((writing(a=bytes(_MOST)), "a megabyte"), (writing(**{f"k{n}": b"1" for n in range(1000)}), "a thousand keys")):
        written = await _taken(stand, await stand.begin(), large)
        try:
            await stand.begin({name: write.payload for name, write in large.writes.items() if write.payload is not None})
        except TooLarge:
            expect_that(not written, f"a session of {what} cannot be created, but written")
        else:
            expect_that(written, f"a session of {what} cannot be written, but created")


@checks(30)
async def what_was_taken_is_taken_again(stand: Stand) -> None:
    """A session is counted alike whenever it is: filled with keys of long names, it can be written, renewed and made smaller later."""
    for letter in ("n", "й"):
        names = [f"{number} {letter * (300 // len(letter.encode()))}" for number in range(300)]
        record = await stand.begin()
        step, there = 20, 0
        while step and there < len(names):
            if await _taken(stand, record, writing(**dict.fromkeys(names[there : there + step], b"1"))):
                there += step
            else:
                step //= 2
        stand.now += 61
        await stand.use(record)
        await _must_be_taken(stand, record, writing(**{names[0]: b"2"}), "another value that is as long")
        await _must_be_taken(stand, record, renewing(record, stand.another_secret()), "a renewal")
        await _must_be_taken(stand, record, writing(**{names[1]: None}), "one value less")
