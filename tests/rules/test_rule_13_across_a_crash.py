"""Rule 13: hooks run once per value in a healthy run, at least once across a crash, wherever the keys are known, within `reap_grace`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.faces import PEER, Browser, Face
from tests.rules.scene import handle_of, is_open, listen, live
from tests.watched import Watched
from typed_sessions import Client, End, Key, MemoryStore, StoreUnavailable, keeper
from typed_sessions.journal import replay
from typed_sessions.testing import isolated_keys

Make = Callable[..., Face]

LEASE = 60.0
WEEK = 7 * 86400.0


def begun(face: Face, *names: str, hook: Callable[[Any], None] = lambda _: None) -> Browser:
    """A session with a hooked value under each name, from a process that has these keys; this one has forgotten them again."""
    browser = face.browser()
    with isolated_keys(), browser.visit() as session:
        for name in names:
            session[Key(name, str, cleanup_delete=hook)] = f"value of {name}"
        session[Key("plain", str)] = "plain"
    return browser


def sweep(face: Face) -> None:
    face.call(face.manager.sweep())


def test_rule_13_values_wait_for_a_process_that_has_their_keys(face: Face) -> None:
    """What ends where a key is unknown keeps that value until somebody has the key; it runs then, once, and `End` is not told again."""
    ends: list[str] = []
    cleaned: list[str] = []
    listen(face, End, lambda event: ends.append(event.reason))
    browser = begun(face, "unknown", "known")
    known = Key("known", str, cleanup_delete=cleaned.append)
    with browser.visit() as session:
        assert known in session
        session.end()
    assert cleaned == ["value of known"]
    for _ in range(5):
        face.clock.advance(LEASE)
        sweep(face)
    assert not is_open(browser)
    assert live(face) == set()
    Key("unknown", str, cleanup_delete=cleaned.append)
    for _ in range(5):
        face.clock.advance(LEASE)
        sweep(face)
    assert cleaned == ["value of known", "value of unknown"]
    assert ends == ["ended"]


def test_rule_13_also_a_value_of_a_session_that_was_evicted(memory_face: Face) -> None:
    """The same for the end by a cap: one `End`, and the value waits."""
    ends: list[str] = []
    cleaned: list[str] = []
    memory_face.store = MemoryStore(max_sessions=1)
    face = memory_face.renew(timeout=None)
    listen(face, End, lambda event: ends.append(event.reason))
    begun(face, "unknown")
    with face.browser().visit() as session:
        session[Key("plain", str)] = "another"
    for _ in range(5):
        face.clock.advance(LEASE)
        sweep(face)
    assert ends == ["evicted"]
    Key("unknown", str, cleanup_delete=cleaned.append)
    for _ in range(5):
        face.clock.advance(LEASE)
        sweep(face)
    assert cleaned == ["value of unknown"]
    assert ends == ["evicted"]


@pytest.mark.parametrize(("grace", "waits"), [(WEEK, True), (1000, True), (1000, False)])
def test_rule_13_a_value_waits_for_reap_grace_and_not_longer(make_face: Make, grace: float, waits: bool) -> None:
    """7 days by default. After that its hook is given up, so that keys which no code has any more do not fill the store."""
    face = make_face(reap_grace=grace)
    cleaned: list[str] = []
    browser = begun(face, "unknown")
    with browser.visit() as session:
        session.end()
    face.clock.advance(grace - 1 if waits else grace + LEASE)
    sweep(face)
    face.clock.advance(-LEASE)
    Key("unknown", str, cleanup_delete=cleaned.append)
    face.clock.advance(LEASE + LEASE)
    sweep(face)
    assert cleaned == (["value of unknown"] if waits else [])


def test_rule_13_the_default_grace_is_seven_days(face: Face) -> None:
    """As the option's default says."""
    assert face.manager.options.reap_grace == WEEK


def test_rule_13_one_process_at_a_time_runs_the_hooks(face: Face) -> None:
    """While the process that ended a session is at its hooks, no other touches them; if it dies, another takes over after its lease."""
    cleaned: list[str] = []
    browser = begun(face, "key")
    Key("key", str, cleanup_delete=cleaned.append)
    # A process that marks the session as ended, and dies before it has run a hook:
    locator = bytes.fromhex(handle_of(browser))
    assert face.call(face.store.end(locator, "ended", face.clock(), LEASE)) is not None
    other = face.another()
    for _ in range(5):
        face.clock.advance(LEASE / 6)
        sweep(face)
        face.call(other.sweep())
        assert cleaned == []
    face.clock.advance(LEASE / 6)
    sweep(face)
    face.call(other.sweep())
    assert cleaned == ["value of key"]


def test_rule_13_a_store_that_fails_in_the_middle_of_a_sweep(face: Face) -> None:
    """Everybody is told of every end, once, and each client is closed; the hooks of what the store still holds run at the next claim."""
    store = Watched(face.store)
    face.manager = face.another(store=store)
    cleaned, closed = list[str](), list[str]()
    stored = Key("stored", str, cleanup_delete=cleaned.append)
    kept = Key("kept", str, resident=True, cleanup_delete=cleaned.append)
    ends = list[End]()
    listen(face, End, ends.append)
    for n in range(4):
        client = Client(PEER, partial(closed.append, f"client {n}"))
        turn = face.browser().open(client=client)
        turn.session[stored], turn.session[kept] = f"stored {n}", f"kept {n}"
        turn.finish()
    face.clock.advance(700)
    store.faults["clear"] = StoreUnavailable("it is down")
    with pytest.raises(StoreUnavailable):
        sweep(face)
    assert store.calls["clear"] == 1  # the others do not wait for a store that is down
    store.faults.clear()
    assert len(ends) == 4
    assert sorted(closed) == [f"client {n}" for n in range(4)]
    assert sorted(name for name in cleaned if name.startswith("kept")) == [f"kept {n}" for n in range(4)]
    assert len(cleaned) == 5
    face.clock.advance(LEASE)
    sweep(face)
    assert sorted(set(cleaned)) == sorted([f"kept {n}" for n in range(4)] + [f"stored {n}" for n in range(4)])
    assert (len(cleaned), len(ends)) == (9, 4)


def test_rule_13_an_ended_session_in_a_snapshot_is_cleaned_up_after_a_restart(memory_face: Face, tmp_path: Path) -> None:
    """A snapshot carries what still waits for its hooks; they run in the process that loads it, and nobody can open the session."""
    face = memory_face
    cleaned: list[str] = []
    browser = begun(face, "unknown")
    with browser.copy().visit() as session:
        session.end()
    face.call(face.manager.save_sessions(tmp_path / "sessions"))
    face.store = MemoryStore()
    face.renew()
    face.call(face.manager.load_sessions(tmp_path / "sessions"))
    Key("unknown", str, cleanup_delete=cleaned.append)
    assert not is_open(browser)
    face.clock.advance(LEASE)
    sweep(face)
    assert cleaned == ["value of unknown"]
    assert not is_open(browser)


def test_rule_13_a_crash_in_the_middle_of_the_hooks(memory_face: Face, tmp_path: Path) -> None:
    """Killed after the end was noted and before its hooks had run: they run after the restart, on the values of the last snapshot."""
    face = memory_face
    path, cleaned, ends = tmp_path / "sessions", list[str](), list[str]()

    class Killed(BaseException):
        pass

    def killed(value: str) -> None:
        raise Killed

    browser = begun(face, "key")
    face.call(face.manager.save_sessions(path))
    with isolated_keys():
        Key("key", str, cleanup_delete=killed)
        turn = browser.copy().open()
        turn.session.end()
        with pytest.raises(Killed):
            turn.finish()
    face.store = MemoryStore()
    face.renew()
    face.call(face.manager.load_sessions(path))
    listen(face, End, lambda event: ends.append(event.reason))
    Key("key", str, cleanup_delete=cleaned.append)
    assert not is_open(browser)
    face.clock.advance(LEASE)
    sweep(face)
    assert cleaned == ["value of key"]
    assert not is_open(browser)


def test_rule_13_a_crash_before_the_first_snapshot(memory_face: Face, tmp_path: Path) -> None:
    """The journal alone knows of the end then: the hooks run after the restart all the same."""
    face = memory_face
    path, cleaned = tmp_path / "sessions", list[str]()
    assert face.call(face.manager.load_sessions(path)) == 0

    class Killed(BaseException):
        pass

    def killed(value: str) -> None:
        raise Killed

    with isolated_keys():
        browser = face.browser()
        with browser.visit() as session:
            session[Key("key", str, cleanup_delete=killed)] = "value of key"
        turn = browser.open()
        turn.session.end()
        with pytest.raises(Killed):
            turn.finish()
    face.store = MemoryStore()
    face.renew()
    assert face.call(face.manager.load_sessions(path)) == 1
    Key("key", str, cleanup_delete=cleaned.append)
    face.clock.advance(LEASE)
    sweep(face)
    assert cleaned == ["value of key"]


@pytest.mark.parametrize("saved", [True, False])
def test_rule_13_a_crash_in_the_middle_of_the_hooks_and_a_day_without_a_process(memory_face: Face, tmp_path: Path, saved: bool) -> None:
    """They run within `reap_grace`, not within the session's timeout; saving meanwhile changes nothing; nobody gets in."""
    face = memory_face
    path, cleaned = tmp_path / "sessions", list[str]()

    class Killed(BaseException):
        pass

    def killed(value: str) -> None:
        raise Killed

    face.call(face.manager.save_sessions(path))
    with isolated_keys():
        browser = face.browser()
        with browser.visit() as session:
            session[Key("key", str, cleanup_delete=killed)] = "value of key"
        if saved:
            face.call(face.manager.save_sessions(path))
        backup = path.read_bytes()
        turn = browser.copy().open()
        turn.session.end()
        with pytest.raises(Killed):
            turn.finish()
    for _ in range(3):
        face.clock.advance(WEEK / 8)
        face.store = MemoryStore()
        face.renew()
        assert face.call(face.manager.load_sessions(path)) == 1
        assert not is_open(browser)
        assert live(face) == set()
        face.call(face.manager.save_sessions(path))
    Key("key", str, cleanup_delete=cleaned.append)
    face.clock.advance(LEASE)
    sweep(face)
    assert cleaned == ["value of key"]
    face.call(face.manager.save_sessions(path))
    path.write_bytes(backup)
    face.store = MemoryStore()
    face.renew()
    assert face.call(face.manager.load_sessions(path)) == 0
    face.clock.advance(LEASE)
    sweep(face)
    assert cleaned == ["value of key"]
    assert not is_open(browser)


def test_rule_08_what_ends_while_it_is_loaded_stays_ended(memory_face: Face, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its owner signs out after the journal was read, and before the sessions are put back: a program that serves may load too."""
    face = memory_face
    path = tmp_path / "sessions"
    browser = face.browser()
    with browser.visit() as session:
        session[Key("plain", str)] = "plain"
    face.call(face.manager.save_sessions(path))
    copy, handle = browser.copy(), handle_of(browser)

    def replayed(*args: Any, **options: Any) -> Any:
        found = replay(*args, **options)
        ending = face.manager.end(handle)
        if face.loop is None:
            assert ending
        else:  # the file is read in a thread, and the loop goes on
            assert asyncio.run_coroutine_threadsafe(ending, face.loop).result(30)
        return found

    monkeypatch.setattr(keeper, "replay", replayed)
    assert face.call(face.manager.load_sessions(path)) == 0
    assert not is_open(copy)


def test_rule_13_hooks_that_have_run_do_not_run_again_after_a_restart(memory_face: Face, tmp_path: Path) -> None:
    """Ended and cleaned up, then loaded from a snapshot of before: once per value, for nothing has crashed."""
    face = memory_face
    path, cleaned = tmp_path / "sessions", list[str]()
    browser = begun(face, "key")
    Key("key", str, cleanup_delete=cleaned.append)
    face.call(face.manager.save_sessions(path))
    with browser.copy().visit() as session:
        session.end()
    face.call(face.manager.close() if face.kind == "sync" else face.manager.aclose())
    face.store = MemoryStore()
    face.renew()
    face.call(face.manager.load_sessions(path))
    face.clock.advance(LEASE)
    sweep(face)
    assert cleaned == ["value of key"]
    assert not is_open(browser)


@pytest.mark.parametrize("how", ["signed out", "timeout"])
def test_rule_13_hooks_that_have_run_do_not_run_again_beside_one_that_waits(memory_face: Face, tmp_path: Path, how: str) -> None:
    """A release without the key of another value is restarted now and then: that value waits, and nothing else of its session does."""
    face = memory_face
    path, cleaned = tmp_path / "sessions", list[str]()
    browser = begun(face, "known", "unknown")
    known = Key("known", str, cleanup_delete=cleaned.append)
    face.call(face.manager.save_sessions(path))
    if how == "timeout":
        face.clock.advance(WEEK / 8)
        sweep(face)
    else:
        with browser.copy().visit() as session:
            assert known in session
            session.end()
    for _ in range(3):
        face.call(face.manager.save_sessions(path))
        face.call(face.manager.close() if face.kind == "sync" else face.manager.aclose())
        face.store = MemoryStore()
        face.renew()
        assert face.call(face.manager.load_sessions(path)) == 1
        face.clock.advance(WEEK / 8)
        sweep(face)
    assert cleaned == ["value of known"]
    Key("unknown", str, cleanup_delete=cleaned.append)
    face.clock.advance(WEEK / 8)
    sweep(face)
    assert cleaned == ["value of known", "value of unknown"]
    assert not is_open(browser)
