"""Does the planner find the cheapest way to rotate logs? `python -m bench.rotation_choice [--json] [--files 100]`.

Real files (sizes from 16 KiB to 2 MiB; log lines, repetitive, structured, nearly random), each rotated once by each
procedure of log_rotation through the real work and the real journal: that table is hindsight. Then the planner's own
code (`candidates`, `choose`, `learned`) goes through the files in order, sees only what its own choices cost, and its
utilities are added up from the table. A utility is success less 0.1 × CPU and 0.1 × bytes written, each relative to
the dearest procedure on that file. Since costs are at most 0.2 of a utility, the share of the avoidable cost that was
paid is printed too: 0 is the best fixed procedure, 1 the worst. Exits 1 when the planner is not within 10 %.
"""

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from chassis.clock import SystemClock
from chassis.exchange.manifest import Manifest, TaskId
from chassis.journal import Journal, consent_within
from chassis.rng import Rng
from services.cbo.planner import BYTES_WEIGHT, CPU_WEIGHT, candidates, choose
from services.cbo.posterior import Key, Posterior, learned
from services.governor.codecs import PROCEDURES
from services.governor.holders import Holders, Holding
from services.governor.log_rotation import LogRotation

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
LIVES = 200


class NobodyWrites(Holders):
    """The files are this bench's own."""

    def __init__(self) -> None:
        pass

    def writers(self, path: Path) -> Holding:
        return Holding(state="free")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """One real rotation."""

    success: bool
    cpu_seconds: float
    bytes_written: float
    bytes_in: float


def content(number: int) -> bytes:
    """By number: the kind changes with each file, the size is drawn log-uniformly."""
    chance = random.Random(number)
    size = int(2 ** chance.uniform(14, 21))
    kind = number % 4
    if kind == 0:
        lines = (
            f'10.0.{chance.randrange(256)}.{chance.randrange(256)} - - "GET /item/{chance.randrange(9999)} HTTP/1.1" '
            f"{chance.choice((200, 200, 200, 304, 404))} {chance.randrange(90000)}\n".encode()
            for _ in iter(int, 1)
        )
    elif kind == 1:
        lines = (f"{n:08d} heartbeat ok\n".encode() for n in range(10**9))
    elif kind == 2:
        lines = (
            json.dumps({"n": n, "ms": chance.random(), "id": chance.getrandbits(64)}).encode() + b"\n"
            for n in range(10**9)
        )
    else:
        lines = (chance.randbytes(64).hex().encode() + b"\n" for _ in iter(int, 1))
    made = bytearray()
    while len(made) < size:
        made += next(lines)
    return bytes(made[:size])


def rotate(folder: Path, number: int, procedure: str, data: bytes) -> Ran:
    """Through the work and its journal, as at EXECUTE."""
    logs, scratch = folder / "logs", folder / "scratch"
    for each in (logs, scratch):
        each.mkdir(parents=True)
    (logs / "app.log").write_bytes(data)
    clock = SystemClock()
    work = LogRotation(
        default_folder=logs, roots=lambda: [folder], holders=NobodyWrites(), clock=clock,
        cpu_seconds=time.thread_time,
    )  # fmt: skip
    task = Manifest(
        station_id="bench", task_id=TaskId(f"t-bench-{number}"), owner="governor", issuer="cbo",
        domain="log_rotation", procedure=procedure, created_at=BEGAN + timedelta(minutes=number),
        expires_at=BEGAN + timedelta(days=1), ttl_seconds=600, params={"folders": str(logs), "min_bytes": "1"},
        level="EXECUTE",
    )  # fmt: skip
    journal = Journal(folder / "journal", clock, consent_within([folder]))
    with journal.session(task.task_id, 1, lambda: None) as effects:
        outcome = work.perform(task, scratch, effects)
        effects.finish({})
    return Ran(
        success=bool(outcome.claims) and not outcome.no_work,
        cpu_seconds=outcome.cost["cpu_seconds"],
        bytes_written=outcome.cost["bytes_written"],
        bytes_in=outcome.cost["bytes_in"],
    )


def utilities(ran: Mapping[str, Ran]) -> dict[str, float]:
    """Of each procedure on one file."""
    cpu = max(each.cpu_seconds for each in ran.values())
    size = max(each.bytes_written for each in ran.values())
    return {
        name: each.success - CPU_WEIGHT * each.cpu_seconds / cpu - BYTES_WEIGHT * each.bytes_written / size
        for name, each in ran.items()
    }


def plan(table: Sequence[Mapping[str, Ran]], seed: int) -> list[str]:
    """What the planner takes, file by file."""
    known: dict[Key, Posterior] = {}
    taken = []
    for number, ran in enumerate(table):
        now = BEGAN + timedelta(minutes=number)

        def of(procedure: str, now: datetime = now) -> Posterior:
            return known.get(("log_rotation", procedure, ""), Posterior(at=now)).decayed(now)

        choice = choose(candidates("log_rotation", tuple(ran), (), of), Rng.of("rotation", str(seed), str(number)))
        made = ran[choice.procedure]
        known.update(learned(known, "log_rotation", choice.procedure, "", made.success, now))
        key = ("log_rotation", choice.procedure, "")
        known[key] = known[key].costing(made.cpu_seconds, made.bytes_written, made.bytes_in)
        taken.append(choice.procedure)
    return taken


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--files", type=int, default=100)
    args = parser.parse_args(argv)
    table: list[dict[str, Ran]] = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(args.files):
            data = content(number)
            table.append({name: rotate(Path(folder) / f"{number}-{name}", number, name, data) for name in PROCEDURES})
            if (number + 1) % 20 == 0:
                print(f"{number + 1} of {args.files} files, each by {len(PROCEDURES)} procedures", file=sys.stderr)
    gained = [utilities(ran) for ran in table]
    fixed = {name: sum(each[name] for each in gained) for name in PROCEDURES}
    best, worst = max(fixed.values()), min(fixed.values())
    lives = [plan(table, seed) for seed in range(LIVES)]
    totals = [sum(each[name] for each, name in zip(gained, taken, strict=True)) for taken in lives]
    first, middle = totals[0], statistics.median(totals)
    tail = int(0.05 * LIVES)
    low = sorted(totals)[tail]
    answer = {
        "files": args.files,
        "table": {
            name: {
                "utility": fixed[name],
                "failures": sum(not ran[name].success for ran in table),
                "cpu_seconds": sum(ran[name].cpu_seconds for ran in table),
                "bytes_written": sum(ran[name].bytes_written for ran in table),
                "taken": lives[0].count(name),
            }
            for name in PROCEDURES
        },
        "bytes_in": sum(ran["gzip-6"].bytes_in for ran in table),
        "planner": first,
        "planner_median": middle,
        "planner_low": low,
        "short_of_best": 1.0 - first / best,
        "short_of_best_low": 1.0 - low / best,
        "avoidable_cost_paid": (best - middle) / (best - worst),
        "avoidable_cost_of_uniform": (best - statistics.fmean(fixed.values())) / (best - worst),
        "holds": low >= 0.9 * best,
    }
    if args.json:
        print(json.dumps(answer, indent=1))
    else:
        print(f"{args.files} files, {answer['bytes_in'] / 2**20:.1f} MiB, every rotation real")
        print(f"{'procedure':10} {'utility':>9} {'failed':>7} {'CPU s':>8} {'written MiB':>12} {'taken (seed 0)':>15}")
        for name, row in answer["table"].items():
            print(
                f"{name:10} {row['utility']:9.3f} {row['failures']:7} {row['cpu_seconds']:8.3f} "
                f"{row['bytes_written'] / 2**20:12.2f} {row['taken']:15}"
            )
        print(
            f"planner    {first:9.3f} (seed 0); median of {LIVES} seeds {middle:.3f}, 5 % below {low:.3f}\n"
            f"short of the best fixed: {answer['short_of_best']:.1%}, at the 5 % end {answer['short_of_best_low']:.1%} "
            f"(bound 10 %): {'holds' if answer['holds'] else 'MISSED'}\n"
            f"of the avoidable cost it paid {answer['avoidable_cost_paid']:.0%}; uniform choice would pay "
            f"{answer['avoidable_cost_of_uniform']:.0%}"
        )
    return 0 if answer["holds"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
