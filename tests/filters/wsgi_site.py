"""A site for the WSGI filter's tests: a manager over a watched store, and applications with the filter around them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast
from wsgiref.validate import validator

from tests.filters.servers import Jar, wsgi
from tests.watched import Watched
from typed_sessions import Key, MemoryStore, SessionManager, current_session
from typed_sessions.filters.wsgi import SessionMiddleware

Start = Callable[..., Any]


class Site:
    """Every application is validated from the inside too."""

    def __init__(self) -> None:
        self.store = Watched(MemoryStore())
        self.sessions = SessionManager(cast("Any", self.store))
        self.visits = Key("visits", int)
        self.name = Key("name", str)

    def app(self, handler: Callable[..., Iterable[bytes]], **settings: Any) -> SessionMiddleware:
        return SessionMiddleware(validator(handler), self.sessions, **settings)

    def set(self, visits: int) -> str:
        """What most handlers of these tests do."""
        current_session()[self.visits] = visits
        return "saved"

    def jar(self, visits: int = 1) -> Jar:
        """A browser with a session."""
        jar = Jar()
        wsgi(self.app(says(lambda: self.set(visits))), jar)
        assert len(jar.cookies) == 2
        self.store.calls.clear()
        return jar

    def stored(self, jar: Jar) -> int:
        """What another request sees."""
        answer = wsgi(self.app(says(lambda: current_session().get(self.visits, 0))), jar.copy())
        return int(answer.text)


def says(work: Callable[[], object], status: str = "200 OK", headers: tuple[tuple[str, str], ...] = ()) -> Any:
    """An application that does its work and answers with the result."""

    def app(_: dict[str, Any], start_response: Start) -> Iterable[bytes]:
        text = str(work()).encode()
        start_response(status, [("Content-Type", "text/plain"), *headers])
        return [text]

    return app


def streams(*steps: Callable[[], object], status: str = "200 OK") -> Any:
    """An application that answers at once and works while the body goes out: each step gives a chunk."""

    def app(_: dict[str, Any], start_response: Start) -> Iterator[bytes]:
        start_response(status, [("Content-Type", "text/plain")])
        for step in steps:
            result = step()
            yield result if isinstance(result, bytes) else str(result).encode()

    return app
