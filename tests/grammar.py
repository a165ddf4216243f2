"""A grammar of types, each with values of it and a judgement of its own on what is one: scalars, containers, unions, classes, recursion.

Nothing here asks the package or msgspec what a value of a type is: that is what the tests compare.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import itertools
import socket
import uuid
from collections.abc import Callable, Iterator
from decimal import Decimal
from functools import reduce
from typing import Any, Generic, Literal, NamedTuple, Optional, TypedDict, TypeVar, Union, cast

import msgspec
from hypothesis import strategies as st

T = TypeVar("T")


class Drawn(NamedTuple):
    """A type form, a strategy for its values, and whether something is one of them."""

    form: Any
    values: st.SearchStrategy[Any]
    holds: Callable[[object], bool]


def of(origin: Any, *arguments: Any) -> Any:
    """`origin[arguments]`, of what is not known before the test runs."""
    return origin[arguments[0] if len(arguments) == 1 else arguments]


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


@dataclasses.dataclass
class Node(Generic[T]):
    """A list, one link after the other."""

    value: T
    next: Optional[Node[T]] = None  # noqa: UP045  # evaluated on Python 3.10, where a generic class has no `|`


class Tree(msgspec.Struct, Generic[T]):
    leaf: T
    branches: list[Tree[T]] = []


def of_class(cls: type, also: Callable[[Any], bool] = lambda value: True) -> Callable[[object], bool]:
    return lambda value: type(value) is cls and also(value)


def _no_fold(times: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """`fold` has no place in RFC 3339, and equal times may differ in it."""

    def without(time: Any) -> Any:
        return time.replace(fold=0)

    return times.map(without)


_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)

SCALARS: list[Drawn] = [
    Drawn(int, st.integers(-(2**63), 2**64 - 1), of_class(int)),
    Drawn(str, _text, of_class(str)),
    Drawn(bytes, st.binary(max_size=8), of_class(bytes)),
    Drawn(bool, st.booleans(), of_class(bool)),
    Drawn(float, st.floats(allow_nan=False), of_class(float)),
    Drawn(dt.datetime, _no_fold(st.datetimes() | st.datetimes(timezones=st.just(dt.timezone.utc))), of_class(dt.datetime)),
    Drawn(dt.date, st.dates(), of_class(dt.date)),
    Drawn(dt.time, _no_fold(st.times()), of_class(dt.time)),
    Drawn(dt.timedelta, st.timedeltas(), of_class(dt.timedelta)),
    Drawn(uuid.UUID, st.uuids(), of_class(uuid.UUID)),
    Drawn(Decimal, st.decimals(allow_nan=False), of_class(Decimal)),
    Drawn(Colour, st.sampled_from(Colour), of_class(Colour)),
    Drawn(Level, st.sampled_from(Level), of_class(Level)),
    Drawn(Literal["x", "y"], st.sampled_from(["x", "y"]), of_class(str, {"x", "y"}.__contains__)),
    Drawn(Literal[1, 2], st.sampled_from([1, 2]), of_class(int, {1, 2}.__contains__)),
]
NOTHING = Drawn(None, st.none(), of_class(type(None)))

_numbers = itertools.count()


# Called with fields that are not known before the test runs, which type checkers do not allow.
MAKERS: dict[str, Callable[[str, dict[str, Any]], Any]] = {
    "typeddict": cast("Any", TypedDict),
    "namedtuple": lambda name, forms: cast("Any", NamedTuple)(name, [*forms.items()]),
    "struct": lambda name, forms: msgspec.defstruct(name, [*forms.items()]),
    "dataclass": lambda name, forms: dataclasses.make_dataclass(name, [*forms.items()]),
    "frozen": lambda name, forms: dataclasses.make_dataclass(name, [*forms.items()], frozen=True),
}


def _record(kind: str, fields: dict[str, Drawn]) -> Drawn:
    """A class with these fields."""
    name = f"{kind.title()}{next(_numbers)}"
    forms = {field: one.form for field, one in fields.items()}
    values = {field: one.values for field, one in fields.items()}
    cls = MAKERS[kind](name, forms)
    if kind == "typeddict":

        def holds_items(value: Any) -> bool:
            return value.keys() == fields.keys() and all(one.holds(value[field]) for field, one in fields.items())

        return Drawn(cls, st.fixed_dictionaries(values), of_class(dict, holds_items))

    def holds(value: Any) -> bool:
        return all(one.holds(getattr(value, field)) for field, one in fields.items())

    return Drawn(cls, st.builds(cls, **values), of_class(cls, holds))


def _node(one: Drawn) -> Drawn:
    def links(value: Node[Any]) -> Iterator[Node[Any]]:
        link: Any = value
        while link is not None:
            yield link
            link = link.next

    def made(values: list[Any]) -> Node[Any]:
        return reduce(lambda rest, value: Node(value, rest), reversed(values[:-1]), Node(values[-1]))

    def holds(value: Node[Any]) -> bool:
        return all(type(link) is Node and one.holds(link.value) for link in links(value))

    return Drawn(of(Node, one.form), st.lists(one.values, min_size=1, max_size=4).map(made), of_class(Node, holds))


def _tree(one: Drawn) -> Drawn:
    def holds(value: Tree[Any]) -> bool:
        return one.holds(value.leaf) and type(value.branches) is list and all(type(b) is Tree and holds(b) for b in value.branches)

    leaves = one.values.map(Tree[Any])
    trees = st.recursive(leaves, lambda inner: st.builds(Tree[Any], one.values, st.lists(inner, max_size=2)), max_leaves=4)
    return Drawn(of(Tree, one.form), trees, of_class(Tree, holds))


def _each(one: Drawn) -> Callable[[Any], bool]:
    return lambda values: all(map(one.holds, values))


def _dict(key: Drawn, one: Drawn) -> Drawn:
    def holds(value: Any) -> bool:
        return all(map(key.holds, value)) and all(map(one.holds, value.values()))

    return Drawn(of(dict, key.form, one.form), st.dictionaries(key.values, one.values, max_size=3), of_class(dict, holds))


def _pair(one: Drawn, other: Drawn) -> Drawn:
    def holds(value: Any) -> bool:
        return len(value) == 2 and one.holds(value[0]) and other.holds(value[1])

    return Drawn(of(tuple, one.form, other.form), st.tuples(one.values, other.values), of_class(tuple, holds))


def _union(members: list[Drawn]) -> Drawn:
    form: Any = members[0].form
    for one in members[1:]:
        form = of(Union, form, one.form)

    def holds(value: object) -> bool:
        return any(one.holds(value) for one in members)

    return Drawn(form, st.one_of([one.values for one in members]), holds)


def _within(inner: st.SearchStrategy[Drawn]) -> st.SearchStrategy[Drawn]:
    """Types that have one of the inner ones in them."""
    fields = st.dictionaries(st.sampled_from(["a", "b", "c"]), inner, min_size=1, max_size=3)
    kinds = st.sampled_from([*MAKERS])
    return st.one_of(
        inner.map(lambda one: Drawn(of(list, one.form), st.lists(one.values, max_size=3), of_class(list, _each(one)))),
        inner.map(lambda one: Drawn(of(tuple, one.form, ...), st.lists(one.values, max_size=3).map(tuple), of_class(tuple, _each(one)))),
        st.builds(_dict, st.sampled_from(SCALARS), inner),
        st.builds(_pair, inner, inner),
        st.builds(_record, kinds, fields),
        inner.map(_node),
        inner.map(_tree),
    )


def _around(inner: st.SearchStrategy[Drawn]) -> st.SearchStrategy[Drawn]:
    scalar = st.sampled_from(SCALARS)
    return st.one_of(
        _within(inner),
        scalar.map(lambda one: Drawn(of(set, one.form), st.sets(one.values, max_size=3), of_class(set, _each(one)))),
        scalar.map(lambda one: Drawn(of(frozenset, one.form), st.frozensets(one.values, max_size=3), of_class(frozenset, _each(one)))),
        st.lists(st.just(NOTHING) | inner, min_size=2, max_size=3).map(_union),
    )


TYPES: st.SearchStrategy[Drawn] = st.recursive(st.sampled_from([*SCALARS, NOTHING]), _around, max_leaves=5)


class Plain:
    """A class that nothing is known about."""


NOT_CARRIED: list[Any] = [socket.socket, complex, Plain, memoryview, range, type, Callable[[], int], Iterator[int], slice]
"""Types of which msgspec could not give back a value, or not one of that type."""


def _with_inside(bad: Any) -> st.SearchStrategy[tuple[Any, Drawn]]:
    no_values: st.SearchStrategy[Any] = st.nothing()  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]  # it is of none
    itself = st.just(Drawn(bad, no_values, of_class(Plain)))
    once = _within(itself)
    return st.tuples(st.just(bad), itself | once | _within(once))


TYPES_NOT_CARRIED: st.SearchStrategy[tuple[Any, Drawn]] = st.sampled_from(NOT_CARRIED).flatmap(_with_inside)
"""One of them, and a type that has it somewhere inside."""


def spelled(value: object, *, allowing: bool = False) -> object:
    """A value with the class of everything in it: equal only if nothing differs, not even an int from a float.

    `allowing` what may be assigned for something plainer: an int for a float, a tuple for a list, a frozenset for a set.
    """
    kind: object = type(value)
    if allowing:
        if kind is int or kind is float:
            return float, value
        kind = list if kind is tuple else set if kind is frozenset else kind

    def inside(part: object) -> object:
        return spelled(part, allowing=allowing)

    if isinstance(value, dict):
        return kind, frozenset((inside(key), inside(item)) for key, item in cast("dict[object, object]", value).items())
    if isinstance(value, (set, frozenset)):
        return kind, frozenset(map(inside, cast("set[object]", value)))
    if isinstance(value, (list, tuple)):
        return kind, tuple(map(inside, cast("list[object]", value)))
    if dataclasses.is_dataclass(value):
        return kind, tuple(inside(getattr(value, field.name)) for field in dataclasses.fields(value))
    if isinstance(value, msgspec.Struct):
        return kind, tuple(inside(getattr(value, name)) for name in value.__struct_fields__)
    return kind, repr(value)
