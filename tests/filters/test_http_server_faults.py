"""`SessionHandler` when something goes wrong: rule 28, `Rejected`, exceptions, and handlers that do not answer."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.filters.http_site import Handler, Site
from tests.filters.servers import Connection, exchange, serving
from typed_sessions import Conflict, Rejected, Session, SessionClosed, StoreUnavailable, TooLarge
from typed_sessions.filters import http_server

FAILURES = [(StoreUnavailable("it is down"), 503), (Conflict("others were faster"), 503), (TooLarge("too large"), 500)]


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    yield site
    site.sessions.close()


@pytest.mark.parametrize("create", [None, True])
def test_an_exception_commits_nothing(site: Site, create: bool | None) -> None:
    """Neither the changes, nor a session made for this request alone."""

    def broken(handler: Handler) -> None:
        handler.session[site.visits] = 9
        raise ZeroDivisionError

    with serving(site.handler({"/broken": broken}, session_create=create)) as server:
        with Connection(server) as browser:
            browser.ask("/visit")
            with pytest.raises(ConnectionError):
                browser.ask("/broken")
        with Connection(server) as stranger, pytest.raises(ConnectionError):
            stranger.ask("/broken")
        with Connection(server, browser.jar) as browser:
            assert browser.ask("/visits").text == "1"
    assert [type(error) for error in server.errors] == [ZeroDivisionError] * 2
    assert len(site.store.store) == 1


@pytest.mark.parametrize("create", [None, True])
def test_a_handler_that_does_not_answer_commits_nothing(site: Site, create: bool | None) -> None:
    """A session made for this request alone ends with it."""

    def silent(handler: Handler) -> None:
        handler.session[site.visits] = 9
        handler.close_connection = True

    with serving(site.handler({"/silent": silent}, session_create=create)) as server:
        assert exchange(server, b"GET /silent HTTP/1.1\r\n\r\n") == b""
    assert len(site.store.store) == 0


@pytest.mark.parametrize(("status", "committed"), [(200, "9"), (404, "9"), (499, "9"), (500, "1"), (503, "1")])
@pytest.mark.parametrize("how", ["say", "send_error"])
def test_a_response_of_500_and_above_is_not_committed(site: Site, status: int, committed: str, how: str) -> None:
    """Rule 28, however the handler answers."""

    def page(handler: Handler) -> None:
        handler.session[site.visits] = 9
        if how == "say":
            handler.say("text", status)
        else:
            handler.send_error(status, "whatever")

    with serving(site.handler({"/page": page})) as server:
        with Connection(server) as browser:
            browser.ask("/visit")
            answer = browser.ask("/page")
            assert (answer.status, answer.all("Vary")) == (status, ["Cookie"])
        with Connection(server, browser.jar) as browser:
            assert browser.ask("/visits").text == committed


def test_rejected_is_answered_wherever_it_is_raised(site: Site) -> None:
    """With its status and headers, in the place of what the handler had said so far; nothing is committed."""

    def refused(handler: Handler) -> None:
        handler.session[site.visits] = 9
        handler.begin(200, 5)
        handler.session.require(lambda s: site.name in s, error=(403, [("X-Why", "no name")]))

    with serving(site.handler({"/refused": refused})) as server:
        with Connection(server) as browser:
            browser.ask("/visit")
            answer = browser.ask("/refused")
            assert (answer.status, answer.text, answer.all("X-Why"), answer.all("X-Mine")) == (403, "403 Forbidden\n", ["no name"], [])
            assert (answer.all("Vary"), answer.all("Set-Cookie"), answer.all("Connection")) == (["Cookie"], [], ["close"])
        with Connection(server, browser.jar) as browser:
            assert browser.ask("/visits").text == "1"
    assert server.errors == []


def test_a_dead_cookie_is_expired_by_the_refusal(site: Site) -> None:
    """§4: with create=False, `Rejected` carries the cookies to expire."""
    with serving(site.handler(session_create=False)) as server:
        with serving(site.handler()) as other, Connection(other) as browser:
            browser.ask("/visit")
        site.sessions.end_all()
        with Connection(server, browser.jar) as browser:
            answer = browser.ask("/visits")
            assert (answer.status, len(answer.all("Set-Cookie")), browser.jar.cookies) == (400, 2, {})


def test_rejected_after_the_headers_cuts_the_connection(site: Site) -> None:
    """There is no other answer to give any more; nothing is committed, and the server gets the error."""

    def refused(handler: Handler) -> None:
        handler.begin(200, 100)
        handler.end_headers()
        handler.session[site.visits] = 9
        raise Rejected("require", 403)

    with serving(site.handler({"/refused": refused})) as server:
        with Connection(server) as browser:
            browser.ask("/visit")
            with pytest.raises(Exception, match="IncompleteRead"):
                browser.ask("/refused")
        with Connection(server, browser.jar) as browser:
            assert browser.ask("/visits").text == "1"
    assert [type(error) for error in server.errors] == [Rejected]


@pytest.mark.parametrize(("failure", "status"), FAILURES, ids=lambda value: type(value).__name__)
def test_a_commit_that_fails_is_answered_in_the_handlers_place(site: Site, failure: Exception, status: int) -> None:
    """Rule 28: neither the handler's headers nor its body leave; no cookie is set or expired; nobody repeats the commit."""
    with serving(site.handler()) as server:
        with Connection(server) as browser:
            browser.ask("/visit")
            site.store.calls.clear()
            site.store.faults["commit"] = failure
            answer = browser.ask("/visit")
            assert (answer.status, answer.text[:3], answer.all("X-Mine"), answer.all("Set-Cookie")) == (status, str(status), [], [])
            assert (answer.all("Retry-After"), answer.all("Cache-Control")) == (["1"] if status == 503 else [], ["no-store"])
            assert (browser.is_shut(), site.store.calls["commit"]) == (True, 1)
        del site.store.faults["commit"]
        with Connection(server, browser.jar) as browser:
            assert browser.ask("/visits").text == "1"
    assert server.errors == []


def test_nothing_of_the_handlers_answer_follows_the_refusal(site: Site) -> None:
    """Rule 28: not even behind the end of the refusal, where a proxy could take it for the next answer."""
    with serving(site.handler()) as server, Connection(server) as browser:
        browser.ask("/visit")
        site.store.faults["commit"] = StoreUnavailable("it is down")
        request = f"GET /visit HTTP/1.1\r\nCookie: {browser.jar.header()}\r\n\r\n"
        head, _, body = exchange(server, request.encode()).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 ")
    assert body == b"503 Service Unavailable\n"


def test_a_commit_that_fails_after_the_headers_cuts_the_connection(site: Site) -> None:
    """The response has begun: only cutting it off says that something went wrong."""

    def page(handler: Handler) -> None:
        handler.begin(200, 100)
        handler.end_headers()
        handler.session[site.visits] = 9
        site.store.faults["commit"] = StoreUnavailable("it is down")

    with serving(site.handler({"/page": page})) as server, Connection(server) as browser:
        browser.ask("/visit")
        with pytest.raises(Exception, match="IncompleteRead"):
            browser.ask("/page")
    assert [type(error) for error in server.errors] == [StoreUnavailable]


def refuses(handler: Handler) -> None:
    raise Rejected("require", 403)


def head_of_post(length: int) -> bytes:
    return f"POST /refused HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n".encode()


def answer_on(raw: socket.socket) -> bytes:
    """All that the other end says."""
    return b"".join(iter(lambda: raw.recv(65_536), b""))


@pytest.mark.parametrize("read", [0, 200_000])
def test_a_refused_post_whose_body_nobody_has_read_gets_its_answer(site: Site, read: int) -> None:
    """What is still under way is taken and dropped; otherwise the connection is reset, and the answer with it."""

    def refused(handler: Handler) -> None:
        handler.rfile.read(read)
        refuses(handler)

    with ExitStack() as kept:
        with serving(site.handler({"/refused": refused})) as server:
            raw = kept.enter_context(socket.create_connection(("127.0.0.1", server.port), 10))
            raw.sendall(head_of_post(400_000) + b"x" * 200_000)
            assert answer_on(raw).startswith(b"HTTP/1.1 403 ")
            raw.sendall(b"x" * 200_000)
            raw.shutdown(socket.SHUT_WR)
        # The handler has ended: a reset would be known by now.
        assert raw.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
    assert server.errors == []


@pytest.mark.parametrize("bound", ["seconds", "the server's timeout", "bytes"])
def test_what_is_dropped_of_a_refused_post_is_bounded(site: Site, monkeypatch: pytest.MonkeyPatch, bound: str) -> None:
    """A client that neither sends what it has announced nor goes away keeps no thread for long."""
    monkeypatch.setattr(http_server, "LINGER", 0.5 if bound == "seconds" else 60)
    monkeypatch.setattr(http_server, "MOST_DROPPED", 1000 if bound == "bytes" else 1 << 20)
    attributes = {"timeout": 0.5} if bound == "the server's timeout" else {}
    started = time.monotonic()
    with ExitStack() as kept:
        with serving(site.handler({"/refused": refuses}, **attributes)) as server:
            raw = kept.enter_context(socket.create_connection(("127.0.0.1", server.port), 10))
            raw.sendall(head_of_post(10**9) + b"x" * 50_000)
            if bound != "bytes":  # where the connection is reset, the answer may not be seen
                assert answer_on(raw).startswith(b"HTTP/1.1 403 ")
        assert time.monotonic() - started < 30  # the handler's thread has ended, the client is still there
    assert server.errors == []


@pytest.mark.parametrize("length", ["nonsense", "-1", "9" * 5000, "\xb2"])
def test_a_refused_post_with_a_length_that_is_none(site: Site, length: str) -> None:
    """The client's text is no reason for an error."""
    with serving(site.handler({"/refused": refuses})) as server:
        request = f"POST /refused HTTP/1.1\r\nContent-Length: {length}\r\n\r\n"
        assert exchange(server, request.encode("latin-1")).startswith(b"HTTP/1.1 403 ")
    assert server.errors == []


def test_a_store_that_is_down_is_no_anonymous_request(site: Site) -> None:
    """Rule 28: 503 with its headers, no new session over the browser's cookie; who does not ask is not concerned."""
    with serving(site.handler()) as server:
        with Connection(server) as browser:
            browser.ask("/visit")
            before = dict(browser.jar.cookies)
            site.store.faults["open"] = StoreUnavailable("it is down")
            assert browser.ask("/").text == "hello"
            answer = browser.ask("/visits")
            assert (answer.status, answer.all("Retry-After"), answer.all("Set-Cookie")) == (503, ["1"], [])
            assert browser.jar.cookies == before
        del site.store.faults["open"]


def test_a_method_that_does_not_exist(site: Site) -> None:
    """http.server's own 501: no session, and the server goes on."""
    with serving(site.handler()) as server, Connection(server) as browser:
        assert browser.ask("/visit", "BREW").status == 501
    assert (site.store.trips, server.errors) == (0, [])


@pytest.mark.parametrize("mistake", [AttributeError("no such thing"), ValueError("a bug")], ids=["AttributeError", "ValueError"])
def test_a_check_that_raises_is_no_unknown_method(site: Site, mistake: Exception) -> None:
    """http.server answers 501 for a method that is not there, and that is what an AttributeError says: here it is a mistake like others."""

    class Checking(site.handler({"/": lambda handler: None})):  # type: ignore[misc]  # a class that is made at run time
        def check_session(self, session: Session) -> bool:
            raise mistake

    with serving(Checking) as server, Connection(server) as browser, pytest.raises(ConnectionError):
        browser.ask("/")
    [error] = server.errors
    assert mistake in (error, error.__cause__)
    assert not isinstance(error, AttributeError)


@pytest.mark.parametrize("why", ["a refusal", "a commit that fails"])
def test_what_answers_a_head_in_the_handlers_place_has_no_body(site: Site, why: str) -> None:
    """RFC 9110 9.3.2, on the wire: for a proxy, bytes behind the headers would be the beginning of the next answer."""

    def head(handler: Handler) -> str:
        if why == "a refusal":
            raise Rejected("require", 403)
        handler.session[site.visits] = 1
        return ""

    site.store.faults["create"] = StoreUnavailable("it is down")
    with serving(site.handler({"/head": head})) as server:
        headers, _, body = exchange(server, b"HEAD /head HTTP/1.1\r\nHost: localhost\r\n\r\n").partition(b"\r\n\r\n")
    assert (headers[9:12], body) == (b"403" if why == "a refusal" else b"503", b"")
    assert b"\r\nContent-Length: " in headers
    assert server.errors == []


def test_a_refused_post_in_chunks_gets_its_answer(site: Site) -> None:
    """As one that says how long it is: what is still under way is taken and dropped, or the connection would be reset."""

    def refuses(handler: Handler) -> None:
        raise Rejected("require", 403)

    chunks = b"2710\r\n" + b"x" * 10_000 + b"\r\n"
    with ExitStack() as kept:
        with serving(site.handler({"/refused": refuses})) as server:
            raw = kept.enter_context(socket.create_connection(("127.0.0.1", server.port), 10))
            raw.sendall(b"POST /refused HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks * 20)
            assert b"".join(iter(lambda: raw.recv(65_536), b"")).startswith(b"HTTP/1.1 403 ")
            raw.sendall(chunks * 20 + b"0\r\n\r\n")
            raw.shutdown(socket.SHUT_WR)
        # The handler has ended: a reset would be known by now.
        assert raw.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
    assert server.errors == []


def test_a_refusal_after_the_headers_closes_the_session(site: Site) -> None:
    """Rule 27: a thread that outlives the request neither reads nor writes it any more."""
    kept: list[Session] = []

    def refused(handler: Handler) -> None:
        kept.append(handler.session)
        handler.begin(200, 100)
        handler.end_headers()
        raise Rejected("require", 403)

    with serving(site.handler({"/refused": refused})) as server, Connection(server) as browser:
        browser.ask("/visit")
        with pytest.raises(Exception, match="IncompleteRead"):
            browser.ask("/refused")
    with pytest.raises(SessionClosed):
        kept[0][site.visits]


@pytest.mark.parametrize("whose", ["the client's", "the handler's", "caught"])
def test_a_timeout_after_the_headers_commits_nothing_more(site: Site, whose: str, caplog: pytest.LogCaptureFixture) -> None:
    """http.server takes any TimeoutError for a client that has gone, and goes on as if the handler had returned."""
    given_up = threading.Event()

    def page(handler: Handler) -> None:
        session = handler.session
        handler.begin(200, 100_000_000)
        handler.end_headers()
        session[site.visits] = 9
        handler.close_connection = True
        try:
            if whose == "the client's":
                handler.wfile.write(b"x" * 100_000_000)
            raise TimeoutError("the database takes too long")
        except TimeoutError as problem:
            given_up.set()
            if whose != "caught":
                raise
            handler.log_error("Request timed out: %r", problem)

    with serving(site.handler({"/page": page}, timeout=0.1)) as server:
        with Connection(server) as browser:
            browser.ask("/visit")
        with socket.create_connection(("127.0.0.1", server.port), 10) as raw:
            raw.sendall(f"GET /page HTTP/1.1\r\nCookie: {browser.jar.header()}\r\n\r\n".encode())
            assert given_up.wait(10)  # nothing is read until then
    assert server.errors == []
    with serving(site.handler()) as server, Connection(server, browser.jar) as browser:
        assert browser.ask("/visits").text == ("9" if whose == "caught" else "1")
    assert ["did not come to its end" in record.getMessage() for record in caplog.records] == [True] * (whose != "caught")
