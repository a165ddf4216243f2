"""None of the cases is left out, none is there twice, and what is said of each agrees with the list."""

from __future__ import annotations

import json
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from tests.seeds.cases import OVERRIDES, listed, registry

HERE = Path(__file__).parent
SEEDS = "TYPED_SESSIONS_SEEDS"


@pytest.fixture(autouse=True, scope="module")
def all_cases() -> None:  # pyright: ignore[reportUnusedFunction]  # pytest calls it
    """Every module of the folder is imported, also when this one is run alone."""
    for path in sorted(HERE.glob("test_*.py")):
        import_module(f"tests.seeds.{path.stem}")


def test_every_case_is_tested_or_cannot_arise() -> None:
    """No name of the list is left out, and no test names a case that is not in it."""
    assert {*registry} == {*listed()}


def test_the_notes_agree_with_the_list() -> None:
    """What was to be kept is kept, unless the rules forbid it and the list of those exceptions says why."""
    notes = {name: entry.note for name, entry in registry.items() if entry.test is not None}
    expected = {name: "improve" if name in OVERRIDES else note for name, note in listed().items() if name in notes}
    assert notes == expected
    assert {name for name in OVERRIDES if listed().get(name) == "keep"} == {*OVERRIDES}
    assert all(OVERRIDES.values())


def test_every_marked_function_is_a_test_that_says_what_it_shows() -> None:
    """It is the one that pytest finds in its module, and its docstring is a sentence; a case without a test has a reason."""
    for name, entry in registry.items():
        if entry.test is None:
            assert len(entry.remark) > 20, name
            continue
        module = sys.modules[entry.test.__module__]
        assert entry.test.__name__.startswith("test_"), name
        assert getattr(module, entry.test.__name__) is entry.test, name
        assert (entry.test.__doc__ or "").strip().endswith("."), name


def test_the_list_is_that_of_the_cases_that_were_seen() -> None:
    """The names and notes here are those of the records that were made when the model systems were run."""
    folder = os.environ.get(SEEDS)
    if folder is None:
        pytest.skip(f"the records are not part of this project; where they are, {SEEDS} names their folder")
    seen: list[dict[str, Any]] = json.loads(Path(folder, "cases.json").read_text(encoding="utf-8"))
    assert [(entry["name"], entry["note"]) for entry in seen] == [*listed().items()]
