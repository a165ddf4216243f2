"""Who comes from another library writes its names at first: the error says what to write here."""

from __future__ import annotations

import copy
import pickle
import re
from typing import Any

import pytest

from tests.mistakes import REQUEST, Case, cases, check, used
from typed_sessions import ListKey, Session, SessionList, SessionManager, SessionView
from typed_sessions.habits import INSTEAD, INSTEAD_OF_LISTS


def notes() -> ListKey[str]:
    return ListKey("notes", str)


HABITS: dict[str, Case] = {
    "Flask's sign-out": (used(lambda s: s.clear()), AttributeError, ["a session has no clear: session.end()", "renew(clear=True)"]),
    "Django's": (used(lambda s: s.flush()), AttributeError, ["a session has no flush: session.end()"]),
    "a new id": (used(lambda s: s.cycle_key()), AttributeError, ["session.renew() gives the session a new id"]),
    "telling of a change": (used(lambda s: setattr(s, "modified", True)), AttributeError, ["no modified: ", "changed in place"]),
    "remember me": (used(lambda s: setattr(s, "permanent", True)), AttributeError, ["persistent=False)", "session.persistent"]),
    "an expiry": (used(lambda s: s.set_expiry(3600)), AttributeError, ["session.timeout = seconds", "persistent=False)"]),
    "the id": (used(lambda s: s.session_key), AttributeError, ["session.handle"]),
    "a dictionary's items": (used(lambda s: s.items()), AttributeError, ["for key in session"]),
    "setting by name": (used(lambda s: s.set("visits", 1)), AttributeError, ['Key("visits", int)', "session[visits] = 1"]),
    "whether it is new": (used(lambda s: s.is_new), AttributeError, ["not session.exists"]),
    "a task's argument": (used(pickle.dumps), TypeError, ["<Session (not saved)> cannot be pickled", "session.handle", "edit(handle)"]),
    "a deep copy": (used(copy.deepcopy), TypeError, ["<Session (not saved)> cannot be pickled or copied"]),
    "that of a list": (
        used(lambda s: copy.deepcopy(s[notes()])),
        TypeError,
        ["SessionList of <ListKey 'notes'", "list(...) makes a list"],
    ),
    "a look at what others did": (used(lambda s: s.refresh()), AttributeError, ["sessions.refresh(session)"]),
    "a list's extend": (used(lambda s: s[notes()].extend(["a"])), AttributeError, ["a session's list has no extend: ", ".append(value)"]),
    "a list's remove": (used(lambda s: s[notes()].remove("a")), AttributeError, ["remove_where(lambda element: ", "first=True"]),
    "a list's sort": (used(lambda s: s[notes()].sort()), AttributeError, ["sorted(session[key])"]),
    "a token against forgery": (
        used(lambda s: s.get_csrf_token()),
        AttributeError,
        ['csrf = Key("csrf", str)', "hmac.compare_digest(token.encode(), sent.encode())"],
    ),
    "whether it is empty": (used(lambda s: s.is_empty()), AttributeError, ["user in session", "not any(session)"]),
}


@cases(HABITS)
def test_a_habit_is_told_what_to_write(case: Case) -> None:
    """Where it is read or set."""
    check(case)


@pytest.mark.parametrize("name", INSTEAD)
def test_a_habit_is_no_attribute(name: str) -> None:
    """Nothing that there is has that name; to `hasattr` and `dir` it is not there; and what is advised is."""
    assert not hasattr(SessionView, name)
    session, finish = SessionManager().start_check(REQUEST)
    anything: Any = session
    assert not hasattr(session, name)
    assert name not in dir(session)
    for mistake in (lambda: getattr(anything, name), lambda: setattr(anything, name, 1)):
        with pytest.raises(AttributeError, match=f"^a session has no {name}: "):
            mistake()
    advised: list[str] = re.findall(r"\bsession\.(\w+)", INSTEAD[name])
    assert all(hasattr(Session, other) for other in advised)
    finish.discard()


@pytest.mark.parametrize("name", INSTEAD_OF_LISTS)
def test_a_lists_habit_is_no_attribute(name: str) -> None:
    """The same for the list of a session."""
    session, finish = SessionManager().start_check(REQUEST)
    found: Any = session[notes()]
    assert not hasattr(found, name)
    assert name not in dir(found)
    with pytest.raises(AttributeError, match=f"^a session's list has no {name}: "):
        getattr(found, name)
    advised: list[str] = re.findall(r"\bsession\[key\]\.(\w+)", INSTEAD_OF_LISTS[name])
    assert all(hasattr(SessionList, other) for other in advised)
    finish.discard()


def test_any_other_name_is_just_not_there() -> None:
    """With Python's own text."""
    with pytest.raises(AttributeError, match=r"'.*Session' object has no attribute 'vists'"):
        used(lambda s: s.vists)()
