"""Starlette: the session and its values as arguments of endpoints, by `Annotated` and `inject`, or by the decorators."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any

import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect
from typing_extensions import TypeAliasType

from tests.filters.asgi_site import Site
from tests.filters.servers import Answer, Jar, Socket, asgi, in_loop
from typed_sessions import Key, ListKey, PolicyError, Session, SessionList, current_session, redirect
from typed_sessions.filters.asgi import SessionMiddleware
from typed_sessions.filters.decorators import from_session, with_session
from typed_sessions.filters.starlette import CurrentSession, FromSession, inject


@dataclass
class Cart:
    items: list[str] = field(default_factory=list[str])


class Shop:
    """An application with sessions around it."""

    def __init__(self) -> None:
        self.site = Site()
        self.cart = Key("cart", Cart)
        self.messages = ListKey("messages", str)

    async def ask(self, endpoint: Any, jar: Jar | None = None, path: str = "/") -> Answer:
        return await asgi(self.app(Route("/", endpoint)), jar, path=path)

    def app(self, *routes: Any) -> Starlette:
        return Starlette(routes=routes, middleware=[Middleware(SessionMiddleware, self.site.sessions)])


@pytest.fixture
def shop() -> Shop:
    return Shop()


@in_loop
async def test_an_endpoint_takes_its_session_and_values(shop: Shop) -> None:
    """Opened once, and what is changed in place is committed."""

    @inject
    async def show(
        request: Request,
        session: CurrentSession,
        mine: Annotated[Cart, FromSession(shop.cart, make=Cart)],
        said: Annotated[SessionList[str], FromSession(shop.messages)],
        visits: Annotated[int, FromSession(shop.site.visits, default=0)],
    ) -> PlainTextResponse:
        mine.items.append("pen")
        said.append("hello")
        session[shop.site.visits] = visits + 1
        return PlainTextResponse(f"{len(mine.items)} {len(said)} {visits}")

    jar = Jar()
    assert [(await shop.ask(show, jar)).text for _ in range(2)] == ["1 1 0", "2 2 1"]
    assert shop.site.store.calls == {"create": 1, "open": 1, "commit": 1}


@in_loop
async def test_a_plain_function_takes_them_too(shop: Shop) -> None:
    """Starlette runs it in a thread; the session is open by then."""

    @inject
    def count(request: Request, session: CurrentSession) -> PlainTextResponse:
        assert current_session() is session
        return PlainTextResponse(str(session.update(shop.site.visits, lambda n: n + 1, default=0)))

    jar = Jar()
    assert [(await shop.ask(count, jar)).text for _ in range(2)] == ["1", "2"]


@pytest.mark.parametrize("mounted", [False, True])
def test_without_a_value_the_request_is_refused(shop: Shop, mounted: bool) -> None:
    """403, or what `error=` says, in an application that is mounted too."""

    @inject
    async def greet(request: Request, who: Annotated[str, FromSession(shop.site.name)]) -> PlainTextResponse:
        return PlainTextResponse(who)

    @inject
    async def page(request: Request, who: Annotated[str, FromSession(shop.site.name, error=redirect("/login"))]) -> PlainTextResponse:
        return PlainTextResponse(who)

    routes: list[BaseRoute] = [Route("/in/greet", greet), Route("/in/page", page)]
    if mounted:
        routes = [Mount("/in", Starlette(routes=[Route("/greet", greet), Route("/page", page)]))]
    app = shop.app(*routes)
    assert asyncio.run(asgi(app, path="/in/greet")).status == 403
    answer = asyncio.run(asgi(app, path="/in/page"))
    assert (answer.status, answer.all("Location")) == (303, ["/login"])


@in_loop
async def test_a_middleware_around_the_filter_sees_what_it_refuses(shop: Shop) -> None:
    """A page of another origin is told of the 401 by the CORS headers, which those inside of the filter do not add."""
    cors = Middleware(CORSMiddleware, allow_origins=["https://spa.example"], allow_credentials=True)

    @inject
    async def private(request: Request, name: Annotated[str, FromSession(shop.site.name, error=(401, []))]) -> PlainTextResponse:
        return PlainTextResponse(name)

    app = Starlette(routes=[Route("/", private)], middleware=[cors, Middleware(SessionMiddleware, shop.site.sessions)])
    answer = await asgi(app, headers=[("Origin", "https://spa.example")])
    assert answer.status == 401
    assert answer.all("Access-Control-Allow-Origin") == ["https://spa.example"]


@in_loop
async def test_methods_and_websockets_take_them(shop: Shop) -> None:
    """An `HTTPEndpoint` has the scope itself; a WebSocket is told before it is accepted."""

    class Counter(HTTPEndpoint):
        @inject
        async def get(self, request: Request, visits: Annotated[int, FromSession(shop.site.visits)]) -> PlainTextResponse:
            return PlainTextResponse(f"{request.url.path} {visits}")

    @inject
    async def chat(websocket: WebSocket, session: CurrentSession) -> None:
        session[shop.site.visits] += 1
        await websocket.accept()
        with suppress(WebSocketDisconnect):
            await websocket.receive_text()

    app = shop.app(Route("/counter", Counter), WebSocketRoute("/", chat))
    jar = await shop.site.jar(1)
    assert (await asgi(app, jar, path="/counter")).text == "/counter 1"
    async with Socket(app, jar) as socket:
        await socket.accepted()
    assert await shop.site.stored(jar) == 2


@in_loop
async def test_whatever_can_be_called_takes_them(shop: Shop) -> None:
    """Methods of an object, objects, and functions with some arguments given; the annotation may have a name of its own."""

    class Named:
        Visits = TypeAliasType("Visits", Annotated[int, FromSession(shop.site.visits, default=7)])

    class Shelf:
        @inject
        async def show(self, request: Request, visits: Named.Visits) -> PlainTextResponse:
            return PlainTextResponse(f"shown {visits}")

        @inject
        def count(self, request: Request, visits: Named.Visits) -> PlainTextResponse:
            return PlainTextResponse(f"counted {visits}")

        async def __call__(self, request: Request, visits: Named.Visits) -> PlainTextResponse:
            return PlainTextResponse(f"called {visits}")

    async def say(request: Request, visits: Named.Visits, *, text: str) -> PlainTextResponse:
        return PlainTextResponse(f"{text} {visits}")

    partly = partial(partial(say), text="said")
    endpoints = [Shelf().show, Shelf().count, inject(Shelf()), inject(partly)]
    assert [(await shop.ask(endpoint)).text for endpoint in endpoints] == ["shown 7", "counted 7", "called 7", "said 7"]


@in_loop
async def test_a_default_is_nobody_elses(shop: Shop) -> None:
    """What one visitor's handler does to it, the next visitor's does not see; a sentinel stays the object that it is."""
    nobody = object()

    @inject
    async def show(
        request: Request,
        mine: Annotated[Cart, FromSession(shop.cart, default=Cart(["pen"]))],
        name: Annotated[object, FromSession(shop.site.name, default=nobody)],
    ) -> PlainTextResponse:
        assert name is nobody
        mine.items.append("ink")
        return PlainTextResponse(" ".join(mine.items))

    assert [(await shop.ask(show)).text for _ in range(2)] == ["pen ink", "pen ink"]


@pytest.mark.parametrize("settings", [{"make": Cart()}, {"error": 403}, {"error": "/login"}, {"error": (404, "text")}], ids=repr)
def test_what_cannot_be_taken_is_told_where_it_is_declared(shop: Shop, settings: dict[str, Any]) -> None:
    """Not at the first visitor who has no value."""
    with pytest.raises((TypeError, PolicyError), match="expected a"):
        from_session(shop.cart, **settings)


def test_an_endpoint_that_asks_for_nothing_is_told_at_once(shop: Shop) -> None:
    """Most likely its annotations are those of the module for FastAPI."""

    async def plain(request: Request, session: Session) -> PlainTextResponse:
        raise AssertionError

    with pytest.raises(TypeError, match="no parameter is a CurrentSession"):
        inject(plain)

    async def perhaps(request: Request, session: CurrentSession | None) -> PlainTextResponse:
        raise AssertionError

    with pytest.raises(TypeError, match="session is a union"):
        inject(perhaps)


def test_the_annotations_are_not_those_of_fastapi(shop: Shop) -> None:
    """FastAPI takes them for the request's body, and would say so."""

    async def show(session: CurrentSession) -> None:
        raise AssertionError

    with pytest.raises(TypeError, match=r"FastAPI's are in filters\.fastapi"):
        FastAPI().get("/")(show)


@in_loop
async def test_the_decorators(shop: Shop) -> None:
    """Functions with their request, and methods of an endpoint class."""
    visits = shop.site.visits

    @with_session
    async def visit(request: Request, session: Session) -> PlainTextResponse:
        return PlainTextResponse(str(session.update(visits, lambda n: n + 1, default=0)))

    class Greeting(HTTPEndpoint):
        @from_session(visits)
        async def get(self, visits: int, request: Request) -> PlainTextResponse:
            return PlainTextResponse(f"{request.url.path} {visits}")

    app = shop.app(Route("/", visit), Route("/greeting", Greeting))
    jar = Jar()
    assert (await asgi(app, jar, path="/greeting")).status == 403
    assert [(await asgi(app, jar)).text for _ in range(2)] == ["1", "2"]
    assert (await asgi(app, jar, path="/greeting")).text == "/greeting 2"
