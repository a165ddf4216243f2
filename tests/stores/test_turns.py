"""Turns for the connections of an event loop: none is lost, whoever gives up waiting for one, and whenever (R4)."""

from __future__ import annotations

import asyncio
from time import monotonic

import pytest

from typed_sessions.stores.turns import Turns


def test_who_comes_when_the_deadline_is_over() -> None:
    """Is refused at once, and is not given the turn that comes free after."""

    async def main() -> None:
        turns: Turns[object] = Turns(0)
        with pytest.raises(TimeoutError):
            await turns.wait(monotonic() - 1)
        turns.leave()
        assert turns.free == 1

    asyncio.run(main())


def test_who_is_cancelled_when_the_turn_has_just_come() -> None:
    """The next one has it."""

    async def main() -> None:
        turns: Turns[object] = Turns(0)
        first, second = (asyncio.ensure_future(turns.wait(monotonic() + 10)) for _ in range(2))
        await asyncio.sleep(0)
        turns.leave()
        first.cancel()
        await second
        turns.leave()
        assert turns.free == 1

    asyncio.run(main())


def test_idle_connections_are_closed_with_the_loop() -> None:
    """By `asyncio.run`, also in a task that others wait for; not before."""
    closed: list[str] = []

    async def main() -> None:
        turns: Turns[str] = Turns(1)
        turns.drain_with_loop(closed.append)
        await asyncio.sleep(0)
        turns.idle += ["one", "two"]
        kept.append(turns)
        await asyncio.sleep(0)
        assert closed == []

    kept: list[Turns[str]] = []
    asyncio.run(main())
    assert sorted(closed) == ["one", "two"]
