"""Requests of one browser, in every order of their store calls and of their answers on the way back to its cookie jar.

A `Stage` is a store, a manager, a browser, and some requests, each stopped before every call of a store verb. What is chosen, in every
way there is (see `every_order`):

* which of the requests that are under way makes its next call;
* when an answer with cookies arrives at the jar (one without changes nothing there, so its arrival needs no choice);
* which requests are sent at the beginning, and which not before some answer has changed the jar: a request takes its cookies out of
  the jar when it is sent, so no other moment makes a difference.

Requests of the synchronous manager run in threads, of which one runs at a time; those of the asynchronous one are coroutines.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

from tests.interleave import CoroutineTask, Pause, Task, ThreadTask
from typed_sessions import (
    AddressPolicy,
    AsyncSessionManager,
    Begin,
    CommitRefused,
    Conflict,
    CookiePolicy,
    End,
    LostUpdate,
    MemoryStore,
    Rejected,
    Request,
    Session,
    SessionManager,
)
from typed_sessions.conformance.orders import Choose, every_order
from typed_sessions.testing import FakeClock

PEER = "10.1.2.3"
COOKIE_POLICY = CookiePolicy()
ADDRESS_POLICY = AddressPolicy()

Headers = Sequence[tuple[str, str]]


# -- a store that stops before every verb --------------------------------------


class Call(NamedTuple):
    """One call of a store verb; the log has them in the order in which they were completed."""

    request: Asked
    verb: str
    args: tuple[Any, ...]
    result: Any
    unchanged: bool
    """Whether all records were the same after it as before; of some verbs, see `Stage.snapshot`."""


class Stopping:
    """A store for threads. A verb of the inner store may be a generator (see `tests.broken`): it is stopped at each `yield` as well."""

    blocking = False

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def _call(self, verb: str, *args: Any) -> Any:
        stage = self._stage
        task = stage.running.task
        assert task is not None
        task.pause()
        before = stage.snapshot(verb)
        result = getattr(stage.store, verb)(*args)
        while inspect.isgenerator(result):
            try:
                next(result)
            except StopIteration as stop:
                result = stop.value
            else:
                task.pause()
                before = None  # others may come in between, and make changes of their own
        stage.record(verb, args, result, before)
        if stage.stop_after:
            task.pause()
        return result

    def create(self, *args: Any) -> Any:
        return self._call("create", *args)

    def open(self, *args: Any) -> Any:
        return self._call("open", *args)

    def touch(self, *args: Any) -> Any:
        return self._call("touch", *args)

    def commit(self, *args: Any) -> Any:
        return self._call("commit", *args)

    def end(self, *args: Any) -> Any:
        return self._call("end", *args)

    def sweep(self, *args: Any) -> Any:
        return self._call("sweep", *args)

    def clear(self, *args: Any) -> Any:
        return self._call("clear", *args)

    def scan(self, *args: Any) -> Any:
        return self._call("scan", *args)

    def close(self) -> None:
        """Nothing to let go of."""


class AsyncStopping:
    """The same for coroutines."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    async def _call(self, verb: str, *args: Any) -> Any:
        stage = self._stage
        await Pause()
        before = stage.snapshot(verb)
        result = getattr(stage.store, verb)(*args)
        while inspect.isgenerator(result):
            try:
                next(result)
            except StopIteration as stop:
                result = stop.value
            else:
                await Pause()
                before = None
        stage.record(verb, args, result, before)
        if stage.stop_after:
            await Pause()
        return result

    async def create(self, *args: Any) -> Any:
        return await self._call("create", *args)

    async def open(self, *args: Any) -> Any:
        return await self._call("open", *args)

    async def touch(self, *args: Any) -> Any:
        return await self._call("touch", *args)

    async def commit(self, *args: Any) -> Any:
        return await self._call("commit", *args)

    async def end(self, *args: Any) -> Any:
        return await self._call("end", *args)

    async def sweep(self, *args: Any) -> Any:
        return await self._call("sweep", *args)

    async def clear(self, *args: Any) -> Any:
        return await self._call("clear", *args)

    async def scan(self, *args: Any) -> Any:
        return await self._call("scan", *args)

    async def close(self) -> None:
        """Nothing to let go of."""


# -- requests, and the stage they are on ----------------------------------------


@dataclass(frozen=True)
class Script:
    """What a request does. `work` gets the session and a name for what the request writes; `whole` instead is all of a request."""

    name: str
    work: Callable[[Session, str], object] | None = None
    whole: Callable[[Stage, Any, Request], Any] | None = None
    peer: str = PEER
    forged: bool = False
    """The request is nobody's: it has the locator right and the secret wrong, and a jar of its own."""


@dataclass(eq=False)
class Asked:
    """One request on the stage, and what became of it."""

    script: Script
    token: str
    manager: Any
    task: Task | None = None
    presented: dict[str, str] = field(default_factory=dict[str, str])
    handle: str = ""
    """Of the session that the handler was given, if that is stored."""
    rejected: Rejected | None = None
    conflict: Conflict | None = None
    answer: Headers = ()
    finished: bool = False
    arrived: bool = False

    def __repr__(self) -> str:
        return self.token

    @property
    def set_cookies(self) -> list[str]:
        return [value for name, value in self.answer if name == "Set-Cookie"]


class Stage:
    """One play: the requests of these scripts upon a store, in the order that `choose` gives."""

    def __init__(
        self,
        kind: str,
        scripts: Sequence[Script],
        *,
        prepare: Callable[[Session], object] | None,
        store: Callable[[], Any] = lambda: MemoryStore(shards=2),
        cookie_policy: CookiePolicy = COOKIE_POLICY,
        processes: int = 1,
        dead: bool = False,
        stop_after: bool = False,
        lead: float = 0,
    ) -> None:
        """
        prepare     what the browser's session holds before the play; None for a browser without one
        processes   that many managers, which the requests come to in turn
        dead        the session has ended before the play
        stop_after  stop after each call of a verb as well, for what the managers share without a store
        lead        seconds between the preparation and the play
        """
        self.kind = kind
        self.clock = FakeClock()
        self.store = store()
        self.stop_after = stop_after
        options: dict[str, Any] = {"clock": self.clock, "cookie_policy": cookie_policy, "address_policy": ADDRESS_POLICY}
        self.plain = SessionManager(self.store, **options)
        """A manager that is not stopped, to set the stage and to look at it afterwards."""
        make: Any = SessionManager if kind == "sync" else AsyncSessionManager
        stopping: Any = Stopping(self) if kind == "sync" else AsyncStopping(self)
        self.managers: list[Any] = [make(stopping, **options) for _ in range(processes)]
        self.lasting = cookie_policy.max_age is not None
        self.dead = dead
        self.jar: dict[str, str] = {}
        self.pairs: list[dict[str, str]] = []
        """Every pair of cookies that was ever handed out."""
        self.log: list[Call] = []
        self.events: list[Any] = []
        for event in (Begin, End, CommitRefused, LostUpdate):
            for manager in self.managers:
                manager.on(event, self.events.append)
        self.handle = ""
        if prepare is not None:
            session, finish = self.plain.start_check(Request(headers=(), peer=PEER))
            prepare(session)
            self.take(finish())
            self.pairs.append(dict(self.jar))
            self.handle = next(iter(self.plain.all())).handle
            if dead:
                assert self.plain.end(self.handle)
        self.arrivals: list[Asked] = []
        """The requests whose answers have changed the jar, in that order."""
        self.clock.advance(lead)
        self.requests = [
            Asked(script, f"{script.name} {number}", self.managers[number % processes]) for number, script in enumerate(scripts)
        ]
        self.running = Asked(Script("nobody"), "nobody", None)

    # -------------------------------------------------------------- the play

    def play(self, choose: Choose) -> None:
        unsent, under_way = list(self.requests), list[Asked]()
        may_send = True
        try:
            while unsent or under_way:
                if unsent and (may_send or not under_way):
                    # Some of those that are not sent yet; one at least if nothing else is under way.
                    least = 0 if under_way else 1
                    chosen = choose(2 ** len(unsent) - least) + least
                    sent = [request for number, request in enumerate(unsent) if chosen >> number & 1]
                    unsent = [request for request in unsent if request not in sent]
                    for request in sent:
                        self._send(request)
                    under_way += [request for request in sent if not request.arrived]
                may_send = False
                if under_way:
                    request = under_way[choose(len(under_way))]
                    if request.finished:
                        self._arrive(request)
                        may_send = True
                    else:
                        self._step(request)
                    under_way = [request for request in under_way if not request.arrived]
        finally:
            for request in self.requests:
                if request.task is not None:
                    request.task.cancel()

    def _send(self, request: Asked) -> None:
        request.presented = self._forged() if request.script.forged else dict(self.jar)
        cookie = "; ".join(f"{name}={value}" for name, value in request.presented.items())
        asked = Request(headers=[("Cookie", cookie)] if cookie else [], peer=request.script.peer)
        if self.kind == "sync":
            request.task = ThreadTask(lambda: self._serve(request, asked))
        else:
            request.task = CoroutineTask(self._serve_async(request, asked))
        self._step(request)  # up to its first call, which nothing else can tell from its beginning

    def _forged(self) -> dict[str, str]:
        key = self.pairs[0]["SESSION_KEY"]
        return {**self.pairs[0], "SESSION_KEY": key[:22] + ("B" if key[22] == "A" else "A") + key[23:]}

    def _step(self, request: Asked) -> None:
        assert request.task is not None
        self.running = request
        request.finished = request.task.step()
        if request.finished:
            pair = dict(value.partition(";")[0].split("=", 1) for value in request.set_cookies)
            if pair and all(pair.values()) and pair not in self.pairs:
                self.pairs.append(pair)
            if not request.set_cookies or request.script.forged:
                request.arrived = True

    def _arrive(self, request: Asked) -> None:
        request.arrived = True
        self.arrivals.append(request)
        self.take(request.answer)

    def take(self, headers: Headers) -> None:
        """Take the cookies of an answer into the jar."""
        for name, value in headers:
            if name == "Set-Cookie":
                pair, *attributes = value.split("; ")
                cookie, _, text = pair.partition("=")
                if "Max-Age=0" in attributes:
                    self.jar.pop(cookie, None)
                else:
                    self.jar[cookie] = text

    def _serve(self, request: Asked, asked: Request) -> None:
        script = request.script
        if script.whole is not None:
            request.answer = _headers(script.whole(self, request.manager, asked))
            return
        assert script.work is not None
        session, finish = request.manager.start_check(asked)
        request.handle = session.handle
        try:
            script.work(session, request.token)
        except Rejected as rejected:
            request.rejected = rejected
            request.answer = [*rejected.headers, *finish.discard()]
            return
        try:
            request.answer = finish()
        except Conflict as conflict:
            request.conflict = conflict
            request.answer = conflict.headers

    async def _serve_async(self, request: Asked, asked: Request) -> None:
        script = request.script
        if script.whole is not None:
            result = script.whole(self, request.manager, asked)
            request.answer = _headers(await result if isinstance(result, Awaitable) else result)
            return
        assert script.work is not None
        session, finish = await request.manager.start_check(asked)
        request.handle = session.handle
        try:
            script.work(session, request.token)
        except Rejected as rejected:
            request.rejected = rejected
            request.answer = [*rejected.headers, *finish.discard()]
            return
        try:
            request.answer = await finish()
        except Conflict as conflict:
            request.conflict = conflict
            request.answer = conflict.headers

    # -------------------------------------------------------------- what happened

    def snapshot(self, verb: str) -> Any:
        """All records, where it matters: before a commit, and before a call of a request that may change nothing."""
        return self.store.cut() if verb == "commit" or self.running.script.forged else None

    def record(self, verb: str, args: tuple[Any, ...], result: Any, before: Any) -> None:
        unchanged = before is None or before == self.store.cut()
        self.log.append(Call(self.running, verb, args, result, unchanged))

    def calls(self, request: Asked, *verbs: str) -> list[Call]:
        return [call for call in self.log if call.request is request and call.verb in verbs]

    def heard(self, event: type) -> list[Any]:
        return [one for one in self.events if isinstance(one, event)]


def _headers(result: Any) -> Headers:
    """What a method of a manager gave, if that are headers."""
    return cast("Headers", result) if isinstance(result, list) else ()


def play_all(
    check: Callable[[Stage], None], kind: str, scripts: Sequence[Script], prepare: Callable[[Session], object] | None, **options: Any
) -> int:
    """Play these scripts in every order, with `check` after each play. How many orders there were."""

    def play(choose: Choose) -> None:
        stage = Stage(kind, scripts, prepare=prepare, **options)
        stage.play(choose)
        check(stage)

    return every_order(play)


def pairs_of(scripts: Sequence[Script]) -> Iterator[tuple[Script, Script]]:
    """Every two scripts, and each with itself. Since all orders are played, (a, b) and (b, a) are the same play."""
    for number, first in enumerate(scripts):
        for second in scripts[number:]:
            yield first, second
