"""The cookie policy that an application chooses, checked when it is built, and the session's cookies as it names and writes them.

It must not know the store, the session's data or what an id means: a key and an address tag are opaque text here.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, replace
from typing import Final, Literal, TypeAlias, final

from .cookies import (
    MAX_COOKIE,
    MAX_MAX_AGE,
    SameSite,
    SetCookie,
    check_domain,
    check_flag,
    check_name,
    check_path,
    check_same_site,
    is_value,
    needs_secure,
    parse_cookies,
    shown,
)
from .declared import options_of_policy
from .errors import PolicyError
from .habits import INSTEAD_OF_COOKIE_OPTIONS

CookieFilter: TypeAlias = Callable[[SetCookie], SetCookie | None]

MAX_NAME: Final = 512
"""Characters of a policy's name: with the longest prefix and suffix it leaves a cookie more than 3,500 bytes for its value."""

logger: logging.Logger = logging.getLogger("typed_sessions")


def leave_alone(cookie: SetCookie, /) -> SetCookie:
    """The default `filter` of a cookie policy: when a check fails, the request's other cookies stay as they are."""
    return cookie


@final
@options_of_policy(INSTEAD_OF_COOKIE_OPTIONS)
@dataclass(frozen=True, slots=True, kw_only=True)
class CookiePolicy:
    """How the session's two cookies, `<prefix><name>_KEY` and `<prefix><name>_ADDR`, are named and written.

    - `path`, `domain`: where the browser sends them. `domain=None` is this host alone, and with `path="/"` allows the prefix `__Host-`.
      A release that changes one of them, or `partitioned`, takes another `name` too: browsers keep the cookies of before, and send both
      under one name.
    - `max_age`: seconds that they live in the browser if the session is persistent; None is until the browser is closed.
    - `persistent`: whether a session is that says nothing of it (`session.persistent`); False is for "remember me".
    - `filter`: asked about each other cookie of a request whose check failed; None expires it, a changed cookie is set, the same stays.
    - `secure`: "auto" goes by the request's scheme; True writes and reads the https form always, as behind a proxy that hides the scheme;
      False the plain form always.
    - `same_site`, `http_only`, `partitioned`: the attributes of those names (RFC 6265bis 4.1.2, CHIPS).

    What is illegal, alone or together, raises `PolicyError` here, never when a response is written (ASVS 3.3.1, 3.3.3).
    """

    path: str = "/"
    name: str = "SESSION"
    max_age: float | None = None
    filter: CookieFilter = leave_alone
    domain: str | None = None
    partitioned: bool = False
    same_site: SameSite = "lax"
    http_only: bool = True
    secure: bool | Literal["auto"] = "auto"
    persistent: bool = True
    _cookies: tuple[SessionCookies, SessionCookies] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_path(self.path)
        check_name(self.name)
        if needs_secure(self.name):
            raise PolicyError(f"cookie name {shown(self.name)}: expected a name without prefix, __Host- or __Secure- is added over https")
        if len(self.name) > MAX_NAME:
            raise PolicyError(f"cookie name {shown(self.name)}: it has {len(self.name)} characters, expected at most {MAX_NAME}")
        _check_life(self.max_age)
        _check_filter(self.filter)
        check_domain(self.domain)
        check_flag("partitioned", self.partitioned)
        check_same_site(self.same_site)
        check_flag("http_only", self.http_only)
        check_flag("persistent", self.persistent)
        if not self.persistent and self.max_age is None:
            raise PolicyError("cookie option persistent=False: expected max_age beside it, without which no session is persistent")
        _check_secure(self.secure)
        for option, wanted in (("same_site='none'", self.same_site == "none"), ("partitioned=True", self.partitioned)):
            if wanted and self.secure is not True:
                raise PolicyError(f"cookie option {option}: expected secure=True beside it, browsers refuse such a cookie over plain http")
        plain = SessionCookies(self, https=self.secure is True)
        encrypted = SessionCookies(self, https=self.secure is not False)
        object.__setattr__(self, "_cookies", (plain, encrypted))

    def session_cookies(self, https: bool) -> SessionCookies:
        """The session's cookies for a request over https, or over plain http; `secure=True` and `secure=False` overrule the scheme."""
        return self._cookies[https]


@final
class SessionCookies:
    """The session's two cookies under one policy and one scheme: their names, how they are found, set and expired.

    `key_name` and `addr_name` are the cookies' names, prefix included, and `stem` is what they begin with; `secure` says whether this is
    the https form. In a header, `key_equals` is before the one value, and `addr_follows` between the two if they stand side by side.
    Over https an unprefixed cookie has another name, so it is never read (RFC 6265bis 4.1.3).
    """

    __slots__ = (
        "_addr",
        "_addr_equals",
        "_expiry",
        "_key",
        "_lasting",
        "_max_age",
        "_told",
        "_until_closed",
        "addr_follows",
        "addr_name",
        "key_equals",
        "key_name",
        "secure",
        "stem",
    )

    def __init__(self, policy: CookiePolicy, *, https: bool) -> None:
        prefix = "" if not https else "__Host-" if policy.path == "/" and policy.domain is None else "__Secure-"
        self.secure: bool = https
        self.stem: str = f"{prefix}{policy.name}_"
        self.key_name: str = f"{self.stem}KEY"
        self.addr_name: str = f"{self.stem}ADDR"
        self._key = SetCookie(
            self.key_name,
            "",
            path=policy.path,
            secure=https,
            http_only=policy.http_only,
            same_site=policy.same_site,
            domain=policy.domain,
            partitioned=policy.partitioned,
        )
        self._addr = replace(self._key, name=self.addr_name)
        self._max_age = None if policy.max_age is None else math.ceil(policy.max_age)

        self.key_equals: str = f"{self.key_name}="
        self._addr_equals = f"{self.addr_name}="
        self.addr_follows: str = f"; {self._addr_equals}"
        self._until_closed = self._key.header()[len(self.key_equals) :]
        self._lasting = replace(self._key, max_age=self._max_age).header()[len(self.key_equals) :]
        self._expiry = (self._key.expired().header(), self._addr.expired().header())
        self._told = False

    def find(self, header: str) -> tuple[str | None, str | None]:
        """The values of the two cookies in a `Cookie` header, as `parse_cookies` reads it.

        None: there is no such cookie. The empty text: it is malformed, or there more than once with different values (RFC 6265bis 4.2.2
        gives no order to rely on). Names are compared as they stand: neither case, nor quotes, nor percent-encoding is folded.
        """
        if self.stem not in header:
            return None, None
        key: str | None = None
        addr: str | None = None
        for name, value in parse_cookies(header):
            if name == self.key_name:
                key = value if key is None or key == value else ""
            elif name == self.addr_name:
                addr = value if addr is None or addr == value else ""
        if (key == "" or addr == "") and not self._told:
            self._told = True
            logger.warning(
                "a request has %s or %s without a value, or more than once with different ones, and gets no session (the first such "
                "request; no other is told of). If many do: a policy whose path, domain or partitioned has changed needs another name too, "
                "for browsers send the cookies of both. In a test, give the client those of login() with the domain that its answers have, "
                "such as client.cookies.set(name, value, domain='testserver.local')",
                self.key_name,
                self.addr_name,
            )
        return key, addr

    def set(self, key: str, addr: str, *, persistent: bool) -> tuple[SetCookie, SetCookie]:
        """The two cookies with these values; persistent ones live for the policy's `max_age`, rounded up to whole seconds.

        A value that cannot be written raises `PolicyError`.
        """
        max_age = self._max_age if persistent else None
        return replace(self._key, value=key, max_age=max_age), replace(self._addr, value=addr, max_age=max_age)

    def set_headers(self, key: str, addr: str, *, persistent: bool) -> tuple[str, str]:
        """The headers of `set(key, addr, persistent=persistent)`, and the same `PolicyError`, without building the cookies."""
        if not (is_value(key) and is_value(addr)) or len(self._addr_equals) + max(len(key), len(addr)) > MAX_COOKIE:
            first, second = self.set(key, addr, persistent=persistent)
            return first.header(), second.header()
        return self.issued_headers(key, addr, persistent=persistent)

    def issued_headers(self, key: str, addr: str, *, persistent: bool) -> tuple[str, str]:
        """The same for values that were made here: whoever has encoded them need not look whether they can be written."""
        attributes = self._lasting if persistent else self._until_closed
        return f"{self.key_equals}{key}{attributes}", f"{self._addr_equals}{addr}{attributes}"

    def expire(self) -> tuple[SetCookie, SetCookie]:
        """The deletions of the two cookies, with the path, domain and flags that they were set with."""
        return self._key.expired(), self._addr.expired()

    def expire_headers(self) -> tuple[str, str]:
        """The headers of `expire()`."""
        return self._expiry


def filtered(policy_filter: CookieFilter, pairs: Iterable[tuple[str, str]], own: Collection[str]) -> list[SetCookie]:
    """What a failed check does to the request's other cookies: at most one cookie to set or expire for each name.

    `policy_filter` is asked once for each name that is not in `own` (the session's names, under every prefix they can have), with the first
    cookie of that name that can be written. A name with a prefix is passed as `secure`, which is how it must have been set. A cookie that
    cannot be written is left alone, and so is one for which the filter raises or answers with something else than None or a cookie of that
    name: that is logged, with the name and never the value.
    """
    seen: set[str] = set()
    answers: list[SetCookie] = []
    for name, value in pairs:
        if name in own or name in seen:
            continue
        try:
            cookie = SetCookie(name, value, secure=needs_secure(name))
        except PolicyError:
            continue
        seen.add(name)
        try:
            answer = _answer(cookie, policy_filter(cookie))
        except Exception:
            logger.exception("the cookie policy's filter failed for the cookie %r, which is left alone", name)
            continue
        if answer != cookie:
            answers.append(answer)
    return answers


def _answer(cookie: SetCookie, answer: object) -> SetCookie:
    if answer is None:
        return cookie.expired()
    if not isinstance(answer, SetCookie):
        raise TypeError(f"expected a SetCookie or None, got {type(answer).__name__}")
    if answer.name != cookie.name:
        raise ValueError(f"expected a cookie of the same name, got one named {shown(answer.name)}")
    return answer


def _check_life(max_age: object) -> None:
    if max_age is None:
        return
    if not isinstance(max_age, int | float) or isinstance(max_age, bool):
        raise PolicyError(f"cookie option max_age: expected seconds as a number, or None, got {type(max_age).__name__}")
    # Written so that NaN fails too, and an int of any size is compared without becoming a float.
    if not 0 < max_age <= MAX_MAX_AGE:
        raise PolicyError(
            f"cookie option max_age: expected more than 0 and at most {MAX_MAX_AGE} seconds; None is until the browser is closed"
        )


def _check_filter(policy_filter: object) -> None:
    if not callable(policy_filter):
        raise PolicyError(f"cookie option filter: expected a function of a SetCookie, got {type(policy_filter).__name__}")


def _check_secure(secure: object) -> None:
    if not isinstance(secure, bool) and secure != "auto":
        raise PolicyError(f"cookie option secure: expected True, False or 'auto', got {shown(secure)}")
