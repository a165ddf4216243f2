"""The ASGI filter when something goes wrong: rule 28, `Rejected`, exceptions, cancellations, and applications that do not answer."""

from __future__ import annotations

import asyncio
import gc
import sys
import warnings
from contextlib import suppress
from types import FunctionType
from typing import Any, cast

import pytest

from tests.filters.asgi_site import Site, hello, look, says, streams
from tests.filters.servers import Answer, ASGIRequest, Jar, asgi, in_loop, scope
from tests.watched import Watched
from typed_sessions import AsyncSessionManager, Conflict, End, Key, Rejected, Session, StoreUnavailable, TooLarge, current_session
from typed_sessions.filters.asgi import Message, Receive, Scope, Send, open_session

FAILURES = [(StoreUnavailable("it is down"), 503), (Conflict("others were faster"), 503), (TooLarge("too large"), 500)]


@pytest.fixture
def site() -> Site:
    return Site()


@pytest.mark.parametrize("settings", [{}, {"create": True}])
@in_loop
async def test_an_exception_commits_nothing(site: Site, settings: dict[str, Any]) -> None:
    """Neither the changes, nor a session made for this request alone; a cancelled request is no different (R4)."""
    jar = await site.jar()
    for error in (ZeroDivisionError(), asyncio.CancelledError()):

        async def broken(scope: Scope, error: BaseException = error) -> str:
            await site.set(scope, 9)
            raise error

        for browser in (jar, Jar()):
            with pytest.raises(type(error)):
                await asgi(site.app(says(broken), **settings), browser)
    assert (await site.stored(jar), len(site.store.store)) == (1, 1)


@in_loop
async def test_an_application_that_does_not_answer_commits_nothing(site: Site) -> None:
    """The server will answer with 500; a session created for this request is not left behind."""

    async def silent(scope: Scope, _: Receive, __: Send) -> None:
        await site.set(scope, 9)

    request = ASGIRequest()
    await site.app(silent, create=True)(scope(), request.receive, request.send)
    assert (request.sent, len(site.store.store)) == ([], 0)


@pytest.mark.parametrize(("status", "committed"), [(200, 9), (404, 9), (499, 9), (500, 1), (503, 1)])
@in_loop
async def test_a_response_of_500_and_above_is_not_committed(site: Site, status: int, committed: int) -> None:
    """Rule 28."""
    jar = await site.jar()
    answer = await asgi(site.app(says(lambda scope: site.set(scope, 9), status)), jar)
    assert (answer.status, answer.all("vary"), await site.stored(jar)) == (status, ["Cookie"], committed)


@in_loop
async def test_rejected_is_answered_wherever_it_is_raised(site: Site) -> None:
    """With its status and headers; nothing is committed, and the session stays. After the headers it goes on."""
    jar = await site.jar()

    async def refused(scope: Scope) -> str:
        await site.set(scope, 9)
        current_session().require(lambda s: site.name in s, error=(403, [("X-Why", "no name")]))
        return "never"

    answer = await asgi(site.app(says(refused)), jar)
    assert (answer.status, answer.text, answer.all("x-why")) == (403, "403 Forbidden\n", ["no name"])
    assert (answer.all("vary"), answer.all("set-cookie")) == (["Cookie"], [])
    with pytest.raises(Rejected):
        await asgi(site.app(streams(hello, refused)), jar)
    assert await site.stored(jar) == 1


@in_loop
async def test_rejected_is_answered_where_a_framework_makes_500_of_it(site: Site) -> None:
    """It answers after the exception, and nothing is left of that: the refusal's own answer leaves, from `require` and from the opening."""

    async def answering(scope: Scope, receive: Receive, send: Send) -> None:
        failed = False
        try:
            await says(requires)(scope, receive, send)
        except Exception:
            failed = True
        if failed:
            await send({"type": "http.response.start", "status": 500, "headers": []})
            await send({"type": "http.response.body", "body": b"Internal Server Error"})

    async def requires(scope: Scope) -> str:
        (await open_session(scope)).require(lambda s: site.name in s, error=(403, [("X-Why", "no name")]))
        return "never"

    jar, elsewhere = await site.jar(), {**globals(), "__name__": "framework.core"}
    framework = FunctionType(answering.__code__, elsewhere, closure=answering.__closure__)  # in a package of its own, as they are
    answer = await asgi(site.app(framework), jar)
    assert (answer.status, answer.text, answer.all("x-why")) == (403, "403 Forbidden\n", ["no name"])
    site.store.faults["open"] = StoreUnavailable("it is down")
    answer = await asgi(site.app(framework), jar)
    assert (answer.status, answer.all("retry-after"), answer.all("set-cookie")) == (503, ["1"], [])


def refuse(_: Session) -> bool:
    return False


@in_loop
async def test_what_an_inner_filter_refuses_is_answered_where_a_framework_makes_500_of_it(site: Site) -> None:
    """The framework has called the filter itself, so it is not the framework that has asked for the session and caught the refusal."""
    inner = site.app(says(hello), check=refuse, error=(401, []))

    async def answering(scope: Scope, receive: Receive, send: Send) -> None:
        failed = False
        try:
            await inner(scope, receive, send)
        except Exception:
            failed = True
        assert failed
        await send({"type": "http.response.start", "status": 500, "headers": []})
        await send({"type": "http.response.body", "body": b"Internal Server Error"})

    framework = FunctionType(answering.__code__, {**globals(), "__name__": "framework.core"}, closure=answering.__closure__)
    assert (await asgi(site.app(framework), await site.jar())).status == 401


@pytest.mark.parametrize(("failure", "status"), FAILURES, ids=lambda value: type(value).__name__)
@in_loop
async def test_a_commit_that_fails_is_answered_in_the_applications_place(site: Site, failure: Exception, status: int) -> None:
    """Rule 28: the response that says "saved" does not leave; no cookie is set or expired by it; nobody repeats the commit."""
    jar = await site.jar()
    site.store.faults["commit"] = failure
    answer = await asgi(site.app(says(lambda scope: site.set(scope, 9))), jar)
    assert (answer.status, "saved" in answer.text, answer.all("set-cookie")) == (status, False, [])
    assert (answer.all("retry-after"), answer.all("cache-control")) == (["1"] if status == 503 else [], ["no-store"])
    assert site.store.calls["commit"] == 1
    with pytest.raises(type(failure)):  # the response has begun: the server cuts it off
        await asgi(site.app(streams(hello, lambda scope: site.set(scope, 9))), jar)
    del site.store.faults["commit"]
    assert await site.stored(jar) == 1


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize(
    "lost", [StoreUnavailable("the answer was lost", unknown=True), asyncio.CancelledError()], ids=["lost", "cancelled"]
)
@in_loop
async def test_a_commit_that_failed_is_not_repeated_by_another_answer(site: Site, lost: BaseException, waits: bool) -> None:
    """The application has caught the error, or the cancellation, and answers in its own way: what may have been applied is not again."""
    jar = await site.jar()
    site.store = Watched(site.store.store, blocking=waits)
    site.sessions = AsyncSessionManager(cast("Any", site.store), clock=site.clock)

    async def answering(scope: Scope, _: Receive, send: Send) -> None:
        (await open_session(scope)).update(site.visits, lambda n: n + 1)
        with suppress(StoreUnavailable, asyncio.CancelledError):
            await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.start", "status": 409, "headers": []})
        await send({"type": "http.response.body", "body": b"sorry"})

    site.store.lost["commit"] = lost
    answer = await asgi(site.app(answering), jar)
    site.store.lost.clear()
    assert (answer.status, answer.text, site.store.calls["commit"]) == (409, "sorry", 1)
    assert await site.stored(jar) == 2


@pytest.mark.parametrize("given_up", ["http.response.start", "http.response.body"])
@in_loop
async def test_a_message_that_is_given_up_before_it_is_awaited(site: Site, given_up: str) -> None:
    """`wait_for(send(...), 0)`: nobody is told of a coroutine of ours that was never awaited, and the message that leaves has it stored."""
    jar = await site.jar()
    worker = Key("worker", object, resident=True)  # it takes more than one call of the store

    async def app(scope: Scope, _: Receive, send: Send) -> None:
        session = await open_session(scope)
        messages: list[Message] = [
            {"type": "http.response.start", "status": 200, "headers": []},
            {"type": "http.response.body", "body": b""},
        ]
        for number, message in enumerate(messages):
            session[site.visits], session[worker] = 10 + number, object()
            if message["type"] == given_up:
                sending = asyncio.ensure_future(send(message))
                sending.cancel()
                with suppress(asyncio.CancelledError):
                    await sending
            await send(message)

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        await asgi(site.app(app), jar)
        gc.collect()
    assert [str(one.message) for one in told] == []
    assert await site.stored(jar) == 11


@in_loop
async def test_a_store_that_is_down_is_no_anonymous_request(site: Site) -> None:
    """Rule 28: 503 with its headers, no new session over the browser's cookie; who does not ask is not concerned."""
    jar = await site.jar()
    before = dict(jar.cookies)
    site.store.faults["open"] = StoreUnavailable("it is down")
    for app in (site.app(says(look)), site.app(says(hello), eager=True)):
        answer = await asgi(app, jar)
        assert (answer.status, answer.all("retry-after"), answer.all("set-cookie")) == (503, ["1"], [])
    assert jar.cookies == before
    assert (await asgi(site.app(says(hello)), jar)).text == "hello"


@pytest.mark.parametrize("by_commit", [False, True])
@in_loop
async def test_what_answers_a_head_in_the_applications_place_has_no_body(site: Site, by_commit: bool) -> None:
    """RFC 9110 9.3.2: not every server drops it, and over HTTP/2 the client resets a stream that has one."""
    jar = await site.jar()
    if by_commit:
        site.store.faults["commit"] = StoreUnavailable("it is down")

    async def refused(scope: Scope) -> str:
        (await open_session(scope)).require(lambda _: by_commit)
        return await site.set(scope, 9)

    answers: list[Answer] = []
    for method in ("HEAD", "GET"):
        request = ASGIRequest()
        await site.app(says(refused))({**scope(jar), "method": method}, request.receive, request.send)
        answers.append(request.answer())
    [head, get] = answers
    assert head.status == get.status == (503 if by_commit else 403)
    assert head.headers == get.headers
    assert head.body == b"" != get.body


def test_a_request_that_is_left_over_in_a_loop_that_is_closed(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its coroutine is closed when it is collected, in another context than its own: nobody hears of that."""
    told: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", told.append)
    begun: list[str] = []

    async def wait(_: object) -> None:
        begun.append("End")
        await asyncio.get_running_loop().create_future()

    async def end(scope: Scope) -> None:
        begun.append(str((await open_session(scope)).exists))
        await site.sessions.end_all()

    async def begin() -> None:
        jar = await site.jar()
        site.sessions.on(End, wait)
        requests = [asyncio.ensure_future(asgi(site.app(says(work)), jar)) for work in (end, wait)]
        while len(begun) < 3:
            await asyncio.sleep(0)
        for task in [*requests, *asyncio.all_tasks()]:
            task._log_destroy_pending = False  # type: ignore[attr-defined]  # its own complaint, which would be an error here

    loop = asyncio.new_event_loop()
    loop.run_until_complete(begin())
    loop.close()
    gc.collect()
    assert (begun, told) == (["True", "End", "End"], [])
