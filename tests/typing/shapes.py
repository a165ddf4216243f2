"""Never run: what type checkers infer for every way to declare a key, and what `session[key]` is then."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, NamedTuple, TypedDict

import attrs
import msgspec
from typing_extensions import assert_type

from typed_sessions import Downgrade, Key, ListKey, Session, SessionList, SessionView, Upgrades


@dataclass
class Cart:
    items: list[str] = field(default_factory=list[str])


class Address(TypedDict):
    city: str


class Point(NamedTuple):
    x: int
    y: int


class User(msgspec.Struct):
    name: str


@attrs.define
class Theme:
    dark: bool = False


class Role(enum.Enum):
    admin = "admin"
    guest = "guest"


class Photo:
    def __init__(self, pixels: bytes) -> None:
        self.pixels = pixels

    def to_png(self) -> bytes:
        return self.pixels

    @classmethod
    def from_png(cls, data: bytes) -> Photo:
        return cls(data)


class Connection:
    def ping(self) -> bool:
        return True


def to_bytes(photo: Photo) -> bytes:
    return photo.pixels


def from_bytes(data: bytes) -> Photo:
    return Photo(data)


def of_counts(old: dict[str, int]) -> list[str]:
    return [*old]


def from_json(data: bytes) -> list[str]:
    return data.decode().split()


def to_names(cart: Cart) -> list[str]:
    return cart.items


def release(cart: Cart) -> None: ...


async def release_slowly(cart: Cart) -> None: ...


def keep(connection: Connection) -> bool:
    return connection.ping()


visits = Key("visits", int)
ratio = Key("ratio", float)
note = Key("note", str | None)
names = Key("names", list[str])
numbers = Key("numbers", list[int])
counts = Key("counts", dict[str, int])
pair = Key("pair", tuple[int, str])
tags = Key("tags", frozenset[str])
cart = Key("cart", Cart, cleanup_delete=release)
slow_cart = Key("slow_cart", Cart, cleanup_delete=release_slowly)
address = Key("address", Address)
point = Key("point", Point)
user = Key("user", User)
theme = Key("theme", Theme)
role = Key("role", Role)
size = Key("size", Literal["s", "m", "l"])
when = Key("when", datetime)
carts = Key("carts", dict[str, list[Cart]])
subscript = Key[int]("subscript", int)
annotated: Key[int] = Key("annotated", int)
photo = Key("photo", save=Photo.to_png, load=Photo.from_png)
photo_2 = Key("photo_2", save=to_bytes, load=from_bytes)
text = Key("text", save=str.encode, load=bytes.decode)
of_lambdas = Key[int]("of_lambdas", save=lambda n: str(n).encode(), load=lambda b: int(b))
database = Key("database", Connection, resident=True, cleanup_no_client=keep)
renamed = Key("renamed", Cart, was="cart_before")
older = Upgrades(dict[str, int], of_counts).then(list[str], Cart)
upgraded = Key("upgraded", Cart, version=3, upgrade=older)
upgraded_2 = Key("upgraded_2", Cart, version=2, upgrade=Upgrades(Cart, load=from_json))
upgraded_3 = Key("upgraded_3", int | None, version=2, upgrade=lambda old, version: int(old))
up = Upgrades(list[str], Cart)
downgraded = Key("downgraded", Cart, version=2, was="names_before", upgrade=up, downgrade=Downgrade(list[str], to_names))
messages = ListKey("messages", str)
users = ListKey("users", User)


def declared() -> None:
    assert_type(visits, Key[int])
    assert_type(ratio, Key[float])
    assert_type(note, Key[str | None])
    assert_type(names, Key[list[str]])
    assert_type(counts, Key[dict[str, int]])
    assert_type(pair, Key[tuple[int, str]])
    assert_type(tags, Key[frozenset[str]])
    assert_type(cart, Key[Cart])
    assert_type(slow_cart, Key[Cart])
    assert_type(address, Key[Address])
    assert_type(point, Key[Point])
    assert_type(user, Key[User])
    assert_type(theme, Key[Theme])
    assert_type(role, Key[Role])
    assert_type(size, Key[Literal["s", "m", "l"]])
    assert_type(when, Key[datetime])
    assert_type(carts, Key[dict[str, list[Cart]]])
    assert_type(subscript, Key[int])
    assert_type(annotated, Key[int])
    assert_type(photo, Key[Photo])
    assert_type(photo_2, Key[Photo])
    assert_type(of_lambdas, Key[int])
    assert_type(database, Key[Connection])
    assert_type(renamed, Key[Cart])
    assert_type(older, Upgrades[Cart])
    assert_type(Upgrades(int, str), Upgrades[str])
    assert_type(upgraded, Key[Cart])
    assert_type(upgraded_2, Key[Cart])
    assert_type(upgraded_3, Key[int | None])
    assert_type(downgraded, Key[Cart])
    assert_type(messages, ListKey[str])
    assert_type(users, ListKey[User])


def read(session: Session) -> None:
    assert_type(session[visits], int)
    assert_type(session[ratio], float)
    assert_type(session[note], str | None)
    assert_type(session[names], list[str])
    assert_type(session[counts], dict[str, int])
    assert_type(session[pair], tuple[int, str])
    assert_type(session[tags], frozenset[str])
    assert_type(session[cart], Cart)
    assert_type(session[cart].items, list[str])
    assert_type(session[address], Address)
    assert_type(session[address]["city"], str)
    assert_type(session[point], Point)
    assert_type(session[point].x, int)
    assert_type(session[user], User)
    assert_type(session[theme], Theme)
    assert_type(session[role], Role)
    assert_type(session[size], Literal["s", "m", "l"])
    assert_type(session[when], datetime)
    assert_type(session[carts]["a"], list[Cart])
    assert_type(session[photo], Photo)
    assert_type(session[of_lambdas], int)
    assert_type(session[database], Connection)
    assert_type(session[messages], SessionList[str])
    assert_type(session[messages][0], str)
    assert_type(session[messages][1:], Sequence[str])
    assert_type(session[users][0].name, str)


def seen(view: SessionView) -> None:
    assert_type(view[visits], int)
    assert_type(view[messages], Sequence[str])
    assert_type(view.get(visits), int | None)
