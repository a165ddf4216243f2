"""A connection to Redis that redis-py has made, and what is said on it: commands out, replies in, by a deadline. It knows no verbs.

Nothing in here waits for longer than the deadline it is given: not between two packets, but from the first to the last. After anything
went wrong the connection is of no use: a reply that is still to come would be taken for the next command's.
"""

from __future__ import annotations

import asyncio
import math
import socket
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, Final, final

import hiredis
import redis
from typing_extensions import override

from .redis_verbs import Command, Reply
from .turns import left_of, stirs

_CHUNK = 65_536
_hiredis: Any = hiredis
_pack: Callable[[tuple[bytes | str, ...]], bytes] = _hiredis.pack_command  # typed there for a single word
_NOT_YET: Final = object()
_KEEPALIVE = (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3))
"""Seconds without a word until the system asks the other end, seconds between two questions, and how many of them: as in redis-py 8."""


def pack(commands: Sequence[Command]) -> bytes:
    """The commands as they go over the wire, scripts by their digests."""
    if len(commands) == 1:
        words, script = commands[0]
        return _pack(words if script is None else ("EVALSHA", script.sha, *words))
    return b"".join(_pack(words if script is None else ("EVALSHA", script.sha, *words)) for words, script in commands)


def refused(replies: Sequence[Reply]) -> bool:
    """Whether there is an error among the replies."""
    for reply in replies:  # noqa: SIM110  # twice as fast as any(), and in the way of every verb
        if type(reply) is hiredis.ReplyError:
            return True
    return False


def missing(commands: Sequence[Command], replies: Sequence[Reply]) -> list[int]:
    """Which commands to repeat with the script's text, since the server has forgotten it."""
    return [
        number
        for number, reply in enumerate(replies)
        if type(reply) is hiredis.ReplyError and commands[number].script is not None and str(reply).startswith("NOSCRIPT")
    ]


def texts(commands: Sequence[Command], numbers: Sequence[int]) -> bytes:
    """These of the commands, with the text of their scripts."""
    return b"".join(_pack(("EVAL", script.text, *words)) for words, script in (commands[n] for n in numbers) if script is not None)


def _whole_replies(reader: Any, replies: list[Reply]) -> None:
    """Add the replies that have arrived whole. What a server says unasked is passed over."""
    while True:
        reply = reader.gets()
        if reply is _NOT_YET:
            return
        if type(reply) is not hiredis.PushNotification:
            replies.append(reply)


def _all(replies: list[Reply], count: int) -> list[Reply]:
    if len(replies) > count:
        raise ConnectionError(f"{len(replies)} replies to {count} commands")
    return replies


def _keep_alive(sock: Any) -> None:
    """Let the system find out about another end that has gone without a word, and a NAT in between see that the connection is in use.

    Where redis-py has done that already (from 8 on, or since it was told to), it stays so. `sock` is a socket, or a loop's view of one.
    """
    if sock.family not in (socket.AF_INET, socket.AF_INET6) or sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE):
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE:
        if hasattr(socket, name):  # not all systems have each
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def plain(problem: BaseException) -> BaseException:
    """redis-py has a timeout of its own."""
    return TimeoutError() if isinstance(problem, redis.TimeoutError) else problem


def abort(connection: Any) -> None:
    """Close what redis-py has opened for an asyncio connection, and nobody has taken over."""
    writer, connection._reader, connection._writer = connection._writer, None, None
    if writer is not None:
        writer.transport.abort()


@final
class Link:
    """A connection that redis-py has made, and that is ours now."""

    __slots__ = ("__weakref__", "reader", "socket")

    def __init__(self, connection: Any) -> None:
        self.socket: socket.socket = connection._sock
        connection._sock = None  # so that redis-py does not close it when the object goes
        _keep_alive(self.socket)
        self.reader: hiredis.Reader = hiredis.Reader(notEnoughData=_NOT_YET)

    def is_sound(self) -> bool:
        """Whether it can be used again: nothing is left over of what was said before, and the server has not closed it."""
        return not self.reader.has_data() and not stirs(self.socket.fileno())

    def close(self) -> None:
        self.socket.close()

    def exchange(self, packed: bytes, count: int, until: float) -> list[Reply]:
        """Say it and wait for so many replies. OSError, also for the deadline, and `hiredis.HiredisError`."""
        sock, reader = self.socket, self.reader
        sock.settimeout(left_of(until))
        sock.sendall(packed)
        replies: list[Reply] = []
        while len(replies) < count:
            sock.settimeout(left_of(until))
            data = sock.recv(_CHUNK)
            if not data:
                raise ConnectionError("closed by the server")
            reader.feed(data)
            _whole_replies(reader, replies)
        return _all(replies, count)


@final
class AsyncLink(asyncio.Protocol):
    """The same in an event loop: what comes goes from the transport to the parser, without a stream between them."""

    __slots__ = (
        "__weakref__",
        "_armed",
        "_count",
        "_descriptor",
        "_is_over",
        "_loop",
        "_parser",
        "_replies",
        "_timer",
        "_until",
        "_waiter",
        "_writer",
    )

    def __init__(self, connection: Any) -> None:
        reader: asyncio.StreamReader = connection._reader
        # Kept, though nothing is written through it: one that is collected closes its transport.
        self._writer: asyncio.StreamWriter = connection._writer
        connection._reader = connection._writer = None
        sock = self._writer.get_extra_info("socket")
        self._descriptor: int = sock.fileno()
        _keep_alive(sock)
        self._parser = hiredis.Reader(notEnoughData=_NOT_YET)
        self._loop = asyncio.get_running_loop()
        self._replies: list[Reply] = []
        self._count = 0
        self._waiter: asyncio.Future[None] | None = None
        self._is_over = reader.at_eof()
        # One timer serves many exchanges: when it goes off too early, it is set again.
        self._timer: asyncio.TimerHandle | None = None
        self._armed = self._until = math.inf
        self._writer.transport.set_protocol(self)

    # -------------------------------------------------------------- what the transport tells

    @override
    def data_received(self, data: bytes) -> None:
        waiter = self._waiter
        if waiter is None:
            self._is_over = True  # nobody has asked
            return
        try:
            self._parser.feed(data)
            _whole_replies(self._parser, self._replies)
        except hiredis.HiredisError as problem:
            self._fail(problem)
        else:
            if len(self._replies) >= self._count and not waiter.done():
                waiter.set_result(None)

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(exc or ConnectionError("closed by the server"))

    def _fail(self, problem: Exception) -> None:
        self._is_over = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(problem)

    # -------------------------------------------------------------- what a store asks

    def is_sound(self) -> bool:
        """As `Link.is_sound`. With TLS the loop closes what the server has closed, and the descriptor may be another's by now."""
        over = self._is_over or self._writer.is_closing()
        return not (over or self._replies or self._parser.has_data() or stirs(self._descriptor))

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._writer.transport.abort()

    def drop(self) -> None:
        """Close the socket of a loop that is closed, and carries out nothing any more. (uvloop has closed it with the loop.)"""
        sock = getattr(self._writer.get_extra_info("socket"), "_sock", None)
        if sock is not None:
            sock.close()

    async def exchange(self, packed: bytes, count: int, until: float) -> list[Reply]:
        """As `Link.exchange`."""
        self._until = until
        if until < self._armed:
            self._watch()
        try:
            if self._is_over:
                raise ConnectionError("closed by the server")
            self._count = count
            self._waiter = self._loop.create_future()
            self._writer.transport.write(packed)
            await self._waiter
            replies, self._replies = self._replies, []
            return _all(replies, count)
        except OSError:
            left_of(until)  # it was our own doing
            raise
        finally:
            self._waiter, self._until = None, math.inf

    def _watch(self) -> None:
        """Close the connection if the deadline is over, or look again when it is."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer, self._armed = None, math.inf
        if self._until < math.inf:
            left = self._until - monotonic()
            if left <= 0:
                self._writer.transport.abort()
            else:
                self._timer, self._armed = self._loop.call_later(left, self._watch), self._until
