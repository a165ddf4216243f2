"""What many processes say they did to some sessions at once, and what must then be true of it. Plain data, no store."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple


class Added(NamedTuple):
    """An update of a session's counter and an append to its list, in one commit. `known` is False if the answer was lost."""

    session: str
    fact: str
    known: bool = True


class Ended(NamedTuple):
    """An end of a session that was acknowledged at that moment."""

    session: str
    at: float


class Looked(NamedTuple):
    """A session was opened, which began at that moment; and whether it was there."""

    session: str
    began: float
    alive: bool


Event = Added | Ended | Looked
KINDS = {kind.__name__: kind for kind in (Added, Ended, Looked)}


def said(event: Event) -> str:
    """One line of text."""
    return json.dumps([type(event).__name__, *event])


def heard(lines: Iterable[str]) -> list[Event]:
    return [KINDS[kind](*rest) for kind, *rest in map(json.loads, lines)]


def violations(histories: Sequence[Sequence[Event]], counters: Mapping[str, int], facts: Mapping[str, Sequence[str]]) -> list[str]:
    """What cannot have happened, given each process's history and what every session holds in the end."""
    found: list[str] = []
    events = [event for history in histories for event in history]
    added = [event for event in events if isinstance(event, Added)]
    for session, there in facts.items():
        known = Counter(event.fact for event in added if event.session == session and event.known)
        unknown = Counter(event.fact for event in added if event.session == session and not event.known)
        stored = Counter(there)
        found += [f"lost: {fact}" for fact in known - stored]
        found += [f"there more than once: {fact}" for fact, count in stored.items() if count > 1]
        found += [f"from nowhere: {fact}" for fact in stored if fact not in known and fact not in unknown]
        if counters.get(session, 0) != len(there):
            found.append(f"the counter says {counters.get(session, 0)}, and there are {len(there)} facts")
        for number, history in enumerate(histories):
            mine = [event.fact for event in history if isinstance(event, Added) and event.session == session]
            order = {fact: place for place, fact in enumerate(mine)}
            places = [order[fact] for fact in there if fact in order]
            if places != sorted(places):
                found.append(f"the facts of process {number} are not in their order")
    ends: dict[str, float] = {}
    for event in events:
        if isinstance(event, Ended):
            ends[event.session] = min(event.at, ends.get(event.session, event.at))
    found += [
        f"seen alive after its end: {event.session}"
        for event in events
        if isinstance(event, Looked) and event.alive and event.began > ends.get(event.session, float("inf"))
    ]
    return found
