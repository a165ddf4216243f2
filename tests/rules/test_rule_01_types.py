"""Rule 1: what `session[key]` returns is a T; a stored value that is none counts as absent, is reported, and stays where it is."""

from __future__ import annotations

import enum
import logging
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from decimal import Decimal
from functools import partial
from typing import Any, TypedDict

import msgspec
import pytest

from tests.faces import Browser, Face
from tests.planting import heard, pack, plant, plant_element, record_of, stored
from typed_sessions import Key, KeyTypeError, ListKey, Session, ValueRefused, current_session
from typed_sessions.record import FIELD_LIST, pack_elements, pack_field


@dataclass
class Cart:
    items: list[str] = field(default_factory=list[str])


class Colour(enum.Enum):
    RED = "red"


class Book(msgspec.Struct):
    title: str
    pages: int = 0


class Address(TypedDict):
    street: str
    number: int


VALUES: list[tuple[Any, Any]] = [
    (int, 3),
    (str, "three"),
    (bool, True),
    (float, 0.5),
    (bytes, b"\x00\xff"),
    (int | None, None),
    (list[str], ["a", "b"]),
    (dict[str, int], {"a": 1}),
    (set[int], {1, 2}),
    (tuple[int, str], (1, "a")),
    (datetime, datetime(2024, 2, 29, tzinfo=timezone.utc)),
    (uuid.UUID, uuid.UUID(int=7)),
    (Decimal, Decimal("1.10")),
    (Colour, Colour.RED),
    (Cart, Cart(["pen"])),
    (list[Cart], [Cart(["pen"]), Cart()]),
    (Book, Book("Emma", 474)),
    (Address, Address(street="Main Street", number=1)),
]

NOT_AN_INT = {
    "nothing": b"",
    "text": pack("3"),
    "nil": pack(None),
    "a list": pack([3]),
    "a float": pack(3.5),
    "not a number": pack(float("nan")),
    "a truth": pack(True),
    "more after it": pack(3) + b"\x01",
    "cut off": pack(2**40)[:-1],
    "no MessagePack": b"\xc1",
    "an extension": b"\xd4\x01\x00",
    "nested deeply": b"\x91" * 50_000 + b"\x01",
}


def instead(value: object, _: object) -> object:
    """For `update`: another value, whatever was there."""
    return value


def saved(face: Face, write: Callable[[Session], object]) -> tuple[Browser, str]:
    """A browser whose session holds what `write` put there, and the session's handle."""
    browser = face.browser()
    with browser.visit() as session:
        write(session)
    with browser.visit() as session:
        return browser, session.handle


@pytest.mark.parametrize(("type_", "value"), VALUES, ids=[str(type_) for type_, _ in VALUES])
def test_rule_01_what_is_read_back_is_of_the_type(face: Face, type_: Any, value: Any) -> None:
    """The next request gets an equal value of the same class, not what an encoding would make of it."""
    key = Key[Any]("value", type_)
    browser, _ = saved(face, lambda session: session.__setitem__(key, value))
    with browser.visit() as session:
        assert session[key] == value
        assert type(session[key]) is type(value)


def test_rule_01_what_is_not_of_the_type_is_refused_where_it_is_assigned(face: Face) -> None:
    """A wrong value raises at the assignment, naming the key; the value that was there is still there."""
    visits = Key("visits", int)
    cart = Key("cart", Cart)
    browser, _ = saved(face, lambda session: session.__setitem__(visits, 1))
    wrong: list[tuple[Any, Any]] = [(visits, "2"), (visits, 2.5), (visits, None), (cart, {"items": []}), (cart, ["pen"])]
    with browser.visit() as session:
        for key, value in wrong:
            with pytest.raises(KeyTypeError, match=key.name):
                session[key] = value
            with pytest.raises(KeyTypeError, match=key.name):
                session.update(key, partial(instead, value), default=1 if key is visits else Cart())
        assert session[visits] == 1
        assert cart not in session


@pytest.mark.parametrize("payload", NOT_AN_INT.values(), ids=NOT_AN_INT.keys())
def test_rule_01_a_stored_value_of_another_type_counts_as_absent(face: Face, payload: bytes) -> None:
    """However it is looked for, a planted value is not there, and never comes out of the key (X2, X3, X4)."""
    visits = Key("visits", int)
    browser, handle = saved(face, lambda session: session.__setitem__(visits, 1))
    plant(face, handle, "visits", payload)
    with browser.visit() as session:
        assert visits not in session
        assert session.get(visits) is None
        assert session.get(visits, 7) == 7
        assert session.pop(visits, 8) == 8
        assert list(session) == []
        with pytest.raises(KeyError):
            session[visits]
        with pytest.raises(KeyError):
            session.pop(visits)
        with pytest.raises(KeyError):
            session.update(visits, lambda n: n)


def test_rule_01_hostile_numbers_and_texts_are_bounded(face: Face) -> None:
    """Huge integers, lone surrogates and bytes that are no UTF-8 are refused like any other wrong value (X4)."""
    keys = {"number": Key[Any]("number", int), "text": Key[Any]("text", str), "any": Key("any", Any)}
    planted = {"number": b"\xcf" + b"\xff" * 8 + b"\xff", "text": b"\xa3\xed\xa0\x80", "any": b"\x91" * 50_000 + b"\x01"}
    browser, handle = saved(face, lambda session: session.__setitem__(keys["text"], "a"))
    for name, payload in planted.items():
        plant(face, handle, name, payload)
    with browser.visit() as session:
        assert [name for name, key in keys.items() if key in session] == []


def test_rule_01_a_refused_value_is_reported(face: Face, caplog: pytest.LogCaptureFixture) -> None:
    """`ValueRefused` names the key and the reason, once per request, in a listener whose current session it is; and a line is logged."""
    visits = Key("visits", int)
    name = Key("name", str)
    browser, handle = saved(face, lambda session: session.__setitem__(name, "ann"))
    plant(face, handle, "visits", pack("not-a-number"))
    reports: list[tuple[str, str, str, str]] = []

    def report(event: ValueRefused) -> None:
        reports.append((event.name, event.why, event.session[name], current_session().handle))

    face.manager.on(ValueRefused, report)
    with caplog.at_level(logging.WARNING, "typed_sessions"), browser.visit() as session:
        assert visits not in session
        assert visits not in session
        assert session.get(visits) is None
    assert [(report[0], report[2], report[3]) for report in reports] == [("visits", "ann", handle)]
    assert "int" in reports[0][1]
    lines = [line.getMessage() for line in caplog.records]
    assert len(lines) == 1
    assert "'visits'" in lines[0]
    assert "not-a-number" not in lines[0] + reports[0][1]


def test_rule_01_a_refused_value_keeps_its_bytes_until_it_is_assigned(face: Face) -> None:
    """Reading, writing elsewhere and renewing leave the bytes as they are; assigning the key replaces them."""
    visits = Key("visits", int)
    name = Key("name", str)
    browser, handle = saved(face, lambda session: session.__setitem__(name, "ann"))
    planted = plant(face, handle, "visits", pack("three"))
    with browser.visit() as session:
        assert visits not in session
    with browser.visit() as session:
        assert visits not in session
        session[name] = "ben"
        session.renew()
    assert stored(face, handle, "visits") == planted
    with browser.visit() as session:
        session[visits] = 4
    with browser.visit() as session:
        assert session[visits] == 4


def test_rule_01_a_refused_value_keeps_its_bytes_until_it_is_deleted(face: Face) -> None:
    """`del` removes what is stored, though nothing of it could be read."""
    visits = Key("visits", int)
    browser, handle = saved(face, lambda session: session.__setitem__(Key("name", str), "ann"))
    plant(face, handle, "visits", pack("three"))
    with browser.visit() as session:
        del session[visits]
        with pytest.raises(KeyError):
            del session[visits]
    assert stored(face, handle, "visits") is None


def test_rule_01_a_refused_value_is_replaced_by_an_update_with_a_default(face: Face) -> None:
    """What counts as absent takes the default, in this request and in the store."""
    visits = Key("visits", int)
    browser, handle = saved(face, lambda session: session.__setitem__(Key("name", str), "ann"))
    plant(face, handle, "visits", pack("three"))
    with browser.visit() as session:
        assert session.update(visits, lambda n: n + 1, default=0) == 1
    field_ = stored(face, handle, "visits")
    assert field_ is not None
    assert field_.payload == pack(1)


def test_rule_01_the_other_keys_are_not_touched_by_it(face: Face) -> None:
    """Beside a refused value the others are read, changed in place and written as always."""
    visits, name, cart = Key("visits", int), Key("name", str), Key("cart", Cart)

    def fill(session: Session) -> None:
        session[name] = "ann"
        session[cart] = Cart(["pen"])

    browser, handle = saved(face, fill)
    plant(face, handle, "visits", b"\xc1")
    before = stored(face, handle, "name")
    with browser.visit() as session:
        assert visits not in session
        assert session[name] == "ann"
        session[cart].items.append("ink")
    assert stored(face, handle, "name") == before
    with browser.visit() as session:
        assert session[cart] == Cart(["pen", "ink"])


def test_rule_01_what_a_hook_refuses_counts_as_absent(face: Face) -> None:
    """A `load` that raises is a value that does not decode, and its text is not repeated (it may quote the value)."""

    def load(data: bytes) -> str:
        raise ValueError(f"cannot read {data!r}")

    secret = Key("secret", save=str.encode, load=load)
    browser, handle = saved(face, lambda session: session.__setitem__(secret, "hunter2"))
    reports = heard(face, ValueRefused)
    with browser.visit() as session:
        assert secret not in session
    assert [event.name for event in reports] == ["secret"]
    assert "hunter2" not in reports[0].why
    field_ = stored(face, handle, "secret")
    assert field_ is not None
    assert field_.payload == b"hunter2"


def test_rule_01_a_list_leaves_out_what_is_no_element(face: Face) -> None:
    """Of a `ListKey`, the elements that decode are there, the other keeps its bytes until the list is cleared."""
    facts = ListKey("facts", int)
    browser, handle = saved(face, lambda session: session[facts].append(1))
    plant_element(face, handle, "facts", pack("two"))
    reports = heard(face, ValueRefused)
    with browser.visit() as session:
        session[facts].append(3)
        assert list(session[facts]) == [1, 3]
    assert [event.name for event in reports] == ["facts"]
    field_ = stored(face, handle, "facts")
    assert field_ is not None
    assert pack("two") in field_.payload
    with browser.visit() as session:
        session[facts].clear()
    assert stored(face, handle, "facts") is None


@pytest.mark.parametrize("flags", [0, FIELD_LIST], ids=["a single value", "a damaged list"])
@pytest.mark.parametrize("payload", [pack([1, 2]), b"\xc1", pack("text")], ids=["numbers", "no MessagePack", "text"])
def test_rule_01_a_list_whose_stored_form_is_none_is_empty(face: Face, payload: bytes, flags: int) -> None:
    """What older code stored as one value under the name is no list: reported, kept by readers, and replaced by the first append (X5)."""
    facts = ListKey("facts", int)
    name = Key("name", str)
    browser, handle = saved(face, lambda session: session.__setitem__(name, "ann"))
    planted = plant(face, handle, "facts", payload, flags=flags)
    reports = heard(face, ValueRefused)
    with browser.visit() as session:
        assert list(session[facts]) == []
        assert facts not in session
        session[name] = "ben"
    assert [event.name for event in reports] == ["facts"]
    assert stored(face, handle, "facts") == planted
    with browser.visit() as session:
        session[facts].append(3)
    with browser.visit() as session:
        assert list(session[facts]) == [3]


@pytest.mark.parametrize("how", ["clear", "del"])
def test_rule_01_a_damaged_list_can_be_deleted(face: Face, how: str) -> None:
    """`del` and `clear` remove a list that could not be read."""
    facts = ListKey("facts", int)
    browser, handle = saved(face, lambda session: session.__setitem__(Key("name", str), "ann"))
    plant(face, handle, "facts", pack([1, 2]))
    with browser.visit() as session:
        if how == "clear":
            session[facts].clear()
        else:
            del session[facts]
    assert stored(face, handle, "facts") is None


def test_rule_01_a_key_does_not_read_a_list(face: Face) -> None:
    """A list stored under a name that is one value's now is refused, also by a key with an `upgrade`, which knows no lists (X5)."""
    upgraded: list[object] = []

    def upgrade(old: object, version: int) -> list[int]:
        upgraded.append(old)
        return [0]

    facts = Key("facts", list[int], version=2, upgrade=upgrade)
    browser, handle = saved(face, lambda session: session.__setitem__(Key("name", str), "ann"))
    plant_element(face, handle, "facts", pack(1))
    before = stored(face, handle, "facts")
    with browser.visit() as session:
        assert facts not in session
    assert stored(face, handle, "facts") == before
    assert upgraded == []


def test_rule_01_what_a_conflict_brings_is_checked_too(face: Face) -> None:
    """A value that turns out to be none only when a commit is repeated is reported like one that was read (X3)."""
    visits = Key("visits", int)
    browser, handle = saved(face, lambda session: session.__setitem__(visits, 1))
    reports = heard(face, ValueRefused)
    turn = browser.open()
    assert turn.session.update(visits, lambda n: n + 1, default=10) == 2
    plant(face, handle, "visits", pack("three"))
    turn.finish()
    assert [event.name for event in reports] == ["visits"]
    with browser.visit() as session:
        assert session[visits] == 11


def test_rule_01_a_view_gets_no_wrong_value_either(face: Face) -> None:
    """`get_session` and `all()` read with the same care."""
    visits = Key("visits", int)
    browser, handle = saved(face, lambda session: session.__setitem__(visits, 1))
    plant(face, handle, "visits", pack("three"))
    view = face.call(face.manager.get_session(browser.request()))
    assert visits not in view
    assert [visits in view for view in face.call(face.manager.all())] == [False]


def test_rule_01_the_packed_forms_used_here_are_those_of_the_store(face: Face) -> None:
    """The planted bytes are what a real list and a real value look like, so the tests above show what they say."""
    facts, visits = ListKey("facts", int), Key("visits", int)

    def fill(session: Session) -> None:
        session[facts].append(1)
        session[visits] = 1

    _, handle = saved(face, fill)
    record = record_of(face, handle)
    assert record is not None
    one, many = stored(face, handle, "visits"), stored(face, handle, "facts")
    assert one is not None
    assert many is not None
    assert one.payload == pack(1)
    assert one.flags == 0
    assert many.flags == FIELD_LIST
    assert pack_field(*one) == record.fields["visits"]
    assert pack_elements(many.revision, []) == pack_field(many.revision, 0, FIELD_LIST, pack([]))
