"""The errors of the package: one small tree, the facts on the error as attributes.

A docstring says when the error is raised. Errors that a server answers with carry `status` and `headers`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Literal, TypeAlias, cast

from typing_extensions import override

Headers: TypeAlias = Sequence[tuple[str, str]]
RejectedReason: TypeAlias = Literal["no_session", "bad_cookie", "other_address", "check", "require", "renewed", "clients", "origin"]
"""Why a request was refused; see `Rejected`."""

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_NO_STORE: Headers = (("Cache-Control", "no-store"),)
_NAMED = 3  # a session has hundreds of keys at most, and one of them is what is too much, as a rule


class SessionError(Exception):
    """The root: everything that this package raises on purpose."""


class KeyTypeError(SessionError, TypeError):
    """A key's declaration cannot work (a type that cannot be carried, a hook that does not fit), or a value of another type was given.

    Also for a function of a key, a hook or the one given to `update`, that would have to be awaited where nothing awaits it.
    """


class DuplicateKeyError(SessionError, ValueError):
    """A second, different key was declared under a name that is taken."""


class PolicyError(SessionError, ValueError):
    """An option, a cookie policy, an address policy or a sealing key is illegal; the text names the option and what is expected."""


class NoSession(SessionError, LookupError):
    """There is no session here.

    `current_session()` was called outside a request or listener that has one, `open_session` where no middleware is around,
    `SessionHandler.session` before there was a request, or `edit` with the handle of a session that does not exist or has ended.
    """


class NotOpened(SessionError):
    """An asynchronous request's session was looked at before `await open_session(...)`."""


class SessionClosed(SessionError):
    """The session was used after its request had been finished, in whatever thread or task."""


class SessionEnded(SessionError):
    """The session has ended, or was renewed by another request: what `commit`, `refresh` and the end of an `edit` block raise.

    Also for a write to a session, or a `renew`, after its end, in the request that asked for that too.
    """


class HeadersSent(SessionError):
    """The session was to be created or renewed, or its cookie changed, after the response's headers had left."""


class NoPeerAddress(SessionError):
    """A request came from a peer that is no IP address, and no trusted proxy has told one: a session cannot be bound to it."""


class Conflict(SessionError):
    """Other requests changed the same values, again and again, until the manager's `deadline` was over; nothing was applied.

    Answer it with `status` (503) and `headers`. `names` are those of the keys.
    """

    status: int = 503
    headers: Headers = (*_NO_STORE, ("Retry-After", "1"))

    def __init__(self, message: str, *, names: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.names: tuple[str, ...] = tuple(names)


class StoreUnavailable(SessionError):
    """The store did not answer in time, or could not do what was asked. Answer it with `status` (503) and `headers`.

    `unknown` is True if the answer was lost: what was asked may have been done, and nothing asks for it again.
    """

    status: int = 503
    headers: Headers = (*_NO_STORE, ("Retry-After", "1"))

    def __init__(self, message: str = "", *, unknown: bool = False) -> None:
        super().__init__(message)
        self.unknown = unknown


class StoreFull(StoreUnavailable):
    """No session can be created: the store holds as many as it may, and every one of them has been used more than once."""


class TooLarge(SessionError, ValueError):
    """A commit would make the session larger than the store allows (keys, or bytes), and larger than it is; nothing of it was applied.

    `written` is what the request wants to write: the bytes of each key's value.
    """

    status: int = 500
    headers: Headers = _NO_STORE
    written: Mapping[str, int] = MappingProxyType({})

    @override
    def __str__(self) -> str:
        largest = sorted(self.written.items(), key=lambda entry: -entry[1])
        named = ", ".join(f"{name!r} {size}" for name, size in largest[:_NAMED])
        more = f" and {len(largest) - _NAMED} more" if len(largest) > _NAMED else ""
        return f"{super().__str__()}{'. The request writes, in bytes: ' if named else ''}{named}{more}"


class SnapshotDamaged(SessionError):
    """A snapshot file is not whole, not of this format, or not safe to read (owner, mode, link)."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(f"snapshot {path}: {why}")
        self.path = path
        self.why = why


def check_headers(headers: Headers) -> None:
    """Raise ValueError for a pair that would be no header line, or more than one (CWE-113): a client's text may be in it."""
    for name, value in headers:
        if _HEADER_NAME.fullmatch(name) is None or any(character in value for character in "\r\n\0") or max(value, default="") > "\xff":
            raise ValueError(f"the header {name!r} of an error: expected a token, and a value of Latin-1 without line ends")


def check_error(error: tuple[int, Headers]) -> None:
    """Raise `PolicyError` unless it is a status with header pairs, like what `redirect` returns."""
    fits = isinstance(error, tuple) and len(error) == 2 and isinstance(error[0], int) and 300 <= error[0] <= 599
    if not fits or isinstance(error[1], str) or not all(isinstance(pair, tuple) and len(pair) == 2 for pair in error[1]):
        raise PolicyError(f'error = {error!r}: expected a status of 300 to 599 with header pairs, such as (403, []) or redirect("/login")')
    try:
        check_headers(error[1])
    except (TypeError, ValueError) as problem:
        raise PolicyError(f"error = {error!r}: {problem}") from None


class Rejected(SessionError):
    """A check refused the request: answer with `status` and `headers`; `reason` says which check it was.

    "no_session" (none, and the filter creates none), "bad_cookie" (SESSION_ADDR is missing or wrong), "other_address", "check" (the
    filter's), "require" (a handler's, and yours: `raise Rejected("require", 403)`, `Rejected("require", *redirect("/login"))`), "renewed"
    (with the previous id, and it asks for a new one), "clients" (the session has too many), "origin" (a WebSocket from another page).

    Raises TypeError for a reason that is no text, and `PolicyError` for a status that is not of 300 to 599, or headers that are no pairs.
    """

    def __init__(self, reason: RejectedReason, status: int = 400, headers: Headers = (), message: str = "") -> None:
        # A status alone, as HTTPException(403) of other libraries has it, would be answered with that of the default.
        if not isinstance(cast("object", reason), str):
            raise TypeError(f'Rejected({reason!r}): the reason comes first, then the status, as in Rejected("require", 403)')
        check_error((status, headers))
        super().__init__(message or f"the request was refused ({reason}): answer it with status {status}")
        self.reason: RejectedReason = reason
        self.status = status
        self.headers: Headers = headers


CommitFailure: TypeAlias = StoreUnavailable | Conflict | TooLarge
COMMIT_FAILURES = (StoreUnavailable, Conflict, TooLarge)
"""What `finish()` raises when the commit failed: a filter answers with the error's `status` and `headers` in the handler's place."""
