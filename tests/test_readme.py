"""The README is true: its programs run, and its two commands are the ones that CI runs.

Every ```python block is a whole program. A comment on the line before a block says more:

    <!-- runs: serves 8000 -->        it listens on that port: it is started, asked for / once, and stopped
    <!-- runs: no, because ... -->    it is not run, and this is why
"""

from __future__ import annotations

import http.client
import os
import re
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

PATIENCE = 120
ROOT = Path(__file__).resolve().parent.parent
DEMO_COMMAND = "python3 -m venv .venv && .venv/bin/pip install -q . && .venv/bin/typed-sessions demo"
TEST_COMMAND = "python3 -m venv .venv && .venv/bin/pip install -q -e '.[test]' && .venv/bin/python -m pytest"

BLOCK = re.compile(r"(?:^<!-- runs: (?P<runs>.*?) -->\n+)?^```python\b.*\n(?P<code>(?:.*\n)*?)^```$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A program of the README; `line` is that of its first statement."""

    line: int
    code: str
    runs: str

    def write(self, folder: Path, *, port: int | None = None) -> Path:
        """The program as a file whose line numbers are the README's, listening on `port` instead of its own."""
        code = self.code
        if port is not None:
            own = self.runs.removeprefix("serves ")
            code, count = re.subn(rf"\b{own}\b", str(port), code)
            assert count, f"README.md:{self.line}: the block is said to serve {own}, but that port is not in it"
        path = folder / "readme.py"
        path.write_text("\n" * (self.line - 1) + code, "utf-8")
        return path


def blocks_of(text: str) -> list[Block]:
    return [Block(text.count("\n", 0, m.start("code")) + 1, m["code"], m["runs"] or "") for m in BLOCK.finditer(text)]


README = (ROOT / "README.md").read_text("utf-8") if (ROOT / "README.md").exists() else ""
BLOCKS = blocks_of(README)
PROGRAMS = [block for block in BLOCKS if not block.runs]
SERVERS = [block for block in BLOCKS if re.fullmatch(r"serves \d+", block.runs)]
NOT_RUN = [block for block in BLOCKS if re.fullmatch(r"no\b\W*\w.*", block.runs)]


def name(block: Block) -> str:
    return f"line-{block.line}"


def start(path: Path) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-W", "error", str(path)]
    return subprocess.Popen(
        command, cwd=path.parent, env=environment, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def ask(port: int, server: subprocess.Popen[str]) -> http.client.HTTPResponse:
    """GET / as soon as the server listens; the connection is closed and the body read."""
    deadline = time.monotonic() + 30
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            connection.request("GET", "/")
            response = connection.getresponse()
            response.read()
            return response
        except ConnectionRefusedError:
            assert server.poll() is None, "the program ended before it listened"
            assert time.monotonic() < deadline, "the program does not listen"
            time.sleep(0.05)
        finally:
            connection.close()


def test_the_readme_has_programs() -> None:
    """There is at least one whole program that serves, and no block is left out without a reason."""
    assert BLOCKS, "README.md is missing, or has no ```python block"
    assert SERVERS, "README.md has no program that serves: put <!-- runs: serves 8000 --> on the line before its ```python"
    strange = [f"README.md:{b.line}: runs: {b.runs}" for b in BLOCKS if b not in [*PROGRAMS, *SERVERS, *NOT_RUN]]
    assert strange == [], "write 'serves PORT', or 'no, because ...' with the reason"
    lost = README.count("\n```python") - len(BLOCKS)
    assert lost == 0, f"{lost} ```python blocks of README.md are never closed"


@pytest.mark.parametrize(
    "block", [pytest.param(block, marks=pytest.mark.slow if "check_store(" in block.code else (), id=name(block)) for block in PROGRAMS]
)
def test_a_program_of_the_readme_runs(block: Block, tmp_path: Path) -> None:
    """A block is a whole program: it runs to its end without an error or a warning."""
    with start(block.write(tmp_path)) as program:
        try:
            output, _ = program.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            program.kill()
            pytest.fail(
                f"README.md:{block.line}: still running after {PATIENCE} s; if it serves, say <!-- runs: serves PORT -->", pytrace=False
            )
    assert program.returncode == 0, output


@pytest.mark.parametrize("block", SERVERS, ids=name)
def test_a_server_of_the_readme_answers(block: Block, tmp_path: Path) -> None:
    """A server's program answers a browser's first GET with a page and a session cookie."""
    port = free_port()
    with start(block.write(tmp_path, port=port)) as server:
        try:
            response = ask(port, server)
        finally:
            server.terminate()
            try:
                output, _ = server.communicate(timeout=10)
            except subprocess.TimeoutExpired:
                server.kill()
                output, _ = server.communicate()
            print(output)
    assert response.status == 200
    assert response.getheader("Set-Cookie")


@pytest.mark.parametrize("command", [DEMO_COMMAND, TEST_COMMAND], ids=["demo", "tests"])
def test_the_commands_are_those_of_ci(command: str) -> None:
    """What the README tells a newcomer to type is, letter for letter, what CI runs on a fresh copy."""
    assert command in README.splitlines(), "README.md does not have this command on a line of its own"
    assert command in (ROOT / ".ci" / "run").read_text("utf-8")


def test_blocks_are_found() -> None:
    """The reader of this file finds blocks, their lines and what is said of them, and leaves other languages alone."""
    text = "a\n```python\none\n```\n```sh\nls\n```\n<!-- runs: serves 8000 -->\n```python\ntwo\n\nthree\n```\n"
    assert blocks_of(text) == [Block(3, "one\n", ""), Block(10, "two\n\nthree\n", "serves 8000")]
