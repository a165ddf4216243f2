"""What a store holds and what it is told: plain data, no I/O, no clock, no keys.

A `Record` is one session: who may open it (digests, never secrets), until when, and one *field* per key name.
It has one packed form, which the memory store keeps and a snapshot writes:

    offset  size  what
    0       1     format (1)
    1       1     flags: REUSED, HOOKED, OWN_TIMEOUT, ENDED, PERSISTENT, TRANSIENT, PREVIOUS, DEADLINE
    2       1     length a of the bound address; 0 is none
    3       32    SHA-256 of the secret
    35      16    the first 16 bytes of the SHA-256 of secret ‖ SESSION_ADDR value
    51      8     created       float, seconds since 1970
    59      8     used          float, the last use that was written
    67      8     timeout       float, seconds; infinity is none
    75      4     granularity   float, seconds
    79      4     revision      unsigned; one more at every commit
    83      a     the bound address, ASCII
    then    56    only with PREVIOUS: digest (32), tag digest (16), open until (float)
    then    8     only with DEADLINE: the end of the absolute lifetime (float)
    then    17    only with ENDED: reason (1), ended at (float), claimed until (float)
    rest          a MessagePack map from key name to field

A field is the revision that wrote it (4 bytes), its key's version (2), flags (1: HOOKED, LIST, SEALED, TWIN, COPY) and the
payload. The payload of a list is a MessagePack array of (sequence, version, flags, element bytes), by sequence.
All numbers are little-endian.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from hmac import compare_digest
from struct import Struct
from struct import error as struct_error
from typing import Literal, NamedTuple, TypeAlias, final

import msgspec
from msgspec.structs import replace
from typing_extensions import override

FORMAT = 1
LOCATOR_BYTES = 16
SECRET_BYTES = 32
TAG_DIGEST_BYTES = 16
NO_TAG = bytes(TAG_DIGEST_BYTES)
"""In the place of a digest: nothing that a request presents equals it."""

REUSED, HOOKED, OWN_TIMEOUT, ENDED, PERSISTENT, TRANSIENT, PREVIOUS, DEADLINE = (1 << n for n in range(8))
FIELD_HOOKED, FIELD_LIST, FIELD_SEALED, FIELD_TWIN, FIELD_COPY = 1, 2, 4, 8, 16
_KEPT = ~(PREVIOUS | DEADLINE | ENDED)
"""The flags that are not told by something else in the record."""

EndReason: TypeAlias = Literal["ended", "timeout", "lifetime", "check", "address", "evicted"]
END_REASONS: tuple[EndReason, ...] = ("ended", "timeout", "lifetime", "check", "address", "evicted")

_HEAD = Struct("<BBB32s16sdddfI")
_TIMES = Struct("<xB49xddd")
_PREVIOUS = Struct("<32s16sd")
_DEADLINE = Struct("<d")
_ENDED = Struct("<Bdd")
FIELD = Struct("<IHB")
FIELD_HEAD = FIELD.size
REVISION_BYTES = FIELD_VERSION = 4
FIRST_REVISION = FIELD.pack(1, 0, 0)[:REVISION_BYTES]
FIELD_FLAGS_AT = FIELD_HEAD - 1
"""Where the flags stand in a packed field."""
RECORD_FLAGS_AT = 1
"""Where the flags stand in a packed record."""

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
    return FIELD.pack(revision, version, flags) + payload


def field_head(version: int, flags: int) -> bytes:
    """What stands in a packed field between its revision and its payload: the bytes from `FIELD_VERSION` to `FIELD_HEAD`."""
    return FIELD.pack(0, version, flags)[FIELD_VERSION:]


def unpack_field(packed: bytes) -> Field:
    revision, version, flags = FIELD.unpack_from(packed)
    return Field(revision, version, flags, packed[FIELD_HEAD:])


def field_revision(packed: bytes | None) -> int:
    """The revision that wrote the field; 0 for a field that is not there."""
    return int.from_bytes(packed[:4], "little") if packed is not None else 0


def head_size(count: int, short: int, *, narrow: bool = False) -> int:
    """How many bytes MessagePack says a length with: one if it is below `short`; with `narrow` there is a head for a length of one byte."""
    if count < short:
        return 1
    return 2 if narrow and count < 256 else 3 if count < 65_536 else 5


def entry_size(name: str, size: int) -> int:
    """How many bytes a field of so many takes in a packed record, together with its name."""
    name_size = len(name.encode())
    if name_size < 32 and size < 256:
        return 3 + name_size + size
    return head_size(name_size, 32, narrow=True) + name_size + head_size(size, 0, narrow=True) + size


def size_of(fields: Mapping[str, bytes]) -> int:
    """How many bytes these fields take in a packed record: what a store's bound is compared with."""
    return head_size(len(fields), 16) + sum(entry_size(name, len(packed)) for name, packed in fields.items())


def unpack_elements(packed: bytes | None) -> list[Element]:
    """The elements of a list's field. ValueError if it is none: a single value, stored by code that had another key of this name."""
    if packed is None:
        return []
    if not packed[FIELD_FLAGS_AT] & FIELD_LIST:
        raise ValueError("stored as a single value, not as a list")
    try:
        return [Element(*element) for element in _decode_elements(memoryview(packed)[FIELD_HEAD:])]
    except msgspec.DecodeError as problem:
        raise ValueError(f"not the elements of a list: {problem}") from problem


def times_of(packed: bytes) -> tuple[int, float, float, float]:
    """Of a packed record, which is not unpacked for it: flags, when it was created and used, and its timeout (infinity is none)."""
    flags, created, used, timeout = _TIMES.unpack_from(packed)
    return flags, created, used, timeout


def pack_elements(revision: int, elements: list[Element]) -> bytes:
    flags = FIELD_LIST
    for element in elements:
        flags |= element.flags & FIELD_SEALED
    return FIELD.pack(revision, 0, flags) + _encode(elements)


@final
class Previous(msgspec.Struct, frozen=True, gc=False):
    """The secret before the last renew: opens the session until `until` (seconds since 1970), and is remembered after."""

    digest: bytes
    tag_digest: bytes
    """`NO_TAG` if there was no overlap: then the secret opens nothing, whatever a clock says that is behind the one of the renewal."""
    until: float

    def opens(self, now: float) -> bool:
        """Whether its overlap lasts."""
        return now < self.until and not compare_digest(self.tag_digest, NO_TAG)


@final
class Ending(msgspec.Struct, frozen=True, gc=False):
    """An ended session that somebody has still to clean up: why and when it ended, and until when a worker has claimed it."""

    reason: EndReason
    at: float
    claimed_until: float
    """0 if nobody has, as with one that had to make room."""

    def claimed_again(self, now: float, lease: float, grace: float) -> Ending:
        """As it is after another claim, for `lease` seconds at least: the longer nobody could clean up, the longer nobody is asked to.

        In a process that has not got the keys, what one with the keys has left behind would be claimed once a lease, all of it, for
        `grace` seconds. The first claim of one that had to make room counts from now: that is how it is told from a second.
        """
        at = self.at if self.claimed_until else now
        return Ending(self.reason, at, max(now + lease, min(now + (now - at) / 8, at + grace)))


@final
class Record(msgspec.Struct, eq=False):
    """One session as a store holds it. Treated as immutable: a change makes a new one with `copy`, whose attributes are set before
    anybody else sees it.

    `pack` gives its bytes without the locator, and `unpack` the record again.
    """

    locator: bytes
    digest: bytes
    """SHA-256 of the secret."""
    tag_digest: bytes
    """Of the secret and SESSION_ADDR together: who presents what gives this has both cookies."""
    created: float
    used: float
    """The last use that was written; like all times in seconds since 1970."""
    timeout: float | None
    """For how many seconds without a use it lives; None for ever."""
    granularity: float
    """How many seconds apart uses are written; the timeout is as much longer (`due`)."""
    revision: int = 0
    """One more at every commit."""
    address: str | None = None
    """The address that it is bound to."""
    flags: int = 0
    deadline: float | None = None
    """When the absolute lifetime is over; None for never."""
    previous: Previous | None = None
    """The secret before the last renew."""
    ending: Ending | None = None
    """Of a session that has ended, and is kept until somebody has cleaned up."""
    unpacked: Mapping[str, bytes] | None = None
    """The fields, once they have been looked at."""
    packed: bytes = b""
    """The packed form, if there is one that is still true; `pack` gives it in any case."""
    tail: int = 0
    """Where the fields begin in it."""
    size: int = 0
    """How many bytes the packed fields have (`size_of`); 0 if nobody has counted. `apply` and `unpack` have."""
    use_written: bool = False
    """Whether the very call that gave out this record has written a use. It is not stored: a store that keeps records instead of packed
    ones keeps a `copy` of what `apply`, `apply_use` and `apply_touch` give, which has it False."""

    @property
    def fields(self) -> Mapping[str, bytes]:
        """The packed fields by key name; see `unpack_field` and `unpack_elements`."""
        fields = self.unpacked
        if fields is None:
            fields = self.unpacked = _decode_fields(memoryview(self.packed)[self.tail :]) if self.packed else {}
        return fields

    @property
    def due(self) -> float:
        """When it is over by either timeout (seconds since 1970, `inf` for never); the idle one counts from the last *written* use."""
        idle = math.inf if self.timeout is None else self.used + self.timeout + self.granularity
        return idle if self.deadline is None or idle < self.deadline else self.deadline

    @property
    def over_by(self) -> EndReason:
        """Why it is over when it is `due`: "lifetime", also where the idle timeout is over at the same moment, or "timeout"."""
        return "lifetime" if self.due == self.deadline else "timeout"

    def opened_by(self, digest: bytes, now: float) -> bool:
        """Whether a secret of this digest, proved earlier, still opens it: the current one, or the previous one in its overlap."""
        previous = self.previous
        return digest == self.digest or (previous is not None and digest == previous.digest and previous.opens(now))

    @property
    def hooked(self) -> bool:
        """Whether one of its fields has the flag `FIELD_HOOKED`, a clean-up hook to run at the end: then an ended record is kept."""
        return bool(self.flags & HOOKED)

    @property
    def persistent(self) -> bool | None:
        """The session's own choice of cookie: True for one with Max-Age, False for one without, None for the policy's."""
        return True if self.flags & PERSISTENT else False if self.flags & TRANSIENT else None

    def copy(self, fields: Mapping[str, bytes] | None = None) -> Record:
        """A second record to change; of these `fields` if they are given, and then `hooked` if one of them is."""
        if fields is None:
            return replace(self, unpacked=self.fields, packed=b"", use_written=False)
        hooked = any(packed[FIELD_FLAGS_AT] & FIELD_HOOKED for packed in fields.values())
        flags = self.flags | HOOKED if hooked else self.flags & ~HOOKED
        return replace(self, unpacked=fields, packed=b"", use_written=False, flags=flags, size=0)

    def pack(self) -> bytes:
        """The packed form, as the module's first lines give it (the locator is not in it)."""
        if self.packed:
            return self.packed
        fields = _encode(self.unpacked or {})
        flags = self.flags & _KEPT
        address = b"" if self.address is None else self.address.encode("ascii", "replace")[:255]
        tail = b""
        if self.previous is not None or self.deadline is not None or self.ending is not None:
            if self.previous is not None:
                flags |= PREVIOUS
                tail = _PREVIOUS.pack(self.previous.digest, self.previous.tag_digest, self.previous.until)
            if self.deadline is not None:
                flags |= DEADLINE
                tail += _DEADLINE.pack(self.deadline)
            if self.ending is not None:
                flags |= ENDED
                tail += _ENDED.pack(END_REASONS.index(self.ending.reason), self.ending.at, self.ending.claimed_until)
        head = _HEAD.pack(
            FORMAT,
            flags,
            len(address),
            self.digest,
            self.tag_digest,
            self.created,
            self.used,
            math.inf if self.timeout is None else self.timeout,
            self.granularity,
            self.revision,
        )
        return head + address + tail + fields

    def pack_once(self) -> bytes:
        """`pack`, of a record that is not changed any more: it keeps its packed form."""
        if not self.packed:
            self.unpacked, self.packed = self.fields, self.pack()
        return self.packed

    @classmethod
    def unpack(cls, locator: bytes, packed: bytes) -> Record:
        """The record of a packed form written by this version or an earlier one. ValueError for anything else."""
        try:
            version, flags, length, *head = _HEAD.unpack_from(packed)
            if version != FORMAT:
                raise ValueError(f"a packed record of format {version}; this version reads {FORMAT}")
            record = cls(locator, *head)
            record.flags = flags
            at = _HEAD.size
            if length:
                record.address = packed[at : at + length].decode("ascii")
                at += length
            if record.timeout == math.inf:
                record.timeout = None
            if flags & (PREVIOUS | DEADLINE | ENDED):
                if flags & PREVIOUS:
                    record.previous = Previous(*_PREVIOUS.unpack_from(packed, at))
                    at += _PREVIOUS.size
                if flags & DEADLINE:
                    (record.deadline,) = _DEADLINE.unpack_from(packed, at)
                    at += _DEADLINE.size
                if flags & ENDED:
                    reason, ended, until = _ENDED.unpack_from(packed, at)
                    record.ending = Ending(END_REASONS[int(reason)], float(ended), float(until))
                    at += _ENDED.size
        except (struct_error, IndexError, UnicodeDecodeError) as problem:
            raise ValueError(f"no packed record: {problem}") from problem
        record.packed = packed
        record.size = len(packed) - at
        record.tail = at
        return record

    def __repr__(self) -> str:
        return f"<Record {self.locator.hex()} revision {self.revision}, {len(self.fields)} fields>"

    @override
    def __rich_repr__(self) -> list[tuple[str, str]]:
        # What rich shows, and whoever formats tracebacks with it, in the place of `__repr__`: msgspec's own gives every field (I4).
        return [("handle", self.locator.hex())]


@final
class SessionId(msgspec.Struct, frozen=True, gc=False):
    """A new id: what the record keeps of it, and the two cookie values, which nothing keeps."""

    locator: bytes
    digest: bytes
    tag_digest: bytes
    key_value: str
    addr_value: str

    def __repr__(self) -> str:
        # The cookie values are secrets: they must not reach a log or a traceback (I4).
        return f"<SessionId {self.locator.hex()}>"

    @override
    def __rich_repr__(self) -> list[tuple[str, str]]:
        return [("handle", self.locator.hex())]
