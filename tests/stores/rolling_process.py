"""One process of a program in an older or a newer release: `python rolling_process.py URL RELEASE`. Reads commands and answers them.

A line is a JSON list: the cookies, what to do, and with what. The answer is what came of it. Both releases do the same, each with the
keys that it declares: the newer one has renamed `visits`, changed name and type of `cart`, made a new version of `profile`, and has a key
that the older one does not know; and so has the older one.
"""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

from tests.stores.records import PEER
from typed_sessions import Conflict, Downgrade, Key, Request, Session, SessionManager, Upgrades, open_store


@dataclass
class ProfileV1:
    name: str


@dataclass
class Profile:
    first: str
    last: str


@dataclass
class Basket:
    counts: dict[str, int] = field(default_factory=dict[str, int])
    voucher: str = ""


def to_profile(old: ProfileV1) -> Profile:
    first, _, last = old.name.partition(" ")
    return Profile(first, last)


def to_basket(names: list[str]) -> Basket:
    return Basket({name: names.count(name) for name in sorted(set(names))})


def to_cart(basket: Basket) -> list[str]:
    return [name for name, count in sorted(basket.counts.items()) for _ in range(count)]


class Older:
    def __init__(self) -> None:
        self.visits = Key("visits", int)
        self.own = Key("only older", str)
        self.profile = Key("profile", ProfileV1)
        self.cart = Key("cart", list[str])

    def put(self, session: Session, name: str) -> None:
        session.update(self.cart, lambda names: [*names, name], default=[])

    def call(self, session: Session, name: str) -> None:
        session[self.profile] = ProfileV1(name)

    def see(self, session: Session) -> Any:
        profile = session.get(self.profile)
        return {
            "visits": session.get(self.visits),
            "own": session.get(self.own),
            "cart": sorted(session.get(self.cart, [])),
            "profile": profile and asdict(profile),
        }


class Newer:
    def __init__(self) -> None:
        up, back = Upgrades(list[str], to_basket), Downgrade(list[str], to_cart)
        self.visits = Key("hits", int, was="visits")
        self.own = Key("only newer", str)
        self.profile = Key("profile", Profile, version=2, upgrade=Upgrades(ProfileV1, to_profile))
        self.cart = Key("basket", Basket, version=2, was="cart", upgrade=up, downgrade=back)

    def put(self, session: Session, name: str) -> None:
        def put(basket: Basket) -> Basket:
            return Basket({**basket.counts, name: basket.counts.get(name, 0) + 1}, basket.voucher)

        session.update(self.cart, put, default=Basket())

    def call(self, session: Session, name: str) -> None:
        session[self.profile] = to_profile(ProfileV1(name))

    def see(self, session: Session) -> Any:
        profile = session.get(self.profile)
        return {
            "visits": session.get(self.visits),
            "own": session.get(self.own),
            "cart": to_cart(session.get(self.cart, Basket())),
            "profile": profile and asdict(profile),
        }


def main(url: str, release: str) -> None:
    program = Older() if release == "older" else Newer()
    manager = SessionManager(open_store(url))

    def perform(session: Session, action: str, value: Any) -> None:
        match action:
            case "count":
                session.update(program.visits, lambda n: n + 1, default=0)
            case "put":
                program.put(session, value)
            case "call":
                program.call(session, value)
            case "own":
                session[program.own] = value
            case "forget":
                del session[program.visits]
            case _:
                pass

    for line in sys.stdin:
        cookies, action, value, times = json.loads(line)
        answer = None
        for _ in range(times):
            cookie = "; ".join(f"{name}={value}" for name, value in cookies.items())
            request = Request(headers=[("Cookie", cookie)] if cookies else [], peer=PEER)
            headers = None
            while headers is None:
                session, finish = manager.start_check(request)
                perform(session, action, value)
                answer = program.see(session)
                with suppress(Conflict):  # others were faster until the deadline, and nothing is applied: once more
                    headers = finish()
            for name, text in headers:
                if name == "Set-Cookie":
                    cookies.update([text.partition(";")[0].split("=", 1)])
        print(json.dumps([cookies, answer]), flush=True)
    manager.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
