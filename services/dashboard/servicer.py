"""calyx.dashboard.v1: decode, ask, encode."""

from collections.abc import Mapping
from typing import Any

from calyx.dashboard.v1 import dashboard_pb2 as pb
from calyx.dashboard.v1 import dashboard_pb2_grpc

from chassis.clock import parse_iso
from chassis.executor import Executor
from chassis.rpc.auth import caller
from services.dashboard.access import LoginLinks
from services.dashboard.board import Board
from services.dashboard.desk import Desk

FULL_NAME = "calyx.dashboard.v1.DashboardService"
ALLOW: Mapping[str, frozenset[str]] = {
    "GetOverview": frozenset({"operator", "cbo", "guardian"}),
    "ExportDiagnostics": frozenset({"operator"}),
    "IssueLoginLink": frozenset({"operator"}),
}


class DashboardServicer(dashboard_pb2_grpc.DashboardServiceServicer):
    def __init__(self, board: Board, desk: Desk, links: LoginLinks, executor: Executor) -> None:
        self._board, self._desk, self._links, self._executor = board, desk, links, executor

    async def GetOverview(self, request: pb.GetOverviewRequest, context: Any) -> pb.GetOverviewResponse:
        shown = await self._board.overview()
        answer = pb.GetOverviewResponse(overview_json=shown.body.decode())
        answer.at.FromDatetime(parse_iso(shown.document["at"]))
        return answer

    async def ExportDiagnostics(
        self, request: pb.ExportDiagnosticsRequest, context: Any
    ) -> pb.ExportDiagnosticsResponse:
        shown = await self._board.overview()
        made = await self._executor.run(self._desk.export, shown.document, caller())
        return pb.ExportDiagnosticsResponse(archive=made.archive, file_name=made.file_name)

    async def IssueLoginLink(self, request: pb.IssueLoginLinkRequest, context: Any) -> pb.IssueLoginLinkResponse:
        link, expires = self._links.issue()
        await self._executor.run(self._desk.note, "login.link_issued", who=caller())
        answer = pb.IssueLoginLinkResponse(url=link)
        answer.expires_at.FromDatetime(expires)
        return answer
