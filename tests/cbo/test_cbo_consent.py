"""Folders outside the station: what the CBO plans, confirms, audits and calls a violation."""

from collections.abc import Callable
from pathlib import Path

import pytest
from cbo_station import Station

from chassis import consent
from chassis.consent import AllowedPath
from chassis.domains import Level
from services.cbo.gates import careful
from services.cbo.objectives import Schedule

APP = Path("/srv/app")  # the CBO itself never looks into it


@pytest.fixture
def at_execute(station: Station) -> Station:
    station.pulse()
    station.cbo.desk.set_level("log_rotation", Level.EXECUTE, "to see what consent does", 1, "test")
    return station


def allow(station: Station) -> None:
    new = AllowedPath(domain="log_rotation", path=APP, by="operator", at=station.clock.now())
    consent.update(station.layout, lambda paths: consent.with_path(paths, new))


def forbid(station: Station) -> None:
    consent.update(station.layout, lambda paths: consent.without_path(paths, "log_rotation", APP))


def task(station: Station, target: str = "/srv/app/app.log", *, pulses: int = 3) -> str:
    """One objective whose task changes `target`; its id, after as many pulses."""
    change = {"op": "rotate", "target": target, "before_sha256": "00", "after_sha256": "01", "size_bytes": 1}
    station.answer.effects = (change,)
    objective = station.cbo.desk.submit("rotate", "log_rotation", {}, Schedule(), "", "operator")
    station.pulse(pulses)
    made = station.cbo.bridge.store.tasks("tasks", "", "log_rotation", 50)
    return next(each.id for each in made if each.objective_id == objective.id)


def approve(station: Station, task_id: str) -> str:
    kept = station.cbo.bridge.store.task(task_id)
    return station.cbo.desk.approve(task_id, kept.plan_digest, "operator").id


def violations(station: Station) -> list[str]:
    """Those of log rotation; the same effects of `diagnostics`, which has no consent, are violations always."""
    return [str(each["task"]) for each in station.audit("policy.violation") if each["domain"] == "log_rotation"]


def test_an_unconfirmed_folder_holds_execute_at_guide_and_lower_levels_where_they_are() -> None:
    assert [careful(level, ("/srv/app",)) for level in Level] == [*list(Level)[:3], Level.GUIDE]
    assert [careful(level, ()) for level in Level] == list(Level)


def test_only_an_approved_effect_under_the_folder_confirms_it(at_execute: Station) -> None:
    station = at_execute
    allow(station)
    elsewhere = task(station, str(station.layout.logs / "a.log"))
    assert station.cbo.bridge.store.task(elsewhere).state == "rehearsed"
    approve(station, elsewhere)
    station.pulse(2)
    assert consent.read(station.layout)[0].confirmed_at is None
    assert station.audit("consent.confirmed") == []
    under = task(station)
    approve(station, under)
    station.pulse(2)
    assert consent.read(station.layout)[0].confirmed_at is not None
    assert station.cbo.bridge.store.task(task(station)).level is Level.EXECUTE
    assert violations(station) == []


def test_a_refuted_effect_confirms_nothing(at_execute: Station) -> None:
    allow(at_execute)
    rehearsed = task(at_execute)
    at_execute.probers["guardian"].verdict = "refuted"
    approve(at_execute, rehearsed)
    at_execute.pulse(2)
    assert consent.read(at_execute.layout)[0].confirmed_at is None


def test_an_effect_without_consent_is_a_violation(at_execute: Station) -> None:
    made = task(at_execute)
    assert violations(at_execute) == [made]


def test_consent_withdrawn_after_the_effect_makes_no_violation_of_it(at_execute: Station) -> None:
    station = at_execute
    allow(station)
    second = approve(station, task(station))
    station.agent()
    station.clock.advance(1)
    forbid(station)
    station.pulse(2)
    assert station.cbo.bridge.store.task(second).state == "done"
    assert violations(station) == []
    assert len(station.audit("consent.withdrawn")) == 1
    later = task(station)
    assert violations(station) == [later]


def test_what_was_given_and_withdrawn_is_audited_once_also_across_a_restart(
    new_station: Callable[..., Station],
) -> None:
    station = new_station()
    allow(station)
    station.cbo.reap()
    station.cbo.reap()
    station.cbo.close()
    station.open()
    station.pulse()
    assert [(each["domain"], each["path"], each["by"]) for each in station.audit("consent.given")] == [
        ("log_rotation", "/srv/app", "operator")
    ]
    forbid(station)
    station.cbo.reap()
    allow(station)
    station.pulse(2)
    assert (len(station.audit("consent.given")), len(station.audit("consent.withdrawn"))) == (2, 1)
