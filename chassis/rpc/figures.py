"""Numbers on the wire carry their honesty: state, age, coverage. Unknown has no value at all."""

from datetime import datetime

from calyx.common.v1 import common_pb2 as pb


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


def _age(measured_at: datetime, now: datetime) -> float:
    return max(0.0, (now - measured_at).total_seconds())
