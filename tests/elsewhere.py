"""For tests of what runs without a lock: from inside of it, use the manager in another thread, for everything."""

from __future__ import annotations

import threading
from collections.abc import Callable

from tests.faces import Face
from typed_sessions import Begin, Key

PATIENCE = 10.0
"""Seconds until a thread that has not come back counts as stuck; nothing here takes a hundredth of that."""


def elsewhere(face: Face, work: Callable[[Face], object]) -> None:
    """Run `work` in another thread, upon the same manager, and wait for it. Fails if a lock keeps it from coming back."""
    problems: list[BaseException] = []

    def body() -> None:
        twin = Face(face.kind, face.store)  # an event loop of this thread's own
        twin.manager, twin.clock = face.manager, face.clock
        try:
            work(twin)
        except BaseException as problem:
            problems.append(problem)
        finally:
            if twin.loop is not None:
                twin.leave()

    thread = threading.Thread(target=body, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert not thread.is_alive(), "the manager could not be used in another thread: a lock was held"
    if problems:
        raise problems[0]


class Case:
    """A session of some browser, and a function to be called from inside of whatever is tested."""

    def __init__(self, face: Face) -> None:
        self.face = face
        self.calls = 0
        self.inside = False
        self.note = Key("note", int)
        self.busy = Key("busy", int, resident=True)
        self.browser = face.browser()
        self.other = face.browser("10.9.9.9")
        for browser in (self.browser, self.other):
            with browser.visit() as session:
                session[self.note] = 0
        with self.browser.visit() as session:
            self.handle = session.handle

    def call(self) -> None:
        """Use the manager in another thread. What that causes in turn does not do the same again."""
        self.calls += 1
        if self.inside:
            return
        self.inside = True
        try:
            elsewhere(self.face, self.work)
        finally:
            self.inside = False

    def heard(self, _: object) -> None:
        """A listener that calls."""
        self.call()

    def work(self, face: Face) -> None:
        """Open, read, write, renew, create, end, list and sweep: on the session in question and on others."""
        for browser in (self.browser, self.other):
            twin = browser.copy()
            twin.face = face
            with twin.visit() as session:
                if session.exists:
                    session[self.note] = session.get(self.note, 0) + 1
                    session[self.busy] = 1
        fresh = face.browser("10.8.8.8")
        with fresh.visit() as session:
            session[self.note] = 1
            session[self.busy] = 1
        with fresh.visit() as session:
            session.renew()
        with fresh.visit() as session:
            session.end()
        face.call(face.manager.all())
        face.call(face.manager.sweep())
        face.manager.on(Begin, self.ignore)()
        Key("declared meanwhile", int)

    def ignore(self, _: object) -> None:
        """A listener that does nothing."""
