"""Where in a Redis Cluster a key is: what its nodes say of it, and whom to ask next. No sockets: it says what to send where.

A store finds out by itself that it talks to a cluster: a server of one refuses what it has not, and names the node that has it (MOVED).
From then on the store knows which node has which slots, and asks it directly. What is refused so was not done, and may be said again.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple, TypeAlias, TypeVar, final

import hiredis
from redis.crc import key_slot

from ..errors import StoreUnavailable
from .redis_verbs import Command, Missing, Reply

CLUSTER_ACL = " +cluster|slots +asking"
"""What a user of a cluster's nodes must be allowed, beside what the verbs need."""

_SLOTS = 16_384
_PAUSE, _LONGEST_PAUSE = 0.02, 0.5
"""Seconds until a command is said again that no node takes now, the first time and at most: it doubles."""
_ASKING = Command(("ASKING",))
_WHERE = Command(("CLUSTER", "SLOTS"))
_REDIRECTIONS = ("MOVED ", "ASK ", "TRYAGAIN")
_NOT_ITS_OWN = ("CLUSTERDOWN", "READONLY", "LOADING", "MASTERDOWN")
"""Other refusals of a node that is not, or not any more, who has the slot."""


class Node(NamedTuple):
    """Where a server listens."""

    host: str
    port: int


Remap: TypeAlias = Callable[[tuple[str, int]], tuple[str, int]]


class Parcel(NamedTuple):
    """Commands for one node. None is the server that the store was made for."""

    node: Node | None
    commands: Sequence[Command]
    share: float = 1.0
    """The part of the time left that it may take: there are others to ask."""


class Pause(NamedTuple):
    """Wait so many seconds, and raise what has been refused if there is no time for that."""

    seconds: float
    refused: str


R = TypeVar("R")
Errands: TypeAlias = "Generator[Parcel | Pause, Sequence[Reply], R]"


def is_elsewhere(reply: Reply) -> bool:
    """Whether it is a refusal of a server in a cluster: the command is for another node, or for later."""
    return type(reply) is hiredis.ReplyError and str(reply).startswith(_REDIRECTIONS)


def is_doubtful(problem: StoreUnavailable) -> bool:
    """Whether another node may have the place of the one that this is about; not if it is there, and has refused for its own reasons."""
    text = str(problem)
    return " refused " not in text or any(word in text for word in _NOT_ITS_OWN)


@final
class Cluster:
    """Which node has which slot, as far as its nodes have said.

    host   that of the server that the store was made for
    seeds  nodes that may be asked before any is known
    remap  gives the address at which a node can be reached whose own is another one, behind a NAT
    """

    def __init__(self, host: str, seeds: Sequence[Node] = (), remap: Remap | None = None) -> None:
        self._host = host
        self._seeds = tuple(seeds)
        self._remap = remap
        self._owners: list[Node | None] = [None] * _SLOTS
        self._masters: tuple[Node, ...] = ()
        self._known = False
        self.left: set[Node] = set()
        """Who was a master, and is none any more: nobody needs the connections to it."""

    def doubt(self, node: Node | None) -> None:
        """It could not be reached, or has not answered: another may have its place by now. The next errand asks, and it last of all."""
        self._known = False
        self._masters = (*(other for other in self._masters if other != node), *(other for other in self._masters if other == node))

    def errands(self, commands: Sequence[Command], replies: Sequence[Reply] | None = None) -> Errands[list[Reply]]:
        """What to send where for these commands, until each has a reply that is no redirection; `replies` are those there are already.

        Who carries it out raises in here what goes wrong with a node, or with a pause. One command fails with that; of several, those that
        it concerns have a `Missing` for a reply, for what the others have done cannot be done once more.
        """
        done: list[Reply] = [None] * len(commands) if replies is None else list(replies)
        left = [number for number, reply in enumerate(done) if replies is None or is_elsewhere(reply)]
        pause, moved = 0.0, False
        while left:
            if not self._known:
                try:
                    yield from self._learn()
                except StoreUnavailable as problem:
                    _give_up(problem, left, done)
                    break
            parcels: dict[Node | None, list[int]] = {}
            for number in left:
                parcels.setdefault(self._owners[_slot_of(commands[number])], []).append(number)
            sent_on: list[tuple[int, Node | None]] = []
            for sent, (node, numbers) in enumerate(parcels.items()):
                try:
                    got = yield Parcel(node, [commands[number] for number in numbers], 1 / (len(parcels) - sent))
                except StoreUnavailable as problem:
                    self._doubt_for(problem, node)
                    _give_up(problem, numbers, done)
                    continue
                for number, reply in zip(numbers, got, strict=True):
                    done[number] = reply
                    if is_elsewhere(reply):
                        sent_on.append((number, node))
            for number, node in sent_on:  # not before all replies are kept: a node that these lead to may be gone
                moved = moved or str(done[number]).startswith("MOVED ")
                try:
                    done[number] = yield from self._follow(done[number], node, commands[number])
                except StoreUnavailable as problem:
                    self._doubt_for(problem, node)
                    _give_up(problem, [number], done)
            left = [number for number in left if is_elsewhere(done[number])]
            if not left:
                break
            # The first MOVED is followed at once. After that the nodes do not agree yet, or keys are on their way from one to another.
            refused = str(done[left[0]])
            if pause or not refused.startswith("MOVED "):
                try:
                    yield Pause(pause or _PAUSE, refused)
                except StoreUnavailable as problem:
                    _give_up(problem, left, done)
                    break
                pause = min(2 * (pause or _PAUSE), _LONGEST_PAUSE)
            else:
                pause = _PAUSE
        if moved:
            self._known = False  # it may not be the only slot that has
        return done

    def _doubt_for(self, problem: StoreUnavailable, node: Node | None) -> None:
        if is_doubtful(problem):
            self.doubt(node)

    def _follow(self, reply: Reply, node: Node | None, command: Command) -> Errands[Reply]:
        """What comes of a redirection: MOVED is for good, and ASK for this once, while a slot is on its way."""
        word, _, rest = str(reply).partition(" ")
        there = self._node(rest.partition(" ")[2], node)
        if there is None:
            return reply
        if word == "MOVED":
            self._owners[_slot_of(command)] = there
            return reply
        # With the script's text: what ASKING allows is one command, and not to be lost to a node that has forgotten the script.
        words, script = command
        got = yield Parcel(there, (_ASKING, command if script is None else Command(("EVAL", script.text, *words))))
        return got[1]

    def _learn(self) -> Errands[None]:
        """Ask who has what: the nodes that are known, one after the other, and at last the server that the store was made for."""
        nodes: list[Node | None] = [*dict.fromkeys([*self._masters[:3], *self._seeds[:3]]), None]
        problem: StoreUnavailable | None = None
        for number, node in enumerate(nodes):
            try:
                (reply,) = yield Parcel(node, (_WHERE,), 1 / (len(nodes) - number))
            except StoreUnavailable as unreachable:
                problem = problem or unreachable
                continue
            if isinstance(reply, list):
                self._take_over(reply, node)
                return
            problem = problem or StoreUnavailable(f"a node of the Redis Cluster refused CLUSTER SLOTS: {reply}")
        assert problem is not None
        raise problem

    def _take_over(self, reply: Reply, asked: Node | None) -> None:
        owners: list[Node | None] = [None] * _SLOTS
        masters: dict[Node, None] = {}
        for first, last, (host, port, *more), *_ in reply:
            known: Sequence[bytes] = more[1] if len(more) > 1 else ()  # the node's other names
            if host == b"?":  # it has no name, and is to be called by one
                host = dict(zip(known[::2], known[1::2], strict=False)).get(b"ip")
            node = self._reached(host.decode() if host else "", port, asked)
            masters[node] = None
            owners[first : last + 1] = [node] * (last + 1 - first)
        self.left |= {*self._masters}.difference(masters)
        self.left.difference_update(masters)
        self._owners, self._masters, self._known = owners, tuple(masters), True

    def _node(self, place: str, asked: Node | None) -> Node | None:
        host, colon, port = place.rpartition(":")
        return self._reached(host, int(port), asked) if colon and port.isdigit() else None

    def _reached(self, host: str, port: int, asked: Node | None) -> Node:
        """Where a node is reached that has said so of itself; without a host it is the one that was asked."""
        node = Node(host or (self._host if asked is None else asked.host), port)
        return node if self._remap is None else Node(*self._remap(node))


def _give_up(problem: StoreUnavailable, numbers: Sequence[int], done: list[Reply]) -> None:
    """These commands get no reply. Raise that if there is but one in all."""
    if len(done) == 1:
        raise problem
    for number in numbers:
        done[number] = Missing(problem)


def _slot_of(command: Command) -> int:
    key: Any = command.words[1]  # of each command that a verb gives, and of each script
    return key_slot(key)
