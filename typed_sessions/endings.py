"""The plans by which sessions end: ended by somebody, by their time, or by the last client's leaving, and what is cleaned up then.

Nothing here knows what a request wanted; rule 13 gives the order of everything.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from .changes import Changes, Outcome
from .clients import Client
from .core import SWEEP_STEP, Core, next_share
from .errors import StoreUnavailable
from .events import End
from .exchange import Exchange
from .keys import AnyKey, Key, NoClient, key_of, known_keys, somebody_cleans_up
from .record import FIELD_COPY, FIELD_FLAGS_AT, FIELD_HOOKED, EndReason, Record, field_revision
from .session import Session, SessionView, carrying, open_here, tracking_of
from .steps import Aside, Ask, Pause, Plan, Tell, Whole, Work, emit, tell
from .tracking import Tracking

logger: logging.Logger = logging.getLogger("typed_sessions")

LEASE = 60.0
"""Seconds for which one process has an ended session to itself while it runs the hooks."""
ENOUGH = 1 / 6
"""The part of it that has to be left for the hooks of one more session."""
LOOKS = 4
"""How many sessions with values in this process a step of a sweep looks for."""


def end(core: Core, locator: bytes, reason: EndReason, by: Exchange | None = None, *, carrier: Client | None = None) -> Plan[bool]:
    """End a session, now and for good; False if it had ended already.

    `by` is the exchange of the request that asked for it; `carrier` the connection of one in which it merely came out.
    """
    if by is None and carrier is None:
        carrier = carrying()
    ended: bool = yield Whole(_end(core, locator, reason, by, carrier))
    return ended


def end_by_handle(core: Core, locator: bytes) -> Plan[bool]:
    """End whatever session somebody names. That of the request in which this runs has been ended by it, which expires the cookies."""
    ended = yield from end(core, locator, "ended")
    session = open_here()
    exchange = None if session is None else tracking_of(session).owner
    if ended and isinstance(exchange, Exchange) and exchange.tracking is not None:
        record = exchange.tracking.record
        if record is not None and record.locator == locator:
            exchange.resend, exchange.resend_due, exchange.issued, exchange.expire = False, False, None, True
    return ended


def _end(core: Core, locator: bytes, reason: EndReason, by: Exchange | None, carrier: Client | None) -> Plan[bool]:
    record = yield Ask(core.store.end, (locator, reason, core.clock(), LEASE))
    if record is None:
        return False
    core.residents.tells([record])
    failure = yield from _note(core, [record])
    cleaned = yield from bury(core, record, by, carrier)
    if cleaned is not None:
        yield from _note(core, [cleaned], cleaned=True)
    if failure is not None and (by is not None or reason == "ended"):
        raise failure  # It is over all the same; but the one who asked for it has to know that a crash could undo it.
    return True


def _note(core: Core, records: Sequence[Record], *, cleaned: bool = False) -> Plan[StoreUnavailable | None]:
    """Note ends (or that the hooks have run) where a crash undoes nothing: all of them at once, for it waits for a disk."""
    keeper = core.keeper
    if not records or keeper is None or not keeper.keeping:
        return None
    try:
        yield Work(keeper.note_cleaned if cleaned else keeper.note_ended, (records, core.clock()))
    except StoreUnavailable as problem:
        logger.error("the end of %d sessions could not be noted, a crash could undo it: %s", len(records), problem)
        return problem
    return None


def _is_first(record: Record) -> bool:
    """Whether nobody has looked after this end before: whoever claims it again claims it from a later time on."""
    ending = record.ending
    return ending is not None and ending.claimed_until <= ending.at + LEASE


def _announce(core: Core, record: Record) -> Plan[Tracking]:
    """Tell of the end, if nobody has; what hooks and listeners see of the session."""
    tracking = core.tracking_of(record, record.address, core.clock())
    tracking.discarding = True
    if _is_first(record) and record.ending is not None:
        yield from emit(core, End(SessionView(tracking), record.ending.reason), Session(tracking))
    return tracking


def bury(
    core: Core,
    record: Record,
    by: Exchange | None = None,
    carrier: Client | None = None,
    *,
    told: Tracking | None = None,
    reached: bool = True,
) -> Plan[Record | None]:
    """Everything that follows when a session has been marked as ended, in the order of rule 13.

    Gives the session with what is still to be cleaned up; None if that is what it was before.

    `told` is there if the end has been announced.

    Where the store cannot be `reached`, the hooks of what it holds are left to whoever claims the session next; and where the hooks of
    others, claimed together with it, have used up the time for which it was.
    """
    now = core.clock()
    ending = record.ending
    assert ending is not None
    left: list[str] = []
    cleaned: Record | None = None
    tracking = (yield from _announce(core, record)) if told is None else told
    session = Session(tracking)
    if record.hooked and ending.claimed_until - ENOUGH * LEASE <= core.clock() < ending.at + core.options.reap_grace:
        reached = False
    residents = core.residents.drop(record.locator)  # what comes now falls to the commit that brings it
    stored = core.tracking_of(record, record.address, now)  # what is in `session`, listeners and hooks may have changed
    stored.told = not _is_first(record)  # what nobody can read comes back after each lease
    for view in (tracking, stored):
        view.hold_residents(residents)
    for key in _keys_of([*record.fields, *residents] if reached else residents):
        if isinstance(key, Key) and key.has_hooks:
            yield from _clean(core, session, key, stored)
    failure: StoreUnavailable | None = None
    if record.hooked and reached:
        if now < ending.at + core.options.reap_grace:
            hooked = (name for name, packed in record.fields.items() if packed[FIELD_FLAGS_AT] & FIELD_HOOKED)
            left = [name for name in hooked if not _can_read(stored, name)]
            if all(key_of(name) is None and record.fields[name][FIELD_FLAGS_AT] & FIELD_COPY for name in left):
                left = []  # copies under a name that is gone: their hooks run on the value, and nothing of that is left
        done = [name for name in record.fields if name not in left]
        try:
            if done or not left:  # what nobody here can read comes back after each lease, when all else is gone
                yield Ask(core.store.clear, (record.locator, done if left else None))
                cleaned = record.copy({name: record.fields[name] for name in left})
        except StoreUnavailable as problem:
            failure = problem  # the hooks will run once more; but the clients are closed now
    tracking.closed = True
    yield from _close_clients(core, record.locator, carrier, None if by is None else by.client)
    if failure is not None:
        raise failure
    return cleaned


def clean_late(core: Core, record: Record | None, residents: Mapping[str, object]) -> Plan[None]:
    """Values of this process in a session whose clean-up was over before they came, or is another process's affair, and so is the rest."""
    address = None if record is None else record.address
    stored, tracking = (core.tracking_of(record, address, core.clock()) for _ in range(2))
    for view in (tracking, stored):
        view.hold_residents(residents)
    tracking.discarding = True
    for key in _keys_of(residents):
        if isinstance(key, Key) and key.has_hooks:
            yield from _clean(core, Session(tracking), key, stored)
    tracking.closed = True


def _keys_of(names: Iterable[str]) -> list[AnyKey]:
    """The keys of stored names, each once: a renamed key's value may be stored under two."""
    return list(dict.fromkeys(key for name in names if (key := key_of(name)) is not None))


def _can_read(stored: Tracking, name: str) -> bool:
    """Whether this process has the key of a stored value, and can read it; in a rolling deployment another one can."""
    key = key_of(name)
    return isinstance(key, Key) and key.codec is not None and not stored.slot(key).refused


def _clean(core: Core, session: Session, key: Key[Any], stored: Tracking) -> Plan[None]:
    slot = stored.slot(key)
    if not slot.present:
        return
    keep = key.cleanup_no_client is None or (yield from _keeps(session, key, key.cleanup_no_client, slot.value))
    if keep and key.cleanup_delete is not None:
        yield from tell(session, key.cleanup_delete, slot.value, f"cleanup_delete of {key!r}", None)


def _keeps(session: Session, key: Key[Any], hook: NoClient[Any], value: object) -> Plan[bool]:
    """What `cleanup_no_client` says of a value. One that raises, or forgets to say anything, drops nothing."""
    keep = yield from tell(session, hook, value, f"cleanup_no_client of {key!r}", True)
    if keep is None:
        logger.error("cleanup_no_client of %r returned None: return True to keep the value, or False to drop it; it is kept", key)
        return True
    return bool(keep)


def _close_clients(core: Core, locator: bytes, *carriers: Client | None) -> Plan[None]:
    """Close the connections of a session that has ended; those that carry a running request, after its response.

    Nobody waits for it: who is at the other end may not read, and a server that has to write to him first waits for that.
    """
    for client in core.clients.ended(locator):
        if client in carriers:
            client.closing = True
        else:
            yield Aside(close_client(client.take_close()))


def close_client(close: Callable[[], Any] | None) -> Plan[None]:
    if close is None:
        return
    try:
        yield Tell(close, ())
    except Exception:
        logger.exception("closing a client raised; everything else goes on")


def clients_left(core: Core, locators: Iterable[bytes], seen: Mapping[bytes, float] | None = None, *, closing: bool = False) -> Plan[int]:
    """Nobody is connected to these sessions any more: for how many of them there was a hook to run. What goes wrong then is logged.

    `seen` has the moment at which each had somebody here last, where that is only what nobody has come after. Where this process is
    `closing`, visitors have not left, and other processes go on with what is stored.
    """
    asked = 0
    if not somebody_cleans_up():
        return asked  # without a trip for each
    for locator in locators:
        if closing and not core.residents.of(locator):
            continue
        try:
            asked += yield from _last_client_left(core, locator, -math.inf if closing else math.inf if seen is None else seen[locator])
        except Exception:
            logger.exception("cleaning up after the last client of the session %s failed", locator.hex())
    return asked


def _last_client_left(core: Core, locator: bytes, seen: float) -> Plan[bool]:
    """Run `cleanup_no_client` of a session that nobody is connected to any more, and drop the values for which it says False.

    Whether there was one to run. If the session has been used since it was `seen` here, then in another process, which asks about what is
    stored when nobody is there either.
    """
    now = core.clock()
    record: Record | None = yield Ask(core.store.open, (locator, None, core.idle, now))
    if record is None:
        return False
    residents = core.residents.of(locator)
    fields: Mapping[str, bytes] = record.fields if record.used <= seen else {}
    tracking = core.tracking_of(record, record.address, now)
    session = Session(tracking)
    values = core.tracking_of(record, record.address, now)  # what is in `session`, hooks may change
    dropped: list[str] = []
    asked = False
    for key in _keys_of([*fields, *residents]):
        if isinstance(key, Key) and key.cleanup_no_client is not None and values.slot(key).present:
            asked, value = True, values.slot(key).value
            if not (yield from _keeps(session, key, key.cleanup_no_client, value)):
                dropped += [key.name] if key.was is None else [key.name, key.was]
                if key.name in residents:
                    core.residents.remove(locator, key.name, value)
    tracking.closed = True
    # Only the very values that the hooks have seen: a request that came meanwhile may have set others.
    while stored := {name: fields[name] for name in dropped if name in fields}:
        changes = Changes()
        changes.counts_as_use = False
        for name, packed in stored.items():
            changes.remove(name, field_revision(packed))
        outcome: Outcome = yield Ask(core.store.commit, (locator, changes, core.idle, now))
        if outcome.status != "conflict" or outcome.record is None:
            break
        current = outcome.record.fields
        dropped = [name for name, packed in stored.items() if current.get(name) == packed]
    return asked


# ------------------------------------------------------------------ clearing up, and closing


def sweep_step(core: Core, now: float, limit: int = SWEEP_STEP, carrier: Client | None = None) -> Plan[tuple[int, bool, int]]:
    """End what is over, looking at `limit` records at most. `carrier` waits for its response.

    How many ended, whether there is more, and for how many there may have been hooks to run.
    """
    done: tuple[int, bool, int] = yield Whole(_sweep_step(core, now, limit, carrier))
    return done


def _sweep_step(core: Core, now: float, limit: int, carrier: Client | None) -> Plan[tuple[int, bool, int]]:
    records: Sequence[Record]
    records, more = yield Ask(core.store.sweep, (now, limit, LEASE, core.options.reap_grace))
    core.residents.tells(records)
    ended = [record for record in records if _is_first(record)]
    hooked = sum(bool(record.hooked or core.residents.of(record.locator)) for record in records)
    yield from _note(core, ended)
    cleaned: list[Record] = []
    failure: StoreUnavailable | None = None
    # All ends before the first hook: if this process dies in one, the sessions are claimed again, or gone, and nobody else tells of them.
    told: list[Tracking] = []
    for record in records:
        told.append((yield from _announce(core, record)))
    for record, tracking in zip(records, told, strict=True):
        try:
            left = yield from bury(core, record, carrier=carrier, told=tracking, reached=failure is None)
            if left is not None:
                cleaned.append(left)
        except StoreUnavailable as problem:
            failure = problem  # the others are told all the same: the store gives them to nobody again
    yield from _note(core, cleaned, cleaned=True)
    if failure is not None:
        raise failure
    gone, more_left = core.clients.lapse(now, limit, SWEEP_STEP)
    asked = yield from clients_left(core, gone, gone)
    for locator in core.residents.some(min(LOOKS, limit)) if core.residents.busy else ():
        yield from _look_for(core, locator, now, carrier)
    return len(ended), more or more_left, hooked + asked


def _look_for(core: Core, locator: bytes, now: float, carrier: Client | None) -> Plan[None]:
    """Clean up after a session that has values in this process, if another one has ended it: nobody tells this one of it."""
    record: Record | None = yield Ask(core.store.open, (locator, None, core.idle, now))
    if not core.residents.missed(locator, record is None):
        return
    yield from clean_late(core, None, core.residents.drop(locator))
    yield from _close_clients(core, locator, carrier)


def sweep(core: Core) -> Plan[int]:
    """End everything that is over; how many sessions."""
    total, more, begun = 0, True, core.clock()
    while more:
        now = core.clock()
        count, more, _ = yield from sweep_step(core, now)
        total += count
        if not count and now - begun >= LEASE:
            break  # what nobody here can clean up after may come due faster than it can be looked at
        yield Pause(core.sleep, (0,))  # other tasks have their turn between two steps (rule 16)
    return total


def in_passing(core: Core, exchange: Exchange, now: float) -> Plan[None]:
    """A request's share of the clearing up (`gc="passive"`). What goes wrong in it is not that request's trouble."""
    core.calm_from(now)
    hooked = any(isinstance(key, Key) and key.has_hooks for key in known_keys())
    limit, more, met = core.share if hooked else SWEEP_STEP, False, 0
    client = exchange.guard.reader.client(exchange.source)
    carrier = None if client is None or client.closing else client
    try:
        _, more, met = yield from sweep_step(core, now, limit, carrier)
    except Exception:
        logger.exception("clearing up expired sessions failed; it is tried again later")
        return
    finally:
        if hooked:
            core.share = next_share(limit, core.clock() - now, more, met)
        if carrier is not None and carrier.closing:
            exchange.client = carrier  # its session was among them: this request is still answered
    if more:
        core.next_sweep = now


def close(core: Core) -> Plan[None]:
    """Close every client, and run `cleanup_no_client` of their sessions: of what is gone with this process."""
    yield Whole(_close(core))


def _close(core: Core) -> Plan[None]:
    outlived = core.keeper is None  # by its store, and other processes may be serving the same visitors
    clients, lingering = core.clients.everyone()
    for client in clients:
        close_it = client.take_close()
        locators = core.clients.detach(client, core.clock())
        yield Aside(close_client(close_it))
        yield from clients_left(core, locators, closing=outlived)
    now = core.clock()
    yield from clients_left(core, [locator for locator in lingering if not core.clients.of(locator, now)], closing=outlived)
