"""Who may talk to a server now: connections and turns by a deadline, for the stores whose connections are their own. It knows no driver.

A server takes so many connections at most, of all its clients together. Where it refuses another one, and some of ours are in use, whoever
wants it waits for one of these (`reach`): it comes back within milliseconds, and to who waits before anybody else.
"""

from __future__ import annotations

import asyncio
import select
import threading
import weakref
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Generic, TypeVar, final

from ..errors import StoreUnavailable

L = TypeVar("L")

_PAUSE, _LONGEST_PAUSE = 0.05, 1.0
"""Seconds until a server that was full is asked again, the first time and at most: it doubles."""


def left_of(until: float) -> float:
    left = until - monotonic()
    if left <= 0:
        raise TimeoutError("the deadline is over")
    return left


def frameless(problem: BaseException) -> BaseException:
    """What a driver has raised while it connected, to be told as a cause: without its frames, in whose locals is the password."""
    seen: list[BaseException] = []
    step: BaseException | None = problem
    while step is not None and step not in seen:
        step.__traceback__ = None
        seen.append(step)
        step = step.__cause__ or step.__context__
    return problem


def stirs(descriptor: int) -> bool:
    """Whether a connection on which nothing is expected has something to say: that it was closed."""
    if not hasattr(select, "poll"):
        return bool(select.select([descriptor], [], [], 0)[0])
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    return bool(poller.poll(0))


def made_in_thread(make: Callable[[], L], close: Callable[[L], object], until: float, server: str) -> L:
    """What `make` gives, made in a thread: a name lookup, several addresses and a sign-in in steps have no common time limit.

    Raises what `make` raises; TimeoutError when it takes too long, and then what it gives all the same is closed; and OSError if there is
    no room for another thread.
    """
    made: list[L] = []
    failed: list[BaseException] = []
    lock = threading.Lock()
    late = False

    def work() -> None:
        try:
            link = make()
        except BaseException as problem:
            failed.append(problem)
            return
        with lock:
            if not late:
                made.append(link)
                return
        close(link)

    thread = threading.Thread(target=work, name=f"typed_sessions: connecting to {server}", daemon=True)
    try:
        thread.start()
    except RuntimeError as problem:
        raise OSError(str(problem)) from problem
    thread.join(max(0.0, until - monotonic()))
    with lock:
        late = not made
    if made:
        return made[0]
    raise failed.pop() if failed else TimeoutError()


class _Lending(Generic[L]):
    """Which connections are in use."""

    def __init__(self) -> None:
        # Weakly: a signal's handler may raise anywhere, and what is lost so is not in use.
        self._lent: weakref.WeakKeyDictionary[L, int] = weakref.WeakKeyDictionary()
        self._generation = 0

    def lend(self, link: L) -> None:
        """It is in use from now on."""
        self._lent[link] = self._generation

    def outdate(self) -> None:
        """What is in use leads to where nobody should go any more: it does not become idle again."""
        self._generation += 1

    def _is_of_use(self, link: L) -> bool:
        """Whether a connection that comes back leads to where new ones do."""
        return self._lent.pop(link, None) == self._generation

    def _hopeless(self, full: bool, until: float) -> bool:
        """Whether there is nothing to wait for when no connection can be made."""
        return monotonic() >= until or not (full or self._lent)


@final
class Links(_Lending[L]):
    """The connections of threads: those that are idle, those that are in use, and who waits for one of these.

    Nothing is locked. What a signal's handler interrupts by raising costs a connection at most, which is closed.
    """

    def __init__(self, close: Callable[[L], object]) -> None:
        super().__init__()
        self.idle: deque[L] = deque()
        self._short: deque[SimpleQueue[L | None]] = deque()
        self._close = close

    def pop(self) -> L | None:
        try:
            return self.idle.pop()
        except IndexError:  # asking first would not do: another thread may be quicker
            return None

    def drain(self) -> None:
        while (link := self.pop()) is not None:
            self._close(link)

    def back(self, link: L, reusable: bool) -> None:
        """It is in use no more. Who waits has it; or, if it is `reusable` no more, may make another one."""
        if self._is_of_use(link) and reusable:
            self.idle.append(link)
        else:
            self._close(link)
        if self._short:
            with suppress(IndexError):
                self._short.popleft().put(self.pop())

    def reach(self, take: Callable[[], L | None], connect: Callable[[], L], is_full: Callable[[StoreUnavailable], bool], until: float) -> L:
        """A new connection; or, where none can be made, one of ours: what `take` finds idle, or one in use. Raises what `connect` does if
        there is nothing to wait for."""
        refusal: StoreUnavailable | None = None
        pause = _PAUSE
        while True:
            try:
                return connect()
            except StoreUnavailable as problem:
                full = is_full(problem)
                if full or refusal is None or monotonic() < until:  # the last time there may have been no time to be told so
                    refusal = problem
            while True:
                link = take()
                if link is None and self._hopeless(full, until):
                    raise refusal
                link = link or self._given(max(0.0, min(pause, until - monotonic())))
                if link is not None:
                    return link
                if full:
                    break
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _given(self, seconds: float) -> L | None:
        mine: SimpleQueue[L | None] = SimpleQueue()
        self._short.append(mine)
        link = self.pop()  # not before: who gives one back looks at who waits after
        if link is None:
            with suppress(Empty):
                return mine.get(timeout=seconds)
        try:
            self._short.remove(mine)
        except ValueError:  # somebody is just about to give it one
            given = None
            with suppress(Empty):
                given = mine.get(timeout=_LONGEST_PAUSE)
            if link is None:
                return given
            if given is not None:
                self.idle.append(given)
        return link


@final
class Turns(_Lending[L]):
    """The idle connections in one event loop, and who waits for one."""

    def __init__(self, connections: int) -> None:
        super().__init__()
        self.idle: list[L] = []
        self._short: deque[asyncio.Future[L | None]] = deque()
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

    def back(self, link: L, reusable: bool, close: Callable[[L], object]) -> None:
        """As `Links.back`."""
        kept = self._is_of_use(link) and reusable
        if not kept:
            close(link)
        while self._short:
            one = self._short.popleft()
            if not one.done():
                one.set_result(link if kept else None)
                return
        if kept:
            self.idle.append(link)

    async def reach(
        self, take: Callable[[], L | None], connect: Callable[[], Awaitable[L]], is_full: Callable[[StoreUnavailable], bool], until: float
    ) -> L:
        """As `Links.reach`."""
        refusal: StoreUnavailable | None = None
        pause = _PAUSE
        while True:
            try:
                return await connect()
            except StoreUnavailable as problem:
                full = is_full(problem)
                if full or refusal is None or monotonic() < until:  # the last time there may have been no time to be told so
                    refusal = problem
            while True:
                link = take()
                if link is None and self._hopeless(full, until):
                    raise refusal
                link = link or await self._given(max(0.0, min(pause, until - monotonic())))
                if link is not None:
                    return link
                if full:
                    break
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _given(self, seconds: float) -> L | None:
        loop = asyncio.get_running_loop()
        one: asyncio.Future[L | None] = loop.create_future()
        timer = loop.call_later(seconds, _pass, one)
        self._short.append(one)
        try:
            return await one
        except BaseException:
            link = one.result() if one.done() and not one.cancelled() else None
            if link is not None:  # cancelled when it had just come
                self.idle.append(link)
            raise
        finally:
            timer.cancel()
            with suppress(ValueError):
                self._short.remove(one)

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


def _pass(one: asyncio.Future[L | None]) -> None:
    if not one.done():
        one.set_result(None)
