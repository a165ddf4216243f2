"""The way of nearly every request, in one piece: a session in memory that is in use, and values that nothing but an assignment changes.

Each method does the whole of it or nothing, and says which: a request for which it has done nothing goes the way of all others, through the
layers, as if it had not been here. So a condition in here only has to be enough for both ways to come to the same. Whatever is to be done
where it does not hold is decided in one place, and that is not here.
"""

from __future__ import annotations

from binascii import a2b_base64
from hashlib import sha256
from hmac import compare_digest
from typing import Final, final

from msgspec.structs import replace

from .changes import grown
from .cookies import MAX_HEADER, MAX_PAIRS
from .core import Core
from .exchange import Exchange
from .lifecycle import ADDR_LENGTH, KEY_LENGTH, TO_STANDARD, first_record, issue
from .record import FIRST_REVISION, HOOKED, LOCATOR_BYTES, REUSED, REVISION_BYTES, TAG_DIGEST_BYTES, Record
from .session import Session
from .stores.memory import MemoryStore
from .tracking import Tracking

_NEAR: Final = 3 * (MAX_PAIRS - 2)
"""Characters: a pair and its semicolon are three at least, so of what begins before here two pairs are within the parser's caps."""
_ADDR_END: Final = ADDR_LENGTH + 2
_ENDS: Final = ("; ", "")
_FEW: Final = 15
"""How many fields have a packed form in which their number takes one byte."""


@final
class Express:
    """The short way of one manager, whose store is a `MemoryStore`. Of a method that has done nothing comes None, or False."""

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
        stem = cookies.stem
        before, _, rest = header.partition(cookies.key_equals)
        if not rest:
            if stem in header or (core.options.create if guard.create is None else guard.create) != "on_write":
                return None
            record = None
        else:
            key, _, rest = rest.partition(cookies.addr_follows)
            if (
                # No other cookie has one of these names: it would begin with the stem, and no part of a name can hide its beginning.
                stem in before
                or stem in rest
                # These are two names, and not the ends of others; and what the values begin with is all of them.
                or (before and before[-2:] != "; ")
                or len(key) != KEY_LENGTH
                or rest[ADDR_LENGTH:_ADDR_END] not in _ENDS
                # Nothing of this is beyond the caps of the parser.
                or len(header) > MAX_HEADER
                or (len(before) > _NEAR and header.count(";") >= MAX_PAIRS)
            ):
                return None
            try:
                raw = a2b_base64(key.encode().translate(TO_STANDARD))
                digest = sha256(raw[LOCATOR_BYTES:] + rest[:ADDR_LENGTH].encode()).digest()
            except ValueError:  # no base64, or text that cannot be encoded
                return None
            record = self._store.in_use(raw[:LOCATOR_BYTES])
            if (
                record is None
                # Also where the decoder has skipped what is illegal: then there is less to be hashed than of any session.
                or not compare_digest(digest[:TAG_DIGEST_BYTES], record.tag_digest)
                or address != record.address
                or not record.flags & REUSED
                or not 0 <= now - record.used < record.granularity
                or (record.deadline is not None and now >= record.deadline)
            ):
                return None
            exchange.verdict = "live"
        if guard.lasting or guard.has_clients or exchange.failing:
            header = before = rest = key = ""  # as above
            raw = digest = b""
            return core.hand_out(exchange, record, now)
        tracking = exchange.tracking = Tracking(core, record, address, now, exchange, exchange.headers_sent)
        if record is not None:
            core.came(record, address, now)
        session = exchange.session = Session(tracking)
        return session

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
            not record.unpacked
            or record.flags & HOOKED
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
        revision, size = record.revision + 1, record.size
        head, fields = revision.to_bytes(REVISION_BYTES, "little"), {**record.fields}
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
        return after if self._store.swap(record, after) else None

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
        session_id = issue(core.draw)
        record = first_record(session_id, address, fields, core.options, core.idle, now)
        if not self._store.begin(record, now):
            return None
        exchange.issued = core.issued(session_id)
        exchange.verdict = "live"
        exchange.created = True
        core.connect(exchange, record, now)
        return record


def express_of(core: Core) -> Express | None:
    """The short way of a manager, if there is one: for what is sealed there is none."""
    return Express(core, core.store) if type(core.store) is MemoryStore and core.plain else None
