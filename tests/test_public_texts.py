"""What `help()` and an editor show of the package stands for itself, and what it logs is under one name."""

from __future__ import annotations

import inspect
import logging
import pkgutil
import pydoc
import re
from collections.abc import Iterator
from importlib import import_module

import pytest

import typed_sessions
from typed_sessions import conformance, filters
from typed_sessions.conformance.report import Failure
from typed_sessions.conformance.run import CHECKS

# A rule by its number, or the code of a case: nobody outside this project knows what it stands for.
CITED = re.compile(r"\brules? \d|\bdesign\b|\b[ACDILRSX]\d{1,2}\b")

MODULES = [
    "typed_sessions",
    "typed_sessions.testing",
    "typed_sessions.filters",
    *(f"typed_sessions.filters.{name}" for name in ("asgi", "bottle", "decorators", "fastapi", "http_server", "starlette", "wsgi")),
    *(f"typed_sessions.stores.{name}" for name in ("base", "memory", "postgres", "redis", "sqlite")),
]


def texts(name: str) -> Iterator[tuple[str, str]]:
    """Every text of a module that is shown, with the name of what it is the text of."""
    module = import_module(name)
    yield name, module.__doc__ or ""
    public: list[str] = getattr(module, "__all__", [found for found in vars(module) if not found.startswith("_")])
    for found in public:
        value = getattr(module, found)
        if not str(getattr(value, "__module__", "")).startswith("typed_sessions"):
            continue
        yield f"{name}.{found}", inspect.getdoc(value) or ""
        if inspect.isclass(value):
            for member, inner in inspect.getmembers(value):
                if not member.startswith("_") or member in ("__call__", "__getitem__", "__setitem__", "__delitem__", "__iter__"):
                    yield f"{name}.{found}.{member}", inspect.getdoc(inner) or ""


@pytest.mark.parametrize("module", MODULES)
def test_a_public_text_cites_nothing_that_a_user_does_not_have(module: str) -> None:
    """It says in words what is meant, instead of the number of a rule."""
    found = list(texts(module))
    assert found[0][1], "the module has no text"
    assert [f"{name}: {text}" for name, text in found if CITED.search(text)] == []


@pytest.mark.parametrize("module", ["asgi", "bottle", "decorators", "fastapi", "http_server", "starlette", "wsgi"])
def test_a_filter_shows_what_is_for_users(module: str) -> None:
    """Not what filters have among themselves, nor what they import."""
    shown = pydoc.plain(pydoc.render_doc(import_module(f"typed_sessions.filters.{module}")))
    assert re.search(r"^    (class \w*Session|with_session|CurrentSession|inject)", shown, re.MULTILINE)
    for inner in ("enter", "leave", "Reader", "ABSENT", "BAD_REQUEST", "logger"):
        assert re.search(rf"^    (class )?{inner}\b", shown, re.MULTILINE) is None


def test_a_default_that_stands_for_nothing_says_so() -> None:
    """In `help()`, where an object without a text of its own would be an address in memory."""
    for method in (typed_sessions.Session.pop, typed_sessions.Session.update, typed_sessions.current_session):
        assert "<nothing>" in str(inspect.signature(method))


def test_a_check_of_the_kit_says_what_is_promised_in_words() -> None:
    """The author of a store reads the promise and what was found, and no numbers of rules."""
    assert [check.name for check in CHECKS if CITED.search(check.promise)] == []
    text = str(Failure("an_end", "It is over.", "it is not", AssertionError()))
    assert text == "an_end\n    promised: It is over.\n    found:    it is not"


def test_there_is_one_logger() -> None:
    """Whoever wants to see, or not to see, what the library logs names `typed_sessions`; the demo's own is another."""
    folders = [*typed_sessions.__path__, *conformance.__path__, *filters.__path__, *import_module("typed_sessions.stores").__path__]
    prefixes = {folder: "typed_sessions" + folder.partition("typed_sessions")[2].replace("/", ".") for folder in folders}
    names: dict[str, str] = {}
    for folder, prefix in prefixes.items():
        for module in pkgutil.iter_modules([folder], f"{prefix}."):
            if module.ispkg or module.name == "typed_sessions.__main__":
                continue
            for value in vars(import_module(module.name)).values():
                if isinstance(value, logging.Logger):
                    names[module.name] = value.name
    assert len(names) > 10
    assert {*names.values()} == {"typed_sessions"}
