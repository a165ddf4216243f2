"""Calling a store that blocks from an event loop: in threads of its own, within a deadline, and never later than somebody waits for it.

asyncio's own threads will not do: there are few of them, everybody's, their queue has no end, and what nobody waits for any more is
called all the same. Here no more than half of the threads ever write, so that those who only read do not wait behind those who wait
for a lock. Reading is

    scan    of any store
    open    of a store that has no `try_open`; otherwise that, which gives up where the use of the session has to be written

A call that has not begun in time, or whose caller has left, never begins; one that has begun goes on to its end.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from typing import Any, final

from .errors import StoreUnavailable
from .stores.base import Store

WRITERS = min(32, (os.cpu_count() or 1) + 4)
"""How many threads may write at once: as many as asyncio has."""


@final
class _Call:
    """A call of the store. Whoever takes it first has it: a thread that carries it out, or somebody who gives it up."""

    __slots__ = ("_args", "_context", "_function", "_loop", "_untaken", "_until", "problem", "ready", "result")

    def __init__(self, loop: asyncio.AbstractEventLoop, until: float, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self._loop = loop
        self._until = until
        self._function = function
        self._args = args
        self._context = copy_context()
        self._untaken = [True]
        self.ready: asyncio.Future[None] = loop.create_future()
        self.result: Any = None  # Any: the function may give anything
        self.problem: BaseException | None = None

    def take(self) -> bool:
        """Whether nobody has taken it before. Two threads may ask at once: `pop` gives to one of them."""
        try:
            return self._untaken.pop()
        except IndexError:
            return False

    def carry_out(self) -> None:
        """In a thread."""
        if not self.take():
            return
        try:
            if time.monotonic() >= self._until:  # the loop hangs, or is gone
                raise _too_late()
            self.result = self._context.run(self._function, *self._args)
        except BaseException as problem:
            self.problem = problem
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._wake)

    def give_up(self) -> None:
        """In the loop, at the deadline."""
        if self.take():
            self.problem = _too_late()
            self._wake()

    def _wake(self) -> None:
        if not self.ready.done():
            self.ready.set_result(None)


@final
class _Threads:
    """Those of one process: a child has only the thread that forked."""

    __slots__ = ("_places", "_pool", "_writes", "process")

    def __init__(self) -> None:
        self.process = os.getpid()
        self._pool = ThreadPoolExecutor(2 * WRITERS, "typed_sessions")  # a thread is made when it is needed
        self._writes: deque[_Call] = deque()
        self._places = [True] * WRITERS
        """One for each thread that may begin to write."""

    def read(self, call: _Call) -> None:
        self._pool.submit(call.carry_out)

    def write(self, call: _Call) -> None:
        self._writes.append(call)
        if self._take_place():
            self._pool.submit(self._write)

    def _take_place(self) -> bool:
        try:
            return self._places.pop()
        except IndexError:
            return False

    def _write(self) -> None:
        """In a thread that has taken a place: carry out what there is to write."""
        while True:
            try:
                call = self._writes.popleft()
            except IndexError:
                self._places.append(True)
                # Whoever came just before that has found no place.
                if not self._writes or not self._take_place():
                    return
            else:
                call.carry_out()
                del call  # it may be long until the next

    def end(self) -> None:
        """Let them end when nothing is left to do."""
        self._pool.shutdown(wait=False)


@final
class OffLoop:
    """A store that blocks, called from any event loop; several loops and threads may do so at once.

    A store's optional `deadline` attribute says how long its calls may take, in seconds. Its optional method `try_open` has the
    arguments of `open`, waits for no writer, and returns what `open` would and True, or anything and False if `open` is to be asked.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        # Of its class: a store that wraps another, and hands on to that what it does not know, has an `open` of its own.
        able: Any = store if hasattr(type(store), "try_open") else None
        self._try_open: Callable[..., tuple[Any, bool]] | None = None if able is None else able.try_open
        self._open: Callable[..., Any] = store.open
        self._threads: _Threads | None = None

    async def ask(self, deadline: float, verb: Callable[..., Any], args: tuple[Any, ...]) -> Any:  # Any: each verb has types of its own
        """Call a verb of the store. Raises what it raises, and `StoreUnavailable` if no thread came free within the deadline (seconds), or
        within the store's own, if that is shorter: then nothing was done."""
        until = time.monotonic() + min(deadline, self._store_deadline())
        threads = self._threads
        if threads is None or threads.process != os.getpid():
            threads = self._threads = _Threads()
        if self._try_open is not None and verb == self._open:
            found, complete = await _carried_out(threads.read, until, self._try_open, args)
            return found if complete else await _carried_out(threads.write, until, verb, args)
        return await _carried_out(threads.read if verb in (self._store.open, self._store.scan) else threads.write, until, verb, args)

    async def close(self) -> None:
        """Close the store, and let the threads end, without waiting for calls that are under way. A later call begins anew."""
        threads, self._threads = self._threads, None
        if threads is not None and threads.process == os.getpid():
            threads.end()
        await asyncio.to_thread(self._store.close)  # not behind the others

    def _store_deadline(self) -> float:
        seconds: object = getattr(self._store, "deadline", None)
        return seconds if isinstance(seconds, (int, float)) else float("inf")


async def _carried_out(submit: Callable[[_Call], None], until: float, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """Call a function in one of the threads, with the context of the caller. Any: it may have any type."""
    loop = asyncio.get_running_loop()
    call = _Call(loop, until, function, args)
    try:
        submit(call)
    except RuntimeError as problem:
        # The program ends, or has no room for another thread. In the second case it is in the queue already, and may just have begun.
        raise StoreUnavailable(f"no thread for a call of the store: {problem}", unknown=not call.take()) from problem
    timer = loop.call_later(until - time.monotonic(), call.give_up)
    try:
        await call.ready
        if call.problem is not None:
            raise call.problem
        return call.result
    finally:
        timer.cancel()
        call.take()  # who is cancelled waits for it no more
        call.problem = None  # its traceback holds this frame, and so the call


def _too_late() -> StoreUnavailable:
    return StoreUnavailable("the calls before it kept every thread busy for the whole deadline: nothing was done")
