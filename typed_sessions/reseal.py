"""Key rotation: every stored value sealed anew with the first of the keys, while requests go on. It knows records, not keys of a program.

Each value is rewritten by a commit that holds only if nobody has written it meanwhile, and that is no use of the session: what others
write is never undone, no session lives longer for it, and none that has ended comes back. What is under the first key already is left, so
that a second run changes nothing and one that was stopped can be begun again, from where it was or from the start.

Ended sessions whose hooks have still to run (`reap_grace`) keep the keys that they have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import final

import msgspec

from .changes import Changes, Idle, Write
from .codecs import DecodeRefused
from .errors import TooLarge
from .record import FIELD_LIST, FIELD_SEALED, Element, Field, Record, pack_elements, unpack_elements, unpack_field
from .sealing import SealingKeys
from .stores.base import Store

PAGE = 200
"""Sessions that are looked at between two reports."""
ATTEMPTS = 8
_IDLE = Idle(None, 0.0)
"""Of no effect: a rewriting is no use."""


@final
class Resealed(msgspec.Struct):
    """What a run has done so far; counts of values, an element of a list being one."""

    sessions: int = 0
    rewritten: int = 0
    current: int = 0
    plain: int = 0
    """Not sealed at all, and left so."""
    refused: int = 0
    """Sealed with another key, or damaged: left as they are."""
    busy: int = 0
    """Written by others each time that they were to be rewritten; they are for the next run."""
    place: bytes | None = None
    """Where to go on; None when everything has been looked at."""


def reseal(
    store: Store, keys: SealingKeys, clock: Callable[[], float], *, after: bytes | None = None, page: int = PAGE
) -> Iterator[Resealed]:
    """Seal every value of a store with the first of `keys`; those that are not sealed too if `keys.read_plain`.

    Gives the counts after every page, always in the same object: stop iterating to stop, and give its `place` as `after` to go on. Raises
    what the store raises.
    """
    done = Resealed(place=after)
    while True:
        records, place = store.scan(done.place, page)
        for record in records:
            done.sessions += 1
            _session(store, keys, record, clock, done)
        done.place = place  # only now: whoever is stopped within a page goes on at its beginning
        yield done
        if done.place is None:
            return


def _session(store: Store, keys: SealingKeys, record: Record | None, clock: Callable[[], float], done: Resealed) -> None:
    found = Resealed()
    for _ in range(ATTEMPTS):
        if record is None:
            return  # it has ended meanwhile
        found = Resealed()
        writes = {name: write for name, packed in record.fields.items() if (write := _rewritten(keys, record, name, packed, found))}
        if writes:
            try:
                outcome = store.commit(record.locator, Changes(writes, counts_as_use=False), _IDLE, clock())
            except TooLarge:  # sealing makes a value longer
                found.refused, found.rewritten = found.refused + found.rewritten, 0
            else:
                if outcome.status == "conflict":
                    record = outcome.record
                    continue
                if outcome.status != "committed":
                    return
        done.rewritten += found.rewritten
        done.current += found.current
        done.plain += found.plain
        done.refused += found.refused
        return
    done.busy += found.rewritten


def _rewritten(keys: SealingKeys, record: Record, name: str, packed: bytes, found: Resealed) -> Write | None:
    """The write that seals one field anew, or None if there is nothing to do."""
    field = unpack_field(packed)
    before = found.rewritten
    if not field.flags & FIELD_LIST:
        sealed = _sealed(keys, record, name, field, found)
        return None if sealed is None else Write(sealed, field.version, field.flags | FIELD_SEALED, field.revision)
    try:
        elements = unpack_elements(packed)
    except ValueError:
        found.refused += 1
        return None
    anew: list[Element] = []
    for element in elements:
        sealed = _sealed(keys, record, name, element, found)
        anew.append(element if sealed is None else element._replace(payload=sealed, flags=element.flags | FIELD_SEALED))
    if found.rewritten == before:
        return None
    whole = unpack_field(pack_elements(0, anew))
    return Write(whole.payload, whole.version, whole.flags, field.revision)


def _sealed(keys: SealingKeys, record: Record, name: str, value: Field | Element, found: Resealed) -> bytes | None:
    """A value under the first key; None if it is so already, or cannot be."""
    plain = value.payload
    if value.flags & FIELD_SEALED:
        if keys.is_current(value.payload):
            found.current += 1
            return None
        try:
            plain = keys.open(record.locator, name, value.payload)
        except DecodeRefused:
            found.refused += 1
            return None
    elif not keys.read_plain:
        found.plain += 1
        return None
    found.rewritten += 1
    return keys.seal(record.locator, name, plain)
