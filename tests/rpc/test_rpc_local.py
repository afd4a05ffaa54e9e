import asyncio
from typing import Any

import pytest
from calyx.memory.v1 import memory_pb2 as pb
from calyx.memory.v1 import memory_pb2_grpc
from rpc_harness import MEMORY, MemoryServicer

from chassis.errors import Internal, Unavailable
from chassis.executor import InlineExecutor
from chassis.rpc import auth
from chassis.rpc.local import LocalChannel


def test_a_crashed_service_is_unavailable_and_is_found_again_when_it_returns() -> None:
    registry: dict[str, object] = {}
    stub = memory_pb2_grpc.MemoryServiceStub(LocalChannel(registry, "cbo"))
    with pytest.raises(Unavailable, match=MEMORY):
        stub.Stats(pb.StatsRequest())
    registry[MEMORY] = MemoryServicer(InlineExecutor())
    stub.Stats(pb.StatsRequest(), timeout=20)
    registry.clear()
    with pytest.raises(Unavailable):
        stub.Stats(pb.StatsRequest())


def test_the_caller_is_the_callees_business_only() -> None:
    memory = MemoryServicer(InlineExecutor())
    memory_pb2_grpc.MemoryServiceStub(LocalChannel({MEMORY: memory}, "cbo")).Stats(pb.StatsRequest())
    assert memory.seen[-1][0] == "cbo"
    assert auth.caller() == ""


def test_a_servicer_that_really_waits_is_reported_not_hung() -> None:
    class Waits(memory_pb2_grpc.MemoryServiceServicer):
        async def Stats(self, request: Any, context: Any) -> Any:
            await asyncio.sleep(0)
            return pb.StatsResponse()

    with pytest.raises(Internal, match="InlineExecutor"):
        memory_pb2_grpc.MemoryServiceStub(LocalChannel({MEMORY: Waits()}, "cbo")).Stats(pb.StatsRequest())
