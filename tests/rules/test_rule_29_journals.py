"""Rule 29: which files remember what has ended, for how long, and what is said when one of them cannot be written (rule 8, L4, L10).

What is in them is test_rule_29_restarts.py's business.
"""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path

import pytest

from tests.faces import Face
from tests.rules.restarts import Server, sign_out, signed_in
from tests.rules.scene import is_open
from typed_sessions import Key, StoreUnavailable
from typed_sessions.keeper import JOURNALS

pytestmark = pytest.mark.stores("memory")

HOUR, DAY = 3600.0, 86_400.0


def save(face: Face, path: Path | str) -> None:
    face.call(face.manager.save_sessions(path))


def until_compacted() -> None:
    """A journal that has grown long compacts itself in a thread."""
    for thread in threading.enumerate():
        if thread.name == "typed_sessions journal":
            thread.join(20)


# ------------------------------------------------------------------ a journal that cannot be used


def test_rule_29_where_the_journal_is_not_safe_no_snapshot_is_replaced(face: Face, server: Server, name: Key[str]) -> None:
    """A journal that others may write to lets nothing be loaded; the empty store must not take the place of what is saved."""
    ended, alive = signed_in(face, name), signed_in(face, name)
    server.save()
    server.save()
    thief = sign_out(ended)
    server.journal.chmod(0o660)
    files = {file: file.read_bytes() for file in server.path.parent.iterdir()}
    for _ in range(3):
        assert server.restart() == 0
        with pytest.raises(StoreUnavailable, match="others may write to it"):
            server.save()
    assert {file: file.read_bytes() for file in server.path.parent.iterdir()} == files
    server.journal.chmod(0o600)
    assert server.restart() == 1
    assert (is_open(alive), is_open(thief)) == (True, False)


def test_rule_29_where_no_journal_can_be_made_nothing_is_saved(face: Face, server: Server, name: Key[str]) -> None:
    """A snapshot without a journal would bring back what ends after it."""
    signed_in(face, name)
    server.journal.mkdir()
    with pytest.raises(StoreUnavailable, match="the journal could not be opened"):
        server.save()
    assert list(server.path.parent.iterdir()) == [server.journal]


# ------------------------------------------------------------------ relative paths


def test_rule_29_a_path_is_that_of_when_it_was_given(face: Face, tmp_path: Path, name: Key[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon changes its folder after it has loaded: what ends is noted beside the snapshot, not in the new folder."""
    (home := tmp_path / "home").mkdir()
    (root := tmp_path / "root").mkdir()
    monkeypatch.chdir(home)
    browser = signed_in(face, name)
    save(face, "sessions")
    monkeypatch.chdir(root)
    thief = sign_out(browser)
    server = Server(face, home)
    assert server.restart() == 0
    assert not is_open(thief)
    assert list(root.iterdir()) == []


def test_rule_29_autosave_stays_where_it_was_begun(face: Face, tmp_path: Path, name: Key[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for the snapshots, here that of closing."""
    (home := tmp_path / "home").mkdir()
    (root := tmp_path / "root").mkdir()
    monkeypatch.chdir(home)
    face.manager.autosave("sessions", every=DAY)
    browser = signed_in(face, name)
    monkeypatch.chdir(root)
    server = Server(face, home)
    server.stop()
    assert list(root.iterdir()) == []
    assert server.restart() == 1
    assert is_open(browser)


# ------------------------------------------------------------------ clocks that were wrong


def test_rule_29_an_end_under_a_clock_that_was_behind(face: Face, server: Server, name: Key[str]) -> None:
    """L4, L10: it is remembered for as long as the snapshot, written before under the right clock, could hold the session alive."""
    browser = signed_in(face, name)
    server.save()
    backup = server.copy("backup")
    face.clock.advance(-HOUR)
    assert server.restart() == 1
    thief = sign_out(browser)
    server.die()
    face.clock.advance(HOUR + 120)
    server.save()  # which compacts the journal
    server.put_back(backup)
    assert server.load() == 0
    assert not is_open(thief)


@pytest.mark.parametrize("how", ["put back", "the latest is damaged", "put back after a restart", "the journal compacts itself"])
def test_rule_29_a_clock_that_jumps_ahead_makes_no_journal_forget(face: Face, server: Server, name: Key[str], how: str) -> None:
    """L4, L10: what is saved under it forgets no end that the snapshot before, written under the right clock, could bring back."""
    browser, _ = signed_in(face, name), signed_in(face, name)
    server.save()
    backup = server.copy("backup")
    thief = sign_out(browser)
    if how == "put back after a restart":
        server.restart()
    face.clock.advance(6 * HOUR)
    if how == "the journal compacts itself":
        with server.journal.open("ab") as journal:
            journal.write(b"\n1damaged" * 40_000)
        sign_out(signed_in(face, name))  # its request finds the other session to be over, which is noted
        until_compacted()
        assert server.journal.stat().st_size < 40_000
    else:
        server.save()
    face.clock.advance(-6 * HOUR + 5)
    if how == "the latest is damaged":
        server.path.write_bytes(b"no snapshot")
    else:
        server.put_back(backup)
    requested = how == "the journal compacts itself"  # and so the other session was found to be over
    assert server.restart() == (0 if requested else 1)
    assert not is_open(thief)


def test_rule_29_an_end_after_a_save_under_a_clock_that_was_ahead(face: Face, server: Server, name: Key[str]) -> None:
    """L4, L10: it is remembered for as long as that snapshot, by its own times, could hold the session alive."""
    face.clock.advance(6 * HOUR)
    browser = signed_in(face, name)
    server.save()
    backup = server.copy("backup")
    face.clock.advance(-6 * HOUR)
    thief = sign_out(browser)
    for _ in range(3):
        face.clock.advance(800)
        server.save()
    server.put_back(backup)
    assert server.restart() == 0
    assert not is_open(thief)


def test_rule_29_what_no_snapshot_can_bring_back_is_forgotten(face: Face, server: Server, name: Key[str]) -> None:
    """A save later than when the time of the ended session would have been over; not one that comes with the next end."""
    for _ in range(20):
        browser = signed_in(face, name)
        server.save()
        sign_out(browser)
        face.clock.advance(HOUR)
    assert server.journal.stat().st_size < 4 * 200


def test_rule_29_a_journal_compacts_itself_by_the_clock_of_its_managers(face: Face, server: Server, name: Key[str]) -> None:
    """That clock may be behind the machine's for as long as the process runs: what ended is not too old by the other one."""
    face.clock.advance(-10 * 365 * DAY)
    browser = signed_in(face, name)
    server.save()
    thief = sign_out(browser)
    assert server.journal.stat().st_size > 0
    padding = b"\n1damaged" * 40_000  # so that it is worth a compaction
    with server.journal.open("ab") as journal:
        journal.write(padding)
    sign_out(signed_in(face, name))
    until_compacted()
    assert server.journal.stat().st_size < len(padding)
    assert server.restart() == 0
    assert not is_open(thief)


def test_rule_29_a_lifetime_under_a_clock_that_was_ahead(face: Face, tmp_path: Path, name: Key[str]) -> None:
    """L10: the deadline comes back with the time of creation; an hour is an hour from now at most, however often it is used."""
    server = Server(face, tmp_path, lifetime=HOUR, timeout=600)
    face.clock.advance(30 * DAY)
    browser = signed_in(face, name)
    server.save()
    face.clock.advance(-30 * DAY)
    server.restart()
    lived = 0.0
    while is_open(browser) and lived < DAY:
        with browser.visit() as session:
            assert name in session
        face.clock.advance(300)
        lived += 300
    assert lived == HOUR


# ------------------------------------------------------------------ several files


def test_rule_29_a_folder_that_is_gone_stops_no_sign_out(
    face: Face, server: Server, name: Key[str], caplog: pytest.LogCaptureFixture
) -> None:
    """One backup to a folder that was removed later: that is said once, and the snapshot that is there is kept up."""
    browsers = [signed_in(face, name) for _ in range(3)]
    server.save()
    (elsewhere := server.path.parent / "elsewhere").mkdir()
    save(face, elsewhere / "backup")
    shutil.rmtree(elsewhere)
    thieves = [sign_out(browser) for browser in browsers[:2]]
    assert caplog.text.count("elsewhere is gone") == 1
    assert server.restart() == 1
    assert [is_open(browser) for browser in (*thieves, browsers[2])] == [False, False, True]


def test_rule_29_one_journal_that_fails_keeps_no_other_from_the_end(face: Face, server: Server, name: Key[str]) -> None:
    """Whoever signs out is told that a crash could undo it; with the other snapshot it does not."""
    browser = signed_in(face, name)
    save(face, backup := server.path.with_name("backup"))
    server.save()
    journal = backup.with_name("backup.journal")
    journal.unlink()
    journal.mkdir()
    thief = browser.copy()
    turn = browser.open()
    turn.session.end()
    with pytest.raises(StoreUnavailable, match=r"backup\.journal"):
        turn.send()
    turn.discard()
    assert server.restart() == 0
    assert not is_open(thief)


def test_rule_29_so_many_journals_are_kept_up_and_no_more(face: Face, server: Server, name: Key[str]) -> None:
    """Dated backups: the least recent is let go, what was loaded and what autosave writes never."""
    server.load()
    face.manager.autosave(auto := server.path.with_name("auto"), every=DAY)
    save(face, auto)
    browser = signed_in(face, name)
    backups = [server.path.with_name(f"backup-{number:02}") for number in range(12)]
    for backup in backups:
        save(face, backup)
    save(face, backups[6])  # the least recent of those kept: not any more
    save(face, server.path.with_name("another"))
    before = {file.name: file.stat().st_size for file in server.path.parent.glob("*.journal")}
    sign_out(browser)
    told = {file.name for file in server.path.parent.glob("*.journal") if file.stat().st_size != before.get(file.name)}
    assert told == {f"{file}.journal" for file in ("sessions", "auto", "another", "backup-06", *(f"backup-{n:02}" for n in range(8, 12)))}
    assert len(told) == JOURNALS
    if os.path.isdir("/proc/self/fd"):
        opened = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{fd}")]
        assert {os.path.basename(file) for file in opened if file.startswith(str(server.path.parent))} == told | {"auto"}
    face.manager.autosave(server.path, every=DAY)  # so that closing does not save to a path that is only of this test
    server.stop()


# ------------------------------------------------------------------ several managers of one store


def test_rule_29_an_end_by_another_manager_of_the_store(face: Face, server: Server, name: Key[str]) -> None:
    """Every manager of a memory store notes what ends, whichever of them saves; also after one of them has been closed."""
    first, second, alive = (signed_in(face, name) for _ in range(3))
    saving, other = face.manager, face.another()
    server.save()
    face.manager = other
    thieves = [sign_out(first)]
    face.manager = saving
    server.stop()
    face.manager = other
    thieves.append(sign_out(second))
    assert server.restart() == 1
    assert [is_open(browser) for browser in (*thieves, alive)] == [False, False, True]


def test_rule_29_what_closed_managers_had_loaded_is_let_go(face: Face, server: Server, name: Key[str]) -> None:
    """While another manager of the store goes on: only of what is in use all journals are kept up."""
    folder = server.path.parent
    for number in range(JOURNALS + 5):
        passing = face.another()
        face.call(passing.load_sessions(folder / f"{number}.snapshot"))
        face.call(passing.close() if face.kind == "sync" else passing.aclose())
    browser = signed_in(face, name)
    face.call(face.manager.load_sessions(server.path))
    server.save()
    sign_out(browser)
    told = [file for file in folder.glob("*.journal") if file.stat().st_size]
    assert len(told) == JOURNALS
    assert Path(f"{server.path}.journal") in told


def test_rule_29_the_last_manager_that_is_closed_closes_the_files(face: Face, server: Server) -> None:
    """And a manager that is used again opens them again."""
    other = face.another()
    server.save()
    assert face.manager.core.keeper.keeping
    server.stop()
    assert face.manager.core.keeper.keeping
    face.manager = other
    server.stop()
    assert not face.manager.core.keeper.keeping
    server.save()
    assert face.manager.core.keeper.keeping
    server.stop()
