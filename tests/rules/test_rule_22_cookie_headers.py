"""Rule 22: a bad neighbour costs no good cookie; what is written is RFC 6265bis, one `Set-Cookie` per name and response."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tests.faces import Browser, Face
from tests.rules.scene import BOTH, cookies_set, expired, live, never
from typed_sessions import AddressPolicy, CookiePolicy, Key, PolicyError, Rejected, Request, SetCookie, redirect

Make = Callable[..., Face]

# RFC 6265bis 4.1.1: set-cookie-string, with the attributes that are written here.
SET_COOKIE = re.compile(
    r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+=[!#-+\--:<-\[\]-~]*"
    r"(; Path=/[ -:<-~]*|; Domain=[0-9A-Za-z.-]+|; Max-Age=[1-9][0-9]*|; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT"
    r"|; Secure|; HttpOnly|; SameSite=(Lax|Strict|None)|; Partitioned)*"
)


def begun(face: Face) -> Browser:
    browser = face.browser()
    with browser.visit() as session:
        session[Key("user", str)] = "ann"
    return browser


def start(face: Face, cookies: Sequence[tuple[Any, Any]], **settings: Any) -> Any:
    """`start_check` for a request with these very headers."""
    return face.call(face.manager.start_check(Request(headers=cookies, peer="10.1.2.3"), **settings))


def user_of(face: Face, *cookies: str) -> str | None:
    session, finish = start(face, [("cookie", text) for text in cookies])
    user: str | None = session.get(Key("user", str))
    finish.discard()
    return user


def test_rule_22_no_neighbour_costs_the_session(face: Face) -> None:
    """Whatever stands before, between and behind: it is no cookie of ours, and ours are read (C3)."""
    browser = begun(face)
    key, addr = (f"{name}={browser.jar[name]}" for name in ("SESSION_KEY", "SESSION_ADDR"))
    for bad in (
        "c,d=e",
        "=",
        "==",
        "=value",
        ";;;",
        '"',
        'x="',
        'x="unclosed',
        'x="a; b"',
        "name",
        "na me=value",
        "\x00=\x01",
        "\xff=\xfe",
        "\u0130=\u0131",
        "\ud800",
        "$Version=1",
        "expires=Thu, 01 Jan 1970 00:00:00 GMT",
        "[object Object]",
        "a=" + "b" * 8000,
        "=__Host-SESSION_KEY",
        "session_key=x",
        "XSESSION_KEY=x",
        "SESSION_KEYX=x",
        "SESSION_KEY2=x",
        "x=SESSION_KEY",
    ):
        for header in (
            f"{bad}; {key}; {addr}",
            f"{key}; {bad}; {addr}",
            f"{key}; {addr}; {bad}",
            f"{key};{bad};{addr}",
            f"{addr} ; {bad};; {key}",
        ):
            assert user_of(face, header) == "ann", header


def test_rule_22_several_cookie_headers_are_one(face: Face) -> None:
    """HTTP/2 splits them (RFC 9113 8.2.3, C6); names in any case, as text or as bytes."""
    browser = begun(face)
    key, addr = (f"{name}={browser.jar[name]}" for name in ("SESSION_KEY", "SESSION_ADDR"))
    assert user_of(face, key, addr) == "ann"
    assert user_of(face, "a=b", addr, "c,d=e", key, "x") == "ann"
    session, finish = start(face, [(b"COOKIE", key.encode()), (b"Accept", b"*/*"), (b"Cookie", b"\xff=\xfe"), (b"cookie", addr.encode())])
    assert session[Key("user", str)] == "ann"
    finish.discard()


def test_rule_22_the_caps_are_16_kb_and_200_pairs(face: Face) -> None:
    """Ours within the caps are read, what lies behind them is not; nothing raises (C9)."""
    browser = begun(face)
    ours = "; ".join(f"{name}={value}" for name, value in browser.jar.items())
    assert user_of(face, "; ".join(["a=b"] * 198) + "; " + ours) == "ann"
    assert user_of(face, "; ".join(["a=b"] * 199) + "; " + ours) is None
    assert user_of(face, "x=" + "y" * (16_384 - len(ours) - 4) + "; " + ours) == "ann"
    assert user_of(face, "x=" + "y" * (16_384 - len(ours) - 3) + "; " + ours) is None
    assert user_of(face, f"{ours}; x=" + "y" * 1_000_000) == "ann"


@pytest.mark.parametrize("piece", ['"', ";", "=", '="', '\\"', "SESSION_KEY=", "SESSION_", "a=b; ", " ", "\xff"])
def test_rule_22_reading_takes_linear_time(face: Face, piece: str) -> None:
    """A megabyte of whatever is dearest to parse costs about what nothing costs (C9, CVE-2024-7592)."""
    header = piece * (1_000_000 // len(piece))
    begun_at = time.perf_counter()
    for _ in range(3):
        user_of(face, header)
    assert time.perf_counter() - begun_at < 0.5


# ------------------------------------------------------------------ what is written


POLICIES = [
    CookiePolicy(),
    CookiePolicy(path="/app", domain="example.org", max_age=1000, same_site="strict", http_only=False),
    CookiePolicy(secure=True, partitioned=True, same_site="none"),
]


def answers(face: Face) -> list[tuple[tuple[str, str], ...]]:
    """The headers of every kind of answer: begin, use, renew, sign-out, refusal, expiry, a failed check."""
    user = Key("user", str)
    found: list[Any] = []
    browser = face.browser()
    turn = browser.open("/app")
    turn.session[user] = "ann"
    found.append(turn.finish())
    face.clock.advance(61)
    found.append(browser.open("/app").finish())
    turn = browser.open("/app")
    turn.session.renew()
    found.append(turn.finish())
    other = browser.copy()
    turn = browser.open("/app")
    turn.session.end()
    found.append(turn.finish())
    found.append(other.copy().open("/app").finish())
    found.append(face.call(face.manager.delete_session(other.request("/app"))))
    refusals: list[dict[str, Any]] = [{"create": False}, {"check": never}]
    for settings in refusals:
        with pytest.raises(Rejected) as refused:
            other.open("/app", **settings)
        found.append(refused.value.headers)
    return found


@pytest.mark.parametrize("policy", POLICIES, ids=["default", "everything", "partitioned"])
@pytest.mark.parametrize("route", [None, "node-1_A"])
def test_rule_22_what_is_written_matches_the_grammar(make_face: Make, policy: CookiePolicy, route: str | None) -> None:
    """Every `Set-Cookie` of every kind of answer (C1, CVE-2026-0672); each name once (RFC 6265bis 4.1.1, C11)."""
    face = make_face(cookie_policy=policy, route=route)
    kinds = answers(face)
    texts = [text for headers in kinds for text in cookies_set(headers).values()]
    assert len(texts) >= 10
    for text in texts:
        assert SET_COOKIE.fullmatch(text), text
        attributes = [part.partition("=")[0] for part in text.split("; ")[1:]]
        assert len(attributes) == len(set(attributes))


@pytest.mark.parametrize("policy", POLICIES, ids=["default", "everything", "partitioned"])
def test_rule_22_a_deletion_repeats_what_the_cookie_was_set_with(make_face: Make, policy: CookiePolicy) -> None:
    """Path, Domain, Secure, Partitioned and the rest: a browser deletes only what agrees (C10)."""
    begin, *_, end = [cookies_set(headers) for headers in answers(make_face(cookie_policy=policy))[:4]]
    assert begin.keys() == end.keys()
    for name in begin:
        set_with = {part for part in begin[name].split("; ")[1:] if not part.startswith("Max-Age")}
        assert set(end[name].split("; ")) == {f"{name}=", "Max-Age=0", "Expires=Thu, 01 Jan 1970 00:00:00 GMT", *set_with}


@pytest.mark.parametrize("committed", [(), ("login",), ("login", "renew"), ("login", "renew", "logout")])
@pytest.mark.parametrize("before", ["nothing", "a session", "a dead session"])
def test_rule_22_login_renew_and_logout_in_one_request(make_face: Make, before: str, committed: tuple[str, ...]) -> None:
    """One `Set-Cookie` per name comes of it, whatever is committed in between: the last word counts (C11)."""
    face = make_face(cookie_policy=CookiePolicy(max_age=1000))
    user = Key("user", str)
    browser = face.browser() if before == "nothing" else begun(face)
    if before == "a dead session":
        face.clock.advance(660)
    had = set(browser.jar)
    face.clock.advance(61)
    turn = browser.open()
    for step in ("login", "renew", "logout"):
        if step == "login":
            turn.session[user] = "eve"
        elif step == "renew":
            turn.session.renew()
        else:
            turn.session.end()
        if step in committed:
            face.call(face.manager.commit(turn.session))
    cookies = cookies_set(turn.finish())
    assert cookies.keys() == expired(turn.headers)
    assert had <= cookies.keys() <= BOTH
    assert browser.jar == {}
    assert live(face) == set()


def test_rule_22_login_and_renew_in_one_request(face: Face) -> None:
    """The id that is sent is the last one; no other was ever sent."""
    browser = face.browser()
    turn = browser.open()
    turn.session[Key("user", str)] = "ann"
    face.call(face.manager.commit(turn.session))
    turn.session.renew()
    assert cookies_set(turn.finish()).keys() == BOTH
    with browser.visit() as session:
        assert session[Key("user", str)] == "ann"


def test_rule_22_the_policys_filter_writes_no_second_one(make_face: Make) -> None:
    """Also with what a failed check does to other cookies: once per name, however often the request had it."""
    policy = CookiePolicy(filter=lambda cookie: None if cookie.name == "a" else SetCookie(cookie.name, "changed"))
    face = make_face(cookie_policy=policy, address_policy=AddressPolicy(match="off"))
    browser = begun(face)
    browser.jar |= {"a": "1", "b": "2"}
    with pytest.raises(Rejected) as refused:
        browser.open(check=never, headers=[("Cookie", "a=5; b=6; a=7")])
    assert cookies_set(refused.value.headers).keys() == {*BOTH, "a", "b"}
    assert expired(refused.value.headers) == {*BOTH, "a"}


@pytest.mark.parametrize("value", ["/x\r\nSet-Cookie: evil=1", "/x\nSet-Cookie: evil=1", "/x\0", "/\u043b\u043e\u0433"])
def test_rule_22_a_refusal_writes_no_header_that_splits(face: Face, value: str) -> None:
    """What a handler puts into `error` may be a client's text: it is refused where it is said, not sent or torn on the way out."""
    error = (303, [("Location", value)])
    with pytest.raises(ValueError, match="Location"):
        Rejected("require", *error)
    with pytest.raises(PolicyError, match="Location"):
        face.manager.filter(error=error)
    turn = face.browser().open()
    with pytest.raises(ValueError, match="Location"):
        turn.session.require(lambda _: False, error=error)
    turn.discard()


def test_rule_22_redirect_writes_an_address_of_any_letters() -> None:
    """Percent-encoded, as browsers do it (RFC 3987 3.1); what is encoded already stays as it is."""
    assert redirect("/\u043b\u043e\u0433?a=%20&b=1#c") == (303, (("Location", "/%D0%BB%D0%BE%D0%B3?a=%20&b=1#c"),))
