"""What people and the CBO said of recalled experiences, and the floor that follows from it."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from services.memory.evidence import lower_bound
from services.memory.recall import FLOOR

LABELS_NEEDED = 100
PRECISION = 0.80
CONFIDENCE = 0.95
HIGHEST = 0.95
STEP = 0.01
SAME_WORDS = 0.9999
"""From this cosine on the words were the same: they pass any floor, so they say nothing of where it should lie."""


class Verdict(StrEnum):
    """What was said. `withdrawn` takes back what the same caller said for the same task."""

    USEFUL = "useful"
    USELESS = "useless"
    HARMFUL = "harmful"
    WITHDRAWN = "withdrawn"


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """A judgement that counts. `event` is the experience's number, `cosine` None where nobody told it."""

    event: int
    verdict: Verdict
    query: str
    cosine: float | None
    task_id: str
    caller: str
    recorded_at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Floor:
    """Where recall's floor lies, and why there."""

    value: float
    reason: str


def learned_floor(labels: Iterable[Label]) -> Floor:
    """The lowest floor from 0.80 up above which at least 100 labels show a precision of 0.80 with 95 % confidence.

    The bound is Clopper and Pearson's, one-sided, for each floor by itself. Where none gets there, the floor with the
    best bound; what holds at 0.80 stays at 0.80. One label counts for each pair of question and experience, the newest;
    harm is left to eviction, since what led somewhere was alike enough to be followed.
    """
    pairs = {
        (each.query, each.event): (each.cosine, each.verdict is Verdict.USEFUL)
        for each in labels
        if each.cosine is not None and FLOOR < each.cosine < SAME_WORDS and each.verdict is not Verdict.HARMFUL
    }
    known = [pair for pair in pairs.values() if pair[0] is not None]
    if len(known) < LABELS_NEEDED:
        return Floor(value=FLOOR, reason=f"{len(known)} labels say something of the floor; {LABELS_NEEDED} are needed")
    best, bound_there = FLOOR, -1.0
    for step in range(round((HIGHEST - FLOOR) / STEP) + 1):
        floor = round(FLOOR + step * STEP, 2)
        above = [useful for cosine, useful in known if cosine > floor]
        if len(above) < LABELS_NEEDED:
            break
        bound = lower_bound(sum(above), len(above), CONFIDENCE)
        if bound > bound_there:
            best, bound_there = floor, bound
        if bound >= PRECISION:
            break
    above = [useful for cosine, useful in known if cosine > best]
    reason = (
        f"{sum(above)} of {len(above)} labels above {best:.2f} say useful: "
        f"precision at least {bound_there:.3f} with {CONFIDENCE:.0%} confidence"
    )
    return Floor(value=best, reason=reason)
