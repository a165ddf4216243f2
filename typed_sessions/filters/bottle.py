"""Sessions for Bottle: a plugin. `app.install(SessionPlugin(sessions))` is all, and handlers with an argument `session` get a `Session`.

A plugin sees handlers, and neither hooks, error pages nor the headers as they leave; so this one also puts `filters.wsgi`'s middleware
around the application that it is installed in, where the rules of a WSGI request are kept.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Iterable, Iterator
from functools import wraps
from typing import TYPE_CHECKING, Any, Final, Protocol, cast, final

import bottle
from typing_extensions import TypeIs

from ..errors import COMMIT_FAILURES, CommitFailure, NoSession, Rejected
from ..exchange import BAD_REQUEST
from ..manager import SessionManager
from ..policy import CookiePolicy
from ..refusals import refusal_of
from ..session import Create, Error, Session
from .wsgi import SessionMiddleware, open_session

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

__all__ = ["SessionPlugin"]

_REFUSED: Final = "typed_sessions.refused"


class BottleApplication(Protocol):
    """What the plugin asks of a `bottle.Bottle`."""

    wsgi: Any  # Any: a method that is replaced by the middleware around it


class BottleRoute(Protocol):
    """What the plugin asks of a `bottle.Route`."""

    callback: Callable[..., object]


@final
class SessionPlugin:
    """A Bottle plugin (API 2) that gives handlers their session.

    A handler with an argument of the name `keyword` is called with the session, which is opened for it; other handlers cost nothing, and
    may call `current_session()`, as may hooks, templates and bodies that stream. `create`, `check`, `error` and `cookie_policy` are those
    of `SessionManager.filter`; with `check`, or with `eager`, the session of every request is opened before its hooks and its handler.
    Changes are committed before the headers leave, and nothing is if the response is of 500 or above, which Bottle makes of an exception;
    `abort(404)` and `redirect` commit. `Rejected` is answered with its status and headers.

    Install it in the application that is run. What is mounted in it is served too, with `current_session()`; for the argument, install one
    there as well. Raises `bottle.PluginError` if there is one already.
    """

    api = 2

    def __init__(
        self,
        sessions: SessionManager,
        *,
        keyword: str = "session",
        create: Create | None = None,
        check: Callable[[Session], bool] | None = None,
        error: Error = BAD_REQUEST,
        cookie_policy: CookiePolicy | None = None,
        eager: bool = False,
    ) -> None:
        if not keyword.isidentifier():
            raise ValueError(f"SessionPlugin(keyword={keyword!r}): expected the name of an argument")

        def around(app: WSGIApplication) -> SessionMiddleware:
            return SessionMiddleware(app, sessions, create=create, check=check, error=error, cookie_policy=cookie_policy, eager=eager)

        around(_no_application)  # what is wrong with the arguments is said here
        self.name = "typed_sessions"
        self.keyword = keyword
        self._around = around
        self._app: BottleApplication | None = None

    def setup(self, app: BottleApplication) -> None:
        """Called by `install`."""
        if isinstance(app.wsgi, SessionMiddleware) or self._app is not None:
            raise bottle.PluginError(
                "a SessionPlugin is installed here already: one serves the whole application with its hooks; make one for each application"
            )
        self._app = app
        app.wsgi = self._around(_Refusing(app.wsgi))

    def apply(self, callback: Callable[..., object], route: BottleRoute) -> Callable[..., object]:
        """Called by Bottle for each route."""
        wanted = self.keyword in _arguments(route.callback)

        @wraps(callback)
        def handler(*args: object, **values: object) -> object:
            environ = bottle.request.environ
            try:
                if wanted:
                    values[self.keyword] = _session(environ)
                result = callback(*args, **values)
            except Exception as problem:
                refused = refusal_of(problem)
                if refused is None:
                    raise
                environ[_REFUSED] = refused
                return bottle.HTTPResponse(status=refused.status)  # for hooks and plugins around; the answer is made outside
            return _watched(result, environ) if _is_stream(result) else result

        return handler

    def close(self) -> None:
        """Called by `uninstall`: the application is as it was."""
        if self._app is not None:
            vars(self._app).pop("wsgi", None)  # Bottle's own method is behind it
            self._app = None


def _arguments(callback: Callable[..., object]) -> Iterable[str]:
    # Not Bottle's `get_callback_args`: it looks into the closure of a handler, and takes a function there for the handler.
    try:
        return inspect.signature(callback).parameters
    except (ValueError, TypeError):  # many functions written in C have no signature
        return ()


def _session(environ: WSGIEnvironment) -> Session:
    try:
        return open_session(environ)
    except NoSession:
        raise NoSession(
            "this request did not come through an application that has a SessionPlugin: install one in the application that is run, "
            "not only in one that is mounted in it"
        ) from None


def _is_stream(body: object) -> TypeIs[Iterator[object]]:
    # What can be read is a file to Bottle, which the server may send by itself.
    return not hasattr(body, "read") and isinstance(body, Iterator)


def _watched(body: Iterable[object], environ: WSGIEnvironment) -> Generator[object]:
    """Bottle takes the first chunk before it answers, and makes an error page of what is raised then."""
    try:
        yield from body
    except Exception as problem:
        refused = refusal_of(problem)
        if refused is not None:
            environ[_REFUSED] = refused
        raise


@final
class _Refusing:
    """Bottle's side of the application: what was refused inside is raised to the middleware, instead of the page that Bottle made of it."""

    def __init__(self, app: WSGIApplication) -> None:
        self._app = app

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        refused: list[Rejected | CommitFailure] = []

        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None, /) -> Callable[[bytes], object]:
            problem = None if exc_info is None else _unwrapped(exc_info[1])
            if problem is not None:
                refused.append(problem)  # in a hook, or in an application that is mounted
            return start_response(status, headers, exc_info)

        body = self._app(environ, start)
        for problem in (environ.pop(_REFUSED, None), *refused):
            if problem is not None:
                close = getattr(body, "close", None)
                if close is not None:
                    close()
                raise cast("Rejected | CommitFailure", problem)
        return body


def _unwrapped(problem: object) -> Rejected | CommitFailure | None:
    # Where a mounted application has raised, Bottle raises the class again with the exception as its argument.
    while isinstance(problem, (Rejected, *COMMIT_FAILURES)):
        inner = [part for part in (*problem.args, getattr(problem, "reason", None)) if isinstance(part, (Rejected, *COMMIT_FAILURES))]
        if not inner:
            return problem
        problem = inner[0]
    return None


def _no_application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    raise NotImplementedError
