"""What in a domain's manifest keeps it from ever being promoted, named so that a person can change it."""

from collections.abc import Iterable
from dataclasses import replace

from chassis.domains import DomainManifest, Level
from services.cbo.judging import end_of
from services.cbo.ladder import Rung
from services.cbo.tasks import Task
from services.cbo.tes import score, unreachable_because

RUNS = 50
"""How many of its newest tasks are looked at."""


def obstacle(rung: Rung, manifest: DomainManifest, recent: Iterable[Task]) -> str:
    """Empty when nothing does, or when it is at EXECUTE already. Limits are judged by the best of its good runs."""
    if rung.standing.level is Level.EXECUTE:
        return ""
    if manifest.max_level < Level.EXECUTE:
        return f"max_level in its manifest is {manifest.max_level.name}"
    if manifest.effects == "irreversible":
        return "its manifest says effects: irreversible, which stops at GUIDE"
    good = [
        score(end_of(_as_it_ended(task), "confirmed"), manifest.limits)
        for task in recent
        if task.scored and task.tes is not None and task.stability == 1.0
    ]
    if not good:
        return ""
    best = max(good, key=lambda each: each.tes or 0.0)
    return unreachable_because(best, manifest.limits, rung.terms.promote_above)


def _as_it_ended(task: Task) -> Task:
    """A rehearsal that a newer one overtook is `expired` by now, and an effect may be undone; they were good runs."""
    return replace(task, state="rehearsed" if task.rehearsal else "done")
