"""Which procedure to try: Thompson sampling over posteriors, utility = success − weighted CPU and bytes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from chassis.canonical import Json
from chassis.rng import Rng
from services.cbo.ports import Summary
from services.cbo.posterior import Posterior, joined, pooled

CPU_WEIGHT = 0.1
BYTES_WEIGHT = 0.1
RECALL_CAP = 10.0
"""How many runs all that is recalled of a procedure counts as, at most: memory forgets more slowly than posteriors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A procedure with its posterior as of now, that of the context where it is known, and what recall says of it."""

    procedure: str
    posterior: Posterior
    here: Posterior | None = None
    recalled_successes: int = 0
    recalled_failures: int = 0

    @property
    def beta(self) -> tuple[float, float]:
        """Every run known, and on top of it the runs in this context and the runs that memory recalls as like this."""
        wide = (1.0 + self.posterior.successes, 1.0 + self.posterior.failures)
        here = wide if self.here is None else pooled(wide, self.here.successes, self.here.failures)
        recalled = self.recalled_successes + self.recalled_failures
        if not recalled:
            return here
        weight = min(1.0, RECALL_CAP / recalled)
        like = pooled(wide, weight * self.recalled_successes, weight * self.recalled_failures)
        return like if self.here is None else joined(wide, here, like)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The procedure taken, its predicted chance of success (made before the act), and every draw, for replay.

    `exploratory`: not the one that is best as far as is known. `rehearse`: it may only be rehearsed.
    """

    procedure: str
    prediction: float
    draws: tuple[Json, ...]
    reason: str
    exploratory: bool = False
    rehearse: bool = False
    candidates: tuple[Candidate, ...] = ()
    how: Json = field(default_factory=dict)
    """What `choose` was told beside them, by value: `again` chooses the same."""


def candidates(
    domain: str,
    procedures: Sequence[str],
    summaries: Sequence[Summary],
    belief: Callable[[str], Posterior],
    here: Callable[[str], Posterior | None] = lambda _procedure: None,
) -> list[Candidate]:
    """Each procedure with what is known of it: the posteriors, and what memory counted over everything like it."""
    counted = {each.procedure: each for each in summaries if each.domain == domain}
    return [
        Candidate(
            procedure=each,
            posterior=belief(each),
            here=here(each),
            recalled_successes=counted[each].successes if each in counted else 0,
            recalled_failures=counted[each].failures if each in counted else 0,
        )
        for each in procedures
    ]


def choose(
    candidates: Sequence[Candidate],
    rng: Rng,
    *,
    explore: bool = True,
    undrilled: Sequence[str] = (),
    context: str = "",
    memory: str = "none",
) -> Choice:
    """Draw once for each candidate, in order, and take the highest utility; ties go to the first.

    Costs are relative to the dearest candidate; an unknown cost counts as free, so that everything is tried once.
    Without `explore` nothing is drawn: each candidate stands for its mean, and an unknown cost counts as the dearest.
    A draw that takes one of `undrilled` instead of the best known one only rehearses: its undo was never seen to work.
    `context` and `memory` only go on record: in which load, and with what of memory, the candidates are as they are.
    Raises ValueError without candidates.
    """
    if not candidates:
        raise ValueError("nothing to choose from")
    cpus = _relative([each.posterior.cpu for each in candidates], unknown=0.0 if explore else 1.0)
    sizes = _relative([each.posterior.size for each in candidates], unknown=0.0 if explore else 1.0)
    draws: list[Json] = []
    known: list[float] = []
    for each, cpu, size in zip(candidates, cpus, sizes, strict=True):
        a, b = each.beta
        mean, cost = a / (a + b), CPU_WEIGHT * cpu + BYTES_WEIGHT * size
        drawn = rng.beta(a, b) if explore else mean
        known.append(mean - cost)
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
                "utility": drawn - cost,
                "context": context,
                "memory": memory,
            }
        )
    best = max(range(len(draws)), key=lambda i: (draws[i]["utility"], -i))
    a, b = candidates[best].beta
    procedure = candidates[best].procedure
    exploratory = known[best] < max(known)
    rehearse = exploratory and procedure in undrilled
    reason = _reason(len(draws), explore, exploratory, rehearse)
    draws[best]["why"] = reason
    return Choice(
        procedure=procedure,
        prediction=a / (a + b),
        draws=tuple(draws),
        reason=reason,
        candidates=tuple(candidates),
        how={"explore": explore, "undrilled": list(undrilled), "context": context, "memory": memory},
        exploratory=exploratory,
        rehearse=rehearse,
    )


def again(candidates: Sequence[Candidate], how: Json, rng: Rng) -> Choice:
    """The choice that a record tells of."""
    return choose(candidates, rng, **how)


def _relative(costs: Sequence[float | None], *, unknown: float) -> list[float]:
    dearest = max((each or 0.0) for each in costs)
    if dearest <= 0.0:
        return [0.0] * len(costs)
    return [unknown if each is None else each / dearest for each in costs]


def _reason(count: int, explore: bool, exploratory: bool, rehearse: bool) -> str:
    if count == 1:
        return "the only procedure"
    if not explore:
        return f"best known of {count}; exploration is off"
    if rehearse:
        return f"highest utility drawn of {count}, to learn; only rehearsed, since its undo has passed no drill"
    return f"highest utility drawn of {count}" + (", to learn" if exploratory else "")
