"""Rule 7: a commit is one trip and a repetition one more, after a pause if need be, and at the deadline there is `Conflict`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.faces import Face
from tests.planting import pack, plant
from tests.rules.overtaken import Overtaken, begin, overtaken
from tests.watched import Watched
from typed_sessions import Conflict, Key, ListKey, SessionError, StoreUnavailable


def test_rule_07_a_write_is_one_trip_after_the_opening(face: Face) -> None:
    """However many keys it writes: open, commit."""
    keys = [Key(f"key {n}", int) for n in range(5)]
    facts = ListKey("facts", int)
    browser, _ = begin(face, lambda session: session.__setitem__(keys[0], 0))
    watched = Watched(face.store)
    face.manager = face.another(watched)
    with browser.visit() as session:
        for key in keys:
            session.update(key, lambda n: n + 1, default=0)
        session[facts].append(1)
        session.renew()
    assert watched.calls == {"open": 1, "commit": 1}


@pytest.mark.parametrize(("times", "pauses"), [(1, 0), (2, 0), (3, 1), (4, 1), (5, 2), (8, 3), (40, 19)])
def test_rule_07_a_conflict_costs_one_trip_more(face: Face, times: int, pauses: int) -> None:
    """The reply to a commit that came too late carries the current bytes, so that nothing has to be opened again.

    From the third on there is a pause before every second repetition.
    """
    visits = Key("visits", int)
    browser, handle = begin(face, lambda session: session.__setitem__(visits, 0))
    store, slept = overtaken(face)
    left = list(range(times))

    def rival() -> None:
        if left:
            plant(face, handle, "visits", pack(1000 * left.pop()))

    store.rival = rival
    with browser.visit() as session:
        session.update(visits, lambda n: n + 1)
    assert store.calls == {"open": 1, "commit": 1 + times}
    assert len(slept) == pauses
    with browser.visit() as session:
        assert session[visits] == 1


@pytest.mark.parametrize(
    ("drawn", "deadline", "pauses"),
    [
        (b"\x00", 0.02, [0.001, 0.001, 0.001, 0.001, 0.001, 0.001, 0.001]),
        (b"\x80", 0.15, [0.0015, 0.0025, 0.0045, 0.0085, 0.0165, 0.0255, 0.0255]),
        (b"\xff", 0.15, [0.002, 0.004, 0.008, 0.016, 0.032, 0.05, 0.05]),
    ],
    ids=["shortest", "middle", "longest"],
)
@pytest.mark.parametrize("clock_moves", [True, False])
def test_rule_07_when_the_deadline_is_over_there_is_a_conflict(
    make_face: Callable[..., Face], drawn: bytes, deadline: float, pauses: list[float], clock_moves: bool
) -> None:
    """`Conflict` says so, with the names and what a server answers; nothing of the request is applied.

    Until then a commit is repeated, after random pauses that may be twice as long each time, up to 50 ms; also if the clock stands still.
    """
    face = make_face()
    visits, name, facts = Key("visits", int), Key("name", str), ListKey("facts", int)
    browser, handle = begin(face, lambda session: session.__setitem__(visits, 0))
    store, slept = overtaken(face, deadline=deadline, clock_moves=clock_moves)
    face.manager.core.draw = drawn.__mul__
    rivals: list[int] = []

    def rival() -> None:
        rivals.append(len(rivals))
        plant(face, handle, "visits", pack(1000 * len(rivals)))

    store.rival = rival
    turn = browser.open()
    turn.session.update(visits, lambda n: n + 1)
    turn.session[name] = "ann"
    turn.session[facts].append(1)
    turn.session.renew()
    with pytest.raises(
        Conflict, match=rf"^other requests were faster \d+ times within the deadline of {deadline} s: nothing was committed$"
    ) as caught:
        turn.send()
    assert slept[: len(pauses)] == pytest.approx(pauses, rel=0.01)
    assert deadline <= sum(slept) + 0.000_001 < deadline + 0.05 + 0.000_001
    assert store.calls == {"open": 1, "commit": 2 + 2 * len(slept)}
    assert sorted(caught.value.names) == ["facts", "name", "visits"]
    assert caught.value.status == 503
    assert ("Retry-After", "1") in caught.value.headers
    store.rival = lambda: None
    with browser.visit() as session:  # the same secret opens it
        assert session[visits] == 1000 * len(rivals)
        assert name not in session
        assert facts not in session


def test_rule_07_what_others_store_in_a_pause_is_there_after_it(face: Face) -> None:
    """And this request's own tasks cannot write meanwhile: that would be in the commit or not, as it happens."""
    visits, name = Key("visits", int), Key("name", str)
    browser, handle = begin(face, lambda session: session.__setitem__(visits, 0))
    store, slept = overtaken(face)
    values = [10, 20, 30]

    def rival() -> None:
        if values:
            plant(face, handle, "visits", pack(values.pop(0)))

    store.rival = rival
    turn = browser.open()
    turn.session.update(visits, lambda n: n + 1)
    inner = face.manager.core.sleep

    def sleep(seconds: float) -> Any:
        plant(face, handle, "visits", pack(100))
        with pytest.raises(SessionError, match="while another task of the request commits"):
            turn.session[name] = "ann"
        return inner(seconds)

    face.manager.core.sleep = sleep
    turn.finish()
    assert len(slept) == 1
    with browser.visit() as session:
        assert session[visits] == 101
        assert name not in session


def test_rule_07_a_pause_is_a_real_one(face: Face) -> None:
    """Of a thread, or of a task: an event loop goes on."""
    expected: object = time.sleep if face.kind == "sync" else asyncio.sleep
    assert face.manager.core.sleep is expected


def test_rule_07_at_the_deadline_there_is_a_conflict(make_face: Callable[..., Face]) -> None:
    """A commit stops repeating itself when `deadline` seconds are over, however few times it was tried."""
    face = make_face(deadline=2)
    visits = Key("visits", int)
    browser, handle = begin(face, lambda session: session.__setitem__(visits, 0))
    store = Overtaken(face.store)
    face.manager = face.another(store, deadline=2)

    def rival() -> None:
        face.clock.advance(0.9)
        plant(face, handle, "visits", pack(1000))

    store.rival = rival
    turn = browser.open()
    turn.session.update(visits, lambda n: n + 1)
    with pytest.raises(Conflict):
        turn.send()
    assert store.calls["commit"] == 3
    store.rival = lambda: None
    with browser.visit() as session:
        assert session[visits] == 1000


def test_rule_07_after_a_conflict_the_request_may_go_on(face: Face) -> None:
    """`manager.commit` that raised has applied nothing and forgotten nothing: asked again, it commits."""
    visits, name = Key("visits", int), Key("name", str)
    browser, handle = begin(face, lambda session: session.__setitem__(visits, 0))
    store, _ = overtaken(face, deadline=0.1)
    store.rival = lambda: plant(face, handle, "visits", pack(10))
    turn = browser.open()
    turn.session.update(visits, lambda n: n + 1)
    turn.session[name] = "ann"
    with pytest.raises(Conflict):
        face.call(face.manager.commit(turn.session))
    store.rival = lambda: None
    face.call(face.manager.commit(turn.session))
    turn.finish()
    with browser.visit() as session:
        assert (session[visits], session[name]) == (11, "ann")


def test_rule_07_a_lost_answer_is_repeated_by_nobody(face: Face) -> None:
    """A commit whose answer was lost may have been applied: it raises, and is not asked for a second time (rule 28)."""
    visits = Key("visits", int)
    browser, _ = begin(face, lambda session: session.__setitem__(visits, 0))
    watched = Watched(face.store)
    face.manager = face.another(watched)
    watched.lost["commit"] = StoreUnavailable("the answer was lost")
    turn = browser.open()
    turn.session.update(visits, lambda n: n + 1)
    with pytest.raises(StoreUnavailable, match="lost"):
        turn.send()
    assert watched.calls["commit"] == 1
    watched.lost.clear()
    with browser.visit() as session:
        assert session[visits] == 1
