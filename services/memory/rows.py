"""Rows of the store read back as experiences, each checked against its digest."""

import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from chassis.clock import parse_iso
from services.memory.experience import Experience, Finding, Outcome, event_digest
from services.memory.queries import SQL


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """One experience with its latest outcome. `damage` says what does not match its digest; None: all does.

    `rolled_up`: it lives in a roll-up, which kept all but its evidence.
    """

    seq: int
    objective_key: int
    experience: Experience
    recorded_at: str
    damage: str | None
    rolled_up: bool = False


def hydrate(connection: sqlite3.Connection, rows: Sequence[sqlite3.Row]) -> list[Stored]:
    """Experiences of rows of `event`, with context and latest outcome, each checked against its digests."""
    wanted = json.dumps([row["seq"] for row in rows])
    facts: dict[int, dict[str, str]] = {}
    for event, key, value in connection.execute(SQL["contexts_by_seq"], (wanted,)):
        facts.setdefault(event, {})[key] = value
    outcomes: dict[int, list[sqlite3.Row]] = {}
    for row in connection.execute(SQL["outcomes_by_seq"], (wanted,)):
        outcomes.setdefault(row["event"], []).append(row)
    return [_stored(row, facts.get(row["seq"], {}), outcomes.get(row["seq"], [])) for row in rows]


def _stored(row: sqlite3.Row, facts: dict[str, str], outcomes: Sequence[sqlite3.Row]) -> Stored:
    damage: str | None = None
    findings: list[Finding] = []
    for each in outcomes:
        finding = Finding(
            amendment_id=each["amendment_id"],
            outcome=outcome_of(each["outcome"]),
            tes=each["tes"],
            duration_seconds=each["duration_seconds"],
            files_changed=each["files_changed"],
            cost=mapping_of(each["cost"]),
            evidence=each["evidence"],
            recorded_at=each["recorded_at"],
        )
        findings.append(finding)
        if finding.digest(row["id"]) != each["digest"]:
            damage = f"outcome {each['seq']} does not match its digest"
    if not findings:
        damage = "its outcome is missing"
        findings = [_no_finding(row["recorded_at"])]
    first, last = findings[0], findings[-1]
    experience = experience_in(row, facts, first)
    if event_digest(experience, row["recorded_at"]) != row["digest"]:
        damage = "the row, its objective, its context or its prediction does not match the digest"
    return Stored(
        seq=row["seq"],
        objective_key=row["objective_key"],
        experience=replace(experience, outcome=last.outcome, evidence=last.evidence),
        recorded_at=row["recorded_at"],
        damage=damage,
    )


def experience_in(row: sqlite3.Row, context: Mapping[str, str], first: Finding) -> Experience:
    """What a row of `event`, or a member with its roll-up, says with its first outcome."""
    return Experience(
        id=row["id"],
        station_id=row["station_id"],
        namespace=row["namespace"],
        origin=row["origin"],
        kind=row["kind"],
        objective=row["objective"],
        domain=row["domain"],
        procedure=row["procedure"],
        task_id=row["task_id"],
        pulse_id=row["pulse_id"],
        occurred_at=_moment_of(row["occurred_at"]),
        context=context,
        outcome=first.outcome,
        tes=first.tes,
        duration_seconds=first.duration_seconds,
        files_changed=first.files_changed,
        confidence=row["predicted"],
        evidence=first.evidence,
        cost=first.cost,
    )


# A value that can't be read becomes a neutral one here; its digest then does not match, and says so.


def _moment_of(text: str) -> datetime:
    try:
        return parse_iso(text)
    except ValueError:
        return datetime.min.replace(tzinfo=UTC)


def outcome_of(text: str) -> Outcome:
    try:
        return Outcome(text)
    except ValueError:
        return Outcome.UNKNOWN


def mapping_of(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _no_finding(recorded_at: str) -> Finding:
    return Finding(
        amendment_id=None,
        outcome=Outcome.UNKNOWN,
        tes=None,
        duration_seconds=None,
        files_changed=None,
        cost={},
        evidence="",
        recorded_at=recorded_at,
    )
