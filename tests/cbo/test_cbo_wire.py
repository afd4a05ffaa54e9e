"""The CBO over real gRPC: contract, allow-lists, errors as they were raised; and its peers over the local channel."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from calyx.cbo.v1 import cbo_pb2 as pb
from calyx.cbo.v1 import cbo_pb2_grpc
from calyx.common.v1 import common_pb2
from calyx.governor.v1 import governor_pb2, governor_pb2_grpc
from calyx.guardian.v1 import guardian_pb2, guardian_pb2_grpc
from calyx.memory.v1 import memory_pb2, memory_pb2_grpc
from calyx.probe.v1 import probe_pb2, probe_pb2_grpc
from cbo_station import Station
from prometheus_client import CollectorRegistry, generate_latest

from chassis.errors import InvalidInput, NotFound, PermissionDenied, Unavailable
from chassis.executor import ThreadExecutor
from chassis.rpc.auth import Callers
from chassis.rpc.client import ServiceChannel, open_channel
from chassis.rpc.local import LocalChannel
from chassis.rpc.server import RunningServer, Served, start_server
from services.cbo import servicer
from services.cbo.metrics import PulseMetrics
from services.cbo.peers import peers_over
from services.cbo.ports import Experience, Judgement, Summary

CALLERS = ("operator", "dashboard", "governor", "guardian", "analytics", "memory")
Connect = Callable[[str], cbo_pb2_grpc.CboServiceStub]


@pytest.fixture
def connect(station: Station) -> Iterator[Connect]:
    """A real server in a loop of its own; gives a stub for each caller."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    executor = ThreadExecutor("test-cbo", threads=4)
    served = Served(
        servicer.FULL_NAME,
        cbo_pb2_grpc.add_CboServiceServicer_to_server,
        servicer.CboServicer(station.cbo, executor),
        servicer.ALLOW,
    )

    async def start() -> RunningServer:
        tokens = {name: f"{name}-token" for name in CALLERS}
        return await start_server(
            served=[served], callers=Callers.of_tokens(tokens), checks={}, executor=executor, grace_seconds=0.0
        )

    running = asyncio.run_coroutine_threadsafe(start(), loop).result(10)
    channels: list[ServiceChannel] = []

    def stub(caller: str) -> cbo_pb2_grpc.CboServiceStub:
        channels.append(open_channel(f"127.0.0.1:{running.port}", f"{caller}-token"))
        return cbo_pb2_grpc.CboServiceStub(channels[-1])

    yield stub
    for channel in channels:
        channel.close()
    asyncio.run_coroutine_threadsafe(running.stop(), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()
    executor.close()


def test_every_method_of_the_contract_has_an_allow_list() -> None:
    methods = {method.name for method in pb.DESCRIPTOR.services_by_name["CboService"].methods}
    assert set(servicer.ALLOW) == methods


def test_a_person_walks_through_the_whole_contract(station: Station, connect: Connect) -> None:
    stub = connect("operator")
    with pytest.raises(NotFound):
        stub.GetPulse(pb.GetPulseRequest())
    made = stub.SubmitObjective(
        pb.SubmitObjectiveRequest(text="rotate the logs", domain="log_rotation", params={"min_bytes": "1"})
    ).objective
    assert made.source == "operator" and not made.HasField("schedule")
    pulse = stub.RunPulse(pb.RunPulseRequest()).pulse
    assert (pulse.id, pulse.planned, pulse.dispatched) == ("bp-000000001", 2, 2)
    assert pulse.tes.state == common_pb2.FIGURE_STATE_UNKNOWN and not pulse.tes.HasField("value")
    station.agent()
    station.clock.advance(60)
    pulse = stub.RunPulse(pb.RunPulseRequest()).pulse
    assert pulse.tes.value == 100.0 and pulse.tes.coverage == 1.0
    whole = stub.GetPulse(pb.GetPulseRequest())
    assert whole.summary.id == "bp-000000002" and '"schema":"calyx.pulse/2"' in whole.record_json
    assert whole.report_markdown.startswith("# Check-in bp-000000002")
    assert [each.id for each in stub.ListPulses(pb.ListPulsesRequest()).pulses] == ["bp-000000002", "bp-000000001"]
    inbox = stub.ListTasks(pb.ListTasksRequest(waiting_for_person=True)).tasks
    waiting = next(task for task in inbox if task.domain == "log_rotation")
    assert waiting.state == "rehearsed" and waiting.plan_digest and '"changes"' in waiting.plan_json
    assert waiting.gates[0].gate == "kill_switch" and waiting.prediction == 0.5
    assert not waiting.undo_possible and waiting.undo_reason
    second = stub.ApproveTask(pb.ApproveTaskRequest(id=waiting.id, plan_digest=waiting.plan_digest)).task
    assert second.rehearsal_of == waiting.id
    assert stub.GetTask(pb.GetTaskRequest(id=second.id)).task.state == "ready"
    assert stub.CancelTask(pb.CancelTaskRequest(id=second.id, why="no")).task.state == "cancelled"
    entry = stub.SetLevel(pb.SetLevelRequest(domain="diagnostics", level=common_pb2.LEVEL_EXECUTE, why="trusted")).entry
    assert entry.level == common_pb2.LEVEL_EXECUTE and entry.probation
    assert len(stub.GetLadder(pb.GetLadderRequest()).domains) == len(station.domains)
    assert stub.SetKillSwitch(pb.SetKillSwitchRequest(engaged=True, why="look")).changed
    assert not stub.SetKillSwitch(pb.SetKillSwitchRequest(engaged=True, why="look")).changed
    about = stub.GetStation(pb.GetStationRequest())
    assert about.kill_switch and about.kill_switch_why == "look" and about.last_pulse.id == "bp-000000002"
    found = {kpi.name: kpi for kpi in stub.GetKpis(pb.GetKpisRequest()).kpis}
    assert found["overrides"].value.value == 2.0 and found["overrides"].verdict == "missed"
    known = stub.GetKpis(pb.GetKpisRequest()).confidence
    assert known.predictions == 0 and not known.HasField("brier") and not known.HasField("uplift")
    assert "of 30 decisions without memory" in known.uplift_note
    assert found["uptime"].value.state == common_pb2.FIGURE_STATE_UNKNOWN
    assert stub.CancelObjective(pb.CancelObjectiveRequest(id=made.id)).objective.state in ("cancelled", "done")


def test_errors_arrive_as_they_were_raised(connect: Connect) -> None:
    stub = connect("operator")
    with pytest.raises(NotFound, match="no task"):
        stub.GetTask(pb.GetTaskRequest(id="t-none"))
    with pytest.raises(InvalidInput, match="name a level"):
        stub.SetLevel(pb.SetLevelRequest(domain="diagnostics", why="x"))
    with pytest.raises(InvalidInput, match="needs words"):
        stub.SubmitObjective(pb.SubmitObjectiveRequest())
    with pytest.raises(InvalidInput, match="envelope"):
        stub.ApproveDomain(pb.ApproveDomainRequest(envelope_json="nonsense"))


@pytest.mark.parametrize("caller", ["governor", "guardian", "analytics", "memory"])
def test_a_governed_service_decides_nothing_about_itself(connect: Connect, caller: str) -> None:
    stub = connect(caller)
    stub.GetLadder(pb.GetLadderRequest())
    refused: list[Callable[[], Any]] = [
        lambda: stub.ApproveTask(pb.ApproveTaskRequest(id="t")),
        lambda: stub.SetLevel(pb.SetLevelRequest(domain="diagnostics", level=common_pb2.LEVEL_EXECUTE, why="me")),
        lambda: stub.SetKillSwitch(pb.SetKillSwitchRequest(engaged=False)),
        lambda: stub.SubmitObjective(pb.SubmitObjectiveRequest(text="x")),
        lambda: stub.Undo(pb.UndoRequest(id="t")),
        lambda: stub.ApproveDomain(pb.ApproveDomainRequest(envelope_json="{}")),
    ]
    for call in refused:
        with pytest.raises(PermissionDenied):
            call()


def test_watchers_see_each_pulse_as_it_ends(station: Station, connect: Connect) -> None:
    stub = connect("dashboard")
    seen: list[str] = []
    first = threading.Event()

    def watch() -> None:
        for answer in stub.WatchPulses(pb.WatchPulsesRequest(), timeout=20):
            seen.append(answer.pulse.id)
            first.set()
            return

    watcher = threading.Thread(target=watch)
    watcher.start()
    while not first.is_set():  # a pulse that ends before the stream is up is not in it
        station.cbo.run_pulse()
        first.wait(0.05)
    watcher.join()
    assert seen[0].startswith("bp-")


def test_metrics_say_nan_for_what_is_unknown(station: Station) -> None:
    registry = CollectorRegistry()
    station.cbo.watch(PulseMetrics(station.cbo, registry).ended)
    station.pulse(3)
    text = generate_latest(registry).decode()
    for line in (
        'calyx_pulses_total{status="complete"} 3.0', 'calyx_level{domain="diagnostics"} 3.0',
        'calyx_tes{domain="diagnostics"} 100.0', 'calyx_tes{domain="cleanup"} NaN', 'calyx_kpi{name="uptime"} NaN',
        'calyx_task_ends_total{domain="diagnostics",state="rehearsed"} 2.0', "calyx_kill_switch 0.0",
        "calyx_overrides_24h 0.0", 'calyx_exchange_depth{state="ready"} 0.0', "calyx_pulse_age_seconds 60.0",
    ):  # fmt: skip
        assert line in text


# peers


class Governor(governor_pb2_grpc.GovernorServiceServicer):
    async def GetCapacity(self, request: Any, context: Any) -> Any:
        capacity = governor_pb2.Capacity(
            ram_percent=common_pb2.Figure(value=50.0, state=common_pb2.FIGURE_STATE_STALE, unit="percent"),
            cpu_percent=common_pb2.Figure(value=50.0, state=common_pb2.FIGURE_STATE_UNKNOWN, unit="percent"),
            swap_percent=common_pb2.Figure(state=common_pb2.FIGURE_STATE_ABSENT, unit="percent"),
        )
        intent = governor_pb2.Intent(id="i", kind="cleanup", domain="cleanup", reason=request.pulse_id)
        return governor_pb2.GetCapacityResponse(capacity=capacity, intents=[intent])

    async def Admit(self, request: Any, context: Any) -> Any:
        return governor_pb2.AdmitResponse(admitted=request.owner == "guardian", reason="asked")


class Guardian(guardian_pb2_grpc.GuardianServiceServicer):
    async def GetHealth(self, request: Any, context: Any) -> Any:
        slot = guardian_pb2.UptimeSlot(start=request.slots_since, state="up")
        return guardian_pb2.GetHealthResponse(
            services=[guardian_pb2.ServiceHealth(service="memory", state="")], slots=[slot]
        )

    async def ListIncidents(self, request: Any, context: Any) -> Any:
        incident = guardian_pb2.Incident(
            id="i-1", target="memory", opened_at=request.since, causes=[guardian_pb2.Cause(cause="killed")]
        )
        return guardian_pb2.ListIncidentsResponse(incidents=[incident])


class Prober(probe_pb2_grpc.ProbeServiceServicer):
    async def Probe(self, request: Any, context: Any) -> Any:
        checks = [f"{each.kind} {each.target} {dict(each.expect)}" for each in request.checks]
        finding = probe_pb2.Finding(verdict=probe_pb2.VERDICT_REFUTED, found=checks[0])
        return probe_pb2.ProbeResponse(verdict=probe_pb2.VERDICT_REFUTED, findings=[finding], prober="guardian")


class Memory(memory_pb2_grpc.MemoryServiceServicer):
    def __init__(self) -> None:
        self.recorded: list[Any] = []
        self.judged: list[Any] = []

    async def Recall(self, request: Any, context: Any) -> Any:
        experience = memory_pb2.Experience(
            id="x", domain="d", procedure="p", outcome=memory_pb2.OUTCOME_SUCCESS, context={"rehearsal": "true"}
        )
        match = memory_pb2.Match(
            experience=experience,
            cosine=0.9,
            standing=memory_pb2.STANDING_SUPERSEDED,
            source="st/default/cbo",
            harmful=2,
        )
        summary = memory_pb2.ProcedureSummary(domain="d", procedure="p", successes=3, failures=1)
        return memory_pb2.RecallResponse(matches=[match], summaries=[summary])

    async def Feedback(self, request: Any, context: Any) -> Any:
        self.judged.append(request)
        return memory_pb2.FeedbackResponse(labels=1)

    async def RecordExperience(self, request: Any, context: Any) -> Any:
        self.recorded.append(request.experience)
        return memory_pb2.RecordExperienceResponse(id=request.experience.id, created=True)


def test_peers_translate_and_never_turn_unknown_into_a_number() -> None:
    memory = Memory()
    servicers = {
        "calyx.governor.v1.GovernorService": Governor(),
        "calyx.guardian.v1.GuardianService": Guardian(),
        "calyx.probe.v1.ProbeService": Prober(),
        "calyx.memory.v1.MemoryService": memory,
    }
    channel = LocalChannel(servicers, "cbo")
    peers = peers_over(dict.fromkeys(("memory", "governor", "guardian", "analytics"), channel), "st-1")
    capacity = peers.governor.capacity("bp-7")
    assert capacity.readings["ram_percent"].value == 50.0 and capacity.readings["ram_percent"].state == "stale"
    assert capacity.readings["cpu_percent"].value is None and capacity.readings["disk_percent"].state == "unknown"
    assert capacity.readings["swap_percent"].state == "absent"
    assert capacity.intents[0].reason == "bp-7"
    assert peers.governor.admit("t", "d", "guardian") == (True, "asked")
    since = datetime(2026, 1, 1, tzinfo=UTC)
    health = peers.guardian.health(since)
    assert health.slots == {since: "up"} and health.slots_from is None and health.services[0].state == "unknown"
    incident = peers.guardian.incidents(since)[0]
    assert incident.closed_at is None and incident.causes[0]["cause"] == "killed" and incident.grade == "unknown"
    probed = peers.probers["guardian"].probe("t", "d", "governor", [{"kind": "absent", "target": "/x", "expect": {}}])
    assert probed.verdict == "refuted" and probed.found == "absent /x {}"
    recalled = peers.memory.recall("x", "", 5)
    match = recalled.matches[0]
    assert match.rehearsal and (match.standing, match.source, match.harmful) == ("superseded", "st/default/cbo", 2)
    assert recalled.summaries == (Summary(domain="d", procedure="p", successes=3, failures=1),)
    peers.memory.judge("x", Judgement(verdict="harmful", task_id="t-1", query="sort", cosine=0.9))
    assert [(each.id, each.verdict, each.task_id, each.query, each.cosine) for each in memory.judged] == [
        ("x", memory_pb2.VERDICT_HARMFUL, "t-1", "sort", 0.9)
    ]
    peers.memory.record(
        Experience(
            id="x-1", objective="o", domain="d", procedure="p", task_id="t", pulse_id="bp-1",
            occurred_at=since + timedelta(hours=1), outcome="unknown", evidence="e",
        )
    )  # fmt: skip
    assert memory.recorded[0].station_id == "st-1" and not memory.recorded[0].HasField("tes")
    with pytest.raises(Unavailable):
        peers.analytics.trends()
