"""A SWI-Prolog program with `library(http/http_session)`, in Python: each clause stands above the function that it has become.

    python examples/swi_port.py --port 8000

    :- http_set_session_options([timeout(300), cookie(shop), path('/shop'), create(noauto)]).
    :- listen(http_session(begin(Id, Peer)), format("begin ~w ~w~n", [Id, Peer])).
    :- listen(http_session(end(Id, _Peer)), unsold(Id)).

Facts are a `ListKey`, one value is a `Key`. What differs: a session begins with its first fact, not by http_open_session/2; listeners
get a public name (`handle`), since the id is a secret; and a timeout that is over is over, whether or not anybody has collected it.
"""

from __future__ import annotations

import argparse
from contextlib import suppress
from http.server import ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import parse_qsl

from typed_sessions import Begin, CookiePolicy, End, Key, ListKey, NoSession, SessionManager, current_session
from typed_sessions.filters.http_server import SessionHandler


class InCart(NamedTuple):  # in_cart(Item, Number)
    item: str
    number: int


in_cart = ListKey("in_cart", InCart)
user = Key("user", str)
manager = SessionManager(timeout=300, create="on_write", cookie_policy=CookiePolicy(path="/shop", name="shop"))


def began(event: Begin) -> None:
    print("begin", event.session.handle, event.session.address, flush=True)


# unsold(Id) :- format("end ~w~n", [Id]), forall(http_session_data(in_cart(I, N)), format("unsold ~w ~w~n", [I, N])).
def ended(event: End) -> None:
    print("end", event.session.handle, event.reason, flush=True)
    for item, number in current_session()[in_cart]:  # in a listener the session that ends is the current one, and its data is still there
        print("unsold", item, number, flush=True)


manager.on(Begin, began)
manager.on(End, ended)


# add(I, N) :- http_session_retractall(in_cart(I, _)), http_session_assert(in_cart(I, N)).
def add(item: str, number: int) -> None:
    facts = current_session()[in_cart]
    facts.remove_where(lambda fact: fact.item == item)
    facts.append(InCart(item, number))


# total(N) :- aggregate_all(sum(X), http_session_data(in_cart(_, X)), N).
def total() -> int:
    return sum(fact.number for fact in current_session()[in_cart])


# login(U) :- http_open_session(_, [renew(true)]), http_session_retractall(user(_)), http_session_assert(user(U)).
def login(name: str) -> None:
    session = current_session()
    session.renew()
    session[user] = name


# greeting(G) :- ( http_in_session(_), http_session_data(user(U)) -> G = U ; G = stranger ).
def greeting() -> str:
    session = current_session(None)
    return "stranger" if session is None else session.get(user, "stranger")


# logout :- http_session_id(Id), http_close_session(Id).
def logout() -> None:
    with suppress(NoSession):
        current_session().end()


class Handler(SessionHandler):  # :- http_handler('/shop', shop, [prefix]).
    sessions = manager

    def do_GET(self) -> None:
        self.reply(200, f"{greeting()}, {total()} in your cart\n")

    def do_POST(self) -> None:
        form = dict(parse_qsl(self.rfile.read(int(self.headers["Content-Length"] or 0)).decode()))
        match self.path, form:
            case "/shop/add", {"item": item, "number": number} if number.isdecimal() and len(number) < 4:
                add(item, int(number))
            case "/shop/login", {"user": name}:
                login(name)
            case "/shop/logout", _:
                logout()
                self.reply(200, "bye\n")
                return
            case _:
                self.reply(400, "add needs item and number, login needs user\n")
                return
        self.do_GET()

    def reply(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.end_headers()
        if text:
            self.wfile.write(text.encode())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8000, help="0 is any that is free")
    with suppress(KeyboardInterrupt), manager, ThreadingHTTPServer(("127.0.0.1", parser.parse_args().port), Handler) as server:
        print(f"http://127.0.0.1:{server.server_port}/shop/", flush=True)
        server.serve_forever()
