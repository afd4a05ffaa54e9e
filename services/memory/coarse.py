"""Eight bits a number in RAM to find candidates, the store's own vectors to score them: a quarter of the memory.

Each vector is divided by its largest component and rounded to −127…127. Rounding errors behave like uniform noise
(Widrow and Kollár, Quantization Noise, ch. 5): a cosine of two such vectors is off by a normal error of variance
(a² + b²) / 12, where a and b are their steps. Whatever could still be among the best within SIGMAS of it is scored.
"""

import threading
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import simsimd
from numpy.typing import NDArray

from services.memory.embedding import Vectors
from services.memory.index import Keys, Near, VectorSource, score

CHUNK = 65_536
SIGMAS = 6.0
MOST = 1024
"""At most so many candidates are scored; only reached where this many differ by less than the rounding."""

BATCH = 4096
"""Entries that are compared with the truth at once."""

PIECE = 2048
"""Rows that are rounded at once: what that needs then stays in the CPU's cache, in half the time of 16,384."""

SPARSE = 4
"""If no more than one in so many rows is allowed, those are picked out; else all are scored, which is faster."""

LARGEST = 2**31 - 1

Codes = NDArray[np.int8]
Steps = NDArray[np.float32]
Places = NDArray[np.int32]
"""Rows of the table."""


class CoarseIndex:
    """Appends under a lock; a search works on what was there when it began and takes no lock.

    `source` gives the truth's vectors; an entry that it does not know is not found.
    """

    name = "int8"

    def __init__(self, dimension: int, source: VectorSource) -> None:
        self._dimension, self._source = dimension, source
        self._lock = threading.Lock()
        self._table = _Table(dimension)

    def __len__(self) -> int:
        return self._table.count

    def __contains__(self, key: int) -> bool:
        return self._table.has(key)

    def add(self, keys: Sequence[int], vectors: Vectors) -> None:
        with self._lock:
            self._table.add(keys, vectors)

    def nearest(self, vector: Vectors, limit: int, among: Keys | None = None, *, above: float = -2.0) -> list[Near]:
        table = self._table
        count = table.count
        if count == 0 or limit < 1:
            return []
        allowed = None
        if among is not None:
            places = table.places(among)
            allowed = np.zeros(count, dtype=np.bool_)
            allowed[places[places < count]] = True
        keys = table.keys()[table.candidates(vector, limit, count, allowed, above)].tolist()
        truth = self._truth(keys)
        known = [key for key in keys if key in truth]
        if not known:
            return []
        exact = np.frombuffer(b"".join(truth[key] for key in known), dtype="<f4").reshape(len(known), -1)
        return [each for each in score(vector, known, exact) if each.cosine > above][:limit]

    def keys(self) -> set[int]:
        return set(self._table.keys().tolist())

    def vectors(self, keys: Sequence[int]) -> dict[int, bytes]:
        """The truth's bytes where they round to what is held here; else what is held, which then differs."""
        table = self._table
        wanted = np.asarray(keys, dtype=np.int64)
        numbers = wanted[np.isin(wanted, table.keys())]
        places, truth = table.places(numbers), self._truth(numbers.tolist())
        found = {}
        for start in range(0, numbers.size, BATCH):
            batch = numbers[start : start + BATCH].tolist()
            rows = [table.row(place) for place in places[start : start + BATCH].tolist()]
            codes, steps = np.stack([row[0] for row in rows]), np.array([row[1] for row in rows], dtype=np.float32)
            nothing = bytes(4 * self._dimension)
            raw = b"".join(truth.get(key, nothing) for key in batch)
            rounded, stepped = quantise(np.frombuffer(raw, dtype="<f4").reshape(len(batch), -1))
            same = (rounded == codes).all(axis=1) & (stepped == steps)
            for key, code, step, equal in zip(batch, codes, steps, same.tolist(), strict=True):
                found[key] = truth[key] if equal and key in truth else (code.astype("<f4") * step).tobytes()
        return found

    def rebuild(self, batches: Iterable[tuple[Sequence[int], Vectors]]) -> None:
        fresh = _Table(self._dimension)
        for keys, vectors in batches:
            fresh.add(keys, vectors)
        with self._lock:
            self._table = fresh

    def close(self) -> None:
        self._table = _Table(self._dimension)

    def _truth(self, keys: Sequence[int]) -> dict[int, bytes]:
        size = 4 * self._dimension
        return {key: each for key, each in self._source(keys).items() if each is not None and len(each) == size}


def quantise(vectors: Vectors) -> tuple[Codes, Steps]:
    """(codes, step of each row): a row is about codes · step. Rows that are not finite become nothing."""
    steps = (np.abs(vectors).max(axis=1) / np.float32(127)).astype(np.float32)
    steps[~np.isfinite(steps)] = 0
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        scaled = vectors / steps[:, None]
    np.nan_to_num(scaled, copy=False, nan=0, posinf=0, neginf=0)
    return np.rint(scaled, out=scaled).astype(np.int8), steps


class _Table:
    """Rows in chunks that never move, so that growing copies nothing and readers need no lock."""

    def __init__(self, dimension: int) -> None:
        self._dimension = dimension
        self._chunks: list[tuple[Codes, Steps]] = []
        self._largest_step = 0.0
        self._keys = np.empty(1024, dtype=np.int64)
        # Row by key, −1 where there is none: keys are numbers of objectives, which leave few gaps.
        self._places = np.full(1024, -1, dtype=np.int32)
        self.count = 0

    def keys(self) -> Keys:
        return self._keys[: self.count]

    def has(self, key: int) -> bool:
        table = self._places
        return 0 <= key < table.size and bool(table[key] >= 0)

    def places(self, keys: Keys) -> Places:
        """Rows of those that are here, in the order asked."""
        table = self._places
        found: Places = table[keys[(keys >= 0) & (keys < table.size)]]
        return found[found >= 0]

    def add(self, keys: Sequence[int], vectors: Vectors) -> None:
        if vectors.shape != (len(keys), self._dimension):
            raise ValueError(f"{len(keys)} keys with vectors of shape {vectors.shape}")
        wanted = np.asarray(keys, dtype=np.int64)
        if wanted.size and not 0 <= int(wanted.min()) <= int(wanted.max()) < LARGEST:
            raise ValueError(f"keys are 0 to {LARGEST}")
        highest = int(wanted.max(initial=0))
        self._places = _grown(self._places, highest + 1, -1)
        numbers, first = np.unique(wanted, return_index=True)
        rows = np.sort(first[self._places[numbers] < 0])  # in the order given; a key twice counts once
        self._keys = _grown(self._keys, self.count + rows.size, 0)
        for start in range(0, rows.size, PIECE):
            part = rows[start : start + PIECE]
            self._append(wanted[part], vectors[part])

    def _append(self, keys: Keys, vectors: Vectors) -> None:
        codes, steps = quantise(vectors)
        self._largest_step = max(self._largest_step, float(steps.max(initial=0)))
        done = 0
        while done < keys.size:
            chunk, offset = divmod(self.count, CHUNK)
            if chunk == len(self._chunks):
                fresh = np.empty((CHUNK, self._dimension), dtype=np.int8), np.empty(CHUNK, dtype=np.float32)
                self._chunks.append(fresh)
            part = slice(done, done + CHUNK - offset)
            size = keys[part].size
            self._chunks[chunk][0][offset : offset + size] = codes[part]
            self._chunks[chunk][1][offset : offset + size] = steps[part]
            self._keys[self.count : self.count + size] = keys[part]
            self._places[keys[part]] = np.arange(self.count, self.count + size)
            self.count += size  # last: readers see a row once it is whole
            done += size

    def row(self, place: int) -> tuple[Codes, np.float32]:
        codes, steps = self._chunks[place // CHUNK]
        return codes[place % CHUNK], steps[place % CHUNK]

    def candidates(
        self, vector: Vectors, limit: int, count: int, allowed: NDArray[np.bool_] | None, above: float
    ) -> Places:
        """Rows that may be among the `limit` best and above `above`."""
        asked, step = quantise(vector[None, :].astype(np.float32))
        off = SIGMAS * float(np.sqrt((self._largest_step**2 + float(step[0]) ** 2) / 12))
        best, cosines = np.empty(0, dtype=np.int32), np.empty(0, dtype=np.float32)
        edge = lowest = above - off
        for first in range(0, count, CHUNK):
            last = min(first + CHUNK, count)
            inside = None if allowed is None else np.flatnonzero(allowed[first:last])
            found = self._scan(asked, step[0], first // CHUNK, last - first, inside)
            hopeful = np.flatnonzero(found >= edge)
            if not hopeful.size:
                continue
            rows = hopeful if inside is None else inside[hopeful]
            best = np.concatenate([best, (rows + first).astype(np.int32)])
            cosines = np.concatenate([cosines, found[hopeful]])
            if best.size > limit:
                # Twice: once for what is at the edge, once for what might belong above it.
                edge = max(lowest, float(np.partition(cosines, best.size - limit)[best.size - limit]) - 2 * off)
                keep = cosines >= edge
                best, cosines = best[keep], cosines[keep]
        if best.size > MOST:
            best = best[np.lexsort((-best, -cosines))[:MOST]]
        return best

    def _scan(
        self, asked: Codes, step: np.float32, chunk: int, count: int, inside: NDArray[np.int64] | None
    ) -> NDArray[np.float32]:
        """Approximate cosines of the first `count` rows of a chunk, or of those `inside` it."""
        codes, steps = self._chunks[chunk][0][:count], self._chunks[chunk][1][:count]
        if inside is None:
            return _cosines(asked, step, codes, steps)
        if SPARSE * inside.size <= count:
            return _cosines(asked, step, codes[inside], steps[inside])
        return _cosines(asked, step, codes, steps)[inside]


def _cosines(asked: Codes, step: np.float32, codes: Codes, steps: Steps) -> NDArray[np.float32]:
    cosines: NDArray[np.float32] = (products(asked, codes) * (steps * step)).astype(np.float32)
    return cosines


def products(asked: Codes, codes: Codes) -> NDArray[Any]:
    """Dot products of one row of codes with many: whole numbers, exact."""
    if not codes.size:
        return np.empty(0)
    found: NDArray[np.float64] = np.asarray(simsimd.cdist(asked, codes, metric="dot"))[0]
    return found


def _grown(array: NDArray[Any], size: int, fill: int) -> NDArray[Any]:
    """The array itself, or a longer copy; readers go on with the one they have."""
    if size <= array.size:
        return array
    grown = np.full(max(size, array.size * 3 // 2), fill, dtype=array.dtype)
    grown[: array.size] = array
    return grown
