"""Sessions for the standard library's `http.server`: a request handler class. One TCP connection is one client, unless it is a proxy's.

What changed is committed in `end_headers()`, before the headers leave; what changes after that, when the handler returns.
"""

from __future__ import annotations

import io
import logging
import socket
import ssl
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from http.server import BaseHTTPRequestHandler
from typing import Any, ClassVar, cast, final

from typing_extensions import override

from ..clients import Client
from ..errors import COMMIT_FAILURES, CommitFailure, Headers, NoSession, Rejected
from ..exchange import BAD_REQUEST, Exchange, Guard, refuse_late
from ..finish import close_exchange, discard_exchange, dropped, fail_exchange, report_broken_off
from ..manager import SessionManager
from ..policy import CookiePolicy
from ..refusals import plain_answer, refusal_of, report
from ..session import Create, Error, Session, enter, leave

__all__ = ["SessionHandler"]

logger: logging.Logger = logging.getLogger("typed_sessions")

MOST_DROPPED = 1 << 20
"""Bytes of a refused request's body that are read and dropped."""
LINGER = 5.0
"""Seconds in which they have to come."""
PAUSE = 0.5
"""Seconds for which nothing may come: a client that has sent all, and keeps its end open, holds nobody up."""


@final
class HandlerReader:
    """Gets what is needed out of a handler."""

    def __init__(self, *, has_clients: bool) -> None:
        self.has_clients = has_clients

    def basics(self, source: Any, /) -> tuple[str | None, bool, str]:
        return self.peer(source), isinstance(source.connection, ssl.SSLSocket), "; ".join(self.headers(source, "cookie"))

    def peer(self, source: Any, /) -> str | None:
        address = source.client_address
        return cast("str", address[0]) if isinstance(address, tuple) and address else None

    def path(self, source: Any, /) -> str:
        return cast("str", source.path.partition("?")[0])

    def headers(self, source: Any, name: str, /) -> Sequence[str]:
        headers = source.headers
        return cast("Sequence[str]", headers.get_all(name, ())) if headers else ()  # of HTTP/0.9 Python 3.14 makes them an empty dict

    def client(self, source: Any, /) -> Client | None:
        return cast("Client | None", source.session_client)


_READER = HandlerReader(has_clients=True)
_OF_PROXIES = HandlerReader(has_clients=False)


@final
class _Request:
    """One request of a connection, for `current_session()`: a thread that outlives it must not get the next one's."""

    __slots__ = ("_exchange", "_sessions", "session_client")

    def __init__(self, sessions: SessionManager, exchange: Exchange, client: Client | None) -> None:
        self._sessions = sessions
        self._exchange = exchange
        self.session_client: Client | None = client

    @property
    def session(self) -> Session | None:
        return self._exchange.session

    def current(self) -> Session:
        if self._exchange.session is not None:
            return self._exchange.session
        refuse_late(self._exchange)
        return self._sessions.open_exchange(self._exchange)


class SessionHandler(BaseHTTPRequestHandler):
    """A `BaseHTTPRequestHandler` whose `self.session` is the request's session, opened when it is first looked at.

    Set `sessions` on the class. `session_create`, `session_error` and `session_cookie_policy` are those of `SessionManager.filter`;
    override `check_session` for its `check`. The session is opened before the handler's method is called if there is one, or with
    `session_eager`. `Rejected`, raised anywhere in a handler, is answered with its status and headers. A response of 500 and above is not
    committed; a commit that fails is answered in its place.
    """

    sessions: ClassVar[SessionManager]
    session_create: ClassVar[Create | None] = None
    session_error: ClassVar[Error] = BAD_REQUEST
    session_cookie_policy: ClassVar[CookiePolicy | None] = None
    session_eager: ClassVar[bool] = False

    session_client: Client | None = None
    """This connection; None if it is a trusted proxy's, which carries the requests of many visitors and is nobody's."""

    wfile: io.BufferedIOBase
    close_connection: bool
    _exchange: Exchange | None = None
    _status = 0
    _timed_out = False
    _held: io.BufferedIOBase | None = None
    _undrained = 0

    @property
    def session(self) -> Session:
        """The session of this request."""
        exchange = self._exchange
        if exchange is None:
            raise NoSession("there is no request yet: self.session is for do_GET and its like")
        return _Request(self.sessions, exchange, self.session_client).current()

    def check_session(self, session: Session) -> bool:
        """Whether the session is sound; False ends it and answers `session_error`. Override it; otherwise nothing is checked."""
        return True

    @override
    def setup(self) -> None:
        sessions: object = getattr(self, "sessions", None)
        if not isinstance(sessions, SessionManager):
            raise TypeError(
                f"{type(self).__name__}.sessions is {sessions!r}: expected a SessionManager; write `sessions = SessionManager()`"
            )
        super().setup()
        check: Callable[[Session], bool] | None = None
        if type(self).check_session is not SessionHandler.check_session:
            check = self.check_session
        policy = sessions.cookie_policy if self.session_cookie_policy is None else self.session_cookie_policy
        peer = _READER.peer(self)
        # The end of one visitor's session must not cut off what a proxy sends for another over the same connection.
        proxied = sessions.core.address_policy.trusts(peer)
        reader = _OF_PROXIES if proxied else _READER
        self._guard = Guard(reader, policy, create=self.session_create, check=check, error=self.session_error)
        self._connection = ExitStack()
        if not proxied:
            self.session_client = self._connection.enter_context(sessions.connect(peer, self._close))

    def _close(self) -> None:
        with suppress(OSError):  # it has gone by itself
            self.connection.shutdown(socket.SHUT_RDWR)

    @override
    def finish(self) -> None:
        try:
            super().finish()
        finally:
            self._connection.close()
        if self._undrained:
            with suppress(OSError):  # it has gone, or does not send what it announced
                self._drain()

    def _drain(self) -> None:
        """Read what the client may still be sending of a refused request: a connection closed before that is reset, and the answer lost.

        How much of it the handler has read is not known, so a client that has sent everything is told first that nothing more will come.
        """
        deadline = time.monotonic() + LINGER
        self.connection.shutdown(socket.SHUT_WR)
        while self._undrained > 0 and (left := deadline - time.monotonic()) > 0:
            self.connection.settimeout(min(left, PAUSE) if self.timeout is None else min(left, PAUSE, self.timeout))
            dropped = len(self.connection.recv(65_536))
            if not dropped:
                return
            self._undrained -= dropped

    @override
    def parse_request(self) -> bool:
        if not super().parse_request():
            return False
        self._exchange = Exchange(self._guard, self)
        enter(_Request(self.sessions, self._exchange, self.session_client))  # until `handle_one_request` goes back to what was before
        return True

    @override
    def handle_one_request(self) -> None:
        self._exchange, self._status, self._timed_out = None, 0, False
        token = enter(None)
        try:
            super().handle_one_request()
            self._after()
        except BaseException as problem:
            refused = refusal_of(problem)
            if refused is not None:
                self._refuse(refused)
            else:
                if self._exchange is not None:
                    self.sessions.abandon_exchange(self._exchange)
                raise
        finally:
            leave(token)
            if self._exchange is not None:
                self._exchange.source = None  # this handler goes on to the connection's next request
            if self._held is not None:
                self.wfile, self._held = self._held, None
            if self.session_client is not None and self.session_client.closing:
                self.close_connection = True

    @override
    def __getattribute__(self, name: str) -> Any:  # Any: of whatever attribute
        # http.server looks the handler's method up by name and calls it at once: the last moment before it runs.
        found = super().__getattribute__(name)
        if name.startswith("do_"):
            exchange: Exchange | None = self._exchange
            unopened = exchange is not None and exchange.session is None and not exchange.done
            if exchange is not None and unopened and (self.session_eager or exchange.guard.check is not None):
                try:
                    self.sessions.open_exchange(exchange)
                except AttributeError as problem:  # for http.server, that the method does not exist
                    raise RuntimeError(f"{type(self).__name__}.check_session, or a listener, raised AttributeError: {problem}") from problem
        return found

    @override
    def log_error(self, format: str, *args: Any) -> None:
        # http.server takes a TimeoutError for the end of the connection: it says this, and goes on as if the handler had returned.
        problem = sys.exc_info()[1]
        if isinstance(problem, TimeoutError) and problem.__traceback__ is not None:
            caught_by = problem.__traceback__.tb_frame.f_code
            self._timed_out = self._timed_out or caught_by is BaseHTTPRequestHandler.handle_one_request.__code__
        super().log_error(format, *args)

    def _after(self) -> None:
        exchange = self._exchange
        if exchange is None or exchange.done or exchange.tracking is None:
            return
        if not exchange.headers_sent:
            names = dropped(exchange)
            if names is not None:
                logger.warning(
                    "%s %.200r was not answered with send_response() and end_headers(): what it did to its session is lost (keys %s); for "
                    "an answer that goes to wfile by itself, call self.sessions.commit(self.session) before",
                    self.command,
                    self.path.partition("?")[0],
                    names,
                )
            self.sessions.abandon_exchange(exchange)
            return
        if self._timed_out:
            report_broken_off(exchange)
            self.sessions.abandon_exchange(exchange)
            return
        try:
            self.sessions.commit_exchange(exchange)
        finally:
            close_exchange(exchange)

    @override
    def send_response_only(self, code: int, message: str | None = None) -> None:
        self._status = int(code)
        super().send_response_only(code, message)

    @override
    def end_headers(self) -> None:
        if self._leave():
            super().end_headers()

    @override
    def flush_headers(self) -> None:
        # Some end their headers by themselves after this, such as the standard library's handler for CGI.
        if self._leave():
            super().flush_headers()

    def _leave(self) -> bool:
        """Commit before the headers leave, and put the session's to them. False if an error is answered in their place."""
        exchange = self._exchange
        # 101 is the only interim status after which no other comes: what follows it is no http.
        if exchange is not None and (self._status >= 200 or self._status == 101) and not exchange.headers_sent:
            tracking = exchange.tracking
            if self._status >= 500:
                fail_exchange(exchange)
            if tracking is not None:
                try:
                    if self._status < 500:
                        self.sessions.commit_exchange(exchange)
                except COMMIT_FAILURES as failed:
                    self._refuse(failed)
                    # The handler goes on to write its body, which is no longer wanted.
                    self._held, self.wfile = self.wfile, io.BytesIO()
                    return False
                tracking.headers_sent = True
            exchange.headers_sent = True
            for name, value in exchange.headers():
                if self._status != 101 or name != "Connection":  # which says "Upgrade" there
                    self.send_header(name, value)
        return True

    def _refuse(self, refused: Rejected | CommitFailure) -> None:
        exchange = self._exchange
        extra: Headers = ()
        if exchange is not None:
            if exchange.headers_sent:
                self.sessions.abandon_exchange(exchange)
                raise refused
            if not exchange.done:
                discard_exchange(exchange)
                extra = exchange.headers()
            exchange.headers_sent = True
        report(refused)
        _, headers, body = plain_answer(refused.status, [*refused.headers, *extra])
        # What the handler has said so far is not sent: the buffer is http.server's own, which has no other way to begin again.
        self.__dict__["_headers_buffer"] = []
        self.close_connection = True
        self.send_response(refused.status)
        for name, value in headers:
            self.send_header(name, value)
        if not any(name.lower() == "connection" for name, _ in headers):
            self.send_header("Connection", "close")
        super().end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        if exchange is not None:
            self._undrained = self._announced()

    def _announced(self) -> int:
        """How many bytes of the request's body may be under way, as far as they are worth reading."""
        if "transfer-encoding" in self.headers:
            return MOST_DROPPED
        length = self.headers.get("content-length", "")
        # int() has a limit of its own, and this is the client's text.
        return min(int(length), MOST_DROPPED) if length.isascii() and length.isdigit() and len(length) < 20 else 0
