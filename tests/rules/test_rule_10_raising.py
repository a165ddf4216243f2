"""Rule 10: a hook, listener, codec or other function of the user's that raises is reported, and stops nothing else."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from tests.faces import Browser, Face
from tests.planting import heard, pack, plant, record_of
from tests.watched import Watched
from typed_sessions import (
    AddressMismatch,
    Begin,
    CommitRefused,
    CookiePolicy,
    End,
    Event,
    Key,
    ListKey,
    LostUpdate,
    Rejected,
    ReusedOldId,
    Session,
    SetCookie,
    ValueRefused,
)


class Mistake(Exception):
    """What the user's functions raise here."""


def fail(*_: Any) -> Any:
    raise Mistake("a mistake of the user's")


@pytest.fixture
def note() -> Key[int]:
    return Key("note", int)


def stored_session(face: Face, note: Key[int]) -> tuple[Browser, str]:
    browser = face.browser()
    with browser.visit() as session:
        session[note] = 1
    with browser.visit() as session:
        return browser, session.handle


def mistakes(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The log lines that report the mistake, with its traceback."""
    found = [line for line in caplog.records if line.exc_info is not None and line.exc_info[0] is Mistake]
    assert all(line.levelno >= logging.ERROR and line.name == "typed_sessions" for line in found)
    return [line.getMessage() for line in found]


def begin(face: Face, browser: Browser, note: Key[int]) -> None:
    with face.browser().visit() as session:
        session[note] = 1


def end(face: Face, browser: Browser, note: Key[int]) -> None:
    with browser.visit() as session:
        session.end()


def commit_refused(face: Face, browser: Browser, note: Key[int]) -> None:
    with browser.visit() as session:
        session[note] = 2
        face.call(face.manager.end(session.handle))


def lost_update(face: Face, browser: Browser, note: Key[int]) -> None:
    tags = Key("tags", list[int])
    with browser.visit() as session:
        session[tags] = []
    first, second = browser.open(), browser.open()
    for number, turn in enumerate((first, second)):
        turn.session[tags].append(number)
    first.finish()
    second.finish()


def value_refused(face: Face, browser: Browser, note: Key[int]) -> None:
    key = Key("wrong", int)
    with browser.visit() as session:
        handle = session.handle
    plant(face, handle, "wrong", pack("text"))
    with browser.visit() as session:
        assert key not in session


def reused_old_id(face: Face, browser: Browser, note: Key[int]) -> None:
    old = browser.copy()
    with browser.visit() as session:
        session.renew()
    with old.visit():
        pass


def address_mismatch(face: Face, browser: Browser, note: Key[int]) -> None:
    with browser.copy("192.0.2.1").visit():
        pass


EVENTS: list[tuple[type[Event], Callable[[Face, Browser, Key[int]], None]]] = [
    (Begin, begin),
    (End, end),
    (CommitRefused, commit_refused),
    (LostUpdate, lost_update),
    (ValueRefused, value_refused),
    (ReusedOldId, reused_old_id),
    (AddressMismatch, address_mismatch),
]


@pytest.mark.parametrize(("event", "cause"), EVENTS, ids=[event.__name__ for event, _ in EVENTS])
def test_rule_10_a_listener_that_raises_is_reported(
    face: Face, note: Key[int], caplog: pytest.LogCaptureFixture, event: type[Event], cause: Callable[[Face, Browser, Key[int]], None]
) -> None:
    """The request goes on, the listeners after it are called, and the log has the traceback and the event's name (L7)."""
    browser, _ = stored_session(face, note)
    before = heard(face, event)
    face.manager.on(event, fail)
    after = heard(face, event)
    cause(face, browser, note)
    assert len(before) == len(after) == 1
    lines = mistakes(caplog)
    assert len(lines) == 1
    assert event.__name__ in lines[0]


@pytest.mark.parametrize("which", ["no_client", "delete", "both"])
def test_rule_10_a_hook_that_raises_is_reported(face: Face, note: Key[int], caplog: pytest.LogCaptureFixture, which: str) -> None:
    """The other hooks of the value and of the other values run, the session is over, its clients are closed (L6, L7)."""
    ran: list[str] = []

    def keep(value: int) -> bool:
        ran.append(f"no_client {value}")
        return True

    def first_keep(value: int) -> bool:
        keep(value)
        return True if which == "delete" else fail()

    def first_delete(value: int) -> None:
        ran.append(f"delete {value}")
        if which != "no_client":
            fail()

    first = Key("first", int, cleanup_no_client=first_keep, cleanup_delete=first_delete)
    second = Key("second", int, cleanup_no_client=keep, cleanup_delete=lambda value: ran.append(f"delete {value}"))
    browser, handle = stored_session(face, note)
    with browser.visit() as session:
        session[first], session[second] = 1, 2
    with face.manager.connect("10.1.2.3", lambda: ran.append("closed")) as client:
        browser.open(client=client).finish()
        face.call(face.manager.end(handle))
        assert ran == ["no_client 1", "delete 1", "no_client 2", "delete 2", "closed"]
    assert len(mistakes(caplog)) == (2 if which == "both" else 1)
    assert all("'first'" in line for line in mistakes(caplog))
    assert record_of(face, handle) is None


def test_rule_10_the_close_of_a_client_that_raises_is_reported(face: Face, note: Key[int], caplog: pytest.LogCaptureFixture) -> None:
    """The other clients of the session are closed all the same."""
    browser, handle = stored_session(face, note)
    closed: list[str] = []
    with (
        face.manager.connect("10.1.2.3", fail) as one,
        face.manager.connect("10.1.2.3", lambda: closed.append("two")) as two,
    ):
        for client in (one, two):
            browser.open(client=client).finish()
        assert face.call(face.manager.end(handle)) is True
    assert closed == ["two"]
    assert len(mistakes(caplog)) == 1


def test_rule_10_a_load_that_raises_hides_one_value(face: Face, note: Key[int], caplog: pytest.LogCaptureFixture) -> None:
    """It is reported as `ValueRefused` and in the log; the request, its other keys and the end of the session go on."""
    hooked = Key("hooked", save=str.encode, load=fail, cleanup_delete=fail)
    browser, handle = stored_session(face, note)
    with browser.visit() as session:
        session[hooked] = "a"
    reports = heard(face, ValueRefused)
    with browser.visit() as session:
        assert hooked not in session
        session[note] = 2
    assert [event.name for event in reports] == ["hooked"]
    assert any("'hooked'" in line.getMessage() and "Mistake" in line.getMessage() for line in caplog.records)
    with browser.visit() as session:
        assert session[note] == 2
        session.end()
    assert record_of(face, handle) is None


def test_rule_10_a_save_that_raises_hurts_only_its_assignment(face: Face, note: Key[int]) -> None:
    """The assignment raises what `save` raised, and the rest of the request is committed."""
    hooked = Key[str]("hooked", save=fail, load=bytes.decode)
    browser, _ = stored_session(face, note)
    with browser.visit() as session:
        with pytest.raises(Mistake):
            session[hooked] = "a"
        assert hooked not in session
        session[note] = 2
    with browser.visit() as session:
        assert session[note] == 2
        assert hooked not in session


def update(session: Session, merged: Key[list[int]]) -> None:
    session.update(Key("count", int), lambda n: n + 1 if n < 10 else fail(), default=0)


def merge(session: Session, merged: Key[list[int]]) -> None:
    session[merged].append(1)


@pytest.mark.parametrize("work", [update, merge], ids=lambda work: work.__name__)
def test_rule_10_what_a_repeated_commit_runs_and_raises_goes_to_its_request(
    face: Face, note: Key[int], work: Callable[[Session, Key[list[int]]], None]
) -> None:
    """The request whose function it was gets the exception, nothing of it is applied, and the session goes on (rule 7)."""
    merged = Key("merged", list[int], merge=fail)
    browser, handle = stored_session(face, note)
    with browser.visit() as session:
        session[merged] = [0]
    turn = browser.open()
    turn.session[note] = 2
    work(turn.session, merged)
    plant(face, handle, "count", pack(10))
    plant(face, handle, "merged", pack([5]))
    with pytest.raises(Mistake):
        turn.send()
    with browser.visit() as session:
        assert session[note] == 1
        session[note] = 3
    with browser.visit() as session:
        assert session[note] == 3


@pytest.mark.parametrize("new", [False, True], ids=["known", "new"])
def test_rule_10_an_update_of_a_resident_value_that_raises_at_the_commit(face: Face, note: Key[int], new: bool) -> None:
    """Another request was faster, and the function does not take its value: nothing is applied, and the old cookies still open it."""
    resident, words = Key("resident", int, resident=True), ListKey("words", str)
    browser, _ = stored_session(face, note)
    if new:
        browser = face.browser()
    calls: list[int] = []

    def once(n: int) -> int:
        calls.append(n)
        return n + 1 if n == 0 else fail()

    turn = browser.open()
    if not new:
        turn.session.renew()
    turn.session[note] = 2
    turn.session[words].append("one")
    turn.session.update(resident, once, default=0)
    if new:
        calls.clear()
        turn.finish()
        with browser.visit() as session:
            assert (session[note], session[resident], calls) == (2, 1, [0])
        return
    with browser.copy().visit() as session:
        session[resident] = 100
    with pytest.raises(Mistake):
        turn.send()
    with browser.visit() as session:
        assert (session[note], list(session[words]), session[resident]) == (1, [], 100)


def test_rule_10_an_update_of_a_resident_value_that_raises_after_the_commit(
    face: Face, note: Key[int], caplog: pytest.LogCaptureFixture
) -> None:
    """Another request was faster while the store was told: all else is stored, the answer says so, and the loss is told."""
    resident = Key("resident", int, resident=True)
    browser, _ = stored_session(face, note)
    rival = browser.copy()

    def once(n: int) -> int:
        return n + 1 if n == 0 else fail()

    class Meanwhile(Watched):
        def _after(self, name: str) -> None:
            if name == "commit" and self.calls["commit"] == 1:
                with rival.visit() as session:
                    session[resident] = 100

    face.manager = face.another(store=Meanwhile(face.store))
    lost = heard(face, LostUpdate)
    turn = browser.open()
    turn.session[note] = 2
    turn.session.update(resident, once, default=0)
    turn.finish()
    assert [event.name for event in lost] == ["resident"]
    assert any("when all else was stored" in line for line in mistakes(caplog))
    with browser.visit() as session:
        assert (session[note], session[resident]) == (2, 100)


def test_rule_10_an_update_that_raises_at_once_changes_nothing(face: Face, note: Key[int]) -> None:
    """The call raises; the value is the one that it was, and the request may go on."""
    browser, _ = stored_session(face, note)
    with browser.visit() as session:
        with pytest.raises(Mistake):
            session.update(note, fail)
        with pytest.raises(Mistake):
            session.setdefault(Key("made", int), fail)
        assert session[note] == 1
        session.update(note, lambda n: n + 1)
    with browser.visit() as session:
        assert session[note] == 2


def test_rule_10_a_check_that_raises_fails_its_request_alone(face: Face, note: Key[int]) -> None:
    """Nobody is let in by it, and the session is as it was: neither ended nor kept open."""
    browser, _ = stored_session(face, note)
    with pytest.raises(Mistake):
        browser.open(check=fail)
    with browser.visit() as session:
        assert session[note] == 1


def test_rule_10_a_cookie_filter_that_raises_is_reported(face: Face, note: Key[int], caplog: pytest.LogCaptureFixture) -> None:
    """The cookie that it was asked about is left alone, and the others are filtered."""

    def spare(cookie: SetCookie) -> SetCookie | None:
        return fail() if cookie.name == "bad" else None

    def unsound(_: Session) -> bool:
        return False

    browser, _ = stored_session(face, note)
    with pytest.raises(Rejected) as caught:
        browser.open(headers=[("Cookie", "bad=1; good=2")], check=unsound, cookie_policy=CookiePolicy(filter=spare))
    expired = [value.partition("=")[0] for name, value in caught.value.headers if name == "Set-Cookie"]
    assert sorted(expired) == ["SESSION_ADDR", "SESSION_KEY", "good"]
    assert len(mistakes(caplog)) == 1


def test_rule_10_a_sweep_goes_on_after_a_hook_that_raises(face: Face, note: Key[int], caplog: pytest.LogCaptureFixture) -> None:
    """Every session that is over ends, each with its event, though the hooks of all of them raise."""
    hooked = Key("hooked", int, cleanup_delete=fail)
    for number in range(5):
        with face.browser(f"10.0.{number}.1").visit() as session:
            session[hooked] = number
    ends = heard(face, End)
    face.clock.advance(10_000)
    assert face.call(face.manager.sweep()) == 5
    assert [event.reason for event in ends] == ["timeout"] * 5
    assert len(mistakes(caplog)) == 5


def test_rule_10_clearing_up_in_passing_does_not_hurt_the_request(face: Face, note: Key[int], caplog: pytest.LogCaptureFixture) -> None:
    """The request that clears up after others (`gc="passive"`) is answered, whatever their hooks do."""
    hooked = Key("hooked", int, cleanup_delete=fail)
    with face.browser("10.9.9.9").visit() as session:
        session[hooked] = 1
    face.clock.advance(10_000)
    browser, _ = stored_session(face, note)
    with browser.visit() as session:
        assert session[note] == 1
    assert len(mistakes(caplog)) == 1
