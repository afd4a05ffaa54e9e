"""What people ask about the policy: what counts now, and what a draft would have made of the past."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from chassis.canonical import Json
from chassis.clock import iso
from chassis.errors import CalyxError, InvalidInput
from chassis.policy import RuleSet
from services.cbo import time_machine
from services.cbo.autonomy_evaluator import Standing
from services.cbo.history import from_store
from services.cbo.ladder_log import standings_of
from services.cbo.overseer import Overseer

LONGEST = timedelta(days=400)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """The finding, and the same in sentences."""

    result: Json
    words: tuple[str, ...]


def tried(overseer: Overseer, text: str, last: timedelta, terms: Mapping[str, float]) -> Tried:
    """Replay the past under a draft (empty: the policy in force) and other ladder terms. Raises InvalidInput."""
    if not timedelta() < last <= LONGEST:
        raise InvalidInput(f"look back over at most {LONGEST.days} days, and more than none")
    bridge = overseer.bridge
    rules, changed = _rules(overseer, text), time_machine.terms_of(terms)
    since = bridge.clock.now() - last
    number, standings = _ladder_before(overseer, since) if changed else (0, {})
    past = from_store(bridge.store, since, number, standings)
    found, courses = time_machine.replay(past, rules, since, changed)
    first = bridge.store.rows("gate_entry_first")
    result = {
        **time_machine.told(found, courses, past.ends, rules),
        "asked_since": iso(since),
        "history_from": first[0]["at"] if first else None,
        "terms": changed,
    }
    return Tried(result=result, words=tuple(time_machine.in_words(result)))


def _rules(overseer: Overseer, text: str) -> RuleSet:
    if not text:
        return overseer.bridge.policy_file.rules()
    parsed = overseer.bridge.policy_file.parse(text.encode())
    if parsed.policy is None:
        raise InvalidInput(f"the draft is no policy: {parsed.why}")
    return parsed.policy


def _ladder_before(overseer: Overseer, since: datetime) -> tuple[int, dict[str, Standing]]:
    """Where every domain stood in the last whole pulse before; without its record, from the station's first day."""
    rows = overseer.bridge.store.rows("pulse_before", iso(since))
    if not rows:
        return 0, {}
    try:
        record = json.loads(overseer.pulse(rows[0]["id"])[1])
        log = record["critique"]["ladder_log"]
        return log["after"] + len(log["entries"]), standings_of(record)
    except (CalyxError, KeyError):
        return 0, {}
