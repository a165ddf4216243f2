"""What becomes of a request's session: the rules as decisions over plain data. No I/O, no clock: the time is passed in.

A request presents two cookies. SESSION_KEY is base64url of locator ‖ secret (16 + 32 bytes), SESSION_ADDR is base64url of
HMAC-SHA256(k, secret ‖ bound address) with a random k that is forgotten as soon as it has been used: the record keeps only SHA-256
digests of the secret and of the tag, which prove both cookies as well as k would, and with less to steal (rules 17, 20).

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

4. `ANSWERS` says what the request gets, by that word and by `create`: the table of the design, line by line.

A refused request is never attached to the session whose id it presented (rule 18), whatever `create` says.
"""

from __future__ import annotations

import hmac
from binascii import Error as Base64Error
from binascii import a2b_base64, b2a_base64
from collections.abc import Callable
from hashlib import sha256
from hmac import compare_digest
from typing import Literal, NamedTuple, TypeAlias

from .address import AddressPolicy
from .changes import Changes, Idle, Renewal, apply
from .options import SessionOptions
from .record import LOCATOR_BYTES, SECRET_BYTES, TAG_DIGEST_BYTES, EndReason, Record, SessionId
from .session import Create

KEY_LENGTH = 64
ADDR_LENGTH = 43
_TO_STANDARD = bytes.maketrans(b"-_+/", b"+/!!")  # '+' and '/' are no base64url: made illegal, so that an id has one spelling
_TO_URL = bytes.maketrans(b"+/", b"-_")

Draw: TypeAlias = Callable[[int], bytes]

Verdict: TypeAlias = Literal["absent", "dead", "expired", "old", "cookie", "address", "previous", "live"]
Given: TypeAlias = Literal["session", "new", "empty", "rejected"]


class Presented(NamedTuple):
    """What the cookies said. A `tag_digest` of no bytes stands for a SESSION_ADDR that is absent or malformed: it equals nothing."""

    locator: bytes
    digest: bytes
    tag_digest: bytes


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


def present(key_value: str, addr_value: str | None) -> Presented | None:
    """What the two cookie values say, or None if SESSION_KEY is not of the form that is issued here."""
    if len(key_value) != KEY_LENGTH:
        key_value, dot, _ = key_value.partition(".")
        if len(key_value) != KEY_LENGTH or not dot:
            return None
    try:
        raw = a2b_base64(key_value.encode("ascii").translate(_TO_STANDARD))
    except (UnicodeEncodeError, Base64Error):
        return None
    if len(raw) != LOCATOR_BYTES + SECRET_BYTES:  # the decoder skips what is illegal
        return None
    tag_digest = b""
    if addr_value is not None and len(addr_value) == ADDR_LENGTH and addr_value.isascii():
        tag_digest = sha256(addr_value.encode("ascii")).digest()[:TAG_DIGEST_BYTES]
    return Presented(raw[:LOCATOR_BYTES], sha256(raw[LOCATOR_BYTES:]).digest(), tag_digest)


def judge(presented: Presented, record: Record | None, address: str | None, policy: AddressPolicy, now: float) -> Verdict:
    """What a record is to the request that presented these cookies from this address."""
    if record is None or record.ending is not None:
        return "dead"
    if compare_digest(presented.digest, record.digest):
        if now >= record.due:
            return "expired"
        if not compare_digest(presented.tag_digest, record.tag_digest):
            return "cookie"
        return "live" if policy.same(record.address, address) else "address"
    previous = record.previous
    if previous is None or not compare_digest(presented.digest, previous.digest):
        return "dead"
    if now >= record.due:
        return "expired"
    if now >= previous.until:
        return "old"
    if not compare_digest(presented.tag_digest, previous.tag_digest):
        return "cookie"
    return "previous" if policy.same(record.address, address) else "address"


def issue(address: str | None, draw: Draw, locator: bytes | None = None) -> SessionId:
    """A new id; with `locator`, a new secret for that session. `draw` is a source of random bytes (I1)."""
    random = draw(LOCATOR_BYTES + SECRET_BYTES + 32)
    if locator is None:
        locator = random[:LOCATOR_BYTES]
    secret = random[LOCATOR_BYTES : LOCATOR_BYTES + SECRET_BYTES]
    tag = hmac.digest(random[-32:], secret + (address or "").encode(), "sha256")
    addr_value = b2a_base64(tag, newline=False).translate(_TO_URL)[:ADDR_LENGTH]
    return SessionId(
        locator,
        sha256(secret).digest(),
        sha256(addr_value).digest()[:TAG_DIGEST_BYTES],
        b2a_base64(locator + secret, newline=False).translate(_TO_URL).decode("ascii"),
        addr_value.decode("ascii"),
    )


def idle_of(timeout: float | None, options: SessionOptions) -> Idle:
    """The idle timeout with its granularity: a tenth of the timeout at most, so that a short timeout stays short."""
    return Idle(timeout, options.granularity if timeout is None else min(options.granularity, timeout / 10))


def new_record(
    session_id: SessionId, address: str | None, changes: Changes | None, options: SessionOptions, idle: Idle, now: float
) -> Record:
    """The record of a session that begins at `now` with what its request has done."""
    record = Record(
        session_id.locator,
        digest=session_id.digest,
        tag_digest=session_id.tag_digest,
        address=address,
        created=now,
        used=now,
        timeout=idle.timeout,
        granularity=idle.granularity,
        deadline=None if options.lifetime is None else now + options.lifetime,
    )
    if changes is None:
        return record
    after = apply(record, changes, idle, now).record
    assert after is not None  # a new record is neither over nor in conflict
    return after


def renewal(record: Record, session_id: SessionId, address: str | None, overlap: float) -> Renewal:
    """What replaces the secret of a record by that of a new id."""
    return Renewal(record.digest, session_id.digest, session_id.tag_digest, address, overlap)


def ended_by(verdict: Verdict, record: Record, policy: AddressPolicy, options: SessionOptions, now: float) -> EndReason | None:
    """The reason for which a verdict ends the session, if it does: only what is over, or what the policies ask for."""
    if verdict == "expired":
        return "lifetime" if record.deadline is not None and record.deadline <= min(now, record.idle_due) else "timeout"
    if verdict in ("cookie", "address") and policy.mismatch == "end":
        return "address"
    if verdict == "old" and options.old_id == "end":
        return "ended"
    return None
