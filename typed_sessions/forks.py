"""What has to be made anew in the child of a fork.

Only the thread that forked is in the child. So a lock that another thread of the parent held at that moment would stay locked there for
ever: whoever could give it back is not there. What it guarded is as that thread left it, and every table here is one that can be read
between any two of its changes. Threads in the background are not there either, and open files are the parent's too.
"""

from __future__ import annotations

import os
from typing import Protocol
from weakref import ref


class Forked(Protocol):
    """Whoever has something that a child must not share."""

    def after_fork(self) -> None: ...


_known: set[ref[Forked]] = set()


def tell_of_forks(one: Forked) -> None:
    """From now on `one.after_fork()` is called in every child, for as long as somebody else keeps it."""
    _known.add(ref(one, _known.discard))


def _after_fork_in_child() -> None:
    for known in list(_known):
        one = known()
        if one is not None:
            one.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
