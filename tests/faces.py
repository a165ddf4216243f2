"""One way to write a test for both managers and every store: a `Face` hides which manager it is, a `Browser` keeps cookies.

A test body is plain code. Whatever a manager gives is passed through `face.call`, which awaits it where it has to be awaited.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import os
import tempfile
import weakref
from collections.abc import Callable, Coroutine, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from tests.postgres_server import PostgresServer
from tests.redis_server import RedisServer
from typed_sessions import AsyncSessionManager, Client, MemoryStore, Request, Session, SessionManager, SQLiteStore
from typed_sessions.stores.postgres import AsyncPostgresStore, PostgresStore
from typed_sessions.stores.redis import AsyncRedisStore, RedisStore
from typed_sessions.testing import FakeClock


def sqlite_store(**options: Any) -> SQLiteStore:
    """A store in a folder of its own, which goes with it."""
    folder = tempfile.TemporaryDirectory(prefix="sessions-", ignore_cleanup_errors=True)
    store = SQLiteStore(os.path.join(folder.name, "sessions.db"), **options)
    weakref.finalize(store, folder.cleanup)
    return store


_prefixes = itertools.count()


def redis_store(server: RedisServer, kind: str, **options: Any) -> RedisStore | AsyncRedisStore:
    """A store that shares a server with others, and no key."""
    make: Any = RedisStore if kind == "sync" else AsyncRedisStore
    return make(server.url, **{"prefix": f"test {next(_prefixes)}", **options})  # type: ignore[no-any-return]


def postgres_store(server: PostgresServer, kind: str, **options: Any) -> PostgresStore | AsyncPostgresStore:
    """A store whose table is empty. Those that a test makes share it, unless they are given another `schema`."""
    if "schema" not in options:
        server.empty()
    make: Any = PostgresStore if kind == "sync" else AsyncPostgresStore
    return make(server.url, **{"schema": server.schema, **options})  # type: ignore[no-any-return]


EVERY_STORE: dict[str, Callable[..., Any]] = {
    "memory": MemoryStore,
    "sqlite": sqlite_store,
    "redis": redis_store,
    "postgres": postgres_store,
}
STORES = {name: make for name, make in EVERY_STORE.items() if name in os.environ.get("STORES", " ".join(EVERY_STORE)).split()}
"""The stores that tests with a face run on: all, unless the environment variable STORES names some."""
SERVED = frozenset({"redis", "postgres"})
"""Those that take a server and the face's kind; the fixture is `redis_server`, `postgres_server`."""
FACES = ("sync", "async")
PEER = "10.1.2.3"


class Turn:
    """One request of a browser: `session` is open; `finish` commits, and the browser takes the cookies when `arrive` is called."""

    def __init__(self, browser: Browser, session: Session, finish: Any) -> None:
        self.browser = browser
        self.session = session
        self.finisher = finish
        self.headers: list[tuple[str, str]] = []

    def finish(self) -> list[tuple[str, str]]:
        """Commit and let the answer arrive at once."""
        self.send()
        self.arrive()
        return self.headers

    def send(self) -> list[tuple[str, str]]:
        """Commit; the answer is under way."""
        self.headers = self.browser.face.call(self.finisher())
        return self.headers

    def discard(self) -> list[tuple[str, str]]:
        self.headers = self.finisher.discard()
        return self.headers

    def arrive(self) -> None:
        self.browser.take(self.headers)


class Browser:
    """A cookie jar and an address."""

    def __init__(self, face: Face, address: str | None = PEER, https: bool = False) -> None:
        self.face = face
        self.address = address
        self.https = https
        self.jar: dict[str, str] = {}

    def request(self, path: str = "/", client: Client | None = None, headers: Sequence[tuple[str, str]] = ()) -> Request:
        cookie = [("Cookie", "; ".join(f"{name}={value}" for name, value in self.jar.items()))] if self.jar else []
        return Request(headers=[*headers, *cookie], peer=self.address, path=path, https=self.https, client=client)

    def open(self, path: str = "/", client: Client | None = None, headers: Sequence[tuple[str, str]] = (), **settings: Any) -> Turn:
        """`start_check` for this browser's next request."""
        session, finish = self.face.call(self.face.manager.start_check(self.request(path, client, headers), **settings))
        return Turn(self, session, finish)

    @contextmanager
    def visit(self, **settings: Any) -> Generator[Session]:
        """A whole request: open, the block, finish, and the answer arrives."""
        turn = self.open(**settings)
        yield turn.session
        turn.finish()

    def take(self, headers: Sequence[tuple[str, str]]) -> None:
        """Take the Set-Cookie headers of an answer, as a browser does."""
        for name, value in headers:
            if name.lower() == "set-cookie":
                pair, *attributes = value.split("; ")
                cookie, _, text = pair.partition("=")
                if "Max-Age=0" in attributes:
                    self.jar.pop(cookie, None)
                else:
                    self.jar[cookie] = text

    def copy(self, address: str | None = None) -> Browser:
        """Another browser with the same cookies: a second tab, or a thief (with another address)."""
        twin = Browser(self.face, self.address if address is None else address, self.https)
        twin.jar = dict(self.jar)
        return twin


class Face:
    """A manager of either kind, with a clock that stands still, and the store behind it."""

    def __init__(self, kind: str, store: Any, **options: Any) -> None:
        self.kind = kind
        self.store = store
        self.clock = FakeClock()
        self.loop = asyncio.new_event_loop() if kind == "async" else None
        self.managers: list[Any] = []
        self.manager = self.another(**options)

    def another(self, store: Any = None, **options: Any) -> Any:
        """Another manager over the same store (or another), as a second process would have."""
        make: Any = SessionManager if self.kind == "sync" else AsyncSessionManager
        manager = make(self.store if store is None else store, **{"clock": self.clock, **options})
        self.managers.append(manager)
        return manager

    def renew(self, **options: Any) -> Face:
        """Begin again with other options, over the same store."""
        self.manager = self.another(**options)
        return self

    def call(self, result: Any) -> Any:
        """The result of a manager's method, awaited if need be; of `all()`, a list."""
        if inspect.isawaitable(result):
            assert self.loop is not None
            if self.loop.is_running():
                return self._aside(_wait(result))
            return self.loop.run_until_complete(_wait(result))
        if inspect.isasyncgen(result):
            return self.call(_collect(result))
        return list(result) if inspect.isgenerator(result) else result

    def _aside(self, work: Coroutine[Any, Any, Any]) -> Any:
        """From inside of the running loop: do it meanwhile in another thread, as another process would."""

        async def and_leave() -> Any:
            try:
                return await work
            finally:
                if inspect.iscoroutinefunction(self.store.close):
                    await self.store.close()

        with ThreadPoolExecutor(1) as other:
            return other.submit(asyncio.run, and_leave()).result()

    def edit(self, handle: str, work: Callable[[Session], object]) -> None:
        """`manager.edit(handle)` with `work(session)` as its block."""
        if self.kind == "sync":
            with self.manager.edit(handle) as session:
                work(session)
        else:
            self.call(_edit(self.manager, handle, work))

    def browser(self, address: str | None = PEER, https: bool = False) -> Browser:
        return Browser(self, address, https)

    def close(self) -> None:
        for manager in self.managers:
            self.call(manager.close() if self.kind == "sync" else manager.aclose())
        self.leave()

    def leave(self) -> None:
        """Close the event loop, and before it what an asynchronous store has in it."""
        if self.loop is not None:
            if inspect.iscoroutinefunction(self.store.close):
                self.call(self.store.close())
            self.loop.close()


async def _wait(awaitable: Any) -> Any:
    return await awaitable


async def _collect(generator: Any) -> list[Any]:
    return [item async for item in generator]


async def _edit(manager: AsyncSessionManager, handle: str, work: Callable[[Session], object]) -> None:
    async with manager.edit(handle) as session:
        work(session)
