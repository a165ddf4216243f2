"""A mistake as the tests of mistakes write it down: what is done, the error, and what its text has to say."""

from __future__ import annotations

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
