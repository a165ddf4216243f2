"""A Redis Cluster whose nodes speak TLS, and of which one is gone for good: what is on it is missed, all else goes on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.certificates import Authority
from tests.conftest import require
from tests.faces import FACES, Face
from tests.redis_cluster_servers import RedisClusterServers
from tests.rules.scene import live
from tests.stores.faults import DEADLINE, read, signed_in, unavailable
from typed_sessions import Key, StoreUnavailable
from typed_sessions.stores.redis import AsyncRedisStore, RedisStore

pytestmark = pytest.mark.slow


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[RedisClusterServers]:
    """Its nodes go on with the slots they have when one is gone."""
    options = ("--cluster-require-full-coverage", "no")
    servers = RedisClusterServers(require("redis-server"), *options, authority=Authority(tmp_path, "ours"))
    yield servers
    servers.stop()


@pytest.mark.parametrize("kind", FACES)
def test_a_node_of_a_cluster_with_tls_is_gone(servers: RedisClusterServers, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """The sessions of the others go on, and a sweep does its part; a listing is whole or none, and says which node it is for."""
    name = Key("name", str)
    made: Any = RedisStore if kind == "sync" else AsyncRedisStore
    with closing(Face(kind, made(servers.url, deadline=DEADLINE), timeout=600)) as face:
        browsers = [signed_in(face, name) for _ in range(30)]
        assert [read(browser, name) for browser in browsers] == ["ann"] * 30
        assert len(live(face)) == 30
        for master in servers.masters:
            with master.client() as client:
                assert client.dbsize() > 0
        servers.masters[1].kill()
        there = [browser for browser in browsers if _is_there(browser, name)]
        assert 0 < len(there) < 30
        which = f"Redis at 127.0.0.1:{servers.ports[1]} "
        for _ in range(2):
            with unavailable(which):
                live(face)
            with unavailable(which):
                face.call(face.manager.end_all())
            assert [read(browser, name) for browser in there] == ["ann"] * len(there)
            assert face.call(face.manager.sweep()) == 0
        assert f"parts of a sweep could not be done: {which}" in caplog.text
        face.clock.advance(10_000)
        assert face.call(face.manager.sweep()) == len(there)


def _is_there(browser: Any, name: Key[str]) -> bool:
    try:
        return read(browser, name) == "ann"
    except StoreUnavailable:
        return False
