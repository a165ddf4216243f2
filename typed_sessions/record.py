"""What a store holds and what it is told: plain data, no I/O, no clock, no keys.

A `Record` is one session: who may open it (digests, never secrets), until when, and one *field* per key name.
It has one packed form, which the memory store keeps and a snapshot writes:

    offset  size  what
    0       1     format (1)
    1       1     flags: REUSED, HOOKED, OWN_TIMEOUT, ENDED, PERSISTENT, TRANSIENT, PREVIOUS, DEADLINE
    2       32    SHA-256 of the secret
    34      16    the first 16 bytes of the SHA-256 of the SESSION_ADDR value
    50      8     created       float, seconds since 1970
    58      8     used          float, the last use that was written
    66      8     timeout       float, seconds; infinity is none
    74      4     granularity   float, seconds
    78      4     revision      unsigned; one more at every commit
    82      1     length a of the bound address, then a bytes of it (ASCII); 0 is none
    then    56    only with PREVIOUS: digest (32), tag digest (16), open until (float)
    then    8     only with DEADLINE: the end of the absolute lifetime (float)
    then    17    only with ENDED: reason (1), ended at (float), claimed until (float)
    rest          a MessagePack map from key name to field

A field is the revision that wrote it (4 bytes), its key's version (2), flags (1: HOOKED, LIST, SEALED) and the
payload. The payload of a list is a MessagePack array of (sequence, version, flags, element bytes), by sequence.
All numbers are little-endian.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from struct import Struct
from struct import error as struct_error
from typing import Literal, NamedTuple, TypeAlias, final

import msgspec

FORMAT = 1
LOCATOR_BYTES = 16
SECRET_BYTES = 32
TAG_DIGEST_BYTES = 16

REUSED, HOOKED, OWN_TIMEOUT, ENDED, PERSISTENT, TRANSIENT, PREVIOUS, DEADLINE = (1 << n for n in range(8))
FIELD_HOOKED, FIELD_LIST, FIELD_SEALED = 1, 2, 4

EndReason: TypeAlias = Literal["ended", "timeout", "lifetime", "check", "address", "evicted"]
END_REASONS: tuple[EndReason, ...] = ("ended", "timeout", "lifetime", "check", "address", "evicted")

_HEAD = Struct("<BB32s16sdddfIB")
_PREVIOUS = Struct("<32s16sd")
_DEADLINE = Struct("<d")
_ENDED = Struct("<Bdd")
_FIELD = Struct("<IHB")
FIELD_HEAD = _FIELD.size

_decode_fields = msgspec.msgpack.Decoder(dict[str, bytes]).decode
_encode = msgspec.msgpack.Encoder().encode
_decode_elements = msgspec.msgpack.Decoder(list[tuple[int, int, int, bytes]]).decode


class Field(NamedTuple):
    """One key's stored value: `revision` is the commit that wrote it, `version` its key's version then."""

    revision: int
    version: int
    flags: int
    payload: bytes


class Element(NamedTuple):
    """One value of a `ListKey`. Its sequence orders it, and is never used again in this session."""

    sequence: int
    version: int
    flags: int
    payload: bytes


def pack_field(revision: int, version: int, flags: int, payload: bytes) -> bytes:
    return _FIELD.pack(revision, version, flags) + payload


def unpack_field(packed: bytes) -> Field:
    revision, version, flags = _FIELD.unpack_from(packed)
    return Field(revision, version, flags, packed[FIELD_HEAD:])


def field_revision(packed: bytes | None) -> int:
    """The revision that wrote the field; 0 for a field that is not there."""
    return int.from_bytes(packed[:4], "little") if packed is not None else 0


def unpack_elements(packed: bytes | None) -> list[Element]:
    if packed is None:
        return []
    return [Element(*element) for element in _decode_elements(memoryview(packed)[FIELD_HEAD:])]


def pack_elements(revision: int, elements: list[Element]) -> bytes:
    flags = FIELD_LIST
    for element in elements:
        flags |= element.flags & FIELD_SEALED
    return _FIELD.pack(revision, 0, flags) + _encode(elements)


class Previous(NamedTuple):
    """The secret before the last renew: opens the session until `until` (seconds since 1970), and is remembered after."""

    digest: bytes
    tag_digest: bytes
    until: float


class Ending(NamedTuple):
    """An ended session that still has hooks to run: why and when it ended, and until when a worker has claimed it."""

    reason: EndReason
    at: float
    claimed_until: float


@final
class Record:
    """One session as a store holds it. Treated as immutable: a change makes a new one with `replace`."""

    __slots__ = (
        "_fields",
        "_packed",
        "_tail",
        "address",
        "created",
        "deadline",
        "digest",
        "ending",
        "flags",
        "granularity",
        "locator",
        "previous",
        "revision",
        "tag_digest",
        "timeout",
        "use_written",
        "used",
    )

    locator: bytes
    digest: bytes
    tag_digest: bytes
    address: str | None
    created: float
    used: float
    timeout: float | None
    granularity: float
    deadline: float | None
    revision: int
    flags: int
    previous: Previous | None
    ending: Ending | None
    use_written: bool
    """Whether the verb that gave out this record has written a use (not stored)."""

    def __init__(
        self,
        locator: bytes,
        *,
        digest: bytes,
        tag_digest: bytes,
        address: str | None,
        created: float,
        used: float,
        timeout: float | None,
        granularity: float,
        deadline: float | None,
        revision: int = 0,
        flags: int = 0,
        previous: Previous | None = None,
        ending: Ending | None = None,
        fields: Mapping[str, bytes] | None = None,
    ) -> None:
        self.locator = locator
        self.digest = digest
        self.tag_digest = tag_digest
        self.address = address
        self.created = created
        self.used = used
        self.timeout = timeout
        self.granularity = granularity
        self.deadline = deadline
        self.revision = revision
        self.flags = flags
        self.previous = previous
        self.ending = ending
        self._fields: Mapping[str, bytes] | None = fields or {}
        self._packed = b""
        self._tail = 0
        self.use_written = False

    @property
    def fields(self) -> Mapping[str, bytes]:
        """The packed fields by key name; see `unpack_field` and `unpack_elements`."""
        fields = self._fields
        if fields is None:
            fields = self._fields = _decode_fields(memoryview(self._packed)[self._tail :])
        return fields

    @property
    def idle_due(self) -> float:
        """When the idle timeout is over (seconds since 1970, `inf` for never), counted from the last *written* use (rule 12)."""
        return math.inf if self.timeout is None else self.used + self.timeout + self.granularity

    @property
    def due(self) -> float:
        """When the session is over by either timeout."""
        idle = self.idle_due
        return idle if self.deadline is None or idle < self.deadline else self.deadline

    @property
    def hooked(self) -> bool:
        return bool(self.flags & HOOKED)

    @property
    def persistent(self) -> bool | None:
        """The session's own choice of cookie: True for one with Max-Age, False for one without, None for the policy's."""
        return True if self.flags & PERSISTENT else False if self.flags & TRANSIENT else None

    def copy(self, fields: Mapping[str, bytes] | None = None) -> Record:
        """A second record to change; with `fields`, of these instead."""
        twin = Record.__new__(Record)
        twin.locator = self.locator
        twin.digest = self.digest
        twin.tag_digest = self.tag_digest
        twin.address = self.address
        twin.created = self.created
        twin.used = self.used
        twin.timeout = self.timeout
        twin.granularity = self.granularity
        twin.deadline = self.deadline
        twin.revision = self.revision
        twin.flags = self.flags
        twin.previous = self.previous
        twin.ending = self.ending
        twin._fields = self._fields if fields is None else fields
        twin._packed = self._packed
        twin._tail = self._tail
        twin.use_written = False
        return twin

    def pack(self) -> bytes:
        """The packed form, as the module's first lines give it (the locator is not in it)."""
        flags = self.flags & ~(PREVIOUS | DEADLINE | ENDED)
        address = b"" if self.address is None else self.address.encode("ascii", "replace")[:255]
        tail = b""
        if self.previous is not None:
            flags |= PREVIOUS
            tail = _PREVIOUS.pack(*self.previous)
        if self.deadline is not None:
            flags |= DEADLINE
            tail += _DEADLINE.pack(self.deadline)
        if self.ending is not None:
            flags |= ENDED
            tail += _ENDED.pack(END_REASONS.index(self.ending.reason), self.ending.at, self.ending.claimed_until)
        timeout = math.inf if self.timeout is None else self.timeout
        head = _HEAD.pack(
            FORMAT,
            flags,
            self.digest,
            self.tag_digest,
            self.created,
            self.used,
            timeout,
            self.granularity,
            self.revision,
            len(address),
        )
        fields = _encode(self._fields) if self._fields is not None else self._packed[self._tail :]
        return b"".join((head, address, tail, fields))

    @classmethod
    def unpack(cls, locator: bytes, packed: bytes) -> Record:
        """The record of a packed form written by this version or an earlier one. ValueError for anything else."""
        record = cls.__new__(cls)
        try:
            (
                version,
                flags,
                record.digest,
                record.tag_digest,
                record.created,
                record.used,
                timeout,
                record.granularity,
                record.revision,
                length,
            ) = _HEAD.unpack_from(packed)
            at = _HEAD.size
            record.address = packed[at : at + length].decode("ascii") if length else None
            at += length
            record.locator = locator
            record.timeout = None if timeout == math.inf else timeout
            record.previous = record.deadline = record.ending = None
            if flags & (PREVIOUS | DEADLINE | ENDED):
                if flags & PREVIOUS:
                    record.previous = Previous(*_PREVIOUS.unpack_from(packed, at))
                    at += _PREVIOUS.size
                if flags & DEADLINE:
                    (record.deadline,) = _DEADLINE.unpack_from(packed, at)
                    at += _DEADLINE.size
                if flags & ENDED:
                    reason, ended, until = _ENDED.unpack_from(packed, at)
                    record.ending = Ending(END_REASONS[reason], ended, until)
                    at += _ENDED.size
        except (struct_error, IndexError, UnicodeDecodeError) as problem:
            raise ValueError(f"no packed record: {problem}") from problem
        if version != FORMAT:
            raise ValueError(f"a packed record of format {version}; this version reads {FORMAT}")
        record.flags = flags
        record._fields = None
        record._packed = packed
        record._tail = at
        record.use_written = False
        return record

    def __repr__(self) -> str:
        return f"<Record {self.locator.hex()} revision {self.revision}, {len(self.fields)} fields>"


class SessionId(NamedTuple):
    """A new id: what the record keeps of it, and the two cookie values, which nothing keeps."""

    locator: bytes
    digest: bytes
    tag_digest: bytes
    key_value: str
    addr_value: str

    def __repr__(self) -> str:
        # The cookie values are secrets: they must not reach a log or a traceback (I4).
        return f"<SessionId {self.locator.hex()}>"
