"""How sure we are that a procedure works: a decayed Beta posterior per domain × procedure, and its calibration."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Self

HALF_LIFE = timedelta(days=7)
COST_WEIGHT = 0.3
"""Weight of the newest cost in the running mean."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Posterior:
    """Beta(1 + successes, 1 + failures); both counts halve every `HALF_LIFE` towards the uniform prior.

    Costs are running means a run, None until one was reported. Rehearsals count as neither success nor failure.
    """

    at: datetime
    successes: float = 0.0
    failures: float = 0.0
    cpu_seconds: float | None = None
    bytes_written: float | None = None

    def decayed(self, now: datetime) -> Self:
        """As it stands at `now`; a clock that went backwards changes nothing."""
        age = max(0.0, (now - self.at).total_seconds())
        factor = 0.5 ** (age / HALF_LIFE.total_seconds())
        return replace(self, at=max(now, self.at), successes=self.successes * factor, failures=self.failures * factor)

    def after(self, success: bool, now: datetime) -> Self:
        """With one more run known."""
        known = self.decayed(now)
        return replace(known, successes=known.successes + success, failures=known.failures + (not success))

    def costing(self, cpu_seconds: float | None, bytes_written: float | None) -> Self:
        return replace(
            self,
            cpu_seconds=_running(self.cpu_seconds, cpu_seconds),
            bytes_written=_running(self.bytes_written, bytes_written),
        )

    @property
    def mean(self) -> float:
        """Expected chance of success."""
        return (1.0 + self.successes) / (2.0 + self.successes + self.failures)


def _running(old: float | None, new: float | None) -> float | None:
    if new is None:
        return old
    return new if old is None else (1.0 - COST_WEIGHT) * old + COST_WEIGHT * new


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """Predictions in one tenth: how many, their sum, how many succeeded, the sum of squared errors."""

    count: int
    predicted: float
    succeeded: int
    squared_error: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """How good the predictions were: Brier score (0 best) and expected calibration error over ten equal bins."""

    predictions: int
    brier: float | None
    ece: float | None


NO_CALIBRATION = Calibration(predictions=0, brier=None, ece=None)


def calibration(bins: Iterable[Bin]) -> Calibration:
    """From the bins' sums; None without any prediction."""
    kept = list(bins)
    total = sum(each.count for each in kept)
    if not total:
        return NO_CALIBRATION
    return Calibration(
        predictions=total,
        brier=sum(each.squared_error for each in kept) / total,
        ece=sum(abs(each.predicted - each.succeeded) for each in kept) / total,
    )
