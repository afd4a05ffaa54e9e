"""The deadline of the request being served, so that calls made on its behalf don't outlive it."""

import time
from contextvars import ContextVar, Token

_ends: ContextVar[float | None] = ContextVar("calyx_deadline", default=None)


def set_remaining(seconds: float | None) -> Token[float | None]:
    """Note how long the caller will wait; None: it did not say."""
    return _ends.set(None if seconds is None else time.monotonic() + seconds)


def remaining() -> float | None:
    """Seconds the caller of the current request still waits; None outside a request."""
    ends = _ends.get()
    return None if ends is None else ends - time.monotonic()
