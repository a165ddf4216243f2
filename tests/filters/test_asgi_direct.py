"""The quickest way through the ASGI filter, on a store that is asked without waiting: it does all that the long way does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from tests.filters.asgi_site import Site, says, streams
from tests.filters.servers import ASGIRequest, Jar, asgi, in_loop, scope
from typed_sessions import Begin, CommitRefused, CookiePolicy, End, Event, HeadersSent, LostUpdate, Session, current_session
from typed_sessions.filters.asgi import Receive, Scope, Send, open_session
from typed_sessions.session import Create


@pytest.mark.parametrize("event", [Begin, End, CommitRefused, LostUpdate])
@pytest.mark.parametrize("signed_in", [True, False])
@in_loop
async def test_the_headers_have_left_also_where_their_commit_has_waited(signed_in: bool, event: type[Event]) -> None:
    """Rule 26: who renews in the middle of the body is told at the call, and goes on with the cookie that was sent."""
    site = Site()
    site.sessions.on(event, lambda _: None)
    jar = await site.jar() if signed_in else None
    raised: list[HeadersSent] = []

    async def change(scope: Scope) -> str:
        session = await open_session(scope)
        session[site.visits] = 2
        if signed_in:
            session.renew()
        return "begun"

    async def renew(scope: Scope) -> str:
        try:
            (await open_session(scope)).renew()
        except HeadersSent as problem:
            raised.append(problem)
        return "end"

    await asgi(site.app(streams(change, renew)), jar)
    assert len(raised) == 1


@pytest.mark.parametrize("writes", [False, True])
@in_loop
async def test_a_lasting_cookie_is_sent_again_when_a_use_is_written(writes: bool) -> None:
    """Rule 12, in the quickest way through the filter too: or it would be gone from a browser whose session is used every day."""
    site = Site(cookie_policy=CookiePolicy(max_age=86_400), timeout=86_400, granularity=60)
    jar = await site.jar()

    async def use(scope: Scope) -> object:
        session = await open_session(scope)
        if writes:
            session[site.visits] = 7
        return session.get(site.visits)

    sent: list[int] = []
    for _ in range(4):
        site.clock.advance(59)
        answer = await asgi(site.app(says(use)), jar)
        sent.append(len(answer.all("set-cookie")))
        assert len(answer.all("cache-control")) == len(answer.all("set-cookie")) // 2
    site.clock.advance(60)
    answer = await asgi(site.app(says(use)), jar)
    assert ["Max-Age=86400" in value for value in answer.all("set-cookie")] == [True, True]
    assert sent[1:] != [2, 2, 2]


@in_loop
async def test_a_body_that_fails_after_the_headers_takes_no_session_away() -> None:
    """The browser has got the cookies of the session that the request has begun, and what was committed with them: it stays."""
    site, jar, request = Site(), Jar(), ASGIRequest()

    async def broken(_: Scope) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await site.app(streams(lambda scope: site.set(scope, 3), broken))(scope(jar), request.receive, request.send)
    jar.take(request.answer().headers)
    assert await site.stored(jar) == 3


@pytest.mark.parametrize("create", ["on_write", True])
@in_loop
async def test_begin_is_told_of_a_session_that_a_request_begins(create: Create) -> None:
    """Rule 15, in the quickest way through the filter too: once, and what a listener writes is stored."""
    site = Site()
    heard: list[Begin] = []

    def begin(event: Begin) -> None:
        heard.append(event)
        current_session()[site.name] = "by the listener"

    site.sessions.on(Begin, begin)
    jar = Jar()
    await asgi(site.app(says(lambda scope: site.set(scope, 1)), create=create), jar)
    await asgi(site.app(says(lambda scope: site.set(scope, 2))), jar)
    assert len(heard) == 1
    [view] = [view async for view in site.sessions.all()]
    assert (view[site.visits], view[site.name]) == (2, "by the listener")


@in_loop
async def test_tasks_that_open_at_once_have_one_session() -> None:
    """Also where it is a listener that opening waits for: the second task gets what the first one has begun, and nothing is lost."""
    site = Site()

    async def slow(_: Begin) -> None:
        await asyncio.sleep(0.01)

    site.sessions.on(Begin, slow)

    async def both(scope: Scope) -> bool:
        async def one(write: Callable[[Session], object]) -> Session:
            session = await open_session(scope)
            write(session)
            return session

        first, second = await asyncio.gather(
            one(lambda session: session.__setitem__(site.visits, 1)), one(lambda session: session.__setitem__(site.name, "ann"))
        )
        return first is second

    answer = await asgi(site.app(says(both), create=True), Jar())
    assert (answer.text, len(answer.all("set-cookie"))) == ("True", 2)
    [view] = [view async for view in site.sessions.all()]
    assert (view[site.visits], view[site.name]) == (1, "ann")


@in_loop
async def test_an_answer_waits_for_the_commit_that_another_task_is_in_the_middle_of() -> None:
    """What a listener of it still does belongs into that answer: here, the cookies of a renewal."""
    site, jar, request = Site(), Jar(), ASGIRequest()
    told, go_on = asyncio.Event(), asyncio.Event()

    async def renews(_: Begin) -> None:
        told.set()
        await go_on.wait()
        current_session().renew()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        session = await open_session(scope)
        session[site.visits] = 1
        committing = asyncio.ensure_future(site.sessions.commit(session))
        await told.wait()
        session[site.name] = "ann"
        answering = asyncio.ensure_future(send({"type": "http.response.start", "status": 200, "headers": []}))
        await asyncio.sleep(0.01)
        left_early = [*request.sent]
        go_on.set()
        await asyncio.gather(committing, answering)
        assert left_early == []
        await send({"type": "http.response.body", "body": b"done"})

    site.sessions.on(Begin, renews)
    await site.app(app)(scope(), request.receive, request.send)
    jar.take(request.answer().headers)
    [view] = [view async for view in site.sessions.all()]
    assert (await site.stored(jar), view[site.name]) == (1, "ann")
