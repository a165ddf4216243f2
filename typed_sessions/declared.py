"""Where something was declared, and what tells one declaration from another."""

from __future__ import annotations

import sys


def caller() -> str:
    """`file:line` of whoever called the function that asks: the line of a declaration."""
    # Key[int]("n", ...) comes through typing's alias, which is not where the key was declared.
    frame = sys._getframe(2)  # pyright: ignore[reportPrivateUsage]  # the documented way to a caller's line without its source
    while frame.f_back is not None and frame.f_globals.get("__name__") in ("typing", "typing_extensions"):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def hook_name(hook: object) -> str | None:
    """The qualified name of a function, which a reload of its module does not change."""
    if hook is None:
        return None
    return f"{getattr(hook, '__module__', '')}.{getattr(hook, '__qualname__', type(hook).__qualname__)}"
