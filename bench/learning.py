"""How well the planner learns, by its own code: `python -m bench.learning [--memory real|kinds|words] [--json]`.

What it remembers comes from the real memory service in process (world_memory.py, some minutes), or from one of two to
hold it against: `kinds` knows what kind of work each wording means, `words` knows no wording but the very same.
Regret and the way back: `steady` and then a silent swap of the best and the worst (worlds.SWAPPED), seen from the
expected utilities; the way back is over with the first ten tasks of which eight take the new best. Calibration: the
predictions made before the act on the later two thirds of the five worlds' tasks, pooled. Uplift: the same decisions
apart by whether they heard memory, as a live station reports it; and twin lives, one with memory, one without any.
Intervals are 95 % bootstraps: over tasks for the skill, over lives for the twins. A world in which the best procedure
hardly ever fails leaves little to predict: beside its skill stands that of who knows each chance of success. Exits 1
when a bound does not hold.
"""

import argparse
import json
import random
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from itertools import combinations
from typing import Literal, get_args

from bench.worlds import FIVE, KINDS, SWAP_AT, SWAPPED, Counts, Lived, Recalling, World, live
from services.cbo.planner import BYTES_WEIGHT, CPU_WEIGHT
from services.cbo.posterior import Bin, Calibration, calibration
from services.cbo.uplift import Arm, Uplift, uplift

LEARNING, HELD_OUT = 300, 600
"""Tasks of a life before its predictions count, and those that count."""
AFTER_SWAP = 200
RESAMPLES = 2000
Memory = Literal["real", "kinds", "words"]


@contextmanager
def remembering(memory: Memory) -> Iterator[Recalling]:
    """A memory for one life."""
    if memory != "real":
        yield Counts(by_words=memory == "words")
        return
    from bench.world_memory import served  # the model and the wire cost a second, and only the real one needs them

    with served() as real:
        yield real


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One line of the answer; `holds` None where the issue sets no bound."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    bound: str = ""
    holds: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Swapped:
    """`regret` as a share of uniform choice's over the first 300 tasks; `back` in tasks, None: never."""

    regret: float
    back: int | None


def swapped(seed: int, memory: Memory = "kinds") -> Swapped:
    with remembering(memory) as remembered:
        lived = list(live(SWAPPED, seed, SWAP_AT + AFTER_SWAP, remembered))
    before, after = lived[:SWAP_AT], [each.utility == each.best for each in lived[SWAP_AT:]]
    regret = sum(each.best - each.utility for each in before) / sum(each.best - each.uniform for each in before)
    return Swapped(regret=regret, back=way_back(after))


def way_back(best: Sequence[bool]) -> int | None:
    """Tasks until the first ten in a row are over of which eight took the best."""
    return next((n + 10 for n in range(len(best) - 9) if sum(best[n : n + 10]) >= 8), None)


def life(world: World, seed: int, *, always_ignore: bool = False, memory: Memory = "kinds") -> list[Lived]:
    """The tasks that count."""
    with remembering(memory) as remembered:
        return list(live(world, seed, LEARNING + HELD_OUT, remembered, always_ignore=always_ignore))[LEARNING:]


def told(lives: Iterable[Sequence[Lived]], *, knowing: bool = False) -> list[tuple[float, bool]]:
    """Every prediction, or what who knows the chances would have said, with how it ended."""
    return [(each.truth if knowing else each.prediction, each.success) for lived in lives for each in lived]


def calibrated(pairs: Iterable[tuple[float, bool]], bins: int = 10) -> Calibration:
    """Over bins of equal mass, as the CBO's query makes them."""
    ordered = sorted(pairs)
    made = []
    for n in range(bins):
        part = ordered[len(ordered) * n // bins : len(ordered) * (n + 1) // bins]
        made.append(
            Bin(
                count=len(part),
                predicted=sum(prediction for prediction, _ in part),
                succeeded=sum(success for _, success in part),
                squared_error=sum((prediction - success) ** 2 for prediction, success in part),
            )
        )
    return calibration(made)


def skill_interval(pairs: Sequence[tuple[float, bool]], seed: int, resamples: int = RESAMPLES) -> tuple[float, float]:
    """Of the Brier skill against the base rate, each resample against its own."""
    chance, skills = random.Random(seed), []
    errors = [((prediction - success) ** 2, success) for prediction, success in pairs]
    for _ in range(resamples):
        taken = chance.choices(errors, k=len(errors))
        base = sum(success for _, success in taken) / len(taken)
        skills.append(1.0 - sum(error for error, _ in taken) / len(taken) / (base * (1.0 - base)))
    return middle_95(skills)


def middle_95(values: Sequence[float]) -> tuple[float, float]:
    ordered = sorted(values)
    return ordered[int(0.025 * len(ordered))], ordered[int(0.975 * len(ordered))]


def mean_interval(values: Sequence[float], seed: int) -> tuple[float, float]:
    chance = random.Random(seed)
    return middle_95([statistics.fmean(chance.choices(values, k=len(values))) for _ in range(RESAMPLES)])


def arms(lives: Iterable[tuple[World, Sequence[Lived]]]) -> Uplift:
    """As a station reports it: realised utility, by whether a decision heard memory."""
    sums = {"used": [0.0, 0.0, 0.0], "ignored": [0.0, 0.0, 0.0]}
    for world, lived in lives:
        for each in (each for each in lived if each.heard != "none"):
            cpu, size = (world.costs[each.procedure][n] / max(cost[n] for cost in world.costs.values()) for n in (0, 1))
            gained = each.success - CPU_WEIGHT * cpu - BYTES_WEIGHT * size
            side = sums[each.heard]
            side[0], side[1], side[2] = side[0] + 1, side[1] + gained, side[2] + gained * gained
    made = {side: Arm(runs=int(runs), total=total, squares=squares) for side, (runs, total, squares) in sums.items()}
    return uplift(made["used"], made["ignored"])


def wording_figures() -> list[Figure]:
    """How far the floor lets wordings find each other: of one kind of work, and of two."""
    from bench.world_memory import alike  # as above

    same = statistics.fmean(alike(kind, kind) for kind in KINDS)
    other = max(alike(one, two) for one, two in combinations(KINDS, 2))
    return [
        Figure(name="wordings of one kind of work that recall each other, share", value=same),
        Figure(name="wordings of two kinds that do, share", value=other),
    ]


def learning_figures(memory: Memory, runs: int, each_of: Callable[..., Iterable[Swapped]]) -> list[Figure]:
    found = list(each_of(partial(swapped, memory=memory), range(runs)))
    regret = statistics.median(each.regret for each in found)
    back = statistics.median(each.back if each.back is not None else AFTER_SWAP + 1 for each in found)
    never = sum(each.back is None for each in found)
    slow = sorted(each.back or AFTER_SWAP + 1 for each in found)[int(0.9 * runs)]
    return [
        Figure(name="regret after 300 tasks / uniform's, median", value=regret, bound="<= 1/3", holds=regret <= 1 / 3),
        Figure(name="tasks back to the best after the swap, median", value=back, bound="<= 60", holds=back <= 60),
        Figure(name="the same, 90th percentile", value=slow),
        Figure(name=f"not back within {AFTER_SWAP} tasks, share", value=never / runs),
    ]


def world_figures(memory: Memory, seeds: int, run: Callable[..., Iterable[list[Lived]]]) -> list[Figure]:
    worlds = [(world, seed) for world in FIVE for seed in range(seeds)]
    named = ([world.name for world, _ in worlds], [seed for _, seed in worlds])
    lives = list(run(partial(_with_memory, memory=memory), *named))
    by_seed = [told(lived for (_, s), lived in zip(worlds, lives, strict=True) if s == seed) for seed in range(seeds)]
    first = by_seed[0]
    known = calibrated(first)
    assert known.ece is not None and known.skill is not None and known.brier is not None
    low, high = skill_interval(first, 1)
    worst = max(calibrated(each).ece or 0.0 for each in by_seed)
    lowest = min(skill_interval(each, 1, RESAMPLES // 5)[0] for each in by_seed)
    figures = [
        Figure(name="held-out predictions", value=known.predictions, bound=">= 2000", holds=known.predictions >= 2000),
        Figure(name="ECE, 10 bins of equal mass", value=known.ece, bound="<= 0.05", holds=known.ece <= 0.05),
        Figure(name=f"ECE, worst of {seeds} seeds", value=worst, bound="<= 0.05", holds=worst <= 0.05),
        Figure(name="Brier score", value=known.brier),
        Figure(
            name="Brier skill over the base rate", value=known.skill, low=low, high=high, bound="low > 0",
            holds=low > 0,
        ),
        Figure(name=f"the same, lowest low end of {seeds} seeds", value=lowest, bound="> 0", holds=lowest > 0),
    ]  # fmt: skip
    for world in FIVE:
        mine = [lived for (each, _), lived in zip(worlds, lives, strict=True) if each is world]
        of, best = calibrated(told(mine)), calibrated(told(mine, knowing=True))
        figures.append(Figure(name=f"  {world.name}: skill over its own base rate", value=of.skill or 0.0))
        figures.append(Figure(name=f"  {world.name}: skill of who knows the chances", value=best.skill or 0.0))
        figures.append(Figure(name=f"  {world.name}: ECE", value=of.ece or 0.0))
    alone = list(run(_alone, *named))
    live_like = arms(zip((world for world, _ in worlds), lives, strict=True))
    assert live_like.value is not None and live_like.low is not None
    figures.append(
        Figure(
            name=f"uplift of memory, {live_like.ignored} of {live_like.used + live_like.ignored} decisions without it",
            value=live_like.value,
            low=live_like.low,
            high=live_like.high,
            bound="low > 0",
            holds=live_like.low > 0,
        )
    )
    gains = [
        statistics.fmean(a.utility for a in one) - statistics.fmean(b.utility for b in other)
        for one, other in zip(lives, alone, strict=True)
    ]
    low, high = mean_interval(gains, 2)
    figures.append(
        Figure(
            name="uplift of memory, twin lives",
            value=statistics.fmean(gains),
            low=low,
            high=high,
            bound="low > 0",
            holds=low > 0,
        )
    )
    for world in FIVE:
        mine_gains = [gain for (w, _), gain in zip(worlds, gains, strict=True) if w is world]
        low, high = mean_interval(mine_gains, 3)
        figures.append(
            Figure(name=f"  {world.name}: twin lives", value=statistics.fmean(mine_gains), low=low, high=high)
        )
    return figures


def _with_memory(name: str, seed: int, *, memory: Memory) -> list[Lived]:
    return life(next(each for each in FIVE if each.name == name), seed, memory=memory)


def _alone(name: str, seed: int) -> list[Lived]:
    return life(next(each for each in FIVE if each.name == name), seed, always_ignore=True)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--memory", choices=get_args(Memory), default="real")
    parser.add_argument("--runs", type=int, default=200, help="lives with a swap")
    parser.add_argument("--seeds", type=int, default=20, help="lives in each of the five worlds")
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args(argv)
    with ProcessPoolExecutor(args.workers) as pool:
        print(f"{args.runs} lives with a swap ...", file=sys.stderr, flush=True)
        figures = learning_figures(args.memory, args.runs, pool.map)
        print(f"{args.seeds} lives in each of {len(FIVE)} worlds, twice ...", file=sys.stderr, flush=True)
        figures += world_figures(args.memory, args.seeds, pool.map)
    if args.memory == "real":
        figures += wording_figures()
    if args.json:
        print(json.dumps([asdict(each) for each in figures], indent=1))
    else:
        for each in figures:
            band = "" if each.low is None else f" [{each.low:+.4f}, {each.high:+.4f}]"
            verdict = "" if each.holds is None else f"  {each.bound}: {'holds' if each.holds else 'MISSED'}"
            print(f"{each.name:60} {each.value:9.4f}{band}{verdict}")
    return 0 if all(each.holds is not False for each in figures) else 1


if __name__ == "__main__":
    raise SystemExit(main())
