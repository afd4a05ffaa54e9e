"""What a pulse says of uptime, TES and RAM, out of our own records and the two older Markdown dialects.

A figure that cannot be one is unknown (None), with a note: it was not measured, rests on too few samples, or
repeats the pulse before it.
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import fmean, median
from typing import Any

from chassis.clock import parse_iso
from chassis.errors import InvalidInput

METRICS = {"uptime_percent": "percent", "tes": "score", "ram_percent": "percent"}
"""Metric → unit, in the order of the charts."""

MIN_UPTIME_SAMPLES = 24
"""An older report's 24 h uptime that rests on fewer samples than one an hour is not a figure."""

_ID_TIME = re.compile(r"(\d{8}T\d{6})$")
_ROW = re.compile(r"^\|\s*([^|]+?)\s*\|\s*([^|]*?)\s*\|", re.MULTILINE)
_SAMPLES = re.compile(r"System samples analyzed: (\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One pulse's figures; None is unknown. `figures` is everything it reported, to tell a repeat."""

    pulse_id: str
    at: datetime
    uptime_percent: float | None
    tes: float | None
    ram_percent: float | None
    notes: tuple[str, ...] = ()
    figures: tuple[str, ...] = ()

    def value(self, metric: str) -> float | None:
        found: float | None = getattr(self, metric)
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """Readings in time order, and what could not be read with the reason."""

    readings: tuple[Reading, ...]
    rejected: tuple[str, ...] = ()


def from_record(record: Any) -> Reading:
    """One of our own pulse records (schema calyx.pulse/1). Raises InvalidInput."""
    try:
        if not str(record["schema"]).startswith("calyx.pulse/"):
            raise InvalidInput(f"schema {record['schema']!r} is not a pulse record")
        ram = record.get("reflect", {}).get("capacity", {}).get("ram_percent", {})
        ended = record.get("critique", {}).get("ended", [])
        scores = [float(task["tes"]) for task in ended if task.get("tes") is not None]
        kpis = {kpi["name"]: kpi for kpi in record.get("critique", {}).get("kpis", [])}
        return Reading(
            pulse_id=str(record["id"]),
            at=parse_iso(record["started_at"]),
            uptime_percent=_number(kpis.get("uptime", {}).get("value")),
            tes=fmean(scores) if scores else None,
            ram_percent=_number(ram.get("value")) if ram.get("state") == "ok" else None,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InvalidInput(f"not a pulse record: {error!r}") from error


def _number(value: Any) -> float | None:
    if isinstance(value, dict):
        value = value.get("value")
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def read_records(folder: Path, last: int) -> Read:
    """The last `last` records under `pulses/<yyyymmdd>/`."""
    paths = sorted(folder.glob("[0-9]*/bp-*.json"), key=lambda path: path.name)[-last:]
    readings, rejected = [], []
    for path in paths:
        try:
            readings.append(from_record(json.loads(path.read_bytes())))
        except (InvalidInput, ValueError, OSError) as error:
            rejected.append(f"{path.name}: {error}")
    return Read(readings=tuple(sorted(readings, key=lambda r: r.at)), rejected=tuple(rejected))


def from_markdown(text: str) -> Reading:
    """One report of the older station, either dialect. Its naive local time is kept as if it were UTC."""
    head = dict(re.findall(r"^(Timestamp|Pulse ID): (.+?)\s*$", text, re.MULTILINE))
    try:
        at = datetime.strptime(head["Timestamp"], "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC)
        pulse_id = head["Pulse ID"]
    except (KeyError, ValueError) as error:
        raise InvalidInput(f"not a Bridge Pulse report: no usable {error}") from error
    rows = {name: value for name, value in _ROW.findall(text) if name not in ("Metric",)}
    if "Mean TES" not in rows:
        raise InvalidInput("not a Bridge Pulse report: no core metrics")
    notes: list[str] = []
    samples_text = rows.get("Samples (24h)") or next(iter(_SAMPLES.findall(text)), "")
    uptime = _percent(rows.get("Uptime (24h rolling)", ""))
    if uptime is not None and (not samples_text.isdigit() or int(samples_text) < MIN_UPTIME_SAMPLES):
        notes.append(f"uptime {uptime} % rests on {samples_text or 'no stated number of'} samples: unknown")
        uptime = None
    ram = _percent(rows.get("RAM Utilization", ""))
    if ram == 0.0:
        notes.append("RAM 0 % can't be measured on a running machine: unknown")
        ram = None
    names = ("Uptime (24h rolling)", "Mean TES", "CPU Load Avg", "RAM Utilization", "GPU Utilization")
    return Reading(
        pulse_id=pulse_id,
        at=at,
        uptime_percent=uptime,
        tes=_percent(rows["Mean TES"]),
        ram_percent=ram,
        notes=tuple(notes),
        figures=tuple(rows.get(name, "") for name in names),
    )


def _percent(cell: str) -> float | None:
    try:
        return float(cell.strip().rstrip("%"))
    except ValueError:
        return None


def read_markdown(folder: Path) -> Read:
    """Every `*.md` report in the folder: times put on UTC, doubles dropped, repeats made unknown."""
    readings: list[Reading] = []
    rejected: list[str] = []
    paths = sorted(folder.glob("*.md"))
    if not paths:
        raise InvalidInput(f"{folder} holds no *.md pulse reports; name the folder that holds them")
    for path in paths:
        try:
            readings.append(from_markdown(path.read_text(errors="replace")))
        except (InvalidInput, OSError) as error:
            rejected.append(f"{path.name}: {error}")
    ordered = sorted(_on_utc(readings), key=lambda r: (r.at, r.pulse_id))
    return Read(readings=tuple(without_repeats(ordered)), rejected=tuple(rejected))


def _on_utc(readings: Sequence[Reading]) -> Iterable[Reading]:
    """Ids such as burst-20251204T015930 carry UTC; the others get the whole-hour offset that those show."""
    offsets = [stamp - reading.at for reading in readings if (stamp := _id_time(reading.pulse_id)) is not None]
    hours = round(median(offset.total_seconds() for offset in offsets) / 3600) if offsets else 0
    for reading in readings:
        stamp = _id_time(reading.pulse_id)
        if stamp is not None:
            yield replace(reading, at=stamp)
        else:
            note = f"local time shifted by {hours:+d} h" if offsets else "time zone unknown, taken as UTC"
            yield replace(reading, at=reading.at + timedelta(hours=hours), notes=(*reading.notes, note))


def _id_time(pulse_id: str) -> datetime | None:
    found = _ID_TIME.search(pulse_id)
    return datetime.strptime(found[1], "%Y%m%dT%H%M%S").replace(tzinfo=UTC) if found else None


def without_repeats(readings: Iterable[Reading]) -> Iterable[Reading]:
    """A pulse whose figures all equal those of the pulse before it measured nothing new: unknown."""
    before: tuple[str, ...] = ()
    for reading in readings:
        if reading.figures and reading.figures == before:
            yield replace(
                reading,
                uptime_percent=None,
                tes=None,
                ram_percent=None,
                notes=(*reading.notes, "repeats the pulse before it: unknown"),
            )
        else:
            yield reading
        before = reading.figures
