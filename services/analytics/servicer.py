"""The analytics contract: decode, ask the Cheetah Agent, encode."""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from calyx.analytics.v1 import analytics_pb2 as pb
from calyx.analytics.v1.analytics_pb2_grpc import AnalyticsServiceServicer

from chassis.canonical import Json
from chassis.clock import Clock
from chassis.executor import Executor
from services.analytics.cheetah import Cheetah, known_series

ALLOW: Mapping[str, frozenset[str]] = {
    "Analyze": frozenset({"cbo", "dashboard", "operator"}),
    "GetTrends": frozenset({"cbo", "dashboard", "operator", "guardian"}),
    "ListCharts": frozenset({"cbo", "dashboard", "operator"}),
}


class AnalyticsServicer(AnalyticsServiceServicer):
    """calyx.analytics.v1.AnalyticsService. `root` is the station folder that paths are relative to."""

    def __init__(self, cheetah: Cheetah, root: Path, clock: Clock, executor: Executor) -> None:
        self._cheetah, self._root, self._clock, self._executor = cheetah, root, clock, executor

    async def Analyze(self, request: pb.AnalyzeRequest, context: Any) -> pb.AnalyzeResponse:
        return await self._executor.run(self._analyze, request)

    async def GetTrends(self, request: pb.GetTrendsRequest, context: Any) -> pb.GetTrendsResponse:
        return await self._executor.run(self._trends, request)

    async def ListCharts(self, request: pb.ListChartsRequest, context: Any) -> pb.ListChartsResponse:
        return await self._executor.run(lambda: pb.ListChartsResponse(charts=self._charts()))

    def _analyze(self, request: pb.AnalyzeRequest) -> pb.AnalyzeResponse:
        done = self._cheetah.analyze(request.last or 240, request.import_dir, request.charts)
        return pb.AnalyzeResponse(
            trends=[_trend(each) for each in done.trends],
            charts=[chart for chart in self._charts() if chart.name in done.charts] if request.charts else [],
            pulses=done.pulses,
            rejected=len(done.rejected),
            reasons=done.rejected[:20],
            summary=done.summary,
        )

    def _trends(self, request: pb.GetTrendsRequest) -> pb.GetTrendsResponse:
        latest = self._cheetah.latest()
        if latest is None:
            return pb.GetTrendsResponse(summary="not analysed yet")
        response = pb.GetTrendsResponse(
            trends=[_trend(each, series=not request.without_series) for each in latest.trends],
            age_seconds=(self._clock.now() - latest.analyzed_at).total_seconds(),
            summary=latest.summary,
            pulses=latest.pulses,
        )
        _stamp(response.analyzed_at, latest.analyzed_at)
        return response

    def _charts(self) -> list[pb.Chart]:
        charts = []
        for path, written, size in self._cheetah.charts():
            chart = pb.Chart(name=path.name, path=str(path.relative_to(self._root)), metric=path.stem, size_bytes=size)
            _stamp(chart.written_at, written)
            charts.append(chart)
        return charts


def _stamp(target: Any, moment: datetime) -> None:
    target.FromDatetime(moment)


def _trend(trend: Json, *, series: bool = True) -> pb.Trend:
    wire = pb.Trend(
        metric=trend["metric"],
        unit=trend["unit"],
        points=trend["points"],
        unknown=trend["unknown"],
        verdict=trend["verdict"],
        slope_per_day=trend["slope_per_day"],
        slope_low=trend["slope_low"],
        slope_high=trend["slope_high"],
        p_value=trend["p_value"],
        latest=trend["latest"],
    )
    for at, value in known_series(trend) if series else ():
        _stamp(wire.series.add(value=value).at, at)
    return wire
