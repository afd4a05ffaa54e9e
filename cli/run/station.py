"""What `calyx run` asks of the station, as a port, and as it is over gRPC."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, timedelta
from pathlib import Path
from typing import Any, Protocol

from chassis.canonical import canonical_json
from chassis.errors import Refused
from chassis.exchange.port import Holder
from cli.reach import Reach, endpoints
from cli.run.orders import Order

CALL_SECONDS = 10.0
WAIT_SECONDS = 20.0
"""How long one long poll lasts."""
SESSION = "run"


@dataclass(frozen=True, slots=True, kw_only=True)
class Domain:
    """A domain as its agent sees it."""

    name: str
    level: str
    paths: tuple[Path, ...]
    effects: str
    ttl: timedelta
    rehearses: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """Who we are, and how long a claim lives without a heartbeat."""

    agent: str
    domains: Mapping[str, Domain]
    lease_seconds: float
    beat_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSeen:
    """A task as its agent sees it."""

    id: str
    state: str
    reason: str
    level: str
    waits_for_person: bool
    ended: bool
    approved_as: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """A claim. `epoch` 0 and `why` when there was nothing to claim."""

    epoch: int
    why: str = ""
    rehearsal: bool = False
    plan_digest: str = ""
    """What a person approved, where it was rehearsed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The one answer to the task."""

    status: str
    detail: str
    seconds: float
    files_changed: int = 0
    effects: tuple[Mapping[str, Any], ...] = ()
    claims: tuple[Mapping[str, Any], ...] = ()
    cost: Mapping[str, float] | None = None
    applied: bool = False
    reverted: bool = False
    plan: Mapping[str, Any] | None = None
    plan_digest: str = ""


class Governing(Protocol):
    """The agent's side of one station. Every method raises the errors of `chassis.errors`."""

    def join(self) -> Joined: ...
    def propose(self, domain: str, objective: str, params: Mapping[str, str], key: str, ttl: timedelta) -> TaskSeen: ...
    def await_task(self, task_id: str, seen: str, wait_seconds: float) -> TaskSeen: ...
    def claim(self, task_id: str, holder: Holder) -> Taken: ...

    def check(self, task_id: str, epoch: int) -> str:
        """Why the effect may not happen now; empty when it may."""
        ...

    def heartbeat(self, task_id: str, epoch: int, cpu_percent: float | None, rss_bytes: int | None) -> Order: ...
    def ack(self, task_id: str, epoch: int, answer: Answer) -> str:
        """The status on record."""
        ...

    def report(self, text: str) -> None: ...


def allowed(station: Governing, task_id: str, epoch: int) -> None:
    """Raises Refused when the effect may not happen now."""
    if why := station.check(task_id, epoch):
        raise Refused(why)


class AgentStation:
    """`Governing` over AgentService, with the domain's own token. Thread-safe."""

    def __init__(self, reach: Reach, token: str, session: str = SESSION) -> None:
        from calyx.agent.v1.agent_pb2_grpc import AgentServiceStub

        from chassis.rpc.client import open_channel

        self._channel = open_channel(_address(reach), token, timeout_seconds=CALL_SECONDS)
        self._stub, self._session = AgentServiceStub(self._channel), session

    def close(self) -> None:
        self._channel.close()

    def join(self) -> Joined:
        from calyx.agent.v1 import agent_pb2 as pb

        answer = self._stub.Join(pb.JoinRequest(version="calyx run", capabilities=["run"]))
        return Joined(
            agent=answer.agent,
            domains={
                each.domain: Domain(
                    name=each.domain,
                    level=_level(each.level),
                    paths=tuple(Path(path) for path in each.paths),
                    effects=each.effects,
                    ttl=each.ttl.ToTimedelta(),
                    rehearses=each.rehearses,
                )
                for each in answer.domains
            },
            lease_seconds=answer.lease.ToTimedelta().total_seconds(),
            beat_seconds=answer.heartbeat_every.ToTimedelta().total_seconds(),
        )

    def propose(self, domain: str, objective: str, params: Mapping[str, str], key: str, ttl: timedelta) -> TaskSeen:
        from calyx.agent.v1 import agent_pb2 as pb

        request = pb.ProposeRequest(domain=domain, objective=objective, params=dict(params), idempotency_key=key)
        request.ttl.FromTimedelta(ttl)
        return _task(self._stub.Propose(request).task)

    def await_task(self, task_id: str, seen: str, wait_seconds: float) -> TaskSeen:
        from calyx.agent.v1 import agent_pb2 as pb

        request = pb.AwaitTaskRequest(task_id=task_id, seen_state=seen)
        request.wait.FromTimedelta(timedelta(seconds=wait_seconds))
        return _task(self._stub.AwaitTask(request, timeout=wait_seconds + CALL_SECONDS).task)

    def claim(self, task_id: str, holder: Holder) -> Taken:
        from calyx.agent.v1 import agent_pb2 as pb

        request = pb.ClaimRequest(session=self._session, limit=1, task_id=task_id)
        request.wait.FromTimedelta(timedelta(seconds=WAIT_SECONDS))
        request.holder.CopyFrom(
            pb.Holder(
                pid=holder.pid,
                start_ticks=holder.start_ticks,
                boot_id=holder.boot_id,
                pid_namespace=holder.pid_namespace,
            )
        )
        answer = self._stub.Claim(request, timeout=WAIT_SECONDS + CALL_SECONDS)
        if not answer.claims:
            return Taken(epoch=0, why=answer.reason)
        manifest = json.loads(answer.claims[0].manifest_json)
        return Taken(
            epoch=answer.claims[0].epoch,
            rehearsal=bool(manifest.get("rehearsal")),
            plan_digest=str(manifest.get("plan_digest", "")),
        )

    def check(self, task_id: str, epoch: int) -> str:
        from calyx.agent.v1 import agent_pb2 as pb

        answer = self._stub.Check(pb.CheckRequest(session=self._session, task_id=task_id, epoch=epoch))
        return "" if answer.allowed else answer.reason or "the station says no"

    def heartbeat(self, task_id: str, epoch: int, cpu_percent: float | None, rss_bytes: int | None) -> Order:
        from calyx.agent.v1 import agent_pb2 as pb

        request = pb.HeartbeatRequest(
            session=self._session, task_id=task_id, epoch=epoch, cpu_percent=cpu_percent, rss_bytes=rss_bytes
        )
        answer = self._stub.Heartbeat(request, timeout=5.0)
        kind = pb.HeartbeatResponse.Order.Name(answer.order).removeprefix("ORDER_")
        return Order(
            kind=kind if kind in ("THROTTLE", "SLEEP", "STOP", "LOST") else "GO_ON",  # type: ignore[arg-type]  # one of the five
            reason=answer.reason,
            until=answer.until.ToDatetime(tzinfo=UTC) if answer.HasField("until") else None,
            cpu_percent=answer.cpu_percent,
        )

    def ack(self, task_id: str, epoch: int, answer: Answer) -> str:
        from calyx.agent.v1 import agent_pb2 as pb

        request = pb.AckRequest(
            session=self._session, task_id=task_id, epoch=epoch, status=answer.status, detail=answer.detail,
            files_changed=answer.files_changed, effects_json=canonical_json(list(answer.effects)).decode(),
            claims_json=canonical_json(list(answer.claims)).decode(), cost=dict(answer.cost or {}),
            applied=answer.applied, reverted=answer.reverted, plan_digest=answer.plan_digest,
            plan_json="" if answer.plan is None else canonical_json(dict(answer.plan)).decode(),
        )  # fmt: skip
        request.duration.FromTimedelta(timedelta(seconds=answer.seconds))
        return str(self._stub.Ack(request).status)

    def report(self, text: str) -> None:
        from calyx.agent.v1 import agent_pb2 as pb

        self._stub.Report(pb.ReportRequest(text=text))


def _address(reach: Reach) -> str:
    from chassis.settings import StationSettings, load

    embedded = endpoints(reach.layout).get("services", {}).get("cbo", {}).get("grpc")
    return str(embedded or load(StationSettings, "calyx").endpoint("cbo"))


def _task(task: Any) -> TaskSeen:
    return TaskSeen(
        id=task.task_id,
        state=task.state,
        reason=task.reason,
        level=_level(task.level),
        waits_for_person=task.waits_for_person,
        ended=task.ended,
        approved_as=task.approved_as,
    )


def _level(level: int) -> str:
    names = ("UNSPECIFIED", "OBSERVE", "SUGGEST", "GUIDE", "EXECUTE")
    return names[level] if 0 <= level < len(names) else names[0]
