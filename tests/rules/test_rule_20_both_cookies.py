"""Rule 20: both cookies must be there, once, and belong together; SESSION_ADDR tells its reader nothing."""

from __future__ import annotations

import hmac
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from hashlib import sha256
from itertools import product
from typing import Any

import pytest

from tests.faces import Browser, Face
from tests.rules.scene import BOTH, cookies_set, handle_of, is_open, stored
from typed_sessions import AddressMismatch, AddressPolicy, Key, Rejected
from typed_sessions.lifecycle import issue

Make = Callable[..., Face]

KEY, ADDR = "SESSION_KEY", "SESSION_ADDR"


def begun(face: Face, name: str = "ann", **where: Any) -> Browser:
    browser = face.browser(**where)
    with browser.visit() as session:
        session[Key("user", str)] = name
    return browser


def of(browser: Browser) -> str | None:
    """Whose session a request with this jar gets."""
    turn = browser.open()
    user: str | None = turn.session.get(Key("user", str))
    turn.discard()
    return user


# ------------------------------------------------------------------ the splice matrix (C7)


SOURCES = ("A", "B", "A before a renew", "an ended session", "nobody", "absent", "the other cookie")


@pytest.mark.parametrize(("key_of", "addr_of"), list(product(SOURCES, SOURCES)))
def test_rule_20_only_two_that_belong_together_open_a_session(face: Face, key_of: str, addr_of: str) -> None:
    """Every pair of a KEY and an ADDR from somewhere: A's own pair opens A, B's opens B, and no other pair opens anything."""
    jars: dict[str, dict[str, str]] = {}
    a, b, ended = begun(face, "A"), begun(face, "B"), begun(face, "ended")
    jars["A before a renew"] = dict(a.jar)
    with a.visit() as session:
        session.renew()
    jars["an ended session"] = dict(ended.jar)
    with ended.visit() as session:
        session.end()
    jars["A"], jars["B"] = dict(a.jar), dict(b.jar)
    jars["nobody"] = {KEY: urlsafe_b64encode(secrets.token_bytes(48)).decode(), ADDR: "A" * 43}
    jars["absent"] = {}
    jars["the other cookie"] = {KEY: a.jar[ADDR], ADDR: a.jar[KEY]}
    spliced = face.browser()
    spliced.jar = {name: jars[source][name] for name, source in ((KEY, key_of), (ADDR, addr_of)) if name in jars[source]}
    records = stored(face, handle_of(a)), stored(face, handle_of(b))
    expected = key_of if key_of == addr_of and key_of in ("A", "B") else None
    assert of(spliced) == expected
    if expected is None:
        with pytest.raises(Rejected):
            spliced.open(create=False)
        after = stored(face, handle_of(a)), stored(face, handle_of(b))
        assert [record.pack() for record in after] == [record.pack() for record in records], "what is refused changes nothing"


def test_rule_20_a_cookie_that_is_there_twice(face: Face) -> None:
    """With one value it is once; with two different ones it is refused, whatever the order (C5, RFC 6265bis 4.2.2)."""
    browser, other = begun(face), begun(face, "eve")
    key, addr, key_b, addr_b = browser.jar[KEY], browser.jar[ADDR], other.jar[KEY], other.jar[ADDR]
    for cookie, opens in (
        (f"{KEY}={key}; {ADDR}={addr}; {KEY}={key}; {ADDR}={addr}", "ann"),
        (f"{ADDR}={addr}; {KEY}={key}", "ann"),
        (f"{KEY}={key}; {KEY}={key_b}; {ADDR}={addr}", None),
        (f"{KEY}={key_b}; {KEY}={key}; {ADDR}={addr}", None),
        (f"{KEY}={key}; {ADDR}={addr}; {ADDR}={addr_b}", None),
        (f"{KEY}={key}; {ADDR}={addr_b}; {ADDR}={addr}", None),
        (f"{KEY}={key}; {ADDR}={addr}; {ADDR}=", None),
    ):
        visitor = face.browser()
        turn = visitor.open(headers=[("Cookie", cookie)])
        assert turn.session.get(Key("user", str)) == opens, cookie
        turn.discard()
    assert is_open(browser)


def test_rule_20_addr_alone_is_nothing(face: Face) -> None:
    """Without a KEY there is no session to ask for: no store call, and no cookie is touched."""
    browser = begun(face)
    del browser.jar[KEY]
    turn = browser.open()
    assert not turn.session.exists
    assert not cookies_set(turn.finish())


def test_rule_20_a_wrong_addr_is_reported(face: Face) -> None:
    """`AddressMismatch` with `what="cookie"`: with a right secret that is not what a browser does by itself."""
    browser = begun(face)
    events: list[AddressMismatch] = []
    face.manager.on(AddressMismatch, events.append)
    for addr in (None, "A" * 43, "", "short", "\xe9" * 43):
        broken = browser.copy()
        if addr is None:
            del broken.jar[ADDR]
        else:
            broken.jar[ADDR] = addr
        with pytest.raises(Rejected) as refused:
            broken.open(create=False)
        assert refused.value.reason == "bad_cookie"
    assert [(event.what, event.session.handle) for event in events] == [("cookie", handle_of(browser))] * 5
    assert is_open(browser)


def test_rule_20_a_wrong_addr_lets_nobody_in_even_where_addresses_mean_nothing(make_face: Make) -> None:
    """`match="off"` and `mismatch="report"` are about addresses. The cookies belong together all the same."""
    for policy in (AddressPolicy(match="off"), AddressPolicy(mismatch="report")):
        face = make_face(address_policy=policy)
        browser = begun(face)
        assert of(browser) == "ann"
        browser.jar[ADDR] = begun(face, "eve").jar[ADDR]
        assert of(browser) is None


# ------------------------------------------------------------------ what ADDR tells


def test_rule_20_addr_follows_from_nothing_that_a_browser_has(face: Face) -> None:
    """Whoever has the KEY, and knows the address and how all this works, cannot make the ADDR: it depends on a random key besides."""
    browser = begun(face)
    raw = urlsafe_b64decode(browser.jar[KEY])
    locator, secret = raw[:16], raw[16:]
    record = stored(face, locator.hex())
    known = [b"", locator, secret, raw, sha256(secret).digest(), record.digest, record.tag_digest, browser.jar[KEY].encode(), bytes(32)]
    texts = [part + address for part, address in product(known, [b"", b"10.1.2.3", b"10.1.2.0/24"])]
    guesses = {sha256(text).digest() for text in texts} | {hmac.digest(key, text, "sha256") for key, text in product(known, texts)}
    assert urlsafe_b64decode(browser.jar[ADDR] + "=") not in guesses


def test_rule_20_addr_is_random_of_its_own() -> None:
    """32 bytes of the generator that are in no other value: the same secret with other random bytes has another ADDR."""

    def addr(secret: bytes, tag: bytes) -> str:
        session_id = issue(lambda count: (bytes(16) + secret + tag)[:count])
        assert urlsafe_b64decode(session_id.key_value)[16:] == secret
        return session_id.addr_value

    assert addr(b"s" * 32, b"t" * 32) != addr(b"s" * 32, b"u" * 32)
    assert urlsafe_b64decode(addr(b"s" * 32, b"t" * 32) + "=") == b"t" * 32


def test_rule_20_addr_tells_nothing_about_the_address(face: Face) -> None:
    """Sessions from one address have nothing in common there, and nothing of the record's is in the cookie."""
    tags = {begun(face).jar[ADDR] for _ in range(20)}
    assert len(tags) == 20
    assert {len(tag) for tag in tags} == {43}
    assert not any(b"10.1.2.3" in urlsafe_b64decode(tag + "=") for tag in tags)


def test_rule_20_a_stolen_record_makes_no_addr(face: Face) -> None:
    """What is kept proves both cookies, and makes neither: of the ADDR too it is a digest only."""
    browser = begun(face)
    packed = stored(face, handle_of(browser)).pack()
    addr = browser.jar[ADDR]
    assert addr.encode() not in packed
    assert urlsafe_b64decode(addr + "=") not in packed
    secret = urlsafe_b64decode(browser.jar[KEY])[16:]
    assert sha256(secret + addr.encode()).digest()[:16] in packed


def test_rule_20_addr_is_new_at_a_renew(face: Face) -> None:
    """The old one does not go with the new KEY, nor the new one with the old KEY, also while an overlap lets the old pair in."""
    browser = begun(face)
    old = dict(browser.jar)
    with browser.visit() as session:
        session.renew(overlap=60)
    new = dict(browser.jar)
    assert old[ADDR] != new[ADDR]
    assert {name for name in BOTH if old[name] == new[name]} == set()
    for jar, opens in (
        (old, "ann"),
        (new, "ann"),
        ({KEY: new[KEY], ADDR: old[ADDR]}, None),
        ({KEY: old[KEY], ADDR: new[ADDR]}, None),
    ):
        browser.jar = jar
        assert of(browser) == opens


def test_rule_20_nothing_has_to_be_configured(make_face: Make) -> None:
    """No key is shared between processes: a second manager on the same store, made of nothing but it, reads the cookies of the first."""
    face = make_face()
    browser = begun(face)
    face.renew()
    assert of(browser) == "ann"
