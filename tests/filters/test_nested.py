"""A filter inside another: each application finds the session of its own, and one that adds nothing is not there."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, cast

import pytest

from tests.filters.servers import Answer, ASGIRequest, Jar, Socket, asgi, in_loop, scope, wsgi
from typed_sessions import (
    AddressPolicy,
    AsyncSessionManager,
    CookiePolicy,
    Key,
    MemoryStore,
    PolicyError,
    Rejected,
    Session,
    SessionManager,
)
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
    r"filters, or give one of them another name, "
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


def test_two_managers_of_one_store_are_refused_too() -> None:
    """Each finds the other's sessions, but of a visitor who has none each would begin one, and each would expire what is over."""
    store = MemoryStore()
    with pytest.raises(PolicyError, match=TWO):
        wsgi(for_wsgi.SessionMiddleware(for_wsgi.SessionMiddleware(answers, SessionManager(store)), SessionManager(store)))


def test_a_policy_of_its_own_within_the_same_manager_has_another_name() -> None:
    """Or both would set a cookie of one name in one answer."""
    sessions = SessionManager()
    lasting = for_wsgi.SessionMiddleware(answers, sessions, cookie_policy=CookiePolicy(max_age=86_400))
    with pytest.raises(PolicyError, match="policy of its own is within one of the same manager, and both use the cookie SESSION_KEY"):
        wsgi(for_wsgi.SessionMiddleware(lasting, sessions))
    admin = for_wsgi.SessionMiddleware(answers, sessions)
    assert wsgi(for_wsgi.SessionMiddleware(admin, sessions, cookie_policy=ADMIN)).status == 200


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


# ------------------------------------------------------------------ one manager, and settings of its own in the inner filter


class Levels:
    """An application with a filter, and in it another one with `settings`; the inner one writes, the outer one if asked to."""

    def __init__(self, kind: str, *, outer_first: bool, **settings: Any) -> None:
        self.kind, self.first = kind, outer_first
        self.user, self.page = Key("user", str), Key("page", str)
        self.sessions = cast("Any", SessionManager() if kind == "wsgi" else AsyncSessionManager())
        self.jar = Jar()
        if kind == "wsgi":
            inner: Any = for_wsgi.SessionMiddleware(self._inner_wsgi, self.sessions, **settings)
            self.app: Any = for_wsgi.SessionMiddleware(lambda environ, start: self._outer_wsgi(inner, environ, start), self.sessions)
        else:
            inner = for_asgi.SessionMiddleware(self._inner_asgi, self.sessions, **settings)

            async def outer(scope: Scope, receive: Receive, send: Send) -> None:
                if self.first:
                    (await for_asgi.open_session(scope))[self.user] = "ann"
                await inner(scope, receive, send)

            self.app = for_asgi.SessionMiddleware(outer, self.sessions)

    def _inner_wsgi(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        for_wsgi.open_session(environ)[self.page] = "cart"
        return answers(environ, start_response)

    def _outer_wsgi(self, inner: Any, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if self.first:
            for_wsgi.open_session(environ)[self.user] = "ann"
        body: Iterable[bytes] = inner(environ, start_response)
        return body

    async def _inner_asgi(self, scope: Scope, _: Receive, send: Send) -> None:
        (await for_asgi.open_session(scope))[self.page] = "cart"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    def ask(self) -> Answer:
        if self.kind == "wsgi":
            return wsgi(self.app, self.jar)
        return asyncio.run(asgi(self.app, self.jar))

    def stored(self) -> list[tuple[str | None, str | None]]:
        async def views() -> list[Any]:
            return [view async for view in self.sessions.all()]

        found = list(self.sessions.all()) if self.kind == "wsgi" else asyncio.run(views())
        return [(view.get(self.user), view.get(self.page)) for view in found]


def sound(_: Session) -> bool:
    return True


def unsound(_: Session) -> bool:
    return False


SETTINGS: list[dict[str, Any]] = [{"check": sound}, {"create": True}, {"error": (404, ())}]
KINDS = pytest.mark.parametrize("kind", ["wsgi", "asgi"])


@KINDS
@pytest.mark.parametrize("outer_first", [False, True])
@pytest.mark.parametrize("settings", SETTINGS, ids=lambda given: next(iter(given)))
def test_what_both_levels_write_is_one_sessions(kind: str, outer_first: bool, settings: dict[str, Any]) -> None:
    """A first visit: one session, one pair of cookies, whoever looked first; and the next request finds it."""
    levels = Levels(kind, outer_first=outer_first, **settings)
    for cookies in (2, 0):
        answer = levels.ask()
        assert (answer.status, len(levels.jar.cookies), len(answer.all("set-cookie"))) == (200, 2, cookies)
        assert levels.stored() == [("ann" if outer_first else None, "cart")]


@KINDS
@pytest.mark.parametrize("outer_first", [False, True])
def test_a_check_of_the_inner_filter_ends_the_one_session(kind: str, outer_first: bool) -> None:
    """Nothing of the request is kept, what it came with is over, its cookies are expired, and the answer is the inner filter's error."""
    answers_of_check = [True, False]

    def check(_: Session) -> bool:
        return answers_of_check.pop(0)

    levels = Levels(kind, outer_first=outer_first, check=check, error=(404, ()))
    assert levels.ask().status == 200
    answer = levels.ask()
    assert (answer.status, len(answer.all("set-cookie")), levels.jar.cookies, levels.stored()) == (404, 2, {}, [])


@KINDS
def test_who_has_no_session_is_refused_by_the_inner_filter(kind: str) -> None:
    """`create=False` within: what the outer application has written to a session that is not there yet goes nowhere."""
    levels = Levels(kind, outer_first=True, create=False, error=(401, ()))
    answer = levels.ask()
    assert (answer.status, answer.all("set-cookie"), levels.stored()) == (401, [], [])


# ------------------------------------------------------------------ the same around a WebSocket


class Rooms:
    """A WebSocket application with a filter, and in it another one of the same manager with `settings`; both levels may write."""

    def __init__(self, *, outer_first: bool, **settings: Any) -> None:
        self.user, self.page = Key("user", str), Key("page", str)
        self.sessions = AsyncSessionManager()

        async def room(scope: Scope, receive: Receive, send: Send) -> None:
            (await for_asgi.open_session(scope))[self.page] = "room"
            await receive()
            await send({"type": "websocket.accept"})
            await receive()

        inner = for_asgi.SessionMiddleware(room, self.sessions, **settings)

        async def outer(scope: Scope, receive: Receive, send: Send) -> None:
            if outer_first:
                (await for_asgi.open_session(scope))[self.user] = "ann"
            await inner(scope, receive, send)

        self.app = for_asgi.SessionMiddleware(outer, self.sessions)

    async def stored(self) -> list[tuple[str | None, str | None]]:
        return [(view.get(self.user), view.get(self.page)) async for view in self.sessions.all()]


@pytest.mark.parametrize("outer_first", [False, True])
@pytest.mark.parametrize("settings", [{}, *SETTINGS], ids=lambda given: next(iter(given), "none"))
@in_loop
async def test_what_both_levels_write_in_a_websocket_is_one_sessions(outer_first: bool, settings: dict[str, Any]) -> None:
    """One session, and one pair of cookies with the handshake."""
    rooms, jar = Rooms(outer_first=outer_first, **settings), Jar()
    async with Socket(rooms.app, jar) as socket:
        assert len((await socket.accepted()).all("set-cookie")) == 2
        assert await rooms.stored() == [("ann" if outer_first else None, "room")]


@pytest.mark.parametrize("outer_first", [False, True])
@in_loop
async def test_a_check_of_the_inner_filter_refuses_the_handshake(outer_first: bool) -> None:
    """Nothing of it is kept, and the answer is the inner filter's error."""
    rooms = Rooms(outer_first=outer_first, check=unsound, error=(404, ()))
    async with Socket(rooms.app, denial=True) as socket:
        assert (await socket.next())["status"] == 404
    assert await rooms.stored() == []


@in_loop
async def test_the_inner_filter_may_allow_other_origins() -> None:
    """The outer one knows of none; who is foreign to both is refused."""
    rooms = Rooms(outer_first=False, allowed_origins=["https://pages.example"])
    async with Socket(rooms.app, headers=[("Origin", "https://pages.example")]) as socket:
        await socket.accepted()
    async with Socket(rooms.app, denial=True, headers=[("Origin", "https://other.example")]) as socket:
        assert (await socket.next())["status"] == 403
    assert await rooms.stored() == [(None, "room")]


@KINDS
def test_what_an_inner_check_refuses_is_not_begun_by_an_outer_application_that_answers_it(kind: str) -> None:
    """It has written to a session that is not there yet, and makes the refusal a page of its own: nothing is created, and no cookie set."""
    user, jar = Key("user", str), Jar()
    sessions = cast("Any", SessionManager() if kind == "wsgi" else AsyncSessionManager())

    def inner_wsgi(_: dict[str, Any], __: Any) -> Iterable[bytes]:
        raise AssertionError("the inner application was called")

    def outer_wsgi(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        for_wsgi.open_session(environ)[user] = "ann"
        try:
            return for_wsgi.SessionMiddleware(inner_wsgi, sessions, check=unsound)(environ, start_response)
        except Rejected:
            start_response("200 OK", [("Content-Type", "text/plain")])
            return [b"not you"]

    async def inner_asgi(*_: object) -> None:
        raise AssertionError("the inner application was called")

    async def outer_asgi(scope: Scope, receive: Receive, send: Send) -> None:
        (await for_asgi.open_session(scope))[user] = "ann"
        try:
            await for_asgi.SessionMiddleware(inner_asgi, sessions, check=unsound)(scope, receive, send)
        except Rejected:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"not you"})

    async def asking() -> tuple[Answer, int]:
        answer = await asgi(for_asgi.SessionMiddleware(outer_asgi, sessions), jar)
        return answer, len([view async for view in sessions.all()])

    if kind == "wsgi":
        answer = wsgi(for_wsgi.SessionMiddleware(outer_wsgi, sessions), jar)
        stored = len(list(sessions.all()))
    else:
        answer, stored = asyncio.run(asking())
    assert (answer.status, answer.text, answer.all("set-cookie"), stored) == (200, "not you", [], 0)


@KINDS
def test_an_inner_check_expires_the_cookies_of_a_session_that_was_just_renewed(kind: str) -> None:
    """The outer application has signed somebody in, and committed it: what is over by now gets no new cookies."""
    user, jar = Key("user", str), Jar()
    sessions = cast("Any", SessionManager() if kind == "wsgi" else AsyncSessionManager())
    settings: dict[str, Any] = {"error": (404, ())}

    def inner_wsgi(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b""]

    def outer_wsgi(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        session = for_wsgi.open_session(environ)
        if user in session:
            session.renew()
            sessions.commit(session)
            settings["check"] = unsound
        session[user] = "ann"
        return for_wsgi.SessionMiddleware(inner_wsgi, sessions, **settings)(environ, start_response)

    async def inner_asgi(_: Scope, __: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def outer_asgi(scope: Scope, receive: Receive, send: Send) -> None:
        session = await for_asgi.open_session(scope)
        if user in session:
            session.renew()
            await sessions.commit(session)
            settings["check"] = unsound
        session[user] = "ann"
        await for_asgi.SessionMiddleware(inner_asgi, sessions, **settings)(scope, receive, send)

    def ask() -> Answer:
        if kind == "wsgi":
            return wsgi(for_wsgi.SessionMiddleware(outer_wsgi, sessions), jar)
        return asyncio.run(asgi(for_asgi.SessionMiddleware(outer_asgi, sessions), jar))

    assert (ask().status, len(jar.cookies)) == (200, 2)
    answer = ask()
    assert (answer.status, ["Max-Age=0" in value for value in answer.all("set-cookie")], jar.cookies) == (404, [True, True], {})
