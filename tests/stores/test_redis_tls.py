"""Redis with TLS: the right authority lets the store in; whatever is wrong is said, with what to mend, and in time (S8, S12, S14)."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from tests.certificates import Authority
from tests.conftest import require
from tests.faces import Face
from tests.redis_server import RedisServer, free_port
from tests.stores.faults import read, signed_in, unavailable, write
from tests.stores.records import IDLE, NOW, new, value_of
from typed_sessions import Key, PolicyError, open_async_store, open_store
from typed_sessions.stores.redis import AsyncRedisStore, RedisStore

pytestmark = pytest.mark.slow


class Served(NamedTuple):
    server: RedisServer
    port: int
    """Where it expects TLS; on `server.port` it does not."""
    authority: str
    another: str
    """Paths of certificates to trust: that of the authority that has signed the server's, and of one that has not."""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("certificates")
    authority, another = Authority(folder, "ours"), Authority(folder, "another")
    its, port = authority.issue("server"), free_port()
    files = ("--tls-cert-file", str(its.certificate), "--tls-key-file", str(its.key), "--tls-ca-cert-file", str(authority.certificate))
    server = RedisServer(require("redis-server"), "--tls-port", str(port), "--tls-auth-clients", "no", *files)
    yield Served(server, port, str(authority.certificate), str(another.certificate))
    server.stop()


def test_the_right_authority(make: Callable[..., Face], served: Served, name: Key[str]) -> None:
    """Everything is as without TLS, and the connection is kept; when the server closes it, the next verb makes another."""
    face = make(f"rediss://127.0.0.1:{served.port}/0?ssl_ca_certs={served.authority}")
    with served.server.client() as client:
        before = connections(client)
        browser = signed_in(face, name)
        write(browser, name, "x" * 40_000)  # several TLS records
        assert read(browser, name) == "x" * 40_000
        assert connections(client) == before + 1
        client.client_kill_filter(_type="normal", skipme=True)
        assert read(browser, name) == "x" * 40_000
        assert connections(client) == before + 2


def connections(client: Any) -> int:
    """How many have ever been made to this server."""
    return int(client.info("stats")["total_connections_received"])


def test_by_url(kind: str, served: Served) -> None:
    """`open_store` hands the driver's options on."""
    url = f"rediss://127.0.0.1:{served.port}?ssl_ca_certs={served.authority}&prefix=by-{kind}&deadline=2"
    record = new(b"1")
    if kind == "sync":
        store = open_store(url)
        assert store.create(record, NOW) == "created"
        store.close()
        return

    async def work() -> None:
        store = open_async_store(url)
        assert isinstance(store, AsyncRedisStore)
        assert await store.create(record, NOW) == "created"
        await store.close()

    asyncio.run(work())


def test_a_connection_that_the_loop_has_closed(served: Served) -> None:
    """With TLS asyncio closes its end when the server does; that another file has got its descriptor by then confuses nobody."""

    async def work() -> None:
        store = AsyncRedisStore(f"rediss://127.0.0.1:{served.port}?ssl_ca_certs={served.authority}", prefix="closed")
        record = new(b"1")
        before = len(asyncio.all_tasks())
        assert await store.create(record, NOW) == "created"
        with served.server.client() as client:
            client.client_kill_filter(_type="normal", skipme=True)
        pairs: list[socket.socket] = []
        for _ in range(50):
            await asyncio.sleep(0)  # the loop hears of it
            pairs += socket.socketpair()
        assert value_of(await store.open(record.locator, None, IDLE, NOW)) == b"1"
        for end in pairs:
            end.close()
        await store.close()
        assert len(asyncio.all_tasks()) == before

    asyncio.run(work())


@pytest.mark.parametrize("trusted", ["another", "system"])
def test_another_authority(make: Callable[..., Face], served: Served, name: Key[str], trusted: str) -> None:
    """Nothing is sent to a server that somebody else has certified; the text says where the authorities are named."""
    options = f"?ssl_ca_certs={served.another}" if trusted == "another" else ""
    face = make(f"rediss://127.0.0.1:{served.port}{options}")
    with unavailable(r"certificate verify failed.*which authorities to trust is said by \?ssl_ca_certs=.*nothing was sent"):
        signed_in(face, name)


def test_another_name(make: Callable[..., Face], served: Served, name: Key[str]) -> None:
    """A certificate for another host than the URL's is refused."""
    face = make(f"rediss://localhost:{served.port}?ssl_ca_certs={served.authority}")
    with unavailable("certificate is not valid for 'localhost'"):
        signed_in(face, name)


def test_a_server_without_tls(make: Callable[..., Face], served: Served, name: Key[str]) -> None:
    """It waits for the end of a command that never comes, until the deadline."""
    face = make(f"rediss://127.0.0.1:{served.server.port}?ssl_ca_certs={served.authority}")
    with unavailable(r"longer than 1 s \(does it speak TLS\? If not, its URL begins with redis://\); nothing was sent"):
        signed_in(face, name)


def test_a_server_with_tls(make: Callable[..., Face], served: Served, name: Key[str]) -> None:
    """Told to speak without."""
    face = make(f"redis://127.0.0.1:{served.port}")
    with unavailable(r"does it expect TLS\? Then its URL begins with rediss://"):
        signed_in(face, name)


def test_a_handshake_that_never_ends(make: Callable[..., Face], served: Served, name: Key[str]) -> None:
    """Somebody accepts the connection and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        face = make(f"rediss://127.0.0.1:{mute.getsockname()[1]}?ssl_ca_certs={served.authority}")
        for _ in range(2):
            with unavailable("cannot be reached: it took longer than 1 s"):
                signed_in(face, name)


def test_a_frozen_server(make: Callable[..., Face], served: Served, name: Key[str]) -> None:
    """SIGSTOP, on a connection that is there and on a new one; awake again, everything goes on."""
    face = make(f"rediss://127.0.0.1:{served.port}?ssl_ca_certs={served.authority}")
    browser = signed_in(face, name)
    served.server.freeze()
    with unavailable("did not answer open within 1 s"):
        browser.open()
    with unavailable("cannot be reached: it took longer than 1 s"):
        browser.open()
    served.server.thaw()
    assert read(browser, name) == "ann"


@pytest.mark.parametrize("store", [RedisStore, AsyncRedisStore])
@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("ssl_ca_certs=/nowhere/ca.pem", "ssl_ca_certs=/nowhere/ca.pem: there is no such file"),
        ("ssl_ca_cert=/nowhere/ca.pem", "unexpected keyword argument 'ssl_ca_cert'"),
        ("ssl_cert_reqs=perhaps", "perhaps"),
    ],
)
def test_wrong_options(store: type[RedisStore] | type[AsyncRedisStore], query: str, words: str) -> None:
    """What can be known to be wrong is said when the store is made, and without the password."""
    with pytest.raises(PolicyError, match=words) as caught:
        store(f"rediss://ann:sesame@127.0.0.1?{query}")
    assert "sesame" not in str(caught.value)
