"""The demo's stream of server-sent events: it says who is connected, and it ends when it should. No browser, no waiting by the clock."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.demo_process import Demo, Stream, Visitor


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """One demo for all of these tests; at the end it must stop well."""
    with Demo(tmp_path_factory.mktemp("demo") / "snapshot") as running:
        yield running
        running.stop()


@pytest.fixture
def visitor(demo: Demo) -> Iterator[Visitor]:
    """A visitor who has loaded the page once, on a connection that stays open."""
    visitor = Visitor(demo)
    visitor.look()
    yield visitor
    visitor.close()


def test_clients_come_and_go(visitor: Visitor) -> None:
    """One client is one connection. A stream is told at once when another comes and when it leaves (rule 13's "connected")."""
    with visitor.watch() as first:
        shown = first.until("this", "kept")
        assert len({client["address"] for client in shown["clients"]}) == 2
        assert all(client["address"].startswith("127.0.0.1:") for client in shown["clients"])
        with visitor.watch() as second:
            first.until("this", "tab", "kept")
            second.until("this", "tab", "kept")
        first.until("this", "kept")
        visitor.close()
        first.until("this")


def test_other_sessions_are_not_shown(visitor: Visitor) -> None:
    """The clients of another session are none of this one's, and neither is what happens to it."""
    other = Visitor(visitor.demo)
    other.look()
    with visitor.watch() as mine, other.watch() as theirs:
        theirs.until("this", "kept")
        other.look()
        other.close()
        theirs.until("this")
        assert mine.until("this", "kept")["visits"] == 1


def test_a_stream_sees_what_other_requests_commit(visitor: Visitor) -> None:
    """The counter goes up in every tab, and what else the page shows is known to be out of date (`refresh`)."""
    with visitor.watch() as stream:
        first = stream.until("this", "kept")
        assert first["visits"] == 1
        assert f'data-state="{first["state"]}"' in visitor.page.text
        visitor.look()
        second = stream.until("this", "kept")
        assert (second["visits"], second["state"]) == (2, first["state"])
        visitor.send("/cart", product="cup", change="more")
        assert stream.until("this", "kept")["state"] != first["state"]


def test_a_stream_ends_with_its_session(visitor: Visitor) -> None:
    """Signing out closes every connection of the session (rule 14); who comes back with its cookies hears that it is gone."""
    before = dict(visitor.jar)
    with visitor.watch() as stream:
        stream.until("this", "kept")
        visitor.post("/sign-out", token=visitor.page.token)
        assert set(stream.rest()) <= {"session"}
    visitor.jar = before
    with visitor.watch() as stream:
        assert stream.rest() == ["gone"]


def test_a_stream_without_a_session_creates_none(demo: Demo) -> None:
    """It is told so, gets no cookie, and nothing is stored (L8)."""
    stranger = Visitor(demo)
    with stranger.watch() as stream:
        assert stream.rest() == ["gone"]
    assert "Set-Cookie" not in stranger.ask("HEAD", "/live").headers
    stranger.close()


def test_a_sign_in_ends_the_streams_of_before(visitor: Visitor) -> None:
    """Who held the session open under the old cookie sees nothing of what is in it after (rule 9); the new cookie streams on."""
    with visitor.watch() as stream:
        stream.until("this", "kept")
        visitor.send("/sign-in", name="Ada")
        assert stream.rest() == []
    with visitor.watch() as stream:
        stream.until("this", "kept")


def test_signing_out_everywhere_else_ends_their_streams(visitor: Visitor) -> None:
    """The other browser is told at once, without asking."""
    other = Visitor(visitor.demo)
    other.look()
    for each in (visitor, other):
        each.send("/sign-in", name="Heidi")
    with other.watch() as theirs, visitor.watch() as mine:
        theirs.until("this", "kept")
        visitor.send("/sign-out-everywhere-else")
        assert set(theirs.rest()) <= {"session"}
        mine.until("this", "kept")
    other.close()


def test_the_oldest_of_many_streams_is_paused(visitor: Visitor) -> None:
    """A browser opens six connections to a server; the fifth stream makes the first one give way, so that pages still load."""
    visitor.close()
    with ExitStack() as stack:
        streams: list[Stream] = []
        for others in range(4):
            streams.append(stack.enter_context(visitor.watch()))
            # It is one of the session's streams once it says so; its headers come before.
            streams[-1].until("this", *["tab"] * others)
        for stream in streams[:-1]:
            stream.until("this", "tab", "tab", "tab")
        fifth = stack.enter_context(visitor.watch())
        assert streams[0].rest()[-1] == "paused"
        fifth.until("this", "tab", "tab", "tab")


def test_a_stop_does_not_wait_for_streams(tmp_path: Path) -> None:
    """With a stream and an idle connection open, the demo stops at once and well, and both are closed."""
    with Demo(tmp_path / "snapshot") as demo:
        visitor = Visitor(demo)
        visitor.look()
        with visitor.watch() as stream:
            stream.until("this", "kept")
            demo.stop()
            assert set(stream.rest()) <= {"session"}
        visitor.close()
