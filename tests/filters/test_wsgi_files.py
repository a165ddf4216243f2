"""Files that the server sends by itself (PEP 3333's `wsgi.file_wrapper`), where that is a function that gives the file back, as uWSGI's."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any
from wsgiref.handlers import SimpleHandler

import pytest

from tests.filters.servers import environ
from tests.filters.wsgi_site import Site, Start
from typed_sessions import current_session
from typed_sessions.filters.wsgi import SessionMiddleware, open_session


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    with site.sessions:
        yield site


class Readable:
    """All that PEP 3333 asks of a file: `read`, and here `close`. It tells how it was read."""

    def __init__(self, text: bytes = b"a file") -> None:
        self._text = io.BytesIO(text)
        self.sizes: list[int] = []
        self.closed = False

    def read(self, size: int = -1, /) -> bytes:
        self.sizes.append(size)
        return self._text.read(size)

    def close(self) -> None:
        self.closed = True


class Server(SimpleHandler):
    """The standard library's server as far as that goes; a file that comes back to it, it sends at one go."""

    result: Any
    http_version = "1.0"
    server_software = None

    def __init__(self) -> None:
        self.out = io.BytesIO()
        self.complaints = io.StringIO()
        super().__init__(io.BytesIO(), self.out, self.complaints, environ(), multithread=False)
        self.os_environ = {}
        self.given: Any = None
        self.sent = 0

    def wsgi_file_wrapper(self, file: Any, size: int = 8192) -> Any:  # type: ignore[override]  # which a class is not either
        self.given = file
        return file

    def result_is_file(self) -> bool:
        return self.result is self.given

    def sendfile(self) -> bool:
        self.send_headers()
        self._write(self.given.read())
        self.sent += 1
        return True


def serve(app: Any) -> tuple[Server, bytes]:
    server = Server()
    server.run(app)
    assert server.complaints.getvalue() == ""
    return server, server.out.getvalue().partition(b"\r\n\r\n")[2]


@pytest.mark.parametrize("levels", [1, 2], ids=["one filter", "a filter in another"])
@pytest.mark.parametrize("file", [io.BytesIO, Readable])
def test_a_file_is_left_to_a_server_whose_wrapper_is_a_function(site: Site, file: Any, levels: int) -> None:
    """As without the filter, if nobody has looked at the session: the server gets the very file, which may only be able to `read`."""
    made: list[Any] = []

    def app(request: dict[str, Any], start_response: Start) -> Any:
        start_response("200 OK", [("Content-Type", "text/plain")])
        made.append(file(b"a file"))
        return request["wsgi.file_wrapper"](made[0])

    checked = SessionMiddleware(app, site.sessions, create=True) if levels == 2 else app
    server, text = serve(SessionMiddleware(checked, site.sessions))
    assert (text, server.sent, made[0].closed, site.store.trips) == (b"a file", 1, True, 0)


def test_a_file_beside_a_session_is_read_in_blocks(site: Site) -> None:
    """Not line by line; of the size that the application has asked for, and closed at the end."""
    file = Readable(b"a\nfile\n")

    def app(request: dict[str, Any], start_response: Start) -> Any:
        current_session()[site.visits] = 1
        start_response("200 OK", [("Content-Type", "text/plain")])
        return request["wsgi.file_wrapper"](file, 4)

    server, text = serve(SessionMiddleware(app, site.sessions))
    assert (text, server.sent, file.sizes, file.closed) == (b"a\nfile\n", 0, [4, 4, 4], True)
    assert [view[site.visits] for view in site.sessions.all()] == [1]


def test_a_body_that_can_be_read_and_was_not_wrapped_is_a_body(site: Site) -> None:
    """What it does while it streams is done in the request, whatever else it can do, and though the server has such a wrapper."""

    class Body(Readable):
        def __init__(self, request: dict[str, Any]) -> None:
            super().__init__()
            self._request = request

        def __iter__(self) -> Iterator[bytes]:
            yield b"one "
            yield str(open_session(self._request).get(site.visits, 0)).encode()

    def app(request: dict[str, Any], start_response: Start) -> Any:
        request["wsgi.file_wrapper"](Readable())  # and it has thought better of it
        start_response("200 OK", [("Content-Type", "text/plain")])
        return Body(request)

    server, text = serve(SessionMiddleware(app, site.sessions))
    assert (text, server.sent) == (b"one 0", 0)
