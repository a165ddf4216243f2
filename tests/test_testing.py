"""What `typed_sessions.testing` gives to the tests of an application."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.faces import PEER, Face
from typed_sessions import AsyncSessionManager, Key, KeyTypeError, SessionError, SessionManager
from typed_sessions.testing import FakeClock, alogin, login


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
