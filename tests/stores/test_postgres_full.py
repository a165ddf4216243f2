"""What the PostgreSQL stores do when the server's disk is full: honest answers, and nothing acknowledged is lost (S9, S12 to S14).

The system refuses to make the server's files any larger, which takes the server's way with a full disk: it cannot tell them apart, but for
the text of the error.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator

import pytest

from tests.conftest import require
from tests.faces import Browser, Face
from tests.postgres_server import PostgresServer
from tests.stores.faults import read, signed_in, unavailable, write
from typed_sessions import Key, StoreUnavailable

pytestmark = pytest.mark.slow

LOG = 16 * 2**20
"""Bytes of a file of the server's log, into which it writes ahead."""


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    server = PostgresServer(require("postgres"), "fsync=off")  # it is killed; the machine is not
    yield server
    server.stop()


@pytest.fixture
def prlimit() -> str:
    return require("prlimit")


def large(number: int) -> str:
    """Text that cannot be compressed much; some 800 KB."""
    return random.Random(number).randbytes(400_000).hex()


def test_a_full_disk(make: Callable[..., Face], server: PostgresServer, prlimit: str, name: Key[str]) -> None:
    """The table cannot grow: what would need that is refused and not half done, all else goes on; with room again, everything does."""
    face = make(server.url, deadline=5, max_bytes=2**20)
    note = Key("note", str)
    browser, ended = signed_in(face, name), signed_in(face, name)
    server.room(prlimit, LOG)
    kept: list[Browser] = []

    def fill() -> None:
        for number in itertools.count():
            fresh = face.browser()
            write(fresh, name, large(number))
            kept.append(fresh)

    with pytest.raises(StoreUnavailable, match=r"refused create: could not extend file .*: File too large"):
        fill()
    turn = browser.open()
    turn.session[note] = "seen"
    turn.session[name] = large(-1)
    turn.session.renew()
    with pytest.raises(StoreUnavailable, match=r"refused commit: could not extend file"):
        turn.finish()
    turn = browser.open()
    assert (turn.session[name], turn.session.get(note)) == ("ann", None)
    turn.finish()
    copy = ended.copy()
    with ended.visit() as session:
        session.end()
    assert read(copy, name) is None
    server.room(prlimit, None)
    write(browser, name, large(-1))
    assert read(browser, name) == large(-1)
    server.restart()
    assert len(kept) > 10
    assert [number for number, other in enumerate(kept) if read(other, name) != large(number)] == []
    assert read(copy, name) is None


def test_a_full_log(make: Callable[..., Face], server: PostgresServer, prlimit: str, name: Key[str]) -> None:
    """It gives up, and what becomes of the commit is said to be unknown. Started again with room, it has what was acknowledged."""
    face = make(server.url)
    browser = signed_in(face, name)
    write(browser, name, "bob")
    server.room(prlimit, 4_096)
    with unavailable("broke the connection during commit: the answer was lost, it may have been applied, .*could not write to log file"):
        write(browser, name, "cid")
    for _ in range(2):
        with unavailable("cannot be reached|broke the connection|did not answer"):
            write(browser, name, "dan")
    server.restart()
    assert read(browser, name) in ("bob", "cid", "dan")
    write(browser, name, "eve")
    assert read(browser, name) == "eve"
