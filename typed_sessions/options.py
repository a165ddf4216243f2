"""The options of a manager: one frozen value, checked as a whole, so that a wrong option changes nothing."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, fields
from typing import Literal, final

from .declared import nearest
from .durations import check_seconds, check_timeout
from .errors import PolicyError
from .session import Create

MAX_ROUTE = 64
"""Characters of a `route`."""
_ROUTE = re.compile(rf"[A-Za-z0-9_-]{{1,{MAX_ROUTE}}}")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class SessionOptions:
    """What a manager was told, and its defaults. Times are in seconds. Raises `PolicyError` for an illegal value.

    timeout      idle: a session is over so long after its last use; None is never
    lifetime     absolute: a session is over so long after its creation (OWASP ASVS 7.3.2); None is never
    granularity  the time of last use is written once in so many seconds at most, or in a tenth of the timeout if that is less
    overlap      for how long a renewed session's previous secret still opens it; `renew(overlap=)` goes before it
    linger       where the server does not tell when a connection closes, a client counts as connected so long after a request; whether it
                 has gone on in another process is told by the time of last use, so not if this is shorter than `granularity`
    create       when a request without a session gets one; see `Create`
    gc           "passive": what is over is ended in passing, after requests; "active": in the background, which slow hooks want
    enabled      False: nobody has a session, and none is created
    route        put behind the id in the cookie, for load balancers that choose a server by it
    old_id       "report": when an id that was renewed away comes back after its time, `ReusedOldId` is sent; "end": the session ends too
    deadline     for so long a commit repeats itself when other requests are faster, and a call of a store that blocks waits for a thread in
                 an AsyncSessionManager; what a call may take is the store's own `deadline`
    reap_grace   for so long an ended session keeps values whose hooks no process here knows, or that none here can read
    max_clients  how many connections one session may have; a request on one more is refused (`Rejected`, 429)
    """

    timeout: float | None = 600
    lifetime: float | None = None
    granularity: float = 60
    overlap: float = 0
    linger: float = 300
    create: Create = "on_write"
    gc: Literal["passive", "active"] = "passive"
    enabled: bool = True
    route: str | None = None
    old_id: Literal["report", "end"] = "report"
    deadline: float = 5
    reap_grace: float = 604_800
    max_clients: int = 1_000

    def __post_init__(self) -> None:
        check_timeout("timeout", self.timeout)
        check_timeout("lifetime", self.lifetime)
        for name, least in (("granularity", 0.0), ("overlap", 0.0), ("linger", 0.0), ("deadline", 0.001), ("reap_grace", 0.0)):
            check_seconds(name, getattr(self, name), least)
        for name, allowed in (("create", ("on_write", True, False)), ("gc", ("passive", "active")), ("old_id", ("report", "end"))):
            value: object = getattr(self, name)
            if not any(value is word or (isinstance(value, str) and value == word) for word in allowed):
                hint = nearest(value, [word for word in allowed if isinstance(word, str)])
                raise PolicyError(f"{name} = {value!r}: expected {' or '.join(map(repr, allowed))}{hint}")
        if type(self.enabled) is not bool:
            raise PolicyError(f"enabled = {self.enabled!r}: expected True or False")
        if self.route is not None and (not isinstance(self.route, str) or not _ROUTE.fullmatch(self.route)):
            raise PolicyError(f"route = {self.route!r}: expected 1 to {MAX_ROUTE} letters, digits, '-' or '_', or None")
        if type(self.max_clients) is not int or self.max_clients < 1:
            raise PolicyError(f"max_clients = {self.max_clients!r}: expected a whole number of at least 1")


def refuse_unknown(unknown: Collection[str], also: Collection[str] = ()) -> None:
    """Raise `PolicyError` for an option that does not exist, naming its nearest neighbour."""
    known = [*(field.name for field in fields(SessionOptions)), *also]
    for name in unknown:
        raise PolicyError(f"there is no option {name!r}{nearest(name, known)}; the options are {', '.join(known)}")
