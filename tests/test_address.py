"""Addresses and the policy about them: one text for each, which count as the same, and how a policy is built (design rule 21; A1 to A7)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import FrozenInstanceError, replace
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Literal, TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.addresses import BEHIND_PROXY, CLIENT, PROXY, addresses, almost_addresses, not_asked, sent
from typed_sessions.address import LONGEST_ADDRESS, AddressPolicy, Origin, canonical, network
from typed_sessions.errors import PolicyError

# ------------------------------------------------------------------ one text per address


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1.2.3.4", "1.2.3.4"),
        (" \t1.2.3.4 ", "1.2.3.4"),
        ("1.2.3.4:80", "1.2.3.4"),
        ("1.2.3.4:_hidden", "1.2.3.4"),
        ("::ffff:1.2.3.4", "1.2.3.4"),
        ("::FFFF:102:304", "1.2.3.4"),
        ("[::ffff:1.2.3.4]:443", "1.2.3.4"),
        ("::ffff:1.2.3.4%eth0", "1.2.3.4"),
        ("2001:DB8:0:0::1", "2001:db8::1"),
        ("2001:0db8:0000:0000:0000:0000:0000:0001", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("[fe80::1%25eth0]:80", "fe80::1"),
        ("[::1]", "::1"),
        ("[::1]:80", "::1"),
        ("::", "::"),
    ],
)
def test_the_ways_to_write_an_address_have_one_canonical_text(text: str, expected: str) -> None:
    """A3: a mapped IPv4 address is the IPv4 address; zones, brackets, ports, blanks and case make no difference."""
    assert canonical(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "unknown", "_hidden", "testclient", "localhost", "unix:", "example.com", "1.2.3.4, 5.6.7.8"),
        *(
            "1.2.3",
            "1.2.3.4.5",
            "256.1.1.1",
            "01.2.3.4",
            "1.2.3.4/24",
            "1.2.3.4%eth0",
            "1.2.3.4:",
            "1.2.3.4:65536",
            "1.2.3.4:\u0663",
            "\u0661.2.3.4",
            "16909060",
        ),
        *(
            "[1.2.3.4]",
            "[::1",
            "::1]",
            "[::1]80",
            "[::1]:",
            "[::1]:x",
            "[[::1]]",
            ":::",
            "1::2::3",
            "fe80::1%",
            "12345::",
            "::g",
            "1.2.3.4\n",
            "\ud800",
        ),
    ],
)
def test_what_is_not_an_address_has_no_canonical_text(text: str) -> None:
    """A4: names, obfuscated hops (RFC 7239 section 6.3), bad ports, leading zeros and non-ASCII digits are None, never an error."""
    assert canonical(text) is None


def test_a_long_text_is_refused() -> None:
    """A4: beyond 100 characters a text is None, even if an address is in it."""
    assert canonical("1.2.3.4".rjust(LONGEST_ADDRESS)) == "1.2.3.4"
    assert canonical("1.2.3.4".rjust(LONGEST_ADDRESS + 1)) is None


@given(almost_addresses)
def test_canonical_never_raises_and_is_idempotent(text: str) -> None:
    """A3, A4: a canonical text is an address, and its own canonical text."""
    found = canonical(text)
    if found is not None:
        assert canonical(found) == found


@given(st.ip_addresses())
def test_every_address_is_known_and_keeps_its_number(address: IPv4Address | IPv6Address) -> None:
    """A3: no address is lost or mistaken for another one."""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    assert canonical(str(address)) == str(mapped or address)
    assert canonical(address.exploded.upper()) == str(mapped or address)


# ------------------------------------------------------------------ the same address?

Match: TypeAlias = Literal["exact", "network", "off"]


@pytest.mark.parametrize(
    ("match", "bound", "address", "same"),
    [
        ("network", "203.0.113.7", "203.0.113.200", True),
        ("network", "203.0.113.7", "203.0.114.7", False),
        ("network", "2001:db8:1:2::1", "2001:db8:1:2:ffff::9", True),
        ("network", "2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("network", "203.0.113.7", "2001:db8::1", False),
        ("network", "0.0.0.1", "::1", False),
        ("exact", "203.0.113.7", "203.0.113.7", True),
        ("exact", "203.0.113.7", "203.0.113.8", False),
        ("exact", "203.0.113.7", "::ffff:203.0.113.7", True),
        ("exact", "nonsense", "unknown", False),
        ("network", "nonsense", "unknown", False),
        ("off", "203.0.113.7", "2001:db8::1", True),
        ("off", None, "203.0.113.7", True),
        ("off", None, None, True),
    ],
)
def test_a_policy_says_which_addresses_are_the_same(match: Match, bound: str | None, address: str | None, same: bool) -> None:
    """A3, A5: by address, by /24 and /64, or not at all."""
    assert AddressPolicy(match=match).same(bound, address) is same


@pytest.mark.parametrize("match", ["exact", "network"])
def test_no_address_equals_nothing(match: Match) -> None:
    """A4: not even another address that is not known."""
    policy = AddressPolicy(match=match)
    assert not policy.same(None, None)
    assert not policy.same(None, CLIENT)
    assert not policy.same(CLIENT, None)


def test_prefixes_are_the_policys_own() -> None:
    """A5: how much of an address may change is an option."""
    wide = AddressPolicy(v4=16, v6=48)
    assert wide.same("203.0.113.7", "203.0.1.1")
    assert not wide.same("203.0.113.7", "203.1.113.7")
    assert wide.same("2001:db8:1:2::", "2001:db8:1:3::")
    assert not wide.same("2001:db8:1::", "2001:db8:2::")
    assert AddressPolicy(v4=32).same(CLIENT, CLIENT)
    assert not AddressPolicy(v4=32).same("203.0.113.7", "203.0.113.6")


@given(addresses, addresses, st.integers(0, 32), st.integers(0, 128))
def test_same_means_the_same_network(one: str, other: str, v4: int, v6: int) -> None:
    """A5: `same` is reflexive, symmetric, and agrees with `network`."""
    policy = AddressPolicy(v4=v4, v6=v6)
    assert policy.same(one, one)
    assert policy.same(one, other) is policy.same(other, one) is (policy.network(one) == policy.network(other))


def test_network_is_what_a_session_is_bound_to() -> None:
    """Rule 21: the network as text, the address itself for "exact", nothing for "off" and for no address."""
    policy = AddressPolicy()
    assert policy.network("10.1.2.3") == policy.network("::ffff:10.1.2.3") == "10.1.2.0/24"
    assert policy.network("2001:db8:1:2:3::4") == "2001:db8:1:2::/64"
    assert policy.network(None) is None
    assert policy.network("testclient") is None
    assert AddressPolicy(match="exact").network("10.1.2.3") == "10.1.2.3"
    assert AddressPolicy(match="off").network("10.1.2.3") is None
    assert network("10.1.2.3", 8, 64) == "10.0.0.0/8"


# ------------------------------------------------------------------ construction


def test_the_default_is_safe() -> None:
    """A1, A5, A7: by network, /24 and /64, nobody trusted, and a stolen cookie does not sign its owner out."""
    policy = AddressPolicy()
    assert (policy.match, policy.v4, policy.v6, policy.mismatch, policy.trusted_proxies) == ("network", 24, 64, "refuse", ())
    assert repr(policy) == "AddressPolicy(match='network', v4=24, v6=64, mismatch='refuse', trusted_proxies=())"


@pytest.mark.parametrize(
    ("options", "texts"),
    [
        ({"match": "subnet"}, ("match='subnet'", "'exact', 'network', 'off'")),
        ({"match": None}, ("match=None", "'exact', 'network', 'off'")),
        ({"mismatch": "delete"}, ("mismatch='delete'", "'refuse', 'end', 'report'")),
        ({"v4": 33}, ("v4=33", "0 to 32")),
        ({"v4": -1}, ("v4=-1", "0 to 32")),
        ({"v4": True}, ("v4=True",)),
        ({"v6": 129}, ("v6=129", "0 to 128")),
        ({"v6": "64"}, ("v6='64'", "0 to 128")),
        ({"trusted_proxies": "10.0.0.1"}, ("write ('10.0.0.1',)",)),
        ({"trusted_proxies": None}, ("trusted_proxies=None", "tuple or list")),
        ({"trusted_proxies": b"unix"}, ("tuple or list",)),
        ({"trusted_proxies": (10,)}, ("10 is not a text",)),
        ({"trusted_proxies": ("localhost",)}, ("'localhost'", "not resolved", "'127.0.0.1' and '::1'")),
        ({"trusted_proxies": ("",)}, ("''", "is not an address")),
        ({"trusted_proxies": ("*",)}, ("'*'", "is not an address")),
        ({"trusted_proxies": ("10.0.0.1:80",)}, ("'10.0.0.1:80'", "without a port")),
        ({"trusted_proxies": ("fe80::1%eth0",)}, ("'fe80::1%eth0'", "zone")),
        ({"trusted_proxies": ("10.0.0.1", "10.0.0.7/8")}, ("'10.0.0.7/8'", "the network give '10.0.0.0/8'", "the one address '10.0.0.7'")),
        ({"trusted_proxies": ("2001:db8::1/32",)}, ("'2001:db8::/32'", "'2001:db8::1'")),
        ({"trusted_proxies": ("0.0.0.0/0",)}, ("'0.0.0.0/0'", "everybody")),
        ({"trusted_proxies": ("::/0",)}, ("everybody",)),
        ({"trusted_proxies": ("::ffff:0:0/96",)}, ("everybody",)),
    ],
)
def test_an_illegal_policy_cannot_be_built(options: dict[str, Any], texts: Sequence[str]) -> None:
    """Rule 21: a mistake is found at the start, and the text says what to write instead."""
    with pytest.raises(PolicyError) as caught:
        AddressPolicy(**options)
    for text in texts:
        assert text in str(caught.value)


@pytest.mark.parametrize(
    ("proxy", "peer"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("192.0.2.0/24", "192.0.2.1"),
        ("192.0.2.0/255.255.255.0", "192.0.2.1"),
        ("192.0.2.1", "::ffff:192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.0/120", "192.0.2.1"),
        ("2001:DB8::/32", "2001:db8:5::1"),
        ("::1", "::1"),
    ],
)
def test_proxies_are_addresses_or_networks(proxy: str, peer: str) -> None:
    """A2, A3: in any writing, of the peer or in the policy."""
    policy = AddressPolicy(trusted_proxies=[proxy])
    assert policy.origin(peer, sent(xff=[CLIENT])).address == CLIENT
    assert policy.origin("8.8.8.8", not_asked).address == "8.8.8.8"


def test_a_policy_does_not_change() -> None:
    """Rule 21: it is frozen, and keeps a copy of the proxies; a changed one is a new one."""
    proxies = [PROXY]
    policy = AddressPolicy(trusted_proxies=proxies)
    proxies.append("8.8.8.8")
    assert policy.trusted_proxies == (PROXY,)
    assert policy == BEHIND_PROXY
    assert hash(policy) == hash(BEHIND_PROXY)
    with pytest.raises(FrozenInstanceError):
        policy.v4 = 8  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    assert replace(policy, trusted_proxies=()).origin(PROXY, not_asked) == Origin(PROXY, None)
