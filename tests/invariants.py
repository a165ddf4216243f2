"""What must hold after any play on a `Stage` (see `tests.interleave`), whatever the order was. Each failure begins with the rule it breaks.

The scripts are here as well, since what must hold depends on what they do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from tests.interleave import Pause
from tests.stage import PEER, Asked, Call, Script, Stage
from typed_sessions import Begin, CommitRefused, End, Key, ListKey, LostUpdate, Request, Session
from typed_sessions.lifecycle import STRAGGLE, Presented, present
from typed_sessions.record import Record


def union(base: list[str], mine: list[str], theirs: list[str]) -> list[str]:
    return [*theirs, *(item for item in mine if item not in theirs)]


class Keys(NamedTuple):
    """The keys that the scripts use. Declared once per test: `keys = declare()`."""

    one: Key[str]
    two: Key[str]
    counter: Key[int]
    left: Key[str]
    right: Key[int]
    merged: Key[list[str]]
    in_place: Key[list[str]]
    facts: ListKey[str]

    def prepare(self, session: Session) -> None:
        """What the session holds before the play."""
        session[self.one] = session[self.two] = session[self.left] = "before"
        session[self.counter] = session[self.right] = 0
        session[self.merged] = session[self.in_place] = ["before"]
        session[self.facts].append("before")


def declare() -> Keys:
    return Keys(
        Key("one", str),
        Key("two", str),
        Key("count", int),
        Key("left", str),
        Key("right", int),
        Key("merged", list[str], merge=union),
        Key("in place", list[str]),
        ListKey("facts", str),
    )


# -- the scripts ---------------------------------------------------------------


def scripts_for(keys: Keys) -> dict[str, Script]:
    """What a request may do, by name."""

    def read(session: Session, token: str) -> None:
        session.get(keys.one)
        session.get(keys.counter)
        session.get(keys.merged)
        session.get(keys.in_place)
        list(session[keys.facts])

    def count(session: Session, token: str) -> None:
        session.update(keys.counter, lambda n: n + 1, default=0)

    def both(session: Session, token: str) -> None:
        session[keys.left] = token
        session.update(keys.right, lambda n: n + 1, default=0)

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


WRITERS = {"write one", "write two", "count", "both", "append", "in place", "merge", "sign in"}
RENEWING = {"renew", "rotate", "sign in"}


# -- what must hold ------------------------------------------------------------


def check_all(keys: Keys) -> Callable[[Stage], None]:
    """Every invariant, for the session that the stage began with and for each that was created on it."""

    def check(stage: Stage) -> None:
        for locator in locators(stage):
            ended_stays_ended(stage, locator)
            effects(stage, keys, locator)
            one_secret(stage, locator)
        all_or_nothing(stage)
        told_the_truth(stage)
        cookies(stage)
        jar(stage)
        wrong_secrets(stage)

    return check


def locators(stage: Stage) -> list[bytes]:
    created = [call.args[0].locator for call in stage.log if call.verb == "create" and call.result != "taken"]
    return [bytes.fromhex(stage.handle), *created] if stage.handle else created


def calls_on(stage: Stage, locator: bytes, *verbs: str) -> list[Call]:
    return [call for call in stage.log if call.verb in verbs and call.args[0] == locator]


def current(stage: Stage, locator: bytes) -> Record | None:
    """The session's record, unless it has ended or is over."""
    records: dict[bytes, Record] = {record.locator: record for record in stage.store.scan(None, 100)[0]}
    record = records.get(locator)
    return None if record is None or record.due <= stage.clock() else record


def ended_by(call: Call) -> Sequence[Record]:
    """The sessions that a call has ended."""
    if call.verb == "end":
        return [call.result] if call.result is not None else []
    return call.result[0] if call.verb == "sweep" else []


def endings(stage: Stage, locator: bytes) -> list[int]:
    """Where in the log the session was ended."""
    return [number for number, call in enumerate(stage.log) if any(record.locator == locator for record in ended_by(call))]


def ended_stays_ended(stage: Stage, locator: bytes) -> None:
    """R1: after the end no verb finds the session, and no cookie opens it; `Begin` and `End` come once."""
    handle = locator.hex()
    ended = endings(stage, locator)
    assert len(ended) <= 1, "R1: the session was ended twice"
    ends = [event for event in stage.heard(End) if event.session.handle == handle]
    assert len(ends) == len(ended), f"15: {len(ends)} End events for {len(ended)} ends"
    begins = [event for event in stage.heard(Begin) if event.session.handle == handle]
    assert len(begins) == (handle != stage.handle), f"15: {len(begins)} Begin events"
    dead = stage.dead and handle == stage.handle
    if not ended and not dead:
        return
    for call in stage.log if dead else stage.log[ended[0] + 1 :]:
        if call.verb in ("open", "touch", "commit") and call.args[0] == locator:
            found = call.result.status != "gone" if call.verb == "commit" else call.result not in (None, False)
            assert not found, f"R1: {call.verb} of {call.request} found the session after its end"
    assert current(stage, locator) is None, "R1: the session is stored again after its end"
    for pair in [*stage.pairs, stage.jar]:
        view = opened(stage, pair)
        assert view is None or view.handle != handle, "R1: a cookie opens the session after its end"


def told_the_truth(stage: Stage) -> None:
    """8: what a handler did is committed, unless the session has ended or a sign-in came first; and a refusal is told, once."""
    refused = 0
    for request in stage.requests:
        name = request.script.name
        if name not in WRITERS | RENEWING or request.rejected:
            continue
        if not request.handle:
            made = [call for call in stage.calls(request, "create") if call.result != "taken"]
            late = straggles(stage, request) and name not in RENEWING
            assert len(made) == (name in WRITERS and not late), f"8: {request} made {len(made)} sessions"
            refused += name in WRITERS and late
            continue
        if request.conflict is not None:  # 8 repetitions are not reached here, but the deadline is when hours go by
            assert any(other.script.name == "expire" for other in stage.requests), f"7: {request} was given up"
            continue
        commits = stage.calls(request, "commit")
        if not commits:
            assert name == "rotate", f"8: nothing of {request} was committed"
            assert any(renewed(call) for call in stage.log), f"9: {request} was refused its rotation, and nobody else had one"
            continue
        last = commits[-1].result.status
        if last == "gone":
            assert endings(stage, commits[-1].args[0]), f"8: {request} was told that the session is gone, and it is not"
        elif last == "superseded":
            assert name in ("renew", "sign in"), f"9: {request} lost a renewal that it has not asked for"
            assert any(renewed(call) for call in stage.log), f"9: {request} lost against nobody"
        else:
            assert last == "committed", f"7: {request} ended with {last}"
        if last != "committed":
            refused += 1
            assert request.set_cookies == [], f"23: {request} learned at its commit that it came too late, and sends cookies"
    assert len(stage.heard(CommitRefused)) == refused, "8: a refusal was not told, or told twice"


def all_or_nothing(stage: Stage) -> None:
    """7: a commit that was not applied has changed nothing, of the session it was for or of any other."""
    for call in stage.log:
        if call.verb == "commit" and call.result.status != "committed":
            assert call.unchanged, f"7: half a commit: that of {call.request} was refused, and has changed something"


def renewed(call: Call) -> bool:
    """Whether this call has replaced the secret."""
    if call.verb != "commit" or call.result.status != "committed":
        return False
    renewal = call.args[1].renewal
    return renewal is not None and call.result.record.digest == renewal.digest


def effects(stage: Stage, keys: Keys, locator: bytes) -> None:
    """7: what was committed is there, once, and nothing else is."""
    if current(stage, locator) is None:
        return
    done = [call.request for call in stage.log if call.verb == "create" and call.args[0].locator == locator]
    done += [call.request for call in calls_on(stage, locator, "commit") if call.result.status == "committed"]
    before = ["before"] if locator.hex() == stage.handle else []

    def by(*names: str) -> list[str]:
        return [*before, *(request.token for request in done if request.script.name in names)]

    def last(tokens: list[str]) -> str | None:
        return tokens[-1] if tokens else None

    view = next(view for view in stage.plain.all() if view.handle == locator.hex())
    counted, halves = len(by("count")) - len(before), len(by("both")) - len(before)
    count = view.get(keys.counter, 0)
    assert count == counted, f"7: {counted} updates made {count}"
    assert list(view[keys.facts]) == by("append"), f"7: appended {by('append')}, there are {list(view[keys.facts])}"
    one, two = view.get(keys.one), view.get(keys.two)
    assert one == last(by("write one", "sign in")), f"7: {one!r} is not what was assigned last"
    assert two == last(by("write two")), f"7: {two!r} is not what was assigned last"
    left, right = view.get(keys.left), view.get(keys.right, 0)
    assert left == last(by("both")), f"7: half a commit: {left!r} after {by('both')}"
    assert right == halves, f"7: half a commit: {right} after {by('both')}"
    merged = view.get(keys.merged) or []
    assert sorted(merged) == sorted(by("merge")), f"7: merged {by('merge')}, there are {merged}"
    changed = view.get(keys.in_place) or []
    assert last(changed) == last(by("in place")), "7: the last of two changes in place has not won"
    lost = len(by("in place")) - len(changed)
    reported = [event for event in stage.heard(LostUpdate) if event.session.handle == locator.hex()]
    # Of three, one may overwrite two at once, or bring back what another has overwritten.
    told = len(reported) == lost if len(stage.requests) == 2 else bool(reported) == bool(lost)
    assert told, f"7: {lost} changes in place are lost, and {len(reported)} reported"


def presented_by(pair: dict[str, str]) -> Presented:
    presented = present(pair["SESSION_KEY"], pair["SESSION_ADDR"])
    assert presented is not None
    return presented


def opened(stage: Stage, pair: dict[str, str]) -> Any:
    """What a browser with these cookies gets now; not a use."""
    cookie = "; ".join(f"{name}={value}" for name, value in pair.items())
    return stage.plain.get_session(Request(headers=[("Cookie", cookie)] if cookie else [], peer=PEER))


def one_secret(stage: Stage, locator: bytes) -> None:
    """R3: one secret is current, whoever has renewed how often; one more opens the session, and only in its overlap."""
    wins = [call for call in calls_on(stage, locator, "commit") if renewed(call)]
    replaced = {presented_by(call.request.presented).digest for call in wins}
    assert len(replaced) == len(wins), "R3: two renewals of one secret have succeeded"
    record = current(stage, locator)
    if record is None:
        return
    opening = [
        pair
        for pair in stage.pairs
        if presented_by(pair).locator == locator and (view := opened(stage, pair)) is not None and view.handle == locator.hex()
    ]
    newest = [pair for pair in opening if presented_by(pair).digest == record.digest]
    assert len(newest) == 1, f"R3: {len(newest)} of the secrets that were handed out are the current one"
    allowed = bool(wins) and stage.clock() < wins[-1].args[3] + wins[-1].args[1].renewal.overlap
    assert len(opening) - 1 <= allowed, "9: a secret opens the session that was replaced without an overlap"


def dead_when_opened(stage: Stage, request: Asked) -> bool:
    """Whether the cookie a request came with was dead when it was opened: gone, over, or replaced and no longer in its overlap."""
    if not request.presented:
        return True
    for call in stage.calls(request, "open"):
        record: Record | None = call.result
        if record is None or record.due <= call.args[3]:
            return True
        return not record.opened_by(presented_by(request.presented).digest, call.args[3])
    return False


def straggles(stage: Stage, request: Asked) -> bool:
    """Whether the secret a request came with had been replaced just before it was opened."""
    for call in stage.calls(request, "open"):
        record: Record | None = call.result
        if record is None or record.due <= call.args[3] or record.previous is None:
            return False
        now, digest = call.args[3], presented_by(request.presented).digest
        return not record.opened_by(digest, now) and now < record.previous.until + STRAGGLE
    return False


def pair_set(request: Asked) -> dict[str, str]:
    return dict(value.partition(";")[0].split("=", 1) for value in request.set_cookies)


def expires(request: Asked) -> bool:
    return all("Max-Age=0" in value for value in request.set_cookies)


def cookies(stage: Stage) -> None:
    """23: cookies come from a request that has renewed, created or ended a session itself, or whose own cookie was dead."""
    for request in stage.requests:
        if not request.set_cookies:
            continue
        assert len(request.set_cookies) == 2, f"C11: {request} sends {len(request.set_cookies)} cookies"
        if expires(request):
            ended = any(call.result is not None for call in stage.calls(request, "end"))
            assert ended or dead_when_opened(stage, request), (
                f"23: {request} expires cookies that were alive, and has not ended the session"
            )
            continue
        assert not any("Max-Age=0" in value for value in request.set_cookies), f"23: {request} expires one cookie and sets the other"
        digest = presented_by(pair_set(request)).digest
        if digest in {call.args[1].renewal.digest for call in stage.calls(request, "commit") if renewed(call)}:
            continue
        if sent_again(stage, request):
            assert stage.lasting, f"12: {request} sends a cookie again that has no Max-Age"
            seen = [call.result for call in stage.calls(request, "open")]
            seen += [call.result.record for call in stage.calls(request, "commit")]
            used = any(record.use_written for record in seen) or any(call.result for call in stage.calls(request, "touch"))
            assert used, f"12: {request} sends a cookie again, and no use was written"
            assert seen[-1].digest == digest, f"23: {request} sends a cookie again of which it knows that it was replaced"
            continue
        created = {call.args[0].digest for call in stage.calls(request, "create") if call.result != "taken"}
        assert digest in created, f"23: {request} sends a cookie that it did not make"
        assert dead_when_opened(stage, request), f"23: {request} replaces cookies that were alive"


def sent_again(stage: Stage, request: Asked) -> bool:
    """Whether the answer sends the very cookies that the request came with, for their Max-Age."""
    return pair_set(request) == request.presented


def jar(stage: Stage) -> None:
    """23: in whatever order the answers come back, they log nobody out who is signed in."""
    assert len(stage.jar) in (0, 2), f"20: the jar holds {sorted(stage.jar)}"
    held: dict[str, str] = stage.pairs[0] if stage.handle else {}
    last, left = None, list[Asked]()
    for last in stage.arrivals:
        before, held = held, {} if expires(last) else pair_set(last)
        if handle_in(before) == stage.handle != handle_in(held):
            left.append(last)
    view = opened(stage, stage.jar) if stage.jar else None
    if last is not None and held and current(stage, presented_by(held).locator) is not None and not sent_again(stage, last):
        assert view is not None, f"23: {last} gave the browser a cookie that opens nothing"
        assert view.handle == handle_in(held), f"23: {last} gave the browser the cookie of another session"
    if not stage.handle or current(stage, bytes.fromhex(stage.handle)) is None:
        return
    if handle_in(held) == stage.handle:
        if view is None:
            assert last is not None, "23: the browser's cookie has become invalid, and it got no other"
            # What no server can prevent: a cookie that was sent again for its Max-Age before a renewal, and arrives after it.
            replaced = next(number for number, call in enumerate(stage.log) if renewed(call))
            assert all(call.request is not last for call in stage.log[replaced:]), f"23: {last} has put an old cookie over a newer one"
        return
    # The session is alive, and the browser has left it: only for a request that came under a secret which was dead by then. It began a
    # session of its own, or its secret was not even the one before the current one. What comes of that other session is its own matter.
    for culprit in left:
        if handle_in(culprit.presented) == stage.handle:
            assert dead_when_opened(stage, culprit), f"23: {culprit} has logged out a user who is signed in"
            if expires(culprit):
                assert sum(map(renewed, stage.log)) > 1, f"23: {culprit} expires a cookie that was replaced just now"
            else:
                assert culprit.script.name in WRITERS, f"23: {culprit} only read, and has logged the user out"
                late = straggles(stage, culprit) and culprit.script.name not in RENEWING
                assert not late, f"23: {culprit} was under way during a sign-in, and has logged the user out"
    assert any(handle_in(culprit.presented) == stage.handle for culprit in left), "23: nobody has led the browser away from its session"


def handle_in(pair: dict[str, str]) -> str:
    """The handle of the session that a pair of cookies belongs to."""
    return presented_by(pair).locator.hex() if pair else ""


def wrong_secrets(stage: Stage) -> None:
    """9: a request with a wrong secret changes nothing, not even the time of last use."""
    for call in stage.log:
        if call.request.script.forged and call.verb not in ("sweep", "clear"):  # which any request may do for others in passing
            assert call.unchanged, f"9: {call.verb} with a wrong secret has changed something"
            assert call.request.handle != stage.handle, "9: a wrong secret has opened the session"
