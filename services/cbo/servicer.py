"""CboService: decode → ask → encode."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import timedelta
from typing import Any, TypeVar

from calyx.cbo.v1 import cbo_pb2 as pb
from calyx.cbo.v1 import cbo_pb2_grpc

from chassis.canonical import Json, canonical_json
from chassis.errors import InvalidInput
from chassis.executor import Executor
from chassis.rpc.auth import caller
from services.cbo import listing, wire
from services.cbo.kpis import WINDOW
from services.cbo.ladder import Rung
from services.cbo.obstacle import RUNS, obstacle
from services.cbo.overseer import Overseer
from services.cbo.policy_desk import tried
from services.cbo.replay_desk import ReplayDesk
from services.cbo.tasks import Task

MONTH = timedelta(days=30)
FULL_NAME = "calyx.cbo.v1.CboService"

_PEOPLE = frozenset({"operator", "dashboard"})
"""The person at the command line, and the person behind the dashboard (which has its own token and origin check).

A governed service is in none of the writing lists: it approves nothing, sets no level and resumes nothing.
"""
_READERS = frozenset({"operator", "dashboard", "memory", "governor", "guardian", "analytics"})
_READS = (
    "ListObjectives", "GetPulse", "ListPulses", "WatchPulses", "ListTasks", "GetTask", "GetLadder", "GetKpis",
    "GetStation", "ListDomains",
)  # fmt: skip
_WRITES = (
    "SubmitObjective", "CancelObjective", "RunPulse", "ApproveTask", "RejectTask", "CancelTask", "Undo", "SetLevel",
    "SetKillSwitch", "RequeueTask",
)  # fmt: skip
ALLOW: Mapping[str, frozenset[str]] = {
    **dict.fromkeys(_READS, _READERS),
    **dict.fromkeys(_WRITES, _PEOPLE),
    "ApproveDomain": frozenset({"operator"}),
    "RevokeDomain": frozenset({"operator"}),
    "InviteAgent": frozenset({"operator"}),
    "RevokeAgent": frozenset({"operator"}),
    "ListAgents": _PEOPLE,
    "GetPolicy": _PEOPLE,
    "TryPolicy": _PEOPLE,
    "ReplayPulses": _PEOPLE,
}

T = TypeVar("T")


class CboServicer(cbo_pb2_grpc.CboServiceServicer):
    """Every method runs off the loop."""

    def __init__(self, overseer: Overseer, executor: Executor) -> None:
        self._overseer, self._executor = overseer, executor

    async def SubmitObjective(self, request: pb.SubmitObjectiveRequest, context: Any) -> pb.SubmitObjectiveResponse:
        kept = await self._executor.run(
            self._overseer.desk.submit,
            request.text,
            request.domain,
            dict(request.params),
            wire.schedule_from_wire(request.schedule),
            request.idempotency_key,
            caller(),
        )
        return pb.SubmitObjectiveResponse(objective=wire.objective_to_wire(kept))

    async def ListObjectives(self, request: pb.ListObjectivesRequest, context: Any) -> pb.ListObjectivesResponse:
        found = await self._executor.run(self._overseer.bridge.store.all_objectives)
        shown = [each for each in found if request.include_finished or each.state == "active"]
        return pb.ListObjectivesResponse(objectives=[wire.objective_to_wire(each) for each in shown])

    async def CancelObjective(self, request: pb.CancelObjectiveRequest, context: Any) -> pb.CancelObjectiveResponse:
        kept = await self._executor.run(self._overseer.desk.cancel_objective, request.id, caller())
        return pb.CancelObjectiveResponse(objective=wire.objective_to_wire(kept))

    async def GetPulse(self, request: pb.GetPulseRequest, context: Any) -> pb.GetPulseResponse:
        summary, text, page = await self._executor.run(self._overseer.pulse, request.id)
        return pb.GetPulseResponse(summary=self._summary(summary), record_json=text, report_markdown=page)

    async def ListPulses(self, request: pb.ListPulsesRequest, context: Any) -> pb.ListPulsesResponse:
        found = await self._executor.run(self._overseer.pulses, _limit(request.limit, 20, 2000))
        return pb.ListPulsesResponse(pulses=[self._summary(each) for each in found])

    async def WatchPulses(self, request: pb.WatchPulsesRequest, context: Any) -> AsyncIterator[pb.WatchPulsesResponse]:
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[Json] = asyncio.Queue()

        def ended(summary: Json) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(queue.put_nowait, summary)

        stop = self._overseer.watch(ended)
        try:
            while True:
                yield pb.WatchPulsesResponse(pulse=self._summary(await queue.get()))
        finally:
            stop()

    async def RunPulse(self, request: pb.RunPulseRequest, context: Any) -> pb.RunPulseResponse:
        return pb.RunPulseResponse(pulse=self._summary(await self._executor.run(self._overseer.run_pulse)))

    async def ListTasks(self, request: pb.ListTasksRequest, context: Any) -> pb.ListTasksResponse:
        limit = _limit(request.limit, 50, 500)
        store = self._overseer.bridge.store

        def find() -> list[pb.Task]:
            if request.waiting_for_person:
                found = store.tasks("tasks_inbox", limit)
            else:
                found = listing.tasks(
                    store, state=request.state, domain=request.domain, query=request.query, limit=limit
                )
            return [self._task(each) for each in found]

        return pb.ListTasksResponse(tasks=await self._executor.run(find))

    async def GetTask(self, request: pb.GetTaskRequest, context: Any) -> pb.GetTaskResponse:
        return pb.GetTaskResponse(task=await self._one(lambda: self._overseer.bridge.store.task(request.id)))

    async def ApproveTask(self, request: pb.ApproveTaskRequest, context: Any) -> pb.ApproveTaskResponse:
        who, desk = caller(), self._overseer.desk

        def approve() -> pb.ApproveTaskResponse:
            already = bool(self._overseer.bridge.store.task(request.id).approved_as)
            task = self._task(desk.approve(request.id, request.plan_digest, who))
            return pb.ApproveTaskResponse(task=task, already=already)

        return await self._executor.run(approve)

    async def RejectTask(self, request: pb.RejectTaskRequest, context: Any) -> pb.RejectTaskResponse:
        who = caller()
        return pb.RejectTaskResponse(
            task=await self._one(lambda: self._overseer.desk.reject(request.id, request.why, who))
        )

    async def CancelTask(self, request: pb.CancelTaskRequest, context: Any) -> pb.CancelTaskResponse:
        who = caller()
        return pb.CancelTaskResponse(
            task=await self._one(lambda: self._overseer.desk.cancel(request.id, request.why, who))
        )

    async def Undo(self, request: pb.UndoRequest, context: Any) -> pb.UndoResponse:
        who, patience = caller(), self._overseer.bridge.options.undo_wait_seconds
        left = context.time_remaining() if context is not None else None
        wait = patience if left is None else max(0.0, min(patience, left - 0.5))

        def undo() -> pb.UndoResponse:
            return wire.undone_to_wire(
                self._overseer.desk.undo(
                    request.id, dry_run=request.dry_run, cascade=request.cascade, who=who, wait_seconds=wait
                )
            )

        return await self._executor.run(undo)

    async def GetLadder(self, request: pb.GetLadderRequest, context: Any) -> pb.GetLadderResponse:
        def find() -> list[pb.LadderEntry]:
            ladder = self._overseer.bridge.ladder
            rungs = [ladder.rung(request.domain)] if request.domain else ladder.rungs()
            return [self._rung(rung) for rung in rungs]

        return pb.GetLadderResponse(domains=await self._executor.run(find))

    async def SetLevel(self, request: pb.SetLevelRequest, context: Any) -> pb.SetLevelResponse:
        who, level = caller(), wire.level_from_wire(request.level)
        number = await self._executor.run(self._overseer.pulse_number)
        rung = await self._executor.run(self._overseer.desk.set_level, request.domain, level, request.why, number, who)
        return pb.SetLevelResponse(entry=self._rung(rung))

    async def ApproveDomain(self, request: pb.ApproveDomainRequest, context: Any) -> pb.ApproveDomainResponse:
        approve = self._overseer.desk.admissions.approve
        manifest = await self._executor.run(approve, request.envelope_json, caller())
        return pb.ApproveDomainResponse(domain=manifest.domain, manifest_digest=manifest.digest)

    async def RevokeDomain(self, request: pb.RevokeDomainRequest, context: Any) -> pb.RevokeDomainResponse:
        revoke = self._overseer.desk.admissions.revoke
        await self._executor.run(revoke, request.domain, request.why, caller())
        return pb.RevokeDomainResponse(domain=request.domain)

    async def ListDomains(self, request: pb.ListDomainsRequest, context: Any) -> pb.ListDomainsResponse:
        found = await self._executor.run(self._overseer.desk.admissions.listed)
        station = str(self._overseer.bridge.layout.root)
        return pb.ListDomainsResponse(domains=[wire.domain_to_wire(each, station) for each in found])

    async def InviteAgent(self, request: pb.InviteAgentRequest, context: Any) -> pb.InviteAgentResponse:
        agent, token = await self._executor.run(
            self._overseer.agents.invite, request.agent, tuple(request.domains), request.renew, caller()
        )
        return pb.InviteAgentResponse(agent=wire.agent_to_wire(agent), token=token)

    async def ListAgents(self, request: pb.ListAgentsRequest, context: Any) -> pb.ListAgentsResponse:
        found = await self._executor.run(self._overseer.agents.all)
        return pb.ListAgentsResponse(agents=[wire.agent_to_wire(each) for each in found])

    async def RevokeAgent(self, request: pb.RevokeAgentRequest, context: Any) -> pb.RevokeAgentResponse:
        agent = await self._executor.run(self._overseer.agents.revoke, request.agent, request.why, caller())
        return pb.RevokeAgentResponse(agent=wire.agent_to_wire(agent))

    async def RequeueTask(self, request: pb.RequeueTaskRequest, context: Any) -> pb.RequeueTaskResponse:
        who = caller()
        return pb.RequeueTaskResponse(task=await self._one(lambda: self._overseer.desk.requeue(request.task_id, who)))

    async def SetKillSwitch(self, request: pb.SetKillSwitchRequest, context: Any) -> pb.SetKillSwitchResponse:
        changed = await self._executor.run(self._overseer.desk.set_kill_switch, request.engaged, request.why, caller())
        return pb.SetKillSwitchResponse(engaged=self._overseer.bridge.kill_switch.engaged(), changed=changed)

    async def GetKpis(self, request: pb.GetKpisRequest, context: Any) -> pb.GetKpisResponse:
        found = await self._executor.run(self._overseer.measured)
        return pb.GetKpisResponse(
            window_seconds=WINDOW.total_seconds(),
            kpis=[wire.kpi_to_wire(each, found.now) for each in found.kpis()],
            confidence=wire.confidence_to_wire(found.calibration(), found.uplift()),
        )

    async def GetPolicy(self, request: pb.GetPolicyRequest, context: Any) -> pb.GetPolicyResponse:
        used = self._overseer.rules_used
        return await self._executor.run(
            lambda: wire.policy_to_wire(self._overseer.bridge.policy_file.in_force(), used())
        )

    async def TryPolicy(self, request: pb.TryPolicyRequest, context: Any) -> pb.TryPolicyResponse:
        last = request.last.ToTimedelta() if request.HasField("last") else MONTH
        made = await self._executor.run(tried, self._overseer, request.text, last, dict(request.terms))
        return pb.TryPolicyResponse(result_json=canonical_json(made.result).decode(), words=made.words)

    async def ReplayPulses(
        self, request: pb.ReplayPulsesRequest, context: Any
    ) -> AsyncIterator[pb.ReplayPulsesResponse]:
        desk = ReplayDesk(self._overseer)
        last = _limit(request.last, 0, 1_000_000)
        for pulse in await self._executor.run(desk.ids, request.id, last):
            yield wire.replay_to_wire(await self._executor.run(desk.verdict, pulse))

    async def GetStation(self, request: pb.GetStationRequest, context: Any) -> pb.GetStationResponse:
        return await self._executor.run(self._station)

    def _station(self) -> pb.GetStationResponse:
        bridge = self._overseer.bridge
        now = bridge.clock.now()
        last = self._overseer.pulses(1)
        answer = pb.GetStationResponse(
            station_id=bridge.station_id,
            version=bridge.version,
            kill_switch=bridge.kill_switch.engaged(),
            kill_switch_why=bridge.kill_switch.why(),
            pulse_interval_seconds=bridge.options.pulse_interval_seconds,
            next_pulse_at=wire.stamp(self._overseer.next_pulse_at()),
            tasks=bridge.store.counts(),
        )
        if last:
            answer.last_pulse.CopyFrom(self._summary(last[0]))
            began = answer.last_pulse.started_at.ToDatetime(tzinfo=now.tzinfo)
            answer.last_pulse_age_seconds = max(0.0, (now - began).total_seconds())
        return answer

    def _summary(self, summary: Json) -> pb.PulseSummary:
        return wire.summary_to_wire(summary, self._overseer.bridge.clock.now())

    async def _one(self, find: Callable[[], Task]) -> pb.Task:
        return await self._executor.run(lambda: self._task(find()))

    def _task(self, task: Task) -> pb.Task:
        looks = self._overseer.bridge.store.rows("verifications_of", task.id)
        return wire.task_to_wire(task, looks, self._overseer.desk.undo_possible(task))

    def _rung(self, rung: Rung) -> pb.LadderEntry:
        return wire.rung_to_wire(rung, self._obstacle(rung))

    def _obstacle(self, rung: Rung) -> str:
        bridge = self._overseer.bridge
        manifest = bridge.domains.get(rung.domain)
        recent = bridge.store.tasks("tasks_by_domain", rung.domain, RUNS)
        return obstacle(rung, manifest, recent) if manifest is not None else ""


def _limit(asked: int, usual: int, most: int) -> int:
    if asked < 0:
        raise InvalidInput("a limit is not negative")
    return min(asked or usual, most)
