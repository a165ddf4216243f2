"""What the Redis stores do when the server does not, or the network: an honest answer in time, and no lasting harm (S8, S12 to S14)."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest
import redis
import redis.asyncio
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from tests.conftest import require
from tests.faces import Face
from tests.redis_server import PATIENCE, RedisServer, free_port
from tests.stores.faults import SLACK, read, signed_in, unavailable, write
from tests.stores.proxy import Manner, Proxy
from tests.stores.records import IDLE, NOW, new
from typed_sessions import Key, PolicyError, StoreUnavailable
from typed_sessions.changes import Changes, Write
from typed_sessions.stores.redis import CONNECTIONS, AsyncRedisStore, RedisStore

pytestmark = pytest.mark.slow


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """A server that a test may do anything to."""
    server = RedisServer(require("redis-server"))
    yield server
    server.stop()


@pytest.fixture
def proxy(redis_server: RedisServer) -> Iterator[Proxy]:
    with Proxy(redis_server.port) as proxy:
        yield proxy


def says(client: Any) -> str:
    try:
        client.ping()
        return "ready"
    except redis.BusyLoadingError:
        return "loading"
    except (redis.ConnectionError, redis.ResponseError):
        return "nothing"


def wait_for(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < give_up


def test_a_frozen_server(make: Callable[..., Face], server: RedisServer, name: Key[str]) -> None:
    """SIGSTOP: on a connection that is there, on a new one, and in the middle of a request; awake again, everything goes on."""
    face = make(server.url)
    browser = signed_in(face, name)
    turn = browser.open()
    turn.session[name] = "bob"
    server.freeze()
    with unavailable("did not answer commit within 1 s: the answer was lost, it may have been applied, and is not repeated"):
        turn.finish()
    for _ in range(2):
        with unavailable("cannot be reached: it took longer than 1 s; nothing was sent"):
            browser.open()
    server.thaw()
    assert read(browser, name) in ("ann", "bob")
    write(browser, name, "cid")
    assert read(browser, name) == "cid"


def test_a_killed_server(make: Callable[..., Face], server: RedisServer, name: Key[str]) -> None:
    """Nobody listens; when a server does again, the store finds it, with the scripts that it has never seen."""
    face = make(server.url)
    browser = signed_in(face, name)
    server.kill()
    for _ in range(3):
        with unavailable("cannot be reached.*nothing was sent"):
            browser.open()
    server.start()
    browser = signed_in(face, name)
    server.restart()
    assert read(browser, name) is None  # the server saves nothing; the connection that was closed meanwhile is nobody's trouble
    signed_in(face, name)


def test_a_server_that_forgot_the_scripts(make: Callable[..., Face], server: RedisServer, name: Key[str]) -> None:
    """SCRIPT FLUSH at any time: the verb is said once more with the script's text, and applied once."""
    face = make(server.url)
    browser = signed_in(face, name)
    visits = Key("visits", int)
    with server.client() as client:
        for _ in range(3):
            with browser.visit() as session:
                client.script_flush()
                session.update(visits, lambda n: n + 1, default=0)
                client.script_flush()
        with browser.visit() as session:
            assert session[visits] == 3
        client.script_flush()
        face.clock.advance(660)
        assert face.call(face.manager.sweep()) == 1


@pytest.mark.parametrize(
    ("manner", "words"),
    [
        ("mute", "did not answer commit within 1 s"),
        ("cut", "broke the connection during commit"),
        ("dribble", "did not answer commit"),
    ],
)
def test_an_answer_that_does_not_come(proxy: Proxy, make: Callable[..., Face], name: Key[str], manner: Manner, words: str) -> None:
    """The server has done it and nobody hears of it: the caller is told that it may have been, and it has been done once."""
    visits = Key("visits", int)
    face = make(proxy.url)
    browser = signed_in(face, name)
    write(browser, name, "bob")
    turn = browser.open()
    turn.session.update(visits, lambda n: n + 1, default=0)
    proxy.manner = manner
    with unavailable(words + ".*it may have been applied, and is not repeated"):
        turn.finish()
    proxy.manner = "pass"
    with browser.visit() as session:
        assert session[visits] == 1


@pytest.mark.parametrize("manner", ["mute", "cut", "dribble"])
def test_a_sign_in_that_does_not_come(proxy: Proxy, make: Callable[..., Face], name: Key[str], manner: Manner) -> None:
    """The first steps on a new connection are within the deadline too, however slowly each of them comes."""
    face = make(proxy.url)
    proxy.manner = manner
    with unavailable("cannot be reached|did not answer|broke the connection"):
        signed_in(face, name)
    proxy.manner = "pass"
    signed_in(face, name)


def test_the_first_address_of_a_name_is_gone(redis_server: RedisServer, name: Key[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the URL says how long each is waited for, the next one is asked within the deadline."""
    look_up, address = socket.getaddrinfo, ("127.0.0.1", redis_server.port)
    with socket.socket() as gone:
        gone.bind(("127.0.0.1", 0))
        gone.listen(0)
        waiting = [socket.socket() for _ in range(4)]  # more than it takes, and it takes none of them: nobody else hears from it
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(gone.getsockname())

        def both(host: Any, *args: Any, **options: Any) -> Any:
            if host != "sessions.test":
                return look_up(host, *args, **options)
            return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", where) for where in (gone.getsockname(), address)]

        monkeypatch.setattr(socket, "getaddrinfo", both)
        store = RedisStore(f"redis://sessions.test:{redis_server.port}?socket_connect_timeout=0.2", deadline=10)
        begin = time.monotonic()
        signed_in(Face("sync", store), name)
        assert time.monotonic() - begin < 0.2 + SLACK
        store.close()
        for one in waiting:
            one.close()


def test_a_clients_own_retries_do_not_count(make: Callable[..., Face], kind: str, name: Key[str]) -> None:
    """`client=` says how to connect. How long to wait and how often to try is the store's, also with a client that tries for ever."""
    make_client: Any = redis.Redis if kind == "sync" else redis.asyncio.Redis
    patient = make_client(port=free_port(), retry=Retry(ConstantBackoff(0.2), 1_000), socket_timeout=60)
    face = make(None, client=patient)
    with unavailable("cannot be reached"):
        signed_in(face, name)


def test_a_client_of_the_users_own(make: Callable[..., Face], redis_server: RedisServer, kind: str, name: Key[str]) -> None:
    """Whatever it makes of replies, the store has its own way with them; closing the store leaves the client alone."""
    make_client: Any = redis.Redis if kind == "sync" else redis.asyncio.Redis
    client = make_client(port=redis_server.port, decode_responses=True)
    face = make(None, client=client)
    signed_in(face, name)
    assert face.call(client.ping())
    face.call(client.close() if kind == "sync" else client.aclose())


def test_a_full_server(make: Callable[..., Face], server: RedisServer, name: Key[str]) -> None:
    """OOM under `noeviction`: writes are refused and nothing is half done, reading goes on, and ending a session makes room."""
    face = make(server.url)
    hooked = Key("hooked", str, cleanup_delete=print)
    browser, other, hook = signed_in(face, name), signed_in(face, name), signed_in(face, hooked)
    with server.client() as client:
        client.config_set("maxmemory", 1)
        turn = browser.open()
        turn.session[name] = "bob"
        turn.session.renew()
        with unavailable("refused commit: OOM"):
            turn.finish()
        with unavailable("refused create: OOM"):
            signed_in(face, name)
        assert read(browser, name) == "ann"
        face.clock.advance(120)  # the use is to be written, so that the session does not end while it is read
        assert read(browser, name) == "ann"
        for signed_out in (other, hook):
            with signed_out.visit() as session:
                session.end()
        face.clock.advance(599)
        assert read(browser, name) == "ann"
        client.config_set("maxmemory", 0)
    write(browser, name, "bob")
    assert read(browser, name) == "bob"


def test_clearing_up_a_full_server(make: Callable[..., Face], server: RedisServer, name: Key[str]) -> None:
    """What is over, with hooks and without, is ended and collected; what is not stays, with all that it has."""
    face = make(server.url)
    ran: list[str] = []
    hooked = Key("hooked", str, cleanup_delete=ran.append)
    signed_in(face, hooked)
    signed_in(face, name)
    face.clock.advance(500)
    browser = signed_in(face, name)
    face.clock.advance(160)
    with server.client() as client:
        client.config_set("maxmemory", 1)
        assert face.call(face.manager.sweep()) == 2
        client.config_set("maxmemory", 0)
        assert len(client.keys(f"{{{face.store.prefix}:*:s:*")) == 1
    assert ran == ["ann"]
    assert read(browser, name) == "ann"


def test_verbs_of_a_full_server(server: RedisServer) -> None:
    """`touch`, and `clear` of some of what a session has, which makes it smaller."""
    record = new(hooked=True)
    with server.client() as client, closing(RedisStore(server.url)) as store:
        store.create(record, NOW)
        client.config_set("maxmemory", 1)
        assert store.touch(record.locator, record.digest, IDLE, NOW + 100)
        assert store.end(record.locator, "ended", NOW + 200, 60) is not None
        store.clear(record.locator, ["another"])
        ((found,), _) = store.sweep(NOW + 300, 10, 60, 600)
        assert found.fields == record.fields
        store.clear(record.locator, None)
        assert store.sweep(NOW + 400, 10, 60, 600) == ([], False)


def test_a_read_only_replica(make: Callable[..., Face], server: RedisServer, name: Key[str]) -> None:
    """After a failover the old master refuses writes: the caller is told, and the next verb makes a new connection."""
    face = make(server.url)
    browser = signed_in(face, name)
    with server.client() as client:
        client.config_set("replica-serve-stale-data", "yes")
        client.replicaof("127.0.0.1", free_port())
        assert read(browser, name) == "ann"
        with unavailable("refused commit: READONLY"):
            write(browser, name, "bob")
        assert read(browser, name) == "ann"
        client.replicaof("NO", "ONE")
    write(browser, name, "cid")
    assert read(browser, name) == "cid"


def test_a_failover_costs_one_request(make: Callable[..., Face], server: RedisServer, kind: str) -> None:
    """The old master closes nothing, and refuses writes on every connection: with the first that hears of it the idle ones go too."""
    face, record = make(server.url), new()
    store = face.store
    assert face.call(store.create(record, NOW)) == "created"

    def commit() -> Any:
        return store.commit(record.locator, Changes({"value": Write(b"1")}), IDLE, NOW)

    async def gathered() -> list[Any]:
        return await asyncio.gather(*(commit() for _ in range(4)))

    def clients() -> list[Any]:
        return [one for one in client.client_list() if int(one["id"]) != mine]

    with server.client(single_connection_client=True) as client, ThreadPoolExecutor(5) as threads:
        mine = client.client_id()
        client.client_pause(60_000, all=False)
        under_way = [threads.submit(commit) for _ in range(4)] if kind == "sync" else [threads.submit(face.call, gathered())]
        wait_for(lambda: len(clients()) == 4)
        client.client_unpause()
        for one in under_way:
            one.result(PATIENCE)
        client.replicaof("127.0.0.1", free_port())
        with unavailable("refused commit: READONLY"):
            face.call(commit())
        wait_for(lambda: not clients())
        client.replicaof("NO", "ONE")
    for _ in range(5):
        assert face.call(commit()).status == "committed"


def test_a_server_without_its_replicas(make: Callable[..., Face], server: RedisServer, name: Key[str]) -> None:
    """`min-replicas-to-write`: NOREPLICAS is a refusal like others."""
    face = make(server.url)
    browser = signed_in(face, name)
    with server.client() as client:
        client.config_set("min-replicas-to-write", 1)
        with unavailable("refused commit: NOREPLICAS"):
            write(browser, name, "bob")
        client.config_set("min-replicas-to-write", 0)
    assert read(browser, name) == "ann"


def test_a_server_that_is_loading(make: Callable[..., Face], server: RedisServer, name: Key[str]) -> None:
    """After its start it reads what it saved: it answers that, at once. When it has read it, everything is there and goes on by itself."""
    face = make(server.url)
    browser = signed_in(face, name)
    turn = browser.open()
    turn.session[name] = "bob"
    with server.client() as client:
        client.config_set("rdbcompression", "no")
        client.eval("for i = 1, 500 do redis.call('SET', 'other ' .. i, string.rep('x', 2000)) end", 0)
        client.save()
    server.kill()
    # It looks up from its reading every 1,024 bytes, and for each key it takes 20 ms, so that this would last ten seconds.
    server.launch("--key-load-delay", "20000", "--loading-process-events-interval-bytes", "1024")
    with server.client(retry=None) as client:
        wait_for(lambda: says(client) == "loading")
        with unavailable("refused commit: LOADING (Redis|Valkey) is loading the dataset in memory"):
            turn.finish()
        for _ in range(2):
            with unavailable("refused open: LOADING (Redis|Valkey) is loading the dataset in memory"):
                browser.open()
        with unavailable("refused create: LOADING"):
            signed_in(face, name)
        client.config_set("key-load-delay", 0)
        wait_for(lambda: says(client) == "ready")
    assert read(browser, name) == "ann"  # the commit was refused, not delayed
    write(browser, name, "cid")
    assert read(browser, name) == "cid"
    signed_in(face, name)


def test_a_busy_server(make: Callable[..., Face], server: RedisServer, name: Key[str]) -> None:
    """While a script of somebody else runs for ever, the answer is BUSY; when it is killed, everything goes on."""
    face = make(server.url)
    browser = signed_in(face, name)
    with server.client() as client, server.client(socket_timeout=0.2, retry=None) as stuck:
        client.config_set("busy-reply-threshold", 1)
        with pytest.raises(redis.TimeoutError):
            stuck.eval("while true do end", 0)
        with unavailable("refused open: BUSY"):
            browser.open()
        client.script_kill()
        wait_for(lambda: says(client) == "ready")
    assert read(browser, name) == "ann"


def test_writes_that_are_paused(make: Callable[..., Face], server: RedisServer, name: Key[str]) -> None:
    """`CLIENT PAUSE`, as before a planned failover: nobody waits beyond the deadline, and when it is over everything goes on."""
    face = make(server.url)
    browser = signed_in(face, name)
    turn = browser.open()
    turn.session[name] = "bob"
    with server.client() as client:
        client.client_pause(60_000, all=False)
        with unavailable("did not answer commit within 1 s: the answer was lost, it may have been applied"):
            turn.finish()
        client.client_unpause()
    assert read(browser, name) in ("ann", "bob")
    write(browser, name, "cid")
    assert read(browser, name) == "cid"


def test_a_password_that_was_turned_on(make: Callable[..., Face], server: RedisServer, name: Key[str]) -> None:
    """Connections that are there may go on; a new one is refused, and says so."""
    face = make(server.url)
    browser = signed_in(face, name)
    with server.client() as client:
        client.config_set("requirepass", "secret")
        client.client_kill_filter(_type="normal", skipme=True)
        with unavailable("cannot be reached|NOAUTH"):
            browser.open()
        client.config_set("requirepass", "")
    assert read(browser, name) == "ann"


@pytest.mark.parametrize(
    ("policy", "warned"),
    [("noeviction", False), ("volatile-ttl", True), ("volatile-lru", True), ("allkeys-lru", True), ("allkeys-random", True)],
)
def test_an_eviction_policy_that_loses_sessions(
    make: Callable[..., Face], server: RedisServer, name: Key[str], caplog: pytest.LogCaptureFixture, policy: str, warned: bool
) -> None:
    """Said once in the log, with the first verb, in the same trip; of `volatile-*` too, since every session has a TTL."""
    with server.client() as client:
        client.config_set("maxmemory-policy", policy)
    face = make(server.url)
    signed_in(face, name)
    signed_in(face, name)
    assert [policy in record.getMessage() for record in caplog.records] == [True] * warned


def test_a_frozen_server_while_many_wait_for_a_connection(server: RedisServer) -> None:
    """More requests than one event loop may have connections: who gets a turn late has what is left of the deadline, and no other."""
    deadline = 2 * SLACK

    async def asked(store: AsyncRedisStore) -> float:
        begin = time.monotonic()
        with pytest.raises(StoreUnavailable):
            await store.open(b"x" * 16, None, IDLE, NOW)
        return time.monotonic() - begin

    async def all_asked() -> list[float]:
        store = AsyncRedisStore(server.url, deadline=deadline)
        await store.open(b"x" * 16, None, IDLE, NOW)
        server.freeze()
        return await asyncio.gather(*(asked(store) for _ in range(3 * CONNECTIONS)))

    assert max(asyncio.run(all_asked())) < deadline + SLACK


@pytest.mark.parametrize("kind", [RedisStore, AsyncRedisStore])
def test_what_cannot_be_a_redis_store_is_refused(kind: type[RedisStore] | type[AsyncRedisStore]) -> None:
    """A database that is no number, which redis-py takes for the first one; and a prefix that has no bytes."""
    for path in ("x", "0x", "0/1", "sessions?socket_timeout=1"):
        with pytest.raises(PolicyError, match="its database is no number"):
            kind(f"redis://localhost/{path}")
    for path in ("", "/", "/0", "/15?socket_timeout=1", "/?socket_timeout=1"):
        kind(f"redis://localhost{path}")
    with pytest.raises(PolicyError, match="half a character"):
        kind("redis://localhost", prefix="\ud800")


@pytest.mark.parametrize(("kind", "module"), [(RedisStore, redis), (AsyncRedisStore, redis.asyncio)])
def test_a_client_in_the_place_of_a_url(kind: Any, module: Any) -> None:
    """Is told how to give it; and a client for asyncio is told from one for threads."""
    with pytest.raises(PolicyError, match=r"expected a URL, .* not a redis\..*Redis; a client is client="):
        kind(module.Redis())
    other = redis.asyncio if module is redis else redis
    with pytest.raises(PolicyError, match=r"expected a .*, not a " + other.Redis.__module__):
        kind(client=other.Redis())


@pytest.mark.parametrize("kind", [RedisStore, AsyncRedisStore])
@pytest.mark.parametrize("password", ["open[sesame]", "[sesame", "℀sesame", "12/sesame"])
def test_a_url_that_cannot_be_read(kind: type[RedisStore] | type[AsyncRedisStore], password: str) -> None:
    """What it says never holds the password."""
    with pytest.raises(PolicyError, match=r"has to be percent-encoded|its database is no number") as caught:
        kind(f"redis://ann:{password}@localhost/0")
    assert "sesame" not in str(caught.value)
