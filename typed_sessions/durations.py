"""Numbers of seconds that somebody asks for: which are any use."""

from __future__ import annotations

from .errors import PolicyError

MOST_SECONDS = 1e12
"""Some 30,000 years. What is longer may not fit where a store keeps it; None is never."""


def check_seconds(option: str, value: object, least: float = 0.0) -> None:
    """Raise `PolicyError` unless it is a number of seconds, `least` or more."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= MOST_SECONDS:
        raise PolicyError(f"{option} = {_shown(value)}: expected a number of seconds, {least:g} to {MOST_SECONDS:g}")


def check_timeout(option: str, seconds: object) -> None:
    """Raise `PolicyError` unless it is None or a positive number of seconds."""
    if seconds is None:
        return
    said = f"{option} = {_shown(seconds)}: expected a positive number of seconds"
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not seconds >= 0:
        raise PolicyError(f"{said}, or None")
    if not 0 < seconds <= MOST_SECONDS:
        raise PolicyError(f"{said}{f' up to {MOST_SECONDS:g}' if seconds else ''}, or None; None is never")


def _shown(value: object) -> str:
    # Python refuses to write out whole numbers of thousands of digits.
    return repr(value) if not isinstance(value, int) or abs(value) < 10**30 else f"a number of {value.bit_length()} bits"
