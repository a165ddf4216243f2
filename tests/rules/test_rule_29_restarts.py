"""Rule 29: `save_sessions` and `load_sessions`: a snapshot is whole or not there, and what ended stays ended (rule 8, L4).

How files are written is tests/test_snapshot.py's and tests/test_journal.py's business: every failing call, every kill, every flipped bit.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.faces import Browser, Face
from tests.rules.restarts import Server, signed_in
from typed_sessions import CookiePolicy, End, Key, ListKey, MemoryStore, SessionView, SnapshotDamaged, StoreUnavailable
from typed_sessions.testing import isolated_keys

pytestmark = pytest.mark.stores("memory")


@dataclass
class Cart:
    items: list[str]


def who(browser: Browser, name: Key[str]) -> str | None:
    """Whose session the browser's cookies open; None if they open nothing. A look, not a use."""
    view = browser.face.call(browser.face.manager.get_session(browser.request()))
    return None if view is None else view.get(name)


def sign_out(browser: Browser) -> Browser:
    """End the session; a thief, who still has the cookies."""
    thief = browser.copy()
    with browser.visit() as session:
        session.end()
    assert browser.jar == {}
    return thief


def test_rule_29_everything_comes_back(face: Face, tmp_path: Path) -> None:
    """Values of every kind that is stored, lists, times, the cookie's life, the address; not what lives in the process only."""
    server = Server(face, tmp_path, cookie_policy=CookiePolicy(max_age=3600), lifetime=86_400)
    cart, facts, door = Key("cart", Cart), ListKey("facts", str), Key("door", object, resident=True)
    photo = Key("photo", save=bytes, load=bytearray)
    browser = face.browser()
    with browser.visit() as session:
        session[cart] = Cart(["book"])
        session[photo] = bytearray(b"\x89PNG")
        session[facts].append("one")
        session[facts].prepend("zero")
        session[door] = object()
        session.timeout = 7200
        session.persistent = False
    with browser.visit() as session:
        before = (session.handle, session.created, session.address, session.idle)
    assert server.save() == 1
    face.clock.advance(100)
    assert server.restart() == 1
    with browser.visit(create=False) as session:
        assert (session[cart], session[photo], list(session[facts])) == (Cart(["book"]), bytearray(b"\x89PNG"), ["zero", "one"])
        assert door not in session
        assert (session.timeout, session.persistent, session.idle) == (7200, False, 0.0)
        assert (session.handle, session.created, session.address, 0.0) == before
    face.clock.advance(86_400 - 100)
    assert not face.call(face.manager.check_session_cookie(browser.request()))


def test_rule_29_saving_changes_nothing_in_memory(face: Face, server: Server, name: Key[str]) -> None:
    """The same bytes before and after, resident values still there."""
    door = Key("door", object, resident=True)
    browser = signed_in(face, name, "ann")
    thing = object()
    with browser.visit() as session:
        session[door] = thing
    before = sorted(face.store.cut())
    assert server.save() == 1
    assert server.save() == 1
    assert sorted(face.store.cut()) == before
    with browser.visit() as session:
        assert session[door] is thing


def test_rule_29_a_missing_file_is_no_sessions(face: Face, server: Server, name: Key[str]) -> None:
    """The first start; and nothing is made by looking."""
    assert server.load() == 0
    assert server.load(strict=True) == 0
    assert list(server.path.parent.iterdir()) == []
    assert who(signed_in(face, name, "ann"), name) == "ann"


def test_rule_29_nobody_else_may_read_the_files(face: Face, server: Server, name: Key[str]) -> None:
    """Mode 0600, snapshot, previous one and journal; and no cookie's value is in any of them (I3, rule 17)."""
    browsers = [signed_in(face, name, "ann") for _ in range(3)]
    server.save()
    server.save()
    with browsers[0].visit() as session:
        session.renew()
    with browsers[1].visit() as session:
        session.end()
    files = list(server.path.parent.iterdir())
    assert {file.name for file in files} == {"sessions", "sessions.previous", "sessions.journal"}
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    content = b"".join(file.read_bytes() for file in files)
    assert not [value for browser in browsers for value in browser.jar.values() if value.encode() in content]


def test_rule_29_what_ended_after_the_snapshot_stays_ended(face: Face, server: Server, name: Key[str]) -> None:
    """L4: sign-out, crash, start. Whatever ended it; and at every start again."""
    ended, by_handle, all_but, alive = (signed_in(face, name, text) for text in ("ended", "handle", "where", "alive"))
    server.save()
    thief = sign_out(ended)
    with by_handle.visit() as session:
        handle = session.handle
    assert face.call(face.manager.end(handle))

    def is_where(view: SessionView) -> bool:
        return view.get(name) == "where"

    assert face.call(face.manager.end_all(is_where)) == 1
    for _ in range(3):
        assert server.restart() == 1
        assert [who(browser, name) for browser in (thief, by_handle, all_but, alive)] == [None, None, None, "alive"]


def test_rule_29_what_was_renewed_after_the_snapshot_stays_renewed(face: Face, server: Server, name: Key[str]) -> None:
    """The cookie of before a sign-in is dead after a crash too, and the new one opens the session, as it was when it was saved."""
    browser = signed_in(face, name, "saved")
    server.save()
    thief = browser.copy()
    for text in ("one", "two"):
        with browser.visit() as session:
            session.renew()
            session[name] = text
    for _ in range(2):
        assert server.restart() == 1
        assert (who(thief, name), who(browser, name)) == (None, "saved")


def test_rule_29_what_a_renewal_dropped_stays_dropped(face: Face, server: Server, name: Key[str]) -> None:
    """`renew(clear=True)` was somebody's sign-out: after a crash the new secret opens nothing of before, and what was saved since stays."""
    later = Key("later", str)
    browser = signed_in(face, name, "ann")
    server.save()
    backup = server.copy("backup")
    with browser.visit() as session:
        session.renew(clear=True)
    with browser.visit() as session:
        session.renew()
    assert server.restart() == 1
    assert who(browser, name) is None
    with browser.visit() as session:
        assert session.exists
        session[later] = "new"
        session.renew()
    server.save()
    assert server.restart() == 1
    assert who(browser, later) == "new"
    server.die()
    server.put_back(backup)
    assert server.load() == 1
    with browser.visit() as session:
        assert session.exists
        assert list(session) == []


def test_rule_29_a_renewal_of_before_the_crash_is_not_a_later_one(face: Face, server: Server, name: Key[str]) -> None:
    """Commits that a crash has lost had numbers that come again: a journal that was not compacted in time must not bring back a secret."""
    browser = signed_in(face, name, "ann")
    server.save()
    for _ in range(9):
        with browser.visit() as session:
            session[name] = "lost"
    with browser.visit() as session:
        session.renew()
    thief = browser.copy()
    server.restart()
    with browser.visit() as session:
        session.renew()
    for _ in range(3):
        with browser.visit() as session:
            session[name] = "saved"
    journal = server.journal.read_bytes()
    server.save()
    server.journal.write_bytes(journal)  # killed between the snapshot and the compaction
    server.restart()
    assert (who(thief, name), who(browser, name)) == (None, "saved")


def test_rule_29_an_overlap_survives(face: Face, tmp_path: Path, name: Key[str]) -> None:
    """A routine rotation: the previous secret opens the session for as long as it would have, crash or not."""
    server = Server(face, tmp_path, overlap=30)
    browser = signed_in(face, name, "ann")
    server.save()
    slow_tab = browser.copy()
    with browser.visit() as session:
        session.renew()
    face.clock.advance(10)
    server.restart()
    assert (who(slow_tab, name), who(browser, name)) == ("ann", "ann")
    face.clock.advance(21)
    assert (who(slow_tab, name), who(browser, name)) == (None, "ann")


def test_rule_29_an_older_snapshot_put_back(face: Face, server: Server, name: Key[str]) -> None:
    """L4, WSTG-SESS-06: what ended or was renewed since, also before the latest snapshot, stays so."""
    ended, renewed, later = (signed_in(face, name, text) for text in ("ended", "renewed", "later"))
    old_cookie = renewed.copy()
    server.save()
    backup = server.copy("backup")
    thieves = [sign_out(ended)]
    with renewed.visit() as session:
        session.renew()
    server.save()  # neither is the journal's business any more, as far as this snapshot goes
    thieves.append(sign_out(later))
    server.save()
    server.die()
    server.put_back(backup)
    server.load()
    assert [who(browser, name) for browser in (*thieves, old_cookie, renewed)] == [None, None, None, "renewed"]


@pytest.mark.parametrize("own", [True, False])
def test_rule_29_an_older_snapshot_in_which_the_session_had_longer_to_live(face: Face, tmp_path: Path, name: Key[str], own: bool) -> None:
    """L4: its timeout was a day when it was saved, and a minute when it ended, by its own setting or by the option of a new release."""
    server = Server(face, tmp_path, timeout=600 if own else 86_400)
    browser = signed_in(face, name, "ann")
    if own:
        with browser.visit() as session:
            session.timeout = 86_400
    server.save()
    backup = server.copy("backup")
    server.options = {"timeout": 60}
    server.restart()
    face.clock.advance(9_000)
    with browser.visit() as session:
        if own:
            session.timeout = 60
    with browser.visit() as session:
        assert session.timeout == 60
    thief = sign_out(browser)
    face.clock.advance(7_200)
    server.save()
    server.die()
    server.put_back(backup)
    server.load()
    assert who(thief, name) is None


def test_rule_29_an_older_snapshot_of_a_time_with_a_longer_timeout(face: Face, server: Server, name: Key[str]) -> None:
    """L4: the timeout was a day for a while, by `set_options`, and is ten minutes again when the session ends."""
    server.save()
    server.manager.set_options(timeout=86_400)
    browser = signed_in(face, name, "ann")
    server.save()
    backup = server.copy("backup")
    server.manager.set_options(timeout=600)
    face.clock.advance(9_000)
    for _ in range(2):
        with browser.visit() as session:
            session[name]
    with browser.visit() as session:
        assert session.timeout == 600
    thief = sign_out(browser)
    face.clock.advance(7_200)
    server.save()
    server.die()
    server.put_back(backup)
    server.load()
    assert who(thief, name) is None


def test_rule_29_a_damaged_snapshot(face: Face, server: Server, name: Key[str], caplog: pytest.LogCaptureFixture) -> None:
    """It is reported and kept, the previous one is loaded, and the journal holds for that one too."""
    first, second, ended = (signed_in(face, name, text) for text in ("first", "second", "ended"))
    server.save()
    third = signed_in(face, name, "third")
    server.save()
    thief = sign_out(ended)
    damaged = bytearray(server.path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    server.path.write_bytes(damaged)
    assert server.restart() == 2
    assert [who(browser, name) for browser in (first, second, third, thief)] == ["first", "second", None, None]
    assert "checksum" in caplog.text
    assert server.path.with_name("sessions.damaged-1").read_bytes() == damaged


def test_rule_29_strict_raises_for_damage(face: Face, server: Server, name: Key[str]) -> None:
    """With `strict` whoever starts the program decides; the error names the file and what was wrong."""
    signed_in(face, name, "ann")
    server.save()
    server.path.write_bytes(b"nonsense")
    server.die()
    with pytest.raises(SnapshotDamaged, match="cut off") as caught:
        server.load(strict=True)
    assert caught.value.path == str(server.path)


def test_rule_29_without_its_journal_nothing_is_believed(face: Face, server: Server, name: Key[str]) -> None:
    """X7: a journal that others could have written (here a link) says nothing of what has ended: no session is better than one too many."""
    browser = signed_in(face, name, "ann")
    server.save()
    with browser.visit() as session:
        session.end()
    server.journal.rename(server.journal.with_name("elsewhere"))
    server.journal.symlink_to("elsewhere")
    server.die()
    assert server.load() == 0
    with pytest.raises(SnapshotDamaged, match="symbolic link"):
        server.load(strict=True)


def test_rule_29_an_entry_that_cannot_be_read_is_reported(face: Face, server: Server, name: Key[str]) -> None:
    """The others count; with `strict` the loss is an error."""
    ended, alive = signed_in(face, name, "ended"), signed_in(face, name, "alive")
    server.save()
    thief = sign_out(ended)
    with server.journal.open("ab") as journal:
        journal.write(b"\n1damaged\n")
    assert server.restart() == 1
    assert (who(thief, name), who(alive, name)) == (None, "alive")
    with pytest.raises(SnapshotDamaged, match="1 entries"):
        server.load(strict=True)


def test_rule_29_an_entry_that_was_cut_short_is_no_damage(face: Face, server: Server, name: Key[str]) -> None:
    """A kill, or a full disk, in the middle of a write: nobody was promised that one, so `strict` does not refuse to start for it."""
    ended, alive = signed_in(face, name, "ended"), signed_in(face, name, "alive")
    server.save()
    for end in (b"\n1torn", b"\n1"):
        with server.journal.open("ab") as journal:
            journal.write(end)
        server.die()
        assert server.load(strict=True) == 2
    thief = sign_out(ended)
    server.die()
    assert server.load(strict=True) == 1
    assert (who(thief, name), who(alive, name)) == (None, "alive")


def test_rule_29_a_save_that_fails_says_so_and_leaves_the_last_one(face: Face, server: Server, name: Key[str]) -> None:
    """StoreUnavailable with the path and the remedy; what was saved before is still loaded."""
    signed_in(face, name, "ann")
    with pytest.raises(StoreUnavailable, match="the folder does not exist"):
        face.call(face.manager.save_sessions(server.path / "deeper" / "sessions"))
    server.save()
    signed_in(face, name, "bob")
    server.previous.mkdir()  # the rename will fail
    with pytest.raises(StoreUnavailable, match=r"sessions"):
        server.save()
    server.previous.rmdir()
    assert server.restart() == 1


@pytest.mark.parametrize("how", ["request", "handle", "renew"])
def test_rule_29_what_could_not_be_noted_is_not_promised(face: Face, server: Server, name: Key[str], how: str) -> None:
    """S1: the journal is on the disk before the response. If it cannot be written, whoever asked is told; it is over all the same."""
    browser = signed_in(face, name, "ann")
    before = browser.copy()
    server.save()
    server.journal.unlink(missing_ok=True)
    server.journal.mkdir()
    turn = browser.open()
    handle = turn.session.handle
    if how == "renew":
        turn.session.renew()
    elif how == "request":
        turn.session.end()
    with pytest.raises(StoreUnavailable, match="journal"):
        face.call(face.manager.end(handle)) if how == "handle" else turn.send()
    browser.take(turn.discard())
    assert who(before, name) is None
    assert who(browser, name) == ("ann" if how == "renew" else None)


def test_rule_29_without_a_snapshot_there_is_no_journal(face: Face, server: Server, name: Key[str]) -> None:
    """Who saves nothing pays nothing: an end waits for no disk."""
    with signed_in(face, name, "ann").visit() as session:
        session.end()
    assert list(server.path.parent.iterdir()) == []


def test_rule_29_what_ran_out_meanwhile_is_cleaned_up_after(face: Face, server: Server) -> None:
    """Rules 11 and 13: it opens for nobody, its end is told, and its hooks run, though the process was down when its time came."""
    released: list[str] = []
    stock = Key("stock", str, cleanup_delete=released.append)
    browser = signed_in(face, stock, "book")
    server.save()
    face.clock.advance(100_000)
    server.die()
    ends: list[End] = []
    face.manager.on(End, ends.append)
    server.load()
    assert who(browser, stock) is None
    assert face.call(face.manager.sweep()) == 1
    assert (released, [event.reason for event in ends]) == (["book"], ["timeout"])


def test_rule_29_saved_under_a_clock_that_was_ahead(face: Face, server: Server, name: Key[str]) -> None:
    """L10: a session lives its timeout from now, not from a tomorrow that was a mistake."""
    face.clock.advance(86_400)
    browser = signed_in(face, name, "ann")
    server.save()
    face.clock.advance(-86_400)
    server.restart()
    assert who(browser, name) == "ann"
    face.clock.advance(661)
    assert who(browser, name) is None


def test_rule_29_loading_twice_brings_nothing_back(face: Face, server: Server, name: Key[str]) -> None:
    """A session that lives already is not replaced by its older self, and one that has ended since is not restored."""
    changed, ended = signed_in(face, name, "old"), signed_in(face, name, "ended")
    server.save()
    server.restart()
    with changed.visit() as session:
        session[name] = "new"
    thief = sign_out(ended)
    assert server.load() == 0
    assert (who(changed, name), who(thief, name)) == ("new", None)


@pytest.mark.stores("memory")
def test_rule_29_a_snapshot_is_of_one_moment(face: Face) -> None:
    """While the records are gathered, what is written to those that were not gathered yet is not in it, however often."""
    name = Key("name", int)
    browsers = [face.browser() for _ in range(3)]
    store = MemoryStore(shards=2)
    face.manager = face.another(store=store)
    for browser in browsers:
        for _ in range(2):  # the second time it is kept as it is, and not packed
            with browser.visit() as session:
                session[name] = 1
    before = sorted(store.cut())

    class Rounds(tuple[Any, ...]):
        """The shards, which are gone through for the fourth time when the locks have been given back and nothing is gathered yet."""

        rounds = 0

        def __iter__(self) -> Iterator[Any]:
            Rounds.rounds += 1
            if Rounds.rounds == 4:
                for browser in browsers:
                    for number in (2, 3):
                        with browser.visit() as session:
                            session[name] = number
                with face.browser().visit() as session:
                    session[name] = 4
                with browsers[0].visit() as session:
                    session.end()
            return super().__iter__()

    store.__dict__["_shards"] = Rounds(store.__dict__["_shards"])
    assert sorted(store.cut()) == before
    assert len(store.cut()) == 3


@pytest.mark.stores("memory")
def test_rule_29_what_has_ended_and_waits_for_its_hooks_takes_no_place_after_a_restart(face: Face, tmp_path: Path) -> None:
    """Rule 30: it does not count against `max_sessions`, neither then nor when it has been cleaned up."""
    cleaned: list[str] = []
    browser = face.browser()
    with isolated_keys(), browser.visit() as session:
        session[Key("hooked", str, cleanup_delete=cleaned.append)] = "value"
    with browser.visit() as session:
        session.end()
    face.call(face.manager.save_sessions(tmp_path / "sessions"))
    face.store = MemoryStore(max_sessions=1)
    face.renew()
    face.call(face.manager.load_sessions(tmp_path / "sessions"))
    assert len(face.store) == 0
    Key("hooked", str, cleanup_delete=cleaned.append)
    face.clock.advance(60)
    face.call(face.manager.sweep())
    assert (cleaned, len(face.store)) == (["value"], 0)
