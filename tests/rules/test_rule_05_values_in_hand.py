"""Rule 5 and what the handler holds: the session's own value as long as that can be, and `LostUpdate` if one that is not is changed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.faces import Browser, Face
from tests.planting import heard, pack, plant
from typed_sessions import Key, LostUpdate, Session
from typed_sessions.session import tracking_of


@dataclass
class Cart:
    items: list[str] = field(default_factory=list[str])


def both(base: list[str], mine: list[str], theirs: list[str]) -> list[str]:
    return theirs + [item for item in mine if item not in theirs]


def begun(face: Face, key: Key[list[str]]) -> tuple[Browser, str]:
    browser = face.browser()
    with browser.visit() as session:
        session[key] = []
    with browser.visit() as session:
        return browser, session.handle


def commit(face: Face, session: Session) -> None:
    face.call(face.manager.commit(session))


def test_rule_05_a_value_that_a_merge_has_replaced_is_told_when_it_is_changed(face: Face) -> None:
    """A loop that has read a list once, before it: what it appends after a conflict is not saved, and `LostUpdate` says so each time."""
    chat = Key("chat", list[str], merge=both)
    browser, handle = begun(face, chat)
    lost = heard(face, LostUpdate)
    turn = browser.open()
    log = turn.session[chat]
    for number in range(4):
        log.append(f"message {number}")
        if number == 1:
            plant(face, handle, "chat", pack(["message 0", "from another tab"]))
        commit(face, turn.session)
        assert len(lost) == max(0, number - 1)
    commit(face, turn.session)
    turn.finish()
    assert [event.name for event in lost] == ["chat", "chat"]
    with browser.visit() as session:
        assert session[chat] == ["message 0", "from another tab", "message 1"]


def test_rule_05_what_is_read_again_after_a_commit_is_saved(face: Face) -> None:
    """As is a value that was replaced and is assigned again: nothing of that is lost."""
    chat = Key("chat", list[str], merge=both)
    browser, handle = begun(face, chat)
    lost = heard(face, LostUpdate)
    turn = browser.open()
    for number in range(4):
        turn.session[chat].append(f"message {number}")
        plant(face, handle, "chat", pack([f"message {n}" for n in range(number)]))
        commit(face, turn.session)
    log = turn.session[chat]
    log.append("message 4")
    plant(face, handle, "chat", pack(["other"]))
    commit(face, turn.session)
    turn.session[chat] = log
    log.append("message 5")
    turn.finish()
    assert lost == []
    with browser.visit() as session:
        assert session[chat] == [f"message {n}" for n in range(6)]


@pytest.mark.parametrize("how", ["assigned", "removed", "assigned itself", "returned by update"])
def test_rule_05_a_change_that_was_settled_is_not_told_later(face: Face, how: str) -> None:
    """A handler that assigns what it makes of the replaced value has lost nothing: not at that commit, and not at the next ones."""
    chat = Key("chat", list[str], merge=both)
    browser, handle = begun(face, chat)
    lost = heard(face, LostUpdate)
    turn = browser.open()
    log = turn.session[chat]
    log.append("first")
    plant(face, handle, "chat", pack(["theirs"]))
    commit(face, turn.session)
    log.append("second")
    if how == "assigned":
        turn.session[chat] = ["theirs", *log]
    elif how == "assigned itself":
        turn.session[chat] = log
    elif how == "removed":
        del turn.session[chat]
    else:
        turn.session.update(chat, lambda _: log)
    commit(face, turn.session)
    if how in ("assigned itself", "returned by update"):
        log.append("third")  # it is the session's again
    commit(face, turn.session)
    turn.finish()
    assert lost == []
    expected = {"assigned": ["theirs", "first", "second"], "removed": None}
    with browser.visit() as session:
        assert session.get(chat) == expected.get(how, ["first", "second", "third"])


@pytest.mark.parametrize("was", [None, "before"])
def test_rule_05_what_others_wrote_is_read_after_a_commit_of_something_else(face: Face, was: str | None) -> None:
    """A value that was read before, of a key that this request does not write: the next change in place begins from what is stored."""
    names, seen = Key("names", list[str], was=was), Key("seen", int)
    browser = face.browser()
    with browser.visit() as session:
        session[names] = ["a"]
    turn = browser.open()
    assert turn.session[names] == ["a"]
    with browser.visit() as session:
        session[names].append("b")
    turn.session[seen] = 1
    face.call(face.manager.commit(turn.session))
    assert turn.session[names] == ["a", "b"]
    turn.session[names].append("c")
    turn.finish()
    with browser.visit() as session:
        assert session[names] == ["a", "b", "c"]


def test_rule_05_what_update_returned_is_told_as_well(face: Face) -> None:
    """After a commit that has applied the function to another's value, as at the end of the request."""
    chat = Key("chat", list[str])
    browser, handle = begun(face, chat)
    lost = heard(face, LostUpdate)
    turn = browser.open()
    value = turn.session.update(chat, lambda items: [*items, "mine"])
    plant(face, handle, "chat", pack(["theirs"]))
    commit(face, turn.session)
    assert turn.session[chat] == ["theirs", "mine"]
    value.append("late")
    turn.finish()
    assert [event.name for event in lost] == ["chat"]


@pytest.mark.parametrize("changed", [False, True])
def test_rule_05_a_refresh_leaves_what_nobody_has_written(face: Face, changed: bool) -> None:
    """The handler's value stays the session's; one that another request has changed is read anew, and a change of the old one is told."""
    chat, other = Key("chat", list[str]), Key("other", int)
    browser, handle = begun(face, chat)
    lost = heard(face, LostUpdate)
    turn = browser.open()
    log = turn.session[chat]
    plant(face, handle, "other", pack(1))
    if changed:
        plant(face, handle, "chat", pack(["theirs"]))
    face.call(face.manager.refresh(turn.session))
    assert turn.session[other] == 1
    assert (turn.session[chat] is log) is not changed
    log.append("mine")
    turn.finish()
    assert [event.name for event in lost] == (["chat"] if changed else [])
    with browser.visit() as session:
        assert session[chat] == (["theirs"] if changed else ["mine"])


def test_rule_05_a_refresh_that_is_followed_by_no_change_writes_nothing(face: Face) -> None:
    """To hold a value that was replaced is no change."""
    chat = Key("chat", list[str])
    browser, handle = begun(face, chat)
    lost = heard(face, LostUpdate)
    turn = browser.open()
    log = turn.session[chat]
    plant(face, handle, "chat", pack(["theirs"]))
    face.call(face.manager.refresh(turn.session))
    assert (log, turn.session[chat]) == ([], ["theirs"])
    turn.finish()
    assert lost == []


@pytest.mark.parametrize("before", ["nothing", "removed"])
def test_rule_05_a_default_is_never_the_sessions_value(face: Face, before: str) -> None:
    """`update` changes a copy: a constant that is everybody's default takes nothing from one visitor to the next."""
    cart, user = Key("cart", Cart), Key("user", str)
    default = Cart()

    def add(value: Cart) -> Cart:
        value.items.append("book")
        return value

    for _ in range(2):
        browser = face.browser()
        with browser.visit() as session:
            session[user] = "ann"
            if before == "removed":
                session[cart] = Cart(["old"])
                del session[cart]
            session.update(cart, add, default=default)
            session.update(cart, add, default=default)
        with browser.visit() as session:
            assert session[cart] == Cart(["book", "book"])
    assert default == Cart()


def test_rule_05_a_default_that_its_load_refuses_is_taken_as_it_is(face: Face) -> None:
    """What hooks make of a value is theirs alone; the next request finds the value absent."""

    def load(data: bytes) -> Any:
        raise ValueError

    def save(value: Any) -> bytes:
        return b"x"

    odd = Key[Any]("odd", save=save, load=load)
    browser = face.browser()
    with browser.visit() as session:
        assert session.update(odd, lambda value: value, default="odd") == "odd"
    with browser.visit() as session:
        assert odd not in session


def test_rule_05_a_default_that_is_not_needed_may_be_anything(face: Face) -> None:
    """After a deletion in the same request as before: only what `change` gives is stored, and has to be of the key's type."""
    tags = Key("tags", list[str])
    with face.browser().visit() as session:
        session[tags] = ["old"]
        del session[tags]
        default: Any = None
        assert session.update(tags, lambda _: ["new"], default=default) == ["new"]


def test_rule_05_refreshing_without_end_holds_on_to_little(face: Face) -> None:
    """Of each value, what the last `refresh` has replaced is compared with at the next commit, and no earlier one."""
    log, other = Key("log", list[str]), Key("other", int)
    browser = face.browser()
    with browser.visit() as session:
        session[log] = []
    turn = browser.open()
    for number in range(5):
        assert len(turn.session[log]) == number
        with browser.copy().visit() as session:
            session[log] = [*session[log], "line"]
        face.call(face.manager.refresh(turn.session))
        turn.session[other] = number
        face.call(face.manager.commit(turn.session))
    assert len(tracking_of(turn.session).let_go or ()) == 1
    turn.finish()


def test_rule_05_each_value_that_one_commit_replaces_is_told(face: Face) -> None:
    """Two others come between, one after the other: the value that only the second attempt has merged is in the handler's hand too."""

    def merge(base: list[str], mine: list[str], theirs: list[str]) -> list[str]:
        if theirs == ["first"]:
            plant(face, handle, "notes", pack(["second"]))
        return both(base, mine, theirs)

    chat, notes = Key("chat", list[str], merge=merge), Key("notes", list[str], merge=both)
    browser, handle = begun(face, chat)
    with browser.visit() as session:
        session[notes] = []
    lost = heard(face, LostUpdate)
    turn = browser.open()
    in_hand = turn.session[chat], turn.session[notes]
    for value in in_hand:
        value.append("mine")
    plant(face, handle, "chat", pack(["first"]))
    commit(face, turn.session)
    assert (turn.session[chat], turn.session[notes]) == (["first", "mine"], ["second", "mine"])
    assert lost == []
    for value in in_hand:
        value.append("late")
    turn.finish()
    assert [event.name for event in lost] == ["chat", "notes"]


@pytest.mark.parametrize("by", ["refresh", "commit"])
def test_rule_05_every_value_that_was_only_read_and_replaced_is_told(face: Face, by: str) -> None:
    """A handler that goes on to change what another request has replaced hears of each: after a `refresh`, or a commit of another key."""
    chat, notes, other = Key("chat", list[str]), Key("notes", list[str]), Key("other", int)
    browser, handle = begun(face, chat)
    with browser.visit() as session:
        session[notes] = []
    lost = heard(face, LostUpdate)
    turn = browser.open()
    in_hand = turn.session[chat], turn.session[notes]
    for key in ("chat", "notes"):
        plant(face, handle, key, pack(["theirs"]))
    turn.session[other] = 1
    face.call(face.manager.refresh(turn.session) if by == "refresh" else face.manager.commit(turn.session))
    assert lost == []
    for value in in_hand:
        value.append("mine")
    turn.finish()
    assert [event.name for event in lost] == ["chat", "notes"]
    with browser.visit() as session:
        assert session[chat] == session[notes] == ["theirs"]
