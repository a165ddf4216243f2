"""A site for the tests of `SessionHandler`: a manager over a watched store, and handlers that answer in a line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, cast

from tests.watched import Watched
from typed_sessions import Key, MemoryStore, SessionManager
from typed_sessions.filters.http_server import SessionHandler

Page = Callable[["Handler"], object]


class Handler(SessionHandler):
    """Answers GET, HEAD and POST with what the page of that path returns, if that is anything."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or each answer on a kept connection would wait for a delayed acknowledgement
    pages: ClassVar[dict[str, Page]] = {}

    def do_GET(self) -> None:
        result = self.pages[self.path](self)
        if result is not None:
            self.say(str(result))

    do_HEAD = do_GET
    do_POST = do_GET

    def say(self, text: str, status: int = 200) -> None:
        self.begin(status, len(text))
        self.end_headers()
        self.wfile.write(text.encode())

    def begin(self, status: int, length: int) -> None:
        """Everything but the end of the headers."""
        self.send_response(status)
        self.send_header("X-Mine", "1")
        self.send_header("Content-Length", str(length))

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Site:
    def __init__(self, **options: Any) -> None:
        self.store = Watched(MemoryStore())
        self.sessions = SessionManager(cast("Any", self.store), **options)
        self.visits = Key("visits", int)
        self.name = Key("name", str)

    def handler(self, pages: dict[str, Page] | None = None, **attributes: Any) -> type[Handler]:
        standard: dict[str, Page] = {
            "/": lambda _: "hello",
            "/visits": lambda handler: handler.session.get(self.visits, 0),
            "/visit": lambda handler: handler.session.update(self.visits, lambda n: n + 1, default=0),
            "/end": _end,
        }
        return type("Pages", (Handler,), {"sessions": self.sessions, "pages": {**standard, **(pages or {})}, **attributes})


def _end(handler: Handler) -> str:
    handler.session.end()
    return "bye"
