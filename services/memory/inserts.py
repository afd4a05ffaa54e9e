"""The rows that one experience is made of, written inside the caller's transaction."""

import sqlite3
from typing import Any

from chassis.canonical import canonical_json
from chassis.clock import iso
from chassis.errors import NotFound, Refused
from services.memory.experience import Experience, Finding
from services.memory.queries import SQL


def objective_key(connection: sqlite3.Connection, text: str) -> int:
    """The number of an objective, given now if it is new."""
    row = connection.execute(SQL["objective_key"], (text,)).fetchone()
    if row:
        return int(row[0])
    connection.execute(SQL["insert_objective"], (text,))
    return int(connection.execute("SELECT last_insert_rowid()").fetchone()[0])


def insert_experience(
    connection: sqlite3.Connection,
    experience: Experience,
    recorded_at: str,
    sealed: str,
    objective_key: int,
    seq: int | None = None,
) -> int:
    """The row of an experience with its context and prediction, but without an outcome; returns its number."""
    row = event_row(experience, recorded_at, sealed, objective_key, seq)
    given = connection.execute(SQL["insert_event"], row).lastrowid
    assert given is not None  # an insert always has one
    facts = [(given, key, value) for key, value in experience.context.items()]
    connection.executemany(SQL["insert_context"], facts)
    if experience.confidence is not None:
        connection.execute(SQL["insert_confidence"], (given, experience.confidence))
    return given


def insert_finding(
    connection: sqlite3.Connection, event: int, event_id: str, finding: Finding, seq: int | None = None
) -> int:
    """A row of `outcome`; returns its number."""
    row = outcome_row(event, finding, finding.digest(event_id), seq)
    given = connection.execute(SQL["insert_outcome"], row).lastrowid
    assert given is not None  # an insert always has one
    return given


def event_row(
    experience: Experience, recorded_at: str, sealed: str, objective_key: int, seq: int | None = None
) -> dict[str, Any]:
    return {
        "seq": seq,
        "id": experience.id,
        "station_id": experience.station_id,
        "namespace": experience.namespace,
        "origin": experience.origin,
        "kind": experience.kind,
        "objective": objective_key,
        "domain": experience.domain,
        "procedure": experience.procedure,
        "task_id": experience.task_id,
        "pulse_id": experience.pulse_id,
        "occurred_at": iso(experience.occurred_at),
        "recorded_at": recorded_at,
        "digest": sealed,
    }


def outcome_row(event: int, finding: Finding, sealed: str, seq: int | None = None) -> dict[str, Any]:
    return {
        "seq": seq,
        "event": event,
        "amendment_id": finding.amendment_id,
        "outcome": finding.outcome.value,
        "tes": finding.tes,
        "duration_seconds": finding.duration_seconds,
        "files_changed": finding.files_changed,
        "cost": canonical_json(dict(finding.cost)).decode(),
        "evidence": finding.evidence,
        "recorded_at": finding.recorded_at,
        "digest": sealed,
    }


def seq_of(connection: sqlite3.Connection, event_id: str) -> int:
    """The number of an experience that is there, as a row or in a roll-up. NotFound, or Refused if it was retired."""
    row = connection.execute(SQL["known"], {"id": event_id}).fetchone()
    if row is None:
        raise NotFound(f"there is no experience {event_id!r}")
    if gone := connection.execute(SQL["retired"], (event_id,)).fetchone():
        raise Refused(
            f"experience {event_id!r} was retired at {gone[1]} by the policy {gone[0]!r}; only its id is kept"
        )
    return int(row[0])
