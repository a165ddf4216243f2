"""What tests of faults say again and again: a browser that is signed in, what it finds, and an error that is honest and in time."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager

import pytest

from tests.faces import Browser, Face
from typed_sessions import Key, StoreUnavailable

DEADLINE = 1.0
SLACK = 1.0
"""For a busy machine; what is not kept takes a multiple of the deadline, or for ever."""


@contextmanager
def unavailable(words: str) -> Generator[pytest.ExceptionInfo[StoreUnavailable]]:
    """The block raises `StoreUnavailable` that says so, within the deadline."""
    begin = time.monotonic()
    with pytest.raises(StoreUnavailable, match=words) as caught:
        yield caught
    assert time.monotonic() - begin < DEADLINE + SLACK


def signed_in(face: Face, name: Key[str]) -> Browser:
    browser = face.browser()
    with browser.visit() as session:
        session[name] = "ann"
    with browser.visit() as session:
        assert session[name] == "ann"
    return browser


def write(browser: Browser, name: Key[str], value: str) -> None:
    with browser.visit() as session:
        session[name] = value


def read(browser: Browser, name: Key[str]) -> str | None:
    turn = browser.open()
    value = turn.session.get(name)
    turn.finish()
    return value
