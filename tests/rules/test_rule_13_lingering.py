"""Rule 13 where nobody tells that a connection has closed: an address lingers, and other processes may have seen the visitor since."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.faces import Browser, Face
from tests.rules.scene import Connection, asking, handle_of, on, stored
from tests.watched import Watched
from typed_sessions import Key
from typed_sessions.clients import Clients

Make = Callable[..., Face]


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


def test_rule_13_an_address_that_lingers_no_more_is_not_the_last_client(make_face: Make) -> None:
    """While a connection is there that tells when it closes, the hook does not run; it does when that one leaves."""
    face = make_face(linger=30, granularity=10)
    asked: list[str] = []
    key = Key("key", str, cleanup_no_client=asking(asked, True))
    browser = face.browser()
    on(browser, None, key)
    with Connection(face) as connection:
        on(browser, connection)
        for _ in range(4):
            face.clock.advance(20)
            face.call(face.manager.sweep())
        assert asked == []
    assert asked == ["value"]


def test_rule_13_a_connection_that_leaves_is_not_the_last_while_an_address_lingers(make_face: Make) -> None:
    """The hook runs once for the two, when the address has had its time."""
    face = make_face(linger=30, granularity=10)
    asked: list[str] = []
    key = Key("key", str, cleanup_no_client=asking(asked, True))
    browser = face.browser()
    with Connection(face) as connection:
        on(browser, connection, key)
        on(browser, None)
    assert asked == []
    for _ in range(4):
        face.clock.advance(20)
        face.call(face.manager.sweep())
    assert asked == ["value"]


def test_rule_13_nobody_asks_for_a_session_that_has_ended(face: Face) -> None:
    """Its addresses are forgotten with it: when their time is over, that costs no question to the store."""
    store = Watched(face.store)
    face.manager = face.another(store, linger=100, timeout=None)
    key = Key("key", str, cleanup_no_client=lambda _: True)
    browser = face.browser()
    with browser.visit() as session:
        session[key] = "value"
    with browser.visit() as session:
        assert len(session.clients) == 1
        session.end()
    store.calls.clear()
    face.clock.advance(200)
    face.call(face.manager.sweep())
    assert store.calls["open"] == 0
