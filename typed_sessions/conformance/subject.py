"""The store under test: one way to call a verb, and several at once, whether the store is synchronous or not.

Checks are coroutines over a `Subject`. Of a synchronous store no verb ever waits, so that they run without an event loop, and verbs at
the same time are threads; of an asynchronous one they are tasks. It knows nothing of what the verbs should do.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Generator, Sequence
from typing import Any, TypeAlias, TypeVar, final

from typing_extensions import override

from ..changes import Changes, Idle, Outcome, Use
from ..record import EndReason, Record
from ..stores.base import Created
from .shape import check_answer, is_awaited
from .watch import Watch, Workers

R = TypeVar("R")

AT_ONCE = 8
"""How many verbs may be called at the same time."""

Call: TypeAlias = tuple[str, tuple[Any, ...]]
"""A verb's name and its arguments (Any: each verb has its own)."""


class Subject(ABC):
    """A store of either kind; its verbs are those of `AsyncStore`. Each answer is of the right type, or `Unexpected` is raised."""

    watch: Watch

    @abstractmethod
    async def call(self, verb: str, *args: Any) -> Any:
        """Call a verb."""

    @abstractmethod
    async def together(self, calls: Sequence[Call]) -> list[Any]:
        """Call these at the same time (`AT_ONCE` at most); their answers. Raises what the first raised that did."""

    async def cancelled_at(self, place: int, beside: Call, verb: str, *args: Any) -> bool:
        """Call a verb that is awaited, and cancel it where it awaits for this time (the first is 1), with another call `beside` it.

        False if it has answered before it came there, or never awaits.
        """
        await self.call(beside[0], *beside[1])
        await self.call(verb, *args)
        return False

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
        """Unless it has not returned from something else: then it would not from this."""
        if not self.watch.stuck:
            await self.call("close")


@final
class SyncSubject(Subject):
    """A `Store`, called directly, or by several threads."""

    def __init__(self, store: Any, watch: Watch, other: Any = None) -> None:
        self.watch = watch
        self._store = store
        self._handles = [store] if other is None else [store, other]
        self._threads = Workers(AT_ONCE, "typed_sessions conformance")

    @override
    async def call(self, verb: str, *args: Any) -> Any:
        return _ask(self.watch, self._store, verb, args)

    @override
    async def together(self, calls: Sequence[Call]) -> list[Any]:
        start = threading.Barrier(len(calls))

        def one(store: Any, verb: str, args: tuple[Any, ...]) -> Any:
            start.wait()
            return _ask(self.watch, store, verb, args)

        running = [self._threads.submit(one, store, *call) for store, call in zip(itertools.cycle(self._handles), calls, strict=False)]
        return [call.result() for call in running]

    @override
    def release(self) -> None:
        self._threads.shutdown(wait=False)


def _ask(watch: Watch, store: Any, verb: str, args: tuple[Any, ...]) -> Any:
    """Call a verb in this thread."""
    asked = watch.begin(f"`{verb}`")
    try:
        answer = getattr(store, verb)(*args)
    except BaseException as problem:
        watch.end(asked, problem)
        raise
    watch.end(asked)
    check_answer(verb, answer)
    return answer


@final
class AsyncSubject(Subject):
    """An `AsyncStore`, awaited; or a `Store` as an asynchronous manager calls it: in a thread, if it does I/O."""

    def __init__(self, store: Any, watch: Watch, other: Any = None) -> None:
        self.watch = watch
        self._store = store
        self._handles = [store] if other is None else [store, other]
        self._awaited = is_awaited(store)
        self._threads = Workers(AT_ONCE, "typed_sessions conformance") if not self._awaited and store.blocking else None

    @override
    async def call(self, verb: str, *args: Any) -> Any:
        return await self._ask(self._store, verb, args)

    async def _ask(self, store: Any, verb: str, args: tuple[Any, ...]) -> Any:
        if self._awaited:
            return await self._await(verb, getattr(store, verb)(*args))
        if self._threads is None:
            return _ask(self.watch, store, verb, args)
        return await asyncio.get_running_loop().run_in_executor(self._threads, _ask, self.watch, store, verb, args)

    async def _await(self, verb: str, answer: Coroutine[Any, Any, Any] | _Counted) -> Any:
        asked = self.watch.begin(f"`{verb}`", answer.coroutine if isinstance(answer, _Counted) else answer)
        try:
            found = await answer
        except BaseException as problem:
            self.watch.end(asked, problem)
            raise
        self.watch.end(asked)
        check_answer(verb, found)
        return found

    @override
    async def cancelled_at(self, place: int, beside: Call, verb: str, *args: Any) -> bool:
        if not self._awaited:
            return await super().cancelled_at(place, beside, verb, *args)
        counted = _Counted(getattr(self._store, verb)(*args), place)
        other = asyncio.create_task(self.call(beside[0], *beside[1]))
        counted.task = asyncio.create_task(self._await(verb, counted))
        await asyncio.wait([other, counted.task])
        other.result()
        if not counted.task.cancelled():
            counted.task.result()
        return counted.passed >= place

    @override
    async def together(self, calls: Sequence[Call]) -> list[Any]:
        asking = [self._ask(store, *call) for store, call in zip(itertools.cycle(self._handles), calls, strict=False)]
        answers = await asyncio.gather(*asking, return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        return answers

    @override
    def release(self) -> None:
        if self._threads is not None:
            self._threads.shutdown(wait=False)


@final
class _Counted:
    """A coroutine whose task is cancelled where it awaits for the `place`th time."""

    task: asyncio.Task[Any]

    def __init__(self, coroutine: Coroutine[Any, Any, Any], place: int) -> None:
        self.coroutine = coroutine
        self.passed = 0
        self._place = place

    def __await__(self) -> Generator[Any, Any, Any]:
        step: Callable[[Any], Any] = self.coroutine.send
        given: Any = None
        while True:
            try:
                waits_for = step(given)
            except StopIteration as done:
                return done.value
            self.passed += 1
            if self.passed == self._place:
                self.task.cancel()
            try:
                step, given = self.coroutine.send, (yield waits_for)
            except BaseException as problem:
                step, given = self.coroutine.throw, problem


class Runner(ABC):
    """Runs the checks' coroutines, and makes subjects of stores."""

    asynchronous: bool
    """Whether a store may be one whose verbs are awaited."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch

    @abstractmethod
    def run(self, coroutine: Coroutine[Any, Any, R]) -> R: ...

    @abstractmethod
    async def made(self, make: Callable[[], Any]) -> Any:
        """What a factory gives, awaited if it is to be."""

    async def store(self, make: Callable[[], Any]) -> Any:
        """The store that a factory gives."""
        asked = self.watch.begin("the factory of stores")
        try:
            store = await self.made(make)
        except BaseException as problem:
            self.watch.end(asked, problem)
            raise
        self.watch.end(asked)
        return store

    @abstractmethod
    def subject(self, store: Any, other: Any = None) -> Subject:
        """A store, and another handle of the same one for half of the calls at once."""

    def give_up(self) -> None:  # noqa: B027  # nothing can be done about a thread
        """Something does not return: cancel it, if that can be done."""

    def close(self) -> None:  # noqa: B027  # one of them has nothing
        """Let go of what it runs them in."""


@final
class PlainRunner(Runner):
    """For a synchronous store: a coroutine that waits for nothing is a function."""

    asynchronous = False

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
    async def made(self, make: Callable[[], Any]) -> Any:
        made = make()
        if inspect.isawaitable(made):
            if inspect.iscoroutine(made):
                made.close()
            raise TypeError("check_store was given a factory that is awaited: use check_async_store")
        return made

    @override
    def subject(self, store: Any, other: Any = None) -> Subject:
        return SyncSubject(store, self.watch, other)


@final
class LoopRunner(Runner):
    """For an asynchronous store: an event loop of the kit's own."""

    asynchronous = True

    def __init__(self, watch: Watch) -> None:
        super().__init__(watch)
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
    async def made(self, make: Callable[[], Any]) -> Any:
        made = make()
        return await made if inspect.isawaitable(made) else made

    @override
    def subject(self, store: Any, other: Any = None) -> Subject:
        return AsyncSubject(store, self.watch, other)

    @override
    def give_up(self) -> None:
        self._loop.call_soon_threadsafe(self._cancel_all)
        self.watch.settle()

    def _cancel_all(self) -> None:
        for task in asyncio.all_tasks(self._loop):
            task.cancel()

    @override
    def close(self) -> None:
        if self._loop.is_running():
            return  # in the thread that does not return
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        if not self.watch.stuck:
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()
