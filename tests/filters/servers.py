"""What drives the filters: a WSGI request between two validators, an ASGI client in memory, and a real `http.server` on a socket."""

from __future__ import annotations

import asyncio
import http.client
import socket
import sys
import threading
from collections.abc import Callable, Coroutine, Generator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from http.server import ThreadingHTTPServer
from typing import Any
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

from typed_sessions.filters.asgi import Message
from typed_sessions.filters.http_server import SessionHandler

Pairs = Sequence[tuple[str, str]]
PEER = "10.1.2.3"


class Jar:
    """A browser's cookies."""

    def __init__(self, cookies: Mapping[str, str] = {}) -> None:
        self.cookies = dict(cookies)

    def header(self) -> str:
        return "; ".join(f"{name}={value}" for name, value in self.cookies.items())

    def take(self, headers: Pairs) -> None:
        for name, value in headers:
            if name.lower() == "set-cookie":
                pair, *attributes = value.split("; ")
                cookie, _, text = pair.partition("=")
                if "Max-Age=0" in attributes:
                    self.cookies.pop(cookie, None)
                else:
                    self.cookies[cookie] = text

    def copy(self) -> Jar:
        return Jar(self.cookies)


class Answer:
    """A response: what an http client would see of it."""

    def __init__(self, status: int, headers: Pairs, body: bytes = b"") -> None:
        self.status = status
        self.headers = list(headers)
        self.body = body

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name.lower()]

    @property
    def text(self) -> str:
        return self.body.decode()

    def __repr__(self) -> str:
        return f"<Answer {self.status} {self.headers} {self.body!r}>"


# ------------------------------------------------------------------ WSGI


def environ(jar: Jar | None = None, *, path: str = "/", address: str = PEER, **more: object) -> dict[str, Any]:
    found: dict[str, Any] = {"PATH_INFO": path, "SCRIPT_NAME": "", "QUERY_STRING": "", "REMOTE_ADDR": address, **more}
    setup_testing_defaults(found)
    if jar is not None and jar.cookies:
        found["HTTP_COOKIE"] = jar.header()
    return found


class WSGIRequest:
    """One request to a WSGI application, as a server makes it: the body is taken step by step, and closed in any case."""

    def __init__(self, app: Any, request: dict[str, Any], jar: Jar | None = None) -> None:
        self._jar = jar
        self.status = 0
        self.headers: list[tuple[str, str]] = []
        self.sent: list[bytes] = []
        self.headers_left = False
        self.body = app(request, self._start_response)
        self._iterator = iter(self.body)

    def _start_response(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], object]:
        if exc_info is not None:
            try:
                if self.headers_left:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None
        elif self.status:
            raise AssertionError("start_response was called a second time without exc_info")
        self.status, self.headers = int(status[:3]), headers
        return self._write

    def _write(self, data: bytes) -> None:
        self.headers_left = True
        self.sent.append(data)

    def step(self) -> bytes | None:
        """The next chunk, None at the end."""
        chunk = next(self._iterator, None)
        if chunk:
            self._write(chunk)
        return chunk

    def close(self) -> None:
        close = getattr(self._iterator, "close", None) or getattr(self.body, "close", None)
        if close is not None:
            close()

    def run(self) -> Answer:
        """To the end."""
        try:
            while self.step() is not None:
                pass
        finally:
            self.close()
        return self.answer()

    def answer(self) -> Answer:
        if self._jar is not None:
            self._jar.take(self.headers)
        return Answer(self.status, self.headers, b"".join(self.sent))


def wsgi(app: Any, jar: Jar | None = None, *, validated: bool = True, **more: Any) -> Answer:
    """One request; `app` is validated from outside, and should validate what is inside of it."""
    return WSGIRequest(validator(app) if validated else app, environ(jar, **more), jar).run()


# ------------------------------------------------------------------ ASGI


def in_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """A test that is a coroutine, in an event loop of its own."""

    @wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


def scope(jar: Jar | None = None, *, kind: str = "http", headers: Pairs = (), path: str = "/", address: str = PEER) -> dict[str, Any]:
    pairs = [(b"host", b"example.org"), *((name.lower().encode(), value.encode("latin-1")) for name, value in headers)]
    if jar is not None and jar.cookies:
        pairs.append((b"cookie", jar.header().encode()))
    return {
        "type": kind,
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "ws" if kind == "websocket" else "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": pairs,
        "client": (address, 50_000),
        "server": ("example.org", 80),
        "extensions": {},
    }


class ASGIRequest:
    """One http exchange; `sent` are the messages that reached the server."""

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self._asked = False

    async def receive(self) -> dict[str, Any]:
        """The whole request at once; after it nothing comes, for the client stays connected."""
        if self._asked:
            await asyncio.get_running_loop().create_future()
        self._asked = True
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(self, message: Message) -> None:
        self.sent.append(message)

    def answer(self) -> Answer:
        start = self.sent[0]
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in start.get("headers", ())]
        return Answer(start["status"], headers, b"".join(message["body"] for message in self.sent[1:]))


async def asgi(app: Any, jar: Jar | None = None, **more: Any) -> Answer:
    """One request to an ASGI application."""
    request = ASGIRequest()
    await app(scope(jar, **more), request.receive, request.send)
    answer = request.answer()
    if jar is not None:
        jar.take(answer.headers)
    return answer


class Socket:
    """The browser's end of a WebSocket; the application runs in a task of its own."""

    def __init__(self, app: Any, jar: Jar | None = None, *, denial: bool = False, **more: Any) -> None:
        self.jar = jar
        self.scope = scope(jar, kind="websocket", **more)
        if denial:
            self.scope["extensions"] = {"websocket.http.response": {}}
        self.to_app: asyncio.Queue[Message] = asyncio.Queue()
        self.to_browser: asyncio.Queue[Message] = asyncio.Queue()
        self.app = app
        self.task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Socket:
        await self.to_app.put({"type": "websocket.connect"})
        self.task = asyncio.create_task(self.app(self.scope, self.to_app.get, self._send))
        return self

    async def _send(self, message: Message) -> None:
        await self.to_browser.put(message)
        if message["type"] == "websocket.close":
            # What every server does: the application gets to know.
            await self.to_app.put({"type": "websocket.disconnect", "code": message.get("code", 1000)})

    async def __aexit__(self, *exc: object) -> None:
        await self.to_app.put({"type": "websocket.disconnect", "code": 1001})
        assert self.task is not None
        await self.task

    async def next(self) -> Message:
        """What the browser gets next; the application's own exception, if it dies before it sends anything."""
        assert self.task is not None
        getting = asyncio.ensure_future(self.to_browser.get())
        await asyncio.wait({getting, self.task}, return_when=asyncio.FIRST_COMPLETED, timeout=10)
        if getting.done():
            return getting.result()
        getting.cancel()
        if self.task.done():
            await self.task
            raise AssertionError("the application has ended and sent nothing more")
        raise AssertionError("nothing came for ten seconds")

    async def accepted(self) -> Answer:
        message = await self.next()
        assert message["type"] == "websocket.accept", message
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in message.get("headers", ())]
        if self.jar is not None:
            self.jar.take(headers)
        return Answer(101, headers)

    async def say(self, text: str) -> None:
        await self.to_app.put({"type": "websocket.receive", "text": text})

    async def ask(self, text: str) -> str:
        await self.say(text)
        message = await self.next()
        assert message["type"] == "websocket.send", message
        answer: str = message["text"]
        return answer


# ------------------------------------------------------------------ http.server


class QuietServer(ThreadingHTTPServer):
    """A server whose handlers' errors are collected, not printed."""

    daemon_threads = True

    def __init__(self, handler: type[SessionHandler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.errors: list[BaseException] = []

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exc_info()[1]
        assert error is not None
        self.errors.append(error)

    @property
    def port(self) -> int:
        port: int = self.server_address[1]
        return port


@contextmanager
def serving(handler: type[SessionHandler], kind: type[QuietServer] = QuietServer) -> Generator[QuietServer]:
    """The handler behind a real socket; at the end its threads are waited for."""
    server = kind(handler)
    server.block_on_close = True
    server.daemon_threads = False
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def exchange(server: QuietServer, request: bytes) -> bytes:
    """Everything that comes back for these bytes until the other end closes the connection."""
    with socket.create_connection(("127.0.0.1", server.port), 10) as raw:
        raw.sendall(request)
        found = b""
        while chunk := raw.recv(65_536):
            found += chunk
    return found


class Connection:
    """One TCP connection of a browser, kept alive from request to request."""

    def __init__(self, server: QuietServer, jar: Jar | None = None) -> None:
        self._http = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        self._http.auto_open = 0  # a connection that was closed is an error here
        self._http.connect()
        self.jar = Jar() if jar is None else jar

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *exc: object) -> None:
        self._http.close()

    def ask(self, path: str = "/", method: str = "GET", headers: Mapping[str, str] = {}, jar: Jar | None = None) -> Answer:
        """A request with this browser's cookies, or another's: a proxy has many of them on one connection."""
        jar = self.jar if jar is None else jar
        cookies = {"Cookie": jar.header()} if jar.cookies else {}
        self._http.request(method, path, headers={**cookies, **headers})
        response = self._http.getresponse()
        answer = Answer(response.status, response.getheaders(), response.read())
        jar.take(answer.headers)
        return answer

    @property
    def socket(self) -> Any:
        return self._http.sock

    def is_shut(self) -> bool:
        """Wait until the other end says that nothing more will come."""
        return self._http.sock is None or self._http.sock.recv(1) == b""
