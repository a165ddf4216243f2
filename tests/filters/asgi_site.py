"""A site for the ASGI filter's tests: a manager over a watched store, and applications with the filter around them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, cast

from tests.filters.servers import Jar, asgi
from tests.watched import Watched
from typed_sessions import AsyncSessionManager, Key, MemoryStore, current_session
from typed_sessions.filters.asgi import Receive, Scope, Send, SessionMiddleware, open_session
from typed_sessions.testing import FakeClock

App = Callable[[Scope, Receive, Send], Awaitable[None]]


class Site:
    def __init__(self, **options: Any) -> None:
        self.clock = FakeClock()
        self.store = Watched(MemoryStore())
        self.sessions = AsyncSessionManager(cast("Any", self.store), clock=self.clock, **options)
        self.visits = Key("visits", int)
        self.name = Key("name", str)

    def app(self, handler: App, **settings: Any) -> SessionMiddleware:
        return SessionMiddleware(handler, self.sessions, **settings)

    async def set(self, scope: Scope, visits: int) -> str:
        """What most handlers of these tests do."""
        (await open_session(scope))[self.visits] = visits
        return "saved"

    async def jar(self, visits: int = 1) -> Jar:
        """A browser with a session."""
        jar = Jar()
        await asgi(self.app(says(lambda scope: self.set(scope, visits))), jar)
        assert len(jar.cookies) == 2
        self.store.calls.clear()
        return jar

    async def stored(self, jar: Jar) -> int:
        """What another request sees."""
        answer = await asgi(self.app(says(lambda _: _visits(self)), eager=True), jar.copy())
        return int(answer.text)


async def _visits(site: Site) -> int:
    return current_session().get(site.visits, 0)


async def hello(_: Scope) -> str:
    return "hello"


async def look(scope: Scope) -> bool:
    return (await open_session(scope)).exists


def says(work: Callable[[Scope], Awaitable[object]], status: int = 200) -> App:
    """An application that does its work and answers with the result."""

    async def app(scope: Scope, _: Receive, send: Send) -> None:
        text = str(await work(scope)).encode()
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": text})

    return app


def streams(*steps: Callable[[Scope], Awaitable[object]]) -> App:
    """An application that works in steps: after the first the headers leave, and each gives a chunk."""

    async def app(scope: Scope, _: Receive, send: Send) -> None:
        for number, step in enumerate(steps):
            text = str(await step(scope)).encode()
            if number == 0:
                await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": text, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    return app
