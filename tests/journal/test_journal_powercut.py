"""The power goes under a journal: each task is whole, undone or undoable to the byte. See `bench/journal_cuts.py`."""

import ctypes
import json
import os
import subprocess
from pathlib import Path

import pytest

from bench.journal_cuts import journal_cuts
from bench.powercut import disk, snapshot, why_not
from chassis.clock import VirtualClock
from chassis.journal import Journal, consent_within, watched
from chassis.journal import journal as journal_module
from chassis.journal.boot import written_out
from chassis.journal.effects import _make_empty
from chassis.journal.heirs import remember, spoken_of

SMALL = 64 << 20
"""Of a disk that is copied a few times only."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    if reason := why_not(tmp_path):
        pytest.skip(reason)
    return tmp_path / "run"


def test_after_a_power_cut_every_promised_task_is_there_and_all_can_be_undone_to_the_byte(folder: Path) -> None:
    cuts = journal_cuts(folder, cuts=3, seed=20261123, size=SMALL)
    assert [cut.faults for cut in cuts] == [[], [], []]
    assert cuts[-1].counts["promised"] > 0
    assert sum(cut.counts["undone"] for cut in cuts) > 0


def test_on_two_disks_neither_runs_ahead_of_the_other(folder: Path) -> None:
    cuts = journal_cuts(folder, cuts=2, seed=20261123, apart=True, size=SMALL)
    assert [cut.faults for cut in cuts] == [[], []]


@pytest.mark.parametrize(("bug", "apart"), [("file", False), ("pre", False), ("folder", True)])
def test_a_left_out_sync_is_noticed(folder: Path, bug: str, apart: bool) -> None:
    assert journal_cuts(folder, cuts=12, seed=1, apart=apart, bug=bug, size=SMALL)[-1].faults


def test_bytes_that_a_power_cut_left_without_their_times_are_taken_back(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program overwrote a file in place. The bytes reached the disk, the record that it was written to did not."""
    folder.mkdir()
    with disk(folder / "disk", size=SMALL) as point:
        target = point / "data" / "a"
        target.parent.mkdir()
        target.write_bytes(b"before")
        os.utime(target, ns=(10**18, 10**18))
        child = os.fork()
        if child == 0:
            journal = Journal(point / "journal", VirtualClock(), consent_within([target.parent]))
            with journal.watch("t1", 1, [target.parent]):
                with target.open("r+b") as file:
                    file.write(b"AFTER!")
                written_out(target, in_order=True)
                os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        copy = folder / "copy.img"
        snapshot({point.with_suffix(".img"): copy})
        subprocess.run(["mount", "-o", "loop", str(copy), str(point)], check=True)
        try:
            assert (target.read_bytes(), target.stat().st_mtime_ns) == (b"AFTER!", 10**18), "the cut was not as planned"
            for module in (watched, journal_module):
                monkeypatch.setattr(module, "boot_id", lambda: "another")
            journal = Journal(point / "journal", VirtualClock(), consent_within([target.parent]))
            assert journal.recover() == ["t1: its program was cut short; 2 changes are listed and can be undone"]
            journal.undo("t1")
            assert (target.read_bytes(), target.stat().st_mtime_ns) == (b"before", 10**18)
        finally:
            subprocess.run(["umount", "--lazy", str(point)], check=True)


# What a power cut leaves, put there by hand


class Cut(BaseException):
    """The power goes."""


@pytest.mark.parametrize(
    ("torn", "new"),
    [
        (b"and m\0\0\0\0", b"and more\n"),
        (b"\0" * 9, b"and more\n"),
        (b"and more\n", b""),
        (b"and more\n", b"and"),
        (b"\0" * 9, b""),
        (b"an", b"and more\n"),
    ],
    ids=["partly zeros", "zeros", "its source is empty", "its source is shorter", "both gone", "its beginning"],
)
def test_a_rotation_whose_undo_lost_its_last_bytes_in_a_power_cut_is_put_back_without_garbage(
    tmp_path: Path, torn: bytes, new: bytes
) -> None:
    data, log = tmp_path / "data", tmp_path / "data" / "app.log"
    data.mkdir()
    log.write_bytes(b"line\n")

    def cut(step: str) -> None:
        if step == "join.appended":
            raise Cut

    def journal() -> Journal:
        return Journal(tmp_path / "journal", VirtualClock(), consent_within([data]), cut)

    with journal().session("t1", 1, lambda: None) as effects:
        effects.rotate(log, data / "app.log.1")
        effects.finish({})
    log.write_bytes(b"and more\n")
    with pytest.raises(Cut):
        journal().undo("t1")
    assert (data / "app.log.1").read_bytes() == b"line\nand more\n"
    (data / "app.log.1").write_bytes(b"line\n" + torn)
    log.write_bytes(new)
    plain = Journal(tmp_path / "journal", VirtualClock(), consent_within([data]))
    assert plain.recover() == ["t1: the undo that was under way is finished"]
    whole = b"and more\n"
    assert log.read_bytes() == b"line\n" + (b"" if torn.strip(b"\0") == b"" and not new else whole)
    assert [path.name for path in data.iterdir()] == ["app.log"]


def test_a_torn_record_is_believed_in_no_part_and_stops_no_other_task(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()

    def journal() -> Journal:
        return Journal(tmp_path / "journal", VirtualClock(), consent_within([data]))

    for task in ("t1", "t2"):
        (tmp_path / "new").write_bytes(b"new")
        with journal().session(task, 1, lambda: None) as effects:
            effects.create(data / task, tmp_path / "new")
            effects.finish({})
    records = tmp_path / "journal" / "t1" / "records.jsonl"
    lines = records.read_bytes().splitlines(keepends=True)
    lines[1] = b"\0" * (len(lines[1]) - 1) + b"\n"
    records.write_bytes(b"".join(lines))
    (tmp_path / "journal" / ".boot").write_text(json.dumps("another boot"))
    (said,) = journal().recover()
    assert said == f"t1: can't be settled now: record 2 of task t1 can't be read; see {records}"
    assert [each.task_id for each in journal().kept()] == ["t2"] and journal().dropped() == ()
    assert journal().undo("t2").done and (data / "t1").exists()


def test_a_number_that_led_to_another_file_is_not_that_of_a_new_one(tmp_path: Path) -> None:
    """XFS gives numbers out again at once; which ones cannot be foreseen, so the first three are taken."""
    (tmp_path / ".locks").mkdir()
    remember(tmp_path, tmp_path / "log", 7, 8)
    assert spoken_of(tmp_path, tmp_path / "log") == {7, 8}
    asked: list[int] = []

    class FirstThree(set[int]):
        def __contains__(self, number: object) -> bool:
            asked.append(int(str(number)))
            return len(asked) <= 3

    _make_empty(tmp_path / "new", FirstThree())
    assert len(set(asked)) == 4 and (tmp_path / "new").stat().st_ino == asked[-1]


def test_where_a_part_of_a_file_can_be_sent_to_the_disk_alone_that_is_done(tmp_path: Path) -> None:
    """Else it is synced whole, which costs more and promises the same."""
    path = tmp_path / "a"
    path.write_bytes(b"a")
    for in_order in (True, False):
        written_out(path, in_order=in_order)
    assert hasattr(ctypes.CDLL(None), "sync_file_range")
