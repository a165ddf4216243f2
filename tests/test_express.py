"""The short ways of nearly every request (`express`) come to what the layers come to, and each of their conditions is needed for that."""

from __future__ import annotations

import asyncio
import inspect
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.faces import Face
from tests.ways import ACTS, CASES, FORMS, NOWHERE, PEER, SETTINGS, Settings, Short, Visit, begun, run
from typed_sessions import (
    AsyncSessionManager,
    Key,
    MemoryStore,
    Request,
    SealingKeys,
    Session,
    SessionManager,
    SQLiteStore,
    express,
)
from typed_sessions.carrying import Turn
from typed_sessions.core import Core
from typed_sessions.exchange import Exchange
from typed_sessions.filters import asgi, wsgi
from typed_sessions.lifecycle import present_at_once
from typed_sessions.session import tracking_of
from typed_sessions.stores.shard import Shard
from typed_sessions.testing import FakeClock


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_both_ways_come_to_the_same(kind: str, case: str) -> None:
    """Answers, cookies, values, events and every stored byte are those of the layers."""
    name, visits = CASES[case]
    assert run(Short(), SETTINGS[name], visits, kind) == run(None, SETTINGS[name], visits, kind)


visits_of_all_kinds: st.SearchStrategy[Visit] = st.deferred(
    lambda: st.builds(
        Visit,
        acts=st.lists(st.sampled_from(ACTS), max_size=4).map(tuple),
        form=st.one_of(st.sampled_from(["usual", "usual", "usual", "usual", "among others", "nothing"]), st.sampled_from(list(FORMS))),
        peer=st.sampled_from([PEER, PEER, PEER, PEER, "198.51.100.9", None, NOWHERE]),
        wait=st.sampled_from([0.0, 0.0, 0.0, 5.0, 61.0, 650.0, -30.0]),
        between=st.one_of(st.just(()), st.just(()), st.just(()), visits_of_all_kinds.map(lambda visit: (visit._replace(wait=0.0),))),
    )
)


@given(st.sampled_from(list(SETTINGS)), st.lists(visits_of_all_kinds, max_size=8))
@settings(deadline=None, max_examples=400)
def test_both_ways_come_to_the_same_whatever_is_done(name: str, visits: list[Visit]) -> None:
    """Requests of all kinds, one after the other and within each other, under every setting."""
    assert run(Short(), SETTINGS[name], (*begun, *visits)) == run(None, SETTINGS[name], (*begun, *visits))


@given(st.sampled_from(list(SETTINGS)), st.lists(visits_of_all_kinds, max_size=8))
@settings(deadline=None, max_examples=60)
def test_both_ways_come_to_the_same_in_a_file_whatever_is_done(name: str, visits: list[Visit]) -> None:
    """The same, where a commit is a statement."""
    assert run(Short(), SETTINGS[name], (*begun, *visits), "sqlite") == run(None, SETTINGS[name], (*begun, *visits), "sqlite")


class Broken(NamedTuple):
    """A part of the source of `express`, what is in its place, the case that catches that, and which of several parts alike it is.

    Or of the source of `present_at_once`, or of a store's verb that only a short way asks for.
    """

    part: str
    instead: str
    case: str
    which: int = 0
    of: Callable[..., object] | None = None
    kind: str = "memory"


_recently = "or not 0 <= now - record.used < record.granularity\n"
_lifetime = "or (record.deadline is not None and now >= record.deadline)\n"

BROKEN = (
    Broken("not core.calm_since <= now < core.next_sweep", "False", "a sweep in passing"),
    Broken("not core.enabled", "False", "('text',), off"),
    Broken("core.origin_behind(guard, exchange.source, peer) if core.trusts else ", "", "('text',), behind a proxy"),
    Broken("https if told is None else told", "https", "('text',), behind a proxy over https"),
    Broken("guard.check is not None", "False", "after a check"),
    Broken("if address is None:", "if False:", "no address"),
    Broken("cookies.stem not in header", "True", "cookies: usual"),
    Broken('!= "on_write"', "is None", "('text',), path"),
    Broken("stem in before", "False", "cookies: another address before", of=present_at_once),
    Broken("stem in rest", "False", "cookies: another address behind", of=present_at_once),
    Broken('(before and before[-2:] != "; ")', "False", "cookies: the end of a name", of=present_at_once),
    Broken("if len(key) != KEY_LENGTH", "if False", "cookies: a longer key", of=present_at_once),
    Broken('dot != "."', "False", "cookies: a longer key", of=present_at_once),
    Broken(' or ";" in route', "", "cookies: another key within a route", of=present_at_once),
    Broken('(len(rest) != ADDR_LENGTH and rest[ADDR_LENGTH:_ADDR_END] != "; ")', "False", "cookies: a longer address", of=present_at_once),
    Broken("len(header) > MAX_HEADER", "False", "cookies: far behind", of=present_at_once),
    Broken('(len(before) > _NEAR and header.count(";") >= MAX_PAIRS)', "False", "cookies: late", of=present_at_once),
    Broken("not compare_digest(tag_digest, record.tag_digest)", "False", "cookies: a wrong address"),
    Broken("address != record.address", "False", "another peer, nothing"),
    Broken("not record.flags & REUSED", "False", "used only once"),
    Broken(_recently, "\n", "after a minute in which somebody else has swept", 0),
    Broken(_recently, "\n", "a minute within", 1),
    Broken(_lifetime, "\n", "over by its lifetime", 0),
    Broken(_lifetime, "\n", "over within", 1),
    Broken('exchange.verdict = "live"', "pass", "cookies: usual", 0),
    Broken('exchange.verdict = "live"', "pass", "at first text", 1),
    Broken("guard.lasting or ", "", "a cookie sent again"),
    Broken("guard.has_clients or ", "", "('text',), clients"),
    Broken(" or exchange.failing", "", "a failed answer"),
    Broken("core.came(record, address, now)", "pass", "who lingers"),
    Broken("not core.is_plain(tracking)", "False", "text, then renew"),
    Broken(" or tracking.lists", "", "text, then chat"),
    Broken(" or exchange.resend_due", "", "a cookie sent again after a refresh"),
    Broken("not tracking.slots", "False", "nothing left to commit after a refresh"),
    Broken("record.flags & HOOKED\n            or ", "", "who commits lingers"),
    Broken('slot.mode != "assigned" or ', "", "text, then delete", 0),
    Broken('slot.mode != "assigned" or ', "", "deleted in the first request", 1),
    Broken(" or not key.direct", "", "a basket changed once it is assigned", 0),
    Broken(" or not key.direct", "", "a basket in the first request", 1),
    Broken(" or key.has_hooks", "", "then hooked", 0),
    Broken(" or key.has_hooks", "", "at first hooked", 1),
    Broken("len(fields) > _FEW", "False", "('many',), nothing"),
    Broken("size += grown(name, before, len(packed))", "pass", "then text"),
    Broken("self._store.swap(record, after)", "(self._store.swap(record, after) or True)", "another key meanwhile"),
    Broken(" or core.has_listeners", "", "('text',), listeners"),
    Broken("exchange.issued = core.issued(session_id)", "pass", "at first text"),
    Broken("exchange.created = True", "pass", "at first text"),
    Broken("core.connect(exchange, record, now)", "pass", "at first text"),
    Broken(" or size_of(stored)", "", "too large in the second step", kind="sqlite"),
    Broken("after.size > self._limits.max_bytes or ", "", "too large", of=SQLiteStore.swap, kind="sqlite"),
    Broken(" or len(after.fields) > self._limits.max_keys", "", "too many", of=SQLiteStore.swap, kind="sqlite"),
    Broken("self._max_sessions is None and ", "", "a full store", of=SQLiteStore.begin, kind="sqlite"),
    Broken("tracking.values[name] = slot.value", "pass", "then text"),
    Broken("tracking.persistent = tracking.is_persistent(written)", "pass", "a browser session given up at first"),
)


@pytest.mark.parametrize("broken", BROKEN, ids=range(len(BROKEN)))
def test_every_condition_is_needed(broken: Broken, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any one part of it a short way comes to something else, in a case that is named for it."""
    of = broken.of
    source = textwrap.dedent(inspect.getsource(express if of is None else of))
    parts = source.split(broken.part)
    many = sum((other.part, other.of) == (broken.part, of) for other in BROKEN)
    assert len(parts) == many + 1, f"{broken.part!r} stands in the source {len(parts) - 1} times"
    before, behind = parts[: broken.which + 1], parts[broken.which + 1 :]
    source = broken.part.join(before) + broken.instead + broken.part.join(behind)
    short = Short()
    if of is None:
        names: dict[str, Any] = {"__name__": express.__name__, "__package__": express.__package__}
        exec(source, names)
        short = Short(names["ShortOpening"], names["ShortCommit"])
    else:
        names = dict(vars(sys.modules[of.__module__]))
        exec(source, names)
        if of is present_at_once:
            short = Short(at_once=names[of.__name__])
        else:
            monkeypatch.setattr(SQLiteStore, of.__name__, names[of.__name__])
    name, visits = CASES[broken.case]
    assert run_or_fail(short, SETTINGS[name], visits, broken.kind) != run(None, SETTINGS[name], visits, broken.kind)


def run_or_fail(take: Short, settings: Settings, visits: Sequence[Visit], kind: str) -> list[object]:
    """As `run`; a broken one may do anything."""
    try:
        return run(take, settings, visits, kind)
    except Exception as problem:
        return [problem]


class Front(NamedTuple):
    """A way into a manager: `request` makes one request with these cookies, which writes or not, and gives the `Set-Cookie` headers."""

    request: Callable[[str, bool], list[str]]
    close: Callable[[], None] = lambda: None


def use(session: Session, text: Key[str], writes: bool) -> None:
    """What each of them does with the session of a request."""
    if writes:
        session[text] = "written"
    assert session.get(text, "written") == "written"


def by_hand(kind: str) -> Front:
    text = Key("text", str)
    face = Face(kind, MemoryStore())

    def request(cookie: str, writes: bool) -> list[str]:
        asked = Request(headers=[("Cookie", cookie)] if cookie else [], peer=PEER)
        session, finish = face.call(face.manager.start_check(asked))
        use(session, text, writes)
        return [value for name, value in face.call(finish()) if name == "Set-Cookie"]

    return Front(request, face.close)


def by_wsgi(_: str) -> Front:
    text = Key("text", str)
    sessions = SessionManager()

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        use(wsgi.open_session(environ), text, environ["PATH_INFO"] == "/write")
        start_response("200 OK", [])
        return [b""]

    served = wsgi.SessionMiddleware(application, sessions)

    def request(cookie: str, writes: bool) -> list[str]:
        sent: list[tuple[str, str]] = []
        environ = {"REMOTE_ADDR": PEER, "wsgi.url_scheme": "http", "PATH_INFO": "/write" if writes else "/"}

        def start_response(_: str, headers: list[tuple[str, str]], __: object = None) -> Callable[[bytes], None]:
            sent.extend(headers)
            return lambda _: None

        served({**environ, "HTTP_COOKIE": cookie} if cookie else environ, start_response)
        return [value for name, value in sent if name == "Set-Cookie"]

    return Front(request)


def by_asgi(_: str) -> Front:
    text = Key("text", str)
    sessions = AsyncSessionManager()

    async def application(scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        use(await asgi.open_session(scope), text, scope["path"] == "/write")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    served = asgi.SessionMiddleware(application, sessions)

    def request(cookie: str, writes: bool) -> list[str]:
        sent: list[tuple[bytes, bytes]] = []

        async def send(message: asgi.Message) -> None:
            sent.extend(message.get("headers", ()))

        async def receive() -> asgi.Message:
            raise AssertionError("there is no body")

        headers = [(b"cookie", cookie.encode())] if cookie else []
        scope = {"type": "http", "scheme": "http", "client": (PEER, 1), "path": "/write" if writes else "/", "headers": headers}
        asyncio.run(served(scope, receive, send))
        return [value.decode() for name, value in sent if name == b"set-cookie"]

    return Front(request)


@pytest.mark.parametrize(("make", "kind"), [(by_hand, "sync"), (by_hand, "async"), (by_wsgi, ""), (by_asgi, "")])
def test_usual_requests_take_the_short_way(make: Callable[[str], Front], kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that begins a session, one that reads and one that writes, of every filter: the layers are not asked. All else is theirs."""
    front = make(kind)

    def pair(told: list[str]) -> str:
        return "; ".join(value.partition(";")[0] for value in told)

    cookie = pair(front.request("", True))
    front.request(cookie, False)  # it is at rest, and its first use has to be written
    with monkeypatch.context() as within:
        for owner, name in ((Core, "ask"), (Core, "draft"), (Core, "settled"), (MemoryStore, "open"), (MemoryStore, "commit")):
            within.setattr(owner, name, the_layers)
        assert front.request("", False) == []
        assert front.request(cookie, False) == []
        assert front.request(cookie, True) == []
        assert len(front.request("", True)) == 2
        with pytest.raises(AssertionError, match="the layers"):
            front.request(cookie.replace("; ", "; a=b; "), False)
    assert front.request(cookie.replace("; ", "; a=b; "), True) == []
    front.close()


@pytest.mark.parametrize("bounded", [False, True])
def test_usual_commits_into_a_file_take_the_short_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, bounded: bool) -> None:
    """Also the second one of a request, and the one of a request whose use has been written. A bound is the layers' business."""
    text = Key("text", str)
    clock = FakeClock()
    store = SQLiteStore(tmp_path / "sessions.db", max_sessions=9 if bounded else None)
    with SessionManager(store, clock=clock) as sessions:
        with monkeypatch.context() as within:
            if not bounded:
                within.setattr(SQLiteStore, "create", the_layers)
            within.setattr(SQLiteStore, "commit", the_layers)
            session, finish = sessions.start_check(Request(headers=[], peer=PEER))
            session[text] = "first"
            cookie = "; ".join(value.partition(";")[0] for name, value in finish() if name == "Set-Cookie")
            request = Request(headers=[("Cookie", cookie)], peer=PEER)
            for n in range(3):
                clock.advance(30)
                session, finish = sessions.start_check(request)
                session[text] = f"{n}"
                sessions.commit_exchange(cast("Any", tracking_of(session)).owner)
                session[text] = f"{n} once more"
                finish()
        session, finish = sessions.start_check(request)
        assert session[text] == "2 once more"
        session.pop(text)
        finish()
        assert text not in sessions.start_check(request)[0]


@pytest.mark.parametrize("kind", [MemoryStore, SQLiteStore])
def test_a_short_commit_that_was_given_up_is_not_repeated_by_finish(
    kind: type[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A time limit by signal, after it is stored: what another request has written since stays, as by the layers (rule 28)."""
    text = Key("text", str)
    store = kind() if kind is MemoryStore else kind(tmp_path / "sessions.db")

    def too_late(verb: Callable[..., bool]) -> Callable[..., bool]:
        def done(*args: Any) -> bool:
            assert verb(*args)
            raise TimeoutError("the job's time is over")

        return done

    with SessionManager(store) as sessions:

        def begin(cookie: str, value: str) -> Any:
            session, finish = sessions.start_check(Request(headers=[("Cookie", cookie)] if cookie else [], peer=PEER))
            session[text] = value
            return finish

        def given_up(finish: Any, verb: str) -> None:
            with monkeypatch.context() as within:
                within.setattr(kind, verb, too_late(getattr(kind, verb)))
                with pytest.raises(TimeoutError):
                    finish.start()

        cookie = "; ".join(value.partition(";")[0] for name, value in begin("", "first")() if name == "Set-Cookie")
        sessions.start_check(Request(headers=[("Cookie", cookie)], peer=PEER))[1]()
        finish = begin(cookie, "mine")
        given_up(finish, "swap")
        begin(cookie, "theirs")()
        finish()
        assert sessions.start_check(Request(headers=[("Cookie", cookie)], peer=PEER))[0][text] == "theirs"
        finish = begin("", "new")
        given_up(finish, "begin")
        assert finish() == [("Vary", "Cookie")]
        assert len(list(sessions.all())) == 2


def the_layers(*_: object, **__: object) -> None:
    raise AssertionError("the layers")


def sealed(kind: type[Any], _: str) -> Any:
    return kind(seal=SealingKeys([bytes(32)]))


def elsewhere(kind: type[Any], file: str) -> Any:
    return kind(SQLiteStore(file))


@pytest.mark.parametrize("make", [sealed, elsewhere])
@pytest.mark.parametrize("kind", [SessionManager, AsyncSessionManager])
def test_what_is_sealed_or_waited_for_goes_through_the_layers(
    make: Callable[[type[Any], str], Any], kind: type[Any], tmp_path: Path
) -> None:
    """There, a value is more than what its key's codec makes of it, or something has to be waited for."""
    manager = make(kind, str(tmp_path / "sessions.db"))
    assert manager._short_opening is None
    assert (manager._short_commit is not None) == (kind is SessionManager and make is elsewhere)
    if isinstance(manager, SessionManager):
        manager.close()
    else:
        asyncio.run(manager.aclose())


def test_what_another_task_commits_is_not_committed_beside_it() -> None:
    """The short way does not overtake one of the request's own tasks that is in the middle of a commit."""
    sessions: Any = AsyncSessionManager()
    text = Key("text", str)
    exchange = Exchange(sessions._guard(None), Request(headers=[], peer=PEER))
    session = asyncio.run(sessions.open_exchange(exchange))
    session[text] = "written"
    exchange.turn = Turn(None)
    assert sessions._short_commit.commit(exchange) is False
    exchange.turn = None
    assert sessions._short_commit.commit(exchange) is True


def test_work_in_the_background_begins_with_the_first_request() -> None:
    """Whichever way that takes: nothing else would begin it in an event loop that runs later than the manager was made."""

    sessions: Any = AsyncSessionManager(gc="active")
    assert not sessions._tasks._running

    async def begin() -> None:
        exchange = Exchange(sessions._guard(None), Request(headers=[], peer=PEER))
        assert isinstance(sessions.open_soon(exchange), Session)
        assert sessions._tasks._running
        await sessions.aclose()

    asyncio.run(begin())


def test_the_store_puts_nothing_in_the_place_of_what_a_snapshot_is_taken_of() -> None:
    """While it is taken, what was there is kept, which the store's own verbs know how to do (rule 29)."""
    text = Key("text", str)
    store, clock = MemoryStore(shards=1), FakeClock()
    sessions = SessionManager(store, clock=clock)
    session, finish = sessions.start_check(Request(headers=[], peer=PEER))
    session[text] = "before"
    cookie = "; ".join(value.partition(";")[0] for name, value in finish() if name == "Set-Cookie")
    request = Request(headers=[("Cookie", cookie)], peer=PEER)
    sessions.start_check(request)[1]()
    locator = bytes.fromhex(session.handle)
    shard: Shard = cast("Any", store)._shards[0]
    before = store.in_use(locator)
    assert before is not None
    assert store.in_use(bytes(16)) is None
    shard.before = {}
    assert store.swap(before, before.copy()) is False
    session, finish = sessions.start_check(request)
    session[text] = "meanwhile"
    finish()
    kept = shard.before.popitem()[1]
    assert kept is before
    assert b"before" in before.fields[text.name]
    new, finish = sessions.start_check(Request(headers=[], peer=PEER))
    new[text] = "new"
    finish()
    assert list(shard.before.values()) == [None]
    shard.before = None
    assert store.swap(before, before.copy()) is False, "another one has taken its place"
    after = store.in_use(locator)
    assert after is not None
    assert b"meanwhile" in after.fields[text.name]
