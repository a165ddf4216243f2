"""OCaml's `start_check`: what a request gets by its cookies and by its connection, and what its other cookies are to that."""

from __future__ import annotations

from typing import Any

import pytest

from tests.faces import Face
from tests.seeds.cases import case
from tests.seeds.programs import ELSEWHERE, connected, cookies_set, follow, handles, listen, names_set, unsound, visit
from typed_sessions import AddressPolicy, CookiePolicy, Key, Rejected, SetCookie, redirect

UNKNOWN = {"SESSION_KEY": "A" * 64, "SESSION_ADDR": "A" * 43}
OTHER = [("Cookie", "foo=bar")]


def drop(cookie: SetCookie) -> None:
    """A filter that expires every other cookie."""


def keep(cookie: SetCookie) -> SetCookie:
    return cookie


@case("oc-first-visit", "keep")
def test_a_first_visit_over_https_sets_host_cookies(face: Face) -> None:
    """With a life of an hour and strict, the cookies are __Host-, for an hour, Secure, HttpOnly and strict (rule 19)."""
    face.renew(cookie_policy=CookiePolicy(name="Session", max_age=3600, same_site="strict"))
    headers = follow(face.browser(https=True), create=True)
    assert names_set(headers) == ["__Host-Session_KEY", "__Host-Session_ADDR"]
    assert all(value.endswith("; Path=/; Max-Age=3600; Secure; HttpOnly; SameSite=Strict") for value in cookies_set(headers))


@case("oc-path-policy", "keep")
def test_the_prefix_follows_the_path(face: Face) -> None:
    """With another path than / the prefix is __Secure- (RFC 6265bis 4.1.3, C2)."""
    face.renew(cookie_policy=CookiePolicy(path="/app", name="X", max_age=61, same_site="strict"))
    headers = follow(face.browser(https=True), path="/app", create=True)
    assert names_set(headers) == ["__Secure-X_KEY", "__Secure-X_ADDR"]
    assert all(value.endswith("; Path=/app; Max-Age=61; Secure; HttpOnly; SameSite=Strict") for value in cookies_set(headers))


@case("oc-valid-cookie-new-conn", "improve", "any visit counts as use; the cookie is sent again only when that is written")
def test_a_cookie_on_a_new_connection_is_a_use(face: Face) -> None:
    """Within the granularity nothing is sent; after it the use is written and the cookie's life begins again (rule 12)."""
    face.renew(cookie_policy=CookiePolicy(max_age=3600))
    browser = face.browser()
    with connected(face) as connection:
        follow(browser, client=connection.client, create=True)
    with connected(face) as connection:
        assert cookies_set(follow(browser, client=connection.client, create=False)) == []
    face.clock.advance(61)
    with connected(face) as connection:
        turn = browser.open(client=connection.client, create=False)
        assert turn.session.idle == 0
        assert all("; Max-Age=3600; " in value for value in cookies_set(turn.finish()))
        assert names_set(turn.headers) == ["SESSION_KEY", "SESSION_ADDR"]


@case("oc-valid-cookie-other-ip", "improve", "refused by default; accepted with AddressPolicy(match='off')")
def test_a_cookie_from_another_address_is_a_matter_of_policy(face: Face) -> None:
    """The address binds a session unless the policy says that it does not (rule 21)."""
    browser = face.browser()
    follow(browser, create=True)
    elsewhere = browser.copy(ELSEWHERE)
    with pytest.raises(Rejected):
        elsewhere.open(create=False)
    face.renew(address_policy=AddressPolicy(match="off"))
    assert elsewhere.open(create=False).session.exists


@case("oc-unknown-key-create", "keep")
def test_an_unknown_key_gets_a_new_one(face: Face) -> None:
    """With create=True the id is drawn, never taken from the request (rule 18)."""
    browser = face.browser()
    browser.jar = dict(UNKNOWN)
    assert names_set(follow(browser, create=True)) == ["SESSION_KEY", "SESSION_ADDR"]
    assert browser.jar["SESSION_KEY"] != UNKNOWN["SESSION_KEY"]
    assert browser.open().session.exists


@case("oc-unknown-key-nocreate", "improve", "a dead cookie is expired")
def test_an_unknown_key_is_refused_and_expired(face: Face) -> None:
    """With create=False it is answered with 400, and the browser forgets the cookies (§4, rule 23)."""
    browser = face.browser()
    browser.jar = dict(UNKNOWN)
    with pytest.raises(Rejected) as refused:
        browser.open(create=False)
    browser.take(refused.value.headers)
    assert (refused.value.status, refused.value.reason, browser.jar) == (400, "no_session", {})


@case("oc-nocookie-nocreate", "keep")
def test_without_a_cookie_the_error_is_the_one_that_was_asked_for(face: Face) -> None:
    """400 by default, a redirect with `error`, and the caller's own exception with `nosession` (§4)."""
    browser = face.browser()
    with pytest.raises(Rejected) as refused:
        browser.open(create=False)
    assert (refused.value.status, cookies_set(refused.value.headers)) == (400, [])
    with pytest.raises(Rejected) as refused:
        browser.open(create=False, error=redirect("/login"))
    assert refused.value.status == 303
    assert ("Location", "/login") in refused.value.headers
    with pytest.raises(ZeroDivisionError):
        browser.open(create=False, nosession=ZeroDivisionError())


@case("oc-sticky-connection", "improve", "who somebody is comes from the cookies of each request, never from the connection")
@pytest.mark.parametrize("jar", [{}, {"foo": "bar"}, UNKNOWN])
def test_a_connection_is_nobody(face: Face, jar: dict[str, str]) -> None:
    """On the connection of a session, a request without its cookies gets another session, or none."""
    owner, next_one = face.browser(), face.browser()
    next_one.jar = dict(jar)
    with connected(face) as connection:
        first = owner.open(client=connection.client, create=True)
        first.finish()
        assert not next_one.open(client=connection.client).session.exists
        turn = next_one.open(client=connection.client, create=True)
        assert turn.session.handle not in ("", first.session.handle)
        turn.finish()
        assert next_one.jar["SESSION_KEY"] != owner.jar["SESSION_KEY"]


@case("oc-sticky-connection-nocreate", "keep")
@pytest.mark.parametrize("jar", [{}, UNKNOWN])
def test_on_the_connection_of_a_session_others_are_refused(face: Face, jar: dict[str, str]) -> None:
    """With create=False the answer is 400; the session and the connection stay."""
    owner, next_one = face.browser(), face.browser()
    next_one.jar = dict(jar)
    with connected(face) as connection:
        follow(owner, client=connection.client, create=True)
        with pytest.raises(Rejected) as refused:
            next_one.open(client=connection.client, create=False)
        assert refused.value.status == 400
        assert owner.open(client=connection.client).session.exists
        assert (connection.closed, connection.client.closing) == (0, False)


@case("oc-two-policies-one-connection", "improve", "two policies on one connection are two sessions")
def test_two_policies_on_one_connection_are_two_sessions(face: Face) -> None:
    """Each has an id of its own, and both are in one browser at once."""
    browser = face.browser()
    policies = CookiePolicy(name="A"), CookiePolicy(name="B")
    found: set[str] = set()
    with connected(face) as connection:
        for policy in policies:
            with browser.visit(client=connection.client, cookie_policy=policy, create=True) as session:
                found.add(session.handle)
        assert len(found) == 2
        assert browser.jar["A_KEY"] != browser.jar["B_KEY"]
        again = {browser.open(client=connection.client, cookie_policy=policy).session.handle for policy in policies}
        assert again == found


@case("oc-filter-success", "improve", "other cookies are asked about only when a check fails, and never sent back as they were")
@pytest.mark.parametrize("policy_filter", [drop, keep])
def test_other_cookies_are_left_alone_when_all_is_well(face: Face, policy_filter: Any) -> None:
    """Whatever the filter would say, a request that is let in gets nothing of its other cookies (rule 23)."""
    policy = CookiePolicy(filter=policy_filter)
    browser = face.browser()
    follow(browser, create=True, cookie_policy=policy)
    turn = browser.open(headers=OTHER, cookie_policy=policy)
    assert turn.session.exists
    assert cookies_set(turn.finish()) == []


@case("oc-filter-existing-via-start_session", "improve", "a cookie that the filter keeps is kept")
def test_a_wrong_key_costs_no_other_cookie_that_is_kept(face: Face) -> None:
    """On the connection of a session, a wrong key and a cookie that the filter keeps: a new session, and that cookie is left alone."""
    owner, next_one = face.browser(), face.browser()
    next_one.jar = dict(UNKNOWN)
    with connected(face) as connection:
        follow(owner, client=connection.client, create=True)
        turn = next_one.open(client=connection.client, headers=OTHER, cookie_policy=CookiePolicy(filter=keep), create=True)
        assert names_set(turn.finish()) == ["SESSION_KEY", "SESSION_ADDR"]
        assert "Max-Age" not in str(turn.headers)


@case("oc-check-false", "improve", "as there, but the filter expires by None, and the connection closes after the answer")
def test_a_failed_check_ends_the_session(face: Face) -> None:
    """400, the cookies expired, the hooks run, the session gone; then the connection that carried it closes (rules 13, 14, 23)."""
    called: list[str] = []

    def no_client(value: str) -> bool:
        called.append(f"keep {value}?")
        return True

    name = Key("name", str, cleanup_no_client=no_client, cleanup_delete=called.append)
    browser = face.browser()
    old = browser.copy()
    with connected(face) as connection:
        with browser.visit(client=connection.client) as session:
            session[name] = "ann"
        old.jar = dict(browser.jar)
        policy = CookiePolicy(filter=drop)
        with pytest.raises(Rejected) as refused:
            browser.open(client=connection.client, headers=OTHER, check=unsound, cookie_policy=policy, create=False)
        assert (refused.value.status, refused.value.reason) == (400, "check")
        assert names_set(refused.value.headers) == ["SESSION_KEY", "SESSION_ADDR", "foo"]
        assert all("; Max-Age=0; " in value for value in cookies_set(refused.value.headers))
        assert ("Connection", "close") in refused.value.headers
        assert called == ["keep ann?", "ann"]
        assert (connection.closed, connection.client.closing) == (0, True)
    assert not old.open().session.exists


@case("oc-check-false-first-visit", "keep")
@pytest.mark.parametrize("create", [True, "on_write"])
def test_a_failed_check_of_a_new_session_creates_nothing(face: Face, create: Any) -> None:
    """400, no cookie at all, no event, nothing stored (§4)."""
    told = listen(face.manager)
    with pytest.raises(Rejected) as refused:
        face.browser().open(create=create, check=unsound)
    assert (refused.value.status, cookies_set(refused.value.headers)) == (400, [])
    assert (told, handles(face)) == ([], [])


@case("oc-delete-does-not-close-others", "improve", "the end of a session closes all its connections")
def test_the_end_of_a_session_closes_its_other_connections(face: Face) -> None:
    """The others at once, the one with the request after its answer; a connection that carried two sessions stays (rule 14)."""
    browser, other = face.browser(), face.browser()
    with connected(face) as first, connected(face) as second, connected(face) as shared:
        follow(browser, client=first.client, create=True)
        follow(other, client=shared.client, create=True)
        for connection in (second, shared):
            follow(browser, client=connection.client)
        with pytest.raises(Rejected):
            browser.open(client=first.client, check=unsound)
        assert [connection.closed for connection in (first, second, shared)] == [0, 1, 0]
        assert [connection.client.closing for connection in (first, second, shared)] == [True, False, False]
        assert other.open(client=shared.client).session.exists


@case("oc-delete_session", "keep")
def test_delete_session_ends_it_and_expires_the_cookies(face: Face) -> None:
    """A second time it gives the same cookies and runs no hook."""
    called: list[str] = []
    name = Key("name", str, cleanup_delete=called.append)
    browser = face.browser()
    with connected(face) as connection:
        with browser.visit(client=connection.client) as session:
            session[name] = "ann"
        request = browser.request(client=connection.client, headers=OTHER)
        first = face.call(face.manager.delete_session(request))
        assert [value.split("; ")[0] for value in cookies_set(first)] == ["SESSION_KEY=", "SESSION_ADDR="]
        assert all("; Max-Age=0; " in value for value in cookies_set(first))
        assert (called, handles(face)) == (["ann"], [])
        assert (connection.closed, connection.client.closing) == (0, True)
    again = face.call(face.manager.delete_session(request))
    assert cookies_set(again) == cookies_set(first)
    assert called == ["ann"]


@case("oc-delete_session-ignores-policy", "improve", "the policy says which session is deleted")
def test_delete_session_deletes_the_session_of_its_policy(face: Face) -> None:
    """Of two sessions in one browser, under two names, the one that was named is gone and the other is not."""
    admin = CookiePolicy(name="Adm")
    browser = face.browser()
    follow(browser, create=True)
    follow(browser, create=True, cookie_policy=admin)
    stolen = browser.copy()
    headers = face.call(face.manager.delete_session(browser.request(), cookie_policy=admin))
    assert names_set(headers) == ["Adm_KEY", "Adm_ADDR"]
    assert not stolen.open(cookie_policy=admin).session.exists
    assert stolen.open().session.exists


@case("oc-cookie-same-name-twice", "improve", "a cookie that is there twice with different values opens nothing, in either order")
@pytest.mark.parametrize("header", ["SESSION_KEY={wrong}; SESSION_KEY={right}", "SESSION_KEY={right}; SESSION_KEY={wrong}"])
def test_a_wrong_key_beside_the_right_one_opens_nothing(face: Face, header: str) -> None:
    """Trying them all would let a neighbouring site choose; twice the same value is no contradiction (rule 20, C5)."""
    browser = face.browser()
    follow(browser, create=True)
    right = browser.jar.pop("SESSION_KEY")
    line = header.format(wrong=UNKNOWN["SESSION_KEY"], right=right)
    with pytest.raises(Rejected):
        browser.open(headers=[("Cookie", line)], create=False)
    twice = f"SESSION_KEY={right}; SESSION_KEY={right}"
    assert browser.open(headers=[("Cookie", twice)], create=False).session.exists


@case("oc-bad-cookie-header", "improve", "what is no cookie is ignored")
@pytest.mark.parametrize("bad", ["a b", ";;;", '="', "\x00\xff", "x" * 1000])
def test_a_bad_cookie_header_costs_nothing(face: Face, bad: str) -> None:
    """The request is answered, and the good cookies beside the bad one are found (rule 22, C3)."""
    browser = face.browser()
    turn = browser.open(headers=[("Cookie", bad)], create=True)
    turn.finish()
    assert browser.open(headers=[("Cookie", bad)]).session.handle == turn.session.handle


@case("oc-check_session_cookie", "keep")
def test_check_session_cookie_says_whether_the_cookies_open_a_session(face: Face) -> None:
    """Not without a cookie, with another's name, or with a wrong key, whatever the connection; with the right ones, yes."""
    owner, stranger = face.browser(), face.browser()

    def check(*, client: Any = None, headers: Any = (), browser: Any = stranger) -> object:
        return face.call(face.manager.check_session_cookie(browser.request(client=client, headers=headers)))

    with connected(face) as connection:
        follow(owner, client=connection.client, create=True)
        assert check() is False
        assert check(headers=OTHER) is False
        assert check(headers=[("Cookie", f"SESSION_KEY={UNKNOWN['SESSION_KEY']}")]) is False
        assert check(browser=owner) is True
        assert check(client=connection.client) is False


@case("oc-other-cookies-new-session", "improve", "other cookies are never sent back as they were")
@pytest.mark.parametrize("jar", [{}, UNKNOWN])
@pytest.mark.parametrize("policy_filter", [drop, keep])
def test_a_new_session_sends_its_own_cookies_alone(face: Face, jar: dict[str, str], policy_filter: Any) -> None:
    """Whatever else the request brought, and whatever the filter says (rules 22, 23)."""
    browser = face.browser()
    browser.jar = dict(jar)
    headers = follow(browser, headers=OTHER, cookie_policy=CookiePolicy(filter=policy_filter), create=True)
    assert names_set(headers) == ["SESSION_KEY", "SESSION_ADDR"]
    assert visit(browser, Key("visits", int)) == 1
