"""PostgreSQL with TLS, by libpq's options in the URL: the right authority lets the store in, and what is wrong is said in time (S12)."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import psycopg
import pytest

from tests.certificates import Authority
from tests.conftest import require
from tests.faces import Face
from tests.postgres_server import PostgresServer
from tests.redis_server import PATIENCE
from tests.stores.faults import read, signed_in, unavailable
from typed_sessions import Key

pytestmark = pytest.mark.slow


class Served(NamedTuple):
    server: PostgresServer
    authority: str
    another: str
    """Paths of certificates to trust: that of the authority that has signed the server's, and of one that has not."""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    server = PostgresServer(require("postgres"))
    authority, another = server.speak_tls(), Authority(tmp_path_factory.mktemp("certificates"), "another")
    give_up = time.monotonic() + PATIENCE
    while not takes_tls(server):
        assert time.monotonic() < give_up
    yield Served(server, str(authority.certificate), str(another.certificate))
    server.stop()


def takes_tls(server: PostgresServer) -> bool:
    try:
        server.client(sslmode="require").close()
    except psycopg.OperationalError:
        return False
    return True


def test_the_right_authority(make: Callable[..., Face], served: Served, name: Key[str]) -> None:
    """The store's only connection is encrypted, and kept."""
    face = make(f"{served.server.url}?sslmode=verify-full&sslrootcert={served.authority}")
    browser = signed_in(face, name)
    assert read(browser, name) == "ann"
    others = (
        "SELECT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
    )
    assert served.server.execute(others) == [(True,)]


def test_another_authority(make: Callable[..., Face], served: Served, name: Key[str]) -> None:
    """Nothing is sent to a server that somebody else has certified."""
    face = make(f"{served.server.url}?sslmode=verify-full&sslrootcert={served.another}")
    with unavailable("cannot be reached: .*certificate verify failed; nothing was sent"):
        signed_in(face, name)


def test_a_server_without_tls(make: Callable[..., Face], postgres_server: PostgresServer, name: Key[str]) -> None:
    """Refused by the client, which says so."""
    face = make(f"{postgres_server.url}?sslmode=require")
    with unavailable("cannot be reached: .*server does not support SSL, but SSL was required; nothing was sent"):
        signed_in(face, name)


def test_a_handshake_that_never_ends(make: Callable[..., Face], name: Key[str]) -> None:
    """Somebody accepts the connection and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        face = make(f"postgresql://postgres@127.0.0.1:{mute.getsockname()[1]}/postgres?sslmode=require")
        with unavailable("cannot be reached: it took longer than 1 s; nothing was sent"):
            signed_in(face, name)
