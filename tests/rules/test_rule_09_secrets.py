"""Rule 9: what a previous secret may do, in its overlap and after it, and that a wrong one changes nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.faces import Browser, Face
from tests.planting import heard, record_of
from tests.rules.scene import everything, known, opens, values
from typed_sessions import CookiePolicy, Key, Rejected, ReusedOldId
from typed_sessions.record import REUSED


@pytest.fixture
def user() -> Key[str]:
    return Key("user", str)


def test_rule_09_by_default_the_previous_secret_opens_nothing(face: Face, user: Key[str]) -> None:
    """Not even in the same second: a sign-in needs that (session fixation)."""
    browser, handle = known(face, user)
    thief = browser.copy()
    with browser.visit() as session:
        session.renew()
    assert not opens(thief, handle)
    turn = thief.open(create="on_write")
    assert user not in turn.session
    assert not turn.session.exists
    turn.finish()
    with pytest.raises(Rejected):
        thief.open(create=False)


@pytest.mark.parametrize("behind", [0.5, 30.0, 86_400.0])
def test_rule_09_nor_does_it_where_a_clock_is_behind(face: Face, user: Key[str], behind: float) -> None:
    """Another process whose clock has not come to the renewal, or this one after its clock was set back: no overlap is none."""
    browser, handle = known(face, user)
    thief = browser.copy()
    with browser.visit() as session:
        session.renew()
        session[user] = "ann"
    face.clock.advance(-behind)
    assert not opens(thief, handle)
    with thief.visit() as session:
        assert user not in session
    assert opens(browser, handle)


def test_rule_09_who_is_shut_out_sees_nothing_of_what_came_after(face: Face, user: Key[str]) -> None:
    """A request with the old cookie was under way: its changes are applied to what the new owner has, and it is shown nothing of that."""
    history, cart = Key("history", list[str]), Key("cart", list[str], merge=lambda base, mine, theirs: [*theirs, *mine])
    browser, _ = known(face, user)
    with browser.visit() as session:
        session[history], session[cart] = ["x"], ["x"]
    turn = browser.copy().open()
    turn.session.update(history, lambda found: [*found, "y"])
    turn.session[cart].append("y")
    with browser.visit() as session:
        session.renew()
        session.update(history, lambda found: [*found, "secret"])
        session[cart].append("secret")
    face.call(face.manager.commit(turn.session))
    assert (turn.session[history], turn.session[cart]) == (["x"], ["x"])  # as they were when it was opened
    turn.finish()


@pytest.mark.parametrize("by_option", [True, False], ids=["option", "argument"])
def test_rule_09_with_an_overlap_the_previous_secret_opens_for_so_long(
    make_face: Callable[..., Face], user: Key[str], by_option: bool
) -> None:
    """Up to the last second, and not in the one after (routine rotation)."""
    face = make_face(**({"overlap": 30} if by_option else {}))
    browser, handle = known(face, user)
    old = browser.copy()
    with browser.visit() as session:
        session.renew() if by_option else session.renew(overlap=30)
    face.clock.advance(29.9)
    with old.visit() as session:
        assert session.handle == handle
        assert session[user] == "ann"
    face.clock.advance(0.1)
    assert not opens(old, handle)
    assert opens(browser, handle)


def test_rule_09_a_request_under_the_previous_secret_works_and_gets_no_cookie(make_face: Callable[..., Face], user: Key[str]) -> None:
    """It reads and writes; its answer must not put the old cookie over the new one, which the browser may have by then."""
    face = make_face(cookie_policy=CookiePolicy(max_age=3600))
    browser, _ = known(face, user)
    old = browser.copy()
    with browser.visit() as session:
        session.renew(overlap=300)
    face.clock.advance(61)  # so that a use is written, and a cookie with Max-Age would be sent again
    turn = old.open()
    turn.session[user] = "ben"
    turn.finish()
    assert values(turn.headers, "Set-Cookie") == []
    with browser.visit() as session:
        assert session[user] == "ben"


def test_rule_09_a_request_under_the_previous_secret_may_not_renew(face: Face, user: Key[str]) -> None:
    """Without an overlap (sign-in) it is refused with status 409, and nothing has happened."""
    browser, handle = known(face, user)
    old = browser.copy()
    with browser.visit() as session:
        session.renew(overlap=60)
    turn = old.open()
    with pytest.raises(Rejected) as caught:
        turn.session.renew()
    assert (caught.value.reason, caught.value.status) == ("renewed", 409)
    turn.discard()
    assert opens(browser, handle)


def test_rule_09_a_rotation_under_the_previous_secret_is_no_work(face: Face, user: Key[str]) -> None:
    """With an overlap nothing more is wanted than that somebody has renewed lately: no error, no cookie, the rest is committed."""
    browser, handle = known(face, user)
    old = browser.copy()
    with browser.visit() as session:
        session.renew(overlap=60)
    turn = old.open()
    turn.session.renew(overlap=60)
    turn.session[user] = "ben"
    turn.finish()
    assert values(turn.headers, "Set-Cookie") == []
    assert opens(browser, handle)
    with browser.visit() as session:
        assert session[user] == "ben"


def test_rule_09_the_previous_secret_after_its_time_is_reported(face: Face, user: Key[str]) -> None:
    """`ReusedOldId` says from where; the session lives on, and the cookies are left alone: the browser may hold newer ones by now."""
    browser, handle = known(face, user)
    old = browser.copy("10.1.2.77")
    with browser.visit() as session:
        session.renew(overlap=10)
    reports = heard(face, ReusedOldId)
    with old.visit():
        pass
    assert reports == []
    face.clock.advance(10)
    turn = old.open()
    assert not turn.session.exists
    turn.finish()
    assert values(turn.headers, "Set-Cookie") == []
    assert [(event.session.handle, event.address) for event in reports] == [(handle, "10.1.2.77")]
    assert opens(browser, handle)


def test_rule_09_the_policy_may_end_the_session_for_it(make_face: Callable[..., Face], user: Key[str]) -> None:
    """`old_id="end"`: whoever presents an old id, the thief or the owner, ends the session for both, and it is reported."""
    face = make_face(old_id="end")
    browser, handle = known(face, user)
    thief = browser.copy()
    with browser.visit() as session:
        session.renew()
    reports = heard(face, ReusedOldId)
    with thief.visit() as session:
        assert user not in session
    assert thief.jar == {}
    assert len(reports) == 1
    assert record_of(face, handle) is None
    with browser.visit() as session:
        assert user not in session


def test_rule_09_only_the_previous_secret_is_an_old_id(face: Face, user: Key[str]) -> None:
    """The one before it is a wrong secret like any other: nothing is remembered of it, so nothing is said."""
    browser, handle = known(face, user)
    older = browser.copy()
    for _ in range(2):
        with browser.visit() as session:
            session.renew(overlap=60)
    reports = heard(face, ReusedOldId)
    with older.visit() as session:
        assert not session.exists
    assert reports == []
    assert opens(browser, handle)


def wrong_secret(browser: Browser) -> None:
    key = browser.jar["SESSION_KEY"]
    browser.jar["SESSION_KEY"] = key[:22] + ("B" if key[22] == "A" else "A") + key[23:]


def wrong_tag(browser: Browser) -> None:
    tag = browser.jar["SESSION_ADDR"]
    browser.jar["SESSION_ADDR"] = ("B" if tag[0] == "A" else "A") + tag[1:]


def no_tag(browser: Browser) -> None:
    del browser.jar["SESSION_ADDR"]


def no_secret(browser: Browser) -> None:
    browser.jar["SESSION_KEY"] = browser.jar["SESSION_KEY"][:22] + "A" * 42


def another_network(browser: Browser) -> None:
    browser.address = "192.0.2.1"


@pytest.mark.parametrize("spoil", [wrong_secret, wrong_tag, no_tag, no_secret, another_network], ids=lambda spoil: spoil.__name__)
@pytest.mark.parametrize("used", [False, True], ids=["new", "used before"])
def test_rule_09_a_wrong_secret_changes_nothing(face: Face, user: Key[str], spoil: Callable[[Browser], None], used: bool) -> None:
    """Not the time of last use, nor whether a second request has used it, nor anything else: the record is the same, byte by byte."""
    browser = face.browser()
    with browser.visit() as session:
        session[user] = "ann"
    handle = bytes.fromhex(face.call(face.manager.get_session(browser.request())).handle).hex()
    if used:
        with browser.visit():
            pass
    before = record_of(face, handle)
    assert before is not None
    assert bool(before.flags & REUSED) is used
    face.clock.advance(300)  # long enough for a use to be written
    forger = browser.copy()
    spoil(forger)
    for create in (False, True, "on_write"):
        try:
            turn = forger.copy().open(create=create)
        except Rejected:
            continue
        assert turn.session.handle != handle
        turn.finish()
    face.call(face.manager.get_session(forger.request()))
    face.call(face.manager.delete_session(forger.request()))
    assert everything(face, handle) == before.pack()
    with browser.visit() as session:  # and the owner's own use is written
        assert session[user] == "ann"
    after = record_of(face, handle)
    assert after is not None
    assert after.used == before.used + 300
    assert after.flags & REUSED


def test_rule_09_a_wrong_secret_does_not_keep_a_session_alive(make_face: Callable[..., Face], user: Key[str]) -> None:
    """A forger who knows the locator (it is no secret) cannot prolong the session's idle time."""
    face = make_face(timeout=600, granularity=60)
    browser, handle = known(face, user)
    forger = browser.copy()
    wrong_secret(forger)
    for _ in range(7):
        face.clock.advance(100)
        forger.copy().open().finish()
    assert not opens(browser, handle)


def test_rule_09_an_old_secret_after_its_time_changes_nothing_either(face: Face, user: Key[str]) -> None:
    """It is a wrong secret by then."""
    browser, handle = known(face, user)
    old = browser.copy()
    with browser.visit() as session:
        session.renew(overlap=10)
    face.clock.advance(300)
    before = everything(face, handle)
    old.open().finish()
    assert everything(face, handle) == before


def test_rule_09_who_is_shut_out_sees_no_number_of_after_either(face: Face) -> None:
    """As with what can be changed in place: the result of an `update` that was applied to the new owner's value is not shown."""
    balance = Key("balance", int)
    browser = face.browser()
    with browser.visit() as session:
        session[balance] = 1
    turn = browser.copy().open()
    turn.session.update(balance, lambda n: n + 1)
    with browser.visit() as session:
        session.renew()
        session[balance] = 4_000
    face.call(face.manager.commit(turn.session))
    assert turn.session[balance] == 1  # as it was when it was opened
    turn.finish()
