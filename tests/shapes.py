"""Types of every form that a key can have, or cannot, and values of those that it can."""

from __future__ import annotations

import datetime as dt
import enum
import functools
import math
import socket
import uuid
from collections.abc import Callable, Mapping, MutableSequence, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import InitVar, dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, Final, Generic, Literal, NamedTuple, NewType, Optional, TypedDict, TypeVar, Union, cast

import msgspec

from typed_sessions.codecs import TypedCodec

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
