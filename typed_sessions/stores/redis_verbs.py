"""The verbs of the Redis stores as data: what goes over the wire, and how to read what comes back. It knows no connection and no server.

A session is one string, what `Record.pack` gives: the head for the scripts, the fields for this side, in one reply and without the table
that Redis has for each larger hash; a script is alone while it runs, so two requests that change different keys do not collide in it. A
bucket is the first byte of the locator, 256 in all; a bucket's keys share the hash tag `{prefix:bucket}`, and with it a slot of a cluster.
Beside its sessions a bucket has one sorted set: the sessions by when somebody has to look at them, at the latest. As in a timer wheel, an
entry moves when it comes due, or sooner if the session's timeout gets shorter; what never comes due has an entry at infinity, so that
the sets are also the list of all sessions.

Redis collects what nobody sweeps: a session `KEEP` after it came due, `KEEP_HOOKED` if it has hooks, for these are to be run first; the
sorted set when the last of its sessions is collected, unless it has had one that never comes due: then its entries wait for a sweep. A
session that Redis collects has no `End` event: that is for a sweep to tell. A `reap_grace` that is longer than a week is known to sweeps
only: one of them has to look within `KEEP_HOOKED` after a session's end.

A verb is a generator: it yields commands that go in one round trip, gets their replies, and returns the result. All but `sweep` and `scan`
are one script. What is stored under one of these keys and cannot be read (another program's, a newer version's) is logged, counts as
absent, and is left where it is.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Generator, Sequence
from struct import Struct
from typing import Any, NamedTuple, TypeAlias, TypeGuard, TypeVar, final

import msgspec

from ..changes import GONE, Changes, Idle, ListChange, Outcome, Status, Use
from ..errors import PolicyError, StoreUnavailable
from ..record import END_REASONS, FIELD_HEAD, FIELD_SEALED, LOCATOR_BYTES, EndReason, Record
from .base import Created
from .limits import Limits
from .redis_scripts import CLEAR, COMMIT, CREATE, END, OPEN, SWEEP, TOUCH, Script

logger: logging.Logger = logging.getLogger("typed_sessions")

BUCKETS = 256
COMMANDS = (
    *("evalsha", "eval", "get", "set", "setrange", "del", "exists", "pttl", "pexpire", "persist"),
    *("zadd", "zrem", "zrangebyscore", "zcard", "zrange"),
)
"""What a user of the server must be allowed (ACL), by itself and in scripts."""

R = TypeVar("R")
Reply: TypeAlias = Any  # what hiredis gives: bytes, int, None, or a list of these; the reader of a verb knows which
Trips: TypeAlias = "Generator[Sequence[Command], Sequence[Reply], R]"


class Command(NamedTuple):
    """One command: its words; or, of a script, the number of its keys, these, and its arguments.

    No word is an `int`: where a signal's handler raises while hiredis makes text of one, it ends the process."""

    words: tuple[bytes | str, ...]
    script: Script | None = None


class Missing(NamedTuple):
    """In the place of a reply: the node of a cluster that was to give it could not."""

    problem: StoreUnavailable


DAMAGED = b"damaged"
"""A reply in the place of a record: what is stored under this key cannot be read, or is of another type."""

_NOW = Struct("<d")
_OPEN = Struct("<ddfB")
_TOUCH = Struct("<ddf")
_COMMIT = Struct("<ddfBdfdII")
_END = Struct("<ddB")
_SWEEP = Struct("<ddd")
_TAIL = Struct("<HB")
_encode = msgspec.msgpack.Encoder().encode

_STATUSES: dict[bytes, Status] = {b"committed": "committed", b"conflict": "conflict", b"superseded": "superseded"}


@final
class Verbs:
    """The verbs of `stores.base`, each as a generator of round trips."""

    def __init__(self, store: str, prefix: str, max_bytes: int, max_keys: int) -> None:
        if not isinstance(prefix, str) or not prefix or "{" in prefix or "}" in prefix:
            raise PolicyError(f"{store}(prefix={prefix!r}): expected some text without braces, which mark a hash tag")
        try:
            prefix.encode()
        except UnicodeEncodeError:
            raise PolicyError(f"{store}(prefix={prefix!r}): expected text that UTF-8 can hold; there is half a character in it") from None
        for name, value, most in (("max_bytes", max_bytes, 2**30), ("max_keys", max_keys, 2**20)):
            if type(value) is not int or not 1 <= value <= most:
                raise PolicyError(f"{store}({name}={value!r}): expected a whole number from 1 to {most}")
        shown = re.sub(r"[*?[\\]", r"\\\g<0>", prefix)
        shown = re.sub(r"[\t-\r ]", "?", shown)  # a rule of an ACL has no blanks
        self.acl: str = f"~{{{shown}:??}}:* {' '.join(f'+{command}' for command in COMMANDS)}"
        """The rules of a user who may do what the verbs do, and nothing else."""
        self._store = store
        self._limits = Limits(store, max_bytes, max_keys)
        self._sessions = [f"{{{prefix}:{bucket:02x}}}:s:".encode() for bucket in range(BUCKETS)]
        self._dues = [f"{{{prefix}:{bucket:02x}}}:due".encode() for bucket in range(BUCKETS)]

    # -------------------------------------------------------------- the verbs

    def create(self, record: Record, now: float) -> Trips[Created]:
        packed = record.pack()
        self._limits.check_new(record, len(packed))
        replies = yield [self._call(CREATE, record.locator, _NOW.pack(now), packed)]
        return "created" if replies[0] == b"created" else "taken"

    def open(self, locator: bytes, use: Use | None, idle: Idle, now: float) -> Trips[Record | None]:
        numbers = _OPEN.pack(now, math.inf if idle.timeout is None else idle.timeout, idle.granularity, use is not None and use.any_address)
        if use is None:
            command = self._call(OPEN, locator, numbers, b"", b"")
        else:
            command = self._call(OPEN, locator, numbers, use.tag_digest, (use.address or "").encode())
        replies = yield [command]
        return _record_of(locator, replies[0])

    def touch(self, locator: bytes, digest: bytes, idle: Idle, now: float) -> Trips[bool]:
        numbers = _TOUCH.pack(now, math.inf if idle.timeout is None else idle.timeout, idle.granularity)
        replies = yield [self._call(TOUCH, locator, numbers, digest)]
        _note_damage(locator, replies[0])
        return bool(replies[0] == 1)

    def commit(self, locator: bytes, changes: Changes, idle: Idle, now: float) -> Trips[Outcome]:
        replies = yield [self._call(COMMIT, locator, *self._commit_args(changes, idle, now))]
        reply: Reply = replies[0]
        if not _is_list(reply):
            _note_damage(locator, reply)
            return GONE
        status = _STATUSES.get(reply[0])
        if status is None:
            self._limits.refuse(reply[0].decode(), reply[1])
        record = _record_of(locator, reply[1:])
        return GONE if record is None else Outcome(status, record)

    def end(self, locator: bytes, reason: EndReason, now: float, lease: float) -> Trips[Record | None]:
        replies = yield [self._call(END, locator, _END.pack(now, lease, END_REASONS.index(reason)))]
        return _record_of(locator, replies[0])

    def sweep(self, now: float, limit: int, lease: float, grace: float) -> Trips[tuple[Sequence[Record], bool]]:
        # One trip looks what is due; only if something is, a second one deals with each, in a script of its own: its keys are known then.
        found = yield [Command(("ZRANGEBYSCORE", due, "-inf", repr(now), "LIMIT", b"0", _text(limit + 1))) for due in self._dues]
        _some_of(found)
        locators = self._locators(self._dues, found)
        if not locators:
            return [], False
        numbers = _SWEEP.pack(now, lease, grace)
        due = locators[:limit]
        replies = yield [self._call(SWEEP, locator, numbers) for locator in due]
        _some_of(replies)  # the others have ended sessions, and nobody else hears of it
        records = [record for locator, reply in zip(due, replies, strict=True) if (record := _record_of(locator, reply)) is not None]
        return records, len(locators) > limit

    def clear(self, locator: bytes, names: Sequence[str] | None) -> Trips[None]:
        args = [b"all"] if names is None else [b"some", *map(_encode, names)]
        replies = yield [self._call(CLEAR, locator, *args)]
        _note_damage(locator, replies[0])

    def scan(self, after: bytes | None, limit: int) -> Trips[tuple[Sequence[Record], bytes | None]]:
        # By locator, so that whatever comes and goes meanwhile does not move the place where it goes on. Three trips a page.
        first = 0 if after is None else after[0]
        counts = _all_of((yield [Command(("ZCARD", due)) for due in self._dues[first:]]))
        dues: list[bytes] = []
        expected = 0
        for due, count in zip(self._dues[first:], counts, strict=True):
            if count:
                dues.append(due)
                expected += count if type(count) is int else 0
            if expected >= limit:
                break
        following = first + len(counts) if expected < limit else self._dues.index(dues[-1]) + 1
        found: Sequence[Reply] = ()
        if dues:
            found = _all_of((yield [Command(("ZRANGE", due, b"0", b"-1")) for due in dues]))
        locators = sorted(locator for locator in self._locators(dues, found) if after is None or locator >= after)
        page = locators[:limit]
        records: list[Record] = []
        if page:
            replies = _all_of((yield [Command(("GET", self._session_key(locator))) for locator in page]))
            for locator, reply in zip(page, replies, strict=True):
                record = _record_of(locator, reply if reply is None or reply == DAMAGED else [0, reply])
                if record is not None and record.ending is None:
                    records.append(record)
        if len(locators) > limit:
            return records, locators[limit]
        return records, None if following == BUCKETS else bytes([following]) + bytes(LOCATOR_BYTES - 1)

    # -------------------------------------------------------------- arguments

    def _session_key(self, locator: bytes) -> bytes:
        return self._sessions[locator[0]] + locator.hex().encode()

    def _call(self, script: Script, locator: bytes, *args: bytes) -> Command:
        bucket = locator[0]
        return Command((b"2", self._sessions[bucket] + locator.hex().encode(), self._dues[bucket], *args), script)

    def _commit_args(self, changes: Changes, idle: Idle, now: float) -> list[bytes]:
        renewal = changes.renewal
        bits = changes.clear + 2 * changes.set_timeout + 4 * changes.counts_as_use
        if changes.set_persistent:
            bits += 8 + (0 if changes.persistent is None else 64 if changes.persistent else 128)
        renewed = b""
        if renewal is not None:
            bits += 32
            address = b"" if renewal.address is None else renewal.address.encode("ascii", "replace")[:255]
            renewed = renewal.expected + renewal.digest + renewal.tag_digest + address
        numbers = _COMMIT.pack(
            now,
            math.inf if idle.timeout is None else idle.timeout,
            idle.granularity,
            bits,
            math.inf if changes.timeout is None else changes.timeout,
            idle.granularity if changes.granularity is None else changes.granularity,
            0.0 if renewal is None else renewal.overlap,
            self._limits.max_bytes,
            self._limits.max_keys,
        )
        args = [numbers, renewed, _text(len(changes.writes))]
        for name, write in changes.writes.items():
            payload = b"" if write.payload is None else _TAIL.pack(write.version, write.flags) + write.payload
            args += (_encode(name), b"" if write.base is None else _text(write.base), payload)
        for name, change in changes.lists.items():
            args += _list_args(name, change)
        return args

    def _locators(self, dues: Sequence[bytes], found: Sequence[Reply]) -> list[bytes]:
        locators: list[bytes] = []
        for due, members in zip(dues, found, strict=True):
            if type(members) is Missing:
                continue
            if members == DAMAGED:
                logger.error("%s of %s is no sorted set: the sessions of a bucket cannot be swept", due.decode(), self._store)
                continue
            for member in members:
                try:
                    locator = bytes.fromhex(member.decode("ascii"))
                except ValueError:
                    locator = b""
                if len(locator) == LOCATOR_BYTES and self._dues[locator[0]] == due:
                    locators.append(locator)
                else:
                    logger.error("%r in %s of %s is no session", member, due.decode(), self._store)
        return locators


def _text(number: int) -> bytes:
    return b"%d" % number


def _list_args(name: str, change: ListChange) -> list[bytes]:
    sealed = 0
    for _, flags, _ in (*change.appended, *change.prepended):
        sealed |= flags & FIELD_SEALED
    return [
        _encode(name),
        _text(sealed),
        _text(len(change.removed)),
        _text(len(change.prepended)),
        _text(len(change.appended)),
        *map(_text, change.removed),
        # Each without its sequence, which comes of the revision: what follows the array's head.
        *(_encode(element)[1:] for element in change.prepended),
        *(_encode(element)[1:] for element in change.appended),
    ]


# ------------------------------------------------------------------ replies


def _all_of(replies: Sequence[Reply]) -> Sequence[Reply]:
    """Raise what has kept one of them away."""
    for reply in replies:
        if type(reply) is Missing:
            raise reply.problem
    return replies


def _some_of(replies: Sequence[Reply]) -> None:
    """Raise what has kept all of them away; log it if there are others."""
    missing = [reply for reply in replies if type(reply) is Missing]
    if missing and len(missing) == len(replies):
        raise missing[0].problem
    if missing:
        logger.warning("%d of %d parts of a sweep could not be done: %s", len(missing), len(replies), missing[0].problem)


def _is_list(reply: Reply) -> TypeGuard[list[Any]]:
    return type(reply) is list


def _note_damage(locator: bytes, reply: Reply) -> None:
    if reply == DAMAGED:
        logger.error("the session %s in Redis cannot be read; it counts as absent, and stays as it is", locator.hex())


def _record_of(locator: bytes, reply: Reply) -> Record | None:
    """The record of a reply: [whether a use was written, the packed record]; None for anything else."""
    if not _is_list(reply):
        _note_damage(locator, reply)
        return None
    written: int
    packed: bytes
    written, packed = reply
    try:
        record = Record.unpack(locator, packed)
        fields = record.fields
    except (ValueError, msgspec.MsgspecError):
        _note_damage(locator, DAMAGED)
        return None
    if fields and min(map(len, fields.values())) < FIELD_HEAD:
        short = [name for name, field in fields.items() if len(field) < FIELD_HEAD]
        logger.error("the session %s in Redis has fields that cannot be read: %r", locator.hex(), short)
        flags = record.flags
        record = record.copy({name: field for name, field in fields.items() if name not in short})
        record.flags = flags  # what could not be read may be the one that has hooks
    record.use_written = bool(written)
    return record
