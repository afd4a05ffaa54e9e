"""The guardian's figures for Prometheus."""

import math
from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from services.guardian.guardian import Overview
from services.guardian.incidents import Action, Class

UP: dict[str, float] = {"up": 1.0, "sleeping": 1.0, "unknown": math.nan}
"""state → calyx_service_up; anything else is down."""


class Counted:
    """Counters and the recovery histogram; the guardian's Tally."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._incidents = Counter("calyx_incidents", "Incidents opened or raised.", ["class"], registry=registry)
        self._actions = Counter("calyx_recoveries", "Playbooks run.", ["action"], registry=registry)
        self._seconds = Histogram(
            "calyx_recovery_seconds",
            "From detection to the first good answer.",
            buckets=(1, 2, 3, 5, 8, 13, 20, 30, 60, 120, 300, 600),
            registry=registry,
        )
        self._slots = Counter("calyx_uptime_slots", "Closed 60 s slots.", ["state"], registry=registry)

    def opened(self, severity: Class) -> None:
        self._incidents.labels(severity.name.lower()).inc()

    def acted(self, action: Action) -> None:
        self._actions.labels(action).inc()

    def recovered(self, seconds: float) -> None:
        self._seconds.observe(seconds)

    def slot(self, state: str) -> None:
        self._slots.labels(state).inc()


class HealthCollector(Collector):
    """Computed when scraped, so that an age is the age of that moment. Unknown is NaN."""

    def __init__(self, overview: Callable[[], Overview], open_incidents: Callable[[], int]) -> None:
        self._overview, self._open = overview, open_incidents

    def describe(self) -> Iterable[Metric]:
        """Nothing: registering must not look at the guardian."""
        return []

    def collect(self) -> Iterable[Metric]:
        up = GaugeMetricFamily("calyx_service_up", "1 it answered its last probe, NaN unknown.", labels=["target"])
        age = GaugeMetricFamily("calyx_probe_age_seconds", "Age of the last probe.", labels=["target"])
        for row in self._overview().services:
            up.add_metric([row.service], UP.get(row.state, 0.0))
            age.add_metric([row.service], math.nan if row.age_seconds is None else row.age_seconds)
        yield up
        yield age
        yield GaugeMetricFamily("calyx_incidents_open", "Incidents still open.", value=self._open())
