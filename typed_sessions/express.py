"""The way of nearly every request, in one piece: a session in memory that is in use, and values that nothing but an assignment changes.

Each way does the whole of it or nothing, and says which: a request for which it has done nothing goes the way of all others, through the
layers, as if it had not been here. So a condition in here only has to be enough for both ways to come to the same. Whatever is to be done
where it does not hold is decided in one place, and that is not here.
"""

from __future__ import annotations

from hmac import compare_digest
from typing import Final, Protocol, final

from msgspec.structs import replace

from .changes import grown
from .core import Core
from .exchange import Exchange
from .lifecycle import first_record, issue, present_at_once
from .record import FIRST_REVISION, HOOKED, LOCATOR_BYTES, REUSED, REVISION_BYTES, Record, size_of
from .session import Session
from .stores.memory import MemoryStore
from .stores.sqlite import SQLiteStore
from .tracking import Tracking

_FEW: Final = 15
"""How many fields have a packed form in which their number takes one byte."""


class Swaps(Protocol):
    """A store that holds records as they are, and takes one at once."""

    def begin(self, record: Record, now: float, /) -> bool:
        """`create`, if that is nothing but to put it here; else False, and nothing is done. Raises what `create` raises."""
        ...

    def swap(self, record: Record, after: Record, /) -> bool:
        """Put a record in the place of another of the same `due`, if that is what is here; else False, and nothing is done.

        Raises what `commit` raises.
        """
        ...


@final
class ShortOpening:
    """The short way to a request's session, where that is a look into memory."""

    __slots__ = ("_core", "_store")

    def __init__(self, core: Core, store: MemoryStore) -> None:
        self._core = core
        self._store = store

    def open(self, exchange: Exchange) -> Session | None:
        """The session of a request whose two cookies stand side by side, as browsers send back what came in one answer; or of none."""
        core, guard = self._core, exchange.guard
        now = core.clock()
        if not core.calm_since <= now < core.next_sweep or not core.enabled or guard.check is not None:
            return None
        peer, https, header = guard.basics(exchange.source)
        exchange.looked = True
        try:
            address, told = core.origin_behind(guard, exchange.source, peer) if core.trusts else core.origin_of(peer)
        except BaseException:
            header = ""  # a traceback may be shown with the locals of its frames, and those are secrets (I4)
            raise
        if address is None:
            return None
        exchange.address = address
        cookies = exchange.cookies = guard.cookies[https if told is None else told]
        if cookies.stem not in header:
            if (core.options.create if guard.create is None else guard.create) != "on_write":
                return None
            raw, record = b"", None
        else:
            at_once = present_at_once(cookies, header)
            if at_once is None:
                return None
            raw, tag_digest = at_once
            record = self._store.in_use(raw[:LOCATOR_BYTES])
            if (
                record is None
                or not compare_digest(tag_digest, record.tag_digest)
                or address != record.address
                or not record.flags & REUSED
                or not 0 <= now - record.used < record.granularity
                or (record.deadline is not None and now >= record.deadline)
            ):
                return None
            exchange.verdict = "live"
        if guard.lasting or guard.has_clients or exchange.failing:
            header, raw, at_once = "", b"", None  # as above
            return core.hand_out(exchange, record, now)
        tracking = exchange.tracking = Tracking(core, record, address, now, exchange, exchange.headers_sent)
        if record is not None:
            core.came(record, address, now)
        session = exchange.session = Session(tracking)
        return session


@final
class ShortCommit:
    """The short way of what a request has done into a store."""

    __slots__ = ("_core", "_store")

    def __init__(self, core: Core, store: Swaps) -> None:
        self._core = core
        self._store = store

    def commit(self, exchange: Exchange) -> bool:
        """Commit values that were assigned and that nothing else can have changed, where no other request has written to the session."""
        core, tracking = self._core, exchange.tracking
        if tracking is None or not core.is_plain(tracking) or exchange.turn is not None or exchange.resend_due:
            return False
        if not tracking.slots or tracking.lists:
            return False
        record, now = tracking.record, core.clock()
        if record is None:
            written = self._begin(exchange, tracking, now)
        elif (
            record.flags & HOOKED
            or not 0 <= now - record.used < record.granularity
            or (record.deadline is not None and now >= record.deadline)
        ):
            return False
        else:
            written = self._write(record, tracking)
        if written is None:
            return False
        for name, slot in tracking.slots.items():
            tracking.values[name] = slot.value
        tracking.record, tracking.slots, tracking.touched = written, {}, False
        if tracking.lasting:
            tracking.persistent = tracking.is_persistent(written)
        return True

    def _write(self, record: Record, tracking: Tracking) -> Record | None:
        stored, revision = record.fields, record.revision + 1
        size = record.size or size_of(stored)
        head, fields = revision.to_bytes(REVISION_BYTES, "little"), {**stored}
        for name, slot in tracking.slots.items():
            key, payload = slot.key, slot.encoded
            if slot.mode != "assigned" or payload is None or not key.direct or key.has_hooks:
                return None
            before = fields.get(name)
            packed = fields[name] = head + key.head + payload
            size += grown(name, before, len(packed))
        if len(fields) > _FEW:
            return None
        after = replace(record, unpacked=fields, packed=b"", revision=revision, size=size)
        try:
            return after if self._store.swap(record, after) else None
        except BaseException as problem:
            tracking.unanswered(problem)
            raise

    def _begin(self, exchange: Exchange, tracking: Tracking, now: float) -> Record | None:
        core, address = self._core, exchange.address
        fields: dict[str, bytes] = {}
        for name, slot in tracking.slots.items():
            key, payload = slot.key, slot.encoded
            if slot.mode != "assigned" or payload is None or not key.direct or key.has_hooks:
                return None
            fields[name] = FIRST_REVISION + key.head + payload
        if address is None or core.has_listeners:
            return None
        if core.looks > 0:
            core.look_for_proxy(exchange)
        session_id = issue(core.draw)
        record = first_record(session_id, address, fields, core.options, core.idle, now)
        try:
            begun = self._store.begin(record, now)
        except BaseException as problem:
            tracking.unanswered(problem)
            raise
        if not begun:
            return None
        exchange.issued = core.issued(session_id)
        exchange.verdict = "live"
        exchange.created = True
        core.connect(exchange, record, now)
        return record


def short_opening_of(core: Core, store: object) -> ShortOpening | None:
    """The short way to the sessions in a store that nobody waits for, if there is one: for what is sealed there is none."""
    return ShortOpening(core, store) if type(store) is MemoryStore and core.plain else None


def short_commit_of(core: Core, store: object) -> ShortCommit | None:
    """The short way of commits into a store that is called as it is, if there is one; as above."""
    return ShortCommit(core, store) if isinstance(store, (MemoryStore, SQLiteStore)) and core.plain else None
