"""An undo is a change like any other: what it took away comes back, where nobody went over it meanwhile."""

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from chassis.clock import VirtualClock
from chassis.errors import Drifted
from chassis.journal import Journal, Session, boot, consent_within
from chassis.journal import journal as journals


class Crash(BaseException):
    """The process is gone at this point."""


class Yard:
    def __init__(self, root: Path) -> None:
        self.root, self.data, self.crash_at = root, root / "data", ""
        self.data.mkdir()
        self.clock = VirtualClock()
        self.journal = self.boot()

    def boot(self) -> Journal:
        return Journal(self.root / "journal", self.clock, consent_within([self.data]), self._at)

    def _at(self, step: str) -> None:
        if step == self.crash_at:
            raise Crash

    def made(self, data: bytes) -> Path:
        path = self.root / "made"
        path.write_bytes(data)
        return path

    def do(self, what: Callable[[Session], None], task: str = "t1") -> None:
        with self.journal.session(task, 1, lambda: None) as effects:
            what(effects)
            effects.finish({})

    def tree(self) -> dict[str, tuple[bytes, int, int]]:
        return {
            str(path.relative_to(self.data)): (path.read_bytes(), path.stat().st_mode, path.stat().st_mtime_ns)
            for path in sorted(self.data.rglob("*"))
            if path.is_file()
        }


@pytest.fixture
def yard(tmp_path: Path) -> Yard:
    made = Yard(tmp_path)
    for name in ("a", "b"):
        (made.data / name).write_bytes(name.encode())
        os.utime(made.data / name, ns=(10**18, 10**18))
    return made


def everything(yard: Yard) -> Callable[[Session], None]:
    def what(effects: Session) -> None:
        effects.replace(yard.data / "a", yard.made(b"new"))
        effects.remove(yard.data / "b")
        effects.create(yard.data / "deep" / "er" / "c", yard.made(b"c"), mode=0o640)

    return what


def test_undoing_an_undo_gives_back_what_the_task_had_made_and_that_is_undone_in_its_turn(yard: Yard) -> None:
    before = yard.tree()
    yard.do(everything(yard))
    after = yard.tree()
    assert yard.journal.undo("t1", by="u1").redoable
    assert yard.tree() == before
    assert not yard.journal.undo("u1", dry_run=True).done
    assert yard.tree() == before
    assert yard.journal.undo("u1", by="u2").redoable
    assert yard.tree() == after
    yard.journal.undo("u2")
    assert yard.tree() == before


def test_an_undo_is_not_undone_over_what_somebody_did_since(yard: Yard) -> None:
    yard.do(everything(yard))
    yard.journal.undo("t1", by="u1")
    (yard.data / "a").write_bytes(b"by a person")
    with pytest.raises(Drifted, match="nothing was touched"):
        yard.journal.undo("u1")
    assert (yard.data / "a").read_bytes() == b"by a person"
    assert (yard.data / "b").exists()


def test_an_undo_goes_on_where_it_can_not_be_undone_and_says_so(yard: Yard) -> None:
    before = yard.tree()
    yard.do(lambda effects: effects.replace(yard.data / "a", yard.made(b"new")))
    (yard.root / "other").hardlink_to(yard.data / "a")
    report = yard.journal.undo("t1", by="u1")
    assert (report.done, report.redoable) == (True, False)
    assert "can't be undone" in report.detail and "another name" in report.detail
    assert yard.tree() == before
    assert not yard.journal.can_undo("u1")[0]


@pytest.mark.parametrize("step", ["undo.kept", "undo.acted", "undo.recorded", "undo.settled"])
def test_an_undo_cut_short_can_be_undone_once_it_is_finished(yard: Yard, step: str) -> None:
    before = yard.tree()
    yard.do(everything(yard))
    after, yard.crash_at = yard.tree(), step
    with pytest.raises(Crash):
        yard.journal.undo("t1", by="u1")
    yard.crash_at = ""
    yard.journal = yard.boot()
    yard.journal.recover()
    if yard.journal.can_undo("t1")[0]:
        yard.journal.undo("t1", by="u1")
    assert yard.tree() == before
    yard.journal.undo("u1")
    assert yard.tree() == after


def test_a_mark_lost_in_a_power_cut_is_made_again_under_the_next_boot(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    yard.crash_at = "placed"
    with pytest.raises(Crash):
        yard.do(lambda effects: effects.replace(yard.data / "a", yard.made(b"new")))
    yard.crash_at = ""
    (yard.root / "journal" / ".open" / "t1").unlink()  # it was never on the disk
    assert yard.boot().recover() == [], "no process of this boot takes a mark away"
    monkeypatch.setattr(journals, "boot_id", lambda: "another")
    assert len(yard.boot().recover()) == 1
    assert yard.boot().undo("t1").done
    assert (yard.data / "a").read_bytes() == b"a"


def test_where_nobody_gives_a_boot_id_every_start_reads_the_records(
    yard: Yard, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert boot.boot_id(tmp_path / "absent") == ""
    monkeypatch.setattr(journals, "boot_id", lambda: "")
    yard.crash_at = "placed"
    with pytest.raises(Crash):
        yard.do(lambda effects: effects.remove(yard.data / "a"))
    yard.crash_at = ""
    yard.boot()
    (yard.root / "journal" / ".open" / "t1").unlink()
    assert len(yard.boot().recover()) == 1


@pytest.mark.parametrize(("kind", "kept"), [("ext4", True), ("xfs", True), ("btrfs", False), ("fuse.x", False)])
def test_an_order_of_names_is_relied_on_only_where_the_file_system_keeps_one(
    tmp_path: Path, kind: str, kept: bool
) -> None:
    device = tmp_path.stat().st_dev
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"1 0 {os.major(device)}:{os.minor(device)} / / rw - {kind} /dev/x rw\n")
    assert boot.keeps_order(tmp_path, mounts) is kept
    assert boot.keeps_order(tmp_path, tmp_path / "absent") is False


def test_what_would_be_dropped_is_said_first_and_what_was_dropped_with_when_and_why(yard: Yard) -> None:
    yard.do(lambda effects: effects.remove(yard.data / "a"))
    yard.clock.advance(3600)
    yard.do(lambda effects: effects.remove(yard.data / "b"), "t2")
    assert yard.journal.prune(0, timedelta(days=1), dry_run=True) == ["t1", "t2"]
    assert [(each.task_id, each.undoable) for each in yard.journal.kept()] == [("t1", True), ("t2", True)]
    assert yard.journal.prune(10**9, timedelta(minutes=30)) == ["t1"]
    ((task_id, reason),) = yard.journal.dropped()
    assert task_id == "t1" and "dropped on" in reason and "(age)" in reason
    assert [each.task_id for each in yard.journal.kept()] == ["t2"]
    assert "dropped on" in yard.journal.can_undo("t1")[1]


def test_a_rotation_is_undone_after_a_later_undo_was_undone_and_undone_again(yard: Yard) -> None:
    log, before = yard.data / "a", yard.tree()
    yard.do(lambda effects: effects.rotate(log, yard.data / "a.1"))
    with yard.journal.watch("t2", 1, [yard.data]) as seen:
        log.write_bytes(b"in the same inode")
        seen.settle()
        seen.finish({})
    yard.journal.undo("t2", by="u1")
    yard.journal.undo("u1", by="u2")
    assert log.read_bytes() == b"in the same inode"
    yard.journal.undo("u2")
    yard.journal.undo("t1")
    assert yard.tree() == before
