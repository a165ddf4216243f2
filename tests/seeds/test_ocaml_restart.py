"""OCaml's restarts: ids that come again, sessions that are saved and loaded, and files that are not what they should be."""

from __future__ import annotations

import random
import secrets
from pathlib import Path

import pytest

from tests.faces import Face
from tests.seeds.cases import case
from tests.seeds.programs import close, connected, follow, handles, listen, visit
from typed_sessions import Key, MemoryStore, SnapshotDamaged
from typed_sessions.testing import isolated_keys

pytestmark = pytest.mark.stores("memory")


def restart(face: Face, path: Path) -> int:
    """The server stops, and starts again with nothing but the file; how many sessions it has."""
    close(face, face.manager)
    face.manager = face.another(MemoryStore())
    restored: int = face.call(face.manager.load_sessions(path))
    return restored


@case("oc-ids-not-random", "improve", "ids come from the operating system, whatever seeds the program's generator")
def test_no_start_draws_the_ids_of_another(face: Face) -> None:
    """Three starts with the same seed and three first sessions each: nine ids, nine locators (rule 17, I1)."""
    ids: set[str] = set()
    locators: set[str] = set()
    for _ in range(3):
        random.seed(0)
        face.manager = face.another(MemoryStore())
        for _ in range(3):
            browser = face.browser()
            follow(browser, create=True)
            ids.add(browser.jar["SESSION_KEY"])
        locators.update(handles(face))
    assert len(ids) == len(locators) == 9


@case("oc-id-collision-after-restore", "improve", "a locator that is taken is never given to anybody else: another is drawn")
@pytest.mark.parametrize("repeating", [False, True])
def test_after_a_restart_nobody_gets_the_id_of_another(face: Face, tmp_path: Path, repeating: bool) -> None:
    """Bob, who arrives after the restart, gets his own session even from a generator that repeats itself (rule 8, I2)."""
    name = Key("name", str)
    drawn = secrets.token_bytes(80)
    repeated = [drawn]

    def draw(size: int) -> bytes:
        return repeated.pop() if repeated else secrets.token_bytes(size)

    face.manager.core.draw = draw
    ann, bob = face.browser(), face.browser()
    with ann.visit() as session:
        session[name] = "ann"
    face.call(face.manager.save_sessions(tmp_path / "sessions"))
    assert restart(face, tmp_path / "sessions") == 1
    if repeating:
        repeated += [drawn, drawn]
        face.manager.core.draw = draw
    with bob.visit() as session:
        session[name] = "bob"
    assert repeated == []
    assert handles(face).count(drawn[:16].hex()) == 1
    assert bob.jar["SESSION_KEY"] != ann.jar["SESSION_KEY"]
    assert [browser.open().session[name] for browser in (ann, bob)] == ["ann", "bob"]


@case("oc-restart", "improve", "as there, and each session keeps its own time to expire; the file stays, and a journal keeps what ended")
def test_a_stop_and_a_start_keep_the_sessions(face: Face, tmp_path: Path) -> None:
    """At the stop the clients are closed and asked, then the sessions are saved; all is there after the start (rule 29, L4)."""
    path = tmp_path / "sessions"
    called: list[str] = []
    face.renew(timeout=100, granularity=1)
    face.manager.autosave(path, every=10_000)

    def keep(value: str) -> bool:
        called.append(value)
        return value == "keep"

    dropped, kept = Key("drop", str, cleanup_no_client=keep), Key("keep", str, cleanup_no_client=keep)
    visits = Key("visits", int)
    first, second, third = (face.browser() for _ in range(3))
    with connected(face) as connection:
        with first.visit(client=connection.client) as session:
            session[kept], session[dropped], session[visits] = "keep", "drop", 1
        face.clock.advance(10)
        visit(second, visits)
        face.clock.advance(10)
        visit(third, visits)
        third_ended = third.copy()
        with third.visit() as session:
            session.end()
        assert restart(face, path) == 2
        assert (called, connection.closed) == (["keep", "drop"], 1)
    with first.visit() as session:
        assert ([key.name for key in session], session.idle) == (["keep", "visits"], 0)
    assert not third_ended.open().session.exists
    face.manager.set_options(timeout=100, granularity=1)
    told = listen(face.manager)
    face.clock.advance(95)
    face.call(face.manager.sweep())
    assert [what for what, _ in told] == ["timeout"]
    assert first.open().session.exists
    assert not second.open().session.exists


@case("oc-restart-corrupt", "keep")
@pytest.mark.parametrize("garbage", [b"", b"garbage", b"\x00" * 1000])
def test_a_damaged_file_is_reported_and_the_server_starts_empty(
    face: Face, tmp_path: Path, garbage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """It is kept for a person to look at, and never read as something else; with strict=True it raises (rule 29, S7)."""
    path = tmp_path / "sessions"
    path.write_bytes(garbage)
    path.chmod(0o600)
    assert face.call(face.manager.load_sessions(path)) == 0
    assert f"snapshot {path}" in caplog.text
    assert garbage in [file.read_bytes() for file in tmp_path.iterdir()]
    assert visit(face.browser(), Key("visits", int)) == 1
    (tmp_path / "other").write_bytes(garbage)
    (tmp_path / "other").chmod(0o600)
    with pytest.raises(SnapshotDamaged):
        face.call(face.another(MemoryStore()).load_sessions(tmp_path / "other", strict=True))


@case("oc-load-unknown-key", "improve", "a value whose key this program does not have is carried through unchanged")
def test_a_value_of_an_unknown_key_is_loaded_and_saved_again(face: Face, tmp_path: Path) -> None:
    """A program without the key serves the session all the same, and a later one that has it again finds the value (rule 3, X5)."""
    visits = Key("visits", int)
    browser = face.browser()
    with isolated_keys(), browser.visit() as session:
        session[Key("ghost", str)] = "boo"
        session[visits] = 1
    for start in ("first", "second"):
        face.call(face.manager.save_sessions(tmp_path / start))
        assert restart(face, tmp_path / start) == 1
        with browser.visit() as session:
            assert [*session] == [visits]
            session.update(visits, lambda n: n + 1)
    ghost = Key("ghost", str)
    with browser.visit() as session:
        assert (session[ghost], session[visits]) == ("boo", 3)
