"""The log of promises: shared rounds, nothing told before it is durable, replay after a cut."""

import errno
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from exchange_world import LEASE, VERIFIER, World

from chassis.canonical import canonical_json
from chassis.errors import AlreadyAcked, ResourceExhausted, Unavailable
from chassis.exchange import commits, files
from chassis.exchange.commits import Commits, Record, left_behind, read_records
from chassis.exchange.files import FilesExchange


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World("files", tmp_path)


def after_a_cut(world: World, copy: Path, *lost: str) -> World:
    """The folder as another boot finds it: no process holds its logs, and `lost` (globs) never reached the disk."""
    shutil.copytree(world.root / "svf", copy / "svf", symlinks=True)
    for path in sorted((copy / "svf").rglob("*")):  # a copy knows no hard links: make the task files one inode again
        if path.parent.name in ("p5", "waiting", "held") or path.suffix in (".claimed", ".done"):
            record = copy / "svf" / "tasks" / f"{path.name.split('.')[0]}.json"
            if record.exists():
                path.unlink()
                path.hardlink_to(record)
    for pattern in lost:
        for path in (copy / "svf").glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return World("files", copy, world.clock)


def count(monkeypatch, *calls: str) -> list[str]:
    made: list[str] = []
    for name in calls:
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, real=real, name=name: (made.append(name), real(*a))[1])
    return made


def test_a_submit_and_an_ack_cost_one_fdatasync_each_and_a_batch_one_altogether(world: World, monkeypatch) -> None:
    world.exchange.submit(world.task("first"))
    made = count(monkeypatch, "fdatasync", "fsync")
    world.exchange.submit(world.task("a"))
    claim = world.claim()
    world.exchange.ack(claim, world.ack(claim))
    assert made == ["fdatasync", "fdatasync"]
    world.exchange.submit_many([world.task(f"t{n}") for n in range(50)])
    assert made == ["fdatasync"] * 3
    world.exchange.ack_many([(claim, world.ack(claim)) for claim in world.exchange.claim("governor", "w1", 50)])
    assert made == ["fdatasync"] * 4


def test_those_who_come_while_the_disk_is_busy_share_the_next_round(tmp_path: Path, monkeypatch) -> None:
    log, busy, go, rounds = Commits(tmp_path), threading.Event(), threading.Event(), []
    real = os.fdatasync

    def slow(fd: int) -> None:
        rounds.append(fd)
        busy.set()
        go.wait()
        real(fd)

    monkeypatch.setattr(os, "fdatasync", slow)

    def one(n: int) -> None:
        with log.promise([Record(kind="A", body=b"%d" % n)]):
            assert rounds

    with ThreadPoolExecutor(9) as pool:
        jobs = [pool.submit(one, 0)]
        busy.wait()
        jobs += [pool.submit(one, n) for n in range(1, 9)]
        while log._current.written < 9 * 10:  # all have written, one is at the disk
            pass
        go.set()
        for job in jobs:
            job.result()
    assert len(rounds) == 2


def test_nothing_is_published_before_it_is_durable(world: World, monkeypatch) -> None:
    world.exchange.submit(world.task("a"))
    claim = world.claim()
    real, seen = os.fdatasync, []

    def look(fd: int) -> None:
        seen.append((world.exchange.get("a").state, world.exchange.get("b").state))
        real(fd)

    monkeypatch.setattr(os, "fdatasync", look)
    world.exchange.ack(claim, world.ack(claim))
    world.exchange.submit(world.task("b"))
    assert seen[0][0] == "claimed"
    assert not list((world.root / "svf" / "ready").rglob("b.*")) or seen[1][1] != "ready"
    assert [world.exchange.get(name).state for name in "ab"] == ["done", "ready"]


def test_a_disk_that_fails_at_the_promise_leaves_the_claim_ours_and_the_submit_undone(
    world: World, monkeypatch
) -> None:
    world.exchange.submit(world.task("a"))
    claim = world.claim()

    def broken(_fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", broken)
    with pytest.raises(OSError, match="Input/output"):
        world.exchange.ack(claim, world.ack(claim))
    with pytest.raises(Unavailable):
        world.exchange.submit(world.task("b"))
    monkeypatch.undo()
    assert world.exchange.get("b").state == "unknown"
    assert world.exchange.check(claim)
    world.exchange.ack(claim, world.ack(claim))
    assert world.exchange.submit(world.task("b")).state == "ready"
    again = after_a_cut(world, world.root / "copy")
    assert [again.exchange.get(name).state for name in "ab"] == ["done", "ready"]


def test_a_record_of_which_the_log_took_only_a_part_is_no_promise(tmp_path: Path, monkeypatch) -> None:
    log, real = Commits(tmp_path), os.pwrite
    log.ready(100)
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: real(fd, data[:-1], at))
    with pytest.raises(OSError, match="only a part"), log.promise([Record(kind="A", body=b"lost")]):
        raise AssertionError("promised")
    monkeypatch.setattr(os, "pwrite", real)
    with log.promise([Record(kind="A", body=b"kept")]):
        assert [each.body for path in tmp_path.glob("*.log") for each in read_records(path)] == [b"kept"]


def test_no_room_for_a_new_log_is_said_before_anything_happens(world: World, monkeypatch) -> None:
    world.exchange.submit(world.task("a"))
    claim = world.claim()
    world.exchange = world.open()  # its log is yet to be made

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(commits, "_Segment", full)
    with pytest.raises(ResourceExhausted):
        world.exchange.submit(world.task("b"))
    with pytest.raises(OSError, match="No space"):
        world.exchange.ack(claim, world.ack(claim))
    monkeypatch.undo()
    assert world.exchange.check(claim)
    assert world.exchange.get("b").state == "unknown"
    assert [p.name for p in (world.root / "svf" / "tmp").iterdir()] == [".lock"]


LOST = {
    "all of the task": ("ready/*/*/b*", "waiting/c*", "held/d*", "tasks/[bcd].json"),
    "its record": ("tasks/[bcd].json",),
    "its file": ("ready/*/*/b*", "waiting/c*", "held/d*"),
    "nothing": (),
}


@pytest.mark.parametrize("lost", LOST)
def test_what_was_submitted_is_there_after_a_cut_whatever_the_folders_lost(world: World, tmp_path, lost: str) -> None:
    world.exchange.submit_many([world.task("b"), world.task("c", dependencies=("b",))])
    world.exchange.submit(world.task("d"), hold=True)
    again = after_a_cut(world, tmp_path / "copy", *LOST[lost])
    assert [again.exchange.get(name).state for name in "bcd"] == ["ready", "waiting", "held"]
    claim = again.claim()
    again.exchange.ack(claim, again.ack(claim))
    again.exchange.sweep()
    assert again.claim().manifest.task_id == "c"


@pytest.mark.parametrize(
    "lost",
    [
        (),
        ("done",),
        ("acks/??/a.json",),
        ("done", "tasks/a.json", "acks/??"),
        ("acks",),
        ("done", "acks"),
        ("done", "acks", "tasks"),
    ],
)
def test_what_was_acked_is_done_after_a_cut_whatever_the_folders_lost(world: World, tmp_path, lost) -> None:
    world.exchange.submit(world.task("a"))
    claim = world.claim()
    mine = world.ack(claim, detail="what I did")
    world.exchange.ack(claim, mine)
    again = after_a_cut(world, tmp_path / "copy", *lost)
    assert again.exchange.get("a").ack == mine
    assert again.exchange.claim("governor", "w1") == []
    with pytest.raises(AlreadyAcked):
        again.exchange.ack(claim, world.ack(claim))


@pytest.mark.parametrize("how", [b"", b'{"acks":', b"\x00" * 600])
def test_torn_files_are_made_whole_from_the_log(world: World, tmp_path: Path, how: bytes) -> None:
    world.exchange.submit_many([world.task("a"), world.task("b")])
    claim = world.claim()
    mine = world.ack(claim)
    world.exchange.ack(claim, mine)
    copy = tmp_path / "copy"
    shutil.copytree(world.root / "svf", copy / "svf")
    for path in [path for each in ("tasks/*", "acks/??/*.json", "ready/*/*/*") for path in (copy / "svf").glob(each)]:
        path.write_bytes(how)
    (ready,) = (copy / "svf").glob("ready/*/*/b.*")
    ready.unlink()
    ready.hardlink_to(copy / "svf" / "tasks" / "b.json")
    again = World("files", copy, world.clock)
    assert again.exchange.get("a").ack == mine
    assert again.claim().manifest == world.exchange.get("b").manifest


def test_an_ack_given_while_a_dead_reaper_had_only_marked_the_next_epoch_outlives_a_cut(world, tmp_path) -> None:
    world.exchange.submit(world.task("a"))
    claim = world.claim()
    marks = world.root / "svf" / "epochs" / "a"
    marks.mkdir()
    (marks / "e2").write_text('{"not_before":null,"reason":"its holder\'s heartbeat stopped"}')
    world.exchange.ack(claim, world.ack(claim))
    after = after_a_cut(world, tmp_path / "copy", "done", "acks/*/a.json")
    assert (after.exchange.get("a").state, after.exchange.claim("governor", "w2", 1)) == ("done", [])


def test_past_the_fence_without_a_durable_ack_a_task_comes_back_with_a_new_epoch(world: World, tmp_path) -> None:
    world.exchange.submit(world.task("a"))
    claim = world.claim()
    done = world.root / "svf" / "done" / "20260101"
    done.mkdir(parents=True)
    (world.root / "svf" / "claimed" / "w1" / "a.e1.claimed").rename(done / "a.e1.done")
    (world.root / "svf" / "claimed" / "w1" / "a.e1.ack").write_bytes(b"")
    again = after_a_cut(world, tmp_path / "copy")
    assert again.claim().epoch == 2
    assert not again.exchange.check(claim)


def test_replaying_twice_changes_nothing_and_a_living_process_is_left_alone(world: World) -> None:
    world.exchange.submit_many([world.task("a"), world.task("b")])
    claim = world.claim()
    world.exchange.ack(claim, world.ack(claim))
    logs = sorted((world.root / "svf" / "log").glob("*.log"))
    kept = [log.read_bytes() for log in logs]
    other = FilesExchange(world.root / "svf", world.clock, VERIFIER.valid, world.kill_switch, LEASE)
    assert sorted((world.root / "svf" / "log").glob("*.log")) == logs, "its writer lives"
    world.exchange = other
    other.sweep()
    before = [other.get(name) for name in "ab"]
    for log, data in zip(logs, kept, strict=True):
        log.write_bytes(data)
    other.sweep()
    assert [other.get(name) for name in "ab"] == before
    assert other.depth() == {"held": 0, "waiting": 0, "ready": 1, "claimed": 0, "dead": 0}


def test_a_submit_taken_back_and_made_again_outlives_a_cut(world: World, tmp_path: Path, monkeypatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(files, "link", full)
        with pytest.raises(ResourceExhausted):
            world.exchange.submit(world.task("a"))
    assert after_a_cut(world, tmp_path / "first").exchange.get("a").state == "unknown", "taken back"
    world.exchange.submit(world.task("a"))
    again = after_a_cut(world, tmp_path / "second", "tasks/a.json", "ready/*/*/a*")
    assert again.exchange.get("a").state == "ready"


def test_what_a_cut_left_of_submits_that_were_never_promised_is_swept_away(world: World, tmp_path: Path) -> None:
    world.exchange.submit_many([world.task("a"), world.task("b", dependencies=("a",))])
    world.exchange.submit(world.task("c"), hold=True)
    world.claim()
    records = world.root / "svf" / "tasks"
    (records / "torn.json").touch()
    (records / "whole.json").write_bytes(canonical_json(world.task("whole").to_json()))
    again = after_a_cut(world, tmp_path / "copy")
    shutil.copytree(world.root / "svf", tmp_path / "backup" / "svf")  # where no file has two names
    for each in (again, World("files", tmp_path / "backup", world.clock)):
        left = {path.name for path in (each.root / "svf" / "tasks").iterdir()}
        assert left == {"a.json", "b.json", "c.json"}
        assert [each.exchange.get(name).state for name in "abc"] == ["claimed", "waiting", "held"]


def test_a_torn_or_hostile_log_is_read_up_to_its_first_bad_record(world: World, tmp_path: Path) -> None:
    world.exchange.submit_many([world.task("a"), world.task("b")])
    (log,) = (world.root / "svf" / "log").glob("*.log")
    good = read_records(log)
    assert [each.kind for each in good] == ["S", "S"]
    data = log.read_bytes()
    torn = tmp_path / "torn.log"
    for cut in (0, 3, 9, len(good[0].body), len(good[0].body) + 20):
        torn.write_bytes(data[:cut])
        assert len(read_records(torn)) == (1 if cut > len(good[0].body) + 8 else 0)
    torn.write_bytes(data[:30] + b"!" + data[31:])
    assert read_records(torn) == []
    (tmp_path / "link.log").symlink_to(log)
    assert read_records(tmp_path / "link.log") == []


def test_a_full_log_goes_once_all_of_it_is_in_the_folders(world: World, monkeypatch) -> None:
    monkeypatch.setattr(commits, "SEGMENT_BYTES", 4096)
    done = threading.Event()
    real = commits.sync_file_system
    monkeypatch.setattr(commits, "sync_file_system", lambda folder: (real(folder), done.set()))
    for n in range(40):
        world.exchange.submit(world.task(f"t{n:02d}"))
    assert done.wait(10)
    again = after_a_cut(world, world.root / "copy")
    assert again.exchange.depth()["ready"] == 40
    world.exchange.submit(world.task("large", params={"x": "y" * 100_000}))
    assert world.exchange.get("large").state == "ready"


def test_only_one_process_replays_and_the_next_one_waits_for_it(tmp_path: Path) -> None:
    with left_behind(tmp_path) as left:
        assert left.segments == ()
        waiting = ThreadPoolExecutor(1)
        second = waiting.submit(lambda: left_behind(tmp_path).__enter__())
        assert not second.done()
    second.result()
    waiting.shutdown()
