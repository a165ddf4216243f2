"""Rule 29: snapshots in the background and at the end of a manager's life."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from tests.faces import Face
from tests.rules.restarts import Server, signed_in
from tests.watched import Watched
from typed_sessions import Key, MemoryStore, PolicyError, SessionManager, StoreUnavailable

pytestmark = pytest.mark.stores("memory")


class Cut(Watched):
    """A store that says when a snapshot of it was begun, as often as one is."""

    def __init__(self, store: Any) -> None:
        super().__init__(store)
        self.begun = threading.Semaphore(0)

    def cut(self) -> Any:
        self.begun.release()
        return self.store.cut()

    def wait_until_saved(self) -> None:
        """Until what is there now is in a snapshot: the second one from now begins when the first has been written."""
        while self.begun.acquire(blocking=False):
            pass
        for _ in range(2):
            assert self.begun.acquire(timeout=10)


def while_it_runs(face: Face, wait: Callable[[], None]) -> None:
    """Let the background work until `wait` returns; that of an async manager needs its loop."""
    if face.kind == "sync":
        wait()
    else:
        face.call(asyncio.to_thread(wait))


def test_rule_29_autosave_saves_every_so_often(face: Face, tmp_path: Path) -> None:
    """A crash loses what was done since the last of them, and nothing else."""
    name = Key("name", str)
    store = Cut(face.store)
    face.manager = face.another(store=store)
    server = Server(face, tmp_path)
    face.manager.autosave(server.path, every=0.005)
    browser = signed_in(face, name)
    while_it_runs(face, store.wait_until_saved)
    server.die()
    assert server.load() == 1
    with browser.visit() as session:
        assert session[name] == "ann"


def test_rule_29_a_save_that_fails_is_tried_again(
    face: Face, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is logged, and the background goes on."""
    name = Key("name", str)
    store = Cut(face.store)
    face.manager = face.another(store=store)
    server = Server(face, tmp_path / "missing")
    said, emit = threading.Semaphore(0), caplog.handler.emit

    def say(record: logging.LogRecord) -> None:
        emit(record)
        said.release()

    def wait_for_two() -> None:
        assert said.acquire(timeout=10)
        assert said.acquire(timeout=10)

    monkeypatch.setattr(caplog.handler, "emit", say)
    face.manager.autosave(server.path, every=0.005)
    signed_in(face, name)
    while_it_runs(face, wait_for_two)
    assert "the autosave of sessions failed; it is tried again in 0.005 s" in caplog.text
    assert "the folder does not exist" in caplog.text
    server.path.parent.mkdir()
    while_it_runs(face, store.wait_until_saved)
    assert server.restart() == 1


def test_rule_29_closing_saves(face: Face, tmp_path: Path) -> None:
    """A stopped program finds everything again, whatever the interval; without autosave closing saves nothing."""
    name = Key("name", str)
    server = Server(face, tmp_path)
    browser = signed_in(face, name)
    server.stop()
    assert list(tmp_path.iterdir()) == []
    face.manager.autosave(server.path, every=3600)
    server.stop()
    server.stop()
    assert server.restart() == 1
    with browser.visit() as session:
        assert session[name] == "ann"


PROGRAM = """
import atexit, os, signal, sys
from typed_sessions import Key, SessionManager
from typed_sessions.testing import login

def serve():
    login(sessions, {Key("name", str): "ann"})
    os.kill(os.getpid(), signal.SIGTERM)

sessions = SessionManager()
sessions.autosave(sys.argv[1], every=3600)
signal.signal(signal.SIGTERM, signal.default_int_handler)
if sys.argv[2] == "atexit":
    atexit.register(sessions.close)
    serve()
else:
    with sessions:
        serve()
"""


@pytest.mark.parametrize("way", ["block", "atexit"])
def test_rule_29_a_program_that_is_told_to_stop_has_saved(way: str, tmp_path: Path) -> None:
    """By SIGTERM, as the README has it: at the end of the manager's block, or of the interpreter."""
    path = tmp_path / "sessions.snapshot"
    program = subprocess.run([sys.executable, "-c", PROGRAM, path, way], stderr=subprocess.PIPE, text=True, timeout=60)
    assert program.stderr.rstrip().endswith("KeyboardInterrupt")
    with SessionManager() as sessions:
        assert sessions.load_sessions(path) == 1


def test_rule_29_closing_cleans_up_and_then_saves(face: Face, tmp_path: Path) -> None:
    """Clients closed, `cleanup_no_client` run, then saved: a value that nobody wants to keep is not in the snapshot."""
    order: list[str] = []

    def keep(value: str) -> bool:
        order.append(f"{value} left")
        return value == "kept"

    kept, dropped = Key("kept", str, cleanup_no_client=keep), Key("dropped", str, cleanup_no_client=keep)
    server = Server(face, tmp_path)
    face.manager.autosave(server.path, every=3600)
    browser = face.browser()
    with face.manager.connect("10.1.2.3", lambda: order.append("closed")) as client:
        turn = browser.open(client=client)
        turn.session[kept], turn.session[dropped] = "kept", "dropped"
        turn.finish()
        server.stop()
        assert order == ["closed", "kept left", "dropped left"]
    server.restart()
    with browser.visit() as session:
        assert (session[kept], dropped in session) == ("kept", False)


def test_rule_29_closing_saves_though_a_client_or_a_hook_fails(face: Face, tmp_path: Path) -> None:
    """Rule 10: what raises stops nothing else."""

    def fails(*_: object) -> bool:
        raise OSError("no")

    name = Key("name", str, cleanup_no_client=fails)
    server = Server(face, tmp_path)
    face.manager.autosave(server.path, every=3600)
    with face.manager.connect("10.1.2.3", fails) as client:
        turn = face.browser().open(client=client)
        turn.session[name] = "ann"
        turn.finish()
        server.stop()
    assert server.restart() == 1


@pytest.mark.parametrize("every", [0, -1, float("nan"), float("inf"), 1e-9, "60", True, None])
def test_rule_29_an_interval_is_a_time(face: Face, tmp_path: Path, every: Any) -> None:
    """PolicyError at the call, not a thread that spins or sleeps for ever."""
    with pytest.raises(PolicyError, match=r"autosave\(every=\.\.\.\) = .*: expected a number of seconds, 0\.001 to 1e\+12$"):
        face.manager.autosave(tmp_path / "sessions", every=every)


def test_rule_29_snapshots_are_for_the_memory_store(face: Face, tmp_path: Path) -> None:
    """A store that keeps its sessions itself has no use for them, and says so at once."""

    class Elsewhere:
        blocking = False

        def __init__(self, store: Any) -> None:
            self.open, self.scan, self.close = store.open, store.scan, store.close

        def __repr__(self) -> str:
            return "<Elsewhere>"

    manager = face.another(store=cast("Any", Elsewhere(MemoryStore())))
    calls: list[Callable[[], Any]] = [
        lambda: manager.save_sessions(tmp_path / "sessions"),
        lambda: manager.load_sessions(tmp_path / "sessions"),
        lambda: manager.autosave(tmp_path / "sessions"),
    ]
    for call in calls:
        with pytest.raises(PolicyError, match="<Elsewhere> keeps its sessions itself"):
            face.call(call())


def test_rule_29_closing_with_a_disk_that_is_full_says_so(face: Face, tmp_path: Path) -> None:
    """The last chance to save is not missed in silence; the rest of closing is done."""
    server = Server(face, tmp_path / "missing")
    face.manager.autosave(server.path, every=3600)
    signed_in(face, Key("name", str))
    with pytest.raises(StoreUnavailable, match="the folder does not exist"):
        server.stop()
    server.path.parent.mkdir()
    server.stop()
    assert server.restart() == 1


def test_rule_29_of_two_snapshots_at_once_the_later_one_stays(face: Face, tmp_path: Path) -> None:
    """A save that was slow to write does not take the place of one that was begun after it: an autosave, and the save at the end."""
    name = Key("name", str)
    begun, go_on = threading.Event(), threading.Event()

    class Slow(Watched):
        def cut(self) -> Any:
            taken = self.store.cut()
            if not begun.is_set():
                begun.set()
                assert go_on.wait(10)
            return taken

    manager = SessionManager(cast("Any", Slow(face.store)), clock=face.clock)
    server = Server(face, tmp_path)
    signed_in(face, name)
    first = threading.Thread(target=lambda: manager.save_sessions(server.path))
    first.start()
    assert begun.wait(10)
    signed_in(face, name)
    second = threading.Thread(target=lambda: manager.save_sessions(server.path))
    second.start()
    second.join(0.1)  # it waits for the first one, or (wrongly) is done by then
    go_on.set()
    first.join()
    second.join()
    manager.close()
    assert server.restart() == 2


class Closed(Watched):
    """A store that counts how often it was closed."""

    def __init__(self, store: Any) -> None:
        super().__init__(store)
        self.closed = 0

    def close(self) -> None:
        self.closed += 1
        self.store.close()


def test_rule_29_a_store_is_let_go_of_also_if_the_last_snapshot_fails(face: Face, tmp_path: Path) -> None:
    """The failure is raised; closing again, when there is room, saves what is there."""
    store = Closed(face.store)
    face.manager = manager = face.another(store=store)
    path = tmp_path / "missing" / "sessions.snapshot"
    manager.autosave(path)
    with face.browser().visit() as session:
        session[Key("name", str)] = "ann"
    with pytest.raises(StoreUnavailable, match="the folder does not exist"):
        face.call(manager.close() if face.kind == "sync" else manager.aclose())
    assert store.closed == 1
    path.parent.mkdir()
    face.call(manager.close() if face.kind == "sync" else manager.aclose())
    assert path.exists()
