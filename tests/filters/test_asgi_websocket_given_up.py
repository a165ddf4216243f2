"""A WebSocket whose application gives something up, or goes on after it: no message is lost, and no client stays."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from tests.filters.asgi_site import Site
from tests.filters.servers import Jar, Socket, in_loop
from typed_sessions import AsyncSessionManager, Session, StoreUnavailable
from typed_sessions.filters.asgi import Receive, Scope, Send, open_session


class Waiting(Site):
    """A site whose store waits: each verb lets other tasks run."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        inner = self.store

        class Store:
            blocking = False

            def __getattr__(self, name: str) -> Any:
                verb = getattr(inner, name)

                async def waits(*args: Any) -> Any:
                    await asyncio.sleep(0)
                    return verb(*args)

                return waits

        self.sessions = AsyncSessionManager(cast("Any", Store()), clock=self.clock, **options)


@pytest.mark.parametrize("how", ["cancelled", "the store is down"])
@in_loop
async def test_a_message_that_came_when_receive_was_given_up_is_the_next_one(how: str) -> None:
    """`wait_for(receive(), ...)` ends, or the store is down, while the use is written that the message is: it is heard all the same."""
    site = Waiting()
    given_up: list[type[BaseException]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await open_session(scope)
        await receive()
        await send({"type": "websocket.accept"})
        while True:
            site.clock.advance(100)  # a use is due
            receiving = asyncio.ensure_future(receive())
            if how == "cancelled" and not given_up:
                touched = site.store.calls["touch"]
                site.store.faults["touch"] = asyncio.CancelledError()
                while site.store.calls["touch"] == touched:
                    await asyncio.sleep(0)
            elif not given_up:
                site.store.faults["touch"] = StoreUnavailable("it is down")
            try:
                message = await receiving
            except (asyncio.CancelledError, StoreUnavailable) as problem:
                given_up.append(type(problem))
                site.store.faults.clear()
                continue
            if message["type"] != "websocket.receive":
                return
            await send({"type": "websocket.send", "text": message["text"]})

    async with Socket(site.app(app), await site.jar()) as socket:
        await socket.accepted()
        for text in ("one", "two", "three"):
            assert await socket.ask(text) == text
    assert len(given_up) == 1


@pytest.mark.parametrize("when", ["after", "meanwhile"])
@in_loop
async def test_a_task_that_outlives_its_websocket_leaves_no_client(when: str) -> None:
    """It opens the session when the connection has gone, or has it open then and commits: nobody is connected, and others may be."""
    site = Waiting(max_clients=2)
    jar = await site.jar()
    for _ in range(4):
        await outlived(site, jar, when)
    async with Socket(site.app(looking), jar) as socket:
        await socket.accepted()
        assert await socket.ask("who?") == "1"
    site.clock.advance(400)  # the http request's own connection lingers no more
    views = [view async for view in site.sessions.all()]
    assert [len(view.clients) for view in views] == [0]


async def outlived(site: Site, jar: Jar, when: str) -> None:
    gone = asyncio.Event()
    tasks: list[asyncio.Task[Session]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async def late() -> Session:
            if when == "after":
                await gone.wait()
            return await open_session(scope)

        await receive()
        tasks.append(asyncio.create_task(late()))
        await send({"type": "websocket.accept"})

    async with Socket(site.app(app), jar) as socket:
        await socket.accepted()
    gone.set()
    await asyncio.wait(tasks)
    tasks[0].exception()  # that it is too late may be said, or not


async def looking(scope: Scope, receive: Receive, send: Send) -> None:
    session = await open_session(scope)
    await receive()
    await send({"type": "websocket.accept"})
    while (await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": str(len(session.clients))})
