"""Which TCP connections are open, and how a live stream waits: for its session to change or for its browser to leave.

A stream sleeps in `select` on two sockets, its connection and one end of a pair. `wake` writes to the other end; a browser that leaves, the
library that closes the client of an ended session, and a server that stops all make the connection readable. Nothing is polled.
"""

from __future__ import annotations

import selectors
import socket
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from typing import NamedTuple, TypedDict, final

from .. import Client

MOST_STREAMS = 4
"""Of one session: a browser opens six connections to a server at most, and needs some for everything else."""
QUIET = 15.0
"""Seconds after which something is written on a stream all the same: that is how a peer is noticed that vanished without a word."""


class Shown(TypedDict):
    """One client as the page lists it."""

    address: str
    this: bool
    tab: bool


class Open(NamedTuple):
    connection: socket.socket
    address: str


@final
class Watch:
    """A stream's sleep. `paused` is set when the session has too many streams, and this is the oldest."""

    def __init__(self, handle: str) -> None:
        self.handle = handle
        self.paused = False
        self._ear, self._bell = socket.socketpair()
        self._bell.setblocking(False)

    def wake(self) -> None:
        with suppress(OSError):  # full: it has not slept since it was last woken; closed: it sleeps no more
            self._bell.send(b"\0")

    def sleep(self, connection: socket.socket) -> bool | None:
        """True when woken, None when nothing happened for a while, False when the connection is over."""
        with selectors.DefaultSelector() as selector:
            selector.register(connection, selectors.EVENT_READ)
            selector.register(self._ear, selectors.EVENT_READ)
            ready = {key.fileobj for key, _ in selector.select(QUIET)}
        if connection in ready:
            return False  # a stream's browser has nothing to say: this is the end of what it sends
        if self._ear not in ready:
            return None
        self._ear.recv(4096)
        return True

    def close(self) -> None:
        self._ear.close()
        self._bell.close()


@final
class Connections:
    """The open connections of one server."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._open: dict[Client, Open] = {}
        self._watches: dict[Client, Watch] = {}
        self._stopping = False

    @contextmanager
    def connected(self, client: Client, connection: socket.socket, address: str) -> Generator[None]:
        """A connection, for the time of the block."""
        with self._changed:
            self._open[client] = Open(connection, address)
            if self._stopping:
                _no_more(connection)
        try:
            yield
        finally:
            with self._changed:
                del self._open[client]
                self._changed.notify_all()

    @contextmanager
    def watching(self, client: Client, handle: str) -> Generator[Watch]:
        """A connection that streams what happens to a session, for the time of the block."""
        watch = Watch(handle)
        with self._changed:
            others = [other for other in self._watches.values() if other.handle == handle and not other.paused]
            for oldest in others[: max(0, len(others) + 1 - MOST_STREAMS)]:
                oldest.paused = True
            self._watches[client] = watch
        self.wake(handle)
        try:
            yield watch
        finally:
            with self._changed:
                del self._watches[client]
            watch.close()

    def wake(self, handle: str) -> None:
        """Something about a session has changed: its streams look again."""
        with self._changed:
            watches = [watch for watch in self._watches.values() if watch.handle == handle]
        for watch in watches:
            watch.wake()

    def shown(self, clients: Sequence[Client], mine: Client) -> list[Shown]:
        """A session's clients for the page, this one first and then the other tabs."""
        with self._changed:
            found: list[Shown] = [
                {"address": self._open[client].address, "this": client is mine, "tab": client in self._watches}
                for client in clients
                if client in self._open
            ]
        return sorted(found, key=lambda client: (not client["this"], not client["tab"]))

    def stop(self, seconds: float) -> bool:
        """Let every connection finish the request it is at, and no other; whether all of them did in time."""
        with self._changed:
            self._stopping = True
            for each in self._open.values():
                _no_more(each.connection)
            return self._changed.wait_for(lambda: not self._open, seconds)


def _no_more(connection: socket.socket) -> None:
    # Only what comes in: the answer that is being written still goes out.
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RD)
