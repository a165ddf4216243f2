"""A shop on the standard library's `http.server`: a visit counter, a cart, sign-in and sign-out, and everything survives a restart.

python examples/http_server.py --port 8000 --snapshot shop.sessions
"""

from __future__ import annotations

import argparse
import signal
from contextlib import suppress
from dataclasses import dataclass, field
from html import escape
from http.server import ThreadingHTTPServer
from urllib.parse import parse_qsl

from typed_sessions import Key, SessionManager
from typed_sessions.filters.http_server import SessionHandler


@dataclass
class Cart:
    items: list[str] = field(default_factory=list[str])


def back_on_the_shelf(cart: Cart) -> None:
    print("back on the shelf:", ", ".join(cart.items), flush=True)


visits = Key("visits", int)
user = Key("user", str)
cart = Key("cart", Cart, cleanup_delete=back_on_the_shelf)  # called when the session ends: by a sign-out, or by its timeout

manager = SessionManager(timeout=3600)

PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Shop</title>
<p>Hello, {name}. This is visit {visits}.</p>
<p>In your cart: {items}.</p>
<form method="post" action="/add"><input name="item" aria-label="Item" required> <button>Add</button></form>
<form method="post" action="/sign-in"><input name="name" aria-label="Name" required> <button>Sign in</button></form>
<form method="post" action="/sign-out"><button>Sign out</button></form>
</html>"""


class Handler(SessionHandler):
    sessions = manager
    protocol_version = "HTTP/1.1"  # connections are kept open, and closed when their session ends

    def do_GET(self) -> None:
        if self.path != "/":
            self.send_error(404)  # nobody has looked at self.session: no session is opened, and none is created
            return
        count = self.session.update(visits, lambda n: n + 1, default=0)
        name = self.session.get(user, "stranger")
        items = self.session.get(cart, Cart()).items
        self.answer(200, PAGE.format(name=escape(name), visits=count, items=escape(", ".join(items)) or "nothing"))

    def do_POST(self) -> None:
        form = dict(parse_qsl(self.rfile.read(int(self.headers["Content-Length"] or 0)).decode()))
        match self.path:
            case "/add":
                item = form.get("item", "book")
                # A function of what is there: two requests at once add two items.
                self.session.update(cart, lambda old: Cart([*old.items, item]), default=Cart())
            case "/sign-in":
                # A new id, so that one which somebody planted before opens nothing now; the data stays.
                # A real shop asks for a password first.
                self.session.renew()
                self.session[user] = form.get("name", "nobody")
            case "/sign-out":
                self.session.end()
            case _:
                self.send_error(404)
                return
        self.answer(303, location="/")

    def answer(self, status: int, page: str = "", location: str | None = None) -> None:
        body = page.encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        if location is not None:
            self.send_header("Location", location)
        self.end_headers()  # what changed is committed here, and the cookies go with the headers
        if body:  # a browser may be gone by then that has read all there is of a redirect
            self.wfile.write(body)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8000, help="0 is any that is free")
    parser.add_argument("--snapshot", default="shop.sessions", help="the file that keeps the sessions")
    arguments = parser.parse_args()

    manager.load_sessions(arguments.snapshot)  # a missing file is no sessions
    manager.autosave(arguments.snapshot, every=60)  # and once more when the manager is closed
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a SIGTERM stops the server like Ctrl-C
    with suppress(KeyboardInterrupt), manager, ThreadingHTTPServer(("127.0.0.1", arguments.port), Handler) as server:
        print(f"http://127.0.0.1:{server.server_port}/", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
