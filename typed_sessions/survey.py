"""What the keys of a program would make of everything in a store: `typed-sessions check`. It reads, and changes nothing.

A value is told by the name and version that it is stored with, and falls to the key that this process would read it with (rules 1 to 4).
Sessions that are over are left out: nobody will read them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple, TypeAlias, final

import msgspec

from .codecs import DecodeRefused
from .keys import AnyKey, Key, ListKey, key_of
from .record import FIELD_LIST, FIELD_SEALED, Element, Field, Record, unpack_elements, unpack_field
from .renamed import holder
from .sealing import SealingKeys, unsealed
from .stores.base import Store

PAGE = 500
"""Sessions that are looked at between two reports."""

Fate: TypeAlias = Literal["current", "upgraded", "carried", "dropped", "copy", "removed"]
"""What becomes of a stored value.

current    it is read as it is
upgraded   it is brought forward when it is read (rule 4)
carried    there is no key of that name: carried through (rule 3)
dropped    it is refused, and counts as absent until it is assigned (rule 1)
copy       nobody reads it: a renamed key's value is read under its other name (`was=`)
removed    nobody reads it: code that knows one of the two names has removed the value; without `was=` it would come back
"""
FATES: tuple[Fate, ...] = ("current", "upgraded", "carried", "dropped", "copy", "removed")


class Kind(NamedTuple):
    """Values that are counted together."""

    stored_name: str
    name: str | None
    """Of the key that reads it, which has another one if it was renamed; None without a key."""
    version: int


@final
class Survey(msgspec.Struct):
    """What has been found so far: values (an element of a list is one) by kind and fate."""

    sessions: int = 0
    values: dict[Kind, Counter[str]] = {}
    reasons: dict[Kind, str] = {}
    """Why the first one of a kind would be dropped."""
    place: bytes | None = None
    """Where the next page begins; None when everything has been looked at."""

    @property
    def dropped(self) -> int:
        return sum(counts["dropped"] for counts in self.values.values())

    def add(self, kind: Kind, fate: Fate, why: str = "") -> None:
        self.values.setdefault(kind, Counter())[fate] += 1
        if fate == "dropped":
            self.reasons.setdefault(kind, why)


def survey(store: Store, seal: SealingKeys | None, clock: Callable[[], float], *, page: int = PAGE) -> Iterator[Survey]:
    """Look at every session that lives; what was found, after every page. Raises what the store raises."""
    found = Survey()
    while True:
        records, found.place = store.scan(found.place, page)
        for record in records:
            if clock() < record.due:
                found.sessions += 1
                _session(record, seal, found)
        yield found
        if found.place is None:
            return


def _session(record: Record, seal: SealingKeys | None, found: Survey) -> None:
    for name, packed in record.fields.items():
        key = key_of(name)
        field = unpack_field(packed)
        kind = Kind(name, None if key is None else key.name, field.version)
        if isinstance(key, Key) and key.was is not None and (held := holder(record.fields, key.name, key.was)) != name:
            found.add(kind, "removed" if held is None else "copy")
            continue
        try:
            values = _values(packed, field, key)
        except ValueError as problem:
            found.add(kind, "carried" if key is None else "dropped", str(problem))
            continue
        for value in values:
            kind = kind._replace(version=value.version)
            if key is None:
                found.add(kind, "carried")
                continue
            try:
                key.load(unsealed(seal, record.locator, name, value.payload, bool(value.flags & FIELD_SEALED)), value.version)
            except DecodeRefused as problem:
                found.add(kind, "dropped", str(problem))
            else:
                found.add(kind, "current" if value.version == key.version else "upgraded")


def _values(packed: bytes, field: Field, key: AnyKey | None) -> Sequence[Field | Element]:
    """A single value, or the elements of a list. ValueError if that is not what the key is for."""
    if isinstance(key, ListKey) or (key is None and field.flags & FIELD_LIST):
        return unpack_elements(packed)
    if field.flags & FIELD_LIST:
        raise ValueError("stored as a list, not as a single value")
    return [field]
