"""Rules 9, 12 and 23: a cookie that goes out again to count its Max-Age anew is never put over the cookie of a sign-in meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest

from tests.faces import Browser, Face
from tests.stores.records import IDLE, NOW, found, started, use, value_of, write
from tests.watched import Watched
from typed_sessions import CookiePolicy, Key, MemoryStore, Request, Session, StoreUnavailable

LASTING = CookiePolicy(max_age=86400)


@pytest.fixture
def user() -> Key[str]:
    return Key("user", str)


@pytest.fixture
def lasting(make_face: Callable[..., Face]) -> Face:
    return make_face(cookie_policy=LASTING)


def idle_browser(face: Face, user: Key[str]) -> Browser:
    """With a session whose use is due."""
    browser = face.browser()
    with browser.visit() as session:
        session[user] = "nobody"
    with browser.visit() as session:
        assert session[user] == "nobody"
    face.clock.advance(61)
    return browser


def sign_in(browser: Browser, user: Key[str], *, clear: bool = False) -> None:
    with browser.visit() as session:
        session.renew(clear=clear)
        session[user] = "ann"


def who(browser: Browser, user: Key[str]) -> str | None:
    with browser.visit() as session:
        return session.get(user)


def test_rule_12_a_slow_reader_is_overtaken_by_a_sign_in(lasting: Face, user: Key[str]) -> None:
    """It has written the use when it was opened, and its answer comes last: it carries no cookie, and the visitor stays signed in."""
    browser = idle_browser(lasting, user)
    slow = browser.open()
    assert slow.session[user] == "nobody"
    sign_in(browser, user)
    assert [name for name, _ in slow.finish()] == ["Vary"]
    assert who(browser, user) == "ann"


def test_rule_12_nor_by_a_sign_out_and_a_sign_in(lasting: Face, user: Key[str]) -> None:
    """The cookie that it came with is dead: it does not take the place of the new one, nor is that one expired."""
    browser = idle_browser(lasting, user)
    slow = browser.open()
    with browser.visit() as session:
        session.end()
    sign_in(browser, user)
    slow.finish()
    assert who(browser, user) == "ann"


def test_rule_12_who_is_not_to_be_remembered_is_not(lasting: Face, user: Key[str]) -> None:
    """`persistent = False` in another request meanwhile: what goes out again has no Max-Age either."""
    browser = idle_browser(lasting, user)
    slow = browser.open()
    with browser.visit() as session:
        session.persistent = False
    cookies = [value for name, value in slow.finish() if name == "Set-Cookie"]
    assert not any("Max-Age" in cookie for cookie in cookies)
    assert who(browser, user) == "nobody"


def nothing(_: Session) -> None:
    """A reader."""


def test_rule_12_what_a_conflict_tells_is_believed(lasting: Face) -> None:
    """An `update` meets a sign-in that has dropped everything; nothing is left to commit, and the request is over for good."""
    user, visits = Key("user", str), Key("visits", int)
    browser = idle_browser(lasting, user)
    with browser.visit() as session:
        session[visits] = 1
    lasting.clock.advance(61)
    slow = browser.open()
    slow.session.update(visits, lambda n: n + 1)
    sign_in(browser, user, clear=True)
    lasting.call(lasting.manager.commit(slow.session))
    assert not slow.session.exists
    assert slow.session.get(user) == "nobody"  # as it was when it was opened
    assert [name for name, _ in slow.finish()] == ["Vary"]
    assert who(browser, user) == "ann"


def test_rule_12_it_is_one_look_when_the_cookie_is_due(lasting: Face, user: Key[str]) -> None:
    """And none in all other requests; one that commits has the answer already."""
    browser = idle_browser(lasting, user)
    watched = Watched(lasting.store)
    lasting.manager = lasting.another(store=watched, cookie_policy=LASTING)
    trips: list[int] = []
    works: list[Callable[[Session], object]] = [
        nothing,
        nothing,
        lambda session: session.__setitem__(user, "bob"),
        lambda session: session.__setitem__(user, "eve"),
    ]
    for number, work in enumerate(works):
        if number == 2:
            lasting.clock.advance(61)
        watched.calls.clear()
        with browser.visit() as session:
            work(session)
        trips.append(watched.calls["open"] + watched.calls["commit"])
    assert trips == [2, 1, 2, 2]


@pytest.mark.parametrize("again", [False, True], ids=["discarded", "down"])
def test_rule_12_where_nobody_has_looked_no_cookie_goes_out(lasting: Face, user: Key[str], again: bool) -> None:
    """The store is down by then, or the answer is an error: that is no failure, and a later answer has the cookie."""
    browser = idle_browser(lasting, user)
    watched = Watched(lasting.store)
    lasting.manager = lasting.another(store=watched, cookie_policy=LASTING)
    turn = browser.open()
    assert turn.session[user] == "nobody"
    if again:
        watched.faults["open"] = StoreUnavailable("it is down")
        headers = turn.finish()
        watched.faults.clear()
    else:
        headers = turn.discard()
    assert [name for name, _ in headers] == ["Vary"]
    lasting.clock.advance(61)
    turn = browser.open()
    assert [name for name, _ in turn.finish()].count("Set-Cookie") == 2


def test_rule_12_headers_may_be_given_once(lasting: Face, user: Key[str]) -> None:
    """A generator of header pairs: the cookie that goes out again at the end is the one that came."""
    browser = idle_browser(lasting, user)
    pairs = (("Cookie", f"{name}={value}") for name, value in browser.jar.items())
    request = Request(headers=pairs, peer=browser.address)
    before = dict(browser.jar)
    session, finish = lasting.call(lasting.manager.start_check(request))
    assert session[user] == "nobody"
    browser.take(lasting.call(finish()))
    assert browser.jar == before


def test_rule_12_also_where_the_request_has_committed_before(make_face: Callable[..., Face]) -> None:
    """Whether the cookie is still the session's is looked at when the answer leaves, and not at a `commit` in the middle."""
    face, user = make_face(cookie_policy=LASTING), Key("user", str)
    browser = idle_browser(face, user)
    slow = browser.open()
    assert slow.session[user] == "nobody"
    face.call(face.manager.commit(slow.session))
    sign_in(browser, user)
    assert [name for name, _ in slow.finish()] == ["Vary"]
    assert who(browser, user) == "ann"


class Meanwhile:
    """A lock; before it is taken for the n-th time, another thread does something that takes it too."""

    def __init__(self, lock: Any, turn: int, work: Callable[[], object]) -> None:
        self.lock, self.turn, self.work = lock, turn, work

    def __enter__(self) -> None:
        self.turn -= 1
        if self.turn == 0:
            self.work()
        self.lock.__enter__()

    def __exit__(self, *exc: object) -> None:
        self.lock.__exit__(*exc)


@pytest.mark.parametrize("turn", [1, 2])
@pytest.mark.parametrize("what", ["written", "ended"])
def test_rule_12_a_use_that_is_written_undoes_nothing(turn: int, what: str) -> None:
    """The memory store reads without its lock: what another thread stores, before the use is written, stays, and so does its end."""
    store = MemoryStore(shards=1)
    record = started(store, b"old")

    def work() -> None:
        if what == "ended":
            assert store.end(record.locator, "ended", NOW + 100, 60) is not None
        else:
            assert write(store, record, b"new", now=NOW + 100).status == "committed"

    shard = store._shards[0]  # pyright: ignore[reportPrivateUsage]  # the moment between looking and the lock is nowhere else to be had
    meanwhile = Meanwhile(shard.lock, turn, work)
    shard.lock = cast("Any", meanwhile)
    opened = store.open(record.locator, use(record), IDLE, NOW + 200)
    assert meanwhile.turn < 1, "it was used meanwhile"
    if what == "ended":
        assert opened is None
        assert found(store, record, now=NOW + 200) is None
    else:
        assert value_of(opened) == value_of(found(store, record, now=NOW + 200)) == b"new"
        assert opened is not None
        assert opened.used == NOW + 200
