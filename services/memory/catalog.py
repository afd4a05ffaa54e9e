"""What recall filters and sums by, in RAM: a few numbers per experience, so that evidence is never sampled."""

import threading
from collections.abc import Collection
from enum import StrEnum
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from services.memory.experience import Outcome

OUTCOMES = tuple(Outcome)
_CODE = {outcome: code for code, outcome in enumerate(OUTCOMES)}
_ROW = np.dtype(
    [
        ("seq", np.int64),
        ("objective", np.int32),
        ("namespace", np.int32),
        ("domain", np.int32),
        ("procedure", np.int32),
        ("outcome", np.int8),
        ("standing", np.int8),
        ("occurred", np.float64),
        ("tes", np.float64),
    ]
)


class Standing(StrEnum):
    """Whether an experience may still be believed."""

    VALID = "valid"
    SUPERSEDED = "superseded"
    INVALIDATED = "invalidated"
    EVICTED = "evicted"


STANDINGS = tuple(Standing)


class Facts(NamedTuple):
    """One row to be; a tuple, since a start makes one per row of the store.

    `objective` is its key, `occurred` in seconds since 1970 (UTC), `tes` NaN when unknown.
    """

    seq: int
    objective: int
    namespace: str
    domain: str
    procedure: str
    outcome: Outcome
    standing: Standing
    occurred: float
    tes: float


class Words:
    """Strings by small numbers, both ways."""

    def __init__(self) -> None:
        self._code: dict[str, int] = {}
        self.words: list[str] = []

    def code(self, word: str) -> int:
        code = self._code.get(word)
        if code is None:
            code = len(self.words)
            self.words.append(word)
            self._code[word] = code
        return code

    def known(self, word: str) -> int:
        """The word's number; −1, which no row has, for a word never seen."""
        return self._code.get(word, -1)


class Catalog:
    """One row per experience, in the order of their numbers. Grows only; `rows()` is safe beside `add`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rows: NDArray[Any] = np.zeros(1024, dtype=_ROW)
        self._count = 0
        self.domains, self.procedures, self.namespaces = Words(), Words(), Words()

    def __len__(self) -> int:
        return self._count

    def rows(self) -> NDArray[Any]:
        """A view of what is there now; outcomes and standings in it may still change."""
        return self._rows[: self._count]

    def add(self, facts: Facts) -> None:
        """Add a row, whose number must be higher than all before."""
        with self._lock:
            if self._count and facts.seq <= int(self._rows["seq"][self._count - 1]):
                raise ValueError(f"row {facts.seq} comes after row {self._rows['seq'][self._count - 1]}")
            if self._count == self._rows.size:
                self._rows = np.concatenate([self._rows, np.zeros_like(self._rows)])
            self._rows[self._count] = (
                facts.seq,
                facts.objective,
                self.namespaces.code(facts.namespace),
                self.domains.code(facts.domain),
                self.procedures.code(facts.procedure),
                _CODE[facts.outcome],
                STANDINGS.index(facts.standing),
                facts.occurred,
                facts.tes,
            )
            self._count += 1

    def amend(self, seq: int, outcome: Outcome) -> None:
        with self._lock:
            if (place := self._place(seq)) is not None:
                self._rows["outcome"][place] = _CODE[outcome]

    def stand(self, seq: int, standing: Standing) -> None:
        with self._lock:
            if (place := self._place(seq)) is not None:
                self._rows["standing"][place] = STANDINGS.index(standing)

    def _place(self, seq: int) -> int | None:
        place = int(np.searchsorted(self._rows["seq"][: self._count], seq))
        return place if place < self._count and self._rows["seq"][place] == seq else None

    def select(
        self,
        rows: NDArray[Any],
        *,
        namespace: str,
        domain: str = "",
        procedure: str = "",
        since: float | None = None,
        among: Collection[int] | None = None,
    ) -> NDArray[np.bool_]:
        """Which of `rows` pass the filters; `among` are row numbers."""
        keep: NDArray[np.bool_] = rows["namespace"] == self.namespaces.known(namespace)
        if domain:
            keep &= rows["domain"] == self.domains.known(domain)
        if procedure:
            keep &= rows["procedure"] == self.procedures.known(procedure)
        if since is not None:
            keep &= rows["occurred"] > since
        if among is not None:
            keep &= np.isin(rows["seq"], np.fromiter(among, dtype=np.int64, count=len(among)))
        return keep
