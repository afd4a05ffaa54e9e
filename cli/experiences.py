"""Older knowledge as lines that the memory takes in: exports (JSONL), CSV, Bridge Pulse reports of an earlier station.

A line is `{"amendments":[],"digest":…,"experience":{…}}`. What a source does not say stays unknown.
"""

import csv
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from chassis.canonical import Json, canonical_json, digest
from chassis.clock import iso
from chassis.errors import InvalidInput

FORMATS = ("jsonl", "csv", "pulse")
MOST_REPORT_BYTES = 1 << 20

WORDS = ("id", "namespace", "kind", "objective", "domain", "procedure", "task_id", "pulse_id", "evidence")
NUMBERS = ("tes", "duration_seconds", "files_changed", "confidence")
"""Columns of a CSV file, beside occurred_at, outcome, context.<key> and cost.<name>."""

NOT_KNOWN = frozenset({"", "n/a", "na", "none", "null", "unknown", "-"})
OUTCOMES = frozenset({"success", "failure", "unknown", "no_work"})
MIN_UPTIME_SAMPLES = 24
"""A report's uptime over 24 h that rests on fewer samples than one an hour is not a figure."""

_HEAD = re.compile(r"^(Timestamp|Pulse ID|Directive Context|Operator): (.+?)\s*$", re.MULTILINE)
_ROW = re.compile(r"^\|\s*([^|]+?)\s*\|\s*([^|]*?)\s*\|", re.MULTILINE)
_SECTION = re.compile(r"^(Observation|Action Taken|Result): (.+?)\s*$", re.MULTILINE)
_SAMPLES = re.compile(r"System samples analyzed: (\d+)")
_STATUS = re.compile(r"Overall status: (\w+)")
_ID_TIME = re.compile(r"(\d{8}T\d{6})$")
FIGURES = {
    "Uptime (24h rolling)": "uptime_percent",
    "Mean TES": "mean_tes",
    "CPU Load Avg": "cpu_percent",
    "RAM Utilization": "ram_percent",
    "GPU Utilization": "gpu_percent",
    "Active Agents": "active_agents",
}
MEASURED = tuple(FIGURES)[:5]


def format_of(path: Path, said: str) -> str:
    """The format said, or by the ending. Raises InvalidInput."""
    by_ending = {".jsonl": "jsonl", ".csv": "csv", ".md": "pulse"}
    kind = said or ("pulse" if path.is_dir() else by_ending.get(path.suffix, ""))
    if kind not in FORMATS:
        raise InvalidInput(f"say with --format what {path} is: {', '.join(FORMATS)}")
    return kind


def lines_of(kind: str, paths: Sequence[Path], refused: list[str]) -> Iterator[tuple[str, bytes]]:
    """(where it stands, the line), one experience each; what can't be one is added to `refused`."""
    if kind == "pulse":
        yield from _pulses(paths, refused)
        return
    for path in paths:
        yield from _exported(path, refused) if kind == "jsonl" else _rows(path, refused)


def line(experience: Json) -> bytes:
    plain: Json = {"experience": experience, "amendments": []}
    return canonical_json({**plain, "digest": digest(plain)}) + b"\n"


def _exported(path: Path, refused: list[str]) -> Iterator[tuple[str, bytes]]:
    """As it stands in the file; its last line is held against all before."""
    running, count, end = hashlib.sha256(), 0, ""
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            if raw.startswith(b'{"count":'):
                end = _end(raw, count, running.hexdigest())
                break
            running.update(raw)
            count += 1
            yield f"{path.name} line {number}", raw if raw.endswith(b"\n") else raw + b"\n"
        else:
            end = "it has no last line with count and digest: it is not whole"
    if end:
        refused.append(f"{path.name}: {end}; what it holds was taken line by line")


def _end(raw: bytes, count: int, found: str) -> str:
    try:
        told = json.loads(raw)
        if told["count"] != count:
            return f"its last line says {told['count']} experiences, it has {count}"
        return "" if told["digest"] == found else "it does not match the digest in its last line"
    except (ValueError, KeyError, TypeError):
        return "its last line can't be read"


# CSV


def _rows(path: Path, refused: list[str]) -> Iterator[tuple[str, bytes]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        known = {*WORDS, *NUMBERS, "occurred_at", "outcome"}
        names = reader.fieldnames or []
        odd = [name for name in names if name not in known and not name.startswith(("context.", "cost."))]
        if odd or "objective" not in names or "occurred_at" not in names:
            missing = [name for name in ("objective", "occurred_at") if name not in names]
            raise InvalidInput(
                f"{path.name}: "
                + (f"no column {missing[0]}" if missing else f"{odd[0]!r} is no column of ours")
                + f"; there are {', '.join(sorted(known))}, context.<key> and cost.<name>"
            )
        for row in reader:
            try:
                yield f"{path.name} line {reader.line_num}", line(_row(row))
            except ValueError as error:
                refused.append(f"{path.name} line {reader.line_num}: {error}")


def _row(row: dict[str, Any]) -> Json:
    if None in row or None in row.values():
        raise ValueError("it has another number of columns than the first line")
    plain: Json = {name: row[name] for name in WORDS if row.get(name)}
    outcome = row.get("outcome", "").strip().lower()
    outcome = "unknown" if outcome in NOT_KNOWN else outcome
    if outcome not in OUTCOMES:
        raise ValueError(f"{outcome!r} is no outcome; say one of {', '.join(sorted(OUTCOMES))}")
    plain |= {
        "occurred_at": _moment(row["occurred_at"]),
        "outcome": outcome,
        "context": {key[8:]: value for key, value in row.items() if key.startswith("context.") and value},
        "cost": {
            key[5:]: number
            for key, value in row.items()
            if key.startswith("cost.") and (number := _number(value, key)) is not None
        },
    }
    for name in NUMBERS:
        number = _number(row.get(name, ""), name)
        if number is not None:
            plain[name] = int(number) if name == "files_changed" else number
    # Without an id of its own a row has that of its content, so that taking it in again is a repeat.
    plain.setdefault("id", f"csv:{digest(plain)[:32]}")
    return plain


def _number(text: str, what: str) -> float | None:
    if text.strip().lower() in NOT_KNOWN:
        return None
    try:
        return float(text)
    except ValueError as error:
        raise ValueError(f"{what} is {text!r}, which is no number; leave it empty when it is unknown") from error


def _moment(text: str) -> str:
    """A time without a zone is kept as told, as if it were UTC."""
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError as error:
        raise ValueError(f"occurred_at is {text!r}, which is no time (2026-01-31T12:00:00Z)") from error
    return iso(moment if moment.tzinfo else moment.replace(tzinfo=UTC))


# Bridge Pulse reports, in their two dialects of Markdown


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One report as told; `figures` by their names there."""

    name: str
    at: datetime
    pulse_id: str
    told: dict[str, str]
    figures: dict[str, str]
    text: str


def _pulses(paths: Sequence[Path], refused: list[str]) -> Iterator[tuple[str, bytes]]:
    reports = []
    for path in paths:
        try:
            reports.append(report_of(path.name, path.read_bytes()[:MOST_REPORT_BYTES].decode(errors="replace")))
        except (ValueError, OSError) as error:
            refused.append(f"{path.name}: {error}")
    before: tuple[str, ...] = ()
    for report in sorted(reports, key=lambda each: (each.at, each.name)):
        measured = tuple(report.figures.get(name, "") for name in MEASURED)
        yield report.name, line(experience_of(report, repeats=measured == before))
        before = measured


def report_of(name: str, text: str) -> Report:
    """Raises ValueError for what is no report."""
    told = dict(_HEAD.findall(text))
    figures = {key: value for key, value in _ROW.findall(text) if key in FIGURES or key == "Samples (24h)"}
    if "Pulse ID" not in told or "Mean TES" not in figures:
        raise ValueError("it is no Bridge Pulse report: no id or no core metrics")
    at = datetime.strptime(told.get("Timestamp", ""), "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC)
    return Report(name=name, at=at, pulse_id=told["Pulse ID"], told=told, figures=figures, text=text)


def experience_of(report: Report, *, repeats: bool) -> Json:
    """A report says how the station fared, not whether an act succeeded: its outcome is unknown.

    Its time is kept as told, as if it were UTC; an id that carries the time in UTC says so in the context. Figures
    that were not measured, or only repeat the report before, stay unknown.
    """
    context = {"dialect": "icons" if report.text.startswith("🛰") else "plain", "told_at": report.told["Timestamp"]}
    if stamp := _ID_TIME.search(report.pulse_id):
        context["id_time_utc"] = iso(datetime.strptime(stamp[1], "%Y%m%dT%H%M%S").replace(tzinfo=UTC))
    if status := _STATUS.search(report.text):
        context["overall_status"] = status[1].lower()
    known: dict[str, float] = {} if repeats else _known(report)
    context |= {name: f"{value:g}" for name, value in known.items()}
    if repeats:
        context["figures"] = "repeat the report before it: unknown"
    experience: Json = {
        "id": f"pulse:{report.name.removesuffix('.md')}",
        "kind": "pulse",
        "objective": report.told.get("Directive Context") or "Bridge Pulse report",
        "pulse_id": report.pulse_id,
        "occurred_at": iso(report.at),
        "outcome": "unknown",
        "context": context,
        "evidence": "\n".join(f"{name}: {text}" for name, text in _SECTION.findall(report.text)),
    }
    if "mean_tes" in known:
        experience["tes"] = known["mean_tes"]
    return experience


def _known(report: Report) -> dict[str, float]:
    samples = report.figures.get("Samples (24h)") or next(iter(_SAMPLES.findall(report.text)), "")
    found: dict[str, float] = {}
    for told, name in FIGURES.items():
        try:
            value = float(report.figures.get(told, "").strip().rstrip("%"))
        except ValueError:
            continue  # N/A
        if name == "ram_percent" and value == 0.0:
            continue  # can't be measured on a running machine
        if name == "uptime_percent" and (not samples.isdigit() or int(samples) < MIN_UPTIME_SAMPLES):
            continue
        found[name] = value
    if not 0 <= found.get("mean_tes", 0.0) <= 100:
        del found["mean_tes"]
    return found
