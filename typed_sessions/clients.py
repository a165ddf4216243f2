"""Who is connected: a `Client` per connection, and which sessions each connection carries. No I/O and no cookies.

Identity never comes from a connection: a client carries a session because a request on it proved the session's cookies.
Where the server does not tell when a connection closes, an address counts as connected for `linger` seconds after its last request.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias, final

from typing_extensions import override

from .errors import Rejected

Close: TypeAlias = Callable[[], Awaitable[None] | None]


@final
class Client:
    """One connection: where it comes from, and how to close it.

    `close` may be called from any thread (by an asynchronous manager: in its event loop), once at most, when a session that was the
    only one on the connection has ended.
    """

    __slots__ = ("_address", "_close", "carried", "closing")

    def __init__(self, address: str | None, close: Close) -> None:
        self._address = address
        self._close: Close | None = close
        self.carried: set[bytes] = set()
        """The locators of all sessions that this connection has carried, ended ones too."""
        self.closing = False
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
        self._by_session: dict[bytes, list[Client]] = {}
        # By (locator, address): when it stops to count. In the order of that moment, since the linger time is one for all.
        self._lingering: OrderedDict[tuple[bytes, str | None], tuple[float, Client]] = OrderedDict()

    def attach(self, client: Client, locator: bytes) -> None:
        """The connection carries this session from now on. Raises `Rejected` (429) when the session has as many as it may."""
        if locator in client.carried:
            return
        with self._lock:
            clients = self._by_session.setdefault(locator, [])
            if len(clients) >= self._max_clients:
                raise Rejected(
                    "clients", 429, (("Retry-After", "10"),), f"the session has {len(clients)} clients, and max_clients allows no more"
                )
            clients.append(client)
            client.carried.add(locator)

    def seen(self, locator: bytes, address: str | None, now: float, linger: float) -> None:
        """A request came from an address, on a connection that nobody tells about."""
        key = (locator, address)
        entry = self._lingering.get(key)
        # Moved once per tenth of the time, not at every request; so it ends up to a tenth late, never early.
        if entry is not None and now + linger <= entry[0] <= now + linger * 1.1:
            return
        until = now + linger * 1.1
        with self._lock:
            entry = self._lingering.pop(key, None)
            if entry is None:
                clients = self._by_session.setdefault(locator, [])
                if len(clients) >= self._max_clients:
                    return
                client = Client(address, _nothing)
                client.carried.add(locator)
                clients.append(client)
            else:
                client = entry[1]
            self._lingering[key] = (until, client)

    def detach(self, client: Client) -> Sequence[bytes]:
        """The connection is closed; the sessions that have no client left."""
        client.take_close()
        with self._lock:
            return [locator for locator in client.carried if self._remove(locator, client)]

    def lapse(self, now: float, limit: int) -> Sequence[bytes]:
        """Let go of addresses whose time is over, at most `limit`; the sessions that have no client left."""
        left: list[bytes] = []
        with self._lock:
            while self._lingering and limit:
                key = next(iter(self._lingering))
                until, client = self._lingering[key]
                if until > now:
                    break
                del self._lingering[key]
                limit -= 1
                if self._remove(key[0], client):
                    left.append(key[0])
        return left

    def _remove(self, locator: bytes, client: Client) -> bool:
        clients = self._by_session.get(locator)
        if clients is None or client not in clients:
            return False
        clients.remove(client)
        if clients:
            return False
        del self._by_session[locator]
        return True

    def of(self, locator: bytes) -> Sequence[Client]:
        """The clients of a session."""
        with self._lock:
            return tuple(self._by_session.get(locator, ()))

    def ended(self, locator: bytes) -> Sequence[Client]:
        """A session has ended: forget who it was connected to; the clients to close, which carried nothing else (rule 14)."""
        with self._lock:
            clients = self._by_session.pop(locator, [])
            for client in clients:
                self._lingering.pop((locator, client.address), None)
        return [client for client in clients if len(client.carried) == 1]

    def everyone(self) -> Sequence[Client]:
        """Every client that carries a session."""
        with self._lock:
            return list({id(client): client for clients in self._by_session.values() for client in clients}.values())
