"""Rule 13: `cleanup_no_client` also runs when the last client leaves; False drops the value."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tests.faces import Browser, Face
from tests.rules.scene import Connection, always, handle_of, is_open, never, stored
from typed_sessions import Key, current_session
from typed_sessions.clients import Clients

Make = Callable[..., Face]


def on(browser: Browser, connection: Connection | None, key: Key[str] | None = None, value: str = "value") -> None:
    """A request of this browser on this connection (None: one that nobody tells about)."""
    turn = browser.open(client=None if connection is None else connection.client)
    if key is not None:
        turn.session[key] = value
    turn.finish()


def asking(asked: list[str], keep: bool) -> Callable[[str], bool]:
    """A hook that writes down what it is asked about."""

    def cleanup_no_client(value: str) -> bool:
        asked.append(value)
        return keep

    return cleanup_no_client


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


def test_rule_13_without_word_of_connections_a_client_lingers(make_face: Make) -> None:
    """Where the server does not tell, an address counts as connected for `linger` seconds after its last request, a tenth more at most."""
    asked: list[str] = []
    face = make_face(linger=300, timeout=None)
    key = Key("key", str, cleanup_no_client=asking(asked, True))
    browser = face.browser()
    on(browser, None, key)
    for _ in range(5):
        face.clock.advance(200)
        with browser.visit() as session:
            assert [client.address for client in session.clients] == ["10.1.2.3"]
    face.clock.advance(300)
    face.call(face.manager.sweep())
    assert asked == []
    face.clock.advance(30)
    face.call(face.manager.sweep())
    assert asked == ["value"]
    face.clock.advance(1000)
    face.call(face.manager.sweep())
    assert asked == ["value"]
    with browser.visit():
        pass
    face.clock.advance(330)
    face.call(face.manager.sweep())
    assert asked == ["value", "value"], "a client that came back leaves again: another occasion"


def test_rule_13_a_request_of_anybody_notices_who_is_gone(make_face: Make) -> None:
    """No thread and no call of `sweep` is needed for it: others' requests clear up in passing."""
    asked: list[str] = []
    face = make_face(linger=100)
    key = Key("key", str, cleanup_no_client=asking(asked, False))
    browser, other = face.browser(), face.browser("10.9.9.9")
    on(browser, None, key)
    for _ in range(4):
        face.clock.advance(60)
        with other.visit():
            pass
    assert asked == ["value"]
    with browser.visit() as session:
        assert key not in session


def test_rule_13_two_addresses_are_two_clients(make_face: Make) -> None:
    """The hook runs when the last of them has been silent for `linger`."""
    asked: list[str] = []
    face = make_face(linger=100, timeout=None)
    key = Key("key", str, cleanup_no_client=asking(asked, False))
    browser = face.browser()
    on(browser, None, key)
    face.clock.advance(90)
    with browser.copy(address="10.1.2.99").visit() as session:
        assert len(session.clients) == 2
    face.clock.advance(90)
    face.call(face.manager.sweep())
    assert asked == []
    face.clock.advance(20)
    face.call(face.manager.sweep())
    assert asked == ["value"]


def two_processes(make_face: Make) -> tuple[Face, Any, Any]:
    """The managers of two processes with one store."""
    face = make_face(linger=300, granularity=60, timeout=None)
    return face, face.manager, face.another(linger=300, granularity=60, timeout=None)


def at(face: Face, manager: Any, browser: Browser, key: Key[str] | None = None, connection: Connection | None = None) -> None:
    """A request that this manager answers."""
    before, face.manager = face.manager, manager
    on(browser, connection, key)
    face.manager = before


def test_rule_13_who_goes_on_in_another_process_has_not_left(make_face: Make) -> None:
    """A process that sees nobody any more asks nothing if the session has been used since; the one that saw its visitor last does, once."""
    asked: list[str] = []
    face, one, other = two_processes(make_face)
    key = Key("key", str, cleanup_no_client=asking(asked, False))
    browser = face.browser()
    at(face, one, browser, key)
    for _ in range(18):
        face.clock.advance(20)
        at(face, other, browser)
        face.call(one.sweep())
    assert asked == []
    assert stored(face, handle_of(browser)).fields.keys() == {"key"}
    face.clock.advance(301)
    for manager in (one, other, one):
        face.call(manager.sweep())
    assert asked == ["value"]
    assert stored(face, handle_of(browser)).fields.keys() == set()


def test_rule_13_a_late_sweep_asks_no_more_than_one_in_time(make_face: Make) -> None:
    """What counts is who was seen last, not when somebody looks: long after both are silent only the later one asks."""
    asked: list[str] = []
    face, one, other = two_processes(make_face)
    key = Key("key", str, cleanup_no_client=asking(asked, True))
    browser = face.browser()
    at(face, one, browser, key)
    face.clock.advance(100)
    at(face, other, browser)
    face.clock.advance(1000)
    for manager in (one, other):
        face.call(manager.sweep())
    assert asked == ["value"]


def test_rule_13_resident_values_are_asked_about_where_they_are(make_face: Make) -> None:
    """The visitor has gone on elsewhere, and nobody there knows of them: their process asks when it sees him no more."""
    asked: list[str] = []
    face, one, other = two_processes(make_face)
    key = Key("key", str, cleanup_no_client=asking(asked, False))
    resident = Key("resident", str, resident=True, cleanup_no_client=asking(asked, False))
    browser = face.browser()
    with browser.visit() as session:
        session[key], session[resident] = "value", "resident"
    for _ in range(5):
        face.clock.advance(100)
        at(face, other, browser)
    face.call(one.sweep())
    assert asked == ["resident"]
    with browser.visit() as session:
        assert (key in session, resident in session) == (True, False)


def test_rule_13_what_came_on_a_connection_of_this_process_is_not_elsewhere(make_face: Make) -> None:
    """A client lingers, and has a connection that is told of besides: what was used on that was used here."""
    asked: list[str] = []
    face = make_face(linger=300, granularity=60, timeout=None)
    key = Key("key", str, cleanup_no_client=asking(asked, True))
    browser = face.browser()
    on(browser, None, key)
    with Connection(face) as connection:
        face.clock.advance(100)
        on(browser, connection)
        face.clock.advance(100)
    face.call(face.manager.sweep())
    assert asked == []
    face.clock.advance(101)
    face.call(face.manager.sweep())
    assert asked == ["value"]


def test_rule_13_who_is_gone_is_found_among_those_who_are_not() -> None:
    """Many sessions that are still visited do not use up what one step looks for, and nothing is looked at twice in one moment."""
    clients = Clients(10)
    there = [number.to_bytes(16, "big") for number in range(20)]
    gone = bytes([255]) * 16
    for locator in (gone, *there):
        clients.seen(locator, None, 100.0, 0.0)
    for locator in there:
        clients.seen(locator, None, 150.0, 50.0)
    assert clients.lapse(101.0, 1, 32) == ({gone: 0.0}, True)
    assert clients.lapse(101.0, 1, 32) == ({}, False)
    assert clients.lapse(150.0, 1, 32) == ({}, False), "they are there until then"
    left, more = clients.lapse(151.0, 32, 12)
    assert (len(left), more) == (12, True)
    rest, more = clients.lapse(151.0, 32, 12)
    assert ({*left, *rest}, more) == (set(there), False)


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
