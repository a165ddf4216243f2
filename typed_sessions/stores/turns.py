"""Who may talk to a server now: turns by a deadline, for the stores whose connections are their own. It knows no driver."""

from __future__ import annotations

import asyncio
import select
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from time import monotonic
from typing import Generic, TypeVar, final

L = TypeVar("L")


def left_of(until: float) -> float:
    left = until - monotonic()
    if left <= 0:
        raise TimeoutError("the deadline is over")
    return left


def stirs(descriptor: int) -> bool:
    """Whether a connection on which nothing is expected has something to say: that it was closed."""
    if not hasattr(select, "poll"):
        return bool(select.select([descriptor], [], [], 0)[0])
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    return bool(poller.poll(0))


@final
class Turns(Generic[L]):
    """The idle connections in one event loop, and who waits for one."""

    def __init__(self, connections: int) -> None:
        self.idle: list[L] = []
        self.free: int = connections
        self.waiting: deque[asyncio.Future[None]] = deque()
        self._end: AsyncGenerator[None, None] | None = None

    async def wait(self, until: float) -> None:
        """Wait for a turn. TimeoutError at the deadline."""
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        timer = loop.call_later(left_of(until), _expire, turn)
        self.waiting.append(turn)  # not before: a turn would be given to it and lost if the deadline is over already
        try:
            await turn
        except BaseException:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self.leave()  # cancelled when the turn had just come: the next one has it
            raise
        finally:
            timer.cancel()

    def leave(self) -> None:
        while self.waiting:
            turn = self.waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self.free += 1

    def drain(self, close: Callable[[L], object]) -> None:
        while self.idle:
            close(self.idle.pop())

    def drain_with_loop(self, close: Callable[[L], object]) -> None:
        """Close what is idle when the running loop ends: who runs a loop as `asyncio.run` does ends its asynchronous generators first."""

        async def until_the_end() -> AsyncGenerator[None, None]:
            try:
                yield
            finally:
                self.drain(close)
                await asyncio.sleep(0)  # a transport closes its socket one turn later

        self._end = until_the_end()  # the loop keeps it weakly
        with suppress(StopIteration):  # it is at its `yield`: the loop knows it from now on
            self._end.__anext__().send(None)


def _expire(turn: asyncio.Future[None]) -> None:
    if not turn.done():
        turn.set_exception(TimeoutError("all connections are in use"))
