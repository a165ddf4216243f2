"""Plans: what takes a manager more than one call, as generators that say what to do next and are told what came of it. No I/O in here.

A plan yields a step, somebody else carries it out, and the result (or the exception) comes back in:

    Ask    a verb of the store
    Tell   a function of the user: a hook, a listener, a client's `close`
    Work   work of ours that waits for a disk
    Pause  seconds to wait
    Whole  a plan of its own, which is not left half done when the request is cancelled
    Aside  a plan of its own that nobody waits for

`run` in `manager` carries the steps out one after the other, the one in `carrying` awaits what has to be awaited. Since user code only runs
in a Tell, it runs with no lock held, and what it raises is reported here and stops nothing else (rule 10).
"""

from __future__ import annotations

import logging
from asyncio import CancelledError
from collections.abc import Callable, Generator, Iterator
from typing import Any, NamedTuple, TypeAlias, TypeVar, final

from .core import Core
from .events import Event
from .session import Opened, Session, enter, leave, tracking_of

logger: logging.Logger = logging.getLogger("typed_sessions")

R = TypeVar("R")


class Ask(NamedTuple):
    """Call a verb of the store."""

    verb: Callable[..., Any]
    args: tuple[Any, ...]


class Tell(NamedTuple):
    """Call a function of the user's; it may give an awaitable."""

    function: Callable[..., Any]
    args: tuple[Any, ...]


class Work(NamedTuple):
    """Do something that waits for a disk."""

    function: Callable[..., Any]
    args: tuple[Any, ...]


class Pause(NamedTuple):
    """Wait: `sleep(seconds)`, which may give an awaitable."""

    sleep: Callable[[float], Any]
    args: tuple[float]


@final
class Whole(NamedTuple):
    """Carry out a plan to its end, also when whoever waits for it is cancelled: what has ended is cleaned up after (rule 13)."""

    plan: Plan[Any]


@final
class Aside(NamedTuple):
    """Begin a plan that may wait for somebody outside, for as long as he likes. It has to see to what goes wrong in it."""

    plan: Plan[None]


Plan: TypeAlias = Generator[Ask | Tell | Work | Pause | Whole | Aside, Any, R]  # Any: each step has a result of its own type


def tell(session: Session | None, function: Callable[..., Any], value: object, what: str, otherwise: object) -> Plan[object]:
    """What a function of the user's answers to a value, or `otherwise` if it raises: then `what` it is, is logged (rule 10)."""
    token = enter(None if session is None else Opened(session))
    try:
        return (yield Tell(function, (value,)))
    except Exception:
        logger.exception("%s raised; everything else goes on", what)
        return otherwise
    finally:
        leave(token)


def emit(core: Core, event: Event, session: Session | None = None) -> Plan[None]:
    """Tell the listeners, in the order of subscription; in each, `current_session()` is the session."""
    listeners = core.listeners(type(event))
    if not listeners:
        return
    if session is None:
        session = Session(tracking_of(event.session))
    yield from _tell_each(iter(listeners), event, session)


def _tell_each(listeners: Iterator[Callable[..., Any]], event: Event, session: Session) -> Plan[None]:
    for listener in listeners:
        try:
            yield from tell(session, listener, event, f"a listener of {type(event).__name__} ({listener!r})", None)
        except CancelledError:
            yield from _tell_each(listeners, event, session)  # those after it too: whoever hears of an end has heard of the beginning
            raise
