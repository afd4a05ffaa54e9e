"""Every error the station raises on purpose, and the one table between them and gRPC status codes.

A message says what happened, what was kept and what to do next. Errors are raised in the domain, cross the
wire as status + `google.rpc.ErrorInfo`, and are raised again, as the same type, at the caller.
"""

from typing import ClassVar


class CalyxError(Exception):
    """Something the station knows how to explain. `detail` holds short machine-readable facts."""

    status: ClassVar[str] = "INTERNAL"

    def __init__(self, message: str, **detail: str) -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail

    @property
    def reason(self) -> str:
        """The type's name on the wire (ErrorInfo.reason)."""
        return type(self).__name__


class InvalidInput(CalyxError):
    """The request can't be right as it is, whatever the station's state."""

    status = "INVALID_ARGUMENT"


class NotFound(CalyxError):
    """What the request names is not there."""

    status = "NOT_FOUND"


class Duplicate(CalyxError):
    """It was already there; nothing was changed. Repeating a submit is therefore safe."""

    status = "ALREADY_EXISTS"


class Refused(CalyxError):
    """The state does not allow it now: wrong level, kill switch, drift, a gate that says no."""

    status = "FAILED_PRECONDITION"


class Drifted(Refused):
    """The world no longer matches what was planned or journaled; nothing was touched."""


class LeaseLost(CalyxError):
    """Another holder has the task or target by now: the fencing epoch has moved on."""

    status = "ABORTED"


class AlreadyAcked(CalyxError):
    """The task has its one ack record; this second answer was not recorded."""

    status = "ALREADY_EXISTS"


class Unauthenticated(CalyxError):
    """No token, or one that belongs to nobody."""

    status = "UNAUTHENTICATED"


class PermissionDenied(CalyxError):
    """A known caller asks for what its token does not cover."""

    status = "PERMISSION_DENIED"


class BadSignature(PermissionDenied):
    """A signature that does not verify, or none where one is required."""


class ResourceExhausted(CalyxError):
    """A queue, budget or disk is full. Nothing was half done; try again later."""

    status = "RESOURCE_EXHAUSTED"


class Unavailable(CalyxError):
    """The service or something it depends on can't be reached now."""

    status = "UNAVAILABLE"


class DeadlineExceeded(CalyxError):
    """No answer in time; the outcome is unknown unless the call is idempotent."""

    status = "DEADLINE_EXCEEDED"


class Damaged(CalyxError):
    """Stored data fails its check. It was set aside, not used."""

    status = "DATA_LOSS"


class Internal(CalyxError):
    """A fault of the station's own; details are in the service's log under the error id."""

    status = "INTERNAL"


def _all_kinds(kind: type[CalyxError]) -> dict[str, type[CalyxError]]:
    kinds = {kind.__name__: kind}
    for sub in kind.__subclasses__():
        kinds |= _all_kinds(sub)
    return kinds


KINDS: dict[str, type[CalyxError]] = _all_kinds(CalyxError)
"""ErrorInfo.reason → type; the way back from the wire."""

FALLBACK: dict[str, type[CalyxError]] = {
    "INVALID_ARGUMENT": InvalidInput,
    "OUT_OF_RANGE": InvalidInput,
    "NOT_FOUND": NotFound,
    "ALREADY_EXISTS": Duplicate,
    "FAILED_PRECONDITION": Refused,
    "ABORTED": LeaseLost,
    "UNAUTHENTICATED": Unauthenticated,
    "PERMISSION_DENIED": PermissionDenied,
    "RESOURCE_EXHAUSTED": ResourceExhausted,
    "UNAVAILABLE": Unavailable,
    "CANCELLED": Unavailable,
    "DEADLINE_EXCEEDED": DeadlineExceeded,
    "DATA_LOSS": Damaged,
    "INTERNAL": Internal,
    "UNKNOWN": Internal,
    "UNIMPLEMENTED": Internal,
}
"""Status → type, for answers that carry no ErrorInfo of ours (a proxy, the gRPC library itself)."""
