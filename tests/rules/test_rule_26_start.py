"""Rule 26 in a server of one's own: `finish.start()` lets the headers leave, and the session goes on while the body is made."""

from __future__ import annotations

from typing import Any

import pytest

from tests.faces import Face
from tests.rules.scene import BOTH, cookies_set
from tests.watched import Watched
from typed_sessions import HeadersSent, Key, NoSession, SessionClosed, StoreUnavailable, current_session


def start(face: Face, turn: Any) -> list[tuple[str, str]]:
    headers: list[tuple[str, str]] = face.call(turn.finisher.start())
    turn.browser.take(headers)
    return headers


def test_rule_26_the_body_is_made_after_the_headers_have_left(face: Face, name: Key[str]) -> None:
    """What the handler did is stored and its cookies are given once; what the body's maker does is stored at its end."""
    visits = Key("visits", int)
    browser = face.browser()
    turn = browser.open()
    turn.session[name] = "ann"
    assert cookies_set(start(face, turn)).keys() == BOTH
    turn.session.update(visits, lambda n: n + 1, default=0)
    assert turn.session[name] == "ann"
    with browser.copy().visit() as session:
        assert (session[name], session.get(visits)) == ("ann", None)
    assert turn.finish() == []
    with pytest.raises(SessionClosed):
        turn.session.get(name)
    with browser.visit() as session:
        assert session[visits] == 1


def test_rule_26_what_takes_a_cookie_is_refused_then(face: Face, name: Key[str]) -> None:
    """Creating, renewing, and another kind of cookie; an end is done, and the next answer expires the cookies."""
    browser = face.browser()
    turn = browser.open()
    start(face, turn)
    with pytest.raises(HeadersSent):
        turn.session[name] = "ann"
    turn.finish()
    with browser.visit() as session:
        session[name] = "ann"
    turn = browser.open()
    start(face, turn)
    with pytest.raises(HeadersSent):
        turn.session.renew()
    turn.session.end()
    assert turn.finish() == []
    with browser.visit() as session:
        assert not session.exists
    assert browser.jar == {}


def test_rule_26_the_headers_leave_once(face: Face, name: Key[str]) -> None:
    """A second `start`, and `discard` at the end, have none; what was committed at the start stays."""
    browser = face.browser()
    turn = browser.open()
    turn.session[name] = "ann"
    assert start(face, turn) != []
    assert start(face, turn) == []
    turn.session[name] = "bob"
    assert turn.discard() == []
    with browser.visit() as session:
        assert session[name] == "ann"


def test_rule_26_a_start_commits_before_the_headers_leave_and_at_no_other_time(face: Face, name: Key[str]) -> None:
    """A second one commits nothing of the body's, whose end is for the call; nor does one that comes when the request is over."""
    watched = Watched(face.store)
    face.manager = face.another(store=watched)
    browser = face.browser()
    with browser.visit() as session:
        session[name] = "ann"
    turn = browser.open()
    start(face, turn)
    turn.session[name] = "bob"
    assert start(face, turn) == []
    with browser.copy().visit() as session:
        assert session[name] == "ann"
    watched.faults["commit"] = StoreUnavailable("it is down")
    with pytest.raises(StoreUnavailable):
        turn.finish()
    failed = browser.open()
    failed.session[name] = "eve"
    with pytest.raises(StoreUnavailable):
        failed.finish()
    watched.faults.clear()
    for over in (turn, failed):
        start(face, over)
    with browser.visit() as session:
        assert session[name] == "ann"


def test_rule_28_a_start_that_fails_lets_no_header_leave(face: Face, name: Key[str]) -> None:
    """The store is down: the handler's answer does not leave, and the one that says so has the headers that belong to it."""
    watched = Watched(face.store)
    face.manager = face.another(store=watched)
    browser = face.browser()
    turn = browser.open()
    turn.session[name] = "ann"
    watched.faults["create"] = StoreUnavailable("it is down")
    with pytest.raises(StoreUnavailable):
        start(face, turn)
    watched.faults.clear()
    assert [header for header, _ in turn.discard()] == ["Vary"]


def test_rule_15_current_session_in_a_server_of_ones_own(face: Face, name: Key[str]) -> None:
    """Within `finish.current()` it is the request's, from anywhere; after it, what it was before."""
    browser = face.browser()
    turn, other = browser.open(), face.browser().open()
    with turn.finisher.current():
        current_session()[name] = "ann"
        with other.finisher.current():
            assert current_session() is other.session
        assert current_session() is turn.session
    with pytest.raises(NoSession):
        current_session()
    turn.finish()
    other.finish()
    with browser.visit() as session:
        assert session[name] == "ann"
