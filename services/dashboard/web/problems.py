"""Errors as JSON: {"error", "reason", "hint"} with the HTTP status that fits."""

from chassis.canonical import Json
from chassis.errors import CalyxError

HTTP_STATUS = {
    "INVALID_ARGUMENT": 400,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "FAILED_PRECONDITION": 409,
    "ABORTED": 409,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "RESOURCE_EXHAUSTED": 429,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
    "DATA_LOSS": 500,
    "INTERNAL": 500,
}
"""chassis.errors' gRPC status → HTTP status."""

_HINTS = {
    "INVALID_ARGUMENT": "correct the request; /api/openapi.json describes each one",
    "NOT_FOUND": "look at the list it should be in; it may have been cleaned up",
    "ALREADY_EXISTS": "nothing was changed; look at what is there",
    "FAILED_PRECONDITION": "nothing was changed; look at the task or the kill switch, then try again",
    "ABORTED": "nothing was changed; try again",
    "UNAUTHENTICATED": "run `calyx login-link` and open the link in this browser",
    "PERMISSION_DENIED": "open the page under its own address (127.0.0.1 or localhost) and act from there",
    "RESOURCE_EXHAUSTED": "try again later",
    "UNAVAILABLE": "`calyx status` shows which service is down; the guardian restarts it by itself",
    "DEADLINE_EXCEEDED": "nobody knows yet whether it was done: look before you repeat it",
    "DATA_LOSS": "`calyx doctor` says what is damaged and what was kept",
    "INTERNAL": "the details are in logs/dashboard.log",
}


def problem(error: CalyxError) -> tuple[int, Json]:
    """(HTTP status, body)."""
    body = {"error": error.reason, "reason": error.message, "hint": _HINTS[error.status]}
    return HTTP_STATUS[error.status], body
