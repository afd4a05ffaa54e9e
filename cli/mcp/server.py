"""The MCP server of one agent: nine tools and two resources over one station."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from mcp.server.auth.provider import TokenVerifier
from mcp.server.auth.settings import AuthSettings
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ResourceError, ResourceNotFoundError, ToolError, UnexpectedToolError
from mcp.server.mcpserver.tools import Tool
from mcp_types import CallToolResult, InputRequiredResult
from pydantic import ValidationError

from calyx_agent import AsyncClient
from cli.mcp.answers import Order
from cli.mcp.failures import misfit, one_line, refused
from cli.mcp.keeper import Keeper
from cli.mcp.tools import Tools

INSTRUCTIONS = """\
You are an agent of a Station Calyx: you act only through tasks, and only as far as your results have earned.
The way of one piece of work: status, recall, propose; if the task waits for a person, request_approval and \
await_approval; then claim, do the work (heartbeat right before each change: no change while may_act is false), ack.
A task in mode rehearse changes nothing. You cannot approve, raise a level, approve a domain or resume the station; \
a person does that. When a tool says stop or lost, stop."""


class CalyxServer(MCPServer[None]):
    """MCPServer whose errors are one line each and which takes no argument that is not declared."""

    async def call_tool(
        self, name: str, arguments: dict[str, Any], context: Context[None, Any] | None = None
    ) -> CallToolResult | InputRequiredResult:
        known = next((each.input_schema for each in await self.list_tools() if each.name == name), None)
        if known is not None and (extra := sorted(set(arguments) - set(known.get("properties", {})))):
            raise refused(f"InvalidInput: {name} takes no argument {extra[0]!r}", "Leave it out and call again.")
        try:
            return await super().call_tool(name, arguments, context)
        except UnexpectedToolError as error:
            raise UnexpectedToolError(
                f"{name} failed inside this server. Report it to a person; its log on stderr says more."
            ) from error.__cause__
        except ToolError as error:
            if isinstance(error.__cause__, ValidationError):
                raise misfit(error.__cause__) from error.__cause__
            raise ToolError(one_line(str(error).removeprefix(f"Error executing tool {name}: "))) from error


def station_server(
    station: AsyncClient, keeper: Keeper, *, auth: AuthSettings | None = None, verifier: TokenVerifier | None = None
) -> CalyxServer:
    """The server; its lifespan beats for the claims and gives them back at the end."""

    @asynccontextmanager
    async def lifespan(_: MCPServer[None]) -> AsyncIterator[None]:
        async with keeper.running():
            yield

    tools = []
    for call, title, hints in Tools(station, keeper).each():
        tool = Tool.from_function(call, title=title, annotations=hints)
        tool.description = one_line(tool.description)
        tool.parameters["additionalProperties"] = False
        tools.append(tool)
    server = CalyxServer(
        name="station-calyx",
        title="Station Calyx",
        version=_version(),
        instructions=INSTRUCTIONS,
        tools=tools,
        lifespan=lifespan,
        auth=auth,
        token_verifier=verifier,
        log_level="WARNING",
        subscriptions=False,
    )
    _add_resources(server, station, keeper)
    return server


def _add_resources(server: CalyxServer, station: AsyncClient, keeper: Keeper) -> None:
    @server.resource(
        "calyx://status", title="Station status", mime_type="application/json", description="What the tool status says."
    )
    async def status() -> str:
        try:
            return (await Tools(station, keeper).status()).model_dump_json()
        except ToolError as error:
            raise ResourceError(str(error)) from error

    @server.resource(
        "calyx://tasks/{task_id}/manifest",
        title="A claimed task's manifest",
        mime_type="application/json",
        description="The SVF 2.0 manifest, as the station signed it, of a task that is claimed through this server.",
    )
    async def manifest(task_id: str) -> dict[str, Any]:
        found = keeper.find(task_id)
        if isinstance(found, Order):
            raise ResourceNotFoundError(f"no manifest of {task_id}: {found.reason}; only claimed tasks have one here")
        return found.manifest


def _version() -> str:
    try:
        return version("station-calyx")
    except PackageNotFoundError:
        return "unknown"


def quiet_logs() -> None:
    """Warnings on stderr in one plain form, before the SDK installs its own handler. Nothing of a call's content."""
    logging.basicConfig(level=logging.WARNING, format="calyx mcp: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
