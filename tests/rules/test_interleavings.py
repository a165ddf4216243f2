"""Rules 7 to 9, R1 to R3: every order of the store calls of two requests (and of some three), and of their answers on the way back."""

from __future__ import annotations

import itertools

import pytest

from tests.invariants import Keys, check_all, declare, endings, scripts_for
from tests.stage import Script, Stage, play_all
from typed_sessions import CookiePolicy, Key
from typed_sessions.conformance.orders import Choose, every_order
from typed_sessions.testing import isolated_keys

pytestmark = pytest.mark.slow

KINDS = ("sync", "async")

with isolated_keys():
    NAMES = list(scripts_for(declare()))

TRIPLES = [
    *itertools.combinations_with_replacement(["count", "sign in", "end", "roam"], 3),
    *((name,) * 3 for name in ("append", "both", "merge", "in place", "write one")),
    ("renew", "renew", "read"),
    ("rotate", "rotate", "rotate"),
    ("rotate", "read", "end"),
    ("sign in", "rotate", "write two"),
    ("sign out", "sign in", "read"),
    ("end by handle", "rotate", "append"),
    ("expire", "count", "roam"),
    ("renew", "forge", "roam"),
]


@pytest.fixture
def keys() -> Keys:
    return declare()


def test_every_order_is_enumerated_once() -> None:
    """The enumeration goes through every branch, also where there are more choices in one than in another."""
    found: list[tuple[int, ...]] = []

    def play(choose: Choose) -> None:
        first = choose(2)
        found.append((first, choose(3), choose(1)) if first else (first,))

    assert every_order(play) == 4
    assert found == [(0,), (1, 0, 0), (1, 1, 0), (1, 2, 0)]


@pytest.mark.parametrize("kind", KINDS)
def test_the_orders_of_two_requests_are_as_many_as_can_be_counted(kind: str, keys: Keys) -> None:
    """Two requests of two calls each: 4!/(2!·2!) orders if both are under way, and one for each that is sent first and alone."""
    scripts = scripts_for(keys)
    seen: list[tuple[str, ...]] = []

    def look(stage: Stage) -> None:
        seen.append(tuple(f"{call.request} {call.verb}" for call in stage.log))

    assert play_all(look, kind, [scripts["write one"], scripts["write two"]], keys.prepare) == 6 + 2
    one, two = (tuple(f"{name} {verb}" for verb in ("open", "commit")) for name in ("write one 0", "write two 1"))
    in_order = [
        calls
        for calls in itertools.permutations((*one, *two))
        if calls.index(one[0]) < calls.index(one[1]) and calls.index(two[0]) < calls.index(two[1])
    ]
    assert set(seen) == set(in_order)


@pytest.mark.parametrize("kind", KINDS)
def test_the_orders_of_two_answers_are_played_too(kind: str, keys: Keys) -> None:
    """Two new sessions: both orders of creation with both orders of arrival, and each request alone before the other is sent."""
    scripts = scripts_for(keys)
    seen: list[tuple[str, ...]] = []

    def look(stage: Stage) -> None:
        created = [f"{call.request} created" for call in stage.log if call.verb == "create"]
        seen.append((*created, *(f"{request} arrived" for request in stage.arrivals)))

    play_all(look, kind, [scripts["write one"], scripts["write two"]], None)
    names = ["write one 0", "write two 1"]
    both = itertools.product(
        itertools.permutations(f"{name} created" for name in names), itertools.permutations(f"{name} arrived" for name in names)
    )
    alone = [(f"{name} created", f"{name} arrived") for name in names]
    assert set(seen) == {*(created + arrived for created, arrived in both), *alone}


@pytest.mark.parametrize("first", NAMES)
@pytest.mark.parametrize(("kind", "processes"), [("sync", 1), ("async", 1), ("async", 2)])
def test_every_order_of_two_requests(kind: str, first: str, processes: int, keys: Keys) -> None:
    """Of a browser with a live session: what was committed is there, what has ended is gone, one secret opens it, the browser has it."""
    scripts = scripts_for(keys)
    for second in NAMES[NAMES.index(first) :]:
        play_all(check_all(keys), kind, [scripts[first], scripts[second]], keys.prepare, processes=processes)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("first", [name for name in NAMES if name != "forge"])
@pytest.mark.parametrize("dead", [False, True], ids=["no cookie", "a dead cookie"])
def test_every_order_of_two_requests_that_find_no_session(kind: str, first: str, dead: bool, keys: Keys) -> None:
    """Each that writes begins a session of its own, whole and unmixed; an ended one is never adopted (I5)."""
    scripts = scripts_for(keys)
    for second in NAMES[NAMES.index(first) :]:
        if second != "forge":
            play_all(check_all(keys), kind, [scripts[first], scripts[second]], keys.prepare if dead else None, dead=dead)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("first", NAMES)
def test_every_order_of_two_requests_with_a_lasting_cookie(kind: str, first: str, keys: Keys) -> None:
    """With a Max-Age, after an idle minute: uses are written and cookies sent again, by nobody who knows of a newer one (rules 12, 23)."""
    scripts = scripts_for(keys)
    policy = CookiePolicy(max_age=3600)
    for second in NAMES[NAMES.index(first) :]:
        play_all(check_all(keys), kind, [scripts[first], scripts[second]], keys.prepare, cookie_policy=policy, lead=61)


@pytest.mark.parametrize("names", TRIPLES, ids=" + ".join)
def test_every_order_of_three_requests(names: tuple[str, str, str], keys: Keys) -> None:
    """The same for three, on the asynchronous manager: the threads of the other take the same steps, and longer."""
    scripts = scripts_for(keys)
    play_all(check_all(keys), "async", [scripts[name] for name in names], keys.prepare)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["end", "sign out", "end by handle", "expire"])
def test_every_order_of_an_end_and_a_value_of_this_process(kind: str, how: str, keys: Keys) -> None:
    """A resident value that was committed gets its hook once, and none is left, also if the end comes between the two (rule 13)."""
    cleaned: list[str] = []
    resident = Key("resident", str, resident=True, cleanup_delete=cleaned.append)
    scripts = scripts_for(keys)
    hold = Script("hold", lambda session, token: session.__setitem__(resident, token))

    def check(stage: Stage) -> None:
        locator = bytes.fromhex(stage.handle)
        if endings(stage, locator):
            committed = [
                call for call in stage.log if call.verb == "commit" and call.result.status == "committed" and call.args[0] == locator
            ]
            assert cleaned == ["hold 0"] * len(committed)
            assert dict(stage.managers[0].core.residents.of(locator)) == {}
        cleaned.clear()

    orders = play_all(check, kind, [hold, scripts[how]], keys.prepare, stop_after=True)
    assert orders >= 18
