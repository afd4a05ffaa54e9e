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


def test_an_answer_after_its_time_does_nothing_and_says_so(station: Station) -> None:
    plan = rehearsed(station)
    station.clock.advance(8 * 86_400)
    with pytest.raises(Refused, match=r"could be answered until .*; nothing was done"):
        approve(station, plan)
    with pytest.raises(Refused, match="nothing was done"):
        station.cbo.desk.reject(plan.id, "late", "operator")
    station.cbo.notifier.step()
    ended = kept(station, plan)
    assert (ended.state, ended.approved_as) == ("expired", "")
    assert ended.why.startswith("nobody answered until")
    assert plan.id in {str(each["task"]) for each in station.audit("task.unanswered")}
    with pytest.raises(Refused, match=r"is expired .*nothing was done"):
        approve(station, plan)
    assert performed(station, plan) == 0


def test_approving_twice_is_one_task_one_audit_line_and_no_override(station: Station) -> None:
    plan = rehearsed(station)
    first, second = approve(station, plan), approve(station, plan)
    station.pulse(2)
    assert first.id == second.id
    assert performed(station, plan) == 1
    assert len(station.audit("task.approved")) == 1
    assert next(each for each in station.cbo.kpis() if each.name == "overrides").value == 0.0


def test_an_approval_goes_on_after_the_cbo_was_restarted_in_its_middle(station: Station) -> None:
    plan = rehearsed(station)
    station.cbo.close()

    def crash(point: str) -> None:
        if point == "submitted":
            raise RuntimeError(point)

    station.open(crash)
    with pytest.raises(RuntimeError):
        approve(station, plan)
    station.cbo.bridge.store.close()
    station.open()
    again = approve(station, plan)
    station.agent()
    station.pulse(2)
    assert kept(station, again).state == "done"
    assert performed(station, plan) == 1, "neither lost nor repeated"


def test_at_most_one_plan_of_an_objective_waits_also_when_its_probe_was_late(station: Station) -> None:
    station.probers["governor"].down = True
    station.pulse(3)
    station.probers["governor"].down = False
    station.pulse(4)
    station.cbo.notifier.step()
    asked = [task.objective_id for task in station.cbo.bridge.store.tasks("tasks_inbox", 50)]
    assert len(asked) == len(set(asked)) == 1


def test_a_superseded_proposal_is_no_failure(station: Station) -> None:
    station.cbo.desk.set_level("diagnostics", Level.SUGGEST, "only tell me", 0, "operator")
    station.pulse()
    (proposal,) = station.cbo.bridge.store.tasks("tasks_inbox", 9)
    station.cbo.desk.set_level("diagnostics", Level.GUIDE, "try it", station.cbo.pulse_number(), "operator")
    station.pulse(4)
    ended = kept(station, proposal)
    assert (ended.state, ended.scored) == ("rejected", False)
    assert station.cbo.bridge.ladder.standing("diagnostics").failures_in_window == 0


def test_the_inbox_names_what_waits_and_says_when_the_guardian_is_silent(station: Station) -> None:
    plan = rehearsed(station)
    station.cbo.desk.set_kill_switch(True, "look first", "operator")
    assert "not been asked yet" in station.cbo.waiting.items()[1][0]
    station.cbo.waiting.look()
    items, unknown = station.cbo.waiting.items()
    found = {each.kind: each for each in items}
    assert unknown == ()
    assert found["kill_switch"].commands == ("calyx resume",) and found["kill_switch"].since is not None
    mine = next(each for each in items if each.id == plan.id)
    assert mine.until is not None and mine.since is not None
    assert (mine.until - mine.since).days == 7
    station.guardian.down = True
    station.clock.advance(180)
    assert "180 s ago" in station.cbo.waiting.items()[1][0]
    station.cbo.waiting.look()
    assert "connection refused" in station.cbo.waiting.items()[1][0]


def test_a_flag_that_was_set_while_the_cbo_was_down_keeps_its_author_on_record(station: Station) -> None:
    station.kill_switch.engage("look first", "operator", station.clock.now())
    station.cbo.reap()
    assert station.audit("kill_switch.engaged")[0]["by"] == "the flag file (operator)"
    station.layout.kill_switch.unlink()
    station.cbo.reap()
    assert station.audit("kill_switch.released")[0]["by"] == "the flag file"
