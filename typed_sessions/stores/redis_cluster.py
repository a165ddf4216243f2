"""Where in a Redis Cluster a key is: what its nodes say of it, and whom to ask next. No sockets: it says what to send where.

A store finds out by itself that it talks to a cluster: a server of one refuses what it has not, and names the node that has it (MOVED).
From then on the store knows which node has which slots, and asks it directly. What is refused so was not done, and may be said again.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, NamedTuple, TypeAlias, TypeVar, final

import hiredis
from redis.crc import key_slot

from ..errors import StoreUnavailable
from .redis_verbs import Command, Reply

CLUSTER_ACL = " +cluster|slots +asking"
"""What a user of a cluster's nodes must be allowed, beside what the verbs need."""

_SLOTS = 16_384
_PAUSE, _LONGEST_PAUSE = 0.02, 0.5
"""Seconds until a command is said again that no node takes now, the first time and at most: it doubles."""
_ASKING = Command(("ASKING",))
_WHERE = Command(("CLUSTER", "SLOTS"))
_REDIRECTIONS = ("MOVED ", "ASK ", "TRYAGAIN")


class Node(NamedTuple):
    """Where a server listens."""

    host: str
    port: int


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


@final
class Cluster:
    """Which node has which slot, as far as its nodes have said. `host` is that of the server that the store was made for."""

    def __init__(self, host: str) -> None:
        self._host = host
        self._owners: list[Node | None] = [None] * _SLOTS
        self._masters: tuple[Node, ...] = ()
        self._asked: Node | None = None
        self._known = False

    def doubt(self, node: Node | None) -> None:
        """It could not be reached, or has not answered: another may have its place by now. The next errand asks, and it last of all."""
        self._known = False
        self._masters = (*(other for other in self._masters if other != node), *(other for other in self._masters if other == node))

    def errands(self, commands: Sequence[Command], replies: Sequence[Reply] | None = None) -> Errands[list[Reply]]:
        """What to send where for these commands, until each has a reply that is no redirection; `replies` are those there are already.

        A reply that is another error stays. Who carries it out raises in here what goes wrong with a node.
        """
        done: list[Reply] = [None] * len(commands) if replies is None else list(replies)
        left = [number for number, reply in enumerate(done) if replies is None or is_elsewhere(reply)]
        pause = 0.0
        while left:
            if not self._known:
                yield from self._learn()
            parcels: dict[Node | None, list[int]] = {}
            for number in left:
                parcels.setdefault(self._owners[_slot_of(commands[number])], []).append(number)
            for node, numbers in parcels.items():
                try:
                    got = yield Parcel(node, [commands[number] for number in numbers])
                except StoreUnavailable:
                    self.doubt(node)
                    raise
                for number, reply in zip(numbers, got, strict=True):
                    done[number] = (yield from self._follow(reply, node, commands[number])) if is_elsewhere(reply) else reply
                    if type(reply) is hiredis.ReplyError and str(reply).startswith("CLUSTERDOWN"):
                        self._known = False  # for the next errand: who has the slot is being settled
            left = [number for number in left if is_elsewhere(done[number])]
            if not left:
                break
            # The first MOVED is followed at once. After that the nodes do not agree yet, or keys are on their way from one to another.
            refused = str(done[left[0]])
            if pause or not refused.startswith("MOVED "):
                yield Pause(pause or _PAUSE, refused)
                pause = min(2 * (pause or _PAUSE), _LONGEST_PAUSE)
            else:
                pause = _PAUSE
        return done

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
        nodes: list[Node | None] = [*self._masters[:3], None]
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
        for first, last, (host, port, *_), *_ in reply:
            # Without a host it is the one that was asked.
            node = Node(host.decode() if host else self._host if asked is None else asked.host, port)
            masters[node] = None
            owners[first : last + 1] = [node] * (last + 1 - first)
        self._owners, self._masters, self._known = owners, tuple(masters), True

    def _node(self, place: str, asked: Node | None) -> Node | None:
        host, colon, port = place.rpartition(":")
        if not colon or not port.isdigit():
            return None
        return Node(host or (self._host if asked is None else asked.host), int(port))


def _slot_of(command: Command) -> int:
    key: Any = command.words[1]  # of each command that a verb gives, and of each script
    return key_slot(key)
