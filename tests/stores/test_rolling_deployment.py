"""A rolling deployment: an older and a newer release, each a process of its own, on one store, and nothing is lost in either direction."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent.parent
PROGRAM = str(Path(__file__).with_name("rolling_process.py"))
TIMES = 100


class Release:
    """A process that answers one visitor's requests; `visitor` is that one's cookies."""

    def __init__(self, url: str, name: str, visitor: dict[str, str]) -> None:
        self._visitor = visitor
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", PROGRAM, url, name],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def begin(self, action: str, value: Any = None, times: int = 1) -> None:
        """Have it answer requests, and go on."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([self._visitor, action, value, times]) + "\n")
        self.process.stdin.flush()

    def end(self) -> Any:
        """What the last of them gave."""
        assert self.process.stdout is not None
        cookies, answer = json.loads(self.process.stdout.readline())
        self._visitor.update(cookies)
        return answer

    def do(self, action: str, value: Any = None, times: int = 1) -> Any:
        self.begin(action, value, times)
        return self.end()

    def sees(self) -> dict[str, Any]:
        seen: dict[str, Any] = self.do("see")
        return seen


@pytest.fixture
def releases(store_url: str) -> Iterator[tuple[Release, Release]]:
    visitor: dict[str, str] = {}
    with ExitStack() as stack:
        made: list[Release] = []
        for name in ("older", "newer"):
            made.append(Release(store_url, name, visitor))
            stack.enter_context(made[-1].process)
        older, newer = made
        yield older, newer
        for release in made:
            assert release.process.stdin is not None
            release.process.stdin.close()
            assert release.process.wait(timeout=60) == 0


def test_a_visitor_who_goes_from_one_release_to_the_other(releases: tuple[Release, Release]) -> None:
    """Request by request: what either has written the other goes on with, what only one knows the other carries through."""
    older, newer = releases
    older.do("own", "of the older")
    newer.do("own", "of the newer")
    older.do("call", "Ada Lovelace")
    for release in (older, newer, newer, older, newer):
        release.do("count")
        release.do("put", "pen")
    assert older.sees() == {"visits": 5, "own": "of the older", "cart": ["pen"] * 5, "profile": {"name": "Ada Lovelace"}}
    assert newer.sees() == {"visits": 5, "own": "of the newer", "cart": ["pen"] * 5, "profile": {"first": "Ada", "last": "Lovelace"}}


def test_what_one_release_deletes_is_gone_for_the_other(releases: tuple[Release, Release]) -> None:
    """Under both of its names, in both directions."""
    for one, other in (releases, releases[::-1]):
        one.do("count", times=3)
        assert other.sees()["visits"] == 3
        other.do("forget")
        assert (one.sees()["visits"], other.sees()["visits"]) == (None, None)


def test_a_newer_version_outlives_older_code(releases: tuple[Release, Release]) -> None:
    """Older code sees no profile of the newer version, writes around it, and the newer code finds it when it is its turn."""
    older, newer = releases
    newer.do("call", "Ada Lovelace")
    for _ in range(3):
        assert older.sees()["profile"] is None
        older.do("count")
        older.do("put", "pen")
        older.do("own", "of the older")
    assert newer.sees()["profile"] == {"first": "Ada", "last": "Lovelace"}


def test_both_at_once_count_every_request(releases: tuple[Release, Release]) -> None:
    """A counter that was renamed, and a cart of another name and shape: what both have added adds up."""
    older, newer = releases
    older.do("count")
    for release in releases:
        release.begin("count", times=TIMES)
    for release in releases:
        release.end()
    older.begin("put", "pen", TIMES)
    newer.begin("put", "ink", TIMES)
    older.end()
    newer.end()
    for seen in (older.sees(), newer.sees()):
        assert seen["visits"] == 1 + 2 * TIMES
        assert seen["cart"] == ["ink"] * TIMES + ["pen"] * TIMES
