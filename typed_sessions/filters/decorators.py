"""Decorators for handlers: the session, or one value of it, as an argument after the handler's first. They know no framework.

The first argument is what the server hands over: `self` in a method of a `SessionHandler`, `environ` in a WSGI application, `request` in a
Starlette endpoint. The decorated handler takes its other arguments as before, and type checkers see which.

    class Handler(SessionHandler):
        @with_session
        def do_GET(self, session: Session) -> None: ...

    @from_session(cart, make=Cart)
    async def show(request: Request, cart: Cart) -> Response: ...

An `async def` handler is one of ASGI, with a request or a scope first: its session is opened with `await`. Any other runs where
`current_session()` works; in ASGI that takes `SessionMiddleware(..., eager=True)`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable
from copy import deepcopy
from functools import wraps
from typing import Any, Concatenate, Generic, TypeVar, cast, final, overload

from typing_extensions import ParamSpec

from ..errors import check_error
from ..keys import Key, ListKey
from ..residents import ABSENT
from ..session import FORBIDDEN, Error, Session, SessionList, current_session, refused
from .asgi import open_session

T = TypeVar("T")
D = TypeVar("D")
A = TypeVar("A")
R = TypeVar("R")
P = ParamSpec("P")


def with_session(handler: Callable[Concatenate[A, Session, P], R], /) -> Callable[Concatenate[A, P], R]:
    """The handler is called with the request's session, which is opened for it. Raises `NoSession` where no filter is around."""
    return _given(handler, lambda session: session)


@overload
def from_session(key: ListKey[T], /) -> Giving[SessionList[T]]: ...
@overload
def from_session(key: Key[T], /, *, error: Error = ...) -> Giving[T]: ...
@overload
def from_session(key: Key[T], /, *, make: Callable[[], T]) -> Giving[T]: ...
@overload
def from_session(key: Key[T], /, *, default: T) -> Giving[T]: ...
@overload
def from_session(key: Key[T], /, *, default: D) -> Giving[T | D]: ...
def from_session(
    key: Key[Any] | ListKey[Any],
    /,
    *,
    error: Error = FORBIDDEN,
    make: Callable[[], Any] | None = None,  # Any: see the overloads
    default: object = ABSENT,
) -> Giving[Any]:
    """The handler is called with the value of a key; of a `ListKey`, with its list.

    Without a value the request is refused with `error` (`redirect("/login")`, say), unless there is `make=`, whose result is set, or
    `default=`, which is not stored. A value that is changed in place is stored all the same.
    """
    return Giving(wanted(key, error=error, make=make, default=default))


@final
class Giving(Generic[T]):
    """Decorates a handler that takes a `T` after its first argument."""

    __slots__ = ("_value",)

    def __init__(self, value: Callable[[Session], T]) -> None:
        self._value = value

    def __call__(self, handler: Callable[Concatenate[A, T, P], R], /) -> Callable[Concatenate[A, P], R]:
        return _given(handler, self._value)


def wanted(
    key: Key[Any] | ListKey[Any],
    *,
    error: Error,
    make: Callable[[], Any] | None,  # Any: see the overloads of `from_session`
    default: object,
) -> Callable[[Session], Any]:
    """How a handler's value is taken out of a session, as `from_session` says.

    Raises `TypeError` for what does not go together, and `PolicyError` for an `error` that is none.
    """
    if not isinstance(cast("object", key), (Key, ListKey)):
        raise TypeError(f"from_session({key!r}): expected a Key or a ListKey")
    if isinstance(key, ListKey):
        if make is not None or default is not ABSENT:
            raise TypeError(f"from_session({key!r}): a list is always there, and may be empty: make= and default= do not apply to it")
        return lambda session: session[key]
    if make is not None and default is not ABSENT:
        raise TypeError(f"from_session({key!r}): give either make=, whose result is set, or default=, which is not stored")
    if make is not None:
        if not callable(make):
            raise TypeError(f"from_session({key!r}, make={make!r}): expected a function that makes a value, such as make=list")
        return lambda session: session.setdefault(key, make)
    if default is not ABSENT:

        def given(session: Session) -> Any:
            value = session.get(key, ABSENT)
            return value if value is not ABSENT else default if isinstance(default, Hashable) else deepcopy(default)

        # One visitor must not see what another's handler did to the default; what has a hash is not changed, and may be a sentinel.
        return given
    check_error(error)

    def required(session: Session) -> Any:
        value = session.get(key, ABSENT)
        if value is ABSENT:
            raise refused(session, error)
        return value

    return required


def _given(handler: Callable[..., Any], value: Callable[[Session], Any]) -> Callable[..., Any]:
    """A handler that is called with `value(session)` after its first argument."""
    if inspect.iscoroutinefunction(handler):

        @wraps(handler)
        async def awaited(first: Any, *others: Any, **named: Any) -> Any:
            session = await open_session(getattr(first, "scope", first))
            return await handler(first, value(session), *others, **named)

        return awaited

    @wraps(handler)
    def called(first: Any, *others: Any, **named: Any) -> Any:
        return handler(first, value(current_session()), *others, **named)

    return called
