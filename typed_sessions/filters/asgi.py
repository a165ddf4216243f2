"""Sessions for any ASGI 3 server: a middleware for http and websocket; lifespan closes the manager.

Nothing happens until somebody looks at the session, with `await open_session(scope)`. What changed is committed before the response's
headers leave; what changes while the body streams, before its last piece does; what comes after that, when the application returns.

A WebSocket is a client: it is committed when it is accepted, at the manager's `commit` and at its end, a message that comes counts as use,
and when the session ends it is closed with 1008 (RFC 6455 7.4.1): at once if it ends in this process, otherwise at the next message in
either direction, `granularity` after the last question to the store at the latest.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, cast, final

from ..aio import AsyncSessionManager
from ..clients import Client
from ..errors import COMMIT_FAILURES, CommitFailure, Headers, NoSession, Rejected
from ..exchange import BAD_REQUEST, Exchange, Guard, refuse_late
from ..finish import close_exchange, discard_exchange, forget_changes, report_broken_off
from ..policy import CookiePolicy
from ..refusals import leaves, refusal_of, report
from ..session import Create, Error, Session, enter, leave
from .asgi_base import AnyApp, AnyReceive, AnySend, App, Message, Receive, Scope, Send, answer, current, headers_of, make_lists
from .asgi_websocket import Cut, Origins, WebSocket
from .family import check_application
from .nested import refuse_same_cookies

# ASGI's types are for applications too.
__all__ = ["App", "Message", "Receive", "Scope", "Send", "SessionMiddleware", "open_session"]

_KEY = "typed_sessions"
_LAST = frozenset({"http.response.body", "http.response.pathsend", "http.response.zerocopysend"})
"""What ends a response, unless it says that there is more."""


@final
class ScopeReader:
    """Gets what is needed out of an ASGI scope. A WebSocket is a client; who keeps an http connection open, no server tells."""

    def __init__(self, *, has_clients: bool) -> None:
        self.has_clients = has_clients

    def basics(self, source: Any, /) -> tuple[str | None, bool, str]:
        cookie = b""
        more: list[bytes] | None = None  # a client may send as many as it likes: one by one, joining them would take ever longer
        for name, value in source["headers"]:
            if name == b"cookie":
                if not cookie:
                    cookie = value
                elif more is None:
                    more = [cookie, value]
                else:
                    more.append(value)
        if more is not None:
            cookie = b"; ".join(more)
        client = source.get("client")
        return client[0] if client else None, source.get("scheme") in ("https", "wss"), cookie.decode("latin-1")

    def path(self, source: Any, /) -> str:
        return cast("str", source["path"])

    def headers(self, source: Any, name: str, /) -> Sequence[str]:
        wanted = name.encode("latin-1")
        return [value.decode("latin-1") for key, value in source["headers"] if key == wanted]

    def client(self, source: Any, /) -> Client | None:
        connection = source.get(_KEY)
        return connection.client if isinstance(connection, WebSocket) else None


@final
class SessionMiddleware:
    """An ASGI application with sessions around another.

    `create`, `check`, `error` and `cookie_policy` are those of `AsyncSessionManager.filter`, so `check` may be a coroutine function. With
    `check`, or with `eager`, the session is opened before the application is called, so that `current_session()` works without
    `open_session`. `Rejected`, raised anywhere inside, is answered with its status and headers (of a WebSocket handshake where the server
    can, else 403). A response of 500 and above is not committed; a commit that fails is answered in the response's place.

    A WebSocket handshake whose `Origin` is neither the request's host nor in `allowed_origins` (such as "https://example.org") never opens
    a session: cookies go with it whatever page it comes from (CWE-1385).
    """

    def __init__(
        self,
        app: AnyApp,
        sessions: AsyncSessionManager,
        *,
        create: Create | None = None,
        check: Callable[[Session], Awaitable[bool] | bool] | None = None,
        error: Error = BAD_REQUEST,
        cookie_policy: CookiePolicy | None = None,
        eager: bool = False,
        allowed_origins: Collection[str] = (),
    ) -> None:
        if not isinstance(cast("object", sessions), AsyncSessionManager):
            raise TypeError(f"SessionMiddleware(app, {sessions!r}): expected an AsyncSessionManager; SessionManager is for filters.wsgi")
        check_application(app, "asgi")
        policy = sessions.cookie_policy if cookie_policy is None else cookie_policy
        self._guard = Guard(ScopeReader(has_clients=False), policy, create=create, check=check, error=error)
        self._socket_guard = Guard(ScopeReader(has_clients=True), policy, create=create, check=check, error=error)
        self._app = app
        self._sessions = sessions
        self._eager = eager or check is not None
        self._own_settings = not (create is None and check is None and error is BAD_REQUEST)
        self._origins = Origins(allowed_origins)
        self._own_origins = bool(allowed_origins)

    # Any: a framework's scope, which is written to: see `AnyApp`.
    async def __call__(self, scope: Any, receive: AnyReceive, send: AnySend) -> None:
        if scope["type"] != "http":
            await self._other(scope, receive, send)
            return
        # What servers give; a look at anything else is for a function, since here it would cost every request.
        if type(scope.get("headers")) is not list or type(scope.get("client")) is not tuple:
            make_lists(scope)
        if _KEY in scope:
            around = scope[_KEY]
            if isinstance(around, _Response) and around.source is not None:
                if around.sessions is self._sessions and around.guard.policy == self._guard.policy:
                    await around.pass_into(self._guard if self._own_settings else None, open_now=self._eager)
                    await self._app(scope, receive, send)  # its sessions are around already
                    return
                refuse_same_cookies(around, around.sessions.core, self._guard, self._sessions.core)
            scope = {**scope}  # the application around this one goes on to find its own
        response = scope[_KEY] = _Response(self._guard, scope, sessions=self._sessions, raw_send=send)
        token = enter(response)
        try:
            if self._eager:
                await self._sessions.open_exchange(response)
            await self._app(scope, receive, response.send)
            tracking = response.tracking
            if tracking is not None:
                if tracking.touched or not response.headers_sent:
                    await response.finish()
                else:
                    close_exchange(response)
        except BaseException as problem:
            refused = refusal_of(problem) or response.failure_behind(problem)
            if refused is not None:
                await response.refuse(refused)
            else:
                if response.tracking is not None:
                    await self._sessions.abandon_exchange(response)
                raise
        finally:
            leave(token)
            response.source = None  # no reference cycle through the scope

    async def _other(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "websocket":
            await self._websocket(scope, receive, send)
        elif kind == "lifespan":
            await self._lifespan(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        make_lists(scope)
        if _KEY in scope:
            around = scope[_KEY]
            if isinstance(around, WebSocket) and around.exchange.source is not None:
                if around.sessions is self._sessions and around.exchange.guard.policy == self._guard.policy:
                    guard, origins = self._socket_guard if self._own_settings else None, self._origins if self._own_origins else None
                    await around.pass_into(guard, origins, open_now=self._eager)
                    await self._app(scope, receive, send)  # its sessions are around already
                    return
                refuse_same_cookies(around.exchange, around.sessions.core, self._socket_guard, self._sessions.core)
            scope = {**scope}  # as in `__call__`
        connection = WebSocket(self._sessions, self._socket_guard, scope, receive, send, self._origins)
        scope[_KEY] = connection
        token = enter(connection)
        try:
            if self._eager:
                await connection.open()
            try:
                await self._app(scope, connection.receive, connection.send)
            except Exception as problem:
                if not all(isinstance(leaf, Cut) for leaf in leaves(problem)):
                    raise
            await connection.finish()
        except BaseException as problem:
            refused = refusal_of(problem, beside=(Cut,)) or connection.exchange.failure_behind(problem)
            if refused is not None:
                await connection.refuse(refused)
            else:
                if connection.gone and isinstance(problem, Exception):
                    await connection.finish()  # the usual end: `receive` said so, and the application's framework has raised that
                elif connection.exchange.tracking is not None:
                    await self._sessions.abandon_exchange(connection.exchange)
                raise
        finally:
            leave(token)
            self._sessions.disconnected(connection.client)
            connection.exchange.refused = None  # no reference cycle through its traceback

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = answered = began = over = closed = False

        async def close() -> None:
            nonlocal closed
            if not closed:
                closed = True
                await self._sessions.aclose()

        async def asking() -> Message:
            nonlocal asked, over
            asked = True
            message = await receive()
            over = message["type"] == "lifespan.shutdown"
            return message

        async def answering(message: Message) -> None:
            nonlocal answered, began
            answered = True
            began = began or message["type"] == "lifespan.startup.complete"
            if message["type"] in ("lifespan.shutdown.complete", "lifespan.shutdown.failed"):
                await close()
            await send(message)

        try:
            await self._app(scope, asking, answering)
        except Exception:
            # That is how an application says that it knows no lifespan; the manager has to be closed all the same.
            if over:
                await close()
            if asked or answered:
                raise
        if not answered:
            if not asked:
                await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await close()
            await send({"type": "lifespan.shutdown.complete"})
        elif began:  # it may have returned without a word, even before the shutdown
            if not over:
                await receive()
            await close()


async def open_session(scope: Mapping[str, object], /) -> Session:
    """The session of the request, opened at the first call. Raises `NoSession` where no `SessionMiddleware` is around."""
    response = scope.get(_KEY)
    if type(response) is _Response:
        if response.session is not None and response.opening is None:
            return response.session
        try:
            refuse_late(response)
            opened = response.sessions.open_soon(response)
            session = opened if isinstance(opened, Session) else await opened
            response.refused = None  # it was for a moment
            if response.headers_sent:
                # Nobody looked at the messages so far. It is the next one that tells: from a background task comes none.
                response.ended = True
            return session
        except (Rejected, *COMMIT_FAILURES) as refused:
            response.refused = refused
            raise
    if isinstance(response, WebSocket):
        open_already = response.exchange.session
        return await response.open() if open_already is None or response.exchange.opening is not None else open_already
    raise NoSession(
        "this request did not come through typed_sessions.filters.asgi.SessionMiddleware, which has to be outside of all that uses the "
        "session, other middleware too (of those that FastAPI and Starlette are given by add_middleware, the last is the outermost); a "
        "test client that goes past it, such as Django's, can be replaced by httpx.ASGITransport"
    )


@final
class _Response(Exchange, eq=False, kw_only=True):
    """One http exchange: what the session has to do with the messages of its answer."""

    sessions: AsyncSessionManager
    raw_send: Send
    ended: bool = False
    """The body's last message has left, as far as the messages were looked at, which are those since the session is open."""

    def current(self) -> Session:
        return current(self)

    async def pass_into(self, guard: Guard | None, *, open_now: bool) -> None:
        """Another filter of the same manager is in this one, with settings of its own, or (None) without: there is one session."""
        if guard is not None and self.session is None and self.opening is None:
            self.guard, guard = guard, None
        try:
            if open_now or guard is not None:
                await self.sessions.open_exchange(self)
            if guard is not None:
                await self.sessions.pass_guard(self, guard)
        except (Rejected, *COMMIT_FAILURES) as refused:
            self.refused = refused
            raise

    def send(self, message: Message) -> Awaitable[None]:
        # Not a coroutine: a request that never looks at its session should not pay for one.
        tracking = self.tracking
        if self.headers_sent:
            if tracking is not None and message["type"] in _LAST:
                self.ended = not message.get("more_body", False)
                if self.ended and tracking.touched:
                    # Before the end leaves: whoever has read it may ask at once for what was written, and a whole response says that it
                    # is stored.
                    ending = self._committing()
                    if ending is not None:
                        return self._end(message, ending)
        elif message["type"] == "http.response.start":
            if message["status"] >= 500:
                if message["status"] == 500:
                    refused = self.refusal(sys.exc_info()[1])
                    if refused is not None:
                        raise refused  # a mounted application, or its framework, would answer it as an error of its own
                self.failing = True
                if self.looked:
                    return self._start(message, None)
            elif tracking is not None:
                if tracking.touched:
                    committing = self._committing()
                    if committing is not None:
                        return self._start(message, committing)
                tracking.headers_sent = True
                # Another message: the application may use its own for everybody.
                message = {**message, "headers": headers_of(self, message.get("headers", ()))}
            elif self.looked:
                return self._start(message, None)
            self.headers_sent = True
        return self.raw_send(message)

    def _committing(self) -> Callable[[], Awaitable[None]] | None:
        try:
            return self.sessions.commit_soon(self)
        except BaseException as problem:
            self._unsettled(problem)
            raise

    async def _start(self, message: Message, committing: Callable[[], Awaitable[None]] | None) -> None:
        if committing is None:
            discard_exchange(self)
        else:
            await self._settled(committing)
        if self.tracking is not None:
            self.tracking.headers_sent = True
        self.headers_sent = True
        await self.raw_send({**message, "headers": headers_of(self, message.get("headers", ()))})

    async def _end(self, message: Message, committing: Callable[[], Awaitable[None]]) -> None:
        await self._settled(committing)
        await self.raw_send(message)

    async def _settled(self, committing: Callable[[], Awaitable[None]]) -> None:
        try:
            await committing()
        except BaseException as problem:
            self._unsettled(problem)
            raise

    def _unsettled(self, problem: BaseException) -> None:
        """The commit has failed, and the message that waited for it stays here."""
        self.commit_failed(problem)
        self.ended = False
        forget_changes(self)  # an application that answers in another way now has not done this

    async def finish(self) -> None:
        """The application has returned: commit what it changed after the body's end. Of a body that has none, nothing more is committed."""
        if self.done:
            return
        if not self.headers_sent:
            await self.sessions.abandon_exchange(self)  # there was no response
            return
        if not self.ended:
            # The client has gone, or the application has failed, and its framework has swallowed that.
            report_broken_off(self)
            await self.sessions.abandon_exchange(self)
            return
        try:
            await self.sessions.commit_exchange(self)
        finally:
            close_exchange(self)

    async def refuse(self, refused: Rejected | CommitFailure) -> None:
        """Answer with an error in the application's place. Raises it again if the headers have left."""
        extra: Headers = ()
        if not self.done:
            discard_exchange(self)
            extra = self.headers()
        if self.headers_sent:
            raise refused
        self.headers_sent = True
        report(refused)
        start, body = answer("http.response", refused.status, [*refused.headers, *extra])
        if self.source.get("method") == "HEAD":
            body["body"] = b""  # Granian sends what it is given over HTTP/2, where that is an error
        await self.raw_send(start)
        await self.raw_send(body)
