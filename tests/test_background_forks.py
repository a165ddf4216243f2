"""A process that is forked after its manager was made, as by a server that loads the application first: what runs in the background."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")

START = """
import logging, os, sys, threading, time
from typed_sessions import End, Key, MemoryStore, Request, SessionManager
from typed_sessions.testing import login

logging.basicConfig(level="WARNING", format="%(message)s")
path = sys.argv[1]
user = Key("user", str)

def threads():
    return sorted(thread.name for thread in threading.enumerate() if thread.name.startswith("typed_sessions"))

def child(work):
    pid = os.fork()
    if not pid:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
"""

SWEEP = """
cleaned = []
user = Key("user in the background", str, cleanup_delete=cleaned.append)
sessions = SessionManager(timeout=0.1, granularity=0.01, gc="active")

def serve():
    assert threads() == []  # a child that serves nobody does not sweep its parent's sessions
    login(sessions, {user: "ann"})
    assert threads() == ["typed_sessions sweep"]
    until = time.monotonic() + 20
    while not cleaned and time.monotonic() < until:
        time.sleep(0.01)
    assert cleaned == ["ann"]
    assert sessions.core.next_sweep == float("inf")
    child(lambda: (login(sessions, {user: "ann"}), threads() == ["typed_sessions sweep"] or 1 / 0))
    sessions.close()
    assert threads() == []

child(serve)
assert threads() == ["typed_sessions sweep"]
"""

AUTOSAVE = """
sessions = SessionManager()
login(sessions, {user: "parent"})
sessions.autosave(path, every=3600)
assert threads() == ["typed_sessions autosave"]

def serve():
    assert threads() == []
    for _ in range(3):
        login(sessions, {user: "child"})
    assert threads() == []
    sessions.close()

def close_only():
    sessions.close()

def save_elsewhere():
    sessions.autosave(f"{path}.child", every=3600)
    login(sessions, {user: "child"})
    assert threads() == ["typed_sessions autosave"]
    sessions.close()

child(serve)
child(close_only)
assert not os.path.exists(path)
child(save_elsewhere)
assert SessionManager().load_sessions(f"{path}.child") == 2
assert threads() == ["typed_sessions autosave"]
sessions.close()
assert SessionManager().load_sessions(path) == 1
"""

UNTOLD = """
# As uWSGI forks: Python does not know of it.
import ctypes

now, swept = [1e9], threading.Event()

def clock():
    if threading.current_thread() is not threading.main_thread():
        swept.set()
    return now[0]

def fork():
    # A child that Python is not told of hands the interpreter to whoever waited for it here, and nobody is there to take it. So nobody
    # may wait: the thread that sweeps has just done so.
    swept.clear()
    assert swept.wait(20)
    time.sleep(0.05)
    return ctypes.PyDLL(None).fork()

os.fork = fork
cleaned = []
user = Key("user in the background", str, cleanup_delete=cleaned.append)
sessions = SessionManager(timeout=600, granularity=0.5, gc="active", clock=clock)
saving = SessionManager()
saving.autosave(path, every=3600)

def serve():
    login(saving, {user: "child"})
    saving.close()
    assert not os.path.exists(path)
    login(sessions, {user: "ann"})
    now[0] += 700
    until = time.monotonic() + 20
    while not cleaned and time.monotonic() < until:
        time.sleep(0.01)
    assert cleaned == ["ann"]
    sessions.close()

def close_only():
    saving.close()
    sessions.close()

def save_elsewhere():
    saving.autosave(f"{path}.child", every=3600)
    login(saving, {user: "child"})
    saving.close()
    assert os.path.exists(f"{path}.child")

child(serve)
child(close_only)
child(save_elsewhere)
assert not os.path.exists(path)
sessions.close()
saving.close()
assert os.path.exists(path)
"""

ASYNC_AUTOSAVE = """
import asyncio
from typed_sessions import AsyncSessionManager
from typed_sessions.testing import alogin

sessions = AsyncSessionManager(timeout=0.1, granularity=0.01, gc="active")
ended = []
sessions.on(End, ended.append)

def tasks():
    return len(asyncio.all_tasks()) - 1

async def parent():
    await alogin(sessions, {user: "parent"})
    assert tasks() == 2

async def serve():
    for _ in range(3):
        await alogin(sessions, {user: "child"})
    assert tasks() == 1  # the sweep
    until = time.monotonic() + 20
    while not ended and time.monotonic() < until:
        await asyncio.sleep(0.01)
    assert ended
    await sessions.aclose()

async def close_only():
    await sessions.aclose()

async def save_elsewhere():
    sessions.autosave(f"{path}.child", every=3600)
    await alogin(sessions, {user: "child"})
    assert tasks() == 2
    await sessions.aclose()
    assert os.path.exists(f"{path}.child")

sessions.autosave(path, every=3600)
for work in serve, close_only, save_elsewhere:
    child(lambda: asyncio.run(work()))
assert not os.path.exists(path)
asyncio.run(parent())
child(lambda: asyncio.run(save_elsewhere()))  # the parent's tasks are in a loop of its own
asyncio.run(sessions.aclose())
assert os.path.exists(path)
"""

SAVING = """
# Forked while another thread saves: the child closes all the same.
import faulthandler

begun, go_on = threading.Event(), threading.Event()

class Slow:
    blocking = False

    def __init__(self):
        self.store = MemoryStore()

    def __getattr__(self, name):
        return getattr(self.store, name)

    def cut(self):
        begun.set()
        go_on.wait()
        return self.store.cut()

store = Slow()
sessions = SessionManager(store)
saving = threading.Thread(target=sessions.save_sessions, args=(path,))
saving.start()
begun.wait()

def close():
    faulthandler.dump_traceback_later(20, exit=True)
    go_on.set()
    sessions.save_sessions(f"{path}.child")
    sessions.close()

child(close)
go_on.set()
saving.join()
"""


LOCKS = """
import asyncio, faulthandler
from typed_sessions import keys
from typed_sessions.stores.postgres import AsyncPostgresStore
from typed_sessions.stores.redis import AsyncRedisStore

stores = AsyncRedisStore("redis://127.0.0.1:1"), AsyncPostgresStore("postgresql://127.0.0.1:1/none")
locks = [keys._registering.lock, *(store._lock for store in stores)]

async def close():
    for store in stores:
        await store.close()

def work():
    faulthandler.dump_traceback_later(20, exit=True)
    Key("in the child", int)
    asyncio.run(close())

for lock in locks:  # as another thread would, which the child does not have
    lock.acquire()
child(work)
"""


def run(program: str, path: Path) -> str:
    """Run it; what it has logged."""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", START + program, str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_the_sweep_begins_again_in_a_child(tmp_path: Path) -> None:
    """With its first request; a child's child too."""
    assert run(SWEEP, tmp_path / "sessions") == ""


@pytest.mark.parametrize("program", [AUTOSAVE, ASYNC_AUTOSAVE], ids=["sync", "async"])
def test_autosave_does_not_begin_in_a_child_and_says_so(tmp_path: Path, program: str) -> None:
    """The file is the parent's, at the end too. One warning, with what to do; who calls autosave in the child saves there."""
    said = run(program, tmp_path / "sessions").splitlines()
    assert len(said) == 2  # each of the two children that did nothing about it
    for line in said:
        assert f"forked after autosave('{tmp_path / 'sessions'}'), so its sessions are not saved" in line
        assert "calls load_sessions and autosave itself, after the fork" in line


@pytest.mark.skipif(sys.platform != "linux", reason="the C library is asked for the fork")
def test_a_fork_that_python_is_not_told_of(tmp_path: Path) -> None:
    """As of uWSGI: the child sweeps, closes without waiting for its parent's threads, and says that it saves nothing."""
    said = run(UNTOLD, tmp_path / "sessions").splitlines()
    assert len(said) == 2
    for line in said:
        assert f"forked after autosave('{tmp_path / 'sessions'}'), so its sessions are not saved" in line


def test_a_fork_while_a_thread_saves(tmp_path: Path) -> None:
    """R7: the lock that the thread holds is none of the child's, where that thread does not exist."""
    assert run(SAVING, tmp_path / "sessions") == ""


def test_a_fork_while_threads_declare_keys_and_serve(tmp_path: Path) -> None:
    """R7: a child has locks of its own for keys, and for the connections of asynchronous stores."""
    assert run(LOCKS, tmp_path / "sessions") == ""
