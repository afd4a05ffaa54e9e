"""`python -m services.governor`: reads the settings and wires the governor on this machine."""

import os
import sys
import time
from importlib.metadata import version
from pathlib import Path

import prometheus_client
import psutil
import structlog
from calyx.governor.v1 import governor_pb2_grpc
from calyx.probe.v1 import probe_pb2_grpc

from chassis.agent import build_agent, declared_roots
from chassis.audit import Audit
from chassis.clock import SystemClock
from chassis.consent import ConsentFile
from chassis.domain_book import DomainBook
from chassis.domains import LiveDomains, load_domains
from chassis.errors import CalyxError
from chassis.exchange.files import FilesExchange
from chassis.exchange.folder import ack_path
from chassis.exchange.grants import Verifier
from chassis.executor import ThreadExecutor
from chassis.identity import load_identity
from chassis.ids import RandomIds
from chassis.killswitch import KillSwitch
from chassis.layout import DEPLOY
from chassis.periodic import Periodic
from chassis.probing import run_checks
from chassis.rpc import probe_servicer
from chassis.rpc.server import Served, run_service
from chassis.settings import StationSettings, load
from chassis.watchbook import WatchBook
from services.governor import servicer
from services.governor.agent import AGENT, governor_works, sleep_leases
from services.governor.cgroup import CgroupMeter
from services.governor.governor import Governor
from services.governor.gpu import GpuMeter
from services.governor.holders import KernelHolders
from services.governor.host import HostMeter
from services.governor.leases import Leases
from services.governor.metrics import GovernorCollector
from services.governor.psi import PsiMeter
from services.governor.readings import MachineMeter
from services.governor.settings import GovernorSettings

log = structlog.get_logger(__name__)


def main() -> None:
    station = load(StationSettings, "governor")
    layout = station.layout
    settings = load(GovernorSettings, "governor", layout)
    clock, executor = SystemClock(), ThreadExecutor("governor", threads=3)
    host = HostMeter(layout.root)  # early: its first CPU figure covers the time from here to the first sample
    identity = load_identity(layout)
    folder = layout.state("governor")
    folder.mkdir(parents=True, exist_ok=True)
    audit = Audit(layout.audit("governor"), clock, "governor")
    leases = Leases(folder / "leases.json", clock, RandomIds(), audit)
    everything = settings.scope == "host"
    governor = Governor(
        meter=MachineMeter(
            host,
            CgroupMeter(
                monotonic=clock.monotonic,
                # a limit counts only below the machine's own size: with none, no limit ever does
                host_ram_bytes=0.0 if everything else float(psutil.virtual_memory().total),
                host_cores=0.0 if everything else float(os.cpu_count() or 1),
            ),
            PsiMeter(),
            GpuMeter(),
        ),
        clock=clock,
        leases=leases,
        audit=audit,
        folder=folder,
        station_id=identity.station_id,
        terms=settings.terms,
    )
    prometheus_client.REGISTRY.register(GovernorCollector(governor))

    consents = ConsentFile(layout)
    kill_switch = KillSwitch(layout.kill_switch)
    verifier = Verifier(layout.keys / "grant.pub")
    exchange = FilesExchange(layout.svf, clock, verifier.valid, kill_switch)
    domains = load_domains(DEPLOY / "domains")
    book = DomainBook(layout, domains, clock)
    agent = build_agent(
        AGENT,
        governor_works(
            layout=layout,
            roots=declared_roots(layout, domains.values(), AGENT),
            exchange=exchange,
            holders=KernelHolders(Path("/proc")),
            clock=clock,
            cpu_seconds=time.thread_time,
        ),
        layout=layout,
        exchange=exchange,
        verifier=verifier.valid,
        kill_switch=kill_switch,
        domains=LiveDomains(DEPLOY / "domains"),
        clock=clock,
        audit=audit,
        leases=sleep_leases(leases),
        station_id=identity.station_id,
    )

    def looked_at() -> list[Path]:
        """Where a prober looks: the station, what a person allowed, what admitted manifests declare."""
        return [layout.root, *consents.folders(), *book.folders()]

    run_service(
        service="governor",
        version=version("station-calyx"),
        station=station,
        settings=settings,
        served=[
            Served(
                servicer.FULL_NAME,
                governor_pb2_grpc.add_GovernorServiceServicer_to_server,
                servicer.GovernorServicer(governor, executor),
                servicer.ALLOW,
            ),
            Served(
                probe_servicer.FULL_NAME,
                probe_pb2_grpc.add_ProbeServiceServicer_to_server,
                probe_servicer.ProbeServicer(
                    "governor",
                    executor,
                    clock,
                    lambda checks: run_checks(checks, roots=looked_at()),
                    WatchBook(folder / "watch", looked_at, lambda task: ack_path(layout.svf, task)),
                ),
                probe_servicer.ALLOW,
            ),
        ],
        checks={"sampler": governor.check},
        periodics=[
            Periodic(name="sampler", every_seconds=settings.sample_seconds, step=governor.sample),
            Periodic(name="agent", every_seconds=1.0, step=agent.step, rest=agent.rest),
        ],
        clock=clock,
        executor=executor,
    )


if __name__ == "__main__":
    try:
        main()
    except CalyxError as error:
        print(f"governor: can't start: {error}", file=sys.stderr)  # noqa: T201 - the one line a person sees
        raise SystemExit(1) from error
