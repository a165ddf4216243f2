"""Rule 14: whoever ends a session waits for none of its clients. One that does not read keeps a server waiting that would write to it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import ExitStack

import pytest

from tests.filters.servers import in_loop
from typed_sessions import AsyncSessionManager, Key, Request
from typed_sessions.testing import FakeClock, alogin


class Stage:
    """A session with clients that can be closed when their other end reads, which it does when it is told to."""

    def __init__(self, *, deadline: float = 5) -> None:
        self.clock = FakeClock()
        self.sessions = AsyncSessionManager(clock=self.clock, deadline=deadline)
        self.user = Key("user", str)
        self.reads = asyncio.Event()
        self.asked = self.closed = self.given_up = 0

    async def close(self) -> None:
        self.asked += 1
        try:
            await self.reads.wait()
        except asyncio.CancelledError:
            self.given_up += 1
            raise
        self.closed += 1

    async def sign_in(self, connections: ExitStack, clients: int = 3) -> Request:
        """What the browser asks with, over none of these connections."""
        cookies = await alogin(self.sessions, {self.user: "ann"})
        headers = [("Cookie", "; ".join(f"{name}={value}" for name, value in cookies.items()))]
        for _ in range(clients):
            client = connections.enter_context(self.sessions.connect("127.0.0.1", self.close))
            _, finish = await self.sessions.start_check(Request(headers=headers, peer="127.0.0.1", client=client))
            await finish()
        return Request(headers=headers, peer="127.0.0.1")


async def sign_out(stage: Stage, request: Request) -> None:
    session, finish = await stage.sessions.start_check(request)
    session.end()
    await finish()


async def end_all(stage: Stage, request: Request) -> None:
    assert await stage.sessions.end_all() == 1


async def sweep(stage: Stage, request: Request) -> None:
    stage.clock.advance(700)
    assert await stage.sessions.sweep() == 1


async def ask_in_passing(stage: Stage, request: Request) -> None:
    stage.clock.advance(700)
    _, finish = await stage.sessions.start_check(Request(headers=(), peer="198.51.100.7"))
    await finish()


@pytest.mark.parametrize("how", [sign_out, end_all, sweep, ask_in_passing])
@in_loop
async def test_rule_14_nobody_waits_for_a_client_that_does_not_read(how: Callable[[Stage, Request], Awaitable[None]]) -> None:
    """Neither who ends the session nor the visitor whose request sweeps; all are told to close, and are closed when they read."""
    stage = Stage()
    with ExitStack() as connections:
        request = await stage.sign_in(connections)
        await asyncio.wait_for(how(stage, request), 20)
        assert (stage.asked, stage.closed) == (3, 0)
        stage.reads.set()
        await stage.sessions.aclose()
        assert (stage.asked, stage.closed, stage.given_up) == (3, 3, 0)


@in_loop
async def test_rule_14_closing_the_manager_gives_up_a_client_that_does_not_read() -> None:
    """`aclose` waits for all of them, and for the deadline at most."""
    stage = Stage(deadline=0.05)
    with ExitStack() as connections:
        await stage.sign_in(connections)
        await asyncio.wait_for(stage.sessions.aclose(), 20)
        await asyncio.sleep(0)
        assert (stage.asked, stage.closed, stage.given_up) == (3, 0, 3)
