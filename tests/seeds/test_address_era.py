"""OCaml's address cookie, and the first version of its check: what the two cookies and the address are to each other."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.faces import PEER, Face
from tests.seeds.cases import case
from tests.seeds.programs import ELSEWHERE, cookies_set, follow, handles, names_set, unsound, visit
from typed_sessions import AddressPolicy, CookiePolicy, Key, Rejected

PROXY = "10.9.9.9"


@case("ad-first-visit", "improve", "the address cookie proves the address and does not say it")
def test_the_address_cookie_tells_nothing(face: Face) -> None:
    """43 characters of a keyed digest: different for two sessions from one address, and new at every renew (rule 20)."""
    ann, bob = face.browser(https=True), face.browser(https=True)
    assert names_set(follow(ann, create=True)) == ["__Host-SESSION_KEY", "__Host-SESSION_ADDR"]
    follow(bob, create=True)
    tags = [ann.jar["__Host-SESSION_ADDR"], bob.jar["__Host-SESSION_ADDR"]]
    with ann.visit() as session:
        session.renew()
    tags.append(ann.jar["__Host-SESSION_ADDR"])
    assert len({*tags}) == 3
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{43}", tag) for tag in tags)


@case("ad-key-right-adr-missing", "improve", "refused, and the session and its cookies are left alone")
def test_the_key_alone_opens_and_destroys_nothing(face: Face) -> None:
    """400 without the address cookie; with it the session is still there (rule 20, C7)."""
    browser = face.browser()
    follow(browser, create=True)
    half = browser.copy()
    del half.jar["SESSION_ADDR"]
    with pytest.raises(Rejected) as refused:
        half.open(create=False)
    assert (refused.value.status, refused.value.reason, cookies_set(refused.value.headers)) == (400, "bad_cookie", [])
    assert browser.open(create=False).session.exists


@case("ad-key-right-adr-cookie-wrong", "keep")
@pytest.mark.parametrize("wrong", ["9.9.9.9", "A" * 43])
def test_a_wrong_address_cookie_is_refused(face: Face, wrong: str) -> None:
    """400, and the session is kept (rule 20, C7)."""
    browser = face.browser()
    follow(browser, create=True)
    other = browser.copy()
    other.jar["SESSION_ADDR"] = wrong
    with pytest.raises(Rejected) as refused:
        other.open(create=False)
    assert (refused.value.status, refused.value.reason) == (400, "bad_cookie")
    assert browser.open(create=False).session.exists


@case("ad-peer-differs", "improve", "refused, and the session stays with its owner; ending it is a policy")
def test_both_cookies_from_another_address_destroy_nothing(face: Face) -> None:
    """400, or a session of its own; the owner's goes on. Only AddressPolicy(mismatch="end") ends it (rule 21, A7)."""
    visits = Key("visits", int)
    owner = face.browser()
    visit(owner, visits)
    with pytest.raises(Rejected) as refused:
        owner.copy(ELSEWHERE).open(create=False)
    assert (refused.value.status, refused.value.reason) == (400, "other_address")
    turn = owner.copy(ELSEWHERE).open(create=True)
    assert visits not in turn.session
    turn.finish()
    assert visit(owner, visits) == 2
    face.renew(address_policy=AddressPolicy(mismatch="end"))
    assert not owner.copy(ELSEWHERE).open().session.exists
    assert not owner.open().session.exists


@case("ad-header-glue", "improve", "one address, from trusted proxies only, parsed by the grammar; nothing is glued together")
def test_an_address_is_one_address(face: Face) -> None:
    """A stranger's headers count for nothing, and a proxy's must be what RFC 7239 says (rule 21, A1, A2)."""
    glued = [("Forwarded", "1.1.1.1XRI:2.2.2.2")]
    apart = [("Forwarded", "1.1.1.1"), ("X-Real-IP", "2.2.2.2")]
    for headers in (glued, apart):
        with face.browser().visit(headers=headers, create=True) as session:
            assert session.address == PEER
    face.renew(address_policy=AddressPolicy(trusted_proxies=[PROXY]))
    proxied = face.browser(PROXY)
    for headers in (glued, apart):
        with pytest.raises(Rejected):
            proxied.open(headers=headers, create=True)
    with proxied.visit(headers=[("Forwarded", "for=198.51.100.1"), ("X-Real-IP", "2.2.2.2")], create=True) as session:
        assert session.address == "198.51.100.1"
    assert "198.51.100.1" not in str(proxied.jar)


@case("ad-header-illegal-cookie", "improve", "what a header says never gets into a cookie")
@pytest.mark.parametrize("trusted", [(), (PROXY,)])
def test_a_list_of_addresses_is_answered(face: Face, trusted: Any) -> None:
    """A first visit with two forwarded addresses gets legal cookies, and a session that the next visit finds (C1)."""
    face.renew(address_policy=AddressPolicy(trusted_proxies=trusted))
    browser = face.browser(PROXY)
    headers = [("X-Forwarded-For", "198.51.100.1, 198.51.100.2")]
    answer = follow(browser, headers=headers, create=True)
    assert all(re.fullmatch(r"SESSION_(KEY|ADDR)=[A-Za-z0-9_-]+(; [A-Za-z-]+(=[A-Za-z0-9/]+)?)*", value) for value in cookies_set(answer))
    assert browser.open(headers=headers).session.exists
    assert len(handles(face)) == 1


@case("ad-delete-cookies", "improve", "a deletion repeats every attribute that the cookie was set with")
def test_cookies_are_expired_as_they_were_set(face: Face) -> None:
    """But for their life, the cookies that a failed check expires are those that were set (rule 22, C10)."""
    face.renew(cookie_policy=CookiePolicy(max_age=3600, filter=lambda cookie: None))
    browser = face.browser(https=True)
    set_ = cookies_set(follow(browser, create=True))
    with pytest.raises(Rejected) as refused:
        browser.open(headers=[("Cookie", "foo=bar")], check=unsound)
    *expired, foo = cookies_set(refused.value.headers)

    def attributes(value: str) -> tuple[str, set[str]]:
        name, *rest = value.split("; ")
        return name.partition("=")[0], {each for each in rest if not each.startswith(("Max-Age=", "Expires="))}

    assert [attributes(value) for value in expired] == [attributes(value) for value in set_]
    assert attributes(set_[0])[1] == {"Path=/", "Secure", "HttpOnly", "SameSite=Lax"}
    assert all("; Max-Age=0; " in value for value in (*expired, foo))


@case("ad-check-bypass", "improve", "a refused request is never attached to the session whose id it presented")
@pytest.mark.parametrize("create", [True, "on_write"])
def test_a_wrong_address_cookie_gets_nobody_in(face: Face, create: Any) -> None:
    """From anywhere, whatever `create` says and however lenient the policy is: another session, and none of the victim's cookies (§4)."""
    name = Key("name", str)
    face.renew(address_policy=AddressPolicy(mismatch="report"))
    victim = face.browser()
    with victim.visit() as session:
        session[name] = "ann"
    for address in (ELSEWHERE, PEER):
        thief = victim.copy(address)
        thief.jar["SESSION_ADDR"] = "9.9.9.9"
        turn = thief.open(create=create)
        assert name not in turn.session
        turn.session[name] = "eve"
        turn.finish()
        assert thief.jar["SESSION_KEY"] != victim.jar["SESSION_KEY"]
        assert thief.jar["SESSION_ADDR"] != victim.jar["SESSION_ADDR"]
    assert victim.open().session[name] == "ann"


@case("ad-get_session-unchecked", "improve", "get_session checks both cookies and the address")
def test_get_session_checks_like_everybody(face: Face) -> None:
    """With the key alone, or from elsewhere, it gives None; with all of it the session, for reading."""
    name = Key("name", str)
    browser = face.browser()
    with browser.visit() as session:
        session[name] = "ann"
    half = browser.copy()
    del half.jar["SESSION_ADDR"]
    for other in (half, browser.copy(ELSEWHERE)):
        assert face.call(face.manager.get_session(other.request())) is None
    view = face.call(face.manager.get_session(browser.request()))
    assert view[name] == "ann"
    assert not hasattr(view, "end")


TABLE = {
    # what is presented: (create=False, create=True, create="on_write"); "-" is refused, "+" means that the old cookies are expired
    "nothing": ("-", "new", "empty"),
    "unknown": ("-+", "new", "empty+"),
    "malformed": ("-+", "new", "empty+"),
    "ended": ("-+", "new", "empty+"),
    "wrong address cookie": ("-", "new", "empty"),
    "another's address cookie": ("-", "new", "empty"),
    "another address": ("-", "new", "empty"),
    "all that is right": ("session", "session", "session"),
}


@case("old-check-table", "improve", "nothing is created unasked, nothing ends for a failed check of cookies, no other cookie is touched")
@pytest.mark.parametrize("what", TABLE)
@pytest.mark.parametrize(("create", "column"), [(False, 0), (True, 1), ("on_write", 2)])
def test_what_a_request_gets(face: Face, what: str, create: Any, column: int) -> None:
    """Every line of the old table as it is now: what is given, which cookies are set or expired, and the session itself left alone (§4)."""
    browser, other = face.browser(), face.browser()
    with browser.visit(create=True) as session:
        handle = session.handle
    follow(other, create=True)
    asking = browser.copy(ELSEWHERE) if what == "another address" else browser.copy()
    if what == "nothing":
        asking.jar = {}
    elif what == "unknown":
        asking.jar["SESSION_KEY"] = other.jar["SESSION_KEY"][:32] + browser.jar["SESSION_KEY"][32:]
    elif what == "malformed":
        asking.jar["SESSION_KEY"] = "127.0.0.1"
    elif what == "ended":
        face.call(face.manager.end(handle))
    elif what == "wrong address cookie":
        asking.jar["SESSION_ADDR"] = "127.0.0.1"
    elif what == "another's address cookie":
        asking.jar["SESSION_ADDR"] = other.jar["SESSION_ADDR"]
    try:
        turn = asking.open(headers=[("Cookie", "foo=bar")], create=create)
    except Rejected as refused:
        given, headers = "-" if refused.status == 400 else str(refused), refused.headers
    else:
        given = "session" if turn.session.handle == handle else "new" if turn.session.exists else "empty"
        headers = turn.finish()
    expired = bool(cookies_set(headers)) and all("; Max-Age=0; " in value for value in cookies_set(headers))
    assert given + "+" * expired == TABLE[what][column]
    assert names_set(headers) == (["SESSION_KEY", "SESSION_ADDR"] if expired or given == "new" else [])
    assert browser.open().session.exists == (what != "ended")
    assert other.open().session.exists
