"""`capacity.csv`: one row per slot, of what was measured in it. An empty cell is unknown, never zero."""

import csv
import io
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from chassis.atomic import append_line
from chassis.clock import iso
from services.governor.readings import PSI_FIGURES, Sample
from services.governor.window import summarise

FIGURES = ("cpu", "ram", "swap", "disk", *(f"psi_{name}" for name in PSI_FIGURES), "gpu_utilization", "gpu_memory")
COLUMNS = (
    "slot_start",
    "station_id",
    "slot_seconds",
    "samples",
    "coverage",
    *(f"{figure}_percent_{kind}" for figure in FIGURES for kind in ("mean", "max", "coverage")),
    "ram_source",
    "gpu_state",
)
HEADER = ",".join(COLUMNS).encode()


def slot_of(moment: datetime, slot_seconds: float) -> datetime:
    """The start of the slot that holds this moment; slots start at whole multiples since the epoch."""
    return datetime.fromtimestamp(moment.timestamp() // slot_seconds * slot_seconds, UTC)


def row(slot: datetime, samples: Sequence[Sample], *, station_id: str, slot_seconds: float, expected: int) -> bytes:
    """One CSV line of a slot's samples."""
    cells: list[str] = [
        iso(slot),
        station_id,
        f"{slot_seconds:g}",
        str(len(samples)),
        _number(min(1.0, len(samples) / expected)),
    ]
    for figure in FIGURES:
        summary = summarise(samples, figure.removeprefix("psi_"), expected)
        cells += [_number(summary.mean), _number(summary.max), _number(summary.coverage)]
    cells += [samples[-1].machine.ram.source, samples[-1].machine.gpu.state]
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(cells)
    return text.getvalue().encode()


def _number(value: float | None) -> str:
    return "" if value is None else f"{round(value, 4):g}"


class Rows:
    """The file. A file with other columns (an older release) is kept beside as `<name>.until-<slot>`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def append(self, slot: datetime, line: bytes) -> None:
        """Raises OSError (full disk); nothing half is left behind that a reader would parse."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if self._has_other_columns():
            self._path.rename(self._path.with_name(f"{self._path.name}.until-{slot.strftime('%Y%m%dT%H%M%SZ')}"))
        if not self._path.exists() or self._path.stat().st_size == 0:
            append_line(self._path, HEADER)
        append_line(self._path, line)

    def _has_other_columns(self) -> bool:
        try:
            with self._path.open("rb") as file:
                first = file.readline()
        except FileNotFoundError:
            return False
        return first.endswith(b"\n") and first.rstrip(b"\r\n") != HEADER
