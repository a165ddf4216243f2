"""Rule 30: every table has a bound, and nobody who is signed in is thrown out by a flood."""

from __future__ import annotations

import asyncio
import gc
import random
import threading
from collections.abc import Callable, Sized
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import pytest

from tests.faces import PEER, Browser, Face
from tests.rules.scene import Connection, handle_of, live
from typed_sessions import (
    AddressPolicy,
    End,
    Key,
    ListKey,
    MemoryStore,
    Rejected,
    Request,
    SessionManager,
    StoreFull,
    StoreUnavailable,
    TooLarge,
)
from typed_sessions.testing import FakeClock, isolated_keys

Make = Callable[..., Face]


def begin(face: Face, name: Key[str]) -> Browser:
    """A browser with a session that only its first request has used."""
    browser = face.browser()
    with browser.visit() as session:
        session[name] = "ann"
    return browser


def use(browser: Browser, name: Key[str]) -> bool:
    """A second request; whether the session was still there."""
    found: list[bool] = []
    with browser.visit() as session:
        found.append(session.get(name) == "ann")
    return found[0]


def held(face: Face) -> int:
    """How many sessions the store holds."""
    return len(face.store) if isinstance(face.store, MemoryStore) else len(face.call(face.store.scan(None, 10_000))[0])


def ends(face: Face) -> list[tuple[str, str]]:
    heard: list[tuple[str, str]] = []

    def hear(event: End) -> None:
        heard.append((event.session.handle, event.reason))

    face.manager.on(End, hear)
    return heard


@pytest.mark.stores("memory", "sqlite")
def test_rule_30_a_full_store_with_hooks_that_wait_says_so(make_face: Make, name: Key[str]) -> None:
    """What has ended, and waits for a process that knows its hooks, makes no room, and keeps nobody looking for any."""
    face = make_face(store_options={"max_sessions": 3}, timeout=3600, granularity=300)
    browser = face.browser()
    with isolated_keys(), browser.visit() as session:
        session[Key("stock", str, cleanup_delete=print)] = "book"
    with browser.visit() as session:
        session.end()
    for _ in range(3):
        assert use(begin(face, name), name)
    face.call(face.manager.sweep())
    face.clock.advance(100)  # the lease is over
    with pytest.raises(StoreFull):
        begin(face, name)


def test_rule_30_a_session_that_is_being_created_can_still_make_room(name: Key[str]) -> None:
    """Another thread looks for room when it is counted and not in line yet: it is passed over then, and not forgotten."""
    sessions = SessionManager(store := MemoryStore(max_sessions=2, shards=1))

    class Meanwhile:
        """The shard's lock; when it is let go first, another thread wants to create a session."""

        def __init__(self, lock: Any) -> None:
            self.lock, self.first = lock, True

        def __enter__(self) -> None:
            self.lock.__enter__()

        def __exit__(self, *exc: object) -> None:
            self.lock.__exit__(*exc)
            if self.first:
                self.first = False
                with pytest.raises(StoreFull):
                    create()

    def create() -> list[tuple[str, str]]:
        session, finish = sessions.start_check(Request(headers=[], peer=PEER))
        session[name] = "ann"
        return finish()

    cookie = "; ".join(value.partition(";")[0] for header, value in create() if header == "Set-Cookie")
    sessions.start_check(Request(headers=[("Cookie", cookie)], peer=PEER))[1]()  # in use: it makes no room
    shard = store._shards[0]  # pyright: ignore[reportPrivateUsage]  # the moment between two locks is nowhere else to be had
    shard.lock = cast("Any", Meanwhile(shard.lock))
    create()
    for _ in range(5):
        create()
    assert len(store) == 2


@pytest.mark.stores("memory", "sqlite")
def test_rule_30_the_oldest_that_was_used_once_makes_room(make_face: Make, name: Key[str]) -> None:
    """Eviction in the order of creation, only of those that no second request has used; their end is told, their hooks run."""
    face = make_face(store_options={"max_sessions": 4})
    released: list[str] = []
    stock = Key("stock", str, cleanup_delete=released.append)
    heard = ends(face)
    browsers = [begin(face, name) for _ in range(3)]
    with face.browser().visit() as session:
        session[stock] = "book"
    assert use(browsers[1], name)
    handles = [handle_of(browser) for browser in browsers]
    for _ in range(3):
        begin(face, name)
    assert [handle for handle, _ in heard[:2]] == [handles[0], handles[2]]
    assert {reason for _, reason in heard} == {"evicted"}
    assert (len(heard), released, len(live(face))) == (3, ["book"], 4)
    assert [use(browser, name) for browser in browsers] == [False, True, False]


@pytest.mark.stores("memory", "sqlite")
@pytest.mark.parametrize("seed", range(3))
def test_rule_30_the_order_is_exact(make_face: Make, name: Key[str], seed: int) -> None:
    """Whatever happened before: created, used, ended and expired in any order, the next to go is the oldest used once."""
    print(f"seed {seed}")
    chance = random.Random(seed)
    face = make_face(store_options={"max_sessions": 12}, timeout=100, granularity=1)
    heard = ends(face)
    model: dict[str, tuple[Browser, bool, float]] = {}  # by handle, in the order of creation: used again, and when at last
    for _ in range(400):
        action = chance.choice(["create", "create", "create", "use", "end", "wait"])
        face.clock.advance(0.1 if action != "wait" else chance.choice([5, 40]))
        now = face.clock()
        del heard[:]
        if action == "create":
            for handle in [handle for handle, (_, _, used) in model.items() if now >= used + 101]:
                del model[handle]
            face.call(face.manager.sweep())
            del heard[:]
            victim = next((handle for handle, (_, again, _) in model.items() if not again), None)
            full = len(model) == 12
            if full and victim is None:
                with pytest.raises(StoreFull):
                    begin(face, name)
                continue
            browser = begin(face, name)
            assert heard == ([(victim, "evicted")] if full else [])
            if full and victim is not None:
                del model[victim]
            model[handle_of(browser)] = (browser, False, now)
        elif action in ("use", "end") and model:
            handle = chance.choice(list(model))
            browser, _, used = model[handle]
            if now >= used + 101:
                continue
            if action == "end":
                del model[handle]
                assert face.call(face.manager.end(handle))
            else:
                assert use(browser, name)
                model[handle] = (browser, True, now if now - used >= 1 else used)
        assert live(face) >= {handle for handle, (_, _, used) in model.items() if now < used + 101}


@pytest.mark.stores("memory")
def test_rule_30_the_order_survives_a_restart(face: Face, name: Key[str], tmp_path: Path) -> None:
    """What was saved is restored though it is more than fits; then room is made for the new by the oldest."""
    browsers: list[Browser] = []
    for _ in range(30):
        face.clock.advance(1)
        browsers.append(begin(face, name))
    face.call(face.manager.save_sessions(tmp_path / "sessions"))
    face.store = MemoryStore(max_sessions=20)
    face.manager = face.another()
    assert face.call(face.manager.load_sessions(tmp_path / "sessions")) == 30
    heard = ends(face)
    begin(face, name)
    assert [handle for handle, _ in heard] == [handle_of(browser) for browser in browsers[:11]]
    begin(face, name)
    assert heard[11:] == [(handle_of(browsers[11]), "evicted")]


@pytest.mark.stores("memory", "sqlite")
def test_rule_30_when_everybody_is_in_use_creating_fails(make_face: Make, name: Key[str]) -> None:
    """StoreFull, a StoreUnavailable that is answered with 503; whoever has a session goes on; with room again, so does creating."""
    face = make_face(store_options={"max_sessions": 3})
    browsers = [begin(face, name) for _ in range(3)]
    assert all(use(browser, name) for browser in browsers)
    turn = face.browser().open()
    turn.session[name] = "late"
    with pytest.raises(StoreFull, match=r"max_sessions=3") as caught:
        turn.finish()
    assert isinstance(caught.value, StoreUnavailable)
    assert (caught.value.status, [header for header in turn.discard() if header[0] == "Set-Cookie"]) == (503, [])
    with pytest.raises(StoreFull):
        face.browser().open(create=True)
    assert all(use(browser, name) for browser in browsers)
    with browsers[0].visit() as session:
        session.end()
    begin(face, name)
    assert len(live(face)) == 3


@pytest.mark.stores("memory", "sqlite")
def test_rule_30_what_has_expired_keeps_nobody_out(make_face: Make, name: Key[str]) -> None:
    """Rule 11: a session that is over is over, swept or not; its end is told like any other."""
    face = make_face(store_options={"max_sessions": 3}, timeout=100, granularity=10, gc="active")
    heard = ends(face)
    browsers = [begin(face, name) for _ in range(3)]
    assert all(use(browser, name) for browser in browsers)
    face.clock.advance(60)
    assert use(browsers[0], name)
    face.clock.advance(60)
    face.manager.set_options(granularity=3600)  # the sweeper does not come by itself
    assert use(begin(face, name), name)
    assert sorted(heard) == sorted((handle_of(browser), "timeout") for browser in browsers[1:])
    assert use(browsers[0], name)
    assert use(begin(face, name), name)
    with pytest.raises(StoreFull):
        begin(face, name)


@pytest.mark.stores("memory", "sqlite")
def test_rule_30_a_flood_throws_nobody_out(make_face: Make, name: Key[str]) -> None:
    """Ten thousand requests that each begin a session, against ten that are signed in: the store stays as small, the ten stay."""
    face = make_face(store_options={"max_sessions": 50})
    signed_in = [begin(face, name) for _ in range(10)]
    assert all(use(browser, name) for browser in signed_in)

    async def flood_async() -> None:
        for number in range(5_000):
            session, finish = await face.manager.start_check(Request(headers=(), peer=f"10.2.{number % 250}.1"))
            session[name] = "flood"
            await finish()
            assert held(face) <= 50

    def flood() -> None:
        for number in range(5_000):
            session, finish = face.manager.start_check(Request(headers=(), peer=f"10.2.{number % 250}.1"))
            session[name] = "flood"
            finish()
            assert held(face) <= 50

    face.call(flood_async()) if face.kind == "async" else flood()
    assert len(live(face)) == 50
    assert all(use(browser, name) for browser in signed_in)


@pytest.mark.stores("memory", "sqlite")
def test_rule_30_threads_that_create_at_once_stay_within_the_bound(make_face: Make, name: Key[str]) -> None:
    """The count is exact without relying on the GIL."""
    face = make_face(store_options={"max_sessions": 20})
    worst: list[int] = []

    def create() -> None:
        manager = face.manager
        for _ in range(150):
            request = Request(headers=(), peer=PEER)
            if face.kind == "sync":
                session, finish = manager.start_check(request)
                session[name] = "flood"
                finish()
            else:
                asyncio.run(_create(manager, request, name))
            worst.append(held(face))

    threads = [threading.Thread(target=create) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(worst) == 600
    assert max(worst) <= 20
    assert len(live(face)) == held(face) == 20


async def _create(manager: Any, request: Request, name: Key[str]) -> None:
    session, finish = await manager.start_check(request)
    session[name] = "flood"
    await finish()


@pytest.mark.parametrize("how", ["create", "commit"])
def test_rule_30_keys_and_bytes_per_session(make_face: Make, how: str) -> None:
    """TooLarge says which option, and what the request writes; nothing of the commit is applied, and one byte less fits."""
    face = make_face(store_options={"max_keys": 3, "max_bytes": 1_000})
    keys = [Key(f"key{number}", str) for number in range(4)]
    facts = ListKey("facts", str)
    browser = face.browser()
    if how == "commit":
        with browser.visit() as session:
            session[keys[0]] = "first"
    before = live(face)
    turn = browser.open()
    for key in keys:
        turn.session[key] = "x"
    with pytest.raises(TooLarge, match=r"4 keys; \w+Store\(max_keys=3\).* writes, in bytes: 'key0' 2, 'key1' 2, 'key2' 2 and 1 more$"):
        turn.finish()
    turn = browser.open()
    turn.session[facts].append("x" * 600)
    turn.session[facts].append("x" * 400)
    turn.session.update(keys[1], lambda text: text + "x", default="x")
    with pytest.raises(TooLarge, match=r"max_bytes=1000") as caught:
        turn.finish()
    assert (caught.value.status, caught.value.written) == (500, {"facts": 1_006, "key1": 3})
    assert str(caught.value).endswith("allows no more. The request writes, in bytes: 'facts' 1006, 'key1' 3")
    assert live(face) == before
    turn = browser.open()
    for key in keys[:3]:
        turn.session[key] = "x" * 200
    turn.finish()
    with browser.visit() as session:
        assert [session[key] for key in keys[:3]] == ["x" * 200] * 3


def test_rule_30_clients_of_one_session(make_face: Make, name: Key[str]) -> None:
    """`max_clients`: one connection more is answered 429 with Retry-After; the others go on, and when one leaves there is room."""
    face = make_face(max_clients=3)
    browser = begin(face, name)
    face.clock.advance(331)
    face.call(face.manager.sweep())  # the address of that request no longer counts
    with ExitStack() as stack:
        connections = [stack.enter_context(Connection(face)) for _ in range(4)]
        for connection in connections[:3]:
            browser.open(client=connection.client).finish()
        with pytest.raises(Rejected, match="3 clients") as caught:
            browser.open(client=connections[3].client)
        assert (caught.value.reason, caught.value.status, dict(caught.value.headers)["Retry-After"]) == ("clients", 429, "10")
        browser.open(client=connections[0].client).finish()
        other = begin(face, name)
        other.open(client=connections[3].client).finish()  # the connection is not refused for another session
        connections[0].leave()
        turn = browser.open(client=connections[3].client)
        assert len(turn.session.clients) == 3
        turn.finish()


def test_rule_30_addresses_that_linger_are_bounded_too(make_face: Make, name: Key[str]) -> None:
    """Where the server does not tell of connections: a session used from everywhere has no more clients than it may, and is served."""
    face = make_face(max_clients=3, address_policy=AddressPolicy(match="off"))
    browser = begin(face, name)
    for number in range(10):
        browser.address = f"10.7.0.{number}"
        turn = browser.open()
        assert turn.session[name] == "ann"
        assert len(turn.session.clients) <= 3
        turn.finish()


@pytest.mark.slow
def test_rule_30_requests_that_open_nothing_leave_nothing(face: Face, name: Key[str]) -> None:
    """D1: 100,000 bare requests, unknown ids and malformed ones, each from another address and some on connections: nothing grows."""
    manager = face.manager
    times = 50_000 if isinstance(face.store, MemoryStore) else 1_000  # what could grow is the manager, which is the same
    begin(face, name)
    sizes: list[tuple[int, int, int]] = []
    parts: list[object] = [manager.core.clients, manager.core.residents]
    tables = [table for part in parts for table in vars(part).values() if isinstance(table, Sized)]
    assert len(tables) >= 3

    def request(number: int, client: Any) -> Request:
        kind = number % 4
        cookie = "" if kind == 0 else f"SESSION_KEY={number:064d}; SESSION_ADDR={number:043d}" if kind < 3 else f"SESSION_KEY=no{number}"
        headers = [("Cookie", cookie)] if cookie else []
        return Request(headers=headers, peer=f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}", client=client)

    def measure() -> None:
        gc.collect()
        sizes.append((held(face), sum(map(len, tables)), len(gc.get_objects())))

    async def many_async(client: Any) -> None:
        for number in range(times):
            session, finish = await manager.start_check(request(number, client if number % 10 == 0 else None))
            assert session.get(name) is None
            await finish()

    def many(client: Any) -> None:
        for number in range(times):
            session, finish = manager.start_check(request(number, client if number % 10 == 0 else None))
            assert session.get(name) is None
            finish()

    measure()
    with Connection(face) as connection:
        for _ in range(2):
            if face.kind == "async":
                face.call(many_async(connection.client))
            else:
                many(connection.client)
            measure()
        assert connection.client.carried == set()
    assert [size[:2] for size in sizes] == [sizes[0][:2]] * 3
    assert sizes[2][2] - sizes[1][2] < 100


@pytest.mark.stores("memory", "sqlite")
def test_rule_30_what_makes_room_says_why_it_ended(make_face: Make, name: Key[str]) -> None:
    """The absolute lifetime, where it was that."""
    face = make_face(store_options={"max_sessions": 1}, timeout=600, lifetime=100, granularity=10, gc="active")
    heard = ends(face)
    browser = begin(face, name)
    assert use(browser, name)
    face.clock.advance(100)
    face.manager.set_options(granularity=3600)
    assert use(begin(face, name), name)
    assert heard == [(handle_of(browser), "lifetime")]


@pytest.mark.stores("memory", "sqlite")
def test_rule_30_an_id_that_is_taken_takes_no_room(make_face: Make, name: Key[str]) -> None:
    """Whoever draws one has to draw again, and nothing is counted twice for it."""
    face = make_face(store_options={"max_sessions": 2})
    browser = begin(face, name)
    assert use(browser, name)
    record = face.call(face.store.scan(None, 10))[0][0]
    for _ in range(5):
        assert face.call(face.store.create(record.copy(), face.clock())) == "taken"
    second = begin(face, name)
    assert use(second, name)
    assert use(browser, name)
    assert held(face) == 2


def test_rule_30_max_clients_bounds_addresses_that_linger(make_face: Make) -> None:
    """Also where it is 1: the last one counts."""
    face = make_face(max_clients=1, address_policy=AddressPolicy(match="off"))
    stock = Key("stock", str, cleanup_no_client=lambda _: True)
    browser = face.browser()
    with browser.visit() as session:
        session[stock] = "book"
    for n in range(5):
        with browser.copy(f"192.0.2.{n + 1}").visit() as session:
            assert session[stock] == "book"
    [view] = face.call(face.manager.all())
    assert [client.address for client in view.clients] == ["192.0.2.5"]


@pytest.mark.stores("memory")
@pytest.mark.parametrize("how", ["signed out", "thrown out by a flood"])
def test_rule_30_sessions_that_are_gone_leave_nothing_until_their_time(make_face: Make, name: Key[str], how: str) -> None:
    """D1: where sessions live for a month, what comes and goes meanwhile does not wait for its end."""
    face = make_face(timeout=30 * 86_400, store_options={"max_sessions": 50})
    wheel: Any = getattr(face.store, "_wheel")  # noqa: B009  # what grows there is seen nowhere else
    for _ in range(3_000):
        with face.browser().visit() as session:
            session[name] = "ann"
            if how == "signed out":
                face.call(face.manager.commit(session))
                session.end()
    assert len(wheel) <= 1_200
    face.clock.advance(31 * 86_400)
    face.call(face.manager.sweep())
    assert (held(face), len(wheel)) == (0, 0)


def test_rule_30_threads_that_come_and_go_are_not_forgotten(name: Key[str]) -> None:
    """While what is gone is cleared away, whoever is just beginning is still found when his time is over."""
    sessions = SessionManager(store := MemoryStore(), timeout=86_400, clock=(clock := FakeClock()))

    def come_and_go() -> None:
        for number in range(1_000):
            session, finish = sessions.start_check(Request(headers=(), peer=PEER))
            session[name] = "ann"
            if number % 20:
                sessions.commit(session)
                session.end()
            finish()

    threads = [threading.Thread(target=come_and_go) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store) == 200
    clock.advance(2 * 86_400)
    assert sessions.sweep() == 200
    assert len(store) == 0
