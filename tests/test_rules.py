"""tests/RULES.md: whoever meets the number of a rule, a section or a case in the sources finds there what it stands for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "tests" / "RULES.md").read_text("utf-8")
RULES = {int(number) for number in re.findall(r"^(\d+)\. ", TEXT, re.MULTILINE)}
CASES = {case for line in re.findall(r"^\| ([A-Z][A-Z0-9, ]+) \|", TEXT, re.MULTILINE) for case in line.split(", ")}
SECTIONS = set(re.findall(r"^## (§\d)", TEXT, re.MULTILINE))

RULE = re.compile(r"\brules? (\d+(?:(?:,| and|, and| to) \d+)*)")
CASE = re.compile(r"(?<![%\w])[ACDILRSX]\d{1,2}\b|§\d")  # not what is percent-encoded


def sources() -> Iterator[Path]:
    for folder in ("typed_sessions", "tests"):
        yield from sorted((ROOT / folder).rglob("*.py"))


def test_there_are_thirty_rules() -> None:
    """None is left out, and each has tests that are named after it."""
    assert sorted(RULES) == [*range(1, 31)]
    assert [number for number in sorted(RULES) if not [*(ROOT / "tests" / "rules").glob(f"test_rule_{number:02}_*.py")]] == []


def test_what_a_source_cites_is_there() -> None:
    """In comments, docstrings and names of tests."""
    unknown: list[str] = []
    for path in sources():
        text = path.read_text("utf-8")
        rules = {int(number) for numbers in RULE.findall(text) for number in re.findall(r"\d+", numbers)}
        cases = {*CASE.findall(text)} - CASES - SECTIONS
        unknown += [f"{path.relative_to(ROOT)}: {what}" for what in (*sorted(rules - RULES), *sorted(cases))]
    assert unknown == []
