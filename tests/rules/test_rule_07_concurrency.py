"""Rule 7: what requests at the same time do to one session: other keys, `update`, lists, in-place changes, assignments."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.faces import Face
from tests.planting import heard, pack, plant, stored
from tests.rules.scene import begin, two_processes
from typed_sessions import Key, ListKey, LostUpdate, Session


@dataclass
class Cart:
    items: list[str] = field(default_factory=list[str])


def union(base: Cart, mine: Cart, theirs: Cart) -> Cart:
    """What both have added, and nothing that one of them has removed."""
    kept = [item for item in base.items if item in mine.items and item in theirs.items]
    return Cart([*kept, *(item for item in (*theirs.items, *mine.items) if item not in base.items)])


def test_rule_07_requests_that_write_different_keys_both_succeed(face: Face) -> None:
    """Neither waits for the other, and neither is lost, in two processes (R2)."""
    one, two = Key("one", int), Key("two", int)
    browser = begin(face, lambda session: session.__setitem__(one, 0))
    first, second = two_processes(face, browser)
    first.session[one] = 1
    second.session[two] = 2
    second.finish()
    first.finish()
    with browser.visit() as session:
        assert (session[one], session[two]) == (1, 2)


def test_rule_07_a_removal_and_a_write_of_another_key_both_succeed(face: Face) -> None:
    """So do removals."""
    one, two = Key("one", int), Key("two", int)
    browser = begin(face, lambda session: session.__setitem__(one, 0))
    first, second = two_processes(face, browser)
    del first.session[one]
    second.session[two] = 2
    second.finish()
    first.finish()
    with browser.visit() as session:
        assert one not in session
        assert session[two] == 2


def test_rule_07_an_update_is_applied_to_what_is_there_at_the_commit(face: Face) -> None:
    """Two counters that started from one value add up, in two processes, whichever commits first."""
    visits = Key("visits", int)
    browser = begin(face, lambda session: session.__setitem__(visits, 10))
    first, second = two_processes(face, browser)
    seen: list[int] = []

    def count(n: int) -> int:
        seen.append(n)
        return n + 1

    first.session.update(visits, count)
    second.session.update(visits, lambda n: n + 5)
    second.finish()
    first.finish()
    assert seen == [10, 15]
    with browser.visit() as session:
        assert session[visits] == 16


def test_rule_07_an_update_is_applied_again_as_often_as_others_are_faster(face: Face) -> None:
    """`f` runs once for the view and once per overtaking; each time on what is stored."""
    visits = Key("visits", int)
    browser = begin(face, lambda session: session.__setitem__(visits, 0))
    with browser.visit() as session:
        handle = session.handle
    seen: list[int] = []

    def count(n: int) -> int:
        seen.append(n)
        if len(seen) < 4:
            plant(face, handle, "visits", pack(100 * len(seen)))  # somebody is faster again
        return n + 1

    with browser.visit() as session:
        session.update(visits, count)
    assert seen == [0, 100, 200, 300]
    with browser.visit() as session:
        assert session[visits] == 301


def test_rule_07_the_value_returned_is_of_this_requests_view_until_the_commit_settles_it(face: Face) -> None:
    """`update` returns what this request sees; after `manager.commit` the session holds what was stored."""
    visits = Key("visits", int)
    browser = begin(face, lambda session: session.__setitem__(visits, 0))
    first, second = browser.open(), browser.open()
    second.session.update(visits, lambda n: n + 5)
    assert first.session.update(visits, lambda n: n + 1) == 1
    second.finish()
    assert first.session[visits] == 1
    face.call(face.manager.commit(first.session))
    assert first.session[visits] == 6
    assert first.session.update(visits, lambda n: n + 1) == 7
    first.finish()
    with browser.visit() as session:
        assert session[visits] == 7


def test_rule_07_several_updates_of_one_key_are_all_applied_again(face: Face) -> None:
    """In their order."""
    text = Key("text", str)
    browser = begin(face, lambda session: session.__setitem__(text, "a"))
    first, second = browser.open(), browser.open()
    first.session.update(text, lambda value: value + "b")
    first.session.update(text, lambda value: value + "c")
    second.session[text] = "z"
    second.finish()
    first.finish()
    with browser.visit() as session:
        assert session[text] == "zbc"


def test_rule_07_the_first_of_two_updates_may_begin_with_the_default(face: Face) -> None:
    """Both requests found nothing; the second applies its function to what the first has stored, not to the default."""
    visits = Key("visits", int)
    browser = begin(face, lambda session: session.__setitem__(Key("user", str), "ann"))
    first, second = browser.open(), browser.open()
    for turn in (first, second):
        assert turn.session.update(visits, lambda n: n + 1, default=0) == 1
    for turn in (first, second):
        turn.finish()
    with browser.visit() as session:
        assert session[visits] == 2


def test_rule_07_a_default_that_a_function_changes_is_the_same_again(face: Face) -> None:
    """`f` may change its argument: when it is applied again to the default, that is as it was given."""
    cart = Key("cart", Cart)

    def add(cart: Cart) -> Cart:
        cart.items.append("pen")
        return cart

    browser = begin(face, lambda session: session.__setitem__(cart, Cart(["ink"])))
    first, second = browser.open(), browser.open()
    assert first.session.update(cart, add, default=Cart()) == Cart(["ink", "pen"])
    del second.session[cart]
    second.finish()
    first.finish()
    with browser.visit() as session:
        assert session[cart] == Cart(["pen"])


def test_rule_07_an_update_of_a_value_that_another_has_removed_begins_with_the_default(face: Face) -> None:
    """The default is for whatever is there at the commit, also if there was a value when `update` was called."""
    visits = Key("visits", int)
    browser = begin(face, lambda session: session.__setitem__(visits, 10))
    first, second = browser.open(), browser.open()
    assert first.session.update(visits, lambda n: n + 1, default=0) == 11
    del second.session[visits]
    second.finish()
    first.finish()
    with browser.visit() as session:
        assert session[visits] == 1


def test_rule_07_without_a_default_the_others_removal_stands(face: Face) -> None:
    """There is nothing left that the function could be applied to: the loss is reported, and the rest is committed."""
    visits, name = Key("visits", int), Key("name", str)
    browser = begin(face, lambda session: session.__setitem__(visits, 10))
    lost = heard(face, LostUpdate)
    for with_more in (True, False):
        with browser.visit() as session:
            session[visits] = 10
        first, second = browser.open(), browser.open()
        first.session.update(visits, lambda n: n + 1)
        if with_more:
            first.session[name] = "ann"
        del second.session[visits]
        second.finish()
        first.finish()
        with browser.visit() as session:
            assert visits not in session
            assert session[name] == "ann"
    assert [event.name for event in lost] == ["visits", "visits"]


def test_rule_07_an_update_after_an_assignment_is_part_of_it(face: Face) -> None:
    """What a request has assigned does not depend on what others do: the last commit wins as a whole."""
    visits = Key("visits", int)
    browser = begin(face, lambda session: session.__setitem__(visits, 10))
    first, second = browser.open(), browser.open()
    first.session[visits] = 100
    assert first.session.update(visits, lambda n: n + 1) == 101
    second.session.update(visits, lambda n: n + 5)
    second.finish()
    first.finish()
    with browser.visit() as session:
        assert session[visits] == 101


def test_rule_07_of_two_changes_in_place_merge_makes_one(face: Face) -> None:
    """`merge` gets the value that both began from, mine as it was to be committed, and theirs as it is stored."""
    seen: list[tuple[Cart, Cart, Cart]] = []

    def merge(base: Cart, mine: Cart, theirs: Cart) -> Cart:
        seen.append((base, Cart(list(mine.items)), theirs))
        return union(base, mine, theirs)

    cart = Key("cart", Cart, merge=merge)
    browser = begin(face, lambda session: session.__setitem__(cart, Cart(["pen", "ink"])))
    lost = heard(face, LostUpdate)
    first, second = browser.open(), browser.open()
    first.session[cart].items.append("cup")
    second.session[cart].items.remove("pen")
    second.session[cart].items.append("hat")
    second.finish()
    assert seen == []
    first.finish()
    assert seen == [(Cart(["pen", "ink"]), Cart(["pen", "ink", "cup"]), Cart(["ink", "hat"]))]
    with browser.visit() as session:
        assert session[cart] == Cart(["ink", "hat", "cup"])
    assert lost == []


def test_rule_07_merge_is_asked_again_if_someone_else_was_faster(face: Face) -> None:
    """The second time, its base is what it had been merged with."""
    seen: list[tuple[list[str], list[str], list[str]]] = []

    def merge(base: list[str], mine: list[str], theirs: list[str]) -> list[str]:
        seen.append((base, mine, theirs))
        if len(seen) == 1:
            plant(face, handle, "tags", pack(["a", "x", "y"]))
        return sorted({*mine, *theirs})

    tags = Key("tags", list[str], merge=merge)
    browser = begin(face, lambda session: session.__setitem__(tags, ["a"]))
    turn = browser.open()
    handle = turn.session.handle
    turn.session[tags].append("m")
    plant(face, handle, "tags", pack(["a", "x"]))
    turn.finish()
    assert seen == [(["a"], ["a", "m"], ["a", "x"]), (["a", "x"], ["a", "m", "x"], ["a", "x", "y"])]
    with browser.visit() as session:
        assert session[tags] == ["a", "m", "x", "y"]


def test_rule_07_without_merge_the_last_wins_and_the_loss_is_reported(face: Face) -> None:
    """`LostUpdate` names the key, once, in the request that has overwritten the other's change, and after its commit."""
    cart = Key("cart", Cart)
    browser = begin(face, lambda session: session.__setitem__(cart, Cart(["pen"])))
    reports: list[tuple[str, Cart]] = []

    def report(event: LostUpdate) -> None:
        reports.append((event.name, event.session[cart]))

    face.manager.on(LostUpdate, report)
    first, second = browser.open(), browser.open()
    first.session[cart].items.append("cup")
    second.session[cart].items.append("hat")
    second.finish()
    assert reports == []
    first.finish()
    assert reports == [("cart", Cart(["pen", "cup"]))]
    with browser.visit() as session:
        assert session[cart] == Cart(["pen", "cup"])


def test_rule_07_the_same_change_twice_is_no_loss(face: Face) -> None:
    """If both have changed the value to the same one, nothing is lost and nothing is left to commit."""
    cart = Key("cart", Cart)
    browser = begin(face, lambda session: session.__setitem__(cart, Cart(["pen"])))
    lost = heard(face, LostUpdate)
    first, second = browser.open(), browser.open()
    for turn in (first, second):
        turn.session[cart].items.append("cup")
    for turn in (first, second):
        turn.finish()
    assert lost == []
    with browser.visit() as session:
        assert session[cart] == Cart(["pen", "cup"])


def test_rule_07_a_change_in_place_meets_a_removal(face: Face) -> None:
    """There is nothing to merge with: the change wins, and the loss of the removal is reported."""
    cart = Key("cart", Cart, merge=union)
    browser = begin(face, lambda session: session.__setitem__(cart, Cart(["pen"])))
    lost = heard(face, LostUpdate)
    first, second = browser.open(), browser.open()
    first.session[cart].items.append("cup")
    del second.session[cart]
    second.finish()
    first.finish()
    assert [event.name for event in lost] == ["cart"]
    with browser.visit() as session:
        assert session[cart] == Cart(["pen", "cup"])


@pytest.mark.parametrize("merges", [False, True])
def test_rule_07_of_a_value_that_two_begin_there_is_nothing_to_merge_from(face: Face, merges: bool) -> None:
    """Two `update`s of nothing, of which one's value was then changed in place: that one is stored, and the other's loss is told."""
    tags = Key("tags", list[str], merge=(lambda base, mine, theirs: [*mine, *theirs]) if merges else None)
    user = Key("user", str)
    browser = begin(face, lambda session: session.__setitem__(user, "ann"))
    lost = heard(face, LostUpdate)
    first, second = browser.open(), browser.open()
    first.session.update(tags, lambda items: [*items, "a"], default=[]).append("b")
    second.session.update(tags, lambda items: [*items, "theirs"], default=[])
    second.finish()
    first.finish()
    assert [event.name for event in lost] == ["tags"]
    with browser.visit() as session:
        assert session[tags] == ["a", "b"]


def test_rule_07_a_merge_that_leaves_theirs_writes_nothing(face: Face) -> None:
    """Not even the same bytes again: a third request that changes the value has nobody to collide with."""
    tags = Key("tags", list[str], merge=lambda base, mine, theirs: theirs)
    browser = begin(face, lambda session: session.__setitem__(tags, ["a"]))
    turn = browser.open()
    turn.session[tags].append("mine")
    handle = turn.session.handle
    theirs = plant(face, handle, "tags", pack(["theirs"]))
    turn.finish()
    assert stored(face, handle, "tags") == theirs


def test_rule_07_what_is_left_removed_is_not_there_for_this_request_either(face: Face) -> None:
    """An `update` without a default met a removal: after the commit the key is absent, as for everybody."""
    tags = Key("tags", list[str])
    browser = begin(face, lambda session: session.__setitem__(tags, ["a"]))
    first, second = browser.open(), browser.open()
    first.session.update(tags, lambda items: [*items, "b"])
    del second.session[tags]
    second.finish()
    face.call(face.manager.commit(first.session))
    assert tags not in first.session
    assert first.session.get(tags) is None
    first.finish()


def test_rule_07_a_change_in_place_of_an_updated_value_is_merged_too(face: Face) -> None:
    """`update` and then a change in place is a change in place: the functions alone would not repeat it."""
    cart = Key("cart", Cart, merge=union)
    browser = begin(face, lambda session: session.__setitem__(cart, Cart(["pen"])))
    first, second = browser.open(), browser.open()
    first.session.update(cart, lambda cart: Cart([*cart.items, "cup"])).items.append("hat")
    second.session[cart].items.append("ink")
    second.finish()
    first.finish()
    with browser.visit() as session:
        assert session[cart] == Cart(["pen", "ink", "cup", "hat"])


@pytest.mark.parametrize("last", ["assign", "delete"])
def test_rule_07_what_is_assigned_after_a_change_in_place_is_no_longer_one(face: Face, last: str) -> None:
    """`merge` is not asked about a value that was assigned or deleted in the end, though another key has to be committed again."""
    merged: list[Cart] = []

    def merge(base: Cart, mine: Cart, theirs: Cart) -> Cart:
        merged.append(mine)
        return theirs

    cart, visits = Key("cart", Cart, merge=merge), Key("visits", int)
    browser = begin(face, lambda session: session.__setitem__(cart, Cart(["pen"])))
    lost = heard(face, LostUpdate)
    first, second = browser.open(), browser.open()
    first.session[cart].items.append("cup")
    first.session.update(cart, lambda cart: Cart(cart.items))
    if last == "assign":
        first.session[cart] = Cart(["new"])
    else:
        del first.session[cart]
    first.session.update(visits, lambda n: n + 1, default=0)
    second.session[cart].items.append("hat")
    second.session.update(visits, lambda n: n + 1, default=0)
    second.finish()
    first.finish()
    assert (merged, lost) == ([], [])
    with browser.visit() as session:
        assert session[visits] == 2
        assert session.get(cart) == (Cart(["new"]) if last == "assign" else None)


def test_rule_07_of_two_assignments_the_last_commit_wins(face: Face) -> None:
    """Not the last assignment; nobody is told, since that is what was asked for."""
    name = Key("name", str)
    browser = begin(face, lambda session: session.__setitem__(name, "ann"))
    lost = heard(face, LostUpdate)
    first, second = two_processes(face, browser)
    first.session[name] = "first"
    second.session[name] = "second"
    second.finish()
    first.finish()
    with browser.visit() as session:
        assert session[name] == "first"
    assert lost == []


def test_rule_07_a_deletion_meets_a_write(face: Face) -> None:
    """A deletion is an assignment of nothing: the last commit wins."""
    name = Key("name", str)
    for deleter_last in (True, False):
        browser = begin(face, lambda session: session.__setitem__(name, "ann"))
        first, second = browser.open(), browser.open()
        del first.session[name]
        second.session[name] = "second"
        for turn in (second, first) if deleter_last else (first, second):
            turn.finish()
        with browser.visit() as session:
            assert (name in session) is not deleter_last


def test_rule_07_a_change_in_place_meets_an_assignment(face: Face) -> None:
    """The one that commits from a version is checked, the assignment is not: each order has its result and its report."""
    cart = Key("cart", Cart)
    browser = begin(face, lambda session: session.__setitem__(cart, Cart(["pen"])))
    lost = heard(face, LostUpdate)
    first, second = browser.open(), browser.open()
    first.session[cart].items.append("cup")
    second.session[cart] = Cart(["hat"])
    first.finish()
    second.finish()
    assert lost == []
    with browser.visit() as session:
        assert session[cart] == Cart(["hat"])


def test_rule_07_values_of_this_process_are_updated_as_well(face: Face) -> None:
    """`update` of a resident key is applied to what is there at the commit."""
    visits = Key("visits", int, resident=True)
    browser = begin(face, lambda session: session.__setitem__(visits, 0))
    first, second = browser.open(), browser.open()
    for turn in (first, second):
        assert turn.session.update(visits, lambda n: n + 1) == 1
    for turn in (first, second):
        turn.finish()
    with browser.visit() as session:
        assert session[visits] == 2


def test_rule_07_refresh_reads_what_others_wrote_and_keeps_what_was_changed_here(face: Face) -> None:
    """What this request has read is read again; what it has changed and not committed stays, and is committed."""
    one, two, three = Key("one", int), Key("two", list[str]), Key("three", int)
    facts = ListKey("facts", int)

    def fill(session: Session) -> None:
        session[one], session[two], session[three] = 1, ["a"], 3
        session[facts].append(1)

    browser = begin(face, fill)
    first, second = browser.open(), browser.open()
    read: Any = (first.session[one], first.session[two], first.session[three], list(first.session[facts]))
    assert read == (1, ["a"], 3, [1])
    first.session[three] = 33
    first.session[facts].append(10)
    second.session[one] = 11
    second.session[two].append("b")
    second.session[three] = 333
    second.session[facts].append(2)
    second.finish()
    face.call(face.manager.refresh(first.session))
    assert (first.session[one], first.session[two], first.session[three]) == (11, ["a", "b"], 33)
    assert list(first.session[facts]) == [1, 2, 10]
    first.finish()
    with browser.visit() as session:
        assert (session[one], session[two], session[three], list(session[facts])) == (11, ["a", "b"], 33, [1, 2, 10])


def test_rule_07_a_field_keeps_the_revision_of_the_commit_that_wrote_it(face: Face) -> None:
    """A commit changes the revision of what it writes alone, which is why other keys never conflict with it."""
    one, two = Key("one", int), Key("two", int)

    def fill(session: Session) -> None:
        session[one], session[two] = 1, 2

    browser = begin(face, fill)
    with browser.visit() as session:
        handle = session.handle
        session[one] = 10
    before = stored(face, handle, "two")
    with browser.visit() as session:
        session[one] = 11
    first, second = stored(face, handle, "one"), stored(face, handle, "two")
    assert second == before
    assert first is not None
    assert second is not None
    assert first.revision > second.revision
