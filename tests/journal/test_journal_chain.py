"""Several archived rotations of one log: undone one after the other, and tried beforehand."""

import gzip
from pathlib import Path

import pytest

from chassis.clock import VirtualClock
from chassis.errors import Drifted
from chassis.journal import Journal, consent_within

NEWEST_FIRST = ("t3", "t2", "t1")


@pytest.fixture
def rotated(tmp_path: Path) -> tuple[Journal, Path]:
    """A log whose three rotations were each archived and their plain segments removed."""
    data = tmp_path / "data"
    data.mkdir()
    log = data / "app.log"
    journal = Journal(tmp_path / "journal", VirtualClock(), consent_within([data]))
    log.write_bytes(b"")
    for task in reversed(NEWEST_FIRST):
        with log.open("ab") as appended:
            appended.write(f"before {task}\n".encode())
        segment, archive = data / f"app.log.{task}", data / f"app.log.{task}.gz"
        with journal.session(task, 1, lambda: None) as effects:
            effects.rotate(log, segment)
            made = tmp_path / "made"
            made.write_bytes(gzip.compress(segment.read_bytes(), mtime=0))
            effects.create(archive, made)
            effects.remove(segment, inverse={"kind": "decompress", "codec": "gzip", "source": str(archive)})
            effects.finish({})
    with log.open("ab") as appended:
        appended.write(b"after all\n")
    return journal, log


def test_all_are_undone_newest_first_and_every_line_is_back_in_order(rotated: tuple[Journal, Path]) -> None:
    journal, log = rotated
    for task in NEWEST_FIRST:
        journal.undo(task)
    assert log.read_bytes() == b"before t1\nbefore t2\nbefore t3\nafter all\n"
    assert [path.name for path in log.parent.iterdir()] == ["app.log"]


def test_an_earlier_one_alone_is_refused_and_a_stranger_in_its_place_too(rotated: tuple[Journal, Path]) -> None:
    journal, log = rotated
    with pytest.raises(Drifted, match="undo that first"):
        journal.undo("t2")
    journal.undo("t3")
    other = log.with_name("other")
    other.write_bytes(log.read_bytes())
    other.replace(log)
    with pytest.raises(Drifted, match="rotated or replaced since"):
        journal.undo("t2")


def test_a_dry_run_takes_the_later_ones_for_undone_and_touches_nothing(rotated: tuple[Journal, Path]) -> None:
    journal, log = rotated
    before = {path.name: path.read_bytes() for path in log.parent.iterdir()}
    report = journal.undo("t1", dry_run=True, after=["t3", "t2"])
    assert len(report.steps) == 3
    with pytest.raises(Drifted):
        journal.undo("t1", dry_run=True, after=["t3"])
    assert {path.name: path.read_bytes() for path in log.parent.iterdir()} == before
