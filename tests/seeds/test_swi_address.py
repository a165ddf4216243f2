"""SWI-Prolog's peers: compared only without a timeout, and taken from headers that anybody can send. Here, rule 21."""

from __future__ import annotations

import pytest

from tests.faces import Face
from tests.seeds.cases import case
from tests.seeds.programs import ELSEWHERE, cookies_set, follow, handles, listen, subscribe, visit
from typed_sessions import AddressMismatch, AddressPolicy, Key, Rejected

PROXY = "10.9.9.9"
BEHIND_PROXY = AddressPolicy(trusted_proxies=("10.9.9.0/24",))


def forwarded(text: str) -> list[tuple[str, str]]:
    return [("X-Forwarded-For", text)]


@case("timeout-0-peer-checked", "improve", "a request from elsewhere is refused, and the session stays with its owner")
def test_a_stolen_id_destroys_nothing(face: Face) -> None:
    """The thief gets no session, the owner keeps theirs, and nobody's cookies are touched (rule 21, A7)."""
    visits = Key("visits", int)
    face.renew(timeout=None)
    owner = face.browser()
    visit(owner, visits)
    told = listen(face.manager)
    thief = owner.copy(ELSEWHERE)
    turn = thief.open()
    assert not turn.session.exists
    assert cookies_set(turn.finish()) == []
    assert visit(owner, visits) == 2
    assert told == []


@case("timeout-positive-peer-not-checked", "improve", "the address is checked whatever the timeout, by a policy of its own")
def test_the_address_check_has_nothing_to_do_with_the_timeout(face: Face) -> None:
    """With a timeout the thief is refused too, and reported; AddressPolicy(match="off") is how to let them all in (rule 21)."""
    visits = Key("visits", int)
    owner = face.browser()
    visit(owner, visits)
    seen: list[tuple[object, ...]] = []
    subscribe(face.manager, AddressMismatch, lambda event: seen.append((event.address, event.bound, event.what)))
    with pytest.raises(Rejected) as refused:
        owner.copy(ELSEWHERE).open(create=False)
    assert refused.value.reason == "other_address"
    assert seen == [(ELSEWHERE, owner.address, "address")]
    face.renew(address_policy=AddressPolicy(match="off"))
    assert visit(owner.copy(ELSEWHERE), visits) == 2


@case("per-session-timeout-0-peer-check", "improve", "a session's timeout changes nothing in the check, and a mismatch ends nothing")
def test_a_session_without_a_timeout_is_checked_like_any_other(face: Face) -> None:
    """A visit from elsewhere opens nothing and closes nothing (rules 11, 21)."""
    owner = face.browser()
    with owner.visit(create=True) as session:
        session.timeout = None
    assert not owner.copy(ELSEWHERE).open().session.exists
    assert owner.open().session.exists


@case("proxy-disabled-ignores-xff", "keep")
def test_forwarded_headers_of_strangers_are_ignored(face: Face) -> None:
    """Without trusted proxies the address is the socket's peer, whatever X-Forwarded-For says (rule 21, A1)."""
    browser = face.browser()
    with browser.visit(create=True, headers=forwarded("198.51.100.1")) as session:
        assert session.address == browser.address
    with browser.visit(headers=forwarded("203.0.113.1")) as session:
        assert session.exists


@case("proxy-enabled-peer-choice", "improve", "only trusted proxies are believed, and only what is an address")
def test_the_address_behind_a_trusted_proxy_is_the_last_that_it_does_not_trust(face: Face) -> None:
    """Counted from the right; headers that the proxy does not write are not read, and garbage is no address (rule 21, A2, A4)."""
    face.renew(address_policy=BEHIND_PROXY, create=True)

    def address(*headers: tuple[str, str], peer: str = PROXY) -> str | None:
        turn = face.browser(peer).open(headers=headers)
        found: str | None = turn.session.address
        turn.finish()
        return found

    assert address(*forwarded("198.51.100.1")) == "198.51.100.1"
    assert address(*forwarded("198.51.100.1, 203.0.113.2, 192.0.2.3")) == "192.0.2.3"
    assert address(*forwarded("198.51.100.1, 192.0.2.3, 10.9.9.8")) == "192.0.2.3"
    assert address(("X-Real-IP", "198.51.100.4")) == PROXY
    assert address(("Fastly-Client-Ip", "198.51.100.5"), *forwarded("192.0.2.4")) == "192.0.2.4"
    assert address(*forwarded("")) == PROXY
    assert address(*forwarded("198.51.100.1"), peer=ELSEWHERE) == ELSEWHERE
    with pytest.raises(Rejected) as refused:
        address(*forwarded("garbage"))
    assert refused.value.reason == "other_address"


@case("proxy-enabled-mismatch", "improve", "another address behind the proxy is refused, and nothing ends")
def test_another_address_behind_the_proxy_opens_nothing_and_ends_nothing(face: Face) -> None:
    """Another trusted proxy with the same client is the same; another client, or none, is refused (rule 21, A7)."""
    face.renew(address_policy=BEHIND_PROXY)
    browser = face.browser(PROXY)
    follow(browser, create=True, headers=forwarded("198.51.100.1"))
    told = listen(face.manager)
    assert browser.copy("10.9.9.10").open(headers=forwarded("198.51.100.1")).session.exists
    for headers in (forwarded("198.51.100.1, 203.0.113.6"), []):
        turn = browser.open(headers=headers)
        assert not turn.session.exists
        assert cookies_set(turn.finish()) == []
    assert browser.open(headers=forwarded("198.51.100.1")).session.exists
    assert (told, len(handles(face))) == ([], 1)
