"""Rule 7: list elements never collide, and a removal takes away what the request has seen."""

from __future__ import annotations

import pytest

from tests.faces import Face
from tests.rules.scene import begin, two_processes
from typed_sessions import ListKey, Session


def test_rule_07_list_elements_never_collide(face: Face) -> None:
    """Appends and prepends of two processes are all there, in the order of the commits; no commit is repeated for them."""
    facts = ListKey("facts", str)
    browser = begin(face, lambda session: session[facts].append("old"))
    first, second = two_processes(face, browser)
    for name, turn in (("first", first), ("second", second)):
        turn.session[facts].append(f"{name} a")
        turn.session[facts].append(f"{name} b")
        turn.session[facts].prepend(f"{name} z")
        assert list(turn.session[facts]) == [f"{name} z", "old", f"{name} a", f"{name} b"]
    second.finish()
    first.finish()
    with browser.visit() as session:
        assert list(session[facts]) == ["first z", "second z", "old", "second a", "second b", "first a", "first b"]


def test_rule_07_a_removal_takes_only_what_the_request_has_seen(face: Face) -> None:
    """What another one appends meanwhile stays, also when it would have matched; removing one element twice is no conflict."""
    facts = ListKey("facts", int)

    def fill(session: Session) -> None:
        for number in (1, 2, 3, 2):
            session[facts].append(number)

    browser = begin(face, fill)
    first, second = two_processes(face, browser)
    assert first.session[facts].remove_where(lambda n: n == 2) == 2
    assert second.session[facts].remove_where(lambda n: n in (1, 2), first=False) == 3
    second.session[facts].append(2)
    second.finish()
    first.finish()
    with browser.visit() as session:
        assert list(session[facts]) == [3, 2]


@pytest.mark.parametrize("how", ["clear", "del"])
def test_rule_07_clear_and_del_leave_what_others_append(face: Face, how: str) -> None:
    """Each removes the elements that this request has seen."""
    facts = ListKey("facts", int)
    browser = begin(face, lambda session: session[facts].append(1))
    first, second = browser.open(), browser.open()
    if how == "clear":
        first.session[facts].clear()
    else:
        del first.session[facts]
    second.session[facts].append(2)
    second.finish()
    first.finish()
    with browser.visit() as session:
        assert list(session[facts]) == [2]


def test_rule_07_a_removed_first_element_is_the_first_that_matched_in_this_view(face: Face) -> None:
    """`remove_where(first=True)` (SWI's retract) removes that element, not whichever comes first by then."""
    facts = ListKey("facts", str)
    browser = begin(face, lambda session: session[facts].append("b"))
    first, second = browser.open(), browser.open()
    assert first.session[facts].remove_where(lambda _: True, first=True) == 1
    second.session[facts].prepend("a")
    second.finish()
    first.finish()
    with browser.visit() as session:
        assert list(session[facts]) == ["a"]


def test_rule_07_an_element_that_was_added_and_removed_was_never_there(face: Face) -> None:
    """Nothing of it is committed, and the elements beside it keep their order."""
    facts = ListKey("facts", int)
    browser = begin(face, lambda session: session[facts].append(1))
    with browser.visit() as session:
        for number in (2, 3, 4):
            session[facts].append(number)
        session[facts].remove_where(lambda n: n == 3)
        session[facts].prepend(0)
    with browser.visit() as session:
        assert list(session[facts]) == [0, 1, 2, 4]


def test_rule_07_several_prepends_of_one_request(face: Face) -> None:
    """Each comes before what was there, the last one first (SWI's asserta): in the request's own view, and in what is stored."""
    facts = ListKey("facts", str)
    browser = begin(face, lambda session: session[facts].append("old"))
    with browser.visit() as session:
        for fact in ("a", "b", "c"):
            session[facts].prepend(fact)
        assert list(session[facts]) == ["c", "b", "a", "old"]
    with browser.visit() as session:
        assert list(session[facts]) == ["c", "b", "a", "old"]
        session[facts].prepend("d")
    with browser.visit() as session:
        assert list(session[facts]) == ["d", "c", "b", "a", "old"]


def test_rule_07_a_view_has_its_lists_for_reading(face: Face) -> None:
    """What would be appended to a session that is only looked at would go nowhere: there is no such method."""
    facts = ListKey("facts", str)
    browser = begin(face, lambda session: session[facts].append("old"))
    view = face.call(face.manager.get_session(browser.request()))
    assert view[facts] == ["old"] == list(view[facts])
    assert repr(view[facts]).startswith("<SessionListView of <ListKey 'facts'")
    assert {"append", "prepend", "clear", "remove_where"}.isdisjoint(dir(view[facts]))


def test_rule_07_a_refresh_keeps_what_is_not_committed_in_its_place(face: Face) -> None:
    """What this request has put before the list stays before what others have stored meanwhile, and what it has appended after it."""
    facts = ListKey("facts", str)
    browser = face.browser()
    with browser.visit() as session:
        session[facts].append("stored")
    turn = browser.open()
    turn.session[facts].prepend("mine first")
    turn.session[facts].append("mine last")
    with browser.copy().visit() as session:
        session[facts].append("theirs")
        session[facts].prepend("before")
    face.call(face.manager.refresh(turn.session))
    assert list(turn.session[facts]) == ["mine first", "before", "stored", "theirs", "mine last"]
    turn.finish()
    with browser.visit() as session:
        assert list(session[facts]) == ["mine first", "before", "stored", "theirs", "mine last"]
