"""Cookies on the wire: reading a `Cookie` header, and one cookie as it is written in a `Set-Cookie` header.

It must not know what a session is, which cookies are ours, or who asks: it is the grammar of RFC 6265bis, read leniently and written
strictly.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Final, Literal, TypeAlias, final

from .errors import PolicyError

SameSite: TypeAlias = Literal["strict", "lax", "none"]

MAX_HEADER: Final = 16_384
"""How many characters of a `Cookie` header are read."""
MAX_PAIRS: Final = 200
"""How many cookies of a `Cookie` header are read."""
MAX_COOKIE: Final = 4_096
"""Bytes of name and value together; a browser ignores a larger cookie (RFC 6265bis 5.6)."""
MAX_ATTRIBUTE: Final = 1_024
"""Bytes of one attribute's value; a browser ignores a longer attribute (RFC 6265bis 5.6)."""
MAX_MAX_AGE: Final = 2**31 - 1
"""Seconds, 68 years: what every browser can count. Browsers cut it to 400 days (RFC 6265bis 5.5)."""

_BLANK: Final = " \t"
_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_OCTETS: Final = re.compile(r"[!#-+\--:<-\[\]-~]*")
# A browser trims an attribute's value, so a path that ends in a blank would come to mean another path.
_PATH: Final = re.compile(r"/(?:[ -:<-~]*[!-:<-~])?")
_LABEL: Final = r"[0-9A-Za-z](?:[0-9A-Za-z-]{0,61}[0-9A-Za-z])?"
_DOMAIN: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_MAX_DOMAIN: Final = 253
_SAME_SITE: Final = {"strict": "Strict", "lax": "Lax", "none": "None"}


def parse_cookies(header: str) -> list[tuple[str, str]]:
    """The (name, value) pairs of a `Cookie` header, in its order and with repetitions (RFC 6265bis 4.2).

    Lenient and of linear time: it raises for no text, and nothing in one pair can cost another. Pairs are separated by `;` alone; blanks
    round a name or a value and one pair of double quotes round a value are dropped; a part without `=` or without a name is no pair. Only
    the first `MAX_HEADER` characters and the first `MAX_PAIRS` pairs are read; a pair that the cap cuts in two is dropped whole.
    """
    if len(header) > MAX_HEADER:
        header = header[: max(header.rfind(";", 0, MAX_HEADER + 1), 0)]
    pairs: list[tuple[str, str]] = []
    for part in header.split(";"):
        name, equals, value = part.partition("=")
        name = name.strip(_BLANK)
        if not equals or not name:
            continue
        value = value.strip(_BLANK)
        if len(value) > 1 and value[0] == value[-1] == '"':
            value = value[1:-1]
        pairs.append((name, value))
        if len(pairs) == MAX_PAIRS:
            break
    return pairs


@final
@dataclass(frozen=True, slots=True)
class SetCookie:
    """One cookie to be set, or expired, by a response.

    `max_age` is in seconds: None keeps the cookie until the browser is closed, 0 deletes it. What RFC 6265bis 4.1 or a browser would not
    accept raises `PolicyError`: a name that is no token, a value with other than cookie-octets, a control character or `;` in an attribute,
    more than 4,096 bytes, a `__Host-` or `__Secure-` name without what the prefix promises, `SameSite=None` or `Partitioned` without
    `Secure`. The value may be a secret, so neither `repr` nor an error shows it.
    """

    name: str
    value: str = field(repr=False)
    path: str = "/"
    max_age: int | None = None
    secure: bool = False
    http_only: bool = True
    same_site: SameSite = "lax"
    domain: str | None = None
    partitioned: bool = False

    def __post_init__(self) -> None:
        check_name(self.name)
        _check_value(self.value)
        if len(self.name) + len(self.value) > MAX_COOKIE:
            raise PolicyError(
                f"cookie {shown(self.name)}: name and value are {len(self.name) + len(self.value)} bytes, expected at most {MAX_COOKIE}"
            )
        check_path(self.path)
        check_domain(self.domain)
        _check_max_age(self.max_age)
        check_flag("secure", self.secure)
        check_flag("http_only", self.http_only)
        check_flag("partitioned", self.partitioned)
        check_same_site(self.same_site)
        if needs_secure(self.name) and not self.secure:
            raise PolicyError(f"cookie {shown(self.name)}: a name with this prefix needs secure=True (RFC 6265bis 4.1.3)")
        if self.name.lower().startswith("__host-") and (self.path != "/" or self.domain is not None):
            raise PolicyError(f"cookie {shown(self.name)}: the prefix __Host- needs path='/' and no domain (RFC 6265bis 4.1.3.2)")
        if self.same_site == "none" and not self.secure:
            raise PolicyError(f"cookie {shown(self.name)}: same_site='none' needs secure=True, browsers refuse it otherwise")
        if self.partitioned and not self.secure:
            raise PolicyError(f"cookie {shown(self.name)}: partitioned=True needs secure=True, browsers refuse it otherwise")

    def header(self) -> str:
        """The value of a `Set-Cookie` header (RFC 6265bis 4.1.1); `max_age=0` is said as `Expires` too, for clients that know only that."""
        parts = [f"{self.name}={self.value}", f"Path={self.path}"]
        if self.domain is not None:
            parts.append(f"Domain={self.domain}")
        if self.max_age is not None:
            parts.append(f"Max-Age={self.max_age}")
        if self.max_age == 0:
            parts.append("Expires=Thu, 01 Jan 1970 00:00:00 GMT")
        if self.secure:
            parts.append("Secure")
        if self.http_only:
            parts.append("HttpOnly")
        parts.append(f"SameSite={_SAME_SITE[self.same_site]}")
        if self.partitioned:
            parts.append("Partitioned")
        return "; ".join(parts)

    def expired(self) -> SetCookie:
        """The deletion of this cookie: no value, `max_age=0`, and all else as it was, for a browser deletes only what agrees in it."""
        return replace(self, value="", max_age=0)


def is_value(text: str) -> bool:
    """Whether the text is made of cookie-octets only, so that it can be written as a value (RFC 6265bis 4.1.1)."""
    return _OCTETS.fullmatch(text) is not None


def needs_secure(name: str) -> bool:
    """Whether a browser accepts the name only with `Secure`; it reads the prefixes in any case of letters (RFC 6265bis 5.7)."""
    return name.lower().startswith(("__host-", "__secure-"))


def shown(value: object) -> str:
    """A wrong value as an error's text shows it: bounded, and with no raw control character."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


# The checks take `object`: what a type checker has let through, or has not seen, is checked all the same.


def check_name(name: object) -> None:
    """Raises `PolicyError` unless the name is a token (RFC 9110 5.6.2)."""
    if not isinstance(name, str):
        raise PolicyError(f"cookie name: expected a str, got {type(name).__name__}")
    if _TOKEN.fullmatch(name) is None:
        raise PolicyError(
            f"cookie name {shown(name)}: expected a token, one or more letters, digits and !#$%&'*+-.^_`|~ (RFC 6265bis 4.1.1)"
        )


def check_path(path: object) -> None:
    """Raises `PolicyError` unless the path starts with `/` and can be written (RFC 6265bis 4.1.1, path-value)."""
    if not isinstance(path, str):
        raise PolicyError(f"cookie path: expected a str, got {type(path).__name__}")
    if _PATH.fullmatch(path) is None:
        raise PolicyError(
            f"cookie path {shown(path)}: expected '/' and then printable ASCII other than ';', without a blank at the end; "
            f"percent-encode anything else (RFC 6265bis 4.1.1)"
        )
    if len(path) > MAX_ATTRIBUTE:
        raise PolicyError(f"cookie path {shown(path)}: it has {len(path)} bytes, expected at most {MAX_ATTRIBUTE} (RFC 6265bis 5.6)")


def check_domain(domain: object) -> None:
    """Raises `PolicyError` unless the domain is None or a plain host name (RFC 6265bis 4.1.1, domain-value)."""
    if domain is None:
        return
    if not isinstance(domain, str):
        raise PolicyError(f"cookie domain: expected a str or None, got {type(domain).__name__}")
    if len(domain) > _MAX_DOMAIN or _DOMAIN.fullmatch(domain) is None:
        raise PolicyError(
            f"cookie domain {shown(domain)}: expected a bare host name such as 'example.com', with no scheme, port, path, blank or leading "
            f"dot, in ASCII (punycode for other letters); None for this host alone"
        )


def check_flag(option: str, value: object) -> None:
    """Raises `PolicyError` unless the value is True or False."""
    if not isinstance(value, bool):
        raise PolicyError(f"cookie option {option}: expected True or False, got {shown(value)}")


def check_same_site(value: object) -> None:
    """Raises `PolicyError` unless the value is one of the three words, in lower case."""
    if not isinstance(value, str) or value not in _SAME_SITE:
        raise PolicyError(f"cookie option same_site: expected 'strict', 'lax' or 'none', got {shown(value)}")


def _check_value(value: object) -> None:
    if not isinstance(value, str):
        raise PolicyError(f"cookie value: expected a str, got {type(value).__name__}")
    if not is_value(value):
        raise PolicyError(
            "cookie value: expected printable ASCII without blank, double quote, comma, semicolon and backslash (RFC 6265bis 4.1.1); "
            "encode anything else, base64url for one"
        )


def _check_max_age(value: object) -> None:
    if value is None:
        return
    if not isinstance(value, int) or isinstance(value, bool):
        raise PolicyError(f"cookie option max_age: expected whole seconds as an int, or None, got {type(value).__name__}")
    if not 0 <= value <= MAX_MAX_AGE:
        raise PolicyError(f"cookie option max_age: expected 0 to {MAX_MAX_AGE} seconds")
