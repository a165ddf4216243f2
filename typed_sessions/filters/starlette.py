"""Sessions in Starlette: arguments of endpoints, by `Annotated`, as its users know them from FastAPI.

    @inject
    async def show(request: Request, cart: Annotated[Cart, FromSession(cart, make=Cart)]) -> Response: ...

    app = Starlette(routes=[Route("/", show)], middleware=[Middleware(SessionMiddleware, sessions)])

The session is opened before the endpoint is called, so that plain functions, which Starlette runs in a thread, can use it too. Endpoints
of WebSockets and methods of an `HTTPEndpoint` take them in the same way.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from functools import partial, wraps
from types import CoroutineType
from typing import Annotated, Any, Concatenate, NoReturn, TypeAlias, TypeVar, cast, final, get_args, get_origin, get_type_hints, overload

from starlette.concurrency import run_in_threadpool

from ..keys import Key, ListKey
from ..residents import ABSENT
from ..session import FORBIDDEN, Error, Session
from .asgi import open_session
from .decorators import wanted

__all__ = ["CurrentSession", "FromSession", "inject"]

T = TypeVar("T")
A = TypeVar("A")
R = TypeVar("R")


@final
class _Taken:
    """What an annotation says of a parameter: how its value is taken out of the session."""

    __slots__ = ("value",)

    def __init__(self, value: Callable[[Session], Any]) -> None:
        self.value = value

    def __get_pydantic_core_schema__(self, *_: object) -> NoReturn:
        raise TypeError("this annotation is one of typed_sessions.filters.starlette, for @inject; FastAPI's are in filters.fastapi")


def _itself(session: Session) -> Session:
    return session


CurrentSession: TypeAlias = Annotated[Session, _Taken(_itself)]
"""The type of a parameter that is the request's session."""


# That of `filters.fastapi` has the same signature. It is written out in both: type checkers, editors and help() see no other.
@overload
def FromSession(key: ListKey[Any], /) -> Any: ...
@overload
def FromSession(key: Key[Any], /, *, error: Error = ...) -> Any: ...
@overload
def FromSession(key: Key[T], /, *, make: Callable[[], T]) -> Any: ...
@overload
def FromSession(key: Key[Any], /, *, default: object) -> Any: ...
def FromSession(
    key: Key[Any] | ListKey[Any],
    /,
    *,
    error: Error = FORBIDDEN,
    make: Callable[[], Any] | None = None,  # Any: see the overloads
    default: object = ABSENT,
) -> Any:  # Any: what stands in an annotation has no type that matters
    """`Annotated[Cart, FromSession(cart)]` is the type of a parameter that is the value of a key, as in `filters.fastapi`."""
    return _Taken(wanted(key, error=error, make=make, default=default))


@overload
def inject(endpoint: Callable[Concatenate[A, ...], Awaitable[R]], /) -> Callable[Concatenate[A, ...], CoroutineType[Any, Any, R]]: ...
@overload
def inject(endpoint: Callable[Concatenate[A, ...], R], /) -> Callable[Concatenate[A, ...], CoroutineType[Any, Any, R]]: ...
def inject(endpoint: Callable[..., Any], /) -> Callable[..., Any]:  # Any: see the overloads
    """An endpoint that is called with what its annotations ask of the session, by keyword, beside the request.

    It is a function, a method, an object that can be called, or a `functools.partial` of one. Raises `TypeError` for one that asks for
    nothing.
    """
    plain: Any = endpoint  # Any: whatever can be called
    while isinstance(plain, partial):
        plain = cast("partial[object]", plain).func
    if not inspect.isroutine(plain):
        plain = type(plain).__call__
    takes: dict[str, Callable[[Session], Any]] = {}
    for name, hint in get_type_hints(plain, include_extras=True).items():
        found = _annotated(hint)
        if found is None and any(_annotated(part) is not None for part in get_args(hint)):
            raise TypeError(
                f"inject({endpoint!r}): {name} is a union; for no value, give Annotated[T | None, FromSession(key, default=None)]"
            )
        if found is not None:
            takes[name] = found.value
    if not takes:
        raise TypeError(f"inject({endpoint!r}): no parameter is a CurrentSession or Annotated[..., FromSession(key)] of filters.starlette")
    waits = inspect.iscoroutinefunction(plain)

    @wraps(plain)
    async def called(*given: Any) -> Any:
        # A method's object comes before the request; an `HTTPEndpoint` has the scope too.
        connection = next(argument for argument in given if hasattr(argument, "scope"))
        session = await open_session(connection.scope)
        values = {name: value(session) for name, value in takes.items()}
        if waits:
            return await endpoint(*given, **values)
        return await run_in_threadpool(partial(endpoint, *given, **values))

    return called


def _annotated(hint: Any) -> _Taken | None:
    while (alias := getattr(hint, "__value__", None)) is not None:  # of a `type` statement
        hint = alias
    if get_origin(hint) is not Annotated:
        return None
    return next((part for part in get_args(hint)[1:] if isinstance(part, _Taken)), None)
