"""The vector index port: which stored vectors point the same way as this one. Derived, never the truth."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from services.memory.embedding import Vectors

Keys = NDArray[np.int64]
"""Entries are named by the key of their objective in the store: one entry serves every repeat of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Near:
    """One entry and its exact cosine with the vector asked for, −1 to 1."""

    key: int
    cosine: float


class VectorIndex(Protocol):
    """Adding and searching may happen at the same time; adding a key again changes nothing."""

    @property
    def name(self) -> str: ...

    def __len__(self) -> int: ...

    def __contains__(self, key: int) -> bool: ...

    def add(self, keys: Sequence[int], vectors: Vectors) -> None: ...

    def nearest(self, vector: Vectors, limit: int, among: Keys | None = None, *, above: float = -2.0) -> list[Near]:
        """At most `limit` entries with a cosine above `above`, best first, ties newest first.

        Only those in `among` if given.
        """
        ...

    def keys(self) -> set[int]: ...

    def vectors(self, keys: Sequence[int]) -> dict[int, bytes]:
        """What the index holds for these keys, as little-endian float32; absent keys are left out."""
        ...

    def rebuild(self, batches: Iterable[tuple[Sequence[int], Vectors]]) -> None:
        """Replace everything by these entries; searches see the old index until the new one is whole."""
        ...

    def close(self) -> None: ...


VectorSource = Callable[[Sequence[int]], dict[int, bytes]]
"""The truth's vectors by key, from the store; what an approximate index is re-scored with."""


def score(vector: Vectors, keys: Sequence[int], vectors: Vectors) -> list[Near]:
    """Exact cosines in float64, best first, ties newest first.

    Rounded to 12 decimals: the last bits of a dot product depend on where in the matrix a row happens to lie.
    """
    wide = vectors.astype(np.float64)
    asked = vector.astype(np.float64)
    cosines = (wide @ asked) / (np.linalg.norm(wide, axis=1) * np.linalg.norm(asked))
    cosines = np.round(cosines, 12)
    order = np.lexsort((-np.asarray(keys, dtype=np.int64), -cosines))
    return [Near(key=int(keys[i]), cosine=float(min(1.0, max(-1.0, cosines[i])))) for i in order]
