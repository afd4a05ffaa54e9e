"""Brings back what the redo log holds and the database lacks. Replaying twice changes nothing.

Entries, by `kind`, as store.py writes them:
record    seq, objective_key, outcome_seq, recorded_at, experience (`told`); there already if its id is known
amend     id, outcome_seq, finding (`told_finding`); there already if its amendment_id is known
feedback  id and the columns of `feedback`; there already if the same row is
standing  id and the columns of `standing`; there already if the same row is
Numbers are given as they were, where they are still free.
"""

import sqlite3
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from chassis.errors import CalyxError
from services.memory.experience import event_digest, experience_of, finding_of, first_finding
from services.memory.inserts import insert_experience, insert_finding, objective_key, seq_of
from services.memory.members import bring_back
from services.memory.queries import SQL
from services.memory.redo import Entry, Spoilt


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """`brought_back` and `known` count changes; `lost` are entries that can't be used, with the reason."""

    brought_back: int
    known: int
    lost: tuple[Spoilt, ...]
    through: int


def replay(connection: sqlite3.Connection, entries: Iterable[Entry | Spoilt]) -> Replayed:
    """Apply entries in order, inside the caller's transaction."""
    brought_back = known = through = 0
    lost: list[Spoilt] = []
    for each in entries:
        if isinstance(each, Spoilt):
            lost.append(each)
            through = max(through, each.last)
            continue
        through = max(through, each.number)
        connection.execute("SAVEPOINT entry")
        try:
            fresh = _APPLY[each.body["kind"]](connection, each.body)
        except (CalyxError, KeyError, TypeError, ValueError, sqlite3.IntegrityError) as error:
            connection.execute("ROLLBACK TO entry")
            why = f"could not be replayed: {type(error).__name__}: {error}"
            lost.append(Spoilt(first=each.number, last=each.number, where="the redo log", why=why))
        else:
            brought_back += fresh
            known += not fresh
        connection.execute("RELEASE entry")
    return Replayed(brought_back=brought_back, known=known, lost=tuple(lost), through=through)


def _record(connection: sqlite3.Connection, body: Mapping[str, Any]) -> bool:
    experience, recorded_at = experience_of(body["experience"]), body["recorded_at"]
    if connection.execute(SQL["known"], {"id": experience.id}).fetchone():
        return False
    if not connection.execute(SQL["objective_key"], (experience.objective,)).fetchone():
        terms = {"key": body["objective_key"], "text": experience.objective}
        connection.execute(SQL["insert_objective_again"], terms)
    key = objective_key(connection, experience.objective)
    taken, outcome_taken = connection.execute(
        SQL["numbers_taken"], {"seq": body["seq"], "outcome_seq": body["outcome_seq"]}
    ).fetchone()
    sealed = event_digest(experience, recorded_at)
    seq = insert_experience(connection, experience, recorded_at, sealed, key, None if taken else body["seq"])
    first = first_finding(experience, recorded_at)
    insert_finding(connection, seq, experience.id, first, None if outcome_taken else body["outcome_seq"])
    return True


def _amend(connection: sqlite3.Connection, body: Mapping[str, Any]) -> bool:
    finding = finding_of(body["finding"])
    if connection.execute(SQL["amendment"], (finding.amendment_id,)).fetchone():
        return False
    if connection.execute(SQL["retired"], (body["id"],)).fetchone():  # by policy, and its amendments with it
        return False
    brought = bring_back(connection, body["id"])
    seq = seq_of(connection, body["id"]) if brought is None else brought
    (taken,) = connection.execute(SQL["outcome_number_taken"], (body["outcome_seq"],)).fetchone()
    insert_finding(connection, seq, body["id"], finding, None if taken else body["outcome_seq"])
    return True


def _feedback(connection: sqlite3.Connection, body: Mapping[str, Any]) -> bool:
    return _once(connection, body, "feedback_again", "insert_feedback_again")


def _standing(connection: sqlite3.Connection, body: Mapping[str, Any]) -> bool:
    return _once(connection, body, "standing_again", "insert_standing_again")


def _once(connection: sqlite3.Connection, body: Mapping[str, Any], there: str, insert: str) -> bool:
    row = {**body, "event": seq_of(connection, body["id"])}
    if connection.execute(SQL[there], row).fetchone():
        return False
    connection.execute(SQL[insert], row)
    return True


_APPLY: Mapping[str, Callable[[sqlite3.Connection, Mapping[str, Any]], bool]] = {
    "record": _record,
    "amend": _amend,
    "feedback": _feedback,
    "standing": _standing,
}


def first_lost(replayed: Replayed) -> str:
    """The first few entries that can't be used, in a line."""
    named = [f"{each.first}–{each.last} in {each.where}: {each.why}" for each in replayed.lost[:5]]
    return "; ".join(named) + (f"; and {len(replayed.lost) - 5} more" if len(replayed.lost) > 5 else "")
