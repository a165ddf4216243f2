"""The contract of a store: a few verbs over records, each atomic, each one round trip, with the time passed in.

What every store promises, whatever it is made of:

* Only `create` makes a record, under a locator just drawn. Every other verb needs the record to be there and not
  ended, and does nothing otherwise: this is how a session that has ended stays ended.
* A commit is all or nothing. It checks every revision it was given before it writes anything.
* Nothing expires by itself from a caller's view: `open` hands out an expired record as it is, and the caller decides
  by `now` and the record alone. A server's own TTL only collects rubbish.
* No code of the user runs inside a verb, and no verb keeps a lock when it returns.
* `now` is in seconds since 1970. Locators are 16 random bytes.

A store that cannot answer in time raises `StoreUnavailable`; nothing else escapes but what a verb's text says.

What a store has to import is all here: the types of the verbs, and `apply`, `apply_use` and `apply_touch`, which do to a record what
`commit`, `open` and `touch` are asked for, where a store can hold a lock meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, TypeAlias

from ..changes import Changes, Idle, ListChange, Outcome, Renewal, Use, Write, apply, apply_touch, apply_use
from ..record import EndReason, Record

__all__ = [
    "AsyncStore",
    "Changes",
    "Created",
    "EndReason",
    "Idle",
    "ListChange",
    "Outcome",
    "Record",
    "Renewal",
    "Store",
    "Use",
    "Write",
    "apply",
    "apply_touch",
    "apply_use",
]

Created: TypeAlias = Literal["created", "crowded", "taken"]
"""What `create` says; see `Store.create`."""


class Store(Protocol):
    """The verbs, for calling threads."""

    @property
    def blocking(self) -> bool:
        """Whether a verb does I/O: the sync manager then refuses to run inside an event loop, the async one uses a thread."""
        ...

    def create(self, record: Record, now: float) -> Created:
        """Store a new record: "created"; "crowded" if others had to make room, so that a sweep is worth its trip; or "taken":
        the locator exists, nothing is changed, and the caller draws another.

        Raises `StoreFull` when there is no room and every session has been used by a second request, and `TooLarge`.
        """
        ...

    def open(self, locator: bytes, use: Use | None, idle: Idle, now: float) -> Record | None:
        """The record, expired or not, or None if there is none or it has ended.

        With `use`: if it fits the record (the digest of both cookies is the current one, or the previous in its overlap; the
        address is equal, or any will do) and the record is not over, the use is remembered: once as "used by a second
        request", and as `used = now` when the written use is `granularity` or more away (in either direction: clocks step).
        A session without a timeout of its own then takes over `idle`. What does not fit changes nothing at all.
        """
        ...

    def touch(self, locator: bytes, digest: bytes, idle: Idle, now: float) -> bool:
        """Write a use that the caller has judged. False if there is no such session under this digest, or it is over."""
        ...

    def commit(self, locator: bytes, changes: Changes, idle: Idle, now: float) -> Outcome:
        """Apply all of `changes`, or nothing; see `Outcome`.

        An idle timeout that has run out since the session was opened is ignored; the absolute lifetime is not.
        Every field written gets the record's new revision; appended elements get sequences above, prepended ones below,
        all that were ever used. Raises `TooLarge` if there would be more keys or bytes than the store's bound, and more than
        before: a session that is there can always be renewed and made smaller, however it came to be that large.
        """
        ...

    def end(self, locator: bytes, reason: EndReason, now: float, lease: float) -> Record | None:
        """Mark the session as ended, and return it as it was, with its `ending`; None if another has, or there is none.

        With hooked values it is kept, claimed by the caller for `lease` seconds, until `clear`; otherwise it is gone.
        """
        ...

    def sweep(self, now: float, limit: int, lease: float, grace: float) -> tuple[Sequence[Record], bool]:
        """End what is over, looking at no more than `limit` records, and claim what others left; and whether more is due.

        Each returned record is the caller's to clean up; its `ending` says why it ended. Costs what came due, not what lives.
        Ended records that nobody has cleared for `grace` seconds (`reap_grace`) are dropped.
        """
        ...

    def clear(self, locator: bytes, names: Sequence[str] | None) -> None:
        """The hooks of an ended record have run: drop these fields, and the record when no hooked one is left (None: all)."""
        ...

    def scan(self, after: bytes | None, limit: int) -> tuple[Sequence[Record], bytes | None]:
        """Some of the records that have not ended, and where to go on (None: that was all). Each at most once; those that are
        there for the whole scan exactly once."""
        ...

    def close(self) -> None:
        """Let go of connections; the sessions stay. Closing twice is allowed."""
        ...


class AsyncStore(Protocol):
    """The same verbs, awaited; the texts of `Store` hold."""

    async def create(self, record: Record, now: float) -> Created: ...
    async def open(self, locator: bytes, use: Use | None, idle: Idle, now: float) -> Record | None: ...
    async def touch(self, locator: bytes, digest: bytes, idle: Idle, now: float) -> bool: ...
    async def commit(self, locator: bytes, changes: Changes, idle: Idle, now: float) -> Outcome: ...
    async def end(self, locator: bytes, reason: EndReason, now: float, lease: float) -> Record | None: ...
    async def sweep(self, now: float, limit: int, lease: float, grace: float) -> tuple[Sequence[Record], bool]: ...
    async def clear(self, locator: bytes, names: Sequence[str] | None) -> None: ...
    async def scan(self, after: bytes | None, limit: int) -> tuple[Sequence[Record], bytes | None]: ...
    async def close(self) -> None: ...
