"""The PostgreSQL stores where the database asks for stricter isolation than its own default: a transaction that has lost against another
one is no reason to refuse a request (rule 7)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote

import pytest

from tests.faces import Face
from tests.postgres_server import PostgresServer
from tests.redis_server import PATIENCE
from tests.stores.faults import unavailable
from tests.stores.records import IDLE, NOW, elements_of, new, use
from typed_sessions.changes import Changes, ListChange
from typed_sessions.record import Record

ADD = Changes(lists={"list": ListChange(appended=[(1, 0, b"one")])})

VERBS: dict[str, Callable[[Any, Record], Any]] = {
    "commit": lambda store, record: store.commit(record.locator, ADD, IDLE, NOW),
    "open": lambda store, record: store.open(record.locator, use(record), IDLE, NOW),
    "touch": lambda store, record: store.touch(record.locator, record.digest, IDLE, NOW),
    "end": lambda store, record: store.end(record.locator, "ended", NOW, 60),
}


@pytest.fixture(params=["read committed", "repeatable read", "serializable"])
def url(request: pytest.FixtureRequest, postgres_server: PostgresServer) -> str:
    """Transactions are so isolated, unless they ask for something else."""
    postgres_server.empty()
    level = request.param.replace(" ", "\\ ")
    return f"{postgres_server.url}?options={quote(f'-c default_transaction_isolation={level}')}"


@pytest.mark.parametrize("verb", VERBS)
def test_another_was_quicker(make: Callable[..., Face], url: str, postgres_server: PostgresServer, verb: str) -> None:
    """It has written the row that a verb waits for, which then looks anew, and does what it is for, once."""
    face, record = make(url, deadline=PATIENCE), new()
    assert face.call(face.store.create(record, NOW)) == "created"
    with postgres_server.client() as other, ThreadPoolExecutor(1) as aside:
        other.execute("BEGIN")
        other.execute("UPDATE typed_sessions.session SET address = address")
        waits = aside.submit(lambda: face.call(VERBS[verb](face.store, record)))
        postgres_server.until_waiting(1)
        other.execute("COMMIT")
        said = waits.result(PATIENCE)
    after = face.call(face.store.open(record.locator, None, IDLE, NOW))
    if verb == "commit":
        assert said.status == "committed"
        assert elements_of(after) == [b"one"]
    elif verb == "end":
        assert said.locator == record.locator
        assert after is None
    else:
        assert after.flags & 1  # used by a second request


def test_many_are_quick(make: Callable[..., Face], url: str) -> None:
    """Commits to one session at the same time: each counts, and none is refused."""
    faces, record = [make(url, deadline=PATIENCE) for _ in range(4)], new()
    assert faces[0].call(faces[0].store.create(record, NOW)) == "created"

    def commit(face: Face) -> list[str]:
        return [face.call(VERBS["commit"](face.store, record)).status for _ in range(25)]

    with ThreadPoolExecutor(len(faces)) as threads:
        said = [status for statuses in threads.map(commit, faces) for status in statuses]
    assert said == ["committed"] * 100
    assert len(elements_of(faces[0].call(faces[0].store.open(record.locator, None, IDLE, NOW)))) == 100


@pytest.fixture
def lost(make: Callable[..., Face], postgres_server: PostgresServer) -> Iterator[Callable[[str, int], Face]]:
    """A face whose transactions lose so often, with such an error; it comes as late as it can, when the transaction ends."""

    def prepare(state: str, times: int) -> Face:
        face = make(postgres_server.url, schema="lost")
        face.call(face.store.create_schema())
        postgres_server.execute("CREATE SEQUENCE lost.tries")
        postgres_server.execute(
            "CREATE FUNCTION lost.lose() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            f"IF nextval('lost.tries') <= {times} THEN RAISE EXCEPTION 'somebody came first' USING ERRCODE = '{state}'; END IF; "
            "RETURN NULL; END $$"
        )
        postgres_server.execute(
            "CREATE CONSTRAINT TRIGGER lose AFTER UPDATE ON lost.session DEFERRABLE INITIALLY DEFERRED "
            "FOR EACH ROW EXECUTE FUNCTION lost.lose()"
        )
        return face

    yield prepare
    postgres_server.execute("DROP SCHEMA lost CASCADE")


@pytest.mark.parametrize("state", ["40001", "40P01"])
def test_lost_at_the_end(lost: Callable[[str, int], Face], state: str) -> None:
    """A serialization failure or a deadlock, when everything is done but not yet for good: it is done again, and then there once."""
    face = lost(state, 3)
    record = new()
    face.call(face.store.create(record, NOW))
    outcome = face.call(VERBS["commit"](face.store, record))
    assert outcome.status == "committed"
    assert elements_of(face.call(face.store.open(record.locator, None, IDLE, NOW))) == [b"one"]


def test_lost_again_and_again(lost: Callable[[str, int], Face]) -> None:
    """No longer than the deadline, and then it is said that nothing was done."""
    face = lost("40001", 10**9)
    record = new()
    face.call(face.store.create(record, NOW))
    with unavailable("refused commit: somebody came first|did not answer commit"):
        face.call(VERBS["commit"](face.store, record))
    assert elements_of(face.call(face.store.open(record.locator, None, IDLE, NOW))) == []


@pytest.mark.parametrize("state", ["23514", "P0001"])
def test_another_error_is_no_reason(lost: Callable[[str, int], Face], state: str) -> None:
    """What would fail again is said at once."""
    face = lost(state, 1)
    record = new()
    face.call(face.store.create(record, NOW))
    with unavailable("refused commit: somebody came first"):
        face.call(VERBS["commit"](face.store, record))
    assert face.call(VERBS["commit"](face.store, record)).status == "committed"
