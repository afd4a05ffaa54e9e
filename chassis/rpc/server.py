"""The one way a service is served: metrics, error mapping, deadlines, auth, health, reflection, graceful stop."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

import grpc
import prometheus_client
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from chassis import logging as calyx_logging
from chassis.clock import Clock, iso
from chassis.errors import CalyxError
from chassis.executor import Executor, ThreadExecutor
from chassis.periodic import Periodic, PeriodicThreads
from chassis.rpc.auth import Callers, Joined
from chassis.rpc.gate import Gate
from chassis.settings import ServiceSettings, StationSettings, host_port

log = structlog.get_logger(__name__)

BUILD = prometheus_client.Gauge("calyx_build_info", "Always 1; says what runs.", ["service", "version"])
CHECK_EVERY_SECONDS = 5.0
CHECK_TIMEOUT_SECONDS = 4.0
MAX_MESSAGE_BYTES = 4 * 1024 * 1024
MAX_PENDING = 20_000
"""Calls that may wait for Python to take them up. gRPC's own 1,000 ends a burst as CANCELLED, which says nothing."""

MAX_PENDING_SECONDS = 120
"""The same for gRPC's own 30 s: until then every caller gets an answer, or its own deadline ends the call."""

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@dataclass(frozen=True)
class Served:
    """One gRPC service: its full name, the generated `add_…_to_server`, the servicer, and method → callers.

    A method that `allow` does not list is refused for everybody.
    """

    full_name: str
    add: Callable[[Any, Any], None]
    servicer: object
    allow: Mapping[str, Set[str]]


class _Health(health.aio.HealthServicer):
    """The standard health service; its answers also say which process gives them."""

    def __init__(self, about: tuple[tuple[str, str], ...]) -> None:
        super().__init__()
        self._about = about

    async def Check(self, request: Any, context: Any) -> Any:
        await context.send_initial_metadata(self._about)
        return await super().Check(request, context)


@dataclass
class RunningServer:
    """A server that answers on `port`."""

    port: int
    _server: grpc.aio.Server
    _health: _Health
    _names: tuple[str, ...]
    _checks: Mapping[str, Callable[[], None]]
    _executor: Executor
    _grace_seconds: float
    _failing: dict[str, str] = field(default_factory=dict)
    _watch: asyncio.Task[None] | None = None
    _stopping: bool = False

    async def check_health(self) -> bool:
        """Run every check once and set the health status of all services accordingly."""
        failing: dict[str, str] = {}
        for name, check in self._checks.items():
            try:
                await asyncio.wait_for(self._executor.run(check), CHECK_TIMEOUT_SECONDS)
            except TimeoutError:
                failing[name] = f"no answer within {CHECK_TIMEOUT_SECONDS} s"
            except Exception as error:  # a check says no by raising anything; it is logged below and shows as health
                failing[name] = f"{type(error).__name__}: {error}"
        if failing != self._failing:
            for name in sorted({*failing, *self._failing}):
                if name in failing:
                    log.error("health check failed", check=name, why=failing[name])
                else:
                    log.info("health check passes again", check=name)
        self._failing = failing
        for full_name in ("", *self._names):
            await self._health.set(full_name, NOT_SERVING if failing else SERVING)
        return not failing

    async def keep_checking(self) -> None:
        while True:
            await asyncio.sleep(CHECK_EVERY_SECONDS)
            await self.check_health()

    async def stop(self) -> None:
        """Say NOT_SERVING, take no new calls, let running ones finish within the grace, then end. Idempotent."""
        if self._stopping:
            return
        self._stopping = True
        if self._watch is not None:
            self._watch.cancel()
        await self._health.enter_graceful_shutdown()
        await self._server.stop(self._grace_seconds)


async def start_server(
    *,
    served: Sequence[Served],
    callers: Callers,
    checks: Mapping[str, Callable[[], None]],
    executor: Executor,
    listen: str = "127.0.0.1:0",
    service: str = "test",
    about: Mapping[str, str] | None = None,
    grace_seconds: float = 5.0,
    max_message_bytes: int = MAX_MESSAGE_BYTES,
) -> RunningServer:
    """Build and start a server. Raises OSError when the address can't be bound.

    Checks run before it says SERVING and every 5 s after; one that raises (or hangs) turns health to NOT_SERVING.
    `about` goes out as metadata of health answers (calyx-version, calyx-pid, calyx-started).
    """
    server = grpc.aio.server(
        options=[
            ("grpc.so_reuseport", 0),  # a busy port is an error, not a lottery between two processes
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),  # read before anybody knows whose it is
            ("grpc.max_send_message_length", max_message_bytes),
            ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
            ("grpc.server.max_pending_requests", MAX_PENDING),
            ("grpc.server.max_pending_requests_hard_limit", MAX_PENDING),
            ("grpc.server_max_unrequested_time_in_server", MAX_PENDING_SECONDS),
        ],
    )
    gate = Gate(server, service, callers, {each.full_name: each.allow for each in served})
    for each in served:
        each.add(each.servicer, gate)  # health and reflection below need neither token nor deadline
    health_servicer = _Health(tuple((about or {}).items()))
    health_pb2_grpc.add_HealthServicer_to_server(health_servicer, server)
    names = tuple(each.full_name for each in served)
    for full_name in ("", *names):
        await health_servicer.set(full_name, NOT_SERVING)
    reflection.enable_server_reflection((*names, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    try:
        port = server.add_insecure_port(listen)
    except RuntimeError as error:
        raise OSError(f"can't listen on {listen}: the port is taken or the address is not ours") from error
    running = RunningServer(
        port=port,
        _server=server,
        _health=health_servicer,
        _names=names,
        _checks=checks,
        _executor=executor,
        _grace_seconds=grace_seconds,
    )
    await server.start()
    await running.check_health()
    running._watch = asyncio.create_task(running.keep_checking())
    return running


def run_service(
    *,
    service: str,
    version: str,
    station: StationSettings,
    settings: ServiceSettings,
    served: Sequence[Served],
    checks: Mapping[str, Callable[[], None]],
    periodics: Sequence[Periodic] = (),
    clock: Clock,
    executor: ThreadExecutor,
    on_stop: Callable[[], None] | None = None,
    extra: Callable[[], Awaitable[None]] | None = None,
    max_message_bytes: int = MAX_MESSAGE_BYTES,
    joined: Joined | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT. A port that can't be bound ends the process with status 1 and one line.

    `extra` runs beside the server and is cancelled at stop; if it ends or fails by itself, the service stops too.
    At stop: health NOT_SERVING, running calls finish, periodics end, `on_stop`, executor.
    """
    layout = station.layout
    calyx_logging.configure(service, station.log_level, station.log_format, layout.logs / f"{service}.log")
    try:
        callers = Callers.load(station.secrets, joined)
        failed = asyncio.run(
            _serve(
                service,
                version,
                settings,
                served,
                callers,
                checks,
                periodics,
                clock,
                executor,
                extra,
                max_message_bytes,
            )
        )
    except (OSError, CalyxError) as error:
        log.error("can't start", why=str(error))
        print(f"{service}: can't start: {error}", file=sys.stderr)  # noqa: T201 — the one line a person sees
        raise SystemExit(1) from error
    finally:
        if on_stop is not None:
            on_stop()
        executor.close()
    log.info("stopped")
    if failed:
        raise SystemExit(1)


async def _serve(
    service: str,
    version: str,
    settings: ServiceSettings,
    served: Sequence[Served],
    callers: Callers,
    checks: Mapping[str, Callable[[], None]],
    periodics: Sequence[Periodic],
    clock: Clock,
    executor: ThreadExecutor,
    extra: Callable[[], Awaitable[None]] | None,
    max_message_bytes: int,
) -> bool:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stop.set)
    metrics = _serve_metrics(settings.metrics_listen)
    BUILD.labels(service, version).set(1)
    running = await start_server(
        served=served,
        callers=callers,
        checks=checks,
        executor=executor,
        listen=settings.listen,
        service=service,
        about={"calyx-version": version, "calyx-pid": str(os.getpid()), "calyx-started": iso(clock.now())},
        grace_seconds=settings.grace_seconds,
        max_message_bytes=max_message_bytes,
    )
    threads = PeriodicThreads(periodics, clock)
    threads.start()
    log.info("serving", version=version, port=running.port, listen=settings.listen)
    beside = asyncio.ensure_future(_beside(extra)) if extra is not None else None
    if beside is not None:
        beside.add_done_callback(lambda _: stop.set())
    await stop.wait()
    log.info("stopping", grace_seconds=settings.grace_seconds)
    failed = beside is not None and beside.done()
    if beside is not None:
        beside.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await beside
    await running.stop()
    await asyncio.to_thread(threads.stop, settings.grace_seconds)
    metrics()
    return failed


async def _beside(extra: Callable[[], Awaitable[None]]) -> None:
    try:
        await extra()
    except asyncio.CancelledError:
        raise
    except Exception:
        log.exception("what runs beside the server failed; the service stops")


def _serve_metrics(listen: str) -> Callable[[], None]:
    host, port = host_port(listen)
    try:
        server, _thread = prometheus_client.start_http_server(port, addr=host)
    except OSError as error:
        raise OSError(f"can't serve metrics on {listen}: {error.strerror or error}") from error

    def close() -> None:
        server.shutdown()
        server.server_close()

    return close
