"""What the ladder's rule does, by simulation: `python -m bench.ladder [--json] [--domains 10000] [--effects 10000]`.

Flapping, relapse and failures go through the real rule (`autonomy_evaluator.step`), beside the bare one: up after 5
scores above 95 in a row, down on a single score below 92, no doubling. Scores are AR(1), ρ 0.5, cut at 100.
"sd 2.5" can mean the spread of the scores or of what is new in each; both are shown, and both have to hold.

Wrong promotions: 10,000 domains with 10,000 effects each are 10⁸ steps, so they go through `Crowd`, which is the rule
in numpy; tests/cbo/test_cbo_ladder_bench.py holds it against `step` on thousands of random histories. Each domain goes
through the whole ladder: rehearsals that are always perfect, effects, demotions, longer and longer runs, and back.
Beside the sample stands the exact chance, computed from the rule's factors, without a limit on the effects.
Exits 1 when a bound does not hold.
"""

import argparse
import json
import math
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from chassis.domains import Level
from services.cbo.autonomy_evaluator import Entry, Standing, Terms, step

TERMS = Terms()
PULSES = 288
RHO, SD = 0.5, 2.5
GOOD, FAILED = 100.0, 60.0
"""TES of a quick, small effect that held, and of one that was applied, failed and was undone."""
Levels = list[Level]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One line of the answer; `holds` None where the issue sets no bound."""

    name: str
    value: float | None
    bound: str = ""
    holds: bool | None = None


# scores


def scores(rng: np.random.Generator, mean: float, pulses: int = PULSES, *, innovation: bool) -> list[float]:
    """An AR(1) series with one decimal, at most 100. `innovation`: the sd is that of the news, not of the series."""
    news = SD if innovation else SD * math.sqrt(1 - RHO**2)
    value = rng.normal(0.0, news / math.sqrt(1 - RHO**2))
    series = []
    for draw in rng.normal(0.0, news, pulses):
        series.append(round(min(100.0, max(0.0, mean + value)), 1))
        value = RHO * value + draw
    return series


def started(level: Level = Level.GUIDE) -> Standing:
    return Standing(level=level, reason="start")


def whole(series: Sequence[float]) -> Levels:
    """The level after each pulse by the rule of the station."""
    standing, levels = started(), []
    for pulse, tes in enumerate(series, 1):
        standing = step(standing, Entry(pulse=pulse, worked=True, tes=tes), TERMS)
        levels.append(standing.level)
    return levels


def bare(series: Sequence[float]) -> Levels:
    """The same without a window, without doubling."""
    level, run, levels = Level.GUIDE, 0, []
    for tes in series:
        if level is Level.GUIDE:
            run = run + 1 if tes > TERMS.promote_above else 0
            level = Level.EXECUTE if run >= TERMS.promote_run else level
        elif tes < TERMS.demote_below:
            level, run = Level.GUIDE, 0
        levels.append(level)
    return levels


def changes(levels: Levels) -> int:
    return sum(a is not b for a, b in zip([Level.GUIDE, *levels], levels, strict=False))


def first_promotion(levels: Levels) -> int | None:
    return levels.index(Level.EXECUTE) + 1 if Level.EXECUTE in levels else None


def flapping(rng: np.random.Generator, runs: int, *, innovation: bool) -> Iterator[Figure]:
    spread = "news" if innovation else "scores"
    for mean in (95.0, 97.0, 99.0):
        series = [scores(rng, mean, innovation=innovation) for _ in range(runs)]
        said = f"mean {mean:g}, sd {SD} of {spread}"
        for name, rule in (("the rule", whole), ("the bare rule", bare)):
            levels = [rule(each) for each in series]
            counts = [changes(each) for each in levels]
            bounded = name == "the rule" and mean == 95.0
            median = statistics.median(counts)
            yield Figure(
                name=f"level changes in {PULSES} pulses, {said}: {name}, median",
                value=median,
                bound="≤ 2" if bounded else "",
                holds=median <= 2 if bounded else None,
            )
            yield Figure(name=f"level changes, {said}: {name}, mean", value=statistics.fmean(counts))
            at = [first_promotion(each) for each in levels]
            promoted = [each for each in at if each is not None]
            if not promoted:
                continue
            share = statistics.fmean(
                statistics.fmean(level is Level.EXECUTE for level in each[first - 1 :])
                for each, first in zip(levels, at, strict=True)
                if first is not None
            )
            bounded = name == "the rule" and mean == 99.0
            yield Figure(
                name=f"share at EXECUTE after the first promotion, {said}: {name}",
                value=share,
                bound="≥ 0.95" if bounded else "",
                holds=share >= 0.95 if bounded else None,
            )
            if name == "the rule":
                yield Figure(name=f"pulses to the first promotion, {said}, median", value=statistics.median(promoted))
                late = float(np.percentile(promoted, 95))
                yield Figure(name=f"pulses to the first promotion, {said}, 95th percentile", value=late)
                yield Figure(name=f"runs ever promoted, {said}", value=len(promoted) / runs)


def relapse(rng: np.random.Generator, runs: int, *, innovation: bool) -> Iterator[Figure]:
    """Pulses from a fall of the mean from 99 to 85 until the demotion; runs that are not at EXECUTE then are drawn
    again."""
    spread = "news" if innovation else "scores"
    for name, rule in (("the rule", whole), ("the bare rule", bare)):
        found: list[int] = []
        while len(found) < runs:
            before = scores(rng, 99.0, PULSES // 2, innovation=innovation)
            after = scores(rng, 85.0, PULSES // 2, innovation=innovation)
            levels = rule([*before, *after])
            if levels[len(before) - 1] is Level.EXECUTE:
                found.append(levels.index(Level.GUIDE, len(before)) - len(before) + 1)
        median = statistics.median(found)
        bounded = name == "the rule"
        yield Figure(
            name=f"pulses from a step 99 → 85 to the demotion, sd {SD} of {spread}: {name}, median",
            value=median,
            bound="≤ 8" if bounded else "",
            holds=median <= 8 if bounded else None,
        )
        yield Figure(name=f"pulses from a step 99 → 85, sd {SD} of {spread}: {name}, most", value=max(found))


def third_failure(rng: np.random.Generator, runs: int, tes: Callable[[float], float]) -> tuple[float, float]:
    """Three failures within 20 pulses at mean 99: of the runs still at EXECUTE when the third comes, the share demoted
    in that pulse; and the share of all runs that lost the level before, by the mean."""
    right, earlier = 0, 0
    for _ in range(runs):
        standing = started(Level.EXECUTE)
        first = int(rng.integers(12, 40))
        failed = sorted(first + int(each) for each in rng.choice(20, 3, replace=False))
        for pulse, score in enumerate(scores(rng, 99.0, failed[2], innovation=False), 1):
            if standing.level is Level.GUIDE:
                break
            bad = pulse in failed
            entry = Entry(pulse=pulse, worked=True, tes=tes(score) if bad else score, failures=int(bad))
            standing = step(standing, entry, TERMS)
        fell = standing.changed_pulse if standing.level is Level.GUIDE else 0
        right += fell == failed[2]
        earlier += 0 < fell < failed[2]
    return right / max(1, runs - earlier), earlier / runs


def failures(rng: np.random.Generator, runs: int) -> Iterator[Figure]:
    kinds: tuple[tuple[str, Callable[[float], float]], ...] = (
        ("other runs keep the pulse's TES up", lambda score: max(score, 95.0)),
        (f"TES {FAILED:g}", lambda _: FAILED),
    )
    for said, tes in kinds:
        right, earlier = third_failure(rng, runs, tes)
        name = f"demoted in the very pulse of the third failure, {said}"
        yield Figure(name=name, value=right, bound="= 1", holds=right == 1.0)
        yield Figure(name=f"demoted before the third failure, by the mean, {said}", value=earlier)


# probation


class Crowd:
    """Many domains at once, each always at EXECUTE when `act` is called: rehearsals in between are perfect, so that
    only their number counts. The rule in numpy, equal to `step` (see the tests)."""

    def __init__(self, domains: int, terms: Terms = TERMS) -> None:
        self._terms, self._all = terms, np.arange(domains)
        self._scores = np.zeros((terms.mean_pulses, domains), dtype=np.int64)  # tenths, so that sums are exact
        self._bad = np.zeros((terms.failure_pulses, domains), dtype=np.int8)
        self._seen = np.zeros(domains, dtype=np.int64)
        self._sum = np.zeros(domains, dtype=np.int64)
        self._failures = np.zeros(domains, dtype=np.int64)
        self._demoted = np.full((3, domains), -(10**9), dtype=np.int64)  # the last three, newest first
        self.pulse = np.full(domains, terms.promote_run, dtype=np.int64)
        self.evidence_ln = np.zeros(domains)
        self.probation = np.ones(domains, dtype=np.bool_)
        self.effects = 0
        self.left_after = np.zeros(domains, dtype=np.int64)
        """How many effects it took to leave probation for the first time; 0 while it never did."""

    def act(self, held: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """One effect of each domain, in a pulse of its own; says who was demoted. They are back at EXECUTE after."""
        terms = self._terms
        self.effects += 1
        self.pulse += 1
        self.evidence_ln += np.where(held, math.log(terms.held_factor), math.log(terms.failed_factor))
        np.minimum(self.evidence_ln, math.log(terms.evidence_ceiling), out=self.evidence_ln)
        unproven = self.evidence_ln < math.log(terms.evidence_goal)
        self.probation &= unproven
        tes = np.where(held, round(GOOD * 10), round(FAILED * 10))
        slot = self._seen % terms.mean_pulses, self._all
        self._sum += tes - self._scores[slot]
        self._scores[slot] = tes
        slot = self._seen % terms.failure_pulses, self._all
        self._failures += ~held - self._bad[slot].astype(np.int64)
        self._bad[slot] = ~held
        self._seen += 1
        counted = np.minimum(self._seen, terms.mean_pulses)
        lost = (self._failures > terms.max_failures) | (self._sum < round(terms.demote_below * 10) * counted)
        gone = ~self.probation & ~lost & (self.left_after == 0)
        self.left_after[gone] = self.effects
        if lost.any():
            self._requalify(np.flatnonzero(lost))
            self.probation = np.where(lost, unproven, self.probation)
        return lost

    def _requalify(self, lost: NDArray[np.int64]) -> None:
        """Perfect rehearsals until the run is long enough: 10, 20 or 40, or less once an old demotion is 288 away."""
        terms = self._terms
        self._demoted[1:, lost] = self._demoted[:-1, lost]
        self._demoted[0, lost] = self.pulse[lost]
        since = self.pulse[lost] - self._demoted[1:, lost]
        one = np.maximum(2 * terms.promote_run, terms.doubling_pulses - since[0])
        two = np.maximum(4 * terms.promote_run, terms.doubling_pulses - since[1])
        self.pulse[lost] += np.minimum(np.minimum(one, two), terms.promote_run_cap)
        self._scores[:, lost] = 0
        self._bad[:, lost] = 0
        self._sum[lost] = self._failures[lost] = self._seen[lost] = 0


def ever_leaves(success: float, terms: Terms = TERMS, failures: int = 400) -> float:
    """The exact chance that the evidence ever reaches its goal, with the last look after so many failures.

    Between failures it only grows, so it is enough to follow how many effects held by the time of each failure.
    """
    held, failed = math.log(terms.held_factor), math.log(terms.failed_factor)
    alive, chance = np.array([1.0]), 0.0
    for n in range(failures):
        goal = math.ceil((math.log(terms.evidence_goal) - n * failed) / held - 1e-9)
        chance += float(np.sum(alive * success ** (goal - np.arange(len(alive)))))
        following, carried = np.zeros(goal), 0.0
        for at in range(goal):
            carried = carried * success + (alive[at] if at < len(alive) else 0.0)
            following[at] = carried * (1 - success)
        alive = following
    return chance


def probation(
    rng: np.random.Generator, domains: int, effects: int, progress: Callable[[str], None]
) -> Iterator[Figure]:
    for success, bound in ((0.80, 0.05), (0.90, 70.0), (0.99, 20.0)):
        crowd = Crowd(domains)
        demotions = 0
        for n in range(effects):
            demotions += int(crowd.act(rng.random(domains) < success).sum())
            if n % 500 == 0:
                progress(f"{domains} domains at {success}: effect {n} of {effects}")
            if success > 0.80 and (crowd.left_after > 0).mean() > 0.99:
                break
        left = crowd.left_after
        share, exact = float((left > 0).mean()), ever_leaves(success)
        said = f"true success {success}"
        if success == 0.80:
            yield Figure(
                name=f"share that ever leaves probation, {said}", value=share, bound="≤ 0.05", holds=share <= bound
            )
            yield Figure(name=f"the same, exactly, {said}", value=exact, bound="≤ 0.05", holds=exact <= bound)
            luck = 0.5 * math.erfc((0.05 - exact) / math.sqrt(2 * exact * (1 - exact) / domains))
            yield Figure(name=f"chance that a sample of {domains} shows more than 0.05", value=luck)
            yield Figure(name=f"demotions a domain, {said}", value=demotions / domains)
            yield Figure(name=f"pulses a domain lived, {said}, median", value=float(np.median(crowd.pulse)))
            continue
        median = float(np.median(np.where(left > 0, left, effects + 1)))
        name = f"effects until probation ends, {said}, median"
        yield Figure(name=name, value=median, bound=f"≤ {bound:g}", holds=median <= bound)
        late = float(np.percentile(np.where(left > 0, left, effects + 1), 90))
        yield Figure(name=f"effects until probation ends, {said}, 90th percentile", value=late)


def figures(
    *, runs: int, domains: int, effects: int, seed: int, progress: Callable[[str], None] = lambda _: None
) -> list[Figure]:
    found: list[Figure] = []

    def part(name: str, n: int) -> np.random.Generator:
        progress(name)
        return np.random.default_rng([seed, n])

    for n, innovation in enumerate((True, False)):
        found += flapping(part(f"flapping, {runs} runs", 10 + n), runs, innovation=innovation)
        found += relapse(part(f"relapse, {runs} runs", 20 + n), runs, innovation=innovation)
    found += failures(part(f"failures, {runs} runs", 30), runs)
    found += probation(part("probation", 40), domains, effects, progress)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=400)
    parser.add_argument("--domains", type=int, default=10_000)
    parser.add_argument("--effects", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()

    def progress(text: str) -> None:
        print(
            f"\r\x1b[K{text}" if sys.stderr.isatty() else text, end="" if sys.stderr.isatty() else "\n", file=sys.stderr
        )

    found = figures(
        runs=asked.runs, domains=asked.domains, effects=asked.effects, seed=asked.seed, progress=progress
    )  # fmt: skip
    progress("")
    if asked.json:
        print(json.dumps({**{k: v for k, v in vars(asked).items() if k != "json"}, "figures": [*map(asdict, found)]}))
    else:
        for each in found:
            value = "unknown" if each.value is None else f"{each.value:.4g}"
            verdict = {True: "holds", False: "DOES NOT HOLD", None: ""}[each.holds]
            print(f"{each.name:96}{value:>9}  {each.bound:8}{verdict}")
    return int(any(each.holds is False for each in found))


if __name__ == "__main__":
    raise SystemExit(main())
