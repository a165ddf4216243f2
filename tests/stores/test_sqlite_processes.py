"""SQLiteStore among processes: killed ones, several at once, forked ones. `SQLITE_KILLS=500` and `SQLITE_TURNS=...` make it longer."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.stores.records import NOW, PEER, append, elements_of, found, started, value_of, write
from typed_sessions import Key, ListKey, Request, SessionManager, SQLiteStore
from typed_sessions.record import Record

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent.parent
KILLS = int(os.environ.get("SQLITE_KILLS", "25"))
TURNS = int(os.environ.get("SQLITE_TURNS", "250"))
SEED = int(os.environ.get("SQLITE_SEED", "3"))


def process(*arguments: object) -> subprocess.Popen[str]:
    """`sqlite_process.py` with these arguments."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", str(Path(__file__).with_name("sqlite_process.py")), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def done(running: subprocess.Popen[str]) -> str:
    """What it said, when it has come to its end by itself."""
    said, _ = running.communicate(timeout=300)
    assert running.returncode == 0
    return said


def test_kill_9_loses_no_commit_and_brings_nothing_back(path: Path) -> None:
    """A writing process is killed again and again, anywhere: what was acknowledged is there, what was ended is not (L4, S2)."""
    print(f"seed {SEED}, {KILLS} kills")
    chance = random.Random(SEED)
    expected: dict[str, int] = {}  # by handle, the last value that was acknowledged
    ending: set[str] = set()
    ended: set[str] = set()
    acknowledged = 0
    with process("writers", path) as running:
        assert running.stdin is not None
        assert running.stdout is not None
        for _ in range(KILLS):
            running.stdin.write(f"{chance.getrandbits(30)}\n")
            running.stdin.flush()
            left = chance.randrange(1, 120)
            pid = 0
            while (line := running.stdout.readline().split()) != ["dead"]:
                assert line, "the parent of the writers has gone"
                match line:
                    case ["pid", number]:
                        pid = int(number)
                    case ["write", handle, number]:
                        expected[handle] = int(number)
                        acknowledged += 1
                    case ["ending", handle]:
                        ending.add(handle)
                    case _:
                        ended.add(line[1])
                        acknowledged += 1
                left -= 1
                if left <= 0 and pid:
                    os.kill(pid, signal.SIGKILL)
                    pid, left = 0, 1 << 30
            _compare(path, expected, ending, ended)
            expected.clear()
        running.stdin.close()
        assert running.wait(60) == 0
    assert acknowledged > 20 * KILLS
    assert len(ended) > KILLS


def _compare(path: Path, expected: dict[str, int], ending: set[str], ended: set[str]) -> None:
    store = SQLiteStore(path)
    there = {record.locator.hex(): int(value_of(record) or b"") for record in store.scan(None, 1_000_000)[0]}
    store.close()
    assert not ended & set(there), "an ended session is back"
    for handle, number in expected.items():
        if handle not in there:
            assert handle in ending, "a session is lost"
        else:
            assert number <= there[handle] <= number + 1, "an acknowledged commit is lost"


@pytest.mark.parametrize("sessions", [1, 100])
def test_four_processes_add_up(path: Path, sessions: int) -> None:
    """Updates of one counter and appends to one list, by four processes at once: each counts once, on one session and on a hundred."""
    counter, facts = Key("counter", int), ListKey("facts", str)
    store = SQLiteStore(path, max_bytes=1_000_000)
    manager = SessionManager(store, clock=lambda: NOW)
    handles: list[str] = []
    for _ in range(sessions):
        session, finish = manager.start_check(Request(headers=(), peer=PEER))
        session[counter] = 0
        finish()
    handles = [view.handle for view in manager.all()]
    running = [process("hammer", path, me, TURNS, *handles) for me in range(4)]
    print([done(one) for one in running])
    views = list(manager.all())
    assert sum(view[counter] for view in views) == 4 * TURNS
    assert sorted(fact for view in views for fact in view[facts]) == sorted(f"{me} {turn}" for me in range(4) for turn in range(TURNS))
    manager.close()


def test_two_servers_share_their_sessions(path: Path) -> None:
    """What one writes the other reads at once; who signs out at one has signed out at both."""
    name = Key("name", str)
    manager = SessionManager(SQLiteStore(path), clock=lambda: NOW)
    session, finish = manager.start_check(Request(headers=(), peer=PEER))
    session[name] = "ann"
    cookie = "; ".join(value.partition(";")[0] for header, value in finish() if header == "Set-Cookie")

    def here() -> str:
        session, finish = manager.start_check(Request(headers=[("Cookie", cookie)], peer=PEER))
        found = session.get(name, "nobody")
        finish()
        return found

    assert done(process("visit", path, cookie, "rename")) == "ann\n"
    assert here() == "bob"
    assert done(process("visit", path, cookie, "sign out")) == "bob\n"
    assert here() == "nobody"
    assert done(process("visit", path, cookie, "look")) == "nobody\n"
    manager.close()


def has_open(path: Path) -> bool | None:
    """Whether this process has the file open; None where the system does not say."""
    descriptors = Path("/proc/self/fd")
    if not descriptors.is_dir():
        return None
    return str(path.resolve()) in [os.path.realpath(descriptor) for descriptor in descriptors.iterdir()]


def in_a_child(work: object) -> int:
    """The exit status of a forked child that does this."""
    child = os.fork()
    if child == 0:  # pragma: no cover  # in another process
        status = 1
        try:
            assert callable(work)
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_fork_after_the_store_was_opened(path: Path) -> None:
    """R7: parent and children use the store that was made before; none has inherited a connection, none loses a commit."""
    store = SQLiteStore(path)
    record = started(store)
    assert has_open(path) in (True, None), "the test could notice it"

    def child() -> None:
        assert not has_open(path)
        for number in range(20):
            assert append(store, record, b"child %d" % number).status == "committed"

    for number in range(20):
        append(store, record, b"parent %d" % number)
    assert [in_a_child(child) for _ in range(2)] == [0, 0]
    append(store, record, b"parent at the end")
    after = found(store, record)
    assert after is not None
    assert len(elements_of(after)) == 61
    assert not [each for each in path.parent.iterdir() if each.suffix == ".db-journal"]
    store.close()


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")  # that is what is tested
def test_a_fork_while_other_threads_write(path: Path) -> None:
    """The fork waits for calls under way; afterwards both sides write, and everything that was acknowledged is there."""
    store = SQLiteStore(path)
    shared = started(store)
    stop = threading.Event()
    written: list[bytes] = []

    def work(me: int) -> None:
        number = 0
        while not stop.is_set() and number < 400:
            value = b"%d %d" % (me, number)
            assert append(store, shared, value).status == "committed"
            written.append(value)
            number += 1

    threads = [threading.Thread(target=work, args=(me,)) for me in range(2)]
    for thread in threads:
        thread.start()

    def child() -> None:
        mine: Record = started(store)
        for number in range(10):
            assert write(store, mine, b"%d" % number).status == "committed"
        assert append(store, shared, b"child").status == "committed"

    statuses: list[int] = []
    try:
        begin = time.monotonic()
        statuses += [in_a_child(child) for _ in range(5)]
        assert time.monotonic() - begin < 20
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert statuses == [0] * 5
    after = found(store, shared)
    assert after is not None
    elements = elements_of(after)
    assert sorted(elements) == sorted([*written, *[b"child"] * 5])
    assert len(store.scan(None, 100)[0]) == 6
    store.close()
