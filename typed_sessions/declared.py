"""Where something was declared, and what tells one declaration from another."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable


def caller() -> tuple[str, str]:
    """Of whoever called the function that asks, which is a declaration: `file:line`, and the module's name."""
    # Key[int]("n", ...) comes through typing's alias, which is not where the key was declared.
    frame = sys._getframe(2)  # pyright: ignore[reportPrivateUsage]  # the documented way to a caller's line without its source
    while frame.f_back is not None and frame.f_globals.get("__name__") in ("typing", "typing_extensions"):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}", str(frame.f_globals.get("__name__", ""))


def in_module(part: object, module: str) -> object:
    """A part of a declaration without its module's name. A file that is run and imported too has two names, and is one declaration."""
    return re.sub(rf"(?<![\w.]){re.escape(module)}\.", "", part) if isinstance(part, str) and module else part


def hook_name(hook: object) -> str | None:
    """The qualified name of a function, which a reload of its module does not change."""
    if hook is None:
        return None
    return f"{getattr(hook, '__module__', '')}.{getattr(hook, '__qualname__', type(hook).__qualname__)}"


def misfit(function: Callable[..., object], arguments: int) -> str | None:
    """Why a function cannot be called with so many arguments; None if it can, or if nobody can tell."""
    try:
        signature = inspect.signature(function)
    except (ValueError, TypeError):  # many functions written in C have none
        return None
    try:
        signature.bind(*range(arguments))
    except TypeError as problem:
        return str(problem)
    return None
