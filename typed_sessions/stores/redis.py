"""`RedisStore` and `AsyncRedisStore`: sessions in Redis, for any number of processes. What they say is in `redis_verbs`, how in
`redis_wire`, and to whom in `redis_connect`.

redis-py knows how to find, reach and sign in to a server (TLS, ACL, Sentinel). From there on the socket is ours, because the deadline
is ours: redis-py's timeouts count from one packet to the next, and its retries say a commit twice. Here a verb has its time from the first
name lookup to the last byte, and is said once; a connection on which anything went wrong is not used again. Commands go through hiredis.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from time import monotonic
from typing import Any, TypeAlias, TypeVar, final

import hiredis
import redis
import redis.asyncio
from typing_extensions import override

from ..changes import Changes, Idle, Outcome, Use
from ..errors import StoreUnavailable
from ..forks import tell_of_forks
from ..record import EndReason, Record
from .base import Created
from .redis_cluster import Cluster, Node, Pause, is_elsewhere
from .redis_connect import Connecting, until_of
from .redis_verbs import Command, Reply, Trips
from .redis_wire import AsyncLink, Link, abort, missing, pack, plain, refused, texts
from .turns import Links, Turns, frameless, left_of, made_in_thread

R = TypeVar("R")

CONNECTIONS = 64
"""How many connections an `AsyncRedisStore` has at most, in each event loop; a verb waits for its turn, within its deadline."""


# ------------------------------------------------------------------ for threads


@final
class RedisStore(Connecting):
    """Sessions in Redis 7 or later, or in Valkey, for threads.

    url        redis://, rediss:// (TLS) or unix://, with user, password and database, as redis-py has them
    client     or a `redis.Redis` or `redis.RedisCluster` of your own (Sentinel, credential providers, ...): its way to connect is used,
               not its connections
    prefix     of every key: two applications with different ones do not see each other
    max_bytes  of one session (values and names, packed), and `max_keys` of it: a commit that would make it larger raises `TooLarge`
    deadline   seconds that a verb may take, whatever the network and the server do; then it raises `StoreUnavailable`

    The server may be any node of a Redis Cluster: the store finds the others, and asks each for what it has.

    Each thread that is in a verb has a connection. Where the server takes no more of them (`maxclients`), a verb waits for another's,
    within its deadline. Nothing is asked of the server before the first verb. Raises `PolicyError` for a wrong option.
    """

    blocking = True

    def __init__(
        self,
        url: str | None = None,
        /,
        *,
        client: redis.Redis | redis.RedisCluster | None = None,
        prefix: str = "typed_sessions",
        max_bytes: int = 65_536,
        max_keys: int = 256,
        deadline: float = 5,
    ) -> None:
        super().__init__(url, client, redis, prefix, max_bytes, max_keys, deadline)
        self._links: dict[Node | None, Links[Link]] = {}
        """By node of a cluster; of the server that the store was made for, by None."""
        self._pid = os.getpid()

    @override
    def _pool(self, url: str | None) -> Any:
        try:
            pool: Any = redis.ConnectionPool
            return pool.from_url(url, protocol=2)
        except (ValueError, TypeError, AttributeError) as problem:
            raise self._no_url(problem) from None

    @override
    def _of_cluster(self, client: Any) -> Any:
        return client.get_redis_connection(client.get_default_node() or client.get_nodes()[0]).connection_pool

    # -------------------------------------------------------------- the verbs

    def create(self, record: Record, now: float) -> Created:
        return self._run("create", self._verbs.create(record, now))

    def open(self, locator: bytes, use: Use | None, idle: Idle, now: float) -> Record | None:
        return self._run("open", self._verbs.open(locator, use, idle, now))

    def touch(self, locator: bytes, digest: bytes, idle: Idle, now: float) -> bool:
        return self._run("touch", self._verbs.touch(locator, digest, idle, now))

    def commit(self, locator: bytes, changes: Changes, idle: Idle, now: float) -> Outcome:
        return self._run("commit", self._verbs.commit(locator, changes, idle, now))

    def end(self, locator: bytes, reason: EndReason, now: float, lease: float) -> Record | None:
        return self._run("end", self._verbs.end(locator, reason, now, lease))

    def sweep(self, now: float, limit: int, lease: float, grace: float) -> tuple[Sequence[Record], bool]:
        return self._run("sweep", self._verbs.sweep(now, limit, lease, grace))

    def clear(self, locator: bytes, names: Sequence[str] | None) -> None:
        self._run("clear", self._verbs.clear(locator, names))

    def scan(self, after: bytes | None, limit: int) -> tuple[Sequence[Record], bytes | None]:
        return self._run("scan", self._verbs.scan(after, limit))

    def close(self) -> None:
        """Close the connections that are not in use. The sessions stay, and a verb that is called after makes a new connection."""
        self._mine()
        for links in list(self._links.values()):
            links.drain()

    # -------------------------------------------------------------- carrying out

    def _run(self, verb: str, trips: Trips[R]) -> R:
        until = monotonic() + self._deadline
        try:
            commands = next(trips)
            while True:
                commands = trips.send(self._ask(verb, commands, until))
        except StopIteration as stop:
            result: R = stop.value
            return result

    def _ask(self, verb: str, commands: Sequence[Command], until: float) -> list[Reply]:
        replies: list[Reply] | None = None
        if self._cluster is None:
            replies = self._say(verb, commands, until, None)
            if not (refused(replies) and any(map(is_elsewhere, replies))):
                return replies
        cluster = self._in_cluster()
        errands = cluster.errands(commands, replies)
        try:
            errand = next(errands)
            while True:
                if isinstance(errand, Pause):
                    if monotonic() + errand.seconds >= until:
                        errand = errands.throw(self._still_refused(verb, errand))
                        continue
                    time.sleep(errand.seconds)  # in this verb's own thread: keys are on their way between two nodes
                    errand = errands.send(())
                    continue
                try:
                    replies = self._say(verb, errand.commands, until_of(errand, until), errand.node)
                except StoreUnavailable as problem:
                    errand = errands.throw(problem)
                else:
                    errand = errands.send(replies)
        except StopIteration as stop:
            done: list[Reply] = stop.value
            self._leave_those_gone(cluster)
            return done

    def _say(self, verb: str, commands: Sequence[Command], until: float, node: Node | None) -> list[Reply]:
        """One trip to one server."""
        self._mine()
        links = self._links.get(node) or self._links.setdefault(node, Links(Link.close))
        link = self._idle_one(links) or links.reach(lambda: self._idle_one(links), lambda: self._connect(until, node), self._is_full, until)
        reusable, refusal = False, None
        try:
            links.lend(link)
            said = self._said(commands, node)
            replies = link.exchange(pack(said), len(said), until)
            if said is not commands:
                self._note_policy(replies.pop(), node)
            if refused(replies):
                forgotten = missing(commands, replies)
                if forgotten:
                    for number, reply in zip(forgotten, link.exchange(texts(commands, forgotten), len(forgotten), until), strict=True):
                        replies[number] = reply
                refusal = self._refusal(verb, replies, node)
            reusable = refusal is None or not self._is_elsewhere(refusal)
            if not reusable:
                links.outdate()  # and those that were idle: they lead to where it led
                links.drain()
        except (OSError, hiredis.HiredisError) as problem:
            links.drain()  # what was idle meanwhile is likely to be as dead: one verb pays for it, and not each
            raise self._lost(verb, problem, node) from problem
        finally:
            links.back(link, reusable)
        if refusal is not None:
            raise refusal
        return replies

    def _leave_those_gone(self, cluster: Cluster) -> None:
        while cluster.left:
            links = self._links.pop(cluster.left.pop(), None)
            if links is not None:
                links.outdate()
                links.drain()

    def _mine(self) -> None:
        """After a fork the connections are the parent's: they are closed here, which it does not notice (R7)."""
        if self._pid != os.getpid():
            parent, self._links, self._pid = self._links, {}, os.getpid()
            for links in list(parent.values()):
                links.drain()

    def _idle_one(self, links: Links[Link]) -> Link | None:
        while (link := links.pop()) is not None:
            if link.is_sound():
                return link
            link.close()
        return None

    def _connect(self, until: float, node: Node | None) -> Link:
        def connect() -> Link:
            connection = self._connection(node)
            connection.connect()
            return Link(connection)

        try:
            link = made_in_thread(connect, Link.close, until, "Redis")
        except (redis.RedisError, OSError) as problem:
            raise self._unreached(plain(problem), node) from frameless(problem)
        self._was_reached = True
        return link


# ------------------------------------------------------------------ for asyncio


_Nodes: TypeAlias = dict[Node | None, Turns[AsyncLink]]
"""The connections of an event loop by node, as in `RedisStore`."""


@final
class AsyncRedisStore(Connecting):
    """Sessions in Redis 7 or later, or in Valkey, for asyncio; the parameters are those of `RedisStore`, `client` a `redis.asyncio.Redis`.

    May be used in several event loops: each has connections of its own, 64 at most, or as many as `max_connections` of the URL or the
    client allows; to each node, if it is a cluster. `asyncio.run` and its like close those that are idle; a loop that is closed by hand
    needs `close` awaited in it before.
    """

    def __init__(
        self,
        url: str | None = None,
        /,
        *,
        client: redis.asyncio.Redis | redis.asyncio.RedisCluster | None = None,
        prefix: str = "typed_sessions",
        max_bytes: int = 65_536,
        max_keys: int = 256,
        deadline: float = 5,
    ) -> None:
        super().__init__(url, client, redis.asyncio, prefix, max_bytes, max_keys, deadline)
        self._most: int = min(CONNECTIONS, self._max_connections)
        self._loops: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Nodes] = weakref.WeakKeyDictionary()
        self._last: tuple[Callable[[], asyncio.AbstractEventLoop | None], _Nodes] = (lambda: None), {}
        """The loop of the last verb: mostly it is the only one."""
        self._connecting: set[asyncio.Task[None]] = set()
        self._lock = threading.Lock()
        tell_of_forks(self)

    def after_fork(self) -> None:
        """In the child of a fork."""
        self._lock = threading.Lock()

    @override
    def _pool(self, url: str | None) -> Any:
        try:
            pool: Any = redis.asyncio.ConnectionPool
            return pool.from_url(url, protocol=2)
        except (ValueError, TypeError, AttributeError) as problem:
            raise self._no_url(problem) from None

    @override
    def _of_cluster(self, client: Any) -> Any:
        # It asks the cluster when it is first used: until then it knows what it was made with.
        return next(iter(client.nodes_manager.startup_nodes.values()))

    # -------------------------------------------------------------- the verbs

    async def create(self, record: Record, now: float) -> Created:
        return await self._run("create", self._verbs.create(record, now))

    async def open(self, locator: bytes, use: Use | None, idle: Idle, now: float) -> Record | None:
        return await self._run("open", self._verbs.open(locator, use, idle, now))

    async def touch(self, locator: bytes, digest: bytes, idle: Idle, now: float) -> bool:
        return await self._run("touch", self._verbs.touch(locator, digest, idle, now))

    async def commit(self, locator: bytes, changes: Changes, idle: Idle, now: float) -> Outcome:
        return await self._run("commit", self._verbs.commit(locator, changes, idle, now))

    async def end(self, locator: bytes, reason: EndReason, now: float, lease: float) -> Record | None:
        return await self._run("end", self._verbs.end(locator, reason, now, lease))

    async def sweep(self, now: float, limit: int, lease: float, grace: float) -> tuple[Sequence[Record], bool]:
        return await self._run("sweep", self._verbs.sweep(now, limit, lease, grace))

    async def clear(self, locator: bytes, names: Sequence[str] | None) -> None:
        await self._run("clear", self._verbs.clear(locator, names))

    async def scan(self, after: bytes | None, limit: int) -> tuple[Sequence[Record], bytes | None]:
        return await self._run("scan", self._verbs.scan(after, limit))

    async def close(self) -> None:
        """Close the connections that are not in use. The sessions stay, and a verb that is called after makes a new connection."""
        here = asyncio.get_running_loop()
        with self._lock:
            loops = list(self._loops.items())
        for loop, nodes in loops:
            for turns in list(nodes.values()):
                links, turns.idle = turns.idle, []
                if loop.is_closed():
                    continue
                for link in links:
                    if loop is here:
                        link.close()
                    else:
                        loop.call_soon_threadsafe(link.close)
        await asyncio.sleep(0)  # a transport closes its socket one turn later

    # -------------------------------------------------------------- carrying out

    async def _run(self, verb: str, trips: Trips[R]) -> R:
        until = monotonic() + self._deadline
        try:
            commands = next(trips)
            while True:
                commands = trips.send(await self._ask(verb, commands, until))
        except StopIteration as stop:
            result: R = stop.value
            return result

    async def _ask(self, verb: str, commands: Sequence[Command], until: float) -> list[Reply]:
        replies: list[Reply] | None = None
        if self._cluster is None:
            replies = await self._say(verb, commands, until, None)
            if not (refused(replies) and any(map(is_elsewhere, replies))):
                return replies
        cluster = self._in_cluster()
        errands = cluster.errands(commands, replies)
        try:
            errand = next(errands)
            while True:
                if isinstance(errand, Pause):
                    if monotonic() + errand.seconds >= until:
                        errand = errands.throw(self._still_refused(verb, errand))
                        continue
                    await asyncio.sleep(errand.seconds)
                    errand = errands.send(())
                    continue
                try:
                    replies = await self._say(verb, errand.commands, until_of(errand, until), errand.node)
                except StoreUnavailable as problem:
                    errand = errands.throw(problem)
                else:
                    errand = errands.send(replies)
        except StopIteration as stop:
            done: list[Reply] = stop.value
            self._leave_those_gone(cluster)
            return done

    async def _say(self, verb: str, commands: Sequence[Command], until: float, node: Node | None) -> list[Reply]:
        """As `RedisStore._say`."""
        turns = self._turns(node)
        if turns.free:
            turns.free -= 1
        else:
            try:
                await turns.wait(until)
            except TimeoutError as problem:
                raise self._crowded(self._most, node) from problem
        link = None
        reusable, refusal = False, None
        try:
            link = self._take(turns) or await self._reach(turns, until, node)
            turns.lend(link)
            said = self._said(commands, node)
            replies = await link.exchange(pack(said), len(said), until)
            if said is not commands:
                self._note_policy(replies.pop(), node)
            if refused(replies):
                forgotten = missing(commands, replies)
                if forgotten:
                    for number, reply in zip(
                        forgotten, await link.exchange(texts(commands, forgotten), len(forgotten), until), strict=True
                    ):
                        replies[number] = reply
                refusal = self._refusal(verb, replies, node)
            reusable = refusal is None or not self._is_elsewhere(refusal)
            if not reusable:
                turns.outdate()
                turns.drain(AsyncLink.close)
        except (OSError, hiredis.HiredisError) as problem:
            turns.drain(AsyncLink.close)  # as in `RedisStore`
            raise self._lost(verb, problem, node) from problem
        finally:
            # Also when the task is cancelled: an answer that is still to come must not be taken for somebody else's (R4).
            if link is not None:
                turns.back(link, reusable, AsyncLink.close)
            turns.leave()
        if refusal is not None:
            raise refusal
        return replies

    def _leave_those_gone(self, cluster: Cluster) -> None:
        while cluster.left:
            node = cluster.left.pop()
            self._turns(node).outdate()
            self._turns(node).drain(AsyncLink.close)

    def _turns(self, node: Node | None = None) -> Turns[AsyncLink]:
        loop = asyncio.get_running_loop()
        last, nodes = self._last
        if last() is not loop:
            with self._lock:
                # What is idle in a loop keeps the loop, so that it is not enough that nobody else does.
                for closed in [other for other in self._loops if other.is_closed()]:
                    for turns in self._loops.pop(closed).values():
                        turns.drain(AsyncLink.drop)
                nodes = self._loops.setdefault(loop, {})
            self._last = weakref.ref(loop), nodes
        known = nodes.get(node)
        if known is None:
            known = nodes[node] = Turns(self._most)
            known.drain_with_loop(AsyncLink.close)
        return known

    def _take(self, turns: Turns[AsyncLink]) -> AsyncLink | None:
        while turns.idle:
            link = turns.idle.pop()
            if link.is_sound():
                return link
            link.close()
        return None

    async def _reach(self, turns: Turns[AsyncLink], until: float, node: Node | None) -> AsyncLink:
        return await turns.reach(lambda: self._take(turns), lambda: self._connect(until, node), self._is_full, until)

    async def _connect(self, until: float, node: Node | None) -> AsyncLink:
        try:
            connection = self._connection(node)
            left = left_of(until)
        except OSError as problem:  # TimeoutError is one
            raise self._unreached(problem, node) from problem
        # Not `wait_for`: where redis-py does not notice that it is cancelled, that would wait for a timeout of its own as well.
        connecting = asyncio.ensure_future(connection.connect())
        try:
            await asyncio.wait((connecting,), timeout=left)
            if not connecting.done():
                raise self._unreached(TimeoutError(), node)
            connecting.result()
            self._was_reached = True
            return AsyncLink(connection)
        except (redis.RedisError, OSError) as problem:
            raise self._unreached(plain(problem), node) from frameless(problem)
        finally:
            connecting.cancel()
            self._connecting.add(connecting)  # the loop keeps tasks weakly
            connecting.add_done_callback(partial(self._connected, connection))
            abort(connection)

    def _connected(self, connection: Any, connecting: asyncio.Task[None]) -> None:
        """It has ended, maybe after everybody has given it up."""
        self._connecting.discard(connecting)
        if not connecting.cancelled():
            connecting.exception()  # which was told, or nobody waits for
        abort(connection)
