"""What both managers make of the arguments of their constructors and of `set_options`: all checked, or none taken."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from .address import AddressPolicy
from .clock import steady_clock
from .core import Core
from .errors import PolicyError
from .options import SessionOptions, refuse_unknown
from .policy import CookiePolicy
from .sealing import SealingKeys

UNCHANGED: Final[Any] = object()
"""The default of an option that is not given to `set_options`. Any: it stands for a value of every option's type."""

ELSEWHERE: Final = ("cookie_policy", "address_policy", "seal", "clock")
"""What a manager is made with, beside the options."""
_ONCE: Final = (*ELSEWHERE, "max_clients")
_COOKIE_OPTIONS: Final = ("cookie", "path", "samesite", "same_site", "http_only", "secure", "max_age", "domain", "name")


def build_core(
    store: object,
    cookie_policy: CookiePolicy | None,
    address_policy: AddressPolicy | None,
    seal: SealingKeys | None,
    clock: Callable[[], float] | None,
    options: Mapping[str, object],
    unknown: Mapping[str, object],
    *,
    asynchronous: bool,
) -> Core:
    """The core of a manager. Raises `PolicyError`."""
    refuse(unknown)
    return Core(
        store,
        SessionOptions(**options),  # type: ignore[arg-type]  # SessionOptions checks each, which is the point
        CookiePolicy() if cookie_policy is None else cookie_policy,
        AddressPolicy() if address_policy is None else address_policy,
        seal,
        steady_clock() if clock is None else clock,
        asynchronous=asynchronous,
    )


def change_options(core: Core, given: Mapping[str, object], unknown: Mapping[str, object]) -> None:
    """Change options: all of them, or on `PolicyError` none."""
    for name in unknown:
        if name in _ONCE:
            raise PolicyError(f"set_options({name}=...): it cannot be changed; give it to the manager when that is made")
    refuse(unknown)
    changed = {name: value for name, value in given.items() if value is not UNCHANGED}
    core.set_options(replace(core.options, **changed))  # type: ignore[arg-type]  # as above


def refuse(unknown: Mapping[str, object]) -> None:
    """Raise `PolicyError` for options that do not exist, saying where the cookies' ones are."""
    for name in unknown:
        if name == "store":
            raise PolicyError("there is no option 'store': a manager's store is its first argument, SessionManager(MemoryStore(), ...)")
        if name in _COOKIE_OPTIONS:
            raise PolicyError(f"there is no option {name!r} here: the cookies' options are CookiePolicy's, cookie_policy=CookiePolicy(...)")
    refuse_unknown(list(unknown), ELSEWHERE)


def locator_of(handle: str) -> bytes | None:
    """The locator a handle is made from, or None if it is none. Raises TypeError for anything but text."""
    if not isinstance(handle, str):
        raise TypeError(f"a handle is text, such as session.handle gives; not {handle!r}")
    try:
        locator = bytes.fromhex(handle)
    except ValueError:
        return None
    return locator if len(locator) == 16 and locator.hex() == handle else None
