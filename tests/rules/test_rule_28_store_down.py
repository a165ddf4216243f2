"""Rule 28: a store that is down is answered at once and honestly. What each filter makes of it is in tests/filters."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tests.faces import Browser, Face, Turn
from tests.watched import Watched
from typed_sessions import (
    COMMIT_FAILURES,
    CommitRefused,
    Conflict,
    Key,
    ListKey,
    NoSession,
    SessionClosed,
    SessionError,
    StoreFull,
    StoreUnavailable,
    TooLarge,
)

DOWN = StoreUnavailable("the store is down")


@pytest.fixture
def watched(face: Face) -> Watched:
    """The store behind the face's manager, which can be made to fail."""
    store = Watched(face.store)
    face.manager = face.another(store=store)
    return store


@pytest.fixture
def browser(face: Face, watched: Watched, name: Key[str]) -> Browser:
    """A browser with a session in which the name is ann."""
    browser = face.browser()
    with browser.visit() as session:
        session[name] = "ann"
    watched.calls.clear()
    return browser


@pytest.mark.parametrize("create", ["on_write", True, False])
def test_rule_28_no_session_is_not_the_same_as_no_answer(face: Face, watched: Watched, browser: Browser, create: Any) -> None:
    """Whoever brings a cookie gets StoreUnavailable with status and headers: never a fresh session, never an anonymous request."""
    watched.faults["open"] = DOWN
    with pytest.raises(StoreUnavailable) as caught:
        browser.open(create=create)
    assert (caught.value.status, caught.value.headers) == (503, (("Cache-Control", "no-store"), ("Retry-After", "1")))
    assert watched.calls == {"open": 1}
    del watched.faults["open"]
    with browser.visit() as session:
        assert session.exists


def test_rule_28_every_call_that_needs_the_store_says_so(face: Face, watched: Watched, browser: Browser, name: Key[str]) -> None:
    """None of them turns a fault into "there is none"."""
    turn = browser.open()
    handle = turn.session.handle
    for verb in ("open", "end", "sweep", "scan", "commit"):
        watched.faults[verb] = DOWN
    calls: list[Callable[[], Any]] = [
        lambda: face.manager.get_session(browser.request()),
        lambda: face.manager.check_session_cookie(browser.request()),
        lambda: face.manager.delete_session(browser.request()),
        lambda: face.manager.refresh(turn.session),
        lambda: face.manager.end(handle),
        lambda: face.manager.end_all(),
        lambda: face.manager.all(),
        lambda: face.manager.sweep(),
    ]
    for call in calls:
        with pytest.raises(StoreUnavailable):
            face.call(call())
    with pytest.raises(StoreUnavailable):
        face.edit(handle, lambda session: session.end())
    turn.session[name] = "bob"
    with pytest.raises(StoreUnavailable):
        face.call(face.manager.commit(turn.session))
    watched.faults.clear()
    assert turn.finish() == [("Vary", "Cookie")]
    with browser.visit() as session:
        assert session[name] == "bob"  # what had not been committed was still there to be


@pytest.mark.parametrize("failure", [DOWN, Conflict("others were faster"), TooLarge("too large"), StoreFull("full")])
def test_rule_28_finish_raises_what_the_commit_raised(
    face: Face, watched: Watched, browser: Browser, name: Key[str], failure: SessionError
) -> None:
    """With status and headers to answer with; nothing was committed, the session is closed, and finishing again changes nothing."""
    turn = browser.open()
    turn.session[name] = "bob"
    watched.faults["commit"] = failure
    with pytest.raises(type(failure)) as caught:
        turn.finish()
    assert isinstance(caught.value, COMMIT_FAILURES)
    assert (caught.value.status, dict(caught.value.headers)["Cache-Control"]) == (500 if isinstance(failure, TooLarge) else 503, "no-store")
    with pytest.raises(SessionClosed):
        turn.session[name]
    del watched.faults["commit"]
    assert turn.discard() == [("Vary", "Cookie")]
    assert turn.finish() == [("Vary", "Cookie")]
    with browser.visit() as session:
        assert session[name] == "ann"


@pytest.mark.parametrize("verb", ["create", "commit", "end"])
def test_rule_28_an_answer_that_was_lost_is_asked_for_by_nobody(
    face: Face, watched: Watched, browser: Browser, name: Key[str], verb: str
) -> None:
    """The store may have done it: the caller is told, and the verb is called once. An update is never applied twice by us."""
    watched.lost[verb] = StoreUnavailable("the answer to the commit was lost: it may have been applied")
    turn = (face.browser() if verb == "create" else browser).open()
    if verb == "end":
        turn.session.end()
    else:
        turn.session.update(name, lambda text: text + "!", default="new")
    with pytest.raises(StoreUnavailable, match="it may have been applied"):
        turn.finish()
    assert watched.calls[verb] == 1
    watched.lost.clear()
    if verb == "commit":
        with browser.visit() as session:
            assert session[name] == "ann!"
    elif verb == "end":
        with browser.visit() as session:
            assert not session.exists


def by_manager(face: Face, turn: Turn) -> None:
    face.call(face.manager.commit(turn.session))


def by_start(face: Face, turn: Turn) -> None:
    face.call(turn.finisher.start())


commits = pytest.mark.parametrize("commit", [by_manager, by_start])


@commits
def test_rule_28_what_may_have_been_applied_is_not_committed_again_by_finish(
    face: Face, watched: Watched, browser: Browser, name: Key[str], commit: Callable[[Face, Turn], None]
) -> None:
    """The manager's `commit`, or the one with the headers, lost its answer, and the handler went on: what it had done is there once, and so
    is what it does then.
    """
    words, visits = ListKey("words", str), Key("visits", int)
    watched.lost["commit"] = StoreUnavailable("the answer was lost: it may have been applied", unknown=True)
    turn = browser.open()
    turn.session.update(name, lambda text: text + "!")
    turn.session[words].append("one")
    with pytest.raises(StoreUnavailable):
        commit(face, turn)
    watched.lost.clear()
    turn.session[visits] = 1
    turn.finish()
    with browser.visit() as session:
        assert (session[name], list(session[words]), session[visits]) == ("ann!", ["one"], 1)


@pytest.mark.parametrize(
    ("failure", "times"),
    [
        (StoreUnavailable("it may have been applied", unknown=True), 1),
        (ConnectionError("of the store's driver"), 1),
        (StoreUnavailable("nothing was done"), 2),
    ],
    ids=["unknown", "an error of the driver", "nothing was done"],
)
@commits
def test_rule_28_what_a_store_raises_says_whether_it_is_asked_again(
    face: Face,
    watched: Watched,
    browser: Browser,
    name: Key[str],
    failure: Exception,
    times: int,
    commit: Callable[[Face, Turn], None],
) -> None:
    """Only what says that nothing was done is done again. The error of a driver says nothing, and arrives as it is."""
    watched.lost["commit"] = failure
    turn = browser.open()
    turn.session.update(name, lambda text: text + "!")
    with pytest.raises(type(failure), match=str(failure)):
        commit(face, turn)
    watched.lost.clear()
    turn.finish()
    with browser.visit() as session:
        assert session[name] == "ann" + times * "!"


@pytest.mark.parametrize("stopped", [asyncio.CancelledError(), TimeoutError("the job's time is over")], ids=["cancelled", "by a signal"])
@commits
def test_rule_28_a_commit_that_was_given_up_is_not_repeated_by_finish(
    face: Face, watched: Watched, browser: Browser, name: Key[str], stopped: BaseException, commit: Callable[[Face, Turn], None]
) -> None:
    """`asyncio.timeout` around the manager's `commit`, or a time limit by signal, and the handler goes on: it may be stored."""
    words, visits = ListKey("words", str), Key("visits", int)
    for verb in ("commit", "create"):
        watched.lost[verb] = stopped
        visitor = browser if verb == "commit" else face.browser()
        turn = visitor.open()
        turn.session.update(name, lambda text: text + "!", default="new")
        turn.session[words].append("one")
        with pytest.raises(type(stopped)):
            commit(face, turn)
        watched.lost.clear()
        turn.session[visits] = 1
        turn.finish()
        with visitor.visit() as session:
            applied = verb == "commit"  # of the session that was made, nobody has the cookies
            assert session.get(name) == ("ann!" if applied else None)
            assert (len(session[words]), session[visits]) == (int(applied), 1)


def test_rule_28_a_commit_that_failed_sets_no_cookie(face: Face, watched: Watched, browser: Browser, name: Key[str]) -> None:
    """Neither of a session that was not made, nor of a renew that did not happen, nor the expiry of one that has not ended."""
    for verb in ("create", "commit", "end"):
        watched.faults[verb] = DOWN
    new = face.browser().open()
    new.session[name] = "bob"
    renewed, ended = browser.open(), browser.open()
    renewed.session.renew()
    ended.session.end()
    for turn in (new, renewed, ended):
        with pytest.raises(StoreUnavailable):
            turn.finish()
        assert [header for header in turn.discard() if header[0] == "Set-Cookie"] == []
    watched.faults.clear()
    with browser.visit() as session:
        assert session[name] == "ann"


def test_rule_28_clearing_up_in_passing_is_not_the_requests_trouble(
    face: Face, watched: Watched, browser: Browser, name: Key[str], caplog: pytest.LogCaptureFixture
) -> None:
    """A sweep that fails is logged, and tried again later; the request is served."""
    watched.faults["sweep"] = DOWN
    face.clock.advance(61)
    with browser.visit() as session:
        assert session[name] == "ann"
    assert "clearing up expired sessions failed" in caplog.text
    del watched.faults["sweep"]
    face.clock.advance(61)
    with browser.visit() as session:
        assert session[name] == "ann"
    assert watched.calls["sweep"] == 2


def test_rule_28_a_connection_that_ends_has_nobody_to_tell(
    face: Face, watched: Watched, browser: Browser, caplog: pytest.LogCaptureFixture
) -> None:
    """The clean-up that could not be done is logged, and the server's thread goes on; so does closing the manager."""
    door = Key("door", object, resident=True, cleanup_no_client=lambda _: True)
    with browser.visit() as session:
        session[door] = object()
    watched.faults["open"] = DOWN
    face.call(face.manager.close() if face.kind == "sync" else face.manager.aclose())
    assert "cleaning up after the last client" in caplog.text


def test_rule_28_it_recovers_by_itself(face: Face, watched: Watched, browser: Browser, name: Key[str]) -> None:
    """S13: nothing of the fault is remembered, in the manager or in the browser."""

    def visit(browser: Browser, text: str) -> None:
        with browser.visit() as session:
            session[name] = text

    stranger = face.browser()
    for verb in ("open", "commit", "create"):
        watched.faults[verb] = DOWN
        with pytest.raises(StoreUnavailable):
            visit(stranger if verb == "create" else browser, "lost")
        watched.faults.clear()
    for someone, text in ((browser, "bob"), (stranger, "cid")):
        visit(someone, text)
        with someone.visit() as session:
            assert session[name] == text


def test_rule_28_all_or_nothing(make_face: Callable[..., Face]) -> None:
    """A commit that is too large in one value changes none; the session and its other values stay usable."""
    face = make_face(store_options={"max_bytes": 2_000})
    name, facts = Key("name", str), ListKey("facts", str)
    browser = face.browser()
    with browser.visit() as session:
        session[name] = "ann"
    turn = browser.open()
    turn.session[name] = "bob"
    turn.session[facts].append("x" * 3_000)
    with pytest.raises(TooLarge, match="2000"):
        turn.finish()
    with browser.visit() as session:
        assert (session[name], list(session[facts])) == ("ann", [])
        session[name] = "cid"
    with browser.visit() as session:
        assert session[name] == "cid"


def test_rule_28_what_the_end_of_a_session_refused_is_no_failure(face: Face, name: Key[str]) -> None:
    """Not a fault: another request has ended the session. The response goes out, and listeners hear of it (rule 8)."""
    heard: list[CommitRefused] = []
    face.manager.on(CommitRefused, heard.append)
    browser = face.browser()
    with browser.visit() as session:
        session[name] = "ann"
    turn = browser.open()
    turn.session[name] = "bob"
    assert face.call(face.manager.end(turn.session.handle))
    assert turn.finish() == [("Vary", "Cookie")]
    assert [(event.reason, event.names) for event in heard] == [("ended", ("name",))]
    with pytest.raises(NoSession):
        face.edit(heard[0].session.handle, lambda session: session.end())


def test_rule_28_changes_in_place_are_named_when_they_are_refused(face: Face) -> None:
    """`CommitRefused.names` has every key whose change was dropped."""
    tags: Key[list[str]] = Key("tags", list[str])
    heard: list[CommitRefused] = []
    face.manager.on(CommitRefused, heard.append)
    browser = face.browser()
    with browser.visit() as session:
        session[tags] = ["a"]
    turn = browser.open()
    turn.session[tags].append("b")
    face.call(face.manager.end_all())
    turn.finish()
    assert [event.names for event in heard] == [("tags",)]
