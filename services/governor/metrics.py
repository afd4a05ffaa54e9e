"""The governor's Prometheus metrics, computed when scraped, so that an age is the age at that moment."""

import math
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from services.governor.capacity import Figure
from services.governor.governor import Governor
from services.governor.readings import PSI_FIGURES

GPU_STATES = ("absent", "ok", "error", "unsupported")


class GovernorCollector(Collector):
    """NaN = unknown, stale or absent: a graph shows a gap and never an old number."""

    def __init__(self, governor: Governor) -> None:
        self._governor = governor

    def collect(self) -> Iterator[Metric]:
        now = self._governor.capacity().capacity
        for name, what in (
            ("cpu", "Busy share of the CPUs this station may use."),
            ("ram", "Used share of the memory this station may use."),
            ("swap", "Used share of swap."),
            ("disk", "Used share of the file system that holds the station folder."),
        ):
            yield GaugeMetricFamily(f"calyx_{name}_percent", what, value=_value(now.figures[name]))
        psi = GaugeMetricFamily("calyx_psi_percent", "Pressure, 10 s average.", labels=["resource", "kind"])
        for name in PSI_FIGURES:
            psi.add_metric(name.split("_"), _value(now.figures[name]))
        yield psi
        use = GaugeMetricFamily(
            "calyx_gpu_utilization_percent", "Share of time a kernel ran on the GPU.", labels=["index"]
        )
        for gpu in now.gpus:
            use.add_metric([str(gpu.index)], _value(gpu.utilization_percent))
        yield use
        state = GaugeMetricFamily(
            "calyx_gpu_state", "1 for what NVML says, 0 for the rest; NaN unknown.", labels=["state"]
        )
        for name in GPU_STATES:
            state.add_metric([name], math.nan if now.gpu_state == "unknown" else float(now.gpu_state == name))
        yield state
        age = math.nan if now.age_seconds is None else now.age_seconds
        yield GaugeMetricFamily("calyx_capacity_age_seconds", "Age of the latest sample.", value=age)
        yield GaugeMetricFamily(
            "calyx_capacity_coverage", "Share of the last minute's expected samples.", value=now.coverage
        )
        leases = GaugeMetricFamily("calyx_leases", "Leases in force.", labels=["kind"])
        held = self._governor.leases.in_force()
        for kind in ("throttle", "sleep"):
            leases.add_metric([kind], float(sum(lease.kind == kind for lease in held)))
        yield leases
        intents = CounterMetricFamily("calyx_intents", "Intents raised since the start.", labels=["kind"])
        intents.add_metric(["cleanup"], float(self._governor.intents_raised))
        yield intents


def _value(figure: Figure) -> float:
    return figure.value if figure.state == "ok" and figure.value is not None else math.nan
