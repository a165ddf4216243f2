"""How a request ends: its session is closed, and what was not committed is dropped, or warned about."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from .cookies import SetCookie
from .exchange import Exchange


class Finishing:
    """What `Finish` and `AsyncFinish` have in common."""

    __slots__ = ("_exchange",)

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def discard(self) -> list[tuple[str, str]]:
        """Drop what changed, for an answer that reports a failure; the headers still belong into the response."""
        discard_exchange(self._exchange)
        return self._exchange.headers()

    @property
    def cookies(self) -> Sequence[SetCookie]:
        """The cookies that the headers set or expire, for servers with cookie objects of their own. Complete once finished."""
        return self._exchange.set_cookies()

    def __del__(self) -> None:
        warn_if_dropped(self._exchange)


def close_exchange(exchange: Exchange) -> None:
    """The request is over: its session answers no more."""
    exchange.done = True
    tracking = exchange.tracking
    if tracking is not None:
        tracking.closed = True
        tracking.owner = tracking.rejected = None  # no reference cycle: a request's memory is free when the request is over
    exchange.refused = None


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
