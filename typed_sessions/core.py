"""What the synchronous and the asynchronous manager have in common, and what of it needs no I/O.

Every request is *prepare, one store call, conclude*. `ask` and `admit` are the two ends of opening a session; `draft` and `born` those of
creating one, and `is_plain`, `is_simple` and `settled` say whether committing changes was that one call. Between them a manager makes the
call in its own way. This is the way of most requests, so they are plain functions. Whatever takes more is a plan (see `plans`), and where
the call is none, the store being in memory, what takes the least has a shorter way yet (see `express`).
"""

from __future__ import annotations

import inspect
import logging
import math
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from hmac import compare_digest
from typing import Any, TypeVar, final

import msgspec

from .address import NOT_TRUSTED, AddressPolicy, Origin
from .changes import Changes, Idle, Outcome
from .clients import Client, Clients
from .errors import KeyTypeError, NoPeerAddress, NoSession, PolicyError, Rejected
from .events import Event
from .exchange import Exchange, Guard
from .forks import tell_of_forks
from .keeper import Keeper
from .keys import Key
from .lifecycle import Draw, Presented, Verdict, idle_of, issue, judge, new_record, present, present_at_once
from .options import SessionOptions
from .policy import CookiePolicy
from .record import HOOKED, LOCATOR_BYTES, REUSED, Record, SessionId
from .residents import Residents
from .sealing import SealingKeys
from .session import Create, Session, SessionView
from .tracking import Tracking
from .view import View

logger: logging.Logger = logging.getLogger("typed_sessions")

E = TypeVar("E", bound=Event)

SWEEP_STEP = 32
"""How much a request does, at most, of the clearing up that has come due."""
FIRST_SHARE = 4
"""With how much of it requests begin where there are hooks, of which nobody knows how long they take."""
QUICK = 0.05
"""Seconds: what a request may well wait for the hooks of others."""
_LOOKS = 100
"""Behind a proxy all requests come through it: whether there is one the first sessions tell, and no later one pays for the question."""


@final
class Draft(msgspec.Struct, frozen=True):
    """A session that is about to be created."""

    session_id: SessionId
    record: Record
    residents: bool = False


@final
class Core:
    """The state of one manager. `store` is a `Store` or an `AsyncStore`: nothing in here calls its verbs."""

    def __init__(
        self,
        store: Any,  # Any: a Store or an AsyncStore; the manager whose verbs it holds knows which
        options: SessionOptions,
        cookie_policy: CookiePolicy,
        address_policy: AddressPolicy,
        seal: SealingKeys | None,
        clock: Callable[[], float],
        *,
        asynchronous: bool,
    ) -> None:
        for name, value, expected, wanted in (
            ("cookie_policy", cookie_policy, CookiePolicy, "a CookiePolicy"),
            ("address_policy", address_policy, AddressPolicy, "an AddressPolicy"),
            ("seal", seal, (SealingKeys, type(None)), "SealingKeys([...])"),
        ):
            if not isinstance(value, expected):
                raise PolicyError(f"{name}=...: expected {wanted}, not a value of type {type(value).__name__}")  # it may be a key
        if not callable(clock):
            raise PolicyError(f"clock = {clock!r}: expected a function that gives the time, in seconds since 1970")
        self.store = store
        self.cookie_policy = cookie_policy
        self.address_policy = address_policy
        self.clock = clock
        self.draw: Draw = secrets.token_bytes
        self.sleep: Callable[[float], Any] = time.sleep
        """For a `Pause`: what waits so many seconds, in a synchronous manager's thread or (awaited) in an event loop."""
        self.asynchronous = asynchronous
        self.clients: Clients = Clients(options.max_clients)
        self.residents: Residents = Residents()
        self.keeper: Keeper | None = None
        self._seal = seal
        self._untold = False
        """There have been requests on connections that nobody tells about."""
        self.plain: bool = seal is None
        self._listeners: tuple[tuple[type[Event], Callable[[Any], object]], ...] = ()
        self._lock = threading.Lock()

        # The peer of most requests is one of few, and without proxies nothing else counts.
        def origin_of(peer: str | None) -> Origin:
            return address_policy.origin(peer, _no_headers)

        self.origin_of: Callable[[str | None], Origin] = lru_cache(4096)(origin_of)
        self.trusts: bool = bool(address_policy.trusted_proxies)
        self.any_address: bool = address_policy.match == "off"
        self.looks: int = _LOOKS
        """At how many sessions that begin it is still looked whether they come through a proxy that has not been named."""
        # A request sweeps in passing unless it comes between these: a clock that was ahead and is set right must not keep all of them.
        self.calm_since: float = -math.inf
        self.next_sweep: float = math.inf
        self.share: int = FIRST_SHARE
        """How much the next request does where there are hooks."""
        self.set_options(options)
        tell_of_forks(self)

    def after_fork(self) -> None:
        """In the child of a fork."""
        self._lock = threading.Lock()

    def set_options(self, options: SessionOptions) -> None:
        self.options = options
        if self.keeper is not None:
            self.keeper.lives(options.timeout)
        self.enabled: bool = options.enabled
        self.lingers: float = options.linger + options.granularity
        self.idle: Idle = idle_of(options.timeout, options)
        self.calm_since, self.next_sweep = -math.inf, math.inf
        if options.gc == "passive":
            self.calm_from(self.clock())

    def calm_from(self, now: float) -> None:
        """What is over has been looked for: no request does it again for a granularity."""
        self.calm_since, self.next_sweep = now - self.options.granularity, now + self.options.granularity

    # -------------------------------------------------------------- opening

    def is_https(self, guard: Guard, source: Any) -> bool:  # Any: as in Reader
        """Whether the request came encrypted, as far as it can be told before it is judged."""
        peer, https, _ = guard.basics(source)
        try:
            told = self.origin_behind(guard, source, peer).https
        except NoPeerAddress:  # which is said when the session is opened
            told = None
        return https if told is None else told

    def origin_behind(self, guard: Guard, source: Any, peer: str | None) -> Origin:  # Any: as in Reader
        """Where a request comes from, where its peer may be a trusted proxy. Raises `NoPeerAddress`."""
        return self.address_policy.origin(peer, lambda name: guard.reader.headers(source, name))

    def ask(self, exchange: Exchange) -> Presented | None:
        """Prepare: what the request's cookies say, or None if nothing of it is worth a store call. Raises `NoPeerAddress`."""
        guard = exchange.guard
        peer, https, header = guard.basics(exchange.source)
        exchange.looked = True
        try:
            origin = self.origin_behind(guard, exchange.source, peer) if self.trusts else self.origin_of(peer)
        except BaseException:
            header = ""  # a traceback may be shown with the locals of its frames, and those are the cookies (I4)
            raise
        exchange.address, told = origin
        cookies = exchange.cookies = guard.cookies[https if told is None else told]
        if cookies.stem not in header or not self.enabled:
            return None
        if (at_once := present_at_once(cookies, header)) is not None:
            raw, tag_digest = at_once
            return Presented(raw[:LOCATOR_BYTES], raw[LOCATOR_BYTES:], tag_digest)
        key_value, addr_value = cookies.find(header)
        if key_value is None:
            return None
        presented = present(key_value, addr_value)
        if presented is None:
            exchange.verdict = "dead"
        return presented

    def admit(self, exchange: Exchange, presented: Presented, record: Record | None, now: float) -> Session | None:
        """Conclude: the session if everything is right and nothing else is to be done, or None for `plans.open_session`."""
        # Nearly every request is this one, so it does not go through `judge`: everything right to the letter, a use written lately.
        if (
            record is not None
            and compare_digest(presented.tag_digest, record.tag_digest)
            and (exchange.address == record.address is not None or self.any_address)
            and 0 <= now - record.used < record.granularity
            and (record.deadline is None or now < record.deadline)
            and record.flags & REUSED
            and exchange.guard.check is None
        ):
            exchange.verdict = "live"
            return self.hand_out(exchange, record, now)
        verdict = exchange.verdict = judge(presented, record, exchange.address, self.address_policy, now)
        if verdict != "live" or record is None or exchange.guard.check is not None or self.use_is_due(record, now):
            return None
        return self.hand_out(exchange, record, now)

    def admit_nobody(self, exchange: Exchange, now: float) -> Session | None:
        """Conclude for a request without a session: one that is not saved, if that is what it gets and nothing else is to be done."""
        guard = exchange.guard
        if exchange.verdict != "absent" or guard.check is not None or not self.enabled:
            return None
        if (self.options.create if guard.create is None else guard.create) != "on_write" and self.creates(exchange) != "on_write":
            return None
        if exchange.address is None:
            self.require_address(exchange)
        return self.hand_out(exchange, None, now)

    def lets_in(self, verdict: Verdict) -> bool:
        """Whether a request of this verdict gets its session."""
        return verdict in ("live", "previous") or (verdict == "address" and self.address_policy.mismatch == "report")

    def use_is_due(self, record: Record, now: float) -> bool:
        """Whether a use is to be written that the store did not: the address is not the bound one, but as good."""
        return not record.use_written and (not 0 <= now - record.used < record.granularity or not record.flags & REUSED)

    def hand_out(self, exchange: Exchange, record: Record | None, now: float) -> Session:
        """The session for this request, of a record or (None) a new one that is not saved."""
        guard = exchange.guard
        tracking = exchange.tracking = Tracking(self, record, exchange.address, now, exchange, exchange.headers_sent)
        if exchange.failing:
            tracking.discarding = True
        if guard.lasting:
            tracking.lasting, tracking.unasked = True, guard.policy.persistent
            tracking.persistent = tracking.is_persistent(record)
            if record is not None and record.use_written and tracking.persistent and exchange.verdict == "live":
                # A browser counts Max-Age from the last time it got the cookie, so it gets it again when a use is written (rule 12). But by
                # the time of the answer another request may have signed in: so that is looked at then.
                exchange.resend_due = tracking.touched = True
        if record is not None:
            if guard.has_clients and (client := guard.client(exchange.source)) is not None:
                exchange.client = client
                if record.locator not in client.carried:
                    self.clients.attach(client, record.locator)
            else:
                self.came(record, exchange.address, now)
        session = exchange.session = Session(tracking)
        return session

    def hand_out_for_edit(self, exchange: Exchange, record: Record | None, handle: str, now: float) -> Session:
        """The session of an `edit` block. Raises `NoSession`."""
        if record is None or now >= record.due:
            raise NoSession(f"there is no session with the handle {handle!r:.60}, or it has ended")
        exchange.address = record.address
        exchange.verdict = "live"
        exchange.headers_sent = True
        tracking = exchange.tracking = self.tracking_of(record, record.address, now)
        tracking.owner, tracking.headers_sent = exchange, True
        session = exchange.session = Session(tracking)
        return session

    def connect(self, exchange: Exchange, record: Record, now: float) -> None:
        """The request's connection carries this session, which is new or has hooks now."""
        if exchange.source is None:
            return  # not a request: an `edit`
        client = exchange.guard.client(exchange.source) if exchange.guard.has_clients else None
        if client is not None:
            exchange.client = client
            self.clients.attach(client, record.locator)
        else:
            self.came(record, exchange.address, now)

    def came(self, record: Record, address: str | None, now: float) -> None:
        """A request of a session came from an address, on a connection of which nobody will tell that it is closed."""
        self._untold = True
        # Where there are no hooks nobody has to be told who leaves, and who is there can be seen from the record.
        if record.flags & HOOKED or self.clients.connected or self.residents.busy:
            self.clients.seen(record.locator, address, now + self.options.linger, now)

    def require_address(self, exchange: Exchange) -> None:
        """Raise unless a session can be bound to where the request comes from: otherwise every request would get a session of its own."""
        if exchange.address is not None or self.any_address:
            return
        peer = exchange.guard.basics(exchange.source)[0]
        if not self.trusts or not peer or self.origin_of(peer).address is None:
            raise NoPeerAddress(
                f"no session can be bound to the peer {peer!r}: it is no IP address"
                f"{', and no trusted proxy named one' if self.trusts else ''}. Behind a proxy, give "
                'AddressPolicy(trusted_proxies=[...]) ("unix" for a Unix socket). A test client needs an address, as in '
                'TestClient(app, client=("127.0.0.1", 50000)); where it takes none (Litestar\'s), or addresses mean nothing, there is '
                'AddressPolicy(match="off")'
            )
        # The proxy is trusted and has named nothing that can be believed: the client's doing, not the server's.
        raise Rejected("other_address", exchange.guard.error[0], exchange.guard.error[1])

    def look_for_proxy(self, exchange: Exchange) -> None:
        """Log, once, that a session begins behind a proxy that the policy does not know of."""
        self.looks -= 1
        source, guard = exchange.source, exchange.guard
        if source is not None:
            proxy = self.address_policy.unnamed_proxy(guard.basics(source)[0], lambda name: guard.reader.headers(source, name))
            if proxy is not None:
                self.looks = 0
                logger.warning(NOT_TRUSTED, proxy, proxy)

    def creates(self, exchange: Exchange) -> Create:
        """The request's `create`. With a path in the cookie policy, nothing is created unasked outside of it (whole segments)."""
        create: Create | None = exchange.guard.create
        if create is None:
            create = self.options.create
        path = exchange.guard.policy.path
        if create is True and path != "/" and not within(exchange.guard.reader.path(exchange.source), path):
            return "on_write"
        return create

    # -------------------------------------------------------------- committing

    def draft(self, exchange: Exchange, now: float, *, forced: bool = False) -> Draft | None:
        """Prepare: the record of the request's new session, under an id just drawn; None if it holds nothing (and is not `forced`)."""
        tracking = exchange.tracking
        assert tracking is not None
        options = self.options
        session_id = issue(self.draw)
        changes = tracking.changes(session_id.locator)
        if not forced and (changes is None or not tracking.begins()):
            return None
        if exchange.address is None:
            self.require_address(exchange)
        if self.looks > 0:
            self.look_for_proxy(exchange)
        if changes is not None and changes.set_timeout and changes.timeout is not None:
            changes.granularity = idle_of(changes.timeout, options).granularity
        record = new_record(session_id, exchange.address, changes, options, self.idle, now)
        return Draft(session_id, record, changes is not None and changes.residents)

    def born(self, exchange: Exchange, draft: Draft, residents: Mapping[str, object], now: float) -> None:
        """Conclude: the store has created the session of a draft."""
        tracking = exchange.tracking
        assert tracking is not None
        tracking.committed(draft.record, residents)
        exchange.issued = self.issued(draft.session_id)
        exchange.verdict = "live"
        exchange.created = True
        self.connect(exchange, draft.record, now)

    def issued(self, session_id: SessionId) -> tuple[str, str]:
        """The values of the two cookies."""
        route = self.options.route
        return session_id.key_value if route is None else f"{session_id.key_value}.{route}", session_id.addr_value

    def is_plain(self, tracking: Tracking) -> bool:
        """Prepare: whether committing is telling the store what was written and nothing else; if not, it is for `plans.commit`."""
        return not (tracking.flagged or tracking.over or tracking.discarding or tracking.refusals or tracking.let_go or tracking.replaced)

    def is_simple(self, changes: Changes) -> bool:
        """Whether nothing but the store is concerned by these changes."""
        return not changes.residents

    def settled(self, exchange: Exchange, tracking: Tracking, outcome: Outcome) -> bool:
        """Conclude: True if the store has committed and that is all; otherwise it is for `plans.commit`."""
        record, seen = outcome.record, tracking.record
        if outcome.status != "committed" or record is None or seen is None or record.digest != seen.digest:
            return False
        if record.use_written or record.flags & HOOKED or exchange.resend_due:
            self.take_over(exchange, tracking, record, {})
        else:
            tracking.committed(record, {})
        return True

    def take_over(self, exchange: Exchange, tracking: Tracking, record: Record, residents: Mapping[str, object]) -> None:
        if exchange.resend_due or (record.use_written and tracking.persistent and exchange.verdict == "live"):
            exchange.resend, exchange.resend_due = True, False
        if record.flags & HOOKED or residents:
            self.connect(exchange, record, self.clock())
        tracking.committed(record, residents)

    # -------------------------------------------------------------- listeners

    def on(self, event: type[E], listener: Callable[[E], object]) -> Callable[[], None]:
        """Subscribe; the function that is returned unsubscribes."""
        if not (isinstance(event, type) and issubclass(event, Event)):
            raise PolicyError(f"on({event!r}, ...): expected an event class, such as typed_sessions.End")
        if not callable(listener):
            raise PolicyError(f"on({event.__name__}, {listener!r}): expected a function of the event")
        if not self.asynchronous and inspect.iscoroutinefunction(listener):
            raise TypeError(
                f"on({event.__name__}, {listener!r}): SessionManager cannot await a coroutine function; use AsyncSessionManager"
            )
        entry = (event, listener)
        with self._lock:
            self._listeners = (*self._listeners, entry)

        def off() -> None:
            with self._lock:
                self._listeners = tuple(other for other in self._listeners if other is not entry)

        return off

    @property
    def has_listeners(self) -> bool:
        return bool(self._listeners)

    def listeners(self, event: type[Event]) -> Sequence[Callable[[Any], object]]:
        """Who wants to hear of such an event, in the order of subscription."""
        if not self._listeners:
            return ()
        return [listener for wanted, listener in self._listeners if issubclass(event, wanted)]

    # -------------------------------------------------------------- what sessions ask of their surroundings

    @property
    def seal(self) -> SealingKeys | None:
        return self._seal

    @property
    def default_timeout(self) -> float | None:
        return self.options.timeout

    @property
    def default_overlap(self) -> float:
        return self.options.overlap

    def residents_of(self, locator: bytes) -> Mapping[str, object]:
        return self.residents.of(locator)

    def clients_of(self, view: View) -> Sequence[Client]:
        record = view.record
        if record is None:
            return ()
        now = self.clock()
        clients = self.clients.of(record.locator, now)
        if not clients and self._untold and not view.over and now < record.used + self.lingers:
            clients = self.clients.lingering(record.address)
        return clients

    def check_hooks(self, key: Key[Any]) -> None:
        if self.asynchronous:
            return
        for name, hook in (("cleanup_delete", key.cleanup_delete), ("cleanup_no_client", key.cleanup_no_client)):
            if inspect.iscoroutinefunction(hook):
                raise KeyTypeError(
                    f"{key!r}: its {name} is a coroutine function, which SessionManager cannot await; use AsyncSessionManager"
                )

    def view(self, record: Record, now: float) -> SessionView:
        """A session for reading: what is written to it in a listener goes nowhere."""
        tracking = self.tracking_of(record, record.address, now)
        tracking.discarding = True
        return SessionView(tracking)

    def tracking_of(self, record: Record | None, address: str | None, now: float) -> Tracking:
        tracking = Tracking(self, record, address, now)
        if self.cookie_policy.max_age is not None:
            tracking.lasting, tracking.unasked = True, self.cookie_policy.persistent
            tracking.persistent = tracking.is_persistent(record)
        return tracking


def within(path: str, prefix: str) -> bool:
    """RFC 6265 5.1.4: whether a cookie of path `prefix` goes to `path`; `/subway` is not within `/sub`."""
    return path == prefix or (path.startswith(prefix) and (prefix.endswith("/") or path[len(prefix) : len(prefix) + 1] == "/"))


def next_share(share: int, took: float, more: bool, hooked: int) -> int:
    """How much of the clearing up the next request does, after one that did `share` in `took` seconds and has left `more`, or nothing.

    Only what was `hooked` all over tells that hooks are quick, and only for now: else the next one begins small again.
    """
    if took >= QUICK:
        return max(1, share // 2)
    return min(SWEEP_STEP if more and hooked >= share else FIRST_SHARE, 2 * share if more else share)


def _no_headers(_: str) -> Sequence[str]:
    return ()
