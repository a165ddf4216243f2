"""A real server, stopped and killed again and again while it is used (L4, S2).

What a snapshot promised is there, nothing is torn, and nothing that had ended is back: not a session that was signed out, not the cookie
of before a renewal, not even when an older snapshot is put back. The client notes what was acknowledged; what was under way when the
server died may have happened or not.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from tests.filters.servers import Jar

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
SEED = int(os.environ.get("CRASH_SEED", "29"))
ROUNDS = 15
CLIENTS = 3
ACTIONS = ["new", "new", "add", "add", "add", "add", "add", "renew", "renew", "end", "save"]
AUTOSAVE = 0.01

Stop = Literal["TERM", "KILL"]


@dataclass(eq=False)
class Known:
    """A session as its browser knows it: `count` was acknowledged last, `promised` has been saved since it was (0: nothing has)."""

    jar: Jar
    count: int
    promised: int = 0


@dataclass
class Ledger:
    """Everything that was acknowledged."""

    live: list[Known] = field(default_factory=list[Known])
    dead: list[Jar] = field(default_factory=list[Jar])
    """Cookies of sessions that have ended, and of before renewals."""
    lock: threading.Lock = field(default_factory=threading.Lock)
    answers: int = 0

    def counts(self) -> dict[Known, int]:
        with self.lock:
            return {known: known.count for known in self.live}


class Server:
    def __init__(self, path: Path, every: float = AUTOSAVE, *broken: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "tests" / "crash_server.py"), str(path), str(every), *broken],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            pytest.fail(f"the server did not start: {self.finish(1)}")
        self.port = int(line)

    def ask(self, path: str, jar: Jar) -> list[object] | None:
        """One request on a connection of its own. OSError or HTTPException: nobody knows whether it happened."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request("GET", path, headers={"Cookie": jar.header()} if jar.cookies else {})
            response = connection.getresponse()
            body = response.read()
        finally:
            connection.close()
        assert response.status == 200, (response.status, body)
        jar.take(response.getheaders())
        seen: list[object] | None = json.loads(body)
        return seen

    def stop(self, how: Stop) -> None:
        self.process.send_signal(signal.SIGTERM if how == "TERM" else signal.SIGKILL)

    def finish(self, expected: int) -> str:
        """Wait for its end; what it has said on the way."""
        _, errors = self.process.communicate(timeout=30)
        assert self.process.returncode == expected, errors
        return errors


class Client:
    """Uses sessions of its own, until it gets no answer any more."""

    def __init__(self, server: Server, ledger: Ledger, chance: random.Random, mine: list[Known], limit: int, how: Stop) -> None:
        self.server = server
        self.ledger = ledger
        self.chance = chance
        self.mine = mine
        self.limit = limit
        self.how: Stop = how
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            while self.step():
                with self.ledger.lock:
                    self.ledger.answers += 1
                    enough = self.ledger.answers == self.limit
                if enough:
                    self.server.stop(self.how)
        except BaseException as error:
            self.error = error

    def step(self) -> bool:
        """One request; False if the server gave no answer."""
        action = self.chance.choice(ACTIONS)
        known = None if action in ("new", "save") or not self.mine else self.chance.choice(self.mine)
        try:
            if action == "save":
                counts = self.ledger.counts()
                self.server.ask("/save", Jar())
                with self.ledger.lock:
                    for saved, count in counts.items():
                        saved.promised = max(saved.promised, count)
            elif known is None:
                jar = Jar()
                assert self.server.ask("/add", jar) == [1, [1]]
                self.mine.append(known := Known(jar, 1))
                with self.ledger.lock:
                    self.ledger.live.append(known)
            else:
                self.use(known, action)
        except (OSError, http.client.HTTPException):
            if known is not None:
                self.forget(known)
            return False
        return True

    def use(self, known: Known, action: str) -> None:
        before = known.jar.copy()
        seen = self.server.ask(f"/{action}", known.jar)
        if action == "add":
            assert seen == [known.count + 1, list(range(1, known.count + 2))]
            known.count += 1
        else:
            with self.ledger.lock:
                self.ledger.dead.append(before)
        if action == "end":
            assert known.jar.cookies == {}
            self.forget(known)

    def forget(self, known: Known) -> None:
        """It has ended, or nobody knows."""
        self.mine.remove(known)
        with self.ledger.lock:
            self.ledger.live.remove(known)


def use(server: Server, ledger: Ledger, chance: random.Random, how: Stop) -> None:
    """Several clients at once; after so many answers the server is stopped, wherever it is."""
    ledger.answers = 0
    limit = chance.randrange(30, 120)
    clients = [
        Client(server, ledger, random.Random(chance.random()), ledger.live[number::CLIENTS], limit, how) for number in range(CLIENTS)
    ]
    threads = [threading.Thread(target=client.run) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for client in clients:
        if client.error is not None:
            raise client.error
    errors = server.finish(0 if how == "TERM" else -signal.SIGKILL)
    assert errors == ""


def check(server: Server, ledger: Ledger, least: dict[Known, int], most: dict[Known, int]) -> int:
    """Compare a server that has just started with what was acknowledged; how many promises were kept.

    Afterwards the ledger says what there is.
    """
    promises = sum(1 for known in ledger.live if least.get(known, 0))
    back = [jar for jar in ledger.dead if server.ask("/read", jar) is not None]
    assert not back, f"{len(back)} of {len(ledger.dead)} dead cookies open a session again"
    for known in list(ledger.live):
        seen = server.ask("/read", known.jar)
        count = 0 if seen is None else seen[0]
        assert isinstance(count, int)
        assert least.get(known, 0) <= count <= most.get(known, 0), "what was promised is not there, or what never was is"
        assert seen is None or seen[1] == list(range(1, count + 1)), "a commit was torn"
        known.count = known.promised = count
        if not count:
            ledger.live.remove(known)
    return promises


def test_stopped_and_killed_again_and_again(tmp_path: Path) -> None:
    """Fifteen rounds of SIGTERM, kill -9 between two autosaves or in the middle of one, and older snapshots put back."""
    print(f"CRASH_SEED={SEED}")
    chance = random.Random(SEED)
    path, backup = tmp_path / "sessions", tmp_path / "backup"
    in_backup: dict[Known, int] = {}
    ledger = Ledger()
    kept: list[int] = []
    server = Server(path)
    try:
        for number in range(ROUNDS):
            how: Stop = "TERM" if number % 4 == 3 else "KILL"
            use(server, ledger, chance, how)
            acknowledged = ledger.counts()
            least = acknowledged if how == "TERM" else {known: known.promised for known in ledger.live}
            if number % 5 == 4 and backup.exists():
                shutil.copy(backup, path)
                least = acknowledged = {known: count for known, count in in_backup.items() if known in acknowledged}
            elif number % 5 == 1:
                # Killed between the two renames of a save, it has only the one that is to become the previous.
                shutil.copy(path if path.exists() else path.with_name(f"{path.name}.previous"), backup)
            server = Server(path)
            kept.append(check(server, ledger, least, acknowledged))
            if number % 5 == 1:
                in_backup = ledger.counts()
    finally:
        server.process.kill()
        server.process.communicate()
    print(f"{len(ledger.dead)} dead cookies, promises kept: {kept}")
    assert len(ledger.dead) > 50
    assert sum(kept) > 50


@pytest.mark.parametrize(
    ("broken", "noticed"),
    [
        ("ends are not noted", "2 of 2 dead cookies open a session again"),
        ("the snapshot is lost", "what was promised is not there"),
        ("an old snapshot without its journal", "2 of 2 dead cookies open a session again"),
    ],
)
def test_the_checks_can_fail(tmp_path: Path, broken: str, noticed: str) -> None:
    """What the rounds above look for is noticed in a server that is broken on purpose, or whose files are."""
    path = tmp_path / "sessions"
    ledger = Ledger()
    forgetful = ["forgetful"] if broken == "ends are not noted" else []
    server = Server(path, 3600, *forgetful)
    for _ in range(3):
        jar = Jar()
        assert server.ask("/add", jar) == [1, [1]]
        ledger.live.append(Known(jar, 1, promised=1))
    server.ask("/save", Jar())
    ended, renewed, _ = ledger.live
    ledger.dead += [ended.jar.copy(), renewed.jar.copy()]
    server.ask("/end", ended.jar)
    server.ask("/renew", renewed.jar)
    del ledger.live[:2]
    server.stop("KILL")
    server.finish(-signal.SIGKILL)
    if broken == "the snapshot is lost":
        path.unlink()
    elif broken == "an old snapshot without its journal":
        (tmp_path / "sessions.journal").unlink()
    server = Server(path, 3600, *forgetful)
    counts = ledger.counts()
    try:
        with pytest.raises(AssertionError, match=noticed):
            check(server, ledger, counts, counts)
    finally:
        server.stop("KILL")
        server.finish(-signal.SIGKILL)
