"""What tests of restarts share: a process that stops or dies and comes back with nothing but its files."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from tests.faces import Browser, Face
from typed_sessions import Key, MemoryStore


def signed_in(face: Face, name: Key[str], who: str = "ann") -> Browser:
    """A browser with a session that holds `name`."""
    browser = face.browser()
    with browser.visit() as session:
        session[name] = who
    return browser


def sign_out(browser: Browser) -> Browser:
    """End the session; a thief, who still has the cookies."""
    thief = browser.copy()
    with browser.visit() as session:
        session.end()
    return thief


class Server:
    """A manager over a memory store, with its files in a folder. Every start has an empty store."""

    def __init__(self, face: Face, folder: Path, **options: Any) -> None:
        self.face = face
        self.path = folder / "sessions"
        self.options = options
        if options:
            face.manager = face.another(**options)

    @property
    def manager(self) -> Any:
        return self.face.manager

    def save(self) -> int:
        saved: int = self.face.call(self.manager.save_sessions(self.path))
        return saved

    def die(self) -> None:
        """As by kill -9: nothing more is saved. The process that comes next has not loaded anything yet."""
        self.face.store = MemoryStore()
        self.face.manager = self.face.another(**self.options)

    def load(self, **options: Any) -> int:
        loaded: int = self.face.call(self.manager.load_sessions(self.path, **options))
        return loaded

    def restart(self) -> int:
        self.die()
        return self.load()

    def stop(self) -> None:
        """As by SIGTERM, in a program that closes its manager."""
        self.face.call(self.manager.close() if self.face.kind == "sync" else self.manager.aclose())

    def copy(self, name: str) -> Path:
        """A backup of the snapshot, without its journal."""
        backup = self.path.with_name(name)
        shutil.copy(self.path, backup)
        return backup

    def put_back(self, backup: Path) -> None:
        """An older snapshot in the place of the latest, as an operator would."""
        shutil.copy(backup, self.path)
        self.path.chmod(0o600)

    @property
    def journal(self) -> Path:
        return self.path.with_name(f"{self.path.name}.journal")

    @property
    def previous(self) -> Path:
        return self.path.with_name(f"{self.path.name}.previous")
