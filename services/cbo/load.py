"""How busy the machine is, as a class: the context in which a procedure's success is counted."""

import threading
from datetime import datetime, timedelta

from services.cbo.ports import Capacity

BUSY_PERCENT = 70.0
"""Of all cores, from here on: work takes visibly longer, and what has a time limit fails more often."""


class Load:
    """As of the last pulse's reading. Empty where it is unknown or stale: no context then. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._class = ""
        self._until: datetime | None = None

    def take(self, capacity: Capacity | None, now: datetime, interval: timedelta) -> None:
        """What a pulse read; it counts until two more pulses would have read it again."""
        reading = None if capacity is None else capacity.readings.get("cpu_percent")
        percent = reading.value if reading is not None and reading.state == "ok" else None
        with self._lock:
            self._class = load_class(percent)
            self._until = now + 2 * interval

    def of(self, now: datetime) -> str:
        with self._lock:
            return self._class if self._until is not None and now <= self._until else ""


def load_class(cpu_percent: float | None) -> str:
    """calm or busy; empty for unknown."""
    if cpu_percent is None:
        return ""
    return "busy" if cpu_percent >= BUSY_PERCENT else "calm"
