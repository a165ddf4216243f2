"""Rule 18: an id that was not issued here, or has expired or ended, is never adopted. One of the wrong form costs no store call."""

from __future__ import annotations

import secrets
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable

import pytest

from tests.faces import Browser, Face
from tests.planting import record_of
from tests.rules.scene import BOTH, cookies_set, expired, handle_of, live, stored
from tests.watched import Watched
from typed_sessions import CookiePolicy, Key, Rejected

Make = Callable[..., Face]

GOOD_LENGTH = 64

HOSTILE = {
    "empty": "",
    "a blank": " ",
    "a path": "../../etc/passwd",
    "a path of the right length": ("../" * 30)[:GOOD_LENGTH],
    "CRLF": "A" * 30 + "\r\nSet-Cookie: x=y" + "A" * 17,
    "NUL": "A" * 63 + "\0",
    "a wildcard": "*",
    "wildcards": "*" * GOOD_LENGTH,
    "a megabyte": "A" * 1_000_000,
    "ten thousand": "A" * 10_000,
    "one short": "A" * 63,
    "one more": "A" * 65,
    "unicode digits": "\u0661" * GOOD_LENGTH,
    "full-width letters": "\uff21" * GOOD_LENGTH,
    "a surrogate": "A" * 63 + "\ud800",
    "Latin-1": "\xe9" * GOOD_LENGTH,
    "padding": "A" * 62 + "==",
    "padding inside": "AA==" * 16,
    "the other alphabet": b64encode(b"\xfb\xff\xfe" * 16).decode(),
    "one character of the other alphabet": "A" * 63 + "+",
    "percent-encoded": "%41" * 21 + "A",
    "in quotes": '"' + "A" * 62 + '"',
    "a dot alone": ".",
    "a dot and a route": ".node1",
    "many dots": "A" * 32 + "." * 32,
    "an injected query": "' OR '1'='1",
    "JSON": '{"$ne":null}'.ljust(GOOD_LENGTH, "A"),
    "a decimal number": "1" * 20,
    "a UUID": "123e4567-e89b-12d3-a456-426614174000",
    "all tildes": "~" * GOOD_LENGTH,
    "with blanks inside": "A" * 31 + " " + "A" * 32,
    "a tab": "A" * 31 + "\t" + "A" * 32,
}
"""Ids of the wrong form (I5, I6, I8; CherryPy CVE-2008-0252, Django CVE-2015-3982)."""


def watched(make_face: Make) -> tuple[Face, Watched]:
    face = make_face()
    store = face.store = Watched(face.store)
    return face.renew(), store


@pytest.mark.parametrize("name", HOSTILE)
def test_rule_18_an_id_of_the_wrong_form_costs_no_store_call(make_face: Make, name: str) -> None:
    """However it looks, whatever stands beside it: nothing is asked of the store, and nothing raises but the refusal."""
    face, store = watched(make_face)
    for addr in (None, "A" * 43, HOSTILE[name]):
        browser = face.browser()
        browser.jar = {"SESSION_KEY": HOSTILE[name]} | ({} if addr is None else {"SESSION_ADDR": addr})
        turn = browser.open()
        assert not turn.session.exists
        turn.discard()
        with pytest.raises(Rejected):
            browser.open(create=False)
        assert face.call(face.manager.get_session(browser.request())) is None
        assert not face.call(face.manager.check_session_cookie(browser.request()))
        face.call(face.manager.delete_session(browser.request()))
    assert store.trips == 0


@pytest.mark.parametrize("name", HOSTILE)
def test_rule_18_a_hostile_handle_ends_nothing(make_face: Make, name: str) -> None:
    """The same texts as a handle (`manager.end`): no session, and no store call."""
    face, store = watched(make_face)
    assert face.call(face.manager.end(HOSTILE[name])) is False
    with pytest.raises(LookupError):
        face.edit(HOSTILE[name], lambda _: None)
    assert store.trips == 0


def test_rule_18_a_handle_has_one_spelling(face: Face) -> None:
    """32 hexadecimal digits in lower case; neither upper case nor blanks nor signs name the same session."""
    browser = face.browser()
    with browser.visit() as session:
        session[Key("user", str)] = "ann"
    handle = handle_of(browser)
    for spelling in (handle.upper(), f" {handle}", f"{handle} ", f"{handle[:16]} {handle[16:]}", f"0x{handle}"):
        if spelling != handle:
            assert face.call(face.manager.end(spelling)) is False
    assert face.call(face.manager.end(handle)) is True


def of_the_right_form() -> dict[str, str]:
    raw = secrets.token_bytes(48 + 32)
    return {
        "SESSION_KEY": urlsafe_b64encode(raw[:48]).decode(),
        "SESSION_ADDR": urlsafe_b64encode(raw[48:]).decode().rstrip("="),
    }


def never_issued(face: Face) -> Browser:
    browser = face.browser()
    browser.jar = of_the_right_form()
    return browser


def begun(face: Face) -> Browser:
    browser = face.browser()
    with browser.visit() as session:
        session[Key("user", str)] = "ann"
    return browser


def that_expired(face: Face) -> Browser:
    browser = begun(face)
    face.clock.advance(660)
    return browser


def that_was_swept(face: Face) -> Browser:
    browser = that_expired(face)
    face.call(face.manager.sweep())
    return browser


def that_ended(face: Face) -> Browser:
    browser = begun(face)
    with browser.copy().visit() as session:
        session.end()
    return browser


def of_a_live_session_with_another_secret(face: Face) -> Browser:
    browser = begun(face)
    browser.jar["SESSION_KEY"] = browser.jar["SESSION_KEY"][:22] + of_the_right_form()["SESSION_KEY"][22:]
    return browser


WELL_FORMED = [never_issued, that_expired, that_was_swept, that_ended, of_a_live_session_with_another_secret]


@pytest.mark.parametrize("arrange", WELL_FORMED)
@pytest.mark.parametrize("create", [True, "on_write"])
def test_rule_18_an_id_that_opens_nothing_is_never_adopted(face: Face, arrange: Callable[[Face], Browser], create: bool | str) -> None:
    """The session that such a request begins has a locator and a secret of its own (aiohttp-session CVE-2018-1000519)."""
    browser = arrange(face)
    presented, presented_handle = dict(browser.jar), handle_of(browser)
    before = record_of(face, presented_handle) if arrange is of_a_live_session_with_another_secret else None
    with browser.visit(create=create) as session:
        assert Key("user", str) not in session
        session[Key("user", str)] = "eve"
    assert not set(browser.jar.values()) & set(presented.values())
    assert handle_of(browser) != presented_handle
    assert browser.jar["SESSION_KEY"][:22] != presented["SESSION_KEY"][:22]
    if before is None:
        assert record_of(face, presented_handle) is None
        assert live(face) == {handle_of(browser)}
    else:
        assert stored(face, presented_handle).pack() == before.pack()
    again = browser.copy()
    again.jar = presented
    turn = again.open()
    assert not turn.session.exists
    turn.discard()


@pytest.mark.parametrize("arrange", WELL_FORMED)
def test_rule_18_a_reader_gets_nothing_and_stores_nothing(face: Face, arrange: Callable[[Face], Browser]) -> None:
    """A request that only looks creates nothing under the id it brought, and its dead cookies are expired (rule 23)."""
    browser = arrange(face)
    sessions = live(face)
    turn = browser.open()
    assert turn.session.get(Key("user", str)) is None
    assert expired(turn.finish()) == cookies_set(turn.headers).keys() == BOTH
    assert live(face) == sessions


def test_rule_18_an_unknown_id_of_the_right_form_costs_one_call(make_face: Make) -> None:
    """Only the store can tell that it has never issued it."""
    face, store = watched(make_face)
    browser = never_issued(face)
    turn = browser.open()
    turn.discard()
    assert store.calls == {"open": 1}


def test_rule_18_there_is_one_spelling_of_an_id(face: Face) -> None:
    """No other text decodes to the same bytes: changing one character, or the case, is another id."""
    browser = begun(face)
    key = browser.jar["SESSION_KEY"]
    other = next(c for c in "AB" if c != key[-1])
    for spelling in (key + "=", key.swapcase(), key.replace("_", "/").replace("-", "+"), f"{key[:-1]}{other}", f"{key} x", key[:-1]):
        if spelling == key:
            continue
        forged = browser.copy()
        forged.jar["SESSION_KEY"] = spelling
        turn = forged.open()
        assert not turn.session.exists, spelling
        turn.discard()


def test_rule_18_a_route_behind_the_id_names_nothing(make_face: Make) -> None:
    """With `route`, the cookie is `<id>.<route>` for a load balancer; which session it is says the id alone."""
    face = make_face(route="node1")
    browser = begun(face)
    id_, dot, route = browser.jar["SESSION_KEY"].partition(".")
    assert (len(id_), dot, route) == (GOOD_LENGTH, ".", "node1")
    for other in (".node2", "", ".", ".../../etc", "." + "x" * 5000):
        browser.jar["SESSION_KEY"] = id_ + other
        with browser.visit() as session:
            assert session[Key("user", str)] == "ann"


def test_rule_18_a_route_that_cannot_be_written_is_not_sent_back(make_face: Make) -> None:
    """A lasting cookie is sent again when a use is written: the id with what a client has put behind it, unless that is no cookie value."""
    face = make_face(cookie_policy=CookiePolicy(max_age=3600))
    browser = begun(face)
    id_ = browser.jar["SESSION_KEY"]
    for other in (".node2", "." + "x" * 5000, '.a"b', ".a b", ".a\\b", ".\xe9", ".\x01"):
        face.clock.advance(61)
        browser.jar["SESSION_KEY"] = id_ + other
        with browser.visit() as session:
            assert session[Key("user", str)] == "ann"
        assert browser.jar["SESSION_KEY"] == id_ + (other if other == ".node2" else "")


def test_rule_18_an_id_has_one_spelling_with_a_route_too(face: Face) -> None:
    """What stands before the route is of the length of an id: nothing in it is skipped."""
    face.renew(route="node1")
    browser = face.browser()
    with browser.visit() as session:
        session[Key("name", str)] = "ann"
    key = browser.jar["SESSION_KEY"]
    assert key.endswith(".node1")
    opened: list[bool] = []
    for value in (key, f"!{key}", f"{key[:10]}*{key[10:]}", key.replace(".node1", "=.node1")):
        browser.jar["SESSION_KEY"] = value
        opened.append(face.call(face.manager.check_session_cookie(browser.request())))
    assert opened == [True, False, False, False]
