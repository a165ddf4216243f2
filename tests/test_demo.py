"""The demo as any HTTP client sees it: a real process, real sockets, no browser. What a browser makes of it is in test_demo_browser."""

from __future__ import annotations

import hashlib
from base64 import urlsafe_b64decode
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.demo_process import Demo, Visitor
from tests.postgres_server import PostgresServer
from tests.redis_server import RedisServer


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """One demo for the tests that leave it as it is; at the end it must stop well."""
    with Demo(tmp_path_factory.mktemp("demo") / "snapshot") as running:
        yield running
        running.stop()


@pytest.fixture
def visitor(demo: Demo) -> Iterator[Visitor]:
    """A visitor who has loaded the page once."""
    visitor = Visitor(demo)
    visitor.look()
    yield visitor
    visitor.close()


def another(visitor: Visitor, stack: ExitStack) -> Visitor:
    """A second visitor, with a jar of their own."""
    other = Visitor(visitor.demo)
    stack.callback(other.close)
    other.look()
    return other


def secret_of(cookie: str) -> bytes:
    """The secret half of a SESSION_KEY (rule 17)."""
    return urlsafe_b64decode(cookie)[16:]


def test_the_first_visit_sets_both_cookies(visitor: Visitor) -> None:
    """Over http: SESSION_KEY and SESSION_ADDR, HttpOnly, SameSite=Lax, not Secure, and the answer may not be cached (rules 19, 24)."""
    cookies = visitor.page.headers.get_all("Set-Cookie", [])
    assert [cookie.partition("=")[0] for cookie in cookies] == ["SESSION_KEY", "SESSION_ADDR"]
    for cookie in cookies:
        assert cookie.split("; ")[1:] == ["Path=/", "HttpOnly", "SameSite=Lax"]
    assert "no-store" in visitor.page.headers["Cache-Control"]
    assert "Cookie" in visitor.page.headers["Vary"]


def test_the_page_shows_digests_and_no_secret(visitor: Visitor) -> None:
    """What is in the store is on the page: the digest of the secret, and nothing that opens the session (I3, I4)."""
    visitor.send("/sign-in", name="Grace")
    key, addr = visitor.jar["SESSION_KEY"], visitor.jar["SESSION_ADDR"]
    assert hashlib.sha256(secret_of(key)).hexdigest()[:8] in visitor.page.text
    assert hashlib.sha256(secret_of(key)).digest().hex(" ") in visitor.page.text
    for hidden in (key, addr, key[22:], secret_of(key).hex(), secret_of(key).hex(" ")):
        assert hidden not in visitor.page.text


def test_the_counter_counts_visits(visitor: Visitor) -> None:
    """A load of the page counts; the page that comes after a form does not."""
    assert visitor.page.visits == 1
    assert visitor.look().visits == 2
    assert visitor.send("/cart", product="cup", change="more").visits == 2
    assert visitor.look().visits == 3


def test_the_cart_is_nested_data(visitor: Visitor) -> None:
    """Products are added, counted and removed; the page shows the value as Python has it."""
    assert visitor.page.cart == "Cart(items=[])"
    visitor.send("/cart", product="teapot", change="more")
    visitor.send("/cart", product="teapot", change="more")
    page = visitor.send("/cart", product="tea", change="more")
    assert "Item(product=Product(name='Teapot',price=Decimal('24.00')),quantity=2,added=datetime.date(" in page.cart
    assert "€ 52.80" in page.text
    page = visitor.send("/cart", product="teapot", change="fewer")
    assert "Teapot" in page.cart
    assert "quantity=2" not in page.cart
    page = visitor.send("/cart", product="teapot", change="none")
    assert "Teapot" not in page.cart
    assert "Green tea" in page.cart
    assert visitor.send("/cart/empty").cart == "Cart(items=[])"


def test_two_carts_do_not_mix(visitor: Visitor) -> None:
    """Another visitor has another session."""
    visitor.send("/cart", product="teapot", change="more")
    with ExitStack() as stack:
        other = another(visitor, stack)
        assert other.page.cart == "Cart(items=[])"
        assert other.page.handle != visitor.page.handle


def test_signing_in_renews_the_id(visitor: Visitor) -> None:
    """The handle and the data stay, the cookie is another, and the one before opens nothing (rule 9, L2)."""
    visitor.send("/cart", product="cup", change="more")
    handle, before = visitor.page.handle, dict(visitor.jar)
    page = visitor.send("/sign-in", name="Ada")
    assert page.signed_in == "Ada"
    assert page.handle == handle
    assert "Cup" in page.cart
    assert visitor.jar["SESSION_KEY"] != before["SESSION_KEY"]
    assert visitor.jar["SESSION_ADDR"] != before["SESSION_ADDR"]
    assert page.one(r'id="handle-before"[^>]*>([0-9a-f]+)') == page.one(r'id="handle-now"[^>]*>([0-9a-f]+)') == handle[:8]
    assert page.one(r'id="cookie-before"[^>]*>([0-9a-f]+)') == hashlib.sha256(secret_of(before["SESSION_KEY"])).hexdigest()[:8]
    assert page.one(r'id="cookie-now"[^>]*>([0-9a-f]+)') == hashlib.sha256(secret_of(visitor.jar["SESSION_KEY"])).hexdigest()[:8]
    with ExitStack() as stack:
        thief = another(visitor, stack)
        thief.jar = before
        assert thief.look().signed_in is None
        assert (thief.page.handle, thief.page.visits) == ("not stored", 1)
        assert thief.jar == before


def test_signing_out_ends_the_session(visitor: Visitor) -> None:
    """The cookies are expired, the next page is of a new session, and the old cookies open nothing (rules 8, 23)."""
    visitor.send("/sign-in", name="Bob")
    handle, before = visitor.page.handle, dict(visitor.jar)
    answer = visitor.post("/sign-out", token=visitor.page.token)
    assert visitor.jar == {}
    page = visitor.look(answer.headers["Location"])
    assert "Signed out: that session has ended" in page.text
    assert page.signed_in is None
    assert page.handle != handle
    assert "Signed out: that session has ended" not in visitor.look("/?signed-out").text, "said once"
    visitor.jar = before
    assert visitor.look().handle != handle


def test_signing_out_everywhere_else(visitor: Visitor) -> None:
    """The other sessions of this user end; this one and those of others go on (ASVS 7.4.5, L3)."""
    with ExitStack() as stack:
        second, third, stranger = (another(visitor, stack) for _ in range(3))
        for each, name in ((visitor, "Eve"), (second, "Eve"), (third, "Eve"), (stranger, "Mallory")):
            each.send("/sign-in", name=name)
        page = visitor.look()
        assert "2 other sessions of Eve" in page.text
        assert second.page.handle[:8] in page.text
        page = visitor.send("/sign-out-everywhere-else")
        assert "2 other sessions ended" in page.text
        assert page.signed_in == "Eve"
        assert "signed in nowhere else" in page.text
        assert second.look().signed_in is None
        assert third.look().signed_in is None
        assert stranger.look().signed_in == "Mallory"


def test_only_who_is_signed_in_can_sign_out_everywhere_else(visitor: Visitor) -> None:
    """Without a name there is nobody whose sessions could end; the session stays (`require`)."""
    assert visitor.post("/sign-out-everywhere-else", token=visitor.page.token).status == 403
    handle = visitor.page.handle
    assert visitor.look().handle == handle


def test_a_replayed_cookie_is_refused_and_its_owner_stays(visitor: Visitor) -> None:
    """Both cookies from another address are refused, and the owner is still signed in (rule 21, A7)."""
    visitor.send("/sign-in", name="Ada")
    before = dict(visitor.jar)
    page = visitor.send("/replay")
    shown = page.one(r'<table id="replayed">(.*?)</table>')
    assert "203.0.113.7" in shown
    assert "Rejected: other_address" in shown
    assert "still signed in as Ada" in shown
    assert page.signed_in == "Ada"
    assert visitor.jar == before
    assert 'id="replayed"' not in visitor.look().text, "shown once"


def test_a_form_needs_its_token(visitor: Visitor) -> None:
    """A form without the session's token, with another session's or with one from before the sign-in does nothing."""
    with ExitStack() as stack:
        stolen = another(visitor, stack).page.token
    stale = visitor.page.token
    visitor.send("/sign-in", name="Ada")
    assert visitor.page.token != stale
    for token in ("", stolen, stale, "\N{SNOWMAN}"):
        answer = visitor.post("/cart", token=token, product="teapot", change="more")
        assert answer.status == 403
        assert "Back to the page" in answer.text
    assert visitor.look().cart == "Cart(items=[])"


def test_a_form_for_a_session_that_has_ended(visitor: Visitor) -> None:
    """It does nothing, and leads to a page that says so."""
    visitor.jar.clear()
    answer = visitor.post("/cart", token=visitor.page.token, product="teapot", change="more")
    assert answer.status == 303
    assert "Set-Cookie" not in answer.headers, "a form creates no session (L8)"
    page = visitor.look(answer.headers["Location"])
    assert "nothing was done" in page.text
    assert page.cart == "Cart(items=[])"


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        ("x" * 5000, {}),
        ("token=%ff", {}),
        (b"\xff", {}),
        ("&".join(f"f{n}=1" for n in range(99)), {}),
        ("token=1", {"Content-Length": "-1"}),
        ("token=1", {"Content-Length": "seven"}),
        ("token=1", {"Content-Length": "9" * 5_000}),
        ("7\r\ntoken=1\r\n0\r\n\r\n", {"Transfer-Encoding": "chunked"}),
    ],
    ids=["long", "no UTF-8", "no ASCII", "many", "negative", "no number", "a very long number", "chunked"],
)
def test_what_is_no_form_is_refused(demo: Demo, body: str | bytes, headers: dict[str, str]) -> None:
    """400, and the connection is closed, since what follows on it cannot be told from the body."""
    visitor = Visitor(demo)
    answer = visitor.ask("POST", "/cart", body, headers)
    visitor.close()
    assert answer.status == 400
    assert answer.headers["Connection"] == "close"


def test_a_form_of_the_page_with_strange_fields(visitor: Visitor) -> None:
    """Unknown products, changes and forms change nothing."""
    assert "no such product" in visitor.send("/cart", product="elephant", change="more").text
    assert "no such product" in visitor.send("/cart", product="cup", change="10").text
    assert "takes a name" in visitor.send("/sign-in", name=" \n ").text
    assert visitor.post("/nowhere", token=visitor.page.token).status == 404
    assert visitor.page.cart == "Cart(items=[])"
    assert visitor.page.signed_in is None


def test_a_name_is_text(visitor: Visitor) -> None:
    """What a visitor writes is shown as it is written, never as markup, and not beyond its length."""
    name = "<script>alert(1)</script>\"'&"
    page = visitor.send("/sign-in", name=name)
    assert page.signed_in == name
    assert "<script>alert" not in page.text
    assert visitor.send("/sign-in", name="a\tb\0" + "c" * 99).signed_in == "a b" + "c" * 37


def test_the_page_comes_from_here_alone(visitor: Visitor) -> None:
    """A Content-Security-Policy allows nothing from elsewhere, and everything that the page names is served here."""
    policy = visitor.page.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    assert "http" not in policy
    for path, kind in (("/page.css", "text/css"), ("/page.js", "text/javascript"), ("/icon.svg", "image/svg+xml")):
        assert f'"{path}"' in visitor.page.text
        answer = visitor.ask("GET", path)
        assert answer.status == 200
        assert answer.headers["Content-Type"].startswith(kind)
        assert "://" not in answer.text.replace("http://www.w3.org/2000/svg", "")
        assert "Vary" not in answer.headers, "the session was not looked at (rule 25)"
    assert "://" not in visitor.page.text


def test_what_is_not_there(visitor: Visitor) -> None:
    """404 for what is not there, 400 for what is no address; HEAD has no body; a method that nobody knows is refused."""
    assert visitor.ask("GET", "/../page.html").status == 404
    assert visitor.ask("GET", "ftp://[").status == 400
    answer = visitor.ask("HEAD", "/")
    assert (answer.status, answer.text) == (200, "")
    assert visitor.ask("HEAD", "/live").text == ""
    assert visitor.ask("DELETE", "/").status == 501


def test_https_is_explained_with_the_policy_s_own_cookies(visitor: Visitor) -> None:
    """The page shows what the same policy writes over http and over https (rule 19)."""
    assert "SESSION_KEY=...; Path=/; HttpOnly; SameSite=Lax" in visitor.page.text
    assert "__Host-SESSION_KEY=...; Path=/; Secure; HttpOnly; SameSite=Lax" in visitor.page.text


def test_a_restart_keeps_everything(tmp_path: Path) -> None:
    """Stopped with SIGTERM and started again: the same session, signed in, with the same cart and the same cookies (rule 29)."""
    snapshot = tmp_path / "new" / "folder" / "snapshot"
    with Demo(snapshot) as first:
        visitor = Visitor(first)
        visitor.look()
        visitor.send("/cart", product="teapot", change="more")
        before, jar = visitor.send("/sign-in", name="Ada"), dict(visitor.jar)
        first.stop()
    visitor.close()
    assert snapshot.stat().st_mode & 0o777 == 0o600
    for secret in (jar["SESSION_KEY"].encode(), jar["SESSION_ADDR"].encode(), secret_of(jar["SESSION_KEY"])):
        assert secret not in snapshot.read_bytes()
    with Demo(snapshot) as second:
        visitor.move_to(second)
        page = visitor.look()
        visitor.close()
        assert "restored: 1" in second.stop()
    assert (page.handle, page.signed_in, page.cart) == (before.handle, "Ada", before.cart)
    assert page.visits == before.visits + 1
    assert visitor.jar == jar


def test_after_a_kill_nothing_that_ended_is_back(tmp_path: Path) -> None:
    """The snapshot still has the session alive when the demo is killed; its end was promised, and it stays ended (rule 8, L4)."""
    snapshot = tmp_path / "snapshot"
    with Demo(snapshot) as first:
        ada, bob = Visitor(first), Visitor(first)
        for visitor, name in ((ada, "Ada"), (bob, "Bob")):
            visitor.look()
            visitor.send("/sign-in", name=name)
        first.stop()
    with Demo(snapshot) as second:
        ada.move_to(second)
        ada.look()
        handle, jar = ada.page.handle, dict(ada.jar)
        ada.send("/sign-out")
        second.kill()
    with Demo(snapshot) as third:
        for visitor in (ada, bob):
            visitor.move_to(third)
        ada.jar = jar
        assert ada.look().signed_in is None
        assert ada.page.handle != handle
        assert bob.look().signed_in == "Bob"
        third.stop()
    ada.close()
    bob.close()


def test_after_a_kill_the_cookie_before_the_sign_in_opens_nothing(tmp_path: Path) -> None:
    """A renewal is promised like an end: the snapshot's older secret is not let in again, and the new one is (rules 9, 29)."""
    snapshot = tmp_path / "snapshot"
    with Demo(snapshot) as first:
        visitor = Visitor(first)
        handle, before = visitor.look().handle, dict(visitor.jar)
        first.stop()
    with Demo(snapshot) as second:
        visitor.move_to(second)
        visitor.look()
        visitor.send("/sign-in", name="Ada")
        after = dict(visitor.jar)
        second.kill()
    with Demo(snapshot) as third:
        visitor.move_to(third)
        visitor.jar = before
        assert visitor.look().handle == "not stored"
        visitor.jar = after
        assert visitor.look().handle == handle
        third.stop()
    visitor.close()


@pytest.mark.parametrize("signals", [["SIGKILL"] * 3, ["SIGTERM", "SIGKILL", "SIGTERM"]], ids="-".join)
def test_nothing_is_lost_on_sqlite(signals: list[str], tmp_path: Path) -> None:
    """The demo's default store: killed or stopped, and started again, counter, cart and sign-in are there, to the last acknowledged one."""
    url = f"sqlite:///{tmp_path}/demo.db"
    jar: dict[str, str] = {}
    for number, name in enumerate(signals):
        with Demo(url) as demo:
            visitor = Visitor(demo)
            visitor.jar = jar
            page = visitor.look()
            assert page.visits == number + 1
            if number == 0:
                page = visitor.send("/sign-in", name="Ada")
            assert page.signed_in == "Ada"
            jar = visitor.jar
            visitor.close()
            if name == "SIGKILL":
                demo.kill()
            else:
                assert f"The sessions are in sqlite:///{tmp_path}/demo.db" in demo.stop()


def test_two_demos_share_one_redis(redis_server: RedisServer) -> None:
    """Signed in at one, signed in at the other; signed out at one, signed out at the other."""
    url = f"{redis_server.url}?prefix=demo"
    with Demo(url) as first, Demo(url) as second:
        here, there = Visitor(first), Visitor(second)
        here.look()
        here.send("/sign-in", name="Ada")
        there.jar = here.jar
        assert there.look().signed_in == "Ada"
        there.send("/sign-out")
        assert here.look().signed_in is None
        for visitor in (here, there):
            visitor.close()


def test_a_demo_on_postgres_makes_its_schema(postgres_server: PostgresServer) -> None:
    """A database is enough; started again, everything is there."""
    url = f"{postgres_server.url}?schema=demo"
    jar: dict[str, str] = {}
    for number in (1, 2):
        with Demo(url) as demo:
            visitor = Visitor(demo)
            visitor.jar = jar
            assert visitor.look().visits == number
            jar = visitor.jar
            visitor.close()
            demo.kill()
