"""Rule 3: a stored name that this process has no key for is carried through unchanged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.faces import Browser, Face
from tests.planting import pack, plant, plant_element, record_of, stored
from typed_sessions import Key, ListKey, Session
from typed_sessions.testing import isolated_keys


@dataclass
class Cart:
    items: list[str] = field(default_factory=list[str])


def signed_in(face: Face) -> tuple[Browser, str]:
    """A session that also holds a value and a list of another program's."""
    browser = face.browser()
    with isolated_keys():
        user = Key("user", str)
        with browser.visit() as session:
            session[user] = "ann"
        with browser.visit() as session:
            handle = session.handle
    plant(face, handle, "future", pack({"kind": "new"}), version=9)
    plant_element(face, handle, "future facts", pack("one"), version=9)
    return browser, handle


def foreign(face: Face, handle: str) -> list[Any]:
    return [stored(face, handle, "future"), stored(face, handle, "future facts")]


def read(session: Session, user: Key[str], cart: Key[Cart], facts: ListKey[int]) -> None:
    assert session[user] == "ann"


def assign(session: Session, user: Key[str], cart: Key[Cart], facts: ListKey[int]) -> None:
    session[user] = "ben"


def delete(session: Session, user: Key[str], cart: Key[Cart], facts: ListKey[int]) -> None:
    del session[user]


def change_in_place(session: Session, user: Key[str], cart: Key[Cart], facts: ListKey[int]) -> None:
    session.setdefault(cart, Cart).items.append("pen")


def update(session: Session, user: Key[str], cart: Key[Cart], facts: ListKey[int]) -> None:
    session.update(user, str.upper)


def append(session: Session, user: Key[str], cart: Key[Cart], facts: ListKey[int]) -> None:
    session[facts].append(1)


def delete_everything_known(session: Session, user: Key[str], cart: Key[Cart], facts: ListKey[int]) -> None:
    for key in session:
        del session[key]


def renew(session: Session, user: Key[str], cart: Key[Cart], facts: ListKey[int]) -> None:
    session.renew()


def renew_with_overlap(session: Session, user: Key[str], cart: Key[Cart], facts: ListKey[int]) -> None:
    session.renew(overlap=10)


def set_timeout(session: Session, user: Key[str], cart: Key[Cart], facts: ListKey[int]) -> None:
    session.timeout = 60


WORK = [read, assign, delete, change_in_place, update, append, delete_everything_known, renew, renew_with_overlap, set_timeout]


@pytest.mark.parametrize("work", WORK, ids=lambda work: work.__name__)
def test_rule_03_an_unknown_name_is_carried_through(face: Face, work: Callable[..., None]) -> None:
    """Whatever a request does to the keys it knows, the bytes, version and revision of the others stay (X5, a rolling deployment)."""
    browser, handle = signed_in(face)
    before = foreign(face, handle)
    keys = Key("user", str), Key("cart", Cart), ListKey("facts", int)
    with browser.visit() as session:
        work(session, *keys)
    assert foreign(face, handle) == before


def test_rule_03_an_unknown_name_survives_a_conflict(face: Face) -> None:
    """So it does when a commit has to be repeated."""
    browser, handle = signed_in(face)
    visits = Key("visits", int)
    before = foreign(face, handle)
    one, two = browser.open(), browser.open()
    for turn in (one, two):
        turn.session.update(visits, lambda n: n + 1, default=0)
    for turn in (one, two):
        turn.finish()
    assert foreign(face, handle) == before
    with browser.visit() as session:
        assert session[visits] == 2


def test_rule_03_an_unknown_name_is_not_seen(face: Face) -> None:
    """Iterating a session names only keys that this process has."""
    browser, _ = signed_in(face)
    user = Key("user", str)
    with browser.visit() as session:
        assert list(session) == [user]


def test_rule_03_an_unknown_name_is_there_for_the_program_that_knows_it(face: Face) -> None:
    """The old and the new code of a rolling deployment take turns on one session, and neither loses anything."""
    browser, _ = signed_in(face)
    for turn in range(3):
        with isolated_keys():
            old = Key("user", str)
            with browser.visit() as session:
                session[old] = f"user {turn}"
        with isolated_keys():
            new = Key("future", dict[str, str], version=9)
            with browser.visit() as session:
                assert session[new] == {"kind": "new"} if turn == 0 else {"kind": str(turn - 1)}
                session[new] = {"kind": str(turn)}


@pytest.mark.stores("memory")
def test_rule_03_an_unknown_name_is_in_a_snapshot(face: Face, tmp_path: Path) -> None:
    """A process that saves and loads what it does not know gives it back unchanged."""
    _, handle = signed_in(face)
    before = foreign(face, handle)
    face.call(face.manager.save_sessions(tmp_path / "sessions"))
    after = Face(face.kind, type(face.store)())
    assert after.call(after.manager.load_sessions(tmp_path / "sessions")) == 1
    assert foreign(after, handle) == before
    after.close()


def test_rule_03_dropping_the_data_drops_it_all(face: Face) -> None:
    """`renew(clear=True)` and the end of the session are no change of a key: what nobody here knows goes with the rest."""
    browser, handle = signed_in(face)
    with browser.visit() as session:
        session.renew(clear=True)
    record = record_of(face, handle)
    assert record is not None
    assert dict(record.fields) == {}


def test_rule_03_a_reader_leaves_fields_of_a_value_alone(face: Face) -> None:
    """Carried through are keys. A field that a class does not have stays for readers, and is gone once the value is written."""
    browser, handle = signed_in(face)
    cart = Key("cart", Cart)
    planted = plant(face, handle, "cart", pack({"items": ["pen"], "voucher": "X"}))
    with browser.visit() as session:
        assert session[cart] == Cart(["pen"])
    assert stored(face, handle, "cart") == planted
    with browser.visit() as session:
        session[cart].items.append("ink")
    field_ = stored(face, handle, "cart")
    assert field_ is not None
    assert field_.payload == pack({"items": ["pen", "ink"]})
