"""How long experiences are kept. By default for ever; a rule ends it per kind and outcome, and leaves a tombstone."""

import json
import sqlite3
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from chassis.canonical import canonical_json
from chassis.errors import InvalidInput
from services.memory.experience import Outcome
from services.memory.members import remove_member, remove_row, retired_digest
from services.memory.queries import SQL

ANY = "*"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Experiences of this kind and (latest) outcome are kept for `days` from when they were recorded."""

    kind: str
    outcome: str
    days: int

    @property
    def keep(self) -> timedelta:
        return timedelta(days=self.days)

    def __str__(self) -> str:
        return f"{self.kind}/{self.outcome}: {self.days} days"


def rules_of(retention: Mapping[str, int]) -> tuple[Rule, ...]:
    """Rules from `kind/outcome` → days, `*` for any. Raises InvalidInput that names the entry."""
    rules = []
    for name, days in retention.items():
        kind, slash, outcome = name.partition("/")
        if not (kind and slash and outcome in (ANY, *Outcome)):
            known = ", ".join(Outcome)
            raise InvalidInput(f"retention {name!r} is no rule; write kind/outcome with an outcome of {known} or *")
        if days < 1:
            raise InvalidInput(f"retention {name!r} is {days} days; keep it for at least 1, or leave the rule out")
        rules.append(Rule(kind=kind, outcome=outcome, days=days))
    return tuple(rules)


def rule_for(rules: Sequence[Rule], kind: str, outcome: str) -> Rule | None:
    """The rule that says most about it: one that names the kind comes before one that names the outcome."""
    fitting = [each for each in rules if each.kind in (ANY, kind) and each.outcome in (ANY, outcome)]
    return max(fitting, key=lambda each: (each.kind != ANY, each.outcome != ANY), default=None)


def retire(connection: sqlite3.Connection, seq: int, home: str, rule: Rule, retired_at: str) -> bool:
    """Leave of an experience its number, id and digests. `home`: `event` or `member`.

    False if it is not there any more, or was judged meanwhile.
    """
    row = connection.execute(SQL["sealed_of"], (seq, home)).fetchone()
    if row is None or row[3]:
        return False
    outcomes = connection.execute(SQL["outcomes_sealed" if home == "event" else "outcome_of_member"], (seq,)).fetchall()
    fields = {
        "seq": seq,
        "id": row[0],
        "recorded_at": row[1],
        "event_digest": row[2],
        "outcomes": canonical_json([list(each) for each in outcomes]).decode(),
        "policy": str(rule),
        "retired_at": retired_at,
    }
    connection.execute(SQL["insert_retired"], {**fields, "digest": retired_digest(fields)})
    if home == "event":
        remove_row(connection, seq)
    else:
        remove_member(connection, seq)
    return True


def orphans_of(connection: sqlite3.Connection) -> list[int]:
    """Keys of objectives that no experience has any more."""
    return [row[0] for row in connection.execute(SQL["orphans"])]


def remove_orphans(connection: sqlite3.Connection, keys: Collection[int]) -> set[int]:
    """Remove those of these objectives, with their vectors, that are orphans still; returns their keys."""
    gone = set(orphans_of(connection)) & set(keys)
    connection.execute(SQL["remove_vectors"], (json.dumps(sorted(gone)),))
    connection.execute(SQL["remove_objectives"], (json.dumps(sorted(gone)),))
    return gone
