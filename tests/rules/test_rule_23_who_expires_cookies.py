"""Rule 23: cookies are expired or replaced only by a request that itself ended the session, or whose cookie was dead when it was opened."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.faces import Browser, Face, Turn
from tests.rules.scene import BOTH, always, cookies_set, expired, handle_of, is_open, never, values
from typed_sessions import AddressPolicy, CommitRefused, CookiePolicy, Key, Rejected, SetCookie

Make = Callable[..., Face]

LASTING = CookiePolicy(max_age=86_400)


def begun(face: Face) -> Browser:
    browser = face.browser()
    with browser.visit() as session:
        session[Key("user", str)] = "ann"
    return browser


# ------------------------------------------------------------------ who does


def test_rule_23_the_request_that_ended_it(face: Face) -> None:
    """`session.end()`, `delete_session`, and a check that fails: these know that nothing newer is under that name."""
    browser = begun(face)
    turn = browser.open()
    turn.session.end()
    assert expired(turn.finish()) == BOTH
    browser = begun(face)
    assert expired(face.call(face.manager.delete_session(browser.request()))) == BOTH
    browser = begun(face)
    with pytest.raises(Rejected) as refused:
        browser.open(check=never)
    assert expired(refused.value.headers) == BOTH


@pytest.mark.parametrize("renewed", [False, True])
@pytest.mark.parametrize("how", ["end", "end_all"])
def test_rule_23_the_request_that_ended_its_own_by_the_handle(face: Face, how: str, renewed: bool) -> None:
    """As "sign out everywhere" does, with no session to keep; not the request that ends another one's."""
    other, browser = begun(face), begun(face)
    turn = browser.open()
    if renewed:
        turn.session.renew()
        face.call(face.manager.commit(turn.session))
    with turn.finisher.current():
        assert face.call(face.manager.end(handle_of(other)))
        assert not face.call(face.manager.end(handle_of(other)))
        if how == "end":
            assert face.call(face.manager.end(turn.session.handle))
        else:
            assert face.call(face.manager.end_all()) == 1
    assert expired(turn.finish()) == BOTH
    assert browser.jar == {}


def test_rule_23_not_the_request_that_ends_another_by_its_handle(face: Face) -> None:
    """Nor one whose own session had ended already when it tried: the browser may have signed in again meanwhile."""
    other, browser = begun(face), begun(face)
    turn = browser.open()
    with turn.finisher.current():
        assert face.call(face.manager.end(handle_of(other)))
    assert cookies_set(turn.finish()) == {}
    turn = browser.open()
    assert face.call(face.manager.end(handle_of(browser)))
    with turn.finisher.current():
        assert not face.call(face.manager.end(handle_of(browser)))
    assert cookies_set(turn.finish()) == {}


@pytest.mark.parametrize("how", ["malformed", "unknown", "over", "ended before"])
def test_rule_23_the_request_whose_cookie_was_dead_when_it_came(face: Face, how: str) -> None:
    """It brought a cookie that opens nothing, and nothing else of that name was there when it was opened."""
    browser = begun(face)
    if how == "malformed":
        browser.jar["SESSION_KEY"] = "x"
    elif how == "unknown":
        browser.jar["SESSION_KEY"] = "A" * 64
    elif how == "over":
        face.clock.advance(660)
    else:
        face.call(face.manager.end(handle_of(browser)))
    assert expired(browser.open().finish()) == BOTH
    assert browser.jar == {}


@pytest.mark.parametrize("how", ["unknown", "over", "ended before"])
def test_rule_23_or_it_replaces_the_dead_one(face: Face, how: str) -> None:
    """If the request begins a session, its cookies take the place of the dead ones: one `Set-Cookie` each."""
    browser = begun(face)
    if how == "unknown":
        browser.jar["SESSION_KEY"] = "A" * 64
    elif how == "over":
        face.clock.advance(660)
    else:
        face.call(face.manager.end(handle_of(browser)))
    turn = browser.open()
    turn.session[Key("user", str)] = "eve"
    assert cookies_set(turn.finish()).keys() == BOTH
    assert expired(turn.headers) == set()
    assert is_open(browser)


# ------------------------------------------------------------------ who does not


def write(turn: Turn) -> None:
    turn.session[Key("user", str)] = "eve"


def renew(turn: Turn) -> None:
    turn.session.renew()


def end(turn: Turn) -> None:
    turn.session.end()


def stay(turn: Turn) -> None:
    turn.session.persistent = True


@pytest.mark.parametrize("what", [write, renew, end, stay])
@pytest.mark.parametrize("use_was_due", [False, True])
def test_rule_23_a_request_that_learns_of_the_end_at_its_commit_sends_none(
    make_face: Make, what: Callable[[Turn], None], use_was_due: bool
) -> None:
    """The browser may by then hold a newer cookie of that name: here it has signed out and in again meanwhile."""
    face = make_face(cookie_policy=LASTING)
    browser = begun(face)
    face.clock.advance(61 if use_was_due else 1)
    late = browser.copy().open()
    with browser.visit() as session:
        session.end()
    with browser.visit() as session:
        session[Key("user", str)] = "signed in again"
    what(late)
    assert cookies_set(late.send()) == {}
    browser.take(late.headers)
    with browser.visit() as session:
        assert session[Key("user", str)] == "signed in again"


@pytest.mark.parametrize("what", [write, renew, stay])
@pytest.mark.parametrize("overlap", [0, 60])
@pytest.mark.parametrize("use_was_due", [False, True])
def test_rule_23_a_request_that_learns_of_a_renew_sends_none(
    make_face: Make, what: Callable[[Turn], None], overlap: float, use_was_due: bool
) -> None:
    """Whether its commit is refused or not: the old cookies must not come over the new ones, which may have arrived already."""
    face = make_face(cookie_policy=LASTING)
    browser = begun(face)
    face.clock.advance(61 if use_was_due else 1)
    late = browser.copy().open()
    with browser.visit() as session:
        session.renew(overlap=overlap)
    what(late)
    assert cookies_set(late.send()) == {}
    browser.take(late.headers)
    with browser.visit() as session:
        assert session.exists


def test_rule_23_nor_does_one_that_wrote_and_then_lost_a_renew(make_face: Make) -> None:
    """Also when it committed in the middle, and another renewed after that."""
    face = make_face(cookie_policy=LASTING)
    refused: list[CommitRefused] = []
    face.manager.on(CommitRefused, refused.append)
    browser = begun(face)
    face.clock.advance(61)
    late = browser.copy().open()
    write(late)
    face.call(face.manager.commit(late.session))
    with browser.visit() as session:
        session.renew()
    renew(late)
    assert cookies_set(late.send()) == {}
    assert [event.reason for event in refused] == ["renewed"]
    assert is_open(browser)


@pytest.mark.parametrize("why", ["no address cookie", "another address", "the secret before a renew"])
def test_rule_23_what_is_refused_is_left_alone(face: Face, why: str) -> None:
    """The session lives; these cookies may be its owner's, or in a jar that has better ones by now."""
    browser = begun(face)
    refused = browser.copy(address="192.0.2.1" if why == "another address" else None)
    if why == "no address cookie":
        del refused.jar["SESSION_ADDR"]
    if why == "the secret before a renew":
        with browser.visit() as session:
            session.renew()
    assert cookies_set(refused.open().finish()) == {}
    with pytest.raises(Rejected) as rejected:
        refused.open(create=False)
    assert cookies_set(rejected.value.headers) == {}
    assert expired(face.call(face.manager.delete_session(refused.request()))) == set()
    assert is_open(browser)


def test_rule_23_a_request_without_cookies_gets_no_deletion(face: Face) -> None:
    """There is nothing to expire: not at a sign-out of nobody, not at a refusal."""
    for headers in (
        face.browser().open().finish(),
        face.call(face.manager.delete_session(face.browser().request())),
    ):
        assert cookies_set(headers) == {}
    turn = face.browser().open()
    turn.session.end()
    assert cookies_set(turn.finish()) == {}
    refusals: list[dict[str, Any]] = [{"create": False}, {"check": never}, {"check": never, "create": True}]
    for settings in refusals:
        with pytest.raises(Rejected) as refused:
            face.browser().open(**settings)
        assert cookies_set(refused.value.headers) == {}


# ------------------------------------------------------------------ other cookies


def ask(asked: list[str]) -> Callable[[SetCookie], SetCookie | None]:
    """A policy's filter: `drop` is expired, `change` is set to something else, all others stay."""

    def cookie_filter(cookie: SetCookie) -> SetCookie | None:
        asked.append(cookie.name)
        if cookie.name == "drop":
            return None
        return replace(cookie, value="changed", max_age=60) if cookie.name == "change" else cookie

    return cookie_filter


OTHERS = {"drop": "1", "change": "2", "keep": "3", "__Host-SESSION_KEY": "4", "__Host-SESSION_ADDR": "5"}


@pytest.mark.parametrize("why", ["the check", "no session", "a dead session", "another address"])
def test_rule_23_when_a_check_fails_other_cookies_go_through_the_filter(make_face: Make, why: str) -> None:
    """None expires it, a changed cookie is set, the same is left alone. The session's own are never asked about."""
    asked: list[str] = []
    face = make_face(cookie_policy=CookiePolicy(filter=ask(asked)), address_policy=AddressPolicy())
    browser = begun(face) if why != "no session" else face.browser()
    browser.jar = {**OTHERS, **browser.jar}
    if why == "a dead session":
        face.clock.advance(660)
    if why == "another address":
        browser.address = "192.0.2.1"
    settings: dict[str, Any] = {"check": never} if why == "the check" else {"create": False}
    with pytest.raises(Rejected) as refused:
        browser.open(**settings)
    headers = refused.value.headers
    assert asked == ["drop", "change", "keep"]
    own = BOTH if why in ("the check", "a dead session") else set[str]()
    assert cookies_set(headers).keys() == {"drop", "change", *own}
    assert expired(headers) == {"drop", *own}
    assert cookies_set(headers)["change"].startswith("change=changed;")
    assert values(headers, "Cache-Control") == ["no-store"]


def test_rule_23_without_a_failed_check_nobody_is_asked(make_face: Make) -> None:
    """Not at a use, not at a sign-out, and not where `require` refuses a request, which keeps the session."""
    asked: list[str] = []
    face = make_face(cookie_policy=CookiePolicy(filter=ask(asked)))
    browser = begun(face)
    browser.jar |= OTHERS
    assert cookies_set(browser.open(check=always).finish()) == {}
    turn = browser.open()
    with pytest.raises(Rejected) as refused:
        turn.session.require(never)
    assert cookies_set([*refused.value.headers, *turn.finish()]) == {}
    turn = browser.open()
    turn.session.end()
    assert cookies_set(turn.finish()).keys() == BOTH
    assert asked == []


def test_rule_23_by_default_they_are_left_alone(face: Face) -> None:
    """A failed check is no reason to touch cookies of which this package knows nothing."""
    browser = begun(face)
    browser.jar |= OTHERS
    with pytest.raises(Rejected) as refused:
        browser.open(check=never)
    assert cookies_set(refused.value.headers).keys() == BOTH


def test_rule_23_the_cookies_of_a_renewal_do_not_go_out_when_another_request_was_first_to_end_it(face: Face) -> None:
    """They open nothing; and those that the browser has by now are that other request's business."""
    browser = face.browser()
    with browser.visit() as session:
        session[Key("name", str)] = "ann"
    handle = handle_of(browser)
    turn = browser.open()
    turn.session.renew()
    face.call(face.manager.commit(turn.session))
    assert face.call(face.manager.end(handle))
    turn.session.end()
    assert cookies_set(turn.finish()) == {}
