"""What can be seen of a store before it is asked for anything, and of an answer before it is compared: names, kinds, types."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, TypeGuard

from ..changes import Outcome
from ..record import Record
from .report import Unexpected, shortened

VERBS: dict[str, tuple[str, ...]] = {
    "create": ("record", "now"),
    "open": ("locator", "use", "idle", "now"),
    "touch": ("locator", "digest", "idle", "now"),
    "commit": ("locator", "changes", "idle", "now"),
    "end": ("locator", "reason", "now", "lease"),
    "sweep": ("now", "limit", "lease", "grace"),
    "clear": ("locator", "names"),
    "scan": ("after", "limit"),
    "close": (),
}
"""The arguments of each verb, which are given in this order and not by name."""


def is_awaited(store: object) -> bool:
    """Whether the verbs of a store have to be awaited: `open` is looked at, as the managers do."""
    return inspect.iscoroutinefunction(getattr(store, "open", None))


def faults(store: object, asynchronous: bool) -> list[str]:
    """What is wrong with a store that can be told by looking at it. In words."""
    if isinstance(store, type):
        return [f"make_store gave the class {store.__name__}, expected an instance"]
    awaited = is_awaited(store)
    if awaited and not asynchronous and all(inspect.iscoroutinefunction(getattr(store, verb, None)) for verb in VERBS):
        return ["check_store was given an asynchronous store: use check_async_store"]
    found: list[str] = []
    for verb, arguments in VERBS.items():
        function = getattr(store, verb, None)
        if not callable(function):
            found.append(f"`{verb}` is missing" if function is None else f"`{verb}` is {shortened(repr(function), 80)}, expected a method")
        elif inspect.iscoroutinefunction(function) != awaited:
            found.append(f"`{verb}` is {'a' if awaited else 'no'} plain function, and `open` is {'not' if awaited else 'one'}")
        elif not _takes(function, arguments):
            found.append(f"`{verb}` cannot be called with ({', '.join(arguments)}): it is {verb}{inspect.signature(function)}")
    blocking = getattr(store, "blocking", None)
    if not awaited and not isinstance(blocking, bool):
        is_what = "missing" if blocking is None else shortened(repr(blocking), 80)
        said = f"`blocking` is {is_what}, expected True (a verb does I/O) or False"
        if asynchronous:
            said += "; or make the verbs coroutine functions (`async def`), which is how an asynchronous store is told from another"
        found.append(said)
    return found


def _takes(function: Callable[..., object], arguments: Sequence[str]) -> bool:
    try:
        signature = inspect.signature(function)
    except ValueError:  # many functions written in C have none
        return True
    try:
        signature.bind(*arguments)
    except TypeError:
        return False
    return True


def _is_record(answer: object) -> TypeGuard[Record | None]:
    return answer is None or isinstance(answer, Record)


def _is_page(answer: Any, rest: Callable[[object], bool]) -> bool:
    if not issubclass(type(answer), tuple) or len(answer) != 2:
        return False
    records, last = answer
    return issubclass(type(records), Sequence) and all(isinstance(record, Record) for record in records) and rest(last)


_ANSWERS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "create": ('"created", "crowded" or "taken"', lambda answer: isinstance(answer, str) and answer in ("created", "crowded", "taken")),
    "open": ("Record or None", _is_record),
    "touch": ("True or False", lambda answer: isinstance(answer, bool)),
    "commit": ("Outcome", lambda answer: isinstance(answer, Outcome) and _is_record(answer.record)),
    "end": ("Record or None", _is_record),
    "sweep": (
        "(a sequence of Record, whether more is due)",
        lambda answer: _is_page(answer, lambda more: isinstance(more, bool)),
    ),
    "clear": ("None", lambda answer: answer is None),
    "scan": (
        "(a sequence of Record, bytes or None)",
        lambda answer: _is_page(answer, lambda after: after is None or isinstance(after, bytes)),
    ),
    "close": ("None", lambda answer: answer is None),
}


def check_answer(verb: str, answer: object) -> None:
    """Raise `Unexpected` unless this may be what the verb returns."""
    expected, fits = _ANSWERS[verb]
    if not fits(answer):
        if inspect.iscoroutine(answer):
            answer.close()
        raise Unexpected(f"`{verb}` returned {shortened(repr(answer), 80)}, expected {expected}")
