"""The PostgreSQL stores behind a pool in transaction mode, where each statement may have another connection to the server."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest

from tests.conftest import require
from tests.faces import FACES, Face
from tests.postgres_server import PostgresServer
from tests.redis_server import PATIENCE, free_port
from tests.stores.proxy import Proxy
from tests.stores.records import IDLE, NOW, new, value_of
from typed_sessions import Conflict, Key, StoreUnavailable
from typed_sessions.changes import Changes, Write
from typed_sessions.stores.postgres import AsyncPostgresStore, PostgresStore

SETTINGS = """
[databases]
postgres = host=127.0.0.1 port={server} dbname=postgres user=postgres connect_query='SET default_transaction_isolation TO "{level}"'
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
auth_type = any
pool_mode = transaction
default_pool_size = 2
max_client_conn = 100
unix_socket_dir =
"""


@contextmanager
def pool(server: int, level: str, user: dict[str, Any]) -> Generator[str]:
    """A URL that leads to the server at this port by way of pgbouncer, which has two connections for everybody, and decides how they
    are isolated."""
    program, port = require("pgbouncer"), free_port()
    folder = Path(mkdtemp(prefix="pgbouncer-"))
    folder.chmod(0o755)  # pgbouncer refuses to run as root, and whom it runs as has to come here
    settings = folder / "pgbouncer.ini"
    settings.write_text(SETTINGS.format(server=server, port=port, level=level))
    process = subprocess.Popen([program, str(settings)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **user)
    url = f"postgresql://postgres@127.0.0.1:{port}/postgres"
    store = PostgresStore(url)
    give_up = time.monotonic() + PATIENCE
    try:
        while True:
            try:
                store.create_schema()
                break
            except StoreUnavailable:
                assert process.poll() is None, "pgbouncer has stopped"
                assert time.monotonic() < give_up, "pgbouncer does not answer"
        store.close()
        yield url
    finally:
        process.kill()  # since its release 1.23, SIGTERM is a request to wait until all clients have gone
        process.wait(PATIENCE)
        shutil.rmtree(folder)


@pytest.fixture(params=["read committed", "serializable"])
def pooled(request: pytest.FixtureRequest, postgres_server: PostgresServer) -> Iterator[str]:
    with pool(postgres_server.port, request.param, postgres_server.user) as url:
        postgres_server.empty()
        yield url


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="pgbouncer runs on POSIX systems")
@pytest.mark.parametrize("kind", FACES)
def test_behind_a_pool_in_transaction_mode(pooled: str, kind: str) -> None:
    """Threads with more connections than the pool has: every update counts, and nothing that a connection remembers is relied on.
    What the pool sets there before anybody comes does no harm."""
    visits = Key("visits", int)
    make: Any = PostgresStore if kind == "sync" else AsyncPostgresStore
    face = Face(kind, make(pooled))
    browser = face.browser()
    with browser.visit() as session:
        session[visits] = 0
    jar = dict(browser.jar)

    def visitor() -> Callable[[], None]:
        mine = Face(kind, make(pooled))

        def work() -> None:
            another = mine.browser()
            another.jar = jar
            for _ in range(25):
                while True:
                    turn = another.open()
                    turn.session.update(visits, lambda n: n + 1)
                    try:
                        turn.finish()
                        break
                    except Conflict:
                        pass
            mine.close()

        return work

    threads = [threading.Thread(target=visitor()) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    with browser.visit() as session:
        assert session[visits] == 150
        session.renew()
        session.end()
    face.close()


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="pgbouncer runs on POSIX systems")
def test_the_pool_loses_the_server(postgres_server: PostgresServer, make: Callable[..., Face]) -> None:
    """In the middle of a commit: it is the pool that says so, and what the server has done it does not know either."""
    with Proxy(postgres_server.port) as proxy, pool(proxy.port, "read committed", postgres_server.user) as url:
        face, record = make(url, deadline=PATIENCE), new()
        face.call(face.store.create(record, NOW))
        proxy.manner = "cut"
        with pytest.raises(StoreUnavailable, match="broke the connection during commit: the answer was lost, it may have been applied"):
            face.call(face.store.commit(record.locator, Changes({"value": Write(b"1")}), IDLE, NOW))
        proxy.manner = "pass"
        assert value_of(face.call(face.store.open(record.locator, None, IDLE, NOW))) == b"1"
