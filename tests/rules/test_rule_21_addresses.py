"""Rule 21: the address is the socket's peer, or what trusted proxies say; and what a policy does when it is another than before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.faces import Browser, Face
from tests.planting import record_of
from tests.rules.scene import BOTH, cookies_set, expired, handle_of, is_open, listen, live, stored
from typed_sessions import AddressMismatch, AddressPolicy, CookiePolicy, End, Key, NoPeerAddress, Rejected

Make = Callable[..., Face]


def begun(face: Face, address: str | None = "10.1.2.3", *, forwarded: str | None = None) -> Browser:
    browser = face.browser(address)
    turn = browser.open(headers=[] if forwarded is None else [("X-Forwarded-For", forwarded)])
    turn.session[Key("user", str)] = "ann"
    turn.finish()
    return browser


def opens(browser: Browser, *headers: tuple[str, str]) -> bool:
    """Whether the browser's next request gets its session."""
    try:
        turn = browser.open(headers=headers)
    except Rejected:
        return False
    found = turn.session.exists
    turn.discard()
    return found


# ------------------------------------------------------------------ which address it is


def test_rule_21_the_address_is_the_sockets_peer(face: Face) -> None:
    """Forwarded headers are text that anybody can send: from whoever is no trusted proxy, they say nothing (A1)."""
    browser = begun(face, "10.1.2.3", forwarded="192.0.2.1")
    assert stored(face, handle_of(browser)).address == "10.1.2.3"
    thief = browser.copy(address="198.51.100.1")
    for name, value in (
        ("X-Forwarded-For", "10.1.2.3"),
        ("Forwarded", "for=10.1.2.3"),
        ("X-Real-IP", "10.1.2.3"),
        ("Client-IP", "10.1.2.3"),
        ("True-Client-IP", "10.1.2.3"),
    ):
        assert not opens(thief, (name, value))


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded"])
def test_rule_21_trusted_proxies_are_counted_from_the_right(make_face: Make, header: str) -> None:
    """What stands left of the last hop that is not trusted is the client's own text (A2)."""
    face = make_face(address_policy=AddressPolicy(trusted_proxies=["10.0.0.0/8"]))

    def hops(*addresses: str) -> tuple[str, str]:
        return header, ", ".join(addresses if header == "X-Forwarded-For" else [f"for={address}" for address in addresses])

    browser = face.browser("10.0.0.1")
    turn = browser.open(headers=[hops("198.51.100.9", "192.0.2.1", "10.0.0.2")])
    turn.session[Key("user", str)] = "ann"
    turn.finish()
    assert stored(face, handle_of(browser)).address == "192.0.2.1"
    assert opens(browser, hops("192.0.2.1"))
    assert opens(browser, hops("junk", "192.0.2.1", "10.9.9.9", "10.0.0.2"))
    assert not opens(browser, hops("192.0.2.1", "198.51.100.1"))
    assert not opens(browser, hops("192.0.2.1", "unknown"))
    assert not opens(browser)


def test_rule_21_mapped_ipv4_is_ipv4(make_face: Make) -> None:
    """`::ffff:a.b.c.d` is `a.b.c.d`, as dual-stack servers give it (A3)."""
    face = make_face(address_policy=AddressPolicy(match="exact"))
    browser = begun(face, "::ffff:192.0.2.1")
    assert stored(face, handle_of(browser)).address == "192.0.2.1"
    for spelling in ("192.0.2.1", "::FFFF:192.0.2.1", "::ffff:c000:201"):
        assert opens(browser.copy(address=spelling))
    assert not opens(browser.copy(address="::192.0.2.1"))


@pytest.mark.parametrize(
    ("policy", "same", "other"),
    [
        (AddressPolicy(), ["192.0.2.1", "192.0.2.254"], ["192.0.3.1", "2001:db8::1"]),
        (AddressPolicy(match="exact"), ["192.0.2.1"], ["192.0.2.2", "2001:db8::1"]),
        (AddressPolicy(match="off"), ["192.0.2.1", "198.51.100.1", "2001:db8::1"], []),
        (AddressPolicy(v4=16), ["192.0.2.1", "192.0.99.1"], ["192.1.2.1"]),
    ],
    ids=str,
)
def test_rule_21_what_counts_as_the_same_address(make_face: Make, policy: AddressPolicy, same: list[str], other: list[str]) -> None:
    """Exact, by network (`/24` and `/64` by default), or off."""
    face = make_face(address_policy=policy)
    browser = begun(face, "192.0.2.1")
    assert [address for address in [*same, *other] if opens(browser.copy(address=address))] == same


def test_rule_21_a_household_of_ipv6_is_a_slash_64(face: Face) -> None:
    """Its addresses change by the day within it (A5)."""
    browser = begun(face, "2001:db8:0:1::5")
    assert opens(browser.copy(address="2001:db8:0:1:ffff:ffff:ffff:ffff"))
    assert not opens(browser.copy(address="2001:db8:0:2::5"))


def test_rule_21_a_renew_binds_to_where_it_came_from(make_face: Make) -> None:
    """A session that moves within its network, and renews there, is bound to the new address."""
    face = make_face()
    browser = begun(face, "192.0.2.1")
    moved = browser.copy(address="192.0.2.77")
    with moved.visit() as session:
        session.renew()
    assert stored(face, handle_of(moved)).address == "192.0.2.77"


# ------------------------------------------------------------------ no address


def test_rule_21_what_cannot_be_parsed_equals_nothing(make_face: Make) -> None:
    """Not even itself: a session that could be bound to such a text is never begun, and none is opened from there (A4)."""
    face = make_face(address_policy=AddressPolicy(trusted_proxies=["10.0.0.1"]))
    browser = begun(face, "10.0.0.1", forwarded="192.0.2.1")
    for junk in ("unknown", "_hidden", "192.0.2.1.example.org", "999.0.2.1", "192.0.2.1/24", "\x00", "x" * 5000):
        assert not opens(browser, ("X-Forwarded-For", junk))
        with pytest.raises(Rejected) as refused:
            face.browser("10.0.0.1").open(create=True, headers=[("X-Forwarded-For", junk)])
        assert refused.value.reason == "other_address"
    assert live(face) == {handle_of(browser)}


@pytest.mark.parametrize("peer", [None, "", "testclient", "/run/server.sock"])
def test_rule_21_without_a_peer_address_there_is_no_session_at_all(face: Face, peer: str | None) -> None:
    """`NoPeerAddress`, with the remedy in its text; not a session per request, which nobody would notice."""
    for create in (True, "on_write"):
        with pytest.raises(NoPeerAddress) as problem:
            face.browser(peer).open(create=create)
        for word in ("AddressPolicy", "trusted_proxies", "unix", 'match="off"'):
            assert word in str(problem.value)
    assert live(face) == set()


def test_rule_21_a_test_clients_peer_is_no_address(face: Face) -> None:
    """That is where most meet the error first, so its text says what to give the client."""
    with pytest.raises(NoPeerAddress) as problem:
        face.browser("testclient").open(create=True)
    assert 'TestClient(app, client=("127.0.0.1", 50000))' in str(problem.value)
    assert 'where it takes none (Litestar\'s), or addresses mean nothing, there is AddressPolicy(match="off")' in str(problem.value)


def test_rule_21_the_remedies_work(make_face: Make) -> None:
    """What the text of `NoPeerAddress` says: the word "unix" behind a proxy on a Unix socket, or no binding."""
    face = make_face(address_policy=AddressPolicy(trusted_proxies=["unix"]))
    browser = begun(face, None, forwarded="192.0.2.1")
    assert stored(face, handle_of(browser)).address == "192.0.2.1"
    assert opens(browser, ("X-Forwarded-For", "192.0.2.1"))
    for word in ("localhost", "<local>", "unix"):  # what some servers call the other end of a Unix socket
        assert opens(browser.copy(address=word), ("X-Forwarded-For", "192.0.2.1"))
        assert not opens(browser.copy(address=word), ("X-Forwarded-For", "198.51.100.1"))
        assert opens(begun(face, word, forwarded="192.0.2.1"), ("X-Forwarded-For", "192.0.2.1"))
    face.renew(address_policy=AddressPolicy(match="off"))
    for peer in (None, "testclient"):
        assert opens(begun(face, peer))


def test_rule_21_a_text_for_an_address_finds_no_session(face: Face) -> None:
    """A request with good cookies from an unreadable peer is refused like one from elsewhere, where no session is created."""
    browser = begun(face)
    with pytest.raises(Rejected) as refused:
        browser.copy(address="testclient").open(create=False)
    assert refused.value.reason == "other_address"


# ------------------------------------------------------------------ another address

ELSEWHERE = "198.51.100.1"


def test_rule_21_refuse_leaves_cookies_and_session_alone(face: Face) -> None:
    """The default: no session for this request, nothing else. `AddressMismatch` says from where to where."""
    browser = begun(face)
    before = stored(face, handle_of(browser)).pack()
    events: list[AddressMismatch] = []
    listen(face, AddressMismatch, events.append)
    with pytest.raises(Rejected) as refused:
        browser.copy(address=ELSEWHERE).open(create=False)
    assert (refused.value.reason, refused.value.status, cookies_set(refused.value.headers)) == ("other_address", 400, {})
    turn = browser.copy(address=ELSEWHERE).open()
    assert not turn.session.exists
    assert cookies_set(turn.finish()) == {}
    assert [(event.what, event.bound, event.address) for event in events] == [("address", "10.1.2.3", ELSEWHERE)] * 2
    assert stored(face, handle_of(browser)).pack() == before
    assert opens(browser)


def test_rule_21_end_ends_it(make_face: Make) -> None:
    """`mismatch="end"`: whoever moves, or steals, signs out, with the reason "address"; the cookies go."""
    face = make_face(address_policy=AddressPolicy(mismatch="end"))
    browser = begun(face)
    handle = handle_of(browser)
    ends: list[str] = []
    listen(face, End, lambda event: ends.append(event.reason))
    turn = browser.copy(address=ELSEWHERE).open()
    assert not turn.session.exists
    assert expired(turn.finish()) == BOTH
    assert ends == ["address"]
    assert record_of(face, handle) is None
    assert not opens(browser)


def test_rule_21_report_only_reports(make_face: Make) -> None:
    """`mismatch="report"`: the session is handed out, and `AddressMismatch` sent; its use counts."""
    face = make_face(address_policy=AddressPolicy(mismatch="report"))
    browser = begun(face)
    events: list[AddressMismatch] = []
    listen(face, AddressMismatch, events.append)
    face.clock.advance(100)
    with browser.copy(address=ELSEWHERE).visit() as session:
        assert session[Key("user", str)] == "ann"
        session[Key("user", str)] = "eve"
    assert [event.what for event in events] == ["address"]
    record = stored(face, handle_of(browser))
    assert (record.used, record.address) == (face.clock(), "10.1.2.3")
    with browser.visit() as session:
        assert session[Key("user", str)] == "eve"


@pytest.mark.parametrize("match", ["exact", "network"])
def test_rule_21_a_stolen_cookie_neither_signs_its_owner_out_nor_keeps_him_in(make_face: Make, match: Any) -> None:
    """Replayed from elsewhere all the time, it opens nothing, and the owner's session ends when the owner's own use is over (A7)."""
    face = make_face(address_policy=AddressPolicy(match=match), cookie_policy=CookiePolicy(max_age=1000))
    browser = begun(face)
    thief = browser.copy(address=ELSEWHERE)
    for _ in range(5):
        face.clock.advance(100)
        for create in (True, "on_write"):
            turn = thief.copy().open(create=create)
            assert Key("user", str) not in turn.session
            assert not set(browser.jar.values()) & {text.split("=", 1)[1].split(";")[0] for text in cookies_set(turn.finish()).values()}
        with browser.visit() as session:
            assert session[Key("user", str)] == "ann"
    for _ in range(66):
        assert is_open(browser)
        face.clock.advance(10)
        thief.copy().open().discard()
    assert not is_open(browser)


def test_rule_21_a_thief_who_writes_gets_a_session_of_his_own(face: Face) -> None:
    """With the default `create="on_write"`: what is written from elsewhere goes into a new session, and its owner sees nothing of it."""
    browser = begun(face)
    thief = browser.copy(address=ELSEWHERE)
    with thief.visit() as session:
        session[Key("user", str)] = "thief"
    assert handle_of(thief) != handle_of(browser)
    with browser.visit() as session:
        assert session[Key("user", str)] == "ann"


def test_rule_21_no_address_equals_no_address_neither(make_face: Make) -> None:
    """A session bound to nothing, from a time with `match="off"`: one that asks for an address opens it for nobody, and writes no use."""
    face = make_face(address_policy=AddressPolicy(match="off"))
    browser = begun(face, "testclient")
    assert stored(face, handle_of(browser)).address is None
    assert opens(browser)
    face.renew(address_policy=AddressPolicy())
    before = stored(face, handle_of(browser)).pack()
    for seconds in (0, 61):
        face.clock.advance(seconds)
        for address in ("testclient", "10.1.2.3"):
            with pytest.raises(Rejected) as refused:
                browser.copy(address=address).open(create=False)
            assert refused.value.reason == "other_address"
    assert stored(face, handle_of(browser)).pack() == before


def test_rule_21_a_trusted_proxy_says_too_that_a_request_came_in_the_clear(make_face: Callable[..., Face]) -> None:
    """The connection from the proxy is encrypted, the visitor's was not: a browser would refuse `__Host-` cookies over it (rule 19)."""
    face = make_face(address_policy=AddressPolicy(trusted_proxies=("10.0.0.1",)))
    browser = face.browser("10.0.0.1", https=True)
    for scheme, prefix in (("http", ""), ("https", "__Host-")):
        turn = browser.open(headers=[("X-Forwarded-For", "203.0.113.7"), ("X-Forwarded-Proto", scheme)])
        turn.session[Key("name", str)] = "ann"
        turn.send()
        assert set(cookies_set(turn.headers)) == {f"{prefix}SESSION_KEY", f"{prefix}SESSION_ADDR"}
