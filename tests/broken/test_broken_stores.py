"""Proof that the invariants can fail: each broken store is caught by the one that its fault breaks, and a sound one passes them all.

The table says what is played, and how the failure begins: with the rule or check that is broken, and in the words for it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from tests.broken import stores
from tests.invariants import Keys, check_all, declare, scripts_for
from tests.stage import play_all
from typed_sessions.testing import isolated_keys

KINDS = ("sync", "async")

FAULTS: list[tuple[Callable[[], Any], tuple[str, str], str]] = [
    (stores.Upserting, ("write one", "end"), "R1: commit of write one 0 found the session after its end"),
    (stores.Upserting, ("renew", "end by handle"), "R1: commit of renew 0 found the session after its end"),
    (stores.CheckingThenCommitting, ("write one", "end"), "R1: commit of write one 0 found the session after its end"),
    (stores.CheckingThenCommitting, ("write one", "write two"), "7: '.*' is not what was assigned last"),
    (stores.CheckingThenCommitting, ("count", "count"), "7: 2 updates made 1"),
    (stores.CheckingThenEnding, ("end", "end by handle"), "R1: the session was ended twice"),
    (stores.CommittingByHalves, ("both", "both"), "7: half a commit: that of both . was refused, and has changed something"),
    (stores.CommittingUnchecked, ("count", "count"), "7: 2 updates made 1"),
    (stores.CommittingUnchecked, ("merge", "merge"), "7: merged .* there are"),
    (stores.LosingAppends, ("append", "append"), "7: appended .* there are"),
    (stores.RevivingAtTouch, ("roam", "end"), "R1: touch of roam 0 found the session after its end"),
    (stores.CountingAnyUse, ("forge", "read"), "9: open with a wrong secret has changed something"),
    (stores.RenewingUnchecked, ("sign in", "sign in"), "R3: two renewals of one secret have succeeded"),
    (stores.KeepingOldSecrets, ("sign in", "read"), "9: a secret opens the session that was replaced without an overlap"),
]


@pytest.fixture
def keys() -> Keys:
    return declare()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("store", "names", "words"), FAULTS, ids=[f"{store.__name__}: {' + '.join(names)}" for store, names, _ in FAULTS])
def test_the_fault_is_caught(kind: str, store: Callable[[], Any], names: tuple[str, str], words: str, keys: Keys) -> None:
    """In some order of two requests the invariant fails, and for that reason."""
    scripts = [scripts_for(keys)[name] for name in names]
    with pytest.raises(AssertionError) as caught:
        play_all(check_all(keys), kind, scripts, keys.prepare, store=store)
    assert re.match(words, str(caught.value)), str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("names", sorted({names for _, names, _ in FAULTS}), ids=" + ".join)
def test_without_the_fault_it_passes(kind: str, names: tuple[str, str], keys: Keys) -> None:
    """The store that they are all made from keeps every invariant in the same plays: it was the fault, and not something else."""
    scripts = [scripts_for(keys)[name] for name in names]
    assert play_all(check_all(keys), kind, scripts, keys.prepare, store=stores.Sound) > 1


with isolated_keys():
    NAMES = list(scripts_for(declare()))


HIDDEN = sorted(
    {store for store, _, _ in FAULTS} - {stores.CountingAnyUse, stores.KeepingOldSecrets},  # which show in a single request
    key=lambda store: store.__name__,
)


@pytest.mark.parametrize("store", HIDDEN, ids=lambda store: store.__name__)
def test_one_request_after_the_other_shows_nothing(store: Callable[[], Any], keys: Keys) -> None:
    """Most of these faults pass every test of one request at a time: it takes the orders to see them."""
    for name in NAMES:
        play_all(check_all(keys), "async", [scripts_for(keys)[name]], keys.prepare, store=store)
