"""The store under test: one way to call a verb, and several at once, whether the store is synchronous or not.

Checks are coroutines over a `Subject`. Of a synchronous store no verb ever waits, so that they run without an event loop, and verbs at
the same time are threads; of an asynchronous one they are tasks. It knows nothing of what the verbs should do.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias, TypeVar, final

from typing_extensions import override

from ..changes import Changes, Idle, Outcome, Use
from ..record import EndReason, Record
from ..stores.base import Created

R = TypeVar("R")

AT_ONCE = 8
"""How many verbs may be called at the same time."""
PATIENCE = 60.0
"""Seconds after which a verb in a thread counts as stuck."""

Call: TypeAlias = tuple[str, tuple[Any, ...]]
"""A verb's name and its arguments (Any: each verb has its own)."""


class Subject(ABC):
    """A store of either kind; its verbs are those of `AsyncStore`."""

    @abstractmethod
    async def call(self, verb: str, *args: Any) -> Any:
        """Call a verb."""

    @abstractmethod
    async def together(self, calls: Sequence[Call]) -> list[Any]:
        """Call these at the same time (`AT_ONCE` at most); their answers. Raises what the first raised that did."""

    def release(self) -> None:  # noqa: B027  # most have none
        """Let go of threads."""

    async def create(self, record: Record, now: float) -> Created:
        created: Created = await self.call("create", record, now)
        return created

    async def open(self, locator: bytes, use: Use | None, idle: Idle, now: float) -> Record | None:
        record: Record | None = await self.call("open", locator, use, idle, now)
        return record

    async def touch(self, locator: bytes, digest: bytes, idle: Idle, now: float) -> bool:
        touched: bool = await self.call("touch", locator, digest, idle, now)
        return touched

    async def commit(self, locator: bytes, changes: Changes, idle: Idle, now: float) -> Outcome:
        outcome: Outcome = await self.call("commit", locator, changes, idle, now)
        return outcome

    async def end(self, locator: bytes, reason: EndReason, now: float, lease: float) -> Record | None:
        record: Record | None = await self.call("end", locator, reason, now, lease)
        return record

    async def sweep(self, now: float, limit: int, lease: float, grace: float) -> tuple[Sequence[Record], bool]:
        swept: tuple[Sequence[Record], bool] = await self.call("sweep", now, limit, lease, grace)
        return swept

    async def clear(self, locator: bytes, names: Sequence[str] | None) -> None:
        await self.call("clear", locator, names)

    async def scan(self, after: bytes | None, limit: int) -> tuple[Sequence[Record], bytes | None]:
        page: tuple[Sequence[Record], bytes | None] = await self.call("scan", after, limit)
        return page

    async def close(self) -> None:
        await self.call("close")


@final
class SyncSubject(Subject):
    """A `Store`, called directly, or by several threads."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self._threads = ThreadPoolExecutor(AT_ONCE, "typed_sessions conformance")

    @override
    async def call(self, verb: str, *args: Any) -> Any:
        return getattr(self._store, verb)(*args)

    @override
    async def together(self, calls: Sequence[Call]) -> list[Any]:
        start = threading.Barrier(len(calls))

        def one(verb: str, args: tuple[Any, ...]) -> Any:
            start.wait(PATIENCE)
            return getattr(self._store, verb)(*args)

        running = [self._threads.submit(one, verb, args) for verb, args in calls]
        return [call.result(PATIENCE) for call in running]

    @override
    def release(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


@final
class AsyncSubject(Subject):
    """An `AsyncStore`, awaited; or a `Store` as an asynchronous manager calls it: in a thread, if it does I/O."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self._threaded = not inspect.iscoroutinefunction(store.open) and bool(store.blocking)

    @override
    async def call(self, verb: str, *args: Any) -> Any:
        if self._threaded:
            return await asyncio.to_thread(getattr(self._store, verb), *args)
        answer = getattr(self._store, verb)(*args)
        return await answer if inspect.isawaitable(answer) else answer

    @override
    async def together(self, calls: Sequence[Call]) -> list[Any]:
        answers = await asyncio.gather(*(self.call(verb, *args) for verb, args in calls), return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        return answers


class Runner(ABC):
    """Runs the checks' coroutines."""

    @abstractmethod
    def run(self, coroutine: Coroutine[Any, Any, R]) -> R: ...

    @abstractmethod
    async def subject(self, made: Any) -> Subject:
        """What `make_store` has given, as a subject."""

    def close(self) -> None:  # noqa: B027  # one of them has nothing
        """Let go of what it runs them in."""


@final
class PlainRunner(Runner):
    """For a synchronous store: a coroutine that waits for nothing is a function."""

    @override
    def run(self, coroutine: Coroutine[Any, Any, R]) -> R:
        try:
            coroutine.send(None)
        except StopIteration as done:
            answer: R = done.value
            return answer
        coroutine.close()
        raise AssertionError("a check of a synchronous store has waited for something")

    @override
    async def subject(self, made: Any) -> Subject:
        if inspect.isawaitable(made) or inspect.iscoroutinefunction(made.open):
            if inspect.iscoroutine(made):
                made.close()
            raise TypeError("check_store was given an asynchronous store: use check_async_store")
        return SyncSubject(made)


@final
class LoopRunner(Runner):
    """For an asynchronous store: an event loop of the kit's own."""

    def __init__(self) -> None:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            self._loop = asyncio.new_event_loop()
        else:
            raise RuntimeError("check_async_store has an event loop of its own: call it from a function that is not async")

    @override
    def run(self, coroutine: Coroutine[Any, Any, R]) -> R:
        return self._loop.run_until_complete(coroutine)

    @override
    async def subject(self, made: Any) -> Subject:
        return AsyncSubject(await made if inspect.isawaitable(made) else made)

    @override
    def close(self) -> None:
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()
