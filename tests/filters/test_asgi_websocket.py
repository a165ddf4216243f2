"""The ASGI filter around WebSockets: a WebSocket is a client of its session (rules 13, 14, 26)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.filters.asgi_site import App, Site, says
from tests.filters.servers import Jar, Socket, asgi, in_loop
from typed_sessions import AddressPolicy, Conflict, HeadersSent, Session, SessionClosed, StoreUnavailable, TooLarge, current_session
from typed_sessions.filters.asgi import Receive, Scope, Send, open_session

Say = Callable[[Session, str], Awaitable[object]]


@pytest.fixture
def site() -> Site:
    return Site()


def chat(answer: Say, *, before: Callable[[Session], object] | None = None, after: Callable[[Session], object] | None = None) -> App:
    """A WebSocket application: opens the session, accepts, answers each message, and returns when the client has gone."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        session = await open_session(scope)
        if before is not None:
            before(session)
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": str(await answer(session, message["text"]))})
        if after is not None:
            after(session)

    return app


async def echo(_: Session, text: str) -> str:
    return text


@in_loop
async def test_a_websocket_that_does_not_look_costs_nothing(site: Site) -> None:
    """Rule 25: no trip, no headers, and messages pass untouched."""

    async def app(_: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept", "headers": [(b"x-mine", b"1")]})
        await send({"type": "websocket.send", "text": (await receive())["text"]})

    async with Socket(site.app(app), await site.jar()) as socket:
        assert (await socket.accepted()).headers == [("x-mine", "1")]
        assert await socket.ask("hello") == "hello"
    assert site.store.trips == 0


@in_loop
async def test_it_is_committed_when_it_is_accepted(site: Site) -> None:
    """The handshake's answer carries the cookies of a new session, and no others."""

    def visit(session: Session) -> None:
        session.update(site.visits, lambda n: n + 1, default=0)

    jar = Jar()
    async with Socket(site.app(chat(echo, before=visit)), jar) as socket:
        answer = await socket.accepted()
        assert [cookie.partition("=")[0] for cookie in answer.all("set-cookie")] == ["SESSION_KEY", "SESSION_ADDR"]
        assert (answer.all("cache-control"), answer.all("vary")) == (["no-store"], ["Cookie"])
        assert await site.stored(jar) == 1
    async with Socket(site.app(chat(echo, before=visit)), jar) as socket:
        assert (await socket.accepted()).all("set-cookie") == []
        assert await site.stored(jar) == 2


@in_loop
async def test_it_is_committed_by_the_managers_commit_and_at_its_end(site: Site) -> None:
    """What is said in between is seen by others when the application says so, or when it returns."""

    async def answer(session: Session, text: str) -> str:
        session[site.visits] = int(text)
        if text == "3":
            await site.sessions.commit(session)
        return text

    jar = await site.jar()
    async with Socket(site.app(chat(answer)), jar) as socket:
        await socket.accepted()
        assert (await socket.ask("2"), await site.stored(jar)) == ("2", 1)
        assert (await socket.ask("3"), await site.stored(jar)) == ("3", 3)
        assert (await socket.ask("4"), await site.stored(jar)) == ("4", 3)
    assert await site.stored(jar) == 4


@in_loop
async def test_what_needs_a_cookie_is_refused_once_it_is_accepted(site: Site) -> None:
    """Rule 26: creating, renewing and changing the cookie raise HeadersSent at the call."""

    async def late(session: Session, text: str) -> str:
        try:
            if text == "renew":
                session.renew()
            elif text == "persistent":
                session.persistent = False
            else:
                session[site.visits] = 5
        except HeadersSent:
            return "too late"
        return "done"

    jar = await site.jar()
    async with Socket(site.app(chat(late)), jar) as socket:
        await socket.accepted()
        assert [await socket.ask(text) for text in ("renew", "persistent", "write")] == ["too late", "too late", "done"]
    async with Socket(site.app(chat(late))) as socket:
        await socket.accepted()
        assert await socket.ask("write") == "too late"

    async def opens_late(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        with pytest.raises(HeadersSent):
            await open_session(scope)

    async with Socket(site.app(opens_late, create=True)) as socket:
        await socket.accepted()
    assert len(site.store.store) == 1


@in_loop
async def test_a_message_counts_as_use(site: Site) -> None:
    """A chat that goes on keeps its session alive, at one trip per granularity; one that is silent does not."""
    jar = await site.jar()
    async with Socket(site.app(chat(echo)), jar) as socket:
        await socket.accepted()
        for _ in range(30):
            site.clock.advance(59)
            await socket.ask("hello")
        assert site.store.calls["touch"] == 15
        assert await site.stored(jar) == 1
        site.clock.advance(700)
        await socket.say("anybody?")
        assert await socket.next() == {"type": "websocket.close", "code": 1008, "reason": "the session has ended"}


@in_loop
async def test_no_message_is_heard_after_the_absolute_lifetime() -> None:
    """Whatever the granularity: it holds by the time and the record alone (rule 11)."""
    site = Site(lifetime=30, granularity=60)
    jar = await site.jar()
    async with Socket(site.app(chat(echo)), jar) as socket:
        await socket.accepted()
        site.clock.advance(29)
        await socket.ask("hello")
        site.clock.advance(1)
        await socket.say("anybody?")
        assert await socket.next() == {"type": "websocket.close", "code": 1008, "reason": "the session has ended"}


@in_loop
async def test_the_session_knows_its_websockets() -> None:
    """Each connection is a client, for as long as it lasts."""
    site = Site(address_policy=AddressPolicy(match="off"))

    async def count(session: Session, _: str) -> int:
        return len([client for client in session.clients if client.address == "10.9.9.9"])

    jar = await site.jar()
    async with Socket(site.app(chat(count)), jar, address="10.9.9.9") as first:
        await first.accepted()
        async with Socket(site.app(chat(count)), jar, address="10.9.9.9") as second:
            await second.accepted()
            assert await first.ask("how many?") == "2"
        assert await first.ask("and now?") == "1"


@pytest.mark.parametrize("by", ["a request", "manager.end", "its own commit"])
@in_loop
async def test_the_end_of_the_session_closes_it(site: Site, by: str) -> None:
    """Rules 13 and 14, RFC 6455 7.4.1: with 1008, the application gets a disconnect, and nothing said later reaches it."""
    heard: list[str] = []

    async def answer(session: Session, text: str) -> str:
        heard.append(text)
        if text == "end":
            session.end()
            await site.sessions.commit(session)
        return text

    async def sign_out(scope: Scope) -> str:
        (await open_session(scope)).end()
        return "bye"

    jar = await site.jar()
    async with Socket(site.app(chat(answer)), jar) as socket, Socket(site.app(chat(answer)), jar) as other:
        await socket.accepted()
        await other.accepted()
        if by == "a request":
            assert (await asgi(site.app(says(sign_out)), jar.copy())).text == "bye"
        elif by == "manager.end":
            [handle] = [view.handle async for view in site.sessions.all()]
            assert await site.sessions.end(handle)
        else:
            assert await socket.ask("end") == "end"  # the answer to the ending message still leaves
        for one in (other, socket):
            await one.say("too late")
            assert await one.next() == {"type": "websocket.close", "code": 1008, "reason": "the session has ended"}
            assert one.task is not None
            await one.task
    assert heard == (["end"] if by == "its own commit" else [])
    assert len(site.store.store) == 0


@in_loop
async def test_what_was_said_before_the_end_and_not_heard_is_not_heard_after(site: Site) -> None:
    """A message that waited while the application was busy, and the session ended meanwhile, does not reach it any more."""
    heard: list[str] = []
    busy, go_on = asyncio.Event(), asyncio.Event()

    async def slow(_: Session, text: str) -> str:
        heard.append(text)
        busy.set()
        await go_on.wait()
        return text

    async def quiet(scope: Scope, receive: Receive, send: Send) -> None:
        session = await open_session(scope)
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await slow(session, message["text"])
        assert message == {"type": "websocket.disconnect", "code": 1008}

    async with Socket(site.app(quiet), await site.jar()) as socket:
        await socket.accepted()
        await socket.say("first")
        await busy.wait()
        await socket.say("second")
        assert await site.sessions.end_all() == 1
        go_on.set()
        assert (await socket.next())["code"] == 1008
    assert heard == ["first"]


@in_loop
async def test_an_application_that_only_sends_gets_to_know(site: Site) -> None:
    """As when the client has gone, sending raises an OSError (ASGI); left to itself it ends the application quietly."""
    caught: list[OSError] = []

    async def ticker(scope: Scope, receive: Receive, send: Send) -> None:
        session = await open_session(scope)
        await receive()
        await send({"type": "websocket.accept"})
        await site.sessions.end(session.handle)
        try:
            while True:
                await send({"type": "websocket.send", "text": "tick"})
        except OSError as problem:
            caught.append(problem)
            raise

    async with Socket(site.app(ticker), await site.jar()) as socket:
        await socket.accepted()
        assert (await socket.next())["code"] == 1008
        assert socket.task is not None
        await socket.task
    assert "its session has ended" in str(caught[0])


@in_loop
async def test_it_is_closed_for_the_session_after_its_end(site: Site) -> None:
    """Rule 27: when the application has returned."""
    kept: list[Session] = []

    async with Socket(site.app(chat(echo, before=kept.append)), await site.jar()) as socket:
        await socket.accepted()
    with pytest.raises(SessionClosed):
        kept[0][site.visits]


@in_loop
async def test_an_exception_commits_nothing_more(site: Site) -> None:
    """What was committed at accept stays, what came after is dropped."""

    async def breaks(session: Session, text: str) -> str:
        session[site.visits] = 9
        raise ZeroDivisionError(text)

    jar = await site.jar()

    async def talk() -> None:
        async with Socket(site.app(chat(breaks, before=lambda session: session.update(site.visits, lambda n: n + 1))), jar) as socket:
            await socket.accepted()
            await socket.say("now")

    with pytest.raises(ZeroDivisionError):
        await talk()
    assert await site.stored(jar) == 2


@in_loop
async def test_an_exception_after_the_client_has_gone_commits(site: Site) -> None:
    """Frameworks raise one in the application when it is told that the client has gone: that is the connection's end, and no failure."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        session = await open_session(scope)
        await receive()
        await send({"type": "websocket.accept"})
        while (await receive())["type"] == "websocket.receive":
            session[site.visits] += 1
            await send({"type": "websocket.send", "text": "counted"})
        raise ConnectionError("the client has gone")

    jar = await site.jar(1)

    async def talk() -> None:
        async with Socket(site.app(app), jar) as socket:
            await socket.accepted()
            await socket.ask("count")

    with pytest.raises(ConnectionError):
        await talk()
    assert await site.stored(jar) == 2


# ------------------------------------------------------------------ who is let in

ORIGINS: list[tuple[list[str], bool]] = [
    ([], True),  # no browser
    (["http://example.org"], True),
    (["HTTP://EXAMPLE.ORG"], True),
    (["https://app.example.org"], True),  # allowed
    (["http://evil.example"], False),
    (["http://example.org.evil.example"], False),
    (["http://example.org:8080"], False),
    (["http://example.org@evil.example"], False),
    (["null"], False),
    ([""], False),
    (["http://["], False),
    (["http://example.org", "http://evil.example"], False),
]


@pytest.mark.parametrize(("origins", "let_in"), ORIGINS)
@in_loop
async def test_a_page_of_another_origin_opens_no_session(site: Site, origins: list[str], let_in: bool) -> None:
    """Rule 26, CWE-1385: cookies go with a handshake whatever page it comes from; that costs no trip, and the session stays."""
    jar = await site.jar()
    app = site.app(chat(echo), allowed_origins=["https://app.example.org/"])
    async with Socket(app, jar, denial=True, headers=[("Origin", origin) for origin in origins]) as socket:
        message = await socket.next()
    if let_in:
        assert message["type"] == "websocket.accept"
    else:
        assert (message["type"], message["status"]) == ("websocket.http.response.start", 403)
        assert site.store.trips == 0
    assert await site.stored(jar) == 1


@in_loop
async def test_a_page_of_another_origin_may_use_a_websocket_without_a_session(site: Site) -> None:
    """What does not look at the session is open to everybody, as it would be without the filter."""

    async def public(_: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})

    async with Socket(site.app(public), await site.jar(), headers=[("Origin", "http://other.example")]) as socket:
        assert (await socket.accepted()).headers == []
    assert site.store.trips == 0


@pytest.mark.parametrize("failure", [StoreUnavailable("it is down"), Conflict("others were faster"), TooLarge("too large")])
@in_loop
async def test_a_commit_that_fails_at_accept_refuses_the_handshake(site: Site, failure: Any) -> None:
    """Rule 28: nothing is accepted that was not saved."""
    jar = await site.jar()
    site.store.faults["commit"] = failure

    def visit(session: Session) -> None:
        session[site.visits] = 9

    async with Socket(site.app(chat(echo, before=visit)), jar, denial=True) as socket:
        start = await socket.next()
        assert (start["type"], start["status"]) == ("websocket.http.response.start", failure.status)
    del site.store.faults["commit"]
    assert await site.stored(jar) == 1


@in_loop
async def test_a_commit_that_fails_at_the_end_is_told_to_both(site: Site) -> None:
    """The client by 1011 (RFC 6455 7.4.1), the server by the exception."""
    jar = await site.jar()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        session = await open_session(scope)
        await receive()
        await send({"type": "websocket.accept"})
        session[site.visits] = 9
        site.store.faults["commit"] = StoreUnavailable("it is down")

    async def connect() -> None:
        async with Socket(site.app(app), jar) as socket:
            await socket.accepted()
            message = await socket.next()
            assert (message["type"], message["code"]) == ("websocket.close", 1011)

    with pytest.raises(StoreUnavailable):
        await connect()


@in_loop
async def test_rejected_after_accept_closes_it(site: Site) -> None:
    """There is no status any more: 1008, and what the request changed is dropped."""

    async def refused(session: Session, _: str) -> str:
        session[site.visits] = 9
        session.require(lambda s: site.name in s)
        return "never"

    jar = await site.jar()
    async with Socket(site.app(chat(refused)), jar) as socket:
        await socket.accepted()
        await socket.say("please")
        message = await socket.next()
        assert (message["type"], message["code"]) == ("websocket.close", 1008)
    assert await site.stored(jar) == 1


@in_loop
async def test_an_application_that_denies_by_itself(site: Site) -> None:
    """With the extension its answer is a response like any other: committed, with the session's headers, or not if it is a 500."""

    def denying(status: int) -> App:
        async def app(scope: Scope, _: Receive, send: Send) -> None:
            (await open_session(scope)).update(site.visits, lambda n: n + 1)
            await send({"type": "websocket.http.response.start", "status": status, "headers": []})
            await send({"type": "websocket.http.response.body", "body": b"no"})

        return app

    jar = await site.jar()
    for status, stored in ((404, 2), (500, 2)):
        async with Socket(site.app(denying(status)), jar, denial=True) as socket:
            start = await socket.next()
            assert (start["status"], (b"vary", b"Cookie") in start["headers"]) == (status, True)
        assert await site.stored(jar) == stored


@in_loop
async def test_one_that_is_never_accepted_leaves_nothing_behind(site: Site) -> None:
    """A session created for the handshake alone ends with it, since nobody has its cookie."""

    async def closes(scope: Scope, receive: Receive, send: Send) -> None:
        await open_session(scope)
        await receive()
        await send({"type": "websocket.close", "code": 4000})

    async with Socket(site.app(closes, create=True)) as socket:
        assert (await socket.next())["code"] == 4000
    assert len(site.store.store) == 0


@in_loop
async def test_eager_works_for_websockets(site: Site) -> None:
    """Rule 25: `current_session()` at once."""

    async def app(_: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": str(current_session()[site.visits])})

    async with Socket(site.app(app, eager=True), await site.jar(8)) as socket:
        await socket.accepted()
        assert (await socket.next())["text"] == "8"
    assert asyncio.all_tasks() == {asyncio.current_task()}
