"""What recall filters and sums by, in RAM: a few numbers per experience, so that evidence is never sampled."""

import threading
from collections.abc import Collection, Mapping
from enum import StrEnum
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from services.memory.experience import Outcome

OUTCOMES = tuple(Outcome)
OUTCOME_CODES = {outcome.value: code for code, outcome in enumerate(OUTCOMES)}
_ROW = np.dtype(
    [
        ("seq", np.int64),
        ("objective", np.int32),
        ("namespace", np.int32),
        ("domain", np.int32),
        ("procedure", np.int32),
        ("outcome", np.int8),
        ("standing", np.int8),
        ("rehearsal", np.bool_),
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


STANDING_CODES = {standing.value: code for code, standing in enumerate(STANDINGS)}


class Facts(NamedTuple):
    """One row to be.

    `objective` is its key, `occurred` in seconds since 1970 (UTC), `tes` NaN when unknown. A rehearsal says nothing
    about effects.
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
    rehearsal: bool = False


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


class Rows:
    """Rows as columns: a name gives a column, anything that numpy indexes with gives those rows, copied."""

    def __init__(self, columns: Mapping[str, NDArray[Any]], count: int) -> None:
        self._columns, self._count = columns, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, which: Any) -> NDArray[Any]:
        if isinstance(which, str):
            return self._columns[which][: self._count]
        if isinstance(which, np.ndarray) and which.dtype == np.bool_:
            which = np.flatnonzero(which)  # once, not once a column
        parts = {name: column[: self._count][which] for name, column in self._columns.items()}
        rows = np.empty(len(parts["seq"]), dtype=_ROW)
        for name, part in parts.items():
            rows[name] = part
        return rows


class Catalog:
    """One row per experience, in the order of their numbers: 43 bytes each, and no Python object for any.

    Grows only; `rows()` is safe beside `add`.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._columns = _columns(1024)
        self._count = 0
        self.domains, self.procedures, self.namespaces = Words(), Words(), Words()

    def __len__(self) -> int:
        return self._count

    @property
    def last(self) -> int:
        """The highest number; 0: none."""
        return int(self._columns["seq"][self._count - 1]) if self._count else 0

    def rows(self) -> Rows:
        """What is there now; outcomes and standings in it may still change."""
        count = self._count  # first: columns that are put in place after hold at least as many
        return Rows(self._columns, count)

    def add(self, facts: Facts) -> None:
        """Add a row, whose number must be higher than all before."""
        row = {
            "seq": facts.seq,
            "objective": facts.objective,
            "namespace": self.namespaces.code(facts.namespace),
            "domain": self.domains.code(facts.domain),
            "procedure": self.procedures.code(facts.procedure),
            "outcome": OUTCOME_CODES[facts.outcome.value],
            "standing": STANDING_CODES[facts.standing.value],
            "rehearsal": facts.rehearsal,
            "occurred": facts.occurred,
            "tes": facts.tes,
        }
        with self._lock:
            self._room(1, facts.seq)
            for name, value in row.items():
                self._columns[name][self._count] = value
            self._count += 1  # last: readers see a row once it is whole

    def extend(self, columns: Mapping[str, NDArray[Any]]) -> None:
        """Add rows, whose numbers must rise and be higher than all before."""
        seqs = columns["seq"]
        if not seqs.size:
            return
        with self._lock:
            if np.any(seqs[1:] <= seqs[:-1]):
                raise ValueError(f"rows from {seqs[0]} on do not follow each other in order")
            self._room(seqs.size, int(seqs[0]))
            count = self._count
            for name, column in columns.items():
                self._columns[name][count : count + seqs.size] = column
            self._count = count + seqs.size  # last: readers see a row once it is whole

    def _room(self, more: int, first: int) -> None:
        """Make room for so many rows, the first of which must be higher than all before; under the lock."""
        if first <= self.last:
            raise ValueError(f"row {first} does not follow row {self.last}")
        count, size = self._count, self._columns["seq"].size
        if count + more > size:
            grown = _columns(max(count + more, size * 3 // 2))
            for name, column in self._columns.items():
                grown[name][:count] = column[:count]
            self._columns = grown

    def without(self, seqs: Collection[int]) -> "Catalog":
        """A catalog of the other rows; this one stays as it is for whoever is reading it."""
        rows = self.rows()
        left = ~np.isin(rows["seq"], np.fromiter(seqs, dtype=np.int64, count=len(seqs)))
        fresh = Catalog()
        fresh.domains, fresh.procedures, fresh.namespaces = self.domains, self.procedures, self.namespaces
        fresh.extend({name: rows[name][left] for name in _ROW.names or ()})
        return fresh

    def amend(self, seq: int, outcome: Outcome) -> None:
        self._set(seq, "outcome", OUTCOME_CODES[outcome.value])

    def stand(self, seq: int, standing: Standing) -> None:
        self._set(seq, "standing", STANDING_CODES[standing.value])

    def _set(self, seq: int, name: str, code: int) -> None:
        with self._lock:
            seqs = self._columns["seq"][: self._count]
            place = int(np.searchsorted(seqs, seq))
            if place < seqs.size and seqs[place] == seq:
                self._columns[name][place] = code

    def select(
        self,
        rows: Rows,
        *,
        namespace: str,
        domain: str = "",
        procedure: str = "",
        since: float | None = None,
        until: float | None = None,
        outcome: Outcome | None = None,
        among: NDArray[np.int64] | None = None,
    ) -> NDArray[np.bool_]:
        """Which of `rows` pass the filters; `among` are row numbers."""
        keep: NDArray[np.bool_] = rows["namespace"] == self.namespaces.known(namespace)
        if domain:
            keep &= rows["domain"] == self.domains.known(domain)
        if procedure:
            keep &= rows["procedure"] == self.procedures.known(procedure)
        if since is not None:
            keep &= rows["occurred"] > since
        if until is not None:
            keep &= rows["occurred"] < until
        if outcome is not None:
            keep &= rows["outcome"] == OUTCOME_CODES[outcome.value]
        if among is not None:
            named = np.zeros(len(rows), dtype=np.bool_)
            places = np.searchsorted(rows["seq"], among)
            inside = places < len(rows)
            places = places[inside]
            named[places[rows["seq"][places] == among[inside]]] = True
            keep &= named
        return keep


def having(rows: Rows, objectives: Collection[int]) -> NDArray[np.bool_]:
    """Which of `rows` have one of these objectives: a table by key, since sorting a million rows takes too long."""
    column = rows["objective"]
    marked = np.zeros(int(column.max(initial=0)) + 1, dtype=np.bool_)
    wanted = np.fromiter(objectives, dtype=np.int64, count=len(objectives))
    marked[wanted[(wanted >= 0) & (wanted < marked.size)]] = True
    found: NDArray[np.bool_] = marked[column]
    return found


def objectives_of(rows: Rows, keep: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Keys of the objectives of these rows, each once, rising."""
    column = rows["objective"]
    marked = np.zeros(int(column.max(initial=0)) + 1, dtype=np.bool_)
    marked[column[keep]] = True
    return np.flatnonzero(marked)


def _columns(size: int) -> dict[str, NDArray[Any]]:
    return {name: np.zeros(size, dtype=_ROW[name]) for name in _ROW.names or ()}
