"""The PostgreSQL stores behind a pool in transaction mode, where each statement may have another connection to the server."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import require
from tests.faces import FACES, Face
from tests.postgres_server import PostgresServer
from tests.redis_server import PATIENCE, free_port
from typed_sessions import Conflict, Key, StoreUnavailable
from typed_sessions.stores.postgres import AsyncPostgresStore, PostgresStore

SETTINGS = """
[databases]
postgres = host=127.0.0.1 port={server} dbname=postgres user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
auth_type = any
pool_mode = transaction
default_pool_size = 2
max_client_conn = 100
unix_socket_dir =
"""


@pytest.fixture
def pooled(postgres_server: PostgresServer, tmp_path: Path) -> Iterator[str]:
    """A URL that leads to the server by way of pgbouncer, which has two connections for everybody."""
    program, port = require("pgbouncer"), free_port()
    settings = tmp_path / "pgbouncer.ini"
    settings.write_text(SETTINGS.format(server=postgres_server.port, port=port))
    for folder in (tmp_path, *list(tmp_path.parents)[:2]):
        folder.chmod(0o755)
    process = subprocess.Popen([program, str(settings)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **postgres_server.user)
    url = f"postgresql://postgres@127.0.0.1:{port}/postgres"
    store = PostgresStore(url)
    give_up = time.monotonic() + PATIENCE
    while True:
        try:
            store.create_schema()
            break
        except StoreUnavailable:
            assert process.poll() is None, "pgbouncer has stopped"
            assert time.monotonic() < give_up, "pgbouncer does not answer"
    store.close()
    postgres_server.empty()
    yield url
    process.terminate()
    process.wait(PATIENCE)


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="pgbouncer runs on POSIX systems")
@pytest.mark.parametrize("kind", FACES)
def test_behind_a_pool_in_transaction_mode(pooled: str, kind: str) -> None:
    """Threads with more connections than the pool has: every update counts, and nothing that a connection remembers is relied on."""
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
