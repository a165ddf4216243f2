"""The demo in a process of its own, and a visitor who has no browser: an HTTP client that keeps cookies and reads forms."""

from __future__ import annotations

import html
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPResponse, RemoteDisconnected
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

ROOT = Path(__file__).resolve().parent.parent
READY = re.compile(r"typed_sessions demo: (http://\S+/)\n")
PATIENCE = 30


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-W", "error", "-m", "typed_sessions", "demo", *map(str, arguments)]


class Demo:
    """A running demo. `url` is what it printed."""

    def __init__(self, place: Path | str, *arguments: object, environment: Mapping[str, str] | None = None) -> None:
        """`place` is a snapshot's path, or a store's URL."""
        self._log = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115  # closed in __exit__
        self.process = subprocess.Popen(
            command("--port", 0, "--store" if isinstance(place, str) else "--snapshot", place, *arguments),
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._log,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        ready = READY.fullmatch(line)
        if ready is None:
            self.kill()
        assert ready is not None, (line, self.errors)
        self.url = ready[1]
        self.host, self.port = urlsplit(self.url).hostname or "", urlsplit(self.url).port or 0

    @property
    def errors(self) -> str:
        """What it wrote on stderr."""
        self._log.seek(0)
        return self._log.read()

    def stop(self, *signals: signal.Signals) -> str:
        """Stop it as a person or a service manager does; it must end well. What it wrote on stderr."""
        if self.process.poll() is None:
            for number in signals or (signal.SIGTERM,):
                self.process.send_signal(number)
        self._ended()
        errors = self.errors
        assert self.process.returncode == 0, errors
        assert "Traceback" not in errors
        return errors

    def kill(self) -> None:
        """Kill it: nothing of its own runs any more."""
        self.process.kill()
        self._ended()

    def _ended(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout:
            rest = self.process.stdout.read()
        self.process.wait(PATIENCE)
        assert rest == "", "stdout is for the one line that says where the demo is"

    def __enter__(self) -> Demo:
        return self

    def __exit__(self, *exc: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(PATIENCE)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._log.close()


class Page:
    """An answer: status, headers and text."""

    def __init__(self, response: HTTPResponse) -> None:
        self.status = response.status
        self.headers = response.msg
        self.text = response.read().decode()

    @property
    def visits(self) -> int:
        return int(self.one(r'<output id="visits">(\d+)<'))

    @property
    def handle(self) -> str:
        return self.one(r"<code>([0-9a-f]{32}|not stored)</code>")

    @property
    def cart(self) -> str:
        """The cart's Python text, without its line breaks."""
        return re.sub(r"\n *", "", html.unescape(self.one(r'<pre id="cart-value"[^>]*>(.*?)</pre>'))).replace(",)", ")").replace(",]", "]")

    @property
    def token(self) -> str:
        return self.one(r'name="token" value="([^"]+)"')

    @property
    def signed_in(self) -> str | None:
        found = re.search(r'<p class="who">(.*?) <', self.text)
        return html.unescape(found[1]) if found else None

    def one(self, pattern: str) -> str:
        found = re.search(pattern, self.text, re.DOTALL)
        assert found is not None, f"{pattern} is not in\n{self.text}"
        return found[1]


class Visitor:
    """A browser without a window: one kept connection and a cookie jar. `page` is what it sees."""

    connection: HTTPConnection | None = None

    def __init__(self, demo: Demo) -> None:
        self.jar: dict[str, str] = {}
        self.move_to(demo)

    def move_to(self, demo: Demo) -> None:
        """Go on with another demo; the cookies stay."""
        self.close()
        self.demo = demo
        self.connection = HTTPConnection(demo.host, demo.port, timeout=PATIENCE)

    def ask(self, method: str, path: str, body: str | bytes | None = None, headers: Mapping[str, str] | None = None) -> Page:
        """One request; the cookies of the answer are taken."""
        try:
            answer = self._answer(method, path, body, headers)
        except (ConnectionResetError, RemoteDisconnected, BrokenPipeError):
            # As browsers do (RFC 9112 9.3.1): the server may have closed a kept connection, as it does when the session ends elsewhere.
            assert method in ("GET", "HEAD")
            self.close()
            answer = self._answer(method, path, body, headers)
        for value in answer.headers.get_all("Set-Cookie", []):
            pair, *attributes = value.split("; ")
            name, _, text = pair.partition("=")
            if "Max-Age=0" in attributes:
                self.jar.pop(name, None)
            else:
                self.jar[name] = text
        return answer

    def _answer(self, method: str, path: str, body: str | bytes | None, headers: Mapping[str, str] | None) -> Page:
        assert self.connection is not None
        self.connection.request(method, path, body, {**self.cookies(), **(headers or {})})
        return Page(self.connection.getresponse())

    def look(self, path: str = "/") -> Page:
        """Load the page."""
        self.page = self.ask("GET", path)
        assert self.page.status == 200, self.page.text
        return self.page

    def post(self, path: str, **fields: str) -> Page:
        """Send a form as it stands, and stay there."""
        return self.ask("POST", path, urlencode(fields), {"Content-Type": "application/x-www-form-urlencoded"})

    def send(self, path: str, **fields: str) -> Page:
        """Send a form of the page, and follow to the page that comes after it."""
        answer = self.post(path, token=self.page.token, **fields)
        assert answer.status == 303, (answer.status, answer.text)
        return self.look(answer.headers["Location"].partition("#")[0])

    @contextmanager
    def watch(self) -> Generator[Stream]:
        """The stream that the page's script reads, on a connection of its own."""
        connection = HTTPConnection(self.demo.host, self.demo.port, timeout=PATIENCE)
        try:
            connection.request("GET", "/live", headers=self.cookies())
            with connection.getresponse() as response:
                yield Stream(response)
        finally:
            connection.close()

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        if self.connection is not None:
            self.connection.close()

    def cookies(self) -> dict[str, str]:
        """The header that sends the jar."""
        return {"Cookie": "; ".join(f"{name}={value}" for name, value in self.jar.items())} if self.jar else {}


class Stream:
    """Server-sent events, as they come."""

    def __init__(self, response: HTTPResponse) -> None:
        assert response.status == 200
        assert response.headers["Content-Type"] == "text/event-stream"
        self._response = response

    def next(self) -> tuple[str, Any]:
        """The next event and its data; ("end", None) when the stream has ended."""
        name, quiet = "", 0
        while True:
            try:
                line = self._response.readline().decode()
            except ConnectionResetError:
                line = ""
            if not line:
                return "end", None
            field, _, value = line.rstrip("\n").partition(": ")
            quiet += line.startswith(":")  # a sign of life, every 15 seconds
            assert quiet < 4, "the stream lives, and nothing comes that was waited for"
            if field == "event":
                name = value
            elif field == "data":
                return name, json.loads(value)

    def until(self, *kinds: str) -> Any:
        """Read on until the clients are of these kinds: "this", "tab" and "kept", in order. Returns the event's data."""
        while True:
            name, data = self.next()
            assert name == "session", f"{name} came before the clients were {kinds}"
            if tuple("this" if client["this"] else "tab" if client["tab"] else "kept" for client in data["clients"]) == kinds:
                return data

    def rest(self) -> list[str]:
        """The names of what still comes until the stream ends."""
        names: list[str] = []
        while (name := self.next()[0]) != "end":
            names.append(name)
        return names
