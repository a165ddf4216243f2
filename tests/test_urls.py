"""Stores by URL: what each form opens, and what a wrong one is told."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import typed_sessions
from tests.demo_process import ROOT
from tests.mistakes import check_report
from tests.postgres_server import PostgresServer
from tests.stores.records import found, started, value_of
from typed_sessions import AsyncSessionManager, MemoryStore, PolicyError, SessionManager, SQLiteStore, open_async_store, open_store
from typed_sessions.stores.postgres import AsyncPostgresStore, PostgresStore
from typed_sessions.stores.redis import AsyncRedisStore, RedisStore
from typed_sessions.urls import shown_url


@pytest.mark.parametrize(
    ("url", "sync", "asynchronous"),
    [
        ("memory:", MemoryStore, MemoryStore),
        ("memory://?max_sessions=5", MemoryStore, MemoryStore),
        ("sqlite:///{folder}/a%20b.db?deadline=0.5", SQLiteStore, SQLiteStore),
        ("redis://localhost:6379/2?prefix=shop&max_keys=9", RedisStore, AsyncRedisStore),
        ("rediss://ann:sesame@localhost", RedisStore, AsyncRedisStore),
        ("REDIS://localhost:6379", RedisStore, AsyncRedisStore),
        ("unix:///run/redis@one.sock?db=3", RedisStore, AsyncRedisStore),
        ("postgresql://ann:sesame@localhost/app?schema=shop&sslmode=prefer", PostgresStore, AsyncPostgresStore),
        ("postgres://localhost/app?max_connections=3", PostgresStore, AsyncPostgresStore),
        ("PostgreSQL:///app?host=/run/postgresql", PostgresStore, AsyncPostgresStore),
    ],
)
def test_what_opens(url: str, sync: type, asynchronous: type, tmp_path: Path) -> None:
    """Each form gives the store of its kind, for either manager, and asks no server."""
    url = url.format(folder=tmp_path)
    for opened, kind, manager in ((open_store(url), sync, SessionManager), (open_async_store(url), asynchronous, AsyncSessionManager)):
        assert type(opened) is kind
        make: Any = manager
        assert make(opened).options.timeout == 600


def test_a_path_may_be_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three slashes: from where the program runs. Four: absolute. Escapes are undone."""
    monkeypatch.chdir(tmp_path)
    store = open_store("sqlite:///one%20file.db")
    record = started(store)
    store.close()
    assert (tmp_path / "one file.db").is_file()
    again = open_store(f"sqlite:///{tmp_path}/one%20file.db")
    assert value_of(found(again, record)) == b"0"
    again.close()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "it names no store; expected memory:, sqlite:///sessions.db"),
        ("sessions.db", "it names no store"),
        ("C:\\sessions.db", "it names no store"),
        ("mysql://localhost/app", "'mysql' is no store; expected"),
        ("sqllite:///a.db", "did you mean 'sqlite'"),
        ("postgress://localhost", "did you mean 'postgres'"),
        ("memory:sessions", "memory: has no path"),
        ("sqlite://a.db", "has no path; three slashes"),
        ("sqlite:a.db", "has no path; three slashes"),
        ("sqlite:///", "names no file"),
        ("sqlite:///folder/", "names no file"),
        ("sqlite:///a%00b.db", "no file's name has a NUL"),
        ("sqlite:///a#b.db", "'#' has to be percent-encoded, as %23"),
        ("sqlite:///a.db?deadline=soon", "deadline='soon': expected a number"),
        ("sqlite:///a.db?deadlin=1", "no option 'deadlin' here .did you mean 'deadline'"),
        ("sqlite:///a.db?deadline=-1", "deadline=-1.0"),
        ("redis://localhost/0?deadline=-1", "deadline=-1.0"),
        ("redis://localhost/0?socket_keepalives=1", "an option of the connection is wrong"),
        ("postgresql://localhost/app?deadline=-1", "deadline=-1.0"),
        ("sqlite:///a.db?mode=ro", "no option 'mode' here; expected deadline, max_bytes"),
        ("memory:?prefix=a", "no option 'prefix' here"),
        ("redis://localhost?prefx=shop", "did you mean 'prefix'"),
        ("redis://localhost?deadline=0", "deadline=0.0.: expected a number of seconds above 0"),
        ("postgresql://localhost/app?shema=a", "did you mean 'schema'"),
        ("postgresql://ann:sesame@[localhost/app", "cannot be read"),
        ("postgresql://ann:sesame@local host:port:/app", "no PostgreSQL URL"),
        ("redis://ann:sesame@localhost:port", "no Redis URL"),
        ("redis://localhost:65536/0", "its port is no number from 1 to 65535"),
        ("redis://[::1]:0/0", "its port is no number from 1 to 65535"),
        ("postgresql://localhost:65536/app", "its port is no number from 1 to 65535"),
        ("redis://localhost/shop", "a database of Redis is a number, .*prefix=shop"),
        ("redis://localhost/0/1", "a database of Redis is a number"),
        ("redis:localhost:6379", "behind redis: come two slashes"),
        ("postgresql:localhost/app", "behind postgresql: come two slashes"),
        ("postgresql://ann:sesame@localhost/app?pool_size=5", "there is no option 'pool_size', neither here nor in libpq"),
        # What Python quotes of a URL that it cannot read, or libpq takes for the host, may be a part of the password.
        ("redis://ann:open[sesame]@localhost/0", "'\\[', .* has to be percent-encoded"),
        ("postgresql://ann:open[sesame]@localhost/app", "'\\[', .* has to be percent-encoded"),
        ("redis://ann:℀sesame@localhost/0", "has to be percent-encoded"),
        ("postgresql://ann:open@sesame@localhost/app", "two '@' before its host; a password with .* has to be percent-encoded"),
        ("postgres://ann:sesame@@localhost/app", "two '@' before its host"),
    ],
)
def test_what_a_wrong_url_is_told(url: str, words: str) -> None:
    """It raises at once, says what was expected, and shows no password; for either manager."""
    for opening in (open_store, open_async_store):
        with pytest.raises(PolicyError, match=words) as caught:
            opening(url)
        assert "sesame" not in str(caught.value)
        check_report(caught.value)


def test_how_many_connections_to_redis() -> None:
    """An `AsyncRedisStore` has as many as it is told; a `RedisStore` has one for each thread that needs it, and says so."""
    url = "redis://localhost/0?max_connections=5"
    assert isinstance(open_async_store(url), AsyncRedisStore)
    with pytest.raises(PolicyError, match="max_connections has no effect on a RedisStore"):
        open_store(url)


def test_no_text() -> None:
    """A path object is no URL."""
    with pytest.raises(PolicyError, match=r"expected text, .*, not a PosixPath"):
        open_store(Path("sessions.db"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("url", "module", "extra"), [("redis://localhost", "redis", "redis"), ("postgresql://localhost/app", "psycopg", "postgres")]
)
def test_a_driver_that_is_not_installed(url: str, module: str, extra: str) -> None:
    """What it says is what to type."""
    program = (
        f"import sys; sys.modules[{module!r}] = None\n"
        "from typed_sessions import PolicyError, open_async_store, open_store\n"
        "for opening in (open_store, open_async_store):\n"
        f"    try: opening({url!r})\n"
        "    except PolicyError as problem: print(problem)\n"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60).stdout
    assert said.count(f"pip install 'typed-sessions[{extra}]'") == 2


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("memory:", "memory:"),
        ("sqlite:////var/lib/a.db?deadline=1", "sqlite:////var/lib/a.db"),
        ("postgresql://ann:sesame@localhost:5432/app?password=sesame", "postgresql://ann@localhost:5432/app"),
        ("redis://:sesame@localhost/0#sesame", "redis://localhost/0"),
        ("redis://[::1]:6379/0", "redis://[::1]:6379/0"),
        ("postgresql://ann@one:5432,two:5433/app", "postgresql://ann@one:5432,two:5433/app"),
        # A password that should have been percent-encoded: where it ends nobody can tell.
        ("redis://:ses/ame@localhost/0", "redis:"),
        ("postgresql://ann:ses/ame@localhost/app", "postgresql:"),
        ("postgresql://ann:ses#ame@localhost/app", "postgresql:"),
        ("postgresql://ann:ses?ame@localhost/app", "postgresql:"),
    ],
)
def test_what_is_shown_of_a_url(url: str, shown: str) -> None:
    """Neither password nor query."""
    assert shown_url(url) == shown


@pytest.mark.parametrize("scheme", ["redis", "rediss", "postgresql", "postgres"])
@pytest.mark.parametrize("special", ["/", "#", "?", "99999/", "12/", "12#", "12?"])
def test_a_password_that_is_not_percent_encoded(scheme: str, special: str) -> None:
    """Where it ends nobody can tell, and the options behind it would be lost: the message says what to do, and shows nothing of it."""
    for opening in (open_store, open_async_store):
        with pytest.raises(PolicyError, match="has to be percent-encoded") as refused:
            opening(f"{scheme}://ann:{special}sesame@localhost/1?deadline=2")
        assert "sesame" not in str(refused.value)
        assert "12" not in str(refused.value)
        assert "99999" not in str(refused.value)
    with pytest.raises(PolicyError, match="has to be percent-encoded") as refused:
        open_store(f"{scheme}://localhost/1?password=ses#ame&deadline=2")
    assert "ses" not in str(refused.value)


def test_what_is_for_the_driver(postgres_server: PostgresServer) -> None:
    """It reaches it as it stands: to libpq a blank is %20, and a '+' is a '+'."""
    store = open_store(f"{postgres_server.url}?application_name=my%20shop+1&schema=typed_sessions&options=-c%20statement_timeout%3D3s")
    started(store)
    assert postgres_server.execute("SELECT 1 FROM pg_stat_activity WHERE application_name = 'my shop+1'")
    store.close()


@pytest.mark.parametrize(
    ("name", "module"),
    [("RedisStore", "redis"), ("AsyncRedisStore", "redis"), ("PostgresStore", "postgres"), ("AsyncPostgresStore", "postgres")],
)
def test_the_stores_of_servers_are_imported_like_any_other(name: str, module: str) -> None:
    """`from typed_sessions import RedisStore`: its driver is imported then, and not before."""
    assert getattr(typed_sessions, name) is getattr(import_module(f"typed_sessions.stores.{module}"), name)
    assert name not in typed_sessions.__all__


def test_a_store_whose_driver_is_missing_says_what_to_install() -> None:
    """As `open_store` does, but as an ImportError, for it is an import that fails."""
    program = """
import sys
from importlib import import_module
sys.modules.update(redis=None, psycopg=None)
import typed_sessions
for name in ("AsyncRedisStore", "PostgresStore"):
    try:
        getattr(typed_sessions, name)
    except ImportError as problem:
        print(problem)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines() == [
        "AsyncRedisStore: this store needs redis, which is not installed: pip install 'typed-sessions[redis]'",
        "PostgresStore: this store needs psycopg, which is not installed: pip install 'typed-sessions[postgres]'",
    ]


def test_a_name_that_is_none_is_an_attribute_error() -> None:
    """As of any module."""
    with pytest.raises(AttributeError, match="module 'typed_sessions' has no attribute 'RedditStore'"):
        getattr(typed_sessions, "Reddit" + "Store")
