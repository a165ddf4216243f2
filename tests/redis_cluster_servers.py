"""A Redis Cluster of the tests' own, of three masters, which may have a replica of the first."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from tests.redis_server import PATIENCE, RedisServer

SLOTS = 16_384


class RedisClusterServers:
    def __init__(self, program: str, *, replica: bool = False) -> None:
        options = [*("--cluster-enabled", "yes"), *("--cluster-node-timeout", "1000"), *("--cluster-replica-validity-factor", "0")]
        options += [*("--repl-diskless-sync-delay", "0"), *("--unixsocket", "redis.sock")]
        self.masters: Sequence[RedisServer] = [RedisServer(program, *options) for _ in range(3)]
        self.replica: RedisServer | None = RedisServer(program, *options) if replica else None
        self.url = self.masters[0].url
        first = self.masters[0]
        for number, master in enumerate(self.masters):
            begin, end = number * SLOTS // 3, (number + 1) * SLOTS // 3 - 1
            self.tell(master, "ADDSLOTSRANGE", begin, end)
            self.tell(master, "SET-CONFIG-EPOCH", number + 1)
        for server in self.all[1:]:
            self.tell(server, "MEET", "127.0.0.1", first.port)
        wait_for(lambda: all(map(self.is_whole, self.all)))
        if self.replica is not None:
            self.tell(self.replica, "REPLICATE", self.id_of(first))
            wait_for(lambda: self.replica is not None and self.follows(self.replica))

    @property
    def all(self) -> Sequence[RedisServer]:
        return self.masters if self.replica is None else [*self.masters, self.replica]

    def tell(self, server: RedisServer, *words: Any) -> str:
        """A CLUSTER command for one node, and its reply."""
        with server.client(decode_responses=True) as client:
            client.response_callbacks.clear()
            return str(client.execute_command("CLUSTER", *words))

    def id_of(self, server: RedisServer) -> str:
        return self.tell(server, "MYID")

    def is_whole(self, server: RedisServer) -> bool:
        """Whether this node knows all others, and which node has which slot."""
        said = self.tell(server, "INFO").splitlines()
        return {"cluster_state:ok", f"cluster_known_nodes:{len(self.all)}"} <= set(said)

    def follows(self, server: RedisServer) -> bool:
        with server.client() as client:
            replication: dict[str, str] = client.info("replication")
        return replication["role"] == "slave" and replication["master_link_status"] == "up"

    def stop(self) -> None:
        for server in self.all:
            server.stop()


def wait_for(condition: Callable[[], bool]) -> None:
    """Until it is true: nodes tell each other what they know several times a second."""
    give_up = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < give_up, "the cluster does not come to be as it should"
        time.sleep(0.02)
