"""What the tests of the cases share: counting visits, listening, connections, and one request to a WSGI application."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar
from wsgiref.util import setup_testing_defaults

from tests.faces import PEER, Browser, Face
from typed_sessions import Begin, Client, End, Event, Key, Session
from typed_sessions.filters.wsgi import SessionMiddleware

E = TypeVar("E", bound=Event)

ELSEWHERE = "192.0.2.7"
"""An address in another network than the browsers' own."""


def visit(browser: Browser, visits: Key[int], **settings: Any) -> int:
    """A request that counts itself; the count."""
    with browser.visit(**settings) as session:
        return count(session, visits)


def count(session: Session, visits: Key[int]) -> int:
    return session.update(visits, lambda n: n + 1, default=0)


def unsound(session: Session) -> bool:
    """A check that fails."""
    return False


def follow(browser: Browser, **settings: Any) -> list[tuple[str, str]]:
    """A request that only looks; the headers of its answer, which arrives."""
    return browser.open(**settings).finish()


def cookies_set(headers: Iterable[tuple[str, str]]) -> list[str]:
    """The values of the Set-Cookie headers."""
    return [value for name, value in headers if name == "Set-Cookie"]


def names_set(headers: Iterable[tuple[str, str]]) -> list[str]:
    """The names of the cookies that are set or expired, in order and with repetitions."""
    return [value.partition("=")[0] for value in cookies_set(headers)]


def subscribe(manager: Any, event: type[E], listener: Callable[[E], object]) -> Callable[[], None]:
    """`manager.on` of a manager of either kind."""
    off: Callable[[], None] = manager.on(event, listener)
    return off


def listen(manager: Any) -> list[tuple[str, str]]:
    """What the manager tells from now on: ("begin", handle) and (the reason of the end, handle)."""
    told: list[tuple[str, str]] = []
    subscribe(manager, Begin, lambda event: told.append(("begin", event.session.handle)))
    subscribe(manager, End, lambda event: told.append((event.reason, event.session.handle)))
    return told


def handles(face: Face, manager: Any = None) -> list[str]:
    """The handles of all sessions."""
    views = face.call((face.manager if manager is None else manager).all())
    return [view.handle for view in views]


def close(face: Face, manager: Any) -> None:
    """Close a manager of either kind, as a server does that stops."""
    face.call(manager.close() if face.kind == "sync" else manager.aclose())


class Connection:
    """A connection: its client, and how often it was closed from here."""

    def __init__(self, face: Face, address: str) -> None:
        self._face = face
        self._context = face.manager.connect(address, self._close)
        self.client: Client = self._context.__enter__()
        self.closed = 0
        self._left = False

    def _close(self) -> None:
        self.closed += 1

    def leave(self) -> None:
        """The other end goes away."""
        if self._left:
            return
        self._left = True
        if self._face.kind == "sync":
            self._context.__exit__(None, None, None)
        else:
            self._face.call(self._leave())

    async def _leave(self) -> None:
        self._context.__exit__(None, None, None)
        await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}))


@contextmanager
def connected(face: Face, address: str = PEER) -> Generator[Connection]:
    """A connection for the time of the block, unless it leaves before."""
    connection = Connection(face, address)
    try:
        yield connection
    finally:
        connection.leave()


class Answer:
    """What a WSGI application said."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: list[tuple[str, str]] = []
        self.body = b""

    def start(self, status: str, headers: Sequence[tuple[str, str]], _: object = None, /) -> Callable[[bytes], object]:
        self.status, self.headers = int(status[:3]), list(headers)
        return io.BytesIO().write


def ask(app: SessionMiddleware, path: str = "/", *, method: str = "GET", cookie: str = "") -> Answer:
    """One request, as a WSGI server makes it. What the application raises, a server answers with 500 and no header of the application's."""
    environ: dict[str, Any] = {"REMOTE_ADDR": PEER, "PATH_INFO": path, "REQUEST_METHOD": method}
    if cookie:
        environ["HTTP_COOKIE"] = cookie
    setup_testing_defaults(environ)
    answer = Answer()
    try:
        body: Any = app(environ, answer.start)
        try:
            answer.body = b"".join(body)
        finally:
            if hasattr(body, "close"):
                body.close()
    except ZeroDivisionError:
        answer = Answer()
        answer.status = 500
    return answer
