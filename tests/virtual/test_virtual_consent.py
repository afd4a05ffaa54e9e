"""Rotation in a folder outside the station, end to end: allowed, rehearsed, approved, confirmed, then by itself."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from calyx.cbo.v1 import cbo_pb2
from calyx.cbo.v1.cbo_pb2_grpc import CboServiceStub

from chassis import consent
from chassis.domains import Level
from services.cbo.tasks import Task
from tests.virtual.virtual_station import VirtualStation, packaged


class Place:
    """A station at EXECUTE for log_rotation, and an application's folder outside of it."""

    def __init__(self, root: Path) -> None:
        self.station = VirtualStation(
            root / "station", packaged(), seed="consent", interval_seconds=60.0, busy_hours=frozenset()
        )
        self.station.layout.logs.mkdir(exist_ok=True)
        self.app = (root / "app").resolve()
        self.app.mkdir()
        self.station.step(60)
        self.station.overseer.desk.cancel_objective("o-builtin-log-rotation", "test")
        self.raise_level()

    def raise_level(self) -> None:
        """A refused task costs the level, which nobody may raise in that very pulse; this is about consent."""
        self.station.step(60)
        self.station.overseer.desk.set_level(
            "log_rotation", Level.EXECUTE, "to see what consent does", self.station.overseer.pulse_number(), "test"
        )

    def log(self) -> None:
        with (self.app / "app.log").open("a") as log:
            log.writelines(f"line {n}\n" for n in range(20_000))

    def allow(self) -> None:
        layout = self.station.layout
        new = consent.AllowedPath(
            domain="log_rotation",
            path=consent.folder_of(str(self.app), layout.root),
            by="operator",
            at=self.station.clock.now(),
        )
        consent.update(layout, lambda paths: consent.with_path(paths, new))

    def forbid(self) -> None:
        consent.update(self.station.layout, lambda paths: consent.without_path(paths, "log_rotation", self.app))

    def rotate(self, **params: str) -> Task:
        """One objective, and the task that it became."""
        cbo = CboServiceStub(self.station.channel("operator"))
        request = cbo_pb2.SubmitObjectiveRequest(text="rotate the logs", domain="log_rotation", params=params)
        objective = cbo.SubmitObjective(request).objective.id
        self.station.step(180)
        made = self.station.overseer.bridge.store.tasks("tasks", "", "log_rotation", 10)
        return next(each for each in made if each.objective_id == objective)

    def task(self, task_id: str) -> Task:
        return self.station.overseer.bridge.store.task(task_id)

    def audit(self, prefix: str) -> list[dict[str, Any]]:
        lines = map(json.loads, self.station.layout.audit("cbo").read_text().splitlines())
        return [line for line in lines if line["event"].startswith(prefix)]

    def archives(self) -> list[str]:
        return sorted(path.name for path in self.app.iterdir() if path.name != "app.log")


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    made.station.close()


def test_an_outside_folder_needs_consent_then_one_approval_then_none(place: Place) -> None:
    place.log()
    refused = place.rotate(folders=str(place.app))
    assert refused.state == "failed"
    assert f"calyx domain allow-path log_rotation {place.app}" in refused.why
    assert place.archives() == []

    place.raise_level()
    place.allow()
    rehearsed = place.rotate()
    assert (rehearsed.state, rehearsed.level, place.archives()) == ("rehearsed", Level.GUIDE, [])
    level = next(each for each in rehearsed.gates if each["gate"] == "level")
    assert f"the first effect under {place.app} needs your approval" in level["reason"]
    assert [each["by"] for each in place.audit("consent.given")] == ["operator"]

    approved = place.station.overseer.desk.approve(rehearsed.id, rehearsed.plan_digest, "operator")
    place.station.step(180)
    done = place.task(approved.id)
    assert (done.state, done.stability) == ("done", 1.0), f"{done.why}; {done.tes_note}"
    assert len(place.archives()) == 1
    assert [each["task"] for each in place.audit("consent.confirmed")] == [approved.id]
    assert consent.read(place.station.layout)[0].confirmed_at is not None
    assert place.audit("policy.violation") == []

    place.log()
    alone = place.rotate()
    assert (alone.state, alone.level, alone.approval) == ("done", Level.EXECUTE, "")
    assert len(place.archives()) == 2
    assert place.audit("policy.violation") == []

    place.log()
    place.forbid()
    elsewhere = place.rotate()
    assert (elsewhere.state, elsewhere.level) == ("done", Level.EXECUTE)
    assert place.rotate(folders=str(place.app)).state == "failed"
    assert len(place.archives()) == 2, "what was withdrawn is left alone"
    assert [each["path"] for each in place.audit("consent.withdrawn")] == [str(place.app)]

    undone = place.station.overseer.desk.undo(alone.id, dry_run=False, cascade=False, who="operator", wait_seconds=0.0)
    place.station.step(60)
    assert (place.task(alone.id).state, len(place.archives())) == ("undone", 1), undone.detail


def test_consent_withdrawn_between_approval_and_effect_changes_nothing(place: Place) -> None:
    place.allow()
    place.log()
    rehearsed = place.rotate()
    approved = place.station.overseer.desk.approve(rehearsed.id, rehearsed.plan_digest, "operator")
    place.forbid()
    place.station.step(180)
    assert place.task(approved.id).state == "failed"
    assert place.archives() == []


def test_a_damaged_file_allows_nothing_and_is_said_once(place: Place) -> None:
    place.allow()
    place.station.step(60)
    place.station.layout.consents.write_text("{}")
    place.log()
    assert place.rotate(folders=str(place.app)).state == "failed"
    assert len(place.audit("consent.unreadable")) == 1
    assert place.audit("consent.withdrawn") == []
