"""What the demo keeps in a session: one key per value, each with its type."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from decimal import Decimal
from hashlib import sha256

from .. import Key, ListKey, SessionView, Store
from ..stores.base import Idle

MOST = 99
"""Of one product in a cart."""


@dataclass(frozen=True)
class Product:
    name: str
    price: Decimal


@dataclass(frozen=True)
class Item:
    product: Product
    quantity: int
    added: date


@dataclass(frozen=True)
class Cart:
    items: list[Item] = field(default_factory=list[Item])

    @property
    def total(self) -> Decimal:
        return sum((item.product.price * item.quantity for item in self.items), Decimal("0.00"))

    def changed(self, product: Product, by: int, today: date) -> Cart:
        """This cart with so many more, or fewer, of a product. A new one: what `update` is given may run more than once."""
        before = next((item for item in self.items if item.product == product), Item(product, 0, today))
        after = replace(before, quantity=min(before.quantity + by, MOST))
        items = [after if item is before else item for item in self.items]
        if before not in self.items:
            items.append(after)
        return Cart([item for item in items if item.quantity > 0])


@dataclass(frozen=True)
class SignedIn:
    """Who signed in, when, and what the session was until then: its handle, and the digest by which the store knew the cookie."""

    name: str
    at: datetime
    handle_before: str
    digest_before: str


@dataclass(frozen=True)
class Replay:
    """What came of a request with this browser's cookies from another address, and of one from its own."""

    thief: str
    refused: str | None
    status: int
    owner: str | None
    owner_let_in: bool


PRODUCTS = {
    "teapot": Product("Teapot", Decimal("24.00")),
    "cup": Product("Cup", Decimal("7.50")),
    "tea": Product("Green tea", Decimal("4.80")),
    "biscuits": Product("Biscuits", Decimal("3.20")),
}

visits: Key[int] = Key("visits", int)
cart: Key[Cart] = Key("cart", Cart)
user: Key[SignedIn] = Key("user", SignedIn)
replay: Key[Replay] = Key("replay", Replay)
notices: ListKey[str] = ListKey("notices", str)  # shown once, on the page that comes next
form_token: Key[str] = Key(
    "form_token", str
)  # what a form of another site cannot know: the library has no CSRF token, an application keeps its own


@dataclass(frozen=True)
class Stored:
    """What the store has of one session: digests of its two cookies, and one encoded value per key."""

    locator: bytes
    digest: bytes
    tag_digest: bytes
    revision: int
    fields: Mapping[str, bytes]


def stored(store: Store, handle: str, now: float) -> Stored | None:
    """Look it up as an administrator would who has nothing but the store: that is no use of the session."""
    record = store.open(bytes.fromhex(handle), None, Idle(None, 0.0), now)
    if record is None:
        return None
    return Stored(record.locator, record.digest, record.tag_digest, record.revision, dict(record.fields))


def same_user(one: SessionView, other: SessionView) -> bool:
    """Whether both sessions are signed in, under one name."""
    first, second = one.get(user), other.get(user)
    return first is not None and second is not None and first.name == second.name


def state(session: SessionView) -> str:
    """A short text that is another one when what the page shows is out of date."""
    return sha256(repr((session.get(user), session.get(cart))).encode()).hexdigest()[:16]
