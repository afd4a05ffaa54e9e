"""Reads the whole store once: what catalog and index are made from at the start. A batch at a time, so that the
memory needed does not grow with the store."""

import math
import sqlite3
from collections.abc import Iterator
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
        standings = dict(self._connection.execute(SQL["scan_standings"]).fetchall())
        rehearsals = np.sort(np.fromiter((seq for (seq,) in self._connection.execute(*REHEARSALS)), dtype=np.int64))
        events = self._connection.execute(SQL["scan_events"])
        members = self._connection.execute(SQL["scan_members"]).fetchall()
        rows = merge(events, members) if members else events  # rolled-up rows lie between those that are left
        while batch := list(islice(rows, BATCH)):
            self._add(catalog, batch, standings, rehearsals)
        return catalog

    def _add(
        self, catalog: Catalog, batch: list[tuple[Any, ...]], standings: dict[int, str], rehearsals: NDArray[np.int64]
    ) -> None:
        readable = []
        for row in batch:
            try:
                occurred, outcome = parse_iso(row[5]).timestamp(), OUTCOME_CODES[row[6]]
                standing = STANDING_CODES[standings[row[0]]] if row[0] in standings else 0
            except (ValueError, KeyError, TypeError):
                self.unusable.append(int(row[0]))
                continue
            readable.append((*row[:5], occurred, outcome, row[7], standing))
        if not readable:
            return
        seq, namespace, domain, procedure, objective, occurreds, outcomes, tes, stands = zip(*readable, strict=True)
        seqs = np.array(seq, dtype=np.int64)
        places = np.searchsorted(rehearsals, seqs)
        catalog.extend(
            {
                "seq": seqs,
                "rehearsal": np.append(rehearsals, -1)[places] == seqs,
                "objective": np.array(objective, dtype=np.int32),
                "namespace": np.array([catalog.namespaces.code(each) for each in namespace], dtype=np.int32),
                "domain": np.array([catalog.domains.code(each) for each in domain], dtype=np.int32),
                "procedure": np.array([catalog.procedures.code(each) for each in procedure], dtype=np.int32),
                "outcome": np.array(outcomes, dtype=np.int8),
                "standing": np.array(stands, dtype=np.int8),
                "occurred": np.array(occurreds, dtype=np.float64),
                "tes": np.array([math.nan if each is None else each for each in tes], dtype=np.float64),
            }
        )

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
