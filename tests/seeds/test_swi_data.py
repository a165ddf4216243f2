"""SWI-Prolog's session data: facts in order, enumeration, and what happens without a session or from many requests at once."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.faces import Browser, Face
from tests.seeds.cases import case
from tests.seeds.programs import ELSEWHERE, count, follow, handles, visit
from typed_sessions import Conflict, Key, ListKey, NoSession, current_session


@case("set-session-on-unknown-id", "improve", "writing to a session that is not there raises NoSession")
def test_nothing_can_be_written_to_an_unknown_session(face: Face) -> None:
    """No verb but creation makes a record, so nothing is stored for an id that nobody has (rule 8)."""
    name = Key("name", str)

    def write(session: Any) -> None:
        session.timeout = 5
        session[name] = "ann"

    browser = face.browser()
    follow(browser, create=True)
    turn = browser.open()
    ended = turn.session.handle
    turn.session.end()
    turn.finish()
    for handle in ("nosuch", "00" * 16, ended):
        with pytest.raises(NoSession, match=handle):
            face.edit(handle, write)
    assert handles(face) == []


@case("outside-session-errors", "keep")
def test_outside_of_a_session_there_is_none() -> None:
    """`current_session()` raises NoSession, which says where it works; with a default it gives that."""
    with pytest.raises(NoSession, match="in a request that a filter serves"):
        current_session()
    assert current_session(None) is None


@case("explicit-id-bad-type", "keep")
@pytest.mark.parametrize("handle", [b"00" * 16, 42])
def test_a_session_is_named_by_text(face: Face, handle: Any) -> None:
    """A handle that is no text raises TypeError."""
    with pytest.raises(TypeError, match="a handle is text"):
        face.edit(handle, lambda session: None)


@case("data-is-an-ordered-bag", "keep")
def test_facts_are_kept_in_order_and_may_repeat(face: Face) -> None:
    """Append, prepend, remove the first that matches, remove all: as assertz, asserta, retract and retractall do."""
    facts = ListKey("facts", str)
    browser = face.browser()
    with browser.visit() as session:
        session[facts].append("b")
        session[facts].append("c")
        session[facts].prepend("a")
        session[facts].append("b")
    with browser.visit() as session:
        assert session[facts] == ["a", "b", "c", "b"]
        assert session[facts].remove_where(lambda fact: fact == "b", first=True) == 1
        assert session[facts] == ["a", "c", "b"]
    with browser.visit() as session:
        assert session[facts] == ["a", "c", "b"]
        assert session[facts].remove_where(lambda fact: fact == "b") == 1
    with browser.visit() as session:
        assert session[facts] == ["a", "c"]


@case("enumeration", "improve", "idle counts from the last written use: exact with granularity=0, never more than granularity too long")
def test_all_sessions_are_listed_with_address_idle_time_and_data(face: Face) -> None:
    """Live sessions only, each with what it holds; the idle time is never rounded (rule 12)."""
    visits = Key("visits", int)
    face.renew(granularity=0)
    ann, bob, gone = face.browser(), face.browser(ELSEWHERE), face.browser()
    with gone.visit(create=True) as session:
        session.timeout = 5
    visit(ann, visits)
    follow(bob, create=True)
    face.clock.advance(7)
    visit(ann, visits)
    face.clock.advance(2.5)
    views = face.call(face.manager.all())
    assert {(view.address, view.idle, view.get(visits)) for view in views} == {(ann.address, 2.5, 2), (bob.address, 9.5, None)}
    face.manager.set_options(granularity=60)
    visit(ann, visits)
    face.clock.advance(59)
    visit(ann, visits)
    face.clock.advance(3)
    assert {view.idle for view in face.call(face.manager.all()) if view.address == ann.address} == {62.0}


@case("concurrent-counter-in-memory", "improve", "update applies its function to what is there at the commit")
def test_concurrent_increments_are_all_counted(face: Face) -> None:
    """One and 400 increments of one session, from eight clients at once, are 401 (rule 7, R2)."""
    visits = Key("visits", int)
    browser = face.browser()
    visit(browser, visits)
    if face.kind == "sync":
        with ThreadPoolExecutor(8) as threads:
            for job in [threads.submit(_fifty_visits, face, browser, visits) for _ in range(8)]:
                job.result()
    else:
        face.call(_eight_clients(face, browser, visits))
    assert visit(browser, visits) == 402


def _fifty_visits(face: Face, browser: Browser, visits: Key[int]) -> None:
    for _ in range(50):
        while True:
            session, finish = face.manager.start_check(browser.request())
            count(session, visits)
            try:
                finish()
                break
            except Conflict:  # a client that is answered with 503 and Retry-After asks again
                pass


async def _eight_clients(face: Face, browser: Browser, visits: Key[int]) -> None:
    async def fifty_visits() -> None:
        for _ in range(50):
            while True:
                session, finish = await face.manager.start_check(browser.request())
                count(session, visits)
                await asyncio.sleep(0)  # the others' turn
                try:
                    await finish()
                    break
                except Conflict:
                    pass

    await asyncio.gather(*(fifty_visits() for _ in range(8)))
