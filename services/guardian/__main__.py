"""`python -m services.guardian`: reads the settings and wires the guardian on this machine."""

import os
import sys
import time
from collections.abc import Callable
from importlib.metadata import version as version_of
from pathlib import Path

import prometheus_client
from calyx.guardian.v1 import guardian_pb2_grpc
from calyx.memory.v1 import memory_pb2, memory_pb2_grpc
from calyx.probe.v1 import probe_pb2_grpc

from chassis.agent import LeaseFile, build_agent
from chassis.audit import Audit
from chassis.clock import SystemClock, iso
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
from chassis.layout import DEPLOY, Layout
from chassis.periodic import Periodic
from chassis.probing import run_checks
from chassis.rpc import probe_servicer
from chassis.rpc.client import connect
from chassis.rpc.server import Served, run_service
from chassis.runtime.broker import BrokerRuntime
from chassis.runtime.port import Runtime
from chassis.runtime.supervisord import SupervisordRuntime
from chassis.settings import StationSettings, load
from chassis.watchbook import WatchBook
from services.guardian import servicer
from services.guardian.diagnostics import Diagnostics
from services.guardian.drift import ConfigDrift, Generations
from services.guardian.evidence import HostMachine
from services.guardian.grpc_health import GrpcHealthProbe
from services.guardian.guardian import SELF, TARGETS, Guardian, Ports
from services.guardian.metrics import Counted, HealthCollector
from services.guardian.playbooks import load_playbooks, terms_of
from services.guardian.settings import GuardianSettings

VERIFY_TIMEOUT_SECONDS = 60.0


def main() -> None:
    station = load(StationSettings, SELF)
    layout = station.layout
    settings = load(GuardianSettings, SELF, layout)
    version = version_of("station-calyx")
    clock, executor = SystemClock(), ThreadExecutor(SELF, threads=3)
    identity = load_identity(layout)
    audit = Audit(layout.audit(SELF), clock, SELF)
    leases = LeaseFile(layout, clock)
    machine = HostMachine(layout.root)
    playbooks = load_playbooks(DEPLOY / "playbooks")
    probe = GrpcHealthProbe({target: station.endpoint(target) for target in TARGETS})
    guardian = Guardian(
        layout,
        clock,
        RandomIds(),
        Ports(
            probe=probe,
            runtime=_runtime(settings, layout),
            machine=machine,
            audit=audit,
            sleeping=_sleeping(leases),
            tally=Counted(prometheus_client.REGISTRY),
        ),
        playbooks,
        version=version,
        pid=os.getpid(),
        interval_seconds=settings.probe_seconds,
        terms=terms_of(playbooks, grace_seconds=settings.start_grace_seconds),
    )
    prometheus_client.REGISTRY.register(
        HealthCollector(guardian.health, lambda: len(guardian.incidents(limit=1000, open_only=True)))
    )
    consents = ConsentFile(layout)
    domains = load_domains(DEPLOY / "domains")
    book = DomainBook(layout, domains, clock)
    kill_switch = KillSwitch(layout.kill_switch)
    verifier = Verifier(layout.keys / "grant.pub")
    if Generations(layout, DEPLOY).found(iso(clock.now())):
        audit.write("generation.founded", number=1)
    agent = build_agent(
        SELF,
        [
            Diagnostics(layout, clock, machine, guardian.health, _memory_verifier(station), identity.station_id),
            ConfigDrift(layout=layout, deploy=DEPLOY, clock=clock, cpu_seconds=time.thread_time),
        ],
        layout=layout,
        exchange=FilesExchange(layout.svf, clock, verifier.valid, kill_switch),
        verifier=verifier.valid,
        kill_switch=kill_switch,
        domains=LiveDomains(DEPLOY / "domains"),
        clock=clock,
        audit=audit,
        leases=leases,
        station_id=identity.station_id,
    )
    guardian.start()

    def stop() -> None:
        probe.close()
        guardian.stop()

    def looked_at() -> list[Path]:
        """Where a prober looks: the station, what a person allowed, what admitted manifests declare."""
        return [layout.root, *consents.folders(), *book.folders()]

    run_service(
        service=SELF,
        version=version,
        station=station,
        settings=settings,
        served=[
            Served(
                servicer.FULL_NAME,
                guardian_pb2_grpc.add_GuardianServiceServicer_to_server,
                servicer.GuardianServicer(guardian, executor),
                servicer.ALLOW,
            ),
            Served(
                probe_servicer.FULL_NAME,
                probe_pb2_grpc.add_ProbeServiceServicer_to_server,
                probe_servicer.ProbeServicer(
                    SELF,
                    executor,
                    clock,
                    lambda checks: run_checks(checks, roots=looked_at(), health=guardian.state_of),
                    WatchBook(layout.state(SELF) / "watch", looked_at, lambda task: ack_path(layout.svf, task)),
                ),
                probe_servicer.ALLOW,
            ),
        ],
        checks={"probe rounds": guardian.check},
        periodics=[*guardian.periodics(), Periodic(name="agent", every_seconds=1.0, step=agent.step, rest=agent.rest)],
        clock=clock,
        executor=executor,
        on_stop=stop,
    )


def _runtime(settings: GuardianSettings, layout: Layout) -> Runtime:
    if settings.runtime == "broker":
        return BrokerRuntime(settings.broker_socket)
    return SupervisordRuntime(settings.supervisor_socket or layout.run / "supervisor.sock")


def _sleeping(leases: LeaseFile) -> Callable[[str], bool]:
    """Only a lease with an end: leases that can't be read stop work, but they must not stop healing."""

    def sleeping(target: str) -> bool:
        lease = leases(target)
        return lease is not None and lease.until is not None

    return sleeping


def _memory_verifier(station: StationSettings) -> Callable[[], tuple[bool, str]]:
    def verify() -> tuple[bool, str]:
        with connect("memory", station, SELF) as channel:
            stub = memory_pb2_grpc.MemoryServiceStub(channel)
            answer = stub.Verify(memory_pb2.VerifyRequest(), timeout=VERIFY_TIMEOUT_SECONDS)
        damages = "; ".join(f"{damage.what}: {damage.why}" for damage in answer.damages[:5])
        return answer.ok, damages or f"{answer.experiences} experiences and {answer.vectors} vectors checked"

    return verify


if __name__ == "__main__":
    try:
        main()
    except CalyxError as error:
        print(f"guardian: can't start: {error}", file=sys.stderr)  # noqa: T201 - the one line a person sees
        raise SystemExit(1) from error
