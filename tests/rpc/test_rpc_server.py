import socket
import threading
from pathlib import Path
from typing import Any

import grpc
import pytest
from calyx.cbo.v1 import cbo_pb2, cbo_pb2_grpc
from calyx.memory.v1 import memory_pb2 as pb
from calyx.memory.v1 import memory_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from rpc_harness import CBO, MEMORY, TOKENS, Wire

from chassis.clock import SystemClock, VirtualClock
from chassis.errors import DeadlineExceeded, InvalidInput, ResourceExhausted, Unauthenticated, Unavailable
from chassis.identity import found_station
from chassis.ids import RandomIds
from chassis.layout import Layout
from chassis.rpc import deadline
from chassis.rpc.client import connect, idempotent, open_channel
from chassis.rpc.status import from_rpc_error
from chassis.settings import StationSettings

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def health(wire: Wire, service: str = "") -> int:
    assert wire.running is not None
    with grpc.insecure_channel(f"127.0.0.1:{wire.running.port}") as channel:
        request = health_pb2.HealthCheckRequest(service=service)
        return int(health_pb2_grpc.HealthStub(channel).Check(request, timeout=20).status)


def test_no_token_and_a_wrong_token_are_nobody(wire: Wire) -> None:
    wire.start()
    for caller in ("", "stranger"):
        with pytest.raises(Unauthenticated):
            memory_pb2_grpc.MemoryServiceStub(wire.channel(caller)).Stats(pb.StatsRequest())
    assert wire.memory.calls == 0


def test_a_unary_call_without_a_deadline_is_refused_with_a_hint(wire: Wire) -> None:
    port = wire.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = memory_pb2_grpc.MemoryServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.Stats(pb.StatsRequest(), metadata=(("authorization", f"Bearer {TOKENS['operator']}"),))
    error = from_rpc_error(caught.value)
    assert isinstance(error, InvalidInput)
    assert "grpcurl -max-time 10" in error.message
    assert wire.memory.calls == 0


def test_a_stream_may_go_without_a_deadline(wire: Wire) -> None:
    wire.start()
    wire.cbo.pulses = ["bp-000000001"]
    stub = cbo_pb2_grpc.CboServiceStub(wire.channel())
    assert len(list(stub.WatchPulses(cbo_pb2.WatchPulsesRequest()))) == 1


def test_the_callers_deadline_reaches_the_worker_thread_and_bounds_calls_made_for_it(wire: Wire) -> None:
    port = wire.start()
    onward: list[float | None] = []

    def behaviour(request: Any) -> Any:
        if isinstance(request, pb.StatsRequest):
            onward.append(deadline.remaining())
            return pb.StatsResponse()
        with open_channel(f"127.0.0.1:{port}", TOKENS["cbo"], timeout_seconds=60) as channel:
            memory_pb2_grpc.MemoryServiceStub(channel).Stats(pb.StatsRequest())
        return pb.RecallResponse()

    wire.memory.behaviour = behaviour
    memory_pb2_grpc.MemoryServiceStub(wire.channel()).Recall(pb.RecallRequest(), timeout=7)
    assert [caller for caller, _ in wire.memory.seen] == ["operator", "cbo"]
    # the wire's encoding of a timeout rounds up by less than 1 %; without the bound it would be near 60
    assert onward[0] is not None and 0 < onward[0] <= 7 * 1.01


def test_nothing_is_sent_once_the_callers_deadline_has_passed(wire: Wire) -> None:
    wire.start()
    token = deadline.set_remaining(0)
    try:
        with pytest.raises(DeadlineExceeded, match="nothing was sent"):
            memory_pb2_grpc.MemoryServiceStub(wire.channel()).Stats(pb.StatsRequest())
    finally:
        deadline._ends.reset(token)
    assert wire.memory.calls == 0


def test_a_call_that_takes_too_long_ends_with_deadline_exceeded(wire: Wire) -> None:
    wire.start()
    release = threading.Event()
    wire.memory.behaviour = lambda _: release.wait(10) and pb.StatsResponse()
    with pytest.raises(DeadlineExceeded):
        memory_pb2_grpc.MemoryServiceStub(wire.channel()).Stats(pb.StatsRequest(), timeout=0.2)
    release.set()


@pytest.mark.parametrize("method", ["Recall", "Compact"])
def test_unavailable_is_retried_only_where_a_repeat_is_harmless(wire: Wire, method: str) -> None:
    wire.start()
    answers = {"Recall": pb.RecallResponse(), "Compact": pb.CompactResponse()}
    requests = {"Recall": pb.RecallRequest(), "Compact": pb.CompactRequest()}

    def twice_away(_request: Any) -> Any:
        if wire.memory.calls <= 2:
            raise Unavailable("the store is opening")
        return answers[method]

    wire.memory.behaviour = twice_away
    call = getattr(memory_pb2_grpc.MemoryServiceStub(wire.channel(clock=VirtualClock())), method)
    if method == "Recall":
        assert call(requests[method]) == answers[method]
        assert wire.memory.calls == 3
    else:
        with pytest.raises(Unavailable, match="the store is opening"):
            call(requests[method])
        assert wire.memory.calls == 1


def test_other_errors_are_never_retried(wire: Wire) -> None:
    wire.start()

    def no(_request: Any) -> Any:
        raise InvalidInput("no")

    wire.memory.behaviour = no
    with pytest.raises(InvalidInput):
        memory_pb2_grpc.MemoryServiceStub(wire.channel()).Recall(pb.RecallRequest())
    assert wire.memory.calls == 1


def test_reads_may_be_repeated_and_acts_may_not() -> None:
    assert all(map(idempotent, ("GetCapacity", "ListTasks", "Recall", "Probe", "RecordExperience", "WatchPulses")))
    assert not any(map(idempotent, ("SubmitObjective", "RunPulse", "ApproveTask", "Undo", "RunPlaybook", "Backup")))


def test_a_channel_finds_its_service_again_after_a_restart(wire: Wire) -> None:
    port = wire.start()
    stub = memory_pb2_grpc.MemoryServiceStub(wire.channel())
    stub.Stats(pb.StatsRequest())
    wire.stop()
    with pytest.raises(Unavailable):
        stub.Compact(pb.CompactRequest())
    wire.start(listen=f"127.0.0.1:{port}")
    stub.Stats(pb.StatsRequest(), timeout=10)
    assert wire.memory.calls == 2


def test_stopping_lets_a_running_call_finish(wire: Wire) -> None:
    wire.start(grace_seconds=10.0)
    inside, release = threading.Event(), threading.Event()

    def slow(_request: Any) -> Any:
        inside.set()
        release.wait(10)
        return pb.StatsResponse(experiences=7)

    wire.memory.behaviour = slow
    answers: list[Any] = []
    stub = memory_pb2_grpc.MemoryServiceStub(wire.channel())
    caller = threading.Thread(target=lambda: answers.append(stub.Stats(pb.StatsRequest(), timeout=10)))
    caller.start()
    assert inside.wait(10)
    stopper = threading.Thread(target=wire.stop)
    stopper.start()
    release.set()
    stopper.join(10)
    caller.join(10)
    assert [answer.experiences for answer in answers] == [7]


def test_a_second_server_on_the_same_port_is_an_error(wire: Wire) -> None:
    port = wire.start()
    first = wire.running
    with pytest.raises(OSError, match=f"can't listen on 127.0.0.1:{port}"):
        wire.start(listen=f"127.0.0.1:{port}")
    wire.running = first


def test_health_follows_the_checks(wire: Wire) -> None:
    broken: list[str] = ["disk"]

    def check() -> None:
        if broken:
            raise OSError(broken[0])

    wire.checks["store"] = check
    wire.start()
    assert wire.running is not None
    assert health(wire) == NOT_SERVING and health(wire, MEMORY) == NOT_SERVING
    broken.clear()
    assert wire.run(wire.running.check_health())
    assert health(wire) == SERVING and health(wire, MEMORY) == SERVING
    broken.append("disk again")
    assert not wire.run(wire.running.check_health())
    assert health(wire) == NOT_SERVING


def test_a_service_that_sends_large_answers_still_takes_small_requests_only(wire: Wire) -> None:
    port = wire.start(max_message_bytes=33 * 1024 * 1024)
    channel = open_channel(f"127.0.0.1:{port}", "nobody", max_message_bytes=33 * 1024 * 1024)
    with channel, pytest.raises(ResourceExhausted):
        memory_pb2_grpc.MemoryServiceStub(channel).Recall(pb.RecallRequest(objective="x" * 5 * 1024 * 1024))
    assert wire.memory.calls == 0


@pytest.mark.parametrize(
    ("caller", "code"), [("operator", grpc.StatusCode.INVALID_ARGUMENT), ("stranger", grpc.StatusCode.UNAUTHENTICATED)]
)
@pytest.mark.parametrize("path", [f"{MEMORY}/Stats", f"{CBO}/WatchPulses"])
def test_a_request_that_is_no_message_is_answered_in_our_own_words(
    wire: Wire, path: str, caller: str, code: grpc.StatusCode
) -> None:
    port = wire.start()
    metadata = (("authorization", f"Bearer {TOKENS.get(caller, 'x' * 43)}"),)
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_stream(f"/{path}")
        with pytest.raises(grpc.RpcError) as caught:
            list(call(b"\xff\xff\xff", metadata=metadata, timeout=20))
    assert caught.value.code() is code
    assert "DecodeError" not in caught.value.details()
    assert wire.memory.calls == 0


def test_health_and_reflection_are_open_and_say_who_answers(wire: Wire) -> None:
    port = wire.start(about={"calyx-version": "1.2.3", "calyx-pid": "42"})
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        answer, call = check.with_call(health_pb2.HealthCheckRequest(), timeout=20)
        assert answer.status == SERVING
        about = {key: value for key, value in call.initial_metadata() if key.startswith("calyx-")}
        assert about == {"calyx-version": "1.2.3", "calyx-pid": "42"}
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        (listed,) = list(stub.ServerReflectionInfo(iter([request]), timeout=20))
    assert MEMORY in {service.name for service in listed.list_services_response.service}


def test_connect_uses_the_callers_own_token_and_the_stations_address(wire: Wire, tmp_path: Path) -> None:
    found_station(Layout(tmp_path), SystemClock(), RandomIds())
    token_file = tmp_path / "secrets" / "operator.token"
    token_file.write_text(TOKENS["operator"])
    port = wire.start()
    station = StationSettings(station_dir=tmp_path, endpoint_memory=f"127.0.0.1:{port}")
    with connect("memory", station, "operator") as channel:
        memory_pb2_grpc.MemoryServiceStub(channel).Stats(pb.StatsRequest())
    assert wire.memory.seen[-1][0] == "operator"


def test_a_port_that_nobody_serves_is_unavailable() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))  # ours, so nobody else's; nothing listens on it
        port = sock.getsockname()[1]
        with open_channel(f"127.0.0.1:{port}", "t", clock=VirtualClock()) as channel, pytest.raises(Unavailable):
            memory_pb2_grpc.MemoryServiceStub(channel).Stats(pb.StatsRequest())
