"""The command against servicers in the same process: what is asked, what is printed, with which exit status."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from calyx.agent.v1 import agent_pb2_grpc
from calyx.analytics.v1 import analytics_pb2_grpc
from calyx.cbo.v1 import cbo_pb2_grpc
from calyx.dashboard.v1 import dashboard_pb2_grpc
from calyx.governor.v1 import governor_pb2_grpc
from calyx.guardian.v1 import guardian_pb2_grpc
from calyx.inbox.v1 import inbox_pb2_grpc
from calyx.memory.v1 import memory_pb2_grpc

from chassis.clock import VirtualClock
from chassis.errors import CalyxError
from chassis.rpc.local import LocalChannel
from cli.main import main
from cli.reach import Reach

NOW = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
SERVICERS = {
    "calyx.agent.v1.AgentService": agent_pb2_grpc.AgentServiceServicer,
    "calyx.cbo.v1.CboService": cbo_pb2_grpc.CboServiceServicer,
    "calyx.inbox.v1.InboxService": inbox_pb2_grpc.InboxServiceServicer,
    "calyx.memory.v1.MemoryService": memory_pb2_grpc.MemoryServiceServicer,
    "calyx.governor.v1.GovernorService": governor_pb2_grpc.GovernorServiceServicer,
    "calyx.guardian.v1.GuardianService": guardian_pb2_grpc.GuardianServiceServicer,
    "calyx.analytics.v1.AnalyticsService": analytics_pb2_grpc.AnalyticsServiceServicer,
    "calyx.dashboard.v1.DashboardService": dashboard_pb2_grpc.DashboardServiceServicer,
}


class Scripted:
    """A servicer that gives the answer the test put there and keeps what it was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        self.asked: list[tuple[str, Any]] = []

    def __getattr__(self, method: str) -> Any:
        async def unary(request: Any, _context: Any) -> Any:
            self.asked.append((method, request))
            answer = self.answers[method]
            if isinstance(answer, CalyxError):
                raise answer
            return answer

        async def stream(request: Any, _context: Any) -> Any:
            self.asked.append((method, request))
            for answer in self.answers[method]:
                yield answer

        return stream if method.startswith(("Watch", "Replay")) else unary

    def request(self, method: str) -> Any:
        """The last request of this method."""
        return next(request for name, request in reversed(self.asked) if name == method)


class Console:
    """`calyx …` with a station of scripted servicers; `up` names those that answer."""

    def __init__(self, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.script = Scripted()
        self.up: dict[str, object] = dict.fromkeys(SERVICERS, self.script)
        self.reach = Reach(root, VirtualClock(NOW), lambda _layout, _service: LocalChannel(self.up, "operator"))
        self._capsys = capsys

    def answers(self, **answers: Any) -> None:
        for method in answers:
            assert any(hasattr(servicer, method) for servicer in SERVICERS.values()), f"no service has {method}"
        self.script.answers.update(answers)

    def run(self, *arguments: str, status: int = 0) -> tuple[str, str]:
        """stdout and stderr."""
        self._capsys.readouterr()
        got = main(list(arguments), self.reach)
        out, err = self._capsys.readouterr()
        assert got == status, f"exit {got} instead of {status}\n{out}\n{err}"
        return out, err

    def json(self, *arguments: str, status: int = 0) -> Mapping[str, Any]:
        out, _ = self.run(*arguments, "--json", status=status)
        assert out.count("\n") == 1, "one JSON document and nothing else"
        value: Mapping[str, Any] = json.loads(out)
        return value
