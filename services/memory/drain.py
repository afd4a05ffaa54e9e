"""Who embeds what is pending: threads beside the calls, at a lower priority than recall, and not during a burst."""

import os
import threading
from collections.abc import Callable, Sequence

from chassis.clock import Clock
from chassis.periodic import Periodic

RETRY_SECONDS = 5.0
"""After a failure, or when nobody wakes it."""

NICE = 10
WINDOW_SECONDS = 0.5
BURST_ROWS = 20
"""More rows than this in a window are a burst: embedding beside it makes it several times slower on busy cores."""

LONGEST_BURST_SECONDS = 20.0
"""After so long embedding goes on beside a burst."""


class Drain:
    """`catch_up` embeds a batch and returns how many; 0 ends the round. Its failure is logged and tried again later."""

    def __init__(self, threads: int, clock: Clock) -> None:
        self._threads, self._clock, self._more = threads, clock, threading.Event()
        self._lowered = threading.local()
        self._lock = threading.Lock()
        self._window = self._began = -WINDOW_SECONDS
        self._before = self._rows = 0  # rows in the window before and in this one

    def wake(self, rows: int) -> None:
        """So many rows were recorded."""
        with self._lock:
            now = self._clock.monotonic()
            if now - self._window >= WINDOW_SECONDS:
                if self._rows < BURST_ROWS or now - self._window >= 2 * WINDOW_SECONDS:
                    self._began = now  # no burst in the window before: if this is one, it begins here
                    self._rows = 0
                self._window, self._before, self._rows = now, self._rows, 0
            self._rows += rows
        self._more.set()

    @property
    def bursting(self) -> bool:
        """Embedding had better wait."""
        with self._lock:
            now = self._clock.monotonic()
            return (
                max(self._before, self._rows) > BURST_ROWS
                and now - self._window < 2 * WINDOW_SECONDS
                and now - self._began < LONGEST_BURST_SECONDS
            )

    def periodics(self, catch_up: Callable[[], int]) -> Sequence[Periodic]:
        """One for each thread."""

        def step() -> None:
            self._step_aside()
            if not self.bursting and catch_up():
                self._more.set()  # for itself and for the other: a step stays short, so that stopping is quick

        return [
            Periodic(name=f"memory-embed-{number}", every_seconds=RETRY_SECONDS, step=step, rest=self._rest)
            for number in range(1, self._threads + 1)
        ]

    def _rest(self, seconds: float) -> bool:
        if self.bursting:
            self._clock.wait(min(seconds, WINDOW_SECONDS))
            return False
        if not self._more.wait(seconds):
            return False
        self._more.clear()
        return True

    def _step_aside(self) -> None:
        if not getattr(self._lowered, "done", False):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)  # Linux: of this thread alone
            self._lowered.done = True
