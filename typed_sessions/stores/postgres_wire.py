"""psycopg's connections as the PostgreSQL stores use them: they wait until a moment and then break, and what an error on one means.

psycopg's own waits end when the server says something, and a frozen server says nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from struct import Struct
from time import monotonic
from typing import Any, TypeAlias, TypeVar, final

import psycopg
from psycopg import waiting
from psycopg.abc import PQGen
from psycopg.adapt import AdaptersMap, Dumper
from psycopg.pq import Format
from typing_extensions import override

from ..errors import StoreUnavailable
from .postgres_verbs import Numbers, Payloads, Row

R = TypeVar("R")

_INTERVAL = 0.1
"""Seconds after which a wait looks whether a signal has come."""
_ELSEWHERE = ("25006", "57P01", "57P02", "57P03")
"""Read-only, or about to stop: the next verb connects anew, perhaps to the server that has taken over."""
_NOT_OF_THE_SERVER = ("57P", "08")
"""It stops, or a pool before it has lost it and says so in its place: what it has done nobody knows."""
_FULL = ("too many clients", "remaining connection slots", "too many connections", "no more connections allowed", "max clients reached")
"""How a server and pools before it say in English that they take no more connections: when one is refused, libpq tells no SQLSTATE."""
_LOST_A_RACE = ("40001", "40P01")
"""Serialization failure and deadlock: nothing was done, and the same may succeed at once."""
_KEEPALIVE: Mapping[str, int] = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}
"""Seconds of silence until the system asks whether the other end is still there, from one question to the next, and how many. (Its own
default is two hours, and what is between forgets a silent connection sooner.)"""


@final
class Connection(psycopg.Connection[Row]):
    """A connection that waits until a moment, and then breaks."""

    until: float = math.inf

    @override
    def __del__(self, *_: object) -> None:
        """No warning: nothing is lost with an idle connection whose store is gone, and it is closed."""

    @override
    def wait(self, gen: PQGen[R], interval: float = _INTERVAL, timeout: float | None = None) -> R:
        try:
            return waiting.wait(gen, self.pgconn.socket, interval=interval, timeout=max(0.0, self.until - monotonic()))
        except psycopg.Error as problem:
            if monotonic() >= self.until and not _said(problem):
                self.pgconn.finish()
            raise
        except BaseException:
            self.pgconn.finish()  # an answer that is still to come must not be taken for somebody else's (R4)
            raise


@final
class AsyncConnection(psycopg.AsyncConnection[Row]):
    """The same for asyncio."""

    until: float = math.inf

    @override
    def __del__(self, *_: object) -> None:
        """As in `Connection`."""

    @override
    async def wait(self, gen: PQGen[R], interval: float = _INTERVAL, timeout: float | None = None) -> R:
        try:
            return await waiting.wait_async(gen, self.pgconn.socket, interval=interval, timeout=max(0.0, self.until - monotonic()))
        except psycopg.Error as problem:
            if monotonic() >= self.until and not _said(problem):
                self.pgconn.finish()
            raise
        except BaseException:
            self.pgconn.finish()
            raise


AnyConnection: TypeAlias = Connection | AsyncConnection

# ------------------------------------------------------------------ arrays

_HEAD = Struct("!iiI")  # dimensions, whether there are NULLs, the type of the elements
_DIMENSION = Struct("!ii")  # elements, the number of the first
_INT32 = Struct("!i")
_INT64 = Struct("!iq")  # behind its length
_NULL = _INT32.pack(-1)


class _ArrayDumper(Dumper):
    """An array as the server has it in memory. As text, how it is read hangs on what was set for the database or the user
    (`standard_conforming_strings`, `array_nulls`), and one of NULLs alone psycopg has as text only."""

    format = Format.BINARY
    element: int = 0

    @override
    def dump(self, obj: Payloads | Numbers) -> bytes:
        if not obj:
            return _HEAD.pack(0, 0, self.element)
        parts = [_HEAD.pack(1, None in obj, self.element), _DIMENSION.pack(len(obj), 1)]
        for one in obj:
            if one is None:
                parts.append(_NULL)
            elif isinstance(one, int):
                parts.append(_INT64.pack(8, one))
            else:
                parts += (_INT32.pack(len(one)), one)
        return b"".join(parts)


@final
class _PayloadsDumper(_ArrayDumper):
    oid, element = 1001, 17  # bytea[], bytea


@final
class _NumbersDumper(_ArrayDumper):
    oid, element = 1016, 20  # int8[], int8


@final
class _Context:
    """With what the connections write and read: psycopg's own, and arrays."""

    connection: psycopg.Connection[Any] | None = None  # Any: its rows, which nobody asks for

    def __init__(self) -> None:
        self.adapters = AdaptersMap(psycopg.adapters)
        self.adapters.register_dumper(Payloads, _PayloadsDumper)
        self.adapters.register_dumper(Numbers, _NumbersDumper)


# ------------------------------------------------------------------ connecting


def connecting(where: Mapping[str, Any], deadline: float) -> dict[str, Any]:
    """With what to connect to a URL that says `where`, beside the URL itself; `deadline` in seconds."""
    return {
        "autocommit": True,
        "prepare_threshold": None,
        "context": _Context(),
        # Whatever the database's own, the user's or the URL's: without one (SQL_ASCII) text comes back as bytes. Pools know it.
        "client_encoding": "UTF8",
        "connect_timeout": _connect_timeout(where, deadline),
        **{name: value for name, value in _KEEPALIVE.items() if name not in where},
    }


def _connect_timeout(where: Mapping[str, Any], deadline: float) -> int:
    """Seconds for each host: one that says nothing, as its machine is gone, must leave time for the next. Whole ones, two at least, as
    libpq has it; whoever waits for all of it does so by a clock of its own."""
    hosts = str(where.get("host") or where.get("hostaddr") or "").count(",") + 1
    most = math.ceil(deadline) if hosts == 1 else int(deadline / hosts)
    asked = str(where.get("connect_timeout") or "")
    return max(2, min(most, int(asked)) if asked.isdecimal() and int(asked) > 0 else most)


def _said(problem: psycopg.Error) -> bool:
    """Whether it is the server that said so, and not the wire."""
    return problem.sqlstate is not None


def is_full(problem: StoreUnavailable) -> bool:
    """Whether a connection could not be made because there are too many of them."""
    said = str(problem.__cause__).lower()
    return any(words in said for words in _FULL)


def is_refusal(problem: psycopg.Error) -> bool:
    """Whether the server said so, and has done nothing. One that gives up (PANIC: its log is full) may have, and tells nobody."""
    state = problem.sqlstate
    return state is not None and not state.startswith(_NOT_OF_THE_SERVER) and problem.diag.severity_nonlocalized not in ("FATAL", "PANIC")


def may_repeat(connection: AnyConnection, problem: psycopg.Error) -> bool:
    """Whether a transaction has only lost against another one. They do so where the database, the user or a pool asks for `repeatable
    read` or `serializable`; to ask for less costs a trip, or is refused by a pool, and to say it again costs one only then."""
    return problem.sqlstate in _LOST_A_RACE and is_refusal(problem) and not connection.closed and monotonic() < connection.until


def may_go_on(connection: AnyConnection, problem: psycopg.Error) -> bool:
    """Whether a connection can be used again after an error. If not, those that were idle meanwhile lead to where it led."""
    state = problem.sqlstate
    return not connection.closed and state is not None and state not in _ELSEWHERE and not state.startswith(_NOT_OF_THE_SERVER)
