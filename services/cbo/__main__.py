"""`python -m services.cbo`: reads the settings and wires the overseer."""

import os
import sys
from datetime import timedelta
from functools import partial
from importlib.metadata import version

import prometheus_client
from calyx.agent.v1 import agent_pb2_grpc
from calyx.cbo.v1 import cbo_pb2_grpc
from calyx.inbox.v1 import inbox_pb2_grpc

from chassis.ancestry import Lineage
from chassis.audit import Audit
from chassis.clock import SystemClock
from chassis.domain_book import DomainBook
from chassis.domains import load_domains
from chassis.errors import CalyxError, Unavailable
from chassis.exchange.files import FilesExchange
from chassis.exchange.grants import Signer, Verifier
from chassis.executor import ThreadExecutor
from chassis.identity import load_identity
from chassis.ids import RandomIds
from chassis.killswitch import KillSwitch
from chassis.layout import DEPLOY
from chassis.rpc.client import connect
from chassis.rpc.server import Served, run_service
from chassis.settings import StationSettings, load
from chassis.signing import load_key, seal
from services.cbo import agent_servicer, inbox_servicer, persons, restoring, servicer
from services.cbo.bridge import Options
from services.cbo.drills import Drills
from services.cbo.joining import LEASE_SECONDS
from services.cbo.metrics import PulseMetrics
from services.cbo.notify_targets import FILE, Targets, page_of
from services.cbo.overseer import Overseer
from services.cbo.peers import peers_over
from services.cbo.policy import SHIPPED, Policy
from services.cbo.settings import CboSettings


def main() -> None:
    station = load(StationSettings, "cbo")
    layout = station.layout
    settings = load(CboSettings, "cbo", layout)
    clock = SystemClock()
    try:
        identity = load_identity(layout)
        valid = Verifier(layout.keys / "grant.pub").valid
        exchange = FilesExchange(layout.svf, clock, valid, KillSwitch(layout.kill_switch), lease_seconds=LEASE_SECONDS)
        channels = {name: connect(name, station, "cbo") for name in ("memory", "governor", "guardian", "analytics")}
        book = DomainBook(layout, load_domains(DEPLOY / "domains"), clock)
        drills = Drills(layout, book)
        overseer = Overseer(
            layout=layout,
            identity=identity,
            version=version("station-calyx"),
            clock=clock,
            ids=RandomIds(),
            exchange=exchange,
            sign=Signer.load(station.secrets / "grant.key").sign_many,
            seal=partial(seal, signer=load_key(station.secrets / "grant.key")),
            domains=book,
            policy=Policy.load(SHIPPED),
            policy_file=settings.policy_file,
            peers=peers_over(channels, identity.station_id),
            audit=Audit(layout.audit("cbo"), clock, "cbo"),
            valid=valid,
            drilled=drills,
            barred=drills.barred,
            options=Options(
                pulse_interval_seconds=settings.pulse_interval_seconds,
                keep_pulses=settings.keep_pulses,
                keep_tasks=timedelta(days=settings.keep_task_days),
                keep_archive=timedelta(days=settings.keep_archive_days),
                probe_tries=settings.probe_tries,
                undo_wait_seconds=settings.undo_wait_seconds,
                explore=settings.explore == "on",
                answer_within=timedelta(days=settings.answer_days),
            ),
            targets=Targets(settings.notify_file or station.secrets / FILE),
            page=lambda: settings.page.rstrip("/") or page_of(layout),
        )
        overseer.start()
    except (CalyxError, OSError) as error:
        raise SystemExit(f"cbo: can't start: {error}") from error
    overseer.watch(PulseMetrics(overseer, prometheus_client.REGISTRY).ended)
    executor = ThreadExecutor("cbo", threads=4)
    outside = ThreadExecutor("cbo-agents", threads=4)  # their own, so that no agent keeps a person waiting

    def close() -> None:
        outside.close()
        overseer.close()

    lineage, began = Lineage(layout.svf / "claimed"), clock.monotonic()
    patience_seconds = 60.0 + 3 * settings.pulse_interval_seconds

    def serves() -> None:
        overseer.bridge.store.check()
        quiet = clock.monotonic() - (overseer.ended_at if overseer.ended_at is not None else began)
        if quiet > patience_seconds:
            raise Unavailable(f"no pulse has ended for {quiet:.0f} s")
        if not os.access(layout.svf, os.W_OK):
            raise Unavailable("the task exchange can't be written")

    run_service(
        service="cbo",
        version=version("station-calyx"),
        station=station,
        settings=settings,
        served=[
            Served(
                servicer.FULL_NAME,
                cbo_pb2_grpc.add_CboServiceServicer_to_server,
                persons.guarded(
                    servicer.CboServicer(overseer, executor),
                    lineage,
                    executor,
                    overseer.bridge.audit,
                ),
                servicer.ALLOW,
            ),
            Served(
                inbox_servicer.FULL_NAME,
                inbox_pb2_grpc.add_InboxServiceServicer_to_server,
                persons.guarded(
                    inbox_servicer.InboxServicer(overseer, executor),
                    lineage,
                    executor,
                    overseer.bridge.audit,
                    inbox_servicer.DECIDES,
                ),
                inbox_servicer.ALLOW,
            ),
            Served(
                agent_servicer.FULL_NAME,
                agent_pb2_grpc.add_AgentServiceServicer_to_server,
                agent_servicer.AgentServicer(overseer, outside, agent_servicer.until_woken),
                agent_servicer.ALLOW,
            ),
        ],
        checks={"store": serves},
        periodics=overseer.periodics(settings.reap_seconds, settings.compact_seconds, settings.notify_seconds),
        clock=clock,
        executor=executor,
        on_stop=close,
        joined=overseer.agents.identify,
    )


if __name__ == "__main__":
    restoring.main(sys.argv[1:]) if sys.argv[1:] else main()
