import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from calyx.memory.v1 import memory_pb2_grpc
from memory_fakes import START, experience

from chassis.canonical import canonical_json, digest
from chassis.clock import VirtualClock
from chassis.executor import InlineExecutor
from chassis.rpc.local import LocalChannel
from chassis.rpc.server import Served
from cli.main import main
from cli.reach import Reach
from services.memory.experience import Outcome
from services.memory.memory import Memory
from services.memory.portable import export, take_in
from services.memory.servicer import ALLOW, MemoryServicer

NAME = "calyx.memory.v1.MemoryService"
PULSES = Path(__file__).resolve().parents[3] / "shared" / "data" / "legacy_pulses"

Run = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def memory(make_memory: Callable[..., Memory]) -> Memory:
    return make_memory()


@pytest.fixture
def run(memory: Memory, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """`calyx memory … --json`: (exit status, the document)."""
    servicer = MemoryServicer(
        memory,
        InlineExecutor(),
        clock=VirtualClock(START),
        root=tmp_path,
        backups=tmp_path / "memory" / "backups",
        station_id="st-own",
    )
    served = {NAME: Served(NAME, memory_pb2_grpc.add_MemoryServiceServicer_to_server, servicer, ALLOW)}
    reach = Reach(tmp_path, VirtualClock(START), lambda _layout, _service: LocalChannel(served, "operator"))

    def command(*arguments: str) -> tuple[int, dict[str, Any]]:
        capsys.readouterr()
        status = main(["memory", *arguments, "--json"], reach)
        out = capsys.readouterr().out
        return status, json.loads(out) if out else {}

    return command


def _take(memory: Memory, data: bytes, **changes: Any) -> Any:
    terms: dict[str, Any] = {"source": "old.jsonl", "namespace": "", "station_id": "st-own", "dry_run": False}
    return take_in(memory, data, **{**terms, **changes})


def test_what_one_station_exports_another_takes_in_with_id_times_and_later_outcomes(
    memory: Memory, make_memory: Callable[..., Memory], tmp_path: Path
) -> None:
    for number in range(1, 4):
        memory.record(experience(number, namespace="team" if number == 2 else "default"))
    memory.amend("e-3", Outcome.FAILURE, "it regressed", "later-1")
    lines = b"".join(export(memory.store, ""))
    end = json.loads(lines.splitlines()[-1])
    assert (end["count"], end["left_out"]) == (3, 0)
    memory.close()
    (tmp_path / "memory" / "experience.sqlite").unlink()
    other = make_memory()
    assert _take(other, lines).created == 3
    again = _take(other, lines)
    assert (again.created, again.known, again.refused) == (0, 3, ())
    found = {each.id: each for each in other.newest(10, "")}
    assert found["e-3"].outcome is Outcome.FAILURE
    assert found["e-2"].namespace == "team"
    assert found["e-1"].occurred_at == experience(1).occurred_at
    assert found["e-1"].origin == "import:old.jsonl"
    assert other.upkeep.verify().ok


def test_a_line_that_was_changed_is_refused_by_its_number_and_the_others_are_taken(memory: Memory) -> None:
    lines = [_line(id=f"x-{number}") for number in range(3)]
    lines[1] = lines[1].replace(b"rotate", b"remove")
    done = _take(memory, b"\n".join([*lines, b"{", b'{"experience": 3}', b"[1]"]))
    assert done.created == 2
    assert [each.partition(":")[0] for each in done.refused] == ["line 2", "line 4", "line 5", "line 6"]
    assert "digest" in done.refused[0]


def test_a_dry_run_takes_nothing_and_says_what_it_would(memory: Memory) -> None:
    memory.record(experience(1, id="x-1"))
    done = _take(memory, b"\n".join([_line(id="x-1"), _line(id="x-2")]), dry_run=True)
    assert (done.created, done.known) == (1, 1)
    assert memory.store.count() == 1


def test_what_a_line_does_not_say_is_unknown_and_not_zero(memory: Memory) -> None:
    _take(memory, _line(id="x-1"), namespace="older")
    (found,) = memory.newest(1, "")
    assert (found.tes, found.duration_seconds, found.files_changed, found.confidence) == (None, None, None, None)
    assert (found.outcome, found.namespace, found.station_id) == (Outcome.UNKNOWN, "older", "st-own")


def test_csv_keeps_its_columns_and_what_is_no_figure_stays_unknown(run: Run, memory: Memory, tmp_path: Path) -> None:
    path = tmp_path / "old.csv"
    path.write_text(
        "id,objective,occurred_at,outcome,tes,duration_seconds,context.site,cost.cpu_seconds\n"
        "c-1,rotate the logs,2025-01-31T12:00:00+01:00,success,N/A,1.5,here,0.25\n"
        ",rotate the logs,2025-01-31,,,,,\n"
        "c-3,rotate the logs,yesterday,success,1,1,,\n"
        "c-4,rotate the logs,2025-01-31,success,many,1,,\n"
    )
    status, value = run("import", str(path))
    assert (status, value["created"], value["known"]) == (1, 2, 0)
    assert [each.split(": ")[0] for each in value["refused"]] == ["old.csv line 4", "old.csv line 5"]
    assert run("import", str(path))[1]["known"] == 2
    found = {each.id: each for each in memory.newest(5, "")}
    first = found.pop("c-1")
    assert (first.tes, first.duration_seconds, dict(first.context)) == (None, 1.5, {"site": "here"})
    assert first.occurred_at.hour == 11
    (second,) = found.values()
    assert (second.outcome, second.tes, dict(second.cost)) == (Outcome.UNKNOWN, None, {})


def test_a_csv_column_that_nobody_knows_is_refused_by_name(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "old.csv"
    path.write_text("objective,occurred_at,mood\nrotate,2025-01-31,good\n")
    assert run("import", str(path))[0] == 2


def test_an_export_that_was_cut_short_is_taken_line_by_line_and_that_is_said(
    run: Run, memory: Memory, tmp_path: Path
) -> None:
    for number in range(1, 4):
        memory.record(experience(number))
    path = tmp_path / "all.jsonl"
    assert run("export", str(path))[1]["experiences"] == 3
    assert run("export", str(path))[0] == 2  # it is there already
    status, value = run("import", str(path))
    assert (status, value["known"], value["refused"]) == (0, 3, [])
    path.write_bytes(path.read_bytes().partition(b"\n")[2])
    status, value = run("import", str(path))
    assert status == 1
    assert "says 3 experiences, it has 2" in value["refused"][0]


@pytest.mark.skipif(not PULSES.is_dir(), reason="the older pulses (shared/data/legacy_pulses) are not here")
def test_the_older_pulses_come_in_with_their_times_and_repeats_stay_unknown(run: Run, memory: Memory) -> None:
    status, value = run("import", str(PULSES))
    assert (status, value["created"], value["refused"]) == (0, 410, [])
    assert run("import", str(PULSES))[1]["known"] == 410
    found = memory.newest(500, "")
    assert {each.outcome for each in found} == {Outcome.UNKNOWN}
    assert {each.origin for each in found} == {"import:legacy_pulses"}
    measured = [each for each in found if each.tes is not None]
    assert 0 < len(measured) < len(found)
    assert all("mean_tes" not in each.context for each in found if each.tes is None)
    first = next(each for each in found if each.pulse_id == "bp-0003")
    assert first.context["told_at"] == f"{first.occurred_at:%Y-%m-%d %H:%M:%S}"


def test_restore_and_backup_list_by_the_command(run: Run, memory: Memory) -> None:
    memory.record(experience(1))
    made = run("backup")[1]["path"]
    assert [each["path"] for each in run("backup", "--list")[1]["backups"]] == [made]
    memory.record(experience(2))
    status, value = run("restore", made, "--dry-run")
    assert (status, value["from_backup"], value["replayed"], value["lost"], value["set_aside"]) == (0, 1, 1, [], "")
    status, value = run("restore")
    assert (status, value["backup"], value["dry_run"]) == (0, made, False)
    assert value["set_aside"].startswith("memory/replaced/")
    assert run("verify")[1]["experiences"] == 2
    assert run("restore", "memory/backups/none.sqlite")[0] == 2


def _line(**changes: Any) -> bytes:
    plain = {
        "experience": {"objective": "rotate the logs", "occurred_at": "2025-01-31T12:00:00Z", **changes},
        "amendments": [],
    }
    return canonical_json({**plain, "digest": digest(plain)})
