"""A filter inside another one: what they have in common, and that their cookies are not the same where they have nothing."""

from __future__ import annotations

from ..core import Core
from ..errors import PolicyError
from ..exchange import Exchange, Guard


def refuse_same_cookies(around: Exchange, other: Core, guard: Guard, core: Core) -> None:
    """Raise `PolicyError` if the cookies of `guard` have the names of those of the request that is `around` it, with `other` behind it.

    Whatever comes in under that name, each of the two takes for its own; and if it is not, or if there is none yet, it begins another
    session, or expires the cookie, in the place of the other's. Paths and domains do not keep them apart: to a nested path the browser
    sends the cookies of both, which is one too many for either, and to a path of only one of them the other filter answers with cookies of
    that name all the same. What does is the prefix: over https `__Host-SESSION_KEY` (of "/") is not `__Secure-SESSION_KEY` (of "/admin").
    So it is the names of this request that count.
    """
    if around.guard.policy.name != guard.policy.name:
        return
    name = guard.cookies[core.is_https(guard, around.source)].key_name
    if around.guard.cookies[other.is_https(around.guard, around.source)].key_name == name:
        raise PolicyError(
            f"two managers, one in the other, use the cookie {name}: each would replace the sessions of the other. Use one manager for "
            "both filters, or give one of them another name, SessionManager(cookie_policy=CookiePolicy(name='ADMIN'))"
            if other is not core
            else f"a filter with a cookie policy of its own is within one of the same manager, and both use the cookie {name}: give the "
            "policy another name, CookiePolicy(name='ADMIN')"
        )
