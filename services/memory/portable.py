"""Experiences as lines of JSON, each with its digest, and back: what leaves one station and comes into another.

A line is `{"amendments":[…],"digest":"<sha256>","experience":{…}}`; the digest covers the canonical JSON of the line
without it. The last line is `{"count":…,"digest":"<sha256 of all bytes before>","left_out":…}`.
"""

import hashlib
import json
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

from chassis.canonical import Json, canonical_json, digest
from chassis.errors import CalyxError, InvalidInput
from services.memory.experience import (
    MAX_WORD,
    Experience,
    Finding,
    check,
    check_text,
    experience_of,
    finding_of,
    told,
    told_finding,
)
from services.memory.members import hydrate_members
from services.memory.memory import Memory
from services.memory.queries import SQL
from services.memory.rows import Stored, hydrate
from services.memory.store import Store

BATCH = 500
MOST_LINES = 5000
UNKNOWN: Json = {
    "namespace": "",
    "origin": "",
    "kind": "",
    "domain": "",
    "procedure": "",
    "task_id": "",
    "pulse_id": "",
    "outcome": "unknown",
}
"""What a line may leave out, beside the figures, which are unknown then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """Of one part: experiences that were new, that were there, and lines that were not taken, with the reason."""

    created: int
    known: int
    refused: tuple[str, ...]


def export(store: Store, namespace: str) -> Generator[bytes, None, None]:
    """Whole lines, some hundred a time, of one snapshot. A damaged experience is left out and counted."""
    count = left_out = 0
    running = hashlib.sha256()
    with closing(store.snapshot()) as connection:
        connection.execute("BEGIN")
        for name, read in (("all_events", hydrate), ("all_members", None)):
            last = 0
            while rows := connection.execute(SQL[name], (last, BATCH)).fetchall():
                last = rows[-1]["seq"]
                found: Sequence[Stored] = read(connection, rows) if read is not None else hydrate_members(rows)
                findings = _findings(connection, [each.seq for each in found]) if read is not None else {}
                lines = []
                for each in found:
                    if namespace and each.experience.namespace != namespace:
                        continue
                    if each.damage:
                        left_out += 1
                        continue
                    lines.append(_line(each, findings.get(each.seq, [])))
                if lines:
                    part = b"\n".join(lines) + b"\n"
                    running.update(part)
                    count += len(lines)
                    yield part
    yield canonical_json({"count": count, "left_out": left_out, "digest": running.hexdigest()}) + b"\n"


def _findings(connection: Any, seqs: Sequence[int]) -> dict[int, list[Finding]]:
    found: dict[int, list[Finding]] = {}
    for row in connection.execute(SQL["outcomes_by_seq"], (json.dumps(list(seqs)),)):
        plain = {name: row[name] for name in row.keys() if name not in ("seq", "event", "digest")}  # noqa: SIM118 — a Row
        try:
            found.setdefault(row["event"], []).append(finding_of({**plain, "cost": json.loads(row["cost"])}))
        except ValueError:
            continue  # damaged; its experience says so and is left out
    return found


def _line(stored: Stored, findings: Sequence[Finding]) -> bytes:
    experience = stored.experience
    if findings:
        experience = replace(experience, outcome=findings[0].outcome, evidence=findings[0].evidence)
    plain = {"experience": told(experience), "amendments": [told_finding(each) for each in findings[1:]]}
    return canonical_json({**plain, "digest": digest(plain)})


def take_in(memory: Memory, data: bytes, *, source: str, namespace: str, station_id: str, dry_run: bool) -> Imported:
    """Record the lines of one part; what is there already stays as it is. Raises InvalidInput for the part as such."""
    if not source.strip():
        raise InvalidInput("source is empty; say where the experiences come from")
    check_text(source, "source", MAX_WORD - len("import:"))
    lines = data.splitlines()
    if len(lines) > MOST_LINES:
        raise InvalidInput(f"one part has {len(lines)} lines, at most {MOST_LINES} are taken at once; send it in parts")
    refused: list[str] = []
    taken: dict[str, tuple[int, Experience, list[Finding]]] = {}
    repeated = 0
    for number, line in enumerate(lines, start=1):
        try:
            value = json.loads(line)
            if "experience" not in value and "count" in value:
                continue  # the last line of an export, which is for whoever has the whole file
            experience, amendments = _read(value, source, namespace, station_id)
        except (CalyxError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            refused.append(f"line {number}: {error.message if isinstance(error, CalyxError) else _why(error)}")
            continue
        repeated += experience.id in taken
        taken.setdefault(experience.id, (number, experience, amendments))
    known = _known(memory.store, list(taken))
    created = 0
    if not dry_run:
        answers = memory.record_all([experience for _, experience, _ in taken.values()])
        for (number, experience, amendments), answer in zip(taken.values(), answers, strict=True):
            if isinstance(answer, BaseException):
                refused.append(f"line {number}: {answer}")
                continue
            created += answer
            refused += _amend(memory, number, experience.id, amendments)
    else:
        created = len(taken) - known
    return Imported(created=created, known=known + repeated, refused=tuple(refused))


def _read(value: Mapping[str, Any], source: str, namespace: str, station_id: str) -> tuple[Experience, list[Finding]]:
    plain = {"experience": value["experience"], "amendments": value.get("amendments", [])}
    if digest(plain) != value["digest"]:
        raise InvalidInput("it does not match its digest: it was changed since it was written")
    facts = {**UNKNOWN, "station_id": station_id, **value["experience"]}
    experience = experience_of(facts)
    experience = replace(
        experience,
        namespace=namespace or experience.namespace or "default",
        origin=f"import:{source}",
    )
    return check(experience), [finding_of(each) for each in plain["amendments"]]


def _known(store: Store, ids: Sequence[str]) -> int:
    with closing(store.snapshot()) as connection:
        return sum(connection.execute(SQL["known"], {"id": each}).fetchone() is not None for each in ids)


def _amend(memory: Memory, number: int, event_id: str, amendments: Sequence[Finding]) -> list[str]:
    refused = []
    for each in amendments:
        try:
            memory.amend(event_id, each.outcome, each.evidence, each.amendment_id or "")
        except CalyxError as error:
            refused.append(f"line {number}: its later outcome {each.amendment_id}: {error.message}")
    return refused


def _why(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return "it is not JSON"
    return f"it is no experience ({type(error).__name__}: {error})"
