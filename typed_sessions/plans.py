"""The plans of a request: opening its session, committing what it has done, and giving up. See `steps` for what a plan is."""

from __future__ import annotations

import logging
from asyncio import CancelledError
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from .changes import Outcome
from .core import Core, Draft
from .endings import LEASE, clean_late, close_client, end, sweep_step
from .errors import COMMIT_FAILURES, Conflict, HeadersSent, Rejected, RejectedReason, SessionEnded, StoreUnavailable
from .events import AddressMismatch, Begin, CommitRefused, LostUpdate, ReusedOldId, ValueRefused
from .exchange import Exchange, Guard
from .finish import forget_changes
from .lifecycle import ANSWERS, Presented, ended_by, idle_of, issue, renewal, straggles
from .record import Record, SessionId
from .residents import Made
from .session import Opened, Session, SessionView, enter, leave
from .steps import Aside, Ask, Pause, Plan, Tell, Whole, Work, emit
from .stores.base import Created
from .tracking import Tracking

logger: logging.Logger = logging.getLogger("typed_sessions")

ATTEMPTS = 8
"""How often an id is drawn."""
AT_ONCE = 3
"""How often a commit is tried without a pause. Then there is one before every second attempt: the one between knows what is stored."""
SHORTEST, LONGEST = 0.001, 0.05
"""Seconds that a pause takes; where it ends between them is drawn, and the upper end doubles each time."""


# ------------------------------------------------------------------ opening


def open_session(core: Core, exchange: Exchange, presented: Presented | None, record: Record | None, now: float) -> Plan[Session]:
    """Give the request what its verdict and `create` say, or raise `Rejected`. The verdict is in the exchange."""
    client = exchange.guard.client(exchange.source)
    if client is not None and client.closing and exchange.client is not client:
        yield Aside(close_client(client.take_close()))
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
            exchange.verdict = "live" if presented.digest == record.digest else "previous"
            return (yield from _resume(core, exchange, presented, record, now))
    reason = None if record is None else ended_by(verdict, record, core.address_policy, core.options)
    if reason is not None and record is not None:
        exchange.client = client
        yield from end(core, record.locator, reason, carrier=client)
    refusal: RejectedReason = "bad_cookie" if verdict == "cookie" else "other_address" if verdict == "address" else "no_session"
    answer = ANSWERS["dead" if reason is not None else verdict][core.creates(exchange)]
    # Also one that comes with the secret of two renewals before, of which the record knows no more.
    straggler = record is not None and record.ending is None and reason is None and verdict in ("old", "dead") and straggles(record, now)
    exchange.expire = answer.expire and not straggler
    if answer.given == "rejected" or not core.options.enabled:
        raise exchange.reject(refusal)
    if answer.given == "new" and exchange.headers_sent:
        raise HeadersSent(
            "no session can be created any more: the response's headers have left, so its cookie could not be sent; "
            "open the session before the response starts"
        )
    core.require_address(exchange)
    session = core.hand_out(exchange, None, now)
    if straggler:
        assert exchange.tracking is not None
        exchange.tracking.replaced = record
    if not (yield from _sound(exchange, session)):
        exchange.expire = exchange.expire or (verdict == "dead" and not straggler)
        raise exchange.reject("check")
    if answer.given == "new" and not straggler:
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
    if not (yield from _sound(exchange, session)):
        yield from end(core, record.locator, "check", exchange)
        exchange.expire, exchange.resend = True, False
        raise exchange.reject("check")
    return session


def pass_guard(core: Core, exchange: Exchange, guard: Guard, now: float) -> Plan[None]:
    """A filter with settings of its own within another one of the same manager, whose session is open already: they hold from here on."""
    exchange.guard = guard
    tracking, session = exchange.tracking, exchange.session
    assert tracking is not None
    assert session is not None
    new = tracking.record is None
    wanted = core.creates(exchange)
    if new and wanted is False:
        tracking.forget_changes()
        raise exchange.reject("no_session")
    if not (yield from _sound(exchange, session)):
        tracking.forget_changes()
        if tracking.record is not None:
            yield from end(core, tracking.record.locator, "check", exchange)
            exchange.expire = not exchange.created
            exchange.resend, exchange.resend_due, exchange.issued = False, False, None
        raise exchange.reject("check")
    if new and wanted is True and tracking.replaced is None:
        yield from create(core, exchange, now)


def _sound(exchange: Exchange, session: Session) -> Plan[bool]:
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
        try:
            if draft.residents:
                created = yield from _create_with_residents(core, exchange, draft, now)
            else:
                created = yield from _told(exchange, Ask(core.store.create, (draft.record, now)))
        except CancelledError:
            yield from withdraw(core, draft.record)
            raise
    tracking, session = exchange.tracking, exchange.session
    if created == "taken" or draft is None or tracking is None or session is None:
        raise _repeated()
    if not draft.residents:
        core.born(exchange, draft, {}, now)
    told = core.listeners(Begin)
    if told:  # first of all: what follows may fail, or be cancelled
        yield from emit(core, Begin(SessionView(tracking)), session)
    if created == "crowded":
        yield from sweep_step(core, now)
    if told and (tracking.end_asked or tracking.changes() is not None):
        yield from commit(core, exchange, now, strict=False)


def withdraw(core: Core, record: Record) -> Plan[None]:
    """The request was cancelled while its session was being created: nobody will learn of its id. It goes, if it is there, and nobody hears
    of the end of what has not begun."""
    yield Whole(_withdraw(core, record))


def _withdraw(core: Core, record: Record) -> Plan[None]:
    try:
        if (yield Ask(core.store.end, (record.locator, "ended", core.clock(), LEASE))) is not None:
            yield Ask(core.store.clear, (record.locator, None))
    except StoreUnavailable as problem:
        logger.debug("a session that nobody knows of could not be ended, and stays for its timeout: %s", problem)


def _create_with_residents(core: Core, exchange: Exchange, draft: Draft, now: float) -> Plan[Created]:
    """Store a session that has values of this process, which somebody may end before it has them."""
    tracking, locator = exchange.tracking, draft.record.locator
    assert tracking is not None
    changes = tracking.resident_changes()
    made = core.residents.try_out(locator, changes)
    core.residents.expect(locator)
    try:
        created: Created = yield from _told(exchange, Ask(core.store.create, (draft.record, now)))
        if created != "taken":
            core.born(exchange, draft, core.residents.apply(locator, changes, made, []), now)
        return created
    finally:
        late = core.residents.settle(locator)
        if late:
            yield from clean_late(core, draft.record, late)


def _told(exchange: Exchange, step: Ask) -> Plan[Any]:
    """Tell the store."""
    tracking = exchange.tracking
    assert tracking is not None
    tracking.committing = True
    try:
        return (yield step)
    except BaseException as problem:
        tracking.unanswered(problem)
        raise
    finally:
        tracking.committing = False


def _new_secret(core: Core, record: Record) -> SessionId:
    for _ in range(ATTEMPTS):
        session_id = issue(core.draw, record.locator)
        if session_id.digest != record.digest and (record.previous is None or session_id.digest != record.previous.digest):
            return session_id
    raise _repeated()


def _repeated() -> StoreUnavailable:
    return StoreUnavailable(f"{ATTEMPTS} ids drawn in a row were taken: the source of random bytes repeats itself")


def commit(core: Core, exchange: Exchange, now: float, *, strict: bool, outcome: Outcome | None = None, again: bool = True) -> Plan[None]:
    """Commit what the request has done, whatever that takes. `outcome` is that of a first attempt that was not enough.

    What comes of a session that has ended meanwhile: `CommitRefused`, and with `strict` `SessionEnded` (rule 8). What listeners of
    `LostUpdate` change is committed too, but not `again` what those of that commit do, which would have no end.
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
        if not tracking.begins():
            return
        if tracking.replaced is None or tracking.renew_asked:
            yield from create(core, exchange, now)
            return
        yield from _refuse(core, exchange, tracking, tracking.replaced, "renewed", now)
        if strict:
            raise SessionEnded("the request came with a cookie that another one has just replaced: nothing of it is kept")
        return
    for name in dict.fromkeys(tracking.changed_after_all() if tracking.let_go else ()):
        logger.warning("%r was changed in place in a value that a commit or refresh had replaced, and that is lost: read it again", name)
        yield from emit(core, LostUpdate(SessionView(tracking), name), exchange.session)
    if not tracking.resident_changes():
        lost = yield from _commit_changes(core, exchange, tracking, record, now, strict, outcome)
    else:
        core.residents.expect(record.locator)
        try:
            lost = yield from _commit_changes(core, exchange, tracking, record, now, strict, outcome)
        finally:
            late = core.residents.settle(record.locator)
            if late:
                yield from clean_late(core, record, late)
    if lost and again and core.listeners(LostUpdate) and (tracking.end_asked or tracking.changes() is not None):
        try:
            yield from commit(core, exchange, core.clock(), strict=strict, again=False)
        except COMMIT_FAILURES:
            if tracking.end_asked:
                raise
            # The request's own changes are stored: it must not be told otherwise.
            forget_changes(exchange)
            logger.exception("what a listener of LostUpdate has changed in the session %s is not stored", record.locator.hex())


def _commit_changes(
    core: Core, exchange: Exchange, tracking: Tracking, record: Record, now: float, strict: bool, outcome: Outcome | None
) -> Plan[Sequence[str]]:
    """The names of the keys of which a change was lost; the listeners have been told."""
    lost: list[str] = []
    session_id = None
    seen: Record | None = None
    made: Mapping[str, Made] = {}
    replaced: set[str] = set()
    attempt, slept = 0, 0.0
    while True:
        if outcome is None:
            changes = tracking.changes()
            if changes is None:
                break
            if changes.set_timeout and changes.timeout is not None:
                changes.granularity = idle_of(changes.timeout, core.options).granularity
            if exchange.source is None:
                changes.counts_as_use = False  # an `edit`: nobody has come
            if tracking.renew_asked:
                address = exchange.address if exchange.address is not None else record.address
                session_id = _new_secret(core, record)
                changes.renewal = renewal(record, session_id, address, tracking.renew_overlap, tracking.presented)
            if changes.residents:
                made = core.residents.try_out(record.locator, tracking.resident_changes(), made)
            outcome = yield from _told(exchange, Ask(core.store.commit, (record.locator, changes, core.idle, now)))
            assert outcome is not None
        if outcome.status != "conflict" or outcome.record is None:
            break
        attempt += 1
        deadline = core.options.deadline
        if max(core.clock() - now, slept) >= deadline:  # a clock may be set back
            raise Conflict(
                f"other requests were faster {attempt} times within the deadline of {deadline:g} s: nothing was committed",
                names=tracking.changed_names(),
            )
        if attempt >= AT_ONCE and (attempt - AT_ONCE) % 2 == 0:
            slept += yield from _pause(core, tracking, (attempt - AT_ONCE) // 2)
        seen = outcome.record
        lost += tracking.rebase(seen, replaced)
        outcome = None
    if outcome is None:  # Nothing was written; or others have stored just that, or removed what was to be updated.
        if exchange.resend_due and not (strict or exchange.headers_sent):
            yield from _resend(core, exchange, tracking, record, seen)
        if seen is not None:
            _note_secret(tracking, record, seen, now)
        yield from _report_lost(core, exchange, tracking, lost)
        return lost
    if outcome.status != "committed" or outcome.record is None:
        reason: Literal["ended", "renewed"] = "renewed" if outcome.status == "superseded" else "ended"
        tracking.over = True
        exchange.resend, exchange.issued = False, None
        yield from _refuse(core, exchange, tracking, record, reason, now)
        if strict:
            raise SessionEnded(f"the session was {reason} by another request: nothing was committed")
        return ()
    after = outcome.record
    if session_id is not None and after.digest != session_id.digest and tracking.clear:
        # The renewal was left out, and nothing dropped: what is there is the other one's. An `update` went by an empty session.
        tracking.clear = False
        lost += [name for name, slot in tracking.slots.items() if slot.mode == "updated"]
    persistent_set, cleared = tracking.persistent_set, tracking.clear
    residents = core.residents.apply(record.locator, tracking.resident_changes(), made, lost)
    core.take_over(exchange, tracking, after, residents)
    if persistent_set and exchange.verdict == "live":
        exchange.resend = True
    if session_id is not None and after.digest == session_id.digest:
        exchange.issued = core.issued(session_id)
        if core.keeper is not None and core.keeper.keeping:
            yield Work(core.keeper.note_renewed, (after, cleared, now))
    else:
        _note_secret(tracking, record, after, now)
    yield from _report_lost(core, exchange, tracking, lost)
    return lost


def _note_secret(tracking: Tracking, record: Record, stored: Record, now: float) -> None:
    """Another request may have renewed the session first: the browser gets that answer's cookies, and none from here.

    Without an overlap that was a sign-in, and whoever had the session open before sees nothing of what is in it after (session fixation).
    """
    if stored.digest != record.digest:
        tracking.old_secret = True
        if not stored.opened_by(record.digest, now):
            tracking.shut_out(record)


def _resend(core: Core, exchange: Exchange, tracking: Tracking, record: Record, seen: Record | None) -> Plan[None]:
    """The cookie goes out again if it is still the session's: a slow answer must not put it over the one of a sign-in meanwhile."""
    exchange.resend_due = False
    if seen is None:
        try:
            seen = yield Ask(core.store.open, (record.locator, None, core.idle, core.clock()))
        except StoreUnavailable as problem:
            logger.debug(
                "the session %s could not be looked at; its cookie goes out with a later answer: %s", record.locator.hex(), problem
            )
    if seen is not None and seen.digest == record.digest and seen.due > core.clock():
        exchange.resend = True
        tracking.persistent = tracking.is_persistent(seen)  # another request may have chosen


def _refuse(
    core: Core, exchange: Exchange, tracking: Tracking, record: Record, reason: Literal["ended", "renewed"], now: float
) -> Plan[None]:
    """Drop what the request has done, and tell of it."""
    names = tracking.changed_names()
    # Of two sign-ins at the same time the second has said "welcome", and was none: somebody will ask why.
    level = logging.WARNING if tracking.renew_asked else logging.INFO
    tracking.forget_changes()
    logger.log(level, "a commit to the session %s was refused: %s", record.locator.hex(), reason)
    yield from emit(core, CommitRefused(core.view(record, now), reason, names))


def _pause(core: Core, tracking: Tracking, number: int) -> Plan[float]:
    """Step back, for those that collide to go apart; for how many seconds. Pauses are counted from 0."""
    drawn = int.from_bytes(core.draw(2), "big") / 65_536
    seconds = SHORTEST + drawn * (min(LONGEST, SHORTEST * (2 << min(number, 10))) - SHORTEST)
    tracking.committing = True
    try:
        yield Pause(core.sleep, (seconds,))
    finally:
        tracking.committing = False
    return seconds


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
    ended = False
    if record is not None:
        try:
            ended = yield from end(core, record.locator, "ended", exchange)
        except BaseException:
            # Whoever tries again has to sign out, and not to be told that it is over: an end can be said twice.
            tracking.over, tracking.end_asked, tracking.flagged, tracking.touched = False, True, True, True
            raise
    # A session that this very request created or renewed has cookies that never left.
    exchange.resend, exchange.issued = False, None
    if ended:  # otherwise another request has, and its cookies are that one's business (rule 23)
        exchange.expire = True


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
