"""The commands that look after a live store: each prints what it found, and its exit status says whether all is well."""

from __future__ import annotations

import base64
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from .clock import steady_clock
from .errors import PolicyError, SessionError, StoreUnavailable
from .keys import known_keys
from .progress import Progress
from .reseal import Resealed, reseal
from .sealing import KEY_BYTES, SealingKeys
from .survey import FATES, Survey, survey
from .urls import open_existing_store, shown_url

KEYS_VARIABLE = "TYPED_SESSIONS_SEALING_KEYS"


def sealing_keys(file: Path | None, *, read_plain: bool) -> SealingKeys:
    """The keys of a file, or of the environment: each 32 bytes in hexadecimal or base64, newest first, blanks or line ends between them.

    They are never taken from the command line, which other users of the machine can read. Raises `PolicyError`.
    """
    if file is not None:
        try:
            text = file.read_text("ascii")
        except (OSError, UnicodeDecodeError) as problem:
            raise PolicyError(f"--sealing-keys {file}: {problem}") from None
    else:
        text = os.environ.get(KEYS_VARIABLE, "")
        if not text.strip():
            raise PolicyError(
                f"no sealing keys: give --sealing-keys FILE, or set {KEYS_VARIABLE}; 32 bytes each, in hex or base64, newest first"
            )
    return SealingKeys([_key(number, word) for number, word in enumerate(text.split())], read_plain=read_plain)


def _key(number: int, word: str) -> bytes:
    for read in (bytes.fromhex, _of_base64):
        try:
            key = read(word)
        except ValueError:
            continue
        if len(key) == KEY_BYTES:
            return key
    raise PolicyError(f"sealing key {number}: expected {KEY_BYTES} bytes in hexadecimal or base64")  # the word may be a key


def _of_base64(word: str) -> bytes:
    """In either alphabet."""
    return base64.b64decode(word.replace("-", "+").replace("_", "/"))


def _place(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise PolicyError(f"--after {text!r}: expected the place that an earlier run has said") from None


def reseal_store(url: str, keys_file: Path | None, *, seal_plain: bool, after: str | None) -> int:
    """`typed-sessions reseal`: 0 if everything is sealed with the newest key, 1 if something is not, 2 if it could not be told, 130 if it
    was stopped."""
    done = Resealed()
    progress = Progress(sys.stderr)
    status = 0
    try:
        keys = sealing_keys(keys_file, read_plain=seal_plain)
        place = None if after is None else _place(after)
        store = open_existing_store(url)
    except (PolicyError, StoreUnavailable) as problem:
        print(f"typed-sessions reseal: {problem}", file=sys.stderr)
        return 2
    try:
        for done in reseal(store, keys, steady_clock(), after=place):
            progress.show(done.place, f"{done.sessions} sessions, {done.rewritten} values rewritten")
    except KeyboardInterrupt:
        status = 130
    except StoreUnavailable as problem:
        progress.close()
        print(f"typed-sessions reseal: {problem}", file=sys.stderr)
        status = 2
    progress.close()
    store.close()
    if status == 2 and not done.sessions:
        return status
    print(f"{shown_url(url)}: looked at {done.sessions} sessions")
    for count, what in (
        (done.rewritten, "values rewritten with the newest key"),
        (done.current, "were under it already"),
        (done.plain, "are not sealed (--seal-plain seals them)"),
        (done.refused, "could not be rewritten: sealed with a key that was not given, damaged, or too large; they are as they were"),
        (done.busy, "were written by others each time; run it once more"),
    ):
        print(f"{count:10}  {what}")
    is_left = bool(done.plain or done.refused or done.busy)
    if status:
        # Whoever goes on there does not look again at what was left before it, and would be told that nothing is.
        place = None if is_left else done.place
        print("Stopped; begin again" if place is None else f"Stopped before the end; go on with --after {place.hex()}")
        return status
    if is_left:
        return 1
    whole = "Everything" if place is None else "Everything from there on"
    print(f"{whole} is under the newest key; another is needed only for ended sessions whose hooks have still to run, if there are any")
    return 0


def check_store(url: str, modules: Sequence[str], keys_file: Path | None, *, read_plain: bool) -> int:
    """`typed-sessions check`: 0 if the keys of the modules read everything, 1 if something would be dropped, 2 if it could not be told,
    130 if it was stopped."""
    progress = Progress(sys.stderr)
    found = Survey()
    try:
        seal = sealing_keys(keys_file, read_plain=read_plain) if keys_file is not None or os.environ.get(KEYS_VARIABLE) else None
        _import(modules)
        store = open_existing_store(url)
    except (PolicyError, StoreUnavailable) as problem:
        print(f"typed-sessions check: {problem}", file=sys.stderr)
        return 2
    status = 0
    try:
        for found in survey(store, seal, steady_clock()):
            progress.show(found.place, f"{found.sessions} sessions")
    except KeyboardInterrupt:
        status = 130
    except StoreUnavailable as problem:
        progress.close()
        print(f"typed-sessions check: {problem}", file=sys.stderr)
        status = 2
    progress.close()
    store.close()
    if found.sessions or status == 0:
        print(f"{shown_url(url)}: looked at {found.sessions} sessions{'' if status == 0 else ', and stopped before the end'}")
        _print_table(found)
    return status or (1 if found.dropped else 0)


def _import(modules: Sequence[str]) -> None:
    """Import what declares the keys, as a program started in this folder would. Raises `PolicyError`."""
    sys.path.insert(0, os.getcwd())
    for module in modules:
        try:
            importlib.import_module(module)
        except SessionError as problem:
            raise PolicyError(f"--keys {module}: {problem}") from problem
        except (Exception, SystemExit) as problem:  # whatever a user's module does
            hint = "; give the name of a module, as in an import" if "/" in module or module.endswith(".py") else ""
            raise PolicyError(f"--keys {module} cannot be imported: {type(problem).__name__}: {problem}{hint}") from problem
    if not known_keys():
        raise PolicyError(f"--keys {' '.join(modules)}: no key is declared there")


def _print_table(found: Survey) -> None:
    heads = ["stored name", "version", "as it is", "upgraded", "carried through", "dropped", "copy", "removed"]
    rows = [heads]
    for kind, counts in sorted(found.values.items(), key=lambda item: (item[0].name or item[0].stored_name, item[0])):
        shown = kind.stored_name if kind.name in (None, kind.stored_name) else f"{kind.stored_name} (now {kind.name})"
        rows.append([shown, str(kind.version), *(str(counts[fate] or "-") for fate in FATES)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(heads))]
    for row in rows:
        print("  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]).rstrip())
    for kind, why in sorted(found.reasons.items()):
        print(f"dropped: {kind.stored_name!r}, version {kind.version}: {why}")
