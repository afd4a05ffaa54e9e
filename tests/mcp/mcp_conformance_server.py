"""The servers that the conformance suite is run against, each on a free port of loopback, through our own transport.

    python tests/mcp/mcp_conformance_server.py station|everything

`station` is `calyx mcp --http` itself over a fake station. The suite sends no token, so the token is added here, in
front of everything else; that a request without one is refused is tested elsewhere.
"""

import socket
import sys

import anyio
import uvicorn
from mcp.server.mcpserver import MCPServer
from mcp_everything import everything
from mcp_fake_station import TOKEN, FakeStation, InProcess
from starlette.types import ASGIApp, Receive, Scope, Send

from cli.mcp.keeper import Keeper
from cli.mcp.server import station_server
from cli.mcp.transports import OneToken, http_app, http_auth


def with_token(app: ASGIApp) -> ASGIApp:
    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope = {**scope, "headers": [*scope["headers"], (b"authorization", f"Bearer {TOKEN}".encode())]}
        await app(scope, receive, send)

    return call


def station() -> MCPServer[None]:
    fake = FakeStation()
    fake.add("t-1")
    over = InProcess(fake)
    return station_server(over, Keeper(over, "mcp-conformance"), auth=http_auth(), verifier=OneToken(TOKEN))


async def main(which: str) -> None:
    server = station() if which == "station" else everything(http_auth(), OneToken(TOKEN))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        print(f"http://127.0.0.1:{port}/mcp", flush=True)
        app = with_token(http_app(server, port))
        await uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False)).serve(sockets=[listener])


if __name__ == "__main__":
    anyio.run(main, sys.argv[1])
