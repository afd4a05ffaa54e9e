"""What Prometheus sees of the memory. Unknown is NaN."""

from collections.abc import Iterable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily

from chassis.clock import Clock
from chassis.errors import CalyxError
from services.memory.memory import Memory

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.045, 0.06, 0.12, 0.25, 0.5, 1.0, 2.5)


class RecallMeter:
    """Counts recalls and how long they take."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._recalls = Counter(
            "calyx_memory_recalls", "Recalls since start, by whether they found something.", ["hit"], registry=registry
        )
        self._seconds = Histogram(
            "calyx_memory_recall_seconds", "Time of a recall, embedding included.", buckets=_SECONDS, registry=registry
        )

    def recalled(self, hit: bool, seconds: float) -> None:
        self._recalls.labels("yes" if hit else "no").inc()
        self._seconds.observe(seconds)


class MemoryCollector:
    """Figures read when Prometheus asks."""

    def __init__(self, memory: Memory, clock: Clock) -> None:
        self._memory, self._clock = memory, clock

    def describe(self) -> Iterable[Any]:
        return ()

    def collect(self) -> Iterable[GaugeMetricFamily]:
        unknown = float("nan")
        try:
            stats = self._memory.stats()
            age = (self._clock.now() - stats.verified_at).total_seconds() if stats.verified_at else unknown
            figures = (float(stats.experiences), float(stats.vectors), age)
        except CalyxError:  # a store that does not answer has no figures; health says why
            figures = (unknown, unknown, unknown)
        names = (
            ("calyx_memory_experiences", "Durable experiences."),
            ("calyx_memory_vectors", "Experiences that recall can find."),
            ("calyx_memory_verify_age_seconds", "Age of the last verify; NaN: never."),
        )
        for (name, text), value in zip(names, figures, strict=True):
            yield GaugeMetricFamily(name, text, value=value)
