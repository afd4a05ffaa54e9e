"""The pulse record: every input and decision by value, canonical JSON; and its few figures."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import chassis.rng
from chassis.atomic import write_whole
from chassis.canonical import Json
from chassis.clock import iso
from chassis.domain_book import WARN_DAYS
from services.cbo.bridge import Bridge
from services.cbo.judging import Judged, heard_json, probe_json
from services.cbo.ladder import Changed, Rung
from services.cbo.objectives import Objective
from services.cbo.posterior import Calibration
from services.cbo.pulse import Planned, Pulse
from services.cbo.report import report
from services.cbo.tasks import Task
from services.cbo.tes import PulseTes, Score

SCHEMA = "calyx.pulse/2"
"""From /2 on a record holds all that its decisions rest on, sealed, and the seal of the record before it."""


def record_of(pulse: Pulse, bridge: Bridge, heads: Mapping[str, str]) -> Json:
    """The whole record of a finished pulse."""
    assert pulse.ended_at is not None
    states = {task.id: task.state for task in pulse.dispatched}
    return {
        **_head(bridge, pulse.id, pulse.started_at),
        "status": "complete",
        "ended_at": iso(pulse.ended_at),
        "duration_seconds": pulse.duration_seconds,
        "kill_switch": {"engaged": pulse.reflection.kill_switch is not None, "why": pulse.reflection.kill_switch or ""},
        "reflect": _reflect(pulse),
        "plan": {
            "objectives": [
                {
                    "id": objective.id, "text": objective.text, "domain": objective.domain,
                    "source": objective.source, "reason": reason, **_timing(objective),
                    "busy": objective.id in pulse.busy,
                }
                for objective, reason in pulse.objectives
            ],
            "steps": [each.to_json() for each in pulse.steps],
            "tasks": [planned_json(each, states) for each in pulse.planned],
        },
        "gate_log": pulse.gate_log,
        "act": {
            "dispatched": [sent_json(task) for task in pulse.dispatched]
        },
        "critique": _critique(pulse, bridge),
        "audit_heads": dict(heads),
        "rng": {"version": chassis.rng.VERSION, "seed": pulse.seed},
    }  # fmt: skip


def interrupted(bridge: Bridge, pulse_id: str, started_at: datetime, reason: str) -> Json:
    """The record of a pulse that the CBO did not end. What it did not come to is empty."""
    return {
        **_head(bridge, pulse_id, started_at),
        "status": "interrupted",
        "reason": reason,
        "ended_at": None,
        "duration_seconds": None,
        "kill_switch": {"engaged": bridge.kill_switch.engaged(), "why": bridge.kill_switch.why()},
        "reflect": {"capacity": {}, "services": None, "incidents": None, "acks": [], "verifications_due": [],
                    "trends": None, "intents": None, "silent": {}},
        "plan": {"objectives": [], "tasks": []},
        "act": {"dispatched": []},
        "critique": {"ended": [], "tes": {}, "ladder": [], "kpis": [], "experiences": []},
        "audit_heads": {},
        "rng": {"version": chassis.rng.VERSION, "seed": None},
    }  # fmt: skip


@cache
def sources() -> str:
    """Digest of the code that decides, as this process found it: another one may decide otherwise."""
    of = sha256()
    for folder in (Path(__file__).parent, Path(chassis.rng.__file__).parent):
        for path in sorted(folder.glob("*.py")):
            of.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return of.hexdigest()


def summary_of(pulse: Pulse) -> Json:
    """The pulse in a few figures, as lists show it."""
    ended = [each for each in pulse.critique.judged if not each.waiting]
    known = [each.score.tes for each in ended if each.score.tes is not None]
    worked = [each for each in ended if each.score.worked]
    note = "" if known else ("no known TES" if worked else "no work ended")
    return {
        "id": pulse.id,
        "started_at": iso(pulse.started_at),
        "duration_seconds": pulse.duration_seconds,
        "status": "complete",
        "planned": sum(each.new for each in pulse.planned),
        "dispatched": len(pulse.dispatched),
        "ended": len(ended),
        "tes": sum(known) / len(known) if known else None,
        "tes_note": note,
        "tes_coverage": len(known) / len(worked) if worked else None,
        "kill_switch": pulse.reflection.kill_switch is not None,
        "incidents": None if pulse.reflection.incidents is None else len(pulse.reflection.incidents),
        "mood": mood(pulse),
    }


def mood(pulse: Pulse) -> str:
    """One line for people, the worst first."""
    found = pulse.reflection
    if found.kill_switch is not None:
        return f"stopped by a person: {found.kill_switch or 'no reason given'}"
    open_incidents = [each for each in found.incidents or () if each.closed_at is None]
    if open_incidents:
        return f"trouble with {', '.join(sorted({each.target for each in open_incidents}))}"
    if found.silent:
        return f"no answer from {', '.join(sorted(found.silent))}"
    if pulse.critique.changed:
        return "; ".join(f"{each.domain} is now at {each.after.name}" for each in pulse.critique.changed)
    ended = [each for each in pulse.critique.judged if not each.waiting]
    if any(each.score.failed for each in ended):
        return runs_in_words([each.score for each in ended])
    if soon := next((each for each in found.endings if each.stage == WARN_DAYS[-1]), None):
        return soon.reason
    if found.incidents:
        return f"recovered: {', '.join(sorted({each.target for each in found.incidents}))}"
    if ended:
        return runs_in_words([each.score for each in ended])
    return "ended, not scored yet" if pulse.critique.judged else "quiet"


def runs_in_words(scores: Sequence[Score]) -> str:
    """How runs ended, as far as it is known: a run ended well only when its score says so."""
    failed = sum(each.failed for each in scores)
    well = sum(each.tes is not None for each in scores) - failed
    unknown = sum(each.worked and each.tes is None for each in scores)
    counts = ((failed, "failed"), (well, "ended well"), (unknown, "ended with an unknown score"))
    said = [(number, how) for number, how in counts if number]
    if not said:
        return "nothing needed doing"
    (first, how), *others = said
    return ", ".join([f"{first} {'run' if first == 1 else 'runs'} {how}", *(f"{n} {end}" for n, end in others)])


def _head(bridge: Bridge, pulse_id: str, started_at: datetime) -> Json:
    policy, rules = bridge.policy.digest, bridge.policy_file.rules().digest
    return {
        "schema": SCHEMA,
        "id": pulse_id,
        "station_id": bridge.station_id,
        "started_at": iso(started_at),
        "interval_seconds": bridge.options.pulse_interval_seconds,
        "versions": {
            "code": bridge.version,
            "sources": sources(),
            "policy": policy,
            "rules": rules,
            "rng": chassis.rng.VERSION,
        },
        "probe_tries": bridge.options.probe_tries,
    }


def _reflect(pulse: Pulse) -> Json:
    found = pulse.reflection
    readings = {} if found.capacity is None else found.capacity.readings
    names = ("cpu_percent", "ram_percent", "swap_percent", "disk_percent")
    unknown = {
        "state": "unknown", "unit": "percent", "age_seconds": None, "coverage": None,
        "note": found.silent.get("governor", "not reported"),
    }  # fmt: skip
    capacity = {name: readings[name].to_json() if name in readings else unknown for name in names}
    return {
        "capacity": capacity,
        "services": None
        if found.health is None
        else [
            {"service": each.service, "state": each.state, "age_seconds": each.age_seconds, "detail": each.detail}
            for each in found.health.services
        ],
        "incidents": None
        if found.incidents is None
        else [
            {
                "id": each.id, "class": each.grade, "target": each.target, "symptom": each.symptom,
                "opened_at": iso(each.opened_at), "closed_at": None if each.closed_at is None else iso(each.closed_at),
                "action": each.action, "recovered_seconds": each.recovered_seconds, "root_cause": list(each.causes),
            }
            for each in found.incidents
        ],
        "acks": [
            {"task_id": task.id, "state": task.state, "status": (task.ack or {}).get("status"), "ack": task.ack}
            for task in found.acks
        ],
        "verifications_due": [each.to_json() for each in pulse.critique.verified],
        "trends": None
        if found.trends is None
        else {"summary": found.trends.summary, "age_seconds": found.trends.age_seconds},
        "intents": None
        if found.capacity is None
        else [
            {"id": each.id, "kind": each.kind, "domain": each.domain, "reason": each.reason}
            for each in found.capacity.intents
        ],
        "silent": dict(found.silent),
        "domains_ending": [
            {"domain": each.domain, "expires_at": iso(each.expires_at), "stage_days": each.stage, "reason": each.reason}
            for each in found.endings
        ],
    }  # fmt: skip


def _timing(objective: Objective) -> Json:
    """When it is due, by value."""
    schedule, last = objective.schedule, objective.last_planned_at
    return {
        "params": dict(objective.params),
        "schedule": {
            "every_seconds": None if schedule.every is None else schedule.every.total_seconds(),
            "at": None if schedule.at is None else iso(schedule.at),
            "every_pulse": schedule.every_pulse,
        },
        "last_planned_at": None if last is None else iso(last),
    }


def sent_json(task: Task) -> Json:
    return {
        "task_id": task.id,
        "domain": task.domain,
        "procedure": task.procedure,
        "owner": task.owner,
        "level": task.level.name,
        "rehearsal": task.rehearsal,
    }


def planned_json(planned: Planned, states: Mapping[Any, str]) -> Json:
    task = planned.task
    fallback = {"go": "ready", "hold": "held", "propose": "proposed", "refuse": "rejected", "record": "recorded"}
    return {
        "task_id": task.id,
        "objective_id": task.objective_id,
        "objective": task.objective,
        "domain": task.domain,
        "procedure": task.procedure,
        "params": dict(task.params),
        "level": task.level.name,
        "state": states.get(task.id, fallback[planned.gated.verdict]),
        "reason": planned.gated.reason,
        "new": planned.new,
        "owner": task.owner,
        "approval": task.approval,
        "gates": list(task.gates),
        "prediction": task.prediction,
        "draws": list(task.choices),
        "recalled": list(task.recalled),
    }


def _critique(pulse: Pulse, bridge: Bridge) -> Json:
    found = pulse.critique
    return {
        "ended": [judged_json(each) for each in found.judged],
        "tes": {domain: tes_json(each) for domain, each in found.by_domain.items()},
        "ladder": [rung_json(rung) for rung in bridge.ladder.rungs()],
        "ladder_log": found.ladder_log,
        "level_changes": [change_json(each) for each in found.changed],
        "verifications": [each.to_json() for each in found.verified],
        "looks": [each.look.to_json() for each in found.verified],
        "measured": None if pulse.measured is None else pulse.measured.to_json(),
        "kpis": [each.to_json() for each in pulse.kpis],
        "calibration": calibration_json(pulse.calibration),
        "uplift": None if pulse.measured is None else asdict(pulse.measured.uplift()),
        "experiences": list(found.experiences),
    }  # fmt: skip


def tes_json(made: PulseTes) -> Json:
    return {"value": made.tes, "note": made.note, "failures": made.failures}


def change_json(changed: Changed) -> Json:
    return {
        "domain": changed.domain,
        "before": changed.before.name,
        "after": changed.after.name,
        "reason": changed.reason,
    }


def calibration_json(made: Calibration) -> Json:
    return {
        "predictions": made.predictions,
        "brier": made.brier,
        "ece": made.ece,
        "skill": made.skill,
        "base_rate": made.base_rate,
        "bins": [asdict(each) for each in made.bins],
    }


def judged_json(judged: Judged) -> Json:
    task, score = judged.task, judged.score
    probe = judged.probed
    return {
        "task_id": task.id,
        "domain": task.domain,
        "procedure": task.procedure,
        "level": task.level.name,
        "rehearsal": task.rehearsal,
        "state": task.state,
        "tes": score.tes,
        "tes_note": judged.waiting or score.note,
        "worked": score.worked,
        "stability": score.stability,
        "velocity": score.velocity,
        "footprint": score.footprint,
        "prediction": task.prediction,
        "probe": None if probe is None else probe_json(probe),
        "undo_of": task.undo_of,
        "probe_tries": task.probe_tries,
        "dispatched_at": None if task.dispatched_at is None else iso(task.dispatched_at),
        "ended_at": None if task.ended_at is None else iso(task.ended_at),
        "terms": None if judged.terms is None else judged.terms.to_json(),
        "heard": heard_json(judged.heard),
    }


def rung_json(rung: Rung) -> Json:
    standing = rung.standing
    return {
        "domain": rung.domain,
        "level": rung.level.name,
        "earned_level": standing.level.name,
        "max_level": rung.max_level.name,
        "void": rung.terms.void,
        "reason": rung.decision.reason,
        "since": standing.reason,
        "next": rung.decision.next,
        "run": standing.run,
        "run_required": rung.run_required,
        "tes_last": standing.tes_last,
        "failures_20": standing.failures_in_window,
        "mean_12": standing.mean,
        "probation": standing.probation,
        "evidence": standing.evidence,
        "evidence_goal": rung.terms.evidence_goal,
        "frozen": standing.frozen,
    }


def paths(folder: Path, pulse_id: str, started_at: datetime) -> tuple[Path, Path]:
    """The JSON and the Markdown file of a pulse."""
    day = folder / f"{started_at:%Y%m%d}"
    return day / f"{pulse_id}.json", day / f"{pulse_id}.md"


def keep_rules(folder: Path, digest: str, text: str) -> None:
    """The policy that records name by its digest, by value, once, beside them."""
    path = rules_path(folder, digest)
    if digest and not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text.encode())


def rules_path(folder: Path, digest: str) -> Path:
    return folder / "policies" / f"{digest}.yaml"


def write(folder: Path, pulse_id: str, started_at: datetime, whole: Json, kept: bytes, *, durable: bool = True) -> None:
    """Both files of a record (`kept`: as canonical JSON), whole. The report is not synced: it can be made anew."""
    machine, people = paths(folder, pulse_id, started_at)
    machine.parent.mkdir(parents=True, exist_ok=True)
    write_whole(people, report(whole).encode(), durable=False)
    write_whole(machine, kept + b"\n", durable=durable)


def forget(folder: Path, pulse_id: str, started_at: datetime) -> None:
    """Remove both files, and the day's folder once it is empty."""
    both = paths(folder, pulse_id, started_at)
    for path in both:
        path.unlink(missing_ok=True)
    day = both[0].parent
    if day.is_dir() and not any(day.iterdir()):
        day.rmdir()
