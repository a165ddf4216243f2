"""What a manager tells its listeners: plain data. `manager.on(End, listener)` subscribes, to subclasses too.

`Begin` and `End` come once per session. The others report what would otherwise go unseen; each is logged as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

from .record import EndReason
from .session import SessionView


@dataclass(frozen=True)
class Event:
    """What all events have: the session, as it is when the event is sent."""

    session: SessionView


@final
@dataclass(frozen=True)
class Begin(Event):
    """A session was created; it is stored, and `current_session()` is it."""


@final
@dataclass(frozen=True)
class End(Event):
    """A session is over; its data can be read until the listeners return.

    `reason`: "ended" (signed out, or by `end_all`), "timeout" or "lifetime" (nobody came in time, or it was old), "check" (a filter's
    `check` refused it), "address" (used from elsewhere, where the policy says `mismatch="end"`), "evicted" (to make room).
    """

    reason: EndReason


@final
@dataclass(frozen=True)
class CommitRefused(Event):
    """A request's changes were dropped: the session had ended meanwhile, or another request had renewed it."""

    reason: Literal["ended", "renewed"]
    names: tuple[str, ...]


@final
@dataclass(frozen=True)
class LostUpdate(Event):
    """Of two changes of a value one is lost: changed in place without a `merge`, it overwrote another request's change; or an `update`
    without a default was dropped, since another request had removed the value; or a value was changed in place after a commit or a
    refresh had replaced it by what another request stored. What a listener changes in the session then is committed once more."""

    name: str


@final
@dataclass(frozen=True)
class ValueRefused(Event):
    """A stored value is not of its key's type (or is sealed under a key that is not there): treated as absent, bytes kept."""

    name: str
    why: str


@final
@dataclass(frozen=True)
class ReusedOldId(Event):
    """A secret that a renew had replaced was presented after its time: a slow tab, or a thief."""

    address: str | None


@final
@dataclass(frozen=True)
class AddressMismatch(Event):
    """The session's secret was presented, but the session was not opened for it as usual.

    `what` is "address" where the request came from an address that the policy refuses, or "cookie" where the address cookie was missing
    or not the session's own. `address` is that of the request, `bound` the one that the session is bound to.
    """

    address: str | None
    bound: str | None
    what: Literal["address", "cookie"]
