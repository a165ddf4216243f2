"""`typed-sessions check`: what the keys of a program would make of a live store, counted by key and version."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.planting import pack
from tests.stores.records import IDLE, PEER
from typed_sessions import SealingKeys, Store, open_store
from typed_sessions.changes import Changes, ListChange, Write
from typed_sessions.lifecycle import issue, new_record
from typed_sessions.options import SessionOptions
from typed_sessions.record import FIELD_COPY, FIELD_SEALED, FIELD_TWIN, Record

ROOT = Path(__file__).resolve().parent.parent.parent
SESSIONS = {"sqlite": "100000"}
"""By the store's scheme; elsewhere 2,000, or what the variable SURVEY_SESSIONS says."""
OPTIONS = SessionOptions()

KEYS = """
from dataclasses import dataclass
from typed_sessions import Key, ListKey, Upgrades

@dataclass
class Cart:
    counts: dict[str, int]

def to_2(names: list[str]) -> dict[str, int]:
    return {name: names.count(name) for name in names}

user = Key("user", str)
cart = Key("cart", Cart, version=3, upgrade=Upgrades(list[str], to_2).then(dict[str, int], Cart))
hits = Key("hits", int, was="visits")
facts = ListKey("facts", int)
"""


class Run(NamedTuple):
    status: int
    said: str
    errors: str

    @property
    def table(self) -> dict[tuple[str, int], dict[str, int]]:
        """By stored name and version: how many values, by heading."""
        lines = self.said.splitlines()[1:]
        heads = ["as it is", "upgraded", "carried through", "dropped", "copy", "removed"]
        found: dict[tuple[str, int], dict[str, int]] = {}
        for line in lines[1:]:
            if not line.startswith("dropped:"):
                name, *cells = line.rsplit(maxsplit=7)
                found[name.strip(), int(cells[0])] = {head: int(cell) for head, cell in zip(heads, cells[1:], strict=True) if cell != "-"}
        return found


def check(folder: Path, *arguments: object, **environment: str) -> Run:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "typed_sessions", "check", *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TYPED_SESSIONS_SEALING_KEYS": "", **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    return Run(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the program starts, with its keys in a module."""
    folder = tmp_path / "program"
    folder.mkdir()
    (folder / "shop_keys.py").write_text(KEYS)
    return folder


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    store = open_store(store_url)
    yield store
    store.close()


def session(store: Store, writes: dict[str, Write], elements: list[tuple[int, int, bytes]] | None = None, *, seconds: float = 0) -> Record:
    """A session as some release has left it, `seconds` ago."""
    changes = Changes(writes)
    if elements:
        changes.lists = {"facts": ListChange(appended=elements)}
    now = time.time() - seconds
    record = new_record(issue(os.urandom), PEER, changes, OPTIONS, IDLE, now)
    assert store.create(record, now) == "created"
    return record


CARTS = {1: pack(["pen", "pen"]), 2: pack({"pen": 2}), 3: pack({"counts": {"pen": 2}})}


@pytest.mark.slow
def test_three_generations_of_values_are_counted(store: Store, store_url: str, folder: Path) -> None:
    """By key and version, what would be upgraded, dropped or carried through; nothing would be dropped, so the exit status is 0."""
    sessions = int(SESSIONS.get(store_url.partition(":")[0], os.environ.get("SURVEY_SESSIONS", "2000")))
    for n in range(sessions):
        version = 1 + n % 3
        writes = {"user": Write(pack("ann")), "cart": Write(CARTS[version], version)}
        if n % 4 == 0:
            writes["campaign"] = Write(pack(n), 7)
        session(store, writes)
    run = check(folder, "--store", store_url, "--keys", "shop_keys")
    assert (run.status, run.errors) == (0, "")
    thirds = [len(range(n, sessions, 3)) for n in range(3)]
    assert run.table == {
        ("campaign", 7): {"carried through": len(range(0, sessions, 4))},
        ("cart", 1): {"upgraded": thirds[0]},
        ("cart", 2): {"upgraded": thirds[1]},
        ("cart", 3): {"as it is": thirds[2]},
        ("user", 1): {"as it is": sessions},
    }
    assert f"looked at {sessions} sessions" in run.said


def test_what_would_be_dropped_is_told_with_the_reason(store: Store, store_url: str, folder: Path) -> None:
    """A newer version, a value of another type, an older one that no step reads, a list for a single value: status 1, and why."""
    session(store, {"user": Write(pack("ann")), "cart": Write(pack({}), 4)})
    session(store, {"user": Write(pack(5)), "cart": Write(pack("none"), 1)})
    session(store, {"facts": Write(pack(1))})
    session(store, {}, [(1, 0, pack(1)), (1, 0, pack("two")), (2, 0, pack(3))])
    run = check(folder, "--store", store_url, "--keys", "shop_keys")
    assert (run.status, run.errors) == (1, "")
    assert run.table == {
        ("cart", 1): {"dropped": 1},
        ("cart", 4): {"dropped": 1},
        ("facts", 1): {"as it is": 1, "dropped": 2},
        ("facts", 2): {"dropped": 1},
        ("user", 1): {"as it is": 1, "dropped": 1},
    }
    why = {line.split(": ", 2)[1]: line.split(": ", 2)[2] for line in run.said.splitlines() if line.startswith("dropped: ")}
    assert "this code knows version 3 at most" in why["'cart', version 4"]
    assert "not a value of the type list[str]" in why["'cart', version 1"]
    assert "single value" in why["'facts', version 1"] or "Expected `int`" in why["'facts', version 1"]
    assert "ann" not in run.said


def test_a_name_that_the_terminal_has_no_letters_for(store: Store, store_url: str, folder: Path) -> None:
    """It is written as in a literal; a program with such keys can be checked in a C locale and on a console of Windows too."""
    session(store, {"имя": Write(pack("ann")), "cart": Write(pack({}), 4)})
    run = check(folder, "--store", store_url, "--keys", "shop_keys", PYTHONIOENCODING="ascii")
    assert (run.status, run.errors) == (1, "")
    assert run.table["\\u0438\\u043c\\u044f", 1] == {"carried through": 1}


def test_a_renamed_key_is_told_by_both_names(store: Store, store_url: str, folder: Path) -> None:
    """While a row of the old name has anything but copies, `was=` is needed."""
    session(store, {"visits": Write(pack(1))})
    session(store, {"visits": Write(pack(2), 1, FIELD_COPY), "hits": Write(pack(2), 1, FIELD_TWIN)})
    session(store, {"hits": Write(pack(3))})
    session(store, {"hits": Write(pack(4), 1, FIELD_TWIN)})  # of which older code has removed the other
    run = check(folder, "--store", store_url, "--keys", "shop_keys")
    assert run.status == 0
    assert run.table == {("hits", 1): {"as it is": 2, "removed": 1}, ("visits (now hits)", 1): {"as it is": 1, "copy": 1}}


def test_a_key_that_is_renamed_again_finds_everything(store: Store, store_url: str, folder: Path) -> None:
    """What the release before has stored under both of its names too; the older of these is no key's any more."""
    session(store, {"calls": Write(pack(2), 1, FIELD_COPY), "visits": Write(pack(2), 1, FIELD_TWIN)})
    run = check(folder, "--store", store_url, "--keys", "shop_keys")
    assert run.status == 0
    assert run.table == {("calls", 1): {"carried through": 1}, ("visits (now hits)", 1): {"as it is": 1}}


def test_modules_can_be_named_together_or_one_by_one(store: Store, store_url: str, folder: Path) -> None:
    """`--keys a b` and `--keys a --keys b` are the same."""
    (folder / "more_keys.py").write_text("from typed_sessions import Key\nKey('campaign', str)")
    session(store, {"user": Write(pack("ann")), "campaign": Write(pack(5))})
    for modules in (["shop_keys", "--keys", "more_keys"], ["more_keys", "--keys", "shop_keys"], ["shop_keys", "more_keys"]):
        run = check(folder, "--store", store_url, "--keys", *modules)
        assert (run.status, run.table) == (1, {("campaign", 1): {"dropped": 1}, ("user", 1): {"as it is": 1}})


def test_nothing_is_changed(store: Store, store_url: str, folder: Path) -> None:
    """Neither a value nor a time of last use, whatever was found."""
    for version, payload in CARTS.items():
        session(store, {"cart": Write(payload, version), "user": Write(pack(version))}, seconds=100)
    before = {record.locator: record.pack() for record in store.scan(None, 100)[0]}
    assert check(folder, "--store", store_url, "--keys", "shop_keys").status == 1
    assert {record.locator: record.pack() for record in store.scan(None, 100)[0]} == before


def test_sessions_that_are_over_are_left_out(store: Store, store_url: str, folder: Path) -> None:
    """Nobody will read them, swept or not."""
    session(store, {"user": Write(pack(5))}, seconds=10_000)
    run = check(folder, "--store", store_url, "--keys", "shop_keys")
    assert (run.status, run.table) == (0, {})
    assert "looked at 0 sessions" in run.said


def test_sealed_values_take_their_keys(store: Store, store_url: str, folder: Path, tmp_path: Path) -> None:
    """From a file or the environment, as for `reseal`; without them they would be dropped, and so would plain ones with them."""
    key = os.urandom(32)
    record = session(store, {"user": Write(pack("plain"))})
    sealed = SealingKeys([key]).seal(record.locator, "user", pack("ann"))
    outcome = store.commit(record.locator, Changes({"user": Write(sealed, 1, FIELD_SEALED)}), IDLE, time.time())
    assert outcome.status == "committed"
    session(store, {"user": Write(pack("plain"))})
    file = tmp_path / "sealing keys"
    file.write_text(key.hex())
    one_of_two = {("user", 1): {"as it is": 1, "dropped": 1}}
    assert check(folder, "--store", store_url, "--keys", "shop_keys").table == one_of_two
    assert check(folder, "--store", store_url, "--keys", "shop_keys", "--sealing-keys", file).table == one_of_two
    run = check(folder, "--store", store_url, "--keys", "shop_keys", "--read-plain", TYPED_SESSIONS_SEALING_KEYS=key.hex())
    assert (run.status, run.table) == (0, {("user", 1): {"as it is": 2}})


MISTAKES: list[tuple[str, str, str]] = [
    ("shop", "--keys shop cannot be imported: ModuleNotFoundError: No module named 'shop'", ""),
    ("shop_keys.py", "give the name of a module, as in an import", ""),
    ("json", "--keys json: no key is declared there", ""),
    ("broken", "--keys broken cannot be imported: ZeroDivisionError", "1 / 0"),
    ("leaves", "--keys leaves cannot be imported: SystemExit: 0", "raise SystemExit(0)"),
    ("twice", "--keys twice: the name 'user' is taken", "from typed_sessions import Key\nKey('user', str)\nKey('user', int)"),
]


@pytest.mark.parametrize(("module", "words", "text"), MISTAKES, ids=[module for module, _, _ in MISTAKES])
def test_a_wrong_module_is_told(folder: Path, module: str, words: str, text: str) -> None:
    """On stderr, with status 2, and without a traceback."""
    if text:
        (folder / f"{module}.py").write_text(text)
    run = check(folder, "--store", f"sqlite:///{folder}/sessions.db", "--keys", module)
    assert (run.status, run.said) == (2, "")
    assert words in run.errors
    assert "Traceback" not in run.errors


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("sqlite:///missing.db", "there is no file"),
        ("redis://127.0.0.1:1", "StoreUnavailable"),
        ("mysql://db", "mysql"),
        ("memory:", "memory:"),
    ],
)
def test_a_wrong_store_is_told(folder: Path, url: str, words: str) -> None:
    """One that is not there is not made."""
    run = check(folder, "--store", url, "--keys", "shop_keys")
    assert run.status == 2
    assert words in run.errors or (words == "StoreUnavailable" and "127.0.0.1:1" in run.errors)
    assert "Traceback" not in run.errors
    assert not (folder / "missing.db").exists()


@pytest.mark.parametrize("command", ["check", "reseal"])
def test_a_file_that_is_no_store_is_told(folder: Path, command: str) -> None:
    """With the status of a command that could not be done, and the file is left alone."""
    file = folder / "letters.db"
    file.write_bytes(b"Dear Sir or Madam, " * 100)
    program = [sys.executable, "-m", "typed_sessions", command, "--store", f"sqlite:///{file}"]
    done = subprocess.run(
        [*program, *(["--keys", "shop_keys"] if command == "check" else [])],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TYPED_SESSIONS_SEALING_KEYS": "00" * 32},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "no SQLite database" in done.stderr
    assert "Traceback" not in done.stderr
    assert file.read_bytes() == b"Dear Sir or Madam, " * 100


AS_ANOTHER = """
import contextlib, os, sys, tempfile
from typed_sessions import open_store
from typed_sessions.__main__ import main

sys.path.insert(0, "")
with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(None):
    # Once as root: what is imported on the way may lie where the other user must not go.
    url = f"sqlite:///{folder}/another.db"
    open_store(url).close()
    main([url if word.startswith("sqlite:") else word for word in sys.argv[1:]])
os.setgroups([])
os.setgid(2000)
os.setuid(1001)
sys.exit(main(sys.argv[1:]))
"""


def looked_after(command: str, file: Path, folder: Path, *, as_another: bool = False) -> tuple[int, str]:
    """The status of a command on a file, and what it says on stderr; as another user, of group 2000."""
    done = subprocess.run(
        [
            *([sys.executable, "-c", AS_ANOTHER] if as_another else [sys.executable, "-m", "typed_sessions"]),
            *[command, "--store", f"sqlite:///{file}"],
            *(["--keys", "shop_keys"] if command == "check" else []),
        ],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TYPED_SESSIONS_SEALING_KEYS": "00" * 32, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


@pytest.mark.parametrize("command", ["check", "reseal"])
def test_an_empty_file_is_not_made_a_store(folder: Path, command: str) -> None:
    """It is none, and stays empty."""
    file = folder / "empty.db"
    file.touch()
    status, errors = looked_after(command, file, folder)
    assert status == 2
    assert "empty.db is empty" in errors
    assert file.read_bytes() == b""
    assert sorted(path.name for path in folder.iterdir()) == ["empty.db", "shop_keys.py"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="takes other users")
@pytest.mark.parametrize("command", ["check", "reseal"])
@pytest.mark.parametrize("mode", [0o640, 0o660], ids=oct)
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")  # the child runs nothing of other threads
def test_a_command_of_another_user_locks_nobody_out(command: str, mode: int) -> None:
    """A file that a member of its group may only read is refused, with what to do; after any command the application goes on."""
    with tempfile.TemporaryDirectory() as name:  # where other users may go
        folder = Path(name)
        os.chown(folder, 1000, 2000)
        folder.chmod(0o2770)
        (folder / "shop_keys.py").write_text(KEYS)
        (folder / "shop_keys.py").chmod(0o644)
        file = folder / "sessions.db"
        store = open_store(f"sqlite:///{file}")
        record = session(store, {"user": Write(pack("ann"))})
        store.close()
        os.chown(file, 1000, 2000)
        file.chmod(mode)
        status, errors = looked_after(command, file, folder, as_another=True)
        if mode == 0o640:
            assert status == 2
            assert "run this as the application's user (the file belongs to user 1000)" in errors
        else:
            assert status == 1, errors  # the value is not sealed
        assert sorted(path.name for path in folder.iterdir()) == ["sessions.db", "shop_keys.py"]
        child = os.fork()
        if child == 0:  # pragma: no cover  # in another process
            try:
                os.setgid(2000)
                os.setuid(1000)
                store = open_store(f"sqlite:///{file}")
                outcome = store.commit(record.locator, Changes({"user": Write(pack("bob"))}), IDLE, time.time())
                os._exit(0 if outcome.status == "committed" else 2)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_it_can_be_stopped(folder: Path) -> None:
    """Ctrl-C between two pages: it prints what it has found, and says that this is not all."""
    url = f"sqlite:///{folder}/sessions.db"
    store = open_store(url)
    for _ in range(100):
        session(store, {"user": Write(pack("ann"))})
    store.close()
    program = (
        "import os, signal, sys\n"
        "from typed_sessions import survey, tools\n"
        "pages = survey.survey\n"
        "def stopped(*args, **options):\n"
        "    for number, found in enumerate(pages(*args, page=30, **options)):\n"
        "        yield found\n"
        "        if number == 1: os.kill(os.getpid(), signal.SIGINT)\n"
        "tools.survey = stopped\n"
        "from typed_sessions.__main__ import main\n"
        "sys.exit(main(['check', *sys.argv[1:]]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "--store", url, "--keys", "shop_keys"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    run = Run(done.returncode, done.stdout, done.stderr)
    assert run.status == 130
    assert run.table == {("user", 1): {"as it is": 60}}
    assert "stopped before the end" in run.said


def test_a_store_that_does_not_answer(folder: Path) -> None:
    """That is said, with status 2, and no table of nothing."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and nobody listens
        run = check(folder, "--store", f"redis://:secret@127.0.0.1:{nobody.getsockname()[1]}?deadline=5", "--keys", "shop_keys")
    assert (run.status, run.said) == (2, "")
    assert run.errors.startswith("typed-sessions check: ")
    assert "secret" not in run.errors


def on_a_terminal(command: list[str], folder: Path) -> str:
    """What a command shows on a terminal."""
    pty: Any = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    process = subprocess.Popen(command, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL, stderr=theirs)
    os.close(theirs)
    shown = b""
    with suppress(OSError):  # the terminal's other end is closed
        while part := os.read(ours, 65_536):
            shown += part
    os.close(ours)
    assert process.wait(timeout=60) == 0
    return shown.decode()


def test_progress_is_drawn_on_a_terminal(folder: Path) -> None:
    """A bar, over itself, up to the end; with a file or a pipe there is none."""
    url = f"sqlite:///{folder}/sessions.db"
    store = open_store(url)
    for _ in range(1_200):
        session(store, {"user": Write(pack("ann"))})
    store.close()
    shown = on_a_terminal([sys.executable, "-m", "typed_sessions", "check", "--store", url, "--keys", "shop_keys"], folder)
    bars = [part for part in shown.split("\r") if part.startswith("[")]
    assert len(bars) == 3
    assert "[##############################] 100%  1200 sessions" in bars[-1]
