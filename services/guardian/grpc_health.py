"""Health over gRPC: the standard health service of each service, which needs no token."""

import threading
from collections.abc import Mapping

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from chassis.clock import parse_iso
from services.guardian.health import Probe

OPTIONS = [
    # Without these the channel itself waits up to two minutes before it tries a restarted service again.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.enable_retries", 0),
]
SERVING = HealthCheckResponse.SERVING


class GrpcHealthProbe:
    """One channel per service, kept open."""

    def __init__(self, endpoints: Mapping[str, str]) -> None:
        self._endpoints = dict(endpoints)
        self._lock = threading.Lock()
        self._checks: dict[str, grpc.UnaryUnaryMultiCallable[HealthCheckRequest, HealthCheckResponse]] = {}
        self._channels: list[grpc.Channel] = []

    def probe(self, service: str, patience_seconds: float) -> Probe:
        check = self._check(service)
        try:
            answer, call = check.with_call(HealthCheckRequest(), timeout=patience_seconds)
        except grpc.RpcError as error:
            # Every RpcError of a sync call is also a Call; the type does not say so.
            code, details = error.code(), error.details()
            if code is grpc.StatusCode.DEADLINE_EXCEEDED:
                details = f"no answer within {patience_seconds:g} s"
            return Probe(service=service, state="unreachable", detail=str(details)[:300])
        about = {key: value for key, value in call.initial_metadata() or () if isinstance(value, str)}
        serving = answer.status == SERVING
        return Probe(
            service=service,
            state="serving" if serving else "not_serving",
            version=about.get("calyx-version", ""),
            pid=_number(about.get("calyx-pid")),
            started_at=parse_iso(about["calyx-started"]) if "calyx-started" in about else None,
            detail="" if serving else "its own checks fail: see its log",
        )

    def close(self) -> None:
        with self._lock:
            for channel in self._channels:
                channel.close()
            self._channels.clear()
            self._checks.clear()

    def _check(self, service: str) -> "grpc.UnaryUnaryMultiCallable[HealthCheckRequest, HealthCheckResponse]":
        with self._lock:
            if service not in self._checks:
                channel = grpc.insecure_channel(self._endpoints[service], options=OPTIONS)
                self._channels.append(channel)
                # The generated health stub is untyped; the method itself is one line.
                self._checks[service] = channel.unary_unary(
                    "/grpc.health.v1.Health/Check",
                    request_serializer=HealthCheckRequest.SerializeToString,
                    response_deserializer=HealthCheckResponse.FromString,
                )
            return self._checks[service]


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdigit() else None
