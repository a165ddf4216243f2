"""A WebSocket whose session ends where nobody tells it, in another process or by its time: rules 8, 9, 11 and 14, on every store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any, cast

import pytest

from tests.faces import Face
from tests.filters.asgi_site import Site, says
from tests.filters.servers import Jar, Socket, asgi, in_loop
from tests.watched import Watched
from typed_sessions import AsyncSessionManager, StoreUnavailable
from typed_sessions.filters.asgi import Receive, Scope, Send, open_session

CLOSED = {"type": "websocket.close", "code": 1008, "reason": "the session has ended"}


class Place(Site):
    """A process over a store that others use as well."""

    def __init__(self, store: Any, clock: Any, *, blocking: bool | None = None, **options: Any) -> None:
        super().__init__()
        self.clock = clock
        self.store = Watched(store, blocking=blocking)
        self.sessions = AsyncSessionManager(cast("Any", self.store), clock=clock, **options)

    async def ask(self, jar: Jar, work: Callable[[Any], object]) -> None:
        """One http request."""

        async def answer(scope: Scope) -> None:
            work(await open_session(scope))

        await asgi(self.app(says(answer)), jar)


def run(face: Face, test: Coroutine[Any, Any, None]) -> None:
    """In the event loop of the face's store, or, for one that blocks, in any."""
    if face.loop is None:
        asyncio.run(test)
    else:
        face.loop.run_until_complete(test)


@asynccontextmanager
async def places(face: Face, count: int = 1, **options: Any) -> AsyncGenerator[list[Place]]:
    made = [Place(face.store, face.clock, **options) for _ in range(count)]
    yield made
    for place in made:
        await place.sessions.aclose()


@asynccontextmanager
async def listening(place: Place, jar: Jar, tasks: int = 1) -> AsyncGenerator[tuple[Socket, Callable[[], None]]]:
    """A WebSocket that only sends: a tick of each of its tasks, whenever it is told to."""
    told: asyncio.Queue[None] = asyncio.Queue()

    async def ticker(scope: Scope, receive: Receive, send: Send) -> None:
        await open_session(scope)
        await receive()
        await send({"type": "websocket.accept"})
        leaving = asyncio.ensure_future(receive())
        while True:
            ticking = asyncio.ensure_future(told.get())
            await asyncio.wait({leaving, ticking}, return_when=asyncio.FIRST_COMPLETED)
            if leaving.done():
                ticking.cancel()
                return
            try:
                await asyncio.gather(*(send({"type": "websocket.send", "text": "tick"}) for _ in range(tasks)))
            except OSError:
                leaving.cancel()
                raise

    async with Socket(place.app(ticker), jar) as socket:
        await socket.accepted()
        yield socket, lambda: told.put_nowait(None)


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    await open_session(scope)
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message["text"]})


@pytest.mark.parametrize("how", ["ended", "renewed"])
def test_one_that_only_sends_is_closed(face: Face, how: str) -> None:
    """An end in another process, or a new secret, is noticed with the first message that leaves a granularity after the last question."""

    async def test() -> None:
        async with places(face, 2) as (here, there):
            jar = await here.jar()
            async with listening(here, jar) as (socket, tick):
                await there.ask(jar.copy(), lambda session: session.end() if how == "ended" else session.renew())
                face.clock.advance(59)
                tick()
                assert (await socket.next())["text"] == "tick"
                face.clock.advance(1)
                tick()
                assert await socket.next() == CLOSED
                assert socket.task is not None
                await socket.task

    run(face, test())


def test_one_that_is_spoken_to_is_closed(face: Face) -> None:
    """With the first message that comes a granularity after the last use that was written; it reaches nobody."""

    async def test() -> None:
        async with places(face, 2) as (here, there):
            jar = await here.jar()
            async with Socket(here.app(echo), jar) as socket:
                await socket.accepted()
                await there.ask(jar.copy(), lambda session: session.end())
                face.clock.advance(60)
                await socket.say("anybody?")
                assert await socket.next() == CLOSED

    run(face, test())


def test_one_that_only_sends_does_not_keep_its_session(face: Face) -> None:
    """Rule 11, without any sweeper: sending is no use, so the idle timeout runs out, and the next message does not leave."""

    async def test() -> None:
        async with places(face, timeout=600, granularity=60) as [place]:
            jar = await place.jar()
            async with listening(place, jar) as (socket, tick):
                for _ in range(10):
                    face.clock.advance(60)
                    tick()
                    assert (await socket.next())["text"] == "tick"
                assert place.store.calls["touch"] == 0
                face.clock.advance(60)
                tick()
                assert await socket.next() == CLOSED

    run(face, test())


@in_loop
async def test_what_is_sent_asks_once_per_granularity() -> None:
    """However many tasks send at the same time."""
    site = Site()
    jar = await site.jar()
    place = Place(site.store.store, site.clock, blocking=True)  # it is waited for
    async with listening(place, jar, tasks=20) as (socket, tick):
        place.store.calls.clear()
        for asked in range(4):
            for _ in range(2):
                tick()
                for _ in range(20):
                    assert (await socket.next())["text"] == "tick"
                assert place.store.trips == place.store.calls["open"] == asked
            site.clock.advance(60)
    await place.sessions.aclose()


@in_loop
async def test_nothing_is_sent_after_the_absolute_lifetime() -> None:
    """It holds by the time and the record alone, whatever the granularity: the store is not asked."""
    site = Site(lifetime=30)
    async with listening(Place(site.store.store, site.clock), await site.jar()) as (socket, tick):
        site.clock.advance(29)
        tick()
        assert (await socket.next())["text"] == "tick"
        site.clock.advance(1)
        tick()
        assert await socket.next() == CLOSED


@in_loop
async def test_a_store_that_is_down_is_told_to_who_sends() -> None:
    """Rule 28: nobody is taken for somebody whose session may have ended; but a moment's outage cuts off nobody."""
    site = Site()
    place = Place(site.store.store, site.clock)

    async def talk() -> None:
        async with listening(place, await site.jar()) as (socket, tick):
            place.store.faults["open"] = StoreUnavailable("it is down")
            site.clock.advance(60)
            tick()
            assert (await socket.next())["type"] == "websocket.send"
            site.clock.advance(60)
            tick()
            assert (await socket.next())["code"] == 1011

    with pytest.raises(StoreUnavailable):
        await talk()


@in_loop
async def test_who_ends_the_session_may_say_so() -> None:
    """Rule 14: what the connection that has ended it sends still leaves."""
    site = Site()

    async def bye(scope: Scope, receive: Receive, send: Send) -> None:
        session = await open_session(scope)
        await receive()
        await send({"type": "websocket.accept"})
        site.clock.advance(100)
        session.end()
        await site.sessions.commit(session)
        await send({"type": "websocket.send", "text": "bye"})

    async with Socket(site.app(bye), await site.jar()) as socket:
        await socket.accepted()
        assert (await socket.next())["text"] == "bye"
        assert await socket.next() == CLOSED


def test_one_that_is_spoken_to_is_closed_after_a_sign_in_elsewhere(face: Face) -> None:
    """Rule 9: the secret that it was opened with is not the session's any more, and a use under it is none."""

    async def test() -> None:
        async with places(face, 2) as (here, there):
            jar = await here.jar()
            async with Socket(here.app(echo), jar) as socket:
                await socket.accepted()
                await there.ask(jar.copy(), lambda session: session.renew())
                face.clock.advance(60)
                await socket.say("anybody?")
                assert await socket.next() == CLOSED

    run(face, test())


@in_loop
async def test_an_outage_that_was_dealt_with_does_not_end_the_asking() -> None:
    """An application that goes on after `StoreUnavailable` is closed all the same when its session has ended meanwhile."""
    site = Site()
    jar = await site.jar()
    place = Place(site.store.store, site.clock)
    ticks: asyncio.Queue[bool] = asyncio.Queue()

    async def stubborn(scope: Scope, receive: Receive, send: Send) -> None:
        await open_session(scope)
        await receive()
        await send({"type": "websocket.accept"})
        with suppress(OSError):
            while await ticks.get():
                try:
                    await send({"type": "websocket.send", "text": "tick"})
                except StoreUnavailable:
                    place.store.faults.clear()

    async with Socket(place.app(stubborn), jar) as socket:
        await socket.accepted()
        try:
            place.store.faults["open"] = StoreUnavailable("it is down")
            site.clock.advance(120)
            await ticks.put(True)
            await ticks.put(True)
            assert (await socket.next())["text"] == "tick"
            await Place(site.store.store, site.clock).ask(jar.copy(), lambda session: session.end())
            site.clock.advance(60)
            await ticks.put(True)
            assert await socket.next() == CLOSED
        finally:
            await ticks.put(False)


@pytest.mark.parametrize("how", ["is spoken to", "only sends"])
@in_loop
async def test_a_clock_that_was_set_back_hides_no_end(how: str) -> None:
    """Rules 8 and 14: the last question lies in the future then, and does not count; otherwise nobody would ask until it has come."""
    site = Site()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await open_session(scope)
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            if message["text"] == "silence" or how == "only sends":
                await send({"type": "websocket.send", "text": message["text"]})

    async with Socket(site.app(app), await site.jar()) as socket:
        await socket.accepted()
        assert await socket.ask("silence") == "silence"
        site.clock.advance(-3600)
        other = AsyncSessionManager(site.store.store, clock=site.clock)
        assert await other.end_all() == 1
        await socket.say("anybody?")
        assert (await socket.next())["code"] == 1008
