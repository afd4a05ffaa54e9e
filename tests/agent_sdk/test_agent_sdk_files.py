"""Files that an agent changes: planned, applied, put back."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from station_fake import FakeStation

from calyx_agent import Plan, Result, Task
from calyx_agent.files import KEPT_SECONDS, REHEARSALS, Drifted, Journal, changes_of, prune, rehearse


def nothing() -> None:
    return


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "notes"
    made.mkdir()
    (made / "old").write_bytes(b"old")
    (made / "old").chmod(0o640)
    (made / "gone").write_bytes(b"bye")
    return made


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def writes(folder: Path) -> dict[Path, bytes | None]:
    return {folder / "new": b"new", folder / "old": b"newer", folder / "gone": None, folder / "absent": None}


def test_what_was_applied_is_put_back_byte_by_byte(folder: Path, tmp_path: Path) -> None:
    before, journal = contents(folder), Journal(tmp_path / "state/t-1")
    assert [each.op for each in journal.apply(writes(folder), nothing)] == ["create", "replace", "remove"]
    assert contents(folder) == {"new": b"new", "old": b"newer"}
    assert (folder / "old").stat().st_mode & 0o777 == 0o640
    assert len(journal.restore()) == 3
    assert contents(folder) == before
    assert (folder / "old").stat().st_mode & 0o777 == 0o640
    assert journal.restore() == [], "once is enough"


def test_a_drifted_file_is_left_alone_and_so_is_everything_else(folder: Path, tmp_path: Path) -> None:
    journal = Journal(tmp_path / "state/t-1")
    journal.apply(writes(folder), nothing)
    (folder / "old").write_bytes(b"by a person")
    with pytest.raises(Drifted, match="changed since"):
        journal.restore()
    assert contents(folder) == {"new": b"new", "old": b"by a person"}


@pytest.mark.parametrize("allowed", [0, 1, 2])
def test_a_stop_between_two_files_takes_back_the_first(folder: Path, tmp_path: Path, allowed: int) -> None:
    before, asked = contents(folder), iter([*([True] * allowed), False])

    def check() -> None:
        if not next(asked):
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        Journal(tmp_path / "state/t-1").apply(writes(folder), check)
    assert contents(folder) == before


def test_a_crash_between_journal_and_effect_is_settled_by_the_next_attempt(folder: Path, tmp_path: Path) -> None:
    journal = Journal(tmp_path / "state/t-1")
    journal.apply({folder / "old": b"half"}, nothing)
    assert [each.before_sha256 for each in journal.apply(writes(folder), nothing)][1] is not None
    journal.restore()
    assert (folder / "old").read_bytes() == b"old", "not what the first attempt had left"


def test_links_folders_and_missing_folders_are_refused(folder: Path) -> None:
    (folder / "link").symlink_to(folder / "old")
    for path, error in (
        (folder / "link", ValueError), (folder, ValueError), (folder / "sub/file", FileNotFoundError),
    ):  # fmt: skip
        with pytest.raises(error):
            changes_of({path: b"x"})


def test_a_rehearsal_leaves_copies_that_prove_its_plan_and_nothing_else(folder: Path) -> None:
    before = contents(folder)
    plan = rehearse("t-1", writes(folder))
    assert contents(folder) == before
    shown = {Path(each["target"]) for each in plan.claims}
    assert shown == {folder / REHEARSALS / "t-1-0", folder / REHEARSALS / "t-1-1", folder / "gone"}
    assert [each.after_sha256 for each in plan.changes[:2]] == [each["expect"]["sha256"] for each in plan.claims[:2]]
    prune(folder / REHEARSALS, KEPT_SECONDS)
    assert len(list((folder / REHEARSALS).iterdir())) == 2
    prune(folder / REHEARSALS, -1.0)
    assert list((folder / REHEARSALS).iterdir()) == []


def test_nothing_to_change_is_no_work(folder: Path) -> None:
    assert changes_of({folder / "old": b"old", folder / "absent": None}) == []


def test_an_agent_rehearses_applies_and_undoes_with_three_lines(folder: Path, tmp_path: Path) -> None:
    station = FakeStation(state=tmp_path / "state")
    agent = station.agent()

    def wanted(task: Task) -> dict[Path, bytes | None]:
        return {folder / "old": task.params["text"].encode()}

    def rehearse(task: Task) -> Plan:
        return task.plan(wanted(task))

    @agent.task("notes", rehearse=rehearse, undo=Task.restore)
    def write(task: Task) -> Result:
        return task.apply(wanted(task))

    def run(task_id: str, **manifest: Any) -> Any:
        station.task(task_id, **manifest)
        asyncio.run(agent.arun(tasks=1))
        return station.on_record[task_id]

    rehearsed = run("t-1", rehearsal=True, params={"text": "new"})
    assert (folder / "old").read_bytes() == b"old"
    done = run("t-2", plan_digest=rehearsed.plan_digest, params={"text": "new"})
    assert (done.status, done.files_changed, done.applied) == ("done", 1, True)
    assert (folder / "old").read_bytes() == b"new"
    undone = run("t-3", undo_of="t-2")
    assert (undone.status, undone.detail, undone.files_changed) == ("undone", "put back", 1)
    assert (folder / "old").read_bytes() == b"old"
    assert run("t-4", params={"text": "old"}).status == "no_work"
    assert json.loads(undone.claims_json)[0]["kind"] == "file_digest"


def test_a_failure_that_was_taken_back_says_so(folder: Path, tmp_path: Path) -> None:
    station = FakeStation(state=tmp_path / "state", forbidden="stopped by the kill switch: fire", forbidden_from=2)
    station.task()
    agent = station.agent()
    before = contents(folder)

    @agent.task("notes")
    def write(task: Task) -> Result:
        return task.apply({folder / "old": b"1", folder / "gone": b"2"})

    asyncio.run(agent.arun(tasks=1))
    ack = station.on_record["t-1"]
    assert (ack.status, ack.applied, ack.reverted) == ("cancelled", True, True)
    assert ack.detail == "stopped by the kill switch: fire"
    assert contents(folder) == before
