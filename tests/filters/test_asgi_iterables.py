"""The ASGI filter and a scope whose headers and client can be read only once: the specification says that they are iterable."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from tests.filters.asgi_site import Site, says
from tests.filters.servers import PEER, ASGIRequest, Jar, Socket, in_loop, scope
from typed_sessions import AddressPolicy, NoPeerAddress
from typed_sessions.filters.asgi import Receive, Scope, Send, open_session


@pytest.fixture
def site() -> Site:
    return Site()


def once(given: dict[str, Any], *, pairs: Any = iter) -> dict[str, Any]:
    """The same scope, of what can be read once."""
    return {**given, "headers": iter([pairs(pair) for pair in given["headers"]]), "client": iter(given["client"])}


async def ask(app: Any, given: dict[str, Any]) -> str:
    request = ASGIRequest()
    await app(given, request.receive, request.send)
    return request.answer().text


def who(site: Site, *, reads_first: bool) -> Any:
    """An application that reads headers and client itself too, before the session is opened or after."""

    async def work(scope: Scope) -> str:
        found: list[Any] = []
        for looks in (reads_first, not reads_first):
            if looks:
                found.append([(name, value) for name, value in scope["headers"] if name == b"x-own"])
                found.append(next(iter(scope["client"])))
            else:
                found.append((await open_session(scope)).get(site.visits))
        return str(sorted(found, key=str))

    return says(work)


@pytest.mark.parametrize("reads_first", [False, True])
@pytest.mark.parametrize("eager", [False, True])
@in_loop
async def test_cookies_and_headers_that_can_be_read_once_are_for_both(site: Site, eager: bool, reads_first: bool) -> None:
    """Whoever reads first, the filter finds its cookies and the address, and the application what is its own; so do filters inside."""
    jar = await site.jar(7)
    app = site.app(site.app(who(site, reads_first=reads_first), eager=eager), eager=eager)
    for pairs in (iter, list, tuple):
        expected = str(sorted([[(b"x-own", b"1")], PEER, 7], key=str))
        assert await ask(app, once(scope(jar, headers=[("X-Own", "1")]), pairs=pairs)) == expected


@in_loop
async def test_one_of_them_alone(site: Site) -> None:
    """A middleware around this one may have made a list of the headers already."""
    jar = await site.jar(7)
    for name in ("headers", "client"):
        given = scope(jar, headers=[("X-Own", "1")])
        given[name] = iter(given[name])
        assert "7" in await ask(site.app(who(site, reads_first=True)), given)


@in_loop
async def test_lists_go_on_as_they_are(site: Site) -> None:
    """Nothing is copied, and a scope without a client stays one."""
    for client in ((PEER, 1), [PEER, 1], None):
        given = {**scope(), "client": client}
        headers = given["headers"]

        async def same(inner: Scope, client: Any = client, headers: Any = headers) -> bool:
            return inner["headers"] is headers and inner["client"] is client

        assert await ask(site.app(says(same)), given) == "True"


async def chat(scope: Scope, receive: Receive, send: Send) -> None:
    session = await open_session(scope)
    await receive()
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.send", "text": f"{len(session.clients)} {dict(scope['headers']).get(b'x-own')!r}"})


def connecting(app: Any, jar: Jar, *headers: tuple[str, str]) -> Socket:
    socket = Socket(app, jar, denial=True, headers=headers)
    socket.scope = once(socket.scope)
    return socket


@in_loop
async def test_a_websocket_of_another_origin_is_refused_though_its_origin_can_be_read_once(site: Site) -> None:
    """CWE-1385: who has read the header before makes no page one without an origin. One of the host's own is let in, with its session."""
    jar = await site.jar()

    async def reads_first(scope: Scope, receive: Receive, send: Send) -> None:
        assert [name for name, _ in scope["headers"] if name == b"origin"] == [b"origin"]
        await chat(scope, receive, send)

    async with connecting(site.app(reads_first), jar, ("Origin", "http://evil.example")) as socket:
        assert (await socket.next())["status"] == 403
    async with connecting(site.app(reads_first), jar, ("Origin", "http://example.org"), ("X-Own", "1")) as socket:
        await socket.accepted()
        assert (await socket.next())["text"] == "1 b'1'"


@in_loop
async def test_a_websocket_whose_peer_cannot_be_read_is_refused(site: Site) -> None:
    """An iterable of nothing is no peer: no session is bound to it."""
    peers: list[Iterable[str] | None] = [[], iter([]), None]
    for client in peers:
        socket = Socket(site.app(chat), await site.jar())
        socket.scope["client"] = client
        with pytest.raises(NoPeerAddress):
            async with socket:
                await socket.accepted()
        assert socket.to_browser.empty()
    off = Site(address_policy=AddressPolicy(match="off"))
    socket = Socket(off.app(chat), await off.jar())
    socket.scope["client"] = iter([])
    async with socket:
        await socket.accepted()  # nothing is bound to an address
