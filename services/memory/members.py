"""Rolled-up experiences: how a row becomes a member of a roll-up, is read as one, and becomes a row again.

A member keeps its number, id, times, figures and digests; the facts that it shares with the others are kept once; its
evidence is dropped. Everything here runs on a connection, inside the caller's transaction.
"""

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from chassis.canonical import canonical_json, digest
from chassis.clock import iso
from chassis.errors import Damaged
from services.memory.experience import Experience, Finding, event_digest, first_finding
from services.memory.inserts import insert_experience, insert_finding
from services.memory.queries import SQL
from services.memory.rows import Stored, experience_in, hydrate, mapping_of, outcome_of

EVIDENCE_DROPPED = "its evidence was dropped when it was rolled up"
"""What stands in the place of the evidence of an experience that was a member and is a row again."""

BATCH = 500

Facts = tuple[str, ...]
"""What members of one roll-up agree in, the objective's key as text, the context as canonical JSON."""


def facts_of(stored: Stored) -> Facts:
    each = stored.experience
    return (
        each.station_id,
        each.namespace,
        each.origin,
        each.kind,
        str(stored.objective_key),
        each.domain,
        each.procedure,
        each.outcome.value,
        canonical_json(dict(each.context)).decode(),
    )


def rollup_of(connection: sqlite3.Connection, facts: Facts) -> int | None:
    """The number of the roll-up with these facts, if there is one."""
    row = connection.execute(SQL["rollup"], facts).fetchone()
    return int(row[0]) if row else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A row as it will stand in its roll-up; made before the transaction, so that this holds up nobody."""

    seq: int
    facts: Facts
    kind: str
    outcome: str
    context: Mapping[str, str]
    fields: Mapping[str, Any]


def member_of(stored: Stored, outcome_seq: int) -> Member:
    """An undamaged row with a single outcome, recorded together with it, as a member."""
    each = stored.experience
    fields = {
        "seq": stored.seq,
        "id": each.id,
        "task_id": each.task_id,
        "pulse_id": each.pulse_id,
        "occurred_at": iso(each.occurred_at),
        "recorded_at": stored.recorded_at,
        "tes": each.tes,
        "duration_seconds": each.duration_seconds,
        "files_changed": each.files_changed,
        "predicted": each.confidence,
        "cost": canonical_json(dict(each.cost)).decode(),
        "outcome_seq": outcome_seq,
        "event_digest": event_digest(each, stored.recorded_at),
        "outcome_digest": first_finding(each, stored.recorded_at).digest(each.id),
    }
    sealed = {**fields, "digest": _digest(each, fields)}
    return Member(
        seq=stored.seq,
        facts=facts_of(stored),
        kind=each.kind,
        outcome=each.outcome.value,
        context=each.context,
        fields=sealed,
    )


def roll_up(connection: sqlite3.Connection, member: Member) -> None:
    """Put it in the place of its row."""
    insert_member(connection, member.facts, member.context, member.fields)
    remove_row(connection, member.seq)


def insert_member(
    connection: sqlite3.Connection, facts: Facts, context: Mapping[str, str], fields: Mapping[str, Any]
) -> None:
    """A row of `member`, in the roll-up with these facts; that is made if this is its first."""
    rollup = rollup_of(connection, facts)
    if rollup is None:
        rollup = connection.execute(SQL["insert_rollup"], facts).lastrowid
        told = [(rollup, key, value) for key, value in context.items()]
        connection.executemany(SQL["insert_rollup_fact"], told)
    connection.execute(SQL["insert_member"], {**fields, "rollup": rollup})


def remove_row(connection: sqlite3.Connection, seq: int) -> None:
    """Remove a row with all that hangs on it; the store's triggers see to it that it lives on or left its name."""
    for table in ("outcome", "context", "confidence", "event"):
        connection.execute(SQL[f"remove_{table}"], (seq,))


def remove_member(connection: sqlite3.Connection, seq: int) -> None:
    """Remove a member, and its roll-up if it was the last one."""
    (rollup,) = connection.execute(SQL["rollup_of_member"], (seq,)).fetchone()
    connection.execute(SQL["remove_member"], (seq,))
    if connection.execute(SQL["any_member"], (rollup,)).fetchone() is None:
        connection.execute(SQL["remove_rollup_facts"], (rollup,))
        connection.execute(SQL["remove_rollup"], (rollup,))


def bring_back(connection: sqlite3.Connection, event_id: str) -> int | None:
    """Make a member a row again, with its number and id, because something is about to be said of it.

    Returns its number; None if no member has this id. A damaged member is left as it is and raises Damaged.
    """
    found = _by_name(connection, "member_by_id", (event_id,))
    if not found:
        return None
    row, stored = found[0], hydrate_members(found)[0]
    if stored.damage:
        raise Damaged(f"experience {event_id!r}: {stored.damage}; run `calyx memory verify`, restore a backup")
    each, recorded_at = stored.experience, row["recorded_at"]
    insert_experience(connection, each, recorded_at, row["event_digest"], stored.objective_key, stored.seq)
    insert_finding(connection, stored.seq, each.id, first_finding(each, recorded_at), row["outcome_seq"])
    remove_member(connection, stored.seq)
    # Its outcome has another digest without the evidence, so the day's root is to be signed anew; see roots.py.
    why = f"experience {each.id} was rolled up, became a row again and lost its evidence"
    connection.execute(SQL["set_meta"], (f"root_changed:{recorded_at[:10]}", why))
    return stored.seq


def read(connection: sqlite3.Connection, seqs: Sequence[int]) -> list[Stored]:
    """The experiences with these numbers, be they rows or members, of one snapshot; checked against their digests."""
    with one_snapshot(connection):
        wanted = list(seqs)
        found = hydrate(connection, connection.execute(SQL["events_by_seq"], (json.dumps(wanted),)).fetchall())
        if rest := sorted(set(wanted) - {each.seq for each in found}):
            found += hydrate_members(_by_name(connection, "members_by_seq", (json.dumps(rest),)))
    return found


def _by_name(connection: sqlite3.Connection, statement: str, terms: tuple[object, ...]) -> list[sqlite3.Row]:
    cursor = connection.cursor()
    cursor.row_factory = sqlite3.Row  # whatever the connection has
    return cursor.execute(SQL[statement], terms).fetchall()


@contextmanager
def one_snapshot(connection: sqlite3.Connection) -> Iterator[None]:
    """All that is read inside is of one moment: a row never vanishes between two statements."""
    if connection.in_transaction:
        yield
        return
    connection.execute("BEGIN")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")


def hydrate_members(rows: Sequence[sqlite3.Row]) -> list[Stored]:
    """Members with their roll-up's facts, checked against their digests; their evidence says that it was dropped."""
    return [_stored(row) for row in rows]


def _stored(row: sqlite3.Row) -> Stored:
    damage: str | None = None
    finding = Finding(
        amendment_id=None,
        outcome=outcome_of(row["outcome"]),
        tes=row["tes"],
        duration_seconds=row["duration_seconds"],
        files_changed=row["files_changed"],
        cost=mapping_of(row["cost"]),
        evidence=EVIDENCE_DROPPED,
        recorded_at=row["recorded_at"],
    )
    experience = experience_in(row, mapping_of(row["context"]), finding)
    if _digest(experience, row) != row["digest"]:
        damage = "the member or its roll-up does not match the digest"
    elif event_digest(experience, row["recorded_at"]) != row["event_digest"]:
        damage = "the member does not match the digest that its row had"
    return Stored(
        seq=row["seq"],
        objective_key=row["objective_key"],
        experience=experience,
        recorded_at=row["recorded_at"],
        damage=damage,
        rolled_up=True,
    )


def _digest(experience: Experience, row: "sqlite3.Row | Mapping[str, Any]") -> str:
    """sha256 over a row of `member` and what its roll-up says."""
    return digest(
        {
            "seq": row["seq"],
            "event_digest": row["event_digest"],
            "event": event_digest(experience, row["recorded_at"]),
            "outcome": experience.outcome.value,
            "tes": row["tes"],
            "duration_seconds": row["duration_seconds"],
            "files_changed": row["files_changed"],
            "cost": row["cost"],
            "outcome_seq": row["outcome_seq"],
            "outcome_digest": row["outcome_digest"],
        }
    )


def check_members(connection: sqlite3.Connection) -> list[tuple[str, str]]:
    """(what, why) of every member, roll-up and tombstone that does not hold. `connection` reads one snapshot."""
    damages: list[tuple[str, str]] = []
    last = 0
    while rows := _by_name(connection, "all_members", (last, BATCH)):
        for each in hydrate_members(rows):
            if each.damage:
                damages.append((f"member {each.experience.id} (row {each.seq})", each.damage))
        last = rows[-1]["seq"]
    for rollup, context, facts in connection.execute(SQL["rollup_contexts"]):
        if mapping_of(context) != json.loads(facts):
            damages.append((f"roll-up {rollup}", "the facts that recall filters by are not those of its context"))
    for seq, table in connection.execute(SQL["in_two_places"]):
        damages.append((f"event row {seq}", f"it is a row and in {table} as well"))
    for row in _by_name(connection, "all_retired", ()):
        if retired_digest(row) != row["digest"]:
            damages.append((f"retired {row['id']} (row {row['seq']})", "it does not match its digest"))
    return damages


def retired_digest(row: "sqlite3.Row | Mapping[str, Any]") -> str:
    """sha256 over a row of `retired`."""
    names = ("seq", "id", "recorded_at", "event_digest", "outcomes", "policy", "retired_at")
    return digest({name: row[name] for name in names})
