"""Does what is stored still hold: the file, each row, and the index against the rows."""

import sqlite3
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from services.memory.index import VectorIndex
from services.memory.queries import SQL
from services.memory.rows import Stored, hydrate

BATCH = 500
SELF_QUERIES = 64
MOST_NAMED = 200
"""So many damages are named one by one; how many more there are is said in one line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    what: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """`vectors` counts rows whose vector the index was found to hold, byte for byte."""

    damages: tuple[Damage, ...]
    experiences: int
    vectors: int
    verified_at: datetime

    @property
    def ok(self) -> bool:
        return not self.damages


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What the index should hold at the moment of the snapshot: index key by row number, and its own keys."""

    key_by_seq: dict[int, int]
    index_keys: set[int]


def check_store(
    connection: sqlite3.Connection, expected: Expected, index: VectorIndex
) -> tuple[list[Damage], int, int]:
    """(damages, rows, rows whose vector the index holds). `connection` reads one snapshot."""
    damages: list[Damage] = []
    rows = held = 0
    try:
        damages += check_file(connection)
        seen: set[int] = set()
        for batch in _rows(connection):
            seen.update(each.seq for each in batch)
            rows += len(batch)
            held += _check_batch(batch, expected, index, damages)
        damages += _check_numbers(connection, seen)
        damages += [
            Damage(what=f"catalog row {seq}", why="recall knows it but the store does not; restart the service")
            for seq in sorted(set(expected.key_by_seq) - seen)
        ]
        wanted = set(expected.key_by_seq.values())
        damages += [
            Damage(what=f"index entry {key}", why="no row of the store has it; rebuild the index")
            for key in sorted(expected.index_keys - wanted)
        ]
        damages += check_self_queries(connection, sorted(wanted & expected.index_keys), index)
    except sqlite3.DatabaseError as error:
        damages.append(Damage(what="experience.sqlite", why=f"could not be read to the end: {error}; restore a backup"))
    return _shortened(damages), rows, held


def check_file(connection: sqlite3.Connection) -> list[Damage]:
    """SQLite's own checks: pages, indexes, constraints, foreign keys."""
    damages = [
        Damage(what="experience.sqlite", why=str(line))
        for (line,) in connection.execute("PRAGMA integrity_check(100)")
        if line != "ok"
    ]
    for table, row, parent, _ in connection.execute("PRAGMA foreign_key_check"):
        damages.append(Damage(what=f"{table} row {row}", why=f"points at a row of {parent} that is not there"))
    return damages


def _rows(connection: sqlite3.Connection) -> Iterator[list[Stored]]:
    last = 0
    while rows := connection.execute(SQL["all_events"], (last, BATCH)).fetchall():
        yield hydrate(connection, rows)
        last = rows[-1]["seq"]


def _check_batch(batch: Sequence[Stored], expected: Expected, index: VectorIndex, damages: list[Damage]) -> int:
    keys = {each.seq: expected.key_by_seq[each.seq] for each in batch if each.seq in expected.key_by_seq}
    in_index = index.vectors(sorted(set(keys.values())))
    held = 0
    for each in batch:
        name = f"event {each.experience.id} (row {each.seq})"
        if each.damage:
            damages.append(Damage(what=name, why=each.damage))
        if each.seq not in keys:
            continue
        if keys[each.seq] not in in_index or keys[each.seq] not in expected.index_keys:
            damages.append(Damage(what=name, why=f"its index entry {keys[each.seq]} is missing; rebuild the index"))
        elif each.embedded is None or in_index[keys[each.seq]] != each.embedded.vector:
            damages.append(Damage(what=name, why="the index holds another vector than the row; rebuild the index"))
        else:
            held += 1
    return held


def _check_numbers(connection: sqlite3.Connection, seen: Collection[int]) -> list[Damage]:
    damages = []
    highest = dict(connection.execute(SQL["highest_given"]).fetchall())
    if missing := sorted(set(range(1, int(highest.get("event", 0)) + 1)) - set(seen)):
        damages.append(Damage(what=f"event row {missing[0]}", why=f"{len(missing)} row(s) are gone, this one first"))
    outcomes = {row[0] for row in connection.execute("SELECT seq FROM outcome")}
    if missing := sorted(set(range(1, int(highest.get("outcome", 0)) + 1)) - outcomes):
        damages.append(Damage(what=f"outcome row {missing[0]}", why=f"{len(missing)} row(s) are gone, this one first"))
    return damages


def check_self_queries(connection: sqlite3.Connection, keys: Sequence[int], index: VectorIndex) -> list[Damage]:
    """Rows spread over the table, searched by their own vector: each must find itself or its equal."""
    damages = []
    for key in keys[:: max(1, len(keys) // SELF_QUERIES)]:
        (blob,) = connection.execute("SELECT vector FROM event WHERE seq = ?", (key,)).fetchone() or (None,)
        if blob is None:
            continue
        vector = np.frombuffer(blob, dtype="<f4")
        found = index.nearest(vector, 1) if np.all(np.isfinite(vector)) and np.any(vector) else []
        if not found or found[0].cosine < 1.0 - 1e-5:
            damages.append(Damage(what=f"index entry {key}", why="a search for its own vector misses it; rebuild"))
    return damages


def _shortened(damages: list[Damage]) -> list[Damage]:
    if len(damages) <= MOST_NAMED:
        return damages
    more = len(damages) - MOST_NAMED
    return [*damages[:MOST_NAMED], Damage(what="and more", why=f"{more} further damages of these kinds")]
