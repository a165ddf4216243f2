"""FastAPI: the session and its values as parameters, in handlers of every kind, and nothing of it in the OpenAPI document."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Depends, FastAPI, HTTPException, WebSocket, WebSocketDisconnect
from starlette.responses import StreamingResponse

from tests.filters.asgi_site import Site
from tests.filters.servers import Answer, Jar, Socket, asgi, in_loop
from typed_sessions import Key, ListKey, NoSession, Session, SessionList, StoreUnavailable, current_session, redirect
from typed_sessions.filters.asgi import SessionMiddleware
from typed_sessions.filters.fastapi import CurrentSession, FromSession, request_session


@dataclass
class Cart:
    items: list[str] = field(default_factory=list[str])


class Shop:
    """An application with sessions around it."""

    def __init__(self) -> None:
        self.site = Site()
        self.cart = Key("cart", Cart)
        self.messages = ListKey("messages", str)
        self.app = FastAPI()
        self.app.add_middleware(SessionMiddleware, self.site.sessions)

    async def ask(self, jar: Jar | None = None, path: str = "/", **more: Any) -> Answer:
        return await asgi(self.app, jar, path=path, **more)


@pytest.fixture
def shop() -> Shop:
    return Shop()


@in_loop
async def test_a_handler_takes_its_session(shop: Shop) -> None:
    """Opened before it is called, and committed after."""

    @shop.app.get("/")
    async def visit(session: CurrentSession) -> int:
        return session.update(shop.site.visits, lambda n: n + 1, default=0)

    jar = Jar()
    assert [(await shop.ask(jar)).text for _ in range(3)] == ["1", "2", "3"]
    assert shop.site.store.calls == {"create": 1, "open": 2, "commit": 2}


@in_loop
async def test_a_handler_takes_a_value(shop: Shop) -> None:
    """What is changed in it is committed (rule 5)."""

    @shop.app.get("/")
    async def add(found: Annotated[Cart, FromSession(shop.cart, make=Cart)]) -> list[str]:
        found.items.append("pen")
        return found.items

    jar = Jar()
    assert [(await shop.ask(jar)).text for _ in range(2)] == ['["pen"]', '["pen","pen"]']


@in_loop
async def test_a_plain_function_takes_both(shop: Shop) -> None:
    """FastAPI runs it in a thread, where `current_session()` is the same."""

    @shop.app.get("/")
    def visit(session: CurrentSession, found: Annotated[Cart, FromSession(shop.cart, make=Cart)]) -> bool:
        found.items.append("pen")
        session[shop.site.visits] = 1
        return current_session() is session

    jar = Jar()
    assert (await shop.ask(jar)).text == "true"
    assert await shop.site.stored(jar) == 1


@in_loop
async def test_without_a_value_the_request_is_refused(shop: Shop) -> None:
    """403, or what `error=` says; the handler is not called, and there is no session for it."""

    @shop.app.get("/")
    async def greet(who: Annotated[str, FromSession(shop.site.name)]) -> str:
        return who

    @shop.app.get("/page")
    async def page(who: Annotated[str, FromSession(shop.site.name, error=redirect("/login"))]) -> str:
        return who

    jar = Jar()
    assert (await shop.ask(jar)).status == 403
    answer = await shop.ask(jar, "/page")
    assert (answer.status, answer.all("Location"), jar.cookies) == (303, ["/login"], {})


@in_loop
async def test_a_mounted_application_refuses_too(shop: Shop) -> None:
    """Its own answer to an exception would be 500: the refusal of a handler in it is answered as that of any other."""
    inner = FastAPI()

    @inner.get("/account")
    async def account(who: Annotated[str, FromSession(shop.site.name, error=redirect("/login"))]) -> str:
        return who

    @inner.get("/fails")
    async def fail(session: CurrentSession) -> None:
        session[shop.site.visits] = 2
        fails()

    @inner.get("/down")
    async def down(session: CurrentSession) -> None: ...

    shop.app.mount("/inner", inner)
    jar = await shop.site.jar(1)
    answer = await shop.ask(jar, "/inner/account")
    assert (answer.status, answer.all("Location")) == (303, ["/login"])
    with suppress(ZeroDivisionError):
        assert (await shop.ask(jar, "/inner/fails")).status == 500
    assert await shop.site.stored(jar) == 1
    shop.site.store.faults["open"] = StoreUnavailable("it is down")
    assert (await shop.ask(jar, "/inner/down")).status == 503


@in_loop
async def test_a_default_and_a_list(shop: Shop) -> None:
    """A default is not stored; the list of a `ListKey` is always there."""

    @shop.app.get("/")
    async def counts(n: Annotated[int, FromSession(shop.site.visits, default=0)]) -> int:
        return n

    @shop.app.get("/say")
    async def say(said: Annotated[SessionList[str], FromSession(shop.messages)]) -> list[str]:
        said.append("hello")
        return list(said)

    jar = Jar()
    assert ((await shop.ask(jar)).text, jar.cookies) == ("0", {})
    assert [(await shop.ask(jar, "/say")).text for _ in range(2)] == ['["hello"]', '["hello","hello"]']


@in_loop
async def test_other_dependencies_take_them(shop: Shop) -> None:
    """Of their own, of a router's, and of many in one request, the session is opened once."""

    def greeting(who: Annotated[str, FromSession(shop.site.name)]) -> str:
        return f"hello {who}"

    async def signed_in(session: CurrentSession) -> Session:
        session.require(lambda s: shop.site.name in s)
        return session

    router = APIRouter(dependencies=[Depends(signed_in)])

    @router.get("/")
    async def greet(
        text: Annotated[str, Depends(greeting)],
        session: Annotated[Session, Depends(signed_in)],
        plain: Annotated[Session, Depends(request_session)],
    ) -> str:
        assert session is plain
        return text

    @shop.app.get("/sign-in")
    async def sign_in(session: CurrentSession) -> None:
        session[shop.site.name] = "ann"

    shop.app.include_router(router)
    jar = Jar()
    assert (await shop.ask(jar)).status == 403
    await shop.ask(jar, "/sign-in")
    shop.site.store.calls.clear()
    assert (await shop.ask(jar)).text == '"hello ann"'
    assert shop.site.store.calls == {"open": 1}


@in_loop
async def test_what_asks_for_nothing_costs_nothing(shop: Shop) -> None:
    """Rule 25: lazy."""

    @shop.app.get("/")
    async def hello() -> str:
        return "hello"

    jar = await shop.site.jar()
    answer = await shop.ask(jar)
    assert (answer.text, answer.all("Vary")) == ('"hello"', [])
    assert shop.site.store.trips == 0


@pytest.mark.parametrize("leave", [lambda: fails(), lambda: aborts(503)])
def test_a_failure_commits_nothing(shop: Shop, leave: Callable[[], None]) -> None:
    """An exception of the handler, or an answer of 500 and above."""

    @shop.app.get("/")
    async def fail(session: CurrentSession) -> None:
        session[shop.site.visits] = 2
        leave()

    async def main() -> None:
        jar = await shop.site.jar(1)
        with suppress(ZeroDivisionError):  # which FastAPI lets through, after its answer
            assert (await shop.ask(jar)).status == 503
        assert await shop.site.stored(jar) == 1

    asyncio.run(main())


def fails() -> None:
    raise ZeroDivisionError


def aborts(status: int) -> None:
    raise HTTPException(status)


@in_loop
async def test_an_http_exception_below_500_commits(shop: Shop) -> None:
    """It is an answer."""

    @shop.app.get("/")
    async def missing(session: CurrentSession) -> None:
        session[shop.site.visits] = 2
        aborts(404)

    jar = await shop.site.jar(1)
    assert (await shop.ask(jar)).status == 404
    assert await shop.site.stored(jar) == 2


@pytest.mark.parametrize("verb", ["open", "commit"])
def test_a_store_that_is_down_is_answered_with_503(shop: Shop, verb: str) -> None:
    """Rule 28, in a dependency too; the cookie is left alone."""

    @shop.app.get("/")
    async def visit(session: CurrentSession) -> None:
        session[shop.site.visits] = 2

    async def main() -> None:
        jar = await shop.site.jar(1)
        shop.site.store.faults[verb] = StoreUnavailable("it is down")
        answer = await shop.ask(jar)
        assert (answer.status, answer.all("Set-Cookie")) == (503, [])

    asyncio.run(main())


@in_loop
async def test_what_changes_while_the_body_streams(shop: Shop) -> None:
    """Rule 26: it is committed at the end."""

    @shop.app.get("/")
    async def stream(session: CurrentSession) -> StreamingResponse:
        async def body() -> AsyncIterator[bytes]:
            yield b"first"
            session[shop.site.visits] += 1
            yield b"second"

        return StreamingResponse(body())

    jar = await shop.site.jar(1)
    assert (await shop.ask(jar)).text == "firstsecond"
    assert await shop.site.stored(jar) == 2


@in_loop
async def test_a_websocket_takes_them(shop: Shop) -> None:
    """Before it is accepted: a value that is missing refuses the handshake."""

    @shop.app.websocket("/")
    async def chat(websocket: WebSocket, session: CurrentSession, n: Annotated[int, FromSession(shop.site.visits)]) -> None:
        session[shop.site.visits] = n + 1
        await websocket.accept()
        await websocket.send_text(str(session[shop.site.visits]))
        with suppress(WebSocketDisconnect):
            await websocket.receive_text()

    jar = await shop.site.jar(1)
    async with Socket(shop.app, jar) as socket:
        await socket.accepted()
        assert (await socket.next())["text"] == "2"
        assert await shop.site.stored(jar) == 2
    async with Socket(shop.app, Jar()) as socket:
        assert (await socket.next())["type"] == "websocket.close"


@in_loop
async def test_a_websocket_that_ends_with_its_client(shop: Shop) -> None:
    """The usual handler waits for the next message, and FastAPI raises when the client has gone: what it did before is committed."""

    @shop.app.websocket("/")
    async def count(websocket: WebSocket, session: CurrentSession) -> None:
        await websocket.accept()
        while True:
            await websocket.receive_text()
            session[shop.site.visits] += 1
            await websocket.send_text("counted")

    jar = await shop.site.jar(1)
    with suppress(WebSocketDisconnect):
        async with Socket(shop.app, jar) as socket:
            await socket.accepted()
            for _ in range(2):
                assert await socket.ask("count") == "counted"
    assert await shop.site.stored(jar) == 3


def test_the_openapi_document_knows_nothing_of_it(shop: Shop) -> None:
    """They are no parameters of the interface."""

    @shop.app.get("/")
    async def visit(session: CurrentSession, found: Annotated[Cart, FromSession(shop.cart)], page: int = 1) -> None: ...

    [operation] = shop.app.openapi()["paths"]["/"].values()
    assert [parameter["name"] for parameter in operation["parameters"]] == ["page"]
    assert "requestBody" not in operation


@in_loop
async def test_without_the_middleware_it_is_told() -> None:
    """`NoSession`, which names what is missing."""
    app = FastAPI()

    @app.get("/")
    async def visit(session: CurrentSession) -> None: ...

    with pytest.raises(NoSession, match="SessionMiddleware"):
        await asgi(app)


def test_what_does_not_go_together_is_told_at_once(shop: Shop) -> None:
    """Where the parameter is declared."""
    take: Any = FromSession
    with pytest.raises(TypeError, match="either make="):
        take(shop.cart, make=Cart, default=None)
    with pytest.raises(TypeError, match="always there"):
        take(shop.messages, default=[])
