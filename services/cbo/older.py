"""An older cbo.sqlite was put back, from a backup or with the machine: what it gave out since, it does not know.

The pulse records beside it are newer, and that shows. Then no number is given out twice, no domain stands higher than
it stood last, and what may have been withdrawn or done since counts as withdrawn or done until a person says otherwise.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import structlog

from chassis.canonical import Json
from chassis.domains import Level
from services.cbo import seal
from services.cbo.agents import Registry
from services.cbo.autonomy_evaluator import Standing
from services.cbo.bridge import Bridge
from services.cbo.ladder_log import standings_of
from services.cbo.store import pulse_id

log = structlog.get_logger(__name__)

WHY = "an older cbo.sqlite was put back, which does not know what was decided since"
LOOK_BACK = 100
"""So many records are tried for one that is whole."""
_RECORD = re.compile(r"bp-(\d{9,})\.json")


def outrun(bridge: Bridge, agents: Registry) -> bool:
    """Before anything else at the start: whether the records are ahead of the database, and what follows from it."""
    known = bridge.store.last_ended()
    newer = [(number, path) for number, path in records(bridge.layout.pulses) if number > known]
    if not newer:
        return False
    newest, raw = newer[0][0], newer[0][1].read_bytes()
    last = next(_whole(newer[:LOOK_BACK]), None)
    standings = {} if last is None else standings_of(last)
    for agent in agents.all():  # first: once the numbers are skipped, a start does not come here again
        agents.revoke(agent.name, WHY, "cbo")
    with bridge.store.transaction():
        bridge.store.skip_pulses(newest + 1)  # one more may have begun, without a record
        if digest := seal.digest_of(raw):
            bridge.store.set_fact(seal.SEALED, json.dumps({"id": pulse_id(newest), "digest": digest}))
        lowered = [domain for domain in bridge.domains if _lower(bridge, domain, standings.get(domain), newest)]
        ended = [each for each in bridge.store.active_objectives() if not each.schedule.repeats]
        for objective in ended:
            bridge.store.move_objective(objective, "cancelled")
            bridge.store.run("objective_note", f"{WHY}; submit it again if it was not done", objective.id)
        outside = [name for name, manifest in bridge.domains.items() if manifest.signed_by]
        for name in outside:
            bridge.store.run("fact_drop", f"domain:{name}")  # a person approves it again, in whatever edition
        bridge.audit.write(
            "store.older", records=pulse_id(newest), database=pulse_id(known), lowered=sorted(lowered),
            objectives=[each.id for each in ended], domains=sorted(outside),
        )  # fmt: skip
    log.error("an older cbo.sqlite was put back", records=pulse_id(newest), database=pulse_id(known))
    return True


def _lower(bridge: Bridge, domain: str, last: Standing | None, pulse: int) -> bool:
    """To where it stood last; to where one begins that can't be told of. Never up."""
    level = last.level if last is not None else min(Level.GUIDE, bridge.domains[domain].start_level)
    level = min(level, bridge.ladder.terms(domain).max_level)
    if level >= bridge.ladder.standing(domain).level:
        return False
    bridge.ladder.force(domain, level, WHY, pulse, bridge.clock.now())
    return True


def records(folder: Path) -> Iterator[tuple[int, Path]]:
    """Newest first: days and numbers sort as they came."""
    for day in sorted(folder.glob("[0-9]*"), reverse=True):
        found = [(int(match[1]), day / name) for name in _names(day) if (match := _RECORD.fullmatch(name))]
        yield from sorted(found, reverse=True)


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()] if folder.is_dir() else []


def _whole(records: list[tuple[int, Path]]) -> Iterator[Json]:
    """Those that are as they were sealed and hold standings."""
    for _, path in records:
        raw = path.read_bytes()
        if not seal.check(raw) and "ladder_log" in (record := json.loads(raw)).get("critique", {}):
            yield record
