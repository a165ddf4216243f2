"""Programs that can be taken one step further, for `every_order` of the conformance kit: it enumerates the orders of their steps.

A `Task` is a coroutine, driven by hand, or a thread of its own that runs only while somebody waits for it.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Protocol

PATIENCE = 30.0
"""Seconds after which a thread that does not come back counts as stuck."""

# -- what is stopped and goes on ----------------------------------------------


class Cancelled(BaseException):
    """Ends a thread whose play is over."""


class Task(Protocol):
    """Something that can be taken one step further."""

    def step(self) -> bool:
        """Go on to the next pause; True at the end. Raises what it raised."""
        ...

    def pause(self) -> None: ...
    def cancel(self) -> None: ...


class Pause:
    """Awaited where a coroutine is to stop."""

    def __await__(self) -> Generator[None, None, None]:
        yield


class CoroutineTask:
    def __init__(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self._coroutine = coroutine
        self._context = contextvars.copy_context()

    def step(self) -> bool:
        try:
            self._context.run(self._coroutine.send, None)
        except StopIteration:
            return True
        return False

    def pause(self) -> None:
        raise AssertionError("a coroutine is paused with `await Pause()`")

    def cancel(self) -> None:
        self._coroutine.close()


def _nothing() -> None:
    """What a thread has to do that nobody uses."""


class _Worker:
    """A thread that is used again and again: to start one costs more than all that is done in it here."""

    def __init__(self) -> None:
        self.go, self.back = threading.Lock(), threading.Lock()
        self.go.acquire()
        self.back.acquire()
        self.body: Callable[[], None] = _nothing
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            self.go.acquire()
            self.body()
            self.back.release()


_idle: list[_Worker] = []


class ThreadTask:
    """A thread that runs while somebody waits in `step`."""

    def __init__(self, function: Callable[[], None]) -> None:
        self._function = function
        self._worker = _idle.pop() if _idle else _Worker()
        self._worker.body = self._body
        self._finished = self._cancelled = False
        self._problem: BaseException | None = None

    def _body(self) -> None:
        try:
            if not self._cancelled:
                contextvars.Context().run(self._function)
        except Cancelled:
            pass
        except BaseException as problem:
            self._problem = problem
        self._finished = True

    def step(self) -> bool:
        worker = self._worker
        worker.go.release()
        assert worker.back.acquire(timeout=PATIENCE), "the thread is stuck"
        if self._finished:
            worker.body = _nothing
            _idle.append(worker)
        if self._problem is not None:
            raise self._problem
        return self._finished

    def pause(self) -> None:
        self._worker.back.release()
        self._worker.go.acquire()
        if self._cancelled:
            raise Cancelled

    def cancel(self) -> None:
        if not self._finished:
            self._cancelled = True
            self.step()
