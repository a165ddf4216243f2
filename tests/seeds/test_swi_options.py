"""SWI-Prolog's options: which are there, what they may be, and which a single session can have."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tests.faces import Face
from tests.seeds.cases import case
from tests.seeds.programs import follow, subscribe
from typed_sessions import CookiePolicy, End, Key, PolicyError, SessionManager


@case("option-unknown", "keep")
def test_an_unknown_option_is_refused(face: Face) -> None:
    """The error names it and its nearest neighbour; the constructor refuses it as well."""
    with pytest.raises(PolicyError, match="there is no option 'timeuot'; did you mean 'timeout'"):
        face.manager.set_options(timeuot=5)
    with pytest.raises(PolicyError, match="'nosuch'"):
        face.another(nosuch=1)


@case("option-wrong-type", "keep")
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("timeout", "abc"),
        ("timeout", True),
        ("timeout", math.nan),
        ("create", "maybe"),
        ("enabled", 1),
        ("gc", "never"),
        ("gc", None),
        ("route", b"node7"),
    ],
)
def test_an_option_of_the_wrong_type_is_refused(face: Face, name: str, value: Any) -> None:
    """The error names the option, the value and what is expected; a fraction of a second, though, is a time here."""
    with pytest.raises(PolicyError, match=rf"{name} = .*: expected "):
        face.manager.set_options(**{name: value})
    face.manager.set_options(timeout=1.5)
    wrong: Any = ({"same_site": "maybe"}, {"path": b"/"}, {"name": None})
    for options in wrong:
        with pytest.raises(PolicyError, match="expected"):
            CookiePolicy(**options)


@case("option-not-name(value)", "improve", "options are keywords: one without a value cannot be written, and the refusal says so")
def test_options_are_given_by_name(face: Face) -> None:
    """A bare value raises Python's own TypeError, an unknown name with any value PolicyError."""
    with pytest.raises(TypeError, match="positional"):
        face.manager.set_options(["nosuch"])
    with pytest.raises(PolicyError, match="there is no option 'nosuch'"):
        face.manager.set_options(nosuch=None)


@case("option-negative-timeout-accepted", "improve", "negative times are refused, and so is 0: None is never")
@pytest.mark.parametrize("name", ["timeout", "lifetime", "granularity", "overlap", "linger", "deadline"])
def test_negative_times_are_refused(face: Face, name: str) -> None:
    """Every time that is negative raises PolicyError; it means nothing else in secret."""
    with pytest.raises(PolicyError, match=f"{name} = -5"):
        face.manager.set_options(**{name: -5})
    with pytest.raises(PolicyError, match="timeout = 0: expected a positive number of seconds, or None; None is never"):
        face.manager.set_options(timeout=0)


@case("options-half-applied-on-error", "improve", "all options are checked before any is applied")
@pytest.mark.parametrize("wrong", [{"nosuch": 1}, {"gc": "never"}, {"lifetime": -1}])
def test_options_are_applied_all_or_none(face: Face, wrong: dict[str, Any]) -> None:
    """One wrong option among right ones changes nothing, whatever their order."""
    before = face.manager.options
    for given in ({"timeout": 5, **wrong}, {**wrong, "timeout": 5}):
        with pytest.raises(PolicyError):
            face.manager.set_options(**given)
    assert face.manager.options == before
    face.manager.set_options(timeout=5, create=False)
    assert (face.manager.options.timeout, face.manager.options.create) == (5, False)


@case("per-session-only-timeout", "keep")
@pytest.mark.parametrize("name", ["cookie", "nosuch", "path"])
def test_a_session_has_no_other_options_of_its_own(face: Face, name: str) -> None:
    """A session can have its own timeout, and say whether its cookie lasts; anything else raises AttributeError."""
    turn = face.browser().open(create=True)
    with pytest.raises(AttributeError):
        setattr(turn.session, name, "/")
    turn.session.timeout = 5
    turn.finish()


@case("per-session-timeout-type", "improve", "checked like the option, at once, and a wrong one changes nothing")
@pytest.mark.parametrize("seconds", ["abc", -1, 0, True, math.inf, math.nan])
def test_a_wrong_timeout_of_a_session_is_refused(face: Face, seconds: Any) -> None:
    """The assignment raises PolicyError, and the session keeps the timeout it had."""
    browser = face.browser()
    turn = browser.open(create=True)
    turn.session.timeout = 5
    with pytest.raises(PolicyError, match=r"session\.timeout"):
        turn.session.timeout = seconds
    turn.finish()
    assert browser.open().session.timeout == 5


@case("per-session-timeout-stored-as-data", "improve", "a session's settings are no data")
def test_a_timeout_of_its_own_is_no_data(face: Face) -> None:
    """It is seen neither in the session, nor in the list of all sessions, nor at End; the sessions of others do not have it (rule 11)."""
    name = Key("name", str)
    seen: list[object] = []
    subscribe(face.manager, End, lambda event: seen.append([*event.session]))
    browser = face.browser()
    with browser.visit() as session:
        session[name] = "ann"
        session.timeout = 5
    with browser.visit() as session:
        assert session.timeout == 5
        assert [*session] == [name]
    assert [[*view] for view in face.call(face.manager.all())] == [[name]]
    other = face.browser()
    follow(other, create=True)
    assert other.open().session.timeout == 600
    face.clock.advance(10)
    face.call(face.manager.sweep())
    assert seen == [[name]]


def test_a_manager_is_not_made_with_wrong_options() -> None:
    """What set_options refuses, the constructor refuses."""
    with pytest.raises(PolicyError, match="timeout = -5"):
        SessionManager(timeout=-5)
