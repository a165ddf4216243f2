"""The demo's server: bind, restore, serve, and stop without losing anything."""

from __future__ import annotations

import errno
import logging
import os
import signal
import socket
import socketserver
import stat
import sys
import threading
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from http.server import ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import TextIO

from typing_extensions import override

from .. import End, PolicyError, SessionError, SessionManager, SQLiteStore, Store, open_store
from ..files import CAREFULLY
from ..urls import shown_url
from .connections import Connections
from .handler import DemoHandler

TIMEOUT = 3_600.0
LIFETIME = 7 * 86_400.0
GRANULARITY = 10.0
SAVE_EVERY = 3.0
PATIENCE = 5.0
"""Seconds that requests under way get when the server stops."""

logger: logging.Logger = logging.getLogger(__name__)


class CannotServe(Exception):
    """The demo cannot be started, or its sessions cannot be saved; the text says why and what to do."""


class DemoServer(ThreadingHTTPServer):
    """One thread per connection."""

    daemon_threads = True
    address_family: int
    server_name: str
    server_port: int
    request_queue_size = 128
    # Elsewhere than on POSIX it means that a port which is in use can be taken all the same.
    allow_reuse_address: bool = os.name == "posix"
    allow_reuse_port = False

    def __init__(self, host: str, port: int) -> None:
        try:
            self.address_family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
            super().__init__((str(address[0]), port), DemoHandler)
        except (OSError, UnicodeError) as problem:
            raise CannotServe(_why(host, port, problem)) from problem

    @override
    def server_bind(self) -> None:
        # Not http.server's own, which asks the name service who this is: there may be no network.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    @property
    def url(self) -> str:
        host = str(self.server_address[0])
        return f"http://{f'[{host}]' if ':' in host else host}:{self.server_address[1]}/"

    @override
    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exc_info()[1], OSError):  # which is a browser that left in the middle of an answer
            logger.exception("a request failed")


def default_file(name: str) -> Path:
    """In the user's folder for what programs remember (XDG base directories). Raises `CannotServe` where there is none."""
    folder = os.environ.get("XDG_STATE_HOME", "")
    try:
        base = Path(folder) if os.path.isabs(folder) else Path.home() / ".local" / "state"
    except RuntimeError as problem:
        raise CannotServe(f"{problem} Say with --store where to keep the sessions.") from problem
    return base / "typed-sessions" / name


def serve(host: str, port: int, url: str | None, snapshot: Path | None) -> None:
    """Serve until SIGINT or SIGTERM, with the sessions in the store at `url` (None: a SQLite file of this user's); those of `memory:` are
    kept in the file `snapshot` (None: one of this user's). Raises `CannotServe`."""
    in_memory = url is not None and url.startswith("memory:")
    with ExitStack() as stack:
        stopped = stack.enter_context(_signals())
        server = stack.enter_context(DemoServer(host, port))
        opened, shown = _opened(url)
        live = Connections()
        manager = SessionManager(opened, timeout=TIMEOUT, lifetime=LIFETIME, granularity=GRANULARITY, gc="active")
        manager.on(End, lambda end: live.wake(end.session.handle))

        class Handler(DemoHandler):
            sessions = manager
            store = opened
            connections = live

        server.RequestHandlerClass = Handler
        try:
            if in_memory:
                file = default_file("demo.snapshot") if snapshot is None else snapshot
                stack.enter_context(_alone(file))
                restored = manager.load_sessions(file)
                manager.save_sessions(file)  # if that cannot be done, nobody should find out at the end
                manager.autosave(file, every=SAVE_EVERY)
                shown, count = str(file), f"; restored: {restored}"
            else:
                _prepare(opened)
                count = ""
        except SessionError as problem:
            another = "file with --snapshot" if in_memory and not isinstance(problem, PolicyError) else "place with --store"
            raise CannotServe(f"{problem}\nGive another {another}.") from problem
        thread = threading.Thread(target=server.serve_forever, args=(0.2,), name="typed_sessions demo", daemon=True)
        thread.start()
        _say(f"typed_sessions demo: {server.url}", sys.stdout)
        _say(f"Ctrl-C stops it. Sessions are kept in {shown}{count}.", sys.stderr)
        if not ip_address(str(server.server_address[0]).partition("%")[0]).is_loopback:
            _say("Other machines can reach it, and plain http can be read on the way there: cookies too.", sys.stderr)
        stopped.recv(1)
        server.shutdown()
        live.stop(PATIENCE)
        try:
            manager.close()
        except SessionError as problem:
            raise CannotServe(f"the sessions could not be saved: {problem}") from problem
        _say(f"Stopped. The sessions are in {shown}.", sys.stderr)


def _opened(url: str | None) -> tuple[Store, str]:
    """The store, and its place as it may be shown. Raises `CannotServe`."""
    try:
        if url is not None:
            return open_store(url), shown_url(url)
        file = default_file("demo.db")
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return SQLiteStore(file), str(file)
    except SessionError as problem:
        raise CannotServe(f"--store: {problem}") from problem
    except OSError as problem:
        raise CannotServe(f"{problem.filename}: {problem.strerror}. Say with --store where to keep the sessions.") from problem


def _prepare(store: Store) -> None:
    """Make what the store needs, and find out now if it cannot be had. Raises `SessionError`."""
    create_schema = getattr(store, "create_schema", None)
    if create_schema is not None:
        create_schema()
    store.scan(None, 1)


def _say(text: str, stream: TextIO) -> None:
    with suppress(OSError):  # nobody reads it any more
        print(text, file=stream, flush=True)


def _why(host: str, port: int, problem: OSError | UnicodeError) -> str:
    if isinstance(problem, UnicodeError | socket.gaierror) or problem.errno == errno.EADDRNOTAVAIL:
        return f"--host {host}: this machine has no such address. 127.0.0.1 is this machine alone, 0.0.0.0 is every IPv4 address it has."
    if isinstance(problem, PermissionError):
        return f"--port {port}: this user may not listen there. Ports from 1024 up are for everybody."
    return f"cannot listen on {host}, port {port}: {problem.strerror}. Give another one with --port; 0 is any that is free."


def _heard(number: int, frame: object) -> None:
    """The byte that the signal wrote says it all."""


@contextmanager
def _signals() -> Generator[socket.socket]:
    """Within the block, a signal to stop becomes a byte that can be received; a second one, while it stops, is only one more."""
    heard, bell = socket.socketpair()
    bell.setblocking(False)
    with heard, bell:
        for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK"):
            number = getattr(signal, name, None)
            if number is not None and not (name == "SIGHUP" and signal.getsignal(number) is signal.SIG_IGN):  # nohup
                signal.signal(number, _heard)
        signal.set_wakeup_fd(bell.fileno(), warn_on_full_buffer=False)
        try:
            yield heard
        finally:
            signal.set_wakeup_fd(-1)


@contextmanager
def _alone(snapshot: Path) -> Generator[None]:
    """Hold `<snapshot>.lock`: two servers that save to one file would undo each other's work. If it is made here, and then the snapshot
    cannot be had, it is removed again."""
    try:
        kind = snapshot.lstat().st_mode
    except OSError:
        kind = stat.S_IFREG  # none yet, or one that will be refused below
    if not stat.S_ISREG(kind):
        what = "a symbolic link, which is not followed" if stat.S_ISLNK(kind) else "no plain file"
        raise CannotServe(f"--snapshot {snapshot}: it is {what}. Give the file itself.")
    try:
        snapshot.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = f"{snapshot}.lock"
        made = not os.path.lexists(path)
        lock = os.open(path, os.O_WRONLY | os.O_CREAT | CAREFULLY, 0o600)
    except OSError as problem:
        raise CannotServe(f"--snapshot {snapshot}: {problem.strerror}. Give a file in a folder that can be written.") from problem
    try:
        try:
            import fcntl
        except ImportError:  # Windows
            pass
        else:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not os.fstat(lock).st_nlink:  # removed by another that was just giving up
                    raise BlockingIOError
            except OSError:
                raise CannotServe(f"another demo is using {snapshot}. Give this one a file of its own with --snapshot.") from None
        try:
            yield
        except BaseException:
            if made:
                with suppress(OSError):
                    os.unlink(path)
            raise
    finally:
        os.close(lock)
