"""Rule 4: `upgrade(old, version)` brings an old value forward when it is read, and reading never writes it back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.faces import Browser, Face
from tests.planting import heard, pack, plant, plant_element, stored
from tests.watched import Watched
from typed_sessions import Key, KeyTypeError, ListKey, Session, Upgrades, ValueRefused
from typed_sessions.testing import isolated_keys


@dataclass
class Item:
    name: str
    count: int


@dataclass
class Cart:
    items: list[Item] = field(default_factory=list[Item])


def bring_forward(old: Any, version: int) -> Cart:
    """Version 1 was a list of names, version 2 a mapping from name to count."""
    if version == 1:
        return Cart([Item(name, 1) for name in old])
    return Cart([Item(name, count) for name, count in old.items()])


def written_by(face: Face, declare: Callable[[], Any], value: Any) -> tuple[Browser, str]:
    """A session that older code has written."""
    browser = face.browser()
    with isolated_keys():
        key = declare()
        with browser.visit() as session:
            session[key] = value
        with browser.visit() as session:
            return browser, session.handle


OLD = [
    (lambda: Key("cart", list[str]), ["pen", "ink"], Cart([Item("pen", 1), Item("ink", 1)])),
    (lambda: Key("cart", dict[str, int], version=2), {"pen": 2}, Cart([Item("pen", 2)])),
]


@pytest.mark.parametrize(("declare", "value", "expected"), OLD, ids=["version 1", "version 2"])
def test_rule_04_an_old_value_is_brought_forward_when_it_is_read(face: Face, declare: Any, value: Any, expected: Cart) -> None:
    """The function gets what the older type was encoded as, and the version it was stored with."""
    browser, _ = written_by(face, declare, value)
    cart = Key("cart", Cart, version=3, upgrade=bring_forward)
    with browser.visit() as session:
        assert session[cart] == expected


def test_rule_04_old_is_builtins_for_a_typed_key(face: Face) -> None:
    """Not the older class, which may not exist any more: dictionaries, lists, text and numbers."""
    browser, _ = written_by(face, lambda: Key("cart", Cart), Cart([Item("pen", 2)]))
    seen: list[tuple[object, int]] = []

    def upgrade(old: Any, version: int) -> int:
        seen.append((old, version))
        return len(old["items"])

    count = Key("cart", int, version=5, upgrade=upgrade)
    with browser.visit() as session:
        assert session[count] == 1
    assert seen == [({"items": [{"name": "pen", "count": 2}]}, 1)]


def test_rule_04_old_is_bytes_for_a_hooked_key(face: Face) -> None:
    """Only the hooks know what their bytes mean."""
    browser, _ = written_by(face, lambda: Key("name", save=str.encode, load=bytes.decode), "ann")
    seen: list[tuple[bytes, int]] = []

    def upgrade(old: bytes, version: int) -> str:
        seen.append((old, version))
        return old.decode().upper()

    name = Key("name", save=str.encode, load=bytes.decode, version=2, upgrade=upgrade)
    with browser.visit() as session:
        assert session[name] == "ANN"
    assert seen == [(b"ann", 1)]


def test_rule_04_reading_never_writes_it_back(face: Face) -> None:
    """However often it is read, no commit is asked for, and what is stored stays of the old version."""
    browser, handle = written_by(face, lambda: Key("cart", list[str]), ["pen"])
    before = stored(face, handle, "cart")
    cart = Key("cart", Cart, version=3, upgrade=bring_forward)
    watched = Watched(face.store)
    face.manager = face.another(watched)
    for _ in range(3):
        with browser.visit() as session:
            assert session[cart].items[0] == Item("pen", 1)
    assert watched.calls["commit"] == 0
    assert stored(face, handle, "cart") == before


def change_in_place(session: Session, cart: Key[Cart]) -> None:
    session[cart].items.append(Item("ink", 1))


def assign(session: Session, cart: Key[Cart]) -> None:
    session[cart] = Cart([*session[cart].items, Item("ink", 1)])


def update(session: Session, cart: Key[Cart]) -> None:
    session.update(cart, lambda old: Cart([*old.items, Item("ink", 1)]))


@pytest.mark.parametrize("work", [change_in_place, assign, update], ids=lambda work: work.__name__)
def test_rule_04_a_change_is_stored_as_the_new_version(face: Face, work: Callable[[Session, Key[Cart]], None]) -> None:
    """A request that changes the value writes it as this code's version, which needs no `upgrade` any more."""
    browser, handle = written_by(face, lambda: Key("cart", list[str]), ["pen"])
    cart = Key("cart", Cart, version=3, upgrade=bring_forward)
    with browser.visit() as session:
        work(session, cart)
    field_ = stored(face, handle, "cart")
    assert field_ is not None
    assert field_.version == 3
    with isolated_keys(), browser.visit() as session:
        assert session[cart] == Cart([Item("pen", 1), Item("ink", 1)])


def test_rule_04_an_old_value_that_others_store_meanwhile_is_brought_forward_too(face: Face) -> None:
    """A repeated `update` starts from the upgraded value, when old code was faster (a rolling deployment)."""
    browser, handle = written_by(face, lambda: Key("visits", str), "1")
    visits = Key("visits", int, version=2, upgrade=lambda old, version: int(old))
    turn = browser.open()
    assert turn.session.update(visits, lambda n: n + 1) == 2
    plant(face, handle, "visits", pack("10"))
    turn.finish()
    with browser.visit() as session:
        assert session[visits] == 11


def too_new(name: str) -> Key[int]:
    return Key(name, int, version=2, upgrade=lambda old, version: 0)


def without_upgrade(name: str) -> Key[int]:
    return Key(name, int, version=4)


def with_an_upgrade_that_raises(name: str) -> Key[int]:
    def upgrade(old: Any, version: int) -> int:
        raise ZeroDivisionError

    return Key(name, int, version=4, upgrade=upgrade)


def with_an_upgrade_to_something_else(name: str) -> Key[int]:
    def upgrade(old: Any, version: int) -> Any:
        return "three"

    return Key(name, int, version=4, upgrade=upgrade)


@pytest.mark.parametrize(
    "declare",
    [too_new, without_upgrade, with_an_upgrade_that_raises, with_an_upgrade_to_something_else],
    ids=lambda declare: declare.__name__,
)
def test_rule_04_what_cannot_be_brought_forward_is_refused(face: Face, declare: Callable[[str], Key[int]]) -> None:
    """A newer version, and an upgrade that is missing, raises or gives no T, are rule 1: absent, reported, bytes kept (X5)."""
    browser, handle = written_by(face, lambda: Key("visits", int, version=3), 3)
    before = stored(face, handle, "visits")
    visits = declare("visits")
    reports = heard(face, ValueRefused)
    with browser.visit() as session:
        assert visits not in session
    assert [event.name for event in reports] == ["visits"]
    assert "version 3" in reports[0].why
    assert stored(face, handle, "visits") == before


def test_rule_04_after_a_roll_back_the_newer_value_is_still_there(face: Face) -> None:
    """Old code that meets a newer value leaves it alone, and the new code finds it when it is back."""
    browser, _ = written_by(face, lambda: Key("visits", int, version=2), 3)
    with isolated_keys():
        old = Key("visits", int)
        with browser.visit() as session:
            assert old not in session
            session[Key("other", int)] = 1
    visits = Key("visits", int, version=2)
    with browser.visit() as session:
        assert session[visits] == 3


def length(old: Any, version: int) -> int:
    return len(old)


@pytest.mark.parametrize("upgrade", [length, Upgrades(str, len)], ids=["function", "chain"])
def test_rule_04_elements_are_brought_forward_one_by_one(face: Face, upgrade: Any) -> None:
    """A list may hold elements of several versions; what is appended is of this code's, and the older ones stay as they are stored."""
    browser, handle = written_by(face, lambda: Key("user", str), "ann")
    for text in ("one", "seven"):
        plant_element(face, handle, "facts", pack(text))
    with isolated_keys(), browser.visit() as session:
        facts = ListKey("facts", int, version=2, upgrade=upgrade)
        assert list(session[facts]) == [3, 5]
        session[facts].append(7)
    with isolated_keys(), browser.visit() as session:
        facts = ListKey("facts", int, version=2, upgrade=upgrade)
        assert list(session[facts]) == [3, 5, 7]
        session[facts].remove_where(lambda n: n == 3)
    with isolated_keys(), browser.visit() as session:
        assert list(session[ListKey("facts", str)]) == ["seven"]


def test_rule_04_elements_of_another_version_are_left_out_and_kept(face: Face) -> None:
    """Without an `upgrade`, elements of another version are reported, and stay beside those that are added."""
    browser, handle = written_by(face, lambda: Key("user", str), "ann")
    for version in (1, 2, 3):
        plant_element(face, handle, "facts", pack(version), version=version)
    reports = heard(face, ValueRefused)
    with isolated_keys(), browser.visit() as session:
        facts = ListKey("facts", int, version=2)
        assert list(session[facts]) == [2]
        session[facts].append(4)
    assert [event.name for event in reports] == ["facts", "facts"]
    for version, there in ((1, [1]), (2, [2, 4]), (3, [3])):
        with isolated_keys(), browser.visit() as session:
            assert list(session[ListKey("facts", int, version=version)]) == there


@pytest.mark.parametrize("version", [0, -1, 65_536, 1.5, "2", True, None], ids=repr)
def test_rule_04_a_version_is_a_whole_number(version: Any) -> None:
    """Anything else is refused where the key is declared."""
    with pytest.raises(KeyTypeError, match="version"):
        Key("n", int, version=version)


def test_rule_04_an_upgrade_without_a_new_version_is_refused() -> None:
    """It would never run."""
    for kind in (Key, ListKey):
        with pytest.raises(KeyTypeError, match="give version=2 or more"):
            kind("n", int, upgrade=lambda old, version: 0)
