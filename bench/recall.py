"""How relevant recall is on labelled real sentences: `python -m bench.recall [--seeds 5] [--limit 5] [--json]`.

Precision: share of returned matches whose label is the query's. Coverage: share of queries with a match; ceiling:
share of queries for which memory holds a line of their label at all. Dense memory holds every past line; sparse
memory 1, 2 or 3 lines a label, averaged over seeds. WebArena lines are both memory and query, each against all
others. Out of scope: queries whose right answer is nothing. Each figure with the polarity guard and without it.
Pairs: tests/memory/data/pairs.jsonl, by half ("held" and "late" were written and kept apart as its README says).

The regimes use the service's model, floor and guard on an exact scan; the last line runs one of them through the
real store, index and rule, and must agree. Speed is measured by bench/recall_speed.py.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as the service: its pool only spins on a busy machine

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from chassis.audit import Audit
from chassis.clock import SystemClock
from services.memory.exact import ExactIndex
from services.memory.experience import Experience, Outcome
from services.memory.memory import Memory
from services.memory.minilm import MiniLM
from services.memory.polarity import opposed, polarity
from services.memory.recall import CANDIDATES, FLOOR, Query
from services.memory.store import Store

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "recall"
PAIRS = Path(__file__).resolve().parents[1] / "tests" / "memory" / "data" / "pairs.jsonl"
NOW = datetime(2026, 11, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    text: str
    label: str | None
    part: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Relevance:
    """Precision is None when nothing was returned."""

    past: int
    queries: int
    returned: int
    precision: float | None
    coverage: float
    p50_ms: float
    p99_ms: float


def read(name: str) -> list[Line]:
    with (DATA / name).open() as file:
        rows = [json.loads(line) for line in file]
    return [Line(text=row["text"], label=row["label"], part=row["part"]) for row in rows]


def sparse(past: Sequence[Line], per_label: int, seed: int) -> list[Line]:
    by_label: dict[str | None, list[Line]] = {}
    for line in past:
        by_label.setdefault(line.label, []).append(line)
    draw = random.Random(seed)
    return [line for lines in by_label.values() for line in draw.sample(lines, min(per_label, len(lines)))]


def measure(past: Sequence[Line], queries: Sequence[Line], embedder: MiniLM, limit: int) -> Relevance:
    """Record `past`, ask each query; a line never answers itself."""
    with tempfile.TemporaryDirectory() as folder:
        clock = SystemClock()
        memory = Memory(
            store=Store(Path(folder) / "experience.sqlite", durable=False),
            embedder=embedder,
            index=ExactIndex(embedder.dimension),
            clock=clock,
            audit=Audit(Path(folder) / "audit.jsonl", clock, "bench"),
        )
        label_of, own = {}, {}
        for number, line in enumerate(past):
            label_of[f"p-{number}"], own[id(line)] = line.label, f"p-{number}"
            memory.record(_experience(f"p-{number}", line.text))
        right = returned = covered = 0
        took = []
        for line in queries:
            began = time.perf_counter()
            found = memory.recall(Query(objective=line.text, limit=limit + 1))
            took.append((time.perf_counter() - began) * 1000)
            ids = [each.experience.id for each in found.matches if each.experience.id != own.get(id(line))][:limit]
            covered += bool(ids)
            returned += len(ids)
            right += sum(label_of[each] == line.label for each in ids)
        memory.close()
    return Relevance(
        past=len(past),
        queries=len(queries),
        returned=returned,
        precision=right / returned if returned else None,
        coverage=covered / len(queries),
        p50_ms=statistics.median(took),
        p99_ms=sorted(took)[int(0.99 * (len(took) - 1))],
    )


def _experience(name: str, text: str) -> Experience:
    return Experience(
        id=name,
        station_id="bench",
        namespace="default",
        origin="bench",
        kind="task",
        objective=text,
        domain="",
        procedure="",
        task_id="",
        pulse_id="",
        occurred_at=NOW,
        outcome=Outcome.UNKNOWN,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Means over the seeds; precision is None when nothing was returned. `free_` is without the guard."""

    regime: str
    past: int
    queries: int
    returned: float
    precision: float | None
    coverage: float
    ceiling: float
    free_precision: float | None
    free_coverage: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """`above` the floor by cosine; `refused` of those by the guard. Opposites pass that are above and not refused."""

    half: str
    kind: str
    pairs: int
    above: int
    refused: int
    share: float
    """Opposites: passed, of all pairs. Same: refused, of those above the floor."""


def by_rule(
    past: Sequence[Line], queries: Sequence[Line], embedder: MiniLM, limit: int, guard: bool
) -> tuple[int, int, int, int]:
    """(returned, right, covered, answerable): floor and guard on an exact scan; a line never answers itself."""
    memory, asked = (embedder.embed([line.text for line in lines]) for lines in (past, queries))
    place = {id(line): number for number, line in enumerate(past)}
    labels: dict[str | None, int] = {}
    for line in past:
        labels[line.label] = labels.get(line.label, 0) + 1
    returned = right = covered = answerable = 0
    for line, cosines in zip(queries, asked @ memory.T, strict=True):
        own = place.get(id(line))
        answerable += labels.get(line.label, 0) > (own is not None)
        if own is not None:
            cosines[own] = -1.0
        found: list[Line] = []
        for number in np.argsort(-cosines, kind="stable")[:CANDIDATES].tolist():
            if cosines[number] <= FLOOR or len(found) == limit:
                break
            if not guard or opposed(polarity(line.text), polarity(past[number].text)) is None:
                found.append(past[number])
        covered += bool(found)
        returned += len(found)
        right += sum(each.label == line.label for each in found)
    return returned, right, covered, answerable


def average(name: str, pasts: Sequence[Sequence[Line]], queries: Sequence[Line], embedder: MiniLM, limit: int) -> Row:
    guarded, free = ([by_rule(past, queries, embedder, limit, guard) for past in pasts] for guard in (True, False))

    def precision(drawn: list[tuple[int, int, int, int]]) -> float | None:
        known = [right / returned for returned, right, _, _ in drawn if returned]
        return statistics.mean(known) if known else None

    return Row(
        regime=name,
        past=len(pasts[0]),
        queries=len(queries),
        returned=statistics.mean(each[0] for each in guarded),
        precision=precision(guarded),
        coverage=statistics.mean(each[2] for each in guarded) / len(queries),
        ceiling=statistics.mean(each[3] for each in guarded) / len(queries),
        free_precision=precision(free),
        free_coverage=statistics.mean(each[2] for each in free) / len(queries),
    )


def pairs(embedder: MiniLM, halves: Sequence[str] = ("open", "held", "late")) -> list[Pairs]:
    with PAIRS.open() as file:
        rows = [row for line in file if (row := json.loads(line))["half"] in halves]
    ones, others = (embedder.embed([row[side] for row in rows]) for side in ("one", "other"))
    cosines = np.einsum("ij,ij->i", ones, others)
    found = []
    for half, kind in sorted({(row["half"], row["kind"]) for row in rows}):
        mine = [(row, c) for row, c in zip(rows, cosines, strict=True) if (row["half"], row["kind"]) == (half, kind)]
        above = [row for row, cosine in mine if cosine > FLOOR]
        refused = sum(opposed(polarity(row["one"]), polarity(row["other"])) is not None for row in above)
        share = (len(above) - refused) / len(mine) if kind == "opposite" else refused / len(above)
        found.append(
            Pairs(half=half, kind=kind, pairs=len(mine), above=len(above), refused=refused, share=round(share, 4))
        )
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description="relevance of recall on ../shared/data/recall")
    parser.add_argument("--limit", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--every", type=int, default=1, help="use every n-th query only")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if not DATA.is_dir():
        print(f"no data in {DATA}", file=sys.stderr)
        return 1
    embedder = MiniLM.packaged(cached_texts=20_000)
    webarena, clinc = read("webarena.jsonl"), read("clinc.jsonl")
    known = [line for line in clinc if line.part == "past"]
    asked = [line for line in clinc if line.part == "query" and line.label is not None][:: options.every]
    outside = [line for line in clinc if line.part == "query" and line.label is None][:: options.every]
    rows = []
    for name, past, queries in (("webarena", webarena, webarena[:: options.every]), ("clinc", known, asked)):
        rows.append(average(f"{name} dense", [past], queries, embedder, options.limit))
        for n in (1, 2, 3):
            draws = [sparse(past, n, seed) for seed in range(1, options.seeds + 1)]
            rows.append(average(f"{name} {n} a label", draws, queries, embedder, options.limit))
    nothing = average("clinc out of scope", [known], outside, embedder, options.limit)
    checked = measure(webarena, webarena[:: options.every], embedder, options.limit)
    precisions = [row.precision for row in rows if row.precision is not None]
    summary = {
        "worst_precision": min(precisions),
        "mean_precision": statistics.mean(precisions),
        "mean_coverage": statistics.mean(row.coverage for row in rows),
        "mean_coverage_without_guard": statistics.mean(row.free_coverage for row in rows),
        "out_of_scope_hits": nothing.coverage,
    }
    judged = pairs(embedder)
    if options.json:
        report = {
            "model": f"{embedder.model} {embedder.model_sha256}",
            "regimes": [asdict(row) for row in [*rows, nothing]],
            "pairs": [asdict(each) for each in judged],
            "through_the_store": asdict(checked),
            **summary,
        }
        print(json.dumps(report))
        return 0
    print(
        f"{'':<20} {'past':>6} {'queries':>8} {'returned':>9} {'precision':>10} {'coverage':>9} {'ceiling':>8}", end=""
    )
    print(f" | {'no guard: precision':>19} {'coverage':>9}")
    for row in [*rows, nothing]:
        print(
            f"{row.regime:<20} {row.past:>6} {row.queries:>8} {row.returned:>9.1f} {_share(row.precision):>10} "
            f"{row.coverage:>9.3f} {row.ceiling:>8.3f} | {_share(row.free_precision):>19} {row.free_coverage:>9.3f}"
        )
    print(", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in summary.items()))
    for each in judged:
        what = "passed, of all" if each.kind == "opposite" else "refused, of those above the floor"
        print(f"pairs {each.half:<5} {each.kind:<8} {each.pairs:>4}, above {each.above:>4}: {each.share:.3f} {what}")
    print(
        f"webarena dense through the real store: precision {_share(checked.precision)}, coverage {checked.coverage:.3f}"
        f", p50 {checked.p50_ms:.2f} ms without the embedding"
    )
    return 0


def _share(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"


if __name__ == "__main__":
    raise SystemExit(main())
