"""The command line: what it says when something is wrong, where it keeps its file, and how it stops."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from tests.conftest import unavailable
from tests.demo_process import PATIENCE, ROOT, Demo, Page, Visitor, command
from typed_sessions.__main__ import main


def fails(*arguments: object, **environment: str) -> str:
    """What a demo that cannot start says last; there must be no traceback."""
    done = subprocess.run(
        command(*arguments), cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 1, (done.returncode, done.stderr)
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    _, ours, text = done.stderr.rpartition("typed_sessions demo: ")
    assert ours, done.stderr
    return text


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "COMMAND"),
        (["demon"], "demon"),
        (["demo", "--port", "eight"], "'eight' is no port: expected a whole number from 0 to 65535"),
        (["demo", "--port", "65536"], "'65536' is no port"),
        (["demo", "--port", "-1"], "'-1' is no port"),
        (["demo", "extra"], "extra"),
    ],
)
def test_wrong_arguments(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    """They end with status 2 and a sentence that names what is wrong."""
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert says in capsys.readouterr().err


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    """Every option is explained, with its default."""
    with pytest.raises(SystemExit) as stopped:
        main(["demo", "--help"])
    text = capsys.readouterr().out
    assert stopped.value.code == 0
    for part in ("--host", "127.0.0.1", "--port", "8000", "--store", "--snapshot", "XDG_STATE_HOME"):
        assert part in text


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """`--version` is that of the installed package, and needs no command."""
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    assert re.fullmatch(r"typed-sessions (\d+\.\d+\.\d+\S*|that is not installed)\n", capsys.readouterr().out)


def test_the_script_is_this_main() -> None:
    """`typed-sessions` and `python -m typed_sessions` are the same."""
    found = [each for each in entry_points(group="console_scripts") if each.name == "typed-sessions"]
    if not found:
        unavailable("an installed typed_sessions")
    assert found[0].value == "typed_sessions.__main__:main"


def test_a_port_that_is_in_use(tmp_path: Path) -> None:
    """It says so, and how to choose another."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        text = fails("--port", port, "--snapshot", tmp_path / "snapshot")
    assert f"port {port}" in text
    assert "in use" in text
    assert "--port" in text


@pytest.mark.parametrize("host", ["no host", "x" * 300, "192.0.2.1"], ids=["no name", "too long", "another machine's"])
def test_a_host_that_is_not_here(host: str, tmp_path: Path) -> None:
    """It says which ones there are."""
    text = fails("--host", host, "--port", 0, "--snapshot", tmp_path / "snapshot")
    assert f"--host {host}:" in text
    assert "127.0.0.1" in text


def test_a_snapshot_that_cannot_be_written(tmp_path: Path) -> None:
    """It is noticed at the start, not when the sessions are to be saved."""
    (tmp_path / "file").touch()
    assert "--snapshot" in fails("--port", 0, "--snapshot", tmp_path / "file" / "snapshot")
    assert "--snapshot" in fails("--port", 0, "--snapshot", tmp_path)


def test_a_snapshot_that_is_refused_is_left_as_it_is(tmp_path: Path) -> None:
    """A link is not followed, and not replaced, whether it leads anywhere or not; nor is a pipe or a folder. No lock is left behind."""
    (tmp_path / "elsewhere").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    before = sorted(tmp_path.iterdir())
    for name in ("link", "dangling"):
        assert "it is a symbolic link, which is not followed" in fails("--port", 0, "--snapshot", tmp_path / name)
    for name in ("pipe", "folder"):
        assert "it is no plain file" in fails("--port", 0, "--snapshot", tmp_path / name)
    assert "--snapshot" in fails("--port", 0, "--snapshot", tmp_path / ("n" * 240))  # there is no room for what a save adds to the name
    assert sorted(path for path in tmp_path.iterdir() if path.suffix != ".journal") == before
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "elsewhere").read_text() == "mine"


def test_a_lock_that_leads_elsewhere_is_refused(tmp_path: Path) -> None:
    """What somebody else has put in the place of the lock is not opened, and nothing is made where it points to."""
    (tmp_path / "snapshot.lock").symlink_to(tmp_path / "elsewhere")
    assert "--snapshot" in fails("--port", 0, "--snapshot", tmp_path / "snapshot")
    assert not (tmp_path / "elsewhere").exists()


def test_a_snapshot_that_another_demo_uses(tmp_path: Path) -> None:
    """Two servers that save to one file would undo each other's work: the second does not start."""
    with Demo(tmp_path / "snapshot") as first:
        assert "another demo" in fails("--port", 0, "--snapshot", tmp_path / "snapshot")
        first.stop()
    with Demo(tmp_path / "snapshot") as again:
        again.stop()


def test_a_damaged_snapshot_is_said_and_kept(tmp_path: Path) -> None:
    """The demo starts all the same; the file is not overwritten without a word (rule 29)."""
    snapshot = tmp_path / "snapshot"
    snapshot.write_bytes(b"this is no snapshot")
    snapshot.chmod(0o600)
    with Demo(snapshot) as demo:
        errors = demo.stop()
    assert str(snapshot) in errors.partition("Ctrl-C")[0]
    assert b"this is no snapshot" in [path.read_bytes() for path in tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("state_home", "where"),
    [("{}/state", "state"), ("relative", "home/.local/state"), ("", "home/.local/state")],
    ids=["set", "relative", "empty"],
)
def test_where_the_sessions_are_kept(state_home: str, where: str, tmp_path: Path) -> None:
    """Without --store: in the user's folder for state; a relative XDG_STATE_HOME is none (XDG base directories)."""
    environment = {"HOME": str(tmp_path / "home"), "XDG_STATE_HOME": state_home.format(tmp_path)}
    started = subprocess.Popen(
        command("--port", 0),
        cwd=ROOT,
        env={**os.environ, **environment},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    with started:
        assert started.stdout is not None
        assert started.stdout.readline()
        started.terminate()
    file = tmp_path / where / "typed-sessions" / "demo.db"
    assert file.is_file()
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    "signals",
    [
        [signal.SIGINT],
        [signal.SIGTERM],
        [signal.SIGINT, signal.SIGINT, signal.SIGINT],
        [signal.SIGTERM, signal.SIGINT, signal.SIGTERM, signal.SIGINT],
    ],
    ids=lambda signals: "-".join(each.name for each in signals),
)
def test_it_stops_when_asked(signals: list[signal.Signals], tmp_path: Path) -> None:
    """Ctrl-C and SIGTERM stop it well, once or again while it is stopping: status 0, no traceback, everything saved."""
    with Demo(tmp_path / "snapshot") as demo:
        visitor = Visitor(demo)
        visitor.look()
        errors = demo.stop(*signals)
        visitor.close()
    assert "Stopped." in errors
    assert (tmp_path / "snapshot").stat().st_size > 0


def test_what_was_asked_before_the_stop_is_answered(tmp_path: Path) -> None:
    """A request that has come is answered, and what it did is saved."""
    with Demo(tmp_path / "snapshot") as demo:
        visitor = Visitor(demo)
        visitor.look()
        assert visitor.connection is not None
        visitor.connection.request("GET", "/", headers=visitor.cookies())
        demo.stop()
        with visitor.connection.getresponse() as answer:
            assert Page(answer).visits == 2
    with Demo(tmp_path / "snapshot") as again:
        visitor.move_to(again)
        assert visitor.look().visits == 3
        visitor.close()
        again.stop()


def test_listening_to_other_machines_is_said(tmp_path: Path) -> None:
    """Plain http beyond this machine is allowed, with a warning."""
    with Demo(tmp_path / "snapshot", "--host", "0.0.0.0") as demo:
        visitor = Visitor(demo)
        assert visitor.look().visits == 1
        visitor.close()
        assert "plain http can be read" in demo.stop()


def test_it_listens_on_ipv6(tmp_path: Path) -> None:
    """--host ::1 works, and the URL that is printed has its brackets."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    with Demo(tmp_path / "snapshot", "--host", "::1") as demo:
        assert demo.url.startswith("http://[::1]:")
        visitor = Visitor(demo)
        assert visitor.look().visits == 1
        visitor.close()
        assert "plain http" not in demo.stop()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--store", "sqlllite:///a.db"], "did you mean 'sqlite'"),
        (["--store", "sqlite:////nowhere/at/all/a.db"], "/nowhere/at/all"),
        (["--store", "redis://127.0.0.1:1"], "cannot be reached"),
    ],
)
def test_a_store_that_cannot_be_had(arguments: list[str], words: str) -> None:
    """The demo says so and ends, before anybody has come."""
    assert words in fails("--port", 0, *arguments)


def test_a_snapshot_is_for_memory() -> None:
    """Two places for one thing are a wrong command line."""
    done = subprocess.run(
        command("--store", "sqlite:///a.db", "--snapshot", "b"), cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 2
    assert "--snapshot is for --store memory:" in done.stderr
