"""SWI-Prolog's sessions in a request: opened, renewed and closed, before and after the headers, with creation on and off."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from tests.faces import Face
from tests.seeds.cases import case
from tests.seeds.programs import Answer, ask, cookies_set, follow, handles, listen, names_set, subscribe, visit
from typed_sessions import (
    CommitRefused,
    End,
    HeadersSent,
    Key,
    MemoryStore,
    NoSession,
    Rejected,
    SessionEnded,
    SessionManager,
    current_session,
)
from typed_sessions.filters.wsgi import SessionMiddleware

BOTH = ["SESSION_KEY", "SESSION_ADDR"]


@case("HEAD-and-404-create-sessions", "improve", "a request creates a session when it writes something; an error creates none")
def test_requests_that_write_nothing_leave_nothing_behind(face: Face) -> None:
    """HEAD, a page that does not exist, and the same again: no session is stored and no cookie sent (rule 25, L8)."""
    for path in ("/counter", "/nosuchpage", "/nosuchpage"):
        assert cookies_set(follow(face.browser(), path=path)) == []
    assert handles(face) == []

    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("404 Not Found", [])
        return []

    with SessionManager(create=True) as manager:
        for method in ("HEAD", "GET"):
            assert cookies_set(ask(SessionMiddleware(app, manager), method=method).headers) == []
        assert [*manager.all()] == []


@case("handler-exception-loses-cookie", "improve", "what a failed request made is discarded")
@pytest.mark.parametrize("create", [True, "on_write"])
def test_a_session_of_a_handler_that_fails_is_discarded(create: Any) -> None:
    """Nobody learns the id of a session that was made for a request that failed, so it is not kept (rule 25)."""
    name = Key("name", str)

    def app(environ: Any, start_response: Any) -> list[bytes]:
        current_session()[name] = "ann"
        raise ZeroDivisionError

    with SessionManager(create=create) as manager:
        told = listen(manager)
        assert ask(SessionMiddleware(app, manager)).status == 500
        assert [*manager.all()] == []
        assert [what for what, _ in told] == (["begin", "ended"] if create is True else [])


@case("close-in-header-state", "improve", "expired with Max-Age=0, a right date, and the attributes it was set with")
def test_ending_a_session_expires_its_cookies(face: Face) -> None:
    """In a listener of End the session is current and its data readable; then both are gone, and so are the cookies (rules 13, 15, C10)."""
    name = Key("name", str)
    seen: list[object] = []

    def ended(event: End) -> None:
        seen.extend((event.reason, event.session[name], current_session()[name], event.session.handle == current_session().handle))

    subscribe(face.manager, End, ended)
    browser = face.browser()
    with browser.visit() as session:
        session[name] = "ann"
    turn = browser.open()
    turn.session.end()
    expired = "; Path=/; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT; HttpOnly; SameSite=Lax"
    assert cookies_set(turn.finish()) == [f"SESSION_KEY={expired}", f"SESSION_ADDR={expired}"]
    assert seen == ["ended", "ann", "ann", True]
    assert handles(face) == []


@case("closed-id-presented-again", "keep")
def test_a_closed_id_opens_nothing(face: Face) -> None:
    """Whoever presents the id of an ended session gets a new one (rule 18)."""
    browser = face.browser()
    with browser.visit(create=True) as session:
        first = session.handle
    old = browser.copy()
    with browser.visit() as session:
        session.end()
    with old.visit(create=True) as session:
        assert session.handle != first
    assert old.jar["SESSION_KEY"]


@case("close-after-header-sent", "improve", "after its end the session is over for the rest of the request, too")
def test_a_session_can_be_ended_while_the_body_is_sent() -> None:
    """It is too late for a cookie, but the session ends at the commit, End is sent, and the request has no session any more (rule 26)."""
    name = Key("name", str)
    seen: list[object] = []

    def app(environ: Any, start_response: Callable[..., object]) -> Iterator[bytes]:
        start_response("200 OK", [])
        current_session().setdefault(name, lambda: "ann")
        yield b"body"
        if environ["PATH_INFO"] == "/close":
            session = current_session()
            session.end()
            manager.commit(session)
            seen.append(session.exists)
            with pytest.raises(SessionEnded):
                session[name] = "eve"

    with SessionManager() as manager:
        told = listen(manager)
        guarded = SessionMiddleware(app, manager)
        cookie = _cookie(ask(guarded))
        answer = ask(guarded, "/close", cookie=cookie)
        assert (answer.body, cookies_set(answer.headers)) == (b"body", [])
        assert [what for what, _ in told] == ["begin", "ended"]
        assert seen == [False]
        assert [*manager.all()] == []


@case("assert-after-close-orphans-data", "improve", "what is written to an ended session raises SessionEnded")
def test_an_ended_session_takes_no_data(face: Face) -> None:
    """A write after end() is refused at once, one after an end elsewhere at the commit: nothing is stored for ever (rule 8, R1)."""
    name = Key("name", str)
    browser = face.browser()
    with browser.visit() as session:
        session[name] = "ann"
    turn = browser.open()
    turn.session.end()
    with pytest.raises(SessionEnded, match="name"):
        turn.session[name] = "eve"
    turn.finish()

    refused: list[tuple[str, ...]] = []
    subscribe(face.manager, CommitRefused, lambda event: refused.append(event.names))
    with browser.visit() as session:
        session[name] = "ann"
    turn = browser.open()
    assert face.call(face.manager.end(turn.session.handle))
    turn.session[name] = "eve"
    turn.finish()
    assert refused == [("name",)]
    assert handles(face) == []


@case("close-other-session-expires-own-cookie", "improve", "a request's cookies are expired only when its own session ends")
def test_ending_another_session_leaves_the_own_cookies_alone(face: Face) -> None:
    """Who ends somebody else's session keeps theirs (rule 23)."""
    ann, bob = face.browser(), face.browser()
    follow(ann, create=True)
    follow(bob, create=True)
    (other,) = [handle for handle in handles(face) if handle != ann.open().session.handle]
    told = listen(face.manager)
    turn = ann.open()
    assert face.call(face.manager.end(other))
    assert cookies_set(turn.finish()) == []
    assert told == [("ended", other)]
    assert not bob.open().session.exists
    assert ann.open().session.exists


@case("close-unknown-id", "keep")
@pytest.mark.parametrize("handle", ["nosuch", "00" * 16, ""])
def test_ending_an_unknown_session_does_nothing(face: Face, handle: str) -> None:
    """It says False, and there is no event."""
    told = listen(face.manager)
    assert face.call(face.manager.end(handle)) is False
    assert told == []


@case("close-bad-type", "keep")
@pytest.mark.parametrize("handle", [42, None, b"00" * 16])
def test_ending_what_is_no_handle_is_a_type_error(face: Face, handle: Any) -> None:
    """A handle is text; anything else is a mistake in the program, and raises TypeError."""
    with pytest.raises(TypeError, match="a handle is text"):
        face.call(face.manager.end(handle))


@case("renew", "improve", "the secret changes, the session stays: its data, its handle, no End and no Begin; clear=True drops the data")
def test_renew_changes_the_id_and_keeps_the_data(face: Face) -> None:
    """One new cookie of each name, nothing to listen to, and the old id is unknown (rule 9, ASVS 7.2.4)."""
    visits = Key("visits", int)
    browser = face.browser()
    visit(browser, visits)
    visit(browser, visits)
    old, told = browser.copy(), listen(face.manager)
    turn = browser.open()
    turn.session.renew()
    assert names_set(turn.finish()) == BOTH
    assert browser.jar["SESSION_KEY"] != old.jar["SESSION_KEY"]
    assert visit(browser, visits) == 3
    assert told == []
    assert not old.open().session.exists
    with browser.visit() as session:
        session.renew(clear=True)
    with browser.visit() as session:
        assert visits not in session


@case("open-without-renew-in-session", "keep")
def test_opening_inside_a_session_gives_that_session(face: Face) -> None:
    """A second look at the same request, create=True or not, is the same session, with no cookie and no event."""
    browser = face.browser()
    with browser.visit(create=True) as session:
        handle = session.handle
    told = listen(face.manager)
    turn = browser.open(create=True)
    assert turn.session.handle == handle
    assert cookies_set(turn.finish()) == []
    assert told == []


@case("renew-on-cookieless-request", "improve", "one Set-Cookie per name, and no session begins twice")
def test_renewing_a_session_that_has_just_begun_sends_one_cookie_of_each_name(face: Face) -> None:
    """The cookies of the answer are the renewed ones, and they work (rule 22, C11)."""
    told = listen(face.manager)
    browser = face.browser()
    turn = browser.open(create=True)
    turn.session.renew()
    assert names_set(turn.finish()) == BOTH
    assert [what for what, _ in told] == ["begin"]
    assert browser.open().session.exists
    assert len(handles(face)) == 1


@case("open-twice-renew", "improve", "one Set-Cookie per name, however often the session is renewed")
def test_renewing_twice_sends_one_cookie_of_each_name(face: Face) -> None:
    """Two renews with a commit in between: the last id is sent, and it is the one that works (rule 22, C11)."""
    browser = face.browser()
    follow(browser, create=True)
    told = listen(face.manager)
    turn = browser.open()
    turn.session.renew()
    face.call(face.manager.commit(turn.session))
    turn.session.renew()
    assert names_set(turn.finish()) == BOTH
    assert told == []
    assert browser.open().session.exists


@case("noauto-no-session", "keep")
def test_without_creation_there_is_no_session(face: Face) -> None:
    """With create=False nothing is in the request, in its context or in the store; a stale cookie, though, is expired (§4)."""
    face.renew(create=False)
    browser = face.browser()
    assert face.call(face.manager.get_session(browser.request())) is None
    assert current_session(None) is None
    with pytest.raises(NoSession):
        current_session()
    with pytest.raises(Rejected) as refused:
        browser.open()
    assert (refused.value.status, cookies_set(refused.value.headers)) == (400, [])
    browser.jar = {"SESSION_KEY": "A" * 64, "SESSION_ADDR": "A" * 43}
    with pytest.raises(Rejected) as refused:
        browser.open()
    browser.take(refused.value.headers)
    assert browser.jar == {}
    assert handles(face) == []


@case("noauto-open", "keep")
def test_without_creation_a_request_can_ask_for_a_session(face: Face) -> None:
    """Where it is asked for, the cookies and a Begin are sent; then the session works everywhere."""
    visits = Key("visits", int)
    face.renew(create=False)
    told = listen(face.manager)
    browser = face.browser()
    assert names_set(follow(browser, create=True)) == BOTH
    assert [what for what, _ in told] == ["begin"]
    assert visit(browser, visits) == 1
    assert visit(browser, visits) == 2


@case("open-after-header", "keep")
@pytest.mark.parametrize("create", [True, "on_write"])
def test_no_session_can_be_created_after_the_headers(create: Any) -> None:
    """What would need a cookie raises HeadersSent at the call, and nothing is stored (rule 26)."""
    name = Key("name", str)
    refused: list[bool] = []

    def app(environ: Any, start_response: Callable[..., object]) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b"body"
        with pytest.raises(HeadersSent):
            current_session()[name] = "ann"
        refused.append(True)

    store = MemoryStore()
    with SessionManager(store, create=create) as manager:
        answer = ask(SessionMiddleware(app, manager))
        assert (answer.status, cookies_set(answer.headers), refused) == (200, [], [True])
    assert len(store) == 0


@case("enabled-false-still-honours-cookie", "improve", "disabled is disabled: no session is found, opened or created")
def test_disabled_means_disabled(face: Face) -> None:
    """Not by a valid cookie, not by create=True; the cookies are left alone, and are good again when sessions are enabled again."""
    visits = Key("visits", int)
    browser = face.browser()
    visit(browser, visits)
    face.manager.set_options(enabled=False)
    assert face.call(face.manager.get_session(browser.request())) is None
    for someone in (browser, face.browser()):
        with pytest.raises(Rejected) as refused:
            someone.open(create=True)
        assert cookies_set(refused.value.headers) == []
    face.manager.set_options(enabled=True)
    assert visit(browser, visits) == 2
    assert len(handles(face)) == 1


def _cookie(answer: Answer) -> str:
    """The Cookie header that a browser would send next."""
    pairs: Sequence[str] = [value.partition(";")[0] for value in cookies_set(answer.headers)]
    return "; ".join(pairs)
