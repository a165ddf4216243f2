"""The table of `start_check`, cell by cell: what is handed out, which cookies are set or expired, what is stored, and what is told.

A `Row` is a line of that table (§4), with one of its sub-cases; each is run with the three values of `create`, on every face.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from tests.faces import Browser, Face
from tests.planting import record_of
from tests.rules.scene import BOTH, cookies_set, expired, handle_of, live, stored, values
from typed_sessions import AddressMismatch, AddressPolicy, End, Event, Key, Rejected, ReusedOldId, Session, current_session, redirect
from typed_sessions.lifecycle import STRAGGLE

KEY, ADDR = "SESSION_KEY", "SESSION_ADDR"
ELSEWHERE = "192.0.2.1"
COLUMNS: tuple[Any, ...] = (False, True, "on_write")


@dataclass
class Scene:
    """A session of ann's, one of bob's, and the browser whose request is looked at."""

    face: Face
    ann: Browser
    bob: Browser
    visitor: Browser


def nothing(_: Scene) -> None:
    pass


def no_cookies(scene: Scene) -> None:
    scene.visitor.jar = {}


def drop_addr(scene: Scene) -> None:
    scene.visitor.jar.pop(ADDR, None)


def wrong_addr(scene: Scene) -> None:
    scene.visitor.jar[ADDR] = "A" * 43


def malformed_addr(scene: Scene) -> None:
    scene.visitor.jar[ADDR] = "no tag"


def bobs_addr(scene: Scene) -> None:
    scene.visitor.jar[ADDR] = scene.bob.jar[ADDR]


def addr_twice(scene: Scene) -> None:
    scene.visitor.jar[f"x; {ADDR}"] = scene.bob.jar[ADDR]


def malformed(scene: Scene) -> None:
    scene.visitor.jar[KEY] = "../../etc/passwd"


def unknown(scene: Scene) -> None:
    scene.visitor.jar[KEY] = "A" * 64


def unknown_secret(scene: Scene) -> None:
    scene.visitor.jar[KEY] = scene.visitor.jar[KEY][:22] + scene.bob.jar[KEY][22:]


def key_twice(scene: Scene) -> None:
    scene.visitor.jar = {f"x; {KEY}": scene.bob.jar[KEY], **scene.visitor.jar}


def over(scene: Scene) -> None:
    scene.face.clock.advance(660)


def ended(scene: Scene) -> None:
    scene.face.call(scene.face.manager.end(handle_of(scene.ann)))


def elsewhere(scene: Scene) -> None:
    scene.visitor.address = ELSEWHERE


def neighbour(scene: Scene) -> None:
    scene.visitor.address = "10.1.2.200"


def renewed(scene: Scene) -> None:
    """The visitor has the cookies of before a renew, which still open the session for a minute."""
    with scene.ann.visit() as session:
        session.renew(overlap=60)


def renewed_for_long(scene: Scene) -> None:
    """The previous secret would open the session for longer than the session lives."""
    with scene.ann.visit() as session:
        session.renew(overlap=1e6)


def new_addr(scene: Scene) -> None:
    scene.visitor.jar[ADDR] = scene.ann.jar[ADDR]


def after_the_overlap(scene: Scene) -> None:
    """When no request is under way any more that came before it."""
    scene.face.clock.advance(60 + STRAGGLE)


@dataclass(frozen=True)
class Row:
    """A line of the table. `arrange` is what happens before the request; the rest is what comes of it."""

    name: str
    arrange: tuple[Callable[[Scene], None], ...]
    opens: bool = False
    """The session itself is handed out, in each column."""
    reason: str = "no_session"
    """Of the `Rejected` that `create=False` raises otherwise."""
    expires: bool = False
    """The request's cookies are expired, unless new ones replace them."""
    tells: tuple[str, ...] = ()
    """Which events are sent, before a `Begin`."""
    mismatch: Any = "refuse"
    """What the address policy says."""
    survives: bool = True
    """Ann's session is still there afterwards."""


MALFORMED = [Row(f"malformed, ADDR {name}", (malformed, addr), expires=True) for name, addr in (("right", nothing), ("absent", drop_addr))]
UNKNOWN = [
    Row("unknown, ADDR right", (unknown,), expires=True),
    Row("unknown, ADDR absent", (unknown, drop_addr), expires=True),
    Row("unknown secret of a live session", (unknown_secret,), expires=True),
    Row("unknown secret, from elsewhere", (unknown_secret, elsewhere), expires=True),
]
EXPIRED = [
    Row(f"expired, ADDR {name}", (over, addr), expires=True, tells=("End timeout",), survives=False)
    for name, addr in (("right", nothing), ("absent", drop_addr), ("another session's", bobs_addr))
] + [
    Row("expired, from elsewhere", (over, elsewhere), expires=True, tells=("End timeout",), survives=False),
    Row("expired, previous secret in its overlap", (renewed_for_long, over), expires=True, tells=("End timeout",), survives=False),
    Row("expired, previous secret after its overlap", (renewed, over), expires=True, tells=("End timeout",), survives=False),
]
ENDED = [
    Row(f"ended, ADDR {name}", (ended, addr), expires=True, survives=False)
    for name, addr in (("right", nothing), ("absent", drop_addr), ("another session's", bobs_addr))
]
TWICE = [Row(f"twice, ADDR {name}", (addr, key_twice), expires=True) for name, addr in (("right", nothing), ("absent", drop_addr))]

# "by policy left alone, ended or reported": a wrong address cookie lets nobody in, whatever the policy.
NOT_TOGETHER = [
    Row(
        f"live, ADDR {name}, {mismatch}",
        (addr,),
        reason="bad_cookie",
        mismatch=mismatch,
        tells=("AddressMismatch cookie", *(("End address",) if mismatch == "end" else ())),
        expires=mismatch == "end",
        survives=mismatch != "end",
    )
    for mismatch in ("refuse", "end", "report")
    for name, addr in (
        ("absent", drop_addr),
        ("wrong", wrong_addr),
        ("malformed", malformed_addr),
        ("another session's", bobs_addr),
        ("twice", addr_twice),
    )
] + [
    Row("live, ADDR absent, from elsewhere", (drop_addr, elsewhere), reason="bad_cookie", tells=("AddressMismatch cookie",)),
]
OTHER_ADDRESS = [
    Row("live, from elsewhere, refuse", (elsewhere,), reason="other_address", tells=("AddressMismatch address",)),
    Row(
        "live, from elsewhere, end",
        (elsewhere,),
        reason="other_address",
        mismatch="end",
        tells=("AddressMismatch address", "End address"),
        expires=True,
        survives=False,
    ),
    Row("live, from elsewhere, report", (elsewhere,), mismatch="report", tells=("AddressMismatch address",), opens=True),
]
PREVIOUS = [
    Row("previous secret in its overlap", (renewed,), opens=True),
    Row("previous secret in its overlap, same network", (renewed, neighbour), opens=True),
    Row("previous secret with the new ADDR", (renewed, new_addr), reason="bad_cookie", tells=("AddressMismatch cookie",)),
    Row("previous secret without ADDR", (renewed, drop_addr), reason="bad_cookie", tells=("AddressMismatch cookie",)),
    Row("previous secret from elsewhere", (renewed, elsewhere), reason="other_address", tells=("AddressMismatch address",)),
    Row("previous secret after its overlap", (renewed, after_the_overlap), tells=("ReusedOldId",)),
]
LIVE = [
    Row("live, ADDR right", (), opens=True),
    Row("live, ADDR right, same network", (neighbour,), opens=True),
]
ROWS = [
    Row("absent, ADDR absent", (no_cookies,)),
    *MALFORMED,
    *UNKNOWN,
    *EXPIRED,
    *ENDED,
    *TWICE,
    *NOT_TOGETHER,
    *OTHER_ADDRESS,
    *PREVIOUS,
    *LIVE,
]


class Told:
    """The events of a manager, in words."""

    def __init__(self, face: Face) -> None:
        self.events: list[str] = []
        face.manager.on(Event, self.listen)

    def listen(self, event: Event) -> None:
        name = type(event).__name__
        if isinstance(event, End):
            name += f" {event.reason}"
        if isinstance(event, AddressMismatch):
            name += f" {event.what}"
            assert (event.bound, event.address) != ("", "")
        if isinstance(event, ReusedOldId):
            assert event.address == "10.1.2.3"
        self.events.append(name)


def arranged(make_face: Callable[..., Face], row: Row) -> Scene:
    # A granularity that keeps requests from clearing up in passing: what comes is of this request alone.
    face = make_face(address_policy=AddressPolicy(mismatch=row.mismatch), timeout=600, granularity=1e6)
    browsers: list[Browser] = []
    for name in ("ann", "bob"):
        browser = face.browser()
        with browser.visit() as session:
            session[Key("user", str)] = name
            if name == "bob":
                session.timeout = 1e6
        browsers.append(browser)
    scene = Scene(face, browsers[0], browsers[1], browsers[0].copy())
    for step in row.arrange:
        step(scene)
    return scene


def user_in(session: Session) -> str | None:
    return session.get(Key("user", str))


@pytest.mark.parametrize("create", COLUMNS, ids=lambda create: f"create={create}")
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_start_check_table(make_face: Callable[..., Face], row: Row, create: Any) -> None:
    """One cell of the table."""
    scene = arranged(make_face, row)
    face, visitor = scene.face, scene.visitor
    ann, presented = handle_of(scene.ann), dict(visitor.jar)
    before, sessions = record_of(face, ann), live(face)
    told = Told(face)

    if not row.opens and create is False:
        # `nosession`, or `Rejected` with `error` (400)
        with pytest.raises(Rejected) as refused:
            visitor.open(create=create)
        assert (refused.value.reason, refused.value.status) == (row.reason, 400)
        headers = list(refused.value.headers)
        visitor.take(headers)
    else:
        turn = visitor.open(create=create)
        session = turn.session
        if row.opens:
            assert session.handle == ann
            assert user_in(session) == "ann"
        elif create is True:
            assert session.exists
            assert session.handle not in sessions, "a new session, never one that was there"
        else:
            assert not session.exists
            assert session.handle == ""
        assert row.opens or user_in(session) is None
        assert row.opens or list(session) == []
        headers = turn.finish()

    # Cookies.
    assert values(headers, "Vary") == ["Cookie"]
    if row.opens:
        assert cookies_set(headers) == {}
    elif create is True:
        assert cookies_set(headers).keys() == BOTH
        assert expired(headers) == set()
        new = urlsafe_b64decode(visitor.jar[KEY])
        assert KEY not in presented or presented[KEY][:22] != visitor.jar[KEY][:22], "nor is an id adopted that came with the request"
        assert stored(face, new[:16].hex()).address == visitor.address
    else:
        assert expired(headers) == cookies_set(headers).keys() == (BOTH if row.expires else set())

    # What is stored.
    made = {handle_of(visitor)} if create is True and not row.opens else set[str]()
    assert live(face) == (sessions | made) - (set() if row.survives else {ann})
    after = record_of(face, ann)
    assert (after is not None) == row.survives
    if after is not None and before is not None and not row.opens:
        assert after.pack() == before.pack(), "what is refused changes nothing, not even the time of last use"

    # What is told.
    assert told.events == [*row.tells, *(["Begin"] if made else [])]


@pytest.mark.parametrize("row", [row for row in ROWS if not row.opens], ids=lambda row: row.name)
def test_start_check_an_empty_session_that_is_written_to(make_face: Callable[..., Face], row: Row) -> None:
    """`create="on_write"`: the first committed value makes it a session, with an id of its own and cookies that replace what came."""
    scene = arranged(make_face, row)
    face, visitor = scene.face, scene.visitor
    presented, sessions = dict(visitor.jar), live(face)
    before = record_of(face, handle_of(scene.ann))
    told = Told(face)
    turn = visitor.open(create="on_write")
    turn.session[Key("user", str)] = "eve"
    headers = turn.finish()
    assert cookies_set(headers).keys() == BOTH
    assert expired(headers) == set()
    assert handle_of(visitor) not in sessions
    assert not {presented.get(KEY), presented.get(ADDR)} & {visitor.jar[KEY], visitor.jar[ADDR]}
    assert told.events == [*row.tells, "Begin"]
    if before is not None and row.survives:
        assert stored(face, handle_of(scene.ann)).pack() == before.pack()


def test_start_check_create_is_the_managers_option_unless_it_is_given(make_face: Callable[..., Face]) -> None:
    """And the manager's default is "on_write"."""
    face = make_face()
    turn = face.browser().open()
    assert not turn.session.exists
    turn.finish()
    for option in COLUMNS:
        face.manager.set_options(create=option)
        for given in (None, *COLUMNS):
            wanted = option if given is None else given
            if wanted is False:
                with pytest.raises(Rejected):
                    face.browser().open(create=given)
            else:
                turn = face.browser().open(create=given)
                assert turn.session.exists == (wanted is True)
                turn.finish()


# ------------------------------------------------------------------ nosession and error


class SignInFirst(Exception):
    pass


@pytest.mark.parametrize("row", [row for row in ROWS if not row.opens], ids=lambda row: row.name)
def test_start_check_nosession_is_raised_where_there_is_none(make_face: Callable[..., Face], row: Row) -> None:
    """The caller's own exception, where no session came with the request. What was refused is `Rejected` as before."""
    scene = arranged(make_face, row)
    mine = SignInFirst("sign in first")
    with pytest.raises(SignInFirst if row.reason == "no_session" else Rejected) as raised:
        scene.visitor.open(create=False, nosession=mine)
    assert row.reason != "no_session" or raised.value is mine


@pytest.mark.parametrize("create", [True, "on_write"])
def test_start_check_nosession_is_for_create_false(face: Face, create: Any) -> None:
    """Where there is a session to hand out, an empty one too, nothing is raised."""
    turn = face.browser().open(create=create, nosession=SignInFirst())
    assert turn.session.exists == (create is True)
    turn.finish()


@pytest.mark.parametrize("row", [row for row in ROWS if not row.opens], ids=lambda row: row.name)
def test_start_check_error_is_the_answer(make_face: Callable[..., Face], row: Row) -> None:
    """Its status and headers, and behind them what the session has to say: deletions, `Vary`."""
    scene = arranged(make_face, row)
    with pytest.raises(Rejected) as refused:
        scene.visitor.open(create=False, error=redirect("/login"))
    assert refused.value.status == 303
    assert refused.value.headers[0] == ("Location", "/login")
    assert expired(refused.value.headers) == (BOTH if row.expires else set())
    assert values(refused.value.headers, "Vary") == ["Cookie"]


# ------------------------------------------------------------------ check


class Check:
    """A check that says so and so, and what it was asked about."""

    def __init__(self, sound: bool) -> None:
        self.sound = sound
        self.asked: list[tuple[str | None, bool]] = []

    def __call__(self, session: Session) -> bool:
        self.asked.append((user_in(session), session.exists))
        return self.sound


@pytest.mark.parametrize("create", COLUMNS, ids=lambda create: f"create={create}")
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_start_check_check_runs_on_every_session_that_is_handed_out(make_face: Callable[..., Face], row: Row, create: Any) -> None:
    """New ones too, and before they are stored. True lets everything be as without it."""
    scene = arranged(make_face, row)
    check = Check(True)
    if not row.opens and create is False:
        with pytest.raises(Rejected):
            scene.visitor.open(create=create, check=check)
        assert check.asked == [], "there was none to hand out"
        return
    turn = scene.visitor.open(create=create, check=check)
    assert check.asked == [("ann", True) if row.opens else (None, False)]
    assert turn.session.exists == (row.opens or create is True)
    turn.finish()


@pytest.mark.parametrize("create", COLUMNS, ids=lambda create: f"create={create}")
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_start_check_check_that_says_false(make_face: Callable[..., Face], row: Row, create: Any) -> None:
    """False ends the session, or creates nothing of a new or unsaved one; its cookies are expired, and `error` is answered."""
    scene = arranged(make_face, row)
    face, visitor = scene.face, scene.visitor
    ann, sessions = handle_of(scene.ann), live(face)
    told = Told(face)
    check = Check(False)
    with pytest.raises(Rejected) as refused:
        visitor.open(create=create, check=check, error=(418, [("X-Error", "unsound")]))
    handed_out = row.opens or create is not False
    assert refused.value.status == 418
    assert refused.value.headers[0] == ("X-Error", "unsound")
    assert refused.value.reason == ("check" if handed_out else row.reason)
    assert len(check.asked) == handed_out
    gone = {ann} if row.opens or not row.survives else set[str]()
    assert live(face) == sessions - gone
    assert expired(refused.value.headers) == (BOTH if row.opens or row.expires else set())
    assert told.events == [*row.tells, *(["End check"] if row.opens else [])]


def test_start_check_current_session_in_a_check(face: Face) -> None:
    """In the check, `current_session()` is the session it is asked about; what it writes is written."""

    def check(session: Session) -> bool:
        assert current_session() is session
        session[Key("checked", int)] = session.get(Key("checked", int), 0) + 1
        return True

    browser = face.browser()
    for count in (1, 2):
        with browser.visit(check=check) as session:
            assert session[Key("checked", int)] == count


def test_start_check_a_check_that_raises_is_the_callers_own_trouble(face: Face) -> None:
    """The exception goes through; the session stays, and nothing is begun."""

    def broken(_: Session) -> bool:
        raise SignInFirst

    browser = face.browser()
    with browser.visit() as session:
        session[Key("user", str)] = "ann"
    sessions = live(face)
    for visitor in (browser, face.browser()):
        with pytest.raises(SignInFirst):
            visitor.open(create=True, check=broken)
    assert live(face) == sessions
    with browser.visit() as session:
        assert user_in(session) == "ann"


# ------------------------------------------------------------------ require


def test_start_check_require_refuses_the_request_and_keeps_the_session(face: Face) -> None:
    """Access is another question than soundness: `Rejected` with `error` (403 by default), cookies and session left alone."""
    browser = face.browser()
    with browser.visit() as session:
        session[Key("user", str)] = "ann"
    turn = browser.open()
    answers: list[tuple[dict[str, Any], int, list[tuple[str, str]]]] = [
        ({}, 403, []),
        ({"error": redirect("/login")}, 303, [("Location", "/login")]),
    ]
    for settings, status, headers in answers:
        with pytest.raises(Rejected) as refused:
            turn.session.require(lambda session: user_in(session) == "root", **settings)
        assert (refused.value.reason, refused.value.status, list(refused.value.headers)) == ("require", status, headers)
    turn.session.require(lambda session: user_in(session) == "ann")
    assert cookies_set(turn.finish()) == {}
    with browser.visit() as session:
        assert user_in(session) == "ann"
