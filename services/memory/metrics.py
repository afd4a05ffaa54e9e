"""What Prometheus sees of the memory. Unknown is NaN."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily

from chassis.clock import Clock
from chassis.errors import CalyxError
from services.memory.memory import Memory

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.045, 0.06, 0.12, 0.25, 0.5, 1.0, 2.5)

_GAUGES = (
    ("calyx_memory_experiences", "Durable experiences."),
    ("calyx_memory_vectors", "Experiences that recall can find."),
    ("calyx_memory_verify_age_seconds", "Age of the last verify; NaN: never."),
    ("calyx_memory_feedback_labels", "Judgements that count."),
    ("calyx_memory_feedback_precision", "Share of judgements that say useful; NaN: none yet."),
    ("calyx_memory_floor", "The cosine that a match must be above: 0.80, or what feedback raised it to."),
    ("calyx_memory_evicted", "Experiences that recall leaves out because they did harm."),
    ("calyx_memory_rolled_up", "Experiences that live in roll-ups."),
    ("calyx_memory_compaction_age_seconds", "Age of the last compaction; NaN: never."),
    ("calyx_memory_backup_age_seconds", "Age of the last backup; NaN: never."),
)


class RecallMeter:
    """Counts recalls and how long they take."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._recalls = Counter(
            "calyx_memory_recalls", "Recalls since start, by whether they found something.", ["hit"], registry=registry
        )
        self._abstained = Counter(
            "calyx_memory_abstentions",
            "Recalls that compared experiences and returned none, since nothing passed the floor.",
            registry=registry,
        )
        self._seconds = Histogram(
            "calyx_memory_recall_seconds", "Time of a recall, embedding included.", buckets=_SECONDS, registry=registry
        )

    def recalled(self, hit: bool, seconds: float, searched: int) -> None:
        self._recalls.labels("yes" if hit else "no").inc()
        if searched and not hit:
            self._abstained.inc()
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
        except CalyxError:  # a store that does not answer has no figures; health says why
            figures = [unknown] * len(_GAUGES)
        else:
            trust, now = stats.trust, self._clock.now()
            figures = [
                float(stats.experiences),
                float(stats.vectors),
                _age(now, stats.verified_at),
                float(trust.labels),
                unknown if trust.precision is None else trust.precision,
                trust.floor.value,
                float(trust.evicted),
                float(stats.rolled_up),
                _age(now, stats.compacted_at),
                _age(now, stats.backed_up_at),
            ]
        for (name, text), value in zip(_GAUGES, figures, strict=True):
            yield GaugeMetricFamily(name, text, value=value)


def _age(now: datetime, then: datetime | None) -> float:
    return float("nan") if then is None else (now - then).total_seconds()
