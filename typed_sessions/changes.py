"""What a request did to a record, and what comes of it: plain data and one pure function.

A store that can hold a record while it looks (a lock, a transaction) calls `apply`; a store whose server decides (a
script) does the same by the same rules. No user code runs in here: values arrive encoded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hmac import compare_digest
from typing import Literal, NamedTuple, TypeAlias, final

import msgspec
from msgspec.structs import replace

from .record import (
    FIELD,
    FIELD_FLAGS_AT,
    FIELD_HOOKED,
    HOOKED,
    NO_TAG,
    OWN_TIMEOUT,
    PERSISTENT,
    REUSED,
    TRANSIENT,
    Element,
    Previous,
    Record,
    entry_size,
    field_revision,
    head_size,
    pack_elements,
    size_of,
    unpack_elements,
)

_SEQUENCE_SHIFT = 20
"""A commit may add 2**20 elements to a list; sequences stay within 53 bits for 2**32 commits."""


@final
class Write(msgspec.Struct, eq=False):
    """One key's new value, or its removal (`payload` None). With `base`, only if the stored field is of that revision (0: not there).

    With FIELD_LIST among the flags it is a whole list, packed as in a record, in the place of what is there.
    """

    payload: bytes | None
    version: int = 1
    flags: int = 0
    base: int | None = None


@final
class ListChange(msgspec.Struct, eq=False):
    """What happened to one `ListKey`: elements are named by sequence, so that two requests never collide."""

    appended: Sequence[tuple[int, int, bytes]] = ()
    """(version, flags, payload) of each, in order."""
    prepended: Sequence[tuple[int, int, bytes]] = ()
    """In the order of the calls: the last one comes first in the list."""
    removed: Sequence[int] = ()
    """Sequences; one that is no longer there is no conflict. Any change, an empty one too, drops a field that is no list."""


@final
class Renewal(msgspec.Struct, eq=False):
    """A new secret. Applies only while `expected` is the current digest: of two renews one wins."""

    expected: bytes
    digest: bytes
    tag_digest: bytes
    address: str | None
    overlap: float
    """Seconds for which the previous secret still opens the session. With 0, a lost renew refuses the whole commit; otherwise it is left
    out, `clear` with it, and the rest is committed."""


@final
class Changes(msgspec.Struct, eq=False):
    """What a commit does, all or nothing. A use is written with it when the last written one is the record's granularity away."""

    writes: dict[str, Write] = {}
    lists: Mapping[str, ListChange] = {}
    clear: bool = False
    """Drop every field first (`renew(clear=True)`); but not where the renewal was lost to another one."""
    timeout: float | None = None
    set_timeout: bool = False
    granularity: float | None = None
    persistent: bool | None = None
    set_persistent: bool = False
    renewal: Renewal | None = None
    residents: bool = False
    """Resident values go with it: none of the store's business, but the session has to be there."""
    counts_as_use: bool = True
    """False for what is not the user's doing: a clean-up when the last client has left."""

    def remove(self, name: str, base: int) -> None:
        """Remove a field if it is still of that revision."""
        self.writes[name] = Write(None, base=base)


Status: TypeAlias = Literal["committed", "conflict", "gone", "superseded"]


@final
class Outcome(msgspec.Struct):
    """A store's answer to a commit.

    committed    applied; `record` is what is stored now
    conflict     nothing applied; `record` is what is stored now, so that a retry is one trip
    gone         no such session, or it has ended, or its absolute lifetime is over; nothing applied
    superseded   another request has renewed it first; nothing applied
    """

    status: Status
    record: Record | None = None


@final
class Use(msgspec.Struct, frozen=True, gc=False):
    """What an `open` presents. A store writes the use only if all of it fits the record, and where the address is
    merely in the same network the manager decides and touches in a trip of its own."""

    locator: bytes
    tag_digest: bytes
    """Of the secret and SESSION_ADDR, as in the record: whoever presents it has both cookies."""
    address: str | None
    any_address: bool


class Idle(NamedTuple):
    """The idle timeout that sessions without one of their own take over when a use is written, in seconds."""

    timeout: float | None
    granularity: float


GONE = Outcome("gone")


def apply(record: Record, changes: Changes, idle: Idle, now: float) -> Outcome:
    """All of `changes` upon `record` at `now` (seconds since 1970), or nothing; see `Outcome`. The record given stays as it is.

    To be stored is the outcome's record if the status is "committed", after `Limits.check(record, outcome.record)`.
    """
    if record.ending is not None or (record.deadline is not None and now >= record.deadline):
        return GONE
    renewal, clear = changes.renewal, changes.clear
    if renewal is not None and renewal.expected != record.digest:
        if not renewal.overlap:
            return Outcome("superseded", record)
        renewal, clear = None, False  # what it would have dropped is the other one's by now
    stored = record.fields
    revision = record.revision + 1
    fields = {} if clear else dict(stored)
    size = 1 if clear else record.size or size_of(stored)
    flags = record.flags
    hooked = flags & HOOKED
    for name, write in changes.writes.items():
        if write.base is not None and field_revision(stored.get(name)) != write.base:
            return Outcome("conflict", record)
        payload, before = write.payload, fields.get(name)
        if payload is not None:
            fields[name] = packed = FIELD.pack(revision, write.version, write.flags) + payload
            size += grown(name, before, len(packed))
            hooked |= write.flags & FIELD_HOOKED
        elif before is not None:
            del fields[name]
            size -= entry_size(name, len(before))
    if changes.lists:
        for name, change in changes.lists.items():
            size += _change_list(fields, name, change, revision)
    if len(fields) > 15 or len(stored) > 15:
        size += head_size(len(fields), 16) - head_size(0 if clear else len(stored), 16)
    if hooked:
        flags &= ~HOOKED
        if any(packed[FIELD_FLAGS_AT] & FIELD_HOOKED for packed in fields.values()):
            flags |= HOOKED
    after = replace(record, unpacked=fields, packed=b"", revision=revision, size=size, flags=flags, use_written=False)
    if changes.counts_as_use and not 0 <= now - record.used < record.granularity:
        _use(after, idle, now)
    if not (changes.set_persistent or changes.set_timeout or renewal):
        return Outcome("committed", after)
    if changes.set_persistent:
        after.flags &= ~(PERSISTENT | TRANSIENT)
        if changes.persistent is not None:
            after.flags |= PERSISTENT if changes.persistent else TRANSIENT
    if renewal is not None:
        after.previous = Previous(record.digest, record.tag_digest if renewal.overlap else NO_TAG, now + renewal.overlap)
        after.digest, after.tag_digest, after.address = renewal.digest, renewal.tag_digest, renewal.address
    if changes.set_timeout:
        after.timeout, after.used = changes.timeout, now
        after.granularity = idle.granularity if changes.granularity is None else changes.granularity
        after.flags |= OWN_TIMEOUT
    return Outcome("committed", after)


def grown(name: str, before: bytes | None, length: int) -> int:
    """By how many bytes a packed record grows if a field of `length` bytes takes the place of what is there `before`, or of none."""
    if before is None:
        return entry_size(name, length)
    longer = length - len(before)
    if longer and (length > 255 or len(before) > 255):
        longer += head_size(length, 0, narrow=True) - head_size(len(before), 0, narrow=True)
    return longer


def _change_list(fields: dict[str, bytes], name: str, change: ListChange, revision: int) -> int:
    """Change one list; by how many bytes it has grown."""
    size = entry_size(name, len(fields[name])) if name in fields else 0
    removed = set(change.removed)
    try:
        kept = [element for element in unpack_elements(fields.get(name)) if element.sequence not in removed]
    except ValueError:
        kept = []  # What is no list counts as absent (rule 1), and a list in its place replaces it.
    first = revision << _SEQUENCE_SHIFT
    before = [Element(-(first + n), *element) for n, element in enumerate(change.prepended)]
    after = [Element(first + n, *element) for n, element in enumerate(change.appended)]
    elements = [*reversed(before), *kept, *after]
    if elements:
        fields[name] = pack_elements(revision, elements)
        return entry_size(name, len(fields[name])) - size
    fields.pop(name, None)
    return -size


def _use(record: Record, idle: Idle, now: float) -> bool:
    # Also when the clock went back: a use "in the future" would keep the session for longer than its timeout (L10).
    if 0 <= now - record.used < record.granularity:
        return False
    record.used = now
    record.use_written = True
    if not record.flags & OWN_TIMEOUT:
        record.timeout, record.granularity = idle
    return True


def apply_use(record: Record, use: Use, idle: Idle, now: float) -> Record | None:
    """The record with this use written, or None if there is nothing to write: it does not fit, or was written lately."""
    if record.flags & REUSED and 0 <= now - record.used < record.granularity:
        return None
    if not use.tag_digest:
        return None
    previous = record.previous
    fits = compare_digest(use.tag_digest, record.tag_digest) or (
        previous is not None and previous.opens(now) and compare_digest(use.tag_digest, previous.tag_digest)
    )
    if not fits or not (use.any_address or (use.address is not None and use.address == record.address)):
        return None
    return apply_touch(record, idle, now)


def apply_touch(record: Record, idle: Idle, now: float) -> Record | None:
    """The record with a use at `now` that the caller has judged, or None if there is nothing to write or the session is over.

    `touch` answers True in the first case and False in the second (`now >= record.due`): a store looks at that, and at the digest, before.
    """
    if record.ending is not None or now >= record.due:
        return None
    after = record.copy()
    after.flags |= REUSED
    return after if _use(after, idle, now) or after.flags != record.flags else None
