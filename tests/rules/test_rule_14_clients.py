"""Rule 14: ending a session closes every client that carried only it; the one that carries the ending request after its response."""

from __future__ import annotations

from base64 import urlsafe_b64decode
from collections.abc import Callable

import pytest

from tests.faces import Browser, Face
from tests.filters.servers import Connection as TCPConnection
from tests.filters.servers import Jar, serving
from tests.rules.scene import Connection, handle_of, is_open, never, values
from typed_sessions import AddressPolicy, End, Key, Rejected, Session, SessionManager, SessionView
from typed_sessions.filters.http_server import SessionHandler

Make = Callable[..., Face]


def signed_in(face: Face, *connections: Connection, address: str = "10.1.2.3") -> Browser:
    """A session that these connections carry, and no other."""
    browser = face.browser(address)
    with browser.visit() as session:
        session[Key("user", str)] = "ann"
    for connection in connections:
        with browser.visit(client=connection.client):
            pass
    return browser


def test_rule_14_a_sign_out_closes_the_other_connections_at_once(face: Face) -> None:
    """Each is closed once. The connection with the sign-out itself is told to close when its response is out."""
    with Connection(face) as first, Connection(face) as second, Connection(face) as mine, Connection(face) as stranger:
        browser = signed_in(face, first, second, mine)
        signed_in(face, stranger)
        turn = browser.open(client=mine.client)
        turn.session.end()
        assert [first.closed, second.closed] == [0, 0]
        headers = turn.finish()
        assert [first.closed, second.closed, mine.closed, stranger.closed] == [1, 1, 0, 0]
        assert values(headers, "Connection") == ["close"]
        assert mine.client.closing
        assert not first.client.closing
    assert [first.closed, second.closed, mine.closed, stranger.closed] == [1, 1, 0, 0]


def test_rule_14_also_after_commit_in_the_middle_of_the_request(face: Face) -> None:
    """The session ends with `manager.commit`, the connection stays until the response is out."""
    with Connection(face) as other, Connection(face) as mine:
        browser = signed_in(face, other, mine)
        turn = browser.open(client=mine.client)
        turn.session.end()
        face.call(face.manager.commit(turn.session))
        assert (other.closed, mine.closed, mine.client.closing) == (1, 0, True)
        assert values(turn.finish(), "Connection") == ["close"]


def test_rule_14_a_connection_of_several_sessions_stays(face: Face) -> None:
    """A reverse proxy's connection belongs to every session that it carried, so the end of one does not close it for the others."""
    with Connection(face) as proxy, Connection(face) as own:
        ann, eve = signed_in(face, proxy, own), signed_in(face, proxy)
        with ann.visit() as session:
            session.end()
        assert (proxy.closed, proxy.client.closing, own.closed) == (0, False, 1)
        turn = eve.open(client=proxy.client)
        turn.session.end()
        assert values(turn.finish(), "Connection") == []
        assert (proxy.closed, proxy.client.closing) == (0, False)


def test_rule_14_a_sign_out_through_a_shared_connection_does_not_close_it(face: Face) -> None:
    """Neither at once nor after the response: other people's requests are on it."""
    with Connection(face) as proxy:
        ann, eve = signed_in(face, proxy), signed_in(face, proxy)
        turn = ann.open(client=proxy.client)
        turn.session.end()
        assert values(turn.finish(), "Connection") == []
        with eve.visit(client=proxy.client) as session:
            assert session.exists


def test_rule_14_a_shared_connection_forgets_what_has_ended(face: Face) -> None:
    """Whoever takes one session after another over one connection costs no more than one; and it stays a shared one for good."""
    with Connection(face) as connection:
        for _ in range(20):
            browser = face.browser()
            with browser.visit(client=connection.client) as session:
                session[Key("user", str)] = "ann"
            with browser.visit() as session:
                session.end()
        assert len(connection.client.carried) <= 1  # the first, when it was the only one
        with signed_in(face, connection).visit() as session:
            session.end()
        assert (connection.closed, connection.client.closing) == (1, False)


def test_rule_14_a_shared_connection_stays_one_when_all_on_it_have_ended(face: Face) -> None:
    """Ann and Eve have both signed out; Bob, who comes after them over the same connection, does not close it when he does."""
    with Connection(face) as proxy:
        for browser in (signed_in(face, proxy), signed_in(face, proxy)):
            with browser.visit() as session:
                session.end()
        with signed_in(face, proxy).visit() as session:
            session.end()
        assert (proxy.closed, proxy.client.closing) == (0, False)


def of_the_first(view: SessionView) -> bool:
    return view.address == "10.1.2.3"


@pytest.mark.parametrize("how", ["by handle", "by end_all", "swept", "visited from elsewhere"])
def test_rule_14_whoever_ends_it(face: Face, how: str) -> None:
    """An administrator, a sweep, a visit on another connection: every client of the session is closed."""
    with Connection(face) as one, Connection(face) as two, Connection(face) as stranger:
        browser = signed_in(face, one, two)
        signed_in(face, stranger, address="10.7.7.7")
        if how == "by handle":
            assert face.call(face.manager.end(handle_of(browser)))
        elif how == "by end_all":
            assert face.call(face.manager.end_all(of_the_first)) == 1
        else:
            face.clock.advance(630)
            with face.browser().visit():
                pass
            face.clock.advance(59)
            if how == "swept":
                face.call(face.manager.sweep())
            else:
                with browser.visit():
                    pass
        assert [one.closed, two.closed] == [1, 1]
        assert not is_open(browser)
        assert stranger.closed == (how == "swept")


@pytest.mark.parametrize("create", [False, True, "on_write"])
@pytest.mark.parametrize("swept_in_passing", [False, True])
def test_rule_14_the_visit_that_finds_it_over_is_still_answered(make_face: Make, create: bool | str, swept_in_passing: bool) -> None:
    """The connection on which it came out that a session is over is closed after that response; the others at once."""
    face = make_face(timeout=600, granularity=60 if swept_in_passing else 1e6)
    with Connection(face) as mine, Connection(face) as other:
        browser = signed_in(face, mine, other)
        face.clock.advance(660)
        if create is False:
            with pytest.raises(Rejected) as refused:
                browser.open(client=mine.client, create=create)
            headers = refused.value.headers
        else:
            headers = browser.open(client=mine.client, create=create).finish()
        assert (mine.closed, other.closed) == (0, 1)
        assert values(headers, "Connection") == ["close"]
        assert mine.client.closing


def test_rule_14_a_request_that_a_policy_ends_is_answered(make_face: Make) -> None:
    """The same where the session ends because of the request's address, or because its check failed."""
    face = make_face(address_policy=AddressPolicy(match="exact", mismatch="end"))
    with Connection(face) as mine, Connection(face) as other:
        browser = signed_in(face, mine, other).copy(address="10.1.2.4")
        with pytest.raises(Rejected) as refused:
            browser.open(client=mine.client, create=False)
        assert (mine.closed, other.closed) == (0, 1)
        assert values(refused.value.headers, "Connection") == ["close"]


def test_rule_14_a_request_whose_check_fails_is_answered(face: Face) -> None:
    """`check=` ends the session; the refusal still goes out on the connection that asked."""
    with Connection(face) as mine, Connection(face) as other:
        browser = signed_in(face, mine, other)
        with pytest.raises(Rejected) as refused:
            browser.open(client=mine.client, check=never)
        assert (mine.closed, other.closed) == (0, 1)
        assert values(refused.value.headers, "Connection") == ["close"]


def test_rule_14_delete_session_is_answered(face: Face) -> None:
    """`manager.delete_session(request)` is a request's own doing as well."""
    with Connection(face) as mine, Connection(face) as other:
        browser = signed_in(face, mine, other)
        headers = face.call(face.manager.delete_session(browser.request(client=mine.client)))
        assert (mine.closed, other.closed) == (0, 1)
        assert values(headers, "Connection") == ["close"]


def test_rule_14_what_comes_on_a_closing_connection_is_refused(face: Face) -> None:
    """A request that was already under way there gets no new session, and the connection is closed without waiting any longer."""
    with Connection(face) as mine:
        browser = signed_in(face, mine)
        with browser.visit(client=mine.client) as session:
            session.end()
        with pytest.raises(Rejected, match="being closed"):
            browser.open(client=mine.client, create=True)
        assert mine.closed == 1


def test_rule_14_clients_are_closed_when_the_data_is_gone(face: Face) -> None:
    """A listener of `End` still sees who is connected; closing is the last step (rule 13)."""
    connected: list[int] = []
    closed: list[int] = []

    def listener(event: End) -> None:
        connected.append(len(event.session.clients))
        closed.append(one.closed + two.closed)

    face.manager.on(End, listener)
    with Connection(face) as one, Connection(face) as two:
        browser = signed_in(face, one, two)
        one.leave()
        assert face.call(face.manager.end(handle_of(browser)))
        assert connected == [1], "the connection that is left"
        assert closed == [0]
        assert (one.closed, two.closed) == (0, 1)


def test_rule_14_a_close_that_raises_stops_nothing(face: Face, caplog: pytest.LogCaptureFixture) -> None:
    """It is reported; the other clients are closed, and the session has ended (rule 10)."""

    def broken() -> None:
        raise OSError("the connection is broken")

    with face.manager.connect("10.1.2.3", broken) as client, Connection(face) as other:
        browser = face.browser()
        for connected in (client, other.client):
            with browser.visit(client=connected) as session:
                session[Key("user", str)] = "ann"
        assert face.call(face.manager.end(handle_of(browser)))
        assert other.closed == 1
    assert "the connection is broken" in caplog.text
    assert not is_open(browser)


def test_rule_14_a_connection_that_left_is_not_closed(face: Face) -> None:
    """What has gone by itself is forgotten."""
    with Connection(face) as one:
        browser = signed_in(face, one)
        one.leave()
        assert face.call(face.manager.end(handle_of(browser)))
        assert one.closed == 0


@pytest.mark.parametrize("how", ["session.end", "manager.end", "end_all", "check"])
def test_rule_14_a_handler_that_ends_its_own_session_is_answered(how: str) -> None:
    """On a real socket, by whatever call: the response arrives, then the connection is closed; the other one is closed at once."""

    class Handler(SessionHandler):
        sessions = SessionManager()
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if self.path == "/in":
                self.session[Key("user", str)] = "ann"
            elif self.path == "/look":
                assert self.session.exists
            else:
                if how == "session.end":
                    self.session.end()
                elif how == "manager.end":
                    self.sessions.end(self.session.handle)
                elif how == "end_all":
                    self.sessions.end_all()
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

        def check_session(self, session: Session) -> bool:
            return how != "check" or self.path != "/out"

        def log_message(self, format: str, *args: object) -> None:
            pass

    with serving(Handler) as server:
        jar = Jar()
        with TCPConnection(server, jar) as mine, TCPConnection(server, jar) as other:
            assert mine.ask("/in").status == 200
            assert other.ask("/look").status == 200
            handle = urlsafe_b64decode(jar.cookies["SESSION_KEY"])[:16].hex()
            answer = mine.ask("/out")
            assert answer.status == (400 if how == "check" else 200)
            assert not Handler.sessions.end(handle)
            assert mine.is_shut()
            assert other.is_shut()
    assert server.errors == []
    Handler.sessions.close()
