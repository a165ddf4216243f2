"""Rule 7 among the tasks of one request: what each writes is stored once, whoever commits it, and nothing is lost between two commits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import pytest

from tests.faces import PEER
from tests.filters.asgi_site import App
from tests.filters.servers import Jar, asgi, in_loop
from tests.watched import VERBS, Watched
from typed_sessions import (
    AsyncSessionManager,
    Begin,
    Event,
    Key,
    ListKey,
    LostUpdate,
    MemoryStore,
    Request,
    Session,
    SessionError,
    SessionView,
    SQLiteStore,
    StoreUnavailable,
    ValueRefused,
    current_session,
)
from typed_sessions.changes import Changes, ListChange
from typed_sessions.filters.asgi import Receive, Scope, Send, SessionMiddleware, open_session


class Held(Watched):
    """An asynchronous store: each verb does its work at once, and its answer is held back until `let_go` is set."""

    def __init__(self) -> None:
        super().__init__(MemoryStore())
        self.let_go = asyncio.Event()
        self.let_go.set()
        self.meanwhile: dict[str, Callable[[], object]] = {}
        """What happens when the next verb of this name has done its work."""
        self.once: dict[str, BaseException] = {}
        """What the next verb of this name raises, without having done anything."""

    def __getattr__(self, name: str) -> Any:
        verb = super().__getattr__(name)
        if name not in (*VERBS, "close"):
            return verb

        async def held(*args: Any) -> Any:
            if name in self.once:
                raise self.once.pop(name)
            result = verb(*args)
            if name in self.meanwhile:
                self.meanwhile.pop(name)()
            await self.let_go.wait()
            for _ in range(5 if name == "open" else 1):  # the last to come
                await asyncio.sleep(0)
            return result

        return held


@pytest.fixture
def visits() -> Key[int]:
    return Key("visits", int)


@pytest.fixture
def facts() -> ListKey[int]:
    return ListKey("facts", int)


@pytest.fixture
def held() -> Held:
    return Held()


@pytest.fixture
def sessions(held: Held) -> AsyncSessionManager:
    return AsyncSessionManager(cast("Any", held))


@pytest.fixture(params=["asynchronous", "in threads"])
def either(request: pytest.FixtureRequest, sessions: AsyncSessionManager, tmp_path: Path) -> AsyncSessionManager:
    """A manager of a store that is awaited, or that blocks."""
    return sessions if request.param == "asynchronous" else AsyncSessionManager(SQLiteStore(tmp_path / "sessions.db"))


async def opened(sessions: AsyncSessionManager) -> tuple[Session, Callable[[], Awaitable[Any]]]:
    return await sessions.start_check(Request(headers=[], peer=PEER))


async def stored(sessions: AsyncSessionManager) -> list[SessionView]:
    return [view async for view in sessions.all()]


async def others_run() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def heard(sessions: AsyncSessionManager, event: type[Event]) -> list[Event]:
    events: list[Event] = []
    sessions.on(event, events.append)
    return events


# ------------------------------------------------------------------ two commits


@in_loop
async def test_rule_07_two_tasks_commit_what_is_there_once(either: AsyncSessionManager, visits: Key[int], facts: ListKey[int]) -> None:
    """One session begins, with one `Begin`, and an element is appended once, though both were asked to."""
    begun = heard(either, Begin)
    session, finish = await opened(either)
    session[visits] = 1
    session[facts].append(1)
    await asyncio.gather(either.commit(session), either.commit(session))
    assert (len(await stored(either)), len(begun)) == (1, 1)
    session[facts].append(2)
    session.update(visits, lambda n: n + 1)
    await asyncio.gather(*(either.commit(session) for _ in range(5)))
    await finish()
    [view] = await stored(either)
    assert (view[visits], list(view[facts])) == (2, [1, 2])
    await either.aclose()


@in_loop
async def test_rule_07_what_is_written_between_two_commits_is_stored(sessions: AsyncSessionManager, visits: Key[int]) -> None:
    """A second commit that was asked for before it was written does not take it for stored."""
    session, finish = await opened(sessions)
    session[visits] = 1
    await sessions.commit(session)
    session[visits] = 2

    async def commit_and_write() -> None:
        await sessions.commit(session)
        session[visits] = 3

    await asyncio.gather(commit_and_write(), sessions.commit(session))
    assert session[visits] == 3
    await finish()
    assert [view[visits] for view in await stored(sessions)] == [3]


@in_loop
async def test_rule_07_what_another_task_has_not_found_is_not_there(held: Held, sessions: AsyncSessionManager, visits: Key[int]) -> None:
    """Asked for while the session is being created: then and after."""
    name = Key("name", str)
    session, finish = await opened(sessions)
    session[visits] = 1
    found: list[str | None] = []
    held.meanwhile["create"] = lambda: found.append(session.pop(name, None))
    await sessions.commit(session)
    assert (found, name in session, session.get(name, "nobody")) == ([None], False, "nobody")
    await finish()


@in_loop
async def test_rule_07_a_refresh_waits_for_a_commit(held: Held, sessions: AsyncSessionManager, visits: Key[int]) -> None:
    """And a commit for a refresh: what it brings is no older than what this request has stored."""
    session, finish = await opened(sessions)
    session[visits] = 1
    await sessions.commit(session)
    for number, works in enumerate([(sessions.refresh, sessions.commit), (sessions.commit, sessions.refresh)], 2):
        session[visits] = number
        held.let_go.clear()
        both = asyncio.gather(*(work(session) for work in works))
        await others_run()
        held.let_go.set()
        await both
        assert session[visits] == number
    await finish()
    assert [view[visits] for view in await stored(sessions)] == [3]


@in_loop
async def test_rule_07_a_commit_that_failed_is_the_next_ones_to_do(held: Held, sessions: AsyncSessionManager, visits: Key[int]) -> None:
    """The store has said no, and nothing of it was done: the task that waits tries again."""
    session, finish = await opened(sessions)
    session[visits] = 1
    held.once["create"] = StoreUnavailable("it is down")
    first, second = await asyncio.gather(sessions.commit(session), sessions.commit(session), return_exceptions=True)
    assert (type(first), second) == (StoreUnavailable, None)
    await finish()
    assert [view[visits] for view in await stored(sessions)] == [1]


@in_loop
async def test_rule_07_a_listener_may_commit_in_the_middle_of_a_commit(sessions: AsyncSessionManager, visits: Key[int]) -> None:
    """It is what is going on that it would wait for; also in a task of its own, and with a request of its own in between."""

    async def hear(_: Begin) -> None:
        mine = current_session()
        if mine.get(visits) != 1:
            return
        mine[visits] = 10
        await sessions.commit(mine)
        other, finish = await opened(sessions)
        other[visits] = 20
        await sessions.commit(other)
        mine[visits] = 30
        await asyncio.create_task(sessions.commit(mine))
        await finish()

    sessions.on(Begin, hear)
    session, finish = await opened(sessions)
    session[visits] = 1
    await asyncio.wait_for(sessions.commit(session), 10)
    await finish()
    assert sorted(view[visits] for view in await stored(sessions)) == [20, 30]


@in_loop
async def test_rule_07_another_task_cannot_write_during_a_commit(held: Held, sessions: AsyncSessionManager, visits: Key[int]) -> None:
    """It would be lost silently; it is told instead, and writes when the commit is over. An end is kept, and done by the next commit."""
    session, finish = await opened(sessions)
    session[visits] = 1
    held.let_go.clear()
    committing = asyncio.create_task(sessions.commit(session))
    await others_run()
    writes: list[Callable[[], object]] = [
        lambda: session.update(visits, lambda n: n + 1),
        lambda: session.__setitem__(visits, 5),
        lambda: session.renew(),
    ]
    for write in writes:
        with pytest.raises(SessionError, match=r"while another task of the request commits .* or take a lock"):
            write()
    assert session[visits] == 1
    held.let_go.set()
    await committing
    session[visits] = 2
    held.meanwhile["commit"] = session.end
    await sessions.commit(session)
    assert [view[visits] for view in await stored(sessions)] == [2]
    await finish()
    assert await stored(sessions) == []


@pytest.mark.parametrize("lasting", [False, True], ids=["memory", "sqlite"])
@in_loop
async def test_rule_07_tasks_that_take_a_lock_may_all_write_and_commit(visits: Key[int], tmp_path: Path, lasting: bool) -> None:
    """What the error above says to do: with a store that waits, and with one that does not, nothing is refused and all is stored."""
    lock = asyncio.Lock()
    async with AsyncSessionManager(SQLiteStore(tmp_path / "sessions.db") if lasting else None) as sessions:
        session, finish = await opened(sessions)

        async def count() -> None:
            async with lock:
                session.update(visits, lambda n: n + 1, default=0)
                await sessions.commit(session)

        await asyncio.gather(*(count() for _ in range(5)))
        assert [view[visits] for view in await stored(sessions)] == [5]
        await finish()


# ------------------------------------------------------------------ in the ASGI filter


def app(sessions: AsyncSessionManager, work: Callable[[Session], Awaitable[None]]) -> SessionMiddleware:
    """An application whose `work` is done in a task of its own while the answer leaves."""

    async def answer(scope: Scope, _: Receive, send: Send) -> None:
        session = await open_session(scope)
        task = asyncio.ensure_future(work(session))
        await asyncio.sleep(0)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await task
        await send({"type": "http.response.body", "body": b""})

    handler: App = answer
    return SessionMiddleware(handler, sessions)


@in_loop
async def test_rule_07_a_task_commits_while_the_headers_leave(sessions: AsyncSessionManager, facts: ListKey[int]) -> None:
    """One session, whose cookies leave."""
    jar = Jar()

    async def work(session: Session) -> None:
        session[facts].append(1)
        await sessions.commit(session)

    await asgi(app(sessions, work), jar)
    assert [list(view[facts]) for view in await stored(sessions)] == [[1]]
    await asgi(app(sessions, work), jar)
    assert [list(view[facts]) for view in await stored(sessions)] == [[1, 1]]


@in_loop
async def test_rule_23_an_end_asked_for_while_the_headers_leave(held: Held, sessions: AsyncSessionManager, visits: Key[int]) -> None:
    """Their commit is under way: its answer still expires the cookies."""
    jar = Jar()

    async def write(session: Session) -> None:
        session[visits] = session.get(visits, 0) + 1

    await asgi(app(sessions, write), jar)
    assert len(jar.cookies) == 2

    async def write_and_end(session: Session) -> None:
        await write(session)
        held.meanwhile["commit"] = session.end

    await asgi(app(sessions, write_and_end), jar)
    assert jar.cookies == {}
    assert await stored(sessions) == []


@in_loop
async def test_rule_01_what_is_refused_while_the_headers_leave_is_told(held: Held, sessions: AsyncSessionManager) -> None:
    """With the end of the body: a task has looked at a list that is none while they were committed."""
    name, facts = Key("name", str), ListKey("facts", int)
    refused = heard(sessions, ValueRefused)
    jar = Jar()

    async def write(session: Session) -> None:
        session[name] = "ann"

    await asgi(app(sessions, write), jar)
    [view] = await stored(sessions)
    element = ListChange(appended=[(1, 0, b"\xc1")])
    held.store.commit(bytes.fromhex(view.handle), Changes(lists={"facts": element}), sessions.core.idle, sessions.core.clock())

    async def write_and_look(session: Session) -> None:
        await write(session)
        held.meanwhile["commit"] = lambda: len(session[facts])

    await asgi(app(sessions, write_and_look), jar)
    assert len(refused) == 1


@in_loop
async def test_rule_05_a_value_that_a_refresh_has_replaced_is_watched(sessions: AsyncSessionManager, visits: Key[int]) -> None:
    """After a commit of something else too: what the handler does to it while the body streams is lost, and that is told."""
    names = Key("names", list[str])
    lost = heard(sessions, LostUpdate)
    jar = Jar()

    async def begin(session: Session) -> None:
        session[names] = ["ann"]

    await asgi(app(sessions, begin), jar)

    async def hold_on(scope: Scope, _: Receive, send: Send) -> None:
        session = await open_session(scope)
        held = session[names]
        async with sessions.edit(session.handle) as other:
            other[names] = ["bob"]
        await sessions.refresh(session)
        session[visits] = 1
        await send({"type": "http.response.start", "status": 200, "headers": []})
        held.append("cid")
        await send({"type": "http.response.body", "body": b""})

    await asgi(SessionMiddleware(hold_on, sessions), jar)
    assert [event.name for event in lost if isinstance(event, LostUpdate)] == ["names"]
    assert [(view[names], view[visits]) for view in await stored(sessions)] == [(["bob"], 1)]


@in_loop
async def test_rule_26_a_handler_fails_while_its_task_creates(held: Held, sessions: AsyncSessionManager, visits: Key[int]) -> None:
    """Nobody will learn of its id, so it ends; not before it is there."""
    committing: list[asyncio.Task[None]] = []

    async def fail(scope: Scope, _: Receive, __: Send) -> None:
        session = await open_session(scope)
        session[visits] = 1
        held.let_go.clear()
        committing.append(asyncio.create_task(sessions.commit(session)))
        await others_run()
        asyncio.get_running_loop().call_soon(held.let_go.set)
        raise OSError("no")

    with pytest.raises(OSError, match="no"):
        await asgi(SessionMiddleware(fail, sessions))
    await committing[0]
    assert await stored(sessions) == []


class Interrupted(Watched):
    """An asynchronous store; `meanwhile` is what happens when the next verb of a name has done its work."""

    def __init__(self) -> None:
        super().__init__(MemoryStore())
        self.meanwhile: dict[str, Callable[[], object]] = {}

    def __getattr__(self, name: str) -> Any:
        verb = super().__getattr__(name)
        if name not in (*VERBS, "close"):
            return verb

        async def held(*args: Any) -> Any:
            result = verb(*args)
            self.meanwhile.pop(name, lambda: None)()
            await asyncio.sleep(0)
            return result

        return held


@pytest.mark.parametrize("by", ["finish", "commit"])
@in_loop
async def test_rule_23_an_end_asked_for_while_the_session_begins(by: str) -> None:
    """By another task, while the store creates it: it is not forgotten over that, and nothing stays behind."""
    held, visits = Interrupted(), Key("visits", int)
    sessions = AsyncSessionManager(cast("Any", held))
    session, finish = await sessions.start_check(Request(headers=[], peer=PEER))
    session[visits] = 1
    held.meanwhile["create"] = session.end
    if by == "commit":
        await sessions.commit(session)
    headers = await finish()
    assert [view async for view in sessions.all()] == []
    assert all("Max-Age=0" in value for name, value in headers if name == "Set-Cookie")
