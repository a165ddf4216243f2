"""The snapshot file: whole or not there, whatever fails and wherever the writer is killed (rule 29; L4, S1 to S7, X7)."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.disks import FAULTS, Disk, Killed, disks, temporaries, write_once
from typed_sessions import files, snapshot
from typed_sessions.errors import SnapshotDamaged, StoreUnavailable
from typed_sessions.files import Replacement
from typed_sessions.snapshot import Snapshot, load_latest, read_snapshot, write_snapshot

# What version 1 writes for [b"", b"one", bytes(range(9))] at 1700000000.25, byte by byte as the module's first lines say.
RECORDS = [b"", b"one", bytes(range(9))]
GOLDEN = bytes.fromhex(
    "89 54 53 4e 41 50 0d 0a  0100  0000 1040 fc54 d941  aa9c8a25"
    "52 00000000 b66bf184"
    "52 03000000 ac6ee4c6 6f6e65"
    "52 09000000 b32ba3ca 000102030405060708"
    "54 0300000000000000 1741c0fc835a7b655785891b6906a43e71193fc69fdea05bdf272cdcb72ccdfd"
)
OLDER, OLD, NEW = [b"older"] * 2, [b"old", b"", b"x" * 40], [b"new %d" % n for n in range(9)]


def put(path: Path, records: list[bytes]) -> None:
    """A good snapshot, written somewhere else, so that it leaves no traces here."""
    source = path.with_name("elsewhere")
    write_snapshot(source, records, now=1.0, fs=Disk())
    source.replace(path)


def latest(path: Path) -> list[bytes] | None:
    found, problems = load_latest(path)
    assert problems == []
    return None if found is None else found.records


def prepare(folder: Path) -> Path:
    for file in folder.iterdir():
        file.unlink()
    path = folder / "sessions"
    put(path, OLD)
    put(folder / "sessions.previous", OLDER)
    return path


def check_saves(folder: Path, error: int | None, short: int | None = None, *, power: bool = False) -> None:
    """Save NEW over OLD on every disk: what is promised is there, and otherwise one of the two, whole."""
    for disk in disks(error, short):
        path = prepare(folder)
        said = ""
        promised = False
        try:
            write_snapshot(path, NEW, now=2.0, fs=disk)
            promised = True
        except (StoreUnavailable, Killed) as end:
            said = str(end)
        if power:
            disk.cut_power(folder)
        disk.bury()
        if error is not None:
            assert temporaries(folder) == []
            assert promised or (str(path) in said and errno.errorcode[error] in said)
        found = latest(path)
        assert found == NEW or (found == OLD and not promised)
        # And a later writer finds nothing in its way, and leaves nothing behind.
        write_snapshot(path, [b"later"], now=3.0, fs=Disk())
        assert latest(path) == [b"later"]
        previous = read_snapshot(f"{path}.previous")
        assert previous is not None
        assert previous.records == found
        assert temporaries(folder) == []


def check_damage(folder: Path) -> None:
    """No file is read that differs from a good one in a bit, or in its length; the one before it is read instead."""
    path = folder / "sessions"
    put(path, RECORDS)
    good = path.read_bytes()
    cut = [good[:size] for size in range(len(good))]
    flipped = [good[:at] + bytes([good[at] ^ 1 << bit]) + good[at + 1 :] for at in range(len(good)) for bit in range(8)]
    for damaged in [*cut, *flipped, good + b"\0", good + good]:
        path.write_bytes(damaged)
        refused = False
        try:
            read_snapshot(path)
        except SnapshotDamaged as problem:
            refused = str(path) in str(problem)
        assert refused


@pytest.mark.parametrize("records", [[], [b""], RECORDS, [b"a" * 700_000, b"b"], [b"%d" % n for n in range(60_000)]], ids=len)
def test_records_come_back_as_they_were(tmp_path: Path, records: list[bytes]) -> None:
    """Order, number, bytes and the time of saving; for no record, for records larger than a buffer, for many."""
    path = tmp_path / "sessions"
    assert write_snapshot(path, iter(records), now=1.5) == len(records)
    assert read_snapshot(path) == Snapshot(records, 1.5)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["sessions"]


def test_no_file_is_no_snapshot(tmp_path: Path) -> None:
    """A missing file is None, not an error and not an empty snapshot."""
    assert read_snapshot(tmp_path / "sessions") is None
    assert load_latest(tmp_path / "sessions") == (None, [])


def test_version_1_is_written_and_read_byte_by_byte(tmp_path: Path) -> None:
    """The format is what the module says; a file written by the first release is read by this one."""
    path = tmp_path / "sessions"
    write_snapshot(path, RECORDS, now=1700000000.25)
    assert path.read_bytes().hex(" ") == GOLDEN.hex(" ")
    path.write_bytes(GOLDEN)
    assert read_snapshot(path) == Snapshot(RECORDS, 1700000000.25)


def test_a_newer_format_is_named(tmp_path: Path) -> None:
    """A file of a later version is kept, and the error says which version it is."""
    path = tmp_path / "sessions"
    put(path, OLD)
    data = bytearray(path.read_bytes())
    data[8] = 7
    path.write_bytes(data)
    with pytest.raises(SnapshotDamaged, match="format 7, and this version of typed_sessions reads format 1"):
        read_snapshot(path)


def test_the_one_before_is_kept(tmp_path: Path) -> None:
    """Two generations: the newest under the path, the one before it as previous."""
    path = tmp_path / "sessions"
    for generation in range(4):
        write_snapshot(path, [b"%d" % generation], now=float(generation))
    assert read_snapshot(path) == Snapshot([b"3"], 3.0)
    assert read_snapshot(f"{path}.previous") == Snapshot([b"2"], 2.0)


def test_a_path_without_a_folder_is_in_this_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bare name is a file of the folder that the program runs in, and nothing else is left there."""
    monkeypatch.chdir(tmp_path)
    write_snapshot("sessions", OLD, now=1.0)
    assert sorted(os.listdir()) == ["sessions"]


@pytest.mark.parametrize("short", [None, 7])
@pytest.mark.parametrize("error", FAULTS, ids=errno.errorcode.get)
def test_a_fault_at_any_call_loses_nothing(tmp_path: Path, error: int, short: int | None) -> None:
    """S1, S3, S4: the k-th call fails, for every k; the error says what and where, and no temporary file is left."""
    check_saves(tmp_path, error, short)


@pytest.mark.parametrize("short", [None, 7])
def test_a_kill_at_any_call_loses_nothing(tmp_path: Path, short: int | None) -> None:
    """S2: killed at the k-th call, for every k; what it left is removed by the next writer."""
    check_saves(tmp_path, None, short)


@pytest.mark.parametrize("short", [None, 7])
def test_a_power_cut_at_any_call_loses_nothing(tmp_path: Path, short: int | None) -> None:
    """Every byte that was not synced is gone: nothing takes a name before it is on the disk."""
    check_saves(tmp_path, None, short, power=True)


def test_a_failed_fsync_is_not_tried_again(tmp_path: Path) -> None:
    """S5: after a failed fsync the data may be gone and the next fsync succeed, so the file is given up."""
    path = tmp_path / "sessions"
    clean = Disk()
    write_snapshot(path, OLD, now=1.0, fs=clean)
    disk = Disk(clean.calls.index("fsync") + 1, errno.EIO)
    with pytest.raises(StoreUnavailable, match=r"Input/output error \(EIO\); the disk may be failing"):
        write_snapshot(tmp_path / "other", NEW, now=2.0, fs=disk)
    assert disk.calls.count("fsync") == 1
    assert os.listdir(tmp_path) == ["sessions"]


@pytest.mark.parametrize(("error", "remedy"), [(errno.ENOSPC, "free space"), (errno.EROFS, "read-only"), (errno.EMFILE, "ulimit -n")])
def test_an_error_says_what_to_do(tmp_path: Path, error: int, remedy: str) -> None:
    """What the disk said is answered with what to mend."""
    with pytest.raises(StoreUnavailable, match=remedy):
        write_snapshot(tmp_path / "sessions", NEW, now=2.0, fs=Disk(4, error))


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    """It is not made: the text says to create it."""
    with pytest.raises(StoreUnavailable, match="create the folder"):
        write_snapshot(tmp_path / "no" / "sessions", NEW, now=2.0)


def test_records_that_raise_change_nothing(tmp_path: Path) -> None:
    """The error of whoever makes the records is passed on."""
    path = prepare(tmp_path)

    def broken() -> Iterator[bytes]:
        yield b"x" * 400_000
        raise LookupError("of the caller")

    with pytest.raises(LookupError, match="of the caller"):
        write_snapshot(path, broken(), now=2.0)
    assert latest(path) == OLD
    assert temporaries(tmp_path) == []


def test_a_fault_while_loading_is_no_damage(tmp_path: Path) -> None:
    """A call that fails once says nothing of the file: nothing is renamed, and nothing older is taken for the latest."""
    for error in FAULTS:
        for disk in disks(error, least=3):
            path = prepare(tmp_path)
            with suppress(StoreUnavailable):
                found, problems = load_latest(path, fs=disk)
                assert found == Snapshot(OLD, 1.0)
                assert problems == []
            disk.bury()
            assert sorted(os.listdir(tmp_path)) == ["sessions", "sessions.previous"]


def test_every_flipped_bit_and_every_cut_is_noticed(tmp_path: Path) -> None:
    """S7: in a small file, every one."""
    check_damage(tmp_path)


def test_a_damaged_snapshot_is_reported_and_kept(tmp_path: Path) -> None:
    """The previous one is loaded; what was damaged is kept under a name that the report tells, and never overwritten."""
    for n in (1, 2, 3):
        path = tmp_path / "sessions"
        put(path, OLD)
        put(tmp_path / "sessions.previous", OLDER)
        path.write_bytes(b"damaged %d" % n)
        found, (problem,) = load_latest(path)
        assert found == Snapshot(OLDER, 1.0)
        kept = tmp_path / f"sessions.damaged-{n}"
        assert str(kept) in str(problem)
        assert kept.read_bytes() == b"damaged %d" % n
        assert not path.exists()
    assert (tmp_path / "sessions.damaged-1").read_bytes() == b"damaged 1"


def test_two_damaged_snapshots_are_both_reported(tmp_path: Path) -> None:
    """The one that was to be loaded, and the previous one."""
    path = tmp_path / "sessions"
    path.write_bytes(b"one")
    path.with_name("sessions.previous").write_bytes(b"two")
    found, problems = load_latest(path)
    assert found is None
    assert [problem.path for problem in problems] == [str(path), f"{path}.previous"]
    assert sorted(os.listdir(tmp_path)) == ["sessions.damaged-1", "sessions.damaged-2"]


@pytest.mark.parametrize("error", [*FAULTS, None])
def test_a_damaged_snapshot_never_takes_the_place_of_a_good_one(tmp_path: Path, error: int | None) -> None:
    """Saving over a damaged file, with a fault or a kill at every call: the previous one stays until the new one is there."""
    for disk in disks(error):
        path = prepare(tmp_path)
        path.write_bytes(b"damaged")
        with suppress(StoreUnavailable, Killed):
            write_snapshot(path, NEW, now=2.0, fs=disk)
        disk.bury()
        found, _ = load_latest(path)
        assert found in (Snapshot(OLDER, 1.0), Snapshot(NEW, 2.0))
        assert b"damaged" in [file.read_bytes() for file in tmp_path.iterdir()]


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    """X7: neither to read through it, nor to write through it."""
    path = tmp_path / "sessions"
    put(tmp_path / "target", OLD)
    path.symlink_to("target")
    with pytest.raises(SnapshotDamaged, match="symbolic link"):
        read_snapshot(path)
    write_snapshot(path, NEW, now=2.0)
    assert latest(path) == NEW
    assert latest(tmp_path / "target") == OLD
    assert (tmp_path / "sessions.damaged-1").is_symlink()


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_may_write_is_refused(tmp_path: Path, mode: int) -> None:
    """Whoever can write to it could plant sessions."""
    path = tmp_path / "sessions"
    put(path, OLD)
    path.chmod(mode)
    with pytest.raises(SnapshotDamaged, match=f"mode {mode:04o}"):
        read_snapshot(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_another_user_is_refused(tmp_path: Path) -> None:
    """Whose it is could have planted sessions in it."""
    path = tmp_path / "sessions"
    put(path, OLD)
    os.chown(path, 12345, -1)
    with pytest.raises(SnapshotDamaged, match="belongs to user 12345"):
        read_snapshot(path)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_refused_and_left_alone(tmp_path: Path, make: Callable[[Path], None]) -> None:
    """A pipe is not waited for, and a folder is not renamed."""
    path = tmp_path / "sessions"
    make(path)
    found, (problem,) = load_latest(path)
    assert found is None
    assert "not a plain file" in problem.why
    with pytest.raises(StoreUnavailable, match="choose another path"):
        write_snapshot(path, NEW, now=2.0)
    assert os.listdir(tmp_path) == ["sessions"]


def test_a_writer_leaves_the_temporary_file_of_another_alone(tmp_path: Path) -> None:
    """One saves while the other is in the middle of saving; both succeed, and the last to finish is what is loaded."""
    path = tmp_path / "sessions"

    def records() -> Iterator[bytes]:
        yield b"x" * 400_000
        write_snapshot(path, NEW, now=1.0)
        assert latest(path) == NEW
        yield b"last"

    write_snapshot(path, records(), now=2.0)
    assert latest(path) == [b"x" * 400_000, b"last"]
    assert sorted(os.listdir(tmp_path)) == ["sessions", "sessions.previous"]


def test_many_writers_and_a_reader(tmp_path: Path) -> None:
    """Whatever the reader finds is one writer's, whole."""
    path = tmp_path / "sessions"
    put(path, [b"0"] * 50)
    problems: list[BaseException] = []

    def write(own: bytes) -> None:
        try:
            for _ in range(15):
                write_snapshot(path, [own] * 50, now=1.0, fs=Disk())
        except BaseException as problem:
            problems.append(problem)

    threads = [threading.Thread(target=write, args=(b"%d" % n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        found = latest(path)
        assert found is not None
        assert found == found[:1] * 50
    assert problems == []
    assert temporaries(tmp_path) == []


def settle_nothing(new: Replacement) -> None:
    new.digest()


def test_a_writer_without_the_loop_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Short writes: reading back refuses the torn file; and without that, the check sees it."""
    monkeypatch.setattr(files, "write_all", write_once)
    with pytest.raises(StoreUnavailable, match="read back"):
        write_snapshot(tmp_path / "sessions", NEW, now=1.0, fs=Disk(short=7))
    monkeypatch.undo()
    path = prepare(tmp_path)
    monkeypatch.setattr(files, "write_all", write_once)
    monkeypatch.setattr(Replacement, "settle", settle_nothing)
    write_snapshot(path, NEW, now=2.0, fs=Disk(short=7))
    with pytest.raises(AssertionError):
        assert latest(path) == NEW


def test_a_writer_without_fsync_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check of a loss of power fails for one that never waits for the disk."""
    monkeypatch.setattr(Replacement, "settle", settle_nothing)
    with pytest.raises(AssertionError):
        check_saves(tmp_path, None, power=True)


def test_a_reader_without_checksums_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check of damage fails for one that takes every checksum for right."""

    class Indifferent:
        def update(self, data: bytes) -> None: ...
        def digest(self) -> bytes:
            return bytes(32)

    def no_crc(data: bytes, value: int = 0) -> int:
        return 0

    for module in (files, snapshot):
        monkeypatch.setattr(module, "sha256", Indifferent)
    monkeypatch.setattr(snapshot, "crc32", no_crc)
    with pytest.raises(AssertionError):
        check_damage(tmp_path)


def test_names_are_on_the_disk_before_a_save_is_promised(tmp_path: Path) -> None:
    """The file's bytes are synced before it takes the name, and the folder after that: a rename may be lost with the power (S5)."""
    path = prepare(tmp_path)
    disk = Disk()
    write_snapshot(path, NEW, now=2.0, fs=disk)
    last = len(disk.calls) - disk.calls[::-1].index("replace")
    assert "fsync" in disk.calls[: disk.calls.index("replace")]
    assert "fsync folder" in disk.calls[last:]
