"""AgentService: decode → ask → encode. Long polls wait in the loop, never in a thread."""

import asyncio
import contextlib
import math
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC
from typing import Any

from calyx.agent.v1 import agent_pb2 as pb
from calyx.agent.v1 import agent_pb2_grpc
from google.protobuf.duration_pb2 import Duration

from chassis.canonical import canonical_json
from chassis.domains import DomainManifest
from chassis.errors import InvalidInput, PermissionDenied, ResourceExhausted
from chassis.exchange.artifacts import PIECE_BYTES, Named
from chassis.exchange.port import Holder
from chassis.executor import Executor
from chassis.rpc.auth import AGENT, agent_caller, agent_of, caller
from services.cbo import joining, wire
from services.cbo.answers import Answer
from services.cbo.joining import Claimed, Held, Joining, Sample
from services.cbo.overseer import Overseer
from services.cbo.ports import Recalled
from services.cbo.proposals import Wish
from services.cbo.tasks import Task

FULL_NAME = "calyx.agent.v1.AgentService"

ALLOW: Mapping[str, frozenset[str]] = {
    **dict.fromkeys(
        ("Join", "Propose", "AwaitTask", "Claim", "Heartbeat", "Check", "Ack", "Nack", "Recall", "Report", "GetStatus"),
        frozenset({AGENT}),
    ),
    **dict.fromkeys(("PutArtifact", "GetArtifact"), frozenset({AGENT, "operator"})),
}
"""Nobody else: a person and the services have their own ways, and an agent has no other. Payloads are handed in and
out here for both."""

MAX_WAIT_SECONDS = 30.0
LOOK_SECONDS = 1.0
"""How often a long poll looks by itself; what happens in the CBO wakes it at once."""

MAX_WAITING = 64
"""Long polls of one agent at a time."""

MARGIN_SECONDS = 0.5
"""A long poll ends this long before its caller's deadline, so that the answer arrives."""

Pause = Callable[[asyncio.Event, float], Awaitable[None]]


async def until_woken(woken: asyncio.Event, seconds: float) -> None:
    """Wait in the loop for the event, at most so long."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(woken.wait(), seconds)


class AgentServicer(agent_pb2_grpc.AgentServiceServicer):
    """`pause` waits in the loop (`until_woken`); None: nothing is waited for, as on a virtual station."""

    def __init__(self, overseer: Overseer, executor: Executor, pause: Pause | None = None) -> None:
        self._overseer, self._executor, self._pause = overseer, executor, pause
        self._waiting: Counter[str] = Counter()
        self._returning: set[asyncio.Future[None]] = set()

    @property
    def _joining(self) -> Joining:
        return self._overseer.joining

    async def Join(self, request: pb.JoinRequest, context: Any) -> pb.JoinResponse:
        agent = _who()
        domains = await self._executor.run(
            self._joining.join, agent, request.version, tuple(request.capabilities)
        )  # fmt: skip
        answer = pb.JoinResponse(
            agent=agent,
            station_id=self._overseer.bridge.station_id,
            domains=[self._domain(each) for each in domains],
        )
        answer.lease.CopyFrom(_duration(joining.LEASE_SECONDS))
        answer.heartbeat_every.CopyFrom(_duration(joining.HEARTBEAT_SECONDS))
        return answer

    async def Propose(self, request: pb.ProposeRequest, context: Any) -> pb.ProposeResponse:
        agent = _who()
        wish = Wish(
            source=agent_caller(agent),
            domain=request.domain,
            objective=request.objective,
            key=request.idempotency_key,
            procedure=request.procedure,
            params=dict(request.params),
            ttl_seconds=_seconds(request.ttl) if request.HasField("ttl") else None,
        )
        return pb.ProposeResponse(task=task_to_wire(await self._executor.run(self._joining.propose, agent, wish)))

    async def AwaitTask(self, request: pb.AwaitTaskRequest, context: Any) -> pb.AwaitTaskResponse:
        agent, task_id = _who(), request.task_id
        first = await self._executor.run(self._joining.task, agent, task_id)
        if first.state != request.seen_state or joining.ended(first):
            return pb.AwaitTaskResponse(task=task_to_wire(first))
        last = first

        def look() -> bool:
            nonlocal last
            last = self._joining.task(agent, task_id)
            return (last.state, last.approved_as) != (first.state, first.approved_as)

        await self._until(look, agent, _seconds(request.wait), context)
        return pb.AwaitTaskResponse(task=task_to_wire(last))

    async def Claim(self, request: pb.ClaimRequest, context: Any) -> pb.ClaimResponse:
        agent = _who()
        holder = _holder(request.holder) if request.HasField("holder") else None
        turn, gone, last = threading.Lock(), False, Claimed(claims=())

        def look() -> bool:
            nonlocal last
            taken = self._joining.claim(agent, request.session, request.limit, request.task_id, holder)
            with turn:
                last = taken
            if gone:
                self._joining.give_back(taken)
            return bool(taken.claims)

        try:
            await self._until(look, agent, _seconds(request.wait), context)
        except asyncio.CancelledError:  # the caller went away; what a thread takes meanwhile, it gives back itself
            with turn:
                gone, taken = True, last
            back = asyncio.ensure_future(self._executor.run(self._joining.give_back, taken))
            self._returning.add(back)
            back.add_done_callback(self._returning.discard)
            raise
        return pb.ClaimResponse(
            claims=[
                pb.Claimed(
                    manifest_json=canonical_json(claim.manifest.to_json()).decode(),
                    epoch=claim.epoch,
                    task=task_to_wire(task),
                )
                for claim, task in last.claims
            ],
            reason=last.reason,
        )

    async def Heartbeat(self, request: pb.HeartbeatRequest, context: Any) -> pb.HeartbeatResponse:
        sample = Sample(
            cpu_percent=request.cpu_percent if request.HasField("cpu_percent") else None,
            rss_bytes=request.rss_bytes if request.HasField("rss_bytes") else None,
            progress=request.progress[: joining.MAX_TEXT],
            at=self._overseer.bridge.clock.now(),
        )
        ordered = await self._executor.run(self._joining.heartbeat, _who(), _held(request), sample)
        return pb.HeartbeatResponse(
            order=pb.HeartbeatResponse.Order.Value(f"ORDER_{ordered.order}"),
            reason=ordered.reason,
            until=wire.stamp(ordered.until),
            cpu_percent=ordered.cpu_percent or 0.0,
        )

    async def Check(self, request: pb.CheckRequest, context: Any) -> pb.CheckResponse:
        allowed, reason = await self._executor.run(self._joining.check, _who(), _held(request))
        return pb.CheckResponse(allowed=allowed, reason=reason)

    async def Ack(self, request: pb.AckRequest, context: Any) -> pb.AckResponse:
        answer = Answer(
            status=request.status,
            detail=request.detail,
            files_changed=request.files_changed,
            plan_json=request.plan_json,
            plan_digest=request.plan_digest,
            effects_json=request.effects_json,
            claims_json=request.claims_json,
            cost=dict(request.cost),
            applied=request.applied,
            reverted=request.reverted,
            duration_seconds=_seconds(request.duration) if request.HasField("duration") else None,
        )
        status, recorded = await self._executor.run(self._joining.ack, _who(), _held(request), answer)
        return pb.AckResponse(status=status, recorded=recorded)

    async def Nack(self, request: pb.NackRequest, context: Any) -> pb.NackResponse:
        delay = _seconds(request.delay)
        await self._executor.run(self._joining.nack, _who(), _held(request), delay, request.reason)
        return pb.NackResponse()

    async def Recall(self, request: pb.RecallRequest, context: Any) -> pb.RecallResponse:
        found = await self._executor.run(
            self._joining.recall, _who(), request.text, request.domain, request.limit, request.min_cosine
        )
        return pb.RecallResponse(matches=[_experience(each) for each in found])

    async def Report(self, request: pb.ReportRequest, context: Any) -> pb.ReportResponse:
        await self._executor.run(self._joining.report, _who(), request.text, request.task_id)
        return pb.ReportResponse()

    async def PutArtifact(self, request: pb.PutArtifactRequest, context: Any) -> pb.PutArtifactResponse:
        named = Named.parse(request.artifact)
        if len(request.data) > PIECE_BYTES:
            raise InvalidInput(f"a piece has at most {PIECE_BYTES} bytes")
        received = await self._executor.run(
            self._joining.put_artifact, _hand(), named, request.offset, request.data
        )  # fmt: skip
        return pb.PutArtifactResponse(received=received, complete=received == named.size)

    async def GetArtifact(self, request: pb.GetArtifactRequest, context: Any) -> pb.GetArtifactResponse:
        data = await self._executor.run(
            self._joining.get_artifact, _hand(), Named.parse(request.artifact), request.task_id, request.offset,
            request.limit,
        )  # fmt: skip
        return pb.GetArtifactResponse(data=data)

    async def GetStatus(self, request: pb.GetStatusRequest, context: Any) -> pb.GetStatusResponse:
        agent, bridge = _who(), self._overseer.bridge

        def find() -> pb.GetStatusResponse:
            domains, tasks = self._joining.status(agent)
            answer = pb.GetStatusResponse(
                station_id=bridge.station_id,
                kill_switch=bridge.kill_switch.engaged(),
                kill_switch_why=bridge.kill_switch.why(),
                domains=[self._domain(each) for each in domains],
                tasks=[task_to_wire(each) for each in tasks],
            )
            last = self._overseer.pulses(1)
            if last:
                ended = wire.summary_to_wire(last[0], bridge.clock.now())
                began = ended.started_at.ToDatetime(tzinfo=UTC).timestamp()
                answer.last_pulse = ended.id
                age = bridge.clock.now().timestamp() - began - ended.duration_seconds
                answer.last_pulse_age_seconds = max(0.0, age)
            return answer

        return await self._executor.run(find)

    async def _until(self, look: Callable[[], bool], agent: str, wait_seconds: float, context: Any) -> None:
        """Look until it finds something, or the wait (or the caller's deadline) is over. No thread waits meanwhile."""
        if await self._executor.run(look) or self._pause is None:
            return
        clock, loop, woken = self._overseer.bridge.clock, asyncio.get_running_loop(), asyncio.Event()
        woken.set()  # look once more after one begins to listen
        left = context.time_remaining()
        wait = min(wait_seconds, MAX_WAIT_SECONDS, math.inf if left is None else left - MARGIN_SECONDS)
        ends = clock.monotonic() + wait
        if wait <= 0:
            return
        if self._waiting[agent] >= MAX_WAITING:
            raise ResourceExhausted(f"{agent} waits in {MAX_WAITING} calls already; let them end first")

        def wake() -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(woken.set)

        stop = self._overseer.bridge.bell.listen(wake)
        self._waiting[agent] += 1
        try:
            while (left := ends - clock.monotonic()) > 0:
                await self._pause(woken, min(LOOK_SECONDS, left))
                woken.clear()
                if await self._executor.run(look):
                    return
        finally:
            stop()
            self._waiting[agent] -= 1

    def _domain(self, manifest: DomainManifest) -> pb.AgentDomain:
        root = str(self._overseer.bridge.layout.root)
        made = pb.AgentDomain(
            domain=manifest.domain,
            title=manifest.title,
            level=wire.level_to_wire(self._joining.level(manifest.domain)),
            procedures=manifest.procedures,
            paths=[each.replace("{station}", root) for each in manifest.paths],
            effects=manifest.effects,
            rehearses=manifest.rehearses,
        )
        made.ttl.CopyFrom(_duration(manifest.ttl_seconds))
        return made


def _hand() -> str | None:
    """An agent by its name; None: a person."""
    return None if caller() == "operator" else _who()


def _who() -> str:
    agent = agent_of(caller())
    if not agent:  # the allow-list has said so already
        raise PermissionDenied("this is for agents that joined")
    return agent


def task_to_wire(task: Task) -> pb.AgentTask:
    return pb.AgentTask(
        task_id=task.id,
        domain=task.domain,
        procedure=task.procedure,
        objective=task.objective,
        params=dict(task.params),
        state=task.state,
        reason=task.why,
        waits_for_person=joining.waits_for_person(task),
        ended=joining.ended(task),
        approved_as=task.approved_as,
        level=wire.level_to_wire(task.level),
        tes=task.tes,
    )


def _held(request: pb.HeartbeatRequest | pb.CheckRequest | pb.AckRequest | pb.NackRequest) -> Held:
    return Held(session=request.session, task_id=request.task_id, epoch=request.epoch)


def _holder(holder: pb.Holder) -> Holder:
    return Holder(
        pid=holder.pid,
        start_ticks=holder.start_ticks,
        boot_id=holder.boot_id,
        pid_namespace=holder.pid_namespace,
    )


def _experience(found: Recalled) -> pb.Experience:
    return pb.Experience(
        id=found.id,
        cosine=found.cosine,
        objective=found.objective,
        domain=found.domain,
        procedure=found.procedure,
        outcome=found.outcome,
        tes=found.tes,
        at=wire.stamp(found.at),
        source=found.source,
        untrusted=True,
        standing=found.standing,
    )


def _seconds(duration: Duration) -> float:
    return duration.seconds + duration.nanos / 1e9


def _duration(seconds: float) -> Duration:
    whole = math.floor(seconds)
    return Duration(seconds=whole, nanos=round((seconds - whole) * 1e9))
