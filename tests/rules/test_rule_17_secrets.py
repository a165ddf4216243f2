"""Rule 17: the secret is random, of 256 bits, and in nobody's hands but the browser's; the locator names the record and is no secret."""

from __future__ import annotations

import io
import logging
import secrets
import traceback
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import fields, is_dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from tests.faces import FACES, Browser, Face
from tests.rules.scene import Connection, cookies_set, handle_of, live, stored
from tests.watched import Watched
from typed_sessions import (
    AddressPolicy,
    CookiePolicy,
    Event,
    Key,
    MemoryStore,
    NoPeerAddress,
    PolicyError,
    Rejected,
    Request,
    SealingKeys,
    SessionView,
    SetCookie,
    StoreUnavailable,
)
from typed_sessions.changes import Idle, Use, apply_use
from typed_sessions.exchange import Exchange
from typed_sessions.lifecycle import Presented, issue, judge
from typed_sessions.record import Previous, Record
from typed_sessions.session import tracking_of

Make = Callable[..., Face]


def parts(key_value: str) -> tuple[bytes, bytes]:
    """The locator and the secret of a SESSION_KEY."""
    raw = urlsafe_b64decode(key_value)
    return raw[:16], raw[16:]


def signed_in(face: Face, **settings: Any) -> Browser:
    browser = face.browser()
    turn = browser.open(**settings)
    turn.session[Key("user", str)] = "ann"
    turn.finish()
    return browser


# ------------------------------------------------------------------ the id


def test_rule_17_an_id_is_locator_and_secret_from_the_systems_generator(face: Face) -> None:
    """16 + 32 bytes of `secrets.token_bytes` (I1, ASVS 7.2.3). The handle is made from the locator, and only from that."""
    assert face.manager.core.draw is secrets.token_bytes
    browser = signed_in(face)
    locator, secret = parts(browser.jar["SESSION_KEY"])
    assert (len(locator), len(secret)) == (16, 32)
    assert live(face) == {locator.hex()}


def test_rule_17_no_two_ids_have_anything_in_common(face: Face) -> None:
    """Neither of two sessions nor of one before and after a renew, which keeps the locator alone."""
    seen: set[bytes] = set()
    browser = face.browser()
    for _ in range(50):
        browser = signed_in(face)
        seen |= {*parts(browser.jar["SESSION_KEY"]), urlsafe_b64decode(browser.jar["SESSION_ADDR"] + "=")}
    assert len(seen) == 150
    before = dict(browser.jar)
    with browser.visit() as session:
        session.renew()
    assert parts(before["SESSION_KEY"])[0] == parts(browser.jar["SESSION_KEY"])[0]
    assert parts(before["SESSION_KEY"])[1] != parts(browser.jar["SESSION_KEY"])[1]
    assert before["SESSION_ADDR"] != browser.jar["SESSION_ADDR"]


def test_rule_17_a_generator_that_repeats_itself_is_refused(face: Face) -> None:
    """A locator that is taken is drawn again, and after a few times creating fails; nobody's session is overwritten (I2)."""
    browser = signed_in(face)
    locator, _ = parts(browser.jar["SESSION_KEY"])
    draws = 0

    def same(count: int) -> bytes:
        nonlocal draws
        draws += 1
        return locator + bytes(count - 16)

    face.manager.core.draw = same
    with pytest.raises(StoreUnavailable, match="repeats itself"):
        signed_in(face)
    assert 8 <= draws <= 9  # the memory store is asked once more before
    with browser.visit() as session:
        assert session[Key("user", str)] == "ann"


def always_x(count: int) -> bytes:
    return b"x" * count


def test_rule_17_also_by_a_renew(face: Face) -> None:
    """A renew that would give out the secret that is there already fails instead (I2, tower-sessions 0.12)."""
    face.manager.core.draw = always_x
    browser = signed_in(face)
    before = dict(browser.jar)
    turn = browser.open()
    turn.session.renew()
    with pytest.raises(StoreUnavailable, match="repeats itself"):
        turn.finish()
    assert browser.jar == before
    with browser.visit() as session:
        assert session[Key("user", str)] == "ann"


def test_rule_17_only_a_digest_is_stored(face: Face) -> None:
    """SHA-256 of the secret: whoever reads the store can make no cookie of it (I3, Rack CVE-2019-16782)."""
    browser = signed_in(face)
    locator, secret = parts(browser.jar["SESSION_KEY"])
    record = stored(face, locator.hex())
    assert record.digest == sha256(secret).digest()
    for stolen in (record.digest, record.tag_digest.ljust(32, b"\0")):
        thief = browser.copy()
        thief.jar["SESSION_KEY"] = urlsafe_b64encode(locator + stolen).decode()
        turn = thief.open()
        assert not turn.session.exists
        turn.discard()


class Uncompared(bytes):
    """Bytes for which `==` is an error: only a comparison in constant time looks at them."""

    __hash__ = bytes.__hash__

    def __eq__(self, other: object) -> bool:
        raise AssertionError("compared byte by byte, until the first that differs")

    def __ne__(self, other: object) -> bool:
        raise AssertionError("compared byte by byte, until the first that differs")


@pytest.mark.parametrize("previous", [False, True])
@pytest.mark.parametrize("right", ["both", "the secret", "neither"])
def test_rule_17_digests_are_compared_in_constant_time(right: str, previous: bool) -> None:
    """What a request presents meets what is stored in `hmac.compare_digest` alone, in the store and in the verdict."""
    mine, other = issue(secrets.token_bytes), issue(secrets.token_bytes)
    kept = other if previous else mine
    record = Record(mine.locator, Uncompared(kept.digest), Uncompared(kept.tag_digest), 0.0, 0.0, 600.0, 60.0, address="10.1.2.3")
    if previous:
        record.previous = Previous(Uncompared(mine.digest), Uncompared(mine.tag_digest), 100.0)
    secret = parts(mine.key_value)[1] if right != "neither" else bytes(32)
    tag_digest = Uncompared(mine.tag_digest if right == "both" else bytes(16))
    used = apply_use(record, Use(mine.locator, tag_digest, "10.1.2.3", False), Idle(600.0, 60.0), 50.0)
    assert (used is not None) == (right == "both")
    presented = Presented(mine.locator, secret, tag_digest)
    wanted = {"both": "previous" if previous else "live", "the secret": "cookie", "neither": "dead"}[right]
    assert judge(presented, record, "10.1.2.3", AddressPolicy(), 50.0) == wanted


# ------------------------------------------------------------------ where it must not be


class Secrets:
    """Everything that was a secret in the course of a test, in every spelling in which it could be found."""

    def __init__(self) -> None:
        self.values: set[tuple[str, str]] = set()

    def note(self, cookies: dict[str, str]) -> None:
        for name, value in cookies.items():
            if value:
                self.values.add(("ADDR" if name.endswith("_ADDR") else "KEY", value))

    def spellings(self) -> Iterator[bytes]:
        assert self.values
        for kind, value in self.values:
            raw = urlsafe_b64decode(value + "=" * (-len(value) % 4))
            secret = raw[16:] if kind == "KEY" else raw
            text = value[22:] if kind == "KEY" else value  # 22 characters are the locator's, and one bit of the secret
            yield secret
            yield text.encode()
            yield secret.hex().encode()
            yield secret.hex().upper().encode()
            yield repr(secret)[2:-1].encode()

    def are_in(self, what: bytes | str) -> bool:
        data = what.encode("utf-8", "backslashreplace") if isinstance(what, str) else what
        return any(spelling in data for spelling in self.spellings())


class Watching(Browser):
    """A browser whose every cookie is noted as a secret."""

    def __init__(self, face: Face, seen: Secrets, **where: Any) -> None:
        super().__init__(face, **where)
        self.seen = seen

    def take(self, headers: Any) -> None:
        super().take(headers)
        self.seen.note(self.jar)


def a_whole_life(face: Face, path: Path, seen: Secrets) -> Iterator[Any]:
    """Everything that can happen to a session; gives every object that a program could write into a log on the way."""
    user = Key("user", str)
    events: list[Event] = []
    face.manager.on(Event, events.append)
    browser = Watching(face, seen)
    request = browser.request()
    yield request
    turn = browser.open()
    turn.session[user] = "ann"
    yield from (turn.session, turn.finisher, tracking_of(turn.session), tracking_of(turn.session).owner)
    turn.finish()
    yield from (turn.session, turn.finisher, turn.finisher.cookies, tracking_of(turn.session).owner, turn.finisher.cookies[0])
    face.call(face.manager.save_sessions(path))
    old = browser.copy()
    thief = browser.copy(address="192.0.2.1")
    face.clock.advance(61)
    turn = browser.open()
    yield from (browser.request(), turn.session, stored(face, handle_of(browser)), face.manager, face.store)
    turn.session.renew(overlap=5)
    turn.finish()
    yield from (turn.finisher.cookies, tracking_of(turn.session).owner)
    with old.visit() as session:
        yield session
    face.clock.advance(10)
    for stranger in (old, thief):
        for spoil in ({}, {"SESSION_ADDR": "x"}, {"SESSION_KEY": "x"}):
            stranger.jar.update(spoil)
            try:
                stranger.open(create=False)
            except Rejected as refused:
                yield from (refused, refused.args, refused.headers)
    late = browser.copy().open()
    late.session[user] = "eve"
    yield face.call(face.manager.get_session(browser.request()))
    yield face.call(face.manager.all())
    with Connection(face) as connection:
        turn = browser.open(client=connection.client)
        yield connection.client
        turn.session.end()
        turn.finish()
    late.finish()
    yield late.finisher
    again = Watching(face, seen)
    turn = again.open(create=True)
    turn.finish()
    face.clock.advance(2000)
    face.call(face.manager.sweep())
    face.call(face.manager.save_sessions(path))
    yield events


def as_rich(thing: Any) -> str:
    """What rich shows of an object, and structlog and all that formats tracebacks with it: `__rich_repr__` goes before `__repr__`."""
    if type(thing) in (list, tuple):
        return f"[{', '.join(map(as_rich, thing))}]"
    if is_dataclass(thing) and not isinstance(thing, type):
        return as_rich([getattr(thing, field.name) for field in fields(thing) if field.repr])
    own = getattr(thing, "__rich_repr__", None)
    return repr(thing) if own is None or isinstance(thing, type) else f"{type(thing).__name__}{as_rich(own())}"


@pytest.fixture(params=FACES)
def memory_face(request: pytest.FixtureRequest) -> Iterator[Face]:
    """A face on the one store that snapshots are for."""
    face = Face(request.param, MemoryStore(), cookie_policy=CookiePolicy(max_age=1000))
    yield face
    face.close()


def test_rule_17_no_secret_in_store_snapshot_journal_log_or_repr(
    memory_face: Face, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Over a whole life, with everything logged that can be (I3, I4; CVE-2023-20866, CVE-2022-24757)."""
    seen = Secrets()
    shown = io.StringIO()
    files: dict[str, bytes] = {}
    handles: set[str] = set()
    with caplog.at_level(logging.DEBUG):
        for thing in a_whole_life(memory_face, tmp_path / "sessions", seen):
            print(repr(thing), str(thing), f"{thing}", as_rich(thing), file=shown)
            for locator, packed in memory_face.store.cut():
                handles.add(locator.hex())
                assert not seen.values or not seen.are_in(packed)
                print(repr(Record.unpack(locator, packed)), as_rich(Record.unpack(locator, packed)), file=shown)
            for file in tmp_path.iterdir():
                files[file.name] = files.get(file.name, b"") + file.read_bytes()
    assert len(seen.values) >= 6
    assert not seen.are_in(shown.getvalue())
    assert not seen.are_in(caplog.text)
    assert {"sessions", "sessions.journal"} <= files.keys()
    for data in files.values():
        assert not seen.are_in(data)
    assert any(handle in shown.getvalue() for handle in handles), "the locator is no secret: it may be shown"


def test_rule_17_the_check_above_can_fail(memory_face: Face) -> None:
    """It finds a secret in a cookie, in a header and in bytes, in each spelling."""
    seen = Secrets()
    browser = Watching(memory_face, seen)
    with browser.visit() as session:
        session[Key("user", str)] = "ann"
    value = browser.jar["SESSION_KEY"]
    for text in (value, f"x{value[22:]}x", parts(value)[1], parts(value)[1].hex(), repr(parts(value)), browser.jar["SESSION_ADDR"]):
        assert seen.are_in(text)
    assert not seen.are_in(value[:22])


def test_rule_17_who_shows_an_object_by_its_fields_gets_no_cookie_and_no_value(memory_face: Face) -> None:
    """A session in the frame of a handler that fails is in the report with its handle; not its data, nor the request that it is of (I4)."""
    user = Key("user", str)
    browser = memory_face.browser()
    with browser.visit() as session:
        session[user] = "the value"
    headers = [("Cookie", "; ".join(f"{name}={value}" for name, value in browser.jar.items()))]
    turn = browser.open()
    turn.session.update(user, str.upper)
    tracking = tracking_of(turn.session)
    exchange = tracking.owner
    assert isinstance(exchange, Exchange)
    exchange.source = headers  # as a server's own request object shows it
    new = issue(secrets.token_bytes)
    presented = Presented(new.locator, b"the value", b"")
    for thing in (turn.session, SessionView(tracking), tracking, exchange, tracking.record, new, presented):
        for text in (repr(thing), as_rich(thing)):
            assert "the value" not in text.lower()
            for secret in (*browser.jar.values(), new.key_value, new.addr_value):
                assert secret not in text
    assert turn.session.handle in as_rich(turn.session)
    turn.discard()


@pytest.mark.parametrize("form", ["a key", "hex", "twice"])
def test_rule_17_no_sealing_key_in_the_traceback_of_one_that_is_refused(form: str) -> None:
    """It may be the right one, in another form, and the program is just being set up where it is to run."""
    key = secrets.token_hex(32)
    given: dict[str, Any] = {"a key": key, "hex": [key], "twice": [bytes.fromhex(key)] * 2}
    with pytest.raises(PolicyError) as raised:
        SealingKeys(given[form])
    [*_, frame] = traceback.walk_tb(raised.value.__traceback__)
    assert frame[0].f_code.co_name == "__init__"
    for value in frame[0].f_locals.values():
        assert key not in repr(value)
        assert repr(bytes.fromhex(key)) not in repr(value)


class Broken(Exception):
    pass


def test_rule_17_no_secret_in_a_traceback(memory_face: Face) -> None:
    """Error reporters show the local variables of every frame: session, request, exchange, finish and cookies among them (I4)."""
    face = memory_face
    seen = Secrets()
    browser = Watching(face, seen)
    shown: list[str] = []

    def handler() -> None:
        turn = browser.open()
        request, session, finish = browser.request(), turn.session, turn.finisher
        tracking = tracking_of(session)
        exchange, record, view = tracking.owner, tracking.record, SessionView(tracking)
        session[Key("user", str)] = "ann"
        session.renew()
        face.call(face.manager.commit(session))
        cookies = finish.cookies
        seen.note({cookie.name: cookie.value for cookie in cookies})
        assert all((request, session, finish, exchange, view, cookies))
        assert record is None or isinstance(record, Record)
        raise Broken

    def failing(_: object) -> bool:
        raise Broken

    for attempt in range(3):
        with suppress(Broken):
            try:
                if attempt == 2:
                    browser.open(check=failing)
                handler()
            except Broken as problem:
                seen.note(browser.jar)
                captured = traceback.TracebackException.from_exception(problem, capture_locals=True)
                for frame in captured.stack:
                    # The test's own browser holds the jar; what it is shown as is the default.
                    frame.locals = {name: text for name, text in (frame.locals or {}).items() if name not in ("seen", "shown")}
                shown.append("".join(captured.format()))
                raise
        with browser.visit() as session:
            session[Key("user", str)] = "ann"
    assert len(shown) == 3
    assert "session = <Session" in shown[0]
    assert "request = " in shown[2]
    for text in shown:
        assert not seen.are_in(text)


@pytest.mark.parametrize("verb", ["open", "create", "commit", "touch", "end"])
def test_rule_17_nor_in_that_of_a_store_that_fails(memory_face: Face, verb: str) -> None:
    """The frames of this package hold ids on their way to the store and from the generator; none of them shows one."""
    face = memory_face
    store = face.store = Watched(face.store)
    face.renew()
    seen = Secrets()
    drawn: list[bytes] = []

    def draw(count: int) -> bytes:
        drawn.append(secrets.token_bytes(count))
        return drawn[-1]

    face.manager.core.draw = draw
    browser = Watching(face, seen)
    with browser.visit() as session:
        session[Key("user", str)] = "ann"
    face.clock.advance(61)
    if verb == "create":
        browser.jar.clear()
    if verb == "touch":
        browser.address = "10.1.2.99"
    store.faults[verb] = StoreUnavailable("down")

    def request() -> None:
        turn = browser.open()
        turn.session[Key("user", str)] = "eve"
        if verb == "end":
            turn.session.end()
        elif verb == "commit":
            turn.session.renew()
        turn.send()

    with pytest.raises(StoreUnavailable) as failure:
        request()
    store.faults.clear()
    captured = traceback.TracebackException.from_exception(failure.value, capture_locals=True)
    for frame in captured.stack:
        frame.locals = {name: text for name, text in (frame.locals or {}).items() if name not in ("seen", "drawn")}
    text = "".join(captured.format())
    assert "typed_sessions/plans.py" in text or "typed_sessions/manager.py" in text or "typed_sessions/aio.py" in text
    assert not seen.are_in(text)
    for random in drawn:
        for part in (random[16:48], random[48:]):
            assert part.hex() not in text
            assert repr(part)[2:-1] not in text
            assert urlsafe_b64encode(part).decode().rstrip("=")[2:-2] not in text


def test_rule_17_what_is_sent_is_the_only_place(memory_face: Face) -> None:
    """A `SetCookie` shows its name and its attributes, its value only to whoever asks for it."""
    browser = memory_face.browser()
    turn = browser.open(create=True)
    headers = turn.finish()
    cookies = turn.finisher.cookies
    assert {cookie.name for cookie in cookies} == cookies_set(headers).keys()
    for cookie in cookies:
        assert isinstance(cookie, SetCookie)
        assert cookie.value in dict(cookies_set(headers))[cookie.name]
        assert cookie.value not in repr(cookies)


def test_rule_17_a_request_shows_where_it_came_from_and_no_header(memory_face: Face) -> None:
    """`Request` is this package's own class, so the cookies in it are not shown either."""
    request = Request(headers=[("Cookie", "SESSION_KEY=secret"), ("Authorization", "secret")], peer="10.1.2.3", path="/here")
    assert "secret" not in repr(request)
    assert "10.1.2.3" in repr(request)
    assert "/here" in repr(request)


def test_rule_17_no_cookie_in_the_traceback_of_a_missing_address(face: Face) -> None:
    """Tools that report errors send the locals of every frame along."""
    browser = face.browser(None)
    browser.jar = {"SESSION_KEY": "S" * 64, "SESSION_ADDR": "T" * 43}
    with pytest.raises(NoPeerAddress) as raised:
        browser.open()
    frames = [frame for frame, _ in traceback.walk_tb(raised.value.__traceback__) if "typed_sessions" in frame.f_code.co_filename]
    assert frames
    for frame in frames:
        for value in frame.f_locals.values():
            assert "SSSS" not in str(value)
            assert "TTTT" not in str(value)
