"""Rule 12: the time of last use is written at most once per granularity, in the same trip as the read; and the cookie's Max-Age with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faces import Browser, Face
from tests.rules.scene import BOTH, Unswept, cookies_set, handle_of, is_open, live, stored
from tests.watched import Watched
from typed_sessions import AddressPolicy, CookiePolicy, Key, MemoryStore
from typed_sessions.clock import steady_clock
from typed_sessions.testing import FakeClock

Make = Callable[..., Face]

HOUR, DAY = 3600.0, 86400.0


def signed_in(face: Face) -> Browser:
    browser = face.browser()
    with browser.visit() as session:
        session[Key("user", str)] = "ann"
    return browser


def test_rule_12_a_use_is_written_once_per_granularity(face: Face) -> None:
    """Visited every second for three minutes, a record is written for the first visit, and then every 60 seconds."""
    browser = signed_in(face)
    handle, begun = handle_of(browser), face.clock()
    with browser.visit():
        pass  # marks it as used by a second request (rule 30)
    written: list[float] = []
    before = stored(face, handle).pack()
    for _ in range(180):
        face.clock.advance(1)
        with browser.visit() as session:
            assert session[Key("user", str)] == "ann"
        after = stored(face, handle)
        if after.pack() != before:
            before = after.pack()
            written.append(after.used - begun)
    assert written == [60, 120, 180]


def test_rule_12_a_use_is_written_in_the_trip_that_reads(make_face: Make) -> None:
    """Whether or not there is a use to write, a request that only reads asks the store once."""
    face = make_face()
    store = face.store = Watched(face.store)
    face.renew(granularity=60)
    browser = signed_in(face)
    begun, written = face.clock.now, list[float]()
    for second in (0, 1, 30, 60, 61, 125):
        face.clock.now = begun + second
        store.calls.clear()
        with browser.visit() as session:
            assert session[Key("user", str)] == "ann"
        del store.calls["sweep"]  # once per granularity, a request clears up first
        assert store.calls == {"open": 1}
        written.append(stored(face, handle_of(browser)).used - begun)
    assert written == [0, 0, 0, 60, 60, 125]


def test_rule_12_a_session_lives_its_whole_timeout_after_its_last_use(make_face: Make) -> None:
    """However uses and granularity fall together: alive for `timeout` after the last one, and over one granularity later."""
    face = make_face()
    face.store = Unswept(face.store)
    face.renew(timeout=600, granularity=60)
    for last_use in (0, 1, 30, 59, 60, 61, 119, 140):
        browser = signed_in(face)
        begun = face.clock.now
        for second in range(7, last_use, 7):
            face.clock.now = begun + second
            with browser.visit():
                pass
        face.clock.now = begun + last_use
        with browser.visit():
            pass
        face.clock.now = begun + last_use + 599.9
        assert is_open(browser), last_use
        face.clock.now = begun + last_use + 660
        assert not is_open(browser), last_use


@pytest.mark.parametrize(("timeout", "granularity"), [(600, 60), (100, 10), (10, 1), (86400, 60)])
def test_rule_12_the_granularity_is_a_tenth_of_the_timeout_at_most(make_face: Make, timeout: float, granularity: float) -> None:
    """So a short timeout stays short: it is never exceeded by more than a tenth."""
    face = make_face(timeout=timeout, granularity=60)
    browser = signed_in(face)
    record = stored(face, handle_of(browser))
    assert (record.granularity, record.due - record.used) == (granularity, timeout + granularity)
    face.clock.advance(granularity * 0.9)
    with browser.visit():
        pass
    assert stored(face, handle_of(browser)).used == record.used
    face.clock.advance(granularity * 0.1)
    with browser.visit():
        pass
    assert stored(face, handle_of(browser)).used == face.clock()


def test_rule_12_also_for_a_timeout_of_its_own(face: Face) -> None:
    """A session that chose 20 seconds has a granularity of 2, and gets it back to 60 with a longer choice."""
    browser = signed_in(face)
    for own, granularity in ((20, 2), (3600, 60), (None, 60)):
        with browser.visit() as session:
            session.timeout = own
        assert stored(face, handle_of(browser)).granularity == granularity


def test_rule_12_a_commit_is_a_use(face: Face) -> None:
    """What a long request writes counts as a use at that time, in the same trip."""
    browser = signed_in(face)
    turn = browser.open()
    face.clock.advance(500)
    turn.session[Key("user", str)] = "eve"
    turn.finish()
    assert stored(face, handle_of(browser)).used == face.clock()


def test_rule_12_looking_from_outside_is_no_use(face: Face) -> None:
    """`check_session_cookie`, `get_session` and `all` change nothing in the record, not even the time of last use."""
    browser = signed_in(face)
    before = stored(face, handle_of(browser)).pack()
    face.clock.advance(300)
    assert is_open(browser)
    view = face.call(face.manager.get_session(browser.request()))
    assert view[Key("user", str)] == "ann"
    assert live(face) == {handle_of(browser)}
    assert stored(face, handle_of(browser)).pack() == before


def test_rule_12_idle_is_counted_from_the_use_that_was_written(face: Face) -> None:
    """`view.idle`: seconds since the last written use, so at most a granularity more than since the last use."""
    browser = signed_in(face)
    face.clock.advance(59)
    with browser.visit():
        pass
    face.clock.advance(41)
    assert [view.idle for view in face.call(face.manager.all())] == [100]
    with browser.visit():
        pass
    assert [view.idle for view in face.call(face.manager.all())] == [0]


def test_rule_12_who_goes_through_the_sessions_sees_when_they_are_over(make_face: Make) -> None:
    """`view.timeout` is the session's own, or the manager's; with `view.idle` it says how long is left. A view changes neither."""
    face = make_face(timeout=HOUR, cookie_policy=CookiePolicy(max_age=DAY, persistent=False))
    browser = signed_in(face)
    [view] = face.call(face.manager.all())
    assert (view.timeout, view.persistent) == (HOUR, False)
    with browser.visit() as session:
        session.timeout, session.persistent = DAY, True
    face.clock.advance(600)
    [view] = face.call(face.manager.all())
    assert (view.timeout, view.idle, view.persistent) == (DAY, 600, True)
    assert face.call(face.manager.get_session(browser.request())).timeout == DAY
    for name in ("timeout", "persistent"):
        with pytest.raises(AttributeError):
            setattr(view, name, False)


# ------------------------------------------------------------------ Max-Age


def sent(browser: Browser, seconds: range) -> list[int]:
    """Visit at these seconds from now; those at which the answer set cookies."""
    begun = browser.face.clock.now
    found: list[int] = []
    for second in seconds:
        browser.face.clock.now = begun + second
        before = dict(browser.jar)
        turn = browser.open()
        if cookies := cookies_set(turn.finish()):
            found.append(second)
            assert cookies.keys() == BOTH
            assert all("Max-Age=86400" in text.split("; ") for text in cookies.values())
            assert browser.jar == before, "the same cookies again: only their time in the browser begins anew"
    return found


def test_rule_12_a_cookie_with_max_age_is_sent_again_when_the_use_is_written(make_face: Make) -> None:
    """A browser counts Max-Age from when it got the cookie. Most responses carry no `Set-Cookie` (RFC 6265bis 4.1.2.2)."""
    face = make_face(cookie_policy=CookiePolicy(max_age=86400))
    browser = signed_in(face)
    assert sent(browser, range(0, 200, 10)) == [60, 120, 180]


def test_rule_12_also_when_the_use_is_written_for_another_address_of_the_network(make_face: Make) -> None:
    """Where the address is only in the bound network, the use is written in a trip of its own; the cookie goes with it all the same."""
    face = make_face(cookie_policy=CookiePolicy(max_age=86400))
    neighbour = signed_in(face).copy(address="10.1.2.250")
    assert sent(neighbour, range(0, 200, 10)) == [60, 120, 180]


def test_rule_12_a_commit_that_writes_the_use_sends_it_too(make_face: Make) -> None:
    """A request that took longer than the granularity, and wrote."""
    face = make_face(cookie_policy=CookiePolicy(max_age=86400))
    browser = signed_in(face)
    turn = browser.open()
    face.clock.advance(61)
    turn.session[Key("user", str)] = "eve"
    assert cookies_set(turn.finish()).keys() == BOTH


def test_rule_12_a_browser_session_cookie_is_never_sent_again(make_face: Make) -> None:
    """Without `max_age`, or with `persistent = False`, there is no time in the browser to prolong."""
    face = make_face()
    assert sent(signed_in(face), range(0, 200, 20)) == []
    face.renew(cookie_policy=CookiePolicy(max_age=86400))
    browser = face.browser()
    with browser.visit() as session:
        session[Key("user", str)] = "ann"
        session.persistent = False
    assert sent(browser, range(0, 200, 20)) == []


# ------------------------------------------------------------------ clocks that step (L10)


def test_rule_12_a_wall_clock_that_steps_ends_nobody_s_session(make_face: Make) -> None:
    """Forward a day: nobody is signed out. Back an hour: nobody lives longer. The manager's own clock never jumps (L10)."""
    wall, steady = FakeClock(1_700_000_000), FakeClock(500)
    face = make_face(timeout=600, clock=(now := steady_clock(wall, steady)))

    def wait(seconds: int) -> None:
        for _ in range(seconds):
            wall.advance(1)
            steady.advance(1)
            now()

    browser = signed_in(face)
    wall.advance(DAY)
    wait(600)
    assert is_open(browser)
    wall.advance(-DAY - HOUR)
    assert is_open(browser)
    wait(60)
    assert not is_open(browser)


def test_rule_12_a_use_from_the_future_is_written_over(face: Face) -> None:
    """Used by a node whose clock was ahead by an hour, a session lives for its timeout from the next use on, and not an hour more (L10)."""
    face.clock.advance(HOUR)
    ahead = signed_in(face)
    with ahead.visit():
        pass
    face.clock.advance(-HOUR)
    with ahead.visit() as session:
        assert session[Key("user", str)] == "ann"
    assert stored(face, handle_of(ahead)).used == face.clock()
    face.clock.advance(660)
    assert not is_open(ahead)


def test_rule_12_a_use_from_the_future_ends_at_last(face: Face) -> None:
    """Also a session that nobody visits again: it ends when the step and its timeout are over (L10: nothing lives forever)."""
    face.clock.advance(HOUR)
    ahead = signed_in(face)
    face.clock.advance(-HOUR)
    face.clock.advance(HOUR + 660)
    assert not is_open(ahead)
    assert face.call(face.manager.sweep()) == 1


def test_rule_12_a_snapshot_from_the_future_lives_no_longer(memory_face: Face, tmp_path: Path) -> None:
    """Saved under a clock that was an hour ahead, sessions live for their timeout from the loading on (L10)."""
    face = memory_face
    face.clock.advance(HOUR)
    browser = signed_in(face)
    face.call(face.manager.save_sessions(tmp_path / "sessions"))
    face.clock.advance(-HOUR)
    face.store = MemoryStore()
    face.renew()
    assert face.call(face.manager.load_sessions(tmp_path / "sessions")) == 1
    assert is_open(browser)
    face.clock.advance(660)
    assert not is_open(browser)


# ------------------------------------------------------------------ what is not a use at all


@pytest.mark.parametrize("wrong", ["secret", "address cookie", "address"])
def test_rule_12_what_is_refused_is_no_use(make_face: Make, wrong: str) -> None:
    """A request that does not get the session changes nothing in its record: a thief does not keep it alive (rule 9, A7)."""
    face = make_face(address_policy=AddressPolicy(match="exact"))
    browser = signed_in(face)
    thief = browser.copy(address="192.0.2.1" if wrong == "address" else None)
    if wrong == "secret":
        thief.jar["SESSION_KEY"] = thief.jar["SESSION_KEY"][:-1] + ("A" if thief.jar["SESSION_KEY"][-1] != "A" else "B")
    if wrong == "address cookie":
        del thief.jar["SESSION_ADDR"]
    before = stored(face, handle_of(browser)).pack()
    for _ in range(20):
        face.clock.advance(30)
        turn = thief.copy().open()
        assert not turn.session.exists
        turn.discard()
        assert stored(face, handle_of(browser)).pack() == before
    face.clock.advance(60)
    assert not is_open(browser)
