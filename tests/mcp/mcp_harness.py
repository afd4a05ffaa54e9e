"""A model's client on our server, in one process, with the background heartbeats under the test's hand."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
from mcp import Client
from mcp_fake_station import FakeStation, InProcess

from cli.mcp.keeper import Keeper
from cli.mcp.server import station_server


class Ticks:
    """The keeper's pause: it ends when the test says so."""

    def __init__(self) -> None:
        self._now = anyio.Event()
        self.waits: list[float] = []

    async def pause(self, seconds: float) -> None:
        self.waits.append(seconds)
        await self._now.wait()

    def tick(self) -> None:
        self._now.set()
        self._now = anyio.Event()


class Desk:
    """One MCP session over a fake station."""

    def __init__(self, station: FakeStation, ticks: Ticks, client: Client) -> None:
        self.station, self.ticks, self.client = station, ticks, client

    async def ok(self, tool: str, **arguments: Any) -> dict[str, Any]:
        result = await self.client.call_tool(tool, arguments)
        assert not result.is_error, result.content
        assert isinstance(result.structured_content, dict)
        return result.structured_content

    async def error(self, tool: str, **arguments: Any) -> str:
        result = await self.client.call_tool(tool, arguments)
        assert result.is_error, result.structured_content
        (content,) = result.content
        assert content.type == "text"
        return content.text

    async def beat(self, times: int) -> None:
        """Let the background beat once, as the `times`-th heartbeat in all."""
        self.ticks.tick()
        await self.station.until_made("heartbeat", times)


@asynccontextmanager
async def desk(mode: str = "legacy", *, idle_seconds: float = 900.0) -> AsyncIterator[Desk]:
    station, ticks = FakeStation(), Ticks()
    async with InProcess(station) as over:
        server = station_server(over, Keeper(over, "mcp-test", pause=ticks.pause, idle_seconds=idle_seconds))
        async with Client(server, mode=mode) as client:
            yield Desk(station, ticks, client)
