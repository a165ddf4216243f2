"""PostgreSQL as it was set up: encodings, settings of the role, rights, columns of a later version. Nothing of it garbles a session."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.conftest import require
from tests.faces import Face
from tests.postgres_server import PostgresServer
from tests.stores.faults import read, signed_in, unavailable, write
from tests.stores.records import NOW, append, elements_of, found, new, started, value_of
from typed_sessions import Key, ListKey
from typed_sessions.stores.postgres import PostgresStore

LOG = r"a \x41 'quoted' NULL"


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A server with a role of its own for whatever is set."""
    server = PostgresServer(require("postgres"))
    server.execute("CREATE ROLE web LOGIN SUPERUSER")
    yield server
    server.stop()


def of_database(server: PostgresServer, database: str) -> str:
    return server.url.removesuffix("postgres") + database


def whole_life(face: Face, name: Key[str], log: ListKey[str]) -> None:
    """Create, change, list, renew, end, sweep: everything comes back as it was."""
    face.call(face.store.create_schema())
    browser = signed_in(face, name)
    for number in range(3):
        with browser.visit() as session:
            assert list(session[log]) == [LOG] * number
            session[log].append(LOG)
    write(browser, name, "bjørn")
    with browser.visit() as session:
        session.renew()
    with browser.visit() as session:
        assert (session[name], list(session[log])) == ("bjørn", [LOG] * 3)
        session.end()
    signed_in(face, name)
    face.clock.advance(1_000)
    assert face.call(face.manager.sweep()) == 1


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1", "EUC_JP"])
def test_a_database_of_any_encoding(make: Callable[..., Face], server: PostgresServer, name: Key[str], encoding: str) -> None:
    """SQL_ASCII is what `initdb` makes without a locale, as in containers."""
    if not server.execute(f"SELECT 1 FROM pg_database WHERE datname = '{encoding}'"):
        server.execute(f"CREATE DATABASE \"{encoding}\" ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
    whole_life(make(of_database(server, encoding), deadline=5), name, ListKey("log", str))


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_a_client_of_any_encoding(make: Callable[..., Face], server: PostgresServer, name: Key[str], encoding: str) -> None:
    """What the URL says, or the environment, is for programs that show text."""
    whole_life(make(f"{server.url}?client_encoding={encoding}", deadline=5), name, ListKey("log", str))


@pytest.mark.parametrize("setting", ["standard_conforming_strings = off", "array_nulls = off", "client_encoding = SQL_ASCII"])
def test_a_role_with_settings_of_old(make: Callable[..., Face], server: PostgresServer, name: Key[str], setting: str) -> None:
    """How text is read matters to nothing that the store says."""
    server.execute(f"ALTER ROLE web SET {setting}")
    try:
        whole_life(make(server.url.replace("postgres@", "web@"), deadline=5), name, ListKey("log", str))
    finally:
        server.execute("ALTER ROLE web RESET ALL")


TRAPS = """
CREATE SCHEMA traps;
CREATE FUNCTION traps.cardinality(bytea[]) RETURNS int LANGUAGE sql AS 'SELECT 0';
CREATE FUNCTION traps.array_position(bytea[], bytea) RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION traps.least(float8, float8) RETURNS float8 LANGUAGE sql AS 'SELECT 0.0';
CREATE FUNCTION traps.octet_length(bytea) RETURNS int LANGUAGE sql AS 'SELECT 1 / 0';
CREATE FUNCTION traps.hashtextextended(text, int) RETURNS int8 LANGUAGE sql AS 'SELECT (1 / $2)::int8';
CREATE FUNCTION traps.pg_advisory_xact_lock(int) RETURNS int LANGUAGE sql AS 'SELECT 1 / 0';
CREATE FUNCTION traps.joined(bytea[], bytea[]) RETURNS bytea[] LANGUAGE sql AS 'SELECT NULL::bytea[]';
CREATE OPERATOR traps.|| (LEFTARG = bytea[], RIGHTARG = bytea[], FUNCTION = traps.joined);
"""


@pytest.mark.parametrize("path", ["traps", "traps, pg_catalog"])
def test_functions_of_others(make: Callable[..., Face], server: PostgresServer, name: Key[str], path: str) -> None:
    """Whoever may create something where a role looks for functions (up to PostgreSQL 14 that is everybody, in `public`) does not come
    into ours: they would do for the role whatever was written in there, and lose what is stored."""
    if not server.execute("SELECT 1 FROM pg_namespace WHERE nspname = 'traps'"):
        server.execute(TRAPS)
    server.execute("DROP SCHEMA IF EXISTS typed_sessions CASCADE")
    server.execute(f"ALTER ROLE web SET search_path = {path}")
    try:
        whole_life(make(server.url.replace("postgres@", "web@"), deadline=5), name, ListKey("log", str))
    finally:
        server.execute("ALTER ROLE web RESET ALL")


def test_columns_of_a_later_version(server: PostgresServer) -> None:
    """Behind those that are known, each with a default: they are passed over, and stay as they are."""
    store = PostgresStore(server.url, schema="later")
    store.create_schema()
    record = started(store)
    server.execute("ALTER TABLE later.session ADD COLUMN extra int DEFAULT 3, ADD COLUMN more bytea[]")
    append(store, record, b"one")
    kept = found(store, record)
    assert kept is not None
    assert (value_of(kept), elements_of(kept)) == (b"0", [b"one"])
    assert store.create(new(), NOW) == "created"
    assert len(store.scan(None, 10)[0]) == 2
    assert len(store.sweep(NOW + 1_000_000, 10, 60, 60)[0]) == 2
    store.close()


def test_the_least_that_a_role_needs(make: Callable[..., Face], server: PostgresServer, name: Key[str]) -> None:
    """Where nobody may execute a function unasked, that is granted too, as `schema_sql` says."""
    server.execute("CREATE DATABASE hardened")
    url = of_database(server, "hardened")
    owner = make(url, deadline=5)
    with server.client(dbname="hardened") as admin:
        role = f"least_{owner.kind}"
        admin.execute("ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC")
        owner.call(owner.store.create_schema())
        admin.execute(f"CREATE ROLE {role} LOGIN".encode())
        admin.execute(f"GRANT USAGE ON SCHEMA typed_sessions TO {role}".encode())
        admin.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON typed_sessions.session TO {role}".encode())
        face = make(url.replace("postgres@", f"{role}@"))
        with unavailable("permission denied for function"):
            signed_in(face, name)
        admin.execute(f"GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA typed_sessions TO {role}".encode())
        browser = signed_in(face, name)
        write(browser, name, "bob")
        assert read(browser, name) == "bob"
    server.execute("DROP DATABASE hardened WITH (FORCE)")
