"""The two-way table between errors and gRPC status + `google.rpc.ErrorInfo`."""

import secrets
from dataclasses import dataclass
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped] # it ships no types

from chassis.errors import FALLBACK, KINDS, CalyxError, Internal

DOMAIN = "calyx.station"
DETAILS_KEY = "grpc-status-details-bin"
MAX_MESSAGE_CHARS = 1000
MAX_DETAIL_CHARS = 2000
"""A status travels in trailers, which are limited to 8 KiB altogether."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WireError:
    """An error as it crosses the wire."""

    code: grpc.StatusCode
    message: str
    details: bytes


def to_wire(error: BaseException) -> WireError:
    """Encode an error. What nobody foresaw becomes INTERNAL with a fixed message and an id that the log explains."""
    if not isinstance(error, CalyxError):
        error = _unforeseen(error)
    code = grpc.StatusCode[error.status]
    message = _short(error.message, MAX_MESSAGE_CHARS)
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN)
    room = MAX_DETAIL_CHARS
    for key, value in error.detail.items():
        value = _short(str(value), room)
        room -= len(key) + len(value)
        if room <= 0:
            break
        info.metadata[key] = value
    status = status_pb2.Status(code=code.value[0], message=message)  # value is (number, name)
    status.details.add().Pack(info)
    return WireError(code=code, message=message, details=status.SerializeToString())


def from_wire(wire: WireError) -> CalyxError:
    """Decode into the type that was raised; by status alone where the answer carries no ErrorInfo of ours."""
    status = status_pb2.Status()
    try:
        status.ParseFromString(wire.details)
    except Exception:  # a proxy may put anything there; then the code alone decides
        _log().warning("status details could not be read", code=wire.code.name)
        status.Clear()
    for packed in status.details:
        info = error_details_pb2.ErrorInfo()
        if packed.Unpack(info) and info.domain == DOMAIN and info.reason in KINDS:
            error = KINDS[info.reason](status.message)
            error.detail = dict(info.metadata)
            return error
    return FALLBACK.get(wire.code.name, Internal)(wire.message or wire.code.name)


def from_rpc_error(error: grpc.RpcError) -> CalyxError:
    """The CalyxError a failed call stands for."""
    if not isinstance(error, grpc.Call):
        return Internal(f"the call failed without a status: {type(error).__name__}")
    trailers = dict(error.trailing_metadata() or ())
    details = trailers.get(DETAILS_KEY, b"")
    return from_wire(
        WireError(
            code=error.code(),
            message=error.details() or "",
            details=details if isinstance(details, bytes) else b"",
        )
    )


def _unforeseen(error: BaseException) -> Internal:
    error_id = "err-" + secrets.token_hex(6)
    _log().error("unforeseen error", error_id=error_id, exc_info=error)
    return Internal(f"the service failed on this request; its log explains {error_id}", error_id=error_id)


def _log() -> Any:
    """Loaded when there is something to say: a command starts without it."""
    import structlog

    return structlog.get_logger(__name__)


def _short(text: str, room: int) -> str:
    return text if len(text) <= room else text[: max(0, room - 1)] + "…"
