"""SWI-Prolog's cookies: how a session is found in a request, and how its cookies are named and written."""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from typing_extensions import override

from tests.faces import PEER, Browser, Face
from tests.seeds.cases import case
from tests.seeds.programs import cookies_set, follow, handles, listen, names_set, visit
from typed_sessions import Client, CookiePolicy, Key, PolicyError, Rejected, Request, SessionManager

UNKNOWN = "A" * 64


def with_header(browser: Browser, *headers: str) -> Browser:
    """The same browser, but with these Cookie headers, in which {key} and {addr} are its cookies' values."""
    values = {"key": browser.jar["SESSION_KEY"], "addr": browser.jar["SESSION_ADDR"]}
    return Presenting(browser.face, [("Cookie", header.format(**values)) for header in headers])


class Presenting(Browser):
    """A browser that presents these headers and nothing else."""

    def __init__(self, face: Face, headers: Sequence[tuple[str, str]]) -> None:
        super().__init__(face)
        self.headers = headers

    @override
    def request(self, path: str = "/", client: Client | None = None, headers: Sequence[tuple[str, str]] = ()) -> Request:
        return Request(headers=self.headers, peer=self.address, path=path)


@case("first-visit-creates", "improve", "created with the first write, or create=True; HttpOnly, and over https Secure")
def test_a_first_visit_creates_a_session_when_it_writes_or_when_that_is_wanted(face: Face) -> None:
    """A request that writes nothing gets no cookie; with create=True it does, and Begin comes before the handler (rules 19, 25)."""
    told = listen(face.manager)
    assert follow(face.browser()) == [("Vary", "Cookie")]
    assert (told, handles(face)) == ([], [])
    turn = face.browser(https=True).open(create=True)
    assert told == [("begin", turn.session.handle)]
    headers = turn.finish()
    assert names_set(headers) == ["__Host-SESSION_KEY", "__Host-SESSION_ADDR"]
    assert all(value.endswith("; Path=/; Secure; HttpOnly; SameSite=Lax") for value in cookies_set(headers))


@case("id-format", "improve", "128-bit locator and 256-bit secret from the system's generator, no host name")
def test_an_id_is_48_random_bytes_and_says_nothing(face: Face) -> None:
    """Five ids are five, of 64 base64url characters each with nothing after them (rule 17, I1)."""
    browsers = [face.browser() for _ in range(5)]
    for browser in browsers:
        follow(browser, create=True)
    ids = {browser.jar["SESSION_KEY"] for browser in browsers}
    assert len(ids) == 5
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{64}", value) for value in ids)


@case("repeat-visit", "keep")
def test_a_repeated_visit_finds_the_session(face: Face) -> None:
    """The second visit counts two, and is answered with no cookie and no event (rule 12)."""
    visits = Key("visits", int)
    browser = face.browser()
    assert visit(browser, visits) == 1
    told = listen(face.manager)
    turn = browser.open()
    assert turn.session[visits] == 1
    assert turn.session.update(visits, lambda n: n + 1) == 2
    assert cookies_set(turn.finish()) == []
    assert told == []


@case("unknown-id-not-adopted", "keep")
@pytest.mark.parametrize("presented", [UNKNOWN, "x'--"])
def test_an_unknown_id_is_not_adopted(face: Face, presented: str) -> None:
    """Whoever presents an id that was not issued here gets a new one, and a Begin (rule 18, I5)."""
    told = listen(face.manager)
    browser = face.browser()
    browser.jar = {"SESSION_KEY": presented, "SESSION_ADDR": "A" * 43}
    turn = browser.open(create=True)
    assert told == [("begin", turn.session.handle)]
    turn.finish()
    assert browser.jar["SESSION_KEY"] not in (presented, UNKNOWN)
    with browser.visit() as session:
        assert session.exists


@case("uppercase-id-unknown", "keep")
def test_an_id_in_another_case_is_unknown(face: Face) -> None:
    """Ids are compared exactly: the same letters in the other case are an unknown id (rule 18)."""
    browser = face.browser()
    follow(browser, create=True)
    other = browser.copy()
    other.jar["SESSION_KEY"] = browser.jar["SESSION_KEY"].swapcase()
    follow(other, create=True)
    assert other.jar["SESSION_KEY"].lower() != browser.jar["SESSION_KEY"].lower()
    assert len(handles(face)) == 2


@case("cookie-name-case-sensitive", "keep")
def test_cookie_names_are_case_sensitive(face: Face) -> None:
    """`session_key` is no cookie of ours, so the request gets a new session (RFC 6265bis 5.7, C8)."""
    browser = face.browser()
    follow(browser, create=True)
    other = browser.copy()
    other.jar = {name.lower(): value for name, value in browser.jar.items()}
    follow(other, create=True)
    assert other.jar["SESSION_KEY"] != browser.jar["SESSION_KEY"]
    assert len(handles(face)) == 2


@case("two-cookies-first-unknown", "improve", "a cookie that is there twice with different values opens nothing")
def test_an_unknown_cookie_beside_the_right_one_opens_nothing(face: Face) -> None:
    """Two values of one name are refused, the unknown one first: a neighbouring site could have planted it (rule 20, C5)."""
    browser = face.browser()
    follow(browser, create=True)
    planted = with_header(browser, f"SESSION_KEY={UNKNOWN}; SESSION_KEY={{key}}; SESSION_ADDR={{addr}}")
    with pytest.raises(Rejected) as refused:
        planted.open(create=False)
    assert all("Max-Age=0" in value for value in cookies_set(refused.value.headers))
    assert len(handles(face)) == 1


@case("two-valid-cookies-first-wins", "improve", "two valid ids in one request open neither session, in either order")
def test_two_valid_ids_in_one_request_open_neither_session(face: Face) -> None:
    """No order of cookies is one to rely on, so the request gets a session of its own and both others stay (rule 20, C5)."""
    ann, bob = face.browser(), face.browser()
    follow(ann, create=True)
    follow(bob, create=True)
    first, second = ann.jar["SESSION_KEY"], bob.jar["SESSION_KEY"]
    for one, other in ((first, second), (second, first)):
        turn = with_header(ann, f"SESSION_KEY={one}; SESSION_KEY={other}; SESSION_ADDR={{addr}}").open()
        assert not turn.session.exists
        turn.finish()
    for browser in (ann, bob):
        with browser.visit() as session:
            assert session.exists


@case("two-Cookie-header-lines", "improve", "all Cookie headers are read")
def test_cookies_are_found_in_several_header_lines(face: Face) -> None:
    """HTTP/2 splits the cookies over several lines, which are one header (RFC 9113 8.2.3, C6)."""
    browser = face.browser()
    follow(browser, create=True)
    with with_header(browser, "other=1", "SESSION_KEY={key}", "SESSION_ADDR={addr}").visit() as session:
        assert session.exists


@case("quoted-cookie-value", "keep")
def test_a_quoted_value_is_accepted(face: Face) -> None:
    """Double quotes round a value are dropped (rule 22)."""
    browser = face.browser()
    follow(browser, create=True)
    with with_header(browser, 'SESSION_KEY="{key}"; SESSION_ADDR="{addr}"').visit() as session:
        assert session.exists


@case("cookie-with-$Version-and-empty-parts", "keep")
@pytest.mark.parametrize(
    "header", ["$Version=1; SESSION_KEY={key}; $Path=/; SESSION_ADDR={addr}", "=; ;;SESSION_KEY={key};; SESSION_ADDR={addr}"]
)
def test_odd_parts_of_the_header_are_skipped(face: Face, header: str) -> None:
    """Parts of an older syntax and empty parts cost the cookies beside them nothing (rule 22, C3)."""
    browser = face.browser()
    follow(browser, create=True)
    with with_header(browser, header).visit() as session:
        assert session.exists


@case("cookie-value-trailing-space", "improve", "blanks round a value are dropped")
def test_a_blank_after_a_value_is_no_part_of_it(face: Face) -> None:
    """A blank before the semicolon does not make another id of it (rule 22)."""
    browser = face.browser()
    follow(browser, create=True)
    with with_header(browser, "SESSION_KEY={key} ; SESSION_ADDR={addr}\t ; b=c").visit() as session:
        assert session.exists


@case("samesite-variants", "improve", "'none' is written as SameSite=None, and only with Secure")
def test_each_same_site_is_written(face: Face) -> None:
    """All three can be said; 'none' needs secure=True, since browsers refuse such a cookie otherwise (rule 19, ASVS 3.3.2)."""
    written: list[str] = []
    for policy in (CookiePolicy(same_site="strict"), CookiePolicy(same_site="lax"), CookiePolicy(same_site="none", secure=True)):
        headers = follow(face.browser(), create=True, cookie_policy=policy)
        written += {value.partition("; ")[2] for value in cookies_set(headers)}
    assert written == ["Path=/; HttpOnly; SameSite=Strict", "Path=/; HttpOnly; SameSite=Lax", "Path=/; Secure; HttpOnly; SameSite=None"]
    with pytest.raises(PolicyError, match=r"same_site='none'.*secure=True"):
        CookiePolicy(same_site="none")


@case("http_only-secure", "improve", "the attributes are written as RFC 6265bis has them")
def test_secure_and_http_only_are_written_in_canonical_form(face: Face) -> None:
    """`Secure` and `HttpOnly` have no value, and either can be left out by the policy (RFC 6265bis 4.1.1)."""
    headers = follow(face.browser(), create=True, cookie_policy=CookiePolicy(secure=True))
    assert {value.partition("; ")[2] for value in cookies_set(headers)} == {"Path=/; Secure; HttpOnly; SameSite=Lax"}
    headers = follow(face.browser(https=True), create=True, cookie_policy=CookiePolicy(secure=False, http_only=False))
    assert {value.partition("; ")[2] for value in cookies_set(headers)} == {"Path=/; SameSite=Lax"}


@case("cookie-name-option", "keep")
def test_the_cookies_have_the_name_that_the_policy_gives(face: Face) -> None:
    """The name is the policy's when they are set and when they are expired (rule 19)."""
    face.renew(cookie_policy=CookiePolicy(name="sid"))
    browser = face.browser()
    assert names_set(follow(browser, create=True)) == ["sid_KEY", "sid_ADDR"]
    turn = browser.open()
    turn.session.end()
    assert names_set(turn.finish()) == ["sid_KEY", "sid_ADDR"]
    assert browser.jar == {}


@case("path-option-is-a-string-prefix", "improve", "the path is compared by whole segments, as browsers do")
def test_a_path_is_compared_by_whole_segments(face: Face) -> None:
    """With path /sub, nothing is created unasked at / or at /subway, where the cookie would never come back (RFC 6265bis 5.1.4)."""
    face.renew(cookie_policy=CookiePolicy(path="/sub"), create=True)
    for outside in ("/insession", "/subway"):
        turn = face.browser().open(outside)
        assert not turn.session.exists
        assert cookies_set(turn.finish()) == []
    for inside in ("/sub", "/sub/x"):
        browser = face.browser()
        turn = browser.open(inside)
        assert turn.session.exists
        assert all("; Path=/sub; " in value for value in cookies_set(turn.finish()))
        with browser.visit(path=inside) as session:
            assert session.exists


@case("close-uses-path-option", "keep")
def test_the_path_is_that_of_the_policy_when_the_cookies_are_expired(face: Face) -> None:
    """A browser only deletes a cookie whose path agrees (rule 22, C10)."""
    face.renew(cookie_policy=CookiePolicy(path="/sub"))
    browser = face.browser()
    follow(browser, path="/sub", create=True)
    turn = browser.open("/sub")
    turn.session.end()
    first, second = (value.split("; ")[:2] for value in cookies_set(turn.finish()))
    assert (first, second) == (["SESSION_KEY=", "Path=/sub"], ["SESSION_ADDR=", "Path=/sub"])


@case("route-empty", "keep")
def test_without_a_route_the_id_has_no_suffix(face: Face) -> None:
    """Nothing is put behind the id unless a route is set; this is the default."""
    browser = face.browser()
    follow(browser, create=True)
    assert face.manager.options.route is None
    assert "." not in browser.jar["SESSION_KEY"]


@case("route-cached-per-thread", "improve", "a new route holds for the next id, in whatever thread")
def test_a_new_route_holds_at_once_in_every_thread() -> None:
    """Threads that have made ids before use the new route too, and the ids with the old one stay good."""
    manager = SessionManager()
    both = Barrier(2)

    def make() -> str:
        both.wait(10)
        _, finish = manager.start_check(Request(headers=(), peer=PEER), create=True)
        finish()
        return "; ".join(f"{cookie.name}={cookie.value}" for cookie in finish.cookies)

    with manager, ThreadPoolExecutor(2) as threads:
        before = [job.result() for job in [threads.submit(make) for _ in range(2)]]
        manager.set_options(route="node7")
        after = [job.result() for job in [threads.submit(make) for _ in range(2)]]
        assert [".node7;" in header for header in before + after] == [False, False, True, True]
        assert all(manager.check_session_cookie(Request(headers=[("Cookie", header)], peer=PEER)) for header in before + after)
