"""A decision for one task: what is known of each procedure here and now, the draw, and what it heard of memory."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from chassis.canonical import Json
from chassis.domains import DomainManifest, Level
from chassis.rng import Rng
from services.cbo.bridge import Bridge
from services.cbo.planner import Choice, candidates, choose
from services.cbo.ports import Summary
from services.cbo.tasks import Task
from services.cbo.uplift import heard, worth


def choose_for(
    bridge: Bridge,
    manifest: DomainManifest,
    procedures: Sequence[str],
    summaries: Sequence[Summary],
    *,
    rng: Rng,
    decision: str,
    now: datetime,
) -> Choice:
    """`decision` names it (a task's id): the same one is made alike, also in whether it hears memory."""
    domain, load, beliefs = manifest.domain, bridge.load.of(now), bridge.beliefs
    said = heard((bridge.station_id, decision), summaries, domain, len(procedures))
    known = candidates(
        domain,
        procedures,
        () if said == "ignored" else summaries,
        lambda each: beliefs.of(domain, each, now),
        lambda each: beliefs.of(domain, each, now, load) if load else None,
    )
    return choose(
        known,
        rng,
        explore=bridge.options.explore and manifest.explore,
        undrilled=[each for each in procedures if not bridge.drilled(manifest.owner, domain, each)],
        context=load,
        memory=said,
    )


def level_of(choice: Choice, level: Level) -> Level:
    """An exploratory choice whose undo has passed no drill is rehearsed, however far its domain may go."""
    return min(level, Level.GUIDE) if choice.rehearse else level


def learn(bridge: Bridge, task: Task, success: bool, now: datetime, *, first: bool) -> None:
    """What the end of a task (`first`), or a later regression, says of its procedure and of memory's advice."""
    drawn: Mapping[str, Json] = task.choices[0] if task.choices else {}
    bridge.beliefs.learn(task.domain, task.procedure, success, now, str(drawn.get("context", "")))
    side, gained = drawn.get("memory", "none"), worth(task.choices, task.procedure, success)
    if first and side in ("used", "ignored") and gained is not None:
        bridge.store.run("memory_trial", task.domain, side, gained, gained * gained)
