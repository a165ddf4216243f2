"""Requests of all kinds, by the short ways of nearly every request (`express`) or by the layers: how they are answered, what is stored.

`CASES` are those that tell the two apart if one condition of a short way is missing.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any, NamedTuple, cast
from unittest.mock import patch

from typed_sessions import (
    AddressPolicy,
    Begin,
    Client,
    CookiePolicy,
    End,
    Event,
    Key,
    KeyTypeError,
    ListKey,
    MemoryStore,
    Rejected,
    Session,
    SessionError,
    SessionManager,
    SQLiteStore,
    core,
    express,
)
from typed_sessions.exchange import Exchange, Guard
from typed_sessions.express import ShortCommit, ShortOpening
from typed_sessions.finish import close_exchange, forget_changes
from typed_sessions.lifecycle import present_at_once
from typed_sessions.policy import SessionCookies
from typed_sessions.record import Record, size_of
from typed_sessions.testing import FakeClock, isolated_keys

PEER = "192.0.2.1"
NOWHERE = "a name, and no address"


class Keys:
    """Keys of every kind. They are declared for one run, and forgotten after it: a key with hooks concerns whoever sweeps."""

    def __init__(self) -> None:
        self.text = Key("text", str)
        self.number = Key("number", int)
        self.basket = Key("basket", list[str])
        self.hooked = Key("hooked", str, cleanup_delete=lambda _: None, cleanup_no_client=lambda _: False)
        self.chat = ListKey("chat", str)
        self.others = [Key(f"other {n}", int) for n in range(17)]


NOTHING: Mapping[str, Any] = MappingProxyType({})


class Source(NamedTuple):
    """A request, as the reader here wants it."""

    header: str
    peer: str | None
    client: Client | None


class Reader:
    """Gets what is needed out of a `Source`."""

    def __init__(self, *, has_clients: bool, schemes: Sequence[str]) -> None:
        self.has_clients = has_clients
        self.schemes = schemes

    def basics(self, source: Source, /) -> tuple[str | None, bool, str]:
        return source.peer, False, source.header

    def path(self, _: Source, /) -> str:
        return "/shop/cart"

    def headers(self, source: Source, name: str, /) -> Sequence[str]:
        return {"cookie": [source.header], "x-forwarded-for": ["198.51.100.7"], "x-forwarded-proto": self.schemes}.get(name, [])

    def client(self, source: Source, /) -> Client | None:
        return source.client


class Visit(NamedTuple):
    """One request: what it does, how its cookies come, from where, how long after the one before, and which others come in between.

    The others come before all that it does, unless one of its acts is to let them.
    """

    acts: tuple[str, ...] = ()
    form: str = "usual"
    peer: str | None = PEER
    wait: float = 0.0
    between: tuple[Visit, ...] = ()
    failing: bool = False


FORMS: dict[str, Callable[[str, str], str]] = {
    "usual": lambda key, addr: f"{key}; {addr}",
    "among others": lambda key, addr: f"a=b; {key}; {addr}; c=d",
    "the other way round": lambda key, addr: f"{addr}; {key}",
    "apart": lambda key, addr: f"{key}; a=b; {addr}",
    "without blanks": lambda key, addr: f"{key};{addr}",
    "nothing": lambda _, __: "",
    "nothing of ours": lambda _, __: "a=b; c=d",
    "the key alone": lambda key, _: key,
    "the address alone": lambda _, addr: addr,
    "no key": lambda _, addr: f"{addr}; SESSION_KEY=",
    "another key before": lambda key, addr: f"SESSION_KEY={'x' * 64}; {key}; {addr}",
    "another address before": lambda key, addr: f"SESSION_ADDR={'x' * 43}; {key}; {addr}",
    "another key behind": lambda key, addr: f"{key}; {addr}; SESSION_KEY={'x' * 64}",
    "another address behind": lambda key, addr: f"{key}; {addr}; SESSION_ADDR={'x' * 43}",
    "another key within": lambda key, _: f"{key}; SESSION_ADDR=a; SESSION_KEY=b; c={'d' * 30}",
    "twice the same": lambda key, addr: f"{key}; {addr}; {key}; {addr}",
    "the end of a name": lambda key, addr: f"X{key}; {addr}",
    "a longer key": lambda key, addr: f"{key}=; {addr}",
    "a quoted key": lambda key, addr: f'{key.replace("=", chr(61) + chr(34), 1)}"; {addr}',
    "a routed key": lambda key, addr: f"{key}.a; {addr}",
    "another key within a route": lambda key, addr: f"{key}.a; SESSION_KEY={'b' * 64}; {addr}",
    "a key with a blank": lambda key, addr: f"{key[:30]} {key[31:]}; {addr}",
    "a shorter key": lambda key, addr: f"{key[:-1]}; {addr}",
    "a broken key": lambda key, addr: f"{key[:-1]}!; {addr}",
    "a longer address": lambda key, addr: f"{key}; {addr}x",
    "a shorter address": lambda key, addr: f"{key}; {addr[:-1]}",
    "a wrong address": lambda key, addr: f"{key}; {addr[:-1]}{'A' if addr[-1] != 'A' else 'B'}",
    "a foreign letter": lambda key, addr: f"{key[:-1]}é; {addr}",
    "a blank behind": lambda key, addr: f"{key}; {addr} ; a=b",
    "far behind": lambda key, addr: f"a={'b' * 16_400}; {key}; {addr}",
    "late": lambda key, addr: "a=b; " * 200 + f"{key}; {addr}",
    "late enough": lambda key, addr: "a=b; " * 198 + f"{key}; {addr}",
    "long": lambda key, addr: f"{key}; {addr}; a={'b' * 16_400}",
}


def act(way: Way, session: Session, what: str) -> object:
    """Do one thing to a session. What it gives is what the two ways are compared by."""
    keys = way.keys
    if what == "read":
        return (
            session.get(keys.text),
            session.get(keys.number),
            session.get(keys.others[0]),
            session.get(keys.others[16]),
            len(session.clients),
        )
    if what == "look":
        return session.get(keys.basket), session.get(keys.hooked), list(session[keys.chat])
    if what == "text":
        session[keys.text] = f"{way.random.random()}"
    elif what == "long":
        session[keys.text] = "long " * 60
    elif what == "number":
        session[keys.number] = way.random.randrange(1_000)
    elif what == "basket":
        session[keys.basket] = ["a"]
    elif what == "in place":
        session.get(keys.basket, []).append("b")
    elif what == "hooked":
        session[keys.hooked] = "h"
    elif what == "chat":
        session[keys.chat].append("hello")
    elif what == "delete":
        session.pop(keys.text, None)
    elif what == "count":
        session.update(keys.number, lambda before: before + 1, default=0)
    elif what == "wrong":
        with suppress(KeyTypeError):
            session[cast("Key[object]", keys.number)] = "no number"
    elif what == "many":
        for n, key in enumerate(keys.others):
            session[key] = n
    elif what == "few":
        for n, key in enumerate(keys.others[:13]):
            session[key] = n
    elif what == "renew":
        session.renew()
    elif what == "renew and clear":
        session.renew(clear=True)
    elif what == "end":
        session.end()
    elif what == "short":
        session.timeout = 90
    elif what == "session cookie":
        session.persistent = False
    elif what == "a minute":
        way.clock.advance(61)
    elif what == "a moment":
        way.clock.advance(20)
    else:
        raise AssertionError(what)
    return None


ACTS = (
    *("read", "look", "text", "long", "number", "basket", "in place", "hooked", "chat", "delete", "count", "wrong", "many", "few", "renew"),
    *("renew and clear", "end", "short", "session cookie", "a minute", "a moment", "commit", "commit now", "refresh", "others", "give up"),
)


class Short(NamedTuple):
    """The short ways of a manager to the session, and of its commits; and the one to what the cookies say."""

    opening: Callable[[Any, Any], Any] = ShortOpening
    commit: Callable[[Any, Any], Any] = ShortCommit
    at_once: Callable[[SessionCookies, str], Any] = present_at_once


class Store:
    """The store as a short way has it. Where it does not begin a session the layers do, and are to draw the same id."""

    def __init__(self, way: Way) -> None:
        self.way = way
        self.in_use, self.swap = getattr(way.store, "in_use", None), way.store.swap

    def begin(self, record: Record, now: float) -> bool:
        begun = self.way.store.begin(record, now)
        if not begun:
            self.way.random.setstate(self.way.before)
        return begun


def all_in_memory(store: MemoryStore) -> object:
    for shard in cast("Any", store)._shards:
        for stored in shard.records.values():
            assert type(stored) is not Record or stored.size in (0, size_of(stored.fields))
    return sorted(store.cut())


class Way:
    """A manager with a store, a clock and random numbers of its own; `told` is what its requests were answered."""

    def __init__(self, take: Short | None, settings: Settings, file: Path | None) -> None:
        self.keys = Keys()
        self.random = Random(7)
        self.clock = FakeClock()
        self.file = file
        self.store = MemoryStore(**settings.store) if file is None else SQLiteStore(file, **settings.store)
        self.manager = SessionManager(self.store, clock=self.clock, **settings.options)
        self.manager.core.draw = self.draw
        short = cast("Any", self.manager)
        assert (short._short_opening is not None, short._short_commit is not None) == (file is None, True)
        short._short_opening = None if take is None or file is not None else take.opening(self.manager.core, Store(self))
        short._short_commit = None if take is None else take.commit(self.manager.core, Store(self))
        self.told: list[object] = []
        check = self.is_short if settings.checked else None
        self.guard = Guard(
            Reader(has_clients=settings.has_clients, schemes=settings.schemes), self.manager.cookie_policy, check=check, **settings.guard
        )
        self.client: Client | None = None
        if settings.has_clients:
            self.connection = self.manager.connect(PEER, lambda: None)
            self.client = self.connection.__enter__()
        if settings.listening:
            for kind in (Begin, End):
                self.manager.on(kind, self.hear)
        self.jar = {"SESSION_KEY": "x" * 64, "SESSION_ADDR": "y" * 43}

    def stored(self) -> object:
        """Every byte of it."""
        if isinstance(self.store, MemoryStore):
            return all_in_memory(self.store)
        assert self.file is not None
        with closing(sqlite3.connect(self.file)) as connection:
            return connection.execute("SELECT * FROM session ORDER BY locator").fetchall()

    def draw(self, count: int) -> bytes:
        self.before = self.random.getstate()
        return self.random.randbytes(count)

    def is_short(self, session: Session) -> bool:
        return not session.get(self.keys.text, "").startswith("long")

    def hear(self, event: Event) -> None:
        self.told.append((type(event).__name__, event.session.handle))

    def visit_all(self, visits: Sequence[Visit]) -> None:
        for visit in visits:
            self.visit(visit)

    def visit(self, visit: Visit) -> None:
        self.clock.advance(visit.wait)
        key, addr = [f"{name}={value}" for name, value in self.jar.items()][-2:]  # those of https have other names
        header = FORMS[visit.form](key, addr)
        exchange = Exchange(self.guard, Source(header, visit.peer, self.client))
        exchange.failing = visit.failing
        try:
            session = self.manager.open_exchange(exchange)
            self.told.append((exchange.verdict, exchange.address, act(self, session, "read")))
            if "others" not in visit.acts:
                self.visit_all(visit.between)
            for what in visit.acts:
                if what == "others":
                    self.visit_all(visit.between)
                elif what == "refresh":
                    self.manager.refresh(session)
                elif what == "commit now":
                    self.manager.commit(session)
                elif what == "give up":
                    forget_changes(exchange)  # as a filter does whose commit has failed
                elif what == "commit":
                    self.manager.commit_exchange(exchange)
                    exchange.headers_sent = exchange.tracking is not None
                    self.told.append(act(self, session, "read"))
                else:
                    act(self, session, what)
            self.manager.commit_exchange(exchange)
            self.told.append(None if session.exists is False else act(self, session, "read"))
        except Rejected as refused:
            self.told.append(("refused", refused.reason, refused.status))
        except SessionError as problem:
            self.told.append(type(problem).__name__)
        headers = exchange.headers()
        close_exchange(exchange)
        for name, value in headers:
            if name == "Set-Cookie":
                pair, _, attributes = value.partition("; ")
                cookie, _, content = pair.partition("=")
                self.jar[cookie] = content if "Max-Age=0" not in attributes else "z" * 64
        self.told.append((exchange.verdict, exchange.created, headers))
        self.told.append(self.stored())


class Settings(NamedTuple):
    """What a manager, its store and a filter are given."""

    options: Mapping[str, Any] = NOTHING
    store: Mapping[str, Any] = NOTHING
    guard: Mapping[str, Any] = NOTHING
    has_clients: bool = False
    listening: bool = False
    checked: bool = False
    schemes: Sequence[str] = ()


SETTINGS: dict[str, Settings] = {
    "nothing": Settings(),
    "lifetime": Settings({"lifetime": 70}),
    "no timeout": Settings({"timeout": None}),
    "create": Settings({"create": True}),
    "create nothing": Settings(guard={"create": False}),
    "check": Settings(checked=True),
    "max_age": Settings({"cookie_policy": CookiePolicy(max_age=3_600)}),
    "remember me": Settings({"cookie_policy": CookiePolicy(max_age=3_600, persistent=False)}),
    "path": Settings({"cookie_policy": CookiePolicy(path="/shop"), "create": True}),
    "any address": Settings({"address_policy": AddressPolicy(match="off")}),
    "another address ends it": Settings({"address_policy": AddressPolicy(mismatch="end")}),
    "another address is told": Settings({"address_policy": AddressPolicy(mismatch="report")}),
    "behind a proxy": Settings({"address_policy": AddressPolicy(trusted_proxies=[PEER])}),
    "behind a proxy over https": Settings({"address_policy": AddressPolicy(trusted_proxies=[PEER])}, schemes=["https"]),
    "route": Settings({"route": "a"}),
    "overlap": Settings({"overlap": 30}),
    "old ids end it": Settings({"old_id": "end"}),
    "off": Settings({"enabled": False}),
    "listeners": Settings(listening=True),
    "clients": Settings(has_clients=True),
    "three keys": Settings(store={"max_keys": 3}),
    "few bytes": Settings(store={"max_bytes": 400}),
    "two sessions": Settings(store={"max_sessions": 2}),
}

begin = Visit(("text", "number"), "nothing")
again = Visit(("read",))
begun = (begin, again)
begun_late = (Visit(("text", "number"), "nothing", wait=50), again)

CASES: dict[str, tuple[str, Sequence[Visit]]] = {
    **{f"cookies: {form}": ("nothing", (*begun, Visit(("text",), form), again)) for form in FORMS},
    **{f"another peer, {name}": (name, (*begun, Visit(("text",), peer="198.51.100.9"), again)) for name in SETTINGS},
    **{f"{acts}, {name}": (name, (*begun, Visit(acts), again)) for name in SETTINGS for acts in [("text",), ("many",), ("delete", "read")]},
    **{f"at first {what}": ("nothing", (Visit((what,), "nothing"), again, again)) for what in ACTS},
    **{f"then {what}": ("nothing", (*begun, Visit((what,)), again)) for what in ACTS},
    **{f"text, then {what}": ("nothing", (*begun, Visit(("text", what)), again)) for what in ACTS},
    **{f"{what} and text with hooks": ("nothing", (*begun, Visit(("hooked",)), Visit((what, "text")), again)) for what in ACTS},
    "no address": (
        "nothing",
        (*(Visit(("text",), "nothing", peer=peer) for peer in (None, NOWHERE)), *begun, Visit(("text",), peer=NOWHERE)),
    ),
    "no address that counts": ("any address", (Visit(("text",), "nothing", peer=NOWHERE), Visit(("text",), peer=NOWHERE), again)),
    "a basket changed once it is assigned": ("nothing", (*begun, Visit(("basket", "in place")), again)),
    "a basket in the first request": ("nothing", (Visit(("basket", "in place"), "nothing"), again)),
    "after a minute": ("nothing", (*begun, Visit(("text",), wait=61), again)),
    "after a minute in which somebody else has swept": ("nothing", (*begun_late, Visit(form="nothing", wait=15), Visit(wait=50))),
    "after a check": ("check", (*begun, Visit(("long",)), Visit(("number",)))),
    "a minute within": ("nothing", (*begun, Visit(("a minute", "text")), again)),
    "a sweep in passing": ("nothing", (*begun, Visit(("text",), "nothing"), Visit(form="nothing", wait=700))),
    "a sweep beside somebody": ("nothing", (*begun, *(Visit(wait=59) for _ in range(14)))),
    "over by its lifetime": ("lifetime", (*begun, Visit(wait=50), Visit(wait=15), Visit(("text",), wait=10))),
    "over within": ("lifetime", (*begun, Visit(wait=50), Visit(wait=15), Visit(("a moment", "text")))),
    "used only once": ("nothing", (Visit(("text", "commit", "number"), "nothing"), Visit(("text",)))),
    "written twice in a request": ("nothing", (*begun, Visit(("text", "commit", "read", "number", "commit", "text")), again)),
    "too large in the second step": ("few bytes", (Visit(("few", "commit", "long"), "nothing"), again)),
    "too large": ("few bytes", (*begun, Visit(("few", "long")), again)),
    "too many": ("three keys", (*begun, Visit(("few",)), again)),
    "deleted in the first request": ("nothing", (Visit(("number", "text", "delete"), "nothing"), again)),
    "who lingers": ("nothing", (*begun, Visit(("hooked",)), *(Visit(wait=wait) for wait in (20, 20)), Visit(form="nothing", wait=280))),
    "who commits lingers": ("nothing", (*begun, Visit(("hooked",)), Visit(("a moment", "text")), Visit(form="nothing", wait=290))),
    "another key meanwhile": ("nothing", (*begun, Visit(("text",), between=(Visit(("number",)),)), again)),
    "the same key meanwhile": ("nothing", (*begun, Visit(("number",), between=(Visit(("number",)),)), again)),
    "a count meanwhile": ("nothing", (*begun, Visit(("count",), between=(Visit(("count",)),)), again)),
    "an end meanwhile": ("nothing", (*begun, Visit(("text",), between=(Visit(("end",)),)), again)),
    "a renewal meanwhile": ("overlap", (*begun, Visit(("text",), between=(Visit(("renew",)),)), again)),
    "fifteen keys": ("nothing", (*begun, Visit(("few",)), Visit(("hooked",)), Visit(("many",)), Visit(("text",)), again)),
    "nothing left to commit after a refresh": (
        "nothing",
        (Visit(("number",), "nothing"), again, Visit(("delete", "others", "refresh"), between=(Visit(("text",)),)), again),
    ),
    "a failed answer": ("nothing", (*begun, Visit(("text",), failing=True), again)),
    "a failed answer to a new one": ("nothing", (Visit(("text",), "nothing", failing=True), again)),
    "a cookie sent again": ("max_age", (*begun, Visit(("text",), wait=61), Visit(("text",), wait=61), again)),
    "a cookie sent again after a refresh": ("max_age", (*begun, Visit(("refresh", "text"), wait=61), Visit(("refresh",), wait=61), again)),
    "a browser session given up at first": ("max_age", (Visit(("session cookie", "give up", "text"), "nothing"), again)),
    "a browser session": ("remember me", (begin, Visit(("session cookie",)), Visit(("renew", "text")), again)),
    "a full store": ("two sessions", (begin, begin, begin, again, begin, again)),
    "somebody else beside": ("nothing", (begin, Visit(form="nothing"), Visit(("hooked",)), again, begin, Visit(("text",)), again)),
}


def run(take: Short | None, settings: Settings, visits: Sequence[Visit], kind: str = "memory") -> list[object]:
    """What the requests were answered, and what is stored after each; by the short ways, or (None) by the layers alone."""

    def parsed(_: SessionCookies, __: str) -> None:
        return None

    at_once = parsed if take is None else take.at_once
    with ExitStack() as stack:
        stack.enter_context(isolated_keys())
        for module in (core, express):
            stack.enter_context(patch.object(module, "present_at_once", at_once))
        file = None if kind == "memory" else Path(stack.enter_context(TemporaryDirectory())) / "sessions.db"
        way = Way(take, settings, file)
        stack.callback(way.store.close)
        way.visit_all(visits)
        return way.told
