"""What one request sees of a session, and what it does to it. No I/O, no clock, no cookies; what comes of it is `tracking`'s.

Every value that is looked at becomes a slot (see `slots`). What is read of keys whose values cannot be changed in place needs none:
nobody has to look at it again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from types import CoroutineType
from typing import Any, NoReturn, Protocol

import msgspec

from .clients import Client
from .codecs import Codec, DecodeRefused
from .durations import check_seconds, check_timeout
from .errors import HeadersSent, KeyTypeError, PolicyError, Rejected, SessionClosed, SessionEnded, SessionError
from .keys import AnyKey, Key, ListKey, key_of, known_key
from .record import FIELD_HEAD, FIELD_LIST, FIELD_SEALED, FIELD_VERSION, OWN_TIMEOUT, Record, field_revision, unpack_elements, unpack_field
from .renamed import holder
from .residents import ABSENT
from .sealing import SealingKeys, unsealed
from .slots import Item, ListSlot, Slot, Updater

logger: logging.Logger = logging.getLogger("typed_sessions")

_NEVER_IN_EDIT = "(in a block of `edit`, no cookie can be sent at all)"


class Surroundings(Protocol):
    """What a session's view needs of the manager that made it, without I/O."""

    @property
    def seal(self) -> SealingKeys | None: ...

    plain: bool
    """No `seal`: a stored value is what its key's codec made of it."""

    @property
    def default_timeout(self) -> float | None: ...
    @property
    def default_overlap(self) -> float: ...
    def residents_of(self, locator: bytes) -> Mapping[str, object]: ...
    def clients_of(self, view: View) -> Sequence[Client]: ...
    def check_hooks(self, key: Key[Any]) -> None:
        """Raise `KeyTypeError` for a key whose hooks this manager could not call: coroutine functions, in a synchronous one."""


class View(msgspec.Struct, eq=False):
    """The state behind a `Session` or a `SessionView`."""

    around: Surroundings
    record: Record | None
    address: str | None
    now: float
    owner: object = None
    """The exchange that this session is part of, for the manager."""
    headers_sent: bool = False
    closed: bool = False
    over: bool = False
    discarding: bool = False
    """What is written goes nowhere: the session has ended, and a listener of its end is looking."""
    slots: dict[str, Slot] = {}
    values: dict[str, Any] = {}
    """What was read of keys whose values cannot be changed in place: nobody has to look at them again."""
    lists: dict[str, ListSlot] | None = None
    touched: bool = False
    """There may be something to commit or to report; where this is not set, there certainly is not."""
    flagged: bool = False
    """Something was asked for that is no value: an end, a renew, a timeout, another cookie."""
    old_secret: bool = False
    """Whether another secret than this request's is the current one: it may not renew, and gets no cookie."""
    end_asked: bool = False
    renew_asked: bool = False
    renew_overlap: float = 0.0
    clear: bool = False
    timeout_set: bool = False
    timeout: float | None = None
    persistent_set: bool = False
    persistent: bool = False
    lasting: bool = False
    """Whether the policy has a Max-Age, so that `persistent` can be True."""
    unasked: bool = True
    """Whether a session is persistent then that has not said so, nor the contrary."""
    refusals: list[tuple[str, str]] | None = None
    told: bool = False
    """Whether somebody has looked at all this before, and has said what is refused."""
    committing: bool = False
    """The store is being told what has changed: another task's changes would not be among them, and would count as committed."""
    forgotten: int = 0
    """How many commits have been given up, or have lost their answer: what they were to commit is dropped."""
    presented: bytes | None = None
    """The digest of the secret that the request came with, if the record's is another since `refresh`."""
    let_go: list[tuple[Key[Any], object, bytes]] | None = None
    """Values that a conflict or a refresh has replaced, with their encoding: the handler may still hold and change them."""
    replaced: Record | None = None
    """The session that the request's secret opened until a moment ago (see `lifecycle.straggles`)."""
    rejected: BaseException | None = None
    """What `require` has raised, until the request is over."""

    # -------------------------------------------------------------- reading

    def read(self, key: Any) -> Any:  # Any: a KeyView, which is always a Key
        """The value of a key, or `ABSENT`. Decoded at the first look."""
        if self.closed:
            self.refuse_closed()
        name = key.name
        slot = self.slots.get(name)
        if slot is not None:
            return slot.value if slot.present else ABSENT
        if key.direct:
            value = self.values.get(name, self)
            if value is not self:
                return value
            record = self.record
            if record is None or self.clear:
                return ABSENT
            packed = (record.unpacked or record.fields).get(name)
            if packed is None:
                return ABSENT
            if packed[FIELD_VERSION:FIELD_HEAD] == key.head and self.around.plain:
                try:
                    value = self.values[name] = key.codec.decode(packed[FIELD_HEAD:])
                except DecodeRefused:
                    pass  # the slot reports it
                else:
                    return value
        slot = self.slot(key)
        return slot.value if slot.present else ABSENT

    def slot(self, key: Key[Any]) -> Slot:
        """The slot of a key, decoded at the first look."""
        if self.closed:
            self.refuse_closed()
        slot = self.slots.get(key.name)
        if slot is not None:
            return slot
        slot = self.slots[key.name] = Slot(key)
        self.touched = True
        record = self.record
        if record is None or self.clear:
            return slot
        if key.codec is None:
            value = self.around.residents_of(record.locator).get(key.name, ABSENT)
            slot.present = value is not ABSENT
            slot.value = value if slot.present else None
            return slot
        self._look(slot, record)
        return slot

    def hold_residents(self, values: Mapping[str, object]) -> None:
        """The values of this process that an ended session had, for those who still look at it: they are in no table any more."""
        for name, value in values.items():
            key = known_key(name)
            if isinstance(key, Key) and key.codec is None and name not in self.slots:
                self.slots[name] = Slot(key, present=True, value=value)

    def _look(self, slot: Slot, record: Record) -> None:
        """Fill a slot with what a record holds for its key."""
        key, fields = slot.key, record.fields
        codec = key.codec
        name: str | None = key.name
        if key.was is not None:
            slot.base, slot.older = field_revision(fields.get(key.name)), fields.get(key.was)
            name = holder(fields, key.name, key.was)
        packed = None if name is None else fields.get(name)
        if name is None or packed is None:
            return
        field = unpack_field(packed)
        if key.was is None:
            slot.base = field.revision
        slot.version = field.version
        try:
            if field.flags & FIELD_LIST:
                raise DecodeRefused("stored as a list, not as a single value")
            payload = unsealed(self.around.seal, record.locator, name, field.payload, bool(field.flags & FIELD_SEALED))
            slot.value = key.load(payload, field.version)
            slot.stored = payload
            slot.present = True
            if codec is not None and codec.mutable and codec.comparable and (field.version != key.version or not codec.repeatable):
                slot.seen = encoded(codec, slot.value)
        except DecodeRefused as problem:
            slot.refused = True
            self._report(key, str(problem))

    def _report(self, key: AnyKey, why: str) -> None:
        level = logging.DEBUG if self.told else logging.WARNING
        logger.log(level, "a stored value of %r was refused and counts as absent: %s", key, why)
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
        self.touched = True
        record = self.record
        if record is None or self.clear:
            return slot
        self._read_list(slot, record)
        return slot

    def _read_list(self, slot: ListSlot, record: Record) -> None:
        key = slot.key
        try:
            elements = unpack_elements(record.fields.get(key.name))
        except ValueError as problem:
            slot.unreadable = True
            self._report(key, str(problem))
            return
        for element in elements:
            if element.sequence in slot.removed:
                continue
            try:
                sealed = bool(element.flags & FIELD_SEALED)
                payload = unsealed(self.around.seal, record.locator, key.name, element.payload, sealed)
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
            names.update(dict.fromkeys(key.name for name in self.record.fields if (key := key_of(name)) is not None))
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
        if self.committing:
            self._refuse_meanwhile(f"{what!r} cannot be written")
        if self.over or self.end_asked:
            raise SessionEnded(f"{what!r} cannot be written: the session has ended{self._instead_of_end()}")
        if self.headers_sent and self.record is None and not self.discarding and self.replaced is None:
            raise HeadersSent(
                f"{what!r} cannot be written any more: the response's headers have left, so the cookie of a new session could not be sent; "
                "write before the response starts, or use create=True"
            )

    def assign(self, key: Key[Any], value: object) -> None:
        if self.closed or self.over or self.end_asked or self.headers_sent or self.committing:
            self.before_write(key)
        if key.has_hooks:
            self.around.check_hooks(key)
        # Before there is a slot: a value that is refused leaves the one that is stored to be read.
        codec = key.codec
        encoded: bytes | None = None
        if codec is not None:
            try:
                encoded = codec.accept(value)
            except KeyTypeError as problem:
                raise KeyTypeError(f"{key!r}: {problem}") from problem
        slot = self.slots.get(key.name)
        if slot is None:
            self.slots[key.name] = Slot(key, "assigned", True, value, encoded=encoded)
            self.touched = True
            return
        slot.encoded = encoded
        slot.value = value
        slot.present = True
        slot.mode = "assigned"
        slot.functions = ()
        slot.in_place = False

    def delete(self, key: AnyKey) -> None:
        self.before_write(key)
        if isinstance(key, ListKey):
            items = self.list_slot(key)
            if not (items.items or items.refused or items.unreadable):
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
        slot.in_place = False

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
        if not unconditional and not slot.functions:
            # Also beside a value, which may be gone by the commit. What a function could change is kept encoded, or a repetition
            # would begin from the changed default.
            encode = codec is not None and codec.mutable and default is not ABSENT
            slot.default = self._accepted(key, default) if encode else default
        if not slot.present and codec is not None and codec.mutable:
            default = self._copied(key, default)  # the caller's own may be one for everybody, and `change` may change it
        value = change(slot.value if slot.present else default)
        if type(value) is CoroutineType:
            value.close()
            raise KeyTypeError(f"{key!r}: the function given to update() is a coroutine function: give a plain one, which may be repeated")
        encoded = self._accepted(key, value) if codec is not None else None
        slot.value, slot.encoded, slot.present, slot.in_place = value, encoded, True, in_place
        if unconditional:
            slot.mode = "assigned"
        else:
            slot.mode = "updated"
            slot.functions = (*slot.functions, change)
        return value

    def _copied(self, key: Key[Any], value: object) -> object:
        codec = key.codec
        assert codec is not None
        try:
            return codec.decode(self._accepted(key, value))
        except (DecodeRefused, KeyTypeError):  # by a `load` that does not take what its `save` gives; or none that it has to be
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
        removed: list[Item] = []
        kept: list[Item] = []
        for item in slot.items:
            (kept if (first and removed) or not match(item.value) else removed).append(item)
        # Only now, when nothing of it has raised.
        slot.removed += [item.sequence for item in removed if item.sequence is not None]
        slot.items = kept
        return len(removed)

    def clear_list(self, key: ListKey[Any]) -> None:
        self.remove_where(key, lambda _: True, False)
        slot = self.list_slot(key)
        slot.removed += slot.refused
        slot.refused = []
        if slot.unreadable:
            slot.unreadable, slot.dropped = False, True

    def ask_renew(self, overlap: float | None, clear: bool) -> None:
        self._before_lifecycle("renewed")
        if overlap is not None:
            check_seconds("renew(overlap=...)", overlap)
        if self.headers_sent:
            raise HeadersSent(
                "the session cannot be renewed any more: the response's headers have left without the new cookie; renew earlier "
                + _NEVER_IN_EDIT
            )
        seconds = self.around.default_overlap if overlap is None else overlap
        if self.old_secret:
            if seconds:
                return  # Somebody has just renewed, which is all that a routine rotation wants.
            raise Rejected(
                "renewed", 409, (), "the session was renewed by another request; this one came with the previous id and may not renew"
            )
        self.renew_asked = self.flagged = self.touched = True
        self.renew_overlap = seconds
        if clear:
            self.clear, self.lists = True, None
            self.slots.clear()
            self.values.clear()
            record = self.record  # what it says of itself, "remember me", was its visitor's of before, as its data was
            if record is not None and record.flags & OWN_TIMEOUT and not self.timeout_set:
                self.timeout, self.timeout_set = self.around.default_timeout, True
            if record is not None and record.persistent is not None and not self.persistent_set:
                self.persistent, self.persistent_set = self.unasked, True

    def ask_end(self) -> None:
        if self.closed:
            self.refuse_closed()
        self.end_asked = self.flagged = self.touched = True

    def set_timeout(self, seconds: float | None) -> None:
        self._before_lifecycle("changed")
        check_timeout("session.timeout", seconds)
        self.timeout = seconds
        self.timeout_set = self.flagged = self.touched = True

    def set_persistent(self, persistent: bool) -> None:
        self._before_lifecycle("changed")
        if type(persistent) is not bool:
            raise PolicyError(f"session.persistent = {persistent!r}: expected True (with a Max-Age) or False (until the browser closes)")
        if persistent and not self.lasting:
            raise PolicyError(
                "session.persistent = True: the cookie policy has no max_age to give the cookie; use CookiePolicy(max_age=...)"
            )
        if self.headers_sent:
            raise HeadersSent(
                "session.persistent cannot be set any more: the response's headers have left with the cookie as it was " + _NEVER_IN_EDIT
            )
        self.persistent = persistent
        self.persistent_set = self.flagged = self.touched = True

    def _before_lifecycle(self, verb: str) -> None:
        if self.closed:
            self.refuse_closed()
        if self.committing:
            self._refuse_meanwhile(f"the session cannot be {verb}")
        if self.over or self.end_asked:
            raise SessionEnded(f"the session cannot be {verb}: it has ended{self._instead_of_end()}")

    def _instead_of_end(self) -> str:
        # Once the end is stored, or was another request's, there is nothing to be written in its place.
        return "" if self.over else "; session.renew(clear=True), in the place of session.end(), goes on with an empty one"

    def _refuse_meanwhile(self, what: str) -> NoReturn:
        raise SessionError(
            f"{what} while another task of the request commits the session, or it would be lost: let one task write and commit, "
            "or take a lock (one asyncio.Lock for the request) around each write together with its commit"
        )

    def refuse_closed(self) -> None:
        raise SessionClosed(
            "the session was used after its request had been finished; take what you need out of it before, "
            "or open it again with manager.edit(handle)"
        )

    def _changed_in_place(self, slot: Slot) -> bytes | None:
        """The encoding of a value that was read, if it is another one now."""
        codec = slot.key.codec
        if codec is None or not codec.mutable or not codec.comparable or slot.stored is None:
            return None
        try:
            payload = codec.encode(slot.value)
        except Exception:  # a user's `save` may raise anything
            payload = b""
        if slot.seen is not None:
            return None if payload == slot.seen else self._accepted(slot.key, slot.value)
        if payload == slot.stored:
            return None
        # Encoders need not be stable: what counts is whether a fresh look at the store gives the same.
        # A planted value may decode and not encode again; then it is the same too, and a reader never fails for it.
        try:
            fresh = slot.key.load(slot.stored, slot.version)
            if codec.encode(fresh) == payload:
                return None
        except DecodeRefused:
            return None
        except Exception:
            return None if payload == b"" else payload
        return self._accepted(slot.key, slot.value)

    def _changed_since_update(self, slot: Slot) -> bool:
        codec = slot.key.codec
        if codec is None or not codec.mutable or not codec.comparable or slot.encoded is None:
            return False
        return codec.encode(slot.value) != slot.encoded


def encoded(codec: Codec[Any], value: object) -> bytes | None:
    try:
        return codec.encode(value)
    except Exception:  # a user's `save` may raise anything; then it is read once more to be compared with
        return None
