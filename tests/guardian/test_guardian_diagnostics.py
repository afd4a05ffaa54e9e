import json
import shutil
import sqlite3
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

import pytest
from guardian_world import FakeMachine, World

from chassis.canonical import Json
from chassis.errors import Unavailable
from chassis.exchange.manifest import Manifest, TaskId
from chassis.probing import Check, Verdict, run_checks
from services.guardian import diagnostics
from services.guardian.diagnostics import Diagnostics


@dataclass
class PlainEffects:
    """The changes without their journal, to see which ones were asked for."""

    done: list[tuple[str, str]] = field(default_factory=list)

    def create(self, target: Path, source: Path, *, mode: int = 0o644) -> None:
        assert not target.exists()
        self.done.append(("create", str(target)))
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(source, target)

    def replace(self, target: Path, source: Path, *, expect_sha256: str | None = None) -> None:
        raise AssertionError("a report replaces nothing")

    def remove(self, target: Path, *, inverse: Json | None = None) -> None:
        self.done.append(("remove", str(target)))
        target.unlink()

    def rotate(self, target: Path, to: Path) -> None:
        raise AssertionError("a report rotates nothing")


def task(world: World, task_id: str = "t-1", procedure: str = "quick", rehearsal_of: str = "") -> Manifest:
    return Manifest(
        station_id="st-1",
        task_id=TaskId(task_id),
        owner="guardian",
        issuer="cbo",
        domain="diagnostics",
        procedure=procedure,
        created_at=world.clock.now(),
        expires_at=world.clock.now() + timedelta(minutes=5),
        ttl_seconds=300,
        rehearsal_of=rehearsal_of,
    )


def work(world: World, machine: FakeMachine | None = None) -> Diagnostics:
    return Diagnostics(
        world.layout,
        world.clock,
        machine or world.machine,
        world.guardian.health,
        lambda: (True, "3 experiences checked"),
        "st-1",
        file_seconds=lambda _path: None,
    )


def scratch(world: World, name: str) -> Path:
    folder = world.root / "work" / name
    folder.mkdir(parents=True)
    return folder


def checked(claims: tuple[Json, ...]) -> Verdict:
    return run_checks([Check.from_claim(claim) for claim in claims]).verdict


def items(path: Path) -> dict[str, tuple[str, str]]:
    return {i["check"]: (i["result"], i["found"]) for i in json.loads(path.read_text())["items"]}


def test_a_rehearsal_plans_the_files_that_the_approved_run_then_makes(world: World) -> None:
    world.run(5)
    diagnose, effects = work(world), PlainEffects()
    plan = diagnose.rehearse(task(world), scratch(world, "a"))
    assert checked(plan.claims) is Verdict.CONFIRMED
    world.clock.advance(30)
    approved = task(world, "t-2", rehearsal_of="t-1")
    assert diagnose.rehearse(approved, scratch(world, "b")).digest == plan.digest
    outcome = diagnose.perform(approved, scratch(world, "c"), effects)
    assert effects.done == [(change.op, change.target) for change in plan.changes]
    assert checked(outcome.claims) is Verdict.CONFIRMED


def test_a_report_says_what_is_wrong_and_what_is_not_known(world: World) -> None:
    world.run(5)
    world.layout.memory.mkdir()
    for name, text in (("good", None), ("bad", b"not a database at all")):
        path = world.layout.memory / f"{name}.sqlite"
        if text is None:
            with sqlite3.connect(path) as database:
                database.execute("CREATE TABLE t (x)")
            database.close()
        else:
            path.write_bytes(text)
    world.runtime.reachable = False
    world.runtime.crash("cbo")
    world.run(10)
    diagnose = work(world, FakeMachine(ram=None, free=1024))
    outcome = diagnose.perform(task(world, procedure="full"), scratch(world, "a"), PlainEffects())
    report = world.root / "reports" / "diagnostics" / "t-1.json"
    found = items(report)
    assert found["database memory/bad.sqlite"][0] == "fail"
    assert found["database memory/good.sqlite"][0] == "ok"
    assert found["memory"][0] == "unknown"
    assert found["disk"][0] == "warn"
    assert found["service cbo"][0] == "fail"
    assert found["memory store"] == ("ok", "3 experiences checked")
    assert json.loads(report.read_text())["result"] == "fail"
    assert checked(outcome.claims) is Verdict.CONFIRMED
    assert "| service cbo | fail |" in report.with_suffix(".md").read_text()


def test_memory_that_can_not_verify_itself_is_unknown_not_ok(world: World) -> None:
    def silent() -> tuple[bool, str]:
        raise Unavailable("memory does not answer")

    world.run(5)
    diagnose = Diagnostics(
        world.layout, world.clock, world.machine, world.guardian.health, silent, "st-1", file_seconds=lambda _: None
    )
    diagnose.perform(task(world, procedure="full"), scratch(world, "a"), PlainEffects())
    assert items(world.root / "reports" / "diagnostics" / "t-1.json")["memory store"][0] == "unknown"


def test_what_was_whole_is_read_through_again_after_a_quarter_of_an_hour_and_says_when_it_was(world: World) -> None:
    asked: list[float] = []

    def verify() -> tuple[bool, str]:
        asked.append(world.clock.monotonic())
        return len(asked) < 3, f"{len(asked)} times asked"

    diagnose = Diagnostics(
        world.layout, world.clock, world.machine, world.guardian.health, verify, "st-1", file_seconds=lambda _: None
    )
    found = []
    for number, wait in enumerate((0, 60, 900, 900, 60)):
        world.clock.advance(wait)
        given = replace(task(world, procedure="full"), task_id=TaskId(f"t-{number}"))
        diagnose.perform(given, scratch(world, f"s{number}"), PlainEffects())
        found.append(items(world.root / "reports" / "diagnostics" / f"t-{number}.json")["memory store"])
    assert found == [
        ("ok", "1 times asked"),
        ("ok", "1 times asked, 60 s ago"),
        ("ok", "2 times asked"),
        ("fail", "3 times asked"),
        ("fail", "4 times asked"),
    ]


def test_the_oldest_report_goes_when_there_are_enough(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnostics, "KEPT_REPORTS", 3)
    diagnose = work(world)
    for n in range(5):
        effects = PlainEffects()
        given = replace(task(world), task_id=TaskId(f"t-{n}"))
        plan = diagnose.rehearse(given, scratch(world, f"r{n}"))
        diagnose.perform(given, scratch(world, f"p{n}"), effects)
        assert effects.done == [(change.op, change.target) for change in plan.changes]
    kept = sorted(path.name for path in (world.root / "reports" / "diagnostics").iterdir())
    assert kept == [f"t-{n}.{kind}" for n in (2, 3, 4) for kind in ("json", "md")]


def test_a_rolling_run_reads_one_large_database_through_and_the_next_run_another(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diagnostics, "QUICK_CHECK_BYTES", 64)
    world.run(5)
    world.layout.memory.mkdir()
    for name in ("a", "b"):
        with sqlite3.connect(world.layout.memory / f"{name}.sqlite") as database:
            database.execute("CREATE TABLE t (x)")
        database.close()
    diagnose, through = work(world), []
    for n in range(3):
        outcome = diagnose.perform(task(world, f"t-{n}", "rolling"), scratch(world, f"s{n}"), PlainEffects())
        assert outcome.cost["cpu_seconds"] >= 0.0
        found = items(world.root / "reports" / "diagnostics" / f"t-{n}.json")
        through.append([name for name in ("a", "b") if "integrity ok" in found[f"database memory/{name}.sqlite"][1]])
        world.clock.advance(60)
    assert through == [["a"], ["b"], ["a"]]
