"""Codecs and bytes: hostile ones are refused and nothing worse, and drawn values of drawn types come back as what they were."""

from __future__ import annotations

import datetime as dt
import uuid
from decimal import Decimal
from typing import Any, Final, Literal, Optional

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.shapes import TAKEN, Age, Box, Cart, Cat, Colour, Dog, Frozen, Owner, Pair, Picky, Point, Profile, Tree, of, raw, typed
from typed_sessions.codecs import DecodeRefused, TypedCodec

# -- hostile bytes -----------------------------------------------------------------------------------------------------------------------

HOSTILE: Final[list[tuple[object, bytes]]] = [
    (int, b""),
    (int, b"\xc1"),
    (int, b"\x01\x01"),
    (int, raw("1")),
    (int, raw(1.0)),
    (int, b"\xcf\xff"),
    (str, b"\xdb\xff\xff\xff\xff"),
    (str, b"\xa1\xff"),
    (str, b"\xa3\xed\xa0\x80"),
    (bytes, b"\xc6\xff\xff\xff\xff"),
    (list[int], b"\xdd\xff\xff\xff\xff"),
    (list[list[int]], b"\xdd\xff\xff\xff\xff" * 1000),
    (Any, b"\xdd\xff\xff\xff\xff" * 1000),
    (Any, b"\xdf\xff\xff\xff\xff"),
    (Any, b"\x91" * 1_000_000),
    (Any, b"\x81\xa1a" * 1_000_000),
    (Any, b"\x81\x81\x01\x01\x01"),
    (Tree, b"\x82\xa4name\xa1a\xa8children\x91" * 100_000),
    (Owner, b"\x82\xa4name\xa1a\xa4boss" * 100_000),
    (dict[tuple[Any, ...], int], b"\x81\x91\x90\x01\x01"),
    (frozenset[tuple[Any, ...]], b"\x91\x91\x80"),
    (dt.datetime, b"\xd7\xff" + b"\xff" * 8),
    (dt.datetime, raw("0000-01-01T00:00:00")),
    (dt.timedelta, raw("P9999999999999999D")),
    (Decimal, raw("1e")),
    (Colour, raw("green")),
    (Age, raw(-1)),
    (Cart, raw({"items": [1]})),
    (Picky, raw({"number": 1})),
    (Picky, raw({"number": 2})),
    (Picky, raw({"number": 3})),
    (Cat | Dog, raw({"type": "Cow"})),
]


@pytest.mark.parametrize(("form", "data"), HOSTILE, ids=[f"{form}-{number}" for number, (form, _) in enumerate(HOSTILE)])
def test_hostile_bytes_are_refused(form: object, data: bytes) -> None:
    """Wrong types, malformed, truncated, absurdly long, deeply nested: DecodeRefused, at once, whose cause tells more."""
    codec = typed(form)
    with pytest.raises(DecodeRefused) as caught:
        codec.decode(data)
    assert caught.value.__cause__ is not None
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x91" * 1_000_000, b"\xdd\xff\xff\xff\xff", b"\xa1\xff", b"\x81\x81\x01\x01\x01"])
def test_builtins_refuses_hostile_bytes(data: bytes) -> None:
    """An `upgrade` function never sees them."""
    with pytest.raises(DecodeRefused):
        TypedCodec(int).builtins(data)


@pytest.mark.parametrize(
    ("form", "value", "text"),
    [
        (Literal["a", "b"], "a secret", "Invalid enum value"),
        (Literal["a", "b"], "secret - at `$.here`", "Invalid enum value"),
        (Literal["a", "b"], "a secret\n" * 1000, "Invalid enum value"),
        (Colour, "a secret", "Invalid enum value"),
        (list[Colour], ["secret - at `$`"], "Invalid enum value - at `$[0]`"),
        (dict[Literal["a"], int], {"secret": 1}, "Invalid enum value - at `key` in `$`"),
        (Cat | Dog, {"type": "a secret"}, "Invalid value - at `$.type`"),
    ],
)
def test_a_refusal_does_not_quote_the_value(form: object, value: object, text: str) -> None:
    """It is logged: what a visitor has once written, and the type has no room for, does not belong there."""
    with pytest.raises(DecodeRefused) as caught:
        typed(form).decode(raw(value))
    assert str(caught.value).endswith(f": {text}")


def test_builtins_are_what_the_bytes_hold() -> None:
    """An older version of a class arrives as a dictionary."""
    codec = TypedCodec(Cart)
    assert codec.builtins(codec.accept(Cart(["a"]))) == {"items": ["a"], "note": None}
    assert codec.builtins(raw([1, "old"])) == [1, "old"]


def test_a_decoded_value_does_not_hold_on_to_the_message() -> None:
    """Bytes are copied out of the buffer, which may be one record's, or be written over."""
    codec = TypedCodec(list[bytes])
    buffer = bytearray(codec.accept([b"abc" * 50]))
    value = codec.decode(memoryview(buffer))
    buffer[:] = bytes(len(buffer))
    assert value == [b"abc" * 50]
    buffer.clear()  # raises BufferError if anything still looks at it


@given(st.sampled_from(TAKEN), st.binary(max_size=200))
def test_random_bytes_are_refused_or_are_a_t(taken: tuple[object, object, bool], data: bytes) -> None:
    """Whatever decodes can also be assigned: nothing leaves `decode` that is not a T."""
    _refused_or_good(taken[0], data)


@given(st.sampled_from(TAKEN), st.data())
def test_tampered_bytes_are_refused_or_are_a_t(taken: tuple[object, object, bool], data: st.DataObject) -> None:
    """The same for the bytes of a good value with some of them replaced, cut off, or put in twice."""
    form, value, _ = taken
    good = bytearray(typed(form).accept(value))
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(good)))
        end = data.draw(st.integers(start, len(good)))
        good[start:end] = data.draw(st.binary(max_size=6) | st.just(bytes(good)))
    _refused_or_good(form, bytes(good))


def _refused_or_good(form: object, data: bytes) -> None:
    codec = typed(form)
    try:
        value = codec.decode(data)
    except DecodeRefused:
        return
    codec.accept(value)


# -- round trips over a grammar of types -------------------------------------------------------------------------------------------------

Typed = tuple[object, st.SearchStrategy[Any]]

_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
_utc = st.just(dt.timezone.utc)
KEYS: Final[list[Typed]] = [
    (int, st.integers(-(2**63), 2**64 - 1)),
    (str, _text),
    (bytes, st.binary(max_size=8)),
    (bool, st.booleans()),
    (float, st.floats(allow_nan=False)),
    (dt.datetime, st.datetimes() | st.datetimes(timezones=_utc)),
    (dt.date, st.dates()),
    (dt.time, st.times()),
    (dt.timedelta, st.timedeltas()),
    (uuid.UUID, st.uuids()),
    (Decimal, st.decimals(allow_nan=False)),
    (Colour, st.sampled_from(Colour)),
    (Literal["x", "y"], st.sampled_from(["x", "y"])),
    (Pair, st.builds(Pair, st.integers(-9, 9), _text)),
]
HASHABLE: Final[list[Typed]] = [
    *KEYS,
    (Point, st.builds(Point, st.integers(-9, 9), st.floats(allow_nan=False))),
    (Frozen, st.builds(Frozen, st.integers(-9, 9), st.lists(_text).map(tuple))),
]
OTHERS: Final[list[Typed]] = [
    (None, st.none()),
    (Cart, st.builds(Cart, st.lists(_text), st.none() | _text)),
    (Cat | Dog, st.builds(Cat, st.integers(0, 9)) | st.builds(Dog, st.lists(_text))),
    (Profile, st.fixed_dictionaries({"name": _text, "tags": st.lists(_text)})),
    (dict[str, Any], st.dictionaries(_text, st.recursive(st.none() | st.integers(0, 9) | _text, st.lists), max_size=3)),
]


def _around(inner: st.SearchStrategy[Typed]) -> st.SearchStrategy[Typed]:
    def lists(one: Typed) -> Typed:
        return of(list, one[0]), st.lists(one[1], max_size=3)

    def tuples(one: Typed) -> Typed:
        return of(tuple, one[0], ...), st.lists(one[1], max_size=3).map(tuple)

    def optional(one: Typed) -> Typed:
        return of(Optional, one[0]), st.none() | one[1]

    def boxes(one: Typed) -> Typed:
        return of(Box, one[0]), one[1].map(Box[Any])

    def pairs(one: Typed, other: Typed) -> Typed:
        return of(tuple, one[0], other[0]), st.tuples(one[1], other[1])

    def dicts(one: Typed, other: Typed) -> Typed:
        return of(dict, one[0], other[0]), st.dictionaries(one[1], other[1], max_size=3)

    def sets(one: Typed) -> Typed:
        return of(frozenset, one[0]), st.frozensets(one[1], max_size=3)

    hashable = st.sampled_from(HASHABLE)
    return (
        inner.map(lists)
        | inner.map(tuples)
        | inner.map(optional)
        | inner.map(boxes)
        | st.builds(pairs, inner, inner)
        | st.builds(dicts, st.sampled_from(KEYS), inner)
        | hashable.map(sets)
    )


TYPES: Final = st.recursive(st.sampled_from(HASHABLE + OTHERS), _around, max_leaves=5)


@given(TYPES, st.data())
@settings(deadline=None)
def test_round_trips(form: Typed, data: st.DataObject) -> None:
    """Any value of any type of the grammar comes back equal and of its class, and an unchanged value encodes to the same bytes."""
    value: object = data.draw(form[1])
    codec = typed(form[0])
    encoded = codec.accept(value)
    back = codec.decode(encoded)
    assert back == value
    assert type(back) is type(value)
    assert codec.encode(value) == encoded
    assert codec.decode(codec.accept(back)) == value


@given(TYPES)
@settings(deadline=None)
def test_mutable_is_right_for_any_combination(form: Typed) -> None:
    """A type is mutable if there is a list, a dictionary or a class that is not frozen anywhere in it, and only then."""
    name = str(form[0])
    expected = any(word in name for word in ("list[", "dict[", "Cart", "Cat", "Dog", "Profile", "Box", "Any"))
    assert typed(form[0]).mutable is expected
