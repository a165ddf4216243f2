"""Codecs: what comes back is a T of the same kind, mistakes are found at the assignment, hostile bytes are refused and nothing worse."""

from __future__ import annotations

import collections
import datetime as dt
import enum
import functools
import json
import math
import socket
import sys
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, MutableSequence, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import InitVar, dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, Final, Generic, Literal, NamedTuple, NewType, Optional, TypedDict, TypeVar, Union, cast

import attrs
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from typed_sessions.codecs import Codec, DecodeRefused, HookedCodec, TypedCodec
from typed_sessions.errors import KeyTypeError

if TYPE_CHECKING:
    from nowhere_at_run_time import Missing  # type: ignore  # the point is that it cannot be found

T = TypeVar("T")
Bound = TypeVar("Bound", bound=int)

UserId = NewType("UserId", int)
Age = Annotated[int, msgspec.Meta(ge=0, le=150)]
Documented = Annotated[int, msgspec.Meta(description="how many")]


@dataclass
class Cart:
    items: list[str] = field(default_factory=list[str])
    note: str | None = None


@dataclass
class GiftCart(Cart):
    ribbon: str = "red"


@dataclass(frozen=True)
class Point:
    x: int
    y: float = 0.0


@dataclass(frozen=True)
class Shelf:
    carts: tuple[Cart, ...]


@dataclass(frozen=True, slots=True)
class Slotted:
    at: dt.datetime
    where: Point


@dataclass
class Owned:
    carts: list[Cart]
    owner: socket.socket


@dataclass
class Tree:
    name: str
    children: list[Tree] = field(default_factory=list["Tree"])
    parent: Owner | None = None


@dataclass(frozen=True)
class Owner:
    name: str
    boss: Owner | None = None


@dataclass
class BadTree:
    children: list[BadTree]
    leaf: Callable[[], int] | None = None


@dataclass
class Unresolved:
    value: Missing


@dataclass
class WithInitVar:
    value: InitVar[int]


@dataclass
class Box(Generic[T]):
    inside: T


@dataclass
class Picky:
    number: int

    def __post_init__(self) -> None:
        if self.number == 1:
            raise KeyError(self.number)
        if self.number == 2:
            raise RuntimeError
        if self.number == 3:
            raise ValueError("three")


@dataclass
class Cached:
    number: int

    @functools.cached_property
    def square(self) -> int:
        return self.number**2


class Frozen(msgspec.Struct, frozen=True):
    a: int
    b: tuple[str, ...] = ()


class Row(msgspec.Struct, frozen=True, array_like=True):
    a: int


class Loose(msgspec.Struct):
    a: int


class Extended(Loose):
    b: int = 0


class Cat(msgspec.Struct, tag=True):
    lives: int = 9


class Dog(msgspec.Struct, tag=True):
    tricks: list[str] = []


class Pair(NamedTuple):
    left: int
    right: str = ""


class Profile(TypedDict):
    name: str
    tags: list[str]


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1


class Mixed(enum.Enum):
    A = 1.5
    B = 2.5


class Name(str, enum.Enum):
    ANN = "ann"


class Markup(str):
    __slots__ = ()


class Plain:
    pass


class Annotated_:
    x: int


def typed(form: object) -> TypedCodec[Any]:
    """A codec for a form that is only known at run time."""
    return TypedCodec[Any](cast("Any", form))


def of(generic: object, *arguments: object) -> Any:
    """`generic[arguments]` for arguments that are only known at run time, which type checkers rightly do not allow."""
    return cast("Any", generic)[arguments[0] if len(arguments) == 1 else arguments]


def raw(value: object) -> bytes:
    """What anyone who can write to the store could have written."""
    return msgspec.msgpack.encode(value)


def nested(depth: int) -> list[object]:
    value: list[object] = []
    for _ in range(depth):
        value = [value]
    return value


def test_both_kinds_are_codecs() -> None:
    """A type checker agrees that both classes are what a key needs, and infers T from a type form."""
    codecs: list[Codec[int]] = [TypedCodec(int), HookedCodec(lambda n: b"%d" % n, int)]
    assert [codec.decode(codec.accept(7)) for codec in codecs] == [7, 7]
    optional: TypedCodec[int | None] = TypedCodec(int | None)
    assert optional.decode(optional.accept(None)) is None


# -- what types are taken ----------------------------------------------------------------------------------------------------------------

TAKEN: Final[list[tuple[object, object, bool]]] = [  # type, a value, mutable
    (int, 2**64 - 1, False),
    (str, "æ🙂", False),
    (bytes, b"\0\xff", False),
    (float, math.inf, False),
    (bool, True, False),
    (None, None, False),
    (dt.datetime, dt.datetime(2024, 2, 29, 1, 2, 3, 4), False),
    (dt.datetime, dt.datetime(2024, 2, 29, tzinfo=dt.timezone(dt.timedelta(hours=5))), False),
    (dt.date, dt.date(1, 1, 1), False),
    (dt.time, dt.time(23, 59, 59, 999999), False),
    (dt.timedelta, dt.timedelta(days=-3, microseconds=1), False),
    (uuid.UUID, uuid.UUID(int=5), False),
    (Decimal, Decimal("-1.50"), False),
    (Colour, Colour.BLUE, False),
    (Level, Level.LOW, False),
    (Literal["a", 1, None], "a", False),
    (UserId, UserId(4), False),
    (Age, 30, False),
    (Documented, 3, False),
    (int | None, None, False),
    (Optional[Point], Point(1, 2.5), False),  # noqa: UP045
    (Union[int, str], "x", False),  # noqa: UP007
    (list[str] | dict[str, int], {"a": 1}, True),
    (Cat | Dog, Dog(["sit"]), True),
    (tuple[int, ...], (1, 2), False),
    (tuple[int, str], (1, "a"), False),
    (tuple[()], (), False),
    (tuple[list[int], ...], ([1],), True),
    (frozenset[str], frozenset({"a", "b"}), False),
    (frozenset[Point], frozenset({Point(1)}), False),
    (Pair, Pair(1, "r"), False),
    (Point, Point(1, 2.0), False),
    (Slotted, Slotted(dt.datetime(2024, 1, 1), Point(1)), False),
    (Owner, Owner("a", Owner("b")), False),
    (Frozen, Frozen(1, ("a",)), False),
    (Shelf, Shelf((Cart(["book"]),)), True),
    (Loose, Loose(1), True),
    (Cart, Cart(["book"], "soon"), True),
    (Tree, Tree("root", [Tree("leaf")], Owner("x")), True),
    (Box[int], Box(3), True),
    (list[Box[Cart]], [Box(Cart())], True),
    (Box, Box({"a": [1]}), True),
    (Profile, {"name": "ann", "tags": ["x"]}, True),
    (list[int], [1, 2], True),
    (list, ["a", {"b": None}], True),
    (set[int], {1, 2}, True),
    (dict[str, Any], {"a": [1, {"b": None}]}, True),
    (dict[str, object], {"a": [1, 2.5, b"x"]}, True),
    (dict[int, str], {1: "a"}, True),
    (dict[tuple[int, int], str], {(1, 2): "a"}, True),
    (dict[Pair, int], {Pair(1): 1}, True),
    (dict[frozenset[int], int], {frozenset({1}): 1}, True),
    (dict[Row, int], {Row(1): 1}, True),
    (dict[Colour, int], {Colour.RED: 1}, True),
    (bytearray, bytearray(b"x"), True),
    (Any, {"a": 1}, True),
    (object, [1], True),
    (Sequence[int], [1], True),
    (Mapping[str, int], {"a": 1}, True),
    (AbstractSet[int], {1}, True),
    (MutableSequence[int], [1], True),
    (Cached, Cached(3), True),
]


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
    (5, "5"),
    (..., "Ellipsis"),
]


@pytest.mark.parametrize(("form", "text"), REFUSED, ids=[str(form) for form, _ in REFUSED])
def test_a_type_that_cannot_be_carried_is_refused_where_it_is_declared(form: object, text: str) -> None:
    """The error names the part of the type, and what to do."""
    with pytest.raises(KeyTypeError, match=f"(?s){text}"):
        typed(form)


def test_the_refusal_is_ours_and_not_msgspecs() -> None:
    """msgspec itself takes a socket for a type, so that the mistake would be found at the first assignment."""
    msgspec.msgpack.Decoder(socket.socket)


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
    (str, Markup("a"), "Markup is unsupported"),
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
        typed(list[Any]).encode(nested(100_000))


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


# -- hooks -------------------------------------------------------------------------------------------------------------------------------


def save_json(value: object) -> bytes:
    return json.dumps(value).encode()


def load_json(data: bytes) -> object:
    return json.loads(data)


async def save_later(value: object) -> bytes:
    return save_json(value)


def save_in_disguise(value: object) -> object:
    return save_later(value)


def save_nothing(value: int) -> bytes:
    return b"%d" % (1 // value)


class Saver:
    async def __call__(self, value: object) -> bytes:
        return save_json(value)


def hooked(save: object = save_json, load: object = load_json) -> HookedCodec[Any]:
    """A codec with hooks that a type checker would not let through."""
    return HookedCodec[Any](cast("Any", save), cast("Any", load), False)


def test_hooks_are_called_with_the_value_and_with_the_bytes() -> None:
    """`load` gets bytes whatever the store handed out, and `builtins` is the bytes as they are."""
    codec = HookedCodec(save_json, load_json, deterministic=True)
    data = codec.accept({"a": [1]})
    assert data == codec.encode({"a": [1]}) == b'{"a": [1]}'
    assert codec.decode(data) == codec.decode(memoryview(data)) == {"a": [1]}
    assert codec.builtins(memoryview(data)) == data
    assert (codec.mutable, codec.exact, codec.comparable) == (True, None, True)
    assert HookedCodec(save_json, load_json).comparable is False


@pytest.mark.parametrize(
    ("result", "text"),
    [
        ("{}", r"save must return bytes, it returned str: did you pass json.dumps\? use lambda v: json.dumps\(v\).encode\(\)"),
        (None, "it returned NoneType: did you pass a function that writes to a file"),
        (bytearray(b"a"), r"it returned bytearray: return bytes\(...\) of it"),
        (5, "it returned int"),
    ],
)
def test_save_must_return_bytes(result: object, text: str) -> None:
    """The text says what came instead, and which mistake it probably is."""

    def save(_value: object) -> object:
        return result

    with pytest.raises(KeyTypeError, match=text):
        hooked(save=save).accept(1)


@pytest.mark.parametrize("hook", [save_later, Saver()])
def test_hooks_that_are_async_are_refused_at_the_declaration(hook: object) -> None:
    """Nobody would await them."""
    with pytest.raises(KeyTypeError, match=r"save must be a plain function, .*async"):
        hooked(save=hook)
    with pytest.raises(KeyTypeError, match=r"load must be a plain function, .*async"):
        hooked(load=hook)


def test_a_coroutine_that_comes_back_is_closed() -> None:
    """A plain function may still return one: no warning about it, only the error."""
    with pytest.raises(KeyTypeError, match="coroutine: hooks are called without await"):
        hooked(save=save_in_disguise).accept(1)
    with pytest.raises(DecodeRefused, match="coroutine"):
        hooked(load=save_in_disguise).decode(b"")


def test_hooks_that_cannot_be_called_are_refused_at_the_declaration() -> None:
    """`save=json.dump` wants a file too, and no type checker notices."""
    with pytest.raises(KeyTypeError, match=r"save is called with the value alone and returns bytes; json.dump: missing"):
        hooked(save=json.dump)
    with pytest.raises(KeyTypeError, match="load is called with the bytes alone"):
        hooked(load=lambda: 1)
    with pytest.raises(KeyTypeError, match="load must be a function, it is str"):
        hooked(load="json.loads")
    HookedCodec(bytes, int)


def test_what_save_raises_is_left_alone() -> None:
    """It is raised in the user's own assignment, where it belongs."""
    with pytest.raises(ZeroDivisionError):
        HookedCodec(save_nothing, int).accept(0)


@pytest.mark.parametrize("error", [ValueError("secret"), KeyError("x"), RecursionError(), SystemError()])
def test_what_load_raises_is_a_refusal(error: Exception) -> None:
    """The value counts as absent; the error is the cause, and its text, which may quote the data, is not repeated."""

    def load(_data: bytes) -> int:
        raise error

    with pytest.raises(DecodeRefused) as caught:
        hooked(load=load).decode(b"1")
    assert caught.value.__cause__ is error
    assert "secret" not in str(caught.value)


def test_interrupts_are_not_refusals() -> None:
    """Neither ^C nor the end of a thread is taken for a damaged value."""

    def load(_data: bytes) -> int:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hooked(load=load).decode(b"1")


def test_codecs_say_what_they_are() -> None:
    """In a traceback or a test."""
    assert repr(TypedCodec(list[int])) == "TypedCodec(list[int])"
    assert repr(TypedCodec(int)) == "TypedCodec(int)"
    assert "save_json" in repr(HookedCodec(save_json, load_json))


@pytest.mark.skipif(sys.version_info < (3, 12), reason="`type` statements are of Python 3.12")
def test_type_aliases_are_seen_through() -> None:
    """`type Numbers = Sequence[int]` is as good as what it stands for."""
    names: dict[str, Any] = {"Sequence": Sequence}
    exec("type Numbers = Sequence[int]\ntype Many[T] = list[T]", names)
    assert typed(names["Numbers"]).accept((1, 2))
    assert typed(of(names["Many"], int)).accept([1, 2])
    with pytest.raises(KeyTypeError, match="type variable"):
        typed(of(list, of(names["Many"], T)))
