"""What has to be awaited, and was not: nobody gets by with it, and whoever awaits it in whatever way notices nothing."""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections.abc import Callable, Coroutine
from typing import Any
from unittest.mock import AsyncMock, create_autospec

import pytest

from tests.filters.servers import in_loop
from tests.mistakes import REQUEST
from typed_sessions import AsyncSessionManager, Key
from typed_sessions.testing import alogin


def entered(what: Any) -> str:
    return "let in" if what else "refused"


def unpacked(what: Any) -> None:
    _, _ = what


def indexed(what: Any) -> None:
    _ = what[0]


def searched(what: Any) -> None:
    _ = Key("user", str) in what


FORGOTTEN: dict[str, tuple[Callable[[AsyncSessionManager], Any], Callable[[Any], Any], str]] = {
    "start_check": (lambda manager: manager.start_check(REQUEST), unpacked, "AsyncSessionManager.start_check"),
    "its first": (lambda manager: manager.start_check(REQUEST), indexed, "AsyncSessionManager.start_check"),
    "a key in it": (lambda manager: manager.get_session(REQUEST), searched, "AsyncSessionManager.get_session"),
    "a guard": (lambda manager: manager.filter()(REQUEST), unpacked, "AsyncSessionManager.filter.<locals>.start"),
    "check_session_cookie": (lambda manager: manager.check_session_cookie(REQUEST), entered, "AsyncSessionManager.check_session_cookie"),
    "get_session": (lambda manager: manager.get_session(REQUEST), entered, "AsyncSessionManager.get_session"),
}


@pytest.mark.parametrize(("call", "use", "name"), FORGOTTEN.values(), ids=list(FORGOTTEN))
def test_a_forgotten_await_lets_nobody_in(call: Callable[[AsyncSessionManager], Any], use: Callable[[Any], Any], name: str) -> None:
    """A coroutine would be true whatever the answer; the TypeError says what to write, and nothing else is warned of."""
    with pytest.raises(TypeError) as caught:
        use(call(AsyncSessionManager()))
    assert str(caught.value) == f"{name}(...) is a coroutine, whose result is not there yet: write `await` before the call"


WAYS: dict[str, Callable[[Coroutine[Any, Any, Any]], Coroutine[Any, Any, Any]]] = {}


def way(function: Callable[[Coroutine[Any, Any, Any]], Coroutine[Any, Any, Any]]) -> None:
    WAYS[function.__name__] = function


@way
async def plainly(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return await coroutine


@way
async def as_a_task(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return await asyncio.create_task(coroutine, name="mine")


@way
async def gathered(coroutine: Coroutine[Any, Any, Any]) -> Any:
    [result] = await asyncio.gather(coroutine)
    return result


@way
async def within_time(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return await asyncio.wait_for(coroutine, 10)


@way
async def shielded(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return await asyncio.shield(coroutine)


@pytest.mark.parametrize("wait", WAYS.values(), ids=list(WAYS))
@pytest.mark.parametrize("debug", [False, True], ids=["", "in debug mode"])
def test_every_way_to_await_it_works(wait: Callable[[Coroutine[Any, Any, Any]], Coroutine[Any, Any, Any]], debug: bool) -> None:
    """With its result, and with the exception that it raises."""

    async def work() -> None:
        manager = AsyncSessionManager()
        assert await wait(manager.check_session_cookie(REQUEST)) is False
        session, finish = await wait(manager.start_check(REQUEST))
        session[Key("name", str)] = "ann"
        await finish()
        with pytest.raises(TypeError, match=r"expected a typed_sessions\.Request"):
            await wait(manager.start_check(None))  # type: ignore[arg-type]

    asyncio.run(work(), debug=debug)


def test_an_event_loop_runs_it() -> None:
    """As the only thing there is to do."""
    assert asyncio.run(AsyncSessionManager().check_session_cookie(REQUEST)) is False


@in_loop
async def test_a_task_of_it_can_be_cancelled() -> None:
    """The exception comes in where it waits, and the session is not opened."""
    waiting = asyncio.Event()
    never = asyncio.Event()

    async def check(_: object) -> bool:
        waiting.set()
        await never.wait()
        return True

    manager = AsyncSessionManager()
    task = asyncio.create_task(manager.start_check(REQUEST, check=check))
    assert "AsyncSessionManager.start_check()" in repr(task)  # which asks in its own way what there is
    await waiting.wait()
    assert "AsyncSessionManager.start_check()" in repr(task)
    assert task.get_coro()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len([view async for view in manager.all()]) == 0


@in_loop
async def test_it_is_a_coroutine_function_for_whoever_asks() -> None:
    """So that a mock of a manager is awaited as the manager is; name and arguments are its own."""
    manager = AsyncSessionManager()
    mock = create_autospec(manager, instance=True)
    assert isinstance(mock.check_session_cookie, AsyncMock)
    mock.check_session_cookie.return_value = True
    assert await mock.check_session_cookie(REQUEST) is True
    assert inspect.isawaitable(pending := manager.get_session(REQUEST))
    assert await pending is None
    assert list(inspect.signature(manager.get_session).parameters) == ["request", "cookie_policy"]
    if sys.version_info >= (3, 12):
        assert inspect.iscoroutinefunction(manager.get_session)
    assert await alogin(manager, {Key("name", str): "ann"})
