"""Random histories of a store against the model: a Hypothesis state machine. The only module of the kit that imports Hypothesis.

A history is some sessions, everything that the verbs can do to them, and a clock that goes on and back; every answer is compared with
the model's. A failure is shrunk to the shortest history that shows it. The examples are the same in every run.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from typing_extensions import override

from ..changes import Changes, Idle, ListChange, Renewal, Use, Write
from ..record import FIELD_FLAGS_AT, FIELD_HOOKED, FIELD_LIST, Record, field_revision, unpack_elements
from .lockstep import Lockstep
from .stand import ADDRESS, GRACE, LEASE, Kit, NewSecret, Stand
from .subject import Subject

R = TypeVar("R")

STEPS = 40
_NAMES = ("a", "b", "h", "l", "m")

payloads: st.SearchStrategy[bytes] = st.sampled_from([b"", b"1", b"2", b"\x00\xff"])
addresses: st.SearchStrategy[str | None] = st.sampled_from([ADDRESS, "2001:db8::1", None])
idles: st.SearchStrategy[Idle] = st.sampled_from([Idle(600.0, 60.0), Idle(60.0, 6.0), Idle(600.0, 6.0), Idle(None, 60.0)])
seconds: st.SearchStrategy[float] = st.sampled_from(
    [660.0, 61.0, 60.0, 300.0, 0.25, 5.75, 66.0, 599.75, 3600.0, GRACE, -1.0, -61.0, -3600.0]
)
waits: st.SearchStrategy[float] = st.sampled_from([0.0, 0.0, 0.0, 0.0, 61.0, 660.0, 5000.0])
"""Before a verb: most follow at once."""
limits: st.SearchStrategy[int] = st.sampled_from([1, 2, 3, 100])
elements: st.SearchStrategy[list[tuple[int, int, bytes]]] = st.lists(st.tuples(st.sampled_from([1, 7]), st.just(0), payloads), max_size=2)
indices: st.SearchStrategy[list[int]] = st.lists(st.integers(0, 3), max_size=2, unique=True)


def history(kit: Kit) -> type[RuleBasedStateMachine]:
    """The machine for a run of the kit."""

    class History(RuleBasedStateMachine):
        sessions = Bundle("sessions")
        store: Subject | None = None
        """Kept from one history to the next, unless it has failed: making one may take long."""
        drawn = 0

        def __init__(self) -> None:
            super().__init__()
            cls = type(self)
            store = cls.store
            if store is None:
                store = cls.store = self.run(kit.fresh())
            self.stand = Stand(store, cls.drawn)
            self.steps = Lockstep(store)
            self.secrets: dict[bytes, list[NewSecret]] = {}
            """The digests that each session has had, the first one first."""

        def run(self, step: Coroutine[Any, Any, R]) -> R:
            try:
                return kit.runner.run(step)
            except BaseException:
                discard(type(self))
                raise

        @initialize(target=sessions, hooked=st.booleans())
        def begin(self, hooked: bool) -> Record:
            return self.store_new(self.stand.record({"a": b"0", "h": b"0", "l": [b"0"]}, hooked=["h"] if hooked else []))

        def store_new(self, record: Record) -> Record:
            self.run(self.steps.create(record, self.stand.now))
            self.secrets[record.locator] = [NewSecret(record.digest, record.tag_digest)]
            return record

        @precondition(lambda self: len(self.secrets) < 4)
        @rule(
            target=sessions,
            values=st.dictionaries(st.sampled_from(_NAMES[:3]), payloads, max_size=2),
            listed=st.lists(payloads, max_size=2),
            timeout=st.sampled_from([600.0, 60.0, None]),
            lifetime=st.sampled_from([None, None, 3600.0, 660.0]),
            address=addresses,
            own=st.booleans(),
        )
        def create(
            self,
            values: dict[str, bytes],
            listed: list[bytes],
            timeout: float | None,
            lifetime: float | None,
            address: str | None,
            own: bool,
        ) -> Record:
            held: dict[str, Any] = {**values, "l": listed} if listed else dict(values)
            hooked = ["h"] if "h" in held else []
            granularity = 6.0 if timeout == 60.0 else 60.0
            return self.store_new(
                self.stand.record(
                    held, hooked=hooked, timeout=timeout, granularity=granularity, lifetime=lifetime, address=address, own_timeout=own
                )
            )

        @rule(session=sessions)
        def create_again(self, session: Record) -> None:
            if session.locator in self.steps.model.records:
                again = self.stand.record({"a": b"again"})
                again.locator = session.locator
                self.run(self.steps.create(again, self.stand.now))

        @rule(session=sessions)
        def look(self, session: Record) -> None:
            self.run(self.steps.open(session.locator, None, Idle(600.0, 60.0), self.stand.now))

        @rule(session=sessions, which=st.integers(-3, 0), address=addresses, anywhere=st.booleans(), idle=idles, wait=waits)
        def use(self, session: Record, which: int, address: str | None, anywhere: bool, idle: Idle, wait: float) -> None:
            self.stand.now += wait
            use = Use(session.locator, self.secret(session, which).tag_digest, address, anywhere)
            self.run(self.steps.open(session.locator, use, idle, self.stand.now))

        @rule(session=sessions, which=st.integers(-3, 0), idle=idles, wait=waits)
        def touch(self, session: Record, which: int, idle: Idle, wait: float) -> None:
            self.stand.now += wait
            self.run(self.steps.touch(session.locator, self.secret(session, which).digest, idle, self.stand.now))

        def secret(self, session: Record, which: int) -> NewSecret:
            """-1 is the newest, -2 the one before; 0 is wrong, and so is one that it has not had."""
            had = self.secrets[session.locator]
            return had[which] if which and -which <= len(had) else NewSecret(b"w" * 32, b"w" * 16 if which else b"")

        @rule(
            session=sessions,
            writes=st.dictionaries(
                st.sampled_from(_NAMES),
                st.tuples(st.none() | payloads, st.sampled_from(["plain", "plain", "now", "absent", "stale"])),
                max_size=3,
            ),
            lists=st.dictionaries(st.sampled_from(["l", "m", "a"]), st.tuples(elements, elements, indices), max_size=2),
            clear=st.sampled_from([False, False, False, True]),
            timeout=st.sampled_from(["keep", "keep", "keep", 60.0, 7200.0, None]),
            persistent=st.sampled_from(["keep", "keep", True, False, None]),
            renewal=st.sampled_from([None, None, None, 0.0, 30.0, 600.0]),
            under=st.sampled_from([-1, -1, -2]),
            counts=st.sampled_from([True, True, True, False]),
            idle=idles,
            wait=waits,
        )
        def commit(
            self,
            session: Record,
            writes: dict[str, tuple[bytes | None, str]],
            lists: dict[str, tuple[list[Any], list[Any], list[int]]],
            clear: bool,
            timeout: Any,
            persistent: Any,
            renewal: float | None,
            under: int,
            counts: bool,
            idle: Idle,
            wait: float,
        ) -> None:
            self.stand.now += wait
            seen = self.run(self.steps.open(session.locator, None, idle, self.stand.now))
            changes = Changes(clear=clear, counts_as_use=counts)
            changes.writes = {name: self.write(seen, name, *write) for name, write in writes.items()}
            changes.lists = {name: list_change(seen, name, *change) for name, change in lists.items() if name not in writes}
            if timeout != "keep":
                changes.timeout, changes.set_timeout, changes.granularity = timeout, True, 6.0 if timeout == 60.0 else None
            if persistent != "keep":
                changes.persistent, changes.set_persistent = persistent, True
            if renewal is not None:
                secret = self.stand.another_secret()
                changes.renewal = Renewal(self.secret(session, under).digest, *secret, ADDRESS, renewal)
            outcome = self.run(self.steps.commit(session.locator, changes, idle, self.stand.now))
            if changes.renewal is not None and outcome.record is not None and outcome.record.digest == changes.renewal.digest:
                self.secrets[session.locator].append(NewSecret(changes.renewal.digest, changes.renewal.tag_digest))

        def write(self, seen: Record | None, name: str, payload: bytes | None, condition: str) -> Write:
            packed = None if seen is None else seen.fields.get(name)
            write = Write(payload, flags=FIELD_HOOKED if name == "h" and payload is not None else 0)
            if condition == "absent":
                write.base = 0
            elif condition == "stale":
                write.base = 1_000_000
            elif condition == "now" and (packed is None or not packed[FIELD_FLAGS_AT] & FIELD_LIST):
                write.base = field_revision(packed)
            return write

        @rule(session=sessions, lease=st.sampled_from([0.25, LEASE, 3600.0]))
        def end(self, session: Record, lease: float) -> None:
            self.run(self.steps.end(session.locator, "ended", self.stand.now, lease))

        @rule(session=sessions, names=st.none() | st.lists(st.sampled_from(_NAMES), max_size=3))
        def clear(self, session: Record, names: list[str] | None) -> None:
            self.run(self.steps.clear(session.locator, names))

        @rule(limit=limits, wait=waits)
        def sweep(self, limit: int, wait: float) -> None:
            self.stand.now += wait
            self.run(self.steps.sweep(self.stand.now, limit, LEASE, GRACE))

        @rule(limit=limits, wait=waits)
        def sweep_all(self, limit: int, wait: float) -> None:
            self.stand.now += wait
            self.run(self.steps.sweep_all(self.stand.now, limit, LEASE, GRACE))

        @rule(limit=limits)
        def scan(self, limit: int) -> None:
            self.run(self.steps.scan_all(limit))

        @rule(by=seconds)
        def the_clock_moves(self, by: float) -> None:
            self.stand.now += by

        @override
        def teardown(self) -> None:
            type(self).drawn = self.stand.drawn
            if type(self).store is None:
                return  # it has failed, and its store is gone

            async def look_at_all() -> None:
                for locator in list(self.steps.model.records):
                    await self.steps.open(locator, None, Idle(600.0, 60.0), self.stand.now)
                await self.steps.scan_all(100)
                await self.steps.wipe()

            self.run(look_at_all())

    def discard(machine: type[History]) -> None:
        store, machine.store = machine.store, None
        if store is not None:
            kit.runner.run(store.close())
            store.release()

    return History


def list_change(seen: Record | None, name: str, appended: list[Any], prepended: list[Any], places: list[int]) -> ListChange:
    """A change of a list as it was seen; elements that are to go are named by their place in it."""
    packed = None if seen is None else seen.fields.get(name)
    there = unpack_elements(packed) if packed is not None and packed[FIELD_FLAGS_AT] & FIELD_LIST else []
    return ListChange(appended, prepended, [there[place].sequence for place in places if place < len(there)])


def run(kit: Kit) -> None:
    """Play so many histories; raises what the shortest one raises that fails."""
    run_state_machine_as_test(
        history(kit),
        settings=settings(
            max_examples=kit.examples,
            stateful_step_count=STEPS,
            derandomize=True,
            print_blob=False,
            database=None,
            deadline=None,
            report_multiple_bugs=False,
            suppress_health_check=(HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much),
        ),
    )
