"""The contract of a store: a few verbs over records, each atomic, each one round trip, with the time passed in.

What every store promises, whatever it is made of:

* Only `create` makes a record, under a locator just drawn. Every other verb needs the record to be there and not
  ended, and does nothing otherwise: this is how a session that has ended stays ended.
* A commit is all or nothing. It checks every revision it was given before it writes anything.
* Nothing expires by itself from a caller's view: `open` hands out an expired record as it is, and the caller decides
  by `now` and the record alone. A server's own TTL only collects rubbish.
* No code of the user runs inside a verb, and no verb keeps a lock when it returns, or raises.
* A verb that is awaited may be cancelled wherever it awaits: a client that hangs up does that. It raises `CancelledError` then, has been
  applied as a whole or not at all (or is going to be, by a server that was told already), and leaves the store as usable as before: no
  lock held, no transaction open, no connection with half an answer in it. `except Exception` does not see a cancellation.
* `now` is in seconds since 1970. Locators are 16 random bytes.

What a store raises, where a verb's text says nothing else:

* `StoreUnavailable(text)` if it cannot answer in time, or at all, and is sure that nothing was done, now or later: it could not connect, or
  the server has refused. The manager keeps what was to be stored, and whoever asks again (a second `commit()`, the end of the request)
  sends it again.
* `StoreUnavailable(text, unknown=True)` if nobody knows whether it was done: the question was sent, and the answer did not come, or not
  in time. The manager drops what was to be stored, for what may have been applied is never applied again by it: a counter would count
  twice, an element be appended twice. A store that raises one without `unknown` in such a case breaks this. It matters in `create` and
  `commit`; the other verbs may be asked twice, and say of themselves whether there was anything left to do.
* Nothing else. What escapes all the same, an error of the driver, goes to the application as it is, and no filter makes a 503 of it; of
  `create` and `commit` the managers take it for `unknown`.

What a store has to import is all here: the types of the verbs and of records, the errors, `Limits` for the bounds on one session, and
`apply`, `apply_use` and `apply_touch`, which do to a record what `commit`, `open` and `touch` are asked for, where a store can hold a lock
meanwhile. A whole store that does so is in the examples: `examples/store.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, TypeAlias

from ..changes import Changes, Idle, ListChange, Outcome, Renewal, Use, Write, apply, apply_touch, apply_use
from ..errors import StoreFull, StoreUnavailable, TooLarge
from ..record import (
    FIELD_HOOKED,
    REUSED,
    Element,
    Ending,
    EndReason,
    Field,
    Previous,
    Record,
    pack_elements,
    pack_field,
    size_of,
    unpack_elements,
    unpack_field,
)
from .limits import Limits

__all__ = [
    "FIELD_HOOKED",
    "REUSED",
    "AsyncStore",
    "Changes",
    "Created",
    "Element",
    "EndReason",
    "Ending",
    "Field",
    "Idle",
    "Limits",
    "ListChange",
    "Outcome",
    "Previous",
    "Record",
    "Renewal",
    "Store",
    "StoreFull",
    "StoreUnavailable",
    "TooLarge",
    "Use",
    "Write",
    "apply",
    "apply_touch",
    "apply_use",
    "pack_elements",
    "pack_field",
    "size_of",
    "unpack_elements",
    "unpack_field",
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
        the locator exists, nothing is changed, and the caller draws another. An ended record that is still there is one that exists.

        Where a store holds so many sessions at most, those make room that are over, and then those that no second request has used
        (without the flag `REUSED`), the oldest first. Each of them has ended for every verb, and is kept, also without hooked values, until
        a sweep gives it out: its `ending` has the reason "evicted", or why it was over, and is claimed by nobody (`claimed_until` 0).
        An ended one that is still there, for whatever reason, is none of those that are counted.

        Raises `StoreFull` when there is no room and every session has been used by a second request, and `TooLarge`. If the answer is lost,
        `StoreUnavailable(unknown=True)`.
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
        """Write a use that the caller has judged. False if there is no such session under this digest, or it is over.

        The digest is that of the secret: the current one, or the previous one in its overlap (`record.opened_by`), as with `open`. A
        use that was written less than a granularity ago is not written again, and the answer is True all the same.
        """
        ...

    def commit(self, locator: bytes, changes: Changes, idle: Idle, now: float) -> Outcome:
        """Apply all of `changes`, or nothing; see `Outcome`.

        An idle timeout that has run out since the session was opened is ignored; the absolute lifetime is not.
        Every field written gets the record's new revision; appended elements get sequences above, prepended ones below,
        all that were ever used. Raises `TooLarge` if there would be more keys or bytes than the store's bound, and more than
        before: a session that is there can always be renewed and made smaller, however it came to be that large.
        If the answer is lost, `StoreUnavailable(unknown=True)`: what may have been applied is not to be applied again.
        """
        ...

    def end(self, locator: bytes, reason: EndReason, now: float, lease: float) -> Record | None:
        """Mark the session as ended, and return it as it was, with its `ending`; None if another has, or there is none.

        With hooked values it is kept, claimed by the caller for `lease` seconds (`Ending(reason, now, now + lease)`), until `clear`;
        otherwise it is gone. If the answer is lost, `StoreUnavailable(unknown=True)`: whoever asks again may get None.
        """
        ...

    def sweep(self, now: float, limit: int, lease: float, grace: float) -> tuple[Sequence[Record], bool]:
        """End what is over, looking at no more than `limit` records, and claim what others left; and whether more is due.

        Each returned record is the caller's to clean up; its `ending` says why it ended. Costs what came due, not what lives.

        * A session that is over (`record.due <= now`) is ended as `end` does it. The reason is `record.over_by`: "lifetime" if
          `deadline` is `due`, also where the idle timeout is over by now as well, and "timeout" otherwise.
        * An ended record whose lease is over (`claimed_until <= now`) is claimed again, as `Ending.claimed_again` says: for `lease`
          seconds, or an eighth of the time since its end. For one that nobody has claimed yet, because it had to make room, `at` becomes
          `now`: whoever is given a record tells of the end only if it is claimed for no longer than a lease from `at`. Without hooked
          values it is given out once, and gone.
        * An ended record that nobody has cleared for `grace` seconds (`reap_grace`, counted from `at`) is dropped, given out or not.
        """
        ...

    def clear(self, locator: bytes, names: Sequence[str] | None) -> None:
        """The hooks of an ended record have run: drop these fields, and the record when no hooked one is left (None: all).

        Its lease stays what it is. A record that has not ended is left alone.
        """
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
