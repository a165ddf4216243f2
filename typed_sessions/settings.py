"""What the two managers have in common: their settings, all of them checked or none taken."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import wraps
from typing import Any, ClassVar, Final, Generic, Literal, NoReturn, TypeVar, cast, final

from typing_extensions import override

from .address import AddressPolicy
from .clock import steady_clock
from .core import Core
from .errors import PolicyError
from .exchange import Guard, RequestReader
from .keeper import Keeper, is_cuttable, keeper_of
from .lifecycle import idle_of
from .options import SessionOptions, refuse_unknown
from .policy import CookiePolicy
from .record import LOCATOR_BYTES
from .sealing import SealingKeys
from .session import Create, Session, SessionView, answered, check_function
from .stores.memory import MemoryStore

_READER: Final = RequestReader()


@final
class _Unchanged:
    @override
    def __repr__(self) -> str:
        return "<as it is>"


UNCHANGED: Final[Any] = _Unchanged()
"""The default of an option that is not given to `set_options`. Any: it stands for a value of every option's type."""

ELSEWHERE: Final = ("cookie_policy", "address_policy", "seal", "clock")
"""What a manager is made with, beside the options."""
_ONCE: Final = (*ELSEWHERE, "max_clients")
_NOT_HERE: Final[Mapping[str, str]] = {
    "store": "a manager's store is its first argument, SessionManager(MemoryStore(), ...)",
    **dict.fromkeys(
        ("cookie", "path", "samesite", "same_site", "http_only", "secure", "max_age", "domain", "name", "partitioned"),
        "the cookies' options are CookiePolicy's, cookie_policy=CookiePolicy(...)",
    ),
    **dict.fromkeys(
        ("match", "v4", "v6", "mismatch", "trusted_proxies", "proxy_enabled"),
        "what addresses are asked for is AddressPolicy's, address_policy=AddressPolicy(...)",
    ),
    **dict.fromkeys(
        ("max_sessions", "max_bytes", "max_keys", "shards", "prefix", "schema", "max_connections", "client", "url"),
        "it is the store's, such as MemoryStore(max_sessions=...)",
    ),
    **dict.fromkeys(
        ("secret", "secret_key", "key", "keys"),
        "ids are random, so there is no secret to configure; to encrypt the values, seal=SealingKeys([...])",
    ),
}
"""Options of something else, and what it is."""


F = TypeVar("F", bound=Callable[..., object])
S = TypeVar("S")


def _explaining(once: Collection[str] = ()) -> Callable[[F], F]:
    """Decorates a method whose arguments are options: it raises `PolicyError` for one that does not exist, or is `once` for all.

    An argument that takes what is unknown would do the same, but type checkers know each option by the method's signature: only without
    such an argument do they say which one was meant.
    """

    def decorate(method: F) -> F:
        parameters = inspect.signature(method).parameters.values()
        known = frozenset(parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY)

        @wraps(method)
        def checked(*arguments: Any, **options: Any) -> object:  # Any: as the method itself says
            unknown = [name for name in options if name not in known]
            if unknown:
                for name in unknown:
                    if name in once:
                        raise PolicyError(f"{checked.__name__}({name}=...): it cannot be changed; give it to the manager when that is made")
                refuse(unknown)
            return method(*arguments, **options)

        return cast("F", checked)

    return decorate


class Configured(Generic[S]):
    """The part of a manager that is its settings: the constructor, what changes them later, and what both managers make of them."""

    asynchronous: ClassVar[bool]
    """Whether hooks and listeners may be coroutine functions."""

    @_explaining()
    def __init__(
        self,
        store: S | None = None,
        /,
        *,
        cookie_policy: CookiePolicy | None = None,
        address_policy: AddressPolicy | None = None,
        timeout: float | None = 600,
        lifetime: float | None = None,
        granularity: float = 60,
        overlap: float = 0,
        linger: float = 300,
        create: Create = "on_write",
        gc: Literal["passive", "active"] = "passive",
        enabled: bool = True,
        route: str | None = None,
        old_id: Literal["report", "end"] = "report",
        deadline: float = 5,
        reap_grace: float = 604_800,
        max_clients: int = 1_000,
        seal: SealingKeys | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        used = MemoryStore() if store is None else store
        if isinstance(used, (type, os.PathLike)) or not callable(getattr(used, "open", None)):
            if isinstance(store, str):  # not shown: there may be a password in it
                opens = "open_async_store" if self.asynchronous else "open_store"
                raise TypeError(
                    f"{type(self).__name__}(...): expected a store, such as MemoryStore(), not text; {opens}(url) gives that of a URL"
                )
            raise TypeError(f"{type(self).__name__}({store!r}): expected a store, such as MemoryStore()")
        options = SessionOptions(
            timeout=timeout,
            lifetime=lifetime,
            granularity=granularity,
            overlap=overlap,
            linger=linger,
            create=create,
            gc=gc,
            enabled=enabled,
            route=route,
            old_id=old_id,
            deadline=deadline,
            reap_grace=reap_grace,
            max_clients=max_clients,
        )
        policy = CookiePolicy() if cookie_policy is None else cookie_policy
        _check_outlived(policy, options)
        self._core = Core(
            used,
            options,
            policy,
            AddressPolicy() if address_policy is None else address_policy,
            seal,
            steady_clock() if clock is None else clock,
            asynchronous=self.asynchronous,
        )
        self._begin()
        if is_cuttable(used):
            # Also of a manager that saves nothing: another one of this store may, and what ends here must not come back there.
            self._keeper()
        self._tend()

    def _begin(self) -> None:
        """Set up what a manager has of its own; the core is there."""
        raise NotImplementedError

    def _tend(self) -> None:
        """The options have changed: begin or stop what runs in the background."""
        raise NotImplementedError

    def _guard(self, cookie_policy: CookiePolicy | None, **settings: Any) -> Guard:  # Any: typed on the callers, checked by Guard
        """The settings of one filter of a server of the user's own."""
        return Guard(_READER, self._core.cookie_policy if cookie_policy is None else cookie_policy, **settings)

    def _keeper(self) -> Keeper:
        """The keeper of the store's files, which this manager uses from now on. Raises `PolicyError` if the store needs none."""
        keeper = self._core.keeper = keeper_of(self._core.store, self._core.options.timeout, self)
        return keeper

    @override
    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{type(self).__name__} cannot be pickled or copied: each process makes its own, on a store that they share")

    @property
    def options(self) -> SessionOptions:
        """The options in force."""
        return self._core.options

    @property
    def cookie_policy(self) -> CookiePolicy:
        """The cookies of filters that have no policy of their own."""
        return self._core.cookie_policy

    def now(self) -> float:
        """The time by the manager's clock, in seconds since 1970: for deadlines that values keep themselves, in tests too."""
        return self._core.clock()

    @property
    def core(self) -> Core:
        """For the filters of this package."""
        return self._core

    @_explaining(_ONCE)
    def set_options(
        self,
        *,
        timeout: float | None = UNCHANGED,
        lifetime: float | None = UNCHANGED,
        granularity: float = UNCHANGED,
        overlap: float = UNCHANGED,
        linger: float = UNCHANGED,
        create: Create = UNCHANGED,
        gc: Literal["passive", "active"] = UNCHANGED,
        enabled: bool = UNCHANGED,
        route: str | None = UNCHANGED,
        old_id: Literal["report", "end"] = UNCHANGED,
        deadline: float = UNCHANGED,
        reap_grace: float = UNCHANGED,
    ) -> None:
        """Change options at run time: all that are given, or on `PolicyError` none.

        A new `timeout` is taken over by sessions without one of their own when their next use is written; `lifetime` by new sessions. An
        asynchronous manager begins with `gc="active"` at once inside its event loop, elsewhere with the next request.
        """
        given = {
            "timeout": timeout,
            "lifetime": lifetime,
            "granularity": granularity,
            "overlap": overlap,
            "linger": linger,
            "create": create,
            "gc": gc,
            "enabled": enabled,
            "route": route,
            "old_id": old_id,
            "deadline": deadline,
            "reap_grace": reap_grace,
        }
        changed = {name: value for name, value in given.items() if value is not UNCHANGED}
        options = replace(self._core.options, **changed)  # type: ignore[arg-type]  # SessionOptions checks each
        _check_outlived(self._core.cookie_policy, options)
        self._core.set_options(options)
        self._tend()


def _check_outlived(policy: object, options: SessionOptions) -> None:
    """Raise `PolicyError` if the cookies of a visitor who goes on would be over before they are sent again."""
    granularity = idle_of(options.timeout, options).granularity
    if isinstance(policy, CookiePolicy) and policy.max_age is not None and policy.max_age <= granularity:
        raise PolicyError(
            f"CookiePolicy(max_age={policy.max_age:g}): cookies are sent again once in granularity={granularity:g} seconds, and visitors "
            "who go on would lose them before; expected max_age longer than timeout, by which sessions end anyway, or a shorter granularity"
        )


def refuse(unknown: Sequence[str]) -> None:
    """Raise `PolicyError` for options that do not exist, saying whose they are."""
    for name in unknown:
        if name in _NOT_HERE:
            raise PolicyError(f"there is no option {name!r} here: {_NOT_HERE[name]}")
    refuse_unknown(unknown, ELSEWHERE)


def to_be_ended(where: Callable[[SessionView], bool] | None, keep: Session | None) -> Callable[[SessionView], bool]:
    """Whether `end_all` is to end a session. Raises TypeError for arguments that are no function, and no session."""
    if where is not None:
        check_function(where, "end_all", "a function of a session, such as lambda s: s.get(user) == 'ann'")
    if keep is not None and not isinstance(cast("object", keep), SessionView):
        raise TypeError(f"end_all(keep={type(keep).__name__}): expected the Session to spare, or None")
    kept = None if keep is None else keep.handle
    return lambda view: view.handle != kept and (where is None or answered(where(view), "end_all", where))


def locator_of(handle: str) -> bytes | None:
    """The locator a handle is made from, or None if it is none. Raises TypeError for anything but text."""
    if not isinstance(handle, str):
        raise TypeError(f"a handle is text, such as session.handle gives; not {handle!r}")
    if len(handle) != 2 * LOCATOR_BYTES:  # before it is decoded: it may be a client's text, of any length
        return None
    try:
        locator = bytes.fromhex(handle)
    except ValueError:
        return None
    return locator if locator.hex() == handle else None
