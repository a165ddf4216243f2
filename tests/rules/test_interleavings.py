"""Rules 7 to 9, R1 to R3: every order of the store calls of two requests (and of some three), and of their answers on the way back."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.interleave import Choose, every_order
from tests.invariants import Keys, check_all, declare, scripts_for
from tests.stage import PEER, Script, Stage, play_all
from typed_sessions import (
    AsyncSessionManager,
    Conflict,
    CookiePolicy,
    Key,
    ListKey,
    MemoryStore,
    Request,
    Session,
    SessionManager,
)
from typed_sessions.testing import isolated_keys

KINDS = ("sync", "async")

with isolated_keys():
    NAMES = list(scripts_for(declare()))

TRIPLES = [
    ("count", "count", "count"),
    ("append", "append", "append"),
    ("both", "both", "both"),
    ("merge", "merge", "merge"),
    ("in place", "in place", "in place"),
    ("renew", "renew", "read"),
    ("rotate", "rotate", "read"),
    ("sign in", "rotate", "write two"),
    ("sign in", "end", "write one"),
    ("sign out", "sign in", "read"),
    ("end", "roam", "count"),
    ("end", "end by handle", "append"),
    ("expire", "count", "roam"),
    ("renew", "forge", "roam"),
]


@pytest.fixture
def keys() -> Keys:
    return declare()


def orders(n: int) -> Iterator[tuple[int, ...]]:
    """Every way to choose: one of two, then one of n if the first was 1."""
    found: list[tuple[int, ...]] = []

    def play(choose: Choose) -> None:
        first = choose(2)
        found.append((first, choose(n)) if first else (first,))

    assert every_order(play) == len(found)
    yield from found


def test_every_order_is_enumerated_once() -> None:
    """The enumeration goes through every branch, also where there are more choices in one than in another."""
    assert list(orders(3)) == [(0,), (1, 0), (1, 1), (1, 2)]


@pytest.mark.parametrize("kind", KINDS)
def test_the_orders_of_two_requests_are_as_many_as_can_be_counted(kind: str, keys: Keys) -> None:
    """Two requests of two calls each: 4!/(2!·2!) orders when both are under way, and one for each that is sent first and alone."""
    scripts = scripts_for(keys)
    seen: set[tuple[str, ...]] = set()

    def look(stage: Stage) -> None:
        seen.add(tuple(f"{call.request} {call.verb}" for call in stage.log))

    assert play_all(look, kind, [scripts["write one"], scripts["write two"]], keys.prepare) == 6 + 2
    assert len(seen) == 6
    assert all(len(calls) == 4 for calls in seen)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("first", NAMES)
@pytest.mark.parametrize("processes", [1, 2], ids=["one process", "two processes"])
def test_every_order_of_two_requests(kind: str, first: str, processes: int, keys: Keys) -> None:
    """Of one browser with a live session: what was committed is there, what has ended stays so, one secret opens it, and the browser has it."""
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
    """The same for three, of the asynchronous manager (the threads of the other would take the same steps, and longer)."""
    scripts = scripts_for(keys)
    n=play_all(check_all(keys), "async", [scripts[name] for name in names], keys.prepare)
    print(names, n)
