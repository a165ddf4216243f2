"""Rule 15: `Begin` and `End(reason)` once per session; in a listener `current_session()` is that session."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.faces import Browser, Face
from tests.rules.scene import BOTH, cookies_set, expired, handle_of, is_open, listen, live
from typed_sessions import Begin, CommitRefused, End, Event, Key, NoSession, current_session

Make = Callable[..., Face]


class Heard:
    """What the listeners of a manager were told."""

    def __init__(self, face: Face) -> None:
        self.events: list[str] = []
        listen(face, Event, self.listen)

    def listen(self, event: Event) -> None:
        assert current_session().handle == event.session.handle
        self.events.append(f"End {event.reason}" if isinstance(event, End) else type(event).__name__)


def signed_in(face: Face) -> Browser:
    browser = face.browser()
    with browser.visit() as session:
        session[Key("user", str)] = "ann"
    return browser


def test_rule_15_a_whole_life_is_one_begin_and_one_end(face: Face) -> None:
    """Created, used, written to, renewed, and ended: two events, whatever else is tried afterwards."""
    heard = Heard(face)
    browser = signed_in(face)
    assert heard.events == ["Begin"]
    for _ in range(3):
        face.clock.advance(100)
        with browser.visit() as session:
            session[Key("user", str)] = "eve"
            session.renew()
    other, handle = browser.copy(), handle_of(browser)
    with browser.visit() as session:
        session.end()
    assert not face.call(face.manager.end(handle))
    face.call(face.manager.delete_session(other.request()))
    with other.visit():
        pass
    face.clock.advance(1000)
    assert face.call(face.manager.sweep()) == 0
    assert heard.events == ["Begin", "End ended"]


@pytest.mark.parametrize("create", [True, "on_write"])
def test_rule_15_begin_is_told_when_the_session_is_stored(make_face: Make, create: bool | str) -> None:
    """With `create=True` that is with the request, otherwise with the first commit. An empty session never begins."""
    face = make_face(create=create)
    heard = Heard(face)
    turn = face.browser().open()
    assert heard.events == (["Begin"] if create is True else [])
    turn.session[Key("user", str)] = "ann"
    turn.finish()
    assert heard.events == ["Begin"]
    face.renew(create="on_write")
    heard = Heard(face)
    with face.browser().visit() as session:
        session.end()
    with face.browser().visit() as session:
        assert session.get(Key("user", str)) is None
    assert heard.events == []


@pytest.mark.parametrize("seconds", [0, 660])
def test_rule_15_two_that_end_it_make_one_end(face: Face, seconds: float) -> None:
    """Two requests that end it, a sweep and a visit, two managers: the first tells, with its reason."""
    browser = signed_in(face)
    heard = Heard(face)
    other = face.another()
    other.on(End, heard.listen)
    first, second = browser.open(), browser.copy().open()
    handle = handle_of(browser)
    face.clock.advance(seconds)
    face.call(other.sweep())
    first.session.end()
    second.session.end()
    first.finish()
    second.finish()
    face.call(other.end(handle))
    face.call(face.manager.sweep())
    assert [event for event in heard.events if event != "CommitRefused"] == ["End ended" if seconds == 0 else "End timeout"]


def test_rule_15_listeners_are_called_in_order_and_one_that_raises_stops_nothing(face: Face, caplog: pytest.LogCaptureFixture) -> None:
    """In the order of subscription; a failure is reported (rule 10); what `on` returned takes the listener back."""
    order: list[str] = []

    def broken(event: Event) -> None:
        raise RuntimeError("a listener that fails")

    listen(face, Begin, lambda _: order.append("first"))
    listen(face, Begin, broken)
    off = listen(face, Event, lambda _: order.append("second"))
    listen(face, End, lambda _: order.append("not for Begin"))
    browser = signed_in(face)
    assert order == ["first", "second"]
    assert "a listener that fails" in caplog.text
    assert is_open(browser)
    off()
    signed_in(face)
    assert order == ["first", "second", "first"]


def test_rule_15_what_a_begin_listener_writes_is_stored(face: Face) -> None:
    """It writes to the session that begins, and its request sees that too."""
    since, user = Key("since", float), Key("user", str)

    def listener(event: Begin) -> None:
        assert event.session[user] == "ann"
        current_session()[since] = face.clock()

    listen(face, Begin, listener)
    browser = face.browser()
    turn = browser.open()
    turn.session[user] = "ann"
    face.call(face.manager.commit(turn.session))
    assert turn.session[since] == face.clock()
    turn.finish()
    with browser.visit() as session:
        assert (session[since], session[user]) == (face.clock(), "ann")


def test_rule_15_a_begin_listener_may_end_or_renew_the_session(face: Face) -> None:
    """`current_session().end()` there means that no session comes of this request, and no cookie; `renew()` gives it another id."""
    user = Key("user", str)
    off = listen(face, Begin, lambda _: current_session().end())
    heard = Heard(face)
    browser = face.browser()
    turn = browser.open()
    turn.session[user] = "ann"
    assert cookies_set(turn.finish()).keys() == expired(turn.headers)
    assert live(face) == set()
    assert heard.events == ["Begin", "End ended"]
    off()
    listen(face, Begin, lambda _: current_session().renew())
    browser = signed_in(face)
    assert is_open(browser)
    assert handle_of(browser) in live(face)


def test_rule_15_also_when_the_session_comes_with_the_request(make_face: Make) -> None:
    """The same with `create=True`, where the listener is called before the handler."""
    face = make_face(create=True)
    listen(face, Begin, lambda _: current_session().end())
    browser = face.browser()
    turn = browser.open()
    assert not BOTH & cookies_set(turn.finish()).keys() - expired(turn.headers)
    assert live(face) == set()


def test_rule_15_what_an_end_listener_writes_goes_away(face: Face) -> None:
    """It can read everything; what it sets, removes, ends or renews changes nothing, and raises nothing."""
    user, note = Key("user", str), Key("note", str)
    seen: list[Any] = []

    def listener(event: End) -> None:
        session = current_session()
        seen.append((event.session[user], session[user], [key.name for key in session]))
        session[note] = "written at the end"
        del session[user]
        session.renew()
        session.timeout = 5
        session.end()

    listen(face, End, listener)
    heard = Heard(face)
    browser = signed_in(face)
    with browser.visit() as session:
        session.end()
    assert seen == [("ann", "ann", ["user"])]
    assert heard.events == ["Begin", "End ended"]
    assert live(face) == set()
    assert browser.jar == {}


def test_rule_15_current_session_is_the_listeners_own(face: Face) -> None:
    """A listener of another session's end does not see the session of the request in which it is called; afterwards that is back."""
    user = Key("user", str)
    handles: list[str] = []
    listen(face, End, lambda event: handles.append(current_session().handle))
    gone, browser = signed_in(face), face.browser()
    handle = handle_of(gone)
    face.clock.advance(660)
    with browser.visit(create=True) as session:
        session[user] = "eve"
    assert handles == [handle]
    with pytest.raises(NoSession):
        current_session()
    assert current_session(None) is None


def test_rule_15_other_events_have_their_session_too(face: Face) -> None:
    """`CommitRefused` for one: the view and `current_session()` are the session that refused."""
    seen: list[tuple[str, str]] = []
    listen(face, CommitRefused, lambda event: seen.append((event.session.handle, current_session().handle)))
    browser = signed_in(face)
    handle = handle_of(browser)
    late = browser.copy().open()
    with browser.visit() as session:
        session.end()
    late.session[Key("user", str)] = "eve"
    late.finish()
    assert seen == [(handle, handle)]


def test_rule_15_an_async_listener_is_awaited_within_its_session(make_face: Make) -> None:
    """Also after it has waited, `current_session()` is that session."""
    face = make_face()
    if face.kind == "sync":
        return
    seen: list[bool] = []

    async def listener(event: Event) -> None:
        import asyncio

        await asyncio.sleep(0)
        seen.append(current_session().handle == event.session.handle)

    listen(face, Event, listener)
    browser = signed_in(face)
    with browser.visit() as session:
        session.end()
    assert seen == [True, True]


def test_rule_15_a_listener_that_is_there_twice_leaves_once_at_a_time(face: Face) -> None:
    """Who takes away his own does not take away another's that is the same function."""
    heard: list[Begin] = []
    name = Key("name", str)
    offs = [listen(face, Begin, heard.append), listen(face, Begin, heard.append)]
    counts: list[int] = []
    for off in (lambda: None, *offs):
        off()
        heard.clear()
        with face.browser().visit() as session:
            session[name] = "ann"
        counts.append(len(heard))
    assert counts == [2, 1, 0]


def test_rule_15_a_sweep_tells_of_all_ends_before_it_runs_a_hook(face: Face) -> None:
    """A process that dies in a hook leaves the rest to others, who clean up after them and do not know whether they were told of."""
    ends: list[str] = []
    told: list[int] = []
    listen(face, End, lambda event: ends.append(event.session.handle))
    key = Key("key", str, cleanup_delete=lambda _: told.append(len(ends)))
    for _ in range(3):
        with face.browser().visit() as session:
            session[key] = "value"
    face.clock.advance(660)
    assert face.call(face.manager.sweep()) == 3
    assert (len(set(ends)), told) == (3, [3, 3, 3])
