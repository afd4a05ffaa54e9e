"""Undoing what a program did that knows nothing of the journal: whatever it did, all comes back, nothing else moves."""

import contextlib
import os
import random
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chassis.clock import VirtualClock
from chassis.errors import Drifted, Refused, ResourceExhausted, Unavailable
from chassis.journal import Journal, consent_within
from chassis.journal.survey import Bounds

OLD_NS = 10**18


def tree(folder: Path) -> dict[str, tuple[object, ...]]:
    """All that an undo has to give back: kind, content or target, mode, owner, time of change."""
    found: dict[str, tuple[object, ...]] = {}
    for path in [folder, *sorted(folder.rglob("*"))]:
        info = path.lstat()
        content: object = ""
        if stat.S_ISREG(info.st_mode):
            content = path.read_bytes()
        elif stat.S_ISLNK(info.st_mode):
            content = str(path.readlink())
        times = 0 if stat.S_ISLNK(info.st_mode) else info.st_mtime_ns
        found[str(path.relative_to(folder))] = (
            stat.S_IFMT(info.st_mode), stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid, times, content,
        )  # fmt: skip
    return found


class Yard:
    def __init__(self, root: Path) -> None:
        self.root, self.data = root, root / "data"
        self.data.mkdir()
        self.journal = self.boot()

    def boot(self, fault: object = None) -> Journal:
        """A journal as another process has it: its consent knows nothing of the watched folders."""
        more = {} if fault is None else {"fault": fault}
        return Journal(self.root / "journal", VirtualClock(), consent_within([self.root / "elsewhere"]), **more)  # type: ignore[arg-type]  # test's own

    def file(self, name: str, data: bytes = b"old", mode: int = 0o640) -> Path:
        path = self.data / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        path.chmod(mode)
        os.utime(path, ns=(OLD_NS, OLD_NS + len(data)))
        return path


@pytest.fixture
def yard(tmp_path: Path) -> Yard:
    return Yard(tmp_path)


ACTIONS = ("write", "append", "remove", "mkdir", "rmtree", "chmod", "link", "rename", "touch", "hard", "fifo", "lock")


def misbehave(data: Path, seed: int, actions: list[str]) -> None:
    """What a program might do below a folder, by chance."""
    chance = random.Random(seed)
    for n, action in enumerate(actions):
        with contextlib.suppress(PermissionError):  # it may have locked itself out, unless it is root
            one_more(data, chance, seed, n, action)


def one_more(data: Path, chance: random.Random, seed: int, n: int, action: str) -> None:
    entries = [path for path in sorted(data.rglob("*")) if path.parent == data or not path.parent.is_symlink()]
    files = [path for path in entries if path.is_file() and not path.is_symlink()]
    folders = [data, *(path for path in entries if path.is_dir() and not path.is_symlink())]
    into = chance.choice(folders)
    one = chance.choice(files) if files else None
    if action == "write":
        (into / f"new{n % 3}").is_dir() or (into / f"w{n % 3}").write_bytes(chance.randbytes(20))
    elif action == "append" and one:
        with one.open("ab") as file:
            file.write(b"more")
    elif action == "remove" and entries:
        victim = chance.choice(entries)
        shutil.rmtree(victim) if victim.is_dir() and not victim.is_symlink() else victim.unlink()
    elif action == "mkdir":
        (into / f"d{seed % 1000}-{n}").mkdir()
    elif action == "rmtree" and len(folders) > 1:
        shutil.rmtree(folders[-1])
    elif action == "chmod" and entries:
        (one or into).chmod(chance.choice((0o600, 0o755, 0o444)))
    elif action == "link":
        link = into / f"l{n % 2}"
        if not link.exists() or link.is_symlink():
            link.unlink(missing_ok=True)
            link.symlink_to(chance.choice(("nowhere", str(data), "..")))
    elif action == "rename" and one:
        one.rename(into / f"r{seed % 1000}-{n}")
    elif action == "touch" and one:
        os.utime(one, ns=(1, n))
    elif action == "hard" and one:
        (into / f"h{seed % 1000}-{n}").hardlink_to(one)
    elif action == "fifo":
        os.mkfifo(into / f"f{seed % 1000}-{n}")
    elif action == "lock" and into != data:
        into.chmod(0o500)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32),
    st.lists(st.sampled_from(ACTIONS), max_size=12),
    st.lists(st.sampled_from(ACTIONS), min_size=1, max_size=12),
)
def test_whatever_a_program_did_below_its_folders_is_undone_to_the_byte(
    seed: int, first: list[str], then: list[str]
) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        yard = Yard(Path(folder))
        for name in ("a", "b/c", "b/d/e", "g/h"):
            yard.file(name, name.encode())
        misbehave(yard.data, seed, [each for each in first if each != "fifo"])
        before = tree(yard.data)
        with yard.journal.watch("t1", 1, [yard.data]) as watch:
            misbehave(yard.data, seed + 1, then)
            watch.settle()
            watch.finish({"status": "done"})
        after = tree(yard.data)
        if yard.boot().can_undo("t1")[0]:
            assert yard.boot().undo("t1", dry_run=True).steps
            assert tree(yard.data) == after
            yard.boot().undo("t1")
        assert tree(yard.data) == before


def test_a_folder_replaced_by_a_link_to_another_comes_back_and_the_other_is_not_touched(yard: Yard) -> None:
    yard.file("d/x", b"mine")
    other = yard.root / "other"
    other.mkdir()
    (other / "x").write_bytes(b"theirs")
    before = tree(yard.data)
    with yard.journal.watch("t1", 1, [yard.data]) as watch:
        shutil.rmtree(yard.data / "d")
        (yard.data / "d").symlink_to(other)
        watch.settle()
        watch.finish({})
    yard.boot().undo("t1")
    assert tree(yard.data) == before
    assert (other / "x").read_bytes() == b"theirs"


def test_a_file_with_another_name_outside_gets_its_content_back_under_both(yard: Yard) -> None:
    inside = yard.file("shared", b"as it was")
    outside = yard.root / "outside"
    outside.hardlink_to(inside)
    with yard.journal.watch("t1", 1, [yard.data]) as watch:
        inside.write_bytes(b"changed in place")
        watch.settle()
        watch.finish({})
    yard.boot().undo("t1")
    assert inside.read_bytes() == outside.read_bytes() == b"as it was"
    assert inside.samefile(outside)


def test_the_kept_copy_is_never_another_name_of_the_file(yard: Yard) -> None:
    file = yard.file("a")
    with yard.journal.watch("t1", 1, [yard.data]):
        kept = yard.root / "journal" / "t1" / "pre" / "2"
        assert kept.read_bytes() == b"old"
        assert file.stat().st_nlink == kept.stat().st_nlink == 1


@pytest.mark.parametrize("meddle", ["write", "remove", "occupy"])
def test_drift_refuses_the_whole_undo_and_touches_nothing(yard: Yard, meddle: str) -> None:
    yard.file("kept")
    yard.file("gone")
    with yard.journal.watch("t1", 1, [yard.data]) as watch:
        (yard.data / "made").write_bytes(b"by the program")
        (yard.data / "kept").write_bytes(b"changed")
        (yard.data / "gone").unlink()
        watch.settle()
        watch.finish({})
    if meddle == "write":
        (yard.data / "kept").write_bytes(b"by a person since")
    elif meddle == "remove":
        (yard.data / "made").unlink()
    else:
        (yard.data / "gone").write_bytes(b"somebody else's")
    before = tree(yard.data)
    with pytest.raises(Drifted):
        yard.boot().undo("t1")
    assert tree(yard.data) == before


def test_a_bystanders_file_stays_also_in_a_folder_that_the_program_made(yard: Yard) -> None:
    with yard.journal.watch("t1", 1, [yard.data]) as watch:
        (yard.data / "new").mkdir()
        (yard.data / "new" / "mine").write_bytes(b"1")
        watch.settle()
        watch.finish({})
    (yard.data / "new" / "theirs").write_bytes(b"2")
    yard.boot().undo("t1")
    assert sorted(path.name for path in yard.data.rglob("*")) == ["new", "theirs"]


@pytest.mark.parametrize("secret", [".env", ".ssh/config", "deploy.pem", "secrets/any"])
def test_a_secret_below_the_path_is_refused_before_anything_and_never_copied(yard: Yard, secret: str) -> None:
    yard.file("a")
    yard.file(secret, b"hunter2")
    with pytest.raises(Refused, match="secret"), yard.journal.watch("t1", 1, [yard.data]):
        raise AssertionError("must not start")
    kept = [path.read_bytes() for path in (yard.root / "journal").rglob("*") if path.is_file()]
    assert not any(b"hunter2" in each for each in kept)


def test_too_many_or_too_large_is_refused_before_anything_starts(yard: Yard) -> None:
    for n in range(5):
        yard.file(f"f{n}", b"x" * 100)
    with pytest.raises(ResourceExhausted, match="narrower"), yard.journal.watch("t1", 1, [yard.data], Bounds(files=3)):
        raise AssertionError("must not start")
    with (
        pytest.raises(ResourceExhausted, match="narrower"),
        yard.journal.watch("t2", 1, [yard.data], Bounds(size_bytes=99)),
    ):
        raise AssertionError("must not start")
    assert not list((yard.root / "journal" / ".open").iterdir())


def test_the_journal_and_what_is_around_it_is_no_path(yard: Yard) -> None:
    for path in (yard.root, yard.root / "journal"):
        with pytest.raises(Refused, match="journal"), yard.journal.watch("t1", 1, [path]):
            raise AssertionError("must not start")


def test_nobody_else_holds_a_folder_around_inside_or_the_same_while_a_program_works_in_it(yard: Yard) -> None:
    yard.file("in/a")
    other = yard.boot()
    for n, path in enumerate([yard.data, yard.data / "in", yard.data / "in" / "a"]):
        with (
            yard.journal.watch(f"t{n}", 1, [yard.data / "in"]),
            pytest.raises(Unavailable, match="locked"),
            other.watch("other", 1, [path]),
        ):
            raise AssertionError("must not start")
    with yard.journal.watch("t9", 1, [yard.data / "in"]), other.watch("beside", 1, [yard.file("beside")]):
        pass


def test_a_task_is_never_started_twice(yard: Yard) -> None:
    with yard.journal.watch("t1", 1, [yard.data]) as watch:
        watch.settle()
        watch.finish({})
    with pytest.raises(Refused, match="begun before"), yard.journal.watch("t1", 2, [yard.data]):
        raise AssertionError("must not start")


HOLDER = """
import sys
from pathlib import Path
from chassis.clock import SystemClock
from chassis.journal import Journal, consent_within
root = Path(sys.argv[1])
with Journal(root / "journal", SystemClock(), consent_within([])).watch("t1", 1, [root / "data"]):
    (root / "data" / "a").write_bytes(b"half way")
    (root / "data" / "b").unlink()
    (root / "data" / "c").write_bytes(b"new")
    print("ready", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def killed(yard: Yard) -> Iterator[Yard]:
    """A yard whose program and holder were ended by SIGKILL in the middle."""
    yard.file("a")
    yard.file("b", b"gone")
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(yard.root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None and holder.stdin is not None
    assert holder.stdout.readline() == b"ready\n"
    with pytest.raises(Unavailable, match="being worked on"):
        yard.boot().undo("t1")
    assert yard.boot().recover() == [], "a living holder is left alone"
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    holder.stdin.close()
    holder.stdout.close()
    yield yard


def as_it_was(yard: Yard) -> bool:
    return {path.name: path.read_bytes() for path in yard.data.iterdir()} == {"a": b"old", "b": b"gone"}


def test_a_holder_killed_in_the_middle_is_undone_from_what_it_kept(killed: Yard) -> None:
    assert killed.boot().can_undo("t1")[0]
    assert len(killed.boot().undo("t1", dry_run=True).steps) >= 3
    killed.boot().undo("t1")
    assert as_it_was(killed)


def test_recovery_lists_what_a_killed_holder_left_and_it_can_be_undone_then(killed: Yard) -> None:
    lines = killed.boot().recover()
    assert len(lines) == 1 and "can be undone" in lines[0]
    assert killed.boot().recover() == []
    assert killed.boot().status("t1").state == "finished"
    killed.boot().undo("t1")
    assert as_it_was(killed)


class Crash(BaseException):
    """The process is gone here."""


def test_an_undo_cut_short_anywhere_is_finished_by_recovery(tmp_path: Path) -> None:
    for after in range(60):
        root = tmp_path / str(after)
        root.mkdir()
        yard = Yard(root)
        for name in ("a", "b/c", "b/d"):
            yard.file(name, name.encode())
        before = tree(yard.data)
        with yard.journal.watch("t1", 1, [yard.data]) as watch:
            shutil.rmtree(yard.data / "b")
            (yard.data / "a").write_bytes(b"new")
            (yard.data / "n").mkdir()
            (yard.data / "n" / "m").symlink_to("..")
            watch.settle()
            watch.finish({})
        left = after

        def crash(_step: str) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise Crash

        try:
            yard.boot(crash).undo("t1")
            whole = True
        except Crash:
            whole = False
        yard.boot().recover()
        if not whole and yard.boot().status("t1").state != "undone":
            yard.boot().undo("t1")
        assert tree(yard.data) == before
        if whole:
            return
    raise AssertionError("the undo never ran through")


def test_what_is_no_plain_file_is_removed_when_it_is_new_and_left_when_it_is_gone(yard: Yard) -> None:
    yard.file("a")
    os.mkfifo(yard.data / "old-fifo")
    with yard.journal.watch("t1", 1, [yard.data]) as watch:
        (yard.data / "old-fifo").unlink()
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(yard.data / "s"))
        (yard.data / "a").write_bytes(b"new")
        watch.settle()
        watch.finish({})
    report = yard.boot().undo("t1")
    assert any("leave" in step for step in report.steps)
    assert {path.name: path.read_bytes() for path in yard.data.iterdir()} == {"a": b"old"}


def test_contents_of_ended_runs_are_bounded_like_any_others(yard: Yard) -> None:
    yard.file("a", b"x" * 1000)
    with yard.journal.watch("t1", 1, [yard.data]) as watch:
        (yard.data / "a").write_bytes(b"new")
        watch.settle()
        watch.finish({})
    assert yard.boot().prune(10, timedelta(days=1)) == ["t1"]
    assert not yard.boot().can_undo("t1")[0]


def test_what_did_not_change_is_not_kept_once_the_program_has_ended(yard: Yard) -> None:
    for n in range(10):
        yard.file(f"f{n}")
    with yard.journal.watch("t1", 1, [yard.data]) as watch:
        (yard.data / "f3").write_bytes(b"new")
        watch.settle()
        watch.finish({})
    assert len(list((yard.root / "journal" / "t1" / "pre").iterdir())) == 1
