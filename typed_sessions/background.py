"""Threads that do one thing every so many seconds."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from contextvars import Context
from typing import NamedTuple, final

from .forks import tell_of_forks

logger: logging.Logger = logging.getLogger("typed_sessions")


class _Running(NamedTuple):
    every: float
    work: Callable[[], object]
    stop: threading.Event
    thread: threading.Thread


@final
class Background:
    """The threads of a manager: each does one thing every so many seconds until it is stopped.

    A fork leaves them behind in the parent. `forked` is called in the child then; whoever works there calls `revive`. Not every server
    tells Python that it forks (uWSGI), so that `forked` is called when one begins, too: the next request looks.
    """

    def __init__(self, forked: Callable[[], object]) -> None:
        self._forked = forked
        self._running: dict[str, _Running] = {}
        self._lost: dict[str, _Running] = {}
        """What ran in the parent when this process was forked."""
        self.path: str | None = None
        """Where autosave saves to; the parent's path is none of a child's."""
        self._path_of_parent: str | None = None
        self._pid = os.getpid()
        tell_of_forks(self)

    def start(self, name: str, every: float, work: Callable[[], object]) -> None:
        self._look_for_fork()
        self.stop(name)
        self._lost.pop(name, None)
        stop = threading.Event()

        def loop() -> None:
            while not stop.wait(every):
                try:
                    work()
                except Exception:
                    logger.exception("the %s of sessions failed; it is tried again in %g s", name, every)

        thread = threading.Thread(target=loop, name=f"typed_sessions {name}", daemon=True)
        self._running[name] = _Running(every, work, stop, thread)
        Context().run(thread.start)  # not in a request's context, which some Pythons give to threads (3.14 without the GIL)
        self._forked()

    def stop(self, name: str) -> None:
        running = self._running.pop(name, None)
        if running is not None:
            running.stop.set()
            if running.thread is not threading.current_thread():
                running.thread.join()

    def stop_all(self) -> None:
        self._look_for_fork()
        self._say_what_is_not_saved()
        self._lost.clear()
        for name in list(self._running):
            self.stop(name)

    def revive(self) -> None:
        """Begin again what a fork has stopped; but not autosave, whose file is the parent's."""
        self._look_for_fork()
        self._say_what_is_not_saved()
        for name in list(self._lost):
            lost = self._lost.pop(name, None)  # None: another request of this moment has done it
            if lost is not None:
                self.start(name, lost.every, lost.work)

    def _say_what_is_not_saved(self) -> None:
        if self._lost.pop("autosave", None) is not None and self._path_of_parent is not None:
            say_not_saved(self._path_of_parent)

    def _look_for_fork(self) -> None:
        if self._pid != os.getpid():
            self.after_fork()

    def after_fork(self) -> None:
        """In the child. Nothing is begun yet: most children, such as those of multiprocessing, serve nobody."""
        self._pid = os.getpid()
        self._lost.update(self._running)
        self._running = {}
        if self.path is not None:
            self._path_of_parent, self.path = self.path, None
        if self._lost:
            self._forked()


def say_not_saved(path: str) -> None:
    """Of sessions of a process that was forked after `autosave(path)`."""
    logger.warning(
        "this process was forked after autosave(%r), so its sessions are not saved: the file is its parent's. With MemoryStore, "
        "one process serves, and calls load_sessions and autosave itself, after the fork; for several, choose another store",
        path,
    )
