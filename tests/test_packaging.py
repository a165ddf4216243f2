"""What is shipped: the package and nothing else, typed, with the dependencies it says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from email.parser import Parser
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.conftest import require, unavailable

ROOT = Path(__file__).resolve().parent.parent

# Folders that exist on one machine only. Written so that the pattern does not match itself.
PRIVATE_PATH = re.compile(r"(?<!\w)/(?:work|root)/|\.\./shared\b")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    """The wheel that pip builds from this checkout, with the installed hatchling, so that no network is needed."""
    if find_spec("hatchling") is None:
        unavailable("hatchling (it comes with the extra 'test')")
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(ROOT)]
    done = subprocess.run(command, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=100)
    assert done.returncode == 0, done.stdout
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


def test_the_wheel_holds_the_package_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    """No tests, stubs, examples or stray files are installed; every module of the package is, and the files of the demo's page."""
    names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    package = ROOT / "typed_sessions"
    assert {name for name in names if not name.startswith("typed_sessions/")} == set()
    assert {path.relative_to(ROOT).as_posix() for path in [*package.rglob("*.py"), *package.glob("demo/static/*.*")]} <= names
    assert "typed_sessions/demo/static/page.html" in names


def test_the_wheel_says_that_it_is_typed(wheel: zipfile.ZipFile) -> None:
    """`py.typed` is in it, so that a type checker reads the annotations."""
    assert "typed_sessions/py.typed" in wheel.namelist()


def test_the_wheel_needs_three_libraries(wheel: zipfile.ZipFile) -> None:
    """Without extras, three libraries are installed and no more."""
    (metadata,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    needs = Parser().parsestr(wheel.read(metadata).decode()).get_all("Requires-Dist", [])
    names = {re.split(r"[^\w-]", need)[0] for need in needs if "extra ==" not in need}
    assert names == {"cryptography", "msgspec", "typing-extensions"}


def test_the_extra_of_redis_needs_a_parser_that_is_new_enough(wheel: zipfile.ZipFile) -> None:
    """redis-py is content with an hiredis that the store is not: the extra names its own."""
    (metadata,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    needs = Parser().parsestr(wheel.read(metadata).decode()).get_all("Requires-Dist", [])
    for extra in ("redis", "test"):
        assert [need for need in needs if re.fullmatch(rf"hiredis>=3\.2; extra == ['\"]{extra}['\"]", need)]


def test_no_file_names_a_private_path() -> None:
    """No tracked file names a folder that a reader does not have."""
    listing = [require("git"), "-c", f"safe.directory={ROOT}", "-C", str(ROOT), "ls-files", "-z"]
    tracked = subprocess.run(listing, capture_output=True, timeout=60).stdout.decode().split("\0")[:-1]
    if not tracked:
        unavailable("a git checkout")
    found: list[str] = []
    for name in tracked:
        path = ROOT / name
        if not os.path.isfile(path):  # deleted, but not yet committed
            continue
        for number, line in enumerate(path.read_bytes().decode("utf-8", "replace").splitlines(), 1):
            if PRIVATE_PATH.search(line):
                found.append(f"{name}:{number}: {line.strip()}")
    assert not found, "\n".join(found)
