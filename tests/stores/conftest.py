"""What the tests of stores share."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from typed_sessions.stores.postgres import PostgresStore

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
