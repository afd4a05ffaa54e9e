"""A person's answers: what approving does, and when it does nothing and says why."""

import pytest
from cbo_station import Station

from chassis.domains import Level
from chassis.errors import Refused
from services.cbo.objectives import Schedule
from services.cbo.tasks import Task


def rehearsed(station: Station) -> Task:
    """A plan of log rotation that waits for its answer."""
    station.cbo.desk.submit("rotate the logs", "log_rotation", {}, Schedule(), "once", "operator")
    station.pulse(2)
    inbox = station.cbo.bridge.store.tasks("tasks_inbox", 50)
    return next(task for task in inbox if task.domain == "log_rotation")


def approve(station: Station, task: Task) -> Task:
    return station.cbo.desk.approve(task.id, task.plan_digest, "operator")


def kept(station: Station, task: Task) -> Task:
    return station.cbo.bridge.store.task(task.id)


def performed(station: Station, task: Task) -> int:
    return sum(each.rehearsal_of == task.id for each in station.done)


@pytest.mark.parametrize("level", [Level.OBSERVE, Level.SUGGEST])
def test_demotion_beats_an_approval_that_was_held(station: Station, level: Level) -> None:
    plan = rehearsed(station)
    station.cbo.desk.set_kill_switch(True, "look first", "operator")
    held = approve(station, plan)
    assert held.state == "held"
    station.cbo.desk.set_level("log_rotation", level, "not any more", station.cbo.pulse_number(), "operator")
    station.cbo.desk.set_kill_switch(False, "", "operator")
    station.pulse(3)
    ended = kept(station, held)
    assert (ended.state, performed(station, plan)) == ("rejected", 0)
    assert ended.why == f"level: lowered to {level.name} since operator approved it; nothing was done"


def test_demotion_beats_an_approval_that_is_out_but_not_begun(station: Station) -> None:
    plan = rehearsed(station)
    second = approve(station, plan)
    assert second.state == "ready" and second.dispatched_at is not None
    station.cbo.desk.set_level("log_rotation", Level.SUGGEST, "not any more", station.cbo.pulse_number(), "operator")
    station.cbo.reap()
    station.agent()
    station.cbo.reap()
    ended = kept(station, second)
    assert (ended.state, performed(station, plan)) == ("cancelled", 0)
    assert "lowered to SUGGEST since operator approved it; nothing was done" in ended.why
    assert len(station.audit("approval.void")) == 1


def test_after_a_demotion_there_is_nothing_to_approve(station: Station) -> None:
    plan = rehearsed(station)
    station.cbo.desk.set_level("log_rotation", Level.OBSERVE, "not any more", station.cbo.pulse_number(), "operator")
    with pytest.raises(Refused, match="lowered to OBSERVE"):
        approve(station, plan)
    assert kept(station, plan).approved_as == ""
    assert performed(station, plan) == 0
