"""Recording experiences inside a shared commit: one alone, or those of several callers with a few statements.

Python lets go of its lock at each statement and then waits for the event loop to give it back, so ten statements a row
made a burst several times slower than the rows' own work. Together the statements are as many for 8 rows as for one.
"""

import json
import re
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import islice
from typing import Any

from chassis.canonical import Json
from services.memory.commits import Change
from services.memory.experience import Experience, Finding, event_digest, first_finding, told
from services.memory.inserts import event_row, insert_experience, insert_finding, objective_key, outcome_row
from services.memory.queries import SQL

ROWS = 16
"""Rows in one statement; each number of rows is a statement of its own, which SQLite prepares once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Appended:
    """The number of a new row and of its objective."""

    seq: int
    objective_key: int


TakeUp = Callable[[Appended, Experience], None]
"""What takes a durable row up in RAM; runs under `change`."""


class Recording:
    """One experience to be stored; called, it stores that one. None if its id is there, as a row or in a roll-up."""

    __slots__ = ("_then", "experience", "finding", "finding_sealed", "recorded_at", "sealed")

    def __init__(self, experience: Experience, recorded_at: str, then: TakeUp | None) -> None:
        self.experience, self.recorded_at, self._then = experience, recorded_at, then
        self.finding: Finding = first_finding(experience, recorded_at)
        self.sealed, self.finding_sealed = event_digest(experience, recorded_at), self.finding.digest(experience.id)

    def __call__(self, connection: sqlite3.Connection) -> Change[Appended | None]:
        experience = self.experience
        if connection.execute(SQL["known"], {"id": experience.id}).fetchone():
            return Change(result=None)
        key = objective_key(connection, experience.objective)
        seq = insert_experience(connection, experience, self.recorded_at, self.sealed, key)
        outcome_seq = insert_finding(connection, seq, experience.id, self.finding)
        return self.done(seq, key, outcome_seq)

    def done(self, seq: int, key: int, outcome_seq: int) -> Change[Appended | None]:
        appended = Appended(seq=seq, objective_key=key)
        entry: Json = {
            "kind": "record",
            "seq": seq,
            "objective_key": key,
            "outcome_seq": outcome_seq,
            "recorded_at": self.recorded_at,
            "experience": told(self.experience),
        }
        follow = None if self._then is None else partial(self._then, appended, self.experience)
        return Change(result=appended, entries=(entry,), day=self.recorded_at[:10], then=follow)


def record_together(connection: sqlite3.Connection, several: Sequence[Recording]) -> list[Change[Appended | None]]:
    """What calling each in its order would do and answer. If it raises, nobody knows whose fault it was."""
    known = set(_asked(connection, "known_of", {"ids": _listed(each.experience.id for each in several)}))
    fresh: dict[str, Recording] = {}
    for each in several:
        if each.experience.id not in known:
            fresh.setdefault(each.experience.id, each)  # the first of the same id is recorded, the next are repeats
    new = list(fresh.values())
    keys = _objective_keys(connection, [each.experience.objective for each in new])
    seqs = _insert(
        connection,
        "insert_event",
        [
            event_row(each.experience, each.recorded_at, each.sealed, keys[each.experience.objective], None)
            for each in new
        ],
    )
    numbered = list(zip(seqs, new, strict=True))
    facts = (
        {"event": seq, "key": key, "value": value}
        for seq, each in numbered
        for key, value in each.experience.context.items()
    )
    _insert(connection, "insert_context", list(facts))
    predicted = ((seq, each.experience.confidence) for seq, each in numbered)
    _insert(
        connection,
        "insert_confidence",
        [{"event": seq, "predicted": value} for seq, value in predicted if value is not None],
    )
    outcome_seqs = _insert(
        connection, "insert_outcome", [outcome_row(seq, each.finding, each.finding_sealed) for seq, each in numbered]
    )
    done = {
        id(each): each.done(seq, keys[each.experience.objective], outcome_seq)
        for (seq, each), outcome_seq in zip(numbered, outcome_seqs, strict=True)
    }
    return [done.get(id(each)) or Change(result=None) for each in several]


def _objective_keys(connection: sqlite3.Connection, texts: Sequence[str]) -> dict[str, int]:
    keys: dict[str, int] = dict(_asked(connection, "objective_keys", (_listed(texts),)))
    missing = [text for text in dict.fromkeys(texts) if text not in keys]
    given = _insert(connection, "insert_objective", [{"text": each} for each in missing])
    return keys | dict(zip(missing, given, strict=True))


def _asked(connection: sqlite3.Connection, name: str, terms: Any) -> Any:
    return json.loads(connection.execute(SQL[name], terms).fetchone()[0])


def _listed(texts: Iterable[str]) -> str:
    return json.dumps(list(texts), ensure_ascii=False)


def _insert(connection: sqlite3.Connection, name: str, rows: Sequence[dict[str, Any]]) -> list[int]:
    """Insert rows in their order; returns their numbers, which follow one another as nobody else writes meanwhile.

    Where rows have no number (`context`) what is returned means nothing.
    """
    given: list[int] = []
    left = iter(rows)
    while some := list(islice(left, ROWS)):
        values = [value for row in some for value in row.values()]
        last = connection.execute(_statement(name, tuple(some[0]), len(some)), values).lastrowid
        assert last is not None  # an insert always has one
        given.extend(range(last - len(some) + 1, last + 1))
    return given


@cache
def _statement(name: str, columns: tuple[str, ...], rows: int) -> str:
    """The named INSERT of one row as one of so many."""
    head, _, values = SQL[name].partition("VALUES")
    named = tuple(re.findall(r":(\w+)", values))
    assert not named or named == columns, f"{name} takes {named}"
    return f"{head}VALUES " + ", ".join([f"({', '.join('?' * len(columns))})"] * rows)
