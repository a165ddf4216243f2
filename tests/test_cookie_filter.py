"""The filter of the cookies that are not the session's: what it is asked about, what its answers do, and that none stops a request."""

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from typed_sessions.cookies import SetCookie
from typed_sessions.policy import CookiePolicy, filtered, leave_alone

# No deadline: a slow machine is no failure.
unhurried = settings(deadline=None)

plain = CookiePolicy().session_cookies(https=False)
host = CookiePolicy().session_cookies(https=True)
OWN = {plain.key_name, plain.addr_name, host.key_name, host.addr_name}


def drop(_: SetCookie) -> None:
    """A filter that expires everything."""


def test_left_alone_by_default() -> None:
    """The default filter changes nothing, so nothing is sent (rule 23)."""
    assert filtered(leave_alone, [("a", "1"), ("b", "2")], OWN) == []
    assert filtered(CookiePolicy().filter, [("a", "1")], OWN) == []


def test_none_expires_a_changed_cookie_is_set_the_same_stays() -> None:
    """The three answers of a filter (rule 23)."""

    def choose(cookie: SetCookie) -> SetCookie | None:
        return {"gone": None, "changed": replace(cookie, value="new", max_age=5)}.get(cookie.name, replace(cookie))

    assert filtered(choose, [("gone", "1"), ("changed", "2"), ("same", "3")], OWN) == [
        SetCookie("gone", "", max_age=0),
        SetCookie("changed", "new", max_age=5),
    ]


def test_the_sessions_own_cookies_are_not_filtered() -> None:
    """The filter never sees the session's cookies, under the prefix of either scheme (rule 23, I4)."""
    asked: list[str] = []

    def note(cookie: SetCookie) -> None:
        asked.append(cookie.name)

    pairs = [(name, "secret") for name in sorted(OWN)]
    assert filtered(note, [*pairs, ("a", "1"), *pairs], OWN) == [SetCookie("a", "", max_age=0)]
    assert asked == ["a"]


def test_one_set_cookie_per_name() -> None:
    """A name that is there twice is asked about once, and answered once (C11)."""
    assert filtered(drop, [("a", "1"), ("a", "2"), ("b", "3"), ("a", "1")], OWN) == [
        SetCookie("a", "", max_age=0),
        SetCookie("b", "", max_age=0),
    ]


def test_a_cookie_that_cannot_be_written_is_left_alone() -> None:
    """A client's odd cookies raise nothing; of one name the first that can be written counts (C3, rule 22)."""
    assert filtered(drop, [("a b", "1"), ("a", "x y"), ("é", "1"), ("a", "2"), ("c", '{"d":1}')], OWN) == [SetCookie("a", "", max_age=0)]


def test_a_prefixed_cookie_of_others_can_be_expired() -> None:
    """Another cookie with a prefix is expired with Secure: a browser ignores the deletion otherwise (C2, C10)."""
    assert filtered(drop, [("__Host-theme", "dark"), ("__Secure-x", "1")], OWN) == [
        SetCookie("__Host-theme", "", max_age=0, secure=True),
        SetCookie("__Secure-x", "", max_age=0, secure=True),
    ]


def fail(_: SetCookie) -> SetCookie:
    """A filter with a mistake in it."""
    raise LookupError("no such theme")


def answer_with_text(_: SetCookie) -> Any:
    """A filter that answers with a header's text instead of a cookie."""
    return "bad=1"


def rename(cookie: SetCookie) -> SetCookie:
    """A filter that would overwrite the session's cookie."""
    return replace(cookie, name="SESSION_KEY")


def inject(cookie: SetCookie) -> SetCookie:
    """A filter that writes what cannot be a value."""
    return replace(cookie, value="\r\n")


@pytest.mark.parametrize("answer", [fail, answer_with_text, rename, inject])
def test_a_filter_that_fails_stops_nothing(answer: Callable[[SetCookie], Any], caplog: pytest.LogCaptureFixture) -> None:
    """A filter that raises, or answers with something else, costs its own cookie's answer, is logged, and shows no value (rule 10, I4)."""

    def choose(cookie: SetCookie) -> SetCookie | None:
        return answer(cookie) if cookie.name == "bad" else None

    with caplog.at_level(logging.ERROR, logger="typed_sessions"):
        assert filtered(choose, [("a", "1"), ("bad", "hunter2"), ("b", "3")], OWN) == [
            SetCookie("a", "", max_age=0),
            SetCookie("b", "", max_age=0),
        ]
    assert [record.name for record in caplog.records] == ["typed_sessions"]
    assert "'bad'" in caplog.text
    assert "hunter2" not in caplog.text


@given(st.lists(st.tuples(st.text(max_size=8), st.text(max_size=8)), max_size=8), st.sampled_from([leave_alone, drop]))
@unhurried
def test_no_request_makes_the_filter_raise(pairs: list[tuple[str, str]], policy_filter: Callable[[SetCookie], SetCookie | None]) -> None:
    """Whatever the client's cookies are, there is no error and one cookie per name (C3, C11, rule 22)."""
    names = [cookie.name for cookie in filtered(policy_filter, pairs, OWN)]
    assert len(names) == len(set(names))
