"""What memory is worth: a seeded few decisions ignore it, and how they end is compared with how the others do."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from chassis.canonical import Json
from chassis.rng import Rng
from services.cbo.planner import BYTES_WEIGHT, CPU_WEIGHT
from services.cbo.ports import Summary
from services.cbo.posterior import Z_95

IGNORED_SHARE = 0.05
"""Of the decisions that memory could have changed."""
RECENT_RUNS = 80
"""Recall counts no more of a domain than its last so many runs (sliding-window Thompson sampling, Trovò et al. 2020):
what memory has counted since ever would outweigh a change for as long as it took to happen."""
ENOUGH = 30
"""Decisions without memory before a difference is said."""

Heard = Literal["used", "ignored", "none"]
"""What a decision made of memory; `none`: it had nothing to say that could have mattered."""


def heard(parts: tuple[str, ...], summaries: Iterable[Summary], domain: str, procedures: int) -> Heard:
    """`parts` name the decision: the same decision always falls to the same side."""
    if procedures < 2 or not any(each.domain == domain and each.successes + each.failures for each in summaries):
        return "none"
    return "ignored" if Rng.of(*parts, "memory").uniform() < IGNORED_SHARE else "used"


def worth(draws: Iterable[Json], procedure: str, success: bool) -> float | None:
    """The utility that the chosen procedure had, at the costs expected when it was chosen; None without its draw."""
    for each in draws:
        if each["procedure"] == procedure:
            return float(success) - CPU_WEIGHT * float(each["cpu"]) - BYTES_WEIGHT * float(each["bytes"])
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """Decisions of one side that ended: how many, the sum of their utilities and of the squares."""

    runs: int = 0
    total: float = 0.0
    squares: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Uplift:
    """Utility with memory minus utility without it, with its 95 % interval; None while too little is known."""

    used: int
    ignored: int
    value: float | None
    low: float | None
    high: float | None
    note: str


def uplift(used: Arm, ignored: Arm) -> Uplift:
    """Difference of means with Welch's standard error, each side with one success and one failure more in the
    interval (Agresti and Caffo 2000), so that a side that never failed is not taken for certain."""
    if ignored.runs < ENOUGH or used.runs < ENOUGH:
        side, runs = ("without", ignored.runs) if ignored.runs < ENOUGH else ("with", used.runs)
        note = f"{runs} of {ENOUGH} decisions {side} memory have ended since the station began"
        return Uplift(used=used.runs, ignored=ignored.runs, value=None, low=None, high=None, note=note)
    (with_mean, with_error), (without_mean, without_error) = _moments(used), _moments(ignored)
    middle, half = with_mean - without_mean, Z_95 * math.sqrt(with_error + without_error)
    value = used.total / used.runs - ignored.total / ignored.runs
    return Uplift(
        used=used.runs, ignored=ignored.runs, value=value, low=middle - half, high=middle + half,
        note=f"since the station began {used.runs} decisions with memory, {ignored.runs} without",
    )  # fmt: skip


def _moments(arm: Arm) -> tuple[float, float]:
    """Mean, and the variance of the mean."""
    runs, total, squares = arm.runs + 2, arm.total + 1.0, arm.squares + 1.0
    mean = total / runs
    return mean, max(0.0, squares / runs - mean * mean) / (runs - 1)
