"""The embedding port: texts to vectors whose cosine says how alike they mean."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from chassis.errors import Damaged

Vectors = NDArray[np.float32]
"""[n, dimension], one row a text."""


class Embedder(Protocol):
    """Deterministic: a text gives the same bytes alone or in a batch. Safe to call from several threads.

    `model_sha256` names the vector space: vectors of two models are never compared. Never downloads.
    """

    @property
    def model(self) -> str: ...

    @property
    def model_sha256(self) -> str: ...

    @property
    def dimension(self) -> int: ...

    def embed(self, texts: Sequence[str]) -> Vectors:
        """float32 [n, dimension], each row of unit length."""
        ...


def check_vectors(vectors: Vectors, dimension: int) -> Vectors:
    """The vectors themselves; Damaged if one is NaN, zero or of the wrong size: none of it may be stored."""
    if vectors.ndim != 2 or vectors.shape[1] != dimension:
        raise Damaged(f"the embedding has shape {vectors.shape}, expected [n, {dimension}]; check the model files")
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1)
    if not np.all(np.abs(norms - 1.0) < 1e-3):  # NaN fails the comparison too
        raise Damaged("the embedding is not a unit vector (NaN or zero); nothing was stored, check the model files")
    return np.ascontiguousarray(vectors, dtype="<f4")
