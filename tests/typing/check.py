"""Run mypy, pyright, pyrefly and ty, all strict, and show that they say what is wanted: `python -m tests.typing.check`.

1. The package, the examples, `tests/typing` and the README's programs are clean in all four (mypy and pyright look at all tests too).
2. Each line of `mistakes.py` is refused by each of them, seen in a copy without the ignores.
3. An ignore on a good line is reported by each of them, seen in a copy of `shapes.py`: so the ignores of `mistakes.py` prove something.
4. `pyright --verifytypes` knows the type of everything that is public.
5. The stubs say what the installed libraries do (`mypy.stubtest`).
6. The table in the README is what they say; `--write` writes it there.

Prints the matrix of shapes and mistakes by checker. The exit status is 0 only if all of it is as wanted.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from tests.test_readme import BLOCKS

ROOT = Path(__file__).resolve().parent.parent.parent
HERE = "tests/typing"
IGNORE = "  # type: ignore"
CHECKERS = ("mypy", "pyright", "pyrefly", "ty")
BEGIN, END = "<!-- what type checkers say: written by `python -m tests.typing.check --write` -->", "<!-- end -->"
REVEALED = ("session[visits]", "session[note]", "session.get(names, [])", "session[messages][0]")
COMMONEST = 'session[visits] = "one"'


class Said(NamedTuple):
    """One message of a checker."""

    file: str
    line: int
    kind: str
    text: str


def program(name: str) -> str:
    return str(Path(sysconfig.get_path("scripts")) / name)


def run(folder: Path, *command: str, environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=600)
    if done.returncode not in (0, 1):
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def read(output: str, pattern: str) -> list[Said]:
    found = re.finditer(pattern, output, re.MULTILINE)
    return [Said(one["file"], int(one["line"]), one["kind"].lower(), one["text"]) for one in found]


def mypy(folder: Path, *files: str) -> list[Said]:
    output = run(
        folder, program("mypy"), "--no-error-summary", "--no-pretty", "--cache-dir=/dev/null" if files else "--no-color-output", *files
    )
    return read(output, r"^(?P<file>[^:\n]+):(?P<line>\d+): (?P<kind>error|note): (?P<text>.*)$")


def pyright(folder: Path, *files: str) -> list[Said]:
    output = run(folder, program("pyright"), "--outputjson", "--pythonpath", sys.executable, *files)
    return [
        Said(
            str(Path(one["file"]).resolve().relative_to(folder.resolve())),
            one["range"]["start"]["line"] + 1,
            one["severity"],
            one["message"].splitlines()[0],
        )
        for one in json.loads(output)["generalDiagnostics"]
    ]


def pyrefly(folder: Path, *files: str) -> list[Said]:
    options = ("--python-interpreter-path", sys.executable, "--output-format", "min-text", "--min-severity", "info")
    output = run(folder, program("pyrefly"), "check", *options, *files)
    return read(output, r"^ *(?P<kind>ERROR|INFO) (?P<file>[^:\n]+):(?P<line>\d+):[\d:-]+: (?P<text>.*)$")


def ty(folder: Path, *files: str) -> list[Said]:
    output = run(folder, program("ty"), "check", "--python", sys.prefix, "--output-format", "concise", *files)
    return read(output, r"^(?P<file>[^:\n]+):(?P<line>\d+):\d+: (?P<kind>error|warning|info)\[[\w-]+\] (?P<text>.*)$")


RUN: dict[str, Callable[..., list[Said]]] = {"mypy": mypy, "pyright": pyright, "pyrefly": pyrefly, "ty": ty}


def each(folder: Path, *files: str) -> dict[str, list[Said]]:
    """What each checker says, several at a time."""

    def ask(checker: str) -> list[Said]:
        return RUN[checker](folder, *files)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip(CHECKERS, pool.map(ask, CHECKERS), strict=True))


def copied(folder: Path) -> None:
    """What the checkers need of the project, and two files of probes."""
    for name in ("typed_sessions", HERE, "stubs", "examples"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "mypy.ini"):
        shutil.copy(ROOT / name, folder / name)
    mistakes = (ROOT / HERE / "mistakes.py").read_text("utf-8")
    (folder / HERE / "refused.py").write_text(mistakes.replace(IGNORE, ""), "utf-8")
    shapes = (
        (ROOT / HERE / "shapes.py")
        .read_text("utf-8")
        .replace("from __future__", "# pyright: reportUnnecessaryTypeIgnoreComment=true\n\nfrom __future__", 1)
    )
    good = "    assert_type(visits, Key[int])\n"
    assert good in shapes
    (folder / HERE / "ignored.py").write_text(shapes.replace(good, good.rstrip("\n") + IGNORE + "\n"), "utf-8")
    reveals = "\n".join(f"    reveal_type({expression})" for expression in REVEALED)
    (folder / HERE / "revealed.py").write_text(
        "from typing_extensions import reveal_type\n\n"
        "from tests.typing.shapes import messages, names, note, visits\n"
        f"from typed_sessions import Session\n\n\ndef f(session: Session) -> None:\n{reveals}\n",
        "utf-8",
    )


def programs(folder: Path) -> list[str]:
    """The README's programs, each as a file whose line numbers are the README's."""
    files = [block.write(folder / "examples").rename(folder / "examples" / f"readme_{block.line}.py") for block in BLOCKS]
    return [str(file.relative_to(folder)) for file in files]


def numbered(file: Path, mark: str) -> dict[int, str]:
    """The lines of a file that hold the mark."""
    return {number: line for number, line in enumerate(file.read_text("utf-8").splitlines(), 1) if mark in line}


def plain(text: str) -> str:
    """What a checker reveals, without its own way to say it."""
    for pattern in (r'Revealed type is "(.*)"', r'Type of ".*" is "(.*)"', r"revealed type: (.*?) \[", r"Revealed type: `(.*)`"):
        if found := re.search(pattern, text):
            return found[1].replace("builtins.", "").replace("Union[str, None]", "str | None")
    raise SystemExit(f"no revealed type: {text}")


def table(found: dict[str, list[Said]], folder: Path) -> str:
    """What the README shows."""
    rows = [
        "| checker | " + " | ".join(f"`{expression}`" for expression in REVEALED) + f" | `{COMMONEST}` |",
        "|---" * (len(REVEALED) + 2) + "|",
    ]
    lines = numbered(folder / HERE / "revealed.py", "reveal_type(")
    commonest = next(number for number, line in numbered(folder / HERE / "refused.py", COMMONEST).items() if line.strip() == COMMONEST)
    for checker, said in found.items():
        types = [plain(next(one.text for one in said if one.file.endswith("revealed.py") and one.line == number)) for number in lines]
        message = next(one.text for one in said if one.file.endswith("refused.py") and one.line == commonest and one.kind == "error")
        cells = [f"`{text}`" for text in types] + [re.sub(r" +\[[\w-]+\]$", "", message).replace("`", "")]
        rows.append(f"| {checker} {importlib.metadata.version(checker)} | " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)


def main(arguments: list[str]) -> int:
    wrong: list[str] = []
    for checker, said in each(ROOT).items():
        errors = [one for one in said if one.kind == "error"]
        print(f"{checker} {importlib.metadata.version(checker)}: {len(errors)} errors")
        wrong += [f"{checker}: {one.file}:{one.line}: {one.text}" for one in errors]

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copied(folder)
        files = [f"{HERE}/{probe}.py" for probe in ("refused", "ignored", "revealed", "shapes")]
        files += programs(folder)
        found = each(folder, *files)
        for checker, said in found.items():
            errors = [one for one in said if one.kind == "error" and Path(one.file).name.startswith("readme_")]
            print(f"{checker}: {len(errors)} errors in the README's programs")
            wrong += [f"{checker}: README.md:{one.line}: {one.text}" for one in errors]
        refused = {checker: {(Path(one.file).name, one.line) for one in said if one.kind == "error"} for checker, said in found.items()}

        print(f"\n{'shape':64}" + "".join(f"{checker:>9}" for checker in CHECKERS))
        for number, line in numbered(folder / HERE / "shapes.py", "assert_type(").items():
            marks = [("shapes.py", number) not in refused[checker] for checker in CHECKERS]
            print(f"{line.strip()[12:-1]:64}" + "".join(f"{'yes' if mark else 'NO':>9}" for mark in marks))
            wrong += [f"{checker}: shapes.py:{number}: not as wanted" for checker, mark in zip(CHECKERS, marks, strict=True) if not mark]
        print(f"\n{'mistake':64}" + "".join(f"{checker:>9}" for checker in CHECKERS))
        for number, line in numbered(ROOT / HERE / "mistakes.py", IGNORE).items():
            marks = [("refused.py", number) in refused[checker] for checker in CHECKERS]
            print(f"{line.strip().removesuffix(IGNORE)[:62]:64}" + "".join(f"{'refused' if mark else 'SILENT':>9}" for mark in marks))
            wrong += [f"{checker}: mistakes.py:{number}: not refused" for checker, mark in zip(CHECKERS, marks, strict=True) if not mark]
        [ignored] = numbered(folder / HERE / "ignored.py", IGNORE)
        marks = [("ignored.py", ignored) in refused[checker] for checker in CHECKERS]
        print(f"\n{'an ignore on a good line':64}" + "".join(f"{'reported' if mark else 'SILENT':>9}" for mark in marks))
        wrong += [f"{checker}: does not report an ignore on a good line" for checker, mark in zip(CHECKERS, marks, strict=True) if not mark]
        shown = f"{BEGIN}\n\n{table(found, folder)}\n\n{END}"

        # As somebody sees it who has installed it: `--verifytypes` looks for the package among what the active environment has.
        installed = folder / "installed"
        shutil.copytree(ROOT / "typed_sessions", installed / "typed_sessions", ignore=shutil.ignore_patterns("__pycache__"))
        environment = {
            **os.environ,
            "PYTHONPATH": str(installed),
            "PATH": os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]]),
        }
        output = run(installed, program("pyright"), "--verifytypes", "typed_sessions", "--ignoreexternal", environment=environment)
        [complete] = re.findall(r"Type completeness score: ([\d.]+)%", output)
        print(f"\npublic names whose type is known: {complete} %")
        if complete != "100":
            wrong.append(output)

    for stub in sorted(path.name for path in (ROOT / "stubs").iterdir() if path.is_dir()):
        output = run(
            ROOT, sys.executable, "-m", "mypy.stubtest", stub, "--ignore-missing-stub", environment={**os.environ, "MYPYPATH": "stubs"}
        )
        said_last = output.strip().splitlines()[-1]
        print(f"stubs/{stub}: {said_last}")
        if not said_last.startswith("Success"):
            wrong.append(output)

    readme = ROOT / "README.md"
    text = readme.read_text("utf-8")
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    if "--write" in arguments:
        readme.write_text(before + shown + after, "utf-8")
    elif before + shown + after != text:
        wrong.append("the table in the README is not what the checkers say: python -m tests.typing.check --write")
    print("\n" + ("\n".join(wrong) or "all as wanted"))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
