"""What tests of the rules share beside faces: records as they are stored, cookies as they are sent, connections, and stores that tell."""

from __future__ import annotations

import asyncio
import inspect
from base64 import urlsafe_b64decode
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from typing_extensions import override

from tests.faces import PEER, Browser, Face, Turn
from tests.planting import record_of
from tests.watched import Watched
from typed_sessions import Event, Key, Session
from typed_sessions.record import Record

E = TypeVar("E", bound=Event)


class Logged(Watched):
    """A store that also writes the name of every verb into a log, in which a test can write more."""

    def __init__(self, store: Any, log: list[str]) -> None:
        super().__init__(store)
        self._log = log

    @override
    def _before(self, name: str) -> None:
        self._log.append(name)
        super()._before(name)


class Unswept:
    """A store that is never swept: what is asked to clear up finds nothing. What holds on it holds without any sweeper."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        inner = getattr(self._store, name)
        if name != "sweep":
            return inner
        return _nothing_due_async if inspect.iscoroutinefunction(inner) else _nothing_due


def _nothing_due(*_: object) -> tuple[Sequence[Record], bool]:
    return (), False


async def _nothing_due_async(*_: object) -> tuple[Sequence[Record], bool]:
    return (), False


class Connection:
    """A connection on a server that tells when it closes. `closed` counts the calls of what the manager was given to close it.

    `log` gets a line when that happens. Leaving the block is the connection's end, as `leave` is.
    """

    def __init__(self, face: Face, address: str = PEER, log: list[str] | None = None) -> None:
        self.face = face
        self.closed = 0
        self._log = log
        self._block = face.manager.connect(address, self._close if face.kind == "sync" else self._close_soon)
        self.client = self._block.__enter__()
        self._open = True

    def _close(self) -> None:
        self.closed += 1
        if self._log is not None:
            self._log.append("close")

    async def _close_soon(self) -> None:
        self._close()

    def leave(self) -> None:
        """The other end has closed the connection; what follows from that is done when this returns."""
        if not self._open:
            return
        self._open = False
        if self.face.kind == "sync":
            self._block.__exit__(None, None, None)
        else:
            self.face.call(self._leave())

    async def _leave(self) -> None:
        self._block.__exit__(None, None, None)
        this = asyncio.current_task()
        while others := [task for task in asyncio.all_tasks() if task is not this]:
            await asyncio.wait(others)

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()


def begin(face: Face, write: Callable[[Session], object]) -> Browser:
    """A browser with a session that is stored."""
    browser = face.browser()
    with browser.visit() as session:
        write(session)
    return browser


def known(face: Face, user: Key[str]) -> tuple[Browser, str]:
    """A browser with a session that two requests have used, and the handle of that."""
    browser = begin(face, lambda session: session.__setitem__(user, "ann"))
    with browser.visit() as session:
        return browser, session.handle


def two_processes(face: Face, browser: Browser) -> tuple[Turn, Turn]:
    """Two requests of one browser that both are open, each at a manager of its own over the one store."""
    first = browser.open()
    face.manager = face.another()
    return first, browser.open()


def listen(face: Face, event: type[E], listener: Callable[[E], object]) -> Callable[[], None]:
    """`manager.on`, typed: a face's manager is one or the other."""
    return face.manager.on(event, listener)  # type: ignore[no-any-return]


def always(_: object) -> bool:
    """A check that everything passes; a hook that keeps every value."""
    return True


def never(_: object) -> bool:
    """A check that nothing passes; a hook that keeps no value."""
    return False


def key_cookie(browser: Browser) -> str:
    """The value of SESSION_KEY in a browser's jar, under whatever prefix."""
    return next(value for name, value in browser.jar.items() if name.removeprefix("__Host-").removeprefix("__Secure-") == "SESSION_KEY")


def handle_of(browser: Browser) -> str:
    """The handle of the session whose cookie the browser has: its locator, which is the first 16 bytes of the id."""
    return urlsafe_b64decode(key_cookie(browser))[:16].hex()


def stored(face: Face, handle: str) -> Record:
    """The record of a session that must be there."""
    record = record_of(face, handle)
    assert record is not None, "the session is gone"
    return record


def everything(face: Face, handle: str) -> bytes:
    """All that is stored of a session that must be there: its times and flags, too."""
    return stored(face, handle).pack()


def opens(browser: Browser, handle: str) -> bool:
    """Whether a browser's cookies open this session; asked without a use."""
    view = browser.face.call(browser.face.manager.get_session(browser.request()))
    return view is not None and view.handle == handle


def live(face: Face) -> set[str]:
    """The handles of all sessions that are not over."""
    return {view.handle for view in face.call(face.manager.all())}


def is_open(browser: Browser) -> bool:
    """Whether the browser's cookies open a session now. Not a use, and nothing is swept."""
    face = browser.face
    return face.call(face.manager.check_session_cookie(browser.request()))  # type: ignore[no-any-return]


def cookies_set(headers: Sequence[tuple[str, str]]) -> dict[str, str]:
    """The `Set-Cookie` headers of an answer by the cookie's name, of which each stands there once (RFC 6265bis 4.1.1, C11)."""
    found: dict[str, str] = {}
    for name, value in headers:
        if name.lower() == "set-cookie":
            cookie = value.partition("=")[0]
            assert cookie not in found, f"two Set-Cookie headers for {cookie}"
            found[cookie] = value
    return found


def expired(headers: Sequence[tuple[str, str]]) -> set[str]:
    """The names of the cookies that an answer deletes."""
    return {name for name, value in cookies_set(headers).items() if value.startswith(f"{name}=;") and "Max-Age=0" in value.split("; ")}


def values(headers: Sequence[tuple[str, str]], wanted: str) -> list[str]:
    """All values of one header of an answer."""
    return [value for name, value in headers if name.lower() == wanted.lower()]


BOTH = {"SESSION_KEY", "SESSION_ADDR"}
"""The session's cookies over plain http."""


def on(browser: Browser, connection: Connection | None, key: Key[str] | None = None, value: str = "value") -> None:
    """A request of this browser on this connection (None: one that nobody tells about)."""
    turn = browser.open(client=None if connection is None else connection.client)
    if key is not None:
        turn.session[key] = value
    turn.finish()


def asking(asked: list[str], keep: bool) -> Callable[[str], bool]:
    """A hook that writes down what it is asked about."""

    def cleanup_no_client(value: str) -> bool:
        asked.append(value)
        return keep

    return cleanup_no_client
