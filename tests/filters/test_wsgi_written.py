"""The WSGI filter around applications that write, fail or are refused in the middle of an answer (PEP 3333)."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from tests.filters.servers import Jar, WSGIRequest, environ, wsgi
from tests.filters.wsgi_site import Site, Start, says, streams
from typed_sessions import Rejected, Session, SessionClosed, current_session
from typed_sessions.filters.wsgi import SessionMiddleware


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    yield site
    site.sessions.close()


class Laconic(WSGIRequest):
    """A server whose `start_response` gives a `write`, and never raises."""

    starts = 0

    def _start_response(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        self.starts += 1
        self.status, self.headers = int(status[:3]), headers
        return self._write


def test_an_error_that_replaces_headers_which_are_still_here_is_not_committed(site: Site) -> None:
    """PEP 3333: what `write(b"")` has let go the server may still hold, so a 500 may come in its place; and none is committed (rule 28)."""
    jar = site.jar()

    def app(_: dict[str, Any], start_response: Start) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])(b"")
        current_session()[site.visits] = 9
        try:
            raise OSError("the page cannot be made")
        except OSError:
            start_response("500 Broken", [("Content-Type", "text/plain")], sys.exc_info())
        return [b"sorry"]

    answer = Laconic(site.app(app), environ(jar), jar).run()
    assert (answer.status, answer.text, site.stored(jar)) == (500, "sorry", 1)


@pytest.mark.parametrize("problem", [Rejected("require", 303), ZeroDivisionError()], ids=repr)
def test_an_answer_that_was_begun_by_write_is_cut_off_too(site: Site, problem: Exception) -> None:
    """Where the server does not say that the headers have left: no second answer follows what `write` has sent of the first."""
    jar = site.jar()

    def app(_: dict[str, Any], start_response: Start) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])(b"begun")
        current_session()[site.visits] = 9
        raise problem

    requests: list[Laconic] = []

    class Kept(Laconic):
        def _start_response(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            requests[:] = [self]
            return super()._start_response(status, headers, exc_info)

    with pytest.raises(type(problem)):
        Kept(site.app(app), environ(jar), jar)
    assert (requests[0].starts, requests[0].status, requests[0].sent, site.stored(jar)) == (1, 200, [b"begun"], 1)


@pytest.mark.parametrize("how", ["the client goes", "a refusal"])
def test_a_stream_that_is_cut_off_closes_its_session(site: Site, how: str) -> None:
    """The request is over, and so is what it had (rule 27): a thread that goes on with it is told so, and commits nothing."""
    jar, held = site.jar(), list[Session]()

    def hold() -> str:
        held.append(current_session())
        return "begun"

    def refused() -> None:
        raise Rejected("require", 403)

    request = WSGIRequest(site.app(streams(hold, refused)), environ(jar))
    request.step()
    if how == "a refusal":
        with pytest.raises(Rejected):
            request.step()
    request.close()
    with pytest.raises(SessionClosed):
        held[0][site.visits] = 9


def test_what_follows_the_first_write_is_committed_too(site: Site) -> None:
    """With an application that writes its answer and returns an empty list: at its end."""
    jar = site.jar()

    def app(_: dict[str, Any], start_response: Start) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])(b"begun")
        current_session()[site.visits] = 9
        return []

    unvalidated = SessionMiddleware(app, site.sessions)  # the inner validator would make an iterator of the list
    assert (wsgi(unvalidated, jar).text, site.stored(jar)) == ("begun", 9)


def test_a_body_that_fails_after_the_headers_takes_no_session_away(site: Site) -> None:
    """The browser has got the cookies of the session that the request has begun, and what was committed with them: it stays."""
    jar = Jar()

    def broken() -> None:
        raise ZeroDivisionError

    request = WSGIRequest(site.app(streams(lambda: site.set(3), broken)), environ(jar), jar)
    request.step()
    with pytest.raises(ZeroDivisionError):
        request.step()
    request.close()
    request.answer()
    assert site.stored(jar) == 3


def test_a_session_is_closed_when_its_application_has_failed(site: Site) -> None:
    """Rule 27, also then: what outlives the request, such as a thread, is told that it is over."""
    jar, held = site.jar(), list[Session]()

    def broken() -> None:
        held.append(current_session())
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        wsgi(site.app(says(broken)), jar)
    with pytest.raises(SessionClosed):
        held[0].get(site.visits)


def test_nothing_follows_a_refusal_that_is_answered(site: Site) -> None:
    """A body that could go on after an exception, as an iterator of a class of its own can, is not asked again."""

    class Body:
        steps = 0

        def __iter__(self) -> Iterator[bytes]:
            return self

        def __next__(self) -> bytes:
            self.steps += 1
            if self.steps == 1:
                raise Rejected("require", 403)
            if self.steps > 3:
                raise StopIteration
            return b"secret"

    def app(_: dict[str, Any], start_response: Start) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return Body()

    answer = wsgi(site.app(app))
    assert (answer.status, answer.text) == (403, "403 Forbidden\n")
