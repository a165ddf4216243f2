"""A check of verbs that are cancelled, as a client that hangs up does it (rules 7, 28). Of a store that is not awaited none can be."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any, TypeAlias

from ..changes import Changes, Write
from ..record import Record
from .model import Model, difference
from .report import Unexpected, expect, expect_that
from .stand import GRACE, IDLE, LEASE, Checks, Stand, appending, renewing, use_of, values_of, writing
from .subject import Call

checks: Checks = Checks()

_PLACES = 1000
"""A verb that awaits more often than that is not cancelled at every place."""

Arguments: TypeAlias = "tuple[Any, ...]"


def _of_many_parts(stand: Stand, record: Record) -> Changes:
    """What could be stored by halves."""
    changes = renewing(record, stand.another_secret(), overlap=60.0)
    changes.writes = {"a": Write(b"1"), "n": Write(b"1"), "z": Write(None)}
    changes.lists = appending("l", b"1").lists
    return changes


VERBS: dict[str, Callable[[Stand, Record], Arguments]] = {
    "create": lambda stand, record: (stand.record({"a": b"1", "l": [b"1"]}), stand.now),
    "open": lambda stand, record: (record.locator, use_of(record), IDLE, stand.now),
    "touch": lambda stand, record: (record.locator, record.digest, IDLE, stand.now),
    "commit": lambda stand, record: (record.locator, _of_many_parts(stand, record), IDLE, stand.now),
    "end": lambda stand, record: (record.locator, "ended", stand.now, LEASE),
    "sweep": lambda stand, record: (stand.now, 1000, LEASE, GRACE),
    "clear": lambda stand, record: (record.locator, None),
    "scan": lambda stand, record: (None, 1000),
}


@checks(7, 28)
async def a_cancelled_verb_is_done_or_not_and_the_store_goes_on(stand: Stand) -> None:
    """Wherever a verb that is awaited is cancelled, it is applied as a whole or not at all, and the next one is answered as ever."""
    for verb in VERBS:
        for place in range(1, _PLACES):
            try:
                if not await _cancel(stand, verb, place):
                    break
            except Exception as problem:
                words = str(problem) if isinstance(problem, Unexpected) else f"{type(problem).__name__}: {problem}"
                raise Unexpected(f"after `{verb}` was cancelled at its await number {place}: {words}") from problem


async def _cancel(stand: Stand, verb: str, place: int) -> bool:
    """Cancel a verb at this place, and go on; whether there is such a place."""
    record = await stand.begin({"a": b"0", "n": b"0", "z": b"0", "l": [b"0"], "h": b"0"}, hooked=["h"])
    other = await stand.begin({"a": b"0"}, timeout=None)
    stand.now += 61
    if verb == "clear":
        await stand.end(record)
    elif verb == "sweep":
        stand.now += 700
    arguments = VERBS[verb](stand, record)
    subject: Record = arguments[0] if verb == "create" else record
    model = Model()
    if verb not in ("create", "clear"):
        model.put(record)
    before = model.get(subject.locator)
    if verb != "clear":
        getattr(model, verb)(*deepcopy(arguments))
    after = model.get(subject.locator)
    beside: Call = ("commit", (other.locator, writing(b=b"1"), IDLE, stand.now))
    if not await stand.store.cancelled_at(place, beside, verb, *arguments):
        return False  # what it does then is the other checks' business
    found = await stand.look(subject)
    done = difference(found, after)
    if done and difference(found, before):
        raise Unexpected(f"what is stored is neither what it was before nor what it should be: {done}")
    expect("what was committed at the same time", values_of(await stand.stored(other)), {"a": b"0", "b": b"1"})
    # The store may be told by a server only now, so that both are right; but it has to be told.
    status = (await stand.commit(subject, writing(b=b"1"))).status
    expect_that(status in ("committed", "gone"), f"a commit to this session said {status!r}")
    await _go_on(stand)
    for one in (subject, record, other):
        await stand.end(one)
        await stand.store.clear(one.locator, None)
    return True


async def _go_on(stand: Stand) -> None:
    """Everything that a store can be asked, once more."""
    record = await stand.begin({"a": b"0", "h": b"0"}, hooked=["h"])
    stand.now += 61
    await stand.use(record)
    stand.now += 61
    expect("touch of the next session", await stand.touch(record), True)
    after = await stand.committed(record, writing(a=b"1"))
    expect("the values of the next session", values_of(after), {"a": b"1", "h": b"0"})
    expect_that(record.locator in [one.locator for one in await stand.scan()], "a scan has not seen the next session")
    expect_that(await stand.end(record) is not None, "the next session could not be ended")
    await stand.expect_gone(record)
    await stand.sweep()
    await stand.store.clear(record.locator, None)
