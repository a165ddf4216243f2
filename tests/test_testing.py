"""What `typed_sessions.testing` gives to the tests of an application."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.faces import PEER, Face
from typed_sessions import AsyncSessionManager, Key, KeyTypeError, SessionError, SessionManager
from typed_sessions.testing import FakeClock, alogin, frozen_clock, login


def cookies_of(face: Face, values: dict[Key[Any], object], **where: Any) -> dict[str, str]:
    give: Any = login if face.kind == "sync" else alogin
    cookies: dict[str, str] = face.call(give(face.manager, values, **where))
    return cookies


@pytest.mark.parametrize("https", [False, True])
def test_login_gives_the_cookies_of_a_session(face: Face, https: bool) -> None:
    """They open it from that address and that scheme, and hold the values."""
    user, visits = Key("user", str), Key("visits", int)
    browser = face.browser()
    browser.https = https
    browser.jar = cookies_of(face, {user: "ann", visits: 3}, address=PEER, https=https)
    with browser.visit() as session:
        assert (session[user], session[visits]) == ("ann", 3)
    with browser.copy("192.0.2.99").visit() as session:
        assert user not in session


def test_login_checks_its_values(face: Face) -> None:
    """Each against its key; and a manager that makes no sessions says so."""
    visits = Key("visits", int)
    with pytest.raises(KeyTypeError, match="visits"):
        cookies_of(face, {visits: "three"})
    face.manager.set_options(enabled=False)
    with pytest.raises(SessionError, match="enabled=False"):
        cookies_of(face, {visits: 3})


def test_the_other_managers_login_is_told() -> None:
    """Not by an error about coroutines or tuples."""
    with pytest.raises(TypeError, match="use alogin"):
        login(AsyncSessionManager(), {})  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="use login"):
        asyncio.run(alogin(SessionManager(), {}))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("seconds", [float("inf"), float("nan")])
def test_a_clock_moves_by_finite_times(seconds: float) -> None:
    """On or back; it is a test's mistake otherwise."""
    clock = FakeClock(1000.0)
    clock.advance(-10)
    assert clock() == 990.0
    with pytest.raises(ValueError, match="finite"):
        clock.advance(seconds)


def test_time_stands_still_for_a_manager_that_is_there_already(face: Face) -> None:
    """As that of an application, which is imported; and it goes on after the block, with what is over."""
    user = Key("user", str)
    face.manager.set_options(timeout=600, granularity=0)
    anns, bobs = face.browser(), face.browser()
    anns.jar, bobs.jar = (cookies_of(face, {user: name}, address=PEER) for name in ("ann", "bob"))
    before = face.clock()
    with frozen_clock(face.manager) as clock:
        assert clock() == before
        clock.advance(500)
        with anns.visit() as session:
            assert session[user] == "ann"
        clock.advance(500)
        with bobs.visit() as session:
            assert user not in session
        with anns.visit() as session:
            assert session[user] == "ann"
        with frozen_clock(face.manager) as later:
            later.advance(1)
            assert (later(), clock()) == (before + 1001, before + 1000)
    assert face.manager.core.clock is face.clock
    with bobs.visit() as session:
        assert user not in session
    with anns.visit() as session:
        assert session[user] == "ann"
    face.clock.advance(601)
    with anns.visit() as session:
        assert user not in session


def test_a_deadline_in_a_value_goes_by_the_same_clock(face: Face) -> None:
    """Ten minutes of more trust in a session of a day: a test has them pass as it has the session's own time pass."""
    trusted_until = Key("trusted_until", float)
    face.manager.set_options(timeout=86_400)
    assert face.manager.now() == face.clock()
    browser = face.browser()
    with browser.visit() as session:
        session[trusted_until] = face.manager.now() + 600
    with frozen_clock(face.manager) as clock:
        for passed, trusted in ((599, True), (1, False)):
            clock.advance(passed)
            with browser.visit() as session:
                assert (session[trusted_until] > face.manager.now()) == trusted


def test_a_clock_runs_on_after_a_test_that_fails() -> None:
    """The next test has the time of day again."""
    sessions = SessionManager()
    running = sessions.core.clock
    with pytest.raises(AssertionError), frozen_clock(sessions):
        raise AssertionError
    assert sessions.core.clock is running


def test_what_has_no_clock_is_told() -> None:
    """A store, or the application, in the place of the manager."""
    with pytest.raises(TypeError, match=r"frozen_clock\(dict\): expected a SessionManager"), frozen_clock({}):  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        pass
