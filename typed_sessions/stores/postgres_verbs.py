"""The verbs of the PostgreSQL stores as data: one statement each, its parameters, and how to read the rows that come back. It knows no
connection and no driver.

What a row says that cannot be a session of ours (another program has written there) is logged, counts as absent, and is left as it is.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeAlias, TypeVar, final

import msgspec

from ..changes import GONE, Changes, Idle, Outcome, Status, Use, Write
from ..errors import PolicyError
from ..record import (
    END_REASONS,
    FIELD,
    FIELD_HEAD,
    PERSISTENT,
    TRANSIENT,
    Element,
    Ending,
    EndReason,
    Previous,
    Record,
    pack_elements,
    unpack_elements,
)
from . import postgres_schema as schema
from .base import Created
from .limits import Limits

logger: logging.Logger = logging.getLogger("typed_sessions")

R = TypeVar("R")
Row: TypeAlias = Sequence[Any]  # Any: each column has a type of its own

_SCHEMA = re.compile(r"[a-z_][a-z0-9_]{0,62}")
_STATUSES: dict[str, Status] = {"committed": "committed", "conflict": "conflict", "superseded": "superseded"}
_STORED_FLAGS = 0b110111
"""The flags that are not told by another column: ENDED, PREVIOUS and DEADLINE are."""
_REVISION_BYTES = 4


@final
class Payloads(list["bytes | None"]):
    """A parameter of the type bytea[], which says so also when it is empty."""


@final
class Numbers(list["int | None"]):
    """One of the type int8[]."""


@final
class Statement(msgspec.Struct, Generic[R]):
    """One statement, one round trip; `read` makes the verb's answer of its rows. What `waits` takes, as a last parameter, how many
    milliseconds it may wait for what another has locked."""

    sql: bytes
    parameters: Sequence[Any]
    read: Callable[[Sequence[Row]], R]
    waits: bool = True


@final
class Verbs:
    """The verbs of `stores.base`, each as a statement."""

    def __init__(self, store: str, name: str, max_bytes: int, max_keys: int) -> None:
        if not isinstance(name, str) or _SCHEMA.fullmatch(name) is None:
            raise PolicyError(f"{store}(schema={name!r}): expected lower-case letters, digits and '_', 63 at most, no digit first")
        for option, value, most in (("max_bytes", max_bytes, 2**30), ("max_keys", max_keys, 2**20)):
            if type(value) is not int or not 1 <= value <= most:
                raise PolicyError(f"{store}({option}={value!r}): expected a whole number from 1 to {most}")
        self._limits = Limits(store, max_bytes, max_keys)

        def prepared(sql: str) -> bytes:
            return schema.filled(sql, name).encode()

        self._create = prepared(schema.CREATE)
        self._open = prepared(schema.OPEN)
        self._touch = prepared(schema.TOUCH)
        self._commit = prepared(schema.COMMIT)
        self._end = prepared(schema.END)
        self._sweep = prepared(schema.SWEEP)
        self._clear = prepared(schema.CLEAR)
        self._scan = prepared(schema.SCAN)

    # -------------------------------------------------------------- the verbs

    def create(self, record: Record, now: float) -> Statement[Created]:
        fields = record.fields
        self._limits.check_new(record)
        previous = record.previous
        parameters = [
            record.locator,
            record.digest,
            record.tag_digest,
            record.address,
            record.created,
            record.used,
            math.inf if record.timeout is None else record.timeout,
            record.granularity,
            record.revision,
            record.flags & _STORED_FLAGS,
            record.deadline,
            *((None, None, None) if previous is None else (previous.digest, previous.tag_digest, previous.until)),
            *_columns(fields),
            None if record.due == math.inf else record.due,
        ]
        return Statement(self._create, parameters, _created, waits=False)

    def open(self, locator: bytes, use: Use | None, idle: Idle, now: float) -> Statement[Record | None]:
        tag = None if use is None or not use.tag_digest else use.tag_digest
        address, any_address = (None, False) if use is None else (use.address, use.any_address)
        return Statement(self._open, [locator, tag, address, any_address, *_idle(idle), now], _first)

    def touch(self, locator: bytes, digest: bytes, idle: Idle, now: float) -> Statement[bool]:
        return Statement(self._touch, [locator, digest, *_idle(idle), now], _truth)

    def commit(self, locator: bytes, changes: Changes, idle: Idle, now: float) -> Statement[Outcome]:
        renewal = changes.renewal
        persistent = None
        if changes.set_persistent:
            persistent = 0 if changes.persistent is None else PERSISTENT if changes.persistent else TRANSIENT
        own: tuple[float | None, float | None] = (None, None)
        if changes.set_timeout:
            granularity = idle.granularity if changes.granularity is None else changes.granularity
            own = math.inf if changes.timeout is None else changes.timeout, granularity
        renewed: tuple[Any, ...] = (None, None, None, None, 0.0)
        if renewal is not None:
            renewed = renewal.expected, renewal.digest, renewal.tag_digest, renewal.address, renewal.overlap
        parameters = [
            *(locator, now, *_idle(idle), changes.clear, changes.counts_as_use, persistent, *own),
            *renewed,
            Payloads(_name(name) for name in changes.writes),
            Numbers(write.base for write in changes.writes.values()),
            Payloads(
                # A whole list is put in the place of what is there, which is removed first.
                None if write.payload is None or _whole_list(write) is not None else _packed(write)[_REVISION_BYTES:]
                for write in changes.writes.values()
            ),
            *_list_columns(changes),
            *(self._limits.max_bytes, self._limits.max_keys),
        ]
        return Statement(self._commit, parameters, self._outcome)

    def end(self, locator: bytes, reason: EndReason, now: float, lease: float) -> Statement[Record | None]:
        return Statement(self._end, [locator, END_REASONS.index(reason), now, lease], _first)

    def sweep(self, now: float, limit: int, lease: float, grace: float) -> Statement[tuple[Sequence[Record], bool]]:
        def read(rows: Sequence[Row]) -> tuple[Sequence[Record], bool]:
            more = bool(rows) and rows[-1][0] == "more"
            return [record for row in rows if row[0] == "swept" and (record := _record(row)) is not None], more

        return Statement(self._sweep, [now, limit, lease, grace], read)

    def clear(self, locator: bytes, names: Sequence[str] | None) -> Statement[None]:
        return Statement(self._clear, [locator, None if names is None else Payloads(map(_name, names))], _nothing)

    def scan(self, after: bytes | None, limit: int) -> Statement[tuple[Sequence[Record], bytes | None]]:
        def read(rows: Sequence[Row]) -> tuple[Sequence[Record], bytes | None]:
            records = [record for row in rows if (record := _record(row)) is not None]
            return records, bytes(rows[-1][2]) if len(rows) == limit else None

        return Statement(self._scan, [after or b"", limit], read, waits=False)

    # -------------------------------------------------------------- inside

    def _outcome(self, rows: Sequence[Row]) -> Outcome:
        if not rows:
            return GONE
        status = _STATUSES.get(rows[0][0])
        if status is None:
            self._limits.refuse(*rows[0][:2])
        record = _record(rows[0])
        return GONE if record is None else Outcome(status, record)


# ------------------------------------------------------------------ to the database


def _name(name: str) -> bytes:
    return name.encode("utf-8", "surrogatepass")


def _idle(idle: Idle) -> tuple[float, float]:
    return math.inf if idle.timeout is None else idle.timeout, idle.granularity


def _columns(fields: Any) -> tuple[list[Any], ...]:
    """The eight arrays of a record's fields."""
    names: list[bytes] = []
    revisions: list[int] = []
    payloads: list[bytes] = []
    list_names: list[bytes] = []
    list_revisions: list[int] = []
    elements: list[tuple[bytes, int, bytes]] = []
    for name, packed in fields.items():
        revision, _, _ = FIELD.unpack_from(packed)
        found = _elements(packed)
        if found is not None:
            list_names.append(_name(name))
            list_revisions.append(revision)
            elements += [(_name(name), one.sequence, _element(one.version, one.flags, one.payload)) for one in found]
        else:
            names.append(_name(name))
            revisions.append(revision)
            payloads.append(packed[_REVISION_BYTES:])
    return (
        Payloads(names),
        Numbers(revisions),
        Payloads(payloads),
        Payloads(list_names),
        Numbers(list_revisions),
        Payloads(name for name, _, _ in elements),
        Numbers(sequence for _, sequence, _ in elements),
        Payloads(payload for _, _, payload in elements),
    )


def _element(version: int, flags: int, payload: bytes) -> bytes:
    return FIELD.pack(0, version, flags)[_REVISION_BYTES:] + payload


def _packed(write: Write) -> bytes:
    return FIELD.pack(0, write.version, write.flags) + (write.payload or b"")


def _whole_list(write: Write) -> list[Element] | None:
    return None if write.payload is None else _elements(_packed(write))


def _elements(packed: bytes) -> list[Element] | None:
    """The elements of a packed list; None for a single value, and for what says that it is a list and cannot be read: it stays as it is."""
    try:
        return unpack_elements(packed)
    except ValueError:
        return None


def _list_columns(changes: Changes) -> tuple[list[Any], ...]:
    removed: list[tuple[bytes, int]] = []
    added: list[tuple[bytes, int, bytes]] = []
    for text, change in changes.lists.items():
        name = _name(text)
        removed += [(name, sequence) for sequence in change.removed]
        # From the front: 0, 1, ... below all that were ever used, said as -1, -2, ...; from the back: above them.
        added += [(name, -1 - number, _element(*element)) for number, element in enumerate(change.prepended)]
        added += [(name, number, _element(*element)) for number, element in enumerate(change.appended)]
    whole: list[tuple[bytes, int, bytes]] = []
    lists = dict.fromkeys(map(_name, changes.lists))
    for text, write in changes.writes.items():
        elements = _whole_list(write)
        if elements is not None:
            lists[_name(text)] = None
            for element in elements:
                whole.append((_name(text), element.sequence, _element(element.version, element.flags, element.payload)))
    return (
        Payloads(lists),
        Payloads(name for name, _ in removed),
        Numbers(sequence for _, sequence in removed),
        Payloads(name for name, _, _ in added),
        Numbers(number for _, number, _ in added),
        Payloads(payload for _, _, payload in added),
        Payloads(name for name, _, _ in whole),
        Numbers(sequence for _, sequence, _ in whole),
        Payloads(payload for _, _, payload in whole),
    )


# ------------------------------------------------------------------ from the database


def _created(rows: Sequence[Row]) -> Created:
    return "created" if rows else "taken"


def _truth(rows: Sequence[Row]) -> bool:
    return bool(rows[0][0])


def _nothing(rows: Sequence[Row]) -> None:
    """A function that returns nothing has a row all the same."""


def _first(rows: Sequence[Row]) -> Record | None:
    return _record(rows[0]) if rows else None


def _record(row: Row) -> Record | None:
    """The record of a row: what the verb said, whether a use was written, and the columns of the table."""
    try:
        return _unpack(row)
    except Exception as problem:  # of whatever kind: one such row must not make a page of a scan, or a sweep, fail
        locator = row[2]
        logger.error(
            "the session %s in PostgreSQL cannot be read, and counts as absent: %s",
            locator.hex() if isinstance(locator, bytes) else locator,
            type(problem).__name__,
        )
        return None


def _unpack(row: Row) -> Record:
    _, much, locator, digest, tag, address, created, used, timeout, granularity, revision, flags, deadline, *rest = row
    old_digest, old_tag, old_until, reason, ended, claimed, *columns = rest
    # More of them than are known here are a later version's, which adds its own behind these.
    names, revisions, payloads, list_names, list_revisions, element_names, sequences, element_payloads, *_ = columns
    fields: dict[str, bytes] = {}
    for name, number, payload in zip(names, revisions, payloads, strict=True):
        fields[_text(name)] = number.to_bytes(_REVISION_BYTES, "little") + payload
    lists: dict[bytes, list[Element]] = {name: [] for name in list_names}
    for name, sequence, payload in sorted(zip(element_names, sequences, element_payloads, strict=True), key=lambda element: element[1]):
        _, version, element_flags = FIELD.unpack_from(bytes(_REVISION_BYTES) + payload)
        lists[name].append(Element(sequence, version, element_flags, payload[FIELD_HEAD - _REVISION_BYTES :]))
    for name, number in zip(list_names, list_revisions, strict=True):
        fields[_text(name)] = pack_elements(number, lists[name])
    for packed in fields.values():
        if len(packed) < FIELD_HEAD:
            raise ValueError("a field without a head")
    return Record(
        locator,
        digest,
        tag,
        created,
        used,
        None if timeout == math.inf else timeout,
        granularity,
        revision,
        address,
        flags,
        deadline,
        None if old_digest is None else Previous(old_digest, old_tag, old_until),
        None if reason is None else Ending(END_REASONS[int(reason)], ended, claimed),
        fields,
        use_written=much == 1,
    )


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogatepass")
