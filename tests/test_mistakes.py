"""The mistakes people make are caught where they make them, by a message that says what to do.

Here those in declaring keys and in using sessions; the others are in test_mistakes_setup.py. What a type checker would have said before
is passed as Any.
"""

from __future__ import annotations

import asyncio
import gc
import http.client
import json
import pickle
import socket
import sys
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any, cast

import pytest

from tests.faces import PEER
from tests.filters.http_site import Handler
from tests.filters.servers import serving
from tests.mistakes import REQUEST, Case, cases, check, coroutine_function, used
from tests.watched import Watched
from typed_sessions import (
    AddressPolicy,
    AsyncSessionManager,
    CookiePolicy,
    HeadersSent,
    Key,
    KeyTypeError,
    ListKey,
    MemoryStore,
    NoSession,
    NotOpened,
    PolicyError,
    Rejected,
    Session,
    SessionClosed,
    SessionEnded,
    SessionError,
    SessionManager,
    current_session,
    redirect,
)
from typed_sessions.filters import asgi, wsgi


class Plain:
    """A class that nothing is known of."""


def takes_one(value: object) -> int:
    return 1


def adds_text(value: Any) -> Any:
    return value + "text"


def takes_two(one: object, other: object) -> int:
    return 2


# ------------------------------------------------------------------ declaring keys

key: Any = Key

DECLARATIONS: dict[str, Case] = {
    "a bare key": (
        lambda: key("visits"),
        KeyTypeError,
        ['Key("visits", int)', 'Key("visits", save=..., load=...)', "resident=True", f"declared at {__file__}:"],
    ),
    "a socket": (lambda: key("conn", socket.socket), KeyTypeError, ["socket.socket", "save= and load=", "resident=True", __file__]),
    "a part of it is a socket": (
        lambda: key("all", dict[str, list[socket.socket]]),
        KeyTypeError,
        ["socket.socket", "dict", "resident=True"],
    ),
    "a class of one's own": (lambda: key("plain", Plain), KeyTypeError, [f"{__name__}.Plain", "save= and load="]),
    "one hook without the other": (lambda: key("photo", save=bytes), KeyTypeError, ["save= and load= come together", "load= is missing"]),
    "a type and hooks": (lambda: key("photo", bytes, save=bytes, load=bytes), KeyTypeError, ["either a type or save= and load="]),
    "a hook that is async": (
        lambda: key("photo", save=coroutine_function, load=bytes),
        KeyTypeError,
        ["save must be a plain function", "hooks are called without await"],
    ),
    "a load of two": (lambda: key("photo", save=bytes, load=takes_two), KeyTypeError, ["load is called with the bytes alone", __file__]),
    "a function to downgrade": (
        lambda: key("n", int, version=2, upgrade=takes_two, was="m", downgrade=takes_one),
        KeyTypeError,
        ["downgrade= must be Downgrade(OldType, function)"],
    ),
    "a key to copy": (lambda: pickle.dumps(key("n", int)), TypeError, ["<typed Key 'n'", "cannot be pickled"]),
    "a merge that is async": (lambda: key("n", int, merge=coroutine_function), KeyTypeError, ["merge= must be a plain function"]),
    "an upgrade without a version": (lambda: key("n", int, upgrade=max), KeyTypeError, ["give version=2 or more with it"]),
    "an upgrade of the value alone": (
        lambda: key("n", int, version=2, upgrade=takes_one),
        KeyTypeError,
        ["upgrade(old, version)", "upgrade=Upgrades(OldType, step)"],
    ),
    "an upgrade of a list's": (
        lambda: ListKey("n", int, version=2, upgrade=cast("Any", takes_one)),
        KeyTypeError,
        ["upgrade(old, version)"],
    ),
    "a merge of two": (lambda: key("n", int, merge=takes_two), KeyTypeError, ["merge(base, mine, theirs)"]),
    "a clean-up of nothing": (lambda: key("n", int, cleanup_delete=lambda: None), KeyTypeError, ["cleanup_delete(value)"]),
    "a clean-up of too much": (lambda: key("n", int, cleanup_no_client=takes_two), KeyTypeError, ["cleanup_no_client(value)"]),
    "a default": (
        lambda: key("n", int, default=0),
        KeyTypeError,
        ["Key('n', default=...) declared at", f"{__file__}:", "there is no option 'default'", "session.get(visits, 0)"],
    ),
    "a name by name": (lambda: key(name="n", type=int), KeyTypeError, ["Key(name=...)", 'as in Key("visits", int)']),
    "a life of its own": (lambda: key("n", int, ttl=60), KeyTypeError, ["no option 'ttl'", "as long as its session", "timeout="]),
    "another name for a hook": (lambda: key("n", int, cleanup_deleted=print), KeyTypeError, ["did you mean 'cleanup_delete'?", "version"]),
    "a list's option": (lambda: cast("Any", ListKey)("n", int, merge=max), KeyTypeError, ["ListKey('n', merge=...)", "version, upgrade"]),
    "the type first": (lambda: key(int, "n"), KeyTypeError, ["the name comes first", 'Key("visits", int)']),
    "the type alone": (lambda: key(int), KeyTypeError, ["the name comes first"]),
    "a resident value with a version": (lambda: key("n", int, resident=True, version=2), KeyTypeError, ["is never stored"]),
    "a type as text": (lambda: key("n", "int"), KeyTypeError, ["'int'", "give the type itself"]),
    "a default for the type": (
        lambda: key("n", 0),
        KeyTypeError,
        ["expected a type, such as int", "not a value of type int", "session.get(key, default)", __file__],
    ),
    "an instance for the class": (lambda: key("n", Plain()), KeyTypeError, ["expected a type", f"not a value of type {__name__}.Plain"]),
    "a list for a list's type": (lambda: ListKey("n", cast("Any", [int])), KeyTypeError, ["such as int, list[str]", "of type list."]),
    "an empty name": (lambda: key("", int), KeyTypeError, ["a name is a str of 1 to 64 printable characters"]),
    "a list of sockets": (lambda: ListKey("conns", socket.socket), KeyTypeError, ["socket.socket", "ListKey"]),
    "changing a key": (lambda: setattr(key("n", int), "version", 2), AttributeError, ["a key is what it was declared as"]),
}


@cases(DECLARATIONS)
def test_a_key_that_cannot_work(case: Case) -> None:
    """At the declaration, with its place and a way out."""
    check(case)


# ------------------------------------------------------------------ using a session


def number() -> Any:
    return Key("number", int)


def facts() -> Any:
    return ListKey("facts", str)


NO_KEY = ["'visits' is no key", 'visits = Key("visits", int)', "session[visits]"]
A_LIST = ["<ListKey 'facts'", "session[key] is a sequence, with append, prepend, remove_where and clear"]

USES: dict[str, Case] = {
    "a hook that gives text": (
        used(lambda s: s.__setitem__(Key("prefs", save=cast("Any", json.dumps), load=json.loads), {"theme": "dark"})),
        KeyTypeError,
        ["<hooked Key 'prefs'", "save must return bytes, it returned str", "lambda v: json.dumps(v).encode()"],
    ),
    "text for a key": (used(lambda s: s["visits"]), KeyTypeError, NO_KEY),
    "text for a key, set": (used(lambda s: s.__setitem__("visits", 1)), KeyTypeError, NO_KEY),
    "text for a key, in": (used(lambda s: "visits" in s), KeyTypeError, NO_KEY),
    "text for a key, get": (used(lambda s: s.get("visits", 0)), KeyTypeError, NO_KEY),
    "text for a key, update": (used(lambda s: s.update("visits", int, default=0)), KeyTypeError, NO_KEY),
    "text for a key, pop": (used(lambda s: s.pop("visits")), KeyTypeError, NO_KEY),
    "text for a key, setdefault": (used(lambda s: s.setdefault("visits", int)), KeyTypeError, NO_KEY),
    "text for a key, del": (used(lambda s: s.__delitem__("visits")), KeyTypeError, NO_KEY),
    "a list for a ListKey": (used(lambda s: s.__setitem__(facts(), ["a"])), KeyTypeError, A_LIST),
    "a ListKey, get": (used(lambda s: s.get(facts())), KeyTypeError, A_LIST),
    "a ListKey, update": (used(lambda s: s.update(facts(), list, default=[])), KeyTypeError, A_LIST),
    "a ListKey, pop": (used(lambda s: s.pop(facts())), KeyTypeError, A_LIST),
    "a ListKey, setdefault": (used(lambda s: s.setdefault(facts(), list)), KeyTypeError, A_LIST),
    "a value of another type": (
        used(lambda s: s.__setitem__(number(), "1")),
        KeyTypeError,
        ["<typed Key 'number'", "not of the type int", "str was given"],
    ),
    "an element of another type": (used(lambda s: s[facts()].append(1)), KeyTypeError, ["<ListKey 'facts'", "not of the type str"]),
    "an update that is async": (used(lambda s: s.update(number(), coroutine_function, default=1)), KeyTypeError, ["coroutine"]),
    "a value to set by default": (
        used(lambda s: s.setdefault(number(), 5)),
        TypeError,
        ["session.setdefault(...): expected a function that makes the value", "not a value of type int"],
    ),
    "a value to update with": (
        used(lambda s: s.update(number(), 5, default=0)),
        TypeError,
        ["session.update(...): expected a function of the value", "lambda n: n + 1", "not a value of type int"],
    ),
    "a value to update with, without one there": (
        used(lambda s: s.update(number(), 5)),
        TypeError,
        ["session.update(...): expected a function of the value", "not a value of type int"],
    ),
    "an update of nothing": (
        used(lambda s: s.update(number(), adds_text)),
        KeyError,
        ["<typed Key 'number'", "has no value that could be changed", "update(..., default=...)"],
    ),
    "a dictionary to update with": (
        used(lambda s: s.update({"visits": 1})),
        KeyTypeError,
        ["a dictionary is no key", "session[visits] = 1"],
    ),
    "a key alone to update": (
        used(lambda s: s.update(number())),
        TypeError,
        ["session.update(...): expected a function of the value", "nothing was given"],
    ),
    "an answer for a check": (
        used(lambda s: s.require(number() in s)),
        TypeError,
        ["session.require(...): expected a function of the session", "lambda s: user in s", "not a value of type bool"],
    ),
    "an element for a predicate": (
        used(lambda s: s[facts()].remove_where("one")),
        TypeError,
        ["remove_where(...): expected a function of an element", "not a value of type str"],
    ),
    "a check that is async": (
        used(lambda s: s.require(coroutine_function)),
        TypeError,
        ["session.require", "coroutine_function", "it gave an awaitable", "give a plain function"],
    ),
    "a predicate that is async": (
        used(lambda s: (s[facts()].append("one"), s[facts()].remove_where(coroutine_function))),
        TypeError,
        ["remove_where", "it gave an awaitable"],
    ),
    "a message after the end": (
        used(lambda s: (s.end(), s[facts()].append("goodbye"))),
        SessionEnded,
        ["<ListKey 'facts'", "cannot be written: the session has ended", "session.renew(clear=True), in the place of session.end()"],
    ),
    "a new id after the end": (
        used(lambda s: (s.end(), s.renew())),
        SessionEnded,
        ["cannot be renewed: it has ended", "session.renew(clear=True), in the place of session.end()"],
    ),
    "a timeout of 0": (used(lambda s: setattr(s, "timeout", 0)), PolicyError, ["session.timeout = 0", "None is never"]),
    "a cookie that cannot last": (
        used(lambda s: setattr(s, "persistent", True)),
        PolicyError,
        ["the cookie policy has no max_age", "CookiePolicy(max_age=...)"],
    ),
    "another library's option of a cookie": (
        lambda: cast("Any", CookiePolicy)(https_only=True),
        PolicyError,
        ["CookiePolicy(https_only=...) declared at", __file__, "no option 'https_only': secure=\"auto\""],
    ),
    "a misspelt option of a cookie": (
        lambda: cast("Any", CookiePolicy)(max_agee=1),
        PolicyError,
        ["no option 'max_agee'; did you mean 'max_age'?", "the options are path, name"],
    ),
    "a misspelt option of addresses": (
        lambda: cast("Any", AddressPolicy)(proxies=["10.0.0.1"]),
        PolicyError,
        ["AddressPolicy(proxies=...) declared at", "did you mean 'trusted_proxies'?"],
    ),
    "an overlap that is no time": (
        used(lambda s: s.renew(overlap=-1)),
        PolicyError,
        ["renew(overlap=...) = -1", "seconds, 0 to"],
    ),
    "an overlap as text": (used(lambda s: s.renew(overlap="60")), PolicyError, ["renew(overlap=...) = '60'"]),
    "a timeout beyond all numbers": (used(lambda s: setattr(s, "timeout", 10**5000)), PolicyError, ["a number of 16610 bits"]),
    "a refusal that is only a status": (
        lambda: cast("Any", Rejected)(403),
        TypeError,
        ["Rejected(403): the reason comes first", 'Rejected("require", 403)'],
    ),
    "a refusal that is none": (lambda: Rejected("require", 200), PolicyError, ["error = (200, ())", "a status of 300 to 599"]),
    "a refusal with a status that is a whole answer": (
        lambda: Rejected("require", cast("Any", redirect("/login"))),
        PolicyError,
        ["a status of 300 to 599 with header pairs"],
    ),
    "an answer of no status": (
        used(lambda s: s.require(bool, error=(99, ()))),
        PolicyError,
        ["error = (99, ())", "a status of 300 to 599"],
    ),
}


@cases(USES)
@pytest.mark.filterwarnings("ignore:coroutine 'coroutine_function' was never awaited")
def test_a_session_is_used_wrongly(case: Case) -> None:
    """At the line where it happens, not at the commit."""
    check(case)


def test_what_an_update_raises_is_its_own() -> None:
    """A TypeError of the function is not taken for one of the call."""
    with pytest.raises(TypeError, match="unsupported operand"):
        used(lambda s: s.update(number(), adds_text, default=0))()


def test_reading_before_opening() -> None:
    """In an ASGI application that has not awaited `open_session`, and where there is no request at all."""
    said: list[str] = []

    async def app(_: asgi.Scope, __: asgi.Receive, ___: asgi.Send) -> None:
        with pytest.raises(NotOpened) as caught:
            current_session()
        said.append(str(caught.value))

    async def nothing(*_: object) -> Any:
        return {}

    scope: asgi.Scope = {"type": "http", "headers": [], "client": (PEER, 1), "path": "/"}
    asyncio.run(asgi.SessionMiddleware(app, AsyncSessionManager())(scope, nothing, nothing))
    [text] = said
    assert text.startswith("the session is not open yet: use `session = await open_session(scope)` first, or ")
    assert text.endswith("SessionMiddleware(..., eager=True) for all requests")
    outside = "has to be outside of all that uses the session, other middleware too"
    past = "test client that goes past it, such as Django's,"
    here = f"works in a request that a filter serves, and in a listener; the filter {outside}"
    with pytest.raises(NoSession, match=rf"{here}\. A {past} finds none: use httpx\.WSGITransport or httpx\.ASGITransport"):
        current_session()
    asgi_filter, wsgi_filter = (rf"did not come through typed_sessions\.filters\.{name}\.SessionMiddleware" for name in ("asgi", "wsgi"))
    outermost = r"\(.* add_middleware, the last is the outermost\)"
    with pytest.raises(NoSession, match=rf"{asgi_filter}, which {outside} {outermost}; a {past} .* httpx\.ASGITransport$"):
        asyncio.run(asgi.open_session({}))
    with pytest.raises(NoSession, match=rf"{wsgi_filter}, which {outside}; a {past} .* httpx\.WSGITransport$"):
        wsgi.open_session({})


def test_a_forgotten_finish() -> None:
    """ResourceWarning, with the names of the keys and what to call; from both managers."""

    async def forget_async() -> None:
        session, _ = await AsyncSessionManager().start_check(REQUEST)
        session[Key("name", str)] = "ann"

    def forget() -> None:
        session, _ = SessionManager().start_check(REQUEST)
        session[Key("name", str)] = "ann"

    for work in (forget, lambda: asyncio.run(forget_async())):
        gc.collect()  # what other tests have left
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            work()
            gc.collect()
        [warning] = caught
        assert warning.category is ResourceWarning
        assert str(warning.message) == (
            "a session was dropped without finish(): what was done to it is lost (keys ['name']); "
            "call (or await) the finish that start_check gave, or finish.discard()"
        )


FORGOTTEN: dict[str, tuple[Callable[[AsyncSessionManager, Session, Any], object], str]] = {
    "start_check": (lambda manager, _, __: manager.start_check(REQUEST), "AsyncSessionManager.start_check"),
    "the guard of a filter": (lambda manager, _, __: manager.filter()(REQUEST), "AsyncSessionManager.filter.<locals>.start"),
    "check_session_cookie": (lambda manager, _, __: manager.check_session_cookie(REQUEST), "AsyncSessionManager.check_session_cookie"),
    "finish": (lambda _, __, finish: finish(), "AsyncFinish.__call__"),
    "commit": (lambda manager, session, _: manager.commit(session), "AsyncSessionManager.commit"),
    "refresh": (lambda manager, session, _: manager.refresh(session), "AsyncSessionManager.refresh"),
    "end": (lambda manager, session, _: manager.end(session.handle), "AsyncSessionManager.end"),
    "end_all": (lambda manager, _, __: manager.end_all(), "AsyncSessionManager.end_all"),
    "open_session": (lambda _, __, ___: asgi.open_session({}), "open_session"),
    "aclose": (lambda manager, _, __: manager.aclose(), "AsyncSessionManager.aclose"),
}


@pytest.mark.parametrize(("call", "name"), FORGOTTEN.values(), ids=list(FORGOTTEN))
def test_a_forgotten_await(call: Callable[[AsyncSessionManager, Session, Any], object], name: str) -> None:
    """Python itself says which call it was, since all that has to be awaited is a coroutine; and `finish` says what is lost."""

    async def work() -> None:
        manager = AsyncSessionManager()
        session, finish = await manager.start_check(REQUEST, create=True)
        call(manager, session, finish)
        gc.collect()
        await finish()

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        asyncio.run(work())
    [message] = [str(warning.message) for warning in caught if warning.category is RuntimeWarning]
    assert message == f"coroutine '{name}' was never awaited"


def test_the_result_of_a_forgotten_await_is_of_no_use() -> None:
    """Nobody goes on with it by mistake: it cannot be unpacked, nor added to the headers, nor asked for a value."""
    manager: Any = AsyncSessionManager()
    name = Key("name", str)

    async def work() -> None:
        with pytest.raises(TypeError, match="coroutine"):
            _, _ = manager.start_check(REQUEST)
        _, finish = await manager.start_check(REQUEST)
        unawaited: Any = finish()
        headers: list[Any] = []
        with pytest.raises(TypeError, match="coroutine"):
            headers += unawaited
        unopened: Any = asgi.open_session({})
        with pytest.raises(TypeError, match="coroutine"):
            unopened[name]
        unawaited.close()
        unopened.close()
        finish.discard()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        asyncio.run(work())


def test_a_session_used_after_its_request_or_in_another_thread() -> None:
    """SessionClosed, wherever it is used; the text says what to do instead."""
    name = Key("name", str)
    said: list[str] = []
    with SessionManager() as manager:
        session, finish = manager.start_check(REQUEST)
        session[name] = "ann"
        finish()

        def later() -> None:
            with pytest.raises(SessionClosed) as caught:
                session[name] = "bob"
            said.append(str(caught.value))

        later()
        thread = threading.Thread(target=later)
        thread.start()
        thread.join()
    text = (
        "the session was used after its request had been finished; take what you need out of it before, "
        "or open it again with manager.edit(handle)"
    )
    assert said == [text, text]


def test_a_thread_of_a_handlers_own() -> None:
    """It has no session, where Python gives it none, and is told how to have one."""
    with SessionManager() as manager, ThreadPoolExecutor(1) as pool:
        session, finish = manager.start_check(REQUEST)
        with finish.current():
            if getattr(sys.flags, "thread_inherit_context", False):  # Python 3.14 without the GIL
                assert pool.submit(current_session).result() is session
            else:
                with pytest.raises(NoSession, match=r"A thread or an executor of your own .* contextvars\.copy_context\(\)\.run\(fun"):
                    pool.submit(current_session).result()
            assert pool.submit(copy_context().run, current_session).result() is session
        finish()


def test_the_sync_manager_in_async_code() -> None:
    """With a store that does I/O; the text names the other manager."""
    manager = SessionManager(cast("Any", Watched(MemoryStore(), blocking=True)))

    async def handler() -> None:
        manager.start_check(REQUEST)

    with pytest.raises(SessionError) as caught:
        asyncio.run(handler())
    assert str(caught.value) == (
        "SessionManager was used inside a running event loop, which its store's I/O would hold up: use AsyncSessionManager, and await it; "
        "in a coroutine under WSGI, such as an async view of Flask, give the filter eager=True, and the rest to asyncio.to_thread"
    )


def test_a_late_renew() -> None:
    """HeadersSent at the call: the new cookie could not be sent, and the old one would be dead."""

    def page(handler: Handler) -> None:
        handler.session
        handler.begin(200, 0)
        handler.end_headers()
        handler.session.renew()

    manager = SessionManager()
    with serving(type("Late", (Handler,), {"sessions": manager, "pages": {"/": page}})) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        connection.request("GET", "/")
        connection.getresponse().read()
        connection.close()
    [error] = server.errors
    assert isinstance(error, HeadersSent)
    assert str(error) == (
        "the session cannot be renewed any more: the response's headers have left without the new cookie; renew earlier "
        "(in a block of `edit`, no cookie can be sent at all)"
    )
