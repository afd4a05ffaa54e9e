"""Does what is stored still hold: the file, each row, and the index against the rows."""

import json
import sqlite3
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from services.memory.index import VectorIndex
from services.memory.migrate import vector_digest
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
    """`vectors` counts those that the index was found to hold, byte for byte."""

    damages: tuple[Damage, ...]
    experiences: int
    vectors: int
    verified_at: datetime

    @property
    def ok(self) -> bool:
        return not self.damages


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What the shelf held at the moment of the snapshot: rows, objectives without an index entry, index keys."""

    seqs: frozenset[int]
    waiting: frozenset[int]
    index_keys: frozenset[int]
    model_sha256: str


def check_store(
    connection: sqlite3.Connection, expected: Expected, index: VectorIndex
) -> tuple[list[Damage], int, int]:
    """(damages, rows, vectors that the index holds as stored). `connection` reads one snapshot."""
    damages: list[Damage] = []
    rows = held = 0
    try:
        damages += check_file(connection)
        seen: set[int] = set()
        for batch in _rows(connection):
            seen.update(each.seq for each in batch)
            rows += len(batch)
            for each in batch:
                if each.damage:
                    damages.append(Damage(what=f"event {each.experience.id} (row {each.seq})", why=each.damage))
        damages += _check_numbers(connection, seen)
        damages += [
            Damage(what=f"catalog row {seq}", why="recall knows it but the store does not; restart the service")
            for seq in sorted(expected.seqs - seen)
        ]
        damages += [
            Damage(what=f"event row {seq}", why="it is stored but recall does not know it; rebuild the index")
            for seq in sorted(seen - expected.seqs)
        ]
        stored: set[int] = set()
        for vectors in _vectors(connection, expected.model_sha256):
            stored.update(each["objective"] for each in vectors)
            held += _check_vectors(vectors, expected, index, damages)
        damages += [
            Damage(what=f"index entry {key}", why="no vector of the store belongs to it; rebuild the index")
            for key in sorted(expected.index_keys - stored)
        ]
        sampled = sorted(stored & expected.index_keys)
        damages += check_self_queries(connection, expected.model_sha256, sampled, index)
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


def _vectors(connection: sqlite3.Connection, model_sha256: str) -> Iterator[list[sqlite3.Row]]:
    last = 0
    while rows := connection.execute(SQL["all_vectors"], (model_sha256, last, BATCH)).fetchall():
        yield rows
        last = rows[-1]["objective"]


def _check_vectors(rows: Sequence[sqlite3.Row], expected: Expected, index: VectorIndex, damages: list[Damage]) -> int:
    in_index = index.vectors([row["objective"] for row in rows])
    held = 0
    for row in rows:
        key, name = row["objective"], f"vector {row['objective']}"
        if vector_digest(row["text"], row["model_sha256"], row["dimension"], row["vector"]) != row["digest"]:
            damages.append(Damage(what=name, why="the vector or its objective does not match the digest"))
        if key in expected.waiting:
            continue
        if key not in in_index or key not in expected.index_keys:
            damages.append(Damage(what=name, why=f"its index entry {key} is missing; rebuild the index"))
        elif in_index[key] != row["vector"]:
            damages.append(Damage(what=name, why="the index holds another vector than the store; rebuild the index"))
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


def check_self_queries(
    connection: sqlite3.Connection, model_sha256: str, keys: Sequence[int], index: VectorIndex
) -> list[Damage]:
    """Entries spread over the table, searched by their own vector: each must find itself or its equal."""
    damages = []
    for key in keys[:: max(1, len(keys) // SELF_QUERIES)]:
        (_, blob) = connection.execute(SQL["vectors_by_key"], (model_sha256, json.dumps([key]))).fetchone()
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
