"""The conformance kit: every store passes it on both faces, and it catches each broken store by the check that is there for it."""

from __future__ import annotations

import asyncio
import inspect
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from tests.broken import careless, crowded, stores
from tests.broken.overlapping import ForTasks, ForThreads
from tests.faces import FACES, SERVED, STORES, sqlite_store
from typed_sessions import MemoryStore
from typed_sessions.changes import Idle
from typed_sessions.conformance import bounds, limits, orders, run, together
from typed_sessions.testing import CHECK_NAMES, ConformanceFailed, Report, check_async_store, check_store

CHECKS: dict[str, Callable[..., Report]] = {"sync": check_store, "async": check_async_store}

EXAMPLES = {"sync": 200, "async": 50}
"""How many histories: the asynchronous ones are the same, and each call costs a change of threads."""

BOUNDED: dict[str, Callable[[int], Any]] = {
    "memory": lambda bound: MemoryStore(max_sessions=bound),
    "sqlite": lambda bound: sqlite_store(max_sessions=bound),
}
"""The stores that hold so many sessions at most."""

AT_ONCE = {check.name for check in together.checks}
GENERAL = {check.name for check in [*orders.checks, *run.histories]} | {name for name in AT_ONCE if name.startswith("any_")}
"""What compares whole histories with the model, and finds most faults one way or another."""
SINGLE = [name for name in CHECK_NAMES if name not in GENERAL]


def failed(kind: str, make: Callable[[], Any], **settings: Any) -> tuple[str, ...]:
    """The names of the checks that a store fails, which has to fail some."""
    with pytest.raises(ConformanceFailed) as caught:
        CHECKS[kind](make, **settings)
    return caught.value.report.failed


@pytest.mark.parametrize("kind", FACES)
@pytest.mark.parametrize("store", STORES)
def test_every_store_keeps_every_promise(store: str, kind: str, request: pytest.FixtureRequest) -> None:
    """All checks pass, with the same list of names for each store and face; only the bound is left out where there is none."""
    served = (request.getfixturevalue(f"{store}_server"), kind) if store in SERVED else ()
    report = CHECKS[kind](lambda: STORES[store](*served), make_bounded=BOUNDED.get(store), examples=EXAMPLES[kind])
    left_out = [] if store in BOUNDED else [check.name for check in bounds.checks]
    assert [name for name, _ in report.skipped] == left_out
    assert list(report.passed) == [name for name in CHECK_NAMES if name not in left_out]


def test_every_check_says_what_it_promises() -> None:
    """Names are unique, each check has a promise in words, and every rule that concerns a store has a check."""
    assert len(set(CHECK_NAMES)) == len(CHECK_NAMES)
    assert all(check.promise.endswith((".", ").")) for check in run.CHECKS)
    assert {7, 8, 9, 11, 12, 13, 15, 16, 17, 18, 30} <= {rule for check in run.CHECKS for rule in check.rules}


# -- stores that are broken on purpose ---------------------------------------------

ONE_BOUND = "creating_and_writing_have_the_same_bound"
"""Those whose commit has a bound and whose `create` has none fail this one as well."""

MUST_FAIL: dict[type[stores.Sound], set[str]] = {
    stores.Upserting: {
        "a_commit_does_not_bring_it_back",
        "an_ended_session_is_gone_for_every_verb",
        "an_ended_session_is_not_renewed",
        "an_end_at_the_same_time_is_an_end",
    },
    stores.CheckingThenCommitting: {
        "updates_at_once_add_up",
        "different_keys_at_once_are_all_there",
        "appends_at_once_are_all_there",
        "of_renewals_at_once_one_wins",
        "an_end_at_the_same_time_is_an_end",
        "a_sweep_and_a_use_agree",
    },
    stores.CheckingThenEnding: {"of_ends_at_once_one_wins"},
    stores.CommittingByHalves: {"a_commit_is_all_or_nothing", "a_commit_of_many_parts_is_one"},
    stores.CommittingUnchecked: {
        "a_list_is_put_back_whole",
        "a_conditional_write_needs_its_revision",
        "a_write_may_need_that_nothing_is_there",
        "a_commit_is_all_or_nothing",
        "a_list_change_goes_with_its_commit",
        "clear_drops_every_value_first",
        "updates_at_once_add_up",
    },
    stores.LosingAppends: {
        "appends_of_two_requests_both_stay",
        "elements_keep_their_order",
        "elements_have_versions_of_their_own",
        "a_removal_takes_what_was_seen",
        "a_list_and_a_value_replace_each_other",
        "a_long_list_is_a_list",
        "a_commit_of_many_parts_is_one",
        "appends_at_once_are_all_there",
    },
    stores.RevivingAtTouch: {
        "a_touch_does_not_bring_it_back",
        "an_ended_session_is_gone_for_every_verb",
        "an_ended_session_is_not_renewed",
        "an_end_at_the_same_time_is_an_end",
    },
    stores.CountingAnyUse: {
        "a_wrong_secret_is_no_use",
        "another_address_is_no_use",
        "sessions_do_not_mix",
        "without_an_overlap_the_old_secret_opens_nothing",
        "in_its_overlap_the_old_secret_opens_the_session",
        "the_two_cookies_belong_together",
        "only_the_last_secret_is_remembered",
    },
    stores.RenewingUnchecked: {
        "of_two_renewals_one_wins",
        "a_lost_rotation_commits_the_rest",
        "a_lost_rotation_clears_nothing",
        "of_renewals_at_once_one_wins",
    },
    stores.KeepingOldSecrets: {
        "times_are_kept_to_the_last_bit",
        "without_an_overlap_the_old_secret_opens_nothing",
        "a_renewal_replaces_the_secret_and_nothing_else",
        "in_its_overlap_the_old_secret_opens_the_session",
        "only_the_last_secret_is_remembered",
    },
    careless.CreatingOver: {"a_taken_locator_is_refused", "of_creations_at_once_one_wins"},
    careless.HidingTheExpired: {
        "what_is_over_is_handed_out_as_it_is",
        "a_lifetime_is_not_ignored_at_the_commit",
        "a_session_that_loses_its_last_hook_late_is_still_told",
    },
    careless.SweepingByTheFirstDue: {
        "a_sweep_leaves_what_was_just_used",
        "a_clock_that_went_back_writes_the_use",
        "a_shorter_timeout_comes_due_sooner",
        "an_idle_timeout_is_ignored_at_the_commit",
        "a_sweep_and_a_use_agree",
    },
    careless.SweepingWithoutALease: {
        "what_nobody_cleans_up_after_is_claimed_more_and_more_rarely",
        "a_lease_keeps_others_away",
        "an_expired_session_with_hooks_is_claimed_by_its_sweep",
        "clear_leaves_what_others_have_to_run",
        "a_sweep_goes_in_steps",
        "what_a_sweep_claims_and_ends_fits_its_limit",
        "of_sweeps_at_once_one_claims",
    },
    careless.SweepingInSilence: {
        "a_sweep_goes_in_steps",
        "a_sweep_comes_to_an_end",
        "what_a_sweep_claims_and_ends_fits_its_limit",
    },
    careless.SweepingWithoutALimit: {
        "a_sweep_goes_in_steps",
        "a_sweep_comes_to_an_end",
        "what_a_sweep_claims_and_ends_fits_its_limit",
    },
    careless.ForgettingHooks: {
        "what_nobody_cleans_up_after_is_claimed_more_and_more_rarely",
        "a_lease_keeps_others_away",
        "an_expired_session_with_hooks_is_claimed_by_its_sweep",
        "clear_leaves_what_others_have_to_run",
        "nobody_cleans_up_for_ever",
        "a_value_committed_last_is_there_at_the_end",
        "a_taken_locator_is_refused",
        "what_a_sweep_claims_and_ends_fits_its_limit",
        "of_sweeps_at_once_one_claims",
    },
    careless.KeepingHooksForEver: {"nobody_cleans_up_for_ever", "what_nobody_cleans_up_after_is_claimed_more_and_more_rarely"},
    careless.ClaimingOnceALease: {"what_nobody_cleans_up_after_is_claimed_more_and_more_rarely"},
    careless.ClearingTheLiving: {"clear_leaves_the_living_alone"},
    careless.RoundingTimes: {"times_are_kept_to_the_last_bit"},
    careless.UsingItsOwnClock: {
        "the_time_is_the_callers",
        "times_are_kept_to_the_last_bit",
        "a_second_request_is_remembered",
        "a_use_is_written_once_per_granularity",
        "a_clock_that_went_back_writes_the_use",
        "another_address_is_no_use",
        "a_written_use_takes_over_the_idle_timeout",
        "without_an_overlap_the_old_secret_opens_nothing",
        "in_its_overlap_the_old_secret_opens_the_session",
        "a_sweep_leaves_what_was_just_used",
        "a_shorter_timeout_comes_due_sooner",
    },
    careless.WritingEveryUse: {
        "a_use_is_written_once_per_granularity",
        "a_second_request_is_remembered",
        "another_address_is_no_use",
    },
    careless.TouchingWithAnySecret: {
        "touch_needs_the_secret",
        "without_an_overlap_the_old_secret_opens_nothing",
        "in_its_overlap_the_old_secret_opens_the_session",
        "only_the_last_secret_is_remembered",
    },
    careless.RefusingTheIdle: {
        "an_idle_timeout_is_ignored_at_the_commit",
        "a_sweep_leaves_what_was_just_used",
        "a_session_that_loses_its_last_hook_late_is_still_told",
    },
    careless.LivingForEver: {"a_lifetime_is_not_ignored_at_the_commit"},
    careless.BeginningAnewAtRenewals: {"a_renewal_replaces_the_secret_and_nothing_else"},
    careless.AnsweringWithoutTheRecord: {
        "a_conditional_write_needs_its_revision",
        "a_commit_is_all_or_nothing",
        "updates_at_once_add_up",
    },
    careless.NumberingByPlace: {
        "a_removal_takes_what_was_seen",
        "a_sequence_is_never_used_again",
        "a_list_begins_with_its_first_element",
    },
    careless.SortingLists: {"elements_keep_their_order", "elements_have_versions_of_their_own", "any_bytes_can_be_stored"},
    careless.CuttingAtNul: {"any_bytes_can_be_stored", "what_is_too_large_is_refused_whole"},
    careless.FoldingNames: {"any_name_is_a_name"},
    careless.LargeByHalves: {"what_is_too_large_is_refused_whole", "a_full_session_is_not_stuck", ONE_BOUND},
    careless.ClearingForTheLoser: {"a_lost_rotation_clears_nothing"},
    careless.CollectingTheUnhooked: {"a_session_that_loses_its_last_hook_late_is_still_told"},
    careless.WeighingTheHead: {"a_full_session_is_not_stuck", ONE_BOUND},
    careless.GuessingSizes: {"a_full_session_is_not_stuck", "what_was_taken_is_taken_again", ONE_BOUND},
    careless.ScanningAgain: {"a_scan_holds_while_others_write"},
    careless.ClosingOnce: {"closing_twice_is_allowed", "closing_keeps_the_sessions"},
    careless.EndingTwice: {
        "a_session_ends_once",
        "an_ended_session_is_gone_for_every_verb",
        "an_expired_session_with_hooks_is_claimed_by_its_sweep",
        "of_ends_at_once_one_wins",
    },
    careless.RememberingNobody: {"a_second_request_is_remembered"},
    careless.OpeningFromAnywhere: {"another_address_is_no_use"},
    careless.LosingTwins: {"versions_and_flags_of_a_value_are_kept"},
    careless.RoundingGranularity: {"times_are_kept_to_the_last_bit"},
    careless.ScanningAThousand: {"a_scan_of_many_sessions_has_an_end_only_after_the_last"},
    careless.KeepingTheAddress: {"a_renewal_binds_to_the_address_it_says"},
    careless.CuttingNames: {"any_name_is_a_name"},
    careless.CuttingAddresses: {"a_record_comes_back_as_it_was_created"},
    careless.KeepingAThousandElements: {"a_long_list_is_a_list"},
    careless.CappingTimeouts: {"a_timeout_may_be_a_year"},
    careless.ForgettingAtClose: {"closing_keeps_the_sessions"},
}
"""By store, the checks that it has to fail; it fails no other, but for what happens to overlap."""


def make(kind: str, store: type[stores.Sound]) -> Callable[[], Any]:
    return lambda: ForThreads(store()) if kind == "sync" else ForTasks(store())


@pytest.mark.slow
@pytest.mark.parametrize("kind", FACES)
@pytest.mark.parametrize("store", MUST_FAIL, ids=lambda store: store.__name__)
def test_a_broken_store_fails_for_its_fault(store: type[stores.Sound], kind: str) -> None:
    """Each fault is found by the checks of what it breaks, and the others pass; those of what happens at once may find it too."""
    found = set(failed(kind, make(kind, store), only=SINGLE))
    assert found - AT_ONCE == MUST_FAIL[store] - AT_ONCE
    assert found >= MUST_FAIL[store]


@pytest.mark.slow
@pytest.mark.parametrize("kind", FACES)
def test_without_a_fault_the_same_store_passes(kind: str) -> None:
    """What the broken stores are made from passes every check: it was the faults, and not something else."""
    report = CHECKS[kind](make(kind, stores.Sound), make_bounded=None, examples=EXAMPLES[kind])
    assert len(report.passed) == len(CHECK_NAMES) - len(bounds.checks)


ABOUT_BOUNDS = [check.name for check in [*bounds.checks, *limits.checks]]


@pytest.mark.parametrize(("store", "names"), crowded.BROKEN, ids=lambda one: one.__name__ if inspect.isclass(one) else "")
def test_a_wrong_bound_is_found(store: type[crowded.Crowded], names: set[str]) -> None:
    """Who makes room for whom, what is told of it, and how large a session may be: each fault fails its own checks."""
    assert set(failed("sync", store, make_bounded=store, only=ABOUT_BOUNDS)) == names


def test_a_right_bound_is_not() -> None:
    """What these are made from passes every check."""
    assert check_store(crowded.Crowded, make_bounded=crowded.Crowded, only=ABOUT_BOUNDS).failed == ()


def test_every_broken_store_is_tried() -> None:
    """No store with a fault is left out of the table."""
    there = {
        one for module in (stores, careless) for one in vars(module).values() if inspect.isclass(one) and issubclass(one, stores.Sound)
    }
    assert there - {stores.Sound} == set(MUST_FAIL)


HISTORIES = [careless.CreatingOver, stores.CountingAnyUse]
"""Those whose shortest history is found soon; with more examples, it is so for most others."""


@pytest.mark.slow
@pytest.mark.parametrize("store", HISTORIES, ids=lambda store: store.__name__)
def test_random_histories_find_it_too(store: type[stores.Sound]) -> None:
    """The state machine finds faults that no check was written for, and shows the history that does it."""
    with pytest.raises(ConformanceFailed) as caught:
        check_store(make("sync", store), only=["any_history_is_the_models"])
    (failure,) = caught.value.report.failures
    assert "state.begin(" in failure.found
    assert "state.teardown()" in failure.found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("store", "names"),
    [
        (stores.Upserting, "write + end"),
        (stores.CommittingByHalves, "count + both"),
        (stores.CommittingUnchecked, "count + count"),
        (stores.LosingAppends, "append + append"),
        (stores.RevivingAtTouch, "end + roam"),
        (stores.RenewingUnchecked, "sign in + sign in"),
        (careless.SweepingByTheFirstDue, "write + expire"),
    ],
    ids=lambda one: one if isinstance(one, str) else one.__name__,
)
def test_every_order_of_requests_finds_it_too(store: type[stores.Sound], names: str) -> None:
    """The orders of two requests find what overlaps only from request to request, and say which order it was."""
    with pytest.raises(ConformanceFailed) as caught:
        check_store(make("sync", store), only=["two_requests_in_every_order"])
    (failure,) = caught.value.report.failures
    assert ", in the order " in failure.found


@pytest.mark.slow
@pytest.mark.parametrize("kind", FACES)
@pytest.mark.parametrize("store", [stores.CheckingThenCommitting, stores.CheckingThenEnding], ids=lambda store: store.__name__)
@pytest.mark.parametrize("count", ["two", "three"])
def test_verbs_at_once_find_a_gap_inside_one(store: type[stores.Sound], kind: str, count: str) -> None:
    """A verb that looks and then writes is found by calling it together with others: no order explains what they say."""
    name = f"any_{count}_verbs_at_once_are_in_some_order"
    assert failed(kind, make(kind, store), only=[name]) == (name,)


# -- what the report says, and how the kit is called --------------------------------


def test_the_report_says_what_was_expected() -> None:
    """The error is an AssertionError whose text names the check, the promise, and what was found."""
    with pytest.raises(AssertionError) as caught:
        check_store(careless.ClearingTheLiving, only=["clear_leaves_the_living_alone", "clear_drops_the_session"])
    text = str(caught.value)
    assert text.startswith("1 of 2 checks failed\nclear_leaves_the_living_alone\n")
    assert "promised: `clear` is for ended sessions: a live one keeps its values." in text
    assert "found:    what is stored: expected a record, got none" in text


def test_a_passing_report_says_how_many() -> None:
    """Without failures the report is returned; what was left out is in it, with the reason."""
    report = check_store(MemoryStore, only=["closing_twice_is_allowed", "what_is_over_keeps_nobody_out"])
    assert (report.passed, report.failed) == (("closing_twice_is_allowed",), ())
    assert str(report).startswith("all 1 checks passed\nleft out: what_is_over_keeps_nobody_out: needs make_bounded")


def test_an_error_of_the_store_is_a_failure() -> None:
    """Whatever a verb raises makes its check fail, with the error's type and text."""

    class Raising(stores.Sound):
        def touch(self, locator: bytes, digest: bytes, idle: Idle, now: float) -> bool:
            raise ZeroDivisionError("of the store")

    with pytest.raises(ConformanceFailed) as caught:
        check_store(Raising, only=["touch_writes_the_use"])
    assert caught.value.report.failures[0].found == "ZeroDivisionError: of the store"


def test_a_wrong_name_is_refused() -> None:
    """A name in `only` that is no check's is a mistake, not a run of nothing."""
    with pytest.raises(ValueError, match="no such checks"):
        check_store(MemoryStore, only=["touch_writes_the_use", "touch_writes_nothing"])


def test_a_store_that_is_not_empty_is_noticed() -> None:
    """A factory that gives the same store twice is told so, instead of failing some check for a strange reason."""
    store = MemoryStore()
    found = failed("sync", lambda: store, only=["a_second_request_is_remembered", "touch_writes_the_use"])
    assert found == ("touch_writes_the_use",)


def test_an_asynchronous_store_has_its_own_call() -> None:
    """An asynchronous store given to the synchronous call, and the asynchronous call inside of a loop, are told what to do instead."""
    with pytest.raises(ConformanceFailed, match="use check_async_store"):
        check_store(lambda: ForTasks(stores.Sound()), only=["closing_twice_is_allowed"])  # type: ignore[type-var]  # the mistake

    async def inside() -> None:
        with pytest.raises(RuntimeError, match="a function that is not async"):
            check_async_store(MemoryStore)

    asyncio.run(inside())


def test_the_factory_of_an_asynchronous_store_may_be_awaited() -> None:
    """Making a store may take trips of its own."""

    async def made() -> MemoryStore:
        await asyncio.sleep(0)
        return MemoryStore()

    assert check_async_store(made, only=["touch_writes_the_use"]).failed == ()


def test_without_hypothesis_the_kit_says_what_to_install() -> None:
    """Everything but the state machine runs without it, and the error names the extra."""
    program = """
import sys
sys.modules["hypothesis"] = None
from typed_sessions import MemoryStore
from typed_sessions.changes import Idle
from typed_sessions.testing import CHECK_NAMES, check_store
report = check_store(MemoryStore, only=[name for name in CHECK_NAMES if name != "any_history_is_the_models"])
assert len(report.passed) + len(report.skipped) == len(CHECK_NAMES) - 1
try:
    check_store(MemoryStore)
except ModuleNotFoundError as problem:
    assert "pip install 'typed-sessions[testing]'" in str(problem), problem
else:
    raise SystemExit("the kit ran without Hypothesis")
"""
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, timeout=60)
