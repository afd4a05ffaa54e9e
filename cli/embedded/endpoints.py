"""Which ports the embedded station uses, and what its services are told through the environment."""

import contextlib
import os
import socket
import sys
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from chassis.atomic import write_json
from chassis.errors import Refused
from chassis.layout import SERVICES, Layout

LOOPBACK = "127.0.0.1"
LOWEST_PORT, BLOCK = 20_000, 16
"""Ports come in blocks: one that is a lock while a station starts, 13 for its listeners, two to spare."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoints:
    """`run/endpoints.json`: gRPC and metrics port per service, the dashboard's HTTP port, supervisord's socket."""

    grpc: Mapping[str, int]
    metrics: Mapping[str, int]
    dashboard: int
    supervisor: Path

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.dashboard}"

    def to_json(self) -> dict[str, Any]:
        return {
            "services": {
                service: {
                    "grpc": f"{LOOPBACK}:{self.grpc[service]}",
                    "metrics": f"{LOOPBACK}:{self.metrics[service]}",
                }
                for service in SERVICES
            },
            "dashboard": self.url,
            "supervisor": str(self.supervisor),
        }

    @classmethod
    def choose(
        cls,
        before: Mapping[str, Any],
        dashboard: int,
        supervisor: Path,
        starting: contextlib.ExitStack | None = None,
    ) -> Self:
        """The ports of the last start where they are still free, else free ones. Raises Refused for a busy dashboard.

        All are held open until the last is chosen, so that no two are the same. Until `starting` ends, no other
        station chooses among the new ones: between this and a service's own bind they would be anybody's.
        """
        with contextlib.ExitStack() as held:
            spare = _spare(held if starting is None else starting, held, str(supervisor))

            def again(address: str) -> int:
                port = address.rpartition(":")[2]
                taken = _take(held, int(port)) if port.isdigit() else None
                return next(spare) if taken is None else taken

            page = _take(held, dashboard) if dashboard else again(str(before.get("dashboard", "")))
            if page is None:
                raise Refused(
                    f"port {dashboard} is taken, so the dashboard can't be served; "
                    "end the other program or choose another port with --port (0 picks a free one)"
                )
            services = before.get("services", {})
            ports = {
                kind: {service: again(services.get(service, {}).get(kind, "")) for service in SERVICES}
                for kind in ("grpc", "metrics")
            }
            return cls(grpc=ports["grpc"], metrics=ports["metrics"], dashboard=page, supervisor=supervisor)

    def write(self, layout: Layout) -> None:
        write_json(layout.endpoints, self.to_json(), mode=0o600)

    def environment(self, layout: Layout, pulse_seconds: float) -> dict[str, str]:
        """What supervisord and, through it, every service gets."""
        root = str(layout.root)
        packages = Path(__file__).resolve().parents[2]
        paths = [str(packages), str(packages / "protos" / "gen"), os.environ.get("PYTHONPATH", "")]
        told = {
            "CALYX_STATION_DIR": root,
            "CALYX_PYTHON": sys.executable,
            "CALYX_SUPERVISOR_SOCKET": str(self.supervisor),
            "CALYX_CBO_PULSE_INTERVAL_SECONDS": f"{pulse_seconds:g}",
            "CALYX_DASHBOARD_HTTP_LISTEN": f"{LOOPBACK}:{self.dashboard}",
            "PYTHONPATH": os.pathsep.join(path for path in paths if path),
            "PYTHONUNBUFFERED": "1",
            "MALLOC_ARENA_MAX": "2",  # glibc would keep an arena per thread; idle services have few busy ones
        }
        for service in SERVICES:
            told[f"CALYX_{service.upper()}_LISTEN"] = f"{LOOPBACK}:{self.grpc[service]}"
            told[f"CALYX_{service.upper()}_METRICS_LISTEN"] = f"{LOOPBACK}:{self.metrics[service]}"
            told[f"CALYX_ENDPOINT_{service.upper()}"] = f"{LOOPBACK}:{self.grpc[service]}"
        return told


def _spare(starting: contextlib.ExitStack, held: contextlib.ExitStack, name: str) -> Iterator[int]:
    """The ports of a block in which nothing listens and no other station starts.

    Below the range from which the kernel serves outgoing connections: one of these would else take the port of a
    service that is down for a moment. Where there is no such block, whatever port is free.
    """
    blocks = max(0, _outgoing_from() - LOWEST_PORT) // BLOCK
    for n in range(blocks):
        base = LOWEST_PORT + (zlib.crc32(name.encode()) + n) % blocks * BLOCK
        with contextlib.ExitStack() as lock, contextlib.ExitStack() as rest:
            ports = [_take(lock, base), *(_take(rest, base + each) for each in range(1, BLOCK))]
            free = [port for port in ports if port is not None]
            if len(free) == BLOCK:
                starting.push(lock.pop_all())
                held.push(rest.pop_all())
                yield from free[1:]
                break
    while port := _take(held, 0):
        yield port


def _outgoing_from() -> int:
    try:
        return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except OSError:
        return 32_768


def _take(held: contextlib.ExitStack, port: int) -> int | None:
    """Bind the port until `held` ends; None if somebody has it. 0: any free one."""
    sock = held.enter_context(socket.socket())
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((LOOPBACK, port))
        sock.listen(1)
    except OSError:
        return None
    return int(sock.getsockname()[1])
