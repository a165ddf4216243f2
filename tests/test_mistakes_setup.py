"""Mistakes in setting up: options, policies, managers, filters. Those in keys and sessions are in test_mistakes.py.

What a type checker would have said before is passed as Any.
"""

from __future__ import annotations

import asyncio
import inspect
import pickle
import tracemalloc
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any, cast

import pytest
from fastapi import FastAPI
from flask import Flask

from tests.filters.http_site import Handler, Page
from tests.filters.servers import exchange, serving
from tests.mistakes import REQUEST, Case, cases, check, coroutine_function, used
from typed_sessions import (
    AddressPolicy,
    AsyncSessionManager,
    CookiePolicy,
    End,
    Key,
    KeyTypeError,
    MemoryStore,
    NoSession,
    PolicyError,
    Request,
    SealingKeys,
    SessionError,
    SessionManager,
    SessionOptions,
    redirect,
)
from typed_sessions.filters import asgi, wsgi
from typed_sessions.filters.decorators import with_session

anything: Any = SessionManager

# ------------------------------------------------------------------ options and policies

OPTIONS: dict[str, Case] = {
    "misspelt": (
        lambda: anything(timout=5),
        PolicyError,
        ["no option 'timout'", "did you mean 'timeout'?", "the options are timeout, lifetime"],
    ),
    "misspelt create": (lambda: anything(crate=True), PolicyError, ["did you mean 'create'?"]),
    "misspelt policy": (lambda: anything(adress_policy=AddressPolicy()), PolicyError, ["did you mean 'address_policy'?"]),
    "a cookie's": (lambda: anything(samesite="lax"), PolicyError, ["'samesite'", "cookie_policy=CookiePolicy(...)"]),
    "SWI's cookie": (lambda: anything(cookie="swipl_session"), PolicyError, ["'cookie'", "cookie_policy=CookiePolicy(...)"]),
    "an address policy's": (
        lambda: anything(trusted_proxies=["10.0.0.1"]),
        PolicyError,
        ["'trusted_proxies'", "address_policy=AddressPolicy(...)"],
    ),
    "a store's": (lambda: anything(max_sessions=5), PolicyError, ["'max_sessions'", "it is the store's, such as MemoryStore("]),
    "a secret": (lambda: anything(secret_key="tea"), PolicyError, ["there is no secret to configure", "seal=SealingKeys([...])"]),
    "the store by name": (lambda: anything(store=MemoryStore()), PolicyError, ["first argument", "SessionManager(MemoryStore(), ...)"]),
    "a class for the store": (lambda: anything(MemoryStore), TypeError, ["expected a store, such as MemoryStore()"]),
    "no store at all": (lambda: anything({}), TypeError, ["SessionManager({})", "expected a store, such as MemoryStore()"]),
    "a URL for the store": (lambda: anything("redis://:hunter2@localhost"), TypeError, ["not text; open_store(url) gives that of a URL"]),
    "a timeout of 0": (lambda: SessionManager(timeout=0), PolicyError, ["timeout = 0", "None is never"]),
    "a timeout as text": (
        lambda: anything(timeout="600"),
        PolicyError,
        ["timeout = '600'", "a positive number of seconds, or None"],
    ),
    "a lifetime of nothing": (lambda: SessionManager(lifetime=-1), PolicyError, ["lifetime = -1"]),
    "a wrong word to create": (
        lambda: anything(create="on-write"),
        PolicyError,
        ["'on_write' or True or False", "did you mean 'on_write'?"],
    ),
    "SWI's word to create": (lambda: anything(create="auto"), PolicyError, ["create = 'auto'", "'on_write' or True or False"]),
    "a wrong word for gc": (lambda: anything(gc="activ"), PolicyError, ["'passive' or 'active'", "did you mean 'active'?"]),
    "a wrong word for old_id": (lambda: anything(old_id="ending"), PolicyError, ["'report' or 'end'", "did you mean 'end'?"]),
    "a clock that stands": (lambda: anything(clock=5), PolicyError, ["clock = 5", "a function that gives the time"]),
    "a policy as a dict": (lambda: anything(cookie_policy={"path": "/"}), PolicyError, ["cookie_policy", "a CookiePolicy, not", "dict"]),
    "a number of bits for addresses": (lambda: anything(address_policy=24), PolicyError, ["expected an AddressPolicy, not"]),
    "a key to seal with": (lambda: anything(seal=b"\x07" * 32), PolicyError, ["seal", "SealingKeys([...])", "bytes"]),
    "set_options, misspelt": (
        lambda: cast("Any", SessionManager().set_options)(granularty=1),
        PolicyError,
        ["did you mean 'granularity'?"],
    ),
    "set_options, too late": (
        lambda: cast("Any", SessionManager().set_options)(max_clients=1),
        PolicyError,
        ["set_options(max_clients=...)", "when that is made"],
    ),
    "the options by themselves": (lambda: SessionOptions(max_clients=0), PolicyError, ["max_clients = 0", "at least 1"]),
    "a store without room": (lambda: MemoryStore(max_sessions=0), PolicyError, ["MemoryStore(max_sessions=0)", "at least 1"]),
    "a lifetime beyond all numbers": (
        lambda: anything(lifetime=float("inf")),
        PolicyError,
        ["lifetime = inf", "seconds up to 1e+12, or None; None is never"],
    ),
    "a granularity beyond all numbers": (lambda: anything(granularity=10**400), PolicyError, ["granularity = a number of 1329 bits"]),
    "SameSite=None in the open": (lambda: CookiePolicy(same_site="none"), PolicyError, ["same_site='none'", "secure=True beside it"]),
    "a wrong SameSite": (lambda: CookiePolicy(same_site=cast("Any", "laxx")), PolicyError, ["'strict', 'lax' or 'none'", "'laxx'"]),
    "a prefix by hand": (lambda: CookiePolicy(name="__Host-APP"), PolicyError, ["without prefix", "added over https"]),
    "a max_age of 0": (lambda: CookiePolicy(max_age=0), PolicyError, ["max_age", "None is until the browser is closed"]),
    "cookies that are over before they are sent again": (
        lambda: anything(cookie_policy=CookiePolicy(max_age=60), timeout=3600),
        PolicyError,
        ["CookiePolicy(max_age=60)", "granularity=60 seconds", "expected max_age longer than timeout"],
    ),
    "the same, later": (
        lambda: anything(cookie_policy=CookiePolicy(max_age=60), timeout=300).set_options(timeout=3600),
        PolicyError,
        ["CookiePolicy(max_age=60)", "granularity=60 seconds"],
    ),
    "Partitioned in the open": (lambda: CookiePolicy(partitioned=True), PolicyError, ["partitioned=True", "secure=True beside it"]),
    "a wrong word for addresses": (lambda: AddressPolicy(match=cast("Any", "none")), PolicyError, ["'exact', 'network', 'off'"]),
    "a proxy as text": (lambda: AddressPolicy(trusted_proxies="10.0.0.1"), PolicyError, ["write ('10.0.0.1',)"]),
    "a proxy by name": (
        lambda: AddressPolicy(trusted_proxies=["proxy"]),
        PolicyError,
        ["'proxy' is not an address", "Names are not resolved"],
    ),
    "everybody a proxy": (lambda: AddressPolicy(trusted_proxies=["0.0.0.0/0"]), PolicyError, ["every client could choose its address"]),
    "one sealing key": (lambda: SealingKeys(cast("Any", bytes(32))), PolicyError, ["a sequence of one or more keys", "[os.urandom(32)]"]),
    "a short sealing key": (lambda: SealingKeys([b"secret"]), PolicyError, ["key 0 is 6 bytes", "os.urandom(32)"]),
    "a redirect to a number": (lambda: redirect(cast("Any", 5)), PolicyError, ["redirect(5)"]),
    "a redirect that is none": (lambda: redirect("/", 200), PolicyError, ["redirect(status=200)", "300 to 399"]),
}


@cases(OPTIONS)
def test_an_illegal_option(case: Case) -> None:
    """When it is given, with what is expected and the nearest neighbour."""
    check(case)


@pytest.mark.parametrize("function", [SessionManager, AsyncSessionManager, SessionManager.set_options], ids=lambda f: f.__qualname__)
def test_a_signature_has_only_the_options_that_there_are(function: Callable[..., Any]) -> None:
    """Where it takes whatever is given, type checkers and help() cannot say which option was meant."""
    kinds = {parameter.kind for parameter in inspect.signature(function).parameters.values()}
    assert inspect.Parameter.VAR_KEYWORD not in kinds


def test_an_illegal_option_changes_nothing() -> None:
    """All of them or none; and what is refused is not repeated in the message if it could be a key."""
    manager = SessionManager(timeout=600)
    before = manager.options
    with pytest.raises(PolicyError):
        cast("Any", manager).set_options(timeout=60, gc="activ")
    assert manager.options is before
    with pytest.raises(PolicyError) as caught:
        anything(seal=b"\x07" * 32)
    assert "07" not in str(caught.value)


# ------------------------------------------------------------------ managers and filters


def sync() -> Any:
    return SessionManager()


def hooked() -> Any:
    return Key("hooked", int, cleanup_delete=cast("Any", coroutine_function))


def app(*_: object) -> Any:
    return []


def wsgi_app(environ: object, start_response: object) -> Any:
    return []


async def asgi_app(scope: object, receive: object, send: object) -> None:
    pass


def given(**arguments: Any) -> Callable[[], object]:
    every: dict[str, Any] = {"headers": [], "peer": "192.0.2.7", **arguments}
    return lambda: Request(**every)


MANAGERS: dict[str, Case] = {
    "an async manager in WSGI": (
        lambda: wsgi.SessionMiddleware(app, cast("Any", AsyncSessionManager())),
        TypeError,
        ["expected a SessionManager", "AsyncSessionManager is for filters.asgi"],
    ),
    "a sync manager in ASGI": (
        lambda: asgi.SessionMiddleware(app, sync()),
        TypeError,
        ["expected an AsyncSessionManager", "SessionManager is for filters.wsgi"],
    ),
    "an ASGI application in WSGI": (
        lambda: wsgi.SessionMiddleware(cast("Any", asgi_app), sync()),
        TypeError,
        [
            "<function asgi_app",
            "this is the filter for WSGI",
            "(scope, receive, send)",
            "FastAPI",
            "filters.asgi.SessionMiddleware, with Async",
        ],
    ),
    "FastAPI in WSGI": (lambda: wsgi.SessionMiddleware(cast("Any", FastAPI()), sync()), TypeError, ["filters.asgi.SessionMiddleware"]),
    "a WSGI application in ASGI": (
        lambda: asgi.SessionMiddleware(cast("Any", wsgi_app), AsyncSessionManager()),
        TypeError,
        [
            "<function wsgi_app",
            "this is the filter for ASGI",
            "(environ, start_response)",
            "Flask",
            "filters.wsgi.SessionMiddleware, with Sess",
        ],
    ),
    "Flask in ASGI": (
        lambda: asgi.SessionMiddleware(cast("Any", Flask("shop").wsgi_app), AsyncSessionManager()),
        TypeError,
        ["filters.wsgi.SessionMiddleware"],
    ),
    "the WSGI filter called by ASGI": (
        lambda: cast("Any", wsgi.SessionMiddleware(wsgi_app, sync()))({"type": "http"}, app, app),
        TypeError,
        ["this is the filter for WSGI", "(scope, receive, send)", "filters.asgi.SessionMiddleware"],
    ),
    "no application": (
        lambda: wsgi.SessionMiddleware(cast("Any", "shop:app"), sync()),
        TypeError,
        ["'shop:app'", "expected an application"],
    ),
    "a number to close a connection": (
        lambda: sync().connect("192.0.2.7", cast("Any", 3)),
        TypeError,
        ["connect(address, 3)", "a function without arguments that closes the connection"],
    ),
    "the result of closing it": (
        lambda: AsyncSessionManager().connect("192.0.2.7", cast("Any", None)),
        TypeError,
        ["connect(address, None)", "a function"],
    ),
    "a socket's address for a connection": (
        lambda: sync().connect(cast("Any", ("192.0.2.7", 50_000)), print),
        TypeError,
        ["connect(('192.0.2.7', 50000), ...)", "client_address[0]"],
    ),
    "one origin as text": (
        lambda: asgi.SessionMiddleware(app, AsyncSessionManager(), allowed_origins="https://example.org"),
        TypeError,
        ["expected a list of origins", '["https://example.org"]'],
    ),
    "a host for an origin": (
        lambda: asgi.SessionMiddleware(app, AsyncSessionManager(), allowed_origins=["example.org"]),
        PolicyError,
        ["'example.org' is no origin", "'https://example.org'"],
    ),
    "a pattern for an origin": (
        lambda: asgi.SessionMiddleware(app, AsyncSessionManager(), allowed_origins=["https://*.example.org"]),
        PolicyError,
        ["is no origin"],
    ),
    "a page for an origin": (
        lambda: asgi.SessionMiddleware(app, AsyncSessionManager(), allowed_origins=["https://example.org/chat"]),
        PolicyError,
        ["is no origin"],
    ),
    "a wrong word to create": (
        lambda: sync().filter(create="always"),
        PolicyError,
        ["create = 'always'", 'True, False or "on_write"'],
    ),
    "a check that is none": (
        lambda: wsgi.SessionMiddleware(app, sync(), check=cast("Any", True)),
        PolicyError,
        ["check = True", "a function"],
    ),
    "a status for an error": (lambda: sync().filter(error=403), PolicyError, ["error = 403", '(403, []) or redirect("/login")']),
    "a class for nosession": (lambda: sync().filter(nosession="sign in"), PolicyError, ["an exception to raise"]),
    "a hook to await": (
        used(lambda s: s.__setitem__(hooked(), 1)),
        KeyTypeError,
        ["<typed Key 'hooked'", "its cleanup_delete is a coroutine function", "use AsyncSessionManager"],
    ),
    "a listener to await": (
        lambda: sync().on(End, coroutine_function),
        TypeError,
        ["on(End, ", "coroutine function", "use AsyncSessionManager"],
    ),
    "a check to await": (
        lambda: sync().start_check(REQUEST, check=coroutine_function),
        TypeError,
        ["coroutine_function", "gave an awaitable", "use AsyncSessionManager"],
    ),
    "a condition to await": (lambda: _end_all(coroutine_function), TypeError, ["end_all", "it gave an awaitable"]),
    "a name for a condition": (lambda: _end_all("ann"), TypeError, ["end_all(...): expected a function of a session", "not a value"]),
    "a handle to keep": (lambda: sync().end_all(keep="0" * 32), TypeError, ["end_all(keep=str): expected the Session to spare"]),
    "a path for a store": (lambda: anything(Path("sessions.db")), TypeError, ["SessionManager(", "sessions.db", "expected a store"]),
    "a listener to nothing": (lambda: sync().on("End", print), PolicyError, ["on('End', ...)", "such as typed_sessions.End"]),
    "a session for a handle": (used(lambda s: sync().end(s)), TypeError, ["a handle is text, such as session.handle gives"]),
    "bytes for a handle": (lambda: sync().end(bytes(16)), TypeError, ["a handle is text"]),
    "a manager for another process": (
        lambda: pickle.dumps(sync()),
        TypeError,
        ["SessionManager cannot be pickled", "each process makes its own"],
    ),
    "a session to edit": (used(lambda s: sync().edit(s).__enter__()), TypeError, ["a handle is text"]),
    "a handle of nothing": (lambda: sync().edit("0" * 32).__enter__(), NoSession, ["no session with the handle '000", "or it has ended"]),
    "a request of another kind": (
        lambda: sync().start_check({"HTTP_COOKIE": "SESSION_KEY=secret"}),
        TypeError,
        ["a typed_sessions.Request, not a builtins.dict", "Request(headers=..., peer=...)", "or use the filter"],
    ),
    "headers as a mapping": (lambda: Request(headers=cast("Any", {}), peer=None), TypeError, ["Request(headers=dict)", "headers.items()"]),
    "a socket's address": (
        lambda: Request(headers=[], peer=cast("Any", ("192.0.2.7", 4711))),
        TypeError,
        ["Request(peer=('192.0.2.7', 4711))", "client_address[0]"],
    ),
    "headers as text": (given(headers="Cookie: a=b"), TypeError, ["Request(headers=str)", "header pairs"]),
    "no headers": (given(headers=None), TypeError, ["Request(headers=NoneType)", "header pairs"]),
    "a scheme for https": (given(https="https"), TypeError, ["Request(https='https')", "True or False"]),
    "nothing for https": (given(https=None), TypeError, ["Request(https=None)", "True or False"]),
    "a path of bytes": (given(path=b"/shop"), TypeError, ["Request(path=b'/shop')", "as text"]),
    "a socket for a client": (given(client=3), TypeError, ["Request(client=3)", "manager.connect(...)"]),
}


def test_an_application_is_judged_by_how_it_is_called() -> None:
    """Whatever the function that a decorator has wrapped takes; what says nothing of its arguments is let in."""

    @with_session
    def handler(environ: object, session: object, start_response: object) -> Any:
        return []

    class Shop:
        __call__ = handler

    for application in (handler, Shop(), partial(wsgi_app), app, print):
        wsgi.SessionMiddleware(cast("Any", application), sync())


@cases(MANAGERS)
def test_the_wrong_manager_filter_or_argument(case: Case) -> None:
    """At the call; a coroutine function that nobody would await never counts as having said yes."""
    check(case)


def _end_all(where: Any) -> int:
    with SessionManager() as manager:
        _, finish = manager.start_check(REQUEST, create=True)
        finish()
        try:
            return manager.end_all(where)
        finally:
            assert len(list(manager.all())) == 1


@pytest.mark.parametrize("text", ["0" * 30_000_000, "", "0" * 31, "0" * 33, "g" * 32, " " * 32, "A" * 32], ids=range(7))
def test_a_text_that_is_no_handle_costs_nothing(text: str) -> None:
    """It may be what a client has sent."""
    tracemalloc.start()
    try:
        assert not SessionManager().end(text)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_a_request_of_another_kind_is_not_repeated_in_the_message() -> None:
    """It has cookies in it (I4)."""
    with pytest.raises(TypeError) as caught:
        sync().start_check({"HTTP_COOKIE": "SESSION_KEY=secret"})
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("given", [None, AsyncSessionManager, AsyncSessionManager()])
def test_a_session_handler_without_sessions(given: Any) -> None:
    """TypeError in the server's log at the first connection: the class and the line to write."""
    attributes = {} if given is None else {"sessions": given}
    with serving(type("Shop", (Handler,), attributes)) as server:
        assert exchange(server, b"") == b""
    [error] = server.errors
    assert isinstance(error, TypeError)
    assert str(error).startswith("Shop.sessions is ")
    assert str(error).endswith("expected a SessionManager; write `sessions = SessionManager()`")


def test_a_session_handlers_session_before_its_request() -> None:
    """In `setup` there is no request yet."""
    said: list[str] = []

    def setup(handler: Handler) -> None:
        Handler.setup(handler)
        with pytest.raises(NoSession) as caught:
            handler.session
        said.append(str(caught.value))

    pages: dict[str, Page] = {"/": lambda _: "late"}
    with serving(type("Early", (Handler,), {"sessions": SessionManager(), "setup": setup, "pages": pages})) as server:
        assert exchange(server, b"GET / HTTP/1.0\r\n\r\n").endswith(b"late")
    assert said == ["there is no request yet: self.session is for do_GET and its like"]


class PairsWithItems(list[tuple[str, str]]):
    """Headers as some frameworks have them: pairs when they are gone through, and a mapping's `items` too."""

    def items(self) -> list[tuple[str, str]]:
        return list(self)


def test_what_is_as_good_is_taken() -> None:
    """A status by its name, and header pairs with more to them."""
    manager = sync()
    request = Request(headers=PairsWithItems([("Cookie", "SESSION_KEY=none")]), peer="192.0.2.1")
    session, finish = manager.start_check(request, error=(HTTPStatus.FORBIDDEN, ()))
    session.require(bool, error=(HTTPStatus.FORBIDDEN, ()))
    assert redirect("/login", HTTPStatus.FOUND) == (302, (("Location", "/login"),))
    assert [value for name, value in finish() if name == "Set-Cookie" and "Max-Age=0" in value]


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_session_of_another_managers(kind: str) -> None:
    """A second manager, made by mistake, does not store the session where its cookie is never looked up; nothing is lost by it."""
    name = Key("name", str)

    async def work() -> None:
        stores = MemoryStore(), MemoryStore()
        mine, other = (anything(store) if kind == "sync" else AsyncSessionManager(store) for store in stores)

        async def done(result: Any) -> Any:
            return await result if inspect.isawaitable(result) else result

        session, finish = await done(mine.start_check(REQUEST))
        session[name] = "ann"
        for verb in (other.commit, other.refresh):
            with pytest.raises(SessionError, match=r"another manager's, and <MemoryStore .* is not where .* imported by all others"):
                await done(verb(session))
            with pytest.raises(TypeError, match=r"expected a Session, such as current_session\(\) gives; not a value of type str"):
                await done(verb(session.handle))
        await done(finish())
        assert [len(store) for store in stores] == [1, 0]

    asyncio.run(work())


def test_a_url_in_the_place_of_a_store_is_not_shown() -> None:
    """There may be a password in it."""
    for manager in (SessionManager, AsyncSessionManager):
        with pytest.raises(TypeError) as caught:
            manager(cast("Any", "redis://:hunter2@localhost"))
        assert "hunter2" not in str(caught.value)
