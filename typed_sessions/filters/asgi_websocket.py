"""A WebSocket as a client of its session: let in by its origin, opened in the handshake, and closed when the session ends."""

from __future__ import annotations

import logging
import re
import sys
from collections import deque
from collections.abc import Collection, Sequence
from typing import final
from urllib.parse import urlsplit

from ..aio import AsyncSessionManager
from ..clients import Client
from ..errors import COMMIT_FAILURES, CommitFailure, HeadersSent, PolicyError, Rejected, SessionEnded
from ..exchange import Exchange, Guard
from ..finish import close_exchange, discard_exchange, fail_exchange
from ..refusals import report
from ..session import Session
from .asgi_base import SET_COOKIE, Message, Receive, Scope, Send, answer, current, encoded, joined

POLICY_VIOLATION = 1008
INTERNAL_ERROR = 1011
_FAILED = range(4500, 4600)
"""A response's status of 500 and above as a private code of a framework (Litestar), which so tells of an exception in the application."""
PRIVATE = 3000
"""What is added to a code for servers that send only 1000 and 3000 to 4999: 4008 and 4011 are free for applications (RFC 6455 7.4.2)."""
_PORT = re.compile(r":[0-9]*\Z")
_THIS_MACHINE = frozenset({"localhost", "127.0.0.1", "[::1]"})
"""Hosts to which nobody is in between: there browsers take secure cookies over plain http."""
_CONNECTION = b"connection"

logger: logging.Logger = logging.getLogger("typed_sessions")


@final
class Origins:
    """The pages whose WebSockets may open a session: those of the request's own host, and those that are allowed by name."""

    def __init__(self, allowed: Collection[str]) -> None:
        if isinstance(allowed, str):
            raise TypeError(f'allowed_origins = {allowed!r}: expected a list of origins, ["https://example.org"]')
        self._allowed = frozenset(map(_origin, allowed))
        self._told = False

    def check(self, origins: Sequence[str], hosts: Sequence[str], *, https: bool) -> None:
        """Raise `Rejected` unless the page is one of them. The first that is not is logged: whoever runs the server can mend it."""
        if self._fits(origins, hosts, https):
            return
        if not self._told:
            self._told = True
            logger.warning(
                "a WebSocket was refused: its Origin is %.200r, and the request's Host %.200r. If the page is yours, name its origin in "
                "SessionMiddleware(allowed_origins=[...]); if a proxy has changed the host, let it pass on what it got, with the port "
                "(nginx: proxy_set_header Host $http_host). Further ones are not logged",
                ", ".join(origins),
                ", ".join(hosts),
            )
        raise Rejected("origin", 403, (), "a WebSocket from another origin opens no session; see SessionMiddleware(allowed_origins=[...])")

    def _fits(self, origins: Sequence[str], hosts: Sequence[str], https: bool) -> bool:
        if not origins:
            return True  # no browser: one that is made to connect sends the header
        if len(origins) != 1:
            return False
        origin = origins[0].lower()
        if origin in self._allowed:
            return True
        try:
            scheme, netloc, *_ = urlsplit(origin)
        except ValueError:
            return False
        if https and scheme != "https" and _PORT.sub("", netloc) not in _THIS_MACHINE:
            return False  # anybody in between may have made that page
        return len(hosts) == 1 and netloc != "" and netloc == hosts[0].lower()


def _origin(given: str) -> str:
    """An origin as browsers send it. Raises `PolicyError` for a text that none of them would ever send."""
    origin = given.rstrip("/").lower()
    scheme, mark, host = origin.partition("://")
    if origin != "null" and (not scheme or not mark or "/" in host or "*" in host):
        raise PolicyError(f"allowed_origins: {given!r} is no origin: expected scheme, host and port if any, such as 'https://example.org'")
    return origin


@final
class Cut(ConnectionError):
    """What an application gets that goes on sending after the session's end: as if the client had gone (an OSError, says ASGI)."""


@final
class WebSocket:
    """The session's part in one WebSocket connection, which is a client of it."""

    __slots__ = (
        "_accepted",
        "_asked",
        "_asking",
        "_closed",
        "_cut",
        "_denied",
        "_origins",
        "_receive",
        "_replaced",
        "_scope",
        "_send",
        "_unheard",
        "client",
        "exchange",
        "gone",
        "sessions",
    )

    def __init__(self, sessions: AsyncSessionManager, guard: Guard, scope: Scope, receive: Receive, send: Send, origins: Origins) -> None:
        self.exchange: Exchange = Exchange(guard, scope)
        self.sessions: AsyncSessionManager = sessions
        self._scope = scope
        self._receive = receive
        self._send = send
        self._origins = origins
        self._accepted = False
        self._denied = False
        self._replaced = False
        self._closed = False
        self._cut = False
        self._asked: float | None = None
        self._asking = False
        self._unheard: deque[Message] = deque()
        self.gone: bool = False
        peer = scope.get("client")
        self.client: Client = Client(peer[0] if peer else None, self._close)

    @property
    def session(self) -> Session | None:
        return self.exchange.session

    def current(self) -> Session:
        return current(self.exchange)

    async def open(self) -> Session:
        exchange = self.exchange
        try:
            self._check_origin()
            session = await self.sessions.open_exchange(exchange)
        except (Rejected, *COMMIT_FAILURES) as refused:
            exchange.refused = refused
            raise
        exchange.refused = None  # it was for a moment
        return session

    async def pass_into(self, guard: Guard | None, origins: Origins | None, *, open_now: bool) -> None:
        """Another filter of the same manager is in this one, with settings of its own, or (None) without: there is one session."""
        exchange = self.exchange
        self._origins = origins or self._origins
        if guard is not None and exchange.session is None and exchange.opening is None:
            exchange.guard, guard = guard, None
        if open_now or guard is not None:
            await self.open()
        if guard is not None:
            try:
                await self.sessions.pass_guard(exchange, guard)
            except (Rejected, *COMMIT_FAILURES) as refused:
                exchange.refused = refused
                raise

    def _check_origin(self) -> None:
        guard = self.exchange.guard
        headers = guard.reader.headers
        # A policy that has its cookies secure in any case is for a proxy that hides the scheme.
        https = guard.policy.secure is True or self.sessions.core.is_https(guard, self._scope)
        self._origins.check(headers(self._scope, "origin"), headers(self._scope, "host"), https=https)

    async def _close(self, code: int = POLICY_VIOLATION, reason: str = "the session has ended") -> None:
        """Close it over the application's head, which from now on gets to hear of that and of nothing else."""
        if self._denied:
            return  # the answer goes on, and is all that there is
        self._cut = True
        if self._closed:
            return
        self._closed = True
        try:
            await self._send({"type": "websocket.close", "code": code, "reason": reason})
        except OSError:
            raise  # it has gone by itself
        except Exception:
            # Some servers, such as Daphne, send no codes of the protocol's own but 1000. What is wrong for another reason raises again.
            await self._send({"type": "websocket.close", "code": PRIVATE + code, "reason": reason})

    async def receive(self) -> Message:
        if self.client.closing:
            await self._close()
        message = self._unheard.popleft() if self._unheard else await self._receive()
        if message["type"] == "websocket.receive" and self.exchange.tracking is not None and not self._closed:
            try:
                await self._ask()
            except BaseException:  # given up, or the store is down: it is for the next call
                self._unheard.append(message)
                raise
        elif message["type"] == "websocket.disconnect":
            self._closed = self.gone = True
        if self._cut and message["type"] == "websocket.receive":
            return {"type": "websocket.disconnect", "code": POLICY_VIOLATION}
        return message

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if self._replaced or (kind == "websocket.close" and self._closed):
            return
        # One that is `closing` has ended its session itself: what it still has to say leaves.
        if kind == "websocket.send" and self.exchange.tracking is not None and not (self._closed or self._asking or self.client.closing):
            self._asking = True  # of many tasks that send, one waits for the answer
            try:
                await self._ask(look=True)
            finally:
                self._asking = False
        if self._cut:
            raise Cut("the WebSocket was closed, since its session has ended")
        if not (self._accepted or self._closed) and (kind == "websocket.close" or message.get("status") == 500):
            refused = self.exchange.refusal(sys.exc_info()[1])
            if isinstance(refused, (Rejected, *COMMIT_FAILURES)):
                # The application's framework has made an error of its own of it. It hears nothing of that: it goes on with its answer,
                # and would log whatever it gets here.
                self._replaced = True
                await self._refuse(refused)
                return
        if kind == "websocket.accept" and not self._accepted:
            self._check_cookies_leave()
            message = await self._leave(message, 101)
            self._accepted = True
        elif kind == "websocket.http.response.start":
            message = await self._leave(message, message["status"])
            self._denied = self._closed = True
        elif kind == "websocket.close":
            code = message.get("code", 1000)
            if self._accepted and (code == INTERNAL_ERROR or code in _FAILED):
                fail_exchange(self.exchange)  # as a response of 500 and above; in the handshake nothing is committed without an accept
            self._closed = True
        await self._send(message)

    async def _ask(self, *, look: bool = False) -> None:
        """A message came, or (`look`) is to leave: close the connection if the session is over, wherever it was ended."""
        try:
            self._asked = await self.sessions.use_exchange(self.exchange, self._asked, look=look)
        except SessionEnded:
            await self._close()

    def _check_cookies_leave(self) -> None:
        """Raise `HeadersSent` where the server says that it cannot send the cookies that are due: headers came with 2.1 of the protocol."""
        tracking, asgi = self.exchange.tracking, self._scope.get("asgi")
        if tracking is None or not asgi or asgi.get("spec_version", "2.0") != "2.0":
            return
        if tracking.renew_asked or (tracking.record is None and tracking.begins()):
            raise HeadersSent(
                f"a session cannot be {'renewed' if tracking.renew_asked else 'created'} in this WebSocket: the server sends no headers, "
                "so no cookies, when it accepts one (its ASGI spec_version is below 2.1); do it in an http request before"
            )

    async def _leave(self, message: Message, status: int) -> Message:
        """The headers leave, in the answer to the handshake, which is returned with them."""
        exchange = self.exchange
        if status >= 500:
            fail_exchange(exchange)
        if exchange.tracking is not None:
            if status < 500:
                try:
                    await self.sessions.commit_exchange(exchange)
                except BaseException as problem:
                    exchange.commit_failed(problem)
                    raise
            exchange.tracking.headers_sent = True
        exchange.headers_sent = True
        if not exchange.looked:
            return message
        headers = [*message.get("headers", ()), *self._headers(denying=status != 101)]
        return {**message, "headers": headers if status == 101 else joined(headers)}

    def _headers(self, *, denying: bool) -> list[tuple[bytes, bytes]]:
        """The session's headers for the answer to the handshake, without `Connection`, which is the server's there.

        A denial only has the cookies of a session that was created or renewed: those that are dead can be expired by the next http answer,
        and there are servers (Granian 2.8) that a denial with two headers of one name brings down, for whoever sends an invented cookie.
        """
        left_out = (_CONNECTION, SET_COOKIE) if denying and self.exchange.issued is None else (_CONNECTION,)
        return [pair for pair in encoded(self.exchange.headers()) if pair[0] not in left_out]

    async def finish(self) -> None:
        """The application has returned: commit what it changed since."""
        exchange = self.exchange
        if exchange.tracking is not None and not exchange.done:
            if exchange.headers_sent:
                try:
                    await self.sessions.commit_exchange(exchange)
                finally:
                    close_exchange(exchange)
            else:
                await self.sessions.abandon_exchange(exchange)
        if self.client.closing:
            await self._close()

    async def refuse(self, refused: Rejected | CommitFailure) -> None:
        """Refuse the handshake. After it: close the connection, and raise what was not the client's doing."""
        if not self._replaced:
            await self._refuse(refused)

    async def _refuse(self, refused: Rejected | CommitFailure) -> None:
        exchange = self.exchange
        answers = not self._closed and "websocket.http.response" in (self._scope.get("extensions") or {})
        if not (self._accepted or self._denied or answers):
            await self.sessions.abandon_exchange(exchange)  # a session made for this handshake ends: nobody gets its cookie
        discard_exchange(exchange)
        if self._accepted:
            if isinstance(refused, Rejected):
                await self._close(reason="refused")
                return
            await self._close(INTERNAL_ERROR, "the session could not be saved")
            raise refused
        if self._denied:
            raise refused  # its answer has begun: the server cuts it off
        report(refused)
        if answers:
            self._denied = self._closed = True
            own = exchange.headers()  # a `Rejected` may have them too
            start, body = answer("websocket.http.response", refused.status, [pair for pair in refused.headers if pair not in own])
            start["headers"] = joined([*start["headers"], *self._headers(denying=True)])
            await self._send(start)
            await self._send(body)
        elif not self._closed:
            self._closed = True
            await self._send({"type": "websocket.close", "code": POLICY_VIOLATION})
