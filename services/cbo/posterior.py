"""How sure we are that a procedure works: discounted Beta posteriors, pooled over contexts, and their calibration."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Self

HALF_LIFE = timedelta(days=7)
RUN_DISCOUNT = 0.97
"""What a run of its domain leaves of the evidence before it, whichever procedure ran (discounted Thompson sampling,
Raj and Kalyani 2017, arXiv:1707.09727): some 33 runs are remembered, and what was not tried lately is tried again."""
POOL = 10.0
"""How many runs the wider knowledge counts as beside the narrower (the prior of a beta-binomial hierarchy; Gelman et
al., Bayesian Data Analysis, 5.3): a procedure's record beside that of one context, and both beside what is recalled."""
COST_WEIGHT = 0.3
"""Weight of the newest cost in the running mean."""
Z_95 = 1.959964
BINS = 10
ENOUGH_PREDICTIONS = 100
"""Before they are judged: ten in each of ten bins. Of fewer, chance alone makes the calibration error larger than any
bound (0.14 where thirty come true nine times in ten, just as they said)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Posterior:
    """Beta(1 + successes, 1 + failures); both counts halve every `HALF_LIFE` towards the uniform prior.

    Costs are running means a run, None until one was reported; `bytes_in` is how much a run had to work on, None where
    its kind of work does not say. Rehearsals count as neither success nor failure.
    """

    at: datetime
    successes: float = 0.0
    failures: float = 0.0
    cpu_seconds: float | None = None
    bytes_written: float | None = None
    bytes_in: float | None = None

    def decayed(self, now: datetime) -> Self:
        """As it stands at `now`; a clock that went backwards changes nothing."""
        age = max(0.0, (now - self.at).total_seconds())
        factor = 0.5 ** (age / HALF_LIFE.total_seconds())
        return replace(self, at=max(now, self.at), successes=self.successes * factor, failures=self.failures * factor)

    def discounted(self) -> Self:
        """After one more run of its domain."""
        return replace(self, successes=self.successes * RUN_DISCOUNT, failures=self.failures * RUN_DISCOUNT)

    def after(self, success: bool, now: datetime) -> Self:
        """With one more run known."""
        known = self.decayed(now)
        return replace(known, successes=known.successes + success, failures=known.failures + (not success))

    def costing(self, cpu_seconds: float | None, bytes_written: float | None, bytes_in: float | None = None) -> Self:
        """With one more run's costs. The first run that says how much it had to work on begins the means anew."""
        known = (
            self if self.bytes_in is not None or not bytes_in else replace(self, cpu_seconds=None, bytes_written=None)
        )
        return replace(
            known,
            cpu_seconds=_running(known.cpu_seconds, cpu_seconds),
            bytes_written=_running(known.bytes_written, bytes_written),
            bytes_in=_running(known.bytes_in, bytes_in or None),
        )

    @property
    def cpu(self) -> float | None:
        """CPU seconds a run, or for each byte it had to work on: else whoever got the big files would look dear."""
        return _per(self.cpu_seconds, self.bytes_in)

    @property
    def size(self) -> float | None:
        """Bytes written a run, or for each byte it had to work on."""
        return _per(self.bytes_written, self.bytes_in)

    @property
    def mean(self) -> float:
        """Expected chance of success."""
        return (1.0 + self.successes) / (2.0 + self.successes + self.failures)


def _running(old: float | None, new: float | None) -> float | None:
    if new is None:
        return old
    return new if old is None else (1.0 - COST_WEIGHT) * old + COST_WEIGHT * new


def _per(cost: float | None, amount: float | None) -> float | None:
    return cost if cost is None or not amount else cost / amount


Key = tuple[str, str, str]
"""Domain, procedure ('' is the whole domain), context ('' is all of them)."""


def learned(
    known: Mapping[Key, Posterior], domain: str, procedure: str, context: str, success: bool, now: datetime
) -> dict[Key, Posterior]:
    """What one run with effects, or one regression, changes: every posterior of its domain, and of its context there.

    The whole domain's is what people read as its confidence: that one forgets by time alone.
    """
    contexts = {"", context}
    changed = {
        key: each.decayed(now).discounted()
        for key, each in known.items()
        if key[0] == domain and key[1] and key[2] in contexts
    }
    for each in sorted(contexts):
        key = (domain, procedure, each)
        changed[key] = changed.get(key, Posterior(at=now)).after(success, now)
    whole = (domain, "", "")
    changed[whole] = known.get(whole, Posterior(at=now)).after(success, now)
    return changed


def pooled(wide: tuple[float, float], successes: float, failures: float) -> tuple[float, float]:
    """The narrower evidence on top of the wider Beta, which counts as at most `POOL` runs."""
    a, b = wide
    share = min(1.0, POOL / (a + b))
    return a * share + successes, b * share + failures


def joined(wide: tuple[float, float], one: tuple[float, float], other: tuple[float, float]) -> tuple[float, float]:
    """Two narrower Betas about different things, each on top of the same wider one, which counts once.

    Their shifts from it add up in log-odds (main effects without interaction; logarithmic pooling, Genest and Zidek
    1986), and so does what each knows beyond it.
    """
    odds = (one[0] / one[1]) * (other[0] / other[1]) / (wide[0] / wide[1])
    runs, mean = sum(one) + sum(other) - min(POOL, sum(wide)), odds / (1.0 + odds)
    return runs * mean, runs * (1.0 - mean)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """Predictions near each other: how many, their sum, how many succeeded, the sum of squared errors."""

    count: int
    predicted: float
    succeeded: int
    squared_error: float

    def interval(self) -> tuple[float, float]:
        """95 % interval of the share that succeeded: Wilson's score interval (JASA 22, 1927, p. 209)."""
        n, share = self.count, self.succeeded / self.count
        middle = (share + Z_95**2 / (2 * n)) / (1 + Z_95**2 / n)
        half = Z_95 * math.sqrt(share * (1 - share) / n + Z_95**2 / (4 * n * n)) / (1 + Z_95**2 / n)
        return max(0.0, middle - half), min(1.0, middle + half)


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """How good the predictions were: Brier score (0 best) and expected calibration error over ten bins of equal mass.

    `skill` is 1 − Brier / Brier of always saying the base rate: above 0 is better than that; None where all ended
    alike, so that the base rate alone would be perfect.
    """

    predictions: int
    brier: float | None
    ece: float | None
    skill: float | None = None
    base_rate: float | None = None
    bins: tuple[Bin, ...] = ()

    @property
    def missing(self) -> str:
        """What is missing before it may be shown as a figure; empty when nothing is."""
        few = self.predictions < ENOUGH_PREDICTIONS
        return f"{self.predictions} of {ENOUGH_PREDICTIONS} predictions have been scored in 24 h" if few else ""


NO_CALIBRATION = Calibration(predictions=0, brier=None, ece=None)


def binned(ended: Sequence[tuple[float, int]]) -> tuple[Bin, ...]:
    """(prediction, 1 for success or 0) of each, by rising prediction, cut into at most ten bins of equal mass: the
    first ones hold one more where it does not come out even."""
    size, more = divmod(len(ended), BINS)
    made, at = [], 0
    for number in range(min(BINS, len(ended))):
        part = ended[at : at + size + (number < more)]
        at += len(part)
        made.append(
            Bin(
                count=len(part),
                predicted=math.fsum(prediction for prediction, _ in part),
                succeeded=sum(good for _, good in part),
                squared_error=math.fsum((prediction - good) ** 2 for prediction, good in part),
            )
        )
    return tuple(made)


def calibration(bins: Iterable[Bin]) -> Calibration:
    """From the bins' sums; None without any prediction."""
    kept = tuple(bins)
    total = sum(each.count for each in kept)
    if not total:
        return NO_CALIBRATION
    brier = sum(each.squared_error for each in kept) / total
    base = sum(each.succeeded for each in kept) / total
    spread = base * (1.0 - base)
    return Calibration(
        predictions=total,
        brier=brier,
        ece=sum(abs(each.predicted - each.succeeded) for each in kept) / total,
        skill=1.0 - brier / spread if spread > 0.0 else None,
        base_rate=base,
        bins=kept,
    )
