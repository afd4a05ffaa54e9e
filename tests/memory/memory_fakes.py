import hashlib
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.memory.embedding import Vectors
from services.memory.experience import Experience, Outcome

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "recall"
START = datetime(2026, 11, 1, tzinfo=UTC)


class HashEmbedder:
    """Deterministic and instant: words add up, so that shared words mean closeness. For tests of everything else."""

    model = "hash"

    def __init__(self, dimension: int = 64, salt: str = "") -> None:
        self.dimension, self._salt = dimension, salt
        self.model_sha256 = hashlib.sha256(f"{dimension}{salt}".encode()).hexdigest()
        self.broken = False

    def embed(self, texts: Sequence[str]) -> Vectors:
        if self.broken:
            raise RuntimeError("the model is out of order")
        return np.stack([self._one(text) for text in texts])

    def _one(self, text: str) -> Vectors:
        total = sum((_direction(self._salt + word, self.dimension) for word in text.lower().split()), np.zeros(1))
        return (total / np.linalg.norm(total)).astype(np.float32)


@lru_cache(maxsize=20_000)
def _direction(word: str, dimension: int) -> NDArray[np.float64]:
    seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "big")
    return np.random.default_rng(seed).standard_normal(dimension)


_TEMPLATE = Experience(
    id="",
    station_id="st-1",
    namespace="default",
    origin="cbo",
    kind="task",
    objective="rotate the logs",
    domain="log_rotation",
    procedure="gzip-6",
    task_id="t-1",
    pulse_id="bp-000000001",
    occurred_at=START,
    outcome=Outcome.SUCCESS,
    context={"site": "here"},
    tes=97.5,
    duration_seconds=1.25,
    files_changed=3,
    confidence=0.8,
    evidence="probe confirmed",
    cost={"cpu_seconds": 0.5},
)


def experience(number: int | str = 1, **changes: object) -> Experience:
    """The number-th of its kind; each a minute later."""
    later = timedelta(minutes=number) if isinstance(number, int) else timedelta()
    fields: dict[str, Any] = {"id": f"e-{number}", "occurred_at": START + later, **changes}
    return replace(_TEMPLATE, **fields)
