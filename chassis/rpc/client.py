"""Calling other services: token, deadline, retry of what may be repeated, errors as they were raised."""

import random
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import grpc

from chassis.clock import Clock, SystemClock
from chassis.errors import DeadlineExceeded
from chassis.identity import load_token
from chassis.rpc import deadline
from chassis.rpc.auth import SCHEME
from chassis.rpc.status import from_rpc_error

if TYPE_CHECKING:
    from chassis.settings import StationSettings

MAX_MESSAGE_BYTES = 4 * 1024 * 1024
IDEMPOTENT_PREFIXES = ("Get", "List", "Recall", "Probe", "Verify", "Stats", "Record", "Watch")
IDEMPOTENT_NAMES = frozenset({"AmendOutcome", "RebuildIndex", "Admit", "SetKillSwitch", "ReportIncident", "Check"})
"""Repeating these changes nothing more: reads, and writes that carry an id or set a state."""

ATTEMPTS = 5
FIRST_PAUSE_SECONDS = 0.1
"""Pauses double from here, each ×0.5–1.5 at random: up to 1.5 s altogether, enough for a restart on this machine."""


def idempotent(method: str) -> bool:
    """May a call of this method be repeated when nobody knows whether the first one arrived?"""
    return method.startswith(IDEMPOTENT_PREFIXES) or method in IDEMPOTENT_NAMES


class ServiceChannel(grpc.Channel):
    """A channel for generated stubs that raises chassis.errors types. Thread-safe."""

    def __init__(
        self,
        inner: grpc.Channel,
        address: str,
        token: str,
        timeout_seconds: float,
        clock: Clock,
        jitter: Callable[[], float],
    ) -> None:
        self._inner, self.address, self._timeout, self._clock, self._jitter = (
            inner, address, timeout_seconds, clock, jitter,
        )  # fmt: skip
        self._metadata = (("authorization", SCHEME + token),) if token else ()

    def unary_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        inner = self._inner.unary_unary(method, *args, **kwargs)
        attempts = ATTEMPTS if idempotent(method.rsplit("/", 1)[1]) else 1

        def call(request: Any, timeout: float | None = None, metadata: Any = None, **options: Any) -> Any:
            ends = self._clock.monotonic() + _budget(self._timeout if timeout is None else timeout, method)
            headers = (*self._metadata, *(metadata or ()))
            for attempt in range(1, attempts + 1):
                left = ends - self._clock.monotonic()
                try:
                    return inner(request, timeout=max(0.001, left), metadata=headers, **options)
                except grpc.RpcError as error:
                    pause = FIRST_PAUSE_SECONDS * 2 ** (attempt - 1) * (0.5 + self._jitter())
                    again = _unavailable(error) and attempt < attempts and left > pause
                    if not again:
                        raise from_rpc_error(error) from error
                    self._clock.wait(pause)
            raise AssertionError("the last attempt returns or raises")

        return call

    def unary_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        inner = self._inner.unary_stream(method, *args, **kwargs)

        def call(request: Any, timeout: float | None = None, metadata: Any = None, **options: Any) -> "Stream":
            headers = (*self._metadata, *(metadata or ()))
            return Stream(inner(request, timeout=timeout, metadata=headers, **options))

        return call

    def stream_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError("no contract of ours streams requests")

    def stream_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError("no contract of ours streams requests")

    def subscribe(self, callback: Any, try_to_connect: bool | None = False) -> None:
        self._inner.subscribe(callback, try_to_connect=bool(try_to_connect))

    def unsubscribe(self, callback: Any) -> None:
        self._inner.unsubscribe(callback)

    def close(self) -> None:
        self._inner.close()

    def __enter__(self) -> "ServiceChannel":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Stream(Iterator[Any]):
    """Answers of a streaming call; errors are raised as they were at the server. `cancel` ends it."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __next__(self) -> Any:
        try:
            return next(self._inner)
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error

    def cancel(self) -> None:
        self._inner.cancel()


def open_channel(
    address: str,
    token: str,
    *,
    timeout_seconds: float = 5.0,
    max_message_bytes: int = MAX_MESSAGE_BYTES,
    clock: Clock | None = None,
    jitter: Callable[[], float] = random.random,
) -> ServiceChannel:
    """A channel to one service; give it to the generated stub.

    A call without its own timeout gets `timeout_seconds`, and never more than the caller of the request being
    served still waits. UNAVAILABLE is retried for idempotent methods only. It connects by itself, again and again.
    """
    inner = grpc.insecure_channel(
        address,
        options=[
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.min_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 1000),
            ("grpc.keepalive_time_ms", 30_000),
            ("grpc.keepalive_timeout_ms", 5_000),
            ("grpc.enable_http_proxy", 0),  # a proxy in the environment has no business on loopback
            ("grpc.max_receive_message_length", max_message_bytes),
            ("grpc.max_send_message_length", max_message_bytes),
        ],
    )
    return ServiceChannel(inner, address, token, timeout_seconds, clock or SystemClock(), jitter)


def connect(service: str, station: "StationSettings", caller: str, *, timeout_seconds: float = 5.0) -> ServiceChannel:
    """A channel to a service of this station, as `caller`. Raises NotFound when there is no token for it."""
    return open_channel(station.endpoint(service), load_token(station.secrets, caller), timeout_seconds=timeout_seconds)


def _budget(timeout: float, method: str) -> float:
    left = deadline.remaining()
    budget = timeout if left is None else min(timeout, left)
    if budget <= 0:
        raise DeadlineExceeded(f"no time left for {method}: the caller's deadline has passed; nothing was sent")
    return budget


def _unavailable(error: grpc.RpcError) -> bool:
    return isinstance(error, grpc.Call) and error.code() is grpc.StatusCode.UNAVAILABLE
