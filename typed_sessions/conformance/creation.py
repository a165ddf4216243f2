"""Checks of `create`, and of what a store keeps of a record."""

from __future__ import annotations

from ..changes import Changes, Write
from ..errors import TooLarge
from ..record import FIELD_COPY, FIELD_HOOKED, FIELD_SEALED, FIELD_TWIN, LOCATOR_BYTES, Ending, Previous, unpack_field
from .report import expect, expect_that
from .stand import START, Checks, Stand, renewing, same, use_of, values_of, writing

checks: Checks = Checks()

_LONGEST_ADDRESS = "2001:4db8:1111:2222:3333:4444:5555:6666"


@checks(7, 17)
async def a_record_comes_back_as_it_was_created(stand: Stand) -> None:
    """What `create` is given, `open` gives back: times, digests, address, flags, deadline, and every field."""
    plain = await stand.begin({"a": b"value", "empty": b"", "list": [b"1", b"2"]}, timeout=1800.5)
    bare = await stand.begin(None, timeout=None, address=None)
    full = await stand.begin({"h": b"hooked"}, hooked=["h"], lifetime=86_400.25, own_timeout=True, address=_LONGEST_ADDRESS)
    for record in (plain, bare, full):
        await stand.expect_stored(record, "open after create")
    renewed = stand.record({"a": b"1"})
    renewed.previous = Previous(stand.draw(32), stand.draw(16), stand.now + 30.5)
    expect("create", await stand.store.create(renewed, stand.now), "created")
    await stand.expect_stored(renewed, "open after create of a renewed record")


@checks(11, 12)
async def times_are_kept_to_the_last_bit(stand: Stand) -> None:
    """Times are double-precision numbers, and stay the ones they were: a rounded one moves the ends of sessions and of leases."""
    stand.now = 1_700_000_000.123457
    short = await stand.begin(timeout=5.0, granularity=0.5)
    await stand.expect_stored(short, "after create of a session with a granularity of half a second")
    record = await stand.begin({"h": b"1"}, hooked=["h"], lifetime=3600.000001, timeout=600.100001)
    await stand.expect_stored(record, "after create")
    stand.now += 60.000013
    found = await stand.use(record)
    expect("the time of last use in the answer", None if found is None else found.used, stand.now)
    expect("the time of last use stored", (await stand.stored(record)).used, stand.now)
    stand.now += 60.000017
    after = await stand.committed(record, renewing(record, stand.another_secret(), overlap=10.000003))
    expect(
        "the time of last use and the end of the overlap",
        (after.used, after.previous and after.previous.until),
        (stand.now, stand.now + 10.000003),
    )
    await stand.expect_stored(after, "after a commit")
    ended = await stand.end(record, lease=30.000007)
    expect("the ending", ended and ended.ending, Ending("ended", stand.now, stand.now + 30.000007))


@checks(17)
async def any_bytes_can_be_stored(stand: Stand) -> None:
    """Values, digests and locators are any bytes: NUL, line ends, quotes, what is no UTF-8; a value may be some kilobytes long."""
    everything = bytes(range(256))
    record = await stand.begin({"all": everything, "long": everything * 64, "list": [everything, b"\x00", b""]})
    await stand.expect_stored(record)
    for locator in (bytes(16), b"\xff" * 16, b"{a}:b*?[\r\n]'\"\\", b"%s;--\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"):
        odd = stand.record({"n": locator})
        odd.locator = locator[:LOCATOR_BYTES].ljust(LOCATOR_BYTES, b"\x00")
        odd.digest, odd.tag_digest = everything[:32], bytes(16)
        expect(f"create of the locator {odd.locator!r}", await stand.store.create(odd, stand.now), "created")
        await stand.expect_stored(odd)
    await stand.expect_stored(record, "another session after these")


@checks(7)
async def any_name_is_a_name(stand: Stand) -> None:
    """Names of keys are any text of up to 64 characters: each holds its own value, however much it looks like another or like syntax."""
    names = [
        "a",
        "A",
        "a ",
        "a.b",
        "a:b",
        "v:a",
        "l:a:1",
        "*",
        "%",
        "'",
        '"',
        "$1",
        "{}",
        "é",
        "e\u0301",
        "\U0001f36a",
        "x" * 64,
        "\U0001f36a" * 63 + "a",  # in UTF-8, more bytes than there are in a column of 255
        "\U0001f36a" * 64,
        "due",
        "_",
        "0",
    ]
    record = await stand.begin({name: f"created {name}".encode() for name in names})
    await stand.expect_stored(record)
    after = await stand.committed(record, Changes({name: Write(f"committed {name}".encode()) for name in names[::2]}))
    expected = {name: f"{'created' if number % 2 else 'committed'} {name}".encode() for number, name in enumerate(names)}
    expect("the values after a commit", values_of(after), expected)
    await stand.expect_stored(after)


@checks(7)
async def versions_and_flags_of_a_value_are_kept(stand: Stand) -> None:
    """A value's version (up to 65,535) and flags are stored with it; they are what a reader decodes by."""
    record = await stand.begin()
    flags = {"none": 0, "hooked": FIELD_HOOKED, "sealed": FIELD_SEALED, "twin": FIELD_TWIN, "copy": FIELD_COPY}
    flags["all"] = FIELD_HOOKED | FIELD_SEALED | FIELD_TWIN | FIELD_COPY
    writes = {name: Write(b"1", 65_535, flag) for name, flag in flags.items()}
    after = await stand.committed(record, Changes({**writes, "old": Write(b"2", 1)}))
    await stand.expect_stored(after)
    expect("the versions", [unpack_field(after.fields[name]).version for name in ("all", "old")], [65_535, 1])
    expect("the flags", {name: unpack_field(after.fields[name]).flags for name in flags}, flags)


@checks(8, 18)
async def a_taken_locator_is_refused(stand: Stand) -> None:
    """`create` under a locator that is there says "taken" and changes nothing: two ids that collide are two sessions."""
    first = await stand.begin({"a": b"first"})
    second = stand.record({"b": b"second"})
    second.locator = first.locator
    expect("create under the same locator", await stand.store.create(second, stand.now), "taken")
    await stand.expect_stored(first)
    hooked = await stand.begin({"h": b"1"}, hooked=["h"])
    await stand.end(hooked)
    second.locator = hooked.locator
    expect("create under the locator of an ended session that waits for its hooks", await stand.store.create(second, stand.now), "taken")
    expect("open of it", await stand.look(hooked), None)


@checks(8, 18)
async def only_create_makes_a_record(stand: Stand) -> None:
    """Every verb but `create` does nothing without a record: an id that was never issued is not adopted."""
    record = stand.record({"a": b"1"})
    expect("open", await stand.look(record), None)
    expect("open with a use", await stand.use(record), None)
    expect("touch", await stand.touch(record), False)
    outcome = await stand.commit(record, writing(a=b"2"))
    expect("commit", (outcome.status, outcome.record), ("gone", None))
    expect("end", await stand.end(record), None)
    await stand.store.clear(record.locator, None)
    await stand.store.clear(record.locator, ["a"])
    expect("sweep", await stand.sweep(), [])
    expect("scan", await stand.scan(), [])
    expect("open after all that", await stand.look(record), None)


@checks(2, 18)
async def sessions_do_not_mix(stand: Stand) -> None:
    """What is done to one session changes no other, also where their locators differ in one bit."""
    one, other = stand.record({"a": b"one"}), stand.record({"a": b"other"})
    other.locator = one.locator[:-1] + bytes([one.locator[-1] ^ 1])
    for record in (one, other):
        expect("create", await stand.store.create(record, stand.now), "created")
    stand.now += 61
    expect("open with the secret of another", (await stand.use(one, use_of(other))) is None, False)
    await stand.expect_stored(one, "after the secret of another was presented")
    await stand.committed(one, writing(a=b"changed", b=b"new"))
    await stand.end(one)
    await stand.expect_stored(other, "the other session")


@checks()
async def closing_twice_is_allowed(stand: Stand) -> None:
    """`close` may be called twice, and before anything else was."""
    await stand.store.close()
    await stand.store.close()


@checks()
async def closing_keeps_the_sessions(stand: Stand) -> None:
    """`close` lets go of connections, and of no session: what is asked after it is answered as before, if it is answered at all."""
    record = await stand.begin({"a": b"1", "l": [b"1"]}, lifetime=3600.0)
    await stand.store.close()
    try:
        found = await stand.look(record)
    except Exception:  # such a store is opened anew by its factory, with what it has kept
        return
    same("open after close", found, record)


@checks(7, 30)
async def what_is_too_large_is_refused_whole(stand: Stand) -> None:
    """A store may refuse a large session with `TooLarge`; then nothing of it was applied, and everything else goes on."""
    record = await stand.begin({"a": b"1"})
    for changes in (writing(a=b"2", large=bytes(1 << 20)), Changes({f"k{number}": Write(b"1") for number in range(1000)})):
        before = await stand.stored(record)
        try:
            after = await stand.committed(record, changes)
        except TooLarge:
            await stand.expect_stored(before, "after a commit that was too large")
        else:
            await stand.expect_stored(after, "after a large commit")
    large = stand.record({"large": bytes(1 << 20)})
    try:
        await stand.store.create(large, stand.now)
    except TooLarge:
        expect("open after a create that was too large", await stand.look(large), None)
    await stand.committed(record, writing(large=None, b=b"small"))


@checks(11)
async def the_time_is_the_callers(stand: Stand) -> None:
    """A store takes the time from its arguments, and never from the machine's clock: sessions of 1970 and of 2100 live and end alike."""
    for now in (1000.5, 4_102_444_800.25):
        stand.now = now
        record = await stand.begin({"a": b"1"})
        await stand.expect_stored(record)
        stand.now = now + 60
        found = await stand.use(record)
        expect_that(found is not None and found.used == stand.now, "a use was not written")
        stand.now = now + 60 + 660
        expect("sweep when it is over", [swept.locator for swept in await stand.sweep()], [record.locator])
    stand.now = START
