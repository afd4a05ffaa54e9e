"""Effects and their undo: random work, crashes anywhere, drift, consent, secrets, fences."""

import gzip
import lzma
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from chassis.clock import VirtualClock
from chassis.errors import Drifted, LeaseLost, NotFound, Refused, Unavailable
from chassis.journal import Journal, consent_within
from chassis.journal.targets import Locks

FAST = "/dev/shm" if Path("/dev/shm").is_dir() else None  # what a power cut does is not looked at here
PACK = {"gzip": gzip.compress, "xz": lzma.compress, "zstd": zstandard.ZstdCompressor().compress}


class Crash(BaseException):
    """The process is gone at this point."""


def tree(folder: Path) -> dict[str, tuple]:
    found = {}
    for path in sorted(folder.rglob("*")):
        info = path.lstat()
        data = path.read_bytes() if path.is_file() else b""
        times = info.st_mtime_ns if path.is_file() else 0
        found[str(path.relative_to(folder))] = (stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid, times, data)
    return found


class Yard:
    def __init__(self, root: Path) -> None:
        self.root, self.clock = root, VirtualClock()
        self.data, self.scratch = root / "data", root / "scratch"
        for folder in (self.data, self.scratch):
            folder.mkdir()
        self.steps: list[str] = []
        self.crash_after: int | None = None
        self.journal = self.boot()

    def boot(self) -> Journal:
        return Journal(self.root / "journal", self.clock, consent_within([self.data]), self.fault)

    def fault(self, step: str) -> None:
        self.steps.append(step)
        if self.crash_after is not None and len(self.steps) > self.crash_after:
            raise Crash(step)

    def file(self, name: str, data: bytes = b"old", mode: int = 0o640) -> Path:
        path = self.data / name
        path.write_bytes(data)
        path.chmod(mode)
        os.utime(path, ns=(10**18, 10**18 + len(data)))
        return path

    def made(self, data: bytes) -> Path:
        path = self.scratch / f"made-{len(os.listdir(self.scratch))}"  # noqa: PTH208 - only counted
        path.write_bytes(data)
        return path

    def session(self, task: str = "t1", epoch: int = 1, guard=lambda: None):
        return self.journal.session(task, epoch, guard)


@pytest.fixture
def yard(tmp_path: Path) -> Yard:
    return Yard(tmp_path)


# Random work

OPS = st.lists(
    st.tuples(
        st.sampled_from(["create", "replace", "remove", "squeeze", "rotate", "append"]),
        st.integers(0, 3),
        st.binary(max_size=40),
        st.sampled_from([0o600, 0o644, 0o755]),
    ),
    max_size=8,
)


def work(yard: Yard, effects, ops) -> None:
    """Do each op where it fits; an op that does not fit the present files is passed over."""
    for number, (op, which, data, mode) in enumerate(ops):
        target = yard.data / f"f{which}.log"
        if op == "create" and not target.exists():
            effects.create(target, yard.made(data), mode=mode)
        elif op == "create":
            effects.create(yard.data / "deep" / f"{which}" / f"n{number}", yard.made(data), mode=mode)
        elif op == "replace" and target.exists():
            effects.replace(target, yard.made(data))
        elif op == "remove" and target.exists():
            effects.remove(target)
        elif op == "squeeze" and target.exists():
            codec = ["gzip", "xz", "zstd"][which % 3]
            packed = target.with_name(f"{target.name}.{number}.packed")
            effects.create(packed, yard.made(PACK[codec](target.read_bytes())))
            effects.remove(target, inverse={"kind": "decompress", "codec": codec, "source": str(packed)})
        elif op == "rotate" and target.exists():
            effects.rotate(target, target.with_name(f"{target.name}.{number}"))


def start(yard: Yard, contents: list[bytes]) -> None:
    for which, data in enumerate(contents):
        yard.file(f"f{which}.log", data, mode=[0o600, 0o640, 0o644, 0o755][which])
    yard.file("bystander", b"not mine", 0o444)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.binary(max_size=60), max_size=4), OPS, st.one_of(st.none(), st.integers(0, 60)), st.integers(0, 60))
def test_whatever_was_done_and_wherever_it_crashed_recover_and_undo_restore_every_byte(
    contents: list[bytes], ops, crash_after: int | None, crash_undo_after: int
) -> None:
    with tempfile.TemporaryDirectory(dir=FAST) as folder:
        yard = Yard(Path(folder))
        start(yard, contents)
        before = tree(yard.data)
        yard.crash_after = crash_after
        try:
            with yard.session() as effects:
                work(yard, effects, ops)
                effects.finish({"said": "done"})
        except Crash:
            pass
        yard.crash_after, yard.journal = None, yard.boot()
        yard.journal.recover()
        assert yard.journal.recover() == [], "nothing is left to settle"
        if not yard.journal.can_undo("t1")[0]:
            assert tree(yard.data) == before
            return
        assert yard.journal.undo("t1", dry_run=True).steps
        yard.steps, yard.crash_after = [], crash_undo_after
        try:
            yard.journal.undo("t1")
        except Crash:
            yard.crash_after, yard.journal = None, yard.boot()
            yard.journal.recover()
            if yard.journal.can_undo("t1")[0]:
                yard.journal.undo("t1")
        assert tree(yard.data) == before
        assert not yard.journal.can_undo("t1")[0]
        with pytest.raises(Refused):
            yard.journal.undo("t1")


def test_a_crash_right_after_replacing_a_file_by_the_same_content_is_seen_by_its_inode(yard: Yard) -> None:
    target = yard.file("a", b"same")
    before = tree(yard.data)

    def fault(step: str) -> None:
        if step == "placed":
            raise Crash

    yard.journal = Journal(yard.root / "journal", yard.clock, consent_within([yard.data]), fault)
    with pytest.raises(Crash), yard.session() as effects:
        effects.replace(target, yard.made(b"same"))
    yard.journal = yard.boot()
    assert "was done" in yard.journal.recover()[0]
    yard.journal.undo("t1")
    assert tree(yard.data) == before, "the time of last change too"


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=60), min_size=1, max_size=4), OPS, st.data())
def test_any_drift_refuses_the_whole_undo_and_touches_nothing(contents: list[bytes], ops, data) -> None:
    with tempfile.TemporaryDirectory(dir=FAST) as folder:
        yard = Yard(Path(folder))
        start(yard, contents)
        with yard.session() as effects:
            work(yard, effects, ops)
            effects.finish({})
        # Files as the task left them: the last word on each is a create or replace of ours.
        last = {change["target"]: change["op"] for change in yard.journal.status("t1").changes}
        ours = sorted(t for t, op in last.items() if op in ("create", "replace") and Path(t).exists())
        if not ours:
            return
        victim = Path(data.draw(st.sampled_from(ours)))
        victim.write_bytes(victim.read_bytes() + b"drift")
        left = tree(yard.data)
        with pytest.raises(Drifted):
            yard.journal.undo("t1")
        assert tree(yard.data) == left


CHILD = """
import os, signal, sys
from pathlib import Path
from chassis.clock import SystemClock
from chassis.journal import Journal, consent_within
root, at = Path(sys.argv[1]), int(sys.argv[2])
steps = 0
def fault(step):
    global steps
    steps += 1
    if steps > at:
        os.kill(os.getpid(), signal.SIGKILL)
journal = Journal(root / "journal", SystemClock(), consent_within([root / "data"]), fault)
data, scratch = root / "data", root / "scratch"
with journal.session("t1", 1, lambda: None) as effects:
    (scratch / "n").write_bytes(b"new")
    effects.replace(data / "f0.log", scratch / "n")
    effects.rotate(data / "f1.log", data / "f1.log.1")
    effects.remove(data / "f2.log")
    effects.finish({})
journal.undo("t1")
"""


@pytest.mark.parametrize("at", [1, 3, 5, 8, 11, 14, 17])
def test_a_real_sigkill_at_any_step_is_settled_by_the_next_process(yard: Yard, at: int) -> None:
    start(yard, [b"zero", b"one", b"two"])
    before = tree(yard.data)
    child = subprocess.run([sys.executable, "-c", CHILD, str(yard.root), str(at)], check=False)
    assert child.returncode == -signal.SIGKILL
    yard.journal.recover()
    if yard.journal.can_undo("t1")[0]:
        yard.journal.undo("t1")
    assert tree(yard.data) == before


# One by one


def test_a_rotation_is_undone_with_what_was_appended_to_either_file_since(yard: Yard) -> None:
    log = yard.file("app.log", b"old\n")
    with log.open("ab", buffering=0) as holder:
        with yard.session() as effects:
            effects.rotate(log, yard.data / "app.log.1")
            effects.finish({})
        assert (log.read_bytes(), stat.S_IMODE(log.stat().st_mode)) == (b"", 0o640)
        holder.write(b"by the holder\n")
        with log.open("ab") as reopened:
            reopened.write(b"by the reopened\n")
        yard.journal.undo("t1")
        holder.write(b"later\n")
    assert log.read_bytes() == b"old\nby the holder\nby the reopened\nlater\n"
    assert not (yard.data / "app.log.1").exists()


def test_bytes_written_to_the_new_file_in_the_moment_of_the_rename_are_kept(yard: Yard) -> None:
    log = yard.file("app.log", b"old\n")
    with yard.session() as effects:
        effects.rotate(log, yard.data / "app.log.1")
        effects.finish({})
    with log.open("ab", buffering=0) as writer:

        def write_late(step: str) -> None:
            if step == "join.swapped":
                writer.write(b"late\n")

        yard.journal = Journal(yard.root / "journal", yard.clock, consent_within([yard.data]), write_late)
        yard.journal.undo("t1")
    assert log.read_bytes() == b"old\nlate\n"


def test_a_log_rotated_again_since_is_not_put_back_over_the_newer_one(yard: Yard) -> None:
    log = yard.file("app.log", b"old\n")
    for task in ("t1", "t2"):
        with yard.session(task) as effects:
            effects.rotate(log, yard.data / f"app.log.{task}")
            effects.finish({})
    with pytest.raises(Drifted, match="rotated or replaced since"):
        yard.journal.undo("t1")
    yard.journal.undo("t2")
    yard.journal.undo("t1")
    assert log.read_bytes() == b"old\n"


def test_late_bytes_before_the_archive_was_made_come_back_too(yard: Yard) -> None:
    log = yard.file("app.log", b"old\n")
    segment, archive = yard.data / "app.log.1", yard.data / "app.log.1.gz"
    with yard.session() as effects:
        effects.rotate(log, segment)
        with segment.open("ab") as late:
            late.write(b"late\n")
        effects.create(archive, yard.made(gzip.compress(segment.read_bytes())))
        effects.remove(segment, inverse={"kind": "decompress", "codec": "gzip", "source": str(archive)})
        effects.finish({})
    assert not list((yard.root / "journal" / "t1" / "pre").iterdir()), "the archive is the pre-image"
    yard.journal.undo("t1")
    assert (log.read_bytes(), [p.name for p in yard.data.iterdir()]) == (b"old\nlate\n", ["app.log"])


def test_an_inverse_that_gives_other_bytes_is_refused_and_nothing_removed(yard: Yard) -> None:
    plain, packed = yard.file("a.log"), yard.file("a.gz", gzip.compress(b"other"))
    inverse = {"kind": "decompress", "codec": "gzip", "source": str(packed)}
    with pytest.raises(Drifted), yard.session() as effects:
        effects.remove(plain, inverse=inverse)
    assert plain.read_bytes() == b"old"


@pytest.mark.parametrize(
    "name",
    [".ssh/x", ".gnupg/x", ".env", ".env.local", "prod.env", "tls.pem", "grant.key", "id_rsa", "id_ed25519.pub",
     "secrets/x", ".netrc", "governor.token"],
)  # fmt: skip
def test_secrets_are_never_targets(yard: Yard, name: str) -> None:
    path = yard.data / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"secret")
    for change in ("replace", "remove", "rotate"):
        with pytest.raises(Refused, match="secret"), yard.session() as effects:
            if change == "replace":
                effects.replace(path, yard.made(b"x"))
            elif change == "remove":
                effects.remove(path)
            else:
                effects.rotate(path, yard.data / "plain")
    assert path.read_bytes() == b"secret"
    assert not [p for p in (yard.root / "journal").rglob("*") if p.is_file() and p.read_bytes() == b"secret"]


def test_paths_outside_the_consent_links_folders_and_the_journal_are_refused(yard: Yard) -> None:
    outside = yard.root / "outside.txt"
    outside.write_text("x")
    link, linked = yard.data / "link", yard.data / "folder"
    link.symlink_to(outside)
    linked.symlink_to(yard.root)
    (yard.data / "dir").mkdir()
    inside_journal = Journal(yard.data / "journal", yard.clock, consent_within([yard.data]))
    for bad in (outside, link, linked / "outside.txt", yard.data / "dir", yard.data / ".." / "outside.txt"):
        with pytest.raises(Refused), yard.session() as effects:
            effects.remove(bad)
    with pytest.raises(Refused), inside_journal.session("t1", 1, lambda: None) as effects:
        effects.remove(yard.data / "journal" / "t1" / "records.jsonl")
    with pytest.raises(Refused), yard.session() as effects:
        effects.remove(Path("relative"))
    assert outside.read_text() == "x"


def test_what_is_expected_must_be_there(yard: Yard) -> None:
    there = yard.file("a")
    with pytest.raises(Drifted), yard.session() as effects:
        effects.create(there, yard.made(b"x"))
    with pytest.raises(Drifted), yard.session() as effects:
        effects.replace(there, yard.made(b"x"), expect_sha256="0" * 64)
    with pytest.raises(Drifted), yard.session() as effects:
        effects.remove(yard.data / "absent")
    with pytest.raises(Drifted), yard.session() as effects:
        effects.rotate(there, yard.file("b"))
    assert tree(yard.data).keys() == {"a", "b"}
    assert there.read_bytes() == b"old"


def test_replacing_keeps_mode_and_owner_and_undo_also_the_time(yard: Yard) -> None:
    target = yard.file("a", b"old", 0o751)
    before = tree(yard.data)
    with yard.session() as effects:
        effects.replace(target, yard.made(b"new"))
        effects.finish({})
    assert (target.read_bytes(), stat.S_IMODE(target.stat().st_mode)) == (b"new", 0o751)
    yard.journal.undo("t1")
    assert tree(yard.data) == before


def test_a_guard_that_says_no_right_before_the_change_leaves_everything_as_it_was(yard: Yard) -> None:
    target, calls = yard.file("a"), iter([True, False])
    before = tree(yard.data)

    def guard() -> None:
        if not next(calls):
            raise Refused("kill switch")

    with pytest.raises(Refused, match="kill switch"), yard.session(guard=guard) as effects:
        effects.replace(target, yard.made(b"new"))
    assert tree(yard.data) == before
    assert yard.journal.can_undo("t1") == (False, "task t1 changed nothing")


def test_a_writer_that_comes_between_reading_and_replacing_wins(yard: Yard) -> None:
    target = yard.file("a", b"old")

    def fault(step: str) -> None:
        if step == "kept":
            with target.open("ab") as writer:
                writer.write(b" and more")

    yard.journal = Journal(yard.root / "journal", yard.clock, consent_within([yard.data]), fault)
    with pytest.raises(Drifted, match="written to meanwhile"), yard.session() as effects:
        effects.replace(target, yard.made(b"new"))
    assert target.read_bytes() == b"old and more"
    assert [p.name for p in yard.data.iterdir()] == ["a"]


def test_an_older_epoch_may_not_touch_what_a_newer_one_touched(yard: Yard) -> None:
    target = yard.file("a")
    with yard.session(epoch=2) as effects:
        effects.replace(target, yard.made(b"new"))
        effects.finish({})
    yard.journal.undo("t1")
    with pytest.raises(LeaseLost), yard.session(epoch=1) as effects:
        effects.replace(target, yard.made(b"stale"))
    with yard.session("t2", epoch=1) as effects:
        effects.replace(target, yard.made(b"another task"))
    assert target.read_bytes() == b"another task"


def test_one_task_has_one_session_at_a_time_and_recover_leaves_a_living_one_alone(yard: Yard) -> None:
    other = yard.boot()
    with yard.session() as effects:
        effects.remove(yard.file("a"))
        with pytest.raises(Unavailable), other.session("t1", 2, lambda: None):
            pass
        with pytest.raises(Unavailable):
            other.undo("t1")
        assert other.recover() == []
    assert other.undo("t1").done


def test_a_session_is_refused_while_changes_of_an_earlier_attempt_stand(yard: Yard) -> None:
    with yard.session() as effects:
        effects.remove(yard.file("a"))
    with pytest.raises(Refused, match="undo them first"), yard.session(epoch=2):
        pass


def test_undo_says_clearly_what_it_can_not_do(yard: Yard) -> None:
    with pytest.raises(NotFound):
        yard.journal.undo("never")
    assert yard.journal.can_undo("never") == (False, "nothing was journaled for task never")
    with yard.session() as effects:
        effects.remove(yard.file("a"))
        effects.finish({})
    yard.journal.undo("t1")
    with pytest.raises(Refused, match="was undone already"):
        yard.journal.undo("t1")


def test_undo_survives_the_loss_of_nothing_but_refuses_when_its_kept_content_is_gone(yard: Yard) -> None:
    target = yard.file("a")
    with yard.session() as effects:
        effects.remove(target)
        effects.finish({})
    shutil.rmtree(yard.root / "journal" / "t1" / "pre")
    with pytest.raises(Drifted, match="is gone"):
        yard.journal.undo("t1")
    assert not target.exists()


def test_pruning_drops_the_oldest_kept_contents_and_says_so(yard: Yard) -> None:
    for number in range(3):
        with yard.session(f"t{number}") as effects:
            effects.remove(yard.file("a", bytes(100)))
            effects.finish({})
        yard.clock.advance(3600)
    assert yard.journal.prune(10**9, timedelta(days=1)) == []
    assert yard.journal.prune(200, timedelta(days=1)) == ["t0"]
    assert yard.journal.prune(10**9, timedelta(hours=1, minutes=30)) == ["t1"]
    possible, reason = yard.journal.can_undo("t1")
    assert not possible
    assert "dropped" in reason
    assert yard.journal.can_undo("t2")[0]


def test_the_journal_is_private(yard: Yard) -> None:
    with yard.session() as effects:
        effects.replace(yard.file("a", b"x", 0o644), yard.made(b"y"))
    for folder in ("", "t1", "t1/pre", ".locks"):
        assert stat.S_IMODE((yard.root / "journal" / folder).stat().st_mode) == 0o700


@pytest.fixture
def other_file_system() -> Iterator[Path]:
    if FAST is None or Path(FAST).stat().st_dev == Path(tempfile.gettempdir()).stat().st_dev:
        pytest.skip("there is only one file system here")
    with tempfile.TemporaryDirectory(dir=FAST) as folder:
        yield Path(folder)


@pytest.mark.parametrize("crash_after", range(12))
def test_across_file_systems_contents_are_copied_and_restored_just_the_same(
    yard: Yard, other_file_system: Path, crash_after: int
) -> None:
    for name in ("a", "b"):
        (other_file_system / name).write_bytes(name.encode() * 100)
        (other_file_system / name).chmod(0o751)
    before = tree(other_file_system)
    yard.crash_after = crash_after
    yard.journal = Journal(yard.root / "journal", yard.clock, consent_within([other_file_system]), yard.fault)
    try:
        with yard.session() as effects:
            effects.replace(other_file_system / "a", yard.made(b"new"))
            effects.remove(other_file_system / "b")
            effects.create(other_file_system / "c", yard.made(b"c"))
            effects.finish({})
        yard.journal.undo("t1")
    except Crash:
        yard.crash_after = None
        yard.journal.recover()
        if yard.journal.can_undo("t1")[0]:
            yard.journal.undo("t1")
    assert tree(other_file_system) == before


def test_a_fence_whose_record_keeps_the_end_of_a_longer_one_still_holds(tmp_path: Path) -> None:
    locks, target = Locks(tmp_path, VirtualClock()), tmp_path / "target"
    with locks.held([target], "t-1", 2):
        pass
    (record,) = [path for path in tmp_path.iterdir() if path.stat().st_size]
    with record.open("ab") as file:
        file.write(b'old-task",7]]')  # a holder was killed between writing a shorter record and cutting the file
    with pytest.raises(LeaseLost), locks.held([target], "t-1", 1):
        pass
    with locks.held([target], "t-1", 3):
        pass
