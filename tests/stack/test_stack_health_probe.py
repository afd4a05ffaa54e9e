"""The containers' health check against real gRPC servers (no container needed)."""

from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from subprocess import run
from sys import executable

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from chassis.rpc import health_probe

Status = health_pb2.HealthCheckResponse


@pytest.fixture
def served() -> Iterator[tuple[str, health.HealthServicer]]:
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=2))
    servicer = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}", servicer
    server.stop(grace=None).wait()


def test_a_serving_server_is_healthy(served: tuple[str, health.HealthServicer]) -> None:
    address, servicer = served
    servicer.set("", Status.SERVING)
    assert health_probe.main([address]) == 0


def test_a_server_that_says_not_serving_is_not_healthy(served: tuple[str, health.HealthServicer]) -> None:
    address, servicer = served
    servicer.set("", Status.NOT_SERVING)
    assert health_probe.check(address) == Status.NOT_SERVING
    assert health_probe.main([address]) == 1


def test_one_service_is_asked_by_its_name(served: tuple[str, health.HealthServicer]) -> None:
    address, servicer = served
    servicer.set("", Status.NOT_SERVING)
    servicer.set("calyx.memory.v1.MemoryService", Status.SERVING)
    assert health_probe.main([address, "calyx.memory.v1.MemoryService"]) == 0


def test_an_unknown_service_and_a_closed_port_are_not_healthy(served: tuple[str, health.HealthServicer]) -> None:
    address, _ = served
    assert health_probe.main([address, "nobody"]) == 1
    assert health_probe.main(["127.0.0.1:1"]) == 1


def test_the_probe_runs_without_any_installed_package(
    served: tuple[str, health.HealthServicer], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, servicer = served
    servicer.set("", Status.SERVING)
    monkeypatch.setenv("CALYX_SERVICE", "memory")
    monkeypatch.setenv("CALYX_MEMORY_LISTEN", address.replace("127.0.0.1", "0.0.0.0"))
    answer = run([executable, "-IS", str(Path(health_probe.__file__))], capture_output=True, text=True, check=False)
    assert (answer.returncode, answer.stderr) == (0, "")
