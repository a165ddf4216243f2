"""A filter inside another: each application finds the session of its own, and one that adds nothing is not there."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tests.filters.servers import ASGIRequest, Jar, asgi, in_loop, scope, wsgi
from typed_sessions import AsyncSessionManager, CookiePolicy, Key, SessionManager
from typed_sessions.filters import asgi as for_asgi
from typed_sessions.filters import wsgi as for_wsgi
from typed_sessions.filters.asgi import Receive, Scope, Send

ADMIN = CookiePolicy(name="ADMIN")


@in_loop
async def test_an_asgi_application_finds_its_own_session_after_a_mounted_one() -> None:
    """The mounted one has another manager, and the scope is the same dictionary, as Starlette's `Mount` leaves it."""
    user = Key("user", str)
    shop, admin = AsyncSessionManager(), AsyncSessionManager(cookie_policy=ADMIN)
    jar, seen = Jar(), list[str | None]()

    async def mounted(scope: Scope, _: Receive, send: Send) -> None:
        (await for_asgi.open_session(scope))[user] = "root"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def outer(scope: Scope, receive: Receive, send: Send) -> None:
        async def looking(message: Any) -> None:
            session = await for_asgi.open_session(scope)
            seen.append(session.get(user))
            if message["type"] == "http.response.start":
                session[user] = "ann"
            await send(message)

        await for_asgi.SessionMiddleware(mounted, admin)(scope, receive, looking)
        assert (await for_asgi.open_session(scope)).get(user) == "ann"

    await asgi(for_asgi.SessionMiddleware(outer, shop), jar)
    assert seen == [None, "ann"]
    assert sorted(jar.cookies) == ["ADMIN_ADDR", "ADMIN_KEY", "SESSION_ADDR", "SESSION_KEY"]


@in_loop
async def test_the_same_asgi_filter_twice_is_one() -> None:
    """What both levels write is one session's, with one pair of cookies (rule 22); one with a check of its own still checks."""
    user, page = Key("user", str), Key("page", str)
    sessions = AsyncSessionManager()
    jar = Jar()

    async def inner(scope: Scope, _: Receive, send: Send) -> None:
        (await for_asgi.open_session(scope))[page] = "cart"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def outer(scope: Scope, receive: Receive, send: Send) -> None:
        (await for_asgi.open_session(scope))[user] = "ann"
        await for_asgi.SessionMiddleware(inner, sessions)(scope, receive, send)

    answer = await asgi(for_asgi.SessionMiddleware(outer, sessions), jar)
    assert (len(answer.all("set-cookie")), len(answer.all("vary"))) == (2, 1)
    [view] = [view async for view in sessions.all()]
    assert (view[user], view[page]) == ("ann", "cart")
    checked = for_asgi.SessionMiddleware(inner, sessions, check=lambda _: False)
    assert (await asgi(for_asgi.SessionMiddleware(checked, sessions), jar)).status == 400
    eager = for_asgi.SessionMiddleware(inner, sessions, eager=True)
    answer = await asgi(for_asgi.SessionMiddleware(eager, sessions), Jar())
    assert (len(answer.all("set-cookie")), len(answer.all("vary"))) == (2, 1)


def test_a_wsgi_application_finds_its_own_session_after_a_mounted_one() -> None:
    """With two managers; and with one twice, it is one filter."""
    user, page = Key("user", str), Key("page", str)
    shop, admin = SessionManager(), SessionManager(cookie_policy=ADMIN)

    def mounted(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        for_wsgi.open_session(environ)[page] = "cart"
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b""]

    def outer(inside: SessionManager) -> Any:
        def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            for_wsgi.open_session(environ)[user] = "ann"
            body = for_wsgi.SessionMiddleware(mounted, inside)(environ, start_response)
            assert for_wsgi.open_session(environ).get(user) == "ann"
            return body

        return for_wsgi.SessionMiddleware(app, shop)

    jar = Jar()
    wsgi(outer(admin), jar)
    assert len(jar.cookies) == 4
    assert [(view.get(user), view.get(page)) for view in (*shop.all(), *admin.all())] == [("ann", None), (None, "cart")]
    eager = for_wsgi.SessionMiddleware(mounted, shop, eager=True)
    assert len(wsgi(for_wsgi.SessionMiddleware(eager, shop), Jar()).all("set-cookie")) == 2
    wsgi(outer(shop), jar := Jar())
    assert len(jar.cookies) == 2
    assert ("ann", "cart") in [(view.get(user), view.get(page)) for view in shop.all()]


def test_an_environ_that_is_used_again_is_another_request() -> None:
    """As in a test that calls an application twice: what it holds of the first request is over."""
    visits = Key("visits", int)
    sessions = SessionManager()
    environ: dict[str, Any] = {"REMOTE_ADDR": "10.0.0.1", "wsgi.url_scheme": "http"}
    seen: list[int] = []

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        seen.append(for_wsgi.open_session(environ).update(visits, lambda n: n + 1, default=0))
        start_response("200 OK", [])
        return [b""]

    def started(*_: object) -> Any:
        return None

    for _ in range(2):
        list(for_wsgi.SessionMiddleware(app, sessions)(environ, started))
    assert seen == [1, 1]
    assert len(list(sessions.all())) == 2


@in_loop
async def test_a_scope_that_is_used_again_is_another_request() -> None:
    """The same in ASGI."""
    visits = Key("visits", int)
    sessions = AsyncSessionManager()
    request = scope()
    seen: list[int] = []

    async def app(scope: Scope, _: Receive, send: Send) -> None:
        seen.append((await for_asgi.open_session(scope)).update(visits, lambda n: n + 1, default=0))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    for _ in range(2):
        client = ASGIRequest()
        await for_asgi.SessionMiddleware(app, sessions)(request, client.receive, client.send)
    assert seen == [1, 1]
    assert len([view async for view in sessions.all()]) == 2
