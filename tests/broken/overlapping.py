"""Stores whose verbs take several trips (generators, see `tests.broken.stores`), as a store for threads and as one for tasks.

Between two trips another call comes in, if there is one: tasks take turns; a thread waits a moment for another to come.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from functools import partial
from typing import Any

A_MOMENT = 0.005
"""Seconds that a thread waits between two trips for another to come in. Only what has nobody to wait for waits that long."""


class ForThreads:
    """A store for calling threads. Outside of the threads for calls at once nobody waits: there the kit calls one verb after the other."""

    blocking = False

    def __init__(self, store: Any) -> None:
        self._store = store
        self._turn = threading.Condition()
        self._came = 0

    def _another(self, came: int) -> bool:
        return self._came > came

    def _call(self, verb: str, *args: Any) -> Any:
        alone = not threading.current_thread().name.startswith("typed_sessions conformance")
        with self._turn:
            self._came += 1
            self._turn.notify_all()
            result = getattr(self._store, verb)(*args)
            while inspect.isgenerator(result):
                try:
                    next(result)
                except StopIteration as stop:
                    return stop.value
                if not alone:
                    self._turn.wait_for(partial(self._another, self._came), A_MOMENT)
            return result

    def create(self, *args: Any) -> Any:
        return self._call("create", *args)

    def open(self, *args: Any) -> Any:
        return self._call("open", *args)

    def touch(self, *args: Any) -> Any:
        return self._call("touch", *args)

    def commit(self, *args: Any) -> Any:
        return self._call("commit", *args)

    def end(self, *args: Any) -> Any:
        return self._call("end", *args)

    def sweep(self, *args: Any) -> Any:
        return self._call("sweep", *args)

    def clear(self, *args: Any) -> Any:
        return self._call("clear", *args)

    def scan(self, *args: Any) -> Any:
        return self._call("scan", *args)

    def close(self) -> None:
        self._store.close()


class ForTasks:
    """The same store, awaited: each trip lets the other tasks go on."""

    def __init__(self, store: Any) -> None:
        self._store = store

    async def _call(self, verb: str, *args: Any) -> Any:
        result = getattr(self._store, verb)(*args)
        while inspect.isgenerator(result):
            try:
                next(result)
            except StopIteration as stop:
                return stop.value
            await asyncio.sleep(0)
        return result

    async def create(self, *args: Any) -> Any:
        return await self._call("create", *args)

    async def open(self, *args: Any) -> Any:
        return await self._call("open", *args)

    async def touch(self, *args: Any) -> Any:
        return await self._call("touch", *args)

    async def commit(self, *args: Any) -> Any:
        return await self._call("commit", *args)

    async def end(self, *args: Any) -> Any:
        return await self._call("end", *args)

    async def sweep(self, *args: Any) -> Any:
        return await self._call("sweep", *args)

    async def clear(self, *args: Any) -> Any:
        return await self._call("clear", *args)

    async def scan(self, *args: Any) -> Any:
        return await self._call("scan", *args)

    async def close(self) -> None:
        await self._call("close")
