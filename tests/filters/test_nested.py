"""A filter inside another: each application finds the session of its own, and one that adds nothing is not there."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from tests.filters.servers import ASGIRequest, Jar, Socket, asgi, in_loop, scope, wsgi
from typed_sessions import AddressPolicy, AsyncSessionManager, CookiePolicy, Key, MemoryStore, PolicyError, SessionManager
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


TWO = (
    r"two managers, one in the other, use the cookie SESSION_KEY: each would replace the sessions of the other. Use one manager for both "
    r"filters, give both managers one store object, or give one of them another name, "
    r"SessionManager\(cookie_policy=CookiePolicy\(name='ADMIN'\)\)"
)


def answers(_: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b""]


@in_loop
async def test_two_managers_with_the_same_cookies_are_refused_in_asgi() -> None:
    """Each would replace the other's sessions, so it is said before anybody looks at one; with http and with WebSockets."""

    async def app(*_: object) -> None:
        raise AssertionError("the application was called")

    both = for_asgi.SessionMiddleware(for_asgi.SessionMiddleware(app, AsyncSessionManager()), AsyncSessionManager())
    with pytest.raises(PolicyError, match=TWO):
        await asgi(both)
    with pytest.raises(PolicyError, match=TWO):
        async with Socket(both) as socket:
            await socket.next()


def test_two_managers_with_the_same_cookies_are_refused_in_wsgi() -> None:
    """The same; also where one policy belongs to the filter."""
    with pytest.raises(PolicyError, match=TWO):
        wsgi(for_wsgi.SessionMiddleware(for_wsgi.SessionMiddleware(answers, SessionManager()), SessionManager()))
    named = for_wsgi.SessionMiddleware(answers, SessionManager(), cookie_policy=ADMIN)
    assert wsgi(for_wsgi.SessionMiddleware(named, SessionManager())).status == 200
    again = for_wsgi.SessionMiddleware(named, SessionManager(cookie_policy=ADMIN))
    with pytest.raises(PolicyError, match="use the cookie ADMIN_KEY"):
        wsgi(again)


def test_two_managers_of_one_store_find_the_same_session() -> None:
    """Neither replaces anything of the other: they may be in one another."""
    store, user = MemoryStore(), Key("user", str)

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        for_wsgi.open_session(environ)[user] = "ann"
        return answers(environ, start_response)

    both = for_wsgi.SessionMiddleware(for_wsgi.SessionMiddleware(app, SessionManager(store)), SessionManager(store))
    jar = Jar()
    for _ in range(2):
        assert wsgi(both, jar).status == 200
    assert len(store) == 1


def test_a_path_alone_keeps_cookies_apart_where_it_changes_their_prefix() -> None:
    """Over http a browser sends both to a nested path, under one name; over https, whoever tells of it, they have two."""
    addresses = AddressPolicy(trusted_proxies=["10.0.0.0/8"])
    admin = SessionManager(cookie_policy=CookiePolicy(path="/admin"), address_policy=addresses)
    both = for_wsgi.SessionMiddleware(for_wsgi.SessionMiddleware(answers, admin), SessionManager(address_policy=addresses))
    forwarded: dict[str, Any] = {"HTTP_X_FORWARDED_FOR": "192.0.2.7", "HTTP_X_FORWARDED_PROTO": "http"}
    with pytest.raises(PolicyError, match=TWO):
        wsgi(both, path="/admin", **forwarded)
    forwarded["HTTP_X_FORWARDED_PROTO"] = "https"
    assert wsgi(both, path="/admin", **forwarded).status == 200
    direct = for_wsgi.SessionMiddleware(for_wsgi.SessionMiddleware(answers, admin), SessionManager())
    encrypted: dict[str, Any] = {"wsgi.url_scheme": "https", "HTTPS": "on"}
    assert wsgi(direct, path="/admin", **encrypted).status == 200
    with pytest.raises(PolicyError, match=TWO):
        wsgi(direct, path="/admin", address="")


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
