"""The WSGI filter around Flask, which answers what a view raises by itself, with 500, before any filter can see it."""

from __future__ import annotations

from collections.abc import Iterator

import flask
import pytest

from tests.filters.servers import Jar, wsgi
from tests.filters.wsgi_site import Site
from typed_sessions import Rejected, StoreUnavailable, current_session, redirect


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    yield site
    site.sessions.close()


def shop(site: Site) -> flask.Flask:
    app = flask.Flask("shop")

    @app.get("/account")
    def account() -> str:
        session = current_session()
        session[site.visits] = 9
        session.require(lambda s: site.name in s, error=redirect("/login"))
        return "yours"

    @app.get("/wrong")
    def wrong() -> str:
        current_session()[site.visits] = 9
        raise RuntimeError("a mistake in the view")

    @app.get("/own")
    def own() -> str:
        raise Rejected("check", 403)

    return app


def test_what_the_library_refuses_has_its_own_answer(site: Site) -> None:
    """`require`, in Flask, is what its `error` says and not "Internal Server Error"; nothing is committed."""
    app, jar = site.app(shop(site).wsgi_app), site.jar()
    answer = wsgi(app, jar, path="/account")
    assert (answer.status, answer.all("location"), answer.all("vary")) == (303, ["/login"], ["Cookie"])
    assert site.stored(jar) == 1
    assert wsgi(app, jar, path="/own").status == 500  # an exception of the user's own is Flask's affair


def test_a_store_that_is_down_is_503(site: Site) -> None:
    """Rule 28: whether it is noticed at the opening or at the commit, the answer says when to come again."""
    app, jar = site.app(shop(site).wsgi_app), site.jar()
    site.store.faults["open"] = StoreUnavailable("it is down")
    answer = wsgi(app, jar, path="/account")
    assert (answer.status, answer.all("retry-after"), answer.all("set-cookie")) == (503, ["1"], [])


def test_who_has_no_session_is_refused(site: Site) -> None:
    """`create=False`: 400, or what `error=` says."""
    answer = wsgi(site.app(shop(site).wsgi_app, create=False, error=redirect("/login")), Jar(), path="/account")
    assert (answer.status, answer.all("location")) == (303, ["/login"])


def test_a_mistake_in_a_view_is_a_mistake(site: Site) -> None:
    """500 stays 500, and nothing is committed."""
    app, jar = site.app(shop(site).wsgi_app), site.jar()
    assert wsgi(app, jar, path="/wrong").status == 500
    assert site.stored(jar) == 1


def test_with_handlers_of_the_users_own(site: Site) -> None:
    """What they answer goes out: as the README has it for `Rejected`."""
    app = shop(site)

    @app.errorhandler(Rejected)
    def refused(problem: Rejected) -> tuple[str, int, list[tuple[str, str]]]:
        return "please sign in", problem.status, list(problem.headers)

    jar = site.jar()
    answer = wsgi(site.app(app.wsgi_app), jar, path="/own")
    assert (answer.status, answer.text) == (403, "please sign in")
    answer = wsgi(site.app(app.wsgi_app), jar, path="/account")
    assert (answer.status, answer.text, answer.all("location")) == (303, "please sign in", ["/login"])
