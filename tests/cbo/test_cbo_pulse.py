"""The pulse on a virtual clock: what it plans, sends, scores and records."""

import json
import sqlite3
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from cbo_station import Station

from chassis.canonical import canonical_json
from chassis.clock import parse_iso
from chassis.domains import Level
from chassis.errors import CalyxError, Damaged, Drifted, InvalidInput, NotFound, Refused, ResourceExhausted, Unavailable
from chassis.exchange.manifest import Manifest
from chassis.exchange.port import Receipt
from services.cbo.ladder_log import rebuild
from services.cbo.objectives import Schedule
from services.cbo.ports import Incident, Intent, Recalled
from tests.full_disk import full_disk

NewStation = Callable[..., Station]


def level(station: Station, domain: str = "diagnostics") -> Level:
    return station.cbo.bridge.ladder.standing(domain).level


def promote(station: Station) -> None:
    station.pulse(6)
    assert level(station) is Level.EXECUTE


def test_a_new_station_left_alone_reaches_execute_after_five_good_pulses(station: Station) -> None:
    for _ in range(5):
        station.pulse()
        assert level(station) is Level.GUIDE
    record = station.pulse()
    assert level(station) is Level.EXECUTE
    assert record["critique"]["level_changes"][0]["after"] == "EXECUTE"
    assert station.audit("level.changed")[0]["domain"] == "diagnostics"
    assert all(task.rehearsal for task in station.done[:-1])
    station.pulse()
    assert station.done[-1].rehearsal is False and station.done[-1].level == "EXECUTE"


def test_builtin_schedules_also_rehearse_the_hourly_domains(new_station: NewStation) -> None:
    station = new_station(every_pulse_only=False)
    station.pulse()
    assert {task.domain for task in station.done} == set(station.domains) - {"cleanup"}, "it comes by an intent only"
    station.pulse(3)
    assert sum(task.domain == "log_rotation" for task in station.done) == 1


def test_a_refuted_effect_counts_as_failure_and_three_demote(station: Station) -> None:
    promote(station)
    station.pulse(3)
    station.probers["governor"].verdict = "refuted"
    station.pulse(4)
    assert level(station) is Level.GUIDE
    change = station.audit("level.changed")[-1]
    assert change["after"] == "GUIDE"
    assert station.cbo.bridge.ladder.rung("diagnostics").run_required == 10


def test_the_ladder_is_the_fold_of_what_the_pulse_records_hold(station: Station) -> None:
    promote(station)
    station.pulse(4)
    station.probers["governor"].verdict = "refuted"
    station.pulse(5)
    records = [json.loads(path.read_bytes()) for path in sorted(station.layout.pulses.glob("*/bp-*.json"))]
    assert rebuild(records)["diagnostics"] == station.cbo.bridge.ladder.standing("diagnostics")


def test_no_work_is_neither_scored_nor_counted_nor_remembered(station: Station) -> None:
    station.answer.status = "no_work"
    record = station.pulse(3)
    assert record["critique"]["ended"][0]["tes_note"] == "no work"
    assert record["critique"]["tes"]["diagnostics"]["value"] is None
    assert station.cbo.bridge.ladder.standing("diagnostics").run == 0
    assert station.memory.experiences == {}


def test_an_ack_without_claims_leaves_the_tes_unknown_and_three_freeze(station: Station) -> None:
    station.answer.claims = False
    record = station.pulse(5)
    assert record["critique"]["ended"][0]["tes"] is None
    assert record["critique"]["ended"][0]["probe"]["verdict"] == "inconclusive"
    assert station.cbo.bridge.ladder.standing("diagnostics").frozen
    station.answer.claims = True
    station.pulse(2)
    assert not station.cbo.bridge.ladder.standing("diagnostics").frozen


def test_a_silent_prober_is_asked_again_and_then_the_tes_stays_unknown(station: Station) -> None:
    station.pulse()
    station.probers["governor"].down = True
    first = station.done[0].task_id
    station.pulse(2)
    assert not station.cbo.bridge.store.task(first).scored
    station.pulse()
    kept = station.cbo.bridge.store.task(first)
    assert kept.scored and kept.tes is None and kept.tes_note == "probe inconclusive"


def test_a_prober_that_comes_back_in_time_scores_the_task(station: Station) -> None:
    station.pulse()
    station.probers["governor"].down = True
    station.pulse()
    station.probers["governor"].down = False
    station.pulse()
    assert station.cbo.bridge.store.task(station.done[0].task_id).tes == 100.0


def test_under_the_kill_switch_tasks_are_held_and_go_on_after_release(station: Station) -> None:
    station.cbo.desk.set_kill_switch(True, "look first", "operator")
    record = station.pulse(3)
    assert record["kill_switch"] == {"engaged": True, "why": "look first"}
    assert station.done == []
    held = station.cbo.bridge.store.tasks("tasks_open")
    assert [task.state for task in held] == ["held"], "runs missed meanwhile coalesce into one"
    station.clock.advance(7200)
    station.cbo.desk.set_kill_switch(False, "", "operator")
    station.pulse()
    assert [task.task_id for task in station.done] == [held[0].id]
    assert station.done[0].expires_at - station.done[0].created_at == timedelta(seconds=300)
    assert len(station.audit("kill_switch.engaged")) == 1


def test_a_flag_set_by_hand_is_audited_as_an_override(station: Station) -> None:
    station.kill_switch.engage("by hand", "somebody", station.clock.now())
    station.pulse()
    assert station.audit("kill_switch.engaged")[0]["override"] is True
    overrides = next(each for each in station.cbo.kpis() if each.name == "overrides")
    assert overrides.value == 1.0


def test_what_the_kill_switch_stopped_between_claim_and_effect_is_planned_again(station: Station) -> None:
    station.cbo.desk.submit("rotate the logs", "log_rotation", {}, Schedule(), "once", "operator")
    station.answer.status, station.answer.detail = "cancelled", "stopped by the kill switch: look first"
    station.pulse()
    station.answer.status = None
    record = station.pulse()
    assert all(not each["worked"] for each in record["critique"]["ended"]), "neither success nor failure"
    station.pulse()
    assert sum(task.domain == "log_rotation" for task in station.done) == 2


@pytest.mark.parametrize("point", ["planned", "submitted", "dispatched", "probed", "settled", "committed"])
def test_a_crash_anywhere_in_a_pulse_repeats_nothing_and_loses_nothing(station: Station, point: str) -> None:
    station.pulse(2)
    station.crash_at(point)
    station.agent()
    station.clock.advance(60)
    station.pulse(3)
    ids = [task.task_id for task in station.done]
    assert len(ids) == len(set(ids)), "no task twice"
    planned = {row["id"] for row in station.cbo.bridge.store.rows("tasks", "", "", 500)}
    assert planned == set(ids), "no task lost"
    pulses = [each["id"] for each in station.cbo.pulses(100)]
    assert pulses == sorted(set(pulses), reverse=True)
    assert pulses[-1] == "bp-000000001" and len(pulses) == 6
    crashed = station.record("bp-000000003")
    assert crashed["status"] == ("complete" if point == "committed" else "interrupted")
    assert len(station.memory.experiences) == len(ids) - 1


def test_every_record_is_canonical_json_with_the_keys_readers_rely_on(station: Station) -> None:
    station.pulse(3)
    folder = station.layout.pulses / "20260101"
    text = (folder / "bp-000000003.json").read_bytes()
    record = json.loads(text)
    assert text == canonical_json(record) + b"\n"
    assert set(record) >= {
        "schema", "id", "station_id", "status", "started_at", "ended_at", "duration_seconds", "interval_seconds",
        "kill_switch", "reflect", "plan", "act", "critique", "audit_heads", "rng", "versions",
    }  # fmt: skip
    assert record["reflect"]["capacity"]["swap_percent"]["state"] == "unknown"
    assert "value" not in record["reflect"]["capacity"]["swap_percent"]
    assert len(record["audit_heads"]["cbo"]) == 64
    page = (folder / "bp-000000003.md").read_text()
    assert "# Check-in bp-000000003 (Bridge Pulse)" in page and "Rehearse and ask (GUIDE)" in page


def test_silent_services_are_unknown_and_the_pulse_still_ends(station: Station) -> None:
    for peer in (station.governor, station.guardian, station.memory, station.analytics):
        peer.down = True
    record = station.pulse()
    assert set(record["reflect"]["silent"]) == {"governor", "guardian", "memory", "analytics"}
    assert record["plan"]["tasks"][0]["state"] == "held"
    admission = next(each for each in record["plan"]["tasks"][0]["gates"] if each["gate"] == "admission")
    assert admission["answer"] == "hold" and "connection refused" in admission["reason"]
    for peer in (station.governor, station.guardian, station.memory, station.analytics):
        peer.down = False
    station.pulse()
    assert len(station.done) == 1


def test_experiences_wait_for_memory_and_are_kept_once(station: Station) -> None:
    station.pulse()
    station.memory.down = True
    station.pulse(2)
    assert station.memory.experiences == {}
    station.memory.down = False
    station.pulse()
    assert set(station.memory.experiences) == {f"x-{task.task_id}" for task in station.done[:3]}


def test_a_guardian_silent_for_long_goes_on_record_once(station: Station) -> None:
    station.guardian.down = True
    station.pulse(6)
    assert len(station.audit("guardian.silent")) == 1


def test_a_pulse_carries_each_incident_once_with_its_causes(station: Station) -> None:
    station.pulse()
    station.guardian.found.append(
        Incident(
            id="i-1", grade="minor", target="memory", symptom="no answer", opened_at=station.clock.now(),
            closed_at=station.clock.now() + timedelta(seconds=3), action="restart: restart", recovered_seconds=3.0,
            causes=({"cause": "killed", "confidence": 0.8, "evidence": ["SIGKILL"], "disproved_by": "an exit code"},),
        )
    )  # fmt: skip
    record = station.pulse()
    assert record["reflect"]["incidents"][0]["root_cause"][0]["cause"] == "killed"
    assert station.pulse()["reflect"]["incidents"] == []


def test_an_intent_becomes_one_objective_and_one_task(station: Station) -> None:
    station.governor.intents = (Intent(id="n-1", kind="cleanup", domain="cleanup", reason="RAM 85 %"),)
    station.pulse(4)
    assert sum(task.domain == "cleanup" for task in station.done) == 1
    assert station.cbo.bridge.store.objective("o-n-1").source == "governor:n-1"


def test_the_choice_and_every_draw_are_in_the_record(station: Station) -> None:
    planned = station.pulse()["plan"]["tasks"][0]
    assert {each["procedure"] for each in planned["draws"]} == {"quick", "rolling", "full"}
    assert planned["prediction"] == 0.5
    assert planned["procedure"] == max(planned["draws"], key=lambda each: each["utility"])["procedure"]


def test_the_same_station_and_pulse_draw_the_same(new_station: NewStation) -> None:
    first, second = new_station(), new_station()
    assert first.pulse(3)["plan"] == second.pulse(3)["plan"]


def test_an_objective_without_a_domain_takes_that_of_a_like_experience_or_asks(station: Station) -> None:
    made = station.cbo.desk.submit("shrink those journals", "", {}, Schedule(), "", "operator")
    station.pulse()
    assert "which domain" in station.cbo.bridge.store.objective(made.id).note
    station.memory.matches = (
        Recalled(
            id="x", cosine=0.9, domain="log_rotation", procedure="xz-6", outcome="success", tes=99.0, rehearsal=False
        ),
    )
    station.pulse()
    assert any(task.domain == "log_rotation" for task in station.done)


def test_a_repeated_submit_with_its_key_changes_nothing(station: Station) -> None:
    first = station.cbo.desk.submit("rotate the logs", "log_rotation", {}, Schedule(), "k", "operator")
    again = station.cbo.desk.submit("rotate the logs", "log_rotation", {}, Schedule(), "k", "operator")
    assert first.id == again.id
    with pytest.raises(InvalidInput):
        station.cbo.desk.submit("  ", "", {}, Schedule(), "", "operator")
    with pytest.raises(NotFound):
        station.cbo.desk.submit("fly", "aviation", {}, Schedule(), "", "operator")


def rehearsed(station: Station) -> str:
    station.cbo.desk.submit("rotate the logs", "log_rotation", {}, Schedule(), "once", "operator")
    station.pulse(2)
    inbox = station.cbo.bridge.store.tasks("tasks_inbox", 50)
    return next(task.id for task in inbox if task.domain == "log_rotation")


def test_approving_a_rehearsal_makes_one_task_with_effects_at_once(station: Station) -> None:
    waiting = rehearsed(station)
    digest = station.cbo.bridge.store.task(waiting).plan_digest
    with pytest.raises(Drifted):
        station.cbo.desk.approve(waiting, "another plan", "operator")
    second = station.cbo.desk.approve(waiting, digest, "operator")
    assert station.cbo.desk.approve(waiting, digest, "operator").id == second.id
    station.agent()
    sent = [task for task in station.done if task.rehearsal_of == waiting]
    assert len(sent) == 1
    assert (sent[0].approval, sent[0].plan_digest, sent[0].rehearsal) == ("operator", digest, False)
    assert waiting not in {task.id for task in station.cbo.bridge.store.tasks("tasks_inbox", 50)}
    assert not [event for event in station.audit("task.approved") if event.get("override")]


def test_an_objective_asked_once_is_done_when_its_approved_task_ended(station: Station) -> None:
    waiting = rehearsed(station)
    task = station.cbo.bridge.store.task(waiting)
    station.pulse()
    assert station.cbo.bridge.store.objective(task.objective_id).state == "active"
    station.cbo.desk.approve(waiting, task.plan_digest, "operator")
    station.agent()
    station.pulse()
    assert station.cbo.bridge.store.objective(task.objective_id).state == "done"


def test_rejecting_is_no_override_and_leaves_nothing_to_approve(station: Station) -> None:
    waiting = rehearsed(station)
    station.cbo.desk.reject(waiting, "not today", "operator")
    assert station.cbo.desk.reject(waiting, "not today", "operator").state == "rejected"
    with pytest.raises(Refused):
        station.cbo.desk.approve(waiting, f"plan-{waiting}", "operator")
    assert station.cbo.kpis()[4].value == 0.0


def test_at_most_one_proposal_of_an_objective_waits(station: Station) -> None:
    station.pulse(5)
    inbox = station.cbo.bridge.store.tasks("tasks_inbox", 50)
    assert len(inbox) == 1
    superseded = station.cbo.bridge.store.tasks("tasks", "expired", "", 50)
    assert all("superseded by" in task.why for task in superseded) and superseded


def test_at_suggest_one_proposal_waits_and_nothing_runs(station: Station) -> None:
    station.cbo.desk.set_level("diagnostics", Level.SUGGEST, "only tell me", 0, "operator")
    station.pulse(3)
    assert station.done == []
    assert [task.state for task in station.cbo.bridge.store.tasks("tasks_inbox", 9)] == ["proposed"]


def test_at_observe_nothing_but_the_record_is_kept(station: Station) -> None:
    station.cbo.desk.set_level("diagnostics", Level.OBSERVE, "only watch", 0, "operator")
    record = station.pulse(2)
    assert station.done == []
    assert record["plan"]["tasks"][0]["state"] == "recorded"
    assert station.cbo.bridge.store.counts() == {}


def test_a_forced_level_needs_a_reason_and_is_an_override(station: Station) -> None:
    with pytest.raises(InvalidInput):
        station.cbo.desk.set_level("diagnostics", Level.EXECUTE, " ", 0, "operator")
    rung = station.cbo.desk.set_level("diagnostics", Level.EXECUTE, "I trust it", 0, "operator")
    assert rung.standing.probation
    assert station.cbo.kpis()[4].value == 1.0


def test_on_probation_one_effect_a_pulse(station: Station) -> None:
    station.cbo.desk.set_level("log_rotation", Level.EXECUTE, "go", 0, "operator")
    for number in range(3):
        station.cbo.desk.submit("rotate the logs", "log_rotation", {}, Schedule(), f"k{number}", "operator")
    record = station.pulse()
    assert sum(task.domain == "log_rotation" for task in station.done) == 1
    reasons = [task["reason"] for task in record["plan"]["tasks"] if task["state"] == "held"]
    assert all("probation" in reason for reason in reasons) and len(reasons) == 2
    station.pulse(2)
    assert sum(task.domain == "log_rotation" for task in station.done) == 3


def test_cancelling_what_waits_is_no_override_but_cancelling_a_running_one_is(station: Station) -> None:
    station.governor.admits = False
    station.pulse()
    held = station.cbo.bridge.store.tasks("tasks_open")[0]
    assert station.cbo.desk.cancel(held.id, "", "operator").state == "cancelled"
    assert station.cbo.kpis()[4].value == 0.0
    station.governor.admits = True
    station.cbo.run_pulse()
    running = station.cbo.bridge.store.tasks("tasks_open")[0]
    station.exchange.claim("guardian", "guardian-1", 1)
    station.cbo.desk.cancel(running.id, "wrong", "operator")
    assert station.cbo.kpis()[4].value == 1.0


def executed(station: Station) -> str:
    promote(station)
    station.pulse(2)
    return next(task.task_id for task in station.done if not task.rehearsal)


def test_undo_goes_to_the_owner_even_under_the_kill_switch_and_is_an_override(station: Station) -> None:
    task = executed(station)
    station.cbo.desk.set_kill_switch(True, "stop", "operator")
    asked = station.cbo.desk.undo(task, dry_run=False, cascade=False, who="operator", wait_seconds=0)
    assert not asked.done and "has not answered" in asked.detail
    station.agent()
    station.cbo.reap()
    assert station.cbo.bridge.store.task(task).state == "undone"
    again = station.cbo.desk.undo(task, dry_run=False, cascade=False, who="operator", wait_seconds=0)
    assert again.done and "already" in again.detail
    assert len(station.audit("task.undo")) == 1
    windows = {row["window"]: row["verdict"] for row in station.cbo.bridge.store.rows("verifications_of", task)}
    assert windows["+24h"] == "cancelled"


def test_a_dry_run_of_undo_changes_nothing_and_is_no_override(station: Station) -> None:
    task = executed(station)
    asked = station.cbo.desk.undo(task, dry_run=True, cascade=False, who="operator", wait_seconds=0)
    station.agent()
    station.cbo.reap()
    assert station.done[-1].params == {"dry_run": "true"} and station.done[-1].task_id == asked.task_id
    assert station.cbo.bridge.store.task(task).state == "done"
    assert station.audit("task.undo") == []


def test_a_rehearsal_can_not_be_undone(station: Station) -> None:
    station.pulse(2)
    with pytest.raises(Refused, match="nothing was changed"):
        station.cbo.desk.undo(station.done[0].task_id, dry_run=False, cascade=False, who="operator", wait_seconds=0)


def test_later_changes_of_the_same_file_stand_in_the_way_of_undo_unless_cascaded(station: Station) -> None:
    target = str(station.layout.root / "reports" / "diagnostics" / "latest.json")
    promote(station)
    station.answer.effects = ({"op": "replace", "target": target},)
    station.pulse(3)
    first = next(task.task_id for task in station.done if not task.rehearsal)
    with pytest.raises(Refused, match="cascade"):
        station.cbo.desk.undo(first, dry_run=False, cascade=False, who="operator", wait_seconds=0)
    for _ in range(4):
        station.cbo.desk.undo(first, dry_run=False, cascade=True, who="operator", wait_seconds=0)
        station.agent()
        station.cbo.reap()
    undone = [task.undo_of for task in station.done if task.undo_of]
    assert undone[-1] == first and len(undone) >= 2
    assert station.cbo.bridge.store.task(first).state == "undone"


def test_an_effect_that_held_after_a_minute_raises_the_evidence(station: Station) -> None:
    executed(station)
    before = station.cbo.bridge.ladder.standing("diagnostics").evidence
    record = station.pulse()
    assert {"+1m"} == {each["window"] for each in record["critique"]["verifications"]}
    assert station.cbo.bridge.ladder.standing("diagnostics").evidence > before


def test_a_regression_is_a_failure_of_the_pulse_that_finds_it_and_amends_the_experience(station: Station) -> None:
    task = executed(station)
    score = station.cbo.bridge.store.task(task).tes
    before = station.cbo.bridge.ladder.standing("diagnostics").evidence
    station.answer.status = "no_work"
    station.probers["governor"].verdict = "refuted"
    record = station.pulse()
    assert record["critique"]["verifications"][0]["verdict"] == "regressed"
    assert station.cbo.bridge.ladder.standing("diagnostics").evidence < before
    assert record["critique"]["tes"]["diagnostics"]["failures"] == 1, "the other run that ended, refuted at once"
    station.pulse()
    assert station.memory.amended[f"x-{task}:+1m"] == (f"x-{task}", "failure")
    assert station.cbo.bridge.store.task(task).tes == score, "a TES once scored never changes"


def test_a_window_missed_by_downtime_is_inconclusive(station: Station) -> None:
    task = executed(station)
    station.clock.advance(600)
    station.pulse()
    windows = {row["window"]: row["verdict"] for row in station.cbo.bridge.store.rows("verifications_of", task)}
    assert windows["+1m"] == "inconclusive" and windows["+1h"] == "pending"


def test_effects_outside_the_declared_folders_are_an_executed_violation(station: Station) -> None:
    promote(station)
    station.answer.effects = ({"op": "create", "target": "/etc/passwd"},)
    station.pulse(2)
    assert station.audit("policy.violation")[0]["targets"] == ["/etc/passwd"]
    assert station.cbo.kpis()[2].verdict == "missed"


def test_a_missing_policy_denies_everything_with_the_reason(new_station: NewStation, tmp_path: Path) -> None:
    station = new_station(policy=tmp_path / "nothing.json")
    record = station.pulse()
    assert station.done == []
    policy = next(each for each in record["plan"]["tasks"][0]["gates"] if each["gate"] == "policy")
    assert policy == {"gate": "policy", "answer": "refuse", "reason": "denied: policy nothing.json is missing"}
    assert station.audit("policy.blocked")


def test_a_revoked_domain_runs_nothing_until_it_is_readmitted(station: Station) -> None:
    station.cbo.desk.admissions.revoke("diagnostics", "noisy", "operator")
    station.pulse()
    assert station.done == []
    station.cbo.desk.admissions.approve('{"domain": "diagnostics"}', "operator")
    station.pulse()
    assert len(station.done) == 1
    with pytest.raises(Refused):
        station.cbo.desk.admissions.approve('{"domain": "aviation"}', "operator")


def test_only_one_cbo_holds_a_station(station: Station) -> None:
    with pytest.raises(Unavailable, match="another CBO"):
        station.open()


def test_old_pulses_are_forgotten_by_count(new_station: NewStation) -> None:
    station = new_station(keep_pulses=10)
    station.pulse(25)
    kept = sorted(path.stem for path in station.layout.pulses.rglob("bp-*.json"))
    assert kept == [f"bp-{number:09d}" for number in range(16, 26)]
    assert station.cbo.pulses(100)[-1]["id"] == kept[0]


def test_every_is_kept_in_step_with_jittering_pulses(station: Station) -> None:
    station.cbo.desk.submit(
        "rotate the logs", "log_rotation", {}, Schedule(every=timedelta(seconds=120)), "", "operator"
    )
    for jitter in (0.01, -0.02, 0.015, -0.01, 0.0, 0.02):
        station.pulse()
        station.clock.advance(0.05 + jitter)
    assert sum(task.domain == "log_rotation" for task in station.done) == 3


def test_an_exchange_that_lost_a_task_gets_it_again_under_the_same_id(station: Station) -> None:
    station.cbo.run_pulse()
    lost = station.cbo.bridge.store.tasks("tasks_open")[0]
    station.exchange._tasks.clear()
    station.exchange._queues.clear()
    station.clock.advance(60)
    station.cbo.run_pulse()
    station.clock.advance(60)
    station.pulse()
    assert lost.id in {task.task_id for task in station.done}


def test_an_expired_task_that_its_agent_had_begun_is_a_failure(station: Station) -> None:
    station.cbo.run_pulse()
    (claim,) = station.exchange.claim("guardian", "guardian-1", 1)
    station.exchange.nack(claim, 1.0, "not now")
    station.clock.advance(400)
    record = station.pulse()
    assert record["critique"]["ended"][0]["state"] == "expired"
    assert record["critique"]["ended"][0]["stability"] == 0.0


def test_an_expired_task_that_nobody_took_is_neither_success_nor_failure(station: Station) -> None:
    station.cbo.run_pulse()
    station.clock.advance(400)
    record = station.pulse()
    assert record["critique"]["ended"][0]["state"] == "expired"
    assert record["critique"]["ended"][0]["stability"] is None
    assert {each["value"] for each in record["critique"]["tes"].values()} == {None}


def test_a_pulse_says_when_it_began_and_how_old_it_is(station: Station) -> None:
    record = station.pulse()
    assert parse_iso(record["started_at"]) == station.clock.now() - timedelta(seconds=60)


def test_what_a_later_task_changed_is_superseded_but_only_if_it_would_be_looked_at(station: Station) -> None:
    promote(station)
    shared = {"op": "rotate", "target": str(station.layout.root / "reports" / "diagnostics" / "live.log")}
    station.answer.effects = (shared,)
    station.pulse(4)
    first = next(task for task in station.done if not task.rehearsal)
    store = station.cbo.bridge.store
    verdict = {row["window"]: row["verdict"] for row in store.rows("verifications_of", first.task_id)}
    assert verdict["+1m"] == "held", "the archive it claims is untouched, though the live log was rotated again"
    claimed = store.task(first.task_id).ack["claims"][0]["target"]  # type: ignore[index]  # it was acked
    station.answer.effects = ({"op": "remove", "target": claimed},)
    station.pulse(70)
    verdict = {row["window"]: row["verdict"] for row in store.rows("verifications_of", first.task_id)}
    assert verdict["+1h"] == "superseded"


def test_a_record_that_could_not_be_written_is_written_with_a_later_pulse(station: Station) -> None:
    station.pulse()
    folder = station.layout.pulses
    hidden = folder.rename(folder.with_name("hidden"))
    folder.write_text("in the way")
    station.pulse(2)
    folder.unlink()
    hidden.rename(folder)
    station.pulse()
    assert [station.record(f"bp-00000000{n}")["status"] for n in (1, 2, 3, 4)] == ["complete"] * 4
    assert station.cbo.bridge.store.rows("pulses_unwritten")[0]["id"] == "bp-000000004"


def test_a_pulse_that_breaks_off_gets_its_record_without_a_restart(station: Station) -> None:
    station.pulse()
    audit = station.layout.audit("cbo")
    hidden = audit.rename(audit.with_name("hidden"))
    audit.mkdir()
    with pytest.raises(OSError, match="directory"):
        station.pulse()
    audit.rmdir()
    hidden.rename(audit)
    station.pulse()
    assert station.record("bp-000000002")["status"] == "interrupted"
    assert [each["id"] for each in station.cbo.pulses(9)] == ["bp-000000003", "bp-000000002", "bp-000000001"]
    station.pulse()
    ids = [task.task_id for task in station.done]
    assert len(ids) == len(set(ids)) == len(station.cbo.bridge.store.rows("tasks", "", "", 500))


@pytest.mark.parametrize("error", [ResourceExhausted("no room"), Unavailable("not written")])
def test_a_full_exchange_delays_a_task_and_does_not_break_the_pulse(station: Station, error: CalyxError) -> None:
    submit, full = station.exchange.submit, [error]

    def refuse(manifest: Manifest, *, hold: bool = False) -> Receipt:
        if full:
            raise full.pop()
        return submit(manifest, hold=hold)

    station.exchange.submit = refuse  # type: ignore[method-assign]  # an exchange with no room, once
    assert station.pulse()["status"] == "complete"
    station.pulse()
    assert len(station.done) == 1


def test_the_database_goes_on_after_a_full_disk(station: Station) -> None:
    station.pulse()
    store = station.cbo.bridge.store
    with full_disk(), pytest.raises(sqlite3.Error), store.transaction():
        store.set_fact("fits in no log", "so the commit fails")
    with store.transaction():
        store.set_fact("after", "it goes on")
    assert (store.fact("fits in no log"), store.fact("after")) == (None, "it goes on")


def test_a_flag_that_could_not_be_audited_is_audited_later_and_once(station: Station) -> None:
    station.pulse()
    station.kill_switch.path.touch()
    with full_disk(), pytest.raises(OSError, match=r"full|large"):
        station.cbo.desk.notice_kill_switch()
    station.cbo.desk.notice_kill_switch()
    station.cbo.desk.notice_kill_switch()
    assert len(station.audit("kill_switch.engaged")) == 1


def test_on_a_full_disk_a_person_can_stop_and_the_record_follows(station: Station) -> None:
    station.pulse()
    with full_disk():
        assert station.cbo.desk.set_kill_switch(True, "the disk is full", "operator")
    assert station.kill_switch.engaged()
    station.pulse()
    assert len(station.audit("kill_switch.engaged")) == 1


@pytest.mark.parametrize("damage", [b"\xff\xfe", b"{broken"])
def test_a_damaged_record_is_named_as_damaged(station: Station, damage: bytes) -> None:
    station.pulse(2)
    (station.layout.pulses / "20260101" / "bp-000000001.json").write_bytes(damage)
    with pytest.raises(Damaged, match="bp-000000001"):
        station.record("bp-000000001")
