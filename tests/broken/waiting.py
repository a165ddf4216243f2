"""Stores that wait, and are broken where they do: a lock that is not given back, a transaction that a cancelled request leaves open.

`Waiting` is sound: an asynchronous store with one connection, whose verbs are transactions under a lock, and which wait for a server
before and after each step. The others differ from it in one line.
"""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from tests.broken.stores import Sound
from typed_sessions.changes import GONE, Changes, Idle, Outcome, Use, apply
from typed_sessions.errors import StoreUnavailable
from typed_sessions.stores.base import Limits

MUCH = 65_536
"""How many bytes a session of these stores may have."""


class KeepingItsLock(Sound):
    """For threads: a lock that is not given back when the verb raises."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._limits = Limits("KeepingItsLock", MUCH, 256)

    def open(self, locator: bytes, use: Use | None, idle: Idle, now: float) -> Any:
        with self._lock:
            return super().open(locator, use, idle, now)

    def commit(self, locator: bytes, changes: Changes, idle: Idle, now: float) -> Outcome:
        self._lock.acquire()
        before = self.get(locator)
        outcome = super().commit(locator, changes, idle, now)
        if before is not None and outcome.record is not None:
            self._limits.check(before, outcome.record)
        self._lock.release()
        return outcome


class Waiting:
    """An asynchronous store that waits for a server. Sound."""

    def __init__(self) -> None:
        self._store = Sound()
        self._lock = asyncio.Lock()
        self._begun: dict[bytes, bytes] | None = None
        self._limits = Limits("Waiting", MUCH, 256)

    async def transaction(self, verb: str, *args: Any) -> Any:
        async with self._lock:
            try:
                return await self.work(verb, *args)
            except BaseException:
                self.roll_back()
                raise

    async def work(self, verb: str, *args: Any) -> Any:
        """What a transaction does, from BEGIN to COMMIT."""
        if self._begun is not None:
            raise StoreUnavailable("cannot start a transaction within a transaction")
        self._begun = dict(self._store.records)
        await asyncio.sleep(0)
        before = self._store.get(args[0]) if verb == "commit" else None
        answer = getattr(self._store, verb)(*args)
        if before is not None and answer.record is not None:
            self._limits.check(before, answer.record)
        await asyncio.sleep(0)
        self._begun = None
        return answer

    def roll_back(self) -> None:
        if self._begun is not None:
            self._store.records, self._begun = self._begun, None

    async def create(self, *args: Any) -> Any:
        self._limits.check_new(args[0])
        return await self.transaction("create", *args)

    async def open(self, *args: Any) -> Any:
        return await self.transaction("open", *args)

    async def touch(self, *args: Any) -> Any:
        return await self.transaction("touch", *args)

    async def commit(self, *args: Any) -> Any:
        return await self.transaction("commit", *args)

    async def end(self, *args: Any) -> Any:
        return await self.transaction("end", *args)

    async def sweep(self, *args: Any) -> Any:
        return await self.transaction("sweep", *args)

    async def clear(self, *args: Any) -> Any:
        return await self.transaction("clear", *args)

    async def scan(self, *args: Any) -> Any:
        return await self.transaction("scan", *args)

    async def close(self) -> None:
        """Nothing to let go of."""


class RollingBackErrorsOnly(Waiting):
    """A cancelled verb leaves its transaction open, for `CancelledError` is no `Exception`: every later one fails."""

    async def transaction(self, verb: str, *args: Any) -> Any:
        async with self._lock:
            try:
                return await self.work(verb, *args)
            except Exception:
                self.roll_back()
                raise


class KeepingHalf(Waiting):
    """A commit that is stored key by key: one that is cancelled has stored the first of them."""

    async def transaction(self, verb: str, *args: Any) -> Any:
        try:
            return await super().transaction(verb, *args)
        except asyncio.CancelledError:
            if verb == "commit":
                locator, changes, *rest = args
                self._store.commit(locator, Changes(dict([*changes.writes.items()][:1])), *rest)
            raise


class NotGivingBack(Waiting):
    """A lock that is given back after the verb, and not if it raises or is cancelled."""

    async def transaction(self, verb: str, *args: Any) -> Any:
        await self._lock.acquire()
        try:
            answer = await self.work(verb, *args)
        except BaseException:
            self.roll_back()
            raise
        self._lock.release()
        return answer


class HoldingUpTheLoop(Waiting):
    """A lock of threads in a coroutine: whoever waits for it holds up the loop, and with it the one that could give it back."""

    def __init__(self) -> None:
        super().__init__()
        self._threads_lock = threading.Lock()

    async def transaction(self, verb: str, *args: Any) -> Any:
        with self._threads_lock:
            return await super().transaction(verb, *args)


class LockingItselfOnly(Waiting):
    """A lock that is this object's, over sessions that others have too: what two processes commit at once is one of both."""

    async def work(self, verb: str, *args: Any) -> Any:
        if verb != "commit":
            return getattr(self._store, verb)(*args)
        locator, changes, idle, now = args
        record = self._store.get(locator)
        await asyncio.sleep(0)
        outcome = GONE if record is None else apply(record, changes, idle, now)
        await asyncio.sleep(0)
        if outcome.status == "committed" and outcome.record is not None:
            self._store.put(outcome.record)
        return outcome

    def reopened(self) -> LockingItselfOnly:
        """As another process would have it."""
        other = LockingItselfOnly()
        other._store = self._store
        return other
