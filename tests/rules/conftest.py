"""What the tests of rules share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faces import Face
from tests.rules.restarts import Server
from typed_sessions import Key


@pytest.fixture
def name() -> Key[str]:
    return Key("name", str)


@pytest.fixture
def server(face: Face, tmp_path: Path) -> Server:
    return Server(face, tmp_path)
