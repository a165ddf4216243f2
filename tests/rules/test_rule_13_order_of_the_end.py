"""Rule 13, the order: marked ended; `End`, data readable; per value `cleanup_no_client`, `cleanup_delete`; data gone; clients closed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import pytest

from tests.faces import FACES, PEER, Browser, Face
from tests.rules.scene import Connection, Logged, handle_of, is_open, live, never
from typed_sessions import AddressPolicy, Client, End, Key, MemoryStore, NoSession, Rejected, SessionClosed, current_session

Make = Callable[..., Face]

ELSEWHERE = "192.0.2.1"


class Scene:
    """A session with three hooked values and two plain ones, one connection, and a log of what becomes of them."""

    def __init__(self, face: Face, connections: ExitStack) -> None:
        self.face = face
        self.log: list[str] = []
        self.seen: list[str] = []
        face.store = Logged(face.store, self.log)
        self.plain = Key("plain", str)
        self.both = Key("both", list[str], cleanup_no_client=self.no_client("both", True), cleanup_delete=self.delete("both"))
        self.refused = Key("refused", str, cleanup_no_client=self.no_client("refused", False), cleanup_delete=self.delete("refused"))
        self.here = Key("here", Client, resident=True, cleanup_delete=self.delete("here"))
        self.late = Key("late", str, cleanup_delete=self.delete("late"))

    def begin(self, connections: ExitStack, **options: Any) -> Browser:
        self.face.renew(**options)
        self.listen(self.face.manager)
        connection = connections.enter_context(Connection(self.face, log=self.log))
        browser = self.face.browser()
        turn = browser.open(client=connection.client)
        turn.session[self.plain] = "data"
        turn.session[self.both] = ["value"]
        turn.session[self.refused] = "value"
        turn.session[self.here] = Client(None, lambda: None)
        turn.session[self.late] = "value"
        turn.finish()
        self.log.clear()
        return browser

    def listen(self, manager: Any) -> None:
        manager.on(End, self.ended)

    def ended(self, event: End) -> None:
        self.log.append(f"End {event.reason}")
        assert event.session[self.plain] == "data"
        assert event.session[self.both] == ["value"]
        assert current_session()[self.late] == "value"

    def no_client(self, name: str, keep: bool) -> Callable[[Any], bool]:
        def cleanup_no_client(value: Any) -> bool:
            self.note(f"no_client {name}")
            return keep

        return cleanup_no_client

    def delete(self, name: str) -> Callable[[Any], None]:
        def cleanup_delete(value: Any) -> None:
            self.note(f"delete {name}")

        return cleanup_delete

    def note(self, what: str) -> None:
        self.log.append(what)
        assert current_session()[self.plain] == "data", "the data is there until every hook has run"


ORDER = ["no_client both", "delete both", "no_client refused", "delete late", "delete here", "clear", "close"]


@pytest.fixture(params=FACES)
def scene(request: pytest.FixtureRequest) -> Iterator[tuple[Scene, ExitStack]]:
    """On the memory store, which alone evicts; the other ways to end are run on every store below."""
    face = Face(request.param, MemoryStore(max_sessions=1))
    with ExitStack() as connections:
        yield Scene(face, connections), connections
    face.close()


def ended_by_its_request(scene: Scene, browser: Browser) -> None:
    with browser.visit() as session:
        session.end()


def ended_by_handle(scene: Scene, browser: Browser) -> None:
    assert scene.face.call(scene.face.manager.end(handle_of(browser)))


def ended_by_delete_session(scene: Scene, browser: Browser) -> None:
    scene.face.call(scene.face.manager.delete_session(browser.request()))


def timed_out_and_visited(scene: Scene, browser: Browser) -> None:
    scene.face.clock.advance(660)
    with browser.visit():
        pass


def timed_out_and_swept(scene: Scene, browser: Browser) -> None:
    scene.face.clock.advance(660)
    assert scene.face.call(scene.face.manager.sweep()) == 1


def lived_out_and_swept(scene: Scene, browser: Browser) -> None:
    scene.face.clock.advance(100)
    assert scene.face.call(scene.face.manager.sweep()) == 1


def unsound(scene: Scene, browser: Browser) -> None:
    with pytest.raises(Rejected):
        browser.open(check=never)


def from_elsewhere(scene: Scene, browser: Browser) -> None:
    with pytest.raises(Rejected):
        browser.copy(address=ELSEWHERE).open(create=False)


WAYS: list[tuple[Callable[[Scene, Browser], None], str, dict[str, Any], list[str]]] = [
    (ended_by_its_request, "ended", {}, ["open", "end"]),
    (ended_by_handle, "ended", {}, ["end"]),
    (ended_by_delete_session, "ended", {}, ["open", "end"]),
    (timed_out_and_visited, "timeout", {"granularity": 1e6, "timeout": 600}, ["open", "end"]),
    (timed_out_and_swept, "timeout", {}, ["sweep"]),
    (lived_out_and_swept, "lifetime", {"lifetime": 100}, ["sweep"]),
    (unsound, "check", {}, ["open", "end"]),
    (from_elsewhere, "address", {"address_policy": AddressPolicy(mismatch="end")}, ["open", "end"]),
]


@pytest.mark.parametrize(("way", "reason", "options", "before"), WAYS, ids=[way[0].__name__ for way in WAYS])
def test_rule_13_the_order_is_the_same_however_a_session_ends(
    make_face: Make, way: Callable[[Scene, Browser], None], reason: str, options: dict[str, Any], before: list[str]
) -> None:
    """First it is marked as ended (after which no request can open it), then the rest in order, each step once."""
    with ExitStack() as connections:
        scene = Scene(make_face(), connections)
        browser = scene.begin(connections, **options)
        way(scene, browser)
        assert [step for step in scene.log if step != "sweep" or before == ["sweep"]] == [*before, f"End {reason}", *ORDER]
        assert not is_open(browser)
        assert live(scene.face) == set()


def test_rule_13_the_order_at_an_eviction(scene: tuple[Scene, ExitStack]) -> None:
    """A session that has to make room for another ends in the same order; the creating request clears up after it."""
    stage, connections = scene
    browser = stage.begin(connections)
    other = stage.face.browser()
    with other.visit() as session:
        session[Key("plain", str)] = "other"
    assert stage.log == ["create", "sweep", "End evicted", *ORDER]
    assert not is_open(browser)
    assert is_open(other)


@pytest.mark.parametrize("node", ["the other", "its own"])
def test_rule_13_on_any_node(make_face: Make, node: str) -> None:
    """A sweep by another manager on the same store runs the hooks of stored values there, once."""
    with ExitStack() as connections:
        scene = Scene(make_face(), connections)
        scene.begin(connections)
        other = scene.face.another()
        scene.listen(other)
        scene.face.clock.advance(660)
        sweeping, idle = (other, scene.face.manager) if node == "the other" else (scene.face.manager, other)
        assert scene.face.call(sweeping.sweep()) == 1
        assert scene.face.call(idle.sweep()) == 0
        hooks = [step for step in scene.log if step not in ("sweep", "open", "clear", "close", "delete here")]
        assert hooks == ["End timeout", "no_client both", "delete both", "no_client refused", "delete late"]


@pytest.mark.parametrize("how", ["ends", "sweeps"])
def test_rule_13_values_of_this_process_when_another_ends_the_session(make_face: Make, how: str) -> None:
    """Nobody tells this process, so its sweeps look for the sessions that have such values, some each time; a miss is none by itself."""
    face = make_face()
    cleaned: list[str] = []
    door = Key("door", str, resident=True, cleanup_delete=cleaned.append)
    closed: list[str] = []
    with face.manager.connect(PEER, lambda: closed.append("gone")) as client:
        gone, stays = face.browser(), face.browser()
        for browser, name in ((gone, "gone"), (stays, "stays")):
            turn = browser.open(client=client if browser is gone else None)
            turn.session[door] = name
            turn.finish()
        other = face.another()
        if how == "ends":
            assert face.call(other.end(handle_of(gone)))
        else:
            face.clock.advance(600)
            with stays.visit():
                pass
            face.clock.advance(61)
            assert face.call(other.sweep()) == 1
        face.call(face.manager.sweep())
        assert cleaned == []
        face.call(face.manager.sweep())
        assert (cleaned, closed) == (["gone"], ["gone"])
        for _ in range(3):
            face.call(face.manager.sweep())
    assert cleaned == ["gone"]
    with stays.visit() as session:
        assert session[door] == "stays"


def test_rule_13_a_sweep_while_the_end_is_told_cleans_up_nothing_of_it(make_face: Make) -> None:
    """However often it looks for the session, which is gone from the store by then: the listeners come first, and the data with them."""
    face = make_face()
    log: list[str] = []
    user = Key("user", str)
    door = Key("door", str, resident=True, cleanup_delete=lambda value: log.append(f"{value} {current_session()[user]}"))
    browser = face.browser()
    with browser.visit() as session:
        session[user], session[door] = "ann", "closed"
    handle = handle_of(browser)

    def hear(event: End) -> None:
        for _ in range(4):
            face.call(face.manager.sweep())
        log.append("told")

    face.manager.on(End, hear)
    assert face.call(face.manager.end(handle))
    assert log == ["told", "closed ann"]


def test_rule_13_once_per_value(make_face: Make) -> None:
    """Ended again, visited, swept: nothing of it happens a second time."""
    with ExitStack() as connections:
        scene = Scene(make_face(), connections)
        browser = scene.begin(connections)
        handle, again = handle_of(browser), browser.copy()
        first, second = browser.open(), again.open()
        first.session.end()
        second.session.end()
        first.finish()
        assert "Set-Cookie" not in dict(second.send())
        assert not scene.face.call(scene.face.manager.end(handle))
        for _ in range(3):
            scene.face.clock.advance(60)
            with again.visit():
                pass
            scene.face.call(scene.face.manager.sweep())
        steps = [step for step in scene.log if step not in ("open", "sweep", "end")]
        assert steps == ["End ended", *ORDER]


def test_rule_13_hooks_of_an_async_manager_are_awaited_in_order(make_face: Make) -> None:
    """Coroutine functions, where there is a loop to run them in: the next step begins when the one before is done."""
    face = make_face()
    log: list[str] = []

    async def no_client(value: str) -> bool:
        import asyncio

        log.append("no_client begins")
        await asyncio.sleep(0)
        log.append("no_client ends")
        return True

    async def delete(value: str) -> None:
        log.append(f"delete {value} of {current_session().handle}")

    async def listener(event: End) -> None:
        import asyncio

        await asyncio.sleep(0)
        log.append("End")

    if face.kind == "sync":
        with pytest.raises(TypeError, match="AsyncSessionManager"):
            face.manager.on(End, listener)
        return
    key = Key("key", str, cleanup_no_client=no_client, cleanup_delete=delete)
    face.manager.on(End, listener)
    browser = face.browser()
    with browser.visit() as session:
        session[key] = "value"
    handle = handle_of(browser)
    with browser.visit() as session:
        session.end()
    assert log == ["End", "no_client begins", "no_client ends", f"delete value of {handle}"]


def test_rule_13_hooks_get_the_stored_value_whatever_a_listener_does(face: Face) -> None:
    """A listener of `End` that pops, changes or sets values does so for itself: every stored value gets its hook, as it was stored."""
    cleaned: list[Any] = []
    popped = Key("popped", str, cleanup_delete=cleaned.append)
    changed = Key("changed", list[str], cleanup_delete=cleaned.append)
    assigned = Key("assigned", str, cleanup_delete=cleaned.append)
    invented = Key("invented", str, cleanup_delete=cleaned.append)

    def listener(_: End) -> None:
        session = current_session()
        assert session.pop(popped) == "stored"
        session[changed].append("by the listener")
        session[assigned] = "by the listener"
        session[invented] = "by the listener"

    face.manager.on(End, listener)
    browser = face.browser()
    with browser.visit() as session:
        session[popped], session[changed], session[assigned] = "stored", ["stored"], "stored"
    with browser.visit() as session:
        session.end()
    assert cleaned == ["stored", ["stored"], "stored"]


def test_rule_13_hooks_get_the_stored_value_whatever_a_hook_does(face: Face) -> None:
    """The same for what one hook does to another's value."""
    cleaned: list[str] = []

    def first_hook(value: str) -> None:
        cleaned.append(value)
        current_session()[second] = "by a hook"

    first = Key("first", str, cleanup_delete=first_hook)
    second = Key("second", str, cleanup_delete=cleaned.append)
    browser = face.browser()
    with browser.visit() as session:
        session[first], session[second] = "one", "two"
    with browser.visit() as session:
        session.end()
    assert cleaned == ["one", "two"]


def test_rule_13_replaced_and_deleted_values_get_no_hook(face: Face) -> None:
    """Only what is in the session when it ends is cleaned up: not what stood there before."""
    cleaned: list[str] = []

    def no_client(value: str) -> bool:
        cleaned.append(f"no client {value}")
        return False

    key = Key("key", str, cleanup_no_client=no_client, cleanup_delete=cleaned.append)
    other = Key("other", str, cleanup_delete=cleaned.append)
    browser = face.browser()
    for value in ("first", "second", "third"):
        with browser.visit() as session:
            session[key] = value
            session[other] = value
    with browser.visit() as session:
        del session[other]
    assert cleaned == []
    with browser.visit() as session:
        session.end()
    assert cleaned == ["no client third"]


def test_rule_13_values_never_committed_get_no_hook(face: Face) -> None:
    """Neither what a failed request set, nor what was set in the request that ended the session, nor in one that began and ended it."""
    cleaned: list[str] = []
    key = Key("key", str, cleanup_delete=cleaned.append)
    resident = Key("resident", str, resident=True, cleanup_delete=cleaned.append)

    def fill(session: Any) -> None:
        session[key] = session[resident] = "never committed"

    browser = face.browser()
    with browser.visit() as session:  # begins and ends
        fill(session)
        session.end()
    with browser.visit() as session:
        session[Key("plain", str)] = "committed"
    turn = browser.open()  # fails
    fill(turn.session)
    turn.discard()
    late = browser.copy().open()  # comes too late
    fill(late.session)
    with browser.visit() as session:  # ends
        fill(session)
        session.end()
    late.finish()
    assert cleaned == []


def test_rule_13_after_the_last_hook_the_data_is_gone(face: Face) -> None:
    """Nothing of it is left in the store, and a hook that keeps its session has nothing in its hands later."""
    kept: list[Any] = []
    key = Key("key", str, cleanup_delete=lambda _: kept.append(current_session()))
    browser = face.browser()
    with browser.visit() as session:
        session[key] = "value"
    with browser.visit() as session:
        session.end()
    with pytest.raises(SessionClosed):
        kept[0][key]
    with pytest.raises(NoSession):
        current_session()
    if isinstance(face.store, MemoryStore):
        assert face.store.cut() == []
    face.clock.advance(3600)
    assert face.call(face.manager.sweep()) == 0


def test_rule_13_a_replaced_resident_value_is_dropped_without_a_hook(face: Face) -> None:
    """Resident values, which no store has, are cleaned up at the end like others."""
    cleaned: list[str] = []
    key = Key("key", str, resident=True, cleanup_no_client=lambda value: value != "kept not", cleanup_delete=cleaned.append)
    ends: Sequence[str] = ("one", "two", "kept not")
    for last in ends:
        browser = face.browser()
        for value in ("before", last):
            with browser.visit() as session:
                session[key] = value
        with browser.visit() as session:
            session.end()
    assert cleaned == ["one", "two"]


@pytest.mark.parametrize("how", ["ended by its request", "ended by handle", "swept in passing"])
def test_rule_13_a_cancelled_request_ends_it_all_the_same(make_face: Make, how: str) -> None:
    """A request that is cancelled while a listener of the end is awaited leaves no end half done: hooks run, clients are closed."""
    face = make_face()
    if face.loop is None:
        return
    log: list[str] = []
    waiting, go_on = asyncio.Event(), asyncio.Event()

    async def listener(event: End) -> None:
        waiting.set()
        await go_on.wait()
        log.append("End")

    face.manager.on(End, listener)
    stored = Key("stored", str, cleanup_delete=lambda value: log.append(f"delete {value}"))
    resident = Key("resident", str, resident=True, cleanup_delete=lambda value: log.append(f"delete {value}"))

    with Connection(face, log=log) as connection:
        browsers = face.browser(), face.browser()
        for browser in browsers:
            with browser.visit(client=connection.client if browser is browsers[0] else None) as session:
                session[stored], session[resident] = "stored", "resident"

        async def request() -> None:
            if how == "ended by handle":
                await face.manager.end(handle_of(browsers[0]))
                return
            session, finish = await face.manager.start_check(browsers[0].request())
            session.end()
            await finish()

        async def cancelled() -> None:
            task = asyncio.ensure_future(request())
            await waiting.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert log == []
            go_on.set()
            while len(log) < (7 if how == "swept in passing" else 4):
                await asyncio.sleep(0)

        if how == "swept in passing":
            face.clock.advance(660)
        face.loop.run_until_complete(asyncio.wait_for(cancelled(), 10))
        one = ["delete stored", "delete resident"]
        swept = (["End", "End", *one, "close", *one], ["End", "End", *one, *one, "close"])
        assert log in (swept if how == "swept in passing" else (["End", *one, "close"],))
    assert live(face) == (set() if how == "swept in passing" else {handle_of(browsers[1])})
