"""Rule 28 among the tasks of one request: what was dropped with a commit that was given up is not said to be done."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest

from tests.faces import PEER, Browser, Face
from tests.filters.asgi_site import Site, says
from tests.filters.servers import asgi, in_loop
from tests.watched import VERBS, Watched
from typed_sessions import AsyncSessionManager, Key, ListKey, MemoryStore, Request, Session, SessionClosed, StoreUnavailable
from typed_sessions.exchange import Exchange, Guard, RequestReader
from typed_sessions.filters.asgi import Scope, open_session


class Slow(Watched):
    """An asynchronous store; the verb `waits` is in its middle until somebody lets it go, and then raises `answer`, if it has one."""

    def __init__(self) -> None:
        super().__init__(MemoryStore())
        self.waits: str | None = None
        self.waiting = asyncio.Event()
        self.let_go = asyncio.Event()
        self.answer: BaseException | None = None

    def __getattr__(self, name: str) -> Any:
        verb = super().__getattr__(name)
        if name not in (*VERBS, "close"):
            return verb

        async def slow(*args: Any) -> Any:
            if name == self.waits:
                self.waits = None
                self.waiting.set()
                await self.let_go.wait()
                if self.answer is not None:
                    raise self.answer
            return verb(*args)

        return slow


LOST = StoreUnavailable("the answer was lost: it may have been applied", unknown=True)


async def a_request(sessions: AsyncSessionManager, cookies: str = "") -> tuple[Session, Any]:
    return await sessions.start_check(Request(headers=[("Cookie", cookies)] if cookies else [], peer=PEER))


def cookies_of(headers: list[tuple[str, str]]) -> str:
    return "; ".join(value.partition(";")[0] for name, value in headers if name == "Set-Cookie")


async def given_up(slow: Slow, committing: asyncio.Task[None], how: str) -> None:
    """The commit that waits in the store is cancelled, or loses its answer."""
    if how == "cancelled":
        committing.cancel()
    else:
        slow.answer = LOST
        slow.let_go.set()
    with pytest.raises((asyncio.CancelledError, StoreUnavailable)):
        await committing
    slow.let_go.set()


@pytest.mark.parametrize("how", ["cancelled", "answer lost"])
@pytest.mark.parametrize("commits", [True, False], ids=["commits it", "leaves it to finish"])
@in_loop
async def test_rule_28_an_end_is_not_lost_with_anothers_commit(how: str, commits: bool) -> None:
    """One task commits, and is given up; another has signed out meanwhile, which is carried out all the same."""
    slow, visits = Slow(), Key("visits", int)
    sessions = AsyncSessionManager(cast("Any", slow))
    session, finish = await a_request(sessions)
    session[visits] = 1
    cookies = cookies_of(await finish())

    session, finish = await a_request(sessions, cookies)
    session[visits] = 2
    slow.waits = "commit"
    committing = asyncio.create_task(sessions.commit(session))
    await slow.waiting.wait()
    session.end()
    ending = asyncio.create_task(sessions.commit(session)) if commits else None
    await given_up(slow, committing, how)
    if ending is not None:
        await ending
    headers = await finish()
    assert sum("Max-Age=0" in value for _, value in headers) == 2
    assert await sessions.get_session(Request(headers=[("Cookie", cookies)], peer=PEER)) is None


def test_rule_28_an_end_in_another_thread_is_not_lost_either(face: Face, name: Key[str]) -> None:
    """While the store is told, whose answer is lost."""
    browser = face.browser()
    with browser.visit() as session:
        session[name] = "ann"
    meanwhile: list[Callable[[], object]] = []

    class Ending(Watched):
        def _after(self, name: str) -> None:
            if name == "commit":
                meanwhile.pop()()
                raise LOST

    face.manager = face.another(store=Ending(face.store))
    turn = browser.open()
    turn.session[name] = "bob"
    meanwhile.append(turn.session.end)
    with pytest.raises(StoreUnavailable):
        face.call(face.manager.commit(turn.session))
    turn.finish()
    assert browser.jar == {}
    assert not face.call(face.manager.check_session_cookie(browser.copy().request()))


@pytest.mark.parametrize("how", ["cancelled", "answer lost"])
@in_loop
async def test_rule_28_who_waits_for_a_commit_that_is_given_up_is_told(how: str) -> None:
    """It has taken the changes of both along: nobody knows whether they are stored, and the second does not say that they are."""
    slow, facts = Slow(), ListKey("facts", str)
    sessions = AsyncSessionManager(cast("Any", slow))
    session, finish = await a_request(sessions)
    session[facts].append("one")
    slow.waits = "create"
    first = asyncio.create_task(sessions.commit(session))
    await slow.waiting.wait()
    second = asyncio.create_task(sessions.commit(session))
    await asyncio.sleep(0)
    await given_up(slow, first, how)
    with pytest.raises(StoreUnavailable, match=r"another task .* nobody knows whether it is stored") as raised:
        await second
    assert raised.value.unknown
    session[facts].append("two")  # and it goes on
    await sessions.commit(session)
    assert [list(view[facts]) async for view in sessions.all()] == [["two"]]
    await finish()


@in_loop
async def test_rule_28_the_answer_waits_for_a_commit_that_is_given_up_too() -> None:
    """Then it is 503, and not the application's "thank you"."""
    site, slow, facts = Site(), Slow(), ListKey("facts", str)
    jar = await site.jar()
    slow.store = site.store.store
    site.sessions = AsyncSessionManager(cast("Any", slow), clock=site.clock)

    async def order(scope: Scope) -> str:
        session = await open_session(scope)
        session[facts].append("order 17")
        slow.waits = "commit"
        saving = asyncio.create_task(sessions.commit(session))
        await slow.waiting.wait()
        asyncio.get_running_loop().call_later(0, lambda: asyncio.get_running_loop().call_soon(saving.cancel))
        return "thank you"

    sessions = site.sessions
    answer = await asgi(site.app(says(order)), jar)
    slow.let_go.set()
    assert (answer.status, "thank you" in answer.text) == (503, False)


def removed(cart: list[str]) -> None:
    cart.remove("y")


def replaced(cart: list[str]) -> None:
    cart[:] = ["x"]


@pytest.mark.parametrize("undo", [removed, replaced])
def test_rule_05_what_is_put_back_after_a_commit_that_failed_is_seen_to_change_again(
    face: Face, undo: Callable[[list[str]], object]
) -> None:
    """The store was down; the handler takes its change in place back, commits something else, and makes the change once more."""
    cart, visits = Key("cart", list[str]), Key("visits", int)
    browser: Browser = face.browser()
    with browser.visit() as session:
        session[cart], session[visits] = ["x"], 1
    watched = Watched(face.store)
    face.manager = face.another(store=watched)
    turn = browser.open()
    mine = turn.session[cart]
    mine.append("y")
    turn.session[visits] = 2
    watched.faults["commit"] = StoreUnavailable("it is down")
    with pytest.raises(StoreUnavailable):
        face.call(face.manager.commit(turn.session))
    watched.faults.clear()
    undo(mine)
    face.call(face.manager.commit(turn.session))
    mine = turn.session[cart]
    mine.append("y")
    face.call(face.manager.commit(turn.session))
    turn.finish()
    with browser.visit() as session:
        assert (session[cart], session[visits]) == (["x", "y"], 2)


@in_loop
async def test_rule_27_a_request_that_is_cancelled_twice_is_closed() -> None:
    """The second time while its new session is taken back: that goes on, and the session answers nobody."""
    site, slow = Site(), Slow()
    site.sessions = AsyncSessionManager(cast("Any", slow), clock=site.clock, create=True)
    kept: list[Session] = []

    async def work(scope: Scope) -> None:
        kept.append(await open_session(scope))
        slow.waits = "end"
        await asyncio.get_running_loop().create_future()

    request = asyncio.create_task(asgi(site.app(says(work))))
    while not kept:
        await asyncio.sleep(0)
    request.cancel()
    await slow.waiting.wait()
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    with pytest.raises(SessionClosed):
        kept[0].get(site.visits)
    slow.let_go.set()
    await site.sessions.aclose()
    assert [view async for view in site.sessions.all()] == []


def test_rule_28_a_store_that_is_down_does_not_hide_the_handlers_own_failure(face: Face, caplog: pytest.LogCaptureFixture) -> None:
    """A session that was made for the request alone cannot be ended: that is logged, and what the handler raised is what is told."""
    store = Watched(face.store)
    manager = face.another(store=store)
    exchange = Exchange(Guard(RequestReader(), manager.cookie_policy, create=True), face.browser().request())
    session = face.call(manager.open_exchange(exchange))
    session[Key("name", str)] = "ann"
    store.faults["end"] = StoreUnavailable("it is down")
    face.call(manager.abandon_exchange(exchange))
    assert "could not be ended" in caplog.text
    assert exchange.done
