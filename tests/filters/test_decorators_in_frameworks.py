"""What a decorated handler looks like to frameworks that read its signature, and what it says where they call it otherwise."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any, get_type_hints

import pytest
from fastapi import FastAPI, Request
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from tests.filters.asgi_site import Site as ASGISite
from tests.filters.servers import Jar, asgi, in_loop, wsgi
from tests.filters.wsgi_site import Site as WSGISite
from typed_sessions import Key, Session, current_session
from typed_sessions.filters.decorators import from_session, with_session


def test_the_signature_is_what_the_handler_is_called_with() -> None:
    """Without what the decorators give, also where they stand above each other; what the handler was is still to be had."""
    visits, name = Key("visits", int), Key("name", str)

    @from_session(visits)
    @from_session(name)
    def show(request: Request, name: str, visits: int, page: int = 1, *, text: str) -> str:
        raise AssertionError

    assert str(inspect.signature(show)) == "(request: 'Request', page: 'int' = 1, *, text: 'str') -> 'str'"
    assert get_type_hints(show) == {"request": Request, "page": int, "text": str, "return": str}
    assert show.__annotations__ == {"request": "Request", "page": "int", "text": "str", "return": "str"}
    assert show.__name__ == "show"


def test_whatever_is_called_with_anything_may_be_decorated() -> None:
    """There is nothing to be taken out of its signature."""

    def handler(*given: object) -> int:
        return len(given)

    decorated: Any = with_session(handler)
    assert str(inspect.signature(decorated)) == "(*given: 'object') -> 'int'"
    assert decorated.__wrapped__ is handler


@in_loop
async def test_fastapi_gives_parameters_by_name() -> None:
    """It reads the signature, and asks the client for none that the decorator gives."""
    site, app = ASGISite(), FastAPI()

    @app.get("/add/{more}")
    @with_session
    async def add(request: Request, session: Session, more: int, twice: bool = False) -> int:
        return session.update(site.visits, lambda n: n + more * (1 + twice), default=0)

    @app.get("/show")
    @from_session(site.visits, default=0)
    async def show(request: Request, visits: int) -> int:
        return visits

    jar = Jar()
    assert [(await asgi(site.app(app), jar, path=path)).text for path in ("/add/2", "/add/3", "/show")] == ["2", "5", "5"]
    assert [parameter["name"] for parameter in app.openapi()["paths"]["/add/{more}"]["get"]["parameters"]] == ["more", "twice"]


@in_loop
async def test_endpoints_of_starlette() -> None:
    """Functions and methods of classes."""
    site = ASGISite()

    @with_session
    async def visit(request: Request, session: Session) -> PlainTextResponse:
        return PlainTextResponse(str(session.update(site.visits, lambda n: n + 1, default=0)))

    class Visits(HTTPEndpoint):
        @from_session(site.visits)
        async def get(self, visits: int, request: Request) -> PlainTextResponse:
            return PlainTextResponse(str(visits))

    app, jar = Starlette(routes=[Route("/visit", visit), Route("/visits", Visits)]), Jar()
    assert [(await asgi(site.app(app), jar, path=path)).text for path in ("/visit", "/visit", "/visits")] == ["1", "2", "2"]


def test_a_plain_handler_takes_its_first_argument_by_name_too() -> None:
    """Where its parameter may be given so."""
    site = WSGISite()

    @with_session
    def count(environ: Any, session: Session, start_response: Any) -> int:
        return session.update(site.visits, lambda n: n + 1, default=0)

    @with_session
    def by_place(environ: Any, session: Session, /) -> int:
        raise AssertionError

    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        with pytest.raises(TypeError, match="without a first argument"):
            call(by_place, environ=environ)
        return [str(call(count, start_response=start_response, environ=environ)).encode()]

    assert wsgi(site.app(app), Jar()).text == "1"


def call(handler: Any, *given: object, **named: object) -> Any:
    """As something does that knows nothing of its types."""
    return handler(*given, **named)


class Resource:
    """As Falcon has them: nothing of it leads to the request."""

    @with_session
    async def on_get(self, session: Session) -> None:
        raise AssertionError


async def ask_awaited(*given: object) -> None:
    await call(Resource.on_get, *given)


def test_a_first_argument_without_a_scope_is_told() -> None:
    """With the function's name, and what was given."""
    waiting: Any = ask_awaited(Resource())
    with pytest.raises(TypeError) as caught:
        waiting.send(None)
    assert str(caught.value) == (
        f"with_session on Resource.on_get: its first argument is a {__name__}.Resource, which is no ASGI scope and has none; "
        "use await open_session(scope) of filters.asgi inside of it, with the scope that your framework keeps, such as req.scope; "
        "under a filter of WSGI, which has no scope, current_session()"
    )


def test_an_awaited_handler_under_wsgi() -> None:
    """Such as an async view of Django's WSGI application: the text sends one to what works there."""
    site = WSGISite()

    async def view(request: object) -> int:
        with pytest.raises(TypeError, match=r"under a filter of WSGI, which has no scope, current_session\(\)$"):
            await call(Resource.on_get, request)
        return current_session().update(site.visits, lambda n: n + 1, default=0)

    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [str(asyncio.run(view(object()))).encode()]

    assert wsgi(site.app(app), Jar()).text == "1"


def test_a_call_without_a_first_argument_is_told() -> None:
    """As Flask and Quart call a view."""
    key = Key("visits", int)

    @from_session(key, default=0)
    def view(_: object, visits: int) -> int:
        raise AssertionError

    with pytest.raises(TypeError, match=r"^from_session on .*view: it was called without a first argument, .* take current_session\(\)"):
        call(view)
    waiting: Any = ask_awaited()
    with pytest.raises(TypeError, match=r"^with_session on Resource\.on_get: it was called without a first argument"):
        waiting.send(None)
