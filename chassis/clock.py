"""Time as a port, so that a day of the station can pass in a second."""

import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """Where every service takes the time from.

    `now` is aware UTC and may jump; `monotonic` is seconds that only grow and is what intervals,
    leases and ages are measured on. `wait` blocks for a time or until woken, and says whether it was woken.
    """

    def now(self) -> datetime: ...
    def monotonic(self) -> float: ...
    def wait(self, seconds: float, wake: threading.Event | None = None) -> bool: ...


class SystemClock:
    """The machine's own clocks."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    def wait(self, seconds: float, wake: threading.Event | None = None) -> bool:
        if wake is None:
            time.sleep(max(0.0, seconds))
            return False
        return wake.wait(max(0.0, seconds))


class VirtualClock:
    """A clock that moves only when told to; `wait` moves it and returns at once."""

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        if start.tzinfo is None:
            raise ValueError("a virtual clock starts at an aware time")
        self._start = start.astimezone(UTC)
        self._elapsed = 0.0

    def now(self) -> datetime:
        return self._start + timedelta(seconds=self._elapsed)

    def monotonic(self) -> float:
        return self._elapsed

    def wait(self, seconds: float, wake: threading.Event | None = None) -> bool:
        if wake is not None and wake.is_set():
            return True
        self.advance(max(0.0, seconds))
        return False

    def advance(self, seconds: float) -> None:
        """Move forward by `seconds` ≥ 0."""
        if seconds < 0:
            raise ValueError("time does not run backwards")
        self._elapsed += seconds


def iso(moment: datetime) -> str:
    """ISO 8601 in UTC with microseconds and `Z`, the one form every record uses."""
    if moment.tzinfo is None:
        raise ValueError("a naive time has no place in a record")
    if moment.tzinfo is UTC:
        return moment.isoformat(timespec="microseconds")[:-6] + "Z"
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def parse_iso(text: str) -> datetime:
    """The aware UTC time written by `iso` (any ISO 8601 with an offset is read)."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} has no UTC offset")
    return moment.astimezone(UTC)
