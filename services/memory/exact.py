"""Exact scan of a float32 matrix in RAM: no neighbour is ever lost. For the virtual station, and as the measure
of the other indexes."""

import threading
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.memory.embedding import Vectors
from services.memory.index import Keys, Near, score

CHUNK = 4096
SLACK = 1e-5
"""More than the rounding of a float32 dot product of unit vectors; the final order is made in float64."""


class ExactIndex:
    """Appends under a lock; a search works on what was there when it began and takes no lock."""

    name = "exact"

    def __init__(self, dimension: int) -> None:
        self._dimension = dimension
        self._lock = threading.Lock()
        self._table = _Table(dimension)

    def __len__(self) -> int:
        return self._table.count

    def __contains__(self, key: int) -> bool:
        return key in self._table.place

    def add(self, keys: Sequence[int], vectors: Vectors) -> None:
        with self._lock:
            self._table.add(keys, vectors)

    def nearest(self, vector: Vectors, limit: int, among: Keys | None = None, *, above: float = -2.0) -> list[Near]:
        table = self._table
        count = table.count
        if count == 0 or limit < 1:
            return []
        cosines = table.scan(vector, count)
        keys = table.keys[:count]
        if among is not None:
            cosines = np.where(np.isin(keys, among), cosines, -np.inf)
        best = _top(cosines, limit)
        if not best.size:
            return []
        found = score(vector, keys[best].tolist(), table.rows(best))
        return [each for each in found if each.cosine > above][:limit]

    def keys(self) -> set[int]:
        table = self._table
        return set(table.keys[: table.count].tolist())

    def vectors(self, keys: Sequence[int]) -> dict[int, bytes]:
        table = self._table
        found = [(key, table.place[key]) for key in keys if key in table.place]
        return {key: table.row(place).tobytes() for key, place in found}

    def rebuild(self, batches: Iterable[tuple[Sequence[int], Vectors]]) -> None:
        fresh = _Table(self._dimension)
        for keys, vectors in batches:
            fresh.add(keys, vectors)
        with self._lock:
            self._table = fresh

    def close(self) -> None:
        self._table = _Table(self._dimension)


class _Table:
    """Rows in chunks that never move, so that growing copies nothing and readers need no lock."""

    def __init__(self, dimension: int) -> None:
        self._dimension = dimension
        self._chunks: list[Vectors] = []
        self.keys: Keys = np.empty(0, dtype=np.int64)
        self.place: dict[int, int] = {}
        self.count = 0

    def add(self, keys: Sequence[int], vectors: Vectors) -> None:
        if vectors.shape != (len(keys), self._dimension):
            raise ValueError(f"{len(keys)} keys with vectors of shape {vectors.shape}")
        # A key twice in one call counts once; a batch is written in whole slices, a chunk at a time.
        fresh = list({key: row for row, key in enumerate(keys) if key not in self.place}.items())
        done = 0
        while done < len(fresh):
            chunk, offset = divmod(self.count, CHUNK)
            if chunk == len(self._chunks):
                self._chunks.append(np.empty((CHUNK, self._dimension), dtype=np.float32))
                self.keys = np.concatenate([self.keys, np.empty(CHUNK, dtype=np.int64)])
            part = fresh[done : done + CHUNK - offset]
            self._chunks[chunk][offset : offset + len(part)] = vectors[[row for _, row in part]]
            self.keys[self.count : self.count + len(part)] = [key for key, _ in part]
            self.place.update((key, self.count + i) for i, (key, _) in enumerate(part))
            self.count += len(part)
            done += len(part)

    def scan(self, vector: Vectors, count: int) -> NDArray[np.float32]:
        cosines = np.empty(count, dtype=np.float32)
        for first in range(0, count, CHUNK):
            last = min(first + CHUNK, count)
            np.dot(self._chunks[first // CHUNK][: last - first], vector, out=cosines[first:last])
        return cosines

    def row(self, place: int) -> Vectors:
        row: Vectors = self._chunks[place // CHUNK][place % CHUNK]
        return row

    def rows(self, places: NDArray[Any]) -> Vectors:
        return np.stack([self.row(int(place)) for place in places])


def _top(cosines: NDArray[np.float32], limit: int) -> NDArray[Any]:
    """Places of the `limit` highest, and of whatever float32 can't tell from the last of them."""
    if limit >= cosines.size:
        return np.flatnonzero(np.isfinite(cosines))
    edge = np.partition(cosines, cosines.size - limit)[cosines.size - limit]
    return np.flatnonzero(np.isfinite(cosines) & (cosines >= edge - SLACK))
