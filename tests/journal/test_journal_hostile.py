"""What the world may put in the journal's way: handled, or refused before anything is done."""

import errno
import os
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from chassis.clock import VirtualClock
from chassis.errors import Drifted, Refused, ResourceExhausted
from chassis.journal import Journal, Session, consent_within
from chassis.journal.survey import Bounds

HUGE = 10 * 2**30
"""The apparent size; what is written of it is a page or two."""


class Yard:
    def __init__(self, root: Path) -> None:
        self.root, self.data, self.steps = root, root / "data", dict[str, Callable[[], object]]()
        self.data.mkdir()
        self.made = root / "made"
        self.made.write_bytes(b"new")
        self.journal = Journal(root / "journal", VirtualClock(), consent_within([self.data]), self._at)

    def _at(self, step: str) -> None:
        self.steps.pop(step, lambda: None)()

    def file(self, name: str, data: bytes = b"old") -> Path:
        path = self.data / name
        path.write_bytes(data)
        os.utime(path, ns=(10**18, 10**18))
        return path

    def do(self, what: Callable[[Session], None], task: str = "t1") -> None:
        with self.journal.session(task, 1, lambda: None) as effects:
            what(effects)
            effects.finish({})


@pytest.fixture
def yard(tmp_path: Path) -> Yard:
    return Yard(tmp_path)


def sparse(path: Path, size: int, at: int) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
        file.seek(at)
        file.write(b"the only bytes")
    return path


def stored(*folders: Path) -> int:
    return sum(path.lstat().st_blocks * 512 for folder in folders for path in folder.rglob("*") if path.is_file())


def test_a_sparse_file_is_kept_and_given_back_with_its_holes(yard: Yard) -> None:
    path = sparse(yard.data / "disk.img", HUGE, 5 * 2**30)
    before = path.stat()
    with yard.journal.watch("t1", 1, [yard.data]):
        path.unlink()
        assert stored(yard.root) < 2**20
        path.write_bytes(b"small now")
    kept = next(each for each in (yard.root / "journal" / "t1" / "pre").iterdir() if each.stat().st_size == HUGE)
    assert kept.stat().st_blocks * 512 < 2**20
    with kept.open("rb") as file:
        file.seek(5 * 2**30)
        assert file.read(14) == b"the only bytes"
    assert before.st_size == HUGE


def test_a_sparse_file_changed_by_a_program_comes_back_sparse(yard: Yard) -> None:
    path = sparse(yard.data / "disk.img", 64 * 2**20, 32 * 2**20)
    with yard.journal.watch("t1", 1, [yard.data]) as watch:
        with path.open("r+b") as file:
            file.write(b"x")
        watch.settle()
        watch.finish({})
    yard.journal.undo("t1")
    assert path.stat().st_blocks * 512 < 2**20
    assert path.stat().st_size == 64 * 2**20
    with path.open("rb") as file:
        assert file.read(1) == b"\0"
        file.seek(32 * 2**20)
        assert file.read(14) == b"the only bytes"


EFFECTS: dict[str, Callable[[Session, Yard], None]] = {
    "create": lambda effects, yard: effects.create(yard.data / "b", yard.made),
    "replace": lambda effects, yard: effects.replace(yard.data / "a", yard.made),
    "remove": lambda effects, yard: effects.remove(yard.data / "a"),
    "rotate": lambda effects, yard: effects.rotate(yard.data / "a", yard.data / "a.1"),
}


@pytest.mark.parametrize("room", range(5))
@pytest.mark.parametrize("effect", EFFECTS)
def test_a_disk_that_fills_up_at_any_write_changes_nothing_or_all_and_that_is_undone(
    yard: Yard, monkeypatch: pytest.MonkeyPatch, effect: str, room: int
) -> None:
    path, left, write = yard.file("a"), room, os.write

    def full(fd: int, data: bytes) -> int:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(fd, data)

    with monkeypatch.context() as disk:
        disk.setattr(os, "write", full)
        try:
            yard.do(lambda effects: EFFECTS[effect](effects, yard))
        except OSError as error:
            assert error.errno == errno.ENOSPC
    yard.journal.recover()
    if yard.journal.can_undo("t1")[0]:
        yard.journal.undo("t1")
    assert {each.name: each.read_bytes() for each in yard.data.iterdir()} == {"a": b"old"}
    assert (path.stat().st_mtime_ns, path.stat().st_nlink) == (10**18, 1)


def test_no_room_for_what_a_program_may_change_is_said_before_it_starts(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    yard.file("a", b"x" * 100_000)
    usage = shutil.disk_usage(yard.root)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=1000))
    with pytest.raises(ResourceExhausted, match="make room"), yard.journal.watch("t1", 1, [yard.data]):
        raise AssertionError("must not start")


@pytest.mark.parametrize("effect", ["replace", "remove", "rotate"])
def test_a_file_that_vanished_is_refused(yard: Yard, effect: str) -> None:
    with pytest.raises(Drifted, match="is not there; nothing was changed"):
        yard.do(lambda effects: EFFECTS[effect](effects, yard))
    assert list(yard.data.iterdir()) == []


def test_a_file_that_vanishes_between_reading_and_removing_is_nobodys_change(yard: Yard) -> None:
    path = yard.file("a")
    yard.steps["remove.intended"] = path.unlink
    with pytest.raises(FileNotFoundError):
        yard.do(lambda effects: effects.remove(path))
    assert list(yard.data.iterdir()) == []
    assert not yard.journal.can_undo("t1")[0]


@pytest.mark.parametrize("effect", ["replace", "remove"])
def test_a_file_that_changes_while_it_is_journaled_keeps_its_change(yard: Yard, effect: str) -> None:
    path = yard.file("a")
    yard.steps[f"{effect}.intended"] = lambda: path.write_bytes(b"by somebody else")
    with pytest.raises(Drifted, match="written to meanwhile"):
        yard.do(lambda effects: EFFECTS[effect](effects, yard))
    assert path.read_bytes() == b"by somebody else"
    assert not yard.journal.can_undo("t1")[0]


def test_the_other_name_of_a_file_keeps_its_content_and_both_are_one_again_after_the_undo(yard: Yard) -> None:
    path, other = yard.file("a"), yard.data / "other"
    other.hardlink_to(path)
    yard.do(lambda effects: effects.replace(path, yard.made))
    assert other.read_bytes() == b"old"
    yard.journal.undo("t1")
    assert path.samefile(other)
    with yard.journal.watch("t2", 1, [yard.data]) as watch:
        path.unlink()
        watch.settle()
        watch.finish({})
    yard.journal.undo("t2")
    assert path.samefile(other)


def test_a_kept_content_that_was_written_to_through_another_name_is_not_put_back(yard: Yard) -> None:
    path, other = yard.file("a"), yard.data / "other"
    other.hardlink_to(path)
    yard.do(lambda effects: effects.replace(path, yard.made))
    other.write_bytes(b"since then")
    with pytest.raises(Drifted, match="was written to since"):
        yard.journal.undo("t1")
    assert (path.read_bytes(), other.read_bytes()) == (b"new", b"since then")


@pytest.mark.parametrize("name", ["new\nline", "-rf", " ", "quote'\"$(x)", "ü" * 100, "tab\t", "*"])
def test_any_name_that_is_text_is_journaled_and_undone(yard: Yard, name: str) -> None:
    path = yard.file(name)
    yard.do(lambda effects: effects.rotate(path, path.with_name(name + ".1")))
    yard.do(lambda effects: effects.replace(path, yard.made), "t2")
    yard.journal.undo("t2")
    yard.journal.undo("t1")
    assert {each.name: each.read_bytes() for each in yard.data.iterdir()} == {name: b"old"}


def test_a_name_that_is_no_text_is_refused(yard: Yard) -> None:
    path = Path(os.fsdecode(os.fsencode(yard.data) + b"/\xff"))
    path.write_bytes(b"old")
    with pytest.raises(Refused, match="not UTF-8"):
        yard.do(lambda effects: effects.remove(path))
    assert path.read_bytes() == b"old"


def test_many_small_files_are_refused_beyond_the_bound_and_undone_below_it(yard: Yard) -> None:
    for number in range(300):
        (yard.data / f"f{number}").write_bytes(b"%d" % number)
    with (
        pytest.raises(ResourceExhausted, match="at most 100"),
        yard.journal.watch("t1", 1, [yard.data], Bounds(files=100)),
    ):
        raise AssertionError("must not start")
    with yard.journal.watch("t2", 1, [yard.data]) as watch:
        for number in range(300):
            (yard.data / f"f{number}").write_bytes(b"changed")
        watch.settle()
        watch.finish({})
    yard.journal.undo("t2")
    assert all((yard.data / f"f{number}").read_bytes() == b"%d" % number for number in range(300))


def test_attributes_and_access_lists_come_back(yard: Yard) -> None:
    path = yard.file("a")
    try:
        os.setxattr(path, "user.calyx", b"mine")
    except OSError:
        pytest.skip("this file system has no extended attributes")
    yard.do(lambda effects: effects.replace(path, yard.made))
    assert os.getxattr(path, "user.calyx") == b"mine"
    with yard.journal.watch("t2", 1, [yard.data]) as watch:
        os.setxattr(path, "user.calyx", b"theirs")
        watch.settle()
        watch.finish({})
    yard.journal.undo("t2")
    assert os.getxattr(path, "user.calyx") == b"mine"


def test_a_file_moved_over_another_while_its_second_name_is_written_to_leaves_neither_mixed_up(yard: Yard) -> None:
    one, twin, other = yard.file("one"), yard.data / "twin", yard.file("other", b"other")
    twin.hardlink_to(one)
    with yard.journal.watch("t1", 1, [yard.data]) as watch:
        one.replace(other)
        twin.write_bytes(b"now in both")
        watch.settle()
        watch.finish({})
    yard.journal.undo("t1")
    assert (one.read_bytes(), twin.read_bytes(), other.read_bytes()) == (b"old", b"old", b"other")
    assert one.samefile(twin)
    assert not one.samefile(other)


def test_lines_appended_after_a_file_was_replaced_and_rotated_refuse_the_whole_undo_not_half_of_it(yard: Yard) -> None:
    path = yard.file("a")

    def both(effects: Session) -> None:
        effects.replace(path, yard.made)
        effects.rotate(path, yard.data / "a.1")

    yard.do(both)
    with path.open("ab") as log:
        log.write(b"since then")
    with pytest.raises(Drifted, match="nothing was touched"):
        yard.journal.undo("t1")
    assert {each.name: each.read_bytes() for each in yard.data.iterdir()} == {"a": b"since then", "a.1": b"new"}


def test_a_mode_that_a_person_gave_since_refuses_the_undo(yard: Yard) -> None:
    path = yard.file("a")
    yard.do(lambda effects: effects.replace(path, yard.made))
    path.chmod(0o600)
    with pytest.raises(Drifted, match="another mode or owner"):
        yard.journal.undo("t1")
    assert path.read_bytes() == b"new"


def test_the_journal_says_how_much_it_keeps_and_since_when(yard: Yard) -> None:
    assert yard.journal.kept() == ()
    yard.do(lambda effects: effects.remove(yard.file("a", b"x" * 5000)))
    (used,) = yard.journal.kept()
    assert (used.task_id, used.kept_bytes, used.undoable) == ("t1", 5000, True)
    yard.journal.prune(0, timedelta(days=1))
    assert yard.journal.kept() == ()
    assert "dropped" in yard.journal.can_undo("t1")[1]
