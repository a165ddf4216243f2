"""The session's cookies under a policy: their names, finding them in a header, setting and expiring them."""

import math
import pickle
import re
from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from typed_sessions import policy as policy_module
from typed_sessions.cookies import MAX_COOKIE, MAX_HEADER, MAX_PAIRS, parse_cookies
from typed_sessions.errors import PolicyError
from typed_sessions.lifecycle import ADDR_LENGTH, present, present_at_once
from typed_sessions.policy import MAX_NAME, CookiePolicy, SessionCookies

# No deadline: a slow machine is no failure.
unhurried = settings(deadline=None)

plain = CookiePolicy().session_cookies(https=False)
host = CookiePolicy().session_cookies(https=True)


# ------------------------------------------------------------------ the policy


@pytest.mark.parametrize(
    ("options", "https", "prefix", "secure"),
    [
        ({}, False, "", False),
        ({}, True, "__Host-", True),
        ({"path": "/app"}, True, "__Secure-", True),
        ({"domain": "example.com"}, True, "__Secure-", True),
        ({"path": "/app"}, False, "", False),
        ({"secure": True}, False, "__Host-", True),
        ({"secure": True, "path": "/app"}, False, "__Secure-", True),
        ({"secure": False}, True, "", False),
    ],
)
def test_names_and_prefixes(options: dict[str, Any], https: bool, prefix: str, secure: bool) -> None:
    """The prefix follows the scheme, the path and the domain; `secure` overrules the scheme (rule 19, RFC 6265bis 4.1.3)."""
    cookies = CookiePolicy(name="S", **options).session_cookies(https)
    assert (cookies.key_name, cookies.addr_name, cookies.secure) == (f"{prefix}S_KEY", f"{prefix}S_ADDR", secure)


def test_the_default_names() -> None:
    """Without options the cookies are SESSION_KEY and SESSION_ADDR (rule 19)."""
    assert (plain.key_name, plain.addr_name) == ("SESSION_KEY", "SESSION_ADDR")


def test_session_cookies_are_built_once() -> None:
    """A policy hands out the same object for the same scheme, and is equal and hashed by its options alone."""
    policy = CookiePolicy()
    assert policy.session_cookies(True) is policy.session_cookies(True)
    assert policy == CookiePolicy()
    assert hash(policy) == hash(CookiePolicy())
    assert "_cookies" not in repr(policy)


def test_a_policy_is_a_value() -> None:
    """A policy cannot be changed, but be replaced (its cookies with it) and pickled."""
    policy = CookiePolicy(name="A")
    with pytest.raises(FrozenInstanceError):
        policy.name = "B"  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    assert replace(policy, name="B").session_cookies(False).key_name == "B_KEY"
    assert pickle.loads(pickle.dumps(policy)).session_cookies(True).key_name == "__Host-A_KEY"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"path": ""}, "cookie path"),
        ({"path": "app"}, "cookie path"),
        ({"path": "/a;b"}, "cookie path"),
        ({"path": "/a\r\nb"}, "cookie path"),
        ({"path": "/\0"}, "cookie path"),
        ({"path": "/é"}, "percent-encode"),
        ({"path": b"/"}, "expected a str, got bytes"),
        ({"name": ""}, "token"),
        ({"name": "a b"}, "token"),
        ({"name": "a=b"}, "token"),
        ({"name": "séance"}, "token"),
        ({"name": None}, "expected a str, got NoneType"),
        ({"name": "__Host-S"}, "without prefix"),
        ({"name": "__secure-S"}, "without prefix"),
        ({"name": "s" * (MAX_NAME + 1)}, "at most 512"),
        ({"max_age": 0}, "more than 0"),
        ({"max_age": -1.5}, "more than 0"),
        ({"max_age": math.nan}, "more than 0"),
        ({"max_age": math.inf}, "at most 2147483647"),
        ({"max_age": 10**400}, "at most 2147483647"),
        ({"max_age": True}, "expected seconds as a number"),
        ({"max_age": "60"}, "expected seconds as a number"),
        ({"max_age": timedelta(days=1)}, "expected seconds as a number"),
        ({"filter": None}, "filter: expected a function"),
        ({"domain": "https://example.com"}, "no scheme"),
        ({"domain": "example.com:8080"}, "port"),
        ({"domain": ".example.com"}, "leading dot"),
        ({"domain": "example .com"}, "blank"),
        ({"domain": "example.com/x"}, "path"),
        ({"domain": "exämple.com"}, "punycode"),
        ({"domain": ""}, "None for this host alone"),
        ({"domain": 1}, "expected a str or None"),
        ({"partitioned": True}, "partitioned=True: expected secure=True"),
        ({"partitioned": True, "secure": False}, "partitioned=True: expected secure=True"),
        ({"partitioned": 1}, "partitioned: expected True or False"),
        ({"same_site": "none"}, "same_site='none': expected secure=True"),
        ({"same_site": "none", "secure": False}, "same_site='none': expected secure=True"),
        ({"same_site": "Lax"}, "'strict', 'lax' or 'none'"),
        ({"same_site": None}, "'strict', 'lax' or 'none'"),
        ({"http_only": 1}, "http_only: expected True or False"),
        ({"secure": 1}, "secure: expected True, False or 'auto'"),
        ({"secure": "always"}, "secure: expected True, False or 'auto'"),
    ],
)
def test_an_illegal_policy_is_refused_when_it_is_built(options: dict[str, Any], told: str) -> None:
    """Every option that is illegal, alone or beside another, raises `PolicyError` at once and says what is expected (C2, rule 19)."""
    with pytest.raises(PolicyError, match=re.escape(told)):
        CookiePolicy(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"same_site": "none", "secure": True},
        {"partitioned": True, "secure": True},
        {"same_site": "strict", "secure": False, "http_only": False},
        {"path": "/a%20b/c", "domain": "app.example.com", "name": "s" * MAX_NAME},
        {"domain": "xn--exmple-cua.com"},
        {"domain": "localhost"},
    ],
)
def test_a_legal_policy_is_built(options: dict[str, Any]) -> None:
    """What browsers accept is accepted, the longest name too, with room for a value (C2)."""
    for https in (False, True):
        cookies = CookiePolicy(**options).session_cookies(https)
        key, addr = cookies.set("k" * 3_000, "a" * 3_000, persistent=True)
        assert (len(key.value), len(addr.value)) == (3_000, 3_000)


# ------------------------------------------------------------------ finding

KEY, ADDR = "k" * 64, "a" * 43


def by_the_parser(cookies: SessionCookies, header: str) -> tuple[str | None, str | None]:
    """What `find` must say, from the parser alone: None if absent, the empty text if values differ."""

    def one(wanted: str) -> str | None:
        values = {value for name, value in parse_cookies(header) if name == wanted}
        return None if not values else values.pop() if len(values) == 1 else ""

    return one(cookies.key_name), one(cookies.addr_name)


def agree(cookies: SessionCookies, header: str) -> None:
    """`find` is what the parser reads, and so is what the shorter way tells, if it tells anything."""
    key, addr = by_the_parser(cookies, header)
    assert cookies.find(header) == (key, addr)
    told = present_at_once(cookies, header)
    if told is not None:
        parsed = None if key is None else present(key, addr)
        assert parsed is not None
        assert told[0] == parsed.locator + parsed.secret
        # With blanks, quotes or a semicolon within it, the parser makes a shorter address: neither was ever issued, and both equal nothing.
        address = header.partition(cookies.addr_follows)[2][:ADDR_LENGTH]
        assert told[1] == parsed.tag_digest or (parsed.tag_digest == b"" and re.fullmatch("[0-9A-Za-z_-]*", address) is None)


_headers = [
    "",
    "SESSION_KEY=k; SESSION_ADDR=a",
    "a=b; SESSION_KEY=k; c=d; SESSION_ADDR=a; e=f",
    "SESSION_ADDR=a; SESSION_KEY=k",
    "SESSION_KEY=k;SESSION_ADDR=a",
    "SESSION_KEY=k;\tSESSION_ADDR=a",
    "a=b SESSION_KEY=k; SESSION_ADDR=a",
    "XSESSION_KEY=k; SESSION_ADDR=a",
    "a=SESSION_KEY=k; SESSION_ADDR=a",
    "=SESSION_KEY=k; SESSION_ADDR=a",
    "a=; SESSION_KEY=k; =SESSION_ADDR=a",
    "SESSION_KEY=k; SESSION_ADDR=a; SESSION_KEY=k",
    "SESSION_KEY=k; SESSION_ADDR=a; SESSION_KEY=other",
    "SESSION_KEY =other; SESSION_KEY=k; SESSION_ADDR=a",
    "SESSION_KEY=k; SESSION_ADDR\t=other; SESSION_ADDR=a",
    "SESSION_KEY=k; SESSION_ADDR=a; SESSION_ADDR =other",
    'SESSION_KEY="k"; SESSION_ADDR=a',
    'SESSION_KEY=k; SESSION_ADDR="a"',
    "SESSION_KEY=k ; SESSION_ADDR= a",
    "SESSION_KEY=; SESSION_ADDR=",
    "SESSION_KEY=k",
    "SESSION_ADDR=a",
    "SESSION_KEY=k; ",
    "SESSION_KEY=k; x; ",
    "SESSION_KEY; SESSION_ADDR=a",
    "SESSION_KEY=k; SESSION_ADDR",
    "SESSION_KEY=k,SESSION_ADDR=a",
    "SESSION_KEY=k=; SESSION_ADDR==a",
    "SESSION_KEY=k; ; ;; SESSION_ADDR=a;",
    "session_key=k; SESSION_ADDR=a",
    'SESSION_KEY=k; x; SESSION_ADDR=a; "SESSION_KEY"=other',
    *("x=y; " * n + "SESSION_KEY=k; SESSION_ADDR=a" for n in range(MAX_PAIRS - 3, MAX_PAIRS + 2)),
    *("x=;" * n + "x=; SESSION_KEY=k; SESSION_ADDR=a" for n in range(MAX_PAIRS - 4, MAX_PAIRS + 1)),
    *("SESSION_KEY=k; " + "x=;" * n + "x=; SESSION_ADDR=a" for n in range(MAX_PAIRS - 4, MAX_PAIRS + 1)),
    *("SESSION_KEY=k; " + "x;" * n + " SESSION_ADDR=a" for n in (MAX_PAIRS - 1, 5_000)),
    *(
        "a=".ljust(n, "x") + "; SESSION_KEY=k; SESSION_ADDR=a"
        for n in (*range(MAX_HEADER - 150, MAX_HEADER - 120), *range(MAX_HEADER - 40, MAX_HEADER + 5))
    ),
    "SESSION_KEY=k.route; SESSION_ADDR=a",
    "SESSION_KEY=k.; SESSION_ADDR=a",
    "SESSION_KEY=kk; SESSION_ADDR=a",
    "SESSION_KEY=k.route; a=b; SESSION_ADDR=a",
    "SESSION_KEY=k.route; SESSION_KEY=other; SESSION_ADDR=a",
    "SESSION_KEY=k; SESSION_ADDR=aa",
    "SESSION_KEY=k; SESSION_ADDR=a;b",
    "SESSION_KEY=k; SESSION_ADDR=a ; b",
    "SESSION_KEY=k; SESSION_ADDR=; b",
    "SESSION_KEY=k; SESSION_ADDR=a=; b",
    *(f"SESSION_KEY=k; SESSION_ADDR={value}" for value in (f" {ADDR[1:]}", f"{ADDR[1:]}\t; b", f"a;{ADDR[2:]}", f"a; b={ADDR[5:]}; c")),
]
HEADERS = [*_headers, *(header.replace("=k", f"={KEY}").replace("R=a", f"R={ADDR}") for header in _headers)]


@pytest.mark.parametrize("header", HEADERS, ids=range(len(HEADERS)))
def test_finding_is_parsing(header: str) -> None:
    """What is found is what the parser reads, at every limit of the shorter way: names, blanks, quotes, repetitions, caps (C3, C5, C9)."""
    agree(plain, header)
    agree(host, header.replace("SESSION_", "__Host-SESSION_"))


def the_last_counts(header: str) -> tuple[str | None, str | None]:
    """Broken: of two cookies of one name it takes the last."""
    found = dict(parse_cookies(header))
    return found.get("SESSION_KEY"), found.get("SESSION_ADDR")


def text_counts(header: str) -> tuple[str | None, str | None]:
    """Broken: it takes the name wherever it stands, and the value as it stands."""
    found = [header.partition(f"{name}=") for name in ("SESSION_KEY", "SESSION_ADDR")]
    key, addr = [rest.partition(";")[0] if equals else None for _, equals, rest in found]
    return key, addr


def only_the_start_counts(header: str) -> tuple[str | None, str | None]:
    """Broken: it cuts at the cap without dropping the pair that is cut."""
    return by_the_parser(plain, header[:MAX_HEADER])


@pytest.mark.parametrize("find", [the_last_counts, text_counts, only_the_start_counts])
def test_a_careless_finder_is_caught(find: Callable[[str], tuple[str | None, str | None]]) -> None:
    """The headers above are hostile enough to catch a finder that is broken on purpose (C3, C5, C9)."""
    assert any(find(header) != by_the_parser(plain, header) for header in HEADERS)


# Names that overlap with themselves or with each other's ending: where a search for text could mistake one for another.
POLICIES = [
    CookiePolicy(name=name, secure=secure) for name in ("SESSION", "_", "x_x", "_KEY", "KEY", "A_ADDR", "Host-") for secure in (False, True)
]


@st.composite
def headers(draw: st.DrawFn) -> tuple[SessionCookies, str]:
    """A policy's cookies and a header of its names among hostile text: pieces at random, or nearly a real header."""
    cookies = draw(st.sampled_from(POLICIES)).session_cookies(False)
    names = [cookies.key_name, cookies.addr_name]
    stem = cookies.key_name.removesuffix("KEY")
    fragment = st.sampled_from(
        [
            *names,
            *names,
            stem,
            KEY,
            ADDR,
            KEY[:-1],
            ".",
            "KEY",
            "ADDR",
            "=",
            "=",
            ";",
            "; ",
            "; ",
            " ",
            "\t",
            '"',
            "a",
            "b",
            "__Host-",
            "%5F%5FHost-",
            ",",
            "\0",
            "é",
        ]
    )
    if draw(st.booleans()):
        return cookies, "".join(draw(st.lists(fragment, max_size=25)))
    word = st.lists(st.one_of(st.sampled_from(["a", "b", "x=y"]), fragment), max_size=3).map("".join)
    value = st.one_of(st.sampled_from(["", "a", "b", '"a"', " a", "a\t", KEY, ADDR, KEY, ADDR, f"{KEY}.route", f'"{ADDR[2:]}"']), word)
    equals = st.sampled_from(["=", "=", "=", "=", " =", "= ", "", "=="])
    pair = st.one_of(st.tuples(st.sampled_from(names), equals, value).map("".join), word)
    ordered = [names[0] + draw(equals) + draw(value), *draw(st.lists(word, max_size=1)), names[1] + draw(equals) + draw(value)]
    pairs = [*draw(st.lists(pair, max_size=2)), *ordered, *draw(st.lists(pair, max_size=2))]
    joiner = st.sampled_from(["; ", "; ", "; ", "; ", ";", ";\t", ";  ", " ", ""])
    return cookies, "".join(part for text in pairs for part in (text, draw(joiner)))


@given(headers())
@settings(deadline=None, max_examples=1_000)
def test_finding_is_parsing_for_hostile_headers(drawn: tuple[SessionCookies, str]) -> None:
    """The shorter way and the parser agree on every header, for every name (C3, C5, C8, rule 22)."""
    cookies, header = drawn
    agree(cookies, header)


@given(headers(), st.integers(MAX_PAIRS - 8, MAX_PAIRS + 1), st.sampled_from(["x=;", "x=y; ", "x;", "; "]))
@unhurried
def test_finding_is_parsing_at_the_cap_of_pairs(drawn: tuple[SessionCookies, str], many: int, filler: str) -> None:
    """They agree where the 200th pair is near (C9)."""
    cookies, header = drawn
    for crowded in (filler * many + header, header + ";" + filler * many + header):
        agree(cookies, crowded)


@given(headers(), st.integers(-60, 3))
@unhurried
def test_finding_is_parsing_at_the_cap_of_characters(drawn: tuple[SessionCookies, str], shift: int) -> None:
    """They agree where the 16,384th character is near (C9)."""
    cookies, header = drawn
    long = "x=".ljust(MAX_HEADER + shift, "y") + "; " + header
    agree(cookies, long)


@pytest.mark.parametrize("before", ["", "a=b; ", "a=" + "b" * 800 + "; "])
@pytest.mark.parametrize("route", ["", ".a"])
@pytest.mark.parametrize("behind", ["", "; e=f"])
def test_a_usual_header_is_not_parsed(before: str, route: str, behind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The header of a signed-in browser, and one without our cookies, are answered without the parser: every request pays for this."""

    def parse(_: str) -> list[tuple[str, str]]:
        raise AssertionError("parsed")

    monkeypatch.setattr(policy_module, "parse_cookies", parse)
    told = present_at_once(host, f"{before}__Host-SESSION_KEY={KEY}{route}; __Host-SESSION_ADDR={ADDR}{behind}")
    parsed = present(f"{KEY}{route}", ADDR)
    assert parsed is not None
    assert told == (parsed.locator + parsed.secret, parsed.tag_digest)
    assert host.find("a=b; c=d") == (None, None)
    assert host.find("a=b; " * 100_000) == (None, None)


@pytest.mark.parametrize(
    ("header", "key"),
    [
        ("SESSION_KEY=k; SESSION_KEY=k", "k"),
        ("SESSION_KEY=good; SESSION_KEY=evil", ""),
        ("SESSION_KEY=evil; SESSION_KEY=good", ""),
        ("SESSION_KEY=a; SESSION_KEY=b; SESSION_KEY=a", ""),
        ("SESSION_KEY=; SESSION_KEY=a", ""),
    ],
)
def test_a_cookie_that_is_there_twice(header: str, key: str) -> None:
    """Two values under one name are refused in any order, one value twice is that value (C5, RFC 6265bis 4.2.2)."""
    assert plain.find(header)[0] == key


def test_the_first_cookie_that_is_there_twice_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    """With what to do if a release has changed the path, say; once, for anybody can send that; never with a value (I4)."""
    cookies = CookiePolicy(path="/shop").session_cookies(https=False)
    for _ in range(3):
        cookies.find("SESSION_KEY=good; SESSION_KEY=evil; SESSION_ADDR=a")
    (text,) = caplog.messages
    assert "path, domain or partitioned has changed needs another name" in text
    assert "client.cookies.set(name, value, domain='testserver.local')" in text
    assert not any(value in text for value in ("good", "evil"))


def test_over_https_an_unprefixed_cookie_is_not_read() -> None:
    """A cookie that anyone on the network or a sibling host could have set is not ours over https (rule 19, C2)."""
    assert host.find("SESSION_KEY=k; SESSION_ADDR=a") == (None, None)
    assert host.find("__Secure-SESSION_KEY=k; __Secure-SESSION_ADDR=a") == (None, None)
    assert plain.find("__Host-SESSION_KEY=k; __Host-SESSION_ADDR=a") == (None, None)


@pytest.mark.parametrize(
    "header",
    [
        "%5F%5FHost-SESSION_KEY=k",
        "=__Host-SESSION_KEY=k",
        '"__Host-SESSION_KEY"=k',
        "__host-SESSION_KEY=k",
        "__Host-session_key=k",
        "a=__Host-SESSION_KEY=k",
    ],
)
def test_look_alikes_never_match(header: str) -> None:
    """Encoded, nameless, quoted and other-case names are not ours (C8, CVE-2020-8184, CVE-2023-23934)."""
    assert host.find(header) == (None, None)
    assert host.find(f"{header}; __Host-SESSION_KEY=good; __Host-SESSION_ADDR=a") == ("good", "a")


# ------------------------------------------------------------------ setting and expiring


def test_the_cookies_that_are_set() -> None:
    """Both cookies carry the policy's attributes; a browser session has no Max-Age (rule 19)."""
    policy = CookiePolicy(path="/app", domain="example.com", max_age=60, same_site="none", secure=True, partitioned=True, http_only=False)
    key, addr = policy.session_cookies(False).set("k", "a", persistent=False)
    attributes = "Path=/app; Domain=example.com; Secure; SameSite=None; Partitioned"
    assert key.header() == f"__Secure-SESSION_KEY=k; {attributes}"
    assert addr.header() == f"__Secure-SESSION_ADDR=a; {attributes}"


@pytest.mark.parametrize(
    ("max_age", "seconds"), [(60, 60), (60.0, 60), (59.1, 60), (0.001, 1), (5e-324, 1), (None, None), (2**31 - 1, 2**31 - 1)]
)
def test_max_age_is_rounded_up(max_age: float | None, seconds: int | None) -> None:
    """A persistent cookie lives for the policy's `max_age` in whole seconds, never less, never 0, which would delete it (rule 19)."""
    key, addr = CookiePolicy(max_age=max_age).session_cookies(True).set("k", "a", persistent=True)
    assert (key.max_age, addr.max_age) == (seconds, seconds)


any_policy = st.builds(
    CookiePolicy,
    path=st.sampled_from(["/", "/app"]),
    name=st.sampled_from(["SESSION", "s"]),
    max_age=st.sampled_from([None, 1, 0.5, 3600]),
    domain=st.sampled_from([None, "example.com"]),
    same_site=st.sampled_from(["lax", "strict"]),
    http_only=st.booleans(),
    secure=st.sampled_from([True, False, "auto"]),
)


@given(any_policy, st.booleans(), st.booleans(), st.from_regex(r"[0-9A-Za-z_.-]{0,90}", fullmatch=True))
@unhurried
def test_the_quick_headers_are_those_of_the_cookies(policy: CookiePolicy, https: bool, persistent: bool, value: str) -> None:
    """`set_headers` and `expire_headers` are the headers of `set` and `expire` under every policy (C1, C10)."""
    cookies = policy.session_cookies(https)
    key, addr = cookies.set(value, "a", persistent=persistent)
    assert cookies.set_headers(value, "a", persistent=persistent) == (key.header(), addr.header())
    assert cookies.find(f"{cookies.key_name}={value}; {cookies.addr_name}=a") == (value, "a")
    gone = cookies.expire()
    assert cookies.expire_headers() == (gone[0].header(), gone[1].header())
    assert gone == (key.expired(), addr.expired())


@pytest.mark.parametrize("bad", ["a;b", "a\r\nSet-Cookie: c=d", "a\n", "a b", "é", '"a"'])
def test_the_quick_headers_are_checked(bad: str) -> None:
    """No value reaches a header unchecked on the quick way either (C1)."""
    for key, addr in ((bad, "a"), ("k", bad)):
        with pytest.raises(PolicyError, match="cookie value"):
            plain.set_headers(key, addr, persistent=False)


def test_the_quick_headers_have_the_same_bound() -> None:
    """4,096 bytes of name and value are written on either way, one more is refused on either way (C2)."""
    key_room, addr_room = MAX_COOKIE - len(host.key_name), MAX_COOKIE - len(host.addr_name)
    key, addr = host.set("k" * key_room, "a" * addr_room, persistent=False)
    assert host.set_headers("k" * key_room, "a" * addr_room, persistent=False) == (key.header(), addr.header())
    for more_key, more_addr in ((1, 0), (0, 1)):
        with pytest.raises(PolicyError, match="at most 4096"):
            host.set_headers("k" * (key_room + more_key), "a" * (addr_room + more_addr), persistent=False)


def test_a_deletion_is_of_what_was_set() -> None:
    """Expiring repeats path, domain and flags, with both ways of saying that it is over (C10)."""
    cookies = CookiePolicy(path="/app", domain="example.com", partitioned=True, secure=True).session_cookies(True)
    over = "Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT"
    attributes = f"Path=/app; Domain=example.com; {over}; Secure; HttpOnly; SameSite=Lax; Partitioned"
    assert cookies.expire_headers() == (f"__Secure-SESSION_KEY=; {attributes}", f"__Secure-SESSION_ADDR=; {attributes}")
