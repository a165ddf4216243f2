"""A WebSocket whose application has failed, and whose framework says so by the code that it closes with (rule 28, RFC 6455 7.4.1)."""

from __future__ import annotations

import pytest

from tests.filters.asgi_site import App, Site
from tests.filters.servers import Jar, Socket, in_loop
from typed_sessions import Session
from typed_sessions.filters.asgi import Receive, Scope, Send, open_session


@pytest.fixture
def site() -> Site:
    return Site()


def closing(site: Site, code: int | None) -> App:
    """An application that commits a 2, writes a 3, and closes, or returns without a word."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        session = await open_session(scope)
        await receive()
        await send({"type": "websocket.accept"})
        session[site.visits] = 2
        await site.sessions.commit(session)
        session[site.visits] = 3
        if code is not None:
            await send({"type": "websocket.close", "code": code} if code else {"type": "websocket.close"})

    return app


async def stored_after(site: Site, app: App) -> int:
    jar = await site.jar()
    async with Socket(site.app(app), jar) as socket:
        await socket.accepted()
    return await site.stored(jar)


@pytest.mark.parametrize("code", [1011, 4500, 4599])
@in_loop
async def test_one_that_is_closed_as_a_failure_commits_nothing_more(site: Site, code: int) -> None:
    """As a response of 500 and above; what the application has committed itself stays."""
    assert await stored_after(site, closing(site, code)) == 2


@pytest.mark.parametrize("code", [None, 0, 1000, 1001, 1008, 1013, 4000, 4499, 4600])
@in_loop
async def test_one_that_is_closed_in_another_way_is_committed(site: Site, code: int | None) -> None:
    """With any other code, with none at all (0), or by the return (None)."""
    assert await stored_after(site, closing(site, code)) == 3


@in_loop
async def test_what_is_written_after_such_a_close_is_not_committed(site: Site) -> None:
    """The application had nothing to say until then: it goes nowhere all the same."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        session = await open_session(scope)
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close", "code": 1011})
        session[site.visits] = 3

    assert await stored_after(site, app) == 1


@in_loop
async def test_a_failure_after_the_client_has_gone_is_the_usual_end(site: Site) -> None:
    """Frameworks raise an exception in an application that is told of it, and may close with 1011 then: that is committed."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        session = await open_session(scope)
        await receive()
        await send({"type": "websocket.accept"})
        session[site.visits] = 3
        assert (await receive())["type"] == "websocket.disconnect"
        await send({"type": "websocket.close", "code": 1011})

    assert await stored_after(site, app) == 3


@in_loop
async def test_a_handshake_that_fails_leaves_no_session_behind(site: Site) -> None:
    """One made for it alone ends with it, whatever the code: nobody has its cookie."""
    seen: list[Session] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(await open_session(scope))
        seen[0][site.visits] = 3
        await receive()
        await send({"type": "websocket.close", "code": 1011})

    async with Socket(site.app(app, create=True), Jar()) as socket:
        assert (await socket.next())["code"] == 1011
    assert (len(seen), len(site.store.store)) == (1, 0)
