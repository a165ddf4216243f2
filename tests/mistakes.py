"""A mistake as the tests of mistakes write it down: what is done, the error, and what its text has to say."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any, TypeAlias

import pytest

from tests.faces import PEER
from typed_sessions import Request, SessionManager

Case: TypeAlias = tuple[Callable[[], object], type[BaseException], list[str]]
REQUEST = Request(headers=(), peer=PEER)


def check(case: Case) -> None:
    mistake, error, says = case
    with pytest.raises(error) as caught:
        mistake()
    for text in says:
        assert text in str(caught.value)
    if " bits" not in str(caught.value):  # a number that Python itself refuses to show
        check_report(caught.value)


def check_report(problem: BaseException) -> None:
    """A report that shows the locals of every frame can be made: what was refused stands in one of them, half made."""
    report = "".join(traceback.TracebackException.from_exception(problem, capture_locals=True).format())
    assert str(problem) in report
    assert "repr() failed" not in report  # as Python says it from 3.13 on; before, it raised what the `repr` did


def cases(table: dict[str, Case]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", list(table.values()), ids=list(table))


def used(mistake: Callable[[Any], object]) -> Callable[[], object]:
    """The mistake, made with the session of some request. Any: what type checkers would refuse is the point."""

    def make() -> object:
        with SessionManager() as manager:
            session, finish = manager.start_check(REQUEST)
            try:
                return mistake(session)
            finally:
                finish.discard()

    return make


async def coroutine_function(_: object) -> bool:
    return True
