"""The asyncio tasks of a manager: work that nobody waits for, and what is done every so many seconds."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable
from contextvars import Context
from typing import Any, TypeVar, final

from .background import say_not_saved
from .forks import tell_of_forks

R = TypeVar("R")

logger: logging.Logger = logging.getLogger("typed_sessions")


@final
class Tasks:
    """As `Background`, in the event loop: what is to be repeated begins when there is one, in the child of a fork too."""

    def __init__(self) -> None:
        self._spawned: set[asyncio.Task[Any]] = set()  # Any: each gives something else
        self._left: set[asyncio.Task[Any]] = set()
        self.repeated: dict[str, tuple[float, Callable[[], Coroutine[Any, Any, object]]]] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        self.path: str | None = None
        """Where autosave saves to; the parent's path is none of a child's."""
        self._path_of_parent: str | None = None
        tell_of_forks(self)

    def spawn(self, work: Coroutine[Any, Any, R]) -> asyncio.Task[R]:
        """Do it in a task of its own."""
        return _kept(self._spawned, work)

    def leave(self, work: Coroutine[Any, Any, object]) -> None:
        """Do it in a task of its own that may never come to its end."""
        _kept(self._left, work)

    def repeat(self, name: str, every: float, work: Callable[[], Coroutine[Any, Any, object]]) -> None:
        """Do it every so many seconds, from the next `start` on."""
        self.repeated[name] = (every, work)
        if name == "autosave":
            self._path_of_parent = None

    def stop(self, name: str) -> None:
        self.repeated.pop(name, None)
        running = self._running.pop(name, None)
        if running is not None and not running.get_loop().is_closed():
            running.cancel()

    def start(self) -> None:
        """Begin what is to be repeated and is not yet, if an event loop is running."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return
        if self._path_of_parent is not None:
            self._leave_saving_to_parent()
        for name, (every, work) in self.repeated.items():
            task = self._running.get(name)
            if task is None or task.done() or task.get_loop().is_closed():
                # In no context: that of the request which happens to be the first would be kept for good.
                self._running[name] = Context().run(_begin, loop, name, every, work)

    def after_fork(self) -> None:
        """In the child: nothing is begun yet, for the tasks were those of a loop of the parent's."""
        self._spawned, self._left, self._running = set(), set(), {}
        if self.path is not None:
            self._path_of_parent, self.path = self.path, None

    def _leave_saving_to_parent(self) -> None:
        path, self._path_of_parent = self._path_of_parent, None
        if path is not None:
            self.repeated.pop("autosave", None)
            say_not_saved(path)

    async def stop_all(self) -> None:
        self._leave_saving_to_parent()
        running = list(self._running.values())
        for name in list(self.repeated):
            self.stop(name)
        await _until_done(running)

    def is_waited_for(self) -> bool:
        """Whether this runs in a task that `settle` waits for."""
        task = asyncio.current_task()
        return task in self._spawned or task in self._left

    async def settle(self, patience: float) -> None:
        """Wait for all that was spawned; for what may never come to its end, so many seconds, and then it is given up."""
        while await _until_done(self._spawned):
            pass
        left = _in_this_loop(self._left)
        if left:
            for hanging in (await asyncio.wait(left, timeout=patience))[1]:
                hanging.cancel()


async def _until_done(tasks: Iterable[asyncio.Task[Any]]) -> bool:
    """Wait for those that can be waited for; whether there were any."""
    waited = _in_this_loop(tasks)
    if waited:
        await asyncio.wait(waited)  # and not `gather`: who is cancelled here leaves, and what others have begun goes on
    return bool(waited)


def _in_this_loop(tasks: Iterable[asyncio.Task[Any]]) -> list[asyncio.Task[Any]]:
    """Those that can be waited for: what another loop has left undone, nobody will do, and nobody can wait for himself (in a listener)."""
    loop, me = asyncio.get_running_loop(), asyncio.current_task()
    return [task for task in tasks if not task.done() and task.get_loop() is loop and task is not me]


def _kept(tasks: set[asyncio.Task[Any]], work: Coroutine[Any, Any, R]) -> asyncio.Task[R]:
    """A task that is in the set until it is done: the loop itself keeps no reference."""
    task = asyncio.get_running_loop().create_task(work)
    tasks.add(task)
    task.add_done_callback(tasks.discard)
    return task


def _begin(loop: asyncio.AbstractEventLoop, name: str, every: float, work: Callable[[], Coroutine[Any, Any, object]]) -> asyncio.Task[None]:
    return loop.create_task(_repeat(name, every, work))


async def _repeat(name: str, every: float, work: Callable[[], Coroutine[Any, Any, object]]) -> None:
    while True:
        await asyncio.sleep(every)
        try:
            await work()
        except Exception:
            logger.exception("the %s of sessions failed; it is tried again in %g s", name, every)
