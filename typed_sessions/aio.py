"""`AsyncSessionManager`: sessions for asyncio servers. The same names as `manager`, with `await` on what reaches the store."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, contextmanager
from functools import partial
from typing import Any, TypeVar, final

from typing_extensions import Self, override

from . import endings, plans
from .awaiting import awaited
from .carrying import Carrying
from .changes import Outcome, Use
from .clients import Client, Close
from .durations import check_seconds
from .errors import SessionEnded, StoreUnavailable
from .events import Event
from .exchange import BAD_REQUEST, Exchange, Guard, Request
from .finish import AsyncFinish, close_exchange
from .keeper import absolute
from .lifecycle import judge
from .manager import SCAN_PAGE, exchange_of, own_tracking, still_open
from .policy import CookiePolicy
from .record import Record
from .session import Create, Error, Session, SessionView
from .settings import locator_of, to_be_ended
from .stores.base import Created
from .tracking import Tracking

E = TypeVar("E", bound=Event)
R = TypeVar("R")

logger: logging.Logger = logging.getLogger("typed_sessions")

_STRIDE = 50
"""How many sessions are listed before other tasks have their turn."""


@final
class AsyncSessionManager(Carrying):
    """Sessions for asyncio servers. Use it in an `async with` block, or await `aclose()` when the server stops.

    Options, methods and errors are those of `SessionManager`, with `await` on what reaches the store. The store is an asynchronous one, or
    a synchronous one whose calls run in threads if they wait (`SQLiteStore`). What takes an `Exchange`, and `core`, `run` and `turn`, is
    for the filters of this package, and changes without notice.
    """

    asynchronous = True

    def on(self, event: type[E], listener: Callable[[E], Awaitable[None] | None], /) -> Callable[[], None]:
        """As `SessionManager.on`; a listener may be a coroutine function, which is awaited."""
        return self._core.on(event, listener)

    # -------------------------------------------------------------- requests

    @awaited
    async def start_check(
        self,
        request: Request,
        /,
        *,
        create: Create | None = None,
        check: Callable[[Session], Awaitable[bool] | bool] | None = None,
        cookie_policy: CookiePolicy | None = None,
        nosession: BaseException | None = None,
        error: Error = BAD_REQUEST,
    ) -> tuple[Session, AsyncFinish]:
        """As `SessionManager.start_check`; `check` may be a coroutine function, which is awaited."""
        return await self.filter(create=create, check=check, cookie_policy=cookie_policy, nosession=nosession, error=error)(request)

    def filter(
        self,
        *,
        create: Create | None = None,
        check: Callable[[Session], Awaitable[bool] | bool] | None = None,
        cookie_policy: CookiePolicy | None = None,
        nosession: BaseException | None = None,
        error: Error = BAD_REQUEST,
    ) -> Callable[[Request], Awaitable[tuple[Session, AsyncFinish]]]:
        """As `SessionManager.filter`; `check` may be a coroutine function, and what is returned is: `await guard(request)`."""
        guard = self._guard(cookie_policy, create=create, check=check, nosession=nosession, error=error)

        @awaited
        async def start(request: Request) -> tuple[Session, AsyncFinish]:
            exchange = Exchange(guard, request)
            return await self.open_exchange(exchange), AsyncFinish(self.commit_exchange, exchange)

        return start

    def open_soon(self, exchange: Exchange) -> Session | Awaitable[Session]:
        """For filters: open the request's session; at once, if there is nothing to wait for."""
        direct, core = self._direct, self._core
        if direct is None or exchange.opening is not None:
            return self.open_exchange(exchange)
        if self._tasks.repeated:
            self._tasks.start()
        session = None if self._short_opening is None else self._short_opening.open(exchange)
        if session is not None:
            return session
        now = core.clock()
        if not core.calm_since <= now < core.next_sweep:
            return self.open_exchange(exchange)
        presented = core.ask(exchange)
        record: Record | None = None
        if presented is not None:
            use = Use(presented.locator, presented.tag_digest, exchange.address, core.any_address)
            record = direct.open(presented.locator, use, core.idle, now)
            session = core.admit(exchange, presented, record, now)
        else:
            session = core.admit_nobody(exchange, now)
        if session is not None:
            return session
        return self._opened(exchange, self.run(plans.open_session(core, exchange, presented, record, now)))

    async def open_exchange(self, exchange: Exchange) -> Session:
        """For filters: open the request's session; once, however many tasks of the request ask for it at the same time."""
        while exchange.opening is not None:
            await exchange.opening.wait()
        if exchange.session is not None:
            return exchange.session
        if self._tasks.repeated:
            self._tasks.start()
        if self._short_opening is not None and (session := self._short_opening.open(exchange)) is not None:
            return session
        return await self._opened(exchange, self._open(exchange))

    async def pass_guard(self, exchange: Exchange, guard: Guard) -> None:
        """For filters: the request's session is open, and is within another filter's settings now."""
        await self._run_alone(exchange, plans.pass_guard(self._core, exchange, guard, self._core.clock()))

    async def _opened(self, exchange: Exchange, opened: Awaitable[Session]) -> Session:
        opening, of_request = asyncio.Event(), exchange.source is not None
        exchange.opening = opening
        try:
            session = await opened
            if of_request and exchange.source is None:  # in a task that has outlived the request
                close_exchange(exchange)
            return session
        finally:
            exchange.opening = None
            opening.set()

    async def _open(self, exchange: Exchange) -> Session:
        core = self._core
        now = core.clock()
        if not core.calm_since <= now < core.next_sweep:
            await self.run(endings.in_passing(core, exchange, now))
        presented = core.ask(exchange)
        record: Record | None = None
        if presented is not None:
            use = Use(presented.locator, presented.tag_digest, exchange.address, core.any_address)
            record = await self._ask(core.store.open, presented.locator, use, core.idle, now)
            session = core.admit(exchange, presented, record, now)
        else:
            session = core.admit_nobody(exchange, now)
        if session is not None:
            return session
        return await self.run(plans.open_session(core, exchange, presented, record, now))

    def commit_soon(self, exchange: Exchange) -> Callable[[], Awaitable[None]] | None:
        """For filters: commit what the request has done so far; what does it, or None if that is done, without having waited.

        No coroutine: whoever is given up before he awaits one is warned of it.
        """
        tracking, direct, core = exchange.tracking, self._direct, self._core
        if tracking is None or not tracking.touched or (self._short_commit is not None and self._short_commit.commit(exchange)):
            return None
        if direct is None or exchange.turn is not None or not core.is_plain(tracking):
            return partial(self.commit_exchange, exchange)
        now = core.clock()
        if tracking.record is None:
            draft = core.draft(exchange, now)
            if draft is None:
                return None
            if draft.residents:
                return partial(self._run_alone, exchange, plans.create(core, exchange, now))
            created = _told_at_once(tracking, direct.create, draft.record, now)
            if created != "created" or core.has_listeners:
                return partial(self._run_alone, exchange, plans.create(core, exchange, now, draft, created))
            core.born(exchange, draft, {}, now)
            return None
        changes = tracking.changes()
        if changes is None and not exchange.resend_due:
            return None
        if changes is None or not core.is_simple(changes):
            return partial(self.commit_exchange, exchange)
        outcome = _told_at_once(tracking, direct.commit, tracking.record.locator, changes, core.idle, now)
        if core.settled(exchange, tracking, outcome):
            return None
        return partial(self._run_alone, exchange, plans.commit(core, exchange, now, strict=False, outcome=outcome))

    async def commit_exchange(self, exchange: Exchange, *, strict: bool = False) -> None:
        """For filters: commit what the request has done so far; by then, if another task of it asks for the end meanwhile."""
        tracking = exchange.tracking
        if tracking is None or not (tracking.touched or (strict and tracking.over)):
            return
        if self._short_commit is not None and not strict and self._short_commit.commit(exchange):
            return
        await self._alone(exchange, self._commit, exchange, tracking, strict, tracking.forgotten)
        if tracking.end_asked and not strict:
            await self._alone(exchange, self._commit, exchange, tracking, strict, tracking.forgotten)

    async def _commit(self, exchange: Exchange, tracking: Tracking, strict: bool, forgotten: int) -> None:
        if tracking.forgotten != forgotten and not tracking.end_asked:
            raise StoreUnavailable("another task of the request was committing this, and nobody knows whether it is stored", unknown=True)
        if not (tracking.touched or (strict and tracking.over)):
            return  # another task of the request has committed it
        core = self._core
        now = core.clock()
        outcome: Outcome | None = None
        if core.is_plain(tracking) and not strict:
            if tracking.record is None:
                draft = core.draft(exchange, now)
                if draft is None:
                    return
                if draft.residents:
                    await self.run(plans.create(core, exchange, now))
                    return
                try:
                    created: Created = await self._told(tracking, core.store.create, draft.record, now)
                except asyncio.CancelledError:
                    await self.run(plans.withdraw(core, draft.record))
                    raise
                if created == "created" and not core.has_listeners:
                    core.born(exchange, draft, {}, now)
                else:
                    await self.run(plans.create(core, exchange, now, draft, created))
                return
            changes = tracking.changes()
            if changes is None and not exchange.resend_due:
                return
            if changes is not None and core.is_simple(changes):
                locator = tracking.record.locator
                outcome = await self._told(tracking, core.store.commit, locator, changes, core.idle, now)
                assert outcome is not None
                if core.settled(exchange, tracking, outcome):
                    return
        await self.run(plans.commit(core, exchange, now, strict=strict, outcome=outcome))

    async def _told(self, tracking: Tracking, verb: Callable[..., Any], *args: Any) -> Any:  # Any: as in `_ask`
        tracking.committing = True
        try:
            return await self._ask(verb, *args)
        except BaseException as problem:
            tracking.unanswered(problem)
            raise
        finally:
            tracking.committing = False

    async def abandon_exchange(self, exchange: Exchange) -> None:
        """For filters: the handler has failed; as in `SessionManager`."""
        if exchange.tracking is not None and not exchange.done:
            await self._alone(exchange, self._abandon, exchange)

    async def _abandon(self, exchange: Exchange) -> None:
        if not exchange.done:
            try:
                await self.run(plans.abandon(self._core, exchange))
            finally:
                close_exchange(exchange)  # also if this is given up too: what has been begun goes on

    async def use_exchange(self, exchange: Exchange, asked: float | None = None, *, look: bool = False) -> float | None:
        """For filters: a message came (a use) or leaves (`look`). When the store was asked last, as `asked` says; or `SessionEnded`."""
        tracking, core = exchange.tracking, self._core
        if tracking is None or tracking.record is None:
            return asked
        record, now = tracking.record, core.clock()
        if (tracking.over and not look) or (record.deadline is not None and now >= record.deadline):
            raise SessionEnded("the session has ended")
        before = record.used if not look else tracking.now if asked is None else asked  # None: not since it was opened
        if 0 <= now - before < record.granularity:
            return asked
        if look:
            try:
                still_open(record, await self._ask(core.store.open, record.locator, None, core.idle, now), now)
            except StoreUnavailable as problem:
                if now - before >= 2 * record.granularity:
                    raise
                # What is pushed need not fail for a moment's outage: the next message asks again.
                logger.warning("whether the session %s is still open could not be asked: %s", record.locator.hex(), problem)
                return asked
        elif await self._ask(core.store.touch, record.locator, record.digest, core.idle, now):
            record.used = now
        else:
            raise SessionEnded("the session has ended")
        return now

    @awaited
    async def check_session_cookie(self, request: Request, /, *, cookie_policy: CookiePolicy | None = None) -> bool:
        """As `SessionManager.check_session_cookie`."""
        return await self.get_session(request, cookie_policy=cookie_policy) is not None

    @awaited
    async def get_session(self, request: Request, /, *, cookie_policy: CookiePolicy | None = None) -> SessionView | None:
        """As `SessionManager.get_session`."""
        record = await self._look(Exchange(self._guard(cookie_policy), request))
        return None if record is None else self._core.view(record, self._core.clock())

    async def delete_session(self, request: Request, /, *, cookie_policy: CookiePolicy | None = None) -> list[tuple[str, str]]:
        """As `SessionManager.delete_session`."""
        exchange = Exchange(self._guard(cookie_policy), request)
        record = await self._look(exchange)
        if record is not None:
            exchange.client = request.client
            exchange.expire = await self.run(endings.end(self._core, record.locator, "ended", exchange))
        else:
            exchange.expire = exchange.verdict in ("dead", "expired")
        return exchange.headers()

    async def _look(self, exchange: Exchange) -> Record | None:
        core = self._core
        presented = core.ask(exchange)
        if presented is None:
            return None
        now = core.clock()
        record: Record | None = await self._ask(core.store.open, presented.locator, None, core.idle, now)
        exchange.verdict = judge(presented, record, exchange.address, core.address_policy, now)
        return record if core.lets_in(exchange.verdict) else None

    async def commit(self, session: Session, /) -> None:
        """As `SessionManager.commit`."""
        await self.commit_exchange(exchange_of(self._core, session), strict=True)

    async def refresh(self, session: Session, /) -> None:
        """As `SessionManager.refresh`."""
        tracking = own_tracking(self._core, session)
        if isinstance(tracking.owner, Exchange):
            await self._alone(tracking.owner, self._refresh, tracking)
        else:
            await self._refresh(tracking)

    async def _refresh(self, tracking: Tracking) -> None:
        if tracking.closed:
            tracking.refuse_closed()
        record = tracking.record
        if record is None:
            return
        now = self._core.clock()
        current: Record | None = await self._ask(self._core.store.open, record.locator, None, self._core.idle, now)
        tracking.refreshed(still_open(record, current, now))

    def edit(self, handle: str, /) -> AbstractAsyncContextManager[Session]:
        """As `SessionManager.edit`."""
        return self._edit(handle)

    @asynccontextmanager
    async def _edit(self, handle: str) -> AsyncGenerator[Session]:
        exchange = Exchange(self._guard(None), None)
        locator = locator_of(handle)
        now = self._core.clock()
        record: Record | None = None
        if locator is not None:
            record = await self._ask(self._core.store.open, locator, None, self._core.idle, now)
        session = self._core.hand_out_for_edit(exchange, record, handle, now)
        try:
            yield session
            await self.commit_exchange(exchange, strict=True)
        finally:
            close_exchange(exchange)

    # -------------------------------------------------------------- clients

    def connect(self, address: str | None, close: Close, /) -> AbstractContextManager[Client]:
        """As `SessionManager.connect`; `close` may be a coroutine function, and runs in the event loop. Nobody waits for it but `aclose`,
        which gives it up at the `deadline`.

        The clean-up of sessions that nobody is connected to any more runs in a task of its own.
        """
        return self._connected(Client(address, close))

    @contextmanager
    def _connected(self, client: Client) -> Generator[Client]:
        try:
            yield client
        finally:
            self.disconnected(client)

    def disconnected(self, client: Client) -> None:
        """For filters: the connection is gone."""
        left = self._core.clients.detach(client, self._core.clock())
        if left:
            self._tasks.spawn(self.run(endings.clients_left(self._core, left)))

    # -------------------------------------------------------------- all sessions

    async def all(self) -> AsyncIterator[SessionView]:
        """As `SessionManager.all`."""
        now = self._core.clock()
        after: bytes | None = None
        while True:
            records: Sequence[Record]
            records, after = await self._ask(self._core.store.scan, after, SCAN_PAGE)
            for number, record in enumerate(records):
                if number % _STRIDE == 0:
                    await asyncio.sleep(0)  # a memory store waits for nothing, and there may be a million
                if record.due > now:
                    yield self._core.view(record, now)
            if after is None:
                return

    async def end(self, handle: str, /) -> bool:
        """As `SessionManager.end`."""
        locator = locator_of(handle)
        return locator is not None and await self.run(endings.end_by_handle(self._core, locator))

    async def end_all(self, where: Callable[[SessionView], bool] | None = None, /, *, keep: Session | None = None) -> int:
        """As `SessionManager.end_all`."""
        chosen = to_be_ended(where, keep)
        ended = 0
        async for view in self.all():
            if chosen(view):
                ended += await self.end(view.handle)
        return ended

    async def sweep(self) -> int:
        """As `SessionManager.sweep`."""
        return await self.run(endings.sweep(self._core))

    # -------------------------------------------------------------- restarts

    async def save_sessions(self, path: str | os.PathLike[str], /) -> int:
        """As `SessionManager.save_sessions`; the file is written in a thread."""
        return await asyncio.to_thread(self._keeper().save, absolute(path), self._core.clock())

    async def load_sessions(self, path: str | os.PathLike[str], /, *, strict: bool = False) -> int:
        """As `SessionManager.load_sessions`."""
        count, problems = await asyncio.to_thread(self._keeper().load, absolute(path), self._core.clock(), self)
        if strict and problems:
            raise problems[0]
        return count

    def autosave(self, path: str | os.PathLike[str], /, *, every: float = 60) -> None:
        """As `SessionManager.autosave`; begins with the first request, or with `async with`."""
        check_seconds("autosave(every=...)", every, 0.001)
        keeper = self._keeper()
        place = self._tasks.path = absolute(path)
        keeper.saves_to(self, place)
        self._tasks.repeat("autosave", every, lambda: self.save_sessions(place))

    @override
    def _tend(self) -> None:
        options = self._core.options
        self._tasks.stop("sweep")
        if options.gc == "active":
            self._tasks.repeat("sweep", max(options.granularity, 0.01), self.sweep)
        self._tasks.start()

    async def aclose(self) -> None:
        """As `SessionManager.close`."""
        if self.turn is not None and self._tasks.is_waited_for():
            return  # in a listener: whoever closes is waiting for it
        await self._alone(self, self._close)

    async def _close(self) -> None:
        await self._tasks.stop_all()
        await self.run(endings.close(self._core))
        await self._tasks.settle(self._core.options.deadline)
        try:
            if self._tasks.path is not None:
                await self.save_sessions(self._tasks.path)
                self._tasks.path = None
        finally:
            if self._core.keeper is not None:
                self._core.keeper.leave(self)
            await (self._ask(self._core.store.close) if self._offloop is None else self._offloop.close())

    async def __aenter__(self) -> Self:
        self._tasks.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()


def _told_at_once(tracking: Tracking, verb: Callable[..., R], *args: Any) -> R:  # Any: as in `_ask`
    try:
        return verb(*args)
    except BaseException as problem:
        tracking.unanswered(problem)
        raise
