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

from chassis.audit import Audit
from chassis.clock import SystemClock
from chassis.domains import load_domains
from chassis.errors import CalyxError
from chassis.exchange.files import FilesExchange
from chassis.exchange.grants import Verifier
from chassis.executor import ThreadExecutor
from chassis.identity import load_identity
from chassis.ids import RandomIds
from chassis.journal import Journal, consent_within
from chassis.killswitch import KillSwitch
from chassis.layout import DEPLOY
from chassis.periodic import Periodic
from chassis.probing import run_checks
from chassis.rpc import probe_servicer
from chassis.rpc.server import Served, run_service
from chassis.settings import StationSettings, load
from chassis.worker import Worker
from services.governor import servicer
from services.governor.agent import AGENT, declared_roots, governor_works, sleep_leases
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

    kill_switch = KillSwitch(layout.kill_switch)
    verifier = Verifier(layout.keys / "grant.pub")
    exchange = FilesExchange(layout.svf, clock, verifier.valid, kill_switch)
    roots = [*declared_roots(layout, load_domains(DEPLOY / "domains").values()), layout.work(AGENT)]
    for place in (layout.logs, layout.work(AGENT)):
        place.mkdir(parents=True, exist_ok=True)
    worker = Worker(
        AGENT,
        exchange,
        governor_works(
            layout=layout,
            roots=roots,
            exchange=exchange,
            holders=KernelHolders(Path("/proc")),
            clock=clock,
            cpu_seconds=time.thread_time,
        ),
        Journal(layout.journal, clock, consent_within(roots)),
        verifier.valid,
        kill_switch,
        clock,
        layout.work(AGENT),
        audit,
        sleep_leases(leases),
        identity.station_id,
    )

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
                    "governor", executor, clock, lambda checks: run_checks(checks, roots=[layout.root])
                ),
                probe_servicer.ALLOW,
            ),
        ],
        checks={"sampler": governor.check},
        periodics=[
            Periodic(name="sampler", every_seconds=settings.sample_seconds, step=governor.sample),
            Periodic(name="worker", every_seconds=1.0, step=_Hands(worker).step),
        ],
        clock=clock,
        executor=executor,
    )


class _Hands:
    """The worker with its drills done first, on its own thread, so that a slow disk delays no answer."""

    def __init__(self, worker: Worker) -> None:
        self._worker, self._drilled = worker, False

    def step(self) -> None:
        if not self._drilled:
            for procedure, fault in self._worker.drill().items():
                if fault is not None:
                    log.error("drill failed: this procedure will not act", procedure=procedure, why=fault)
            self._drilled = True
        self._worker.step()


if __name__ == "__main__":
    try:
        main()
    except CalyxError as error:
        print(f"governor: can't start: {error}", file=sys.stderr)  # noqa: T201 - the one line a person sees
        raise SystemExit(1) from error
