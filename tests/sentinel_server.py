"""A master, its replica, and a Redis Sentinel that knows them, all of the tests' own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from typing import Any

import redis

from tests.redis_server import PATIENCE, RedisServer, free_port

SERVICE = "shop"
_QUICK = ("--repl-diskless-sync-delay", "0")
_PERIODS = ("info-period", "300", "publish-period", "100")
"""Milliseconds; by default it takes ten seconds for what a test waits for. (`ping-period` is also for how long it trusts an answer.)"""


class SentinelServer:
    """`servers` are two: which of them is the master changes."""

    def __init__(self, program: str) -> None:
        self._folder = tempfile.mkdtemp(prefix="sentinel-")
        self.port = free_port()
        first = RedisServer(program, *_QUICK)
        self.servers = [first, RedisServer(program, *_QUICK, "--replicaof", "127.0.0.1", str(first.port))]
        file = os.path.join(self._folder, "sentinel.conf")
        with open(file, "w", encoding="utf-8") as out:
            out.write(
                f"port {self.port}\nbind 127.0.0.1\ndir {self._folder}\n"
                f"sentinel monitor {SERVICE} 127.0.0.1 {first.port} 1\n"
                # Not much less: a busy machine would do, and the failover would be to a server that has just come back, empty.
                f"sentinel down-after-milliseconds {SERVICE} 2500\n"
                f"sentinel failover-timeout {SERVICE} 1000\n"
            )
        self._process = subprocess.Popen([program, file, "--sentinel"], stdout=subprocess.DEVNULL)
        self._wait(lambda: self.ask("DEBUG", *_PERIODS) == b"OK", "the sentinel does not answer")
        self.settle()

    def ask(self, *words: str) -> Any:
        """`SENTINEL ...`; None if it does not answer."""
        try:
            client: Any = redis.Redis(port=self.port, protocol=2)
            with client:
                return client.execute_command("SENTINEL", *words)
        except redis.ConnectionError:
            assert self._process.poll() is None, "the sentinel has stopped"
            return None

    @property
    def master(self) -> RedisServer:
        """The server that the Sentinel calls the master."""
        port = int(self.ask("GET-MASTER-ADDR-BY-NAME", SERVICE)[1])
        return next(server for server in self.servers if server.port == port)

    def settle(self) -> None:
        """Wait until the Sentinel knows of one master and one replica that follows it, and both know it too."""
        self._wait(self._is_settled, "the sentinel finds no replica that follows its master")

    def freeze(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        self._process.kill()
        self._process.wait(PATIENCE)
        for server in self.servers:
            server.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _is_settled(self) -> bool:
        replicas: list[list[bytes]] = self.ask("REPLICAS", SERVICE) or []
        told = [dict(zip(replica[::2], replica[1::2], strict=True)) for replica in replicas]
        if [(one[b"flags"], one[b"master-link-status"]) for one in told] != [(b"slave", b"ok")]:
            return False
        master = self.master
        if told[0][b"master-port"] != str(master.port).encode():
            return False
        return all(_role(server) == ("master" if server is master else "slave") for server in self.servers)

    def _wait(self, condition: Callable[[], bool], otherwise: str) -> None:
        give_up = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < give_up, otherwise
            time.sleep(0.01)


def _role(server: RedisServer) -> str:
    try:
        with server.client(retry=None) as client:
            said = client.role()
    except (redis.ConnectionError, redis.BusyLoadingError):
        return ""
    role = said[0].decode()
    return role if role == "master" or said[3] == b"connected" else ""
