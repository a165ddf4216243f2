"""The requests of the demo. A form is answered by sending the browser back to the page (303), so that a reload repeats nothing."""

from __future__ import annotations

import hmac
import json
import logging
import secrets
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime, timezone
from http import HTTPStatus
from typing import ClassVar, TypeAlias
from urllib.parse import parse_qs, urlsplit

from typing_extensions import override

from .. import Client, Rejected, Request, Session, SessionEnded, SessionView, Store
from ..filters.http_server import SessionHandler
from . import data, pages
from .connections import MOST_STREAMS, Connections, Watch

logger: logging.Logger = logging.getLogger(__name__)

THIEF = "203.0.113.7"
"""An address for documentation (RFC 5737): nobody's."""
LONGEST_FORM = 4096
LONGEST_NAME = 40

HEADERS = (
    ("Content-Security-Policy", f"default-src 'none'; {pages.SOURCES}; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
)

CHANGES = {"more": (1, "one more"), "fewer": (-1, "one less"), "none": (-data.MOST, "removed")}

Form: TypeAlias = dict[str, str]


class DemoHandler(SessionHandler):
    """One connection of the demo. A server makes a subclass with `sessions`, `store` and `connections`."""

    store: ClassVar[Store]
    connections: ClassVar[Connections]

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout: ClassVar[float | None] = 60.0

    @override
    def setup(self) -> None:
        super().setup()
        self._handles: set[str] = set()
        self._open = ExitStack()
        host, port = self.client_address[:2]
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._open.enter_context(self.connections.connected(self._client, self.connection, address))

    @property
    def _client(self) -> Client:
        assert self.session_client is not None  # the demo is behind no proxy
        return self.session_client

    @override
    def finish(self) -> None:
        try:
            super().finish()
        finally:
            self._open.close()
            self._tell_streams()

    @override
    def handle_one_request(self) -> None:
        super().handle_one_request()
        self._tell_streams()

    def _tell_streams(self) -> None:
        for handle in self._handles:
            self.connections.wake(handle)

    # -------------------------------------------------------------- what is asked for

    def do_GET(self) -> None:
        try:
            target = urlsplit(self.path)
        except ValueError:  # such as "http://[": that is for whoever asks, not for the log
            self._answer(HTTPStatus.BAD_REQUEST, "text/plain; charset=utf-8", b"400: not an address\n")
            return
        if target.path == "/":
            self._page(target.query)
        elif target.path == "/live":
            self._live()
        elif target.path in pages.FILES:
            content_type, body = pages.FILES[target.path]
            self._answer(HTTPStatus.OK, content_type, body, ("Cache-Control", "no-cache"))
        else:
            self._answer(HTTPStatus.NOT_FOUND, "text/plain; charset=utf-8", b"404: there is nothing here. The demo is at /\n")

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        form = self._form()
        if form is None:
            self._answer(HTTPStatus.BAD_REQUEST, "text/plain; charset=utf-8", b"400: not a form of the demo\n", ("Connection", "close"))
            return
        session = self.session
        if not session.exists:
            self._see_other("/?ended")
            return
        self._handles.add(session.handle)
        # A page of another site can make a browser send a form here, cookies and all; what it cannot do is read this token.
        token = session.get(data.form_token, "")
        if not token or not hmac.compare_digest(token.encode(), form.get("token", "").encode()):
            self._answer(HTTPStatus.FORBIDDEN, "text/html; charset=utf-8", pages.STALE_FORM, ("Cache-Control", "no-store"))
            return
        action = ACTIONS.get(self.path)
        if action is None:
            self._answer(HTTPStatus.NOT_FOUND, "text/plain; charset=utf-8", b"404: there is no such form\n")
        else:
            self._see_other(action(self, session, form))

    # -------------------------------------------------------------- the page, and the stream that keeps it up to date

    def _page(self, query: str) -> None:
        session = self.session
        known = session.exists
        greeting = None if known else pages.GREETINGS.get(query)
        notices = list(session[data.notices])
        session[data.notices].clear()
        if not notices:  # the page after a form is no visit of its own
            _note_visit(session)
        session.setdefault(data.form_token, _new_token)
        replayed = session.pop(data.replay, None)
        try:
            # Before the page is made, so that it can show what is in the store.
            self.sessions.commit(session)
        except SessionEnded:
            if known:
                self._see_other("/")
                return
            # It came with the cookie from before a sign-in a moment ago: it may look, and nothing of it is kept.
            _note_visit(session)
            session.setdefault(data.form_token, _new_token)
        else:
            self._handles.add(session.handle)
        found = pages.Found(
            session=session,
            options=self.sessions.options,
            cookie_policy=self.sessions.cookie_policy,
            stored=data.stored(self.store, session.handle, time.time()) if session.handle else None,
            others=self._others(session),
            notices=[*notices, *([greeting] if greeting else [])],
            replayed=replayed,
        )
        self._answer(HTTPStatus.OK, "text/html; charset=utf-8", pages.page(found), ("Cache-Control", "no-store"))

    def _others(self, session: Session) -> list[SessionView]:
        """The other sessions of this user; who is not signed in costs no look at everybody's."""
        if data.user not in session:
            return []
        return [view for view in self.sessions.all() if view.handle != session.handle and data.same_user(view, session)]

    def _live(self) -> None:
        session = self.session
        self.send_response(HTTPStatus.OK)
        for name, value in (("Content-Type", "text/event-stream"), ("Cache-Control", "no-store"), ("Connection", "close"), *HEADERS):
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        try:
            if not session.exists:
                self._send("gone", {})
                return
            self._handles.add(session.handle)
            with self.connections.watching(self._client, session.handle) as watch:
                self._stream(session, watch)
        except OSError:
            pass  # the browser has left

    def _stream(self, session: Session, watch: Watch) -> None:
        self.wfile.write(b"retry: 500\n\n")
        shown: object = None
        woken: bool | None = True
        while woken is not False:
            if watch.paused:
                self._send("paused", {"most": MOST_STREAMS})
                return
            if woken is None:
                self.wfile.write(b": still here\n\n")
            else:
                now = {
                    "visits": session.get(data.visits, 0),
                    "state": data.state(session),
                    "clients": self.connections.shown(session.clients, self._client),
                }
                if now != shown:
                    shown = now
                    self._send("session", now)
            woken = watch.sleep(self.connection)
            try:
                # Also asks whether this request's id still opens the session: after a sign-in elsewhere it does not,
                # and the browser comes back with the new one.
                self.sessions.refresh(session)
            except SessionEnded:
                return

    # -------------------------------------------------------------- the forms: each returns where to go next

    def change_cart(self, session: Session, form: Form) -> str:
        product = data.PRODUCTS.get(form.get("product", ""))
        change = CHANGES.get(form.get("change", ""))
        if product is None or change is None:
            session[data.notices].append("There is no such product.")
            return "/#cart"
        by, words = change
        today = datetime.now().date()
        session.update(data.cart, lambda cart: cart.changed(product, by, today), default=data.Cart())
        session[data.notices].append(f"{product.name}: {words}.")
        return "/#cart"

    def empty_cart(self, session: Session, form: Form) -> str:
        session.pop(data.cart, None)
        session[data.notices].append("The cart is empty.")
        return "/#cart"

    def sign_in(self, session: Session, form: Form) -> str:
        name = "".join(filter(str.isprintable, " ".join(form.get("name", "").split())))[:LONGEST_NAME]
        if not name:
            session[data.notices].append("Signing in takes a name.")
            return "/#you"
        record = data.stored(self.store, session.handle, time.time())
        digest = "" if record is None else record.digest.hex()
        session[data.user] = data.SignedIn(name, datetime.now(timezone.utc), session.handle, digest)
        session[data.form_token] = _new_token()
        session.renew()  # what anybody knew before about this session's cookie is worth nothing now (session fixation)
        session[data.notices].append(f"Signed in as {name}.")
        return "/#you"

    def sign_out(self, session: Session, form: Form) -> str:
        session.end()
        return "/?signed-out"

    def sign_out_everywhere_else(self, session: Session, form: Form) -> str:
        session.require(lambda s: data.user in s)
        count = self.sessions.end_all(lambda view: data.same_user(view, session), keep=session)
        session[data.notices].append(f"{count} other session{'' if count == 1 else 's'} ended; this one goes on.")
        return "/#you"

    def replay(self, session: Session, form: Form) -> str:
        """What a thief would get who sent this browser's cookies from elsewhere: the same headers, and another peer."""
        headers = self.headers.items()
        refused, status = None, 200
        try:
            _, finish = self.sessions.start_check(Request(headers=headers, peer=THIEF), create=False)
            finish.discard()
        except Rejected as rejected:
            refused, status = rejected.reason, rejected.status
        let_in = self.sessions.check_session_cookie(Request(headers=headers, peer=self.client_address[0]))
        session[data.replay] = data.Replay(THIEF, refused, status, session.address, let_in)
        session[data.notices].append("The cookies were replayed from elsewhere.")
        return "/#replay"

    # -------------------------------------------------------------- reading and writing

    def _form(self) -> Form | None:
        """The fields of the form that was sent; None if there is none that can be read."""
        length = self.headers.get("Content-Length", "")
        if not length.isascii() or not length.isdigit() or len(length) > 9 or int(length) > LONGEST_FORM:
            return None
        if "Transfer-Encoding" in self.headers:
            return None
        body = self.rfile.read(int(length))
        try:
            fields = parse_qs(body.decode("ascii"), errors="strict", max_num_fields=10)
        except ValueError:
            return None
        if len(body) < int(length):
            return None
        return {name: values[0] for name, values in fields.items()}

    def _answer(self, status: HTTPStatus, content_type: str, body: bytes, *headers: tuple[str, str]) -> None:
        self.send_response(status)
        for name, value in (("Content-Type", content_type), ("Content-Length", str(len(body))), *headers, *HEADERS):
            self.send_header(name, value)
        self.end_headers()
        if body and self.command != "HEAD":
            self.wfile.write(body)

    def _see_other(self, location: str) -> None:
        self._answer(HTTPStatus.SEE_OTHER, "text/plain; charset=utf-8", b"", ("Location", location))

    def _send(self, event: str, value: object) -> None:
        self.wfile.write(f"event: {event}\ndata: {json.dumps(value)}\n\n".encode())

    @override
    def version_string(self) -> str:
        return "typed_sessions"

    @override
    def log_message(self, format: str, *args: object) -> None:
        logger.debug(format, *args)


ACTIONS: dict[str, Callable[[DemoHandler, Session, Form], str]] = {
    "/cart": DemoHandler.change_cart,
    "/cart/empty": DemoHandler.empty_cart,
    "/sign-in": DemoHandler.sign_in,
    "/sign-out": DemoHandler.sign_out,
    "/sign-out-everywhere-else": DemoHandler.sign_out_everywhere_else,
    "/replay": DemoHandler.replay,
}


def _note_visit(session: Session) -> None:
    session.update(data.visits, lambda n: n + 1, default=0)


def _new_token() -> str:
    return secrets.token_urlsafe(16)
