"""What a journal keeps without regard to its time, and what it says before a snapshot relies on it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from typed_sessions import StoreUnavailable
from typed_sessions.journal import Entry, Journal, replay

ONE, TWO = bytes(15) + b"1", bytes(15) + b"2"


def ended(locator: bytes, until: float | None, payload: bytes = b"") -> Entry:
    return Entry("ended", locator, until, payload)


def compacted(path: Path, *entries: Entry, now: float) -> list[Entry]:
    """What is left of these entries in a journal of their own."""
    journal = Journal(path)
    journal.append(entries)
    journal.compact(now)
    journal.close()
    left, damaged = replay(path, now=now)
    path.with_name(f"{path.name}.journal").unlink()
    assert damaged == 0
    return left


def test_what_is_still_to_be_done_is_not_forgotten(tmp_path: Path) -> None:
    """An end with a payload stays, however old, until one without a payload says that it is done; that one is forgotten at its time."""
    path = tmp_path / "sessions"
    waiting, other = ended(ONE, 5.0, b"hooks"), ended(TWO, 5.0)
    assert compacted(path, waiting, other, now=100.0) == [waiting]
    assert compacted(path, waiting, ended(ONE, 7.0), now=7.0) == [ended(ONE, 7.0)]
    assert compacted(path, waiting, ended(ONE, 7.0), now=8.0) == []
    journal = Journal(path)
    journal.append([waiting])
    journal.close()
    assert replay(path, now=100.0) == ([waiting], 0)


@pytest.mark.parametrize("first", [50.0, None])
def test_the_later_end_counts_for_as_long_as_either(tmp_path: Path, first: float | None) -> None:
    """The second was said by a process that knew of shorter timeouts than the first: an older snapshot may hold the session for longer."""
    path = tmp_path / "sessions"
    assert compacted(path, ended(ONE, first, b"hooks"), ended(TWO, 60.0), ended(ONE, 7.0), now=8.0) == [ended(TWO, 60.0), ended(ONE, first)]
    assert compacted(path, ended(ONE, first), ended(ONE, 7.0), ended(ONE, 6.0), now=49.0) == [ended(ONE, first)]


def test_a_journal_is_made_before_there_is_an_entry(tmp_path: Path) -> None:
    """`prepare` makes the file, of mode 0600, and changes nothing in one that is there."""
    path, file = tmp_path / "sessions", tmp_path / "sessions.journal"
    journal = Journal(path)
    journal.prepare()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    journal.append([ended(ONE, None)])
    journal.prepare()
    assert replay(path, now=0.0) == ([ended(ONE, None)], 0)
    journal.close()
    with pytest.raises(StoreUnavailable, match="closed"):
        journal.prepare()


def test_a_journal_that_is_of_no_use_says_so(tmp_path: Path) -> None:
    """A link, a file that others may write to, a folder that is not there; and no descriptor stays open."""
    before = set(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None
    (tmp_path / "link.journal").symlink_to("elsewhere")
    (tmp_path / "shared.journal").touch()
    (tmp_path / "shared.journal").chmod(0o666)
    for name, why in (("link", "symbolic link"), ("shared", "others may write"), ("missing/sessions", "the folder does not exist")):
        with pytest.raises(StoreUnavailable, match=f"the journal could not be opened: .*{why}"):
            Journal(tmp_path / name).prepare()
    assert before is None or set(os.listdir("/proc/self/fd")) == before
