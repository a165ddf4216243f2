"""The sign-in of an OCaml program on Simple_httpd, in Python, with the functions of `Session` by their own names.

    python examples/ocaml_port.py --port 8000          ann's password is "camel", bob's "dune"

    let user : string Session.key = Session.new_key "user"
    let cookie_policy = { Session.default_cookie_policy with base = "Auth"; life = 3600.0 }
    let login = (Response_code.see_other, Headers.[Location, "/login"])
    let check s = try Hashtbl.mem users (Session.get_session_data s user) with Not_found -> false
    let signed_in = Session.filter ~check ~cookie_policy ~error:login

What differs: a session is never found by its connection, only by the cookies of the request; and changes are kept, with the cookies
to send, when the request is finished. `check` is still for what makes a session unsound; a page that some may not see says
`session.require(...)`, which refuses the request and keeps the session.
"""

from __future__ import annotations

import argparse
import hmac
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl

from typed_sessions import COMMIT_FAILURES, CookiePolicy, Headers, Key, Rejected, Request, Session, SessionManager, redirect

USERS = {"ann": "camel", "bob": "dune"}  # a real program keeps slow hashes

user = Key("user", str)
sessions = SessionManager(cookie_policy=CookiePolicy(name="AUTH", max_age=3600))
LOGIN = redirect("/login")


def check(session: Session) -> bool:
    """Whether the session is of somebody who (still) has an account. If not, it ends."""
    return user in session and session[user] in USERS


signed_in = sessions.filter(create=False, check=check, error=LOGIN)
anybody = sessions.filter()

FORM = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Sign in</title>
<form method="post" action="/login"><input name="user" aria-label="Name"> <input name="password" type="password" aria-label="Password">
<button>Sign in</button></form></html>"""
HOME = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Home</title><p>Hello, {name}.</p>
<form method="post"><button formaction="/logout">Sign out</button> <button formaction="/leave">Delete the account</button></form></html>"""


class Handler(BaseHTTPRequestHandler):
    def respond(self) -> tuple[int, Headers, str]:
        request = Request(headers=self.headers.items(), peer=self.client_address[0], path=self.path)
        match self.command, self.path:
            case "GET", "/":
                session, finish = signed_in(request)
                page = HOME.format(name=session[user])  # before finish(), which closes the session
                return 200, finish(), page
            case "GET", "/login":
                return 200, (), FORM
            case "POST", "/login":
                form = dict(parse_qsl(self.rfile.read(int(self.headers["Content-Length"] or 0)).decode()))
                name, password = form.get("user", ""), form.get("password", "")
                expected = USERS.get(name)
                if expected is None or not hmac.compare_digest(expected.encode(), password.encode()):
                    return 403, (), FORM
                session, finish = anybody(request)
                session.renew()  # an id from before the sign-in opens nothing after it
                session[user] = name
                return 303, [("Location", "/"), *finish()], ""
            case "POST", "/logout":
                return 303, [("Location", "/login"), *sessions.delete_session(request)], ""
            case "POST", "/leave":
                session, finish = signed_in(request)
                USERS.pop(session[user], None)  # on every device, the next request finds its session unsound
                return 303, [("Location", "/login"), *finish()], ""
            case _:
                return 404, (), "not found\n"

    def do_GET(self) -> None:
        try:
            status, headers, page = self.respond()
        except (Rejected, *COMMIT_FAILURES) as refused:
            status, headers, page = refused.status, refused.headers, ""
        self.send_response(status)
        for name, value in [*headers, ("Content-Type", "text/html; charset=utf-8")]:
            self.send_header(name, value)
        self.end_headers()
        if page:  # a browser may be gone by then that has read all there is of a redirect
            self.wfile.write(page.encode())

    do_POST = do_GET


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8000, help="0 is any that is free")
    with suppress(KeyboardInterrupt), sessions, ThreadingHTTPServer(("127.0.0.1", parser.parse_args().port), Handler) as server:
        print(f"http://127.0.0.1:{server.server_port}/", flush=True)
        server.serve_forever()
