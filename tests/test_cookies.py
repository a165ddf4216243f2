"""The wire form of cookies: any `Cookie` header is read, and only what RFC 6265bis allows is written."""

import re
from email.utils import formatdate
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from typed_sessions.cookies import MAX_COOKIE, MAX_HEADER, MAX_PAIRS, SetCookie, parse_cookies
from typed_sessions.errors import PolicyError

# No deadline: a slow machine is no failure.
unhurried = settings(deadline=None)

FRAGMENTS = [
    "a",
    "bc",
    "SESSION_KEY",
    "__Host-",
    "%5F%5FHost-",
    "=",
    "==",
    ";",
    "; ",
    " ",
    "\t",
    '"',
    ",",
    "\\",
    "\r\n",
    "\0",
    "é",
    "\ud800",
    "$",
]
hostile = st.lists(st.sampled_from(FRAGMENTS), max_size=30).map("".join)
any_text = st.text(st.characters(), max_size=60)


# ------------------------------------------------------------------ reading


def test_pairs_are_read_in_order() -> None:
    """A plain header gives its pairs, in its order, repetitions too (RFC 6265bis 4.2.1)."""
    assert parse_cookies("a=1; b=2; a=3") == [("a", "1"), ("b", "2"), ("a", "3")]


@pytest.mark.parametrize(
    ("header", "pairs"),
    [
        ("", []),
        (";;; ;", []),
        ("a", []),
        ("=a", []),
        (" \t= a", []),
        ("a=", [("a", "")]),
        ("a=b=c", [("a", "b=c")]),
        ("\t a \t=\t b \t", [("a", "b")]),
        ("a=1;b=2", [("a", "1"), ("b", "2")]),
        ('a="b c"', [("a", "b c")]),
        ('a=""', [("a", "")]),
        ('a="', [("a", '"')]),
        ('a="b', [("a", '"b')]),
        ('a=""b""', [("a", '"b"')]),
        ('a="b;c"', [("a", '"b')]),
        ("c,d=e", [("c,d", "e")]),
        ("a=b c", [("a", "b c")]),
        ("a=\x0bb", [("a", "\x0bb")]),
        ("ü=é\ud800", [("ü", "é\ud800")]),
    ],
)
def test_lenient_reading(header: str, pairs: list[tuple[str, str]]) -> None:
    """Only `;` separates, only SP, HTAB and one pair of quotes are dropped, only a missing `=` or name costs a part (rule 22)."""
    assert parse_cookies(header) == pairs


@pytest.mark.parametrize("name", ["%5F%5FHost-SESSION_KEY", '"__Host-SESSION_KEY"', "__HOST-SESSION_KEY", "=__Host-SESSION_KEY"])
def test_names_are_not_decoded(name: str) -> None:
    """A percent-encoded, quoted, upper-case or nameless look-alike never reads as a `__Host-` cookie (C8)."""
    assert "__Host-SESSION_KEY" not in dict(parse_cookies(f"{name}=stolen"))


@given(st.one_of(any_text, hostile))
@unhurried
def test_no_text_raises(header: str) -> None:
    """Whatever a client sends is read without raising, and what is read are trimmed names and values without `;` (C3, rule 22)."""
    for name, value in parse_cookies(header):
        assert name
        assert name == name.strip(" \t")
        assert "=" not in name
        assert ";" not in name + value


neighbours = st.lists(st.one_of(hostile, any_text).map(lambda text: text.replace(";", "")), max_size=8)


@given(neighbours, neighbours)
@unhurried
def test_a_bad_neighbour_costs_no_good_cookie(before: list[str], after: list[str]) -> None:
    """A good cookie is read whatever stands between the other semicolons (C3, rule 22)."""
    assert ("good", "1") in parse_cookies(";".join([*before, " good=1", *after]))


@given(neighbours, neighbours)
@unhurried
def test_a_part_reads_the_same_alone(before: list[str], after: list[str]) -> None:
    """Reading a header is reading its parts: no state is carried from one to the next (C3, C9)."""
    parts = [*before, *after]
    assert parse_cookies(";".join(parts)) == [pair for part in parts for pair in parse_cookies(part)]


def test_the_first_pairs_count() -> None:
    """Pairs after the 200th are not read (C9)."""
    pairs = [(f"n{i}", "v") for i in range(MAX_PAIRS + 50)]
    assert parse_cookies("; ".join(f"{name}={value}" for name, value in pairs)) == pairs[:MAX_PAIRS]


def test_parts_that_are_no_pairs_do_not_count() -> None:
    """The cap is on cookies: a run of empty parts does not push a good cookie out (C3, C9)."""
    assert parse_cookies(";" * 1_000 + "good=1") == [("good", "1")]


def test_a_pair_that_fits_exactly_is_read() -> None:
    """A header of 16,384 characters is read to its end (C9)."""
    header = "a=1; good=".ljust(MAX_HEADER, "x")
    assert parse_cookies(header) == [("a", "1"), ("good", "x" * (MAX_HEADER - 10))]
    assert parse_cookies(header + "; b=2") == parse_cookies(header)


def test_a_pair_that_the_cap_cuts_is_dropped() -> None:
    """One character more, and the last pair is gone: a value is whole or not there (C9)."""
    assert parse_cookies("a=1; good=".ljust(MAX_HEADER + 1, "x")) == [("a", "1")]
    assert parse_cookies("a=1; good=".ljust(MAX_HEADER, "x") + " ; b=2") == [("a", "1")]
    assert parse_cookies("a=".ljust(MAX_HEADER + 1, "x")) == []


@pytest.mark.parametrize("text", ['"', '="', "a=", "=", ";", " ", "a=b;"])
def test_a_huge_header_is_bounded(text: str) -> None:
    """A megabyte of anything gives at most 200 pairs, from its first 16,384 characters (C9, CVE-2024-7592)."""
    pairs = parse_cookies(text * 1_000_000)
    assert len(pairs) <= MAX_PAIRS
    assert sum(len(name) + len(value) for name, value in pairs) <= MAX_HEADER


# ------------------------------------------------------------------ writing

# RFC 6265bis 4.1.1, written from the ABNF and apart from the package. In a deletion Max-Age=0 is 1*DIGIT.
DAY = "(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)"
MONTH = "(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)"
LABEL = "[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
ATTRIBUTES = [
    rf"Expires={DAY}, [0-9]{{2}} {MONTH} [0-9]{{4}} [0-9]{{2}}(?::[0-9]{{2}}){{2}} GMT",
    "Max-Age=[0-9]+",
    rf"Domain={LABEL}(?:\.{LABEL})*",
    r"Path=/[\x20-\x3a\x3c-\x7e]*",
    "Secure",
    "HttpOnly",
    "SameSite=(?:Strict|Lax|None)",
    "Partitioned",
]
PAIR = r"""[^\x00-\x20\x7f-\U0010ffff"(),/:;<=>?@\[\\\]{}]+=[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]*"""
GRAMMAR = re.compile(f"{PAIR}(?:; (?:{'|'.join(ATTRIBUTES)}))*")


def is_sound(header: str) -> bool:
    """Whether a header's value is of the grammar and says nothing twice (4.1.1: no attribute more than once)."""
    attributes = [part.partition("=")[0] for part in header.split("; ")[1:]]
    return GRAMMAR.fullmatch(header) is not None and len(attributes) == len(set(attributes))


words = st.sampled_from(
    ["a", "SESSION_KEY", "__Host-a", "__Secure-a", "__hOsT-a", "", "a b", "a;b", "a\r\nSet-Cookie: b", "\0", "é", "a=b", '"a"']
)
loose = st.fixed_dictionaries(
    {"name": st.one_of(words, any_text), "value": st.one_of(words, any_text)},
    optional={
        "path": st.one_of(words, any_text, st.just("/"), any_text.map(lambda text: "/" + text)),
        "max_age": st.one_of(st.none(), st.integers(-2, 10), st.integers(), st.booleans()),
        "secure": st.booleans(),
        "http_only": st.booleans(),
        "same_site": st.sampled_from(["strict", "lax", "none", "Lax", "", "None"]),
        "domain": st.one_of(st.none(), words, any_text, st.sampled_from(["example.com", ".example.com", "a..b", "-a.b", "[::1]"])),
        "partitioned": st.booleans(),
    },
)


@given(loose)
@unhurried
def test_a_cookie_is_refused_or_written_by_the_grammar(fields: dict[str, Any]) -> None:
    """Any arguments at all give a `PolicyError` or a header of RFC 6265bis 4.1.1 (C1, CVE-2026-0672, CVE-2024-47764)."""
    try:
        cookie = SetCookie(**fields)
    except PolicyError:
        return
    assert is_sound(cookie.header())
    assert is_sound(cookie.expired().header())


legal = st.builds(
    SetCookie,
    name=st.from_regex(r"[!#$%&'*+.^`|~0-9A-Za-z-][!#$%&'*+.^_`|~0-9A-Za-z-]{0,20}", fullmatch=True),
    value=st.from_regex(r"[!#-+\x2d-:<-\[\]-~]{0,40}", fullmatch=True),
    path=st.from_regex(r"/([ -:<-~]{0,20}[!-:<-~])?", fullmatch=True),
    max_age=st.one_of(st.none(), st.integers(0, 2**31 - 1)),
    secure=st.just(True),
    http_only=st.booleans(),
    same_site=st.sampled_from(["strict", "lax", "none"]),
    domain=st.one_of(st.none(), st.from_regex(r"[a-z0-9]{1,9}(\.[a-z]([a-z-]{0,8}[a-z])?){0,3}", fullmatch=True)),
    partitioned=st.booleans(),
)


@given(legal)
@unhurried
def test_a_legal_cookie_is_written_and_read_back(cookie: SetCookie) -> None:
    """Everything legal can be written, matches the grammar, and its pair reads back as it was (C1, RFC 6265bis 4.1.1)."""
    header = cookie.header()
    assert is_sound(header)
    assert parse_cookies(header)[0] == (cookie.name, cookie.value)
    attributes = header.split("; ")
    assert f"Path={cookie.path}" in attributes
    assert ("HttpOnly" in attributes) == cookie.http_only
    assert ("Partitioned" in attributes) == cookie.partitioned
    assert (f"Domain={cookie.domain}" in attributes) == (cookie.domain is not None)
    assert (f"Max-Age={cookie.max_age}" in attributes) == (cookie.max_age is not None)


def test_the_grammar_check_can_fail() -> None:
    """A writer without checks is caught: the grammar of these tests refuses what such a writer lets through (C1)."""
    unchecked = [
        "a=b\r\nSet-Cookie: c=d",
        "a=b; Path=/;x",
        "a b=c",
        "=a",
        "a=b,c",
        "a=b; Secure; Secure",
        "a=b; path=/",
        "a=b; Path=/\0",
        "a=b;Secure",
    ]
    assert [header for header in unchecked if is_sound(header)] == []


def test_the_whole_header() -> None:
    """Attributes have their canonical spelling and one order; what is not asked for is not said (RFC 6265bis 4.1.1)."""
    assert SetCookie("a", "b").header() == "a=b; Path=/; HttpOnly; SameSite=Lax"
    assert SetCookie("a", "b", http_only=False, same_site="strict").header() == "a=b; Path=/; SameSite=Strict"
    full = SetCookie("a", "b", path="/x", max_age=60, secure=True, same_site="none", domain="example.com", partitioned=True)
    assert full.header() == "a=b; Path=/x; Domain=example.com; Max-Age=60; Secure; HttpOnly; SameSite=None; Partitioned"


def test_a_deletion_repeats_the_attributes() -> None:
    """`expired()` keeps name, path, domain and flags, and empties the value (C10)."""
    cookie = SetCookie("a", "b", path="/x", max_age=60, secure=True, same_site="none", domain="example.com", partitioned=True)
    gone = cookie.expired()
    assert (gone.name, gone.value, gone.max_age) == ("a", "", 0)
    expires = "Expires=Thu, 01 Jan 1970 00:00:00 GMT"
    assert gone.header() == f"a=; Path=/x; Domain=example.com; Max-Age=0; {expires}; Secure; HttpOnly; SameSite=None; Partitioned"
    assert gone.expired() == gone


def test_the_date_of_a_deletion_is_a_date() -> None:
    """The date in a deletion is the epoch, with its right weekday (RFC 9110 5.6.7)."""
    assert f"; Expires={formatdate(0, usegmt=True)};" in SetCookie("a", "b").expired().header()


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"name": ""}, "token"),
        ({"name": "a b"}, "token"),
        ({"name": "a="}, "token"),
        ({"name": "a\n"}, "token"),
        ({"name": "é"}, "token"),
        ({"name": b"a"}, "expected a str, got bytes"),
        ({"value": "a b"}, "cookie value"),
        ({"value": "a;b"}, "cookie value"),
        ({"value": "a,b"}, "cookie value"),
        ({"value": '"a"'}, "cookie value"),
        ({"value": "a\\"}, "cookie value"),
        ({"value": "a\r\nb"}, "cookie value"),
        ({"value": "a\n"}, "cookie value"),
        ({"value": "é"}, "cookie value"),
        ({"value": None}, "expected a str, got NoneType"),
        ({"path": "x"}, "cookie path"),
        ({"path": ""}, "cookie path"),
        ({"path": "/a;b"}, "cookie path"),
        ({"path": "/a\r\n"}, "cookie path"),
        ({"path": "/é"}, "percent-encode"),
        ({"path": "/a "}, "cookie path"),
        ({"path": "/" + "a" * 1_024}, "at most 1024"),
        ({"path": None}, "expected a str, got NoneType"),
        ({"domain": ""}, "bare host name"),
        ({"domain": "a;b"}, "bare host name"),
        ({"domain": "a\n"}, "bare host name"),
        ({"domain": ".a.b"}, "leading dot"),
        ({"domain": "a" * 64}, "bare host name"),
        ({"domain": ".".join(["a" * 60] * 5)}, "bare host name"),
        ({"domain": 1}, "expected a str or None, got int"),
        ({"max_age": -1}, "0 to 2147483647"),
        ({"max_age": 10**5_000}, "0 to 2147483647"),
        ({"max_age": 1.5}, "whole seconds"),
        ({"max_age": True}, "whole seconds"),
        ({"secure": 1}, "secure: expected True or False"),
        ({"http_only": None}, "http_only: expected True or False"),
        ({"partitioned": "no"}, "partitioned: expected True or False"),
        ({"same_site": "Lax"}, "'strict', 'lax' or 'none'"),
        ({"same_site": None}, "'strict', 'lax' or 'none'"),
        ({"same_site": "none"}, "needs secure=True"),
        ({"partitioned": True}, "needs secure=True"),
        ({"name": "__Secure-a"}, "needs secure=True"),
        ({"name": "__Host-a"}, "needs secure=True"),
        ({"name": "__hOST-a", "secure": True, "path": "/x"}, "no domain"),
        ({"name": "__Host-a", "secure": True, "domain": "example.com"}, "no domain"),
    ],
)
def test_what_cannot_be_a_cookie_is_refused(fields: dict[str, Any], told: str) -> None:
    """What a browser would not take, or would take for another, raises `PolicyError` with what is expected (C1, C2, RFC 6265bis 4.1)."""
    sound: dict[str, Any] = {"name": "a", "value": "b"}
    with pytest.raises(PolicyError, match=re.escape(told)):
        SetCookie(**(sound | fields))


def test_name_and_value_have_4096_bytes() -> None:
    """Name and value may fill 4,096 bytes together, and no byte more (C2, ASVS 3.3.5, RFC 6265bis 5.6)."""
    assert SetCookie("name", "v" * (MAX_COOKIE - 4)).header().startswith("name=vvv")
    with pytest.raises(PolicyError, match="at most 4096"):
        SetCookie("name", "v" * (MAX_COOKIE - 3))


def test_prefixed_names_with_what_they_promise() -> None:
    """`__Host-` with Secure, path `/` and no domain, and `__Secure-` with Secure, are legal (C2, RFC 6265bis 4.1.3)."""
    assert SetCookie("__Host-a", "b", secure=True).header() == "__Host-a=b; Path=/; Secure; HttpOnly; SameSite=Lax"
    assert SetCookie("__Secure-a", "b", secure=True, path="/x", domain="example.com").secure


def test_a_value_is_never_shown() -> None:
    """Neither `repr` nor the error of an illegal value shows it: it may be a session's secret (I4, rule 17)."""
    assert "hunter2" not in repr(SetCookie("a", "hunter2"))
    with pytest.raises(PolicyError) as refused:
        SetCookie("a", "hunter2;")
    assert "hunter2" not in str(refused.value)


def test_an_error_is_short_and_printable() -> None:
    """The text of an error is bounded and holds no control character, however hostile the argument (C1)."""
    with pytest.raises(PolicyError) as refused:
        SetCookie("\r\n" * 10_000, "b")
    assert len(str(refused.value)) < 300
    assert str(refused.value).isprintable()
