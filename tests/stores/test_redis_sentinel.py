"""`client=` of a Redis Sentinel: the store finds the master, and after a failover the new one, by itself (S8, S12 to S14)."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis.asyncio.sentinel
import redis.sentinel

from tests.conftest import require
from tests.faces import Face
from tests.redis_server import PATIENCE
from tests.sentinel_server import SERVICE, SentinelServer
from tests.stores.faults import DEADLINE, SLACK, read, signed_in, unavailable, write
from typed_sessions import Key, StoreUnavailable

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def sentinel() -> Iterator[SentinelServer]:
    sentinel = SentinelServer(require("redis-server"))
    yield sentinel
    sentinel.stop()


@pytest.fixture
def of(make: Callable[..., Face], kind: str, sentinel: SentinelServer) -> Iterator[Callable[[str], Face]]:
    """A face for the master of this name, as in the README: nobody but the store keeps the client."""
    made: list[tuple[Face, Any]] = []

    def make_face(service: str) -> Face:
        module: Any = redis.sentinel if kind == "sync" else redis.asyncio.sentinel
        # Far beyond the deadline, so that it is the deadline which a frozen sentinel runs into.
        asked = module.Sentinel([("127.0.0.1", sentinel.port)], socket_timeout=PATIENCE)
        face = make(None, client=asked.master_for(service))
        gc.collect()
        made.append((face, asked))
        return face

    yield make_face
    for face, asked in made:
        for client in asked.sentinels:
            face.call(client.close() if kind == "sync" else client.aclose())


@pytest.fixture
def face(of: Callable[[str], Face], sentinel: SentinelServer) -> Face:
    sentinel.settle()
    return of(SERVICE)


def replicate(sentinel: SentinelServer) -> None:
    """Wait until the replica has what the master has acknowledged."""
    with sentinel.master.client() as client:
        assert client.wait(1, int(PATIENCE * 1_000)) == 1


def go_on(work: Callable[[], object]) -> None:
    """Try until it succeeds; whatever it raises before is `StoreUnavailable`, within the deadline."""
    give_up = time.monotonic() + PATIENCE
    while time.monotonic() < give_up:
        begin = time.monotonic()
        try:
            work()
            return
        except StoreUnavailable:
            assert time.monotonic() - begin < DEADLINE + SLACK
            time.sleep(0.01)
    raise AssertionError("the store does not recover by itself")


def test_everyday(face: Face, name: Key[str]) -> None:
    """Sign in, write, renew, list, sign out, sweep."""
    browser = signed_in(face, name)
    write(browser, name, "bob")
    with browser.visit() as session:
        session.renew()
    assert read(browser, name) == "bob"
    assert len(face.call(face.manager.all())) == 1
    with signed_in(face, name).visit() as session:
        session.end()
    face.clock.advance(660)
    assert face.call(face.manager.sweep()) == 1
    assert repr(face.store).endswith(f"the master '{SERVICE}' of the sentinels,>")


def test_a_failover(face: Face, sentinel: SentinelServer, name: Key[str]) -> None:
    """`SENTINEL FAILOVER`, while requests go on: what the replica had is there, what was ended is not, and writing goes on."""
    browser, ended = signed_in(face, name), signed_in(face, name)
    copy = ended.copy()
    with ended.visit() as session:
        session.end()
    replicate(sentinel)
    before = sentinel.master
    assert sentinel.ask("FAILOVER", SERVICE) == b"OK"
    give_up = time.monotonic() + PATIENCE
    while sentinel.master is before:
        assert time.monotonic() < give_up
        go_on(lambda: read(browser, name))
    sentinel.settle()
    go_on(lambda: write(browser, name, "bob"))
    assert read(browser, name) == "bob"
    assert read(copy, name) is None
    with sentinel.master.client() as client:
        assert sum(1 for _ in client.scan_iter(f"{{{face.store.prefix}:*:s:*")) == 1  # it is the new one that has it
    signed_in(face, name)


def test_a_killed_master(face: Face, sentinel: SentinelServer, name: Key[str]) -> None:
    """Until the replica has taken over, errors that are in time; what it had is there; and the killed one comes back as a replica."""
    browser = signed_in(face, name)
    replicate(sentinel)
    killed = sentinel.master
    killed.kill()
    with unavailable("cannot be reached"):
        browser.open()
    go_on(lambda: write(browser, name, "bob"))
    assert read(browser, name) == "bob"
    assert sentinel.master is not killed
    killed.start()
    sentinel.settle()
    assert read(browser, name) == "bob"


def test_a_master_whose_replica_has_gone(face: Face, sentinel: SentinelServer, name: Key[str]) -> None:
    """Refused with NOREPLICAS, as a master is that has been replaced: the next verb asks the sentinel who it is now."""
    browser = signed_in(face, name)
    with sentinel.master.client() as client:
        client.config_set("min-replicas-to-write", 2)
        before = int(client.info("stats")["total_connections_received"])
        with unavailable("refused commit: NOREPLICAS"):
            write(browser, name, "bob")
        client.config_set("min-replicas-to-write", 0)
        write(browser, name, "cid")
        assert int(client.info("stats")["total_connections_received"]) > before
    assert read(browser, name) == "cid"


def test_no_sentinel(face: Face, sentinel: SentinelServer, name: Key[str]) -> None:
    """Frozen: connections that are there go on; a new one is given up at the deadline."""
    browser = signed_in(face, name)
    sentinel.freeze()
    assert read(browser, name) == "ann"
    face.call(face.store.close())
    try:
        with unavailable("the master 'shop' of the sentinels, cannot be reached: it took longer than 1 s; nothing was sent"):
            browser.open()
    finally:
        sentinel.thaw()
    go_on(lambda: read(browser, name))
    assert read(browser, name) == "ann"


def test_another_name(of: Callable[[str], Face], name: Key[str]) -> None:
    """A service that no sentinel knows."""
    face = of("shopp")
    with unavailable("cannot be reached: No master found for 'shopp'"):
        signed_in(face, name)
