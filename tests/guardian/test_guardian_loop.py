import json
import os
from datetime import timedelta

import pytest
from guardian_world import World
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chassis.audit import verify
from chassis.canonical import canonical_json
from chassis.clock import iso
from chassis.errors import InvalidInput, NotFound, Refused
from chassis.layout import SERVICES
from services.guardian.guardian import TARGETS
from services.guardian.incidents import Class
from tests.full_disk import full_disk


def test_all_six_are_up_and_the_guardian_is_one_of_them(world: World) -> None:
    world.run(5)
    assert world.states() == dict.fromkeys(SERVICES, "up")
    assert world.guardian.incidents() == []


def test_a_killed_service_is_back_with_an_incident_a_recovery_and_a_cause(world: World) -> None:
    world.run(10)
    world.runtime.crash("memory")
    world.run(10)
    assert world.states()["memory"] == "up"
    (incident,) = world.guardian.incidents()
    assert (incident.target, incident.severity, incident.action) == ("memory", Class.MINOR, "restart")
    assert incident.closed_at is not None
    assert incident.recovered_seconds is not None
    assert incident.recovered_seconds <= 2
    assert incident.detected_seconds <= 4
    assert "SIGKILL" in incident.causes[0].cause
    assert all(cause.disproved_by for cause in incident.causes)
    on_disk = json.loads((world.layout.incidents / f"{incident.id}.json").read_text())
    assert (on_disk["class"], on_disk["recovery"]["action"]) == ("minor", "restart")


@pytest.mark.parametrize("target", TARGETS)
def test_twenty_kills_are_twenty_recoveries_without_a_person(world: World, target: str) -> None:
    for n in range(20):
        world.run(3 + n % 7)
        world.runtime.crash(target)
        world.run(25)
        assert world.states()[target] == "up"
    incidents = world.guardian.incidents(limit=100)
    assert len(incidents) == 20
    assert all(i.closed_at is not None for i in incidents)
    assert world.guardian.health().quarantined == ()


FAULTS = st.lists(
    st.tuples(st.integers(0, 30), st.sampled_from(TARGETS), st.sampled_from(["crash", "hang"])), max_size=12
)


@given(FAULTS)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_after_any_faults_everything_is_up_with_one_closed_incident_per_outage(
    tmp_path_factory: pytest.TempPathFactory, faults: list[tuple[int, str, str]]
) -> None:
    world = World(tmp_path_factory.mktemp("w"))
    for seconds, target, fault in faults:
        world.run(seconds)
        if fault == "crash":
            world.runtime.crash(target)
        else:
            world.hung.add(target)
        open_targets = [i.target for i in world.guardian.incidents(open_only=True, limit=500)]
        assert len(open_targets) == len(set(open_targets))
    world.run(150)
    assert world.states() == dict.fromkeys(SERVICES, "up")
    assert world.guardian.incidents(open_only=True) == []
    assert world.guardian.health().quarantined == ()
    assert verify(world.layout.audit("guardian")).first_bad is None


def test_a_bad_configuration_is_rolled_back_to_the_last_good_one(world: World) -> None:
    config = world.layout.root / "config" / "memory.env"
    config.parent.mkdir()
    config.write_text("CALYX_MEMORY_X=1\n")
    os.utime(config, (0, 0))  # long before the processes of this virtual January
    world.run(80)
    config.write_text("CALYX_MEMORY_X=broken\n")
    world.bad["memory"] = lambda: "broken" in config.read_text()
    world.runtime.crash("memory")
    world.run(30)
    assert world.states()["memory"] == "up"
    assert config.read_text() == "CALYX_MEMORY_X=1\n"
    (incident,) = world.guardian.incidents()
    assert (incident.severity, incident.action, incident.attempts) == (Class.MAJOR, "rollback", 2)
    kept = list((world.layout.state("guardian") / "replaced").iterdir())
    assert [path.read_text() for path in kept] == ["CALYX_MEMORY_X=broken\n"]


def test_a_service_that_does_not_come_up_ends_in_quarantine_and_a_person_releases_it(world: World) -> None:
    world.run(10)
    world.bad["cbo"] = lambda: True
    world.runtime.crash("cbo")
    world.run(300)
    assert world.guardian.health().quarantined == ("cbo",)
    assert world.states()["cbo"] == "quarantined"
    (incident,) = world.guardian.incidents()
    assert (incident.severity, incident.action, incident.closed_at) == (Class.CRITICAL, "quarantine", None)
    verbs = len(world.verbs("cbo"))
    world.begin()
    world.run(60)
    assert len(world.verbs("cbo")) == verbs, "a new guardian keeps the quarantine"
    with pytest.raises(Refused):
        world.guardian.run_playbook("restart", "cbo", dry_run=False, by="operator")
    world.bad.clear()
    assert world.guardian.release("cbo", "operator")
    world.run(10)
    assert world.states()["cbo"] == "up"
    assert world.guardian.incidents(open_only=True) == []
    assert not world.guardian.release("cbo", "operator")


def test_an_outage_of_most_services_restarts_each_one_by_one_and_quarantines_none(world: World) -> None:
    world.run(10)
    down = TARGETS[:4]
    for target in down:
        world.runtime.crash(target)
        world.bad[target] = lambda: True
    world.run(300)
    (station,) = [i for i in world.guardian.incidents(limit=50) if i.target == "station"]
    assert (station.severity, station.closed_at) == (Class.CRITICAL, None)
    assert world.guardian.health().quarantined == ()
    assert all(3 <= len(world.verbs(target)) <= 12 for target in down)
    world.bad.clear()
    world.run(120)
    assert world.states() == dict.fromkeys(SERVICES, "up")
    assert world.guardian.incidents(open_only=True) == []


def test_what_the_governor_put_to_sleep_is_shown_sleeping_and_not_healed(world: World) -> None:
    world.sleeping.add("analytics")
    world.run(5)
    assert world.states()["analytics"] == "sleeping"
    world.hung.add("analytics")
    world.run(60)
    assert world.runtime.calls == []
    world.runtime.crash("analytics")
    world.run(5)
    assert world.verbs("analytics") == ["restart"]


def test_planned_downtime_is_not_healed_but_an_end_that_never_came_is_not_waited_for(world: World) -> None:
    world.run(20)
    line = json.dumps({"from": iso(world.clock.now()), "to": None})
    (world.layout.state("guardian") / "maintenance.jsonl").write_text(line + "\n")
    world.runtime.stop("dashboard")
    world.run(300)
    assert world.verbs("dashboard") == ["stop"]
    world.run(400)
    assert world.states()["dashboard"] == "up"


def test_a_runtime_that_does_not_answer_is_tried_again(world: World) -> None:
    world.run(10)
    world.runtime.crash("memory")
    world.runtime.reachable = False
    world.run(60)
    assert world.states()["memory"] == "down"
    world.runtime.reachable = True
    world.run(10)
    assert world.states()["memory"] == "up"
    assert len(world.guardian.incidents()) == 1


def test_a_critical_report_stops_the_target_and_only_some_may_make_one(world: World) -> None:
    world.run(5)
    mild = world.guardian.report("memory", "slow", Class.CRITICAL, "dashboard")
    assert mild.severity is Class.MAJOR
    assert world.states()["memory"] == "up"
    grave = world.guardian.report("memory", "row 7 does not match its digest", Class.CRITICAL, "memory")
    assert grave.id == mild.id
    assert world.states()["memory"] == "quarantined"
    assert world.verbs("memory") == ["stop"]


def test_a_report_about_a_service_that_answers_closes_by_itself(world: World) -> None:
    world.run(5)
    world.guardian.report("governor", "no capacity for a while", Class.MINOR, "cbo")
    world.run(5)
    (incident,) = world.guardian.incidents()
    assert incident.closed_at is not None
    assert incident.action == "none"
    assert incident.reported_by == "cbo"
    with pytest.raises(InvalidInput):
        world.guardian.report("moon", "dark", Class.MINOR, "cbo")


def test_a_playbook_by_hand_has_a_dry_run_and_a_cooldown(world: World) -> None:
    world.run(60)
    done, detail = world.guardian.run_playbook("restart", "memory", dry_run=True, by="operator")
    assert (done, detail) == (False, "would start memory again")
    assert world.runtime.calls == []
    assert world.guardian.run_playbook("restart", "memory", dry_run=False, by="operator")[0]
    with pytest.raises(Refused):
        world.guardian.run_playbook("restart", "memory", dry_run=False, by="operator")
    with pytest.raises(NotFound):
        world.guardian.run_playbook("dance", "memory", dry_run=True, by="operator")
    assert world.guardian.incidents() == []


def test_the_guardian_reports_its_own_unclean_start_and_not_a_clean_one(world: World) -> None:
    world.run(5)
    world.guardian.stop()
    world.begin()
    assert world.guardian.incidents() == []
    world.begin()
    (incident,) = world.guardian.incidents()
    assert (incident.target, incident.severity) == ("guardian", Class.MINOR)
    assert incident.closed_at is not None


def test_an_open_outage_goes_on_under_the_same_incident_after_the_guardian_restarts(world: World) -> None:
    world.run(10)
    world.bad["memory"] = lambda: True
    world.runtime.crash("memory")
    world.run(6)
    world.guardian.stop()
    world.begin()
    world.bad.clear()
    world.run(40)
    (incident,) = world.guardian.incidents()
    assert incident.closed_at is not None


def test_an_answer_of_long_ago_is_unknown_not_up(world: World) -> None:
    world.run(5)
    world.clock.advance(60.0)
    assert set(world.states().values()) == {"unknown"}
    rows = {row.service: row for row in world.guardian.health().services}
    assert rows["memory"].uptime_seconds is None
    assert rows["memory"].age_seconds is not None


def test_between_rounds_healthy_services_are_left_alone(world: World) -> None:
    world.run(300)
    assert world.probes == 100 * len(TARGETS)


def test_a_minute_in_which_all_answer_is_an_up_slot(world: World) -> None:
    began = world.clock.now()
    world.run(200)
    world.runtime.reachable = False
    world.runtime.crash("memory")
    world.run(100)
    slots = world.guardian.health(began - timedelta(minutes=5)).slots
    assert [slot.state for slot in slots] == ["up", "up", "up", "down", "down"][: len(slots)]
    assert len(slots) >= 4
    assert slots[-1].state == "down"


def test_a_rollback_with_nothing_to_roll_back_is_told_as_the_restart_that_it_was(world: World) -> None:
    world.run(80)
    for _ in range(2):
        world.runtime.crash("memory")
        world.run(30)
    newest, first = world.guardian.incidents()
    assert (first.severity, first.action) == (Class.MINOR, "restart")
    assert (newest.severity, newest.action) == (Class.MAJOR, "restart")


def test_on_a_full_disk_the_guardian_starts_and_heals(world: World) -> None:
    world.run(70)
    world.clock.advance(300)
    with full_disk():
        world.begin()
        world.runtime.crash("memory")
        world.run(130)
        assert world.states()["memory"] == "up"


def test_an_incident_about_the_guardian_closes_once_it_makes_its_rounds(world: World) -> None:
    world.run(5)
    world.guardian.report("guardian", "it looked slow", Class.MINOR, "cbo")
    world.run(5)
    (incident,) = world.guardian.incidents()
    assert incident.closed_at is not None


def test_a_guardian_killed_while_it_reported_its_last_end_leaves_no_incident_open(world: World) -> None:
    world.run(5)
    world.begin()
    (own,) = world.guardian.incidents()
    path = world.layout.incidents / f"{own.id}.json"
    path.write_bytes(canonical_json({**own.to_json(), "closed_at": None}))
    world.clock.advance(1.0)
    world.begin()
    world.run(5)
    assert world.guardian.incidents(open_only=True) == []


def test_what_a_person_reported_about_the_station_a_person_can_close(world: World) -> None:
    world.run(5)
    world.guardian.report("station", "it is loud", Class.MINOR, "operator")
    world.run(5)
    assert world.guardian.release("station", "operator")
    assert world.guardian.incidents(open_only=True) == []
