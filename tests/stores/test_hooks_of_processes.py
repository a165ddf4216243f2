"""Clean-up hooks where several processes share a store: one of them runs them, and if it dies, another does (rule 13)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent.parent
PROGRAM = str(Path(__file__).with_name("hooks_process.py"))


class Application:
    """Its processes, one after the other; `released` is what the hook has written."""

    def __init__(self, url: str, file: Path) -> None:
        self._url = url
        self._file = file

    def start(self, seconds: float, action: str, *handle: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-W", "error", PROGRAM, self._url, str(self._file), str(seconds), action, *handle],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def run(self, seconds: float, action: str, *handle: str) -> list[str]:
        """What the process says, which comes to its end by itself."""
        process = self.start(seconds, action, *handle)
        said, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        return said.splitlines()

    @property
    def released(self) -> list[str]:
        return self._file.read_text("utf-8").splitlines() if self._file.exists() else []


@pytest.fixture
def application(store_url: str, tmp_path: Path) -> Application:
    return Application(store_url, tmp_path / "released")


def test_one_of_them_runs_the_hooks(application: Application) -> None:
    """Ended by a process that did not make it: the hook runs there, once; nobody who sweeps later finds anything to do."""
    [handle] = application.run(0, "create")
    assert application.run(1, "end", handle) == ["ended ended", "in the hook", "True"]
    assert application.run(1, "end", handle) == ["False"]
    for seconds in (2, 100, 100_000):
        assert application.run(seconds, "sweep") == ["0"]
    assert application.released == ["released"]


def test_an_expired_one_is_cleaned_up_by_whoever_sweeps(application: Application) -> None:
    """Before its time nobody does; then one does, once."""
    application.run(0, "create")
    assert application.run(600, "sweep") == ["0"]
    assert application.run(661, "sweep") == ["ended timeout", "in the hook", "1"]
    assert application.run(1_000, "sweep") == ["0"]
    assert application.released == ["released"]


def test_another_takes_over_from_one_that_died(application: Application) -> None:
    """Killed in the middle of the hook: for the time of its claim nobody else runs it, and then the next one that has the key does."""
    [handle] = application.run(0, "create")
    with application.start(1, "hang", handle) as dying:
        assert dying.stdout is not None
        assert [dying.stdout.readline().strip() for _ in range(2)] == ["ended ended", "in the hook"]
        assert application.run(30, "sweep") == ["0"]
        dying.kill()
    assert application.released == []
    assert application.run(60, "sweep") == ["0"]
    assert application.run(62, "sweep")[0] == "in the hook"  # its end has been told
    assert application.released == ["released"]
    assert application.run(1_000, "sweep") == ["0"]


def test_a_process_without_the_key_leaves_it_to_one_that_has_it(application: Application) -> None:
    """It ends the session, which is told once; the value stays until a process comes that knows what to do with it."""
    application.run(0, "create")
    assert application.run(661, "stranger") == ["ended timeout", "1"]
    assert application.released == []
    assert "in the hook" in application.run(1_000, "sweep")
    assert application.released == ["released"]
    assert application.run(2_000, "sweep") == ["0"]


def test_nobody_has_the_key_for_a_week(application: Application) -> None:
    """After `reap_grace` (7 days) the value is dropped, and its hook does not run any more."""
    application.run(0, "create")
    application.run(661, "stranger")
    application.run(661 + 604_801, "stranger")
    assert "in the hook" not in application.run(661 + 700_000, "sweep")
    assert application.released == []
