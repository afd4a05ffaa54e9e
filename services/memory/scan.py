"""Reads the whole store once: what catalog and index are made from at the start. A batch at a time, so that the
memory needed does not grow with the store."""

import math
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chassis.clock import parse_iso
from services.memory.catalog import OUTCOME_CODES, STANDING_CODES, Catalog, Words
from services.memory.embedding import Vectors
from services.memory.experience import REHEARSAL
from services.memory.faults import explained
from services.memory.index import Keys
from services.memory.queries import SQL
from services.memory.store import Store

BATCH = 16_384
BLOCK = 65_536
"""Events whose columns come as one text each: a few MiB."""

_OUTCOMES = {name.encode(): code for name, code in OUTCOME_CODES.items()}
_STANDINGS = {name.encode(): code for name, code in STANDING_CODES.items()}
_ISO_CHARS = len("2026-01-01T00:00:00.000000Z")
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
        parts = self._event_columns(catalog)
        if parts is None:
            parts = list(self._row_columns(catalog, self._connection.execute(SQL["scan_events"])))
        members = list(self._row_columns(catalog, self._connection.execute(SQL["scan_members"])))
        parts += members
        if not parts:
            return catalog
        columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        parts.clear()
        if members:  # rolled-up rows lie between those that are left
            order = np.argsort(columns["seq"], kind="stable")
            columns = {name: column[order] for name, column in columns.items()}
        self._end(columns)
        known = columns["outcome"] >= 0
        if not known.all():
            self.unusable += columns["seq"][~known].tolist()
            columns = {name: column[known] for name, column in columns.items()}
        catalog.extend(columns)
        return catalog

    def _event_columns(self, catalog: Catalog) -> list[dict[str, NDArray[Any]]] | None:
        """Columns of all events, each as one text from SQLite, in a third of the time; None if any is not as written.

        Nothing of a row that can't be read may move into another row: what SQLite left out, or holds a separator,
        makes a column too short or too long.
        """
        parts: list[dict[str, NDArray[Any]]] = []
        last = 0
        while True:
            count, highest, *told = self._connection.execute(SQL["scan_event_columns"], (last, BLOCK)).fetchone()
            if not count:
                return parts
            part = _told(catalog, count, *told)
            if part is None:
                return None
            parts.append(part)
            last = highest

    def _row_columns(self, catalog: Catalog, rows: Iterator[tuple[Any, ...]]) -> Iterator[dict[str, NDArray[Any]]]:
        while batch := list(islice(rows, BATCH)):
            yield self._columns(catalog, batch)

    def _columns(self, catalog: Catalog, batch: list[tuple[Any, ...]]) -> dict[str, NDArray[Any]]:
        """Columns of these rows, without those that can't be read."""
        seconds = _seconds([row[5] for row in batch])
        if not np.isfinite(seconds).all():
            self.unusable += [row[0] for row, known in zip(batch, np.isfinite(seconds), strict=True) if not known]
            batch = [row for row, known in zip(batch, np.isfinite(seconds), strict=True) if known]
            seconds = seconds[np.isfinite(seconds)]
        seq, namespace, domain, procedure, objective, _, outcome, tes = zip(*batch, strict=True) if batch else [()] * 8
        return {
            "seq": np.array(seq, dtype=np.int64),
            "objective": np.array(objective, dtype=np.int32),
            "namespace": _codes(catalog.namespaces, namespace),
            "domain": _codes(catalog.domains, domain),
            "procedure": _codes(catalog.procedures, procedure),
            "outcome": np.array([_OUTCOMES.get(each, -1) for each in outcome], dtype=np.int8),
            "standing": np.zeros(len(seq), dtype=np.int8),
            "occurred": seconds,
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
            codes = np.array([_OUTCOMES.get(each, -1) for each in outcomes], dtype=np.int8)
            columns["outcome"][places] = codes[here]
            scored = here & np.array(first, dtype=np.bool_)
            columns["tes"][places[scored[here]]] = np.array(tes, dtype=np.float64)[scored]
        standings = self._connection.execute(SQL["scan_standings"]).fetchall()
        if standings:
            places, here = _places(seqs, [event for event, _ in standings])
            codes = np.array([_STANDINGS.get(standing, -1) for _, standing in standings], dtype=np.int8)
            columns["standing"][places] = codes[here]
            columns["outcome"][columns["standing"] < 0] = -1
        places, _ = _places(seqs, [seq for (seq,) in self._connection.execute(*REHEARSALS)])
        columns["rehearsal"][places] = True

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


def _told(
    catalog: Catalog,
    count: int,
    seqs: bytes | None,
    objectives: bytes | None,
    times: bytes | None,
    words: bytes | None,
    whole: int,
) -> dict[str, NDArray[Any]] | None:
    """Columns of `count` events from texts of `scan_event_columns`; None if one does not hold so many."""
    if None in (seqs, objectives, times, words) or whole != count:
        return None
    assert seqs is not None and objectives is not None and times is not None and words is not None
    spoken = words.split(b"\x1e")
    kinds = {kind: kind.split(b"\x1f") for kind in dict.fromkeys(spoken)}
    seconds = _same_length(times, count)
    if len(spoken) != count or any(len(kind) != 3 for kind in kinds.values()) or seconds is None:
        return None
    number = {kind: place for place, kind in enumerate(kinds)}
    of = np.fromiter(map(number.__getitem__, spoken), dtype=np.int64, count=count)
    namespace, domain, procedure = zip(*kinds.values(), strict=True)
    return {
        "seq": np.fromiter(map(int, seqs.split(b",")), dtype=np.int64, count=count),
        "objective": np.fromiter(map(int, objectives.split(b",")), dtype=np.int32, count=count),
        "namespace": _codes(catalog.namespaces, namespace)[of],
        "domain": _codes(catalog.domains, domain)[of],
        "procedure": _codes(catalog.procedures, procedure)[of],
        "outcome": np.full(count, -1, dtype=np.int8),
        "standing": np.zeros(count, dtype=np.int8),
        "occurred": seconds,
        "tes": np.full(count, np.nan),
        "rehearsal": np.zeros(count, dtype=np.bool_),
    }


def _same_length(times: bytes, count: int) -> NDArray[np.float64] | None:
    if len(times) != count * _ISO_CHARS:
        return None
    seconds = _moments(np.frombuffer(times, dtype=f"S{_ISO_CHARS}"))
    return seconds if seconds is not None and np.isfinite(seconds).all() else None


def _codes(words: Words, column: Sequence[bytes]) -> NDArray[np.int32]:
    codes = {each: words.code(each.decode(errors="replace")) for each in dict.fromkeys(column)}
    return np.array([codes[each] for each in column], dtype=np.int32)


def _seconds(times: Sequence[bytes]) -> NDArray[np.float64]:
    """Seconds since 1970 of times as `chassis.clock.iso` writes them; NaN where one is no time at all."""
    written = np.array(times)
    seconds = _moments(written) if written.dtype == f"S{_ISO_CHARS}" else None
    return np.array([_second(each) for each in times], dtype=np.float64) if seconds is None else seconds


def _moments(written: NDArray[np.bytes_]) -> NDArray[np.float64] | None:
    """The same of an array of such times, NaN where one is none; None where one by one is to be looked at."""
    if not (written.view("S1")[_ISO_CHARS - 1 :: _ISO_CHARS] == b"Z").all():
        return None
    try:
        moments = written.astype(f"S{_ISO_CHARS - 1}").astype("datetime64[us]")  # without the Z
    except (ValueError, UserWarning):  # numpy warns of what looks like a zone: one of them is damaged
        return None
    return np.where(np.isnat(moments), np.nan, moments.astype(np.int64) / 1e6)


def _second(time: bytes) -> float:
    try:
        return parse_iso(time.decode()).timestamp()
    except (ValueError, AttributeError):
        return math.nan


def _places(seqs: NDArray[np.int64], wanted: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """(where those that are there stand, which of `wanted` are there)."""
    try:
        numbers = np.array(wanted, dtype=np.int64)
    except (TypeError, ValueError):  # a damaged row points at no number; verify names it
        numbers = np.array([each if isinstance(each, int) else -1 for each in wanted], dtype=np.int64)
    places = np.searchsorted(seqs, numbers)
    here = np.append(seqs, -1)[places] == numbers
    return places[here], here


@contextmanager
def scanning(store: Store) -> Iterator[Scan]:
    """Everything that recall needs, of one snapshot."""
    with closing(store.snapshot()) as connection, explained("read", store.path):
        connection.row_factory = None  # plain tuples, and texts as they are: there may be many
        connection.text_factory = bytes
        connection.execute("BEGIN")
        yield Scan(connection)


def lacking(catalog: Catalog, keys: NDArray[np.int64]) -> dict[int, int]:
    """Objectives of the catalog that are not among `keys`, and how many rows each has."""
    objectives, counts = np.unique(catalog.rows()["objective"], return_counts=True)
    missing = ~np.isin(objectives, keys)
    return dict(zip(objectives[missing].tolist(), counts[missing].tolist(), strict=True))
