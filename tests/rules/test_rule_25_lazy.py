"""Rule 25: filters are lazy; `create` says when a session begins. What each filter does with it is in tests/filters."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tests.faces import Face
from tests.filters import asgi_site, http_site, wsgi_site
from tests.filters.servers import Answer, Connection, Jar, asgi, serving, wsgi
from tests.watched import Watched
from typed_sessions import Key, ListKey, Rejected, Session, current_session
from typed_sessions.filters.asgi import Scope, open_session


def over_wsgi(jar: Jar, work: Callable[[Any, Session], object] | None, **settings: Any) -> tuple[Watched, Callable[[], Answer]]:
    site = wsgi_site.Site()
    handler = wsgi_site.says(lambda: work and work(site, current_session()))
    return site.store, lambda: wsgi(site.app(handler, **settings), jar)


def over_asgi(jar: Jar, work: Callable[[Any, Session], object] | None, **settings: Any) -> tuple[Watched, Callable[[], Answer]]:
    site = asgi_site.Site()

    async def handler(scope: Scope) -> object:
        return work and work(site, await open_session(scope))

    return site.store, lambda: asyncio.run(asgi(site.app(asgi_site.says(handler), **settings), jar))


def over_http(jar: Jar, work: Callable[[Any, Session], object] | None, **settings: Any) -> tuple[Watched, Callable[[], Answer]]:
    site = http_site.Site()

    def ask() -> Answer:
        pages: dict[str, http_site.Page] = {"/page": lambda handler: str(work and work(site, handler.session))}
        with (
            serving(site.handler(pages, **{f"session_{name}": value for name, value in settings.items()})) as server,
            Connection(server, jar) as browser,
        ):
            return browser.ask("/page")

    return site.store, ask


def nothing(site: Any, session: Session) -> object:
    return site.visits in session


def write(site: Any, session: Session) -> object:
    return session.update(site.visits, lambda n: n + 1, default=0)


@pytest.mark.parametrize("over", [over_wsgi, over_asgi, over_http])
def test_rule_25_what_nobody_asks_about_is_not_opened(over: Any) -> None:
    """§5: a valid cookie and an untouched session cost no trip; looking costs one, writing two, in every filter."""
    jar = Jar()
    store, visit = over(jar, write)
    assert visit().text == "1"
    assert store.calls == {"create": 1}
    store.calls.clear()
    assert visit().text == "2"
    assert store.calls == {"open": 1, "commit": 1}
    for work, trips in ((None, 0), (nothing, 1)):
        store, ask = over(jar, work)
        answer = ask()
        assert (store.trips, answer.all("Vary")) == (trips, ["Cookie"] if trips else [])


@pytest.mark.parametrize("over", [over_wsgi, over_asgi, over_http])
def test_rule_25_eager_opens_before_the_handler(over: Any) -> None:
    """It costs the one trip, and the answer depends on the cookie, though nobody looks; where there has to be one, nothing runs without."""
    jar = Jar()
    assert over(jar, write)[1]().text == "1"
    store, ask = over(jar, None, eager=True)
    answer = ask()
    assert (answer.status, store.calls, answer.all("Vary")) == (200, {"open": 1}, ["Cookie"])
    ran: list[Session] = []

    def runs(_: object, session: Session) -> None:
        ran.append(session)

    assert (over(Jar(), runs, eager=True, create=False)[1]().status, ran) == (400, [])


def test_rule_25_on_write_begins_with_the_first_committed_value(face: Face) -> None:
    """The default: looking, reading defaults and changing one's mind begin nothing; a value, a list element, a resident one do."""
    name, facts, door = Key("name", str), ListKey("facts", str), Key("door", object, resident=True)
    browser = face.browser()
    turn = browser.open()
    assert turn.session.get(name, "nobody") == "nobody"
    assert (list(turn.session), name in turn.session, len(turn.session[facts]), turn.session.exists) == ([], False, 0, False)
    turn.session[name] = "ann"
    turn.session[facts].append("one")
    turn.session[door] = object()
    del turn.session[name], turn.session[door]
    turn.session[facts].clear()
    turn.session.timeout = 60
    turn.session.renew()
    assert [header for header in turn.finish() if header[0] == "Set-Cookie"] == []
    assert face.call(face.manager.all()) == []
    writes: list[Callable[[Session], object]] = [
        lambda session: session.setdefault(name, str),
        lambda session: session[facts].append("one"),
        lambda session: session.setdefault(door, object),
    ]
    for number, work in enumerate(writes):
        with face.browser().visit() as session:
            work(session)
            assert not session.exists
        assert len(face.call(face.manager.all())) == number + 1


@pytest.mark.parametrize("kind", ["text", "nested", "hooked", "resident"])
def test_rule_25_what_is_written_and_taken_back_begins_nothing(face: Face, kind: str) -> None:
    """Between two requests there would be nothing of it, so there is no session and no cookie; `commit` says so and `finish` too."""
    keys: dict[str, Key[Any]] = {
        "text": Key("text", str),
        "nested": Key("nested", list[str]),
        "hooked": Key("hooked", str, cleanup_delete=print),
        "resident": Key("resident", object, resident=True),
    }
    key = keys[kind]
    values: dict[str, Any] = {"text": "a", "nested": ["a"], "hooked": "a", "resident": object()}
    for commit in (False, True):
        turn = face.browser().open()
        turn.session[key] = values[kind]
        assert turn.session.pop(key) is values[kind]
        if commit:
            face.call(face.manager.commit(turn.session))
        assert turn.finish() == [("Vary", "Cookie")]
    assert len(face.call(face.manager.all())) == 0


def test_rule_25_true_begins_with_the_request(face: Face) -> None:
    """SWI's `auto`: the session is there, with its handle, before the handler runs."""
    browser = face.browser()
    turn = browser.open(create=True)
    assert turn.session.exists
    assert turn.session.handle
    turn.finish()
    with browser.visit(create=True) as session:
        assert session.exists
    assert len(face.call(face.manager.all())) == 1


def test_rule_25_false_begins_nothing(face: Face) -> None:
    """There has to be a session; it is used like any other."""
    name = Key("name", str)
    browser = face.browser()
    with pytest.raises(Rejected) as caught:
        browser.open(create=False)
    assert (caught.value.reason, caught.value.status) == ("no_session", 400)
    with browser.visit() as session:
        session[name] = "ann"
    with browser.visit(create=False) as session:
        assert session[name] == "ann"


def test_rule_25_the_managers_option_is_the_filters_default(make_face: Callable[..., Face]) -> None:
    """`create=` of a filter goes before the manager's, which `set_options` changes."""
    face = make_face(create=True)
    with face.browser().visit() as session:
        assert session.exists
    with face.browser().visit(create="on_write") as session:
        assert not session.exists
    face.manager.set_options(create=False)
    with pytest.raises(Rejected):
        face.browser().open()
