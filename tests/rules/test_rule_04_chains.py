"""Rule 4 with `Upgrades`: a chain of typed functions, each from one version to the next."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest

from tests.faces import Browser, Face
from tests.planting import heard, pack, plant
from typed_sessions import Downgrade, DuplicateKeyError, Key, KeyTypeError, Upgrades, ValueRefused
from typed_sessions.testing import isolated_keys


@dataclass
class CartV1:
    names: list[str]


@dataclass
class CartV2:
    counts: dict[str, int]


@dataclass
class Cart:
    counts: dict[str, int]
    voucher: str | None


steps: list[str] = []


def to_2(old: CartV1) -> CartV2:
    steps.append("1 to 2")
    return CartV2({name: old.names.count(name) for name in old.names})


def to_3(old: CartV2) -> Cart:
    steps.append("2 to 3")
    return Cart(old.counts, None)


@pytest.fixture
def browser(face: Face) -> Browser:
    browser = face.browser()
    with browser.visit() as session:
        session[Key("user", str)] = "ann"
    steps.clear()
    return browser


def planted(browser: Browser, payload: bytes, version: int) -> None:
    with browser.visit() as session:
        handle = session.handle
    plant(browser.face, handle, "cart", payload, version=version)


STORED: list[tuple[int, bytes, list[str]]] = [
    (1, pack({"names": ["pen", "pen"]}), ["1 to 2", "2 to 3"]),
    (2, pack({"counts": {"pen": 2}}), ["2 to 3"]),
    (3, pack({"counts": {"pen": 2}, "voucher": None}), []),
]


@pytest.mark.parametrize(("version", "payload", "ran"), STORED, ids=["1", "2", "3"])
def test_rule_04_a_value_goes_through_the_steps_that_it_needs(browser: Browser, version: int, payload: bytes, ran: list[str]) -> None:
    """Each step gets an instance of the type that it says it takes."""
    cart = Key("cart", Cart, version=3, upgrade=Upgrades(CartV1, to_2).then(CartV2, to_3))
    planted(browser, payload, version)
    with browser.visit() as session:
        assert session[cart] == Cart({"pen": 2}, None)
    # A mutable value is laid beside a fresh decode at the commit (rule 5): steps may run more than once.
    assert steps[: len(ran)] == ran
    assert set(steps) == set(ran)


def test_rule_04_a_chain_may_begin_later(browser: Browser) -> None:
    """Once no session of the oldest versions is left, their types and functions can go: what is older is refused."""
    cart = Key("cart", Cart, version=3, upgrade=Upgrades(CartV2, to_3, version=2))
    refused = heard(browser.face, ValueRefused)
    planted(browser, STORED[1][1], 2)
    with browser.visit() as session:
        assert session[cart] == Cart({"pen": 2}, None)
    planted(browser, STORED[0][1], 1)
    with browser.visit() as session:
        assert cart not in session
    assert ["version 1" in event.why and "begin with version 2" in event.why for event in refused] == [True]


def raises(old: CartV1) -> Cart:
    raise ZeroDivisionError


def gives_another(old: CartV1) -> Any:
    return CartV2({})


@pytest.mark.parametrize("step", [raises, gives_another])
def test_rule_04_a_step_that_goes_wrong_has_the_value_refused(browser: Browser, step: Any) -> None:
    """Raising, or giving what the key is not for: absent, reported, and the bytes stay."""
    cart = Key("cart", Cart, version=2, upgrade=Upgrades(CartV1, step))
    refused = heard(browser.face, ValueRefused)
    planted(browser, STORED[0][1], 1)
    for _ in range(2):
        with browser.visit() as session:
            assert cart not in session
    assert ["version 1" in event.why for event in refused] == [True, True]


def test_rule_04_an_old_value_that_is_not_of_its_versions_type_is_refused(browser: Browser) -> None:
    """A step never gets anything but the type that it takes."""
    cart = Key("cart", Cart, version=3, upgrade=Upgrades(CartV1, to_2).then(CartV2, to_3))
    refused = heard(browser.face, ValueRefused)
    for payload in (pack(7), pack({"names": [1]}), pack({}), b"\xc1"):
        planted(browser, payload, 1)
        with browser.visit() as session:
            assert cart not in session
    assert len(refused) == 4
    assert steps == []


def test_rule_04_a_hooked_key_may_become_a_typed_one_and_back(browser: Browser) -> None:
    """`load=` reads what the hooks of that version have stored."""

    def load(data: bytes) -> dict[str, int]:
        counts: dict[str, int] = json.loads(data)
        return counts

    def save(cart: dict[str, int]) -> bytes:
        return json.dumps(cart).encode()

    with isolated_keys():
        hooked = Key("cart", save=save, load=load)
    with isolated_keys():
        typed = Key("cart", CartV2, version=2, upgrade=Upgrades(CartV2, load=load))
    with isolated_keys():
        again = Key("cart", save=save, load=load, version=3, upgrade=Upgrades(CartV2, load=load).then(CartV2, lambda cart: cart.counts))
    with browser.visit() as session:
        session[hooked] = {"pen": 1}
    with browser.visit() as session:
        assert session[again] == {"pen": 1}
    with browser.visit() as session:
        session[typed].counts["ink"] = 2
    with browser.visit() as session:
        assert session[again] == {"pen": 1, "ink": 2}


def test_rule_04_a_chain_that_leads_elsewhere_is_refused() -> None:
    """The number of steps and the key's version belong together."""
    chain = Upgrades(CartV1, to_2).then(CartV2, to_3)
    assert (chain.first, chain.version) == (1, 3)
    for version in (1, 2, 4):
        with pytest.raises(KeyTypeError, match=r"leads to version 3: give version=3"):
            Key("cart", Cart, version=version, upgrade=chain)


async def later(old: CartV1) -> Cart:
    return Cart({}, None)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: Upgrades(CartV1, None), "from version 1: a step is a function"),  # type: ignore[call-overload]
        (lambda: Upgrades(CartV1, later), "from version 1.*plain function"),
        (lambda: Upgrades(object(), to_2), "from version 1"),  # type: ignore[call-overload]
        (lambda: Upgrades(CartV1, to_2).then(Any, 5), "from version 2: a step is a function"),  # type: ignore[call-overload]
        (lambda: Upgrades(CartV1, to_2, load=bytes.decode), "not both"),  # type: ignore[call-overload]
        (lambda: Upgrades(CartV1, to_2, version=0), "number of the oldest version"),
        (lambda: Downgrade(Cart, later), "plain function"),  # type: ignore[arg-type]
        (lambda: Downgrade[Cart](CartV1, lambda cart: CartV1([]), version=0), "number of the older version"),
        (lambda: Downgrade(str, str, save=str.encode), "not both"),  # type: ignore[call-overload]
    ],
)
def test_rule_04_a_chain_that_cannot_work_is_refused(make: Any, why: str) -> None:
    """Where it is made; the message names the place and the version."""
    with pytest.raises(KeyTypeError, match=why) as raised:
        make()
    assert f"{__file__}:" in str(raised.value)


def test_rule_04_two_chains_are_two_declarations() -> None:
    """The names of the steps belong to what a key is declared as (rule 2)."""
    Key("cart", Cart, version=3, upgrade=Upgrades(CartV1, to_2).then(CartV2, to_3))
    Key("cart", Cart, version=3, upgrade=Upgrades(CartV1, to_2).then(CartV2, to_3))
    with pytest.raises(DuplicateKeyError):
        Key("cart", Cart, version=3, upgrade=Upgrades(CartV2, to_3, version=2))


def test_rule_04_a_chain_says_where_it_is_from() -> None:
    """Its `repr` names versions and place, for messages."""
    assert repr(Upgrades(CartV1, to_2).then(CartV2, to_3)).startswith(f"<Upgrades from version 1 to 3 declared at {__file__}:")
    back = Downgrade[Cart](CartV2, lambda cart: CartV2(cart.counts), version=2)
    assert repr(back).startswith(f"<Downgrade to version 2 declared at {__file__}:")
