"""Sessions for any WSGI server (PEP 3333): a middleware.

Nothing happens until somebody looks at the session. What changed is committed when the first byte of the body, or its end, is at hand and
before the headers leave; what the body changes while it streams, at its end. Each step of the body runs in the request's context; the
first one is taken at once if the application has called `start_response`, for some servers read status and headers when it has returned.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, cast, final
from wsgiref.util import FileWrapper

from typing_extensions import Never

from ..clients import Client
from ..errors import COMMIT_FAILURES, CommitFailure, Headers, NoSession, Rejected
from ..exchange import BAD_REQUEST, Exchange, Guard, refuse_late
from ..finish import close_exchange, discard_exchange, fail_exchange, forget_changes, report_broken_off
from ..manager import SessionManager
from ..policy import CookiePolicy
from ..refusals import plain_answer, refusal_of, report
from ..session import Create, Error, Session, enter, leave
from .family import check_application, wrong_family
from .nested import refuse_same_cookies

if TYPE_CHECKING:
    # wsgiref.types came with Python 3.11; type checkers know this module in every version.
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

__all__ = ["SessionMiddleware", "open_session"]

_KEY = "typed_sessions.exchange"
_FILES = "wsgi.file_wrapper"
_Write: TypeAlias = Callable[[bytes], object]
_AnyApp: TypeAlias = Callable[[Any, Any], Iterable[bytes]]  # Any: frameworks declare the two arguments in ways that differ


@final
class EnvironReader:
    """Gets what is needed out of a WSGI environ."""

    has_clients = False

    def basics(self, source: Any, /) -> tuple[str | None, bool, str]:
        return source.get("REMOTE_ADDR") or None, source["wsgi.url_scheme"] == "https", source.get("HTTP_COOKIE", "")

    def path(self, source: Any, /) -> str:
        return cast("str", source.get("SCRIPT_NAME", "") + source.get("PATH_INFO", ""))

    def headers(self, source: Any, name: str, /) -> Sequence[str]:
        value = source.get(f"HTTP_{name.upper().replace('-', '_')}")
        return () if value is None else (value,)

    def client(self, source: Any, /) -> Client | None:
        return None


@final
class SessionMiddleware:
    """A WSGI application with sessions around another.

    `create`, `check`, `error` and `cookie_policy` are those of `SessionManager.filter`; with `check`, or with `eager`, the session is
    opened before the application is called. In it, `current_session()` or `open_session(environ)` is the session; `Rejected`, raised
    anywhere inside, is answered with its status and headers. A response of 500 and above is not committed; a commit that fails is
    answered in its place.
    """

    def __init__(
        self,
        app: _AnyApp,
        sessions: SessionManager,
        *,
        create: Create | None = None,
        check: Callable[[Session], bool] | None = None,
        error: Error = BAD_REQUEST,
        cookie_policy: CookiePolicy | None = None,
        eager: bool = False,
    ) -> None:
        if not isinstance(cast("object", sessions), SessionManager):
            raise TypeError(f"SessionMiddleware(app, {sessions!r}): expected a SessionManager; AsyncSessionManager is for filters.asgi")
        check_application(app, "wsgi")
        policy = sessions.cookie_policy if cookie_policy is None else cookie_policy
        self._guard = Guard(EnvironReader(), policy, create=create, check=check, error=error)
        self._app = app
        self._sessions = sessions
        self._eager = eager or check is not None
        self._own_settings = not (create is None and check is None and error is BAD_REQUEST)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse, *others: Never) -> Iterable[bytes]:
        if others:  # an ASGI server, or a framework that has mounted it
            raise TypeError(f"SessionMiddleware: {wrong_family('wsgi', 'asgi')}")
        if _KEY in environ:
            around: object = environ[_KEY]
            if isinstance(around, _Response) and around.source is not None:
                if around.sessions is self._sessions and around.guard.policy == self._guard.policy:
                    around.pass_into(self._guard if self._own_settings else None, open_now=self._eager)
                    return self._app(environ, start_response)  # its sessions are around already
                refuse_same_cookies(around, around.sessions.core, self._guard, self._sessions.core)
            environ = {**environ}  # the application around this one goes on to find its own
        response = environ[_KEY] = _Response(self._guard, environ, sessions=self._sessions, start_response=start_response, own_headers=[])
        files: object = environ.get(_FILES)
        if files is not None and not isinstance(files, type):
            files = environ[_FILES] = _Files(cast("Callable[..., Iterable[bytes]]", files))
        token = enter(response)
        try:
            if self._eager:
                response.current()
            body = self._app(environ, response.start)
            kind: object = type(body)
            if not response.status:
                return _Body(response, body)
            if kind is list or kind is tuple or (not response.looked and (kind is files or _Files.has_made(files, body))):
                # The application is done: nothing of it runs any more. A file may be sent by the server itself, without a copy.
                written = response.started
                response.send_headers()
                if written and response.tracking is not None:
                    self._sessions.commit_exchange(response)  # what it has done after its first `write`
                close_exchange(response)
                response.source = None  # no reference cycle through the environ
                return body
            body = _Files.iterable(files, body)
        except BaseException as problem:
            refused = refusal_of(problem) or response.failure_behind(problem)
            if refused is not None:
                return response.refuse(refused)
            response.abandon()
            raise
        finally:
            leave(token)
        return _Body(response, body).begun()


def open_session(environ: Mapping[str, object], /) -> Session:
    """The session of the request, opened at the first call. Raises `NoSession` where no `SessionMiddleware` is around."""
    response = environ.get(_KEY)
    if not isinstance(response, _Response):
        raise NoSession(
            "this request did not come through typed_sessions.filters.wsgi.SessionMiddleware, "
            "which has to be outside of all that uses the session, other middleware too; "
            "a test client that goes past it, such as Django's, can be replaced by httpx.WSGITransport"
        )
    return response.current()


@final
class _Response(Exchange, eq=False, kw_only=True):
    """One exchange, with what the application says, which is held back until the session is committed."""

    sessions: SessionManager
    start_response: StartResponse
    status: str = ""
    own_headers: list[tuple[str, str]]
    exc_info: Any = None  # Any: typeshed's triple, passed through
    write: _Write | None = None
    started: bool = False
    """The server has the headers. `write` does not tell: from many servers' `start_response` comes None."""
    begun: bool = False
    """Something of the body was handed over, so nothing can be said in its place any more."""

    def current(self) -> Session:
        if self.session is not None:
            return self.session
        refuse_late(self)
        try:
            session = self.sessions.open_exchange(self)
        except (Rejected, *COMMIT_FAILURES) as refused:
            self.refused = refused
            raise
        if self.source is None:  # in a thread that has outlived the request
            close_exchange(self)
        self.refused = None  # it was for a moment
        return session

    def pass_into(self, guard: Guard | None, *, open_now: bool) -> None:
        """Another filter of the same manager is in this one, with settings of its own, or (None) without: there is one session."""
        if guard is not None and self.session is None:
            self.guard, guard = guard, None
        if open_now:
            self.current()
        if guard is not None:
            try:
                self.sessions.pass_guard(self, guard)
            except (Rejected, *COMMIT_FAILURES) as refused:
                self.refused = refused
                raise

    def start(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None, /) -> _Write:
        if status[:3] == "500" and not self.started:
            refused = self.refusal(sys.exc_info()[1] if exc_info is None else exc_info[1])
            if refused is not None:
                raise refused  # the application's framework would answer it as an error of its own
        if exc_info is not None and self.started:
            try:
                if self.begun:
                    raise exc_info[1].with_traceback(exc_info[2])  # what PEP 3333 asks of the server; some do not do it
                if status >= "500":
                    fail_exchange(self)
                return self.start_response(status, [*headers, *self.headers()], exc_info)
            finally:
                exc_info = None
        self.status, self.own_headers, self.exc_info = status, headers, exc_info
        return self._write

    def _write(self, data: bytes) -> object:
        self.send_headers()
        if self.write is None:
            raise TypeError("this server has no write(): its start_response returned None; return the body instead")
        if data:
            self.begun = True
        return self.write(data)

    def send_headers(self) -> None:
        """Commit, and let the headers go. Raises what the commit raises, and then nothing has gone."""
        if self.started:
            return
        if not self.status:
            raise AssertionError("the application has given its body, or the body's end, before it called start_response")
        if self.status >= "500":
            fail_exchange(self)
        if self.looked:
            tracking = self.tracking
            if tracking is not None and tracking.touched:
                try:
                    self.sessions.commit_exchange(self)
                except BaseException as problem:
                    self.commit_failed(problem)
                    forget_changes(self)  # an application that answers in another way now has not done this
                    raise
            self.own_headers = [*self.own_headers, *self.headers()]  # a new list: the application may use its own for everybody
        self._let_go(self.status, self.own_headers)

    def _let_go(self, status: str, headers: list[tuple[str, str]]) -> None:
        self.write = self.start_response(status, headers, self.exc_info) if self.exc_info else self.start_response(status, headers)
        self.exc_info = None
        self.started = True
        self.headers_sent = True
        if self.tracking is not None:
            self.tracking.headers_sent = True

    def refuse(self, refused: Rejected | CommitFailure) -> list[bytes]:
        """Answer with an error in the application's place. Raises it again if the headers have left."""
        if self.begun:
            self.abandon()
            raise refused
        if self.started:
            self.exc_info = (type(refused), refused, refused.__traceback__)  # with which only the server can tell whether they have
        extra: Headers = ()
        if not self.done:
            discard_exchange(self)
            extra = self.headers()
        report(refused)
        status, headers, body = plain_answer(refused.status, [*refused.headers, *extra])
        if not self.started:
            self.exc_info = None
        self._let_go(status, headers)
        # Many servers send to a HEAD what they are given: behind the headers it would be the beginning of the next answer.
        return [b"" if self.source.get("REQUEST_METHOD") == "HEAD" else body]

    def abandon(self) -> None:
        self.sessions.abandon_exchange(self)


@final
class _Files:
    """A server's `wsgi.file_wrapper` that is no class. What it has made cannot be known by its type: this remembers it.

    uWSGI's gives back the file itself, which need not be iterable, and is sent by the server if that is what the application returns.
    """

    __slots__ = ("_args", "_wrapper", "made")

    def __init__(self, wrapper: Callable[..., Iterable[bytes]]) -> None:
        self._wrapper = wrapper
        self.made: Iterable[bytes] = ()
        self._args: tuple[Any, ...] = ()  # Any: a file, and the size of a block if the application gave one, which says more than a default

    def __call__(self, *args: Any, **named: Any) -> Iterable[bytes]:
        self._args = (*args, *named.values())
        self.made = self._wrapper(*args, **named)
        return self.made

    @staticmethod
    def has_made(files: object, body: object) -> bool:
        return isinstance(files, _Files) and body is files.made

    @staticmethod
    def iterable(files: object, body: Iterable[bytes]) -> Iterable[bytes]:
        """The body for somebody else than the server: in blocks, where it is the file that was wrapped, which has lines at best."""
        return FileWrapper(*files._args) if isinstance(files, _Files) and body is files.made is files._args[0] else body


@final
class _Body:
    """The application's body, each step in the request's context; at the end, what it changed is committed."""

    __slots__ = ("_body", "_first", "_iterator", "_over", "_response")

    def __init__(self, response: _Response, body: Iterable[bytes]) -> None:
        self._response = response
        self._body = body
        self._iterator: Iterator[bytes] | None = None
        self._first: bytes | None = None
        self._over = False

    def begun(self) -> _Body:
        """With the first step taken, and so the headers out: some servers look for them when the application has returned."""
        try:
            self._first = next(self, None)
        except BaseException:
            self.close()  # the server does not get it
            raise
        return self

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        first = self._first
        if first is not None:
            self._first = None
            return first
        if self._over:
            raise StopIteration
        response = self._response
        token = enter(response)
        try:
            if self._iterator is None:
                self._iterator = iter(self._body)
            try:
                chunk = next(self._iterator)
            except StopIteration:
                response.send_headers()
                self._finish()
                raise
            response.send_headers()  # before an empty chunk too: a server is owed the headers before the first of any kind
            if chunk:
                response.begun = True
            return chunk
        except StopIteration:
            raise
        except BaseException as problem:
            self._over = True
            refused = refusal_of(problem)
            if refused is not None:
                return response.refuse(refused)[0]
            response.abandon()
            raise
        finally:
            leave(token)

    def _finish(self) -> None:
        self._over = True
        response = self._response
        if not response.done:
            try:
                response.sessions.commit_exchange(response)
            finally:
                close_exchange(response)

    def close(self) -> None:
        """The server calls this in any case, also when the client has gone in the middle: then what was not committed is dropped."""
        token = enter(self._response)
        try:
            close = getattr(self._body, "close", None)
            if close is not None:
                close()
        finally:
            try:
                if not self._over:
                    self._over = True
                    if self._response.started:
                        report_broken_off(self._response)
                    self._response.abandon()
            finally:
                leave(token)
                self._response.source = None  # no reference cycle through the environ
