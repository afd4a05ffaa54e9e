"""What Prometheus sees of the CBO. Gauges are read at the scrape; what is unknown is NaN."""

import math
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from chassis.canonical import Json
from chassis.clock import parse_iso
from services.cbo.overseer import Overseer
from services.cbo.task_metrics import TaskEnds, standing


class PulseMetrics:
    """Counters that move with each pulse; give `ended` to `Overseer.watch`."""

    def __init__(self, overseer: Overseer, registry: CollectorRegistry) -> None:
        self._overseer = overseer
        self._pulses = Counter("calyx_pulses", "Bridge Pulses by status.", ["status"], registry=registry)
        self._seconds = Histogram("calyx_pulse_seconds", "How long a pulse takes.", registry=registry)
        self._ends = TaskEnds(registry)
        registry.register(StandingCollector(overseer))

    def ended(self, summary: Json) -> None:
        self._pulses.labels(summary["status"]).inc()
        self._seconds.observe(summary["duration_seconds"])
        last = self._overseer.last
        if last is not None and last.id == summary["id"]:
            for each in last.critique.judged:
                if not each.waiting:
                    self._ends.ended(each.task)


class StandingCollector(Collector):
    """How things stand now."""

    def __init__(self, overseer: Overseer) -> None:
        self._overseer = overseer

    def describe(self) -> Iterable[Metric]:
        """Nothing to read at registration."""
        return ()

    def collect(self) -> Iterable[Metric]:
        overseer, bridge = self._overseer, self._overseer.bridge
        now = bridge.clock.now()
        last = overseer.pulses(1)
        age = GaugeMetricFamily("calyx_pulse_age_seconds", "Since the last pulse began; NaN before the first.")
        age.add_metric([], (now - parse_iso(last[0]["started_at"])).total_seconds() if last else math.nan)
        yield age
        switch = GaugeMetricFamily("calyx_kill_switch", "1 while the kill switch is engaged.")
        switch.add_metric([], float(bridge.kill_switch.engaged()))
        yield switch
        level = GaugeMetricFamily("calyx_level", "1 OBSERVE to 4 EXECUTE.", labels=["domain"])
        tes = GaugeMetricFamily(
            "calyx_tes",
            "Mean TES of the last pulse with a known one, however long ago; NaN before the first.",
            labels=["domain"],
        )
        for rung in bridge.ladder.rungs():
            level.add_metric([rung.domain], float(rung.level))
            known = rung.standing.tes_last
            tes.add_metric([rung.domain], math.nan if known is None else known)
        yield level
        yield tes
        tasks = GaugeMetricFamily("calyx_tasks", "Tasks by state.", labels=["state"])
        for state, count in bridge.store.counts().items():
            tasks.add_metric([state], count)
        yield tasks
        depth = GaugeMetricFamily("calyx_exchange_depth", "Tasks in the exchange by state.", labels=["state"])
        for where, number in bridge.exchange.depth().items():
            depth.add_metric([where], number)
        yield depth
        yield from standing(bridge)
        sure = GaugeMetricFamily(
            "calyx_confidence", "Expected chance of success (posterior mean).", labels=["domain", "procedure"]
        )
        for (domain, procedure), posterior in bridge.beliefs.all(now).items():
            sure.add_metric([domain, procedure], posterior.mean)
        yield sure
        yield from self._kpis()

    def _kpis(self) -> Iterable[Metric]:
        value = GaugeMetricFamily("calyx_kpi", "KPI over 24 h; NaN while unknown.", labels=["name"])
        coverage = GaugeMetricFamily("calyx_kpi_coverage", "Share of what the KPI should rest on.", labels=["name"])
        overrides = GaugeMetricFamily("calyx_overrides_24h", "Overrides in the last 24 h, from the audit log.")
        for kpi in self._overseer.kpis():
            value.add_metric([kpi.name], math.nan if kpi.value is None else kpi.value)
            coverage.add_metric([kpi.name], kpi.coverage)
            if kpi.name == "overrides":
                overrides.add_metric([], math.nan if kpi.value is None else kpi.value)
        yield value
        yield coverage
        yield overrides
