"""Where something was declared, with which options, and what tells one declaration from another."""

from __future__ import annotations

import difflib
import inspect
import os
import re
import sys
from collections.abc import Callable, Collection, Mapping
from functools import wraps
from typing import Any, TypeVar, cast

from .errors import PolicyError

C = TypeVar("C")
S = TypeVar("S")
F = TypeVar("F", bound=Callable[..., None])


def caller() -> tuple[str, str]:
    """Of whoever called the function that asks, which is a declaration: `file:line`, and the module's name."""
    # Key[int]("n", ...) comes through typing's alias, and each through `only_options`: that is not where the key was declared.
    frame = sys._getframe(2)  # pyright: ignore[reportPrivateUsage]  # the documented way to a caller's line without its source
    while frame.f_back is not None and frame.f_globals.get("__name__") in ("typing", "typing_extensions", __name__):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}", str(frame.f_globals.get("__name__", ""))


def file_of(where: str, module: str) -> str:
    """The file of a declaration; or its module, where it was typed in: a shell or a notebook names each input like a file of its own."""
    path = where.rpartition(":")[0]
    typed_in = path.startswith("<") or (module == "__main__" and not hasattr(sys.modules[module], "__file__"))
    return module if typed_in else os.path.abspath(path)


def only_options(problem: type[Exception], instead_of: Mapping[str, str]) -> Callable[[F], F]:
    """Decorates the `__init__` of a declaration: raises `problem` for an option that does not exist, with what to write instead of it.

    An argument of its own that takes what is unknown would do the same, but type checkers know the options by the signature.
    """

    def decorate(init: F) -> F:
        known = [parameter.name for parameter in inspect.signature(init).parameters.values() if parameter.kind is parameter.KEYWORD_ONLY]

        @wraps(init)
        def checked(self: object, *arguments: Any, **options: Any) -> None:  # Any: as the method itself says
            for option in options:
                if option not in known:
                    where, _ = caller()
                    instead = instead_of.get(option)
                    why = f"{nearest(option, known)}; the options are {', '.join(known)}" if instead is None else f": {instead}"
                    what = f"{type(self).__name__}({', '.join([*map(repr, arguments[:1]), f'{option}=...'])})"
                    raise problem(f"{what} declared at {where}: there is no option {option!r}{why}")
            init(self, *arguments, **options)

        return cast("F", checked)

    return decorate


def options_of_policy(instead_of: Mapping[str, str]) -> Callable[[type[C]], type[C]]:
    """Decorates a dataclass: `PolicyError` for an option that does not exist, with what to write instead of it."""

    def decorate(cls: type[C]) -> type[C]:
        init: Callable[..., None] = vars(cls)["__init__"]
        type.__setattr__(cls, "__init__", only_options(PolicyError, instead_of)(init))
        type.__setattr__(cls, "__repr__", unfinished_too(cls.__repr__))
        return cls

    return decorate


def unfinished_too(show: Callable[[S], str]) -> Callable[[S], str]:
    """Decorates a `__repr__` that is asked as well while `__init__` refuses something: by whatever shows the locals of a traceback.

    `TracebackException` with `capture_locals` raised what the `repr` did before Python 3.13, and nobody saw what was refused.
    """

    @wraps(show)
    def shown(self: S) -> str:
        try:
            return show(self)
        except AttributeError:
            return object.__repr__(self)

    return shown


def nearest(word: object, among: Collection[str]) -> str:
    """'; did you mean ...?' for a misspelt word, or nothing."""
    close = difflib.get_close_matches(word, among, 1, 0.5) if isinstance(word, str) else []
    return f"; did you mean {close[0]!r}?" if close else ""


def in_module(part: object, module: str) -> object:
    """A part of a declaration without its module's name. A file that is run and imported too has two names, and is one declaration."""
    return re.sub(rf"(?<![\w.]){re.escape(module)}\.", "", part) if isinstance(part, str) and module else part


def type_name(type_: object) -> str:
    """The qualified name of a class, or how another type is written."""
    return f"{type_.__module__}.{type_.__qualname__}" if isinstance(type_, type) and not hasattr(type_, "__args__") else repr(type_)


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
