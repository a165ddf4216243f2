"""`SessionManager`: sessions for threads. It carries out plans and store calls; what to do is decided elsewhere.

`aio` has the same names with `await`. The comments and docstrings here hold for both.
"""

from __future__ import annotations

import asyncio
import inspect
import math
import os
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar, cast, final

from typing_extensions import Self, override

from . import endings, plans, steps
from .background import Background
from .changes import Use
from .clients import Client
from .core import Core
from .durations import check_seconds
from .errors import SessionEnded, SessionError
from .events import Event
from .exchange import BAD_REQUEST, Exchange, Guard, Request
from .express import short_commit_of, short_opening_of
from .finish import Finish, close_exchange
from .keeper import absolute, is_cuttable
from .lifecycle import judge
from .policy import CookiePolicy
from .record import Record
from .session import Create, Error, Session, SessionView, tracking_of
from .settings import Configured, locator_of, to_be_ended
from .stores.base import Store
from .tracking import Tracking

E = TypeVar("E", bound=Event)
R = TypeVar("R")

SCAN_PAGE = 500


def run(plan: steps.Plan[R]) -> R:
    """Carry out a plan, one step after the other."""
    result: Any = None  # Any: what a step gives is the plan's business
    problem: BaseException | None = None
    while True:
        try:
            step = plan.send(result) if problem is None else plan.throw(problem)
        except StopIteration as stop:
            done: R = stop.value
            return done
        result, problem = None, None
        try:
            if type(step) is steps.Tell:
                result = step.function(*step.args)
                if inspect.isawaitable(result):
                    if inspect.iscoroutine(result):
                        result.close()
                    raise TypeError(f"{step.function!r} gave an awaitable, which SessionManager cannot await; use AsyncSessionManager")
            elif type(step) is steps.Whole or type(step) is steps.Aside:
                result = run(step.plan)
            else:
                result = step[0](*step[1])
        except BaseException as raised:
            problem = raised


@final
class SessionManager(Configured[Store]):
    """Sessions for threaded servers. Use it in a `with` block, or call `close()` when the server stops.

    store           where sessions are kept, the first argument; without one a `MemoryStore`
    cookie_policy   what the cookies are like; see `CookiePolicy`
    address_policy  from where a session may be used; see `AddressPolicy`
    seal            `SealingKeys`, to encrypt the values; without them they are readable in the store
    clock           tells the time in seconds since 1970, for tests

    For all others see `SessionOptions`; times are in seconds. Raises `PolicyError` for a wrong or unknown option, before anything else
    happens. What takes an `Exchange`, and `core`, is for the filters of this package, and changes without notice.
    """

    asynchronous = False

    @override
    def _begin(self) -> None:
        store: Store = self._core.store
        if inspect.iscoroutinefunction(store.open):
            raise TypeError(f"SessionManager({store!r}): that store is for AsyncSessionManager; use its synchronous sibling")
        self._store = store
        self._blocking = store.blocking
        self._short_opening = short_opening_of(self._core, store)
        self._short_commit = short_commit_of(self._core, store)
        core = self._core

        def forked() -> None:
            core.next_sweep = -math.inf  # the next request, which may be a child's first, has to look after the background

        self._background = Background(forked)

    def on(self, event: type[E], listener: Callable[[E], None], /) -> Callable[[], None]:
        """Call `listener` for every event of this class or a subclass, after those that were added before.

        The function that is returned removes it again.
        """
        return self._core.on(event, listener)

    # -------------------------------------------------------------- requests

    def start_check(
        self,
        request: Request,
        /,
        *,
        create: Create | None = None,
        check: Callable[[Session], bool] | None = None,
        cookie_policy: CookiePolicy | None = None,
        nosession: BaseException | None = None,
        error: Error = BAD_REQUEST,
    ) -> tuple[Session, Finish]:
        """The request's session, opened and checked, and the function that finishes the request.

        create         True, False or "on_write"; None for the manager's option
        check          whether the session is sound; False ends it, expires its cookies and answers `error`
        cookie_policy  instead of the manager's
        nosession      raised instead of `Rejected` when there is no session
        error          status and headers of the `Rejected` that is raised when a check fails

        Raises `Rejected` for a request that is refused: answer with its `status` and `headers`. Raises `StoreUnavailable`, and
        `NoPeerAddress` if there is no address that the session could be bound to.
        """
        return self.filter(create=create, check=check, cookie_policy=cookie_policy, nosession=nosession, error=error)(request)

    def filter(
        self,
        *,
        create: Create | None = None,
        check: Callable[[Session], bool] | None = None,
        cookie_policy: CookiePolicy | None = None,
        nosession: BaseException | None = None,
        error: Error = BAD_REQUEST,
    ) -> Callable[[Request], tuple[Session, Finish]]:
        """`start_check` with its settings held: they are checked once, and the function that is returned is called for each request."""
        guard = self._guard(cookie_policy, create=create, check=check, nosession=nosession, error=error)

        def start(request: Request) -> tuple[Session, Finish]:
            exchange = Exchange(guard, request)
            return self.open_exchange(exchange), Finish(self.commit_exchange, exchange)

        return start

    def open_exchange(self, exchange: Exchange) -> Session:
        """For filters: open the request's session."""
        core = self._core
        if self._short_opening is not None and (session := self._short_opening.open(exchange)) is not None:
            return session
        if self._blocking:
            _refuse_running_loop()
        now = core.clock()
        if not core.calm_since <= now < core.next_sweep:
            self._clear_up(exchange, now)
        presented = core.ask(exchange)
        record = None
        if presented is not None:
            record = self._store.open(
                presented.locator, Use(presented.locator, presented.tag_digest, exchange.address, core.any_address), core.idle, now
            )
            session = core.admit(exchange, presented, record, now)
        else:
            session = core.admit_nobody(exchange, now)
        if session is not None:
            return session
        return run(plans.open_session(core, exchange, presented, record, now))

    def _clear_up(self, exchange: Exchange, now: float) -> None:
        self._background.revive()
        if self._core.options.gc == "active":
            self._core.next_sweep = math.inf  # a thread of this process sweeps
        else:
            run(endings.in_passing(self._core, exchange, now))

    def pass_guard(self, exchange: Exchange, guard: Guard) -> None:
        """For filters: the request's session is open, and is within another filter's settings now."""
        run(plans.pass_guard(self._core, exchange, guard, self._core.clock()))

    def commit_exchange(self, exchange: Exchange, *, strict: bool = False) -> None:
        """For filters: commit what the request has done so far."""
        tracking = exchange.tracking
        if tracking is None or not (tracking.touched or (strict and tracking.over)):
            return
        if self._blocking:
            _refuse_running_loop()
        if self._short_commit is not None and not strict and self._short_commit.commit(exchange):
            return
        core = self._core
        now = core.clock()
        outcome = None
        if core.is_plain(tracking) and not strict:
            if tracking.record is None:
                draft = core.draft(exchange, now)
                if draft is None:
                    return
                if draft.residents:
                    run(plans.create(core, exchange, now))
                    return
                try:
                    created = self._store.create(draft.record, now)
                except BaseException as problem:
                    tracking.unanswered(problem)
                    raise
                if created == "created" and not core.has_listeners:
                    core.born(exchange, draft, {}, now)
                else:
                    run(plans.create(core, exchange, now, draft, created))
                return
            changes = tracking.changes()
            if changes is None and not exchange.resend_due:
                return
            if changes is not None and core.is_simple(changes):
                try:
                    outcome = self._store.commit(tracking.record.locator, changes, core.idle, now)
                except BaseException as problem:
                    tracking.unanswered(problem)
                    raise
                if core.settled(exchange, tracking, outcome):
                    return
        run(plans.commit(core, exchange, now, strict=strict, outcome=outcome))

    def abandon_exchange(self, exchange: Exchange) -> None:
        """For filters: the handler has failed. Nothing is committed; a session made for this request alone ends with it."""
        tracking = exchange.tracking
        if tracking is None or exchange.done:
            return
        try:
            run(plans.abandon(self._core, exchange))
        finally:
            close_exchange(exchange)

    def check_session_cookie(self, request: Request, /, *, cookie_policy: CookiePolicy | None = None) -> bool:
        """Whether the request's cookies and address open a session now. That does not count as a use, so prolongs nothing."""
        return self.get_session(request, cookie_policy=cookie_policy) is not None

    def get_session(self, request: Request, /, *, cookie_policy: CookiePolicy | None = None) -> SessionView | None:
        """The request's session for reading, or None; the cookies and the address are checked. It does not count as a use."""
        exchange = Exchange(self._guard(cookie_policy), request)
        record = self._look(exchange)
        return None if record is None else self._core.view(record, self._core.clock())

    def delete_session(self, request: Request, /, *, cookie_policy: CookiePolicy | None = None) -> list[tuple[str, str]]:
        """End the request's session, if its cookies and address open one; returns the headers for the response, which expire the cookies.

        A session that the request may not open is left alone, and so are the cookies.
        """
        exchange = Exchange(self._guard(cookie_policy), request)
        record = self._look(exchange)
        if record is not None:
            exchange.client = request.client
            exchange.expire = run(endings.end(self._core, record.locator, "ended", exchange))
        else:
            exchange.expire = exchange.verdict in ("dead", "expired")
        return exchange.headers()

    def _look(self, exchange: Exchange) -> Record | None:
        self._may_wait()
        core = self._core
        presented = core.ask(exchange)
        if presented is None:
            return None
        now = core.clock()
        record = self._store.open(presented.locator, None, core.idle, now)
        exchange.verdict = judge(presented, record, exchange.address, core.address_policy, now)
        return record if core.lets_in(exchange.verdict) else None

    def _may_wait(self) -> None:
        """Raise rather than hold up a running event loop (rule 27)."""
        if self._blocking:
            _refuse_running_loop()

    def commit(self, session: Session, /) -> None:
        """Commit in the middle of a request; afterwards `session[key]` is what is stored, also where other requests wrote to it.

        Raises `SessionEnded`, and what `finish()` raises. After a `StoreUnavailable` that is `unknown` the changes are dropped: they may
        have been stored, and nothing stores them once more.
        """
        self.commit_exchange(exchange_of(self._core, session), strict=True)

    def refresh(self, session: Session, /) -> None:
        """Read what others have committed, which is no use; own uncommitted changes stay. `SessionEnded` also after a renew elsewhere."""
        tracking = own_tracking(self._core, session)
        if tracking.closed:
            tracking.refuse_closed()
        record = tracking.record
        if record is None:
            return
        self._may_wait()
        now = self._core.clock()
        current = self._store.open(record.locator, None, self._core.idle, now)
        tracking.refreshed(still_open(record, current, now))

    def edit(self, handle: str, /) -> AbstractContextManager[Session]:
        """A session by its handle, for writing outside of a request; committed at the end of the block, unless that raises.

        Raises `NoSession` if there is none, and at the end `SessionEnded` if it has ended meanwhile, or what `finish()` raises. That is no
        use, so prolongs nothing. No cookie can be sent from here: `renew` raises `HeadersSent`.
        """
        return self._edit(handle)

    @contextmanager
    def _edit(self, handle: str) -> Generator[Session]:
        self._may_wait()
        exchange = Exchange(self._guard(None), None)
        locator = locator_of(handle)
        now = self._core.clock()
        record = None if locator is None else self._store.open(locator, None, self._core.idle, now)
        session = self._core.hand_out_for_edit(exchange, record, handle, now)
        try:
            yield session
            self.commit_exchange(exchange, strict=True)
        finally:
            close_exchange(exchange)

    # -------------------------------------------------------------- clients

    def connect(self, address: str | None, close: Callable[[], None], /) -> AbstractContextManager[Client]:
        """A connection, for the time of the block: give the client to `Request(client=...)` of every request on it.

        `close` is called, once and from any thread, when the only session on it has ended. At the end of the block the connection is gone,
        and `cleanup_no_client` runs for sessions that have no other. Raises TypeError for an address that is no text, and for
        a `close` that cannot be called.
        """
        return self._connected(Client(address, close))

    @contextmanager
    def _connected(self, client: Client) -> Generator[Client]:
        try:
            yield client
        finally:
            run(endings.clients_left(self._core, self._core.clients.detach(client, self._core.clock())))

    # -------------------------------------------------------------- all sessions

    def all(self) -> Iterator[SessionView]:
        """Every session that is not over, for reading: all are fetched from the store, some hundreds at a time."""
        self._may_wait()
        now = self._core.clock()
        after: bytes | None = None
        while True:
            records, after = self._store.scan(after, SCAN_PAGE)
            for record in records:
                if record.due > now:
                    yield self._core.view(record, now)
            if after is None:
                return

    def end(self, handle: str, /) -> bool:
        """End a session by its handle; False if there is none. Raises TypeError for anything but text.

        That of the request in which this is called ends as by `session.end()`, which expires its cookies.
        """
        self._may_wait()
        locator = locator_of(handle)
        return locator is not None and run(endings.end_by_handle(self._core, locator))

    def end_all(self, where: Callable[[SessionView], bool] | None = None, /, *, keep: Session | None = None) -> int:
        """End every session, or those for which `where(view)`; how many. `keep` is spared ("sign out everywhere else", ASVS 7.4.5).

        It looks at every session of the store, as `all` does: where there are many, keep the handles of a user's, and `end` those.
        """
        chosen = to_be_ended(where, keep)
        return sum(self.end(view.handle) for view in self.all() if chosen(view))

    def sweep(self) -> int:
        """End everything whose time is over, now; how many sessions. Not needed for timeouts to hold."""
        self._may_wait()
        return run(endings.sweep(self._core))

    # -------------------------------------------------------------- restarts

    def save_sessions(self, path: str | os.PathLike[str], /) -> int:
        """Write a snapshot of the memory store; how many sessions. Nothing in memory changes; resident values are not saved.

        From now on, ends and renewals of what a snapshot may hold are noted in `<path>.journal` before the response, so that none brings
        them back. That costs each an fsync for every path, so eight paths are kept up like this at most: then the one saved least
        recently is let go (never one loaded, nor that of `autosave`). A backup does not remember what ended after eight others were saved.
        Raises `StoreUnavailable` if the snapshot or the journal cannot be written; what was saved before is still there then. Raises
        `PolicyError` for a store other than a memory store, which keeps its sessions itself.
        """
        return self._keeper().save(path, self._core.clock())

    def load_sessions(self, path: str | os.PathLike[str], /, *, strict: bool = False) -> int:
        """Restore what `save_sessions` wrote; how many sessions. A missing file is no sessions.

        A damaged file is reported and kept under another name, and the previous good one is loaded; with `strict`, `SnapshotDamaged`.
        A warning is logged if another process saves to it: what that one saves from now on is not seen here. Raises `PolicyError` as
        `save_sessions` does.
        """
        count, problems = self._keeper().load(path, self._core.clock(), self)
        if strict and problems:
            raise problems[0]
        return count

    def autosave(self, path: str | os.PathLike[str], /, *, every: float = 60) -> None:
        """Save to `path` every so many seconds, and when the manager is closed. A failure is logged, and tried again next time.

        A program that a SIGTERM may stop has to see to it that it is closed then (see the README).
        A process that is forked afterwards saves nothing, and logs that with its first request: call this in the process that serves.
        If two processes save to one path, each overwrites what the other has saved; both log a warning, once.
        Raises `PolicyError` as `save_sessions` does, and for less than a thousandth of a second.
        """
        check_seconds("autosave(every=...)", every, 0.001)
        keeper, place = self._keeper(), absolute(path)
        keeper.saves_to(self, place)
        self._background.start("autosave", every, lambda: self.save_sessions(place))
        self._background.path = place

    @override
    def _tend(self) -> None:
        options = self._core.options
        self._background.revive()
        if options.gc == "active":
            self._background.start("sweep", max(options.granularity, 0.01), self.sweep)
        else:
            self._background.stop("sweep")

    def close(self) -> None:
        """Close every client, save if `autosave` was asked for, and let go of the store.

        First `cleanup_no_client` runs for what goes with this process: values of a memory store, and resident ones. Raises what saving
        raises; closing again saves again then.
        """
        self._background.stop_all()
        run(endings.close(self._core))
        try:
            if self._background.path is not None:
                self.save_sessions(self._background.path)
                self._background.path = None
        finally:
            if self._core.keeper is not None:
                self._core.keeper.leave(self)
            self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def own_tracking(core: Core, session: Session) -> Tracking:
    """What is behind a session that a manager is handed."""
    try:
        tracking = tracking_of(session)
    except AttributeError:
        raise TypeError(f"expected a Session, such as current_session() gives; not a value of type {type(session).__name__}") from None
    around = tracking.around
    another = around is not core and isinstance(around, Core) and around.store is not core.store
    if another and (is_cuttable(core.store) or is_cuttable(cast("Core", around).store)):
        # One of the two is a memory of its own: a new session would be stored where its cookie is never looked up.
        raise SessionError(
            f"this session is another manager's, and {core.store!r} is not where that keeps it: use the manager that the filter has, "
            "which is made in one module and imported by all others"
        )
    return tracking


def exchange_of(core: Core, session: Session) -> Exchange:
    """The exchange a session belongs to."""
    tracking = own_tracking(core, session)
    if tracking.closed:
        tracking.refuse_closed()
    if not isinstance(tracking.owner, Exchange):
        raise SessionError(
            "this session belongs to no request: a listener's changes need no commit, and those of an ended session go nowhere"
        )
    return tracking.owner


def still_open(seen: Record, current: Record | None, now: float) -> Record:
    """The current record if the secret that opened the session still does. Raises `SessionEnded`."""
    if current is None or now >= current.due:
        raise SessionEnded("the session has ended")
    if not current.opened_by(seen.digest, now):
        # Otherwise whoever held the session open before a sign-in would see what is in it after (session fixation).
        raise SessionEnded("the session was renewed by another request: this request's id opens it no more")
    return current


def _refuse_running_loop() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise SessionError(
        "SessionManager was used inside a running event loop, which its store's I/O would hold up: use AsyncSessionManager, and await it; "
        "in a coroutine under WSGI, such as an async view of Flask, give the filter eager=True, and the rest to asyncio.to_thread"
    )
