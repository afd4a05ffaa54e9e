"""When a memory has done so much harm that recall must leave it out.

Page's test (Biometrika 41, 1954) on the uses that were judged, in their order: each failing one multiplies the ratio
"fails half the time" to "fails one time in ten" by 5, each that went well by 5/9, never below 1; at 500 it is evicted.
That is four failures on end, and at most ten among sixteen that went well. The ratio grows on average only for
a memory that fails more than about 27 % of its uses; from one failure on, one that fails one time in ten gets there
before it is back at 1 with a chance of at most 1 % (Ville's inequality, 5/500). What went well while the ratio was 1
changes nothing, so nobody needs to tell.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from services.memory.feedback import Verdict

TOLERATED = 0.1
HARMFUL = 0.5
ENOUGH = 500.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """`ratio` is the highest that was reached."""

    harmful: int
    useful: int
    ratio: float
    evict: bool
    reason: str


def weigh(verdicts: Iterable[Verdict]) -> Evidence:
    """What judged uses, oldest first, say of a memory. A useless one was not followed and counts neither way."""
    harmful = useful = 0
    now = highest = 0.0
    for verdict in verdicts:
        if verdict is Verdict.HARMFUL:
            harmful, now = harmful + 1, now + math.log(HARMFUL / TOLERATED)
        elif verdict is Verdict.USEFUL:
            useful, now = useful + 1, max(0.0, now + math.log((1.0 - HARMFUL) / (1.0 - TOLERATED)))
        highest = max(highest, now)
    ratio, evict = math.exp(highest), highest >= math.log(ENOUGH)
    found = f"of {harmful + useful} judged uses {harmful} failed (evidence {ratio:.3g} to 1, {ENOUGH:.0f} to 1 evicts)"
    return Evidence(harmful=harmful, useful=useful, ratio=ratio, evict=evict, reason=found)
