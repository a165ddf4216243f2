"""Rule 27: a session is for the time of its request; who forgets to finish is told; a store's I/O never holds up an event loop."""

from __future__ import annotations

import asyncio
import gc
import threading
import warnings
from collections.abc import Callable
from typing import Any, cast

import pytest

from tests.faces import PEER, Face, Turn
from tests.planting import pack, plant
from tests.watched import Watched
from typed_sessions import (
    AsyncSessionManager,
    Key,
    ListKey,
    MemoryStore,
    Request,
    Session,
    SessionClosed,
    SessionError,
    SessionManager,
    Upgrades,
)


def accessors(name: Key[str], facts: ListKey[str]) -> list[Callable[[Session], object]]:
    """Every way of looking at a session's data or changing it."""
    return [
        lambda s: s[name],
        lambda s: s[facts].append("one"),
        lambda s: len(s[facts]),
        lambda s: s.get(name),
        lambda s: name in s,
        lambda s: facts in s,
        lambda s: list(s),
        lambda s: s.__setitem__(name, "bob"),
        lambda s: s.__delitem__(name),
        lambda s: s.pop(name),
        lambda s: s.setdefault(name, str),
        lambda s: s.update(name, str.upper),
        lambda s: s.renew(),
        lambda s: s.end(),
        lambda s: s.require(lambda _: True),
        lambda s: s.timeout,
        lambda s: s.persistent,
        lambda s: setattr(s, "timeout", 60),
        lambda s: setattr(s, "persistent", False),
    ]


@pytest.mark.parametrize("how", ["finish", "discard"])
def test_rule_27_after_finish_every_accessor_raises(face: Face, how: str) -> None:
    """In this thread and in any other; the text says what to do instead."""
    name, facts = Key("name", str), ListKey("facts", str)
    browser = face.browser()
    turn = browser.open()
    turn.session[name] = "ann"
    turn.finish()
    turn = browser.open()
    session = turn.session
    assert session[name] == "ann"
    if how == "finish":
        turn.finish()
    else:
        turn.discard()
    failures: list[BaseException] = []

    def use() -> None:
        for access in accessors(name, facts):
            with pytest.raises(SessionClosed, match=r"manager\.edit\(handle\)") as caught:
                access(session)
            failures.append(caught.value)

    use()
    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert len(failures) == 2 * len(accessors(name, facts))
    for late in (face.manager.commit, face.manager.refresh):
        with pytest.raises(SessionClosed):
            face.call(late(session))
    assert session.handle  # for a log line


def test_rule_27_finishing_twice_is_finishing_once(face: Face) -> None:
    """The second call commits nothing and returns the same headers."""
    name = Key("name", str)
    turn = face.browser().open()
    turn.session[name] = "ann"
    headers = turn.send()
    assert len([pair for pair in headers if pair[0] == "Set-Cookie"]) == 2
    assert turn.send() == headers
    assert len(face.call(face.manager.all())) == 1


@pytest.mark.parametrize("how", ["finish", "discard"])
def test_rule_27_a_request_leaves_nothing_for_the_garbage_collector(how: str) -> None:
    """Its memory is free when it is over: a server need not stop for it now and then."""
    manager, name, tags = SessionManager(MemoryStore()), Key("name", str), Key("tags", list[str])

    def request() -> None:
        session, finish = manager.start_check(Request(headers=[], peer=PEER))
        session[name], session[tags] = "ann", ["a"]
        if how == "finish":
            finish()
        else:
            finish.discard()

    request()
    gc.collect()
    gc.disable()
    try:
        request()
        assert gc.collect() == 0
    finally:
        gc.enable()


def dropped(face: Face, work: Callable[[Session], object], browser: Any = None) -> list[str]:
    """What is said when a request does its work and forgets `finish()`."""
    turn: Turn | None = (face.browser() if browser is None else browser).open()
    assert turn is not None
    work(turn.session)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        turn = None
    return [str(warning.message) for warning in caught if warning.category is ResourceWarning]


def test_rule_27_a_dirty_session_that_is_dropped_warns(face: Face) -> None:
    """ResourceWarning with the names of the keys that are lost; whatever was done: set, removed, updated, changed in place."""
    name, facts, tags = Key("name", str), ListKey("facts", str), Key("tags", list[str])
    browser = face.browser()
    with browser.visit() as session:
        session[name] = "ann"
        session[tags] = ["a"]
        session[facts].append("one")
    work: list[tuple[Callable[[Session], object], list[str]]] = [
        (lambda s: s.__setitem__(name, "bob"), ["name"]),
        (lambda s: s.__delitem__(name), ["name"]),
        (lambda s: s.update(name, str.upper), ["name"]),
        (lambda s: s[facts].append("two"), ["facts"]),
        (lambda s: s[facts].clear(), ["facts"]),
        (lambda s: s[tags].append("b"), ["tags"]),
        (lambda s: s[tags].append(s.update(name, str.upper)), ["name", "tags"]),
        (lambda s: s.renew(), []),
        (lambda s: s.end(), []),
        (lambda s: setattr(s, "timeout", 60), []),
        (lambda s: setattr(s, "persistent", False), []),
    ]
    for step, names in work:
        [said] = dropped(face, step, browser)
        assert str(names) in said
        assert "finish()" in said


def test_rule_27_a_changed_value_that_was_brought_forward_warns(face: Face) -> None:
    """One that an older version stored: changed in place it is named, and read alone it is not."""
    up = Upgrades(str, lambda old: [old])
    tags, user = Key("tags", list[str], version=2, upgrade=up), Key("user", str)
    browser = face.browser()
    with browser.visit() as session:
        session[user] = "ann"
    with browser.visit() as session:
        plant(face, session.handle, "tags", pack("a"))
    assert dropped(face, lambda s: s[tags], browser) == []
    [said] = dropped(face, lambda s: s[tags].append("b"), browser)
    assert "['tags']" in said


def test_rule_27_a_clean_session_that_is_dropped_does_not_warn(face: Face) -> None:
    """Reading needs no finish; neither does what was finished, discarded or refused."""
    name, tags = Key("name", str), Key("tags", list[str])
    browser = face.browser()
    with browser.visit() as session:
        session[name] = "ann"
        session[tags] = ["a"]
    assert dropped(face, lambda s: (s[name], s[tags], s.get(name), list(s)), browser) == []
    assert dropped(face, lambda s: s.get(name)) == []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for end in ("finish", "discard"):
            turn: Turn | None = browser.open()
            assert turn is not None
            turn.session[name] = "bob"
            getattr(turn, end)()
            turn = None


def test_rule_27_the_sync_manager_in_an_event_loop() -> None:
    """With a store that does I/O every call that would reach the store raises and says what to use; outside of the loop all is well."""
    name = Key("name", str)
    manager = SessionManager(cast("Any", Watched(MemoryStore(), blocking=True)))
    request = Request(headers=(), peer=PEER)
    session, finish = manager.start_check(request)
    session[name] = "ann"
    manager.commit(session)
    handle = session.handle
    known = Request(headers=[("Cookie", "; ".join(f"{c.name}={c.value}" for c in finish.cookies))], peer=PEER)
    calls: list[Callable[[], object]] = [
        lambda: manager.start_check(known),
        lambda: manager.filter()(known),
        lambda: manager.get_session(known),
        lambda: manager.check_session_cookie(known),
        lambda: manager.delete_session(known),
        lambda: manager.edit(handle).__enter__(),
        lambda: manager.refresh(session),
        lambda: manager.commit(session),
        lambda: finish(),
        lambda: next(manager.all()),
        lambda: manager.end(handle),
        lambda: manager.end_all(),
        lambda: manager.sweep(),
    ]

    async def loop() -> None:
        session[name] = "bob"
        for call in calls:
            with pytest.raises(SessionError, match="use AsyncSessionManager, and await it"):
                call()

    asyncio.run(loop())
    session, finish = manager.start_check(known)
    assert session[name] == "ann"
    finish()
    manager.close()


def test_rule_27_a_store_without_io_may_be_used_in_an_event_loop() -> None:
    """The memory store waits for nothing, so the sync manager holds nobody up."""
    name = Key("name", str)

    async def loop() -> str:
        with SessionManager() as manager:
            session, finish = manager.start_check(Request(headers=(), peer=PEER))
            session[name] = "ann"
            finish()
            return next(manager.all())[name]

    assert asyncio.run(loop()) == "ann"


def test_rule_27_the_async_manager_keeps_a_blocking_store_out_of_the_loop() -> None:
    """A synchronous store with I/O is called in a thread."""
    name = Key("name", str)
    threads: set[int] = set()

    class Slow(Watched):
        def _before(self, name: str) -> None:
            threads.add(threading.get_ident())

    async def loop() -> None:
        async with AsyncSessionManager(cast("Any", Slow(MemoryStore(), blocking=True))) as manager:
            session, finish = await manager.start_check(Request(headers=(), peer=PEER))
            session[name] = "ann"
            await finish()
            assert [view[name] async for view in manager.all()] == ["ann"]

    asyncio.run(loop())
    assert threads
    assert threading.get_ident() not in threads
