"""A TCP proxy in front of a server: it counts round trips, and does to a connection what networks do."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress
from types import TracebackType
from typing import Literal

from typing_extensions import Self

Manner = Literal["pass", "mute", "cut", "dribble"]


class Proxy:
    """`turns` counts how often the client spoke after the server did, whatever client it is. `manner` is how answers are treated:

    pass     handed on
    mute     swallowed, while the connection stays open: the other end has gone without a word
    cut      the connection is closed in the place of an answer: the server has done what it was asked to
    dribble  a byte at a time, every 20 ms: each packet comes in time, and the whole never
    """

    def __init__(self, port: int) -> None:
        self._upstream = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.turns = 0
        self.manner: Manner = "pass"
        self._sockets: list[socket.socket] = []
        self._silent: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, problem: BaseException | None, traceback: TracebackType | None) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for end in self._sockets:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        for end in self._sockets:
            end.close()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    @property
    def connections(self) -> int:
        """How many were made so far, by its clients."""
        return len(self._sockets) // 2

    def silence(self) -> None:
        """From now on nothing gets through on the connections that are there, as when a NAT has forgotten them; new ones work."""
        self._silent.update(self._sockets)

    def say(self, unasked: bytes) -> None:
        """Something that the server has not said, on every connection that is there, and at once."""
        for client in self._sockets[::2]:
            with suppress(OSError):
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                client.sendall(unasked)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._upstream))
            spoke: list[str] = ["server"]
            self._sockets += client, server
            for ends in ((client, server, "client"), (server, client, "server")):
                thread = threading.Thread(target=self._hand_on, args=(*ends, spoke), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _hand_on(self, source: socket.socket, target: socket.socket, who: str, spoke: list[str]) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                if source in self._silent:
                    continue
                if who == "client" and spoke[0] != "client":
                    self.turns += 1
                spoke[0] = who
                if who == "client" or self.manner == "pass":
                    target.sendall(data)
                elif self.manner == "cut":
                    break
                elif self.manner == "dribble":
                    for byte in data:
                        target.sendall(bytes([byte]))
                        time.sleep(0.02)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
