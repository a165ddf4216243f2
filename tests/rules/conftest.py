"""What the tests of rules share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faces import FACES, Face
from tests.rules.restarts import Server
from typed_sessions import Key, MemoryStore


@pytest.fixture
def name() -> Key[str]:
    return Key("name", str)


@pytest.fixture
def server(face: Face, tmp_path: Path) -> Server:
    return Server(face, tmp_path)


@pytest.fixture(params=FACES)
def memory_face(request: pytest.FixtureRequest) -> Iterator[Face]:
    """A face on the one store that snapshots are for."""
    face = Face(request.param, MemoryStore())
    yield face
    face.close()
