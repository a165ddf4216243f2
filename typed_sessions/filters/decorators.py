"""Decorators for handlers: the session, or one value of it, as an argument after the handler's first. They know no framework.

The first argument is what the server hands over: `self` in a method of a `SessionHandler`, `environ` in a WSGI application, `request` in a
Starlette endpoint. The decorated handler takes its other arguments as before; type checkers, and frameworks that look, see which.

    class Handler(SessionHandler):
        @with_session
        def do_GET(self, session: Session) -> None: ...

    @from_session(cart, make=Cart)
    async def show(request: Request, cart: Cart) -> Response: ...

An `async def` handler is one of ASGI, whose first argument is the scope or has it, as the requests of Starlette, FastAPI and Django do: its
session is opened with `await`. Any other runs where `current_session()` works; in ASGI that takes `SessionMiddleware(..., eager=True)`.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Hashable, MutableMapping
from copy import deepcopy
from functools import wraps
from importlib import import_module
from typing import Any, Concatenate, Generic, TypeVar, cast, final, overload

from typing_extensions import ParamSpec

from ..errors import check_error
from ..keys import Key, ListKey
from ..residents import ABSENT
from ..session import FORBIDDEN, Error, Session, SessionList, current_session, refused
from .asgi import open_session
from .asgi_base import Scope

__all__ = ["Giving", "from_session", "with_session"]

T = TypeVar("T")
D = TypeVar("D")
A = TypeVar("A")
R = TypeVar("R")
P = ParamSpec("P")


def with_session(handler: Callable[Concatenate[A, Session, P], R], /) -> Callable[Concatenate[A, P], R]:
    """The handler is called with the request's session, which is opened for it. Raises `NoSession` where no filter is around."""
    return _given(handler, lambda session: session, "with_session")


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
        return _given(handler, self._value, "from_session")


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


def _given(handler: Callable[..., Any], value: Callable[[Session], Any], decorator: str) -> Callable[..., Any]:
    """A handler that is called with `value(session)` after its first argument."""
    asked = f"{decorator} on {getattr(handler, '__qualname__', repr(handler))}"
    signature, first_name = _shown(handler)

    def taken(given: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, tuple[Any, ...]]:
        """The first argument, which frameworks may give by its name, and the other positional ones."""
        if given:
            return given[0], given[1:]
        if first_name in named:
            return named.pop(first_name), ()
        raise TypeError(
            f"{asked}: it was called without a first argument, such as self, environ or request; where handlers have none, "
            "take current_session() inside of it"
        )

    called: Any  # a function, which has attributes
    if inspect.iscoroutinefunction(handler):

        @wraps(handler)
        async def awaited(*given: Any, **named: Any) -> Any:
            first, others = taken(given, named)
            session = await open_session(_scope(first, asked))
            return await handler(first, value(session), *others, **named)

        called = awaited
    else:

        @wraps(handler)
        def direct(*given: Any, **named: Any) -> Any:
            first, others = taken(given, named)
            return handler(first, value(current_session()), *others, **named)

        called = direct
    if signature is not None:
        called.__dict__["__signature__"] = signature  # what `inspect.signature` looks at first
        hints = {name: parameter.annotation for name, parameter in signature.parameters.items()} | {"return": signature.return_annotation}
        called.__annotations__ = {name: hint for name, hint in hints.items() if hint is not inspect.Signature.empty}
    return cast("Callable[..., Any]", called)


def _shown(handler: Callable[..., Any]) -> tuple[inspect.Signature | None, str | None]:
    """The signature of a handler without its second parameter, and the name by which the first may be given."""
    options: dict[str, Any] = {}
    if sys.version_info >= (3, 14):
        # There, annotations are looked at when somebody asks: a name in them need not be there yet.
        options["annotation_format"] = import_module("annotationlib").Format.FORWARDREF
    try:
        signature = inspect.signature(handler, **options)
    except (TypeError, ValueError):  # many functions written in C have none
        return None, None
    parameters = list(signature.parameters.values())
    by_place = [one for one in parameters if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    first_name = by_place[0].name if by_place and by_place[0].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD else None
    if len(by_place) < 2:  # it takes whatever is given
        return None, first_name
    return signature.replace(parameters=[one for one in parameters if one is not by_place[1]]), first_name


def _scope(first: object, asked: str) -> Scope:
    """The scope of a request, or what is one already."""
    scope: object = getattr(first, "scope", first)
    if not isinstance(scope, MutableMapping):
        kind: type[object] = type(first)
        raise TypeError(
            f"{asked}: its first argument is a {kind.__module__}.{kind.__qualname__}, which is no ASGI scope and has none; "
            "use await open_session(scope) of filters.asgi inside of it, with the scope that your framework keeps, such as req.scope; "
            "under a filter of WSGI, which has no scope, current_session()"
        )
    return cast("Scope", scope)
