"""Several processes and managers on one Redis: nothing is lost, nothing comes back, and what happens once happens once."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faces import PEER, Browser, Face
from tests.redis_server import RedisServer
from typed_sessions import AsyncSessionManager, End, Key, ListKey, Request, SessionManager
from typed_sessions.stores.redis import AsyncRedisStore, RedisStore

ROOT = Path(__file__).resolve().parent.parent.parent
TIMES = 150

WRITER = """
import asyncio, sys
from typed_sessions import AsyncSessionManager, Conflict, Key, ListKey, Request, SessionManager
from typed_sessions.stores.redis import AsyncRedisStore, RedisStore

kind, url, prefix, cookie, name, times = sys.argv[1:]
visits, facts = Key("visits", int), ListKey("facts", str)
request = Request(headers=[("Cookie", cookie)], peer="10.1.2.3")

def work(session, n):
    session.update(visits, lambda n: n + 1, default=0)
    session[facts].append(f"{name} {n}")

def run():
    manager = SessionManager(RedisStore(url, prefix=prefix))
    for n in range(int(times)):
        while True:
            session, finish = manager.start_check(request, create=False)
            work(session, n)
            try:
                finish()
                break
            except Conflict:
                pass
    manager.close()

async def arun():
    async with AsyncSessionManager(AsyncRedisStore(url, prefix=prefix)) as manager:
        async def one(n):
            while True:
                session, finish = await manager.start_check(request, create=False)
                work(session, n)
                try:
                    return await finish()
                except Conflict:
                    pass
        for first in range(0, int(times), 5):
            await asyncio.gather(*map(one, range(first, first + 5)))

run() if kind == "sync" else asyncio.run(arun())
"""


@pytest.fixture
def prefix(request: pytest.FixtureRequest) -> str:
    return f"together {request.node.name}".replace("[", " ").replace("]", "")


def test_counters_and_lists_of_several_processes_add_up(redis_server: RedisServer, prefix: str) -> None:
    """Threads' and asyncio's stores, in two processes on one session: every update and every element is there, once, in order."""
    visits, facts = Key("visits", int), ListKey("facts", str)
    face = Face("sync", RedisStore(redis_server.url, prefix=prefix))
    face.renew(clock=None)
    browser = face.browser()
    with browser.visit() as session:
        session[visits] = 0
    cookie = "; ".join(f"{name}={value}" for name, value in browser.jar.items())
    writers = [
        subprocess.Popen([sys.executable, "-W", "error", "-c", WRITER, kind, redis_server.url, prefix, cookie, kind, str(TIMES)], cwd=ROOT)
        for kind in ("sync", "async")
    ]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    with browser.visit() as session:
        assert session[visits] == 2 * TIMES
        found = list(session[facts])
    assert Counter(found) == Counter(f"{kind} {n}" for kind in ("sync", "async") for n in range(TIMES))
    assert [fact for fact in found if fact.startswith("sync")] == [f"sync {n}" for n in range(TIMES)]
    face.close()


def test_signing_out_on_one_is_signing_out_on_the_other(redis_server: RedisServer, prefix: str) -> None:
    """A manager for threads and one for asyncio share sessions; what has ended on one is never alive on the other."""
    name = Key("name", str)
    here = Face("sync", RedisStore(redis_server.url, prefix=prefix))
    there = Face("async", AsyncRedisStore(redis_server.url, prefix=prefix))
    browser = here.browser()
    with browser.visit() as session:
        session[name] = "ann"
    twin = browser.copy()
    twin.face = there
    with twin.visit() as session:
        assert session[name] == "ann"
        handle = session.handle
    turn = browser.open()
    turn.session[name] = "too late"
    assert there.call(there.manager.end(handle))
    turn.finish()
    for either in (browser, twin):
        with either.visit() as session:
            assert name not in session
    assert here.call(here.manager.all()) == there.call(there.manager.all()) == []
    here.close()
    there.close()


@pytest.fixture
def swept(redis_server: RedisServer, prefix: str) -> Iterator[tuple[str, Counter[str], Counter[str], list[str]]]:
    """A store with 60 sessions that are over, half of them with a hook; what is told of their ends; and their handles."""
    ends: Counter[str] = Counter()
    hooks: Counter[str] = Counter()
    lock = threading.Lock()

    def release(value: str) -> None:
        with lock:
            hooks[value] += 1

    stock, plain = Key("stock", str, cleanup_delete=release), Key("plain", str)
    face = Face("sync", RedisStore(redis_server.url, prefix=prefix))
    handles: list[str] = []
    for number in range(60):
        browser: Browser = face.browser()
        with browser.visit() as session:
            session[stock if number % 2 else plain] = str(number)
        with browser.visit() as session:
            handles.append(session.handle)
    yield prefix, ends, hooks, handles
    face.close()


def test_managers_that_sweep_at_once(redis_server: RedisServer, swept: tuple[str, Counter[str], Counter[str], list[str]]) -> None:
    """Four managers, of both kinds, sweep at the same time: each session has one `End`, and each hook runs once."""
    prefix, ends, hooks, handles = swept
    lock = threading.Lock()
    start = threading.Barrier(4)

    def heard(event: End) -> None:
        with lock:
            ends[event.session.handle] += 1

    def later() -> float:
        return 1_700_000_000.0 + 660

    def sweep() -> None:
        manager = SessionManager(RedisStore(redis_server.url, prefix=prefix), clock=later)
        manager.on(End, heard)
        start.wait(10)
        manager.sweep()
        manager.close()

    async def sweep_async() -> None:
        async with AsyncSessionManager(AsyncRedisStore(redis_server.url, prefix=prefix), clock=later) as manager:
            manager.on(End, heard)
            start.wait(10)
            await manager.sweep()

    threads = [threading.Thread(target=work) for work in (sweep, lambda: asyncio.run(sweep_async())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert ends == Counter(handles)
    assert hooks == Counter(str(number) for number in range(60) if number % 2)
    with redis_server.client() as client:
        left: Any = client.keys(f"{{{prefix}:*")
        assert left == []


def test_threads_and_tasks_share_a_store(redis_server: RedisServer, prefix: str) -> None:
    """More of them than connections: each gets its own answer, also when others are cancelled in the middle (R4)."""
    visits, mine = Key("visits", int), Key("mine", int)

    async def main() -> None:
        store = AsyncRedisStore(redis_server.url, prefix=prefix)
        async with AsyncSessionManager(store) as manager:

            async def visitor(number: int) -> None:
                session, finish = await manager.start_check(Request(headers=(), peer=PEER))
                session[mine] = number
                await finish()
                cookie = "; ".join(f"{cookie.name}={cookie.value}" for cookie in finish.cookies)
                for n in range(3):
                    request = Request(headers=[("Cookie", cookie)], peer=PEER)
                    hurried = asyncio.ensure_future(manager.start_check(request))
                    for _ in range(number % 4):
                        await asyncio.sleep(0)
                    hurried.cancel()
                    session, finish = await manager.start_check(request)
                    assert session[mine] == number
                    session[visits] = n
                    await finish()
                    await asyncio.gather(hurried, return_exceptions=True)

            await asyncio.gather(*map(visitor, range(150)))
            assert len([view async for view in manager.all()]) == 150

    asyncio.run(main())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_store_that_was_open_when_the_process_forked(redis_server: RedisServer, prefix: str) -> None:
    """Parent and child have connections of their own from then on: neither reads the other's answers (R7)."""
    program = f"""
import os
from tests.faces import Face
from typed_sessions import Key
from typed_sessions.stores.redis import RedisStore

name = Key("name", str)
face = Face("sync", RedisStore({redis_server.url!r}, prefix={prefix!r}))

def go_on(who):
    for n in range(100):
        browser = face.browser()
        with browser.visit() as session:
            session[name] = f"{{who}} {{n}}"
        with browser.visit() as session:
            assert session[name] == f"{{who}} {{n}}"
    face.close()

go_on("before")
child = os.fork()
go_on("child" if child == 0 else "parent")
if child == 0:
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, check=True, timeout=60)
