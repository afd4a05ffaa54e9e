"""What analytics tells Prometheus: read when scraped, NaN where it is not known."""

from collections.abc import Iterator
from math import nan

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from chassis.clock import Clock
from services.analytics.cheetah import Cheetah


class AnalyticsCollector(Collector):
    """The latest analysis as gauges."""

    def __init__(self, cheetah: Cheetah, clock: Clock) -> None:
        self._cheetah, self._clock = cheetah, clock

    def collect(self) -> Iterator[Metric]:
        latest = self._cheetah.latest()
        slope = GaugeMetricFamily(
            "calyx_trend_slope_per_day", "Change a day of a metric's trend line.", labels=["metric"]
        )
        for trend in latest.trends if latest else ():
            value = trend["slope_per_day"]
            slope.add_metric([trend["metric"]], nan if value is None else value)
        yield slope
        age = (self._clock.now() - latest.analyzed_at).total_seconds() if latest else nan
        yield GaugeMetricFamily("calyx_analysis_age_seconds", "Age of the latest analysis.", value=age)
        pulses = float(latest.pulses) if latest else nan
        yield GaugeMetricFamily("calyx_analysis_pulses", "Pulses that the latest analysis rests on.", value=pulses)
