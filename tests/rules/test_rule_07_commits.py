"""Rule 7: a commit is all or nothing, whoever was faster, and what listeners of `LostUpdate` do about it is committed too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.faces import Face
from tests.planting import heard, pack, plant, record_of
from tests.rules.overtaken import begin, overtaken
from tests.rules.scene import everything, is_open
from tests.watched import Watched
from typed_sessions import CommitRefused, Key, KeyTypeError, ListKey, LostUpdate, Session, StoreUnavailable, TooLarge, current_session


@pytest.mark.parametrize("where", ["first", "last"])
def test_rule_07_a_commit_is_all_or_nothing_when_it_conflicts(face: Face, where: str) -> None:
    """Every version is checked before anything is written, wherever the conflict is; then all of it is applied at once (R9)."""
    visits, name, facts = Key("visits", int), Key("name", str), ListKey("facts", int)
    browser, handle = begin(face, lambda session: session.__setitem__(visits, 0))
    seen: list[Any] = []

    def look(n: int) -> int:
        record = record_of(face, handle)
        assert record is not None
        seen.append(sorted(record.fields))
        return n + 1

    turn = browser.open()
    if where == "first":
        turn.session.update(visits, look)
    turn.session[name] = "ann"
    turn.session[facts].append(1)
    if where == "last":
        turn.session.update(visits, look)
    plant(face, handle, "visits", pack(5))
    turn.finish()
    assert seen == [["visits"], ["visits"]]  # the second time is after the conflict
    with browser.visit() as session:
        assert (session[visits], session[name], list(session[facts])) == (6, "ann", [1])


def too_large(session: Session) -> None:
    session[Key("large", bytes)] = b"x" * 5_000


def too_many(session: Session) -> None:
    for n in range(20):
        session[Key(f"key {n}", int)] = n


def not_encodable(session: Session) -> None:
    session[Key("tags", list[str])] = tags = ["a"]
    tags.append(3)  # type: ignore[arg-type]  # the mistake that is meant


def update_that_raises(session: Session) -> None:
    session.update(Key("visits", int), lambda n: 10 // n)


def merge_that_raises(session: Session) -> None:
    def merge(base: list[str], mine: list[str], theirs: list[str]) -> list[str]:
        raise ZeroDivisionError

    session[Key("merged", list[str], merge=merge)].append("mine")


@pytest.mark.parametrize(
    ("work", "error"),
    [
        (too_large, TooLarge),
        (too_many, TooLarge),
        (not_encodable, KeyTypeError),
        (update_that_raises, ZeroDivisionError),
        (merge_that_raises, ZeroDivisionError),
    ],
    ids=lambda value: value.__name__,
)
@pytest.mark.parametrize("middle", [False, True], ids=["finish", "commit"])
def test_rule_07_a_commit_that_raises_has_applied_nothing(
    make_face: Callable[..., Face], work: Callable[[Session], None], error: type[Exception], middle: bool
) -> None:
    """Neither fields nor list elements, nor the renewal, nor a time of use; the old cookie still opens the session."""
    face = make_face(store_options={"max_bytes": 4_000, "max_keys": 10})
    visits, name, facts = Key("visits", int), Key("name", str), ListKey("facts", int)
    merged = Key("other", list[str])

    def fill(session: Session) -> None:
        session[visits], session[merged] = 1, ["base"]

    browser, handle = begin(face, fill)
    plant(face, handle, "merged", pack(["base"]))
    turn = browser.open()
    turn.session[name] = "ann"
    turn.session[facts].append(1)
    turn.session.renew()
    work(turn.session)
    plant(face, handle, "visits", pack(0))
    plant(face, handle, "merged", pack(["theirs"]))
    before = everything(face, handle)
    with pytest.raises(error):
        face.call(face.manager.commit(turn.session)) if middle else turn.send()
    turn.discard()
    assert everything(face, handle) == before
    with browser.visit() as session:
        assert session[visits] == 0


def test_rule_07_a_new_session_that_does_not_fit_is_not_there(make_face: Callable[..., Face]) -> None:
    """Creating is all or nothing as well: no record, and no cookie."""
    face = make_face(store_options={"max_bytes": 4_000})
    browser = face.browser()
    turn = browser.open()
    turn.session[Key("large", bytes)] = b"x" * 5_000
    with pytest.raises(TooLarge):
        turn.send()
    turn.headers = turn.discard()
    turn.arrive()
    assert browser.jar == {}
    assert face.call(face.manager.all()) == []


def test_rule_07_a_refused_renew_takes_the_whole_commit_with_it(face: Face) -> None:
    """Of two renews without overlap one wins, and nothing of the other's request is applied (R3)."""
    name, visits = Key("name", str), Key("visits", int)
    browser, handle = begin(face, lambda session: session.__setitem__(visits, 0))
    refused = heard(face, CommitRefused)
    first, second = browser.open(), browser.open()
    for turn, value in ((first, "first"), (second, "second")):
        turn.session[name] = value
        turn.session.update(visits, lambda n: n + 1)
        turn.session.renew()
    first.finish()
    after = everything(face, handle)
    second.finish()
    assert everything(face, handle) == after
    assert [(event.reason, sorted(event.names)) for event in refused] == [("renewed", ["name", "visits"])]
    with browser.visit() as session:
        assert (session[name], session[visits]) == ("first", 1)


def test_rule_07_two_in_place_changes_of_two_keys_conflict_as_one_commit(face: Face) -> None:
    """A conflict of one key repeats the commit with the other key's change in it, which is reported or not on its own account."""
    one, two = Key("one", list[int]), Key("two", list[int])

    def fill(session: Session) -> None:
        session[one], session[two] = [0], [0]

    browser, _ = begin(face, fill)
    lost = heard(face, LostUpdate)
    first, second = browser.open(), browser.open()
    first.session[one].append(1)
    first.session[two].append(1)
    second.session[one].append(2)
    second.finish()
    first.finish()
    assert [event.name for event in lost] == ["one"]
    with browser.visit() as session:
        assert (session[one], session[two]) == ([0, 1], [0, 1])


@pytest.mark.parametrize("order", ["change, update", "update, change", "update, change, update"])
def test_rule_07_an_update_beside_a_change_in_place_is_no_update_alone(face: Face, order: str) -> None:
    """The functions could be applied again, the change could not: so the whole is one change in place, which wins and is told."""
    tags = Key("tags", list[str])
    browser, _ = begin(face, lambda session: session.__setitem__(tags, []))
    lost = heard(face, LostUpdate)
    turn, rival = browser.open(), browser.open()
    for step in order.split(", "):
        if step == "update":
            turn.session.update(tags, lambda found: [*found, "updated"])
        else:
            turn.session[tags].append("changed")
    mine = list(turn.session[tags])
    assert "changed" in mine
    rival.session[tags] = ["rival"]
    rival.finish()
    turn.finish()
    assert [event.name for event in lost] == ["tags"]
    with browser.visit() as session:
        assert session[tags] == mine


def test_rule_07_refresh_keeps_what_was_changed_in_place(face: Face) -> None:
    """Own uncommitted changes stay, of whatever kind; what was only read is read again."""
    mine, theirs = Key("mine", list[str]), Key("theirs", list[str])

    def fill(session: Session) -> None:
        session[mine], session[theirs] = [], []

    browser, _ = begin(face, fill)
    turn, rival = browser.open(), browser.open()
    turn.session[mine].append("mine")
    assert turn.session[theirs] == []
    rival.session[theirs] = ["theirs"]
    rival.finish()
    face.call(face.manager.refresh(turn.session))
    assert (turn.session[mine], turn.session[theirs]) == (["mine"], ["theirs"])
    turn.finish()
    with browser.visit() as session:
        assert (session[mine], session[theirs]) == (["mine"], ["theirs"])


@pytest.mark.parametrize("what", ["write", "end"])
def test_rule_07_what_a_listener_of_lost_update_does_is_committed(face: Face, what: str) -> None:
    """As what the handler does is, though the request has been committed then: a note for the user, or a sign-out."""
    cart, note = Key("cart", list[str]), Key("note", str)
    browser, handle = begin(face, lambda session: session.__setitem__(cart, ["book"]))

    def hear(event: LostUpdate) -> None:
        if what == "end":
            current_session().end()
        else:
            current_session()[note] = f"a change of your {event.name} was lost"

    face.manager.on(LostUpdate, hear)
    turn = browser.open()
    turn.session[cart].append("pen")
    plant(face, handle, "cart", pack(["ink"]))
    headers = turn.finish()
    if what == "end":
        assert record_of(face, handle) is None
        assert "Max-Age=0" in dict(headers)["Set-Cookie"]
        return
    with browser.visit() as session:
        assert session[cart] == ["book", "pen"]
        assert session[note] == "a change of your cart was lost"


def test_rule_07_a_listener_that_is_overtaken_each_time_comes_to_an_end(face: Face) -> None:
    """What it does is committed once more, and not what it does about that."""
    cart, note = Key("cart", list[str]), Key("note", list[str])
    browser, handle = begin(face, lambda session: session.__setitem__(cart, []))
    plant(face, handle, "note", pack([]))
    store, _ = overtaken(face)
    rivals: list[int] = []
    lost: list[str] = []

    def hear(event: LostUpdate) -> None:
        lost.append(event.name)
        current_session()[note].append(event.name)
        rivals.append(len(rivals))
        plant(face, handle, "note", pack([str(len(rivals))]))

    face.manager.on(LostUpdate, hear)
    turn = browser.open()
    turn.session[cart].append("pen")
    plant(face, handle, "cart", pack(["ink"]))
    turn.finish()
    assert lost == ["cart", "note"]
    assert store.calls["commit"] == 4


def test_rule_07_a_listener_whose_change_cannot_be_stored_costs_the_request_nothing(face: Face, caplog: pytest.LogCaptureFixture) -> None:
    """The handler's own changes are stored by then, and its new id has to reach the browser."""
    cart, note = Key("cart", list[str]), Key("note", str)
    browser, handle = begin(face, lambda session: session.__setitem__(cart, ["book"]))

    def hear(event: LostUpdate) -> None:
        current_session()[note] = event.name * 100_000

    face.manager.on(LostUpdate, hear)
    turn = browser.open()
    turn.session[cart].append("pen")
    turn.session.renew()
    plant(face, handle, "cart", pack(["ink"]))
    turn.send()
    turn.arrive()
    assert "what a listener of LostUpdate has changed" in caplog.text
    with browser.visit() as session:
        assert (session[cart], note in session) == (["book", "pen"], False)


def test_rule_07_a_listener_whose_end_cannot_be_stored_fails_the_request(face: Face) -> None:
    """Who was to be signed out is not told that it has worked."""
    cart = Key("cart", list[str])
    browser, handle = begin(face, lambda session: session.__setitem__(cart, ["book"]))
    store = Watched(face.store)
    manager = face.another(store=store)

    def hear(_: LostUpdate) -> None:
        current_session().end()

    manager.on(LostUpdate, hear)
    session, finish = face.call(manager.start_check(browser.request()))
    session[cart].append("pen")
    plant(face, handle, "cart", pack(["ink"]))
    store.faults["end"] = StoreUnavailable("it is down")
    with pytest.raises(StoreUnavailable):
        face.call(finish())
    assert is_open(browser)
