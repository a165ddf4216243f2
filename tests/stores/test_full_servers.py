"""A server that takes no more connections: whoever wants one waits for one of ours, within the deadline, and is not refused at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
import redis

from tests.conftest import require
from tests.faces import Face
from tests.postgres_server import PostgresServer
from tests.redis_server import PATIENCE, RedisServer
from tests.stores.faults import unavailable
from tests.stores.proxy import Proxy
from tests.stores.records import IDLE, NOW, new, value_of
from typed_sessions import StoreUnavailable
from typed_sessions.record import Record

pytestmark = pytest.mark.slow

AT_ONCE = 40
ROOM = 4
"""How many connections the store gets of the server."""


@pytest.fixture(scope="module")
def small_postgres() -> Iterator[PostgresServer]:
    server = PostgresServer(require("postgres"), "max_connections=9", "superuser_reserved_connections=3", "fsync=off")
    server.execute("CREATE ROLE web LOGIN")
    server.execute("GRANT USAGE ON SCHEMA typed_sessions TO web")
    server.execute("GRANT ALL ON typed_sessions.session TO web")
    yield server
    server.stop()


@pytest.fixture(scope="module")
def small_redis() -> Iterator[RedisServer]:
    server = RedisServer(require("redis-server"), "--maxclients", str(ROOM))
    yield server
    server.stop()


@pytest.fixture(params=["postgres", "redis"])
def url(request: pytest.FixtureRequest) -> str:
    """Of a server with few connections."""
    server = request.getfixturevalue(f"small_{request.param}")
    return str(server.url).replace("postgres@", "web@")


def held_by_another(url: str) -> Callable[[], None]:
    """Take all of the server's connections; gives what lets go of them."""
    held: list[Any] = []
    make_client: Any = redis.Redis
    try:
        while len(held) < 20:
            if url.startswith("redis:"):
                client = make_client.from_url(url, single_connection_client=True)
                held.append(client)
                client.ping()
            else:
                held.append(psycopg.connect(url))
    except (redis.ConnectionError, psycopg.OperationalError):
        pass
    assert len(held) < 20

    def let_go() -> None:
        for one in held:
            one.close()

    return let_go


def begin(face: Face) -> Record:
    """A session. It may take a while: that the connections of another test have gone has to be seen."""
    record, give_up = new(), time.monotonic() + PATIENCE
    while True:
        try:
            assert face.call(face.store.create(record, NOW)) == "created"
            return record
        except StoreUnavailable:
            assert time.monotonic() < give_up


def test_more_requests_than_connections(make: Callable[..., Face], url: str) -> None:
    """All are answered, again and again: the store's own connections come free within milliseconds."""
    face = make(url, deadline=PATIENCE)
    record = begin(face)

    def look() -> Any:
        return face.store.open(record.locator, None, IDLE, NOW)

    async def gathered() -> list[Any]:
        return await asyncio.gather(*(look() for _ in range(AT_ONCE)))

    with ThreadPoolExecutor(AT_ONCE) as threads:
        for _ in range(5):
            if face.loop is None:
                found = [one.result(PATIENCE) for one in [threads.submit(look) for _ in range(AT_ONCE)]]
            else:
                found = face.call(gathered())
            assert [value_of(one) for one in found] == [b"0"] * AT_ONCE


def test_others_have_them_all(make: Callable[..., Face], url: str) -> None:
    """The error says what the matter is, and nothing of TLS; as soon as there is room, everything goes on."""
    patient, hasty = make(url, deadline=PATIENCE), make(url)
    record = begin(patient)
    begin(hasty)
    for face in (hasty, patient):
        face.call(face.store.close())
    let_go = held_by_another(url)
    try:
        with unavailable("too many clients|remaining connection slots|max number of clients|maxclients") as caught:
            hasty.call(hasty.store.open(record.locator, None, IDLE, NOW))
    finally:
        let_go()
    assert "TLS" not in str(caught.value)
    assert value_of(patient.call(patient.store.open(record.locator, None, IDLE, NOW))) == b"0"


def test_others_let_go_of_one(make: Callable[..., Face], url: str) -> None:
    """Where nothing of ours is in use the server is asked again, after a pause."""
    begin(make(url, deadline=PATIENCE))
    with Proxy(urlsplit(url).port or 0) as proxy, ThreadPoolExecutor(1) as aside:
        face = make(url.replace(f":{urlsplit(url).port}", f":{proxy.port}"), deadline=PATIENCE)
        record = begin(face)
        face.call(face.store.close())
        let_go = held_by_another(url)
        try:
            before, give_up = proxy.connections, time.monotonic() + PATIENCE
            waits = aside.submit(lambda: face.call(face.store.open(record.locator, None, IDLE, NOW)))
            while proxy.connections < before + 2:
                assert time.monotonic() < give_up
                assert not waits.done()
        finally:
            let_go()
        assert value_of(waits.result(PATIENCE)) == b"0"
