"""Never run: the filters around the applications of frameworks, as these declare ASGI and WSGI, each in its own way.

The frameworks themselves are not needed: what is here is their declarations, with as many keys and messages as show the difference.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from typing import Any, Literal, Protocol, TypedDict

from typing_extensions import NotRequired, ParamSpec, assert_type

from tests.typing.shapes import visits
from typed_sessions import AsyncSessionManager, Session, SessionManager
from typed_sessions.filters import asgi, wsgi

P = ParamSpec("P")
sessions = AsyncSessionManager()


class HTTPScope(TypedDict):
    """As in asgiref, Hypercorn (which is Quart's) and Litestar."""

    type: Literal["http"]
    headers: Iterable[tuple[bytes, bytes]]
    client: tuple[str, int] | None
    state: NotRequired[dict[str, Any]]


class WebSocketScope(TypedDict):
    type: Literal["websocket"]
    headers: Iterable[tuple[bytes, bytes]]
    client: tuple[str, int] | None
    subprotocols: Iterable[str]


class LifespanScope(TypedDict):
    type: Literal["lifespan"]


class RequestEvent(TypedDict):
    type: Literal["http.request"]
    body: bytes
    more_body: bool


class StartEvent(TypedDict):
    type: Literal["http.response.start"]
    status: int
    headers: Iterable[tuple[bytes, bytes]]


class BodyEvent(TypedDict):
    type: Literal["http.response.body"]
    body: bytes
    more_body: bool


class StartupEvent(TypedDict):
    type: Literal["lifespan.startup"]


class StartedEvent(TypedDict):
    type: Literal["lifespan.startup.complete"]


# asgiref and Quart: one type for all kinds of connections.
Scope = HTTPScope | WebSocketScope | LifespanScope
Receive = Callable[[], Awaitable[RequestEvent | StartupEvent]]
Send = Callable[[StartEvent | BodyEvent | StartedEvent], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

# Litestar: the application takes what servers send, its middleware what comes with a request.
RequestScope = HTTPScope | WebSocketScope
RequestReceive = Callable[..., Awaitable[RequestEvent]]
RequestSend = Callable[[StartEvent | BodyEvent], Awaitable[None]]
InnerApplication = Callable[[RequestScope, RequestReceive, RequestSend], Awaitable[None]]
LifespanReceive = Callable[..., Awaitable[StartupEvent]]
LifespanSend = Callable[[StartedEvent], Awaitable[None]]


class Quart:
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None: ...


class Litestar:
    async def __call__(self, scope: Scope, receive: RequestReceive | LifespanReceive, send: RequestSend | LifespanSend) -> None: ...


class DefineMiddleware:
    def __init__(self, middleware: Callable[..., InnerApplication], *args: Any, **kwargs: Any) -> None: ...


class FalconASGI:
    async def __call__(
        self,
        scope: dict[str, Any],
        receive: Callable[[], Awaitable[Mapping[str, Any]]],
        send: Callable[[dict[str, Any]], Awaitable[None]],
    ) -> None: ...


class Untyped:
    """As Django's: without a word of types."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> Any: ...


class Starlette:
    async def __call__(
        self,
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
        send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
    ) -> None: ...

    def add_middleware(self, middleware_class: MiddlewareFactory[P], *args: P.args, **kwargs: P.kwargs) -> None: ...


class MiddlewareFactory(Protocol[P]):
    def __call__(self, app: AnyApplication, /, *args: P.args, **kwargs: P.kwargs) -> AnyApplication: ...


AnyApplication = Callable[[Any, Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Awaitable[None]]


def around() -> None:
    """The filter takes each of them, and is what each of them takes for an application."""
    of_quart: Application = asgi.SessionMiddleware(Quart(), sessions)
    of_litestar: InnerApplication = asgi.SessionMiddleware(Litestar(), sessions, eager=True)
    of_starlette: asgi.App = asgi.SessionMiddleware(Starlette(), sessions)
    twice: Application = asgi.SessionMiddleware(asgi.SessionMiddleware(FalconASGI(), sessions), sessions)
    asgi.SessionMiddleware(Untyped(), sessions)
    print(of_quart, of_litestar, of_starlette, twice)


def inside(app: Starlette) -> None:
    DefineMiddleware(asgi.SessionMiddleware, sessions=sessions)
    app.add_middleware(asgi.SessionMiddleware, sessions)
    app.add_middleware(asgi.SessionMiddleware, sessions=sessions, allowed_origins=["https://example.org"])


async def middleware(scope: Scope, receive: Receive, send: Send) -> None:
    """Somebody's own ASGI function, around the filter, with the types of asgiref."""
    await asgi.SessionMiddleware(Quart(), sessions)(scope, receive, send)


async def opened(
    of_quart: HTTPScope | WebSocketScope, of_litestar: HTTPScope, of_falcon: dict[str, Any], of_starlette: MutableMapping[str, Any]
) -> None:
    assert_type((await asgi.open_session(of_quart))[visits], int)
    assert_type(await asgi.open_session(of_litestar), Session)
    assert_type(await asgi.open_session(of_falcon), Session)
    assert_type(await asgi.open_session(of_starlette), Session)


class FalconWSGI:
    """As for Python 3.10, where there is no `wsgiref.types`."""

    def __call__(
        self, env: dict[str, Any], start_response: Callable[[str, list[tuple[str, str]]], Callable[[bytes], None]]
    ) -> Iterable[bytes]:
        return []


class UntypedWSGI:
    """As Django's and Pyramid's."""

    def __call__(self, environ: Any, start_response: Any) -> Any: ...


def wsgi_opened(environ: dict[str, Any], texts: dict[str, str], read: Mapping[str, object]) -> None:
    manager = SessionManager()
    wsgi.SessionMiddleware(wsgi.SessionMiddleware(FalconWSGI(), manager), manager)
    wsgi.SessionMiddleware(UntypedWSGI(), manager)
    assert_type(wsgi.open_session(environ), Session)
    assert_type(wsgi.open_session(texts), Session)
    assert_type(wsgi.open_session(read)[visits], int)
