"""Values of this process: what is noted of them between one request and the next. `Residents` by itself, one call after the other."""

from __future__ import annotations

import logging
from collections.abc import Sized
from typing import Any

import pytest

from tests.faces import Face
from tests.stores.records import new
from typed_sessions import Key
from typed_sessions.residents import ABSENT, Made, ResidentChange, Residents

ANN, EVE = bytes([1]) * 16, bytes([2]) * 16


def put(residents: Residents, locator: bytes, name: str, value: object) -> dict[str, object]:
    """A request assigns a value, or removes it."""
    return residents.apply(locator, [ResidentChange(name, value)], {}, [])


def noted(residents: Residents) -> dict[str, int]:
    """How much is noted of sessions, table by table, where anything is."""
    return {name: len(table) for name, table in vars(residents).items() if isinstance(table, Sized) and len(table)}


class Adding:
    """A function given to `update()` that counts its calls, and before the first of them does something else."""

    def __init__(self, first: object = None) -> None:
        self.met: list[object] = []
        self._first = first

    def __call__(self, value: Any) -> int:
        self.met.append(value)
        first, self._first = self._first, None
        if callable(first):
            first()
        made: int = value + 1
        return made


def test_a_value_that_is_removed_is_gone(face: Face) -> None:
    """And so is all that was noted of it: no hook meets it when the session ends, nor anything in its place."""
    cleaned: list[object] = []
    key, other = (Key(name, int, resident=True, cleanup_delete=cleaned.append) for name in ("key", "other"))
    browser = face.browser()
    with browser.visit() as session:
        session[key], session[other] = 1, 2
    with browser.visit() as session:
        del session[key]
    with browser.visit() as session:
        assert (key in session, session[other]) == (False, 2)
        del session[other]
    assert noted(face.manager.core.residents) == {}
    assert not face.manager.core.residents.busy
    with browser.visit() as session:
        session.end()
    assert cleaned == []


def test_a_value_is_read_again_after_a_commit_in_the_middle(face: Face) -> None:
    """The very object, and what an update has made, after what was there meanwhile."""
    key, count = Key("key", list[int], resident=True), Key("count", int, resident=True)
    browser, value = face.browser(), [1]
    for number in (1, 2):
        with browser.visit() as session:
            session[key] = value
            session.update(count, lambda before: before + 1, default=0)
            face.call(face.manager.commit(session))
            assert session[key] is value
            assert session[count] == number


def test_what_was_only_read_keeps_nothing_from_being_stored(face: Face) -> None:
    """One value is assigned, and then another one looked at, which changes nothing."""
    key, other = Key("key", int, resident=True), Key("other", int, resident=True)
    browser = face.browser()
    with browser.visit() as session:
        session[key], session[other] = 1, 1
    with browser.visit() as session:
        session[key] = 2
        assert session[other] == 1
    with browser.visit() as session:
        assert (session[key], session[other]) == (2, 1)


def test_a_commit_in_the_middle_shows_what_came_of_an_update(face: Face) -> None:
    """Another request has added meanwhile: from then on this one sees both, as the next request does."""
    count = Key("count", int, resident=True)
    browser = face.browser()
    with browser.visit() as session:
        session[count] = 0
    turn = browser.open()
    assert turn.session.update(count, lambda before: before + 1) == 1
    with browser.copy().visit() as session:
        session.update(count, lambda before: before + 10)
    face.call(face.manager.commit(turn.session))
    assert turn.session[count] == 11
    turn.finish()
    with browser.visit() as session:
        assert session[count] == 11


def test_what_is_cleared_first_is_not_what_an_update_begins_with(face: Face) -> None:
    """`renew(clear=True)`, and then an update in the same request: the function meets its default, and that once."""
    key, add = Key("key", int, resident=True), Adding()
    browser = face.browser()
    with browser.visit() as session:
        session[key] = 5
    with browser.visit() as session:
        session.renew(clear=True)
        session.update(key, add, default=0)
        add.met.clear()
    assert add.met == [0]
    with browser.visit() as session:
        assert session[key] == 1


def test_a_function_is_tried_out_again_for_another_value_only() -> None:
    """A commit that goes round again does not run it again, unless somebody else has put something else there."""
    residents, add = Residents(), Adding()
    changes = [ResidentChange("key", ABSENT, (add,), 0), ResidentChange("other", 7)]
    put(residents, ANN, "key", 1000)
    first = residents.try_out(ANN, changes)
    assert first == {"key": Made(1000, 1001)}
    assert residents.try_out(ANN, changes, first) == first
    assert add.met == [1000]
    put(residents, ANN, "key", 2000)
    second = residents.try_out(ANN, changes, first)
    assert second == {"key": Made(2000, 2001)}
    assert residents.apply(ANN, changes, second, []) == {"key": 2001, "other": 7}
    assert add.met == [1000, 2000]
    assert residents.of(ANN) == {"key": 2001, "other": 7}


def test_an_update_adds_to_what_came_meanwhile() -> None:
    """While the function runs, another request puts a value there: the function runs again, on that; and so for what is removed."""
    residents = Residents()
    put(residents, ANN, "key", 1)
    add = Adding(lambda: put(residents, ANN, "key", 10))
    assert residents.apply(ANN, [ResidentChange("key", ABSENT, (add,))], {}, []) == {"key": 11}
    assert (add.met, residents.of(ANN)) == ([1, 10], {"key": 11})
    add = Adding(lambda: put(residents, ANN, "key", ABSENT))
    assert residents.apply(ANN, [ResidentChange("key", ABSENT, (add,))], {}, []) == {"key": ABSENT}
    assert (add.met, residents.of(ANN), noted(residents)) == ([11], {}, {})


def test_a_function_that_raises_where_all_else_is_stored_costs_its_own_key_only(caplog: pytest.LogCaptureFixture) -> None:
    """The value stays, the name is reported, and the changes after it are made."""
    residents, lost = Residents(), list[str]()
    put(residents, ANN, "key", "no number")
    changes = [ResidentChange("key", ABSENT, (Adding(),)), ResidentChange("none", ABSENT, (Adding(),), "none"), ResidentChange("other", 7)]
    with caplog.at_level(logging.ERROR):
        assert residents.apply(ANN, changes, {}, lost) == {"key": "no number", "none": ABSENT, "other": 7}
    assert lost == ["key", "none"]
    assert residents.of(ANN) == {"key": "no number", "other": 7}
    assert caplog.text.count("the value stays") == 2


def test_everybody_has_a_turn() -> None:
    """A few each time, and nobody twice in one round; not who has gone since it began, and not who is being told of his end."""
    residents = Residents()
    locators = [number.to_bytes(16, "big") for number in range(5)]
    for locator in locators:
        put(residents, locator, "key", 1)
    for _ in range(2):
        turns = [residents.some(2) for _ in range(3)]
        assert [len(turn) for turn in turns] == [2, 2, 1]
        assert sorted(locator for turn in turns for locator in turn) == locators
    record = new()
    put(residents, record.locator, "key", 1)
    (later,) = residents.some(1)
    assert later == record.locator
    residents.drop(locators[0])
    ended = record.copy()
    residents.tells([ended])
    assert sorted(residents.some(10)) == locators[1:]
    assert sorted(residents.some(10)) == locators[1:], "also in a round that begins while it is told"


def test_who_is_missing_twice_running_has_been_ended_elsewhere() -> None:
    """Once may be an end that this process is just about to tell; and who was seen in between was not missing."""
    residents = Residents()
    put(residents, ANN, "key", 1)
    turns = [True, False, True, True]
    assert [residents.missed(ANN, missing) for missing in turns] == [False, False, False, True]
    assert residents.drop(ANN) == {"key": 1}
    assert noted(residents) == {}


def test_who_is_being_told_of_his_end_is_not_missing() -> None:
    """Nor is who has no values any more; neither counts as missed before, if he has values again."""
    residents, record = Residents(), new()
    locator = record.locator
    put(residents, locator, "key", 1)
    assert not residents.missed(locator, missing=True)
    residents.tells([record])
    assert [residents.missed(locator, missing=True) for _ in range(3)] == [False] * 3
    residents.drop(locator)
    assert [residents.missed(locator, missing=True) for _ in range(3)] == [False] * 3
    put(residents, locator, "key", 1)
    assert not residents.missed(locator, missing=True)
    residents.drop(locator)
    put(residents, locator, "key", 1)
    assert not residents.missed(locator, missing=True), "what was dropped is forgotten"
    put(residents, locator, "key", ABSENT)
    assert not residents.missed(locator, missing=True)
    assert noted(residents) == {}


def test_only_who_has_values_is_noted_while_the_end_is_told() -> None:
    """Of the others nobody would take the note away again."""
    residents = Residents()
    put(residents, ANN, "key", 1)
    residents.tells([new()])
    residents.drop(ANN)
    assert noted(residents) == {}


def test_what_commits_bring_after_the_end_falls_to_each_of_them() -> None:
    """Three are under way when the session ends: each cleans up after itself, and nothing is left when the last is over."""
    residents = Residents()
    for _ in range(3):
        residents.expect(ANN)
    residents.expect(EVE)
    put(residents, ANN, "key", 0)
    assert residents.drop(ANN) == {"key": 0}
    residents.expect(ANN)
    for number in range(4):
        put(residents, ANN, "key", number)
        assert residents.settle(ANN) == {"key": number}
    put(residents, EVE, "key", 1)
    assert residents.settle(EVE) == {}
    assert residents.drop(EVE) == {"key": 1}
    assert noted(residents) == {}


def test_a_value_is_removed_only_while_it_is_this_one() -> None:
    """A hook has said that it goes, and meanwhile a request has put another in its place: that stays."""
    residents = Residents()
    put(residents, ANN, "key", 1000)
    residents.remove(ANN, "key", 2000)
    assert residents.of(ANN) == {"key": 1000}
    residents.remove(ANN, "key", residents.of(ANN)["key"])
    assert noted(residents) == {}
