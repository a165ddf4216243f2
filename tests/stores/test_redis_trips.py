"""Round trips of the Redis stores, counted at the wire (§5 of the design): a contract, not a measurement."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.faces import FACES, Face
from tests.redis_server import RedisServer
from tests.stores.proxy import Proxy
from typed_sessions import End, Key, ListKey
from typed_sessions.stores.redis import AsyncRedisStore, RedisStore


@pytest.fixture(params=FACES)
def scene(request: pytest.FixtureRequest, redis_server: RedisServer) -> Iterator[tuple[Face, Callable[[], int]]]:
    """A face behind a proxy, on a connection that is there, with scripts that the server knows; and the trips since the last question."""
    with Proxy(redis_server.port) as proxy:
        make: Any = RedisStore if request.param == "sync" else AsyncRedisStore
        face = Face(request.param, make(proxy.url, prefix=f"trips {proxy.port}"))

        def trips() -> int:
            turns, proxy.turns = proxy.turns, 0
            return turns

        for _ in range(2):
            browser = face.browser()
            with browser.visit() as session:
                session[Key("warm", int)] = 1
            with browser.visit() as session:
                session[Key("warm", int)] = 2
            with browser.visit() as session:
                session.end()
        face.call(face.manager.sweep())
        trips()
        yield face, trips
        face.close()


def test_trips_of_requests(scene: tuple[Face, Callable[[], int]]) -> None:
    """None without a cookie or a look, one to read or create, two to write, end or renew; a conflict costs one more."""
    face, trips = scene
    name, facts, visits = Key("name", str), ListKey("facts", str), Key("visits", int)
    browser = face.browser()
    with browser.visit() as session:
        assert session.get(name) is None
    assert trips() == 0
    with browser.visit() as session:
        session[name], session[visits] = "ann", 0
    assert trips() == 1
    for _ in range(2):  # the first of them writes the use
        with browser.visit() as session:
            assert session[name] == "ann"
        assert trips() == 1
    face.clock.advance(61)
    with face.browser().visit() as session:  # a request that happens to clear up
        assert not session.exists
    trips()
    with browser.visit() as session:
        assert session[name] == "ann"
    assert trips() == 1
    with browser.visit() as session:
        session[name] = "bob"
        session[facts].append("fact")
        session.update(visits, lambda n: n + 1)
    assert trips() == 2
    first, second = browser.open(), browser.open()
    for turn in (first, second):
        turn.session.update(visits, lambda n: n + 1)
    trips()
    first.finish()
    assert trips() == 1
    second.finish()
    assert trips() == 2
    with browser.visit() as session:
        session.renew()
    assert trips() == 2
    with browser.visit() as session:
        assert session[visits] == 3
        trips()
        session.end()
    assert trips() == 1


def test_trips_of_a_sweep(scene: tuple[Face, Callable[[], int]]) -> None:
    """One to look into all buckets, one more for what is due there, however much; one for each session whose hooks have run."""
    face, trips = scene
    ends: list[str] = []

    def heard(event: End) -> None:
        ends.append(event.reason)

    face.manager.on(End, heard)
    assert face.call(face.manager.sweep()) == 0
    assert trips() == 1
    for _ in range(20):
        with face.browser().visit() as session:
            session[Key("name", str)] = "ann"
    face.clock.advance(600)
    with face.browser().visit() as session:
        session[Key("hooked", str, cleanup_delete=lambda _: None)] = "x"
    trips()
    face.clock.advance(60)
    assert face.call(face.manager.sweep()) == 20
    assert trips() == 2
    face.clock.advance(600)
    assert face.call(face.manager.sweep()) == 1
    assert trips() == 3
    assert len(ends) == 21
