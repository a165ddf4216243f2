"""Names that other libraries' sessions, keys and lists have, and these have not, each with what is written here instead."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NoReturn, final

from typing_extensions import override

_END: Final = "session.end() ends the session, its data and its cookies with it; session.renew(clear=True) goes on with an empty one"
_RENEW: Final = "session.renew() gives the session a new id and keeps the data (clear=True drops it)"
_COPY: Final = "{key.name: session[key] for key in session} is a dictionary of what it holds"
_REFRESH: Final = "sessions.refresh(session), of the manager, takes over what other requests have stored"
_FINISH: Final = (
    "the function that start_check or a guard returns beside the session is called at the end of the request: headers = finish()"
)
_KEYS: Final = "a session is gone through by its keys, for key in session: ... session[key]"
_VALUE: Final = 'values are read and written by keys that are declared once: visits = Key("visits", int), and then session[visits] = 1'
_DELETE: Final = "del session[key] or session.pop(key, None) removes a value, session.end() ends the session"
_SAVED: Final = (
    "what has changed is saved with the response, also where a value was changed in place; sessions.commit(session) saves before"
)
_NEW: Final = "not session.exists, until the first commit"
_EMPTY: Final = "ask for the value that is meant, user in session; not any(session) is true where there is none at all"
_NAME: Final = "session.handle is the session's public name, for logs and for sessions.end(handle); the id in the cookie is not given out"
_EXPIRY: Final = (
    "session.timeout = seconds is how long this session may be idle (SessionManager(timeout=...) for all); "
    "CookiePolicy(max_age=..., persistent=False) and session.persistent = True have its cookies outlive the browser"
)
_LASTING: Final = (
    "CookiePolicy(max_age=..., persistent=False) and session.persistent = True have its cookies outlive the browser; "
    "session.timeout = seconds is how long it may be idle"
)
_USED: Final = "session.idle is how long ago the last use was, session.created when the session began"
_TOKEN: Final = (
    'keep a random token under a key of your own, csrf = Key("csrf", str), and compare it with what was sent: '
    "hmac.compare_digest(token.encode(), sent.encode())"
)
_FLASH: Final = 'messages = ListKey("messages", str) keeps them: session[messages].append(...), and clear() when they are shown'

INSTEAD: Final[Mapping[str, str]] = {
    **dict.fromkeys(("clear", "flush", "invalidate", "destroy", "abandon", "kill", "logout"), _END),
    **dict.fromkeys(
        ("cycle_key", "regenerate", "regenerate_id", "regenerate_session_id", "renew_id", "rotate", "set_new_identity"), _RENEW
    ),
    **dict.fromkeys(("items", "keys", "values", "popitem"), _KEYS),
    **dict.fromkeys(("set", "put", "get_value", "set_value", "data"), _VALUE),
    **dict.fromkeys(("delete", "remove", "unset", "has_key"), _DELETE),
    **dict.fromkeys(("modified", "accessed", "changed", "save", "commit", "persist", "touch"), _SAVED),
    **dict.fromkeys(("new", "is_new"), _NEW),
    **dict.fromkeys(("is_empty", "empty"), _EMPTY),
    **dict.fromkeys(("sid", "session_id", "session_key", "id", "identity", "key"), _NAME),
    **dict.fromkeys(("set_expiry", "get_expiry_age", "get_expiry_date", "expiry", "expires", "max_age", "lifetime"), _EXPIRY),
    **dict.fromkeys(("permanent", "get_expire_at_browser_close"), _LASTING),
    **dict.fromkeys(("last_accessed", "accessed_at", "last_access"), _USED),
    **dict.fromkeys(("new_csrf_token", "get_csrf_token"), _TOKEN),
    **dict.fromkeys(("flash", "pop_flash", "peek_flash", "get_flashed_messages"), _FLASH),
    **dict.fromkeys(("refresh", "reload", "load"), _REFRESH),
    "copy": _COPY,
    "finish": _FINISH,
}

_APPEND: Final = "session[key].append(value) adds one at the end, prepend(value) at the front, where no other request's collides with it"
_REMOVE: Final = (
    "session[key].remove_where(lambda element: element == 'old') removes what matches, with first=True the first of it alone, "
    "and clear() everything"
)
_SORT: Final = "sorted(session[key]) and list(session[key]) give a list; what is stored keeps the order in which it came"

INSTEAD_OF_LISTS: Final[Mapping[str, str]] = {
    **dict.fromkeys(("add", "appendleft", "extend", "extendleft", "insert", "push"), _APPEND),
    **dict.fromkeys(("discard", "pop", "popleft", "remove"), _REMOVE),
    **dict.fromkeys(("copy", "reverse", "sort"), _SORT),
}

_FIRST: Final = 'the name and the type come first, without names, as in Key("visits", int)'
_DEFAULT: Final = (
    "session.get(visits, 0) gives a default where the value is read, and update(visits, function, default=0) one to begin with"
)
_ITS_SESSION: Final = "a value lives for as long as its session, for which the manager has a timeout= and a lifetime="
_SEALED: Final = "SessionManager(seal=SealingKeys([...])) encrypts every value"
_HOOKS: Final = 'save= and load= come in the place of the type, Key("prefs", save=to_bytes, load=from_bytes)'

INSTEAD_OF_OPTIONS: Final[Mapping[str, str]] = {
    **dict.fromkeys(("name", "type", "type_", "annotation", "cls"), _FIRST),
    **dict.fromkeys(("default", "default_factory", "initial"), _DEFAULT),
    **dict.fromkeys(("timeout", "ttl", "expires", "expiry", "max_age", "lifetime"), _ITS_SESSION),
    **dict.fromkeys(("encrypted", "encrypt", "secret", "seal", "sealed"), _SEALED),
    **dict.fromkeys(("encode", "decode", "dump", "dumps", "loads", "serialize", "deserialize", "serializer", "codec"), _HOOKS),
}

_LIVES: Final = "max_age= is how long the cookies live; how long a session does are the manager's timeout= and lifetime="
_SECURE: Final = 'secure="auto" goes by the scheme of the request, secure=True is for https alone'

INSTEAD_OF_COOKIE_OPTIONS: Final[Mapping[str, str]] = {
    **dict.fromkeys(("samesite", "cookie_samesite"), 'it is same_site, "strict", "lax" or "none"'),
    **dict.fromkeys(("httponly", "cookie_httponly"), "it is http_only"),
    **dict.fromkeys(("https_only", "cookie_https_only", "cookie_secure"), _SECURE),
    **dict.fromkeys(("expires", "lifetime", "timeout", "ttl", "permanent"), _LIVES),
    **dict.fromkeys(("cookie_name", "session_cookie", "key"), 'it is name; "SESSION" is for cookies named SESSION_KEY and SESSION_ADDR'),
}


@final
class _Elsewhere:
    """An attribute that is not there, neither to be read nor to be set; the error says what to write.

    Unlike a `__getattr__`, for which Python before 3.12 is slower at every attribute that there is, it costs nothing to who does not ask.
    """

    def __init__(self, what: str, name: str, instead: str) -> None:
        self._text = f"{what} has no {name}: {instead}"
        self.__doc__ = f"Not here: {instead}."

    def __get__(self, session: object, owner: type, /) -> NoReturn:
        raise AttributeError(self._text)

    def __set__(self, session: object, value: object, /) -> NoReturn:
        raise AttributeError(self._text)


class Habits:
    """What a session has of such names: nothing, to type checkers and `hasattr` too, but an `AttributeError` that says what to write."""

    __slots__ = ()

    @override
    def __dir__(self) -> list[str]:
        return [name for name in super().__dir__() if name not in INSTEAD]


class ListHabits:
    """The same for the list of a session."""

    __slots__ = ()

    @override
    def __dir__(self) -> list[str]:
        return [name for name in super().__dir__() if name not in INSTEAD_OF_LISTS]


for _name in INSTEAD:
    setattr(Habits, _name, _Elsewhere("a session", _name, INSTEAD[_name]))
for _name in INSTEAD_OF_LISTS:
    setattr(ListHabits, _name, _Elsewhere("a session's list", _name, INSTEAD_OF_LISTS[_name]))
