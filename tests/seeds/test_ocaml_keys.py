"""OCaml's keys and clients: which hook runs when, how often, and what one that raises can spoil; and when a session is over."""

from __future__ import annotations

from typing import Any

import pytest

from tests.faces import Browser, Face
from tests.seeds.cases import case
from tests.seeds.programs import connected, cookies_set, follow, handles, listen, names_set, visit
from typed_sessions import DuplicateKeyError, Key, MemoryStore, SessionManager


class Hooks:
    """Keys whose hooks note when they are called: `key(name, answer)` answers so when the last client has left."""

    def __init__(self) -> None:
        self.called: list[str] = []

    def key(self, name: str, answer: bool | Exception = True) -> Key[str]:
        def no_client(value: str) -> bool:
            self.called.append(f"no_client {value}")
            if isinstance(answer, Exception):
                raise answer
            return answer

        return Key(name, str, cleanup_no_client=no_client, cleanup_delete=self.delete)

    def delete(self, value: str) -> None:
        self.called.append(f"delete {value}")

    def three(self) -> list[Key[str]]:
        """a and c are to be kept, b is not."""
        return [self.key("a"), self.key("b", False), self.key("c")]


def fill(browser: Browser, keys: list[Key[str]], **settings: Any) -> str:
    """A session with a value per key, which is the key's name; its handle."""
    turn = browser.open(**settings)
    for key in keys:
        turn.session[key] = key.name
    turn.finish()
    handle: str = turn.session.handle
    return handle


def present(browser: Browser, keys: list[Key[str]], **settings: Any) -> str:
    """The names of the keys that have a value."""
    with browser.visit(**settings) as session:
        return "".join(key.name for key in keys if key in session)


@case("oc-last-client-gone", "keep")
def test_the_last_client_that_leaves_runs_cleanup_no_client(face: Face) -> None:
    """In the order of insertion; what answers False is dropped, without cleanup_delete, and all else stays (rule 13)."""
    hooks = Hooks()
    keys = [hooks.key("keep"), hooks.key("drop", False), Key("plain", str)]
    browser = face.browser()
    with connected(face) as connection:
        fill(browser, keys, client=connection.client)
        assert hooks.called == []
    assert hooks.called == ["no_client keep", "no_client drop"]
    assert present(browser, keys) == "keepplain"


@case("oc-second-conn-leaks", "improve", "every connection that a session's cookies came on is a client of it, once, until it closes")
def test_a_connection_that_came_by_cookie_counts_until_it_closes(face: Face) -> None:
    """Many requests on two connections are two clients; the hooks run when the second of them leaves (rules 13, 14)."""
    hooks = Hooks()
    keys = hooks.three()
    browser = face.browser()
    with connected(face) as first, connected(face) as second:
        fill(browser, keys, client=first.client)
        for _ in range(10):
            follow(browser, client=second.client)
            turn = browser.open(client=first.client)
            assert [*turn.session.clients] == [first.client, second.client]
        first.leave()
        assert hooks.called == []
        second.leave()
        assert hooks.called == ["no_client a", "no_client b", "no_client c"]
        assert [len(view.clients) for view in face.call(face.manager.all())] == [0]


@case("oc-hook-raises-on-disconnect", "improve", "a hook that raises is logged, keeps its value, and stops no other")
def test_a_hook_that_raises_when_the_last_client_leaves_stops_nothing(face: Face, caplog: pytest.LogCaptureFixture) -> None:
    """The hooks after it run, and what they say is done (rule 10, L7)."""
    hooks = Hooks()
    keys = [hooks.key("a"), hooks.key("b", ZeroDivisionError()), hooks.key("c", False)]
    browser = face.browser()
    with connected(face) as connection:
        fill(browser, keys, client=connection.client)
    assert hooks.called == ["no_client a", "no_client b", "no_client c"]
    assert present(browser, keys) == "ab"
    assert "cleanup_no_client of" in caplog.text


@case("oc-expiry-table-keeps", "improve", "an expired session opens for nobody, and its hooks run when it is collected")
def test_an_expired_session_is_over_and_cleaned_up(face: Face) -> None:
    """With its life of one second over, the right cookies open nothing, whoever else comes and goes (rules 11, 13)."""
    hooks = Hooks()
    face.renew(timeout=1)
    browser = face.browser()
    fill(browser, hooks.three())
    face.clock.advance(2.5)
    assert face.call(face.manager.get_session(browser.request())) is None
    follow(face.browser(), create=True)
    assert not browser.open().session.exists
    assert hooks.called == ["no_client a", "delete a", "no_client b", "no_client c", "delete c"]


@case("oc-delete-after-expiry-crashes", "improve", "deleting an expired session expires its cookies; its hooks run once")
def test_delete_session_of_an_expired_session_is_answered(face: Face) -> None:
    """The browser forgets the cookies, and the clean-up is done (rules 13, 23)."""
    hooks = Hooks()
    face.renew(timeout=1)
    browser = face.browser()
    fill(browser, hooks.three())
    face.clock.advance(2.5)
    browser.take(face.call(face.manager.delete_session(browser.request())))
    assert browser.jar == {}
    face.call(face.manager.sweep())
    assert hooks.called == ["no_client a", "delete a", "no_client b", "no_client c", "delete c"]


@case("oc-refresh-after-expiry-crashes", "improve", "the request is answered, and its connection closed after that")
@pytest.mark.parametrize("swept", [True, False])
@pytest.mark.parametrize("with_cookie", [True, False])
def test_a_request_on_the_connection_of_an_expired_session_is_answered(face: Face, swept: bool, with_cookie: bool) -> None:
    """With the old cookies or without, whether it clears up in passing or not: a new session, and no cut connection (rule 14)."""
    face.renew(timeout=1, granularity=0.1 if swept else 1_000)
    browser = face.browser()
    with connected(face) as connection:
        follow(browser, client=connection.client, create=True)
        face.clock.advance(2.5)
        if not with_cookie:
            browser.jar.clear()
        turn = browser.open(client=connection.client, create=True)
        assert turn.session.exists
        assert connection.closed == 0
        headers = turn.finish()
        assert names_set(headers) == ["SESSION_KEY", "SESSION_ADDR"]
        ended = swept or with_cookie
        assert (("Connection", "close") in headers, connection.client.closing) == (ended, ended)
    assert browser.open().session.exists


@case("oc-not-sliding", "improve", "every visit with a valid cookie starts the timeout again")
def test_visits_keep_a_session_alive(face: Face) -> None:
    """With a life of two seconds and a visit every 0.8, it lives on while others come (rules 11, 12)."""
    face.renew(timeout=2)
    browser = face.browser()
    follow(browser, create=True)
    for _ in range(5):
        face.clock.advance(0.8)
        assert browser.open(create=False).session.exists
        follow(face.browser(), create=True)
    assert browser.open(create=False).session.exists


@case("oc-head-of-line", "improve", "sessions expire by their own time, in whatever order they were made")
def test_a_long_session_holds_up_no_short_one(face: Face) -> None:
    """An older one with an hour left does not keep a younger one of a second (rule 16)."""
    face.renew(timeout=3600, granularity=1)
    older, younger = face.browser(), face.browser()
    follow(older, create=True)
    with younger.visit(create=True) as session:
        session.timeout = 1
    told = listen(face.manager)
    face.clock.advance(2.5)
    follow(older)
    assert [what for what, _ in told] == ["timeout"]
    assert len(handles(face)) == 1


@case("oc-key-duplicate-name", "improve", "a second key of one name raises DuplicateKeyError, with both places")
def test_two_different_keys_of_one_name_are_refused() -> None:
    """The same declaration again, as in a reload, is the same key (rule 2)."""
    Key("a", int)
    with pytest.raises(DuplicateKeyError, match=rf"the name 'a' is taken: declared at {__file__}:\d+ .*again at {__file__}:\d+ "):
        Key("a", str)
    assert Key("a", int).name == "a"


@case("oc-key-cleanup_filter", "keep")
def test_cleanup_no_client_is_asked_in_the_order_of_insertion(face: Face) -> None:
    """All three are asked, and the second is dropped; the next time the others are asked again (rule 13)."""
    hooks = Hooks()
    keys = hooks.three()
    browser = face.browser()
    with connected(face) as connection:
        fill(browser, keys, client=connection.client)
    assert hooks.called == ["no_client a", "no_client b", "no_client c"]
    hooks.called.clear()
    with connected(face) as connection:
        assert present(browser, keys, client=connection.client) == "ac"
    assert hooks.called == ["no_client a", "no_client c"]


@case("oc-key-cleanup_delete", "keep")
def test_the_end_of_a_session_runs_both_hooks_key_by_key(face: Face) -> None:
    """Per value, in order: cleanup_no_client, and cleanup_delete only if that said True (rule 13, L6)."""
    hooks = Hooks()
    handle = fill(face.browser(), hooks.three())
    assert face.call(face.manager.end(handle))
    assert hooks.called == ["no_client a", "delete a", "no_client b", "no_client c", "delete c"]
    assert not face.call(face.manager.end(handle))
    assert len(hooks.called) == 5


@pytest.mark.stores("memory")
@case("oc-key-save", "improve", "saving asks no hook, writes every value, and keeps their order")
def test_saving_changes_nothing_and_asks_nobody(face: Face, tmp_path: Any) -> None:
    """What is saved is what is there; whether a value outlives its clients is asked when they leave (rule 29)."""
    hooks = Hooks()
    keys = hooks.three()
    browser = face.browser()
    fill(browser, keys)
    assert face.call(face.manager.save_sessions(tmp_path / "sessions")) == 1
    assert hooks.called == []
    assert present(browser, keys) == "abc"
    face.manager = face.another(MemoryStore())
    assert face.call(face.manager.load_sessions(tmp_path / "sessions")) == 1
    with browser.visit() as session:
        assert [key.name for key in session] == ["a", "b", "c"]
    assert hooks.called == []


@case("oc-key-hook-raises", "improve", "a hook that raises at the end is logged, and the others run")
@pytest.mark.parametrize("hook", ["cleanup_no_client", "cleanup_delete"])
def test_a_hook_that_raises_at_the_end_stops_nothing(face: Face, hook: str, caplog: pytest.LogCaptureFixture) -> None:
    """The session ends, and every other value is cleaned up (rule 10, L7)."""
    hooks = Hooks()

    def broken(value: str) -> bool:
        raise ZeroDivisionError

    given: dict[str, Any] = {hook: broken}
    keys: list[Key[str]] = [Key("a", str, **given), hooks.key("b")]
    browser = face.browser()
    fill(browser, keys)
    with browser.visit() as session:
        session.end()
    assert hooks.called == ["no_client b", "delete b"]
    assert handles(face) == []
    assert f"{hook} of" in caplog.text


@case("oc-hooks-may-run-twice", "improve", "a hook runs once for a value and an occasion, whatever others do meanwhile")
@pytest.mark.parametrize("occasion", ["the last client leaves", "the session ends"])
def test_a_race_runs_no_hook_twice(face: Face, occasion: str) -> None:
    """In the very moment in which the hook runs, another process writes to the session, or ends it too (rule 13, L6)."""
    store = MemoryStore()
    called: list[str] = []
    visits = Key("visits", int)

    def no_client(value: str) -> bool:
        called.append(value)
        meanwhile = SessionManager(store, clock=face.clock)
        if occasion == "the session ends":
            called.append(f"ended again: {meanwhile.end(handle)}")
        else:
            with meanwhile.edit(handle) as session:
                session[visits] = 7
        return False

    name = Key("name", str, cleanup_no_client=no_client)
    face.manager = face.another(store)
    browser = face.browser()
    with connected(face) as connection:
        handle = fill(browser, [name], client=connection.client)
        if occasion == "the session ends":
            face.call(face.manager.end(handle))
    if occasion == "the session ends":
        assert called == ["name", "ended again: False"]
    else:
        assert called == ["name"]
        with browser.visit() as session:
            assert (name in session, session[visits]) == (False, 7)


def test_a_hook_of_a_deleted_value_does_not_run(face: Face) -> None:
    """What a request removes itself is not cleaned up: it knows what it does (rule 13)."""
    hooks = Hooks()
    keys = hooks.three()
    browser = face.browser()
    fill(browser, keys)
    with browser.visit() as session:
        for key in keys:
            del session[key]
    with browser.visit() as session:
        session.end()
    assert hooks.called == []
    assert cookies_set(follow(browser)) == []
    assert visit(browser, Key("visits", int)) == 1
