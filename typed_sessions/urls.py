"""Stores by URL, for programs that are told where their sessions are. The drivers are imported when a URL asks for them.

    memory:                                 this process
    sqlite:///sessions.db                   a file, relative to where the program runs; sqlite:////var/lib/app/sessions.db is absolute
    redis://user:password@host:6379/0       rediss:// with TLS, unix:///run/redis.sock for a socket
    postgresql://user:password@host/app     what libpq has as a URL

Options of the store may follow as a query, `?deadline=2&prefix=shop`; what is none of ours is for the driver, as it stands. What is
special in a URL has to be percent-encoded in a password: nobody can tell where it ends otherwise, and half of the URL would be lost.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from importlib import import_module
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

from .errors import PolicyError
from .stores.base import AsyncStore, Store
from .stores.memory import MemoryStore
from .stores.sqlite import SQLiteStore

_FORMS: Final = (
    "memory:, sqlite:///sessions.db, sqlite:////var/lib/app/sessions.db, redis://host:6379/0, rediss://host:6379/0, "
    "unix:///run/redis.sock or postgresql://user@host/database"
)
_SCHEMES: Final = {
    "memory": "memory",
    "sqlite": "sqlite",
    "redis": "redis",
    "rediss": "redis",
    "unix": "redis",
    "postgresql": "postgres",
    "postgres": "postgres",
}
_NUMBERS: Final[Mapping[str, Callable[[str], object]]] = {"max_bytes": int, "max_keys": int, "deadline": float}
_OPTIONS: Final[Mapping[str, Mapping[str, Callable[[str], object]]]] = {
    "memory": {"max_bytes": int, "max_keys": int, "max_sessions": int},
    "sqlite": {**_NUMBERS, "max_sessions": int},
    "redis": {**_NUMBERS, "prefix": str},
    "postgres": {**_NUMBERS, "schema": str, "max_connections": int},
}
_HOSTS: Final = re.compile(r"(?:(?:\[[^\]]*\]|[^:,\[\]]*)(?::[0-9]*)?)(?:,(?:\[[^\]]*\]|[^:,\[\]]*)(?::[0-9]*)?)*")
_DATABASE: Final = re.compile(r"/?[0-9]*")
_SERVED: Final = {"RedisStore": "redis", "AsyncRedisStore": "redis", "PostgresStore": "postgres", "AsyncPostgresStore": "postgres"}
_EXTRAS: Final = {"redis": ("redis", "hiredis"), "postgres": ("psycopg",)}


def open_store(url: str, /) -> Store:
    """The store at a URL, for `SessionManager`. Nothing is asked of a server before the first verb.

        memory:                              ?max_sessions= max_bytes= max_keys=
        sqlite:///sessions.db                the same, and deadline=; four slashes for an absolute path
        redis://user:password@host:6379/0    ?prefix= max_bytes= max_keys= deadline=; rediss:// is with TLS, unix:///run/redis.sock a socket
        postgresql://user:password@host/app  ?schema= max_bytes= max_keys= deadline= max_connections=

    What is none of these options is for the driver, as it stands. What is special in a URL is percent-encoded in a password.

    Raises `PolicyError` for a URL that is none of these, an unknown or illegal option, or a driver that is not installed. What it says
    never shows a password.
    """
    kind, place, options = _parsed(url)
    if kind == "redis":
        try:
            from .stores.redis import RedisStore
        except ImportError as problem:
            raise _not_installed(kind, problem) from problem
        if "max_connections=" in place.partition("?")[2]:
            raise PolicyError("a store's URL: max_connections has no effect on a RedisStore, which has one for each thread that needs it")
        return RedisStore(place, **options)
    if kind == "postgres":
        try:
            from .stores.postgres import PostgresStore
        except ImportError as problem:
            raise _not_installed(kind, problem) from problem
        return PostgresStore(place, **options)
    return _embedded(kind, place, options)


def open_async_store(url: str, /) -> Store | AsyncStore:
    """The store at a URL, for `AsyncSessionManager`; as `open_store`. Memory and SQLite serve both managers."""
    kind, place, options = _parsed(url)
    if kind == "redis":
        try:
            from .stores.redis import AsyncRedisStore
        except ImportError as problem:
            raise _not_installed(kind, problem) from problem
        return AsyncRedisStore(place, **options)
    if kind == "postgres":
        try:
            from .stores.postgres import AsyncPostgresStore
        except ImportError as problem:
            raise _not_installed(kind, problem) from problem
        return AsyncPostgresStore(place, **options)
    return _embedded(kind, place, options)


def store_by_name(name: str) -> object:
    """The class of a store whose driver is an extra, for `from typed_sessions import RedisStore`. Its driver is imported now.

    Raises ImportError, which says what to install, if that is missing; and AttributeError for any other name.
    """
    kind = _SERVED.get(name)
    if kind is None:
        raise AttributeError(f"module {__package__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(f"{__package__}.stores.{kind}"), name)
    except ImportError as problem:
        raise ImportError(f"{name}: {_not_installed(kind, problem)}", name=problem.name) from problem


def shown_url(url: str) -> str:
    """A store's URL without its password and its query, to be shown."""
    scheme, colon, rest = url.partition(":")
    if not rest.startswith("//"):
        return f"{scheme}{colon}"
    authority, slash, path = rest[2:].partition("?")[0].partition("#")[0].partition("/")
    user, _, host = authority.rpartition("@")
    user = user.partition(":")[0]
    if not _HOSTS.fullmatch(host):
        return f"{scheme}:"  # what stands where a port should be may be the beginning of a password that was not percent-encoded
    return f"{scheme}://{user}{'@' if user else ''}{host}{slash}{path}"


def _embedded(kind: str, place: str, options: dict[str, Any]) -> Store:
    return MemoryStore(**options) if kind == "memory" else SQLiteStore(place, **options)


def open_existing_store(url: str) -> Store:
    """`open_store` for commands that look after a store: a slip of the pen must not make a new one. Raises `PolicyError`."""
    kind, place, _ = _parsed(url)
    if kind == "memory":
        raise PolicyError("a store's URL: memory: is in another process, and cannot be reached from here")
    if kind == "sqlite" and not os.path.exists(place):
        raise PolicyError(f"a store's URL: {shown_url(url)}: there is no file {place}")
    if kind == "sqlite" and os.path.isfile(place) and not os.path.getsize(place):
        raise PolicyError(f"a store's URL: {shown_url(url)}: the file {place} is empty; no store was ever in it")
    return open_store(url)


def _parsed(url: object) -> tuple[str, str, dict[str, Any]]:
    """Which store, its place (a path, or a URL for the driver), and its options. Any: each has a type of its own; the store checks it."""
    if not isinstance(url, str):
        raise PolicyError(f"a store's URL: expected text, such as 'sqlite:///sessions.db', not a {type(url).__name__}")
    scheme, colon, rest = url.partition(":")
    kind = _SCHEMES.get(scheme.lower())
    if kind is None or not colon:
        near = get_close_matches(scheme.lower(), _SCHEMES, 1)
        # Without a scheme it may be anything, a password too.
        what = f"{scheme!r} is no store" if colon and scheme.isalnum() and rest.startswith("//") else "it names no store"
        raise PolicyError(f"a store's URL: {what}{f' (did you mean {near[0]!r}?)' if near else ''}; expected {_FORMS}")
    if kind == "memory":
        path, _, query = rest.partition("?")
        if path not in ("", "//", "///"):
            raise PolicyError("a store's URL: memory: has no path; for a file write sqlite:///sessions.db")
        return kind, "", _options(kind, query)[0]
    if kind != "sqlite" and not rest.startswith("//"):
        raise PolicyError(f"a store's URL: behind {scheme}: come two slashes, and then where it is; expected {_FORMS}")
    if "#" in url:  # urlsplit would take the rest for a fragment, and drop it with the options in it
        raise PolicyError("a store's URL: a '#' has to be percent-encoded, as %23; in a password '/', '?' and '@' too")
    unreadable = _unencoded(f"{shown_url(url)} cannot be read", "[', ']', '/")
    try:
        parts = urlsplit(url)
    except ValueError:  # which quotes what is in brackets: a part of a password, perhaps
        raise unreadable from None
    if kind != "sqlite" and set("[]") & set(parts.netloc.rpartition("@")[0]):  # some Pythons take them there
        raise unreadable
    options, others = _options(kind, parts.query)
    if kind == "sqlite":
        if not rest.startswith("///"):
            raise PolicyError(
                f"a store's URL: {shown_url(url)} has no path; three slashes are a path from where the program runs "
                "(sqlite:///sessions.db), four an absolute one (sqlite:////var/lib/app/sessions.db)"
            )
        if others:
            raise _unknown(kind, next(iter(others)))
        path = unquote(parts.path[1:])
        if not path or path.endswith(("/", os.sep)):
            raise PolicyError(f"a store's URL: {shown_url(url)} names no file; expected sqlite:///sessions.db or like it")
        if "\0" in path:
            raise PolicyError(f"a store's URL: {shown_url(url)}: no file's name has a NUL (%00) in it")
        return kind, path, options
    if any("@" in text for text in ("" if parts.scheme == "unix" else parts.path, *others)):
        raise _unencoded("there is an '@' after its host")
    if kind == "redis":
        _check_redis(parts.netloc, "" if parts.scheme == "unix" else parts.path)
    # The drivers know their schemes in lower case only. What is theirs is handed on as it stands: they do not agree what a '+' is.
    query = "&".join(others.values())
    return kind, f"{parts.scheme}:{rest.partition('?')[0]}{'?' if query else ''}{query}", options


def _check_redis(authority: str, path: str) -> None:
    """What redis-py takes silently for something else: a database that is no number is 0."""
    port = authority.rpartition("@")[2].rpartition("]")[2].partition(":")[2]
    if port.isdecimal() and not (len(port) <= 5 and 1 <= int(port) <= 65_535):
        raise _unencoded("its port is no number from 1 to 65535")
    if _DATABASE.fullmatch(path) is None:
        raise PolicyError(
            "a store's URL: a database of Redis is a number, as in redis://localhost:6379/0; "
            "what keeps two applications apart in one is a prefix: redis://localhost:6379/0?prefix=shop"
        )


def _options(kind: str, query: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Ours, converted; and what is left, by name, as it stands."""
    known = _OPTIONS[kind]
    options: dict[str, Any] = {}
    others: dict[str, str] = {}
    for piece in query.split("&"):
        for name, text in parse_qsl(piece, keep_blank_values=True):
            if name not in known:
                if kind == "memory" or ("@" not in name and get_close_matches(name, known, 1, 0.8)):
                    raise _unknown(kind, name)
                others[name] = piece
                continue
            try:
                options[name] = known[name](text)
            except ValueError:
                raise PolicyError(f"a store's URL: {name}={text!r}: expected a number") from None
    return options, others


def _unencoded(sign: str, first: str = "/") -> PolicyError:
    """Nothing of it is quoted: where the password begins and ends nobody can tell."""
    return PolicyError(f"a store's URL: {sign}; a password with '{first}', '#', '?' or '@' in it has to be percent-encoded")


def _unknown(kind: str, name: str) -> PolicyError:
    near = get_close_matches(name, _OPTIONS[kind], 1)
    return PolicyError(
        f"a store's URL: there is no option {name!r} here{f' (did you mean {near[0]!r}?)' if near else ''}; "
        f"expected {', '.join(sorted(_OPTIONS[kind]))}"
    )


def _not_installed(kind: str, problem: ImportError) -> PolicyError:
    if problem.name is None or problem.name.partition(".")[0] not in _EXTRAS[kind]:
        raise problem
    return PolicyError(f"this store needs {problem.name}, which is not installed: pip install 'typed-sessions[{kind}]'")
