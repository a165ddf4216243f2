"""What the conformance kit says of a store that does not answer, is cancelled, or is none: it names what is wrong, and comes to an end."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.broken import stores, waiting
from tests.broken.overlapping import ForTasks
from typed_sessions import MemoryStore, SQLiteStore
from typed_sessions.conformance import bounds, run, together
from typed_sessions.conformance.report import LONGEST, Failure
from typed_sessions.testing import CHECK_NAMES, ConformanceFailed, Report, check_async_store, check_store

CANCELLED = "a_cancelled_verb_is_done_or_not_and_the_store_goes_on"
SHAPE = "a_store_has_its_verbs"
TOO_LARGE = "what_is_too_large_is_refused_whole"
pytestmark = pytest.mark.slow

PATIENCE = 0.5


def failed(check: Callable[..., Report], make: Callable[[], Any], **settings: Any) -> Report:
    """The report on a store that has to fail something."""
    with pytest.raises(ConformanceFailed) as caught:
        check(make, **settings)
    return caught.value.report


# -- what does not return ----------------------------------------------------------


def test_a_verb_that_does_not_return_is_named() -> None:
    """With the one before it and the line at which it waits; what is left of the run is left out, and nothing waits for its thread."""
    report = failed(check_store, waiting.KeepingItsLock, only=[TOO_LARGE, "touch_writes_the_use"], patience=PATIENCE)
    (failure,) = report.failures
    assert report.skipped == (("touch_writes_the_use", "a verb had not returned"),)
    assert failure.name == TOO_LARGE
    first, *places = failure.found.split("\n")
    assert first == "`open` has not returned for 0.5 s; what was asked before it was `commit`, which raised TooLarge"
    assert places[-1].startswith("at waiting.py, line ")
    assert places[-1].endswith(", in open")


@pytest.mark.parametrize(
    ("store", "place"),
    [(waiting.NotGivingBack, "at waiting.py, line "), (waiting.HoldingUpTheLoop, "")],
    ids=lambda one: getattr(one, "__name__", ""),
)
def test_an_awaited_verb_that_does_not_return_is_named(store: type[waiting.Waiting], place: str) -> None:
    """Whether it awaits for ever, or holds up the event loop."""
    report = failed(check_async_store, store, only=[CANCELLED, "a_commit_writes_what_it_says"], patience=PATIENCE)
    assert report.failed == (CANCELLED,)
    assert " has not returned for 0.5 s; what was asked before it was " in report.failures[0].found
    assert place in report.failures[0].found


def test_what_comes_after_is_left_out() -> None:
    """In one line of the report, for the same would be said of each check."""
    report = failed(check_store, waiting.KeepingItsLock, patience=PATIENCE)
    assert [name for name, reason in report.skipped if reason == "a verb had not returned"] == [
        name for name in CHECK_NAMES if name not in (*report.passed, *report.failed)
    ]
    assert sum("left out" in line for line in str(report).splitlines()) == 1


def test_a_factory_that_does_not_return_is_named() -> None:
    """It may wait for a server."""

    async def make() -> MemoryStore:
        await asyncio.Event().wait()
        return MemoryStore()

    report = failed(check_async_store, make, patience=PATIENCE)
    assert report.failed == (SHAPE,)
    assert report.failures[0].found.startswith("the factory of stores has not returned for 0.5 s")


# -- what is cancelled -------------------------------------------------------------


def test_without_a_fault_the_waiting_store_passes() -> None:
    """What the stores with a fault are made from keeps every promise."""
    make: Any = waiting.Waiting
    report = check_async_store(make, examples=20)
    assert len(report.passed) == len(CHECK_NAMES) - len(bounds.checks)


@pytest.mark.parametrize(
    ("store", "found"),
    [
        (
            waiting.RollingBackErrorsOnly,
            "after `create` was .*: StoreUnavailable: cannot start a transaction within a transaction",
        ),
        (waiting.KeepingHalf, "after `commit` was .*: what is stored is neither what it was before nor what it should be: "),
    ],
    ids=lambda one: getattr(one, "__name__", ""),
)
def test_a_cancelled_verb_that_does_harm_is_found(store: type[waiting.Waiting], found: str) -> None:
    """By the check that is there for it, and by no other: one that nobody cancels does none."""
    general = {check.name for check in run.histories}
    report = failed(check_async_store, store, only=[name for name in CHECK_NAMES if name not in general])
    assert report.failed == (CANCELLED,)
    assert re.match(found, report.failures[0].found)


# -- what others have open too -----------------------------------------------------

AT_ONCE = [check.name for check in together.checks]


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_store_of_several_processes_passes_with_two_handles(kind: str, tmp_path: Path) -> None:
    """Two of one file agree about what happens at once."""
    made: list[Path] = []

    def make() -> SQLiteStore:
        made.append(tmp_path / f"{len(made)}.db")
        return SQLiteStore(made[-1])

    def reopen(_: SQLiteStore) -> SQLiteStore:
        return SQLiteStore(made[-1])

    check: Any = check_store if kind == "sync" else check_async_store
    report: Report = check(make, reopen=reopen, only=AT_ONCE)
    assert list(report.passed) == AT_ONCE


def test_a_lock_that_others_do_not_have_is_found_with_two_handles() -> None:
    """With one handle nothing is seen of it."""
    make: Any = waiting.LockingItselfOnly
    names = ["updates_at_once_add_up", "appends_at_once_are_all_there"]
    assert check_async_store(make, only=names).failed == ()
    assert sorted(failed(check_async_store, make, reopen=waiting.LockingItselfOnly.reopened, only=names).failed) == sorted(names)


class InThreads(stores.Sound):
    """A dictionary without a lock, in a store that says that its verbs are called by threads."""

    blocking = True


@pytest.mark.parametrize("check", [check_store, check_async_store])
def test_a_lock_that_is_missing_is_missed(check: Callable[..., Report]) -> None:
    """Though each verb is over within some microseconds: threads take turns more often while the kit runs, and not after it."""
    turn = sys.getswitchinterval()
    assert set(AT_ONCE) & set(failed(check, InThreads, only=AT_ONCE).failed)  # which of them, depends on the turns
    assert sys.getswitchinterval() == turn


# -- what is no store --------------------------------------------------------------


class Nothing(stores.Sound):
    """Has no `scan`, and a `touch` that lacks an argument."""

    scan: Any = None

    def touch(self, locator: bytes, digest: bytes, now: float) -> bool:  # type: ignore[override]  # the mistake
        return False


class Mixed(ForTasks):
    """One of its verbs cannot be awaited."""

    def commit(self, *args: Any) -> Any:
        return None


class OpenAlone(stores.Sound):
    """One of its verbs is awaited."""

    async def open(self, *args: Any) -> Any:  # type: ignore[override]  # the mistake
        return super().open(*args)


class Saying(stores.Sound):
    """What says whether it does I/O is a text."""

    blocking: Any = "no"


class Handing:
    """Plain functions that return coroutines, and no `blocking`."""

    def __init__(self) -> None:
        self._store = ForTasks(stores.Sound())

    def __getattr__(self, name: str) -> Any:
        inner = getattr(self._store, name)

        def verb(*args: Any) -> Any:
            return inner(*args)

        return verb


@pytest.mark.parametrize(
    ("check", "make", "said"),
    [
        (check_store, Nothing, ["`touch` cannot be called with (locator, digest, idle, now)", "`scan` is missing"]),
        (check_store, lambda: ForTasks(stores.Sound()), ["use check_async_store"]),
        (check_store, lambda: MemoryStore, ["make_store gave the class MemoryStore, expected an instance"]),
        (check_async_store, lambda: Mixed(stores.Sound()), ["`commit` is a plain function, and `open` is not"]),
        (check_store, OpenAlone, ["`commit` is a plain function, and `open` is not"]),
        (check_store, Saying, ["`blocking` is 'no', expected True (a verb does I/O) or False"]),
        (check_async_store, Handing, ["`blocking` is missing", "`async def`"]),
    ],
    ids=["verbs", "awaited", "class", "mixed", "open alone", "saying", "handing"],
)
def test_what_is_no_store_is_told_once(check: Callable[..., Report], make: Callable[[], Any], said: list[str]) -> None:
    """All that can be seen to be wrong at once, and nothing of the checks for which there is nothing to ask."""
    report = failed(check, make)
    assert report.failed == (SHAPE,)
    assert [text for text in said if text not in report.failures[0].found] == []
    assert [name for name, _ in report.skipped] == list(CHECK_NAMES[1:])
    assert str(report).splitlines()[-1].startswith(f"left out: {len(CHECK_NAMES) - 1} checks: ")


def test_a_factory_that_raises_is_told_once() -> None:
    """And not by every check."""

    def make() -> MemoryStore:
        raise ConnectionError("no server")

    report = failed(check_store, make)
    assert [failure.found for failure in report.failures] == ["ConnectionError: no server"]


def test_a_store_in_the_place_of_a_factory_is_a_mistake() -> None:
    """It is told before anything is played."""
    store: Any = MemoryStore()
    for check in (check_store, check_async_store):
        with pytest.raises(TypeError, match="expected a function that gives a new store each time"):
            check(store)


@pytest.mark.parametrize(
    ("verb", "answer", "found"),
    [
        ("create", None, '`create` returned None, expected "created", "crowded" or "taken"'),
        ("commit", None, "`commit` returned None, expected Outcome"),
        ("touch", 1, "`touch` returned 1, expected True or False"),
        ("sweep", [], "`sweep` returned [], expected (a sequence of Record, whether more is due)"),
        ("scan", ([None], None), "`scan` returned ([None], None), expected (a sequence of Record, bytes or None)"),
    ],
    ids=lambda one: one if isinstance(one, str) and one.isalpha() else "",
)
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_an_answer_of_another_type_is_named(kind: str, verb: str, answer: object, found: str) -> None:
    """With its verb, instead of whatever comes of it later."""

    def wrong(*_: Any) -> object:
        return answer

    store = type("Answering", (stores.Sound,), {verb: wrong})
    make, check = (store, check_store) if kind == "sync" else (lambda: ForTasks(store()), check_async_store)
    report = failed(check, make, only=["touch_writes_the_use", "a_commit_is_a_use", "a_sweep_goes_in_steps"])
    assert found in [failure.found for failure in report.failures]


def test_what_many_checks_have_found_is_told_once() -> None:
    """With the first of them; the others are named, or counted, and all of them are among the failures."""
    store = type("Answering", (stores.Sound,), {"commit": lambda *_: None})  # pyright: ignore[reportUnknownLambdaType]
    names = ["a_commit_is_a_use", "a_commit_writes_what_it_says", "every_commit_is_a_revision"]
    report = failed(check_store, store, only=names)
    assert sorted(report.failed) == names
    first, *others = report.failed
    assert str(report).splitlines()[0:2] == ["3 of 3 checks failed", first]
    assert str(report).splitlines()[-1] == f"    the same: {', '.join(others)}"


def test_long_lines_are_shortened_in_the_text() -> None:
    """The text of a report can be read; all of what was found is in it as `found`."""
    found = "short\n" + "begin" + "x" * 5000 + "end"
    failure = Failure("a_check", "It is so.", found, AssertionError())
    text = str(failure)
    assert max(map(len, text.splitlines())) < LONGEST + 20
    assert "begin" in text
    assert text.endswith("end")
    assert "(5008 characters)" in text
    assert failure.found == found
