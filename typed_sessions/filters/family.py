"""Whether an application is of the filter's family, WSGI or ASGI: said when the filter is made, not at its first request."""

from __future__ import annotations

import inspect
from typing import Any

_FAMILIES: dict[str, tuple[str, str, str, str]] = {
    "wsgi": ("environ, start_response", "WSGI", "SessionManager", "Flask, Django's get_wsgi_application"),
    "asgi": ("scope, receive, send", "ASGI", "AsyncSessionManager", "FastAPI, Starlette, Django's get_asgi_application"),
}


def check_application(app: object, family: str) -> None:
    """Raise TypeError for what is no application, or takes the arguments of the other family's and not of this one's."""
    if not callable(app):
        raise TypeError(f"SessionMiddleware({app!r}, ...): expected an application first, and then the manager")
    other = "asgi" if family == "wsgi" else "wsgi"
    if not _takes(app, family) and _takes(app, other):
        raise TypeError(f"SessionMiddleware({app!r}, ...): {wrong_family(family, other)}")


def wrong_family(family: str, other: str) -> str:
    arguments, name, manager, examples = _FAMILIES[other]
    return (
        f"this is the filter for {_FAMILIES[family][1]}, and what it was given, ({arguments}), is {name}'s; for {name} ({examples}) take "
        f"typed_sessions.filters.{other}.SessionMiddleware, with {manager}"
    )


def _takes(app: Any, family: str) -> bool:
    try:
        # What a decorator has put around a handler may be called otherwise than the handler.
        signature = inspect.signature(app, follow_wrapped=False)
    except Exception:  # many functions written in C have no signature, and a proxy may not be there yet
        return True
    try:
        signature.bind(*_FAMILIES[family][0].split(", "))
    except TypeError:
        return False
    return True
