"""The agent API in memory, behind httpx: requests and answers pass through the real contract both ways."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from calyx.agent.v1 import agent_pb2
from google.protobuf.duration_pb2 import Duration

from calyx_agent import Agent, AsyncClient
from chassis.exchange.artifacts import Artifacts, Named
from services.dashboard.agent_api import PATH, decode, encode, refusal

URL = "http://127.0.0.1:4040"
RPCS = {
    "join": "Join", "propose": "Propose", "await_task": "AwaitTask", "claim": "Claim", "heartbeat": "Heartbeat",
    "check": "Check", "ack": "Ack", "nack": "Nack", "recall": "Recall", "report": "Report", "get_status": "GetStatus",
    "put_artifact": "PutArtifact", "get_artifact": "GetArtifact",
}  # fmt: skip
Order = agent_pb2.HeartbeatResponse.Order


@dataclass
class FakeStation:
    """One agent's view of a station. `unreachable` calls fail before they arrive, `unheard` ones after."""

    ready: list[dict[str, Any]] = field(default_factory=list)
    orders: list[tuple[Order.ValueType, str]] = field(default_factory=list)
    """Given out one a heartbeat; the last one stands."""
    forbidden: str = ""
    forbidden_from: int = 1
    unreachable: list[str] = field(default_factory=list)
    unheard: list[str] = field(default_factory=list)
    refusals: dict[str, Exception] = field(default_factory=dict)
    tasks: dict[str, agent_pb2.AgentTask] = field(default_factory=dict)
    on_record: dict[str, agent_pb2.AckRequest] = field(default_factory=dict)
    nacks: list[agent_pb2.NackRequest] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    slept: list[float] = field(default_factory=list)
    answered: asyncio.Event = field(default_factory=asyncio.Event)
    began: asyncio.Event = field(default_factory=asyncio.Event)
    epoch: int = 0
    state: Path = Path("never-written")
    svf: Path = Path("never-written")

    @property
    def artifacts(self) -> Artifacts:
        return Artifacts(self.svf)

    def agent(self, name: str = "", **more: Any) -> Agent:
        return Agent(name, connect=self.client, sleep=self.sleep, state=self.state, **more)

    def client(self) -> AsyncClient:
        return AsyncClient(URL, "scribe-token", transport=httpx.MockTransport(self.answer))

    async def sleep(self, seconds: float) -> None:
        """No time passes; others get their turn."""
        self.slept.append(seconds)
        await asyncio.sleep(0)

    def task(self, task_id: str = "t-1", **manifest: Any) -> None:
        self.ready.append(
            {"task_id": task_id, "domain": "notes", "procedure": "plain", "level": "EXECUTE", "params": {}, **manifest}
        )

    async def answer(self, request: httpx.Request) -> httpx.Response:
        rpc = request.url.path.removeprefix(f"{PATH}/")
        self.calls.append(rpc)
        if rpc in self.unreachable:
            self.unreachable.remove(rpc)
            raise httpx.ConnectError("connection refused")
        if (refused := self.refusals.get(rpc)) is not None:
            status, body = refusal(refused)  # type: ignore[arg-type] # CalyxErrors all
            return httpx.Response(status, json=body)
        said = await getattr(self, rpc)(decode(RPCS[rpc], request.content))
        if rpc in self.unheard:
            self.unheard.remove(rpc)
            raise httpx.ReadError("connection reset")
        return httpx.Response(200, json=encode(said))

    async def join(self, request: agent_pb2.JoinRequest) -> agent_pb2.JoinResponse:
        domain = agent_pb2.AgentDomain(domain="notes", procedures=["plain"])
        return agent_pb2.JoinResponse(
            agent="scribe", station_id="st-1", domains=[domain], heartbeat_every=Duration(nanos=500_000_000)
        )

    async def claim(self, request: agent_pb2.ClaimRequest) -> agent_pb2.ClaimResponse:
        if not self.ready:
            await asyncio.sleep(0)
            return agent_pb2.ClaimResponse()
        taken, self.ready = self.ready[: request.limit], self.ready[request.limit :]
        claims = []
        for manifest in taken:
            self.epoch += 1
            claims.append(agent_pb2.Claimed(manifest_json=json.dumps(manifest), epoch=self.epoch))
        return agent_pb2.ClaimResponse(claims=claims)

    async def heartbeat(self, request: agent_pb2.HeartbeatRequest) -> agent_pb2.HeartbeatResponse:
        self.began.set()
        if not self.orders:
            return agent_pb2.HeartbeatResponse(order=Order.ORDER_GO_ON)
        order, reason = self.orders.pop(0) if len(self.orders) > 1 else self.orders[0]
        return agent_pb2.HeartbeatResponse(order=order, reason=reason)

    async def check(self, request: agent_pb2.CheckRequest) -> agent_pb2.CheckResponse:
        no = self.forbidden if self.calls.count("check") >= self.forbidden_from else ""
        return agent_pb2.CheckResponse(allowed=not no, reason=no)

    async def ack(self, request: agent_pb2.AckRequest) -> agent_pb2.AckResponse:
        first = self.on_record.setdefault(request.task_id, request)
        self.answered.set()
        return agent_pb2.AckResponse(status=first.status, recorded=first is request)

    async def nack(self, request: agent_pb2.NackRequest) -> agent_pb2.NackResponse:
        self.nacks.append(request)
        return agent_pb2.NackResponse()

    async def propose(self, request: agent_pb2.ProposeRequest) -> agent_pb2.ProposeResponse:
        key = f"t-{request.idempotency_key}"
        made = agent_pb2.AgentTask(task_id=key, domain=request.domain, state="ready", level=3)  # type: ignore[arg-type] # GUIDE
        return agent_pb2.ProposeResponse(task=self.tasks.setdefault(key, made))

    async def await_task(self, request: agent_pb2.AwaitTaskRequest) -> agent_pb2.AwaitTaskResponse:
        task = self.tasks[request.task_id]
        if request.seen_state == task.state:
            self.person(task)
        return agent_pb2.AwaitTaskResponse(task=task)

    async def put_artifact(self, request: agent_pb2.PutArtifactRequest) -> agent_pb2.PutArtifactResponse:
        named = Named.parse(request.artifact)
        received = self.artifacts.put("scribe", named, request.offset, request.data)
        return agent_pb2.PutArtifactResponse(received=received, complete=received == named.size)

    async def get_artifact(self, request: agent_pb2.GetArtifactRequest) -> agent_pb2.GetArtifactResponse:
        data = self.artifacts.get(Named.parse(request.artifact), request.offset, request.limit)
        return agent_pb2.GetArtifactResponse(data=data)

    person: Callable[[agent_pb2.AgentTask], None] = lambda task: None
    """What happens while somebody waits for a task."""
