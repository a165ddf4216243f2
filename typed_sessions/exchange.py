"""One request and its answer, as far as the session is concerned: what came, what it was judged to be, and the headers that go out.

An `Exchange` does no I/O and decides nothing by itself: the plans fill it in, and `headers` turns the result into header pairs.
A `Guard` is what is the same for every request of one filter; a `Reader` gets what is needed out of a server's own request object.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from email.message import Message
from types import NoneType
from typing import Any, Protocol, cast, final

import msgspec
from typing_extensions import override

from .clients import Client
from .cookies import SetCookie, is_value, parse_cookies
from .errors import COMMIT_FAILURES, CommitFailure, PolicyError, Rejected, RejectedReason, SessionClosed, check_error
from .lifecycle import Verdict
from .options import MAX_ROUTE
from .policy import CookiePolicy, SessionCookies, filtered, leave_alone
from .refusals import comes_of, is_settled, leaves, refusal_of
from .session import Create, Error, Session
from .tracking import Tracking

BAD_REQUEST: Error = (400, ())


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request as `start_check` and `filter` want it, from whatever server.

    headers  all header pairs in order, as text or as bytes (Latin-1); names in any case
    peer     the address of the socket's other end; None for a Unix socket (see `AddressPolicy.trusted_proxies`)
    path     the path of the target, for cookie policies that have one
    https    whether this connection is encrypted; behind a trusted proxy, what the proxy says goes before it
    client   the connection (`manager.connect`), if the server tells when it closes
    """

    headers: Iterable[tuple[str, str]] | Iterable[tuple[bytes, bytes]] = field(repr=False)  # they hold the cookies (I4)
    peer: str | None
    path: str = "/"
    https: bool = False
    client: Client | None = None

    def __post_init__(self) -> None:
        if not isinstance(cast("object", self.peer), (str, NoneType)):
            raise TypeError(f"Request(peer={self.peer!r}): expected an address as text, such as client_address[0], or None")
        headers = cast("object", self.headers)
        if isinstance(headers, (Mapping, Message, str, bytes)) or not isinstance(headers, Iterable):  # not shown: they hold the cookies
            raise TypeError(f"Request(headers={type(self.headers).__name__}): expected header pairs, such as headers.items()")
        if isinstance(headers, Iterator):  # they are read more than once
            object.__setattr__(self, "headers", tuple(cast("Iterator[object]", headers)))
        if not isinstance(cast("object", self.path), str):
            raise TypeError(f"Request(path={self.path!r}): expected the path of the request as text, such as '/'")
        if not isinstance(cast("object", self.https), bool):
            raise TypeError(f"Request(https={self.https!r}): expected True or False, such as scheme == 'https'")
        if not isinstance(cast("object", self.client), (Client, NoneType)):
            raise TypeError(f"Request(client={self.client!r}): expected what manager.connect(...) gives, or None")


class Reader(Protocol):
    """How to get what is needed out of a server's request object. Any: each server has its own."""

    @property
    def has_clients(self) -> bool:
        """Whether `client` ever gives one."""
        ...

    def basics(self, source: Any, /) -> tuple[str | None, bool, str]:
        """The peer's address, whether the connection is encrypted, and the `Cookie` headers, joined by "; "."""
        ...

    def path(self, source: Any, /) -> str: ...
    def headers(self, source: Any, name: str, /) -> Sequence[str]: ...
    def client(self, source: Any, /) -> Client | None: ...


@final
class RequestReader:
    """The reader of `Request`."""

    has_clients = True

    def basics(self, source: Request, /) -> tuple[str | None, bool, str]:
        try:
            return source.peer, source.https, "; ".join(self.headers(source, "cookie"))
        except AttributeError:
            if isinstance(source, Request):
                raise
            kind = type(source)
            raise TypeError(
                f"expected a typed_sessions.Request, not a {kind.__module__}.{kind.__qualname__}: make one of it, "
                "Request(headers=..., peer=...), or use the filter for that kind of server"
            ) from None

    def path(self, source: Request, /) -> str:
        return source.path

    def headers(self, source: Request, name: str, /) -> Sequence[str]:
        values: list[str] = []
        for key, value in source.headers:
            if isinstance(key, bytes):
                key = key.decode("latin-1")
            if key.lower() == name:
                values.append(value.decode("latin-1") if isinstance(value, bytes) else value)
        return values

    def client(self, source: Request, /) -> Client | None:
        return source.client


@final
class Guard:
    """The settings of one filter. Raises `PolicyError` for an illegal one."""

    __slots__ = ("basics", "check", "client", "cookies", "create", "error", "has_clients", "lasting", "nosession", "policy", "reader")

    def __init__(
        self,
        reader: Reader,
        policy: CookiePolicy,
        *,
        create: Create | None = None,
        check: Callable[[Session], Awaitable[bool] | bool] | None = None,
        nosession: BaseException | None = None,
        error: Error = BAD_REQUEST,
    ) -> None:
        if create not in (None, True, False, "on_write"):
            raise PolicyError(f'create = {create!r}: expected True, False or "on_write", or None for the manager\'s option')
        if check is not None and not callable(check):
            raise PolicyError(f"check = {check!r}: expected a function of a session that returns a bool")
        if nosession is not None and not isinstance(nosession, BaseException):
            raise PolicyError(f"nosession = {nosession!r}: expected an exception to raise, such as MyError('sign in first')")
        check_error(error)
        if not isinstance(policy, CookiePolicy):
            raise PolicyError(f"cookie_policy = {policy!r}: expected a CookiePolicy")
        self.reader: Reader = reader
        self.basics: Callable[[Any], tuple[str | None, bool, str]] = reader.basics  # Any: as in Reader
        self.client: Callable[[Any], Client | None] = reader.client
        self.has_clients: bool = reader.has_clients
        self.lasting: bool = policy.max_age is not None
        self.policy: CookiePolicy = policy
        self.cookies: tuple[SessionCookies, SessionCookies] = (policy.session_cookies(False), policy.session_cookies(True))
        self.create: Create | None = create
        self.check: Callable[[Session], Awaitable[bool] | bool] | None = check
        self.nosession: BaseException | None = nosession
        self.error: Error = error


def refuse_late(exchange: Exchange) -> None:
    """Raise `SessionClosed` for a session that nobody has looked at until the request was over."""
    if exchange.source is None:
        raise SessionClosed("the request is over, and its session was not open: open it before the response is finished")


class Exchange(msgspec.Struct, eq=False, weakref=True):
    """One request and its answer. A filter may have a class of its own of it, with what it needs beside."""

    guard: Guard
    source: Any  # Any: the server's own request object; only the guard's reader looks into it
    session: Session | None = None
    tracking: Tracking | None = None
    looked: bool = False
    """The session was asked for, in whatever way: the answer depends on the cookie."""
    headers_sent: bool = False
    failing: bool = False
    """The answer's status is 500 or above: nothing is committed any more, whoever asks for it."""
    done: bool = False
    created: bool = False
    """The session was made by this request."""
    failed: bool = False
    expire: bool = False
    resend: bool = False
    resend_due: bool = False
    """The cookie's Max-Age is to be counted anew, if it is still the session's when the headers leave."""
    issued: tuple[str, str] | None = None
    client: Client | None = None
    address: str | None = None
    cookies: SessionCookies | None = None
    verdict: Verdict = "absent"
    opening: Any = None  # Any: an asyncio.Event, while a task opens the session; no event loop is known here
    turn: Any = None  # Any: a `Turn`, while a task commits or refreshes it; as above
    refused: BaseException | None = None
    """What opening the session has raised, until the request is over."""
    failure: CommitFailure | None = None
    """What the filter's own commit has raised when nothing had left, until the request is over."""

    def __repr__(self) -> str:
        return f"<Exchange {self.verdict}>"  # the cookies' values must not reach a log or a traceback (I4)

    @override
    def __rich_repr__(self) -> list[tuple[str, str]]:
        return [("verdict", self.verdict)]  # as in Record

    def refusal(self, handled: BaseException | None) -> BaseException | None:
        """What was refused here, where the application's framework is about to answer that with an error of its own.

        `handled` is the exception that it is in the middle of handling: if that has nothing to do with a refusal, the answer is its own.
        """
        if handled is None:
            problem = self.tracking.rejected if self.refused is None and self.tracking is not None else self.refused
            return None if problem is None or is_settled(problem) else problem
        seen: list[BaseException] = []
        while handled is not None and handled not in seen:
            if any(isinstance(leaf, (Rejected, *COMMIT_FAILURES)) for leaf in leaves(handled)):
                return refusal_of(handled)  # None for a group with a mistake in it, whose context may be the refusal once more
            seen.append(handled)
            handled = handled.__cause__ or handled.__context__
        return None

    def commit_failed(self, problem: BaseException) -> None:
        """Remember what the filter's own commit has raised: it comes to the filter through the application, which may wrap it."""
        if not self.headers_sent and isinstance(problem, COMMIT_FAILURES):
            self.failure = problem

    def failure_behind(self, problem: BaseException) -> CommitFailure | None:
        """The filter's own failed commit, if the application's framework has made an exception of its own of that, and nothing has left.

        A cancellation, or the end of the process, is not to be taken for an answer, whatever it has come across.
        """
        failure = self.failure
        if failure is None or self.headers_sent:
            return None
        return failure if all(isinstance(leaf, Exception) and comes_of(leaf, failure) for leaf in leaves(problem)) else None

    def forgive(self) -> None:
        """What has just been raised is none that the request is refused for: whoever asked has an answer for it."""
        self.refused = None

    def set_cookies(self) -> list[SetCookie]:
        """The cookies to set or expire, one per name."""
        if not self.looked or self.cookies is None:
            return []
        if self.issued is not None:
            found = list(self.cookies.set(*self.issued, persistent=self._persistent()))
        elif self.expire:
            found = list(self.cookies.expire())
        elif self.resend and not self._outdated():
            found = list(self.cookies.set(*self._given(), persistent=self._persistent()))
        else:
            found = []
        return found + self._others()

    def issued_headers(self) -> tuple[str, str] | None:
        """The values of the two `Set-Cookie` headers of an answer that says nothing else beside them; None for any other answer."""
        if self.issued is None or self.cookies is None or self.failed or self.client is not None:
            return None
        return self.cookies.issued_headers(*self.issued, persistent=self._persistent())

    def headers(self) -> list[tuple[str, str]]:
        """The header pairs for the response: cookies, `Cache-Control: no-store` with any of them, and `Vary`."""
        if not self.looked or self.cookies is None:
            return []
        pairs: list[tuple[str, str]] = []
        values: tuple[str, str] | None = None
        if self.issued is not None:
            values = self.cookies.issued_headers(*self.issued, persistent=self._persistent())
        elif self.expire:
            values = self.cookies.expire_headers()
        elif self.resend and not self._outdated():
            values = self.cookies.set_headers(*self._given(), persistent=self._persistent())
        if values is not None:
            pairs = [("Set-Cookie", values[0]), ("Set-Cookie", values[1])]
        if self.failed:
            pairs += [("Set-Cookie", cookie.header()) for cookie in self._others()]
        if pairs:
            pairs.append(("Cache-Control", "no-store"))
        pairs.append(("Vary", "Cookie"))
        if self.client is not None and self.client.closing:
            pairs.append(("Connection", "close"))
        return pairs

    def _given(self) -> tuple[str, str]:
        """The values of the cookies that the request came with."""
        assert self.cookies is not None
        key, addr = self.cookies.find(self.guard.basics(self.source)[2])
        key_value, _, route = (key or "").partition(".")
        # What stands behind the id is the client's text: it may be none that can be written.
        return key or "" if len(route) <= MAX_ROUTE and is_value(route) else key_value, addr or ""

    def _outdated(self) -> bool:
        # The browser gets newer cookies with the answer of the request that has renewed, or has them already.
        return self.tracking is not None and self.tracking.old_secret

    def _persistent(self) -> bool:
        tracking = self.tracking
        policy = self.guard.policy
        return tracking.persistent if tracking is not None else policy.persistent and policy.max_age is not None

    def _others(self) -> list[SetCookie]:
        policy = self.guard.policy
        if not self.failed or policy.filter is leave_alone:
            return []
        own = {
            name for https in (False, True) for name in (policy.session_cookies(https).key_name, policy.session_cookies(https).addr_name)
        }
        return filtered(policy.filter, parse_cookies(self.guard.basics(self.source)[2]), own)

    def reject(self, reason: RejectedReason) -> BaseException:
        """What to raise for a request whose check has failed: the user's own exception for a missing session, or `Rejected`."""
        self.failed = True
        self.done = True
        guard = self.guard
        if reason == "no_session" and guard.nosession is not None:
            return guard.nosession.with_traceback(None)
        status, headers = guard.error
        return Rejected(reason, status, [*headers, *self.headers()])
