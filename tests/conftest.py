"""What every test shares: how much Hypothesis draws, and which programs of this machine the tests may use.

A test that needs a browser or a server calls `require`. On a developer's machine a missing program skips the test, with the reason in
the summary; where `CI` is set it fails, so that nothing is left out in silence.
"""

from __future__ import annotations

import glob
import os
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import pytest
from hypothesis import settings

from tests.faces import FACES, SERVED, STORES, Face
from tests.postgres_server import PostgresServer
from tests.redis_server import RedisServer
from typed_sessions.testing import isolated_keys

IN_CI = os.environ.get("CI", "").lower() not in ("", "0", "false")

# What a program may be called, the likeliest first. A pattern is for what systems install outside PATH.
TOOLS = {
    "git": ("git",),
    "chromium": ("chromium", "chromium-browser", "google-chrome"),
    "chromedriver": ("chromedriver",),
    "redis-server": ("redis-server", "valkey-server"),
    "postgres": ("postgres", "/usr/lib/postgresql/*/bin/postgres"),
    "pgbouncer": ("pgbouncer", "/usr/sbin/pgbouncer"),
    "prlimit": ("prlimit",),
}

settings.register_profile("dev", print_blob=True)
settings.register_profile("ci", derandomize=True, deadline=None, print_blob=True)
settings.register_profile("long", max_examples=20_000, deadline=None, print_blob=True)
settings.load_profile("ci" if IN_CI else "dev")


def find(tool: str) -> str | None:
    """The path of a program named in `TOOLS`, or None."""
    for name in TOOLS[tool]:
        for candidate in sorted(glob.glob(name), reverse=True) if "*" in name else [name]:
            if path := shutil.which(candidate):
                return path
    return None


def unavailable(what: str) -> NoReturn:
    """Skip the test for want of `what`; fail it in CI."""
    if IN_CI:
        pytest.fail(f"needs {what}, which is not here, and in CI nothing may be skipped", pytrace=False)
    pytest.skip(f"needs {what}, which is not here")


def require(tool: str) -> str:
    """The path of a program named in `TOOLS`; without it the test is skipped, or fails in CI."""
    return find(tool) or unavailable(tool)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Choose the seed here, before Hypothesis looks for one, so that the header can print it; and take SIGINT for what it is.

    Who is started in a shell's background ignores it, and would pass that on to the programs that tests interrupt.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    profile = config.getoption("--hypothesis-profile") or ("ci" if IN_CI else "dev")
    if profile != "ci" and config.getoption("--hypothesis-seed") is None:
        config.option.hypothesis_seed = str(random.getrandbits(64))


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Say which programs were found and how to draw the same examples again."""
    seed = config.getoption("--hypothesis-seed")
    found = ", ".join(f"{tool} {find(tool) or 'not found'}" for tool in TOOLS)
    return [f"programs: {found}", f"examples: {'the same every time' if seed is None else f'--hypothesis-seed={seed}'}"]


@pytest.fixture(autouse=True)
def forget_keys() -> Iterator[None]:
    """Keys that a test declares are forgotten after it, so that another test can use their names."""
    with isolated_keys():
        yield


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test with a face runs on every store and both managers, or on the stores that it is marked with."""
    if "make_face" in metafunc.fixturenames:
        marker = metafunc.definition.get_closest_marker("stores")
        stores = STORES if marker is None else [name for name in marker.args if name in STORES]
        metafunc.parametrize("make_face", [f"{store}-{kind}" for store in stores for kind in FACES], indirect=True)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A redis-server for all tests that leave it as it is; each uses a prefix of its own."""
    server = RedisServer(require("redis-server"))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A PostgreSQL server for all tests that leave it as it is."""
    server = PostgresServer(require("postgres"))
    yield server
    server.stop()


@pytest.fixture
def make_face(request: pytest.FixtureRequest) -> Iterator[Callable[..., Face]]:
    """Make faces (see `tests.faces`) for every store and both managers; they are closed after the test."""
    store, _, kind = request.param.rpartition("-")
    made: list[Face] = []

    def make(*, store_options: dict[str, Any] | None = None, **options: Any) -> Face:
        served = (request.getfixturevalue(f"{store}_server"), kind) if store in SERVED else ()
        face = Face(kind, STORES[store](*served, **(store_options or {})), **options)
        made.append(face)
        return face

    yield make
    for face in made:
        face.close()


@pytest.fixture
def face(make_face: Callable[..., Face]) -> Face:
    """A face with the default options."""
    return make_face()
