"""What a checker infers is what arrives: any value of any type, on every store, sealed or not, through snapshots; and nothing else ever.

DRAWN_TYPES=100000 is the long run.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, get_origin

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from tests.faces import SERVED, STORES, Face
from tests.grammar import TYPES, TYPES_NOT_CARRIED, Drawn, spelled
from tests.planting import commit
from tests.watched import Watched
from typed_sessions import Key, KeyTypeError, MemoryStore, SealingKeys
from typed_sessions.changes import Changes, Write
from typed_sessions.codecs import TypedCodec
from typed_sessions.record import FIELD_SEALED
from typed_sessions.testing import isolated_keys

DRAWN = int(os.environ.get("DRAWN_TYPES", "150"))
drawing = settings(
    max_examples=DRAWN, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)

SEAL = SealingKeys.generate()


class Place(NamedTuple):
    """A manager over a store; `watched` counts the calls."""

    face: Face
    watched: Watched
    seal: SealingKeys | None


@pytest.fixture
def places(request: pytest.FixtureRequest) -> Iterator[list[Place]]:
    """Each store, with sealed values and with plain ones."""
    made: list[Place] = []
    for name, make in STORES.items():
        served = (request.getfixturevalue(f"{name}_server"), "sync") if name in SERVED else ()
        for seal in (None, SEAL):
            watched = Watched(make(*served))
            made.append(Place(Face("sync", watched, seal=seal), watched, seal))
    yield made
    for place in made:
        place.face.close()
        place.watched.store.close()


def declared(drawn: Drawn) -> Key[Any] | None:
    """The key, or None for a union that nobody could tell the members of apart: that is said where it is declared."""
    try:
        return Key("drawn", drawn.form)
    except KeyTypeError as problem:
        why = str(problem)
    assert "cannot be carried" in why
    assert "union" in why
    event("refused at the declaration")
    return None


@given(TYPES, TYPES, st.data())
@drawing
def drawn_values_are_true(places: list[Place], folder: Path, drawn: Drawn, other: Drawn, data: st.DataObject) -> None:
    with isolated_keys():
        key = declared(drawn)
        if key is None:
            return
        value, stranger = data.draw(drawn.values, "value"), data.draw(other.values, "value of another type")
        assert drawn.holds(value)
        for place in places:
            in_a_store(place, drawn, key, value)
            written_by_another_type(place, drawn, other, key, stranger)
        through_a_snapshot(folder, drawn, key, value)


def in_a_store(place: Place, drawn: Drawn, key: Key[Any], value: Any) -> None:
    """Equal, of the same classes throughout; and whoever reads it has changed nothing."""
    browser = place.face.browser()
    with browser.visit() as session:
        session[key] = value
    commits = place.watched.calls["commit"]
    with browser.visit() as session:
        found = session[key]
        assert spelled(found) == spelled(value)
        assert drawn.holds(found)
    assert place.watched.calls["commit"] == commits
    with browser.visit() as session:
        session.end()


def written_by_another_type(place: Place, drawn: Drawn, other: Drawn, key: Key[Any], stranger: Any) -> None:
    """Assigned it is refused, or is a value of the key's type as well; in the store it is absent, or one of the key's type."""
    try:
        payload = TypedCodec(other.form).accept(stranger)
    except KeyTypeError:  # a union whose members cannot be told apart
        return
    browser = place.face.browser()
    with browser.visit() as session:
        session[Key("user", str)] = "ann"
        try:
            session[key] = stranger
        except KeyTypeError:
            assert not drawn.holds(stranger)
            assert key not in session
    with browser.visit() as session:
        handle = session.handle
        if key in session:
            event("a value of both types")
            assert drawn.holds(session[key])
            assert spelled(session[key], allowing=True) == spelled(stranger, allowing=True)
    locator = bytes.fromhex(handle)
    write = Write(payload) if place.seal is None else Write(place.seal.seal(locator, key.name, payload), 1, FIELD_SEALED)
    commit(place.face, handle, Changes({key.name: write}))
    with browser.visit() as session:
        assert key not in session or drawn.holds(session[key])
        session.end()


def through_a_snapshot(folder: Path, drawn: Drawn, key: Key[Any], value: Any) -> None:
    """What a later process loads is what was saved, sealed or not."""
    for seal in (None, SEAL):
        before, after = (Face("sync", MemoryStore(), seal=seal) for _ in range(2))
        browser = before.browser()
        with browser.visit() as session:
            session[key] = value
        file = folder / ("plain" if seal is None else "sealed")
        before.manager.save_sessions(file)
        assert after.manager.load_sessions(file) == 1
        browser.face = after
        with browser.visit() as session:
            assert spelled(session[key]) == spelled(value)


def test_drawn_values_of_drawn_types_are_true(places: list[Place], tmp_path: Path) -> None:
    """A type is drawn, a value of it and a value of another: the first comes back as it was, the second is never taken for the first."""
    drawn_values_are_true(places, tmp_path)


@given(TYPES_NOT_CARRIED)
@drawing
def test_what_cannot_be_carried_is_refused_at_the_declaration(drawn: tuple[Any, Drawn]) -> None:
    """Wherever it is inside of a type: the message names it."""
    bad, around = drawn
    name = getattr(get_origin(bad) or bad, "__qualname__", str(bad))
    with isolated_keys(), pytest.raises(KeyTypeError) as refused:
        Key("drawn", around.form)
    assert "cannot be carried" in str(refused.value)
    assert name in str(refused.value)
