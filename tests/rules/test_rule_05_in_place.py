"""Rule 5: a mutable value changed in place is saved at the commit, and a reader never becomes a writer."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, TypedDict

import msgspec
import pytest

from tests.faces import Browser, Face
from tests.planting import heard, pack, plant, stored
from tests.watched import Watched
from typed_sessions import Key, KeyTypeError, ListKey, LostUpdate, Upgrades


@dataclass
class Cart:
    items: list[str] = field(default_factory=list[str])
    notes: dict[str, list[int]] = field(default_factory=dict[str, list[int]])


class Book(msgspec.Struct):
    title: str
    tags: set[str] = msgspec.field(default_factory=set[str])


class Address(TypedDict):
    street: str


@dataclass(frozen=True)
class Frozen:
    items: list[str]


def watched(face: Face) -> Watched:
    """From now on the face's manager works on a store that counts."""
    store = Watched(face.store)
    face.manager = face.another(store)
    return store


def holding(face: Face, key: Key[Any], value: Any) -> tuple[Browser, str]:
    browser = face.browser()
    with browser.visit() as session:
        session[key] = value
    with browser.visit() as session:
        return browser, session.handle


CHANGES: dict[str, tuple[Any, Any, Callable[[Any], object], Any]] = {
    "list": (list[str], ["a"], lambda v: v.append("b"), ["a", "b"]),
    "dict": (dict[str, int], {"a": 1}, lambda v: v.update(b=2), {"a": 1, "b": 2}),
    "set": (set[str], {"a"}, lambda v: v.add("b"), {"a", "b"}),
    "bytearray": (bytearray, bytearray(b"a"), lambda v: v.extend(b"b"), bytearray(b"ab")),
    "dataclass": (Cart, Cart(["a"]), lambda v: setattr(v, "items", ["b"]), Cart(["b"])),
    "deep in a dataclass": (Cart, Cart([], {"x": [1]}), lambda v: v.notes["x"].append(2), Cart([], {"x": [1, 2]})),
    "struct": (Book, Book("Emma"), lambda v: v.tags.add("a"), Book("Emma", {"a"})),
    "typed dictionary": (Address, Address(street="a"), lambda v: v.__setitem__("street", "b"), Address(street="b")),
    "in a tuple": (tuple[list[int], int], ([1], 1), lambda v: v[0].append(2), ([1, 2], 1)),
    "in a frozen class": (Frozen, Frozen(["a"]), lambda v: v.items.append("b"), Frozen(["a", "b"])),
    "anything": (Any, {"a": [1]}, lambda v: v["a"].append(2), {"a": [1, 2]}),
    "only the order": (list[int], [1, 2], lambda v: v.reverse(), [2, 1]),
    "emptied": (list[int], [1, 2], lambda v: v.clear(), []),
}


@pytest.mark.parametrize(("type_", "value", "change", "expected"), CHANGES.values(), ids=CHANGES.keys())
def test_rule_05_a_change_in_place_is_saved(face: Face, type_: Any, value: Any, change: Callable[[Any], object], expected: Any) -> None:
    """A handler that changes what it has read need not assign it; the next request sees the change."""
    key = Key[Any]("value", type_)
    browser, _ = holding(face, key, value)
    with browser.visit() as session:
        change(session[key])
        assert session[key] == expected
    with browser.visit() as session:
        assert session[key] == expected


@pytest.mark.parametrize("how", ["[]", "get", "setdefault"])
def test_rule_05_however_the_value_was_got(face: Face, how: str) -> None:
    """Each accessor hands out the one value of the request."""
    key = Key("value", list[str])
    browser, _ = holding(face, key, ["a"])
    with browser.visit() as session:
        value = session[key] if how == "[]" else session.get(key, []) if how == "get" else session.setdefault(key, list[str])
        value.append("b")
    with browser.visit() as session:
        assert session[key] == ["a", "b"]


def test_rule_05_a_value_changed_after_it_was_assigned_is_saved_as_it_is_at_the_commit(face: Face) -> None:
    """Assigned, updated or set by default in this request: what counts is the value at its end."""
    assigned, updated, defaulted = Key("assigned", list[str]), Key("updated", list[str]), Key("defaulted", list[str])
    browser = face.browser()
    for _ in range(2):  # in a new session, and in one that is stored
        with browser.visit() as session:
            value = ["a"]
            session[assigned] = value
            value.append("b")
            session.update(updated, lambda _: ["a"], default=[]).append("b")
            session.pop(defaulted, None)
            session.setdefault(defaulted, lambda: ["a"]).append("b")
        with browser.visit() as session:
            assert [session[assigned], session[updated], session[defaulted]] == [["a", "b"]] * 3


def test_rule_05_changes_go_on_after_a_commit_in_the_middle(face: Face) -> None:
    """`manager.commit` saves what has changed so far, and what changes then is saved at the end."""
    key = Key("value", list[str])
    browser, _ = holding(face, key, [])
    store = watched(face)
    turn = browser.open()
    value = turn.session[key]
    for letter in "abc":
        value.append(letter)
        face.call(face.manager.commit(turn.session))
    turn.finish()
    assert store.calls["commit"] == 3
    with browser.visit() as session:
        assert session[key] == ["a", "b", "c"]


READERS: dict[str, tuple[Any, list[bytes]]] = {
    "a set, in every order": (set[str], [pack(order) for order in itertools.permutations(["a", "b", "c", "dd"])]),
    "a large set": (set[int], [pack(random.Random(n).sample(range(1000), 300)) for n in range(5)]),
    "a set in a class": (Book, [pack({"title": "Emma", "tags": order}) for order in itertools.permutations(["a", "b", "c"])]),
    "a set with a repetition": (set[str], [pack(["a", "a"])]),
    "fields in another order": (Cart, [pack({"notes": {}, "items": ["a"]})]),
    "a field too many": (Cart, [pack({"items": ["a"], "notes": {}, "old": 1})]),
    "a field too few": (Cart, [pack({"items": ["a"]})]),
    "another spelling of numbers": (list[int], [b"\x91\xcd\x00\x01", b"\xdc\x00\x01\x01"]),
    "whole numbers as floats": (list[float], [pack([1, 2])]),
    "a map with a repetition": (dict[str, int], [b"\x82\xa1a\x01\xa1a\x02"]),
    "any": (Any, [b"\xdc\x00\x01\x01"]),
    "bytes": (bytearray, [b"\xc5\x00\x01a"]),
}


@pytest.mark.parametrize(("type_", "payloads"), READERS.values(), ids=READERS.keys())
def test_rule_05_a_reader_never_becomes_a_writer(face: Face, type_: Any, payloads: list[bytes]) -> None:
    """Values whose encoding differs from the stored bytes, though nobody has changed them, ask for no commit."""
    key = Key[Any]("value", type_)
    browser, handle = holding(face, Key("user", str), "ann")
    store = watched(face)
    for payload in payloads:
        before = plant(face, handle, "value", payload)
        store.calls.clear()
        with browser.visit() as session:
            session[key]
        assert (store.calls["open"], store.calls["commit"]) == (1, 0)
        assert stored(face, handle, "value") == before


def test_rule_05_looking_in_any_way_is_not_writing(face: Face) -> None:
    """Iterating, asking, slicing a list and comparing ask for no commit either."""
    key, facts = Key("value", dict[str, list[int]]), ListKey("facts", list[int])
    browser, _ = holding(face, key, {"a": [1]})
    with browser.visit() as session:
        session[facts].append([1])
    store = watched(face)
    with browser.visit() as session:
        assert key in session
        assert facts in session
        assert len(list(session)) == 2
        assert session.get(key) == {"a": [1]}
        assert session[facts][0:1] == [[1]]
        assert session[facts] == [[1]]
        assert session.pop(Key("other", int), 0) == 0
        assert session[facts].remove_where(lambda _: False) == 0
    assert store.calls["commit"] == 0


def test_rule_05_a_change_that_is_taken_back_is_none(face: Face) -> None:
    """What is as it was when it was read asks for no commit."""
    key = Key("value", list[str])
    browser, _ = holding(face, key, ["a"])
    store = watched(face)
    with browser.visit() as session:
        session[key].append("b")
        session[key].pop()
    assert store.calls["commit"] == 0


def test_rule_05_an_upgraded_value_is_no_change(face: Face) -> None:
    """Upgrades change bytes, not the value; an upgraded value that the handler changes is saved."""
    key = Key("value", Cart, version=2, upgrade=lambda old, version: Cart(list(old)))
    browser, handle = holding(face, Key("user", str), "ann")
    before = plant(face, handle, "value", pack(["b", "a"]), version=1)
    store = watched(face)
    with browser.visit() as session:
        assert session[key] == Cart(["b", "a"])
    assert store.calls["commit"] == 0
    assert stored(face, handle, "value") == before
    with browser.visit() as session:
        session[key].items.append("c")
    assert store.calls["commit"] == 1
    with browser.visit() as session:
        assert session[key] == Cart(["b", "a", "c"])


def test_rule_05_a_change_into_something_else_is_refused(face: Face) -> None:
    """A value that was made no T in place raises at the commit, naming the key, and nothing of the request is applied."""
    key, name = Key("value", list[str]), Key("name", str)
    browser, handle = holding(face, key, ["a"])
    before = stored(face, handle, "value")
    turn = browser.open()
    value: Any = turn.session[key]
    value.append(3)
    turn.session[name] = "ann"
    with pytest.raises(KeyTypeError, match="'value'"):
        turn.send()
    assert stored(face, handle, "value") == before
    assert stored(face, handle, "name") is None


class Picture:
    """A mutable object with bytes of its own."""

    def __init__(self, pixels: bytes) -> None:
        self.pixels = pixels


def to_bytes(picture: Picture) -> bytes:
    return picture.pixels


def test_rule_05_a_hooked_value_is_compared_if_it_is_deterministic(face: Face) -> None:
    """With `deterministic=True` a change in place is saved, and reading asks for no commit."""
    photo = Key("photo", save=to_bytes, load=Picture, deterministic=True)
    browser, _ = holding(face, photo, Picture(b"one"))
    store = watched(face)
    with browser.visit() as session:
        assert session[photo].pixels == b"one"
    assert store.calls["commit"] == 0
    with browser.visit() as session:
        session[photo].pixels = b"two"
    assert store.calls["commit"] == 1
    with browser.visit() as session:
        assert session[photo].pixels == b"two"


def test_rule_05_a_hooked_value_that_is_not_deterministic_has_to_be_assigned(face: Face) -> None:
    """Without that promise nothing is compared: a change in place goes nowhere, an assignment is saved."""
    counter = itertools.count()
    photo = Key(
        "photo", save=lambda picture: b"%d:%s" % (next(counter), picture.pixels), load=lambda data: Picture(data.partition(b":")[2])
    )
    browser, _ = holding(face, photo, Picture(b"one"))
    saves = next(counter)
    store = watched(face)
    with browser.visit() as session:
        session[photo].pixels = b"two"
    assert store.calls["commit"] == 0
    assert next(counter) == saves + 1
    with browser.visit() as session:
        picture = session[photo]
        assert picture.pixels == b"one"
        picture.pixels = b"three"
        session[photo] = picture
    with browser.visit() as session:
        assert session[photo].pixels == b"three"


def test_rule_05_a_resident_value_is_the_object_itself(face: Face) -> None:
    """What stays in the process is never encoded: a change is there at once, and asks for no commit."""
    resident = Key("resident", Picture, resident=True)
    store = watched(face)
    browser, _ = holding(face, resident, Picture(b"one"))
    with browser.visit() as session:
        session[resident].pixels = b"two"
    with browser.visit() as session:
        assert session[resident].pixels == b"two"
    assert store.calls["commit"] == 0


def test_rule_05_a_view_writes_nothing(face: Face) -> None:
    """A value got from `get_session` may be changed, and stays a copy."""
    key = Key("value", list[str])
    browser, _ = holding(face, key, ["a"])
    view = face.call(face.manager.get_session(browser.request()))
    view[key].append("b")
    with browser.visit() as session:
        assert session[key] == ["a"]


def test_rule_05_an_element_of_a_list_is_a_value_not_a_place(face: Face) -> None:
    """Changing an element in place is not noticed: it asks for no commit and is gone in the next request."""
    facts = ListKey("facts", list[int])
    browser = face.browser()
    with browser.visit() as session:
        session[facts].append([1])
    store = watched(face)
    with browser.visit() as session:
        session[facts][0].append(2)
    assert store.calls["commit"] == 0
    with browser.visit() as session:
        assert list(session[facts]) == [[1]]


def fussy(picture: Picture) -> bytes:
    """A `save` that refuses what an older `load` let in."""
    if picture.pixels.startswith(b"old"):
        raise ValueError("no longer a picture")
    return picture.pixels


def test_rule_05_a_reader_does_not_fail_for_what_cannot_be_saved_again(face: Face) -> None:
    """A stored value that loads and no longer saves is for readers as good as any: their own changes are committed."""
    photo = Key("photo", save=fussy, load=Picture, deterministic=True)
    name = Key("name", str)
    browser, handle = holding(face, name, "ann")
    before = plant(face, handle, "photo", b"old one")
    with browser.visit() as session:
        assert session[photo].pixels == b"old one"
        session[name] = "ben"
    assert stored(face, handle, "photo") == before
    with browser.visit() as session:
        assert session[name] == "ben"


_drawn = itertools.count()


@dataclass
class Drawn:
    items: list[str]
    number: int = field(default_factory=lambda: next(_drawn))


class DrawnStruct(msgspec.Struct):
    items: list[str]
    inner: list[Drawn] = msgspec.field(default_factory=lambda: [Drawn([])])


@dataclass
class DrawnLater:
    items: list[str]
    number: int = -1

    def __post_init__(self) -> None:
        if self.number < 0:
            self.number = next(_drawn)


def with_a_number(old: Any, version: int = 1) -> Drawn:
    return Drawn(old["items"])


NEVER_THE_SAME: dict[str, tuple[Any, dict[str, Any]]] = {
    "an upgrade": (Drawn, {"version": 2, "upgrade": with_a_number}),
    "a chain": (Drawn, {"version": 2, "upgrade": Upgrades(dict[str, Any], with_a_number)}),
    "a new field": (Drawn, {}),
    "a new field deep inside": (DrawnStruct, {}),
    "a class that completes itself": (DrawnLater, {}),
}


@pytest.mark.parametrize(("type_", "options"), NEVER_THE_SAME.values(), ids=NEVER_THE_SAME.keys())
def test_rule_05_a_reader_does_not_write_what_reading_has_made(face: Face, type_: Any, options: dict[str, Any]) -> None:
    """An upgrade or a default that draws an id or takes the time gives another value at each look, and that is no change of the handler's.

    What another request appends meanwhile stays.
    """
    key = Key[Any]("value", type_, **options)
    browser, handle = holding(face, Key("user", str), "ann")
    before = plant(face, handle, "value", pack({"items": ["book"]}))
    store = watched(face)
    lost = heard(face, LostUpdate)
    with browser.visit() as session:
        assert session[key].items == ["book"]
        assert session[key] == session[key]
    assert store.calls["commit"] == 0
    assert stored(face, handle, "value") == before
    reader, writer = browser.open(), browser.open()
    assert reader.session[key].items == ["book"]
    writer.session[key].items.append("pen")
    writer.finish()
    reader.finish()
    with browser.visit() as session:
        assert session[key].items == ["book", "pen"]
    assert (store.calls["commit"], lost) == (1, [])


@pytest.mark.parametrize(("type_", "options"), NEVER_THE_SAME.values(), ids=NEVER_THE_SAME.keys())
def test_rule_05_a_change_of_what_reading_has_made_is_saved(face: Face, type_: Any, options: dict[str, Any]) -> None:
    """With what was drawn, which is the same in every request after; each change once, also after a commit in the middle."""
    key = Key[Any]("value", type_, **options)
    browser, handle = holding(face, Key("user", str), "ann")
    plant(face, handle, "value", pack({"items": ["book"]}))
    store = watched(face)
    with browser.visit() as session:
        value = session[key]
        for number in range(3):
            value.items.append(f"pen {number}")
            face.call(face.manager.commit(session))
            face.call(face.manager.commit(session))
    assert store.calls["commit"] == 3
    with browser.visit() as session:
        assert session[key] == value
    assert store.calls["commit"] == 3


def with_one_more(old: Any, version: int) -> list[str]:
    return [*old, "added"]


def test_rule_05_a_change_back_to_the_old_bytes_is_a_change(face: Face) -> None:
    """What an upgrade has added and the handler takes away again is gone, though the bytes are then those of the older version."""
    key = Key("value", list[str], version=2, upgrade=with_one_more)
    browser, handle = holding(face, Key("user", str), "ann")
    plant(face, handle, "value", pack(["a"]))
    with browser.visit() as session:
        session[key].remove("added")
    with browser.visit() as session:
        assert session[key] == ["a"]


@pytest.mark.parametrize(("type_", "options"), NEVER_THE_SAME.values(), ids=NEVER_THE_SAME.keys())
def test_rule_05_merge_begins_from_what_was_read(face: Face, type_: Any, options: dict[str, Any]) -> None:
    """And not from another look at it: what this request has not touched is the same in the base and in its own value."""
    seen: list[tuple[Any, Any, Any]] = []

    def merge(base: Any, mine: Any, theirs: Any) -> Any:
        seen.append((deepcopy(base), deepcopy(mine), deepcopy(theirs)))
        theirs.items = [*theirs.items, *(item for item in mine.items if item not in base.items)]
        return theirs

    key = Key[Any]("value", type_, merge=merge, **options)
    browser, handle = holding(face, Key("user", str), "ann")
    plant(face, handle, "value", pack({"items": ["book"]}))
    first, second = browser.open(), browser.open()
    first.session[key].items.append("ink")
    as_read = deepcopy(first.session[key])
    second.session[key].items.append("pen")
    second.finish()
    first.finish()
    base, mine, _ = seen[0]
    assert mine == as_read
    as_read.items.remove("ink")
    assert base == as_read
    with browser.visit() as session:
        assert session[key].items == ["book", "pen", "ink"]
