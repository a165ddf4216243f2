"""The page: what is shown of a session, put into `static/page.html`. Everything that a visitor has written is escaped here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass
from datetime import datetime, timezone
from html import escape
from importlib.resources import files
from string import Template
from typing import cast

from .. import CookiePolicy, Session, SessionOptions, SessionView
from . import data

_STATIC = files("typed_sessions.demo").joinpath("static")
_PAGE = Template(_STATIC.joinpath("page.html").read_text("utf-8"))

FILES = {
    "/page.css": ("text/css; charset=utf-8", _STATIC.joinpath("page.css").read_bytes()),
    "/page.js": ("text/javascript; charset=utf-8", _STATIC.joinpath("page.js").read_bytes()),
    "/icon.svg": ("image/svg+xml", _STATIC.joinpath("icon.svg").read_bytes()),
}
SOURCES = "style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'"
"""What the page loads and from where, for its Content-Security-Policy: nothing from elsewhere."""

GREETINGS = {
    "signed-out": "Signed out: that session has ended, with all that was in it. This is a new one, with a new handle and a new cookie.",
    "ended": "That session had ended, so nothing was done. This is a new one.",
}
STALE_FORM = b"""<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Form refused</title><link rel="stylesheet" href="/page.css"><main class="refused"><h1>Form refused</h1>
<p>It does not carry this session's form token: it is from before a sign-in, or from another site. Nothing was done.</p>
<p><a href="/">Back to the page</a></p></main></html>
"""

_LONGEST_BYTES = 96
_LINE = 50


@dataclass(frozen=True)
class Found:
    """What the page shows."""

    session: Session
    options: SessionOptions
    cookie_policy: CookiePolicy
    stored: data.Stored | None
    others: Sequence[SessionView]
    notices: Sequence[str]
    replayed: data.Replay | None


def page(found: Found) -> bytes:
    session = found.session
    signed_in = session.get(data.user)
    token = f'<input type="hidden" name="token" value="{escape(session[data.form_token])}">'
    return _PAGE.substitute(
        state=data.state(session),
        notices="".join(f"<p>{escape(notice)}</p>" for notice in found.notices),
        handle=escape(session.handle),
        visits=session.get(data.visits, 0),
        you=_signed_out(token) if signed_in is None else _signed_in(found, signed_in, token),
        shelf="".join(_shelf(name, product, token) for name, product in data.PRODUCTS.items()),
        cart=_cart(session.get(data.cart, data.Cart()), token),
        replay=_replay(found.replayed, signed_in),
        token=token,
        facts=_facts(found),
        stored=_stored(found.stored),
        cookies=_cookies(found.cookie_policy),
    ).encode()


def _signed_out(token: str) -> str:
    return f"""
      <form method="post" action="/sign-in" class="row">{token}
        <label for="name">Your name</label>
        <input id="name" name="name" required maxlength="40" autocomplete="nickname" placeholder="any will do">
        <button>Sign in</button>
      </form>
      <p class="hint">There is no password here. Signing in keeps the session, and gives it another cookie:
        whoever knew the old one is left with nothing.</p>"""


def _signed_in(found: Found, who: data.SignedIn, token: str) -> str:
    digest_now = found.stored.digest.hex() if found.stored else ""
    count = len(found.others)
    elsewhere = f"{count} other session{'' if count == 1 else 's'} of {escape(who.name)}:" if count else "You are signed in nowhere else."
    others = "".join(
        f"<li><span><code>{escape(view.handle[:8])}…</code> from {escape(view.address or 'anywhere')}</span>"
        f'<span class="hint">{_time(datetime.fromtimestamp(view.created, timezone.utc))}</span></li>'
        for view in found.others
    )
    return f"""
      <p class="who">{escape(who.name)} <span class="hint">since {_time(who.at)}</span></p>
      <table>
        <caption>What signing in did</caption>
        <thead><tr><td></td><th scope="col">before</th><th scope="col">now</th></tr></thead>
        <tbody>
          <tr><th scope="row">Handle</th>{_change("handle", who.handle_before, found.session.handle)}</tr>
          <tr><th scope="row">Cookie<br><span class="hint">SHA-256 of its secret</span></th>
            {_change("cookie", who.digest_before, digest_now)}</tr>
        </tbody>
      </table>
      <p>{elsewhere}</p>
      <ul class="plain">{others}</ul>
      <div class="row">
        <form method="post" action="/sign-out">{token}<button>Sign out</button></form>
        <form method="post" action="/sign-out-everywhere-else">{token}<button class="quiet">Sign out everywhere else</button></form>
      </div>"""


def _change(name: str, before: str, now: str) -> str:
    """Two cells with the beginnings of two long hexadecimal texts, and whether they are one."""
    return (
        f'<td><code id="{name}-before" class="short">{escape(before[:8])}…</code></td>'
        f'<td><code id="{name}-now" class="short">{escape(now[:8])}…</code> '
        f'<span class="tag">{"the same" if now == before else "another"}</span></td>'
    )


def _shelf(name: str, product: data.Product, token: str) -> str:
    return f"""
        <li><form method="post" action="/cart">{token}<input type="hidden" name="product" value="{name}">
          <button name="change" value="more" class="product"><span>{escape(product.name)}</span> <span>€ {product.price}</span></button>
        </form></li>"""


def _cart(cart: data.Cart, token: str) -> str:
    names = {product: name for name, product in data.PRODUCTS.items()}
    rows = "".join(_cart_row(item, names.get(item.product, ""), token) for item in cart.items)
    value = f"""
      <p class="hint"><code>session[cart]</code> in Python <span class="tag">{type(cart).__name__}</span></p>
      <pre id="cart-value" tabindex="0" aria-label="The cart in Python">{escape(python_text(cart))}</pre>"""
    if not rows:
        return f"<p>Nothing in it yet.</p>{value}"
    return f"""
      <table class="cart">
        <caption class="unseen">The cart</caption>
        <thead><tr><th scope="col">Product</th><th scope="col">Quantity</th><th scope="col" class="number">Sum</th><td></td></tr></thead>
        <tbody>{rows}</tbody>
        <tfoot><tr><th scope="row">Total</th><td></td><td class="number">€ {cart.total}</td>
          <td><form method="post" action="/cart/empty">{token}<button class="quiet small">Empty</button></form></td></tr></tfoot>
      </table>{value}"""


def python_text(value: object, indent: str = "") -> str:
    """A value as it would be written in Python, over several lines where one is too short."""
    text = repr(value)
    if len(indent) + len(text) <= _LINE:
        return text
    inner = indent + "  "
    if is_dataclass(value) and not isinstance(value, type):
        parts = [f"{inner}{part.name}={python_text(getattr(value, part.name), inner)},\n" for part in fields(value)]
        return f"{type(value).__name__}(\n{''.join(parts)}{indent})"
    if isinstance(value, list):
        return f"[\n{''.join(f'{inner}{python_text(each, inner)},{chr(10)}' for each in cast('list[object]', value))}{indent}]"
    return text


def _cart_row(item: data.Item, name: str, token: str) -> str:
    label = escape(item.product.name)
    fields = f'{token}<input type="hidden" name="product" value="{escape(name)}">'
    return f"""
          <tr><th scope="row">{label}</th>
            <td><form method="post" action="/cart" class="stepper">{fields}
              <button name="change" value="fewer" class="quiet small" aria-label="One {label} less">−</button>
              <span>{item.quantity}</span>
              <button name="change" value="more" class="quiet small" aria-label="One {label} more">+</button></form></td>
            <td class="number">€ {item.product.price * item.quantity}</td>
            <td><form method="post" action="/cart">{fields}
              <button name="change" value="none" class="quiet small" aria-label="Remove {label}">Remove</button></form></td></tr>"""


def _replay(replayed: data.Replay | None, signed_in: data.SignedIn | None) -> str:
    if replayed is None:
        return ""
    if replayed.refused is None:
        thief = f'<strong class="bad">let in</strong> ({replayed.status})'
    else:
        thief = f'<strong class="good">refused</strong>, {replayed.status}<br><code>Rejected: {escape(replayed.refused)}</code>'
    still = "the session goes on" if signed_in is None else f"still signed in as {escape(signed_in.name)}"
    owner = f'<strong class="good">let in</strong><br>{still}' if replayed.owner_let_in else '<strong class="bad">refused</strong>'
    return f"""
      <table id="replayed">
        <caption>Both cookies, right and complete, from two places</caption>
        <thead><tr><th scope="col">From</th><th scope="col">Answer</th></tr></thead>
        <tbody>
          <tr><th scope="row">a thief at<br><code>{escape(replayed.thief)}</code></th><td>{thief}</td></tr>
          <tr><th scope="row">you at<br><code>{escape(replayed.owner or "")}</code></th><td>{owner}</td></tr>
        </tbody>
      </table>"""


def _facts(found: Found) -> str:
    session, options = found.session, found.options
    created = datetime.fromtimestamp(session.created, timezone.utc)
    rows = [
        ("Handle", f"<code>{escape(session.handle or 'not stored')}</code>", "session.handle: its public name, which opens nothing"),
        ("Created", _time(created), "session.created"),
        ("Idle timeout", _span(session.timeout), "session.timeout: over so long after the last use"),
        ("Lifetime", _span(options.lifetime), "over so long after its creation, however much it is used"),
        (
            "Cookies",
            "longer than the browser" if session.persistent else "until the browser is closed",
            "session.persistent: with Max-Age, or without",
        ),
        (
            "Bound to",
            f"<code>{escape(session.address or 'no address')}</code>",
            "session.address: the network of the first request",
        ),
    ]
    return "".join(f'<div><dt>{name}</dt><dd>{value}<span class="hint">{escape(hint)}</span></dd></div>' for name, value, hint in rows)


def _stored(found: data.Stored | None) -> str:
    if found is None:
        return '<tr><th scope="row">–</th><td>nothing</td></tr>'
    rows = [
        ("locator", found.locator, "16 bytes: names the record, and is no secret"),
        ("digest", found.digest, "SHA-256 of the secret in SESSION_KEY"),
        ("tag_digest", found.tag_digest, "SHA-256 of both cookies' values, half of it"),
        *((f"fields[{name!r}]", packed, "") for name, packed in sorted(found.fields.items())),
    ]
    return "".join(
        f'<tr><th scope="row"><code>{escape(name)}</code><span class="hint">{escape(hint)}</span></th>'
        f"<td><code>{_bytes(value, text=name.startswith('fields'))}</code></td></tr>"
        for name, value, hint in rows
    )


def _bytes(value: bytes, *, text: bool) -> str:
    characters = "".join(chr(byte) if 32 <= byte < 127 else "·" for byte in value[:_LONGEST_BYTES])
    more = f" … {len(value)} bytes" if len(value) > _LONGEST_BYTES else ""
    # Digests are no text; what msgpack made of a value mostly is.
    legible = text and sum(32 <= byte < 127 for byte in value) > len(value) / 2 and len(value) > 16
    return escape(characters if legible else value[:_LONGEST_BYTES].hex(" ")) + more


def _cookies(policy: CookiePolicy) -> str:
    """The same two cookies under both schemes, as the policy writes them."""
    found: list[str] = []
    for scheme in ("http", "https"):
        cookies = policy.session_cookies(scheme == "https").set("...", "...", persistent=False)
        lines = "\n".join(escape(cookie.header()) for cookie in cookies)
        found.append(f'<div><h3>{scheme}</h3><pre tabindex="0" aria-label="Cookies over {scheme}">{lines}</pre></div>')
    return "".join(found)


def _time(moment: datetime) -> str:
    return f'<time datetime="{moment.isoformat(timespec="seconds")}">{moment.astimezone():%Y-%m-%d %H:%M:%S}</time>'


def _span(seconds: float | None) -> str:
    if seconds is None:
        return "none"
    for unit, length in (("day", 86_400), ("hour", 3_600), ("minute", 60), ("second", 1)):
        if seconds >= length:
            count = seconds / length
            return f"{count:g} {unit}{'' if count == 1 else 's'}"
    return f"{seconds:g} seconds"
