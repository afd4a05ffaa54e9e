"""Reads the whole store once: what catalog and index are made from at the start."""

import math
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from chassis.clock import parse_iso
from services.memory.catalog import Catalog, Facts
from services.memory.embedding import Vectors
from services.memory.experience import Outcome
from services.memory.queries import SQL
from services.memory.store import Store, explained

_OUTCOME = {each.value: each for each in Outcome}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """`facts`: rows the catalog does not have yet. `keys` and `vectors`: the entries they bring.

    `rows` counts the store; `unusable` are rows whose vector or time can't be read.
    """

    facts: list[Facts]
    keys: list[int]
    vectors: Vectors
    rows: int
    unusable: list[int]


def scan(
    store: Store, model_sha256: str, dimension: int, catalog: Catalog, without: frozenset[int] = frozenset()
) -> Scan:
    """Rows of another model or without a vector are only counted: they are pending. `without` are known unusable."""
    facts: list[Facts] = []
    blobs: dict[int, bytes] = {}
    fresh: set[str] = set()
    unusable = sorted(without)
    rows = 0
    with closing(store.snapshot()) as connection, explained("read", store.path):
        connection.row_factory = None  # plain tuples: there may be many
        connection.execute("BEGIN")
        ends: dict[int, tuple[str, float]] = {}
        for event, outcome, tes, first in connection.execute(SQL["scan_outcomes"]):
            # The latest outcome counts; the TES is the first one's, since a score never changes.
            kept = ends[event][1] if event in ends and not first else (math.nan if tes is None else tes)
            ends[event] = (outcome, kept)
        for row in connection.execute(SQL["scan_events"]):
            rows += 1
            seq, namespace, domain, procedure, objective, occurred_at, blob, model = row
            if model != model_sha256 or seq in catalog or seq in without:
                continue
            outcome, tes = ends.get(seq, ("", math.nan))
            new = objective not in fresh and catalog.key_of(objective) is None
            try:
                if new and len(blob) != 4 * dimension:
                    raise ValueError("vector")
                fact = Facts(
                    seq=seq,
                    objective=objective,
                    namespace=namespace,
                    domain=domain,
                    procedure=procedure,
                    outcome=_OUTCOME[outcome],
                    occurred=parse_iso(occurred_at).timestamp(),
                    tes=tes,
                )
            except (ValueError, KeyError):
                unusable.append(seq)
                continue
            facts.append(fact)
            if new:
                fresh.add(objective)
                blobs[seq] = blob
    vectors = np.frombuffer(b"".join(blobs.values()), dtype="<f4").reshape(len(blobs), dimension)
    keys = list(blobs)
    lengths = np.einsum("ij,ij->i", vectors, vectors)
    bad = [keys[place] for place in np.flatnonzero(~(np.abs(lengths - 1.0) < 1e-3))]  # NaN is not near 1 either
    if bad:  # rare: read again without them, so that another row may stand for their objectives
        return scan(store, model_sha256, dimension, catalog, frozenset(unusable) | frozenset(bad))
    return Scan(facts=facts, keys=keys, vectors=vectors, rows=rows, unusable=unusable)
