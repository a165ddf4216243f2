"""Where a request comes from: the client's address and scheme, and whether it is still the address that a session is bound to.

It knows texts and networks only: it must not know sessions, cookies, requests, stores or clocks, resolves no names and does no I/O.

Forwarded headers are text that anybody can send. Each proxy appends what it saw at the right end, so only the right end is worth anything:
it is read from there, as far as the hops are proxies that the policy trusts, and never one hop further.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final, Literal, NamedTuple, cast, final

from .declared import options_of_policy
from .errors import NoPeerAddress, PolicyError

logger: logging.Logger = logging.getLogger("typed_sessions")

LONGEST_ADDRESS = 100  # characters; the longest IPv6 text with brackets, a zone and a port stays well below
LONGEST_ELEMENT = 2048  # characters of one hop in `Forwarded`: room for host names of 255
MOST_HOPS = 64  # a header with more trusted hops than this is nobody's honest route

_PORT = r"(?::(?P<{0}>[0-9]{{1,5}}|_[0-9A-Za-z._-]+))?"  # RFC 7239 section 6: a port is a number or obfuscated
_ZONE = r"(?:%[^\s%/\[\]]+)?"
_ADDRESS = re.compile(
    rf"(?P<v4>[0-9.]+){_PORT.format('port4')}|\[(?P<boxed>[0-9A-Fa-f:.]+){_ZONE}\]{_PORT.format('port6')}|(?P<bare>[0-9A-Fa-f:.]+){_ZONE}"
)

# RFC 7239 section 4. Blanks around the semicolon and unquoted colons are not in its grammar, but proxies do write them.
_PAIR = re.compile(r"""[ \t]*(?:([!#$%&'*+.^_`|~0-9A-Za-z-]+)=(?:([^\s",;\\]+)|"([^"\\]*(?:\\.[^"\\]*)*)")[ \t]*)?(?:;|\Z)""", re.DOTALL)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)

_SCHEMES = {"https": True, "wss": True, "http": False, "ws": False}

_NO_PEER = (
    "the request came without a peer address, so no session can be bound to it. A test client has to be given one: WSGI's as "
    '{"REMOTE_ADDR": "127.0.0.1"} in the environ, ASGI\'s as "client": ("127.0.0.1", 50000) in the scope. If the server listens on a Unix '
    'socket behind a proxy that sets X-Forwarded-For (or Forwarded), say so with AddressPolicy(trusted_proxies=("unix",)); to bind '
    'sessions to no address, use AddressPolicy(match="off")'
)
_NOT_FORWARDED = (
    "the first request of a trusted proxy (%s) came with none of the headers Forwarded, X-Forwarded-For and X-Forwarded-Proto. If others "
    "come like this, all visitors have the proxy's own address, or none, and its scheme: over https they get the cookies of http. Either "
    "the proxy is not told to set these headers, or the server removes them (waitress does, without clear_untrusted_proxy_headers=False). "
    "A health check of the proxy's own needs none. This is said once"
)
NOT_TRUSTED: Final = (
    "a session begins for %s, which forwards for somebody else and is no trusted proxy. If it is a proxy of yours, all visitors have its "
    "address, and over https they get the cookies of http: name it, AddressPolicy(trusted_proxies=[%r]). This is said once"
)


class Origin(NamedTuple):
    """Where a request comes from.

    `address` is canonical, or None if it is not known: such an address equals nothing. `https` is what a trusted proxy said of the client's
    connection, or None if none did: then the server's own connection counts.
    """

    address: str | None
    https: bool | None


def canonical(text: str) -> str | None:
    """The one text of an IP address, or None if `text` is not one. Never raises.

    `::ffff:a.b.c.d` is `a.b.c.d`; IPv6 is lower-case and compressed (RFC 5952); zones (`fe80::1%eth0`), brackets, ports (`[::1]:80`,
    `1.2.3.4:80`) and surrounding blanks are dropped. Leading zeros, names, `unknown`, obfuscated hops (`_x`, RFC 7239 section 6.3) and
    texts of more than 100 characters are None.
    """
    # The length is looked at outside the cache: keys are what clients send, and the cache must not keep 4096 huge ones.
    return None if len(text) > LONGEST_ADDRESS else _canonical(text)


@lru_cache(4096)
def _canonical(text: str) -> str | None:
    match = _ADDRESS.fullmatch(text.strip(" \t"))
    if match is None:
        return None
    port = match["port4"] or match["port6"] or "0"
    if port[0] != "_" and int(port) > 65535:
        return None
    try:
        if match["v4"] is not None:
            return str(IPv4Address(match["v4"]))
        address = IPv6Address(match["boxed"] or match["bare"])
    except ValueError:
        return None
    return str(address.ipv4_mapped or address)


@lru_cache(4096)
def network(text: str, v4: int, v6: int) -> str | None:
    """The network of an address, with a prefix of `v4` or `v6` bits, as text (`10.1.2.0/24`); None if `text` is not an address."""
    address = canonical(text)
    if address is None:
        return None
    prefix = v6 if ":" in address else v4
    return str(ip_network(f"{address}/{prefix}", strict=False))


@lru_cache(4096)
def _number(address: str) -> tuple[int, int]:
    """A canonical address as its version and number: what a network's mask is applied to."""
    parsed = ip_address(address)
    return parsed.version, int(parsed)


@final
@options_of_policy({})
@dataclass(frozen=True, slots=True, kw_only=True)
class AddressPolicy:
    """Which address a request has, and whether a session may be used from it.

    match: `"exact"` binds a session to one address, `"network"` (the default) to its network, `"off"` to none. Clients that change
        between IPv4 and IPv6, or between networks, need `"off"`.
    v4, v6: the prefix of that network, in bits: 0 to 32 and 0 to 128. A household has a /64 of IPv6 or more, in which its addresses
        change by the day.
    mismatch: what a request from another address does. `"refuse"` (the default): it does not open the session, which goes on, and is
        answered as a stranger's is: with `create=False` by an error, otherwise with a session of its own, whose cookies take the place
        of those it came with once something is written. `"end"`: the session ends. `"report"`: it is only reported.
    trusted_proxies: the proxies whose forwarded headers are believed: addresses, networks (`"10.0.0.0/8"`), or the word `"unix"` for
        whoever connects through a Unix socket, where servers give no address. List every proxy of the route. Each must append to the
        header, or set it.

    Raises `PolicyError` if a word, a prefix or a proxy is not of this kind. Names are not resolved. `0.0.0.0/0` and `::/0` are refused:
    if everybody is a trusted proxy, every client chooses its address.

    A proxy that writes one of `Forwarded` and `X-Forwarded-For` usually passes the other on as the client sent it, and nothing in the
    request tells which. So if both are there and do not lead to the same address, the address is None: configure the proxy to remove
    the one that it does not write.
    """

    match: Literal["exact", "network", "off"] = "network"
    v4: int = 24
    v6: int = 64
    mismatch: Literal["refuse", "end", "report"] = "refuse"
    trusted_proxies: Sequence[str] = ()
    _unix: bool = field(init=False, repr=False, compare=False)
    _heard: bool = field(default=False, init=False, repr=False, compare=False)  # whether a trusted proxy has been heard of
    _networks: tuple[tuple[int, int, int], ...] = field(init=False, repr=False, compare=False)  # version, first number, mask

    def __post_init__(self) -> None:
        _check_word("match", self.match, ("exact", "network", "off"))
        _check_word("mismatch", self.mismatch, ("refuse", "end", "report"))
        _check_prefix("v4", self.v4, 32)
        _check_prefix("v6", self.v6, 128)
        proxies = _checked_proxies(self.trusted_proxies)
        networks = [_proxy_network(proxy) for proxy in proxies if proxy != "unix"]
        object.__setattr__(self, "trusted_proxies", proxies)  # a copy: a list could be changed behind the policy's back
        object.__setattr__(self, "_unix", "unix" in proxies)
        object.__setattr__(self, "_networks", tuple((n.version, int(n.network_address), int(n.netmask)) for n in networks))

    def origin(self, peer: str | None, headers: Callable[[str], Sequence[str]]) -> Origin:
        """The client's address and scheme. `peer` is the socket's; `headers(name)` gives all values of a lower-case name, in order.

        The headers are asked for only if the peer is a trusted proxy; otherwise the peer is the address. Of `Forwarded` (RFC 7239) and
        `X-Forwarded-For`, hops are read from the right: the first that is not a trusted proxy is the address, and if all are, the
        leftmost. A hop that cannot be parsed (`unknown`, `_x`, empty, no `for=`) ends the walk with no address: what is left of it is
        never believed. So does a 64th trusted hop with more to its left. If both headers are there and differ, there is no address.

        The scheme is the `proto=` of the element where the walk ended, or the value of `X-Forwarded-Proto` at that place from the right
        (a single value applies to all hops); None if nobody tells, or if the two differ.

        Nothing that a client sends makes it raise. A peer that cannot be parsed (`"testclient"`) is no address; where `"unix"` is
        trusted, it is the other end of a Unix socket. With no peer (None or empty) and `"unix"` not trusted it raises `NoPeerAddress`,
        unless `match="off"`. The first request of a trusted proxy is logged as a warning if it has none of these headers.
        """
        address = canonical(peer) if peer else None
        if address is not None:
            if not self._networks or not self._trusts(address):
                return Origin(address, None)
            return self._forwarded_origin(address, headers)
        if self._unix:
            # Servers that listen on a Unix socket give no peer, or a word of their own: "localhost", "<local>", "unix". A client
            # cannot claim to be one: it is the server that says who its peer is, and on an internet socket that is an address.
            return self._forwarded_origin(None, headers)
        if peer or self.match == "off":
            return Origin(None, None)
        raise NoPeerAddress(_NO_PEER)

    def trusts(self, peer: str | None) -> bool:
        """True if the socket's other end is a trusted proxy: its connection carries requests of many clients."""
        address = canonical(peer) if peer else None
        return self._unix if address is None else self._trusts(address)

    def unnamed_proxy(self, peer: str | None, headers: Callable[[str], Sequence[str]]) -> str | None:
        """The canonical address of a peer that seems to be a proxy of one's own and is not trusted; None of any other.

        It is on this machine or in a private network, and forwards for others. Where the server, or what is around the filter, puts the
        visitor's address into the proxy's place, the headers tell of that one.
        """
        address = canonical(peer) if peer else None
        if address is None or not ip_address(address).is_private or self._trusts(address):
            return None
        told = ",".join((*headers("x-forwarded-for"), *headers("forwarded")))
        return address if told and address not in told else None

    def same(self, bound: str | None, address: str | None) -> bool:
        """True if a session bound to the address `bound` may be used from `address`; both are as `origin` gave them.

        None equals nothing, not even None, unless `match="off"`.
        """
        if self.match == "off":
            return True
        if bound is None or address is None:
            return False
        if bound == address:
            return True
        one, other = self.network(bound), self.network(address)
        return one is not None and one == other

    def network(self, address: str | None) -> str | None:
        """What a session from this address is bound to: the network (`10.1.2.0/24`), for `"exact"` the address itself, for `"off"` None.

        None for None and for what cannot be parsed.
        """
        if address is None or self.match == "off":
            return None
        return canonical(address) if self.match == "exact" else network(address, self.v4, self.v6)

    def _trusts(self, address: str) -> bool:
        version, number = _number(address)
        return any(version == of and number & mask == first for of, first, mask in self._networks)

    def _forwarded_origin(self, peer: str | None, headers: Callable[[str], Sequence[str]]) -> Origin:
        """The origin according to a trusted proxy, of which `peer` is the address."""
        # Several fields of one name are one list (RFC 9110 section 5.3); WSGI servers hand them over already joined. Leading emptiness
        # comes from proxies that append to a header which was not there.
        standard, customary = (",".join(headers(name)).lstrip(" \t,") for name in ("forwarded", "x-forwarded-for"))
        schemes = ",".join(headers("x-forwarded-proto"))
        if not self._heard:
            # Once: where headers do come, a request without them is the proxy's own, and where none comes, one line says it.
            object.__setattr__(self, "_heard", True)
            if not (standard or customary or schemes):
                logger.warning(_NOT_FORWARDED, peer or "on a Unix socket")
        by_custom = self._by_x_forwarded(peer, customary, schemes)
        if not standard:
            return by_custom
        by_standard = self._by_forwarded(peer, standard)
        if customary and by_standard.address != by_custom.address:
            # One of the two is the client's own text, so a scheme counts only if both tell it.
            return Origin(None, by_standard.https if by_standard.https == by_custom.https else None)
        told = {by_standard.https, by_custom.https} - {None}
        return Origin(by_standard.address, told.pop() if len(told) == 1 else None)

    def _by_forwarded(self, peer: str | None, text: str) -> Origin:
        address, https = peer, None
        for element in _elements_from_right(text):
            pairs = _pairs(element)
            address = canonical(pairs.get("for", ""))
            https = _SCHEMES.get(pairs.get("proto", "").lower())
            if address is None or not self._trusts(address):
                break
        return Origin(address, https)

    def _by_x_forwarded(self, peer: str | None, text: str, schemes: str) -> Origin:
        address, depth = peer, 0
        # The last piece may be the unsplit rest of a header with too many hops: not an address, so the walk ends there.
        for hop in reversed(text.rsplit(",", MOST_HOPS - 1)) if text else ():
            depth += 1
            address = canonical(hop)
            if address is None or not self._trusts(address):
                break
        told = schemes.rsplit(",", MOST_HOPS)
        place = 1 if len(told) == 1 else max(depth, 1)
        scheme = told[-place] if place <= len(told) else ""
        return Origin(address, _SCHEMES.get(scheme.strip(" \t").lower()))


def _elements_from_right(text: str) -> Iterator[str]:
    """The elements of a `Forwarded` header, rightmost first, split at the commas outside quoted strings; in linear time.

    Quotes are paired from the right, too: paired from the left, a client's lone quote would swallow what a proxy appended after it.
    """
    end = position = comma = len(text)
    found = 0
    while True:
        if comma >= position:
            comma = text.rfind(",", 0, position)
        quote = text.rfind('"', comma + 1, position)
        if quote >= 0:
            position = _opening_quote(text, quote)
            if position >= 0 and end - position <= LONGEST_ELEMENT:
                continue
            comma = -1
        found += 1
        if comma < 0 or found == MOST_HOPS:
            yield text[:end]  # a lone quote, its length, or more than one element makes it unparsable: the walk ends here
            return
        yield text[comma + 1 : end]
        end = position = comma


def _opening_quote(text: str, closing: int) -> int:
    """Where the quoted string that ends at `closing` begins; -1 if nowhere within the longest element."""
    start = max(closing - LONGEST_ELEMENT, 0)
    quote = closing
    while True:
        quote = text.rfind('"', start, quote)
        if quote < 0:
            return -1
        first = quote
        while first > start and text[first - 1] == "\\":
            first -= 1
        if (quote - first) % 2 == 0:
            return quote


def _pairs(element: str) -> dict[str, str]:
    """The parameters of a `Forwarded` element by lower-case name; none if it is malformed, too long or repeats one (RFC 7239 section 4)."""
    if len(element) > LONGEST_ELEMENT:
        return {}
    pairs: dict[str, str] = {}
    position = 0
    while position < len(element):
        match = _PAIR.match(element, position)
        if match is None:
            return {}
        position = match.end()
        name, token, quoted = match.groups()
        if name is None:
            continue
        if name.lower() in pairs:
            return {}
        pairs[name.lower()] = token if token is not None else _ESCAPED.sub(r"\1", quoted)
    return pairs


def _check_word(option: str, value: object, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise PolicyError(f"AddressPolicy({option}={value!r}): expected one of {', '.join(map(repr, allowed))}")


def _check_prefix(option: str, value: object, most: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise PolicyError(f"AddressPolicy({option}={value!r}): expected the length of a network prefix, 0 to {most} bits")


def _checked_proxies(value: object) -> tuple[str, ...]:
    option = f"AddressPolicy(trusted_proxies={value!r})"
    if isinstance(value, str):
        raise PolicyError(f"{option}: expected a sequence of texts, not one text: write ({value!r},)")
    if not isinstance(value, Sequence) or isinstance(value, (bytes, bytearray)):
        raise PolicyError(f"{option}: expected a tuple or list of addresses, networks and the word 'unix'")
    proxies: list[str] = []
    for entry in cast("Sequence[object]", value):
        if not isinstance(entry, str):
            raise PolicyError(f"{option}: {entry!r} is not a text")
        proxies.append(entry)
    return tuple(proxies)


def _proxy_network(proxy: str) -> IPv4Network | IPv6Network:
    problem = f"AddressPolicy(trusted_proxies=...): {proxy!r}"
    try:
        # A zone would make a network that contains nothing: addresses are compared without theirs.
        meant = ip_network("" if "%" in proxy else proxy, strict=False)
    except ValueError:
        raise PolicyError(
            f"{problem} is not an address (without a port or zone), a network such as '10.0.0.0/8', or 'unix'. "
            "Names are not resolved: for 'localhost' give '127.0.0.1' and '::1'"
        ) from None
    host = proxy.partition("/")[0]
    if ip_address(host) != meant.network_address:
        raise PolicyError(f"{problem} has bits set beyond its prefix: for the network give '{meant}', for the one address '{host}'")
    # Peers are compared in canonical form, in which a mapped IPv4 address is an IPv4 address. (No prefix below 96 leaves a mapped one.)
    mapped = meant.network_address.ipv4_mapped if isinstance(meant, IPv6Network) else None
    if mapped is not None:
        meant = IPv4Network((int(mapped), meant.prefixlen - 96))
    if meant.prefixlen == 0:
        raise PolicyError(f"{problem} is everybody, so that every client could choose its address; give the networks of the proxies")
    return meant
