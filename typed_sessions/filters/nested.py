"""A filter of one manager inside a filter of another: their cookies must not be the same."""

from __future__ import annotations

from typing import Any

from ..core import Core
from ..errors import NoPeerAddress, PolicyError
from ..exchange import Exchange, Guard
from ..policy import SessionCookies


def refuse_same_cookies(around: Exchange, other: Core, guard: Guard, core: Core) -> None:
    """Raise `PolicyError` if the cookies of `guard` have the names of those of the request that is `around` it, with `other` behind it.

    Whatever comes in under that name, each of the two managers takes for its own; and since it is not, it begins another session, or
    expires the cookie, in the place of the other's. Paths and domains do not keep them apart: to a nested path the browser sends the
    cookies of both, which is one too many for either, and to a path of only one of them the other filter answers with cookies of that
    name all the same. What does is the prefix: over https `__Host-SESSION_KEY` (of "/") is not `__Secure-SESSION_KEY` (of "/admin"). So
    it is the names of this request that count.
    """
    if around.guard.policy.name != guard.policy.name or other.store is core.store:
        return  # of one store, each finds the other's sessions
    name = _cookies(core, guard, around.source).key_name
    if _cookies(other, around.guard, around.source).key_name == name:
        raise PolicyError(
            f"two managers, one in the other, use the cookie {name}: each would replace the sessions of the other. Use one manager for "
            "both filters, give both managers one store object, or give one of them another name, "
            "SessionManager(cookie_policy=CookiePolicy(name='ADMIN'))"
        )


def _cookies(core: Core, guard: Guard, source: Any) -> SessionCookies:  # Any: as in Reader
    """The cookies as they are in this request."""
    peer, https, _ = guard.basics(source)
    try:
        told = core.address_policy.origin(peer, lambda name: guard.reader.headers(source, name)).https
    except NoPeerAddress:  # which is said when the session is opened
        told = None
    return guard.cookies[https if told is None else told]
