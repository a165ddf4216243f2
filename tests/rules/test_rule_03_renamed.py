"""Rule 3 for a renamed key: code of the old name, of both (`was=`) and of the new name work on one store, and lose nothing."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.faces import Browser, Face
from tests.planting import heard, pack, plant, record_of, stored
from tests.rules.scene import Connection
from tests.watched import Watched
from typed_sessions import (
    Client,
    Downgrade,
    DuplicateKeyError,
    Key,
    KeyTypeError,
    LostUpdate,
    MemoryStore,
    SealingKeys,
    Upgrades,
    ValueRefused,
)
from typed_sessions.record import FIELD_COPY, FIELD_TWIN, pack_field
from typed_sessions.renamed import holder
from typed_sessions.reseal import reseal
from typed_sessions.testing import isolated_keys

T = TypeVar("T")

# Of releases one after the other, of which any two neighbours may run at once; "new" may be left out, or never have written a session.
GENERATIONS: dict[str, Callable[[], Key[Any]]] = {
    "old": lambda: Key("cart", int),
    "both": lambda: Key("basket", int, was="cart"),
    "new": lambda: Key("basket", int),
    "again": lambda: Key("bag", int, was="basket"),
}
PAIRS = [
    *(("old", "both"), ("both", "old"), ("both", "new"), ("new", "both"), ("both", "both")),
    *(("both", "again"), ("again", "both"), ("new", "again"), ("again", "new")),
]


def apart(declare: Callable[[], Key[T]]) -> Key[T]:
    """A key as another release's process declares it. It is good for reading and writing while its name is others'."""
    with isolated_keys():
        return declare()


def key_of_release(release: str) -> Key[Any]:
    return apart(GENERATIONS[release])


@pytest.fixture
def browser(face: Face) -> Browser:
    browser = face.browser()
    with browser.visit() as session:
        session[Key("user", str)] = "ann"
    return browser


def write(browser: Browser, release: str, value: int) -> None:
    with browser.visit() as session:
        session[key_of_release(release)] = value


def delete(browser: Browser, release: str) -> None:
    with browser.visit() as session:
        del session[key_of_release(release)]


def look(browser: Browser, key: Key[T], client: Client | None = None) -> T | None:
    with browser.visit(client=client) as session:
        return session.get(key)


def read(browser: Browser, release: str) -> int | None:
    return look(browser, key_of_release(release))


def test_rule_03_a_renamed_key_reads_what_is_stored_under_its_old_name(browser: Browser) -> None:
    """And reading writes nothing."""
    write(browser, "old", 1)
    watched = Watched(browser.face.store)
    browser.face.manager = browser.face.another(watched)
    assert [read(browser, "both"), read(browser, "both")] == [1, 1]
    assert watched.calls["commit"] == 0


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_rule_03_what_one_release_writes_another_reads(browser: Browser, first: str, second: str) -> None:
    """Whoever wrote last, both see it, however often they take turns."""
    for value in range(4):
        writer = (first, second)[value % 2]
        write(browser, writer, value)
        assert (read(browser, first), read(browser, second)) == (value, value)


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_rule_03_what_one_release_deletes_is_gone_for_another(browser: Browser, first: str, second: str) -> None:
    """Nothing comes back from the copy under the other name."""
    write(browser, first, 1)
    write(browser, second, 2)
    delete(browser, first)
    assert (read(browser, first), read(browser, second)) == (None, None)
    write(browser, second, 3)
    assert (read(browser, first), read(browser, second)) == (3, 3)


def test_rule_03_the_old_name_may_be_forgotten_once_a_session_was_written(browser: Browser) -> None:
    """The release after knows the new name alone, and finds every value that the one before has written."""
    write(browser, "old", 1)
    with browser.visit() as session:
        session.update(key_of_release("both"), lambda n: n + 1)
    assert read(browser, "new") == 2


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_rule_03_two_releases_that_update_at_once_both_count(browser: Browser, first: str, second: str) -> None:
    """`update` is repeated when the other release was faster, under whatever name that stored it."""
    write(browser, first, 10)
    turn = browser.open()
    assert turn.session.update(key_of_release(first), lambda n: n + 1) == 11
    with browser.visit() as session:
        session.update(key_of_release(second), lambda n: n + 5)
    turn.finish()
    assert (read(browser, first), read(browser, second)) == (16, 16)


@pytest.mark.parametrize("meanwhile", ["old", "both", "new"])
def test_rule_03_a_change_in_place_meets_that_of_another_release(browser: Browser, meanwhile: str) -> None:
    """It began from a version of one of the names: the conflict is noticed, and `merge` decides."""

    def merge(base: list[int], mine: list[int], theirs: list[int]) -> list[int]:
        return [*theirs, *(n for n in mine if n not in base)]

    both = apart(lambda: Key("basket", list[int], was="cart", merge=merge))
    with browser.visit() as session:
        session[both] = [1]
    turn = browser.open()
    turn.session[both].append(2)
    theirs = both if meanwhile == "both" else apart(lambda: Key("cart" if meanwhile == "old" else "basket", list[int]))
    with browser.visit() as session:
        session[theirs] = [1, 3]
    turn.finish()
    with browser.visit() as session:
        assert session[both] == [1, 3, 2]


def test_rule_03_a_lost_change_is_told_under_the_new_name(browser: Browser) -> None:
    """Without a `merge`, the last one wins, and says so (rule 7)."""
    lost = heard(browser.face, LostUpdate)
    both, old = apart(lambda: Key("basket", list[int], was="cart")), apart(lambda: Key("cart", list[int]))
    with browser.visit() as session:
        session[both] = [1]
    turn = browser.open()
    turn.session[both].append(2)
    with browser.visit() as session:
        session[old] = [3]
    turn.finish()
    assert [event.name for event in lost] == ["basket"]
    with browser.visit() as session:
        assert session[old] == session[both] == [1, 2]


def test_rule_03_a_renamed_key_is_one_key_of_the_session(browser: Browser) -> None:
    """`in`, `len` and iteration know one value, whichever name it is stored under."""
    write(browser, "old", 1)
    with isolated_keys():
        basket = GENERATIONS["both"]()
        for _ in range(2):
            with browser.visit() as session:
                assert [key for key in session if key.name != "user"] == [basket]
                assert basket in session
                session[basket] = 2


def test_rule_03_a_value_under_the_old_name_that_does_not_decode_is_refused(browser: Browser) -> None:
    """Rule 1 holds for either name."""
    with browser.visit() as session:
        handle = session.handle
    plant(browser.face, handle, "cart", pack("no number"))
    refused = heard(browser.face, ValueRefused)
    assert read(browser, "both") is None
    assert [event.name for event in refused] == ["basket"]
    with browser.visit() as session:
        session[key_of_release("both")] = 5
    assert (read(browser, "old"), read(browser, "new")) == (5, 5)


def test_rule_03_the_hooks_of_a_renamed_value_run_once(browser: Browser) -> None:
    """It is stored twice, and cleaned up once: by the release that ends the session, whichever that is (rule 13)."""
    for ending, other in (("both", "old"), ("old", "both")):
        cleaned: list[str] = []
        visitor = browser.face.browser()

        def declare(release: str, cleaned: list[str] = cleaned) -> Key[int]:
            name, was = ("cart", None) if release == "old" else ("basket", "cart")
            return Key(name, int, was=was, cleanup_delete=lambda n: cleaned.append(f"{release} {n}"))

        with isolated_keys(), visitor.visit() as session:
            session[declare("both")] = 1
        with isolated_keys():
            declare(ending)
            with visitor.visit() as session:
                handle = session.handle
                session.end()
        assert cleaned == [f"{ending} 1"]
        browser.face.clock.advance(100)  # a claim that was left is free by then
        with isolated_keys():
            declare(other)
            browser.face.call(browser.face.manager.sweep())
        assert cleaned == [f"{ending} 1"]
        assert record_of(browser.face, handle) is None


def test_rule_03_a_copy_under_a_name_that_is_gone_waits_for_no_hook(browser: Browser) -> None:
    """When `was=` has been taken away, a session that ends is gone with its hooks, and not kept for `reap_grace` (rule 13)."""
    cleaned: list[int] = []
    visitor = browser.face.browser()
    with isolated_keys(), visitor.visit() as session:
        session[Key("basket", int, was="cart", cleanup_delete=cleaned.append)] = 1
    Key("basket", int, cleanup_delete=cleaned.append)
    with visitor.visit() as session:
        session.end()
    assert cleaned == [1]
    face = browser.face
    face.clock.advance(100)  # a claim that was left is free by then
    records, _ = face.call(face.store.sweep(face.clock(), 10, 60.0, 604_800.0))
    assert not records


def test_rule_03_a_last_client_that_leaves_drops_both_copies(face: Face) -> None:
    """`cleanup_no_client` says False: the value is gone for every release."""
    browser = face.browser()
    releases = [key_of_release(release) for release in GENERATIONS]
    basket = Key("basket", int, was="cart", cleanup_no_client=lambda n: False)
    with Connection(face) as connection:
        with browser.visit(client=connection.client) as session:
            session[basket] = 1
            session[Key("user", str)] = "ann"
        assert [look(browser, key, connection.client) for key in releases] == [1] * len(releases)
    assert [look(browser, key) for key in releases] == [None] * len(releases)


@dataclass
class Basket:
    counts: dict[str, int] = field(default_factory=dict[str, int])
    voucher: str = ""


def to_basket(old: list[str]) -> Basket:
    return Basket({name: old.count(name) for name in old})


def to_cart(basket: Basket) -> list[str]:
    return [name for name, count in basket.counts.items() for _ in range(count)]


def cart_of_older_code() -> Key[list[str]]:
    return apart(lambda: Key("cart", list[str]))


def basket_of_newer_code(back: Callable[[Basket], list[str]]) -> Key[Basket]:
    up, down = Upgrades(list[str], to_basket), Downgrade(list[str], back)
    return apart(lambda: Key("basket", Basket, version=2, was="cart", upgrade=up, downgrade=down))


def test_rule_03_a_value_of_another_shape_goes_back_and_forth(browser: Browser) -> None:
    """A new name, a new type and `downgrade=`: both releases go on with the same cart, in their own shape."""
    cart, basket = cart_of_older_code(), basket_of_newer_code(to_cart)
    for n, name in enumerate(["pen", "ink", "pen", "pad"]):
        with browser.visit() as session:
            if n % 2:
                counts = session.setdefault(basket, Basket).counts
                counts[name] = counts.get(name, 0) + 1
            else:
                session.setdefault(cart, list[str]).append(name)
    with browser.visit() as session:
        assert session[basket] == Basket({"pen": 2, "ink": 1, "pad": 1})
        assert sorted(session[cart]) == ["ink", "pad", "pen", "pen"]


def fails(basket: Basket) -> list[str]:
    raise ZeroDivisionError


def gives_what_older_code_cannot_read(basket: Basket) -> Any:
    return 5


@pytest.mark.parametrize("back", [fails, gives_what_older_code_cannot_read])
def test_rule_03_a_downgrade_that_fails_leaves_older_code_what_it_had(
    browser: Browser, caplog: pytest.LogCaptureFixture, back: Callable[[Basket], list[str]]
) -> None:
    """It is logged; the newer code's value is stored, and is the one that counts until older code writes again."""
    cart, basket = cart_of_older_code(), basket_of_newer_code(back)
    with browser.visit() as session:
        session[cart] = ["pen"]
    with caplog.at_level(logging.ERROR, "typed_sessions"), browser.visit() as session:
        session[basket].voucher = "ten"
    assert "keeps the value that it had" in caplog.text
    with browser.visit() as session:
        assert session[basket] == Basket({"pen": 1}, "ten")
        assert session[cart] == ["pen"]
        session[cart] = ["ink"]
    with browser.visit() as session:
        assert session[basket] == Basket({"ink": 1})


def begin_with_a_pen(browser: Browser, release: str) -> None:
    with browser.visit() as session:
        if release == "older":
            session[cart_of_older_code()] = ["pen"]
        else:
            session[basket_of_newer_code(to_cart)] = Basket({"pen": 1})


@pytest.mark.parametrize("begun_by", ["older", "newer"])
def test_rule_03_what_the_newest_code_removes_stays_removed_after_a_downgrade_that_failed(browser: Browser, begun_by: str) -> None:
    """What older code had comes back in no release that knows the new name: neither in the newest, nor in the one that knows both."""
    begin_with_a_pen(browser, begun_by)
    cart, basket = cart_of_older_code(), basket_of_newer_code(fails)
    with browser.visit() as session:
        session[basket].voucher = "ten"
    newest = apart(lambda: Key("basket", Basket, version=2))
    with browser.visit() as session:
        assert session[newest] == session[basket] == Basket({"pen": 1}, "ten")
        assert session[cart] == ["pen"]
        del session[newest]
    assert look(browser, newest) is None
    assert look(browser, basket) is None


@pytest.mark.parametrize("begun_by", ["older", "newer"])
def test_rule_03_sealing_anew_brings_nothing_back_after_a_downgrade_that_failed(begun_by: str) -> None:
    """What older code had may be the only field that is rewritten, and so the later one: it is still not the value."""
    former, latter = bytes(32), bytes([1]) * 32
    face = Face("sync", MemoryStore(), seal=SealingKeys([former]))
    try:
        browser = face.browser()
        cart, basket = cart_of_older_code(), basket_of_newer_code(fails)
        begin_with_a_pen(browser, begun_by)
        both = SealingKeys([latter, former])
        face.renew(seal=both)
        with browser.visit() as session:
            session[basket].voucher = "ten"
        *_, done = reseal(face.store, both, face.clock)
        assert done.rewritten == 1
        face.renew(seal=SealingKeys([latter]))
        assert look(browser, basket) == Basket({"pen": 1}, "ten")
        assert look(browser, cart) == ["pen"]
    finally:
        face.close()


@pytest.mark.parametrize("read", [True, False])
def test_rule_03_an_assignment_whose_downgrade_fails_leaves_what_older_code_writes(browser: Browser, read: bool) -> None:
    """As it is by then: what the newer code has seen of it, or that it has seen nothing, is not put in its place."""
    cart, basket = cart_of_older_code(), basket_of_newer_code(fails)
    begin_with_a_pen(browser, "older")
    turn = browser.open()
    if read:
        assert turn.session[basket] == Basket({"pen": 1})
    turn.session[basket] = Basket({"pad": 1})
    with browser.visit() as session:
        session[cart] = ["ink"]
    turn.finish()
    assert look(browser, cart) == ["ink"]
    assert look(browser, basket) == Basket({"pad": 1})


@pytest.mark.parametrize("there", [True, False])
def test_rule_03_what_older_code_writes_beside_a_downgrade_that_fails_is_not_lost(browser: Browser, there: bool) -> None:
    """The newer code's `update` is applied to it, though the newer code itself writes nothing for the older."""
    cart, basket = cart_of_older_code(), basket_of_newer_code(fails)
    if there:
        with browser.visit() as session:
            session[cart] = ["pen"]
    turn = browser.open()
    turn.session.update(basket, lambda b: Basket({**b.counts, "pad": 1}), default=Basket())
    with browser.visit() as session:
        session[cart] = ["ink"]
    turn.finish()
    assert look(browser, basket) == Basket({"ink": 1, "pad": 1})
    assert look(browser, cart) == ["ink"]


def test_rule_03_a_name_that_a_key_had_is_no_other_keys(face: Face) -> None:
    """In one process a stored name has one key; the message names both places."""
    Key("basket", int, was="cart")
    Key("basket", int, was="cart")  # a reload
    declarations: list[Callable[[], Key[int]]] = [
        lambda: Key("cart", int),
        lambda: Key("trolley", int, was="cart"),
        lambda: Key("basket", int),
    ]
    for declare in declarations:
        with pytest.raises(DuplicateKeyError, match=r"test_rule_03_renamed.py:\d+ .*test_rule_03_renamed.py:\d+ "):
            declare()
    Key("user", str)
    with pytest.raises(DuplicateKeyError, match="'user' is taken"):
        Key("account", str, was="user")


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"was": "n"}, "the name that the key had before"),
        ({"was": ""}, "1 to 64"),
        ({"was": "x" * 65}, "1 to 64"),
        ({"was": "a", "resident": True}, "never stored"),
        ({"downgrade": Downgrade(int, int)}, "give was= with it"),
        ({"was": "a", "downgrade": Downgrade(int, int)}, "give a newer version=, and upgrade="),
        ({"was": "a", "version": 2, "downgrade": Downgrade(int, int)}, "and upgrade="),
        ({"was": "a", "version": 2, "upgrade": max, "downgrade": Downgrade(int, int, version=2)}, "values are of version 2: give a newer"),
        ({"was": "a", "version": 3, "upgrade": Upgrades(int, int, version=2), "downgrade": Downgrade(int, int)}, "are of version 1"),
    ],
)
def test_rule_03_a_renaming_that_cannot_work_is_refused(options: dict[str, Any], why: str) -> None:
    """Where the key is declared."""
    with pytest.raises(KeyTypeError, match=why):
        Key("n", int, **options)


TABLE = [
    # new name, old name, the value is that of
    ("twin", "copy", "new"),
    ("twin", "other", "old"),
    ("other", "copy", "new"),
    ("twin", None, None),
    (None, "copy", None),
    ("other", None, "new"),
    (None, "other", "old"),
    (None, None, None),
    # The old name is the new one of an earlier renaming, or the new name the old one of a later.
    ("twin", "twin", "old"),
    (None, "twin", "old"),
    ("copy", "copy", "new"),
    ("copy", None, "new"),
]
MARKS = {"twin": FIELD_TWIN, "copy": FIELD_COPY, "other": 0}


def _field(what: str | None, revision: int) -> dict[str, bytes]:
    return {} if what is None else {"": pack_field(revision, 1, MARKS[what], b"")}


@given(new_revision=st.integers(1, 9), old_revision=st.integers(1, 9))
@pytest.mark.parametrize(("new", "old", "expected"), TABLE)
def test_rule_03_the_table_of_twins(new: str | None, old: str | None, expected: str | None, new_revision: int, old_revision: int) -> None:
    """Twins decide by what is marked, whatever the revisions: resealing a store gives new ones."""
    fields = {
        name: packed
        for name, found in (("new", _field(new, new_revision)), ("old", _field(old, old_revision)))
        for packed in found.values()
    }
    assert holder(fields, "new", "old") == expected


@given(new_revision=st.integers(1, 9), old_revision=st.integers(1, 9))
def test_rule_03_of_two_that_are_no_twins_the_later_one_counts(new_revision: int, old_revision: int) -> None:
    """Code of the old name alone and code of the new name alone ran at once: nothing better is known."""
    fields = {"new": pack_field(new_revision, 1, 0, b""), "old": pack_field(old_revision, 1, 0, b"")}
    assert holder(fields, "new", "old") == ("new" if new_revision >= old_revision else "old")


def test_rule_03_twins_are_written_in_one_trip(browser: Browser) -> None:
    """Both fields go with the one commit, and are marked."""
    with browser.visit() as session:
        handle = session.handle
    watched = Watched(browser.face.store)
    browser.face.manager = browser.face.another(watched)
    write(browser, "both", 1)
    assert watched.calls["commit"] == 1
    for name, mark in (("basket", FIELD_TWIN), ("cart", FIELD_COPY)):
        found = stored(browser.face, handle, name)
        assert found is not None
        assert found.flags == mark
