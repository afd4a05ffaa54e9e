"""Trend lines that say how sure they are.

Slope: Theil–Sen with its 95 % interval (Sen 1968). Significance: Kendall's tau against time (Mann 1945), its
variance inflated by (1+r)/(1−r) for the lag-1 autocorrelation r of the residuals (Bayley & Hammersley 1946;
pulses a minute apart are not independent), then corrected over the metrics of one analysis (Holm 1979).

Imports scipy: used by the short-lived drawing process, not by the service.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import erfc, isfinite, sqrt

import numpy as np
from scipy import stats

from services.analytics.cheetah import in_short

MIN_POINTS = 10
"""Fewer known values than this are no trend."""

MIN_SPAN_SECONDS = 3600.0
"""Known values closer together than this say nothing about a day: a slope out of minutes is extrapolation."""

DAY = 86400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Trend:
    """A line through one series. Slopes are units a day; `intercept` is the line's value at `origin` (epoch s)."""

    metric: str
    unit: str
    points: int
    unknown: int
    verdict: str
    span_seconds: float = 0.0
    """From the first known point to the last."""
    slope_per_day: float | None = None
    slope_low: float | None = None
    slope_high: float | None = None
    p_value: float | None = None
    origin: float = 0.0
    intercept: float | None = None
    latest: float | None = None


def line(metric: str, unit: str, series: Sequence[tuple[float, float | None]]) -> Trend:
    """The trend of one series of (epoch seconds, value or None), its p-value not yet corrected."""
    known = [(at, value) for at, value in series if value is not None and isfinite(value)]
    base = Trend(
        metric=metric,
        unit=unit,
        points=len(known),
        unknown=len(series) - len(known),
        verdict="insufficient data",
        span_seconds=known[-1][0] - known[0][0] if known else 0.0,
        latest=known[-1][1] if known else None,
    )
    if len(known) < MIN_POINTS or base.span_seconds < MIN_SPAN_SECONDS:
        return base
    origin = known[0][0]
    days = np.array([(at - origin) / DAY for at, _ in known])
    values = np.array([value for _, value in known])
    slope, intercept, low, high = (float(x) for x in stats.theilslopes(values, days, 0.95))
    inflation = sqrt(_inflation(values - (intercept + slope * days)))
    low, high = slope - (slope - low) * inflation, slope + (high - slope) * inflation
    p_value = 1.0
    if np.ptp(values) > 0:
        tau = float(stats.kendalltau(days, values).statistic)
        n = len(known)
        z = tau / sqrt(2 * (2 * n + 5) / (9 * n * (n - 1))) / inflation
        p_value = erfc(abs(z) / sqrt(2))
    return Trend(
        metric=metric,
        unit=unit,
        points=base.points,
        unknown=base.unknown,
        verdict="flat",
        span_seconds=base.span_seconds,
        slope_per_day=slope,
        slope_low=low,
        slope_high=high,
        p_value=p_value,
        origin=origin,
        intercept=intercept,
        latest=base.latest,
    )


def why_no_line(points: int, span_seconds: float) -> str:
    """What a trend line still lacks, for the chart's legend."""
    if points < MIN_POINTS:
        return f"{points} known, {MIN_POINTS} needed"
    return f"{points} known over {in_short(span_seconds)}, an hour needed"


def _inflation(residuals: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> float:
    centred = residuals - residuals.mean()
    power = float(centred @ centred)
    if power == 0:
        return 1.0
    r = min(0.99, max(0.0, float(centred[1:] @ centred[:-1]) / power))
    return (1 + r) / (1 - r)


def trends(series: Mapping[str, tuple[str, Sequence[tuple[float, float | None]]]]) -> list[Trend]:
    """All lines with Holm-corrected p-values and verdicts. `series`: metric → (unit, points)."""
    lines = [line(metric, unit, points) for metric, (unit, points) in series.items()]
    tested = sorted((each for each in lines if each.p_value is not None), key=lambda each: each.p_value or 0.0)
    corrected: dict[str, float] = {}
    floor = 0.0
    for rank, each in enumerate(tested):
        floor = max(floor, min(1.0, (each.p_value or 0.0) * (len(tested) - rank)))
        corrected[each.metric] = floor
    return [_judged(each, corrected.get(each.metric)) for each in lines]


def _judged(each: Trend, p_value: float | None) -> Trend:
    if p_value is None or each.slope_per_day is None:
        return each
    verdict = "flat"
    if p_value < 0.05 and each.slope_per_day != 0:
        verdict = "rising" if each.slope_per_day > 0 else "falling"
    return replace(each, p_value=p_value, verdict=verdict)
