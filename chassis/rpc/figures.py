"""Numbers on the wire carry their honesty: state, age, coverage. Unknown has no value at all."""

from datetime import datetime

from calyx.common.v1 import common_pb2 as pb

STALE_AFTER_INTERVALS = 2.0
UNKNOWN_AFTER_INTERVALS = 10.0
"""A reading is stale after two of its own intervals, and after ten it says nothing about now any more."""


def figure_ok(
    value: float, unit: str, measured_at: datetime, now: datetime, coverage: float | None = None
) -> pb.Figure:
    """A number that may be used. `coverage` is the share (0 to 1) of expected samples behind it."""
    figure = pb.Figure(
        value=value, state=pb.FIGURE_STATE_OK, unit=unit, age_seconds=_age(measured_at, now), coverage=coverage
    )
    figure.measured_at.FromDatetime(measured_at)
    return figure


def figure_unknown(unit: str, note: str) -> pb.Figure:
    """Never measured, or the measuring failed; `note` says which."""
    return pb.Figure(state=pb.FIGURE_STATE_UNKNOWN, unit=unit, note=note)


def figure_absent(unit: str, note: str) -> pb.Figure:
    """There is nothing to measure here; `note` says what is missing."""
    return pb.Figure(state=pb.FIGURE_STATE_ABSENT, unit=unit, note=note)


def figure_from_reading(
    value: float | None,
    unit: str,
    measured_at: datetime | None,
    now: datetime,
    interval_seconds: float,
    coverage: float | None = None,
    note: str = "",
) -> pb.Figure:
    """OK while younger than two of its own intervals, then stale, after ten unknown; missing is unknown at once."""
    if value is None or measured_at is None:
        return figure_unknown(unit, note or "not measured yet")
    age = _age(measured_at, now)
    if age > UNKNOWN_AFTER_INTERVALS * interval_seconds:
        figure = figure_unknown(unit, note or f"the last reading is {age:.0f} s old")
        figure.age_seconds = age
        figure.measured_at.FromDatetime(measured_at)
        return figure
    figure = figure_ok(value, unit, measured_at, now, coverage)
    if age > STALE_AFTER_INTERVALS * interval_seconds:
        figure.state = pb.FIGURE_STATE_STALE
        figure.note = note or f"measured {age:.0f} s ago, every {interval_seconds:.0f} s expected"
    return figure


def _age(measured_at: datetime, now: datetime) -> float:
    return max(0.0, (now - measured_at).total_seconds())
