"""Rules 7 to 9, R1 to R3: every order of the store calls of two requests (and of some three), and of their answers on the way back."""

from __future__ import annotations

import pytest

from tests.interleave import play_all
from tests.invariants import Keys, check_all, declare, scripts_for

KINDS = ("sync", "async")


@pytest.fixture
def keys() -> Keys:
    return declare()


NAMES = list(scripts_for(declare()))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_every_order_of_two_requests(kind: str, name: str, keys: Keys) -> None:
    scripts = scripts_for(keys)
    total = 0
    for other in NAMES[NAMES.index(name) :]:
        n = play_all(check_all(keys), kind, [scripts[name], scripts[other]], keys.prepare)
        print(name, other, n)
        total += n
    print(total)
