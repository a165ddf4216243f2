"""`with_session` and `from_session`: what a handler takes out of a session is an argument, under http.server, WSGI and ASGI."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import pytest

from tests.filters.asgi_site import Site as ASGISite
from tests.filters.http_site import Site as HTTPSite
from tests.filters.servers import Connection, Jar, asgi, in_loop, serving, wsgi
from tests.filters.wsgi_site import Site as WSGISite
from typed_sessions import Key, ListKey, NoSession, NotOpened, Session, SessionList, redirect
from typed_sessions.filters.asgi import Receive, Scope, Send
from typed_sessions.filters.decorators import from_session, with_session
from typed_sessions.filters.http_server import SessionHandler

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

Said = Iterable[bytes]


def say(start_response: StartResponse, text: object) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(text).encode()]


@pytest.fixture
def site() -> WSGISite:
    return WSGISite()


@pytest.fixture
def names() -> Key[list[str]]:
    return Key("names", list[str])


def test_a_wsgi_application_takes_its_session(site: WSGISite) -> None:
    """After the environ."""

    @with_session
    def app(environ: WSGIEnvironment, session: Session, start_response: StartResponse) -> Said:
        return say(start_response, session.update(site.visits, lambda n: n + 1, default=0))

    jar = Jar()
    assert [wsgi(site.app(app), jar).text for _ in range(2)] == ["1", "2"]


def test_a_value_that_is_made_is_set(site: WSGISite, names: Key[list[str]]) -> None:
    """And what is changed in it is committed."""

    @from_session(names, make=list[str])
    def app(environ: WSGIEnvironment, found: list[str], start_response: StartResponse) -> Said:
        found.append("a")
        return say(start_response, len(found))

    jar = Jar()
    assert [wsgi(site.app(app), jar).text for _ in range(3)] == ["1", "2", "3"]


def test_a_default_is_not_stored(site: WSGISite) -> None:
    """It makes no session either."""

    @from_session(site.visits, default="none")
    def app(environ: WSGIEnvironment, visits: int | str, start_response: StartResponse) -> Said:
        return say(start_response, visits)

    answer = wsgi(site.app(app), Jar())
    assert (answer.text, answer.all("Set-Cookie")) == ("none", [])
    assert wsgi(site.app(app), site.jar(3)).text == "3"


@pytest.mark.parametrize(("options", "status", "location"), [({}, 403, []), ({"error": redirect("/login")}, 303, ["/login"])])
def test_without_a_value_the_request_is_refused(site: WSGISite, options: dict[str, Any], status: int, location: list[str]) -> None:
    """The handler is not called."""

    @from_session(site.name, **options)
    def app(environ: WSGIEnvironment, name: str, start_response: StartResponse) -> Said:
        raise AssertionError(name)

    answer = wsgi(site.app(app), site.jar())
    assert (answer.status, answer.all("Location")) == (status, location)


def test_none_is_a_value(site: WSGISite) -> None:
    """A key of `str | None` whose value is None is not refused."""
    note = Key("note", str | None)

    @with_session
    def set_it(environ: WSGIEnvironment, session: Session, start_response: StartResponse) -> Said:
        session[note] = None
        return say(start_response, "set")

    @from_session(note)
    def app(environ: WSGIEnvironment, found: str | None, start_response: StartResponse) -> Said:
        return say(start_response, found)

    jar = Jar()
    wsgi(site.app(set_it), jar)
    assert wsgi(site.app(app), jar).text == "None"


def test_a_list_is_always_there(site: WSGISite) -> None:
    """Of a `ListKey` the handler gets the list, to be appended to."""
    messages = ListKey("messages", str)

    @from_session(messages)
    def app(environ: WSGIEnvironment, found: SessionList[str], start_response: StartResponse) -> Said:
        found.append("hello")
        return say(start_response, " ".join(found))

    jar = Jar()
    assert [wsgi(site.app(app), jar).text for _ in range(2)] == ["hello", "hello hello"]


def test_decorators_may_stand_above_each_other(site: WSGISite, names: Key[list[str]]) -> None:
    """The one next to the handler gives its first value; the session is opened once."""

    @from_session(names, default=[])
    @from_session(site.visits)
    def app(environ: WSGIEnvironment, visits: int, found: list[str], start_response: StartResponse) -> Said:
        return say(start_response, (visits, found))

    assert wsgi(site.app(app), site.jar(2)).text == "(2, [])"
    assert site.store.calls == {"open": 1}


def test_a_handler_that_is_not_called_costs_nothing(site: WSGISite) -> None:
    """Rule 25: decorating opens nothing."""

    @with_session
    def app(environ: WSGIEnvironment, session: Session, start_response: StartResponse) -> Said:
        raise AssertionError

    assert app.__name__ == "app"
    assert site.store.trips == 0


def test_without_a_filter_it_is_told(site: WSGISite) -> None:
    """`NoSession`, which says where it would work."""

    @with_session
    def app(environ: WSGIEnvironment, session: Session, start_response: StartResponse) -> Said:
        raise AssertionError

    with pytest.raises(NoSession):
        wsgi(app, validated=False)


MISTAKES: list[tuple[Callable[[], Any], dict[str, Any], str]] = [
    (lambda: "visits", {}, "expected a Key or a ListKey"),
    (lambda: Key("visits", int), {"make": int, "default": 0}, "either make="),
    (lambda: ListKey("facts", int), {"default": []}, "always there"),
]


@pytest.mark.parametrize(("declare", "options", "why"), MISTAKES)
def test_what_does_not_go_together_is_told_at_once(declare: Callable[[], Any], options: dict[str, Any], why: str) -> None:
    """Where the handler is decorated."""
    key = declare()
    with pytest.raises(TypeError, match=why):
        from_session(key, **options)


def test_a_method_of_a_session_handler() -> None:
    """After `self`, over a real socket."""
    site = HTTPSite()
    words = Key("words", list[str])

    class Handler(SessionHandler):
        sessions = site.sessions
        protocol_version = "HTTP/1.1"

        @with_session
        def do_POST(self, session: Session) -> None:
            session.setdefault(words, list[str]).append("a")
            self._say("added")

        @from_session(words)
        def do_GET(self, found: list[str]) -> None:
            self._say(" ".join(found))

        def _say(self, text: str) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, format: str, *args: Any) -> None:
            pass

    jar = Jar()
    with serving(Handler) as server:
        with Connection(server, jar) as connection:
            assert connection.ask("/").status == 403
        with Connection(server, jar) as connection:
            assert connection.ask("/", "POST").text == "added"
            assert connection.ask("/", "POST").text == "added"
            assert connection.ask("/").text == "a a"


class Request:
    """What a framework makes of a scope."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope


def endpoint(handler: Callable[[Request], Any]) -> Any:
    """As Starlette calls one."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        text = await handler(Request(scope))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": str(text).encode()})

    return app


@in_loop
async def test_an_asynchronous_endpoint() -> None:
    """Of any framework whose request has a `scope`: the session is opened before it is called."""
    site = ASGISite()

    @with_session
    async def visit(request: Request, session: Session, more: int = 1) -> int:
        return session.update(site.visits, lambda n: n + more, default=0)

    @from_session(site.name)
    async def greet(request: Request, name: str) -> str:
        return name

    jar = Jar()
    assert [(await asgi(site.app(endpoint(visit)), jar)).text for _ in range(2)] == ["1", "2"]
    assert (await asgi(site.app(endpoint(greet)), jar)).status == 403
    assert inspect.iscoroutinefunction(visit)


@in_loop
async def test_an_asgi_application() -> None:
    """With the scope itself as first argument."""
    site = ASGISite()

    @from_session(site.visits, default=0)
    async def app(scope: Scope, visits: int, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": str(visits).encode()})

    assert (await asgi(site.app(app), await site.jar(7))).text == "7"


@in_loop
async def test_a_plain_function_in_asgi_is_told_to_open_before() -> None:
    """It cannot wait for the store: `NotOpened`, as `current_session()` says (rule 25)."""
    site = ASGISite()

    @with_session
    def plain(request: Request, session: Session) -> str:
        raise AssertionError

    async def calls(request: Request) -> str:
        return plain(request)

    with pytest.raises(NotOpened):
        await asgi(site.app(endpoint(calls)), await site.jar())
