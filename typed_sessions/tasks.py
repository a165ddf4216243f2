"""The asyncio tasks of a manager: work that nobody waits for, and what is done every so many seconds."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar, final

R = TypeVar("R")

logger: logging.Logger = logging.getLogger("typed_sessions")


@final
class Tasks:
    """As `Background`, in the event loop: what is to be repeated begins when there is one."""

    def __init__(self) -> None:
        self._spawned: set[asyncio.Task[Any]] = set()  # Any: each gives something else
        self.repeated: dict[str, tuple[float, Callable[[], Coroutine[Any, Any, object]]]] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        self.path: str | None = None

    def spawn(self, work: Coroutine[Any, Any, R]) -> asyncio.Task[R]:
        """Do it in a task of its own."""
        task = asyncio.get_running_loop().create_task(work)
        self._spawned.add(task)  # the loop itself keeps no reference
        task.add_done_callback(self._spawned.discard)
        return task

    def repeat(self, name: str, every: float, work: Callable[[], Coroutine[Any, Any, object]]) -> None:
        """Do it every so many seconds, from the next `start` on."""
        self.repeated[name] = (every, work)

    def stop(self, name: str) -> None:
        self.repeated.pop(name, None)
        running = self._running.pop(name, None)
        if running is not None:
            running.cancel()

    def start(self) -> None:
        """Begin what is to be repeated and is not yet, if an event loop is running."""
        with suppress(RuntimeError):
            loop = asyncio.get_running_loop()
            for name, (every, work) in self.repeated.items():
                task = self._running.get(name)
                if task is None or task.done():
                    self._running[name] = loop.create_task(_repeat(name, every, work))

    async def stop_all(self) -> None:
        running = list(self._running.values())
        for name in list(self.repeated):
            self.stop(name)
        await asyncio.gather(*running, return_exceptions=True)

    async def settle(self) -> None:
        """Wait for all that was spawned."""
        while self._spawned:
            waited = list(self._spawned)
            await asyncio.gather(*waited, return_exceptions=True)
            self._spawned.difference_update(waited)  # their callbacks may not have run: nothing has to be waited for if all are done


async def _repeat(name: str, every: float, work: Callable[[], Coroutine[Any, Any, object]]) -> None:
    while True:
        await asyncio.sleep(every)
        try:
            await work()
        except Exception:
            logger.exception("the %s of sessions failed; it is tried again in %g s", name, every)
