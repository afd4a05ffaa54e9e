"""A real server on a loop of its own thread, and a servicer that does what the test says."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from calyx.cbo.v1 import cbo_pb2, cbo_pb2_grpc
from calyx.memory.v1 import memory_pb2, memory_pb2_grpc

from chassis.executor import Executor, ThreadExecutor
from chassis.rpc import auth, deadline
from chassis.rpc.auth import Callers
from chassis.rpc.client import ServiceChannel, open_channel
from chassis.rpc.server import RunningServer, Served, start_server

MEMORY = "calyx.memory.v1.MemoryService"
CBO = "calyx.cbo.v1.CboService"
TOKENS = {"operator": "operator-token-" + "o" * 32, "cbo": "cbo-token-" + "c" * 32}


class MemoryServicer(memory_pb2_grpc.MemoryServiceServicer):
    """Does what the test says, on the executor, like a real one."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self.behaviour: Callable[[Any], Any] = lambda request: memory_pb2.StatsResponse()
        self.calls = 0
        self.seen: list[tuple[str, float | None]] = []

    def _run(self, request: Any) -> Any:
        self.calls += 1
        self.seen.append((auth.caller(), deadline.remaining()))
        return self.behaviour(request)

    async def Stats(self, request: Any, context: Any) -> Any:
        return await self._executor.run(self._run, request)

    async def Recall(self, request: Any, context: Any) -> Any:
        return await self._executor.run(self._run, request)

    async def Compact(self, request: Any, context: Any) -> Any:
        return await self._executor.run(self._run, request)


class CboServicer(cbo_pb2_grpc.CboServiceServicer):
    def __init__(self) -> None:
        self.pulses: list[Any] = []
        self.error: Exception | None = None

    async def WatchPulses(self, request: Any, context: Any) -> AsyncIterator[Any]:
        for pulse_id in self.pulses:
            yield cbo_pb2.WatchPulsesResponse(pulse=cbo_pb2.PulseSummary(id=pulse_id))
        if self.error is not None:
            raise self.error


def served(memory: MemoryServicer, cbo: CboServicer) -> tuple[Served, Served]:
    both = frozenset({"operator", "cbo"})
    return (
        Served(
            MEMORY,
            memory_pb2_grpc.add_MemoryServiceServicer_to_server,
            memory,
            {"Stats": both, "Recall": both, "Compact": frozenset({"operator"})},
        ),
        Served(CBO, cbo_pb2_grpc.add_CboServiceServicer_to_server, cbo, {"WatchPulses": both}),
    )


@dataclass
class Wire:
    """A real aio server on port 0, on a loop of its own thread."""

    loop: asyncio.AbstractEventLoop
    executor: ThreadExecutor
    memory: MemoryServicer
    cbo: CboServicer
    checks: dict[str, Callable[[], None]] = field(default_factory=dict)
    running: RunningServer | None = None
    channels: list[ServiceChannel] = field(default_factory=list)

    def run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(20)

    def start(self, **kwargs: Any) -> int:
        self.running = self.run(
            start_server(
                served=served(self.memory, self.cbo),
                callers=Callers.of_tokens(TOKENS),
                checks=self.checks,
                executor=self.executor,
                **kwargs,
            )
        )
        return self.running.port

    def stop(self) -> None:
        if self.running is not None:
            self.run(self.running.stop())
            self.running = None

    def channel(self, caller: str = "operator", **kwargs: Any) -> ServiceChannel:
        assert self.running is not None
        token = TOKENS.get(caller, "nobody's token") if caller else ""
        channel = open_channel(f"127.0.0.1:{self.running.port}", token, **kwargs)
        self.channels.append(channel)
        return channel


@dataclass
class Side:
    """A channel, and the servicers behind it."""

    channel: Any
    memory: MemoryServicer
    cbo: CboServicer
    open: Callable[[str], Any]
