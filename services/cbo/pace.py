"""How often one caller may do one thing: a bucket that fills up again."""

import math
import threading

from chassis.clock import Clock
from chassis.errors import ResourceExhausted


class Pace:
    """`burst` at once, then `per_second`. Thread-safe; a bucket that is full again is forgotten."""

    def __init__(self, clock: Clock, *, burst: float, per_second: float) -> None:
        self._clock, self._burst, self._rate = clock, burst, per_second
        self._lock = threading.Lock()
        self._spent: dict[str, tuple[float, float]] = {}

    def take(self, name: str, what: str) -> None:
        """Raises ResourceExhausted, which says when to come again."""
        with self._lock:
            now = self._clock.monotonic()
            spent, at = self._spent.get(name, (0.0, now))
            spent = max(0.0, spent - (now - at) * self._rate)
            if spent + 1.0 > self._burst:
                wait = math.ceil((spent + 1.0 - self._burst) / self._rate)
                raise ResourceExhausted(f"too many {what} of {name}; nothing was taken in, try again in {wait} s")
            full = [each for each, (used, since) in self._spent.items() if used <= (now - since) * self._rate]
            for each in full:
                del self._spent[each]
            self._spent[name] = (spent + 1.0, now)
