"""Five named worlds in which the planner learns: what works depends on the time, the load and the kind of work.

Each world has one domain with three procedures, some kinds of work and a load (the context of the posteriors). A kind
of work is asked for in many wordings, and only memory can find out which of them mean the same. `truth` is the chance
of success, and knows what the planner must find out. Everything is drawn from `chassis.rng` by seed. `live` goes
through the planner's own code: `candidates`, `choose`, `learned`, `heard`. Memory is anything that recalls and takes
in: `world_memory.Served`, the real one, or one of two to hold it against: `Counts` by the kind of work (told what no
memory can know: the most that can be remembered) or by the very words (all that can be said without meaning).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Protocol

from chassis.rng import Rng
from services.cbo.planner import BYTES_WEIGHT, CPU_WEIGHT, candidates, choose
from services.cbo.ports import Summary
from services.cbo.posterior import Key, Posterior, learned
from services.cbo.uplift import RECENT_RUNS, Heard, heard

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
STEP = timedelta(minutes=1)
DOMAIN = "work"
CALM, BUSY = "calm", "busy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of work and the ways in which it is asked for; `{n}` is one of `PLACES` names of what it is done to."""

    name: str
    wordings: tuple[str, ...]

    def ask(self, chance: Rng) -> str:
        words = self.wordings[int(chance.uniform() * len(self.wordings))]
        return words.replace("{n}", str(1 + int(chance.uniform() * PLACES)))

    def texts(self) -> tuple[str, ...]:
        """All that `ask` can say."""
        return tuple(
            dict.fromkeys(words.replace("{n}", str(n)) for words in self.wordings for n in range(1, PLACES + 1))
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """`costs`: CPU seconds and bytes written of a run, by procedure. `busy`: the share of runs under load."""

    name: str
    about: str
    costs: Mapping[str, tuple[float, float]]
    kinds: tuple["Kind", ...]
    truth: Callable[[str, int, str, int], float]
    """(procedure, number of the kind, load, task) → chance of success."""
    busy: float = 0.0

    def utility(self, procedure: str, kind: int, load: str, task: int) -> float:
        """Expected, with costs relative to the dearest."""
        cpu, size = self.costs[procedure]
        most_cpu, most_size = (max(each[n] for each in self.costs.values()) for n in (0, 1))
        cost = CPU_WEIGHT * cpu / most_cpu + BYTES_WEIGHT * size / most_size
        return self.truth(procedure, kind, load, task) - cost


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """A task as it is remembered. `kind` is for `Counts` alone: no memory knows it."""

    number: int
    objective: str
    kind: Kind
    procedure: str
    prediction: float
    success: bool
    at: datetime


class Recalling(Protocol):
    """Memory, as the planner needs it. `record` follows the `recall` of the same task."""

    def recall(self, objective: str, kind: Kind, since: datetime | None, now: datetime) -> Sequence[Summary]: ...
    def record(self, done: Done) -> None: ...


@dataclass(slots=True)
class Counts:
    """Counts by kind of work, as a memory that knew all wordings would; or `by_words`."""

    by_words: bool = False
    rows: dict[str, list[tuple[datetime, str, bool]]] = field(default_factory=dict)

    def recall(self, objective: str, kind: Kind, since: datetime | None, now: datetime) -> Sequence[Summary]:
        ends: dict[str, list[int]] = {}
        for at, procedure, success in reversed(self.rows.get(objective if self.by_words else kind.name, [])):
            if since is not None and at < since:
                break
            ends.setdefault(procedure, [0, 0])[not success] += 1
        return [
            Summary(domain=DOMAIN, procedure=procedure, successes=good, failures=bad)
            for procedure, (good, bad) in sorted(ends.items())
        ]

    def record(self, done: Done) -> None:
        key = done.objective if self.by_words else done.kind.name
        self.rows.setdefault(key, []).append((done.at, done.procedure, done.success))


@dataclass(frozen=True, slots=True, kw_only=True)
class Lived:
    """One task: what was chosen and predicted (and its `truth`), how it ended, and the expected utilities of the choice
    and the best."""

    task: int
    kind: int
    load: str
    procedure: str
    prediction: float
    truth: float
    success: bool
    heard: Heard
    utility: float
    best: float
    uniform: float
    exploratory: bool


def _known(known: Mapping[Key, Posterior], now: datetime, procedure: str, context: str = "") -> Posterior:
    return known.get((DOMAIN, procedure, context), Posterior(at=now)).decayed(now)


def live(
    world: World, seed: int, tasks: int, memory: Recalling | None = None, *, always_ignore: bool = False
) -> Iterator[Lived]:
    """The planner's life in a world. The world's own draws do not depend on what is chosen: lives can be paired."""
    known: dict[Key, Posterior] = {}
    times: list[datetime] = []
    memory = memory if memory is not None else Counts()
    for task in range(tasks):
        now = BEGAN + STEP * (task + 1)
        fate = Rng.of("world", world.name, str(seed), str(task))
        kind = int(fate.uniform() * len(world.kinds))
        load = BUSY if fate.uniform() < world.busy else CALM
        objective = world.kinds[kind].ask(Rng.of("words", world.name, str(seed), str(task)))
        since = times[-RECENT_RUNS] if len(times) >= RECENT_RUNS else None
        summaries = tuple(memory.recall(objective, world.kinds[kind], since, now))
        said = heard((world.name, str(seed), str(task)), summaries, DOMAIN, len(world.costs))
        if always_ignore:
            said = "ignored"

        of = partial(_known, known, now)
        choice = choose(
            candidates(DOMAIN, tuple(world.costs), summaries if said == "used" else (), of, partial(of, context=load)),
            Rng.of("plan", world.name, str(seed), str(task)),
        )
        taken = choice.procedure
        truth = world.truth(taken, kind, load, task)
        success = fate.uniform() < truth
        utilities = [world.utility(each, kind, load, task) for each in world.costs]
        yield Lived(
            task=task, kind=kind, load=load, procedure=taken, prediction=choice.prediction, truth=truth,
            success=success, heard=said, utility=world.utility(taken, kind, load, task), best=max(utilities),
            uniform=sum(utilities) / len(utilities), exploratory=choice.exploratory,
        )  # fmt: skip
        known.update(learned(known, DOMAIN, taken, load, success, now))
        cpu, size = world.costs[taken]
        key = (DOMAIN, taken, "")
        known[key] = known[key].costing(cpu, size)
        times.append(now)
        memory.record(
            Done(
                number=task, objective=objective, kind=world.kinds[kind], procedure=taken, prediction=choice.prediction,
                success=success, at=now,
            )
        )  # fmt: skip


# the worlds

COSTS = {"first": (0.6, 0.5), "second": (1.0, 0.4), "third": (0.3, 1.0)}
"""Of one scale, so that success decides mostly and costs decide between equals."""


def _by_name(first: float, second: float, third: float) -> Mapping[str, float]:
    return {"first": first, "second": second, "third": third}


_STEADY = _by_name(0.98, 0.90, 0.60)
_SWAPPED = _by_name(0.60, 0.90, 0.98)
SWAP_AT = 300
_FORMATS = (_by_name(0.97, 0.55, 0.75), _by_name(0.50, 0.95, 0.75), _by_name(0.70, 0.50, 0.96))
_HARD = (_by_name(0.72, 0.35, 0.50), _by_name(0.30, 0.68, 0.50))
_LOADED = {CALM: _by_name(0.97, 0.93, 0.85), BUSY: _by_name(0.45, 0.60, 0.88)}


def _drifting(procedure: str, _kind: int, _load: str, task: int) -> float:
    """`first` wears out from 0.97 to 0.60 over 600 tasks and is mended; `third` comes up meanwhile."""
    worn = (task % 600) / 600
    return {"first": 0.97 - 0.37 * worn, "second": 0.80, "third": 0.65 + 0.30 * worn}[procedure]


PLACES = 20

ROTATE = Kind(
    name="rotate",
    wordings=(
        "rotate the web server's access logs",
        "rotate the access logs of web server {n}",
        "rotate the web access logs on host web-{n}",
        "compress and rotate the access logs of the web server",
        "please rotate the access logs of our web servers",
        "rotate /var/log/nginx/access-{n}.log",
        "the web server's access logs have grown, rotate them",
        "archive the old access logs of the web server",
    ),
)
THUMBNAILS = Kind(
    name="thumbnails",
    wordings=(
        "compact the photo thumbnails cache",
        "compact the thumbnails cache of photo album {n}",
        "compact the cache of photo thumbnails",
        "make the cache of photo thumbnails smaller",
        "shrink the photo thumbnail cache",
        "compact the photo thumbnails cache on volume {n}",
        "pack the cached thumbnails of the photos",
        "reduce the size of the photo thumbnail cache for user {n}",
    ),
)
INVOICES = Kind(
    name="invoices",
    wordings=(
        "summarise last week's invoices by customer",
        "summarise the invoices of week {n} by customer",
        "sum up last week's invoices for each customer",
        "make a summary of last week's invoices by customer",
        "write a summary of the invoices of week {n} per customer",
        "group last week's invoices by customer and total them",
        "which customer was invoiced how much last week?",
        "invoice totals by customer for week {n}",
    ),
)
KINDS = (ROTATE, THUMBNAILS, INVOICES)
"""No wording of one means the same as one of another: memory's floor keeps them apart. Written before any of it was
embedded; how far each kind's wordings find each other is one of the bench's figures."""

STEADY = World(
    name="steady", about="One kind of work; success 0.98, 0.90 and 0.60, and nothing ever changes.",
    costs=COSTS, kinds=KINDS[:1], truth=lambda procedure, _kind, _load, _task: _STEADY[procedure],
)  # fmt: skip
SWAPPED = World(
    name="swapped", about=f"As steady, but after {SWAP_AT} tasks the best and the worst change places in silence.",
    costs=COSTS, kinds=KINDS[:1],
    truth=lambda procedure, _kind, _load, task: (_STEADY if task < SWAP_AT else _SWAPPED)[procedure],
)  # fmt: skip
FORMATS = World(
    name="formats", about="Three kinds of work, each with another best procedure: only memory can tell them apart.",
    costs=COSTS, kinds=KINDS, truth=lambda procedure, kind, _load, _task: _FORMATS[kind][procedure],
)  # fmt: skip
RUSH = World(
    name="rush", about="Four runs in ten come under load, where two of three procedures mostly fail.",
    costs=COSTS, kinds=KINDS[:1], busy=0.4, truth=lambda procedure, _kind, load, _task: _LOADED[load][procedure],
)  # fmt: skip
WEARING = World(
    name="wearing", about="One procedure wears out from 0.97 to 0.60 over 600 tasks and is mended, over and over.",
    costs=COSTS, kinds=KINDS[:1], truth=_drifting,
)  # fmt: skip
HARD = World(
    name="hard", about="Two kinds of work at which nothing succeeds more often than 0.72.",
    costs=COSTS, kinds=KINDS[:2], truth=lambda procedure, kind, _load, _task: _HARD[kind][procedure],
)  # fmt: skip
FIVE = (STEADY, FORMATS, RUSH, WEARING, HARD)
"""What calibration and uplift are measured in, pooled."""
