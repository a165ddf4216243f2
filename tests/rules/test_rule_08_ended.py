"""Rule 8: a session that has ended stays ended; no request under way, touch, renew or older snapshot brings it back."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.faces import Browser, Face
from tests.planting import IDLE, heard, record_of
from typed_sessions import CommitRefused, End, Key, ListKey, NoSession, Rejected, Session, SessionEnded, StoreUnavailable
from typed_sessions.changes import Changes, Renewal, Use, Write
from typed_sessions.record import Record
from typed_sessions.testing import isolated_keys


@pytest.fixture
def user() -> Key[str]:
    return Key("user", str)


def signed_in(face: Face, user: Key[str]) -> tuple[Browser, str]:
    browser = face.browser()
    with browser.visit() as session:
        session[user] = "ann"
        session[Key("tags", list[str])] = ["a"]
        session[Key("visits", int)] = 1
        session[ListKey("facts", int)].append(1)
    with browser.visit() as session:
        return browser, session.handle


def assert_over(face: Face, handle: str, *browsers: Browser) -> None:
    """Nothing opens the session, nothing lists it, and there is no record of it."""
    assert record_of(face, handle) is None
    assert handle not in [view.handle for view in face.call(face.manager.all())]
    assert face.call(face.manager.end(handle)) is False
    for browser in browsers:
        turn = browser.copy().open(create="on_write")
        assert turn.session.handle != handle
        assert list(turn.session) == []
        turn.discard()


def cookies_in(headers: list[tuple[str, str]]) -> list[str]:
    return [value for name, value in headers if name == "Set-Cookie"]


def by_itself(face: Face, browser: Browser, handle: str) -> None:
    with browser.visit() as session:
        session.end()


def by_handle(face: Face, browser: Browser, handle: str) -> None:
    assert face.call(face.manager.end(handle)) is True


def by_another_process(face: Face, browser: Browser, handle: str) -> None:
    assert face.call(face.another().end(handle)) is True


def by_its_cookies(face: Face, browser: Browser, handle: str) -> None:
    browser.take(face.call(face.manager.delete_session(browser.request())))


def with_all_others(face: Face, browser: Browser, handle: str) -> None:
    assert face.call(face.manager.end_all()) == 1


def by_a_check(face: Face, browser: Browser, handle: str) -> None:
    def unsound(_: Session) -> bool:
        return False

    try:
        browser.open(check=unsound)
    except Rejected as rejected:
        browser.take(rejected.headers)


def by_a_sweep(face: Face, browser: Browser, handle: str) -> None:
    face.clock.advance(10_000)
    assert face.call(face.manager.sweep()) == 1


WAYS = [by_itself, by_handle, by_another_process, by_its_cookies, with_all_others, by_a_check, by_a_sweep]


def assign(session: Session) -> None:
    session[Key("user", str)] = "back"


def assign_another(session: Session) -> None:
    session[Key("other", int)] = 1


def update(session: Session) -> None:
    session.update(Key("visits", int), lambda n: n + 1, default=0)


def delete(session: Session) -> None:
    del session[Key("user", str)]


def change_in_place(session: Session) -> None:
    session[Key("tags", list[str])].append("b")


def append(session: Session) -> None:
    session[ListKey("facts", int)].append(2)


def remove(session: Session) -> None:
    session[ListKey("facts", int)].clear()


def renew(session: Session) -> None:
    session.renew()


def renew_with_overlap(session: Session) -> None:
    session.renew(overlap=60)


def set_timeout(session: Session) -> None:
    session.timeout = 100_000


def resident(session: Session) -> None:
    session[Key("here", int, resident=True)] = 1


WORK = [assign, assign_another, update, delete, change_in_place, append, remove, renew, renew_with_overlap, set_timeout, resident]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_rule_08_however_it_ended_it_stays_ended(face: Face, user: Key[str], way: Callable[[Face, Browser, str], None]) -> None:
    """A request that had it open finishes without an error, and the session is as dead as before (R1)."""
    browser, handle = signed_in(face, user)
    thief, turn = browser.copy(), browser.open()
    turn.session[user] = "back"
    way(face, browser, handle)
    turn.send()
    assert_over(face, handle, browser, thief)


@pytest.mark.parametrize("work", WORK, ids=lambda work: work.__name__)
def test_rule_08_no_request_under_way_brings_it_back(face: Face, user: Key[str], work: Callable[[Session], None]) -> None:
    """Whatever the request has done: `finish()` does not raise, sends no cookie, and the refusal is told once (R1)."""
    browser, handle = signed_in(face, user)
    refused = heard(face, CommitRefused)
    turn = browser.open()
    work(turn.session)
    face.call(face.manager.end(handle))
    headers = turn.send()
    assert cookies_in(headers) == []
    assert ("Vary", "Cookie") in headers
    assert [(event.reason, event.session.handle) for event in refused] == [("ended", handle)]
    assert_over(face, handle, browser)


def test_rule_08_the_refusal_names_what_was_dropped(face: Face, user: Key[str]) -> None:
    """The event carries the keys, and the session as this request had it."""
    browser, handle = signed_in(face, user)
    refused = heard(face, CommitRefused)
    turn = browser.open()
    assign(turn.session)
    append(turn.session)
    face.call(face.manager.end(handle))
    turn.send()
    assert sorted(refused[0].names) == ["facts", "user"]
    assert refused[0].session[user] == "ann"


def test_rule_08_a_reader_under_way_is_answered_as_if_nothing_had_been(face: Face, user: Key[str]) -> None:
    """It has nothing to commit, so it does not learn of the end: no error, no event, no cookie."""
    browser, handle = signed_in(face, user)
    refused = heard(face, CommitRefused)
    turn = browser.open()
    face.call(face.manager.end(handle))
    assert turn.session[user] == "ann"
    assert cookies_in(turn.send()) == []
    assert refused == []


@pytest.mark.parametrize("work", WORK, ids=lambda work: work.__name__)
def test_rule_08_commit_raises_session_ended(face: Face, user: Key[str], work: Callable[[Session], None]) -> None:
    """In the middle of a request the handler learns of it, and the request still finishes in peace, without a cookie."""
    browser, handle = signed_in(face, user)
    turn = browser.open()
    work(turn.session)
    face.call(face.manager.end(handle))
    with pytest.raises(SessionEnded):
        face.call(face.manager.commit(turn.session))
    for late in (assign, append, renew, set_timeout):
        with pytest.raises(SessionEnded):
            late(turn.session)
    with pytest.raises(SessionEnded):
        face.call(face.manager.commit(turn.session))
    assert cookies_in(turn.send()) == []
    assert_over(face, handle, browser)


def test_rule_08_who_ends_it_reads_on_and_writes_nothing(face: Face, user: Key[str]) -> None:
    """The data is there until the response; what is written would have nowhere to stay."""
    browser, handle = signed_in(face, user)
    with browser.visit() as session:
        session.end()
        assert session[user] == "ann"
        assert user in session
        with pytest.raises(SessionEnded):
            session[user] = "bob"
    assert_over(face, handle, browser)


def test_rule_08_refresh_raises_session_ended(face: Face, user: Key[str]) -> None:
    """So does reading again."""
    browser, handle = signed_in(face, user)
    turn = browser.open()
    face.call(face.manager.end(handle))
    with pytest.raises(SessionEnded):
        face.call(face.manager.refresh(turn.session))
    turn.discard()


def test_rule_08_editing_does_not_bring_it_back(face: Face, user: Key[str]) -> None:
    """`edit` finds no ended session, and one that ends inside its block is not written."""
    browser, handle = signed_in(face, user)

    def work(session: Session) -> None:
        session[user] = "back"
        face_end(face, handle)

    with pytest.raises(SessionEnded):
        face.edit(handle, work)
    assert_over(face, handle, browser)
    with pytest.raises(NoSession):
        face.edit(handle, lambda _: None)


def face_end(face: Face, handle: str) -> None:
    """End a session where no coroutine can be awaited: in the store."""
    face.call(face.store.end(bytes.fromhex(handle), "ended", face.clock(), 60.0))


def test_rule_08_a_touch_does_not_bring_it_back(face: Face, user: Key[str]) -> None:
    """A request that roams writes its use in a trip of its own, and finds nobody there."""
    browser, handle = signed_in(face, user)
    record = record_of(face, handle)
    assert record is not None
    face.call(face.manager.end(handle))
    assert face.call(face.store.touch(record.locator, record.digest, IDLE, face.clock())) is False
    assert_over(face, handle, browser)


def test_rule_08_only_one_of_two_ends_it(face: Face, user: Key[str]) -> None:
    """The other request that wanted to end it is no error, gets no cookies expired, and `End` is sent once."""
    browser, handle = signed_in(face, user)
    ends = heard(face, End)
    first, second = browser.open(), browser.open()
    first.session.end()
    second.session.end()
    assert len(cookies_in(first.send())) == 2
    assert cookies_in(second.send()) == []
    assert [(event.reason, event.session.handle) for event in ends] == [("ended", handle)]
    assert_over(face, handle, browser)


def test_rule_08_a_cookie_renewed_before_the_end_is_not_sent_after_it(face: Face, user: Key[str]) -> None:
    """Nor does a request that learns of the end at its last commit hand out what it got in an earlier one (rule 23)."""
    browser, handle = signed_in(face, user)
    turn = browser.open()
    turn.session.renew()
    face.call(face.manager.commit(turn.session))
    turn.session[user] = "ben"
    face.call(face.manager.end(handle))
    assert cookies_in(turn.send()) == []
    assert_over(face, handle, browser)


def test_rule_08_a_session_created_and_ended_during_its_first_request_leaves_no_cookie(face: Face, user: Key[str]) -> None:
    """The same for a session that this request has created."""
    browser = face.browser()
    turn = browser.open(create=True)
    handle = turn.session.handle
    turn.session[user] = "ann"
    face.call(face.manager.end(handle))
    assert cookies_in(turn.send()) == []
    assert_over(face, handle, browser)


def record_for(locator: bytes, now: float) -> Record:
    return Record(
        locator,
        digest=b"d" * 32,
        tag_digest=b"t" * 16,
        address=None,
        created=now,
        used=now,
        timeout=600,
        granularity=60,
        deadline=None,
    )


def every_verb_but_create(face: Face, locator: bytes) -> None:
    """Ask a store everything that can be asked about a locator; each answer says that there is nothing."""
    store, now = face.store, face.clock()
    use = Use(b"d" * 32, b"t" * 16, None, True)
    renewing = Changes()
    renewing.renewal = Renewal(b"d" * 32, b"e" * 32, b"u" * 16, None, 60.0)
    assert face.call(store.open(locator, None, IDLE, now)) is None
    assert face.call(store.open(locator, use, IDLE, now)) is None
    assert face.call(store.touch(locator, b"d" * 32, IDLE, now)) is False
    for changes in (Changes(), Changes({"user": Write(b"\xa3ann")}), Changes({"user": Write(None, base=0)}), renewing):
        outcome = face.call(store.commit(locator, changes, IDLE, now))
        assert (outcome.status, outcome.record) == ("gone", None)
    assert face.call(store.end(locator, "ended", now, 60.0)) is None


def test_rule_08_only_create_makes_a_record(face: Face) -> None:
    """Every other verb needs the record to be there, and does nothing otherwise; so no tombstones are needed."""
    locator = b"l" * 16
    every_verb_but_create(face, locator)
    face.call(face.store.clear(locator, None))
    face.call(face.store.clear(locator, ["user"]))
    assert face.call(face.store.scan(None, 100)) == ([], None)
    assert face.call(face.store.create(record_for(locator, face.clock()), face.clock())) == "created"
    assert [record.locator for record in face.call(face.store.scan(None, 100))[0]] == [locator]


def test_rule_08_a_record_that_is_kept_for_its_hooks_is_as_ended_as_any(face: Face, user: Key[str]) -> None:
    """Values whose hooks nobody here knows stay until another process has run them: no verb gives them to a request."""
    browser = face.browser()
    with isolated_keys(), browser.visit() as session:
        session[Key("hooked", int, cleanup_delete=lambda _: None)] = 1
        session[user] = "ann"
    with browser.visit() as session:
        handle = session.handle
    turn = browser.open()
    turn.session[user] = "back"
    face.call(face.manager.end(handle))
    every_verb_but_create(face, bytes.fromhex(handle))
    turn.send()
    assert_over(face, handle, browser)


def test_rule_08_create_does_not_take_over_a_record(face: Face, user: Key[str]) -> None:
    """Under a locator that exists, `create` answers "taken" and changes nothing (I2)."""
    _, handle = signed_in(face, user)
    before = record_of(face, handle)
    assert before is not None
    assert face.call(face.store.create(record_for(before.locator, face.clock()), face.clock())) == "taken"
    after = record_of(face, handle)
    assert after is not None
    assert after.pack() == before.pack()


def test_rule_08_a_locator_that_is_taken_is_drawn_again(face: Face, user: Key[str]) -> None:
    """A source of random bytes that repeats itself does not make two sessions one (I2, tower-sessions 0.12)."""
    _, handle = signed_in(face, user)
    draws: list[bytes] = []

    def draw(size: int) -> bytes:
        draws.append(bytes.fromhex(handle) + bytes([len(draws)]) * (size - 16) if len(draws) < 2 else b"n" * size)
        return draws[-1]

    face.manager.core.draw = draw
    other = face.browser()
    with other.visit() as session:
        session[user] = "ben"
    assert len(draws) == 3
    with other.visit() as session:
        assert session.handle == (b"n" * 16).hex()
        assert session[user] == "ben"
    record = record_of(face, handle)
    assert record is not None
    assert b"ann" in record.fields["user"]


def test_rule_08_a_source_that_only_repeats_itself_creates_nothing(face: Face, user: Key[str]) -> None:
    """After 8 locators that are taken the request fails closed; the session that has the locator is untouched (I2)."""
    _, handle = signed_in(face, user)
    draws: list[int] = []

    def draw(size: int) -> bytes:
        draws.append(size)
        return (bytes.fromhex(handle) + b"r" * size)[:size]

    face.manager.core.draw = draw
    browser = face.browser()
    turn = browser.open()
    turn.session[user] = "ben"
    with pytest.raises(StoreUnavailable, match="random"):
        turn.send()
    assert 8 <= len(draws) <= 9  # the memory store is asked once more before
    assert turn.discard() == [("Vary", "Cookie")]
    assert len(face.call(face.manager.all())) == 1


def test_rule_08_a_secret_that_repeats_is_drawn_again_at_renew(face: Face, user: Key[str]) -> None:
    """A renew never gives the secret that it replaces, nor the one before (I2)."""
    browser, _ = signed_in(face, user)
    source: list[bytes] = [b"a" * 80, b"a" * 80, b"b" * 80, b"b" * 80, b"a" * 80, b"c" * 80]

    def draw(size: int) -> bytes:
        return source.pop(0)

    face.manager.core.draw = draw
    jars: list[dict[str, str]] = []
    for _ in range(3):
        with browser.visit() as session:
            session.renew()
        jars.append(dict(browser.jar))
    assert source == []
    assert len({jar["SESSION_KEY"] for jar in jars}) == 3


@pytest.mark.stores("memory")
def test_rule_08_an_older_snapshot_does_not_bring_it_back(face: Face, user: Key[str], tmp_path: Path) -> None:
    """The journal beside a snapshot remembers ends and renewals: a snapshot from before them gives neither back (L4, WSTG-SESS-06)."""
    path, old = tmp_path / "sessions", tmp_path / "old"
    (ended, handle), (renewed, _), (kept, kept_handle) = (signed_in(face, user) for _ in range(3))
    face.call(face.manager.save_sessions(path))
    shutil.copy(path, old)
    face.call(face.manager.end(handle))
    stolen = renewed.copy()
    with renewed.visit() as session:
        session.renew()
    face.call(face.manager.save_sessions(path))
    shutil.copy(old, path)  # somebody restores a backup of the file

    after = Face(face.kind, type(face.store)())
    assert after.call(after.manager.load_sessions(path)) == 2
    for browser in (ended, stolen, renewed, kept):
        browser.face = after
    assert_over(after, handle, ended)
    for browser, there in ((stolen, False), (renewed, True), (kept, True)):
        with browser.visit() as session:
            assert (user in session) is there
    assert kept_handle in [view.handle for view in after.call(after.manager.all())]
    after.close()


def test_rule_08_a_new_session_after_the_end_is_another_one(face: Face, user: Key[str]) -> None:
    """What the browser gets next has another locator and none of the data; the ended id is not adopted (I5)."""
    browser, handle = signed_in(face, user)
    dead = dict(browser.jar)
    by_itself(face, browser, handle)
    assert browser.jar == {}
    browser.jar = dict(dead)
    with browser.visit() as session:
        assert user not in session
        session[Key("other", int)] = 1
    assert browser.jar.keys() == dead.keys()
    assert all(browser.jar[name] != dead[name] for name in dead)
    with browser.visit() as session:
        assert session.handle != handle
        names: Any = [key.name for key in session]
        assert names == ["other"]
