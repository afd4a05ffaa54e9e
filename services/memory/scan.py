"""Reads the whole store once: what catalog and index are made from at the start. A batch at a time, so that the
memory needed does not grow with the store."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from heapq import merge
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chassis.clock import parse_iso
from services.memory.catalog import OUTCOME_CODES, STANDING_CODES, Catalog
from services.memory.embedding import Vectors
from services.memory.experience import REHEARSAL
from services.memory.index import Keys
from services.memory.queries import SQL
from services.memory.store import Store, explained

BATCH = 16_384
REHEARSALS = (SQL["with_fact"], REHEARSAL)


class Scan:
    """One snapshot. `unusable` are rows that can't be read; `unusable_vectors` keys of objectives whose vector of this
    model can't be used. Both are filled as the rest is read."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.unusable: list[int] = []
        self.unusable_vectors: list[int] = []

    def catalog(self) -> Catalog:
        """Every row that can be read."""
        catalog = Catalog()
        events = self._connection.execute(SQL["scan_events"])
        members = self._connection.execute(SQL["scan_members"]).fetchall()
        rows = merge(events, members) if members else events  # rolled-up rows lie between those that are left
        parts = []
        while batch := list(islice(rows, BATCH)):
            parts.append(self._columns(catalog, batch))
        if not parts:
            return catalog
        columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        parts.clear()
        self._end(columns)
        known = columns["outcome"] >= 0
        if not known.all():
            self.unusable += columns["seq"][~known].tolist()
            columns = {name: column[known] for name, column in columns.items()}
        catalog.extend(columns)
        return catalog

    def _columns(self, catalog: Catalog, batch: list[tuple[Any, ...]]) -> dict[str, NDArray[Any]]:
        """Columns of these rows, without those that can't be read."""
        try:
            seconds = [parse_iso(row[5]).timestamp() for row in batch]
        except (ValueError, TypeError):  # rare: look for the damaged ones
            batch = [row for row in batch if self._timed(row)]
            seconds = [parse_iso(row[5]).timestamp() for row in batch]
        seq, namespace, domain, procedure, objective, _, outcome, tes = zip(*batch, strict=True) if batch else [()] * 8
        return {
            "seq": np.array(seq, dtype=np.int64),
            "objective": np.array(objective, dtype=np.int32),
            "namespace": np.array([catalog.namespaces.code(each) for each in namespace], dtype=np.int32),
            "domain": np.array([catalog.domains.code(each) for each in domain], dtype=np.int32),
            "procedure": np.array([catalog.procedures.code(each) for each in procedure], dtype=np.int32),
            "outcome": np.array([OUTCOME_CODES.get(each, -1) for each in outcome], dtype=np.int8),
            "standing": np.zeros(len(seq), dtype=np.int8),
            "occurred": np.array(seconds, dtype=np.float64),
            "tes": np.array(tes, dtype=np.float64),  # None becomes NaN
            "rehearsal": np.zeros(len(seq), dtype=np.bool_),
        }

    def _end(self, columns: dict[str, NDArray[Any]]) -> None:
        """Fill in, for all rows together, what lies in other tables; an outcome that can't be read becomes −1."""
        seqs = columns["seq"]
        found = self._connection.execute(SQL["scan_outcomes"])
        while batch := found.fetchmany(BATCH):
            events, outcomes, tes, first = zip(*batch, strict=True)
            places, here = _places(seqs, events)
            # In the order of their numbers: of several outcomes the last counts, the TES is the first one's, since a
            # score never changes.
            codes = np.array([OUTCOME_CODES.get(each, -1) for each in outcomes], dtype=np.int8)
            columns["outcome"][places] = codes[here]
            scored = here & np.array(first, dtype=np.bool_)
            columns["tes"][places[scored[here]]] = np.array(tes, dtype=np.float64)[scored]
        standings = self._connection.execute(SQL["scan_standings"]).fetchall()
        if standings:
            places, here = _places(seqs, [event for event, _ in standings])
            codes = np.array([STANDING_CODES.get(standing, -1) for _, standing in standings], dtype=np.int8)
            columns["standing"][places] = codes[here]
            columns["outcome"][columns["standing"] < 0] = -1
        places, _ = _places(seqs, [seq for (seq,) in self._connection.execute(*REHEARSALS)])
        columns["rehearsal"][places] = True

    def _timed(self, row: tuple[Any, ...]) -> bool:
        try:
            parse_iso(row[5])
        except (ValueError, TypeError):
            self.unusable.append(int(row[0]))
            return False
        return True

    def keys(self, model_sha256: str) -> Keys:
        """Objectives that have a vector of this model, rising."""
        found = self._connection.execute(SQL["scan_keys"], (model_sha256,))
        return np.fromiter((key for (key,) in found), dtype=np.int64)

    def vectors(self, model_sha256: str, dimension: int) -> Iterator[tuple[list[int], Vectors]]:
        """Usable vectors of this model with their keys, rising."""
        found = self._connection.execute(SQL["scan_vectors"], (model_sha256,))
        while batch := found.fetchmany(BATCH):
            whole = [row for row in batch if row[1] == dimension and len(row[2]) == 4 * dimension]
            vectors = np.frombuffer(b"".join(row[2] for row in whole), dtype="<f4").reshape(len(whole), dimension)
            near_one = np.abs(np.einsum("ij,ij->i", vectors, vectors) - 1.0) < 1e-3  # NaN is not near 1 either
            keys = [row[0] for row in whole]
            if len(whole) < len(batch) or not near_one.all():
                keys = [keys[place] for place in np.flatnonzero(near_one)]
                vectors = vectors[near_one]
                self.unusable_vectors += sorted({row[0] for row in batch} - set(keys))
            yield keys, vectors


def _places(seqs: NDArray[np.int64], wanted: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """(where those that are there stand, which of `wanted` are there)."""
    numbers = np.array(wanted, dtype=np.int64)
    places = np.searchsorted(seqs, numbers)
    here = np.append(seqs, -1)[places] == numbers
    return places[here], here


@contextmanager
def scanning(store: Store) -> Iterator[Scan]:
    """Everything that recall needs, of one snapshot."""
    with closing(store.snapshot()) as connection, explained("read", store.path):
        connection.row_factory = None  # plain tuples: there may be many
        connection.execute("BEGIN")
        yield Scan(connection)


def lacking(catalog: Catalog, keys: NDArray[np.int64]) -> dict[int, int]:
    """Objectives of the catalog that are not among `keys`, and how many rows each has."""
    objectives, counts = np.unique(catalog.rows()["objective"], return_counts=True)
    missing = ~np.isin(objectives, keys)
    return dict(zip(objectives[missing].tolist(), counts[missing].tolist(), strict=True))
