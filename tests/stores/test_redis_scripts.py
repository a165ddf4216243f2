"""The scripts of the Redis stores against the functions that say what a verb does: same replies, same records, to the byte."""

from __future__ import annotations

import itertools
import re
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from redis.crc import key_slot

from tests.conftest import require
from tests.redis_server import RedisServer
from typed_sessions import MemoryStore
from typed_sessions.changes import Changes, Idle, ListChange, Outcome, Renewal, Use, Write
from typed_sessions.record import Record, pack_elements, pack_field
from typed_sessions.stores.redis import RedisStore
from typed_sessions.stores.redis_scripts import KEEP, KEEP_HOOKED, SCRIPTS
from typed_sessions.stores.redis_verbs import BUCKETS, Command, Verbs

NOW = 1_700_000_000.0
GRACE = 600.0
_numbers = itertools.count()

locators = st.sampled_from([b"\x01" * 16, b"\x01" * 15 + b"\xff", b"\xfe" * 16])
who = st.integers(1, 3)
addresses = st.sampled_from([None, "10.0.0.1", "10.0.0.2"])
names = st.sampled_from(["a", "b", "c", "ä" * 20, "n" * 300])
payloads = st.sampled_from([b"", b"x", b"y" * 248, b"y" * 249, b"z" * 65_530]) | st.binary(max_size=8)
field_flags = st.sampled_from([0, 0, 1, 4])
idles = st.sampled_from([Idle(600.0, 60.0), Idle(100.0, 10.0), Idle(None, 60.0), Idle(0.5, 0.25)])
writes = st.builds(Write, st.none() | payloads, st.integers(0, 65_535), field_flags, st.sampled_from([None, None, 0, 1, 2, 3]))
elements = st.lists(st.tuples(st.integers(0, 300), field_flags, payloads.filter(lambda data: len(data) < 1000)), max_size=20)
sequences = st.sampled_from([sign * ((revision << 20) + n) for revision in range(1, 5) for n in range(4) for sign in (1, -1)])
list_changes = st.builds(ListChange, elements, elements, st.lists(sequences, max_size=6))


def digest(n: int) -> bytes:
    return bytes([n]) * 32


def tag(n: int) -> bytes:
    return bytes([n]) * 16


@st.composite
def changes(draw: st.DrawFn) -> Changes:
    made = Changes(draw(st.dictionaries(names, writes, max_size=3)))
    made.lists = draw(st.dictionaries(names, list_changes, max_size=2))
    made.clear = draw(st.booleans() if draw(st.booleans()) else st.just(False))
    if draw(st.booleans()):
        made.set_timeout = True
        made.timeout = draw(st.sampled_from([None, 50.0, 5_000.0]))
        made.granularity = draw(st.sampled_from([None, 5.0]))
    if draw(st.booleans()):
        made.set_persistent, made.persistent = True, draw(st.sampled_from([None, True, False]))
    if draw(st.booleans()):
        old, new = draw(who), draw(who)
        made.renewal = Renewal(digest(old), digest(new), tag(new), draw(addresses), draw(st.sampled_from([0.0, 0.0, 30.0])))
    made.counts_as_use = draw(st.booleans())
    return made


@st.composite
def records(draw: st.DrawFn) -> Record:
    number, idle = draw(who), draw(idles)
    record = Record(draw(locators), digest(number), tag(number), NOW, NOW, idle.timeout, idle.granularity, 0, draw(addresses))
    record.deadline = draw(st.sampled_from([None, None, NOW + 300.0]))
    record.unpacked = {name: pack_field(0, 1, 0, payload) for name, payload in draw(st.dictionaries(names, payloads, max_size=20)).items()}
    return record


steps = st.one_of(
    st.tuples(st.just("create"), records()),
    st.tuples(st.just("open"), locators, st.none() | st.tuples(who, who, addresses, st.booleans()), idles),
    st.tuples(st.just("touch"), locators, who, idles),
    st.tuples(st.just("commit"), locators, changes(), idles),
    st.tuples(st.just("commit"), locators, changes(), idles),
    st.tuples(st.just("end"), locators),
    st.tuples(st.just("sweep")),
    st.tuples(st.just("clear"), locators, st.none() | st.lists(names, max_size=3)),
    st.tuples(st.just("scan")),
    st.tuples(st.just("wait"), st.sampled_from([0.5, 9.5, 60.0, 100.0, 600.0])),
)


def plain(result: Any) -> Any:
    """What can be compared: records as their packed form, and in no order where none is promised."""
    if isinstance(result, Record):
        return result.locator, result.copy().pack(), result.use_written
    if isinstance(result, Outcome):
        return result.status, plain(result.record)
    if isinstance(result, tuple):
        page: Any = cast("Any", result)
        return sorted(map(plain, page[0])), page[1]
    return result


def carry_out(store: Any, step: Any, now: float) -> Any:
    verb, *args = step
    if verb == "create":
        return store.create(args[0].copy(), now)
    if verb == "open":
        use = None if args[1] is None else Use(digest(args[1][0]), tag(args[1][1]), *args[1][2:])
        return store.open(args[0], use, args[2], now)
    if verb == "touch":
        return store.touch(args[0], digest(args[1]), args[2], now)
    if verb == "commit":
        return store.commit(args[0], args[1], args[2], now)
    if verb == "end":
        return store.end(args[0], "ended", now, 60.0)
    if verb == "sweep":
        return store.sweep(now, 100, 60.0, GRACE)
    if verb == "clear":
        return store.clear(*args)
    return store.scan(None, 1_000)


A_LIST = Changes(lists={"a": ListChange([(1, 0, b"x")] * 20, [(1, 4, b"y")])})
OLD = Record(b"\x01" * 16, digest(1), tag(1), NOW, NOW, 600.0, 60.0, 0, "10.0.0.1")


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(script=st.lists(steps, min_size=4, max_size=25))
@example(script=[("create", OLD), *[("commit", OLD.locator, A_LIST, Idle(600.0, 60.0))] * 3])
def test_it_does_what_the_memory_store_does(redis_server: RedisServer, script: list[Any]) -> None:
    """Any sequence of verbs has the same results on both, and leaves the same records."""
    options: dict[str, Any] = {"max_bytes": 2**24, "max_keys": 1_000}
    memory, redis = MemoryStore(**options), RedisStore(redis_server.url, prefix=f"scripts {next(_numbers)}", **options)
    now = NOW
    try:
        for step in script:
            if step[0] == "wait":
                now += step[1]
                continue
            assert plain(carry_out(redis, step, now)) == plain(carry_out(memory, step, now)), step
        assert plain(redis.scan(None, 1_000)) == plain(memory.scan(None, 1_000))
    finally:
        redis.close()


@pytest.fixture
def store(redis_server: RedisServer) -> Any:
    store = RedisStore(redis_server.url, prefix=f"scripts {next(_numbers)}")
    yield store
    store.close()


def keys_of(redis_server: RedisServer, store: RedisStore) -> list[bytes]:
    with redis_server.client() as client:
        found: Any = client.keys(f"{{{store.prefix}:*")
        return sorted(found)


def one_of_each(verbs: Verbs, locator: bytes) -> list[Command]:
    """The command of every verb that is one script."""
    record = OLD.copy()
    record.locator = locator
    trips: list[Any] = [
        verbs.create(record, NOW),
        verbs.open(locator, Use(locator, tag(1), None, True), Idle(600.0, 60.0), NOW),
        verbs.touch(locator, digest(1), Idle(600.0, 60.0), NOW),
        verbs.commit(locator, Changes({"a": Write(b"x")}), Idle(600.0, 60.0), NOW),
        verbs.end(locator, "ended", NOW, 60.0),
        verbs.clear(locator, None),
    ]
    return [command for trip in trips for command in next(trip)]


def test_the_keys_of_a_script_are_in_one_slot() -> None:
    """A cluster runs a script where all its keys are; and the buckets spread over its slots."""
    slots: set[int] = set()
    for bucket in range(BUCKETS):
        for command in one_of_each(Verbs("RedisStore", "app", 1_000, 10), bytes([bucket]) + b"x" * 15):
            keys: Any = command.words[1 : 1 + int(command.words[0])]
            assert len(keys) == 2
            (slot,) = {key_slot(key) for key in keys}
            slots.add(slot)
    assert len(slots) > 250


def test_a_script_uses_only_the_keys_that_it_declares() -> None:
    """Every call in a script is of KEYS[1] or KEYS[2]."""
    for script in SCRIPTS:
        calls = re.findall(r"redis\.p?call\('[A-Z]+', ([^,)]+)", script.text)
        assert len(calls) == script.text.count("redis.call(") + script.text.count("redis.pcall(")
        assert set(calls) <= {"KEYS[1]", "KEYS[2]"}


def test_every_verb_works_on_a_node_of_a_cluster() -> None:
    """A node in cluster mode (one that has all slots) refuses commands and scripts whose keys are in several: none is."""
    server = RedisServer(require("redis-server"), "--cluster-enabled", "yes")
    store = RedisStore(server.url)
    idle = Idle(600.0, 60.0)
    try:
        with server.client() as client:
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16_383)
            while b"cluster_state:ok" not in client.execute_command("CLUSTER", "INFO"):
                pass
        for bucket in range(0, BUCKETS, 5):
            record = OLD.copy()
            record.locator = bytes([bucket]) + b"x" * 15
            assert store.create(record, NOW) == "created"
            assert store.open(record.locator, Use(record.locator, tag(1), None, True), idle, NOW) is not None
            assert store.touch(record.locator, digest(1), idle, NOW + 100)
            assert store.commit(record.locator, Changes({"a": Write(b"x", 1, 1)}), idle, NOW).status == "committed"
        assert len(store.scan(None, 1_000)[0]) == 52
        assert store.end(b"\0" + b"x" * 15, "ended", NOW, 60.0) is not None
        swept, more = store.sweep(NOW + 800, 50, 60.0, GRACE)
        assert (len(swept), more) == (50, True)
        for record in swept:
            store.clear(record.locator, None)
        assert len(store.sweep(NOW + 800, 50, 60.0, GRACE)[0]) == 2
    finally:
        store.close()
        server.stop()


@pytest.mark.parametrize("hooked", [False, True])
def test_every_key_has_a_ttl(redis_server: RedisServer, store: RedisStore, hooked: bool) -> None:
    """Nothing is left behind when nobody sweeps; sessions with hooks wait for their hooks a week longer."""
    idle = Idle(600.0, 60.0)
    store.create(OLD.copy(), NOW)
    store.commit(OLD.locator, Changes({"a": Write(b"x", 1, int(hooked))}), idle, NOW)
    keep = KEEP_HOOKED if hooked else KEEP
    for _ in range(3):
        with redis_server.client() as client:
            left: list[Any] = [client.ttl(key) for key in keys_of(redis_server, store)]
        assert len(left) == 2
        assert all(660 + keep - 60 <= seconds <= 660 + keep for seconds in left)
        store.open(OLD.locator, Use(OLD.locator, tag(1), None, True), idle, NOW + 100)
        store.touch(OLD.locator, digest(1), idle, NOW + 200)
    assert store.end(OLD.locator, "ended", NOW + 300, 60.0) is not None
    with redis_server.client() as client:
        left = [client.ttl(key) for key in keys_of(redis_server, store)]
    assert len(left) == (2 if hooked else 0)
    assert all(KEEP_HOOKED - 60 <= seconds <= KEEP_HOOKED + 660 for seconds in left)


@pytest.mark.parametrize("timeout", [86_400.0, None])
def test_a_short_session_takes_no_ttl_from_a_long_one(redis_server: RedisServer, store: RedisStore, timeout: float | None) -> None:
    """The sorted set of a bucket outlives the longest of its sessions: without it nobody would find that one, and run its hooks."""
    long, short = OLD.copy({"a": pack_field(1, 1, 1, b"x")}), OLD.copy()
    long.timeout, short.timeout = timeout, 1.0
    short.locator = OLD.locator[:1] + b"short".ljust(15)
    for record in (long, short):
        assert store.create(record, NOW) == "created"
    assert store.touch(short.locator, short.digest, Idle(1.0, 0.1), NOW + 0.5)
    assert store.end(short.locator, "ended", NOW + 0.5, 60.0) is not None
    with redis_server.client() as client:
        index, value = (client.ttl(key) for key in keys_of(redis_server, store))
    assert index == value if timeout is None else index >= value > KEEP_HOOKED


def test_a_change_of_what_is_long_over_takes_no_ttl_away(redis_server: RedisServer, store: RedisStore) -> None:
    """Where the last hooked value is taken out of a session that came due days ago, it is kept for a sweep as if it had only now."""
    late = NOW + 3 * 86_400
    store.create(OLD.copy(), NOW)
    store.commit(OLD.locator, Changes({"a": Write(b"x", 1, 1)}), Idle(600.0, 60.0), NOW)
    store.commit(OLD.locator, Changes({"a": Write(None)}, counts_as_use=False), Idle(600.0, 60.0), late)
    with redis_server.client() as client:
        left: list[Any] = [client.ttl(key) for key in keys_of(redis_server, store)]
    assert len(left) == 2
    assert all(seconds >= KEEP - 60 for seconds in left)
    assert [found.locator for found in store.sweep(late, 10, 60.0, GRACE)[0]] == [OLD.locator]


def test_a_session_without_timeout_is_kept(redis_server: RedisServer, store: RedisStore) -> None:
    """What never comes due has no TTL, until it gets a timeout; it is among all sessions all the same."""
    record = OLD.copy()
    record.timeout = None
    store.create(record, NOW)
    with redis_server.client() as client:
        assert [client.ttl(key) for key in keys_of(redis_server, store)] == [-1, -1]
        assert [found.locator for found in store.scan(None, 10)[0]] == [record.locator]
        changes = Changes()
        changes.set_timeout, changes.timeout = True, 100.0
        store.commit(record.locator, changes, Idle(None, 60.0), NOW)
        assert client.ttl(keys_of(redis_server, store)[1]) > KEEP
    assert [found.locator for found in store.sweep(NOW + 160, 10, 60.0, GRACE)[0]] == [record.locator]
    assert keys_of(redis_server, store) == []


@pytest.mark.parametrize(
    "garbage", [b"", b"x", b"\x01" * 84, b"\x02" + b"x" * 200, OLD.copy().pack()[:-1], OLD.copy().pack()[:-1] + b"\xc0"]
)
@pytest.mark.parametrize("kind", ["string", "hash"])
def test_what_cannot_be_read_counts_as_absent(
    redis_server: RedisServer, store: RedisStore, caplog: pytest.LogCaptureFixture, garbage: bytes, kind: str
) -> None:
    """Another program's value, or a damaged one: logged, no verb raises, it is not overwritten, and others are served."""
    other = OLD.copy()
    other.locator = b"\x01" * 15 + b"\xff"
    idle = Idle(600.0, 60.0)
    store.create(OLD.copy(), NOW)
    store.create(other, NOW)
    key = next(key for key in keys_of(redis_server, store) if key.endswith(OLD.locator.hex().encode()))
    with redis_server.client() as client:
        client.delete(key)
        if kind == "hash":
            client.hset(key, "h", garbage)
        else:
            client.set(key, garbage)
        before = client.dump(key)
        assert store.open(OLD.locator, Use(OLD.locator, tag(1), None, True), idle, NOW) is None
        assert store.touch(OLD.locator, digest(1), idle, NOW) in (False, True)
        assert store.commit(OLD.locator, Changes({"a": Write(b"x")}), idle, NOW).status == "gone"
        assert [record.locator for record in store.scan(None, 10)[0]] == [other.locator]
        assert "cannot be read" in caplog.text
        store.clear(OLD.locator, None)
        assert store.create(OLD.copy(), NOW) == "taken"
        if kind == "hash" or not garbage.startswith(b"\x01\x00"):
            assert client.dump(key) == before
        store.end(OLD.locator, "ended", NOW, 60.0)
        assert [record.locator for record in store.sweep(NOW + 700, 10, 60.0, GRACE)[0]] == [other.locator]
        assert store.sweep(NOW + 700, 10, 60.0, GRACE) == ([], False)


def test_an_index_that_is_none_stops_no_session(redis_server: RedisServer, store: RedisStore, caplog: pytest.LogCaptureFixture) -> None:
    """Where the sorted set should be there is something else: sessions are served, and only sweeps and listings miss them."""
    store.create(OLD.copy(), NOW)
    due = next(key for key in keys_of(redis_server, store) if key.endswith(b"due"))
    with redis_server.client() as client:
        client.delete(due)
        client.set(due, b"x")
    idle = Idle(600.0, 60.0)
    assert store.commit(OLD.locator, Changes({"a": Write(b"x")}), idle, NOW + 100).status == "committed"
    assert store.open(OLD.locator, Use(OLD.locator, tag(1), "10.0.0.1", False), idle, NOW + 200) is not None
    assert store.sweep(NOW + 10_000, 10, 60.0, GRACE) == ([], False)
    assert store.scan(None, 10) == ([], None)
    assert "no sorted set" in caplog.text
    assert store.end(OLD.locator, "ended", NOW, 60.0) is not None


def test_a_lost_index_is_made_again_by_the_next_use(redis_server: RedisServer, store: RedisStore) -> None:
    """Redis may evict the sorted set (`volatile-*`): sessions in use are back in it with the next use that is written."""
    store.create(OLD.copy(), NOW)
    with redis_server.client() as client:
        client.delete(*[key for key in keys_of(redis_server, store) if key.endswith(b"due")])
    assert store.scan(None, 10) == ([], None)
    assert store.open(OLD.locator, Use(OLD.locator, tag(1), "10.0.0.1", False), Idle(600.0, 60.0), NOW + 100) is not None
    assert [record.locator for record in store.scan(None, 10)[0]] == [OLD.locator]
    assert [record.locator for record in store.sweep(NOW + 760, 10, 60.0, GRACE)[0]] == [OLD.locator]


def test_elements_of_a_field_that_is_no_list(store: RedisStore) -> None:
    """A list in the place of a single value, or of bytes that only look like one, replaces it."""
    idle = Idle(600.0, 60.0)
    whole = pack_elements(1, [])[7:]
    for payload in (b"", b"\x91", b"\x91\x94\x01", b"\x93\xc0\xc0\xc0", whole + b"x", b"\xdd\xff\xff\xff\xff"):
        record = OLD.copy({"a": pack_field(1, 0, 2, payload)})
        record.locator = bytes([len(payload)]) * 16
        store.create(record, NOW)
        outcome = store.commit(record.locator, Changes(lists={"a": ListChange([(1, 0, b"x")])}), idle, NOW)
        assert outcome.record is not None
        assert outcome.record.fields["a"][7:] == b"\x91\x94" + b"\xce\x00\x10\x00\x00" + b"\x01\x00\xc4\x01x"
        store.end(record.locator, "ended", NOW, 60.0)


def test_a_scan_in_pages_finds_each_session_once(store: RedisStore) -> None:
    """Whatever the size of a page, and whatever comes and goes meanwhile."""
    all_of_them = [bytes([n % 7, n]) + b"x" * 14 for n in range(100)]
    for locator in all_of_them:
        record = OLD.copy()
        record.locator = locator
        store.create(record, NOW)
    for limit in (1, 3, 50, 99, 100, 101):
        found: list[bytes] = []
        after = None
        while True:
            records, after = store.scan(after, limit)
            assert len(records) <= limit
            found += [record.locator for record in records]
            if after is None:
                break
        assert sorted(found) == sorted(all_of_them)
