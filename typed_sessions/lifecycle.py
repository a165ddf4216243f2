"""What becomes of a request's session: the rules as decisions over plain data. No I/O, no clock: the time is passed in.

A request presents two cookies. SESSION_KEY is base64url of locator ‖ secret (16 + 32 bytes), SESSION_ADDR is base64url of a tag of 32
more random bytes. The record keeps the address they are bound to and two SHA-256 digests, of the secret and of secret ‖ SESSION_ADDR. (A
keyed hash of the address, under a random key of the session's own, would look the same to everybody and prove no more; but the key
would have to lie in the store, and be used at every request.) So the tag tells its reader nothing, belongs to this secret alone, and
neither cookie can be made from what a store or a snapshot holds (rules 17, 20).

1. `present` reads the cookies' values. What is not of the right form costs no store call (rule 18).
2. The store is asked for the record under the locator: one trip, in which the use is written too.
3. `judge` says in one word what that record is to this request:

    absent      no SESSION_KEY came
    dead        malformed, unknown, ended, twice with different values, or not this record's secret
    expired     over by `timeout` or `lifetime`, by `now` and the record alone (rule 11); somebody has to end it
    old         the secret before a renew, after its time (rule 9)
    cookie      the right secret, but SESSION_ADDR is absent, wrong, or another session's
    address     both cookies are right, and the address is not
    previous    the secret before a renew, in its overlap, with the address cookie that went with it
    live        everything is right

4. `ANSWERS` says what the request gets, by that word and by `create`: the table of tests/RULES.md (§4), line by line.

A refused request is never attached to the session whose id it presented (rule 18), whatever `create` says.

One that was under way while another request of its browser signed in comes with a secret of before, and may be answered last: the cookies
of what it begins would take the place of those of the sign-in. So for `STRAGGLE` seconds whoever comes with another secret than the new one
gets a session of which nothing is kept, and no cookie is expired; unless the request asks for a renewal, for then it is a sign-in.
"""

from __future__ import annotations

from binascii import a2b_base64, b2a_base64
from collections.abc import Callable, Mapping
from hashlib import sha256
from hmac import compare_digest
from typing import Literal, NamedTuple, TypeAlias, final

import msgspec
from typing_extensions import override

from .address import AddressPolicy
from .changes import Changes, Idle, Renewal, apply
from .cookies import MAX_HEADER, MAX_PAIRS
from .options import SessionOptions
from .policy import SessionCookies
from .record import LOCATOR_BYTES, SECRET_BYTES, TAG_DIGEST_BYTES, EndReason, Record, SessionId
from .session import Create

TAG_BYTES = 32
KEY_LENGTH = 64
ADDR_LENGTH = 43
_VALUES_LENGTH = KEY_LENGTH + ADDR_LENGTH
RAW_BYTES = LOCATOR_BYTES + SECRET_BYTES
STRAGGLE = 10
"""Seconds after a secret was replaced in which a request may still come with it that had left its browser before."""
_TO_STANDARD = bytes.maketrans(b"-_+/", b"+/!!")  # '+' and '/' are no base64url: made illegal, so that an id has one spelling
_TO_URL = bytes.maketrans(b"+/", b"-_")
_NEAR = 3 * (MAX_PAIRS - 2)
"""Characters: a pair and its semicolon are three at least, so of what begins before here two pairs are within the parser's caps."""
_ADDR_END = ADDR_LENGTH + 2

Draw: TypeAlias = Callable[[int], bytes]

Verdict: TypeAlias = Literal["absent", "dead", "expired", "old", "cookie", "address", "previous", "live"]
Given: TypeAlias = Literal["session", "new", "empty", "rejected"]


@final
class Presented(msgspec.Struct, frozen=True, gc=False):
    """What the cookies said. A `tag_digest` of no bytes stands for a SESSION_ADDR that is absent or malformed: it equals nothing."""

    locator: bytes
    secret: bytes
    tag_digest: bytes

    @property
    def digest(self) -> bytes:
        return sha256(self.secret).digest()

    def __repr__(self) -> str:
        return f"<Presented {self.locator.hex()}>"  # the secret must not reach a log or a traceback (I4)

    @override
    def __rich_repr__(self) -> list[tuple[str, str]]:
        return [("handle", self.locator.hex())]  # as in Record


class Answer(NamedTuple):
    """What a request gets, and whether the cookies it came with are expired (unless new ones replace them)."""

    given: Given
    expire: bool


ANSWERS: dict[Verdict, dict[Create, Answer]] = {
    #            create=False                        create=True                   create="on_write"
    "absent":   {False: Answer("rejected", False), True: Answer("new", False), "on_write": Answer("empty", False)},
    "dead":     {False: Answer("rejected", True),  True: Answer("new", True),  "on_write": Answer("empty", True)},
    "expired":  {False: Answer("rejected", True),  True: Answer("new", True),  "on_write": Answer("empty", True)},
    # Not expired: while a renew's answer is under way, the browser's jar may already hold the new cookie of this name.
    "old":      {False: Answer("rejected", False), True: Answer("new", False), "on_write": Answer("empty", False)},
    "cookie":   {False: Answer("rejected", False), True: Answer("new", False), "on_write": Answer("empty", False)},
    "address":  {False: Answer("rejected", False), True: Answer("new", False), "on_write": Answer("empty", False)},
    "previous": {False: Answer("session", False),  True: Answer("session", False), "on_write": Answer("session", False)},
    "live":     {False: Answer("session", False),  True: Answer("session", False), "on_write": Answer("session", False)},
}  # fmt: skip


def present_at_once(cookies: SessionCookies, header: str) -> tuple[bytes, bytes] | None:
    """What `present` would say of a header in which the two cookies stand side by side, as browsers send back what came in one answer.

    Locator and secret, and the tag digest; None if it cannot be seen without parsing, whatever is in it. Nearly every request comes here:
    a condition only has to be enough for both ways to come to the same.
    """
    before, _, rest = header.partition(cookies.key_equals)
    key, _, rest = rest.partition(cookies.addr_follows)
    stem = cookies.stem
    if len(key) != KEY_LENGTH:
        key, dot, route = key[:KEY_LENGTH], key[KEY_LENGTH : KEY_LENGTH + 1], key[KEY_LENGTH + 1 :]
        if dot != "." or ";" in route:
            return None
    if (
        # No other cookie has one of these names: it would begin with the stem, and no part of a name can hide its beginning.
        stem in before
        or stem in rest
        # These are two names, and not the ends of others; and what the values begin with is all of them.
        or (before and before[-2:] != "; ")
        or (len(rest) != ADDR_LENGTH and rest[ADDR_LENGTH:_ADDR_END] != "; ")
        # Nothing of this is beyond the caps of the parser.
        or len(header) > MAX_HEADER
        or (len(before) > _NEAR and header.count(";") >= MAX_PAIRS)
    ):
        return None
    try:
        raw = a2b_base64(key.encode().translate(_TO_STANDARD))
        tag_digest = sha256(raw[LOCATOR_BYTES:] + rest[:ADDR_LENGTH].encode()).digest()[:TAG_DIGEST_BYTES]
    except ValueError:  # no base64, or text that cannot be encoded
        return None
    return (raw, tag_digest) if len(raw) == RAW_BYTES else None


def present(key_value: str, addr_value: str | None) -> Presented | None:
    """What the two cookie values say, or None if SESSION_KEY is not of the form that is issued here."""
    if len(key_value) != KEY_LENGTH:
        key_value, dot, _ = key_value.partition(".")
        if len(key_value) != KEY_LENGTH or not dot:
            return None
    try:
        raw = a2b_base64(key_value.encode().translate(_TO_STANDARD))
        if len(raw) != RAW_BYTES:  # the decoder skips what is illegal
            return None
        secret = raw[LOCATOR_BYTES:]
        if addr_value is None or len(addr_value) != ADDR_LENGTH:
            return Presented(raw[:LOCATOR_BYTES], secret, b"")
        return Presented(raw[:LOCATOR_BYTES], secret, sha256(secret + addr_value.encode()).digest()[:TAG_DIGEST_BYTES])
    except ValueError:  # no base64, or text that cannot be encoded
        return None


def judge(presented: Presented, record: Record | None, address: str | None, policy: AddressPolicy, now: float) -> Verdict:
    """What a record is to the request that presented these cookies from this address."""
    if record is None or record.ending is not None:
        return "dead"
    if compare_digest(presented.tag_digest, record.tag_digest):
        return "expired" if now >= record.due else "live" if policy.same(record.address, address) else "address"
    digest = presented.digest
    if compare_digest(digest, record.digest):
        return "expired" if now >= record.due else "cookie"
    previous = record.previous
    if previous is None or not compare_digest(digest, previous.digest):
        return "dead"
    if now >= record.due:
        return "expired"
    if not previous.opens(now):
        return "old"
    if not compare_digest(presented.tag_digest, previous.tag_digest):
        return "cookie"
    return "previous" if policy.same(record.address, address) else "address"


def issue(draw: Draw, locator: bytes | None = None) -> SessionId:
    """A new id; with `locator`, a new secret for that session. `draw` is a source of random bytes (I1)."""
    random = draw(RAW_BYTES + TAG_BYTES)
    if locator is not None:
        random = locator + random[LOCATOR_BYTES:]
    # Both values at once: the first ends where a group of four characters ends, and the second loses its padding.
    values = b2a_base64(random, newline=False).translate(_TO_URL)
    text = values.decode("ascii")
    hashed = sha256(random[LOCATOR_BYTES:RAW_BYTES])
    digest = hashed.digest()
    hashed.update(values[KEY_LENGTH:_VALUES_LENGTH])
    return SessionId(random[:LOCATOR_BYTES], digest, hashed.digest()[:TAG_DIGEST_BYTES], text[:KEY_LENGTH], text[KEY_LENGTH:_VALUES_LENGTH])


def straggles(record: Record, now: float) -> bool:
    """Whether the secret was replaced so lately that a request which comes with another one may just be slow."""
    return record.previous is not None and now < record.previous.until + STRAGGLE


def idle_of(timeout: float | None, options: SessionOptions) -> Idle:
    """The idle timeout with its granularity: a tenth of the timeout at most, so that a short timeout stays short."""
    return Idle(timeout, options.granularity if timeout is None else min(options.granularity, timeout / 10))


def first_record(
    session_id: SessionId, address: str | None, fields: Mapping[str, bytes], options: SessionOptions, idle: Idle, now: float
) -> Record:
    """The record of a session that begins at `now` with these fields, none of them hooked, and not yet counted (`size`)."""
    record = Record(session_id.locator, session_id.digest, session_id.tag_digest, now, now, idle[0], idle[1], 1, address)
    record.unpacked = fields
    if options.lifetime is not None:
        record.deadline = now + options.lifetime
    return record


def new_record(
    session_id: SessionId, address: str | None, changes: Changes | None, options: SessionOptions, idle: Idle, now: float
) -> Record:
    """The record of a session that begins at `now` with what its request has done."""
    record = Record(session_id.locator, session_id.digest, session_id.tag_digest, now, now, idle.timeout, idle.granularity, 0, address)
    if options.lifetime is not None:
        record.deadline = now + options.lifetime
    if changes is None:
        return record
    after = apply(record, changes, idle, now).record
    assert after is not None  # a new record is neither over nor in conflict
    return after


def renewal(record: Record, session_id: SessionId, address: str | None, overlap: float, presented: bytes | None = None) -> Renewal:
    """What replaces the secret of a record by that of a new id; `presented`, the digest of the request's own, if it is another by now."""
    return Renewal(record.digest if presented is None else presented, session_id.digest, session_id.tag_digest, address, overlap)


def ended_by(verdict: Verdict, record: Record, policy: AddressPolicy, options: SessionOptions) -> EndReason | None:
    """The reason for which a verdict ends the session, if it does: only what is over, or what the policies ask for."""
    if verdict == "expired":
        return record.over_by
    if verdict in ("cookie", "address") and policy.mismatch == "end":
        return "address"
    if verdict == "old" and options.old_id == "end":
        return "ended"
    return None
