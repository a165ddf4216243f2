"""Checks of lists: elements that several requests add and remove (rule 7)."""

from __future__ import annotations

from ..changes import Changes, ListChange, Write
from ..record import Record, pack_elements, unpack_elements, unpack_field
from .report import expect, expect_that
from .stand import Checks, Stand, appending, values_of, writing

checks: Checks = Checks()


def numbers(record: Record, name: str = "l") -> list[int]:
    return [element.sequence for element in unpack_elements(record.fields.get(name))]


@checks(7)
async def elements_keep_their_order(stand: Stand) -> None:
    """Appended elements come last in the order of the calls; of prepended ones the last comes first."""
    record = await stand.begin({"l": [b"m"]})
    after = await stand.committed(record, appending("l", b"last", b"a", prepended=[b"z", b"first"]))
    expect("the list", values_of(after)["l"], [b"first", b"z", b"m", b"last", b"a"])
    after = await stand.committed(record, appending("l", b"m", prepended=[b"m"]))
    expect("the list with equal elements", values_of(after)["l"], [b"m", b"first", b"z", b"m", b"last", b"a", b"m"])
    await stand.expect_stored(after)
    expect_that(numbers(after) == sorted(numbers(after)), "the elements are not in the order of their sequences")


@checks(7)
async def a_list_begins_with_its_first_element(stand: Stand) -> None:
    """An append to a list that is not there makes it, and the last removal takes it away."""
    record = await stand.begin()
    after = await stand.committed(record, appending("l", b"a"))
    expect("the values", values_of(after), {"l": [b"a"]})
    after = await stand.committed(record, appending("l", removed=numbers(after)))
    expect("the values after the last element was removed", values_of(after), {})
    await stand.expect_stored(after)


@checks(7)
async def appends_of_two_requests_both_stay(stand: Stand) -> None:
    """Two requests that have seen the same list and append to it both succeed, and both elements are there."""
    record = await stand.begin({"l": [b"0"]})
    await stand.use(record)
    await stand.use(record)
    await stand.committed(record, appending("l", b"1"))
    await stand.committed(record, appending("l", b"2"))
    expect("the list", values_of(await stand.stored(record))["l"], [b"0", b"1", b"2"])


@checks(7)
async def a_removal_takes_what_was_seen(stand: Stand) -> None:
    """An element is removed by its sequence, whatever came before or behind it meanwhile; one that is gone is no conflict."""
    record = await stand.begin({"l": [b"a", b"b", b"c"]})
    seen = await stand.stored(record)
    middle = numbers(seen)[1]
    await stand.committed(record, appending("l", b"d", prepended=[b"_"]))
    after = await stand.committed(record, appending("l", removed=[middle]))
    expect("the list", values_of(after)["l"], [b"_", b"a", b"c", b"d"])
    again = await stand.committed(record, appending("l", b"e", removed=[middle]))
    expect("the list after the same removal again", values_of(again)["l"], [b"_", b"a", b"c", b"d", b"e"])


@checks(7)
async def a_sequence_is_never_used_again(stand: Stand) -> None:
    """A sequence names one element for ever: new ones lie above or below all that were ever used, also after the list was emptied."""
    record = await stand.begin()
    used: set[int] = set()
    for number in range(4):
        after = await stand.committed(record, appending("l", b"a%d" % number, prepended=[b"p%d" % number]))
        mine = numbers(after)
        expect_that(not used & {mine[0], mine[-1]}, "a new element got a sequence that was used before")
        if used:
            expect_that(mine[0] < min(used) and mine[-1] > max(used), "a new element's sequence does not lie outside of all that were used")
        used.update(mine)
        if number % 2:
            emptied = await stand.committed(record, appending("l", removed=mine))
            expect("the values of the emptied list", values_of(emptied), {})


@checks(7)
async def elements_have_versions_of_their_own(stand: Stand) -> None:
    """Each element keeps the version and the flags that it was written with."""
    record = await stand.begin()
    await stand.committed(record, Changes(lists={"l": ListChange([(1, 0, b"a"), (65_535, 4, b"b")])}))
    after = await stand.committed(record, Changes(lists={"l": ListChange((), [(2, 4, b"c")])}))
    found = [tuple(element)[1:] for element in unpack_elements(after.fields["l"])]
    expect("(version, flags, payload)", found, [(2, 4, b"c"), (1, 0, b"a"), (65_535, 4, b"b")])
    await stand.expect_stored(after)


@checks(1, 7)
async def a_list_and_a_value_replace_each_other(stand: Stand) -> None:
    """A change of a list drops a value of that name which is no list; an assignment replaces a list."""
    record = await stand.begin({"x": b"value", "y": b"value", "l": [b"1"]})
    after = await stand.committed(record, Changes(lists={"x": ListChange([(1, 0, b"e")]), "y": ListChange()}))
    expect("the values after list changes", values_of(after), {"x": [b"e"], "l": [b"1"]})
    after = await stand.committed(record, writing(l=b"value", x=None))
    expect("the values after an assignment and a removal", values_of(after), {"l": b"value"})
    await stand.expect_stored(after)
    after = await stand.committed(record, appending("l", b"new"))
    expect("the values after an append", values_of(after), {"l": [b"new"]})


@checks(7)
async def a_list_is_put_back_whole(stand: Stand) -> None:
    """A conditional write of a whole list (as a rewriting of sealed values does) keeps its sequences, and holds only if it is as it was."""
    record = await stand.begin({"l": [b"a", b"b"], "v": b"1"})
    seen = await stand.stored(record)
    revision = unpack_field(seen.fields["l"]).revision
    sealed = [element._replace(payload=b"sealed " + element.payload, flags=4) for element in unpack_elements(seen.fields["l"])]
    whole = unpack_field(pack_elements(0, sealed))
    changes = Changes({"l": Write(whole.payload, whole.version, whole.flags, revision)}, counts_as_use=False)
    after = await stand.committed(record, changes)
    expect("the elements", unpack_elements(after.fields["l"]), sealed)
    expect("the flags of the list", unpack_field(after.fields["l"]).flags, whole.flags)
    await stand.expect_stored(after)
    expect("the same write again", (await stand.commit(record, changes)).status, "conflict")
    after = await stand.committed(record, appending("l", b"c", removed=[sealed[0].sequence]))
    expect("the list after it was changed", values_of(after), {"l": [b"sealed b", b"c"], "v": b"1"})


@checks(7)
async def a_list_change_goes_with_its_commit(stand: Stand) -> None:
    """A commit that conflicts in a value changes no list either."""
    record = await stand.begin({"a": b"0", "l": [b"0"]})
    seen = await stand.stored(record)
    changes = appending("l", b"1", removed=numbers(seen))
    changes.writes = {"a": Write(b"1", base=9)}
    expect("commit", (await stand.commit(record, changes)).status, "conflict")
    await stand.expect_stored(seen)


@checks(7)
async def a_long_list_is_a_list(stand: Stand) -> None:
    """More than a thousand elements, in one commit and over many, keep their order, and the first is still there."""
    record = await stand.begin()
    wanted = [b"%04d" % number for number in range(1_200)]
    await stand.committed(record, appending("l", *wanted[:200]))
    for number in range(200, 1_200, 200):
        after = await stand.committed(record, appending("l", *wanted[number : number + 200]))
        expect("the list", values_of(after)["l"], wanted[: number + 200])
    seen = await stand.stored(record)
    after = await stand.committed(record, appending("l", removed=numbers(seen)[::2]))
    expect("the list without every second element", values_of(after)["l"], wanted[1::2])
