"""Several rules within one request: a `commit` or `refresh` in its middle, and what other requests do meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest

from tests.faces import PEER, Browser, Face
from tests.rules.scene import handle_of, is_open
from tests.watched import Watched
from typed_sessions import (
    AddressPolicy,
    CookiePolicy,
    End,
    HeadersSent,
    Key,
    ListKey,
    MemoryStore,
    Request,
    Session,
    SessionManager,
    StoreUnavailable,
    current_session,
)
from typed_sessions.record import Record

Make = Callable[..., Face]


@pytest.fixture
def visits() -> Key[int]:
    return Key("visits", int)


@pytest.fixture
def browser(face: Face, visits: Key[int]) -> Browser:
    browser = face.browser()
    with browser.visit() as session:
        session[visits] = 1
    return browser


def commit(face: Face, session: Session) -> None:
    face.call(face.manager.commit(session))


def test_rule_07_after_a_commit_a_request_sees_one_state(face: Face, browser: Browser, visits: Key[int]) -> None:
    """Of a value that another request has removed meanwhile: whether it is there, and what is done to it, agree."""
    other = Key("other", int)
    turn = browser.open()
    assert turn.session[visits] == 1
    with browser.visit() as session:
        del session[visits]
    turn.session[other] = 2
    commit(face, turn.session)
    assert visits not in turn.session
    assert turn.session[other] == 2
    with pytest.raises(KeyError):
        turn.session.update(visits, lambda n: n + 1)
    turn.finish()


def test_rule_07_a_predicate_that_raises_removes_nothing(face: Face, browser: Browser) -> None:
    """Not even the elements that it had passed before."""
    words = ListKey("words", str)
    with browser.visit() as session:
        for word in "abc":
            session[words].append(word)

    def broken(word: str) -> bool:
        if word == "b":
            raise ValueError(word)
        return True

    with browser.visit() as session:
        with pytest.raises(ValueError, match="b"):
            session[words].remove_where(broken)
        assert list(session[words]) == ["a", "b", "c"]
    with browser.visit() as session:
        assert list(session[words]) == ["a", "b", "c"]


def test_rule_09_refresh_shows_nothing_that_a_renewal_has_cleared(face: Face, browser: Browser) -> None:
    """`renew(clear=True)`, and then `refresh`: the list holds what this request has added, and nothing of the visitor's before."""
    words = ListKey("words", str)
    with browser.visit() as session:
        session[words].append("before")
    turn = browser.open()
    turn.session.renew(clear=True)
    turn.session[words].append("after")
    face.call(face.manager.refresh(turn.session))
    assert list(turn.session[words]) == ["after"]
    turn.finish()
    with browser.visit() as session:
        assert list(session[words]) == ["after"]


def test_rule_09_refresh_gives_no_second_renewal(make_face: Make) -> None:
    """Of two requests that renew, one wins; to have looked at what the other did is no way around that."""
    face = make_face(overlap=60)
    visits = Key("visits", int)
    browser = face.browser()
    with browser.visit() as session:
        session[visits] = 1
    late, first = browser.open(), browser.open()
    late.session.renew()
    first.session.renew()
    first.finish()
    face.call(face.manager.refresh(late.session))
    assert not any(name == "Set-Cookie" for name, _ in late.send())
    with browser.visit() as session:
        assert session[visits] == 1


def test_rule_28_a_sign_out_that_failed_can_be_tried_again(face: Face, browser: Browser) -> None:
    """The store was down for a moment: the second try signs out, by `commit` or by the request's end."""
    store = Watched(face.store)
    face.manager = face.another(store=store)
    for again in (True, False):
        visitor = browser if again else face.browser()
        if not again:
            with visitor.visit() as session:
                session[Key("visits", int)] = 1
        turn, copy = visitor.open(), visitor.copy()
        turn.session.end()
        store.faults["end"] = StoreUnavailable("down for a moment")
        with pytest.raises(StoreUnavailable):
            commit(face, turn.session)
        store.faults.clear()
        if again:
            commit(face, turn.session)
        turn.finish()
        assert not is_open(copy)
        assert visitor.jar == {}


def test_rule_13_what_a_new_session_holds_in_this_process_is_cleaned_up_if_it_ends_at_once() -> None:
    """Another thread ends it between its creation and its values: the clean-up falls to whoever has brought them."""
    cleaned: list[object] = []
    kept = Key("kept", object, resident=True, cleanup_delete=cleaned.append)

    class Ending(Watched):
        def create(self, record: Record, now: float) -> str:
            created: str = self.store.create(record, now)
            assert sessions.end(record.locator.hex())
            return created

    sessions = SessionManager(cast("Any", Ending(MemoryStore())))
    session, finish = sessions.start_check(Request(headers=[], peer=PEER))
    session[kept] = "connection"
    finish()
    assert cleaned == ["connection"]


def test_rule_23_the_same_address_policy_holds_from_outside(make_face: Make) -> None:
    """With `mismatch="report"` a request from elsewhere gets its session, and is told so by `get_session` and `delete_session` too."""
    face = make_face(address_policy=AddressPolicy(mismatch="report"))
    visits = Key("visits", int)
    browser = face.browser()
    with browser.visit() as session:
        session[visits] = 1
    abroad = browser.copy("192.0.2.99")
    with abroad.visit() as session:
        assert session[visits] == 1
    assert face.call(face.manager.check_session_cookie(abroad.request()))
    face.call(face.manager.delete_session(abroad.request()))
    assert not is_open(browser)


def test_rule_12_an_edit_is_no_use(make_face: Make) -> None:
    """Whatever a program does to a session from outside, nobody has come."""
    face = make_face(timeout=600)
    visits = Key("visits", int)
    browser = face.browser()
    with browser.visit() as session:
        session[visits] = 1
    handle = handle_of(browser)
    for _ in range(2):
        face.clock.advance(300)
        face.edit(handle, lambda session: session.update(visits, lambda n: n + 1))
    face.clock.advance(100)
    assert not is_open(browser)


@pytest.mark.parametrize(("each", "lives"), [("refresh", False), ("commit", False), ("write", True)])
def test_rule_12_of_a_request_that_lasts_a_write_is_a_use(make_face: Make, each: str, lives: bool) -> None:
    """To look for what is new is none, nor is a `commit` of nothing: a WebSocket that is served by hand writes to stay."""
    face = make_face(timeout=600)
    seen = Key("seen", float)
    browser = face.browser()
    with browser.visit() as session:
        session[seen] = 0.0
    turn = browser.open()
    for _ in range(2):
        face.clock.advance(250)
        if each == "write":
            turn.session[seen] = face.clock()
        face.call(face.manager.refresh(turn.session) if each == "refresh" else face.manager.commit(turn.session))
    face.clock.advance(250)
    assert is_open(browser) == lives
    turn.discard()


@pytest.mark.parametrize("how", ["renews", "refreshes"])
def test_rule_19_another_requests_choice_of_cookie_is_kept(make_face: Make, how: str) -> None:
    """A request that was open when another chose a cookie without Max-Age ("do not remember me") sends none with it any more."""
    face = make_face(cookie_policy=CookiePolicy(max_age=3600))
    key = Key("key", int)
    browser = face.browser()
    with browser.visit() as session:
        session[key] = 1
    first, second = browser.open(), browser.open()
    assert second.session.persistent
    first.session.persistent = False
    first.finish()
    if how == "refreshes":
        face.call(face.manager.refresh(second.session))
        assert not second.session.persistent
    second.session.renew()
    cookies = [value for name, value in second.finish() if name == "Set-Cookie"]
    assert len(cookies) == 2
    assert not any("Max-Age" in cookie for cookie in cookies)


def test_rule_15_listeners_see_the_choice_of_cookie(make_face: Make) -> None:
    """At the end of a session as before."""
    face = make_face(cookie_policy=CookiePolicy(max_age=3600))
    seen: list[bool] = []

    def hear(event: End) -> None:
        seen.append(current_session().persistent)

    face.manager.on(End, hear)
    for persistent in (True, False):
        browser = face.browser()
        with browser.visit() as session:
            session[Key("key", int)] = 1
            session.persistent = persistent
        with browser.visit() as session:
            session.end()
    assert seen == [True, False]


def test_rule_19_an_edit_sees_the_choice_of_cookie(make_face: Make) -> None:
    """And cannot make it: there is no response that could send the other cookie."""
    face = make_face(cookie_policy=CookiePolicy(max_age=3600))
    browser = face.browser()
    seen: list[bool] = []

    def work(session: Session) -> None:
        seen.append(session.persistent)
        with pytest.raises(HeadersSent):
            session.persistent = True

    for persistent in (True, False):
        with browser.visit() as session:
            session[Key("key", int)] = 1
            session.persistent = persistent
        face.edit(handle_of(browser), work)
    assert seen == [True, False]


def test_what_was_removed_from_a_list_stays_removed_after_a_refresh(face: Face) -> None:
    """`refresh` brings what others have appended, and not what this request has taken out and not committed."""
    facts = ListKey("facts", str)
    browser = face.browser()
    with browser.visit() as session:
        for fact in ("a", "b", "c"):
            session[facts].append(fact)
    turn = browser.open()
    assert turn.session[facts].remove_where(lambda fact: fact == "b") == 1
    with browser.copy().visit() as session:
        session[facts].append("d")
    face.call(face.manager.refresh(turn.session))
    assert list(turn.session[facts]) == ["a", "c", "d"]
    turn.finish()
    with browser.visit() as session:
        assert list(session[facts]) == ["a", "c", "d"]


def test_start_check_nosession_does_not_grow(face: Face) -> None:
    """One exception is raised for every such request: it keeps nothing of the requests before, neither frames nor what is in them."""
    problem = KeyError("sign in first")
    guard = face.manager.filter(create=False, nosession=problem)
    depths: list[int] = []
    for _ in range(4):
        with pytest.raises(KeyError):
            face.call(guard(face.browser().request()))
        trace, depth = problem.__traceback__, 0
        while trace is not None:
            trace, depth = trace.tb_next, depth + 1
        depths.append(depth)
    assert len(set(depths)) == 1


def test_rule_07_a_timeout_that_was_committed_is_not_set_again(face: Face) -> None:
    """It is the session's then: the request sees the one that another request chooses after it, and does not put its own over that."""
    visits = Key("visits", int)
    browser = face.browser()
    with browser.visit() as session:
        session[visits] = 1
    turn = browser.open()
    turn.session.timeout = 600
    face.call(face.manager.commit(turn.session))
    with browser.visit() as session:
        assert session.timeout == 600
        session.timeout = 1200
    face.call(face.manager.refresh(turn.session))
    assert turn.session.timeout == 1200
    turn.session.renew()
    turn.session[visits] = 2
    turn.finish()
    with browser.visit() as session:
        assert (session.timeout, session[visits]) == (1200, 2)
