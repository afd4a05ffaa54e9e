"""What the routes share: the cores, and how to run them off the event loop."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ParamSpec, TypeVar

from fastapi import Request

from chassis.clock import Clock
from chassis.errors import PermissionDenied, Unauthenticated
from chassis.executor import Executor
from services.dashboard.access import WRITERS, Asker, LoginLinks, Sessions, may_write
from services.dashboard.agent_api import Relay
from services.dashboard.board import Board
from services.dashboard.desk import Desk

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Context:
    """Built in `__main__.py` (or by a test). `stopping` ends the event streams."""

    board: Board
    desk: Desk
    sessions: Sessions
    links: LoginLinks
    identify: Callable[[str], str]
    """Authorization header → caller; raises Unauthenticated."""
    host_ok: Callable[[str], bool]
    count: Callable[[str, int], None]
    executor: Executor
    clock: Clock
    version: str
    station_id: str
    secure_cookie: bool = False
    agents: Relay | None = None
    """Where calls of outside agents go; None: this page takes none."""
    lineage: Callable[[str], str] = lambda _peer: ""
    """Why the process at `ipv4:<host>:<port>` may not write, whatever cookie it has: it runs beneath a governed one."""
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self.executor.run(fn, *args, **kwargs)

    def asker(self, request: Request) -> Asker:
        """A known person by cookie, a known program by token, or nobody."""
        if header := request.headers.get("authorization"):
            name = self.identify(header)
            return Asker(by="token", name=name) if name in WRITERS else Asker(by="")
        if self.sessions.valid(request.cookies.get(self.sessions.cookie, "")):
            return Asker(by="session", name="person at the page")
        return Asker(by="")

    def writer(self, request: Request) -> str:
        """Who writes. Raises Unauthenticated, PermissionDenied."""
        asker = self.asker(request)
        may_write(asker, origin=request.headers.get("origin", ""), host=request.headers.get("host", ""))
        if request.client is not None:
            host, port = request.client.host, request.client.port
            if why := self.lineage(f"ipv6:[{host}]:{port}" if ":" in host else f"ipv4:{host}:{port}"):
                raise PermissionDenied(why)
        return asker.name

    def reader_of_logs(self, request: Request) -> str:
        """What holds logs is for known people only."""
        asker = self.asker(request)
        if not asker.by:
            raise Unauthenticated("logs are for people who are logged in: run `calyx login-link` and open the link")
        return asker.name
