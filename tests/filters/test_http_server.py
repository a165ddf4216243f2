"""`SessionHandler` over real sockets: rules 13, 14, 24 to 27. One TCP connection is one client."""

from __future__ import annotations

import contextvars
import datetime
import http.client
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.filters.http_site import Handler, Site
from tests.filters.servers import Answer, Connection, Jar, QuietServer, exchange, serving
from typed_sessions import CookiePolicy, HeadersSent, Key, Session, SessionClosed, current_session, redirect


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    yield site
    site.sessions.close()


def test_a_session_nobody_asks_about_costs_nothing(site: Site) -> None:
    """Rule 25: lazy. A valid cookie and an untouched session: no trip, and a response that no cache has to tell apart (rule 24)."""
    with serving(site.handler()) as server, Connection(server) as browser:
        browser.ask("/visit")
        site.store.calls.clear()
        answer = browser.ask("/")
        assert (answer.text, answer.all("Vary"), answer.all("Set-Cookie"), site.store.trips) == ("hello", [], [], 0)


def test_a_visit_counter_on_one_connection(site: Site) -> None:
    """Rules 24 and 25: the cookies come once, with the first committed value and no-store; every answer that looked has Vary."""
    with serving(site.handler()) as server, Connection(server) as browser:
        answers = [browser.ask("/visits"), *(browser.ask("/visit") for _ in range(3)), browser.ask("/visits")]
        assert [answer.text for answer in answers] == ["0", "1", "2", "3", "3"]
        assert [len(answer.all("Set-Cookie")) for answer in answers] == [0, 2, 0, 0, 0]
        assert [answer.all("Cache-Control") for answer in answers] == [[], ["no-store"], [], [], []]
        assert all(answer.all("Vary") == ["Cookie"] for answer in answers)
        assert site.store.calls == {"create": 1, "open": 3, "commit": 2}


def test_a_thread_that_outlives_its_request_gets_no_other_requests_session(site: Site) -> None:
    """A reverse proxy's connection goes on to the next visitor's request, and the thread looks for the first time then."""
    contexts: list[contextvars.Context] = []
    problems: list[BaseException] = []

    def looks() -> None:
        try:
            current_session()
        except SessionClosed as problem:
            problems.append(problem)

    def begins(page: Handler) -> str:
        contexts.append(contextvars.copy_context())
        return "begun"

    def second(page: Handler) -> str:
        page.session[site.visits] = 2
        thread = threading.Thread(target=contexts[0].run, args=(looks,))
        thread.start()
        thread.join()
        return "done"

    with serving(site.handler({"/begins": begins, "/second": second})) as server, Connection(server) as proxy:
        assert [proxy.ask(path, jar=Jar()).text for path in ("/begins", "/second")] == ["begun", "done"]
    assert len(problems) == 1


def test_the_cookies_say_who_it_is_and_never_the_connection(site: Site) -> None:
    """A reverse proxy sends the requests of many browsers over one connection."""
    ann, bob = Jar(), Jar()
    with serving(site.handler()) as server, Connection(server) as proxy:
        for jar in (ann, ann, bob):
            proxy.ask("/visit", jar=jar)
        assert [proxy.ask("/visits", jar=jar).text for jar in (ann, bob, Jar(), ann)] == ["2", "1", "0", "2"]


def test_what_changed_is_committed_before_the_headers_leave(site: Site) -> None:
    """Who has the answer's beginning finds the value; what changes after that is committed when the handler returns."""
    begun, go_on = threading.Event(), threading.Event()

    def slow(handler: Handler) -> None:
        handler.session[site.visits] = 7
        handler.begin(200, 4)
        handler.end_headers()
        handler.session[site.visits] = 8
        handler.wfile.write(b"half")
        handler.wfile.flush()
        begun.set()
        assert go_on.wait(10)

    with serving(site.handler({"/slow": slow})) as server, Connection(server) as browser, Connection(server, browser.jar) as other:
        browser.ask("/visit")
        assert browser.ask("/slow").text == "half"
        assert begun.wait(10)
        assert other.ask("/visits").text == "7"
        go_on.set()
        assert browser.ask("/visits").text == "8"  # the same connection: the handler has returned


@pytest.mark.parametrize("late", ["create", "create=True", "renew", "persistent"])
def test_what_needs_a_cookie_is_refused_once_the_headers_have_left(site: Site, late: str) -> None:
    """Rule 26: HeadersSent at the call."""
    caught: list[str] = []

    def page(handler: Handler) -> None:
        handler.begin(200, 0)
        handler.end_headers()
        try:
            session = handler.session
            if late == "renew":
                session.renew()
            elif late == "persistent":
                session.persistent = False
            else:
                session[site.visits] = 1
        except HeadersSent as problem:
            caught.append(str(problem))

    handler = site.handler({"/late": page}, session_create=True if late == "create=True" else None)
    with serving(handler) as server, Connection(server) as browser:
        if late in ("renew", "persistent"):
            browser.ask("/visit")
        assert browser.ask("/late").status == 200
        browser.ask("/")
    assert "headers have left" in caught[0]
    assert len(site.store.store) == (1 if late in ("renew", "persistent") else 0)


def test_head_is_like_get_without_the_body(site: Site) -> None:
    """RFC 9110 9.3.2: the same headers, cookies too; the connection goes on; a refusal of HEAD has no body either."""

    def refused(handler: Handler) -> None:
        handler.session.require(lambda s: site.name in s)

    def head(handler: Handler) -> None:
        handler.begin(200, len(str(handler.session.update(site.visits, lambda n: n + 1, default=0))))
        handler.end_headers()

    with serving(site.handler({"/refused": refused, "/head": head})) as server, Connection(server) as browser:
        answer = browser.ask("/head", "HEAD")
        assert (answer.status, answer.body, len(answer.all("Set-Cookie"))) == (200, b"", 2)
        assert browser.ask("/visit").text == "2"
        answer = browser.ask("/refused", "HEAD")
        assert (answer.status, answer.body, browser.is_shut()) == (403, b"", True)


def test_expect_100_continue(site: Site) -> None:
    """RFC 9110 10.1.1: the interim answer is no answer: no session header in it, and nothing is committed by it."""

    def post(handler: Handler) -> str:
        body = handler.rfile.read(int(handler.headers["Content-Length"])).decode()
        handler.session[site.name] = body
        return body

    with serving(site.handler({"/post": post})) as server, socket.create_connection(("127.0.0.1", server.port), 10) as raw:
        file = raw.makefile("rb")
        raw.sendall(b"POST /post HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
        assert (file.readline(), file.readline()) == (b"HTTP/1.1 100 Continue\r\n", b"\r\n")
        assert len(site.store.store) == 0
        raw.sendall(b"ann")
        assert file.readline() == b"HTTP/1.1 200 OK\r\n"
        headers = http.client.parse_headers(file)
        assert (file.read(3), len(headers.get_all("Set-Cookie") or [])) == (b"ann", 2)
        file.close()


def test_the_end_of_a_session_closes_its_connections(site: Site) -> None:
    """Rules 13 and 14: the one that carries the ending request after its response, which expires the cookies; the others at once."""
    with (
        serving(site.handler()) as server,
        Connection(server) as browser,
        Connection(server, browser.jar) as second,
        Connection(server, Jar()) as stranger,
    ):
        browser.ask("/visit")
        second.ask("/visit")
        stranger.ask("/visit")
        answer = browser.ask("/end")
        assert (answer.status, answer.all("Connection"), len(answer.all("Set-Cookie"))) == (200, ["close"], 2)
        assert browser.jar.cookies == {}
        assert browser.is_shut()
        assert second.is_shut()
        assert stranger.ask("/visits").text == "1"


def test_an_end_from_elsewhere_closes_them_too(site: Site) -> None:
    """Rule 14: by the manager."""
    with serving(site.handler()) as server, Connection(server) as browser, Connection(server, Jar()) as idle:
        browser.ask("/visit")
        idle.ask("/")
        assert site.sessions.end_all() == 1
        assert browser.is_shut()
        assert idle.ask("/").text == "hello"  # it has looked at no session


def test_ending_while_the_body_streams_closes_the_connection(site: Site) -> None:
    """Rules 14 and 26: ending works after the headers have left, and the connection ends with it."""

    def page(handler: Handler) -> None:
        handler.session
        handler.begin(200, 3)
        handler.end_headers()
        handler.session.end()
        handler.wfile.write(b"bye")

    with serving(site.handler({"/bye": page})) as server, Connection(server) as browser:
        browser.ask("/visit")
        assert browser.ask("/bye").text == "bye"
        assert browser.is_shut()
    assert len(site.store.store) == 0


def test_a_proxys_connection_outlives_one_of_its_sessions(site: Site) -> None:
    """Rule 14: a connection that has carried several sessions is closed by the end of none of them."""
    ann, bob = Jar(), Jar()
    with serving(site.handler()) as server, Connection(server) as proxy:
        proxy.ask("/visit", jar=ann)
        proxy.ask("/visit", jar=bob)
        assert proxy.ask("/end", jar=ann).all("Connection") == []
        assert proxy.ask("/visits", jar=bob).text == "1"


def test_a_connection_is_a_client_until_it_closes(site: Site) -> None:
    """Rule 13: `session.clients` counts connections; when the last one has closed, `cleanup_no_client` runs."""
    alone = threading.Event()

    def left(_: object) -> bool:
        alone.set()
        return True

    door: Key[list[str]] = Key("door", list[str], resident=True, cleanup_no_client=left)

    def enter(handler: Handler) -> int:
        handler.session.setdefault(door, list)
        return len(handler.session.clients)

    with serving(site.handler({"/enter": enter, "/count": lambda handler: len(handler.session.clients)})) as server:
        with Connection(server) as browser, Connection(server, browser.jar) as second:
            browser.ask("/enter")
            assert second.ask("/enter").text == "2"
            assert browser.ask("/count").text == "2"
            assert not alone.is_set()
        assert alone.wait(10)


def test_current_session_in_the_handler_and_outside_of_requests(site: Site) -> None:
    """`current_session()` is the request's; where no request could be read there is none."""
    seen: list[object] = []

    def log_message(_: Any, format: str, *args: Any) -> None:
        seen.append(current_session(None))

    def page(handler: Handler) -> bool:
        return current_session() is handler.session

    handler = site.handler({"/current": page}, log_message=log_message)
    with serving(handler) as server, Connection(server) as browser:
        assert browser.ask("/current").text == "True"
        assert isinstance(seen.pop(), Session)
        assert b"400" in exchange(server, b"nonsense\r\n\r\n")
    assert seen
    assert set(seen) == {None}
    assert server.errors == []


def test_the_session_is_closed_after_its_request(site: Site) -> None:
    """Rule 27: also in the next request on the connection, and in another thread."""
    kept: list[Session] = []

    def keep(handler: Handler) -> str:
        kept.append(handler.session)
        return "kept"

    with serving(site.handler({"/keep": keep})) as server, Connection(server) as browser:
        browser.ask("/visit")
        browser.ask("/keep")
        browser.ask("/visits")
        with pytest.raises(SessionClosed):
            kept[0][site.visits]


def test_the_class_says_how_sessions_are_opened(site: Site) -> None:
    """`session_create`, `session_error` and `check_session` are the filter's create, error and check."""

    def check_session(handler: Handler, session: Session) -> bool:
        return session.get(site.visits, 0) < 2

    with serving(site.handler(session_create=True)) as server, Connection(server) as browser:
        assert browser.ask("/").all("Set-Cookie") == []
        assert len(browser.ask("/visits").all("Set-Cookie")) == 2
    strict = site.handler(session_create=False, session_error=redirect("/login"))
    with serving(strict) as server:
        with Connection(server) as browser:
            answer = browser.ask("/visits")
            assert (answer.status, answer.all("Location")) == (303, ["/login"])
        with Connection(server) as browser:
            assert browser.ask("/").text == "hello"
    site.store.calls.clear()
    with serving(site.handler(check_session=check_session)) as server, Connection(server) as browser:
        browser.ask("/visit")
        assert browser.ask("/").text == "hello"
        assert site.store.calls["open"] == 1  # checked though the page does not look
        browser.ask("/visit")
        assert (browser.ask("/").status, browser.jar.cookies) == (400, {})


def test_old_protocols(site: Site) -> None:
    """HTTP/1.0 gets its cookies and its end of connection; HTTP/0.9 has no headers, and is served."""
    with serving(site.handler()) as server:
        answer = exchange(server, b"GET /visit HTTP/1.0\r\n\r\n")
        assert (answer[:15], answer.count(b"Set-Cookie")) == (b"HTTP/1.1 200 OK", 2)
        assert exchange(server, b"GET /\r\n\r\n") == b"hello"
    assert server.errors == []


def test_a_session_under_the_oldest_protocol(site: Site) -> None:
    """HTTP/0.9 has no headers: Python 3.14 makes them a dictionary, which is no message. Nobody comes back, and nothing raises."""

    class Oldest(site.handler()):  # type: ignore[misc]  # a class made for this site
        def parse_request(self) -> bool:
            parsed: bool = super().parse_request()
            if self.request_version == "HTTP/0.9":
                self.headers = cast("Any", {})
            return parsed

    for handler in (site.handler(), Oldest):
        with serving(handler) as server:
            assert exchange(server, b"GET /visit\r\n\r\n").startswith(b"1")
        assert server.errors == []


def test_over_tls_the_cookies_are_prefixed_and_secure(site: Site, tmp_path: Path) -> None:
    """Rule 19: the scheme is that of the connection; a plain cookie means nothing over https."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    today = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(today - datetime.timedelta(1))
        .not_valid_after(today + datetime.timedelta(1))
        .sign(key, hashes.SHA256())
    )
    pem = tmp_path / "server.pem"
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    pem.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)

    class Secure(QuietServer):
        def get_request(self) -> tuple[Any, Any]:
            connection, address = super().get_request()
            return context.wrap_socket(connection, server_side=True), address

    trusting = ssl.create_default_context(cafile=pem)
    trusting.check_hostname = False
    jar = Jar({"SESSION_KEY": "plain", "SESSION_ADDR": "plain"})
    with serving(site.handler(), Secure) as server:
        for expected in ("1", "2"):
            client = http.client.HTTPSConnection("127.0.0.1", server.port, timeout=10, context=trusting)
            client.request("GET", "/visit", headers={"Cookie": jar.header()})
            response = client.getresponse()
            answer = Answer(response.status, response.getheaders(), response.read())
            client.close()
            jar.take(answer.headers)
            assert answer.text == expected
    assert {"__Host-SESSION_KEY", "__Host-SESSION_ADDR"} < jar.cookies.keys()


def test_a_handler_may_have_a_cookie_policy_of_its_own(site: Site) -> None:
    """`session_cookie_policy` is the filter's cookie_policy."""
    handler = site.handler(session_cookie_policy=CookiePolicy(name="SHOP", max_age=3600))
    with serving(handler) as server, Connection(server) as browser:
        cookies = browser.ask("/visit").all("Set-Cookie")
        assert [cookie.partition("=")[0] for cookie in cookies] == ["SHOP_KEY", "SHOP_ADDR"]
        assert all("Max-Age=3600" in cookie for cookie in cookies)
        assert browser.ask("/visit").text == "2"
