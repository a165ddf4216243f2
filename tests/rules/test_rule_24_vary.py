"""Rule 24: a handler that looked at the session, in any way, gets `Vary: Cookie`; a `Set-Cookie` brings `Cache-Control: no-store`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tests.faces import Face
from tests.filters.servers import Answer, Connection, Jar, asgi, serving, wsgi
from tests.rules.scene import always, cookies_set, never, values
from typed_sessions import (
    AddressPolicy,
    AsyncSessionManager,
    CookiePolicy,
    Key,
    ListKey,
    NotOpened,
    Rejected,
    Session,
    SessionManager,
    current_session,
)
from typed_sessions.filters import asgi as asgi_filter
from typed_sessions.filters import wsgi as wsgi_filter
from typed_sessions.filters.http_server import SessionHandler

Make = Callable[..., Face]

LOOKS: dict[str, Callable[[Session], object]] = {
    "taking it in hand": lambda session: None,
    "in": lambda session: Key("user", str) in session,
    "get": lambda session: session.get(Key("user", str)),
    "[key]": lambda session: session[Key("user", str)] if session.exists else None,
    "iteration": list,
    "len of a list": lambda session: len(session[ListKey("facts", str)]),
    "iteration of a list": lambda session: list(session[ListKey("facts", str)]),
    "in a list": lambda session: "x" in session[ListKey("facts", str)],
    "exists": lambda session: session.exists,
    "created": lambda session: session.created,
    "idle": lambda session: session.idle,
    "address": lambda session: session.address,
    "clients": lambda session: list(session.clients),
    "handle": lambda session: session.handle,
    "timeout": lambda session: session.timeout,
    "persistent": lambda session: session.persistent,
    "repr": repr,
    "require": lambda session: session.require(always),
}
"""Every way to look (C12; Flask CVE-2023-30861 forgot some)."""


# ------------------------------------------------------------------ start_check


@pytest.mark.parametrize("way", LOOKS)
def test_rule_24_every_way_of_looking_varies(face: Face, way: str) -> None:
    """With a session and without one: what was answered depended on the cookie. Nothing is set, so it may be stored."""
    browser = face.browser()
    for _ in range(2):
        turn = browser.open()
        LOOKS[way](turn.session)
        assert turn.finish() == [("Vary", "Cookie")]
        with browser.visit() as session:
            session[Key("user", str)] = "ann"


def test_rule_24_set_cookie_is_not_stored(make_face: Make) -> None:
    """Setting, renewing, prolonging, expiring: whoever caches such an answer would hand the cookie on."""
    face = make_face(cookie_policy=CookiePolicy(max_age=1000))
    browser = face.browser()
    kinds: list[Any] = []
    turn = browser.open()
    turn.session[Key("user", str)] = "ann"
    kinds.append(turn.finish())
    face.clock.advance(61)
    kinds.append(browser.open().finish())
    turn = browser.open()
    turn.session.renew()
    kinds.append(turn.finish())
    other = browser.copy()
    turn = browser.open()
    turn.session.end()
    kinds.append(turn.finish())
    kinds.append(other.copy().open().finish())
    kinds.append(face.call(face.manager.delete_session(other.request())))
    with pytest.raises(Rejected) as refused:
        other.open(create=False)
    kinds.append(refused.value.headers)
    for headers in kinds:
        assert cookies_set(headers)
        assert values(headers, "Cache-Control") == ["no-store"]
        assert values(headers, "Vary") == ["Cookie"]


@pytest.mark.parametrize("why", ["no session", "another address", "the check", "require", "a failure"])
def test_rule_24_a_refusal_varies_too(make_face: Make, why: str) -> None:
    """That a request was refused depended on its cookies as well."""
    face = make_face(address_policy=AddressPolicy(match="exact"))
    browser = face.browser()
    if why == "no session":
        with pytest.raises(Rejected) as refused:
            browser.open(create=False)
        assert values(refused.value.headers, "Vary") == ["Cookie"]
        return
    with browser.visit() as session:
        session[Key("user", str)] = "ann"
    if why in ("require", "a failure"):
        turn = browser.open()
        if why == "require":
            with pytest.raises(Rejected):
                turn.session.require(never)
        assert turn.discard() == [("Vary", "Cookie")]
        return
    settings: dict[str, Any] = {"check": never} if why == "the check" else {"create": False}
    if why == "another address":
        browser.address = "10.1.2.4"
    with pytest.raises(Rejected) as refused:
        browser.open(**settings)
    assert values(refused.value.headers, "Vary") == ["Cookie"]


def test_rule_24_delete_session_varies(face: Face) -> None:
    """Also when there was nothing to delete."""
    assert face.call(face.manager.delete_session(face.browser().request())) == [("Vary", "Cookie")]


# ------------------------------------------------------------------ filters, which are lazy


def by_wsgi(look: Callable[[Any], object], jar: Jar) -> Answer:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        look(environ)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"ok"]

    manager = SessionManager(create="on_write")
    answer = wsgi(wsgi_filter.SessionMiddleware(app, manager), jar)
    manager.close()
    return answer


def by_asgi(look: Callable[[Any], Any], jar: Jar) -> Answer:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await look(scope)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})

    async def ask() -> Answer:
        manager = AsyncSessionManager(create="on_write")
        answer = await asgi(asgi_filter.SessionMiddleware(app, manager), jar)
        await manager.aclose()
        return answer

    return asyncio.run(ask())


def by_http_server(look: Callable[[SessionHandler], object], jar: Jar) -> Answer:
    class Handler(SessionHandler):
        sessions = SessionManager(create="on_write")

        def do_GET(self) -> None:
            look(self)
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with serving(Handler) as server, Connection(server, jar) as connection:
        answer = connection.ask()
    assert server.errors == []
    Handler.sessions.close()
    return answer


DEAD = Jar({"SESSION_KEY": "A" * 64, "SESSION_ADDR": "A" * 43})


@pytest.mark.parametrize("jar", [Jar(), DEAD], ids=["no cookie", "a dead cookie"])
@pytest.mark.parametrize("way", LOOKS)
def test_rule_24_in_a_filter_every_way_of_looking_varies(way: str, jar: Jar) -> None:
    """WSGI through `current_session()` and through the environ, ASGI through `open_session` and then `current_session()`."""

    def in_wsgi(environ: Any) -> object:
        return LOOKS[way](current_session())

    def in_environ(environ: Any) -> object:
        return LOOKS[way](wsgi_filter.open_session(environ))

    async def in_asgi(scope: Any) -> object:
        await asgi_filter.open_session(scope)
        return LOOKS[way](current_session())

    for answer in (by_wsgi(in_wsgi, jar.copy()), by_wsgi(in_environ, jar.copy()), by_asgi(in_asgi, jar.copy())):
        assert (answer.status, answer.all("Vary")) == (200, ["Cookie"])
        assert bool(answer.all("Set-Cookie")) == bool(jar.cookies)
        assert answer.all("Cache-Control") == (["no-store"] if jar.cookies else [])


@pytest.mark.parametrize("way", ["taking it in hand", "in", "iteration", "exists"])
def test_rule_24_in_http_server_too(way: str) -> None:
    """`self.session` and `current_session()`, on a real socket."""

    def own(handler: SessionHandler) -> object:
        return LOOKS[way](handler.session)

    def current(_: object) -> object:
        return LOOKS[way](current_session())

    def whether(_: object) -> object:
        return current_session(None)

    for look in (own, current, whether):
        answer = by_http_server(look, Jar())
        assert (answer.status, answer.all("Vary"), answer.all("Cache-Control")) == (200, ["Cookie"], [])


def test_rule_24_a_handler_that_did_not_look_gets_nothing() -> None:
    """Neither header: the answer is the same for everybody, and a valid or a dead cookie costs and changes nothing (rule 25)."""

    async def not_opened(scope: Any) -> None:
        with pytest.raises(NotOpened):
            current_session()

    async def nothing(scope: Any) -> None:
        pass

    for answer in (
        by_wsgi(lambda _: None, DEAD.copy()),
        by_asgi(nothing, DEAD.copy()),
        by_asgi(not_opened, DEAD.copy()),
        by_http_server(lambda _: None, DEAD.copy()),
    ):
        assert (answer.status, answer.all("Vary"), answer.all("Set-Cookie"), answer.all("Cache-Control")) == (200, [], [], [])
