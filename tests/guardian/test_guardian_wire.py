"""The guardian's services over a real in-process server, and its own health probe against it."""

import asyncio

import pytest
from calyx.guardian.v1 import guardian_pb2 as pb
from calyx.guardian.v1 import guardian_pb2_grpc
from guardian_world import World
from prometheus_client import CollectorRegistry, generate_latest

from chassis.errors import InvalidInput, NotFound
from chassis.executor import InlineExecutor
from chassis.rpc.auth import Callers
from chassis.rpc.local import LocalChannel
from chassis.rpc.server import Served, start_server
from services.guardian import servicer
from services.guardian.grpc_health import GrpcHealthProbe
from services.guardian.incidents import Class
from services.guardian.metrics import Counted, HealthCollector


@pytest.fixture
def stub(world: World) -> guardian_pb2_grpc.GuardianServiceStub:
    served = Served(
        servicer.FULL_NAME,
        guardian_pb2_grpc.add_GuardianServiceServicer_to_server,
        servicer.GuardianServicer(world.guardian, InlineExecutor()),
        servicer.ALLOW,
    )
    return guardian_pb2_grpc.GuardianServiceStub(LocalChannel({servicer.FULL_NAME: served}, "operator"))


def test_every_method_of_the_contract_has_its_callers() -> None:
    methods = {m.name for m in pb.DESCRIPTOR.services_by_name["GuardianService"].methods}
    assert methods == set(servicer.ALLOW)


def test_health_crosses_the_wire_with_ages_and_slots(world: World, stub: guardian_pb2_grpc.GuardianServiceStub) -> None:
    began = world.clock.now()
    unknown = stub.GetHealth(pb.GetHealthRequest())
    assert {row.state for row in unknown.services} == {"unknown"}
    assert not any(row.HasField("probed_at") or row.HasField("uptime_seconds") for row in unknown.services[:2])
    world.run(130)
    request = pb.GetHealthRequest()
    request.slots_since.FromDatetime(began)
    answer = stub.GetHealth(request)
    assert [row.service for row in answer.services] == [
        "memory", "governor", "guardian", "cbo", "analytics", "dashboard",
    ]  # fmt: skip
    assert [slot.state for slot in answer.slots] == ["up", "up"]
    assert all(row.HasField("uptime_seconds") and row.age_seconds <= 6 for row in answer.services)


def test_an_incident_crosses_the_wire_whole(world: World, stub: guardian_pb2_grpc.GuardianServiceStub) -> None:
    world.run(10)
    before = world.clock.now()
    world.runtime.crash("memory")
    world.run(3)  # up to the next round
    (listed,) = stub.ListIncidents(pb.ListIncidentsRequest(open_only=True)).incidents
    assert not listed.HasField("closed_at")
    assert not listed.HasField("recovered_seconds")
    world.run(10)
    incident = stub.GetIncident(pb.GetIncidentRequest(id=listed.id)).incident
    assert incident.HasField("closed_at")
    assert incident.HasField("recovered_seconds")
    assert getattr(incident, "class") == pb.INCIDENT_CLASS_MINOR
    assert (incident.recovery.action, incident.recovery.attempts) == ("restart", 1)
    assert incident.causes[0].disproved_by
    since = pb.ListIncidentsRequest()
    since.since.FromDatetime(before)
    assert len(stub.ListIncidents(since).incidents) == 1
    since.since.FromDatetime(world.clock.now())
    assert len(stub.ListIncidents(since).incidents) == 0


def test_bad_requests_come_back_as_the_errors_they_are(stub: guardian_pb2_grpc.GuardianServiceStub) -> None:
    with pytest.raises(NotFound):
        stub.GetIncident(pb.GetIncidentRequest(id="inc-none"))
    with pytest.raises(InvalidInput):
        stub.ReportIncident(pb.ReportIncidentRequest(target="memory"))
    with pytest.raises(InvalidInput):
        stub.ListIncidents(pb.ListIncidentsRequest(limit=-1))


def test_playbooks_and_quarantine_by_hand(world: World, stub: guardian_pb2_grpc.GuardianServiceStub) -> None:
    world.run(5)
    assert [p.name for p in stub.ListPlaybooks(pb.ListPlaybooksRequest()).playbooks] == [
        "quarantine", "restart", "rollback",
    ]  # fmt: skip
    dry = stub.RunPlaybook(pb.RunPlaybookRequest(name="quarantine", target="cbo", dry_run=True))
    assert not dry.done
    assert stub.RunPlaybook(pb.RunPlaybookRequest(name="quarantine", target="cbo")).done
    assert list(stub.GetHealth(pb.GetHealthRequest()).quarantined) == ["cbo"]
    assert stub.ReleaseQuarantine(pb.ReleaseQuarantineRequest(target="cbo")).released


def test_metrics_say_nan_for_what_is_not_known(world: World) -> None:
    registry = CollectorRegistry()
    counted = Counted(registry)
    registry.register(HealthCollector(world.guardian.health, lambda: 0))
    assert 'calyx_service_up{target="memory"} NaN' in generate_latest(registry).decode()
    world.run(5)
    counted.opened(Class.MINOR)
    counted.acted("restart")
    text = generate_latest(registry).decode()
    for line in (
        'calyx_service_up{target="memory"} 1.0',
        'calyx_incidents_total{class="minor"} 1.0',
        'calyx_recoveries_total{action="restart"} 1.0',
        "calyx_incidents_open 0.0",
        "calyx_recovery_seconds_count 0.0",
    ):
        assert line in text
    assert "calyx_probe_age_seconds" in text


def test_the_health_probe_tells_serving_from_failing_from_gone() -> None:
    broken: list[bool] = [False]

    def check() -> None:
        if broken[0]:
            raise OSError("the disk is on fire")

    async def run() -> None:
        server = await start_server(
            served=[],
            callers=Callers({}),
            checks={"disk": check},
            executor=InlineExecutor(),
            about={"calyx-version": "9", "calyx-pid": "42", "calyx-started": "2026-01-01T00:00:00Z"},
            grace_seconds=0.0,
        )
        probe = GrpcHealthProbe({"memory": f"127.0.0.1:{server.port}"})
        try:
            found = await asyncio.to_thread(probe.probe, "memory", 5.0)
            assert (found.state, found.version, found.pid) == ("serving", "9", 42)
            assert found.started_at is not None
            broken[0] = True
            await server.check_health()
            assert (await asyncio.to_thread(probe.probe, "memory", 5.0)).state == "not_serving"
        finally:
            await server.stop()
        assert (await asyncio.to_thread(probe.probe, "memory", 5.0)).state == "unreachable"
        probe.close()

    asyncio.run(run())
