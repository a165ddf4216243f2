"""Where a request comes from, by its peer and by what trusted proxies say in its headers (design rule 21; A1 to A4)."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable, Sequence
from typing import TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.addresses import BEHIND_PROXY, BEHIND_TWO, CLIENT, OUTER, PROXY, Headers, addresses, almost_addresses, not_asked, sent
from tests.faces import Face
from typed_sessions import Key
from typed_sessions.address import MOST_HOPS, AddressPolicy, Origin, canonical
from typed_sessions.errors import NoPeerAddress

FindOrigin: TypeAlias = Callable[[str | None, Headers], Origin]


# ------------------------------------------------------------------ the peer


@pytest.mark.parametrize("policy", [AddressPolicy(), AddressPolicy(match="exact"), AddressPolicy(match="off"), BEHIND_PROXY])
def test_without_a_trusted_peer_headers_are_not_looked_at(policy: AddressPolicy) -> None:
    """A1: the address is the socket's peer, and what the client claims is not even read."""
    assert policy.origin(CLIENT, not_asked) == Origin(CLIENT, None)
    assert policy.origin("::ffff:203.0.113.7", not_asked) == Origin(CLIENT, None)
    assert policy.origin("[2001:DB8::1]:4711", not_asked) == Origin("2001:db8::1", None)


@pytest.mark.parametrize("policy", [AddressPolicy(), BEHIND_PROXY])
def test_a_peer_that_is_no_address_is_no_address(policy: AddressPolicy) -> None:
    """A4: a test client's "testclient" neither raises, nor equals anything, nor is trusted."""
    address, https = policy.origin("testclient", not_asked)
    assert (address, https) == (None, None)
    assert not policy.same(address, address)


@pytest.mark.parametrize("peer", [None, ""])
@pytest.mark.parametrize("policy", [AddressPolicy(), AddressPolicy(match="exact"), BEHIND_PROXY])
def test_no_peer_raises_with_the_remedy(policy: AddressPolicy, peer: str | None) -> None:
    """Rule 21: no peer and no trusted Unix socket is a mistake of the set-up, and the text says what to write."""
    with pytest.raises(NoPeerAddress) as caught:
        policy.origin(peer, sent(xff=[CLIENT]))
    of_tests = ('{"REMOTE_ADDR": "127.0.0.1"} in the environ', '"client": ("127.0.0.1", 50000) in the scope')
    for remedy in (*of_tests, 'trusted_proxies=("unix",)', 'match="off"', "X-Forwarded-For"):
        assert remedy in str(caught.value)


def test_no_peer_is_fine_when_addresses_do_not_matter() -> None:
    """Rule 21: with `match="off"` nothing is bound, so nothing is missing."""
    assert AddressPolicy(match="off").origin(None, not_asked) == Origin(None, None)


@pytest.mark.parametrize("peer", [None, "", "localhost", "<local>", "unix", "unix:/run/server.sock"])
def test_on_a_unix_socket_the_proxy_tells(peer: str | None) -> None:
    """Rule 21: "unix" trusts whoever connects without an address, whatever a server calls that; the client's own hops stay unbelieved."""
    policy = AddressPolicy(trusted_proxies=("unix",))
    assert policy.origin(peer, sent(xff=["8.8.8.8, " + CLIENT], proto=["https"])) == Origin(CLIENT, True)
    assert policy.origin(peer, sent()) == Origin(None, None)
    assert policy.origin(PROXY, not_asked) == Origin(PROXY, None)


# ------------------------------------------------------------------ headers that do not arrive


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


@pytest.mark.parametrize(("peer", "named"), [(PROXY, PROXY), (None, "Unix socket"), ("localhost", "Unix socket")])
def test_a_trusted_proxy_without_any_header_is_reported_once(caplog: pytest.LogCaptureFixture, peer: str | None, named: str) -> None:
    """Rule 21: there are servers that remove the headers, which nothing else would tell; each policy says it once."""
    for _ in range(2):
        policy = AddressPolicy(trusted_proxies=(PROXY, "unix"))
        for _ in range(3):
            policy.origin(peer, sent())
        assert policy.origin(peer, sent(xff=[CLIENT])).address == CLIENT
    first, second = warnings_of(caplog)
    assert first == second
    for text in (named, "X-Forwarded-For", "waitress", "clear_untrusted_proxy_headers=False"):
        assert text in first


@pytest.mark.parametrize("headers", [sent(xff=[CLIENT]), sent(forwarded=[f"for={CLIENT}"]), sent(proto=["https"]), sent(xff=["unknown"])])
def test_where_the_headers_arrive_nothing_is_reported(caplog: pytest.LogCaptureFixture, headers: Headers) -> None:
    """Rule 21: nor for the proxy's own requests after that (health checks), nor for peers that are no proxies."""
    policy = AddressPolicy(trusted_proxies=(PROXY,))
    policy.origin(CLIENT, not_asked)
    policy.origin(PROXY, headers)
    policy.origin(PROXY, sent())
    assert warnings_of(caplog) == []


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded"])
@pytest.mark.parametrize("trusted", [(), ("10.9.9.9",)])
def test_a_proxy_that_is_not_named_is_reported_once(
    make_face: Callable[..., Face], caplog: pytest.LogCaptureFixture, trusted: Sequence[str], header: str
) -> None:
    """Rule 21: everybody comes from its address then, which nothing else would tell; the text says what to write."""
    face = make_face(address_policy=AddressPolicy(trusted_proxies=trusted))
    for _ in range(3):
        turn = face.browser("10.0.0.1").open(headers=[(header, f"for={CLIENT}")])
        turn.session[Key("name", str)] = "ann"
        turn.finish()
    [said] = warnings_of(caplog)
    for text in ("a session begins for 10.0.0.1", "AddressPolicy(trusted_proxies=['10.0.0.1'])", "the cookies of http"):
        assert text in said


@pytest.mark.parametrize(
    ("peer", "header"),
    [
        ("10.0.0.1", None),
        (CLIENT.replace("203.0.113", "8.8.8"), "1.1.1.1"),
        ("10.0.0.1", "10.0.0.1"),
        ("10.9.9.9", "1.1.1.1"),
    ],
    ids=["nothing forwarded", "a stranger's own header", "the server has put the visitor in the proxy's place", "it is named"],
)
def test_who_is_no_unnamed_proxy_is_not_reported(
    make_face: Callable[..., Face], caplog: pytest.LogCaptureFixture, peer: str, header: str | None
) -> None:
    """Rule 21: only one of a private network, that forwards for others, may be a proxy of one's own."""
    face = make_face(address_policy=AddressPolicy(trusted_proxies=["10.9.9.9"]))
    turn = face.browser(peer).open(headers=[] if header is None else [("X-Forwarded-For", header)])
    turn.session[Key("name", str)] = "ann"
    turn.finish()
    assert [text for text in warnings_of(caplog) if "a session begins" in text] == []


def test_only_the_first_sessions_are_asked_for_a_proxy(make_face: Callable[..., Face], caplog: pytest.LogCaptureFixture) -> None:
    """Rule 21: behind one all requests come through it, so no session of later pays for the question."""
    face = make_face()
    for number in range(101):
        turn = face.browser("10.0.0.1").open(headers=[("X-Forwarded-For", CLIENT)] if number == 100 else [])
        turn.session[Key("name", str)] = "ann"
        turn.finish()
    assert warnings_of(caplog) == []


# ------------------------------------------------------------------ X-Forwarded-For


@pytest.mark.parametrize(
    ("xff", "address"),
    [
        ([CLIENT], CLIENT),
        (["8.8.8.8, " + CLIENT], CLIENT),
        (["8.8.8.8", CLIENT], CLIENT),
        ([f"8.8.8.8,{CLIENT}:4711,{OUTER}"], CLIENT),
        (["8.8.8.8", CLIENT, OUTER, PROXY], CLIENT),
        (["2001:db8::5"], "2001:db8::5"),
        (['"' + CLIENT + '", ' + CLIENT], CLIENT),
    ],
)
def test_the_first_hop_from_the_right_that_is_no_proxy_is_the_address(xff: Sequence[str], address: str) -> None:
    """A2: hops are counted from the right, over several headers as over commas."""
    assert BEHIND_TWO.origin(PROXY, sent(xff=xff)).address == address


@pytest.mark.parametrize("xff", [[], [""], [" "], [","], ["", ""]])
def test_a_proxy_that_says_nothing_is_the_client(xff: Sequence[str]) -> None:
    """Rule 21: a request that a trusted proxy makes on its own account has the proxy's address."""
    assert BEHIND_PROXY.origin(PROXY, sent(xff=xff)) == Origin(PROXY, None)


@pytest.mark.parametrize("xff", [f"198.51.100.20, {OUTER}", f", 198.51.100.20, {OUTER}"])
def test_if_all_hops_are_trusted_the_leftmost_is_the_address(xff: str) -> None:
    """Rule 21: proxies may be clients, too; emptiness at the far left comes from appending to a header that was not there."""
    assert BEHIND_TWO.origin(PROXY, sent(xff=[xff])).address == "198.51.100.20"


@pytest.mark.parametrize("junk", ["unknown", "_hidden", "", "127.1", "evil.example", "1.2.3.4.5", "\x00", "x" * 10_000])
def test_what_is_left_of_junk_is_never_believed(junk: str) -> None:
    """A2, A4: a proxy that did not know its client leaves no address, whatever the client put before it."""
    assert BEHIND_TWO.origin(PROXY, sent(xff=[f"{CLIENT}, {junk}"])).address is None
    assert BEHIND_TWO.origin(PROXY, sent(xff=[f"{CLIENT}, {junk}, {OUTER}"])).address is None
    assert BEHIND_TWO.origin(PROXY, sent(xff=[f"8.8.8.8, {junk}, {CLIENT}"])).address == CLIENT


@pytest.mark.parametrize("form", ["{}", "for={}"])
def test_hops_are_capped(form: str) -> None:
    """Rule 21: up to 64 trusted hops are followed; beyond, there is no address."""

    def origin(hops: int) -> str | None:
        text = ",".join(form.format(OUTER) for _ in range(hops))
        return BEHIND_TWO.origin(PROXY, sent(xff=[text]) if form == "{}" else sent(forwarded=[text])).address

    assert origin(MOST_HOPS) == OUTER
    assert origin(MOST_HOPS + 1) is None
    assert origin(100_000) is None


# ------------------------------------------------------------------ Forwarded


@pytest.mark.parametrize(
    "forwarded",
    [
        [f"for={CLIENT}"],
        [f"For={CLIENT};proto=http;by={PROXY}"],
        [f'by=_secret; host="a, b;for=6.6.6.6" ; FOR="{CLIENT}:4711"'],
        [f'for="\\{CLIENT}"'],
        [f"for=8.8.8.8, for={CLIENT}"],
        ["for=8.8.8.8", f"for={CLIENT}"],
        [f"for=8.8.8.8;proto=https,for={CLIENT},for={OUTER};proto=http"],
        [f'for=unknown, for="{CLIENT}"'],
        [f'for="8.8.8.8, for={CLIENT}'],
        ['for="8.8.8.8', f'for="{CLIENT}"'],
        [f'x"\\, for="{CLIENT}";host="\\",\\\\"'],
    ],
)
def test_forwarded_is_read_from_the_right(forwarded: Sequence[str]) -> None:
    """A2, RFC 7239 sections 4 and 7.1: quoted strings, commas inside them, several headers, a client's lone quote at the left."""
    assert BEHIND_TWO.origin(PROXY, sent(forwarded=forwarded)).address == CLIENT


def test_forwarded_carries_ipv6_in_brackets() -> None:
    """A3, RFC 7239 section 6: an IPv6 node is quoted and in brackets, perhaps with a port; it may lack the quotes."""
    for text in ('for="[2001:db8:cafe::17]:4711"', 'for="[2001:DB8:CAFE::17]"', "for=[2001:db8:cafe::17]:_p"):
        assert BEHIND_PROXY.origin(PROXY, sent(forwarded=[text])).address == "2001:db8:cafe::17"


@pytest.mark.parametrize(
    "element",
    [
        *(f"for={CLIENT}\n", f'for="{CLIENT}"\n', f"for={CLIENT};\n", f"for={CLIENT};host={'x' * 3000}"),
        *("for=unknown", "for=_hidden", 'for="_hidden:80"', "proto=https", "", ";", "for", "for=", "=1.2.3.4", "for = 1.2.3.4"),
        *(
            f"for={CLIENT};for={CLIENT}",
            f'for="{CLIENT}',
            f'for={CLIENT}"',
            f'for="{CLIENT}\\"',
            f'for="{CLIENT}"x',
            "for=203.0.113.7 proto=https",
        ),
    ],
)
def test_an_element_that_names_no_address_ends_the_walk(element: str) -> None:
    """A2, A4, RFC 7239 sections 4 and 6: unknown, obfuscated, malformed, a parameter given twice, or a huge one."""
    assert BEHIND_TWO.origin(PROXY, sent(forwarded=[f"for=8.8.8.8, {element}"])).address is None
    assert BEHIND_TWO.origin(PROXY, sent(forwarded=["for=8.8.8.8", element, f"for={OUTER}"])).address is None


@pytest.mark.parametrize(
    "huge",
    [
        '"' * 500_000,
        '""' * 250_000,
        '\\"' * 250_000,
        '"\\' * 250_000,
        "," * 500_000,
        'for="' + "\\\\" * 250_000,
        ";" * 500_000,
        "a=b;" * 125_000,
        "," + '""' * 250_000,
    ],
)
def test_a_huge_header_costs_linear_time(huge: str) -> None:
    """C9, for forwarded headers: half a megabyte of quotes, backslashes or commas is read in well under a second, and gives no address."""
    started = time.perf_counter()
    for text in (f"x{huge}", f"x{huge},for={OUTER}", f"x{huge},{OUTER}"):
        assert BEHIND_TWO.origin(PROXY, sent(forwarded=[text])).address is None
        assert BEHIND_TWO.origin(PROXY, sent(xff=[text], proto=[text])).address is None
    assert time.perf_counter() - started < 3


def calls_for(forwarded: str) -> int:
    """How many functions of Python's own are called to read this header, beside one that leads to an address."""
    calls = 0

    def count(_frame: object, event: str, _arg: object) -> None:
        nonlocal calls
        calls += event == "c_call"

    gc.disable()  # what other tests have left would be freed in between, and counted
    sys.setprofile(count)
    try:
        found = BEHIND_PROXY.origin(PROXY, sent([forwarded], [CLIENT]))
    finally:
        sys.setprofile(None)
        gc.enable()
    assert found.address is None
    return calls


@pytest.mark.parametrize("quotes", ['"', '""', '\\"', '"\\', '","', 'a="b";'])
def test_quotes_beyond_the_longest_element_are_not_looked_at(quotes: str) -> None:
    """A proxy that writes X-Forwarded-For passes `Forwarded` on as it came, so all of it may be the client's, at every request."""
    calls_for(quotes)  # what the first call alone does: caches
    short, long = (calls_for(quotes * (length // len(quotes))) for length in (10_000, 100_000))
    assert short == long < 5_000


# ------------------------------------------------------------------ both headers


def test_two_headers_that_agree_are_believed() -> None:
    """Rule 21: a proxy may write both."""
    assert BEHIND_PROXY.origin(PROXY, sent([f'for="{CLIENT}:80"'], [CLIENT])) == Origin(CLIENT, None)


def test_two_headers_that_differ_are_not_believed() -> None:
    """Rule 21: one of them is the client's own text, and nothing tells which; no address is better than one that the client chose."""
    assert BEHIND_PROXY.origin(PROXY, sent(["for=8.8.8.8"], [CLIENT])).address is None
    assert BEHIND_PROXY.origin(PROXY, sent(["proto=https"], [CLIENT])).address is None
    assert BEHIND_PROXY.origin(PROXY, sent([f"for={CLIENT}"], ["unknown"])).address is None


def test_of_two_headers_that_differ_a_scheme_counts_only_if_both_tell_it() -> None:
    """Rule 21: what only one of them says may be the client's word."""
    assert BEHIND_PROXY.origin(PROXY, sent(["for=8.8.8.8;proto=https"], [CLIENT])) == Origin(None, None)
    assert BEHIND_PROXY.origin(PROXY, sent(["for=8.8.8.8"], [CLIENT], ["https"])) == Origin(None, None)
    assert BEHIND_PROXY.origin(PROXY, sent(["for=8.8.8.8;proto=https"], [CLIENT], ["https"])) == Origin(None, True)
    assert BEHIND_PROXY.origin(PROXY, sent([f"for={CLIENT};proto=https"], [CLIENT], ["http"])) == Origin(CLIENT, None)
    assert BEHIND_PROXY.origin(PROXY, sent([f"for={CLIENT};proto=https"], [CLIENT])) == Origin(CLIENT, True)


# ------------------------------------------------------------------ the scheme


@pytest.mark.parametrize(
    ("word", "https"), [("https", True), ("HTTPS", True), ("wss", True), ("http", False), ("ws", False), ("gopher", None), ("", None)]
)
def test_a_trusted_proxy_tells_the_scheme(word: str, https: bool | None) -> None:
    """Rule 21: https, http, or not told."""
    assert BEHIND_PROXY.origin(PROXY, sent(xff=[CLIENT], proto=[word])).https is https
    assert BEHIND_PROXY.origin(PROXY, sent(forwarded=[f'for={CLIENT};Proto="{word}"'])).https is https


@pytest.mark.parametrize(
    ("xff", "proto", "https"),
    [
        ([CLIENT], ["https, http"], False),
        (["8.8.8.8", CLIENT], ["https", "http"], False),
        ([f"{CLIENT}, {OUTER}"], ["https, http"], True),
        ([f"{CLIENT}, {OUTER}"], ["http, https, http"], True),
        ([f"{CLIENT}, {OUTER}"], ["https"], True),
        ([f"{CLIENT}, {OUTER}, {OUTER}"], ["https, https"], None),
        (["unknown"], ["http, https"], True),
        ([], ["https"], True),
        ([], ["https, http"], False),
        ([], [], None),
    ],
)
def test_schemes_are_counted_from_the_right_with_the_hops(xff: Sequence[str], proto: Sequence[str], https: bool | None) -> None:
    """Rule 21: the scheme is the one of the hop that is the address; one value stands for all hops."""
    assert BEHIND_TWO.origin(PROXY, sent(xff=xff, proto=proto)).https is https


def test_the_scheme_is_that_of_the_element_that_names_the_client() -> None:
    """Rule 21, RFC 7239 section 5.4: what the inner proxy says of its connection to the outer one says nothing about the client's."""
    assert BEHIND_TWO.origin(PROXY, sent([f"for={CLIENT};proto=https, for={OUTER};proto=http"])).https is True
    assert BEHIND_TWO.origin(PROXY, sent([f"for=8.8.8.8;proto=https, for={CLIENT};proto=http, for={OUTER}"])).https is False
    assert BEHIND_TWO.origin(PROXY, sent([f"for={CLIENT}, for={OUTER};proto=https"])).https is None
    assert BEHIND_TWO.origin(PROXY, sent(["for=8.8.8.8;proto=http, for=unknown;proto=https"])).https is True


# ------------------------------------------------------------------ a client cannot choose its address

header_text = st.one_of(
    st.lists(st.one_of(addresses, almost_addresses, st.just(OUTER), st.just("unknown")), max_size=6).map(", ".join),
    st.lists(st.builds('for="{}";proto={}'.format, addresses, st.sampled_from(["http", "https"])), max_size=6).map(",".join),
    st.text(alphabet='for=",;\\ 1.[]:\n', max_size=40),
    st.text(max_size=60),
)
header_values = st.lists(header_text, max_size=3)


def client_cannot_choose(origin: FindOrigin, claimed: Sequence[str], *, joined: bool) -> None:
    """The check: what a client claims in X-Forwarded-For does not matter once the trusted proxy has appended the true address."""
    values = [", ".join([*claimed, CLIENT])] if joined else [*claimed, CLIENT]
    assert origin(PROXY, sent(xff=values)).address == CLIENT


@given(header_values, st.booleans())
def test_no_x_forwarded_for_that_a_client_sends_changes_its_address(claimed: list[str], joined: bool) -> None:
    """A1, A2: for any text, whether the proxy appends to the line or adds one."""
    client_cannot_choose(BEHIND_TWO.origin, claimed, joined=joined)


def test_the_check_catches_a_reader_that_believes_the_leftmost_hop() -> None:
    """A2: the deliberately broken variant, which is what many servers do, fails the check above."""

    def leftmost(peer: str | None, headers: Headers) -> Origin:
        hops = ",".join(headers("x-forwarded-for")).split(",")
        return Origin(canonical(hops[0]), None) if peer == PROXY else Origin(canonical(peer or ""), None)

    client_cannot_choose(leftmost, [], joined=False)
    for joined in (True, False):
        with pytest.raises(AssertionError):
            client_cannot_choose(leftmost, ["8.8.8.8"], joined=joined)


@given(
    header_values, st.booleans(), st.sampled_from([f"for={CLIENT}", f'proto=https;for="{CLIENT}:80"', f'host="\\"a,b\\\\";FOR={CLIENT}'])
)
def test_no_forwarded_that_a_client_sends_changes_its_address(claimed: list[str], joined: bool, element: str) -> None:
    """A1, A2, RFC 7239 section 8.1: not even with lone quotes and backslashes, which could swallow what the proxy appends."""
    values = [", ".join([*claimed, element])] if joined else [*claimed, element]
    assert BEHIND_TWO.origin(PROXY, sent(forwarded=values)).address == CLIENT


@given(header_values, header_values, header_values)
def test_a_header_that_the_proxy_does_not_write_gives_no_other_address(claimed: list[str], other: list[str], schemes: list[str]) -> None:
    """A1: with the header that the proxy passes on unread, a client can lose its address but not choose one."""
    assert BEHIND_TWO.origin(PROXY, sent(other, [*claimed, CLIENT], schemes)).address in (None, CLIENT)
    assert BEHIND_TWO.origin(PROXY, sent([*claimed, f"for={CLIENT}"], other, schemes)).address in (None, CLIENT)


@given(header_values, header_values, header_values, st.sampled_from([None, "", PROXY, CLIENT, "testclient"]))
def test_headers_never_make_origin_raise(forwarded: list[str], xff: list[str], schemes: list[str], peer: str | None) -> None:
    """A2, rule 21: any header gives an origin, whose address is canonical or None; joined headers (WSGI) give the same one."""
    policy = AddressPolicy(trusted_proxies=("unix", PROXY, "198.51.100.0/24", "::ffff:0:0:0/96"))
    found = policy.origin(peer, sent(forwarded, xff, schemes))
    assert found.address is None or canonical(found.address) == found.address
    assert found == policy.origin(peer, sent([",".join(forwarded)], [",".join(xff)], [",".join(schemes)]))
