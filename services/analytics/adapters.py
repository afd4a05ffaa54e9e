"""The outside of analytics: the statistics process and the memory service."""

import json
import subprocess
import sys
from datetime import datetime

import grpc
from calyx.memory.v1 import memory_pb2 as memory
from calyx.memory.v1.memory_pb2_grpc import MemoryServiceStub

from chassis.canonical import Json
from chassis.errors import Internal, Unavailable


class StatisticsProcess:
    """Runs draw.py in a process of its own, so that scipy and matplotlib cost memory only while they work."""

    def __init__(self, timeout_seconds: float = 120.0) -> None:
        self._timeout = timeout_seconds

    def run(self, request: Json) -> Json:
        try:
            done = subprocess.run(
                [sys.executable, "-m", "services.analytics.draw"],
                input=json.dumps(request).encode(),
                capture_output=True,
                timeout=self._timeout,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise Unavailable(f"the trend computation took longer than {self._timeout:.0f} s and was ended") from error
        if done.returncode != 0:
            last = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
            raise Internal(f"the trend computation failed: {last[0]}; the previous trends stay")
        answer: Json = json.loads(done.stdout)
        return answer


class MemoryClient:
    """Feeds summaries to the memory service."""

    def __init__(self, channel: grpc.Channel, station_id: str) -> None:
        self._stub = MemoryServiceStub(channel)
        self._station_id = station_id

    def remember(self, experience_id: str, summary: str, at: datetime, context: dict[str, str]) -> None:
        experience = memory.Experience(
            id=experience_id,
            station_id=self._station_id,
            origin="analytics",
            kind="analysis",
            objective=summary,
            domain="",
            context=context,
            outcome=memory.OUTCOME_NO_WORK,
            evidence="computed from pulse records",
        )
        experience.occurred_at.FromDatetime(at)
        self._stub.RecordExperience(memory.RecordExperienceRequest(experience=experience), timeout=5.0)
