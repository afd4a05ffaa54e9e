"""Between rows and values."""

import json
import sqlite3
from datetime import datetime, timedelta
from typing import Any

from chassis.clock import iso, parse_iso
from chassis.domains import Level
from chassis.exchange.manifest import TaskId
from services.cbo.objectives import Objective, Schedule
from services.cbo.posterior import Posterior
from services.cbo.tasks import Task

Row = sqlite3.Row


def _dump(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), sort_keys=True)


def _time(text: str | None) -> datetime | None:
    return None if text is None else parse_iso(text)


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else iso(moment)


def task_to_row(task: Task) -> dict[str, Any]:
    return {
        **{name: getattr(task, name) for name in _PLAIN},
        "level": int(task.level),
        "created_at": iso(task.created_at),
        "params": _dump(dict(task.params)),
        "rehearsal": int(task.rehearsal),
        "gates": _dump(task.gates),
        "choices": _dump(task.choices),
        "recalled": _dump(task.recalled),
        "dispatched_at": _text(task.dispatched_at),
        "ended_at": _text(task.ended_at),
        "scored": int(task.scored),
        "ack": None if task.ack is None else _dump(task.ack),
        "remembered": int(task.remembered),
    }


_PLAIN = (
    "id", "domain", "procedure", "owner", "state", "objective_id", "objective", "attempt", "rehearsal_of",
    "plan_digest", "approval", "approved_as", "undo_of", "prediction", "pulse_id", "ended_pulse_id", "probe_tries",
    "tes", "tes_note", "stability", "why", "source", "ttl_seconds",
)  # fmt: skip


def task_from_row(row: Row) -> Task:
    return Task(
        **{name: row[name] for name in _PLAIN if name != "id"},
        id=TaskId(row["id"]),
        level=Level(row["level"]),
        created_at=parse_iso(row["created_at"]),
        params=json.loads(row["params"]),
        rehearsal=bool(row["rehearsal"]),
        gates=tuple(json.loads(row["gates"])),
        choices=tuple(json.loads(row["choices"])),
        recalled=tuple(json.loads(row["recalled"])),
        dispatched_at=_time(row["dispatched_at"]),
        ended_at=_time(row["ended_at"]),
        scored=bool(row["scored"]),
        ack=None if row["ack"] is None else json.loads(row["ack"]),
        remembered=bool(row["remembered"]),
    )


def objective_to_row(objective: Objective) -> dict[str, Any]:
    schedule = objective.schedule
    return {
        "id": objective.id,
        "text": objective.text,
        "domain": objective.domain,
        "source": objective.source,
        "created_at": iso(objective.created_at),
        "every_seconds": None if schedule.every is None else schedule.every.total_seconds(),
        "at": _text(schedule.at),
        "every_pulse": int(schedule.every_pulse),
        "params": _dump(dict(objective.params)),
        "state": objective.state,
        "last_planned_at": _text(objective.last_planned_at),
        "tasks": objective.tasks,
        "key": objective.key,
        "note": objective.note,
    }


def objective_from_row(row: Row) -> Objective:
    every = row["every_seconds"]
    return Objective(
        id=row["id"],
        text=row["text"],
        domain=row["domain"],
        source=row["source"],
        created_at=parse_iso(row["created_at"]),
        schedule=Schedule(
            every=None if every is None else timedelta(seconds=every),
            at=_time(row["at"]),
            every_pulse=bool(row["every_pulse"]),
        ),
        params=json.loads(row["params"]),
        state=row["state"],
        last_planned_at=_time(row["last_planned_at"]),
        tasks=row["tasks"],
        key=row["key"],
        note=row["note"],
    )


def posterior_from_row(row: Row) -> Posterior:
    return Posterior(
        at=parse_iso(row["at"]),
        successes=row["successes"],
        failures=row["failures"],
        cpu_seconds=row["cpu_seconds"],
        bytes_written=row["bytes_written"],
        bytes_in=row["bytes_in"],
    )
