"""What must hold after any play on a `Stage` (see `tests.interleave`), whatever the order was. Each failure begins with the rule it breaks.

The scripts are here as well, since what must hold depends on what they do.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

from tests.interleave import Asked, Call, Pause, Script, Stage
from typed_sessions import CommitRefused, End, Key, ListKey, LostUpdate, Request, Session
from typed_sessions.lifecycle import present
from typed_sessions.record import Record


def union(base: list[str], mine: list[str], theirs: list[str]) -> list[str]:
    return [*theirs, *(item for item in mine if item not in theirs)]


class Keys(NamedTuple):
    """The keys that the scripts use. Declared once per test: `keys = declare()`."""

    one: Key[str]
    two: Key[str]
    count: Key[int]
    left: Key[int]
    right: Key[int]
    merged: Key[list[str]]
    in_place: Key[list[str]]
    facts: ListKey[str]

    def prepare(self, session: Session) -> None:
        """What the session holds before the play."""
        session[self.one] = session[self.two] = "before"
        session[self.count] = session[self.left] = session[self.right] = 0
        session[self.merged] = session[self.in_place] = ["before"]
        session[self.facts].append("before")


def declare() -> Keys:
    return Keys(
        Key("one", str),
        Key("two", str),
        Key("count", int),
        Key("left", int),
        Key("right", int),
        Key("merged", list[str], merge=union),
        Key("in place", list[str]),
        ListKey("facts", str),
    )


# -- the scripts ---------------------------------------------------------------


def scripts_for(keys: Keys) -> dict[str, Script]:
    """What a request may do, by name."""

    def read(session: Session, token: str) -> None:
        for key in (keys.one, keys.count, keys.merged, keys.in_place):
            session.get(key)
        list(session[keys.facts])

    def count(session: Session, token: str) -> None:
        session.update(keys.count, lambda n: n + 1, default=0)

    def both(session: Session, token: str) -> None:
        for key in (keys.left, keys.right):
            session.update(key, lambda n: n + 1, default=0)

    def change_in_place(session: Session, token: str) -> None:
        session.setdefault(keys.in_place, list).append(token)

    def merge(session: Session, token: str) -> None:
        session.setdefault(keys.merged, list).append(token)

    def sign_in(session: Session, token: str) -> None:
        session[keys.one] = token
        session.renew()

    work: dict[str, Callable[[Session, str], object]] = {
        "read": read,
        "write one": lambda session, token: session.__setitem__(keys.one, token),
        "write two": lambda session, token: session.__setitem__(keys.two, token),
        "count": count,
        "both": both,
        "append": lambda session, token: session[keys.facts].append(token),
        "in place": change_in_place,
        "merge": merge,
        "renew": lambda session, _: session.renew(),
        "rotate": lambda session, _: session.renew(overlap=60),
        "sign in": sign_in,
        "end": lambda session, _: session.end(),
    }
    scripts = {name: Script(name, function) for name, function in work.items()}
    scripts["roam"] = Script("roam", read, peer="10.1.2.99")
    scripts["forge"] = Script("forge", read, forged=True)
    scripts["sign out"] = Script("sign out", whole=lambda stage, manager, request: manager.delete_session(request))
    scripts["end by handle"] = Script("end by handle", whole=lambda stage, manager, request: manager.end(stage.handle))
    scripts["expire"] = Script("expire", whole=time_passes)
    return scripts


def time_passes(stage: Stage, manager: Any, request: Request) -> Any:
    """At some moment it is so late that the session is over, and then a sweep comes."""
    if stage.kind == "sync":
        assert stage.running.task is not None
        stage.running.task.pause()
        stage.clock.advance(10_000)
        return manager.sweep()

    async def later() -> int:
        await Pause()
        stage.clock.advance(10_000)
        swept: int = await manager.sweep()
        return swept

    return later()


READERS = {"read", "roam", "forge"}
RENEWING = {"renew", "rotate", "sign in"}


# -- what must hold ------------------------------------------------------------


def check_all(keys: Keys) -> Callable[[Stage], None]:
    """Every invariant, for a stage that begins with a stored session."""

    def check(stage: Stage) -> None:
        ended_stays_ended(stage)
        told_the_truth(stage)
        effects(stage, keys)
        one_secret(stage)
        cookies(stage)
        jar(stage)
        wrong_secrets(stage)

    return check


def locator(stage: Stage) -> bytes:
    return bytes.fromhex(stage.handle)


def current(stage: Stage) -> Record | None:
    """The session's record, unless it has ended or is over."""
    records: dict[bytes, Record] = {record.locator: record for record in stage.store.scan(None, 100)[0]}
    record = records.get(locator(stage))
    return None if record is None or record.due <= stage.clock() else record


def endings(stage: Stage) -> list[int]:
    """Where in the log the session was ended."""
    found: list[int] = []
    for number, call in enumerate(stage.log):
        if call.verb == "end" and call.args[0] == locator(stage) and call.result is not None:
            found.append(number)
        elif call.verb == "sweep" and any(record.locator == locator(stage) for record in call.result[0]):
            found.append(number)
    return found


def ended_stays_ended(stage: Stage) -> None:
    """R1: after the end no verb finds the session, and no cookie opens it."""
    ended = endings(stage)
    assert len(ended) <= 1, "R1: the session was ended twice"
    ends = [event for event in stage.heard(End) if event.session.handle == stage.handle]
    assert len(ends) == len(ended), f"R1: {len(ends)} End events for {len(ended)} ends"
    if not ended:
        return
    for call in stage.log[ended[0] + 1 :]:
        if call.verb in ("open", "touch", "commit") and call.args[0] == locator(stage):
            found = call.result.status != "gone" if call.verb == "commit" else call.result not in (None, False)
            assert not found, f"R1: {call.verb} of {call.request} found the session after its end"
    assert current(stage) is None, "R1: the session is stored again after its end"
    for pair in [*stage.pairs, stage.jar]:
        view = opened(stage, pair)
        assert view is None or view.handle != stage.handle, "R1: a cookie opens the session after its end"


def applied(stage: Stage, request: Asked) -> bool:
    """Whether the store has said that it applied what the request did to the session."""
    commits = [call for call in stage.calls(request, "commit") if call.args[0] == locator(stage)]
    return bool(commits) and commits[-1].result.status == "committed"


def told_the_truth(stage: Stage) -> None:
    """8: a handler that was given the session commits, unless it has ended or a sign-in came first; and who is refused is told."""
    refused = 0
    for request in stage.requests:
        script = request.script
        if request.handle != stage.handle or script.name in READERS or script.name == "end" or request.rejected:
            continue
        commits = stage.calls(request, "commit")
        if not commits:
            assert script.name == "rotate", f"8: nothing of {request} was committed"
            assert any(renewed(call) for call in stage.log), f"9: {request} was refused its rotation, and nobody else had one"
            continue
        last = commits[-1].result.status
        if last == "gone":
            assert endings(stage), f"8: {request} was told that the session is gone, and it is not"
        elif last == "superseded":
            assert script.name in ("renew", "sign in"), f"9: {request} asked for no renewal"
            assert any(renewed(call) for call in stage.log), f"9: {request} lost against nobody"
        else:
            assert last == "committed", f"7: {request} ended with {last}"
        if last != "committed":
            refused += 1
            assert request.set_cookies == [], f"23: {request} learned at its commit that it came too late, and sends cookies"
    assert len(stage.heard(CommitRefused)) == refused, "8: a refusal was not told, or told twice"


def renewed(call: Call) -> bool:
    """Whether this call has replaced the secret."""
    if call.verb != "commit" or call.result.status != "committed":
        return False
    renewal = call.args[1].renewal
    return renewal is not None and call.result.record.digest == renewal.digest


def effects(stage: Stage, keys: Keys) -> None:
    """7: what was committed is there, once, and nothing else is."""
    if current(stage) is None:
        return
    done = [call.request for call in stage.log if call.verb == "commit" and call.result.status == "committed" and call.args[0] == locator(stage)]
    tokens = {name: [request.token for request in done if request.script.name == name] for name in {request.script.name for request in done}}

    def by(*names: str) -> list[str]:
        return [request.token for request in done if request.script.name in names]

    view = next(view for view in stage.plain.all() if view.handle == stage.handle)
    assert view[keys.count] == len(tokens.get("count", ())), f"7: {len(tokens.get('count', ()))} updates made {view[keys.count]}"
    assert list(view[keys.facts]) == ["before", *by("append")], f"7: appended {by('append')}, there are {list(view[keys.facts])}"
    assert view[keys.one] == ["before", *by("write one", "sign in")][-1], f"7: {view[keys.one]!r} is not what was assigned last"
    assert view[keys.two] == ["before", *by("write two")][-1], f"7: {view[keys.two]!r} is not what was assigned last"
    assert view[keys.left] == view[keys.right] == len(by("both")), f"7: half a commit: {view[keys.left]} and {view[keys.right]}"
    assert sorted(view[keys.merged]) == sorted(["before", *by("merge")]), f"7: merged {by('merge')}, there are {view[keys.merged]}"
    changed = by("in place")
    assert view[keys.in_place][-1] == ["before", *changed][-1], "7: the last of two changes in place has not won"
    lost = len(["before", *changed]) - len(view[keys.in_place])
    assert len(stage.heard(LostUpdate)) == lost, f"7: {lost} changes in place are lost, and {len(stage.heard(LostUpdate))} reported"


def digest_of(pair: dict[str, str]) -> bytes:
    presented = present(pair["SESSION_KEY"], pair["SESSION_ADDR"])
    assert presented is not None
    return presented.digest


def opened(stage: Stage, pair: dict[str, str]) -> Any:
    """What a browser with these cookies gets now; not a use."""
    cookie = "; ".join(f"{name}={value}" for name, value in pair.items())
    return stage.plain.get_session(Request(headers=[("Cookie", cookie)] if cookie else [], peer="10.1.2.3"))


def one_secret(stage: Stage) -> None:
    """R3: one secret is current, whoever has renewed how often; one more opens the session, and only in its overlap."""
    wins = [call for call in stage.log if renewed(call)]
    for first, second in itertools.pairwise(wins):
        expected = second.args[1].renewal.expected
        assert expected == first.args[1].renewal.digest, "R3: two renewals of one secret have succeeded"
    record = current(stage)
    if record is None:
        return
    pairs = [pair for pair in stage.pairs if bytes.fromhex(stage.handle) == locator_of(pair)]
    opening = [pair for pair in pairs if (view := opened(stage, pair)) is not None and view.handle == stage.handle]
    newest = [pair for pair in opening if digest_of(pair) == record.digest]
    assert len(newest) == 1, f"R3: {len(newest)} secrets are the current one"
    previous = [pair for pair in opening if pair not in newest]
    allowed = record.previous is not None and stage.clock() < record.previous.until
    assert len(previous) <= allowed, "9: a secret opens the session that was replaced without an overlap"


def locator_of(pair: dict[str, str]) -> bytes:
    presented = present(pair["SESSION_KEY"], pair["SESSION_ADDR"])
    assert presented is not None
    return presented.locator


def dead_when_opened(stage: Stage, request: Asked) -> bool:
    """Whether the cookie a request came with was dead when it was opened: gone, over, or replaced and no longer in its overlap."""
    if not request.presented:
        return True
    for call in stage.calls(request, "open"):
        record: Record | None = call.result
        if record is None or record.due <= call.args[3]:
            return True
        digest = digest_of(request.presented)
        previous = record.previous
        in_overlap = previous is not None and previous.digest == digest and call.args[3] < previous.until
        return digest != record.digest and not in_overlap
    return False


def cookies(stage: Stage) -> None:
    """23: cookies come from a request that has renewed, created or ended a session itself, or whose own cookie was dead."""
    for request in stage.requests:
        if not request.set_cookies:
            continue
        assert len(request.set_cookies) == 2, f"11: {request} sends {len(request.set_cookies)} cookies"
        expiring = ["Max-Age=0" in value for value in request.set_cookies]
        if all(expiring):
            ended = any(call.result is not None for call in stage.calls(request, "end"))
            assert ended or dead_when_opened(stage, request), f"23: {request} expires cookies that were alive, and has not ended the session"
            continue
        assert not any(expiring), f"23: {request} expires one cookie and sets the other"
        pair = dict(value.partition(";")[0].split("=", 1) for value in request.set_cookies)
        own = {call.args[1].renewal.digest for call in stage.calls(request, "commit") if renewed(call)}
        if digest_of(pair) in own:
            continue
        created = {call.args[0].digest for call in stage.calls(request, "create") if call.result != "taken"}
        assert digest_of(pair) in created, f"23: {request} sends a cookie that it did not make"
        assert dead_when_opened(stage, request), f"23: {request} replaces cookies that were alive"


def jar(stage: Stage) -> None:
    """23: nobody who is signed in is logged out by an answer, in whatever order the answers come back."""
    assert len(stage.jar) in (0, 2), f"20: the jar holds {sorted(stage.jar)}"
    record = current(stage)
    if record is None:
        return
    view = opened(stage, stage.jar) if stage.jar else None
    if view is not None and view.handle == stage.handle:
        return
    # It may only be that a request which came under an old secret has begun a session of its own, and its cookie came last.
    assert view is not None, "23: the session is alive, and the browser has lost it"
    creators = [call.request for call in stage.log if call.verb == "create" and call.args[0].locator.hex() == view.handle]
    assert creators, "23: the browser holds a session that nobody has made"
    assert all(request.script.name not in READERS for request in creators), "23: a reader's answer has logged the user out"


def wrong_secrets(stage: Stage) -> None:
    """9: a request with a wrong secret changes nothing, not even the time of last use."""
    for call in stage.log:
        if call.request.script.forged:
            assert call.unchanged, f"9: {call.verb} with a wrong secret has changed something"
            assert call.request.handle != stage.handle, "9: a wrong secret has opened the session"
