"""The domain metrics_summary: rolls old capacity rows and pulse records up, a file a day.

All procedures give the same bytes at different cost, so that there is something to learn: `stream` reads rows one
by one, `sqlite` lets an in-memory SQLite group them, `sort` sorts them all and groups neighbours.
"""

import csv
import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import Any

from chassis.atomic import FileState, file_state, whole_lines
from chassis.canonical import Json, canonical_json, sha256_hex
from chassis.clock import iso, parse_iso
from chassis.errors import InvalidInput
from chassis.exchange.manifest import Manifest
from chassis.layout import Layout
from chassis.work import Change, Effects, Outcome, Plan

METRICS = ("cpu_percent", "ram_percent", "swap_percent", "disk_percent")

Row = tuple[str, str, float, float]
"""Bucket start (ISO), metric, mean of the row, maximum of the row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where the raw figures are and where the summaries go."""

    capacity: Path
    pulses: Path
    out: Path


def station_sources(layout: Layout) -> Sources:
    return Sources(capacity=layout.capacity_csv, pulses=layout.pulses, out=layout.root / "reports" / "summaries")


def bucket_start(at: datetime, minutes: int) -> datetime:
    midnight = at.replace(hour=0, minute=0, second=0, microsecond=0)
    return midnight + timedelta(minutes=int((at - midnight).total_seconds() // 60 // minutes * minutes))


def _capacity_rows(path: Path, minutes: int, until: datetime) -> Iterator[Row]:
    lines = (line.decode(errors="replace") for line in whole_lines(path))
    for row in csv.DictReader(lines):
        try:
            start = bucket_start(parse_iso(row["slot_start"]), minutes)
        except (KeyError, ValueError, TypeError):
            continue
        if start + timedelta(minutes=minutes) > until:
            continue
        for metric in METRICS:
            mean, peak = row.get(f"{metric}_mean"), row.get(f"{metric}_max")
            if mean and peak:
                yield iso(start), metric, float(mean), float(peak)


def _grouped_by_stream(rows: Iterator[Row]) -> Iterator[tuple[str, str, int, float, float, float]]:
    groups: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for start, metric, mean, peak in rows:
        groups.setdefault((start, metric), []).append((mean, peak))
    for (start, metric), pairs in sorted(groups.items()):
        means = [mean for mean, _ in pairs]
        yield start, metric, len(pairs), fmean(means), min(means), max(peak for _, peak in pairs)


def _grouped_by_sqlite(rows: Iterator[Row]) -> Iterator[tuple[str, str, int, float, float, float]]:
    with closing(sqlite3.connect(":memory:")) as base:
        base.execute("CREATE TABLE row (start TEXT, metric TEXT, mean REAL, peak REAL) STRICT")
        base.executemany("INSERT INTO row VALUES (?, ?, ?, ?)", rows)
        yield from base.execute(
            "SELECT start, metric, count(*), avg(mean), min(mean), max(peak) FROM row "
            "GROUP BY start, metric ORDER BY start, metric"
        )


def _grouped_by_sort(rows: Iterator[Row]) -> Iterator[tuple[str, str, int, float, float, float]]:
    for (start, metric), group in groupby(sorted(rows), key=lambda row: row[:2]):
        pairs = [row[2:] for row in group]
        means = [mean for mean, _ in pairs]
        yield start, metric, len(pairs), fmean(means), min(means), max(peak for _, peak in pairs)


GROUPERS: Mapping[str, Callable[[Iterator[Row]], Iterator[tuple[str, str, int, float, float, float]]]] = {
    "stream": _grouped_by_stream,
    "sqlite": _grouped_by_sqlite,
    "sort": _grouped_by_sort,
}


def is_open(sources: Sources, day: str, until: datetime) -> bool:
    """May the day (yyyymmdd) still be summarised? A closed one stays: its raw rows may be gone by now."""
    return day >= f"{until - timedelta(days=1):%Y%m%d}" or not (sources.out / f"{day}.json").exists()


Facts = dict[Path, tuple[FileState, datetime, str, list[float | None]]]
"""What a pulse record says, by file: the file's state then, when it began, its status, the TES of what ended."""


def summarise(
    sources: Sources, procedure: str, minutes: int, until: datetime, known: Facts | None = None
) -> dict[str, Json]:
    """Day (yyyymmdd) → summary over its finished buckets. Rounded to 4 digits, so that both procedures agree.

    `known` keeps what was read of the records of open days, for the next time.
    """
    days: dict[str, dict[str, Any]] = {}

    def bucket(start: str) -> dict[str, Any]:
        day = days.setdefault(start[:10].replace("-", ""), {})
        found: dict[str, Any] = day.setdefault(start, {"start": start, "capacity": {}, "pulses": {}})
        return found

    for start, metric, count, mean, low, peak in GROUPERS[procedure](_capacity_rows(sources.capacity, minutes, until)):
        bucket(start)["capacity"][metric] = {
            "rows": count,
            "coverage": round(min(1.0, count / minutes), 4),
            "mean": round(mean, 4),
            "min": round(low, 4),
            "max": round(peak, 4),
        }
    for start, status, scores in _pulses(sources, minutes, until, {} if known is None else known):
        pulses = bucket(start)["pulses"]
        pulses["count"] = pulses.get("count", 0) + 1
        pulses[status] = pulses.get(status, 0) + 1
        pulses["tasks_ended"] = pulses.get("tasks_ended", 0) + len(scores)
        pulses.setdefault("_tes", []).extend(score for score in scores if score is not None)
    summaries: dict[str, Json] = {}
    for day, buckets in days.items():
        for each in buckets.values():
            if each["pulses"]:
                scores = each["pulses"].pop("_tes")
                each["pulses"]["tes_mean"] = round(fmean(scores), 4) if scores else None
                each["pulses"]["tes_known"] = len(scores)
        ordered = [buckets[start] for start in sorted(buckets)]
        summaries[day] = {"schema": "calyx.summary/1", "day": day, "bucket_minutes": minutes, "buckets": ordered}
    return summaries


def _pulses(
    sources: Sources, minutes: int, until: datetime, known: Facts
) -> Iterator[tuple[str, str, list[float | None]]]:
    """Bucket start, status and scores of each record that can be read; the verification speaks of the others."""
    folders = [day for day in sorted(sources.pulses.glob("[0-9]*")) if is_open(sources, day.name, until)]
    before = dict(known)
    known.clear()
    for path in (path for folder in folders for path in sorted(folder.glob("bp-*.json"))):
        try:
            state = file_state(path)
            seen = before.get(path)
            if seen is None or seen[0] != state:
                record = json.loads(path.read_bytes())
                scores = [task.get("tes") for task in record.get("critique", {}).get("ended", [])]
                began = parse_iso(record["started_at"])
                seen = (state, began, str(record["status"]), scores)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
        known[path] = seen
        start = bucket_start(seen[1], minutes)
        if start + timedelta(minutes=minutes) <= until:
            yield iso(start), seen[2], seen[3]


class MetricsSummary:
    """chassis.work.Work for metrics_summary. Param `bucket_minutes` (default 60) must divide a day."""

    def __init__(self, sources: Sources, cpu_seconds: Callable[[], float]) -> None:
        self._sources, self._cpu_seconds = sources, cpu_seconds
        self._known: Facts = {}

    @property
    def domain(self) -> str:
        return "metrics_summary"

    @property
    def procedures(self) -> tuple[str, ...]:
        return tuple(GROUPERS)

    def rehearse(self, task: Manifest, scratch: Path) -> Plan:
        changes, claims = [], []
        for target, content in self._due(task):
            made = scratch / target.name
            made.write_bytes(content)
            before = sha256_hex(target.read_bytes()) if target.exists() else None
            changes.append(
                Change(
                    op="replace" if before else "create",
                    target=str(target),
                    before_sha256=before,
                    after_sha256=sha256_hex(content),
                    size_bytes=len(content),
                )
            )
            claims.append(_claim(made, content))
        return Plan(changes=tuple(changes), claims=tuple(claims), notes=f"{len(changes)} daily summaries to write")

    def perform(self, task: Manifest, scratch: Path, effects: Effects) -> Outcome:
        started = self._cpu_seconds()
        claims: list[Json] = []
        written = 0
        for target, content in self._due(task):
            made = scratch / target.name
            made.write_bytes(content)
            if target.exists():
                effects.replace(target, made, expect_sha256=sha256_hex(target.read_bytes()))
            else:
                effects.create(target, made)
            claims.append(_claim(target, content))
            written += len(content)
        cost = {"cpu_seconds": self._cpu_seconds() - started, "bytes_written": float(written)}
        if not claims:
            return Outcome(detail="every finished interval is summarised already", no_work=True, cost=cost)
        return Outcome(detail=f"{len(claims)} daily summaries written", claims=tuple(claims), cost=cost)

    def stage_drill(self, folder: Path, procedure: str) -> Mapping[str, str]:
        rows = ["slot_start," + ",".join(f"{metric}_mean,{metric}_max" for metric in METRICS)]
        rows += [f"2020-01-01T00:{minute:02d}:00.000000Z" + ",1.5,2.5" * len(METRICS) for minute in range(60)]
        (folder / "capacity.csv").write_text("\n".join(rows) + "\n")
        (folder / "out").mkdir()
        return {"drill": str(folder)}

    def _due(self, task: Manifest) -> Iterator[tuple[Path, bytes]]:
        """Each summary that is missing or differs, as target and content; finished before the task was made."""
        if task.procedure not in GROUPERS:
            raise InvalidInput(f"metrics_summary has no procedure {task.procedure!r}; it has {', '.join(GROUPERS)}")
        try:
            minutes = int(task.params.get("bucket_minutes", "60"))
        except ValueError:
            minutes = 0
        if minutes < 1 or 1440 % minutes:
            raise InvalidInput("bucket_minutes must divide a day, for example 60")
        sources, known = self._sources, self._known
        if "drill" in task.params:
            folder = Path(task.params["drill"])
            sources = Sources(capacity=folder / "capacity.csv", pulses=folder / "pulses", out=folder / "out")
            known = {}
        until = task.created_at.astimezone(UTC)
        for day, summary in summarise(sources, task.procedure, minutes, until, known).items():
            if not is_open(sources, day, until):
                continue
            target = sources.out / f"{day}.json"
            content = canonical_json(summary) + b"\n"
            if not target.exists() or target.read_bytes() != content:
                yield target, content


def _claim(path: Path, content: bytes) -> Json:
    return {
        "kind": "file_digest",
        "target": str(path),
        "expect": {"sha256": sha256_hex(content), "size": str(len(content))},
    }
