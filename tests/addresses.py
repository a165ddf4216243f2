"""What tests of addresses share: a client, two proxies and the headers between them, and texts that are addresses or nearly.

The addresses are those set aside for documentation (RFC 5737, RFC 3849): `CLIENT` is the true client, `PROXY` the trusted proxy that is
the peer, `OUTER` another proxy, before it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from hypothesis import strategies as st

from typed_sessions.address import AddressPolicy

Headers: TypeAlias = Callable[[str], Sequence[str]]

CLIENT = "203.0.113.7"
PROXY = "192.0.2.1"
OUTER = "198.51.100.9"
BEHIND_PROXY = AddressPolicy(trusted_proxies=(PROXY,))
BEHIND_TWO = AddressPolicy(trusted_proxies=(PROXY, "198.51.100.0/24"))


def sent(forwarded: Sequence[str] = (), xff: Sequence[str] = (), proto: Sequence[str] = ()) -> Headers:
    """The headers of a request; asking for any other, or not by its lower-case name, fails."""
    by_name = {"forwarded": forwarded, "x-forwarded-for": xff, "x-forwarded-proto": proto}
    return by_name.__getitem__


def not_asked(name: str) -> Sequence[str]:
    raise AssertionError(f"{name} was looked at")


addresses = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).map(str)
before = st.sampled_from(["", " ", "[", "::ffff:", "[::ffff:"])
after = st.sampled_from(["", " ", "]", "]:80", ":80", "%eth0", "%1]:_p", ":99999"])
decorated = st.tuples(before, addresses, after).map("".join)
almost_addresses = st.one_of(decorated, st.text(alphabet='0123456789abcdefF.:[]%_ ,"\\', max_size=50), st.text(max_size=120))
