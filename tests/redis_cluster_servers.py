"""A Redis Cluster of the tests' own, of three masters, which may have a replica of the first, and may speak TLS only to each other."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from tests.certificates import Authority
from tests.redis_server import PATIENCE, RedisServer, free_port

SLOTS = 16_384


class RedisClusterServers:
    def __init__(self, program: str, *more: str, replica: bool = False, authority: Authority | None = None) -> None:
        options = [*("--cluster-enabled", "yes"), *("--cluster-node-timeout", "1000"), *("--cluster-replica-validity-factor", "0")]
        options += [*("--repl-diskless-sync-delay", "0"), *("--unixsocket", "redis.sock")]
        options += more
        self.ports: list[int] = []
        """Where its masters expect TLS, if they do."""
        if authority is not None:
            its = authority.issue("node")
            options += [*("--tls-cert-file", str(its.certificate)), *("--tls-key-file", str(its.key)), *("--tls-cluster", "yes")]
            options += [*("--tls-ca-cert-file", str(authority.certificate)), *("--tls-auth-clients", "no")]
            ports = (port for port in iter(free_port, None) if port < 55_536)  # as in RedisServer
            self.ports = [next(ports) for _ in range(3)]
        self.masters: Sequence[RedisServer] = [
            RedisServer(program, *options, *(("--tls-port", str(self.ports[number])) if self.ports else ())) for number in range(3)
        ]
        self.replica: RedisServer | None = RedisServer(program, *options) if replica else None
        first = self.masters[0]
        self.url = first.url
        if authority is not None:
            self.url = f"rediss://127.0.0.1:{self.ports[0]}/0?ssl_ca_certs={authority.certificate}"
        for number, master in enumerate(self.masters):
            begin, end = number * SLOTS // 3, (number + 1) * SLOTS // 3 - 1
            self.tell(master, "ADDSLOTSRANGE", begin, end)
            self.tell(master, "SET-CONFIG-EPOCH", number + 1)
        for server in self.all[1:]:
            self.tell(server, "MEET", "127.0.0.1", self.ports[0] if self.ports else first.port)
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
