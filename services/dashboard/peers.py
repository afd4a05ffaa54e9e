"""The other services over gRPC; the stubs' deadlines are given call by call."""

from collections.abc import Callable
from datetime import datetime

import grpc
from calyx.analytics.v1 import analytics_pb2, analytics_pb2_grpc
from calyx.cbo.v1 import cbo_pb2, cbo_pb2_grpc
from calyx.governor.v1 import governor_pb2, governor_pb2_grpc
from calyx.guardian.v1 import guardian_pb2, guardian_pb2_grpc
from calyx.inbox.v1 import inbox_pb2, inbox_pb2_grpc
from calyx.memory.v1 import memory_pb2, memory_pb2_grpc

from chassis.canonical import Json
from chassis.clock import parse_iso
from services.dashboard.ports import Peers
from services.dashboard.wire import plain


def connect_all(channel: Callable[[str], grpc.Channel]) -> Peers:
    """One adapter a service, on `channel(service)`."""
    return Peers(
        cbo=GrpcCbo(channel("cbo")),
        governor=GrpcGovernor(channel("governor")),
        guardian=GrpcGuardian(channel("guardian")),
        analytics=GrpcAnalytics(channel("analytics")),
        memory=GrpcMemory(channel("memory")),
    )


class GrpcCbo:
    def __init__(self, channel: grpc.Channel) -> None:
        self._stub = cbo_pb2_grpc.CboServiceStub(channel)
        self._inbox = inbox_pb2_grpc.InboxServiceStub(channel)

    def station(self, timeout: float) -> Json:
        return plain(self._stub.GetStation(cbo_pb2.GetStationRequest(), timeout=timeout))

    def pulses(self, limit: int, timeout: float) -> list[Json]:
        answer = self._stub.ListPulses(cbo_pb2.ListPulsesRequest(limit=limit), timeout=timeout)
        return [plain(each) for each in answer.pulses]

    def pulse(self, pulse_id: str, timeout: float) -> Json:
        return plain(self._stub.GetPulse(cbo_pb2.GetPulseRequest(id=pulse_id), timeout=timeout))

    def run_pulse(self, timeout: float) -> Json:
        return plain(self._stub.RunPulse(cbo_pb2.RunPulseRequest(), timeout=timeout))

    def tasks(self, limit: int, state: str, domain: str, waiting: bool, timeout: float) -> list[Json]:
        asked = cbo_pb2.ListTasksRequest(limit=limit, state=state, domain=domain, waiting_for_person=waiting)
        return [plain(each) for each in self._stub.ListTasks(asked, timeout=timeout).tasks]

    def waiting(self, timeout: float) -> Json:
        return plain(self._inbox.ListWaiting(inbox_pb2.ListWaitingRequest(), timeout=timeout))

    def task(self, task_id: str, timeout: float) -> Json:
        return plain(self._stub.GetTask(cbo_pb2.GetTaskRequest(id=task_id), timeout=timeout).task)

    def approve(self, task_id: str, plan_digest: str, timeout: float) -> Json:
        asked = cbo_pb2.ApproveTaskRequest(id=task_id, plan_digest=plan_digest)
        return plain(self._stub.ApproveTask(asked, timeout=timeout).task)

    def reject(self, task_id: str, why: str, timeout: float) -> Json:
        asked = cbo_pb2.RejectTaskRequest(id=task_id, why=why)
        return plain(self._stub.RejectTask(asked, timeout=timeout).task)

    def cancel(self, task_id: str, why: str, timeout: float) -> Json:
        asked = cbo_pb2.CancelTaskRequest(id=task_id, why=why)
        return plain(self._stub.CancelTask(asked, timeout=timeout).task)

    def ladder(self, timeout: float) -> list[Json]:
        answer = self._stub.GetLadder(cbo_pb2.GetLadderRequest(), timeout=timeout)
        return [plain(each) for each in answer.domains]

    def kpis(self, timeout: float) -> Json:
        return plain(self._stub.GetKpis(cbo_pb2.GetKpisRequest(), timeout=timeout))

    def agents(self, timeout: float) -> list[Json]:
        return [plain(each) for each in self._stub.ListAgents(cbo_pb2.ListAgentsRequest(), timeout=timeout).agents]

    def objectives(self, finished: bool, timeout: float) -> list[Json]:
        asked = cbo_pb2.ListObjectivesRequest(include_finished=finished)
        return [plain(each) for each in self._stub.ListObjectives(asked, timeout=timeout).objectives]

    def submit(self, wanted: Json, timeout: float) -> Json:
        asked = cbo_pb2.SubmitObjectiveRequest(
            text=wanted["text"],
            domain=wanted.get("domain") or "",
            params=wanted.get("params") or {},
            idempotency_key=wanted.get("idempotency_key") or "",
        )
        if wanted.get("every_seconds"):
            nanos = round(wanted["every_seconds"] * 1e9)
            asked.schedule.every.seconds, asked.schedule.every.nanos = divmod(nanos, 10**9)
        elif wanted.get("at"):
            asked.schedule.at.FromDatetime(parse_iso(wanted["at"]))
        elif wanted.get("every_pulse"):
            asked.schedule.every_pulse = True
        return plain(self._stub.SubmitObjective(asked, timeout=timeout).objective)

    def set_kill_switch(self, engaged: bool, why: str, timeout: float) -> Json:
        asked = cbo_pb2.SetKillSwitchRequest(engaged=engaged, why=why)
        return plain(self._stub.SetKillSwitch(asked, timeout=timeout))


class GrpcGovernor:
    def __init__(self, channel: grpc.Channel) -> None:
        self._stub = governor_pb2_grpc.GovernorServiceStub(channel)

    def capacity(self, timeout: float) -> Json:
        return plain(self._stub.GetCapacity(governor_pb2.GetCapacityRequest(), timeout=timeout))

    def leases(self, timeout: float) -> list[Json]:
        answer = self._stub.ListLeases(governor_pb2.ListLeasesRequest(), timeout=timeout)
        return [plain(each) for each in answer.leases]


class GrpcGuardian:
    def __init__(self, channel: grpc.Channel) -> None:
        self._stub = guardian_pb2_grpc.GuardianServiceStub(channel)

    def health(self, slots_since: datetime | None, timeout: float) -> Json:
        asked = guardian_pb2.GetHealthRequest()
        if slots_since is not None:
            asked.slots_since.FromDatetime(slots_since)
        return plain(self._stub.GetHealth(asked, timeout=timeout))

    def incidents(self, limit: int, timeout: float) -> list[Json]:
        answer = self._stub.ListIncidents(guardian_pb2.ListIncidentsRequest(limit=limit), timeout=timeout)
        return [plain(each) for each in answer.incidents]


class GrpcAnalytics:
    def __init__(self, channel: grpc.Channel) -> None:
        self._stub = analytics_pb2_grpc.AnalyticsServiceStub(channel)

    def trends(self, timeout: float) -> Json:
        return plain(self._stub.GetTrends(analytics_pb2.GetTrendsRequest(), timeout=timeout))

    def charts(self, timeout: float) -> list[Json]:
        answer = self._stub.ListCharts(analytics_pb2.ListChartsRequest(), timeout=timeout)
        return [plain(each) for each in answer.charts]


class GrpcMemory:
    def __init__(self, channel: grpc.Channel) -> None:
        self._stub = memory_pb2_grpc.MemoryServiceStub(channel)

    def stats(self, timeout: float) -> Json:
        return plain(self._stub.Stats(memory_pb2.StatsRequest(), timeout=timeout))

    def recall(self, objective: str, limit: int, timeout: float) -> Json:
        asked = memory_pb2.RecallRequest(objective=objective, limit=limit)
        return plain(self._stub.Recall(asked, timeout=timeout))
