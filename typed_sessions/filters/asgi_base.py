"""What the two kinds of ASGI connection, http and WebSocket, have in common: ASGI's types, and headers as ASGI wants them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping, Sequence
from operator import itemgetter
from types import NoneType
from typing import Any, TypeAlias

from ..errors import NotOpened
from ..exchange import Exchange
from ..refusals import plain_answer
from ..session import Session

Scope: TypeAlias = MutableMapping[str, Any]  # Any: what ASGI says it is
Message: TypeAlias = MutableMapping[str, Any]  # Any: the same
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

# What other people's applications and servers have in their place. Any: each framework declares ASGI's types in its own way, many of them
# as TypedDicts, and to a type checker these are no MutableMapping, nor the same as another framework's.
AnyApp: TypeAlias = Callable[[Any, Any, Any], Awaitable[None]]
AnyReceive: TypeAlias = Callable[[], Awaitable[Any]]
AnySend: TypeAlias = Callable[[Any], Awaitable[None]]

SET_COOKIE = b"set-cookie"
_NO_STORE = (b"cache-control", b"no-store")
_VARY = (b"vary", b"Cookie")
_JOINED = frozenset({b"vary", b"cache-control"})
_name: Callable[[tuple[bytes, bytes]], bytes] = itemgetter(0)
_NAMES = {"Set-Cookie": SET_COOKIE, "Cache-Control": b"cache-control", "Vary": b"vary"}


def make_lists(scope: Scope) -> None:
    """`headers` and `client` of a scope may be anything that is iterable, says ASGI, so also what can be read only once, pairs too.

    They are read here, for the filter and for the application. In place: whoever is around could not read them again either.
    """
    headers = scope.get("headers")
    if headers is not None and type(headers) is not list:
        scope["headers"] = [tuple(pair) for pair in headers]
    client = scope.get("client")
    if not isinstance(client, (list, tuple, NoneType)):
        scope["client"] = list(client)


def current(exchange: Exchange) -> Session:
    """The session of an exchange, which has to be open. Raises `NotOpened`."""
    if exchange.session is None:
        raise NotOpened(
            "the session is not open yet: use `session = await open_session(scope)` first, "
            "or SessionMiddleware(..., eager=True) for all requests"
        )
    return exchange.session


def headers_of(exchange: Exchange, own: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The application's own headers and `exchange.headers()` as ASGI wants them; what most responses have, without a detour.

    There is one `Vary` then, and one `Cache-Control`: what is around the filter may read the first of two only, and put what it makes of
    that in the place of both, as the middleware of Starlette did until 1.9.
    """
    headers = [*own]
    if not exchange.looked:
        return headers
    if not _JOINED.isdisjoint(map(_name, headers)):
        return joined([*headers, *encoded(exchange.headers())])
    if exchange.issued is None and not (exchange.expire or exchange.resend or exchange.failed or exchange.client is not None):
        headers.append(_VARY)
        return headers
    values = exchange.issued_headers()
    if values is None:
        return [*headers, *encoded(exchange.headers())]
    return [*headers, (SET_COOKIE, values[0].encode("latin-1")), (SET_COOKIE, values[1].encode("latin-1")), _NO_STORE, _VARY]


def joined(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Headers with one `Vary` and one `Cache-Control` (RFC 9110 5.3), where the application has its own."""
    found: list[tuple[bytes, bytes]] = []
    values: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        if name not in _JOINED:
            found.append((name, value))
        elif value not in values.setdefault(name, []):
            values[name].append(value)
    return [*found, *((name, b", ".join(parts)) for name, parts in values.items())]


def encoded(headers: Sequence[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    """Header pairs as ASGI wants them."""
    return [(_NAMES.get(name) or name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]


def answer(kind: str, status: int, headers: Sequence[tuple[str, str]]) -> tuple[Message, Message]:
    """The two messages that refuse a request, with the status in words as the body."""
    _, pairs, body = plain_answer(status, headers)
    start: Message = {"type": f"{kind}.start", "status": status, "headers": joined(encoded(pairs))}
    return start, {"type": f"{kind}.body", "body": body}
