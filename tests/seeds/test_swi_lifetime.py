"""SWI-Prolog's timeouts, of all sessions and of one, and what clears up after them: in passing, or in the background."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from tests.faces import Face
from tests.seeds.cases import case
from tests.seeds.programs import follow, handles, listen, names_set, subscribe, visit
from typed_sessions import Begin, End, Key, PolicyError, SessionManager, current_session

YEAR = 31_536_000.0


@case("idle-expiry-on-visit", "improve", "one Set-Cookie per name: the new id")
def test_a_visit_after_the_timeout_begins_a_new_session(face: Face) -> None:
    """The old session ends with its data, then the new one begins, and only its cookies are sent (rules 13, 15, C11)."""
    visits = Key("visits", int)
    face.renew(timeout=2, granularity=1, create=True)
    browser = face.browser()
    visit(browser, visits)
    seen: list[object] = []
    subscribe(face.manager, End, lambda event: seen.append((event.reason, event.session[visits])))
    subscribe(face.manager, Begin, lambda event: seen.append("begin"))
    face.clock.advance(3.2)
    turn = browser.open()
    assert seen == [("timeout", 1), "begin"]
    assert visits not in turn.session
    assert names_set(turn.finish()) == ["SESSION_KEY", "SESSION_ADDR"]
    assert visit(browser, visits) == 1


@case("idle-touch-keeps-alive", "keep")
def test_every_visit_starts_the_timeout_again(face: Face) -> None:
    """Visits closer to each other than the timeout keep a session for as long as they go on (rule 11)."""
    visits = Key("visits", int)
    face.renew(timeout=2, granularity=1)
    browser = face.browser()
    for number, pause in enumerate((0.5, 1.2, 1.9, 1.9, 0), 1):
        assert visit(browser, visits) == number
        face.clock.advance(pause)


@case("expired-hidden-but-stored", "improve", "expired is expired for everybody, and collecting it costs what expired")
def test_an_expired_session_is_nowhere_to_be_seen(face: Face) -> None:
    """By the time alone it is in no list and opens for nobody; a sweep, or anybody's next request, takes it away (rules 11, 16, L1)."""
    face.renew(timeout=2)
    browser = face.browser()
    follow(browser, create=True)
    face.clock.advance(3.2)
    assert handles(face) == []
    assert face.call(face.manager.get_session(browser.request())) is None
    assert face.call(face.manager.sweep()) == 1
    assert face.call(face.manager.sweep()) == 0


@case("timeout-below-granularity-kills-live-session", "improve", "a use is never taken for an older one, and a short timeout is kept")
@pytest.mark.parametrize("own", [True, False])
def test_a_timeout_shorter_than_the_granularity_works(face: Face, own: bool) -> None:
    """With timeout 5 and granularity 60, visits in a row and every four seconds find it; six seconds later it is over (rule 12)."""
    visits = Key("visits", int)
    face.renew(timeout=600 if own else 5, granularity=60)
    face.clock.advance(36.7)
    browser = face.browser()
    with browser.visit(create=True) as session:
        if own:
            session.timeout = 5
    for number, pause in enumerate((0, 0, 0, 4, 4, 4, 6), 1):
        assert visit(browser, visits) == number
        face.clock.advance(pause)
    assert not browser.open().session.exists


@case("timeout-0-no-expiry", "keep")
def test_without_a_timeout_a_session_does_not_expire(face: Face) -> None:
    """None is never; 0 is refused, since it reads like the opposite."""
    face.renew(timeout=None)
    browser = face.browser()
    follow(browser, create=True)
    face.clock.advance(YEAR)
    face.call(face.manager.sweep())
    assert browser.open().session.exists
    with pytest.raises(PolicyError, match="None is never"):
        face.manager.set_options(timeout=0)


@case("gc-passive-on-creation", "keep")
def test_a_request_ends_what_has_expired_before_its_own_session_begins(face: Face) -> None:
    """Both ends come first, each with its data, then the begin (rules 13, 15)."""
    name = Key("name", str)
    face.renew(timeout=1, granularity=1, gc="passive")
    for someone in ("ann", "bob"):
        with face.browser().visit() as session:
            session[name] = someone
    seen: list[str] = []
    subscribe(face.manager, End, lambda event: seen.append(event.session[name]))
    subscribe(face.manager, Begin, lambda event: seen.append("begin"))
    face.clock.advance(2.5)
    assert seen == []
    follow(face.browser(), create=True)
    assert sorted(seen[:2]) == ["ann", "bob"]
    assert seen[2:] == ["begin"]


@case("gc-passive-not-on-repeat-visits", "improve", "any request that opens a session does its share of the clearing up")
def test_a_repeated_visit_ends_what_has_expired(face: Face) -> None:
    """Nobody new has to come for the old to be collected (rule 16)."""
    face.renew(timeout=100, granularity=1)
    browser = face.browser()
    follow(browser, create=True)
    with face.browser().visit(create=True) as session:
        session.timeout = 1
    told = listen(face.manager)
    face.clock.advance(2.5)
    follow(browser)
    assert [what for what, _ in told] == ["timeout"]


@case("gc-global-blocked-by-one-per-session-timeout", "improve", "a session's own timeout is its own affair")
@pytest.mark.parametrize("by", ["visit", "sweep"])
def test_one_long_session_blocks_no_sweep(face: Face, by: str) -> None:
    """With one session of timeout 1000, the others of timeout 1 end all the same, twice in a row, in passing or not (rules 11, 16)."""
    face.renew(timeout=1, granularity=1)
    told = listen(face.manager)
    with face.browser().visit(create=True) as session:
        session.timeout = 1000
    for _ in range(2):
        for _ in range(2):
            follow(face.browser(), create=True)
        told.clear()
        face.clock.advance(2.5)
        if by == "visit":
            follow(face.browser())
        else:
            face.call(face.manager.sweep())
        assert [what for what, _ in told] == ["timeout", "timeout"]
    assert len(handles(face)) == 1


@case("gc-per-session-shorter", "improve", "it is collected at its own time, and its settings are no data of it")
def test_a_session_with_a_shorter_timeout_ends_at_its_own_time(face: Face) -> None:
    """The one with a second of its own ends, and shows its data alone; the others stay."""
    name = Key("name", str)
    face.renew(timeout=100, granularity=1)
    follow(face.browser(), create=True)
    with face.browser().visit() as session:
        session[name] = "ann"
        session.timeout = 1
    seen: list[object] = []
    subscribe(face.manager, End, lambda event: seen.append(([*event.session], event.session[name])))
    face.clock.advance(2.5)
    follow(face.browser(), create=True)
    assert seen == [([name], "ann")]
    assert len(handles(face)) == 2


@case("gc-per-session-0", "keep")
def test_a_session_without_a_timeout_is_never_collected(face: Face) -> None:
    """Its own None outlives the timeout of all others."""
    face.renew(timeout=1, granularity=1)
    browser = face.browser()
    with browser.visit(create=True) as session:
        session.timeout = None
    follow(face.browser(), create=True)
    told = listen(face.manager)
    face.clock.advance(YEAR)
    face.call(face.manager.sweep())
    assert [what for what, _ in told] == ["timeout"]
    assert browser.open().session.exists


class Background:
    """Sees a session end in the background: where, and with which session current. Nothing waits longer than it takes."""

    def __init__(self, face: Face) -> None:
        self.face = face
        self.handle = ""
        self.where = ""
        self.ended: Any = threading.Event() if face.kind == "sync" else asyncio.Event()
        subscribe(face.manager, End, self.note)

    def note(self, event: End) -> None:
        assert current_session().handle == event.session.handle
        self.handle = event.session.handle
        self.where = threading.current_thread().name
        self.ended.set()

    def wait(self) -> bool:
        if self.face.kind == "sync":
            return bool(self.ended.wait(10))
        return bool(self.face.call(asyncio.wait_for(self.ended.wait(), 10)))


@case("gc-active", "keep")
def test_sessions_end_in_the_background(face: Face) -> None:
    """With gc="active" a thread, or a task of the event loop, ends them with the session current; "passive" stops it."""
    face.renew(timeout=1, granularity=0.01, gc="active")
    background = Background(face)
    turn = face.browser().open(create=True)
    handle = turn.session.handle
    turn.finish()
    face.clock.advance(3.5)
    assert background.wait()
    assert background.handle == handle
    if face.kind == "sync":
        assert background.where == "typed_sessions sweep"
        assert sweepers() == 1
    face.manager.set_options(gc="passive")
    assert sweepers() == 0


@case("gc-active-starts-lazily", "improve", "it starts when the option is set")
def test_the_background_starts_when_it_is_asked_for(face: Face) -> None:
    """Set after the last session was created, it still ends that session, with no further request."""
    face.renew(timeout=1, granularity=0.01)
    background = Background(face)
    follow(face.browser(), create=True)
    face.clock.advance(3.5)

    async def in_the_loop() -> None:
        face.manager.set_options(gc="active")

    if face.kind == "sync":
        face.manager.set_options(gc="active")
    else:
        face.call(in_the_loop())
    assert background.wait()


def sweepers() -> int:
    return sum(thread.name == "typed_sessions sweep" for thread in threading.enumerate())


def test_a_manager_that_is_closed_has_no_thread_left() -> None:
    """The background thread goes with its manager."""
    with SessionManager(gc="active"):
        assert sweepers() == 1
    assert sweepers() == 0
