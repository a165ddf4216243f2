"""What takes a manager more than one call: plans that say what to do next and are told what came of it. No I/O in here.

A plan is a generator. It yields a step, somebody else carries it out, and the result (or the exception) comes back in:

    Ask    a verb of the store
    Tell   a function of the user: a hook, a listener, a client's `close`
    Work   work of ours that waits for a disk
    Whole  a plan of its own, which is not left half done when the request is cancelled

`run` in `manager` carries the steps out one after the other, the one in `aio` awaits what has to be awaited. Since user code only runs
in a Tell, it runs with no lock held, and what it raises is reported here and stops nothing else (rule 10).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar, final

from .changes import Changes, Outcome
from .clients import Client
from .core import SWEEP_STEP, Core, Draft
from .errors import Conflict, HeadersSent, Rejected, RejectedReason, SessionEnded, StoreUnavailable
from .events import AddressMismatch, Begin, CommitRefused, End, Event, LostUpdate, ReusedOldId, ValueRefused
from .exchange import Exchange
from .keys import Key, known_key, somebody_cleans_up
from .lifecycle import ANSWERS, Presented, ended_by, idle_of, issue, opens, renewal
from .record import FIELD_HOOKED, EndReason, Record, SessionId, field_revision
from .session import Opened, Session, SessionView, carrying, enter, leave, tracking_of
from .stores.base import Created
from .tracking import Tracking

logger = logging.getLogger("typed_sessions")

R = TypeVar("R")

ATTEMPTS = 8
"""How often a commit is repeated, and an id drawn."""
LEASE = 60.0
"""Seconds for which one process has an ended session to itself while it runs the hooks."""
_FLAGS_AT = 6


class Ask(NamedTuple):
    """Call a verb of the store."""

    verb: Callable[..., Any]
    args: tuple[Any, ...]


class Tell(NamedTuple):
    """Call a function of the user's; it may give an awaitable."""

    function: Callable[..., Any]
    args: tuple[Any, ...]


class Work(NamedTuple):
    """Do something that waits for a disk."""

    function: Callable[..., Any]
    args: tuple[Any, ...]


@final
class Whole(NamedTuple):
    """Carry out a plan to its end, also when whoever waits for it is cancelled: what has ended is cleaned up after (rule 13)."""

    plan: Plan[Any]


Plan: TypeAlias = Generator[Ask | Tell | Work | Whole, Any, R]  # Any: each step has a result of its own type


# ------------------------------------------------------------------ opening


def open_session(core: Core, exchange: Exchange, presented: Presented | None, record: Record | None, now: float) -> Plan[Session]:
    """Give the request what its verdict and `create` say, or raise `Rejected`. The verdict is in the exchange."""
    client = exchange.guard.client(exchange.source)
    if client is not None and client.closing and exchange.client is not client:
        yield from _close(client.take_close())
        raise Rejected(
            "no_session", exchange.guard.error[0], exchange.guard.error[1], "the connection's session has ended: it is being closed"
        )
    verdict = exchange.verdict
    if verdict in ("live", "previous") and record is not None and presented is not None:
        return (yield from _resume(core, exchange, presented, record, now))
    if record is not None and verdict == "old":
        yield from emit(core, ReusedOldId(core.view(record, now), exchange.address))
    elif record is not None and verdict in ("cookie", "address"):
        mismatch = AddressMismatch(
            core.view(record, now), exchange.address, record.address, "address" if verdict == "address" else "cookie"
        )
        yield from emit(core, mismatch)
        # A wrong address cookie was put together by hand: nobody is let in with it, whatever the policy says of addresses.
        if verdict == "address" and core.address_policy.mismatch == "report" and presented is not None:
            exchange.verdict = "live"
            return (yield from _resume(core, exchange, presented, record, now))
    reason = None if record is None else ended_by(verdict, record, core.address_policy, core.options, now)
    if reason is not None and record is not None:
        exchange.client = client
        yield from end(core, record.locator, reason, carrier=client)
    refusal: RejectedReason = "bad_cookie" if verdict == "cookie" else "other_address" if verdict == "address" else "no_session"
    answer = ANSWERS["dead" if reason is not None else verdict][core.creates(exchange)]
    exchange.expire = answer.expire
    if answer.given == "rejected" or not core.options.enabled:
        raise exchange.reject(refusal)
    if answer.given == "new" and exchange.headers_sent:
        raise HeadersSent(
            "no session can be created any more: the response's headers have left, so its cookie could not be sent; "
            "open the session before the response starts"
        )
    core.require_address(exchange)
    session = core.hand_out(exchange, None, now)
    if not (yield from _sound(core, exchange, session)):
        exchange.expire = exchange.expire or verdict == "dead"
        raise exchange.reject("check")
    if answer.given == "new":
        yield from create(core, exchange, now)
    return session


def _resume(core: Core, exchange: Exchange, presented: Presented, record: Record, now: float) -> Plan[Session]:
    if core.use_is_due(record, now):
        digest = presented.digest
        if (yield Ask(core.store.touch, (record.locator, digest, core.idle, now))):
            record = record.copy()
            if not 0 <= now - record.used < record.granularity:
                record.used, record.use_written = now, True
    session = core.hand_out(exchange, record, now)
    if exchange.verdict == "previous":
        assert exchange.tracking is not None
        exchange.tracking.old_secret = True
    if not (yield from _sound(core, exchange, session)):
        yield from end(core, record.locator, "check", exchange)
        exchange.expire, exchange.resend = True, False
        raise exchange.reject("check")
    return session


def _sound(core: Core, exchange: Exchange, session: Session) -> Plan[bool]:
    check = exchange.guard.check
    if check is None:
        return True
    token = enter(Opened(session))
    try:
        return bool((yield Tell(check, (session,))))
    finally:
        leave(token)


# ------------------------------------------------------------------ committing


def create(core: Core, exchange: Exchange, now: float, draft: Draft | None = None, created: Created = "taken") -> Plan[None]:
    """Store the request's new session with what it holds so far; `draft` and `created` are those of a first attempt."""
    for _ in range(ATTEMPTS if draft is None else ATTEMPTS - 1):
        if created != "taken":
            break
        draft = core.draft(exchange, now, forced=True)
        assert draft is not None
        created = yield Ask(core.store.create, (draft.record, now))
    tracking, session = exchange.tracking, exchange.session
    if created == "taken" or draft is None or tracking is None or session is None:
        raise _repeated()
    core.born(exchange, draft, core.residents.apply(draft.record.locator, tracking.resident_changes()), now)
    if created == "crowded":
        yield from sweep_step(core, now)
    if core.listeners(Begin):
        yield from emit(core, Begin(SessionView(tracking)), session)
        if tracking.end_asked or tracking.changes() is not None:
            yield from commit(core, exchange, now, strict=False)


def _new_secret(core: Core, record: Record, address: str | None) -> SessionId:
    for _ in range(ATTEMPTS):
        session_id = issue(core.draw, record.locator)
        if session_id.digest != record.digest and (record.previous is None or session_id.digest != record.previous.digest):
            return session_id
    raise _repeated()


def _repeated() -> StoreUnavailable:
    return StoreUnavailable(f"{ATTEMPTS} ids drawn in a row were taken: the source of random bytes repeats itself")


def commit(core: Core, exchange: Exchange, now: float, *, strict: bool, outcome: Outcome | None = None) -> Plan[None]:
    """Commit what the request has done, whatever that takes. `outcome` is that of a first attempt that was not enough.

    What comes of a session that has ended meanwhile: `CommitRefused`, and with `strict` `SessionEnded` (rule 8).
    """
    tracking = exchange.tracking
    assert tracking is not None
    yield from _report_refused(core, exchange, tracking)
    if tracking.over or tracking.discarding:
        tracking.forget_changes()
        if strict:
            raise SessionEnded("the session has ended: nothing of it can be committed any more")
        return
    record = tracking.record
    if tracking.end_asked:
        yield from _end_own(core, exchange, record)
        return
    if record is None:
        if tracking.begins():
            yield from create(core, exchange, now)
        return
    if not tracking.resident_changes():
        yield from _commit_changes(core, exchange, tracking, record, now, strict, outcome)
        return
    core.residents.expect(record.locator)
    try:
        yield from _commit_changes(core, exchange, tracking, record, now, strict, outcome)
    finally:
        late = core.residents.settle(record.locator)
        if late:
            yield from _clean_late(core, record, late)


def _commit_changes(
    core: Core, exchange: Exchange, tracking: Tracking, record: Record, now: float, strict: bool, outcome: Outcome | None
) -> Plan[None]:
    deadline = now + core.options.deadline
    lost: list[str] = []
    session_id = None
    for attempt in range(ATTEMPTS + 1):
        if outcome is None:
            changes = tracking.changes()
            if changes is None:
                break
            if changes.set_timeout and changes.timeout is not None:
                changes.granularity = idle_of(changes.timeout, core.options).granularity
            if tracking.renew_asked:
                address = exchange.address if exchange.address is not None else record.address
                session_id = _new_secret(core, record, address)
                changes.renewal = renewal(record, session_id, address, tracking.renew_overlap)
            outcome = yield Ask(core.store.commit, (record.locator, changes, core.idle, now))
            assert outcome is not None
        if outcome.status != "conflict" or outcome.record is None:
            break
        if attempt == ATTEMPTS or core.clock() > deadline:
            raise Conflict(f"other requests were faster {attempt + 1} times: nothing was committed", names=tracking.changed_names())
        lost += tracking.rebase(outcome.record)
        outcome = None
    if outcome is None:  # Others have stored just that, or removed what was to be updated: nothing is left to commit.
        yield from _report_lost(core, exchange, tracking, lost)
        return
    if outcome.status != "committed" or outcome.record is None:
        names = tracking.changed_names()
        reason: Literal["ended", "renewed"] = "renewed" if outcome.status == "superseded" else "ended"
        tracking.over = True
        tracking.forget_changes()
        exchange.resend, exchange.issued = False, None
        logger.info("a commit to the session %s was refused: %s", record.locator.hex(), reason)
        yield from emit(core, CommitRefused(core.view(record, now), reason, names))
        if strict:
            raise SessionEnded(f"the session was {reason} by another request: nothing was committed")
        return
    after = outcome.record
    persistent_set, cleared = tracking.persistent_set, tracking.clear
    residents = core.residents.apply(record.locator, tracking.resident_changes())
    core.take_over(exchange, tracking, after, residents)
    if persistent_set and exchange.verdict == "live":
        exchange.resend = True
    if session_id is not None and after.digest == session_id.digest:
        exchange.issued = core.issued(session_id)
        if core.keeper is not None and core.keeper.keeping:
            yield Work(core.keeper.note_renewed, (after, cleared, now))
    elif after.digest != record.digest:
        # Another request has renewed it first: the browser gets that answer's cookies, and none from here. Without an overlap that
        # was a sign-in, and whoever had the session open before it sees nothing of what is in it after (session fixation).
        tracking.old_secret = True
        if not opens(after, record.digest, now):
            tracking.shut_out(record)
    yield from _report_lost(core, exchange, tracking, lost)


def _report_lost(core: Core, exchange: Exchange, tracking: Tracking, names: Sequence[str]) -> Plan[None]:
    for name in dict.fromkeys(names):
        logger.warning("two requests changed %r at the same time, and one of the changes is lost", name)
        yield from emit(core, LostUpdate(SessionView(tracking), name), exchange.session)
    yield from _report_refused(core, exchange, tracking)


def _report_refused(core: Core, exchange: Exchange, tracking: Tracking) -> Plan[None]:
    """Send `ValueRefused` for the stored values that were refused since the last time."""
    while tracking.refusals is not None:
        refusals, tracking.refusals = tracking.refusals, None
        for name, why in refusals:
            yield from emit(core, ValueRefused(SessionView(tracking), name, why), exchange.session)


def _end_own(core: Core, exchange: Exchange, record: Record | None) -> Plan[None]:
    tracking = exchange.tracking
    assert tracking is not None
    tracking.forget_changes()
    tracking.over = True
    # A session that this very request created or renewed has cookies that never left.
    exchange.resend, exchange.issued = False, None
    if record is not None and not (yield from end(core, record.locator, "ended", exchange)):
        return  # another request has ended it: its cookies are that one's business (rule 23)
    exchange.expire = exchange.expire or record is not None


def abandon(core: Core, exchange: Exchange) -> Plan[None]:
    """The handler has failed: commit nothing. A session that was made for this request ends, since nobody will learn of its id."""
    tracking = exchange.tracking
    assert tracking is not None
    tracking.forget_changes()
    if exchange.created and not exchange.headers_sent and tracking.record is not None:
        try:
            yield from end(core, tracking.record.locator, "ended")
        except StoreUnavailable:
            logger.exception("a session that nobody knows of could not be ended")  # the handler's own failure is what counts


# ------------------------------------------------------------------ ending


def end(core: Core, locator: bytes, reason: EndReason, by: Exchange | None = None, *, carrier: Client | None = None) -> Plan[bool]:
    """End a session, now and for good; False if it had ended already.

    `by` is the exchange of the request that asked for it; `carrier` the connection of one in which it merely came out.
    """
    if by is None and carrier is None:
        carrier = carrying()
    ended: bool = yield Whole(_end(core, locator, reason, by, carrier))
    return ended


def _end(core: Core, locator: bytes, reason: EndReason, by: Exchange | None, carrier: Client | None) -> Plan[bool]:
    record = yield Ask(core.store.end, (locator, reason, core.clock(), LEASE))
    if record is None:
        return False
    failure = yield from _note(core, [record])
    if (yield from bury(core, record, by, carrier)):
        yield from _note(core, [record], cleaned=True)
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


def bury(core: Core, record: Record, by: Exchange | None = None, carrier: Client | None = None) -> Plan[bool]:
    """Everything that follows when a session has been marked as ended, in the order of rule 13; whether all hooks that it has have run."""
    now = core.clock()
    ending = record.ending
    assert ending is not None
    left: list[str] = []
    tracking = core.tracking_of(record, record.address, now)
    tracking.discarding = True
    session = Session(tracking)
    if _is_first(record):
        yield from emit(core, End(SessionView(tracking), ending.reason), session)
    residents = core.residents.drop(record.locator)  # what comes now falls to the commit that brings it
    stored = core.tracking_of(record, record.address, now)  # what is in `session`, listeners and hooks may have changed
    for view in (tracking, stored):
        view.hold_residents(residents)
    for name in [*record.fields, *residents]:
        key = known_key(name)
        if isinstance(key, Key) and key.has_hooks:
            yield from _clean(core, session, key, stored)
    if record.hooked:
        hooked = [name for name, packed in record.fields.items() if packed[_FLAGS_AT] & FIELD_HOOKED]
        left = [name for name in hooked if known_key(name) is None and now < ending.at + core.options.reap_grace]
        yield Ask(core.store.clear, (record.locator, [name for name in record.fields if name not in left] if left else None))
    tracking.closed = True
    for client in core.clients.ended(record.locator):
        if client is carrier or (by is not None and client is by.client):
            client.closing = True  # after the response that is on its way on it
        else:
            yield from _close(client.take_close())
    return record.hooked and not left


def _clean_late(core: Core, record: Record, residents: Mapping[str, object]) -> Plan[None]:
    """Values of this process that a commit has put into a session whose clean-up was over by then."""
    stored, tracking = (core.tracking_of(record, record.address, core.clock()) for _ in range(2))
    for view in (tracking, stored):
        view.hold_residents(residents)
    tracking.discarding = True
    for name in residents:
        key = known_key(name)
        if isinstance(key, Key) and key.has_hooks:
            yield from _clean(core, Session(tracking), key, stored)
    tracking.closed = True


def _clean(core: Core, session: Session, key: Key[Any], stored: Tracking) -> Plan[None]:
    slot = stored.slot(key)
    if not slot.present:
        return
    keep: object = True
    if key.cleanup_no_client is not None:
        keep = yield from _tell(core, session, key.cleanup_no_client, slot.value, f"cleanup_no_client of {key!r}", True)
    if keep and key.cleanup_delete is not None:
        yield from _tell(core, session, key.cleanup_delete, slot.value, f"cleanup_delete of {key!r}", None)


def _tell(core: Core, session: Session | None, function: Callable[..., Any], value: object, what: str, otherwise: object) -> Plan[object]:
    token = enter(None if session is None else Opened(session))
    try:
        return (yield Tell(function, (value,)))
    except Exception:
        logger.exception("%s raised; everything else goes on", what)
        return otherwise
    finally:
        leave(token)


def _close(close: Callable[[], Any] | None) -> Plan[None]:
    if close is None:
        return
    try:
        yield Tell(close, ())
    except Exception:
        logger.exception("closing a client raised; everything else goes on")


def clients_left(core: Core, locators: Sequence[bytes]) -> Plan[None]:
    """Nobody is connected to these sessions any more. What goes wrong then is logged: there is nobody left to tell."""
    if not somebody_cleans_up():
        return  # without a trip for each
    for locator in locators:
        try:
            yield from _last_client_left(core, locator)
        except Exception:
            logger.exception("cleaning up after the last client of the session %s failed", locator.hex())


def _last_client_left(core: Core, locator: bytes) -> Plan[None]:
    """Run `cleanup_no_client` of a session that nobody is connected to any more, and drop the values for which it says False."""
    now = core.clock()
    record: Record | None = yield Ask(core.store.open, (locator, None, core.idle, now))
    if record is None:
        return
    residents = core.residents.of(locator)
    tracking = core.tracking_of(record, record.address, now)
    session = Session(tracking)
    values = core.tracking_of(record, record.address, now)  # what is in `session`, hooks may change
    dropped: list[str] = []
    for name in [*record.fields, *residents]:
        key = known_key(name)
        if isinstance(key, Key) and key.cleanup_no_client is not None and values.slot(key).present:
            value = values.slot(key).value
            if not (yield from _tell(core, session, key.cleanup_no_client, value, f"cleanup_no_client of {key!r}", True)):
                dropped.append(name)
                if name in residents:
                    core.residents.remove(locator, name, value)
    tracking.closed = True
    # Only the very values that the hooks have seen: a request that came meanwhile may have set others.
    while stored := {name: record.fields[name] for name in dropped if name in record.fields}:
        changes = Changes()
        changes.counts_as_use = False
        for name, packed in stored.items():
            changes.remove(name, field_revision(packed))
        outcome: Outcome = yield Ask(core.store.commit, (locator, changes, core.idle, now))
        if outcome.status != "conflict" or outcome.record is None:
            return
        current = outcome.record.fields
        dropped = [name for name, packed in stored.items() if current.get(name) == packed]


# ------------------------------------------------------------------ clearing up, and closing


def sweep_step(core: Core, now: float, limit: int = SWEEP_STEP, carrier: Client | None = None) -> Plan[tuple[int, bool]]:
    """End what is over, `limit` records at most; how many ended, and whether there is more. `carrier` waits for its response."""
    done: tuple[int, bool] = yield Whole(_sweep_step(core, now, limit, carrier))
    return done


def _sweep_step(core: Core, now: float, limit: int, carrier: Client | None) -> Plan[tuple[int, bool]]:
    records: Sequence[Record]
    records, more = yield Ask(core.store.sweep, (now, limit, LEASE, core.options.reap_grace))
    yield from _note(core, [record for record in records if _is_first(record)])
    cleaned: list[Record] = []
    for record in records:
        if (yield from bury(core, record, carrier=carrier)):
            cleaned.append(record)
    yield from _note(core, cleaned, cleaned=True)
    left = core.clients.lapse(now, limit)
    yield from clients_left(core, left)
    return len(records), more or len(left) == limit


def sweep(core: Core) -> Plan[int]:
    """End everything that is over; how many sessions."""
    total, more = 0, True
    while more:
        count, more = yield from sweep_step(core, core.clock())
        total += count
    return total


def in_passing(core: Core, exchange: Exchange, now: float) -> Plan[None]:
    """A request's share of the clearing up (`gc="passive"`). What goes wrong in it is not that request's trouble."""
    core.next_sweep = now + core.options.granularity
    client = exchange.guard.reader.client(exchange.source)
    carrier = None if client is None or client.closing else client
    try:
        _, more = yield from sweep_step(core, now, carrier=carrier)
    except Exception:
        logger.exception("clearing up expired sessions failed; it is tried again later")
        return
    finally:
        if carrier is not None and carrier.closing:
            exchange.client = carrier  # its session was among them: this request is still answered
    if more:
        core.next_sweep = now


def close(core: Core) -> Plan[None]:
    """Close every client, and run `cleanup_no_client` of their sessions."""
    clients, lingering = core.clients.everyone()
    for client in clients:
        close_client = client.take_close()
        locators = core.clients.detach(client)
        yield from _close(close_client)
        yield from clients_left(core, locators)
    now = core.clock()
    yield from clients_left(core, [locator for locator in lingering if not core.clients.of(locator, now)])


def emit(core: Core, event: Event, session: Session | None = None) -> Plan[None]:
    """Tell the listeners, in the order of subscription; in each, `current_session()` is the session."""
    listeners = core.listeners(type(event))
    if not listeners:
        return
    if session is None:
        session = Session(tracking_of(event.session))
    for listener in listeners:
        yield from _tell(core, session, listener, event, f"a listener of {type(event).__name__} ({listener!r})", None)
