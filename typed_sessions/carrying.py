"""How an asynchronous manager carries out plans: it awaits what has to be awaited, and one commit of a request after the other.

A store without I/O is called directly, one that blocks in a thread (`offloop`), an asynchronous one is awaited.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, Protocol, TypeVar, final

from typing_extensions import ParamSpec, override

from . import steps
from .errors import SessionError
from .exchange import Exchange
from .express import short_commit_of, short_opening_of
from .offloop import OffLoop
from .settings import Configured
from .stores.base import AsyncStore, Store
from .tasks import Tasks

P = ParamSpec("P")
R = TypeVar("R")


@final
class Turn:
    """One task of a request is about to change what the request knows of the store: the others wait for it."""

    __slots__ = ("_over", "outer")

    def __init__(self, outer: Turn | None) -> None:
        self.outer: Turn | None = outer
        """What the same task is in the middle of, of another request: a listener there has opened a session of its own."""
        self._over: asyncio.Event | None = None

    async def wait(self) -> None:
        if self._over is None:
            self._over = asyncio.Event()
        await self._over.wait()

    def end(self) -> None:
        if self._over is not None:
            self._over.set()


class HasTurn(Protocol):
    """Whatever one task is to work on at a time."""

    turn: Any  # Any: a `Turn` or None, which an exchange does not know


_turn: ContextVar[Turn | None] = ContextVar("typed_sessions_turn", default=None)


def _is_mine(turn: Turn) -> bool:
    """Whether this runs in it: a listener that is told in the middle of a commit, and tasks that it begins, cannot wait for its end."""
    mine = _turn.get()
    while mine is not None and mine is not turn:
        mine = mine.outer
    return mine is turn


class Carrying(Configured[Store | AsyncStore]):
    """The part of an `AsyncSessionManager` that waits."""

    turn: Any = None  # Any: as in HasTurn

    @override
    def _begin(self) -> None:
        store = self._core.store
        awaited = inspect.iscoroutinefunction(store.open)
        self._direct: Store | None = None if awaited or store.blocking else store
        """The store, if its verbs neither wait nor have to be awaited."""
        self._short_opening = short_opening_of(self._core, self._direct)
        self._short_commit = short_commit_of(self._core, self._direct)
        self._offloop = None if awaited or self._direct is not None else OffLoop(store)
        self._core.sleep = asyncio.sleep
        self._tasks = Tasks()

    async def _ask(self, verb: Callable[..., Any], *args: Any) -> Any:  # Any: each verb has types of its own
        if self._direct is not None:
            return verb(*args)
        if self._offloop is not None:
            return await self._offloop.ask(self._core.options.deadline, verb, args)
        return await verb(*args)

    async def _alone(self, whose: HasTurn, work: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Do it when no other task of the request commits or refreshes; or, of the manager, closes it.

        Otherwise what one task commits while another one waits for the store would be committed twice, or count as committed and be lost.
        """
        while whose.turn is not None and not _is_mine(whose.turn):
            await whose.turn.wait()
        if whose.turn is not None:
            return await work(*args, **kwargs)
        turn = whose.turn = Turn(_turn.get())
        token = _turn.set(turn)
        try:
            return await work(*args, **kwargs)
        finally:
            whose.turn = None
            turn.end()
            with suppress(ValueError):  # a coroutine that was left over in a loop is closed in another context
                _turn.reset(token)

    async def run(self, plan: steps.Plan[R]) -> R:
        """Carry out a plan: `manager.run`, with `await` where there is something to wait for."""
        result: Any = None  # Any: what a step gives is the plan's business
        problem: BaseException | None = None
        while True:
            try:
                step = plan.send(result) if problem is None else plan.throw(problem)
            except StopIteration as stop:
                done: R = stop.value
                return done
            result, problem = None, None
            try:
                if type(step) is steps.Ask:
                    result = await self._ask(step.verb, *step.args)
                elif type(step) is steps.Work:
                    result = await asyncio.to_thread(step.function, *step.args)
                elif type(step) is steps.Whole:
                    result = await self._whole(step.plan)
                elif type(step) is steps.Aside:
                    await self._aside(step.plan)
                else:
                    result = step[0](*step[1])
                    if inspect.isawaitable(result):
                        result = await result
            except asyncio.CancelledError as raised:
                problem = raised
                if type(step) is steps.Tell and not self._is_cancelled():
                    # A hook has awaited a task that it has cancelled itself: that stops nothing else, as any other exception (rule 10).
                    problem = SessionError(f"{step.function!r} raised CancelledError, and nobody has cancelled the request")
                    problem.__cause__ = raised
            except BaseException as raised:
                problem = raised

    def _is_cancelled(self) -> bool:
        task = asyncio.current_task()
        cancelling = getattr(task, "cancelling", None)
        if cancelling is None:  # Python 3.10: of the tasks of our own it is known that nobody cancels them while the loop runs
            return not self._tasks.is_waited_for()
        return bool(cancelling())

    async def _run_alone(self, exchange: Exchange, plan: steps.Plan[None]) -> None:
        await self._alone(exchange, self.run, plan)

    async def _whole(self, plan: steps.Plan[R]) -> R:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return await self.run(plan)  # driven by something else than asyncio: there are no tasks to be cancelled
        return await asyncio.shield(self._tasks.spawn(self.run(plan)))

    async def _aside(self, plan: steps.Plan[None]) -> None:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            await self.run(plan)  # as in `_whole`
            return
        self._tasks.leave(self.run(plan))
        await asyncio.sleep(0)  # what has nobody to wait for is done then
