"""Connections to Redis that are not in use: who closes them, and that a bad one is noticed before it does harm (R4, S12 to S14)."""

from __future__ import annotations

import asyncio
import gc
import itertools
import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import redis
import redis.asyncio

from tests.conftest import require
from tests.faces import Face
from tests.redis_server import PATIENCE, RedisServer
from tests.stores.faults import DEADLINE, signed_in, unavailable
from tests.stores.proxy import Proxy
from tests.stores.records import IDLE, NOW, new, value_of
from typed_sessions import Key, StoreUnavailable
from typed_sessions.stores.redis import AsyncRedisStore
from typed_sessions.stores.redis_wire import Link

_names = itertools.count()


@pytest.fixture
def proxy(redis_server: RedisServer) -> Iterator[Proxy]:
    with Proxy(redis_server.port) as proxy:
        yield proxy


class Named:
    """Stores whose connections have a name at the server, by which they can be counted."""

    def __init__(self, server: RedisServer) -> None:
        self._server = server
        self.name = f"idle-{next(_names)}"
        self.url = f"{server.url}?client_name={self.name}"

    def connections(self) -> int:
        with self._server.client() as client:
            return sum(1 for other in client.client_list() if other["name"] == self.name)

    def wait_for(self, connections: int) -> None:
        give_up = time.monotonic() + PATIENCE
        while self.connections() != connections:
            assert time.monotonic() < give_up, f"{self.connections()} connections, not {connections}"


@pytest.fixture
def named(redis_server: RedisServer) -> Named:
    return Named(redis_server)


def test_a_loop_for_each_request(named: Named) -> None:
    """`asyncio.run` again and again, as test clients do, with one store: each closes its connections, and no loop is kept."""
    store = AsyncRedisStore(named.url, prefix=named.name)
    loops: list[asyncio.AbstractEventLoop] = []

    async def request() -> None:
        loops.append(asyncio.get_running_loop())
        await asyncio.gather(*(store.open(bytes(16), None, IDLE, NOW) for _ in range(3)))
        assert named.connections() == 3

    for _ in range(5):
        asyncio.run(request())
        named.wait_for(0)


def test_loops_that_are_closed_by_hand(named: Named) -> None:
    """Without `close` before: their connections are closed when the store is used in another; those of a loop that lives are not."""
    store = AsyncRedisStore(named.url, prefix=named.name)
    living = asyncio.new_event_loop()
    living.run_until_complete(store.open(bytes(16), None, IDLE, NOW))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # asyncio's, of transports that nobody has closed
        for _ in range(5):
            loop = asyncio.new_event_loop()
            loop.run_until_complete(store.open(bytes(16), None, IDLE, NOW))
            loop.close()
        named.wait_for(2)
        living.run_until_complete(store.open(bytes(16), None, IDLE, NOW))
        asyncio.run(store.open(bytes(16), None, IDLE, NOW))
        named.wait_for(1)
        gc.collect()
    living.run_until_complete(store.close())
    living.close()
    named.wait_for(0)


def test_as_many_connections_as_are_allowed(named: Named) -> None:
    """`max_connections` of the URL, for servers and plans that allow few; the verbs wait for their turn."""
    store = AsyncRedisStore(f"{named.url}&max_connections=2", prefix=named.name)

    async def main() -> None:
        await asyncio.gather(*(store.open(bytes(16), None, IDLE, NOW) for _ in range(20)))
        assert named.connections() == 2

    asyncio.run(main())


def test_more_verbs_than_connections(named: Named) -> None:
    """Who does not get one in time is told so, and not that the server cannot be reached."""
    store: Any = AsyncRedisStore(f"{named.url}&max_connections=1", prefix=named.name, deadline=DEADLINE)

    async def main() -> None:
        store._turns().free = 0  # as if one were in use, for longer than a verb may take
        with unavailable("all 1 connections of this event loop are in use, and none became free within 1 s; nothing was sent"):
            await store.open(bytes(16), None, IDLE, NOW)
        store._turns().leave()
        assert await store.open(bytes(16), None, IDLE, NOW) is None

    asyncio.run(main())


def test_a_deadline_that_is_over_before_the_connection() -> None:
    """Nothing is begun, so that nothing is left over: no coroutine that nobody awaits."""
    store = AsyncRedisStore("redis://127.0.0.1:1", deadline=1e-9)
    with pytest.raises(StoreUnavailable, match="cannot be reached: it took longer than 1e-09 s; nothing was sent"):
        asyncio.run(store.open(bytes(16), None, IDLE, NOW))


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """A server that a test may do anything to."""
    server = RedisServer(require("redis-server"))
    yield server
    server.stop()


def crowd(store: Any, server: RedisServer, call: Callable[[Any], Any], number: int) -> None:
    """Use so many connections at once; they are idle then."""
    if isinstance(store, AsyncRedisStore):

        async def gather() -> None:
            await asyncio.gather(*(store.create(new(), NOW) for _ in range(number)))

        call(gather())
        return
    with server.client() as client:
        before = int(client.info("clients")["connected_clients"])
        client.client_pause(60_000, all=False)
        threads = [threading.Thread(target=store.create, args=(new(), NOW)) for _ in range(number)]
        for thread in threads:
            thread.start()
        give_up = time.monotonic() + PATIENCE
        while int(client.info("clients")["connected_clients"]) < before + number:
            assert time.monotonic() < give_up
        client.client_unpause()
    for thread in threads:
        thread.join(PATIENCE)


def test_connections_that_went_silent(make: Callable[..., Face], server: RedisServer) -> None:
    """A NAT has forgotten those that were idle: the first verb pays with its deadline, the next one has a new connection."""
    with Proxy(server.port) as proxy:
        face = make(proxy.url, deadline=2)
        crowd(face.store, server, face.call, 5)
        proxy.silence()
        with pytest.raises(StoreUnavailable, match=r"did not answer open within 2 s"):
            face.call(face.store.open(bytes(16), None, IDLE, NOW))
        assert face.call(face.store.open(bytes(16), None, IDLE, NOW)) is None


def test_what_nobody_has_asked_for(make: Callable[..., Face], proxy: Proxy) -> None:
    """A reply that comes while a connection is idle is not taken for the answer to the next verb."""
    face = make(proxy.url)
    record = new(b"1")
    face.call(face.store.create(record, NOW))
    for unasked in (b"$-1\r\n", b"$"):
        assert value_of(face.call(face.store.open(record.locator, None, IDLE, NOW))) == b"1"
        proxy.say(unasked)
        face.call(turns() if face.kind == "async" else None)
        assert value_of(face.call(face.store.open(record.locator, None, IDLE, NOW))) == b"1"


def test_what_a_server_pushes() -> None:
    """What it says beside an answer is not taken for one, in the protocol that tells them apart (RESP3, which a client may ask for)."""
    ours, theirs = socket.socketpair()
    link = Link(SimpleNamespace(_sock=ours))
    theirs.sendall(b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n:1\r\n")
    assert link.exchange(b"PING", 1, time.monotonic() + DEADLINE) == [1]
    assert link.is_sound()
    link.close()
    theirs.close()


async def turns() -> None:
    for _ in range(50):
        await asyncio.sleep(0)  # the loop hears of it


@pytest.mark.parametrize("own", [False, True])
def test_the_system_looks_after_idle_connections(make: Callable[..., Face], redis_server: RedisServer, kind: str, own: bool) -> None:
    """TCP keepalive, also where redis-py sets none; who has set it for a client of their own has it so."""
    sockets: list[Any] = []
    name: Key[str] = Key("name", str)

    class Seen(redis.Connection):
        def _connect(self) -> Any:
            parent: Any = super()
            sockets.append(parent._connect())
            return sockets[-1]

    class SeenAsync(redis.asyncio.Connection):
        async def _connect(self) -> None:
            parent: Any = super()
            await parent._connect()
            writer: Any = self._writer
            sockets.append(writer.get_extra_info("socket"))

    options: dict[str, Any] = {"port": redis_server.port, "socket_keepalive": own}
    if own:
        options["socket_keepalive_options"] = {socket.TCP_KEEPINTVL: 7}
    if kind == "sync":
        client: Any = redis.Redis(connection_pool=redis.ConnectionPool(connection_class=Seen, **options))
    else:
        client = redis.asyncio.Redis(connection_pool=redis.asyncio.ConnectionPool(connection_class=SeenAsync, **options))
    face = make(None, client=client)
    signed_in(face, name)
    assert sockets
    for sock in sockets:
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == (7 if own else 5)
