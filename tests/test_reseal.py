"""Key rotation on a live store: `typed-sessions reseal`."""

from __future__ import annotations

import base64
import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faces import SERVED, STORES, Browser, Face
from typed_sessions import Key, ListKey, LostUpdate, SealingKeys, SessionManager, SQLiteStore
from typed_sessions.changes import Changes, Idle, Write
from typed_sessions.record import FIELD_LIST, FIELD_SEALED, Record, unpack_elements, unpack_field
from typed_sessions.reseal import Resealed, reseal
from typed_sessions.tools import sealing_keys

ROOT = Path(__file__).resolve().parent.parent
OLD, NEW = os.urandom(32), os.urandom(32)
KEYS = f"{NEW.hex()} {OLD.hex()}"
BOTH = SealingKeys([NEW, OLD])


@pytest.fixture(params=STORES)
def sealed(request: pytest.FixtureRequest) -> Iterator[Face]:
    """A face on each store, synchronous as the command is, whose manager seals with the old key."""
    served = (request.getfixturevalue(f"{request.param}_server"), "sync") if request.param in SERVED else ()
    face = Face("sync", STORES[request.param](*served), seal=SealingKeys([OLD]))
    yield face
    face.close()


def test_rotation_while_processes_are_restarted_one_after_another(tmp_path: Path) -> None:
    """Behind the old key, in front, rewritten, alone: a process of any step reads and updates what one of the next has written, and the
    other way round. In one step it would not: what the restarted process writes is lost to the other, and to both then."""
    counter, who = Key("counter", int), Key("who", str)
    count = 0

    def process(*keys: bytes) -> Face:
        return Face("sync", SQLiteStore(tmp_path / "sessions.db"), seal=SealingKeys(keys))

    def hit(face: Face) -> None:
        nonlocal count
        browser.face = face
        with browser.visit() as session:
            assert session[who] == f"user {count}"
            count += 1
            assert session.update(counter, lambda n: n + 1, default=0) == count
            session[who] = f"user {count}"

    begun = process(OLD)
    browser = begun.browser()
    with browser.visit() as session:
        session[who] = "user 0"
    steps = [begun, process(OLD, NEW), process(NEW, OLD), process(NEW)]
    for step, (before, after) in enumerate(itertools.pairwise(steps)):
        if step == 2:
            done = all_of(after, BOTH)
            assert (done.rewritten + done.current, done.refused) == (2, 0)
        for face in (before, after, after, before, before, after):
            hit(face)
    assert count == 18
    browser.face = steps[2]
    with browser.visit() as session:
        session[who] = "user 18"
    browser.face = steps[0]
    with browser.visit() as session:
        assert counter not in session
    for face in steps:
        face.close()


@pytest.fixture
def name() -> Key[str]:
    return Key("name", str)


@pytest.fixture
def facts() -> ListKey[str]:
    return ListKey("facts", str)


def filled(face: Face, name: Key[str], facts: ListKey[str]) -> Browser:
    browser = face.browser()
    with browser.visit() as session:
        session[name] = "ann"
        for fact in ("a", "b", "c"):
            session[facts].append(fact)
    return browser


def all_of(face: Face, keys: SealingKeys = BOTH, **options: Any) -> Resealed:
    *_, done = reseal(face.store, keys, face.clock, **options)
    return done


def records(face: Face) -> list[Record]:
    found: list[Record] = []
    place = None
    while True:
        page, place = face.store.scan(place, 100)
        found += page
        if place is None:
            return found


def read(face: Face, browser: Browser, name: Key[str], facts: ListKey[str], *keys: bytes) -> tuple[str | None, list[str]]:
    """What a manager with these keys finds."""
    face.renew(seal=SealingKeys(keys))
    turn = browser.open()
    found = turn.session.get(name), list(turn.session[facts])
    turn.finish()
    return found


def test_everything_is_under_the_new_key(sealed: Face, name: Key[str], facts: ListKey[str]) -> None:
    """Afterwards the old key is not needed; nothing else about the sessions has changed, and a second run has nothing to do."""
    browsers = [filled(sealed, name, facts) for _ in range(5)]
    before = {record.locator: record for record in records(sealed)}
    done = all_of(sealed)
    assert (done.sessions, done.rewritten, done.current, done.plain, done.refused, done.busy) == (5, 20, 0, 0, 0, 0)
    for record in records(sealed):
        seen = before[record.locator]
        assert (record.used, record.flags, record.due, record.digest) == (seen.used, seen.flags, seen.due, seen.digest)
        assert list(record.fields) == list(seen.fields)
        sequences = [[element.sequence for element in unpack_elements(one.fields["facts"])] for one in (record, seen)]
        assert sequences[0] == sequences[1]
    for browser in browsers:
        assert read(sealed, browser, name, facts, NEW) == ("ann", ["a", "b", "c"])
    stored = records(sealed)
    done = all_of(sealed)
    assert (done.rewritten, done.current) == (0, 20)
    assert [record.revision for record in records(sealed)] == [record.revision for record in stored]


def test_what_others_write_meanwhile_stays(sealed: Face, name: Key[str], facts: ListKey[str]) -> None:
    """Requests with the old program write between the look and the rewriting: each of their writes is there, under the new key."""
    browser, gone = filled(sealed, name, facts), filled(sealed, name, facts)
    another = sealed.another(seal=BOTH)
    commit = sealed.store.commit
    calls = 0

    class Meddled:
        def __getattr__(self, verb: str) -> Any:
            return getattr(sealed.store, verb)

        def commit(self, *args: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == 1:
                with browser.visit() as session:
                    session[name] = "bob"
                    session[facts].append("d")
                with gone.visit() as session:
                    session.end()
            return commit(*args)

    meddled: Any = Meddled()
    *_, done = reseal(meddled, BOTH, sealed.clock)
    assert done.busy == 0
    assert read(sealed, browser, name, facts, NEW) == ("bob", ["a", "b", "c", "d"])
    assert not gone.open().session.exists
    assert another.options.timeout == 600


def test_a_request_under_way_loses_nothing(sealed: Face, name: Key[str], facts: ListKey[str]) -> None:
    """It has read under the old key, and changes in place and updates what was rewritten meanwhile: no `LostUpdate`, no conflict."""
    cart, visits = Key("cart", dict[str, int]), Key("visits", int)
    browser = filled(sealed, name, facts)
    with browser.visit() as session:
        session[cart], session[visits] = {"book": 1}, 1
    sealed.renew(seal=BOTH)
    lost: list[LostUpdate] = []
    sealed.manager.on(LostUpdate, lost.append)
    turn = browser.open()
    turn.session[cart]["tea"] = 2
    turn.session.update(visits, lambda n: n + 1)
    turn.session[facts].append("d")
    assert all_of(sealed).rewritten == 6
    turn.finish()
    assert lost == []
    assert read(sealed, browser, name, facts, NEW) == ("ann", ["a", "b", "c", "d"])
    turn = browser.open()
    assert (turn.session[cart], turn.session[visits]) == ({"book": 1, "tea": 2}, 2)
    turn.finish()


def test_it_is_no_use_of_a_session(sealed: Face, name: Key[str], facts: ListKey[str]) -> None:
    """An idle session ends when it would have ended, and one that is over does not come back."""
    browser = filled(sealed, name, facts)
    sealed.clock.advance(659)
    assert all_of(sealed).rewritten == 4
    sealed.clock.advance(2)
    all_of(sealed, SealingKeys([os.urandom(32), NEW]))
    assert not browser.open().session.exists


def test_what_has_another_key_is_left(sealed: Face, name: Key[str], facts: ListKey[str]) -> None:
    """It is counted, and its bytes stay; so do values that are not sealed, unless they are asked for."""
    filled(sealed, name, facts)
    done = all_of(sealed, SealingKeys([NEW]))
    assert (done.rewritten, done.refused) == (0, 4)
    sealed.renew(seal=None)
    filled(sealed, name, facts)
    done = all_of(sealed)
    assert (done.rewritten, done.plain) == (4, 4)
    done = all_of(sealed, SealingKeys([NEW], read_plain=True))
    assert (done.rewritten, done.current, done.plain) == (4, 4, 0)
    for record in records(sealed):
        assert all(unpack_field(packed).flags & FIELD_SEALED for packed in record.fields.values())
        assert unpack_field(record.fields["facts"]).flags & FIELD_LIST


def test_it_can_be_stopped_and_go_on(sealed: Face, name: Key[str], facts: ListKey[str]) -> None:
    """A run that is stopped after a page goes on at its `place`; together they have rewritten everything, each value once."""
    for _ in range(300):
        with sealed.browser().visit() as session:
            session[name] = "ann"
    first = next(reseal(sealed.store, BOTH, sealed.clock, page=20))
    assert first.place is not None
    rewritten = first.rewritten
    assert 0 < rewritten < 300
    done = all_of(sealed, after=first.place, page=20)
    assert rewritten + done.rewritten == 300
    assert all_of(sealed).current == 300


def command(*arguments: object, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "typed_sessions", "reseal", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A SQLite file of a hundred sessions, sealed with the old key."""
    path = tmp_path / "sessions.db"
    face = Face("sync", SQLiteStore(path), seal=SealingKeys([OLD]))
    key = Key("name", str)
    for _ in range(100):
        with face.browser().visit() as session:
            session[key] = "ann"
    face.close()
    face.store.close()
    return path


def test_the_command(file: Path, tmp_path: Path) -> None:
    """Keys from a file or from the environment, never from the command line; what it did is on stdout, and no key anywhere."""
    keys = tmp_path / "keys"
    keys.write_text(f"{NEW.hex()}\n{OLD.hex()}\n")
    url = f"sqlite:///{file}"
    with command("--store", url, "--sealing-keys", keys) as run:
        said, errors = run.communicate(timeout=60)
    assert (run.returncode, errors) == (0, "")
    assert f"{url}: looked at 100 sessions" in said
    assert "100  values rewritten" in said
    with command("--store", url, TYPED_SESSIONS_SEALING_KEYS=f"{NEW.hex()} {OLD.hex()}") as run:
        said, _ = run.communicate(timeout=60)
    assert run.returncode == 0
    assert "100  were under it already" in said
    with command("--store", url, TYPED_SESSIONS_SEALING_KEYS=OLD.hex()) as run:
        said, _ = run.communicate(timeout=60)
    assert run.returncode == 1
    assert "100  could not be rewritten" in said
    store = SQLiteStore(file)
    manager = SessionManager(store, seal=SealingKeys([NEW]))
    assert store.scan(None, 1000)[0][0].revision == 2
    manager.close()
    store.close()


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_nobody_reads_what_it_did(file: Path, unbuffered: str) -> None:
    """As `| head` when it has gone: status 2, for it could not be told, and no traceback. What was rewritten stays."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "typed_sessions", "reseal", "--store", f"sqlite:///{file}"],
        cwd=ROOT,
        env={**os.environ, "TYPED_SESSIONS_SEALING_KEYS": f"{NEW.hex()} {OLD.hex()}", "PYTHONUNBUFFERED": unbuffered},
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=60,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (2, "")
    with command("--store", f"sqlite:///{file}", TYPED_SESSIONS_SEALING_KEYS=NEW.hex()) as run:
        said, _ = run.communicate(timeout=60)
    assert "100  were under it already" in said


@pytest.mark.parametrize(
    ("arguments", "environment", "words"),
    [
        ((), {}, "no sealing keys: give --sealing-keys FILE, or set TYPED_SESSIONS_SEALING_KEYS"),
        ((), {"TYPED_SESSIONS_SEALING_KEYS": "sesame"}, "sealing key 0: expected 32 bytes in hexadecimal or base64"),
        (("--sealing-keys", "/nowhere"), {}, "--sealing-keys /nowhere"),
        (("--after", "there"), {"TYPED_SESSIONS_SEALING_KEYS": OLD.hex()}, "--after"),
    ],
)
def test_a_wrong_command(file: Path, arguments: tuple[str, ...], environment: dict[str, str], words: str) -> None:
    """Said on stderr with status 2, and nothing is done."""
    with command("--store", f"sqlite:///{file}", *arguments, **{"TYPED_SESSIONS_SEALING_KEYS": "", **environment}) as run:
        said, errors = run.communicate(timeout=60)
    assert (run.returncode, said) == (2, "")
    assert words in errors
    assert "sesame" not in errors
    assert "Traceback" not in errors


def stopped(file: Path, wrapped: str) -> str:
    """What the command says that is stopped by Ctrl-C where this program's wrapper of the module's functions sends it; pages are of 30."""
    program = (
        "import os, signal, sys\n"
        "from functools import partial\n"
        "from typed_sessions import reseal, tools\n"
        "pages, session = partial(reseal.reseal, page=30), reseal._session\n"
        "def stop(number, where):\n"
        "    if number == where: os.kill(os.getpid(), signal.SIGINT)\n"
        f"{wrapped}"
        "from typed_sessions.__main__ import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "reseal", "--store", f"sqlite:///{file}"],
        cwd=ROOT,
        env={**os.environ, "TYPED_SESSIONS_SEALING_KEYS": KEYS},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 130
    return done.stdout


def resumed(file: Path, said: str) -> str:
    """What it says when it goes on where it said."""
    place = said.partition("--after ")[2].strip()
    with command("--store", f"sqlite:///{file}", "--after", place, TYPED_SESSIONS_SEALING_KEYS=KEYS) as run:
        said, _ = run.communicate(timeout=60)
    assert run.returncode == 0
    return said


AFTER_TWO_PAGES = """
def stopping(*args, **options):
    for number, done in enumerate(pages(*args, **options)):
        yield done
        stop(number, 1)
tools.reseal = stopping
"""


def test_the_command_can_be_stopped(file: Path) -> None:
    """Ctrl-C between two pages: it says where to go on, and what it had rewritten stays so."""
    said = stopped(file, AFTER_TWO_PAGES)
    assert "60  values rewritten" in said
    said = resumed(file, said)
    assert "40  values rewritten" in said
    assert "Everything from there on is under the newest key" in said


def test_what_could_not_be_rewritten_is_not_left_behind(file: Path) -> None:
    """Stopped with values left that it could not read, it does not say where to go on: from there it would find that all is well."""
    store = SQLiteStore(file)
    face = Face("sync", store, seal=SealingKeys([bytes(32)]))
    for session in store.scan(None, 5)[0]:
        outcome = store.commit(session.locator, Changes({"other": Write(b"?", flags=FIELD_SEALED)}), Idle(None, 0.0), face.clock())
        assert outcome.status == "committed"
    face.close()
    store.close()
    said = stopped(file, AFTER_TWO_PAGES)
    assert "5  could not be rewritten" in said
    assert said.endswith("Stopped; begin again\n")


@pytest.mark.parametrize("url", ["redis://127.0.0.1:1", "postgresql://127.0.0.1:1/app"])
def test_a_store_that_cannot_be_reached(url: str) -> None:
    """Is told on stderr with status 2, as by `check`: nobody has stopped it."""
    with command("--store", url, TYPED_SESSIONS_SEALING_KEYS=KEYS) as run:
        said, errors = run.communicate(timeout=60)
    assert (run.returncode, said) == (2, "")
    assert "cannot be reached" in errors


def test_ctrl_c_before_it_has_begun(file: Path) -> None:
    """While its modules are imported: status 130, and no traceback."""
    said = stopped(file, "def stopping(*args, **options):\n    stop(0, 0)\ntools.reseal_store = stopping\n")
    assert said == ""


def test_the_command_can_be_stopped_within_a_page(file: Path) -> None:
    """It goes on at the page's beginning: nothing is left under the old key when it says that the old key is no longer needed."""
    said = stopped(
        file,
        "def stopping(*args):\n    session(*args)\n    stop(args[-1].sessions, 40)\nreseal._session = stopping\ntools.reseal = pages\n",
    )
    assert "40  values rewritten" in said
    said = resumed(file, said)
    assert "60  values rewritten" in said
    assert "10  were under it already" in said  # of the page that it had begun


@pytest.mark.parametrize("write", [bytes.hex, base64.urlsafe_b64encode, base64.standard_b64encode])
def test_how_keys_are_written(write: Callable[[bytes], str | bytes], tmp_path: Path) -> None:
    """Hexadecimal or base64, in either alphabet, newest first."""
    file = tmp_path / "keys"
    words = [word if isinstance(word, str) else word.decode() for word in map(write, (NEW, OLD))]
    file.write_text("\n\n".join(words))
    assert list(sealing_keys(file, read_plain=False).keys) == [NEW, OLD]


def test_nothing_is_begun_by_looking(sealed: Face) -> None:
    """An empty store is looked through, and stays empty."""
    assert all_of(sealed) == Resealed()
    assert sealed.store.open(bytes(16), None, Idle(None, 0), 0) is None
