"""`calyx.governor.v1.GovernorService`: decode, ask the governor, encode."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

from calyx.governor.v1 import governor_pb2 as pb
from calyx.governor.v1 import governor_pb2_grpc

from chassis.errors import PermissionDenied
from chassis.executor import Executor
from chassis.rpc.auth import caller
from services.governor.governor import Governor
from services.governor.wire import capacity_to_wire, intent_to_wire, lease_to_wire

FULL_NAME = "calyx.governor.v1.GovernorService"

READERS = frozenset({"cbo", "dashboard", "guardian", "analytics", "operator"})
LEASERS = frozenset({"cbo", "operator", "dashboard"})
"""No agent is among them: whoever is put to sleep must not wake itself or its neighbour."""
ALLOW: Mapping[str, frozenset[str]] = {
    "GetCapacity": READERS,
    "WatchCapacity": READERS,
    "ListLeases": READERS,
    "Admit": frozenset({"cbo"}),
    "Throttle": LEASERS,
    "Sleep": LEASERS,
    "Resume": LEASERS,
}


class GovernorServicer(governor_pb2_grpc.GovernorServiceServicer):
    """The core blocks (files, locks), so it runs on the executor."""

    def __init__(self, governor: Governor, executor: Executor) -> None:
        self._governor, self._executor = governor, executor

    async def GetCapacity(self, request: pb.GetCapacityRequest, context: Any) -> pb.GetCapacityResponse:
        if request.pulse_id and caller() != "cbo":
            raise PermissionDenied("only cbo sets pulse_id: its reading is what the RAM rule judges", caller=caller())
        answer = await self._executor.run(self._governor.capacity, request.pulse_id)
        return pb.GetCapacityResponse(
            capacity=capacity_to_wire(answer.capacity), intents=[intent_to_wire(i) for i in answer.intents]
        )

    async def WatchCapacity(
        self, request: pb.WatchCapacityRequest, context: Any
    ) -> AsyncIterator[pb.WatchCapacityResponse]:
        """One message a sample; a reader too slow for that misses some, as `sequence` shows."""
        loop, sampled = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(sampled.set)

        stop = self._governor.watch(wake)
        try:
            while True:
                await sampled.wait()
                sampled.clear()
                answer = await self._executor.run(self._governor.capacity)
                yield pb.WatchCapacityResponse(capacity=capacity_to_wire(answer.capacity))
        finally:
            stop()

    async def Admit(self, request: pb.AdmitRequest, context: Any) -> pb.AdmitResponse:
        answer = await self._executor.run(
            self._governor.admit, owner=request.owner, domain=request.domain, needs=dict(request.needs)
        )
        return pb.AdmitResponse(admitted=answer.admitted, reason=answer.reason)

    async def Throttle(self, request: pb.ThrottleRequest, context: Any) -> pb.ThrottleResponse:
        lease = await self._executor.run(
            self._governor.leases.throttle,
            request.target,
            request.duration.ToTimedelta().total_seconds(),
            request.share,
            reason=request.reason,
            by=caller(),
        )
        return pb.ThrottleResponse(lease=lease_to_wire(lease))

    async def Sleep(self, request: pb.SleepRequest, context: Any) -> pb.SleepResponse:
        lease = await self._executor.run(
            self._governor.leases.sleep,
            request.target,
            request.duration.ToTimedelta().total_seconds(),
            reason=request.reason,
            by=caller(),
        )
        return pb.SleepResponse(lease=lease_to_wire(lease))

    async def Resume(self, request: pb.ResumeRequest, context: Any) -> pb.ResumeResponse:
        ended = await self._executor.run(self._governor.leases.resume, request.target, by=caller())
        return pb.ResumeResponse(ended=[lease_to_wire(lease) for lease in ended])

    async def ListLeases(self, request: pb.ListLeasesRequest, context: Any) -> pb.ListLeasesResponse:
        leases = await self._executor.run(self._governor.leases.in_force, request.target)
        return pb.ListLeasesResponse(leases=[lease_to_wire(lease) for lease in leases])
