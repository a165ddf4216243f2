"""Rule 19: `<prefix><name>_KEY` and `<prefix><name>_ADDR`, with the prefix that scheme, path and domain allow; and their attributes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tests.faces import Browser, Face
from tests.rules.scene import cookies_set, stored, values
from typed_sessions import AddressPolicy, CookiePolicy, Key, PolicyError

Make = Callable[..., Face]


def begin(face: Face, *, https: bool = False, path: str = "/", headers: Sequence[tuple[str, str]] = ()) -> tuple[Browser, dict[str, str]]:
    """A new session; the browser and the cookies that were set."""
    browser = face.browser(https=https)
    turn = browser.open(path, headers=headers)
    turn.session[Key("user", str)] = "ann"
    return browser, cookies_set(turn.finish())


def attributes(cookies: dict[str, str]) -> set[str]:
    """The attributes of the two cookies, which are the same for both."""
    found = {frozenset(text.split("; ")[1:]) for text in cookies.values()}
    assert len(found) == 1
    return set(*found)


@pytest.mark.parametrize(
    ("settings", "https", "prefix"),
    [
        ({}, False, ""),
        ({}, True, "__Host-"),
        ({"path": "/app"}, False, ""),
        ({"path": "/app"}, True, "__Secure-"),
        ({"domain": "example.org"}, False, ""),
        ({"domain": "example.org"}, True, "__Secure-"),
        ({"secure": True}, False, "__Host-"),
        ({"secure": False}, True, ""),
    ],
    ids=str,
)
def test_rule_19_the_prefix_is_what_scheme_path_and_domain_allow(
    make_face: Make, settings: dict[str, Any], https: bool, prefix: str
) -> None:
    """`__Host-` over https for path `/` without a domain, otherwise `__Secure-`; none over http (RFC 6265bis 4.1.3, ASVS 3.3.1)."""
    face = make_face(cookie_policy=CookiePolicy(**settings))
    browser, cookies = begin(face, https=https, path="/app/page")
    assert cookies.keys() == {f"{prefix}SESSION_KEY", f"{prefix}SESSION_ADDR"}
    assert ("Secure" in attributes(cookies)) == bool(prefix)
    with browser.visit(path="/app/other") as session:
        assert session[Key("user", str)] == "ann"


def test_rule_19_name_is_the_policys(make_face: Make) -> None:
    """Two applications on one host choose two names, and do not see each other's cookies."""
    face = make_face(cookie_policy=CookiePolicy(name="SHOP"))
    browser, cookies = begin(face, https=True)
    assert cookies.keys() == {"__Host-SHOP_KEY", "__Host-SHOP_ADDR"}
    assert not face.call(face.manager.check_session_cookie(browser.request(), cookie_policy=CookiePolicy(name="BLOG")))
    assert not face.call(face.manager.check_session_cookie(browser.request(), cookie_policy=CookiePolicy()))
    assert face.call(face.manager.check_session_cookie(browser.request()))


@pytest.mark.parametrize("prefix", ["", "__Secure-", "__host-", "__HOST-", "%5F%5FHost-", '"__Host-'])
def test_rule_19_over_https_only_the_prefixed_name_is_read(face: Face, prefix: str) -> None:
    """An unprefixed cookie could have been set over http, or by a sibling domain (C8, CVE-2020-8184, CVE-2023-23934)."""
    browser, _ = begin(face, https=True)
    values = {name.removeprefix("__Host-"): value for name, value in browser.jar.items()}
    browser.jar = {f"{prefix}{name}": value for name, value in values.items()}
    turn = browser.open()
    assert not turn.session.exists
    assert not cookies_set(turn.finish()), "and it is nobody's to expire: it is no cookie of ours"


def test_rule_19_a_tossed_cookie_beside_the_prefixed_one_changes_nothing(face: Face) -> None:
    """A sibling domain can plant `SESSION_KEY`, not `__Host-SESSION_KEY` (cookie tossing)."""
    browser, _ = begin(face, https=True)
    browser.jar = {"SESSION_KEY": "A" * 64, "SESSION_ADDR": "A" * 43, **browser.jar, "__Secure-SESSION_KEY": "B" * 64}
    with browser.visit() as session:
        assert session[Key("user", str)] == "ann"


def test_rule_19_over_http_the_prefixed_name_is_not_read(face: Face) -> None:
    """What was issued over https is no session over http: it would have been sent in the clear."""
    browser, _ = begin(face, https=True)
    browser.https = False
    turn = browser.open()
    assert not turn.session.exists
    turn.discard()


@pytest.mark.parametrize("proto", ["https", "http", None])
def test_rule_19_the_scheme_is_what_a_trusted_proxy_says(make_face: Make, proto: str | None) -> None:
    """Behind a proxy that ends TLS, the server's own connection says nothing; a stranger's header says nothing either (rule 21)."""
    policy = AddressPolicy(trusted_proxies=["10.1.2.3"])
    for address_policy, believed in ((policy, proto == "https"), (AddressPolicy(), False)):
        face = make_face(address_policy=address_policy)
        scheme = [] if proto is None else [("X-Forwarded-Proto", proto)]
        _, cookies = begin(face, headers=[("X-Forwarded-For", "192.0.2.1"), *scheme])
        prefix = "__Host-" if believed else ""
        assert cookies.keys() == {f"{prefix}SESSION_KEY", f"{prefix}SESSION_ADDR"}


def test_rule_19_the_defaults(face: Face) -> None:
    """`HttpOnly`, `SameSite=Lax`, `Path=/`, no `Domain`, until the browser is closed (ASVS 3.3.2 to 3.3.4)."""
    _, plain = begin(face)
    assert attributes(plain) == {"Path=/", "HttpOnly", "SameSite=Lax"}
    _, encrypted = begin(face, https=True)
    assert attributes(encrypted) == {"Path=/", "Secure", "HttpOnly", "SameSite=Lax"}


def test_rule_19_everything_else_is_the_policys(make_face: Make) -> None:
    """Each attribute, on both cookies."""
    policy = CookiePolicy(
        path="/app", domain="example.org", same_site="none", http_only=False, secure=True, partitioned=True, max_age=1000.5
    )
    _, cookies = begin(make_face(cookie_policy=policy), path="/app/")
    assert attributes(cookies) == {"Path=/app", "Domain=example.org", "SameSite=None", "Secure", "Partitioned", "Max-Age=1001"}


def test_rule_19_persistent_is_per_session(make_face: Make) -> None:
    """ "Remember me": with a Max-Age in the policy, each session chooses, keeps its choice, and may change it."""
    face = make_face(cookie_policy=CookiePolicy(max_age=1000))
    user = Key("user", str)
    stays, goes = face.browser(), face.browser()
    for browser, persistent in ((stays, True), (goes, False)):
        turn = browser.open()
        assert turn.session.persistent
        turn.session[user] = "ann"
        turn.session.persistent = persistent
        assert ("Max-Age=1000" in attributes(cookies_set(turn.finish()))) == persistent
        turn = browser.open()
        assert turn.session.persistent == persistent
        turn.session.renew()
        assert ("Max-Age=1000" in attributes(cookies_set(turn.finish()))) == persistent
        turn = browser.open()
        turn.session.persistent = not persistent
        before = dict(browser.jar)
        assert ("Max-Age=1000" in attributes(cookies_set(turn.finish()))) != persistent
        assert browser.jar == before, "the same cookies, with another time"
        with browser.visit() as session:
            assert session.persistent != persistent


def test_rule_19_persistent_may_be_asked_for(make_face: Make) -> None:
    """ "Remember me": by the policy a session goes with the browser, and one that says so stays, from the first answer on."""
    face = make_face(cookie_policy=CookiePolicy(max_age=1000, persistent=False))
    stays, goes = face.browser(), face.browser()
    for browser in (stays, goes):
        turn = browser.open()
        assert not turn.session.persistent
        turn.session[Key("user", str)] = "ann"
        if browser is stays:
            turn.session.persistent = True
        assert ("Max-Age=1000" in attributes(cookies_set(turn.finish()))) == (browser is stays)
        for renew in (False, True):
            face.clock.advance(61)
            turn = browser.open()
            assert turn.session.persistent == (browser is stays)
            if renew:
                turn.session.renew()
            found = cookies_set(turn.finish())
            assert bool(found) == (renew or browser is stays)
            assert any("Max-Age=1000" in text for text in found.values()) == (browser is stays)
    with pytest.raises(PolicyError, match="persistent=False: expected max_age beside it"):
        CookiePolicy(persistent=False)


def test_rule_19_persistent_needs_a_max_age(face: Face) -> None:
    """Without one there is nothing to give the cookie: said where it is asked for."""
    browser, _ = begin(face)
    turn = browser.open()
    assert not turn.session.persistent
    with pytest.raises(PolicyError, match="max_age"):
        turn.session.persistent = True
    turn.session.persistent = False
    turn.finish()


@pytest.mark.parametrize("path", ["/sub", "/sub/", "/sub/page", "/subway", "/", "/other"])
def test_rule_19_outside_of_the_path_nothing_is_created_unasked(make_face: Make, path: str) -> None:
    """A cookie of path `/sub` does not come back to `/subway` (RFC 6265bis 5.1.4), so `create=True` would make a session per request."""
    face = make_face(cookie_policy=CookiePolicy(path="/sub"), create=True)
    turn = face.browser().open(path)
    assert turn.session.exists == (path == "/sub" or path.startswith("/sub/"))
    turn.finish()


def test_rule_19_an_illegal_combination_is_refused_when_the_policy_is_built() -> None:
    """Never when a response is written (C2). `tests/test_cookie_policy.py` has all of them."""
    wrong: list[dict[str, Any]] = [
        {"same_site": "none"},
        {"partitioned": True},
        {"name": "__Host-X"},
        {"path": "sub"},
        {"domain": ".example.org"},
    ]
    for illegal in wrong:
        with pytest.raises(PolicyError):
            CookiePolicy(**illegal)


def test_rule_19_a_filters_policy_goes_before_the_managers(face: Face) -> None:
    """`cookie_policy=` of a filter or of `start_check`: for all that this request reads and writes."""
    policy = CookiePolicy(name="ADMIN", path="/admin", same_site="strict")
    browser = face.browser(https=True)
    turn = browser.open("/admin", cookie_policy=policy)
    turn.session[Key("user", str)] = "ann"
    cookies = cookies_set(turn.finish())
    assert cookies.keys() == {"__Secure-ADMIN_KEY", "__Secure-ADMIN_ADDR"}
    assert {"Path=/admin", "SameSite=Strict"} <= attributes(cookies)
    with browser.visit(path="/admin", cookie_policy=policy) as session:
        assert session[Key("user", str)] == "ann"
        handle = session.handle
    assert stored(face, handle).address == "10.1.2.3"


def test_rule_19_a_choice_that_is_not_committed_survives_a_refresh(make_face: Callable[..., Face]) -> None:
    """ "Remember me" is one of the request's own changes: `refresh` reads what others have written, and leaves it."""
    face = make_face(cookie_policy=CookiePolicy(max_age=1_000, persistent=False))
    name = Key("name", str)
    browser = face.browser()
    with browser.visit() as session:
        session[name] = "ann"
    turn = browser.open()
    turn.session.persistent = True
    face.call(face.manager.refresh(turn.session))
    assert turn.session.persistent is True
    turn.finish()
    assert ["Max-Age=1000" in value for value in values(turn.headers, "Set-Cookie")] == [True, True]
