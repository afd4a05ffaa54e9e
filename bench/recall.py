"""How relevant recall is on labelled real sentences, and how long it takes: `python -m bench.recall [--limit 5]`.

Precision: share of returned matches whose label is the query's. Coverage: share of queries with a match.
Dense memory holds every past line; sparse memory 1, 2 or 3 lines a label, sampled with a seed. WebArena lines are
both memory and query, each against all others. Out of scope: queries whose right answer is nothing.
Everything goes through the real store, model, index and rule; only the fsync is left out.
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
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from chassis.audit import Audit
from chassis.clock import SystemClock
from services.memory.exact import ExactIndex
from services.memory.experience import Experience, Outcome
from services.memory.memory import Memory
from services.memory.minilm import MiniLM
from services.memory.recall import Query
from services.memory.store import Store

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "recall"
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


def main() -> int:
    parser = argparse.ArgumentParser(description="relevance of recall on ../shared/data/recall")
    parser.add_argument("--limit", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--every", type=int, default=1, help="use every n-th query only")
    options = parser.parse_args()
    if not DATA.is_dir():
        print(f"no data in {DATA}", file=sys.stderr)
        return 1
    embedder = MiniLM.packaged(cached_texts=20_000)
    webarena, clinc = read("webarena.jsonl"), read("clinc.jsonl")
    known = [line for line in clinc if line.part == "past"]
    asked = [line for line in clinc if line.part == "query" and line.label is not None]
    outside = [line for line in clinc if line.part == "query" and line.label is None]
    regimes: list[tuple[str, Sequence[Line], Sequence[Line]]] = [
        ("webarena dense", webarena, webarena),
        *((f"webarena {n} a label", sparse(webarena, n, options.seed), webarena) for n in (1, 2, 3)),
        ("clinc dense", known, asked),
        *((f"clinc {n} a label", sparse(known, n, options.seed), asked) for n in (1, 2, 3)),
    ]
    print(f"{'regime':<20} {'past':>6} {'queries':>8} {'returned':>9} {'precision':>10} {'coverage':>9} {'p50 ms':>7}")
    precisions, coverages = [], []
    for name, past, queries in regimes:
        found = measure(past, queries[:: options.every], embedder, options.limit)
        print(_row(name, found))
        coverages.append(found.coverage)
        if found.precision is not None:
            precisions.append(found.precision)
    print(_row("clinc out of scope", measure(known, outside[:: options.every], embedder, options.limit)))
    print(
        f"worst precision {min(precisions):.3f}, mean {statistics.mean(precisions):.3f}, "
        f"mean coverage {statistics.mean(coverages):.3f}; out of scope: coverage is what should be nothing"
    )
    return 0


def _row(name: str, found: Relevance) -> str:
    precision = "—" if found.precision is None else f"{found.precision:.3f}"
    return (
        f"{name:<20} {found.past:>6} {found.queries:>8} {found.returned:>9} {precision:>10} {found.coverage:>9.3f} "
        f"{found.p50_ms:>7.2f}"
    )


if __name__ == "__main__":
    raise SystemExit(main())
