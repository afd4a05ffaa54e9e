"""A CBO that outside agents reach over real gRPC: two domains of their own beside the built-in ones."""

import asyncio
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from calyx.agent.v1 import agent_pb2 as pb
from calyx.agent.v1 import agent_pb2_grpc
from calyx.cbo.v1 import cbo_pb2_grpc
from cbo_station import Station

from chassis.domains import DomainManifest, load_domains
from chassis.executor import ThreadExecutor
from chassis.layout import DEPLOY
from chassis.rpc.auth import Callers
from chassis.rpc.client import ServiceChannel, open_channel
from chassis.rpc.server import RunningServer, Served, start_server
from services.cbo import agent_servicer, servicer
from services.cbo.agent_servicer import Pause

SERVICES = ("operator", "dashboard", "governor", "guardian", "analytics", "memory", "cbo")


def outside(domain: str, owner: str, **changes: Any) -> DomainManifest:
    """A domain that somebody from outside works in."""
    raw = {
        "domain": domain, "title": f"{domain} by {owner}", "serial": 1, "owner": owner, "prober": "guardian",
        "effects": "reversible", "procedures": ["plain"], "probes": ["file_digest"], "max_attempts": 3,
        "paths": ["{station}/work/out"], "objective": f"do {domain}", **changes,
    }  # fmt: skip
    return DomainManifest.from_mapping(raw)


def domains_with(*more: DomainManifest) -> dict[str, DomainManifest]:
    return {**load_domains(DEPLOY / "domains"), **{each.domain: each for each in more}}


@dataclass
class Wire:
    """The station's server on a loop of its own thread; `agent(name)` is a stub with that agent's token."""

    station: Station
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)
    executor: ThreadExecutor = field(default_factory=lambda: ThreadExecutor("test-cbo", threads=4))
    tokens: dict[str, str] = field(default_factory=dict)
    channels: list[ServiceChannel] = field(default_factory=list)
    running: RunningServer | None = None
    pause: Pause | None = None
    """How long polls wait; None: each wait moves the station's clock, and lets others come in between."""

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        self.serve()

    async def _tick(self, woken: asyncio.Event, seconds: float) -> None:
        self.station.clock.advance(seconds)
        await asyncio.sleep(0)

    def serve(self) -> None:
        """With the overseer that the station has now, as after a restart."""
        cbo = self.station.cbo

        async def start() -> RunningServer:
            return await start_server(
                served=[
                    Served(
                        servicer.FULL_NAME,
                        cbo_pb2_grpc.add_CboServiceServicer_to_server,
                        servicer.CboServicer(cbo, self.executor),
                        servicer.ALLOW,
                    ),
                    Served(
                        agent_servicer.FULL_NAME,
                        agent_pb2_grpc.add_AgentServiceServicer_to_server,
                        agent_servicer.AgentServicer(cbo, self.executor, self.pause or self._tick),
                        agent_servicer.ALLOW,
                    ),
                ],
                callers=Callers.of_tokens({name: f"{name}-token" for name in SERVICES}, cbo.agents.identify),
                checks={}, executor=self.executor, grace_seconds=0.0,
            )  # fmt: skip

        self.stop()
        self.running = asyncio.run_coroutine_threadsafe(start(), self.loop).result(10)

    def stop(self) -> None:
        if self.running is not None:
            asyncio.run_coroutine_threadsafe(self.running.stop(), self.loop).result(10)
            self.running = None

    def close(self) -> None:
        for channel in self.channels:
            channel.close()
        self.stop()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()
        self.executor.close()

    def channel(self, token: str) -> ServiceChannel:
        assert self.running is not None
        self.channels.append(open_channel(f"127.0.0.1:{self.running.port}", token))
        return self.channels[-1]

    def person(self, name: str = "operator") -> cbo_pb2_grpc.CboServiceStub:
        return cbo_pb2_grpc.CboServiceStub(self.channel(f"{name}-token"))

    def agent(self, name: str = "scout", domains: tuple[str, ...] = ("sorting",)) -> agent_pb2_grpc.AgentServiceStub:
        if name not in self.tokens:
            _, self.tokens[name] = self.station.cbo.agents.invite(name, domains, False, "operator")
        return agent_pb2_grpc.AgentServiceStub(self.channel(self.tokens[name]))


def proposal(key: str = "k-1", domain: str = "sorting", objective: str = "sort the inbox", **more: Any) -> Any:
    return pb.ProposeRequest(domain=domain, objective=objective, idempotency_key=key, **more)


def held(claimed: Any, session: str = "s1") -> Mapping[str, Any]:
    return {"session": session, "task_id": claimed.task.task_id, "epoch": claimed.epoch}
