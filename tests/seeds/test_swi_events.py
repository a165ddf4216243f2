"""SWI-Prolog's broadcasts: what listeners of Begin and End see, may do, and cannot break."""

from __future__ import annotations

from typing import Any

import pytest

from tests.faces import Face
from tests.seeds.cases import case
from tests.seeds.programs import follow, handles, listen, names_set, subscribe
from typed_sessions import Begin, End, Event, Key, current_session

BOTH = ["SESSION_KEY", "SESSION_ADDR"]


def broken(event: Event) -> None:
    raise ZeroDivisionError


@case("begin-listener-throws", "improve", "a listener that raises is logged; the request, its session and its cookies are as without it")
def test_a_begin_listener_that_raises_disturbs_nobody(face: Face, caplog: pytest.LogCaptureFixture) -> None:
    """The visitor gets the session and its cookies, and other listeners are told (rule 10)."""
    subscribe(face.manager, Begin, broken)
    told = listen(face.manager)
    browser = face.browser()
    assert names_set(follow(browser, create=True)) == BOTH
    assert [what for what, _ in told] == ["begin"]
    assert browser.open().session.exists
    assert "a listener of Begin" in caplog.text


@case("begin-listener-can-assert", "keep")
def test_a_begin_listener_can_write_to_the_new_session(face: Face) -> None:
    """The session is stored and current when Begin is sent, and what the listener writes is committed (rule 15)."""
    greeting = Key("greeting", str)

    def begun(event: Begin) -> None:
        session = current_session()
        assert session.exists
        assert session.handle == event.session.handle
        session[greeting] = "hello"

    subscribe(face.manager, Begin, begun)
    browser = face.browser()
    follow(browser, create=True)
    assert browser.open().session[greeting] == "hello"


@case("end-listener-throws-on-close", "improve", "the session ends whatever its listeners do")
def test_an_end_listener_that_raises_does_not_keep_the_session(face: Face, caplog: pytest.LogCaptureFixture) -> None:
    """The answer is the handler's, the cookies are expired, the session is gone, and the other listeners are told (rule 10)."""
    subscribe(face.manager, End, broken)
    told = listen(face.manager)
    browser = face.browser()
    follow(browser, create=True)
    old = browser.copy()
    turn = browser.open()
    turn.session.end()
    assert names_set(turn.finish()) == BOTH
    assert [what for what, _ in told] == ["begin", "ended"]
    assert browser.jar == {}
    assert not old.open().session.exists
    assert handles(face) == []
    assert "a listener of End" in caplog.text


@case("end-listener-throws-in-gc", "improve", "the sweep goes on, and the visitor in whose request it runs sees nothing of it")
def test_an_end_listener_that_raises_stops_no_sweep(face: Face, caplog: pytest.LogCaptureFixture) -> None:
    """Both expired sessions are collected, and the unrelated visitor gets a session (rule 10)."""
    face.renew(timeout=5)
    for _ in range(2):
        follow(face.browser(), create=True)
    subscribe(face.manager, End, broken)
    told = listen(face.manager)
    face.clock.advance(100)
    browser = face.browser()
    assert names_set(follow(browser, create=True)) == BOTH
    assert [what for what, _ in told] == ["timeout", "timeout", "begin"]
    assert len(handles(face)) == 1
    assert face.call(face.manager.sweep()) == 0
    assert caplog.text.count("a listener of End") == 2


@case("end-listener-fails", "keep")
@pytest.mark.parametrize("answer", [False, None, "no"])
def test_what_an_end_listener_returns_does_not_matter(face: Face, answer: Any) -> None:
    """A listener is told, not asked."""
    subscribe(face.manager, End, lambda event: answer)
    browser = face.browser()
    follow(browser, create=True)
    with browser.visit() as session:
        session.end()
    assert handles(face) == []


@case("end-listener-order", "improve", "listeners are called in the order in which they were registered")
def test_listeners_are_called_in_the_order_of_registration(face: Face) -> None:
    """The first that was registered is the first that is told; one that was taken back is not."""
    called: list[str] = []
    subscribe(face.manager, End, lambda event: called.append("first"))
    off = subscribe(face.manager, End, lambda event: called.append("taken back"))
    subscribe(face.manager, Event, lambda event: called.append("second"))
    off()
    browser = face.browser()
    follow(browser, create=True)
    called.clear()
    with browser.visit() as session:
        session.end()
    assert called == ["first", "second"]


@case("data-asserted-by-end-listener", "keep")
def test_what_an_end_listener_writes_goes_with_the_session(face: Face) -> None:
    """It may write, and reads what it wrote; nothing of it is stored (rule 8)."""
    note = Key("note", str)
    seen: list[str] = []

    def ended(event: End) -> None:
        current_session()[note] = "bye"
        seen.append(current_session()[note])

    subscribe(face.manager, End, ended)
    browser = face.browser()
    follow(browser, create=True)
    old = browser.copy()
    with browser.visit() as session:
        session.end()
    assert seen == ["bye"]
    assert not old.open().session.exists
    assert handles(face) == []
