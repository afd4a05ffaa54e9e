"""What recall filters and sums by, in RAM: a few numbers per experience, so that evidence is never sampled."""

import threading
from collections.abc import Collection
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from services.memory.experience import Outcome

OUTCOMES = tuple(Outcome)
_CODE = {outcome: code for code, outcome in enumerate(OUTCOMES)}
_ROW = np.dtype(
    [
        ("seq", np.int64),
        ("entry", np.int32),
        ("namespace", np.int32),
        ("domain", np.int32),
        ("procedure", np.int32),
        ("outcome", np.int8),
        ("occurred", np.float64),
        ("tes", np.float64),
    ]
)


class Facts(NamedTuple):
    """One row to be; a tuple, since a start makes one per row of the store.

    `occurred` in seconds since 1970 (UTC), `tes` NaN when unknown.
    """

    seq: int
    objective: str
    namespace: str
    domain: str
    procedure: str
    outcome: Outcome
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
    """One row per experience whose vector is in the index. Grows only; `rows()` is safe beside `add`.

    An entry is a distinct objective; its key is the number of the first row with it, and names it in the index.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rows: NDArray[Any] = np.zeros(1024, dtype=_ROW)
        self._count = 0
        self._place: dict[int, int] = {}
        self.objectives, self.domains, self.procedures, self.namespaces = Words(), Words(), Words(), Words()
        self._entry_keys: NDArray[np.int64] = np.zeros(1024, dtype=np.int64)

    def __len__(self) -> int:
        return self._count

    def __contains__(self, seq: int) -> bool:
        return seq in self._place

    def rows(self) -> NDArray[Any]:
        """A view of what is there now; outcomes in it may still be amended."""
        return self._rows[: self._count]

    def entry_keys(self) -> NDArray[np.int64]:
        """Index key by entry."""
        return self._entry_keys[: len(self.objectives.words)]

    def key_of(self, objective: str) -> int | None:
        """The index key that serves this objective; None if it is new."""
        entry = self.objectives.known(objective)
        return None if entry < 0 else int(self._entry_keys[entry])

    def entry_of(self, key: int) -> int | None:
        """The entry that this index key names; None if it names none."""
        place = self._place.get(key)
        return None if place is None else int(self._rows["entry"][place])

    def add(self, facts: Facts) -> None:
        """Add a row; one that is there already stays as it is."""
        with self._lock:
            if facts.seq in self._place:
                return
            fresh = self.objectives.known(facts.objective) < 0
            if fresh and len(self.objectives.words) == self._entry_keys.size:
                self._entry_keys = np.concatenate([self._entry_keys, np.zeros_like(self._entry_keys)])
            if fresh:
                self._entry_keys[len(self.objectives.words)] = facts.seq
            if self._count == self._rows.size:
                self._rows = np.concatenate([self._rows, np.zeros_like(self._rows)])
            self._rows[self._count] = (
                facts.seq,
                self.objectives.code(facts.objective),
                self.namespaces.code(facts.namespace),
                self.domains.code(facts.domain),
                self.procedures.code(facts.procedure),
                _CODE[facts.outcome],
                facts.occurred,
                facts.tes,
            )
            self._place[facts.seq] = self._count
            self._count += 1

    def amend(self, seq: int, outcome: Outcome) -> None:
        with self._lock:
            place = self._place.get(seq)
            if place is not None:
                self._rows["outcome"][place] = _CODE[outcome]

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
