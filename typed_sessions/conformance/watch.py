"""What the store is being asked: so that a verb that does not return can be named, with the place where it waits.

Here are also the threads that ask it. They keep no program from ending, whatever they wait for.
"""

from __future__ import annotations

import contextvars
import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future, wait
from queue import SimpleQueue
from types import FrameType
from typing import Any, ParamSpec, TypeVar, final

from typing_extensions import override

P = ParamSpec("P")
R = TypeVar("R")

_INNERMOST = 3
"""How many lines are told of the place where a verb waits."""
_MOMENT = 1.0
"""Seconds."""
_HERE = os.path.dirname(__file__)


@final
class Asked:
    """Something that the store is asked: a verb, or the factory to make one."""

    __slots__ = ("ending", "since", "thread", "what", "waits")

    def __init__(self, what: str, thread: int, waits: Any) -> None:
        self.what: str = what
        self.since: float = time.monotonic()
        self.thread: int = thread
        self.waits: Any = waits
        self.ending: str = ""

    def place(self) -> list[str]:
        """Where it is now, the innermost line last."""
        frames: list[tuple[FrameType, int]] = []
        if self.waits is None:
            frame = sys._current_frames().get(self.thread)  # pyright: ignore[reportPrivateUsage]  # it is documented
            while frame is not None and os.path.dirname(frame.f_code.co_filename) != _HERE:
                frames.insert(0, (frame, frame.f_lineno))
                frame = frame.f_back
        else:
            inner: Any = self.waits
            while inner is not None:
                frame = getattr(inner, "cr_frame", None)
                if frame is not None:
                    frames.append((frame, frame.f_lineno))
                inner = getattr(inner, "cr_await", None)
        return [
            f"{os.path.basename(frame.f_code.co_filename)}, line {line}, in {frame.f_code.co_name}" for frame, line in frames[-_INNERMOST:]
        ]


@final
class Watch:
    """Knows what is being asked, and since when. `patience` is after how many seconds it counts as stuck."""

    def __init__(self, patience: float) -> None:
        self.patience: float = patience
        self.stuck: bool = False
        """Whether something was, so that this store is not asked for anything more."""
        self._lock = threading.Lock()
        self._asked: dict[Asked, None] = {}
        self._before: Asked | None = None
        self._done: Future[None] | None = None

    def begin(self, what: str, waits: Any = None) -> Asked:
        """Something is asked: in this thread, or by the coroutine `waits`."""
        asked = Asked(what, threading.get_ident(), waits)
        with self._lock:
            self._asked[asked] = None
        return asked

    def end(self, asked: Asked, problem: BaseException | None = None) -> None:
        """It has been answered, or has raised."""
        asked.waits = None
        if problem is not None:
            asked.ending = f", which raised {type(problem).__name__}"
        with self._lock:
            del self._asked[asked]
            self._before = asked

    def oldest(self) -> Asked | None:
        """What has been asked for the longest time, of what has not been answered."""
        with self._lock:
            return next(iter(self._asked), None)

    def play(self, work: Callable[[], None]) -> str | None:
        """Do it in a thread of its own, and raise what it raises. If what it asks is not answered in time: in words, what that was."""
        done: Future[None] = Future()
        self._done = done

        def play() -> None:
            try:
                work()
            except BaseException as problem:
                done.set_exception(problem)
            else:
                done.set_result(None)

        threading.Thread(target=contextvars.copy_context().run, args=(play,), name="typed_sessions check", daemon=True).start()
        left = self.patience
        while not wait([done], left).done:
            asked = self.oldest()
            left = self.patience if asked is None else asked.since + self.patience - time.monotonic()
            if asked is not None and left <= 0:
                self.stuck = True
                return self._tell(asked)
            left = max(left, 0.001)
        done.result()
        return None

    def settle(self) -> None:
        """What was stuck has been cancelled: wait a moment for its end."""
        if self._done is not None:
            wait([self._done], _MOMENT)

    def _tell(self, asked: Asked) -> str:
        before = self._before
        said = f"{asked.what} has not returned for {self.patience:g} s"
        if before is not None:
            said += f"; what was asked before it was {before.what}{before.ending}"
        return "\n".join([said, *(f"at {place}" for place in asked.place())])


@final
class Workers(Executor):
    """So many threads at most, begun when they are needed. Unlike those of the standard library they are waited for by nobody."""

    def __init__(self, most: int, name: str) -> None:
        self._most = most
        self._name = name
        self._idle = threading.Semaphore(0)
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._count = 0

    @override
    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        future: Future[R] = Future()

        def job() -> None:
            try:
                result = fn(*args, **kwargs)
            except BaseException as problem:
                future.set_exception(problem)
            else:
                future.set_result(result)

        self._jobs.put(job)
        if self._count < self._most and not self._idle.acquire(blocking=False):
            self._count += 1
            threading.Thread(target=self._work, name=f"{self._name} {self._count}", daemon=True).start()
        return future

    def _work(self) -> None:
        while True:
            job = self._jobs.get()
            if job is None:
                return
            job()
            del job  # what it has answered is the asker's
            self._idle.release()

    @override
    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Let the threads end when they have done what they do."""
        for _ in range(self._count):
            self._jobs.put(None)
