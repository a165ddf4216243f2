"""What one request sees of a session and what it has done to it. No I/O, no clock, no cookies.

Every value that is looked at becomes a *slot*. A slot knows the stored field it came from, and how the request changed it:

    READ      decoded, not assigned; at the commit a mutable one is compared with what is stored (rule 5)
    ASSIGNED  set whatever is stored by then: the last commit wins
    UPDATED   functions to apply to whatever is stored by then; `value` is this request's view of the result
    DELETED   removed whatever is stored by then

`changes` turns the slots into what a store is told; `rebase` makes them fit what another request stored meanwhile; `committed`
takes over what is stored now. These three are the middle of every commit: nothing between them waits.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol, TypeAlias, final

from .changes import Changes, ListChange, Write
from .clients import Client
from .codecs import DecodeRefused
from .errors import HeadersSent, KeyTypeError, PolicyError, Rejected, SessionClosed, SessionEnded
from .keys import AnyKey, Key, ListKey, known_key
from .record import FIELD_HOOKED, FIELD_SEALED, Record, field_revision, unpack_elements, unpack_field
from .residents import ABSENT, ResidentChange
from .sealing import SealingKeys

logger = logging.getLogger("typed_sessions")

Mode: TypeAlias = Literal["read", "assigned", "updated", "deleted"]
Updater: TypeAlias = Callable[[Any], Any]  # Any: values of all keys meet here; the typed face is session.py


class Surroundings(Protocol):
    """What a session's view needs of the manager that made it, without I/O."""

    @property
    def seal(self) -> SealingKeys | None: ...
    def residents_of(self, locator: bytes) -> Mapping[str, object]: ...
    def clients_of(self, locator: bytes) -> Sequence[Client]: ...
    def check_hooks(self, key: Key[Any]) -> None:
        """Raise `KeyTypeError` for a key whose hooks this manager could not call: coroutine functions, in a synchronous one."""


@final
class Slot:
    __slots__ = ("base", "default", "encoded", "functions", "in_place", "key", "mode", "present", "refused", "stored", "value", "version")

    def __init__(self, key: Key[Any]) -> None:
        self.key = key
        self.mode: Mode = "read"
        self.present = False
        self.value: Any = None
        self.base = 0
        self.stored: bytes | None = None
        self.version = 0
        self.refused = False
        self.encoded: bytes | None = None
        self.functions: tuple[Updater, ...] = ()
        self.default: object = ABSENT
        self.in_place = False


@final
class Item:
    """One element of a list as this request sees it; `sequence` is None for one that it has added."""

    __slots__ = ("front", "payload", "sequence", "value")

    def __init__(self, value: object, sequence: int | None, payload: bytes, front: bool) -> None:
        self.value = value
        self.sequence = sequence
        self.payload = payload
        self.front = front


@final
class ListSlot:
    __slots__ = ("items", "key", "refused", "removed")

    def __init__(self, key: ListKey[Any]) -> None:
        self.key = key
        self.items: list[Item] = []
        self.refused: list[int] = []
        self.removed: list[int] = []


@final
class Tracking:
    """The state behind a `Session` or a `SessionView`."""

    __slots__ = (
        "around",
        "address",
        "clear",
        "closed",
        "created_at",
        "default_timeout",
        "discarding",
        "end_asked",
        "fields",
        "headers_sent",
        "lists",
        "now",
        "old_secret",
        "over",
        "owner",
        "lasting",
        "persistent",
        "persistent_set",
        "record",
        "refusals",
        "renew_asked",
        "renew_overlap",
        "slots",
        "timeout",
        "timeout_set",
    )

    def __init__(
        self, around: Surroundings, record: Record | None, *, address: str | None, now: float, default_timeout: float | None, overlap: float
    ) -> None:
        self.around = around
        self.record = record
        self.fields: Mapping[str, bytes] | None = None
        self.slots: dict[str, Slot] = {}
        self.lists: dict[str, ListSlot] | None = None
        self.address = address
        self.now = now
        self.default_timeout = default_timeout
        self.closed = False
        self.discarding = False
        """What is written goes nowhere: the session has ended, and a listener of its end is looking."""
        self.headers_sent = False
        self.old_secret = False
        self.over = False
        self.end_asked = False
        self.renew_asked = False
        self.renew_overlap = overlap
        self.clear = False
        self.timeout_set = False
        self.timeout: float | None = None
        self.persistent_set = False
        self.persistent = False
        self.lasting = False
        """Whether the policy has a Max-Age, so that `persistent` can be True."""
        self.owner: object = None
        """The exchange that this session is part of, for the manager."""
        self.refusals: list[tuple[str, str]] | None = None

    # -------------------------------------------------------------- reading

    def slot(self, key: Key[Any]) -> Slot:
        """The slot of a key, decoded at the first look."""
        if self.closed:
            self.refuse_closed()
        slot = self.slots.get(key.name)
        if slot is not None:
            return slot
        slot = self.slots[key.name] = Slot(key)
        record = self.record
        if record is None or self.clear:
            return slot
        codec = key.codec
        if codec is None:
            value = self.around.residents_of(record.locator).get(key.name, ABSENT)
            slot.present = value is not ABSENT
            slot.value = value if slot.present else None
            return slot
        fields = self.fields
        if fields is None:
            fields = self.fields = record.fields
        packed = fields.get(key.name)
        if packed is not None:
            self._decode(slot, packed, record.locator)
        return slot

    def _decode(self, slot: Slot, packed: bytes, locator: bytes) -> None:
        key = slot.key
        slot.base, slot.version, flags, payload = unpack_field(packed)
        try:
            payload = self._unsealed(key.name, flags, payload, locator)
            slot.value = key.load(payload, slot.version)
            slot.stored = payload
            slot.present = True
        except DecodeRefused as problem:
            slot.refused = True
            self._report(key, str(problem))

    def _unsealed(self, name: str, flags: int, payload: bytes, locator: bytes) -> bytes:
        seal = self.around.seal
        if flags & FIELD_SEALED:
            if seal is None:
                raise DecodeRefused("it is sealed, and this manager has no seal=")
            return seal.open(locator, name, payload)
        if seal is not None and not seal.read_plain:
            # Otherwise whoever can write to the store could plant a plain value (X6).
            raise DecodeRefused("it is not sealed; SealingKeys(..., read_plain=True) reads such values while a store is being sealed")
        return payload

    def _report(self, key: AnyKey, why: str) -> None:
        logger.warning("a stored value of %r was refused and counts as absent: %s", key, why)
        if self.refusals is None:
            self.refusals = []
        self.refusals.append((key.name, why))

    def list_slot(self, key: ListKey[Any]) -> ListSlot:
        if self.closed:
            self.refuse_closed()
        if self.lists is None:
            self.lists = {}
        slot = self.lists.get(key.name)
        if slot is not None:
            return slot
        slot = self.lists[key.name] = ListSlot(key)
        record = self.record
        if record is None or self.clear:
            return slot
        self._read_list(slot, record)
        return slot

    def _read_list(self, slot: ListSlot, record: Record) -> None:
        key = slot.key
        for element in unpack_elements(record.fields.get(key.name)):
            if element.sequence in slot.removed:
                continue
            try:
                payload = self._unsealed(key.name, element.flags, element.payload, record.locator)
                slot.items.append(Item(key.load(payload, element.version), element.sequence, payload, False))
            except DecodeRefused as problem:
                slot.refused.append(element.sequence)
                self._report(key, str(problem))

    def names(self) -> list[str]:
        """The names of all that is there and has a key in this process."""
        if self.closed:
            self.refuse_closed()
        names: dict[str, None] = {}
        if self.record is not None and not self.clear:
            names.update(dict.fromkeys(self.record.fields))
            names.update(dict.fromkeys(self.around.residents_of(self.record.locator)))
        names.update(dict.fromkeys(self.slots))
        names.update(dict.fromkeys(self.lists or ()))
        return [name for name in names if self._has(name)]

    def _has(self, name: str) -> bool:
        key = known_key(name)
        if key is None:
            return False
        return bool(self.list_slot(key).items) if isinstance(key, ListKey) else self.slot(key).present

    # -------------------------------------------------------------- writing

    def before_write(self, what: AnyKey) -> None:
        if self.closed:
            self.refuse_closed()
        if self.over or self.end_asked:
            raise SessionEnded(f"{what!r} cannot be written: the session has ended")
        if self.headers_sent and self.record is None and not self.discarding:
            raise HeadersSent(
                f"{what!r} cannot be written any more: the response's headers have left, so the cookie of a new session could not be sent; "
                "write before the response starts, or use create=True"
            )

    def assign(self, key: Key[Any], value: object) -> None:
        self.before_write(key)
        if key.has_hooks:
            self.around.check_hooks(key)
        codec = key.codec
        slot = self.slots.get(key.name)
        if slot is None:
            slot = self.slots[key.name] = Slot(key)
        slot.encoded = self._accepted(key, value) if codec is not None else None
        slot.value = value
        slot.present = True
        slot.mode = "assigned"
        slot.functions = ()

    def delete(self, key: AnyKey) -> None:
        self.before_write(key)
        if isinstance(key, ListKey):
            items = self.list_slot(key)
            if not items.items and not items.refused:
                raise KeyError(key)
            self.clear_list(key)
            return
        slot = self.slot(key)
        if not slot.present and not slot.refused:
            raise KeyError(key)
        slot.present = slot.refused = False
        slot.value = None
        slot.mode = "deleted"
        slot.functions = ()

    def update(self, key: Key[Any], change: Updater, default: object) -> object:
        self.before_write(key)
        if key.has_hooks:
            self.around.check_hooks(key)
        slot = self.slot(key)
        codec = key.codec
        if not slot.present and default is ABSENT:
            raise KeyError(key)
        unconditional = slot.mode in ("assigned", "deleted")
        in_place = slot.in_place or (slot.mode == "updated" and self._changed_since_update(slot))
        if slot.mode == "read" and slot.present and codec is not None:
            in_place = self._changed_in_place(slot) is not None
        if not slot.present:
            if not unconditional and not slot.functions:
                # Kept encoded: a function that changes its argument would change this default, and a repetition would begin from that.
                slot.default = self._accepted(key, default) if codec is not None else default
            argument = default
        else:
            argument = slot.value
        value = change(argument)
        encoded = self._accepted(key, value) if codec is not None else None
        slot.value, slot.encoded, slot.present, slot.in_place = value, encoded, True, in_place
        if unconditional:
            slot.mode = "assigned"
        else:
            slot.mode = "updated"
            slot.functions = (*slot.functions, change)
        return value

    def _accepted(self, key: Key[Any], value: object) -> bytes:
        codec = key.codec
        assert codec is not None
        try:
            return codec.accept(value)
        except KeyTypeError as problem:
            raise KeyTypeError(f"{key!r}: {problem}") from problem

    def append(self, key: ListKey[Any], value: object, front: bool) -> None:
        self.before_write(key)
        slot = self.list_slot(key)
        try:
            item = Item(value, None, key.codec.accept(value), front)
        except KeyTypeError as problem:
            raise KeyTypeError(f"{key!r}: {problem}") from problem
        if front:
            slot.items.insert(0, item)
        else:
            slot.items.append(item)

    def remove_where(self, key: ListKey[Any], match: Callable[[Any], bool], first: bool) -> int:
        self.before_write(key)
        slot = self.list_slot(key)
        removed = 0
        kept: list[Item] = []
        for item in slot.items:
            if (first and removed) or not match(item.value):
                kept.append(item)
                continue
            removed += 1
            if item.sequence is not None:
                slot.removed.append(item.sequence)
        slot.items = kept
        return removed

    def clear_list(self, key: ListKey[Any]) -> None:
        self.remove_where(key, lambda _: True, False)
        slot = self.list_slot(key)
        slot.removed += slot.refused
        slot.refused = []

    def ask_renew(self, overlap: float | None, clear: bool) -> None:
        self._before_lifecycle("renewed")
        if overlap is not None and (isinstance(overlap, bool) or not 0 <= overlap < math.inf):
            raise PolicyError(f"renew(overlap={overlap!r}): expected a number of seconds, 0 or more")
        if self.headers_sent:
            raise HeadersSent(
                "the session cannot be renewed any more: the response's headers have left without the new cookie; renew earlier"
            )
        seconds = self.renew_overlap if overlap is None else overlap
        if self.old_secret:
            if seconds:
                return  # Somebody has just renewed, which is all that a routine rotation wants.
            raise Rejected(
                "renewed", 409, (), "the session was renewed by another request; this one came with the previous id and may not renew"
            )
        self.renew_asked = True
        self.renew_overlap = seconds
        if clear:
            self.clear = True
            self.slots.clear()
            self.lists = None

    def ask_end(self) -> None:
        if self.closed:
            self.refuse_closed()
        self.end_asked = True

    def set_timeout(self, seconds: float | None) -> None:
        self._before_lifecycle("changed")
        check_timeout("session.timeout", seconds)
        self.timeout = seconds
        self.timeout_set = True

    def set_persistent(self, persistent: bool) -> None:
        self._before_lifecycle("changed")
        if type(persistent) is not bool:
            raise PolicyError(
                f"session.persistent = {persistent!r}: expected True (a cookie with Max-Age) or False (until the browser closes)"
            )
        if persistent and not self.lasting:
            raise PolicyError(
                "session.persistent = True: the cookie policy has no max_age to give the cookie; use CookiePolicy(max_age=...)"
            )
        if self.headers_sent:
            raise HeadersSent("session.persistent cannot be set any more: the response's headers have left with the cookie as it was")
        self.persistent = persistent
        self.persistent_set = True

    def _before_lifecycle(self, verb: str) -> None:
        if self.closed:
            self.refuse_closed()
        if self.over or self.end_asked:
            raise SessionEnded(f"the session cannot be {verb}: it has ended")

    def refuse_closed(self) -> None:
        raise SessionClosed(
            "the session was used after its request had been finished; take what you need out of it before, "
            "or open it again with manager.edit(handle)"
        )

    # -------------------------------------------------------------- committing

    def changes(self, locator: bytes | None = None) -> Changes | None:
        """What to tell the store, or None if nothing was done. `locator` is that of a session about to be created.

        Raises what an encoder raises: a value changed in place into something that its key cannot carry.
        """
        writes: dict[str, Write] | None = None
        for slot in self.slots.values():
            if slot.mode == "read":
                codec = slot.key.codec
                if codec is None or not codec.mutable or not slot.present:
                    continue
                payload = self._changed_in_place(slot)
                if payload is None:
                    continue
                slot.in_place, slot.encoded = True, payload
                base: int | None = slot.base
            elif slot.mode == "deleted":
                if slot.key.codec is None:
                    continue
                payload, base = None, None
            else:
                codec = slot.key.codec
                if codec is None:
                    continue
                if codec.mutable:
                    # It may have been changed in place since it was assigned.
                    if slot.mode == "updated" and not slot.in_place:
                        slot.in_place = self._changed_since_update(slot)
                    if codec.comparable:
                        slot.encoded = self._accepted(slot.key, slot.value)
                payload = slot.encoded
                base = slot.base if slot.mode == "updated" else None
            if writes is None:
                writes = {}
            writes[slot.key.name] = self._write(slot.key, payload, base, locator)
        lists = self._list_changes(locator) if self.lists else None
        residents = self._residents_changed()
        if not (writes or lists or self.timeout_set or self.persistent_set or self.clear or self.renew_asked or residents):
            return None
        changes = Changes(writes)
        if lists:
            changes.lists = lists
        changes.residents = residents
        if self.clear or self.timeout_set or self.persistent_set:
            changes.clear = self.clear
            changes.timeout, changes.set_timeout = self.timeout, self.timeout_set
            changes.persistent, changes.set_persistent = self.persistent, self.persistent_set
        return changes

    def _write(self, key: Key[Any], payload: bytes | None, base: int | None, locator: bytes | None) -> Write:
        flags = FIELD_HOOKED if key.has_hooks else 0
        seal = self.around.seal
        if seal is not None and payload is not None:
            payload = seal.seal(self._locator(locator), key.name, payload)
            flags |= FIELD_SEALED
        return Write(payload, key.version, flags, base)

    def _locator(self, locator: bytes | None) -> bytes:
        if locator is not None:
            return locator
        assert self.record is not None
        return self.record.locator

    def _list_changes(self, locator: bytes | None) -> dict[str, ListChange] | None:
        if not self.lists:
            return None
        found: dict[str, ListChange] = {}
        for name, slot in self.lists.items():
            new = [item for item in slot.items if item.sequence is None]
            if new or slot.removed:
                found[name] = ListChange(
                    appended=[self._element(slot.key, item, locator) for item in new if not item.front],
                    prepended=[self._element(slot.key, item, locator) for item in reversed(new) if item.front],
                    removed=tuple(slot.removed),
                )
        return found

    def _element(self, key: ListKey[Any], item: Item, locator: bytes | None) -> tuple[int, int, bytes]:
        seal = self.around.seal
        if seal is None:
            return key.version, 0, item.payload
        return key.version, FIELD_SEALED, seal.seal(self._locator(locator), key.name, item.payload)

    def _changed_in_place(self, slot: Slot) -> bytes | None:
        """The encoding of a value that was read, if it is another one now."""
        codec = slot.key.codec
        if codec is None or not codec.mutable or not codec.comparable or slot.stored is None:
            return None
        try:
            payload = codec.encode(slot.value)
        except KeyTypeError:
            payload = b""
        if payload == slot.stored:
            return None
        # Encoders need not be stable and upgrades change bytes: what counts is whether a fresh look at the store gives the same.
        # A planted value may decode and not encode again; then it is the same too, and a reader never fails for it.
        try:
            fresh = slot.key.load(slot.stored, slot.version)
            if codec.encode(fresh) == payload:
                return None
        except DecodeRefused:
            return None
        except KeyTypeError:
            return None if payload == b"" else payload
        return self._accepted(slot.key, slot.value)

    def _changed_since_update(self, slot: Slot) -> bool:
        codec = slot.key.codec
        if codec is None or not codec.mutable or not codec.comparable or slot.encoded is None:
            return False
        return codec.encode(slot.value) != slot.encoded

    def _residents_changed(self) -> bool:
        return any(slot.key.codec is None and slot.mode != "read" for slot in self.slots.values())

    def resident_changes(self) -> list[ResidentChange]:
        """What to do to the resident values once the store has committed."""
        found: list[ResidentChange] = []
        for name, slot in self.slots.items():
            if slot.key.codec is not None or slot.mode == "read":
                continue
            if slot.mode == "updated":
                found.append(ResidentChange(name, ABSENT, slot.functions, slot.default))
            else:
                found.append(ResidentChange(name, slot.value if slot.present else ABSENT))
        return found

    def rebase(self, current: Record) -> list[str]:
        """Make every conditional change fit what is stored now. The names of those whose other change is overwritten (`LostUpdate`).

        Runs `update` functions and `merge` again; what they raise goes to the caller, and nothing has been applied.
        """
        lost: list[str] = []
        for slot in self.slots.values():
            key = slot.key
            codec = key.codec
            if codec is None or not (slot.mode == "updated" or slot.in_place):
                continue
            packed = current.fields.get(key.name)
            if field_revision(packed) == slot.base:
                continue
            theirs = Slot(key)
            if packed is not None:
                self._decode(theirs, packed, current.locator)
            if slot.in_place:
                if key.merge is not None and theirs.present and slot.stored is not None:
                    slot.value = key.merge(key.load(slot.stored, slot.version), slot.value, theirs.value)
                    slot.encoded = self._accepted(key, slot.value)
                else:
                    lost.append(key.name)
            elif theirs.present or slot.default is not ABSENT:
                value: Any = theirs.value if theirs.present else codec.decode(slot.default)  # type: ignore[arg-type]  # bytes, since it has a codec
                for function in slot.functions:
                    value = function(value)
                slot.value, slot.encoded = value, self._accepted(key, value)
            else:
                # There is nothing left to update, and no default: the other request's removal stands.
                slot.present, slot.mode, slot.value, slot.functions = False, "read", None, ()
                lost.append(key.name)
            slot.base, slot.stored, slot.version = theirs.base, theirs.stored, theirs.version
        return lost

    def committed(self, record: Record, residents: Mapping[str, object]) -> None:
        """Take over what is stored now: the next change in this request starts from it."""
        self.record = record
        self.fields = None
        for name, slot in self.slots.items():
            if slot.key.codec is None:
                if slot.mode != "read":
                    value = residents.get(name, ABSENT)
                    slot.present, slot.value = value is not ABSENT, None if value is ABSENT else value
            elif slot.mode != "read" or slot.in_place:
                packed = record.fields.get(name)
                slot.base = field_revision(packed)
                slot.stored = None if packed is None else slot.encoded
                slot.version = slot.key.version
            else:
                continue
            slot.mode, slot.functions, slot.in_place, slot.default = "read", (), False, ABSENT
        self.lists = None
        self.clear = self.renew_asked = self.timeout_set = self.persistent_set = False

    def refreshed(self, record: Record) -> None:
        """Take over what others have stored; what this request has changed and not committed stays as it is."""
        self.record = record
        self.fields = None
        for name, slot in list(self.slots.items()):
            if slot.mode == "read" and self._changed_in_place(slot) is None:
                del self.slots[name]
        for items in (self.lists or {}).values():
            new = [item for item in items.items if item.sequence is None]
            items.items, items.refused = [], []
            self._read_list(items, record)
            items.items = [*(item for item in new if item.front), *items.items, *(item for item in new if not item.front)]

    def changed_names(self) -> tuple[str, ...]:
        """The names of the keys that hold uncommitted changes, as far as that can be told without running a codec."""
        names = [name for name, slot in self.slots.items() if slot.mode != "read"]
        names += [name for name, items in (self.lists or {}).items() if items.removed or any(i.sequence is None for i in items.items)]
        return tuple(names)

    def forget_changes(self) -> None:
        """Drop everything that was not committed."""
        self.slots.clear()
        self.lists = None
        self.clear = self.renew_asked = self.end_asked = self.timeout_set = self.persistent_set = False


def check_timeout(option: str, seconds: float | None) -> None:
    """Raise `PolicyError` unless it is None or a positive, finite number of seconds."""
    if seconds is None:
        return
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 < seconds < math.inf:
        hint = "; None is never" if seconds == 0 else ""
        raise PolicyError(f"{option} = {seconds!r}: expected a positive number of seconds, or None{hint}")
