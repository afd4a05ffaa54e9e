"""The recall rule: what may be returned at all, which of it first, and what all of it says of each procedure."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chassis.errors import InvalidInput
from services.memory.catalog import OUTCOMES, STANDINGS, Catalog, Standing
from services.memory.evidence import posterior
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
"""How often the same objective, domain, procedure and outcome is returned at most; the rest is only counted."""


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
    until: datetime | None = None
    outcome: Outcome | None = None
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
    """One row to return; `copies` rows passed the filters with its objective, domain, procedure, outcome, standing."""

    seq: int
    cosine: float
    near: bool
    copies: int
    standing: Standing


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What every row above the floor says of one procedure, if it may still be believed and was no rehearsal.

    `mean_tes` is over the `tes_known` rows with a TES, None without any. `success_mean` with `success_low` and
    `success_high` is the Beta posterior of success with its central 90 % interval (evidence.py), None without any.
    """

    domain: str
    procedure: str
    successes: int
    failures: int
    mean_tes: float | None
    tes_known: int
    rehearsals: int
    success_mean: float | None
    success_low: float | None
    success_high: float | None


def check_query(query: Query) -> Query:
    """The query with its defaults filled in, or InvalidInput that says what to do."""
    check_objective(query.objective)
    for what in ("namespace", "domain", "procedure"):
        check_text(getattr(query, what), what, MAX_WORD)
    if not 0 <= query.limit <= MAX_LIMIT:
        raise InvalidInput(f"limit is {query.limit}; ask for 1 to {MAX_LIMIT} (0 means {DEFAULT_LIMIT})")
    if query.since is not None and query.until is not None and query.since >= query.until:
        raise InvalidInput("since is not before until, so nothing could match; swap them or leave one out")
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


def floors(query: Query, learned: float = FLOOR) -> tuple[float, float]:
    """(floor, lower bound of the weak tier); the two are equal when no weak tier was asked for.

    `learned` is what feedback says (feedback.py); nothing lowers the floor under it or under 0.80.
    """
    floor = max(FLOOR, learned, query.min_cosine or 0.0)
    if not query.near:
        return floor, floor
    return floor, min(floor, NEAR_FLOOR if query.min_cosine is None else query.min_cosine)


def gate(query: Query, hits: Sequence[Near], objectives: Mapping[int, str], learned: float = FLOOR) -> list[Gated]:
    """Which hits pass: strictly above their floor, and not pointing the other way. `objectives` is text by key."""
    floor, lower = floors(query, learned)
    asked = polarity(query.objective)
    passed = []
    for hit in hits:
        if hit.cosine <= lower or hit.key not in objectives:
            continue
        if opposed(asked, polarity(objectives[hit.key])) is None:
            passed.append(Gated(objective=hit.key, cosine=hit.cosine, near=hit.cosine <= floor))
    return passed


def pick(rows: NDArray[Any], gated: Sequence[Gated], limit: int) -> list[Pick]:
    """At most `limit` rows: best cosine first, newest first among equals, at most two copies of the same event.

    What may no longer be believed comes after everything that may; `rows` holds no evicted ones.
    """
    if not gated:
        return []
    by_key = sorted(gated, key=lambda each: each.objective)
    of = np.searchsorted([each.objective for each in by_key], rows["objective"])  # small numbers in place of keys
    told = [rows[name] for name in ("domain", "procedure", "rehearsal", "outcome", "standing")]
    _, kinds = _grouped([of, *told])
    copies = np.bincount(kinds)
    order = np.argsort(rows["occurred"], kind="stable")  # rows are in the order of their numbers
    rounds = []
    for _ in range(COPIES):
        newest = np.full(copies.size, -1)
        newest[kinds[order]] = order  # of each kind the last one stays
        rounds.append(newest[newest >= 0])
        order = order[newest[kinds[order]] != order]
    places = np.concatenate(rounds)
    near = np.array([each.near for each in by_key])[of[places]]
    cosine = np.array([each.cosine for each in by_key])[of[places]]
    doubt = rows["standing"][places]  # valid, superseded, invalidated, in this order
    best = np.lexsort((-rows["seq"][places], -rows["occurred"][places], -cosine, near, doubt))
    return [
        Pick(
            seq=int(rows["seq"][place]),
            cosine=by_key[of[place]].cosine,
            near=by_key[of[place]].near,
            copies=int(copies[kinds[place]]),
            standing=STANDINGS[rows["standing"][place]],
        )
        for place in places[best[:limit]].tolist()
    ]


def _grouped(columns: Sequence[NDArray[Any]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """One place of each group that agrees in all columns, and for each place the number of its group.

    Columns hold small numbers from 0 on. Tables by number, since sorting a million rows takes too long.
    """
    groups = np.zeros(len(columns[0]), dtype=np.int64)
    places, seen = np.arange(groups.size), np.full(1, -1)
    for column in columns:
        codes = groups * (int(column.max(initial=0)) + 1) + column
        seen = np.full(int(codes.max(initial=0)) + 1, -1)
        seen[codes] = places
        groups = (np.cumsum(seen >= 0) - 1)[codes]
    return seen[seen >= 0], groups


def summarise(rows: NDArray[Any], gated: Sequence[Gated], catalog: Catalog) -> list[Summary]:
    """Per domain and procedure over every row above the floor, not only those returned."""
    firsts, groups = _grouped([rows["domain"], rows["procedure"]])
    weak = [each.objective for each in gated if each.near]
    counts = rows["standing"] == STANDINGS.index(Standing.VALID)
    if weak:
        counts &= ~np.isin(rows["objective"], weak)
    real, tes = counts & ~rows["rehearsal"], rows["tes"]
    known = real & ~np.isnan(tes)

    def number(which: NDArray[np.bool_]) -> list[int]:
        found: list[int] = np.bincount(groups[which], minlength=firsts.size).tolist()
        return found

    figures = zip(
        firsts.tolist(),
        number(counts),
        number(real),
        number(real & (rows["outcome"] == OUTCOMES.index(Outcome.SUCCESS))),
        number(real & (rows["outcome"] == OUTCOMES.index(Outcome.FAILURE))),
        number(known),
        np.bincount(groups[known], weights=tes[known], minlength=firsts.size).tolist(),
        strict=True,
    )
    summaries = []
    for first, counted, done, successes, failures, tes_known, tes_sum in figures:
        if not counted:
            continue
        chance = posterior(successes, failures)
        summaries.append(
            Summary(
                domain=catalog.domains.words[rows["domain"][first]],
                procedure=catalog.procedures.words[rows["procedure"][first]],
                successes=successes,
                failures=failures,
                mean_tes=round(tes_sum / tes_known, 6) if tes_known else None,
                tes_known=tes_known,
                rehearsals=counted - done,
                success_mean=None if chance is None else chance.mean,
                success_low=None if chance is None else chance.low,
                success_high=None if chance is None else chance.high,
            )
        )
    return sorted(summaries, key=lambda each: (each.domain, each.procedure))


def why(query: Query, picked: Pick, objective: str, *, learned: float = FLOOR, doubt: str = "") -> str:
    """Why this one is here, in a line. `doubt` says by whom and why it may no longer be believed."""
    floor, lower = floors(query, learned)
    if objective == query.objective:
        line = "the same words"
    elif picked.near:
        line = f"weak: cosine {picked.cosine:.3f} is above {lower:.2f} but not above the floor of {floor:.2f}"
    else:
        line = f"means the same: cosine {picked.cosine:.3f} is above the floor of {floor:.2f}"
    if picked.copies > 1:
        line += f"; {picked.copies} experiences with this objective, procedure and outcome"
    return f"{doubt}; {line}" if doubt else line
