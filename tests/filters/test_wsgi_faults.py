"""The WSGI filter when something goes wrong: rule 28, `Rejected`, exceptions, PEP 3333's exc_info, and clients that go away."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import Any

import pytest

from tests.filters.servers import Jar, WSGIRequest, environ, wsgi
from tests.filters.wsgi_site import Site, Start, says, streams
from typed_sessions import Conflict, Rejected, Session, StoreUnavailable, TooLarge, current_session, redirect

FAILURES = [(StoreUnavailable("it is down"), 503), (Conflict("others were faster"), 503), (TooLarge("too large"), 500)]


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    yield site
    site.sessions.close()


def test_a_client_that_goes_in_the_middle_commits_nothing_more(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """What was done after the headers and not committed by then is dropped, as a whole; the log names it."""
    jar = site.jar()
    request = WSGIRequest(site.app(streams(lambda: "begun", lambda: current_session().update(site.visits, lambda n: n + 1))), environ(jar))
    request.step()
    request.step()
    request.close()
    assert site.stored(jar) == 1
    [record] = caplog.records
    for text in ("'/'", "did not come to its end", "keys ['visits']"):
        assert text in record.getMessage()


def test_a_client_that_goes_in_the_middle_and_loses_nothing_is_not_logged(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """What was only looked at, or committed with the headers, or no session at all: that clients go is usual."""
    jar = site.jar()
    for look in (lambda: str(current_session()[site.visits]), lambda: str(list(current_session())), lambda: "no session"):
        request = WSGIRequest(site.app(streams(lambda: "begun", look)), environ(jar))
        request.step()
        request.step()
        request.close()
    assert caplog.records == []


def test_start_response_again_with_exc_info(site: Site) -> None:
    """PEP 3333: until the headers have left, an application may replace its answer; a 500 is not committed (rule 28)."""
    jar = site.jar()

    def app(_: dict[str, Any], start_response: Start) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        current_session()[site.visits] = 9
        try:
            raise OSError("the page cannot be made")
        except OSError:
            start_response("500 Broken", [("Content-Type", "text/plain")], sys.exc_info())
        return [b"sorry"]

    answer = wsgi(site.app(app), jar)
    assert (answer.status, answer.text, site.stored(jar)) == (500, "sorry", 1)


def test_start_response_with_exc_info_after_the_headers(site: Site) -> None:
    """PEP 3333: then the error goes to the server, and what the body has changed is dropped."""
    jar = site.jar()

    def app(_: dict[str, Any], start_response: Start) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        yield b"begun"
        current_session()[site.visits] = 9
        try:
            raise OSError("in the middle")
        except OSError:
            start_response("500 Broken", [("Content-Type", "text/plain")], sys.exc_info())

    with pytest.raises(OSError, match="in the middle"):
        wsgi(site.app(app), jar)
    assert site.stored(jar) == 1


def test_start_response_again_after_an_empty_chunk_keeps_the_cookies(site: Site) -> None:
    """The session was made with the first answer; the second one, of the same request, carries its cookies."""
    jar = Jar()

    def app(_: dict[str, Any], start_response: Start) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        current_session()[site.visits] = 4
        yield b""
        try:
            raise OSError
        except OSError:
            start_response("404 Gone", [("Content-Type", "text/plain")], sys.exc_info())
        yield b"nothing here"

    assert wsgi(site.app(app), jar).status == 404
    assert site.stored(jar) == 4


@pytest.mark.parametrize("where", ["call", "body"])
def test_an_exception_commits_nothing(site: Site, where: str) -> None:
    """Neither the changes, nor a session made for this request alone."""
    jar = site.jar()

    def broken() -> str:
        current_session()[site.visits] = 9
        raise ZeroDivisionError

    app = site.app(says(broken) if where == "call" else streams(broken))
    for browser in (jar, Jar()):
        with pytest.raises(ZeroDivisionError):
            wsgi(app, browser)
    with pytest.raises(ZeroDivisionError):
        wsgi(site.app(says(broken), create=True))
    assert site.stored(jar) == 1
    assert len(site.store.store) == 1


@pytest.mark.parametrize(("status", "committed"), [("200 OK", 9), ("404 Not Found", 9), ("499 Odd", 9), ("500 Broken", 1), ("503 Busy", 1)])
def test_a_response_of_500_and_above_is_not_committed(site: Site, status: str, committed: int) -> None:
    """Rule 28."""
    jar = site.jar()
    answer = wsgi(site.app(says(lambda: site.set(9), status)), jar)
    assert (answer.status, site.stored(jar), answer.all("Vary")) == (int(status[:3]), committed, ["Cookie"])


@pytest.mark.parametrize("looks", ["before the headers", "in the body"])
def test_a_body_after_a_500_reads_the_session_and_stores_nothing(site: Site, looks: str) -> None:
    """Rule 28, also if it is the first to look at the session: an error page may greet the visitor, and what it writes is dropped."""
    jar = site.jar()
    steps = [lambda: f"{current_session()[site.visits]} visits", lambda: site.set(9)]
    if looks == "in the body":
        steps.insert(0, lambda: "Sorry: ")
    answer = wsgi(site.app(streams(*steps, status="500 Broken")), jar)
    assert (answer.status, "1 visits" in answer.text, site.stored(jar)) == (500, True, 1)


@pytest.mark.parametrize("where", ["call", "body"])
def test_rejected_is_answered_wherever_it_is_raised(site: Site, where: str) -> None:
    """Its status, its headers, and the session's; nothing is committed, and the session stays."""
    jar = site.jar()

    def refused() -> str:
        session = current_session()
        session[site.visits] = 9
        session.require(lambda s: site.name in s, error=(403, [("X-Why", "no name")]))
        return "never"

    answer = wsgi(site.app(says(refused) if where == "call" else streams(refused)), jar)
    assert (answer.status, answer.text) == (403, "403 Forbidden\n")
    assert (answer.all("X-Why"), answer.all("Vary"), answer.all("Set-Cookie")) == (["no name"], ["Cookie"], [])
    assert site.stored(jar) == 1


@pytest.mark.parametrize("where", ["at the call", "in the body", "by a check", "by the commit"])
def test_what_answers_a_head_in_the_applications_place_has_no_body(site: Site, where: str) -> None:
    """RFC 9110 9.3.2: for a proxy, bytes behind the headers would be the beginning of the next answer, and servers leave it to us."""

    def refuse(session: Session | None = None) -> bool:
        raise Rejected("require", 403)

    def app(_: dict[str, Any], start_response: Start) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        current_session()[site.visits] = 9
        if where == "in the body":
            refuse()
        yield b""

    def called(request: dict[str, Any], start_response: Start) -> Iterable[bytes]:
        if where == "at the call":
            refuse()
        return app(request, start_response)

    jar = site.jar()
    if where == "by the commit":
        site.store.faults["commit"] = StoreUnavailable("it is down")
    answers = [
        wsgi(site.app(called, check=refuse if where == "by a check" else None), jar, validated=False, REQUEST_METHOD=method)
        for method in ("HEAD", "GET")
    ]
    [head, get] = answers
    assert head.status == get.status == (503 if where == "by the commit" else 403)
    assert head.headers == get.headers
    assert head.body == b"" != get.body


def test_rejected_by_a_check_expires_the_cookies(site: Site) -> None:
    """§4: `check` runs before the application, which is not called; a session that is not sound ends."""
    jar = site.jar()
    called: list[object] = []

    def has_name(session: Session) -> bool:
        return site.name in session

    answer = wsgi(site.app(says(lambda: called.append(1)), check=has_name, error=redirect("/login")), jar)
    assert (answer.status, answer.all("Location")) == (303, ["/login"])
    assert (called, jar.cookies) == ([], {})
    assert len(site.store.store) == 0


def test_rejected_after_the_headers_goes_to_the_server(site: Site) -> None:
    """There is no other answer to give any more: the server cuts the response, and nothing is committed."""
    jar = site.jar()

    def refused() -> str:
        current_session()[site.visits] = 9
        raise Rejected("require", 403)

    with pytest.raises(Rejected):
        wsgi(site.app(streams(lambda: "begun", refused)), jar)
    assert site.stored(jar) == 1


class Laconic(WSGIRequest):
    """A server whose `start_response` gives nothing and never raises; there are several."""

    starts = 0

    def _start_response(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        self.starts += 1
        self.status, self.headers = int(status[:3]), headers


@pytest.mark.parametrize("problem", [Rejected("require", 303), StoreUnavailable("it is down"), ZeroDivisionError()], ids=repr)
@pytest.mark.parametrize("how", ["raise", "exc_info"])
def test_an_answer_that_has_begun_is_cut_off_on_any_server(site: Site, problem: Exception, how: str) -> None:
    """Where the server does not say whether the headers have left: no second answer follows what is there of the first."""
    jar = site.jar()

    def app(_: dict[str, Any], start_response: Start) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        yield b""
        yield b"begun"
        yield b"more"
        current_session()[site.visits] = 9
        if how == "raise":
            raise problem
        try:
            raise problem
        except Exception:
            start_response("503 Busy", [("Content-Type", "text/plain")], sys.exc_info())

    request = Laconic(site.app(app), environ(jar), jar)
    with pytest.raises(type(problem)):
        request.run()
    assert (request.starts, request.status, request.sent, site.stored(jar)) == (1, 200, [b"begun", b"more"], 1)


def test_a_refusal_before_the_first_byte_is_an_answer_on_any_server(site: Site) -> None:
    """Empty chunks say nothing yet."""
    jar = site.jar()

    def refused() -> None:
        raise Rejected("require", 403)

    answer = Laconic(site.app(streams(lambda: b"", refused)), environ(jar)).run()
    assert (answer.status, answer.text) == (403, "403 Forbidden\n")


def test_a_server_without_write_is_named(site: Site) -> None:
    """PEP 3333 asks servers for it; some have none."""

    def app(_: dict[str, Any], start_response: Start) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])(b"text")
        return []

    with pytest.raises(TypeError, match=r"no write\(\)"):
        Laconic(site.app(app), environ())


@pytest.mark.parametrize("problem", [None, Rejected("require", 403)])
def test_a_body_whose_first_step_fails_is_closed(site: Site, problem: Exception | None) -> None:
    """Before the application's call returns: an exception is the call's, a refusal is the answer; and nothing is committed."""
    jar = site.jar()
    closed: list[bool] = []

    class Body:
        def __iter__(self) -> Iterator[bytes]:
            return self

        def __next__(self) -> bytes:
            current_session()[site.visits] = 9
            raise problem or ZeroDivisionError

        def close(self) -> None:
            closed.append(current_session().exists)

    def app(_: dict[str, Any], start_response: Start) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return Body()

    if problem is None:
        with pytest.raises(ZeroDivisionError):
            WSGIRequest(site.app(app), environ(jar)).close()
    else:
        request = WSGIRequest(site.app(app), environ(jar))
        with closing(request):
            assert request.status == 403
            assert request.step() == b"403 Forbidden\n"
    assert (len(closed), site.stored(jar)) == (1, 1)


@pytest.mark.parametrize(("failure", "status"), FAILURES, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("how", ["list", "stream", "write"])
def test_a_commit_that_fails_is_answered_in_the_applications_place(site: Site, failure: Exception, status: int, how: str) -> None:
    """Rule 28: the response that says "saved" does not leave; no cookie is set or expired by it."""
    jar = site.jar()
    site.store.faults["commit"] = failure

    def set_it() -> str:
        current_session()[site.visits] = 9
        return "saved"

    def writes(_: dict[str, Any], start_response: Start) -> Iterable[bytes]:
        write = start_response("200 OK", [("Content-Type", "text/plain"), ("X-Mine", "1")])
        set_it()
        write(b"saved")
        return []

    answer = wsgi(site.app(says(set_it) if how == "list" else streams(set_it) if how == "stream" else writes), jar)
    assert (answer.status, b"saved" in answer.body, answer.all("X-Mine"), answer.all("Set-Cookie")) == (status, False, [], [])
    assert answer.all("Retry-After") == (["1"] if status == 503 else [])
    assert answer.all("Cache-Control") == ["no-store"]
    assert site.store.calls["commit"] == 1  # repeated by nobody
    del site.store.faults["commit"]
    assert site.stored(jar) == 1


def test_a_commit_that_fails_is_answered_also_if_it_comes_wrapped(site: Site) -> None:
    """A framework that writes takes its response for begun, and raises an error of its own from the failure: nothing has left."""
    jar = site.jar()
    site.store.faults["commit"] = StoreUnavailable("it is down")

    def app(_: dict[str, Any], start_response: Start) -> Iterable[bytes]:
        current_session()[site.visits] = 9
        try:
            start_response("200 OK", [("Content-Type", "text/plain")])(b"saved")
        except StoreUnavailable as failure:
            raise ZeroDivisionError("after the response has started") from failure
        return []

    answer = wsgi(site.app(app), jar)
    assert (answer.status, answer.all("Retry-After"), answer.all("Set-Cookie")) == (503, ["1"], [])
    del site.store.faults["commit"]
    assert site.stored(jar) == 1


def test_a_commit_that_failed_is_not_repeated_by_another_answer(site: Site) -> None:
    """The application has caught the error and answers in its own way: what may have been applied is not committed again."""
    jar = site.jar()
    site.store.lost["commit"] = StoreUnavailable("the answer was lost", unknown=True)

    def app(_: dict[str, Any], start_response: Start) -> Iterable[bytes]:
        current_session().update(site.visits, lambda n: n + 1)
        try:
            start_response("200 OK", [("Content-Type", "text/plain")])(b"saved")
        except StoreUnavailable:
            start_response("409 Conflict", [("Content-Type", "text/plain")], sys.exc_info())
        return [b"sorry"]

    answer = wsgi(site.app(app), jar)
    site.store.lost.clear()
    assert (answer.status, answer.text, site.store.calls["commit"]) == (409, "sorry", 1)
    assert site.stored(jar) == 2


def test_a_commit_that_fails_at_the_end_of_a_stream_goes_to_the_server(site: Site) -> None:
    """The response has begun: only cutting it off says that something went wrong."""
    jar = site.jar()
    request = WSGIRequest(site.app(streams(lambda: "begun", lambda: site.set(9))), environ(jar))
    request.step()
    site.store.faults["commit"] = StoreUnavailable("it is down")
    with pytest.raises(StoreUnavailable):
        request.run()


def test_a_store_that_is_down_is_no_anonymous_request(site: Site) -> None:
    """Rule 28: 503 with its headers, no new session over the browser's cookie, and the application does not go on."""
    jar = site.jar()
    before = dict(jar.cookies)
    site.store.faults["open"] = StoreUnavailable("it is down")
    answer = wsgi(site.app(says(lambda: current_session().exists)), jar)
    assert (answer.status, answer.all("Retry-After"), answer.all("Set-Cookie")) == (503, ["1"], [])
    assert jar.cookies == before
    assert wsgi(site.app(says(lambda: "static")), jar).text == "static"  # who does not ask is not concerned
