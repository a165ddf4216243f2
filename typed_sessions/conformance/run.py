"""All checks of the kit in one call, for a store of either kind."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Collection
from functools import partial
from typing import Any, TypeVar

from ..stores.base import AsyncStore, Store
from . import bounds, cancelled, commits, creation, endings, limits, lists, orders, renewals, sweeps, together, uses
from .report import ConformanceFailed, Failure, LeftOut, Report, Unexpected
from .stand import Check, Checks, Kit
from .subject import LoopRunner, PlainRunner, Runner
from .watch import Watch

S = TypeVar("S", bound=Store)

_TURN = 1e-5
"""Seconds until another thread has its turn. With Python's own, some milliseconds, a verb of a store in this process is over before the
next one begins, and a lock that it lacks is not missed."""

shapes: Checks = Checks()
histories: Checks = Checks()


@shapes.of_kit(27)
def a_store_has_its_verbs(kit: Kit) -> None:
    """A store has nine verbs, which are all plain functions or all coroutine functions, and `blocking` if they are not awaited."""
    found = kit.faults()
    if found:
        raise Unexpected("\n".join(found))


@histories.of_kit(7, 8, 9, 11, 12, 13, 16)
def any_history_is_the_models(kit: Kit) -> None:
    """Whatever is done to some sessions, and whenever: every answer of the store is the model's (a Hypothesis state machine)."""
    from .machine import run  # only here: Hypothesis is optional

    run(kit)


CHECKS: tuple[Check, ...] = (
    *shapes,
    *creation.checks,
    *uses.checks,
    *commits.checks,
    *lists.checks,
    *renewals.checks,
    *endings.checks,
    *sweeps.checks,
    *bounds.checks,
    *limits.checks,
    *cancelled.checks,
    *together.checks,
    *orders.checks,
    *histories,
)

CHECK_NAMES: tuple[str, ...] = tuple(check.name for check in CHECKS)
"""The names of all checks, the same for every store."""


def check_store(
    make_store: Callable[[], S],
    *,
    make_bounded: Callable[[int], Store] | None = None,
    reopen: Callable[[S], Store] | None = None,
    only: Collection[str] | None = None,
    examples: int = 200,
    thorough: bool = False,
    patience: float = 60.0,
) -> Report:
    """Run every check on a store; returns the report if all pass.

    make_store    gives a new store with nothing in it (a new file, prefix or schema), once or a few times per check; each is closed
    make_bounded  gives a store that holds so many sessions at most; None if there is no such bound
    reopen        gives another handle of a store that `make_store` has made, as another process would open it; half of the verbs that are
                  called at once are called on that one. Without it nothing is known of processes
    only          the names of the checks to run (`CHECK_NAMES`); None for all
    examples      how many random histories of up to 40 steps are compared with the model; they are the same in every run
    thorough      play three requests of every kind in every order, and more of the verbs at once: minutes instead of seconds
    patience      seconds after which a verb that has not returned never will: it is named, and what is left of the run is left out

    The store is made and called in threads, of which none keeps the program from ending.

    Raises `ConformanceFailed`, an AssertionError whose text says which checks failed, what was promised and what was found; and
    ModuleNotFoundError without Hypothesis, unless `only` leaves out `any_history_is_the_models`.
    """
    _require_factory("check_store", make_store)
    return _run(PlainRunner(Watch(patience)), make_store, make_bounded, reopen, only, examples, thorough)


def check_async_store(
    make_store: Callable[[], AsyncStore | Store | Awaitable[AsyncStore | Store]],
    *,
    make_bounded: Callable[[int], AsyncStore | Store | Awaitable[AsyncStore | Store]] | None = None,
    reopen: Callable[[Any], AsyncStore | Store | Awaitable[AsyncStore | Store]] | None = None,
    only: Collection[str] | None = None,
    examples: int = 200,
    thorough: bool = False,
    patience: float = 60.0,
) -> Report:
    """As `check_store`, for a store whose verbs are awaited; or for a synchronous one, called as an asynchronous manager calls it.

    Not a coroutine: it has an event loop of its own, in which `make_store` is called (it may be a coroutine function). Raises
    RuntimeError if one is running already. Any: `reopen` is given what the caller's own `make_store` has made.
    """
    _require_factory("check_async_store", make_store)
    return _run(LoopRunner(Watch(patience)), make_store, make_bounded, reopen, only, examples, thorough)


def _run(
    runner: Runner,
    make_store: Callable[[], object],
    make_bounded: Callable[[int], object] | None,
    reopen: Callable[[Any], object] | None,
    only: Collection[str] | None,
    examples: int,
    thorough: bool,
) -> Report:
    turn = sys.getswitchinterval()
    sys.setswitchinterval(_TURN)
    try:
        chosen = [check for check in CHECKS if only is None or check.name in only]
        unknown = sorted(set(only or ()) - {check.name for check in chosen})
        if unknown:
            raise ValueError(f"only={unknown}: no such checks; CHECK_NAMES has them all")
        kit = Kit(runner, make_store, make_bounded, reopen, examples, thorough)
        if any(check in histories for check in chosen):
            _require_hypothesis()
        passed: list[str] = []
        failures: list[Failure] = []
        skipped: list[tuple[str, str]] = []
        pointless: str | None = None
        for check in dict.fromkeys([*shapes, *chosen]):
            if pointless is not None:
                skipped.append((check.name, pointless))
                continue
            try:
                stuck = runner.watch.play(partial(check.play, kit))
            except LeftOut as reason:
                skipped.append((check.name, str(reason)))
            except Exception as problem:
                failures.append(Failure(check.name, check.promise, _words(problem), problem))
                if check in shapes:
                    pointless = "the store is not one that can be asked for anything"
            else:
                if stuck is not None:
                    failures.append(Failure(check.name, check.promise, stuck, Unexpected(stuck)))
                    pointless = "a verb had not returned"
                    runner.give_up()
                elif check in chosen:
                    passed.append(check.name)
    finally:
        sys.setswitchinterval(turn)
        runner.close()
    report = Report(tuple(passed), tuple(failures), tuple(skipped))
    if failures:
        raise ConformanceFailed(report) from failures[0].error
    return report


def _require_factory(name: str, make_store: object) -> None:
    if not callable(make_store):
        raise TypeError(f"{name}({make_store!r}): expected a function that gives a new store each time, such as its class")


def _words(problem: BaseException) -> str:
    words = str(problem) if isinstance(problem, AssertionError) else f"{type(problem).__name__}: {problem}"
    # Hypothesis puts the history that fails into the notes; and what fails in another way each time into a group.
    inner: tuple[BaseException, ...] = getattr(problem, "exceptions", ())
    return "\n".join([words, *getattr(problem, "__notes__", ()), *map(_words, inner)])


def _require_hypothesis() -> None:
    try:
        from . import machine
    except ModuleNotFoundError as problem:
        raise ModuleNotFoundError(
            f"any_history_is_the_models needs Hypothesis: pip install 'typed-sessions[testing]', or leave it out with only=... ({problem})"
        ) from problem
    del machine
