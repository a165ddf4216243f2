"""Turns for the connections of an event loop: none is lost, whoever gives up waiting for one, and whenever (R4)."""

from __future__ import annotations

import asyncio
from time import monotonic

import pytest

from typed_sessions import StoreUnavailable
from typed_sessions.stores.turns import Links, Turns


class Wire:
    """A connection, as far as turns know one."""

    closed = False

    def close(self) -> None:
        self.closed = True


def no_more() -> Wire:
    raise StoreUnavailable("too many clients")


def is_full(problem: StoreUnavailable) -> bool:
    return "too many" in str(problem)


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


def test_a_connection_that_was_in_use_when_others_were_given_up() -> None:
    """It leads to where they did, and is closed when it comes back; one that was made after them is kept."""
    links: Links[Wire] = Links(Wire.close)
    before, after = Wire(), Wire()
    links.lend(before)
    links.outdate()
    links.lend(after)
    for one in (before, after):
        links.back(one, reusable=True)
    assert (before.closed, list(links.idle)) == (True, [after])


@pytest.mark.parametrize("is_heard", [True, False])
def test_who_waits_for_a_connection_that_is_in_use(is_heard: bool) -> None:
    """It goes from who gives it back to who waits, in their order; also where nobody understands why no other can be made."""

    async def main() -> None:
        turns: Turns[Wire] = Turns(3)
        one = Wire()
        turns.lend(one)

        async def connect() -> Wire:
            return no_more()

        async def wait() -> Wire:
            return await turns.reach(lambda: None, connect, is_full if is_heard else lambda problem: False, monotonic() + 10)

        first, second = asyncio.ensure_future(wait()), asyncio.ensure_future(wait())
        await asyncio.sleep(0)
        turns.back(one, True, Wire.close)
        assert await first is one
        assert not second.done()
        turns.lend(one)
        turns.back(one, True, Wire.close)
        assert await second is one
        assert turns.idle == []

    asyncio.run(main())


def test_who_is_cancelled_when_the_connection_has_just_come() -> None:
    """It is idle then, and not lost."""

    async def main() -> None:
        turns: Turns[Wire] = Turns(2)
        one = Wire()
        turns.lend(one)

        async def connect() -> Wire:
            return no_more()

        waits = asyncio.ensure_future(turns.reach(lambda: None, connect, is_full, monotonic() + 10))
        await asyncio.sleep(0)
        turns.back(one, True, Wire.close)
        waits.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waits
        assert turns.idle == [one]

    asyncio.run(main())


@pytest.mark.parametrize("says", ["too many clients", "zu viele Verbindungen", "nobody listens"])
def test_nothing_to_wait_for(says: str) -> None:
    """Nothing of ours is in use: who is told that the server is full asks again until the deadline, and who is told something else does
    not ask again. The error is what was said."""
    links: Links[Wire] = Links(Wire.close)
    asked: list[float] = []

    def connect() -> Wire:
        asked.append(monotonic())
        raise StoreUnavailable(says)

    until = monotonic() + 0.2
    with pytest.raises(StoreUnavailable, match=says):
        links.reach(links.pop, connect, is_full, until)
    assert (len(asked) > 1, monotonic() >= until) == (says == "too many clients",) * 2
