"""Threads that do one thing every so many seconds."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from typing import final

logger: logging.Logger = logging.getLogger("typed_sessions")


@final
class Background:
    """The threads of a manager: each does one thing every so many seconds until it is stopped."""

    def __init__(self) -> None:
        self._running: dict[str, tuple[threading.Event, threading.Thread]] = {}
        self.path: str | os.PathLike[str] | None = None

    def start(self, name: str, every: float, work: Callable[[], object]) -> None:
        self.stop(name)
        stop = threading.Event()

        def loop() -> None:
            while not stop.wait(every):
                try:
                    work()
                except Exception:
                    logger.exception("the %s of sessions failed; it is tried again in %g s", name, every)

        thread = threading.Thread(target=loop, name=f"typed_sessions {name}", daemon=True)
        self._running[name] = (stop, thread)
        thread.start()

    def stop(self, name: str) -> None:
        running = self._running.pop(name, None)
        if running is not None:
            running[0].set()
            if running[1] is not threading.current_thread():
                running[1].join()

    def stop_all(self) -> None:
        for name in list(self._running):
            self.stop(name)
