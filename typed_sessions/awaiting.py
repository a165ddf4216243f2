"""Coroutines that say so where somebody takes their result without having awaited them: in an `if` one would always be true."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine, Generator
from functools import wraps
from typing import Any, NoReturn, TypeVar, cast, final

from typing_extensions import override

F = TypeVar("F", bound=Callable[..., Coroutine[Any, Any, Any]])


@final
class _Awaited(Coroutine[Any, Any, Any]):
    """A coroutine, for `await` and all that takes one, whose truth and parts nobody gets. The one inside warns if it is never awaited."""

    __slots__ = ("_inner",)

    def __init__(self, inner: Coroutine[Any, Any, Any]) -> None:
        self._inner = inner

    @override
    def __await__(self) -> Generator[Any, Any, Any]:
        return self._inner.__await__()

    @override
    def send(self, value: Any, /) -> Any:
        return self._inner.send(value)

    @override
    def throw(self, *problem: Any) -> Any:
        return self._inner.throw(*problem)

    @override
    def close(self) -> None:
        self._inner.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)  # `cr_frame` and its like, which debuggers look at

    def __bool__(self) -> bool:
        # From Python 3.12 on the `repr` of a task asks whether it has a coroutine. One that runs, or that a task has, is not forgotten.
        frame = inspect.currentframe()
        caller = "" if frame is None or frame.f_back is None else str(frame.f_back.f_globals.get("__name__"))
        if caller.startswith("asyncio.") or inspect.getcoroutinestate(self._inner) != inspect.CORO_CREATED:
            return True
        return self._forgotten()

    def __iter__(self) -> NoReturn:
        self._forgotten()

    def __getitem__(self, key: object) -> NoReturn:
        self._forgotten()

    def __contains__(self, key: object) -> NoReturn:
        self._forgotten()

    @override
    def __reduce__(self) -> NoReturn:
        raise TypeError("a coroutine cannot be copied or pickled")

    def _forgotten(self) -> NoReturn:
        name: str = cast("Any", self._inner).__qualname__
        self._inner.close()  # or Python would warn of it, too
        raise TypeError(f"{name}(...) is a coroutine, whose result is not there yet: write `await` before the call")

    @override
    def __repr__(self) -> str:
        return repr(self._inner)


def awaited(function: F) -> F:
    """A coroutine function whose coroutines cannot be taken for their results."""

    @wraps(function)
    def call(*args: Any, **named: Any) -> _Awaited:
        return _Awaited(function(*args, **named))

    # It is one for whoever asks, such as `unittest.mock`: in Python 3.12 by this function, before by what asyncio had for its own.
    mark = getattr(inspect, "markcoroutinefunction", None)
    if mark is not None:
        mark(call)
    else:
        vars(call)["_is_coroutine"] = getattr(asyncio.coroutines, "_is_coroutine", None)
    return cast("F", call)
