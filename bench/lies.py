"""Agents that lie, honest ones beside others at work, and what breaks later: how many are marked as what they are.

    python bench/lies.py [--cases 200] [--honest 400] [--late 200] [--seed 1] [--jobs 2] [--json] [--plant watch]

Real worker, journal, exchange, CBO and probers on real files, one station a case; the virtual clock moves the windows.
The cases are in tests/verification/lies.py. `--plant watch` leaves the listings out, to see that it is noticed.
Exits 1 when a lie was believed, a late regression missed the ladder, or more than 1 % of the honest were marked.
"""

import argparse
import json
import logging
import multiprocessing
import random
import sys
import time
from pathlib import Path
from typing import Any

import structlog

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "protos" / "gen")]

from tests.verification import lies  # noqa: E402 - found by the line above

Job = tuple[str, str]
MOST_FALSE = 0.01


def _start(planted: str) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    if planted == "watch":
        from services.cbo import watching

        watching.folders_of = lambda *_: ()  # planted
    elif planted:
        raise SystemExit(f"no plant {planted!r}")


def _run(job: Job) -> tuple[str, str, str]:
    """kind, marked as what, and why."""
    kind, seed = job
    chance = random.Random(f"{seed}/{kind}")
    if kind.startswith("+"):
        told, station = lies.late(kind)(chance)
        station.close()
        return kind, "told" if told else "missed", ""
    found, station = getattr(lies, kind)(chance)
    station.close()
    marked = "failed" if found.failed else {1.0: "confirmed", None: "unknown"}.get(found.task.stability, "half told")
    probe = next((e["probe"] for e in found.record["critique"]["ended"] if e["task_id"] == found.task.id), None)
    return kind, marked, "" if probe is None else str(probe["found"])


def upper(bad: int, of: int) -> float:
    """The upper end of the 95 % interval of a share that was seen `bad` times (Clopper and Pearson, 1934)."""
    from scipy.stats import beta

    return 1.0 if bad >= of else float(beta.ppf(0.975, bad + 1, of - bad))


ROWS = (
    ("without", "done, without the effect", "failed"),
    ("half", "done, with half of it", "failed"),
    ("more", "done, and more than declared", "failed"),
    ("+1m", "held, broken before +1 min", "told"),
    ("+1h", "held, broken before +1 h", "told"),
    ("+24h", "held, broken before +24 h", "told"),
    ("honest", "honest, others at work in half", "confirmed"),
    ("once_within", "honest, a first write by the same user meanwhile", "confirmed"),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--honest", type=int, default=400)
    parser.add_argument("--late", type=int, default=200)
    parser.add_argument("--seed", default="1")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--plant", default="")
    args = parser.parse_args()
    count = {"honest": args.honest, "once_within": args.cases // 10, **dict.fromkeys(lies.WINDOWS, args.late)}
    jobs = [(kind, f"{args.seed}/{n}") for kind, *_ in ROWS for n in range(count.get(kind, args.cases))]
    began = time.monotonic()
    with multiprocessing.Pool(args.jobs, _start, (args.plant,)) as pool:
        made = list(pool.imap_unordered(_run, jobs, chunksize=8))
    table: list[dict[str, Any]] = []
    for kind, words, right in ROWS:
        these = [(marked, why) for each, marked, why in made if each == kind]
        wrong = [(marked, why) for marked, why in these if marked != right]
        failed = sum(marked == "failed" for marked, _ in these)
        table.append(
            {
                "kind": kind, "words": words, "cases": len(these), "right": len(these) - len(wrong),
                "failed": failed, "upper": upper(len(wrong), len(these)) if these else None, "first": wrong[:3],
            }
        )  # fmt: skip
    honest = next(each for each in table if each["kind"] == "honest")
    lied = [each for each in table if each["kind"] not in ("honest", "once_within")]
    held = all(each["right"] == each["cases"] for each in lied)
    held = held and honest["cases"] - honest["right"] <= MOST_FALSE * honest["cases"]
    seconds = time.monotonic() - began
    if args.json:
        print(json.dumps({"held": held, "seconds": seconds, "rows": table}))
        return 0 if held else 1
    print(f"{'case':<50}{'cases':>6}  {'marked right':>13}  wrong at most (95 %)")
    for each in table:
        share = 100.0 * each["right"] / max(1, each["cases"])
        top = "" if each["upper"] is None else f"{100.0 * each['upper']:.1f} %"
        print(f"{each['words']:<50}{each['cases']:>6}  {each['right']:>5} {share:5.1f} %  {top}")
        for marked, why in each["first"] if each["kind"] != "once_within" else []:
            print(f"    {marked}: {why[:160]}")
    print(f"{len(jobs)} cases in {seconds:.0f} s. The last row is what the rule can't tell apart; it does not count.")
    return 0 if held else 1


if __name__ == "__main__":
    raise SystemExit(main())
