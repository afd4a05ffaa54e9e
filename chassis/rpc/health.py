"""Asking a service from outside whether it serves, and which process says so."""

from dataclasses import dataclass
from datetime import datetime

import grpc
from grpc_health.v1 import health_pb2

from chassis.clock import parse_iso
from chassis.rpc.status import from_rpc_error


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """One answer of grpc.health.v1. Empty or None: the service did not say."""

    serving: bool
    version: str
    pid: int | None
    started_at: datetime | None


def probe_health(address: str, timeout_seconds: float = 2.0) -> Health:
    """Needs no token. Raises Unavailable or DeadlineExceeded when there is no answer."""
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        check = channel.unary_unary(
            f"/{health_pb2.DESCRIPTOR.services_by_name['Health'].full_name}/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        try:
            answer, call = check.with_call(health_pb2.HealthCheckRequest(), timeout=timeout_seconds)
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error
        about = {str(key): str(value) for key, value in call.initial_metadata() or ()}
    pid, started = about.get("calyx-pid", ""), about.get("calyx-started", "")
    return Health(
        serving=answer.status == health_pb2.HealthCheckResponse.SERVING,
        version=about.get("calyx-version", ""),
        pid=int(pid) if pid.isdigit() else None,
        started_at=parse_iso(started) if started else None,
    )
