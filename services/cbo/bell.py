"""Wakes whoever waits for a task to move, in any thread or loop."""

import threading
from collections.abc import Callable


class Bell:
    """Thread-safe. Who listens looks again when it rings, and now and then anyway: a ring is a hint, not a message."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wakes: dict[int, Callable[[], None]] = {}
        self._next = 0

    def listen(self, wake: Callable[[], None]) -> Callable[[], None]:
        """Call `wake`, which must neither block nor raise, at each ring; returns what stops that."""
        with self._lock:
            self._next += 1
            number = self._next
            self._wakes[number] = wake

        def stop() -> None:
            with self._lock:
                self._wakes.pop(number, None)

        return stop

    def ring(self) -> None:
        with self._lock:
            wakes = tuple(self._wakes.values())
        for wake in wakes:
            wake()
