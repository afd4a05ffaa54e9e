"""Samples in order, and what a stretch of them says: mean, max and the share that was really measured. Pure."""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile

from services.governor.readings import Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Of one figure over several samples. `mean` and `max` are None when nothing was measured.

    `coverage` is the share, 0 to 1, of the expected samples that have a value.
    """

    mean: float | None
    max: float | None
    coverage: float
    measured: int


def summarise(samples: Iterable[Sample], figure: str, expected: int) -> Summary:
    """Mean and max of the known values; unknown ones lower the coverage and nothing else."""
    values = [v for sample in samples if (v := sample.figure(figure).value) is not None]
    return Summary(
        mean=sum(values) / len(values) if values else None,
        max=max(values) if values else None,
        coverage=min(1.0, len(values) / max(1, expected)),
        measured=len(values),
    )


class Ring:
    """The last samples, oldest first."""

    def __init__(self, size: int) -> None:
        self._samples: deque[Sample] = deque(maxlen=size)

    def add(self, sample: Sample) -> None:
        self._samples.append(sample)

    @property
    def latest(self) -> Sample | None:
        return self._samples[-1] if self._samples else None

    def since(self, monotonic: float) -> Sequence[Sample]:
        """Samples taken after this moment."""
        return self._tail(lambda sample: sample.monotonic > monotonic)

    def after(self, sequence: int) -> Sequence[Sample]:
        """Samples with a higher sequence number."""
        return self._tail(lambda sample: sample.sequence > sequence)

    def _tail(self, wanted: Callable[[Sample], bool]) -> Sequence[Sample]:
        return list(takewhile(wanted, reversed(self._samples)))[::-1]
