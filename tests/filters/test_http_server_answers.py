"""Answers of a `SessionHandler` that are none of http's usual ones: another protocol, headers ended by hand, and none at all."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from tests.filters.http_site import Handler, Page, Site
from tests.filters.servers import Connection, exchange, serving
from typed_sessions import StoreUnavailable


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    with site.sessions:
        yield site


def switches(handler: Handler) -> None:
    handler.send_response(101)
    handler.send_header("Upgrade", "chat")
    handler.send_header("Connection", "Upgrade")
    handler.end_headers()
    handler.close_connection = True


def request(path: str, cookies: str = "") -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\nCookie: {cookies}\r\n\r\n".encode()


def test_switching_protocols_is_an_answer(site: Site) -> None:
    """Rule 26: what was done before is committed, with its cookies in the headers of the 101; what is done after it, at the end."""

    def chat(handler: Handler) -> None:
        session = handler.session
        session.update(site.visits, lambda n: n + 1, default=0)
        switches(handler)
        session.update(site.visits, lambda n: n + 10)
        handler.wfile.write(b"hello")

    with serving(site.handler({"/chat": chat})) as server:
        with Connection(server) as browser:
            browser.ask("/visit")
        answer = exchange(server, request("/chat", browser.jar.header()))
        assert (answer.startswith(b"HTTP/1.1 101"), answer.endswith(b"\r\n\r\nhello")) == (True, True)
        assert (answer.count(b"\r\nVary: Cookie\r\n"), answer.count(b"Set-Cookie")) == (1, 0)
        with Connection(server, browser.jar) as browser:
            assert browser.ask("/visits").text == "12"
        assert exchange(server, request("/chat")).count(b"\r\nSet-Cookie: ") == 2
    assert server.errors == []


def test_switching_protocols_after_the_end_of_the_session(site: Site) -> None:
    """The cookies are expired, and `Connection` stays the one that the protocol asks for; this connection is closed afterwards."""

    def chat(handler: Handler) -> None:
        handler.session.end()
        switches(handler)

    with serving(site.handler({"/chat": chat})) as server:
        with Connection(server) as browser:
            browser.ask("/visit")
        answer = exchange(server, request("/chat", browser.jar.header()))
    assert (answer.count(b"\r\nConnection: "), answer.count(b"\r\nConnection: Upgrade\r\n"), answer.count(b"Max-Age=0")) == (1, 1, 2)
    assert len(list(site.sessions.all())) == 0


def test_a_commit_that_fails_refuses_to_switch(site: Site) -> None:
    """The error is answered instead, while that can be said in http."""

    def chat(handler: Handler) -> None:
        handler.session[site.visits] = 1
        site.store.faults["create"] = StoreUnavailable("down")
        switches(handler)
        handler.wfile.write(b"hello")

    with serving(site.handler({"/chat": chat})) as server:
        answer = exchange(server, request("/chat"))
    assert (answer.startswith(b"HTTP/1.1 503"), b"hello" in answer, b"101" in answer) == (True, False, False)


def test_headers_that_are_ended_by_hand(site: Site) -> None:
    """As the standard library's handler for CGI does: the session's go before those, and what it did is committed before they leave."""
    stored: list[int] = []

    def script(handler: Handler) -> None:
        handler.session[site.visits] = 1
        handler.send_response(200)
        handler.flush_headers()
        stored.extend(view[site.visits] for view in site.sessions.all())
        handler.wfile.write(b"Content-Length: 5\r\n\r\nhello")

    with serving(site.handler({"/script": script})) as server, Connection(server) as browser:
        answer = browser.ask("/script")
        assert (answer.text, len(browser.jar.cookies), stored) == ("hello", 2, [1])
        assert browser.ask("/visits").text == "1"
    assert server.errors == []


@pytest.mark.parametrize("written", [b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", b""], ids=["by itself", "not at all"])
def test_an_answer_that_the_filter_does_not_see_is_warned_of(site: Site, written: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """Its cookies could not go with it, so nothing is committed; the log says which keys, and what to do: `commit` helps."""

    def by_hand(handler: Handler) -> None:
        handler.session.update(site.visits, lambda n: n + 1, default=0)
        handler.wfile.write(written)
        handler.close_connection = True

    def commits(handler: Handler) -> None:
        handler.session.update(site.visits, lambda n: n + 1)
        handler.sessions.commit(handler.session)
        handler.wfile.write(written)
        handler.close_connection = True

    def looks(handler: Handler) -> None:
        assert handler.session[site.visits] == 2
        handler.wfile.write(written)
        handler.close_connection = True

    pages: dict[str, Page] = {"/by_hand": by_hand, "/commits": commits, "/looks": looks}
    with caplog.at_level(logging.WARNING, "typed_sessions"), serving(site.handler(pages)) as server:
        with Connection(server) as browser:
            browser.ask("/visit")
        cookies = browser.jar.header()
        for path in pages:
            assert exchange(server, request(path, cookies)) == written
    assert server.errors == []
    [record] = caplog.records
    assert record.getMessage() == (
        "GET '/by_hand' was not answered with send_response() and end_headers(): what it did to its session is lost (keys ['visits']); "
        "for an answer that goes to wfile by itself, call self.sessions.commit(self.session) before"
    )
