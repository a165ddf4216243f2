"""A redis-server of the tests' own, on a free port of this machine and in a folder of its own, which can be made to fail."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import tempfile
import time
from typing import Any

import redis

ATTEMPTS = 5
"""How many ports are tried for a server."""

PATIENCE = 20.0
"""Seconds for a server to be ready, or gone; a busy machine needs a few tenths."""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


class RedisServer:
    def __init__(self, program: str, *options: str) -> None:
        self._program = program
        self._options = options
        self.folder = tempfile.mkdtemp(prefix="redis-")
        for left in reversed(range(ATTEMPTS)):
            # Below 55,536, since a node of a cluster takes the port 10,000 above it as well.
            self.port = next(port for port in iter(free_port, None) if port < 55_536)
            self.url = f"redis://127.0.0.1:{self.port}"
            try:
                self.start()
                break
            except AssertionError:  # somebody else has been given one of the two ports meanwhile
                if not left or self._process.poll() is None:
                    raise

    def launch(self, *options: str) -> None:
        """Start it, again on the same port and in the same folder, with these options too this time. It may not answer yet."""
        place = ("--port", str(self.port), "--bind", "127.0.0.1", "--dir", self.folder, "--save", "", "--appendonly", "no")
        self._process = subprocess.Popen([self._program, *place, *self._options, *options], stdout=subprocess.DEVNULL)

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self.launch()
        give_up = time.monotonic() + PATIENCE
        while True:
            try:
                with self.client() as client:
                    client.ping()
                return
            except (redis.ConnectionError, redis.BusyLoadingError):
                assert self._process.poll() is None, "redis-server has stopped"
                assert time.monotonic() < give_up, "redis-server does not answer"
                time.sleep(0.01)

    def client(self, **options: Any) -> Any:  # redis-py types its commands for sync and async at once, and some not at all
        """A client of the tests' own, to look behind the store's back."""
        return redis.Redis(port=self.port, protocol=2, **options)

    def freeze(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(PATIENCE)

    def restart(self) -> None:
        self.kill()
        self.start()

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)
