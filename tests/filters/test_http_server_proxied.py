"""`SessionHandler` behind a trusted proxy that keeps its connections: rule 14 where a connection is nobody's. Over real sockets."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from tests.filters.http_site import Handler, Page, Site
from tests.filters.servers import Answer, Connection, Jar, serving
from typed_sessions import AddressPolicy, Key
from typed_sessions.testing import FakeClock

ANN, BOB = "203.0.113.66", "198.51.100.1"
PROXIES = AddressPolicy(trusted_proxies=["127.0.0.1"])


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site(address_policy=PROXIES)
    yield site
    site.sessions.close()


def ask(connection: Connection, path: str, jar: Jar, visitor: str) -> Answer:
    """A request that the proxy passes on."""
    return connection.ask(path, headers={"X-Forwarded-For": visitor}, jar=jar)


def test_the_end_of_a_session_closes_no_connection_of_a_proxy(site: Site) -> None:
    """Another visitor's request is under way on the only connection that has carried the session."""
    begun, go_on = threading.Event(), threading.Event()

    def slow(handler: Handler) -> str:
        begun.set()
        assert go_on.wait(10)
        return "done"

    ann, bob = Jar(), Jar()
    answers: list[Answer] = []
    pages: dict[str, Page] = {"/slow": slow}
    with serving(site.handler(pages)) as server, Connection(server) as upstream, Connection(server) as other:
        ask(upstream, "/visit", ann, ANN)
        thread = threading.Thread(target=lambda: answers.append(ask(upstream, "/slow", bob, BOB)))
        thread.start()
        assert begun.wait(10)
        ended = ask(other, "/end", ann, ANN)
        assert (ended.text, ended.all("Connection"), ann.cookies) == ("bye", [], {})
        go_on.set()
        thread.join()
        assert [answer.text for answer in answers] == ["done"]
        assert ask(upstream, "/visit", bob, BOB).text == "1"
        assert ask(other, "/visits", ann, ANN).text == "0"
        assert site.sessions.end_all() == 1
        assert ask(upstream, "/", bob, BOB).text == "hello"


def test_a_proxys_connection_remembers_no_session(site: Site) -> None:
    """However many it carries: there is no client for it."""
    seen: list[object] = []

    def page(handler: Handler) -> int:
        seen.append(handler.session_client)
        return handler.session.update(site.visits, lambda n: n + 1, default=0)

    with serving(site.handler({"/page": page})) as server, Connection(server) as upstream:
        assert {ask(upstream, "/page", Jar(), BOB).text for _ in range(5)} == {"1"}
        assert site.sessions.core.clients.connected == {}
    assert seen == [None] * 5


def test_who_comes_through_a_proxy_lingers() -> None:
    """By its own address; when that is over nobody is there, although the proxy's connection is."""
    clock, left = FakeClock(), list[list[str]]()
    site = Site(address_policy=PROXIES, clock=clock, linger=300)

    def leaves(value: list[str]) -> bool:
        left.append(value)
        return True

    door = Key("door", list[str], cleanup_no_client=leaves)

    def enter(handler: Handler) -> str:
        handler.session.setdefault(door, list)
        site.sessions.commit(handler.session)
        return " ".join(str(client.address) for client in handler.session.clients)

    jar = Jar()
    with site.sessions, serving(site.handler({"/enter": enter})) as server, Connection(server) as upstream:
        assert [ask(upstream, "/enter", jar, ANN).text for _ in range(2)] == [ANN, ANN]
        assert left == []
        clock.advance(301)
        site.sessions.sweep()
        assert left == [[]]


def test_who_comes_by_itself_is_a_client() -> None:
    """Where the proxy is elsewhere."""
    direct = Site(address_policy=AddressPolicy(trusted_proxies=["10.0.0.0/8"]))
    with serving(direct.handler()) as server, Connection(server) as browser, Connection(server, browser.jar) as second:
        browser.ask("/visit")
        second.ask("/visit")
        browser.ask("/end")
        assert second.is_shut()
    direct.sessions.close()


@pytest.mark.parametrize(
    ("proxies", "peer", "trusted"),
    [
        ([], "127.0.0.1", False),
        (["127.0.0.1"], "127.0.0.1", True),
        (["127.0.0.1"], "::ffff:127.0.0.1", True),
        (["127.0.0.1"], "127.0.0.2", False),
        (["127.0.0.1"], None, False),
        (["unix"], None, True),
        (["unix"], "", True),
        (["unix"], "localhost", True),
        (["unix"], "127.0.0.1", False),
    ],
)
def test_whom_a_policy_trusts(proxies: list[str], peer: str | None, trusted: bool) -> None:
    """The same peers whose headers are believed."""
    policy = AddressPolicy(trusted_proxies=proxies)
    assert policy.trusts(peer) is trusted
    if peer:
        assert (policy.origin(peer, lambda name: [ANN] if name == "x-forwarded-for" else []).address == ANN) is trusted
