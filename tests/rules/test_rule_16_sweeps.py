"""Rule 16: a sweep costs what expired, not what lives, and is done in small steps: no request, and no lock, waits for a long one."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.faces import Browser, Face
from tests.planting import record_of
from tests.rules.scene import handle_of, is_open, listen, live
from tests.watched import Watched
from typed_sessions import AsyncSessionManager, End, Key, MemoryStore
from typed_sessions.core import FIRST_SHARE, SWEEP_STEP, next_share
from typed_sessions.record import Ending, Record
from typed_sessions.testing import alogin, isolated_keys

Make = Callable[..., Face]

LEASE, GRACE = 60.0, 604_800.0


def many(face: Face, count: int) -> list[Browser]:
    """So many sessions, none of which anybody is connected to for long."""
    user = Key("user", int)
    browsers: list[Browser] = []
    for number in range(count):
        browser = face.browser()
        with browser.visit() as session:
            session[user] = number
        browsers.append(browser)
    return browsers


class Looks:
    """How many records a memory store looks at in its sweeps."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        look: Any = getattr(MemoryStore, "_look")  # noqa: B009  # counted where it happens: a store tells nobody

        def counted(*args: Any) -> Any:
            self.count += 1
            return look(*args)

        monkeypatch.setattr(MemoryStore, "_look", counted)

    def taken(self) -> int:
        """How many since the last time."""
        count, self.count = self.count, 0
        return count


def test_rule_16_a_step_looks_at_no_more_than_its_limit(face: Face) -> None:
    """A store's sweep gives out so many at most, and says whether there is more; in the end, all of them once."""
    browsers = many(face, 100)
    face.clock.advance(660)
    found: list[bytes] = []
    more = True
    while more:
        records, more = face.call(face.store.sweep(face.clock(), 7, LEASE, GRACE))
        assert len(records) <= 7
        assert len(records) == 7 or not more
        found += [record.locator for record in records]
    assert sorted(found) == sorted(bytes.fromhex(handle_of(browser)) for browser in browsers)


def test_rule_16_the_limit_is_for_looking_not_only_for_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ended sessions of a snapshot that another still has the lease of are looked at in steps like others."""
    looks = Looks(monkeypatch)
    store = MemoryStore()
    record = {"digest": b"d" * 32, "tag_digest": b"t" * 16, "address": None, "granularity": 60.0, "deadline": None, "flags": 2}
    ending = Ending("ended", 1000.0, 1060.0)
    store.restore(
        [Record(bytes([n]) * 16, created=0, used=1000.0, timeout=600.0, ending=ending, **record) for n in range(100)],  # type: ignore[arg-type]
        1010.0,
    )
    for _ in range(10):
        swept, more = store.sweep(1010.0, 10, LEASE, GRACE)
        assert (list(swept), more) == ([], True)
        assert looks.taken() == 10
    assert store.sweep(1010.0, 10, LEASE, GRACE) == ([], False)


def test_rule_16_what_lives_is_not_looked_at(make_face: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Among 500 sessions that live, a sweep finds the 5 that are over without going through the others."""
    face = make_face(timeout=86_400)
    looks = Looks(monkeypatch)
    many(face, 500)
    for browser in many(face, 5):
        with browser.visit() as session:
            session.timeout = 100
    looks.taken()
    for _ in range(5):
        face.clock.advance(20)
        assert face.call(face.manager.sweep()) == 0
        assert looks.taken() <= 5
    face.clock.advance(20)
    assert face.call(face.manager.sweep()) == 5
    assert looks.taken() <= 10
    assert len(live(face)) == 500


def test_rule_16_a_session_in_use_costs_one_look_per_timeout(face: Face, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not one per request, and not one per sweep: entries move only when they come due."""
    looks = Looks(monkeypatch)
    (browser,) = many(face, 1)
    for _ in range(200):
        face.clock.advance(30)
        with browser.visit():
            pass
        face.call(face.manager.sweep())
    assert looks.taken() <= 6000 / 600


def test_rule_16_setting_the_timeout_at_every_request_costs_no_more(face: Face, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that says `session.timeout = ...` in each request leaves nothing behind for each of them."""
    looks = Looks(monkeypatch)
    (browser,) = many(face, 1)
    for number in range(200):
        face.clock.advance(1)
        with browser.visit() as session:
            session.timeout = 600 if number % 2 else 300
    face.clock.advance(300)
    looks.taken()
    face.call(face.manager.sweep())
    assert looks.taken() <= 10
    face.clock.advance(360)
    assert face.call(face.manager.sweep()) == 1
    assert looks.taken() <= 10


def test_rule_16_a_sweep_a_moment_too_early_is_followed_by_one_in_time(face: Face) -> None:
    """Clocks do not tick in whole seconds: a session that a sweep has met in its last one is not lost for the next sweep."""
    face.clock.advance(0.5)
    (browser,) = many(face, 1)
    face.clock.advance(659.7)
    assert face.call(face.manager.sweep()) == 0
    assert live(face) == {handle_of(browser)}
    face.clock.advance(0.4)
    assert face.call(face.manager.sweep()) == 1


@pytest.mark.parametrize("before", [None, 86_400])
@pytest.mark.parametrize("written_by", ["a visit", "a commit", "another address"])
def test_rule_16_a_shorter_timeout_is_found_in_its_time(make_face: Make, before: float | None, written_by: str) -> None:
    """`set_options(timeout=...)` reaches a session with its next use; from then on a sweep ends it when that is over, not a day later."""
    face = make_face(timeout=before)
    (browser,) = many(face, 1)
    face.manager.set_options(timeout=600)
    turn = browser.open()
    face.clock.advance(100)
    if written_by == "a commit":
        turn.session[Key("user", int)] = 5
    turn.finish()
    if written_by == "a visit":
        with browser.visit():
            pass
    if written_by == "another address":
        with browser.copy(address="10.1.2.77").visit():
            pass
    face.clock.advance(660)
    assert face.call(face.manager.sweep()) == 1
    assert live(face) == set()


def test_rule_16_a_request_does_one_step_in_passing(face: Face) -> None:
    """`gc="passive"`: each request clears up a step at most, and the next ones go on until all are told; a visit is served between."""
    ends: list[int] = []
    listen(face, End, lambda event: ends.append(event.session[Key("user", int)]))
    many(face, SWEEP_STEP + 20)
    face.clock.advance(640)
    (visitor,) = many(face, 1)
    assert ends == []
    face.clock.advance(60)
    turn = visitor.open()
    assert turn.session.exists
    assert len(ends) == SWEEP_STEP
    turn.finish()
    with visitor.visit():
        pass
    assert sorted(ends) == list(range(SWEEP_STEP + 20))


@pytest.mark.parametrize(("slow", "shares"), [(0.0, [4, 8, 16, 32]), (0.1, [4, 2, 1, 1]), (1.0, [4, 2, 1, 1])])
def test_rule_16_a_request_waits_for_few_hooks(face: Face, slow: float, shares: list[int]) -> None:
    """It is not known how long they take, so the first request does a few; the next ones do more while that is quick, fewer if not.

    All of them are run in the end, by one request after the other. And after a quiet time it begins with a few again, also behind many
    sessions that have none.
    """
    ran: list[int] = []

    def hook(value: int) -> None:
        ran.append(value)
        face.clock.advance(slow)

    held = Key("held", int, cleanup_delete=hook)
    user = Key("user", int)

    def expire(count: int) -> None:
        for number in range(count):
            with face.browser().visit() as session:
                session[held] = number
        face.clock.advance(1000)

    def visit() -> int:
        before = len(ran)
        with visitor.visit() as session:
            session.get(user)
        return len(ran) - before

    visitor = face.browser()
    expire(65)
    assert [visit() for _ in shares] == shares
    while len(ran) < 65:
        assert visit() > 0
    assert sorted(ran) == list(range(65))
    many(face, 100)
    face.clock.advance(100)
    expire(40)
    assert next(filter(None, (visit() for _ in range(200)))) <= FIRST_SHARE


def test_rule_16_who_leaves_without_a_hook_tells_nothing_of_hooks(make_face: Make) -> None:
    """Visitors of sessions that have none for that, and are seen no more, are no sign that hooks are quick: requests go on with few."""
    face = make_face(linger=100, timeout=None)
    kept = Key("kept", str, cleanup_delete=lambda value: None)
    for _ in range(60):
        with face.browser().visit() as session:
            session[kept] = "value"
    face.clock.advance(200)
    for _ in range(5):
        face.clock.advance(61)
        many(face, 1)
        assert face.manager.core.share <= FIRST_SHARE


def test_rule_16_hooks_at_the_leaving_are_shared_out_too(make_face: Make) -> None:
    """The same for `cleanup_no_client` of those who are seen no more."""
    face = make_face(linger=100, timeout=None)
    ran: list[str] = []

    def hook(value: str) -> bool:
        ran.append(value)
        face.clock.advance(0.1)
        return True

    held = Key("held", str, cleanup_no_client=hook)
    for _ in range(10):
        with face.browser().visit() as session:
            session[held] = "value"
    face.clock.advance(200)
    told: list[int] = []
    while len(ran) < 10:
        before = len(ran)
        many(face, 1)
        told.append(len(ran) - before)
    assert told == [4, 2, 1, 1, 1, 1]


def test_rule_16_without_hooks_a_share_is_a_step(face: Face) -> None:
    """Ending a session without them is quick, so requests need not be careful."""
    many(face, SWEEP_STEP)
    face.clock.advance(1000)
    with face.browser().visit():
        pass
    assert live(face) == set()
    assert face.call(face.store.scan(None, 100))[0] == []


@pytest.mark.parametrize(
    ("share", "took", "more", "hooked", "then"),
    [
        (4, 0.0, True, 4, 8),
        (SWEEP_STEP, 0.0, True, SWEEP_STEP, SWEEP_STEP),
        (20, 0.0, True, 20, SWEEP_STEP),
        (8, 0.05, True, 8, 4),
        (8, 9.0, False, 0, 4),
        (1, 9.0, True, 1, 1),
        (1, 0.0, True, 1, 2),
        (1, 0.0, True, 0, 2),
        (4, 0.0, True, 3, FIRST_SHARE),
        (1, 0.0, False, 1, 1),
        (SWEEP_STEP, 0.0, False, SWEEP_STEP, FIRST_SHARE),
        (8, -3600.0, True, 8, 16),  # a clock that is put back
    ],
)
def test_rule_16_how_much_the_next_request_does(share: int, took: float, more: bool, hooked: int, then: int) -> None:
    """Twice as much after a quick one that met hooks all over and has left more, half after a slow one, and few otherwise."""
    assert next_share(share, took, more, hooked) == then


def test_rule_16_the_visited_session_is_among_them(face: Face) -> None:
    """Whether a sweep in passing or the visit itself ends it, the request sees that it is over, and it ends once."""
    ends: list[str] = []
    listen(face, End, lambda event: ends.append(event.reason))
    (browser,) = many(face, 1)
    handle = handle_of(browser)
    face.clock.advance(660)
    with browser.visit() as session:
        assert not session.exists
    assert ends == ["timeout"]
    assert record_of(face, handle) is None
    assert browser.jar == {}


def test_rule_16_it_costs_no_trip_but_once_per_granularity(make_face: Make) -> None:
    """Requests ask for what is over once per granularity, however many they are."""
    face = make_face()
    store = face.store = Watched(face.store)
    face.renew(granularity=60)
    (browser,) = many(face, 1)
    for _ in range(180):
        face.clock.advance(1)
        with browser.visit():
            pass
    assert store.calls["sweep"] == 3


@pytest.mark.parametrize("how", ["begun", "swept", "an option set"])
def test_rule_16_a_clock_that_was_ahead_stops_no_sweep(face: Face, how: str) -> None:
    """L10: where the manager was built, or swept last, under a clock that was hours ahead, requests go on sweeping once it is right."""
    face.clock.advance(6 * 3_600)
    if how == "begun":
        face.renew()
    elif how == "swept":
        many(face, 1)
    else:
        face.manager.set_options(timeout=600)
    face.clock.advance(-6 * 3_600)
    ended: list[str] = []
    listen(face, End, lambda event: ended.append(event.session.handle))
    handles = [handle_of(browser) for browser in many(face, 3)]
    for _ in range(12):
        face.clock.advance(60)
        many(face, 1)
    assert set(handles) <= set(ended)


@pytest.mark.stores("memory", "sqlite")  # where each verb is awaited others have their turn anyway, and looking takes longer than a step
def test_rule_16_an_event_loop_goes_on_during_a_long_sweep(make_face: Make) -> None:
    """Between the steps of `await manager.sweep()` other tasks have their turn."""
    face = make_face()
    if face.loop is None:
        return
    many(face, 3 * SWEEP_STEP)
    face.clock.advance(660)

    async def both() -> tuple[int, list[int]]:
        left: list[int] = []
        sweeping = asyncio.ensure_future(face.manager.sweep())
        while not sweeping.done():
            await asyncio.sleep(0)
            found = face.store.scan(None, 1_000)
            left.append(len((await found if inspect.isawaitable(found) else found)[0]))
        return await sweeping, left

    ended, left = face.loop.run_until_complete(both())
    assert ended == 3 * SWEEP_STEP
    assert len(set(left)) >= 3, "the other task saw it get less, step by step"


def test_rule_16_nobody_waits_for_a_sweep_whose_listener_takes_its_time() -> None:
    """While a listener of a swept session's end is at work, other threads are served: no lock is held, also where there is only one."""
    face = Face("sync", MemoryStore(shards=1))
    served: list[bool] = []

    def another_thread() -> None:
        with visitor.visit() as session:
            session[Key("user", int)] = 7
        many(face, 1)
        served.append(is_open(visitor))

    def listener(event: End) -> None:
        thread = threading.Thread(target=another_thread)
        thread.start()
        thread.join(10)

    many(face, 3)
    face.clock.advance(600)
    (visitor,) = many(face, 1)
    listen(face, End, listener)
    face.clock.advance(60)
    assert face.call(face.manager.sweep()) == 3
    assert served == [True] * 3
    face.close()


def test_rule_16_what_waits_for_its_keys_costs_a_look_per_lease(face: Face, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ended sessions whose keys no process here knows are not looked at again at every sweep."""
    looks = Looks(monkeypatch)
    browsers: list[Browser] = []
    with isolated_keys():
        key = Key("unknown", str, cleanup_delete=print)
        for _ in range(10):
            browser = face.browser()
            with browser.visit() as session:
                session[key] = "value"
            browsers.append(browser)
    for browser in browsers:
        with browser.visit() as session:
            session.end()
    looks.taken()
    for _ in range(10 * 6):
        face.clock.advance(10)
        face.call(face.manager.sweep())
    assert looks.taken() <= 10 * 11


@pytest.mark.stores("memory")
def test_rule_16_a_timeout_that_goes_up_and_down_leaves_nothing_behind(face: Face) -> None:
    """D1: what looks at the session again is there two or three times, however many requests have made its timeout shorter."""
    (browser,) = many(face, 1)
    for number in range(200):
        face.clock.advance(7)
        with browser.visit() as session:
            session.timeout = 30 * 86_400 if number % 2 else 86_400
    wheel: Any = getattr(face.store, "_wheel")  # noqa: B009  # what grows there is seen nowhere else
    assert len(wheel) <= 3
    face.clock.advance(31 * 86_400)
    assert face.call(face.manager.sweep()) == 1
    assert len(wheel) == 0


@pytest.mark.parametrize("what", ["all", "end_all"])
def test_rule_16_the_event_loop_does_not_wait_for_a_list_of_everybody(what: str) -> None:
    """The store that waits for nothing has as many sessions as fit: other tasks have their turn, also while none is found to be ended."""
    sessions = AsyncSessionManager()
    user = Key("user", str)

    async def look() -> int:
        if what == "end_all":
            return await sessions.end_all(lambda view: view[user] == "eve")
        return len([view async for view in sessions.all() if view[user] == "eve"])

    async def others() -> int:
        for _ in range(1_000):
            await alogin(sessions, {user: "ann"})
        turns, looking = 0, asyncio.create_task(look())
        while not looking.done():
            turns += 1
            await asyncio.sleep(0)
        assert looking.result() == 0
        return turns

    assert asyncio.run(others()) > 10
