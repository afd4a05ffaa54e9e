"""`python -m services.analytics`: reads the settings and wires the Cheetah Agent."""

import sys
import time
from importlib.metadata import version

import prometheus_client
from calyx.analytics.v1 import analytics_pb2_grpc

from chassis.agent import LeaseFile, build_agent
from chassis.audit import Audit
from chassis.clock import SystemClock
from chassis.domains import LiveDomains
from chassis.errors import CalyxError
from chassis.exchange.files import FilesExchange
from chassis.exchange.grants import Verifier
from chassis.executor import ThreadExecutor
from chassis.identity import load_identity
from chassis.killswitch import KillSwitch
from chassis.layout import DEPLOY
from chassis.periodic import Periodic
from chassis.rpc.client import connect
from chassis.rpc.server import Served, run_service
from chassis.settings import StationSettings, load
from services.analytics.adapters import MemoryClient, StatisticsProcess
from services.analytics.cheetah import Cheetah
from services.analytics.metrics import AnalyticsCollector
from services.analytics.metrics_summary import MetricsSummary, station_sources
from services.analytics.servicer import ALLOW, AnalyticsServicer
from services.analytics.settings import AnalyticsSettings


def main() -> None:
    station = load(StationSettings, "analytics")
    layout = station.layout
    settings = load(AnalyticsSettings, "analytics", layout)
    identity = load_identity(layout)
    clock, executor = SystemClock(), ThreadExecutor("analytics", threads=2)
    layout.trends.mkdir(parents=True, exist_ok=True)
    cheetah = Cheetah(
        pulses=layout.pulses,
        folder=layout.trends,
        clock=clock,
        statistics=StatisticsProcess(),
        memory=MemoryClient(connect("memory", station, "analytics"), identity.station_id),
    )
    prometheus_client.REGISTRY.register(AnalyticsCollector(cheetah, clock))
    kill_switch = KillSwitch(layout.kill_switch)
    verifier = Verifier(layout.keys / "grant.pub")
    agent = build_agent(
        "analytics",
        [MetricsSummary(station_sources(layout), time.thread_time)],
        layout=layout,
        exchange=FilesExchange(layout.svf, clock, verifier.valid, kill_switch),
        verifier=verifier.valid,
        kill_switch=kill_switch,
        domains=LiveDomains(DEPLOY / "domains"),
        clock=clock,
        audit=Audit(layout.audit("analytics"), clock, "analytics"),
        leases=LeaseFile(layout, clock),
        station_id=identity.station_id,
    )

    def analyse_when_due() -> None:
        cheetah.refresh(settings.min_pulses, settings.analyze_every_seconds, settings.last_pulses)

    run_service(
        service="analytics",
        version=version("station-calyx"),
        station=station,
        settings=settings,
        served=[
            Served(
                "calyx.analytics.v1.AnalyticsService",
                analytics_pb2_grpc.add_AnalyticsServiceServicer_to_server,
                AnalyticsServicer(cheetah, layout.root, clock, executor),
                ALLOW,
            )
        ],
        checks={"trends folder": lambda: layout.trends.stat() and None},
        periodics=[
            Periodic(name="agent", every_seconds=1.0, step=agent.step, rest=agent.rest),
            Periodic(name="analysis", every_seconds=30.0, step=analyse_when_due),
        ],
        clock=clock,
        executor=executor,
    )


if __name__ == "__main__":
    try:
        main()
    except CalyxError as error:
        print(f"analytics: can't start: {error}", file=sys.stderr)  # noqa: T201 - the one line a person sees
        raise SystemExit(1) from error
