"""More recalls at once than the memory can serve: the ones too many are refused, health goes on answering."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
from calyx.memory.v1 import memory_pb2 as pb
from calyx.memory.v1 import memory_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from memory_fakes import HashEmbedder

from chassis.clock import VirtualClock
from chassis.errors import ResourceExhausted
from chassis.executor import BoundedExecutor, InlineExecutor, ThreadExecutor
from chassis.rpc.auth import SCHEME, Callers
from chassis.rpc.server import Served, start_server
from services.memory.embedding import Vectors
from services.memory.memory import Memory
from services.memory.servicer import ALLOW, MemoryServicer

MOST = 16
CALLS = 1_000
OK, EXHAUSTED = grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED


class HeldEmbedder(HashEmbedder):
    """Embeds nothing until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()

    def embed(self, texts: Sequence[str]) -> Vectors:
        self.go.wait(30)
        return super().embed(texts)


def test_recalls_beyond_the_bound_are_refused_at_once_and_health_answers_meanwhile(
    make_memory: Callable[..., Memory], tmp_path: Path
) -> None:
    embedder = HeldEmbedder()
    memory, threads = make_memory(embedder), ThreadExecutor("memory-load", threads=4)
    servicer = MemoryServicer(
        memory,
        BoundedExecutor(threads, MOST),
        clock=VirtualClock(),
        root=tmp_path,
        backups=tmp_path / "backups",
        station_id="st-own",
    )
    name = "calyx.memory.v1.MemoryService"
    served = Served(name, memory_pb2_grpc.add_MemoryServiceServicer_to_server, servicer, ALLOW)

    async def load() -> None:
        callers = Callers.of_tokens({"cbo": "token-cbo"})
        running = await start_server(served=[served], callers=callers, checks={}, executor=threads)
        try:
            await storm(running.port)
        finally:
            await running.stop()

    async def storm(port: int) -> None:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub, health = memory_pb2_grpc.MemoryServiceStub(channel), health_pb2_grpc.HealthStub(channel)
            headers = (("authorization", f"{SCHEME}token-cbo"),)
            request = pb.RecallRequest(objective="rotate the logs")
            calls = [stub.Recall(request, timeout=60, metadata=headers) for _ in range(CALLS)]
            refused = asyncio.ensure_future(_ended(calls, CALLS - MOST))
            answer = await health.Check(health_pb2.HealthCheckRequest(service=name), timeout=10)  # type: ignore[attr-defined]  # untyped stubs
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
            await refused
            assert sum(call.done() for call in calls) == CALLS - MOST
            embedder.go.set()
            codes = [await call.code() for call in calls]
            assert (codes.count(OK), codes.count(EXHAUSTED)) == (MOST, CALLS - MOST)
            refusal = await calls[codes.index(EXHAUSTED)].details()
            assert f"{MOST} requests are under way" in refusal
            again = await stub.Recall(request, timeout=10, metadata=headers)  # room again
            assert again.searched == 0

    try:
        asyncio.run(load())
    finally:
        embedder.go.set()
        threads.close()


async def _ended(calls: "list[grpc.aio.UnaryUnaryCall[Any, Any]]", number: int) -> None:
    """Returns once so many calls have ended."""
    left, enough = number, asyncio.Event()

    def one_more(_: object) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            enough.set()

    for call in calls:
        call.add_done_callback(one_more)
    await asyncio.wait_for(enough.wait(), 30)


def test_what_fails_makes_room_too() -> None:
    bounded = BoundedExecutor(InlineExecutor(), 1)

    def fail() -> None:
        raise ValueError("no")

    async def twice() -> int:
        with pytest.raises(ValueError, match="no"):
            await bounded.run(fail)
        return await bounded.run(lambda: 2)

    assert asyncio.run(twice()) == 2


def test_a_bound_of_nothing_refuses_and_says_so() -> None:
    with pytest.raises(ResourceExhausted, match="try again"):
        asyncio.run(BoundedExecutor(InlineExecutor(), 0).run(lambda: None))
