"""What comes of a request's view of a session when it is committed. No I/O, no clock, no cookies.

`changes` turns the view into what a store is told; `rebase` makes it fit what another request stored meanwhile; `committed` takes over
what is stored now. These three are the middle of every commit: nothing between them waits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, final

from typing_extensions import override

from .changes import Changes, ListChange, Write
from .codecs import TypedCodec
from .errors import KeyTypeError, SessionError, StoreUnavailable, TooLarge
from .keys import Key, ListKey
from .record import FIELD_COPY, FIELD_HOOKED, FIELD_SEALED, FIELD_TWIN, Record, field_revision, unpack_field
from .residents import ABSENT, ResidentChange
from .slots import Item, ListSlot, Slot
from .view import View, encoded, logger


@final
class Tracking(View, eq=False):
    """The state behind a `Session` or a `SessionView`."""

    if TYPE_CHECKING:  # what is assigned here is `View`'s; declared once more it would be another field
        record: Record | None
        slots: dict[str, Slot] = {}
        values: dict[str, Any] = {}  # Any: of whatever keys there are
        lists: dict[str, ListSlot] | None = None
        clear: bool = False
        end_asked: bool = False
        renew_asked: bool = False
        timeout_set: bool = False
        persistent_set: bool = False
        touched: bool = False
        flagged: bool = False
        presented: bytes | None = None
        let_go: list[tuple[Key[Any], object, bytes]] | None = None
        committing: bool = False
        forgotten: int = 0
        persistent: bool = False

    @override
    def __repr__(self) -> str:
        return f"<Tracking of {self.record}>"  # an `update` that fails has the one value in its traceback: this would show all others

    @override
    def __rich_repr__(self) -> list[tuple[str, str]]:
        return [("record", repr(self.record))]  # as in Record

    def is_persistent(self, record: Record | None) -> bool:
        """Whether a session's cookie outlives the browser session, under a policy with a Max-Age."""
        choice = None if record is None else record.persistent
        return self.unasked if choice is None else choice

    # -------------------------------------------------------------- committing

    def changes(self, locator: bytes | None = None) -> Changes | None:
        """What to tell the store, or None if nothing was done. `locator` is that of a session about to be created.

        Raises what an encoder raises: a value changed in place into something that its key cannot carry.
        """
        writes: dict[str, Write] = {}
        residents = False
        for name, slot in self.slots.items():
            key, mode = slot.key, slot.mode
            codec = key.codec
            if codec is None:
                residents = residents or mode != "read"
                continue
            base: int | None = None
            if mode == "assigned" and key.direct and self.around.plain:
                writes[name] = Write(slot.encoded, key.version, FIELD_HOOKED if key.has_hooks else 0)
                continue
            if mode == "assigned":
                if codec.mutable and codec.comparable:
                    slot.encoded = self._accepted(key, slot.value)  # it may have been changed in place since
                payload = slot.encoded
            elif mode == "read":
                slot.in_place = False  # of a commit that has failed: it may have been put back since
                if key.immutable or not slot.present:
                    continue
                payload = self._changed_in_place(slot)
                if payload is None:
                    continue
                slot.in_place, slot.encoded, base = True, payload, slot.base
            elif mode == "updated":
                if codec.mutable and codec.comparable:
                    slot.in_place = slot.in_place or self._changed_since_update(slot)
                    slot.encoded = self._accepted(key, slot.value)
                payload, base = slot.encoded, slot.base
            else:
                payload = None
            if self.clear:
                base = None  # nothing is left of what it could be conditional on
            flags = FIELD_HOOKED if key.has_hooks else 0
            if key.was is not None:
                old = self._for_older_code(slot, payload)
                older_base = None if base is None else field_revision(slot.older)
                if old is not None:
                    writes[key.was] = self._write(key.was, *old, flags | FIELD_COPY, older_base, locator)
                    flags |= FIELD_TWIN
                elif older_base is not None:
                    writes[key.was] = _as_it_is(slot.older, older_base)
            writes[name] = self._write(name, payload, key.version, flags, base, locator)
        lists = self._list_changes(self.lists, locator) if self.lists else None
        if not (writes or lists or residents or self.flagged):
            return None
        changes = Changes(writes)
        if lists:
            changes.lists = lists
        if residents:
            changes.residents = True
        if self.flagged:
            changes.clear = self.clear
            changes.timeout, changes.set_timeout = self.timeout, self.timeout_set
            changes.persistent, changes.set_persistent = self.persistent, self.persistent_set
        return changes

    def _for_older_code(self, slot: Slot, payload: bytes | None) -> tuple[bytes | None, int] | None:
        """Payload and version for the name that the key had before; None if what is there has to stay."""
        key = slot.key
        if key.downgrade is None or payload is None:
            return payload, key.version
        try:
            return key.downgrade.take_back(slot.value), key.downgrade.version
        except Exception:  # a user's function may raise anything
            logger.exception("%r: %r raised; code that knows the key as %r keeps the value that it had", key, key.downgrade, key.was)
            return None

    def _write(self, name: str, payload: bytes | None, version: int, flags: int, base: int | None, locator: bytes | None) -> Write:
        seal = self.around.seal
        if seal is not None and payload is not None:
            payload, flags = seal.seal(self._locator(locator), name, payload), flags | FIELD_SEALED
        return Write(payload, version, flags, base)

    def begins(self) -> bool:
        """Whether a session that is not stored has something to be stored for: a value, or an element of a list."""
        if any(slot.present and slot.mode != "read" for slot in self.slots.values()):
            return True
        return any(slot.items for slot in (self.lists or {}).values())

    def _locator(self, locator: bytes | None) -> bytes:
        if locator is not None:
            return locator
        assert self.record is not None
        return self.record.locator

    def _list_changes(self, lists: Mapping[str, ListSlot], locator: bytes | None) -> dict[str, ListChange]:
        found: dict[str, ListChange] = {}
        for name, slot in lists.items():
            new = [item for item in slot.items if item.sequence is None]
            if new or slot.removed or slot.dropped:
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

    def resident_changes(self) -> list[ResidentChange]:
        """What to do to the resident values once the store has committed."""
        found: list[ResidentChange] = []
        if self.clear and self.record is not None:
            found += [ResidentChange(name, ABSENT) for name in self.around.residents_of(self.record.locator)]
        for name, slot in self.slots.items():
            if slot.key.codec is not None or slot.mode == "read":
                continue
            if slot.mode == "updated":
                found.append(ResidentChange(name, ABSENT, slot.functions, slot.default))
            else:
                found.append(ResidentChange(name, slot.value if slot.present else ABSENT))
        return found

    def rebase(self, current: Record, replaced: set[str]) -> list[str]:
        """Make every conditional change fit what is stored now. The names of those of which one change is lost (`LostUpdate`).

        Runs `update` functions and `merge` again; what they raise goes to the caller, and nothing has been applied. `replaced` are
        the names of the values that an earlier rebase of this commit has put in the place of the handler's, which nobody has in hand.
        """
        lost: list[str] = []
        for slot in self.slots.values():
            key = slot.key
            codec = key.codec
            if codec is None or not (slot.mode == "updated" or slot.in_place):
                continue
            if self._bases(key, current) == (slot.base, field_revision(slot.older)):
                continue
            theirs, mine, encoding = Slot(key), slot.value, slot.encoded
            self._look(theirs, current)
            if slot.in_place:
                if key.merge is not None and theirs.present and slot.stored is not None:
                    base = key.load(slot.stored, slot.version) if slot.seen is None else codec.decode(slot.seen)
                    slot.value = key.merge(base, slot.value, theirs.value)
                    slot.encoded = self._accepted(key, slot.value)
                elif theirs.stored not in (slot.encoded, slot.stored):  # the same bytes again are no change: they were sealed anew
                    lost.append(key.name)
                if theirs.stored is None:
                    slot.mode = "updated"  # nothing is stored that it could be compared with
            elif theirs.present or slot.default is not ABSENT:
                default: Any = slot.default
                value = theirs.value if theirs.present else codec.decode(default) if codec.mutable else default
                for function in slot.functions:
                    value = function(value)
                slot.value, slot.encoded = value, self._accepted(key, value)
            else:
                # There is nothing left to update, and no default: the other request's removal stands.
                slot.present, slot.mode, slot.value, slot.functions = False, "read", None, ()
                lost.append(key.name)
            slot.base, slot.older, slot.stored, slot.version = theirs.base, theirs.older, theirs.stored, theirs.version
            slot.seen = theirs.seen
            if slot.value is not mine and key.name not in replaced:
                replaced.add(key.name)
                self._let_go(key, mine, encoding)
        return lost

    def _let_go(self, key: Key[Any], value: object, encoding: bytes | None) -> None:
        if encoding is not None and key.codec is not None and key.codec.mutable and key.codec.comparable:
            # The last one alone: a WebSocket may refresh without end.
            self.let_go = [*(held for held in self.let_go or () if held[0] is not key), (key, value, encoding)]
            self.touched = True

    def changed_after_all(self) -> list[str]:
        """The names of the keys of which the handler has changed a value that is not the session's any more."""
        names: list[str] = []
        held = self.let_go or []
        for number, (key, value, before) in enumerate(held):
            slot = self.slots.get(key.name)
            settled = slot is not None and (slot.value is value or slot.mode in ("assigned", "deleted"))
            now = None if key.codec is None else encoded(key.codec, value)
            if now is not None and now != before:
                held[number] = key, value, now  # also if it is settled: a later commit does not know that any more
                if not settled:
                    names.append(key.name)
        return names

    @staticmethod
    def _bases(key: Key[Any], record: Record) -> tuple[int, int]:
        fields = record.fields
        return field_revision(fields.get(key.name)), 0 if key.was is None else field_revision(fields.get(key.was))

    def committed(self, record: Record, residents: Mapping[str, object]) -> None:
        """Take over what is stored now: the next change in this request starts from it."""
        self.record = record
        if self.lasting:
            self.persistent = self.is_persistent(record)  # another request may have chosen
        values: dict[str, Any] = {}  # Any: as above
        slots: dict[str, Slot] = {}
        for name, slot in self.slots.items():
            key = slot.key
            if key.direct and not slot.refused:
                # Nobody can change it behind our back: it needs no looking at any more.
                if slot.present and slot.mode != "read":
                    values[name] = slot.value
                continue
            slots[name] = slot
            if key.codec is None:
                if slot.mode != "read":
                    value = residents.get(name, ABSENT)
                    slot.present, slot.value = value is not ABSENT, None if value is ABSENT else value
            elif slot.mode != "read" or slot.in_place:
                slot.base = field_revision(record.fields.get(name))
                slot.older = None if key.was is None else record.fields.get(key.was)
                slot.stored = slot.encoded if name in record.fields else None
                slot.seen = None if key.codec.repeatable else slot.stored
                slot.version = key.version
            else:
                if self._bases(key, record) != (slot.base, field_revision(slot.older)):
                    # Another request has written it: the next look is at what is stored.
                    self._let_go(key, slot.value, encoded(key.codec, slot.value) if slot.present else None)
                    del slots[name]
                continue
            slot.mode, slot.functions, slot.in_place, slot.default = "read", (), False, ABSENT
        self.values, self.slots, self.lists = values, slots, None
        if self.flagged:
            self.clear = self.renew_asked = self.timeout_set = self.persistent_set = False
            self.flagged = self.end_asked  # by another task, meanwhile
        self.touched = bool(slots or self.flagged or self.refusals or self.let_go)

    def refreshed(self, record: Record) -> None:
        """Take over what others have stored; what this request has changed and not committed stays as it is."""
        if self.record is not None and record.digest != self.record.digest:
            self.old_secret = True
            if self.presented is None:
                self.presented = self.record.digest
        self.record = record
        if self.lasting and not self.persistent_set:
            self.persistent = self.is_persistent(record)
        self.values.clear()
        for name, slot in list(self.slots.items()):
            key = slot.key
            if slot.mode != "read":
                continue
            if key.codec is not None and self._bases(key, record) == (slot.base, field_revision(slot.older)):
                continue  # nobody has written it: what the handler holds stays the session's
            if self._changed_in_place(slot) is None:
                self._let_go(key, slot.value, encoded(key.codec, slot.value) if slot.present and key.codec is not None else None)
                del self.slots[name]
        for items in (self.lists or {}).values():
            new = [item for item in items.items if item.sequence is None]
            items.items, items.refused, items.unreadable = [], [], False
            if not self.clear:
                self._read_list(items, record)
            items.items = [*(item for item in new if item.front), *items.items, *(item for item in new if not item.front)]

    def shut_out(self, seen: Record) -> None:
        """Another request has renewed the session, and its id opens it no more: nothing that comes after is for this request."""
        self.record = seen
        self.values.clear()
        self.slots.clear()  # an update or a merge may hold what the other one has stored
        self.over = True

    def changed_names(self) -> tuple[str, ...]:
        """The names of the keys that hold uncommitted changes, as far as that can be told without running a codec."""
        names = [name for name, slot in self.slots.items() if slot.mode != "read" or slot.in_place]
        names += [
            name
            for name, items in (self.lists or {}).items()
            if items.removed or items.dropped or any(item.sequence is None for item in items.items)
        ]
        return tuple(names)

    def dirty_names(self) -> list[str]:
        """`changed_names`, and those of values changed in place whose codec runs no code of a user's."""
        names = list(self.changed_names())
        for name, slot in self.slots.items():
            codec = slot.key.codec
            if (
                name not in names
                and slot.present
                and isinstance(codec, TypedCodec)
                and (slot.seen is not None or slot.version == slot.key.version)
            ):
                try:
                    changed = self._changed_in_place(slot) is not None
                except KeyTypeError:
                    changed = True
                if changed:
                    names.append(name)
        return names

    def unanswered(self, problem: BaseException) -> None:
        """The store was told, and this is what it raised. If nobody knows whether it has done it, that is not said again (rule 28)."""
        if isinstance(problem, TooLarge):
            problem.written = self._written()
        # What is no error of ours has come in the middle of the call: cancelled, interrupted, out of time by a signal, or of a driver.
        if not isinstance(problem, SessionError) or (isinstance(problem, StoreUnavailable) and problem.unknown):
            self.forget_told()

    def _written(self) -> dict[str, int]:
        """The bytes of the values that are to be written, by key name: of those that are encoded already."""
        sizes = {name: len(slot.encoded) for name, slot in self.slots.items() if slot.encoded is not None}
        for name, items in (self.lists or {}).items():
            sizes[name] = sum(len(item.payload) for item in items.items if item.sequence is None)
        return {name: size for name, size in sizes.items() if size}

    def forget_told(self) -> None:
        """Drop what the store may have been told; but an end that another task has asked for meanwhile was not among it."""
        end_asked = self.end_asked
        self.forgotten += 1
        self.forget_changes()
        if end_asked:
            self.end_asked = self.flagged = self.touched = True

    def forget_changes(self) -> None:
        """Drop everything that was not committed."""
        self.slots.clear()
        self.lists = None
        self.clear = self.renew_asked = self.end_asked = self.timeout_set = self.persistent_set = self.flagged = False
        self.touched = bool(self.refusals or self.let_go)


def _as_it_is(packed: bytes | None, base: int) -> Write:
    """A write of what is stored already, so that a change meanwhile is noticed.

    It is the copy of a value that it does not follow: until older code writes again it counts for nothing, whatever becomes of the other.
    """
    if packed is None:
        return Write(None, base=base)
    field = unpack_field(packed)
    return Write(field.payload, field.version, field.flags & ~FIELD_TWIN | FIELD_COPY, base)
