"""How fast experiences become durable over the RPC, and how long until recall finds them: `python -m bench.record`.

A memory service of its own, with its fsyncs and its redo log; so many callers record distinct real sentences at once,
each waiting for its acknowledgement, while another asks for recalls. Then the backlog of embeddings drains, and one
caller alone times a record and an RPC that does nothing (health). CPU is told for the service and for the callers,
which share the cores with it; `load` is that of the machine before the burst. Fsyncs are counted by strace, if it is
there, on a second, shorter burst (strace slows it down; the count is not changed by that).
"""

import argparse
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import grpc
from calyx.memory.v1 import memory_pb2 as pb
from calyx.memory.v1 import memory_pb2_grpc
from google.protobuf.timestamp_pb2 import Timestamp
from grpc_health.v1 import health_pb2, health_pb2_grpc

from chassis.clock import SystemClock
from chassis.errors import CalyxError
from chassis.identity import found_station, load_token
from chassis.ids import RandomIds
from chassis.layout import Layout
from chassis.rpc.client import open_channel

REPO = Path(__file__).resolve().parents[1]
DATA = REPO.parent / "shared" / "data" / "recall" / "clinc.jsonl"
COUNTED_ROWS = 800
ALONE_CALLS = 500


def sentences(count: int) -> list[str]:
    """Distinct objectives: the real lines, then the same lines for one host after another."""
    with DATA.open() as file:
        real = list(dict.fromkeys(json.loads(each)["text"] for each in file))
    more = (f"{text} on host {number}" for number in range(1, 10_000) for text in real)
    return (real + [next(more) for _ in range(max(0, count - len(real)))])[:count]


@contextmanager
def serving(folder: Path) -> Iterator[tuple[str, str, subprocess.Popen[bytes]]]:
    """(address, token, process) of a memory service that answers."""
    layout = Layout(folder)
    found_station(layout, SystemClock(), RandomIds())
    address = f"127.0.0.1:{_free_port()}"
    environment = {
        **os.environ,
        "CALYX_STATION_DIR": str(folder),
        "CALYX_MEMORY_LISTEN": address,
        "CALYX_MEMORY_METRICS_LISTEN": f"127.0.0.1:{_free_port()}",
        "PYTHONPATH": f"{REPO}:{REPO / 'protos' / 'gen'}",
    }
    process = subprocess.Popen([sys.executable, "-m", "services.memory"], cwd=REPO, env=environment)
    try:
        token = load_token(layout.secrets, "cbo")
        with open_channel(address, token, timeout_seconds=10) as channel:
            stub = memory_pb2_grpc.MemoryServiceStub(channel)
            while True:
                try:
                    stub.Stats(pb.StatsRequest(), timeout=5)
                    break
                except CalyxError:
                    if process.poll() is not None:
                        raise
                    time.sleep(0.05)
        yield address, token, process
    finally:
        process.terminate()
        process.wait(60)


def caller(address: str, token: str, name: str, texts: Sequence[str], start: Any) -> tuple[list[float], float]:
    """Record these one after the other, each acknowledged; (milliseconds of each, CPU seconds of the caller)."""
    at = Timestamp()
    at.FromDatetime(datetime(2026, 11, 1, tzinfo=UTC))
    took = []
    with open_channel(address, token, timeout_seconds=30) as channel:
        stub = memory_pb2_grpc.MemoryServiceStub(channel)
        stub.Stats(pb.StatsRequest())  # connected before the clock runs
        start.wait()
        cpu = time.process_time()
        for number, text in enumerate(texts):
            experience = pb.Experience(
                id=f"{name}-{number}",
                kind="task",
                objective=text,
                domain="bench",
                procedure="p-1",
                occurred_at=at,
                outcome=pb.OUTCOME_SUCCESS,
                context={"site": "here", "host": name},
                tes=97.0,
                duration_seconds=1.0,
                files_changed=2,
                confidence=0.8,
                evidence="the probe found the effect",
                cost={"cpu_seconds": 0.1},
            )
            began = time.perf_counter()
            assert stub.RecordExperience(pb.RecordExperienceRequest(experience=experience)).created
            took.append((time.perf_counter() - began) * 1000)
        return took, time.process_time() - cpu


def burst(address: str, token: str, name: str, texts: Sequence[str], callers: int) -> tuple[float, list[float], float]:
    """(seconds, milliseconds of each call, CPU seconds) of all callers, each a process with a channel of its own."""
    context = get_context("spawn")
    with context.Manager() as manager, context.Pool(callers) as pool:
        start = manager.Barrier(callers + 1)
        parts = [
            pool.apply_async(caller, (address, token, f"{name}-{n}", texts[n::callers], start)) for n in range(callers)
        ]
        start.wait()
        began = time.perf_counter()
        ended = [part.get(600) for part in parts]
        seconds = time.perf_counter() - began
        return seconds, [each for took, _ in ended for each in took], sum(cpu for _, cpu in ended)


def alone(address: str, token: str) -> tuple[list[float], list[float]]:
    """Milliseconds of each record, and of each answer of the health service, with one caller and nobody beside it."""
    at_once = threading.Event()
    at_once.set()
    records, _ = caller(address, token, "alone", [f"{each}, alone" for each in sentences(ALONE_CALLS)], at_once)
    empty = []
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for _ in range(ALONE_CALLS):
            began = time.perf_counter()
            health.Check(health_pb2.HealthCheckRequest(), timeout=10)  # type: ignore[attr-defined]  # untyped stubs
            empty.append((time.perf_counter() - began) * 1000)
    return records, empty


def cpu_seconds(process: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def spread(what: str, took: Sequence[float]) -> dict[str, float]:
    ordered = sorted(took)
    return {
        f"{what}_p50_ms": round(statistics.median(ordered), 2),
        f"{what}_p99_ms": round(ordered[int(0.99 * (len(ordered) - 1))], 2),
    }


def watch(address: str, token: str, done: threading.Event) -> list[tuple[float, int, float]]:
    """(seconds since the begin, rows pending, milliseconds of the recall) twice a second."""
    seen, began = [], time.perf_counter()
    with open_channel(address, token, timeout_seconds=30) as channel:
        stub = memory_pb2_grpc.MemoryServiceStub(channel)
        while not done.wait(0.25):
            asked = time.perf_counter()
            pending = stub.Recall(pb.RecallRequest(objective=f"what is the weather at {asked}")).pending
            seen.append((round(asked - began, 2), int(pending), round((time.perf_counter() - asked) * 1000, 1)))
    return seen


def pending_of(address: str, token: str) -> int:
    with open_channel(address, token, timeout_seconds=30) as channel:
        stub = memory_pb2_grpc.MemoryServiceStub(channel)
        return int(stub.Recall(pb.RecallRequest(objective="is anything pending")).pending)


def fsyncs(address: str, token: str, process: int, callers: int) -> float | None:
    """Fsyncs and fdatasyncs of the service per row in a short burst; None without strace."""
    if shutil.which("strace") is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        said = Path(folder) / "strace"
        tracer = subprocess.Popen(
            ["strace", "-f", "-c", "-e", "trace=fsync,fdatasync", "-o", str(said), "-p", str(process)],
            stderr=subprocess.DEVNULL,
        )
        time.sleep(1.0)
        burst(address, token, "counted", [f"{each}, counted" for each in sentences(COUNTED_ROWS)], callers)
        tracer.terminate()
        tracer.wait(30)
        found = re.findall(
            r"^\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)\s+(?:\d+\s+)?(?:fsync|fdatasync)$", said.read_text(), re.M
        )
    return sum(map(int, found)) / COUNTED_ROWS if found else None


def main() -> None:
    terms = argparse.ArgumentParser(description=__doc__)
    terms.add_argument("--rows", type=int, default=5000)
    terms.add_argument("--callers", type=int, default=8)
    terms.add_argument("--folder", type=Path, help="where the station lies; unset: a temporary folder")
    terms.add_argument("--json", action="store_true")
    asked = terms.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder, serving(Path(folder)) as (address, token, process):
        done = threading.Event()
        with ThreadPoolExecutor(1) as beside:
            watching = beside.submit(watch, address, token, done)
            load, cpu = os.getloadavg()[0], cpu_seconds(process.pid)
            seconds, took, callers_cpu = burst(address, token, "burst", sentences(asked.rows), asked.callers)
            cpu = cpu_seconds(process.pid) - cpu
            ended = time.perf_counter()
            after_burst = left = pending_of(address, token)
            while left:
                time.sleep(0.1)
                left = pending_of(address, token)
            drained = time.perf_counter() - ended
            done.set()
            seen = watching.result(60)
        records, empty = alone(address, token)
        per_row = fsyncs(address, token, process.pid, asked.callers)
    figures = {
        "rows": asked.rows,
        "callers": asked.callers,
        "rows_per_second": round(asked.rows / seconds),
        "load": round(load, 1),
        **spread("record", took),
        "service_cpu_ms_per_row": round(1000 * cpu / asked.rows, 2),
        "callers_cpu_ms_per_row": round(1000 * callers_cpu / asked.rows, 2),
        "pending_after_burst": after_burst,
        "drain_seconds": round(drained, 1),
        **spread("recall_meanwhile", [each for _, _, each in seen]),
        **spread("record_alone", records),
        **spread("empty_rpc_alone", empty),
        "fsyncs_per_row": None if per_row is None else round(per_row, 2),
        "pending_over_time": [(at, pending) for at, pending, _ in seen][:: max(1, len(seen) // 20)],
    }
    if asked.json:
        print(json.dumps(figures))
        return
    for name, value in figures.items():
        print(f"{name:26} {value}")


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


if __name__ == "__main__":
    main()
