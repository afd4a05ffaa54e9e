"""The Cheetah Agent: analyse the last pulses, keep the result whole on disk, hand memory a summary."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import structlog

from chassis.atomic import FileState, file_state, read_json, write_json
from chassis.canonical import Json, digest
from chassis.clock import Clock, iso, parse_iso
from chassis.errors import CalyxError, InvalidInput
from services.analytics.readings import METRICS, Read, Reading, read_markdown, read_records

log = structlog.get_logger(__name__)

MAX_PULSES = 20_000
SERIES_POINTS = 240
WORDS = {"uptime_percent": "uptime", "tes": "TES", "ram_percent": "memory in use"}


class Statistics(Protocol):
    """Computes trends and draws charts; returns {"trends": [...], "charts": [file names]} as draw.py does."""

    def run(self, request: Json) -> Json: ...


class MemoryPort(Protocol):
    """Where the summary of an analysis goes."""

    def remember(self, experience_id: str, summary: str, at: datetime, context: dict[str, str]) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysis:
    """One finished analysis; `trends` as draw.py returns them, each with its `series` [[epoch_s, value]]."""

    analyzed_at: datetime
    source: str
    pulses: int
    rejected: tuple[str, ...]
    trends: tuple[Json, ...]
    charts: tuple[str, ...]
    summary: str
    first_pulse: str = ""
    last_pulse: str = ""

    def to_json(self) -> Json:
        return {
            "schema": "calyx.trends/1",
            "analyzed_at": iso(self.analyzed_at),
            "source": self.source,
            "pulses": self.pulses,
            "rejected": list(self.rejected),
            "trends": list(self.trends),
            "charts": list(self.charts),
            "summary": self.summary,
            "first_pulse": self.first_pulse,
            "last_pulse": self.last_pulse,
        }


def analysis_from_json(value: Json) -> Analysis:
    return Analysis(
        analyzed_at=parse_iso(value["analyzed_at"]),
        source=value["source"],
        pulses=value["pulses"],
        rejected=tuple(value["rejected"]),
        trends=tuple(value["trends"]),
        charts=tuple(value["charts"]),
        summary=value["summary"],
        first_pulse=value["first_pulse"],
        last_pulse=value["last_pulse"],
    )


def in_short(seconds: float) -> str:
    """Seconds under two minutes, else minutes."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def in_words(trends: Sequence[Json], pulses: int) -> str:
    """What the trends say, for a person and for recall."""
    parts = []
    for trend in trends:
        name = WORDS.get(trend["metric"], trend["metric"])
        if trend["verdict"] == "insufficient data":
            over = f" over {in_short(trend['span_seconds'])}" if trend["points"] > 1 else ""
            parts.append(f"{name}: insufficient data ({trend['points']} known{over}, {trend['unknown']} unknown)")
            continue
        parts.append(
            f"{name} {trend['verdict']} at {trend['slope_per_day']:+.3g} a day "
            f"({trend['slope_low']:+.3g} to {trend['slope_high']:+.3g}), latest {trend['latest']:.1f}, "
            f"{trend['points']} known and {trend['unknown']} unknown"
        )
    return f"Trends over {pulses} pulses: " + "; ".join(parts) + "."


@dataclass(slots=True)
class Cheetah:
    """Analyses one at a time. `folder` = reports/trends, `pulses` = the pulse records."""

    pulses: Path
    folder: Path
    clock: Clock
    statistics: Statistics
    memory: MemoryPort
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _latest: tuple[FileState, Analysis] | None = field(default=None, init=False)

    def analyze(self, last: int = 240, import_dir: str = "", charts: bool = True) -> Analysis:
        """Analyse the last pulses, or the older reports in `import_dir` (its result goes to a folder of its own).

        Raises InvalidInput for a folder that holds no reports. No pulses at all is an analysis with
        insufficient data, not an error.
        """
        if not 0 < last <= MAX_PULSES:
            raise InvalidInput(f"--last must be 1 to {MAX_PULSES}, not {last}")
        with self._lock:
            if import_dir:
                source = Path(import_dir)
                if not source.is_dir():
                    raise InvalidInput(
                        f"{import_dir} is not a folder the analytics service can see; give its full path"
                    )
                return self._analyze(read_markdown(source), f"import:{source.name}", self.folder / "imported", charts)
            return self._analyze(read_records(self.pulses, last), "pulses", self.folder, charts)

    def _analyze(self, read: Read, source: str, out: Path, charts: bool) -> Analysis:
        now = self.clock.now()
        series = {
            metric: {"unit": unit, "points": [[r.at.timestamp(), r.value(metric)] for r in read.readings]}
            for metric, unit in METRICS.items()
        }
        out.mkdir(parents=True, exist_ok=True)
        title = f"{len(read.readings)} pulses" + (f" ({source})" if source != "pulses" else "")
        draws = charts and bool(read.readings)
        found = self.statistics.run({"series": series, "out": str(out) if draws else None, "title": title})
        trends = tuple(
            {**trend, "series": series[trend["metric"]]["points"][-SERIES_POINTS:]} for trend in found["trends"]
        )
        kept = tuple(found["charts"]) if draws else tuple(sorted(p.name for p in out.glob("*.svg")))
        analysis = Analysis(
            analyzed_at=now,
            source=source,
            pulses=len(read.readings),
            rejected=read.rejected,
            trends=trends,
            charts=kept,
            summary=in_words(trends, len(read.readings)),
            first_pulse=read.readings[0].pulse_id if read.readings else "",
            last_pulse=read.readings[-1].pulse_id if read.readings else "",
        )
        write_json(out / "trends.json", analysis.to_json())
        self._remember(analysis, read.readings)
        return analysis

    def _remember(self, analysis: Analysis, readings: Sequence[Reading]) -> None:
        if not readings:
            return
        key = digest([analysis.source, analysis.first_pulse, analysis.last_pulse, analysis.summary])[:32]
        context = {"source": analysis.source, "first": analysis.first_pulse, "last": analysis.last_pulse}
        try:
            self.memory.remember(f"analysis-{key}", analysis.summary, readings[-1].at, context)
        except CalyxError as error:
            # The analysis stands on disk; the next one feeds memory again.
            log.warning("summary not remembered", reason=error.message)

    def latest(self) -> Analysis | None:
        """The last analysis of the station's own pulses, None if there was none."""
        path = self.folder / "trends.json"
        try:
            seen = file_state(path)
            if self._latest is None or self._latest[0] != seen:  # each pulse asks
                self._latest = seen, analysis_from_json(read_json(path))
            return self._latest[1]
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            log.warning("trends.json is unreadable and will be written anew", reason=repr(error))
            return None

    def refresh(self, min_pulses: int, every_seconds: float, last: int) -> Analysis | None:
        """Analyse when there is enough to see and the last analysis is old; for a periodic."""
        latest = self.latest()
        if latest is not None and (self.clock.now() - latest.analyzed_at).total_seconds() < every_seconds:
            return None
        if not _at_least(self.pulses, min_pulses):
            return None
        return self.analyze(last=last)

    def charts(self) -> list[tuple[Path, datetime, int]]:
        """Path, time and size of each picture and table, newest first."""
        found: list[tuple[Path, datetime, int]] = []
        for path in self.folder.rglob("*"):
            if path.suffix in (".svg", ".png", ".csv") and path.is_file() and not path.name.startswith("."):
                stat = path.stat()
                found.append((path, datetime.fromtimestamp(stat.st_mtime, UTC), stat.st_size))
        return sorted(found, key=lambda each: (each[1], each[0].name), reverse=True)


def _at_least(pulses: Path, count: int) -> bool:
    return sum(1 for _ in islice(pulses.glob("[0-9]*/bp-*.json"), count)) == count


def known_series(trend: dict[str, Any]) -> list[tuple[datetime, float]]:
    """The known values of a trend's series, for the wire."""
    return [(datetime.fromtimestamp(at, UTC), value) for at, value in trend["series"] if value is not None]
