"""The command line: `python -m typed_sessions demo`, also as the script `typed-sessions`."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import final

from typing_extensions import override


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; the exit status. Wrong arguments exit with 2 by themselves, as argparse does."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    change: Callable[..., None] | None = getattr(sys.stdout, "reconfigure", None)
    if change is not None:  # what a name is made of may not be in the terminal's encoding: written as in a literal then
        change(errors="backslashreplace")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        status = _run(parser, arguments)
        print(end="", flush=True)  # nothing at all where there is no stdout
    except KeyboardInterrupt:  # before the command had begun to listen for it, or after it was done
        return 130
    except BrokenPipeError:  # whoever read what is printed has gone, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter writes there once more when it ends
        return 2
    return status


def _run(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> int:
    # What a command needs is imported here, so that --help needs none of it.
    if arguments.command == "reseal":
        from .tools import reseal_store

        return reseal_store(arguments.store, arguments.sealing_keys, seal_plain=arguments.seal_plain, after=arguments.after)
    if arguments.command == "check":
        from .tools import check_store

        return check_store(arguments.store, arguments.keys, arguments.sealing_keys, read_plain=arguments.read_plain)
    from .demo.server import CannotServe, serve

    url: str | None = arguments.store
    if arguments.snapshot is not None:
        if url is not None and not url.startswith("memory:"):
            parser.error("--snapshot is for --store memory: (and says so by itself); other stores keep their sessions themselves")
        url = "memory:" if url is None else url
    try:
        serve(arguments.host, arguments.port, url, arguments.snapshot)
    except CannotServe as problem:
        print(f"typed_sessions demo: {problem}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="typed-sessions", description="Server-side HTTP sessions with typed keys.")
    parser.add_argument("--version", action=_Version, nargs=0, help="say which version this is, and exit")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    demo = commands.add_parser(
        "demo",
        help="serve a page that shows what typed sessions do",
        description="Serve a page that shows what typed sessions do, until Ctrl-C. Sessions outlive the server.",
    )
    demo.add_argument("--host", default="127.0.0.1", help="the address to listen on (default: %(default)s, this machine alone)")
    demo.add_argument("--port", type=_port, default=8000, help="the port to listen on; 0 is any that is free (default: %(default)s)")
    demo.add_argument(
        "--store",
        metavar="URL",
        help="where the sessions are kept: memory:, sqlite:///FILE, redis://HOST, postgresql://HOST/DATABASE, ... "
        "(default: typed-sessions/demo.db in $XDG_STATE_HOME or ~/.local/state, with SQLite)",
    )
    demo.add_argument(
        "--snapshot",
        type=Path,
        metavar="FILE",
        help="keep them in memory, and in this file (with --store memory: alone: demo.snapshot in the same folder)",
    )
    reseal = commands.add_parser(
        "reseal",
        help="seal every value of a store with the newest key",
        description="Seal every value of a store with the first of the keys, while requests go on. It can be stopped and run again. "
        "Before it, give the new key to every process that uses the store: behind the old one, and restart them all; then in front of it, "
        "and restart them all. After it, the old key can go.",
    )
    reseal.add_argument("--store", metavar="URL", required=True, help="sqlite:///FILE, redis://HOST, postgresql://HOST/DATABASE, ...")
    reseal.add_argument(
        "--sealing-keys",
        type=Path,
        metavar="FILE",
        help="the keys, newest first, each 32 bytes in hex or base64 on a line (default: the variable TYPED_SESSIONS_SEALING_KEYS)",
    )
    reseal.add_argument("--seal-plain", action="store_true", help="also seal values that are not sealed")
    reseal.add_argument("--after", metavar="PLACE", help="go on where an earlier run was stopped, as it said")
    check = commands.add_parser(
        "check",
        help="tell what the keys of a program would make of what is in a store",
        description="Decode every value of a live store with the keys of your modules, and count what would be read, upgraded, carried "
        "through or dropped. Nothing is changed. The exit status is 1 if anything would be dropped.",
    )
    check.add_argument("--store", metavar="URL", required=True, help="sqlite:///FILE, redis://HOST, postgresql://HOST/DATABASE, ...")
    check.add_argument(
        "--keys", metavar="MODULE", nargs="+", action="extend", required=True, help="the modules that declare the keys, as in an import"
    )
    check.add_argument(
        "--sealing-keys",
        type=Path,
        metavar="FILE",
        help="the keys that values are sealed with, as for reseal (default: the variable TYPED_SESSIONS_SEALING_KEYS, if it is set)",
    )
    check.add_argument("--read-plain", action="store_true", help="with sealing keys: values that are not sealed are read as well")
    return parser


@final
class _Version(argparse.Action):
    """Looked up when it is asked for: a checkout that is not installed has none."""

    @override
    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: object, option_string: str | None = None
    ) -> None:
        try:
            number = version("typed-sessions")
        except PackageNotFoundError:
            number = "that is not installed"
        print(f"typed-sessions {number}")
        parser.exit()


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or int(text) > 65_535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port: expected a whole number from 0 to 65535")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
