"""How a model's client reaches the server: its own stdin and stdout, or HTTP on loopback with the agent's token."""

import hmac
import signal
import socket
import sys
from contextlib import AsyncExitStack

import anyio
import uvicorn
from mcp.server.auth.provider import AccessToken
from mcp.server.auth.settings import AuthSettings
from mcp.server.mcpserver import MCPServer
from mcp.server.transport_security import TransportSecuritySettings
from starlette.applications import Starlette

from calyx_agent import AsyncClient
from chassis.errors import InvalidInput
from chassis.ids import RandomIds
from cli.mcp.keeper import Keeper
from cli.mcp.server import quiet_logs, station_server

PATH = "/mcp"
MAX_BODY_BYTES = 1024 * 1024
LOOPBACK = ("127.0.0.1", "localhost", "::1")
GRACE_SECONDS = 3


class OneToken:
    """Lets in who holds the agent's token; there is nobody else on this server."""

    def __init__(self, token: str) -> None:
        self._token = token.encode()

    async def verify_token(self, token: str) -> AccessToken | None:
        if not hmac.compare_digest(token.encode(), self._token):
            return None
        return AccessToken(token="", client_id="agent", scopes=[])


def http_auth() -> AuthSettings:
    """Bearer only. There is no authorization server, so none is advertised; the issuer is never used."""
    return AuthSettings.model_validate({"issuer_url": "http://127.0.0.1", "resource_server_url": None})


def http_app(server: MCPServer[None], port: int) -> Starlette:
    """The streamable HTTP transport, for Host and Origin of this very port on loopback only."""
    hosts = [f"{host}:{port}" for host in ("127.0.0.1", "localhost", "[::1]")]
    return server.streamable_http_app(
        streamable_http_path=PATH,
        max_request_body_size=MAX_BODY_BYTES,
        transport_security=TransportSecuritySettings(
            enable_dns_rebinding_protection=True,
            allowed_hosts=hosts,
            allowed_origins=[f"http://{host}" for host in hosts],
        ),
    )


def loopback(address: str) -> tuple[str, int]:
    """HOST:PORT, on loopback only. Raises InvalidInput."""
    host, colon, port = address.rpartition(":")
    host = host.strip("[]")
    if not colon or not port.isdigit() or int(port) > 65535:
        raise InvalidInput(f"--http takes HOST:PORT, for example 127.0.0.1:4041, not {address!r}")
    if host not in LOOPBACK:
        raise InvalidInput(f"--http binds to loopback only (127.0.0.1, ::1, localhost), not to {host!r}")
    return host, int(port)


def session_id() -> str:
    """Tells this server's claims from those of the agent's other processes."""
    return RandomIds().new("mcp")[:40]


def serve(url: str | None, token: str, http: tuple[str, int] | None) -> None:
    """Run until the client goes away or a signal comes; then give back what is not acked."""
    quiet_logs()
    anyio.run(_stdio, url, token) if http is None else anyio.run(_http, url, token, *http)


async def _stdio(url: str | None, token: str) -> None:
    async with AsyncExitStack() as stack:
        station = await stack.enter_async_context(AsyncClient(url, token))
        keeper = Keeper(station, session_id())
        server = station_server(station, keeper)
        group = await stack.enter_async_context(anyio.create_task_group())
        group.start_soon(_obey_signals, keeper)
        await server.run_stdio_async()
        group.cancel_scope.cancel()


async def _obey_signals(keeper: Keeper) -> None:
    """A thread waits in a read of stdin that nothing interrupts: give back first, then die of the signal."""
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for number in signals:
            await keeper.give_back_all("the MCP server was stopped before the task was acked")
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)


async def _http(url: str | None, token: str, host: str, port: int) -> None:
    family = socket.AF_INET6 if host == "::1" else socket.AF_INET
    with socket.create_server((host, port), family=family) as listener:
        bound = listener.getsockname()[1]
        async with AsyncClient(url, token) as station:
            server = station_server(station, Keeper(station, session_id()), auth=http_auth(), verifier=OneToken(token))
            config = uvicorn.Config(
                http_app(server, bound), log_config=None, access_log=False, timeout_graceful_shutdown=GRACE_SECONDS
            )
            shown = f"[{host}]" if ":" in host else host
            print(f"calyx mcp: http://{shown}:{bound}{PATH}", file=sys.stderr, flush=True)
            await uvicorn.Server(config).serve(sockets=[listener])
