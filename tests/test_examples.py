"""The programs in examples/ do what they say: each runs as a process of its own and is asked over real sockets.

An example prints its address when it is ready; that line is what a test waits for. Every warning is an error in it, too.
"""

from __future__ import annotations

import http.client
import os
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from typed_sessions.testing import CHECK_NAMES

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
SERVERS = [path for path in EXAMPLES if path.name != "store.py"]
PATIENCE = 20
"""Seconds after which what a test waits for counts as not coming. No test takes that long unless it fails."""

SPURIOUS = "ERROR:    ASGI callable returned without completing handshake.\n"
"""What uvicorn logs of a WebSocket refused with a response, which the browser gets all the same (uvicorn's pull request 3138)."""


class Program:
    """A running example. What it prints is read in a thread, so that waiting for a line can come to an end."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.opened = ExitStack()
        """What is connected to it, closed after it has ended."""
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        self.url = self.line()
        assert self.url.startswith("http://"), f"the first line is not the address: {self.url!r}"

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line.rstrip("\n"))
        self._lines.put("(the program has ended)")

    def line(self) -> str:
        """The next line that it prints."""
        try:
            return self._lines.get(timeout=PATIENCE)
        except queue.Empty:
            pytest.fail("the program printed nothing more")

    def stop(self, number: int = signal.SIGINT) -> None:
        """Stop it, and see that it ends well."""
        self.process.send_signal(number)
        assert self.process.wait(PATIENCE) == 0


@contextmanager
def running(example: str, *arguments: str) -> Generator[Program]:
    """An example while it runs. It must end well, and neither fail nor warn on the way."""
    command = [sys.executable, "-W", "error", str(ROOT / "examples" / f"{example}.py"), "--port", "0", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8") as errors,
        subprocess.Popen(command, env=environment, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors) as process,
    ):
        try:
            program = Program(process)
            with program.opened:
                yield program
                if process.poll() is None:
                    program.stop()
        finally:
            process.kill()
            process.wait()
            errors.seek(0)
            said = errors.read().replace(SPURIOUS, "")
            print(said)  # shown if the test fails
        assert not re.search(r"(?i)traceback|warning|\berror", said), said


@dataclass(frozen=True)
class Answer:
    status: int
    headers: http.client.HTTPMessage
    text: str

    @property
    def cookies(self) -> list[str]:
        """The names of the cookies that it sets or expires."""
        return [value.partition("=")[0] for value in self.headers.get_all("Set-Cookie", [])]


class Browser:
    """A cookie jar and a connection that is kept open while the program runs."""

    def __init__(self, program: Program, jar: dict[str, str] | None = None) -> None:
        self.program = program
        self.jar = {} if jar is None else jar
        self.connection = http.client.HTTPConnection(urlsplit(program.url).netloc, timeout=PATIENCE)
        program.opened.callback(self.connection.close)

    def tab(self) -> Browser:
        """Another connection with the same cookies."""
        return Browser(self.program, self.jar)

    def thief(self) -> Browser:
        """Somebody with a copy of the cookies as they are now."""
        return Browser(self.program, dict(self.jar))

    @property
    def cookie(self) -> dict[str, str]:
        """The Cookie header, if there are any."""
        return {"Cookie": "; ".join(f"{name}={value}" for name, value in self.jar.items())} if self.jar else {}

    def get(self, path: str) -> Answer:
        return self._send("GET", path, None, {})

    def post(self, path: str, **form: str) -> Answer:
        return self._send("POST", path, urlencode(form).encode(), {"Content-Type": "application/x-www-form-urlencoded"})

    def _send(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> Answer:
        self.connection.request(method, path, body, {**headers, **self.cookie})
        response = self.connection.getresponse()
        answer = Answer(response.status, response.msg, response.read().decode())
        for value in answer.headers.get_all("Set-Cookie", []):
            pair, *attributes = value.split("; ")
            name, _, text = pair.partition("=")
            if "Max-Age=0" in attributes:
                self.jar.pop(name, None)
            else:
                self.jar[name] = text
        return answer

    def is_closed(self) -> bool:
        """Whether the server closes the connection, waiting for it; False if it sends something instead."""
        return self.connection.sock.recv(1) == b""


def test_http_server_counts_and_keeps_a_cart(tmp_path: Path) -> None:
    """The counter counts on the cookies that the first answer sets and that later ones need not repeat; the cart holds what was added."""
    with running("http_server", "--snapshot", str(tmp_path / "shop")) as program:
        browser = Browser(program)
        first = browser.get("/")
        assert "This is visit 1." in first.text
        assert first.cookies == ["SESSION_KEY", "SESSION_ADDR"]
        assert first.headers["Cache-Control"] == "no-store"
        assert browser.post("/add", item="<b>tea</b>").status == 303
        second = browser.tab().get("/")
        assert "This is visit 2." in second.text
        assert "&lt;b&gt;tea&lt;/b&gt;" in second.text
        assert second.cookies == []
        assert second.headers["Vary"] == "Cookie"
        assert "This is visit 1." in Browser(program).get("/").text


def test_http_server_looks_at_no_session_for_what_is_not_there(tmp_path: Path) -> None:
    """A page that is not found creates nothing (L8)."""
    with running("http_server", "--snapshot", str(tmp_path / "shop")) as program:
        answer = Browser(program).get("/favicon.ico")
        assert (answer.status, answer.cookies, answer.headers["Vary"]) == (404, [], None)


def test_http_server_renews_at_sign_in(tmp_path: Path) -> None:
    """A sign-in keeps the data under a new id; the old one opens nothing (rule 9, ASVS 7.2.4)."""
    with running("http_server", "--snapshot", str(tmp_path / "shop")) as program:
        browser = Browser(program)
        browser.get("/")
        thief = browser.thief()
        assert browser.post("/sign-in", name="ann").cookies == ["SESSION_KEY", "SESSION_ADDR"]
        assert "Hello, ann. This is visit 2." in browser.get("/").text
        assert "Hello, stranger. This is visit 1." in thief.get("/").text


def test_http_server_ends_the_session_at_sign_out(tmp_path: Path) -> None:
    """A sign-out cleans up, expires the cookies, and closes this connection after its answer and every other one at once (rules 13, 14)."""
    with running("http_server", "--snapshot", str(tmp_path / "shop")) as program:
        browser = Browser(program)
        browser.get("/")
        browser.post("/add", item="tea")
        tab, thief = browser.tab(), browser.thief()
        tab.get("/")
        answer = browser.post("/sign-out")
        assert answer.headers["Connection"] == "close"
        assert browser.jar == {}
        assert tab.is_closed()
        assert program.line() == "back on the shelf: tea"
        assert "This is visit 1." in thief.get("/").text


def test_http_server_keeps_everything_across_a_restart(tmp_path: Path) -> None:
    """After a SIGTERM and a new start the counter counts on, and who had signed out stays out (rules 8, 29)."""
    snapshot = str(tmp_path / "shop")
    with running("http_server", "--snapshot", snapshot) as program:
        browser, gone = Browser(program), Browser(program)
        browser.get("/")
        browser.post("/add", item="tea")
        gone.get("/")
        thief = gone.thief()
        gone.post("/sign-out")
        program.stop(signal.SIGTERM)
    with running("http_server", "--snapshot", snapshot) as program:
        page = Browser(program, browser.jar).get("/").text
        assert "This is visit 2." in page
        assert "In your cart: tea." in page
        assert "This is visit 1." in Browser(program, thief.jar).get("/").text


def test_asyncio_streams_serves_many_requests_on_a_connection() -> None:
    """The connection is kept, and it is the cookies that say whose request it is."""
    with running("asyncio_streams") as program:
        browser = Browser(program)
        assert [browser.get("/").text for _ in range(3)] == ["visit 1\n", "visit 2\n", "visit 3\n"]
        kept = browser.connection.sock
        browser.jar.clear()
        assert browser.get("/").text == "visit 1\n"
        assert browser.connection.sock is kept


def test_asyncio_streams_answers_refusals_and_failed_commits() -> None:
    """`Rejected` and a failed commit are answered with their status, nothing is committed, and the connection goes on.

    What has happened is told to whoever runs the server, and not to the visitor: it may say where the store is.
    """
    with running("asyncio_streams") as program:
        browser = Browser(program)
        browser.get("/")
        kept = browser.connection.sock
        refused = browser.get("/private")
        assert (refused.status, refused.text) == (403, "Forbidden\n")
        assert "(require)" in program.line()
        failed = browser.post("/sign-in", name="x" * 100_000)  # more than a session may hold
        assert (failed.status, failed.text) == (500, "Internal Server Error\n")
        assert "MemoryStore(max_bytes=65536)" in program.line()
        assert browser.get("/private").status == 403
        assert browser.post("/sign-in", name="ann").headers["Location"] == "/private"
        assert browser.get("/private").text == "hello ann\n"
        assert browser.get("/").text == "visit 2\n"
        assert browser.connection.sock is kept


def test_asyncio_streams_closes_the_connections_of_a_session_that_ends() -> None:
    """The one that asked after its answer, the others at once, and nobody else's (rule 14)."""
    with running("asyncio_streams") as program:
        browser, other = Browser(program), Browser(program)
        other.get("/")
        kept = other.connection.sock
        browser.post("/sign-in", name="ann")
        tab = browser.tab()
        assert tab.get("/private").text == "hello ann\n"
        answer = browser.post("/sign-out")
        assert (answer.status, answer.headers["Location"], answer.headers["Connection"]) == (303, "/", "close")
        assert browser.jar == {}
        assert tab.is_closed()
        assert other.get("/").text == "visit 2\n"
        assert other.connection.sock is kept


def test_wsgi_app_shows_a_message_once() -> None:
    """What one request flashes is on the next page, and not on the one after."""
    with running("wsgi_app") as program:
        browser = Browser(program)
        assert browser.get("/").cookies == []
        assert browser.post("/note", note="milk & tea").status == 303
        first, second = browser.get("/").text, browser.get("/").text
        assert "The note is in the book." in first
        assert "The note is in the book." not in second
        assert "<li>milk &amp; tea</li>" in second


def test_wsgi_app_commits_what_a_streaming_body_changes() -> None:
    """The body is made after the headers have left, in its request's session; what it changes is there afterwards (rule 26)."""
    with running("wsgi_app") as program:
        browser = Browser(program)
        report = browser.post("/report")
        assert (report.text, report.cookies) == ("report 1\n", ["SESSION_KEY", "SESSION_ADDR"])
        browser.post("/note", note="milk")
        assert browser.post("/report").text == "report 2\n* milk\n"
        page = browser.get("/").text
        assert "Report 1 was read to its end." in page
        assert "Report 2 was read to its end." in page
        assert "was read to its end" not in browser.get("/").text


def chat(browser: Browser, **headers: str) -> ClientConnection:
    """A WebSocket to the chat, as a page of the site would open it. It is closed with the browser's connections."""
    url = browser.program.url
    socket = connect(
        f"{url.replace('http', 'ws')}chat", additional_headers=browser.cookie | {"Origin": url.rstrip("/")} | headers, open_timeout=PATIENCE
    )
    return browser.program.opened.enter_context(socket)


def test_asgi_chat_closes_at_sign_out() -> None:
    """Everybody hears everybody. A sign-out closes the WebSockets of that session with 1008, and no others (rule 14)."""
    with running("asgi_chat") as program:
        ann, bob = Browser(program), Browser(program)
        ann.post("/sign-in", name="ann")
        bob.post("/sign-in", name="bob")
        anns = chat(ann)
        assert anns.recv(PATIENCE) == "ann has come in"
        bobs = chat(bob)
        assert [anns.recv(PATIENCE), bobs.recv(PATIENCE)] == ["bob has come in"] * 2
        anns.send("hello")
        assert [anns.recv(PATIENCE), bobs.recv(PATIENCE)] == ["ann: hello"] * 2
        answer = ann.post("/sign-out")
        assert (answer.status, answer.text) == (303, "")
        with pytest.raises(ConnectionClosed) as closed:
            anns.recv(PATIENCE)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1008
        assert bobs.recv(PATIENCE) == "ann has left"
        bobs.send("anybody?")
        assert bobs.recv(PATIENCE) == "bob: anybody?"


def test_asgi_chat_refuses_who_may_not_come_in() -> None:
    """Neither who has not signed in, nor who has signed out, nor another site's page in a browser that has (CWE-1385)."""
    with running("asgi_chat") as program:
        browser = Browser(program)
        assert browser.get("/").cookies == []
        browser.post("/sign-in", name="ann")
        thief = browser.thief()
        for visitor, headers in ((Browser(program), {}), (browser, {"Origin": "http://elsewhere.example"})):
            with pytest.raises(InvalidStatus) as refused:
                chat(visitor, **headers)
            assert refused.value.response.status_code == 403
        browser.post("/sign-out")
        with pytest.raises(InvalidStatus) as refused:
            chat(thief)
        assert refused.value.response.status_code == 403


def test_ocaml_port_sends_strangers_to_the_sign_in() -> None:
    """Without a session the error of the filter is the answer, and none is created for a stranger or a wrong password."""
    with running("ocaml_port") as program:
        browser = Browser(program)
        for answer in (browser.get("/"), browser.post("/leave")):
            assert (answer.status, answer.headers["Location"], answer.cookies) == (303, "/login", [])
        assert browser.get("/login").status == 200
        assert browser.post("/login", user="ann", password="dune").status == 403
        assert browser.post("/login", user="eve", password="").status == 403
        assert browser.jar == {}


def test_ocaml_port_signs_in_and_out() -> None:
    """The cookies have the policy's name and life; `delete_session` ends the session and expires them."""
    with running("ocaml_port") as program:
        browser = Browser(program)
        signed_in = browser.post("/login", user="ann", password="camel")
        assert (signed_in.status, signed_in.headers["Location"]) == (303, "/")
        assert signed_in.cookies == ["AUTH_KEY", "AUTH_ADDR"]
        assert "Max-Age=3600" in signed_in.headers["Set-Cookie"]
        assert "Hello, ann." in browser.get("/").text
        thief = browser.thief()
        assert browser.post("/logout").headers["Location"] == "/login"
        assert browser.jar == {}
        assert thief.get("/").headers["Location"] == "/login"


def test_ocaml_port_ends_sessions_that_are_unsound() -> None:
    """A session of a deleted account fails the check: it ends, and its cookies are expired (the table of start_check)."""
    with running("ocaml_port") as program:
        desk, phone, other = Browser(program), Browser(program), Browser(program)
        desk.post("/login", user="ann", password="camel")
        phone.post("/login", user="ann", password="camel")
        other.post("/login", user="bob", password="dune")
        assert desk.post("/leave").status == 303
        answer = phone.get("/")
        assert (answer.status, answer.headers["Location"]) == (303, "/login")
        assert phone.jar == {}
        assert "Hello, bob." in other.get("/").text


def test_swi_port_keeps_facts_and_broadcasts() -> None:
    """Facts are added and replaced; `begin` and `end` come once each, and at the end the facts can still be read (rules 13, 15)."""
    with running("swi_port") as program:
        browser = Browser(program)
        assert browser.get("/shop/").text == "stranger, 0 in your cart\n"
        assert browser.jar == {}
        added = browser.post("/shop/add", item="book", number="1")
        assert added.cookies == ["shop_KEY", "shop_ADDR"]
        assert "Path=/shop" in added.headers["Set-Cookie"]
        begin, handle, peer = program.line().split()
        assert (begin, peer) == ("begin", "127.0.0.1")
        assert browser.post("/shop/add", item="pen", number="2").text == "stranger, 3 in your cart\n"
        assert browser.post("/shop/add", item="book", number="5").text == "stranger, 7 in your cart\n"
        assert browser.post("/shop/login", user="ann").text == "ann, 7 in your cart\n"
        assert browser.post("/shop/login").status == 400
        assert browser.post("/shop/logout").text == "bye\n"
        assert browser.jar == {}
        assert [program.line() for _ in range(3)] == [f"end {handle} ended", "unsold pen 2", "unsold book 5"]
        assert browser.post("/shop/logout").text == "bye\n"
        program.stop()
        assert program.line() == "(the program has ended)"


def test_the_list_of_examples_is_complete() -> None:
    """examples/README.md has one line for each, with the command, and each says the same command itself and is short enough to be read."""
    text = (ROOT / "examples" / "README.md").read_text("utf-8")
    assert re.findall(r"^\| `python (examples/\w+\.py)` \|", text, re.MULTILINE) != []
    assert sorted(re.findall(r"^\| `python (examples/\w+\.py)` \|", text, re.MULTILINE)) == [f"examples/{path.name}" for path in EXAMPLES]
    for path in EXAMPLES:
        source = path.read_text("utf-8")
        assert f"python examples/{path.name}{' --port 8000' if path in SERVERS else ''}" in source
        assert source.count("\n") < (120 if path in SERVERS else 180)


@pytest.mark.slow
def test_store_keeps_every_promise_and_needs_one_module_for_it() -> None:
    """The store of the examples passes the whole kit, with what is asked of a bound, and imports from the contract's module only."""
    source = (ROOT / "examples" / "store.py").read_text("utf-8")
    assert re.findall(r"^from (typed_sessions\S*) import", source, re.MULTILINE) == ["typed_sessions.stores.base", "typed_sessions.testing"]
    assert re.findall(r"^from typed_sessions.testing import (.*)", source, re.MULTILINE) == ["check_store"]
    command = [sys.executable, "-W", "error", str(ROOT / "examples" / "store.py")]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, text=True, capture_output=True, timeout=120)
    assert (done.stdout, done.stderr) == (f"all {len(CHECK_NAMES)} checks passed\n", "")


@pytest.mark.parametrize("example", ["wsgi_app", "asgi_chat"])
def test_a_server_can_import_the_application(example: str) -> None:
    """`application` is there for any server, and importing it starts nothing."""
    program = f"import sys; sys.path.append('examples'); from {example} import application; print(type(application).__module__)"
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], cwd=ROOT, text=True, capture_output=True, timeout=PATIENCE)
    assert (done.stdout, done.stderr) == (f"typed_sessions.filters.{example[:4]}\n", "")
