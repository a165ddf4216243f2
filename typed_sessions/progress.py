"""How far a walk over a whole store is, for a person who waits. Locators are random, so the place in their order says how much is done."""

from __future__ import annotations

from typing import TextIO, final

_WIDTH = 30


@final
class Progress:
    """A bar that is drawn over itself on a terminal; elsewhere nothing is drawn."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._drawn = stream.isatty()

    def show(self, place: bytes | None, text: str) -> None:
        """`place` is where a store's `scan` goes on; None is the end."""
        if self._drawn:
            part = 1.0 if place is None else int.from_bytes(place[:2], "big") / 65_536 if len(place) == 16 else 0.0
            done = round(part * _WIDTH)
            self._stream.write(f"\r[{'#' * done}{'.' * (_WIDTH - done)}] {part:4.0%}  {text}\x1b[K")
            self._stream.flush()

    def close(self) -> None:
        if self._drawn:
            self._stream.write("\n")
            self._drawn = False
