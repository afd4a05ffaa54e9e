"""The governor over a real server on port 0: figures, the RAM rule, leases, admission, who may do what, probes."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from calyx.common.v1 import common_pb2
from calyx.governor.v1 import governor_pb2 as pb
from calyx.governor.v1 import governor_pb2_grpc
from calyx.probe.v1 import probe_pb2, probe_pb2_grpc
from google.protobuf.duration_pb2 import Duration
from governor_fakes import Bench

from chassis.errors import InvalidInput, PermissionDenied, Refused
from chassis.executor import InlineExecutor, ThreadExecutor
from chassis.identity import CALLERS
from chassis.probing import run_checks
from chassis.rpc import probe_servicer
from chassis.rpc.auth import Callers
from chassis.rpc.client import open_channel
from chassis.rpc.local import LocalChannel
from chassis.rpc.server import Served, start_server
from services.governor import servicer
from services.governor.readings import Gpu, GpuDevice, Reading

TOKENS = {name: f"{name}-token" for name in CALLERS}


def served(bench: Bench, executor: Any) -> list[Served]:
    return [
        Served(
            servicer.FULL_NAME,
            governor_pb2_grpc.add_GovernorServiceServicer_to_server,
            servicer.GovernorServicer(bench.governor, executor),
            servicer.ALLOW,
        ),
        Served(
            probe_servicer.FULL_NAME,
            probe_pb2_grpc.add_ProbeServiceServicer_to_server,
            probe_servicer.ProbeServicer("governor", executor, bench.clock, run_checks),
            probe_servicer.ALLOW,
        ),
    ]


@dataclass
class Side:
    bench: Bench
    open: Callable[[str], Any]

    def governor(self, caller: str = "cbo") -> governor_pb2_grpc.GovernorServiceStub:
        return governor_pb2_grpc.GovernorServiceStub(self.open(caller))

    def probe(self, caller: str = "cbo") -> probe_pb2_grpc.ProbeServiceStub:
        return probe_pb2_grpc.ProbeServiceStub(self.open(caller))


@pytest.fixture(params=["wire", "in process"])
def side(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Side]:
    bench = Bench(tmp_path)
    if request.param == "in process":
        local = {each.full_name: each for each in served(bench, InlineExecutor())}
        yield Side(bench, lambda caller: LocalChannel(local, caller))
        return
    executor, loop, channels = ThreadExecutor("test", 2), asyncio.new_event_loop(), []
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def run(coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(20)

    running = run(
        start_server(served=served(bench, executor), callers=Callers.of_tokens(TOKENS), checks={}, executor=executor)
    )

    def open_one(caller: str) -> Any:
        channels.append(open_channel(f"127.0.0.1:{running.port}", TOKENS[caller], timeout_seconds=20))
        return channels[-1]

    yield Side(bench, open_one)
    for channel in channels:
        channel.close()
    run(running.stop())
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()
    executor.close()


def test_a_figure_crosses_with_its_age_state_coverage_and_source(side: Side) -> None:
    side.bench.run(12)
    capacity = side.governor("dashboard").GetCapacity(pb.GetCapacityRequest()).capacity
    ram = capacity.ram_percent
    assert (ram.value, ram.state, ram.unit) == (40.0, common_pb2.FIGURE_STATE_OK, "percent")
    assert (ram.age_seconds, ram.coverage) == (5.0, 1.0)
    assert ram.measured_at.ToJsonString() == capacity.at.ToJsonString() == "2026-01-01T00:00:55Z"
    assert capacity.source["ram"] == "cgroup-v1"
    assert (capacity.sequence, capacity.gpu.state) == (12, pb.GPU_STATE_ABSENT)
    assert not capacity.swap_percent.HasField("value")
    assert capacity.swap_percent.state == common_pb2.FIGURE_STATE_ABSENT
    assert capacity.psi.cpu_some.value == 3.0
    assert not capacity.psi.io_some.HasField("value")


def test_an_unknown_figure_crosses_without_a_value(side: Side) -> None:
    side.bench.meter.set(cpu=Reading.unknown("no answer"))
    side.bench.run(1)
    cpu = side.governor().GetCapacity(pb.GetCapacityRequest()).capacity.cpu_percent
    assert not cpu.HasField("value")
    assert (cpu.state, cpu.note) == (common_pb2.FIGURE_STATE_UNKNOWN, "no answer")


def test_before_any_sample_the_answer_has_no_time_and_no_values(side: Side) -> None:
    capacity = side.governor().GetCapacity(pb.GetCapacityRequest()).capacity
    assert not capacity.HasField("at")
    assert not capacity.ram_percent.HasField("value")


def test_gpu_devices_cross_one_by_one(side: Side) -> None:
    none = Reading.absent("not reported")
    device = GpuDevice(
        index=0, name="H100", utilization_percent=Reading.ok(7.0), memory_percent=none, temperature_celsius=none
    )
    side.bench.meter.set(gpu=Gpu(state="ok", devices=(device,)))
    side.bench.run(1)
    (gpu,) = side.governor().GetCapacity(pb.GetCapacityRequest()).capacity.gpu.devices
    assert (gpu.name, gpu.utilization_percent.value, gpu.memory_percent.HasField("value")) == ("H100", 7.0, False)


def test_the_cbos_pulses_raise_the_intent(side: Side) -> None:
    side.bench.meter.set(ram=Reading.ok(85.0))
    for number in range(3):
        side.bench.run(2)
        answer = side.governor().GetCapacity(pb.GetCapacityRequest(pulse_id=f"bp-{number}"))
    (intent,) = answer.intents
    assert (intent.kind, intent.domain, intent.id) == ("cleanup", "cleanup", "cleanup-bp-2")
    assert intent.raised_at.seconds > 0


@pytest.mark.parametrize("caller", ["dashboard", "operator", "guardian", "analytics"])
def test_nobody_but_the_cbo_sets_a_pulse_id(side: Side, caller: str) -> None:
    with pytest.raises(PermissionDenied, match="only cbo"):
        side.governor(caller).GetCapacity(pb.GetCapacityRequest(pulse_id="bp-1"))


def test_a_lease_is_granted_listed_and_ended(side: Side) -> None:
    stub = side.governor("operator")
    lease = stub.Sleep(pb.SleepRequest(target="analytics", duration=Duration(seconds=60), reason="quiet")).lease
    assert (lease.kind, lease.target, lease.by, lease.reason) == (pb.LEASE_KIND_SLEEP, "analytics", "operator", "quiet")
    assert lease.expires_at.seconds - lease.granted_at.seconds == 60
    assert not lease.HasField("share")
    throttle = pb.ThrottleRequest(target="cleanup", duration=Duration(seconds=60), share=0.5, reason="")
    assert stub.Throttle(throttle).lease.share == 0.5
    assert [e.target for e in stub.ListLeases(pb.ListLeasesRequest()).leases] == ["analytics", "cleanup"]
    assert [e.target for e in stub.ListLeases(pb.ListLeasesRequest(target="cleanup")).leases] == ["cleanup"]
    assert [e.id for e in stub.Resume(pb.ResumeRequest(target="analytics")).ended] == [lease.id]


def test_refusals_cross_as_what_they_are(side: Side) -> None:
    stub = side.governor("operator")
    with pytest.raises(Refused, match="keeps the station alive"):
        stub.Sleep(pb.SleepRequest(target="guardian", duration=Duration(seconds=60)))
    with pytest.raises(InvalidInput, match="24 h"):
        stub.Sleep(pb.SleepRequest(target="analytics"))


def test_admission_answers_with_a_reason(side: Side) -> None:
    stub = side.governor()
    request = pb.AdmitRequest(task_id="t-1", domain="log_rotation", owner="governor", needs={"ram_bytes": 1e6})
    assert not stub.Admit(request).admitted
    side.bench.run(1)
    answer = stub.Admit(request)
    assert (answer.admitted, answer.reason) == (True, "RAM 40 %, CPU 10 %, disk 50 %")


@pytest.mark.parametrize(
    ("caller", "method", "request_"),
    [
        ("dashboard", "Admit", pb.AdmitRequest()),
        ("analytics", "Sleep", pb.SleepRequest()),
        ("memory", "GetCapacity", pb.GetCapacityRequest()),
        ("governor", "Throttle", pb.ThrottleRequest()),
    ],
)
def test_callers_do_only_what_they_may(side: Side, caller: str, method: str, request_: Any) -> None:
    with pytest.raises(PermissionDenied):
        getattr(side.governor(caller), method)(request_)


def test_every_method_of_the_contract_has_an_allow_list() -> None:
    methods = {m.name for m in pb.DESCRIPTOR.services_by_name["GovernorService"].methods}
    assert set(servicer.ALLOW) == methods


def test_the_governor_probes_others_and_never_its_own_work(side: Side, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    report.write_text("{}")
    check = probe_pb2.Check(
        kind="file_digest",
        target=str(report),
        expect={"sha256": "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"},
    )
    request = probe_pb2.ProbeRequest(task_id="t-1", domain="diagnostics", doer="guardian", checks=[check])
    answer = side.probe().Probe(request)
    assert (answer.verdict, answer.prober) == (probe_pb2.VERDICT_CONFIRMED, "governor")
    with pytest.raises(Refused, match="does not certify itself"):
        side.probe().Probe(probe_pb2.ProbeRequest(task_id="t-1", doer="governor", checks=[check]))


@pytest.mark.parametrize("side", ["wire"], indirect=True)  # a stream that waits for samples needs an event loop
def test_a_watcher_gets_a_message_for_a_sample_taken_after_it_came(side: Side) -> None:
    side.bench.run(1)
    stream = side.governor("dashboard").WatchCapacity(pb.WatchCapacityRequest(), timeout=20)
    while not side.bench.governor._watchers:  # until the call has reached the servicer
        side.bench.clock.wait(0)
    side.bench.run(1)
    assert next(stream).capacity.sequence == 2
    stream.cancel()
