"""Rule 9: renew replaces the secret, keeps the locator, the data and the absolute lifetime."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.faces import Face
from tests.planting import heard, record_of
from tests.rules.scene import known, opens, values
from typed_sessions import (
    AddressPolicy,
    CommitRefused,
    CookiePolicy,
    HeadersSent,
    Key,
    ListKey,
    LostUpdate,
    PolicyError,
    Rejected,
    Session,
    SessionEnded,
)


@pytest.fixture
def user() -> Key[str]:
    return Key("user", str)


def test_rule_09_renew_replaces_the_secret_and_keeps_the_data(face: Face) -> None:
    """After a renew the old cookie opens nothing, the new one opens the same session with its data (ASVS 7.2.4)."""
    user = Key("user", str)
    browser = face.browser()
    with browser.visit() as session:
        session[user] = "ann"
        handle = session.handle
    old = browser.copy()
    with browser.visit() as session:
        handle = session.handle
        session.renew()
    with old.visit() as session:
        assert not session.exists
    with browser.visit() as session:
        assert session.handle == handle
        assert session[user] == "ann"


def test_rule_09_both_cookies_are_new(face: Face, user: Key[str]) -> None:
    """The secret, and the tag with it; the session stays the same, and no half of the old pair goes with one of the new (C7)."""
    browser, handle = known(face, user)
    old = browser.copy()
    with browser.visit() as session:
        session.renew()
    assert browser.jar.keys() == old.jar.keys() == {"SESSION_KEY", "SESSION_ADDR"}
    assert all(browser.jar[name] != old.jar[name] for name in old.jar)
    for name in old.jar:
        mixed = browser.copy()
        mixed.jar[name] = old.jar[name]
        assert not opens(mixed, handle)
    assert opens(browser, handle)


def test_rule_09_what_changed_is_committed_with_the_renewal(face: Face, user: Key[str]) -> None:
    """A sign-in writes and renews in one commit, before or after one another."""
    browser, _ = known(face, user)
    before, after = Key("before", int), Key("after", int)
    with browser.visit() as session:
        session[before] = 1
        session.renew()
        session[after] = 2
    with browser.visit() as session:
        assert (session[user], session[before], session[after]) == ("ann", 1, 2)


def test_rule_09_clear_drops_the_data(face: Face, user: Key[str]) -> None:
    """`renew(clear=True)` begins with an empty session under the same locator; what is written after it is there."""
    browser, handle = known(face, user)
    name = Key("name", str)
    with browser.visit() as session:
        session[name] = "dropped"
        session.renew(clear=True)
        assert user not in session
        assert name not in session
        session[name] = "kept"
    with browser.visit() as session:
        assert session.handle == handle
        assert list(session) == [name]
        assert session[name] == "kept"


def test_rule_09_clear_drops_what_the_session_has_chosen(make_face: Callable[..., Face], user: Key[str]) -> None:
    """Whoever signs in where somebody else was "remembered" is not, unless this sign-in says so; a plain `renew()` keeps both."""
    face = make_face(timeout=600, cookie_policy=CookiePolicy(max_age=9_000, persistent=False))
    browser, _ = known(face, user)
    with browser.visit() as session:
        session.timeout, session.persistent = 9_000, True
        session.renew()
    turn = browser.open()
    assert (turn.session.timeout, turn.session.persistent) == (9_000, True)
    turn.session.renew(clear=True)
    turn.session[user] = "bob"
    assert (turn.session.timeout, turn.session.persistent) == (600, False)
    assert ["Max-Age" in cookie for cookie in values(turn.finish(), "Set-Cookie")] == [False, False]
    turn.arrive()
    with browser.visit() as session:
        assert (session[user], session.timeout, session.persistent) == ("bob", 600, False)
        session.timeout, session.persistent = 7_000, True  # before, or after: it is the same request's
        session.renew(clear=True)
    with browser.visit() as session:
        assert (session.timeout, session.persistent) == (7_000, True)


def test_rule_09_nothing_of_before_a_clear_comes_back(face: Face, user: Key[str]) -> None:
    """Not by an `update`, which begins from its default, not by a change in place, nor as an object of this process."""
    visits, cart, facts = Key("visits", int), Key("cart", list[str]), ListKey("facts", str)
    database = Key("database", object, resident=True)
    browser, _ = known(face, user)
    with browser.visit() as session:
        session[visits], session[cart], session[database] = 5, ["old"], object()
        session[facts].append("old")
    with browser.visit() as session:
        session.renew(clear=True)
        assert session.update(visits, lambda n: n + 1, default=0) == 1
        session.setdefault(cart, list[str]).append("new")
        session[facts].append("new")
    with browser.visit() as session:
        assert (session[visits], session[cart], list(session[facts])) == (1, ["new"], ["new"])
        assert user not in session
        assert database not in session


def test_rule_09_an_object_of_this_process_that_is_set_after_a_clear_stays(face: Face, user: Key[str]) -> None:
    """It belongs to what begins then."""
    database = Key("database", object, resident=True)
    browser, _ = known(face, user)
    before, after = object(), object()
    with browser.visit() as session:
        session[database] = before
    with browser.visit() as session:
        session.renew(clear=True)
        session[database] = after
    with browser.visit() as session:
        assert session[database] is after


def test_rule_09_the_absolute_lifetime_is_not_reset(make_face: Callable[..., Face], user: Key[str]) -> None:
    """However often it is renewed, the session is over `lifetime` seconds after its creation (L2, ASVS 7.3.2)."""
    face = make_face(timeout=None, lifetime=1_000)
    browser, handle = known(face, user)
    for _ in range(3):
        face.clock.advance(300)
        with browser.visit() as session:
            assert session[user] == "ann"
            session.renew()
    record = record_of(face, handle)
    assert record is not None
    assert record.deadline == record.created + 1_000
    face.clock.advance(100)
    assert not opens(browser, handle)


def test_rule_09_the_argument_goes_before_the_option(make_face: Callable[..., Face], user: Key[str]) -> None:
    """`renew(overlap=0)` at sign-in is without an overlap, whatever the manager's rotation has."""
    face = make_face(overlap=30)
    browser, handle = known(face, user)
    old = browser.copy()
    with browser.visit() as session:
        session.renew(overlap=0)
    assert not opens(old, handle)


@pytest.mark.parametrize("overlap", [-1, float("inf"), float("nan"), True], ids=repr)
def test_rule_09_an_overlap_is_a_number_of_seconds(face: Face, user: Key[str], overlap: Any) -> None:
    """Anything else is refused at the call, which has done nothing."""
    browser, handle = known(face, user)
    with browser.visit() as session, pytest.raises(PolicyError, match="overlap"):
        session.renew(overlap=overlap)
    assert opens(browser, handle)


def test_rule_09_of_two_sign_ins_one_wins(face: Face, user: Key[str]) -> None:
    """The other is refused as a whole and gets no cookie; exactly one secret opens the session, and the browser has it (R3)."""
    browser, handle = known(face, user)
    before = browser.copy()
    refused = heard(face, CommitRefused)
    first, second = browser.open(), browser.open()
    for turn, name in ((first, "first"), (second, "second")):
        turn.session[user] = name
        turn.session.renew()
    second.send()
    first.send()
    assert (len(values(first.headers, "Set-Cookie")), len(values(second.headers, "Set-Cookie"))) == (0, 2)
    second.arrive()
    first.arrive()
    assert [(event.reason, event.names) for event in refused] == [("renewed", ("user",))]
    assert opens(browser, handle)
    assert not opens(before, handle)
    with browser.visit() as session:
        assert session[user] == "second"


def test_rule_09_of_two_rotations_one_wins(face: Face, user: Key[str]) -> None:
    """With an overlap the other's changes are committed all the same, and the browser keeps the winner's cookies."""
    browser, handle = known(face, user)
    refused = heard(face, CommitRefused)
    first, second = browser.open(), browser.open()
    for turn, number in ((first, 1), (second, 2)):
        turn.session[Key(f"key {number}", int)] = number
        turn.session.renew(overlap=60)
    second.send()
    first.send()
    assert (len(values(first.headers, "Set-Cookie")), len(values(second.headers, "Set-Cookie"))) == (0, 2)
    second.arrive()
    first.arrive()
    assert refused == []
    assert opens(browser, handle)
    with browser.visit() as session:
        assert [session[Key(f"key {number}", int)] for number in (1, 2)] == [1, 2]


def test_rule_09_a_request_whose_rotation_lost_may_not_renew_later(face: Face, user: Key[str]) -> None:
    """After a commit in the middle it is a request under the previous secret."""
    browser, handle = known(face, user)
    first, second = browser.open(), browser.open()
    second.session.renew(overlap=60)
    second.finish()
    first.session.renew(overlap=60)
    face.call(face.manager.commit(first.session))
    with pytest.raises(Rejected, match="previous id"):
        first.session.renew(overlap=0)
    first.finish()
    assert values(first.headers, "Set-Cookie") == []
    assert opens(browser, handle)


@pytest.mark.parametrize("catch_up", ["commit", "refresh"])
def test_rule_09_a_request_that_learns_of_a_rotation_may_not_renew(face: Face, user: Key[str], catch_up: str) -> None:
    """Having seen the new state does not make it a request under the new secret."""
    browser, handle = known(face, user)
    first, second = browser.open(), browser.open()
    second.session.renew(overlap=60)
    second.finish()
    first.session[Key("other", int)] = 1
    face.call(getattr(face.manager, catch_up)(first.session))
    with pytest.raises(Rejected, match="previous id"):
        first.session.renew(overlap=0)
    first.finish()
    assert values(first.headers, "Set-Cookie") == []
    assert opens(browser, handle)


def test_rule_09_a_request_from_before_a_sign_in_sees_nothing_of_what_is_in_it_after(face: Face, user: Key[str]) -> None:
    """What it writes to other keys is committed (rule 7); but it gets neither the new data nor a new secret (session fixation)."""
    visits = Key("visits", int)
    browser = face.browser()
    with browser.visit() as session:
        session[visits] = 1
    thief = browser.copy().open()
    turn = browser.open()
    turn.session[user] = "ann"
    turn.session.renew()
    turn.finish()
    thief.session.update(visits, lambda n: n + 1)
    face.call(face.manager.commit(thief.session))
    assert user not in thief.session
    assert list(thief.session) == [visits]
    writes: list[Callable[[Session], object]] = [lambda session: session.__setitem__(visits, 9), lambda session: session.renew()]
    for write in writes:
        with pytest.raises(SessionEnded):
            write(thief.session)
    for look in (face.manager.refresh, face.manager.commit):
        with pytest.raises(SessionEnded):
            face.call(look(thief.session))
    thief.finish()
    assert values(thief.headers, "Set-Cookie") == []
    with browser.visit() as session:
        assert (session[user], session[visits]) == ("ann", 2)


def test_rule_09_refresh_raises_after_a_sign_in_elsewhere(face: Face, user: Key[str]) -> None:
    """Also in a request that came under the previous secret of an earlier rotation."""
    browser, _ = known(face, user)
    old = browser.copy()
    with browser.visit() as session:
        session.renew(overlap=600)
    under_previous, under_current = old.open(), browser.open()
    for turn in (under_previous, under_current):
        face.call(face.manager.refresh(turn.session))
    with browser.visit() as session:
        session.renew()
    for turn in (under_previous, under_current):
        with pytest.raises(SessionEnded):
            face.call(face.manager.refresh(turn.session))
        turn.finish()


def test_rule_09_a_renewal_binds_the_session_to_where_it_was_asked_for(face: Face, user: Key[str]) -> None:
    """The new tag is of the address of the request that renews: from then on that one is the bound address."""
    browser, handle = known(face, user)
    browser.address = "10.1.2.99"  # the same network
    with browser.visit() as session:
        assert session.address == "10.1.2.3"
        session.renew()
    with browser.visit() as session:
        assert session.address == "10.1.2.99"
    assert opens(browser, handle)


def test_rule_09_a_new_session_may_be_renewed_in_its_first_request(face: Face, user: Key[str]) -> None:
    """There is nothing to replace yet: one pair of cookies, and they open it (C11)."""
    browser = face.browser()
    turn = browser.open()
    turn.session[user] = "ann"
    turn.session.renew()
    turn.finish()
    assert len(values(turn.headers, "Set-Cookie")) == 2
    with browser.visit() as session:
        assert session[user] == "ann"


def test_rule_09_renewing_twice_in_a_request_sets_one_pair_of_cookies(face: Face, user: Key[str]) -> None:
    """Also with a commit in between: the browser gets the last secret, and only that opens the session (C11)."""
    browser, handle = known(face, user)
    turn = browser.open()
    for _ in range(2):
        turn.session.renew()
        face.call(face.manager.commit(turn.session))
    turn.session.renew()
    turn.finish()
    assert len(values(turn.headers, "Set-Cookie")) == 2
    assert opens(browser, handle)


def test_rule_09_outside_of_a_request_there_is_no_cookie_to_renew(face: Face, user: Key[str]) -> None:
    """`edit` raises at the call, since nobody would get the new secret."""
    browser, handle = known(face, user)

    def work(session: Session) -> None:
        with pytest.raises(HeadersSent):
            session.renew()

    face.edit(handle, work)
    assert opens(browser, handle)


def test_rule_09_a_renewal_is_no_end_to_an_edit(face: Face, user: Key[str]) -> None:
    """`edit` goes by the handle, which stays: what it writes is there for whoever has the new cookie."""
    browser, handle = known(face, user)

    def work(session: Session) -> None:
        with browser.visit() as its_own:
            its_own.renew()
        session[user] = "bob"

    face.edit(handle, work)
    with browser.visit() as session:
        assert (session.handle, session[user]) == (handle, "bob")


@pytest.mark.parametrize("learn", ["commit", "refresh", "finish"])
@pytest.mark.parametrize("overlap", [0, 60])
def test_rule_09_who_learns_of_a_renewal_does_not_send_the_old_cookie_again(
    make_face: Callable[..., Face], user: Key[str], learn: str, overlap: float
) -> None:
    """A lasting cookie is sent again when a use is written; not by a request that has seen that it was replaced meanwhile (rule 23)."""
    face = make_face(cookie_policy=CookiePolicy(max_age=3600))
    browser, handle = known(face, user)
    face.clock.advance(61)
    first, second = browser.open(), browser.open()
    second.session.renew(overlap=overlap)
    second.finish()
    first.session[Key("other", int)] = 1
    if learn == "commit":
        face.call(face.manager.commit(first.session))
    elif learn == "refresh" and overlap:
        face.call(face.manager.refresh(first.session))
    first.finish()
    assert values(first.headers, "Set-Cookie") == []
    assert opens(browser, handle)


def test_rule_09_a_previous_secret_is_one_wherever_it_comes_from(make_face: Callable[..., Face], user: Key[str]) -> None:
    """Where a foreign address is only reported: the previous secret opens the session, may not renew, and gets no cookie."""
    face = make_face(cookie_policy=CookiePolicy(max_age=3600), address_policy=AddressPolicy(mismatch="report"))
    owner, handle = known(face, user)
    thief = owner.copy()
    thief.address = "192.0.2.1"
    with owner.visit() as session:
        session.renew(overlap=3600)
    face.clock.advance(61)
    turn = thief.open()
    assert turn.session[user] == "ann"
    with pytest.raises(Rejected):
        turn.session.renew(overlap=0)
    turn.finish()
    assert values(turn.headers, "Set-Cookie") == []
    assert opens(owner, handle)


@pytest.mark.parametrize("mid_request", [False, True], ids=["at the end", "mid-request"])
def test_rule_09_who_loses_a_rotation_clears_nothing(face: Face, user: Key[str], mid_request: bool) -> None:
    """Of two `renew(clear=True)` at once the other's values, lists and objects of this process stay, and what it has written itself is
    committed; a value that it had begun anew by an `update` is told as a `LostUpdate`."""
    visits, note, facts, database = Key("visits", int), Key("note", str), ListKey("facts", str), Key("database", object, resident=True)
    browser, handle = known(face, user)
    lost = heard(face, LostUpdate)
    first, second = browser.open(), browser.open()
    kept = object()
    first.session.renew(overlap=60, clear=True)
    first.session[user], first.session[database], first.session[visits] = "bob", kept, 5
    first.session[facts].append("first")
    second.session.renew(overlap=60, clear=True)
    second.session[note] = "second"
    second.session.update(visits, lambda n: n + 1, default=0)
    second.session[facts].append("second")
    first.send()
    if mid_request:
        face.call(face.manager.commit(second.session))
        assert second.session[user] == "bob"
        assert second.session[database] is kept
    second.send()
    assert (len(values(first.headers, "Set-Cookie")), len(values(second.headers, "Set-Cookie"))) == (2, 0)
    first.arrive()
    second.arrive()
    assert opens(browser, handle)
    with browser.visit() as session:
        assert (session[user], session[note], list(session[facts])) == ("bob", "second", ["first", "second"])
        assert session[database] is kept
    assert [event.name for event in lost] == ["visits"]


def test_rule_09_what_was_read_before_a_clear_is_gone_at_once(face: Face) -> None:
    """Whoever signs out with `renew(clear=True)` and goes on sees nobody signed in, also where the handler has looked before."""
    user, visits, facts = Key("user", str), Key("visits", int), ListKey("facts", str)
    browser = face.browser()
    with browser.visit() as session:
        session[user], session[visits] = "ann", 5
        session[facts].append("old")
    with browser.visit() as session:
        assert (session[user], session.get(visits), list(session[facts])) == ("ann", 5, ["old"])
        session[facts].append("of before")
        session.renew(clear=True)
        assert user not in session
        assert session.get(visits) is None
        assert list(session[facts]) == []
        assert list(session) == []
    with browser.visit() as session:
        assert list(session) == []


@pytest.mark.parametrize("what", ["begin", "renew", "end", "not persistent", "use", "overtaken", "nothing"])
def test_rule_09_the_cookies_of_a_finish_are_those_of_its_headers(make_face: Callable[..., Face], what: str) -> None:
    """`finish.cookies`, for servers that take no headers; who was overtaken by a renewal sends the old cookie in neither (rule 23)."""
    user, other = Key("user", str), Key("other", int)
    face = make_face(cookie_policy=CookiePolicy(max_age=3600))
    browser = face.browser()
    for _ in range(2):
        with browser.visit() as session:
            session[user] = "ann"
    if what in ("use", "overtaken"):
        face.clock.advance(61)
    turn = face.browser().open() if what == "begin" else browser.open()
    if what == "renew":
        turn.session.renew()
    elif what == "end":
        turn.session.end()
    elif what == "not persistent":
        turn.session.persistent = False
    elif what == "overtaken":
        rival = browser.open()
        rival.session.renew(overlap=60)
        rival.finish()
    if what not in ("end", "nothing"):
        turn.session[other] = 1
    sent = [value for name, value in turn.finish() if name == "Set-Cookie"]
    assert [cookie.header() for cookie in turn.finisher.cookies] == sent
    assert len(sent) == (0 if what in ("overtaken", "nothing") else 2)
