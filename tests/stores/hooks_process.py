"""One process of an application with a clean-up hook: `python hooks_process.py URL FILE SECONDS ACTION [HANDLE]`.

Its clock is SECONDS ahead of NOW. The hook writes one line to FILE, and with the action `hang` waits in the middle, until it is killed.
A `stranger` is a process that does not know the key.
"""

from __future__ import annotations

import sys

from tests.stores.records import NOW, PEER
from typed_sessions import End, Key, Request, SessionManager, open_store


def main(url: str, file: str, seconds: str, action: str, handle: str = "") -> None:
    def release(value: str) -> None:
        print("in the hook", flush=True)
        if action == "hang":
            sys.stdin.readline()
        with open(file, "a", encoding="utf-8") as out:
            out.write(f"{value}\n")

    manager = SessionManager(open_store(url), clock=lambda: NOW + float(seconds))
    manager.on(End, lambda end: print(f"ended {end.reason}", flush=True))
    stock = None if action == "stranger" else Key("stock", str, cleanup_delete=release)
    if action == "create":
        assert stock is not None
        session, finish = manager.start_check(Request(headers=(), peer=PEER))
        session[stock] = "released"
        finish()
        [view] = manager.all()
        print(view.handle)
    elif action in ("hang", "end"):
        print(manager.end(handle), flush=True)
    else:
        print(manager.sweep())
    manager.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
