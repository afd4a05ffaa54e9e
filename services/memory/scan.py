"""Reads the whole store once: what catalog and index are made from at the start."""

import math
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from chassis.clock import parse_iso
from services.memory.catalog import Facts, Standing
from services.memory.embedding import Vectors
from services.memory.experience import Outcome
from services.memory.queries import SQL
from services.memory.store import Store, explained

_OUTCOME = {each.value: each for each in Outcome}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """`facts` in the order of their numbers; `keys` and `vectors` are the objectives that have one of this model.

    `unusable` are rows that can't be read; `unusable_vectors` keys of objectives whose vector can't be used.
    """

    facts: list[Facts]
    keys: list[int]
    vectors: Vectors
    unusable: list[int]
    unusable_vectors: list[int]


def scan(store: Store, model_sha256: str, dimension: int) -> Scan:
    """Everything that recall needs, of one snapshot."""
    facts: list[Facts] = []
    unusable: list[int] = []
    with closing(store.snapshot()) as connection, explained("read", store.path):
        connection.row_factory = None  # plain tuples: there may be many
        connection.execute("BEGIN")
        ends: dict[int, tuple[str, float]] = {}
        for event, outcome, tes, first in connection.execute(SQL["scan_outcomes"]):
            # The latest outcome counts; the TES is the first one's, since a score never changes.
            kept = ends[event][1] if event in ends and not first else (math.nan if tes is None else tes)
            ends[event] = (outcome, kept)
        standings = dict(connection.execute(SQL["scan_standings"]).fetchall())
        rows = [(*row, *ends.get(row[0], ("", math.nan))) for row in connection.execute(SQL["scan_events"])]
        members = connection.execute(SQL["scan_members"]).fetchall()
        for row in sorted(rows + members) if members else rows:
            seq, namespace, domain, procedure, objective, occurred_at, outcome, tes = row
            try:
                facts.append(
                    Facts(
                        seq=seq,
                        objective=objective,
                        namespace=namespace,
                        domain=domain,
                        procedure=procedure,
                        outcome=_OUTCOME[outcome],
                        standing=Standing(standings.get(seq, "valid")),
                        occurred=parse_iso(occurred_at).timestamp(),
                        tes=math.nan if tes is None else tes,
                    )
                )
            except (ValueError, KeyError):
                unusable.append(seq)
        keys: list[int] = []
        blobs: list[bytes] = []
        bad: list[int] = []
        for key, stored, blob in connection.execute(SQL["scan_vectors"], (model_sha256,)):
            if stored != dimension or len(blob) != 4 * dimension:
                bad.append(key)
                continue
            keys.append(key)
            blobs.append(blob)
    vectors = np.frombuffer(b"".join(blobs), dtype="<f4").reshape(len(blobs), dimension)
    near_one = np.abs(np.einsum("ij,ij->i", vectors, vectors) - 1.0) < 1e-3  # NaN is not near 1 either
    if not near_one.all():
        bad += [keys[place] for place in np.flatnonzero(~near_one)]
        keys, vectors = [keys[place] for place in np.flatnonzero(near_one)], vectors[near_one]
    return Scan(facts=facts, keys=keys, vectors=vectors, unusable=unusable, unusable_vectors=sorted(bad))
