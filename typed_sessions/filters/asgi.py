"""Sessions for any ASGI 3 server: a middleware for http and websocket; lifespan closes the manager.

Nothing happens until somebody looks at the session, with `await open_session(scope)`. What changed is committed before the response's
headers leave; what changes while the body streams, at its end. A WebSocket is a client: it is committed when it is accepted, at the
manager's `commit` and at its end, a message counts as use, and when the session ends it is closed with 1008 (RFC 6455 7.4.1).
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Collection, MutableMapping, Sequence
from contextlib import suppress
from typing import Any, Protocol, TypeAlias, cast, final
from urllib.parse import urlsplit

import msgspec

from ..aio import AsyncSessionManager
from ..clients import Client
from ..errors import COMMIT_FAILURES, CommitFailure, Headers, NoSession, NotOpened, Rejected
from ..exchange import BAD_REQUEST, Exchange, Guard, plain_answer, refuse_late
from ..finish import close_exchange, discard_exchange, forget_changes
from ..policy import CookiePolicy
from ..session import Create, Error, Session, enter, leave

Scope: TypeAlias = MutableMapping[str, Any]  # Any: what ASGI says it is
Message: TypeAlias = MutableMapping[str, Any]  # Any: the same
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

_KEY = "typed_sessions"
POLICY_VIOLATION = 1008
_SET_COOKIE = b"set-cookie"
_NO_STORE = (b"cache-control", b"no-store")
_VARY = (b"vary", b"Cookie")
_NAMES = {"Set-Cookie": _SET_COOKIE, "Cache-Control": b"cache-control", "Vary": b"vary"}
INTERNAL_ERROR = 1011


@final
class ScopeReader:
    """Gets what is needed out of an ASGI scope. A WebSocket is a client; who keeps an http connection open, no server tells."""

    def __init__(self, *, has_clients: bool) -> None:
        self.has_clients = has_clients

    def basics(self, source: Any, /) -> tuple[str | None, bool, str]:
        cookie = ""
        for name, value in source["headers"]:
            if name == b"cookie":
                cookie = f"{cookie}; {value.decode('latin-1')}" if cookie else value.decode("latin-1")
        client = source.get("client")
        return client[0] if client else None, source.get("scheme") in ("https", "wss"), cookie

    def path(self, source: Any, /) -> str:
        return cast("str", source["path"])

    def headers(self, source: Any, name: str, /) -> Sequence[str]:
        wanted = name.encode("latin-1")
        return [value.decode("latin-1") for key, value in source["headers"] if key == wanted]

    def client(self, source: Any, /) -> Client | None:
        connection = source.get(_KEY)
        return connection.client if isinstance(connection, _WebSocket) else None


@final
class SessionMiddleware:
    """An ASGI application with sessions around another.

    `create`, `check`, `error` and `cookie_policy` are those of `AsyncSessionManager.filter`; with `check`, or with `eager`, the session is
    opened before the application is called, so that `current_session()` works without `open_session`. `Rejected`, raised anywhere inside,
    is answered with its status and headers (of a WebSocket handshake where the server can, else 403). A response of 500 and above is not
    committed; a commit that fails is answered in the response's place.

    A WebSocket handshake whose `Origin` is neither the request's host nor in `allowed_origins` (such as "https://example.org") never opens
    a session: cookies go with it whatever page it comes from (CWE-1385).
    """

    def __init__(
        self,
        app: App,
        sessions: AsyncSessionManager,
        *,
        create: Create | None = None,
        check: Callable[[Session], bool] | None = None,
        error: Error = BAD_REQUEST,
        cookie_policy: CookiePolicy | None = None,
        eager: bool = False,
        allowed_origins: Collection[str] = (),
    ) -> None:
        if not isinstance(cast("object", sessions), AsyncSessionManager):
            raise TypeError(f"SessionMiddleware(app, {sessions!r}): expected an AsyncSessionManager; SessionManager is for filters.wsgi")
        if isinstance(allowed_origins, str):
            raise TypeError(f'allowed_origins = {allowed_origins!r}: expected a list of origins, ["https://example.org"]')
        policy = sessions.cookie_policy if cookie_policy is None else cookie_policy
        self._guard = Guard(ScopeReader(has_clients=False), policy, create=create, check=check, error=error)
        self._socket_guard = Guard(ScopeReader(has_clients=True), policy, create=create, check=check, error=error)
        self._app = app
        self._sessions = sessions
        self._eager = eager or check is not None
        self._origins = frozenset(origin.rstrip("/").lower() for origin in allowed_origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "http":
            await self._http(scope, receive, send)
        elif kind == "websocket":
            await self._websocket(scope, receive, send)
        elif kind == "lifespan":
            await self._lifespan(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(self._guard, scope)
        response = _Response(exchange, self._sessions, send)
        scope[_KEY] = response
        token = enter(response)
        try:
            if self._eager:
                await self._sessions.open_exchange(exchange)
            await self._app(scope, receive, response.send)
            if exchange.tracking is not None:
                if exchange.tracking.untouched:
                    close_exchange(exchange)
                else:
                    await response.finish()
        except (Rejected, *COMMIT_FAILURES) as refused:
            await response.refuse(refused)
        except BaseException:
            if exchange.tracking is not None:
                await self._sessions.abandon_exchange(exchange)
            raise
        finally:
            leave(token)
            exchange.source = None  # no reference cycle through the scope

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        connection = _WebSocket(self._sessions, self._socket_guard, scope, receive, send, self._same_origin(scope))
        scope[_KEY] = connection
        token = enter(connection)
        try:
            if self._eager:
                await connection.open()
            with suppress(_Cut):
                await self._app(scope, connection.receive, connection.send)
            await connection.finish()
        except (Rejected, *COMMIT_FAILURES) as refused:
            await connection.refuse(refused)
        except Exception:
            if connection.gone:  # the usual end: `receive` said so, and the application's framework has raised that
                await connection.finish()
            elif connection.exchange.tracking is not None:
                await self._sessions.abandon_exchange(connection.exchange)
            raise
        except BaseException:
            if connection.exchange.tracking is not None:
                await self._sessions.abandon_exchange(connection.exchange)
            raise
        finally:
            leave(token)
            self._sessions.disconnected(connection.client)

    def _same_origin(self, scope: Scope) -> bool:
        reader = self._socket_guard.reader
        origins, hosts = reader.headers(scope, "origin"), reader.headers(scope, "host")
        if not origins:
            return True  # no browser: one that is made to connect sends the header
        if len(origins) != 1:
            return False
        origin = origins[0].lower()
        if origin in self._origins:
            return True
        try:
            netloc = urlsplit(origin).netloc
        except ValueError:
            return False
        return len(hosts) == 1 and netloc != "" and netloc == hosts[0].lower()

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = answered = closed = False

        async def asking() -> Message:
            nonlocal asked
            asked = True
            return await receive()

        async def closing(message: Message) -> None:
            nonlocal answered, closed
            answered = True
            if message["type"] in ("lifespan.shutdown.complete", "lifespan.shutdown.failed") and not closed:
                closed = True
                await self._sessions.aclose()
            await send(message)

        try:
            await self._app(scope, asking, closing)
        except Exception:
            # That is how an application says that it knows no lifespan; the manager has to be closed all the same.
            if asked or answered:
                raise
        if not answered:
            if not asked:
                await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await self._sessions.aclose()
            await send({"type": "lifespan.shutdown.complete"})


async def open_session(scope: Scope, /) -> Session:
    """The session of the request, opened at the first call. Raises `NoSession` where no `SessionMiddleware` is around."""
    response = scope.get(_KEY)
    if type(response) is _Response:
        exchange = response.exchange
        if exchange.session is not None and exchange.opening is None:
            return exchange.session
        try:
            opened = response.open()
            return opened if isinstance(opened, Session) else await opened
        except (Rejected, *COMMIT_FAILURES) as refused:
            exchange.refused = refused
            raise
    if isinstance(response, _WebSocket):
        session = response.exchange.session
        return await response.open() if session is None or response.exchange.opening is not None else session
    raise NoSession("this request did not come through typed_sessions.filters.asgi.SessionMiddleware")


class _Opening(Protocol):
    exchange: Exchange


def _current(response: _Opening) -> Session:
    session = response.exchange.session
    if session is None:
        raise NotOpened(
            "the session is not open yet: use `session = await open_session(scope)` first, "
            "or SessionMiddleware(..., eager=True) for all requests"
        )
    return session


@final
class _Response(msgspec.Struct, eq=False):
    """The session's part in one http exchange."""

    exchange: Exchange
    sessions: AsyncSessionManager
    raw_send: Send

    def current(self) -> Session:
        return _current(self)

    def open(self) -> Session | Awaitable[Session]:
        refuse_late(self.exchange)
        return self.sessions.open_soon(self.exchange)

    def send(self, message: Message) -> Awaitable[None]:
        # Not a coroutine: a request that never looks at its session should not pay for one.
        exchange = self.exchange
        if not exchange.headers_sent and message["type"] == "http.response.start":
            if message["status"] == 500:
                refused = sys.exc_info()[1] if exchange.refusal is None else exchange.refusal
                if isinstance(refused, (Rejected, *COMMIT_FAILURES)):
                    raise refused  # a mounted application, or its framework, would answer it as an error of its own
            if exchange.looked:
                tracking = exchange.tracking
                if tracking is None or message["status"] >= 500:
                    return self._start(message, None)
                if tracking.slots or not tracking.untouched:
                    try:
                        committing = self.sessions.commit_soon(exchange)
                    except BaseException:
                        forget_changes(exchange)  # as in `_start`
                        raise
                    if committing is not None:
                        return self._start(message, committing)
                tracking.headers_sent = True
                # Another message: the application may use its own for everybody.
                message = {**message, "headers": [*message.get("headers", ()), *_headers_of(exchange)]}
            exchange.headers_sent = True
        return self.raw_send(message)

    async def _start(self, message: Message, committing: Awaitable[None] | None) -> None:
        exchange = self.exchange
        if committing is None:
            discard_exchange(exchange)
        else:
            try:
                await committing
            except BaseException:
                forget_changes(exchange)  # an application that answers in another way now has not done this
                raise
        if exchange.tracking is not None:
            exchange.tracking.headers_sent = True
        exchange.headers_sent = True
        await self.raw_send({**message, "headers": [*message.get("headers", ()), *_headers_of(exchange)]})

    async def finish(self) -> None:
        """The application has returned: commit what it changed while the body went out."""
        exchange = self.exchange
        if exchange.done:
            return
        if not exchange.headers_sent:
            await self.sessions.abandon_exchange(exchange)  # there was no response
            return
        try:
            await self.sessions.commit_exchange(exchange)
        finally:
            close_exchange(exchange)

    async def refuse(self, refused: Rejected | CommitFailure) -> None:
        """Answer with an error in the application's place. Raises it again if the headers have left."""
        exchange = self.exchange
        extra: Headers = ()
        if not exchange.done:
            discard_exchange(exchange)
            extra = exchange.headers()
        if exchange.headers_sent:
            raise refused
        exchange.headers_sent = True
        start, body = answer("http.response", refused, extra)
        await self.raw_send(start)
        await self.raw_send(body)


@final
class _Cut(ConnectionError):
    """What an application gets that goes on sending after the session's end: as if the client had gone (an OSError, says ASGI)."""


@final
class _WebSocket:
    """The session's part in one WebSocket connection, which is a client of it."""

    __slots__ = ("_accepted", "_closed", "_cut", "_receive", "_refused", "_scope", "_send", "_sessions", "client", "exchange", "gone")

    def __init__(self, sessions: AsyncSessionManager, guard: Guard, scope: Scope, receive: Receive, send: Send, same_origin: bool) -> None:
        self.exchange = Exchange(guard, scope)
        self._sessions = sessions
        self._scope = scope
        self._receive = receive
        self._send = send
        self._refused = not same_origin
        self._accepted = False
        self._closed = False
        self._cut = False
        self.gone = False
        peer = scope.get("client")
        self.client = Client(peer[0] if peer else None, self._close)

    def current(self) -> Session:
        return _current(self)

    async def open(self) -> Session:
        if self._refused:
            raise Rejected(
                "origin", 403, (), "a WebSocket from another origin opens no session; see SessionMiddleware(allowed_origins=[...])"
            )
        return await self._sessions.open_exchange(self.exchange)

    async def _close(self, code: int = POLICY_VIOLATION, reason: str = "the session has ended") -> None:
        """Close it over the application's head, which from now on gets to hear of that and of nothing else."""
        self._cut = True
        if not self._closed:
            self._closed = True
            await self._send({"type": "websocket.close", "code": code, "reason": reason})

    async def receive(self) -> Message:
        if self.client.closing:
            await self._close()
        message = await self._receive()
        if message["type"] == "websocket.receive" and self.exchange.tracking is not None and not self._closed:
            if not await self._sessions.use_exchange(self.exchange):
                await self._close()
        elif message["type"] == "websocket.disconnect":
            self._closed = self.gone = True
        if self._cut and message["type"] == "websocket.receive":
            return {"type": "websocket.disconnect", "code": POLICY_VIOLATION}
        return message

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if kind == "websocket.close" and self._closed:
            return
        if self._cut:
            raise _Cut("the WebSocket was closed, since its session has ended")
        if kind == "websocket.accept" and not self._accepted:
            message = await self._leave(message, 101)
            self._accepted = True
        elif kind == "websocket.http.response.start":
            message = await self._leave(message, message["status"])
        elif kind == "websocket.close":
            self._closed = True
        await self._send(message)

    async def _leave(self, message: Message, status: int) -> Message:
        """The headers leave, in the answer to the handshake, which is returned with them."""
        exchange = self.exchange
        if exchange.tracking is not None:
            if status >= 500:
                discard_exchange(exchange)
            else:
                await self._sessions.commit_exchange(exchange)
            exchange.tracking.headers_sent = True
        exchange.headers_sent = True
        return {**message, "headers": [*message.get("headers", ()), *_headers_of(exchange)]} if exchange.looked else message

    async def finish(self) -> None:
        """The application has returned: commit what it changed since."""
        exchange = self.exchange
        if exchange.tracking is not None and not exchange.done:
            if exchange.headers_sent:
                try:
                    await self._sessions.commit_exchange(exchange)
                finally:
                    close_exchange(exchange)
            else:
                await self._sessions.abandon_exchange(exchange)
        if self.client.closing:
            await self._close()

    async def refuse(self, refused: Rejected | CommitFailure) -> None:
        """Refuse the handshake. After it: close the connection, and raise what was not the client's doing."""
        exchange = self.exchange
        extra: Headers = ()
        if not exchange.done:
            discard_exchange(exchange)
            extra = exchange.headers()
        if self._accepted:
            if isinstance(refused, Rejected):
                await self._close(reason="refused")
                return
            await self._close(INTERNAL_ERROR, "the session could not be saved")
            raise refused
        if not self._closed and "websocket.http.response" in (self._scope.get("extensions") or {}):
            self._closed = True
            start, body = answer("websocket.http.response", refused, extra)
            await self._send(start)
            await self._send(body)
        elif not self._closed:
            self._closed = True
            await self._send({"type": "websocket.close", "code": POLICY_VIOLATION})


def _headers_of(exchange: Exchange) -> list[tuple[bytes, bytes]]:
    """`exchange.headers()` as ASGI wants them; what most responses have, and those that begin a session, without a detour."""
    if not exchange.looked:
        return []
    if exchange.issued is None and exchange.quiet:
        return [_VARY]
    values = exchange.issued_headers()
    if values is None:
        return encoded(exchange.headers())
    return [(_SET_COOKIE, values[0].encode("latin-1")), (_SET_COOKIE, values[1].encode("latin-1")), _NO_STORE, _VARY]


def encoded(headers: Sequence[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    """Header pairs as ASGI wants them."""
    return [(_NAMES.get(name) or name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]


def answer(kind: str, refused: Rejected | CommitFailure, extra: Headers) -> tuple[Message, Message]:
    """The two messages that refuse a request, with the status in words as the body."""
    _, headers, body = plain_answer(refused.status, [*refused.headers, *extra])
    start: Message = {"type": f"{kind}.start", "status": refused.status, "headers": encoded(headers)}
    return start, {"type": f"{kind}.body", "body": body}
