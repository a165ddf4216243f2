"""The slots of a request: a value that it has looked at, the stored field it came from, and how the request changed it.

read      decoded, not assigned; at the commit a mutable one is compared with what is stored (rule 5)
assigned  set whatever is stored by then: the last commit wins
updated   functions to apply to whatever is stored by then; `value` is this request's view of the result
deleted   removed whatever is stored by then
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeAlias, final

import msgspec

from .keys import Key, ListKey
from .residents import ABSENT

Mode: TypeAlias = Literal["read", "assigned", "updated", "deleted"]
Updater: TypeAlias = Callable[[Any], Any]  # Any: values of all keys meet here; the typed face is session.py


@final
class Slot(msgspec.Struct, eq=False):
    key: Key[Any]
    mode: Mode = "read"
    present: bool = False
    value: Any = None
    base: int = 0
    older: bytes | None = None
    """The field under the name that the key had before."""
    stored: bytes | None = None
    seen: bytes | None = None
    """The encoding of what was read, where another look at the same bytes may give something else (an upgrade that draws an id)."""
    version: int = 0
    refused: bool = False
    encoded: bytes | None = None
    functions: tuple[Updater, ...] = ()
    default: object = ABSENT
    in_place: bool = False


@final
class Item(msgspec.Struct, eq=False):
    """One element of a list as this request sees it; `sequence` is None for one that it has added."""

    value: object
    sequence: int | None
    payload: bytes
    front: bool


@final
class ListSlot(msgspec.Struct, eq=False):
    key: ListKey[Any]
    items: list[Item] = []
    refused: list[int] = []
    removed: list[int] = []
    unreadable: bool = False
    """What is stored is no list at all, and stays until it is `dropped` or an element is added."""
    dropped: bool = False
