"""One of many processes that work on the same sessions for some time: `python together_process.py URL ME SECONDS SESSIONS MORTALS`.

The last two are handles with commas between them: of sessions to add to, and of sessions that process 0 ends, one after the other.
"""

from __future__ import annotations

import random
import sys
import time

from tests.stores.history import Added, Ended, Event, Looked, said
from typed_sessions import Conflict, Key, ListKey, NoSession, SessionEnded, SessionManager, StoreUnavailable, open_store

counter, facts = Key("counter", int), ListKey("facts", str)


def main(url: str, me: str, seconds: str, sessions: str, mortals: str) -> None:
    chance = random.Random(me)
    handles, doomed = sessions.split(","), mortals.split(",")
    manager = SessionManager(open_store(url), timeout=None)
    print("ready", flush=True)
    sys.stdin.readline()
    begin = time.monotonic()
    history: list[Event] = []
    number = 0
    while (now := time.monotonic()) - begin < float(seconds):
        handle = chance.choice(handles)
        fact = f"{me} {number}"
        number += 1
        try:
            with manager.edit(handle) as session:
                session.update(counter, lambda n: n + 1, default=0)
                session[facts].append(fact)
            history.append(Added(handle, fact))
        except Conflict:
            pass  # nothing was applied
        except StoreUnavailable:
            history.append(Added(handle, fact, known=False))
        if number % 5 == 0:
            handle = chance.choice(doomed)
            now = time.monotonic()
            try:
                with manager.edit(handle):
                    history.append(Looked(handle, now, alive=True))
            except (NoSession, SessionEnded):
                history.append(Looked(handle, now, alive=False))
        if me == "0" and doomed and now - begin > float(seconds) * (1 - len(doomed) / 40):
            handle = doomed[0]
            if manager.end(handle):
                history.append(Ended(handle, time.monotonic()))
            doomed = [*doomed[1:], handle] if len(doomed) > 1 else doomed
    for event in history:
        print(said(event))
    manager.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
