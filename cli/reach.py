"""How a command reaches the station: its folder, its endpoints, a channel to each service. Nothing is loaded early."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chassis.clock import Clock, SystemClock
from chassis.layout import Layout

if TYPE_CHECKING:
    import grpc
    import typer
    from calyx.agent.v1.agent_pb2_grpc import AgentServiceStub
    from calyx.analytics.v1.analytics_pb2_grpc import AnalyticsServiceStub
    from calyx.cbo.v1.cbo_pb2_grpc import CboServiceStub
    from calyx.dashboard.v1.dashboard_pb2_grpc import DashboardServiceStub
    from calyx.governor.v1.governor_pb2_grpc import GovernorServiceStub
    from calyx.guardian.v1.guardian_pb2_grpc import GuardianServiceStub
    from calyx.inbox.v1.inbox_pb2_grpc import InboxServiceStub
    from calyx.memory.v1.memory_pb2_grpc import MemoryServiceStub

CALLER = "operator"
EXPORT_BYTES = 40 * 1024 * 1024


def endpoints(layout: Layout) -> dict[str, Any]:
    """`run/endpoints.json`; empty where no embedded station was started."""
    from chassis.atomic import read_json

    try:
        value = read_json(layout.endpoints)
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _open(layout: Layout, service: str) -> "grpc.Channel":
    """A real channel: the embedded station's endpoint, or the one from the environment (containers)."""
    from chassis.errors import NotFound, Unavailable
    from chassis.identity import load_token
    from chassis.rpc.client import open_channel

    address = endpoints(layout).get("services", {}).get(service, {}).get("grpc")
    vault = layout.secrets
    if not address or any(name.startswith("CALYX_") and name != "CALYX_STATION_DIR" for name in os.environ):
        from chassis.settings import StationSettings, load  # a tenth of a second; not where all is by default

        station = load(StationSettings, "calyx")
        address, vault = address or station.endpoint(service), station.secrets_dir or vault
    try:
        token = load_token(vault, CALLER)
    except NotFound as error:
        raise Unavailable(
            f"there is no station in {layout.root}; `calyx up` makes one, --station picks another"
        ) from error
    big = EXPORT_BYTES if service == "dashboard" else 4 * 1024 * 1024
    return open_channel(address, token, timeout_seconds=10.0, max_message_bytes=big)


@dataclass
class Reach:
    """One station as a command sees it. `open` can be replaced by tests."""

    root: Path
    clock: Clock = field(default_factory=SystemClock)
    open: Callable[[Layout, str], "grpc.Channel"] = _open
    _channels: dict[str, "grpc.Channel"] = field(default_factory=dict)

    @property
    def layout(self) -> Layout:
        return Layout(self.root.absolute())

    def channel(self, service: str) -> "grpc.Channel":
        if service not in self._channels:
            self._channels[service] = self.open(self.layout, service)
        return self._channels[service]

    def cbo(self) -> "CboServiceStub":
        from calyx.cbo.v1.cbo_pb2_grpc import CboServiceStub

        return CboServiceStub(self.channel("cbo"))

    def inbox(self) -> "InboxServiceStub":
        """What waits for a person; the CBO serves it."""
        from calyx.inbox.v1.inbox_pb2_grpc import InboxServiceStub

        return InboxServiceStub(self.channel("cbo"))

    def agents(self) -> "AgentServiceStub":
        """Where payloads are handed in and out; the CBO serves it."""
        from calyx.agent.v1.agent_pb2_grpc import AgentServiceStub

        return AgentServiceStub(self.channel("cbo"))

    def memory(self) -> "MemoryServiceStub":
        from calyx.memory.v1.memory_pb2_grpc import MemoryServiceStub

        return MemoryServiceStub(self.channel("memory"))

    def governor(self) -> "GovernorServiceStub":
        from calyx.governor.v1.governor_pb2_grpc import GovernorServiceStub

        return GovernorServiceStub(self.channel("governor"))

    def guardian(self) -> "GuardianServiceStub":
        from calyx.guardian.v1.guardian_pb2_grpc import GuardianServiceStub

        return GuardianServiceStub(self.channel("guardian"))

    def analytics(self) -> "AnalyticsServiceStub":
        from calyx.analytics.v1.analytics_pb2_grpc import AnalyticsServiceStub

        return AnalyticsServiceStub(self.channel("analytics"))

    def dashboard(self) -> "DashboardServiceStub":
        from calyx.dashboard.v1.dashboard_pb2_grpc import DashboardServiceStub

        return DashboardServiceStub(self.channel("dashboard"))

    def close(self) -> None:
        for channel in self._channels.values():
            channel.close()
        self._channels.clear()


def reach_of(ctx: "typer.Context") -> Reach:
    """The command's station."""
    reach = ctx.find_root().obj
    assert isinstance(reach, Reach)
    return reach


def default_root() -> Path:
    return Path(os.environ.get("CALYX_STATION_DIR", "station"))
