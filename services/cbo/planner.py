"""Which procedure to try: Thompson sampling over posteriors, utility = success − weighted CPU and bytes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from chassis.canonical import Json
from chassis.rng import Rng
from services.cbo.ports import Summary
from services.cbo.posterior import Posterior

CPU_WEIGHT = 0.1
BYTES_WEIGHT = 0.1
RECALL_WEIGHT = 0.25
"""What a recalled run counts beside one of the posterior's own; recall may repeat what the posterior knows."""
RECALL_CAP = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A procedure with its posterior as of now and what recall says of it."""

    procedure: str
    posterior: Posterior
    recalled_successes: int = 0
    recalled_failures: int = 0

    @property
    def beta(self) -> tuple[float, float]:
        recalled = self.recalled_successes + self.recalled_failures
        weight = min(RECALL_WEIGHT, RECALL_CAP / recalled) if recalled else 0.0
        return (
            1.0 + self.posterior.successes + weight * self.recalled_successes,
            1.0 + self.posterior.failures + weight * self.recalled_failures,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The procedure taken, its predicted chance of success (made before the act), and every draw, for replay."""

    procedure: str
    prediction: float
    draws: tuple[Json, ...]
    reason: str
    candidates: tuple[Candidate, ...] = ()
    how: Json = field(default_factory=dict)
    """What `choose` was told beside them, by value: `again` chooses the same."""


def candidates(
    domain: str, procedures: Sequence[str], summaries: Sequence[Summary], belief: Callable[[str], Posterior]
) -> list[Candidate]:
    """Each procedure with what is known of it: the posterior, and what memory counted over everything like it."""
    counted = {each.procedure: each for each in summaries if each.domain == domain}
    return [
        Candidate(
            procedure=each,
            posterior=belief(each),
            recalled_successes=counted[each].successes if each in counted else 0,
            recalled_failures=counted[each].failures if each in counted else 0,
        )
        for each in procedures
    ]


def choose(candidates: Sequence[Candidate], rng: Rng) -> Choice:
    """Draw once for each candidate, in order, and take the highest utility; ties go to the first.

    Costs are relative to the dearest candidate; an unknown cost counts as free, so that everything is tried once.
    Raises ValueError without candidates.
    """
    if not candidates:
        raise ValueError("nothing to choose from")
    dearest_cpu = max((c.posterior.cpu_seconds or 0.0) for c in candidates)
    dearest_bytes = max((c.posterior.bytes_written or 0.0) for c in candidates)
    draws: list[Json] = []
    for each in candidates:
        a, b = each.beta
        drawn = rng.beta(a, b)
        cpu = (each.posterior.cpu_seconds or 0.0) / dearest_cpu if dearest_cpu > 0 else 0.0
        size = (each.posterior.bytes_written or 0.0) / dearest_bytes if dearest_bytes > 0 else 0.0
        draws.append(
            {
                "procedure": each.procedure,
                "recalled_successes": each.recalled_successes,
                "recalled_failures": each.recalled_failures,
                "alpha": a,
                "beta": b,
                "draw": drawn,
                "cpu": cpu,
                "bytes": size,
                "utility": drawn - CPU_WEIGHT * cpu - BYTES_WEIGHT * size,
            }
        )
    best = max(range(len(draws)), key=lambda i: (draws[i]["utility"], -i))
    a, b = candidates[best].beta
    return Choice(
        procedure=candidates[best].procedure,
        prediction=a / (a + b),
        draws=tuple(draws),
        reason=f"highest utility of {len(draws)}" if len(draws) > 1 else "the only procedure",
        candidates=tuple(candidates),
    )


def again(candidates: Sequence[Candidate], how: Json, rng: Rng) -> Choice:
    """The choice that a record tells of."""
    return choose(candidates, rng, **how)
