"""Rule 6: no pickle, unless a user's own hooks do it."""

from __future__ import annotations

import ast
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import typed_sessions
from tests.faces import Face
from tests.planting import plant, stored
from typed_sessions import Key, ListKey

PACKAGE = Path(typed_sessions.__file__).parent

# What turns bytes into code, or into objects of any class.
UNSAFE_MODULES = {"pickle", "_pickle", "cPickle", "copyreg", "marshal", "shelve", "dill", "cloudpickle", "joblib", "jsonpickle", "yaml"}
UNSAFE_CALLS = {"eval", "exec", "compile", "__import__"}


def sources() -> list[Path]:
    found = sorted(PACKAGE.rglob("*.py"))
    assert len(found) > 20
    return found


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_rule_06_no_module_of_the_package_imports_pickle(path: Path) -> None:
    """Nor any other module that restores arbitrary objects, nor does it evaluate text (X1)."""
    found: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.partition(".")[0] in UNSAFE_MODULES]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in UNSAFE_MODULES:
            found.append(node.module or "")
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in UNSAFE_CALLS:
            found.append(node.func.id)
    assert found == []


def test_rule_06_a_whole_request_needs_no_pickle() -> None:
    """With `pickle` made unusable, sessions are created, read, changed, saved and loaded."""
    program = """
import sys
for name in ("pickle", "_pickle", "shelve"):
    sys.modules[name] = None
import os, tempfile
from typed_sessions import Key, Request, SessionManager
from typed_sessions.testing import login

cart = Key("cart", list[str])
manager = SessionManager()
cookies = login(manager, {cart: ["pen"]})
header = "; ".join(f"{name}={value}" for name, value in cookies.items())
session, finish = manager.start_check(Request(headers=[("Cookie", header)], peer="127.0.0.1"))
session[cart].append("ink")
finish()
path = os.path.join(tempfile.mkdtemp(), "sessions")
manager.save_sessions(path)
other = SessionManager()
other.load_sessions(path)
session, finish = other.start_check(Request(headers=[("Cookie", header)], peer="127.0.0.1"))
print(session[cart])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=PACKAGE.parent, timeout=60)
    assert done.stdout == "['pen', 'ink']\n", done.stderr


executed: list[str] = []


def execute(what: str) -> None:
    executed.append(what)


class Payload:
    """What an attacker would pickle: loading it runs code."""

    def __reduce__(self) -> Any:
        return execute, ("executed",)


def test_rule_06_a_planted_pickle_is_inert(face: Face) -> None:
    """Bytes that would run code in an unpickler are a wrong value like any other, under every kind of key (X2)."""
    executed.clear()
    payload = pickle.dumps(Payload())
    pickle.loads(payload)
    assert executed == ["executed"], "the payload would do nothing, and this test prove nothing"
    executed.clear()
    keys = {name: Key[Any](name, type_) for name, type_ in (("any", Any), ("int", int), ("bytes", bytes), ("list", list[Any]))}
    hooked = Key("hooked", save=str.encode, load=lambda data: data.decode("ascii"))
    facts = ListKey("facts", int)
    browser = face.browser()
    with browser.visit() as session:
        session[hooked] = "a"
    with browser.visit() as session:
        handle = session.handle
    for name in (*keys, "hooked", "facts"):
        plant(face, handle, name, payload)
    with browser.visit() as session:
        assert [name for name, key in keys.items() if key in session] == []
        assert hooked not in session
        assert list(session[facts]) == []
    assert executed == []


def test_rule_06_a_users_hooks_may_pickle(face: Face) -> None:
    """`Key(save=pickle.dumps, load=pickle.loads)` is the user's decision, and works."""
    anything = Key[Any]("anything", save=pickle.dumps, load=pickle.loads)
    browser = face.browser()
    with browser.visit() as session:
        session[anything] = {"a": complex(1, 2)}
    with browser.visit() as session:
        assert session[anything] == {"a": complex(1, 2)}
        field_ = stored(face, session.handle, "anything")
    assert field_ is not None
    assert field_.payload == pickle.dumps({"a": complex(1, 2)})
