"""What a check stands on: a fresh store, a time, records to plant and to look at; and how checks are collected.

The time is passed to every verb, so nothing waits. Everything that is drawn is drawn from a counter: a run is the same every time.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, NamedTuple, TypeAlias, TypeVar, final

from ..changes import Changes, Idle, ListChange, Outcome, Renewal, Use, Write
from ..record import (
    FIELD_FLAGS_AT,
    FIELD_HOOKED,
    FIELD_LIST,
    HOOKED,
    LOCATOR_BYTES,
    OWN_TIMEOUT,
    SECRET_BYTES,
    TAG_DIGEST_BYTES,
    Element,
    EndReason,
    Previous,
    Record,
    pack_elements,
    pack_field,
    size_of,
    unpack_elements,
    unpack_field,
)
from .lockstep import scan_all
from .model import difference
from .report import Unexpected, expect, expect_that
from .shape import faults
from .subject import Runner, Subject

R = TypeVar("R")

START = 1_700_000_000.25
"""When everything begins, in seconds since 1970."""
ADDRESS = "10.1.2.3"
IDLE = Idle(600.0, 60.0)
LEASE = 60.0
GRACE = 7 * 86_400.0

Values: TypeAlias = Mapping[str, "bytes | Sequence[bytes]"]
"""What a record holds: payloads by name; of a list, a sequence of them."""


class NewSecret(NamedTuple):
    """The digests of another secret, for a renewal."""

    digest: bytes
    tag_digest: bytes


@final
class Stand:
    """A store with nothing in it, and the time that it is told."""

    def __init__(self, store: Subject, drawn: int = 0) -> None:
        self.store = store
        self.now = START
        self.drawn: int = drawn
        """How much was drawn so far: a later stand on the same store goes on from there, and so draws no locator again."""

    def draw(self, size: int) -> bytes:
        """So many bytes that were not drawn before."""
        self.drawn += 1
        return sha256(b"%d" % self.drawn).digest()[:size]

    def record(
        self,
        values: Values | None = None,
        *,
        hooked: Iterable[str] = (),
        timeout: float | None = 600.0,
        granularity: float = 60.0,
        lifetime: float | None = None,
        address: str | None = ADDRESS,
        own_timeout: bool = False,
    ) -> Record:
        """A new session's record, as a manager makes it; nothing is stored. `hooked` names the values that have clean-up hooks."""
        made = Record(
            self.draw(LOCATOR_BYTES),
            self.draw(SECRET_BYTES),
            self.draw(TAG_DIGEST_BYTES),
            self.now,
            self.now,
            timeout,
            granularity,
            1,
            address,
        )
        if lifetime is not None:
            made.deadline = self.now + lifetime
        fields: dict[str, bytes] = {}
        hooks = set(hooked)
        for name, value in (values or {}).items():
            if isinstance(value, bytes):
                fields[name] = pack_field(1, 1, FIELD_HOOKED if name in hooks else 0, value)
            else:
                fields[name] = pack_elements(1, [Element((1 << 20) + number, 1, 0, payload) for number, payload in enumerate(value)])
        made.unpacked = fields
        made.flags = (HOOKED if hooks else 0) | (OWN_TIMEOUT if own_timeout else 0)
        made.size = size_of(fields)
        return made

    async def begin(self, values: Values | None = None, **settings: Any) -> Record:
        """Store a new session, with the settings of `record`."""
        record = self.record(values, **settings)
        expect_that(await self.store.create(record, self.now) in ("created", "crowded"), "create of a locator just drawn said 'taken'")
        return record

    def another_secret(self) -> NewSecret:
        return NewSecret(self.draw(SECRET_BYTES), self.draw(TAG_DIGEST_BYTES))

    # -- the verbs, at the stand's time --

    async def look(self, record: Record) -> Record | None:
        """What is stored now; not a use."""
        return await self.store.open(record.locator, None, IDLE, self.now)

    async def stored(self, record: Record) -> Record:
        """What is stored now; it has to be there."""
        found = await self.look(record)
        if found is None:
            raise Unexpected("the session is not there any more")
        return found

    async def use(self, record: Record, use: Use | None = None, idle: Idle = IDLE) -> Record | None:
        """Open it, as the request that has its cookies."""
        return await self.store.open(record.locator, use_of(record) if use is None else use, idle, self.now)

    async def touch(self, record: Record, digest: bytes | None = None, idle: Idle = IDLE) -> bool:
        return await self.store.touch(record.locator, record.digest if digest is None else digest, idle, self.now)

    async def commit(self, record: Record, changes: Changes, idle: Idle = IDLE) -> Outcome:
        return await self.store.commit(record.locator, changes, idle, self.now)

    async def committed(self, record: Record, changes: Changes, idle: Idle = IDLE) -> Record:
        """Commit what has to succeed; what is stored then."""
        outcome = await self.commit(record, changes, idle)
        expect("commit", outcome.status, "committed")
        if outcome.record is None:
            raise Unexpected("commit: 'committed' without the record that is stored now")
        return outcome.record

    async def end(self, record: Record, reason: EndReason = "ended", lease: float = LEASE) -> Record | None:
        return await self.store.end(record.locator, reason, self.now, lease)

    async def sweep(self, limit: int = 1000, lease: float = LEASE, grace: float = GRACE) -> list[Record]:
        """Sweep until nothing more is due; all that came out."""
        found: list[Record] = []
        for _ in range(1000):
            swept, more = await self.store.sweep(self.now, limit, lease, grace)
            expect_that(len(swept) <= limit, f"a sweep of {limit} gave out {len(swept)}")
            found += swept
            if not more:
                return found
        raise Unexpected(f"1000 sweeps of {limit} in a row say that more is due, and nothing is")

    async def scan(self, limit: int = 1000) -> list[Record]:
        """A whole scan."""
        return await scan_all(self.store, limit)

    async def expect_stored(self, record: Record, what: str = "what is stored") -> None:
        """That this very record is what is stored."""
        same(what, await self.look(record), record)

    async def expect_gone(self, record: Record) -> None:
        """That no verb finds the session any more (rule 8)."""
        expect("open of an ended session", await self.look(record), None)
        expect("open with its secret", await self.use(record), None)
        expect("touch of an ended session", await self.touch(record), False)
        expect("commit to an ended session", (await self.commit(record, writing(revived=b"x"))).status, "gone")
        expect("end of an ended session", await self.end(record), None)
        expect("the ended session, in a scan", [found for found in await self.scan() if found.locator == record.locator], [])
        expect("open after all that", await self.look(record), None)


def use_of(record: Record, address: str | None = ADDRESS, *, any_address: bool = False, tag_digest: bytes | None = None) -> Use:
    """What a request with this session's cookies presents."""
    return Use(record.locator, record.tag_digest if tag_digest is None else tag_digest, address, any_address)


def writing(**payloads: bytes | None) -> Changes:
    """Changes that assign these values, or remove them (None)."""
    return Changes({name: Write(payload) for name, payload in payloads.items()})


def appending(name: str, *payloads: bytes, prepended: Sequence[bytes] = (), removed: Sequence[int] = ()) -> Changes:
    """Changes to one list."""
    return Changes(lists={name: ListChange([(1, 0, one) for one in payloads], [(1, 0, one) for one in prepended], removed)})


def renewing(record: Record, secret: NewSecret, overlap: float = 0.0, address: str | None = ADDRESS) -> Changes:
    """Changes that replace the secret of a session as it was opened."""
    return Changes(renewal=Renewal(record.digest, secret.digest, secret.tag_digest, address, overlap))


def renewed(record: Record, secret: NewSecret) -> Record:
    """The record as a request sees it that has the new cookies."""
    after = record.copy()
    after.previous = Previous(record.digest, record.tag_digest, 0.0)
    after.digest, after.tag_digest = secret
    return after


def values_of(record: Record) -> dict[str, bytes | list[bytes]]:
    """What a record holds."""
    found: dict[str, bytes | list[bytes]] = {}
    for name, packed in record.fields.items():
        is_list = packed[FIELD_FLAGS_AT] & FIELD_LIST
        found[name] = [element.payload for element in unpack_elements(packed)] if is_list else unpack_field(packed).payload
    return found


def same(what: str, found: Record | None, expected: Record | None) -> None:
    """Raise `Unexpected` unless both records say the same."""
    different = difference(found, expected)
    if different:
        raise Unexpected(f"{what}: {different}")


# -- checks, and what runs them -------------------------------------------------


@final
class Kit:
    """What one run is given: how to make stores, how to run coroutines, how much to try."""

    def __init__(
        self,
        runner: Runner,
        make_store: Callable[[], Any],
        make_bounded: Callable[[int], Any] | None,
        reopen: Callable[[Any], Any] | None,
        examples: int,
        thorough: bool,
    ) -> None:
        self.runner = runner
        self.make_bounded = make_bounded
        self.examples = examples
        self.thorough = thorough
        self._make_store = make_store
        self._reopen = reopen

    def on_fresh(self, work: Callable[[Stand], Coroutine[Any, Any, R]]) -> R:
        """Run `work` on a new store, which is closed after it."""
        return self.runner.run(self._on(self._make_store, work, self._reopen))

    def on_bounded(self, bound: int, work: Callable[[Stand], Coroutine[Any, Any, R]]) -> R:
        """The same on a store that holds so many sessions."""
        make = self.make_bounded
        assert make is not None
        return self.runner.run(self._on(lambda: make(bound), work))

    def faults(self) -> list[str]:
        """What can be seen to be wrong with a store before it is asked for anything."""

        async def look() -> list[str]:
            store = await self.runner.store(self._make_store)
            found = faults(store, self.runner.asynchronous)
            if not found:
                subject = self.runner.subject(store)
                await subject.close()
                subject.release()
            return found

        return self.runner.run(look())

    async def _on(self, make: Callable[[], Any], work: Callable[[Stand], Awaitable[R]], reopen: Callable[[Any], Any] | None = None) -> R:
        store = await self.runner.store(make)
        other = None if reopen is None else await self.runner.store(lambda: reopen(store))
        subject = self.runner.subject(store, other)
        try:
            await expect_empty(subject)
            return await work(Stand(subject))
        finally:
            if other is not None:
                await self.runner.subject(other).close()
            await subject.close()
            subject.release()

    async def fresh(self) -> Subject:
        """A new store, which the caller closes and releases."""
        return self.runner.subject(await self.runner.store(self._make_store))


async def expect_empty(subject: Subject) -> None:
    """That the author's factory gives what it should: every check counts what it finds."""
    page, _ = await subject.scan(None, 1)
    expect_that(not page, "make_store has to give an empty store each time (a new file, prefix or schema), and there is a session in it")


@final
@dataclass(frozen=True)
class Check:
    """One promise: `play` raises unless the store keeps it."""

    name: str
    rules: tuple[int, ...]
    promise: str
    play: Callable[[Kit], None]


@final
class Checks(list[Check]):
    """Collects the checks of a module, in their order: `@checks(8, 18)` with the numbers of the rules. The docstring is the promise."""

    def __call__(
        self, *rules: int
    ) -> Callable[[Callable[[Stand], Coroutine[Any, Any, None]]], Callable[[Stand], Coroutine[Any, Any, None]]]:
        def collect(check: Callable[[Stand], Coroutine[Any, Any, None]]) -> Callable[[Stand], Coroutine[Any, Any, None]]:
            self.append(Check(name_of(check), rules, promise_of(check), lambda kit: kit.on_fresh(check)))
            return check

        return collect

    def of_kit(self, *rules: int) -> Callable[[Callable[[Kit], None]], Callable[[Kit], None]]:
        """For a check that makes its stores itself."""

        def collect(check: Callable[[Kit], None]) -> Callable[[Kit], None]:
            self.append(Check(name_of(check), rules, promise_of(check), check))
            return check

        return collect


def name_of(check: Callable[..., object]) -> str:
    """The name of a check's function; a callable of another kind would have none."""
    assert inspect.isfunction(check)
    return check.__name__


def promise_of(check: Callable[..., object]) -> str:
    return " ".join((inspect.getdoc(check) or "").split())
