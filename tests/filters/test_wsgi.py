"""The WSGI filter: PEP 3333 from both sides, rules 24 to 27."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import http.client
import io
import threading
from collections.abc import Iterable, Iterator
from typing import Any, cast
from wsgiref.simple_server import WSGIRequestHandler, make_server
from wsgiref.util import FileWrapper
from wsgiref.validate import validator

import pytest

from tests.filters.servers import Answer, Jar, WSGIRequest, environ, wsgi
from tests.filters.wsgi_site import Site, Start, says, streams
from tests.watched import Watched
from typed_sessions import (
    CookiePolicy,
    HeadersSent,
    Key,
    MemoryStore,
    NoSession,
    SessionClosed,
    SessionError,
    SessionManager,
    current_session,
)
from typed_sessions.filters.wsgi import SessionMiddleware, open_session


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    yield site
    site.sessions.close()


def test_a_session_nobody_asks_about_costs_nothing(site: Site) -> None:
    """Rule 25: lazy. A valid cookie and an untouched session: no trip, and a response that no cache has to tell apart (rule 24)."""
    jar = site.jar()
    answer = wsgi(site.app(says(lambda: "hello")), jar)
    assert answer.text == "hello"
    assert answer.headers == [("Content-Type", "text/plain")]
    assert site.store.trips == 0


def test_looking_is_one_trip_and_brings_vary(site: Site) -> None:
    """Rules 24 and 25, C12: whatever way of looking; and a request that only looks makes no session."""
    jar = site.jar()
    answer = wsgi(site.app(says(lambda: site.visits in current_session())), jar)
    assert (answer.text, answer.all("Vary"), site.store.calls) == ("True", ["Cookie"], {"open": 1})
    anonymous = Jar()
    answer = wsgi(site.app(says(lambda: current_session().exists)), anonymous)
    assert (answer.text, answer.all("Vary"), answer.all("Set-Cookie")) == ("False", ["Cookie"], [])
    assert len(site.store.store) == 1


def test_a_coroutine_under_wsgi() -> None:
    """Rule 27: as an async view of Flask. Without `eager=True` the store would hold up its loop, and the error says what to do."""
    store = Watched(MemoryStore(), blocking=True)
    visits = Key("visits in a coroutine", int)
    jar = Jar()

    async def view() -> int:
        session = current_session()
        session.update(visits, lambda n: n + 1, default=0)
        await asyncio.to_thread(sessions.commit, session)
        return session.update(visits, lambda n: n + 1)

    with SessionManager(cast("Any", store)) as sessions:
        app = says(lambda: asyncio.run(view()))
        with pytest.raises(SessionError, match=r"in a coroutine under WSGI, .* give the filter eager=True"):
            wsgi(SessionMiddleware(app, sessions), jar)
        eager = SessionMiddleware(app, sessions, eager=True)
        assert [wsgi(eager, jar).text for _ in range(3)] == ["2", "4", "6"]


def test_a_filter_that_creates_nothing_leaves_it_to_the_default(site: Site) -> None:
    """`create=False`: `current_session(None)` is None without a session, and the session with one (SWI's `http_in_session`)."""
    app = site.app(says(lambda: current_session(None) is None), create=False)
    assert wsgi(app, Jar()).text == "True"
    assert wsgi(app, site.jar()).text == "False"


def test_the_first_value_makes_the_session(site: Site) -> None:
    """Rules 24 and 25: with the first committed value, in one trip; the cookies leave with no-store."""
    jar = Jar()
    app = site.app(says(lambda: current_session().update(site.visits, lambda n: n + 1, default=0)))
    answer = wsgi(app, jar)
    assert [cookie.partition("=")[0] for cookie in answer.all("Set-Cookie")] == ["SESSION_KEY", "SESSION_ADDR"]
    assert answer.all("Cache-Control") == ["no-store"]
    assert site.store.calls == {"create": 1}
    assert wsgi(app, jar).text == "2"


def test_a_written_session_is_two_trips(site: Site) -> None:
    """§5: open, commit; and no Set-Cookie for what the browser has already."""
    jar = site.jar()
    answer = wsgi(site.app(says(lambda: current_session().update(site.visits, lambda n: n + 1))), jar)
    assert (answer.text, answer.all("Set-Cookie")) == ("2", [])
    assert site.store.calls == {"open": 1, "commit": 1}


def test_what_changed_is_committed_before_the_headers_leave(site: Site) -> None:
    """Whoever has seen the response's beginning can rely on it."""
    jar = site.jar()

    def set_it() -> bytes:
        current_session()[site.visits] = 7
        return b"first"

    request = WSGIRequest(site.app(streams(set_it, lambda: "second")), environ(jar), jar)
    assert site.stored(jar) == 1
    assert request.step() == b"first"
    assert site.stored(jar) == 7
    assert request.run().text == "firstsecond"


def test_what_changes_while_the_body_streams_is_committed_at_its_end(site: Site) -> None:
    """Rule 26: writing to an existing session works after the headers have left."""
    jar = site.jar()
    request = WSGIRequest(
        site.app(streams(lambda: current_session()[site.visits], lambda: current_session().update(site.visits, lambda n: n + 10))),
        environ(jar),
    )
    assert [request.step(), request.step()] == [b"1", b"11"]
    assert site.stored(jar) == 1
    assert request.step() is None
    assert site.stored(jar) == 11
    request.close()


def test_ending_while_the_body_streams_works(site: Site) -> None:
    """Rule 26: ending an existing session works after the headers have left."""
    jar = site.jar()
    answer = wsgi(site.app(streams(lambda: "bye", lambda: current_session().end())), jar)
    assert answer.status == 200
    assert len(site.store.store) == 0


@pytest.mark.parametrize("late", ["create", "create=True", "renew", "persistent"])
def test_what_needs_a_cookie_is_refused_once_the_headers_have_left(site: Site, late: str) -> None:
    """Rule 26: HeadersSent at the call, not a session whose cookie nobody has."""
    jar = site.jar() if late in ("renew", "persistent") else Jar()
    caught: list[str] = []

    def too_late() -> str:
        try:
            session = current_session()
            if late == "renew":
                session.renew()
            elif late == "persistent":
                session.persistent = False
            else:
                session[site.visits] = 1
        except HeadersSent as problem:
            caught.append(str(problem))
        return "end"

    answer = wsgi(site.app(streams(lambda: "begun", too_late), create=True if late == "create=True" else None), jar)
    assert answer.text == "begunend"
    assert "headers have left" in caught[0]
    assert len(site.store.store) == (1 if late in ("renew", "persistent") else 0)


def test_every_step_of_the_body_runs_in_its_requests_context(site: Site) -> None:
    """Two bodies interleaved in one thread, each with its own current session; and none between the steps."""
    jars = [site.jar(10), site.jar(20)]
    app = site.app(streams(*[lambda: current_session()[site.visits]] * 3))
    requests = [WSGIRequest(app, environ(jar)) for jar in jars]
    seen: list[bytes | None] = []
    for _ in range(3):
        for request in requests:
            seen.append(request.step())
            assert current_session(None) is None
    assert seen == [b"10", b"20"] * 3
    for request in requests:
        request.close()


def test_the_bodys_close_runs_in_the_context_too(site: Site) -> None:
    """A body with a `close` of its own: it is called, and the session can be read in it if the stream was cut off."""
    jar = site.jar(5)
    seen: list[int] = []

    class Body:
        def __iter__(self) -> Iterator[bytes]:
            yield b"one"
            yield b"two"

        def close(self) -> None:
            seen.append(current_session()[site.visits])

    def app(_: dict[str, Any], start_response: Start) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return Body()

    request = WSGIRequest(site.app(app), environ(jar))
    request.step()
    request.close()
    assert seen == [5]


def test_an_empty_first_chunk(site: Site) -> None:
    """PEP 3333: start_response is called before the first chunk is handed on, also before an empty one."""
    jar = Jar()

    def set_it() -> bytes:
        current_session()[site.visits] = 1
        return b""

    answer = wsgi(site.app(streams(set_it, lambda: b"text")), jar)
    assert (answer.text, len(jar.cookies)) == ("text", 2)


def test_an_empty_body(site: Site) -> None:
    """A stream without a chunk commits too, and its headers leave."""
    jar = Jar()

    def app(_: dict[str, Any], start_response: Start) -> Iterator[bytes]:
        current_session()[site.visits] = 3
        start_response("200 OK", [("Content-Type", "text/plain")])
        return iter(())

    assert wsgi(site.app(app), jar).status == 200
    assert site.stored(jar) == 3


@pytest.mark.parametrize("chunks", [[], [b""], [b"one", b"two"]], ids=len)
def test_the_headers_are_there_when_the_application_has_returned(site: Site, chunks: list[bytes]) -> None:
    """Some servers look for them before they take the body: where the application has said them, they are complete by then."""
    taken: list[bytes] = []

    def take(chunk: bytes) -> bytes:
        taken.append(chunk)
        current_session()[site.visits] = len(taken)
        return chunk

    def app(_: dict[str, Any], start_response: Start) -> Iterator[bytes]:
        current_session()[site.name] = "ann"
        start_response("404 Not Found", [("Content-Type", "text/plain"), ("X-Mine", "1")])
        return map(take, chunks)

    jar = Jar()
    request = WSGIRequest(site.app(app), environ(), jar)
    with contextlib.closing(request):
        begun = request.answer()
        assert (begun.status, begun.all("X-Mine"), len(jar.cookies)) == (404, ["1"], 2)
        assert (taken, site.stored(jar)) == (chunks[:1], len(chunks[:1]))
        assert [request.step() for _ in range(len(chunks) + 1)] == [*chunks, None]
    assert site.stored(jar) == len(chunks)


def test_a_stream_without_a_session_is_taken_one_step_ahead(site: Site) -> None:
    """Rule 25: no trip and no header, and nothing of the body is waited for but its first chunk."""
    taken: list[int] = []

    def take(n: int) -> bytes:
        taken.append(n)
        return b"x"

    def app(_: dict[str, Any], start_response: Start) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return map(take, range(3))

    request = WSGIRequest(site.app(app), environ(site.jar()))
    with contextlib.closing(request):
        assert taken == [0]
        assert request.step() == b"x"
        assert taken == [0]
        answer = request.run()
    assert (answer.text, answer.headers, site.store.trips) == ("xxx", [("Content-Type", "text/plain")], 0)


@pytest.mark.parametrize("looks", [False, True])
def test_a_file_is_left_to_the_server(site: Site, looks: bool) -> None:
    """PEP 3333's `wsgi.file_wrapper`: nothing is put around the server's own, so that it can send the file by itself."""

    def app(request: dict[str, Any], start_response: Start) -> Any:
        if looks:
            current_session()[site.visits] = 1
        start_response("200 OK", [("Content-Type", "text/plain")])
        return request["wsgi.file_wrapper"](io.BytesIO(b"text"))

    jar = Jar()
    request = WSGIRequest(SessionMiddleware(app, site.sessions), {**environ(), "wsgi.file_wrapper": FileWrapper}, jar)
    assert isinstance(request.body, FileWrapper) is not looks
    answer = request.run()
    assert (answer.status, answer.text, len(jar.cookies)) == (200, "text", 2 if looks else 0)


def test_the_write_callable(site: Site) -> None:
    """PEP 3333's older way: the first write commits and sends the headers; what is changed after is committed at the end."""
    jar = site.jar()

    def app(_: dict[str, Any], start_response: Start) -> Iterable[bytes]:
        write = start_response("200 OK", [("Content-Type", "text/plain")])
        session = current_session()
        session[site.visits] = 2
        write(b"one ")
        write(str(site.stored(jar)).encode())
        session[site.visits] = 3
        with pytest.raises(HeadersSent):
            session.renew()
        return [b" two"]

    assert wsgi(site.app(app), jar).text == "one 2 two"
    assert site.stored(jar) == 3


def test_create_true_makes_a_session_for_whoever_looks(site: Site) -> None:
    """Rule 25: looking is enough, no value is needed; who does not look is left alone."""
    jar = Jar()
    assert wsgi(site.app(says(lambda: "static"), create=True), jar).all("Set-Cookie") == []
    assert wsgi(site.app(says(lambda: current_session().exists), create=True), jar).text == "True"
    assert len(jar.cookies) == 2
    assert len(site.store.store) == 1


def test_create_false_refuses_whoever_has_none(site: Site) -> None:
    """§4: `Rejected` with `error`; a cookie that opens nothing any more is expired."""
    app = site.app(says(lambda: current_session()[site.visits]), create=False, error=(401, [("WWW-Authenticate", "Cookie")]))
    answer = wsgi(app, Jar())
    assert (answer.status, answer.all("WWW-Authenticate"), answer.all("Set-Cookie")) == (401, ["Cookie"], [])
    jar = site.jar()
    assert wsgi(app, jar).text == "1"
    assert site.sessions.end_all() == 1
    assert wsgi(app, jar).status == 401
    assert jar.cookies == {}


def test_check_opens_before_the_application(site: Site) -> None:
    """Rule 25: one trip, though the application does not look."""
    jar = site.jar()
    seen: list[bool] = []

    def is_sound(session: Any) -> bool:
        seen.append(session is current_session())
        return True

    answer = wsgi(site.app(says(lambda: "hello"), check=is_sound), jar)
    assert (answer.text, site.store.calls, seen) == ("hello", {"open": 1}, [True])


def test_the_session_is_closed_after_its_request(site: Site) -> None:
    """Rule 27: whoever kept it gets SessionClosed, also after a stream."""
    kept: list[Any] = []
    wsgi(site.app(says(lambda: kept.append(current_session()))), site.jar())
    wsgi(site.app(streams(lambda: kept.append(current_session()))), site.jar())
    for session in kept:
        with pytest.raises(SessionClosed):
            session[site.visits]


def test_whoever_looks_when_the_request_is_over_is_told(site: Site) -> None:
    """A thread that outlives it, and looks for the first time."""
    contexts: list[contextvars.Context] = []
    wsgi(site.app(says(lambda: contexts.append(contextvars.copy_context()))), site.jar())
    with pytest.raises(SessionClosed, match="the request is over"):
        contexts[0].run(current_session)


def test_an_applications_own_headers_stay_its_own(site: Site) -> None:
    """Headers that are the same for everybody: one visitor's cookies go to no other."""
    headers = [("Content-Type", "text/plain")]

    def app(environ: dict[str, Any], start_response: Start) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/visit":
            site.set(1)
        start_response("200 OK", headers)
        return [b"hello"]

    filtered = SessionMiddleware(app, site.sessions)
    assert len(wsgi(filtered, path="/visit").all("Set-Cookie")) == 2
    assert wsgi(filtered).headers == [("Content-Type", "text/plain")]
    assert headers == [("Content-Type", "text/plain")]


def test_what_is_done_after_the_first_write_is_committed(site: Site) -> None:
    """With `write` the headers leave early, and the application goes on before it returns its body."""
    jar = site.jar()

    def app(_: dict[str, Any], start_response: Start) -> Iterable[bytes]:
        session = current_session()
        write = start_response("200 OK", [("Content-Type", "text/plain")])
        write(b"begun")
        session[site.visits] = 7
        return []

    assert wsgi(site.app(app), jar).text == "begun"
    assert site.stored(jar) == 7


def test_open_session_takes_the_environ(site: Site) -> None:
    """As `current_session()`, where the context is not at hand; outside of the filter it says so."""

    def app(request: dict[str, Any], start_response: Start) -> Iterable[bytes]:
        assert open_session(request) is current_session()
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"same"]

    assert wsgi(site.app(app)).text == "same"
    with pytest.raises(NoSession, match="SessionMiddleware"):
        open_session(environ())


def test_a_real_server_between_two_validators(site: Site) -> None:
    """wsgiref's own server and validator, over a socket: GET, HEAD, a redirect, and a stream."""

    class Quiet(WSGIRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

    def pages(request: dict[str, Any], start_response: Start) -> Iterable[bytes]:
        if request["PATH_INFO"] == "/login":
            current_session().renew()
            current_session()[site.name] = "ann"
            start_response("303 See Other", [("Location", "/"), ("Content-Type", "text/plain")])
            return [b""]
        n = current_session().update(site.visits, lambda n: n + 1, default=0)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return (str(part).encode() for part in (n, " ", current_session().get(site.name)))

    server = make_server("127.0.0.1", 0, validator(site.app(pages)), handler_class=Quiet)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    jar = Jar()

    def ask(path: str, method: str = "GET") -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
        connection.request(method, path, headers={"Cookie": jar.header()} if jar.cookies else {})
        response = connection.getresponse()
        answer = Answer(response.status, response.getheaders(), response.read())
        connection.close()
        jar.take(answer.headers)
        return answer

    try:
        assert ask("/").text == "1 None"
        assert ask("/login").status == 303
        assert (ask("/", "HEAD").body, ask("/").text) == (b"", "3 ann")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(("mounted", "path", "cookies"), [("/shop", "/cart", 2), ("", "/shop/cart", 2), ("/blog", "/shop/cart", 0)])
def test_where_an_application_is_mounted_is_part_of_the_path(site: Site, mounted: str, path: str, cookies: int) -> None:
    """A session is created unasked within the cookie's path, as the browser sees it: SCRIPT_NAME and PATH_INFO together."""
    app = site.app(says(lambda: current_session().exists), create=True, cookie_policy=CookiePolicy(path="/shop"))
    answer = wsgi(app, SCRIPT_NAME=mounted, path=path)
    assert (len(answer.all("Set-Cookie")), answer.text) == (cookies, str(cookies == 2))
