"""What counted runs say of a chance: the Beta posterior from a uniform prior, its interval, and an exact lower bound.

Formulas: Gelman et al., Bayesian Data Analysis (3rd ed., §2.4) for the posterior; Clopper and Pearson, Biometrika 26
(1934), for the bound; DLMF 8.17.22 for the continued fraction of the distribution function. Tested against scipy.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

INTERVAL = 0.90
"""What the central interval of a summary covers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Posterior:
    """Of a chance of success: its mean, and the ends of its central 90 % interval."""

    mean: float
    low: float
    high: float


@lru_cache(maxsize=4096)
def posterior(successes: int, failures: int) -> Posterior | None:
    """Beta(1 + successes, 1 + failures); None where nothing was counted, since a prior alone is no finding."""
    if successes + failures == 0:
        return None
    a, b, tail = 1.0 + successes, 1.0 + failures, (1.0 - INTERVAL) / 2.0
    return Posterior(mean=a / (a + b), low=beta_quantile(tail, a, b), high=beta_quantile(1.0 - tail, a, b))


def lower_bound(successes: int, trials: int, confidence: float) -> float:
    """One-sided Clopper-Pearson bound: with this confidence the chance of success is at least that."""
    if successes == 0:
        return 0.0
    return beta_quantile(1.0 - confidence, float(successes), trials - successes + 1.0)


def beta_quantile(share: float, a: float, b: float) -> float:
    """The x below which Beta(a, b) has `share` of its mass, to about 1e-10; a, b ≥ 1 and 0 < share < 1.

    Newton's steps from the normal quantile, kept in a bracket that bisection halves whenever a step leaves it.
    """
    mean = a / (a + b)
    start = mean + NormalDist().inv_cdf(share) * math.sqrt(mean * (1.0 - mean) / (a + b + 1.0))
    low, high, x = 0.0, 1.0, start if 0.0 < start < 1.0 else mean
    for _ in range(100):
        off = beta_cdf(x, a, b) - share
        low, high = (x, high) if off < 0.0 else (low, x)
        density = math.exp(_log_power(x, a, b)) / (x * (1.0 - x))
        step = off / density if density > 0.0 else math.inf
        following = x - step
        if not low < following < high:
            following = (low + high) / 2.0
        if abs(following - x) <= 1e-11:
            return following
        x = following
    return x


def beta_cdf(x: float, a: float, b: float) -> float:
    """The share of Beta(a, b) below x."""
    if x <= 0.0 or x >= 1.0:
        return float(x >= 1.0)
    if x > (a + 1.0) / (a + b + 2.0):
        return 1.0 - math.exp(_log_power(1.0 - x, b, a)) * _fraction(1.0 - x, b, a) / b
    return math.exp(_log_power(x, a, b)) * _fraction(x, a, b) / a


def _log_power(x: float, a: float, b: float) -> float:
    return math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)


def _fraction(x: float, a: float, b: float) -> float:
    """DLMF 8.17.22 by Lentz's method: about the square root of a + b steps."""
    tiny = 1e-300
    c, d = 1.0, 1.0 / ((1.0 - (a + b) * x / (a + 1.0)) or tiny)
    value = d
    for m in range(1, 100_000):
        even = m * (b - m) * x / ((a + 2 * m - 1.0) * (a + 2 * m))
        d, c = 1.0 / ((1.0 + even * d) or tiny), (1.0 + even / c) or tiny
        value *= d * c
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1.0))
        d, c = 1.0 / ((1.0 + odd * d) or tiny), (1.0 + odd / c) or tiny
        value *= d * c
        if abs(d * c - 1.0) < 1e-14:
            break
    return value
