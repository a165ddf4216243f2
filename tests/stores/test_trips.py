"""Round trips of the stores that have a server, counted at the wire (§5): a contract, not a measurement."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import copy
from typing import Any

import pytest

from tests.faces import EVERY_STORE, FACES, SERVED, Face
from tests.stores.proxy import Proxy
from typed_sessions import End, Key, ListKey

SWEEPS = {"redis": (1, 2, 3), "postgres": (1, 1, 2)}
"""Trips of a sweep that finds nothing, that ends sessions, and that ends one whose hooks run."""


@pytest.fixture(params=[f"{store}-{kind}" for store in sorted(SERVED) for kind in FACES])
def scene(request: pytest.FixtureRequest) -> Iterator[tuple[Face, Callable[[], int]]]:
    """A face behind a proxy, on a connection that is there, with scripts that the server knows; and the trips since the last question."""
    store, kind = request.param.split("-")
    server = request.getfixturevalue(f"{store}_server")
    with Proxy(server.port) as proxy:
        if store == "postgres":
            server.empty()  # not through the proxy
        behind: Any = copy(server)
        behind.url = server.url.replace(str(server.port), str(proxy.port))
        face = Face(kind, EVERY_STORE[store](behind, kind))

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
            with face.browser().visit() as session:
                session[Key("hooked warm", int, cleanup_delete=print)] = 1
            face.clock.advance(1_000)
            face.call(face.manager.sweep())
        with face.browser().visit() as session:  # a request that happens to clear up
            assert not session.exists
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


def test_trips_of_a_sweep(scene: tuple[Face, Callable[[], int]], request: pytest.FixtureRequest) -> None:
    """One to look, in Redis one more for what is due there, however much; one for each session whose hooks have run."""
    face, trips = scene
    nothing, some, hooked = SWEEPS[request.node.callspec.params["scene"].split("-")[0]]
    ends: list[str] = []

    def heard(event: End) -> None:
        ends.append(event.reason)

    face.manager.on(End, heard)
    assert face.call(face.manager.sweep()) == 0
    assert trips() == nothing
    for _ in range(20):
        with face.browser().visit() as session:
            session[Key("name", str)] = "ann"
    face.clock.advance(600)
    with face.browser().visit() as session:
        session[Key("hooked", str, cleanup_delete=lambda _: None)] = "x"
    trips()
    face.clock.advance(60)
    assert face.call(face.manager.sweep()) == 20
    assert trips() == some
    face.clock.advance(600)
    assert face.call(face.manager.sweep()) == 1
    assert trips() == hooked
    assert len(ends) == 21
