"""Who is connected, where connections and sessions end side by side: `Clients` by itself, one call after the other."""

from __future__ import annotations

import pytest

from typed_sessions import Rejected
from typed_sessions.clients import Client, Clients

ANN, EVE = bytes([1]) * 16, bytes([2]) * 16


def never() -> None:
    raise AssertionError("this connection is not to be closed")


def test_a_connection_that_has_gone_is_not_closed_any_more() -> None:
    """Its session ends while it leaves: what would close it might meet another connection in its place."""
    clients, client = Clients(10), Client("10.1.2.3", never)
    clients.attach(client, ANN)
    assert clients.ended(ANN) == [client]
    assert clients.detach(client, 0.0) == []
    assert client.take_close() is None


def test_a_connection_leaves_once() -> None:
    """`close()` has let go of it, and then its server notices that it is closed: the session's other connection stays its last."""
    clients, first, last = Clients(10), Client("10.1.2.3", never), Client("10.1.2.3", never)
    for client in (first, last):
        clients.attach(client, ANN)
    for _ in range(2):
        assert clients.detach(first, 0.0) == []
    assert clients.of(ANN, 0.0) == (last,)
    assert clients.detach(last, 0.0) == [ANN]
    assert clients.detach(last, 0.0) == []


def test_a_connection_of_an_ended_session_leaves_whoever_else_has_come() -> None:
    """A request that outlives its session may have brought it another connection: that is nobody else's to take away."""
    clients, before, after = Clients(10), Client("10.1.2.3", never), Client("10.1.2.3", never)
    clients.attach(before, ANN)
    clients.ended(ANN)
    clients.attach(after, ANN)
    assert clients.detach(before, 0.0) == []
    assert clients.of(ANN, 0.0) == (after,)


def test_a_refused_connection_is_as_it_was() -> None:
    """It carries nothing, is shared by nobody, and is closed with the session that it carries next."""
    clients, first, second = Clients(1), Client("10.1.2.3", never), Client("10.1.2.3", never)
    clients.attach(first, ANN)
    with pytest.raises(Rejected, match="1 clients"):
        clients.attach(second, ANN)
    assert (second.carried, second.shared) == (set(), False)
    clients.attach(second, EVE)
    assert clients.ended(EVE) == [second]


def test_as_many_addresses_linger_as_a_session_may_have_clients() -> None:
    """Not one fewer; the one that was silent for longest goes first, and who comes again is no longer that."""
    clients = Clients(3)
    for number, address in enumerate(("a", "b", "c")):
        clients.seen(ANN, address, 100.0 + number, float(number))
    assert [client.address for client in clients.of(ANN, 3.0)] == ["a", "b", "c"]
    clients.seen(ANN, "a", 103.0, 3.0)
    clients.seen(ANN, "d", 104.0, 4.0)
    assert [client.address for client in clients.of(ANN, 4.0)] == ["c", "a", "d"]
    few = Clients(10)
    for address in ("a", "b", "c"):
        few.seen(ANN, address, 100.0, 0.0)
    assert [client.address for client in few.of(ANN, 0.0)] == ["a", "b", "c"]


def test_an_address_is_a_client_until_its_time_is_over() -> None:
    """Also where nobody has come by since, to let go of it."""
    clients = Clients(10)
    clients.seen(ANN, "a", 100.0, 0.0)
    clients.seen(ANN, "b", 150.0, 50.0)
    assert [client.address for client in clients.of(ANN, 100.0)] == ["a", "b"]
    assert [client.address for client in clients.of(ANN, 101.0)] == ["b"]
    assert clients.of(ANN, 151.0) == ()


def test_a_session_was_visited_last_by_the_last_of_its_addresses() -> None:
    """Of two that nobody let go of in their time: what was used until then was used here."""
    clients = Clients(10)
    clients.seen(ANN, "a", 100.0, 0.0)
    clients.seen(ANN, "b", 150.0, 50.0)
    assert clients.lapse(200.0, 10, 10) == ({ANN: 50.0}, False)


def test_one_step_finds_no_more_who_are_gone_than_it_asked_for() -> None:
    """However many it has to look at for them: a request's share of hooks is that many (rule 16)."""
    clients = Clients(10)
    locators = [number.to_bytes(16, "big") for number in range(20)]
    for locator in locators:
        clients.seen(locator, None, 100.0, 0.0)
    for locator in locators[::3]:
        clients.seen(locator, None, 150.0, 50.0)
    found: list[bytes] = []
    more = True
    while more:
        left, more = clients.lapse(101.0, 3, 1_000)
        assert len(left) <= 3
        found += left
    assert sorted(found) == sorted({*locators} - {*locators[::3]})


def test_one_look_is_enough_to_find_one() -> None:
    """Whoever looks at one session at a time comes to the end of them as well."""
    clients = Clients(10)
    clients.seen(ANN, None, 100.0, 0.0)
    assert clients.lapse(101.0, 1, 1) == ({ANN: 0.0}, True)
    assert clients.lapse(101.0, 1, 1) == ({}, False)


def test_a_shared_connection_forgets_who_has_ended_and_stays_shared() -> None:
    """Two sessions at once, or one after the other: the end of none of them closes it from then on, and it grows with none."""
    clients, at_once, in_turn = Clients(10), Client("10.1.2.3", never), Client("10.1.2.3", never)
    for locator in (ANN, EVE):
        clients.attach(at_once, locator)
    assert clients.ended(ANN) == clients.ended(EVE) == []
    assert (at_once.carried, at_once.shared) == (set(), True)
    clients.attach(in_turn, ANN)
    assert clients.ended(ANN) == [in_turn]
    for number in range(5):
        locator = number.to_bytes(16, "big")
        clients.attach(in_turn, locator)
        assert in_turn.shared
        assert clients.ended(locator) == []
    assert in_turn.carried == {ANN}
