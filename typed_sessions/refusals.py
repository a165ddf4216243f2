"""What is answered in the application's place: which exceptions are a refusal, whoever has wrapped them, and what the answer looks like.

It knows exceptions, statuses and headers; no request, and no session.
"""

from __future__ import annotations

import builtins
import http
import logging
import sys
from collections.abc import Iterator, Sequence
from typing import Any, cast
from urllib.parse import quote

from .errors import COMMIT_FAILURES, CommitFailure, PolicyError, Rejected
from .session import Error

logger: logging.Logger = logging.getLogger("typed_sessions")

_URI = "".join(map(chr, range(0x21, 0x7F)))
"""What an address may be made of as it is; all else is percent-encoded."""


def redirect(location: str, /, status: int = 303) -> Error:
    """An `error` that sends the browser elsewhere: `Location`, and a status that makes it GET (RFC 9110 15.4.4)."""
    if not isinstance(status, int) or not 300 <= status <= 399:
        raise PolicyError(f"redirect(status={status!r}): expected a status of 300 to 399")
    if not isinstance(location, str) or not location or any(character in location for character in "\r\n\0"):
        raise PolicyError(f"redirect({location!r}): expected an address without control characters")
    return status, (("Location", quote(location, safe=_URI)),)


def report(refused: Rejected | CommitFailure) -> None:
    """Log what is answered in the application's place and is not the client's doing: nobody else hears of it."""
    if not isinstance(refused, Rejected):
        logger.error("answered with %d: %s", refused.status, refused)


def plain_answer(status: int, headers: Sequence[tuple[str, str]]) -> tuple[str, list[tuple[str, str]], bytes]:
    """Status line, headers and body for a refusal: the status in words, unless the error's headers describe a body.

    A 304 has none, so neither its length nor its type (RFC 9110 8.6).
    """
    try:
        phrase = http.HTTPStatus(status).phrase
    except ValueError:
        phrase = "Refused"
    if status == 304:
        return f"{status} {phrase}", list(headers), b""
    body = f"{status} {phrase}\n".encode()
    mine = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))]
    names = {name.lower() for name, _ in headers}
    return f"{status} {phrase}", [*headers, *(pair for pair in mine if pair[0].lower() not in names)], body


def leaves(problem: BaseException) -> Iterator[BaseException]:
    """The exceptions that a group consists of, as tasks of a `TaskGroup` have raised them; of any other exception, itself."""
    # Python 3.10 has no groups of its own: there they are those of the backport, if anything in the program has asked for it.
    home = builtins if hasattr(builtins, "BaseExceptionGroup") else sys.modules.get("exceptiongroup")
    group: type[Any] | None = getattr(home, "BaseExceptionGroup", None)  # Any: Python 3.10 has no type for it
    if group is None or not isinstance(problem, group):
        yield problem
        return
    for part in cast("Any", problem).exceptions:
        yield from leaves(part)


def refusal_of(problem: BaseException, *, beside: tuple[type[BaseException], ...] = ()) -> Rejected | CommitFailure | None:
    """What a filter answers in the application's place, if that is what was raised; None for what is no refusal.

    A group is a refusal if it consists of nothing else (but what is `beside` the point): the first of them, in the order of the group. One
    that holds another exception too is a mistake in the application, and as such not to be hidden behind an answer.
    """
    if isinstance(problem, (Rejected, *COMMIT_FAILURES)):
        return problem
    first: Rejected | CommitFailure | None = None
    for leaf in leaves(problem):
        if isinstance(leaf, (Rejected, *COMMIT_FAILURES)):
            first = first or leaf
        elif not isinstance(leaf, beside):
            return None
    return first


_OURS = __name__.partition(".")[0]
_HANDLERS = frozenset({f"{_OURS}.{name}" for name in ("filters.bottle", "filters.decorators", "filters.fastapi", "filters.starlette")})
"""What calls a handler in the framework's place, and asks for its session itself."""


def is_settled(problem: BaseException) -> bool:
    """Whether those who asked have caught the refusal themselves: what the answer is then, a 500 too, is their affair.

    A traceback begins where the exception was caught. If only code of one package lies between there and the call that was refused, no
    framework has caught it, which would be another one's: Django for one answers it with a 500 of its own, when it is handled no more.
    """
    trace, packages, called = problem.__traceback__, set[str](), ""
    while trace is not None:
        module = str(trace.tb_frame.f_globals.get("__name__"))
        package = module.partition(".")[0]
        if package != _OURS:
            packages.add(package)
            called = ""
        elif not called:
            called = "filter" if trace.tb_frame.f_code.co_name == "__call__" else module
        trace = trace.tb_next
    return len(packages) == 1 and called != "filter" and called not in _HANDLERS


def comes_of(problem: BaseException, failure: BaseException) -> bool:
    """Whether an exception was raised for another one: from it, or while it was handled, but not `from None`."""
    seen: set[int] = set()
    step: BaseException | None = problem
    while step is not None and id(step) not in seen:
        if any(leaf is failure for leaf in leaves(step)):
            return True
        seen.add(id(step))
        step = step.__cause__ or (None if step.__suppress_context__ else step.__context__)
    return False
