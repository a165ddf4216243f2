"""The journal: what `append` returned for is there, whatever failed or was killed since (rules 8 and 29; L4, S1 to S7, X7)."""

from __future__ import annotations

import base64
import errno
import os
import random
import signal
import stat
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from unittest.mock import patch

import pytest

from tests.disks import FAULTS, Disk, Killed, disks, temporaries, write_once
from typed_sessions import journal as module
from typed_sessions.errors import SnapshotDamaged, StoreUnavailable
from typed_sessions.files import FileSystem
from typed_sessions.journal import Entry, Journal, replay
from typed_sessions.snapshot import Snapshot, load_latest, read_snapshot, write_snapshot

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sessions"


def ended(number: int, until: float | None = None, payload: bytes = b"") -> Entry:
    return Entry("ended", number.to_bytes(16, "big"), until, payload)


def renewed(number: int, payload: bytes = b"", until: float | None = None) -> Entry:
    return Entry("renewed", number.to_bytes(16, "big"), until, payload)


def entries(path: Path, now: float = 0.0) -> list[Entry]:
    found, damaged = replay(path, now=now)
    assert damaged == 0
    return found


def write(path: Path, entries: list[Entry]) -> None:
    """What a process does that appends, compacts and ends; with nothing expired."""
    journal = Journal(path, fs=Disk())
    journal.append(entries)
    journal.compact(0.0)
    journal.close()


def file_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.journal")


def in_threads(*calls: Callable[[], object]) -> list[BaseException]:
    """Run the calls at once; the exceptions of those that raised."""
    with ThreadPoolExecutor(len(calls)) as pool:
        futures = [pool.submit(call) for call in calls]
        return [fault for future in futures if (fault := future.exception(60.0)) is not None]


class SlowDisk(Disk):
    """A disk whose first fsync of a file takes until as many appends wait as `crowd` says; `broken` makes it fail then."""

    def __init__(self, crowd: int, broken: int = 0) -> None:
        super().__init__()
        self.crowd = crowd
        self.broken = broken
        self.journal: Journal | None = None

    def fsync(self, fd: int, /) -> None:
        super().fsync(fd)
        if self.calls[-1] == "fsync" and self.journal is not None:
            journal, self.journal = self.journal, None
            while journal.waiting < self.crowd:
                os.sched_yield()
            if self.broken:
                raise OSError(self.broken, os.strerror(self.broken))


def check_appends(folder: Path, error: int | None, short: int | None = None, *, power: bool = False) -> None:
    """Append in three calls, with a compaction between, on every disk: every entry that was promised is replayed, in order."""
    for disk in disks(error, short):
        for file in folder.iterdir():
            file.unlink()
        path = folder / "sessions"
        promised: list[Entry] = []
        journal = Journal(path, fs=disk)
        old, new = renewed(2, b"old"), renewed(2, b"new")
        steps = [[ended(1), old], [new, ended(3)], [ended(4, payload=b"x" * 50)], [ended(5)]]
        with suppress(Killed):
            for number, step in enumerate(steps):
                with suppress(StoreUnavailable):
                    journal.append(step)
                    promised += step
                if number == 1:
                    with suppress(StoreUnavailable):
                        journal.compact(0.0)
            journal.close()
        if power:
            disk.cut_power(folder)
        disk.bury()
        if error is not None:
            assert temporaries(folder) == []
        found, damaged = replay(path, now=0.0)
        assert damaged == 0 or power  # what was cut short is none
        assert [entry for entry in found if entry in promised and entry != old] == [entry for entry in promised if entry != old]
        assert old in found or new in found or old not in promised
        # A torn end hides nothing that is appended after it, by this process or the next.
        write(path, [ended(9)])
        assert entries(path)[-1:] == [ended(9)]
        assert temporaries(folder) == []


def check_damage(folder: Path) -> None:
    """A flipped bit costs one entry at most, and never makes another of it; a cut costs those behind it."""
    path = folder / "sessions"
    wrote = [ended(1, 5.0), renewed(2, b"payload"), ended(3)]
    write(path, wrote)
    file = file_of(path)
    good = file.read_bytes()
    for at in range(len(good)):
        for bit in range(8):
            file.write_bytes(good[:at] + bytes([good[at] ^ 1 << bit]) + good[at + 1 :])
            found, damaged = replay(path, now=0.0)
            assert [entry for entry in wrote if entry in found] == found
            assert len(found) >= 2
            assert (len(found) == 3) or damaged
        file.write_bytes(good[:at])
        found, damaged = replay(path, now=0.0)
        assert found == wrote[: len(found)]
        assert damaged == 0


def test_entries_come_back_in_order(tmp_path: Path, path: Path) -> None:
    """Kinds, times and payloads as they were, in one file of mode 0600, made by the first append, and again if it is gone."""
    wrote = [ended(1), renewed(2, bytes(range(256)), 7.5), ended(2, 1e12), renewed(1, b"")]
    journal = Journal(path)
    assert entries(path) == []
    journal.append([])
    assert os.listdir(tmp_path) == []
    journal.append(wrote[:1])
    journal.append(wrote[1:])
    assert entries(path) == wrote
    assert stat.S_IMODE(file_of(path).stat().st_mode) == 0o600
    file_of(path).unlink()
    journal.append(wrote[:1])
    assert entries(path) == wrote[:1]
    journal.close()
    journal.close()
    with pytest.raises(StoreUnavailable, match="closed"):
        journal.append(wrote)
    with pytest.raises(ValueError, match="16 bytes, not 3"):
        Entry("ended", b"abc", None)


def test_version_1_is_written_byte_by_byte(path: Path) -> None:
    """The format is what the module says; and an entry is replayed until its time, at that moment too, and not after it."""
    entry = Entry("renewed", b"L" * 16, 1.0, b"payload")
    write(path, [entry])
    body = b"\x02\x01\0\0\0\0\0\0\xf0\x3fLLLLLLLLLLLLLLLLpayload"
    assert file_of(path).read_bytes() == b"\n1" + base64.b64encode(body + zlib.crc32(body).to_bytes(4, "little")) + b"\n"
    assert entries(path, 1.0) == [entry]
    assert entries(path, 1.5) == []


def test_a_compaction_leaves_what_counts(path: Path) -> None:
    """The last renewal of each, none of what has ended, nothing past its time, and what only a later version can read."""
    journal = Journal(path)
    journal.compact(0.0)
    journal.append(
        [renewed(1, b"a"), renewed(2, b"a"), ended(3, 5.0), renewed(1, b"b"), ended(2), ended(4), ended(4, 1.0), renewed(5, b"", 5.0)]
    )
    with file_of(path).open("ab") as file:
        file.write(b"\n2of a later version\n\n1damaged\n")
    journal.append([renewed(2, b"late")])
    journal.compact(6.0)
    found, damaged = replay(path, now=6.0)
    assert (found, damaged) == ([renewed(1, b"b"), ended(2), ended(4)], 1)
    assert b"\n2of a later version\n" in file_of(path).read_bytes()
    before = file_of(path).stat()
    journal.compact(6.0)
    assert file_of(path).stat().st_ino == before.st_ino
    journal.append([ended(6)])
    journal.close()
    assert replay(path, now=6.0)[0][-1] == ended(6)


def test_a_journal_that_grows_is_compacted_by_itself(path: Path) -> None:
    """By a factor, so that it is rare; by the clock it was given; and one that cannot be compacted goes on."""
    disk = Disk()
    journal = Journal(path, fs=disk, clock=lambda: 5.0, compact_from=2000)
    journal.append([ended(0)])
    for number in range(400):
        journal.append([renewed(1, b"%d" % number), ended(2, 4.0)])
        assert file_of(path).stat().st_size < 2200
    assert 5 < disk.calls.count("replace") < 40
    assert entries(path, 5.0)[0] == ended(0)
    assert entries(path, 5.0)[-1] == renewed(1, b"399")
    journal.close()


def test_one_fsync_serves_all_who_wait(path: Path) -> None:
    """Group commit: of thirty threads one writes; when its fsync is over, one more fsync serves the other 29."""
    disk = SlowDisk(crowd=29)
    journal = Journal(path, fs=disk)
    journal.append([ended(100)])
    disk.calls.clear()
    disk.journal = journal
    assert in_threads(*[lambda n=n: journal.append([ended(n), renewed(n)]) for n in range(30)]) == []
    assert disk.calls.count("fsync") == 2
    assert disk.calls.count("write") == 2
    assert len(entries(path)) == 61
    journal.close()


def test_a_fault_reaches_everyone_whom_it_concerns(path: Path) -> None:
    """Three appends wait while a fourth is synced. Its fsync fails, then the write of the three: whose entries are lost gets an error."""
    disk = SlowDisk(crowd=3, broken=errno.EIO)
    journal = Journal(path, fs=disk)
    for broken in ("fsync", "write"):
        journal.append([ended(100)])
        disk.calls.clear()
        disk.journal = journal
        if broken == "write":
            # The calls of the first batch: lock, fstat, lstat, write, unlock, fsync; and of the second: lock, fstat, lstat, write.
            disk.at, disk.error, disk.broken = 10, errno.ENOSPC, 0
        faults = in_threads(*[lambda n=n: journal.append([ended(n)]) for n in range(4)])
        assert all(isinstance(fault, StoreUnavailable) and str(file_of(path)) in str(fault) for fault in faults)
        if broken == "fsync":
            assert len(faults) == 1
            assert "EIO" in str(faults[0])
            # Never again on that descriptor (S5).
            after = disk.calls[disk.calls.index("fsync") + 1 :]
            assert after.index("close") < after.index("open") < after.index("fsync")
        else:
            assert len(set(map(id, faults))) == 3
            assert all("free space" in str(fault) for fault in faults)
    journal.append([ended(5)])
    journal.close()
    assert entries(path)[-1] == ended(5)


def test_threads_that_append_compact_and_close(tmp_path: Path, path: Path) -> None:
    """Nothing that was promised is lost to a compaction, in this process or in another: one object more for the same file is as good."""
    check_two_processes(tmp_path)
    file_of(path).unlink()
    journals = [Journal(path, fs=Disk(), compact_from=500) for _ in range(3)]
    promised: list[Entry] = []

    def append(number: int) -> None:
        for n in range(60):
            entry = ended(number * 1000 + n)
            journals[number % 3].append([entry, renewed(7, b"%d" % n)])
            promised.append(entry)

    def compact() -> None:
        for _ in range(30):
            journals[0].compact(0.0)

    assert in_threads(*[lambda n=n: append(n) for n in range(6)], compact, compact) == []
    for journal in journals:
        journal.close()
    found = entries(path)
    assert len(promised) == 360
    assert set(promised) <= set(found)


@pytest.mark.parametrize("short", [None, 11])
@pytest.mark.parametrize(("error", "power"), [*((error, False) for error in FAULTS), (None, False), (None, True)])
def test_no_fault_or_kill_loses_what_was_promised(tmp_path: Path, error: int | None, power: bool, short: int | None) -> None:
    """S1, S2, S3, S4: the k-th call fails, or the process dies at it, or all that was not synced is gone then, for every k."""
    check_appends(tmp_path, error, short, power=power)


def test_a_failed_replay_is_no_empty_journal(path: Path) -> None:
    """A call that fails makes `replay` fail; it never returns less than there is."""
    write(path, [ended(1)])
    for disk in disks(errno.EIO, least=5):
        with suppress(StoreUnavailable):
            assert replay(path, now=0.0, fs=disk) == ([ended(1)], 0)
        disk.bury()


def test_damage_costs_one_entry_at_most(tmp_path: Path, path: Path) -> None:
    """S7: every flipped bit, every cut (a line end is no exception), and whatever else is written between two entries; it is counted."""
    check_damage(tmp_path)
    file_of(path).unlink()
    for content in (b"\0" * 5000, b"\n1====\n", b"1" + b"A" * 60, b"\xff\n\xfe\n", b"\n1" + b"\x00" * 9):
        journal = Journal(path, fs=Disk())
        journal.append([ended(1)])
        with file_of(path).open("ab") as file:
            file.write(content)
        journal.append([ended(2)])
        journal.close()
        assert replay(path, now=0.0) == ([ended(1), ended(2)], content.strip(b"\n").count(b"\n") + 1)
        file_of(path).unlink()


def test_a_file_that_others_could_have_written_is_refused(tmp_path: Path, path: Path) -> None:
    """X7: as for the snapshot; neither read nor appended to."""
    file_of(path).touch(mode=0o600)
    file_of(path).chmod(0o622)
    (tmp_path / "link.journal").symlink_to("sessions.journal")
    (tmp_path / "folder.journal").mkdir()
    for name, why in (("sessions", "mode 0622"), ("link", "symbolic link"), ("folder", "not a plain file")):
        with pytest.raises(SnapshotDamaged, match=why):
            replay(tmp_path / name, now=0.0)
        with pytest.raises(StoreUnavailable, match=why):
            write(tmp_path / name, [ended(1)])


def check_two_processes(folder: Path) -> None:
    """Two that have the file open, as two processes have: one compacts it, the other appends after that."""
    path = folder / "sessions"
    one, two = Journal(path), Journal(path)
    one.append([renewed(1, b"a"), renewed(1, b"b")])
    two.append([ended(2)])
    one.compact(0.0)
    two.append([ended(3)])
    one.append([ended(4)])
    one.close()
    two.close()
    assert entries(path) == [renewed(1, b"b"), ended(2), ended(3), ended(4)]


FORK = """
import os, sys, threading
from typed_sessions.journal import Entry, Journal, replay
from typed_sessions.files import OperatingSystem

def fsync(fd):
    syncing.set()
    forked.wait()
    os.fsync(fd)

forked, syncing, fs = threading.Event(), threading.Event(), OperatingSystem()
journal = Journal(sys.argv[1], fs=fs)
zero, one, two, three = (Entry("ended", bytes(15) + bytes([n]), None) for n in range(4))
journal.append([zero])
fs.fsync = fsync
thread = threading.Thread(target=journal.append, args=([one],))
thread.start()
syncing.wait()
if not (child := os.fork()):
    fs.fsync = os.fsync
    journal.append([two])
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
forked.set()
thread.join()
journal.append([three])
assert replay(sys.argv[1], now=0.0) == ([zero, one, two, three], 0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_fork_while_a_thread_appends(tmp_path: Path) -> None:
    """R7: the child appends though the thread that was writing does not exist in it, and the parent's append is not disturbed."""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORK, str(tmp_path / "sessions")]
    subprocess.run(command, cwd=ROOT, check=True, timeout=60)


@contextmanager
def full_disk(folder: Path, options: str) -> Generator[Path]:
    """A file system in memory with little room; the test is skipped where it cannot be mounted."""
    (disk := folder / "full-disk").mkdir(parents=True)
    done = subprocess.run(["sh", "-c", f"mount -t tmpfs -o {options} tmpfs '{disk}'"], capture_output=True, text=True, timeout=20)
    if done.returncode:
        pytest.skip(f"A FULL DISK WAS NOT TRIED: a tmpfs cannot be mounted here ({done.stderr.strip()})")
    try:
        yield disk
    finally:
        subprocess.run(["umount", disk], check=True, timeout=20)


def test_a_full_disk(tmp_path: Path) -> None:
    """S4: too little room for a snapshot, then for an entry; with room again, it goes on by itself. Then room, but no inode."""
    with full_disk(tmp_path, "size=64k") as disk:
        path = disk / "sessions"
        write_snapshot(path, [b"old"], now=1.0)
        with pytest.raises(StoreUnavailable, match="free space"):
            write_snapshot(path, [b"x" * 1000] * 70, now=2.0)
        assert load_latest(path)[0] == read_snapshot(path)
        assert os.listdir(disk) == ["sessions"]
        (disk / "filler").write_bytes(b"x" * 40_000)
        journal = Journal(path)
        promised = [ended(number, payload=b"x" * 900) for number in range(10)]
        journal.append(promised)
        with pytest.raises(StoreUnavailable, match="free space"):
            journal.append([ended(100, payload=b"x" * 20_000)])
        assert replay(path, now=0.0) == (promised, 0)  # the one that did not fit was cut short
        (disk / "filler").unlink()
        journal.append([ended(200)])
        journal.close()
        assert replay(path, now=0.0) == ([*promised, ended(200)], 0)
    with full_disk(tmp_path / "inodes", "size=64k,nr_inodes=3") as disk:
        write_snapshot(disk / "sessions", [b"old"], now=1.0)
        (disk / "last").touch()
        with pytest.raises(StoreUnavailable, match="inodes"):
            write_snapshot(disk / "sessions", [b"new"], now=2.0)
        with pytest.raises(StoreUnavailable, match="inodes"):
            write(disk / "sessions", [ended(1)])
        assert read_snapshot(disk / "sessions") == Snapshot([b"old"], 1.0)


SERVER = """
import os, sys, threading
from typed_sessions.journal import Entry, Journal
from typed_sessions.snapshot import write_snapshot

path, name = sys.argv[1], int(sys.argv[2])
journal = Journal(path, compact_from=8192)

def append(thread):
    for n in range(10**9):
        number = name * 10**12 + thread * 10**9 + n
        journal.append([Entry("ended", number.to_bytes(16, "big"), None), Entry("renewed", bytes(16), None, b"%d" % number)])
        os.write(1, b"ended %d\\n" % number)

for thread in range(3):
    threading.Thread(target=append, args=(thread,)).start()
for generation in range(1, 10**9):
    write_snapshot(path, [b"%d %d" % (name, generation)] * 500, now=1.0)
    journal.compact(0.0)
    os.write(1, b"saved %d\\n" % generation)
"""


@pytest.mark.slow
def test_servers_killed_at_any_moment(tmp_path: Path, path: Path) -> None:
    """kill -9, twenty times, of one server or two with the same files: what they printed is there, whole."""
    print(f"seed {(seed := random.randrange(2**32))}")
    draw = random.Random(seed)
    promised: set[int] = set()
    saved: dict[int, int] = {}
    for turn in range(20):
        names = [turn * 2, turn * 2 + 1][: 1 + turn % 2]
        servers = {n: subprocess.Popen([sys.executable, "-c", SERVER, path, str(n)], cwd=ROOT, stdout=subprocess.PIPE) for n in names}
        for number, server in servers.items():
            assert server.stdout is not None
            said = b"".join([server.stdout.readline() for _ in range(draw.randrange(1, 80))])
            moment = time.perf_counter() + draw.random() * 0.005
            while time.perf_counter() < moment:
                pass  # not only just after a promise
            server.kill()
            said += server.communicate()[0]
            assert server.returncode == -signal.SIGKILL
            promises = [line.split() for line in said.splitlines()]
            promised |= {int(value) for what, value in promises if what == b"ended"}
            saved[number] = max([int(value) for what, value in promises if what == b"saved"], default=0)
        found, damaged = replay(path, now=0.0)
        assert damaged == 0  # a write that a kill has cut short, where a page ends, was not promised yet
        assert promised <= {int.from_bytes(entry.locator, "big") for entry in found if entry.kind == "ended"}
        latest, problems = load_latest(path)
        assert problems == []
        assert latest is not None or not any(saved.values())
        if latest is not None:
            # The last to be renamed, whoever wrote it: that server's last promise, or what it was about to promise.
            name, generation = map(int, latest.records[0].split())
            assert latest.records == latest.records[:1] * 500
            assert generation - saved.get(name, 0) in (0, 1)
    write_snapshot(path, [], now=2.0)
    write(path, [renewed(0)])
    assert temporaries(tmp_path) == []
    assert len(promised) > 100
    assert max(saved.values()) > 1


def nothing(*_: object) -> int:
    return 0


def any_size(fs: FileSystem, fd: int, path: str) -> int:
    return fs.fstat(fd).st_size


@pytest.mark.parametrize(
    ("target", "name", "broken", "check"),
    [
        pytest.param(module, "write_all", write_once, partial(check_appends, error=None, short=11), id="a writer without the loop"),
        pytest.param(Disk, "fsync", nothing, partial(check_appends, error=None, power=True), id="a writer without fsync"),
        pytest.param(module, "crc32", nothing, check_damage, id="a reader without checksums"),
        pytest.param(module, "_size_if_current", any_size, check_two_processes, id="a writer that trusts its descriptor"),
    ],
)
def test_the_checks_can_fail(tmp_path: Path, target: object, name: str, broken: object, check: Callable[[Path], object]) -> None:
    """Each check of this file passes for the journal and catches a variant that is broken on purpose."""
    with patch.object(target, name, broken), pytest.raises(AssertionError):
        check(tmp_path)
