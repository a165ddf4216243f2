"""For tests of programs that use sessions, and of stores. No pytest in here.

`FakeClock` is a clock that is set by hand, and `frozen_clock` gives one to a manager that is there already; `login` and `alogin` give
signed-in cookies, `isolated_keys` forgets the keys that a test has declared. `check_store` and `check_async_store` run the conformance kit:
every promise of `stores/base.py` as a named check (`CHECK_NAMES`).
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any, cast, final

from .aio import AsyncSessionManager
from .conformance.report import ConformanceFailed, Failure, Report
from .conformance.run import CHECK_NAMES, check_async_store, check_store
from .errors import SessionError
from .exchange import Request
from .finish import Finishing
from .keys import Key, isolated_keys
from .manager import SessionManager

__all__ = [
    "CHECK_NAMES",
    "ConformanceFailed",
    "Failure",
    "FakeClock",
    "Report",
    "alogin",
    "check_async_store",
    "check_store",
    "frozen_clock",
    "isolated_keys",
    "login",
]


@final
class FakeClock:
    """A clock for `SessionManager(clock=...)` that stands still until it is moved; in seconds since 1970."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self.now: float = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Move on, or back with a negative number."""
        if not math.isfinite(seconds):
            raise ValueError(f"advance({seconds!r}): expected a finite number of seconds")
        self.now += seconds


@contextmanager
def frozen_clock(manager: SessionManager | AsyncSessionManager) -> Generator[FakeClock]:
    """Within the block the manager's time stands still, from now on, until it is moved: `clock.advance(700)`.

    For the manager of a whole application, which is made where it is imported. What replaces the functions of `time`, as freezegun and
    time-machine do, does not move it: a session's time is a steady one, which follows a wall clock that jumps by 3 s a minute. What is
    over by then is over, and stays so after the block.
    """
    if not isinstance(cast("object", manager), (SessionManager, AsyncSessionManager)):
        raise TypeError(f"frozen_clock({type(manager).__name__}): expected a SessionManager or an AsyncSessionManager")
    core = manager.core
    running = core.clock
    core.clock = clock = FakeClock(running())
    try:
        yield clock
    finally:
        core.clock = running


def login(manager: SessionManager, values: Mapping[Key[Any], object], *, address: str = "127.0.0.1", https: bool = False) -> dict[str, str]:
    """The cookies of a new session that holds `values`: give them to a test client, coming from `address`.

    To one that is made of httpx, such as Starlette's `TestClient`, by `client.cookies.set(name, value, domain="testserver.local")`: those
    without a domain would be sent beside those that `renew()` sets, and a request with both has no session. `https` is for a client whose
    URLs are https: there the cookies have other names. Raises `KeyTypeError` for a value that is not of its key's type, and `SessionError`
    if the manager has `enabled=False`.
    """
    # Any: keys of every type in one mapping
    if isinstance(cast("object", manager), AsyncSessionManager):
        raise TypeError("login(AsyncSessionManager): use alogin, and await it")
    session, finish = manager.start_check(Request(headers=(), peer=address, https=https), create=True, nosession=_disabled())
    for key, value in values.items():
        session[key] = value
    finish()
    return _cookies(finish)


async def alogin(
    manager: AsyncSessionManager, values: Mapping[Key[Any], object], *, address: str = "127.0.0.1", https: bool = False
) -> dict[str, str]:
    """`login` for an `AsyncSessionManager`."""
    if isinstance(cast("object", manager), SessionManager):
        raise TypeError("alogin(SessionManager): use login, without await")
    session, finish = await manager.start_check(Request(headers=(), peer=address, https=https), create=True, nosession=_disabled())
    for key, value in values.items():
        session[key] = value
    await finish()
    return _cookies(finish)


def _disabled() -> SessionError:
    return SessionError("no session was created: this manager has enabled=False")


def _cookies(finish: Finishing) -> dict[str, str]:
    return {cookie.name: cookie.value for cookie in finish.cookies}
