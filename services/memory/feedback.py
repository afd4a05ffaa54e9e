"""What people and the CBO said of recalled experiences, and the floor that follows from it."""

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from services.memory.evidence import lower_bound
from services.memory.recall import FLOOR

LABELS_NEEDED = 100
PRECISION = 0.80
CONFIDENCE = 0.95
HIGHEST = 0.95
STEP = 0.01
FLOORS = [round(FLOOR + step * STEP, 2) for step in range(round((HIGHEST - FLOOR) / STEP) + 1)]
SAME_WORDS = 0.9999
"""From this cosine on the words were the same: they pass any floor, so they say nothing of where it should lie."""


class Verdict(StrEnum):
    """What was said. `withdrawn` takes back what the same caller said for the same task."""

    USEFUL = "useful"
    USELESS = "useless"
    HARMFUL = "harmful"
    WITHDRAWN = "withdrawn"


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """A judgement that counts. `event` is the experience's number, `cosine` None where nobody told it."""

    event: int
    verdict: Verdict
    query: str
    cosine: float | None
    task_id: str
    caller: str
    recorded_at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Floor:
    """Where recall's floor lies, and why there."""

    value: float
    reason: str


def learned_floor(labels: Iterable[Label]) -> Floor:
    """`Tally.floor` of these labels, told in their order."""
    return Tally(labels).floor()


class Tally:
    """The labels that count, kept up one by one: another label, or the floor, takes no longer when there are many."""

    def __init__(self, labels: Iterable[Label] = ()) -> None:
        self.useful = 0
        self._labels: dict[_Said, Label] = {}
        self._pairs: dict[tuple[str, int], dict[_Said, Label]] = {}
        self._all, self._good = [0] * len(FLOORS), [0] * len(FLOORS)  # pairs above this floor and not above the next
        for each in labels:
            self.put(each)

    def __len__(self) -> int:
        return len(self._labels)

    def put(self, label: Label) -> None:
        """In the place of what the same caller said of it for the same task, or without one for the same question."""
        said = (label.event, label.caller, label.task_id, "" if label.task_id else label.query)
        old = self._labels.pop(said, None)
        if old is not None:
            self.useful -= old.verdict is Verdict.USEFUL
            self._place(said, old, stays=False)
        if label.verdict is not Verdict.WITHDRAWN:
            self._labels[said] = label
            self.useful += label.verdict is Verdict.USEFUL
            self._place(said, label, stays=True)

    def _place(self, said: "_Said", label: Label, *, stays: bool) -> None:
        """Of a pair of question and experience the newest label counts; harm is left to eviction, since what led
        somewhere was alike enough to be followed."""
        if label.cosine is None or not FLOOR < label.cosine < SAME_WORDS or label.verdict is Verdict.HARMFUL:
            return
        told = self._pairs.setdefault((label.query, label.event), {})
        self._count(told, -1)
        if stays:
            told[said] = label
        else:
            del told[said]
        self._count(told, 1)
        if not told:
            del self._pairs[label.query, label.event]

    def _count(self, told: "dict[_Said, Label]", by: int) -> None:
        if told:
            newest = told[next(reversed(told))]
            assert newest.cosine is not None  # `_place` lets no other in
            step = bisect_left(FLOORS, newest.cosine) - 1
            self._all[step] += by
            self._good[step] += by * (newest.verdict is Verdict.USEFUL)

    def floor(self) -> Floor:
        """The lowest floor from 0.80 up above which at least 100 labels show a precision of 0.80 with 95 % confidence.

        The bound is Clopper and Pearson's, one-sided, for each floor by itself. Where none gets there, the floor with
        the best bound; what holds at 0.80 stays at 0.80.
        """
        known = sum(self._all)
        if known < LABELS_NEEDED:
            return Floor(value=FLOOR, reason=f"{known} labels say something of the floor; {LABELS_NEEDED} are needed")
        best, bound_there = 0, -1.0
        for step in range(len(FLOORS)):
            above, good = sum(self._all[step:]), sum(self._good[step:])
            if above < LABELS_NEEDED:
                break
            bound = lower_bound(good, above, CONFIDENCE)
            if bound > bound_there:
                best, bound_there = step, bound
            if bound >= PRECISION:
                break
        reason = (
            f"{sum(self._good[best:])} of {sum(self._all[best:])} labels above {FLOORS[best]:.2f} say useful: "
            f"precision at least {bound_there:.3f} with {CONFIDENCE:.0%} confidence"
        )
        return Floor(value=FLOORS[best], reason=reason)


_Said = tuple[int, str, str, str]
"""Of which experience, by whom, for which task, or if for none, for which question."""
