"""How much one session may hold, and what to say when it would be more. All stores count alike: what one takes, the others take.

What counts are the values and their names, as they are packed; not the record's head, so that a renewal, which adds the previous secret,
or another address never finds the session too large. And only what grows is refused: where the bound has become lower than what is there
(another process has another option), the session can still be used, renewed, made smaller, and ended.
"""

from __future__ import annotations

from typing import NoReturn, final

from ..errors import TooLarge
from ..record import Record, size_of


@final
class Limits:
    """The bounds of a store's sessions; `store` is its name for the texts."""

    __slots__ = ("max_bytes", "max_keys", "store")

    def __init__(self, store: str, max_bytes: int, max_keys: int) -> None:
        self.store: str = store
        self.max_bytes: int = max_bytes
        self.max_keys: int = max_keys

    def check_new(self, record: Record, packed: int | None = None) -> None:
        """Raise `TooLarge` unless a session may begin like this; `packed` is how long the record is, if somebody knows it already."""
        fields = record.fields
        if len(fields) > self.max_keys:
            self.refuse("keys", len(fields))
        if packed is None or packed > self.max_bytes:  # with its head it is longer, and mostly short enough all the same
            size = size_of(fields)
            if size > self.max_bytes:
                self.refuse("bytes", size)

    def allows(self, before: Record, after: Record) -> bool:
        """Whether one record may take the place of the other, of which it was made by `apply`."""
        return not (self._has_more_keys(before, after) or self._has_more_bytes(before, after))

    def check(self, before: Record, after: Record) -> None:
        """Raise `TooLarge` unless it may. Of two reasons the text names the keys, as `check_new` does."""
        if self._has_more_keys(before, after):
            self.refuse("keys", len(after.fields))
        if self._has_more_bytes(before, after):
            self.refuse("bytes", after.size)

    def _has_more_keys(self, before: Record, after: Record) -> bool:
        return len(after.fields) > self.max_keys and len(after.fields) > len(before.fields)

    def _has_more_bytes(self, before: Record, after: Record) -> bool:
        return after.size > self.max_bytes and after.size > (before.size or size_of(before.fields))

    def refuse(self, what: str, much: int) -> NoReturn:
        """For "bytes" or "keys"."""
        if what == "bytes":
            raise TooLarge(f"the session would take {much} bytes; {self.store}(max_bytes={self.max_bytes}) allows no more")
        raise TooLarge(f"the session would hold {much} keys; {self.store}(max_keys={self.max_keys}) allows no more")
