"""The layers: who may import whom, read from the sources with `ast`; imports under `if TYPE_CHECKING` and in functions count too."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

PACKAGE = "typed_sessions"
ROOT = Path(__file__).resolve().parent.parent

# From the lowest to the highest: a module imports only from lines above its own. To reorder, move a line.
# A line may hold several modules and patterns, which do not import each other; an exact name wins over a pattern.
# The name of a folder is its `__init__.py`, and `__init__` is the package's own.
LAYERS = (
    "errors habits",
    "clock forks locks",
    "wheel",
    "record",
    "changes",
    "carriable",
    "codecs declared",
    "upgrades",
    "keys renamed",
    "awaiting durations",
    "cookies",
    "policy",
    "address",
    "sealing",
    "residents",
    "clients",
    "slots",
    "view",
    "tracking",
    "session",
    "events",
    "options",
    "lifecycle",
    "stores",
    "stores.limits",
    "stores.base",
    "stores.shard stores.guests",
    "stores.memory",
    "stores.sqlite_places",
    "stores.sqlite_file",
    "stores.turns",
    "stores.postgres_size",
    "stores.postgres_schema",
    "stores.postgres_verbs",
    "stores.postgres_wire",
    "stores.redis_scripts",
    "stores.redis_verbs",
    "stores.redis_wire",
    "stores.redis_cluster",
    "stores.redis_connect",
    "stores.*",
    "urls",
    "reseal survey progress",
    "conformance",
    "conformance.report",
    "conformance.shape conformance.watch",
    "conformance.subject conformance.model",
    "conformance.lockstep",
    "conformance.stand",
    "conformance.machine",
    "conformance.*",  # the checks
    "conformance.run",
    "files",
    "snapshot",
    "journal",
    "keeper",
    "refusals",
    "exchange",
    "finish background",
    "tasks",
    "core",
    "express steps",
    "endings",
    "plans",
    "settings",
    "manager",
    "offloop",
    "carrying",
    "aio",
    "filters",
    "filters.asgi_base filters.family filters.nested",
    "filters.asgi_websocket",
    "filters.asgi filters.http_server filters.wsgi",
    "filters.decorators filters.bottle",
    "filters.*",
    "__init__",
    "testing",
    "demo demo.*",
    "tools",
    "__main__",
)

# Lines whose modules may import each other all the same.
OPEN = {"demo demo.*"}

REQUIRED = {"cryptography", "msgspec", "typing_extensions"}

# Everything else that is not in the standard library is optional, and imported in these modules only.
LEAVES = {
    "_typeshed": {"filters.bottle", "filters.wsgi"},  # of the type checkers: there is nothing to install
    "redis": {"stores.redis", "stores.redis_cluster", "stores.redis_connect", "stores.redis_wire"},
    "hiredis": {"stores.redis", "stores.redis_cluster", "stores.redis_connect", "stores.redis_wire"},  # which redis[hiredis] brings
    "bottle": {"filters.bottle"},
    "fastapi": {"filters.fastapi"},
    "starlette": {"filters.fastapi", "filters.starlette"},
    "hypothesis": {"conformance.machine"},
    "psycopg": {"stores.postgres", "stores.postgres_wire"},
}


def module_name(path: str) -> str:
    """`stores/base.py` is `stores.base`, `stores/__init__.py` is `stores`, and `__init__.py` stays `__init__`."""
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def layer_of(module: str) -> int | None:
    """The line of a module in `LAYERS`."""
    for match in (str.__eq__, fnmatchcase):
        for number, line in enumerate(LAYERS):
            if any(match(module, pattern) for pattern in line.split()):
                return number
    return None


def imports(path: str, source: str, modules: set[str]) -> Iterator[tuple[int, str]]:
    """Every import of a source as (line, full dotted name), relative ones resolved, down to the submodule where there is one."""
    folder = [PACKAGE, *path.split("/")[:-1]]
    for node in ast.walk(ast.parse(source, path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            start = folder[: len(folder) + 1 - node.level] if node.level else []
            base = ".".join([*start, *([node.module] if node.module else [])])
            for alias in node.names:
                name = f"{base}.{alias.name}"
                yield node.lineno, name if name.removeprefix(f"{PACKAGE}.") in modules else base


def violations(sources: Mapping[str, str]) -> list[str]:
    """What breaks the layers in a package given as {path: source}, one sentence each."""
    modules = {module_name(path) for path in sources}
    found = [
        f"{path}: the module {module!r} is not in LAYERS of tests/test_layers.py; add it on the line it belongs to"
        for path in sources
        if layer_of(module := module_name(path)) is None
    ]
    for path, source in sources.items():
        module = module_name(path)
        here = layer_of(module)
        for line, name in dict.fromkeys(imports(path, source, modules)):
            top, _, inner = name.partition(".")
            if top == PACKAGE:
                target = inner or "__init__"
                there = layer_of(target)
                if there is None:
                    found.append(f"{path}:{line}: imports {target!r}, which is not in LAYERS")
                elif here is not None and there >= here and not (there == here and LAYERS[here] in OPEN):
                    found.append(f"{path}:{line}: {module!r} imports {target!r}, which is {'beside' if there == here else 'above'} it")
            elif top not in sys.stdlib_module_names and top not in REQUIRED and module not in LEAVES.get(top, ()):
                found.append(f"{path}:{line}: {module!r} imports {top!r}, which is optional and belongs in {sorted(LEAVES.get(top, ()))}")
    return found


def test_imports_point_down() -> None:
    """Every module imports only from lower layers, and optional libraries only where they belong."""
    folder = ROOT / PACKAGE
    sources = {path.relative_to(folder).as_posix(): path.read_text("utf-8") for path in sorted(folder.rglob("*.py"))}
    assert sources
    found = violations(sources)
    assert not found, "\n".join(found)


def test_the_package_imports_without_any_optional_library() -> None:
    """`import typed_sessions`, and its `testing`, work where none of the extras is installed."""
    program = f"import sys; sys.modules.update(dict.fromkeys({sorted(LEAVES)})); import {PACKAGE}.testing"
    subprocess.run([sys.executable, "-W", "error", "-c", program], cwd=ROOT, check=True, timeout=60)


@pytest.mark.parametrize(
    ("path", "source", "complaint"),
    [
        ("keys.py", "from typed_sessions.manager import SessionManager", "'keys' imports 'manager', which is above"),
        ("keys.py", "import typed_sessions.manager", "'keys' imports 'manager', which is above"),
        ("keys.py", "from . import manager", "'keys' imports 'manager', which is above"),
        ("keys.py", "from typed_sessions import Key", "'keys' imports '__init__', which is above"),
        ("keys.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .manager import SessionManager", "keys.py:3: "),
        ("keys.py", "def late() -> None:\n    from .manager import SessionManager", "keys.py:2: "),
        ("stores/base.py", "from ..manager import SessionManager", "'stores.base' imports 'manager', which is above"),
        ("stores/sqlite.py", "from .redis import RedisStore", "'stores.sqlite' imports 'stores.redis', which is beside"),
        (
            "stores/sqlite.py",
            "import psycopg",
            "imports 'psycopg', which is optional and belongs in ['stores.postgres', ",
        ),
        ("testing.py", "import pytest", "imports 'pytest', which is optional and belongs in []"),
        ("novelty.py", "", "the module 'novelty' is not in LAYERS"),
        ("keys.py", "from .novelty import Thing", "imports 'novelty', which is not in LAYERS"),
    ],
)
def test_a_broken_layer_is_noticed(path: str, source: str, complaint: str) -> None:
    """One bad import, in any form, is one complaint that says what is wrong."""
    found = violations({"manager.py": "", path: source})
    assert len(found) == 1
    assert complaint in found[0]


def test_good_imports_are_not_noticed() -> None:
    """Downward imports, the standard library, required libraries, a leaf's own library and an open line are all fine."""
    sources = {
        "__init__.py": "from .manager import SessionManager\nfrom .stores.redis import RedisStore",
        "manager.py": "import json\nimport msgspec\nfrom . import errors\nfrom .stores.base import Store",
        "errors.py": "",
        "stores/redis.py": "import redis.asyncio\nfrom .base import Store\nfrom ..keys import Key",
        "demo/app.py": "from .page import PAGE\nfrom typed_sessions import Key",
        "demo/page.py": "",
    }
    assert violations(sources) == []
