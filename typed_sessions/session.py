"""The typed face of one session during one request: `Session`, and `SessionView` for reading only.

No accessor waits or does I/O: the data came with the one call that opened the session, and goes with the one that commits it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar, Token
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, NoReturn, Protocol, TypeAlias, TypeVar, cast, final, overload

import msgspec
from typing_extensions import override

from .clients import Client
from .errors import Headers, KeyTypeError, NoSession, Rejected, check_error
from .habits import Habits, ListHabits
from .keys import AnyKey, Key, KeyView, ListKey, known_key
from .residents import ABSENT
from .tracking import Tracking

T = TypeVar("T")
D = TypeVar("D")

Create: TypeAlias = Literal["on_write"] | bool
"""When a request without a session gets one: with its first committed value, with the request (True), or never (False)."""
Error: TypeAlias = tuple[int, Headers]
"""What a refused request is answered with: status and headers."""

FORBIDDEN: Error = (403, ())

_nothing: Any = ABSENT  # Any: it stands where a function belongs, and says that none was given


class SessionListView(Sequence[T], Generic[T]):
    """The values of a `ListKey` in one session, oldest first unless prepended, for reading."""

    __slots__ = ("_key", "_tracking")

    def __init__(self, tracking: Tracking, key: ListKey[T]) -> None:
        self._tracking = tracking
        self._key = key

    @override
    def __len__(self) -> int:
        return len(self._tracking.list_slot(self._key).items)

    @overload
    def __getitem__(self, index: int, /) -> T: ...
    @overload
    def __getitem__(self, index: slice, /) -> Sequence[T]: ...
    @override
    def __getitem__(self, index: int | slice, /) -> T | Sequence[T]:
        items = self._tracking.list_slot(self._key).items
        if isinstance(index, slice):
            return [cast("T", item.value) for item in items[index]]
        return cast("T", items[index].value)

    @override
    def __eq__(self, other: object) -> bool:
        if not isinstance(other, (SessionListView, list, tuple)):
            return NotImplemented
        return list(self) == list(cast("SessionListView[object]", other))

    @override
    def __repr__(self) -> str:
        # For logs and debuggers, so also when the session can no longer be read.
        return f"<{type(self).__name__} of {self._key!r}, {'closed' if self._tracking.closed else f'{len(self)} values'}>"

    @override
    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{self!r} cannot be pickled or copied: list(...) makes a list of its values")


@final
class SessionList(SessionListView[T], ListHabits):
    """The values of a `ListKey` in one session, oldest first unless prepended. Changes are committed with the request.

    What is added and is not of the key's type raises `KeyTypeError`.
    """

    __slots__ = ()

    def append(self, value: T, /) -> None:
        """Add at the end. Never collides with another request's."""
        self._tracking.append(self._key, value, False)

    def prepend(self, value: T, /) -> None:
        """Add at the front."""
        self._tracking.append(self._key, value, True)

    def remove_where(self, match: Callable[[T], bool], /, *, first: bool = False) -> int:
        """Remove what matches, or only the first that does; how many that were in this view."""
        check_function(match, "remove_where", "a function of an element, such as lambda element: element == 'old'")
        return self._tracking.remove_where(self._key, lambda value: answered(match(value), "remove_where", match), first)

    def clear(self) -> None:
        """Remove everything that this request has seen; what another one appends meanwhile stays."""
        self._tracking.clear_list(self._key)


class SessionView(msgspec.Struct, eq=False):
    """Reading a session: what `get_session`, `all()` and events hand out. An empty session is not false: there is no `len`."""

    _tracking: Tracking
    _lists: ClassVar[type[SessionListView[Any]]] = SessionListView  # Any: of whatever key is asked for

    @overload
    def __getitem__(self, key: KeyView[T], /) -> T: ...
    @overload
    def __getitem__(self, key: ListKey[T], /) -> Sequence[T]: ...
    def __getitem__(self, key: KeyView[Any] | ListKey[Any], /) -> object:  # Any: see the overloads
        """The value. Raises KeyError if there is none, or if what is stored is not of the key's type (`ValueRefused` tells).

        Of a `ListKey` it is the list, which may be empty.
        """
        if isinstance(key, ListKey):
            return self._lists(self._tracking, key)
        try:
            value = self._tracking.read(key)
        except AttributeError:
            _explain(key)
            raise
        if value is not ABSENT:
            return value
        raise KeyError(key)

    def __contains__(self, key: AnyKey, /) -> bool:
        if isinstance(key, ListKey):
            return bool(self._tracking.list_slot(key).items)
        try:
            return self._tracking.read(key) is not ABSENT
        except AttributeError:
            _explain(key)
            raise

    @overload
    def get(self, key: KeyView[T], /) -> T | None: ...
    @overload
    def get(self, key: Key[T], /, default: T) -> T: ...
    @overload
    def get(self, key: KeyView[T], /, default: D) -> T | D: ...
    def get(self, key: Any, /, default: object = None) -> object:  # Any: see the overloads
        """The value, or `default`, which is not stored."""
        try:
            value: object = self._tracking.read(key)
        except AttributeError:
            _explain(key)
            raise
        return default if value is ABSENT else value

    def __iter__(self) -> Iterator[AnyKey]:
        """The keys that have a value, of those declared in this process."""
        for name in self._tracking.names():
            key = known_key(name)
            if key is not None:
                yield key

    @property
    def exists(self) -> bool:
        """Whether the session is stored: False until the first commit of a new one, and after the commit of its end."""
        return self._tracking.record is not None and not self._tracking.over

    @property
    def created(self) -> float:
        """When the session was created, in seconds since 1970."""
        record = self._tracking.record
        return self._tracking.now if record is None else record.created

    @property
    def idle(self) -> float:
        """Seconds from the last use that was written to the moment the session was opened; `granularity` more than the truth at most."""
        record = self._tracking.record
        return 0.0 if record is None else max(0.0, self._tracking.now - record.used)

    @property
    def timeout(self) -> float | None:
        """The idle timeout in seconds; None is never. If nobody comes, `timeout - idle` are left, and a `granularity` more at most."""
        tracking = self._tracking
        if tracking.timeout_set:
            return tracking.timeout
        return tracking.around.default_timeout if tracking.record is None else tracking.record.timeout

    @property
    def persistent(self) -> bool:
        """Whether the cookie outlives the browser session (Max-Age)."""
        return self._tracking.persistent

    @property
    def address(self) -> str | None:
        """The address the session is bound to: that of the request that began or last renewed it, whatever others it is used from."""
        record = self._tracking.record
        return self._tracking.address if record is None else record.address

    @property
    def clients(self) -> Sequence[Client]:
        """The clients that are connected now, in this process."""
        return self._tracking.around.clients_of(self._tracking)

    @property
    def handle(self) -> str:
        """The session's public name, for `manager.end(handle)` and logs: made from the locator, opens nothing. Empty while unsaved."""
        record = self._tracking.record
        return "" if record is None else record.locator.hex()

    @override
    def __repr__(self) -> str:
        record = self._tracking.record
        return f"<{type(self).__name__} {record.locator.hex() if record is not None else '(not saved)'}>"

    @override
    def __rich_repr__(self) -> list[tuple[str, str]]:
        return [("handle", self.handle)]  # as in Record

    @override
    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"{self!r} cannot be pickled or copied: give another process, or a later task, the values that it needs, or session.handle, "
            "which opens the session in manager.edit(handle)"
        )


@final
class Session(SessionView, Habits, eq=False):
    """Reading and writing a session during one request. `renew` and `end` take effect at the commit, like every change."""

    _lists: ClassVar[type[SessionListView[Any]]] = SessionList

    if TYPE_CHECKING:  # what a list can do here, it cannot in a view

        @overload
        def __getitem__(self, key: KeyView[T], /) -> T: ...
        @overload
        def __getitem__(self, key: ListKey[T], /) -> SessionList[T]: ...
        @override
        def __getitem__(self, key: KeyView[Any] | ListKey[Any], /) -> Any: ...  # Any: see the overloads

    def __setitem__(self, key: Key[T], value: T, /) -> None:
        """Set the value, whatever others do meanwhile: of two assignments the last commit wins. Raises `KeyTypeError` if it is no `T`."""
        try:
            self._tracking.assign(key, value)
        except AttributeError:
            _explain(key)
            raise

    def __delitem__(self, key: AnyKey, /) -> None:
        """Remove the value (of a list: every element that this request has seen). KeyError if there is none."""
        if not isinstance(key, ListKey):
            _explain(key)
        self._tracking.delete(key)

    @overload
    def pop(self, key: KeyView[T], /) -> T: ...
    @overload
    def pop(self, key: Key[T], /, default: T) -> T: ...
    @overload
    def pop(self, key: KeyView[T], /, default: D) -> T | D: ...
    def pop(self, key: Any, /, default: object = ABSENT) -> object:  # Any: see the overloads
        """Remove the value and return it; without one, `default`, or KeyError."""
        _explain(key)
        slot = self._tracking.slot(key)
        if not slot.present:
            if default is ABSENT:
                raise KeyError(key)
            return default
        value: object = slot.value
        self._tracking.delete(key)
        return value

    def setdefault(self, key: Key[T], make: Callable[[], T], /) -> T:
        """The value; if there is none, what `make()` returns, which is set."""
        _explain(key)
        check_function(make, "session.setdefault", "a function that makes the value, such as list or lambda: 'ann'")
        present = self._tracking.read(key)
        if present is not ABSENT:
            return cast("T", present)
        value = make()
        self._tracking.assign(key, value)
        return value

    @overload
    def update(self, key: Key[T], change: Callable[[T], T], /) -> T: ...
    @overload
    def update(self, key: Key[T], change: Callable[[T], T], /, *, default: T) -> T: ...
    def update(self, key: Key[T], change: Callable[[T], T] = _nothing, /, *, default: object = ABSENT) -> T:
        """Set `change(value)`, also when other requests change it at the same time: nothing is lost.

        `change` is applied at once, and what it gives is this request's view of the value and is returned. At the commit it is applied
        again to what others have stored by then, as often as they are faster: so it must be a pure function of its argument. Raises
        KeyError if there is neither a value nor `default`.
        """
        try:
            return cast("T", self._tracking.update(key, change, default))
        except AttributeError:
            _explain(key)
            raise
        except (KeyError, TypeError) as problem:
            check_function(change, "session.update", "a function of the value, such as lambda n: n + 1")
            if default is ABSENT and problem.args and problem.args[0] is key:
                raise KeyError(f"{key!r} has no value that could be changed: give update(..., default=...) the one to begin with") from None
            raise

    def renew(self, *, overlap: float | None = None, clear: bool = False) -> None:
        """Replace the secret: the old cookie opens nothing from the commit on. Do this at sign-in (ASVS 7.2.4, session fixation).

        The data, `timeout` and `persistent` stay, unless `clear`; locator and absolute lifetime stay always. With `overlap` the previous
        secret opens the session for so many seconds more (routine rotation); the default is the manager's, 0. Raises `HeadersSent` when
        the response's headers have left, and `Rejected` (409) in a request that came with a previous secret and asks for no overlap.
        """
        self._tracking.ask_renew(overlap, clear)

    def require(self, check: Callable[[Session], bool], /, *, error: Error = FORBIDDEN) -> None:
        """Refuse the request, raising `Rejected` with `error`, unless `check(session)`. The session stays.

        Raises `PolicyError` for an `error` that is no status of 300 to 599 with header pairs.
        """
        check_error(error)
        check_function(check, "session.require", "a function of the session, such as lambda s: user in s")
        self._open()
        if not answered(check(self), "session.require", check):
            raise refused(self, error)

    def end(self) -> None:
        """End the session at the commit: its clean-up hooks run, its cookies are expired, and nothing brings it back."""
        self._tracking.ask_end()

    @property
    @override
    def timeout(self) -> float | None:
        """The idle timeout in seconds; None is never. Setting it is for this session only.

        Raises `PolicyError` for anything but None and a positive number.
        """
        self._open()
        return super().timeout

    @timeout.setter
    def timeout(self, seconds: float | None) -> None:
        self._tracking.set_timeout(seconds)

    @property
    @override
    def persistent(self) -> bool:
        """Whether the cookie outlives the browser session (Max-Age). Setting it is for this session only ("remember me").

        Raises `PolicyError` for True if the cookie policy has no `max_age`, and `HeadersSent` for a change after the headers have left.
        """
        return self._open().persistent

    @persistent.setter
    def persistent(self, persistent: bool) -> None:
        self._tracking.set_persistent(persistent)

    def _open(self) -> Tracking:
        """Raise `SessionClosed` if the request is over."""
        tracking = self._tracking
        if tracking.closed:
            tracking.refuse_closed()
        return tracking


def refused(session: Session, error: Error) -> Rejected:
    """What to raise for a session without what a handler requires. It is kept for filters, whose application may answer it itself."""
    problem = tracking_of(session).rejected = Rejected("require", error[0], error[1])
    return problem


def _explain(key: object) -> None:
    """Raise for what is not the key of one value: the text says what to use instead."""
    if isinstance(key, Key):
        return
    if isinstance(key, ListKey):
        raise KeyTypeError(f"{key!r} has many values: session[key] is a sequence, with append, prepend, remove_where and clear") from None
    if isinstance(key, Mapping):  # not shown, for it holds values
        raise KeyTypeError(
            "a dictionary is no key: values are set one by one, session[visits] = 1; and session.update changes one"
        ) from None
    raise KeyTypeError(
        f'{key!r} is no key: declare one where modules are loaded, such as visits = Key("visits", int), and use session[visits]'
    ) from None


def check_function(given: object, asked: str, expected: str) -> None:
    """Raise TypeError for what cannot be called; it is not shown, for it may be a value that was meant to be stored."""
    if not callable(given):
        found = "; nothing was given" if given is ABSENT else f"; not a value of type {type(given).__name__}"
        raise TypeError(f"{asked}(...): expected {expected}{found}")


def answered(answer: object, asked: str, function: object) -> bool:
    """What a function of the user's has answered. TypeError for something to await: it would count as True, and let everybody in."""
    if type(answer) is not bool and inspect.isawaitable(answer):
        if inspect.iscoroutine(answer):
            answer.close()
        raise TypeError(f"{asked}({function!r}): it gave an awaitable, and this does not wait; give a plain function, and await before")
    return bool(answer)


def tracking_of(session: SessionView) -> Tracking:
    """For the managers: what is behind a session that a user hands back."""
    return session._tracking  # pyright: ignore[reportPrivateUsage]  # this module's own


class Opener(Protocol):
    """What stands in the context of a request: gives its session, opening it if that can be done here."""

    def current(self) -> Session: ...


_opener: ContextVar[Opener | None] = ContextVar("typed_sessions_opener", default=None)


@overload
def current_session() -> Session: ...
@overload
def current_session(default: D, /) -> Session | D: ...
def current_session(default: object = ABSENT, /) -> object:
    """The session of the running request or listener. Without one: `default`, or `NoSession`.

    In an asynchronous request it has to be opened before (`await open_session(scope)`), or `NotOpened` is raised.
    """
    opener = _opener.get()
    if opener is not None:
        try:
            return opener.current()
        except Rejected as refused:
            # A filter that creates nothing (`create=False`) has none to give: that is what the default is for.
            if default is ABSENT or refused.reason != "no_session":
                raise
            forgive = getattr(opener, "forgive", None)
            if forgive is not None:
                forgive()
            return default
    if default is ABSENT:
        raise NoSession(
            "there is no session here: current_session() works in a request that a filter serves, and in a listener; "
            "the filter has to be outside of all that uses the session, other middleware too. A test client that goes past it, such as "
            "Django's, finds none: use httpx.WSGITransport or httpx.ASGITransport with the application that the server is given. "
            "A thread or an executor of your own has none either: give it the values, or let it run "
            "contextvars.copy_context().run(function), which asyncio.to_thread does"
        )
    return default


enter: Callable[[Opener | None], Token[Opener | None]] = _opener.set
"""Make an opener the current one; `leave` with the token that this returns."""


def leave(token: Token[Opener | None]) -> None:
    """Make the opener of before the current one again. In another context there is nothing to be done: a coroutine that was left over in an
    event loop is closed in that of whoever collects it."""
    try:  # noqa: SIM105  # in the way of every request
        _opener.reset(token)
    except ValueError:
        pass


def carrying() -> Client | None:
    """The connection that carries the running request, where its filter knows one: what ends a session of its own is still answered."""
    client = getattr(_opener.get(), "session_client", None)
    return client if isinstance(client, Client) else None


def open_here() -> Session | None:
    """The session of the running request or listener, if it is open already."""
    session = getattr(_opener.get(), "session", None)
    return session if isinstance(session, Session) else None


@final
class Opened:
    """An opener for a session that is open already."""

    __slots__ = ("session",)

    def __init__(self, session: Session) -> None:
        self.session: Session = session

    def current(self) -> Session:
        return self.session


@contextmanager
def current(opener: Opener | None) -> Generator[None]:
    """Within the block, `current_session()` is what `opener` gives."""
    token = _opener.set(opener)
    try:
        yield
    finally:
        _opener.reset(token)
