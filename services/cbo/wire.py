"""Between the CBO's values and its messages."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from calyx.cbo.v1 import cbo_pb2 as pb
from calyx.common.v1 import common_pb2
from google.protobuf.timestamp_pb2 import Timestamp

from chassis.canonical import Json
from chassis.clock import parse_iso
from chassis.domains import Level
from chassis.errors import InvalidInput
from chassis.policy import NONE_YET, Rule, Used
from chassis.rpc.figures import figure_ok, figure_unknown
from services.cbo.admissions import Listed
from services.cbo.agents import Agent
from services.cbo.desk import Undone
from services.cbo.kpis import Kpi
from services.cbo.ladder import Rung
from services.cbo.objectives import Objective, Schedule
from services.cbo.policy_file import InForce
from services.cbo.posterior import Calibration
from services.cbo.replay import Verdict
from services.cbo.rows import Row
from services.cbo.tasks import Task
from services.cbo.uplift import Uplift


def stamp(moment: datetime | None) -> Timestamp | None:
    if moment is None:
        return None
    made = Timestamp()
    made.FromDatetime(moment)
    return made


def level_to_wire(level: Level) -> "common_pb2.Level.ValueType":
    return common_pb2.Level.Value(f"LEVEL_{level.name}")


def level_from_wire(level: int) -> Level:
    """Raises InvalidInput when it was not said."""
    try:
        return Level(level)
    except ValueError as error:
        raise InvalidInput("name a level: OBSERVE, SUGGEST, GUIDE or EXECUTE") from error


def schedule_from_wire(schedule: pb.Schedule) -> Schedule:
    every = schedule.every.ToTimedelta() if schedule.HasField("every") else None
    return Schedule(
        every=every if every else None,
        at=schedule.at.ToDatetime(tzinfo=UTC) if schedule.HasField("at") else None,
        every_pulse=schedule.every_pulse,
    )


def objective_to_wire(objective: Objective) -> pb.Objective:
    schedule = None
    if objective.schedule.repeats or objective.schedule.at is not None:
        schedule = pb.Schedule(at=stamp(objective.schedule.at), every_pulse=objective.schedule.every_pulse)
        if objective.schedule.every is not None:
            schedule.every.FromTimedelta(objective.schedule.every)
    return pb.Objective(
        id=objective.id,
        text=objective.text,
        domain=objective.domain,
        params=dict(objective.params),
        schedule=schedule,
        source=objective.source,
        state=objective.state,
        created_at=stamp(objective.created_at),
        last_planned_at=stamp(objective.last_planned_at),
        tasks=objective.tasks,
    )


def summary_to_wire(summary: Json, now: datetime) -> pb.PulseSummary:
    started = parse_iso(summary["started_at"])
    ended = started + timedelta(seconds=summary["duration_seconds"])
    if summary["tes"] is None:
        figure = figure_unknown("score", summary["tes_note"] or "no known TES")
    else:
        figure = figure_ok(summary["tes"], "score", ended, now, summary["tes_coverage"])
    return pb.PulseSummary(
        id=summary["id"],
        started_at=stamp(started),
        duration_seconds=summary["duration_seconds"],
        status=summary["status"],
        planned=summary["planned"],
        dispatched=summary["dispatched"],
        ended=summary["ended"],
        tes=figure,
        kill_switch=summary["kill_switch"],
        incidents=summary["incidents"],
        mood=summary["mood"],
    )


def policy_to_wire(found: InForce, used: Mapping[str, Used]) -> pb.GetPolicyResponse:
    return pb.GetPolicyResponse(
        source=found.source,
        digest=found.rules.digest,
        text=found.text,
        fault=found.rules.fault,
        refused=found.refused,
        since=stamp(found.since),
        rules=[_rule(each, used.get(each.name, NONE_YET)) for each in found.rules.rules],
    )


def _rule(rule: Rule, used: Used) -> pb.PolicyRule:
    counts = rule.per_pulse is not None or rule.per_day is not None
    return pb.PolicyRule(
        number=rule.number, line=rule.line, name=rule.name, allow=rule.allow,
        used_pulse=used.pulse if counts else None, used_day=used.day if counts else None,
    )  # fmt: skip


def task_to_wire(task: Task, verifications: list[Row], undo: tuple[bool, str]) -> pb.Task:
    return pb.Task(
        id=task.id,
        objective_id=task.objective_id,
        objective=task.objective,
        domain=task.domain,
        procedure=task.procedure,
        owner=task.owner,
        state=task.state,
        level=level_to_wire(task.level),
        attempt=task.attempt,
        gates=[pb.GateAnswer(gate=each["gate"], answer=each["answer"], reason=each["reason"]) for each in task.gates],
        prediction=task.prediction,
        tes=task.tes,
        tes_note=task.tes_note or ("" if task.scored else "not scored yet"),
        verifications=[_verification(row) for row in verifications],
        undo_possible=undo[0],
        undo_reason=undo[1],
        plan_digest=task.plan_digest,
        plan_json=json.dumps((task.ack or {}).get("plan", {})) if task.ack else "",
        ack_json=json.dumps(task.ack) if task.ack else "",
        rehearsal_of=task.rehearsal_of,
        pulse_id=task.pulse_id,
        ended_pulse_id=task.ended_pulse_id,
        created_at=stamp(task.created_at),
        ended_at=stamp(task.ended_at),
        why=task.why,
        choices=[
            f"{each['procedure']}: drew {each['draw']:.3f} from Beta({each['alpha']:.2f}, {each['beta']:.2f}), "
            f"utility {each['utility']:.3f}"
            for each in task.choices
        ],
    )


def _verification(row: Row) -> pb.Verification:
    return pb.Verification(
        window=row["window"],
        verdict=row["verdict"],
        due_at=stamp(parse_iso(row["due_at"])),
        probed_at=stamp(None if row["probed_at"] is None else parse_iso(row["probed_at"])),
        prober=row["prober"],
        detail=row["detail"],
    )


def rung_to_wire(rung: Rung, obstacle: str = "") -> pb.LadderEntry:
    standing = rung.standing
    return pb.LadderEntry(
        domain=rung.domain,
        level=level_to_wire(rung.level),
        max_level=level_to_wire(rung.max_level),
        reason=f"{rung.decision.reason} (since: {standing.reason})",
        run=standing.run,
        run_required=rung.run_required,
        tes_last=standing.tes_last,
        failures_20=standing.failures_in_window,
        mean_12=standing.mean,
        probation=standing.probation,
        evidence=standing.evidence,
        frozen=standing.frozen,
        next=f"{rung.decision.next}; {obstacle}" if obstacle else rung.decision.next,
        changed_at=stamp(rung.changed_at),
        evidence_goal=rung.terms.evidence_goal,
        effects_missing=rung.effects_missing,
        since=standing.reason,
        earned_level=level_to_wire(standing.level),
        obstacle=obstacle,
        demotions_288=rung.demotions,
        unknown_run=standing.unknown_run,
    )


def domain_to_wire(listed: Listed, station: str) -> pb.Domain:
    each = listed.manifest
    return pb.Domain(
        domain=each.domain,
        title=each.title,
        owner=each.owner,
        effects=each.effects,
        manifest_digest=each.digest,
        source=each.signed_by or "built-in",
        blocked=listed.blocked,
        expires_at=stamp(each.expires_at),
        paths=[path.replace("{station}", station) for path in each.paths],
        serial=each.serial,
        warning=listed.warning,
    )


def kpi_to_wire(kpi: Kpi, now: datetime) -> pb.Kpi:
    if kpi.value is None:
        figure = figure_unknown(kpi.unit, kpi.note)
        figure.coverage = kpi.coverage
    else:
        figure = figure_ok(kpi.value, kpi.unit, now, now, kpi.coverage)
    return pb.Kpi(name=kpi.name, target=kpi.target, value=figure, verdict=kpi.verdict, note=kpi.note)


def confidence_to_wire(known: Calibration, gain: Uplift) -> pb.Confidence:
    made = pb.Confidence(
        predictions=known.predictions, note=known.missing,
        uplift=gain.value, uplift_low=gain.low, uplift_high=gain.high, uplift_note=gain.note,
    )  # fmt: skip
    if known.missing or known.brier is None or known.ece is None:
        return made
    made.brier, made.calibration_error = known.brier, known.ece
    if known.skill is not None:
        made.skill = known.skill
    for each in known.bins:
        low, high = each.interval()
        made.bins.add(
            count=each.count,
            predicted=each.predicted / each.count,
            came=each.succeeded / each.count,
            low=low,
            high=high,
        )
    return made


def undone_to_wire(undone: Undone) -> pb.UndoResponse:
    return pb.UndoResponse(
        done=undone.done, detail=undone.detail, steps=list(undone.steps), undo_task_id=undone.task_id
    )


def agent_to_wire(agent: Agent) -> pb.Agent:
    return pb.Agent(
        agent=agent.name,
        domains=agent.domains,
        invited_by=agent.invited_by,
        invited_at=stamp(agent.invited_at),
        last_seen=stamp(agent.last_seen),
        version=agent.version,
        capabilities=agent.capabilities,
        revoked_at=stamp(agent.revoked_at),
        last_report=agent.report,
        reported_at=stamp(agent.reported_at),
    )


def replay_to_wire(verdict: Verdict) -> pb.ReplayPulsesResponse:
    return pb.ReplayPulsesResponse(
        pulse_id=verdict.pulse,
        status=verdict.status,
        reason=verdict.reason,
        findings=[pb.ReplayFinding(**each.to_json()) for each in verdict.findings],
        sections=verdict.sections,
        skipped=verdict.skipped,
    )
