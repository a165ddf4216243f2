"""What tests of commits share: a session that is stored, and a store in which somebody else is faster."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from typing_extensions import override

from tests.faces import Browser, Face
from tests.watched import Watched
from typed_sessions import Session


class Overtaken(Watched):
    """A store in which somebody else always is faster: `rival` runs before every commit."""

    def __init__(self, store: Any) -> None:
        super().__init__(store)
        self.rival: Callable[[], object] = lambda: None

    @override
    def _before(self, name: str) -> None:
        super()._before(name)
        if name == "commit":
            self.rival()


def overtaken(face: Face, *, clock_moves: bool = True, **options: Any) -> tuple[Overtaken, list[float]]:
    """From now on the face's manager works on a store in which others may be faster; and how long it has paused, by its own clock only."""
    store = Overtaken(face.store)
    face.manager = face.another(store, **options)
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if clock_moves:
            face.clock.advance(seconds)

    async def sleep_soon(seconds: float) -> None:
        sleep(seconds)

    face.manager.core.sleep = sleep if face.kind == "sync" else sleep_soon
    return store, slept


def begin(face: Face, write: Callable[[Session], object]) -> tuple[Browser, str]:
    """A browser with a session that is stored, and its handle."""
    browser = face.browser()
    with browser.visit() as session:
        write(session)
    with browser.visit() as session:
        return browser, session.handle
