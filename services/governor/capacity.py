"""What may be said about the machine now: each figure with state, age and coverage."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from services.governor.readings import PSI_FIGURES, Gpu, Reading, Sample
from services.governor.window import Ring, summarise

FigureState = Literal["ok", "stale", "unknown", "absent"]
MAIN_FIGURES = ("cpu", "ram", "swap", "disk")


@dataclass(frozen=True, slots=True, kw_only=True)
class Freshness:
    """On what time scale a reading ages (seconds)."""

    interval: float = 5.0
    window: float = 60.0
    """Coverage looks back this far."""
    unknown_after: float = 50.0
    """After ten intervals a reading says nothing about now any more."""

    @property
    def expected(self) -> int:
        """Samples in a full window."""
        return max(1, round(self.window / self.interval))


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A number with its honesty. `value` is set only when state is ok or stale; `age_seconds` once measured."""

    state: FigureState
    unit: str
    value: float | None = None
    measured_at: datetime | None = None
    age_seconds: float | None = None
    coverage: float | None = None
    note: str = ""
    source: str = ""
    total: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuFigures:
    index: int
    name: str
    utilization_percent: Figure
    memory_percent: Figure
    temperature_celsius: Figure


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """The latest sample as it may be shown now. `sequence` 0 = there was none yet."""

    at: datetime | None
    sequence: int
    age_seconds: float | None
    coverage: float
    figures: Mapping[str, Figure]
    """cpu, ram, swap, disk and PSI_FIGURES, all in percent."""
    gpu_state: str
    gpu_detail: str
    gpus: tuple[GpuFigures, ...]


def capacity(ring: Ring, monotonic: float, fresh: Freshness) -> Capacity:
    """The latest sample, aged: stale past two intervals, unknown past `unknown_after` or when never taken."""
    sample = ring.latest
    recent = ring.since(monotonic - fresh.window - fresh.interval / 10)  # a sample may come a little late
    names = (*MAIN_FIGURES, *PSI_FIGURES)
    if sample is None:
        never = Figure(state="unknown", unit="percent", coverage=0.0, note="no sample was taken yet")
        return Capacity(
            at=None,
            sequence=0,
            age_seconds=None,
            coverage=0.0,
            figures=dict.fromkeys(names, never),
            gpu_state="unknown",
            gpu_detail="no sample was taken yet",
            gpus=(),
        )
    age = max(0.0, monotonic - sample.monotonic)
    gpu = sample.machine.gpu if age <= fresh.unknown_after else Gpu(state="unknown", detail=_too_old(age))
    return Capacity(
        at=sample.at,
        sequence=sample.sequence,
        age_seconds=age,
        coverage=min(1.0, len(recent) / fresh.expected),
        figures={
            name: _figure(
                sample.figure(name), sample, age, fresh, summarise(recent, name, fresh.expected).coverage, "percent"
            )
            for name in names
        },
        gpu_state=gpu.state,
        gpu_detail=gpu.detail,
        gpus=tuple(
            GpuFigures(
                index=device.index,
                name=device.name,
                utilization_percent=_figure(device.utilization_percent, sample, age, fresh, None, "percent"),
                memory_percent=_figure(device.memory_percent, sample, age, fresh, None, "percent"),
                temperature_celsius=_figure(device.temperature_celsius, sample, age, fresh, None, "celsius"),
            )
            for device in gpu.devices
        ),
    )


def _figure(
    reading: Reading, sample: Sample, age: float, fresh: Freshness, coverage: float | None, unit: str
) -> Figure:
    state: FigureState = reading.state
    value, note = reading.value, reading.note
    if age > fresh.unknown_after:
        state, value, note = "unknown", None, _too_old(age)
    elif state == "ok" and age > 2 * fresh.interval:
        state, note = "stale", f"measured {age:.0f} s ago"
    return Figure(
        state=state,
        unit=unit,
        value=value,
        measured_at=sample.at,
        age_seconds=age,
        coverage=coverage,
        note=note,
        source=reading.source,
        total=reading.total,
    )


def _too_old(age: float) -> str:
    return f"last measured {age:.0f} s ago"
