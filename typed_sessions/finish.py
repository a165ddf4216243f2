"""How a request ends: its session is closed, and what was not committed is dropped, or warned about."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager
from typing import final

from .cookies import SetCookie
from .exchange import Exchange
from .session import Opened, current

logger: logging.Logger = logging.getLogger("typed_sessions")


class Finishing:
    """What `Finish` and `AsyncFinish` have in common."""

    __slots__ = ("_exchange",)

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def discard(self) -> list[tuple[str, str]]:
        """Drop what changed, for an answer that reports a failure; the headers still belong into the response."""
        discard_exchange(self._exchange)
        return self._left()

    @contextmanager
    def current(self) -> Generator[None]:
        """Within the block, `current_session()` is the request's session: `with finish.current(): answer = handler(request)`."""
        with current(None if self._exchange.session is None else Opened(self._exchange.session)):
            yield

    def _left(self) -> list[tuple[str, str]]:
        """The headers, which leave now; none if they have left before."""
        exchange = self._exchange
        if exchange.headers_sent:
            return []
        if not exchange.done:
            exchange.headers_sent = True
            if exchange.tracking is not None:
                exchange.tracking.headers_sent = True
        return exchange.headers()

    @property
    def cookies(self) -> Sequence[SetCookie]:
        """The cookies that the headers set or expire, for servers with cookie objects of their own. Complete once finished."""
        return self._exchange.set_cookies()

    def __del__(self) -> None:
        warn_if_dropped(self._exchange)


@final
class Finish(Finishing):
    """Ends one request: call it once, before the response's headers leave, and send the header pairs that it returns.

    Where the body follows bit by bit, and may use the session, `start()` gives the headers, and the call comes at the body's end.
    """

    __slots__ = ("_commit",)

    def __init__(self, commit: Callable[[Exchange], None], exchange: Exchange) -> None:
        super().__init__(exchange)
        self._commit = commit

    def start(self) -> list[tuple[str, str]]:
        """Commit what changed so far, for the response's headers leave now; what the call would return. The session stays open.

        What is written after is committed by the call. What takes a cookie raises `HeadersSent` from now on. Where a WebSocket is accepted,
        it is the same.
        """
        exchange = self._exchange
        if not (exchange.done or exchange.headers_sent):
            self._commit(exchange)
        return self._left()

    def __call__(self) -> list[tuple[str, str]]:
        """Commit what changed and close the session; the cookies to set or expire, `Vary` and `Cache-Control`, as header pairs.

        Raises `StoreUnavailable`, `Conflict` or `TooLarge` when the commit failed: answer with the error's `status` and `headers` instead
        of what the handler said. A session that another request has ended meanwhile is no error (`CommitRefused` is sent).
        """
        exchange = self._exchange
        if not exchange.done:
            try:
                self._commit(exchange)
            finally:
                close_exchange(exchange)
        return self._left()


@final
class AsyncFinish(Finishing):
    """Ends one request: await it once, before the response's headers leave, and send the header pairs that it returns.

    As `Finish`, with `await` on the call and on `start()`.
    """

    __slots__ = ("_commit",)

    def __init__(self, commit: Callable[[Exchange], Awaitable[None]], exchange: Exchange) -> None:
        super().__init__(exchange)
        self._commit = commit

    async def start(self) -> list[tuple[str, str]]:
        """As `Finish.start`."""
        exchange = self._exchange
        if not (exchange.done or exchange.headers_sent):
            await self._commit(exchange)
        return self._left()

    async def __call__(self) -> list[tuple[str, str]]:
        """As `Finish` does."""
        exchange = self._exchange
        if not exchange.done:
            try:
                await self._commit(exchange)
            finally:
                close_exchange(exchange)
        return self._left()


def close_exchange(exchange: Exchange) -> None:
    """The request is over: its session answers no more."""
    exchange.done = True
    tracking = exchange.tracking
    if tracking is not None:
        tracking.closed = True
        tracking.owner = tracking.rejected = None  # no reference cycle: a request's memory is free when the request is over
    exchange.refused = exchange.failure = None


def forget_changes(exchange: Exchange) -> None:
    """Drop what the request has changed and not committed; it goes on."""
    if exchange.tracking is not None:
        exchange.tracking.forget_changes()


def fail_exchange(exchange: Exchange) -> None:
    """The answer says that the request has failed: what it changed is dropped, and what it changes from now on goes nowhere."""
    exchange.failing = True
    tracking = exchange.tracking
    if tracking is not None:
        if tracking.touched:
            discard_exchange(exchange)
        else:
            tracking.discarding = True


def discard_exchange(exchange: Exchange) -> None:
    """The request is over, and what it changed is dropped; its headers still go out."""
    if not exchange.done:
        forget_changes(exchange)
        close_exchange(exchange)


def dropped(exchange: Exchange) -> list[str] | None:
    """The names of the keys whose changes nobody has committed; None if the request has done nothing to its session."""
    tracking = exchange.tracking
    if exchange.done or tracking is None or tracking.closed:
        return None
    names = tracking.dirty_names()
    flags = tracking.end_asked or tracking.renew_asked or tracking.timeout_set or tracking.persistent_set
    return names if names or flags else None


def report_broken_off(exchange: Exchange) -> None:
    """Log what is lost with a body that did not come to its end. Often nobody else tells: servers and frameworks take it for usual."""
    names = dropped(exchange)
    if names is not None:
        logger.warning(
            "the body of the response to %.200r did not come to its end: what was done to the session after the headers is lost (keys %s); "
            "what has to be stored all the same is for the manager's commit(session)",
            exchange.guard.reader.path(exchange.source),
            names,
        )


def warn_if_dropped(exchange: Exchange) -> None:
    """`ResourceWarning` for a request whose changes nobody has committed."""
    names = dropped(exchange)
    if names is not None:
        warnings.warn(
            f"a session was dropped without finish(): what was done to it is lost (keys {names}); "
            "call (or await) the finish that start_check gave, or finish.discard()",
            ResourceWarning,
            stacklevel=2,
        )
