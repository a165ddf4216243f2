"""The Redis stores on a cluster: each session is where its slot is, also while slots move and when a node is gone."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import count
from typing import Any

import hiredis
import pytest
import redis
import redis.asyncio
from redis.crc import key_slot

from tests.conftest import require
from tests.faces import FACES, Face
from tests.redis_cluster_servers import RedisClusterServers, wait_for
from tests.redis_server import RedisServer
from tests.stores.faults import DEADLINE, read, signed_in, unavailable, write
from tests.stores.records import IDLE, NOW, new
from typed_sessions import Key, StoreUnavailable
from typed_sessions.stores.redis import AsyncRedisStore, RedisStore
from typed_sessions.stores.redis_cluster import Cluster, Errands, Node, Parcel, Pause
from typed_sessions.stores.redis_verbs import Command, Missing, Reply, Verbs
from typed_sessions.testing import CHECK_NAMES, check_store

pytestmark = pytest.mark.slow

_prefixes = count()


@pytest.fixture(scope="module")
def servers() -> Iterator[RedisClusterServers]:
    """A cluster for all tests that leave it as it is, but for its slots."""
    servers = RedisClusterServers(require("redis-server"))
    yield servers
    servers.stop()


@pytest.fixture
def frail() -> Iterator[RedisClusterServers]:
    """A cluster that a test may do anything to; its first master has a replica."""
    servers = RedisClusterServers(require("redis-server"), replica=True)
    yield servers
    servers.stop()


@pytest.fixture
def name() -> Key[str]:
    return Key("name", str)


def store_of(servers: RedisClusterServers, kind: str, **options: Any) -> Any:
    made: Any = RedisStore if kind == "sync" else AsyncRedisStore
    return made(servers.url, prefix=f"cluster {next(_prefixes)}", **options)


def keys_of(server: RedisServer) -> list[bytes]:
    with server.client() as client:
        return list(client.scan_iter(count=1_000))


def test_every_promise_is_kept_on_a_cluster(servers: RedisClusterServers) -> None:
    """A store that is given one node's URL finds the others, and the kit finds no difference to a single server."""
    report = check_store(lambda: store_of(servers, "sync"), examples=50)
    assert len(report.passed) + len(report.skipped) == len(CHECK_NAMES)
    assert all("hold" in why or "bound" in why for _, why in report.skipped)
    assert all(keys_of(master) for master in servers.masters)


@pytest.mark.parametrize("kind", FACES)
def test_a_client_of_a_cluster(servers: RedisClusterServers, kind: str, name: Key[str]) -> None:
    """`client=` may be redis-py's client of a cluster: its way to connect is used, such as its name at the servers."""
    port = servers.masters[1].port
    if kind == "sync":
        with closing(redis.RedisCluster(host="127.0.0.1", port=port, client_name="mine", protocol=2)) as client:
            _use(Face(kind, RedisStore(client=client, prefix="given"), timeout=600), servers, name)
    else:
        theirs = redis.asyncio.RedisCluster(host="127.0.0.1", port=port, client_name="mine", protocol=2)
        face = Face(kind, AsyncRedisStore(client=theirs, prefix="given"), timeout=600)
        _use(face, servers, name)
        asyncio.run(theirs.aclose())


def _use(face: Face, servers: RedisClusterServers, name: Key[str]) -> None:
    try:
        for _ in range(40):  # or one of the masters may have none of them
            assert read(signed_in(face, name), name) == "ann"
        for master in servers.masters:
            with master.client() as client:
                assert "mine" in {other["name"] for other in client.client_list()}
    finally:
        face.close()


def test_each_verb_is_one_trip_when_the_cluster_is_known(servers: RedisClusterServers) -> None:
    """The first command that is refused asks the way. After that each verb goes to the node that has the session."""
    with closing(store_of(servers, "sync")) as store:
        records = [new() for _ in range(80)]
        for record in records[:16]:
            store.create(record, NOW)
        before = [_said(master) for master in servers.masters]
        for record in records[16:]:
            store.create(record, NOW)
        for record in records:
            assert store.open(record.locator, None, IDLE, NOW) is not None
        said = [_difference(before[n], _said(master)) for n, master in enumerate(servers.masters)]
        assert sum(one["evalsha"] for one in said) == 64 + 80
        # One that a node sees for the first time is said once more, with its text.
        assert all(one.keys() <= {"evalsha", "eval"} and one.get("eval", 0) <= 2 for one in said)


def _said(server: RedisServer) -> dict[str, int]:
    """How often each command was called, or refused before it was."""
    with server.client() as client:
        stats: dict[str, Any] = client.info("commandstats")
    own = ("info", "hello", "client|setinfo", "client|setname", "select", "auth", "cluster|slots", "script|load")
    names = {command.removeprefix("cmdstat_"): found for command, found in stats.items()}
    scripted = ("get", "set", "zadd", "zrem", "pttl", "pexpire", "persist", "exists", "del", "setrange")  # what scripts call is counted too
    return {one: found["calls"] + found["rejected_calls"] for one, found in names.items() if one not in (*own, *scripted)}


def _difference(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    return {command: calls - before.get(command, 0) for command, calls in after.items() if calls != before.get(command, 0)}


@pytest.mark.parametrize("kind", FACES)
def test_a_slot_that_moves(servers: RedisClusterServers, kind: str, name: Key[str]) -> None:
    """While a slot's keys go from one node to another, one by one, requests of its sessions wait or are sent on; nothing is lost."""
    store = store_of(servers, kind, deadline=10)
    face = Face(kind, store, timeout=600)
    browser = signed_in(face, name)
    locator = _locator(servers, store)
    session, due = (f"{{{store.prefix}:{locator[0]:02x}}}:{rest}" for rest in (f"s:{locator.hex()}", "due"))
    slot = key_slot(session.encode())
    source = next(master for master in servers.masters if session.encode() in keys_of(master))
    target = next(master for master in servers.masters if master is not source)
    servers.tell(target, "SETSLOT", slot, "IMPORTING", servers.id_of(source))
    servers.tell(source, "SETSLOT", slot, "MIGRATING", servers.id_of(target))
    write(browser, name, "still at the source")
    _migrate(source, target, session)
    with ThreadPoolExecutor(1) as pool:  # its two keys are at two nodes: TRYAGAIN
        waiting = pool.submit(write, browser, name, "on its way") if kind == "sync" else None
        _migrate(source, target, due)
        if waiting is not None:
            waiting.result()
        else:
            write(browser, name, "on its way")  # ASK
    assert read(browser, name) == "on its way"
    with source.client() as client:
        rest = client.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 1_000)
    for key in rest:  # another test's, which happen to be in this slot
        _migrate(source, target, key)
    for server in (target, source, *servers.masters):
        servers.tell(server, "SETSLOT", slot, "NODE", servers.id_of(target))
    write(browser, name, "at the target")  # MOVED
    assert read(browser, name) == "at the target"
    assert session.encode() in keys_of(target)
    face.close()


def _locator(servers: RedisClusterServers, store: Any) -> bytes:
    (found,) = [
        key for master in servers.masters for key in keys_of(master) if key.startswith(b"{" + store.prefix.encode()) and b":s:" in key
    ]
    return bytes.fromhex(found.rpartition(b":")[2].decode())


def _migrate(source: RedisServer, target: RedisServer, key: str | bytes) -> None:
    with source.client() as client:
        client.execute_command("MIGRATE", "127.0.0.1", target.port, key, 0, 5_000)


@pytest.mark.parametrize("kind", FACES)
def test_a_master_that_is_lost(frail: RedisClusterServers, kind: str, name: Key[str]) -> None:
    """Its sessions cannot be reached until its replica has its place, and then they are there; nobody has to be told."""
    face = Face(kind, store_of(frail, kind, deadline=DEADLINE), timeout=600)
    first = frail.masters[0]
    lost = next(browser for _ in iter(int, 1) if (browser := _on(first, face, name)) is not None)
    others = [signed_in(face, name) for _ in range(20)]
    replica = frail.replica
    assert replica is not None
    wait_for(lambda: set(keys_of(first)) == set(keys_of(replica)))
    first.kill()
    with unavailable("cannot be reached|broke the connection|CLUSTERDOWN"):
        write(lost, name, "bob")
    wait_for(lambda: all(_answers(browser, name) for browser in (lost, *others)))
    assert read(lost, name) == "ann"
    write(lost, name, "cid")
    assert read(lost, name) == "cid"
    assert [read(other, name) for other in others] == ["ann"] * 20
    face.close()


def _on(server: RedisServer, face: Face, name: Key[str]) -> Any:
    """A browser whose session is on this server; None if it has come to be on another."""
    before = set(keys_of(server))
    browser = signed_in(face, name)
    return browser if any(b":s:" in key for key in set(keys_of(server)) - before) else None


def _answers(browser: Any, name: Key[str]) -> bool:
    try:
        read(browser, name)
    except StoreUnavailable:
        return False
    return True


@pytest.mark.parametrize("kind", FACES)
def test_a_frozen_node(frail: RedisClusterServers, kind: str, name: Key[str]) -> None:
    """The deadline holds also for who asks a node that does not answer, and for who looks for another one."""
    face = Face(kind, store_of(frail, kind, deadline=DEADLINE), timeout=600)
    first = frail.masters[0]
    frozen = next(browser for _ in iter(int, 1) if (browser := _on(first, face, name)) is not None)
    first.freeze()
    for _ in range(2):
        with unavailable("did not answer|cannot be reached|CLUSTERDOWN|refused"):
            write(frozen, name, "bob")
    first.thaw()
    wait_for(lambda: _answers(frozen, name))
    write(frozen, name, "cid")
    assert read(frozen, name) == "cid"
    face.close()


# -- whom to ask, without servers -------------------------------------------------

A, B, C = Node("a", 1), Node("b", 2), Node("c", 3)
THREE = [[0, 5_000, [b"a", 1, b"id"]], [5_001, 10_000, [b"b", 2, b"id"], [b"r", 9, b"id"]], [10_001, 16_383, [b"c", 3, b"id"]]]


def get(key: str) -> Command:
    return Command(("GET", key.encode()))


def of_slot(first: int, last: int) -> Command:
    return next(command for n in count() if first <= key_slot(str(n).encode()) <= last for command in [get(str(n))])


def error(text: str) -> Any:
    return hiredis.ReplyError(text)


def is_failure(reply: object) -> bool:
    """Of a node, instead of a reply."""
    return isinstance(reply, Exception) and not isinstance(reply, hiredis.ReplyError)


def gone(text: str = "gone") -> StoreUnavailable:
    return StoreUnavailable(text)


def follow(errands: Errands[list[Reply]], answers: Sequence[tuple[Any, Any]]) -> list[Reply]:
    """Answer each errand as is written here: to whom it goes (or how long it waits), and what comes back."""
    left = list(answers)
    try:
        errand = next(errands)
        while True:
            expected, reply = left.pop(0)
            assert expected == (errand.seconds if isinstance(errand, Pause) else errand.node)
            errand = errands.throw(reply) if is_failure(reply) else errands.send(reply)
    except StopIteration as stop:
        assert not left
        replies: list[Reply] = stop.value
        return replies


def known() -> Cluster:
    cluster = Cluster("home")
    assert follow(cluster.errands([of_slot(0, 5_000)]), [(None, [THREE]), (A, [b"x"])]) == [b"x"]
    return cluster


def test_commands_go_to_who_has_their_slot() -> None:
    """Once it is known, each node gets its part of the commands, and the replies come in the commands' order."""
    commands = [of_slot(10_001, 16_383), of_slot(0, 5_000), of_slot(10_001, 16_383)]
    assert follow(known().errands(commands), [(C, [b"1", b"3"]), (A, [b"2"])]) == [b"1", b"2", b"3"]


def test_the_first_refusal_tells_of_the_cluster() -> None:
    """What the first server has done already is not said again."""
    first, second = of_slot(0, 5_000), of_slot(5_001, 10_000)
    errands = Cluster("home").errands([first, second], [b"done", error("MOVED 6000 b:2")])
    assert follow(errands, [(None, [THREE]), (B, [b"there"])]) == [b"done", b"there"]


def test_a_slot_that_has_moved_is_followed_at_once() -> None:
    """If the next one refuses it too, they do not agree yet, and it waits a little, and longer each time. Then the way is asked again."""
    cluster, command = known(), of_slot(0, 5_000)
    moves = [(A, [error("MOVED 1 b:2")]), (B, [error("MOVED 1 a:1")]), (0.02, ()), (A, [error("MOVED 1 c:3")]), (0.04, ()), (C, [b"x"])]
    assert follow(cluster.errands([command]), moves) == [b"x"]
    moved = [[0, 5_000, [b"c", 3, b"id"]], *THREE[1:]]
    assert follow(cluster.errands([command]), [(A, [moved]), (C, [b"x"])]) == [b"x"]
    assert cluster.left == {A}


def test_asking_is_for_once() -> None:
    """A key that has gone ahead of its slot; its script goes with its text. The next command asks the old node again."""
    cluster, command = known(), of_slot(0, 5_000)
    assert follow(cluster.errands([command]), [(A, [error("ASK 1 b:2")]), (B, [b"OK", b"x"])]) == [b"x"]
    assert follow(cluster.errands([command]), [(A, [b"x"])]) == [b"x"]


def test_keys_that_are_apart_are_waited_for() -> None:
    """TRYAGAIN: one key of a script is here and one there."""
    answers = [
        (A, [error("TRYAGAIN ...")]),
        (0.02, ()),
        (A, [error("ASK 1 c:3")]),
        (C, [b"OK", error("TRYAGAIN ...")]),
        (0.04, ()),
        (A, [b"x"]),
    ]
    assert follow(known().errands([of_slot(0, 5_000)]), answers) == [b"x"]


def test_a_node_that_cannot_be_reached_is_asked_last() -> None:
    """Its error goes to the caller. The next command asks the others who has its place; if none knows, the server of the URL."""
    cluster, command, gone = known(), of_slot(0, 5_000), StoreUnavailable("gone")
    with pytest.raises(StoreUnavailable, match="gone"):
        follow(cluster.errands([command]), [(A, gone)])
    replaced = [[0, 5_000, [b"r", 9, b"id"]], *THREE[1:]]
    assert follow(cluster.errands([command]), [(B, gone), (C, [replaced]), (Node("r", 9), [b"x"])]) == [b"x"]
    with pytest.raises(StoreUnavailable, match="gone"):
        follow(cluster.errands([command]), [(Node("r", 9), gone)])
    with pytest.raises(StoreUnavailable, match="one"):
        follow(
            cluster.errands([command]),
            [(node, StoreUnavailable(why)) for node, why in ((B, "one"), (C, "two"), (Node("r", 9), "three"), (None, "four"))],
        )


def test_each_who_is_asked_the_way_has_its_share_of_the_time() -> None:
    """Otherwise one that is frozen would take all of it."""
    cluster = known()
    cluster.doubt(B)
    errands = cluster.errands([of_slot(0, 5_000)])
    shares: list[float] = []
    errand = next(errands)
    for _ in range(3):
        assert isinstance(errand, Parcel)
        shares.append(errand.share)
        errand = errands.throw(StoreUnavailable("frozen"))
    assert isinstance(errand, Parcel)
    assert (*shares, errand.share) == (1 / 4, 1 / 3, 1 / 2, 1)


@pytest.mark.parametrize(
    ("said", "doubted"),
    [("X refused open: OOM command not allowed", False), ("X refused open: CLUSTERDOWN Hash slot not served", True)],
)
def test_a_refusal_of_another_kind_is_raised(said: str, doubted: bool) -> None:
    """Only where it says that the slot is not this node's now, the next command asks the way first."""
    cluster, command = known(), of_slot(0, 5_000)
    with pytest.raises(StoreUnavailable, match=said):
        follow(cluster.errands([command]), [(A, gone(said))])
    assert follow(cluster.errands([command]), [*([(B, [THREE])] if doubted else []), (A, [b"x"])]) == [b"x"]


def test_of_several_commands_those_stand_that_were_done() -> None:
    """What one node has done for a sweep cannot be done once more, whatever another one says; so for keys that stay apart."""
    commands = [of_slot(0, 5_000), of_slot(5_001, 10_000), of_slot(10_001, 16_383)]
    lost, apart = gone(), gone("apart")
    answers = [(A, [b"x"]), (B, lost), (C, [error("TRYAGAIN ...")]), (0.02, apart)]
    assert follow(known().errands(commands), answers) == [b"x", Missing(lost), Missing(apart)]


def test_a_reply_is_kept_whatever_comes_of_the_one_before() -> None:
    """Where one reply sends on to a node that is gone, and where the way cannot be asked any more for what is to be repeated."""
    first, second = of_slot(0, 5_000), of_slot(5_001, 10_000)
    lost, nobody = gone(), gone("nobody knows")
    assert follow(known().errands([first, first]), [(A, [error("ASK 1 b:2"), b"x"]), (B, lost)]) == [Missing(lost), b"x"]
    errands = known().errands([first, second, first])
    answers = [(A, [b"x", error("ASK 1 c:3")]), (B, [error("TRYAGAIN ...")]), (C, lost), (0.02, ())]
    unknown = [(node, nobody) for node in (B, C, A, None)]
    assert follow(errands, [*answers, *unknown]) == [b"x", Missing(nobody), Missing(lost)]


def test_the_parts_of_a_sweep_that_are_there_are_given_out(caplog: pytest.LogCaptureFixture) -> None:
    """The rest is logged; nothing at all is an error. A listing is whole, or none."""
    verbs, record = Verbs("RedisStore", "app", 1_000, 10), new()
    sweep = verbs.sweep(NOW, 10, 60.0, 60.0)
    bucket, member = record.locator[0], record.locator.hex().encode()
    next(sweep)
    sweep.send([[member] if number == bucket else Missing(gone()) for number in range(256)])
    with pytest.raises(StopIteration) as stop:
        sweep.send([[0, record.pack()]])
    assert [found.locator for found in stop.value.value[0]] == [record.locator]
    assert "255 of 256 parts of a sweep could not be done: gone" in caplog.text
    for trips in (verbs.sweep(NOW, 10, 60.0, 60.0), verbs.scan(None, 10)):
        next(trips)
        with pytest.raises(StoreUnavailable, match="gone"):
            trips.send([Missing(gone())] * 256)


def test_seeds_are_asked_where_nothing_is_known_yet() -> None:
    """What a client of the user's knows; and an address that is another one from here is taken for the one that it is."""
    cluster = Cluster("home", [A, B], lambda place: (f"{place[0]}.near", place[1]))
    near = Node("a.near", 1)
    assert follow(cluster.errands([of_slot(0, 5_000)]), [(A, gone()), (B, [THREE]), (near, [b"x"])]) == [b"x"]


def test_a_node_that_has_a_name_and_tells_none_is_called_by_its_address() -> None:
    """`?`: it was told to give a name, and has none (Redis 7); its address stands beside."""
    slots = [[0, 16_383, [b"?", 7, b"id", [b"ip", b"10.0.0.7"]]]]
    assert follow(Cluster("home").errands([of_slot(0, 5_000)]), [(None, [slots]), (Node("10.0.0.7", 7), [b"x"])]) == [b"x"]


@pytest.mark.parametrize("kind", FACES)
def test_a_unix_socket_leads_to_no_other_node(servers: RedisClusterServers, kind: str, name: Key[str]) -> None:
    """The error says what to give instead."""
    made: Any = RedisStore if kind == "sync" else AsyncRedisStore
    said = r"cannot be reached: a Unix socket leads to one node of the cluster only; give a URL that begins with redis://; nothing was sent"
    with (
        closing(Face(kind, made(f"unix://{servers.masters[0].folder}/redis.sock", prefix="by socket"))) as face,
        pytest.raises(StoreUnavailable, match=said),
    ):
        _signs_in(face, name, 50)


def _signs_in(face: Face, name: Key[str], times: int) -> None:
    for _ in range(times):
        signed_in(face, name)


@pytest.mark.parametrize("host", [None, b""])
def test_a_node_without_a_name_is_the_one_that_was_asked(host: bytes | None) -> None:
    """As CLUSTER SLOTS and MOVED have it where a node does not know its own address."""
    cluster, command = Cluster("home"), of_slot(0, 5_000)
    answers: Any = [(None, [[[0, 16_383, [host, 7, b"id"]]]]), (Node("home", 7), [error("MOVED 1 :8")]), (Node("home", 8), [b"x"])]
    assert follow(cluster.errands([command]), answers) == [b"x"]
