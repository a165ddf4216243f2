"""What the PostgreSQL stores find in the database: nothing, the functions of another version, the waits of another process, damage."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.conftest import require
from tests.faces import Face
from tests.postgres_server import PostgresServer
from tests.redis_server import PATIENCE
from tests.stores.faults import read, signed_in, unavailable, write
from tests.stores.records import IDLE, NOW, append, elements_of, found, new, started, value_of
from typed_sessions import Key, StoreUnavailable
from typed_sessions.changes import Changes, Outcome, Write
from typed_sessions.stores import postgres_schema
from typed_sessions.stores.postgres import PostgresStore


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    """A server that a test may do anything to."""
    server = PostgresServer(require("postgres"))
    yield server
    server.stop()


def test_no_schema(make: Callable[..., Face], server: PostgresServer, name: Key[str]) -> None:
    """The error says what to do; done by several at once, it is done."""
    face = make(server.url, schema="another")
    with unavailable("has no tables of typed_sessions .version 5. in the schema another.*create_schema"):
        face.browser().open(create=True).finish()
    stores = [PostgresStore(server.url, schema="another") for _ in range(4)]
    threads = [threading.Thread(target=store.create_schema) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    browser = signed_in(face, name)
    face.call(face.store.create_schema())  # and again: what is there stays
    assert read(browser, name) == "ann"
    for store in stores:
        store.close()


def test_a_user_who_may_not_create(server: PostgresServer) -> None:
    """Somebody else runs `schema_sql`; the store itself needs its schema and its table, and nothing more."""
    owner = PostgresStore(server.url, schema="shared")
    with server.client() as connection:
        connection.execute(owner.schema_sql.encode())
        connection.execute("CREATE ROLE app LOGIN")
    store = PostgresStore(server.url.replace("postgres@", "app@"), schema="shared")
    with pytest.raises(StoreUnavailable, match="refused create_schema: permission denied"):
        store.create_schema()
    with pytest.raises(StoreUnavailable, match=r"this user may not see them|permission denied"):
        started(store)
    server.execute("GRANT USAGE ON SCHEMA shared TO app")
    server.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON shared.session TO app")
    record = started(store)
    assert value_of(found(store, record)) == b"0"
    assert store.sweep(NOW + 10_000, 10, 60, 60)[0]
    store.close()
    owner.close()


def test_what_an_earlier_version_has_made(
    make: Callable[..., Face], server: PostgresServer, name: Key[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is recognised; `create_schema` brings it forward, the sessions stay, and a process of the earlier version goes on."""
    with monkeypatch.context() as earlier:
        earlier.setattr(postgres_schema, "VERSION", postgres_schema.VERSION - 1)
        before = PostgresStore(server.url, schema="another")
        before.create_schema()
    record = started(before, b"earlier")
    face = make(server.url, schema="another")
    with unavailable(
        "the schema another of PostgreSQL at .* was made by another version of typed_sessions, .* version 5: call create_schema"
    ):
        signed_in(face, name)
    face.call(face.store.create_schema())
    browser = signed_in(face, name)
    now = PostgresStore(server.url, schema="another")
    assert value_of(found(now, record)) == b"earlier"
    for store in (before, now):
        append(store, record, b"one more")
    kept = found(before, record)
    assert kept is not None
    assert elements_of(kept) == [b"one more"] * 2
    write(browser, name, "bob")
    assert read(browser, name) == "bob"
    for store in (before, now):
        store.close()


@pytest.mark.parametrize("mode", ["SHARE UPDATE EXCLUSIVE", "ROW EXCLUSIVE"])
def test_a_schema_that_is_there_waits_for_nobody(server: PostgresServer, mode: str) -> None:
    """Neither for a VACUUM of the table (the first mode) nor for whoever writes it, and so those who write wait for nobody either."""
    store = PostgresStore(server.url, deadline=PATIENCE)
    with server.client() as other:
        other.execute("BEGIN")
        other.execute(f"LOCK TABLE typed_sessions.session IN {mode} MODE".encode())
        store.create_schema()
        assert value_of(found(store, started(store, b"meanwhile"))) == b"meanwhile"
        other.execute("ROLLBACK")
    assert [index for (index,) in server.execute("SELECT relname FROM pg_class WHERE relname = 'session_due'")] == ["session_due"]
    store.close()


def test_each_waits_as_long_as_its_own_deadline(make: Callable[..., Face], server: PostgresServer) -> None:
    """For what somebody has locked: whoever has made the schema decides that for nobody else."""
    patient, hasty = make(server.url, deadline=60), make(server.url)
    hasty.call(hasty.store.create_schema())
    record = new()
    assert hasty.call(hasty.store.create(record, NOW)) == "created"

    def commit(face: Face, value: bytes) -> Outcome:
        outcome: Outcome = face.call(face.store.commit(record.locator, Changes({"value": Write(value)}), IDLE, NOW))
        return outcome

    with server.client() as other, ThreadPoolExecutor(1) as aside:
        other.execute("BEGIN")
        other.execute("SELECT 1 FROM typed_sessions.session FOR UPDATE")
        waits = aside.submit(commit, patient, b"patient")
        server.until_waiting(1)
        with unavailable("refused commit: canceling statement due to lock timeout"):
            commit(hasty, b"hasty")
        assert not waits.done()
        other.execute("ROLLBACK")
        assert waits.result(PATIENCE).status == "committed"
    assert value_of(hasty.call(hasty.store.open(record.locator, None, IDLE, NOW))) == b"patient"


DAMAGE = {
    "fewer payloads than names": r"payloads = '{}'",
    "no payload": r"payloads = '{NULL}'",
    "a short payload": r"payloads = '{\\x01}'",
    "no revision": r"revisions = '{NULL}'",
    "a revision below 0": r"revisions = '{-1}'",
    "a revision too large": r"revisions = '{99999999999}'",
    "no name": r"names = '{NULL}'",
    "a name that is no text": r"names = '{\\xff}'",
    "names in names": r"names = '{{\\x61}}'",
    "an element of no list": r"element_names = '{\\x61}', element_sequences = '{1}', element_payloads = '{\\x01000000}'",
    "a short element": r"list_names = '{\\x61}', list_revisions = '{1}', "
    r"element_names = '{\\x61}', element_sequences = '{1}', element_payloads = '{\\x01}'",
    "an element without sequence": r"list_names = '{\\x61}', list_revisions = '{1}', "
    r"element_names = '{\\x61, \\x61}', element_sequences = '{1, NULL}', element_payloads = '{\\x01000000, \\x01000000}'",
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_what_another_program_has_written(postgres_server: PostgresServer, caplog: pytest.LogCaptureFixture, damage: str) -> None:
    """A row that cannot be a session is logged, and counts as absent; scans and sweeps go on past it."""
    postgres_server.empty()
    store = PostgresStore(postgres_server.url)
    damaged, sound = started(store, b"damaged"), started(store, b"sound")
    postgres_server.execute(f"UPDATE typed_sessions.session SET {damage} WHERE locator = '\\x{damaged.locator.hex()}'")
    assert found(store, damaged) is None
    assert f"the session {damaged.locator.hex()} in PostgreSQL cannot be read" in caplog.text
    assert [record.locator for record in store.scan(None, 10)[0]] == [sound.locator]
    assert len(postgres_server.execute("SELECT 1 FROM typed_sessions.session")) == 2
    assert [record.locator for record in store.sweep(NOW + 10_000, 10, 60, 60)[0]] == [sound.locator]
    store.close()
