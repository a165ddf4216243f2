"""Sessions in FastAPI: parameters of handlers and of other dependencies, by `Annotated`.

    app.add_middleware(SessionMiddleware, sessions=AsyncSessionManager(store))  # of filters.asgi

    @app.get("/cart")
    async def show(cart: Annotated[Cart, FromSession(cart, make=Cart)]) -> Cart: ...

    @app.post("/sign-in")
    def sign_in(session: CurrentSession) -> None: ...

The session is opened with the first of them, before the handler is called, so that plain functions can use it too; what is left alone
costs nothing. They are no part of the OpenAPI document, and work in WebSocket routes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeAlias, TypeVar, overload

from fastapi import Depends
from starlette.requests import HTTPConnection

from ..keys import Key, ListKey
from ..residents import ABSENT
from ..session import FORBIDDEN, Error, Session
from .asgi import open_session
from .decorators import wanted

__all__ = ["CurrentSession", "FromSession", "request_session"]

T = TypeVar("T")


async def request_session(connection: HTTPConnection) -> Session:
    """A dependency: the session of the request. Raises `NoSession` where no `SessionMiddleware` is around."""
    return await open_session(connection.scope)


CurrentSession: TypeAlias = Annotated[Session, Depends(request_session)]
"""The type of a parameter that is the request's session."""


# That of `filters.starlette` has the same signature. It is written out in both: type checkers, editors and help() see no other.
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
) -> Any:  # Any: as `Depends` gives, for `cart: Cart = FromSession(cart)`
    """`Annotated[Cart, FromSession(cart)]` is the type of a parameter that is the value of a key; of a `ListKey`, its `SessionList`.

    Without a value the request is refused with `error` (`redirect("/login")`, say), unless there is `make=`, whose result is set, or
    `default=`, which is not stored. A value that is changed in place is stored all the same. What arrives is of the key's type; that the
    annotation says the same, type checkers cannot see. Raises `TypeError` for arguments that do not go together.
    """
    value = wanted(key, error=error, make=make, default=default)

    async def from_session(connection: HTTPConnection) -> Any:
        return value(await open_session(connection.scope))

    dependency: Callable[[HTTPConnection], Awaitable[Any]] = from_session
    return Depends(dependency)
