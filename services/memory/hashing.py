"""Every row and vector against its digest, by columns: SQLite writes what was hashed, no object is made of any row.

Texts are hashed as they are stored, so that a byte that reads the same (another separator in a time) counts as well.
"""

import hashlib
import json
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.memory.damage import Damage, Kind
from services.memory.queries import SQL

BATCH = 2000

Numbers = NDArray[np.int64]
Row = tuple[Any, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """Numbers of the rows that could be read, of those among them that don't hold, and of the events they are of."""

    seen: Numbers
    bad: Numbers
    events: Numbers


def check_events(connection: sqlite3.Connection, highest: int, damages: list[Damage]) -> Checked:
    """All rows of `event`, each checked with its objective, context and prediction."""
    seen: list[int] = []
    bad: list[int] = []
    for seq, name, sealed, predicted, before, after in _rows(connection, "hash_events", highest, "event", damages):
        seen.append(seq)
        if before is None or after is None or not _sealed((before, _real(predicted), after), sealed):
            why = "the row, its objective, its context or its prediction does not match the digest"
            damages.append(_row(f"event {_text(name)} (row {seq})", why, seq))
            bad.append(seq)
    return _checked(seen, bad, seen)


def check_outcomes(connection: sqlite3.Connection, highest: int, damages: list[Damage]) -> Checked:
    """All rows of `outcome`, each checked with the id of its event."""
    seen: list[int] = []
    bad: list[int] = []
    events: list[int] = []
    for seq, event, name, sealed, before, took, between, tes in _rows(
        connection, "hash_outcomes", highest, "outcome", damages
    ):
        seen.append(seq)
        events.append(event if isinstance(event, int) else 0)
        if name is None:
            damages.append(Damage(what=f"outcome row {seq}", why=f"its event {event} is gone", kind=Kind.GONE))
        elif None not in (before, between) and _sealed((before, _real(took), between, _real(tes), b"}"), sealed):
            continue
        else:
            damages.append(
                _row(f"event {_text(name)} (row {event})", f"outcome {seq} does not match its digest", event)
            )
        bad.append(seq)
    return _checked(seen, bad, events)


def _checked(seen: list[int], bad: list[int], events: list[int]) -> Checked:
    numbers = (np.array(each, dtype=np.int64) for each in (seen, bad, events))
    return Checked(seen=next(numbers), bad=next(numbers), events=next(numbers))


def vectors(connection: sqlite3.Connection, damages: list[Damage]) -> Iterator[list[tuple[int, str, bytes]]]:
    """(objective, model, vector) of all that match their digest, in batches; the others are named."""
    (highest,) = connection.execute(SQL["highest_vector"]).fetchone()
    held: list[tuple[int, str, bytes]] = []
    for key, model, dimension, vector, sealed, text in _rows(
        connection, "hash_vectors", highest or 0, "vector", damages
    ):
        ours = isinstance(model, str) and isinstance(dimension, int) and isinstance(vector, bytes) and text is not None
        if ours and _sealed(
            (
                b'{"dimension":%d,"model_sha256":%b,"objective":' % (dimension, json.dumps(model).encode()),
                text,
                b',"vector_sha256":"%b"}' % hashlib.sha256(vector).hexdigest().encode(),
            ),
            sealed,
        ):
            held.append((key, model, vector))
            if len(held) >= BATCH:
                yield held
                held = []
        else:
            why = "the vector or its objective does not match the digest"
            damages.append(Damage(what=f"vector {key}", why=why, kind=Kind.VECTOR, numbers=(key,)))
    yield held


def _rows(connection: sqlite3.Connection, name: str, highest: int, table: str, damages: list[Damage]) -> Iterator[Row]:
    """All rows up to a number; those that SQLite can't read any more are named, and it goes on behind them."""
    bad: list[int] = []
    for after in range(0, highest, BATCH):
        span = {"after": after, "through": min(after + BATCH, highest), "most": BATCH}
        try:
            yield from connection.execute(SQL[name], span).fetchall()
        except sqlite3.DatabaseError:
            for one in range(after, span["through"]):
                try:
                    yield from connection.execute(
                        SQL[name], {"after": one, "through": one + 1, "most": BATCH}
                    ).fetchall()
                except sqlite3.DatabaseError:
                    bad.append(one + 1)
    kind = {"event": Kind.ROW, "vector": Kind.VECTOR}.get(table, Kind.GONE)
    for first, last in spans(bad):
        numbers = f"row {first}" if first == last else f"rows {first} to {last}"
        why = "SQLite can't read it any more"
        named = tuple(range(first, last + 1)) if kind is not Kind.GONE else ()
        damages.append(Damage(what=f"{table} {numbers}", why=why, kind=kind, numbers=named))


def spans(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Rising numbers as runs, first and last."""
    runs: list[tuple[int, int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1] = runs[-1][0], number
        else:
            runs.append((number, number))
    return runs


def _sealed(parts: Sequence[bytes], digest: object) -> bool:
    return hashlib.sha256(b"".join(parts)).hexdigest().encode() == digest


def _real(value: object) -> bytes:
    """As canonical JSON writes a number that came from a REAL column."""
    return b"null" if value is None else repr(value).encode()


def _row(what: str, why: str, seq: object) -> Damage:
    return Damage(what=what, why=why, kind=Kind.ROW, numbers=(seq,) if isinstance(seq, int) else ())


def _text(raw: object) -> str:
    return raw.decode(errors="replace") if isinstance(raw, bytes) else str(raw)
