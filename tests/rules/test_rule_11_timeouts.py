"""Rule 11: `timeout` and `lifetime` hold by `now` and the record alone, whether or not anything is ever swept."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.faces import Browser, Face
from tests.planting import record_of
from tests.rules.scene import Unswept, handle_of, is_open, listen, live, stored
from typed_sessions import CommitRefused, End, Key, SessionEnded

Make = Callable[..., Face]


def unswept(make_face: Make, **options: object) -> Face:
    """A face whose store is never swept."""
    face = make_face()
    face.store = Unswept(face.store)
    return face.renew(**options)


def signed_in(face: Face) -> Browser:
    """A browser with a session that holds `user`."""
    browser = face.browser()
    with browser.visit() as session:
        session[Key("user", str)] = "ann"
    return browser


def test_rule_11_the_idle_timeout_holds_without_a_sweeper(make_face: Make) -> None:
    """A session is over `timeout` after its last use (plus the granularity in which that is written), though its record is there."""
    face = unswept(make_face, timeout=600, granularity=60)
    left, used = signed_in(face), signed_in(face)
    face.clock.advance(659.9)
    assert is_open(left)
    assert is_open(used)
    with used.visit():
        pass
    face.clock.advance(0.1)
    assert record_of(face, handle_of(left)) is not None, "this test is about a record that nobody has cleared away"
    assert not is_open(left)
    assert is_open(used)
    with left.visit() as session:
        assert not session.exists
        assert Key("user", str) not in session


def test_rule_11_a_session_that_is_over_is_seen_nowhere(make_face: Make) -> None:
    """`all`, `get_session`, `edit` and `check_session_cookie` decide by the time, as requests do (ASVS 7.3.1)."""
    face = unswept(make_face, timeout=600)
    browser = signed_in(face)
    handle = handle_of(browser)
    face.clock.advance(660)
    assert record_of(face, handle) is not None
    assert live(face) == set()
    assert face.call(face.manager.get_session(browser.request())) is None
    with pytest.raises(LookupError):
        face.edit(handle, lambda session: session.end())


def test_rule_11_what_counts_is_the_record_and_not_the_options_of_who_looks(make_face: Make) -> None:
    """A session expires for a manager with no timeout at all as it does for the one that made it."""
    face = unswept(make_face, timeout=100)
    browser = signed_in(face)
    face.renew(timeout=None)
    face.clock.advance(109.9)
    assert is_open(browser)
    face.clock.advance(0.1)
    assert not is_open(browser)


def test_rule_11_the_lifetime_holds_however_often_a_session_is_used(make_face: Make) -> None:
    """`lifetime` counts from the creation (ASVS 7.3.2): no use prolongs it, and no sweeper is needed for it."""
    face = unswept(make_face, timeout=600, lifetime=1000)
    browser = signed_in(face)
    for _ in range(9):
        face.clock.advance(111)
        with browser.visit() as session:
            assert session[Key("user", str)] == "ann"
    face.clock.advance(0.9)
    assert is_open(browser)
    face.clock.advance(0.1)
    assert not is_open(browser)


def test_rule_11_a_renew_does_not_reset_the_lifetime(make_face: Make) -> None:
    """After a renew shortly before its end, a session still ends `lifetime` after its creation (L2, ASVS 7.2.4)."""
    face = unswept(make_face, timeout=None, lifetime=1000)
    browser = signed_in(face)
    face.clock.advance(900)
    with browser.visit() as session:
        session.renew()
    face.clock.advance(99.9)
    assert is_open(browser)
    face.clock.advance(0.1)
    assert not is_open(browser)


def test_rule_11_a_longer_timeout_does_not_reach_beyond_the_lifetime(make_face: Make) -> None:
    """A session without an idle timeout, by its own choice, ends with its lifetime all the same."""
    face = unswept(make_face, timeout=600, lifetime=1000)
    browser = face.browser()
    with browser.visit() as session:
        session[Key("user", str)] = "ann"
        session.timeout = None
    face.clock.advance(999.9)
    assert is_open(browser)
    face.clock.advance(0.1)
    assert not is_open(browser)


@pytest.mark.parametrize(("own", "lives"), [(50, 55), (3600, 3660), (None, None)])
def test_rule_11_an_own_timeout_is_that_sessions_only(make_face: Make, own: float | None, lives: float | None) -> None:
    """`session.timeout = ...` moves the end of that session, and of no other, whether it was new or not."""
    face = unswept(make_face, timeout=600, granularity=60)
    other, changed, made = signed_in(face), signed_in(face), face.browser()
    with changed.visit() as session:
        session.timeout = own
        assert session.timeout == own
    with made.visit() as session:
        session[Key("user", str)] = "eve"
        session.timeout = own
    for browser in (changed, made):
        record = stored(face, handle_of(browser))
        assert record.timeout == own
        assert record.due == (float("inf") if lives is None else face.clock() + lives)
    assert stored(face, handle_of(other)).timeout == 600
    with other.visit() as session:
        assert session.timeout == 600
    with face.browser().visit() as session:
        assert session.timeout == 600
    now = face.clock.now
    if lives is not None:
        face.clock.now = now + lives - 0.1
        assert is_open(changed)
        assert is_open(made)
        face.clock.now = now + lives
        assert not is_open(changed)
        assert not is_open(made)
    else:
        face.clock.now = now + 1e9
        assert is_open(changed)
        assert is_open(made)


def test_rule_11_an_own_timeout_stays_when_the_managers_changes(make_face: Make) -> None:
    """`set_options(timeout=...)` reaches a session with its next written use, unless it has a timeout of its own."""
    face = unswept(make_face, timeout=600)
    plain, own = signed_in(face), signed_in(face)
    with own.visit() as session:
        session.timeout = 300
    face.manager.set_options(timeout=1200)
    assert stored(face, handle_of(plain)).timeout == 600
    face.clock.advance(60)
    for browser in (plain, own):
        with browser.visit():
            pass
    assert stored(face, handle_of(plain)).timeout == 1200
    assert stored(face, handle_of(own)).timeout == 300


def test_rule_11_idle_expiry_during_a_request_is_ignored_at_its_commit(make_face: Make) -> None:
    """A request that opened in time commits however long it took, and the session lives on for its whole timeout."""
    face = unswept(make_face, timeout=600)
    browser = signed_in(face)
    face.clock.advance(659)
    turn = browser.open()
    face.clock.advance(5000)
    turn.session[Key("user", str)] = "eve"
    turn.finish()
    face.clock.advance(600)
    with browser.visit() as session:
        assert session[Key("user", str)] == "eve"


def test_rule_11_a_renew_by_a_long_request_is_committed_too(make_face: Make) -> None:
    """Also a renew, and a new timeout, of a request in which the idle timeout ran out."""
    face = unswept(make_face, timeout=600)
    browser = signed_in(face)
    old = browser.copy()
    turn = browser.open()
    face.clock.advance(5000)
    turn.session.renew()
    turn.session.timeout = 100
    turn.finish()
    assert is_open(browser)
    assert not is_open(old)
    face.clock.advance(110)
    assert not is_open(browser)


def test_rule_11_the_end_of_the_lifetime_during_a_request_refuses_its_commit(make_face: Make) -> None:
    """What a request wrote is dropped when the absolute lifetime ended meanwhile; `CommitRefused` says so, no cookie is sent."""
    face = unswept(make_face, timeout=None, lifetime=1000)
    browser = signed_in(face)
    refused: list[CommitRefused] = []
    listen(face, CommitRefused, refused.append)
    turn = browser.open()
    face.clock.advance(1000)
    turn.session[Key("user", str)] = "eve"
    assert not [name for name, _ in turn.finish() if name == "Set-Cookie"]
    assert [(event.reason, event.names) for event in refused] == [("ended", ("user",))]
    assert not is_open(browser)


def test_rule_11_the_end_of_the_lifetime_is_told_by_commit(make_face: Make) -> None:
    """`manager.commit` in the middle of a request raises `SessionEnded` for it."""
    face = unswept(make_face, timeout=None, lifetime=1000)
    browser = signed_in(face)
    turn = browser.open()
    face.clock.advance(1000)
    turn.session[Key("user", str)] = "eve"
    with pytest.raises(SessionEnded):
        face.call(face.manager.commit(turn.session))
    turn.finish()


@pytest.mark.parametrize(("options", "reason"), [({"timeout": 600}, "timeout"), ({"timeout": None, "lifetime": 660}, "lifetime")])
def test_rule_11_the_visit_that_finds_it_over_ends_it(make_face: Make, options: dict[str, float], reason: str) -> None:
    """Without a sweeper, whoever comes with the cookies of a session that is over makes its end known, with the reason."""
    face = unswept(make_face, **options)
    browser = signed_in(face)
    ends: list[tuple[str, str]] = []
    listen(face, End, lambda event: ends.append((event.reason, event.session[Key("user", str)])))
    handle = handle_of(browser)
    face.clock.advance(660)
    with browser.visit():
        pass
    assert ends == [(reason, "ann")]
    assert record_of(face, handle) is None


def test_rule_11_the_lifetime_holds_within_the_granularity(make_face: Make) -> None:
    """Also for a session whose use was written a moment ago, so that nothing else is to be looked at."""
    face = unswept(make_face, timeout=600, lifetime=1000, granularity=60)
    browser = signed_in(face)
    for seconds in (333, 333, 333):
        face.clock.advance(seconds)
        assert is_open(browser)
        with browser.visit() as session:
            assert session.exists
    face.clock.advance(1)
    with browser.visit() as session:
        assert not session.exists


def test_rule_11_what_was_over_first_is_the_reason(make_face: Callable[..., Face]) -> None:
    """A request that comes when both timeouts are over tells `End` of the one that the session did not live beyond."""
    for timeout, lifetime, reason in ((100, 1_000, "timeout"), (1_000, 100, "lifetime")):
        face = make_face(timeout=timeout, lifetime=lifetime, gc="active")
        ends = list[str]()
        listen(face, End, lambda event, ends=ends: ends.append(event.reason))  # type: ignore[misc]
        browser = face.browser()
        with browser.visit() as session:
            session[Key("name", str)] = "ann"
        face.clock.advance(5_000)
        browser.open()
        assert ends == [reason]
