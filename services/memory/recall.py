"""The recall rule: what may be returned at all, which of it first, and what all of it says of each procedure."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chassis.errors import InvalidInput
from services.memory.catalog import OUTCOMES, Catalog
from services.memory.experience import MAX_FACTS, MAX_WORD, Outcome, check_objective, check_text
from services.memory.index import Near
from services.memory.polarity import opposed, polarity

FLOOR = 0.80
"""Strictly above it, whatever is asked: measured to keep ≥ 80 % of what is returned relevant (memory.md)."""

NEAR_FLOOR = 0.60
"""Where the weak tier ends when `near` is asked for without a bound."""

CANDIDATES = 50
DEFAULT_LIMIT, MAX_LIMIT = 5, 50
COPIES = 2
"""How often the same objective, procedure and outcome comes before anything else that passed the gate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """What is asked. Empty strings and None do not filter; an empty namespace is the default one."""

    objective: str
    limit: int = DEFAULT_LIMIT
    min_cosine: float | None = None
    namespace: str = "default"
    domain: str = ""
    procedure: str = ""
    since: datetime | None = None
    context: Mapping[str, str] = field(default_factory=dict)
    near: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Gated:
    """A distinct objective that may be returned. `near`: below the floor, and asked for."""

    objective: int
    cosine: float
    near: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Pick:
    """One row to return; `copies` rows with the same objective, procedure and outcome passed the filters."""

    seq: int
    cosine: float
    near: bool
    copies: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What every row above the floor says of one procedure; `mean_tes` None when no TES is known."""

    domain: str
    procedure: str
    successes: int
    failures: int
    mean_tes: float | None


def check_query(query: Query) -> Query:
    """The query with its defaults filled in, or InvalidInput that says what to do."""
    check_objective(query.objective)
    for what in ("namespace", "domain", "procedure"):
        check_text(getattr(query, what), what, MAX_WORD)
    if not 0 <= query.limit <= MAX_LIMIT:
        raise InvalidInput(f"limit is {query.limit}; ask for 1 to {MAX_LIMIT} (0 means {DEFAULT_LIMIT})")
    if len(query.context) > MAX_FACTS:
        raise InvalidInput(f"at most {MAX_FACTS} context facts filter a recall")
    asked = query.min_cosine
    if asked is not None and not (math.isfinite(asked) and 0.0 <= asked <= 1.0):
        raise InvalidInput(f"min_cosine is {asked}; it must be between 0 and 1")
    if asked is not None and asked < FLOOR and not query.near:
        raise InvalidInput(
            f"min_cosine {asked:g} is below the floor of {FLOOR:.2f}, under which matches are mostly wrong; "
            "leave it out, raise it, or set near to get weaker matches flagged as such"
        )
    return replace(query, limit=query.limit or DEFAULT_LIMIT, namespace=query.namespace or "default")


def floors(query: Query) -> tuple[float, float]:
    """(floor, lower bound of the weak tier); the two are equal when no weak tier was asked for."""
    floor = max(FLOOR, query.min_cosine or 0.0)
    if not query.near:
        return floor, floor
    return floor, min(floor, NEAR_FLOOR if query.min_cosine is None else query.min_cosine)


def gate(query: Query, hits: Sequence[Near], objectives: Mapping[int, str]) -> list[Gated]:
    """Which hits pass: strictly above their floor, and not pointing the other way. `objectives` is text by key."""
    floor, lower = floors(query)
    asked = polarity(query.objective)
    passed = []
    for hit in hits:
        if hit.cosine <= lower or hit.key not in objectives:
            continue
        if opposed(asked, polarity(objectives[hit.key])) is None:
            passed.append(Gated(objective=hit.key, cosine=hit.cosine, near=hit.cosine <= floor))
    return passed


def pick(rows: NDArray[Any], gated: Sequence[Gated], limit: int) -> list[Pick]:
    """At most `limit` rows: best cosine first, newest first among equals, a few copies before the rest of them."""
    ranked: list[tuple[tuple[Any, ...], Pick]] = []
    for each in gated:
        mine = rows[rows["objective"] == each.objective]
        kinds = mine["procedure"].astype(np.int64) * len(OUTCOMES) + mine["outcome"]
        for kind in np.unique(kinds).tolist():
            same = mine[kinds == kind]
            newest = same[np.lexsort((-same["seq"], -same["occurred"]))[:limit]]
            for place, row in enumerate(newest):
                picked = Pick(seq=int(row["seq"]), cosine=each.cosine, near=each.near, copies=len(same))
                rank = (each.near, -each.cosine, -float(row["occurred"]), -picked.seq)
                ranked.append(((place >= COPIES, *rank), picked))
    chosen = sorted(ranked, key=lambda item: item[0])[:limit]
    return [picked for _, picked in sorted(chosen, key=lambda item: item[0][1:])]


def summarise(rows: NDArray[Any], gated: Sequence[Gated], catalog: Catalog) -> list[Summary]:
    """Per domain and procedure over every row above the floor, not only those returned."""
    strong = [each.objective for each in gated if not each.near]
    mine = rows[np.isin(rows["objective"], strong)]
    success, failure = OUTCOMES.index(Outcome.SUCCESS), OUTCOMES.index(Outcome.FAILURE)
    summaries = []
    for domain, procedure in sorted(set(zip(mine["domain"].tolist(), mine["procedure"].tolist(), strict=True))):
        same = mine[(mine["domain"] == domain) & (mine["procedure"] == procedure)]
        known = same["tes"][~np.isnan(same["tes"])]
        summaries.append(
            Summary(
                domain=catalog.domains.words[domain],
                procedure=catalog.procedures.words[procedure],
                successes=int((same["outcome"] == success).sum()),
                failures=int((same["outcome"] == failure).sum()),
                mean_tes=round(float(known.mean()), 6) if known.size else None,
            )
        )
    return sorted(summaries, key=lambda each: (each.domain, each.procedure))


def why(query: Query, picked: Pick, objective: str) -> str:
    """Why this one is here, in a line."""
    floor, lower = floors(query)
    if objective == query.objective:
        line = "the same words"
    elif picked.near:
        line = f"weak: cosine {picked.cosine:.3f} is above {lower:.2f} but not above the floor of {floor:.2f}"
    else:
        line = f"means the same: cosine {picked.cosine:.3f} is above the floor of {floor:.2f}"
    if picked.copies > 1:
        line += f"; {picked.copies} experiences with this objective, procedure and outcome"
    return line
