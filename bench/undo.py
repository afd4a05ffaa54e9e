"""Random sequences of changes, killed at every step, recovered and undone: does everything come back to the byte?

    python bench/undo.py [--sequences 20000] [--seed 1] [--every 0 [--first 0] [--domain NAME]] [--longest 3] [--jobs 2]
        [--json] [--plant NAME]

A sequence is one to three tasks by chance: a built-in procedure, effects by chance, keys of files and rows of a
database, or a program below a declared folder; it is killed, its recovery is killed, its undo is killed, a person
meddles. `--every N` besides kills each procedure (of one domain) at each of N boundaries. `--plant` breaks something,
to see that it is noticed. Works in /dev/shm where there is one: what a power cut does is not looked at here. Exits 1
when one sequence did not hold.
"""

import argparse
import json
import logging
import multiprocessing
import os
import random
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import structlog

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "protos" / "gen"), str(ROOT / "tests" / "journal")]

from undo_kills import Reaper, Trial, trial  # noqa: E402 — found by the line above
from undo_world import World  # noqa: E402

from chassis.journal import cells, recovery, undo, watched  # noqa: E402 — the path comes first

Job = tuple[int, int | None, int | None]


def plant(name: str) -> None:
    """Leave one thing out."""
    if name == "time":
        for module in (undo, watched):
            real = module.dress
            module.dress = lambda path, like, real=real, **more: real(  # planted
                path, {key: like[key] for key in ("mode", "uid", "gid")}, **more
            )
    elif name == "settle":
        for op in ("replace", "remove"):
            recovery._ENDS[op] = lambda *_: False
    elif name == "rows":
        for op in cells.ROWS:
            recovery._ENDS[op] = lambda *_: False
    elif name == "keys":  # the whole file comes back, over what others changed in it
        cells._whole = lambda log, entry, now: (log.pre / str(entry.n)).exists()
    elif name == "drift":
        undo._as_left = lambda *_: None
    elif name:
        raise SystemExit(f"no plant {name!r}")


def _start(planted: str, longest: int) -> None:
    global _reaper, _longest
    _longest = longest
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    plant(planted)
    _reaper = Reaper()


_reaper: Reaper
_longest = 3


def _one(job: Job) -> Trial:
    seed, kill_at, only = job
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        try:
            return trial(seed, Path(folder) / "w", _reaper, kill_at, only, _longest)
        except BaseException:
            return Trial(seed=seed, wrong=traceback.format_exc())


def _cpu() -> float:
    """Of this process and its ended children."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def run(
    sequences: int,
    seed: int,
    every: int,
    jobs: int,
    planted: str = "",
    longest: int = 3,
    first: int = 0,
    domain: str = "",
) -> dict[str, Any]:
    work: list[Job] = [(seed + n, None, None) for n in range(sequences)]
    with tempfile.TemporaryDirectory() as folder:
        works = World(Path(folder), random.Random(0)).works()
    chosen = [n for n, (work, _, _) in enumerate(works) if domain in ("", work.domain)]
    work += [(seed + only, at, only) for only in chosen for at in range(first, first + every)]
    began, cpu = time.perf_counter(), _cpu()
    if jobs == 1:
        _start(planted, longest)
        found = [_one(job) for job in work]
    else:
        with multiprocessing.get_context("fork").Pool(jobs, _start, (planted, longest)) as pool:
            found = pool.map(_one, work, chunksize=20)
    return {
        "sequences": len(found),
        "tasks": sum(len(each.steps) for each in found),
        "kills": sum(each.kills for each in found),
        "undos_undone": sum(each.redone for each in found),
        "drifts_refused": sum(each.drifts for each in found),
        "by_kind": dict(sorted(Counter(name for each in found for name in each.steps).items())),
        "seconds": round(time.perf_counter() - began, 1),
        "cpu_seconds": round(_cpu() - cpu, 1),
        "wrong": [{"seed": each.seed, "steps": each.steps, "what": each.wrong} for each in found if each.wrong],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sequences", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--every", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--domain", default="")
    parser.add_argument("--longest", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--plant", default="", choices=["", "time", "settle", "drift", "rows", "keys"])
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    found = run(
        given.sequences, given.seed, given.every, given.jobs, given.plant, given.longest, given.first, given.domain
    )
    if given.json:
        print(json.dumps(found))
    else:
        for key, value in found.items():
            if key != "wrong":
                print(f"{key:16} {value}")
        print(f"{'wrong':16} {len(found['wrong'])}")
        for each in found["wrong"][:20]:
            print(f"  seed {each['seed']} {each['steps']}: {each['what'][:600]}")
    return 1 if found["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
