"""Processes that work on a SQLite store until they are killed, or done. Run as `python sqlite_process.py COMMAND FILE ...`."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable

from tests.stores.records import IDLE, NOW, PEER, append, started, use, value_of, write
from typed_sessions import Conflict, Key, ListKey, Request, SessionManager, SQLiteStore
from typed_sessions.record import Record


def say(text: str) -> None:
    """One line, whole or not at all, also when the process is killed: a pipe takes so few bytes at once."""
    os.write(1, text.encode() + b"\n")


def writers(path: str) -> None:
    """For each line of input, which is a seed, one process that writes until it is killed. It says what was acknowledged, never more."""
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            try:
                write_for_ever(path, int(line))
            finally:
                os._exit(1)
        say(f"pid {child}")
        os.waitpid(child, 0)
        say("dead")


def write_for_ever(path: str, seed: int) -> None:
    chance = random.Random(seed)
    store = SQLiteStore(path)
    live: list[Record] = []
    while True:
        action = chance.choice(["create", "write", "write", "write", "append", "end"])
        if action == "create" or len(live) < 3:
            record = started(store)
            live.append(record)
            say(f"write {record.locator.hex()} 0")
        elif action == "end":
            record = live.pop(chance.randrange(len(live)))
            say(f"ending {record.locator.hex()}")
            store.end(record.locator, "ended", NOW, 60)
            say(f"ended {record.locator.hex()}")
        elif action == "append":
            record = chance.choice(live)
            append(store, record, b"x")
        else:
            record = chance.choice(live)
            current = store.open(record.locator, use(record), IDLE, NOW)
            number = int(value_of(current) or b"0") + 1
            write(store, record, b"%d" % number)
            say(f"write {record.locator.hex()} {number}")


def hammer(path: str, me: str, turns: str, *handles: str) -> None:
    """Add to a counter and append to a list of these sessions, one after the other; what was acknowledged, at the end."""
    counter, facts = Key("counter", int), ListKey("facts", str)
    manager = SessionManager(SQLiteStore(path, max_bytes=1_000_000, deadline=30), clock=lambda: NOW)
    conflicts = 0
    for turn in range(int(turns)):
        while True:
            try:
                with manager.edit(handles[turn % len(handles)]) as session:
                    session.update(counter, lambda number: number + 1, default=0)
                    session[facts].append(f"{me} {turn}")
                break
            except Conflict:
                conflicts += 1  # nothing was applied: again
    manager.close()
    say(f"conflicts {conflicts}")


def visit(path: str, cookie: str, action: str) -> None:
    """A second server of the same application: one request with these cookies."""
    name = Key("name", str)
    manager = SessionManager(SQLiteStore(path), clock=lambda: NOW)
    session, finish = manager.start_check(Request(headers=[("Cookie", cookie)], peer=PEER))
    say(session.get(name, "nobody"))
    if action == "sign out":
        session.end()
    elif action == "rename":
        session[name] = "bob"
    finish()
    manager.close()


if __name__ == "__main__":
    commands: dict[str, Callable[..., None]] = {"writers": writers, "hammer": hammer, "visit": visit}
    commands[sys.argv[1]](*sys.argv[2:])
