"""What the tests of stores share."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faces import FACES, Face
from tests.stores.faults import DEADLINE
from typed_sessions import Key
from typed_sessions.stores.postgres import AsyncPostgresStore, PostgresStore
from typed_sessions.stores.redis import AsyncRedisStore, RedisStore

_names = itertools.count()


@pytest.fixture(params=["sqlite", "redis", "postgres"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A shared store, by its URL, with room for a long list."""
    options = "max_bytes=100000000&deadline=30"
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/sessions.db?{options}"
        return
    server = request.getfixturevalue(f"{request.param}_server")
    mine = f"together_{os.getpid()}_{next(_names)}"
    if request.param == "redis":
        yield f"{server.url}?prefix={mine}&{options}"
        return
    store = PostgresStore(server.url, schema=mine)
    store.create_schema()
    store.close()
    yield f"{server.url}?schema={mine}&{options}"
    server.execute(f"DROP SCHEMA {mine} CASCADE")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Of a SQLiteStore's file."""
    return tmp_path / "sessions.db"


@pytest.fixture(params=FACES)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def make(kind: str) -> Iterator[Callable[..., Face]]:
    """Make faces, of this kind, for a store on a server: by its URL, or with `client=` on Redis. They are closed after the test."""
    made: list[Face] = []

    def make_face(url: str | None, **options: Any) -> Face:
        make_store: Any
        if url is not None and url.startswith("postgresql:"):
            make_store = PostgresStore if kind == "sync" else AsyncPostgresStore
        else:
            make_store = RedisStore if kind == "sync" else AsyncRedisStore
            options = {"prefix": f"faults {next(_names)}", **options}
        face = Face(kind, make_store(*(() if url is None else (url,)), **{"deadline": DEADLINE, **options}))
        made.append(face)
        return face

    yield make_face
    for face in made:
        face.close()


@pytest.fixture
def name() -> Key[str]:
    return Key("name", str)
