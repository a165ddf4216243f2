"""`PostgresStore` and `AsyncPostgresStore`: sessions in PostgreSQL, for any number of processes. What they say is in `postgres_verbs`, and
the other half of it in `postgres_schema`, in the database; on what they say it is in `postgres_wire`.

psycopg connects and speaks the protocol. How long anything takes is decided here. A verb has its time from the wait for a connection to
the last byte, and is said once, unless the server says that it has done nothing because another transaction came first; a connection on
which anything went wrong is not used again, and those that were idle meanwhile are closed too. (That is why psycopg's pool is not used:
it goes on waiting for a server that refuses connections, and after an outage for a time that doubles.) Each verb is one statement in a
transaction of its own, nothing is prepared or set in the server's session, so that a pool in transaction mode may stand between.
"""

from __future__ import annotations

import asyncio
import math
import os
import re
import threading
import weakref
from collections.abc import Sequence
from functools import partial
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any, TypeVar, final

import psycopg
from psycopg import conninfo

from ..changes import Changes, Idle, Outcome, Use
from ..declared import unfinished_too
from ..errors import PolicyError, StoreUnavailable
from ..forks import tell_of_forks
from ..record import EndReason, Record
from .base import Created
from .postgres_schema import VERSION, schema_sql
from .postgres_verbs import Row, Statement, Verbs
from .postgres_wire import AsyncConnection, Connection, connecting, is_full, is_refusal, may_go_on, may_repeat
from .turns import Links, Turns, frameless, left_of, made_in_thread, stirs

R = TypeVar("R")

_OF_THE_DEADLINE = 0.8
"""For so much of what is left of it a function waits for a row that another has locked: then the server says so, and it is known that
nothing was done."""
_LONGEST_WAIT = 2**31 - 1
"""Milliseconds; the server takes no more."""
_PORTS = range(1, 65_536)
_ENCODED = "a password with '/', '#', '?' or '@' in it has to be percent-encoded"
_TWO_ATS = re.compile(r"postgres(ql)?://[^/?#]*@[^/?#]*@")
_NOT_THERE = ("3F000", "42P01")
"""SQLSTATE of a schema or a table that does not exist."""
_NO_FUNCTION = "42883"
_inherited: list[object] = []
"""Connections of a parent process: closing them here would close them there, so they are kept and never used."""


class _Store:
    """What both stores are made of: where the server is, the verbs, and what an error means."""

    def __init__(self, url: str, schema: str, max_bytes: int, max_keys: int, max_connections: int, deadline: float) -> None:
        name = type(self).__name__
        if not isinstance(deadline, int | float) or isinstance(deadline, bool) or not 0 < deadline < math.inf:
            raise PolicyError(f"{name}(deadline={deadline!r}): expected a number of seconds above 0")
        if type(max_connections) is not int or not 1 <= max_connections <= 10_000:
            raise PolicyError(f"{name}(max_connections={max_connections!r}): expected a whole number from 1 to 10000")
        if not isinstance(url, str):
            raise PolicyError(f"{name}: expected a URL, such as {name}('postgresql://localhost/app'), not a {type(url).__name__}")
        try:
            where = conninfo.conninfo_to_dict(url)
        except psycopg.Error:  # whose text shows the URL, and a password in it
            unknown = _unknown_option(url)
            if unknown is not None:
                raise PolicyError(f"{name}: there is no option {unknown!r}, neither here nor in libpq") from None
            raise PolicyError(
                f"{name}: that is no PostgreSQL URL; expected postgresql://user:password@host:port/database or libpq's key=value pairs"
            ) from None
        ports = str(where.get("port") or "").split(",")
        if not all(not port or (port.isdecimal() and len(port) <= 5 and int(port) in _PORTS) for port in ports):
            # Not quoted: it may be the beginning of a password that was not percent-encoded.
            raise PolicyError(f"{name}: its port is no number from 1 to 65535; {_ENCODED}")
        if _TWO_ATS.match(url):
            # libpq ends the password at the first one, and would take the rest of it for the host, which is shown.
            raise PolicyError(
                f"{name}: there are two '@' before its host; a password with '/', '#', '?' or '@' in it has to be percent-encoded"
            )
        self._verbs = Verbs(name, schema, max_bytes, max_keys)
        self._url = url
        self._schema = schema
        self._max_connections = max_connections
        self._deadline = float(deadline)
        host = where.get("host") or where.get("hostaddr") or "localhost"
        self._where = f"PostgreSQL at {host}:{where.get('port') or 5432}/{where.get('dbname') or ''}"
        self._connecting = connecting(where, self._deadline)

    @unfinished_too
    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._where}, schema {self._schema}>"

    @property
    def schema_sql(self) -> str:
        """What `create_schema` does, as SQL, for whoever may do that in the database; running it again changes nothing.

        A role that uses the store then needs USAGE of the schema, and SELECT, INSERT, UPDATE and DELETE on its table; and EXECUTE on
        its functions where everybody's was revoked (ALTER DEFAULT PRIVILEGES), again after a version that has new ones.
        """
        return schema_sql(self._schema)

    def _parameters(self, statement: Statement[Any], until: float) -> Sequence[Any]:
        if not statement.waits:
            return statement.parameters
        wait = int((until - monotonic()) * _OF_THE_DEADLINE * 1_000)
        return [*statement.parameters, max(1, min(wait, _LONGEST_WAIT))]  # 0 would be for ever

    def _unreached(self, problem: BaseException | str) -> StoreUnavailable:
        slow = isinstance(problem, TimeoutError | psycopg.errors.ConnectionTimeout)
        said = f"it took longer than {self._deadline:g} s" if slow else _text(problem)
        return StoreUnavailable(f"{self._where} cannot be reached: {said}; nothing was sent")

    def _crowded(self) -> StoreUnavailable:
        return StoreUnavailable(
            f"all {self._max_connections} connections to {self._where} were in use for {self._deadline:g} s; nothing was sent"
        )

    def _failure(self, verb: str, problem: psycopg.Error, until: float) -> StoreUnavailable:
        """What went wrong: the server said so, or nobody knows whether it did what it was told."""
        if problem.sqlstate in _NOT_THERE:
            return StoreUnavailable(
                f"{self._where} has no tables of typed_sessions (version {VERSION}) in the schema {self._schema}, or this user may not see "
                "them: call create_schema() once, or let somebody run its schema_sql"
            )
        if problem.sqlstate == _NO_FUNCTION:
            return StoreUnavailable(
                f"the schema {self._schema} of {self._where} was made by another version of typed_sessions, this one needs its version "
                f"{VERSION}: call create_schema() once, or let somebody run its schema_sql; the sessions stay, and both versions go on"
            )
        if is_refusal(problem):
            return StoreUnavailable(f"{self._where} refused {verb}: {_text(problem)}")
        said = f"did not answer {verb} within {self._deadline:g} s" if monotonic() >= until else f"broke the connection during {verb}"
        unknown = verb not in ("open", "scan")
        done = ": the answer was lost, it may have been applied, and is not repeated" if unknown else ""
        why = "" if monotonic() >= until else f" ({_text(problem)})"
        return StoreUnavailable(f"{self._where} {said}{done}{why}", unknown=unknown)


def _unknown_option(url: str) -> str | None:
    """The first option behind the '?' of a URL that libpq does not know, if there is one, and it cannot be a part of a password."""
    query = url.partition("?")[2]
    known = {option.keyword.decode() for option in psycopg.pq.Conninfo.get_defaults()}
    names = [] if "@" in query else [piece.partition("=")[0] for piece in query.split("&") if "=" in piece]
    return next((name for name in names if name.isidentifier() and name not in known and name != "ssl"), None)


def _text(problem: BaseException | str) -> str:
    lines = str(problem).strip().splitlines()
    return lines[0] if lines else repr(problem)


# ------------------------------------------------------------------ for threads


@final
class PostgresStore(_Store):
    """Sessions in PostgreSQL 14 or later, for threads.

    url              postgresql://user:password@host:port/database, or libpq's key=value pairs
    schema           of the database, for what the store keeps: two applications with different ones do not see each other
    max_bytes        of one session (values and names, packed), and `max_keys` of it: a commit that would make it larger raises `TooLarge`
    max_connections  of this process; a verb waits for one, within its deadline, and so it does where the server takes no more
    deadline         seconds that a verb may take, whatever the network and the server do; then it raises `StoreUnavailable`

    `create_schema` makes what the store needs, once. Nothing is asked of the server before the first verb. Raises `PolicyError` for
    a wrong option.
    """

    blocking = True

    def __init__(
        self,
        url: str,
        /,
        *,
        schema: str = "typed_sessions",
        max_bytes: int = 65_536,
        max_keys: int = 256,
        max_connections: int = 16,
        deadline: float = 5,
    ) -> None:
        super().__init__(url, schema, max_bytes, max_keys, max_connections, deadline)
        self._begin()

    def _begin(self) -> None:
        self._links: Links[Connection] = Links(Connection.close)
        self._turns: SimpleQueue[None] = SimpleQueue()
        for _ in range(self._max_connections):
            self._turns.put(None)
        self._wait_for_turn = partial(self._turns.get, True)
        self._pid = os.getpid()

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

    def create_schema(self) -> None:
        """Make the schema, its table and its functions, where they are not there yet; what is in the table stays.

        Safe when several processes do it at once, and while an earlier version of the package goes on with what it has made. Raises
        `StoreUnavailable`, also when the user may not do that: see `schema_sql`.
        """
        self._ask("create_schema", self.schema_sql.encode(), None)

    def close(self) -> None:
        """Close the connections that are not in use. The sessions stay, and a verb that is called after makes a new connection."""
        self._mine()
        self._links.drain()

    # -------------------------------------------------------------- carrying out

    def _run(self, verb: str, statement: Statement[R]) -> R:
        return statement.read(self._ask(verb, statement.sql, statement))

    def _ask(self, verb: str, sql: bytes, statement: Statement[Any] | None) -> Sequence[Row]:
        """The rows of a verb's statement; or of `create_schema`, several statements without parameters, nothing."""
        until = monotonic() + self._deadline
        self._mine()
        turns, links = self._turns, self._links
        turn: list[None] = []
        reusable = False
        connection = None
        try:
            # One call, in which no Python runs: a turn that was taken is in the list, wherever a signal's handler raises.
            turn.extend(map(self._wait_for_turn, (self._deadline,)))
            connection = self._take() or links.reach(self._take, lambda: self._connect(until), is_full, until)
            links.lend(connection)
            connection.until = until
            while True:
                try:
                    if statement is None:
                        connection.execute(sql)
                        rows: Sequence[Row] = ()
                    else:
                        rows = connection.execute(sql, self._parameters(statement, until), binary=True).fetchall()
                    reusable = True
                    return rows
                except psycopg.Error as problem:
                    if statement is not None and may_repeat(connection, problem):
                        continue
                    if may_go_on(connection, problem):
                        reusable = statement is not None  # several statements may be left within their transaction
                    else:
                        if problem.sqlstate is not None:  # it is the server that says so, of all of them
                            links.outdate()
                        links.drain()
                    raise self._failure(verb, problem, until) from problem
        except Empty:
            raise self._crowded() from None
        finally:
            try:
                if connection is not None:
                    links.back(connection, reusable)
            finally:
                if turn:
                    turns.put(None)

    def _mine(self) -> None:
        """After a fork the connections are the parent's (R7)."""
        if self._pid != os.getpid():
            _inherited.append(self._links)
            self._begin()

    def _take(self) -> Connection | None:
        while (connection := self._links.pop()) is not None:
            if not connection.closed and not stirs(connection.fileno()):
                return connection
            connection.close()
        return None

    def _connect(self, until: float) -> Connection:
        try:
            return made_in_thread(lambda: Connection.connect(self._url, **self._connecting), Connection.close, until, "PostgreSQL")
        except (psycopg.Error, OSError) as problem:
            raise self._unreached(problem) from frameless(problem)


# ------------------------------------------------------------------ for asyncio


def _finish(connection: AsyncConnection) -> None:
    connection.pgconn.finish()


@final
class AsyncPostgresStore(_Store):
    """Sessions in PostgreSQL 14 or later, for asyncio; the parameters are those of `PostgresStore`.

    May be used in several event loops: each has connections of its own, `max_connections` at most. Await `close` in each before it
    is closed. (On Windows psycopg wants another event loop than the default one.)
    """

    def __init__(
        self,
        url: str,
        /,
        *,
        schema: str = "typed_sessions",
        max_bytes: int = 65_536,
        max_keys: int = 256,
        max_connections: int = 16,
        deadline: float = 5,
    ) -> None:
        super().__init__(url, schema, max_bytes, max_keys, max_connections, deadline)
        self._loops: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Turns[AsyncConnection]] = weakref.WeakKeyDictionary()
        self._lock = threading.Lock()
        tell_of_forks(self)

    def after_fork(self) -> None:
        """In the child of a fork."""
        self._lock = threading.Lock()

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

    async def create_schema(self) -> None:
        """As `PostgresStore.create_schema`."""
        await self._ask("create_schema", self.schema_sql.encode(), None)

    async def close(self) -> None:
        """Close the connections that are not in use. The sessions stay, and a verb that is called after makes a new connection."""
        here = asyncio.get_running_loop()
        with self._lock:
            loops = list(self._loops.items())
        for loop, turns in loops:
            connections, turns.idle = turns.idle, []
            for connection in connections:
                if loop is here or loop.is_closed():
                    await connection.close()  # which only lets go of the socket
                else:
                    loop.call_soon_threadsafe(connection.pgconn.finish)

    # -------------------------------------------------------------- carrying out

    async def _run(self, verb: str, statement: Statement[R]) -> R:
        return statement.read(await self._ask(verb, statement.sql, statement))

    async def _ask(self, verb: str, sql: bytes, statement: Statement[Any] | None) -> Sequence[Row]:
        """As `PostgresStore._ask`."""
        until = monotonic() + self._deadline
        turns = self._turns()
        if turns.free:
            turns.free -= 1
        else:
            try:
                await turns.wait(until)
            except TimeoutError as problem:
                raise self._crowded() from problem
        reusable = False
        connection = None
        try:
            connection = self._take(turns) or await self._reach(turns, until)
            turns.lend(connection)
            connection.until = until
            while True:
                try:
                    if statement is None:
                        await connection.execute(sql)
                        rows: Sequence[Row] = ()
                    else:
                        cursor = await connection.execute(sql, self._parameters(statement, until), binary=True)
                        rows = await cursor.fetchall()
                    reusable = True
                    return rows
                except psycopg.Error as problem:
                    if statement is not None and may_repeat(connection, problem):
                        continue
                    if may_go_on(connection, problem):
                        reusable = statement is not None
                    else:
                        if problem.sqlstate is not None:
                            turns.outdate()
                        turns.drain(_finish)
                    raise self._failure(verb, problem, until) from problem
        finally:
            # Also when the task is cancelled: the connection has broken then, and an answer that is still to come goes to nobody (R4).
            if connection is not None:
                turns.back(connection, reusable, _finish)
            turns.leave()

    def _turns(self) -> Turns[AsyncConnection]:
        loop = asyncio.get_running_loop()
        with self._lock:
            turns = self._loops.get(loop)
            if turns is None:
                turns = self._loops[loop] = Turns(self._max_connections)
        return turns

    def _take(self, turns: Turns[AsyncConnection]) -> AsyncConnection | None:
        while turns.idle:
            connection = turns.idle.pop()
            if not connection.closed and not stirs(connection.fileno()):
                return connection
            connection.pgconn.finish()
        return None

    async def _reach(self, turns: Turns[AsyncConnection], until: float) -> AsyncConnection:
        return await turns.reach(lambda: self._take(turns), lambda: self._connect(until), is_full, until)

    async def _connect(self, until: float) -> AsyncConnection:
        try:
            left = left_of(until)
            return await asyncio.wait_for(AsyncConnection.connect(self._url, **self._connecting), left)
        except asyncio.TimeoutError as problem:  # another class than TimeoutError before Python 3.11
            raise self._unreached(TimeoutError()) from frameless(problem)
        except (psycopg.Error, OSError) as problem:
            raise self._unreached(problem) from frameless(problem)
