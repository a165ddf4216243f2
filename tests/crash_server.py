"""The server of test_crash.py: sessions that are saved every few milliseconds, until SIGTERM or a kill.

Arguments: the snapshot's path and the interval of autosave in seconds; with a third one, ends and renewals are not noted, as in a server
that is broken. A line with the port says that it is ready.
"""

from __future__ import annotations

import faulthandler
import json
import signal
import sys
import threading
from http.server import ThreadingHTTPServer
from typing import Any

from typed_sessions import Key, ListKey, SessionManager
from typed_sessions.filters.http_server import SessionHandler
from typed_sessions.keeper import Keeper

count = Key("count", int)
steps = ListKey("steps", int)


class Handler(SessionHandler):
    """Each request on a connection of its own, so that a stop can wait for those under way."""

    path_of_snapshot = ""

    def do_GET(self) -> None:
        if self.path == "/add":
            self.session[steps].append(self.session.update(count, lambda n: n + 1, default=0))
        elif self.path == "/renew":
            self.session.renew()
        elif self.path == "/end":
            self.session.end()
        elif self.path == "/save":
            self.sessions.save_sessions(self.path_of_snapshot)
        seen = None
        if self.path in ("/add", "/read") and self.session.get(count) is not None:
            seen = [self.session[count], list(self.session[steps])]
        body = json.dumps(seen).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = False
    request_queue_size = 128


def forget(*_: object) -> None:
    """In the place of noting an end."""


if __name__ == "__main__":
    path, every = sys.argv[1], float(sys.argv[2])
    if sys.argv[3:]:
        setattr(Keeper, "_note", forget)  # noqa: B010
    faulthandler.dump_traceback_later(25, exit=True)  # a server that hangs says where
    # Waited for, not handled: a handler runs in the middle of whatever the main thread does, such as starting a thread.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    with SessionManager() as sessions:
        Handler.sessions, Handler.path_of_snapshot = sessions, path
        sessions.load_sessions(path, strict=True)
        sessions.autosave(path, every=every)
        with Server(("127.0.0.1", 0), Handler) as server:
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
            print(server.server_port, flush=True)
            signal.sigwait({signal.SIGTERM})
            server.shutdown()
