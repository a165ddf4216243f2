"""The Bottle plugin: a handler with an argument `session` gets one, and the rules of a WSGI request hold for all that Bottle does."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable, Iterator
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server
from wsgiref.validate import validator

import bottle
import pytest

from tests.filters.servers import Jar, WSGIRequest, environ, wsgi
from tests.filters.wsgi_site import Site
from typed_sessions import HeadersSent, Key, NoSession, Rejected, Session, StoreUnavailable, current_session
from typed_sessions.filters.bottle import SessionPlugin


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    yield site
    site.sessions.close()


@pytest.fixture
def app(site: Site) -> bottle.Bottle:
    app = bottle.Bottle()
    app.install(SessionPlugin(site.sessions))
    return app


def route(app: bottle.Bottle, handler: Callable[..., object]) -> bottle.Bottle:
    app.get("/")(handler)
    return app


def test_a_handler_gets_its_session(app: bottle.Bottle, site: Site) -> None:
    """By the name of an argument; what it sets is there at the next request."""

    @app.get("/")
    def visit(session: Session) -> str:
        return str(session.update(site.visits, lambda n: n + 1, default=0))

    jar = Jar()
    assert [wsgi(app, jar).text for _ in range(3)] == ["1", "2", "3"]
    assert site.store.calls == {"create": 1, "open": 2, "commit": 2}


def test_it_stands_beside_the_arguments_of_the_route(app: bottle.Bottle, site: Site) -> None:
    """Wherever the handler has it."""

    @app.get("/<name>/<number:int>")
    def visit(name: str, session: Session, number: int) -> str:
        session[site.name] = name
        return f"{session[site.name]} {number}"

    assert wsgi(app, path="/ann/3").text == "ann 3"


def test_a_handler_without_it_costs_nothing(app: bottle.Bottle, site: Site) -> None:
    """Rule 25: no trip, and no header."""
    jar = site.jar()
    answer = wsgi(route(app, lambda: "hello"), jar)
    assert answer.text == "hello"
    assert site.store.trips == 0
    assert answer.all("Vary") == []


def test_other_handlers_hooks_and_error_pages_have_the_current_session(app: bottle.Bottle, site: Site) -> None:
    """All of them run inside of the request."""
    seen: list[int] = []

    @app.hook("before_request")
    def before() -> None:
        seen.append(current_session()[site.visits])

    @app.error(404)
    def missing(error: bottle.HTTPError) -> str:
        return f"nothing here at visit {current_session()[site.visits]}"

    route(app, lambda: str(current_session()[site.visits]))
    jar = site.jar(5)
    assert wsgi(app, jar).text == "5"
    assert wsgi(app, jar, path="/missing").text == "nothing here at visit 5"
    assert seen == [5, 5]


def test_another_name_for_the_argument(site: Site) -> None:
    """`keyword=`; an argument `session` is then the route's own."""
    app = bottle.Bottle()
    app.install(SessionPlugin(site.sessions, keyword="visitor"))

    @app.get("/<session>")
    def visit(session: str, visitor: Session) -> str:
        visitor[site.visits] = 1
        return session

    assert wsgi(app, path="/own").text == "own"


def test_a_change_in_place_is_committed(app: bottle.Bottle, site: Site) -> None:
    """Rule 5, before the headers leave."""
    names = Key("names", list[str])

    @app.get("/")
    def add(session: Session) -> str:
        session.setdefault(names, list[str]).append("a")
        return " ".join(session[names])

    jar = Jar()
    assert [wsgi(app, jar).text for _ in range(3)] == ["a", "a a", "a a a"]


@pytest.mark.parametrize("leave", [lambda: bottle.abort(404, "no"), lambda: bottle.redirect("/elsewhere")])
def test_leaving_by_a_response_commits(app: bottle.Bottle, site: Site, leave: Callable[[], object]) -> None:
    """`abort` below 500 and `redirect` are answers, though Bottle raises them."""
    jar = site.jar(1)

    @app.get("/")
    def set_and_leave(session: Session) -> None:
        session[site.visits] = 2
        leave()

    assert wsgi(app, jar).status in (302, 404)
    assert site.stored(jar) == 2


def fails() -> None:
    raise ZeroDivisionError


@pytest.mark.parametrize("leave", [fails, lambda: bottle.abort(503, "later")])
def test_a_failure_commits_nothing(app: bottle.Bottle, site: Site, leave: Callable[[], object]) -> None:
    """Bottle answers an exception with 500: nothing of such a response is kept."""
    jar = site.jar(1)

    @app.get("/")
    def set_and_fail(session: Session) -> None:
        session[site.visits] = 2
        leave()

    assert wsgi(app, jar).status in (500, 503)
    assert site.stored(jar) == 1


def test_an_exception_that_bottle_lets_through_commits_nothing(app: bottle.Bottle, site: Site) -> None:
    """`catchall=False`: the server sees it, and the session is as it was."""
    jar = site.jar(1)
    app.catchall = False

    @app.get("/")
    def set_and_fail(session: Session) -> None:
        session[site.visits] = 2
        fails()

    with pytest.raises(ZeroDivisionError):
        wsgi(app, jar)
    assert site.stored(jar) == 1


REFUSED = Rejected("check", 403, [("Set-Cookie", "gone=; Max-Age=0"), ("X-Why", "because")])


def refuses() -> str:
    raise REFUSED


def refuses_at_the_first_chunk() -> Iterator[str]:
    current_session()
    raise REFUSED
    yield "never"


class RefusesLater:
    """An iterator that is no generator."""

    def __iter__(self) -> RefusesLater:
        return self

    def __next__(self) -> str:
        raise REFUSED


@pytest.mark.parametrize("handler", [refuses, refuses_at_the_first_chunk, RefusesLater])
def test_rejected_is_answered_with_its_own_response(
    app: bottle.Bottle, site: Site, handler: Callable[[], object], capsys: pytest.CaptureFixture[str]
) -> None:
    """Its status and headers, without a traceback in the log, and nothing is committed."""
    jar = site.jar(1)

    @app.get("/")
    def set_and_refuse(session: Session) -> object:
        session[site.visits] = 2
        return handler()

    answer = wsgi(app, jar)
    assert answer.status == 403
    assert answer.all("X-Why") == ["because"]
    assert site.stored(jar) == 1
    assert "Traceback" not in capsys.readouterr().err


def test_rejected_in_a_hook_is_answered_too(app: bottle.Bottle, site: Site) -> None:
    """Of which a plugin sees nothing."""
    app.hook("before_request")(refuses)
    assert wsgi(route(app, lambda: "never")).status == 403


def test_require_refuses(app: bottle.Bottle, site: Site) -> None:
    """`session.require`, as a handler would use it."""

    @app.get("/")
    def members_only(session: Session) -> str:
        session.require(lambda s: site.name in s)
        return session[site.name]

    jar = site.jar()
    assert wsgi(app, jar).status == 403
    assert wsgi(app).status == 403


@pytest.mark.parametrize("verb", ["open", "commit"])
def test_a_store_that_is_down_is_answered_with_503(app: bottle.Bottle, site: Site, verb: str) -> None:
    """Rule 28: when it is opened and when it is committed, and the user's cookie is left alone."""
    jar = site.jar(1)
    site.store.faults[verb] = StoreUnavailable("it is down")

    @app.get("/")
    def visit(session: Session) -> str:
        session[site.visits] = 2
        return "saved"

    answer = wsgi(app, jar)
    assert (answer.status, answer.all("Set-Cookie")) == (503, [])
    site.store.faults.clear()
    assert site.stored(jar) == 1


def test_what_changes_while_the_body_streams_is_committed_at_its_end(app: bottle.Bottle, site: Site) -> None:
    """Rule 26: each step in the request's context, also of a generator that is a handler."""
    late: list[str] = []

    @app.get("/")
    def stream(session: Session) -> Iterator[str]:
        session[site.visits] = 2
        yield "first"
        session[site.visits] += 1
        try:
            current_session().renew()
        except HeadersSent as problem:
            late.append(str(problem))
        yield "second"

    jar = site.jar(1)
    request = WSGIRequest(app, environ(jar), jar)
    assert request.step() == b"first"
    assert site.stored(jar) == 2
    assert request.run().text == "firstsecond"
    assert site.stored(jar) == 3
    assert "headers have left" in late[0]


def test_rejected_in_the_middle_of_a_stream_ends_it(app: bottle.Bottle, site: Site) -> None:
    """The headers have left: the server has to cut the connection, so that nobody takes the part for the whole."""

    @app.get("/")
    def stream(session: Session) -> Iterator[str]:
        yield "first"
        refuses()

    request = WSGIRequest(app, environ(site.jar()))
    assert request.step() == b"first"
    with pytest.raises(Rejected):
        request.step()
    request.close()


def test_a_head_request_closes_the_body(app: bottle.Bottle, site: Site) -> None:
    """Bottle drops the body of one; what the handler did before it is committed."""
    closed: list[bool] = []

    @app.get("/")
    def stream(session: Session) -> Iterator[str]:
        try:
            session[site.visits] = 2
            yield "first"
        finally:
            closed.append(True)

    jar = site.jar(1)
    answer = WSGIRequest(validator(app), environ(jar, REQUEST_METHOD="HEAD"), jar).run()
    assert (answer.status, answer.text, closed) == (200, "", [True])
    assert site.stored(jar) == 2


def test_check_and_create_are_those_of_the_filter(site: Site) -> None:
    """With `check`, the session of every request is opened, which is refused if it says so; with `eager`, opened alone."""
    app = bottle.Bottle()
    app.install(SessionPlugin(site.sessions, create=False, check=lambda session: session.get(site.visits, 0) > 1))
    route(app, lambda: "in")
    assert wsgi(app, site.jar(2)).text == "in"
    assert wsgi(app, site.jar(1)).status == 400
    eager = bottle.Bottle()
    eager.install(SessionPlugin(site.sessions, eager=True))
    route(eager, lambda: "in")
    jar = site.jar()
    assert wsgi(eager, jar).text == "in"
    assert site.store.calls == {"open": 1}


def test_a_mounted_application_is_served_too(app: bottle.Bottle, site: Site) -> None:
    """Its handlers have the session of the application that is run."""
    inner = bottle.Bottle()
    inner.get("/page")(lambda: str(current_session()[site.visits]))
    app.mount("/inner/", inner)
    assert wsgi(app, site.jar(4), path="/inner/page").text == "4"


@pytest.mark.parametrize("prefix", ["/inner/", "/inner"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Bottle's, of a prefix without a slash at its end: it mounts by WSGI then
def test_what_is_mounted_has_arguments_by_a_plugin_of_its_own(app: bottle.Bottle, site: Site, prefix: str) -> None:
    """And what it refuses is answered as in the application that is run."""
    inner = bottle.Bottle()
    inner.install(SessionPlugin(site.sessions))

    @inner.get("/page")
    def page(session: Session) -> str:
        if session[site.visits] > 4:
            raise REFUSED
        return str(session.update(site.visits, lambda n: n + 1))

    app.mount(prefix, inner)
    jar = site.jar(4)
    assert wsgi(app, jar, path="/inner/page").text == "5"
    answer = wsgi(app, jar, path="/inner/page")
    assert (answer.status, answer.all("X-Why")) == (403, ["because"])
    assert site.stored(jar) == 5


def test_a_plugin_in_a_mounted_application_alone_is_told(site: Site) -> None:
    """Bottle takes its handlers over, and the headers would leave without it."""
    inner, outer = bottle.Bottle(), bottle.Bottle()
    inner.install(SessionPlugin(site.sessions))

    @inner.get("/page")
    def page(session: Session) -> str:
        return "never"

    outer.mount("/inner/", inner)
    outer.catchall = False
    with pytest.raises(NoSession, match="install one in the application that is run"):
        wsgi(outer, path="/inner/page")


def test_a_second_plugin_is_refused(app: bottle.Bottle, site: Site) -> None:
    """And one plugin is for one application."""
    with pytest.raises(bottle.PluginError, match="installed here already"):
        app.install(SessionPlugin(site.sessions, keyword="other"))
    [plugin] = [plugin for plugin in app.plugins if isinstance(plugin, SessionPlugin)]
    with pytest.raises(bottle.PluginError, match="one for each application"):
        bottle.Bottle().install(plugin)


def test_an_uninstalled_plugin_leaves_nothing_behind(app: bottle.Bottle, site: Site) -> None:
    """Neither the argument nor the middleware; it can be installed again."""
    [plugin] = app.uninstall(SessionPlugin)
    route(app, lambda: str(current_session(None)))
    assert wsgi(app, site.jar()).text == "None"
    app.install(plugin)
    assert wsgi(app, site.jar()).text != "None"


@pytest.mark.parametrize("options", [{"keyword": "not a name"}, {"create": "always"}])
def test_a_wrong_option_is_told_at_once(site: Site, options: dict[str, Any]) -> None:
    """When the plugin is made, before anything is served."""
    with pytest.raises(ValueError, match=r"keyword|create"):
        SessionPlugin(site.sessions, **options)


class Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


def test_over_a_real_socket(app: bottle.Bottle, site: Site) -> None:
    """A server, a client, and what the one counts for the other."""

    @app.get("/")
    def visit(session: Session) -> str:
        return str(session.update(site.visits, lambda n: n + 1, default=0))

    with make_server("127.0.0.1", 0, app, handler_class=Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        jar, seen = Jar(), list[str]()
        for _ in range(3):
            connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
            connection.request("GET", "/", headers={"Cookie": jar.header()})
            answer = connection.getresponse()
            seen.append(answer.read().decode())
            jar.take(answer.getheaders())
            connection.close()
        server.shutdown()
        thread.join()
    assert seen == ["1", "2", "3"]
