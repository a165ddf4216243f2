"""Names of fields in other letters than ASCII's, read by a process that has written none: the next worker, or one after its restart."""

from __future__ import annotations

import subprocess
import sys

import pytest

READER = """
{future}
import dataclasses, json, sys, typing
import msgspec
from typing_extensions import NotRequired
from typed_sessions.codecs import TypedCodec

V = typing.TypeVar("V")

@dataclasses.dataclass
class Defaults:
    naïve: int = 0

@dataclasses.dataclass
class Required:
    größe: int

@dataclasses.dataclass
class Base:
    été: int = 0

@dataclasses.dataclass
class Derived(Base):
    hôtel: int = 0

@dataclasses.dataclass
class Nested:
    inner: list[Required | None]
    übrig: Defaults

@dataclasses.dataclass
class Parametrized(typing.Generic[V]):
    größtes: V

class Partial(typing.TypedDict, total=False):
    имя: int

class Whole(typing.TypedDict):
    名前: int
    страна: NotRequired[int]

class One(msgspec.Struct, tag=1, tag_field="ключ"):
    x: int

class Other(msgspec.Struct, tag=2, tag_field="ключ"):
    x: int

class Renamed(msgspec.Struct, rename={{"x": "größer"}}):
    x: int = 0

Functional = typing.TypedDict("Functional", {{"straße": int}}, total=False)
Made = dataclasses.make_dataclass("Made", [("zähler", int, 0)])

cases = [
    (Defaults, {{"naïve": 1}}, Defaults(1)),
    (Required, {{"größe": 2}}, Required(2)),
    (Derived, {{"été": 3, "hôtel": 4}}, Derived(3, 4)),
    (Nested, {{"inner": [{{"größe": 5}}, None], "übrig": {{"naïve": 6}}}}, Nested([Required(5), None], Defaults(6))),
    (Parametrized[int], {{"größtes": 7}}, Parametrized(7)),
    (Partial, {{"имя": 8}}, Partial(имя=8)),
    (Whole, {{"名前": 9, "страна": 10}}, Whole(名前=9, страна=10)),
    (One | Other, {{"ключ": 2, "x": 11}}, Other(11)),
    (Renamed, {{"größer": 12}}, Renamed(12)),
    (Functional, {{"straße": 13}}, Functional(straße=13)),
    (Made, {{"zähler": 14}}, Made(14)),
]
chosen = int(sys.argv[1])
form, stored, value = cases[chosen]
data = msgspec.msgpack.encode(json.loads(json.dumps(stored)))  # strings that are nobody's names
if sys.argv[2] == "accept":  # of a TypedDict: a dictionary whose keys came from elsewhere
    data = TypedCodec(form).accept(json.loads(json.dumps(stored)))
assert TypedCodec(form).decode(data) == value, TypedCodec(form).decode(data)
"""
CASES = 11


def read_anew(case: int, how: str, future: str = "") -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", READER.format(future=future), str(case), how],
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert not done.returncode, done.stderr


@pytest.mark.parametrize("future", ["", "from __future__ import annotations"], ids=["", "as text"])
@pytest.mark.parametrize("case", range(CASES))
def test_a_field_of_any_letters_is_found_by_a_new_process(case: int, future: str) -> None:
    """A default in the place of what is stored would be written back with the next change in place, and nobody told."""
    read_anew(case, "decode", future)


@pytest.mark.parametrize("case", [5, 6, 9])
def test_a_dictionary_whose_keys_came_from_elsewhere_is_accepted(case: int) -> None:
    """Names that were read from JSON or a form are equal to those of the TypedDict, and other objects."""
    read_anew(case, "accept")
