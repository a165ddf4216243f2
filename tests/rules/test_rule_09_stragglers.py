"""Rule 9: what was under way with the old cookie when its browser signed in signs nobody out, however late it is answered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.faces import Browser, Face
from tests.planting import heard
from typed_sessions import CommitRefused, Key, Rejected, SessionEnded
from typed_sessions.lifecycle import STRAGGLE
from typed_sessions.session import tracking_of


@pytest.fixture
def user() -> Key[str]:
    return Key("user", str)


@pytest.fixture
def visits() -> Key[int]:
    return Key("visits", int)


def signed_in(face: Face, user: Key[str]) -> tuple[Browser, Browser]:
    """A browser that has just signed in, and what it was before."""
    browser = face.browser()
    with browser.visit() as session:
        session[user] = "nobody"
    before = browser.copy()
    with browser.visit() as session:
        session.renew()
        session[user] = "ann"
    return browser, before


def handles(face: Face) -> list[str]:
    return [view.handle for view in face.call(face.manager.all())]


@pytest.mark.parametrize("create", ["on_write", True])
def test_rule_09_a_straggler_sends_no_cookies(face: Face, user: Key[str], visits: Key[int], create: Any) -> None:
    """It sees nothing of the session, nothing of what it does is kept, which is told, and the browser keeps the cookies of the sign-in."""
    browser, before = signed_in(face, user)
    refusals = heard(face, CommitRefused)
    face.clock.advance(STRAGGLE - 0.1)
    turn = before.open(create=create)
    assert user not in turn.session
    assert not turn.session.exists
    turn.session.update(visits, lambda n: n + 1, default=0)
    turn.finish()
    assert [name for name, _ in turn.headers] == ["Vary"]
    assert [(event.reason, list(event.names)) for event in refusals] == [("renewed", ["visits"])]
    assert len(handles(face)) == 1
    with browser.visit() as session:
        assert session[user] == "ann"
        assert visits not in session


def test_rule_09_a_straggler_that_only_looks_is_not_refused(face: Face, user: Key[str]) -> None:
    """Nothing of it is lost, so there is nothing to tell."""
    _, before = signed_in(face, user)
    refusals = heard(face, CommitRefused)
    turn = before.open(create=True)
    assert turn.session.get(user) is None
    turn.finish()
    assert refusals == []


def test_rule_09_a_straggler_may_sign_in(face: Face, user: Key[str]) -> None:
    """The second click of two, whose browser may have dropped the first one's answer: it gets a session of its own."""
    browser, before = signed_in(face, user)
    with before.visit() as session:
        session.renew()
        session[user] = "ann"
    with before.visit() as session:
        assert session[user] == "ann"
    with browser.visit() as session:
        assert session[user] == "ann"
    assert len(handles(face)) == 2


def test_rule_09_an_old_secret_is_no_straggler_for_long(face: Face, user: Key[str], visits: Key[int]) -> None:
    """A browser that never got the answer of its sign-in is a visitor like any other after that."""
    _, before = signed_in(face, user)
    face.clock.advance(STRAGGLE)
    with before.visit() as session:
        session[visits] = 1
    with before.visit() as session:
        assert session[visits] == 1
        assert user not in session


def test_rule_09_a_straggler_is_told_by_commit(face: Face, user: Key[str], visits: Key[int]) -> None:
    """`manager.commit` raises where `finish()` says nothing; what comes after it is not kept either."""
    _, before = signed_in(face, user)
    turn = before.open()
    turn.session[visits] = 1
    with pytest.raises(SessionEnded, match="has just replaced"):
        face.call(face.manager.commit(turn.session))
    turn.session[visits] = 2
    turn.finish()
    assert [name for name, _ in turn.headers] == ["Vary"]
    assert len(handles(face)) == 1


def test_rule_09_a_straggler_is_rejected_where_nothing_is_created(face: Face, user: Key[str]) -> None:
    """With `create=False`, as ever; and its cookies are not expired."""
    _, before = signed_in(face, user)
    with pytest.raises(Rejected) as caught:
        before.open(create=False)
    assert "Set-Cookie" not in dict(caught.value.headers)


def test_rule_09_where_an_old_id_ends_the_session_nobody_is_a_straggler(
    make_face: Callable[..., Face], user: Key[str], visits: Key[int]
) -> None:
    """With `old_id="end"` there is no sign-in left to be spared."""
    face = make_face(old_id="end")
    browser, before = signed_in(face, user)
    with before.visit() as session:
        session[visits] = 1
    with before.visit() as session:
        assert session[visits] == 1
    with browser.visit() as session:
        assert user not in session


def test_rule_09_a_straggler_may_be_two_renewals_late(face: Face, user: Key[str], visits: Key[int]) -> None:
    """Of the secret before the previous one the record knows nothing; its cookies are not expired either, and it sets none."""
    browser, before = signed_in(face, user)
    with browser.visit() as session:
        session.renew()
    for write in (False, True):
        turn = before.open()
        assert user not in turn.session
        if write:
            turn.session[visits] = 1
        turn.finish()
        assert [name for name, _ in turn.headers] == ["Vary"]
    with pytest.raises(Rejected) as caught:
        before.open(create=False)
    assert "Set-Cookie" not in dict(caught.value.headers)
    with browser.visit() as session:
        assert session[user] == "ann"
    face.clock.advance(STRAGGLE)
    assert "Max-Age=0" in str(before.open().finish())


def test_rule_09_a_straggler_may_write_when_the_headers_have_left(face: Face, user: Key[str], visits: Key[int]) -> None:
    """As in any session that was there before; it is not kept, that is all."""
    _, before = signed_in(face, user)
    refusals = heard(face, CommitRefused)
    turn = before.open(create=True)
    tracking_of(turn.session).headers_sent = True
    turn.session[visits] = 1
    turn.finish()
    assert [list(event.names) for event in refusals] == [["visits"]]
