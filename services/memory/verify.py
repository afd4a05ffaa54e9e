"""Does what is stored still hold: pages, rows, days, log, vectors and the index against the rows.

Each check goes on where the one before it could not: a broken page hides what lies on it and nothing else.
"""

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from services.memory.commits import REDO_MARK
from services.memory.damage import Damage, Kind
from services.memory.hashing import Numbers, check_events, check_outcomes, spans, vectors
from services.memory.index import VectorIndex
from services.memory.members import check_members
from services.memory.queries import SQL
from services.memory.redo import RedoLog, Spoilt
from services.memory.roots import CHANGED, Unseal, day_roots, kept_roots

SELF_QUERIES = 64
LOST = "lost"
"""The key in `meta` of what a restore could not bring back, and said: [first, last] of numbers of rows, by table."""

FILE = "experience.sqlite"
CAN_NOT_READ = "could not be read to the end: {}; run `calyx memory restore`"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """`vectors` counts those that the index was found to hold, byte for byte."""

    damages: tuple[Damage, ...]
    experiences: int
    vectors: int
    roots: int
    backups: int
    verified_at: datetime

    @property
    def ok(self) -> bool:
        return not self.damages


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What the shelf held at the moment of the snapshot: rows, objectives without an index entry, index keys."""

    seqs: Numbers
    waiting: frozenset[int]
    index_keys: Numbers
    model_sha256: str


@dataclass(slots=True)
class Found:
    """What a look at the store came to."""

    damages: list[Damage]
    rows: int = 0
    held: int = 0
    roots: int = 0


def check_store(
    connection: sqlite3.Connection,
    expected: Expected,
    index: VectorIndex,
    *,
    quarantined: frozenset[int] = frozenset(),
    unseal: Unseal | None = None,
) -> Found:
    """`connection` reads one snapshot."""
    damages: list[Damage] = []
    found = Found(damages)
    connection.row_factory = None
    with _read(damages):
        damages += check_file(connection)
    _check_rows(connection, expected, quarantined, found)
    with _read(damages):
        found.roots = _check_roots(connection, unseal, damages)
    with _read(damages):
        _check_index(connection, expected, index, found)
    return found


@contextmanager
def _read(damages: list[Damage]) -> Iterator[None]:
    try:
        yield
    except sqlite3.DatabaseError as error:
        damage = Damage(what=FILE, why=CAN_NOT_READ.format(error), kind=Kind.PAGES)
        if damage not in damages:
            damages.append(damage)


def check_file(connection: sqlite3.Connection) -> list[Damage]:
    """SQLite's own checks: pages, indexes, constraints, foreign keys."""
    damages = [
        Damage(what=FILE, why=str(line), kind=Kind.PAGES)
        for (line,) in connection.execute("PRAGMA integrity_check(100)")
        if line != "ok"
    ]
    for table, row, parent, _ in connection.execute("PRAGMA foreign_key_check"):
        why = f"points at a row of {parent} that is not there"
        damages.append(Damage(what=f"{table} row {row}", why=why, kind=Kind.PAGES))
    return damages


def _check_rows(connection: sqlite3.Connection, expected: Expected, quarantined: frozenset[int], found: Found) -> None:
    damages = found.damages
    highest: dict[str, int] = {}
    with _read(damages):
        highest = {name: seq for name, seq in connection.execute(SQL["highest_given"]) if isinstance(seq, int)}
    last = max(highest.get("event", 0), int(expected.seqs.max(initial=0)))
    events = check_events(connection, last, damages).seen
    outcomes = ended = np.empty(0, dtype=np.int64)
    with _read(damages):
        # Where the highest number can't be read, the table's own end is asked.
        (end,) = connection.execute("SELECT ifnull(max(seq), 0) FROM outcome").fetchone()
        checked = check_outcomes(connection, max(end, highest.get("outcome", 0)), damages)
        outcomes, ended = checked.seen, checked.events
        for seq in np.setdiff1d(events, ended).tolist():
            why = "its outcome is missing"
            damages.append(
                Damage(what=f"event {_id(connection, seq)} (row {seq})", why=why, kind=Kind.ROW, numbers=(seq,))
            )
    moved = moved_outcomes = known_lost = np.empty(0, dtype=np.int64)
    members = np.empty(0, dtype=np.int64)
    with _read(damages):
        moved, members = _numbers(connection, "moved_events"), _numbers(connection, "all_member_numbers")
        moved_outcomes = _numbers(connection, "moved_outcomes")
        known_lost = lost_numbers(connection, "event")
        moved_outcomes = np.concatenate([moved_outcomes, lost_numbers(connection, "outcome")])
        for what, why in _members(connection):
            seq = int(what.rpartition("(row ")[2].rstrip(")")) if what.startswith("member ") else 0
            damages.append(Damage(what=what, why=why, kind=Kind.ROW, numbers=(seq,) if seq else ()))
    found.rows = events.size + members.size
    unreadable = {number for each in damages if each.kind is Kind.ROW for number in each.numbers}
    _gone("event", np.concatenate([events, moved, known_lost]), highest.get("event", 0), unreadable, damages)
    _gone("outcome", np.concatenate([outcomes, moved_outcomes]), highest.get("outcome", 0), set(), damages)
    there = np.concatenate([events, members])
    left_out = np.fromiter(quarantined | unreadable, dtype=np.int64)
    for seq in np.setdiff1d(expected.seqs, np.union1d(there, left_out)).tolist():
        why = "recall knows it but the store does not"
        damages.append(Damage(what=f"catalog row {seq}", why=why, kind=Kind.CATALOG))
    for seq in np.setdiff1d(there, np.union1d(expected.seqs, left_out)).tolist():
        why = "it is stored but recall does not know it"
        damages.append(Damage(what=f"event row {seq}", why=why, kind=Kind.CATALOG))


def _members(connection: sqlite3.Connection) -> list[tuple[str, str]]:
    connection.row_factory = sqlite3.Row
    try:
        return check_members(connection)
    finally:
        connection.row_factory = None


def _numbers(connection: sqlite3.Connection, name: str) -> Numbers:
    # A damaged row may have no number left; it is named where it is held against its digest.
    found = [row[0] for row in connection.execute(SQL[name]) if isinstance(row[0], int)]
    return np.array(found, dtype=np.int64)


def lost_numbers(connection: sqlite3.Connection, table: str) -> Numbers:
    """Numbers of rows of `event` or `outcome` that a restore has said are lost."""
    row = connection.execute(SQL["get_meta"], (LOST,)).fetchone()
    runs = json.loads(row[0])[table] if row else []
    parts = [np.arange(first, last + 1, dtype=np.int64) for first, last in runs]
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)


def _id(connection: sqlite3.Connection, seq: int) -> str:
    row = connection.execute("SELECT id FROM event WHERE seq = ?", (seq,)).fetchone()
    return str(row[0]) if row else "?"


def _gone(table: str, there: Numbers, highest: int, named: set[int], damages: list[Damage]) -> None:
    missing = np.setdiff1d(np.arange(1, highest + 1, dtype=np.int64), there)
    rows = [seq for seq in missing.tolist() if seq not in named]
    for first, last in spans(rows):
        what = f"{table} row {first}" if first == last else f"{table} rows {first} to {last}"
        damages.append(Damage(what=what, why="the number was given, the row is gone", kind=Kind.GONE))


def _check_roots(connection: sqlite3.Connection, unseal: Unseal | None, damages: list[Damage]) -> int:
    changed = {key.removeprefix(CHANGED) for key, _ in connection.execute(SQL["changed_roots"])}
    kept = kept_roots(connection, unseal)
    now = day_roots(connection) if kept else {}
    for each in kept:
        what = f"root of {each.day}"
        if each.fault:
            damages.append(Damage(what=what, why=each.fault, kind=Kind.ROOT))
        if each.root is None or each.root == now.get(each.day) or each.day in changed:
            continue
        is_now = now[each.day].rows if each.day in now else {}
        counts = [
            f"{is_now.get(name, 0)} rows of {name} instead of {rows}"
            for name, rows in each.root.rows.items()
            if is_now.get(name, 0) != rows
        ]
        why = "what was recorded on this day is not what was signed" + (f": {', '.join(counts)}" if counts else "")
        damages.append(Damage(what=what, why=why, kind=Kind.ROOT))
    return len(kept)


def _check_index(connection: sqlite3.Connection, expected: Expected, index: VectorIndex, found: Found) -> None:
    damages, stored = found.damages, list[int]()
    entries = set(expected.index_keys.tolist())
    for batch in vectors(connection, damages):
        ours = [(key, vector) for key, model, vector in batch if model == expected.model_sha256]
        stored += [key for key, _ in ours]
        in_index = index.vectors([key for key, _ in ours])
        for key, vector in ours:
            if key in expected.waiting:
                continue
            why = ""
            if key not in in_index or key not in entries:
                why = f"its index entry {key} is missing"
            elif in_index[key] != vector:
                why = "the index holds another vector than the store"
            found.held += not why
            if why:
                damages.append(Damage(what=f"vector {key}", why=why, kind=Kind.INDEX))
    bad = {number for each in damages if each.kind is Kind.VECTOR for number in each.numbers}
    for key in sorted(entries - set(stored) - bad):
        why = "no vector of the store belongs to it"
        damages.append(Damage(what=f"index entry {key}", why=why, kind=Kind.INDEX))
    damages += check_self_queries(connection, expected.model_sha256, sorted(entries & set(stored)), index)


def check_self_queries(
    connection: sqlite3.Connection, model_sha256: str, keys: Sequence[int], index: VectorIndex
) -> list[Damage]:
    """Entries spread over the table, searched by their own vector: each must find itself or its equal."""
    damages = []
    for key in keys[:: max(1, len(keys) // SELF_QUERIES)]:
        (_, blob) = connection.execute(SQL["vectors_by_key"], (model_sha256, json.dumps([key]))).fetchone()
        vector: NDArray[np.float32] = np.frombuffer(blob, dtype="<f4")
        found = index.nearest(vector, 1) if np.all(np.isfinite(vector)) and np.any(vector) else []
        if not found or found[0].cosine < 1.0 - 1e-5:
            why = "a search for its own vector misses it"
            damages.append(Damage(what=f"index entry {key}", why=why, kind=Kind.INDEX))
    return damages


def check_redo(connection: sqlite3.Connection, redo: RedoLog) -> list[Damage]:
    """Entries that don't hold, and what those that the store has taken up promise and it does not have as they say."""
    damages: list[Damage] = []
    with _read(damages):
        row = connection.execute(SQL["get_meta"], (REDO_MARK,)).fetchone()
        _compare(connection, redo, int(row[0]) if row else 0, damages)
    return damages


def _compare(connection: sqlite3.Connection, redo: RedoLog, mark: int, damages: list[Damage]) -> None:
    for entry in redo.read():
        if isinstance(entry, Spoilt):
            numbers = f"entry {entry.first}" if entry.first == entry.last else f"entries {entry.first} to {entry.last}"
            damages.append(Damage(what=f"redo log, {numbers} ({entry.where})", why=entry.why, kind=Kind.REDO))
            continue
        if entry.number > mark:
            break
        kind, body = entry.body.get("kind"), entry.body
        if kind == "record":
            name = body["experience"]["id"]
            if connection.execute(SQL["known"], {"id": name}).fetchone() is None:
                damages.append(Damage(what=f"event {name}", why="it was acknowledged and is gone", kind=Kind.GONE))
        elif kind == "amend":
            name = body["finding"]["amendment_id"]
            retired = connection.execute(SQL["retired"], (body["id"],)).fetchone()  # its amendments went with it
            if connection.execute(SQL["amendment"], (name,)).fetchone() is None and retired is None:
                why = "it was acknowledged and is gone"
                damages.append(Damage(what=f"amendment {name} of {body['id']}", why=why, kind=Kind.GONE))
        elif kind in ("feedback", "standing"):
            event = connection.execute(SQL["known"], {"id": body["id"]}).fetchone()
            row = {**body, "event": event[0] if event else None}
            if connection.execute(SQL[f"{kind}_again"], row).fetchone() is None:
                why = "it is not as it was acknowledged"
                damages.append(Damage(what=f"{kind} row {body['seq']} of {body['id']}", why=why, kind=Kind.GONE))
