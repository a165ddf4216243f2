"""The answer to a WebSocket's handshake, as servers can take it, and the closing of one by servers that are strict about it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from tests.filters.asgi_site import App, Site, says
from tests.filters.servers import PEER, Jar, Socket, asgi, in_loop
from typed_sessions import AddressPolicy, CookiePolicy, HeadersSent, MemoryStore, Rejected, Session, SessionManager
from typed_sessions.filters.asgi import Message, Receive, Scope, Send, open_session
from typed_sessions.testing import login


@pytest.fixture
def site() -> Site:
    return Site()


def handshake(work: Callable[[Session], object] = lambda _: None, *, deny: int | None = None, headers: Any = ()) -> App:
    """An application that works in the handshake, and accepts, or denies with a status and headers of its own."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        work(await open_session(scope))
        await receive()
        if deny is None:
            await send({"type": "websocket.accept"})
            while (await receive())["type"] == "websocket.receive":
                pass
            return
        await send({"type": "websocket.http.response.start", "status": deny, "headers": [*headers]})
        await send({"type": "websocket.http.response.body", "body": b"no"})

    return app


def names(message: Message) -> list[str]:
    return sorted(name.decode() for name, _ in message["headers"])


async def everything(app: Any, jar: Jar) -> list[Message]:
    """What the server gets of a handshake that is denied."""
    async with Socket(app, jar, denial=True) as socket:
        assert socket.task is not None
        await socket.task
        return [socket.to_browser.get_nowait() for _ in range(socket.to_browser.qsize())]


@pytest.mark.parametrize("denial", [True, False])
@in_loop
async def test_rejected_before_accept(site: Site, denial: bool) -> None:
    """With the extension, the answer has the error's status and headers; without it, servers answer with 403.

    The dead cookies are expired by the next http answer.
    """
    jar = await site.jar()
    await site.sessions.end_all()
    app = site.app(handshake(), create=False, error=(401, [("WWW-Authenticate", "Cookie")]))
    async with Socket(app, jar, denial=denial) as socket:
        start = await socket.next()
        if not denial:
            assert start["type"] == "websocket.close"
            return
        assert (start["type"], start["status"]) == ("websocket.http.response.start", 401)
        headers = [(name.decode(), value.decode()) for name, value in start["headers"]]
        assert ("www-authenticate", "Cookie") in headers
        assert (await socket.next())["body"] == b"401 Unauthorized\n"
        jar.take(headers)
    assert len(jar.cookies) == 2
    assert await site.stored(jar) == 0
    await asgi(site.app(says(open_session)), jar)
    assert jar.cookies == {}


@pytest.mark.parametrize("by", ["an unknown session", "require", "the application"])
@in_loop
async def test_a_denied_handshake_has_one_header_of_each_name(by: str) -> None:
    """A server that dies of two would die of an invented cookie: what is dead is expired by the next http answer."""
    site = Site(cookie_policy=CookiePolicy(filter=lambda cookie: None))
    jar = Jar({**login(SessionManager(MemoryStore()), {site.visits: 1}), "theme": "dark"})
    error: Any = (403, [("Vary", "Origin"), ("Cache-Control", "no-cache")])
    app = {
        "an unknown session": site.app(handshake(), create=False, error=error),
        "require": site.app(handshake(lambda session: session.require(lambda _: False, error=error))),
        "the application": site.app(handshake(deny=403, headers=[(b"vary", b"Origin"), (b"cache-control", b"no-cache")])),
    }[by]
    start, body = await everything(app, jar)
    assert (start["type"], start["status"], body["type"]) == ("websocket.http.response.start", 403, "websocket.http.response.body")
    assert [name for name in names(start) if not name.startswith("content-")] == ["cache-control", "vary"]
    assert dict(start["headers"])[b"vary"] == b"Origin, Cookie"


@in_loop
async def test_a_denial_has_the_cookies_of_what_was_issued(site: Site) -> None:
    """Of a new session, and of one that was renewed: without them it would be out of reach."""

    def visit(session: Session) -> None:
        session.update(site.visits, lambda n: n + 1, default=0)
        session.renew()

    jar = Jar()
    for expected in (1, 2):
        start, _ = await everything(site.app(handshake(visit, deny=404)), jar)
        assert names(start) == ["cache-control", "set-cookie", "set-cookie", "vary"]
        jar.take([(name.decode(), value.decode()) for name, value in start["headers"]])
        assert await site.stored(jar) == expected


@in_loop
async def test_nothing_follows_a_denial(site: Site) -> None:
    """Whose session the handshake has ended: neither a close, which is against the protocol, nor a header about the connection."""
    messages = await everything(site.app(handshake(Session.end, deny=403)), await site.jar())
    assert [message["type"] for message in messages] == ["websocket.http.response.start", "websocket.http.response.body"]
    assert not {"set-cookie", "connection"} & {*names(messages[0])}
    assert len(site.store.store) == 0


@in_loop
async def test_a_denial_goes_on_when_the_session_ends(site: Site) -> None:
    """Its body is not cut off by an end in between; an error in between is told to the server, for there is no other answer."""

    def app(after: Callable[[Session], Any]) -> App:
        async def deny(scope: Scope, receive: Receive, send: Send) -> None:
            session = await open_session(scope)
            await receive()
            await send({"type": "websocket.http.response.start", "status": 403, "headers": []})
            assert await site.sessions.end(session.handle)
            after(session)
            await send({"type": "websocket.http.response.body", "body": b"no"})

        return deny

    def refuse(_: Session) -> None:
        raise Rejected("require", 403)

    messages = await everything(site.app(app(lambda _: None)), await site.jar())
    assert [message["type"] for message in messages] == ["websocket.http.response.start", "websocket.http.response.body"]
    with pytest.raises(Rejected):
        await everything(site.app(app(refuse)), await site.jar())


@in_loop
async def test_a_session_that_ends_in_the_handshake(site: Site) -> None:
    """It is accepted, with its cookies expired and without "Connection: close", which is no header of a 101; then it is closed."""
    jar = await site.jar()
    async with Socket(site.app(handshake(Session.end)), jar) as socket:
        answer = await socket.accepted()
        assert (answer.all("connection"), len(answer.all("set-cookie")), jar.cookies) == ([], 2, {})
        assert (await socket.next())["code"] == 1008


class Strict(Socket):
    """The end of a server that sends no code of the protocol's own but 1000, as RFC 6455 7.4.2 has it for applications."""

    async def _send(self, message: Message) -> None:
        code = message.get("code", 1000)
        if code != 1000 and not 3000 <= code <= 4999:
            raise Exception(f"invalid close code {code} (must be 1000 or from [3000, 4999])")
        await super()._send(message)


@in_loop
async def test_a_server_that_refuses_the_code_gets_another(site: Site) -> None:
    """4008 is 3000 more than 1008, and an application's own: the WebSocket is closed all the same."""
    async with Strict(site.app(handshake()), await site.jar()) as socket:
        await socket.accepted()
        assert await site.sessions.end_all() == 1
        assert await socket.next() == {"type": "websocket.close", "code": 4008, "reason": "the session has ended"}


@pytest.mark.parametrize("asgi", [{"version": "3.0"}, {"version": "3.0", "spec_version": "2.0"}])
@pytest.mark.parametrize("what", ["created", "renewed"])
@in_loop
async def test_a_server_that_sends_no_headers_gets_no_new_cookies_to_send(site: Site, asgi: Any, what: str) -> None:
    """Headers of an accept came with ASGI 2.1: creating and renewing raise HeadersSent, and the old id opens the session as before."""

    def work(session: Session) -> None:
        session[site.visits] = 5
        if what == "renewed":
            session.renew()

    jar = await site.jar(1) if what == "renewed" else Jar()
    socket = Socket(site.app(handshake(work)), jar)
    socket.scope["asgi"] = asgi
    with pytest.raises(HeadersSent, match=f"cannot be {what} in this WebSocket: .* do it in an http request"):
        async with socket:
            await socket.accepted()
    assert await site.stored(jar) == (1 if what == "renewed" else 0)

    kept = await site.jar(1)
    socket = Socket(site.app(handshake(lambda session: session.update(site.visits, lambda n: n + 1))), kept)
    socket.scope["asgi"] = asgi
    async with socket:
        await socket.accepted()
    assert await site.stored(kept) == 2


@in_loop
async def test_the_first_foreign_origin_is_logged(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever runs the server reads what to set, or what the proxy has to pass on; a stranger fills no log."""
    app = site.app(handshake())
    with caplog.at_level(logging.WARNING, "typed_sessions"):
        for port in range(8080, 8083):
            origin = f"http://example.org:{port}"
            async with Socket(app, denial=True, headers=[("Origin", origin)]) as socket:
                assert (await socket.next())["status"] == 403
    [record] = caplog.records
    for text in ("'http://example.org:8080'", "'example.org'", "allowed_origins", "proxy_set_header Host $http_host"):
        assert text in record.getMessage()


@pytest.mark.parametrize("how", ["by itself", "by a proxy", "by the policy"])
@in_loop
async def test_a_page_that_came_in_the_clear_is_another_origin(how: str) -> None:
    """Anybody between it and the browser may have made it: it opens no session over https. From https to http it may.

    A server behind a proxy that hides the scheme knows by its cookies' `secure=True`.
    """
    policies = {"cookie_policy": CookiePolicy(secure=True)} if how == "by the policy" else {}
    site = Site(address_policy=AddressPolicy(trusted_proxies=[PEER]), **policies)
    app = site.app(handshake())
    for origin, status in (("http://example.org", 403), ("https://example.org", 101)):
        headers = [("Origin", origin)]
        if how == "by a proxy":
            headers += [("X-Forwarded-For", "192.0.2.7"), ("X-Forwarded-Proto", "https")]
        socket = Socket(app, denial=True, headers=headers)
        if how == "by itself":
            socket.scope["scheme"] = "wss"
        async with socket:
            first = await socket.next()
            assert first.get("status", 101) == status
    async with Socket(app, headers=[("Origin", "https://example.org")]) as socket:
        await socket.accepted()


@pytest.mark.parametrize("host", ["localhost", "localhost:8000", "127.0.0.1:8000", "[::1]:8000"])
@in_loop
async def test_a_page_of_this_machine_may_come_in_the_clear(host: str) -> None:
    """Whoever writes a program with `secure=True` tries it on their own machine over plain http, where browsers take such cookies."""
    site = Site(cookie_policy=CookiePolicy(secure=True))
    for page, kind in ((host, "websocket.accept"), (f"{host.partition(':8')[0]}.example", "websocket.http.response.start")):
        socket = Socket(site.app(handshake()), denial=True)
        socket.scope["headers"] = [(b"host", page.encode()), (b"origin", f"http://{page}".encode())]
        async with socket:
            assert (await socket.next())["type"] == kind


@pytest.mark.parametrize("hosts", [[], [b""], [b"example.org", b"example.org"]], ids=["no Host", "an empty Host", "two Hosts"])
@pytest.mark.parametrize("origin", [b"http://example.org", b"null", b"file://", b""], ids=repr)
@in_loop
async def test_a_page_is_of_no_host_if_it_is_not_known_which_one_was_asked(site: Site, origin: bytes, hosts: list[bytes]) -> None:
    """A sandboxed page, or one out of a file, says "null", and has no host either: that does not make them the same."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await open_session(scope)
        await receive()
        await send({"type": "websocket.accept"})

    jar = await site.jar()
    socket = Socket(site.app(app), jar, denial=True)
    kept = [(name, value) for name, value in socket.scope["headers"] if name != b"host"]
    socket.scope["headers"] = [*((b"host", host) for host in hosts), (b"origin", origin), *kept]
    async with socket:
        first = await socket.next()
        assert (first["type"], first.get("status")) == ("websocket.http.response.start", 403)
    assert site.store.calls["open"] == 0
