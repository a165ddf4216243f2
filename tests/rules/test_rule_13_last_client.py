"""Rule 13: `cleanup_no_client` also runs when the last client leaves; False drops the value."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest

from tests.faces import Face
from tests.rules.scene import Connection, always, asking, handle_of, is_open, never, on, stored
from tests.watched import Watched
from typed_sessions import Key, MemoryStore, current_session

Make = Callable[..., Face]


def test_rule_13_the_hook_runs_when_the_last_client_leaves(face: Face) -> None:
    """Not before: while one connection is left, the session has a client. True keeps the value."""
    asked: list[str] = []
    key = Key("key", str, cleanup_no_client=asking(asked, True))
    browser = face.browser()
    with Connection(face) as one, Connection(face) as two:
        on(browser, one, key)
        on(browser, two)
        with browser.visit(client=two.client) as session:
            assert set(session.clients) == {one.client, two.client}
        one.leave()
        assert asked == []
        two.leave()
        assert asked == ["value"]
    with browser.visit() as session:
        assert session[key] == "value"


def test_rule_13_two_requests_at_once_are_one_client() -> None:
    """The first two of a session on one connection, each in a thread of its own, as over HTTP/2: it leaves once, and then it has left."""
    face = Face("sync", MemoryStore())
    asked: list[str] = []
    key = Key("key", str, cleanup_no_client=asking(asked, True))
    browser = face.browser()
    seen: list[int] = []

    class Meanwhile:
        """The lock of the table of clients; before it is taken first, the other request goes all its way."""

        def __init__(self, lock: Any) -> None:
            self.lock, self.first = lock, True

        def __enter__(self) -> None:
            if self.first:
                self.first = False
                with browser.visit(client=connection.client):
                    pass
            self.lock.__enter__()

        def __exit__(self, *exc: object) -> None:
            self.lock.__exit__(*exc)

    with Connection(face) as before:
        on(browser, before, key)
        with Connection(face) as connection:
            clients = face.manager.core.clients
            clients._lock = cast("Any", Meanwhile(clients._lock))  # pyright: ignore[reportPrivateUsage]  # where the two meet
            with browser.visit(client=connection.client) as session:
                seen.append(len(session.clients))
        assert asked == []
    assert (seen, asked) == ([2], ["value"])
    face.close()


def test_rule_13_false_drops_that_value_and_nothing_else(face: Face) -> None:
    """The session stays, its other values stay, and what was dropped gets no `cleanup_delete`, neither then nor at the end."""
    deleted: list[str] = []
    dropped = Key("dropped", str, cleanup_no_client=never, cleanup_delete=deleted.append)
    kept = Key("kept", str, cleanup_no_client=always, cleanup_delete=deleted.append)
    plain = Key("plain", str)
    browser = face.browser()
    with Connection(face) as connection, browser.visit(client=connection.client) as session:
        session[dropped], session[kept], session[plain] = "dropped", "kept", "plain"
    assert stored(face, handle_of(browser)).fields.keys() == {"kept", "plain"}
    assert deleted == []
    with browser.visit() as session:
        assert dropped not in session
        session.end()
    assert deleted == ["kept"]


def test_rule_13_resident_values_too(face: Face) -> None:
    """A resident value for which the hook says False is let go of; one for which it says True is still the same object."""
    value, other = object(), object()
    dropped = Key("dropped", object, resident=True, cleanup_no_client=never)
    kept = Key("kept", object, resident=True, cleanup_no_client=always)
    browser = face.browser()
    with Connection(face) as connection, browser.visit(client=connection.client) as session:
        session[dropped], session[kept] = value, other
    with browser.visit() as session:
        assert dropped not in session
        assert session[kept] is other


def test_rule_13_in_the_hook_the_session_can_be_read(face: Face) -> None:
    """`current_session()` is the session; what the hook writes there goes nowhere, and does not reach other hooks."""
    asked: list[str] = []

    def hook(value: str) -> bool:
        session = current_session()
        asked.append(f"{value} of {session[user]}")
        session[second] = "by a hook"
        return True

    user = Key("user", str)
    first = Key("first", str, cleanup_no_client=hook)
    second = Key("second", str, cleanup_no_client=hook)
    browser = face.browser()
    with Connection(face) as connection, browser.visit(client=connection.client) as session:
        session[user], session[first], session[second] = "ann", "one", "two"
    assert asked == ["one of ann", "two of ann"]


def test_rule_13_a_connection_that_leaves_is_no_use(face: Face) -> None:
    """Dropping a value does not prolong the session: nobody used it."""
    key = Key("key", str, cleanup_no_client=never)
    browser = face.browser()
    with Connection(face) as connection:
        on(browser, connection, key)
        used = stored(face, handle_of(browser)).used
        face.clock.advance(600)
    assert stored(face, handle_of(browser)).used == used
    face.clock.advance(60)
    assert not is_open(browser)


def test_rule_13_a_value_set_meanwhile_is_not_dropped(face: Face) -> None:
    """False is about the value the hook has seen: one that a request stored while the hook ran stays."""
    manager = face.manager

    def sync_hook(value: str) -> bool:
        if value == "seen":
            with manager.edit(handle) as session:
                session[key] = "newer"
        return False

    async def async_hook(value: str) -> bool:
        if value == "seen":
            async with manager.edit(handle) as session:
                session[key] = "newer"
        return False

    hook: Any = sync_hook if face.kind == "sync" else async_hook
    key = Key("key", str, cleanup_no_client=hook)
    browser = face.browser()
    with Connection(face) as connection:
        on(browser, connection, key, "seen")
        handle = handle_of(browser)
    with browser.visit() as session:
        assert session[key] == "newer"


def test_rule_13_after_the_end_nothing_happens_when_they_leave(face: Face) -> None:
    """Once per value and occasion: a session that has ended has been cleaned up after."""
    asked: list[str] = []
    key = Key("key", str, cleanup_no_client=asking(asked, True))
    browser = face.browser()
    with Connection(face) as connection:
        on(browser, connection, key)
        with browser.visit(client=connection.client) as session:
            session.end()
        assert asked == ["value"]
    assert asked == ["value"]


def stop(face: Face) -> None:
    face.call(face.manager.close() if face.kind == "sync" else face.manager.aclose())


@pytest.mark.stores("memory")
def test_rule_13_closing_the_manager_is_the_last_client_leaving(face: Face) -> None:
    """Every client is closed, and the hooks run for their sessions, which stay in the store: it is in this process alone."""
    asked: list[str] = []
    key = Key("key", str, cleanup_no_client=asking(asked, True))
    browser, lingering = face.browser(), face.browser()
    on(lingering, None, key, "lingering")
    with Connection(face) as connection:
        on(browser, connection, key, "connected")
        stop(face)
        assert connection.closed == 1
        assert sorted(asked) == ["connected", "lingering"]
    assert len(asked) == 2
    face.renew()
    assert is_open(browser)
    assert is_open(lingering)


@pytest.mark.stores("sqlite", "redis", "postgres")
def test_rule_13_a_process_that_stops_drops_nothing_of_a_store_that_goes_on(face: Face) -> None:
    """Their visitors have not left: another process serves them, or this one when it is back. The end of the session asks all the same.

    (In a deployment, which stops one process after the other, every visitor of the last minutes would lose such a value otherwise.) What
    is resident goes with the process, so that is asked about.
    """
    asked: list[str] = []
    key = Key("key", str, cleanup_no_client=asking(asked, False))
    resident = Key("resident", str, resident=True, cleanup_no_client=asking(asked, False))
    browsers = [face.browser() for _ in range(2)]
    with Connection(face) as connection:
        for browser, client in zip(browsers, (None, connection.client), strict=True):
            with browser.visit(client=client) as session:
                session[key], session[resident] = "value", "resident"
        stop(face)
        assert (connection.closed, asked) == (1, ["resident"] * 2)
    assert asked == ["resident"] * 2
    asked.clear()
    face.renew()
    for browser in browsers:
        with browser.visit() as session:
            assert session[key] == "value"
            session.end()
    assert asked == ["value"] * 2


@pytest.mark.parametrize("after", range(3))
def test_rule_13_closing_that_is_given_up_goes_on(make_face: Make, after: int) -> None:
    """`aclose` is cancelled, by a time limit for the shutdown, and awaited again: every hook has run once then, and all are closed."""
    face = make_face()
    if face.loop is None:
        return
    asked: list[str] = []
    pauses: list[asyncio.Event] = [asyncio.Event() for _ in range(3)]

    async def hook(value: str) -> bool:
        number = len(asked)
        asked.append(value)
        await pauses[number].wait()
        return True

    key = Key("key", str, resident=True, cleanup_no_client=hook)  # on every store: what is stored there outlives the process
    browsers = [face.browser() for _ in range(3)]
    with Connection(face) as connection:
        for number, browser in enumerate(browsers):
            on(browser, connection if number == 0 else None, key, str(number))

        async def close_twice() -> None:
            closing = asyncio.create_task(face.manager.aclose())
            for pause in pauses[:after]:
                pause.set()
            while len(asked) <= after:
                await asyncio.sleep(0)
            closing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await closing
            for pause in pauses:
                pause.set()
            await face.manager.aclose()

        face.call(asyncio.wait_for(close_twice(), 10))
        assert (sorted(asked), connection.closed) == (["0", "1", "2"], 1)


def test_rule_13_what_goes_wrong_keeps_the_value(face: Face, caplog: pytest.LogCaptureFixture) -> None:
    """A hook that raises has not said False: the value stays, and the next hook runs (rule 10)."""
    asked: list[str] = []

    def hook(value: str) -> bool:
        raise ValueError("a hook that fails")

    failing = Key("failing", str, cleanup_no_client=hook)
    next_one = Key("next_one", str, cleanup_no_client=asking(asked, False))
    browser = face.browser()
    with Connection(face) as connection, browser.visit(client=connection.client) as session:
        session[failing], session[next_one] = "value", "next"
    assert asked == ["next"]
    assert "a hook that fails" in caplog.text
    with browser.visit() as session:
        assert session[failing] == "value"


def test_rule_13_a_hook_that_says_nothing_keeps_the_value(face: Face, caplog: pytest.LogCaptureFixture) -> None:
    """A forgotten `return` is no False: the value stays, `cleanup_delete` gets it at the end, and the log says what to return."""
    deleted: list[str] = []
    silent = Key("silent", str, cleanup_no_client=asking([], cast("Any", None)), cleanup_delete=deleted.append)
    browser = face.browser()
    with Connection(face) as connection:
        on(browser, connection, silent)
    assert "cleanup_no_client of <typed Key 'silent'" in caplog.text
    assert "return True to keep the value, or False to drop it" in caplog.text
    with browser.visit() as session:
        assert session[silent] == "value"
        session.end()
    assert deleted == ["value"]


def test_rule_13_an_object_set_meanwhile_is_not_dropped(face: Face) -> None:
    """As with stored values: False is about the object the hook has seen, not about one that a request has put there since."""
    seen, newer = object(), object()
    browser = face.browser()

    def set_newer(value: object) -> bool:
        return value is seen

    def sync_hook(value: object) -> bool:
        if set_newer(value):
            session, finish = face.manager.start_check(browser.request())
            session[key] = newer
            finish()
        return False

    async def async_hook(value: object) -> bool:
        if set_newer(value):
            session, finish = await face.manager.start_check(browser.request())
            session[key] = newer
            await finish()
        return False

    hook: Any = sync_hook if face.kind == "sync" else async_hook
    key = Key("key", object, resident=True, cleanup_no_client=hook)
    with Connection(face) as connection:
        turn = browser.open(client=connection.client)
        turn.session[key] = seen
        turn.finish()
    with browser.visit() as session:
        assert session[key] is newer


def test_rule_13_a_store_that_fails_in_its_own_way_is_nobodys_trouble(face: Face, caplog: pytest.LogCaptureFixture) -> None:
    """When a connection closes there is nobody left to tell: whatever is raised is logged, and the server's loop goes on."""
    key = Key("key", str, cleanup_no_client=bool)
    store = Watched(face.store)
    face.manager = face.another(store=store)
    browser = face.browser()
    with Connection(face) as connection:
        on(browser, connection, key)
        store.faults["open"] = OSError("the disk is gone")
    assert "cleaning up after the last client" in caplog.text


@pytest.mark.stores("memory")
def test_rule_13_closing_the_manager_asks_once(face: Face) -> None:
    """Also about a session that has both a connection and an address that lingers: its last client leaves once."""
    asked: list[str] = []
    key = Key("key", str, cleanup_no_client=asking(asked, True))
    browser = face.browser()
    with browser.visit() as session:
        session[key] = "value"
    with Connection(face) as connection:
        with browser.visit(client=connection.client) as session:
            assert len(session.clients) == 2
        assert asked == []
        face.call(face.manager.close() if face.kind == "sync" else face.manager.aclose())
        assert asked == ["value"]
    assert asked == ["value"]
