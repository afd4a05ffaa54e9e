"""The dashboard service: reads settings, wires, serves gRPC and the page."""

import os
import sys
from datetime import timedelta
from importlib.metadata import version as installed
from urllib.parse import urlsplit

import prometheus_client
from calyx.dashboard.v1 import dashboard_pb2_grpc

from chassis.ancestry import Lineage
from chassis.audit import Audit
from chassis.clock import SystemClock
from chassis.errors import CalyxError
from chassis.executor import ThreadExecutor
from chassis.identity import CALLERS, load_identity, load_token
from chassis.ids import RandomIds
from chassis.killswitch import KillSwitch
from chassis.rpc.auth import Callers
from chassis.rpc.client import connect
from chassis.rpc.server import Served, run_service
from chassis.settings import StationSettings, host_port, load
from services.dashboard.access import LoginLinks, Sessions, host_allowed
from services.dashboard.agent_api import GrpcRelay
from services.dashboard.answers import Answers, questions
from services.dashboard.board import Board
from services.dashboard.desk import Desk
from services.dashboard.export import MAX_ARCHIVE_BYTES
from services.dashboard.http import bind, serve
from services.dashboard.overview import Own
from services.dashboard.peers import connect_all
from services.dashboard.servicer import ALLOW, FULL_NAME, DashboardServicer
from services.dashboard.settings import DashboardSettings
from services.dashboard.web.app import create_app
from services.dashboard.web.context import Context

SERVICE = "dashboard"
VERSION = installed("station-calyx")
ANYWHERE = ("0.0.0.0", "[::]", "::")  # noqa: S104 — compared with, not bound to


def main() -> None:
    station = load(StationSettings, SERVICE)
    layout = station.layout
    settings = load(DashboardSettings, SERVICE, layout)
    try:
        _serve(station, settings)
    except (OSError, CalyxError) as error:
        print(f"{SERVICE}: can't start: {error}", file=sys.stderr)  # noqa: T201 — the one line a person sees
        raise SystemExit(1) from error


def _serve(station: StationSettings, settings: DashboardSettings) -> None:
    layout, clock, ids = station.layout, SystemClock(), RandomIds()
    identity, token = load_identity(layout), load_token(station.secrets, SERVICE)
    listener = bind(settings.http_listen)
    host, port = host_port(settings.http_listen)[0], listener.getsockname()[1]
    address = settings.public_url or f"http://{'127.0.0.1' if host in ANYWHERE else host}:{port}"
    allowed = (*settings.allowed_hosts, *([urlsplit(settings.public_url).netloc] if settings.public_url else ()))

    executor = ThreadExecutor(SERVICE, threads=8)
    peers = connect_all(lambda service: connect(service, station, SERVICE))
    started, switch = clock.monotonic(), KillSwitch(layout.kill_switch)

    def own() -> Own:
        return Own(
            station_id=identity.station_id,
            version=VERSION,
            started_monotonic=started,
            kill_switch=switch.engaged(),
            kill_switch_why=switch.why(),
            capacity_interval_seconds=settings.capacity_interval_seconds,
        )

    def station_folder() -> None:
        load_identity(layout)

    def known_secrets() -> tuple[str, ...]:
        """Those this process may read; an export must not hold any of them."""
        readable = (
            path for path in (station.secrets / f"{caller}.token" for caller in CALLERS) if os.access(path, os.R_OK)
        )
        return tuple(path.read_text().strip() for path in readable)

    board = Board(Answers(questions(peers, clock), clock), own, clock, executor)
    desk = Desk(
        peers,
        layout,
        clock,
        Audit(layout.audit(SERVICE), clock, SERVICE),
        environment=dict(os.environ),
        known_secrets=known_secrets,
    )
    links = LoginLinks(clock, ids, lambda: address)
    requests = prometheus_client.Counter(
        "calyx_dashboard_requests_total", "HTTP requests by route and status.", ["route", "code"]
    )
    at = Context(
        board=board,
        desk=desk,
        sessions=Sessions(token, identity.station_id, clock, ids, timedelta(hours=settings.session_hours)),
        links=links,
        identify=Callers.load(station.secrets).identify,
        host_ok=lambda name: host_allowed(name, port, allowed),
        count=lambda route, code: requests.labels(route, str(code)).inc(),
        executor=executor,
        clock=clock,
        version=VERSION,
        station_id=identity.station_id,
        secure_cookie=settings.public_url.startswith("https://"),
        agents=GrpcRelay(station.endpoint("cbo")),
        lineage=Lineage(layout.svf / "claimed").refusal,
    )
    app = create_app(at)
    run_service(
        service=SERVICE,
        version=VERSION,
        station=station,
        settings=settings,
        served=[
            Served(
                FULL_NAME,
                dashboard_pb2_grpc.add_DashboardServiceServicer_to_server,
                DashboardServicer(board, desk, links, executor),
                ALLOW,
            )
        ],
        checks={"station folder": station_folder},
        clock=clock,
        executor=executor,
        extra=lambda: serve(app, listener, at.stopping, min(2.0, settings.grace_seconds)),
        max_message_bytes=MAX_ARCHIVE_BYTES + 1024 * 1024,
    )


if __name__ == "__main__":
    main()
