"""The password of a store's URL is in no report of a server that cannot be reached: those tools show the locals of every frame (I4)."""

from __future__ import annotations

import asyncio
import inspect
import socket
import traceback
from collections.abc import Iterator
from typing import Any

import pytest

from tests.redis_server import RedisServer, free_port
from typed_sessions import StoreUnavailable, open_async_store, open_store

WAYS = [pytest.param(open_store, id="threads"), pytest.param(open_async_store, id="asyncio")]


def refusal(make: Any, url: str) -> StoreUnavailable:
    """What a verb of the store at a URL raises."""

    async def ask() -> None:
        answer = make(url).scan(None, 1)
        if inspect.isawaitable(answer):
            await answer

    with pytest.raises(StoreUnavailable, match="cannot be reached") as raised:
        asyncio.run(ask())
    return raised.value


def frames(problem: BaseException) -> Iterator[tuple[str, str]]:
    """The functions below this module that a report of an error shows, each with its locals, of all causes."""
    step: BaseException | None = problem
    while step is not None:
        for frame, _ in traceback.walk_tb(step.__traceback__):
            if frame.f_code.co_filename != __file__:
                yield frame.f_code.co_name, repr(frame.f_locals)
        step = step.__cause__ or step.__context__


def check(problem: StoreUnavailable) -> None:
    found = list(frames(problem))
    assert "_connect" in [name for name, _ in found]
    assert not [name for name, shown in found if "sesame" in shown]
    assert "sesame" not in "".join(traceback.format_exception(problem))


@pytest.mark.parametrize("make", WAYS)
@pytest.mark.parametrize("scheme", ["postgresql", "redis"])
def test_nobody_listens(make: Any, scheme: str) -> None:
    """What the system says is still the cause."""
    pytest.importorskip("psycopg" if scheme == "postgresql" else "redis")
    problem = refusal(make, f"{scheme}://ann:sesame@127.0.0.1:{free_port()}/1")
    assert "refused" in str(problem.__cause__) or "failed" in str(problem.__cause__)
    check(problem)


@pytest.mark.parametrize("make", WAYS)
@pytest.mark.parametrize("scheme", ["postgresql", "redis"])
def test_somebody_listens_and_says_nothing(make: Any, scheme: str) -> None:
    """Until the deadline is over, and the attempt is cancelled."""
    pytest.importorskip("psycopg" if scheme == "postgresql" else "redis")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        check(refusal(make, f"{scheme}://ann:sesame@127.0.0.1:{listener.getsockname()[1]}/1?deadline=0.2"))


@pytest.mark.parametrize("make", WAYS)
def test_the_password_is_wrong(make: Any, redis_server: RedisServer) -> None:
    """It may be the right one of another server, or but for a letter."""
    check(refusal(make, f"redis://ann:sesame@127.0.0.1:{redis_server.port}/0"))
