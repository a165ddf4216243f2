"""Checks of verbs at the same time: threads or tasks on one store (rules 7 to 9, 13).

A verb is atomic: whatever overlaps, there is an order of the calls in which the model gives the same answers and keeps the same record.
What a race hides this may miss; it never complains of a store that is right.
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Sequence
from copy import deepcopy
from typing import Any, NamedTuple, TypeAlias

from ..changes import Changes, Outcome, Write
from ..record import Record, field_revision, unpack_field
from .model import Model, facts
from .report import Unexpected, expect, expect_that
from .stand import GRACE, IDLE, LEASE, Checks, Kit, Stand, appending, renewing, use_of, values_of, writing
from .subject import AT_ONCE, Call

checks: Checks = Checks()

ROUNDS = 10


@checks(7)
async def updates_at_once_add_up(stand: Stand) -> None:
    """Conditional writes of one counter, each repeated until it is committed, add up: each conflict's answer is what to repeat it from."""
    record = await stand.begin({"n": b"0"})
    total = 0
    for _ in range(ROUNDS):
        waiting = [await stand.stored(record)] * AT_ONCE
        total += AT_ONCE
        for _ in range(AT_ONCE):
            calls: list[Call] = []
            for seen in waiting:
                field = unpack_field(seen.fields["n"])
                changes = Changes({"n": Write(b"%d" % (int(field.payload) + 1), base=field.revision)})
                calls.append(("commit", (record.locator, changes, IDLE, stand.now)))
            answers: list[Outcome] = await stand.store.together(calls)
            committed = [answer for answer in answers if answer.status == "committed"]
            expect_that(committed, "of several conditional writes at once, none was committed")
            waiting = [answer.record for answer in answers if answer.status == "conflict" and answer.record is not None]
            expect("commits and conflicts", len(committed) + len(waiting), len(answers))
            if not waiting:
                break
        expect_that(not waiting, f"a conditional write was in conflict {AT_ONCE} times, though one of them is committed every time")
        expect("the counter", values_of(await stand.stored(record))["n"], b"%d" % total)


@checks(7)
async def different_keys_at_once_are_all_there(stand: Stand) -> None:
    """Plain writes of different keys at the same time are all committed, and all there."""
    record = await stand.begin()
    expected: dict[str, bytes] = {}
    for number in range(ROUNDS):
        names = [f"k{number}.{one}" for one in range(AT_ONCE)]
        expected.update((name, name.encode()) for name in names)
        calls: list[Call] = [("commit", (record.locator, Changes({name: Write(name.encode())}), IDLE, stand.now)) for name in names]
        expect("the answers", {answer.status for answer in await stand.store.together(calls)}, {"committed"})
    found = await stand.stored(record)
    expect("the values", values_of(found), expected)
    expect("the revision", found.revision, 1 + ROUNDS * AT_ONCE)


@checks(7)
async def appends_at_once_are_all_there(stand: Stand) -> None:
    """Elements appended at the same time are all in the list, once."""
    record = await stand.begin({"l": [b"first"]})
    expected = [b"first"]
    for number in range(ROUNDS):
        elements = [b"%d.%d" % (number, one) for one in range(AT_ONCE)]
        expected += elements
        calls: list[Call] = [("commit", (record.locator, appending("l", element), IDLE, stand.now)) for element in elements]
        expect("the answers", {answer.status for answer in await stand.store.together(calls)}, {"committed"})
    expect("the elements", sorted(values_of(await stand.stored(record))["l"]), sorted(expected))


async def one_wins(stand: Stand, what: str, begin: Callable[[], Awaitable[list[Call]]], won: Callable[[Any], object]) -> None:
    for _ in range(ROUNDS):
        calls = await begin()
        winners = [answer for answer in await stand.store.together(calls) if won(answer)]
        expect(f"of {len(calls)} {what} at once, those that succeeded", len(winners), 1)


@checks(8, 18)
async def of_creations_at_once_one_wins(stand: Stand) -> None:
    """Of several `create` under one locator at the same time one says "created", the others "taken"."""

    async def begin() -> list[Call]:
        records = [stand.record({"n": b"%d" % number}) for number in range(AT_ONCE)]
        for record in records:
            record.locator = records[0].locator
        return [("create", (record, stand.now)) for record in records]

    await one_wins(stand, "creations", begin, lambda answer: answer != "taken")


@checks(13, 15)
async def of_ends_at_once_one_wins(stand: Stand) -> None:
    """Of several `end` at the same time one gets the record: `End` is delivered once, and the hooks run once."""

    async def begin() -> list[Call]:
        record = await stand.begin({"h": b"1"}, hooked=["h"])
        return [("end", (record.locator, "ended", stand.now, LEASE))] * AT_ONCE

    await one_wins(stand, "ends", begin, lambda answer: answer is not None)


@checks(9)
async def of_renewals_at_once_one_wins(stand: Stand) -> None:
    """Of several renewals of one secret at the same time one is committed, the others are superseded."""

    async def begin() -> list[Call]:
        record = await stand.begin()
        return [("commit", (record.locator, renewing(record, stand.another_secret()), IDLE, stand.now)) for _ in range(AT_ONCE)]

    await one_wins(stand, "renewals", begin, lambda answer: answer.status == "committed")


@checks(13)
async def of_sweeps_at_once_one_claims(stand: Stand) -> None:
    """A session that is over, or whose lease is, is given out by one of several sweeps at the same time."""
    for expired in (True, False):
        for _ in range(ROUNDS):
            record = await stand.begin({"h": b"1"}, hooked=["h"])
            if not expired:
                await stand.end(record)
            stand.now += 700
            answers = await stand.store.together([("sweep", (stand.now, 100, LEASE, GRACE))] * AT_ONCE)
            count = sum(swept.locator == record.locator for answer in answers for swept in answer[0])
            expect(f"how often {AT_ONCE} sweeps at once gave out a session", count, 1)
            await stand.store.clear(record.locator, None)


@checks(8)
async def an_end_at_the_same_time_is_an_end(stand: Stand) -> None:
    """Whatever else is under way when a session is ended, it is gone when all have answered."""
    for number in range(ROUNDS):
        record = await stand.begin({"a": b"1"}, hooked=["a"] if number % 2 else [])
        stand.now += 61
        await stand.look(record)
        calls: list[Call] = [
            ("end", (record.locator, "ended", stand.now, LEASE)),
            ("commit", (record.locator, writing(a=b"2"), IDLE, stand.now)),
            ("open", (record.locator, use_of(record), IDLE, stand.now)),
            ("touch", (record.locator, record.digest, IDLE, stand.now)),
            ("commit", (record.locator, renewing(record, stand.another_secret()), IDLE, stand.now)),
        ]
        first = number % len(calls)  # another one is called first each time
        await stand.store.together(calls[first:] + calls[:first])
        await stand.expect_gone(record)


@checks(8, 12, 16)
async def a_sweep_and_a_use_agree(stand: Stand) -> None:
    """A commit at the moment of a sweep either saves the session, or finds it gone: never both, never neither."""
    for number in range(ROUNDS):
        record = await stand.begin({"a": b"1"})
        stand.now += 660
        calls: list[Call] = [
            ("sweep", (stand.now, 100, LEASE, GRACE)),
            ("commit", (record.locator, writing(a=b"2"), IDLE, stand.now)),
        ]
        answers = await stand.store.together(calls[:: -1 if number % 2 else 1])
        if number % 2:
            answers.reverse()
        swept = any(one.locator == record.locator for one in answers[0][0])
        status = answers[1].status
        expect("swept, what the commit said", (swept, status), (True, "gone") if swept else (False, "committed"))
        expect("stored after it", await stand.look(record) is not None, not swept)
        await stand.end(record)


# -- any verbs, compared with every order of them -------------------------------


class Moment(NamedTuple):
    """A session and a time at which several verbs are called."""

    name: str
    seconds: float
    hooked: bool


MOMENTS = (Moment("while it lives", 61.0, False), Moment("when it is over", 660.0, False), Moment("of hooked values", 660.0, True))

Make: TypeAlias = "Callable[[Stand, Record], Call]"


def _commit(make: Callable[[Stand, Record], Changes]) -> Make:
    return lambda stand, record: ("commit", (record.locator, make(stand, record), IDLE, stand.now))


def _born_again(stand: Stand, record: Record) -> Call:
    again = stand.record({"again": b"1"})
    again.locator = record.locator
    return "create", (again, stand.now)


CALLS: dict[str, Make] = {
    "create": _born_again,
    "open": lambda stand, record: ("open", (record.locator, use_of(record), IDLE, stand.now)),
    "touch": lambda stand, record: ("touch", (record.locator, record.digest, IDLE, stand.now)),
    "end": lambda stand, record: ("end", (record.locator, "ended", stand.now, LEASE)),
    "sweep": lambda stand, record: ("sweep", (stand.now, 100, LEASE, GRACE)),
    "write": _commit(lambda stand, record: writing(a=stand.draw(4))),
    "count": _commit(lambda stand, record: Changes({"n": Write(stand.draw(4), base=field_revision(record.fields["n"]))})),
    "first": _commit(lambda stand, record: Changes({"new": Write(stand.draw(4), base=0), "a": Write(None)})),
    "append": _commit(lambda stand, record: appending("l", stand.draw(4))),
    "sign in": _commit(lambda stand, record: renewing(record, stand.another_secret())),
    "rotate": _commit(lambda stand, record: renewing(record, stand.another_secret(), overlap=600.0)),
    "stay": _commit(lambda stand, record: Changes(timeout=None, set_timeout=True)),
}


def _answer(verb: str, answer: Any, locator: bytes) -> Any:
    """An answer so that two can be compared."""
    if verb == "commit":
        return answer.status, facts(answer.record)
    if verb == "sweep":
        return [facts(record) for record in answer[0] if record.locator == locator]
    return facts(answer) if verb in ("open", "end") else answer


def explained(before: Model, locator: bytes, calls: Sequence[Call], answers: Sequence[Any], after: Record | None) -> bool:
    """Whether some order of these calls upon the model gives these answers and leaves this record."""
    expected = [_answer(verb, answer, locator) for (verb, _), answer in zip(calls, answers, strict=True)]
    left = facts(after)
    for order in itertools.permutations(range(len(calls))):
        model = Model(dict(before.records))
        if (
            all(_answer(calls[one][0], getattr(model, calls[one][0])(*deepcopy(calls[one][1])), locator) == expected[one] for one in order)
            and facts(model.get(locator)) == left
        ):
            return True
    return False


async def at_once(stand: Stand, names: Sequence[str], moment: Moment) -> None:
    """Call these at one moment of a session, and look for an order that explains their answers."""
    record = await stand.begin({"a": b"0", "n": b"0", "l": [b"0"]}, hooked=["a"] if moment.hooked else [])
    stand.now += moment.seconds
    before = Model()
    before.put(record)
    calls = [CALLS[name](stand, record) for name in names]
    # The model is told copies, made before the store has seen the arguments.
    kept = deepcopy(calls)
    answers = await stand.store.together(calls)
    after = await stand.look(record)
    if not explained(before, record.locator, kept, answers, after):
        said = "; ".join(
            f"{name}: {_answer(verb, answer, record.locator)!r}" for name, (verb, _), answer in zip(names, calls, answers, strict=True)
        )
        raise Unexpected(
            f"{' + '.join(names)} at once {moment.name}: no order of them explains the answers {said}; stored is {facts(after)}"
        )
    await stand.store.end(record.locator, "ended", stand.now, 0.0)
    await stand.store.clear(record.locator, None)


@checks.of_kit(7, 8, 9, 13)
def any_two_verbs_at_once_are_in_some_order(kit: Kit) -> None:
    """Of any two verbs at the same time on one session, one comes first: their answers and the record are those of that order."""

    async def work(stand: Stand) -> None:
        for names in itertools.combinations_with_replacement(CALLS, 2):
            for moment in MOMENTS:
                for _ in range(3 if kit.thorough else 1):
                    await at_once(stand, names, moment)

    kit.on_fresh(work)


@checks.of_kit(7, 8, 9, 13)
def any_three_verbs_at_once_are_in_some_order(kit: Kit) -> None:
    """Of any three verbs at the same time on one session: there is an order that explains their answers and the record."""

    async def work(stand: Stand) -> None:
        for number, names in enumerate(itertools.combinations_with_replacement(CALLS, 3)):
            for moment in MOMENTS if kit.thorough else [MOMENTS[number % len(MOMENTS)]]:
                await at_once(stand, names, moment)

    kit.on_fresh(work)
