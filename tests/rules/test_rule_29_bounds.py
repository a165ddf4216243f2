"""Rules 29 and 30: a journal holds what a snapshot could bring back, for as long as it could, and nothing else (rule 8, L4, L10)."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.faces import Browser, Face
from tests.rules.restarts import Server, sign_out, signed_in
from tests.rules.scene import handle_of, is_open
from tests.stores.records import started, value_of, write
from tests.watched import Watched
from typed_sessions import Key, MemoryStore
from typed_sessions.journal import replay
from typed_sessions.record import Record

pytestmark = pytest.mark.stores("memory")

HOUR, DAY = 3600.0, 86_400.0
ENTRY = 43
"""Bytes of an end in a journal."""


def renew(browser: Browser, **options: Any) -> Browser:
    """Renew the session; a thief, who has the cookies of before."""
    thief = browser.copy()
    with browser.visit() as session:
        session.renew(**options)
    return thief


def is_used(browser: Browser, name: Key[str]) -> bool:
    """Use the session, if its cookies still open it."""
    with browser.visit() as session:
        return name in session


def size(server: Server) -> int:
    return server.journal.stat().st_size


# ------------------------------------------------------------------ what is noted


def test_rule_29_a_flood_between_two_snapshots_leaves_no_trace(face: Face, tmp_path: Path, name: Key[str]) -> None:
    """Rule 30: what was created after the last snapshot is in none, so that its renewals and its end need no disk, whatever ended it."""
    face.store = MemoryStore(max_sessions=5)
    server = Server(face, tmp_path, timeout=None)
    server.save()
    thieves: list[Browser] = []
    for number in range(50):
        face.clock.advance(1)
        browser = signed_in(face, name)
        if number % 10 == 0:
            thieves += [renew(browser), renew(browser, clear=True), sign_out(browser)]
    face.call(face.manager.sweep())
    assert size(server) == 0
    assert server.save() == 5
    assert server.restart() == 5
    assert not any(is_open(thief) for thief in thieves)


def test_rule_29_what_comes_of_a_session_after_its_first_snapshot_is_noted(face: Face, server: Server, name: Key[str]) -> None:
    """Also when it was renewed before that, and its values were dropped: neither that secret nor those values come back."""
    later = Key("later", str)
    server.save()
    face.clock.advance(1)
    browser, ended = signed_in(face, name), signed_in(face, name)
    thieves = [renew(browser), renew(browser, clear=True)]
    with browser.visit() as session:
        session[later] = "kept"
    server.save()
    face.clock.advance(1)
    thieves += [renew(browser), sign_out(ended)]
    assert size(server) > ENTRY
    assert server.restart() == 1
    assert not any(is_open(thief) for thief in thieves)
    with browser.visit() as session:
        assert (name in session, session[later]) == (False, "kept")


def test_rule_29_what_ends_while_a_snapshot_is_written_is_noted(face: Face, server: Server, name: Key[str]) -> None:
    """No matter that it was created after the snapshot before: it is in this one."""
    server.save()
    face.clock.advance(1)
    browser = signed_in(face, name)
    copy, locator = browser.copy(), bytes.fromhex(handle_of(browser))
    keeper, store = face.manager.core.keeper, face.store

    class Cut(Watched):
        def cut(self) -> Any:
            taken = store.cut()
            keeper.note_ended([store.end(locator, "ended", face.clock(), 60.0)], face.clock())
            return taken

    keeper.store = Cut(store)
    assert server.save() == 1
    assert size(server) == ENTRY
    assert server.restart() == 0
    assert not is_open(copy)


def test_rule_29_the_clock_was_ahead_when_a_session_was_created(face: Face, server: Server, name: Key[str]) -> None:
    """L10: it is in the snapshot that was saved under the right clock, hours before its creation as it seems; its end is noted."""
    face.clock.advance(6 * HOUR)
    ahead = signed_in(face, name)
    face.clock.advance(-6 * HOUR)
    server.save()
    backup = server.copy("backup")
    face.clock.advance(1)
    right = signed_in(face, name)
    server.save()
    thieves = [sign_out(ahead), sign_out(right)]
    assert server.restart() == 0
    server.put_back(backup)
    assert server.restart() == 0
    assert not any(is_open(thief) for thief in thieves)


def test_rule_29_what_another_process_had_saved_is_noted(face: Face, server: Server, name: Key[str]) -> None:
    """What was loaded is in a snapshot, though this process has saved none; as is what it saves then."""
    browsers = [signed_in(face, name) for _ in range(3)]
    server.save()
    backup = server.copy("backup")
    face.clock.advance(5)
    server.restart()
    thieves = [sign_out(browsers[0]), renew(browsers[1])]
    server.save()
    thieves.append(sign_out(browsers[2]))
    for _ in range(2):
        assert server.restart() == 1
        assert not any(is_open(thief) for thief in thieves)
        server.put_back(backup)


def test_rule_29_a_store_whose_sessions_were_saved_before(face: Face, server: Server, name: Key[str]) -> None:
    """By managers that know nothing of this one (there a wrapper is around the store): what it held then may come back, and is noted."""
    browsers = [signed_in(face, name) for _ in range(2)]
    server.save()
    backup = server.copy("backup")
    server.stop()
    server.path.unlink()
    face.manager = face.another(store=Watched(face.store))
    assert server.load() == 0
    face.clock.advance(1)
    thieves = [sign_out(browser) for browser in browsers]
    server.put_back(backup)
    assert server.restart() == 0
    assert not any(is_open(thief) for thief in thieves)


def test_rule_29_a_child_notes_what_its_parent_may_have_saved(face: Face, server: Server, name: Key[str]) -> None:
    """After the fork the parent saves what the child has too; what ends in the child ends in that file."""
    server.save()
    face.clock.advance(1)
    browser = signed_in(face, name)
    face.manager.core.keeper.after_fork()
    thief = sign_out(browser)
    assert size(server) == ENTRY
    assert not is_open(thief)


# ------------------------------------------------------------------ for how long


def test_rule_29_an_end_is_remembered_for_as_long_as_timeouts_really_were(face: Face, server: Server, name: Key[str]) -> None:
    """A session with an hour of its own comes back from no snapshot of yesterday: its end is not remembered for a year."""
    for _ in range(20):
        browser = signed_in(face, name)
        with browser.visit() as session:
            session.timeout = HOUR
        server.save()
        sign_out(browser)
        face.clock.advance(2 * HOUR)
    assert size(server) < 6 * ENTRY


@pytest.mark.parametrize("before", [DAY, None])
def test_rule_29_an_older_snapshot_of_a_process_with_a_longer_timeout(
    face: Face, tmp_path: Path, name: Key[str], before: float | None
) -> None:
    """L4: the timeout was lowered, and the process that ends the session was started after that: no session there has a longer one."""
    server = Server(face, tmp_path, timeout=before)
    browser = signed_in(face, name, "ann")
    server.save()
    backup = server.copy("backup")
    server.options = {"timeout": 600}
    server.restart()
    for _ in range(2):
        face.clock.advance(300)
        with browser.visit() as session:
            session[name] = "bob"
    assert session_timeout(browser) == 600
    for _ in range(2):
        server.save()
        server.restart()
    thief = sign_out(browser)
    assert server.journal.stat().st_size < 200
    for _ in range(3):  # the journal forgets what can be forgotten
        face.clock.advance(HOUR)
        server.save()
        server.restart()
    server.put_back(backup)
    server.restart()
    assert not is_open(thief)
    face.clock.advance(500 * DAY)
    for _ in range(2):
        server.save()
        server.restart()
    assert server.journal.stat().st_size == 0


def session_timeout(browser: Browser) -> float | None:
    with browser.visit() as session:
        return session.timeout


@pytest.mark.parametrize("how", ["the same process", "a clock that was ahead", "another process", "another manager"])
def test_rule_29_but_for_as_long_as_the_longest_of_any_snapshot(face: Face, server: Server, name: Key[str], how: str) -> None:
    """L4, L10: the session's own timeout was a day in an older one; and it may have been used under a clock that was hours ahead."""
    ahead = 12 * HOUR if how == "a clock that was ahead" else 0.0
    server.save()
    face.clock.advance(1)
    browser = signed_in(face, name)
    with browser.visit() as session:
        session.timeout = DAY
    face.clock.advance(ahead)
    assert is_used(browser, name)
    face.clock.advance(-ahead)
    server.save()
    backup = server.copy("backup")
    if how == "another process":
        server.restart()
    with browser.visit() as session:
        session.timeout = 60
    if how == "another manager":
        server.stop()
        face.manager = face.another(store=Watched(face.store))
        server.save()
    thief = sign_out(browser)
    face.clock.advance(23 * HOUR + ahead)
    for _ in range(3):
        server.save()
    server.put_back(backup)
    assert server.restart() == 0
    assert not is_open(thief)


def test_rule_13_hooks_that_have_run_leave_no_trace_of_what_no_snapshot_holds(face: Face, server: Server) -> None:
    """Their values are kept in the journal until they have run, for a crash in between; and nothing after that."""
    cleaned: list[str] = []
    stock = Key("stock", str, cleanup_delete=cleaned.append)
    server.save()
    for number in range(20):
        face.clock.advance(1)
        sign_out(signed_in(face, stock, f"{number}"))
    assert len(replay(server.path, now=0.0)[0]) == 40
    for _ in range(2):
        face.clock.advance(1)
        server.save()
    assert cleaned == [f"{number}" for number in range(20)]
    assert size(server) == 0


def test_rule_29_a_snapshot_is_of_one_moment() -> None:
    """R9: what another thread writes to one session after the other is in it in that order, up to some session, and no further."""
    store, over = MemoryStore(), threading.Event()
    records = [started(store) for _ in range(40)]

    def write_all() -> None:
        number = 0
        while not over.is_set():
            number += 1
            for record in records:
                write(store, record, b"%d" % number)

    writer = threading.Thread(target=write_all)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        writer.start()
        for _ in range(100):
            taken = dict(store.cut())
            numbers = [int(value_of(Record.unpack(record.locator, taken[record.locator])) or b"") for record in records]
            assert numbers == sorted(numbers, reverse=True)
            assert numbers[0] - numbers[-1] <= 1
    finally:
        sys.setswitchinterval(interval)
        over.set()
        writer.join()
