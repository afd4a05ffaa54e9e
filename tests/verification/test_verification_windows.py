"""When an effect is looked at again, what counts then, and what follows from it."""

import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from chassis.domains import DomainManifest
from chassis.errors import InvalidInput
from services.cbo.ports import Capacity, Reading
from services.cbo.tasks import Task
from tests.verification.lie_world import DOMAIN, LieStation, station


@pytest.fixture
def made() -> Iterator[list[LieStation]]:
    stations: list[LieStation] = []
    yield stations
    for each in stations:
        each.close()


def done(made: list[LieStation], **fields: Any) -> tuple[LieStation, Task]:
    """A station whose one task was done honestly and confirmed."""
    found = station(**fields)
    made.append(found)
    found.stock(2)
    found.execute()
    return found, finish(found)


def finish(found: LieStation) -> Task:
    task = found.dispatch()
    found.work()
    assert found.judge(task).task.stability == 1.0
    return found.cbo.bridge.store.task(task.id)


def pulse_at(found: LieStation, task: Task, seconds: float) -> None:
    assert task.ended_at is not None
    found.clock.advance(seconds - (found.clock.now() - task.ended_at).total_seconds())
    found.cbo.run_pulse()


def test_a_manifest_says_when_its_effects_are_looked_at_again(made: list[LieStation]) -> None:
    found, task = done(made, windows=["+1m", "+30m"])
    assert set(found.verdicts(task)) == {"+0", "+1m", "+30m"}
    pulse_at(found, task, 70)
    pulse_at(found, task, 1830)
    assert set(found.verdicts(task).values()) == {"held"}


@pytest.mark.parametrize("windows", [["+1h"], ["+1m", "soon"], ["+1m", "1h"], ["+1m", "+0h"]])
def test_a_window_that_is_none_or_leaves_out_the_first_minute_is_refused(windows: list[str]) -> None:
    with pytest.raises(InvalidInput, match="window"):
        DomainManifest.from_mapping({**DOMAIN, "windows": windows})


@pytest.mark.parametrize(
    "fields",
    [
        {"metrics": {"mood": 1}},
        {"metrics": {"cpu_percent": -1}},
        {"watch": {"paths": []}},
        {"undo_on_regression": "perhaps"},
        {"checks": [{"kind": "absent"}]},
    ],
)
def test_what_a_manifest_can_not_say_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        DomainManifest.from_mapping({**DOMAIN, **fields})


def test_a_window_that_fell_into_downtime_is_inconclusive_though_the_effect_is_there(made: list[LieStation]) -> None:
    found, task = done(made)
    found.cbo.close()
    assert task.ended_at is not None
    found.clock.advance(3600.0 + 3 * 3600.0)
    found.restart()
    found.cbo.run_pulse()
    verdicts = found.verdicts(task)
    assert (verdicts["+1m"], verdicts["+1h"], verdicts["+24h"]) == ("inconclusive", "inconclusive", "pending")
    pulse_at(found, task, 86_410)
    assert found.verdicts(task)["+24h"] == "held"


def test_what_was_undone_is_cancelled(made: list[LieStation]) -> None:
    found, task = done(made)
    found.cbo.desk.undo(task.id, dry_run=False, cascade=False, who="operator", wait_seconds=0.0)
    found.work()
    pulse_at(found, task, 70)
    assert {found.verdicts(task)[each] for each in ("+1m", "+1h", "+24h")} == {"cancelled"}


def _moved(station: LieStation, value: float, chance: random.Random) -> None:
    reading = Reading(value=value + chance.uniform(-1, 1), state="ok", unit="percent", age_seconds=1.0, coverage=1.0)
    capacity = Capacity(readings=dict.fromkeys(("cpu_percent", "ram_percent", "disk_percent"), reading))
    station.governor.capacity = lambda _pulse: capacity  # type: ignore[method-assign]  # as the machine would read


def _an_hour(found: LieStation, value: float, chance: random.Random, minutes: int) -> None:
    for _ in range(minutes):
        _moved(found, value, chance)
        found.cbo.run_pulse()
        found.clock.advance(60.0)


def test_a_metric_that_rose_beyond_its_bound_is_a_regression_and_is_undone(made: list[LieStation]) -> None:
    chance = random.Random(3)
    found = station(metrics={"ram_percent": 5, "cpu_percent": None}, undo_on_regression="on")
    made.append(found)
    found.stock(2)
    _an_hour(found, 40.0, chance, 20)
    found.execute()
    before = {path.name: path.read_bytes() for path in found.shelf.iterdir() if path.is_file()}
    task = finish(found)
    _an_hour(found, 60.0, chance, 61)
    row = next(r for r in found.cbo.bridge.store.rows("verifications_of", task.id) if r["window"] == "+1h")
    assert row["verdict"] == "regressed", row["detail"]
    assert "ram_percent rose by more than it may" in row["detail"]
    assert "cpu_percent changed by +" in row["detail"]
    found.work()
    found.cbo.reap()
    assert found.cbo.bridge.store.task(task.id).state == "undone"
    assert {path.name: path.read_bytes() for path in found.shelf.iterdir() if path.is_file()} == before
    line = next(each for each in found.audit("task.undo"))
    assert line["by"] == "station" and not line.get("override"), "nobody overrode anything"


def test_a_metric_with_too_few_readings_says_so_and_decides_nothing(made: list[LieStation]) -> None:
    found, task = done(made, metrics={"ram_percent": 1})
    pulse_at(found, task, 70)
    row = next(r for r in found.cbo.bridge.store.rows("verifications_of", task.id) if r["window"] == "+1m")
    assert row["verdict"] == "held" and "ram_percent unknown" in row["detail"]


def test_a_regression_that_drifted_too_far_is_left_to_a_person(made: list[LieStation]) -> None:
    found, task = done(made, undo_on_regression="on")
    next(found.shelf.glob("n*.twice")).write_text("somebody else's")
    pulse_at(found, task, 70)
    found.work()
    found.cbo.reap()
    assert found.verdicts(task)["+1m"] == "regressed"
    assert found.cbo.bridge.store.task(task.id).state == "done"
    undo = found.cbo.bridge.store.tasks("tasks_undoing", task.id)[0]
    assert undo.state == "failed" and "nothing was touched" in undo.why
    (item,) = (each for each in found.cbo.waiting.items()[0] if each.kind == "regression")
    assert item.id == task.id and item.since is not None
    assert "regressed at +1m" in item.title and "nothing was touched" in item.title
    found.cbo.desk.undo(task.id, dry_run=True, cascade=False, who="operator", wait_seconds=0.0)
    found.work()
    found.cbo.reap()
    assert [each for each in found.cbo.waiting.items()[0] if each.kind == "regression"], "a look changes nothing"
    found.clock.advance(8 * 86_400.0)
    found.cbo.reap()
    assert not [each for each in found.cbo.waiting.items()[0] if each.kind == "regression"], "nobody answered"


def test_when_the_later_task_was_refuted_nobody_knows_what_it_left(made: list[LieStation]) -> None:
    found, task = done(made)
    target = next(found.shelf.glob("n*.twice"))
    effect = {"op": "replace", "target": str(target), "after_sha256": "00"}
    later = found.dispatch()
    found.forge(lambda _task, plain: replace(plain, effects=(effect,)))
    assert found.judge(later).failed
    pulse_at(found, task, 3610)
    assert found.verdicts(task)["+1h"] == "inconclusive"
