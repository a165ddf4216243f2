"""The bounds of one session: every store counts alike, to the byte, and only what grows is refused."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast, final

import msgspec
import pytest

from tests.faces import FACES, STORES, Face
from tests.stores.records import IDLE, NOW, PEER
from typed_sessions import MemoryStore, SQLiteStore, TooLarge
from typed_sessions.changes import Changes, ListChange, Outcome, Renewal, Write, apply
from typed_sessions.conformance.model import difference
from typed_sessions.conformance.stand import Stand, Values
from typed_sessions.record import FIELD_LIST, Element, Record, pack_elements, unpack_elements
from typed_sessions.stores.postgres import AsyncPostgresStore, PostgresStore
from typed_sessions.stores.redis import AsyncRedisStore, RedisStore

NAMES = ["a", "b" * 31, "c" * 32, "d" * 255, "e" * 256, "имя", "имя" * 30, "名" * 11, "f" * 305, *(f"n{number}" for number in range(12))]
SIZES = [0, 1, 200, 246, 247, 248, 249, 250, 254, 255, 256, 1_000, 70_000]


def drawing(drawn: int = 0) -> Stand:
    """What draws records; of the kit's stand there is nothing else to it."""
    stand = Stand(cast("Any", None), drawn)
    stand.now = NOW
    return stand


def packed_size(record: Record) -> int:
    """As MessagePack itself says it."""
    return len(msgspec.msgpack.encode(dict(record.fields)))


def some_changes(chance: random.Random, record: Record) -> Changes:
    """Whatever a commit may do to the fields."""
    changes = Changes({}, clear=chance.random() < 0.05)
    lists: dict[str, ListChange] = {}
    for name in chance.sample(NAMES, chance.randrange(1, 9)):
        match chance.randrange(5):
            case 0:
                changes.writes[name] = Write(None)
            case 1:
                try:
                    there = [element.sequence for element in unpack_elements(record.fields.get(name))]
                except ValueError:
                    there = []
                new = [(chance.choice([0, 1, 127, 128, 255, 256, 65_535]), 0, bytes(chance.choice(SIZES[:-2]))) for _ in range(5)]
                lists[name] = ListChange(
                    new[: chance.randrange(5)], new[: chance.randrange(3)], chance.sample(there, chance.randrange(len(there) + 1))
                )
            case 2:
                sequences = [-70_000, -40_000, -200, -33, -32, -1, 0, 127, 128, 255, 256, 65_535, 65_536, 2**31, 2**32, 2**40]
                elements = [Element(sequence, 1, 0, b"x") for sequence in sequences[: chance.randrange(17)]]
                changes.writes[name] = Write(pack_elements(0, elements)[7:], 0, FIELD_LIST)
            case _:
                changes.writes[name] = Write(bytes(chance.choice(SIZES)))
    changes.lists = lists
    return changes


@pytest.mark.parametrize("seed", range(20))
def test_the_running_count_is_exact(seed: int) -> None:
    """Whatever is written, removed, appended or cleared: the size that goes on with a record is that of its packed fields."""
    print(f"seed {seed}")
    chance = random.Random(seed)
    record = drawing().record()
    for _ in range(40):
        after = apply(record, some_changes(chance, record), IDLE, NOW).record
        assert after is not None
        assert after.size == packed_size(after)
        assert Record.unpack(after.locator, after.pack()).size == after.size
        record.size = 0  # as of one that nobody has counted
        again = apply(record, Changes(residents=True), IDLE, NOW).record
        assert again is not None
        assert again.size == packed_size(record)
        record = after


@final
class Place:
    """A place where sessions are kept, and stores with several bounds on it, one after the other."""

    def __init__(self, store: str, kind: str, request: pytest.FixtureRequest, path: Path) -> None:
        self.store, self.kind, self.path = store, kind, path / "sessions.db"
        self.server: Any = request.getfixturevalue(f"{store}_server") if store in ("redis", "postgres") else None
        self.faces: list[Face] = []
        self.before: MemoryStore | None = None
        if self.server is not None and store == "postgres":
            self.server.empty()

    def with_bounds(self, max_bytes: int = 1 << 20, max_keys: int = 1_000) -> Face:
        bounds: dict[str, Any] = {"max_bytes": max_bytes, "max_keys": max_keys}
        store: Any
        match self.store:
            case "memory":
                store, before = MemoryStore(**bounds), self.before
                store.restore([Record.unpack(*item) for item in before.cut()] if before else [], NOW)
                self.before = store
            case "sqlite":
                store = SQLiteStore(self.path, **bounds)
            case "redis":
                store = (RedisStore if self.kind == "sync" else AsyncRedisStore)(self.server.url, prefix=str(self.path), **bounds)
            case _:
                make = PostgresStore if self.kind == "sync" else AsyncPostgresStore
                store = make(self.server.url, schema=self.server.schema, **bounds)
        self.faces.append(Face(self.kind, store))
        return self.faces[-1]


@pytest.fixture(params=[(store, kind) for store in STORES for kind in FACES], ids=" ".join)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    store, kind = request.param
    place = Place(store, kind, request, tmp_path)
    yield place
    for face in place.faces:
        face.close()


def create(face: Face, record: Record) -> None:
    assert face.call(face.store.create(record.copy(), NOW)) == "created"


def commit(face: Face, record: Record, changes: Changes) -> Outcome:
    outcome: Outcome = face.call(face.store.commit(record.locator, changes, IDLE, NOW))
    return outcome


def committed(face: Face, record: Record, changes: Changes) -> Record:
    outcome = commit(face, record, changes)
    assert outcome.status == "committed"
    assert outcome.record is not None
    return outcome.record


def stored(face: Face, record: Record) -> Record | None:
    found: Record | None = face.call(face.store.open(record.locator, None, IDLE, NOW))
    return found


@pytest.mark.parametrize("seed", range(6))
def test_every_store_counts_to_the_byte(place: Place, seed: int) -> None:
    """A session whose names and values take so many bytes fits a bound of so many, and not one of a byte less: created, and grown."""
    print(f"seed {seed}")
    chance = random.Random(seed)
    stand = drawing(1_000 * seed)
    roomy = place.with_bounds()
    record = stand.record()
    create(roomy, record)
    for _ in range(12):
        record = committed(roomy, record, some_changes(chance, record))
    size = packed_size(record)
    fits, short = place.with_bounds(size), place.with_bounds(size - 1)
    for face in (fits, short):
        whole, grown = record.copy(), stand.record()
        whole.locator = stand.draw(16)
        create(face, grown)
        changes = Changes({name: Write(packed[7:], packed[4] + 256 * packed[5], packed[6]) for name, packed in record.fields.items()})
        if face is fits:
            create(face, whole)
            assert packed_size(committed(face, grown, changes)) == size
            assert packed_size(stored(face, whole) or grown) == size
        else:
            with pytest.raises(TooLarge, match=f"{size} bytes; .*max_bytes={size - 1}"):
                create(face, whole)
            with pytest.raises(TooLarge, match=f"{size} bytes; .*max_bytes={size - 1}"):
                commit(face, grown, changes)
            assert stored(face, whole) is None
            assert difference(stored(face, grown), grown) == ""


LESS: dict[str, Callable[[Record], Changes]] = {
    "less bytes": lambda _: Changes({"a": Write(b"x" * 500)}),
    "as many bytes": lambda _: Changes({"a": Write(b"y" * 900)}),
    "one key less": lambda _: Changes({"d": Write(None)}),
    "another key in the place of one": lambda _: Changes({"d": Write(None), "e": Write(b"1")}),
    "an element less": lambda record: Changes(lists={"l": ListChange(removed=[unpack_elements(record.fields["l"])[0].sequence])}),
    "a timeout of its own": lambda _: Changes(timeout=60.0, set_timeout=True),
    "a lasting cookie": lambda _: Changes(persistent=True, set_persistent=True),
    "a new secret": lambda record: Changes(renewal=Renewal(record.digest, b"d" * 32, b"t" * 16, PEER, 0.0)),
    "a new secret, the old one for a while": lambda record: Changes(
        renewal=Renewal(record.digest, b"e" * 32, b"u" * 16, "2001:db8:1234:5678:9abc:def0:1234:5678", 60.0)
    ),
    "nothing": lambda _: Changes(residents=True),
    "none left": lambda _: Changes(clear=True),
}
MORE: dict[str, Callable[[Record], Changes]] = {
    "a byte more": lambda _: Changes({"a": Write(b"x" * 901)}),
    "one more, and a new secret": lambda record: Changes(
        {"a": Write(b"x" * 901)}, renewal=Renewal(record.digest, b"d" * 32, b"t" * 16, PEER, 0.0)
    ),
    "one key more": lambda _: Changes({"e": Write(b""), "a": Write(b"x")}),
    "an element more": lambda _: Changes(lists={"l": ListChange([(1, 0, b"")])}),
}


@pytest.mark.parametrize("bounds", [{"max_bytes": 600}, {"max_keys": 2}, {"max_bytes": 1, "max_keys": 1}], ids=str)
def test_a_session_above_the_bound_can_do_all_but_grow(place: Place, bounds: dict[str, int]) -> None:
    """Where another process allows more (a deployment that lowers a bound): it is used, renewed, gets less, and ends."""
    stand = drawing()
    roomy = place.with_bounds()
    values: Values = {"a": b"x" * 900, "b": b"1", "d": b"1", "l": [b"1", b"2"]}
    records = {what: stand.record(values) for what in [*LESS, *MORE]}
    for record in records.values():
        create(roomy, record)
    strict = place.with_bounds(**bounds)
    for what, change in LESS.items():
        after = committed(strict, records[what], change(records[what]))
        assert difference(stored(strict, after), after) == ""
    for what, change in MORE.items():
        record = records[what]
        if ("key" in what) == ("max_keys" in bounds) or len(bounds) == 2:
            with pytest.raises(TooLarge, match=r"max_(bytes|keys)="):
                commit(strict, record, change(record))
            assert difference(stored(strict, record), record) == ""
        elif "key" in what:
            committed(strict, record, change(record))  # fewer bytes, and keys enough
    for record in records.values():
        assert ended(strict, record)


def ended(face: Face, record: Record) -> bool:
    return face.call(face.store.end(record.locator, "ended", NOW, 60.0)) is not None


def test_what_was_accepted_is_accepted_again(place: Place) -> None:
    """Long names and names of other scripts, added until there is no room: what is there then is written again, and made smaller."""
    face = place.with_bounds(4_000)
    stand = drawing()
    record = stand.record()
    create(face, record)
    for number in range(29):
        record = committed(face, record, Changes({f"{number} {'имя' * 20}": Write(b"1")}))
    with pytest.raises(TooLarge):
        commit(face, record, Changes({f"29 {'имя' * 20}": Write(b"1")}))
    for _ in range(2):
        record = committed(face, record, Changes({f"0 {'имя' * 20}": Write(b"2")}))
        face = place.with_bounds(4_000)
    record = committed(face, record, Changes(renewal=Renewal(record.digest, b"d" * 32, b"t" * 16, PEER, 60.0)))
    record = committed(face, record, Changes({f"0 {'имя' * 20}": Write(None)}))
    assert len(record.fields) == 28


def test_of_two_bounds_all_stores_name_the_same(place: Place) -> None:
    """What would have too many keys and too many bytes is refused with the same text everywhere: created, and grown."""
    face = place.with_bounds(max_bytes=300, max_keys=2)
    stand = drawing()
    much: Values = {"a": b"x" * 200, "b": b"x" * 200, "c": b"x" * 200}
    with pytest.raises(TooLarge, match=r"3 keys; .*max_keys=2"):
        create(face, stand.record(much))
    record = stand.record({"a": b"1"})
    create(face, record)
    with pytest.raises(TooLarge, match=r"3 keys; .*max_keys=2"):
        commit(face, record, Changes({name: Write(b"x" * 200) for name in much}))
