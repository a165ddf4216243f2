"""What the PostgreSQL stores do when the server does not, or the network: an honest answer in time, no lasting harm (S9, S12 to S14)."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import signal
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import psycopg
import pytest

from tests.conftest import require
from tests.faces import Face
from tests.postgres_server import PostgresServer
from tests.redis_server import free_port
from tests.stores.faults import DEADLINE, SLACK, read, signed_in, unavailable, write
from tests.stores.proxy import Manner, Proxy
from tests.stores.records import IDLE, NOW, found, new, started, value_of
from typed_sessions import Key, PolicyError, StoreUnavailable
from typed_sessions.changes import Changes
from typed_sessions.stores.postgres import AsyncPostgresStore, PostgresStore

pytestmark = pytest.mark.slow


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    """A server that a test may do anything to."""
    server = PostgresServer(require("postgres"))
    yield server
    server.stop()


@pytest.fixture
def durable() -> Iterator[PostgresServer]:
    """One that promises what PostgreSQL promises."""
    server = PostgresServer(require("postgres"), "fsync=on")
    yield server
    server.stop()


@pytest.fixture
def proxy(postgres_server: PostgresServer) -> Iterator[Proxy]:
    with Proxy(postgres_server.port) as proxy:
        yield proxy


def behind(proxy: Proxy) -> str:
    return f"postgresql://postgres@127.0.0.1:{proxy.port}/postgres"


def test_a_frozen_server(make: Callable[..., Face], server: PostgresServer, name: Key[str]) -> None:
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


def test_a_frozen_server_and_one_connection(server: PostgresServer) -> None:
    """Who waits for the only connection, which waits for the server, waits no longer than the deadline (both are told why)."""
    store = PostgresStore(server.url, deadline=DEADLINE, max_connections=1)
    record = started(store)
    server.freeze()
    said: list[str] = []

    def look() -> None:
        begin = time.monotonic()
        with pytest.raises(StoreUnavailable) as caught:
            found(store, record)
        assert time.monotonic() - begin < DEADLINE + SLACK
        said.append(str(caught.value))

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    server.thaw()
    assert any("did not answer open within 1 s" in text for text in said)
    # Who has got the connection in the last moment says that it could not be reached any more.
    assert all("did not answer" in text or "all 1 connections" in text or "cannot be reached" in text for text in said)
    assert value_of(found(store, record)) == b"0"
    store.close()


def test_a_frozen_server_and_one_connection_in_a_loop(server: PostgresServer) -> None:
    """The same for asyncio: the loop goes on, and nobody waits longer than the deadline."""

    async def look() -> None:
        store = AsyncPostgresStore(server.url, deadline=DEADLINE, max_connections=1)
        record = new()
        assert await store.create(record, NOW) == "created"
        server.freeze()
        begin = time.monotonic()
        said = await asyncio.gather(*(store.open(record.locator, None, IDLE, NOW) for _ in range(4)), return_exceptions=True)
        assert time.monotonic() - begin < DEADLINE + SLACK
        assert all(isinstance(one, StoreUnavailable) for one in said)
        assert sum("all 1 connections to PostgreSQL" in str(one) for one in said) >= 2
        server.thaw()
        assert await store.open(record.locator, None, IDLE, NOW) is not None
        await store.close()

    asyncio.run(look())


def test_a_killed_server(make: Callable[..., Face], durable: PostgresServer, name: Key[str]) -> None:
    """Nobody listens: that is said at once. When a server does again, it is found, and every acknowledged commit is there."""
    face = make(durable.url)
    browser = signed_in(face, name)
    durable.kill()
    for _ in range(3):
        with unavailable("nothing was sent|broke the connection"):
            browser.open()
    durable.start()
    assert read(browser, name) == "ann"
    durable.restart()
    assert read(browser, name) == "ann"  # the connection that was closed meanwhile is nobody's trouble


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT])
def test_a_server_that_is_shut_down(make: Callable[..., Face], durable: PostgresServer, name: Key[str], how: signal.Signals) -> None:
    """Fast or immediate, in the middle of a request: said at once; after the next start everything acknowledged is there."""
    face = make(durable.url)
    browser = signed_in(face, name)
    turn = browser.open()
    turn.session[name] = "bob"
    durable.shut_down(how)
    with unavailable("cannot be reached: .*nothing was sent"):
        turn.finish()
    with unavailable("cannot be reached: .*nothing was sent"):
        browser.open()
    durable.start()
    assert read(browser, name) == "ann"


def test_a_killed_backend(make: Callable[..., Face], server: PostgresServer, name: Key[str]) -> None:
    """An administrator ends every connection: idle ones are replaced without a word."""
    face = make(server.url)
    browser = signed_in(face, name)
    for _ in range(3):
        server.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )
        give_up = time.monotonic() + 10
        while server.execute("SELECT 1 FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"):
            assert time.monotonic() < give_up
        write(browser, name, "bob")
        assert read(browser, name) == "bob"


def test_a_backend_killed_under_a_commit(make: Callable[..., Face], server: PostgresServer, name: Key[str]) -> None:
    """While it waits for a lock that somebody else holds: nobody knows, and it is not said twice."""
    face = make(server.url)
    browser = signed_in(face, name)
    turn = browser.open()
    turn.session[name] = "bob"
    with server.client() as other:
        other.execute("BEGIN")
        other.execute("SELECT 1 FROM typed_sessions.session FOR UPDATE")

        def kill() -> None:
            give_up = time.monotonic() + 10
            while time.monotonic() < give_up:
                if server.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"):
                    return

        thread = threading.Thread(target=kill)
        thread.start()
        with unavailable("broke the connection during commit: the answer was lost, it may have been applied, and is not repeated"):
            turn.finish()
        thread.join()
        other.execute("ROLLBACK")
    assert read(browser, name) == "ann"


def test_a_row_that_somebody_has_locked(make: Callable[..., Face], server: PostgresServer, name: Key[str]) -> None:
    """Reading goes on, writing waits no longer than the deadline, sweeps pass over it, and other sessions are not concerned."""
    face = make(server.url)
    browser = signed_in(face, name)
    with server.client() as other:
        other.execute("BEGIN")
        other.execute("SELECT 1 FROM typed_sessions.session FOR UPDATE")
        assert read(browser, name) == "ann"
        with unavailable("refused commit: canceling statement due to lock timeout"):
            write(browser, name, "bob")
        another = signed_in(face, name)
        write(another, name, "bob")
        face.clock.advance(1_000)
        assert face.call(face.manager.sweep()) == 1
        other.execute("ROLLBACK")
    assert face.call(face.manager.sweep()) == 1


def test_no_connection_is_left(make: Callable[..., Face], server: PostgresServer, name: Key[str]) -> None:
    """`max_connections` of the server: a refusal that says so, at once."""
    face = make(server.url)
    browser = signed_in(face, name)
    face.call(face.store.close())
    most = int(server.execute("SHOW max_connections")[0][0])
    held: list[psycopg.Connection[Any]] = []
    try:
        with suppress(psycopg.OperationalError):
            for _ in range(most + 1):
                held.append(server.client())
        assert len(held) <= most
        with unavailable("cannot be reached: .*too many clients|cannot be reached: .*remaining connection slots"):
            browser.open()
    finally:
        for connection in held:
            connection.close()
    give_up = time.monotonic() + 10
    while True:  # the server takes a moment to see that they have gone
        try:
            assert read(browser, name) == "ann"
            return
        except StoreUnavailable:
            assert time.monotonic() < give_up


def test_a_read_only_server(make: Callable[..., Face], server: PostgresServer, name: Key[str]) -> None:
    """As on a standby: reading goes on, a write is refused and not half done, and the next verb makes a new connection."""
    face = make(server.url)
    browser = signed_in(face, name)
    server.execute("ALTER ROLE postgres SET default_transaction_read_only = on")
    face.call(face.store.close())
    assert read(browser, name) == "ann"
    with unavailable("refused commit: .*read-only"):
        write(browser, name, "bob")
    server.execute("SET default_transaction_read_only = off")
    server.execute("ALTER ROLE postgres RESET default_transaction_read_only")
    write(browser, name, "cid")
    assert read(browser, name) == "cid"


@pytest.mark.parametrize(
    ("manner", "words"),
    [
        ("mute", "did not answer commit within 1 s: the answer was lost"),
        ("cut", "broke the connection during commit: the answer was lost"),
        ("dribble", "did not answer commit within 1 s: the answer was lost"),
    ],
)
def test_an_answer_that_does_not_come(proxy: Proxy, make: Callable[..., Face], name: Key[str], manner: Manner, words: str) -> None:
    """The server has done it and nobody hears of it: the caller is told that it may have been, and it has been done once."""
    face = make(behind(proxy))
    visits = Key("visits", int)
    browser = signed_in(face, name)
    write(browser, name, "ann")
    turn = browser.open()
    turn.session.update(visits, lambda n: n + 1, default=0)
    proxy.manner = manner
    with unavailable(words):
        turn.finish()
    proxy.manner = "pass"
    turn = browser.open()
    assert turn.session[visits] == 1
    turn.finish()


@pytest.mark.parametrize("manner", ["mute", "dribble"])
def test_a_sign_in_that_does_not_come(proxy: Proxy, make: Callable[..., Face], name: Key[str], manner: Manner) -> None:
    """The first steps on a new connection are within the deadline too, however slowly each of them comes."""
    face = make(behind(proxy))
    proxy.manner = manner
    with unavailable("cannot be reached: it took longer than 1 s; nothing was sent"):
        face.browser().open(create=True).finish()
    proxy.manner = "pass"
    signed_in(face, name)


@pytest.mark.parametrize("options", ["&connect_timeout=2", ""])
def test_one_of_several_hosts_is_gone(
    proxy: Proxy, postgres_server: PostgresServer, make: Callable[..., Face], name: Key[str], options: str
) -> None:
    """It does not answer, and the next one is asked while there is time; a URL may say how long each is waited for."""
    hosts = ",".join(f"127.0.0.1:{port}" for port in (proxy.port, postgres_server.port))
    proxy.manner = "mute"
    face = make(f"postgresql://postgres@{hosts}/postgres?target_session_attrs=read-write{options}", deadline=30 if options else 5)
    begin = time.monotonic()
    browser = signed_in(face, name)
    assert time.monotonic() - begin < 2 + SLACK
    begin = time.monotonic()
    assert read(browser, name) == "ann"
    assert time.monotonic() - begin < SLACK


def test_nobody_listens(make: Callable[..., Face]) -> None:
    """Said at once, with what the system says, and without the password."""
    face = make(f"postgresql://ann:sesame@127.0.0.1:{free_port()}/app", deadline=5)
    begin = time.monotonic()
    with pytest.raises(StoreUnavailable, match=r"cannot be reached: .*refused") as caught:
        face.browser().open(create=True).finish()
    assert time.monotonic() - begin < 2
    assert "sesame" not in str(caught.value) + repr(face.store)


def test_connections_that_went_silent(make: Callable[..., Face], server: PostgresServer) -> None:
    """What is between has forgotten them while they were idle: one request is refused, not one for each of them."""
    face = make(f"{server.url}?application_name=silent")
    store, record = face.store, new()
    assert face.call(store.create(record, NOW)) == "created"
    face.call(store.close())

    def commit() -> Any:
        return store.commit(record.locator, Changes(), IDLE, NOW)

    async def gathered() -> list[Any]:
        return await asyncio.gather(*(commit() for _ in range(4)))

    with server.client() as other, ThreadPoolExecutor(4) as threads:
        other.execute("BEGIN")
        other.execute("SELECT 1 FROM typed_sessions.session FOR UPDATE")
        under_way = [threads.submit(commit) for _ in range(4)] if face.loop is None else [threads.submit(face.call, gathered())]
        server.until_waiting(4)
        other.execute("ROLLBACK")
        for one in under_way:
            one.result()
    idle = [process for (process,) in server.execute("SELECT pid FROM pg_stat_activity WHERE application_name = 'silent'")]
    assert len(idle) == 4
    for process in idle:
        os.kill(process, signal.SIGSTOP)
    with unavailable("did not answer open within 1 s"):
        face.call(store.open(record.locator, None, IDLE, NOW))
    for _ in range(4):
        assert value_of(face.call(store.open(record.locator, None, IDLE, NOW))) == b"0"


@pytest.mark.skipif(not hasattr(socket, "TCP_KEEPIDLE") or not os.path.isdir("/proc/self/fd"), reason="looks at sockets as Linux has them")
@pytest.mark.parametrize(("options", "seconds"), [("", 30), ("?keepalives_idle=77", 77)])
def test_the_system_looks_after_idle_connections(
    make: Callable[..., Face], postgres_server: PostgresServer, options: str, seconds: int
) -> None:
    """It asks soon whether the other end is still there, unless the URL says when."""

    def kept_alive() -> list[int]:
        found: list[int] = []
        for descriptor in map(int, os.listdir("/proc/self/fd")):
            with suppress(OSError):  # that of the folder itself is closed by now
                if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                    with socket.socket(fileno=os.dup(descriptor)) as one:
                        if one.family == socket.AF_INET and one.getpeername()[1] == postgres_server.port:
                            found.append(one.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE))
        return found

    face = make(postgres_server.url + options)
    gc.collect()  # connections of other tests must not go meanwhile
    before = kept_alive().count(seconds)
    face.call(face.store.open(bytes(16), None, IDLE, NOW))
    assert kept_alive().count(seconds) == before + 1


def test_a_cancelled_request(server: PostgresServer) -> None:
    """What was under way for one request never comes to another: its connection is not used again (R4, redis-py's CVE-2023-28859)."""

    async def work() -> None:
        store = AsyncPostgresStore(server.url, max_connections=2)
        first, second = new(b"first"), new(b"second")
        for record in (first, second):
            assert await store.create(record, NOW) == "created"
        for step in range(40):
            under_way = asyncio.ensure_future(store.open(first.locator, None, IDLE, NOW))
            for _ in range(step % 8):
                await asyncio.sleep(0)
            under_way.cancel()
            assert value_of(await store.open(second.locator, None, IDLE, NOW)) == b"second"
            with suppress(asyncio.CancelledError):
                assert value_of(await under_way) == b"first"
        await store.close()

    asyncio.run(work())


def _look(store: PostgresStore, record: Any, answers: Any) -> None:
    answers.put([value_of(found(store, record)) for _ in range(20)])
    answers.close()
    answers.join_thread()


def test_a_fork(server: PostgresServer) -> None:
    """A child makes connections of its own; parent and child never get each other's answers (R7)."""
    store = PostgresStore(server.url)
    mine, theirs = started(store, b"mine"), started(store, b"theirs")
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    child = context.Process(target=_look, args=(store, theirs, answers))
    child.start()
    assert [value_of(found(store, mine)) for _ in range(20)] == [b"mine"] * 20
    assert answers.get(timeout=20) == [b"theirs"] * 20
    child.join(20)
    assert value_of(found(store, mine)) == b"mine"
    store.close()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"deadline": 0}, "deadline=0.: expected a number of seconds above 0"),
        ({"schema": "Robert'); DROP"}, "expected lower-case letters"),
        ({"max_keys": 0}, "max_keys=0.: expected a whole number"),
        ({"max_connections": True}, "max_connections=True.: expected a whole number"),
    ],
)
def test_wrong_options(options: dict[str, Any], words: str) -> None:
    """They raise at once, and say what was expected."""
    with pytest.raises(PolicyError, match=words):
        PostgresStore("postgresql://localhost/app", **options)


def test_a_wrong_url() -> None:
    """What it says never holds the password, nor what is left of it behind an '@' in it, which libpq takes for the host."""
    with pytest.raises(PolicyError, match="expected postgresql://user:password@host") as caught:
        AsyncPostgresStore("postgresql://ann:sesame@local host:port:/app")
    assert "sesame" not in str(caught.value)
    with pytest.raises(PolicyError, match="has to be percent-encoded") as caught:
        AsyncPostgresStore("postgresql://ann:open@sesame@localhost/app")
    assert "sesame" not in str(caught.value)
    assert "localhost" in repr(AsyncPostgresStore("postgresql://ann:open%40sesame@localhost/app"))
