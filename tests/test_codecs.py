"""Codecs: what comes back is a T of the same kind, mistakes are found at the assignment, hostile bytes are refused and nothing worse."""

from __future__ import annotations

import collections
import datetime as dt
import math
import socket
import sys
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, Final, Literal, Optional, cast

import attrs
import msgspec
import pytest

from tests.shapes import (
    TAKEN,
    Age,
    Annotated_,
    BadTree,
    Bound,
    Box,
    Cached,
    Cart,
    Cat,
    Colour,
    Documented,
    Dog,
    Extended,
    Frozen,
    GiftCart,
    Level,
    Loose,
    Markup,
    Mixed,
    Name,
    Owned,
    Pair,
    Picky,
    Plain,
    Point,
    Profile,
    T,
    Tree,
    Unresolved,
    UserId,
    WithInitVar,
    nested,
    of,
    raw,
    typed,
)
from typed_sessions.codecs import Codec, HookedCodec, TypedCodec
from typed_sessions.errors import KeyTypeError


def test_both_kinds_are_codecs() -> None:
    """A type checker agrees that both classes are what a key needs, and infers T from a type form."""
    codecs: list[Codec[int]] = [TypedCodec(int), HookedCodec(lambda n: b"%d" % n, int)]
    assert [codec.decode(codec.accept(7)) for codec in codecs] == [7, 7]
    optional: TypedCodec[int | None] = TypedCodec(int | None)
    assert optional.decode(optional.accept(None)) is None


# -- what types are taken ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("form", "value", "mutable"), TAKEN, ids=[str(form) for form, _, _ in TAKEN])
def test_a_value_comes_back_as_what_it_was(form: object, value: object, mutable: bool) -> None:
    """For each type: the value returns equal and of its class, from bytes and from a view of them, and `mutable` is right."""
    codec = typed(form)
    data = codec.accept(value)
    assert data == codec.encode(value)
    for source in (data, memoryview(bytearray(data))):
        back = codec.decode(source)
        assert back == value
        assert type(back) is type(value)
    assert codec.mutable is mutable
    codec.builtins(data)


def test_nan_is_a_float() -> None:
    """NaN is carried, though it is not equal to itself."""
    codec = TypedCodec(float)
    assert math.isnan(codec.decode(codec.accept(math.nan)))


@pytest.mark.parametrize(("form", "exact"), [(int, int), (str, str), (bytes, bytes), (float, float), (bool, bool), (UserId, int)])
def test_plain_types_have_an_exact_class(form: object, exact: type) -> None:
    """For these, the class of a value proves that it is a T."""
    assert typed(form).exact is exact


@pytest.mark.parametrize("form", [Age, int | None, Literal[1], list[int], Cart, Any, Level, Documented])
def test_other_types_have_no_exact_class(form: object) -> None:
    """Above all, a constrained int is not proved by being an int."""
    assert typed(form).exact is None


REFUSED: Final[list[tuple[object, str]]] = [
    (socket.socket, "socket.socket is not a type that msgspec can restore.*resident=True"),
    (list[socket.socket], r"list\[\.\.\.\]: socket.socket"),
    (dict[str, list[socket.socket]], r"dict\[\.\.\.\]\[\.\.\.\]: socket.socket"),
    (tuple[int, socket.socket], r"tuple\[1\]: socket.socket"),
    (socket.socket | None, "socket.socket"),
    (Owned, "Owned.owner: socket.socket"),
    (dict[str, Owned], "Owned.owner: socket.socket"),
    (Box[socket.socket], "Box.inside: socket.socket"),
    (BadTree, "BadTree.leaf: collections.abc.Callable"),
    (Callable[[int], int], "Callable"),
    (type[int], "type"),
    (complex, r"use tuple\[float, float\]"),
    (Iterable[int], "use Sequence"),
    (Iterator[int], "use Sequence"),
    (collections.deque[int], "collections.deque"),
    (collections.OrderedDict[str, int], "OrderedDict"),
    (Plain, "Plain"),
    (Annotated_, "Annotated_"),
    (Markup, "Markup"),
    (Exception, "Exception"),
    (memoryview, "memoryview.*use bytes"),
    (msgspec.Raw, "Raw.*use bytes"),
    (msgspec.msgpack.Ext, "Ext.*use bytes"),
    (Cart | Point, "encoded alike.*tag=True"),
    (str | uuid.UUID, "encoded alike"),
    (list[int] | tuple[int], "encoded alike"),
    (Mixed, "all str or all int"),
    (WithInitVar, "InitVar"),
    (Unresolved, "name 'Missing' is not defined.*declare the key after every class"),
    ("Cart", "type written as text"),
    (T, "type variable"),
    (Bound, "type variable"),
    (of(list, T), "type variable"),
    (of(Box, T), "type variable"),
    (of(dict, str, of(list, of(Box, T))), "type variable"),
    (set[list[int]], r"set\[\.\.\.\]: list is not hashable"),
    (frozenset[Cart], "Cart is not hashable"),
    (frozenset[Loose], "Loose is not hashable"),
    (dict[tuple[int, Profile], int], r"dict\[key\]: .*Profile is not hashable"),
    (dict[Point, int], r"dict\[key\]: .*Point .*becomes a map.*use a tuple or a NamedTuple"),
    (dict[str, dict[frozenset[Frozen], int]], r"dict\[\.\.\.\]\[key\]: .*Frozen"),
    (dict[Literal["a"] | bytearray, int], "bytearray"),
    (5, "expected a type, such as int.*not a value of type int"),
    (..., "not a value of type ellipsis"),
]


@pytest.mark.parametrize(("form", "text"), REFUSED, ids=[str(form) for form, _ in REFUSED])
def test_a_type_that_cannot_be_carried_is_refused_where_it_is_declared(form: object, text: str) -> None:
    """The error names the part of the type, and what to do."""
    with pytest.raises(KeyTypeError, match=f"(?s){text}"):
        typed(form)


def test_a_class_defined_in_a_function_is_taken_unless_it_names_its_neighbours() -> None:
    """Annotations that are text are looked up in the module, and a local class is not there."""

    @dataclass
    class Alone:
        number: int

    @dataclass
    class Friend:
        alone: Alone

    codec = TypedCodec(Alone)
    assert codec.decode(codec.accept(Alone(1))) == Alone(1)
    with pytest.raises(KeyTypeError, match="those in a module"):
        TypedCodec(Friend)


# -- what values are taken ---------------------------------------------------------------------------------------------------------------

WRONG: Final[list[tuple[object, object, str]]] = [
    (int, "1", "Expected `int`, got `str`"),
    (int, True, "Expected `int`, got `bool`"),
    (int, 1.0, "Expected `int`, got `float`"),
    (int, Level.LOW, "Level and would be read back as int"),
    (int, None, "Expected `int`, got"),
    (int, 2**64, "cannot be encoded"),
    (int, -(2**63) - 1, "cannot be encoded"),
    (float, 10**30, "cannot be encoded"),
    (float, True, "Expected `float`, got `bool`"),
    (bool, 1, "Expected `bool`, got `int`"),
    (str, "\ud800", "a text in it is not valid Unicode"),
    (list[str], ["\udfff"], "a text in it is not valid Unicode"),
    (str, b"a", "Expected `str`"),
    (str, Markup("a"), r"Markup is unsupported; str.__str__\(value\) is the text alone"),
    (list[str], ["a", Markup("b")], r"Markup is unsupported; str.__str__\(value\) is the text alone"),
    (str, Name.ANN, "Name and would be read back as str"),
    (str, uuid.UUID(int=1), "uuid.UUID and would be read back as str"),
    (bytes, bytearray(b"a"), "bytearray and would be read back as bytes"),
    (Age, 151, "<= 150"),
    (Literal["a"], "b", "Invalid enum value"),
    (Colour, "red", "str and would be read back as .*Colour"),
    (dt.date, dt.datetime(2024, 1, 1), "date"),
    (dt.datetime, dt.datetime.min.replace(tzinfo=dt.timezone(dt.timedelta(hours=5))), "cannot be encoded"),
    (Cart, {"items": []}, "dict and would be read back as .*Cart"),
    (Cart, GiftCart(), "GiftCart and would be read back as .*Cart"),
    (Cart, Plain(), "Plain is unsupported"),
    (Cart, Cart(cast("Any", "book")), "Expected `array`, got `str`"),
    (Loose, Extended(1, 2), "Extended and would be read back as .*Loose"),
    (Cat | Dog, {"type": "Cat"}, "dict and would be read back as .*Cat"),
    (list[Cart], [Cart(), GiftCart()], r"value\[1\] is of the class .*GiftCart"),
    (list[Cart], [{"items": []}], r"value\[0\] is of the class dict"),
    (dict[str, Point], {"a": {"x": 1}}, r"value\.values\(\)\[0\] is of the class dict"),
    (Tree, Tree("a", [Tree("b", cast("Any", [{"name": "c"}]))]), r"value.children\[0\].children\[0\] is of the class dict"),
    (list[str], ["a", uuid.UUID(int=1)], r"value\[1\] is of the class uuid.UUID"),
    (dict[str, str], {uuid.UUID(int=1): "a"}, r"value\.keys\(\)\[0\] is of the class uuid.UUID"),
    (set[str], {"a", uuid.UUID(int=1)}, r"value\{...\} is of the class uuid.UUID"),
    (tuple[int, ...], [1], "list and would be read back as tuple"),
    (list[tuple[int, int]], [[1, 2]], r"value\[0\] is of the class list"),
    (list[int], (1,), "tuple and would be read back as list"),
    (list[int], {1}, "set and would be read back as list"),
    (set[int], [1], "list and would be read back as set"),
    (tuple[int, str], Pair(1, "a"), "Pair and would be read back as tuple"),
    (Pair, (1, "a"), "tuple and would be read back as .*Pair"),
    (dict[str, int], collections.Counter("aa"), "Counter and would be read back as dict"),
    (dict[str, int], collections.defaultdict(int, a=1), "defaultdict and would be read back as dict"),
    (Profile, {"name": "a", "tags": [], "extra": 1}, "would lose items"),
    (Any, Decimal(1), "decimal.Decimal and would be read back as str"),
    (Any, Cart(), "Cart and would be read back as dict"),
    (dict[str, Any], {"a": [dt.date(2024, 1, 1)]}, r"value\.values\(\)\[0\]\[0\] is of the class datetime.date"),
    (dict[str, object], {"a": Colour.RED}, "Colour and would be read back as str"),
    (Any, object(), "cannot be encoded"),
    (Sequence[str], "abc", "Expected `array`, got `str`"),
    (Sequence[int], range(3), "range is unsupported"),
    (Picky, {"number": 1}, "not of the type .*Picky"),
    (list[Any], nested(300), "nested deeper than 256 levels"),
    (list[Any], nested(100_000), "nested too deeply"),
]


@pytest.mark.parametrize(("form", "value", "text"), WRONG, ids=[f"{form}-{number}" for number, (form, _, _) in enumerate(WRONG)])
def test_a_value_that_would_not_come_back_is_refused_at_the_assignment(form: object, value: object, text: str) -> None:
    """Whatever is wrong with it, the error is KeyTypeError, and says what was expected, what came, and where in the value."""
    with pytest.raises(KeyTypeError, match=text):
        typed(form).accept(value)


def test_msgspec_alone_would_have_taken_them() -> None:
    """Proof that the comparison is needed: the bytes of a dict, or of a subclass, do decode as the type."""
    assert msgspec.msgpack.decode(raw({"items": ["a"]}), type=Cart) == Cart(["a"])
    assert msgspec.msgpack.decode(raw(GiftCart(["a"])), type=Cart) == Cart(["a"])


@pytest.mark.parametrize(
    ("form", "value", "back"),
    [
        (float, 1, 1.0),
        (list[float], [1, 2.5], [1.0, 2.5]),
        (Point, Point(1, 2), Point(1, 2.0)),
        (Sequence[int], (1, 2), [1, 2]),
        (Sequence[int] | None, (1, 2), [1, 2]),
        (Optional[Sequence[int]], (1, 2), [1, 2]),  # noqa: UP045
        (Annotated[Collection[int], "note"], (1, 2), [1, 2]),
        (AbstractSet[int], frozenset({1}), {1}),
        (set[float], {1}, {1.0}),
        (list[Sequence[int]], [(1,)], [[1]]),
        (dict[str, Any], {"a": (1, [2])}, {"a": [1, [2]]}),
        (Any, (1, 2), [1, 2]),
    ],
)
def test_what_is_a_t_both_before_and_after_is_taken(form: object, value: object, back: object) -> None:
    """An int for a float, a tuple for a Sequence: a reader who relies on T alone sees no difference."""
    codec = typed(form)
    assert codec.decode(codec.accept(value)) == back


def test_a_cached_property_does_not_change_the_bytes() -> None:
    """A request that only reads must not look like one that wrote."""
    codec = TypedCodec(Cached)
    value = Cached(3)
    before = codec.encode(value)
    assert value.square == 9
    assert codec.encode(value) == before


def test_encode_raises_key_type_error_after_a_change_in_place() -> None:
    """At the commit a changed value is encoded again, and that has the same error."""
    codec = TypedCodec(list[int])
    value = [1]
    codec.accept(value)
    value.append(2**70)
    with pytest.raises(KeyTypeError, match="cannot be encoded"):
        codec.encode(value)
    with pytest.raises(KeyTypeError, match="nested too deeply"):
        typed(list[Any]).encode(nested(300_000))


@attrs.define
class PrivateAttrs:
    _secret: int


@dataclass
class PrivateDataclass:
    _secret: int


def test_a_field_that_msgspec_leaves_out_is_refused() -> None:
    """One of an attrs class with an underscore before its name: no value could be assigned. In a dataclass it is a field like others."""
    with pytest.raises(KeyTypeError, match=r"PrivateAttrs\._secret: of an attrs class, msgspec leaves fields with an underscore out"):
        typed(list[PrivateAttrs])
    codec = typed(PrivateDataclass)
    assert codec.decode(codec.accept(PrivateDataclass(5))) == PrivateDataclass(5)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="`type` statements are of Python 3.12")
def test_type_aliases_are_seen_through() -> None:
    """`type Numbers = Sequence[int]` is as good as what it stands for."""
    names: dict[str, Any] = {"Sequence": Sequence}
    exec("type Numbers = Sequence[int]\ntype Many[T] = list[T]", names)
    assert typed(names["Numbers"]).accept((1, 2))
    assert typed(of(names["Many"], int)).accept([1, 2])
    with pytest.raises(KeyTypeError, match="type variable"):
        typed(of(list, of(names["Many"], T)))
