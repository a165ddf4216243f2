"""Locks in the child of a fork: one that another thread of the parent held at that moment would stay locked there for ever.

Only the thread that forked is in the child, so whoever could give such a lock back is not. What it guarded is as that thread left it:
every table here is one that can be read between any two of its changes.
"""

from __future__ import annotations

import os
from typing import Protocol
from weakref import ref


class HoldsLocks(Protocol):
    """Whoever has locks, and makes new ones in a child."""

    def renew_locks(self) -> None: ...


_holders: set[ref[HoldsLocks]] = set()


def renew_after_fork(holder: HoldsLocks) -> None:
    """From now on `holder.renew_locks()` is called in every child, for as long as somebody else keeps the holder."""
    _holders.add(ref(holder, _holders.discard))


def _after_fork_in_child() -> None:
    for known in list(_holders):
        holder = known()
        if holder is not None:
            holder.renew_locks()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
