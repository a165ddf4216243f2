"""Rule 23 in the filters: a request that ends its own session by its handle, as "sign out everywhere" does, expires its cookies."""

from __future__ import annotations

from tests.filters import http_site
from tests.filters.asgi_site import Site as AsgiSite
from tests.filters.asgi_site import says as asgi_says
from tests.filters.servers import Connection, Jar, asgi, in_loop, serving, wsgi
from tests.filters.wsgi_site import Site as WsgiSite
from tests.filters.wsgi_site import says as wsgi_says
from typed_sessions import current_session
from typed_sessions.filters.asgi import Scope, open_session


def test_wsgi() -> None:
    """`current_session` has opened it."""
    site = WsgiSite()
    jar = site.jar()
    answer = wsgi(site.app(wsgi_says(lambda: site.sessions.end(current_session().handle))), jar)
    assert (answer.text, jar.cookies, len(answer.all("Set-Cookie"))) == ("True", {}, 2)


@in_loop
async def test_asgi() -> None:
    """Also where all sessions are ended, and none is kept."""
    site = AsgiSite()
    jar = await site.jar()

    async def leave(scope: Scope) -> int:
        await open_session(scope)
        return await site.sessions.end_all()

    answer = await asgi(site.app(asgi_says(leave)), jar)
    assert (answer.text, jar.cookies, len(answer.all("Set-Cookie"))) == ("1", {}, 2)


def test_http_server() -> None:
    """The connection is closed after the answer, as after `session.end()`."""
    site = http_site.Site()
    pages: dict[str, http_site.Page] = {"/leave": lambda handler: site.sessions.end(handler.session.handle)}
    with serving(site.handler(pages)) as server, Connection(server, Jar()) as browser:
        browser.ask("/visit")
        assert len(browser.jar.cookies) == 2
        answer = browser.ask("/leave")
        assert (answer.text, browser.jar.cookies, len(answer.all("Set-Cookie"))) == ("True", {}, 2)
        assert answer.all("Connection") == ["close"]
