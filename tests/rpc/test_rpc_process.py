"""A service as a real process: it serves, stops when told, and says in one line why it can't start."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cli.embedded.endpoints import Endpoints

HERE = Path(__file__).parent


@pytest.fixture
def free(tmp_path: Path) -> Iterator[tuple[int, int]]:
    """Two ports that no other test and no outgoing connection takes before the service has bound them."""
    with ExitStack() as ours:
        found = Endpoints.choose({}, 0, tmp_path, ours)
        yield found.grpc["memory"], found.metrics["memory"]


def start(station: Path, listen: int, metrics: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(HERE / "rpc_service_main.py")],
        env={
            **os.environ,
            "PYTHONPATH": f"{HERE.parents[1]}:{HERE.parents[1] / 'protos' / 'gen'}:{HERE}",
            "CALYX_STATION_DIR": str(station),
            "CALYX_MEMORY_LISTEN": f"127.0.0.1:{listen}",
            "CALYX_MEMORY_METRICS_LISTEN": f"127.0.0.1:{metrics}",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        yield int(sock.getsockname()[1])


def test_a_service_serves_until_sigterm_and_then_ends_in_order(tmp_path: Path, free: tuple[int, int]) -> None:
    port, metrics = free
    process = start(tmp_path, port, metrics)
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=20, wait_for_ready=True)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        with urllib.request.urlopen(f"http://127.0.0.1:{metrics}/metrics", timeout=20) as page:
            assert b'calyx_build_info{service="memory",version="9.9.9"} 1.0' in page.read()
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=20)
    finally:
        process.kill()
    assert (process.returncode, out, err) == (0, "on_stop ran\n", "")
    events = [json.loads(line) for line in (tmp_path / "logs" / "memory.log").read_text().splitlines()]
    assert [event["event"] for event in events] == ["serving", "stopping", "stopped"]
    assert {event["service"] for event in events} == {"memory"}


@pytest.mark.parametrize("which", ["grpc", "metrics"])
def test_a_busy_port_is_one_clear_line_and_status_one(
    tmp_path: Path, taken: int, free: tuple[int, int], which: str
) -> None:
    ports = (taken, free[1]) if which == "grpc" else (free[0], taken)
    process = start(tmp_path, *ports)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 1
    (line,) = err.splitlines()
    assert line.startswith("memory: can't start: can't ") and f"127.0.0.1:{taken}" in line
