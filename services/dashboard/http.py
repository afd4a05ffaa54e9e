"""uvicorn beside the gRPC server, in the same event loop; stops when told to, streams included."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp

from chassis.settings import host_port

CONNECTIONS = 320
"""More than event streams (32) and waiting agents (128) can take, so that a person and a heartbeat always get in."""


class Server(uvicorn.Server):
    """Signals belong to the service, not to uvicorn."""

    def install_signal_handlers(self) -> None:
        return

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def bind(listen: str) -> socket.socket:
    """A listening socket, before anything else starts. Raises OSError with the address when it is taken."""
    host, port = host_port(listen)
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named, asyncio sets TCP_NODELAY; else each answer waits 40 ms for the other side's delayed ACK.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(CONNECTIONS)
    except OSError as error:
        listener.close()
        raise OSError(f"can't serve the page on {listen}: {error.strerror}; choose another port with --port") from error
    return listener


async def serve(app: ASGIApp, listener: socket.socket, stopping: asyncio.Event, grace_seconds: float) -> None:
    """Serve until cancelled; then end the event streams and let running requests finish within the grace."""
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="off",
        ws="none",
        http="h11",
        server_header=False,
        proxy_headers=False,
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=max(1, round(grace_seconds)),
    )
    server = Server(config)
    running = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        await asyncio.shield(running)
    finally:
        stopping.set()
        server.should_exit = True
        await running
