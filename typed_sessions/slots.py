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
    """The value of one key; `value` is one only if it is `present`."""

    key: Key[Any]
    mode: Mode = "read"
    present: bool = False
    value: Any = None
    base: int = 0
    """The revision of the stored field; 0 if there was none."""
    older: bytes | None = None
    """The field under the name that the key had before."""
    stored: bytes | None = None
    """The stored payload that the value was decoded from; None if there was none, or none that could be read."""
    seen: bytes | None = None
    """The encoding of what was read, where another look at the same bytes may give something else (an upgrade that draws an id)."""
    version: int = 0
    """The version of what is stored."""
    refused: bool = False
    """What is stored is not of the key's type: it counts as absent, and stays until the key is assigned or deleted (rule 1)."""
    encoded: bytes | None = None
    """The encoding of a value that was assigned, updated, or found to be changed in place."""
    functions: tuple[Updater, ...] = ()
    default: object = ABSENT
    """What the first of them is given if there is nothing; encoded, where it could be changed in place."""
    in_place: bool = False
    """The value was changed in place, beside what `mode` says."""


@final
class Item(msgspec.Struct, eq=False):
    """One element of a list as this request sees it; `sequence` is None for one that it has added."""

    value: object
    sequence: int | None
    payload: bytes
    front: bool


@final
class ListSlot(msgspec.Struct, eq=False):
    """The elements of one `ListKey`; `refused` and `removed` are sequences of stored ones."""

    key: ListKey[Any]
    items: list[Item] = []
    refused: list[int] = []
    removed: list[int] = []
    unreadable: bool = False
    """What is stored is no list at all, and stays until it is `dropped` or an element is added."""
    dropped: bool = False
