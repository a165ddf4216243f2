"""Where a Redis server is, how redis-py gets there, and what to tell of one that cannot be reached, does not answer, or refuses.

It knows neither threads nor event loops: `redis` has a store for each.
"""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any

import hiredis
import redis
import redis.asyncio
from redis.backoff import NoBackoff
from redis.retry import Retry

from ..declared import unfinished_too
from ..errors import PolicyError, StoreUnavailable
from .redis_cluster import CLUSTER_ACL, Cluster, Node, Parcel, Pause, is_elsewhere
from .redis_verbs import DAMAGED, Command, Reply, Verbs
from .turns import frameless

logger: logging.Logger = logging.getLogger("typed_sessions")

_OTHER_DATABASE = re.compile(r"rediss?://[^/?#]*/(?![0-9]*(?:[?#]|$))")
_ELSEWHERE = ("READONLY", "LOADING", "MASTERDOWN", "NOAUTH", "NOREPLICAS")
"""Refusals of a server that is not the right one any more, or not yet: the next verb looks for it anew."""
_FORBIDDEN = ("NOPERM", "ACL failure", "The user executing the script")
"""What a server says to a user who may not do that, outside of scripts and in them."""
_CLOSED = ("reset by peer", "losed by server", "Broken pipe", "Connection lost", "UNEXPECTED_EOF")
"""What is seen of a server that hears no TLS where it expects some, and of one that has as many clients as it takes."""
_FULL = "max number of clients reached"
_SAYS_NOTHING_OF_IT = ("Redis URL must specify", "Invalid value for ", "its database")
"""How the texts begin, of redis-py and of ours, that quote nothing of a URL but the name of an option."""
_BRACKETS = re.compile(r"[^/]*//[^/?#@]*[\[\]][^/?#]*@")
"""In a name or a password."""
_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_POLICY = Command(("INFO", "memory"))


def _kind(thing: object) -> str:
    """The type of something, with its module if it has one: clients for threads and for asyncio have the same name."""
    kind = type(thing)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


def _shorter(asked: object, deadline: float) -> float:
    """How long each address of a host's name is waited for: what a URL or a client says, if that leaves time for the next address."""
    return min(float(asked), deadline) if isinstance(asked, (int, float)) and asked > 0 else deadline


def until_of(parcel: Parcel, until: float) -> float:
    """Until when a parcel may take."""
    now = monotonic()
    return now + (until - now) * parcel.share


class Connecting:
    """What both stores are made of: where the server is, the verbs, and what a reply that is an error means."""

    def __init__(self, url: str | None, client: Any, kind: Any, prefix: str, max_bytes: int, max_keys: int, deadline: float) -> None:
        # Any: redis-py's clients and pools are typed for what they give back, not for how they connect
        name = type(self).__name__
        if (url is None) == (client is None):
            raise PolicyError(f"{name}: expected a URL, such as {name}('redis://localhost:6379/0'), or client=, one of the two")
        if url is not None and not isinstance(url, str):
            raise PolicyError(
                f"{name}: expected a URL, such as {name}('redis://localhost:6379/0'), not a {_kind(url)}; a client is client="
            )
        if not isinstance(deadline, (int, float)) or isinstance(deadline, bool) or not 0 < deadline < math.inf:
            raise PolicyError(f"{name}(deadline={deadline!r}): expected a number of seconds above 0")
        if client is not None and not isinstance(client, (kind.Redis, kind.RedisCluster)):
            raise PolicyError(
                f"{name}(client=...): expected a {kind.__name__}.Redis or a {kind.__name__}.RedisCluster, not a {_kind(client)}"
            )
        self._verbs = Verbs(name, prefix, max_bytes, max_keys)
        self._deadline = float(deadline)
        self._asked: set[Node | None] = set()
        """Who has been asked how it makes room."""
        self._was_reached = False
        self._client = client  # kept, also for its connections: those of a Sentinel's ask its pool where the master is
        if client is None:
            # redis-py takes what is no number for database 0, where other applications may be.
            if isinstance(url, str) and _OTHER_DATABASE.match(url):
                raise self._no_url(ValueError("its database is no number, as in redis://localhost:6379/0"))
            if isinstance(url, str) and _BRACKETS.match(url):
                raise self._no_url(ValueError("brackets"))  # some Pythons take them there
            pool = self._pool(url)
        else:
            pool = self._of_cluster(client) if isinstance(client, kind.RedisCluster) else client.connection_pool
        self._connection_class: Callable[..., Any] = pool.connection_class
        self._connection_options: dict[str, Any] = {
            **pool.connection_kwargs,
            "retry": Retry(NoBackoff(), 0),
            "retry_on_error": [],
            "retry_on_timeout": False,
            "socket_timeout": self._deadline,
            "socket_connect_timeout": _shorter(pool.connection_kwargs.get("socket_connect_timeout"), self._deadline),
            "health_check_interval": 0,
        }
        options = self._connection_options
        for option in _FILES:
            if options.get(option) and not os.path.exists(options[option]):
                raise PolicyError(f"{name}: {option}={options[option]}: there is no such file")
        try:
            self._is_tls = isinstance(self._connection(), (redis.SSLConnection, redis.asyncio.SSLConnection))
        except (TypeError, ValueError, redis.RedisError) as problem:
            raise PolicyError(f"{name}: an option of the connection is wrong: {frameless(problem)}") from None
        where = options.get("path") or f"{options.get('host', 'localhost')}:{options.get('port', 6379)}"
        self._max_connections: int = pool.max_connections
        self._cluster: Cluster | None = None
        """What is known of the cluster, since the server has said that it is in one."""
        if client is not None and isinstance(client, kind.RedisCluster):
            nodes = client.nodes_manager
            seeds = [Node(str(node.host), int(node.port)) for node in nodes.startup_nodes.values()]
            self._cluster = Cluster(str(options.get("host", "localhost")), seeds, getattr(nodes, "address_remap", None))
        service = getattr(pool, "service_name", None)
        self._where = f"Redis at {where}" if service is None else f"Redis, the master {service!r} of the sentinels,"
        self.prefix = prefix

    def _pool(self, url: str | None) -> Any:
        raise NotImplementedError

    def _of_cluster(self, client: Any) -> Any:
        """How a client of a cluster connects to one of its nodes, as a pool would tell."""
        raise NotImplementedError

    def _no_url(self, problem: Exception) -> PolicyError:
        why = str(problem)
        if not why.startswith(_SAYS_NOTHING_OF_IT):  # it quotes what may be a part of a password that was not percent-encoded
            what = "its port is no number" if why.startswith("Port ") else "it cannot be read"
            why = f"{what}; a password with '[', ']', '/', '#', '?' or '@' in it has to be percent-encoded"
        return PolicyError(f"{type(self).__name__}: that is no Redis URL: {why}")

    @unfinished_too
    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.prefix!r} on {self._where}>"  # never the password

    def _connection(self, node: Node | None = None) -> Any:
        if node is None:
            return self._connection_class(**self._connection_options)
        if "path" in self._connection_options:
            raise ConnectionError("a Unix socket leads to one node of the cluster only; give a URL that begins with redis://")
        return self._connection_class(**{**self._connection_options, "host": node.host, "port": node.port})

    def _at(self, node: Node | None) -> str:
        return self._where if node is None else f"Redis at {node.host}:{node.port}"

    def _in_cluster(self) -> Cluster:
        """From now on: a server has refused a command because another one has its key."""
        if self._cluster is None:
            self._cluster = Cluster(str(self._connection_options.get("host", "localhost")))
        return self._cluster

    def _still_refused(self, verb: str, pause: Pause) -> StoreUnavailable:
        return StoreUnavailable(f"{self._where} refused {verb} for {self._deadline:g} s: {pause.refused}")

    def _said(self, commands: Sequence[Command], node: Node | None) -> Sequence[Command]:
        """What to send for these commands: with the first that a server gets goes the question how it makes room."""
        return commands if node in self._asked else (*commands, _POLICY)

    def _note_policy(self, reply: Reply, node: Node | None) -> None:
        """Warn if the server throws out sessions that are in use."""
        self._asked.add(node)
        if not isinstance(reply, bytes):
            return  # not allowed to ask
        for line in reply.decode("utf-8", "replace").splitlines():
            name, _, policy = line.partition(":")
            if name == "maxmemory_policy" and policy != "noeviction":
                # Also of volatile-*: sessions have a TTL, and so have the sorted sets, without which a session that is there is not found.
                logger.warning(
                    "%s has the eviction policy %s: when its memory is full, sessions in use disappear without an End, and sweeps "
                    "and listings miss others that are there; set maxmemory-policy to noeviction",
                    self._at(node),
                    policy,
                )

    def _refusal(self, verb: str, replies: list[Reply], node: Node | None) -> StoreUnavailable | None:
        """What the server refused, if it did, and no other node may have it. A reply about what is stored under a key becomes `DAMAGED`."""
        for number, reply in enumerate(replies):
            if isinstance(reply, hiredis.ReplyError) and not is_elsewhere(reply):
                text = str(reply)
                if any(sign in text for sign in _FORBIDDEN):
                    text += f"; what its user needs, by ACL SETUSER: {self._verbs.acl}{'' if self._cluster is None else CLUSTER_ACL}"
                if not text.startswith("WRONGTYPE"):
                    return StoreUnavailable(f"{self._at(node)} refused {verb}: {text}")
                replies[number] = DAMAGED
        return None

    def _is_elsewhere(self, refusal: StoreUnavailable) -> bool:
        """Whether this connection is not the one to ask any more."""
        return any(word in str(refusal) for word in _ELSEWHERE)

    def _is_full(self, problem: StoreUnavailable) -> bool:
        """Whether a connection could not be made because there are too many of them. Mostly the server closes it before that is heard."""
        said = str(problem.__cause__)
        return _FULL in said or (self._was_reached and any(sign in said for sign in _CLOSED))

    def _crowded(self, connections: int, node: Node | None) -> StoreUnavailable:
        return StoreUnavailable(
            f"{self._at(node)}: all {connections} connections of this event loop are in use, and none became free "
            f"within {self._deadline:g} s; nothing was sent"
        )

    def _unreached(self, problem: BaseException | str, node: Node | None) -> StoreUnavailable:
        slow = isinstance(problem, TimeoutError)
        said = f"it took longer than {self._deadline:g} s" if slow else str(problem) or repr(problem)
        if "CERTIFICATE_VERIFY_FAILED" in said:
            said += " (which authorities to trust is said by ?ssl_ca_certs=ca.pem)"
        elif self._was_reached:
            if any(sign in said for sign in _CLOSED):
                said += " (has it as many clients as its maxclients allows?)"
        elif self._is_tls and (slow or "[SSL" in said):
            said += " (does it speak TLS? If not, its URL begins with redis://)"
        elif not self._is_tls and any(sign in said for sign in _CLOSED):
            said += " (does it expect TLS? Then its URL begins with rediss://)"
        return StoreUnavailable(f"{self._at(node)} cannot be reached: {said}; nothing was sent")

    def _lost(self, verb: str, problem: BaseException, node: Node | None) -> StoreUnavailable:
        slow = isinstance(problem, TimeoutError)
        said = f"did not answer {verb} within {self._deadline:g} s" if slow else f"broke the connection during {verb} ({problem})"
        unknown = verb not in ("open", "scan")
        done = ": the answer was lost, it may have been applied, and is not repeated" if unknown else ""
        return StoreUnavailable(f"{self._at(node)} {said}{done}", unknown=unknown)
