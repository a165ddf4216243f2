"""What the synchronous and the asynchronous manager have in common, and what of it needs no I/O.

Every request is *prepare, one store call, conclude*. `ask` and `admit` are the two ends of opening a session, `to_commit` and
`settled` those of committing one; between them a manager makes the call in its own way. These four are the way of most requests, so
they are plain functions. Whatever takes more than that one call is a plan (see `plans`).
"""

from __future__ import annotations

import inspect
import logging
import math
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeVar, final

from .address import AddressPolicy, Origin
from .changes import Changes, Outcome, Use
from .clients import Client, Clients
from .errors import KeyTypeError, NoPeerAddress, PolicyError, Rejected
from .events import Event
from .exchange import Exchange
from .keeper import Keeper
from .keys import Key
from .lifecycle import Draw, Presented, idle_of, judge, present
from .options import SessionOptions
from .policy import CookiePolicy
from .record import REUSED, Record
from .residents import Residents
from .sealing import SealingKeys
from .session import Create, Session, SessionView
from .tracking import Tracking

E = TypeVar("E", bound=Event)

logger = logging.getLogger("typed_sessions")

SWEEP_STEP = 256
"""How much a request does, at most, of the clearing up that has come due."""


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
        for name, value, expected in (
            ("cookie_policy", cookie_policy, CookiePolicy),
            ("address_policy", address_policy, AddressPolicy),
            ("seal", seal, (SealingKeys, type(None))),
        ):
            if not isinstance(value, expected):
                wanted = "SealingKeys or None" if name == "seal" else expected.__name__ if isinstance(expected, type) else ""
                raise PolicyError(f"{name} = {value!r}: expected {wanted}")
        self.store = store
        self.cookie_policy = cookie_policy
        self.address_policy = address_policy
        self.clock = clock
        self.draw: Draw = secrets.token_bytes
        self.asynchronous = asynchronous
        self.clients = Clients(options.max_clients)
        self.residents = Residents()
        self.keeper: Keeper | None = None
        self._seal = seal
        self._listeners: tuple[tuple[type[Event], Callable[[Any], object]], ...] = ()
        self._lock = threading.Lock()
        # The peer of most requests is one of few, and without proxies nothing else counts.
        self._origin_of = lru_cache(4096)(lambda peer: address_policy.origin(peer, _no_headers))
        self._trusts = bool(address_policy.trusted_proxies)
        self.any_address = address_policy.match == "off"
        self.next_sweep = math.inf
        self.set_options(options)

    def set_options(self, options: SessionOptions) -> None:
        self.options = options
        self.idle = idle_of(options.timeout, options)
        self.next_sweep = self.clock() + options.granularity if options.gc == "passive" else math.inf

    # -------------------------------------------------------------- opening

    def ask(self, exchange: Exchange) -> Presented | None:
        """Prepare: what the request's cookies say, or None if nothing of it is worth a store call. Raises `NoPeerAddress`."""
        guard = exchange.guard
        reader = guard.reader
        source = exchange.source
        peer = reader.peer(source)
        if self._trusts:
            origin: Origin = self.address_policy.origin(peer, lambda name: reader.headers(source, name))
        else:
            origin = self._origin_of(peer)
        exchange.looked = True
        exchange.address, https = origin
        cookies = exchange.cookies = guard.policy.session_cookies(reader.https(source) if https is None else https)
        header = exchange.cookie_header = reader.cookie(source)
        exchange.key_value, exchange.addr_value = key_value, addr_value = cookies.find(header)
        if key_value is None or not self.options.enabled:
            exchange.verdict = "absent"
            return None
        presented = present(key_value, addr_value)
        if presented is None:
            exchange.verdict = "dead"
        return presented

    def use(self, exchange: Exchange, presented: Presented) -> Use:
        return Use(presented.digest, presented.tag_digest, exchange.address, self.any_address)

    def admit(self, exchange: Exchange, presented: Presented, record: Record | None, now: float) -> Session | None:
        """Conclude: the session if everything is right and nothing else is to be done, or None for `plans.open_session`."""
        verdict = exchange.verdict = judge(presented, record, exchange.address, self.address_policy, now)
        if verdict != "live" or record is None or exchange.guard.check is not None or self.use_is_due(record, now):
            return None
        return self.hand_out(exchange, record, now)

    def use_is_due(self, record: Record, now: float) -> bool:
        """Whether a use is to be written that the store did not: the address is not the bound one, but as good."""
        return not record.use_written and (not 0 <= now - record.used < record.granularity or not record.flags & REUSED)

    def hold(self, exchange: Exchange, record: Record | None, now: float) -> Tracking:
        """The request's view of a record, or (None) of a session that is not saved."""
        tracking = exchange.tracking = self.tracking_of(record, exchange.address, now)
        tracking.headers_sent = exchange.headers_sent
        tracking.owner = exchange
        exchange.session = Session(tracking)
        return tracking

    def hand_out(self, exchange: Exchange, record: Record | None, now: float) -> Session:
        """The session for this request, of a record or (None) a new one that is not saved."""
        tracking = self.hold(exchange, record, now)
        max_age = exchange.guard.policy.max_age
        if record is not None:
            if max_age is not None:
                tracking.lasting = True
                tracking.persistent = record.persistent is not False
                # A browser counts Max-Age from the last time it got the cookie, so it gets it again when a use is written (rule 12).
                exchange.resend = record.use_written and tracking.persistent and exchange.verdict == "live"
            self.connect(exchange, record.locator, now)
        elif max_age is not None:
            tracking.lasting = tracking.persistent = True
        session = exchange.session
        assert session is not None
        return session

    def connect(self, exchange: Exchange, locator: bytes, now: float) -> None:
        """The request's connection carries this session."""
        client = exchange.client = exchange.guard.reader.client(exchange.source)
        if client is not None:
            if locator not in client.carried:
                self.clients.attach(client, locator)
        else:
            self.clients.seen(locator, exchange.address, now, self.options.linger)

    def require_address(self, exchange: Exchange) -> None:
        """Raise unless a session can be bound to where the request comes from: otherwise every request would get a session of its own."""
        if exchange.address is not None or self.any_address:
            return
        reader, source = exchange.guard.reader, exchange.source
        peer = reader.peer(source)
        if not self._trusts or not peer or self._origin_of(peer).address is None:
            raise NoPeerAddress(
                f"no session can be bound to the peer {peer!r}: it is no IP address"
                f"{', and no trusted proxy named one' if self._trusts else ''}. Behind a proxy, give "
                'AddressPolicy(trusted_proxies=[...]) ("unix" for a Unix socket); in tests, or where addresses mean nothing, '
                'AddressPolicy(match="off")'
            )
        # The proxy is trusted and has named nothing that can be believed: the client's doing, not the server's.
        raise Rejected("other_address", exchange.guard.error[0], exchange.guard.error[1])

    def creates(self, exchange: Exchange) -> Create:
        """The request's `create`. With a path in the cookie policy, nothing is created unasked outside of it (whole segments)."""
        create = self.options.create if exchange.guard.create is None else exchange.guard.create
        path = exchange.guard.policy.path
        if create is True and path != "/" and not within(exchange.guard.reader.path(exchange.source), path):
            return "on_write"
        return create

    # -------------------------------------------------------------- committing

    def is_plain(self, tracking: Tracking) -> bool:
        """Prepare: whether committing is telling the store `tracking.changes()` and nothing else; if not, it is for `plans.commit`."""
        return not (tracking.record is None or tracking.end_asked or tracking.over or tracking.renew_asked or tracking.discarding) and (
            tracking.refusals is None
        )

    def is_simple(self, changes: Changes) -> bool:
        """Whether nothing but the store is concerned by these changes."""
        return not (changes.residents or changes.set_timeout or changes.set_persistent)

    def settled(self, exchange: Exchange, tracking: Tracking, outcome: Outcome) -> bool:
        """Conclude: True if the store has committed and that is all; otherwise it is for `plans.commit`."""
        record = outcome.record
        if outcome.status != "committed" or record is None:
            return False
        self.take_over(exchange, tracking, record, {})
        return True

    def take_over(self, exchange: Exchange, tracking: Tracking, record: Record, residents: Mapping[str, object]) -> None:
        if record.use_written and tracking.persistent and exchange.verdict == "live":
            exchange.resend = True
        tracking.committed(record, residents)

    # -------------------------------------------------------------- listeners

    def on(self, event: type[E], listener: Callable[[E], object]) -> Callable[[], None]:
        """Subscribe; the function that is returned unsubscribes."""
        if not (isinstance(event, type) and issubclass(event, Event)):
            raise PolicyError(f"on({event!r}, ...): expected an event class, such as typed_sessions.End")
        if not callable(listener):
            raise PolicyError(f"on({event.__name__}, {listener!r}): expected a function of the event")
        if not self.asynchronous and inspect.iscoroutinefunction(listener):
            raise KeyTypeError(
                f"on({event.__name__}, {listener!r}): SessionManager cannot await a coroutine function; use AsyncSessionManager"
            )
        entry = (event, listener)
        with self._lock:
            self._listeners = (*self._listeners, entry)

        def off() -> None:
            with self._lock:
                self._listeners = tuple(other for other in self._listeners if other is not entry)

        return off

    def listeners(self, event: type[Event]) -> Sequence[Callable[[Any], object]]:
        """Who wants to hear of such an event, in the order of subscription."""
        return [listener for wanted, listener in self._listeners if issubclass(event, wanted)]

    # -------------------------------------------------------------- what sessions ask of their surroundings

    @property
    def seal(self) -> SealingKeys | None:
        return self._seal

    def residents_of(self, locator: bytes) -> Mapping[str, object]:
        return self.residents.of(locator)

    def clients_of(self, locator: bytes) -> Sequence[Client]:
        return self.clients.of(locator)

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
        options = self.options
        return Tracking(self, record, address=address, now=now, default_timeout=options.timeout, overlap=options.overlap)


def within(path: str, prefix: str) -> bool:
    """RFC 6265 5.1.4: whether a cookie of path `prefix` goes to `path`; `/subway` is not within `/sub`."""
    return path == prefix or (path.startswith(prefix) and (prefix.endswith("/") or path[len(prefix) : len(prefix) + 1] == "/"))


def _no_headers(_: str) -> Sequence[str]:
    return ()
