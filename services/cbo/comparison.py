"""A metric before and after an effect: how far it moved, how sure that is, and how large it is beside its scatter.

The change is the difference of the means, with Welch's interval (B. L. Welch, Biometrika 34, 1947); its size is
Hedges' g (L. V. Hedges, J. Educ. Stat. 6, 1981). Readings a minute apart resemble each other, so each side counts
as n·(1-r)/(1+r) independent ones, r being its autocorrelation at lag 1, at least 0 (G. V. Bayley and J. M.
Hammersley, J. R. Stat. Soc. Suppl. 8, 1946). Student's quantile is G. W. Hill's (Algorithm 396, CACM 13, 1970): the
CBO carries no scipy, whose import costs it more memory than all its work; the tests hold this against scipy.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import NormalDist, fmean, variance

from chassis.canonical import Json

FEWEST = 5
"""Readings on each side; with fewer the comparison is unknown."""
CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """`change` = after minus before, in the metric's units, between `low` and `high`; all None when it is unknown."""

    before: int
    after: int
    reason: str
    change: float | None = None
    low: float | None = None
    high: float | None = None
    size: float | None = None
    """Hedges' g; None where nothing scatters."""

    def to_json(self) -> Json:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def compare(before: Sequence[float], after: Sequence[float]) -> Comparison:
    """Unknown with fewer than `FEWEST` readings on either side, never 0."""
    few = f"unknown: {len(before)} readings before and {len(after)} after, {FEWEST} are needed on each side"
    if min(len(before), len(after)) < FEWEST:
        return Comparison(before=len(before), after=len(after), reason=few)
    change = fmean(after) - fmean(before)
    spreads, sizes = [variance(before), variance(after)], [_independent(before), _independent(after)]
    parts = [spread / size for spread, size in zip(spreads, sizes, strict=True)]
    error = math.sqrt(sum(parts))
    if error == 0.0:
        return Comparison(
            before=len(before), after=len(after), change=change, low=change, high=change,
            reason=f"changed by {change:+.1f}, nothing scattered",
        )  # fmt: skip
    freedom = sum(parts) ** 2 / sum(part**2 / (size - 1) for part, size in zip(parts, sizes, strict=True))
    reach = student(0.5 + CONFIDENCE / 2, freedom) * error
    count = len(before) + len(after) - 2
    pooled = math.sqrt(((len(before) - 1) * spreads[0] + (len(after) - 1) * spreads[1]) / count)
    size = change / pooled * (1 - 3 / (4 * count - 1))
    return Comparison(
        before=len(before), after=len(after), change=change, low=change - reach, high=change + reach, size=size,
        reason=f"changed by {change:+.1f} ({change - reach:+.1f} to {change + reach:+.1f}, g = {size:+.1f})",
    )  # fmt: skip


def _independent(values: Sequence[float]) -> float:
    """As how many independent readings these count; never fewer than two."""
    mean = fmean(values)
    scatter = sum((each - mean) ** 2 for each in values)
    if scatter == 0.0:
        return float(len(values))
    pairs = pairwise(values)
    alike = max(0.0, sum((one - mean) * (other - mean) for one, other in pairs) / scatter)
    return max(2.0, len(values) * (1 - alike) / (1 + alike))


def student(probability: float, freedom: float) -> float:
    """The quantile of Student's t at `probability` ≥ 0.5, to about 6 digits from 3 degrees of freedom on."""
    two = 2 * (1 - probability)  # Hill's P, both tails
    if freedom <= 1.0:
        return math.tan(math.pi * (probability - 0.5)) if freedom == 1.0 else math.inf
    if abs(freedom - 2.0) < 1e-12:
        return math.sqrt(2 / (two * (2 - two)) - 2)
    a = 1 / (freedom - 0.5)
    b = 48 / a**2
    c = ((20700 * a / b - 98) * a - 16) * a + 96.36
    d = ((94.5 / (b + c) - 3) / b + 1) * math.sqrt(a * math.pi / 2) * freedom
    x, y = d * two, (d * two) ** (2 / freedom)
    if y > 0.05 + a:
        x = NormalDist().inv_cdf(two / 2)
        y = x * x
        if freedom < 5:
            c += 0.3 * (freedom - 4.5) * (x + 0.6)
        c = (((0.05 * d * x - 5) * x - 7) * x - 2) * x + b + c
        y = (((((0.4 * y + 6.3) * y + 36) * y + 94.5) / c - y - 3) / b + 1) * x
        y = math.expm1(a * y * y)
    else:
        y = (
            (1 / (((freedom + 6) / (freedom * y) - 0.089 * d - 0.822) * (freedom + 2) * 3) + 0.5 / (freedom + 4)) * y
            - 1
        ) * (freedom + 1) / (freedom + 2) + 1 / y
    return math.sqrt(freedom * y)
