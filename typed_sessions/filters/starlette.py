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
from typing import Annotated, Any, Concatenate, TypeAlias, TypeVar, final, get_args, get_origin, get_type_hints, overload

from starlette.concurrency import run_in_threadpool

from ..keys import Key, ListKey
from ..residents import ABSENT
from ..session import Error, Session
from .asgi import open_session
from .decorators import FORBIDDEN, wanted

T = TypeVar("T")
A = TypeVar("A")
R = TypeVar("R")


@final
class _Taken:
    """What an annotation says of a parameter: how its value is taken out of the session."""

    __slots__ = ("value",)

    def __init__(self, value: Callable[[Session], Any]) -> None:
        self.value = value


def _itself(session: Session) -> Session:
    return session


CurrentSession: TypeAlias = Annotated[Session, _Taken(_itself)]
"""The type of a parameter that is the request's session."""


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
def inject(endpoint: Callable[Concatenate[A, ...], Awaitable[R]], /) -> Callable[[A], Awaitable[R]]: ...
@overload
def inject(endpoint: Callable[Concatenate[A, ...], R], /) -> Callable[[A], Awaitable[R]]: ...
def inject(endpoint: Callable[..., Any], /) -> Callable[..., Awaitable[Any]]:  # Any: see the overloads
    """An endpoint that is called with what its annotations ask of the session, by keyword, beside the request.

    Raises `TypeError` for one that asks for nothing.
    """
    takes: dict[str, Callable[[Session], Any]] = {}
    for name, hint in get_type_hints(endpoint, include_extras=True).items():
        for part in get_args(hint)[1:] if get_origin(hint) is Annotated else ():
            if isinstance(part, _Taken):
                takes[name] = part.value
    if not takes:
        raise TypeError(f"inject({endpoint!r}): no parameter is a CurrentSession or Annotated[..., FromSession(key)] of filters.starlette")
    waits = inspect.iscoroutinefunction(endpoint)

    @wraps(endpoint)
    async def called(first: Any, *others: Any) -> Any:
        session = await open_session(first.scope)
        values = {name: value(session) for name, value in takes.items()}
        if waits:
            return await endpoint(first, *others, **values)
        return await run_in_threadpool(partial(endpoint, first, *others, **values))

    return called
