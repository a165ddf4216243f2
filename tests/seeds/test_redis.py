"""SWI-Prolog's Redis plug-in: what several servers over one store see. Here two managers over one store, as two processes would have."""

from __future__ import annotations

import copy
import socket
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from tests.faces import Browser, Face
from tests.seeds.cases import cannot_arise, case
from tests.seeds.programs import ELSEWHERE, close, cookies_set, count, follow, handles, listen, names_set, subscribe, visit
from tests.watched import Watched as Counted
from typed_sessions import AddressPolicy, End, Key, KeyTypeError, MemoryStore, StoreUnavailable, current_session

cannot_arise(
    "redis-layout", "a store is seen through its verbs alone; that the server's rubbish goes by itself is in the contract, stores/base.py"
)
cannot_arise(
    "redis-default-prefix", "a MemoryStore is a name space of its own: there is no prefix, and no default of it to be documented wrongly"
)


class Watched:
    """A store that counts the trips to it, and can be down."""

    blocking = False

    def __init__(self, store: Any) -> None:
        self.store = store
        self.trips: Counter[str] = Counter()
        self.down = False

    def __getattr__(self, verb: str) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            self.trips[verb] += 1
            if self.down:
                raise StoreUnavailable("the store does not answer")
            return getattr(self.store, verb)(*args)

        return call

    def open(self, *args: Any) -> Any:
        return self.__getattr__("open")(*args)


def two_servers(face: Face, **options: Any) -> tuple[Browser, Browser]:
    """One browser at two servers: what it sees at each."""
    here = face.browser()
    other = copy.copy(face)
    other.manager = face.another(**options)
    there = other.browser()
    there.jar = here.jar  # the cookies of one browser
    return here, there


@case("redis-commands", "improve", "one round trip per verb, whatever the session holds: the table of round trips (§5), counted")
def test_a_request_makes_the_trips_that_the_design_says(face: Face) -> None:
    """A look is one trip, a write two, a new session one, an end one more; what is no id of ours costs none (§5)."""
    keys = [Key(f"key{n}", int) for n in range(100)]
    absent = Key("absent", int)
    store = Counted(face.store)
    face.manager = face.another(store)

    def trips(browser: Browser, work: Callable[[Any], object], **settings: Any) -> dict[str, int]:
        store.calls.clear()
        with browser.visit(**settings) as session:
            work(session)
        return dict(store.calls)

    def fill(session: Any) -> None:
        for key in keys:
            session[key] = 1

    browser, stranger = face.browser(), face.browser()
    stranger.jar = {"SESSION_KEY": "A" * 64, "SESSION_ADDR": "A" * 43}
    assert trips(face.browser(), lambda session: None) == {}
    assert trips(browser, fill) == {"create": 1}
    assert trips(browser, lambda session: None) == {"open": 1}
    assert trips(browser, lambda session: [session.get(key) for key in (*keys, absent)]) == {"open": 1}
    assert trips(browser, lambda session: count(session, keys[0])) == {"open": 1, "commit": 1}
    assert trips(browser, lambda session: setattr(session, "timeout", 100)) == {"open": 1, "commit": 1}
    assert trips(stranger, lambda session: None) == {"open": 1}
    face.clock.advance(61)
    assert trips(browser, lambda session: None) == {"open": 1, "sweep": 1}  # the use is written in the same trip; the sweep is in passing
    assert trips(browser, lambda session: session.renew()) == {"open": 1, "commit": 1}
    assert trips(browser, lambda session: session.end()) == {"open": 1, "end": 1}
    browser.jar = {"SESSION_KEY": "no id of ours"}
    assert trips(browser, lambda session: None) == {}


@case("redis-restart", "keep")
def test_sessions_outlive_the_server(face: Face) -> None:
    """A new manager over the same store finds the session and its data, without an event."""
    visits = Key("visits", int)
    browser = face.browser()
    visit(browser, visits)
    close(face, face.manager)
    face.renew()
    told = listen(face.manager)
    assert visit(browser, visits) == 2
    assert told == []


@case("redis-shared", "keep")
def test_two_servers_share_the_sessions(face: Face) -> None:
    """Visits that alternate between them go on counting."""
    visits = Key("visits", int)
    here, there = two_servers(face)
    assert [visit(browser, visits) for browser in (here, here, here, there, here, there)] == [1, 2, 3, 4, 5, 6]


@case("redis-logout-not-seen-by-other-server", "improve", "a session that has ended on one server has ended on all, at once")
def test_a_logout_on_one_server_holds_on_the_other(face: Face) -> None:
    """Both have served the id; after its end on one the other refuses it, and keeps nothing of it (rule 8, L3)."""
    visits = Key("visits", int)
    here, there = two_servers(face)
    visit(here, visits)
    visit(there, visits)
    under_way = here.open()
    count(under_way.session, visits)
    old = here.copy()
    with there.visit() as session:
        session.end()
    under_way.finish()
    assert not old.open().session.exists
    assert handles(face) == []
    assert visit(old, visits) == 1


@case("redis-close-leaves-expire-entry", "improve", "an end leaves nothing to expire")
def test_an_ended_session_does_not_expire_later(face: Face) -> None:
    """When its time would have come, no sweep finds it and no second End is sent, on either server (rule 15)."""
    here, there = two_servers(face)
    follow(here, create=True)
    told = listen(face.manager)
    also = listen(there.face.manager)
    with here.visit() as session:
        session.end()
    face.clock.advance(10_000)
    assert [face.call(manager.sweep()) for manager in (face.manager, there.face.manager)] == [0, 0]
    assert [what for what, _ in told] == ["ended"]
    assert also == []


@case("redis-timeout-0-expires-at-once", "improve", "no timeout is never, on every server")
def test_without_a_timeout_no_server_ends_the_session(face: Face) -> None:
    """Another server's creation and sweep, much later, leave it alone, also where that server has a timeout for its own."""
    face.renew(timeout=None)
    here, there = two_servers(face, timeout=1)
    follow(here, create=True)
    face.clock.advance(1_000_000)
    follow(face.browser(), create=True)
    assert face.call(there.face.manager.sweep()) == 0
    assert here.open().session.exists


@case("redis-expired-double-expire-cookie", "improve", "one Set-Cookie per name")
def test_a_visit_after_the_timeout_sends_one_cookie_of_each_name(face: Face) -> None:
    """Whichever server the session expires at: the new id's cookies and no others (C11)."""
    face.renew(timeout=2, granularity=1)
    here, there = two_servers(face, timeout=2, granularity=1)
    follow(here, create=True)
    face.clock.advance(3.3)
    assert names_set(follow(there, create=True)) == ["SESSION_KEY", "SESSION_ADDR"]
    face.clock.advance(3.3)
    expired = follow(here)
    assert names_set(expired) == ["SESSION_KEY", "SESSION_ADDR"]
    assert all("Max-Age=0" in value for value in cookies_set(expired))


@case("redis-end-event-outside-session", "improve", "the ended session is current in the listener, and End is sent once")
@pytest.mark.parametrize("by", ["sweep", "visit"])
def test_the_session_is_current_when_its_end_is_told(face: Face, by: str) -> None:
    """On the server that ends it, by a sweep or at a visit, with its data (rule 15)."""
    name = Key("name", str)
    face.renew(timeout=2)
    here, there = two_servers(face, timeout=2)
    with here.visit() as session:
        session[name] = "ann"
    seen: list[tuple[str, str, str]] = []
    subscribe(face.manager, End, lambda event: seen.append(("here", event.reason, current_session()[name])))
    subscribe(there.face.manager, End, lambda event: seen.append(("there", event.reason, current_session()[name])))
    face.clock.advance(3.3)
    if by == "sweep":
        assert face.call(there.face.manager.sweep()) == 1
    else:
        follow(there)
    assert face.call(face.manager.sweep()) == 0
    assert seen == [("there", "timeout", "ann")]


@case("redis-enumeration-includes-expired", "improve", "expired sessions are not listed")
def test_expired_sessions_are_not_listed_on_any_server(face: Face) -> None:
    """By the time alone: nobody has swept, and neither server lists it (rule 11)."""
    face.renew(timeout=2)
    here, there = two_servers(face, timeout=2)
    follow(here, create=True)
    assert len(handles(face)) == len(handles(face, there.face.manager)) == 1
    face.clock.advance(3.3)
    assert handles(face) == handles(face, there.face.manager) == []


@case("redis-nonground-data", "keep")
def test_a_value_that_cannot_be_stored_is_refused_where_it_is_written(face: Face) -> None:
    """A type that cannot be carried is refused when the key is declared, a value of another type when it is assigned."""
    with pytest.raises(KeyTypeError, match="socket"):
        Key("connection", socket.socket)
    name: Key[Any] = Key("name", str)
    turn = face.browser().open()
    with pytest.raises(KeyTypeError, match="name"):
        turn.session[name] = object()
    turn.finish()
    assert handles(face) == []


@case("redis-proxy-crash", "improve", "addresses behind a proxy and a shared store go together")
def test_two_servers_behind_a_proxy_agree_on_the_address(face: Face) -> None:
    """The session that one binds to the client's address opens at the other from there, and from nowhere else (rule 21)."""
    policy = AddressPolicy(trusted_proxies=["10.9.9.9"])
    face.renew(address_policy=policy)
    here, there = two_servers(face, address_policy=policy)
    here.address = there.address = "10.9.9.9"
    client = [("X-Forwarded-For", "198.51.100.1")]
    follow(here, create=True, headers=client)
    turn = there.open(headers=client)
    assert (turn.session.exists, turn.session.address) == (True, "198.51.100.1")
    assert not there.open(headers=[("X-Forwarded-For", ELSEWHERE)]).session.exists


@case("redis-concurrent-counter", "improve", "update applies its function to what is there at the commit, in any number of processes")
def test_concurrent_increments_on_two_servers_are_all_counted(face: Face) -> None:
    """Eight requests at a time, half at each server, all opened before the first commits: none is lost (rule 7)."""
    visits = Key("visits", int)
    here, there = two_servers(face)
    visit(here, visits)
    for _ in range(50):
        turns = [browser.open() for browser in (here, there) for _ in range(4)]
        for turn in turns:
            count(turn.session, visits)
        for turn in turns:
            turn.finish()
    assert visit(there, visits) == 402


@case("redis-down-hangs", "improve", "a store that is down is StoreUnavailable, status 503, and the cookies stay")
def test_a_store_that_is_down_is_said_to_be_down(face: Face) -> None:
    """No fresh session over the user's cookie, no anonymous request taken for a known one; when it is back, so is the session (rule 28)."""
    visits = Key("visits", int)
    store = Watched(MemoryStore())
    face.manager = face.another(store)
    browser = face.browser()
    visit(browser, visits)
    before = dict(browser.jar)
    turn = browser.open()
    count(turn.session, visits)
    store.down = True
    with pytest.raises(StoreUnavailable) as down:
        browser.open(create=True)
    assert down.value.status == 503
    assert ("Retry-After", "1") in down.value.headers
    with pytest.raises(StoreUnavailable):
        turn.finish()
    assert cookies_set(down.value.headers) == []
    store.down = False
    assert browser.jar == before
    assert visit(browser, visits) == 2
