"""Who is connected: a `Client` per connection, and which sessions each connection carries. No I/O and no cookies.

Identity never comes from a connection: a client carries a session because a request on it proved the session's cookies.
Where the server does not tell when a connection closes, an address counts as connected for `linger` seconds after its last request.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import NoneType
from typing import TypeAlias, cast, final

from typing_extensions import override

from .declared import unfinished_too
from .errors import Rejected
from .forks import tell_of_forks
from .record import LOCATOR_BYTES
from .wheel import Wheel

Close: TypeAlias = Callable[[], Awaitable[None] | None]


@final
class Client:
    """One connection: where it comes from, and how to close it.

    `close` may be called from any thread (by an asynchronous manager: in its event loop), once at most, when a session that was the
    only one on the connection has ended. `closing` is True from when a request on the connection has ended it: close the connection
    behind that request's response.
    """

    __slots__ = ("_address", "_close", "carried", "closing", "gone", "shared")

    def __init__(self, address: str | None, close: Close) -> None:
        if not isinstance(cast("object", address), (str, NoneType)):
            raise TypeError(f"connect({address!r}, ...): expected an address as text, such as client_address[0], or None")
        if not callable(close):
            raise TypeError(f"connect(address, {close!r}): expected a function without arguments that closes the connection")
        self._address = address
        self._close: Close | None = close
        self.carried: set[bytes] = set()
        """The locators of the sessions that this connection carries; of a shared one without those that have ended, which may be many."""
        self.shared: bool = False
        """Whether it has carried more than one, ended ones too: the end of none of them closes it."""
        self.gone: bool = False
        """Whether it has been detached: it carries nothing any more."""
        self.closing: bool = False
        """True when the only session on the connection was ended by a request on it: close it after that request's response."""

    @property
    def address(self) -> str | None:
        """The address as it was given."""
        return self._address

    def take_close(self) -> Close | None:
        """The function that closes the connection, for whoever asks first."""
        close, self._close = self._close, None
        return close

    @override
    @unfinished_too
    def __repr__(self) -> str:
        return f"<Client {self._address or '(no address)'}>"


def _nothing() -> None:
    pass


@final
class Clients:
    """The clients of one manager, by session."""

    def __init__(self, max_clients: int) -> None:
        self._max_clients = max_clients
        self._lock = threading.Lock()
        self.connected: dict[bytes, list[Client]] = {}
        """The connections of each session that has any."""
        # Addresses that linger, each with the moment until which it does, and when it was here last.
        self._lingering: dict[int, tuple[tuple[str | None, float, float], ...]] = {}
        self._due = Wheel()
        tell_of_forks(self)

    def after_fork(self) -> None:
        """In the child of a fork."""
        self._lock = threading.Lock()

    def attach(self, client: Client, locator: bytes) -> None:
        """The connection carries this session from now on. Raises `Rejected` (429) when the session has as many as it may."""
        with self._lock:
            if client.gone or locator in client.carried:
                return  # by a task that has outlived the connection, or by another request on it meanwhile
            clients = self.connected.setdefault(locator, [])
            if len(clients) >= self._max_clients:
                raise Rejected(
                    "clients", 429, (("Retry-After", "10"),), f"the session has {len(clients)} clients, and max_clients allows no more"
                )
            clients.append(client)
            client.shared = client.shared or bool(client.carried)
            client.carried.add(locator)

    def seen(self, locator: bytes, address: str | None, until: float, now: float) -> None:
        """A request came from an address, on a connection that nobody tells about: it counts as connected `until` then."""
        key = int.from_bytes(locator, "big")
        with self._lock:
            entries = self._lingering.get(key)
            if entries is None:
                self._lingering[key] = ((address, until, now),)
                self._due.add(key, until, now)
            else:
                others = tuple(entry for entry in entries if entry[0] != address)
                self._lingering[key] = (*others[max(0, len(others) + 1 - self._max_clients) :], (address, until, now))

    def detach(self, client: Client, now: float) -> Sequence[bytes]:
        """The connection is closed; the sessions that have no client left."""
        client.take_close()
        with self._lock:
            client.gone = True
            return [locator for locator in client.carried if self._disconnect(locator, client) and not self._lingers(locator, now)]

    def _disconnect(self, locator: bytes, client: Client) -> bool:
        clients = self.connected.get(locator)
        if clients is None or client not in clients:
            return False
        clients.remove(client)
        if clients:
            return False
        del self.connected[locator]
        return True

    def _lingers(self, locator: bytes, now: float) -> bool:
        key = int.from_bytes(locator, "big")
        entries = self._lingering.get(key)
        if entries is None:
            return False
        # Until now there was a connection, so what has been used by now was used here.
        self._lingering[key] = tuple((address, until, now) for address, until, _ in entries)
        return True

    def lapse(self, now: float, limit: int, looks: int) -> tuple[Mapping[bytes, float], bool]:
        """Let go of addresses whose time is over: `limit` sessions that have no client left, each with when it had one last.

        And whether there may be more: at no more than `looks` sessions is looked.
        """
        left: dict[bytes, float] = {}
        with self._lock:
            self._due.begin(now)
            while len(left) < limit and looks > 0:
                taken = self._due.take(now, min(limit - len(left), looks))
                if not taken:
                    return left, False
                looks -= len(taken)
                for key in taken:
                    self._let_go(key, now, left)
        return left, True

    def _let_go(self, key: int, now: float, left: dict[bytes, float]) -> None:
        before = self._lingering.pop(key, ())
        entries = tuple(entry for entry in before if entry[1] >= now)
        locator = key.to_bytes(LOCATOR_BYTES, "big")
        if entries:
            self._lingering[key] = entries
            # They are over after that moment, not in it: whoever looks now does not come across them once more.
            self._due.add(key, math.nextafter(max(until for _, until, _ in entries), math.inf), now)
        elif before and locator not in self.connected:
            left[locator] = max(seen for _, _, seen in before)

    def of(self, locator: bytes, now: float) -> Sequence[Client]:
        """The clients of a session; one that only lingers is made for the occasion, and has nothing to close."""
        with self._lock:
            entries = self._lingering.get(int.from_bytes(locator, "big"), ())
            return (*self.connected.get(locator, ()), *(Client(address, _nothing) for address, until, _ in entries if until >= now))

    def lingering(self, address: str | None) -> Sequence[Client]:
        """What stands for a session's last visitor where nobody tells about connections."""
        return (Client(address, _nothing),)

    def ended(self, locator: bytes) -> Sequence[Client]:
        """A session has ended: forget who it was connected to; the clients to close, which carried nothing else (rule 14)."""
        with self._lock:
            self._lingering.pop(int.from_bytes(locator, "big"), None)
            clients = self.connected.pop(locator, [])
            for client in clients:
                if client.shared:
                    client.carried.discard(locator)
        return [client for client in clients if not client.shared]

    def everyone(self) -> tuple[Sequence[Client], Sequence[bytes]]:
        """Every connection that carries a session, and every session that has a lingering address alone; what lingers is forgotten."""
        with self._lock:
            lingering, self._lingering, self._due = self._lingering, {}, Wheel()
            connected = {id(client): client for clients in self.connected.values() for client in clients}
            alone = [locator for key in lingering if (locator := key.to_bytes(LOCATOR_BYTES, "big")) not in self.connected]
        return list(connected.values()), alone
