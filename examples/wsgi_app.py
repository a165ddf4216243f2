"""WSGI: a notebook with messages that are shown once, and a report whose body streams.

    python examples/wsgi_app.py --port 8000

`application` runs under any WSGI server: `gunicorn --threads 8 --chdir examples wsgi_app:application`. The sessions are in the memory
of one process; give `SessionManager` a store that is shared before you run several.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from contextlib import suppress
from html import escape
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl
from wsgiref.simple_server import WSGIServer, make_server

from typed_sessions import Key, ListKey, SessionManager, current_session
from typed_sessions.filters.wsgi import SessionMiddleware

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment  # from Python 3.11 on: wsgiref.types

notes = ListKey("notes", str)
flashes = ListKey("flashes", str)  # messages for the next page
reports = Key("reports", int)

sessions = SessionManager(timeout=1800)

PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Notebook</title>
{flashes}
<ul>{notes}</ul>
<form method="post" action="/note"><input name="note" aria-label="Note" required> <button>Add</button></form>
<form method="post" action="/report"><button>Make a report</button></form>
</html>"""


def flash(message: str) -> None:
    current_session()[flashes].append(message)  # two requests that append at once both do


def page() -> Iterable[bytes]:
    session = current_session()
    shown = "".join(f"<p role='status'>{escape(message)}</p>" for message in session[flashes])
    session[flashes].clear()
    return [PAGE.format(flashes=shown, notes="".join(f"<li>{escape(note)}</li>" for note in session[notes])).encode()]


def report(number: int) -> Iterator[bytes]:
    """The body of a response, step by step. Its headers have left, and with them the cookie: the session must exist by now.

    Each step runs in the context of its request, and what they change is committed after the last.
    """
    yield f"report {number}\n".encode()
    for note in current_session()[notes]:
        yield f"* {note}\n".encode()
    flash(f"Report {number} was read to its end.")


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    match environ["REQUEST_METHOD"], environ["PATH_INFO"]:
        case "GET", "/":
            start_response("200 OK", [("Content-Type", "text/html; charset=utf-8")])
            return page()
        case "POST", "/note":
            form = dict(parse_qsl(environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)).decode()))
            current_session()[notes].append(form.get("note", ""))
            flash("The note is in the book.")
            start_response("303 See Other", [("Location", "/")])
            return []
        case "POST", "/report":
            number = current_session().update(reports, lambda n: n + 1, default=0)
            start_response("200 OK", [("Content-Type", "text/plain; charset=utf-8")])
            return report(number)
        case _:
            start_response("404 Not Found", [("Content-Type", "text/plain")])
            return [b"not found\n"]


application = SessionMiddleware(app, sessions)


class Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8000, help="0 is any that is free")
    arguments = parser.parse_args()
    with suppress(KeyboardInterrupt), sessions, make_server("127.0.0.1", arguments.port, application, Server) as server:
        print(f"http://127.0.0.1:{server.server_port}/", flush=True)
        server.serve_forever()
