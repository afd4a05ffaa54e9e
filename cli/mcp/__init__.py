"""`calyx mcp`: an outside agent's calls as tools of a language model, over the Model Context Protocol."""

import os
from typing import Annotated

import typer

from chassis.errors import CalyxError, InvalidInput, Unavailable


def register(app: typer.Typer) -> None:
    app.command("mcp")(mcp)


def mcp(
    http: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Serve streamable HTTP there, on loopback, instead of stdio.")
    ] = "",
) -> None:
    """Serve the station's agent API to a language model (MCP), as the agent whose token is in CALYX_AGENT_TOKEN. Example: calyx mcp --http 127.0.0.1:4041"""  # noqa: E501 # the example is split off by the help
    token = os.environ.get("CALYX_AGENT_TOKEN", "")
    if not token:
        raise InvalidInput("CALYX_AGENT_TOKEN is not set; put in it what `calyx agent invite` printed")
    try:
        from cli.mcp.transports import loopback, serve
    except ModuleNotFoundError as error:
        raise _missing(error) from error
    serve(os.environ.get("CALYX_URL"), token, loopback(http) if http else None)


def _missing(error: ModuleNotFoundError) -> CalyxError:
    return Unavailable(f"{error.name} is not installed; install station-calyx with its extra `mcp`")
