"""Finished tasks leave their files; the exchange goes on knowing them."""

import json
import os
import sqlite3
import sys
import tempfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from exchange_world import FAST, World

from chassis.errors import AlreadyAcked, Duplicate
from chassis.exchange import archive, compaction, index
from chassis.exchange.manifest import TaskId
from chassis.exchange.port import Compacted

KEEP, ARCHIVE = timedelta(days=2), timedelta(days=30)
DAY = 86_400.0


@pytest.fixture(params=["memory", "files"])
def either(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    yield World(request.param, tmp_path)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World("files", tmp_path)


def end(world: World, *names: str, status: str = "done", **fields: Any) -> None:
    for name in names:
        world.exchange.submit(world.task(name, **fields))
        claim = world.claim()
        world.exchange.ack(claim, world.ack(claim, status, detail=f"what {name} did"))


def compact(world: World, limit: int = 1000) -> Compacted:
    return world.exchange.compact(KEEP, ARCHIVE, limit)


def files_of(world: World, name: str) -> list[str]:
    svf = world.root / "svf"
    return [str(path.relative_to(svf)) for path in svf.rglob(f"{name}*") if "archive" not in path.parts]


def test_an_archived_task_is_found_as_before_and_its_id_stays_taken(either: World) -> None:
    end(either, "a", "b")
    either.exchange.submit(either.task("c"))
    either.exchange.cancel(TaskId("c"), "changed my mind")
    before = {name: either.exchange.get(TaskId(name)) for name in ("a", "b", "c")}
    either.clock.advance(2 * DAY)
    assert compact(either) == Compacted(), "a day is compacted once all of it is older"
    either.clock.advance(DAY)
    assert compact(either) == Compacted(archived=3)
    assert {name: either.exchange.get(TaskId(name)) for name in before} == before
    assert compact(either) == Compacted()
    with pytest.raises(Duplicate):
        either.exchange.submit(either.task("a"))
    for act in (either.exchange.hold, either.exchange.release, either.exchange.requeue):
        assert not act(TaskId("a"))
    assert not either.exchange.cancel(TaskId("a"), "too late")
    assert [view.task_id for view in either.exchange.tasks(["done"])] == ["a", "b"]
    assert [view.task_id for view in either.exchange.tasks(["cancelled"])] == ["c"]


def test_compaction_goes_in_bounded_steps_oldest_first(either: World) -> None:
    end(either, "b")
    either.clock.advance(DAY)
    end(either, "a", "c")
    either.clock.advance(5 * DAY)
    steps = [compact(either, limit=2).archived for _ in range(3)]
    assert steps == [2, 1, 0]
    assert all(either.exchange.get(TaskId(name)).state == "done" for name in "abc")


def test_what_is_not_finished_is_left_alone(either: World) -> None:
    either.exchange.submit_many([either.task(name, ttl_seconds=90 * DAY) for name in ("r", "c", "d")])
    either.exchange.hold(TaskId("r"))
    claim = either.claim()
    either.exchange.submit(either.task("dead", max_attempts=1, priority=9))
    either.exchange.nack(either.claim(), 0, "no")
    either.clock.advance(40 * DAY)
    either.exchange.heartbeat(claim)
    assert compact(either) == Compacted()
    assert [either.exchange.get(TaskId(name)).state for name in ("r", "c", "dead")] == ["held", "claimed", "dead"]


@pytest.mark.parametrize("status", ["done", "failed"])
def test_dependants_are_placed_by_archived_acks(either: World, status: str) -> None:
    end(either, "a", status=status)
    for days in (5, 40):
        either.clock.advance(days * DAY)
        assert compact(either) != Compacted()
        name = f"after-{days}"
        either.exchange.submit(either.task(name, dependencies=("a",)))
        either.exchange.sweep()
        view = either.exchange.get(TaskId(name))
        assert view.state == "ready" if status == "done" else view.ack is not None and "a ended failed" in view.reason


def test_a_late_holder_is_told_that_the_task_has_its_ack(either: World) -> None:
    either.exchange.submit(either.task("a"))
    late = either.claim()
    either.stale()
    either.clock.advance(1)
    either.exchange.sweep()
    again = either.claim(worker="w2")
    either.exchange.ack(again, either.ack(again))
    either.clock.advance(9 * DAY)
    assert compact(either).archived == 1
    assert not either.exchange.check(late)
    with pytest.raises(AlreadyAcked):
        either.exchange.ack(late, either.ack(late))
    assert either.exchange.get(TaskId("a")).epoch == 2


def test_after_the_second_retention_only_the_ids_are_kept(either: World) -> None:
    end(either, "a", "b", status="no_work")
    either.clock.advance(3 * DAY)
    assert compact(either).archived == 2
    end(either, "later")
    either.clock.advance(31 * DAY)
    assert compact(either) == Compacted(archived=1, dropped=2)
    view = either.exchange.get(TaskId("a"))
    assert (view.state, view.manifest, view.epoch) == ("done", None, 1)
    assert view.ack is not None and (view.ack.status, view.ack.cost) == ("no_work", {})
    assert "only its id is kept" in view.reason
    with pytest.raises(Duplicate):
        either.exchange.submit(either.task("a"))
    later = either.exchange.get(TaskId("later"))
    assert later.manifest is not None
    assert later.reason == "what later did"


def test_the_files_are_gone_and_the_segment_is_plain_lines(world: World) -> None:
    end(world, "a", "b")
    world.clock.advance(3 * DAY)
    compact(world)
    svf = world.root / "svf"
    assert files_of(world, "a.") == files_of(world, "b.") == []
    assert not any((svf / "done").iterdir())
    assert not [*(svf / "acks").glob("??/*"), *(svf / "tasks").iterdir()]
    lines = (svf / "archive" / "20260104.jsonl").read_bytes().splitlines()
    assert [json.loads(line)["ack"]["task_id"] for line in lines] == ["a", "b"]
    assert all(sorted(json.loads(line)) == ["ack", "manifest"] for line in lines)
    world.clock.advance(31 * DAY)
    compact(world)
    assert sorted(path.name for path in (svf / "archive").iterdir()) == [".lock", "20260104.ids"]


def test_a_copy_of_an_archived_task_is_never_run_again(world: World) -> None:
    world.exchange.submit(world.task("a", ttl_seconds=80 * DAY))
    ready = world.root / "svf" / "ready" / "governor" / "p5" / "a.e1.ready"
    copy = ready.read_bytes()
    claim = world.claim()
    world.exchange.ack(claim, world.ack(claim))
    world.clock.advance(3 * DAY)
    assert compact(world).archived == 1
    ready.parent.mkdir(parents=True, exist_ok=True)
    ready.write_bytes(copy)
    assert world.exchange.claim("governor", "w2") == []
    (reason,) = (world.root / "svf" / "dead").glob("*.reason.json")
    assert "already has its ack" in reason.read_text()


def damage(svf: Path, how: str) -> None:
    path = svf / "index.sqlite"
    if how == "deleted":
        path.unlink()
    elif how == "garbage":
        path.write_bytes(b"not a database" * 1000)
    elif how == "torn":
        os.truncate(path, path.stat().st_size // 2 + 100)
    elif how == "empty":
        os.truncate(path, 0)
    elif how == "link":
        path.unlink()
        path.symlink_to("/etc/passwd")
    elif how == "folder":
        path.unlink()
        path.mkdir()
    elif how == "fifo":
        path.unlink()
        os.mkfifo(path)
    elif how in ("offsets", "no table", "old"):
        with sqlite3.connect(path) as database:
            database.execute(
                {
                    "offsets": "UPDATE task SET start = 7",
                    "no table": "DROP TABLE task",
                    "old": "PRAGMA user_version = 0",
                }[how]
            )
        database.close()


@pytest.mark.parametrize("open_already", [True, False])
@pytest.mark.parametrize(
    "how", ["deleted", "garbage", "torn", "empty", "link", "folder", "fifo", "offsets", "no table", "old"]
)
def test_a_lost_or_damaged_index_is_made_again(world: World, how: str, open_already: bool) -> None:
    end(world, *(f"t{n}" for n in range(9)))
    world.clock.advance(3 * DAY)
    compact(world)
    before = [world.exchange.get(TaskId(f"t{n}")) for n in range(9)]
    damage(world.root / "svf", how)
    if not open_already:
        world.exchange = world.open()
    assert [world.exchange.get(TaskId(f"t{n}")) for n in range(9)] == before
    with pytest.raises(Duplicate):
        world.exchange.submit(world.task("t4"))
    end(world, "u")
    world.clock.advance(3 * DAY)
    assert compact(world).archived == 1
    assert world.exchange.get(TaskId("u")).reason == "what u did"


def test_an_index_from_a_backup_catches_up_with_the_segments(world: World) -> None:
    end(world, "a")
    world.clock.advance(3 * DAY)
    compact(world)
    old = (world.root / "svf" / "index.sqlite").read_bytes()
    end(world, "b")
    world.clock.advance(3 * DAY)
    compact(world)
    (world.root / "svf" / "index.sqlite").write_bytes(old)
    world.exchange = world.open()
    assert world.exchange.get(TaskId("b")).reason == "what b did"


def test_a_torn_last_line_is_set_aside_and_the_lines_before_and_after_count(world: World) -> None:
    end(world, "a")
    world.clock.advance(3 * DAY)
    compact(world)
    segment = world.root / "svf" / "archive" / "20260104.jsonl"
    with segment.open("ab") as file:
        file.write(b'{"ack":{"task_id":"x')
    (world.root / "svf" / "index.sqlite").unlink()
    world.exchange = world.open()
    assert world.exchange.get(TaskId("a")).reason == "what a did"
    end(world, "b")
    world.clock.advance(3 * DAY)
    segment.rename(segment.with_name("20260107.jsonl"))
    assert compact(world).archived == 1
    assert b'"x' in (segment.with_name("20260107.jsonl.torn")).read_bytes()
    assert [world.exchange.get(TaskId(name)).reason for name in "ab"] == ["what a did", "what b did"]


def test_a_damaged_line_still_says_how_its_task_ended(world: World) -> None:
    end(world, "a", "b")
    world.clock.advance(3 * DAY)
    compact(world)
    segment = world.root / "svf" / "archive" / "20260104.jsonl"
    data = segment.read_bytes()
    segment.write_bytes(b"\x00" * data.index(b"\n") + data[data.index(b"\n") :])
    view = world.exchange.get(TaskId("a"))
    assert view.ack is not None and (view.state, view.ack.status) == ("done", "done")
    assert "can't be read" in view.reason
    assert world.exchange.get(TaskId("b")).reason == "what b did"
    world.clock.advance(31 * DAY)
    assert compact(world).dropped == 2
    (world.root / "svf" / "index.sqlite").unlink()
    with pytest.raises(Duplicate):
        world.exchange.submit(world.task("a"))


def test_another_process_sees_what_was_archived_meanwhile(world: World) -> None:
    other = world.open()
    end(world, "a")
    assert other.get(TaskId("never")).state == "unknown"
    world.clock.advance(3 * DAY)
    compact(world)
    assert other.get(TaskId("a")).reason == "what a did"
    end(world, "b")
    world.clock.advance(3 * DAY)
    compact(world)
    assert other.get(TaskId("b")).reason == "what b did"


def test_what_only_looks_finished_stays_where_it_is(world: World) -> None:
    end(world, "a")
    world.exchange.submit(world.task("live", ttl_seconds=80 * DAY))
    day = world.root / "svf" / "done" / "20260101"
    (day / "live.e1.done").write_bytes(b"{}")
    (day / "nobody.e1.done").write_bytes(b"{}")
    (day / "link.e1.done").symlink_to("/etc/passwd")
    os.mkfifo(day / "fifo.e1.done")
    (world.root / "svf" / "archive" / "20250101.jsonl").symlink_to("/etc/passwd")
    os.mkfifo(world.root / "svf" / "archive" / "20250102.jsonl")
    os.mkfifo(world.root / "svf" / "archive" / "20260104.jsonl")
    world.clock.advance(3 * DAY)
    assert compact(world).archived == 1
    assert world.exchange.get(TaskId("a")).reason == "what a did"
    assert world.claim().manifest.task_id == "live"


def crash_at(line: int) -> Any:
    """A tracer that ends the process before the n-th line of the archive's modules that it had not passed yet."""
    files, passed = {archive.__file__, compaction.__file__, index.__file__}, set()

    def trace(frame: FrameType, event: str, _arg: object) -> Any:
        if frame.f_code.co_filename not in files:
            return None
        if event == "line":
            passed.add((frame.f_code.co_filename, frame.f_lineno))
            if len(passed) > line:
                os._exit(1)
        return trace

    return trace


def compact_in_a_process_that_dies_at(world: World, line: int) -> bool:
    """Whether it came to the end."""
    if (child := os.fork()) == 0:
        world.exchange = world.open()
        sys.settrace(crash_at(line))
        compact(world)
        os._exit(0)
    return os.waitpid(child, 0)[1] == 0


def test_compaction_killed_at_any_line_loses_nothing_and_doubles_nothing() -> None:
    with tempfile.TemporaryDirectory(dir=FAST) as folder:
        _kill_at_every_line(Path(folder))


def _kill_at_every_line(folder: Path) -> None:
    """Compaction of two tasks and the dropping of an older segment; each line in turn is the last one."""
    line, finished = 0, False
    while not finished:
        world = World("files", folder / str(line))
        end(world, "old")
        world.clock.advance(3 * DAY)
        compact(world)
        world.clock.advance(31 * DAY)
        end(world, "a", "b")
        before = [world.exchange.get(TaskId(name)) for name in ("a", "b")]
        world.clock.advance(3 * DAY)
        finished = compact_in_a_process_that_dies_at(world, line)
        for again in (False, True):
            world.exchange = world.open()
            world.exchange.sweep()
            assert [world.exchange.get(TaskId(name)) for name in ("a", "b")] == before, line
            assert world.exchange.get(TaskId("old")).state == "done"
            for name in ("a", "b", "old"):
                with pytest.raises(Duplicate):
                    world.exchange.submit(world.task(name))
            assert world.exchange.claim("governor", "w9", 9) == []
            if not again:
                compact(world)
        kept = [
            json.loads(each)["ack"]["task_id"]
            for path in (world.root / "svf" / "archive").glob("*.jsonl")
            for each in path.read_bytes().splitlines()
        ]
        assert sorted(kept) == ["a", "b"], line
        assert not list((world.root / "svf" / "done").rglob("*.done")), line
        assert not [*(world.root / "svf" / "acks").glob("??/*"), *(world.root / "svf" / "tasks").iterdir()], line
        line += 1
