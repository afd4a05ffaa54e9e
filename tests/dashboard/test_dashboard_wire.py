"""Over the real contracts: the fakes speak them, the adapters read them, the servicer answers them."""

import asyncio
import json
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from calyx.analytics.v1 import analytics_pb2
from calyx.cbo.v1 import cbo_pb2, cbo_pb2_grpc
from calyx.common.v1 import common_pb2
from calyx.dashboard.v1 import dashboard_pb2, dashboard_pb2_grpc
from calyx.governor.v1 import governor_pb2
from calyx.guardian.v1 import guardian_pb2
from calyx.memory.v1 import memory_pb2
from dashboard_fakes import TOKENS, bench
from dashboard_scenes import busy
from google.protobuf.message import Message

from chassis.clock import VirtualClock
from chassis.errors import PermissionDenied, Unavailable
from chassis.executor import InlineExecutor, ThreadExecutor
from chassis.rpc.auth import Callers
from chassis.rpc.client import open_channel
from chassis.rpc.local import LocalChannel
from chassis.rpc.server import Served, start_server
from services.dashboard.board import in_turn
from services.dashboard.peers import GrpcCbo, connect_all
from services.dashboard.servicer import ALLOW, FULL_NAME, DashboardServicer
from services.dashboard.wire import plain


def test_the_fakes_use_the_contracts_field_names() -> None:
    station = busy(VirtualClock())
    fakes: list[tuple[dict[str, Any], Message]] = [
        (station.station(1), cbo_pb2.GetStationResponse()),
        (station.pulse_list[0], cbo_pb2.PulseSummary()),
        (station.pulse("bp-000000042", 1), cbo_pb2.GetPulseResponse()),
        (station.task_list[0], cbo_pb2.Task()),
        (station.ladder_list[0], cbo_pb2.LadderEntry()),
        (station.kpis(1), cbo_pb2.GetKpisResponse()),
        (station.kpi_list[0], cbo_pb2.Kpi()),
        (station.agent_list[0], cbo_pb2.Agent()),
        (station.kpi_list[0]["value"], common_pb2.Figure()),
        (station.capacity(1), governor_pb2.GetCapacityResponse()),
        (station.readings, governor_pb2.Capacity()),
        (station.readings["psi"], governor_pb2.Psi()),
        (station.health(None, 1), guardian_pb2.GetHealthResponse()),
        (station.health(None, 1)["services"][0], guardian_pb2.ServiceHealth()),
        (station.incident_list[0], guardian_pb2.Incident()),
        (station.incident_list[0]["recovery"], guardian_pb2.Recovery()),
        (station.incident_list[0]["causes"][0], guardian_pb2.Cause()),
        (station.trend_answer, analytics_pb2.GetTrendsResponse()),
        (station.trend_answer["trends"][0], analytics_pb2.Trend()),
        (station.memory_stats, memory_pb2.StatsResponse()),
    ]
    for fake, message in fakes:
        assert set(fake) <= set(plain(message)), message.DESCRIPTOR.full_name


def test_messages_become_plain_json_and_unset_stays_unset() -> None:
    task = cbo_pb2.Task(id="t", level=common_pb2.LEVEL_GUIDE)
    task.created_at.seconds = 1
    made = plain(task)
    assert (made["level"], made["tes"], made["created_at"]) == ("GUIDE", None, "1970-01-01T00:00:01.000000Z")
    assert made["ended_at"] is None
    task.tes = float("nan")
    assert plain(task)["tes"] is None, "not a number is not a number"
    incident = plain(guardian_pb2.Incident(**{"class": guardian_pb2.INCIDENT_CLASS_MAJOR}))
    assert (incident["class"], incident["closed_at"], incident["causes"]) == ("major", None, [])
    reading = plain(
        governor_pb2.Capacity(gpu=governor_pb2.Gpu(state=governor_pb2.GPU_STATE_ABSENT), source={"ram": "host"})
    )
    assert (reading["gpu"]["state"], reading["source"], reading["ram_percent"]) == ("absent", {"ram": "host"}, None)


def test_schedules_reach_the_wire_with_their_fractions() -> None:
    seen: list[cbo_pb2.SubmitObjectiveRequest] = []

    class Cbo(cbo_pb2_grpc.CboServiceServicer):
        async def SubmitObjective(self, request: Any, context: Any) -> Any:
            seen.append(request)
            return cbo_pb2.SubmitObjectiveResponse(objective=cbo_pb2.Objective(id="ob-1", text=request.text))

    cbo = GrpcCbo(LocalChannel({"calyx.cbo.v1.CboService": Cbo()}, "dashboard"))  # type: ignore[abstract] # one method
    assert cbo.submit({"text": "rotate", "every_seconds": 1.5}, 1)["id"] == "ob-1"
    cbo.submit({"text": "rotate", "at": "2026-01-01T00:00:00.000000Z"}, 1)
    cbo.submit({"text": "rotate", "every_pulse": True}, 1)
    cbo.submit({"text": "rotate"}, 1)
    assert (seen[0].schedule.every.seconds, seen[0].schedule.every.nanos) == (1, 500_000_000)
    assert seen[1].schedule.at.seconds == 1767225600
    assert seen[2].schedule.every_pulse
    assert not seen[3].HasField("schedule")


def test_peers_that_are_not_there_are_unavailable() -> None:
    peers = connect_all(lambda _service: LocalChannel({}, "dashboard"))
    for ask in (peers.cbo.ladder, peers.governor.capacity, peers.analytics.trends, peers.memory.stats):
        with pytest.raises(Unavailable):
            ask(1.0)


def test_in_one_process_the_overview_comes_without_a_running_loop(tmp_path: Path) -> None:
    made = bench(tmp_path / "station", busy(VirtualClock()), gather=in_turn)
    servicer = DashboardServicer(made.at.board, made.at.desk, made.at.links, InlineExecutor())
    stub = dashboard_pb2_grpc.DashboardServiceStub(LocalChannel({FULL_NAME: servicer}, "operator"))
    answer = stub.GetOverview(dashboard_pb2.GetOverviewRequest(), timeout=20)
    assert json.loads(answer.overview_json)["station"]["last_pulse"] == "bp-000000042"
    assert answer.at.ToDatetime(tzinfo=made.clock.now().tzinfo) == made.clock.now()


def on_the_wire(made: Any, caller: str, ask: Callable[[dashboard_pb2_grpc.DashboardServiceStub], Any]) -> Any:
    """Ask a real aio server on a free port."""

    async def run() -> Any:
        executor = ThreadExecutor("test", 4)
        servicer = DashboardServicer(made.at.board, made.at.desk, made.at.links, executor)
        served = Served(FULL_NAME, dashboard_pb2_grpc.add_DashboardServiceServicer_to_server, servicer, ALLOW)
        server = await start_server(
            served=[served],
            callers=Callers.of_tokens(TOKENS),
            checks={},
            executor=executor,
            max_message_bytes=33 * 1024 * 1024,
        )
        try:
            with open_channel(
                f"127.0.0.1:{server.port}", TOKENS[caller], max_message_bytes=33 * 1024 * 1024
            ) as channel:
                return await asyncio.to_thread(ask, dashboard_pb2_grpc.DashboardServiceStub(channel))
        finally:
            await server.stop()
            executor.close()

    return asyncio.run(run())


def test_overview_export_and_login_link_over_grpc(tmp_path: Path) -> None:
    made = bench(tmp_path / "station", busy(VirtualClock()))

    def ask(stub: Any) -> Any:
        return (
            stub.GetOverview(dashboard_pb2.GetOverviewRequest(), timeout=20),
            stub.ExportDiagnostics(dashboard_pb2.ExportDiagnosticsRequest(), timeout=20),
            stub.IssueLoginLink(dashboard_pb2.IssueLoginLinkRequest(), timeout=20),
        )

    overview, exported, link = on_the_wire(made, "operator", ask)
    assert json.loads(overview.overview_json)["schema"] == "calyx.overview/1"
    assert zipfile.ZipFile(BytesIO(exported.archive)).testzip() is None
    assert exported.file_name.endswith(".zip")
    assert link.url.startswith("http://127.0.0.1:4040/login?token=login-")
    assert (link.expires_at.ToDatetime(tzinfo=made.clock.now().tzinfo) - made.clock.now()).total_seconds() == 600


@pytest.mark.parametrize("method", ["ExportDiagnostics", "IssueLoginLink"])
def test_only_the_operator_gets_logs_and_login_links(tmp_path: Path, method: str) -> None:
    made = bench(tmp_path / "station", busy(VirtualClock()))
    request = getattr(dashboard_pb2, f"{method}Request")()
    with pytest.raises(PermissionDenied):
        on_the_wire(made, "cbo", lambda stub: getattr(stub, method)(request, timeout=20))
