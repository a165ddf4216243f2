"""Requests of several verbs, in every order of their store calls: enumerated, not sampled.

A request here is a generator that yields its next call and is sent the answer, as the manager would go on from it: an `open`, what the
handler does, a `commit` that is repeated from the answer of a conflict. Each order is played on the store and on the model, and every
answer is compared.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Sequence
from typing import Any, TypeAlias

from ..changes import Changes, Outcome, Write
from ..record import Record, unpack_field
from .lockstep import Lockstep
from .report import Unexpected
from .stand import GRACE, IDLE, LEASE, Checks, Kit, Stand, appending, renewing, use_of, writing
from .subject import Call

checks: Checks = Checks()

Choose: TypeAlias = Callable[[int], int]


def every_order(play: Callable[[Choose], None]) -> int:
    """Call `play(choose)` once per way in which its choices can fall out; `choose(n)` is a number below n. How many ways there are."""
    path: list[list[int]] = []
    runs = 0
    while True:
        position = 0

        def choose(options: int) -> int:
            nonlocal position
            if options == 1:
                return 0
            if position == len(path):
                path.append([0, options])
            taken, of = path[position]
            assert of == options, "the same choices led to something else"
            position += 1
            return taken

        try:
            play(choose)
        except AssertionError as problem:
            raise AssertionError(f"{problem} (in the order {[taken for taken, _ in path]})") from problem
        runs += 1
        while path and path[-1][0] + 1 == path[-1][1]:
            path.pop()
        if not path:
            return runs
        path[-1][0] += 1


# -- what a request does ---------------------------------------------------------

Asking: TypeAlias = Generator[Call, Any, None]  # Any: each verb has an answer of its own
Request: TypeAlias = Callable[["Scene"], Asking]


class Scene:
    """What the requests of one play have in common: the session as it was before, and the time."""

    def __init__(self, stand: Stand, record: Record) -> None:
        self.stand = stand
        self.record = record

    def open(self, address: str | None = None, tag_digest: bytes | None = None) -> Call:
        use = use_of(self.record, tag_digest=tag_digest) if address is None else use_of(self.record, address)
        return "open", (self.record.locator, use, IDLE, self.stand.now)

    def commit(self, changes: Changes) -> Call:
        return "commit", (self.record.locator, changes, IDLE, self.stand.now)


def _read(scene: Scene) -> Asking:
    yield scene.open()


def _writing(name: str) -> Request:
    def write(scene: Scene) -> Asking:
        yield scene.open()
        yield scene.commit(writing(**{name: scene.stand.draw(4)}))

    return write


def _counting(*also: str) -> Request:
    """An update of "n", with plain writes of others: all of it or nothing."""

    def count(scene: Scene) -> Asking:
        seen: Record | None = yield scene.open()
        while seen is not None:
            field = unpack_field(seen.fields["n"])
            changes = writing(**{name: scene.stand.draw(4) for name in also})
            changes.writes["n"] = Write(b"%d" % (int(field.payload) + 1), base=field.revision)
            outcome: Outcome = yield scene.commit(changes)
            seen = outcome.record if outcome.status == "conflict" else None

    return count


def _append(scene: Scene) -> Asking:
    yield scene.open()
    yield scene.commit(appending("l", scene.stand.draw(4)))


def _renewing(overlap: float) -> Request:
    def renew(scene: Scene) -> Asking:
        seen: Record | None = yield scene.open()
        if seen is not None:
            changes = renewing(seen, scene.stand.another_secret(), overlap)
            changes.writes = writing(a=scene.stand.draw(4)).writes
            yield scene.commit(changes)

    return renew


def _end(scene: Scene) -> Asking:
    yield scene.open()
    yield "end", (scene.record.locator, "ended", scene.stand.now, LEASE)


def _expire(scene: Scene) -> Asking:
    yield scene.open()
    scene.stand.now += 700
    yield "sweep", (scene.stand.now, 100, LEASE, GRACE)


def _roam(scene: Scene) -> Asking:
    """From another address of the same network: the manager judges, and touches."""
    seen: Record | None = yield scene.open("10.1.2.99")
    if seen is not None:
        yield "touch", (scene.record.locator, scene.record.digest, IDLE, scene.stand.now)


def _forge(scene: Scene) -> Asking:
    yield scene.open(tag_digest=b"w" * 16)
    yield "touch", (scene.record.locator, b"w" * 32, IDLE, scene.stand.now)


REQUESTS: dict[str, Request] = {
    "read": _read,
    "write": _writing("a"),
    "write another": _writing("b"),
    "count": _counting(),
    "both": _counting("a", "b"),
    "append": _append,
    "sign in": _renewing(0.0),
    "rotate": _renewing(60.0),
    "end": _end,
    "expire": _expire,
    "roam": _roam,
    "forge": _forge,
}

OFTEN = ("count", "append", "rotate", "end", "expire")
"""What is played in threes, unless the run is a thorough one."""


# -- the play --------------------------------------------------------------------


async def play(stand: Stand, names: Sequence[str], choose: Choose, hooked: bool) -> None:
    """One order of these requests, the answers compared with the model's, call by call and at the end."""
    steps = Lockstep(stand.store)
    record = stand.record({"a": b"0", "n": b"0", "l": [b"0"]}, hooked=["a"] if hooked else [])
    await steps.create(record, stand.now)
    stand.now += 61
    scene = Scene(stand, record)
    under_way: list[tuple[str, Asking, Call]] = []
    for name in names:
        asking = REQUESTS[name](scene)
        under_way.append((name, asking, next(asking)))
    done: list[str] = []
    try:
        while under_way:
            # Those that do the same and have not begun are told apart by nothing: only the first of them, or each order comes up twice.
            waiting = [name for name, _, _ in under_way]
            choices = [number for number, name in enumerate(waiting) if not name or name not in waiting[:number]]
            number = choices[choose(len(choices))]
            _, asking, (verb, args) = under_way[number]
            done.append(verb)
            answer = await getattr(steps, verb)(*args)
            try:
                under_way[number] = "", asking, asking.send(answer)
            except StopIteration:
                del under_way[number]
        await steps.open(record.locator, None, IDLE, stand.now)
    except Unexpected as problem:
        raise Unexpected(f"{' + '.join(names)}, in the order {', '.join(done)}: {problem}") from problem
    finally:
        for _, asking, _ in under_way:
            asking.close()
    await steps.wipe()


def _play_all(kit: Kit, combinations: Sequence[tuple[str, ...]]) -> None:
    async def begin() -> Stand:
        return Stand(await kit.fresh())

    stand = kit.runner.run(begin())
    try:
        for number, names in enumerate(combinations):
            for hooked in (False, True) if kit.thorough else (bool(number % 2),):
                every_order(lambda choose, names=names, hooked=hooked: kit.runner.run(play(stand, names, choose, hooked)))  # type: ignore[misc]  # a lambda with defaults has no inferred type
    finally:
        kit.runner.run(stand.store.close())
        stand.store.release()


@checks.of_kit(7, 8, 9, 11, 12)
def two_requests_in_every_order(kit: Kit) -> None:
    """Of two requests at a session, in every order of their store calls: every answer, and what is stored then, is the model's."""
    _play_all(kit, list(itertools.combinations_with_replacement(REQUESTS, 2)))


@checks.of_kit(7, 8, 9, 11, 12)
def three_requests_in_every_order(kit: Kit) -> None:
    """Of three requests at a session, in every order of their store calls: every answer, and what is stored then, is the model's."""
    _play_all(kit, list(itertools.combinations_with_replacement(REQUESTS if kit.thorough else OFTEN, 3)))
